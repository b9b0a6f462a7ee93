package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/quantize"
)

const (
	quantTokens  = 2048
	quantContext = 512
)

// perplexityOf scores a decoder on text against a reference.
func perplexityOf(b testing.TB, e *engine.Engine, base string, folders []string) []score {
	text := opticks(b)
	sums := make([]score, len(folders)+1)
	var decoders []*decoder
	for _, dir := range append([]string{base}, folders...) {
		decoders = append(decoders, openDecoder(b, e, dir, models.Options{}, quantContext))
	}
	tok, err := processors.OpenTokenizer(decoders[0].session.Dir)
	if err != nil {
		b.Fatal(err)
	}
	enc, err := tok.Encode(text, processors.EncodeOptions{NoSpecial: true, MaxLength: quantTokens})
	if err != nil {
		b.Fatal(err)
	}
	var reference prediction
	for begin := 0; begin < quantTokens; begin += quantContext {
		ids := enc.IDs[begin : begin+quantContext]
		for i, d := range decoders {
			d.clear()
			logits := d.add(b, ids, true)
			if i == 0 {
				reference.predict(logits, int(d.session.Model.Decoder.VocabSize))
			}
			sums[i].add(&reference, logits, ids[1:])
		}
	}
	return sums
}

// TestQuantizedPerplexity measures precisions named in ACCEL_QUANT, as "4:fit:64 3:nearest:32".
func TestQuantizedPerplexity(t *testing.T) {
	list := strings.Fields(os.Getenv("ACCEL_QUANT"))
	if len(list) == 0 {
		t.Skip("ACCEL_QUANT names nothing to be measured")
	}
	gguf := filepath.Join(repository(), ".cache", "models", "SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf")
	e := newEngine(t, t.TempDir())
	var dirs []string
	for _, what := range list {
		parts := strings.Split(what, ":")
		o := quantize.Options{Precision: parts[0], Method: parts[1]}
		fmt.Sscan(parts[2], &o.Block)
		dir := filepath.Join(t.TempDir(), "q")
		r, err := e.Quantize(t.Context(), gguf, dir, o)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%-20s %.2f bits, %.1f %% smaller, %.1f s\n", what, r.Bits, 100*r.Smaller, r.Seconds)
		dirs = append(dirs, dir)
	}
	base := filepath.Join(t.TempDir(), "f16")
	if _, err := e.Quantize(t.Context(), gguf, base, quantize.Options{Precision: "f16"}); err != nil {
		t.Fatal(err)
	}
	s := perplexityOf(t, e, base, dirs)
	for i, what := range slices.Concat([]string{"f16"}, list) {
		fmt.Printf("%-20s ppl %8.3f %+7.2f %%  KL %.5f\n", what, s[i].perplexity(), 100*(s[i].perplexity()/s[0].perplexity()-1), s[i].kl/float64(s[i].n))
	}
}
