package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
	"github.com/sbinet/npyio/npz"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

func tiny(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(filepath.Dir(tinyBERT(t)), name)
}

// TestVerifySmolLM2 generates with the real weights of a GGUF file, as they are in the file, what
// transformers generated with them widened to float32.
func TestVerifySmolLM2(t *testing.T) {
	const name = "SmolLM2-135M-Instruct.Q4_1.gguf"
	file, golden := testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1", name), testfiles.Shared(t, "real", "golden_smollm2_q4_1.npz")
	var prompt, tokens []int64
	var logits []float32
	recorded, err := npz.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer recorded.Close()
	for name, into := range map[string]any{"input_ids.npy": &prompt, "generated.npy": &tokens, "last_logits.npy": &logits} {
		if err := recorded.Read(name, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if len(prompt) != 5 || len(tokens) != 16 {
		t.Fatalf("%d tokens of prompt and %d of text are recorded", len(prompt), len(tokens))
	}
	dir := t.TempDir()
	if err := os.Symlink(file, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	err = checkpoint.WriteSafetensors(f, map[string]tensor.Tensor{
		"in.gen.input_ids":    tensor.Ints(tensor.Shape{1, int64(len(prompt))}, prompt...),
		"out.gen.token_ids":   tensor.Ints(tensor.Shape{1, int64(len(tokens))}, tokens...),
		"out.gen.step_logits": tensor.Floats(tensor.Shape{1, int64(len(logits))}, logits...),
	}, nil)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	var report verify.Report
	answer(t, &report, "verify", "--json", "--platform", "cpu", dir)
	if len(report.Results) != 1 {
		t.Fatalf("there are %d results", len(report.Results))
	}
	r := report.Results[0]
	worst := 0.0
	for _, o := range r.Outputs {
		if o.MaxRel != nil {
			worst = max(worst, *o.MaxRel)
		}
	}
	t.Logf("in %d ways, logits are off by at most %.2g of the largest", len(r.Outputs), worst)
	if !r.OK || r.Kind != backend.Hardware || len(r.Outputs) < 13 {
		t.Errorf("%+v", r)
	}
}

// TestPagesAreRefused: a model is not served with pages that were measured to spoil it.
func TestPagesAreRefused(t *testing.T) {
	model := testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf")
	for _, tt := range []struct{ key, value, refused string }{
		{"int4", "int4", "pages of int4 keys and int4 values are refused for models of the shape of SmolLM2-135M: with keys of int4 and values of int4 its perplexity changes by"},
		{"int8", "int4", ""},
	} {
		cmd := command(t, "chat", model, "What is the capital of France?", "--temperature", "0", "--platform", "cpu")
		cmd.Env = append(cmd.Env, "ACCEL_KV_CACHE_KEY="+tt.key, "ACCEL_KV_CACHE_VALUE="+tt.value)
		out, err := cmd.CombinedOutput()
		switch {
		case tt.refused == "" && (err != nil || !strings.Contains(string(out), "Paris")):
			t.Errorf("%s and %s: %v\n%s", tt.key, tt.value, err, out)
		case tt.refused != "" && (err == nil || !strings.Contains(string(out), tt.refused)):
			t.Errorf("%s and %s: %v\n%s", tt.key, tt.value, err, out)
		}
	}
}

// TestVerifyFindsWrongTokens: one token, or one logit, that is not the recorded one.
func TestVerifyFindsWrongTokens(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(map[string]tensor.Tensor)
	}{
		{"a token", func(g map[string]tensor.Tensor) { tensor.View[int64](g["out.gen.token_ids"])[9]++ }},
		{"a logit of a step", func(g map[string]tensor.Tensor) { tensor.View[float32](g["out.gen.step_logits"])[700] += 1 }},
		{"a logit of a text", func(g map[string]tensor.Tensor) { tensor.View[float32](g["out.rightpad.logits"])[5] += 1 }},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(tiny(t, "llama"))); err != nil {
			t.Fatal(err)
		}
		st, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]tensor.Tensor{}
		for _, name := range st.Names() {
			v, err := st.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := tensor.New(v.DType, v.Shape)
			if err != nil {
				t.Fatal(err)
			}
			copy(c.Data, v.Data)
			all[name] = c
		}
		st.Close()
		tt.spoil(all)
		os.Remove(filepath.Join(dir, "golden.safetensors"))
		f, err := os.Create(filepath.Join(dir, "golden.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if err := checkpoint.WriteSafetensors(f, all, nil); err != nil {
			t.Fatal(err)
		}
		f.Close()
		status, out, errs := accel(t, dir, "verify", ".", "--platform", "simulation")
		if status != 1 || !strings.Contains(out, "1 failed") {
			t.Errorf("%s: status %d, %s%s", tt.name, status, out, errs)
		}
	}
}

// TestGenerationOutlivesItsBackend streams to many clients while the backend is killed
// twice: every text is the one that an undisturbed server gives.
func TestGenerationOutlivesItsBackend(t *testing.T) {
	s := serve(t, map[string]any{"models": map[string]any{"llama": map[string]any{"path": tiny(t, "llama")}}})
	client := openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	ask := func(i int) (string, error) {
		text := ""
		stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
			Model: "llama", Temperature: openai.Float(0), MaxTokens: openai.Int(64),
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(strings.Repeat("so ", 1+i%5) + "hello")},
		})
		for stream.Next() {
			for _, c := range stream.Current().Choices {
				text += c.Delta.Content
			}
		}
		return text, stream.Err()
	}
	var want [5]string
	for i := range want {
		var err error
		if want[i], err = ask(i); err != nil || want[i] == "" {
			t.Fatalf("%q, %v", want[i], err)
		}
	}
	var clients sync.WaitGroup
	stop := make(chan struct{})
	answered := make([]int, 12)
	for i := range answered {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := ask(i)
				if err != nil || got != want[i%5] {
					t.Errorf("client %d: got %q, %v, want %q", i, got, err, want[i%5])
					return
				}
				answered[i]++
			}
		})
	}
	for range 2 {
		time.Sleep(700 * time.Millisecond)
		s.killBackend(t)
	}
	time.Sleep(time.Second)
	close(stop)
	clients.Wait()
	for i, n := range answered {
		if n == 0 {
			t.Errorf("client %d had no answer", i)
		}
	}
	if n := s.metric(t, "accel_replays_total"); n == 0 {
		t.Error("no request is said to have outlived its backend")
	}
	eventually(t, 5*time.Second, "all pages are given back", func() bool {
		return s.metric(t, "accel_kv_pages_used") == 0 && s.metric(t, "accel_kv_pages") > 0
	})
}

// TestGenerationFollowsSchemas holds a model that was never taught anything to a schema.
func TestGenerationFollowsSchemas(t *testing.T) {
	s := serve(t, map[string]any{"models": map[string]any{"llama": map[string]any{"path": tiny(t, "llama")}}})
	for i := range 6 {
		var reply struct {
			Choices []struct {
				Message struct{ Content string }
				Finish  string `json:"finish_reason"`
			}
		}
		s.postJSON(t, "/v1/chat/completions", map[string]any{"model": "llama", "seed": i, "temperature": 1, "max_tokens": 60,
			"messages": []any{map[string]any{"role": "user", "content": "hello"}},
			"response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"schema": json.RawMessage(
				`{"type":"object","properties":{"n":{"type":"integer","minimum":0,"maximum":99},"color":{"enum":["red","blue"]}},"required":["n","color"],"additionalProperties":false}`)}}}, &reply)
		c := reply.Choices[0]
		var v struct {
			N     *int
			Color string
		}
		if err := json.Unmarshal([]byte(c.Message.Content), &v); err != nil || c.Finish != "stop" || v.N == nil || *v.N < 0 || *v.N > 99 || v.Color != "red" && v.Color != "blue" {
			t.Errorf("seed %d: %+v, %v", i, c, err)
		}
	}
}

// postJSON posts an object and reads the answer, which must be right.
func (s *serving) postJSON(t *testing.T, path string, body, into any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.url+path, "application/json", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", path, resp.StatusCode, answer, err)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
}
