package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

func randomBytes(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t, err := tensor.New(tensor.Uint8, shape)
	if err != nil {
		panic(err)
	}
	for i := range t.Data {
		t.Data[i] = byte(rng.Uint32())
	}
	return t
}

// steps are numbers of 16 bits between 1/64 and 1/32, either sign: steps of codes that make numbers near 1.
func steps(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t := halves(rng, shape...)
	for i := range tensor.View[uint16](t) {
		tensor.View[uint16](t)[i] -= 6 << 10
	}
	return t
}

// blocksOf adds a product of x [...,k] with a weight in blocks of 32.
func blocksOf(b *graph.Builder, rng *rand.Rand, x, name string, n, k, bits, level int64, mins bool) string {
	const block = 32
	in := []string{x, b.Tensor(name+".codes", randomBytes(rng, n, (k*bits+7)/8)), b.Tensor(name+".scales", steps(rng, n, (k+block-1)/block))}
	if mins {
		in = append(in, b.Tensor(name+".mins", steps(rng, n, (k+block-1)/block)))
	}
	return b.Node(&graph.Node{Domain: graph.DomainAccel, OpType: "MatMulBlocks", Inputs: in, Attrs: []*graph.Attr{
		graph.IntAttr("bits", bits), graph.IntAttr("block", block), graph.IntAttr("K", k), graph.IntAttr("N", n), graph.IntAttr("accuracy_level", level)}}, 1)[0]
}

// nbitsOf adds a product with a weight of MatMulNBits, with zero points and a bias.
func nbitsOf(b *graph.Builder, rng *rand.Rand, x, name string, n, k, bits, level int64) string {
	const block = 16
	blocks := (k + block - 1) / block
	scales := floats(rng, n, blocks)
	for i := range tensor.View[float32](scales) {
		tensor.View[float32](scales)[i] /= 64
	}
	in := []string{x, b.Tensor(name+".B", randomBytes(rng, n, blocks, block*bits/8)), b.Tensor(name+".scales", scales),
		b.Tensor(name+".zeros", randomBytes(rng, n, (blocks*bits+7)/8)), "", b.Tensor(name+".bias", floats(rng, n))}
	return b.Node(&graph.Node{Domain: graph.DomainMicrosoft, OpType: "MatMulNBits", Inputs: in, Attrs: []*graph.Attr{
		graph.IntAttr("bits", bits), graph.IntAttr("block_size", block), graph.IntAttr("K", k), graph.IntAttr("N", n), graph.IntAttr("accuracy_level", level)}}, 1)[0]
}

func bfloats(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t := halves(rng, shape...)
	t.DType = tensor.BFloat16 // the same bits are 2^-7 to 2^0
	return t
}

// throughBF16 is x rounded to bfloat16, as float32.
func throughBF16(b *graph.Builder, x string) string {
	half := b.Op("Cast", []string{x}, graph.IntAttr("to", int64(tensor.BFloat16)))
	return b.Op("Cast", []string{half}, graph.IntAttr("to", int64(f32)))
}

// bf16LinearOf adds a product with a weight of bfloat16, in float32; up to 4096 elements are widened while planning.
func bf16LinearOf(b *graph.Builder, rng *rand.Rand, x, name string, n, k int64) string {
	w := b.Op("Cast", []string{b.Tensor(name, bfloats(rng, n, k))}, graph.IntAttr("to", int64(f32)))
	return b.Op("MatMul", []string{x, b.Op("Transpose", []string{w}, graph.IntsAttr("perm", 1, 0))})
}

var blocksGraphs = []testGraph{
	{name: "weights in blocks, with what follows them", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "B", "S", "45"))
		h := b.Op("Sigmoid", []string{blocksOf(b, rng, x, "gate", 33, 45, 4, 1, true)})
		h = b.Op("Add", []string{blocksOf(b, rng, h, "down", 45, 33, 8, 0, false), x})
		h = b.Op("Relu", []string{nbitsOf(b, rng, h, "head", 20, 45, 4, 1)})
		b.Output("y", blocksOf(b, rng, h, "last", 7, 20, 5, 1, false), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{2, 3, 45}), units: 4},
	{name: "one row", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "45"))
		b.Output("y", b.Op("Add", []string{blocksOf(b, rng, x, "w", 33, 45, 6, 1, true), b.Tensor("bias", floats(rng, 33))}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{1, 45}), units: 1},
	{name: "weights of bfloat16", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "40"))
		b.Output("y", bf16LinearOf(b, rng, x, "w", 131, 40), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{9, 40}), units: 1},
	{name: "rows rounded to bfloat16, once for two products", build: func(b *graph.Builder, rng *rand.Rand) {
		h := throughBF16(b, b.Input("x", typed(f32, "B", "S", "45")))
		y := b.Op("Mul", []string{b.Op("Sigmoid", []string{bf16LinearOf(b, rng, h, "gate", 131, 45)}), bf16LinearOf(b, rng, h, "up", 131, 45)})
		b.Output("y", y, nil)
	}, inputs: one([]string{"x"}, tensor.Shape{2, 9, 45}), units: 4},
	{name: "rows rounded to bfloat16 that others read, and a weight of float32", build: func(b *graph.Builder, rng *rand.Rand) {
		h := throughBF16(b, b.Input("x", typed(f32, "N", "70")))
		b.Output("y", b.Op("Add", []string{bf16LinearOf(b, rng, h, "w", 70, 70), h}), nil)
		b.Output("z", linearOf(b, rng, h, "v", 8, 70), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{1, 70}), units: 4},
	{name: "rows rounded to bfloat16 that are an output", build: func(b *graph.Builder, rng *rand.Rand) {
		h := throughBF16(b, b.Input("x", typed(f32, "N", "40")))
		b.Output("y", b.Op("Gemm", []string{h, b.Op("Cast", []string{b.Tensor("w", bfloats(rng, 131, 40))}, graph.IntAttr("to", int64(f32))), b.Tensor("c", floats(rng, 131))},
			graph.IntAttr("transB", 1)), nil)
		b.Output("h", h, nil)
	}, inputs: one([]string{"x"}, tensor.Shape{40, 40}), units: 3},
	{name: "rows rounded to float16 stay so", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Op("Cast", []string{b.Input("x", typed(f32, "N", "40"))}, graph.IntAttr("to", int64(tensor.Float16)))
		b.Output("y", bf16LinearOf(b, rng, b.Op("Cast", []string{x}, graph.IntAttr("to", int64(f32))), "w", 131, 40), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{9, 40}), units: 3},
	{name: "rows of a table in blocks", build: func(b *graph.Builder, rng *rand.Rand) {
		ids := b.Input("ids", typed(tensor.Int64, "N"))
		b.Output("y", b.Node(&graph.Node{Domain: graph.DomainAccel, OpType: "GatherBlocks", Attrs: []*graph.Attr{graph.IntAttr("bits", 4), graph.IntAttr("block", 32), graph.IntAttr("K", 64)},
			Inputs: []string{b.Tensor("codes", randomBytes(rng, 10, 2, 16)), b.Tensor("scales", halves(rng, 10, 2)), "", ids}}, 1)[0], nil)
	}, inputs: func(*rand.Rand) map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"ids": tensor.Ints(tensor.Shape{4}, 9, -10, 0, 3)}
	}, units: 1},
	{name: "a width that no kernel has", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "40"))
		b.Output("y", blocksOf(b, rng, x, "w", 5, 40, 7, 4, true), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{2, 40}), slow: []string{"MatMulBlocks"}},
}

func TestWeightsInBlocks(t *testing.T) { asReference(t, blocksGraphs) }

// Rounded activations are made once for all that read them, before the first, wherever units
// with an epilogue come to stand.
func TestActivationsAreRoundedOnce(t *testing.T) {
	b := graph.NewBuilder("test")
	rng := rand.New(rand.NewPCG(1, 2))
	const k, n = 96, 40
	x := b.Input("x", typed(f32, "T", fmt.Sprint(k)))
	gate := blocksOf(b, rng, x, "gate", n, k, 4, accuracyInt8, true)
	up := blocksOf(b, rng, x, "up", n, k, 4, accuracyInt8, false)
	h := b.Op("Mul", []string{b.Op("Sigmoid", []string{gate}), up})
	b.Output("y", nbitsOf(b, rng, h, "down", k, n, 8, accuracyInt8), nil)
	b.Output("z", nbitsOf(b, rng, x, "other", n, k, 4, accuracyInt8), nil) // another unit of K
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Tensor{"x": floats(rng, 5, k)}
	want, err := p.Run(t.Context(), in, []string{"y", "z"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runners(t) {
		t.Run(r.ISA(), func(t *testing.T) {
			e := compiled(t, m, r)
			out := &collected{got: map[int]tensor.Tensor{}}
			if err := e.Run(t.Context(), e.values(in), out); err != nil {
				t.Fatal(err)
			}
			for i, name := range []string{"y", "z"} {
				var largest, worst float64
				got, want := tensor.View[float32](out.got[i]), tensor.View[float32](want[name])
				for j, w := range want {
					largest = max(largest, math.Abs(float64(w)))
					worst = max(worst, math.Abs(float64(got[j]-w)))
				}
				// 1/254 of a unit's largest each, twice; and they are rounded at all.
				if worst > 0.02*largest || worst < 1e-5*largest {
					t.Errorf("%s is off by %g, the largest is %g", name, worst, largest)
				}
			}
			steps := e.plans[0].steps
			if len(steps) != 1 {
				t.Fatalf("%d steps", len(steps))
			}
			// x twice, h once; four products; the product of gate and up.
			if n := steps[0].(*nativeStep).program.Len(); n != 3+4+1 {
				t.Errorf("%d operations", n)
			}
			if unused := kernels.QuantizedBytes(5, k, 32); e.plans[0].arena < unused {
				t.Errorf("an arena of %d bytes has no room for what is rounded", e.plans[0].arena)
			}
		})
	}
}
