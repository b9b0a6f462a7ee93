package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"unsafe"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// maxPlans bounds the shapes whose plans an executable keeps; the longest unused
// goes. A plan of a decoder of 24 layers has about 250 KB.
const maxPlans = 128

// executable is a graph that plans itself for each set of shapes it meets.
type executable struct {
	model   *graph.Model
	info    backend.ExecutableInfo
	runner  *kernels.Runner
	weights *packedWeights

	plans []*planned // last used first
	arena []byte
}

type planned struct {
	*plan
	wanted []bool
}

func newExecutable(m *graph.Model, runner *kernels.Runner, weights *packedWeights) (*executable, error) {
	weights.read(m.Graph)
	nameDims(m.Graph)
	forgetShapes(m.Graph)
	if err := graph.Infer(m); err != nil {
		return nil, backend.Invalid("graph_dir", "%v", err)
	}
	e := &executable{model: m, runner: runner, weights: weights}
	constants := map[string]bool{}
	for _, in := range m.Graph.Initializers {
		constants[in.Name] = true
	}
	types := m.Graph.Types()
	for _, v := range m.Graph.Inputs {
		if !constants[v.Name] {
			e.info.Inputs = append(e.info.Inputs, *v)
		}
	}
	for _, v := range m.Graph.Outputs {
		o := *v
		if t := types[v.Name]; t != nil {
			o.Type = t
		}
		e.info.Outputs = append(e.info.Outputs, o)
	}
	return e, nil
}

// forgetShapes leaves only what inference finds out: a model may declare a shape
// that depends on the data, and a plan must not count on it.
func forgetShapes(g *graph.Graph) {
	g.Values = nil
	for _, v := range g.Outputs {
		if v.Type != nil && v.Type.Kind == graph.KindTensor {
			v.Type = &graph.Type{Kind: graph.KindTensor, Elem: v.Type.Elem}
		}
	}
}

// nameDims gives a name to input dimensions that have neither name nor size, so
// that every shape can be bound.
func nameDims(g *graph.Graph) {
	for _, v := range g.Inputs {
		if v.Type == nil {
			continue
		}
		for i := range v.Type.Dims {
			if d := &v.Type.Dims[i]; d.Size < 0 && d.Param == "" {
				d.Param = v.Name + "." + strconv.Itoa(i)
			}
		}
	}
}

func (e *executable) Info() backend.ExecutableInfo { return e.info }

func (e *executable) Run(ctx context.Context, inputs []backend.Value, out backend.Outputs) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := e.planFor(inputs, out)
	if err != nil {
		return err
	}
	if int64(len(e.arena)) < p.arena {
		e.arena = alignedBytes(p.arena)
	}
	// Runs of an executable come one after another: the frame is the plan's own.
	f := &p.frame
	f.runner, f.buffers, f.cancel = e.runner, p.buffers, nil
	if f.heap == nil {
		f.heap = map[string]graph.Datum{}
	}
	defer clear(f.heap)
	maps.Copy(f.heap, p.heap)
	f.buffers[arenaBuffer] = kernels.BufferOf(e.arena)
	for _, b := range p.inputs {
		v := inputs[b.index]
		if b.shape == nil && v.Buffer == nil {
			f.heap[b.name] = v.Datum
			continue
		}
		t, err := hostTensor(v)
		if err != nil {
			return err
		}
		f.buffers[b.buffer] = kernels.BufferOf(t.Data)
		if b.shape == nil {
			f.heap[b.name] = graph.TensorDatum(t)
		}
	}
	for _, b := range p.outputs {
		if b.shape == nil {
			continue
		}
		data, err := b.memory(inputs, out)
		if err != nil {
			return err
		}
		f.buffers[b.buffer] = kernels.BufferOf(data)
	}
	if ctx.Done() != nil {
		f.cancel = &atomic.Int32{}
		stop := context.AfterFunc(ctx, func() { f.cancel.Store(1) })
		defer stop()
	}
	for _, s := range p.steps {
		if err := s.run(ctx, f); err != nil {
			return err
		}
	}
	for _, b := range p.outputs {
		if b.shape != nil {
			continue
		}
		v, ok := f.heap[b.name]
		if !ok {
			return backend.Internal("output %s was not computed", b.name)
		}
		if err := out.Give(b.index, v); err != nil {
			return err
		}
	}
	return nil
}

// memory is where an output goes. One that updates an input goes where that lies, if
// both are bound to the same place, and begins as a copy of it if not.
func (b *boundary) memory(inputs []backend.Value, out backend.Outputs) ([]byte, error) {
	if b.updates < 0 {
		t, err := out.Place(b.index, b.dtype, b.shape)
		return t.Data, err
	}
	in := inputs[b.updates]
	from, err := hostTensor(in)
	if err != nil {
		return nil, err
	}
	if at, _, ok := out.Buffer(b.index); ok && in.Buffer != nil && at.Buffer == in.Buffer && at.Offset == in.Offset {
		return from.Data, out.Filled(b.index, from.DType, from.Shape)
	}
	t, err := out.Place(b.index, from.DType, from.Shape)
	copy(t.Data, from.Data)
	return t.Data, err
}

// hostTensor is an input's memory; a buffer of this device is host memory too.
func hostTensor(v backend.Value) (tensor.Tensor, error) {
	t := v.Tensor
	if v.Buffer == nil {
		return t, nil
	}
	b, ok := v.Buffer.(*hostBuffer)
	if !ok {
		return t, backend.Invalid("inputs", "a buffer of another device was bound")
	}
	n, err := tensor.ByteSize(t.DType, t.Shape)
	if err != nil || v.Offset < 0 || v.Offset+n > b.Size() {
		return t, backend.Invalid("inputs", "%s%v at %d reaches beyond a buffer of %d bytes", t.DType, t.Shape, v.Offset, b.Size())
	}
	t.Data = b.data[v.Offset : v.Offset+n]
	return t, nil
}

// planFor finds or makes the plan for these shapes and outputs.
func (e *executable) planFor(inputs []backend.Value, out backend.Outputs) (*plan, error) {
	for i, p := range e.plans {
		if p.fits(inputs, out) {
			copy(e.plans[1:i+1], e.plans[:i])
			e.plans[0] = p
			return p.plan, nil
		}
	}
	p, err := e.makePlan(inputs, out)
	if err != nil {
		return nil, err
	}
	if len(e.plans) == maxPlans {
		e.plans = e.plans[:maxPlans-1]
	}
	e.plans = slices.Insert(e.plans, 0, p)
	return p.plan, nil
}

func (p *planned) fits(inputs []backend.Value, out backend.Outputs) bool {
	for i, w := range p.wanted {
		if w != out.Wanted(i) {
			return false
		}
	}
	for _, b := range p.inputs {
		shape := inputs[b.index].Tensor.Shape
		if len(shape) != len(b.bound) {
			return false
		}
		for i, n := range b.bound {
			if n != shape[i] && n >= 0 {
				return false
			}
		}
	}
	return true
}

func (e *executable) makePlan(inputs []backend.Value, out backend.Outputs) (*planned, error) {
	m := e.model.Clone()
	defer m.Close()
	dims := map[string]int64{}
	inputIndex := map[string]int{}
	for i, v := range e.info.Inputs {
		inputIndex[v.Name] = i
		if v.Type == nil || !v.Type.HasShape {
			continue
		}
		for j, d := range v.Type.Dims {
			if d.Param != "" {
				dims[d.Param] = inputs[i].Tensor.Shape[j]
			}
		}
	}
	p := &planned{wanted: make([]bool, len(e.info.Outputs))}
	outputIndex := map[string]int{}
	m.Graph.Outputs = slices.DeleteFunc(m.Graph.Outputs, func(v *graph.Value) bool {
		i := slices.IndexFunc(e.info.Outputs, func(o graph.Value) bool { return o.Name == v.Name })
		p.wanted[i] = out.Wanted(i)
		outputIndex[v.Name] = i
		return !p.wanted[i]
	})
	m.Prune()
	if err := graph.Bind(m, dims); err != nil {
		return nil, backend.Invalid("inputs", "these shapes do not fit the graph: %v", err)
	}
	var err error
	p.plan, err = newPlan(m, inputIndex, outputIndex, e.runner, e.weights)
	e.weights.packed()
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", m.Graph.Name, err)
	}
	for i := range p.inputs {
		b := &p.inputs[i]
		b.bound = inputs[b.index].Tensor.Shape.Clone()
		for _, dim := range b.free {
			b.bound[dim] = -1
		}
	}
	return p, nil
}

func (e *executable) Close() error {
	e.plans, e.arena = nil, nil
	err := e.weights.Close()
	if cerr := e.model.Close(); err == nil {
		err = cerr
	}
	return err
}

// alignedBytes is memory that begins at a cache line.
func alignedBytes(n int64) []byte {
	b := make([]byte, n+memoryAlign)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (memoryAlign - 1)
	return b[skip : int64(skip)+n : int64(skip)+n]
}
