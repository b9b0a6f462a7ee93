package bench

import (
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

// generatorShapes are what generation is measured on: a real model, and random weights
// in the shapes of larger ones.
var generatorShapes = []struct {
	name                                  string
	layers, hidden, heads, kvHeads, inner int // 0: the real one
}{
	{"SmolLM2-135M Q4_1", 0, 0, 0, 0, 0},
	{"0.5B Q4_0", 24, 896, 14, 2, 4864},
	{"1.1B Q4_0", 22, 2048, 32, 4, 5632},
}

// randomGGUF writes a model of random weights, once.
func randomGGUF(b *testing.B, name string, sizes ...int) string {
	b.Helper()
	path := filepath.Join(repository(), "build", "bench", name+".gguf")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	python := os.Getenv(envPython)
	if python == "" {
		b.Skipf("%s does not name a Python with gguf; run `make bench`", envPython)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	args := []string{filepath.Join("testdata", "random_gguf.py"), smolLM2(b), path}
	for _, n := range sizes {
		args = append(args, strconv.Itoa(n))
	}
	if out, err := exec.Command(python, args...).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return path
}

// Sizes of what is measured, in tokens.
const (
	longPrompt, shortPrompt = 512, 64
	decoded                 = 64
	clients                 = 8
	turns                   = 3
)

// BenchmarkGeneration measures generation through the whole engine beside llama.cpp: the
// same file, as many threads, activations of 8 bits and caches of f16 on both sides.
// Rounds of the two take turns; medians are compared. llama.cpp is driven step by step
// by a loop of C++, without a server.
func BenchmarkGeneration(b *testing.B) {
	for _, m := range generatorShapes {
		b.Run(m.name, func(b *testing.B) {
			path := ""
			if m.layers == 0 {
				path = smolLM2(b)
			} else {
				path = randomGGUF(b, m.name, m.layers, m.hidden, m.heads, m.kvHeads, m.inner)
			}
			peer := &peerGenerator{startLlamaCpp(b, path, runtime.NumCPU(), 1024, clients)}
			e := newEngine(b, b.TempDir(), func(c *config.Config) {
				c.KVCache.Key, c.KVCache.Value = "f16", "f16"
				c.Models = map[string]config.Model{"m": {Path: path, Task: "generate", Platform: "cpu", Fallback: "deny", Activations: "int8"}}
			})
			own := &ownGenerator{e}
			r := rand.New(rand.NewPCG(1, 2))
			prompts := func(n, length int) [][]int64 {
				out := make([][]int64, n)
				for i := range out {
					out[i] = text(r, length)
				}
				return out
			}
			type measured struct{ prefill, first, decode, crowd []float64 }
			var ours, theirs measured
			for range b.N {
				ours, theirs = measured{}, measured{}
				for round := range 1 + turns {
					for _, side := range []struct {
						generator
						*measured
					}{{own, &ours}, {peer, &theirs}} {
						long, short := prompts(1, longPrompt), prompts(1, shortPrompt)
						prefill := side.run(b, long, 1)
						first := side.run(b, short, 1)
						all := side.run(b, prompts(1, shortPrompt), 1+decoded)
						crowd := side.run(b, prompts(clients, shortPrompt), decoded)
						if round == 0 {
							continue // caches are cold
						}
						m := side.measured
						m.prefill = append(m.prefill, longPrompt/prefill)
						m.first = append(m.first, 1e3*first)
						m.decode = append(m.decode, decoded/(all-first))
						m.crowd = append(m.crowd, clients*decoded/crowd)
					}
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, f := range []struct {
				name         string
				ours, theirs []float64
			}{
				{"prefill-tok/s", ours.prefill, theirs.prefill}, {"decode-tok/s", ours.decode, theirs.decode},
				{"clients8-tok/s", ours.crowd, theirs.crowd}, {"first-token-ms", ours.first, theirs.first},
			} {
				own, other := median(f.ours), median(f.theirs)
				b.Logf("%-15s %8.1f, llama.cpp %8.1f: %.2f of it", f.name, own, other, own/other)
				b.ReportMetric(own, f.name)
				b.ReportMetric(own/other, f.name+"-of-llamacpp")
			}
			memory := 0.0
			for _, backend := range e.Hosts().Backends() {
				if backend.PID > 0 {
					memory += float64(pss(b, backend.PID))
				}
			}
			other := float64(pss(b, peer.l.pid))
			b.Logf("%-15s %8.1f, llama.cpp %8.1f: %.2f of it", "backend-MiB", memory/(1<<20), other/(1<<20), memory/other)
			b.ReportMetric(memory/(1<<20), "backend-MiB")
			b.ReportMetric(memory/other, "backend-MiB-of-llamacpp")
		})
	}
}

// generator generates so many tokens after each of some prompts, all at once, and tells
// the seconds that it took.
type generator interface {
	run(b *testing.B, prompts [][]int64, tokens int) float64
}

type ownGenerator struct{ e *engine.Engine }

func (d *ownGenerator) run(b *testing.B, prompts [][]int64, tokens int) float64 {
	b.Helper()
	begun := time.Now()
	var all sync.WaitGroup
	for _, p := range prompts {
		all.Go(func() {
			res, err := d.e.Generate(b.Context(), "m", tasks.GenerateRequest{Tokens: p, MaxTokens: tokens,
				Sampling: schedule.Sampling{LogitBias: map[int64]float64{0: math.Inf(-1), 2: math.Inf(-1)}}}, // those that end a text
				func(tasks.GenerateEvent) error { return nil })
			if err != nil {
				b.Error(err)
			} else if res.CompletionTokens != tokens {
				b.Errorf("%d tokens were generated, wanted %d", res.CompletionTokens, tokens)
			}
		})
	}
	all.Wait()
	return time.Since(begun).Seconds()
}

type peerGenerator struct{ l *llamaCpp }

func (d *peerGenerator) run(b *testing.B, prompts [][]int64, tokens int) float64 {
	b.Helper()
	d.l.clear(b)
	begun := time.Now()
	next := make([]int64, len(prompts))
	for i, p := range prompts {
		next[i], _ = d.l.prefill(b, i, p)
	}
	for range tokens - 1 {
		next, _ = d.l.step(b, next...)
	}
	return time.Since(begun).Seconds()
}

// text is random tokens that no other text begins with.
func text(r *rand.Rand, n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = 100 + int64(r.IntN(40000))
	}
	return out
}
