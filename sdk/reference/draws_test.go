package reference

import (
	"bytes"
	"context"
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// filled is a tensor of one number.
func filled(s tensor.Shape, v float32) tensor.Tensor {
	data := make([]float32, elements(s))
	for i := range data {
		data[i] = v
	}
	return tensor.Floats(s, data...)
}

func TestRandomDraws(t *testing.T) {
	const n = 1 << 16
	big, seed := tensor.Shape{n / 4, 4}, graph.FloatAttr("seed", 7)
	logits := tensor.Floats(tensor.Shape{1, 4}, float32(math.Log(1)), float32(math.Log(2)), float32(math.Inf(-1)), float32(math.Log(5)))
	// low and high bound every draw; mean and deviation are of the distribution.
	for _, c := range []struct {
		op                         string
		in                         []tensor.Tensor
		attrs                      []*graph.Attr
		low, high, mean, deviation float64
		whole                      bool
	}{
		{"RandomUniform", nil, []*graph.Attr{graph.IntsAttr("shape", big...)}, 0, 1, 0.5, math.Sqrt(1.0 / 12), false},
		{"RandomUniform", nil, []*graph.Attr{graph.IntsAttr("shape", big...), graph.FloatAttr("low", -3), graph.FloatAttr("high", 5), graph.IntAttr("dtype", int64(tensor.Float16))},
			-3, 5, 1, 8 * math.Sqrt(1.0/12), false},
		{"RandomUniformLike", []tensor.Tensor{filled(big, 1)}, []*graph.Attr{graph.FloatAttr("high", 2)}, 0, 2, 1, 2 * math.Sqrt(1.0/12), false},
		{"RandomNormal", nil, []*graph.Attr{graph.IntsAttr("shape", big...), graph.FloatAttr("mean", 2), graph.FloatAttr("scale", 3)},
			2 - 3*6.5, 2 + 3*6.5, 2, 3, false},
		{"RandomNormalLike", []tensor.Tensor{filled(big, 1)}, []*graph.Attr{graph.IntAttr("dtype", int64(tensor.Float64))}, -6.5, 6.5, 0, 1, false},
		{"Bernoulli", []tensor.Tensor{filled(big, 0.25)}, nil, 0, 1, 0.25, math.Sqrt(0.25 * 0.75), true},
		{"Bernoulli", []tensor.Tensor{filled(big, 0)}, nil, 0, 0, 0, 0, true},
		{"Bernoulli", []tensor.Tensor{filled(big, 1)}, []*graph.Attr{graph.IntAttr("dtype", int64(tensor.Bool))}, 1, 1, 1, 0, true},
		// Classes 0, 1 and 3 have the weights 1, 2 and 5; class 2 has none.
		{"Multinomial", []tensor.Tensor{logits}, []*graph.Attr{graph.IntAttr("sample_size", n)}, 0, 3, 17.0 / 8, math.Sqrt(47.0/8 - 17.0/8*17/8), true},
	} {
		attrs := append(c.attrs, seed)
		out, err := evalOp(graph.DomainONNX, c.op, values(c.in...), 1, attrs...)
		if err != nil {
			t.Errorf("%s: %v", c.op, err)
			continue
		}
		got := out[0].Tensor
		v := make([]float64, got.Len())
		loadFloat(v, got, 0)
		if len(v) != n {
			t.Errorf("%s: shape %v", c.op, got.Shape)
			continue
		}
		for _, x := range v {
			if !(x >= c.low && x <= c.high) || c.whole && x != math.Trunc(x) || c.op == "Multinomial" && x == 2 {
				t.Errorf("%s draws %g", c.op, x)
				break
			}
		}
		mean, variance := moments(v)
		if math.Abs(mean-c.mean) > 5*c.deviation/math.Sqrt(n) {
			t.Errorf("%s: the mean is %g, wants %g", c.op, mean, c.mean)
		}
		if math.Abs(math.Sqrt(variance)-c.deviation) > 0.02*c.deviation {
			t.Errorf("%s: the standard deviation is %g, wants %g", c.op, math.Sqrt(variance), c.deviation)
		}
		again, err := evalOp(graph.DomainONNX, c.op, values(c.in...), 1, attrs...)
		if err != nil || !bytes.Equal(again[0].Tensor.Data, got.Data) {
			t.Errorf("%s: the same seed draws other numbers (%v)", c.op, err)
		}
	}
}

// Nodes without a seed draw apart from each other, the same in every run where
// Options.Seed says so; a node in a loop goes on.
func TestRandomSeeds(t *testing.T) {
	uniform := func(out string, attrs ...*graph.Attr) *graph.Node {
		return &graph.Node{OpType: "RandomUniform", Outputs: []string{out}, Attrs: append(attrs, graph.IntsAttr("shape", 4))}
	}
	body := &graph.Graph{
		Name:   "body",
		Inputs: []*graph.Value{{Name: "i"}, {Name: "on"}},
		Nodes: []*graph.Node{
			{OpType: "Identity", Inputs: []string{"on"}, Outputs: []string{"go"}},
			uniform("x", graph.FloatAttr("seed", 1)),
		},
		Outputs: []*graph.Value{{Name: "go"}, {Name: "x", Type: graph.TensorType(tensor.Float32)}},
	}
	m := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 22}, Graph: &graph.Graph{
		Name:         "g",
		Initializers: []*graph.Initializer{{Name: "n", Tensor: tensor.Ints(tensor.Shape{}, 3)}},
		Nodes: []*graph.Node{
			uniform("a"), uniform("b"),
			{OpType: "Loop", Inputs: []string{"n"}, Outputs: []string{"c"}, Attrs: []*graph.Attr{graph.GraphAttr("body", body)}},
		},
		Outputs: []*graph.Value{{Name: "a"}, {Name: "b"}, {Name: "c"}},
	}}
	run := func(seed uint64) map[string]tensor.Tensor {
		p, err := New(m, Options{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Run(context.Background(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first, same, other, free, freer := run(5), run(5), run(6), run(0), run(0)
	for name, x := range first {
		if !bytes.Equal(x.Data, same[name].Data) {
			t.Errorf("%s is another in the same run", name)
		}
	}
	for _, name := range []string{"a", "b"} {
		if bytes.Equal(first[name].Data, other[name].Data) || bytes.Equal(free[name].Data, freer[name].Data) {
			t.Errorf("%s is the same in runs of other seeds", name)
		}
	}
	if bytes.Equal(first["a"].Data, first["b"].Data) {
		t.Error("two nodes draw the same")
	}
	c := first["c"].Data
	if !bytes.Equal(c, other["c"].Data) {
		t.Error("a node with a seed draws by the run's")
	}
	if len(c) != 3*16 || bytes.Equal(c[:16], c[16:32]) {
		t.Errorf("a node in a loop draws the same each time, or not 3 times: %v", c)
	}
}
