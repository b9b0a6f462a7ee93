package engine_test

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// bf16Llama is the tiny llama with its matrices in bfloat16.
func bf16Llama(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(filepath.Join("..", "..", "testdata", "tiny", "llama"))); err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	tensors := map[string]tensor.Tensor{}
	for _, name := range ck.Names() {
		v, err := ck.Data(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(v.Shape) == 2 {
			half, err := tensor.New(tensor.BFloat16, v.Shape)
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range tensor.View[float32](v.Aligned()) {
				b := math.Float32bits(x)
				tensor.View[uint16](half)[i] = uint16((b + 0x7fff + b>>16&1) >> 16)
			}
			v = half
		}
		tensors[name] = v
	}
	var b bytes.Buffer
	if err := checkpoint.WriteSafetensors(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(to, "model.safetensors")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// probabilities are the logarithms of a row's softmax.
func probabilities(row []float32) []float64 {
	top := float64(slices.Max(row))
	var sum float64
	for _, x := range row {
		sum += math.Exp(float64(x) - top)
	}
	out := make([]float64, len(row))
	for i, x := range row {
		out[i] = float64(x) - top - math.Log(sum)
	}
	return out
}

// TestBF16Activations asks the CPU backend for a prompt's logits with activations of f32 and of bf16: something is rounded, and
// what the model says of the next token hardly changes. And for a text, through the configuration.
func TestBF16Activations(t *testing.T) {
	dir, backends := bf16Llama(t), cpuBackend(t)
	c := config.Default()
	c.Cache.Dir = t.TempDir()
	c.KVCache.Key, c.KVCache.Value, c.KVCache.Memory = "f32", "f32", 256<<10
	c.Models = map[string]config.Model{}
	for _, activations := range []string{"f32", "bf16"} {
		c.Models[activations] = config.Model{Path: dir, Platform: "cpu", Fallback: "deny", Activations: activations}
	}
	e, err := engine.New(c, engine.Options{Beside: backends, Log: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})

	logits := map[string][]float32{}
	said := map[string][]float32{}
	var vocab int
	for _, activations := range []string{"f32", "bf16"} {
		s, err := e.Open(dir, engine.SessionOptions{Component: models.Decode, Models: models.Options{Activations: activations}, Preferred: "cpu", Policy: route.Deny})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		vocab = int(s.Model.VocabSize)
		const tokens, size = 40, 16
		list := func(n int, f func(i int) int64) tensor.Tensor {
			v := make([]int64, n)
			for i := range v {
				v[i] = f(i)
			}
			return tensor.Ints(tensor.Shape{int64(n)}, v...)
		}
		count := func(i int) int64 { return int64(i) }
		in := map[string]tensor.Tensor{
			models.InputIDs:  list(tokens, func(i int) int64 { return int64(i * 37 % vocab) }),
			models.Positions: list(tokens, count), models.Select: list(tokens, count),
			models.Slots:      list(tokens, func(i int) int64 { return size + int64(i) }),
			models.PageTables: tensor.Ints(tensor.Shape{1, 3}, 1, 2, 3),
			models.Lengths:    tensor.Ints(tensor.Shape{1}, tokens), models.Starts: tensor.Ints(tensor.Shape{2}, 0, tokens),
		}
		for _, p := range s.Model.Decoder.Pools {
			v, err := tensor.New(p.DType, append(tensor.Shape{4, size}, p.Row...))
			if err != nil {
				t.Fatal(err)
			}
			in[p.Name] = v
		}
		out, _, err := s.Infer(t.Context(), graph.TensorData(in), []string{models.Logits})
		if err != nil {
			t.Fatal(err)
		}
		logits[activations] = tensor.View[float32](out[models.Logits].Tensor.Aligned())

		r := tasks.GenerateRequest{Tokens: []int64{3, 9, 200, 41, 17, 5}, MaxTokens: 8, Logprobs: true}
		if _, err := e.Generate(t.Context(), activations, r, func(ev tasks.GenerateEvent) error {
			for _, tok := range ev.Tokens {
				said[activations] = append(said[activations], tok.Logprob)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	var kl float64
	for i := 0; i < len(logits["f32"]); i += vocab {
		p, q := probabilities(logits["f32"][i:i+vocab]), probabilities(logits["bf16"][i:i+vocab])
		for j := range p {
			kl += math.Exp(p[j]) * (p[j] - q[j]) * float64(vocab) / float64(len(logits["f32"]))
		}
	}
	t.Logf("KL divergence %.3g nats", kl)
	if !(kl > 0 && kl < 1e-3) {
		t.Errorf("with activations of bf16 the next token's KL divergence is %g nats, wanted within 0 and 1e-3", kl)
	}
	if len(said["bf16"]) == 0 || math.Abs(float64(said["bf16"][0]-said["f32"][0])) > 0.05 {
		t.Errorf("log probabilities of a text are %v, with f32 %v", said["bf16"], said["f32"])
	}
	if slices.Equal(said["bf16"], said["f32"]) {
		t.Errorf("the configuration changes nothing: %v, with f32 %v", said["bf16"], said["f32"])
	}
}
