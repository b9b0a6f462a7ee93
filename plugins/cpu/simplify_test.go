package main

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Operators in pieces, as exporters write them, become one operation each, and the
// numbers stay.
func TestOperatorsInPieces(t *testing.T) { asReference(t, piecesGraphs) }

func mul(b *graph.Builder, x, y string) string { return b.Op("Mul", []string{x, y}) }
func add(b *graph.Builder, x, y string) string { return b.Op("Add", []string{x, y}) }

func onX(build func(b *graph.Builder, rng *rand.Rand, x string) string) func(*graph.Builder, *rand.Rand) {
	return func(b *graph.Builder, rng *rand.Rand) {
		b.Output("y", build(b, rng, b.Input("x", typed(f32, "B", "S", "24"))), nil)
	}
}

// x24 is the input of onX.
var x24 = one([]string{"x"}, tensor.Shape{2, 5, 24})

func geluErf(b *graph.Builder, x string) string {
	e := add(b, b.Op("Erf", []string{b.Op("Div", []string{x, b.Float(math.Sqrt2)})}), b.Float(1))
	return mul(b, mul(b, x, e), b.Float(0.5))
}

func meanLast(b *graph.Builder, x string) string { return b.Op("ReduceMean", []string{x, b.Ints(-1)}) }

func normPieces(b *graph.Builder, rng *rand.Rand, x string, layer bool) string {
	c := x
	if layer {
		c = b.Op("Sub", []string{x, meanLast(b, x)})
	}
	root := b.Op("Sqrt", []string{add(b, meanLast(b, b.Op("Pow", []string{c, b.Float(2)})), b.Float(1e-5))})
	if layer {
		return add(b, mul(b, b.Op("Div", []string{c, root}), b.Tensor("g", floats(rng, 24))), b.Tensor("b", floats(rng, 24)))
	}
	return mul(b, b.Tensor("g", floats(rng, 24)), mul(b, c, b.Op("Div", []string{b.Float(1), root})))
}

// small are weights that keep the size of what they multiply.
func small(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t := floats(rng, shape...)
	for i := range tensor.View[float32](t) {
		tensor.View[float32](t)[i] *= 0.2
	}
	return t
}

// attentionPieces of x: q, k and v by linears of 4 heads (kv of which are keys' own) of 6.
func attentionPieces(b *graph.Builder, rng *rand.Rand, x string, kv int64, mask string) string {
	split := func(name string, heads int64, perm ...int64) string {
		y := b.Op("MatMul", []string{x, b.Tensor(name, small(rng, 24, heads*6))})
		return b.Op("Transpose", []string{b.Op("Reshape", []string{y, b.Ints(0, -1, heads, 6)})}, graph.IntsAttr("perm", perm...))
	}
	root := b.Float(0.4)
	q, k, v := split("q", 4, 0, 2, 1, 3), "", split("v", kv, 0, 2, 1, 3)
	if kv == 4 {
		k = split("k", 4, 0, 2, 3, 1)
	} else {
		repeat := func(x string) string {
			e := b.Op("Expand", []string{b.Op("Unsqueeze", []string{x, b.Ints(2)}), b.Ints(1, 1, 4/kv, 1, 1)})
			return b.Op("Reshape", []string{e, b.Ints(0, 4, -1, 6)})
		}
		k = b.Op("Transpose", []string{repeat(split("k", kv, 0, 2, 1, 3))}, graph.IntsAttr("perm", 0, 1, 3, 2))
		v = repeat(v)
	}
	s := b.Op("MatMul", []string{mul(b, q, root), mul(b, k, root)})
	if mask != "" {
		s = add(b, s, mask)
	}
	o := b.Op("MatMul", []string{b.Op("Softmax", []string{s}, graph.IntAttr("axis", -1)), v})
	return b.Op("Reshape", []string{b.Op("Transpose", []string{o}, graph.IntsAttr("perm", 0, 2, 1, 3)), b.Ints(0, -1, 24)})
}

var piecesGraphs = []testGraph{
	{name: "gelu by erf", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string { return geluErf(b, x) }), inputs: x24, units: 1},
	{name: "linear and gelu by erf", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		return geluErf(b, linearOf(b, rng, x, "fc", 8, 24))
	}), inputs: x24, units: 1},
	{name: "gelu by erf, a half first", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		e := add(b, b.Float(1), b.Op("Erf", []string{mul(b, x, b.Float(math.Sqrt2/2))}))
		return mul(b, mul(b, b.Float(0.5), x), e)
	}), inputs: x24, units: 1},
	{name: "gelu by tanh", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		in := add(b, x, mul(b, b.Op("Pow", []string{x, b.Float(3)}), b.Float(0.044715)))
		th := b.Op("Tanh", []string{mul(b, in, b.Float(0.7978845608))})
		return mul(b, mul(b, x, b.Float(0.5)), add(b, th, b.Float(1)))
	}), inputs: x24, units: 1},
	{name: "gelu by tanh, x outside", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		square := mul(b, mul(b, b.Float(0.044715), x), x)
		th := b.Op("Tanh", []string{mul(b, mul(b, x, b.Float(0.79788456)), add(b, square, b.Float(1)))})
		return mul(b, mul(b, b.Float(0.5), x), add(b, b.Float(1), th))
	}), inputs: x24, units: 1},
	{name: "not a gelu: another number", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		e := add(b, b.Op("Erf", []string{b.Op("Div", []string{x, b.Float(1.5)})}), b.Float(1))
		return mul(b, mul(b, x, e), b.Float(0.5))
	}), inputs: x24},
	{name: "a gelu whose part is read", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "B", "S", "24"))
		e := b.Op("Erf", []string{b.Op("Div", []string{x, b.Float(math.Sqrt2)})})
		b.Output("y", mul(b, mul(b, x, add(b, e, b.Float(1))), b.Float(0.5)), nil)
		b.Output("e", e, nil)
	}, inputs: x24},
	{name: "silu and a gate", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		g := b.Op("MatMul", []string{x, b.Tensor("gate", floats(rng, 24, 8))})
		return mul(b, mul(b, g, b.Op("Sigmoid", []string{g})), b.Op("MatMul", []string{x, b.Tensor("up", floats(rng, 24, 8))}))
	}), inputs: x24, units: 3},
	{name: "layer norm", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string { return normPieces(b, rng, x, true) }), inputs: x24, units: 1},
	{name: "RMS norm", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string { return normPieces(b, rng, x, false) }), inputs: x24, units: 1},
	{name: "attention", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		return attentionPieces(b, rng, x, 4, "")
	}), inputs: x24, units: 5},
	{name: "attention with a mask", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		return attentionPieces(b, rng, x, 4, b.Tensor("mask", floats(rng, 5, 5)))
	}), inputs: x24, units: 5},
	{name: "attention with shared heads", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		return attentionPieces(b, rng, x, 2, b.Tensor("mask", floats(rng, 2, 1, 1, 5)))
	}), inputs: x24, units: 5},
	{name: "attention with heads in the batch", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		k := b.Op("Transpose", []string{b.Op("Tanh", []string{x})}, graph.IntsAttr("perm", 0, 2, 1))
		s := b.Op("Div", []string{b.Op("MatMul", []string{x, k}), b.Float(3)})
		return b.Op("MatMul", []string{b.Op("Softmax", []string{s}), b.Op("Neg", []string{x})})
	}), inputs: x24, units: 3},
	{name: "attention that makes rows that see nothing zeros", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		mask := floats(rng, 5, 5)
		for i := range 5 {
			tensor.View[float32](mask)[5+i] = float32(math.Inf(-1))
		}
		s := add(b, b.Op("MatMul", []string{x, b.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))}), b.Tensor("mask", mask))
		w := b.Op("Softmax", []string{s})
		w = b.Op("Where", []string{b.Op("IsNaN", []string{w}), b.Float(0), w})
		return b.Op("MatMul", []string{w, x})
	}), inputs: x24, units: 1},
	{name: "weights of attention that are read", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "B", "S", "24"))
		w := b.Op("Softmax", []string{b.Op("MatMul", []string{x, b.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))})})
		b.Output("y", b.Op("MatMul", []string{w, x}), nil)
		b.Output("w", w, nil)
	}, inputs: x24, units: 4},
	{name: "nothings", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
		v := b.Op("Identity", []string{b.Op("Tanh", []string{x})})
		v = b.Op("Cast", []string{v}, graph.IntAttr("to", int64(f32)))
		v = b.Op("Expand", []string{v, b.Ints(1, 1, 24)})
		v = b.Op("Transpose", []string{v}, graph.IntsAttr("perm", 0, 1, 2))
		v = b.Op("Slice", []string{v, b.Ints(0), b.Ints(99), b.Ints(2)})
		return b.Op("Neg", []string{v})
	}), inputs: x24, units: 1},
}
