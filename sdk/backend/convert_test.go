package backend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

func TestErrorsKeepTheirMeaning(t *testing.T) {
	for _, e := range []*Error{
		Unsupported("no such operator", "node 1", "node 2"),
		OutOfMemory("the graph", 100, 10),
		DeviceLost("fell off"),
		BadState("id %d", 3),
		Invalid("dims", "too %s", "many"),
		{Code: CodeCancelled, Message: "so be it"},
		Internal("oh"),
	} {
		t.Run(string(e.Code), func(t *testing.T) {
			err := ToStatus(e)
			if status.Code(err) == codes.Unknown || status.Code(err) == codes.OK {
				t.Errorf("gRPC code %v", status.Code(err))
			}
			var got *Error
			if !errors.As(FromStatus(err), &got) {
				t.Fatalf("no *Error came back of %v", err)
			}
			if len(got.Nodes) == 0 {
				got.Nodes = nil
			}
			if !reflect.DeepEqual(got, e) {
				t.Errorf("came back as %+v, was %+v", got, e)
			}
			wrapped := ToStatus(fmt.Errorf("while compiling: %w", e))
			if !errors.Is(FromStatus(wrapped), &Error{Code: e.Code}) {
				t.Errorf("wrapped, the code is %v", FromStatus(wrapped))
			}
		})
	}
}

func TestErrorsWithoutCode(t *testing.T) {
	if ToStatus(nil) != nil || FromStatus(nil) != nil || AsError(nil) != nil || CodeOf(nil) != "" {
		t.Error("no error became one")
	}
	for _, c := range []struct {
		err  error
		want Code
	}{
		{errors.New("vendor"), CodeInternal},
		{context.Canceled, CodeCancelled},
		{fmt.Errorf("run: %w", context.DeadlineExceeded), CodeCancelled},
		{errors.New("bad \xff utf-8"), CodeInternal},
	} {
		if got := CodeOf(FromStatus(ToStatus(c.err))); got != c.want {
			t.Errorf("%v: code %s, want %s", c.err, got, c.want)
		}
	}
	gone := status.Error(codes.Unavailable, "connection refused")
	if FromStatus(gone) != gone {
		t.Error("a status without a detail did not stay as it is")
	}
	if got := FromProto(&backendv1.Error{Code: 99, Needed: math.MaxUint64}); got.Code != CodeInternal || got.Needed != math.MaxInt64 {
		t.Errorf("an unknown code is read as %+v", got)
	}
	if got := ToProto(&Error{Code: "NEW", Needed: -1}); got.Code != backendv1.Code_CODE_INTERNAL || got.Needed != 0 {
		t.Errorf("an unknown code is written as %v", got)
	}
}

func TestDeviceRoundTrip(t *testing.T) {
	d := Device{
		ID: "GPU.0", Platform: "cuda", Name: "a card", Kind: Hardware, Health: Unhealthy, Reason: "hot", Remedy: "wait",
		MemoryTotal: 1 << 40, MemoryFree: 1, ElementTypes: []tensor.DType{tensor.Float32, tensor.Int4},
		Features: []string{"fp8"}, Attention: AttentionRows, RuntimeVersion: "13.1", StaticShapes: true, Epoch: 7,
	}
	p, err := DeviceToProto(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DeviceFromProto(p)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, d) {
		t.Errorf("came back as %+v, was %+v", got, d)
	}
}

func TestBadDevices(t *testing.T) {
	for name, change := range map[string]func(*Device, *backendv1.Device){
		"id":          func(d *Device, p *backendv1.Device) { d.ID, p.Id = "", "" },
		"platform":    func(d *Device, p *backendv1.Device) { d.Platform, p.Platform = "", "" },
		"kind":        func(d *Device, p *backendv1.Device) { d.Kind, p.Kind = "virtual", 0 },
		"health":      func(d *Device, p *backendv1.Device) { d.Health, p.Health = "", 77 },
		"reason":      func(d *Device, p *backendv1.Device) { d.Reason, p.Reason = "", "" },
		"attention":   func(d *Device, p *backendv1.Device) { d.Attention, p.Attention = "loose", -1 },
		"memory":      func(d *Device, p *backendv1.Device) { d.MemoryTotal, p.MemoryTotal = -1, 1<<63 },
		"free memory": func(d *Device, p *backendv1.Device) { d.MemoryFree, p.MemoryFree = -1, 1<<63 },
		"element type": func(d *Device, p *backendv1.Device) {
			d.ElementTypes, p.ElementTypes = []tensor.DType{99}, []int32{256 + 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := unhealthy("0")
			p, err := DeviceToProto(d)
			if err != nil {
				t.Fatal(err)
			}
			p.Epoch = 1
			if _, err := DeviceFromProto(p); err != nil {
				t.Fatal(err)
			}
			change(&d, p)
			if _, err := DeviceToProto(d); err == nil {
				t.Errorf("DeviceToProto took %+v", d)
			}
			if _, err := DeviceFromProto(p); err == nil {
				t.Errorf("DeviceFromProto took %v", p)
			}
		})
	}
	if _, err := DeviceFromProto(&backendv1.Device{Id: "0", Platform: "cpu", Kind: 1, Health: 1}); err == nil {
		t.Error("a device without an epoch was taken")
	}
}

func TestOtherRoundTrips(t *testing.T) {
	info := Info{Name: "n", Version: "v", ConfigSchema: "{}", Libraries: []Library{{"l", true, "p", "1", "r", "m"}}}
	if got := InfoFromProto(InfoToProto(info)); !reflect.DeepEqual(got, info) {
		t.Errorf("info came back as %+v, was %+v", got, info)
	}
	a := Assessment{MemoryEstimate: 5, Nodes: []Verdict{Accept, AcceptAs("native"), Refuse(RefusedSize, "too large"), Refuse(RefusedOperator, "")}}
	pa, err := AssessmentToProto(a)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := AssessmentFromProto(pa); err != nil || !reflect.DeepEqual(got, a) {
		t.Errorf("assessment came back as %+v, %v, was %+v", got, err, a)
	}
	e := ExecutableInfo{
		Memory: 9,
		Inputs: []graph.Value{value("a", tensor.Int64, graph.Sym("n"), graph.Known(3), graph.Known(-1)), value("s", tensor.Float32)},
		Outputs: []graph.Value{
			{Name: "y", Type: &graph.Type{Kind: graph.KindTensor, Elem: tensor.Bool}},
			value("w", tensor.String, graph.Sym("n")),
			{Name: "q", Type: &graph.Type{Kind: graph.KindOptional, Of: &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.Int8, graph.Known(2))}}},
		},
	}
	pe, err := ExecutableToProto(e)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ExecutableFromProto(pe); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("executable came back as %+v, %v, was %+v", got, err, e)
	}
}

func TestBadAssessmentsAndExecutables(t *testing.T) {
	if _, err := AssessmentToProto(Assessment{Nodes: []Verdict{{}}}); err == nil {
		t.Error("a refusal without its kind was taken")
	}
	if _, err := AssessmentToProto(Assessment{MemoryEstimate: -1}); err == nil {
		t.Error("negative memory was taken")
	}
	if _, err := AssessmentFromProto(&backendv1.AssessResponse{Nodes: []*backendv1.Verdict{nil}}); err == nil {
		t.Error("an empty verdict was taken")
	}
	pit := graph.TensorType(tensor.Float32)
	for range 40 {
		pit = &graph.Type{Kind: graph.KindSequence, Of: pit}
	}
	deep := &backendv1.ValueInfo{ElementType: 1}
	for range 40 {
		deep = &backendv1.ValueInfo{Container: &backendv1.ValueInfo_Optional{Optional: deep}}
	}
	unranked := graph.Value{Name: "x", Type: &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32}}
	for name, e := range map[string]ExecutableInfo{
		"memory":              {Memory: -1},
		"unranked input":      {Inputs: []graph.Value{unranked}},
		"no type":             {Inputs: []graph.Value{{Name: "x"}}},
		"sequence of nothing": {Outputs: []graph.Value{{Name: "y", Type: &graph.Type{Kind: graph.KindSequence}}}},
		"map":                 {Outputs: []graph.Value{{Name: "y", Type: &graph.Type{Kind: graph.KindMap, Elem: tensor.Int64}}}},
		"a pit":               {Inputs: []graph.Value{{Name: "x", Type: pit}}},
		"bad dimension":       {Outputs: []graph.Value{value("y", tensor.Float32, graph.Known(-2))}},
		"undefined":           {Outputs: []graph.Value{value("y", tensor.Undefined)}},
		"no type, output":     {Outputs: []graph.Value{{Name: "y"}}},
	} {
		if _, err := ExecutableToProto(e); err == nil {
			t.Errorf("%s: ExecutableToProto took it", name)
		}
	}
	for name, p := range map[string]*backendv1.Compiled{
		"memory":        {Memory: math.MaxUint64},
		"element type":  {Inputs: []*backendv1.ValueInfo{{Name: "x", ElementType: 0}}},
		"a pit":         {Inputs: []*backendv1.ValueInfo{deep}},
		"both":          {Inputs: []*backendv1.ValueInfo{{ElementType: 1, Container: &backendv1.ValueInfo_Sequence{Sequence: &backendv1.ValueInfo{ElementType: 1}}}}},
		"of nothing":    {Inputs: []*backendv1.ValueInfo{{Container: &backendv1.ValueInfo_Sequence{}}}},
		"bad dimension": {Outputs: []*backendv1.ValueInfo{{Name: "x", ElementType: 1, Dims: []*backendv1.Dim{{Size: -5}}}}},
	} {
		if _, err := ExecutableFromProto(p); err == nil {
			t.Errorf("%s: ExecutableFromProto took it", name)
		}
	}
}
