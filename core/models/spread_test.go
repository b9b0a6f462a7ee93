package models

import (
	"fmt"
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// TestSpreading: turning twice changes nothing, and one large channel is spread over its block.
func TestSpreading(t *testing.T) {
	for _, tt := range []struct{ dim, block int64 }{{64, 64}, {128, 128}, {80, 16}, {96, 32}, {3, 1}, {1, 1}} {
		t.Run(fmt.Sprint(tt.dim), func(t *testing.T) {
			n := tt.dim
			h := tensor.View[float32](spreading(n))
			for i := range n {
				for j := range n {
					sum, want := 0.0, 0.0
					for k := range n {
						sum += float64(h[i*n+k]) * float64(h[k*n+j])
					}
					if i == j {
						want = 1
					}
					if math.Abs(sum-want) > 1e-6 {
						t.Fatalf("element %d, %d of the square is %g", i, j, sum)
					}
					size := 0.0
					if i/tt.block == j/tt.block {
						size = 1 / math.Sqrt(float64(tt.block))
					}
					if got := math.Abs(float64(h[i*n+j])); math.Abs(got-size) > 1e-6 {
						t.Fatalf("element %d, %d is %g, wanted %g", i, j, got, size)
					}
				}
			}
		})
	}
}
