package bench

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/quantize"
)

func TestRankCorrelation(t *testing.T) {
	for name, tt := range map[string]struct {
		a, b []float64
		want float64
	}{
		"the same order":    {[]float64{1, 2, 30}, []float64{-5, 0, 0.1}, 1},
		"the opposite":      {[]float64{1, 2, 3}, []float64{3, 2, 1}, -1},
		"one pair of four":  {[]float64{1, 2, 3, 4}, []float64{1, 2, 4, 3}, 0.8},
		"ties share a rank": {[]float64{1, 2, 2, 3}, []float64{1, 2, 3, 4}, 3 / math.Sqrt(10)},
	} {
		if got := rankCorrelation(tt.a, tt.b); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestPairsOfLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lines.txt")
	if err := os.WriteFile(file, []byte("a\n\n b\nc \nd"), 0o644); err != nil {
		t.Fatal(err)
	}
	for pairs, want := range map[int]int{2: 3, 3: 3, 4: 5, 6: 6} { // 3 at a distance of 1, 2 of 2, 1 of 3
		j, err := newComparing(&PrecisionOptions{Text: file, Pairs: pairs})
		if err != nil {
			t.Fatalf("%d pairs: %v", pairs, err)
		}
		if got := strings.Join(j.lines, ","); got != "a,b,c,d" || len(j.pairs) != want {
			t.Errorf("%d pairs: lines %s, %d pairs, want %d", pairs, got, len(j.pairs), want)
		}
	}
	var sample *JudgeError
	if _, err := newComparing(&PrecisionOptions{Text: file, Pairs: 7}); !errors.As(err, &sample) || !strings.Contains(err.Error(), "make 6 pairs") {
		t.Errorf("7 pairs of 4 lines: %v, want a *JudgeError that says 6", err)
	}
}

func TestWithin(t *testing.T) {
	loss := func(v float64) *float64 { return &v }
	a := &quantize.Accepted{Smaller: 0.7, Loss: 0.03}
	for name, tt := range map[string]struct {
		m    Measured
		want bool
	}{
		"within":         {Measured{Accepted: a, Loss: loss(0.03), Quantized: &quantize.Report{Smaller: 0.7}}, true},
		"worse":          {Measured{Accepted: a, Loss: loss(0.031), Quantized: &quantize.Report{Smaller: 0.7}}, false},
		"larger":         {Measured{Accepted: a, Loss: loss(0), Quantized: &quantize.Report{Smaller: 0.69}}, false},
		"not a number":   {Measured{Accepted: a, Loss: loss(math.NaN()), Quantized: &quantize.Report{Smaller: 0.7}}, false},
		"nothing asked":  {Measured{Loss: loss(1)}, true},
		"never measured": {Measured{Accepted: a, Error: "no room"}, false},
	} {
		if got := tt.m.Within(); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
