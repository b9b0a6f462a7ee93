package backend

import (
	"context"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// RowSlots is the input, int64 or int32 [tokens], that says where in its pools each
// token of a step is kept.
const RowSlots = "slots"

// RowNames are the outputs that stand for a pool, an input called NAME.LAYER: the
// pool after the step, NAME_out.LAYER, and where attention is AttentionRows the
// step's rows, NAME_new.LAYER. ok is false for names of another form.
func RowNames(pool string) (updated, row string, ok bool) {
	name, layer, ok := strings.Cut(pool, ".")
	if !ok || name == "" || layer == "" || strings.Contains(layer, ".") {
		return "", "", false
	}
	return name + "_out." + layer, name + "_new." + layer, true
}

// WithPools makes of an executable that gives rows one that updates pools, as the
// protocol has it for every way of attention: where the graph has a pool NAME.LAYER
// [pages, page size, ...] and an output NAME_new.LAYER [tokens, ...], the result
// shows NAME_out.LAYER in that output's place. After a run the rows lie in the
// pool's places that the input slots names: where the output is bound to the pool's
// own memory, nothing else of it is touched; elsewhere the pool is copied first.
//
// An executable without such outputs is returned as it is.
func WithPools(inner Executable) (Executable, error) {
	info := inner.Info()
	p := &pooled{Executable: inner, info: info, slots: -1}
	p.info.Outputs = append([]graph.Value(nil), info.Outputs...)
	for i, in := range info.Inputs {
		if in.Name == RowSlots {
			p.slots = i
		}
		updated, row, ok := RowNames(in.Name)
		if !ok {
			continue
		}
		for j, out := range info.Outputs {
			if out.Name != row {
				continue
			}
			if len(in.Type.Dims) < 2 || !Dense(in.Type) || !Dense(out.Type) || out.Type.Elem != in.Type.Elem {
				return nil, Internal("output %q gives no rows of pool %q", row, in.Name)
			}
			p.info.Outputs[j] = graph.Value{Name: updated, Type: in.Type}
			p.pools = append(p.pools, pool{input: i, output: j})
		}
	}
	if len(p.pools) == 0 {
		return inner, nil
	}
	if p.slots < 0 {
		return nil, Internal("the graph gives rows of pools and has no input %q that says where they go", RowSlots)
	}
	return p, nil
}

// pooled is WithPools' executable.
type pooled struct {
	Executable
	info  ExecutableInfo
	slots int // input
	pools []pool
}

// pool is an input and the output that updates it.
type pool struct {
	input, output int
	rows          tensor.Tensor // of the last run; its memory serves the next
}

func (p *pooled) Info() ExecutableInfo { return p.info }

func (p *pooled) Run(ctx context.Context, inputs []Value, out Outputs) error {
	slots, err := p.places(inputs)
	if err != nil {
		return err
	}
	rows := &rowOutputs{Outputs: out, pooled: p, given: make([]bool, len(p.pools))}
	if err := p.Executable.Run(ctx, inputs, rows); err != nil {
		return err
	}
	for i := range p.pools {
		x := &p.pools[i]
		if !out.Wanted(x.output) {
			continue
		}
		if !rows.given[i] {
			return Internal("the backend gave no output %q", p.Executable.Info().Outputs[x.output].Name)
		}
		if err := p.update(x, inputs[x.input], slots, out); err != nil {
			return err
		}
	}
	return nil
}

// places reads the slots and holds them against every pool, before anything runs.
func (p *pooled) places(inputs []Value) ([]int64, error) {
	t, err := inputs[p.slots].Host()
	if err != nil {
		return nil, err
	}
	var slots []int64
	switch t.DType {
	case tensor.Int64:
		slots = tensor.View[int64](t.Aligned())
	case tensor.Int32:
		for _, s := range tensor.View[int32](t.Aligned()) {
			slots = append(slots, int64(s))
		}
	default:
		return nil, Internal("input %q is of %s, wanted int64 or int32", RowSlots, t.DType)
	}
	for i := range p.pools {
		s := inputs[p.pools[i].input].Tensor.Shape
		for _, at := range slots {
			if at < 0 || at >= s[0]*s[1] {
				return nil, Invalid(RowSlots, "it holds %d, pool %q has %d places", at, p.info.Inputs[p.pools[i].input].Name, s[0]*s[1])
			}
		}
	}
	return slots, nil
}

// update writes a run's rows into a pool.
func (p *pooled) update(x *pool, in Value, slots []int64, out Outputs) error {
	shape := in.Tensor.Shape
	row, err := tensor.ByteSize(in.Tensor.DType, shape[2:])
	if err != nil {
		return Internal("%v", err)
	}
	if got, want := int64(len(x.rows.Data)), row*int64(len(slots)); got != want {
		return Internal("output %q has %d bytes of rows, %d tokens have %d", p.Executable.Info().Outputs[x.output].Name, got, len(slots), want)
	}
	if at, room, ok := out.Buffer(x.output); ok && in.Buffer != nil && at.Buffer == in.Buffer && at.Offset == in.Offset {
		if bytes := row * shape[0] * shape[1]; bytes > room {
			return out.Filled(x.output, in.Tensor.DType, shape) // says that it does not fit
		}
		if err := WriteRows(at.Buffer, at.Offset, x.rows.Data, row, slots); err != nil {
			return err
		}
		return out.Filled(x.output, in.Tensor.DType, shape)
	}
	held, err := in.Host()
	if err != nil {
		return err
	}
	t, err := out.Place(x.output, in.Tensor.DType, shape)
	if err != nil {
		return err
	}
	copy(t.Data, held.Data)
	for i, at := range slots {
		copy(t.Data[at*row:(at+1)*row], x.rows.Data[int64(i)*row:])
	}
	return nil
}

// WriteRows writes rows of so many bytes each into a pool that begins at offset, row
// i at place slots[i]; rows that lie side by side there are written together.
func WriteRows(pool Buffer, offset int64, rows []byte, bytes int64, slots []int64) error {
	for i := 0; i < len(slots); {
		n := 1
		for i+n < len(slots) && slots[i+n] == slots[i]+int64(n) {
			n++
		}
		if err := writeAll(pool, rows[int64(i)*bytes:int64(i+n)*bytes], offset+slots[i]*bytes); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// rowOutputs takes the rows of a run, and passes on what is no row.
type rowOutputs struct {
	Outputs
	pooled *pooled
	given  []bool
}

func (r *rowOutputs) pool(i int) int {
	for k := range r.pooled.pools {
		if r.pooled.pools[k].output == i {
			return k
		}
	}
	return -1
}

func (r *rowOutputs) Place(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	k := r.pool(i)
	if k < 0 {
		return r.Outputs.Place(i, d, s)
	}
	x := &r.pooled.pools[k]
	bytes, err := tensor.ByteSize(d, s)
	if err != nil {
		return tensor.Tensor{}, Internal("%v", err)
	}
	if int64(cap(x.rows.Data)) < bytes {
		if x.rows, err = tensor.New(d, s); err != nil {
			return tensor.Tensor{}, Internal("%v", err)
		}
	}
	x.rows.DType, x.rows.Shape, x.rows.Data = d, s.Clone(), x.rows.Data[:bytes]
	r.given[k] = true
	return x.rows, nil
}

func (r *rowOutputs) Buffer(i int) (Value, int64, bool) {
	if r.pool(i) >= 0 {
		return Value{}, 0, false
	}
	return r.Outputs.Buffer(i)
}

func (r *rowOutputs) Give(i int, v graph.Datum) error {
	if r.pool(i) < 0 {
		return r.Outputs.Give(i, v)
	}
	if v.Kind != graph.KindTensor {
		return Internal("output %q came as %s, it is rows", r.pooled.Executable.Info().Outputs[i].Name, describe(v))
	}
	t, err := r.Place(i, v.Tensor.DType, v.Tensor.Shape)
	if err == nil {
		copy(t.Data, v.Tensor.Data)
	}
	return err
}
