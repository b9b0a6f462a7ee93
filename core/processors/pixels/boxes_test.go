package pixels

import (
	"math"
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

func TestDetections(t *testing.T) {
	logits := tensor.Floats(tensor.Shape{2, 2, 3}, 2, 1, 0 /* class 0 */, 0, 1, 3 /* nothing, else class 1 */, 5, 5, 5 /* a tie */, -1, 4, 0)
	boxes := tensor.Floats(tensor.Shape{2, 2, 4}, 0.5, 0.5, 0.2, 0.4, 0, 0, 1, 1, 0.25, 0.75, 0.5, 0.5, 0.5, 0.5, 1, 1)
	all, err := Detections(logits, boxes, [][2]int{{100, 200}, {10, 20}}, 0)
	if err != nil || len(all) != 2 || len(all[0]) != 2 || len(all[1]) != 2 {
		t.Fatalf("found %v, %v", all, err)
	}
	want := [][]Detection{
		{{0, float32(math.Exp(2) / (math.Exp(2) + math.E + 1)), [4]float32{80, 30, 120, 70}}, {1, float32(math.E / (1 + math.E + math.Exp(3))), [4]float32{-100, -50, 100, 50}}},
		{{0, 1. / 3, [4]float32{0, 5, 10, 10}}, {1, float32(math.Exp(4) / (math.Exp(-1) + math.Exp(4) + 1)), [4]float32{0, 0, 20, 10}}},
	}
	for i := range want {
		for j, w := range want[i] {
			g := all[i][j]
			near := math.Abs(float64(g.Score-w.Score)) < 1e-6
			for k := range g.Box {
				near = near && math.Abs(float64(g.Box[k]-w.Box[k])) < 1e-4
			}
			if g.Label != w.Label || !near {
				t.Errorf("%d, %d: found %+v, wanted %+v", i, j, g, w)
			}
		}
	}
	some, err := Detections(logits, boxes, [][2]int{{100, 200}, {10, 20}}, 0.5)
	if err != nil || len(some[0]) != 1 || len(some[1]) != 1 || some[1][0].Label != 1 {
		t.Errorf("found %v, %v", some, err)
	}
	for _, c := range []struct {
		logits, boxes tensor.Tensor
		sizes         int
	}{
		{logits, boxes, 1},
		{logits, logits, 2},
		{tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, 4), boxes, 2},
		{tensor.Tensor{DType: tensor.Float32, Shape: logits.Shape}, boxes, 2},
	} {
		if out, err := Detections(c.logits, c.boxes, make([][2]int, c.sizes), 0); err == nil {
			t.Errorf("found %v", out)
		}
	}
}

func TestBest(t *testing.T) {
	list := []Detection{{Label: 0, Score: 0.2}, {Label: 1, Score: 0.9}, {Label: 2, Score: 0.2}, {Label: 3, Score: 0.5}}
	for n, want := range map[int][]int{0: {1, 3, 0, 2}, 1: {1}, 3: {1, 3, 0}, 9: {1, 3, 0, 2}} {
		var got []int
		for _, d := range Best(list, n) {
			got = append(got, d.Label)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d: found %v, wanted %v", n, got, want)
		}
	}
	if list[0].Label != 0 || list[1].Label != 1 {
		t.Error("the list was changed")
	}
}
