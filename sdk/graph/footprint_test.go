package graph

import (
	"math"
	"testing"
)

func TestFootprint(t *testing.T) {
	branch := func(lines ...*Node) *Graph {
		g := &Graph{Name: "b", Nodes: lines}
		g.Outputs = values(lines[len(lines)-1].Outputs[0])
		return g
	}
	choice := program(t, 23, "c = b[]", "x = f[100]", "y = If(c)")
	choice.Graph.Nodes[0].Attrs = []*Attr{
		GraphAttr("then_branch", branch(node("Exp(x)->e"), node("Neg(e)->n"))),
		GraphAttr("else_branch", branch(node("Exp(x)->h")))}
	overflow := program(t, 23, "x = f[1]", "a = Exp(x)", "y = Neg(a)")
	overflow.Graph.Values = []*Value{{Name: "a", Type: TensorType(1, Known(math.MaxInt64), Known(4))}}
	for _, tt := range []struct {
		name string
		m    *Model
		want Footprint
		raw  bool // do not infer
	}{
		{"a chain frees as it goes", program(t, 23, "x = f[100]", "a = Exp(x)", "b = Exp(a)", "c = Exp(b)", "y = Exp(c)"), Footprint{Peak: 800}, false},
		{"a residual stays", program(t, 23, "x = f[100]", "a = Exp(x)", "b = Exp(a)", "c = Exp(b)", "y = Add(a,c)"), Footprint{Peak: 1200}, false},
		{"views hold what they show", program(t, 23, "x = f[10,10]", "s = {100}", "a = Exp(x)", "v = Reshape(a,s)", "b = Exp(v)", "w = Identity(v)", "y = Add(w,b)"), Footprint{Weights: 8, Peak: 1200}, false},
		{"symbols are open", program(t, 23, "x = f[N]", "a = Exp(x)", "y = Exp(a)"), Footprint{Open: 2}, false},
		{"inside a branch", choice, Footprint{Peak: 800}, false},
		{"too large to count", overflow, Footprint{Peak: math.MaxInt64, Open: 1}, true},
	} {
		if !tt.raw {
			if err := Infer(tt.m); err != nil {
				t.Fatal(err)
			}
		}
		if got := FootprintOf(tt.m); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if got := (Footprint{Weights: math.MaxInt64, Peak: 5}).Total(); got != math.MaxInt64 {
		t.Errorf("the total is %d", got)
	}
}
