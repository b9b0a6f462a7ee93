package reference

import (
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Places as far out as numbers go are outside, and found to be so at once.
func TestGridSampleFarOut(t *testing.T) {
	inf := float32(math.Inf(1))
	x := tensor.Floats(tensor.Shape{1, 1, 2, 2}, 1, 2, 3, 4)
	grid := tensor.Floats(tensor.Shape{1, 1, 4, 2}, inf, inf, -inf, -inf, 1e30, 1e30, -3e38, -3e38)
	for _, mode := range []string{"nearest", "linear", "cubic"} {
		for padding, want := range map[string][]float64{"zeros": {0, 0, 0, 0}, "border": {4, 1, 4, 1}} {
			out, err := evalOp("", "GridSample", values(x, grid), 1, graph.StringAttr("mode", mode), graph.StringAttr("padding_mode", padding))
			if err != nil {
				t.Errorf("%s, %s: %v", mode, padding, err)
				continue
			}
			for i, w := range want {
				if got := floatAt(out[0].Tensor, i); math.Abs(got-w) > 1e-6 {
					t.Errorf("%s, %s: place %d gives %v, want %v", mode, padding, i, got, w)
				}
			}
		}
	}
}
