package tasks

import (
	"math/rand/v2"
	"testing"
)

func BenchmarkWhisperRule(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	row := make([]float32, 51865)
	for i := range row {
		row[i] = float32(rng.NormFloat64()*3 + 2)
	}
	row[1000] = 22
	tokens := WhisperTokens{Start: 50258, End: 50257, NoTimes: 50363, Times: 50364}
	for i := range int64(90) {
		tokens.Suppress = append(tokens.Suppress, i*500)
	}
	logits := make([]float32, len(row))
	r := newWhisperRule(&tokens, 50)
	r.drawn = append(r.drawn, 50364, 1000)
	for b.Loop() {
		copy(logits, row)
		r.Adjust(logits)
	}
}
