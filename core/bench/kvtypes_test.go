package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	kvTokens   = 10240 // of the text that types of pages are judged by
	kvChunk    = 512   // tokens a step
	kvWaste    = 0.04  // of pages
	kvContext2 = 2048
	kvContext8 = 8192
)

// kvTypes are the types of pages that are measured; the first is what the others are held against.
var kvTypes = []struct {
	name  string
	types models.KVTypes
	less  float64 // memory than contiguous f16, at least
	bound float64 // change of perplexity beyond which the policy has to refuse them; 0: none
}{
	{"f32", models.KVTypes{Key: tensor.Float32, Value: tensor.Float32}, math.Inf(-1), 0},
	{"f16", models.KVTypes{Key: tensor.Float16, Value: tensor.Float16}, math.Inf(-1), 0},
	{"int8", models.KVTypes{Key: tensor.Int8, KeyBits: 8, Value: tensor.Int8, ValueBits: 8}, 0.46, 0.005},
	{"K8/V4", models.KVTypes{Key: tensor.Int8, KeyBits: 8, Value: tensor.Uint8, ValueBits: 4}, 0.60, 0.01},
	{"K4/f16", models.KVTypes{Key: tensor.Uint8, KeyBits: 4, Value: tensor.Float16}, math.Inf(-1), 0.02},
	{"K4/V4", models.KVTypes{Key: tensor.Uint8, KeyBits: 4, Value: tensor.Uint8, ValueBits: 4}, 0.70, 0.02},
}

// kvResult is what pages of a type cost and change at a context.
type kvResult struct {
	Context    int     `json:"context"`
	Type       string  `json:"type"`
	Bytes      int64   `json:"bytes"`         // of all pages for the context, page 0 included
	Contiguous int64   `json:"f16_bytes"`     // of contiguous f16 for the same context
	Less       float64 `json:"less"`          // 1 - Bytes / Contiguous
	Waste      float64 `json:"waste"`         // places in pages over tokens held, where it is most, page 0 included
	KL         float64 `json:"kl_divergence"` // of the next token's distribution from that with f32 pages: mean, in nats
	Perplexity float64 `json:"perplexity"`
	Change     float64 `json:"perplexity_change"`
	Bound      float64 `json:"bound,omitempty"`
	Refused    bool    `json:"refused"` // by the policy
}

// opticks is a text that comes with Go: Newton's Opticks, fourth edition of 1730.
func opticks(b testing.TB) string {
	b.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "src", "testdata", "Isaac.Newton-Opticks.txt"))
	if err != nil {
		b.Skip("the text is not there; Go's own distribution has it:", err)
	}
	begin := bytes.Index(data, []byte("THE FIRST BOOK OF OPTICKS"))
	if begin < 0 {
		b.Fatal("the text does not begin where it should")
	}
	return string(data[begin:])
}

func printKVResults(results []kvResult) {
	fmt.Printf("\nSmolLM2-135M Q4_1, activations of f32, pages of %d tokens; Newton's Opticks, %d tokens\n", pageSize, kvTokens)
	fmt.Printf("%7s %-6s %10s %12s %8s %10s %11s %9s  %s\n", "context", "pages", "bytes", "than f16", "waste", "KL, nats", "perplexity", "change", "bound")
	for _, r := range results {
		bound := ""
		if r.Bound > 0 {
			bound = fmt.Sprintf("%.1f %%", 100*r.Bound)
		}
		if r.Refused {
			bound += ", refused"
		}
		fmt.Printf("%7d %-6s %10d %10.1f %% %6.2f %% %10.6f %11.3f %+7.2f %%  %s\n", r.Context, r.Type, r.Bytes, -100*r.Less, 100*r.Waste, r.KL, r.Perplexity, 100*r.Change, bound)
	}
}

// BenchmarkKVTypes measures what pages of each type take on a real model, and what
// they do to its predictions of a text.
func BenchmarkKVTypes(b *testing.B) {
	text, gguf := opticks(b), smolLM2(b)
	e := newEngine(b, b.TempDir())
	var results []kvResult
	for _, context := range []int{kvContext2, kvContext8} {
		b.Run(fmt.Sprint(context), func(b *testing.B) {
			decoders := make([]decoder, len(kvTypes))
			for i, k := range kvTypes {
				decoders[i] = openDecoder(b, e, gguf, models.Options{KV: k.types}, context)
			}
			tok, err := processors.OpenTokenizer(decoders[0].session.Dir)
			if err != nil {
				b.Fatal(err)
			}
			enc, err := tok.Encode(text, processors.EncodeOptions{NoSpecial: true, MaxLength: kvTokens})
			if err != nil {
				b.Fatal(err)
			}
			if len(enc.IDs) != kvTokens {
				b.Fatalf("the text has %d tokens, wants %d", len(enc.IDs), kvTokens)
			}
			var reference prediction
			sums := make([]score, len(kvTypes))
			waste := make([]float64, len(kvTypes))
			for begin := 0; begin < kvTokens; begin += context {
				ids := enc.IDs[begin:min(begin+context, kvTokens)]
				for _, d := range decoders {
					d.clear()
				}
				for at, n := 0, 0; at < len(ids); at += n {
					n = min(kvChunk, len(ids)-at)
					if at+n == context {
						// One token in the last page, and then the rest.
						if n -= pageSize - 1; n <= 0 {
							n = pageSize - 1
						}
					}
					targets := ids[at+1 : min(at+n+1, len(ids))]
					for i, d := range decoders {
						logits := d.add(b, ids[at:at+n], true)
						if i == 0 {
							reference.predict(logits, int(d.session.Model.Decoder.VocabSize))
						}
						sums[i].add(&reference, logits, targets)
						if held := d.text.Len(); held == context-pageSize+1 {
							waste[i] = float64((1+d.cache.Stats().Used)*pageSize)/float64(held) - 1
						}
					}
				}
			}
			for i, d := range decoders {
				k, m, g := kvTypes[i], d.session.Model.Decoder, d.cache.Geometry()
				r := kvResult{Context: context, Type: k.name, Bytes: int64(g.Pages) * g.PageBytes, Bound: k.bound, Waste: waste[i],
					Contiguous: int64(context) * m.Layers * m.KVHeads * (m.HeadDim + m.ValueHeadDim) * 2,
					KL:         sums[i].kl / float64(sums[i].n), Perplexity: sums[i].perplexity(), Change: sums[i].perplexity()/sums[0].perplexity() - 1}
				r.Less = 1 - float64(r.Bytes)/float64(r.Contiguous)
				if !(r.Waste > 0 && r.Waste < kvWaste) {
					b.Errorf("%s: %.2f %% of the pages are wasted", k.name, 100*r.Waste)
				}
				if !(r.Less >= k.less) {
					b.Errorf("%s: %.1f %% less than contiguous f16, %.0f %% are wanted", k.name, 100*r.Less, 100*k.less)
				}
				refused := quantize.CheckPages(d.session.Class, m)
				r.Refused = refused != nil
				if k.bound > 0 && !(math.Abs(r.Change) <= k.bound) && !r.Refused {
					b.Errorf("%s: perplexity changes by %+.2f %%, accepted are %.1f %%, and configs/policy/kv_cache.yaml does not refuse it", k.name, 100*r.Change, 100*k.bound)
				}
				results = append(results, r)
			}
			printKVResults(results[len(results)-len(kvTypes):])
		})
	}
	if len(results) == 0 {
		return
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(repository(), "build", "bench", "kv-types.json")
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("written to %s\n\n", file)
}
