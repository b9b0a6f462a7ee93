package reference

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// recurrentCase is a node, its inputs and what ONNX Runtime makes of them; see
// testdata/recurrent.py.
type recurrentCase struct {
	Op              string
	Attrs           map[string]any
	Inputs, Outputs []*struct {
		Shape tensor.Shape
		Data  []float32
	}
}

func (r *recurrentCase) node() (n *graph.Node, in []graph.Datum) {
	ts := make([]tensor.Tensor, len(r.Inputs))
	for i, v := range r.Inputs {
		switch {
		case v == nil:
		case i == 4: // sequence_lens
			ts[i] = tensor.Tensor{DType: tensor.Int32, Shape: v.Shape, Data: make([]byte, 4*len(v.Data))}
			for k, x := range v.Data {
				putInt(ts[i], k, int64(x))
			}
		default:
			ts[i] = tensor.Floats(v.Shape, v.Data...)
		}
	}
	in = values(ts...)
	n = node(r.Op, in, len(r.Outputs))
	for name, v := range r.Attrs {
		switch v := v.(type) {
		case string:
			n.Attrs = append(n.Attrs, graph.StringAttr(name, v))
		case float64:
			if name == "clip" {
				n.Attrs = append(n.Attrs, graph.FloatAttr(name, float32(v)))
			} else {
				n.Attrs = append(n.Attrs, graph.IntAttr(name, int64(v)))
			}
		case []any:
			a := &graph.Attr{Name: name, Kind: graph.AttrFloats}
			for _, x := range v {
				switch x := x.(type) {
				case string:
					a.Kind, a.Strings = graph.AttrStrings, append(a.Strings, x)
				case float64:
					a.Floats = append(a.Floats, float32(x))
				}
			}
			n.Attrs = append(n.Attrs, a)
		}
	}
	return n, in
}

// batchFirst swaps the axes that layout 1 swaps.
func batchFirst(t *testing.T, x tensor.Tensor, perm ...int64) graph.Datum {
	out, err := evalOp(graph.DomainONNX, "Transpose", values(x), 1, graph.IntsAttr("perm", perm...))
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func TestRecurrent(t *testing.T) {
	var cases []recurrentCase
	readJSON(t, filepath.Join("testdata", "recurrent.json"), &cases)
	for i, rc := range cases {
		n, in := rc.node()
		got, err := evalNode(n, in)
		if err != nil {
			t.Fatalf("case %d (%s %v): %v", i, rc.Op, rc.Attrs, err)
		}
		// The same with the batch first.
		n.Attrs = append(n.Attrs, graph.IntAttr("layout", 1))
		for k, v := range in {
			if v.Kind != 0 && (k == 0 || k == 5 || k == 6) {
				in[k] = batchFirst(t, v.Tensor, 1, 0, 2)
			}
		}
		swapped, err := evalNode(n, in)
		if err != nil {
			t.Fatalf("case %d (%s %v, layout 1): %v", i, rc.Op, rc.Attrs, err)
		}
		for k, w := range rc.Outputs {
			want := tensor.Floats(w.Shape, w.Data...)
			if err := sameTensor(got[k].Tensor, want, 1e-5, 1e-6); err != nil {
				t.Errorf("case %d (%s %v), output %d: %v", i, rc.Op, rc.Attrs, k, err)
			}
			perm := []int64{1, 0, 2}
			if k == 0 {
				perm = []int64{2, 0, 1, 3}
			}
			if err := sameValue(swapped[k], batchFirst(t, got[k].Tensor, perm...), 0, 0); err != nil {
				t.Errorf("case %d (%s %v), layout 1, output %d: %v", i, rc.Op, rc.Attrs, k, err)
			}
		}
	}
	if len(cases) < 16 {
		t.Errorf("only %d cases", len(cases))
	}
}

func evalNode(n *graph.Node, in []graph.Datum) ([]graph.Datum, error) {
	o, ok := Lookup(n.Domain, n.OpType, newest[n.Domain])
	if !ok {
		return nil, errors.New("not registered")
	}
	return o.Eval(context.Background(), n, in, Env{})
}

func TestRecurrentRefuses(t *testing.T) {
	f := func(s ...int64) tensor.Tensor { return zeros(t, tensor.Float32, s) }
	x, w, r := f(2, 1, 3), f(1, 4, 3), f(1, 4, 4)
	none := tensor.Tensor{}
	for name, c := range map[string]struct {
		in    []tensor.Tensor
		attrs []*graph.Attr
		input int
	}{
		"X of rank 2":        {[]tensor.Tensor{f(2, 3), w, r}, nil, 0},
		"W of another input": {[]tensor.Tensor{x, f(1, 4, 2), r}, nil, 1},
		"R of one direction": {[]tensor.Tensor{x, w, r}, []*graph.Attr{graph.StringAttr("direction", "bidirectional")}, 2},
		"hidden_size":        {[]tensor.Tensor{x, w, r}, []*graph.Attr{graph.IntAttr("hidden_size", 3)}, 2},
		"B":                  {[]tensor.Tensor{x, w, r, f(1, 4)}, nil, 3},
		"sequence_lens":      {[]tensor.Tensor{x, w, r, none, zeros(t, tensor.Int32, tensor.Shape{2})}, nil, 4},
		"initial_h":          {[]tensor.Tensor{x, w, r, none, none, f(1, 2, 4)}, nil, 5},
		"unknown function":   {[]tensor.Tensor{x, w, r}, []*graph.Attr{{Name: "activations", Kind: graph.AttrStrings, Strings: []string{"Gelu"}}}, -1},
		"too many alphas":    {[]tensor.Tensor{x, w, r}, []*graph.Attr{graph.FloatsAttr("activation_alpha", 1)}, -1},
	} {
		_, err := evalOp(graph.DomainONNX, "RNN", values(c.in...), 2, c.attrs...)
		var ne *NodeError
		if !errors.As(err, &ne) || ne.Input != c.input {
			t.Errorf("%s: error %v, wants one about input %d", name, err, c.input)
		}
	}
	// Lengths beyond the sequence.
	lens := tensor.Tensor{DType: tensor.Int32, Shape: tensor.Shape{1}, Data: []byte{3, 0, 0, 0}}
	if _, err := evalOp(graph.DomainONNX, "RNN", values(x, w, r, none, lens), 2); err == nil {
		t.Error("a sequence of 3 of 2 steps is computed")
	}
}
