package graph

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/testfiles"
)

func fn(name, inputs, outputs string, ns ...*Node) *Function {
	return &Function{Domain: "f", Name: name, Inputs: strings.Split(inputs, ","), Outputs: strings.Split(outputs, ","), Nodes: ns, Opsets: map[string]int64{"": 23, "f": 1}}
}

func TestInline(t *testing.T) {
	leaf := fn("Leaf", "a,b", "y,z", node("Add(a,b)->t"), node("Clip(t,,b)->y"), node("Neg(t)->z"))
	outer := fn("Outer", "p", "q", node("f:Leaf(p,p)->u,v"), node("f:Leaf(v,u)->,q"))
	pass := fn("Pass", "a,b", "y,z,w", node("Neg(b)->y"))
	pass.Outputs = []string{"a", "y", "y"}
	inIf := fn("InIf", "c,x", "y", node("Neg(x)->n"), node("If(c)->y",
		GraphAttr("then", graphOf("", "t", node("Add(n,x)->t"))), GraphAttr("else", graphOf("", "t", node("Sub(n,x)->t")))))
	tests := []struct {
		name  string
		graph *Graph
		fs    []*Function
		keep  string
		want  []string
		kept  int
	}{
		{"simple", graphOf("x,t", "o", node("f:Leaf(x,t)->o,s")), []*Function{leaf}, "", []string{"Add(x,t)->o/t", "Clip(o/t,,t)->o", "Neg(o/t)->s"}, 0},
		{"left out", graphOf("x", "o", node("f:Leaf(x)->,o")), []*Function{leaf}, "", []string{"Add(x,)->o/t", "Clip(o/t,,)->o/y", "Neg(o/t)->o"}, 0},
		{"nested", graphOf("x", "o", node("f:Outer(x)->o")), []*Function{outer, leaf}, "", []string{
			"Add(x,x)->o/u/t", "Clip(o/u/t,,x)->o/u", "Neg(o/u/t)->o/v", "Add(o/v,o/u)->o/t", "Clip(o/t,,o/u)->o/y", "Neg(o/t)->o"}, 0},
		{"kept inside", graphOf("x", "o", node("f:Outer(x)->o")), []*Function{outer, leaf}, "Leaf", []string{"f:Leaf(x,x)->o/u,o/v", "f:Leaf(o/v,o/u)->,o"}, 1},
		{"inlined inside a kept one", graphOf("x", "o", node("f:Outer(x)->o")), []*Function{outer, leaf}, "Outer", []string{"f:Outer(x)->o"}, 1},
		{"names in use", graphOf("x,o/t", "o", node("f:Leaf(x,x)->o")), []*Function{leaf}, "", []string{"Add(x,x)->o/t_1", "Clip(o/t_1,,x)->o", "Neg(o/t_1)->o/z"}, 0},
		{"passed on", graphOf("x", "o,p,q", node("f:Pass(x,x)->o,p,q")), []*Function{pass}, "", []string{"Neg(x)->p", "Identity(x)->o", "Identity(p)->q"}, 0},
		{"in a graph", graphOf("c,x", "o", node("If(c)->o", GraphAttr("then", graphOf("", "s", node("f:Leaf(x,x)->s"))))), []*Function{leaf}, "", []string{"If(c)->o"}, 0},
		{"graphs inside", graphOf("c,x", "o", node("f:InIf(c,x)->o")), []*Function{inIf}, "", []string{"Neg(x)->o/n", "If(c)->o"}, 0},
		{"not called", graphOf("x", "o", node("Neg(x)->o")), []*Function{leaf}, "", []string{"Neg(x)->o"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := modelOf(tt.graph.Clone(), cloneAll(tt.fs, (*Function).Clone)...)
			if err := Inline(m, func(id FunctionID) bool { return id.Name == tt.keep }); err != nil {
				t.Fatal(err)
			}
			mustEqual(t, "nodes", text(m.Graph.Nodes), tt.want)
			mustEqual(t, "functions left", len(m.Functions), tt.kept)
			if err := m.Check(); err != nil {
				t.Error(err)
			}
			for _, n := range m.AllNodes() {
				if n.Domain == "f" && n.OpType != tt.keep {
					t.Errorf("node %s is left", n.Label())
				}
			}
			if _, ok := m.Opsets["f"]; ok != (tt.kept > 0) {
				t.Errorf("opsets are %v", m.Opsets)
			}
		})
	}

	m := modelOf(graphOf("c,x", "o", node("f:InIf(c,x)->o")), inIf)
	if err := Inline(m, nil); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "then", text(m.Graph.Nodes[1].Attr("then").Graph.Nodes), []string{"Add(o/n,x)->o/t"})
	mustEqual(t, "else", text(m.Graph.Nodes[1].Attr("else").Graph.Nodes), []string{"Sub(o/n,x)->o/t_1"})
	mustEqual(t, "the function itself", text(inIf.Nodes[:1]), []string{"Neg(x)->n"})
}

func TestInlineAttributes(t *testing.T) {
	inner := fn("Inner", "a", "b", node("Op(a)->b", RefAttr("given", AttrInt, "p"), RefAttr("default", AttrInt, "q"), RefAttr("absent", AttrInt, "r"), IntAttr("own", 9)))
	inner.Attrs, inner.Defaults = []string{"p", "r"}, []*Attr{IntAttr("q", 2)}
	outer := fn("Outer", "a", "b", node("f:Inner(a)->b", RefAttr("p", AttrInt, "top"), RefAttr("q", AttrInt, "none")))
	outer.Attrs = []string{"top", "none"}
	m := modelOf(graphOf("x", "y", node("f:Outer(x)->y", IntAttr("top", 5))), inner, outer)
	if err := Inline(m, nil); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "attributes", m.Graph.Nodes[0].Attrs, []*Attr{IntAttr("given", 5), IntAttr("default", 2), IntAttr("own", 9)})

	m = modelOf(graphOf("x", "y", node("f:Outer(x)->y", FloatAttr("top", 5))), inner, outer)
	var ie *InlineError
	if err := Inline(m, nil); !errors.As(err, &ie) || !strings.Contains(err.Error(), "kind") {
		t.Errorf("an attribute of another kind: %v", err)
	}
}

func TestInlineRefuses(t *testing.T) {
	old := fn("Old", "a", "b", node("Neg(a)->b"))
	old.Opsets = map[string]int64{"": 13}
	pass := fn("Pass", "a,b", "a", node("Neg(b)->c"))
	var growing []*Function
	for i := range 30 {
		f := fn(fmt.Sprintf("G%d", i), "a", "c", node(fmt.Sprintf("f:G%d(a)->b", i+1)), node(fmt.Sprintf("f:G%d(b)->c", i+1)))
		growing = append(growing, f)
	}
	growing = append(growing, fn("G30", "a", "b", node("Neg(a)->b")))
	for _, tt := range []struct {
		name string
		m    *Model
		want string
	}{
		{"operator sets", modelOf(graphOf("x", "y", node("f:Old(x)->y")), old), "version 13"},
		{"too many inputs", modelOf(graphOf("x", "y", node("f:Old(x,x)->y")), old), "has 2 inputs"},
		{"output of a missing input", modelOf(graphOf("x", "y", node("f:Pass(,x)->y")), pass), "leaves out"},
		{"invalid model", modelOf(graphOf("x", "y", node("f:Pass(q)->y")), pass), `"q"`},
		{"a bomb", modelOf(graphOf("x", "y", node("f:G0(x)->y")), growing...), "limit"},
	} {
		before := text(tt.m.Graph.Nodes)
		if err := inlineWithin(tt.m, nil, 1000); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
		mustEqual(t, "nodes after a refusal", text(tt.m.Graph.Nodes), before)
	}
}

func TestInlineContract(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testfiles.Shared(t, "contract"), "*.onnx"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no contract models: %v", err)
	}
	for _, file := range files {
		m := mustLoad(t, file)
		if f := m.Function(FunctionID{Domain: DomainAccel, Name: "PagedAttention"}); f == nil {
			t.Fatalf("%s has no function", file)
		}
		if err := Inline(m, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Check(); err != nil {
			t.Error(err)
		}
		attention := 0
		for _, n := range m.AllNodes() {
			if n.Domain != DomainONNX {
				t.Errorf("%s: node %s is left", file, n.Label())
			}
			if n.OpType == "Attention" {
				attention++
				if n.Attr("scale") == nil || n.Attr("scale").Ref != "" {
					t.Errorf("%s: scale is not bound", file)
				}
			}
		}
		mustEqual(t, "attention nodes", attention, 1)
	}
}

func TestAttach(t *testing.T) {
	m := &Model{Graph: &Graph{}}
	f := fn("F", "a", "b", node("Neg(a)->b"))
	for range 2 {
		if err := m.Attach(f); err != nil {
			t.Fatal(err)
		}
	}
	mustEqual(t, "opsets", m.Opsets, map[string]int64{"f": 1})
	mustEqual(t, "functions", len(m.Functions), 1)
	if err := m.Attach(f.Clone()); err == nil {
		t.Error("two functions of one name are accepted")
	}
}
