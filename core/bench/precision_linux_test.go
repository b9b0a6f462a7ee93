package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/quantize"
)

const (
	quantTokens = 10240 // of the text that decoders are judged by
	quantPairs  = 600   // of paragraphs whose likeness is judged
	quantSample = 60    // paragraphs to calibrate with, of another part of the text
)

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

// spoken is a folder of the sentences that `make bench` has had said, each beside its text.
func spoken(b *testing.B) string {
	sentences, _ := speech(b)
	dir := b.TempDir()
	for _, s := range sentences {
		name := filepath.Join(dir, filepath.Base(s.wav))
		if err := errors.Join(os.Symlink(s.wav, name), os.WriteFile(strings.TrimSuffix(name, ".wav")+".txt", []byte(s.text), 0o600)); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// machine is an engine and what it runs on.
type machine struct{ *engine.Engine }

func (m machine) Machine() ([]hosts.BackendStatus, []hosts.DeviceStatus) {
	var devices []hosts.DeviceStatus
	for _, d := range m.Hosts().Devices() {
		devices = append(devices, d.Status())
	}
	return m.Hosts().Backends(), devices
}

// BenchmarkQuantize makes each precision of real models, calibrated, and measures it on
// other parts of the same text: an encoder of sentences by the order in which pairs are
// alike, a decoder by perplexity, what hears by the words that are wrong.
func BenchmarkQuantize(b *testing.B) {
	text := opticks(b)
	write := func(name, text string) string {
		file := filepath.Join(b.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		return file
	}
	sample := write("sample.txt", strings.Join(paragraphs(text, 120_000, quantSample), "\n"))
	for _, m := range []struct {
		name, path, text, sounds, sample string
	}{
		{name: "all-MiniLM-L6-v2", path: minilm(b), text: write("pairs.txt", strings.Join(paragraphs(text, 20_000, 300), "\n")), sample: sample},
		{name: "SmolLM2-135M", path: smolLM2(b), text: write("text.txt", text[:60_000]), sample: sample},
		{name: "whisper-base", path: filepath.Join(repository(), ".cache", "models", "whisper-base"), sounds: spoken(b)},
	} {
		b.Run(m.name, func(b *testing.B) {
			o := PrecisionOptions{Model: m.path, Precisions: []string{"f16", "int8", "int4-mixed", "int4", "int3", "int2"}, Platform: "cpu", Text: m.text, Sounds: m.sounds,
				Tokens: quantTokens, Context: 1024, Pairs: quantPairs, Dir: b.TempDir(), Quantize: quantize.Options{Sample: m.sample},
				Progress: func(what string) { b.Log(what) },
				With: func(_ context.Context, c config.Model, do func(Engine) error) error {
					e, end := openEngine(b, b.TempDir(), func(all *config.Config) {
						if c.Path != "" {
							all.Models = map[string]config.Model{ServedName: c}
						}
					})
					defer end()
					return do(machine{e})
				}}
			var rows []Measured
			if err := Precision(b.Context(), o, func(r Measured) { rows = append(rows, r) }); err != nil {
				b.Fatal(err)
			}
			fmt.Printf("\n%-18s %-11s %6s %8s %9s %9s %9s  %s\n", m.name, "", "bits", "smaller", "MiB", "ms", "loss", rows[0].Measure)
			for _, r := range rows {
				q := r.Quantized
				if q == nil {
					q = &quantize.Report{}
				}
				said := fmt.Sprintf("%.5g", r.Value)
				if r.Error != "" {
					said = r.Error
				}
				loss := 0.0
				if r.Loss != nil {
					loss = *r.Loss
				}
				fmt.Printf("%-18s %-11s %6.2f %6.1f %% %9.0f %9.2f %7.2f %%  %s\n", "", r.Precision, q.Bits, 100*q.Smaller, float64(r.Resident)/(1<<20), 1e3*r.Latency, 100*loss, said)
			}
			data, err := json.MarshalIndent(rows, "", "  ")
			dir := filepath.Join(repository(), "build", "bench")
			if err = errors.Join(err, os.MkdirAll(dir, 0o755)); err == nil {
				err = os.WriteFile(filepath.Join(dir, "precision-"+m.name+".json"), append(data, '\n'), 0o644)
			}
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
