package models

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
)

// resnet is a ResNet (arXiv:1512.03385) whose batch norms are frozen, as far as its last
// stage: [batch, channels, height, width] -> [batch, sizes[last], height/32, width/32],
// rounded up.
type resnet struct {
	channels, stem int64
	sizes, depths  []int64 // of each stage: channels, blocks
	bottleneck     bool    // blocks of three convolutions, else of two
	early          bool    // a bottleneck's first convolution strides, not its second
	first          bool    // the first stage strides too
	dilated        bool    // the last stage dilates in place of striding
	act            string
	names          resnetNames
}

// resnetNames are the tensors: pairs of a convolution and its norm. Blocks are numbered
// from 0, and so are the convolutions in them.
type resnetNames struct {
	prefix   string
	stem     [2]string
	conv     func(stage, block, i int64) [2]string
	shortcut func(stage, block int64) [2]string
}

// transformersNames are those of transformers' own ResNet.
var transformersNames = resnetNames{
	stem: [2]string{"embedder.embedder.convolution", "embedder.embedder.normalization"},
	conv: func(stage, block, i int64) [2]string {
		s := fmt.Sprintf("encoder.stages.%d.layers.%d.layer.%d.", stage, block, i)
		return [2]string{s + "convolution", s + "normalization"}
	},
	shortcut: func(stage, block int64) [2]string {
		s := fmt.Sprintf("encoder.stages.%d.layers.%d.shortcut.", stage, block)
		return [2]string{s + "convolution", s + "normalization"}
	},
}

// timmNames are those of the library timm, and of torchvision.
var timmNames = resnetNames{
	stem: [2]string{"conv1", "bn1"},
	conv: func(stage, block, i int64) [2]string {
		s := fmt.Sprintf("layer%d.%d.", stage+1, block)
		return [2]string{s + fmt.Sprintf("conv%d", i+1), s + fmt.Sprintf("bn%d", i+1)}
	},
	shortcut: func(stage, block int64) [2]string {
		s := fmt.Sprintf("layer%d.%d.downsample.", stage+1, block)
		return [2]string{s + "0", s + "1"}
	},
}

// timmDepths are the ResNets that timm knows by name; those of 50 layers and more have
// bottlenecks.
var timmDepths = map[string][]int64{
	"resnet18": {2, 2, 2, 2}, "resnet34": {3, 4, 6, 3}, "resnet50": {3, 4, 6, 3}, "resnet101": {3, 4, 23, 3}, "resnet152": {3, 8, 36, 3},
}

// readBackbone reads the backbone of a config: backbone_config, or the name of one of
// timm's.
func readBackbone(f checkpoint.Fields) resnet {
	const field = "backbone_config"
	b := f.ObjectOr(field)
	kind := b.StringOr("model_type", "")
	if name := f.StringOr("backbone", ""); name != "" && kind == "" {
		return timmResNet(f, name, f.IntOr("num_channels", 3, 1, 16), f.BoolOr("dilation", false))
	}
	switch {
	case kind == "timm_backbone":
		const stride = "output_stride"
		n := b.IntOr(stride, 32, 1, 64)
		if n != 32 && n != 16 {
			b.Fail(stride, fmt.Sprintf("found %d", n), "32, or 16 for a dilated last stage", "")
		}
		return timmResNet(b, b.StringOr("backbone", ""), b.IntOr("num_channels", 3, 1, 16), n == 16 || f.BoolOr("dilation", false))
	case kind != "resnet" && f.Err() == nil:
		b.Fail("model_type", "found "+strconv.Quote(kind), `"resnet" or "timm_backbone"`, "")
	}
	r := resnet{
		channels: b.IntOr("num_channels", 3, 1, 16),
		stem:     b.IntOr("embedding_size", 64, 1, maxWidth),
		sizes:    b.Ints("hidden_sizes", 1, maxWidth),
		depths:   b.Ints("depths", 1, maxLayers),
		early:    b.BoolOr("downsample_in_bottleneck", false),
		first:    b.BoolOr("downsample_in_first_stage", false),
		act:      activation(b, "hidden_act", "relu"),
		names:    transformersNames,
	}
	if r.sizes == nil {
		r.sizes = []int64{256, 512, 1024, 2048}
	}
	if r.depths == nil {
		r.depths = []int64{3, 4, 6, 3}
	}
	if b.Err() == nil && (len(r.sizes) != len(r.depths) || len(r.sizes) > 16) {
		b.Fail("hidden_sizes", fmt.Sprintf("it has %d entries", len(r.sizes)), fmt.Sprintf("one for each of the %d of depths, at most 16", len(r.depths)), "")
	}
	switch kind := b.StringOr("layer_type", "bottleneck"); {
	case kind == "bottleneck":
		r.bottleneck = true
	case kind != "basic" && b.Err() == nil:
		b.Fail("layer_type", "found "+strconv.Quote(kind), `"basic" or "bottleneck"`, "")
	}
	if r.bottleneck && b.Err() == nil && slices.ContainsFunc(r.sizes, func(n int64) bool { return n%4 != 0 }) {
		b.Fail("hidden_sizes", fmt.Sprintf("found %d", r.sizes), "multiples of 4, for bottlenecks have a fourth of the channels", "")
	}
	last := fmt.Sprintf("stage%d", len(r.depths))
	if out := b.Strings("out_features"); out != nil && b.Err() == nil && (len(out) == 0 || out[len(out)-1] != last) {
		b.Fail("out_features", "found "+strings.Join(out, ", "), last+" at the end", "")
	}
	return r
}

func timmResNet(f checkpoint.Fields, name string, channels int64, dilated bool) resnet {
	depths, known := timmDepths[name]
	if !known {
		f.Fail("backbone", "found "+strconv.Quote(name), "resnet18, resnet34, resnet50, resnet101 or resnet152", "")
	}
	r := resnet{channels: channels, stem: 64, sizes: []int64{64, 128, 256, 512}, depths: depths, bottleneck: name != "resnet18" && name != "resnet34",
		dilated: dilated, act: "relu", names: timmNames}
	if r.bottleneck {
		r.sizes = []int64{256, 512, 1024, 2048}
	}
	return r
}

// build runs pixels through all stages.
func (r *resnet) build(n net, pixels string) string {
	x := n.convolve("backbone.stem", pixels, r.under(r.names.stem), convolution{in: r.channels, out: r.stem, side: 7, stride: 2, dilation: 1}, r.act)
	x = n.in("backbone.stem").Op("MaxPool", []string{x}, graph.IntsAttr("kernel_shape", 3, 3), graph.IntsAttr("strides", 2, 2), graph.IntsAttr("pads", 1, 1, 1, 1))
	width := r.stem
	for s := range int64(len(r.sizes)) {
		out, stride, dilation := r.sizes[s], int64(2), int64(1)
		last := s == int64(len(r.sizes))-1
		if s == 0 && !r.first || r.dilated && last {
			stride = 1
		}
		for b := range r.depths[s] {
			x = r.block(n, s, b, x, width, out, stride, dilation)
			width, stride = out, 1
			if r.dilated && last {
				dilation = 2 // from the second block on
			}
		}
	}
	return x
}

// block is some convolutions and what comes in, added.
func (r *resnet) block(n net, stage, block int64, x string, in, out, stride, dilation int64) string {
	scope := fmt.Sprintf("backbone.stage.%d.block.%d", stage, block)
	list := []convolution{{in: in, out: out, side: 3, stride: stride, dilation: dilation}, {in: out, out: out, side: 3, stride: 1, dilation: dilation}}
	if r.bottleneck {
		narrow := out / 4
		list = []convolution{{in, narrow, 1, 1, 1}, {narrow, narrow, 3, stride, dilation}, {narrow, out, 1, 1, 1}}
		if r.early {
			list[0].stride, list[1].stride = stride, 1
		}
	}
	y := x
	for i, c := range list {
		act := r.act
		if i == len(list)-1 {
			act = ""
		}
		y = n.convolve(fmt.Sprintf("%s.conv.%d", scope, i), y, r.under(r.names.conv(stage, block, int64(i))), c, act)
	}
	if in != out || stride != 1 {
		x = n.convolve(scope+".shortcut", x, r.under(r.names.shortcut(stage, block)), convolution{in, out, 1, stride, 1}, "")
	}
	return n.activate(scope, r.act, n.in(scope).Op("Add", []string{x, y}))
}

func (r *resnet) under(names [2]string) [2]string {
	return [2]string{r.names.prefix + names[0], r.names.prefix + names[1]}
}

// convolution is a square one, padded so that a stride of 1 keeps the size.
type convolution struct{ in, out, side, stride, dilation int64 }

// convolve is a convolution without bias, a frozen batch norm, and an activation, "" for
// none: names are those of the first two.
func (n net) convolve(scope, x string, names [2]string, c convolution, act string) string {
	b := n.in(scope)
	pad := c.dilation * (c.side / 2)
	x = b.Op("Conv", []string{x, b.weight(names[0]+".weight", c.out, c.in, c.side, c.side)},
		graph.IntsAttr("kernel_shape", c.side, c.side), graph.IntsAttr("strides", c.stride, c.stride),
		graph.IntsAttr("dilations", c.dilation, c.dilation), graph.IntsAttr("pads", pad, pad, pad, pad))
	in := []string{x}
	for _, part := range []string{"weight", "bias", "running_mean", "running_var"} {
		in = append(in, b.weight(names[1]+"."+part, c.out))
	}
	n.w.skip(names[1] + ".num_batches_tracked")
	x = b.Op("BatchNormalization", in, graph.FloatAttr("epsilon", 1e-5))
	if act == "" {
		return x
	}
	return n.activate(scope, act, x)
}
