package main_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/bench"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestBenchPrecision measures tiny models by what is recorded of them, by a text and by its lines.
func TestBenchPrecision(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("the cat sat\non a mat\nand looked at the dog\n", 20)), 0o644); err != nil {
		t.Fatal(err)
	}
	shared := func(name string) string { return filepath.Join(testfiles.Shared(t, "tiny"), name) }
	for _, tt := range []struct {
		model, measure string
		args           []string
		speed          bool
		most           map[string]float64 // loss by precision
	}{
		{"bert", "cosine", nil, false, map[string]float64{"": 1e-9, "f16": 1e-5, "int8": 0.005, "int4": 0.2}},
		{"t5", "cosine", nil, false, map[string]float64{"": 1e-9, "f16": 1e-5, "int8": 0.005, "int4": 0.2}},
		{"bert", "rank correlation", []string{"--text", text, "--pairs", "100"}, true, map[string]float64{"": 0, "f16": 0.01, "int8": 0.05, "int4": 1}},
		{"llama", "perplexity", []string{"--text", text, "--tokens", "200", "--context", "90"}, true, map[string]float64{"": 0, "f16": 0.001, "int8": 0.01, "int4": 0.2}},
	} {
		t.Run(tt.model+" by "+tt.measure, func(t *testing.T) {
			t.Parallel()
			cmd := command(t, append([]string{"bench", "precision", "--json", "--bits", "16,8,4", "--model", shared(tt.model)}, tt.args...)...)
			cmd.Env = append(cmd.Env, "ACCEL_CACHE="+t.TempDir())
			out, err := cmd.Output()
			if err != nil {
				var exit *exec.ExitError
				errors.As(err, &exit)
				t.Fatalf("%v\n%s", err, exit.Stderr)
			}
			var got struct{ Rows []bench.Measured }
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Rows) != len(tt.most) {
				t.Fatalf("%d rows, want %d\n%s", len(got.Rows), len(tt.most), out)
			}
			for _, m := range got.Rows {
				most, ok := tt.most[m.Precision]
				if !ok || m.Error != "" || m.Measure != tt.measure || m.Kind != backend.Hardware || m.Device != "cpu:0" || m.Count == 0 {
					t.Errorf("%+v", m)
					continue
				}
				if m.Loss == nil || !(*m.Loss <= most) {
					t.Errorf("%q: the loss is %v, at most %v is wanted", m.Precision, m.Loss, most)
				}
				if tt.speed && (m.Resident < 1<<20 || m.Latency <= 0 || m.Throughput <= 0) {
					t.Errorf("%q: %d bytes resident, %v s, %v %s", m.Precision, m.Resident, m.Latency, m.Throughput, m.Unit)
				}
				if (m.Quantized == nil) != (m.Precision == "") {
					t.Errorf("%q: quantised: %v", m.Precision, m.Quantized)
				}
			}
		})
	}
	for name, tt := range map[string]struct {
		args []string
		says string
	}{
		"nothing to measure by": {[]string{"--model", dir}, "config.json"},
		"no model":              {nil, "--model is not given"},
		"no precision":          {[]string{"--model", shared("bert"), "--bits", "9"}, "wanted one of"},
		"no sounds":             {[]string{"--model", shared("whisper"), "--sounds", dir}, "no NAME.wav with a NAME.txt"},
		"no text for it":        {[]string{"--model", shared("detr"), "--text", text}, "none of what is measured with a text"},
		"no device":             {[]string{"--model", shared("bert"), "--platform", "webgpu"}, "webgpu"},
	} {
		cmd := command(t, append([]string{"bench", "precision"}, tt.args...)...)
		cmd.Env = append(cmd.Env, "ACCEL_CACHE="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), tt.says) {
			t.Errorf("%s: %v, wants to say %q\n%s", name, err, tt.says, out)
		}
	}
}
