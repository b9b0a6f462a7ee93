package bench

import (
	"testing"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
)

// decoder is a reader on the CPU backend, whose errors end the benchmark.
type decoder struct{ *reader }

// openDecoder places a model with pages for so many tokens.
func openDecoder(b testing.TB, e *engine.Engine, path string, o models.Options, tokens int) decoder {
	b.Helper()
	r, err := openReader(b.Context(), e, path, "cpu", o, tokens)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.close(); err != nil {
			b.Error(err)
		}
	})
	return decoder{r}
}

func (d decoder) add(b testing.TB, ids []int64, all bool) []float32 {
	b.Helper()
	logits, err := d.reader.add(b.Context(), ids, all)
	if err != nil {
		b.Fatal(err)
	}
	return logits
}
