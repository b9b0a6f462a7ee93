package graph_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

func doubles(s tensor.Shape, v ...float64) tensor.Tensor { return tensor.Of(tensor.Float64, s, v) }

// op is a node; a digit among its inputs stands for an input of the model.
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

func stringsAttr(name string, v ...string) *graph.Attr {
	return &graph.Attr{Name: name, Kind: graph.AttrStrings, Strings: v}
}

// gradientOf is a node that makes "d"+y+"/"+x for every x, given as they are.
func gradientOf(y string, xs ...string) *graph.Node {
	n := &graph.Node{Name: "d" + y, Domain: graph.DomainTraining, OpType: "Gradient", Inputs: slices.Clone(xs),
		Attrs: []*graph.Attr{stringsAttr("xs", xs...), graph.StringAttr("y", y)}}
	for _, x := range xs {
		n.Outputs = append(n.Outputs, "d"+y+"/"+x)
	}
	return n
}

// gradientModel has all that nodes make as outputs, and the inputs x0, x1, ...
func gradientModel(opset int64, inputs []*graph.Type, nodes ...*graph.Node) *graph.Model {
	g := &graph.Graph{Name: "g", Nodes: nodes}
	for i, t := range inputs {
		g.Inputs = append(g.Inputs, &graph.Value{Name: fmt.Sprintf("x%d", i), Type: t})
	}
	for _, n := range nodes {
		for _, o := range n.Outputs {
			g.Outputs = append(g.Outputs, &graph.Value{Name: o})
		}
	}
	return &graph.Model{IRVersion: 8, Opsets: map[string]int64{"": opset, graph.DomainTraining: 1}, Graph: g}
}

// typesOf declares tensors, with their sizes or with a symbol for each.
func typesOf(in []tensor.Tensor, symbols bool) []*graph.Type {
	var out []*graph.Type
	for i, x := range in {
		t := graph.TensorType(x.DType)
		for k, n := range x.Shape {
			d := graph.Known(n)
			if symbols {
				d = graph.Sym(fmt.Sprintf("s%d_%d", i, k))
			}
			t.Dims = append(t.Dims, d)
		}
		out = append(out, t)
	}
	return out
}

// plain writes out the gradients of a model that is left as it is.
func plain(t *testing.T, m *graph.Model) *graph.Model {
	t.Helper()
	c := *m
	if _, err := graph.ExpandGradients(&c); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.AllNodes() {
		if n.Domain != graph.DomainONNX {
			t.Fatalf("node %s is left", n.Label())
		}
	}
	if _, ok := c.Opsets[graph.DomainTraining]; ok {
		t.Error("operators of training are still imported")
	}
	return &c
}

func evaluated(t *testing.T, m *graph.Model, in ...tensor.Tensor) map[string]tensor.Tensor {
	t.Helper()
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return runOn(t, p, in)
}

func runOn(t *testing.T, p *reference.Program, in []tensor.Tensor) map[string]tensor.Tensor {
	t.Helper()
	given := map[string]tensor.Tensor{}
	for i, x := range in {
		given[fmt.Sprintf("x%d", i)] = x
	}
	out, err := p.Run(context.Background(), given, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// floats are the elements of a float32 or float64 tensor.
func floats(x tensor.Tensor) []float64 {
	x = x.Aligned()
	if x.DType == tensor.Float64 {
		return tensor.View[float64](x)
	}
	var out []float64
	for _, v := range tensor.View[float32](x) {
		out = append(out, float64(v))
	}
	return out
}

func total(x tensor.Tensor) float64 {
	sum := 0.0
	for _, v := range floats(x) {
		sum += v
	}
	return sum
}

// overAxes is a node whose axes were an attribute before some operator set.
func overAxes(opset, since int64, name, in, out string, axes []int64, attrs ...*graph.Attr) []*graph.Node {
	if opset < since {
		return []*graph.Node{op(name, in, out, append(attrs, graph.IntsAttr("axes", axes...))...)}
	}
	return []*graph.Node{op("Constant", "", "axes of "+out, graph.IntsAttr("value_ints", axes...)),
		{OpType: name, Inputs: append(op(name, in, out).Inputs, "axes of "+out), Outputs: []string{out}, Attrs: attrs}}
}

// TestDerivatives holds first and second derivatives by every operator that has one
// against what small steps of the inputs make of the sum of y, and of the sums of the
// first ones.
func TestDerivatives(t *testing.T) {
	a := doubles(tensor.Shape{2, 3}, 0.5, -1.25, 2.25, 0.75, 1.5, -0.5)
	b := doubles(tensor.Shape{3, 2}, 1.5, 0.25, -0.75, 2, 1, 0.5)
	row := doubles(tensor.Shape{3}, 2, 0.5, 1.25)
	column := doubles(tensor.Shape{2, 1}, 0.75, 1.75)
	one := doubles(nil, 1.5)
	positive := doubles(tensor.Shape{2, 3}, 0.5, 1.25, 2, 0.75, 1.5, 0.25)
	batch := doubles(tensor.Shape{2, 1, 2, 3}, 0.5, -1, 2, 0.75, 1.5, -0.5, 1, 2, 3, -1, 0.5, 0.25)
	many := doubles(tensor.Shape{3, 3, 1}, 0.5, 0.25, 2, -0.75, 1.5, -0.5, 1, 0.125, 0.375)
	type inputs = []tensor.Tensor
	nodes := func(ns ...*graph.Node) func(int64) []*graph.Node {
		return func(int64) []*graph.Node {
			var out []*graph.Node
			for _, n := range ns {
				out = append(out, n.Clone())
			}
			return out
		}
	}
	then := func(first func(opset int64) []*graph.Node, rest ...*graph.Node) func(int64) []*graph.Node {
		return func(opset int64) []*graph.Node { return append(first(opset), nodes(rest...)(opset)...) }
	}
	axes := func(since int64, name, in, out string, axes []int64, attrs ...*graph.Attr) func(int64) []*graph.Node {
		return func(opset int64) []*graph.Node { return overAxes(opset, since, name, in, out, axes, attrs...) }
	}
	integer, exp, tanh := graph.IntAttr, op("Exp", "p", "y"), op("Tanh", "p", "y")
	dropped := integer("keepdims", 0)
	covered := map[string]bool{}
	for _, c := range []struct {
		name  string
		in    inputs
		nodes func(opset int64) []*graph.Node
	}{
		{"Identity", inputs{a}, nodes(op("Identity", "0", "p"), exp)},
		{"Neg", inputs{a}, nodes(op("Neg", "0", "p"), exp)},
		{"Abs", inputs{a}, nodes(op("Abs", "0", "p"), exp)},
		{"Exp", inputs{a}, nodes(op("Exp", "0", "y"))},
		{"Log", inputs{positive}, nodes(op("Log", "0", "y"))},
		{"Sqrt", inputs{positive}, nodes(op("Sqrt", "0", "y"))},
		{"Reciprocal", inputs{a}, nodes(op("Reciprocal", "0", "y"))},
		{"Sin", inputs{a}, nodes(op("Sin", "0", "y"))},
		{"Cos", inputs{a}, nodes(op("Cos", "0", "y"))},
		{"Tanh", inputs{a}, nodes(op("Tanh", "0", "y"))},
		{"Sigmoid", inputs{a}, nodes(op("Sigmoid", "0", "y"))},
		{"Relu", inputs{a}, nodes(op("Relu", "0", "p"), exp)},
		{"Erf", inputs{a}, nodes(op("Erf", "0", "y"))},
		{"Cast", inputs{a}, nodes(op("Cast", "0", "p", integer("to", int64(tensor.Float64))), exp)},
		{"Cast to whole numbers", inputs{a}, nodes(op("Cast", "0", "p", integer("to", int64(tensor.Int64))),
			op("Cast", "p", "q", integer("to", int64(tensor.Float64))), op("Mul", "q0", "r"), op("Mul", "r0", "y"))},
		{"Sign", inputs{a}, nodes(op("Sign", "0", "p"), op("Mul", "0p", "q"), op("Mul", "q0", "y"))},
		{"Floor", inputs{a}, nodes(op("Floor", "0", "p"), op("Mul", "0p", "y"))},
		{"Ceil", inputs{a}, nodes(op("Ceil", "0", "p"), op("Mul", "0p", "y"))},
		{"Round", inputs{doubles(tensor.Shape{2}, 0.25, 1.75)}, nodes(op("Round", "0", "p"), op("Mul", "0p", "y"))},
		{"Add", inputs{a, row}, nodes(op("Add", "01", "p"), exp)},
		{"Add a scalar", inputs{one, a}, nodes(op("Add", "01", "p"), exp)},
		{"Add both ways", inputs{row, column}, nodes(op("Add", "01", "p"), exp)},
		{"Add to itself", inputs{a}, nodes(op("Add", "00", "p"), exp)},
		{"Sub", inputs{row, a}, nodes(op("Sub", "01", "p"), exp)},
		{"Mul", inputs{a, column}, nodes(op("Mul", "01", "p"), exp)},
		{"Div", inputs{a, row}, nodes(op("Div", "01", "y"))},
		{"Div of one row", inputs{row, positive}, nodes(op("Div", "01", "y"))},
		{"Pow", inputs{positive, row}, nodes(op("Pow", "01", "y"))},
		{"Pow of a whole number", inputs{a}, nodes(op("Constant", "", "e", integer("value_int", 3)), op("Pow", "0e", "y"))},
		{"Sum", inputs{a, row, positive}, nodes(op("Sum", "0120", "p"), exp)},
		{"Where", inputs{a, column}, nodes(op("Less", "01", "c"), op("Where", "c01", "p"), exp)},
		{"Expand", inputs{row}, nodes(op("Constant", "", "s", graph.IntsAttr("value_ints", 2, 3)), op("Expand", "0s", "p"), exp)},
		{"MatMul", inputs{a, b}, nodes(op("MatMul", "01", "p"), tanh)},
		{"MatMul of a batch", inputs{batch, b}, nodes(op("MatMul", "01", "p"), tanh)},
		{"MatMul of batches both ways", inputs{batch, many}, nodes(op("MatMul", "01", "p"), tanh)},
		{"MatMul of a row", inputs{row, b}, nodes(op("MatMul", "01", "p"), tanh)},
		{"MatMul of a row with a batch", inputs{row, many}, nodes(op("MatMul", "01", "p"), tanh)},
		{"MatMul by a column", inputs{batch, row}, nodes(op("MatMul", "01", "p"), tanh)},
		{"MatMul of vectors", inputs{row, doubles(tensor.Shape{3}, 0.5, -1, 0.25)}, nodes(op("MatMul", "01", "p"), tanh)},
		{"Gemm", inputs{a, b, doubles(tensor.Shape{2}, 1, 2)}, nodes(op("Gemm", "012", "p", graph.FloatAttr("alpha", 0.5), graph.FloatAttr("beta", 2)), tanh)},
		{"Gemm, left turned", inputs{a, a}, nodes(op("Gemm", "01", "p", integer("transA", 1)), tanh)},
		{"Gemm, right turned", inputs{a, a, one}, nodes(op("Gemm", "012", "p", integer("transB", 1)), tanh)},
		{"Gemm, both turned", inputs{a, b}, nodes(op("Gemm", "01", "p", integer("transA", 1), integer("transB", 1)), tanh)},
		{"Reshape", inputs{a}, nodes(op("Constant", "", "s", graph.IntsAttr("value_ints", 3, 2)), op("Reshape", "0s", "p"), exp)},
		{"Flatten", inputs{batch}, nodes(op("Flatten", "0", "p"), exp)},
		{"Squeeze", inputs{batch}, then(axes(13, "Squeeze", "0", "p", []int64{1}), exp)},
		{"Unsqueeze", inputs{a}, then(axes(13, "Unsqueeze", "0", "p", []int64{0, -1}), exp)},
		{"Transpose", inputs{batch}, nodes(op("Transpose", "0", "q", graph.IntsAttr("perm", 3, 0, 2, 1)), op("Transpose", "q", "p"), exp)},
		{"ReduceSum", inputs{batch}, nodes(op("ReduceSum", "0", "p"), tanh)},
		{"ReduceSum to a scalar", inputs{batch}, nodes(op("ReduceSum", "0", "p", dropped), tanh)},
		{"ReduceSum over axes", inputs{batch}, then(axes(13, "ReduceSum", "0", "p", []int64{0, -1}), tanh)},
		{"ReduceSum without axes", inputs{batch}, then(axes(13, "ReduceSum", "0", "p", []int64{-1, 0}, dropped), tanh)},
		{"ReduceMean", inputs{batch}, nodes(op("ReduceMean", "0", "p"), exp)},
		{"ReduceMean over axes", inputs{batch}, then(axes(18, "ReduceMean", "0", "p", []int64{0, -1}, dropped), exp)},
		{"Softmax", inputs{batch}, nodes(op("Softmax", "0", "p"), op("Exp", "p", "q"), op("Mul", "qp", "y"))},
		{"Softmax of an axis", inputs{batch}, nodes(op("Softmax", "0", "p", integer("axis", 2)), op("Exp", "p", "q"), op("Mul", "qp", "y"))},
		{"LogSoftmax", inputs{batch}, nodes(op("LogSoftmax", "0", "p", integer("axis", -2)), op("Exp", "p", "q"), op("Mul", "qp", "y"))},
		// An input in two places, and one that y does not depend on.
		{"unused", inputs{a, row}, nodes(op("Exp", "0", "p"), op("Mul", "0p", "q"), op("Add", "qp", "y"))},
		{"nothing between", inputs{a}, nodes(op("Identity", "0", "y"))},
	} {
		for _, opset := range []int64{12, 13, 18, 25} {
			for _, symbols := range []bool{false, true} {
				ns := c.nodes(opset)
				var xs []string
				for i := range c.in {
					xs = append(xs, fmt.Sprintf("x%d", i))
				}
				ns = append(ns, gradientOf("y", xs...))
				for _, x := range xs {
					ns = append(ns, gradientOf("dy/"+x, xs...))
				}
				m := gradientModel(opset, typesOf(c.in, symbols), ns...)
				var e *graph.DerivativeError
				if s := *m; opset == 12 && symbols && errors.As(second(graph.ExpandGradients(&s)), &e) && strings.Contains(e.Reason, "whether axis") {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/symbols=%v", c.name, opset, symbols), func(t *testing.T) {
					holdDerivatives(t, plain(t, m), c.in, xs)
				})
			}
		}
		for _, n := range c.nodes(18) {
			covered[n.OpType] = true
		}
	}
	for _, name := range graph.Differentiable() {
		if !covered[name] {
			t.Errorf("the derivative of %s is not tested", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func holdDerivatives(t *testing.T, m *graph.Model, in []tensor.Tensor, xs []string) {
	t.Helper()
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := runOn(t, p, in)
	for i, x := range in {
		for k := range x.Len() {
			const step = 1e-5
			stepped := func(by float64) map[string]tensor.Tensor {
				// Results may share memory with inputs.
				moved := x
				moved.Data = slices.Clone(x.Data)
				binary.LittleEndian.PutUint64(moved.Data[8*k:], math.Float64bits(floats(x)[k]+by))
				at := slices.Clone(in)
				at[i] = moved
				return runOn(t, p, at)
			}
			up, down := stepped(step), stepped(-step)
			for _, y := range append([]string{"y"}, prefixed("dy/", xs)...) {
				d := got["d"+y+"/"+xs[i]]
				if d.DType != x.DType || !d.Shape.Equal(x.Shape) {
					t.Fatalf("the derivative of %s by %s is %s%v, want %s%v", y, xs[i], d.DType, d.Shape, x.DType, x.Shape)
				}
				want := (total(up[y]) - total(down[y])) / (2 * step)
				if v := floats(d)[k]; !(math.Abs(v-want) <= 1e-6*(1+math.Abs(want))) {
					t.Errorf("the derivative of %s by element %d of %s is %g, want %g", y, k, xs[i], v, want)
				}
			}
		}
	}
}

func prefixed(prefix string, s []string) []string {
	var out []string
	for _, v := range s {
		out = append(out, prefix+v)
	}
	return out
}

// TestDerivativesAtEdges: where a slope is not finite or does not exist, what is not
// needed does no harm.
func TestDerivativesAtEdges(t *testing.T) {
	inf := math.Inf(1)
	list := func(v ...float64) tensor.Tensor { return doubles(tensor.Shape{int64(len(v))}, v...) }
	for _, tt := range []struct {
		name string
		in   []tensor.Tensor
		node *graph.Node
		want [][]float64 // by input
	}{
		{"zero of Relu", []tensor.Tensor{list(0, -1, 1)}, op("Relu", "0", "y"), [][]float64{{0, 0, 1}}},
		{"zero of Abs", []tensor.Tensor{list(0, -1, 1)}, op("Abs", "0", "y"), [][]float64{{0, -1, 1}}},
		{"Pow at zeros", []tensor.Tensor{list(0, 0, 2), list(0, 2, 0)}, op("Pow", "01", "y"), [][]float64{{0, 0, 0}, {0, 0, math.Ln2}}},
		{"unused and infinite", []tensor.Tensor{list(1, 1), list(inf, math.NaN())}, op("Neg", "0", "y"), [][]float64{{-1, -1}, {0, 0}}},
		{"nothing", []tensor.Tensor{doubles(tensor.Shape{0, 3}), list(1, 2, 3)}, op("Add", "01", "y"), [][]float64{{}, {0, 0, 0}}},
		{"nothing, added up", []tensor.Tensor{doubles(tensor.Shape{2, 0}), doubles(tensor.Shape{0})}, op("Mul", "01", "y"), [][]float64{{}, {}}},
		{"mean of nothing", []tensor.Tensor{doubles(tensor.Shape{2, 0})}, op("ReduceMean", "0", "y"), [][]float64{{}}},
	} {
		for _, symbols := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/symbols=%v", tt.name, symbols), func(t *testing.T) {
				var xs []string
				for i := range tt.in {
					xs = append(xs, fmt.Sprintf("x%d", i))
				}
				m := gradientModel(18, typesOf(tt.in, symbols), tt.node.Clone(), gradientOf("y", xs...))
				got := evaluated(t, m, tt.in...)
				for i, x := range xs {
					d := got["dy/"+x]
					if !d.Shape.Equal(tt.in[i].Shape) || !slices.Equal(floats(d), tt.want[i]) {
						t.Errorf("the derivative by %s is %v of shape %v, want %v of %v", x, floats(d), d.Shape, tt.want[i], tt.in[i].Shape)
					}
				}
			})
		}
	}
}

// TestDerivativesOfHalfPrecision: what is written is of the values' own type.
func TestDerivativesOfHalfPrecision(t *testing.T) {
	for _, elem := range []tensor.DType{tensor.Float16, tensor.BFloat16, tensor.Float32} {
		to := graph.IntAttr("to", int64(elem))
		m := gradientModel(18, []*graph.Type{graph.TensorType(tensor.Float32, graph.Known(4))},
			op("Cast", "0", "h", to), op("Sigmoid", "h", "p"), op("Erf", "p", "q"), op("ReduceMean", "q", "y"), gradientOf("y", "h", "x0"),
			&graph.Node{OpType: "Cast", Inputs: []string{"dy/h"}, Outputs: []string{"wide"}, Attrs: []*graph.Attr{graph.IntAttr("to", 1)}})
		m.Graph.Outputs = m.Graph.Outputs[len(m.Graph.Outputs)-2:]
		got := evaluated(t, m, tensor.Floats(tensor.Shape{4}, 0, 1, -1, 2))
		// x0 is in the place of nothing that makes h.
		if total(got["dy/x0"]) != 0 {
			t.Errorf("%s: by what is behind a given value: %v", elem, floats(got["dy/x0"]))
		}
		for i, x := range []float64{0, 1, -1, 2} {
			s := 1 / (1 + math.Exp(-x))
			want := s * (1 - s) * 2 / math.SqrtPi * math.Exp(-s*s) / 4
			if v := floats(got["wide"])[i]; !(math.Abs(v-want) <= 0.02*want) {
				t.Errorf("%s: derivative %d is %g, want %g", elem, i, v, want)
			}
		}
	}
}
