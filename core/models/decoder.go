package models

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Names of Decode's symbolic dimensions and of its inputs, all int64: a ragged
// batch as ai.accel.PagedAttention has it.
const (
	Tokens       = "tokens"
	Sequences    = "sequences"
	SequencesOne = "sequences_1" // one more than Sequences
	PagesEach    = "pages_each"
	Selected     = "selected"
	Pages        = "pages"
	PageSize     = "page_size"

	InputIDs   = "input_ids"   // [Tokens]
	Positions  = "positions"   // [Tokens]
	Slots      = "slots"       // [Tokens], places in the pools
	PageTables = "page_tables" // [Sequences, PagesEach]
	Lengths    = "lengths"     // [Sequences], this step's tokens included
	Starts     = "starts"      // [SequencesOne]
	Select     = "select"      // [Selected], the tokens whose logits are wanted
	Logits     = "logits"      // output [Selected, VocabSize] float32
)

// Decoder describes Decode.
type Decoder struct {
	Layers, KVHeads, HeadDim, ValueHeadDim int64
	VocabSize                              int64
	Windows                                []int64 // of each layer's attention, in tokens; 0: none
	MaxPositions                           int64
	EOS                                    []int64 // tokens that end a text
	BOS                                    int64   // -1: none
	KV                                     KVTypes
	Pools                                  []Pool // in the graph's order
	// ByLength: keys depend on how long their sequence was when they were written
	// (dynamic and longrope positions), so pages are not to be shared between
	// sequences, and a chunked prefill past the length of training differs from a
	// whole one.
	ByLength bool
}

// Pool is an input of Decode, [Pages, PageSize, Row...], and the output that
// updates it, of the same type.
type Pool struct {
	Name, Output string
	Layer        int64
	DType        tensor.DType
	Row          tensor.Shape // what a token takes of it
}

// PageBytes is the size of one page of so many tokens.
func (p Pool) PageBytes(pageSize int64) int64 {
	n := int64(p.DType.Bits()/8) * pageSize
	for _, d := range p.Row {
		n *= d
	}
	return n
}

// family is what tells one pre-norm decoder with rotary positions and gated MLPs
// (LLaMA, arXiv:2302.13971) from another.
type family struct {
	headDim      int64 // where config.json does not say; 0: hidden size / heads
	qkvBias      bool  // of q, k and v, whatever the config
	biasSettings bool  // attention_bias and mlp_bias count
	headNorm     bool  // q and k are normalised by head
	window       func(f checkpoint.Fields, layers int64) []int64
}

// decoderConfig is the part of config.json that the graph depends on.
type decoderConfig struct {
	vocab, hidden, layers, heads, kvHeads, headDim, inner int64
	positions, maxPositions                               int64
	act                                                   string
	eps                                                   float32
	tied, qkvBias, outBias, mlpBias                       bool
	windows                                               []int64
	rope                                                  rope
	pad, bos                                              int64
	eos                                                   []int64
}

// foreign are settings of relatives of these classes that change the numbers, and
// the values at which they do not.
var foreign = map[string]float64{
	"attn_logit_softcapping": 0, "final_logit_softcapping": 0, "logit_scale": 1, "logits_scaling": 1,
	"embedding_multiplier": 1, "residual_multiplier": 1, "attention_multiplier": 0, "query_pre_attn_scalar": 0,
	"scale_emb": 1, "scale_depth": 0, "clip_qkv": 0, "num_local_experts": 0, "num_experts": 0, "kv_lora_rank": 0,
	"no_rope_layer_interval": 0, "attention_chunk_size": 0, "num_nextn_predict_layers": 0,
}

func (v *family) config(f checkpoint.Fields) decoderConfig {
	c := decoderConfig{
		vocab:     f.Int("vocab_size", 1, maxVocab),
		hidden:    f.Int("hidden_size", 1, maxWidth),
		layers:    f.Int("num_hidden_layers", 1, maxLayers),
		heads:     f.Int("num_attention_heads", 1, maxWidth),
		inner:     f.Int("intermediate_size", 1, maxInner),
		positions: f.Int("max_position_embeddings", 1, maxTokens),
		act:       activation(f, "hidden_act", "silu"),
		eps:       float32(f.FloatOr("rms_norm_eps", 1e-6, 0, 1)),
		tied:      f.BoolOr("tie_word_embeddings", false),
		pad:       max(f.IntOr("pad_token_id", 0, -1, maxVocab), 0), // -1: none, of which any will do
		bos:       f.IntOr("bos_token_id", -1, -1, maxVocab),
		eos:       f.Ints("eos_token_id", 0, maxVocab),
		qkvBias:   v.qkvBias,
	}
	c.kvHeads = f.IntOr("num_key_value_heads", c.heads, 1, maxWidth)
	c.headDim = f.IntOr("head_dim", v.headDim, 1, maxWidth)
	if f.Err() != nil {
		return c
	}
	if c.headDim == 0 {
		if c.hidden%c.heads != 0 {
			f.Fail("num_attention_heads", fmt.Sprintf("found %d", c.heads), fmt.Sprintf("a divisor of hidden_size, which is %d", c.hidden), "")
			return c
		}
		c.headDim = c.hidden / c.heads
	}
	if c.heads%c.kvHeads != 0 {
		f.Fail("num_key_value_heads", fmt.Sprintf("found %d", c.kvHeads), fmt.Sprintf("a divisor of num_attention_heads, which is %d", c.heads), "")
		return c
	}
	if v.biasSettings {
		c.outBias = f.BoolOr("attention_bias", false)
		c.qkvBias = c.qkvBias || c.outBias
		c.mlpBias = f.BoolOr("mlp_bias", false)
	}
	c.windows = make([]int64, c.layers)
	if v.window != nil {
		c.windows = v.window(f, c.layers)
	}
	for _, name := range f.Names() {
		neutral, ok := foreign[name]
		if !ok {
			continue
		}
		if found := f.FloatOr(name, neutral, -math.MaxFloat64, math.MaxFloat64); found != neutral && f.Err() == nil {
			f.Fail(name, fmt.Sprintf("found %g", found), "it left out", "this class of models has no such setting")
		}
	}
	if q := "quantization_config"; f.Has(q) {
		q := f.Object(q)
		if method := q.StringOr("quant_method", ""); method != checkpoint.QuantMethod {
			q.Fail("quant_method", "found "+strconv.Quote(method), strconv.Quote(checkpoint.QuantMethod), "use the original model, or its GGUF file")
		}
	}
	c.rope, c.maxPositions = readRope(f, c.headDim, c.positions)
	return c
}

func (v *family) load(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := v.config(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	generation, err := ck.Generation()
	if err != nil {
		return nil, err
	}
	g := generation.Fields()
	if eos := g.Ints("eos_token_id", 0, maxVocab); len(eos) > 0 {
		c.eos = eos
	}
	if err := g.Err(); err != nil {
		return nil, err
	}
	d := &Decoder{
		Layers: c.layers, KVHeads: c.kvHeads, HeadDim: c.headDim, ValueHeadDim: c.headDim, VocabSize: c.vocab,
		Windows: c.windows, MaxPositions: c.maxPositions, EOS: c.eos, BOS: c.bos, KV: o.KV, ByLength: c.rope.byLength(),
	}
	m := &Model{VocabSize: c.vocab, MaxTokens: c.maxPositions, PadToken: c.pad, Decoder: d}
	if d.ByLength {
		m.Notes = append(m.Notes, "keys turn by frequencies that depend on the length of their sequence: pages are not shared between sequences")
	}
	w := &weights{ck: ck, prefix: "model.", used: map[string]bool{}}
	n := newNet(Decode, w, o)
	b := &decoder{net: n, v: v, c: c, d: d}
	b.build()
	if err := m.add(Decode, d, b.net); err != nil {
		return nil, err
	}
	if err := w.wholeLayers(c.layers); err != nil {
		return nil, err
	}
	m.Unused = w.unused()
	return m, nil
}

// wholeLayers refuses a checkpoint whose layers have weights that the graph does not
// read: what they do would be missing from the numbers.
func (w *weights) wholeLayers(layers int64) error {
	for _, name := range w.unused() {
		rest, ok := strings.CutPrefix(strings.TrimPrefix(name, w.prefix), "layers.")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, ".")
		if i, err := strconv.ParseInt(number, 10, 64); err == nil && i < layers {
			return &checkpoint.Error{File: w.ck.Dir, Field: "tensor " + strconv.Quote(name), Found: "it is there",
				Wanted: "the weights of a model of type " + w.ck.ModelType + " alone", Remedy: "config.json describes another model than the weights are of"}
		}
	}
	return nil
}

// decoder is Decode while it is built.
type decoder struct {
	net
	v        *family
	c        decoderConfig
	d        *Decoder
	cos, sin string
}

func (b *decoder) build() {
	c := b.c
	for _, in := range []struct {
		name string
		dims []string
	}{{InputIDs, []string{Tokens}}, {Positions, []string{Tokens}}, {Slots, []string{Tokens}}, {PageTables, []string{Sequences, PagesEach}},
		{Lengths, []string{Sequences}}, {Starts, []string{SequencesOne}}, {Select, []string{Selected}}} {
		t := graph.TensorType(tensor.Int64)
		for _, s := range in.dims {
			t.Dims = append(t.Dims, graph.Sym(s))
		}
		b.Input(in.name, t)
	}
	x := b.embedding("embeddings.word", InputIDs, "embed_tokens.weight", c.vocab, c.hidden)
	b.cos, b.sin = c.rope.angles(b.net)
	for i := range c.layers {
		x = b.layer(i, x)
	}
	x = b.in("head").Op("Gather", []string{x, Select})
	x = b.rmsNorm("norm", x, "norm", c.hidden, c.eps)
	head := "lm_head.weight"
	if c.tied {
		b.w.skip(head, head+checkpoint.CodesSuffix, head+checkpoint.ScalesSuffix, head+checkpoint.MinsSuffix)
		head = "embed_tokens.weight"
	}
	b.Output(Logits, b.in("head").times(x, head, c.hidden, c.vocab), graph.TensorType(tensor.Float32, graph.Sym(Selected), graph.Known(c.vocab)))
	for _, p := range b.d.Pools {
		b.Output(p.Output, p.Output, p.valueType())
	}
}

func (b *decoder) layer(i int64, x string) string {
	c := b.c
	scope, name := fmt.Sprintf("decoder.layer.%d", i), fmt.Sprintf("layers.%d", i)
	b.w.skip(name + ".self_attn.rotary_emb.inv_freq") // a buffer of old checkpoints
	h := b.rmsNorm(scope+".attention.norm", x, name+".input_layernorm", c.hidden, c.eps)
	h = b.attention(i, scope+".attention", h, name+".self_attn")
	x = b.in(scope+".attention").Op("Add", []string{x, h})
	h = b.rmsNorm(scope+".mlp.norm", x, name+".post_attention_layernorm", c.hidden, c.eps)
	gate := b.project(scope+".mlp.gate", h, name+".mlp.gate_proj", c.hidden, c.inner, c.mlpBias)
	up := b.project(scope+".mlp.up", h, name+".mlp.up_proj", c.hidden, c.inner, c.mlpBias)
	h = b.in(scope+".mlp").Op("Mul", []string{b.activate(scope+".mlp.act", c.act, gate), up})
	h = b.project(scope+".mlp.down", h, name+".mlp.down_proj", c.inner, c.hidden, c.mlpBias)
	return b.in(scope+".mlp").Op("Add", []string{x, h})
}

func (b *decoder) attention(i int64, scope, x, name string) string {
	c := b.c
	heads := func(x, letter string, heads int64) string {
		x = b.project(scope+"."+letter, x, name+"."+letter+"_proj", c.hidden, heads*c.headDim, c.qkvBias)
		x = b.in(scope+"."+letter).Op("Reshape", []string{x, b.Ints(-1, heads, c.headDim)})
		if b.v.headNorm && letter != "v" {
			x = b.rmsNorm(scope+"."+letter+"_norm", x, name+"."+letter+"_norm", c.headDim, c.eps)
		}
		if letter == "v" {
			return x
		}
		return b.rotate(scope+"."+letter+"_rope", x, b.cos, b.sin, heads, c.headDim, &c.rope)
	}
	q, k, v := heads(x, "q", c.heads), heads(x, "k", c.kvHeads), heads(x, "v", c.kvHeads)
	if b.d.KV.KeyBits > 0 {
		q, k = b.spread(scope+".q_spread", q, c.headDim), b.spread(scope+".k_spread", k, c.headDim)
	}
	if b.d.KV.ValueBits == 4 {
		v = b.spread(scope+".v_spread", v, c.headDim)
	}
	o := b.pagedAttention(i, scope, q, k, v)
	if b.d.KV.ValueBits == 4 {
		o = b.spread(scope+".out_spread", o, c.headDim)
	}
	o = b.in(scope).Op("Reshape", []string{o, b.Ints(-1, c.heads*c.headDim)})
	return b.project(scope+".out", o, name+".o_proj", c.heads*c.headDim, c.hidden, c.outBias)
}

// pagedAttention writes k and v of this step into layer i's pools and attends to
// them: [tokens, heads, dim] each -> [tokens, heads, dim].
func (b *decoder) pagedAttention(i int64, scope, q, k, v string) string {
	d := b.d
	pools := []Pool{pool("k", i, d.KV.Key, d.KVHeads, d.HeadDim, d.KV.KeyBits), pool("v", i, d.KV.Value, d.KVHeads, d.ValueHeadDim, d.KV.ValueBits)}
	attrs := []*graph.Attr{graph.FloatAttr("scale", float32(1/math.Sqrt(float64(d.HeadDim))))}
	if w := b.c.windows[i]; w > 0 {
		attrs = append(attrs, graph.IntAttr("window", w))
	}
	inputs := []string{q, k, v, pools[0].Name, pools[1].Name, Slots, PageTables, Lengths, Starts, "", ""}
	outputs := []string{scope + "/PagedAttention", pools[0].Output, pools[1].Output, "", ""}
	for j, bits := range []int{d.KV.KeyBits, d.KV.ValueBits} {
		if bits == 0 {
			continue
		}
		letter := []string{"k", "v"}[j]
		s := pool(letter+"_scales", i, tensor.Float16, d.KVHeads, 0, 0)
		pools = append(pools, s)
		inputs[9+j], outputs[3+j] = s.Name, s.Output
		attrs = append(attrs, graph.IntAttr(letter+"_bits", int64(bits)))
	}
	for _, p := range pools {
		b.Input(p.Name, p.valueType())
	}
	d.Pools = append(d.Pools, pools...)
	n := &graph.Node{Name: outputs[0], Domain: graph.DomainAccel, OpType: "PagedAttention", Inputs: trimmed(inputs), Outputs: trimmed(outputs), Attrs: attrs}
	b.Function(graph.ContractFunctionOf(n))
	b.Node(n, 0)
	return outputs[0]
}

func trimmed(names []string) []string {
	for len(names) > 0 && names[len(names)-1] == "" {
		names = names[:len(names)-1]
	}
	return names
}

// pool describes layer i's pool of what; dim 0: one number a head.
func pool(what string, i int64, elem tensor.DType, heads, dim int64, bits int) Pool {
	p := Pool{Name: what + "." + strconv.FormatInt(i, 10), Output: what + "_out." + strconv.FormatInt(i, 10), Layer: i, DType: elem, Row: tensor.Shape{heads}}
	if bits == 4 {
		dim /= 2
	}
	if dim > 0 {
		p.Row = append(p.Row, dim)
	}
	return p
}

func (p Pool) valueType() *graph.Type {
	t := graph.TensorType(p.DType, graph.Sym(Pages), graph.Sym(PageSize))
	for _, n := range p.Row {
		t.Dims = append(t.Dims, graph.Known(n))
	}
	return t
}

// feeds is Model.Feeds. Nothing of a step can be made up, so it only checks.
func (d *Decoder) feeds(given map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	want := map[string]tensor.DType{}
	names := []string{InputIDs, Positions, Slots, PageTables, Lengths, Starts, Select}
	for _, name := range names {
		want[name] = tensor.Int64
	}
	for _, p := range d.Pools {
		want[p.Name] = p.DType
		names = append(names, p.Name)
	}
	for name := range given {
		if _, ok := want[name]; !ok {
			return nil, &InputError{Input: name, Found: "the model has no such input", Wanted: "a step's inputs and its pools"}
		}
	}
	for _, name := range names {
		t, ok := given[name]
		switch {
		case !ok:
			return nil, &InputError{Input: name, Found: "it is missing"}
		case t.DType != want[name]:
			return nil, &InputError{Input: name, Found: "its type is " + t.DType.String(), Wanted: want[name].String()}
		}
		if err := t.Check(); err != nil {
			return nil, &InputError{Input: name, Found: err.Error()}
		}
	}
	for _, in := range []struct {
		name   string
		below  int64
		wanted string
	}{{InputIDs, d.VocabSize, "a token below vocab_size"}, {Positions, d.MaxPositions, "a position below the model's last"},
		{Select, int64(given[InputIDs].Len()), "a token of the step"}} {
		for i, v := range tensor.View[int64](given[in.name].Aligned()) {
			if v < 0 || v >= in.below {
				return nil, &InputError{Input: in.name, Index: []int64{int64(i)}, Found: fmt.Sprintf("found %d", v), Wanted: fmt.Sprintf("%s, which is %d", in.wanted, in.below)}
			}
		}
	}
	return given, nil
}

// slidingLayers are the windows of Qwen's layers: use_sliding_window and
// sliding_window, for the layers that layer_types names or those from
// max_window_layers on.
func slidingLayers(f checkpoint.Fields, layers int64) []int64 {
	window := int64(0)
	if f.BoolOr("use_sliding_window", false) {
		window = f.IntOr("sliding_window", 0, 1, maxTokens)
	}
	windows := make([]int64, layers)
	types := f.Strings("layer_types")
	if types == nil {
		for i := f.IntOr("max_window_layers", 28, 0, maxLayers); i < layers; i++ {
			windows[i] = window
		}
		return windows
	}
	if int64(len(types)) != layers {
		f.Fail("layer_types", fmt.Sprintf("it has %d entries", len(types)), fmt.Sprintf("%d, one a layer", layers), "")
		return windows
	}
	for i, t := range types {
		switch {
		case t == "sliding_attention" && window > 0:
			windows[i] = window
		case t == "sliding_attention":
			f.Fail("layer_types", "found \"sliding_attention\"", "use_sliding_window with a sliding_window beside it", "")
		case t != "full_attention":
			f.Fail("layer_types", "found "+strconv.Quote(t), `"full_attention" or "sliding_attention"`, "")
		}
	}
	return windows
}

// oneWindow is Mistral's (arXiv:2310.06825): all layers have it, null says none.
func oneWindow(f checkpoint.Fields, layers int64) []int64 {
	window := int64(4096)
	if f.Null("sliding_window") {
		window = 0
	} else {
		window = f.IntOr("sliding_window", window, 1, maxTokens)
	}
	if f.Has("layer_types") {
		f.Fail("layer_types", "it is there", "it left out", "layers of their own kinds are another class's")
	}
	return slices.Repeat([]int64{window}, int(layers))
}
