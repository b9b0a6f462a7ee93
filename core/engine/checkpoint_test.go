package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestOpenGGUF opens a real GGUF file, and then the folder with it: it is imported
// once.
func TestOpenGGUF(t *testing.T) {
	dir := testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1")
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{store: store, log: hclog.NewNullLogger()}
	var folder string
	for _, path := range []string{filepath.Join(dir, "SmolLM2-135M-Instruct.Q4_1.gguf"), dir} {
		ck, closeCheckpoint, err := e.openCheckpoint(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if ck.Kind != checkpoint.HuggingFace || ck.ModelType != "llama" || len(ck.QuantizedNames()) != 211 || folder != "" && ck.Dir != folder {
			t.Errorf("found %s %s in %s with %d quantised weights", ck.Kind, ck.ModelType, ck.Dir, len(ck.QuantizedNames()))
		}
		if bits := ck.BitsPerWeight(); bits < 5.7 || bits > 5.8 {
			t.Errorf("found %.2f bits a weight", bits)
		}
		folder = ck.Dir
		if err := closeCheckpoint(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenGGUFRefuses(t *testing.T) {
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{store: store, log: hclog.NewNullLogger()}
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, []byte("GGUF\x03\x00\x00\x00"+strings.Repeat("\x00", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = e.openCheckpoint(t.Context(), path)
	var wrong *checkpoint.Error
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "general.architecture: it is missing") || strings.Contains(err.Error(), "cache") {
		t.Errorf("found %v", err)
	}
}
