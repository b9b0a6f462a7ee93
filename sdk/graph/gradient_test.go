package graph_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

var node = graph.ReadNode

// by is a node that makes d, the derivative of y by xs[0], which with zs is given
// the inputs.
func by(y, xs, zs, inputs string) *graph.Node {
	n := node("Gradient("+inputs+")->d", graph.StringAttr("y", y), stringsAttr("xs", strings.Split(xs, ",")...))
	n.Name, n.Domain = "by", graph.DomainTraining
	if zs != "" {
		n.Attrs = append(n.Attrs, stringsAttr("zs", strings.Split(zs, ",")...))
	}
	return n
}

// branch is an If that gives out y of a graph as o, whichever way it goes.
func branch(y string, nodes ...*graph.Node) []*graph.Node {
	g := &graph.Graph{Name: "branch", Nodes: nodes, Outputs: []*graph.Value{{Name: y}}}
	return []*graph.Node{node("Less(x0,x1)->c"), node("If(c)->o", graph.GraphAttr("then_branch", g.Clone()), graph.GraphAttr("else_branch", g.Clone()))}
}

func function(name, in, out string, nodes ...*graph.Node) *graph.Function {
	return &graph.Function{Domain: "f", Name: name, Inputs: strings.Split(in, ","), Outputs: []string{out}, Nodes: nodes,
		Opsets: map[string]int64{"": 18, "f": 1, graph.DomainTraining: 1}}
}

// scalars is a model of float64 scalars x0 and x1, a constant w of 11, and functions.
func scalars(output string, nodes ...*graph.Node) *graph.Model {
	f := graph.TensorType(tensor.Float64)
	m := gradientModel(18, []*graph.Type{f, f}, nodes...)
	m.Opsets["f"] = 1
	m.Graph.Initializers = []*graph.Initializer{{Name: "w", Tensor: doubles(nil, 11)}}
	m.Graph.Outputs = []*graph.Value{{Name: output}}
	m.Functions = []*graph.Function{
		function("Square", "a", "q", node("Mul(a,a)->q")),
		function("Slope", "a,b", "d", node("Mul(a,a)->q"), node("Mul(q,b)->r"), by("r", "a", "b", "a,b")),
		function("Indirect", "a,b", "s", node("f:Slope(a,b)->s")),
	}
	return m
}

// TestGradient differentiates in places of every kind.
func TestGradient(t *testing.T) {
	type nodes = []*graph.Node
	const a, b = 3.0, 5.0
	unnamed := by("y", "x0", "x1", "x0,x1")
	unnamed.Name = ""
	for _, tt := range []struct {
		name  string
		nodes nodes
		want  float64
	}{
		{"plainly", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x1)->y"), by("y", "x0", "x1", "x0,x1")}, 2 * a * b},
		{"the node needs no name", nodes{node("Mul(x0,x1)->y"), unnamed}, b},
		{"by y itself", nodes{by("x0", "x0", "", "x0")}, 1},
		{"a value between is given", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x0)->y"), by("y", "x0", "p", "x0,p")}, a * a},
		{"by a value between", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x0)->y"), by("y", "p", "x0", "p,x0")}, a},
		{"constants", nodes{node("Constant()->k", graph.TensorAttr("value", doubles(nil, 7))), node("Mul(x0,k)->p"), node("Mul(p,w)->y"), by("y", "x0", "", "x0")}, 77},
		// Other values than the names say.
		{"swapped", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x1)->y"), by("y", "x0", "x1", "x1,x0")}, 2 * b * a},
		{"one value twice", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x1)->y"), by("y", "x0", "x1", "x1,x1")}, 2 * b * b},
		{"in part", nodes{node("Mul(x0,x0)->p"), node("Neg(x1)->e"), node("Neg(e)->l"), node("Mul(p,l)->y"), by("y", "x0", "x1", "x1,x1")}, 2 * b * b},
		{"what y does not need", nodes{node("Mul(x0,x0)->y"), by("y", "x0", "x1", "x0,x0")}, 2 * a},
		{"a computed value", nodes{node("Mul(x0,x0)->y"), node("Neg(x0)->n"), by("y", "x0", "", "n")}, -2 * a},
		{"beside a graph inside", append(branch("t", node("Mul(x1,x1)->t")), node("Mul(x0,o)->y"), by("y", "x0", "x1,c", "x0,x0,c")), a * a},
		// Derivatives of derivatives.
		{"twice", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x0)->q"), node("Mul(q,x1)->y"), gradientOf("y", "x0", "x1"), by("dy/x0", "x0", "x1", "x0,x1")}, 6 * a * b},
		{"twice, and elsewhere", nodes{node("Mul(x0,x0)->p"), node("Mul(p,x0)->y"), gradientOf("y", "x0"), by("dy/x0", "x0", "", "x1")}, 6 * b},
		{"through a derivative", nodes{node("Mul(x0,x0)->p"), gradientOf("p", "x0"), node("Mul(p,dp/x0)->y"), by("y", "x0", "", "x0")}, 6 * a * a},
		{"by a derivative", nodes{node("Mul(x0,x0)->p"), gradientOf("p", "x0"), node("Mul(dp/x0,dp/x0)->y"), by("y", "dp/x0", "", "dp/x0")}, 4 * a},
		// In graphs and functions.
		{"in a graph inside", append(branch("d", node("Mul(x0,x0)->q"), node("Mul(q,x1)->r"), by("r", "x0", "x1", "x0,x1")), node("Identity(o)->d")), 2 * a * b},
		{"in a function", nodes{node("f:Slope(x0,x1)->d")}, 2 * a * b},
		{"in a function of a function", nodes{node("f:Indirect(x0,x1)->d")}, 2 * a * b},
		{"through a function", nodes{node("f:Square(x0)->p"), node("f:Square(p)->y"), by("y", "x0", "", "x0")}, 4 * a * a * a},
		{"of what a function differentiates", nodes{node("f:Slope(x0,x1)->y"), by("y", "x0", "x1", "x0,x1")}, 2 * b},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := scalars("d", tt.nodes...)
			if strings.Contains(tt.name, "in a graph") { // no name may be used inside and around
				m.Graph.Nodes[len(m.Graph.Nodes)-1].Outputs[0] = "out"
				m.Graph.Outputs[0].Name = "out"
			}
			out := m.Graph.Outputs[0].Name
			was := m.Clone()
			c := *m
			if _, err := graph.ExpandGradients(&c); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m, was) {
				t.Error("the model was written to")
			}
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.AllNodes() {
				if n.OpType == "Gradient" {
					t.Errorf("node %s is left", n.Label())
				}
			}
			for _, m := range []*graph.Model{&c, m} {
				got := evaluated(t, m, doubles(nil, a), doubles(nil, b))[out]
				if len(got.Shape) > 0 || floats(got)[0] != tt.want {
					t.Errorf("the derivative is %v of shape %v, want %v", floats(got), got.Shape, tt.want)
				}
			}
		})
	}
}

// TestGradientRepeatsNothing: the nodes between serve as they are where the inputs are
// what the node names, and else those that depend on others.
func TestGradientRepeatsNothing(t *testing.T) {
	for _, tt := range []struct {
		inputs string
		exps   int
	}{{"x0,x1", 1}, {"x1,x1", 1}, {"x0,x0", 2}} {
		m := scalars("d", node("Exp(x1)->e"), node("Mul(x0,e)->y"), by("y", "x0", "x1", tt.inputs))
		if _, err := graph.ExpandGradients(m); err != nil {
			t.Fatal(err)
		}
		exps := 0
		for _, n := range m.Graph.Nodes {
			if n.OpType == "Exp" {
				exps++
			}
		}
		if exps != tt.exps {
			t.Errorf("given %s there are %d nodes of Exp, want %d", tt.inputs, exps, tt.exps)
		}
	}
}

func TestGradientRefuses(t *testing.T) {
	type nodes = []*graph.Node
	sum := node("Add(x0,x1)->y")
	for _, tt := range []struct {
		name  string
		nodes nodes
		check bool   // a *CheckError, else a *DerivativeError
		says  string // of it
	}{
		{"an operator without a derivative", nodes{node("Neg(x0)->p"), node("Asinh(p)->y"), by("y", "x0", "", "x0")}, false, `node "by" (ai.onnx.preview.training.Gradient): the derivative of node "y" (Asinh, opset 18)`},
		{"another domain's", nodes{node("f:Neg(x0)->y"), by("y", "x0", "", "x0")}, false, `(f.Neg, opset 1)`},
		{"by the second output", nodes{{OpType: "Dropout", Inputs: []string{"x0"}, Outputs: []string{"p", "m"}}, node("Mul(p,x0)->y"), by("y", "x0", "", "x0")}, false, "(Dropout"},
		{"through a graph inside", append(branch("t", node("Mul(x0,x0)->t")), node("Mul(x0,o)->y"), by("y", "x0", "x1,c", "x0,x1,c")), false, "(If"},
		{"a value that is not named", nodes{sum, by("y", "x0", "", "x0")}, true, `"y" depends on "x1"`},
		{"no value", nodes{sum, by("z", "x0", "", "x0")}, true, `"z"`},
		{"a value made later", nodes{by("y", "x0", "x1", "x0,x1"), sum}, true, `"y"`},
		{"y depends on the node", nodes{by("y", "x0", "x1", "x0,x1"), node("Add(x0,d)->y")}, true, `"y"`},
		{"a value of whole numbers", nodes{node("Cast(x0)->p", graph.IntAttr("to", 7)), node("Neg(p)->y"), by("y", "p", "", "p")}, true, "int64"},
		{"too few inputs", nodes{sum, by("y", "x0", "x1", "x0")}, true, "1 inputs"},
		{"named twice", nodes{sum, by("y", "x0", "x1,x0", "x0,x1,x0")}, true, `"x0" is named twice`},
		{"no value for a name", nodes{sum, by("y", "x0", "x1", "x0,")}, true, "without a value"},
		{"nothing named", nodes{sum, node(graph.DomainTraining + ":Gradient(x0)->d")}, true, "attributes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := scalars("d", tt.nodes...)
			was := m.Clone()
			_, err := graph.ExpandGradients(m)
			var ce *graph.CheckError
			var de *graph.DerivativeError
			if !errors.As(err, &de) && !errors.As(err, &ce) || tt.check != (ce != nil) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want it to say %s", err, tt.says)
			}
			if !reflect.DeepEqual(m, was) {
				t.Error("the model was written to")
			}
		})
	}
	t.Run("older operators", func(t *testing.T) {
		m := scalars("d", sum, by("y", "x0", "x1", "x0,x1"))
		m.Opsets[""] = 11
		var ce *graph.CheckError
		if _, err := graph.ExpandGradients(m); !errors.As(err, &ce) || !strings.Contains(err.Error(), "version 12") {
			t.Errorf("got %v", err)
		}
	})
	for _, tt := range []struct {
		name string
		t    *graph.Type
		says string
	}{
		{"an element type that is not known", nil, "the element type of"},
		{"a rank that is not known", &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32}, "the rank of"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := scalars("d", sum, by("y", "x0", "x1", "x0,x1"))
			m.Graph.Inputs[0].Type, m.Graph.Inputs[1].Type = tt.t, tt.t
			var de *graph.DerivativeError
			if _, err := graph.ExpandGradients(m); !errors.As(err, &de) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want it to say %s", err, tt.says)
			}
		})
	}
	t.Run("axes that may be broadcast", func(t *testing.T) {
		f := graph.TensorType(tensor.Float32, graph.Sym("N"))
		g := graph.TensorType(tensor.Float32, graph.Sym("M"))
		m := gradientModel(12, []*graph.Type{f, g}, node("Add(x0,x1)->y"), by("y", "x0", "x1", "x0,x1"))
		var de *graph.DerivativeError
		if _, err := graph.ExpandGradients(m); !errors.As(err, &de) || !strings.Contains(err.Error(), "version 13") {
			t.Errorf("got %v", err)
		}
	})
}
