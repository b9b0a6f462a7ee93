package verify

import (
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func TestCompare(t *testing.T) {
	f := func(v ...float32) tensor.Tensor { return tensor.Floats(tensor.Shape{int64(len(v))}, v...) }
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	rel := func(v float64) *float64 { return &v }
	for _, tt := range []struct {
		name      string
		got, want tensor.Tensor
		mask      tensor.Tensor
		rel       *float64
		ok        bool
	}{
		{name: "equal", got: f(1, -2), want: f(1, -2), rel: rel(0), ok: true},
		{name: "within", got: f(10, 0.0005), want: f(10, 0), rel: rel(0.00005), ok: true},
		{name: "off", got: f(10, 0.01), want: f(10, 0), rel: rel(0.001)},
		{name: "all recorded zero", got: f(0.5), want: f(0), rel: rel(0.5)},
		{name: "shape", got: f(1, 2), want: f(1)},
		{name: "type", got: tensor.Ints(tensor.Shape{1}, 1), want: f(1)},
		{name: "NaN on both sides", got: f(nan, 1), want: f(nan, 1), rel: rel(0), ok: true},
		{name: "NaN", got: f(nan), want: f(1)},
		{name: "NaN wanted", got: f(1), want: f(nan)},
		{name: "infinite on both sides", got: f(inf, 1), want: f(inf, 1), rel: rel(0), ok: true},
		{name: "infinite", got: f(inf), want: f(1)},
		{name: "integers equal", got: tensor.Ints(tensor.Shape{2}, 3, 4), want: tensor.Ints(tensor.Shape{2}, 3, 4), rel: rel(0), ok: true},
		{name: "integers off", got: tensor.Ints(tensor.Shape{2}, 3, 5), want: tensor.Ints(tensor.Shape{2}, 3, 4), rel: rel(1)},
		{name: "padding is left out", got: tensor.Floats(tensor.Shape{1, 2, 1}, 1, 99), want: tensor.Floats(tensor.Shape{1, 2, 1}, 1, 0),
			mask: tensor.Ints(tensor.Shape{1, 2}, 1, 0), rel: rel(0), ok: true},
		{name: "but only padding", got: tensor.Floats(tensor.Shape{1, 2, 1}, 99, 1), want: tensor.Floats(tensor.Shape{1, 2, 1}, 0, 1),
			mask: tensor.Ints(tensor.Shape{1, 2}, 1, 0), rel: rel(99)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := compare(tt.got, tt.want, tt.mask, 1e-4)
			if o.OK != tt.ok {
				t.Errorf("ok = %v, want %v (%+v)", o.OK, tt.ok, o)
			}
			if (o.MaxRel == nil) != (tt.rel == nil) || tt.rel != nil && math.Abs(*o.MaxRel-*tt.rel) > 1e-7*max(1, *tt.rel) {
				t.Errorf("max_rel = %v, want %v", o.MaxRel, tt.rel)
			}
			if o.MaxRel == nil && o.Problem == "" {
				t.Error("neither a number nor a problem")
			}
		})
	}
}

func TestCosine(t *testing.T) {
	f := func(v ...float32) tensor.Tensor { return tensor.Floats(tensor.Shape{int64(len(v))}, v...) }
	inf := float32(math.Inf(-1))
	for name, tt := range map[string]struct {
		got, want, mask tensor.Tensor
		cosine          float64 // 2: there is none
	}{
		"the same direction":  {got: f(2, 4), want: f(1, 2), cosine: 1},
		"the opposite":        {got: f(-1, -2), want: f(1, 2), cosine: -1},
		"at right angles":     {got: f(1, 0), want: f(0, 3), cosine: 0},
		"near":                {got: f(1, 1), want: f(1, 0), cosine: math.Sqrt2 / 2},
		"zeros":               {got: f(0, 0), want: f(0, 0), cosine: 2},
		"integers":            {got: tensor.Ints(tensor.Shape{1}, 1), want: tensor.Ints(tensor.Shape{1}, 1), cosine: 2},
		"what is masked":      {got: f(1, inf), want: f(2, inf), cosine: 1},
		"padding is left out": {got: tensor.Floats(tensor.Shape{1, 2, 1}, 1, 99), want: tensor.Floats(tensor.Shape{1, 2, 1}, 1, -1), mask: tensor.Ints(tensor.Shape{1, 2}, 1, 0), cosine: 1},
	} {
		o := compare(tt.got, tt.want, tt.mask, 1e-4)
		switch {
		case tt.cosine == 2:
			if o.Cosine != nil {
				t.Errorf("%s: %v, want none", name, *o.Cosine)
			}
		case o.Cosine == nil || math.Abs(*o.Cosine-tt.cosine) > 1e-12:
			t.Errorf("%s: %+v, want %v", name, o, tt.cosine)
		}
	}
}

func TestCompareValues(t *testing.T) {
	f := func(v ...float32) graph.Datum {
		return graph.TensorDatum(tensor.Floats(tensor.Shape{int64(len(v))}, v...))
	}
	words := func(s ...string) graph.Datum {
		return graph.TensorDatum(tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{int64(len(s))}, Strings: s})
	}
	list := func(v ...graph.Datum) graph.Datum { return graph.Datum{Kind: graph.KindSequence, Sequence: v} }
	some := func(v graph.Datum) graph.Datum { return graph.Datum{Kind: graph.KindOptional, Optional: &v} }
	for name, tt := range map[string]struct {
		got, want graph.Datum
		ok        bool
	}{
		"equal":                 {list(f(1), f(2)), list(f(1), f(2)), true},
		"nothing":               {list(), list(), true},
		"no value":              {graph.Datum{Kind: graph.KindOptional}, graph.Datum{Kind: graph.KindOptional}, true},
		"words":                 {words("a", ""), words("a", ""), true},
		"other words":           {words("a", "b"), words("a", ""), false},
		"the second is off":     {list(f(1), f(3)), list(f(1), f(2)), false},
		"one too few":           {list(f(1)), list(f(1), f(2)), false},
		"a value where none is": {some(f(1)), graph.Datum{Kind: graph.KindOptional}, false},
		"inside an optional":    {some(list(f(1))), some(list(f(2))), false},
		"another kind":          {f(1), list(f(1)), false},
		"another shape inside":  {list(f(1)), list(f(1, 2)), false},
	} {
		o := compareValues(tt.got, tt.want, tensor.Tensor{}, 1e-4)
		if o.OK != tt.ok || !tt.ok && o.MaxRel == nil && o.Problem == "" {
			t.Errorf("%s: %+v, want ok %v", name, o, tt.ok)
		}
	}
}
