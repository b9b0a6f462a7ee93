package backendtest

import (
	"bytes"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

func TestRandomModels(t *testing.T) {
	operators := map[string]int{}
	outside, symbols := 0, 0
	const seeds = 300
	for seed := range uint64(seeds) {
		m, in := RandomModel(seed)
		again, _ := RandomModel(seed)
		first, err := graph.Marshal(m)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if second, err := graph.Marshal(again); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("seed %d gives two models (%v)", seed, err)
		}
		p, err := reference.New(m, reference.Options{})
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, ModelText(m))
		}
		want, err := p.Run(t.Context(), in, nil)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, ModelText(m))
		}
		if err := graph.Infer(m); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, ModelText(m))
		}
		types := m.Graph.Types()
		for name, w := range want {
			for i, v := range numbers(w) {
				if !(v <= randomMagnitude && v >= -randomMagnitude) {
					t.Fatalf("seed %d: element %d of output %s is %v", seed, i, name, v)
				}
			}
			ty := types[name]
			if ty == nil || ty.Elem != w.DType || ty.HasShape && len(ty.Dims) != len(w.Shape) {
				t.Errorf("seed %d: output %s is inferred to be %s, it is %s%v\n%s", seed, name, typeText(ty), w.DType, w.Shape, ModelText(m))
				continue
			}
			for i, d := range ty.Dims {
				if d.Size >= 0 && d.Size != w.Shape[i] {
					t.Errorf("seed %d: output %s is inferred to be %s, it is %v\n%s", seed, name, typeText(ty), w.Shape, ModelText(m))
				}
			}
		}
		nodes := 0
		for g, n := range m.AllNodes() {
			operators[n.OpType]++
			if g != m.Graph {
				outside++
			}
			nodes++
		}
		if nodes < 3 || len(m.Graph.Nodes) > 45 {
			t.Errorf("seed %d: %d nodes", seed, nodes)
		}
		if len(m.Symbols()) > 0 {
			symbols++
		}
	}
	t.Logf("%d operators: %v", len(operators), operators)
	if len(operators) < 90 || outside == 0 || symbols < seeds/4 {
		t.Errorf("%d models have %d operators, %d nodes inside others, %d of them symbols", seeds, len(operators), outside, symbols)
	}
}

// A fault in one operator is found where it is, and nothing else is left.
func TestShrink(t *testing.T) {
	b := graph.NewBuilder("shrink")
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Sym("N"), graph.Known(3)))
	h := b.Op("Tanh", []string{b.Op("Add", []string{x, b.Float(1)})})
	y := b.Op("Floor", []string{b.Op("Exp", []string{h})})
	b.Output("y", b.Op("Neg", []string{y}), &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32})
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 3}, 1, 2, 3)}
	small, with := Shrink(m, in, func(m *graph.Model, in map[string]tensor.Tensor) bool {
		for _, n := range m.Graph.Nodes {
			if n.OpType == "Floor" {
				return true
			}
		}
		return false
	})
	if len(small.Graph.Nodes) != 1 || small.Graph.Nodes[0].OpType != "Floor" || len(with) != 1 {
		t.Errorf("shrunk to\n%s with %d inputs", ModelText(small), len(with))
	}
	p, err := reference.New(small, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), with, nil); err != nil {
		t.Error(err)
	}
}
