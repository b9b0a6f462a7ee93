package models

import (
	"fmt"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// xclip is X-CLIP (Ni et al. 2022, arXiv:2208.02816): CLIP for videos. Frames exchange
// messages in every layer, a small transformer makes one row of them, and the texts'
// rows are bent towards what is seen.
type xclip struct {
	texts            textTower
	vision           visionTower
	frames           int64
	integration      stack // over the frames
	prompts          stack // of the generator: width is that of the common space
	w                *weights
	o                Options
	dimension, patch graph.Dim
}

// messageNames are those of the attention between frames.
var messageNames = attentionNames{q: "message_attn.q_proj", k: "message_attn.k_proj", v: "message_attn.v_proj", out: "message_attn.out_proj"}

func loadXCLIP(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	text, vision := sideConfig(f, "text"), sideConfig(f, "vision")
	x := &xclip{texts: readText(text, clip.texts, clip.text), vision: readVision(vision, &clip), o: o}
	x.vision.preNorm = "pre_layernorm"
	x.texts.eos = oldEOS // whatever the config says, as in transformers
	x.texts.projection = f.IntOr("projection_dim", 512, 1, maxWidth)
	x.frames = vision.IntOr("num_frames", 8, 1, maxTokens)
	x.integration = stack{
		width:  vision.IntOr("mit_hidden_size", 512, 1, maxWidth),
		layers: vision.IntOr("mit_num_hidden_layers", 1, 1, maxLayers),
		heads:  vision.IntOr("mit_num_attention_heads", 8, 1, maxWidth),
		inner:  vision.IntOr("mit_intermediate_size", 2048, 1, maxInner),
		act:    x.vision.act, eps: x.vision.eps, names: clipNames.under("mit."),
	}
	dividing(vision, "mit_num_attention_heads", x.integration.heads, "mit_hidden_size", x.integration.width)
	x.prompts = stack{
		width:  x.texts.projection,
		layers: f.IntOr("prompt_layers", 2, 0, maxLayers),
		heads:  f.IntOr("prompt_num_attention_heads", 8, 1, maxWidth),
		inner:  4 * x.texts.projection,
		act:    activation(f, "prompt_hidden_act", "quick_gelu"), eps: x.texts.eps,
		names: stackNames{
			prefix:        "prompts_generator.decoder.%d.",
			attentionNorm: "norm1",
			attention:     attentionNames{q: "cross_attn.q_proj", k: "cross_attn.k_proj", v: "cross_attn.v_proj", out: "cross_attn.proj", bare: true},
			norm:          "norm3", up: "mlp.0", down: "mlp.3",
		},
	}
	dividing(f, "prompt_num_attention_heads", x.prompts.heads, "projection_dim", x.prompts.width)
	if f.Err() == nil && x.integration.width != x.texts.projection {
		vision.Fail("mit_hidden_size", fmt.Sprintf("found %d", x.integration.width), fmt.Sprintf("projection_dim, which is %d", x.texts.projection), "")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	x.dimension, x.patch = graph.Known(x.texts.projection), graph.Known(x.vision.number)
	x.w = &weights{ck: ck, used: map[string]bool{}}
	m := &Model{VocabSize: x.texts.vocab, MaxTokens: x.texts.positions, PadToken: x.texts.pad,
		Vision: &Vision{Channels: x.vision.channels, Height: x.vision.imageHeight, Width: x.vision.imageWidth, Frames: x.frames, Dimension: x.texts.projection}}
	for _, build := range []func(*Model) error{x.full, x.video, x.text, x.match} {
		if err := build(m); err != nil {
			return nil, err
		}
	}
	m.Unused, m.Matrices = x.w.unused(), x.w.matrices()
	return m, nil
}

// input is pixel_values of videos, [batch, frames, channels, height, width].
func (x *xclip) input(batch string) input {
	in := x.vision.patches.input(batch)
	in.dims = append([]graph.Dim{in.dims[0], graph.Known(x.frames)}, in.dims[1:]...)
	return in
}

func (x *xclip) full(m *Model) error {
	n := newNet(Full, x.w, x.o)
	in := x.texts.inputs(Batch)
	in.list = append(in.list, x.input(Images))
	in.declare(n.Builder)
	seen := x.see(n)
	hidden, rows := x.readText(n)
	frames, tokens := graph.Known(x.frames), graph.Known(x.vision.tokens())
	// The frames of all videos; no name of their own, for nothing else has so many.
	n.result("vision_last_hidden_state", seen.hidden, graph.Sym("frames"), tokens, graph.Known(x.vision.stack.width))
	n.result("mit_last_hidden_state", seen.frames, graph.Sym(Images), frames, x.dimension)
	n.result("mit_pooler_output", seen.video, graph.Sym(Images), x.dimension)
	n.result("text_last_hidden_state", hidden, graph.Sym(Batch), graph.Sym(Sequence), graph.Known(x.texts.width))
	videos := n.unit("mit.unit", seen.video)
	n.result(VideoEmbeds, videos, graph.Sym(Images), x.dimension)
	texts, logits := x.hold(n, videos, seen.patches, rows)
	n.result(TextEmbeds, texts, graph.Sym(Images), graph.Sym(Batch), x.dimension)
	n.result("logits_per_video", logits, graph.Sym(Images), graph.Sym(Batch))
	n.result("logits_per_text", n.in("match").Op("Transpose", []string{logits}, graph.IntsAttr("perm", 1, 0)), graph.Sym(Batch), graph.Sym(Images))
	return m.add(Full, in, n)
}

func (x *xclip) video(m *Model) error {
	n := newNet(Video, x.w, x.o)
	in := inputs{list: []input{x.input(Batch)}}
	in.declare(n.Builder)
	seen := x.see(n)
	n.result(VideoEmbeds, n.unit("mit.unit", seen.video), graph.Sym(Batch), x.dimension)
	n.result(VideoFeatures, seen.patches, graph.Sym(Batch), x.patch, x.dimension)
	return m.add(Video, in, n)
}

func (x *xclip) text(m *Model) error {
	n := newNet(Text, x.w, x.o)
	in := x.texts.inputs(Batch)
	in.declare(n.Builder)
	_, rows := x.readText(n)
	n.result(TextFeatures, rows, graph.Sym(Batch), x.dimension)
	return m.add(Text, in, n)
}

func (x *xclip) match(m *Model) error {
	n := newNet(Match, x.w, x.o)
	in := inputs{list: []input{
		{name: VideoEmbeds, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Batch), x.dimension}},
		{name: VideoFeatures, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Batch), x.patch, x.dimension}},
		{name: TextFeatures, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Labels), x.dimension}},
	}}
	in.declare(n.Builder)
	_, logits := x.hold(n, VideoEmbeds, VideoFeatures, TextFeatures)
	n.result("logits_per_video", logits, graph.Sym(Batch), graph.Sym(Labels))
	return m.add(Match, in, n)
}

func (x *xclip) readText(n net) (hidden, rows string) {
	hidden, rows = x.texts.build(n, "text", "text_model.")
	return hidden, n.project("text.project", rows, "text_projection", x.texts.width, x.texts.projection, false)
}

// sight is what is made of videos.
type sight struct {
	hidden  string // [videos*frames, tokens, width]
	frames  string // [videos, frames, dimension]
	video   string // [videos, dimension]
	patches string // [videos, patches, dimension], the mean over the frames
}

func (x *xclip) see(n net) sight {
	const prefix = "vision_model."
	v, d := &x.vision, x.texts.projection
	pixels := n.in("vision.frames").Op("Reshape", []string{PixelValues, n.Ints(-1, v.channels, v.imageHeight, v.imageWidth)})
	h := v.embed(n, "vision", prefix, pixels)
	for i := range v.layers {
		h = x.layer(n, i, h, prefix)
	}
	rows := n.layerNorm("vision.norm", n.first("vision.pool", h), prefix+"post_layernorm", v.stack.width, v.eps)
	rows = n.project("vision.project", rows, "visual_projection", v.stack.width, d, false)

	mit := n.in("mit")
	rows = mit.Op("Reshape", []string{rows, n.Ints(-1, x.frames, d)})
	y := mit.Op("Add", []string{rows, mit.weight("mit.position_embedding", 1, x.frames, d)})
	y = mit.Op("Add", []string{n.layersOf("mit", y, "", x.integration, x.integration.layers), rows})

	p := n.in("prompts.visual")
	patches := n.layerNorm("prompts.visual.norm", n.rest("prompts.visual", h, 1), "prompts_visual_layernorm", v.stack.width, v.eps)
	patches = p.Op("MatMul", []string{patches, p.weight("prompts_visual_projection", v.stack.width, d)})
	patches = p.Op("Reshape", []string{patches, n.Ints(-1, x.frames, v.number, d)})
	mean := func(n net, x string) string {
		return n.Op("ReduceMean", []string{x, n.Ints(1)}, graph.IntAttr("keepdims", 0))
	}
	return sight{hidden: h, frames: y, video: mean(mit, y), patches: mean(p, patches)}
}

// layer is one of the vision tower: the frames' first tokens make messages, which attend
// to each other, and each frame's message stands behind its tokens while they attend.
func (x *xclip) layer(n net, i int64, h, prefix string) string {
	v := &x.vision
	width, scope, name := v.stack.width, fmt.Sprintf("vision.layer.%d", i), fmt.Sprintf(prefix+clipNames.prefix, i)
	m := n.in(scope + ".message")
	message := n.linear(scope+".message", n.first(scope+".message", h), name+"message_fc", width, width)
	message = m.Op("Reshape", []string{message, n.Ints(-1, x.frames, width)})
	said := n.layerNorm(scope+".message.norm", message, name+"message_ln", width, v.eps)
	message = m.Op("Add", []string{message, n.selfAttention(scope+".message.attention", said, "", messageNames.under(name), width, v.heads)})
	message = m.Op("Reshape", []string{message, n.Ints(-1, 1, width)})
	h = m.Op("Concat", []string{h, message}, graph.IntAttr("axis", 1))

	a := n.in(scope + ".attention")
	seen := n.layerNorm(scope+".attention.norm", h, name+clipNames.attentionNorm, width, v.eps)
	h = a.Op("Add", []string{h, n.selfAttention(scope+".attention", seen, "", clipNames.attention.under(name), width, v.heads)})
	h = a.Op("Slice", []string{h, n.Ints(0), n.Ints(v.tokens()), n.Ints(1)})
	return n.mlpOf(scope+".mlp", h, name, v.stack)
}

// hold bends the texts' rows [labels, dimension] towards each video and compares them
// with it: texts [videos, labels, dimension] of length 1, logits [videos, labels].
func (x *xclip) hold(n net, videos, patches, rows string) (texts, logits string) {
	d := x.texts.projection
	p := n.in("prompts")
	count := p.Op("Shape", []string{videos}, graph.IntAttr("start", 0), graph.IntAttr("end", 1))
	shape := p.Op("Concat", []string{count, n.Ints(1, 1)}, graph.IntAttr("axis", 0))
	rows = p.Op("Expand", []string{p.Op("Unsqueeze", []string{rows, n.Ints(0)}), shape})
	seen := n.layerNorm("prompts.norm", patches, "prompts_generator.layernorm", d, x.vision.eps)
	t := rows
	for i := range x.prompts.layers {
		scope, name := fmt.Sprintf("prompts.layer.%d", i), fmt.Sprintf(x.prompts.names.prefix, i)
		asked := n.layerNorm(scope+".attention.norm", t, name+x.prompts.names.attentionNorm, d, x.prompts.eps)
		told := n.attend(scope+".attention", asked, seen, seen, "", x.prompts.names.attention.under(name), d, x.prompts.heads)
		t = n.in(scope+".attention").Op("Add", []string{t, told})
		t = n.mlpOf(scope+".mlp", t, name, x.prompts)
	}
	t = p.Op("Mul", []string{t, p.weight("prompts_generator.alpha", d)})
	texts = n.unit("prompts.unit", p.Op("Add", []string{rows, t}))

	m := n.in("match")
	video := m.Op("Unsqueeze", []string{videos, n.Ints(2)})
	logits = m.Op("Squeeze", []string{m.Op("MatMul", []string{texts, video}), n.Ints(2)})
	return texts, m.Op("Mul", []string{logits, m.Op("Exp", []string{m.weight("logit_scale")})})
}
