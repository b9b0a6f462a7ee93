package models

import (
	"fmt"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
)

// viewer is what tells one vision transformer for pictures (ViT, arXiv:2010.11929; DeiT,
// arXiv:2012.12877; DINOv2, arXiv:2304.07193) from another.
type viewer struct {
	prefix  string // of the base model's tensors where heads were saved with it
	special []string
	config  func(checkpoint.Fields) viewerConfig
	// anySize: positions follow the size of the picture; else only Full's do, and
	// pictures of another size than the config's are refused, as transformers does.
	anySize bool
	// average: the embedding is the first token's row, without BERT's pooler, and the
	// classifier also reads the average of the patches.
	average bool
}

// viewerConfig is the part of config.json that the graphs depend on.
type viewerConfig struct {
	stack
	patches
	registers int64 // tokens without a position between the first one and the patches
	pooled    int64 // width of the pooler's output
	poolerAct string
}

var (
	vit  = viewer{prefix: "vit.", special: []string{"embeddings.cls_token"}, config: vitConfig}
	deit = viewer{prefix: "deit.", special: []string{"embeddings.cls_token", "embeddings.distillation_token"}, config: vitConfig}

	dinov2 = viewer{prefix: "dinov2.", special: []string{"embeddings.cls_token"}, config: dinoConfig, anySize: true, average: true}
	// registers: arXiv:2309.16588.
	dinov2Registers = viewer{prefix: "dinov2_with_registers.", special: dinov2.special, config: registersConfig, anySize: true, average: true}
)

// vitNames are a layer's tensors in ViT and DeiT.
var vitNames = stackNames{
	prefix:        "encoder.layer.%d.",
	attentionNorm: "layernorm_before",
	attention:     attentionNames{q: "attention.attention.query", k: "attention.attention.key", v: "attention.attention.value", out: "attention.output.dense"},
	norm:          "layernorm_after", up: "intermediate.dense", down: "output.dense",
}

func vitConfig(f checkpoint.Fields) viewerConfig {
	c := viewerConfig{stack: readStack(f, stack{width: 768, layers: 12, heads: 12, inner: 3072, act: "gelu", eps: 1e-12, names: vitNames}),
		poolerAct: activation(f, "pooler_act", "tanh")}
	c.pooled = f.IntOr("pooler_output_size", c.stack.width, 1, maxWidth)
	c.common(f, 224, 16)
	return c
}

func dinoConfig(f checkpoint.Fields) viewerConfig {
	names := vitNames
	names.attentionNorm, names.norm, names.up, names.down = "norm1", "norm2", "mlp.fc1", "mlp.fc2"
	names.scale1, names.scale2 = "layer_scale1.lambda1", "layer_scale2.lambda1"
	c := viewerConfig{stack: readStack(f, stack{width: 768, layers: 12, heads: 12, act: "gelu", eps: 1e-6, names: names})}
	c.inner = int64(float64(c.stack.width) * f.FloatOr("mlp_ratio", 4, 0.01, 64))
	if f.BoolOr("use_swiglu_ffn", false) {
		c.names.gatedUp, c.names.gatedDown = "mlp.weights_in", "mlp.weights_out"
		c.inner = (c.inner*2/3 + 7) / 8 * 8
	}
	c.common(f, 224, 14)
	return c
}

func registersConfig(f checkpoint.Fields) viewerConfig {
	c := dinoConfig(f)
	c.registers = f.IntOr("num_register_tokens", 4, 0, maxTokens)
	c.antialias = true
	return c
}

func (c *viewerConfig) common(f checkpoint.Fields, image, patch int64) {
	c.names.attention.bare = !f.BoolOr("qkv_bias", true)
	c.patches = readPatches(f, image, patch, c.stack.width)
	const projection = "embeddings.patch_embeddings.projection"
	c.weight, c.bias = projection+".weight", projection+".bias"
}

// viewerHeads build the logits that the classes of transformers have on top; the first
// value is the logits, the others come with their names.
var viewerHeads = map[string]func(*view) []valueNamed{
	"ViTForImageClassification":                 classifyPicture,
	"DeiTForImageClassification":                classifyPicture,
	"DeiTForImageClassificationWithTeacher":     classifyWithTeacher,
	"Dinov2ForImageClassification":              classifyPicture,
	"Dinov2WithRegistersForImageClassification": classifyPicture,
}

type valueNamed struct {
	name, value string
	width       int64
}

func (v *viewer) load(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := v.config(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	m := &Model{Vision: &Vision{Channels: c.channels, Height: c.imageHeight, Width: c.imageWidth, Dimension: c.stack.width}}
	if v.anySize {
		m.Vision.Height, m.Vision.Width = 0, 0
	}
	w := &weights{ck: ck, prefix: v.prefix, used: map[string]bool{}}
	w.skip("embeddings.mask_token") // of training

	var head func(*view) []valueNamed
	for _, architecture := range ck.Architectures {
		var known bool
		if head, known = viewerHeads[architecture]; known {
			break
		}
		if !strings.HasSuffix(architecture, "Model") {
			m.Notes = append(m.Notes, fmt.Sprintf("the architecture %s is not known: its outputs beyond the encoder's are left out", architecture))
		}
	}

	e, in := v.begin(Full, w, c, o, true)
	e.result("last_hidden_state", e.hidden, graph.Sym(Batch), graph.Sym("tokens"), graph.Known(c.stack.width))
	switch {
	case v.average:
		e.result("pooler_output", e.first("pooler", e.hidden), graph.Sym(Batch), graph.Known(c.stack.width))
	case w.has(poolerLinear + ".weight"):
		x := e.rowLinear("pooler", e.first("pooler", e.hidden), poolerLinear, c.stack.width, c.pooled)
		e.result("pooler_output", e.activate("pooler", c.poolerAct, x), graph.Sym(Batch), graph.Known(c.pooled))
	}
	if head != nil {
		for _, out := range head(e) {
			e.result(out.name, out.value, graph.Sym(Batch), graph.Known(out.width))
		}
	}
	if err := m.add(Full, in, e.net); err != nil {
		return nil, err
	}

	if head != nil {
		e, in = v.begin(Classify, w, c, o, v.anySize)
		out := head(e)[0]
		m.Vision.Labels = labels(f, out.width)
		if err := f.Err(); err != nil {
			return nil, err
		}
		e.result(out.name, out.value, graph.Sym(Batch), graph.Known(out.width))
		if err := m.add(Classify, in, e.net); err != nil {
			return nil, err
		}
	}

	e, in = v.begin(Image, w, c, o, v.anySize)
	e.result(ImageEmbeds, e.unit("normalize", e.first("embedding", e.hidden)), graph.Sym(Batch), graph.Known(c.stack.width))
	if err := m.add(Image, in, e.net); err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// view is a graph of a vision transformer while it is built.
type view struct {
	net
	v      *viewer
	c      viewerConfig
	hidden string // the last layer's output, normalised: [batch, tokens, width]
}

// begin builds the inputs and the encoder.
func (v *viewer) begin(name string, w *weights, c viewerConfig, o Options, anySize bool) (*view, inputs) {
	e := &view{net: newNet(name, w, o), v: v, c: c}
	in := inputs{list: []input{c.patches.input(Batch)}}
	if anySize {
		in = c.anySize()
	}
	in.declare(e.Builder)
	width, special := c.stack.width, int64(len(v.special))
	x, grid := e.cut("embeddings.patch", PixelValues, c.patches)
	var tokens []string
	for _, name := range v.special {
		tokens = append(tokens, e.weight(name, 1, 1, width))
	}
	x = e.prepend("embeddings", x, width, tokens...)
	const table = "embeddings.position_embeddings"
	var positions string
	if anySize {
		positions = e.interpolated("embeddings.position", table, grid, special, c.patches)
	} else {
		positions = e.weight(table, 1, special+c.number, width)
	}
	x = e.in("embeddings").Op("Add", []string{x, positions})
	if c.registers > 0 {
		rest := e.rest("embeddings.registers", x, special)
		rest = e.prepend("embeddings.registers", rest, width, e.weight("embeddings.register_tokens", 1, c.registers, width))
		cls := e.in("embeddings.registers").Op("Slice", []string{x, e.Ints(0), e.Ints(special), e.Ints(1)})
		x = e.in("embeddings.registers").Op("Concat", []string{cls, rest}, graph.IntAttr("axis", 1))
	}
	x = e.layersOf("encoder", x, "", c.stack, c.layers)
	e.hidden = e.layerNorm("encoder.norm", x, "layernorm", width, c.eps)
	return e, in
}

// classifyPicture is a linear over the first token's row, with the average of the
// patches' rows beside it where the class has that.
func classifyPicture(e *view) []valueNamed {
	const name = "classifier"
	width, x := e.c.stack.width, e.first(name, e.hidden)
	if e.v.average {
		patches := e.rest(name, e.hidden, int64(len(e.v.special))+e.c.registers)
		mean := e.in(name).Op("ReduceMean", []string{patches, e.Ints(1)}, graph.IntAttr("keepdims", 0))
		x = e.in(name).Op("Concat", []string{x, mean}, graph.IntAttr("axis", 1))
		width *= 2
	}
	n := e.w.rows(name + ".weight")
	return []valueNamed{{"logits", e.rowLinear(name, x, name, width, n), n}}
}

// classifyWithTeacher averages a linear over the first token's row and one over that of
// the distillation token.
func classifyWithTeacher(e *view) []valueNamed {
	out := []valueNamed{{name: "logits"}}
	for i, name := range []string{"cls", "distillation"} {
		scope := name + "_classifier"
		n := e.w.rows(scope + ".weight")
		row := e.in(scope).Op("Gather", []string{e.hidden, e.Int(int64(i))}, graph.IntAttr("axis", 1))
		out = append(out, valueNamed{name + "_logits", e.rowLinear(scope, row, scope, e.c.stack.width, n), n})
	}
	n := e.in("classifier")
	sum := n.Op("Add", []string{out[1].value, out[2].value})
	out[0].value, out[0].width = n.Op("Mul", []string{sum, n.Float(0.5)}), out[1].width
	return out
}
