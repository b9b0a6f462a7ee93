package models

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// whisperConfig is the part of Whisper's config.json that the graphs depend on
// (arXiv:2212.04356; transformers' WhisperConfig). Distil-Whisper differs in
// decoderLayers alone.
type whisperConfig struct {
	vocab, width, mels                        int64
	encoderLayers, encoderHeads, encoderInner int64
	decoderLayers, decoderHeads, decoderInner int64
	sources, targets                          int64 // positions: encoded frames, and tokens of a text
	act                                       string
	scaled                                    bool // embeddings of tokens are multiplied with the root of width
	tied                                      bool
	pad, bos, start                           int64
	eos                                       []int64
}

// whisperFields reads config.json.
func whisperFields(f checkpoint.Fields) whisperConfig {
	c := whisperConfig{
		vocab:         f.Int("vocab_size", 1, maxVocab),
		width:         f.Int("d_model", 1, maxWidth),
		mels:          f.IntOr("num_mel_bins", 80, 1, maxWidth),
		encoderLayers: f.Int("encoder_layers", 1, maxLayers),
		encoderHeads:  f.Int("encoder_attention_heads", 1, maxWidth),
		encoderInner:  f.Int("encoder_ffn_dim", 1, maxInner),
		decoderLayers: f.Int("decoder_layers", 1, maxLayers),
		decoderHeads:  f.Int("decoder_attention_heads", 1, maxWidth),
		decoderInner:  f.Int("decoder_ffn_dim", 1, maxInner),
		sources:       f.IntOr("max_source_positions", 1500, 1, maxTokens),
		targets:       f.IntOr("max_target_positions", 448, 1, maxTokens),
		act:           activation(f, "activation_function", "gelu"),
		scaled:        f.BoolOr("scale_embedding", false),
		tied:          f.BoolOr("tie_word_embeddings", true),
	}
	for _, h := range []struct {
		field string
		heads int64
	}{{"encoder_attention_heads", c.encoderHeads}, {"decoder_attention_heads", c.decoderHeads}} {
		if f.Err() == nil && c.width%h.heads != 0 {
			f.Fail(h.field, fmt.Sprintf("found %d", h.heads), fmt.Sprintf("a divisor of d_model, which is %d", c.width), "")
		}
	}
	for _, token := range []struct {
		field string
		id    *int64
	}{{"pad_token_id", &c.pad}, {"bos_token_id", &c.bos}, {"decoder_start_token_id", &c.start}} {
		if *token.id = f.Int(token.field, 0, maxVocab); f.Err() == nil && *token.id >= c.vocab {
			f.Fail(token.field, fmt.Sprintf("found %d", *token.id), fmt.Sprintf("a token below vocab_size, which is %d", c.vocab), "")
		}
	}
	c.eos = f.Ints("eos_token_id", 0, maxVocab)
	return c
}

// whisperNormEps is what Whisper's norms add to the variance: PyTorch's default.
const whisperNormEps = 1e-5

// whisperEncoder encodes a log-mel spectrogram: [batch, mels, 2*sources] ->
// [batch, sources, width], float32.
func (n net) whisperEncoder(c whisperConfig, features string) string {
	const at = "encoder."
	x := n.whisperConv("encoder.conv1", features, at+"conv1", c.mels, c.width, 1)
	x = n.whisperConv("encoder.conv2", x, at+"conv2", c.width, c.width, 2)
	e := n.in("encoder.position")
	x = e.Op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1))
	x = e.Op("Add", []string{x, e.table(at+"embed_positions.weight", c.sources, c.width)})
	for i := range c.encoderLayers {
		scope, name := fmt.Sprintf("encoder.layer.%d", i), fmt.Sprintf(at+"layers.%d.", i)
		h := n.layerNorm(scope+".attention.norm", x, name+"self_attn_layer_norm", c.width, whisperNormEps)
		x = n.in(scope+".attention").Op("Add", []string{x, n.whisperAttention(scope+".attention", h, h, name+"self_attn", c.width, c.encoderHeads)})
		h = n.layerNorm(scope+".mlp.norm", x, name+"final_layer_norm", c.width, whisperNormEps)
		x = n.in(scope+".mlp").Op("Add", []string{x, n.mlp(scope+".mlp", h, name+"fc1", name+"fc2", c.act, c.width, c.encoderInner)})
	}
	return n.layerNorm("encoder.norm", x, at+"layer_norm", c.width, whisperNormEps)
}

// whisperConv is a convolution over three frames with GELU, which the config does
// not choose: [batch, in, frames] -> [batch, out, frames/stride].
func (n net) whisperConv(scope, x, name string, in, out, stride int64) string {
	n = n.in(scope)
	x = n.Op("Conv", []string{x, n.weight(name+".weight", out, in, 3), n.weight(name+".bias", out)},
		graph.IntsAttr("kernel_shape", 3), graph.IntsAttr("pads", 1, 1), graph.IntsAttr("strides", stride))
	return n.Op("Gelu", []string{x})
}

// whisperAttention lets every row of x [batch, rows, width] attend every row of over
// [batch, others, width]. Keys have no bias.
func (n net) whisperAttention(scope, x, over, name string, width, heads int64) string {
	q := n.linear(scope+".q", x, name+".q_proj", width, width)
	k := n.project(scope+".k", over, name+".k_proj", width, width, false)
	v := n.linear(scope+".v", over, name+".v_proj", width, width)
	o := n.in(scope).Op("Attention", []string{q, k, v}, graph.IntAttr("q_num_heads", heads), graph.IntAttr("kv_num_heads", heads))
	return n.linear(scope+".o", o, name+".out_proj", width, width)
}

// whisper is arXiv:2212.04356: an encoder of sound, and a decoder that attends to it.
func whisper(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := whisperFields(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	eos, err := endTokens(ck, c.eos)
	if err != nil {
		return nil, err
	}
	head := c.width / c.decoderHeads
	d := &Decoder{
		Layers: c.decoderLayers, KVHeads: c.decoderHeads, HeadDim: head, ValueHeadDim: head, VocabSize: c.vocab, Windows: make([]int64, c.decoderLayers),
		MaxPositions: c.targets, EOS: eos, BOS: c.bos, KV: o.KV,
		Cross: &Cross{MaxRows: c.sources, Rows: c.sources, Inputs: []string{InputFeatures}, Start: c.start},
	}
	m := &Model{VocabSize: c.vocab, MaxTokens: c.targets, PadToken: c.pad, Decoder: d}
	w := &weights{ck: ck, prefix: "model.", used: map[string]bool{}}
	sound := inputs{list: []input{{name: InputFeatures, dtype: tensor.Float32, dims: []graph.Dim{graph.Sym(Batch), graph.Known(c.mels), graph.Known(2 * c.sources)}}}}

	n := newNet(Encoder, w, o)
	sound.declare(n.Builder)
	n.Output("encoder_last_hidden_state", n.whisperEncoder(c, InputFeatures), graph.TensorType(tensor.Float32, graph.Sym(Batch), graph.Known(c.sources), graph.Known(c.width)))
	if err := m.add(Encoder, sound, n); err != nil {
		return nil, err
	}

	n = newNet(Prepare, w, o)
	sound.declare(n.Builder)
	x := n.sourceRows(n.whisperEncoder(c, InputFeatures), c.width)
	for i := range c.decoderLayers {
		at, scope := fmt.Sprintf("decoder.layers.%d.encoder_attn", i), fmt.Sprintf("decoder.layer.%d.cross", i)
		n.crossWrite(d, i, scope, c.headsOf(n, scope+".k", x, at+".k_proj", false), c.headsOf(n, scope+".v", x, at+".v_proj", true))
	}
	n.poolOutputs(d.Cross.Pools)
	if err := m.add(Prepare, sound, n); err != nil {
		return nil, err
	}

	n = newNet(Decode, w, o)
	c.decode(n, d)
	if err := m.add(Decode, d, n); err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// headsOf is a linear whose result is [rows, heads, head dim].
func (c *whisperConfig) headsOf(n net, scope, x, name string, bias bool) string {
	x = n.project(scope, x, name, c.width, c.width, bias)
	return n.in(scope).Op("Reshape", []string{x, n.Ints(-1, c.decoderHeads, c.width/c.decoderHeads)})
}

// decode is a step of the decoder.
func (c *whisperConfig) decode(n net, d *Decoder) {
	n.stepInputs(d)
	scale := float32(1 / math.Sqrt(float64(d.HeadDim)))
	x := n.embedding("embeddings.word", InputIDs, "decoder.embed_tokens.weight", c.vocab, c.width)
	if c.scaled {
		x = n.in("embeddings").Op("Mul", []string{x, n.Float(float32(math.Sqrt(float64(c.width))))})
	}
	x = n.in("embeddings").Op("Add", []string{x, n.embedding("embeddings.position", Positions, "decoder.embed_positions.weight", c.targets, c.width)})
	for i := range c.decoderLayers {
		at, scope := fmt.Sprintf("decoder.layers.%d.", i), fmt.Sprintf("decoder.layer.%d", i)
		attention := scope + ".attention"
		h := n.layerNorm(attention+".norm", x, at+"self_attn_layer_norm", c.width, whisperNormEps)
		h = n.pagedAttention(d, i, attention, c.headsOf(n, attention+".q", h, at+"self_attn.q_proj", true), c.headsOf(n, attention+".k", h, at+"self_attn.k_proj", false),
			c.headsOf(n, attention+".v", h, at+"self_attn.v_proj", true), attentionForm{scale: scale})
		h = n.linear(attention+".out", n.rows(attention, h, c.width), at+"self_attn.out_proj", c.width, c.width)
		x = n.in(attention).Op("Add", []string{x, h})
		cross := scope + ".cross"
		h = n.layerNorm(cross+".norm", x, at+"encoder_attn_layer_norm", c.width, whisperNormEps)
		h = n.crossAttention(d, i, cross, c.headsOf(n, cross+".q", h, at+"encoder_attn.q_proj", true), scale)
		h = n.linear(cross+".out", n.rows(cross, h, c.width), at+"encoder_attn.out_proj", c.width, c.width)
		x = n.in(cross).Op("Add", []string{x, h})
		h = n.layerNorm(scope+".mlp.norm", x, at+"final_layer_norm", c.width, whisperNormEps)
		x = n.in(scope+".mlp").Op("Add", []string{x, n.mlp(scope+".mlp", h, at+"fc1", at+"fc2", c.act, c.width, c.decoderInner)})
	}
	x = n.in("head").Op("Gather", []string{x, Select})
	x = n.layerNorm("norm", x, "decoder.layer_norm", c.width, whisperNormEps)
	head := "proj_out.weight"
	if c.tied {
		n.w.skip(head)
		head = "decoder.embed_tokens.weight"
	}
	n.stepOutputs(d, n.in("head").times(x, head, c.width, c.vocab))
}
