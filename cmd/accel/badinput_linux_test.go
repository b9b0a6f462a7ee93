package main_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// copyModel is a copy of the tiny BERT that a test may damage.
func copyModel(t *testing.T, damage func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(tinyBERT(t))); err != nil {
		t.Fatal(err)
	}
	if damage != nil {
		damage(dir)
	}
	return dir
}

// edit changes a JSON file.
func edit(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	change(v)
	if data, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBadModels runs `accel run` on models that are wrong in one way each: it ends
// soon, with an exit status that means something and words that name the thing.
func TestBadModels(t *testing.T) {
	set := func(file, key string, value any) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, file), func(m map[string]any) { m[key] = value })
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, string)
		says   []string
	}{
		{"model_type of no class", set("config.json", "model_type", "berd"), []string{"berd", "bert"}},
		{"absurd head count", set("config.json", "num_attention_heads", 7), []string{"num_attention_heads", "config.json"}},
		{"absurd layer count", set("config.json", "num_hidden_layers", 1e9), []string{"num_hidden_layers"}},
		{"more layers than weights", set("config.json", "num_hidden_layers", 5), []string{"encoder.layer.3"}},
		{"another hidden size", set("config.json", "hidden_size", 96), []string{"word_embeddings", "96"}},
		{"truncated weights", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 20000); err != nil {
				t.Fatal(err)
			}
		}, []string{"model.safetensors"}},
		{"a header of 10 GB", func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0, 0, 0, 0, 3, 0, 0, 0}, 0); err != nil {
				t.Fatal(err)
			}
		}, []string{"model.safetensors", "header"}},
		{"no weights", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "model.safetensors")) }, []string{"safetensors"}},
		{"no config", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "config.json")) }, []string{"config.json"}},
		{"config is no JSON", func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600)
		}, []string{"config.json"}},
		{"no tokenizer", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "tokenizer.json")) }, []string{"tokenizer"}},
		{"the tokenizer of another model", func(t *testing.T, dir string) {
			// One more than this model's 700 tokens.
			edit(t, filepath.Join(dir, "tokenizer.json"), func(m map[string]any) {
				m["model"].(map[string]any)["vocab"].(map[string]any)["accelerate"] = 700
			})
		}, []string{"701", "700", "tokenizer"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyModel(t, func(dir string) { tt.damage(t, dir) })
			status, out := runFile(t, map[string]any{"task": "embed", "model": dir, "inputs": map[string]any{"texts": []string{"a cat"}}})
			if status == 0 || status > 4 {
				t.Errorf("exit status %d", status)
			}
			for _, s := range tt.says {
				if !strings.Contains(out, s) {
					t.Errorf("%q is not in: %s", s, out)
				}
			}
		})
	}
}

// runFile is `accel run` on a file of this content: its exit status and all that it
// says, within a bounded time.
func runFile(t *testing.T, content map[string]any, env ...string) (int, string) {
	t.Helper()
	data, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "run.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "run", file, "--no-progress")
	cmd.Env = append(cmd.Env, env...)
	stop := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	if !stop.Stop() {
		t.Fatalf("accel run does not end: %s", out)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func TestBadSurroundings(t *testing.T) {
	embed := map[string]any{"task": "embed", "model": tinyBERT(t), "inputs": map[string]any{"texts": []string{"a cat"}}}
	with := func(key string, value any) map[string]any {
		m := map[string]any{key: value}
		for k, v := range embed {
			m[k] = v
		}
		return m
	}
	t.Run("no backend at all", func(t *testing.T) {
		off := map[string]any{"disabled": true}
		status, out := runFile(t, with("backends", map[string]any{"cpu": off, "reference": off}))
		if status != 3 || !strings.Contains(out, "no platform can serve") {
			t.Errorf("status %d: %s", status, out)
		}
	})
	t.Run("a backend that is not there", func(t *testing.T) {
		status, out := runFile(t, with("backends", map[string]any{"cpu": map[string]any{"path": "/nowhere/accel-backend-cpu"}, "reference": map[string]any{"disabled": true}}))
		if status != 3 && status != 4 || !strings.Contains(out, "/nowhere/accel-backend-cpu") {
			t.Errorf("status %d: %s", status, out)
		}
	})
	t.Run("an instruction set that is not there", func(t *testing.T) {
		status, out := runFile(t, with("backends", map[string]any{"reference": map[string]any{"disabled": true}}), "ACCEL_CPU_ISA=neon")
		if status == 0 || !strings.Contains(out, "neon") {
			t.Errorf("status %d: %s", status, out)
		}
	})
	t.Run("a disk that is full", func(t *testing.T) {
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"); err != nil {
			t.Skip("needs the right to mount a small file system:", err)
		}
		defer syscall.Unmount(dir, 0)
		status, out := runFile(t, embed, "ACCEL_CACHE="+dir)
		if status == 0 || !strings.Contains(out, "no space left") || !strings.Contains(out, "cache.dir") {
			t.Errorf("status %d: %s", status, out)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("%s was left behind", e.Name())
			}
		}
	})
}

func TestBadRequests(t *testing.T) {
	s := serve(t, map[string]any{})
	for _, tt := range []struct {
		name   string
		input  any
		status int
		says   string
	}{
		{"a token id out of range", []int{2, 700, 3}, http.StatusBadRequest, "700"},
		{"a negative token id", []int{-1}, http.StatusBadRequest, "-1"},
		{"too long", strings.Repeat("cat ", 100), http.StatusBadRequest, "64"},
		{"nothing", []string{}, http.StatusBadRequest, "input"},
		{"and the server still answers", "a cat", http.StatusOK, "embedding"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, _, body, err := s.post(tt.input)
			if err != nil {
				t.Fatal(err)
			}
			if status != tt.status || !strings.Contains(body, tt.says) {
				t.Errorf("status %d: %.300s; want %d and %q", status, body, tt.status, tt.says)
			}
		})
	}
}
