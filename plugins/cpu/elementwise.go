package main

import (
	"math"
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// elementwiseFns are the operators that a Map computes one to one.
var elementwiseFns = map[string]kernels.Fn{
	"Add": kernels.FnAdd, "Sub": kernels.FnSub, "Mul": kernels.FnMul, "Div": kernels.FnDiv, "Min": kernels.FnMin, "Max": kernels.FnMax,
	"Neg": kernels.FnNeg, "Abs": kernels.FnAbs, "Sign": kernels.FnSign, "Pow": kernels.FnPow,
	"Equal": kernels.FnEq, "Less": kernels.FnLt, "LessOrEqual": kernels.FnLe, "Greater": kernels.FnGt, "GreaterOrEqual": kernels.FnGe,
	"And": kernels.FnAnd, "Or": kernels.FnOr, "Xor": kernels.FnXor, "Not": kernels.FnNot, "Where": kernels.FnWhere,
	"Sqrt": kernels.FnSqrt, "Reciprocal": kernels.FnRecip, "Exp": kernels.FnExp, "Log": kernels.FnLog, "Tanh": kernels.FnTanh,
	"Erf": kernels.FnErf, "Sigmoid": kernels.FnSigmoid, "Gelu": kernels.FnGeluErf, "Relu": kernels.FnRelu, "Swish": kernels.FnSilu,
	"Floor": kernels.FnFloor, "Ceil": kernels.FnCeil, "Round": kernels.FnRound, "Softplus": kernels.FnSoftplus, "IsNaN": kernels.FnIsNaN,
	"Sin": kernels.FnSin, "Cos": kernels.FnCos, "Tan": kernels.FnTan, "Asin": kernels.FnAsin, "Acos": kernels.FnAcos, "Atan": kernels.FnAtan,
	"Sinh": kernels.FnSinh, "Cosh": kernels.FnCosh, "Asinh": kernels.FnAsinh, "Acosh": kernels.FnAcosh, "Atanh": kernels.FnAtanh,
}

// function is what a node computes elementwise, and in which type.
func (p *planner) function(n *graph.Node) (fn kernels.Fn, compute tensor.DType, ok bool) {
	if n.Domain != graph.DomainONNX || len(n.Outputs) != 1 {
		return 0, 0, false
	}
	fn, ok = elementwiseFns[n.OpType]
	if !ok || !p.fixed(n.Inputs) || !p.fixed(n.Outputs) || p.elements(n.Outputs[0]) == 0 || len(n.Inputs) > 3 {
		return 0, 0, false
	}
	switch n.OpType {
	case "Gelu":
		if n.AttrString("approximate", "none") == "tanh" {
			fn = kernels.FnGeluTanh
		}
	case "Swish":
		if n.AttrFloat("alpha", 1) != 1 {
			return 0, 0, false
		}
	case "Min", "Max":
		if len(n.Inputs) != 2 {
			return 0, 0, false
		}
	}
	// The type of the operands, the condition of a Where aside.
	operands := n.Inputs
	if n.OpType == "Where" {
		operands = n.Inputs[1:]
	}
	d := p.dtype(operands[0])
	for _, o := range operands {
		if p.dtype(o) != d {
			return 0, 0, false
		}
	}
	switch d {
	case tensor.Float32, tensor.Bool:
		return fn, tensor.Float32, true
	case tensor.Int64:
		return fn, tensor.Int64, fn < kernels.FnSqrt && fn != kernels.FnPow
	}
	return 0, 0, false
}

// chain collects the steps of a Map.
type chain struct {
	p       *planner
	compute tensor.DType
	shape   tensor.Shape
	inputs  []string
	scalars map[string]uint8 // constants of one element, by name: their step
	steps   []kernels.Step
	nodes   []*graph.Node
}

// elementwise: a tree of elementwise operators that ends in n, as much of it as
// nobody else reads.
func (p *planner) elementwise(n *graph.Node) *unit {
	fn, compute, ok := p.function(n)
	if !ok {
		return nil
	}
	shape, _ := p.shape(n.Outputs[0])
	if len(shape) > kernels.MapRank {
		return nil
	}
	c := &chain{p: p, compute: compute, shape: shape, scalars: map[string]uint8{}}
	if _, ok := c.node(n, fn); !ok {
		return nil
	}
	slices.SortFunc(c.nodes, func(a, b *graph.Node) int { return p.position[a] - p.position[b] })
	u := &unit{nodes: c.nodes, reads: c.inputs, writes: n.Outputs}
	u.emit = func(p *planner, prog *kernels.Program) error {
		op := &kernels.Map{Compute: uint32(compute), Inputs: uint32(len(c.inputs)), Steps: uint32(len(c.steps))}
		copy(op.Step[:], c.steps)
		dims, strides := c.collapsed()
		op.Rank = uint32(len(dims))
		copy(op.Dims[:], dims)
		out := n.Outputs[0]
		op.Out = kernels.MapOperand{Data: p.ref(out), DType: uint32(p.dtype(out))}
		copy(op.Out.Stride[:], strides[len(c.inputs)])
		for i, in := range c.inputs {
			op.In[i] = kernels.MapOperand{Data: p.ref(in), DType: uint32(p.dtype(in))}
			copy(op.In[i].Stride[:], strides[i])
		}
		prog.Add(op)
		return nil
	}
	return u
}

// node adds the steps of n and of what it alone reads; it returns n's operand.
func (c *chain) node(n *graph.Node, fn kernels.Fn) (uint8, bool) {
	c.nodes = append(c.nodes, n)
	var args [3]uint8
	for i, in := range n.Inputs {
		a, ok := c.operand(in)
		if !ok {
			return 0, false
		}
		args[i] = a
	}
	return c.step(kernels.Step{Fn: fn, A: args[0], B: args[1], C: args[2]})
}

func (c *chain) step(s kernels.Step) (uint8, bool) {
	if len(c.steps) == kernels.MapSteps {
		return 0, false
	}
	c.steps = append(c.steps, s)
	return kernels.StepResult(len(c.steps) - 1), true
}

func (c *chain) operand(name string) (uint8, bool) {
	if i := slices.Index(c.inputs, name); i >= 0 {
		return uint8(i), true
	}
	if s, ok := c.scalar(name); ok {
		return s, true
	}
	// Room is kept for the operands that are still to come.
	if n := c.p.index.Producer(name); n != nil && !c.p.done[n] && c.p.next(name) != nil && len(c.steps)+2*len(c.nodes) < kernels.MapSteps-4 {
		fn, compute, ok := c.p.function(n)
		s, _ := c.p.shape(name)
		if ok && compute == c.compute && s.Equal(c.shape) && len(c.inputs)+len(n.Inputs) < kernels.MapInputs {
			return c.absorb(n, fn, name)
		}
	}
	return c.input(name)
}

// absorb takes a producer in, or leaves the chain as it was and reads its output.
func (c *chain) absorb(n *graph.Node, fn kernels.Fn, name string) (uint8, bool) {
	inputs, steps, nodes := len(c.inputs), len(c.steps), len(c.nodes)
	if r, ok := c.node(n, fn); ok && len(c.inputs) < kernels.MapInputs && len(c.steps) < kernels.MapSteps-3 {
		return r, true
	}
	c.inputs, c.steps, c.nodes = c.inputs[:inputs], c.steps[:steps], c.nodes[:nodes]
	for k, v := range c.scalars {
		if v >= kernels.StepResult(steps) {
			delete(c.scalars, k)
		}
	}
	return c.input(name)
}

func (c *chain) input(name string) (uint8, bool) {
	s, ok := c.p.shape(name)
	d := c.p.dtype(name)
	if !ok || len(c.inputs) == kernels.MapInputs || d == tensor.Float64 || d.Bits() < 8 || c.compute == tensor.Int64 && d.IsFloat() {
		return 0, false
	}
	if len(s) > len(c.shape) {
		return 0, false
	}
	c.inputs = append(c.inputs, name)
	return uint8(len(c.inputs) - 1), true
}

// scalar makes a step of a constant of one element.
func (c *chain) scalar(name string) (uint8, bool) {
	if s, ok := c.scalars[name]; ok {
		return s, true
	}
	k := c.p.constants[name]
	if k == nil || c.p.elements(name) != 1 || len(k.Tensor.Shape) > len(c.shape) {
		return 0, false
	}
	var imm int64
	switch {
	case c.compute == tensor.Float32 && k.Tensor.DType == tensor.Float32:
		imm = int64(math.Float32bits(tensor.View[float32](k.Tensor.Aligned())[0]))
	case c.compute == tensor.Int64 && k.Tensor.DType == tensor.Int64:
		imm = tensor.View[int64](k.Tensor.Aligned())[0]
	default:
		return 0, false
	}
	s, ok := c.step(kernels.Step{Fn: kernels.FnConst, Imm: imm})
	if ok {
		c.scalars[name] = s
	}
	return s, ok
}

// collapsed merges neighbouring dimensions wherever all operands allow it. The
// output's strides come last.
func (c *chain) collapsed() (dims []int64, strides [][]int64) {
	shapes := make([]tensor.Shape, 0, len(c.inputs)+1)
	for _, in := range c.inputs {
		s, _ := c.p.shape(in)
		shapes = append(shapes, s)
	}
	shapes = append(shapes, c.shape)
	full := make([][]int64, len(shapes))
	for i, s := range shapes {
		full[i] = broadcastStrides(s, c.shape)
	}
	strides = make([][]int64, len(shapes))
	for d := range c.shape {
		if c.shape[d] == 1 {
			continue
		}
		mergeable := len(dims) > 0
		for i := range full {
			if mergeable && strides[i][len(dims)-1] != full[i][d]*c.shape[d] {
				mergeable = false
			}
		}
		if mergeable {
			dims[len(dims)-1] *= c.shape[d]
			for i := range full {
				strides[i][len(dims)-1] = full[i][d]
			}
			continue
		}
		dims = append(dims, c.shape[d])
		for i := range full {
			strides[i] = append(strides[i], full[i][d])
		}
	}
	if len(dims) == 0 {
		dims = []int64{1}
		for i := range strides {
			strides[i] = []int64{1}
		}
	}
	return dims, strides
}

// denseStrides are the strides of a row-major tensor, in elements.
func denseStrides(s tensor.Shape) []int64 {
	out := make([]int64, len(s))
	n := int64(1)
	for i := len(s) - 1; i >= 0; i-- {
		out[i] = n
		n *= s[i]
	}
	return out
}

// broadcastStrides are the strides of s seen as to: 0 where it repeats.
func broadcastStrides(s, to tensor.Shape) []int64 {
	out := make([]int64, len(to))
	dense := denseStrides(s)
	for i := range s {
		if s[i] != 1 {
			out[len(to)-len(s)+i] = dense[i]
		}
	}
	return out
}
