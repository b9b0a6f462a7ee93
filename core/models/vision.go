package models

import (
	"fmt"
	"strconv"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// PixelValues is the input of pictures, float32 [batch, channels, height, width]: what
// the image processor of the checkpoint makes of them.
const PixelValues = "pixel_values"

// Symbolic dimensions of pictures.
const (
	Images = "images" // where Batch counts something else
	Height = "height"
	Width  = "width"
)

// maxImage bounds the sides of pictures and patches that a config may ask for.
const maxImage = 1 << 14

// Vision says what a model sees and what it makes of it.
type Vision struct {
	Channels      int64
	Height, Width int64 // of pixel_values; 0: any
	Frames        int64 // of one video; 0: pictures
	Dimension     int64 // of the embeddings that Image (or Video) and Text give; 0: none
	// Labels are the classes that Classify and Detect tell apart, by index.
	Labels []string
	// Independent: a sigmoid, and no softmax, makes probabilities of Match's logits.
	Independent bool
}

// patches is how a vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929)
// cuts pictures.
type patches struct {
	channels, width               int64
	imageHeight, imageWidth       int64
	patchHeight, patchWidth       int64
	weight, bias                  string // of the convolution; bias "": none
	antialias                     bool   // of positions, see interpolated
	gridHeight, gridWidth, number int64  // of patches of a picture of that size
}

// readPatches reads image_size, patch_size and num_channels.
func readPatches(f checkpoint.Fields, image, patch, width int64) patches {
	p := patches{channels: f.IntOr("num_channels", 3, 1, 16), width: width}
	p.imageHeight, p.imageWidth = sides(f, "image_size", image)
	p.patchHeight, p.patchWidth = sides(f, "patch_size", patch)
	if f.Err() != nil {
		return p
	}
	p.gridHeight, p.gridWidth = p.imageHeight/p.patchHeight, p.imageWidth/p.patchWidth
	p.number = p.gridHeight * p.gridWidth
	if p.number == 0 {
		f.Fail("patch_size", fmt.Sprintf("found %dx%d", p.patchHeight, p.patchWidth), fmt.Sprintf("at most image_size, which is %dx%d", p.imageHeight, p.imageWidth), "")
	}
	return p
}

// sides reads a size: one number, or height and width.
func sides(f checkpoint.Fields, name string, def int64) (height, width int64) {
	list := f.Ints(name, 1, maxImage)
	switch {
	case list == nil:
		return def, def
	case len(list) == 1:
		return list[0], list[0]
	case len(list) == 2:
		return list[0], list[1]
	}
	f.Fail(name, fmt.Sprintf("found %d numbers", len(list)), "one number, or height and width", "")
	return 0, 0
}

// input is pixel_values of pictures of the config's size.
func (p *patches) input(batch string) input {
	return input{name: PixelValues, dtype: tensor.Float32,
		dims: []graph.Dim{graph.Sym(batch), graph.Known(p.channels), graph.Known(p.imageHeight), graph.Known(p.imageWidth)}}
}

// anySize is pixel_values of pictures of any size, and the bounds of it.
func (p *patches) anySize() inputs {
	return inputs{
		list: []input{{name: PixelValues, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Batch), graph.Known(p.channels), graph.Sym(Height), graph.Sym(Width)}}},
		sizes: map[string]size{
			Height: {least: p.patchHeight, most: maxImage, remedy: "a picture has at least one patch"},
			Width:  {least: p.patchWidth, most: maxImage, remedy: "a picture has at least one patch"},
		},
	}
}

// cut makes rows of the patches: [batch, channels, height, width] -> [batch, patches,
// width]; grid is the convolution's output, [batch, width, rows, columns].
func (n net) cut(scope, pixels string, p patches) (rows, grid string) {
	n = n.in(scope)
	in := []string{pixels, n.weight(p.weight, p.width, p.channels, p.patchHeight, p.patchWidth)}
	if p.bias != "" {
		in = append(in, n.weight(p.bias, p.width))
	}
	grid = n.Op("Conv", in, graph.IntsAttr("kernel_shape", p.patchHeight, p.patchWidth), graph.IntsAttr("strides", p.patchHeight, p.patchWidth))
	return n.flat(grid, p.width), grid
}

// flat makes rows of a grid: [batch, width, rows, columns] -> [batch, rows*columns, width].
func (n net) flat(grid string, width int64) string {
	rows := n.Op("Reshape", []string{grid, n.Ints(0, width, -1)})
	return n.Op("Transpose", []string{rows}, graph.IntsAttr("perm", 0, 2, 1))
}

// prepend puts stored rows of so many tokens, [1, tokens, width] once repeated, before
// those of every picture.
func (n net) prepend(scope, x string, width int64, tokens ...string) string {
	n = n.in(scope)
	batch := n.Op("Shape", []string{x}, graph.IntAttr("start", 0), graph.IntAttr("end", 1))
	var rows []string
	for _, t := range tokens {
		shape := n.Op("Concat", []string{batch, n.Ints(1, width)}, graph.IntAttr("axis", 0))
		rows = append(rows, n.Op("Expand", []string{t, shape}))
	}
	return n.Op("Concat", append(rows, x), graph.IntAttr("axis", 1))
}

// interpolated are learnt positions for a grid of another size than that they were
// learnt on: stored [1, special+number, width], of which those of special tokens stay as
// they are, and the others are resized bicubically, as transformers'
// interpolate_pos_encoding does: with a = -0.75, or -0.5 where it is antialiased.
func (n net) interpolated(scope, stored, grid string, special int64, p patches) string {
	n = n.in(scope)
	table := n.weight(stored, 1, special+p.number, p.width)
	x := n.Op("Reshape", []string{n.Op("Slice", []string{table, n.Ints(special), n.Ints(special + p.number), n.Ints(1)}), n.Ints(1, p.gridHeight, p.gridWidth, p.width)})
	x = n.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 3, 1, 2))
	to := n.Op("Concat", []string{n.Ints(1, p.width), n.Op("Shape", []string{grid}, graph.IntAttr("start", 2))}, graph.IntAttr("axis", 0))
	a, antialias := float32(-0.75), int64(0)
	if p.antialias {
		a, antialias = -0.5, 1
	}
	x = n.Op("Resize", []string{x, "", "", to}, graph.StringAttr("mode", "cubic"), graph.FloatAttr("cubic_coeff_a", a),
		graph.IntAttr("antialias", antialias), graph.IntAttr("exclude_outside", antialias), graph.StringAttr("coordinate_transformation_mode", "half_pixel"))
	x = n.flat(x, p.width)
	if special == 0 {
		return x
	}
	return n.Op("Concat", []string{n.Op("Slice", []string{table, n.Ints(0), n.Ints(special), n.Ints(1)}), x}, graph.IntAttr("axis", 1))
}

// stack is a pre-norm transformer: x + attention(norm(x)), then x + mlp(norm(x)).
type stack struct {
	width, layers, heads, inner int64
	act                         string
	eps                         float32
	names                       stackNames
}

// stackNames are the tensors of one layer; prefix has a %d for its number.
type stackNames struct {
	prefix             string
	attentionNorm      string
	attention          attentionNames
	norm, up, down     string
	scale1, scale2     string // of what is added, by channel; "": none
	gatedUp, gatedDown string // SwiGLU in place of up and down; "": none
}

// clipNames are those of CLIP's encoders and of what was made after them.
var clipNames = stackNames{
	prefix:        "encoder.layers.%d.",
	attentionNorm: "layer_norm1",
	attention:     attentionNames{q: "self_attn.q_proj", k: "self_attn.k_proj", v: "self_attn.v_proj", out: "self_attn.out_proj"},
	norm:          "layer_norm2", up: "mlp.fc1", down: "mlp.fc2",
}

// under puts a stem before the names.
func (s stackNames) under(stem string) stackNames {
	s.prefix = stem + s.prefix
	return s
}

// readStack reads a transformer's sizes as most configs call them, with d for what is
// missing.
func readStack(f checkpoint.Fields, d stack) stack {
	d.width = f.IntOr("hidden_size", d.width, 1, maxWidth)
	d.layers = f.IntOr("num_hidden_layers", d.layers, 1, maxLayers)
	d.heads = f.IntOr("num_attention_heads", d.heads, 1, maxWidth)
	d.inner = f.IntOr("intermediate_size", d.inner, 1, maxInner)
	d.act = activation(f, "hidden_act", d.act)
	d.eps = float32(f.FloatOr("layer_norm_eps", float64(d.eps), 0, 1))
	dividing(f, "num_attention_heads", d.heads, "hidden_size", d.width)
	return d
}

// dividing refuses heads that do not divide the width.
func dividing(f checkpoint.Fields, heads string, h int64, width string, w int64) {
	if f.Err() == nil && w%h != 0 {
		f.Fail(heads, fmt.Sprintf("found %d", h), fmt.Sprintf("a divisor of %s, which is %d", width, w), "")
	}
}

// layersOf runs x [batch, sequence, width] through the first layers of a transformer;
// mask as selfAttention has it, attrs are the attention's.
func (n net) layersOf(scope, x, mask string, s stack, layers int64, attrs ...*graph.Attr) string {
	for i := range layers {
		x = n.layerOf(scope, i, x, mask, s, attrs...)
	}
	return x
}

func (n net) layerOf(scope string, i int64, x, mask string, s stack, attrs ...*graph.Attr) string {
	scope, prefix := fmt.Sprintf("%s.layer.%d", scope, i), fmt.Sprintf(s.names.prefix, i)
	h := n.layerNorm(scope+".attention.norm", x, prefix+s.names.attentionNorm, s.width, s.eps)
	h = n.selfAttention(scope+".attention", h, mask, s.names.attention.under(prefix), s.width, s.heads, attrs...)
	x = n.in(scope+".attention").Op("Add", []string{x, n.scaled(scope+".attention", h, prefix, s.names.scale1, s.width)})
	return n.mlpOf(scope+".mlp", x, prefix, s)
}

// mlpOf is the second half of a layer.
func (n net) mlpOf(scope, x, prefix string, s stack) string {
	h := n.layerNorm(scope+".norm", x, prefix+s.names.norm, s.width, s.eps)
	if s.names.gatedUp != "" {
		h = n.linear(scope+".up", h, prefix+s.names.gatedUp, s.width, 2*s.inner)
		halves := n.in(scope+".act").Node(&graph.Node{OpType: "Split", Inputs: []string{h}, Attrs: []*graph.Attr{graph.IntAttr("axis", -1), graph.IntAttr("num_outputs", 2)}}, 2)
		h = n.in(scope+".act").Op("Mul", []string{n.activate(scope+".act", "silu", halves[0]), halves[1]})
		h = n.linear(scope+".down", h, prefix+s.names.gatedDown, s.inner, s.width)
	} else {
		h = n.mlp(scope, h, prefix+s.names.up, prefix+s.names.down, s.act, s.width, s.inner)
	}
	return n.in(scope).Op("Add", []string{x, n.scaled(scope, h, prefix, s.names.scale2, s.width)})
}

// scaled multiplies channels by a stored vector, where the layer has one.
func (n net) scaled(scope, x, prefix, name string, width int64) string {
	if name == "" {
		return x
	}
	return n.in(scope).Op("Mul", []string{x, n.weight(prefix+name, width)})
}

// labels are the names of a head's n classes, as id2label gives them; those without a
// name are called LABEL_i, as transformers calls them.
func labels(f checkpoint.Fields, n int64) []string {
	names := f.StringMap("id2label")
	list := make([]string, n)
	for i := range list {
		id := strconv.Itoa(i)
		name, ok := names[id]
		if !ok {
			name = "LABEL_" + id
		}
		list[i] = name
		delete(names, id)
	}
	if f.Err() == nil && len(names) > 0 {
		f.Fail("id2label", fmt.Sprintf("it names %d classes more", len(names)), fmt.Sprintf("the %d classes of the weights", n), "config.json and the weights are of different models")
	}
	return list
}
