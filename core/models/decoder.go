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

	LastHiddenState = "last_hidden_state" // output of Hidden
)

// What Decode has beside these where rows of its tokens come as embeddings (a picture's,
// a sound's), and where it attends to a source (an encoder's output).
const (
	EmbedCount     = "embed_count"
	CrossPagesEach = "cross_pages_each"
	CrossPages     = "cross_pages"
	SourceRows     = "source_rows"

	EmbedRows       = "embed_rows"        // [EmbedCount, hidden] float32, at least one row
	EmbedIndex      = "embed_index"       // [Tokens], a row of EmbedRows; -1: the embedding of the token's id
	CrossPageTables = "cross_page_tables" // [Sequences, CrossPagesEach], pages of the cross pools
	CrossLengths    = "cross_lengths"     // [Sequences], rows of the source
)

// Decoder describes Decode.
type Decoder struct {
	Layers, KVHeads, HeadDim, ValueHeadDim int64
	VocabSize                              int64
	Hidden                                 int64   // width of the last layer's output
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

	// Embeds is the width of EmbedRows; 0: there are none.
	Embeds int64
	// Cross is what Decode attends to beside its own tokens; nil: nothing.
	Cross *Cross
}

// Cross is a source's keys and values in pages of pools of their own: Prepare writes
// them once, Decode reads them.
type Cross struct {
	MaxRows int64  // of a source
	Rows    int64  // of every source; 0: a row a token
	Pools   []Pool // inputs of both graphs, and outputs of Prepare
	// Inputs of Prepare, which has a batch of one, beside slots [rows] and the pools.
	Inputs []string
	// Start is the token that Decode's sequences begin with; -1: whoever asks says.
	Start int64
}

// Pool is an input of Decode, [Pages, PageSize, Row...], and the output that
// updates it, of the same type.
type Pool struct {
	Name, Output string
	Layer        int64
	DType        tensor.DType
	Row          tensor.Shape // what a token takes of it
	pages        string       // its first dimension
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
	w := &weights{ck: ck, prefix: "model.", used: map[string]bool{}}
	m, err := v.decode(ck, ck.Config.Fields(), w, o, false)
	if err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// decode is a model of Decode alone, by the fields of a text model. seen: rows of its tokens
// may come as embeddings.
func (v *family) decode(ck *checkpoint.Checkpoint, f checkpoint.Fields, w *weights, o Options, seen bool) (*Model, error) {
	c := v.config(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	eos, err := endTokens(ck, c.eos)
	if err != nil {
		return nil, err
	}
	d := &Decoder{
		Layers: c.layers, KVHeads: c.kvHeads, HeadDim: c.headDim, ValueHeadDim: c.headDim, VocabSize: c.vocab,
		Windows: c.windows, MaxPositions: c.maxPositions, EOS: eos, BOS: c.bos, KV: o.KV, ByLength: c.rope.byLength(),
	}
	if seen {
		d.Embeds = c.hidden
	}
	m := &Model{VocabSize: c.vocab, MaxTokens: c.maxPositions, PadToken: c.pad, Decoder: d}
	if d.ByLength {
		m.Notes = append(m.Notes, "keys turn by frequencies that depend on the length of their sequence: pages are not shared between sequences")
	}
	d.Hidden = c.hidden
	for _, name := range []string{Decode, Hidden} {
		b := &decoder{net: newNet(name, w, o), v: v, c: c, d: d}
		d.Pools = nil
		b.build(name == Decode)
		if err := m.add(name, d, b.net); err != nil {
			return nil, err
		}
	}
	return m, w.wholeLayers(c.layers)
}

// endTokens are the tokens that end a text: those of generation_config.json, else those
// given.
func endTokens(ck *checkpoint.Checkpoint, eos []int64) ([]int64, error) {
	generation, err := ck.Generation()
	if err != nil {
		return nil, err
	}
	g := generation.Fields()
	if own := g.Ints("eos_token_id", 0, maxVocab); len(own) > 0 {
		eos = own
	}
	return eos, g.Err()
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

func (b *decoder) build(head bool) {
	c := b.c
	b.stepInputs(b.d)
	x := b.embedding("embeddings.word", InputIDs, "embed_tokens.weight", c.vocab, c.hidden)
	if b.d.Embeds > 0 {
		x = b.embedRows(x)
	}
	b.cos, b.sin = c.rope.angles(b.net)
	for i := range c.layers {
		x = b.layer(i, x)
	}
	x = b.in("head").Op("Gather", []string{x, Select})
	x = b.rmsNorm("norm", x, "norm", c.hidden, c.eps)
	if !head {
		b.Output(LastHiddenState, x, graph.TensorType(tensor.Float32, graph.Sym(Selected), graph.Known(c.hidden)))
		b.poolOutputs(b.d.Pools)
		return
	}
	matrix := "lm_head.weight"
	if c.tied {
		b.w.skip(matrix)
		matrix = "embed_tokens.weight"
	}
	b.stepOutputs(b.d, b.in("head").times(x, matrix, c.hidden, c.vocab))
}

// step is an input of Decode beside its pools.
type step struct {
	name string
	dims []string
}

// steps are the inputs of Decode beside its pools; all are int64 but EmbedRows.
func (d *Decoder) steps() []step {
	list := []step{{InputIDs, []string{Tokens}}, {Positions, []string{Tokens}}, {Slots, []string{Tokens}}, {PageTables, []string{Sequences, PagesEach}},
		{Lengths, []string{Sequences}}, {Starts, []string{SequencesOne}}, {Select, []string{Selected}}}
	if d.Cross != nil {
		list = append(list, step{CrossPageTables, []string{Sequences, CrossPagesEach}}, step{CrossLengths, []string{Sequences}})
	}
	if d.Embeds > 0 {
		list = append(list, step{EmbedIndex, []string{Tokens}})
	}
	return list
}

func (n net) stepInputs(d *Decoder) {
	for _, in := range d.steps() {
		t := graph.TensorType(tensor.Int64)
		for _, s := range in.dims {
			t.Dims = append(t.Dims, graph.Sym(s))
		}
		n.Input(in.name, t)
	}
	if d.Embeds > 0 {
		n.Input(EmbedRows, graph.TensorType(tensor.Float32, graph.Sym(EmbedCount), graph.Known(d.Embeds)))
	}
}

// embedRows puts rows that came as embeddings in the places of the tokens' own.
func (n net) embedRows(x string) string {
	n = n.in("embeddings.rows")
	given := n.Op("Gather", []string{EmbedRows, n.Op("Max", []string{EmbedIndex, n.Int(0)})})
	is := n.Op("Unsqueeze", []string{n.Op("GreaterOrEqual", []string{EmbedIndex, n.Int(0)}), n.Ints(1)})
	return n.Op("Where", []string{is, given, x})
}

func (n net) stepOutputs(d *Decoder, logits string) {
	n.Output(Logits, logits, graph.TensorType(tensor.Float32, graph.Sym(Selected), graph.Known(d.VocabSize)))
	n.poolOutputs(d.Pools)
}

func (n net) poolOutputs(pools []Pool) {
	for _, p := range pools {
		n.Output(p.Output, p.Output, p.valueType())
	}
}

// rows joins the heads: [tokens, heads, dim] -> [tokens, width].
func (n net) rows(scope, x string, width int64) string {
	return n.in(scope).Op("Reshape", []string{x, n.Ints(-1, width)})
}

// sourceRows is an encoder's output for Prepare, [rows, width], and its input slots.
func (n net) sourceRows(x string, width int64) string {
	n.Input(Slots, graph.TensorType(tensor.Int64, graph.Sym(SourceRows)))
	return n.rows("source", x, width)
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
	o := b.pagedAttention(b.d, i, scope, q, k, v, attentionForm{scale: float32(1 / math.Sqrt(float64(c.headDim))), window: c.windows[i]})
	return b.project(scope+".out", b.rows(scope, o, c.heads*c.headDim), name+".o_proj", c.heads*c.headDim, c.hidden, c.outBias)
}

// attentionForm is what tells one layer's paged attention from another's.
type attentionForm struct {
	scale  float32
	window int64  // 0: none
	bias   string // [heads, distances] float32; empty: none
}

// pagedAttention writes k and v of this step into layer i's pools and attends to
// them: [tokens, heads, dim] each -> [tokens, heads, dim].
func (n net) pagedAttention(d *Decoder, i int64, scope, q, k, v string, form attentionForm) string {
	if d.KV.KeyBits > 0 {
		q = n.spread(scope+".q_spread", q, d.HeadDim)
	}
	k, v = n.kept(d, scope, k, v)
	pools := d.layerPools("", i)
	name := scope + "/PagedAttention"
	inputs := make([]string, 12)
	copy(inputs, []string{q, k, v})
	copy(inputs[5:], []string{Slots, PageTables, Lengths, Starts})
	inputs[11] = form.bias
	outputs := []string{name, "", "", "", ""}
	for _, p := range pools {
		n.Input(p.Name, p.valueType())
		inputs[p.place], outputs[p.result] = p.Name, p.Output
		d.Pools = append(d.Pools, p.Pool)
	}
	n.paged("PagedAttention", "", name, inputs, outputs, append(d.bits(), form.attrs()...))
	return n.together(d, scope, name)
}

// crossAttention attends to all of a source: q [tokens, heads, dim] -> the same.
func (n net) crossAttention(d *Decoder, i int64, scope, q string, scale float32) string {
	if d.KV.KeyBits > 0 {
		q = n.spread(scope+".q_spread", q, d.HeadDim)
	}
	name := scope + "/PagedAttention"
	inputs := make([]string, 12)
	inputs[0] = q
	copy(inputs[6:], []string{CrossPageTables, CrossLengths, Starts})
	for _, p := range d.layerPools(crossPrefix, i) {
		n.Input(p.Name, p.valueType())
		inputs[p.place] = p.Name
	}
	// Its body differs from that of the attention beside it.
	n.paged("PagedAttention", "cross", name, inputs, []string{name}, append(d.bits(), graph.FloatAttr("scale", scale), graph.IntAttr("causal", 0)))
	return n.together(d, scope, name)
}

// crossWrite writes a source's keys and values, [rows, heads, dim] each, into layer i's
// cross pools.
func (n net) crossWrite(d *Decoder, i int64, scope, k, v string) {
	k, v = n.kept(d, scope, k, v)
	inputs, outputs := make([]string, 7), make([]string, 4)
	copy(inputs, []string{k, v, Slots})
	for _, p := range d.layerPools(crossPrefix, i) {
		n.Input(p.Name, p.valueType())
		inputs[p.written], outputs[p.result-1] = p.Name, p.Output
		d.Cross.Pools = append(d.Cross.Pools, p.Pool)
	}
	n.paged("PagedWrite", "", scope+"/PagedWrite", inputs, outputs, d.bits())
}

// kept are keys and values as pools hold them: turned where few bits want it.
func (n net) kept(d *Decoder, scope, k, v string) (string, string) {
	if d.KV.KeyBits > 0 {
		k = n.spread(scope+".k_spread", k, d.HeadDim)
	}
	if d.KV.ValueBits == 4 {
		v = n.spread(scope+".v_spread", v, d.ValueHeadDim)
	}
	return k, v
}

// together turns back what was attended of turned values.
func (n net) together(d *Decoder, scope, o string) string {
	if d.KV.ValueBits == 4 {
		return n.spread(scope+".out_spread", o, d.ValueHeadDim)
	}
	return o
}

func (f attentionForm) attrs() []*graph.Attr {
	attrs := []*graph.Attr{graph.FloatAttr("scale", f.scale)}
	if f.window > 0 {
		attrs = append(attrs, graph.IntAttr("window", f.window))
	}
	return attrs
}

// paged adds a node of ai.accel with the body that its form has, under an overload where
// the graph has calls of several forms.
func (n net) paged(op, overload, name string, inputs, outputs []string, attrs []*graph.Attr) {
	node := &graph.Node{Name: name, Domain: graph.DomainAccel, OpType: op, Overload: overload, Inputs: trimmed(inputs), Outputs: trimmed(outputs), Attrs: attrs}
	f := graph.ContractFunctionOf(node)
	if overload != "" {
		if n.bodies[overload] == nil {
			own := f.Clone()
			own.Overload = overload
			n.bodies[overload] = own
		}
		f = n.bodies[overload]
	}
	n.Function(f)
	n.Node(node, 0)
}

// bits are the attributes of quantised pools.
func (d *Decoder) bits() []*graph.Attr {
	var attrs []*graph.Attr
	for _, b := range []struct {
		name string
		bits int
	}{{"k_bits", d.KV.KeyBits}, {"v_bits", d.KV.ValueBits}} {
		if b.bits > 0 {
			attrs = append(attrs, graph.IntAttr(b.name, int64(b.bits)))
		}
	}
	return attrs
}

// placed is a pool and its place among the operators' inputs and outputs.
type placed struct {
	Pool
	place, written int // input of PagedAttention, of PagedWrite
	result         int // output of PagedAttention; one less of PagedWrite
}

// crossPrefix begins the names of cross pools.
const crossPrefix = "cross_"

// layerPools are the pools of layer i, those of the source with their prefix.
func (d *Decoder) layerPools(prefix string, i int64) []placed {
	list := []placed{
		{pool(prefix+"k", i, d.KV.Key, d.KVHeads, d.HeadDim, d.KV.KeyBits), 3, 3, 1},
		{pool(prefix+"v", i, d.KV.Value, d.KVHeads, d.ValueHeadDim, d.KV.ValueBits), 4, 4, 2},
	}
	if d.KV.KeyBits > 0 {
		list = append(list, placed{pool(prefix+"k_scales", i, tensor.Float16, d.KVHeads, 0, 0), 9, 5, 3})
	}
	if d.KV.ValueBits > 0 {
		list = append(list, placed{pool(prefix+"v_scales", i, tensor.Float16, d.KVHeads, 0, 0), 10, 6, 4})
	}
	if prefix != "" {
		for j := range list {
			list[j].pages = CrossPages
		}
	}
	return list
}

func trimmed(names []string) []string {
	for len(names) > 0 && names[len(names)-1] == "" {
		names = names[:len(names)-1]
	}
	return names
}

// pool describes layer i's pool of what; dim 0: one number a head.
func pool(what string, i int64, elem tensor.DType, heads, dim int64, bits int) Pool {
	p := Pool{Name: what + "." + strconv.FormatInt(i, 10), Output: what + "_out." + strconv.FormatInt(i, 10), Layer: i, DType: elem, Row: tensor.Shape{heads}, pages: Pages}
	if bits == 4 {
		dim /= 2
	}
	if dim > 0 {
		p.Row = append(p.Row, dim)
	}
	return p
}

func (p Pool) valueType() *graph.Type {
	t := graph.TensorType(p.DType, graph.Sym(p.pages), graph.Sym(PageSize))
	for _, n := range p.Row {
		t.Dims = append(t.Dims, graph.Known(n))
	}
	return t
}

// StepSizes are the dimensions of a step of one sequence of so many tokens, for counting
// what it costs: pools have one page of 16 places beside page 0.
func (d *Decoder) StepSizes(tokens int64) map[string]int64 {
	sizes := map[string]int64{Tokens: tokens, Sequences: 1, SequencesOne: 2, PagesEach: 1, Selected: 1, Pages: 2, PageSize: 16}
	if d.Cross != nil {
		sizes[CrossPagesEach], sizes[CrossPages] = 1, 2
	}
	if d.Embeds > 0 {
		sizes[EmbedCount] = 1
	}
	return sizes
}

// AllPools are the pools that Decode takes: its own, which it updates, and those of the
// source, which it reads.
func (d *Decoder) AllPools() []Pool {
	if d.Cross == nil {
		return d.Pools
	}
	return slices.Concat(d.Pools, d.Cross.Pools)
}

// feeds is Model.Feeds. Nothing of a step can be made up, so it only checks.
func (d *Decoder) feeds(given map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	want := map[string]tensor.DType{}
	var names []string
	need := func(name string, elem tensor.DType) {
		want[name] = elem
		names = append(names, name)
	}
	for _, in := range d.steps() {
		need(in.name, tensor.Int64)
	}
	if d.Embeds > 0 {
		need(EmbedRows, tensor.Float32)
	}
	for _, p := range d.AllPools() {
		need(p.Name, p.DType)
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
