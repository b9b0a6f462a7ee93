package models

import (
	"fmt"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Labels is the symbolic dimension of the texts that Match holds pictures against.
const Labels = "labels"

// pairing is what tells one model of pictures and texts in one space (CLIP,
// arXiv:2103.00020; SigLIP, arXiv:2303.15343) from another.
type pairing struct {
	text, vision stack // defaults
	texts        textTower
	patch        int64 // default
	sigmoid      bool  // SigLIP: no class token, an attention that pools, and biases
}

var (
	clip = pairing{
		text:   stack{width: 512, layers: 12, heads: 8, inner: 2048, act: "quick_gelu", eps: 1e-5, names: clipNames},
		vision: stack{width: 768, layers: 12, heads: 12, inner: 3072, act: "quick_gelu", eps: 1e-5, names: clipNames},
		texts:  textTower{vocab: 49408, positions: 77, pad: 1, eos: 49407}, patch: 32,
	}
	siglip = pairing{
		text:   stack{width: 768, layers: 12, heads: 12, inner: 3072, act: "gelu_pytorch_tanh", eps: 1e-6, names: clipNames},
		vision: stack{width: 768, layers: 12, heads: 12, inner: 3072, act: "gelu_pytorch_tanh", eps: 1e-6, names: clipNames},
		texts:  textTower{vocab: 32000, positions: 64, pad: 1, eos: 49407}, patch: 16, sigmoid: true,
	}
)

// oldEOS is the end token of configs that had it wrong: the text's row is then that of
// its highest token. (CLIP's own end token is the last of its vocabulary.)
const oldEOS = 2

// textTower reads texts: learnt positions, and one row of the last layer for the text.
type textTower struct {
	stack
	vocab, positions, pad, eos int64
	projection                 int64
	// last: the row is that of the last place, and texts are as long as there are
	// positions; else attention is causal, and the row is that of the end token.
	last bool
}

// readText reads a text_config.
func readText(f checkpoint.Fields, d textTower, s stack) textTower {
	d.stack = readStack(f, s)
	d.vocab = f.IntOr("vocab_size", d.vocab, 1, maxVocab)
	d.positions = f.IntOr("max_position_embeddings", d.positions, 1, maxTokens)
	d.pad = f.IntOr("pad_token_id", d.pad, 0, maxVocab)
	d.eos = f.IntOr("eos_token_id", d.eos, 0, maxVocab)
	if f.Err() == nil && d.pad >= d.vocab {
		f.Fail("pad_token_id", fmt.Sprintf("found %d", d.pad), fmt.Sprintf("a token below vocab_size, which is %d", d.vocab), "")
	}
	return d
}

// inputs are those of a text tower, int64 [batch, sequence] each.
func (t *textTower) inputs(batch string) inputs {
	if t.last {
		ids, _ := tokens(t.vocab, graph.Sym(batch), graph.Known(t.positions))
		return inputs{list: []input{ids}}
	}
	dims := symbols(batch, Sequence)
	ids, mask := tokens(t.vocab, dims...)
	return inputs{
		list: []input{ids, mask, {name: "position_ids", dtype: tensor.Int64, dims: dims, below: t.positions,
			wanted: fmt.Sprintf("a position below max_position_embeddings, which is %d", t.positions), fill: count}},
		sizes: map[string]size{Sequence: {most: t.positions, remedy: "cut the text"}},
		also:  t.ended,
	}
}

// build reads the inputs: hidden [batch, sequence, width], normalised, and pooled
// [batch, width].
func (t *textTower) build(n net, scope, prefix string) (hidden, pooled string) {
	const embeddings = "embeddings."
	x := n.embedding(scope+".embeddings.word", InputIDs, prefix+embeddings+"token_embedding.weight", t.vocab, t.width)
	n.w.skip(prefix + embeddings + "position_ids")
	table, mask := prefix+embeddings+"position_embedding.weight", ""
	var attrs []*graph.Attr
	if t.last {
		x = n.in(scope+".embeddings").Op("Add", []string{x, n.in(scope+".embeddings").weight(table, t.positions, t.width)})
	} else {
		positions := n.embedding(scope+".embeddings.position", "position_ids", table, t.positions, t.width)
		x = n.in(scope+".embeddings").Op("Add", []string{x, positions})
		mask, attrs = n.keyMask("attention_mask"), []*graph.Attr{graph.IntAttr("is_causal", 1)}
	}
	s := t.stack
	s.names = s.names.under(prefix)
	x = n.layersOf(scope, x, mask, s, s.layers, attrs...)
	hidden = n.layerNorm(scope+".norm", x, prefix+"final_layer_norm", t.width, t.eps)
	p := n.in(scope + ".pool")
	if t.last {
		return hidden, p.Op("Gather", []string{hidden, p.Int(t.positions - 1)}, graph.IntAttr("axis", 1))
	}
	ends := p.Op("Equal", []string{InputIDs, p.Int(t.eos)})
	if t.eos == oldEOS {
		ends = p.Op("Equal", []string{InputIDs, p.Op("ReduceMax", []string{InputIDs, p.Ints(1)}, graph.IntAttr("keepdims", 1))})
	}
	return hidden, p.weighted(hidden, p.nth(p.cast(ends, tensor.Float32), 0))
}

// ended refuses texts without an end token, whose row would be nothing's.
func (t *textTower) ended(given feeds) error {
	if err := attends(given); err != nil || t.eos == oldEOS {
		return err
	}
	ids := given[InputIDs]
	values, sequence := tensor.View[int64](ids.Aligned()), int(ids.Shape[1])
	for row := 0; len(values) > 0; row++ {
		if !slices.Contains(values[:sequence], t.eos) {
			return &InputError{Input: InputIDs, Index: []int64{int64(row)}, Found: "it does not end",
				Wanted: fmt.Sprintf("a token %d, which is eos_token_id", t.eos), Remedy: "tokenize texts with their special tokens"}
		}
		values = values[sequence:]
	}
	return nil
}

// visionTower is the vision model of CLIP or SigLIP, by a vision_config.
type visionTower struct {
	stack
	patches
	sigmoid bool
	preNorm string // CLIP's first norm
}

// readVision reads a vision_config.
func readVision(f checkpoint.Fields, p *pairing) visionTower {
	v := visionTower{stack: readStack(f, p.vision), sigmoid: p.sigmoid, preNorm: "pre_layrnorm"}
	v.patches = readPatches(f, 224, p.patch, v.stack.width)
	return v
}

// visionTowerOf reads a vision_config that says of what kind it is, as those of models
// with other parts do.
func visionTowerOf(f checkpoint.Fields) visionTower {
	switch kind := f.StringOr("model_type", "clip_vision_model"); kind {
	case "clip_vision_model":
		return readVision(f, &clip)
	case "siglip_vision_model":
		return readVision(f, &siglip)
	default:
		f.Fail("model_type", fmt.Sprintf("found %q", kind), `"clip_vision_model" or "siglip_vision_model"`, "")
		return visionTower{}
	}
}

// tokens is how many rows the tower makes of a picture.
func (v *visionTower) tokens() int64 {
	if v.sigmoid {
		return v.number
	}
	return v.number + 1
}

// build gives the hidden states behind so many layers, of pixels as v.patches.input
// declares them: [batch, tokens, width], without the last norm. Layer 0 is the
// embeddings; -1 is the last layer, -2 the one before, as vision_feature_layer counts.
// prefix is that of the tower's tensors, such as "vision_tower.vision_model.".
func (v *visionTower) build(n net, scope, prefix string, layer int64) string {
	s := v.stack
	s.names = s.names.under(prefix)
	return n.layersOf(scope, v.embed(n, scope, prefix, PixelValues), "", s, v.behind(layer))
}

// embed makes rows of the patches, with their positions: what comes before the layers.
func (v *visionTower) embed(n net, scope, prefix, pixels string) string {
	const embeddings = "embeddings."
	width := v.stack.width
	p := v.patches
	p.weight = prefix + embeddings + "patch_embedding.weight"
	if v.sigmoid {
		p.bias = prefix + embeddings + "patch_embedding.bias"
	}
	x, _ := n.cut(scope+".embeddings.patch", pixels, p)
	e := n.in(scope + ".embeddings")
	if !v.sigmoid {
		x = n.prepend(scope+".embeddings", x, width, e.weight(prefix+embeddings+"class_embedding", width))
	}
	n.w.skip(prefix + embeddings + "position_ids")
	x = e.Op("Add", []string{x, e.table(prefix+embeddings+"position_embedding.weight", v.tokens(), width)})
	if !v.sigmoid {
		x = n.layerNorm(scope+".embeddings.norm", x, prefix+v.preNorm, width, v.eps)
	}
	return x
}

// behind is how many layers come before a hidden state.
func (v *visionTower) behind(layer int64) int64 {
	if layer < 0 {
		return layer + v.layers + 1
	}
	return layer
}

// pool makes the row of a picture of the last layer's output: [batch, tokens, width] ->
// hidden, as the class of transformers gives it, and pooled [batch, width].
func (v *visionTower) pool(n net, scope, prefix, x string) (hidden, pooled string) {
	width := v.stack.width
	norm := func(x string) string {
		return n.layerNorm(scope+".norm", x, prefix+"post_layernorm", width, v.eps)
	}
	if !v.sigmoid {
		return x, norm(n.first(scope+".pool", x))
	}
	// A learnt query attends to all patches (torch's MultiheadAttention, whose three
	// matrices lie in one), and an MLP follows.
	hidden = norm(x)
	head, h := prefix+"head.", n.in(scope+".head")
	matrices := h.weight(head+"attention.in_proj_weight", 3*width, width)
	biases := h.weight(head+"attention.in_proj_bias", 3*width)
	query := n.prepend(scope+".head", h.Op("Slice", []string{hidden, h.Ints(0), h.Ints(0), h.Ints(1)}), width, h.weight(head+"probe", 1, 1, width))
	qkv := []string{query, hidden, hidden}
	for i, letter := range []string{"q", "k", "v"} {
		b := n.in(scope + ".head.attention." + letter)
		from, to := b.Ints(int64(i)*width), b.Ints(int64(i+1)*width)
		m := b.Op("Transpose", []string{b.Op("Slice", []string{matrices, from, to, b.Ints(0)})}, graph.IntsAttr("perm", 1, 0))
		qkv[i] = b.Op("Add", []string{b.Op("MatMul", []string{qkv[i], m}), b.Op("Slice", []string{biases, from, to, b.Ints(0)})})
	}
	o := n.in(scope+".head.attention").Op("Attention", qkv, graph.IntAttr("q_num_heads", v.heads), graph.IntAttr("kv_num_heads", v.heads))
	o = n.linear(scope+".head.attention.o", o, head+"attention.out_proj", width, width)
	s := v.stack
	s.names.norm, s.names.up, s.names.down = "layernorm", "mlp.fc1", "mlp.fc2"
	return hidden, n.first(scope+".head", n.mlpOf(scope+".head.mlp", o, head, s))
}

func (p *pairing) load(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	config := func(side string) checkpoint.Fields { return sideConfig(f, side) }
	text := readText(config("text"), p.texts, p.text)
	vision := readVision(config("vision"), p)
	text.last = p.sigmoid
	text.projection = f.IntOr("projection_dim", 512, 1, maxWidth)
	if p.sigmoid {
		text.projection = config("text").IntOr("projection_size", text.width, 1, maxWidth)
		if f.Err() == nil && text.projection != vision.stack.width {
			f.Fail("text_config.projection_size", fmt.Sprintf("found %d", text.projection), fmt.Sprintf("the width of the vision model, which is %d", vision.stack.width), "")
		}
		if use := "vision_use_head"; !config("vision").BoolOr(use, true) {
			f.Fail("vision_config."+use, "found false", "true", "such a model has no vectors of pictures")
		}
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	m := &Model{VocabSize: text.vocab, MaxTokens: text.positions, PadToken: text.pad,
		Vision: &Vision{Channels: vision.channels, Height: vision.imageHeight, Width: vision.imageWidth, Dimension: text.projection, Independent: p.sigmoid}}
	w := &weights{ck: ck, used: map[string]bool{}}
	b := &pair{p: p, texts: text, vision: vision, w: w, o: o}
	for _, build := range []func(*Model) error{b.full, b.image, b.text, b.match} {
		if err := build(m); err != nil {
			return nil, err
		}
	}
	for _, architecture := range ck.Architectures {
		if !strings.HasSuffix(architecture, "Model") {
			m.Notes = append(m.Notes, fmt.Sprintf("the architecture %s is not known: its outputs beyond the embeddings are left out", architecture))
		}
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// sideConfig is text_config or vision_config; the oldest configs have it, whole, as
// text_config_dict beside one that may be wrong.
func sideConfig(f checkpoint.Fields, side string) checkpoint.Fields {
	if old := side + "_config_dict"; f.Has(old) {
		return f.Object(old)
	}
	return f.ObjectOr(side + "_config")
}

// pair builds the graphs of a pairing.
type pair struct {
	p      *pairing
	texts  textTower
	vision visionTower
	w      *weights
	o      Options
}

func (b *pair) full(m *Model) error {
	n := newNet(Full, b.w, b.o)
	in := b.texts.inputs(Batch)
	in.list = append(in.list, b.vision.patches.input(Images))
	in.declare(n.Builder)
	hidden, rows := b.readText(n)
	seen, pictures := b.see(n)
	dim := graph.Known(b.texts.projection)
	sequence := graph.Sym(Sequence)
	if b.texts.last {
		sequence = graph.Known(b.texts.positions)
	}
	n.result("text_last_hidden_state", hidden, graph.Sym(Batch), sequence, graph.Known(b.texts.width))
	n.result("text_pooler_output", rows, graph.Sym(Batch), dim)
	n.result("vision_last_hidden_state", seen, graph.Sym(Images), graph.Known(b.vision.tokens()), graph.Known(b.vision.stack.width))
	n.result("vision_pooler_output", pictures, graph.Sym(Images), dim)
	texts, images := n.unit("text.unit", rows), n.unit("vision.unit", pictures)
	n.result(TextEmbeds, texts, graph.Sym(Batch), dim)
	n.result(ImageEmbeds, images, graph.Sym(Images), dim)
	perImage := b.logits(n, images, texts)
	n.result("logits_per_image", perImage, graph.Sym(Images), graph.Sym(Batch))
	n.result("logits_per_text", n.in("match").Op("Transpose", []string{perImage}, graph.IntsAttr("perm", 1, 0)), graph.Sym(Batch), graph.Sym(Images))
	return m.add(Full, in, n)
}

func (b *pair) image(m *Model) error {
	n := newNet(Image, b.w, b.o)
	in := inputs{list: []input{b.vision.patches.input(Batch)}}
	in.declare(n.Builder)
	_, pictures := b.see(n)
	n.result(ImageEmbeds, n.unit("vision.unit", pictures), graph.Sym(Batch), graph.Known(b.texts.projection))
	return m.add(Image, in, n)
}

func (b *pair) text(m *Model) error {
	n := newNet(Text, b.w, b.o)
	in := b.texts.inputs(Batch)
	in.declare(n.Builder)
	_, rows := b.readText(n)
	n.result(TextEmbeds, n.unit("text.unit", rows), graph.Sym(Batch), graph.Known(b.texts.projection))
	return m.add(Text, in, n)
}

func (b *pair) match(m *Model) error {
	n := newNet(Match, b.w, b.o)
	dim := graph.Known(b.texts.projection)
	in := inputs{list: []input{
		{name: ImageEmbeds, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Batch), dim}},
		{name: TextEmbeds, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Labels), dim}},
	}}
	in.declare(n.Builder)
	n.result("logits_per_image", b.logits(n, ImageEmbeds, TextEmbeds), graph.Sym(Batch), graph.Sym(Labels))
	return m.add(Match, in, n)
}

// readText gives the hidden states of the texts and their rows in the common space.
func (b *pair) readText(n net) (hidden, rows string) {
	const prefix = "text_model."
	hidden, rows = b.texts.build(n, "text", prefix)
	if b.p.sigmoid {
		return hidden, n.rowLinear("text.project", rows, prefix+"head", b.texts.width, b.texts.projection)
	}
	return hidden, n.project("text.project", rows, "text_projection", b.texts.width, b.texts.projection, false)
}

// see gives the hidden states of the pictures and their rows in the common space.
func (b *pair) see(n net) (hidden, rows string) {
	const prefix = "vision_model."
	hidden, rows = b.vision.pool(n, "vision", prefix, b.vision.build(n, "vision", prefix, -1))
	if b.p.sigmoid {
		return hidden, rows
	}
	return hidden, n.project("vision.project", rows, "visual_projection", b.vision.stack.width, b.texts.projection, false)
}

// logits are scaled cosines: [images, dimension], [texts, dimension] -> [images, texts].
func (b *pair) logits(n net, images, texts string) string {
	n = n.in("match")
	x := n.Op("MatMul", []string{images, n.Op("Transpose", []string{texts}, graph.IntsAttr("perm", 1, 0))})
	one := tensor.Shape{}
	if b.p.sigmoid {
		one = tensor.Shape{1}
	}
	x = n.Op("Mul", []string{x, n.Op("Exp", []string{n.weight("logit_scale", one...)})})
	if b.p.sigmoid {
		x = n.Op("Add", []string{x, n.weight("logit_bias", one...)})
	}
	return x
}
