package quantize

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkFit fits blocks of normal numbers: nanoseconds a weight, on one core.
func BenchmarkFit(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := make([]float32, 1<<16)
	for i := range w {
		w[i] = float32(rng.NormFloat64()) * 0.02
	}
	codes := make([]uint8, 128)
	for _, f := range []Format{{Bits: 8, Block: 64}, {Bits: 4, Block: 64}, {Bits: 4, Block: 64, Mins: true}, {Bits: 3, Block: 64, Mins: true}, {Bits: 2, Block: 64, Mins: true}} {
		for _, method := range []string{Nearest, Fit} {
			b.Run(fmt.Sprintf("%d,%v/%s", f.Bits, f.Mins, method), func(b *testing.B) {
				ft := newFitter(f)
				var off, whole float64
				for b.Loop() {
					off, whole = 0, 0
					for i := 0; i < len(w); i += 64 {
						var l line
						if method == Nearest {
							l = ft.nearest(w[i:i+64], codes[:64])
						} else {
							l = ft.fit(w[i:i+64], nil, codes[:64])
						}
						off += float64(squares(w[i:i+64], codes[:64], l))
						for _, x := range w[i : i+64] {
							whole += float64(x * x)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(w)), "ns/weight")
				b.ReportMetric(100*off/whole, "%error")
			})
		}
	}
}
