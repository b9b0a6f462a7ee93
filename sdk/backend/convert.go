package backend

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// names maps the wire's enumerations to the words of this package, both ways.
type names[E ~int32, W ~string] struct {
	what    string
	words   map[E]W
	numbers map[W]E
}

func newNames[E ~int32, W ~string](what string, words map[E]W) names[E, W] {
	n := names[E, W]{what: what, words: words, numbers: make(map[W]E, len(words))}
	for e, w := range words {
		n.numbers[w] = e
	}
	return n
}

func (n names[E, W]) word(e E) (W, error) {
	if w, ok := n.words[e]; ok {
		return w, nil
	}
	return "", fmt.Errorf("%s %d is not known to protocol version %d", n.what, int32(e), ProtocolVersion)
}

func (n names[E, W]) number(w W) (E, error) {
	if e, ok := n.numbers[w]; ok {
		return e, nil
	}
	return 0, fmt.Errorf("%s %q is not known to protocol version %d", n.what, w, ProtocolVersion)
}

var (
	kinds = newNames("kind", map[backendv1.Kind]Kind{
		backendv1.Kind_KIND_HARDWARE:  Hardware,
		backendv1.Kind_KIND_EMULATED:  Emulated,
		backendv1.Kind_KIND_SIMULATED: Simulated,
	})
	healths = newNames("health", map[backendv1.Health]Health{
		backendv1.Health_HEALTH_HEALTHY:    Healthy,
		backendv1.Health_HEALTH_UNHEALTHY:  Unhealthy,
		backendv1.Health_HEALTH_UNDETECTED: Undetected,
	})
	// A device that takes no attention operator says nothing about its way.
	attentionWays = newNames("attention way", map[backendv1.AttentionWay]AttentionWay{
		backendv1.AttentionWay_ATTENTION_WAY_UNSPECIFIED: "",
		backendv1.AttentionWay_ATTENTION_WAY_FUSED:       AttentionFused,
		backendv1.AttentionWay_ATTENTION_WAY_ROWS:        AttentionRows,
		backendv1.AttentionWay_ATTENTION_WAY_BODY:        AttentionBody,
	})
	refusals = newNames("refusal", map[backendv1.Refusal]Refusal{
		backendv1.Refusal_REFUSAL_OPERATOR:      RefusedOperator,
		backendv1.Refusal_REFUSAL_ELEMENT_TYPE:  RefusedElementType,
		backendv1.Refusal_REFUSAL_DYNAMIC_SHAPE: RefusedDynamicShape,
		backendv1.Refusal_REFUSAL_FUNCTION:      RefusedFunction,
		backendv1.Refusal_REFUSAL_ATTRIBUTE:     RefusedAttribute,
		backendv1.Refusal_REFUSAL_SIZE:          RefusedSize,
	})
	codesOfErrors = newNames("code", map[backendv1.Code]Code{
		backendv1.Code_CODE_UNSUPPORTED:   CodeUnsupported,
		backendv1.Code_CODE_OUT_OF_MEMORY: CodeOutOfMemory,
		backendv1.Code_CODE_DEVICE_LOST:   CodeDeviceLost,
		backendv1.Code_CODE_BAD_STATE:     CodeBadState,
		backendv1.Code_CODE_INVALID:       CodeInvalid,
		backendv1.Code_CODE_CANCELLED:     CodeCancelled,
		backendv1.Code_CODE_INTERNAL:      CodeInternal,
	})
)

// Check reports an error if a field of d breaks the contract: every device has an
// id, a platform, a kind and a health, and one that is not healthy has a reason.
func (d Device) Check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("device %q: %s", d.ID, fmt.Sprintf(format, args...))
	}
	if d.ID == "" {
		return fail("has no id")
	}
	if d.Platform == "" {
		return fail("has no platform")
	}
	if _, err := kinds.number(d.Kind); err != nil {
		return fail("%v", err)
	}
	if _, err := healths.number(d.Health); err != nil {
		return fail("%v", err)
	}
	if d.Health != Healthy && d.Reason == "" {
		return fail("is %s, and does not say why", d.Health)
	}
	if _, err := attentionWays.number(d.Attention); err != nil {
		return fail("%v", err)
	}
	if d.MemoryTotal < 0 || d.MemoryFree < 0 || d.MemoryTotal > 0 && d.MemoryFree > d.MemoryTotal {
		return fail("memory of %d bytes, %d free, cannot be", d.MemoryTotal, d.MemoryFree)
	}
	for _, t := range d.ElementTypes {
		if !t.Valid() {
			return fail("%s is no element type", t)
		}
	}
	return nil
}

// DeviceToProto converts a device that Check accepts.
func DeviceToProto(d Device) (*backendv1.Device, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	p := &backendv1.Device{
		Id: d.ID, Platform: d.Platform, Name: text(d.Name), Reason: text(d.Reason), Remedy: text(d.Remedy), Epoch: d.Epoch,
		MemoryTotal: uint64(d.MemoryTotal), MemoryFree: uint64(d.MemoryFree), Features: d.Features,
		RuntimeVersion: text(d.RuntimeVersion), StaticShapes: d.StaticShapes,
		Kind: kinds.numbers[d.Kind], Health: healths.numbers[d.Health], Attention: attentionWays.numbers[d.Attention],
	}
	for _, t := range d.ElementTypes {
		p.ElementTypes = append(p.ElementTypes, int32(t))
	}
	return p, nil
}

// DeviceFromProto converts and checks what a backend said of a device.
func DeviceFromProto(p *backendv1.Device) (Device, error) {
	fail := func(err error) (Device, error) { return Device{}, fmt.Errorf("device %q: %w", p.GetId(), err) }
	d := Device{
		ID: p.GetId(), Platform: p.GetPlatform(), Name: p.GetName(), Reason: p.GetReason(), Remedy: p.GetRemedy(),
		Epoch: p.GetEpoch(), Features: p.GetFeatures(), RuntimeVersion: p.GetRuntimeVersion(), StaticShapes: p.GetStaticShapes(),
	}
	var err error
	if d.Kind, err = kinds.word(p.GetKind()); err != nil {
		return fail(err)
	}
	if d.Health, err = healths.word(p.GetHealth()); err != nil {
		return fail(err)
	}
	if d.Attention, err = attentionWays.word(p.GetAttention()); err != nil {
		return fail(err)
	}
	if d.MemoryTotal, err = count("total memory", p.GetMemoryTotal()); err != nil {
		return fail(err)
	}
	if d.MemoryFree, err = count("free memory", p.GetMemoryFree()); err != nil {
		return fail(err)
	}
	if d.MemoryTotal > 0 && d.MemoryFree > d.MemoryTotal {
		return Device{}, fmt.Errorf("device %q: %d bytes of %d are free, which cannot be", p.GetId(), d.MemoryFree, d.MemoryTotal)
	}
	for _, n := range p.GetElementTypes() {
		t, err := DTypeFromProto(n)
		if err != nil {
			return fail(err)
		}
		d.ElementTypes = append(d.ElementTypes, t)
	}
	if d.Epoch == 0 {
		return fail(fmt.Errorf("has no epoch"))
	}
	return d, d.Check()
}

// InfoToProto converts what a backend says of itself; the range of protocol
// versions is the SDK's.
func InfoToProto(i Info) *backendv1.DescribeResponse {
	p := &backendv1.DescribeResponse{
		Name: i.Name, Version: i.Version, ConfigSchema: i.ConfigSchema,
		ApiMin: ProtocolVersion, ApiMax: ProtocolVersion,
	}
	for _, l := range i.Libraries {
		p.Libraries = append(p.Libraries, &backendv1.Library{
			Name: l.Name, Found: l.Found, Path: text(l.Path), Version: text(l.Version), Reason: text(l.Reason), Remedy: text(l.Remedy),
		})
	}
	return p
}

// InfoFromProto converts what a backend said of itself.
func InfoFromProto(p *backendv1.DescribeResponse) Info {
	i := Info{Name: p.GetName(), Version: p.GetVersion(), ConfigSchema: p.GetConfigSchema()}
	for _, l := range p.GetLibraries() {
		i.Libraries = append(i.Libraries, Library{
			Name: l.GetName(), Found: l.GetFound(), Path: l.GetPath(), Version: l.GetVersion(),
			Reason: l.GetReason(), Remedy: l.GetRemedy(),
		})
	}
	return i
}

// AssessmentToProto converts an assessment.
func AssessmentToProto(a Assessment) (*backendv1.AssessResponse, error) {
	if a.MemoryEstimate < 0 {
		return nil, fmt.Errorf("a memory estimate of %d bytes cannot be", a.MemoryEstimate)
	}
	p := &backendv1.AssessResponse{MemoryEstimate: uint64(a.MemoryEstimate)}
	for i, v := range a.Nodes {
		if v.OK {
			p.Nodes = append(p.Nodes, &backendv1.Verdict{Ok: true, Implementation: text(v.Implementation)})
			continue
		}
		r, err := refusals.number(v.Refusal)
		if err != nil {
			return nil, fmt.Errorf("verdict on node %d: %w", i, err)
		}
		p.Nodes = append(p.Nodes, &backendv1.Verdict{Refusal: r, Reason: text(v.Reason)})
	}
	return p, nil
}

// AssessmentFromProto converts and checks a backend's assessment.
func AssessmentFromProto(p *backendv1.AssessResponse) (Assessment, error) {
	var a Assessment
	var err error
	if a.MemoryEstimate, err = count("memory estimate", p.GetMemoryEstimate()); err != nil {
		return Assessment{}, err
	}
	for i, v := range p.GetNodes() {
		if v.GetOk() {
			a.Nodes = append(a.Nodes, AcceptAs(v.GetImplementation()))
			continue
		}
		r, err := refusals.word(v.GetRefusal())
		if err != nil {
			return Assessment{}, fmt.Errorf("verdict on node %d: %w", i, err)
		}
		a.Nodes = append(a.Nodes, Refuse(r, v.GetReason()))
	}
	return a, nil
}

// ExecutableToProto converts a description of an executable without its id.
// Inputs that are dense tensors are of known rank. Maps and sparse tensors are
// not carried.
func ExecutableToProto(i ExecutableInfo) (*backendv1.Compiled, error) {
	if i.Memory < 0 {
		return nil, fmt.Errorf("an executable of %d bytes cannot be", i.Memory)
	}
	p := &backendv1.Compiled{Memory: uint64(i.Memory)}
	for _, v := range i.Inputs {
		w, err := valueToProto(v.Type, 0)
		if err == nil && w.Unranked && Dense(v.Type) {
			err = fmt.Errorf("its rank is not known")
		}
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", v.Name, err)
		}
		w.Name = v.Name
		p.Inputs = append(p.Inputs, w)
	}
	for _, v := range i.Outputs {
		w, err := valueToProto(v.Type, 0)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", v.Name, err)
		}
		w.Name = v.Name
		p.Outputs = append(p.Outputs, w)
	}
	return p, nil
}

// ExecutableFromProto converts and checks a description of an executable.
func ExecutableFromProto(p *backendv1.Compiled) (ExecutableInfo, error) {
	var i ExecutableInfo
	var err error
	if i.Memory, err = count("memory", p.GetMemory()); err != nil {
		return ExecutableInfo{}, err
	}
	if i.Inputs, err = valuesFromProto(p.GetInputs()); err != nil {
		return ExecutableInfo{}, fmt.Errorf("input %w", err)
	}
	if i.Outputs, err = valuesFromProto(p.GetOutputs()); err != nil {
		return ExecutableInfo{}, fmt.Errorf("output %w", err)
	}
	return i, nil
}

// maxNesting bounds types in types.
const maxNesting = 32

func valueToProto(t *graph.Type, depth int) (*backendv1.ValueInfo, error) {
	switch {
	case t == nil:
		return nil, fmt.Errorf("its type is not known")
	case depth > maxNesting:
		return nil, fmt.Errorf("its type is nested more than %d deep", maxNesting)
	case t.Kind == graph.KindSequence, t.Kind == graph.KindOptional:
		of, err := valueToProto(t.Of, depth+1)
		if err != nil {
			return nil, err
		}
		if t.Kind == graph.KindSequence {
			return &backendv1.ValueInfo{Container: &backendv1.ValueInfo_Sequence{Sequence: of}}, nil
		}
		return &backendv1.ValueInfo{Container: &backendv1.ValueInfo_Optional{Optional: of}}, nil
	case t.Kind != graph.KindTensor:
		return nil, fmt.Errorf("the protocol carries tensors, sequences and optionals, it is none of them")
	case !t.Elem.Valid():
		return nil, fmt.Errorf("the protocol does not carry elements of type %s", t.Elem)
	}
	p := &backendv1.ValueInfo{ElementType: int32(t.Elem), Unranked: !t.HasShape}
	for _, d := range t.Dims {
		if d.Param != "" {
			p.Dims = append(p.Dims, &backendv1.Dim{Size: -1, Symbol: d.Param})
			continue
		}
		if d.Size < -1 {
			return nil, fmt.Errorf("a dimension of %d cannot be", d.Size)
		}
		p.Dims = append(p.Dims, &backendv1.Dim{Size: d.Size})
	}
	return p, nil
}

func valuesFromProto(ps []*backendv1.ValueInfo) ([]graph.Value, error) {
	var vs []graph.Value
	for _, p := range ps {
		t, err := typeFromProto(p, 0)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p.GetName(), err)
		}
		vs = append(vs, graph.Value{Name: p.GetName(), Type: t})
	}
	return vs, nil
}

func typeFromProto(p *backendv1.ValueInfo, depth int) (*graph.Type, error) {
	kind, inside := graph.KindTensor, (*backendv1.ValueInfo)(nil)
	switch c := p.GetContainer().(type) {
	case *backendv1.ValueInfo_Sequence:
		kind, inside = graph.KindSequence, c.Sequence
	case *backendv1.ValueInfo_Optional:
		kind, inside = graph.KindOptional, c.Optional
	}
	if kind != graph.KindTensor {
		if depth == maxNesting {
			return nil, fmt.Errorf("types are nested more than %d deep", maxNesting)
		}
		if p.GetElementType() != 0 || len(p.GetDims()) > 0 {
			return nil, fmt.Errorf("it is said to be a tensor, and to hold other values")
		}
		of, err := typeFromProto(inside, depth+1)
		if err != nil {
			return nil, err
		}
		return &graph.Type{Kind: kind, Of: of}, nil
	}
	elem, err := DTypeFromProto(p.GetElementType())
	if err != nil {
		return nil, err
	}
	t := &graph.Type{Kind: graph.KindTensor, Elem: elem, HasShape: !p.GetUnranked()}
	for _, d := range p.GetDims() {
		switch {
		case d.GetSymbol() != "":
			t.Dims = append(t.Dims, graph.Sym(d.GetSymbol()))
		case d.GetSize() >= -1:
			t.Dims = append(t.Dims, graph.Known(d.GetSize()))
		default:
			return nil, fmt.Errorf("a dimension of %d cannot be", d.GetSize())
		}
	}
	return t, nil
}

// DTypeFromProto checks that a number of the wire is an element type.
func DTypeFromProto(n int32) (tensor.DType, error) {
	if n <= 0 || n > math.MaxUint8 || !tensor.DType(n).Valid() {
		return tensor.Undefined, fmt.Errorf("%d is no element type", n)
	}
	return tensor.DType(n), nil
}

func count(what string, n uint64) (int64, error) {
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("%s of %d bytes cannot be", what, n)
	}
	return int64(n), nil
}
