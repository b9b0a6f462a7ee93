package main

import (
	"math/rand/v2"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// What moves elements by constant indices is native, and so are reductions over any
// axes.
func TestMovesAndReductions(t *testing.T) {
	graphs := []testGraph{
		{name: "GatherND of pairs", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("GatherND", []string{x, b.Const(tensor.Ints(tensor.Shape{3, 2}, 0, 4, 1, -5, -1, 2))})
		}), inputs: x24, units: 1},
		{name: "GatherND of rows given as it runs", build: func(b *graph.Builder, rng *rand.Rand) {
			x, i := b.Input("x", typed(f32, "B", "S", "24")), b.Input("i", typed(tensor.Int64, "N", "1"))
			b.Output("y", b.Op("GatherND", []string{x, i}), nil)
		}, inputs: func(rng *rand.Rand) map[string]tensor.Tensor {
			return map[string]tensor.Tensor{"x": floats(rng, 2, 5, 24), "i": tensor.Ints(tensor.Shape{3, 1}, 1, -2, 0)}
		}, units: 1},
		{name: "GatherElements", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("GatherElements", []string{x, b.Const(tensor.Ints(tensor.Shape{1, 2, 3}, 4, 0, -1, 2, 3, 1))}, graph.IntAttr("axis", 1))
		}), inputs: x24, units: 1},
		{name: "ScatterND, one place twice", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("ScatterND", []string{x, b.Const(tensor.Ints(tensor.Shape{3, 2}, 0, 4, 1, 1, 0, 4)), b.Tensor("u", floats(rng, 3, 24))})
		}), inputs: x24, units: 3},
		{name: "ScatterElements", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("ScatterElements", []string{x, b.Const(tensor.Ints(tensor.Shape{1, 2, 3}, 4, 0, -1, 2, 3, 1)), b.Tensor("u", floats(rng, 1, 2, 3))}, graph.IntAttr("axis", 1))
		}), inputs: x24, units: 3},
		{name: "Tile", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("Tile", []string{x, b.Ints(3, 1, 2)})
		}), inputs: x24, units: 1},
		{name: "Trilu", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			return b.Op("Sub", []string{b.Op("Trilu", []string{x, b.Int(2)}), b.Op("Trilu", []string{x, b.Int(-1)}, graph.IntAttr("upper", 0))})
		}), inputs: x24, units: 3},
	}
	for _, op := range []string{"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2"} {
		graphs = append(graphs, testGraph{name: op + " over the first and the last", build: onX(func(b *graph.Builder, rng *rand.Rand, x string) string {
			v := b.Op("Reshape", []string{mul(b, x, b.Float(0.5)), b.Ints(2, 5, 2, 4, 3)})
			return b.Op(op, []string{v, b.Ints(0, -1, 2)}, graph.IntAttr("keepdims", 0))
		}), inputs: x24, units: 4})
	}
	asReference(t, graphs)
}
