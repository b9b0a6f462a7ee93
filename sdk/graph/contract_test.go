package graph

import (
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// contractModel calls one operator of ai.accel, which carries its function.
func contractModel(t *testing.T, op string, inputs map[string]*Type, order []string, outputs int, attrs ...*Attr) *Model {
	t.Helper()
	b := NewBuilder("contract")
	for _, name := range order {
		if ty := inputs[name]; ty != nil {
			b.Input(name, ty)
		}
	}
	n := &Node{Domain: DomainAccel, OpType: op, Inputs: slices.Clone(order), Attrs: attrs}
	for i, name := range n.Inputs {
		if inputs[name] == nil {
			n.Inputs[i] = ""
		}
	}
	outs := b.Node(n, outputs)
	for i, o := range outs {
		b.Output([]string{"a", "b", "c"}[i], o, nil)
	}
	b.Function(ContractFunction(op))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The functions are valid, their bodies stand in for the operator, and shapes and
// types come out the same.
func TestContractFunctions(t *testing.T) {
	f := func(dims ...Dim) *Type { return TensorType(tensor.Float32, dims...) }
	h := func(dims ...Dim) *Type { return TensorType(tensor.Float16, dims...) }
	i := func(dims ...Dim) *Type { return TensorType(tensor.Int64, dims...) }
	n := Known
	pools := map[string]*Type{
		"q": f(Sym("T"), n(8), n(16)), "k": f(Sym("T"), n(2), n(16)), "v": f(Sym("T"), n(2), n(32)), "slots": i(Sym("T")),
		"k_pages": h(Sym("P"), n(4), n(2), n(16)), "v_pages": h(Sym("P"), n(4), n(2), n(32)),
		"page_tables": i(Sym("B"), n(3)), "lengths": i(Sym("B")), "starts": i(Sym("B1")),
	}
	blocks := map[string]*Type{"A": f(Sym("N"), n(64)), "codes": TensorType(tensor.Uint8, n(32), n(24)), "scales": h(n(32), n(2)), "mins": h(n(32), n(2))}
	table := map[string]*Type{"codes": blocks["codes"], "scales": blocks["scales"], "mins": blocks["mins"], "ids": i(Sym("B"), Sym("S"))}
	deep := map[string]*Type{"codes": TensorType(tensor.Uint8, n(32), n(2), n(12)), "scales": blocks["scales"], "ids": i(Sym("B"), Sym("S"))}
	bits := []*Attr{IntAttr("bits", 3), IntAttr("block", 32), IntAttr("K", 64), IntAttr("N", 32)}
	for _, tt := range []struct {
		name, op string
		inputs   map[string]*Type
		order    []string
		outputs  int
		attrs    []*Attr
	}{
		{"attention", "PagedAttention", pools, []string{"q", "k", "v", "k_pages", "v_pages", "slots", "page_tables", "lengths", "starts"}, 3, []*Attr{FloatAttr("scale", 0.25)}},
		{"attention with a window", "PagedAttention", pools, []string{"q", "k", "v", "k_pages", "v_pages", "slots", "page_tables", "lengths", "starts"}, 3,
			[]*Attr{FloatAttr("scale", 0.25), IntAttr("window", 7), FloatAttr("softcap", 30)}},
		{"write", "PagedWrite", pools, []string{"k", "v", "slots", "k_pages", "v_pages"}, 2, nil},
		{"blocks", "MatMulBlocks", blocks, []string{"A", "codes", "scales", "mins"}, 1, bits},
		{"blocks without mins", "MatMulBlocks", blocks, []string{"A", "codes", "scales"}, 1, bits},
		{"blocks for int8 activations", "MatMulBlocks", blocks, []string{"A", "codes", "scales"}, 1, append(bits[:4:4], IntAttr("accuracy_level", 4))},
		{"rows of blocks", "GatherBlocks", table, []string{"codes", "scales", "mins", "ids"}, 1, bits[:3]},
		{"rows of blocks without mins", "GatherBlocks", table, []string{"codes", "scales", "none", "ids"}, 1, bits[:3]},
		{"rows of blocks in three dimensions", "GatherBlocks", deep, []string{"codes", "scales", "none", "ids"}, 1, bits[:3]},
	} {
		m := contractModel(t, tt.op, tt.inputs, tt.order, tt.outputs, tt.attrs...)
		if err := Infer(m); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var want []string
		for _, v := range m.Graph.Outputs {
			want = append(want, typeText(v.Type))
			v.Type = nil
		}
		m.Graph.Values = nil
		if err := Inline(m, nil); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for _, node := range m.AllNodes() {
			if node.Domain != DomainONNX {
				t.Errorf("%s: node %s is left", tt.name, node.Label())
			}
		}
		if err := Infer(m); err != nil {
			t.Errorf("%s, inlined: %v", tt.name, err)
			continue
		}
		for k, v := range m.Graph.Outputs {
			if got := typeText(v.Type); got != want[k] {
				t.Errorf("%s: output %d of the body is %s, of the operator %s", tt.name, k, got, want[k])
			}
		}
	}
	if ContractFunction("Nothing") != nil {
		t.Error("there is a function Nothing")
	}
	if first, again := ContractFunction("PagedWrite"), ContractFunction("PagedWrite"); first != again {
		t.Error("a function is made twice: models that attach it by two ways would refuse it")
	}
}

// Forms that a body does not cover can't be inlined, and are told.
func TestContractFunctionsRefuse(t *testing.T) {
	u := func(dims ...Dim) *Type { return TensorType(tensor.Int8, dims...) }
	s := TensorType(tensor.Float16, Known(9), Known(4), Known(2))
	pools := map[string]*Type{
		"k": TensorType(tensor.Float32, Sym("T"), Known(2), Known(16)), "v": TensorType(tensor.Float32, Sym("T"), Known(2), Known(16)), "slots": TensorType(tensor.Int64, Sym("T")),
		"k_pages": u(Known(9), Known(4), Known(2), Known(16)), "v_pages": u(Known(9), Known(4), Known(2), Known(16)), "k_scales": s, "v_scales": s,
	}
	b := NewBuilder("quantised")
	order := []string{"k", "v", "slots", "k_pages", "v_pages", "k_scales", "v_scales"}
	for _, name := range order {
		b.Input(name, pools[name])
	}
	outs := b.Node(&Node{Domain: DomainAccel, OpType: "PagedWrite", Inputs: order, Attrs: []*Attr{IntAttr("k_bits", 8), IntAttr("v_bits", 8)}}, 4)
	b.Output("a", outs[0], nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Attach(ContractFunction("PagedWrite")); err != nil {
		t.Fatal(err)
	}
	if err := Inline(m, nil); err == nil {
		t.Error("a write into quantised pools is inlined as one into plain pools")
	}
}
