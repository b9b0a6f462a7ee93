package pixels

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestGoldens makes the pictures of each tiny model ready in both variants, and holds
// them against what transformers made of them.
func TestGoldens(t *testing.T) {
	for _, name := range []string{"vit", "clip", "detr", "llava", "llava_next"} {
		t.Run(name, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", name)
			golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer golden.Close()
			pictures := map[string][]Picture{}
			for _, which := range []string{"a", "b"} {
				p, err := File(filepath.Join(dir, which+".png"), Limits{})
				if err != nil {
					t.Fatal(err)
				}
				pictures[which] = []Picture{p}
				pictures["batch"] = append(pictures["batch"], p)
			}
			compared := 0
			for _, v := range []Variant{PIL, Torchvision} {
				p, err := Open(dir, name, As(v))
				if err != nil {
					t.Fatal(err)
				}
				for which, list := range pictures {
					out, err := p.Process(list)
					if err != nil {
						t.Fatal(err)
					}
					for output, got := range out {
						key := "proc." + which + "." + output
						if v == Torchvision {
							key += "_tv"
						}
						if want, err := golden.Tensor(key); err == nil {
							compared++
							compare(t, key, got, want)
						}
					}
				}
			}
			recorded := 0
			for _, key := range golden.Names() {
				if strings.HasPrefix(key, "proc.") && key != "proc.target_sizes" {
					recorded++
				}
			}
			if compared != recorded || recorded == 0 {
				t.Errorf("%d of %d records were compared", compared, recorded)
			}
		})
	}
}

func compare(t *testing.T, name string, got, want tensor.Tensor) {
	t.Helper()
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		t.Errorf("%s: found %s%v, wanted %s%v", name, got.DType, got.Shape, want.DType, want.Shape)
		return
	}
	if got.DType == tensor.Int64 {
		for i, v := range tensor.View[int64](want.Aligned()) {
			if tensor.View[int64](got)[i] != v {
				t.Errorf("%s: element %d is %d, wanted %d", name, i, tensor.View[int64](got)[i], v)
				return
			}
		}
		return
	}
	worst := 0.0
	for i, v := range tensor.View[float32](want.Aligned()) {
		worst = max(worst, math.Abs(float64(tensor.View[float32](got)[i]-v)))
	}
	if worst > 1e-6 {
		t.Errorf("%s: off by %g", name, worst)
	}
}
