package main

import (
	"fmt"
	"math/rand/v2"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// conv2d adds a Conv of constant filters, with a bias.
func conv2d(b *graph.Builder, rng *rand.Rand, x, name string, out, in, kernel int64, attrs ...*graph.Attr) string {
	w := floats(rng, out, in, kernel, kernel)
	for i := range tensor.View[float32](w) {
		tensor.View[float32](w)[i] /= float32(in * kernel)
	}
	return b.Op("Conv", []string{x, b.Tensor(name+".weight", w), b.Tensor(name+".bias", floats(rng, out))}, attrs...)
}

func batchNormOf(b *graph.Builder, rng *rand.Rand, x, name string, channels int64) string {
	variance := floats(rng, channels)
	for i, v := range tensor.View[float32](variance) {
		tensor.View[float32](variance)[i] = v*v + 0.1
	}
	return b.Op("BatchNormalization", []string{x, b.Tensor(name+".scale", floats(rng, channels)), b.Tensor(name+".offset", floats(rng, channels)),
		b.Tensor(name+".mean", floats(rng, channels)), b.Tensor(name+".var", variance)})
}

func image(sizes ...int64) func(*rand.Rand) map[string]tensor.Tensor {
	return one([]string{"x"}, sizes)
}

var imageGraphs = []testGraph{
	{name: "residual block", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "6", "H", "W"))
		h := b.Op("Relu", []string{batchNormOf(b, rng, conv2d(b, rng, x, "a", 9, 6, 1), "an", 9)})
		h = b.Op("Relu", []string{batchNormOf(b, rng, conv2d(b, rng, h, "b", 9, 9, 3, graph.IntsAttr("pads", 1, 1, 1, 1), graph.IntsAttr("strides", 2, 2)), "bn", 9)})
		h = batchNormOf(b, rng, conv2d(b, rng, h, "c", 12, 9, 1), "cn", 12)
		short := batchNormOf(b, rng, conv2d(b, rng, x, "d", 12, 6, 1, graph.IntsAttr("strides", 2, 2)), "dn", 12)
		b.Output("y", b.Op("Relu", []string{b.Op("Add", []string{h, short})}), nil)
	}, inputs: image(2, 6, 13, 15), units: 4},
	{name: "activation, then residual", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "5", "H", "W"))
		h := conv2d(b, rng, x, "a", 5, 5, 3, graph.StringAttr("auto_pad", "SAME_LOWER"))
		h = b.Op("Mul", []string{h, b.Op("Sigmoid", []string{h})})
		b.Output("y", b.Op("Add", []string{x, h}), nil)
	}, inputs: image(1, 5, 8, 9), units: 1},
	{name: "a sum of a convolution with itself is no residual", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "5", "H", "W"))
		h := conv2d(b, rng, x, "a", 5, 5, 3)
		b.Output("y", b.Op("Add", []string{h, h}), nil)
	}, inputs: image(1, 5, 8, 9), units: 2},
	{name: "inverted residual", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "4", "H", "W"))
		six := func(v string) string { return b.Op("Clip", []string{v, b.Float(0), b.Float(6)}) }
		h := six(conv2d(b, rng, x, "a", 10, 4, 1))
		h = six(batchNormOf(b, rng, conv2d(b, rng, h, "b", 10, 1, 3, graph.IntAttr("group", 10), graph.IntsAttr("pads", 1, 1, 1, 1)), "bn", 10))
		h = conv2d(b, rng, h, "c", 4, 10, 1)
		b.Output("y", b.Op("Add", []string{h, x}), nil)
	}, inputs: image(2, 4, 9, 11), units: 3},
	{name: "activations", build: func(b *graph.Builder, rng *rand.Rand) {
		h := b.Input("x", typed(f32, "N", "4", "H", "W"))
		for i, op := range []string{"LeakyRelu", "HardSwish", "HardSigmoid", "Gelu", "Tanh"} {
			h = b.Op(op, []string{conv2d(b, rng, h, string(rune('a'+i)), 4, 4, 1)})
		}
		b.Output("y", h, nil)
	}, inputs: image(1, 4, 5, 5), units: 5},
	{name: "filters that are given", build: func(b *graph.Builder, rng *rand.Rand) {
		x, w := b.Input("x", typed(f32, "N", "6", "L")), b.Input("w", typed(f32, "8", "3", "K"))
		b.Output("y", b.Op("Conv", []string{x, w}, graph.IntAttr("group", 2), graph.IntsAttr("dilations", 2)), nil)
	}, inputs: one([]string{"x", "w"}, tensor.Shape{2, 6, 20}, tensor.Shape{8, 3, 3}), units: 3}, // two groups packed
	{name: "volumes", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "2", "D", "H", "W"))
		h := b.Op("Conv", []string{x, b.Tensor("w", floats(rng, 7, 2, 2, 3, 3))}, graph.IntsAttr("strides", 1, 2, 1), graph.IntsAttr("pads", 0, 1, 1, 1, 1, 1))
		h = b.Op("MaxPool", []string{h}, graph.IntsAttr("kernel_shape", 2, 2, 2))
		b.Output("y", b.Op("ConvTranspose", []string{h, b.Tensor("v", floats(rng, 7, 3, 2, 2, 3))}, graph.IntsAttr("strides", 2, 1, 3)), nil)
	}, inputs: image(1, 2, 4, 7, 8), units: 8},
	{name: "transposed", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "6", "H", "W"))
		w := b.Tensor("w", floats(rng, 6, 4, 4, 3))
		h := b.Op("ConvTranspose", []string{x, w, b.Tensor("bias", floats(rng, 8))}, graph.IntAttr("group", 2), graph.IntsAttr("strides", 2, 3), graph.IntsAttr("pads", 1, 0, 1, 1),
			graph.IntsAttr("dilations", 2, 1), graph.IntsAttr("output_padding", 1, 0))
		h = batchNormOf(b, rng, h, "n", 8)
		b.Output("y", b.Op("Relu", []string{h}), nil)
	}, inputs: image(2, 6, 5, 4), units: 6},
	{name: "transposed, as large as times the stride", build: func(b *graph.Builder, rng *rand.Rand) {
		x, w := b.Input("x", typed(f32, "N", "2", "H", "W")), b.Tensor("w", floats(rng, 2, 3, 4, 3))
		for _, auto := range []string{"SAME_UPPER", "SAME_LOWER"} {
			b.Output(auto, b.Op("ConvTranspose", []string{x, w}, graph.StringAttr("auto_pad", auto), graph.IntsAttr("strides", 1, 2)), nil)
		}
		b.Output("sized", b.Op("ConvTranspose", []string{x, w}, graph.IntsAttr("output_shape", 6, 8), graph.IntsAttr("strides", 1, 2)), nil)
	}, inputs: image(1, 2, 5, 4), units: 6},
	{name: "transposed, taps that meet nothing", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "3", "L"))
		b.Output("y", b.Op("ConvTranspose", []string{x, b.Tensor("w", floats(rng, 3, 1, 2)), b.Tensor("bias", floats(rng, 3))}, graph.IntAttr("group", 3), graph.IntsAttr("strides", 5)), nil)
	}, inputs: image(2, 3, 6), units: 5},
	{name: "pools", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "3", "H", "W"))
		shape, strides, pads := graph.IntsAttr("kernel_shape", 3, 2), graph.IntsAttr("strides", 2, 2), graph.IntsAttr("pads", 1, 0, 1, 1)
		ceil := graph.IntAttr("ceil_mode", 1)
		v := []string{b.Op("MaxPool", []string{x}, shape, strides, pads), b.Op("AveragePool", []string{x}, shape, strides, pads),
			b.Op("AveragePool", []string{x}, shape, strides, pads, graph.IntAttr("count_include_pad", 1))}
		b.Output("y", b.Op("Concat", v, graph.IntAttr("axis", 1)), nil)
		b.Output("z", b.Op("AveragePool", []string{x}, shape, strides, pads, ceil, graph.IntAttr("count_include_pad", 1)), nil)
		b.Output("g", b.Op("Concat", []string{b.Op("GlobalAveragePool", []string{x}), b.Op("GlobalMaxPool", []string{x})}, graph.IntAttr("axis", 0)), nil)
	}, inputs: image(2, 3, 12, 14), units: 11},
	{name: "resizes", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "1", "2", "5", "7"))
		sizes := b.Ints(1, 2, 11, 4)
		scales := b.Const(tensor.Floats(tensor.Shape{4}, 1, 1, 2, 1.7))
		i := 0
		for _, mode := range []string{"nearest", "linear", "cubic"} {
			for _, coords := range []string{"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"} {
				in := []string{x, "", scales}
				if i%2 == 1 {
					in = []string{x, "", "", sizes}
				}
				i++
				attrs := []*graph.Attr{graph.StringAttr("mode", mode), graph.StringAttr("coordinate_transformation_mode", coords)}
				if i%3 == 0 && mode != "nearest" {
					attrs = append(attrs, graph.IntAttr("antialias", 1))
				}
				b.Output(mode+coords, b.Op("Resize", in, attrs...), nil)
			}
		}
	}, inputs: image(1, 2, 5, 7), units: 30},
	{name: "pads", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "2", "5", "6"))
		for _, mode := range []string{"reflect", "edge", "wrap"} {
			b.Output(mode, b.Op("Pad", []string{x, b.Ints(1, 2, 0, 0, 3, 4)}, graph.StringAttr("mode", mode)), nil)
		}
		b.Output("constant", b.Op("Pad", []string{x, b.Ints(1, -2, 0, 0, 3, -1), b.Float(3)}), nil)
		b.Output("zeros", b.Op("Pad", []string{x, b.Ints(2, 1), "", b.Ints(-1)}), nil)
	}, inputs: image(2, 5, 6), units: 13},
	{name: "images sampled", build: func(b *graph.Builder, rng *rand.Rand) {
		x, g := b.Input("x", typed(f32, "N", "3", "H", "W")), b.Input("g", typed(f32, "N", "P", "Q", "2"))
		for _, mode := range []string{"nearest", "linear", "cubic"} {
			for _, padding := range []string{"zeros", "border", "reflection"} {
				for corners := range int64(2) {
					b.Output(fmt.Sprint(mode, padding, corners), b.Op("GridSample", []string{x, g}, graph.StringAttr("mode", mode), graph.StringAttr("padding_mode", padding), graph.IntAttr("align_corners", corners)), nil)
				}
			}
		}
		v, h := b.Input("v", typed(f32, "N", "2", "3", "4", "5")), b.Input("h", typed(f32, "N", "1", "1", "P", "3"))
		b.Output("volume", b.Op("GridSample", []string{v, h}), nil)
	}, inputs: one([]string{"x", "g", "v", "h"}, tensor.Shape{2, 3, 5, 6}, tensor.Shape{2, 9, 8, 2}, tensor.Shape{2, 2, 3, 4, 5}, tensor.Shape{2, 1, 1, 9, 3}), units: 19},
	{name: "groups normalised", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "8", "H", "W"))
		h := b.Op("GroupNormalization", []string{x, b.Tensor("gs", floats(rng, 8)), b.Tensor("gb", floats(rng, 8))}, graph.IntAttr("num_groups", 4))
		h = b.Op("InstanceNormalization", []string{h, b.Tensor("is", floats(rng, 8)), b.Tensor("ib", floats(rng, 8))}, graph.FloatAttr("epsilon", 1e-3))
		b.Output("y", batchNormOf(b, rng, h, "n", 8), nil)
	}, inputs: image(2, 8, 5, 6), units: 3},
}
