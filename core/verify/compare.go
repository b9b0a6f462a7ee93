package verify

import (
	"bytes"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// compareValues holds an output of any kind against its record; what is inside a
// sequence or an optional counts as the worst of it does.
func compareValues(got, want graph.Datum, mask tensor.Tensor, tolerance float64) Output {
	out := Output{Tolerance: tolerance}
	inside := func(v graph.Datum) []graph.Datum {
		if v.Optional != nil {
			return []graph.Datum{*v.Optional}
		}
		return v.Sequence
	}
	switch a, b := inside(got), inside(want); {
	case got.Kind != want.Kind:
		out.Problem = "it is of another kind than was recorded"
	case got.Kind == graph.KindTensor:
		return compare(got.Tensor, want.Tensor, mask, tolerance)
	case len(a) != len(b):
		out.Problem = fmt.Sprintf("it holds %d values, recorded are %d", len(a), len(b))
	default:
		none := 0.0
		out.MaxRel, out.OK = &none, true
		for i := range a {
			o := compareValues(a[i], b[i], tensor.Tensor{}, tolerance)
			if o.MaxRel == nil {
				o.Problem = fmt.Sprintf("value %d: %s", i, o.Problem)
				return o
			}
			if *o.MaxRel > *out.MaxRel {
				out.MaxRel = o.MaxRel
			}
			out.OK = out.OK && o.OK
			if o.Cosine != nil && (out.Cosine == nil || *o.Cosine < *out.Cosine) {
				out.Cosine = o.Cosine
			}
		}
	}
	return out
}

// compare holds a tensor against its record. Where the output has the mask's
// batch and sequence, padding is left out: what a model makes of it means nothing.
func compare(got, want, mask tensor.Tensor, tolerance float64) Output {
	out := Output{Tolerance: tolerance}
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		out.Problem = fmt.Sprintf("it is %s%v, recorded is %s%v", got.DType, got.Shape, want.DType, want.Shape)
		return out
	}
	if want.DType != tensor.Float32 && want.DType != tensor.Float64 {
		// What is no float has no small error.
		off := 0.0
		if !bytes.Equal(got.Data, want.Data) || fmt.Sprint(got.Strings) != fmt.Sprint(want.Strings) {
			off = 1
		}
		out.MaxRel, out.OK = &off, off == 0
		return out
	}
	a, b := floats(got), floats(want)
	keep := kept(want.Shape, mask)
	var worst, largest, xx, xy, yy float64
	for i := range b {
		if !keep(i) {
			continue
		}
		x, y := a[i], b[i]
		if finite(x) == math.Abs(x) && finite(y) == math.Abs(y) { // masks are infinite
			xx, xy, yy = xx+x*x, xy+x*y, yy+y*y
		}
		if x == y || math.IsNaN(x) && math.IsNaN(y) {
			largest = max(largest, finite(y))
			continue
		}
		if d := math.Abs(x - y); math.IsNaN(d) || math.IsInf(d, 0) {
			out.Problem = fmt.Sprintf("element %d is %v, recorded is %v", i, x, y)
			return out
		} else {
			worst = max(worst, d)
			largest = max(largest, math.Abs(y))
		}
	}
	rel := worst
	if largest > 0 {
		rel = worst / largest
	}
	out.MaxRel, out.OK = &rel, rel <= tolerance
	if cosine := xy / math.Sqrt(xx*yy); xx > 0 && yy > 0 {
		out.Cosine = &cosine
	}
	return out
}

func finite(v float64) float64 {
	if v = math.Abs(v); math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	return v
}

func floats(t tensor.Tensor) []float64 {
	if t.DType == tensor.Float64 {
		return tensor.View[float64](t.Aligned())
	}
	v := tensor.View[float32](t.Aligned())
	out := make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

// kept says which elements of an output count.
func kept(shape tensor.Shape, mask tensor.Tensor) func(int) bool {
	if mask.DType != tensor.Int64 || len(mask.Shape) != 2 || len(shape) < 2 || !shape[:2].Equal(mask.Shape) {
		return func(int) bool { return true }
	}
	row, err := shape[2:].Elements()
	if err != nil || row == 0 {
		return func(int) bool { return true }
	}
	m := tensor.View[int64](mask.Aligned())
	return func(i int) bool { return m[int64(i)/row] != 0 }
}
