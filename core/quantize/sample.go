package quantize

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Runtime runs graphs for measurements; core/engine has it.
type Runtime interface {
	// Open makes a graph ready, whose external data is of a checkpoint in dir, or has an
	// absolute path. identity tells that data from all other.
	Open(ctx context.Context, g *graph.Model, dir, identity string) (Runnable, error)
	// Scratch is a folder for what need not stay.
	Scratch() string
}

// Runnable is a graph that is ready to run.
type Runnable interface {
	Run(ctx context.Context, inputs map[string]tensor.Tensor, wanted []string) (map[string]tensor.Tensor, error)
	Close() error
}

// Bounds of a sample.
const (
	windowTokens = 256 // of a decoder's text
	maxWindows   = 10
	maxTexts     = 64 // of an encoder
	minTokens    = 4
	samplePage   = 16 // tokens of a page
	maxTextBytes = 8 << 20
)

// feed is one run's inputs of a component.
type feed struct {
	inputs map[string]tensor.Tensor
	next   []int64 // the tokens that come after those whose logits are wanted; else nil
}

// sample is what a component is measured with.
type sample struct {
	component string
	output    string
	logits    bool   // of a decoder, whose distributions are compared; else vectors are
	fit, test []feed // for calibration, and for the gate
}

// SampleError says what is wrong with a sample.
type SampleError struct{ File, Found, Wanted string }

func (e *SampleError) Error() string {
	s := fmt.Sprintf("sample %s: %s", e.File, e.Found)
	if e.Wanted != "" {
		s += ", wanted " + e.Wanted
	}
	return s
}

// readTexts reads a file of texts, one a line.
func readTexts(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &SampleError{File: file, Found: err.Error()}
	}
	defer f.Close()
	var texts []string
	lines, size := bufio.NewScanner(f), 0
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && size < maxTextBytes {
		if t := strings.TrimSpace(lines.Text()); t != "" {
			texts = append(texts, t)
			size += len(t)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, &SampleError{File: file, Found: err.Error(), Wanted: "lines of text"}
	}
	if len(texts) == 0 {
		return nil, &SampleError{File: file, Found: "it has no text", Wanted: "a text a line"}
	}
	return texts, nil
}

// newSample makes a sample of what is at path, for the component that takes such: a file
// of texts, one a line, or a folder of pictures or of sounds. The error is a *SampleError
// where the model has no such component, or there is too little.
func newSample(ck *checkpoint.Checkpoint, m *models.Model, path string) (*sample, error) {
	var s *sample
	var err error
	if info, e := os.Stat(path); e == nil && info.IsDir() {
		s, err = newMediaSample(ck, m, path)
	} else {
		s, err = newTextSample(ck, m, path)
	}
	if err != nil {
		return nil, err
	}
	s.divide()
	if len(s.fit) == 0 || len(s.test) == 0 {
		return nil, &SampleError{File: path, Found: "there is too little", Wanted: fmt.Sprintf("two texts, pictures or sounds at least, or %d tokens", 2*windowTokens)}
	}
	return s, nil
}

func newTextSample(ck *checkpoint.Checkpoint, m *models.Model, file string) (*sample, error) {
	texts, err := readTexts(file)
	if err != nil {
		return nil, err
	}
	tok, err := processors.OpenTokenizer(ck.Dir)
	if err != nil {
		return nil, err
	}
	s := &sample{}
	switch {
	case m.Decoder != nil && m.Decoder.Cross == nil:
		s.component, s.output, s.logits = models.Decode, models.Logits, true
		return s, s.windows(m, tok, texts)
	case m.Has(models.Encode):
		s.component, s.output = models.Encode, models.SentenceEmbedding
		return s, s.texts(m, tok, texts, int(m.Embedding.MaxTokens))
	case m.Has(models.Text):
		s.component, s.output = models.Text, models.TextEmbeds
		if m.Has(models.Video) {
			s.output = models.TextFeatures
		}
		return s, s.texts(m, tok, texts, int(m.MaxTokens))
	}
	if m.Has(models.Encoder) && !m.Hears() {
		s.component, s.output = models.Encoder, "encoder_last_hidden_state"
		return s, s.texts(m, tok, texts, int(m.MaxTokens))
	}
	return nil, &SampleError{File: file, Found: "models of class " + m.Class + " read no texts alone", Wanted: "a folder of what the model sees or hears"}
}

// windows cuts all texts, one after another, into windows of a decoder.
func (s *sample) windows(m *models.Model, tok *processors.Tokenizer, texts []string) error {
	enc, err := tok.Encode(strings.Join(texts, "\n"), processors.EncodeOptions{SpecialAsText: true, MaxLength: maxWindows * windowTokens})
	if err != nil {
		return err
	}
	for at := 0; at+windowTokens <= len(enc.IDs); at += windowTokens {
		f, err := window(m.Decoder, enc.IDs[at:at+windowTokens])
		if err != nil {
			return err
		}
		s.fit = append(s.fit, f)
	}
	return nil
}

// divide sets every fourth feed aside for the gate, one at least.
func (s *sample) divide() {
	all := s.fit
	s.fit = nil
	for i, f := range all {
		if i%4 == 1 {
			s.test = append(s.test, f)
		} else {
			s.fit = append(s.fit, f)
		}
	}
}

// window is one sequence of a decoder, from its beginning, whose logits are wanted for
// every token that another comes after.
func window(d *models.Decoder, ids []int64) (feed, error) {
	n := int64(len(ids))
	pages := (n + samplePage - 1) / samplePage
	count := func(from, to int64) tensor.Tensor {
		list := make([]int64, 0, to-from)
		for i := from; i < to; i++ {
			list = append(list, i)
		}
		return tensor.Ints(tensor.Shape{to - from}, list...)
	}
	table := count(1, 1+pages)
	table.Shape = tensor.Shape{1, pages}
	in := map[string]tensor.Tensor{
		models.InputIDs: tensor.Ints(tensor.Shape{n}, ids...), models.Positions: count(0, n), models.Slots: count(samplePage, samplePage+n),
		models.Lengths: tensor.Ints(tensor.Shape{1}, n), models.Starts: tensor.Ints(tensor.Shape{2}, 0, n), models.Select: count(0, n-1),
		models.PageTables: table,
	}
	if d.Embeds > 0 {
		none, err := tensor.New(tensor.Float32, tensor.Shape{1, d.Embeds})
		if err != nil {
			return feed{}, err
		}
		in[models.EmbedRows] = none
		in[models.EmbedIndex] = tensor.Ints(tensor.Shape{n}, slices.Repeat([]int64{-1}, int(n))...)
	}
	for _, p := range d.Pools {
		pool, err := tensor.New(p.DType, append(tensor.Shape{1 + pages, samplePage}, p.Row...))
		if err != nil {
			return feed{}, err
		}
		in[p.Name] = pool
	}
	return feed{in, ids[1:]}, nil
}

// texts makes a run of each text.
func (s *sample) texts(m *models.Model, tok *processors.Tokenizer, texts []string, most int) error {
	for _, t := range texts {
		if len(s.fit) == maxTexts {
			break
		}
		enc, err := tok.Encode(t, processors.EncodeOptions{SpecialAsText: true, MaxLength: min(most, windowTokens)})
		if err != nil {
			return err
		}
		n := int64(len(enc.IDs))
		if n < minTokens {
			continue
		}
		in, err := m.Feeds(s.component, map[string]tensor.Tensor{models.InputIDs: tensor.Ints(tensor.Shape{1, n}, enc.IDs...)})
		if err != nil {
			return err
		}
		s.fit = append(s.fit, feed{inputs: in})
	}
	return nil
}

// Loss is how far a model is from the one that it was made of.
type Loss struct {
	// Loss is the bounded figure: of decoders exp(KL) - 1, as perplexity grows by it; of
	// others 1 - Cosine.
	Loss float64 `json:"loss"`
	// KL is the divergence of next tokens' distributions, mean in nats.
	KL         float64 `json:"kl_divergence,omitempty"`
	Perplexity float64 `json:"perplexity,omitempty"`
	Reference  float64 `json:"reference_perplexity,omitempty"`
	// Cosine is between output vectors, mean.
	Cosine float64 `json:"cosine,omitempty"`
	Count  int     `json:"count"` // of tokens, or vectors
}

// comparison sums up a Loss.
type comparison struct {
	kl, loss, reference, cosine float64
	n                           int
}

// add compares outputs [n, width] of one feed.
func (c *comparison) add(want, got tensor.Tensor, f feed) {
	width := int(want.Shape[len(want.Shape)-1])
	a, b := tensor.View[float32](want.Aligned()), tensor.View[float32](got.Aligned())
	rows := len(a) / width
	parts := make([]comparison, rows)
	parallel(rows, func(i int) {
		x, y := a[i*width:(i+1)*width], b[i*width:(i+1)*width]
		if f.next == nil {
			parts[i] = comparison{cosine: cosine(x, y), n: 1}
			return
		}
		p, q := logSum(x), logSum(y)
		var kl float64
		for j := range x {
			if lp := float64(x[j]) - p; lp > -30 {
				kl += math.Exp(lp) * (lp - float64(y[j]) + q)
			}
		}
		parts[i] = comparison{kl: kl, loss: q - float64(y[f.next[i]]), reference: p - float64(x[f.next[i]]), n: 1}
	})
	for _, r := range parts {
		c.kl, c.loss, c.reference, c.cosine, c.n = c.kl+r.kl, c.loss+r.loss, c.reference+r.reference, c.cosine+r.cosine, c.n+1
	}
}

func (c *comparison) result(logits bool) Loss {
	n := float64(max(c.n, 1))
	if !logits {
		return Loss{Loss: max(1-c.cosine/n, 0), Cosine: c.cosine / n, Count: c.n}
	}
	return Loss{Loss: math.Exp(max(c.kl/n, 0)) - 1, KL: c.kl / n, Perplexity: math.Exp(c.loss / n), Reference: math.Exp(c.reference / n), Count: c.n}
}

// logSum is the logarithm of the sum of exponentials.
func logSum(row []float32) float64 {
	most, sum := slices.Max(row), 0.0
	for _, x := range row {
		sum += math.Exp(float64(x - most))
	}
	return float64(most) + math.Log(sum)
}

func cosine(x, y []float32) float64 {
	var xx, yy, xy float64
	for i := range x {
		xx, yy, xy = xx+float64(x[i])*float64(x[i]), yy+float64(y[i])*float64(y[i]), xy+float64(x[i])*float64(y[i])
	}
	if xx == 0 || yy == 0 {
		if xx == yy {
			return 1
		}
		return 0
	}
	return xy / math.Sqrt(xx*yy)
}

// outputs runs feeds and hands each output on.
func (s *sample) outputs(ctx context.Context, run Runnable, feeds []feed, more map[string]tensor.Tensor, got func(i int, out tensor.Tensor)) error {
	for i, f := range feeds {
		in := f.inputs
		if more != nil {
			in = map[string]tensor.Tensor{}
			for name, v := range f.inputs {
				in[name] = v
			}
			for name, v := range more {
				in[name] = v
			}
		}
		out, err := run.Run(ctx, in, []string{s.output})
		if err != nil {
			return err
		}
		v, ok := out[s.output]
		if !ok {
			return errors.New("quantize: the runtime gives no " + s.output)
		}
		got(i, v)
	}
	return nil
}
