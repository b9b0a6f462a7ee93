package models

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// t5 tells the configurations of T5 (Raffel et al. 2020, arXiv:1910.10683) apart: T5 and
// its version 1.1, mT5, umT5.
type t5 struct {
	perLayer bool // each layer has relative biases of its own; else all have the first's
}

// t5Config is the part of config.json that the graphs depend on.
type t5Config struct {
	t5
	vocab, hidden, inner, heads, headDim int64
	encoderLayers, decoderLayers         int64
	buckets, maxDistance                 int64 // of the decoder's biases; the encoder's have half a side
	act                                  string
	gated                                bool
	tied                                 bool // logits use the embeddings
	scaled                               bool // what they are made of is divided by the root of the hidden size
	eps                                  float32
	pad, start                           int64
	eos                                  []int64
}

// t5MaxTokens bounds texts: positions are relative, so that the model itself has no bound.
const t5MaxTokens = 4096

func (v t5) config(f checkpoint.Fields) t5Config {
	c := t5Config{
		t5:            v,
		vocab:         f.Int("vocab_size", 1, maxVocab),
		hidden:        f.Int("d_model", 1, maxWidth),
		inner:         f.Int("d_ff", 1, maxInner),
		heads:         f.Int("num_heads", 1, maxWidth),
		headDim:       f.Int("d_kv", 1, maxWidth),
		encoderLayers: f.Int("num_layers", 1, maxLayers),
		buckets:       f.IntOr("relative_attention_num_buckets", 32, 4, 1<<10),
		maxDistance:   f.IntOr("relative_attention_max_distance", 128, 1, 1<<12),
		tied:          f.BoolOr("tie_word_embeddings", true),
		eps:           float32(f.FloatOr("layer_norm_epsilon", 1e-6, 0, 1)),
		pad:           f.IntOr("pad_token_id", 0, 0, maxVocab),
		eos:           f.Ints("eos_token_id", 0, maxVocab),
	}
	c.decoderLayers = f.IntOr("num_decoder_layers", c.encoderLayers, 1, maxLayers)
	c.scaled = f.BoolOr("scale_decoder_outputs", c.tied)
	c.start = f.IntOr("decoder_start_token_id", c.pad, 0, maxVocab)
	proj := f.StringOr("feed_forward_proj", "relu")
	act, gated := strings.CutPrefix(proj, "gated-")
	if proj == "gated-gelu" {
		act = "gelu_new" // what this name stands for
	}
	c.act, c.gated = act, gated
	if f.Err() != nil {
		return c
	}
	switch _, known := activations[act]; {
	case !known:
		f.Fail("feed_forward_proj", "found "+strconv.Quote(proj), `an activation, such as "relu", or "gated-" and one`, "")
	case c.buckets%4 != 0 || c.maxDistance <= c.buckets/2:
		f.Fail("relative_attention_num_buckets", fmt.Sprintf("found %d with distances up to %d", c.buckets, c.maxDistance),
			"a multiple of 4, and relative_attention_max_distance above half of it", "")
	case c.start >= c.vocab:
		f.Fail("decoder_start_token_id", fmt.Sprintf("found %d", c.start), fmt.Sprintf("a token below vocab_size, which is %d", c.vocab), "")
	}
	return c
}

func (v t5) load(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := v.config(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	eos, err := endTokens(ck, c.eos)
	if err != nil {
		return nil, err
	}
	d := &Decoder{
		Layers: c.decoderLayers, KVHeads: c.heads, HeadDim: c.headDim, ValueHeadDim: c.headDim, VocabSize: c.vocab,
		Windows: make([]int64, c.decoderLayers), MaxPositions: t5MaxTokens, EOS: eos, BOS: -1, KV: o.KV,
		Cross: &Cross{MaxRows: t5MaxTokens, Inputs: []string{"input_ids", "attention_mask"}, Start: c.start},
	}
	m := &Model{VocabSize: c.vocab, MaxTokens: t5MaxTokens, PadToken: c.pad, Decoder: d,
		Notes: []string{fmt.Sprintf("positions are relative: texts of up to %d tokens are taken, however long those of training were", t5MaxTokens)}}
	w := &weights{ck: ck, used: map[string]bool{}}
	w.skip("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
	ids, mask := tokens(c.vocab, symbols(Batch, Sequence)...)
	text := inputs{list: []input{ids, mask}, sizes: map[string]size{Sequence: {most: t5MaxTokens, remedy: "cut or split the text"}}, also: attends}

	n := newNet(Encoder, w, o)
	n.Output("encoder_last_hidden_state", c.encoder(n, text), graph.TensorType(tensor.Float32, graph.Sym(Batch), graph.Sym(Sequence), graph.Known(c.hidden)))
	if err := m.add(Encoder, text, n); err != nil {
		return nil, err
	}

	n = newNet(Prepare, w, o)
	x := n.sourceRows(c.encoder(n, text), c.hidden)
	for i := range c.decoderLayers {
		at := fmt.Sprintf("decoder.block.%d.layer.1.EncDecAttention", i)
		scope := fmt.Sprintf("decoder.layer.%d.cross", i)
		n.crossWrite(d, i, scope, c.heads3(n, scope+".k", x, at+".k"), c.heads3(n, scope+".v", x, at+".v"))
	}
	n.poolOutputs(d.Cross.Pools)
	if err := m.add(Prepare, text, n); err != nil {
		return nil, err
	}

	n = newNet(Decode, w, o)
	c.decoder(n, d)
	if err := m.add(Decode, d, n); err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// encoder is the encoder's last hidden state, [batch, sequence, hidden].
func (c *t5Config) encoder(n net, text inputs) string {
	text.declare(n.Builder)
	x := n.embedding("encoder.embeddings.word", "input_ids", "shared.weight", c.vocab, c.hidden)
	seen := n.keyMask("attention_mask")
	mask := ""
	for i := range c.encoderLayers {
		at, scope := fmt.Sprintf("encoder.block.%d.layer", i), fmt.Sprintf("encoder.layer.%d", i)
		if i == 0 || c.perLayer {
			bias := c.encoderBias(n.in(scope+".bias"), at+".0.SelfAttention.relative_attention_bias.weight")
			mask = n.in(scope+".bias").Op("Where", []string{seen, bias, n.Float(-math.MaxFloat32)})
		}
		h := n.rmsNorm(scope+".attention.norm", x, at+".0.layer_norm", c.hidden, c.eps)
		q := n.project(scope+".attention.q", h, at+".0.SelfAttention.q", c.hidden, c.heads*c.headDim, false)
		k := n.project(scope+".attention.k", h, at+".0.SelfAttention.k", c.hidden, c.heads*c.headDim, false)
		v := n.project(scope+".attention.v", h, at+".0.SelfAttention.v", c.hidden, c.heads*c.headDim, false)
		h = n.in(scope+".attention").Op("Attention", []string{q, k, v, mask},
			graph.IntAttr("q_num_heads", c.heads), graph.IntAttr("kv_num_heads", c.heads), graph.FloatAttr("scale", 1))
		x = c.residual(n, scope+".attention", x, h, at+".0.SelfAttention.o", c.heads*c.headDim)
		x = c.mlp(n, scope+".mlp", x, at+".1")
	}
	return n.rmsNorm("encoder.norm", x, "encoder.final_layer_norm", c.hidden, c.eps)
}

// residual is x + h through a linear without bias.
func (c *t5Config) residual(n net, scope, x, h, name string, in int64) string {
	h = n.project(scope+".out", h, name, in, c.hidden, false)
	return n.in(scope).Op("Add", []string{x, h})
}

func (c *t5Config) mlp(n net, scope, x, at string) string {
	h := n.rmsNorm(scope+".norm", x, at+".layer_norm", c.hidden, c.eps)
	if c.gated {
		gate := n.project(scope+".gate", h, at+".DenseReluDense.wi_0", c.hidden, c.inner, false)
		up := n.project(scope+".up", h, at+".DenseReluDense.wi_1", c.hidden, c.inner, false)
		h = n.in(scope).Op("Mul", []string{n.activate(scope+".act", c.act, gate), up})
	} else {
		h = n.activate(scope+".act", c.act, n.project(scope+".up", h, at+".DenseReluDense.wi", c.hidden, c.inner, false))
	}
	h = n.project(scope+".down", h, at+".DenseReluDense.wo", c.inner, c.hidden, false)
	return n.in(scope).Op("Add", []string{x, h})
}

// heads3 is a linear whose result is [rows, heads, head dim].
func (c *t5Config) heads3(n net, scope, x, name string) string {
	x = n.project(scope, x, name, c.hidden, c.heads*c.headDim, false)
	return n.in(scope).Op("Reshape", []string{x, n.Ints(-1, c.heads, c.headDim)})
}

// decoder is a step.
func (c *t5Config) decoder(n net, d *Decoder) {
	n.stepInputs(d)
	x := n.embedding("embeddings.word", InputIDs, "shared.weight", c.vocab, c.hidden)
	bias := ""
	for i := range c.decoderLayers {
		at, scope := fmt.Sprintf("decoder.block.%d.layer", i), fmt.Sprintf("decoder.layer.%d", i)
		if i == 0 || c.perLayer {
			bias = c.decoderBias(n.in(scope+".bias"), at+".0.SelfAttention.relative_attention_bias.weight")
		}
		h := n.rmsNorm(scope+".attention.norm", x, at+".0.layer_norm", c.hidden, c.eps)
		self := at + ".0.SelfAttention."
		h = n.pagedAttention(d, i, scope+".attention", c.heads3(n, scope+".attention.q", h, self+"q"), c.heads3(n, scope+".attention.k", h, self+"k"),
			c.heads3(n, scope+".attention.v", h, self+"v"), attentionForm{scale: 1, bias: bias})
		x = c.residual(n, scope+".attention", x, n.rows(scope+".attention", h, c.heads*c.headDim), self+"o", c.heads*c.headDim)
		h = n.rmsNorm(scope+".cross.norm", x, at+".1.layer_norm", c.hidden, c.eps)
		h = n.crossAttention(d, i, scope+".cross", c.heads3(n, scope+".cross.q", h, at+".1.EncDecAttention.q"), 1)
		x = c.residual(n, scope+".cross", x, n.rows(scope+".cross", h, c.heads*c.headDim), at+".1.EncDecAttention.o", c.heads*c.headDim)
		x = c.mlp(n, scope+".mlp", x, at+".2")
	}
	x = n.in("head").Op("Gather", []string{x, Select})
	x = n.rmsNorm("norm", x, "decoder.final_layer_norm", c.hidden, c.eps)
	if c.scaled {
		x = n.in("head").Op("Mul", []string{x, n.Float(float32(1 / math.Sqrt(float64(c.hidden))))})
	}
	head := "lm_head.weight"
	if c.tied {
		n.w.skip(head)
		head = "shared.weight"
	}
	n.stepOutputs(d, n.in("head").times(x, head, c.hidden, c.vocab))
}

// encoderBias is what attention adds to the scores of each pair of places:
// [1, heads, sequence, sequence].
func (c *t5Config) encoderBias(n net, name string) string {
	buckets := make([]int64, 2*c.maxDistance+1) // by the distance of the key behind the query, from the farthest before it on
	for i := range buckets {
		d := int64(i) - c.maxDistance
		if d > 0 {
			buckets[i] = c.buckets/2 + relativeBucket(d, c.buckets/2, c.maxDistance)
		} else {
			buckets[i] = relativeBucket(-d, c.buckets/2, c.maxDistance)
		}
	}
	length := n.Op("Gather", []string{n.Op("Shape", []string{"input_ids"}), n.Int(1)})
	at := n.Op("Range", []string{n.Int(0), length, n.Int(1)})
	d := n.Op("Sub", []string{n.Op("Unsqueeze", []string{at, n.Ints(0)}), n.Op("Unsqueeze", []string{at, n.Ints(1)})})
	d = n.Op("Add", []string{n.Op("Clip", []string{d, n.Int(-c.maxDistance), n.Int(c.maxDistance)}), n.Int(c.maxDistance)})
	which := n.Op("Gather", []string{n.Ints(buckets...), d})
	bias := n.Op("Gather", []string{n.weight(name, c.buckets, c.heads), which}) // [sequence, sequence, heads]
	return n.Op("Unsqueeze", []string{n.Op("Transpose", []string{bias}, graph.IntsAttr("perm", 2, 0, 1)), n.Ints(0)})
}

// decoderBias is what PagedAttention adds to the scores by distance: [heads, distances].
func (c *t5Config) decoderBias(n net, name string) string {
	buckets := make([]int64, c.maxDistance+1)
	for d := range buckets {
		buckets[d] = relativeBucket(int64(d), c.buckets, c.maxDistance)
	}
	bias := n.Op("Gather", []string{n.weight(name, c.buckets, c.heads), n.Ints(buckets...)})
	return n.Op("Transpose", []string{bias}, graph.IntsAttr("perm", 1, 0))
}

// relativeBucket is the bucket of a distance d >= 0: one each for the first half, then
// wider ones by the logarithm, as transformers' T5Attention computes it in float32.
func relativeBucket(d, buckets, maxDistance int64) int64 {
	exact := buckets / 2
	if d < exact {
		return d
	}
	ratio := float32(math.Log(float64(float32(d)/float32(exact)))) / float32(math.Log(float64(maxDistance)/float64(exact)))
	return min(exact+int64(ratio*float32(buckets-exact)), buckets-1)
}
