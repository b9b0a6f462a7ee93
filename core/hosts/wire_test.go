//go:build unix

package hosts

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestLies meets backends that break the protocol without the SDK's help.
func TestLies(t *testing.T) {
	run := func(d *Device, n int) error {
		x, err := d.Compile(t.Context(), backend.CompileSpec{Dir: "/nowhere"}, nil)
		if err != nil {
			return err
		}
		in := ramp(n)
		out, _, err := x.Run(t.Context(), map[string]graph.Datum{"x": graph.TensorDatum(in)}, nil, false)
		if err == nil && !bytes.Equal(out["y"].Tensor.Data, in.Data) {
			return errors.New("y is not x")
		}
		return err
	}
	small := func(d *Device) error { return run(d, 10) }
	large := func(d *Device) error { return run(d, 5000) }
	for _, c := range []struct {
		lie   string
		call  func(*Device) error
		says  string // of the protocol error; empty: it is well
		other func(error) bool
	}{
		{lie: "honest", call: small},
		{lie: "honest", call: large}, // it maps nothing: in chunks
		{lie: "other_seq", call: small},
		{lie: "unknown_shape", call: small},
		{lie: "unknown_shape", call: large},
		{lie: "compile_nothing", call: small, says: "without an executable"},
		{lie: "compile_other_device", call: small, says: `device "1"`},
		{lie: "compile_bad_type", call: small, says: "99"},
		{lie: "no_output", call: small, says: "1 outputs were asked for, 0 answered"},
		{lie: "two_outputs", call: small, says: "2 answered"},
		{lie: "other_output", call: small, says: "missing"},
		{lie: "short", call: small, says: "39 came"},
		{lie: "long", call: small, says: "40 came"},
		{lie: "negative", call: small, says: "negative"},
		{lie: "rank", call: small, says: "1 dimensions"},
		{lie: "type", call: small, says: "element type 2"},
		{lie: "no_place", call: small, says: "no place"},
		{lie: "region", call: small, says: "another place"},
		{lie: "buffer", call: small, says: "another place"},
		{lie: "chunk_of_nothing", call: small, says: "not asked for in chunks"},
		{lie: "chunk_flood", call: large, says: "more than the 20000 bytes"},
		{lie: "chunk_count", call: large, says: "are said to have 20001"},
		{lie: "compile_other_epoch", call: small, other: func(err error) bool { return isCode(err, backend.CodeBadState) }},
		{lie: "map_lost", call: large, other: func(err error) bool { return Replayable(err) && isCode(err, backend.CodeBadState) }},
		{lie: "open_refused", call: small, other: func(err error) bool { return Replayable(err) && isCode(err, backend.CodeDeviceLost) }},
	} {
		t.Run(c.lie, func(t *testing.T) {
			m, d := started(t, role(t, c.lie))
			err := c.call(d)
			switch {
			case c.other != nil:
				if !c.other(err) {
					t.Errorf("error %v", err)
				}
			case c.says == "":
				if err != nil {
					t.Error(err)
				}
			default:
				e := as[*ProtocolError](t, err)
				says(t, e.Error(), c.says, "played", "simulation:0")
				if !isCode(err, backend.CodeInternal) {
					t.Error("it is not the backend's fault")
				}
			}
			if s := m.Backends()[0]; s.State != Healthy || s.Restarts != 0 {
				t.Errorf("status is %+v", s)
			}
		})
	}
}

// TestBrokenStreams ends the process whose streams end, and starts it again.
func TestBrokenStreams(t *testing.T) {
	for _, lie := range []string{"stream_ends", "open_ends", "watch_ends"} {
		t.Run(lie, func(t *testing.T) {
			o := role(t, lie)
			o.Restart.Base = time.Hour
			m, d := started(t, o)
			s := m.Backends()[0]
			if lie != "watch_ends" {
				x := compile(t, d, "/nowhere")
				_, _, err := x.Run(t.Context(), one(1), nil, false)
				if e := as[*CrashedError](t, err); e.Reason == "" || !e.InFlight {
					t.Errorf("error is %+v", e)
				}
				says(t, err.Error(), "Execute stream of simulation:0 ended")
			}
			until(t, m, "played", func(n BackendStatus) bool { return n.PID != s.PID })
			gone(t, s.PID)
		})
	}
}

func TestVanishedDevice(t *testing.T) {
	m, d := started(t, role(t, "watch_removes"))
	x := compile(t, d, "/nowhere")
	for d.Status().Health == backend.Healthy {
		<-m.Changed()
	}
	if s := d.Status(); s.Health != backend.Undetected || s.Reason == "" || s.Returning {
		t.Errorf("device is %+v", s)
	}
	_, _, err := x.Run(t.Context(), one(1), nil, false)
	as[*DeviceLostError](t, err)
	if list := m.Devices(); !slices.Contains(list, d) {
		t.Error("its handle is lost")
	}
}

func TestMapHangs(t *testing.T) {
	o := role(t, "map_hangs")
	o.Timeouts.Call = 100 * time.Millisecond
	_, d := started(t, o)
	x := compile(t, d, "/nowhere")
	_, _, err := x.Run(t.Context(), map[string]graph.Datum{"x": graph.TensorDatum(ramp(5000))}, nil, false)
	says(t, as[*CrashedError](t, err).Reason, "Map on simulation:0 unanswered")
}

// FuzzAnswer reads answers of any kind: what is taken for a result is whole and
// lies where it was asked for.
func FuzzAnswer(f *testing.F) {
	id := &backendv1.Id{Device: "0", Epoch: 1, N: 2}
	bind := func(b *backendv1.Binding) {
		b.Name, b.ElementType, b.Dims = "y", 1, []int64{2}
		data, err := proto.Marshal(&backendv1.ExecuteResponse{Seq: 3, Result: &backendv1.ExecuteResponse_Done{Done: &backendv1.Done{Outputs: []*backendv1.Binding{b}}}})
		if err != nil {
			f.Fatal(err)
		}
		for place := range 4 {
			f.Add(data, uint8(place))
		}
	}
	bind(&backendv1.Binding{Place: &backendv1.Binding_Inline{Inline: make([]byte, 8)}})
	bind(&backendv1.Binding{Place: &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: 8}}})
	bind(&backendv1.Binding{Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: id, Offset: 64, Length: 8}}})
	bind(&backendv1.Binding{Place: &backendv1.Binding_Buffer{Buffer: &backendv1.Slice{Id: id, Offset: 64, Length: 8}}})
	list := &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.String, graph.Known(1))}
	word := graph.TensorDatum(tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{1}, Strings: []string{"a"}})
	words, err := graph.AppendDatum(nil, "", graph.Datum{Kind: graph.KindSequence, Sequence: []graph.Datum{word, word}})
	if err != nil {
		f.Fatal(err)
	}
	data, err := proto.Marshal(&backendv1.ExecuteResponse{Seq: 3, Result: &backendv1.ExecuteResponse_Done{Done: &backendv1.Done{Outputs: []*backendv1.Binding{
		{Name: "y", Encoding: backend.EncodingOf(list), Place: &backendv1.Binding_Inline{Inline: words}}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, uint8(4))
	h := &host{name: "fuzz"}
	s := &session{life: &life{h: h, over: make(chan struct{})}, dev: &Device{h: h, id: "0", ref: "simulation:0"}, epoch: 1}
	dense := []port{{name: "y", elem: tensor.Float32, ranked: true, sizes: []int64{-1}, symbols: []int{-1}, names: []string{""}}}
	sequence := []port{{name: "y", typ: list, coding: backend.EncodingOf(list)}}
	f.Fuzz(func(t *testing.T, data []byte, place uint8) {
		var answer backendv1.ExecuteResponse
		if proto.Unmarshal(data, &answer) != nil || answer.GetDone() == nil {
			return
		}
		x := &Executable{session: s, id: id, outputs: dense}
		if place%5 == 4 {
			x.outputs = sequence
		}
		r := x.newRun()
		r.out = make([]binding, 1)
		b := &r.out[0]
		b.init(&x.outputs[0])
		b.slice.Id, b.slice.Offset, b.slice.Length = id, 64, 8
		room := make([]byte, 8)
		switch place % 5 {
		case 0:
			b.Place = &b.inline
		case 1:
			b.Place = &b.chunked
			r.incoming = map[string]*incoming{"y": {data: room, limit: 8}}
		case 2:
			b.Place, b.shared = &b.region, room
		case 3:
			b.Place = &b.buffer
		case 4:
			b.Place = &b.chunked
			r.incoming = map[string]*incoming{"y": {data: words, limit: backend.MaxValue}}
		}
		result, err := r.result(answer.GetDone())
		if err != nil {
			return
		}
		if place%5 == 4 {
			if _, err := backend.EncodeValue("y", list, result.Outputs[0]); err != nil {
				t.Fatalf("the output is %+v: %v", result.Outputs[0], err)
			}
			return
		}
		out := result.Outputs[0].Tensor
		n, err := tensor.ByteSize(out.DType, out.Shape)
		if err != nil || out.DType != tensor.Float32 || len(out.Shape) != 1 {
			t.Fatalf("the output is %s%v: %v", out.DType, out.Shape, err)
		}
		if b.Place == &b.buffer {
			if out.Data != nil || n > 8 {
				t.Fatalf("%d bytes are in a buffer's room for 8", n)
			}
			return
		}
		if out.Check() != nil {
			t.Fatalf("the output is %s%v with %d bytes", out.DType, out.Shape, len(out.Data))
		}
		if b.Place == &b.region && n > 0 && &out.Data[0] != &room[0] {
			t.Fatal("the output lies elsewhere")
		}
	})
}

// FuzzCompiled reads descriptions of executables of any kind.
func FuzzCompiled(f *testing.F) {
	p, err := backend.ExecutableToProto(backend.ExecutableInfo{
		Inputs:  []graph.Value{{Name: "x", Type: graph.TensorType(tensor.Float32, graph.Sym("n"), graph.Known(3))}},
		Outputs: []graph.Value{{Name: "y", Type: graph.TensorType(tensor.Int64, graph.Sym("n"))}},
	})
	if err != nil {
		f.Fatal(err)
	}
	p.Executable = &backendv1.Id{Device: "0", Epoch: 1, N: 1}
	data, err := proto.Marshal(p)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, int64(5))
	h := &host{name: "fuzz"}
	s := &session{life: &life{h: h, over: make(chan struct{})}, dev: &Device{h: h, id: "0", ref: "simulation:0"}, epoch: 1}
	f.Fuzz(func(t *testing.T, data []byte, n int64) {
		var c backendv1.Compiled
		if proto.Unmarshal(data, &c) != nil || c.GetExecutable().GetDevice() != "0" || c.GetExecutable().GetEpoch() != 1 {
			return
		}
		x, err := newExecutable(s, &c)
		if err != nil {
			return
		}
		r := x.newRun()
		for i := range r.bound {
			r.bound[i] = n
		}
		if r.want(nil) != nil {
			t.Fatal("its own outputs can't be wanted")
		}
		for i := range r.out {
			if want := r.out[i].want; want < -1 {
				t.Fatalf("output %d has %d bytes", i, want)
			}
		}
	})
}
