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
	"Mod": kernels.FnMod, "Floor": kernels.FnFloor, "Ceil": kernels.FnCeil, "Round": kernels.FnRound, "Softplus": kernels.FnSoftplus, "IsNaN": kernels.FnIsNaN,
	"Sin": kernels.FnSin, "Cos": kernels.FnCos, "Tan": kernels.FnTan, "Asin": kernels.FnAsin, "Acos": kernels.FnAcos, "Atan": kernels.FnAtan,
	"Sinh": kernels.FnSinh, "Cosh": kernels.FnCosh, "Asinh": kernels.FnAsinh, "Acosh": kernels.FnAcosh, "Atanh": kernels.FnAtanh,
}

// composedFns are operators that take several steps of a Map, of f32. Their operands stand in
// the node's order; one that is left out is absent.
var composedFns = map[string]func(c *chain, n *graph.Node, a []uint8) (uint8, bool){
	"Clip": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		x, ok := a[0], true
		// Before operator set 11 the bounds were attributes.
		bound := func(i int, attr string, fn kernels.Fn) {
			if at := n.Attr(attr); at != nil && at.Kind == graph.AttrFloat {
				x = c.then(&ok, fn, x, c.imm(&ok, at.Float))
			} else if i < len(a) && a[i] != absent {
				x = c.then(&ok, fn, x, a[i])
			}
		}
		bound(1, "min", kernels.FnMax)
		bound(2, "max", kernels.FnMin)
		if x == a[0] {
			x = c.then(&ok, kernels.FnCopy, x, x)
		}
		return x, ok
	},
	"LeakyRelu": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		ok := true
		low := c.then(&ok, kernels.FnMul, a[0], c.imm(&ok, n.AttrFloat("alpha", 0.01)))
		return c.where(&ok, c.negative(&ok, a[0]), low, a[0]), ok
	},
	"PRelu": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		// Before operator set 7 a slope of one dimension is along the channels.
		ok := c.p.model.Opsets[graph.DomainONNX] >= 7 || c.p.elements(n.Inputs[1]) == 1
		low := c.then(&ok, kernels.FnMul, a[0], a[1])
		return c.where(&ok, c.negative(&ok, a[0]), low, a[0]), ok
	},
	"HardSigmoid": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		ok := true
		return c.hardSigmoid(&ok, a[0], n.AttrFloat("alpha", 0.2), n.AttrFloat("beta", 0.5)), ok
	},
	"HardSwish": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		ok := true
		return c.then(&ok, kernels.FnMul, a[0], c.hardSigmoid(&ok, a[0], 1.0/6, 0.5)), ok
	},
	"ThresholdedRelu": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		ok := true
		above := c.then(&ok, kernels.FnGt, a[0], c.imm(&ok, n.AttrFloat("alpha", 1)))
		return c.where(&ok, above, a[0], c.imm(&ok, 0)), ok
	},
	"Softsign": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		ok := true
		size := c.then(&ok, kernels.FnAdd, c.then(&ok, kernels.FnAbs, a[0], a[0]), c.imm(&ok, 1))
		return c.then(&ok, kernels.FnDiv, a[0], size), ok
	},
	"Mish": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		ok := true
		soft := c.then(&ok, kernels.FnSoftplus, a[0], a[0])
		return c.then(&ok, kernels.FnMul, a[0], c.then(&ok, kernels.FnTanh, soft, soft)), ok
	},
	"Sum": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) { return c.over(kernels.FnAdd, a) },
	"Min": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) { return c.over(kernels.FnMin, a) },
	"Max": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) { return c.over(kernels.FnMax, a) },
	"Mean": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		sum, ok := c.over(kernels.FnAdd, a)
		return c.then(&ok, kernels.FnDiv, sum, c.imm(&ok, float32(len(a)))), ok
	},
	"Cast": func(c *chain, n *graph.Node, a []uint8) (uint8, bool) {
		return c.step(kernels.Step{Fn: kernels.FnCopy, A: a[0], B: a[0], C: a[0]})
	},
}

// ofInts are composed operators that are right for int64 as well.
var ofInts = []string{"Clip", "Min", "Max", "Sum"}

// absent is the operand of an input that is left out.
const absent = 255

// function is what a node computes elementwise, and in which type. alone says that
// its operands are rounded to a type that a Map does not compute in, so that it can't be
// part of a longer chain.
type function struct {
	fn      kernels.Fn // 0: composed
	compute tensor.DType
	alone   bool
}

func (p *planner) function(n *graph.Node) (f function, ok bool) {
	if n.Domain != graph.DomainONNX || len(n.Outputs) != 1 || len(n.Inputs) == 0 || n.Inputs[0] == "" {
		return f, false
	}
	var known bool
	if f.fn, known = elementwiseFns[n.OpType]; !known && composedFns[n.OpType] == nil {
		return f, false
	}
	if !p.fixed(n.Inputs) || !p.fixed(n.Outputs) || p.elements(n.Outputs[0]) == 0 {
		return f, false
	}
	operands := n.Inputs
	switch n.OpType {
	case "Gelu":
		if n.AttrString("approximate", "none") == "tanh" {
			f.fn = kernels.FnGeluTanh
		}
	case "Swish":
		if n.AttrFloat("alpha", 1) != 1 {
			return f, false
		}
	case "Mod":
		if n.AttrInt("fmod", 0) != 0 {
			f.fn = kernels.FnFmod
		}
	case "Where":
		operands = n.Inputs[1:] // the condition aside
	case "Min", "Max":
		if len(n.Inputs) != 2 {
			f.fn = 0
		}
	case "Cast":
		// What is read is f32 to the chain, whatever it is stored as; what is written is the end of one.
		from, to := p.dtype(n.Inputs[0]), p.dtype(n.Outputs[0])
		f.compute = tensor.Float32
		f.alone = to != tensor.Float32
		small := from == tensor.Float16 || from == tensor.BFloat16 || from == tensor.Bool || from == tensor.Uint8 || from == tensor.Int8 || from == tensor.Int32 || from == tensor.Int64
		return f, from == tensor.Float32 && slices.Contains(castable, to) || small && to == tensor.Float32
	}
	for _, o := range operands {
		if o != "" && p.dtype(o) != p.dtype(operands[0]) {
			return f, false
		}
	}
	if f.fn != 0 && slices.Contains(n.Inputs, "") {
		return f, false
	}
	switch p.dtype(operands[0]) {
	case tensor.Float32, tensor.Bool:
		f.compute = tensor.Float32
		return f, true
	case tensor.Float16, tensor.BFloat16:
		f.compute, f.alone = tensor.Float32, true
		return f, true
	case tensor.Int64:
		f.compute = tensor.Int64
	case tensor.Int32, tensor.Int16, tensor.Int8, tensor.Uint8:
		f.compute, f.alone = tensor.Int64, true
	default:
		return f, false
	}
	if f.fn == 0 {
		return f, slices.Contains(ofInts, n.OpType)
	}
	return f, f.fn < kernels.FnSqrt && f.fn != kernels.FnPow
}

// chain collects the steps of a Map.
type chain struct {
	p       *planner
	compute tensor.DType
	shape   tensor.Shape
	inputs  []string
	scalars map[string]uint8 // constants of one element, by name: their step
	whole   bool             // nothing is absorbed any more
	steps   []kernels.Step
	nodes   []*graph.Node
}

// elementwise: a tree of elementwise operators that ends in n, as much of it as
// nobody else reads.
func (p *planner) elementwise(n *graph.Node) *unit {
	f, ok := p.function(n)
	if !ok {
		return nil
	}
	out := n.Outputs[0]
	shape, _ := p.shape(out)
	c := &chain{p: p, compute: f.compute, shape: shape, whole: f.alone && f.compute == tensor.Int64 || f.alone && n.OpType != "Cast"}
	c.reset()
	if _, ok := c.node(n, f.fn); !ok || len(c.inputs) == 0 {
		c.whole = true
		c.reset()
		if _, ok := c.node(n, f.fn); !ok || len(c.inputs) == 0 {
			return nil
		}
	}
	dims, strides := c.collapsed()
	if len(dims) > kernels.MapRank {
		return nil
	}
	slices.SortFunc(c.nodes, func(a, b *graph.Node) int { return p.position[a] - p.position[b] })
	u := &unit{nodes: c.nodes, reads: c.inputs, writes: n.Outputs}
	u.emit = func(p *planner, prog *kernels.Program) error {
		op := &kernels.Map{Compute: uint32(c.compute), Inputs: uint32(len(c.inputs)), Steps: uint32(len(c.steps))}
		copy(op.Step[:], c.steps)
		op.Rank = uint32(len(dims))
		copy(op.Dims[:], dims)
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

func (c *chain) reset() {
	c.inputs, c.steps, c.nodes, c.scalars = nil, nil, nil, map[string]uint8{}
}

// node adds the steps of n and of what it alone reads; it returns n's operand.
func (c *chain) node(n *graph.Node, fn kernels.Fn) (uint8, bool) {
	c.nodes = append(c.nodes, n)
	args := make([]uint8, max(3, len(n.Inputs)))
	for i, in := range n.Inputs {
		if in == "" {
			args[i] = absent
			continue
		}
		a, ok := c.operand(in)
		if !ok {
			return 0, false
		}
		args[i] = a
	}
	if fn == 0 {
		return composedFns[n.OpType](c, n, args[:len(n.Inputs)])
	}
	return c.step(kernels.Step{Fn: fn, A: args[0], B: args[1], C: args[2]})
}

// then adds a step of two operands (one, for functions of one) unless a step before it has found no room.
func (c *chain) then(ok *bool, fn kernels.Fn, a, b uint8) uint8 {
	if !*ok {
		return 0
	}
	r, fits := c.step(kernels.Step{Fn: fn, A: a, B: b})
	*ok = fits
	return r
}

func (c *chain) where(ok *bool, condition, yes, no uint8) uint8 {
	if !*ok {
		return 0
	}
	r, fits := c.step(kernels.Step{Fn: kernels.FnWhere, A: condition, B: yes, C: no})
	*ok = fits
	return r
}

// imm is a number as an operand, in the type that is computed in.
func (c *chain) imm(ok *bool, v float32) uint8 {
	if !*ok {
		return 0
	}
	imm := int64(math.Float32bits(v))
	if c.compute == tensor.Int64 {
		imm = int64(v)
	}
	r, fits := c.step(kernels.Step{Fn: kernels.FnConst, Imm: imm})
	*ok = fits
	return r
}

func (c *chain) negative(ok *bool, x uint8) uint8 { return c.then(ok, kernels.FnLt, x, c.imm(ok, 0)) }

func (c *chain) hardSigmoid(ok *bool, x uint8, alpha, beta float32) uint8 {
	y := c.then(ok, kernels.FnAdd, c.then(ok, kernels.FnMul, x, c.imm(ok, alpha)), c.imm(ok, beta))
	return c.then(ok, kernels.FnMin, c.then(ok, kernels.FnMax, y, c.imm(ok, 0)), c.imm(ok, 1))
}

// over joins any number of operands.
func (c *chain) over(fn kernels.Fn, a []uint8) (uint8, bool) {
	ok, x := true, a[0]
	for _, b := range a[1:] {
		x = c.then(&ok, fn, x, b)
	}
	if len(a) == 1 {
		x = c.then(&ok, kernels.FnCopy, x, x)
	}
	return x, ok
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
	if n := c.p.index.Producer(name); n != nil && !c.whole && !c.p.done[n] && c.p.next(name) != nil && len(c.steps)+2*len(c.nodes) < kernels.MapSteps-4 {
		f, ok := c.p.function(n)
		s, _ := c.p.shape(name)
		if ok && f.compute == c.compute && !f.alone && s.Equal(c.shape) && len(c.inputs)+len(n.Inputs) < kernels.MapInputs {
			return c.absorb(n, f.fn, name)
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
