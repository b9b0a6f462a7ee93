package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// step is a part of a plan.
type step interface {
	run(ctx context.Context, f *frame) error
}

// frame is the memory of one run.
type frame struct {
	runner  *kernels.Runner
	buffers []kernels.Buffer
	cancel  *atomic.Int32
	heap    map[string]graph.Datum // values whose size came out only now, and those that are no dense tensors
}

// nativeStep is one program of native operations.
type nativeStep struct {
	program *kernels.Program
	labels  []string // node of each operation
}

func (s *nativeStep) run(ctx context.Context, f *frame) error {
	err := f.runner.Run(s.program, f.buffers, f.cancel)
	if err == nil {
		return nil
	}
	var e *kernels.Error
	if !errors.As(err, &e) {
		return err
	}
	at := "the program"
	if e.Op >= 0 && e.Op < len(s.labels) {
		at = "node " + s.labels[e.Op]
	}
	switch e.Code {
	case kernels.CodeCancelled:
		if ctx.Err() != nil {
			return ctx.Err()
		}
	case kernels.CodeIndex, kernels.CodeDivide:
		return backend.Invalid("inputs", "%s: %s", at, e.Text)
	case kernels.CodeMemory:
		return &backend.Error{Code: backend.CodeOutOfMemory, Message: fmt.Sprintf("%s: %s", at, e.Text)}
	}
	return backend.Internal("%s: %s", at, e.Text)
}

// referenceStep runs neighbouring nodes on the reference operators.
type referenceStep struct {
	program *reference.Program
	ops     []string // operators, in order
	reads   []operand
	writes  []operand
	wanted  []string
}

// operand is a value of the plan seen from a reference step.
type operand struct {
	name  string
	dtype tensor.DType
	shape tensor.Shape
	bytes int64
	ref   kernels.Ref
	heap  bool
}

func (p *planner) operand(name string) operand {
	o := operand{name: name, dtype: p.dtype(name), heap: p.heap[name]}
	if !o.heap {
		o.shape = mustShape(p, name)
		o.bytes, _ = tensor.ByteSize(o.dtype, o.shape)
		o.ref = p.ref(name)
	}
	return o
}

// memory is where an operand lies in a run.
func (f *frame) memory(o operand) []byte {
	b := f.buffers[o.ref.Buffer]
	if o.bytes == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Add(b.Data, o.ref.Offset)), o.bytes)
}

func (p *planner) referenceStep(units []*unit) (step, error) {
	g := &graph.Graph{Name: p.model.Graph.Name}
	inside := map[string]bool{}
	nodes := map[*graph.Node]bool{}
	s := &referenceStep{}
	for _, u := range units {
		for _, n := range u.nodes {
			g.Nodes = append(g.Nodes, n)
			s.ops = append(s.ops, n.OpType)
			nodes[n] = true
		}
		for _, w := range u.writes {
			inside[w] = true
		}
	}
	seen := map[string]bool{}
	for _, u := range units {
		for _, r := range u.reads {
			if inside[r] || seen[r] {
				continue
			}
			seen[r] = true
			if c := p.constants[r]; c != nil {
				g.Initializers = append(g.Initializers, c)
				continue
			}
			if p.types[r] == nil && !p.heap[r] {
				return nil, fmt.Errorf("node %s reads %s, whose type is not known", u.label(), r)
			}
			g.Inputs = append(g.Inputs, &graph.Value{Name: r, Type: p.types[r]})
			s.reads = append(s.reads, p.operand(r))
		}
		for _, w := range u.writes {
			if w == "" || !p.readOutside(w, nodes) {
				continue
			}
			g.Outputs = append(g.Outputs, &graph.Value{Name: w, Type: p.types[w]})
			s.writes = append(s.writes, p.operand(w))
			s.wanted = append(s.wanted, w)
		}
	}
	m := *p.model
	m.Graph = g
	prog, err := reference.New(&m, reference.Options{})
	if err != nil {
		return nil, err
	}
	s.program = prog
	return s, nil
}

func (p *planner) readOutside(value string, nodes map[*graph.Node]bool) bool {
	return p.index.IsOutput(value) || slices.ContainsFunc(p.index.Uses(value), func(u graph.Use) bool { return !nodes[u.Node] })
}

func (s *referenceStep) run(ctx context.Context, f *frame) error {
	in := make(map[string]graph.Datum, len(s.reads))
	for _, o := range s.reads {
		if o.heap {
			in[o.name] = f.heap[o.name]
			continue
		}
		in[o.name] = graph.TensorDatum(tensor.Tensor{DType: o.dtype, Shape: o.shape, Data: f.memory(o)})
	}
	out, err := s.program.RunValues(ctx, in, s.wanted)
	if err != nil {
		return explain(err)
	}
	for _, o := range s.writes {
		if o.heap {
			f.heap[o.name] = out[o.name]
			continue
		}
		t := out[o.name].Tensor
		if t.DType != o.dtype || !t.Shape.Equal(o.shape) {
			return backend.Internal("value %s came out as %s%v, planned was %s%v", o.name, t.DType, t.Shape, o.dtype, o.shape)
		}
		copy(f.memory(o), t.Data)
	}
	return nil
}

// explain gives an error of the reference operators its place in the protocol.
func explain(err error) error {
	var mem *reference.MemoryError
	var internal *reference.InternalError
	var node *reference.NodeError
	switch {
	case errors.As(err, &mem):
		return &backend.Error{Code: backend.CodeOutOfMemory, Message: err.Error(), Needed: mem.Needed, Free: max(mem.Limit-mem.Held, 0)}
	case errors.As(err, &internal):
		return backend.Internal("%v", err)
	case errors.As(err, &node):
		// The graph was taken, so the values are to blame: an index out of range.
		return backend.Invalid("inputs", "%v", err)
	}
	return err
}

func invSqrt(n int64) float32 { return float32(1 / math.Sqrt(float64(n))) }
