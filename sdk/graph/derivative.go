package graph

import (
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

// derivative writes the nodes that make, of dy, the derivative of a value by a node's
// first output, those by its inputs: by position, of those that are wanted. What it
// writes has derivatives itself, or gives whole numbers and truth values, so that
// derivatives of derivatives can be written too.
type derivative func(b *backward, n *Node, dy string, wanted []bool) []string

// derivatives by operator, with how many inputs it has at least and at most.
var derivatives = map[string]struct {
	least, most int
	of          derivative
}{
	"Identity": {1, 1, first(func(_ *backward, dy, _, _ string) string { return dy })},
	"Neg":      {1, 1, first(func(b *backward, dy, _, _ string) string { return b.call("Neg", dy) })},
	"Abs":      {1, 1, first(func(b *backward, dy, x, _ string) string { return b.call("Mul", dy, b.call("Sign", x)) })},
	"Exp":      {1, 1, first(func(b *backward, dy, _, y string) string { return b.call("Mul", dy, y) })},
	"Log":      {1, 1, first(func(b *backward, dy, x, _ string) string { return b.call("Div", dy, x) })},
	"Sqrt":     {1, 1, first(func(b *backward, dy, _, y string) string { return b.call("Div", dy, b.call("Add", y, y)) })},
	"Reciprocal": {1, 1, first(func(b *backward, dy, _, y string) string {
		return b.call("Neg", b.call("Mul", dy, b.call("Mul", y, y)))
	})},
	"Sin": {1, 1, first(func(b *backward, dy, x, _ string) string { return b.call("Mul", dy, b.call("Cos", x)) })},
	"Cos": {1, 1, first(func(b *backward, dy, x, _ string) string {
		return b.call("Neg", b.call("Mul", dy, b.call("Sin", x)))
	})},
	"Tanh": {1, 1, first(func(b *backward, dy, x, y string) string {
		return b.call("Mul", dy, b.call("Sub", b.number(1, x), b.call("Mul", y, y)))
	})},
	"Sigmoid": {1, 1, first(func(b *backward, dy, x, y string) string {
		return b.call("Mul", dy, b.call("Mul", y, b.call("Sub", b.number(1, x), y)))
	})},
	"Relu": {1, 1, first(func(b *backward, dy, x, _ string) string {
		zero := b.number(0, x)
		return b.call("Where", b.call("Greater", x, zero), dy, zero)
	})},
	"Erf": {1, 1, first(func(b *backward, dy, x, _ string) string {
		bell := b.call("Exp", b.call("Neg", b.call("Mul", x, x)))
		return b.call("Mul", dy, b.call("Mul", b.number(2/math.SqrtPi, x), bell))
	})},
	"Cast": {1, 1, first(func(b *backward, dy, x, y string) string { return b.cast(dy, b.elem(y), b.elem(x)) })},

	// Flat, but for steps.
	"Sign":  {1, 1, first(func(b *backward, _, x, _ string) string { return b.filled(0, x) })},
	"Floor": {1, 1, first(func(b *backward, _, x, _ string) string { return b.filled(0, x) })},
	"Ceil":  {1, 1, first(func(b *backward, _, x, _ string) string { return b.filled(0, x) })},
	"Round": {1, 1, first(func(b *backward, _, x, _ string) string { return b.filled(0, x) })},

	// Operands are broadcast to one shape.
	"Add": {2, 2, broadcasting(func(_ *backward, _ *Node, dy string, _ int) string { return dy })},
	"Sum": {1, math.MaxInt, broadcasting(func(_ *backward, _ *Node, dy string, _ int) string { return dy })},
	"Sub": {2, 2, broadcasting(func(b *backward, _ *Node, dy string, i int) string {
		if i == 1 {
			return b.call("Neg", dy)
		}
		return dy
	})},
	"Mul": {2, 2, broadcasting(func(b *backward, n *Node, dy string, i int) string { return b.call("Mul", dy, n.Inputs[1-i]) })},
	"Div": {2, 2, broadcasting(func(b *backward, n *Node, dy string, i int) string {
		if i == 1 {
			dy = b.call("Neg", b.call("Mul", dy, n.Outputs[0]))
		}
		return b.call("Div", dy, n.Inputs[1])
	})},
	"Pow": {2, 2, broadcasting(powerBack)},
	"Where": {3, 3, broadcasting(func(b *backward, n *Node, dy string, i int) string {
		zero := b.number(0, n.Outputs[0])
		if i == 1 {
			return b.call("Where", n.Inputs[0], dy, zero)
		}
		return b.call("Where", n.Inputs[0], zero, dy)
	})},
	"Expand": {2, 2, func(b *backward, n *Node, dy string, _ []bool) []string {
		return []string{b.summed(dy, b.dims(n.Outputs[0]), n.Inputs[0])}
	}},

	"ReduceSum":  {1, 2, reducedBack},
	"ReduceMean": {1, 2, reducedBack},
	"Softmax": {1, 1, first(func(b *backward, dy, x, y string) string {
		return b.call("Mul", y, b.call("Sub", dy, b.summedAsSoftmax(b.call("Mul", dy, y), x)))
	})},
	"LogSoftmax": {1, 1, first(func(b *backward, dy, x, y string) string {
		return b.call("Sub", dy, b.call("Mul", b.call("Exp", y), b.summedAsSoftmax(dy, x)))
	})},

	"MatMul": {2, 2, matMulBack},
	"Gemm":   {2, 3, gemmBack},

	// No element changes.
	"Reshape":   {2, 2, first(func(b *backward, dy, x, _ string) string { return b.reshaped(dy, x) })},
	"Flatten":   {1, 1, first(func(b *backward, dy, x, _ string) string { return b.reshaped(dy, x) })},
	"Squeeze":   {1, 2, first(func(b *backward, dy, x, _ string) string { return b.reshaped(dy, x) })},
	"Unsqueeze": {1, 2, first(func(b *backward, dy, x, _ string) string { return b.reshaped(dy, x) })},
	"Transpose": {1, 1, transposeBack},
}

// first is the derivative by an operator's first input, x, of which y is made.
func first(f func(b *backward, dy, x, y string) string) derivative {
	return func(b *backward, n *Node, dy string, _ []bool) []string {
		return []string{f(b, dy, n.Inputs[0], n.Outputs[0])}
	}
}

// broadcasting is the derivative of an operator of which f makes the one by input i as
// if it had the shape of the output.
func broadcasting(f func(b *backward, n *Node, dy string, i int) string) derivative {
	return func(b *backward, n *Node, dy string, wanted []bool) []string {
		dx := make([]string, len(n.Inputs))
		for i, x := range n.Inputs {
			if wanted[i] {
				dx[i] = b.summed(f(b, n, dy, i), b.dims(n.Outputs[0]), x)
			}
		}
		return dx
	}
}

// powerBack: e x^(e-1), and x^e log x. Where e is 0 the first is 0 at every x, and
// where x is 0 the second is 0.
func powerBack(b *backward, n *Node, dy string, i int) string {
	x, e, z := n.Inputs[0], n.Inputs[1], n.Outputs[0]
	if i == 0 {
		slope := b.call("Mul", b.call("Pow", x, b.call("Sub", e, b.number(1, e))), b.cast(e, b.elem(e), b.elem(x)))
		flat := b.call("Equal", e, b.number(0, e))
		return b.call("Mul", dy, b.call("Where", flat, b.number(0, x), slope))
	}
	safe := b.call("Where", b.call("Equal", x, b.number(0, x)), b.number(1, x), x)
	return b.cast(b.call("Mul", dy, b.call("Mul", z, b.call("Log", safe))), b.elem(x), b.elem(e))
}

// reducedBack spreads the derivative of a sum or mean over what was added up.
func reducedBack(b *backward, n *Node, dy string, _ []bool) []string {
	x, y := n.Inputs[0], n.Outputs[0]
	if n.OpType == "ReduceMean" {
		// In float32 at least: a float16 holds no count above 65504.
		wide := tensor.Float32
		if b.elem(x) == tensor.Float64 {
			wide = tensor.Float64
		}
		size := func(v string) string { return b.cast(b.call("Size", v), tensor.Int64, wide) }
		dy = b.call("Mul", dy, b.cast(b.call("Div", size(y), size(x)), wide, b.elem(x)))
	}
	if n.AttrInt("keepdims", 1) == 0 {
		switch a := n.Attr("axes"); {
		case a != nil && len(a.Ints) > 0:
			dy = b.overAxes("Unsqueeze", dy, a.Ints)
		case a == nil && len(n.Inputs) > 1 && n.Inputs[1] != "":
			dy = b.call("Unsqueeze", dy, n.Inputs[1])
		}
	}
	return []string{b.call("Expand", dy, b.call("Shape", x))}
}

// summedAsSoftmax adds up along what a Softmax of x makes add up to 1.
func (b *backward) summedAsSoftmax(v, x string) string {
	if b.opset >= 13 {
		return b.sum(v, []int64{b.of.AttrInt("axis", -1)}, 1)
	}
	rank := int64(len(b.dims(x)))
	var axes []int64
	first := b.of.AttrInt("axis", 1)
	if first < 0 {
		first += rank
	}
	for a := first; a < rank; a++ {
		axes = append(axes, a)
	}
	if len(axes) == 0 { // of single elements
		return v
	}
	return b.sum(v, axes, 1)
}

// matMulBack: dy y', and x' dy. A vector counts as a row on the left, as a column on
// the right.
func matMulBack(b *backward, n *Node, dy string, wanted []bool) []string {
	x, y := n.Inputs[0], n.Inputs[1]
	xd, yd, batch := b.dims(x), b.dims(y), b.dims(n.Outputs[0])
	if b.err != nil {
		return nil
	}
	xm, ym := x, y
	if len(xd) == 1 {
		xm = b.overAxes("Unsqueeze", x, []int64{0})
	} else {
		batch = batch[:len(batch)-1]
	}
	if len(yd) == 1 {
		ym = b.overAxes("Unsqueeze", y, []int64{1})
		dy = b.overAxes("Unsqueeze", dy, []int64{-1})
	} else {
		batch = batch[:len(batch)-1]
	}
	if len(xd) == 1 {
		dy = b.overAxes("Unsqueeze", dy, []int64{-2})
	}
	turned := func(m string, rank int) string {
		perm := make([]int64, max(rank, 2))
		for i := range perm {
			perm[i] = int64(i)
		}
		slices.Reverse(perm[len(perm)-2:])
		return b.op("Transpose", []string{m}, IntsAttr("perm", perm...))
	}
	dx := make([]string, 2)
	if wanted[0] {
		d := b.call("MatMul", dy, turned(ym, len(yd)))
		if len(xd) == 1 {
			d = b.overAxes("Squeeze", d, []int64{-2})
		}
		dx[0] = b.summed(d, slices.Concat(batch, xd[max(0, len(xd)-2):]), x)
	}
	if wanted[1] {
		d := b.call("MatMul", turned(xm, len(xd)), dy)
		if len(yd) == 1 {
			d = b.overAxes("Squeeze", d, []int64{-1})
		}
		dx[1] = b.summed(d, slices.Concat(batch, yd[max(0, len(yd)-2):]), y)
	}
	return dx
}

// gemmBack is of y = alpha A' B' + beta C, where A' and B' may be transposed.
func gemmBack(b *backward, n *Node, dy string, wanted []bool) []string {
	x, y := n.Inputs[0], n.Inputs[1]
	tx, ty := n.AttrInt("transA", 0) != 0, n.AttrInt("transB", 0) != 0
	product := func(x string, tx bool, y string, ty bool) string {
		attrs := []*Attr{FloatAttr("alpha", n.AttrFloat("alpha", 1))}
		if tx {
			attrs = append(attrs, IntAttr("transA", 1))
		}
		if ty {
			attrs = append(attrs, IntAttr("transB", 1))
		}
		return b.op("Gemm", []string{x, y}, attrs...)
	}
	dx := make([]string, len(n.Inputs))
	switch {
	case wanted[0] && tx:
		dx[0] = product(y, ty, dy, true)
	case wanted[0]:
		dx[0] = product(dy, false, y, !ty)
	}
	switch {
	case wanted[1] && ty:
		dx[1] = product(dy, true, x, tx)
	case wanted[1]:
		dx[1] = product(x, !tx, dy, false)
	}
	if len(wanted) > 2 && wanted[2] {
		if beta := n.AttrFloat("beta", 1); beta != 1 {
			dy = b.call("Mul", dy, b.number(float64(beta), n.Outputs[0]))
		}
		dx[2] = b.summed(dy, b.dims(n.Outputs[0]), n.Inputs[2])
	}
	return dx
}

func transposeBack(b *backward, n *Node, dy string, _ []bool) []string {
	a := n.Attr("perm")
	if a == nil {
		return []string{b.call("Transpose", dy)}
	}
	back := make([]int64, len(a.Ints))
	for i, p := range a.Ints {
		if p < 0 || p >= int64(len(back)) {
			b.fail("attribute perm is %v", a.Ints)
			return nil
		}
		back[p] = int64(i)
	}
	return []string{b.op("Transpose", []string{dy}, IntsAttr("perm", back...))}
}

// backward collects the nodes that compute derivatives. Its first mistake is kept.
type backward struct {
	d     *differentiation
	opset int64 // of the standard operators
	of    *Node // whose derivative is written
	nodes []*Node
	err   error
}

// node is the derivatives by the inputs of a node, empty where none is wanted. dy
// are those by its outputs.
func (b *backward) node(n *Node, dy []string, depends map[string]bool) []string {
	b.of = n
	known := derivatives[n.OpType]
	switch {
	case n.Domain != DomainONNX || known.of == nil:
		b.err = nil // it tells more than that a type after it is not known
		b.fail("the operator has none here")
	case slices.ContainsFunc(dy[1:], func(s string) bool { return s != "" }):
		b.fail("it has none here by more than the first output")
	case len(n.Inputs) < known.least, len(n.Inputs) > known.most, slices.Contains(n.Inputs[:known.least], ""):
		b.fail("it has inputs %q, the operator has %d to %d", n.Inputs, known.least, known.most)
	}
	if b.err != nil {
		return nil
	}
	wanted := make([]bool, len(n.Inputs))
	for k, in := range n.Inputs {
		wanted[k] = depends[in]
	}
	dx := make([]string, len(n.Inputs))
	copy(dx, known.of(b, n, dy[0], wanted))
	for k := range wanted {
		switch {
		case !wanted[k]:
			dx[k] = ""
		case dx[k] == "":
			b.fail("it has none here by input %d", k)
		}
	}
	return dx
}

func (b *backward) fail(format string, args ...any) {
	if b.err != nil {
		return
	}
	e := &DerivativeError{Gradient: b.d.node.Label(), Node: b.of.Name, Domain: b.of.Domain, OpType: b.of.OpType, Opset: b.d.x.m.Opsets[b.of.Domain],
		Reason: fmt.Sprintf(format, args...)}
	for _, o := range b.of.Outputs {
		if e.Node == "" {
			e.Node = o
		}
	}
	b.err = e
}

func (b *backward) op(op string, in []string, attrs ...*Attr) string {
	out := b.d.fresh(op)
	b.nodes = append(b.nodes, &Node{Name: out, OpType: op, Inputs: in, Outputs: []string{out}, Attrs: attrs})
	return out
}

// call is op without attributes.
func (b *backward) call(op string, in ...string) string { return b.op(op, in) }

// elem is the element type of a value of the model.
func (b *backward) elem(x string) tensor.DType {
	t := b.d.types(x)
	if t == nil || t.Kind != KindTensor || t.Elem == tensor.Undefined {
		b.fail("the element type of %q is not known", x)
		return tensor.Undefined
	}
	return t.Elem
}

// dims are the dimensions of a value of the model.
func (b *backward) dims(x string) []Dim {
	t := b.d.types(x)
	if t == nil || t.Kind != KindTensor || !t.HasShape {
		b.fail("the rank of %q is not known", x)
		return nil
	}
	return t.Dims
}

func (b *backward) cast(v string, from, to tensor.DType) string {
	if from == to {
		return v
	}
	return b.op("Cast", []string{v}, IntAttr("to", int64(to)))
}

// number is a scalar of the element type of a value of the model.
func (b *backward) number(v float64, like string) string {
	elem := b.elem(like)
	t := tensor.Floats(nil, float32(v))
	if elem == tensor.Float64 {
		t = tensor.Of(tensor.Float64, nil, []float64{v})
	}
	return b.cast(b.op("Constant", nil, TensorAttr("value", t)), t.DType, elem)
}

// filled is of the shape and element type of a value of the model.
func (b *backward) filled(v float64, like string) string {
	return b.call("Expand", b.number(v, like), b.call("Shape", like))
}

func (b *backward) ints(v ...int64) string {
	return b.op("Constant", nil, TensorAttr("value", tensor.Ints(tensor.Shape{int64(len(v))}, v...)))
}

// overAxes is an operator whose axes were an attribute before opset 13.
func (b *backward) overAxes(op, v string, axes []int64, attrs ...*Attr) string {
	if b.opset < 13 {
		return b.op(op, []string{v}, append(attrs, IntsAttr("axes", axes...))...)
	}
	return b.op(op, []string{v, b.ints(axes...)}, attrs...)
}

func (b *backward) sum(v string, axes []int64, keepdims int64) string {
	return b.overAxes("ReduceSum", v, axes, IntAttr("keepdims", keepdims))
}

// reshaped gives v the shape of a value of the model.
func (b *backward) reshaped(v, x string) string {
	t := b.d.types(x)
	known := t != nil && t.HasShape
	switch {
	case known && slices.ContainsFunc(t.Dims, func(d Dim) bool { return d.Size == 0 }):
		return b.filled(0, x) // of no elements
	case known && !slices.ContainsFunc(t.Dims, func(d Dim) bool { return d.Size < 0 }), b.opset < 14:
		return b.call("Reshape", v, b.call("Shape", x))
	}
	// A size of 0 is one, and does not stand for that of v.
	return b.op("Reshape", []string{v, b.call("Shape", x)}, IntAttr("allowzero", 1))
}

// summed adds v, whose dimensions are those that x was broadcast to, up to the shape
// of x.
func (b *backward) summed(v string, dims []Dim, x string) string {
	to := b.dims(x)
	if b.err != nil {
		return ""
	}
	if len(to) > len(dims) {
		b.fail("%q, of rank %d, cannot be broadcast to rank %d", x, len(to), len(dims))
		return ""
	}
	if lead := len(dims) - len(to); lead > 0 {
		axes := make([]int64, lead)
		for i := range axes {
			axes[i] = int64(i)
		}
		v, dims = b.sum(v, axes, 0), dims[lead:]
	}
	var axes []int64
	for i, d := range to {
		switch {
		case d.Param == "" && d.Size == 1:
			if dims[i].Param != "" || dims[i].Size != 1 {
				axes = append(axes, int64(i))
			}
		case d.Param != "" && d.Param != dims[i].Param, d.Param == "" && d.Size < 0:
			// It may be 1 or not; sums along what are ones in x change no more than they should.
			if b.opset < 13 {
				b.fail("whether axis %d of %q is broadcast is not known, and axes to sum over can be computed from version 13 of the standard operators on: convert the model", i, x)
				return ""
			}
			ones := b.call("NonZero", b.call("Equal", b.call("Shape", x), b.ints(1)))
			return b.op("ReduceSum", []string{v, b.overAxes("Squeeze", ones, []int64{0})}, IntAttr("keepdims", 1), IntAttr("noop_with_empty_axes", 1))
		}
	}
	if axes == nil {
		return v
	}
	return b.sum(v, axes, 1)
}
