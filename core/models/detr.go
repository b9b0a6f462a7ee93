package models

import (
	"fmt"
	"math"
	"strconv"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// PixelMask is the input beside pixel_values that says where pictures of a padded batch
// are: int64 [batch, height, width] of 1 and 0, a picture at the upper left; all ones
// where it is left out.
const PixelMask = "pixel_mask"

// PredBoxes is the output of Detect: float32 [batch, queries, 4], the middle's x and y,
// width and height, in parts of the picture without its padding.
const PredBoxes = "pred_boxes"

// detr is DETR (Carion et al. 2020, arXiv:2005.12872): a ResNet, an encoder over its
// grid, and a decoder that asks it with learnt queries.
type detr struct {
	width, queries   int64
	encoder, decoder detrStack
	act              string
	backbone         resnet
	classes          int64 // that of no object included
	w                *weights
	o                Options
}

// detrStack are the sizes of one of the two transformers.
type detrStack struct{ layers, heads, inner int64 }

// detrEps is LayerNorm's default in torch.
const detrEps = 1e-5

// detrNames are those of an attention block, behind its stem.
var detrNames = attentionNames{q: ".q_proj", k: ".k_proj", v: ".v_proj", out: ".out_proj"}

// backbones are what the ResNet's tensors begin with, behind the model's prefix.
var backbones = []string{"backbone.conv_encoder.model.", "backbone.model.", "backbone.conv_encoder.model._backbone.", "backbone."}

func loadDETR(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	d := &detr{
		width:   f.IntOr("d_model", 256, 4, maxWidth),
		queries: f.IntOr("num_queries", 100, 1, maxTokens),
		act:     activation(f, "activation_function", "relu"),
		o:       o,
	}
	for _, s := range []struct {
		to   *detrStack
		name string
	}{{&d.encoder, "encoder"}, {&d.decoder, "decoder"}} {
		s.to.layers = f.IntOr(s.name+"_layers", 6, 0, maxLayers)
		s.to.heads = f.IntOr(s.name+"_attention_heads", 8, 1, maxWidth)
		s.to.inner = f.IntOr(s.name+"_ffn_dim", 2048, 1, maxInner)
		dividing(f, s.name+"_attention_heads", s.to.heads, "d_model", d.width)
	}
	if f.Err() == nil && d.width%4 != 0 {
		f.Fail("d_model", fmt.Sprintf("found %d", d.width), "a multiple of 4, for sines and cosines of rows and columns", "")
	}
	if p := f.StringOr("position_embedding_type", "sine"); p != "sine" && f.Err() == nil {
		f.Fail("position_embedding_type", "found "+strconv.Quote(p), `"sine"`, "learnt positions are not built")
	}
	d.backbone = readBackbone(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	d.w = &weights{ck: ck, prefix: "model.", used: map[string]bool{}}
	d.backbone.names.prefix = backbones[0]
	for _, p := range backbones {
		if d.w.has(p + d.backbone.names.stem[0] + ".weight") {
			d.backbone.names.prefix = p
			break
		}
	}
	m := &Model{Vision: &Vision{Channels: d.backbone.channels}}
	const classifier = "class_labels_classifier"
	if d.w.has(classifier + ".weight") {
		d.classes = d.w.rows(classifier + ".weight")
		m.Vision.Labels = labels(f, d.classes-1)
		if err := f.Err(); err != nil {
			return nil, err
		}
	}
	for _, architecture := range ck.Architectures {
		if architecture != "DetrForObjectDetection" && architecture != "DetrModel" {
			m.Notes = append(m.Notes, fmt.Sprintf("the architecture %s is not known: its outputs beyond the boxes' are left out", architecture))
		}
	}
	in := d.inputs()
	for _, name := range []string{Full, Detect} {
		if name == Detect && d.classes == 0 {
			break
		}
		n := newNet(name, d.w, d.o)
		in.declare(n.Builder)
		encoded, decoded := d.build(n)
		if name == Full {
			n.result("encoder_last_hidden_state", encoded, graph.Sym(Batch), graph.Sym("tokens"), graph.Known(d.width))
			n.result("last_hidden_state", decoded, graph.Sym(Batch), graph.Known(d.queries), graph.Known(d.width))
		}
		if d.classes > 0 {
			n.result(Logits, n.linear("head.class", decoded, classifier, d.width, d.classes), graph.Sym(Batch), graph.Known(d.queries), graph.Known(d.classes))
			n.result(PredBoxes, d.boxes(n, decoded), graph.Sym(Batch), graph.Known(d.queries), graph.Known(4))
		}
		if err := m.add(name, in, n); err != nil {
			return nil, err
		}
	}
	m.Unused, m.Matrices = d.w.unused(), d.w.matrices()
	return m, nil
}

func (d *detr) inputs() inputs {
	dims := []graph.Dim{graph.Sym(Batch), graph.Known(d.backbone.channels), graph.Sym(Height), graph.Sym(Width)}
	return inputs{
		list: []input{
			{name: PixelValues, dtype: tensor.Float32, dims: dims},
			{name: PixelMask, dtype: tensor.Int64, dims: []graph.Dim{dims[0], dims[2], dims[3]}, below: 2, wanted: "0 or 1", fill: ones},
		},
		sizes: map[string]size{Height: {most: maxImage}, Width: {most: maxImage}},
		also: func(given feeds) error {
			mask := given[PixelMask]
			step := mask.Shape[1] * mask.Shape[2]
			values := tensor.View[int64](mask.Aligned())
			for i := range mask.Shape[0] {
				if values[i*step] == 0 {
					return &InputError{Input: PixelMask, Index: []int64{i, 0, 0}, Found: "found 0", Wanted: "1: a picture begins at the upper left", Remedy: "pad at the right and below"}
				}
			}
			return nil
		},
	}
}

// build gives the encoder's and the decoder's last hidden states.
func (d *detr) build(n net) (encoded, decoded string) {
	grid := d.backbone.build(n, PixelValues)
	p := n.in("projection")
	channels := d.backbone.sizes[len(d.backbone.sizes)-1]
	x := p.Op("Conv", []string{grid, p.weight("input_projection.weight", d.width, channels, 1, 1), p.weight("input_projection.bias", d.width)}, graph.IntsAttr("kernel_shape", 1, 1))
	x = p.flat(x, d.width)
	mask := d.mask(n, grid)
	positions := d.positions(n, mask)
	keys := n.in("mask").Op("Unsqueeze", []string{n.in("mask").Op("Reshape", []string{n.in("mask").cast(mask, tensor.Bool), n.Ints(0, -1)}), n.Ints(1, 2)})

	with := func(scope, x, positions string) string { return n.in(scope).Op("Add", []string{x, positions}) }
	for i := range d.encoder.layers {
		scope, name := fmt.Sprintf("encoder.layer.%d", i), fmt.Sprintf("encoder.layers.%d.", i)
		q := with(scope+".attention", x, positions)
		h := n.attend(scope+".attention", q, q, x, keys, detrNames.under(name+"self_attn"), d.width, d.encoder.heads)
		x = n.residualNorm(scope+".attention.norm", x, h, name+"self_attn_layer_norm", d.width, detrEps)
		x = d.mlp(n, scope, x, name, d.encoder.inner)
	}
	encoded = x

	b := n.in("queries")
	batch := b.Op("Shape", []string{x}, graph.IntAttr("start", 0), graph.IntAttr("end", 1))
	y := b.Op("Expand", []string{b.Float(0), b.Op("Concat", []string{batch, b.Ints(d.queries, d.width)}, graph.IntAttr("axis", 0))})
	asked := b.weight("query_position_embeddings.weight", d.queries, d.width)
	for i := range d.decoder.layers {
		scope, name := fmt.Sprintf("decoder.layer.%d", i), fmt.Sprintf("decoder.layers.%d.", i)
		q := with(scope+".attention", y, asked)
		h := n.attend(scope+".attention", q, q, y, "", detrNames.under(name+"self_attn"), d.width, d.decoder.heads)
		y = n.residualNorm(scope+".attention.norm", y, h, name+"self_attn_layer_norm", d.width, detrEps)
		cross := scope + ".cross_attention"
		h = n.attend(cross, with(cross, y, asked), with(cross, x, positions), x, keys, detrNames.under(name+"encoder_attn"), d.width, d.decoder.heads)
		y = n.residualNorm(cross+".norm", y, h, name+"encoder_attn_layer_norm", d.width, detrEps)
		y = d.mlp(n, scope, y, name, d.decoder.inner)
	}
	return encoded, n.layerNorm("decoder.norm", y, "decoder.layernorm", d.width, detrEps)
}

func (d *detr) mlp(n net, scope, x, name string, inner int64) string {
	h := n.mlp(scope+".mlp", x, name+"fc1", name+"fc2", d.act, d.width, inner)
	return n.residualNorm(scope+".mlp.norm", x, h, name+"final_layer_norm", d.width, detrEps)
}

// mask is the pixels' mask at the grid's places, [batch, rows, columns] float32: that of
// the pixel at each place's upper left, as torch's nearest interpolation has it, in
// float32.
func (d *detr) mask(n net, grid string) string {
	n = n.in("mask")
	x := PixelMask
	for axis := range int64(2) {
		length := func(of string, axis int64) string {
			s := n.Op("Shape", []string{of}, graph.IntAttr("start", axis), graph.IntAttr("end", axis+1))
			return n.Op("Squeeze", []string{n.cast(s, tensor.Float32), n.Ints(0)})
		}
		from, to := length(PixelMask, axis+1), length(grid, axis+2)
		places := n.Op("Range", []string{n.Float(0), to, n.Float(1)})
		places = n.Op("Floor", []string{n.Op("Mul", []string{places, n.Op("Div", []string{from, to})})})
		x = n.Op("Gather", []string{x, n.cast(places, tensor.Int64)}, graph.IntAttr("axis", axis+1))
	}
	return n.cast(x, tensor.Float32)
}

// positions are sines and cosines of rows and columns, counted where the picture is and
// in parts of it: [batch, rows*columns, width].
func (d *detr) positions(n net, mask string) string {
	n = n.in("positions")
	half := d.width / 2
	waves := make([]float32, half/2)
	for i := range waves {
		waves[i] = float32(math.Pow(10000, float64(float32(2*i)/float32(half))))
	}
	by := n.Const(tensor.Floats(tensor.Shape{half / 2}, waves...))
	var both []string
	for _, axis := range []int64{1, 2} {
		at := n.Op("CumSum", []string{mask, n.Int(axis)})
		last := n.Op("Slice", []string{at, n.Ints(-1), n.Ints(math.MaxInt64), n.Ints(axis)})
		at = n.Op("Mul", []string{n.Op("Div", []string{at, n.Op("Add", []string{last, n.Float(1e-6)})}), n.Float(2 * math.Pi)})
		angles := n.Op("Div", []string{n.Op("Unsqueeze", []string{at, n.Ints(-1)}), by})
		var pair []string
		for _, f := range []string{"Sin", "Cos"} {
			pair = append(pair, n.Op("Unsqueeze", []string{n.Op(f, []string{angles}), n.Ints(-1)}))
		}
		both = append(both, n.Op("Reshape", []string{n.Op("Concat", pair, graph.IntAttr("axis", -1)), n.Ints(0, 0, 0, half)}))
	}
	return n.Op("Reshape", []string{n.Op("Concat", both, graph.IntAttr("axis", -1)), n.Ints(0, -1, d.width)})
}

// boxes is a linear perceptron of three layers and a sigmoid.
func (d *detr) boxes(n net, x string) string {
	for i, out := range []int64{d.width, d.width, 4} {
		scope := fmt.Sprintf("head.box.%d", i)
		x = n.linear(scope, x, fmt.Sprintf("bbox_predictor.layers.%d", i), d.width, out)
		if i < 2 {
			x = n.activate(scope, "relu", x)
		}
	}
	return n.in("head.box").Op("Sigmoid", []string{x})
}
