package backend

import (
	"context"
	"fmt"
	"io"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// run is one run of an executable, all its places bound and checked. It is the
// Outputs that the backend sees.
type run struct {
	signature *signature
	exec      Executable
	inputs    []Value
	outputs   []output
	inline    int64 // bytes of inline outputs so far
	err       error // the first refusal of an output
}

// output is where an output goes and, once given, what it is.
type output struct {
	place  place
	object *object       // of region or buffer
	id     *backendv1.Id // the object's
	offset int64
	room   int64
	given  bool
	filled bool          // by the backend, in its buffer
	t      tensor.Tensor // given
	bytes  int64
}

type place uint8

const (
	nowhere place = iota
	inline
	chunked
	inRegion
	inBuffer
)

// bindInputs checks all inputs and points the run's values at them. objects holds
// what the slices name, in the bindings' order.
func (r *run) bindInputs(bindings []*backendv1.Binding, objects []*object, c *chunks) error {
	g := r.signature
	sizes := make([]int64, len(g.symbols))
	for i := range sizes {
		sizes[i] = -1
	}
	r.inputs = make([]Value, len(g.inputs))
	for k, b := range bindings {
		i, known := g.input[b.GetName()]
		if !known {
			return Invalid(b.GetName(), "the executable has no input %q; it has %q", b.GetName(), slotNames(g.inputs))
		}
		v := &r.inputs[i]
		if v.Kind != 0 {
			return Invalid(b.GetName(), "input %q is bound twice", b.GetName())
		}
		t := g.inputs[i].typ
		if got, want := b.GetEncoding(), g.inputs[i].encoding; got != want {
			return Invalid(b.GetName(), "input %q comes as %v, the executable takes it as %v", b.GetName(), got, want)
		}
		if t != nil {
			if err := v.decode(b, t, c); err != nil {
				return err
			}
			if err := g.checkValue(i, v.Datum, sizes); err != nil {
				return err
			}
			continue
		}
		bytes, err := g.checkInput(i, b.GetElementType(), b.GetDims(), sizes)
		if err != nil {
			return err
		}
		v.Kind, v.Tensor.DType, v.Tensor.Shape = graph.KindTensor, g.inputs[i].elem, b.GetDims()
		if err := v.bind(b, objects[k], bytes, c); err != nil {
			return err
		}
	}
	for i := range r.inputs {
		if r.inputs[i].Kind == 0 {
			name := g.inputs[i].name
			return Invalid(name, "input %q is not bound", name)
		}
	}
	return nil
}

// decode reads a value that is no dense tensor.
func (v *Value) decode(b *backendv1.Binding, t *graph.Type, c *chunks) error {
	name := b.GetName()
	if b.GetElementType() != 0 || len(b.GetDims()) > 0 {
		return Invalid(name, "input %q is %s: its binding has neither element type nor dims", name, typeName(t))
	}
	var data []byte
	switch p := b.GetPlace().(type) {
	case *backendv1.Binding_Inline:
		data = p.Inline
	case *backendv1.Binding_Chunked:
		n := p.Chunked.GetLength()
		if n > MaxValue {
			e := Invalid(name, "input %q has %d bytes; what is no dense tensor may have %d", name, n, int64(MaxValue))
			e.Needed = clamp(n)
			return e
		}
		joined, err := c.join(name, tensor.Uint8, tensor.Shape{int64(n)}, int64(n))
		if err != nil {
			return err
		}
		data = joined
	default:
		return Invalid(name, "input %q is %s: it can be bound inline or in chunks only", name, typeName(t))
	}
	var err error
	if v.Datum, err = DecodeValue(t, data); err != nil {
		return Invalid(name, "input %q: %v", name, err)
	}
	return nil
}

// bind points a value of known type and shape at its data.
func (v *Value) bind(b *backendv1.Binding, o *object, bytes int64, c *chunks) error {
	name := b.GetName()
	var have uint64
	switch p := b.GetPlace().(type) {
	case *backendv1.Binding_Inline:
		have = uint64(len(p.Inline))
		v.Tensor.Data = p.Inline
	case *backendv1.Binding_Chunked:
		have = p.Chunked.GetLength()
		if have == uint64(bytes) {
			data, err := c.join(name, v.Tensor.DType, v.Tensor.Shape, bytes)
			if err != nil {
				return err
			}
			v.Tensor.Data = data
		}
	case *backendv1.Binding_Region:
		have = p.Region.GetLength()
		offset := p.Region.GetOffset()
		if err := o.bounds(name, offset, have); err != nil {
			return err
		}
		if err := aligned(name, v.Tensor.DType, offset); err != nil {
			return err
		}
		v.Tensor.Data = o.data[offset : offset+have : offset+have]
	case *backendv1.Binding_Buffer:
		have = p.Buffer.GetLength()
		if err := o.bounds(name, p.Buffer.GetOffset(), have); err != nil {
			return err
		}
		v.Buffer, v.Offset = o.buffer, int64(p.Buffer.GetOffset())
	default:
		return Invalid(name, "input %q has no place", name)
	}
	if have != uint64(bytes) {
		return Invalid(name, "input %q has %d bytes, %s%v has %d", name, have, v.Tensor.DType, v.Tensor.Shape, bytes)
	}
	if v.Buffer == nil {
		// Data inside a message lies where the allocator put it.
		v.Tensor = v.Tensor.Aligned()
	}
	return nil
}

// aligned refuses slices of a region that cannot be used where they lie. To copy
// them in silence would hide what they cost.
func aligned(name string, d tensor.DType, offset uint64) error {
	align := uint64(min(max(d.Bits()/8, 1), 8))
	if offset%align != 0 {
		return Invalid(name, "%q lies at %d in its region; %s must lie at a multiple of %d", name, offset, d, align)
	}
	return nil
}

// bindOutputs checks where outputs shall go.
func (r *run) bindOutputs(bindings []*backendv1.Binding, objects []*object) error {
	g := r.signature
	r.outputs = make([]output, len(g.outputs))
	for k, b := range bindings {
		name := b.GetName()
		i, known := g.output[name]
		if !known {
			return Invalid(name, "the executable has no output %q; it has %q", name, slotNames(g.outputs))
		}
		out := &r.outputs[i]
		if out.place != nowhere {
			return Invalid(name, "output %q is bound twice", name)
		}
		switch b.GetPlace().(type) {
		case *backendv1.Binding_Region, *backendv1.Binding_Buffer:
			if t := g.outputs[i].typ; t != nil {
				return Invalid(name, "output %q is %s: it can be bound inline or in chunks only", name, typeName(t))
			}
		}
		var s *backendv1.Slice
		switch p := b.GetPlace().(type) {
		case *backendv1.Binding_Inline:
			out.place = inline
			continue
		case *backendv1.Binding_Chunked:
			out.place = chunked
			continue
		case *backendv1.Binding_Region:
			out.place, s = inRegion, p.Region
			if !objects[k].writable {
				return Invalid(name, "output %q goes into a region that is mapped for reading only", name)
			}
			if err := aligned(name, g.outputs[i].elem, s.GetOffset()); err != nil {
				return err
			}
		case *backendv1.Binding_Buffer:
			out.place, s = inBuffer, p.Buffer
		default:
			return Invalid(name, "output %q has no place", name)
		}
		out.object, out.id = objects[k], s.GetId()
		if err := out.object.bounds(name, s.GetOffset(), s.GetLength()); err != nil {
			return err
		}
		out.offset, out.room = int64(s.GetOffset()), int64(s.GetLength())
	}
	return nil
}

func slotNames(slots []slot) []string {
	list := make([]string, len(slots))
	for i := range slots {
		list[i] = slots[i].name
	}
	return list
}

// Wanted implements Outputs.
func (r *run) Wanted(i int) bool { return r.outputs[i].place != nowhere }

// Place implements Outputs.
func (r *run) Place(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	if g := &r.signature.outputs[i]; g.typ != nil {
		return tensor.Tensor{}, r.refuse(Internal("output %q is %s, and was placed as a dense tensor", g.name, typeName(g.typ)))
	}
	out, err := r.give(i, d, s)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if out.place == inRegion {
		end := out.offset + out.bytes
		out.t.Data = out.object.data[out.offset:end:end]
		return out.t, nil
	}
	out.t, err = tensor.New(d, out.t.Shape)
	return out.t, err
}

// Buffer implements Outputs.
func (r *run) Buffer(i int) (Value, int64, bool) {
	out := &r.outputs[i]
	if out.place != inBuffer {
		return Value{}, 0, false
	}
	return Value{Buffer: out.object.buffer, Offset: out.offset}, out.room, true
}

// Filled implements Outputs.
func (r *run) Filled(i int, d tensor.DType, s tensor.Shape) error {
	if r.outputs[i].place != inBuffer {
		return r.refuse(Internal("output %q is said to lie in a buffer, and is bound to none", r.signature.outputs[i].name))
	}
	out, err := r.give(i, d, s)
	if err == nil {
		out.filled = true
	}
	return err
}

// Give implements Outputs.
func (r *run) Give(i int, v graph.Datum) error {
	g := &r.signature.outputs[i]
	if g.typ == nil {
		if v.Kind != graph.KindTensor {
			return r.refuse(Internal("output %q came as %s, the executable gives a tensor", g.name, describe(v)))
		}
		if err := v.Tensor.Check(); err != nil {
			return r.refuse(Internal("output %q: %v", g.name, err))
		}
		dst, err := r.Place(i, v.Tensor.DType, v.Tensor.Shape)
		if err == nil {
			copy(dst.Data, v.Tensor.Data)
		}
		return err
	}
	out, err := r.wanted(i)
	if err != nil {
		return err
	}
	// It is encoded at once: what v points into is the backend's.
	if why := mismatch(g.typ, v, 0); why != "" {
		return r.refuse(Internal("output %q: %s", g.name, why))
	}
	data, err := EncodeValue(g.name, g.typ, v)
	if err != nil {
		return r.refuse(err)
	}
	out.t = tensor.Tensor{Data: data}
	return r.settle(out, g.name, typeName(g.typ), int64(len(data)))
}

// give notes an output's type and shape, once it is known to fit.
func (r *run) give(i int, d tensor.DType, s tensor.Shape) (*output, error) {
	out, err := r.wanted(i)
	if err != nil {
		return nil, err
	}
	bytes, err := r.signature.checkOutput(i, d, s)
	if err != nil {
		return nil, r.refuse(err)
	}
	out.t = tensor.Tensor{DType: d, Shape: s.Clone()}
	return out, r.settle(out, r.signature.outputs[i].name, fmt.Sprintf("%s%v", d, s), bytes)
}

// wanted is an output that was asked for and is not given yet.
func (r *run) wanted(i int) (*output, error) {
	out, name := &r.outputs[i], r.signature.outputs[i].name
	if out.place == nowhere {
		return nil, r.refuse(Internal("output %q was given and not asked for", name))
	}
	if out.given {
		return nil, r.refuse(Internal("output %q was given twice", name))
	}
	return out, nil
}

// settle marks an output as given, if its bytes fit its place.
func (r *run) settle(out *output, name, what string, bytes int64) error {
	switch out.place {
	case inline:
		if bytes > MaxInline-r.inline {
			e := Invalid(name, "output %q is %s, %d bytes; the outputs in a message may have %d: bind it to a region, or chunked",
				name, what, bytes, MaxInline)
			e.Needed = bytes
			return r.refuse(e)
		}
		r.inline += bytes
	case inRegion, inBuffer:
		if bytes > out.room {
			e := Invalid(name, "output %q is %s, %d bytes; there is room for %d", name, what, bytes, out.room)
			e.Needed = bytes
			return r.refuse(e)
		}
	}
	out.given, out.bytes = true, bytes
	return nil
}

// refuse remembers the first error, so that a backend that overlooks it does not
// pass a result off as whole.
func (r *run) refuse(err error) error {
	if r.err == nil {
		r.err = err
	}
	return err
}

// do runs the executable and puts the outputs where they belong.
func (r *run) do(ctx context.Context) error {
	err := r.exec.Run(ctx, r.inputs, r)
	if r.err != nil {
		return r.err
	}
	if err != nil {
		return err
	}
	for i := range r.outputs {
		out := &r.outputs[i]
		if out.place == nowhere {
			continue
		}
		if !out.given {
			return Internal("the backend gave no output %q", r.signature.outputs[i].name)
		}
		if out.place == inBuffer && !out.filled {
			if err := writeAll(out.object.buffer, out.t.Data, out.offset); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeAll writes p into a buffer, or says why not all of it.
func writeAll(b Buffer, p []byte, offset int64) error {
	n, err := b.WriteAt(p, offset)
	if err == nil && n < len(p) {
		err = Internal("a buffer took %d of %d bytes", n, len(p))
	}
	return err
}

// readAll reads p from a buffer, or says why not all of it.
func readAll(b Buffer, p []byte, offset int64) error {
	n, err := b.ReadAt(p, offset)
	if n == len(p) && err == io.EOF {
		return nil
	}
	if err == nil && n < len(p) {
		err = Internal("a buffer gave %d of %d bytes", n, len(p))
	}
	return err
}

// bindings is the answer's: what the outputs are, and those that go inline.
func (r *run) bindings() []*backendv1.Binding {
	var list []*backendv1.Binding
	for i := range r.outputs {
		out := &r.outputs[i]
		if out.place == nowhere {
			continue
		}
		b := &backendv1.Binding{
			Name: r.signature.outputs[i].name, ElementType: int32(out.t.DType), Dims: out.t.Shape, Encoding: r.signature.outputs[i].encoding,
		}
		slice := func() *backendv1.Slice {
			return &backendv1.Slice{Id: out.id, Offset: uint64(out.offset), Length: uint64(out.bytes)}
		}
		switch out.place {
		case inline:
			b.Place = &backendv1.Binding_Inline{Inline: out.t.Data}
		case chunked:
			b.Place = &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: uint64(out.bytes)}}
		case inRegion:
			b.Place = &backendv1.Binding_Region{Region: slice()}
		case inBuffer:
			b.Place = &backendv1.Binding_Buffer{Buffer: slice()}
		}
		list = append(list, b)
	}
	return list
}

// maxSmoke bounds what a smoke run's inputs take together, in bytes.
const maxSmoke = 8 << 30

// smoke runs an executable once, on the inputs given or on zeros, and looks at every
// output's type, shape and existence, not at its numbers: zeros divide by zero in
// honest models.
func (s *server) smoke(ctx context.Context, o *object, dims map[string]int64, given []*backendv1.Binding, objects []*object) error {
	g := o.signature
	r := &run{signature: g, exec: o.executable, outputs: make([]output, len(g.outputs))}
	var err error
	if len(given) > 0 {
		err = r.bindInputs(given, objects, nil)
	} else {
		err = r.zeroInputs(dims)
	}
	if err != nil {
		return err
	}
	for i := range r.outputs {
		r.outputs[i].place = chunked
	}
	return s.guard("Run", func() error { return r.do(ctx) })
}

// zeroInputs makes inputs of zeros, with 1 for dimensions that are not named.
func (r *run) zeroInputs(dims map[string]int64) error {
	const stringBytes = 16 // of an empty string
	g := r.signature
	var total int64
	for i := range g.inputs {
		in := &g.inputs[i]
		shape := make(tensor.Shape, len(in.dims))
		for k, d := range in.dims {
			shape[k] = d.size
			if d.size >= 0 {
				continue
			}
			shape[k] = 1
			if d.symbol >= 0 {
				if n, ok := dims[g.symbols[d.symbol]]; ok {
					shape[k] = n
				}
			}
		}
		bytes, err := shape.Elements()
		switch {
		case err != nil:
		case in.typ != nil:
			bytes = min(bytes, maxSmoke) * stringBytes
		default:
			bytes, err = tensor.ByteSize(in.elem, shape)
		}
		if err != nil {
			return Invalid("smoke_dims", "input %q: %v", in.name, err)
		}
		if bytes > maxSmoke-total {
			return OutOfMemory("input "+in.name+" of the smoke run", bytes, maxSmoke-total)
		}
		total += bytes
		t := in.typ
		if t == nil {
			t = &graph.Type{Kind: graph.KindTensor, Elem: in.elem}
		}
		v, err := empty(t, shape)
		if err != nil {
			return Invalid("smoke_dims", "input %q: %v", in.name, err)
		}
		r.inputs = append(r.inputs, Value{Datum: v})
	}
	return nil
}
