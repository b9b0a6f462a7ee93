package tasks

import (
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func TestInspectQuantized(t *testing.T) {
	weight := func(name string, dtype tensor.DType, shape ...int64) *graph.Initializer {
		v, err := tensor.New(dtype, shape)
		if err != nil {
			t.Fatal(err)
		}
		return &graph.Initializer{Name: name, Tensor: v}
	}
	ints := func(pairs map[string]int64) []*graph.Attr {
		var out []*graph.Attr
		for name, v := range pairs {
			out = append(out, &graph.Attr{Name: name, Kind: graph.AttrInt, Int: v})
		}
		return out
	}
	// An embedding table that the last linear layer reads too, and one of 4 bits without mins.
	g := &graph.Graph{
		Initializers: []*graph.Initializer{
			weight("table.codes", tensor.Uint8, 10, 64), weight("table.scales", tensor.Float16, 10, 2), weight("table.mins", tensor.Float16, 10, 2),
			weight("w.codes", tensor.Uint8, 8, 2, 16), weight("w.scales", tensor.Float32, 8, 2), weight("bias", tensor.Float32, 8),
		},
		Nodes: []*graph.Node{
			{Domain: graph.DomainAccel, OpType: "GatherBlocks", Inputs: []string{"table.codes", "table.scales", "table.mins", "ids"}, Outputs: []string{"x"},
				Attrs: ints(map[string]int64{"bits": 8, "block": 32, "K": 64})},
			{Domain: graph.DomainMicrosoft, OpType: "MatMulNBits", Inputs: []string{"x", "w.codes", "w.scales"}, Outputs: []string{"y"},
				Attrs: ints(map[string]int64{"bits": 4, "block_size": 32, "K": 64, "N": 8})},
			{Domain: graph.DomainAccel, OpType: "MatMulBlocks", Inputs: []string{"x", "table.codes", "table.scales", "table.mins"}, Outputs: []string{"z"},
				Attrs: ints(map[string]int64{"bits": 8, "block": 32, "K": 64, "N": 10})},
		},
	}
	x, err := Inspect(&graph.Model{Graph: g, Opsets: map[string]int64{}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []QuantizedInfo{
		{Bits: 8, Block: 32, Tensors: 1, Weights: 640, Bytes: 640 + 80, BitsPerWeight: 9},
		{Bits: 4, Block: 32, Tensors: 1, Weights: 512, Bytes: 256 + 64, BitsPerWeight: 5},
	}
	if !slices.Equal(x.Quantized, want) {
		t.Errorf("found %+v, want %+v", x.Quantized, want)
	}
	if x.Parameters != 640+512+8 {
		t.Errorf("found %d parameters", x.Parameters)
	}
}
