package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/tasks"
)

const (
	quantTokens  = 2048 // of the text that decoders are judged by
	quantContext = 512
	quantTexts   = 120 // sentences whose likeness is judged
	quantSample  = 60  // paragraphs to calibrate with, of another part of the text
)

// quantResult is what a precision makes of a model.
type quantResult struct {
	Model     string        `json:"model"`
	Precision string        `json:"precision"`
	Bits      float64       `json:"bits_per_weight"`
	Size      quantize.Size `json:"size"`
	Smaller   float64       `json:"smaller"`
	Gate      quantize.Loss `json:"gate"`
	Loss      float64       `json:"loss"` // of the task, as a part
	What      string        `json:"what"` // the task's score
	Refused   string        `json:"refused,omitempty"`
	Seconds   float64       `json:"seconds"`
}

// paragraphs are those of the text from a byte on, each on one line.
func paragraphs(text string, from, n int) []string {
	space := regexp.MustCompile(`\s+`)
	var out []string
	for p := range strings.SplitSeq(text[from:], "\n\n") {
		if p = strings.TrimSpace(space.ReplaceAllString(p, " ")); len(p) > 60 && len(out) < n {
			out = append(out, p)
		}
	}
	return out
}

// BenchmarkQuantize makes each precision of real models, calibrated, and judges it by the
// model's task on other parts of the same text: by Spearman's correlation of all pairs'
// likeness for an encoder of sentences, by perplexity for a decoder.
func BenchmarkQuantize(b *testing.B) {
	text := opticks(b)
	sample := filepath.Join(b.TempDir(), "sample.txt")
	if err := os.WriteFile(sample, []byte(strings.Join(paragraphs(text, 120_000, quantSample), "\n")), 0o600); err != nil {
		b.Fatal(err)
	}
	sentences := paragraphs(text, 20_000, quantTexts)
	var results []quantResult
	for _, m := range []struct {
		name, path string
		judge      func(b *testing.B, dir string) (loss float64, what string)
	}{
		{"all-MiniLM-L6-v2", minilm(b), func(b *testing.B, dir string) (float64, string) {
			rho := spearman(likeness(b, minilm(b), sentences), likeness(b, dir, sentences))
			return 1 - rho, fmt.Sprintf("Spearman %.5f", rho)
		}},
		{"SmolLM2-135M", smolLM2(b), func(b *testing.B, dir string) (float64, string) {
			p := perplexities(b, text[:60_000], smolLM2(b), dir)
			return p[1]/p[0] - 1, fmt.Sprintf("perplexity %.3f of %.3f", p[1], p[0])
		}},
	} {
		for _, precision := range []string{"int8", "int4-mixed", "int4", "int3", "int2"} {
			b.Run(m.name+"/"+precision, func(b *testing.B) {
				dir := filepath.Join(b.TempDir(), "model")
				r, err := newEngine(b, b.TempDir()).Quantize(b.Context(), m.path, dir, quantize.Options{Precision: precision, Sample: sample})
				q := quantResult{Model: m.name, Precision: precision, Bits: r.Bits, Size: r.Size, Smaller: r.Smaller, Seconds: r.Seconds}
				if r.Loss != nil {
					q.Gate = *r.Loss
				}
				var past *quantize.LossError
				switch accepted, _ := quantize.AcceptedOf(precision); {
				case errors.As(err, &past):
					q.Refused = past.Error()
				case err != nil:
					b.Fatal(err)
				default:
					q.Loss, q.What = m.judge(b, dir)
					if q.Loss > accepted.Loss {
						b.Errorf("%s loses %.2f %% and was not refused, accepted are %.2f %% (%s)", precision, 100*q.Loss, 100*accepted.Loss, q.What)
					}
					if q.Smaller < accepted.Smaller {
						b.Errorf("%s is %.1f %% smaller than 16 bits, wanted %.0f %%", precision, 100*q.Smaller, 100*accepted.Smaller)
					}
				}
				results = append(results, q)
			})
		}
	}
	fmt.Printf("\n%-18s %-11s %6s %8s %9s %9s  %s\n", "model", "precision", "bits", "smaller", "gate", "loss", "score")
	for _, q := range results {
		if q.Refused != "" {
			q.What = "refused"
		}
		fmt.Printf("%-18s %-11s %6.2f %6.1f %% %7.2f %% %7.2f %%  %s\n", q.Model, q.Precision, q.Bits, 100*q.Smaller, 100*q.Gate.Loss, 100*q.Loss, q.What)
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Join(repository(), "build", "bench"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(repository(), "build", "bench", "quantize.json"), append(data, '\n'), 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// likeness is the cosine of every pair of texts.
func likeness(b *testing.B, dir string, texts []string) []float64 {
	b.Helper()
	e := newEngine(b, b.TempDir(), func(c *config.Config) { c.Models = map[string]config.Model{"m": {Path: dir}} })
	r, err := e.Embed(b.Context(), "m", tasks.EmbedRequest{Texts: texts, Truncate: true})
	if err != nil {
		b.Fatal(err)
	}
	var out []float64
	for i, x := range r.Vectors {
		for _, y := range r.Vectors[:i] {
			var sum float64
			for k := range x {
				sum += float64(x[k]) * float64(y[k])
			}
			out = append(out, sum)
		}
	}
	return out
}

// spearman is the correlation of ranks.
func spearman(x, y []float64) float64 {
	ranks := func(v []float64) []float64 {
		order := make([]int, len(v))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int {
			if v[a] < v[b] {
				return -1
			}
			return 1
		})
		out := make([]float64, len(v))
		for rank, i := range order {
			out[i] = float64(rank)
		}
		return out
	}
	a, c := ranks(x), ranks(y)
	n := float64(len(a))
	var sum float64
	for i := range a {
		sum += math.Pow(a[i]-c[i], 2)
	}
	return 1 - 6*sum/(n*(n*n-1))
}

// perplexities are those of a text by several models of one tokenizer.
func perplexities(b *testing.B, text string, paths ...string) []float64 {
	b.Helper()
	e := newEngine(b, b.TempDir())
	var out []float64
	for _, path := range paths {
		out = append(out, perplexity(b, e, text, path))
	}
	return out
}

func perplexity(b *testing.B, e *engine.Engine, text, path string) float64 {
	b.Helper()
	d := openDecoder(b, e, path, models.Options{}, quantContext)
	tok, err := processors.OpenTokenizer(d.session.Dir)
	if err != nil {
		b.Fatal(err)
	}
	enc, err := tok.Encode(text, processors.EncodeOptions{NoSpecial: true, MaxLength: quantTokens})
	if err != nil {
		b.Fatal(err)
	}
	var loss float64
	n, width := 0, int(d.session.Model.Decoder.VocabSize)
	for begin := 0; begin+quantContext <= len(enc.IDs); begin += quantContext {
		ids := enc.IDs[begin : begin+quantContext]
		d.clear()
		logits := d.add(b, ids, true)
		for i, next := range ids[1:] {
			row := logits[i*width : (i+1)*width]
			loss += logSum(row) - float64(row[next])
			n++
		}
	}
	return math.Exp(loss / float64(n))
}
