package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/verify"
)

const (
	readTokens   = 512 // of a step
	writtenAfter = 64  // tokens of a text that the next are written after
	written      = 32  // tokens, one by one
	comparedAt   = 16  // texts at a time
	pairDistance = 30  // lines, of the furthest pairs
)

// predicting has decoders predict a text. Perplexity counts, and how far predictions are from
// those of the model as it is stored, which reads beside them.
type predicting struct {
	o     *PrecisionOptions
	ids   []int64
	base  *reader
	first float64 // perplexity
}

func newPredicting(ctx context.Context, o *PrecisionOptions, e Engine, tokenizer string) (*predicting, error) {
	text, err := os.ReadFile(o.Text)
	if err != nil {
		return nil, err
	}
	tok, err := processors.OpenTokenizer(tokenizer)
	if err != nil {
		return nil, err
	}
	enc, err := tok.Encode(string(text), processors.EncodeOptions{NoSpecial: true, MaxLength: o.Tokens})
	if err != nil {
		return nil, err
	}
	if least := writtenAfter + written; len(enc.IDs) < least || len(enc.IDs) < o.Tokens {
		return nil, &JudgeError{o.Model, fmt.Sprintf("%s has %d tokens", o.Text, len(enc.IDs)), fmt.Sprintf("wanted are %d", max(least, o.Tokens))}
	}
	j := &predicting{o: o, ids: enc.IDs}
	j.base, err = j.open(ctx, e, o.Model)
	return j, err
}

func (j *predicting) open(ctx context.Context, e Engine, path string) (*reader, error) {
	return openReader(ctx, e, path, j.o.Platform, models.Options{Activations: j.o.Activations}, max(j.o.Context, writtenAfter+written))
}

func (j *predicting) served() bool { return false }
func (j *predicting) close() error { return j.base.close() }

func (j *predicting) measure(ctx context.Context, e Engine, path string, held func() error) (out Outcome, err error) {
	r, err := j.open(ctx, e, path)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var reference prediction
	var sum score
	var took float64
	v := int(r.session.Model.Decoder.VocabSize)
	for begin := 0; begin < len(j.ids); begin += j.o.Context {
		ids := j.ids[begin:min(begin+j.o.Context, len(j.ids))]
		r.clear()
		j.base.clear()
		for at, n := 0, 0; at < len(ids); at += n {
			n = min(readTokens, len(ids)-at)
			var logits []float32
			seconds, err := timed(func() (err error) { logits, err = r.add(ctx, ids[at:at+n], true); return })
			if err != nil {
				return out, err
			}
			took += seconds
			theirs, err := j.base.add(ctx, ids[at:at+n], true)
			if err != nil {
				return out, err
			}
			if len(logits) != len(theirs) {
				return out, fmt.Errorf("%s has %d logits for a token, %s has %d", path, len(logits)/n, j.o.Model, len(theirs)/n)
			}
			reference.predict(theirs, v)
			sum.add(&reference, logits, ids[at+1:min(at+n+1, len(ids))])
		}
	}
	out = Outcome{Measure: "perplexity", Value: sum.perplexity(), KL: max(0, sum.kl/float64(sum.n)), Count: sum.n,
		Throughput: float64(len(j.ids)) / took, Unit: "tokens/s read", LatencyOf: "token written"}
	r.clear()
	if _, err := r.add(ctx, j.ids[:writtenAfter], false); err != nil {
		return out, err
	}
	var steps []float64
	for i := range written {
		seconds, err := timed(func() error { _, err := r.add(ctx, j.ids[writtenAfter+i:writtenAfter+i+1], false); return err })
		if err != nil {
			return out, err
		}
		steps = append(steps, seconds)
	}
	out.Latency = middle(steps)
	j.first = cmp.Or(j.first, out.Value)
	return out, held()
}

func (j *predicting) loss(o Outcome) float64 { return o.Value/j.first - 1 }

// comparing has models compare texts with one another: the order in which pairs of them
// are alike counts, against that of the model as it is stored.
type comparing struct {
	lines []string
	pairs [][2]int
	first []float64 // how alike they are
}

func newComparing(o *PrecisionOptions) (*comparing, error) {
	text, err := os.ReadFile(o.Text)
	if err != nil {
		return nil, err
	}
	j := &comparing{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			j.lines = append(j.lines, line)
		}
	}
	// Lines that stand together are alike, others are not.
	for distance := 1; distance <= pairDistance && len(j.pairs) < o.Pairs; distance++ {
		for i := range len(j.lines) - distance {
			j.pairs = append(j.pairs, [2]int{i, i + distance})
		}
	}
	if len(j.pairs) < max(2, o.Pairs) {
		return nil, &JudgeError{o.Model, fmt.Sprintf("%s has %d lines, which make %d pairs", o.Text, len(j.lines), len(j.pairs)), fmt.Sprintf("wanted are %d", max(2, o.Pairs))}
	}
	return j, nil
}

func (j *comparing) measure(ctx context.Context, e Engine, _ string, held func() error) (out Outcome, err error) {
	var vectors [][]float32
	var took float64
	embed := func(lines []string) (float64, error) {
		return timed(func() error {
			res, err := e.Embed(ctx, ServedName, tasks.EmbedRequest{Texts: lines, Truncate: true})
			vectors = append(vectors, res.Vectors...)
			return err
		})
	}
	if _, err := embed(j.lines[:1]); err != nil { // nothing is loaded before
		return out, err
	}
	vectors = nil
	for begin := 0; begin < len(j.lines); begin += comparedAt {
		seconds, err := embed(j.lines[begin:min(begin+comparedAt, len(j.lines))])
		if err != nil {
			return out, err
		}
		took += seconds
	}
	alike := make([]float64, len(j.pairs))
	for i, p := range j.pairs {
		alike[i] = cosine(vectors[p[0]], vectors[p[1]])
	}
	if j.first == nil {
		j.first = alike
	}
	out = Outcome{Measure: "rank correlation", Value: rankCorrelation(alike, j.first), Count: len(j.pairs),
		Throughput: float64(len(j.lines)) / took, Unit: "texts/s", LatencyOf: "text"}
	var single []float64
	for _, line := range j.lines[:min(len(j.lines), written)] {
		seconds, err := embed([]string{line})
		if err != nil {
			return out, err
		}
		single = append(single, seconds)
	}
	out.Latency = middle(single)
	return out, held()
}

func (j *comparing) served() bool { return true }
func (j *comparing) close() error { return nil }

func (j *comparing) loss(o Outcome) float64 { return 1 - o.Value }

// listening has models write down what is said. The part of the words that are wrong counts.
type listening struct {
	sounds []said
	first  float64
	begun  bool
}

type said struct{ wav, text string }

func newListening(o *PrecisionOptions) (*listening, error) {
	files, err := filepath.Glob(filepath.Join(o.Sounds, "*.wav"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	j := &listening{}
	for _, wav := range files {
		text, err := os.ReadFile(strings.TrimSuffix(wav, ".wav") + ".txt")
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		j.sounds = append(j.sounds, said{wav, string(text)})
	}
	if len(j.sounds) == 0 {
		return nil, &JudgeError{o.Model, o.Sounds + " has no NAME.wav with a NAME.txt", "put there what is said in each sound"}
	}
	return j, nil
}

func (j *listening) measure(ctx context.Context, e Engine, _ string, held func() error) (out Outcome, err error) {
	wrong, words, length := 0, 0, 0.0
	var each []float64
	// The first is heard twice: nothing is loaded before.
	for i, s := range append(j.sounds[:1:1], j.sounds...) {
		var text strings.Builder
		var res tasks.TranscribeResult
		seconds, err := timed(func() error {
			f, err := os.Open(s.wav)
			if err != nil {
				return err
			}
			defer f.Close()
			sound, err := audio.Open(f)
			if err != nil {
				return fmt.Errorf("%s: %w", s.wav, err)
			}
			// Another salt each time: what was encoded before is of no use.
			req := tasks.TranscribeRequest{ID: "bench", Sound: sound, Temperatures: []float64{0}, Salt: fmt.Sprint(i)}
			res, err = e.Transcribe(ctx, ServedName, req, func(s tasks.Segment) error {
				text.WriteString(s.Text)
				return nil
			})
			return err
		})
		if err != nil {
			return out, err
		}
		if i == 0 {
			continue
		}
		w, n := wordErrors(s.text, text.String())
		wrong, words, length, each = wrong+w, words+n, length+res.Duration, append(each, seconds)
	}
	total := 0.0
	for _, s := range each {
		total += s
	}
	out = Outcome{Measure: "words wrong", Value: float64(wrong) / float64(words), Count: words,
		Latency: middle(each), LatencyOf: "sound", Throughput: length / total, Unit: "x real time"}
	if !j.begun {
		j.first, j.begun = out.Value, true
	}
	return out, held()
}

func (j *listening) served() bool { return true }
func (j *listening) close() error { return nil }

func (j *listening) loss(o Outcome) float64 { return o.Value - j.first }

// recorded has models compute what is recorded in the folder of the one that is measured.
// The output that is furthest from its record counts.
type recorded struct{ o *PrecisionOptions }

func (j *recorded) measure(ctx context.Context, e Engine, path string, held func() error) (out Outcome, err error) {
	report := verify.Run(ctx, e, []string{path}, verify.Options{Platforms: []string{j.o.Platform}, Tolerance: math.MaxFloat64, Records: j.o.Model, Outputs: true}, func(verify.Result) {})
	if err := ctx.Err(); err != nil {
		return out, err
	}
	out = Outcome{Measure: "cosine", Value: math.Inf(1)}
	for _, r := range report.Results {
		if r.Error != "" {
			return out, errors.New(r.Error)
		}
		for _, o := range r.Outputs {
			if o.Cosine != nil {
				out.Value, out.Count = min(out.Value, *o.Cosine), out.Count+1
			} else if o.MaxRel == nil {
				return out, fmt.Errorf("output %s: %s", o.Name, o.Problem)
			}
		}
	}
	if out.Count == 0 {
		return out, &JudgeError{j.o.Model, "no recorded output is of floating point numbers", "give a text or sounds"}
	}
	return out, nil
}

func (j *recorded) served() bool { return false }
func (j *recorded) close() error { return nil }

func (j *recorded) loss(o Outcome) float64 { return 1 - o.Value }

func cosine(a, b []float32) float64 {
	var aa, ab, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		aa, ab, bb = aa+x*x, ab+x*y, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}

// rankCorrelation is Spearman's: the correlation of ranks, equal numbers sharing theirs.
func rankCorrelation(a, b []float64) float64 {
	x, y := ranks(a), ranks(b)
	mean := float64(len(a)+1) / 2
	var xx, xy, yy float64
	for i := range x {
		p, q := x[i]-mean, y[i]-mean
		xx, xy, yy = xx+p*p, xy+p*q, yy+q*q
	}
	return xy / math.Sqrt(xx*yy)
}

// ranks counts from 1.
func ranks(v []float64) []float64 {
	order := make([]int, len(v))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(v[i], v[j]) })
	out := make([]float64, len(v))
	for begin, end := 0, 0; begin < len(order); begin = end {
		for end = begin; end < len(order) && v[order[end]] == v[order[begin]]; end++ {
		}
		for _, i := range order[begin:end] {
			out[i] = float64(begin+1+end) / 2
		}
	}
	return out
}

// middle is the median.
func middle(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
