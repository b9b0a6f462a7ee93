package reference

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// runtimeTensor is a tensor in runtime.json: text or numbers.
type runtimeTensor struct {
	Type  string
	Shape tensor.Shape
	Data  []any
}

func (r *runtimeTensor) tensor(t *testing.T) tensor.Tensor {
	t.Helper()
	d, err := tensor.ParseDType(r.Type)
	if err != nil {
		t.Fatal(err)
	}
	x := zeros(t, d, r.Shape)
	for i, v := range r.Data {
		switch v := v.(type) {
		case string:
			x.Strings[i] = v
		case bool:
			if v {
				storeNumber(x, i, 1)
			}
		case float64:
			storeNumber(x, i, v)
		}
	}
	return x
}

// runtimeCase is a node, its inputs and what ONNX Runtime makes of them; see
// testdata/runtime.py.
type runtimeCase struct {
	Op, Domain      string
	Opset           int64
	Attrs           map[string]any
	Inputs, Outputs []*runtimeTensor
}

func (r *runtimeCase) String() string { return fmt.Sprintf("%s %v", r.Op, r.Attrs) }

// node makes the node that the operator's table has attributes for.
func (r *runtimeCase) node(t *testing.T) (n *graph.Node, in []graph.Datum) {
	t.Helper()
	ts := make([]tensor.Tensor, len(r.Inputs))
	for i, v := range r.Inputs {
		if v != nil {
			ts[i] = v.tensor(t)
		}
	}
	in = values(ts...)
	n = node(r.Op, in, len(r.Outputs))
	n.Domain = r.Domain
	op, ok := Lookup(r.Domain, r.Op, r.Opset)
	if !ok {
		t.Fatalf("%s-%d is not registered", r.Op, r.Opset)
	}
	number := func(v any) float64 { // also "nan"
		if s, ok := v.(string); ok {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		return v.(float64)
	}
	for name, v := range r.Attrs {
		a := &graph.Attr{Name: name, Kind: op.attrs[name].kind}
		switch a.Kind {
		case graph.AttrString:
			a.String = v.(string)
		case graph.AttrInt:
			a.Int = int64(number(v))
		case graph.AttrFloat:
			a.Float = float32(number(v))
		case graph.AttrInts:
			for _, x := range v.([]any) {
				a.Ints = append(a.Ints, int64(number(x)))
			}
		case graph.AttrFloats:
			for _, x := range v.([]any) {
				a.Floats = append(a.Floats, float32(number(x)))
			}
		case graph.AttrStrings:
			for _, x := range v.([]any) {
				a.Strings = append(a.Strings, x.(string))
			}
		case graph.AttrTensor:
			m := v.(map[string]any)
			x := &runtimeTensor{Type: m["type"].(string), Data: m["data"].([]any)}
			for _, d := range m["shape"].([]any) {
				x.Shape = append(x.Shape, int64(number(d)))
			}
			a.Tensor = &graph.Initializer{Tensor: x.tensor(t)}
		default:
			t.Fatalf("%s has attribute %s of kind %d", r.Op, name, a.Kind)
		}
		n.Attrs = append(n.Attrs, a)
	}
	return n, in
}

func (r *runtimeCase) eval(n *graph.Node, in []graph.Datum) ([]graph.Datum, error) {
	o, _ := Lookup(r.Domain, r.Op, r.Opset)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return o.Eval(ctx, n, in, Env{MaxBytes: 256 << 20})
}

func runtimeCases(t *testing.T) []*runtimeCase {
	var cases []*runtimeCase
	readJSON(t, filepath.Join("testdata", "runtime.json"), &cases)
	return cases
}

// TestRuntimeCases compares nodes that ONNX has few tests of with ONNX Runtime.
func TestRuntimeCases(t *testing.T) {
	count := map[string]int{}
	for i, rc := range runtimeCases(t) {
		n, in := rc.node(t)
		got, err := rc.eval(n, in)
		if err != nil {
			t.Errorf("case %d (%s): %v", i, rc, err)
			continue
		}
		for k, w := range rc.Outputs {
			if err := sameTensor(got[k].Tensor, w.tensor(t), 1e-5, 1e-6); err != nil {
				t.Errorf("case %d (%s), output %d: %v", i, rc, k, err)
			}
		}
		count[rc.Op]++
	}
	for op, want := range map[string]int{"RNN": 8, "GRU": 4, "LSTM": 4, "RoiAlign": 4, "MaxRoiPool": 2, "NonMaxSuppression": 3, "TfIdfVectorizer": 7,
		"StringNormalizer": 3, "StringSplit": 2, "RegexFullMatch": 1, "Det": 1, "LabelEncoder": 2, "TreeEnsemble": 4} {
		if count[op] != want {
			t.Errorf("%d cases of %s, wants %d", count[op], op, want)
		}
	}
}

// batchFirst swaps the axes that layout 1 swaps.
func batchFirst(t *testing.T, x tensor.Tensor, perm ...int64) graph.Datum {
	out, err := evalOp(graph.DomainONNX, "Transpose", values(x), 1, graph.IntsAttr("perm", perm...))
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// Layout 1 is the same with the batch first.
func TestRecurrentLayout(t *testing.T) {
	ran := 0
	for i, rc := range runtimeCases(t) {
		if !slices.Contains([]string{"RNN", "GRU", "LSTM"}, rc.Op) {
			continue
		}
		n, in := rc.node(t)
		want, err := rc.eval(n, in)
		if err != nil {
			t.Fatalf("case %d (%s): %v", i, rc, err)
		}
		n.Attrs = append(n.Attrs, graph.IntAttr("layout", 1))
		for k, v := range in {
			if v.Kind != 0 && (k == 0 || k == 5 || k == 6) {
				in[k] = batchFirst(t, v.Tensor, 1, 0, 2)
			}
		}
		got, err := rc.eval(n, in)
		if err != nil {
			t.Fatalf("case %d (%s, layout 1): %v", i, rc, err)
		}
		for k := range want {
			perm := []int64{1, 0, 2}
			if k == 0 {
				perm = []int64{2, 0, 1, 3}
			}
			if err := sameValue(got[k], batchFirst(t, want[k].Tensor, perm...), 0, 0); err != nil {
				t.Errorf("case %d (%s), layout 1, output %d: %v", i, rc, k, err)
			}
		}
		ran++
	}
	if ran < 16 {
		t.Errorf("only %d cases", ran)
	}
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

// Nearly right calls are refused or computed, never a panic.
func TestMutatedRuntimeCases(t *testing.T) {
	seeds, ran := uint64(30), 0
	if testing.Short() {
		seeds = 4
	}
	for i, rc := range runtimeCases(t) {
		whole, all := rc.node(t)
		for seed := range seeds {
			r := randomCall{rand.New(rand.NewPCG(seed, uint64(i)))}
			n := *whole
			n.Attrs = slices.Clone(whole.Attrs)
			in := slices.Clone(all)
			for range 1 + r.IntN(2) {
				r.mutate(in, []*graph.Node{&n})
			}
			_, err := rc.eval(&n, in)
			var internal *InternalError
			if errors.As(err, &internal) {
				t.Fatalf("case %d (%s), seed %d: %v", i, rc, seed, err)
			}
			if err == nil {
				ran++
			}
		}
	}
	t.Logf("%d mutated calls were computed", ran)
	if ran == 0 {
		t.Error("no mutated call was computed")
	}
}
