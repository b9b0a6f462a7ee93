package reference

import (
	"context"
	"errors"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// evalVersion computes a node as of an operator set.
func evalVersion(op string, opset int64, in []graph.Datum, outputs int, attrs ...*graph.Attr) ([]graph.Datum, error) {
	o, ok := Lookup(graph.DomainONNX, op, opset)
	if !ok {
		return nil, errors.New(op + " is not registered")
	}
	return o.Eval(context.Background(), node(op, in, outputs, attrs...), in, Env{Seed: 1})
}

func TestOlderForms(t *testing.T) {
	f := func(s tensor.Shape, v ...float32) tensor.Tensor { return tensor.Floats(s, v...) }
	six := f(tensor.Shape{2, 3}, 1, 2, 3, 4, 5, 6)
	wide := f(tensor.Shape{1, 2, 2}, -1, -2, -3, -4)
	integer, str, ints := graph.IntAttr, graph.StringAttr, graph.IntsAttr
	on := integer("broadcast", 1)
	for _, c := range []struct {
		op    string
		opset int64
		in    []tensor.Tensor
		attrs []*graph.Attr
		want  tensor.Tensor
	}{
		{"Add", 6, []tensor.Tensor{six, six}, nil, f(tensor.Shape{2, 3}, 2, 4, 6, 8, 10, 12)},
		{"Add", 6, []tensor.Tensor{six, f(tensor.Shape{3}, 1, 2, 3)}, []*graph.Attr{on}, f(tensor.Shape{2, 3}, 2, 4, 6, 5, 7, 9)},
		{"Sub", 1, []tensor.Tensor{six, f(tensor.Shape{2}, 1, 2)}, []*graph.Attr{on, integer("axis", 0)}, f(tensor.Shape{2, 3}, 0, 1, 2, 2, 3, 4)},
		{"Pow", 1, []tensor.Tensor{six, f(tensor.Shape{1, 1}, 2)}, []*graph.Attr{on}, f(tensor.Shape{2, 3}, 1, 4, 9, 16, 25, 36)},
		{"Max", 6, []tensor.Tensor{six, f(tensor.Shape{2, 3}, 3, 2, 1, 6, 5, 4)}, nil, f(tensor.Shape{2, 3}, 3, 2, 3, 6, 5, 6)},
		{"PRelu", 6, []tensor.Tensor{wide, f(tensor.Shape{2}, 2, 3)}, nil, f(tensor.Shape{1, 2, 2}, -2, -4, -9, -12)},
		{"PRelu", 1, []tensor.Tensor{wide, f(tensor.Shape{1}, 2)}, nil, f(tensor.Shape{1, 2, 2}, -2, -4, -6, -8)},
		{"Gemm", 6, []tensor.Tensor{six, six, f(tensor.Shape{2, 2}, 1, 0, 0, 1)}, []*graph.Attr{integer("transB", 1)}, f(tensor.Shape{2, 2}, 15, 32, 32, 78)},
		{"Selu", 1, []tensor.Tensor{f(tensor.Shape{1}, 2)}, nil, f(tensor.Shape{1}, 2*1.0507)},
		{"Clip", 1, []tensor.Tensor{six}, []*graph.Attr{graph.FloatAttr("max", 3)}, f(tensor.Shape{2, 3}, 1, 2, 3, 3, 3, 3)},
		{"Cast", 1, []tensor.Tensor{six}, []*graph.Attr{str("to", "INT64")}, tensor.Ints(tensor.Shape{2, 3}, 1, 2, 3, 4, 5, 6)},
		{"Concat", 1, []tensor.Tensor{six, six}, nil, f(tensor.Shape{2, 6}, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6)},
		{"Split", 1, []tensor.Tensor{six, f(tensor.Shape{2}, 1, 1)}, []*graph.Attr{integer("axis", 0)}, f(tensor.Shape{1, 3}, 1, 2, 3)},
		{"Reshape", 1, []tensor.Tensor{six}, []*graph.Attr{ints("shape", 3, -1)}, f(tensor.Shape{3, 2}, 1, 2, 3, 4, 5, 6)},
		{"TopK", 1, []tensor.Tensor{six}, []*graph.Attr{integer("k", 1)}, f(tensor.Shape{2, 1}, 3, 6)},
		{"Tile", 1, []tensor.Tensor{six, f(tensor.Shape{}, 2), f(tensor.Shape{}, 1)}, nil, f(tensor.Shape{2, 6}, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6)},
		{"Pad", 1, []tensor.Tensor{six}, []*graph.Attr{ints("paddings", 0, 1, 0, 0)}, f(tensor.Shape{2, 4}, 0, 1, 2, 3, 0, 4, 5, 6)},
		{"Upsample", 1, []tensor.Tensor{f(tensor.Shape{1, 1, 1, 2}, 1, 2)}, []*graph.Attr{graph.FloatAttr("height_scale", 2), graph.FloatAttr("width_scale", 1)},
			f(tensor.Shape{1, 1, 2, 2}, 1, 2, 1, 2)},
		{"Dropout", 6, []tensor.Tensor{six}, []*graph.Attr{integer("is_test", 1)}, six},
		{"GlobalLpPool", 1, []tensor.Tensor{wide}, nil, f(tensor.Shape{1, 2, 1}, 2.236068, 5)},
		{"BatchNormalization", 6, []tensor.Tensor{wide, f(tensor.Shape{2}, 1, 1), f(tensor.Shape{2}, 0, 1), f(tensor.Shape{2}, 0, 0), f(tensor.Shape{2}, 1, 4)},
			[]*graph.Attr{integer("is_test", 1), graph.FloatAttr("epsilon", 0)}, f(tensor.Shape{1, 2, 2}, -1, -2, -0.5, -1)},
		{"BatchNormalization", 6, []tensor.Tensor{wide, f(tensor.Shape{2}, 1, 1), f(tensor.Shape{2}, 0, 0), f(tensor.Shape{2}, 9, 9), f(tensor.Shape{2}, 9, 9)},
			[]*graph.Attr{graph.FloatAttr("epsilon", 0)}, f(tensor.Shape{1, 2, 2}, 1, -1, 1, -1)},
	} {
		outputs := 1
		if c.op == "Split" || c.op == "TopK" {
			outputs = 2
		}
		got, err := evalVersion(c.op, c.opset, values(c.in...), outputs, c.attrs...)
		if err != nil {
			t.Errorf("%s-%d: %v", c.op, c.opset, err)
			continue
		}
		if err := sameTensor(got[0].Tensor, c.want, 1e-6, 0); err != nil {
			t.Errorf("%s-%d: %v", c.op, c.opset, err)
		}
	}
	for _, c := range []struct {
		op    string
		in    []tensor.Tensor
		attrs []*graph.Attr
	}{
		{"Add", []tensor.Tensor{six, f(tensor.Shape{3}, 1, 2, 3)}, nil},
		{"Add", []tensor.Tensor{six, f(tensor.Shape{2}, 1, 2)}, []*graph.Attr{on}},
		{"Max", []tensor.Tensor{six, f(tensor.Shape{3}, 1, 2, 3)}, nil},
		{"Gemm", []tensor.Tensor{six, six, f(tensor.Shape{2}, 1, 0)}, []*graph.Attr{integer("transB", 1)}},
		{"Cast", []tensor.Tensor{six}, []*graph.Attr{str("to", "float")}},
	} {
		opset := int64(6)
		if c.op == "Cast" {
			opset = 1
		}
		_, err := evalVersion(c.op, opset, values(c.in...), 1, c.attrs...)
		var ne *NodeError
		var internal *InternalError
		if !errors.As(err, &ne) || errors.As(err, &internal) {
			t.Errorf("%s with %v is not refused: %v", c.op, c.attrs, err)
		}
	}
	// In training, elements are dropped or doubled.
	got, err := evalVersion("Dropout", 6, values(filled(tensor.Shape{1000}, 1)), 2)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for i := range 1000 {
		v, m := floatAt(got[0].Tensor, i), floatAt(got[1].Tensor, i)
		if v != 2*m || m != 0 && m != 1 {
			t.Fatalf("element %d is %g, its mask %g", i, v, m)
		}
		kept += int(m)
	}
	if kept < 400 || kept > 600 {
		t.Errorf("%d of 1000 elements are kept", kept)
	}
}

// Scan of version 8 takes a batch of sequences of different lengths, and any of them
// from its end.
func TestScanBatches(t *testing.T) {
	body := &graph.Graph{
		Name:    "body",
		Inputs:  []*graph.Value{{Name: "sum"}, {Name: "x"}, {Name: "back"}},
		Nodes:   []*graph.Node{{OpType: "Add", Inputs: []string{"sum", "x"}, Outputs: []string{"next"}}, {OpType: "Identity", Inputs: []string{"back"}, Outputs: []string{"y"}}},
		Outputs: []*graph.Value{{Name: "next"}, {Name: "y", Type: graph.TensorType(tensor.Float32)}},
	}
	x := tensor.Floats(tensor.Shape{2, 3}, 1, 2, 3, 10, 20, 30)
	in := values(tensor.Ints(tensor.Shape{2}, 3, 2), tensor.Floats(tensor.Shape{2}, 100, 200), x, x)
	o, _ := Lookup(graph.DomainONNX, "Scan", 8)
	n := node("Scan", in, 2, graph.IntAttr("num_scan_inputs", 2), graph.IntsAttr("directions", 0, 1), graph.GraphAttr("body", body))
	got, err := o.Eval(context.Background(), n, in, Env{Opsets: map[string]int64{"": 8}})
	if err != nil {
		t.Fatal(err)
	}
	if err := sameTensor(got[0].Tensor, tensor.Floats(tensor.Shape{2}, 106, 230), 0, 0); err != nil {
		t.Errorf("states: %v", err)
	}
	if err := sameTensor(got[1].Tensor, tensor.Floats(tensor.Shape{2, 3}, 3, 2, 1, 20, 10, 0), 0, 0); err != nil {
		t.Errorf("outputs: %v", err)
	}
}
