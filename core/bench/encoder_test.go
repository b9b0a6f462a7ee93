package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	envBin = "ACCEL_BIN" // folder with backends/
	rounds = 9
)

// newEngine starts an engine with the CPU backend alone, its cache in dir.
func newEngine(b testing.TB, dir string, set ...func(*config.Config)) *engine.Engine {
	b.Helper()
	e, end := openEngine(b, dir, set...)
	b.Cleanup(end)
	return e
}

// openEngine is newEngine for engines that end before b does.
func openEngine(b testing.TB, dir string, set ...func(*config.Config)) (e *engine.Engine, end func()) {
	b.Helper()
	bin := os.Getenv(envBin)
	if bin == "" {
		b.Skipf("%s does not say where the backends are; run `make bench`", envBin)
	}
	c := config.Default()
	c.Cache.Dir = dir
	c.Backends = map[string]config.Backend{"reference": {Disabled: true}, "openvino": {Disabled: true}}
	for _, f := range set {
		f(&c)
	}
	e, err := engine.New(c, engine.Options{Beside: filepath.Join(bin, "backends"), Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr})})
	if err != nil {
		b.Fatal(err)
	}
	if err := e.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	return e, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			b.Error(err)
		}
	}
}

// repository is the folder of go.mod.
func repository() string { return filepath.Join("..", "..") }

func minilm(b *testing.B) string {
	dir := filepath.Join(repository(), ".cache", "models", "all-MiniLM-L6-v2")
	if _, err := os.Stat(filepath.Join(dir, "model.safetensors")); err != nil {
		b.Skip("the model is not there; `make demo` fetches it:", err)
	}
	return dir
}

// bertBase writes a model of BERT-base's shape with random weights, once.
func bertBase(b *testing.B) string {
	b.Helper()
	dir := filepath.Join(repository(), "build", "bench", "bert-base")
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	const hidden, inter, layers, vocab, positions = 768, 3072, 12, 30522, 512
	rng := rand.New(rand.NewPCG(1, 2))
	tensors := map[string]tensor.Tensor{}
	add := func(name string, scale float32, shape ...int64) {
		t, err := tensor.New(tensor.Float32, shape)
		if err != nil {
			b.Fatal(err)
		}
		v := tensor.View[float32](t)
		for i := range v {
			v[i] = scale * float32(rng.NormFloat64())
		}
		tensors[name] = t
	}
	linear := func(name string, out, in int64) {
		add(name+".weight", 0.02, out, in)
		add(name+".bias", 0.02, out)
	}
	norm := func(name string) {
		add(name+".weight", 0.02, hidden)
		for i, v := range tensor.View[float32](tensors[name+".weight"]) {
			tensor.View[float32](tensors[name+".weight"])[i] = 1 + v
		}
		add(name+".bias", 0.02, hidden)
	}
	add("embeddings.word_embeddings.weight", 0.02, vocab, hidden)
	add("embeddings.position_embeddings.weight", 0.02, positions, hidden)
	add("embeddings.token_type_embeddings.weight", 0.02, 2, hidden)
	norm("embeddings.LayerNorm")
	for i := range layers {
		p := "encoder.layer." + strconv.Itoa(i) + "."
		for _, n := range []string{"query", "key", "value"} {
			linear(p+"attention.self."+n, hidden, hidden)
		}
		linear(p+"attention.output.dense", hidden, hidden)
		norm(p + "attention.output.LayerNorm")
		linear(p+"intermediate.dense", inter, hidden)
		linear(p+"output.dense", hidden, inter)
		norm(p + "output.LayerNorm")
	}
	linear("pooler.dense", hidden, hidden)
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		b.Fatal(err)
	}
	if err := checkpoint.WriteSafetensors(f, tensors, map[string]string{"format": "pt"}); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	conf, err := json.Marshal(map[string]any{"model_type": "bert", "architectures": []string{"BertModel"}, "hidden_size": hidden,
		"intermediate_size": inter, "num_hidden_layers": layers, "num_attention_heads": 12, "vocab_size": vocab,
		"max_position_embeddings": positions, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0})
	if err != nil {
		b.Fatal(err)
	}
	// Written last: it says that the rest is whole.
	if err := os.WriteFile(filepath.Join(dir, "config.json"), conf, 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func tokens(rng *rand.Rand, vocab int64, batch, length int) map[string]graph.Datum {
	ids := make([]int64, batch*length)
	for i := range ids {
		ids[i] = rng.Int64N(vocab)
	}
	return map[string]graph.Datum{"input_ids": graph.TensorDatum(tensor.Ints(tensor.Shape{int64(batch), int64(length)}, ids...))}
}

// BenchmarkEncoder measures the whole engine, process boundary included, beside
// ONNX Runtime in its own process: same weights, same threads, float32.
func BenchmarkEncoder(b *testing.B) {
	threads := runtime.NumCPU()
	for _, m := range []struct {
		name string
		dir  func(*testing.B) string
	}{{"MiniLM-L6", minilm}, {"BERT-base", bertBase}} {
		b.Run(m.name, func(b *testing.B) {
			dir := m.dir(b)
			e := newEngine(b, b.TempDir())
			s, err := e.Open(dir, engine.SessionOptions{Component: models.Full, Preferred: "cpu", Policy: route.Deny})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { s.Close() })
			p := startPython(b, "onnxruntime_peer.py", dir, strconv.Itoa(threads))
			for _, shape := range [][2]int{{1, 128}, {8, 128}} {
				b.Run(fmt.Sprintf("%dx%d", shape[0], shape[1]), func(b *testing.B) {
					inputs := tokens(rand.New(rand.NewPCG(3, 4)), s.Model.VocabSize, shape[0], shape[1])
					feeds, err := s.Feeds(inputs)
					if err != nil {
						b.Fatal(err)
					}
					once := func() float64 {
						begin := time.Now()
						var d route.Decision
						if _, err := s.Run(b.Context(), &d, feeds, []string{"last_hidden_state"}); err != nil {
							b.Fatal(err)
						}
						return time.Since(begin).Seconds()
					}
					runs := max(2, 16/shape[0])
					for range 3 {
						once()
					}
					p.ask(b, shape[0], shape[1], 3)
					var ours, theirs, ratios []float64
					for range rounds {
						var mine []float64
						for range runs {
							mine = append(mine, once())
						}
						other := p.ask(b, shape[0], shape[1], runs)
						ours = append(ours, mine...)
						theirs = append(theirs, other...)
						ratios = append(ratios, median(other)/median(mine))
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(median(ours)*1e3, "accel-ms")
					b.ReportMetric(median(theirs)*1e3, "ort-ms")
					b.ReportMetric(median(ratios), "x-of-ort")
					b.Logf("%s %dx%d: accel %.1f ms, %s %.1f ms, throughput ratio %.2f (by round %.2f to %.2f)", m.name, shape[0], shape[1],
						median(ours)*1e3, p.name, median(theirs)*1e3, median(ratios), slices.Min(ratios), slices.Max(ratios))
				})
			}
		})
	}
}
