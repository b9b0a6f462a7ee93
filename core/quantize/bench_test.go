package quantize

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/testfiles"
)

// BenchmarkImport writes the folder of a real file.
func BenchmarkImport(b *testing.B) {
	g, err := checkpoint.OpenGGUF(testfiles.Model(b, "SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"))
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	for b.Loop() {
		dir := filepath.Join(b.TempDir(), "folder")
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := Write(b.Context(), dir, g); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
	}
}
