package graph

import (
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

func TestBuilder(t *testing.T) {
	b := NewBuilder("m")
	x := b.Input("x", TensorType(tensor.Float32, Sym("N"), Known(4)))
	w := b.Weight("layer.0.w", tensor.Float32, tensor.Shape{4, 4}, External{Path: "f", Length: 64})
	for range 2 {
		l := b.In("layer").In("0")
		x = l.Op("MatMul", []string{x, w})
		x = l.Op("Add", []string{x, l.Float(1)})
	}
	parts := b.Node(&Node{OpType: "Split", Inputs: []string{x, b.Ints(2, 2), ""}, Attrs: []*Attr{IntAttr("axis", 1)}}, 2)
	b.Ints(2, 2)
	b.Output("first", parts[0], nil)
	b.Output("again", parts[0], nil)
	b.Output("w", w, nil)
	q := b.Node(&Node{Domain: DomainAccel, OpType: "PagedWrite", Inputs: []string{parts[1]}, Outputs: []string{"named"}}, 1)
	b.Output("named", q[0], nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "nodes", text(m.Graph.Nodes), []string{
		"MatMul(x,layer.0.w)->layer/0/MatMul", "Add(layer/0/MatMul,const)->layer/0/Add",
		"MatMul(layer/0/Add,layer.0.w)->layer/0/MatMul_1", "Add(layer/0/MatMul_1,const)->layer/0/Add_1",
		"Split(layer/0/Add_1,const_1,)->first,Split.1", "Identity(first)->again", "Identity(layer.0.w)->w",
		"ai.accel:PagedWrite(Split.1)->named",
	})
	mustEqual(t, "initializers", len(m.Graph.Initializers), 3)
	mustEqual(t, "opsets", m.Opsets, map[string]int64{"": 23, DomainAccel: 1})
	if _, err := Marshal(m); err != nil {
		t.Error(err)
	}
}

func TestBuilderReports(t *testing.T) {
	b := NewBuilder("m")
	b.Input("x", nil)
	b.Input("x", nil)
	b.Op("Add", []string{"x", "none"})
	b.Weight("w", tensor.Float32, tensor.Shape{4}, External{Path: "f", Length: 5})
	b.Tensor("t", tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{4}})
	b.Const(tensor.Tensor{DType: tensor.String})
	b.Function(&Function{Name: "F"})
	b.Function(&Function{Name: "F"})
	_, err := b.Model()
	for _, want := range []string{`"x" is used twice`, `reads "none"`, "wants 16 bytes, f gives 5", `"t"`, "type string", "function F is given twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

// A node that was given a name makes a value of that name, which others may read.
func TestBuilderTakesNamedNodes(t *testing.T) {
	b := NewBuilder("named")
	x := b.Input("x", TensorType(tensor.Float32, Known(2)))
	y := b.Node(&Node{Name: "negated", OpType: "Neg", Inputs: []string{x}}, 1)
	b.Output("z", b.Op("Abs", y), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Graph.Nodes[1].Inputs[0]; got != "negated" {
		t.Errorf("Abs reads %q", got)
	}
}
