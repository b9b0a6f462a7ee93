package main

import (
	"math/rand/v2"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Elementwise operators of several steps and of other types are native, and chains
// of them are one operation.
func TestElementwise(t *testing.T) {
	var graphs []testGraph
	for _, op := range []string{"LeakyRelu", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Softsign", "Mish"} {
		graphs = append(graphs, testGraph{name: op, build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("Neg", []string{b.Op(op, []string{add(b, x, b.Float(0.25))})})
		}), inputs: x24, units: 1})
	}
	asReference(t, append(graphs, []testGraph{
		{name: "clips", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			v := b.Op("Clip", []string{x, b.Float(-1), b.Float(0.5)})
			v = b.Op("Clip", []string{v, "", b.Float(0.25)})
			return b.Op("Clip", []string{v, b.Float(-0.75)})
		}), inputs: x24, units: 1},
		{name: "PRelu and sums of three", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			v := b.Op("PRelu", []string{x, b.Tensor("slope", floats(rng, 24))})
			v = b.Op("Mean", []string{v, x, b.Tensor("m", floats(rng, 5, 1))})
			return b.Op("Max", []string{v, x, b.Float(-0.5)})
		}), inputs: x24, units: 1},
		{name: "from flags to numbers", build: func(b *graph.Builder, rng *rand.Rand) {
			x, m := b.Input("x", typed(f32, "B", "S", "24")), b.Input("m", typed(tensor.Int64, "B", "S", "24"))
			keep := b.Op("Cast", []string{b.Op("Greater", []string{x, b.Float(0)})}, graph.IntAttr("to", int64(f32)))
			far := b.Op("Sub", []string{b.Float(1), b.Op("Cast", []string{m}, graph.IntAttr("to", int64(f32)))})
			b.Output("y", add(b, mul(b, keep, x), mul(b, far, b.Float(-100))), nil)
		}, inputs: func(rng *rand.Rand) map[string]tensor.Tensor {
			m, err := tensor.New(tensor.Int64, tensor.Shape{2, 5, 24})
			if err != nil {
				panic(err)
			}
			for i := range tensor.View[int64](m) {
				tensor.View[int64](m)[i] = rng.Int64N(2)
			}
			return map[string]tensor.Tensor{"x": floats(rng, 2, 5, 24), "m": m}
		}, units: 1},
		{name: "int32 and float16, one at a time", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			to := func(v string, d tensor.DType) string { return b.Op("Cast", []string{v}, graph.IntAttr("to", int64(d))) }
			i := to(mul(b, x, b.Float(100)), tensor.Int32)
			i = b.Op("Mod", []string{mul(b, i, i), b.Const(tensor.Of(tensor.Int32, nil, []int32{7}))})
			h := to(b.Op("Round", []string{mul(b, x, b.Float(8))}), tensor.Float16)
			return add(b, to(i, f32), to(add(b, h, h), f32))
		}), inputs: x24, units: 6},
		{name: "seven dimensions", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			v := b.Op("Reshape", []string{x, b.Ints(2, 5, 2, 2, 2, 3, 1)})
			v = add(b, v, b.Tensor("w", floats(rng, 2, 2, 2, 3, 1)))
			return b.Op("Reshape", []string{b.Op("Exp", []string{v}), b.Ints(2, 5, 24)})
		}), inputs: x24, units: 2},
	}...))
}
