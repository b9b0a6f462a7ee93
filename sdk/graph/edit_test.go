package graph

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// node makes "op(a,b)->c,d" into a node.
func node(s string, attrs ...*Attr) *Node {
	op, rest, _ := strings.Cut(s, "(")
	in, out, _ := strings.Cut(rest, ")->")
	n := &Node{OpType: op, Outputs: strings.Split(out, ","), Attrs: attrs}
	if domain, name, ok := strings.Cut(op, ":"); ok {
		n.Domain, n.OpType = domain, name
	}
	if in != "" {
		n.Inputs = strings.Split(in, ",")
	}
	return n
}

func nodes(s ...string) []*Node {
	var out []*Node
	for _, x := range s {
		out = append(out, node(x))
	}
	return out
}

// text writes nodes as node reads them.
func text(ns []*Node) []string {
	var out []string
	for _, n := range ns {
		op := n.OpType
		if n.Domain != "" {
			op = n.Domain + ":" + op
		}
		out = append(out, op+"("+strings.Join(n.Inputs, ",")+")->"+strings.Join(n.Outputs, ","))
	}
	return out
}

func values(names ...string) []*Value {
	var out []*Value
	for _, n := range names {
		out = append(out, &Value{Name: n})
	}
	return out
}

func graphOf(inputs, outputs string, ns ...*Node) *Graph {
	g := &Graph{Name: "g", Nodes: ns}
	if inputs != "" {
		g.Inputs = values(strings.Split(inputs, ",")...)
	}
	g.Outputs = values(strings.Split(outputs, ",")...)
	return g
}

func modelOf(g *Graph, fs ...*Function) *Model {
	return &Model{IRVersion: 10, Opsets: map[string]int64{"": 23, "f": 1}, Graph: g, Functions: fs}
}

func TestCheck(t *testing.T) {
	sub := func(ns ...string) *Attr { return GraphAttr("body", graphOf("", "s", nodes(ns...)...)) }
	fn := func(name string, ns ...string) *Function {
		return &Function{Domain: "f", Name: name, Inputs: []string{"a"}, Outputs: []string{"b"}, Attrs: []string{"p"}, Nodes: nodes(ns...), Opsets: map[string]int64{"": 23, "f": 1}}
	}
	ref := fn("R")
	ref.Nodes = []*Node{node("Elu(a)->b", RefAttr("alpha", AttrFloat, "p"))}
	badRef := fn("R")
	badRef.Nodes = []*Node{node("Elu(a)->b", RefAttr("alpha", AttrFloat, "q"))}
	twice := graphOf("x", "y", nodes("A(x)->y")...)
	twice.Initializers = []*Initializer{{Name: "w"}, {Name: "w"}}
	def := graphOf("x", "y", nodes("A(x)->y")...)
	def.Initializers = []*Initializer{{Name: "x"}}
	var chain []*Function
	for i := range 150 {
		chain = append(chain, fn(fmt.Sprintf("C%d", i), fmt.Sprintf("f:C%d(a)->b", i+1)))
	}
	tests := []struct {
		name string
		m    *Model
		want string // "" for valid
	}{
		{"plain", modelOf(graphOf("x", "z", nodes("A(x)->y", "B(y,)->,z")...)), ""},
		{"input passed on", modelOf(graphOf("x", "x")), ""},
		{"default of an input", modelOf(def), ""},
		{"captured", modelOf(graphOf("x", "y", node("If(x)->y", sub("A(x)->s")))), ""},
		{"functions", modelOf(graphOf("x", "y", nodes("f:F(x)->y")...), fn("F", "f:R(a)->b"), ref), ""},
		{"no graph", &Model{}, "no graph"},
		{"not sorted", modelOf(graphOf("x", "z", nodes("B(y)->z", "A(x)->y")...)), `node making "z" (B): input "y" is not defined`},
		{"made twice", modelOf(graphOf("x", "y", nodes("A(x)->y", "A(x)->y")...)), `output "y" is defined already`},
		{"shadows", modelOf(graphOf("x", "y", node("If(x)->y", sub("A(x)->x", "A(x)->s")))), `output "x" is defined already`},
		{"inner value used outside", modelOf(graphOf("x", "y", node("If(x)->z", sub("A(x)->s")), node("A(s)->y"))), `input "s" is not defined`},
		{"output of nothing", modelOf(graphOf("x", "q", nodes("A(x)->y")...)), `output "q"`},
		{"two initializers", modelOf(twice), `initializer "w" is defined already`},
		{"no name", modelOf(graphOf("x,", "y", nodes("A(x)->y")...)), "has no name"},
		{"no operator", modelOf(graphOf("x", "y", nodes("(x)->y")...)), "names no operator"},
		{"no opset", modelOf(graphOf("x", "y", nodes("other:A(x)->y")...)), `domain "other"`},
		{"attribute twice", modelOf(graphOf("x", "y", node("A(x)->y", IntAttr("a", 1), IntAttr("a", 1)))), `attribute "a" is given twice`},
		{"reference outside a function", modelOf(graphOf("x", "y", node("A(x)->y", RefAttr("a", AttrInt, "p")))), `refers to "p"`},
		{"reference to nothing", modelOf(graphOf("x", "y", nodes("A(x)->y")...), badRef), `refers to "q"`},
		{"two functions", modelOf(graphOf("x", "y", nodes("A(x)->y")...), ref, badRef), "defined twice"},
		{"recursion", modelOf(graphOf("x", "y", nodes("A(x)->y")...), fn("F", "f:G(a)->b"), fn("G", "f:F(a)->b")), `function "f.F" calls itself`},
		{"a long chain", modelOf(graphOf("x", "y", nodes("A(x)->y")...), chain...), "more than 100 calls"},
		{"function output", modelOf(graphOf("x", "y", nodes("A(x)->y")...), fn("F", "A(a)->c")), `output "b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.m.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestCheckCollects(t *testing.T) {
	g := graphOf("x", "x")
	for i := range 100 {
		g.Nodes = append(g.Nodes, node(fmt.Sprintf("A(none)->y%d", i)))
	}
	err := modelOf(g).Check()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != maxCheckErrors {
		t.Errorf("got %v", err)
	}
}

// nested has a graph that captures x and b, and one inside that captures a.
func nested() *Graph {
	inner := graphOf("", "i", nodes("Add(a,own)->i")...)
	body := graphOf("own", "s", node("If(own)->o", GraphAttr("then", inner)), node("Add(o,b)->s"))
	body.Outputs = append(body.Outputs, &Value{Name: "x"})
	return graphOf("x", "y", node("A(x)->a"), node("A(x)->b"), node("Loop(x)->y,", GraphAttr("body", body)))
}

func TestIndex(t *testing.T) {
	g := nested()
	ix := NewIndex(g)
	mustEqual(t, "captures", g.Nodes[2].Captures(), []string{"a", "b", "x"})
	mustEqual(t, "uses of a", ix.Uses("a"), []Use{{g.Nodes[2], -1}})
	mustEqual(t, "uses of x", ix.Uses("x"), []Use{{g.Nodes[0], 0}, {g.Nodes[1], 0}, {g.Nodes[2], 0}, {g.Nodes[2], -1}})
	mustEqual(t, "uses of an inner value", len(ix.Uses("own")), 0)
	mustEqual(t, "producer of b", ix.Producer("b"), g.Nodes[1])
	mustEqual(t, "producer of x", ix.Producer("x"), (*Node)(nil))
	mustEqual(t, "outputs", []bool{ix.IsOutput("y"), ix.IsOutput("a")}, []bool{true, false})
}

func TestRename(t *testing.T) {
	g := nested()
	g.Rename(map[string]string{"x": "X", "a": "A", "own": "WRONG", "y": "Y"})
	mustEqual(t, "nodes", text(g.Nodes), []string{"A(X)->A", "A(X)->b", "Loop(X)->Y,"})
	mustEqual(t, "ends", []string{g.Inputs[0].Name, g.Outputs[0].Name}, []string{"X", "Y"})
	body := g.Nodes[2].Attr("body").Graph
	mustEqual(t, "body", text(body.Nodes), []string{"If(own)->o", "Add(o,b)->s"})
	mustEqual(t, "output of the body", body.Outputs[1].Name, "X")
	mustEqual(t, "inner", text(body.Nodes[0].Attr("then").Graph.Nodes), []string{"Add(A,own)->i"})
}

func TestSort(t *testing.T) {
	for _, tt := range []struct {
		in, want []string // want nil: a ring
	}{
		{[]string{"A(x)->a", "B(a)->b"}, []string{"A(x)->a", "B(a)->b"}},
		{[]string{"C(b,a)->c", "B(a)->b", "A(x)->a", "D(c)->d"}, []string{"A(x)->a", "B(a)->b", "C(b,a)->c", "D(c)->d"}},
		{[]string{"A(b)->a", "B(a)->b"}, nil},
		{[]string{"A(a)->a"}, nil},
	} {
		g := graphOf("x", "x", nodes(tt.in...)...)
		err := g.Sort()
		if tt.want == nil {
			if err == nil || !slices.Equal(text(g.Nodes), tt.in) {
				t.Errorf("%v: %v, now %v", tt.in, err, text(g.Nodes))
			}
			continue
		}
		mustEqual(t, "order", text(g.Nodes), tt.want)
	}
	g := nested()
	slices.Reverse(g.Nodes)
	if err := g.Sort(); err != nil {
		t.Fatal(err)
	}
	if err := modelOf(g).Check(); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	g := nested()
	g.Nodes = append(g.Nodes, nodes("f:F(a)->unused", "B(unused)->unused2")...)
	body := g.Nodes[2].Attr("body").Graph
	body.Nodes = append(body.Nodes, node("f:G(own)->idle"))
	g.Initializers = []*Initializer{{Name: "w"}, {Name: "x"}}
	g.Values = values("a", "unused", "w")
	m := modelOf(g, &Function{Domain: "f", Name: "F"}, &Function{Domain: "f", Name: "G"})
	m.Prune()
	mustEqual(t, "nodes", text(g.Nodes), []string{"A(x)->a", "A(x)->b", "Loop(x)->y,"})
	mustEqual(t, "inner nodes", len(body.Nodes), 2)
	mustEqual(t, "initializers", len(g.Initializers), 1)
	mustEqual(t, "values", len(g.Values), 1)
	mustEqual(t, "functions", len(m.Functions), 0)
}

func TestPruneExports(t *testing.T) {
	for _, dir := range testfiles.Exports(t) {
		m := mustLoad(t, dir)
		m.Prune()
		if err := m.Check(); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestConstants(t *testing.T) {
	g := graphOf("x,d", "y", nodes("A(x)->y")...)
	g.Initializers = []*Initializer{{Name: "w", Tensor: tensor.Ints(nil, 1)}, {Name: "d", Tensor: tensor.Ints(nil, 2)}, {Name: "far", External: &External{}}}
	for _, a := range []*Attr{
		IntAttr("value_int", 3), IntsAttr("value_ints", 4, 5), FloatAttr("value_float", 6), FloatsAttr("value_floats", 7),
		StringAttr("value_string", "8"), {Name: "value_strings", Kind: AttrStrings, Strings: []string{"9"}},
		TensorAttr("value", tensor.Ints(nil, 10)), RefAttr("value_int", AttrInt, "p"), {Name: "sparse_value", Kind: AttrSparse, Raw: [][]byte{nil}},
	} {
		g.Nodes = append(g.Nodes, node(fmt.Sprintf("Constant()->c%d", len(g.Nodes)), a))
	}
	mustEqual(t, "constants", g.Constants(), map[string]tensor.Tensor{
		"w": tensor.Ints(nil, 1), "c1": tensor.Ints(nil, 3), "c2": tensor.Ints(tensor.Shape{2}, 4, 5), "c3": tensor.Floats(nil, 6),
		"c4": tensor.Floats(tensor.Shape{1}, 7), "c5": {DType: tensor.String, Strings: []string{"8"}},
		"c6": {DType: tensor.String, Shape: tensor.Shape{1}, Strings: []string{"9"}}, "c7": tensor.Ints(nil, 10),
	})
}

func TestWalk(t *testing.T) {
	m := modelOf(nested())
	var ops []string
	for g, n := range m.AllNodes() {
		ops = append(ops, fmt.Sprintf("%d %s", len(g.Nodes), n.OpType))
	}
	mustEqual(t, "order", ops, []string{"3 A", "3 A", "3 Loop", "2 If", "1 Add", "2 Add"})
	for range m.AllNodes() {
		break
	}
	count := 0
	for range m.Graphs() {
		if count++; count == 2 {
			break
		}
	}
	mustEqual(t, "graphs seen", count, 2)
}
