package backendtest

import (
	"fmt"
	"math/rand/v2"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// randomOps is a table of what a random model may be grown by, each with a weight.
type randomOps []struct {
	weight int
	grow   func(*randomGraph)
}

func (r randomOps) draw(rng *rand.Rand) func(*randomGraph) {
	total := 0
	for _, o := range r {
		total += o.weight
	}
	n := rng.IntN(total)
	for _, o := range r {
		if n -= o.weight; n < 0 {
			return o.grow
		}
	}
	panic("backendtest: weights do not add up")
}

var randomTable randomOps

func init() { // it refers to itself: graphs inside a node are grown too
	randomTable = randomOps{
		{10, unaryFloat}, {14, binaryFloat}, {4, binaryInt}, {3, compared}, {2, logic}, {3, where}, {2, variadic}, {2, clip}, {2, quotient},
		{8, linearLayer}, {3, gemm}, {4, matMul}, {5, reduction}, {2, extreme}, {2, topK}, {4, softmaxOf}, {4, normalized}, {2, normalizedByHand},
		{2, channelNorm}, {4, transposed}, {5, reshaped}, {2, squeezed}, {4, sliced}, {4, concatenated}, {3, splitUp}, {4, gathered},
		{2, gatheredElements}, {2, scattered}, {2, padded}, {2, expanded}, {1, tiled}, {2, summedUp}, {1, triangle}, {1, oneHot}, {1, counted},
		{5, castTo}, {2, attentionOp}, {3, attentionByHand}, {2, rotary}, {3, convolution}, {2, pooled}, {1, resized}, {4, shapeSums},
		{2, activationByHand}, {1, quantizedAndBack}, {1, branch}, {1, loop}, {1, dataDependent},
	}
}

func list(v ...*randomValue) []*randomValue { return v }

func pickName(g *randomGraph, names ...string) string { return names[g.rand.IntN(len(names))] }

func unaryFloat(g *randomGraph) {
	x := g.f(0)
	switch op := pickName(g, "Neg", "Abs", "Exp", "Tanh", "Sigmoid", "Relu", "Erf", "Gelu", "GeluTanh", "Softplus", "Softsign", "LeakyRelu",
		"Elu", "Selu", "HardSigmoid", "HardSwish", "Mish", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Identity", "Sqrt", "Log",
		"Reciprocal", "ThresholdedRelu", "Celu", "Atan", "Square", "Rsqrt"); op {
	case "GeluTanh":
		g.op("Gelu", list(x), as("approximate", "tanh"))
	case "LeakyRelu":
		g.op(op, list(x), af("alpha", 0.125))
	case "Sqrt", "Log", "Rsqrt":
		y := g.op("Add", list(g.op("Abs", list(x)), g.float(0.5)))
		if op == "Rsqrt" {
			g.op("Reciprocal", list(g.op("Sqrt", list(y))))
			return
		}
		g.op(op, list(y))
	case "Square":
		g.op("Pow", list(x, g.float(2)))
	default:
		g.op(op, list(x))
	}
}

func binaryFloat(g *randomGraph) {
	x := g.f(0)
	in := list(x, g.partner(x))
	if g.chance(2) {
		in[0], in[1] = in[1], in[0]
	}
	g.op(pickName(g, "Add", "Add", "Add", "Sub", "Sub", "Mul", "Mul", "Mul", "Min", "Max", "PRelu"), in)
}

func quotient(g *randomGraph) {
	x := g.f(0)
	if g.chance(2) {
		g.op("Div", list(x, g.float(float32(g.one(2, -3, 8)))))
		return
	}
	y := g.op("Add", list(g.op("Mul", list(x, x)), g.float(1)))
	g.op("Div", list(g.partner(x), y))
}

func binaryInt(g *randomGraph) {
	x := g.of(tensor.DType(g.one(int64(tensor.Int64), int64(tensor.Int64), int64(tensor.Int32))), 0)
	switch op := pickName(g, "Add", "Sub", "Mul", "Min", "Max", "Div", "Mod", "Neg", "Abs"); op {
	case "Neg", "Abs":
		g.op(op, list(x))
	case "Div", "Mod":
		d := tensor.Tensor{}
		if d = tensor.Ints(nil, g.one(2, 3, 5)); x.t.DType == tensor.Int32 {
			d = tensor.Of(tensor.Int32, nil, []int32{3})
		}
		g.op(op, list(x, g.newConst(d)))
	default:
		g.op(op, list(x, g.partner(x)))
	}
}

func compared(g *randomGraph) {
	x := g.of(tensor.DType(g.one(int64(tensor.Float32), int64(tensor.Float32), int64(tensor.Int64))), 0)
	op := pickName(g, "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
	if x.t.DType != tensor.Float32 || op != "Equal" {
		g.op(op, list(x, g.partner(x)))
	}
}

func logic(g *randomGraph) {
	x := g.of(tensor.Bool, 0)
	if op := pickName(g, "And", "Or", "Xor", "Not"); op == "Not" {
		g.op(op, list(x))
	} else {
		g.op(op, list(x, g.partner(x)))
	}
}

func where(g *randomGraph) {
	x := g.any(0)
	y := g.partner(x)
	c := g.pick(func(c *randomValue) bool { return c.t.DType == tensor.Bool && broadcasts(c.t.Shape, x.t.Shape) })
	if c == nil {
		c = g.newInput(tensor.Bool, x.t.Shape)
	}
	g.op("Where", list(c, x, y))
}

func variadic(g *randomGraph) {
	x := g.f(0)
	g.op(pickName(g, "Sum", "Mean", "Min", "Max"), list(x, g.partner(x), g.partner(x)))
}

func clip(g *randomGraph) {
	lo, hi := g.float(-1), g.float(float32(g.one(1, 2, 6)))
	switch g.rand.IntN(3) {
	case 0:
		lo = absent
	case 1:
		hi = absent
	}
	g.op("Clip", list(g.f(0), lo, hi))
}

func linearLayer(g *randomGraph) {
	x := g.f(2)
	in, out := x.t.Shape[len(x.t.Shape)-1], g.one(1, 3, 8, 16, 17)
	var y *randomValue
	if g.chance(2) {
		y = g.op("MatMul", list(x, g.weight(-1, 1, in, out)))
	} else {
		w := g.op("Transpose", list(g.newConst(g.numbers(tensor.Float32, tensor.Shape{out, in}, -1, 1))), ais("perm", 1, 0))
		y = g.op("MatMul", list(x, w))
	}
	if g.chance(4) || y == nil {
		return
	}
	b := g.weight(-1, 1, out)
	if g.chance(2) {
		y = g.op("Add", list(y, b))
	} else {
		y = g.op("Add", list(b, y))
	}
	switch g.rand.IntN(6) {
	case 0:
		g.op("Relu", list(y))
	case 1:
		g.op("Gelu", list(y))
	case 2:
		if y != nil {
			g.op("Mul", list(y, g.op("Sigmoid", list(y))))
		}
	case 3:
		if y != nil {
			g.op("Add", list(g.newInput(tensor.Float32, y.t.Shape), y))
		}
	}
}

func gemm(g *randomGraph) {
	x := g.ranked(2)
	ta, tb := g.one(0, 0, 1), g.one(0, 1)
	m, k, n := x.t.Shape[0], x.t.Shape[1], g.one(1, 3, 8, 17)
	if ta == 1 {
		m, k = k, m
	}
	w := tensor.Shape{k, n}
	if tb == 1 {
		w = tensor.Shape{n, k}
	}
	in := list(x, g.weight(-1, 1, w...))
	switch g.rand.IntN(5) {
	case 0:
		in = append(in, g.weight(-1, 1, n))
	case 1:
		in = append(in, g.weight(-1, 1, m, 1))
	case 2:
		in = append(in, g.weight(-1, 1))
	case 3:
		in = append(in, g.weight(-1, 1, m, n))
	}
	attrs := []*graph.Attr{ai("transA", ta), ai("transB", tb)}
	if g.chance(2) {
		attrs = append(attrs, af("alpha", 0.5), af("beta", 1.5))
	}
	g.op("Gemm", in, attrs...)
}

func matMul(g *randomGraph) {
	x := g.f(1)
	s := x.t.Shape
	k := s[len(s)-1]
	y := g.pick(func(v *randomValue) bool {
		r := len(v.t.Shape)
		return v.t.DType == tensor.Float32 && r >= 2 && v.t.Shape[r-2] == k && broadcasts(v.t.Shape[:r-2], s[:max(0, len(s)-2)])
	})
	if y == nil || g.chance(2) {
		ys := tensor.Shape{k, g.one(1, 4, 5, 9)}
		if len(s) > 2 {
			ys = append(s[len(s)-3:len(s)-2:len(s)-2], ys...)
		}
		y = g.newInput(tensor.Float32, ys)
	}
	g.op("MatMul", list(x, y))
}

// axes draws some axes of a shape, now and then counted from the end.
func (g *randomGraph) axes(rank int) []int64 {
	var axes []int64
	for a := range rank {
		if g.chance(2) {
			axes = append(axes, int64(a-rank*g.rand.IntN(2)))
		}
	}
	return axes
}

func (g *randomGraph) axis(rank int) int64 {
	return int64(g.rand.IntN(rank) - rank*g.rand.IntN(2))
}

func reduction(g *randomGraph) {
	x := g.f(1)
	op := pickName(g, "ReduceSum", "ReduceMean", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd")
	in := list(x)
	if axes := g.axes(len(x.t.Shape)); len(axes) > 0 {
		in = append(in, g.ints(axes...))
	}
	g.op(op, in, ai("keepdims", g.one(0, 1, 1)), ai("noop_with_empty_axes", g.one(0, 0, 0, 1)))
}

func extreme(g *randomGraph) {
	x := g.f(1)
	g.op(pickName(g, "ArgMax", "ArgMin"), list(x), ai("axis", g.axis(len(x.t.Shape))), ai("keepdims", g.one(0, 1)))
}

func topK(g *randomGraph) {
	x := g.f(1)
	axis := g.rand.IntN(len(x.t.Shape))
	k := 1 + g.rand.Int64N(x.t.Shape[axis])
	g.node(&graph.Node{OpType: "TopK", Attrs: []*graph.Attr{ai("axis", int64(axis)), ai("largest", g.one(0, 1))}}, 2, x, g.ints(k))
}

func softmaxOf(g *randomGraph) {
	x := g.f(1)
	g.op(pickName(g, "Softmax", "Softmax", "LogSoftmax"), list(x), ai("axis", g.axis(len(x.t.Shape))))
}

func normalized(g *randomGraph) {
	x := g.f(1)
	if g.chance(2) {
		if y := g.op("Add", list(x, g.partner(x))); y != nil {
			x = y
		}
	}
	rank := len(x.t.Shape)
	axis := rank - 1 - g.rand.IntN(min(rank, 2))
	in := list(x, g.weight(0.5, 1.5, x.t.Shape[axis:]...))
	if g.chance(3) {
		g.op("RMSNormalization", in, ai("axis", int64(axis-rank)), af("epsilon", 1e-2))
		return
	}
	if !g.chance(4) {
		in = append(in, g.weight(-1, 1, x.t.Shape[axis:]...))
	}
	g.op("LayerNormalization", in, ai("axis", int64(axis)), af("epsilon", 1e-2))
}

// normalizedByHand is a normalisation as exporters of older operator sets write it.
func normalizedByHand(g *randomGraph) {
	x := g.f(2)
	width := x.t.Shape[len(x.t.Shape)-1]
	mean := func(v *randomValue) *randomValue { return g.op("ReduceMean", list(v, g.ints(-1))) }
	square := func(v *randomValue) *randomValue {
		if v != nil && g.chance(2) {
			return g.op("Mul", list(v, v))
		}
		return g.op("Pow", list(v, g.float(2)))
	}
	c := x
	layer := g.chance(2)
	if layer {
		c = g.op("Sub", list(x, mean(x)))
	}
	root := g.op("Sqrt", list(g.op("Add", list(mean(square(c)), g.float(0.01)))))
	var y *randomValue
	if layer || g.chance(2) {
		y = g.op("Div", list(c, root))
	} else {
		y = g.op("Mul", list(c, g.op("Reciprocal", list(root))))
	}
	y = g.op("Mul", list(y, g.weight(0.5, 1.5, width)))
	if layer {
		g.op("Add", list(y, g.weight(-1, 1, width)))
	}
}

func channelNorm(g *randomGraph) {
	x := g.f(3)
	c := x.t.Shape[1]
	scale, bias := g.weight(0.5, 1.5, c), g.weight(-1, 1, c)
	switch g.rand.IntN(3) {
	case 0:
		g.op("BatchNormalization", list(x, scale, bias, g.newConst(g.numbers(tensor.Float32, tensor.Shape{c}, -1, 1)),
			g.newConst(g.numbers(tensor.Float32, tensor.Shape{c}, 0.5, 2))), af("epsilon", 1e-3))
	case 1:
		g.op("InstanceNormalization", list(x, scale, bias), af("epsilon", 1e-2))
	case 2:
		groups := int64(1)
		for _, n := range []int64{2, 3, 4} {
			if c%n == 0 {
				groups = n
			}
		}
		g.op("GroupNormalization", list(x, scale, bias), ai("num_groups", groups), af("epsilon", 1e-2))
	}
}

func transposed(g *randomGraph) {
	x := g.any(2)
	if g.chance(6) {
		g.op("Transpose", list(x))
		return
	}
	perm := make([]int64, len(x.t.Shape))
	for i, p := range g.rand.Perm(len(perm)) {
		perm[i] = int64(p)
	}
	g.op("Transpose", list(x), ais("perm", perm...))
}

// factored draws a shape of so many elements.
func (g *randomGraph) factored(n int64) tensor.Shape {
	s := make(tensor.Shape, 1+g.rand.IntN(4))
	for i := range s {
		s[i] = 1
		for _, f := range []int64{2, 3, 4, 8, 5} {
			if n%f == 0 && g.chance(2) {
				s[i], n = f, n/f
				break
			}
		}
	}
	s[g.rand.IntN(len(s))] *= n
	return s
}

func reshaped(g *randomGraph) {
	x := g.any(0)
	n, _ := x.t.Shape.Elements()
	s := g.factored(n)
	if g.chance(6) {
		g.op("Flatten", list(x), ai("axis", g.rand.Int64N(int64(len(x.t.Shape)+1))))
		return
	}
	to := append([]int64(nil), s...)
	if g.chance(2) {
		to[g.rand.IntN(len(to))] = -1
	}
	for i := range to {
		if i < len(x.t.Shape) && to[i] == x.t.Shape[i] && g.chance(2) {
			to[i] = 0
		}
	}
	g.op("Reshape", list(x, g.ints(to...)))
}

func squeezed(g *randomGraph) {
	x := g.any(0)
	rank := len(x.t.Shape)
	for i, n := range x.t.Shape {
		if n == 1 && g.chance(2) {
			g.op("Squeeze", list(x, g.ints(int64(i))))
			return
		}
	}
	g.op("Unsqueeze", list(x, g.ints(int64(g.rand.IntN(rank+1)))))
}

func sliced(g *randomGraph) {
	x := g.any(1)
	axis := g.rand.IntN(len(x.t.Shape))
	n := x.t.Shape[axis]
	start, step := g.rand.Int64N(n), g.one(1, 1, 1, 2)
	end := g.one(n, start+1, 1<<31-1, -1)
	if g.chance(5) {
		start, end, step = -1, -1<<31, -1
	}
	g.op("Slice", list(x, g.ints(start), g.ints(end), g.ints(int64(axis)), g.ints(step)))
}

func concatenated(g *randomGraph) {
	x := g.any(1)
	axis := g.rand.IntN(len(x.t.Shape))
	in := list(x)
	for range 1 + g.rand.IntN(2) {
		y := g.pick(func(v *randomValue) bool {
			if v.t.DType != x.t.DType || len(v.t.Shape) != len(x.t.Shape) {
				return false
			}
			for i := range v.t.Shape {
				if i != axis && v.t.Shape[i] != x.t.Shape[i] {
					return false
				}
			}
			return true
		})
		if y == nil {
			y = g.newInput(x.t.DType, x.t.Shape)
		}
		in = append(in, y)
	}
	if g.chance(2) {
		in[0], in[len(in)-1] = in[len(in)-1], in[0]
	}
	g.op("Concat", in, ai("axis", int64(axis)))
}

func splitUp(g *randomGraph) {
	x := g.any(1)
	axis := g.rand.IntN(len(x.t.Shape))
	n := x.t.Shape[axis]
	if n < 2 {
		return
	}
	a := 1 + g.rand.Int64N(n-1)
	if g.chance(3) && n%2 == 0 {
		g.node(&graph.Node{OpType: "Split", Attrs: []*graph.Attr{ai("axis", int64(axis)), ai("num_outputs", 2)}}, 2, x)
		return
	}
	g.node(&graph.Node{OpType: "Split", Attrs: []*graph.Attr{ai("axis", int64(axis))}}, 2, x, g.ints(a, n-a))
}

// indices draws indices below n, as a constant or an input.
func (g *randomGraph) indices(n int64, s tensor.Shape) *randomValue {
	t := g.numbers(tensor.Int64, s, -float64(n)*float64(g.rand.IntN(2)), float64(n))
	if v := g.newConst(t); g.chance(2) {
		return v
	}
	return &randomValue{t: t, off: [2]tensor.Tensor{t, t}, fresh: true, input: true, varies: true}
}

func gathered(g *randomGraph) {
	x := g.any(1)
	axis := g.rand.IntN(len(x.t.Shape))
	if g.chance(5) {
		d := 1 + g.rand.IntN(min(2, len(x.t.Shape)))
		least := x.t.Shape[0]
		for _, n := range x.t.Shape[:d] {
			least = min(least, n)
		}
		g.op("GatherND", list(x, g.indices(least, tensor.Shape{g.one(1, 2, 5), int64(d)})))
		return
	}
	g.op("Gather", list(x, g.indices(x.t.Shape[axis], g.shape(0, 2))), ai("axis", int64(axis)))
}

func gatheredElements(g *randomGraph) {
	x := g.any(1)
	axis := g.rand.IntN(len(x.t.Shape))
	s := x.t.Shape.Clone()
	s[axis] = g.one(1, 2, 5)
	g.op("GatherElements", list(x, g.indices(x.t.Shape[axis], s)), ai("axis", int64(axis)))
}

func scattered(g *randomGraph) {
	x := g.f(1)
	axis := g.rand.IntN(len(x.t.Shape))
	if g.chance(2) {
		// No index twice: which update stays would not be said.
		rows := g.rand.Perm(int(x.t.Shape[0]))[:1+g.rand.IntN(int(x.t.Shape[0]))]
		at := make([]int64, len(rows))
		for i, r := range rows {
			at[i] = int64(r)
		}
		s := append(tensor.Shape{int64(len(at))}, x.t.Shape[1:]...)
		g.op("ScatterND", list(x, g.newConst(tensor.Ints(tensor.Shape{int64(len(at)), 1}, at...)), g.newInput(tensor.Float32, s)))
		return
	}
	s := x.t.Shape.Clone()
	s[axis] = 1
	g.op("ScatterElements", list(x, g.indices(x.t.Shape[axis], s), g.newInput(tensor.Float32, s)), ai("axis", int64(axis)))
}

func padded(g *randomGraph) {
	x := g.f(1)
	mode := pickName(g, "constant", "constant", "reflect", "edge")
	pads := make([]int64, 2*len(x.t.Shape))
	for i := range pads {
		if n := x.t.Shape[i%len(x.t.Shape)]; mode != "reflect" || n > 2 {
			pads[i] = g.one(0, 0, 1, 2)
		}
	}
	in := list(x, g.ints(pads...))
	if mode == "constant" && g.chance(2) {
		in = append(in, g.float(0.5))
	}
	g.op("Pad", in, as("mode", mode))
}

func expanded(g *randomGraph) {
	x := g.any(0)
	s := x.t.Shape.Clone()
	for i := range s {
		if s[i] == 1 && g.chance(2) {
			s[i] = g.one(2, 3)
		}
	}
	if g.chance(2) {
		s = append(tensor.Shape{g.one(1, 2, 3)}, s...)
	}
	g.op("Expand", list(x, g.ints(s...)))
}

func tiled(g *randomGraph) {
	x := g.any(1)
	reps := make([]int64, len(x.t.Shape))
	for i := range reps {
		reps[i] = g.one(1, 1, 2)
	}
	g.op("Tile", list(x, g.ints(reps...)))
}

func summedUp(g *randomGraph) {
	x := g.of(tensor.DType(g.one(int64(tensor.Float32), int64(tensor.Int64))), 1)
	g.op("CumSum", list(x, g.newConst(tensor.Ints(nil, int64(g.rand.IntN(len(x.t.Shape)))))), ai("exclusive", g.one(0, 1)), ai("reverse", g.one(0, 1)))
}

func triangle(g *randomGraph) {
	g.op("Trilu", list(g.any(2), g.newConst(tensor.Ints(nil, g.one(-1, 0, 1)))), ai("upper", g.one(0, 1)))
}

func oneHot(g *randomGraph) {
	g.op("OneHot", list(g.indices(4, g.shape(1, 2)), g.newConst(tensor.Ints(nil, 4)), g.newConst(tensor.Floats(tensor.Shape{2}, 0.25, 1))), ai("axis", g.one(-1, 0)))
}

// counted are positions, as decoders compute them: a Range over a dimension of x.
func counted(g *randomGraph) {
	x := g.f(1)
	n := g.op("Gather", list(g.op("Shape", list(x)), g.newConst(tensor.Ints(nil, g.rand.Int64N(int64(len(x.t.Shape)))))))
	r := g.op("Range", list(g.newConst(tensor.Ints(nil, 0)), n, g.newConst(tensor.Ints(nil, 1))))
	if g.chance(2) {
		g.op("Cast", list(r), ai("to", int64(tensor.Float32)))
	}
}

func castTo(g *randomGraph) {
	to := g.one(int64(tensor.Float32), int64(tensor.Float32), int64(tensor.Float32), int64(tensor.Float16), int64(tensor.BFloat16), int64(tensor.Int64),
		int64(tensor.Int64), int64(tensor.Int32), int64(tensor.Bool), int64(tensor.Uint8), int64(tensor.Int8), int64(tensor.Float64))
	x := g.any(0)
	if to != int64(tensor.Float32) && !g.chance(3) && !x.t.DType.IsInt() {
		return // most numbers are to stay f32
	}
	if to == int64(tensor.Uint8) {
		x = g.op("Abs", list(x)) // what becomes of negative numbers, ONNX does not say
	}
	g.op("Cast", list(x), ai("to", to))
}

func attentionOp(g *randomGraph) {
	kv := g.one(1, 2)
	heads, dim, batch, s := kv*g.one(1, 2), g.one(4, 8), g.one(1, 2), g.one(1, 4, 7)
	t := s
	causal := g.one(0, 0, 1)
	if causal == 0 {
		t = g.one(s, 5)
	}
	var in []*randomValue
	attrs := []*graph.Attr{ai("is_causal", causal)}
	if g.chance(2) {
		in = list(g.newInput(tensor.Float32, tensor.Shape{batch, heads, s, dim}), g.newInput(tensor.Float32, tensor.Shape{batch, kv, t, dim}), g.newInput(tensor.Float32, tensor.Shape{batch, kv, t, dim}))
	} else {
		in = list(g.newInput(tensor.Float32, tensor.Shape{batch, s, heads * dim}), g.newInput(tensor.Float32, tensor.Shape{batch, t, kv * dim}), g.newInput(tensor.Float32, tensor.Shape{batch, t, kv * dim}))
		attrs = append(attrs, ai("q_num_heads", heads), ai("kv_num_heads", kv))
	}
	if g.chance(2) {
		in = append(in, g.weight(-1, 1, s, t))
	}
	if g.chance(4) {
		attrs = append(attrs, af("softcap", 4))
	}
	if y := g.op("Attention", in, attrs...); y != nil {
		g.op(pickName(g, "Tanh", "Neg"), list(y))
	}
}

// attentionByHand is self-attention as exporters write it.
func attentionByHand(g *randomGraph) {
	x := g.ranked(3)
	heads, dim := g.one(1, 2, 3), g.one(2, 4, 8)
	hidden := x.t.Shape[2]
	split := func() *randomValue {
		y := g.op("MatMul", list(x, g.newConst(g.numbers(tensor.Float32, tensor.Shape{hidden, heads * dim}, -1, 1))))
		if g.chance(2) {
			y = g.op("Add", list(y, g.weight(-1, 1, heads*dim)))
		}
		return g.op("Reshape", list(y, g.ints(0, -1, heads, dim)))
	}
	turn := func(v *randomValue, perm ...int64) *randomValue {
		return g.op("Transpose", list(v), ais("perm", perm...))
	}
	q := turn(split(), 0, 2, 1, 3)
	v := turn(split(), 0, 2, 1, 3)
	var k *randomValue
	if g.chance(2) {
		k = turn(split(), 0, 2, 3, 1)
	} else {
		k = turn(turn(split(), 0, 2, 1, 3), 0, 1, 3, 2)
	}
	scale := g.float(0.5)
	var s *randomValue
	switch g.rand.IntN(4) {
	case 0:
		s = g.op("MatMul", list(g.op("Mul", list(q, scale)), k))
	case 1:
		s = g.op("MatMul", list(g.op("Mul", list(q, scale)), g.op("Mul", list(k, scale))))
	case 2:
		s = g.op("Div", list(g.op("MatMul", list(q, k)), g.float(2)))
	default:
		s = g.op("Mul", list(g.op("MatMul", list(q, k)), scale))
	}
	if s == nil {
		return
	}
	n := s.t.Shape
	switch g.rand.IntN(4) {
	case 0:
		s = g.op("Add", list(s, g.weight(-2, 2, n[2], n[3])))
	case 1:
		s = g.op("Add", list(s, g.weight(-2, 2, n[0], 1, 1, n[3])))
	case 2:
		s = g.op("Where", list(g.newInput(tensor.Bool, tensor.Shape{n[2], n[3]}), s, g.float(-100)))
	}
	o := turn(g.op("MatMul", list(g.op("Softmax", list(s), ai("axis", -1)), v)), 0, 2, 1, 3)
	g.op("Reshape", list(o, g.ints(0, 0, heads*dim)))
}

// rotary turns halves of the last dimension, as exporters write it, or as one operator.
func rotary(g *randomGraph) {
	b, h, s, d := g.one(1, 2), g.one(1, 2), g.one(1, 3, 5), g.one(4, 8)
	x := g.newInput(tensor.Float32, tensor.Shape{b, h, s, d})
	if g.chance(3) {
		g.op("RotaryEmbedding", list(x, g.weight(-1, 1, b, s, d/2), g.weight(-1, 1, b, s, d/2)), ai("interleaved", g.one(0, 1)))
		return
	}
	cos, sin := g.weight(-1, 1, 1, 1, s, d), g.weight(-1, 1, 1, 1, s, d)
	part := func(from, to int64) *randomValue {
		return g.op("Slice", list(x, g.ints(from), g.ints(to), g.ints(3), g.ints(1)))
	}
	turned := g.op("Concat", list(g.op("Neg", list(part(d/2, 1<<62))), part(0, d/2)), ai("axis", -1))
	g.op("Add", list(g.op("Mul", list(x, cos)), g.op("Mul", list(turned, sin))))
}

func convolution(g *randomGraph) {
	spatial := int(g.one(1, 2, 2))
	x := g.pick(func(v *randomValue) bool { return v.t.DType == tensor.Float32 && len(v.t.Shape) == spatial+2 })
	if x == nil || g.chance(2) {
		s := tensor.Shape{g.one(1, 2), g.one(1, 2, 4)}
		for range spatial {
			s = append(s, g.one(5, 6, 8, 9))
		}
		x = g.newInput(tensor.Float32, s)
	}
	c := x.t.Shape[1]
	groups := int64(1)
	if g.chance(2) {
		groups = c
	} else if c%2 == 0 && g.chance(3) {
		groups = 2
	}
	out := groups * g.one(1, 2, 3)
	var kernel, strides, dilations, pads []int64
	for range spatial {
		kernel, strides, dilations = append(kernel, g.one(1, 2, 3)), append(strides, g.one(1, 1, 2)), append(dilations, g.one(1, 1, 1, 2))
	}
	for range 2 * spatial {
		pads = append(pads, g.one(0, 0, 1, 1, 2))
	}
	attrs := []*graph.Attr{ai("group", groups), ais("kernel_shape", kernel...), ais("strides", strides...), ais("dilations", dilations...), ais("pads", pads...)}
	if g.chance(6) {
		g.op("ConvTranspose", list(x, g.weight(-1, 1, append([]int64{c, out / groups}, kernel...)...)), attrs...)
		return
	}
	in := list(x, g.weight(-1, 1, append([]int64{out, c / groups}, kernel...)...))
	if g.chance(2) {
		in = append(in, g.weight(-1, 1, out))
	}
	y := g.op("Conv", in, attrs...)
	if y == nil {
		return
	}
	switch g.rand.IntN(5) {
	case 0:
		g.op(pickName(g, "Relu", "Sigmoid", "Clip"), list(y))
	case 1:
		y = g.op("BatchNormalization", list(y, g.weight(0.5, 1.5, out), g.weight(-1, 1, out), g.newConst(g.numbers(tensor.Float32, tensor.Shape{out}, -1, 1)),
			g.newConst(g.numbers(tensor.Float32, tensor.Shape{out}, 0.5, 2))))
		g.op("Relu", list(y))
	case 2:
		g.op("Mul", list(y, g.op("Sigmoid", list(y))))
	case 3:
		g.op("Relu", list(g.op("Add", list(y, g.newInput(tensor.Float32, y.t.Shape)))))
	}
}

func pooled(g *randomGraph) {
	spatial := int(g.one(1, 2))
	x := g.ranked(spatial + 2)
	op := pickName(g, "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
	if op[0] == 'G' {
		g.op(op, list(x))
		return
	}
	var kernel, strides, pads []int64
	for range spatial {
		kernel, strides = append(kernel, g.one(2, 3)), append(strides, g.one(1, 2))
	}
	for range 2 * spatial {
		pads = append(pads, g.one(0, 0, 1))
	}
	attrs := []*graph.Attr{ais("kernel_shape", kernel...), ais("strides", strides...), ais("pads", pads...), ai("ceil_mode", g.one(0, 0, 1))}
	if op == "AveragePool" {
		attrs = append(attrs, ai("count_include_pad", g.one(0, 1)))
	}
	g.op(op, list(x), attrs...)
}

func resized(g *randomGraph) {
	x := g.ranked(4)
	mode := pickName(g, "nearest", "linear", "cubic")
	attrs := []*graph.Attr{as("mode", mode), as("coordinate_transformation_mode", pickName(g, "half_pixel", "asymmetric", "align_corners"))}
	if mode == "nearest" {
		attrs = append(attrs, as("nearest_mode", "floor"))
	}
	g.op("Resize", list(x, absent, g.newConst(tensor.Floats(tensor.Shape{4}, 1, 1, 2, 2))), attrs...)
}

// shapeSums computes a shape from shapes, and reshapes or expands to it.
func shapeSums(g *randomGraph) {
	x := g.any(2)
	rank := int64(len(x.t.Shape))
	s := g.op("Shape", list(x))
	if g.chance(2) {
		first := g.op("Slice", list(s, g.ints(0), g.ints(rank-2), g.ints(0)))
		if rank == 2 {
			first = g.ints(1)
		}
		g.op("Reshape", list(x, g.op("Concat", list(first, g.ints(-1)), ai("axis", 0))))
		return
	}
	dim := func(i int64) *randomValue {
		return g.op("Unsqueeze", list(g.op("Gather", list(s, g.newConst(tensor.Ints(nil, i))), ai("axis", 0)), g.ints(0)))
	}
	a, b := dim(0), dim(1)
	if g.chance(3) {
		g.op("Reshape", list(x, g.op("Concat", list(g.op("Mul", list(a, b)), g.ints(-1)), ai("axis", 0))))
		return
	}
	to := list(b, a)
	for i := int64(2); i < rank; i++ {
		to = append(to, dim(i))
	}
	g.op("Reshape", list(x, g.op("Concat", to, ai("axis", 0))))
}

// activationByHand are activations as exporters write them.
func activationByHand(g *randomGraph) {
	x := g.f(1)
	switch g.rand.IntN(4) {
	case 0: // GELU by the error function
		e := g.op("Erf", list(g.op("Div", list(x, g.float(1.4142135)))))
		g.op("Mul", list(g.op("Mul", list(x, g.op("Add", list(e, g.float(1))))), g.float(0.5)))
	case 1: // GELU by tanh
		inner := g.op("Add", list(x, g.op("Mul", list(g.op("Pow", list(x, g.float(3))), g.float(0.044715)))))
		t := g.op("Add", list(g.op("Tanh", list(g.op("Mul", list(inner, g.float(0.7978846))))), g.float(1)))
		g.op("Mul", list(g.op("Mul", list(x, g.float(0.5))), t))
	case 2: // SiLU
		g.op("Mul", list(x, g.op("Sigmoid", list(x))))
	case 3: // a softmax
		m := g.op("Exp", list(g.op("Sub", list(x, g.op("ReduceMax", list(x, g.ints(-1)))))))
		g.op("Div", list(m, g.op("ReduceSum", list(m, g.ints(-1)))))
	}
}

func quantizedAndBack(g *randomGraph) {
	scale := g.float(0.125)
	q := g.op("QuantizeLinear", list(g.f(1), scale, g.newConst(tensor.Of(tensor.Uint8, nil, []uint8{128}))))
	g.op("DequantizeLinear", list(q, scale, g.newConst(tensor.Of(tensor.Uint8, nil, []uint8{128}))))
}

// inside is a graph inside a node.
func (g *randomGraph) inside(nodes []*graph.Node, inputs, outputs []*graph.Value) *graph.Graph {
	g.inner++
	return &graph.Graph{Name: fmt.Sprintf("inside%d", g.inner), Nodes: nodes, Inputs: inputs, Outputs: outputs}
}

func (g *randomGraph) innerName() string {
	g.inner++
	return fmt.Sprintf("inner%d", g.inner)
}

func element(name string, d tensor.DType) *graph.Value {
	return &graph.Value{Name: name, Type: &graph.Type{Kind: graph.KindTensor, Elem: d}}
}

// branch is an If on a flag computed or given; its branches read values around them.
func branch(g *randomGraph) {
	x, y := g.f(0), g.f(0)
	if x.fresh || y.fresh {
		return
	}
	flag := g.pick(func(v *randomValue) bool { return v.t.DType == tensor.Bool && len(v.t.Shape) == 0 })
	if flag == nil {
		flag = g.newInput(tensor.Bool, nil)
	}
	arm := func(v *randomValue, op string) *graph.Graph {
		mid, out := g.innerName(), g.innerName()
		return g.inside([]*graph.Node{
			{OpType: op, Inputs: []string{v.name}, Outputs: []string{mid}},
			{OpType: "Add", Inputs: []string{mid, v.name}, Outputs: []string{out}},
		}, nil, []*graph.Value{element(out, tensor.Float32)})
	}
	g.op("If", list(flag), graph.GraphAttr("then_branch", arm(x, "Tanh")), graph.GraphAttr("else_branch", arm(y, "Neg")))
}

// loop goes round a few times with a value that it carries; what it had each time comes out stacked.
func loop(g *randomGraph) {
	x := g.f(1)
	around := g.pick(func(v *randomValue) bool {
		return v.t.DType == tensor.Float32 && broadcasts(v.t.Shape, x.t.Shape) && len(v.t.Shape) <= len(x.t.Shape) && !v.fresh
	})
	if around == nil {
		return
	}
	i, cond, carried, next, half, stay := g.innerName(), g.innerName(), g.innerName(), g.innerName(), g.innerName(), g.innerName()
	pace := g.innerName()
	body := g.inside([]*graph.Node{
		{OpType: "Identity", Inputs: []string{cond}, Outputs: []string{stay}},
		{OpType: "Cast", Inputs: []string{i}, Outputs: []string{pace}, Attrs: []*graph.Attr{ai("to", int64(tensor.Float32))}},
		{OpType: "Add", Inputs: []string{carried, pace}, Outputs: []string{half}},
		{OpType: "Add", Inputs: []string{half, around.name}, Outputs: []string{next}},
	}, []*graph.Value{element(i, tensor.Int64), element(cond, tensor.Bool), element(carried, tensor.Float32)},
		[]*graph.Value{element(stay, tensor.Bool), element(next, tensor.Float32), element(half, tensor.Float32)})
	body.Inputs[0].Type, body.Inputs[1].Type = graph.TensorType(tensor.Int64), graph.TensorType(tensor.Bool)
	g.node(&graph.Node{OpType: "Loop", Attrs: []*graph.Attr{graph.GraphAttr("body", body)}}, 2,
		g.newConst(tensor.Ints(nil, g.one(1, 2, 3))), absent, x)
}

// dataDependent are operators whose results' sizes depend on numbers.
func dataDependent(g *randomGraph) {
	x := g.any(1)
	if g.chance(2) {
		g.op("NonZero", list(x))
		return
	}
	axis := g.rand.IntN(len(x.t.Shape))
	g.op("Compress", list(x, g.newInput(tensor.Bool, tensor.Shape{x.t.Shape[axis]})), ai("axis", int64(axis)))
}
