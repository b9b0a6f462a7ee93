package models

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Bounds on what a config may ask for, well above any model's.
const (
	maxLayers = 1 << 10
	maxWidth  = 1 << 16
	maxInner  = 1 << 18
	maxTokens = 1 << 20
	maxVocab  = 1 << 24
)

// variant is what tells one BERT-like encoder (Devlin et al. 2018,
// arXiv:1810.04805: post-norm, absolute learnt positions) from another.
type variant struct {
	prefix string // of the base model's tensors where heads were saved with it
	config func(checkpoint.Fields) encoderConfig
	layer  layerNames
	// heads build what the classes of transformers have on top of the encoder.
	heads map[string]func(*encoder)
}

// encoderConfig is the part of config.json that the graphs depend on.
type encoderConfig struct {
	vocab, positions, types                 int64 // rows of the embeddings; types 0: none
	embedding, hidden, layers, heads, inner int64
	pad                                     int64
	act                                     string
	eps                                     float32
	tied                                    bool // logits over the vocabulary use the embeddings
	countFromPad                            bool // positions begin at pad+1, padding has position pad
}

// layerNames are the tensors of one layer; %d is its number.
type layerNames struct {
	q, k, v, out, attentionNorm string
	up, down, norm              string
}

// wordTable is what all variants call their embeddings of tokens.
const wordTable = "embeddings.word_embeddings.weight"

// bertFields reads the config.json that BERT, RoBERTa and ELECTRA share.
func bertFields(f checkpoint.Fields, pad int64) encoderConfig {
	c := encoderConfig{
		vocab:     f.Int("vocab_size", 1, maxVocab),
		positions: f.Int("max_position_embeddings", 1, maxTokens),
		types:     f.IntOr("type_vocab_size", 2, 0, maxVocab),
		hidden:    f.Int("hidden_size", 1, maxWidth),
		layers:    f.Int("num_hidden_layers", 1, maxLayers),
		heads:     f.Int("num_attention_heads", 1, maxWidth),
		inner:     f.Int("intermediate_size", 1, maxInner),
		act:       activation(f, "hidden_act", "gelu"),
		eps:       float32(f.FloatOr("layer_norm_eps", 1e-12, 0, 1)),
	}
	c.embedding = c.hidden
	c.common(f, "hidden_size", "num_attention_heads", pad)
	return c
}

// common reads and checks what is the same in every variant's config.
func (c *encoderConfig) common(f checkpoint.Fields, hidden, heads string, pad int64) {
	c.tied = f.BoolOr("tie_word_embeddings", true)
	if f.Err() == nil && c.hidden%c.heads != 0 {
		f.Fail(heads, fmt.Sprintf("found %d", c.heads), fmt.Sprintf("a divisor of %s, which is %d", hidden, c.hidden), "")
	}
	c.pad = f.IntOr("pad_token_id", pad, 0, maxVocab)
	if f.Err() == nil && c.pad >= c.vocab {
		f.Fail("pad_token_id", fmt.Sprintf("found %d", c.pad), fmt.Sprintf("a token below vocab_size, which is %d", c.vocab), "")
	}
	for _, field := range []string{"is_decoder", "add_cross_attention"} {
		if f.BoolOr(field, false) {
			f.Fail(field, "found true", "an encoder", "decoders of this family are not built")
		}
	}
	if p := f.StringOr("position_embedding_type", "absolute"); p != "absolute" && f.Err() == nil {
		f.Fail("position_embedding_type", "found "+strconv.Quote(p), `"absolute"`, "relative positions are not built")
	}
}

// maxTokens is the length of the longest text.
func (c *encoderConfig) maxTokens() int64 {
	if c.countFromPad {
		return c.positions - c.pad - 1
	}
	return c.positions
}

// inputs are those of the encoder's graphs, int64 [batch, sequence] each.
func (c *encoderConfig) inputs() inputs {
	dims := symbols(Batch, Sequence)
	ids, mask := tokens(c.vocab, dims...)
	list := []input{ids, mask}
	if c.types > 0 {
		list = append(list, input{name: "token_type_ids", dtype: tensor.Int64, dims: dims, below: c.types,
			wanted: fmt.Sprintf("a type below type_vocab_size, which is %d", c.types), fill: zeros})
	}
	positions := count
	if c.countFromPad {
		positions = countFromPad(c.pad)
	}
	list = append(list, input{name: "position_ids", dtype: tensor.Int64, dims: dims, below: c.positions,
		wanted: fmt.Sprintf("a position below max_position_embeddings, which is %d", c.positions), fill: positions})
	return inputs{list: list, sizes: map[string]size{Sequence: {most: c.maxTokens(), remedy: "cut or split the text"}}, also: attends}
}

// count numbers the tokens of each text from 0.
func count(out tensor.Tensor, _ feeds) {
	positions := tensor.View[int64](out)
	for i := range positions {
		positions[i] = int64(i) % out.Shape[1]
	}
}

// countFromPad numbers the tokens of each text from pad+1 and leaves those that
// are padding at pad, as fairseq does.
func countFromPad(pad int64) func(tensor.Tensor, feeds) {
	return func(out tensor.Tensor, given feeds) {
		positions, next := tensor.View[int64](out), pad
		for i, id := range tensor.View[int64](given[InputIDs].Aligned()) {
			if int64(i)%out.Shape[1] == 0 {
				next = pad
			}
			positions[i] = pad
			if id != pad {
				next++
				positions[i] = next
			}
		}
	}
}

func (v *variant) load(ck *checkpoint.Checkpoint, o Options) (*Model, error) {
	f := ck.Config.Fields()
	c := v.config(f)
	if f.Err() == nil && c.maxTokens() < 1 {
		f.Fail("max_position_embeddings", fmt.Sprintf("found %d", c.positions), fmt.Sprintf("more than pad_token_id + 1, which is %d", c.pad+1), "")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	m := &Model{
		VocabSize: c.vocab,
		MaxTokens: c.maxTokens(),
		PadToken:  c.pad,
	}
	w := &weights{ck: ck, prefix: v.prefix, used: map[string]bool{}}
	w.skip("embeddings.position_ids", "embeddings.token_type_ids")

	e := v.begin(Full, w, c, o)
	e.output("last_hidden_state", e.hidden, graph.Sym(Sequence), graph.Known(c.hidden))
	if w.has(poolerLinear + ".weight") {
		e.output("pooler_output", e.pooled(), graph.Known(c.hidden))
	}
	for _, architecture := range ck.Architectures {
		if head, ok := v.heads[architecture]; ok {
			head(e)
			break
		}
		if !strings.HasSuffix(architecture, "Model") {
			m.Notes = append(m.Notes, fmt.Sprintf("the architecture %s is not known: its outputs beyond the encoder's are left out", architecture))
		}
	}
	if err := m.add(Full, c.inputs(), e.net); err != nil {
		return nil, err
	}

	var err error
	if m.Embedding, err = embedding(ck, c.hidden, m.MaxTokens); err != nil {
		return nil, err
	}
	if m.Embedding.Assumed {
		m.Notes = append(m.Notes, "there is no modules.json: sentence embeddings are the mean over the tokens, normalised")
	}
	e = v.begin(Encode, w, c, o)
	e.output(SentenceEmbedding, e.pool(e.hidden, "attention_mask", m.Embedding.Pooling, m.Embedding.Normalize), graph.Known(m.Embedding.Dimension))
	if err := m.add(Encode, c.inputs(), e.net); err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// add ends a graph and makes it a component that is fed with in.
func (m *Model) add(name string, in feeder, n net) error {
	g, err := n.model()
	if err != nil {
		return err
	}
	m.Components = append(m.Components, Component{Name: name, Graph: g, feeder: in})
	return nil
}

// embedding says how Encode makes its vector.
func embedding(ck *checkpoint.Checkpoint, width, maxTokens int64) (*Embedding, error) {
	s := ck.Sentence
	if s == nil {
		return &Embedding{Dimension: width, Pooling: []checkpoint.Pooling{checkpoint.PoolMean}, Normalize: true, MaxTokens: maxTokens, Assumed: true}, nil
	}
	if s.Dimension != 0 && s.Dimension != width {
		return nil, &checkpoint.Error{File: ck.Path, Field: "pooling", Found: fmt.Sprintf("its dimension is %d", s.Dimension),
			Wanted: fmt.Sprintf("%d, the model's hidden size", width), Remedy: "modules.json and config.json are of different models"}
	}
	prompt := s.Prompts[s.DefaultPrompt]
	if prompt != "" && !s.IncludePrompt {
		return nil, &checkpoint.Error{File: ck.Path, Field: "pooling", Found: fmt.Sprintf("include_prompt is false and the default prompt is %q", prompt),
			Wanted: "prompts whose tokens count", Remedy: "set default_prompt_name to null in config_sentence_transformers.json to embed without prompt"}
	}
	e := &Embedding{Dimension: width * int64(len(s.Pooling)), Pooling: s.Pooling, Normalize: s.Normalize, MaxTokens: maxTokens,
		Prompt: prompt, Lowercase: s.Lowercase}
	if s.MaxTokens > 0 {
		e.MaxTokens = min(maxTokens, s.MaxTokens)
	}
	return e, nil
}

// encoder is a graph of a variant while it is built.
type encoder struct {
	net
	v      *variant
	c      encoderConfig
	hidden string // the last layer's output, [batch, sequence, hidden]
	pooler string // see pooled; empty until it is asked for
}

// begin builds the inputs and the encoder.
func (v *variant) begin(name string, w *weights, c encoderConfig, o Options) *encoder {
	n := newNet(name, w, o)
	c.inputs().declare(n.Builder)
	return v.encode(n, c)
}

// encode builds the encoder over inputs that are there.
func (v *variant) encode(n net, c encoderConfig) *encoder {
	e := &encoder{net: n, v: v, c: c}
	x := e.embedding("embeddings.word", "input_ids", wordTable, c.vocab, c.embedding)
	if c.types > 0 {
		types := e.embedding("embeddings.token_type", "token_type_ids", "embeddings.token_type_embeddings.weight", c.types, c.embedding)
		x = e.in("embeddings").Op("Add", []string{x, types})
	}
	positions := e.embedding("embeddings.position", "position_ids", "embeddings.position_embeddings.weight", c.positions, c.embedding)
	x = e.residualNorm("embeddings.norm", x, positions, "embeddings.LayerNorm", c.embedding, c.eps)
	if c.embedding != c.hidden {
		x = e.linear("embeddings.project", x, "embeddings_project", c.embedding, c.hidden)
	}
	mask := e.keyMask("attention_mask")
	for i := range c.layers {
		x = e.layer(i, x, mask)
	}
	e.hidden = x
	return e
}

func (e *encoder) layer(i int64, x, mask string) string {
	at := func(name string) string { return fmt.Sprintf(name, i) }
	l, c := e.v.layer, e.c
	scope := fmt.Sprintf("encoder.layer.%d", i)
	names := attentionNames{q: at(l.q), k: at(l.k), v: at(l.v), out: at(l.out)}
	x = e.residualNorm(scope+".attention.norm", e.selfAttention(scope+".attention", x, mask, names, c.hidden, c.heads), x, at(l.attentionNorm), c.hidden, c.eps)
	return e.residualNorm(scope+".mlp.norm", e.mlp(scope+".mlp", x, at(l.up), at(l.down), c.act, c.hidden, c.inner), x, at(l.norm), c.hidden, c.eps)
}

// output makes a float32 value [batch, dims...] an output.
func (e *encoder) output(name, value string, dims ...graph.Dim) {
	e.result(name, value, append([]graph.Dim{graph.Sym(Batch)}, dims...)...)
}

// poolerLinear is the linear of BERT's pooler.
const poolerLinear = "pooler.dense"

// pooled is BERT's pooler: the first token's row through a linear and tanh.
func (e *encoder) pooled() string {
	if e.pooler == "" {
		x := e.rowLinear("pooler", e.first("pooler", e.hidden), poolerLinear, e.c.hidden, e.c.hidden)
		e.pooler = e.activate("pooler", "tanh", x)
	}
	return e.pooler
}

// labels is how many classes a head tells apart, as its matrix says.
func (e *encoder) labels(name string) int64 { return e.w.rows(name + ".weight") }

// classifyPooled is a linear over the pooler's output.
func (e *encoder) classifyPooled(output, name string) {
	n := e.labels(name)
	e.output(output, e.rowLinear(name, e.pooled(), name, e.c.hidden, n), graph.Known(n))
}

// classifyFirst is two linears with an activation between them, over the first
// token's row.
func (e *encoder) classifyFirst(dense, act, name string) {
	n := e.labels(name)
	x := e.rowLinear(dense, e.first(dense, e.hidden), dense, e.c.hidden, e.c.hidden)
	e.output("logits", e.rowLinear(name, e.activate(dense, act, x), name, e.c.hidden, n), graph.Known(n))
}

// classifyTokens is a linear over every token.
func classifyTokens(e *encoder) {
	const name = "classifier"
	n := e.labels(name)
	e.output("logits", e.linear(name, e.hidden, name, e.c.hidden, n), graph.Sym(Sequence), graph.Known(n))
}

// answer is the head for extracting answers: where they begin and end.
func answer(e *encoder) {
	const name = "qa_outputs"
	x := e.linear(name, e.hidden, name, e.c.hidden, 2)
	n := e.in(name)
	for i, output := range []string{"start_logits", "end_logits"} {
		e.output(output, n.Op("Gather", []string{x, n.Int(int64(i))}, graph.IntAttr("axis", -1)), graph.Sym(Sequence))
	}
}

// vocabularyNames are the tensors of a head over the vocabulary.
type vocabularyNames struct{ dense, norm, decoder, bias string }

// vocabulary gives logits over the vocabulary for every token: a linear, an
// activation, a norm, and the embeddings' table (or a matrix of its own) with a bias.
func (e *encoder) vocabulary(output, act string, names vocabularyNames) {
	c := e.c
	x := e.activate(names.dense, act, e.linear(names.dense, e.hidden, names.dense, c.hidden, c.embedding))
	x = e.layerNorm(names.norm, x, names.norm, c.embedding, c.eps)
	// The bias may be stored as the head's, as the decoder's, or as both: then that
	// of the matrix's owner counts.
	matrix, bias, other := names.decoder+".weight", names.decoder+".bias", names.bias
	if c.tied {
		e.w.skip(matrix)
		matrix, bias, other = wordTable, other, bias
	}
	if !e.w.has(bias) && e.w.has(other) {
		bias = other
	}
	e.w.skip(other)
	x = e.in(names.decoder).affine(x, matrix, bias, c.embedding, c.vocab)
	e.output(output, x, graph.Sym(Sequence), graph.Known(c.vocab))
}
