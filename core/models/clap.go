package models

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Names of CLAP's own.
const (
	InputFeatures = "input_features" // a spectrogram
	AudioEmbeds   = "audio_embeds"   // output of Audio
	Sounds        = "sounds"         // symbolic dimension: the batch of Full's sounds
	Texts         = "texts"          // symbolic dimension: the batch of Full's texts
)

// clapConfig is the part of config.json that the graphs depend on.
type clapConfig struct {
	sound      clapSound
	text       encoderConfig
	projection int64
	act        string // between the linears of projections
}

// clapSound is the part of audio_config: HTSAT (arXiv:2202.00874), a Swin
// transformer (arXiv:2103.14030) over a spectrogram that was folded into a square.
type clapSound struct {
	mels, side, folds int64 // the square is folds pieces of the spectrogram's time, one below the other
	patch             int64
	strides           []int64
	width             int64 // of the first stage; it doubles from stage to stage
	depths, heads     []int64
	window            int64
	growth            float64 // of MLPs
	act               string
	biased, patchNorm bool
	eps               float32
}

// maxPairs bounds the pairs of patches that share a window: four times what models have.
const maxPairs = 1 << 20

// time is the most frames that a spectrogram has.
func (c *clapSound) time() int64 { return c.side * c.folds }

// hidden is the width of the last stage.
func (c *clapSound) hidden() int64 { return c.width << (len(c.depths) - 1) }

// grid is how many patches a stage has, down and across.
func (c *clapSound) grid(stage int) (int64, int64) {
	return c.side / c.strides[0] >> stage, c.side / c.strides[1] >> stage
}

func clapFields(f checkpoint.Fields) clapConfig {
	c := clapConfig{projection: f.IntOr("projection_dim", 512, 1, maxWidth), act: activation(f, "projection_hidden_act", "relu")}
	text := f.Object("text_config")
	c.text = roberta.config(text)
	if text.Err() == nil && c.text.maxTokens() < 1 {
		text.Fail("max_position_embeddings", fmt.Sprintf("found %d", c.text.positions), fmt.Sprintf("more than pad_token_id + 1, which is %d", c.text.pad+1), "")
	}
	c.sound = clapSoundFields(f.Object("audio_config"))
	return c
}

func clapSoundFields(f checkpoint.Fields) clapSound {
	const maxSide = 1 << 11
	c := clapSound{
		mels:      f.IntOr("num_mel_bins", 64, 1, maxSide),
		side:      f.IntOr("spec_size", 256, 1, maxSide),
		patch:     f.IntOr("patch_size", 4, 1, maxSide),
		strides:   f.Ints("patch_stride", 1, maxSide),
		width:     f.IntOr("patch_embeds_hidden_size", 96, 1, maxWidth),
		depths:    f.Ints("depths", 1, maxLayers),
		heads:     f.Ints("num_attention_heads", 1, maxWidth),
		window:    f.IntOr("window_size", 8, 1, maxSide),
		growth:    f.FloatOr("mlp_ratio", 4, 0, 64),
		act:       activation(f, "hidden_act", "gelu"),
		biased:    f.BoolOr("qkv_bias", true),
		patchNorm: f.BoolOr("enable_patch_layer_norm", true),
		eps:       float32(f.FloatOr("layer_norm_eps", 1e-5, 0, 1)),
	}
	if c.depths == nil {
		c.depths = []int64{2, 2, 6, 2}
	}
	if c.heads == nil {
		c.heads = []int64{4, 8, 16, 32}
	}
	switch len(c.strides) {
	case 0:
		c.strides = []int64{4, 4}
	case 1:
		c.strides = append(c.strides, c.strides[0])
	}
	fail := func(field string, found any, wanted, remedy string) {
		if f.Err() == nil {
			f.Fail(field, fmt.Sprintf("found %v", found), wanted, remedy)
		}
	}
	if f.BoolOr("enable_fusion", false) || f.Has("fusion_type") {
		fail("enable_fusion", fmt.Sprintf("a checkpoint that fuses views of long sounds (%s)", strconv.Quote(f.StringOr("fusion_type", ""))), "one without",
			"fusion is not built: use an unfused one, such as laion/clap-htsat-unfused")
	}
	if n := f.IntOr("patch_embed_input_channels", 1, 1, maxWidth); n != 1 {
		fail("patch_embed_input_channels", n, "1", "")
	}
	if !f.BoolOr("flatten_patch_embeds", true) {
		fail("flatten_patch_embeds", false, "true", "")
	}
	if f.Err() != nil {
		return c
	}
	if c.folds = c.side / c.mels; c.folds == 0 || c.side%c.mels != 0 {
		fail("spec_size", c.side, fmt.Sprintf("a multiple of num_mel_bins, which is %d", c.mels), "")
		return c
	}
	switch stages := len(c.depths); {
	case len(c.strides) != 2:
		fail("patch_stride", c.strides, "two numbers", "")
	case c.patch < max(c.strides[0], c.strides[1]) || c.strides[0] != c.strides[1] || (c.patch-c.strides[0])%2 != 0:
		fail("patch_stride", c.strides, fmt.Sprintf("one stride both ways, below patch_size, which is %d, by an even number", c.patch), "")
	case stages == 0 || stages > 8 || slices.Max(c.depths) > maxLayers/8:
		fail("depths", c.depths, fmt.Sprintf("1 to 8 stages of at most %d layers", maxLayers/8), "")
	case len(c.heads) != stages:
		fail("num_attention_heads", c.heads, fmt.Sprintf("%d numbers, as many as depths has", stages), "")
	case c.side%(c.strides[0]<<(stages-1)*c.folds) != 0:
		fail("spec_size", c.side, fmt.Sprintf("a multiple of %d, for %d stages and %d folds", c.strides[0]<<(stages-1)*c.folds, stages, c.folds), "")
	case f.IntOr("hidden_size", c.hidden(), 1, maxWidth) != c.hidden():
		fail("hidden_size", f.Int("hidden_size", 1, maxWidth), fmt.Sprintf("%d, the width of the last stage", c.hidden()), "")
	case c.side/c.strides[0]*(c.side/c.strides[0])*c.window*c.window > maxPairs:
		fail("window_size", c.window, fmt.Sprintf("at most %d pairs of patches that share a window", maxPairs), "")
	default:
		for i, heads := range c.heads {
			if width := c.width << i; width%heads != 0 {
				fail("num_attention_heads", c.heads, fmt.Sprintf("a divisor of %d at number %d", width, i), "")
			}
			if rows, _ := c.grid(i); rows%c.window != 0 {
				fail("window_size", c.window, fmt.Sprintf("a divisor of %d, the patches along a side of stage %d", rows, i), "windows beyond the edge are not built")
			}
			if inner := c.inner(c.width << i); inner < 1 || inner > maxInner {
				fail("mlp_ratio", c.growth, fmt.Sprintf("MLPs of 1 to %d", maxInner), "")
			}
		}
	}
	return c
}

func (c *clapSound) inner(width int64) int64 { return int64(c.growth * float64(width)) }

// inputs of Audio.
func (c *clapSound) inputs(batch string) inputs {
	return inputs{list: []input{{name: InputFeatures, dtype: tensor.Float32,
		dims: []graph.Dim{graph.Sym(batch), graph.Known(1), graph.Sym(Frames), graph.Known(c.mels)}}},
		sizes: map[string]size{Frames: {most: c.time(), remedy: "cut the sound, as the model's feature extractor does"}}}
}

// clap is CLAP (arXiv:2211.06687).
func clap(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := clapFields(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	m := &Model{VocabSize: c.text.vocab, MaxTokens: c.text.maxTokens(), PadToken: c.text.pad}
	w := &weights{ck: ck, used: map[string]bool{}}
	w.skip("audio_model.audio_encoder.batch_norm.num_batches_tracked",
		"text_model.embeddings.position_ids", "text_model.embeddings.token_type_ids")

	// Sounds and texts of one run need not be as many.
	sounds, texts := c.sound.inputs(Sounds), c.text.inputs()
	for i := range texts.list {
		texts.list[i].dims = symbols(Texts, Sequence)
	}
	all := inputs{list: append(sounds.list, texts.list...), sizes: map[string]size{Frames: sounds.sizes[Frames], Sequence: texts.sizes[Sequence]}, also: texts.also}
	n := newNet(Full, w, o)
	all.declare(n.Builder)
	sound, text := n.clapSound(c), n.clapText(c)
	out := func(name, value, batch string, dims ...graph.Dim) {
		n.Output(name, value, graph.TensorType(tensor.Float32, append([]graph.Dim{graph.Sym(batch)}, dims...)...))
	}
	square := c.sound.hiddenShape()
	out("audio_last_hidden_state", sound.hidden, Sounds, graph.Known(c.sound.hidden()), graph.Known(square[0]), graph.Known(square[1]))
	out("audio_pooler_output", sound.pooled, Sounds, graph.Known(c.sound.hidden()))
	out(AudioEmbeds, sound.embeds, Sounds, graph.Known(c.projection))
	out("text_last_hidden_state", text.hidden, Texts, graph.Sym(Sequence), graph.Known(c.text.hidden))
	out("text_pooler_output", text.pooled, Texts, graph.Known(c.text.hidden))
	out(TextEmbeds, text.embeds, Texts, graph.Known(c.projection))
	out("logits_per_audio", n.clapLogits("logits.audio", sound.embeds, text.embeds, "logit_scale_a"), Sounds, graph.Sym(Texts))
	out("logits_per_text", n.clapLogits("logits.text", text.embeds, sound.embeds, "logit_scale_t"), Texts, graph.Sym(Sounds))
	if err := m.add(Full, all, n); err != nil {
		return nil, err
	}

	for _, part := range []struct {
		component, output string
		in                inputs
		build             func(net) clapEmbedding
	}{
		{Audio, AudioEmbeds, c.sound.inputs(Batch), func(n net) clapEmbedding { return n.clapSound(c) }},
		{Text, TextEmbeds, c.text.inputs(), func(n net) clapEmbedding { return n.clapText(c) }},
	} {
		n := newNet(part.component, w, o)
		part.in.declare(n.Builder)
		n.Output(part.output, part.build(n).embeds, graph.TensorType(tensor.Float32, graph.Sym(Batch), graph.Known(c.projection)))
		if err := m.add(part.component, part.in, n); err != nil {
			return nil, err
		}
	}
	n = newNet(Match, w, o)
	pair := inputs{list: []input{
		{name: AudioEmbeds, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Batch), graph.Known(c.projection)}},
		{name: TextEmbeds, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Labels), graph.Known(c.projection)}},
	}}
	pair.declare(n.Builder)
	n.result("logits_per_audio", n.clapLogits("logits.audio", AudioEmbeds, TextEmbeds, "logit_scale_a"), graph.Sym(Batch), graph.Sym(Labels))
	if err := m.add(Match, pair, n); err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// clapEmbedding is what an encoder of CLAP makes.
type clapEmbedding struct {
	hidden, pooled string
	embeds         string // [batch, projection], of length 1
}

// clapText encodes texts.
func (n net) clapText(c clapConfig) clapEmbedding {
	under := *n.w
	under.prefix = "text_model."
	t := n
	t.w = &under
	e := roberta.encode(t.in("text"), c.text)
	x := clapEmbedding{hidden: e.hidden, pooled: e.pooled()}
	if n.w.err == nil {
		n.w.err = under.err
	}
	x.embeds = n.clapProject("text_projection", x.pooled, c.text.hidden, c)
	return x
}

// clapProject puts pooled rows where sounds and texts meet.
func (n net) clapProject(name, x string, width int64, c clapConfig) string {
	x = n.linear(name+".up", x, name+".linear1", width, c.projection)
	x = n.linear(name+".down", n.activate(name+".act", c.act, x), name+".linear2", c.projection, c.projection)
	return n.in(name+".unit").Op("LpNormalization", []string{x}, graph.IntAttr("axis", -1), graph.IntAttr("p", 2))
}

// clapLogits compares rows [a, projection] and [b, projection] -> [a, b]; scale is
// stored as its logarithm.
func (n net) clapLogits(scope, a, b, scale string) string {
	n = n.in(scope)
	x := n.Op("MatMul", []string{a, n.Op("Transpose", []string{b}, graph.IntsAttr("perm", 1, 0))})
	return n.Op("Mul", []string{x, n.Op("Exp", []string{n.weight(scale)})})
}

// hiddenShape is the last stage's grid as it is given out: the frequencies of one
// fold down, all folds' times across.
func (c *clapSound) hiddenShape() [2]int64 {
	rows, columns := c.grid(len(c.depths) - 1)
	return [2]int64{rows / c.folds, c.folds * columns}
}

// clapSound encodes spectrograms [batch, 1, frames, mels].
func (n net) clapSound(cfg clapConfig) clapEmbedding {
	const at = "audio_model.audio_encoder."
	c := cfg.sound
	x := n.in("audio").foldSpectrogram(InputFeatures, at+"batch_norm", c)
	pad := (c.patch - c.strides[0]) / 2
	p := n.in("audio.patch")
	x = p.Op("Conv", []string{x, p.weight(at+"patch_embed.proj.weight", c.width, 1, c.patch, c.patch), p.weight(at+"patch_embed.proj.bias", c.width)},
		graph.IntsAttr("kernel_shape", c.patch, c.patch), graph.IntsAttr("strides", c.strides...), graph.IntsAttr("pads", pad, pad, pad, pad))
	x = p.Op("Transpose", []string{p.Op("Reshape", []string{x, p.Ints(0, c.width, -1)})}, graph.IntsAttr("perm", 0, 2, 1))
	if c.patchNorm {
		x = n.layerNorm("audio.patch.norm", x, at+"patch_embed.norm", c.width, convNormEps)
	}
	width := c.width
	for stage, depth := range c.depths {
		scope, name := fmt.Sprintf("audio.stage.%d", stage), fmt.Sprintf(at+"layers.%d.", stage)
		for block := range depth {
			x = n.swinBlock(fmt.Sprintf("%s.layer.%d", scope, block), x, fmt.Sprintf("%sblocks.%d.", name, block), c, stage, block%2 == 1)
		}
		if stage == len(c.depths)-1 {
			break
		}
		// Four neighbours become one, of twice the width.
		rows, columns := c.grid(stage)
		m := n.in(scope + ".merge")
		x = m.Op("Gather", []string{x, m.Ints(neighbours(rows, columns)...)}, graph.IntAttr("axis", 1))
		x = m.Op("Reshape", []string{x, m.Ints(0, rows*columns/4, 4*width)})
		x = n.layerNorm(scope+".merge.norm", x, name+"downsample.norm", 4*width, convNormEps)
		x = m.times(x, name+"downsample.reduction.weight", 4*width, 2*width)
		width *= 2
	}
	x = n.layerNorm("audio.norm", x, at+"norm", width, convNormEps)

	// [batch, folds * frequencies, times, width] -> [batch, width, frequencies, folds * times].
	p = n.in("audio.unfold")
	square := c.hiddenShape()
	_, columns := c.grid(len(c.depths) - 1)
	x = p.Op("Reshape", []string{x, p.Ints(0, c.folds, square[0], columns*width)})
	x = p.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1, 3))
	x = p.Op("Reshape", []string{x, p.Ints(0, square[0]*square[1], width)})
	x = p.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
	out := clapEmbedding{
		hidden: p.Op("Reshape", []string{x, p.Ints(0, width, square[0], square[1])}),
		pooled: n.in("audio.pool").Op("ReduceMean", []string{x, p.Ints(-1)}, graph.IntAttr("keepdims", 0)),
	}
	out.embeds = n.clapProject("audio_projection", out.pooled, width, cfg)
	return out
}

// foldSpectrogram normalises a spectrogram [batch, 1, frames, mels] by frequency,
// stretches its time to c.time() frames and folds it into a square
// [batch, 1, side, side].
func (n net) foldSpectrogram(x, norm string, c clapSound) string {
	root := n.Op("Sqrt", []string{n.Op("Add", []string{n.weight(norm+".running_var", c.mels), n.Float(convNormEps)})})
	scale := n.Op("Div", []string{n.weight(norm+".weight", c.mels), root})
	x = n.Op("Mul", []string{n.Op("Sub", []string{x, n.weight(norm+".running_mean", c.mels)}), scale})
	x = n.Op("Add", []string{x, n.weight(norm+".bias", c.mels)})
	x = n.Op("Resize", []string{x, "", "", n.Ints(c.time())}, graph.IntsAttr("axes", 2), graph.StringAttr("mode", "cubic"),
		graph.StringAttr("coordinate_transformation_mode", "align_corners"), graph.FloatAttr("cubic_coeff_a", -0.75))
	x = n.Op("Reshape", []string{x, n.Ints(0, c.folds, c.side, c.mels)})
	x = n.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 1, 3, 2))
	return n.Op("Reshape", []string{x, n.Ints(0, 1, c.side, c.side)})
}

// swinBlock is a layer whose attention stays inside windows: x [batch, patches,
// width] -> the same. Shifted windows lie half a window further down and right, and
// what leaves the square there comes in again on the other side.
func (n net) swinBlock(scope, x, name string, c clapSound, stage int, shifted bool) string {
	rows, columns := c.grid(stage)
	width, size, heads := c.width<<stage, c.window, c.heads[stage]
	shift := size / 2
	if !shifted || min(rows, columns) <= size {
		shift = 0
	}
	order := windows(rows, columns, size, shift)
	inside, count := size*size, rows*columns/(size*size)

	h := n.layerNorm(scope+".attention.norm", x, name+"layernorm_before", width, c.eps)
	a := n.in(scope + ".attention")
	h = a.Op("Gather", []string{h, a.Ints(order...)}, graph.IntAttr("axis", 1))
	h = a.Op("Reshape", []string{h, a.Ints(-1, inside, width)}) // [batch * windows, patches of a window, width]
	self := name + "attention.self."
	q := n.project(scope+".attention.q", h, self+"query", width, width, c.biased)
	k := n.project(scope+".attention.k", h, self+"key", width, width, c.biased)
	v := n.project(scope+".attention.v", h, self+"value", width, width, c.biased)

	// What is added to the products of queries and keys: [1 or batch * windows, heads,
	// inside, inside].
	n.w.skip(self + "relative_position_index") // offsets
	bias := a.Op("Gather", []string{a.weight(self+"relative_position_bias_table", (2*size-1)*(2*size-1), heads), a.Ints(offsets(size)...)})
	bias = a.Op("Transpose", []string{a.Op("Reshape", []string{bias, a.Ints(1, inside, inside, heads)})}, graph.IntsAttr("perm", 0, 3, 1, 2))
	if shift > 0 {
		apart := a.Const(tensor.Floats(tensor.Shape{count, 1, inside, inside}, strangers(order, rows, columns, size, shift)...))
		bias = a.Op("Add", []string{bias, apart})
		batch := a.Op("Slice", []string{a.Op("Shape", []string{x}), a.Ints(0), a.Ints(1)})
		bias = a.Op("Tile", []string{bias, a.Op("Concat", []string{batch, a.Ints(1, 1, 1)}, graph.IntAttr("axis", 0))})
	}
	h = a.Op("Attention", []string{q, k, v, bias}, graph.IntAttr("q_num_heads", heads), graph.IntAttr("kv_num_heads", heads))
	h = n.linear(scope+".attention.o", h, name+"attention.output.dense", width, width)
	h = a.Op("Reshape", []string{h, a.Ints(-1, rows*columns, width)})
	h = a.Op("Gather", []string{h, a.Ints(inverse(order)...)}, graph.IntAttr("axis", 1))
	x = a.Op("Add", []string{x, h})

	h = n.layerNorm(scope+".mlp.norm", x, name+"layernorm_after", width, c.eps)
	h = n.mlp(scope+".mlp", h, name+"intermediate.dense", name+"output.dense", c.act, width, c.inner(width))
	return n.in(scope+".mlp").Op("Add", []string{x, h})
}

// windows lists the patches of a grid window by window.
func windows(rows, columns, size, shift int64) []int64 {
	order := make([]int64, 0, rows*columns)
	for top := int64(0); top < rows; top += size {
		for left := int64(0); left < columns; left += size {
			for y := top; y < top+size; y++ {
				for x := left; x < left+size; x++ {
					order = append(order, (y+shift)%rows*columns+(x+shift)%columns)
				}
			}
		}
	}
	return order
}

// strangers is -100 for patches of one window that were not neighbours before the
// windows were shifted, and else 0: [windows, inside, inside]. (Softmax makes nothing
// of -100, so the value is Swin's own.)
func strangers(order []int64, rows, columns, size, shift int64) []float32 {
	// Patches that came in again from the other side are of another region.
	region := func(patch int64) (y, x bool) { return patch/columns < shift, patch%columns < shift }
	inside := int(size * size)
	var mask []float32
	for w := 0; w < len(order); w += inside {
		for _, p := range order[w : w+inside] {
			py, px := region(p)
			for _, q := range order[w : w+inside] {
				var v float32
				if qy, qx := region(q); py != qy || px != qx {
					v = -100
				}
				mask = append(mask, v)
			}
		}
	}
	return mask
}

// offsets is the row of the bias table for each pair of patches of a window: by how
// far one lies below and right of the other.
func offsets(size int64) []int64 {
	var rows []int64
	for p := range size * size {
		for q := range size * size {
			rows = append(rows, (p/size-q/size+size-1)*(2*size-1)+p%size-q%size+size-1)
		}
	}
	return rows
}

// neighbours lists the patches of a grid by fours that become one.
func neighbours(rows, columns int64) []int64 {
	var order []int64
	for y := int64(0); y < rows; y += 2 {
		for x := int64(0); x < columns; x += 2 {
			order = append(order, y*columns+x, (y+1)*columns+x, y*columns+x+1, (y+1)*columns+x+1)
		}
	}
	return order
}

// inverse is the order that undoes an order.
func inverse(order []int64) []int64 {
	back := make([]int64, len(order))
	for i, p := range order {
		back[p] = int64(i)
	}
	return back
}
