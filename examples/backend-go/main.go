// Command accel-backend-tiny computes operators of float32 in plain Go: see docs/backends.md.
package main

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const capacity = 4 << 30 // bytes that the device says to have

func main() { backend.Serve(tiny{}) }

type tiny struct{} // implements backend.Backend
func (tiny) Describe(context.Context) (backend.Info, error) {
	return backend.Info{Name: "tiny", Version: "0.1.0"}, nil
}

func (tiny) Configure(_ context.Context, settings json.RawMessage) ([]string, error) {
	if string(settings) == "{}" {
		return nil, nil
	}
	return nil, backend.Invalid("settings_json", "this backend has no settings, it was given %s", settings)
}

func (tiny) Watch(_ context.Context, update func([]backend.Device)) error {
	update([]backend.Device{{ID: "0", Platform: "tiny", Name: "plain Go", Kind: backend.Hardware, Health: backend.Healthy,
		MemoryTotal: capacity, MemoryFree: capacity, ElementTypes: []tensor.DType{tensor.Float32}, Attention: backend.AttentionBody, RuntimeVersion: "0.1.0"}})
	return nil // nothing will change
}

// operators work element by element; what has one input ignores y.
var operators = map[string]func(x, y float32) float32{
	"Add": func(x, y float32) float32 { return x + y }, "Mul": func(x, y float32) float32 { return x * y },
	"Neg": func(x, _ float32) float32 { return -x }, "Relu": func(x, _ float32) float32 { return max(x, 0) },
}

func same(a, b graph.Dim) bool { return a == b && a != graph.Sym("") } // and not both unknown

// judge says whether a node is taken. Of what a refused node gives no type is known.
func judge(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	if operators[n.OpType] == nil || n.Domain != graph.DomainONNX || len(n.Inputs) > 2 {
		return backend.Refuse(backend.RefusedOperator, "there is no code for "+n.OpType)
	}
	x, y := types[n.Inputs[0]], types[n.Inputs[len(n.Inputs)-1]]
	if x != nil && x.Elem != tensor.Float32 {
		return backend.Refuse(backend.RefusedElementType, "only float32 is computed with")
	} else if x != nil && y != nil && !(x.HasShape && y.HasShape && slices.EqualFunc(x.Dims, y.Dims, same)) {
		return backend.Refuse(backend.RefusedAttribute, "nothing is broadcast")
	}
	return backend.Accept
}

func (tiny) Assess(_ context.Context, _, dir string) (a backend.Assessment, err error) {
	m, err := backend.LoadModel(dir)
	if err == nil {
		defer m.Close()
		_ = graph.Infer(m) // as far as it can tell
		for _, n := range m.Graph.Nodes {
			a.Nodes = append(a.Nodes, judge(n, m.Graph.Types()))
		}
	}
	return a, err
}

func (t tiny) Compile(ctx context.Context, spec backend.CompileSpec, _ func(string, float64)) (backend.Executable, error) {
	m, err := backend.LoadModel(spec.Dir)
	if err != nil {
		return nil, err
	}
	e := &executable{Model: m}
	for _, w := range m.Graph.Initializers {
		e.info.Memory += int64(len(w.Tensor.Data))
	}
	for _, v := range m.Graph.Inputs {
		e.info.Inputs = append(e.info.Inputs, *v)
	}
	for _, v := range m.Graph.Outputs {
		e.info.Outputs = append(e.info.Outputs, *v)
	}
	a, err := t.Assess(ctx, spec.Device, spec.Dir)
	for i, v := range a.Nodes {
		if !v.OK {
			err = backend.Unsupported(v.Reason, m.Graph.Nodes[i].Name)
		}
	}
	if spec.MemoryBudget > 0 && e.info.Memory > spec.MemoryBudget {
		err = backend.OutOfMemory("the graph", e.info.Memory, spec.MemoryBudget)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return e, nil
}

type executable struct { // goes through its graph node by node
	*graph.Model // and its Close, which unmaps the weights
	info         backend.ExecutableInfo
}

func (e *executable) Info() backend.ExecutableInfo { return e.info }
func (e *executable) Run(ctx context.Context, inputs []backend.Value, out backend.Outputs) (err error) {
	values := map[string]tensor.Tensor{}
	for _, w := range e.Graph.Initializers {
		values[w.Name] = w.Tensor.Aligned() // as it is mapped, if it can be used so
	}
	for i, v := range inputs {
		if values[e.info.Inputs[i].Name], err = v.Host(); err != nil {
			return err
		}
	}
	for _, n := range e.Graph.Nodes {
		if ctx.Err() != nil { // the run was cancelled
			return ctx.Err()
		}
		x, y := values[n.Inputs[0]], values[n.Inputs[len(n.Inputs)-1]]
		z := make([]float32, x.Len())
		for i, a := range tensor.View[float32](x) {
			z[i] = operators[n.OpType](a, tensor.View[float32](y)[i])
		}
		values[n.Outputs[0]] = tensor.Floats(x.Shape, z...)
	}
	for i, v := range e.info.Outputs {
		if out.Wanted(i) && err == nil {
			err = out.Give(i, graph.TensorDatum(values[v.Name]))
		}
	}
	return err
}

func (tiny) Alloc(_ context.Context, _ string, bytes int64) (backend.Buffer, error) {
	if bytes > capacity {
		return nil, backend.OutOfMemory("the buffer", bytes, capacity)
	}
	return buffer(make([]byte, bytes)), nil
}
func (tiny) Close() error { return nil }

type buffer []byte // memory of the device

func (b buffer) Size() int64                             { return int64(len(b)) }
func (b buffer) ReadAt(p []byte, at int64) (int, error)  { return copy(p, b[at:]), nil }
func (b buffer) WriteAt(p []byte, at int64) (int, error) { return copy(b[at:], p), nil }
func (b buffer) Close() error                            { return nil }
