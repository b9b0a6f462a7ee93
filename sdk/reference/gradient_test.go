package reference

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func doubles(s tensor.Shape, v ...float64) tensor.Tensor { return tensor.Of(tensor.Float64, s, v) }

// gradientModel is y = nodes(x0, x1, ...) and the derivatives of y by all inputs.
func gradientModel(inputs int, nodes ...*graph.Node) *graph.Model {
	g := &graph.Graph{Name: "g", Nodes: nodes, Outputs: []*graph.Value{{Name: "y"}}}
	d := &graph.Node{Name: "d", Domain: graph.DomainTraining, OpType: "Gradient", Attrs: []*graph.Attr{graph.StringAttr("y", "y")}}
	var names []string
	for i := range inputs {
		name := fmt.Sprintf("x%d", i)
		names = append(names, name)
		g.Inputs = append(g.Inputs, &graph.Value{Name: name})
		d.Inputs, d.Outputs = append(d.Inputs, name), append(d.Outputs, "d"+name)
		g.Outputs = append(g.Outputs, &graph.Value{Name: "d" + name})
	}
	d.Attrs = append(d.Attrs, &graph.Attr{Name: "xs", Kind: graph.AttrStrings, Strings: names})
	g.Nodes = append(g.Nodes, d)
	return &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 18, graph.DomainTraining: 1}, Graph: g}
}

func op(name, in, out string, attrs ...*graph.Attr) *graph.Node {
	n := &graph.Node{OpType: name, Outputs: []string{out}, Attrs: attrs}
	for _, r := range in {
		if r >= '0' && r <= '9' {
			n.Inputs = append(n.Inputs, "x"+string(r))
		} else {
			n.Inputs = append(n.Inputs, string(r))
		}
	}
	return n
}

// Derivatives are what small steps of the inputs make of the sum of y.
func TestGradient(t *testing.T) {
	a := doubles(tensor.Shape{2, 3}, 0.5, -1.25, 2, 0.75, 1.5, -0.5)
	b := doubles(tensor.Shape{3, 2}, 1.5, 0.25, -0.75, 2, 1, 0.5)
	row := doubles(tensor.Shape{3}, 2, 0.5, 1.25)
	positive := doubles(tensor.Shape{2, 3}, 0.5, 1.25, 2, 0.75, 1.5, 0.25)
	batch := doubles(tensor.Shape{2, 1, 2, 3}, 0.5, -1, 2, 0.75, 1.5, -0.5, 1, 2, 3, -1, 0.5, 0.25)
	integer := graph.IntAttr
	type inputs = []tensor.Tensor
	covered := map[string]bool{}
	for _, c := range []struct {
		in    inputs
		nodes []*graph.Node
	}{
		{inputs{a}, []*graph.Node{op("Identity", "0", "y")}},
		{inputs{a, row}, []*graph.Node{op("Add", "01", "y")}},
		{inputs{row, a}, []*graph.Node{op("Sub", "01", "y")}},
		{inputs{a, row}, []*graph.Node{op("Mul", "01", "y")}},
		{inputs{a, row}, []*graph.Node{op("Div", "01", "y")}},
		{inputs{positive, row}, []*graph.Node{op("Pow", "01", "y")}},
		{inputs{a, row, positive}, []*graph.Node{op("Sum", "0120", "y")}},
		{inputs{a}, []*graph.Node{op("Neg", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Abs", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Exp", "0", "y")}},
		{inputs{positive}, []*graph.Node{op("Log", "0", "y")}},
		{inputs{positive}, []*graph.Node{op("Sqrt", "0", "y")}},
		{inputs{positive}, []*graph.Node{op("Reciprocal", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Sin", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Cos", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Tanh", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Sigmoid", "0", "y")}},
		{inputs{a}, []*graph.Node{op("Relu", "0", "y")}},
		{inputs{a, b}, []*graph.Node{op("MatMul", "01", "y")}},
		{inputs{batch, b}, []*graph.Node{op("MatMul", "01", "p"), op("Tanh", "p", "y")}},
		{inputs{a, b, doubles(tensor.Shape{2}, 1, 2)}, []*graph.Node{op("Gemm", "012", "p", graph.FloatAttr("alpha", 0.5), graph.FloatAttr("beta", 2)), op("Tanh", "p", "y")}},
		{inputs{a, a}, []*graph.Node{op("Gemm", "01", "p", integer("transA", 1)), op("Tanh", "p", "y")}},
		{inputs{a, a}, []*graph.Node{op("Gemm", "01", "p", integer("transB", 1)), op("Tanh", "p", "y")}},
		{inputs{a, b}, []*graph.Node{op("Gemm", "01", "p", integer("transA", 1), integer("transB", 1)), op("Tanh", "p", "y")}},
		{inputs{a}, []*graph.Node{op("Constant", "", "s", graph.IntsAttr("value_ints", 3, 2)), op("Reshape", "0s", "p"), op("Exp", "p", "y")}},
		{inputs{batch}, []*graph.Node{op("Flatten", "0", "p"), op("Exp", "p", "y")}},
		{inputs{batch}, []*graph.Node{op("Constant", "", "s", graph.IntsAttr("value_ints", 1)), op("Squeeze", "0s", "p"), op("Unsqueeze", "ps", "q"), op("Exp", "q", "y")}},
		{inputs{batch}, []*graph.Node{op("Transpose", "0", "p", graph.IntsAttr("perm", 3, 0, 2, 1)), op("Transpose", "p", "q"), op("Exp", "q", "y")}},
		{inputs{batch}, []*graph.Node{op("ReduceSum", "0", "p"), op("Tanh", "p", "y")}},
		{inputs{batch}, []*graph.Node{op("Constant", "", "s", graph.IntsAttr("value_ints", 0, -1)), op("ReduceMean", "0s", "p", integer("keepdims", 0)), op("Exp", "p", "y")}},
		// An input in two places, and one that y does not depend on.
		{inputs{a, row}, []*graph.Node{op("Exp", "0", "p"), op("Mul", "0p", "q"), op("Add", "qp", "y")}},
	} {
		for _, n := range c.nodes {
			covered[n.OpType] = true
		}
		m := gradientModel(len(c.in), c.nodes...)
		p, err := New(m, Options{})
		if err != nil {
			t.Errorf("%s: %v", c.nodes[0].OpType, err)
			continue
		}
		run := func() map[string]tensor.Tensor {
			in := map[string]tensor.Tensor{}
			for i, x := range c.in {
				in[fmt.Sprintf("x%d", i)] = x
			}
			out, err := p.Run(context.Background(), in, nil)
			if err != nil {
				t.Fatalf("%s: %v", c.nodes[0].OpType, err)
			}
			return out
		}
		total := func() float64 {
			v := run()["y"]
			sum := 0.0
			for i := range v.Len() {
				sum += floatAt(v, i)
			}
			return sum
		}
		got := run()
		for i, x := range c.in {
			d := got[fmt.Sprintf("dx%d", i)]
			if d.DType != x.DType || !d.Shape.Equal(x.Shape) {
				t.Errorf("%s: the derivative by input %d is %s, wants %s", c.nodes[0].OpType, i, describeTensor(d), describeTensor(x))
				continue
			}
			const step = 1e-5
			moved := zeros(t, x.DType, x.Shape)
			c.in[i] = moved
			for k := range x.Len() {
				move(moved, 0, x, 0, x.Len())
				putFloat(moved, k, floatAt(x, k)+step)
				up := total()
				putFloat(moved, k, floatAt(x, k)-step)
				want := (up - total()) / (2 * step)
				if v := floatAt(d, k); math.Abs(v-want) > 1e-6*(1+math.Abs(want)) {
					t.Errorf("%s: derivative %d by input %d is %g, wants %g", c.nodes[0].OpType, k, i, v, want)
				}
			}
			c.in[i] = x
		}
	}
	for name := range derivatives {
		if !covered[name] {
			t.Errorf("the derivative of %s is not tested", name)
		}
	}
}

func TestGradientRefuses(t *testing.T) {
	m := gradientModel(1, op("Erf", "0", "y"))
	var u *UnsupportedError
	if _, err := New(m, Options{}); !errors.As(err, &u) {
		t.Errorf("the derivative of Erf: %v", err)
	}
	// y depends on an input that is not named.
	m = gradientModel(2, op("Add", "01", "y"))
	d := m.Graph.Nodes[1]
	d.Inputs, d.Outputs = d.Inputs[:1], d.Outputs[:1]
	d.Attr("xs").Strings = []string{"x0"}
	m.Graph.Outputs = m.Graph.Outputs[:2]
	var ce *graph.CheckError
	if _, err := New(m, Options{}); !errors.As(err, &ce) {
		t.Errorf("a value that is not named: %v", err)
	}
	// Named as not to be differentiated, it may.
	d.Inputs = []string{"x0", "x1"}
	d.Attrs = append(d.Attrs, &graph.Attr{Name: "zs", Kind: graph.AttrStrings, Strings: []string{"x1"}})
	if _, err := New(m, Options{}); err != nil {
		t.Error(err)
	}
	// Many of them repeat each other's nodes.
	m = gradientModel(1, op("Exp", "0", "y"))
	for i := range 80 {
		n := *m.Graph.Nodes[1]
		n.Name, n.Outputs = fmt.Sprintf("again%d", i), []string{fmt.Sprintf("g%d", i)}
		n.Attrs = []*graph.Attr{graph.StringAttr("y", "y"), n.Attr("xs")}
		if i > 0 {
			n.Attrs[0] = graph.StringAttr("y", fmt.Sprintf("g%d", i-1))
		}
		m.Graph.Nodes = append(m.Graph.Nodes, &n)
	}
	if _, err := New(m, Options{}); !errors.As(err, &ce) && !errors.As(err, &u) {
		t.Errorf("gradients of gradients: %v", err)
	}
}
