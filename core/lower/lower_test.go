//go:build linux

package lower

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// refusing is a device that refuses operators and, if told, int64 values.
func refusing(noInt64 bool, ops ...string) Target {
	return Target{Device: "test:0", Assess: func(_ context.Context, dir string) (backend.Assessment, error) {
		m, err := graph.Load(dir)
		if err != nil {
			return backend.Assessment{}, err
		}
		defer m.Close()
		types := m.Graph.Types()
		a := backend.Assessment{}
		for _, n := range m.Graph.Nodes {
			v := backend.Accept
			for i, name := range n.Inputs {
				if t := types[name]; noInt64 && t != nil && t.Elem == tensor.Int64 && !isShapeOperand(n.OpType, i) {
					v = backend.Refuse(backend.RefusedElementType, "int64 is not known")
				}
			}
			for _, name := range n.Outputs {
				if t := types[name]; noInt64 && t != nil && t.Elem == tensor.Int64 {
					v = backend.Refuse(backend.RefusedElementType, "int64 is not known")
				}
			}
			switch {
			case slices.Contains(ops, n.OpType):
				v = backend.Refuse(backend.RefusedOperator, n.OpType+" is not known")
			case n.Domain != graph.DomainONNX:
				v = backend.Refuse(backend.RefusedFunction, "functions are not known")
			}
			a.Nodes = append(a.Nodes, v)
		}
		return a, nil
	}}
}

func lowered(t *testing.T, m *graph.Model, target Target, dims map[string]int64) *Lowered {
	t.Helper()
	l, err := open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: m}, target, dims)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Release() })
	return l
}

func evaluate(t *testing.T, m *graph.Model, in map[string]tensor.Tensor) map[string]tensor.Tensor {
	t.Helper()
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wanted []string
	for _, o := range m.Graph.Outputs {
		wanted = append(wanted, o.Name)
	}
	out, err := p.Run(t.Context(), in, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func random(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t, err := tensor.New(tensor.Float32, shape)
	if err != nil {
		panic(err)
	}
	for i := range tensor.View[float32](t) {
		tensor.View[float32](t)[i] = float32(rng.NormFloat64())
	}
	return t
}

func f32(dims ...graph.Dim) *graph.Type { return graph.TensorType(tensor.Float32, dims...) }

// TestDecompositionsKeepTheNumbers holds each decomposition against the operator.
func TestDecompositionsKeepTheNumbers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	B, S, K := graph.Sym("batch"), graph.Sym("sequence"), graph.Known
	qkv := func(b *graph.Builder, d graph.Dim) []string {
		return []string{b.Input("q", f32(B, S, d)), b.Input("k", f32(B, S, d)), b.Input("v", f32(B, S, d))}
	}
	heads := func(extra ...*graph.Attr) []*graph.Attr {
		return append(extra, graph.IntAttr("q_num_heads", 2), graph.IntAttr("kv_num_heads", 2))
	}
	three := func() map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"q": random(rng, 2, 5, 8), "k": random(rng, 2, 5, 8), "v": random(rng, 2, 5, 8)}
	}
	ties := tensor.Floats(tensor.Shape{2, 7, 3}, make([]float32, 42)...)
	for i := range tensor.View[float32](ties) {
		tensor.View[float32](ties)[i] = float32(rng.IntN(4))
	}
	mask := tensor.Of(tensor.Bool, tensor.Shape{2, 1, 1, 5}, []bool{true, true, false, true, false, true, false, false, false, false})
	for _, tt := range []struct {
		name  string
		build func(*graph.Builder) string
		in    map[string]tensor.Tensor
		op    string
	}{
		{"layer normalisation", func(b *graph.Builder) string {
			return b.Op("LayerNormalization", []string{b.Input("x", f32(B, S, K(8))), b.Tensor("g", random(rng, 8)), b.Tensor("b", random(rng, 8))}, graph.FloatAttr("epsilon", 1e-3))
		}, map[string]tensor.Tensor{"x": random(rng, 2, 3, 8)}, "LayerNormalization"},
		{"layer normalisation over two axes, without bias", func(b *graph.Builder) string {
			return b.Op("LayerNormalization", []string{b.Input("x", f32(B, K(3), K(8))), b.Tensor("g", random(rng, 3, 8))}, graph.IntAttr("axis", 1))
		}, map[string]tensor.Tensor{"x": random(rng, 2, 3, 8)}, "LayerNormalization"},
		{"RMS normalisation", func(b *graph.Builder) string {
			return b.Op("RMSNormalization", []string{b.Input("x", f32(B, S, K(8))), b.Tensor("g", random(rng, 8))})
		}, map[string]tensor.Tensor{"x": random(rng, 2, 3, 8)}, "RMSNormalization"},
		{"gelu", func(b *graph.Builder) string { return b.Op("Gelu", []string{b.Input("x", f32(B, S))}) },
			map[string]tensor.Tensor{"x": random(rng, 2, 50)}, "Gelu"},
		{"gelu by tanh", func(b *graph.Builder) string {
			return b.Op("Gelu", []string{b.Input("x", f32(B, S))}, graph.StringAttr("approximate", "tanh"))
		}, map[string]tensor.Tensor{"x": random(rng, 2, 50)}, "Gelu"},
		{"place of the greatest", func(b *graph.Builder) string {
			return b.Op("Cast", []string{b.Op("ArgMax", []string{b.Input("x", f32(B, K(7), S))}, graph.IntAttr("axis", -2), graph.IntAttr("keepdims", 0))}, graph.IntAttr("to", int64(tensor.Float32)))
		}, map[string]tensor.Tensor{"x": ties}, "ArgMax"},
		{"last place of the least", func(b *graph.Builder) string {
			return b.Op("Cast", []string{b.Op("ArgMin", []string{b.Input("x", f32(K(2), B, S))}, graph.IntAttr("select_last_index", 1))}, graph.IntAttr("to", int64(tensor.Float32)))
		}, map[string]tensor.Tensor{"x": ties}, "ArgMin"},
		{"attention", func(b *graph.Builder) string { return b.Op("Attention", qkv(b, K(8)), heads()...) }, three(), "Attention"},
		{"attention with scale and softcap", func(b *graph.Builder) string {
			return b.Op("Attention", qkv(b, K(8)), heads(graph.FloatAttr("scale", 0.3), graph.FloatAttr("softcap", 2))...)
		}, three(), "Attention"},
		{"attention with a mask, one row of it empty", func(b *graph.Builder) string {
			return b.Op("Attention", append(qkv(b, K(8)), b.Tensor("mask", mask)), heads()...)
		}, three(), "Attention"},
		{"causal attention", func(b *graph.Builder) string {
			return b.Op("Attention", qkv(b, K(8)), heads(graph.IntAttr("is_causal", 1))...)
		}, three(), "Attention"},
		{"causal attention of known lengths with a mask, some rows of it empty", func(b *graph.Builder) string {
			in := []string{b.Input("q", f32(B, K(5), K(8))), b.Input("k", f32(B, K(5), K(8))), b.Input("v", f32(B, K(5), K(8))), b.Tensor("mask", mask)}
			return b.Op("Attention", in, heads(graph.IntAttr("is_causal", 1))...)
		}, three(), "Attention"},
		{"causal attention with a bias, more keys than queries", func(b *graph.Builder) string {
			in := []string{b.Input("q", f32(B, K(2), K(3), K(4))), b.Input("k", f32(B, K(2), S, K(4))), b.Input("v", f32(B, K(2), S, K(4))), b.Tensor("bias", random(rng, 3, 5))}
			return b.Op("Attention", in, graph.IntAttr("is_causal", 1))
		}, map[string]tensor.Tensor{"q": random(rng, 2, 2, 3, 4), "k": random(rng, 2, 2, 5, 4), "v": random(rng, 2, 2, 5, 4)}, "Attention"},
		{"attention with a bias", func(b *graph.Builder) string {
			return b.Op("Attention", append(qkv(b, K(8)), b.Tensor("bias", random(rng, 5, 5))), heads()...)
		}, three(), "Attention"},
		{"attention in four dimensions", func(b *graph.Builder) string {
			return b.Op("Attention", []string{b.Input("q", f32(B, K(2), S, K(4))), b.Input("k", f32(B, K(2), S, K(4))), b.Input("v", f32(B, K(2), S, K(4)))})
		}, map[string]tensor.Tensor{"q": random(rng, 2, 2, 5, 4), "k": random(rng, 2, 2, 5, 4), "v": random(rng, 2, 2, 5, 4)}, "Attention"},
		{"attention whose heads share keys", func(b *graph.Builder) string {
			return b.Op("Attention", []string{b.Input("q", f32(B, K(6), S, K(4))), b.Input("k", f32(B, K(2), S, K(4))), b.Input("v", f32(B, K(2), S, K(3)))})
		}, map[string]tensor.Tensor{"q": random(rng, 2, 6, 5, 4), "k": random(rng, 2, 2, 5, 4), "v": random(rng, 2, 2, 5, 3)}, "Attention"},
		{"rotary embedding", func(b *graph.Builder) string {
			return b.Op("RotaryEmbedding", []string{b.Input("x", f32(B, S, K(24))), b.Input("c", f32(B, S, K(4))), b.Input("s", f32(B, S, K(4)))}, graph.IntAttr("num_heads", 3))
		}, map[string]tensor.Tensor{"x": random(rng, 2, 5, 24), "c": random(rng, 2, 5, 4), "s": random(rng, 2, 5, 4)}, "RotaryEmbedding"},
		{"rotary embedding of a part, by position", func(b *graph.Builder) string {
			p := b.Const(tensor.Ints(tensor.Shape{2, 5}, 3, 1, 0, 2, 2, 1, 1, 4, 0, 3))
			return b.Op("RotaryEmbedding", []string{b.Input("x", f32(B, K(3), S, K(8))), b.Input("c", f32(K(6), K(3))), b.Input("s", f32(K(6), K(3))), p}, graph.IntAttr("rotary_embedding_dim", 6))
		}, map[string]tensor.Tensor{"x": random(rng, 2, 3, 5, 8), "c": random(rng, 6, 3), "s": random(rng, 6, 3)}, "RotaryEmbedding"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := graph.NewBuilder("test")
			b.Output("y", tt.build(b), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			want := evaluate(t, m, tt.in)["y"]
			l := lowered(t, m, refusing(false, tt.op), nil)
			for _, n := range l.Graph.Graph.Nodes {
				if n.OpType == tt.op {
					t.Errorf("%s is still there", n.Label())
				}
			}
			if len(l.Rewrites) != 1 || !strings.Contains(l.Rewrites[0].What, tt.op) {
				t.Errorf("rewrites %+v", l.Rewrites)
			}
			got := evaluate(t, l.Graph, tt.in)["y"]
			if !got.Shape.Equal(want.Shape) {
				t.Fatalf("shape %v, want %v", got.Shape, want.Shape)
			}
			for i, w := range tensor.View[float32](want) {
				if g := tensor.View[float32](got)[i]; math.Abs(float64(g-w)) > 2e-6*max(1, math.Abs(float64(w))) {
					t.Errorf("element %d: %v, want %v", i, g, w)
				}
			}
		})
	}
}

func embedding(t *testing.T, ids graph.Dim) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("embedding")
	in := b.Input("ids", graph.TensorType(tensor.Int64, graph.Sym("batch"), ids))
	table := b.Tensor("table", random(rand.New(rand.NewPCG(2, 2)), 10, 4))
	shifted := b.Op("Add", []string{in, b.Int(1)})
	b.Output("y", b.Op("Gather", []string{table, shifted}), nil)
	b.Output("next", shifted, nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestInt64BecomesInt32(t *testing.T) {
	m := embedding(t, graph.Sym("sequence"))
	ids := tensor.Ints(tensor.Shape{1, 3}, 0, 5, 8)
	want := evaluate(t, m, map[string]tensor.Tensor{"ids": ids})
	l := lowered(t, m, refusing(true), nil)
	for name, typ := range l.Graph.Graph.Types() {
		if typ.Elem == tensor.Int64 {
			t.Errorf("%s is int64", name)
		}
	}
	got := evaluate(t, l.Graph, map[string]tensor.Tensor{"ids": tensor.Of(tensor.Int32, ids.Shape, []int32{0, 5, 8})})
	if !slices.Equal(got["y"].Data, want["y"].Data) {
		t.Error("other rows were gathered")
	}
	if got["next"].DType != tensor.Int32 || !slices.Equal(tensor.View[int32](got["next"]), []int32{1, 6, 9}) {
		t.Errorf("next is %v", got["next"])
	}
}

// TestPlacesBecomeInt32 narrows an operator that gives int64 by definition.
func TestPlacesBecomeInt32(t *testing.T) {
	b := graph.NewBuilder("places")
	b.Output("y", b.Op("ArgMax", []string{b.Input("x", f32(graph.Sym("n"), graph.Known(3)))}, graph.IntAttr("axis", 1), graph.IntAttr("keepdims", 0)), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	l := lowered(t, m, refusing(true), nil)
	got := evaluate(t, l.Graph, map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{2, 3}, 1, 3, 3, -1, -2, -3)})["y"]
	if got.DType != tensor.Int32 || !slices.Equal(tensor.View[int32](got), []int32{1, 0}) {
		t.Errorf("y is %s %v", got.DType, got.Data)
	}
}

func TestNarrowRefusesWhatDoesNotFit(t *testing.T) {
	if err := Narrow(make([]int32, 2), []int64{1, 1 << 40}); err == nil || !strings.Contains(err.Error(), "1099511627776 at element 1") {
		t.Errorf("got %v", err)
	}
}

func TestLowerFixesShapes(t *testing.T) {
	l := lowered(t, embedding(t, graph.Sym("sequence")), refusing(false), map[string]int64{"batch": 2, "sequence": 16})
	for _, v := range append(l.Graph.Graph.Inputs, l.Graph.Graph.Outputs...) {
		for _, d := range l.Graph.Graph.Types()[v.Name].Dims {
			if d.Size < 0 {
				t.Errorf("%s has an open dimension: %+v", v.Name, v.Type)
			}
		}
	}
}

// gradient is y = sum of op(x), and the derivative of y by x alone.
func gradient(t *testing.T, op string) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("gradient")
	x := b.Input("x", f32(graph.Sym("n"), graph.Known(2)))
	y := b.Op("ReduceSum", []string{b.Op(op, []string{x})})
	d := b.Node(&graph.Node{Name: "gradient", Domain: graph.DomainTraining, OpType: "Gradient", Inputs: []string{x},
		Attrs: []*graph.Attr{{Name: "xs", Kind: graph.AttrStrings, Strings: []string{x}}, graph.StringAttr("y", y)}}, 1)
	b.Output("d", d[0], nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLowerWritesOutGradients: a device that knows standard operators alone
// differentiates, with sizes open and fixed.
func TestLowerWritesOutGradients(t *testing.T) {
	for _, dims := range []map[string]int64{nil, {"n": 2}} {
		l := lowered(t, gradient(t, "Exp"), refusing(false), dims)
		if want := (Simplification{"expanded", 1, "gradients into plain nodes"}); !slices.Contains(l.Simplified, want) {
			t.Errorf("it is not said: %v", l.Simplified)
		}
		in := tensor.Floats(tensor.Shape{2, 2}, 0, 1, -1, 0.5)
		got := evaluate(t, l.Graph, map[string]tensor.Tensor{"x": in})["d"]
		if !got.Shape.Equal(in.Shape) {
			t.Fatalf("shape %v, want %v", got.Shape, in.Shape)
		}
		for i, x := range tensor.View[float32](in) {
			if g, want := float64(tensor.View[float32](got)[i]), math.Exp(float64(x)); math.Abs(g-want) > 1e-6*want {
				t.Errorf("element %d: %v, want %v", i, g, want)
			}
		}
	}
	_, err := open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: gradient(t, "Asinh")}, refusing(false), nil)
	var de *graph.DerivativeError
	if !errors.As(err, &de) || de.OpType != "Asinh" || de.Node != "Asinh" {
		t.Errorf("got %v, want a DerivativeError for Asinh", err)
	}
}

func TestLowerRefuses(t *testing.T) {
	b := graph.NewBuilder("test")
	b.Output("y", b.Op("Sin", []string{b.Input("x", f32(graph.Sym("n")))}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: m}, refusing(false, "Sin"), nil)
	var refused *RefusedError
	if !errors.As(err, &refused) || len(refused.Nodes) != 1 || refused.Nodes[0].OpType != "Sin" {
		t.Errorf("got %v, want a RefusedError for Sin", err)
	}
}

func TestFunctionsAreInlinedWhereRefused(t *testing.T) {
	path := testfiles.Shared(t, "contract", "paged_attention_plain.onnx")
	m, err := graph.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	l := lowered(t, m, refusing(false), nil)
	for _, n := range l.Graph.Graph.Nodes {
		if n.Domain != graph.DomainONNX {
			t.Errorf("%s was not inlined", n.Label())
		}
	}
	if len(l.Rewrites) == 0 || !strings.Contains(l.Rewrites[0].What, "inlined") {
		t.Errorf("rewrites %+v", l.Rewrites)
	}
}

// TestFolderIsNamedByItsContent: the same graph shares a folder, another graph or
// another checkpoint does not.
func TestFolderIsNamedByItsContent(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	dir := func(m *graph.Model, identity string, dims map[string]int64) string {
		l, err := s.Lower(t.Context(), Source{Graph: m, Identity: identity}, refusing(false), dims)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
		return l.Dir
	}
	m := embedding(t, graph.Sym("sequence"))
	first := dir(m, "a", nil)
	if again := dir(m.Clone(), "a", nil); again != first {
		t.Error("the same graph has two folders")
	}
	if other := dir(m, "b", nil); other == first {
		t.Error("two checkpoints share a folder")
	}
	if fixed := dir(m, "a", map[string]int64{"batch": 1, "sequence": 8}); fixed == first {
		t.Error("two shapes share a folder")
	}
}

func TestWeightsAreLinked(t *testing.T) {
	dir := t.TempDir()
	weights := random(rand.New(rand.NewPCG(3, 3)), 10, 4)
	file := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(file, append(make([]byte, 64), weights.Data...), 0o600); err != nil {
		t.Fatal(err)
	}
	b := graph.NewBuilder("linked")
	w := b.Weight("table", tensor.Float32, weights.Shape, graph.External{Path: file, Offset: 64, Length: int64(len(weights.Data))})
	b.Output("y", b.Op("Gather", []string{w, b.Input("ids", graph.TensorType(tensor.Int64, graph.Sym("n")))}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	l := lowered(t, m, refusing(false), nil)
	in, err := os.Stat(filepath.Join(l.Dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if orig, err := os.Stat(file); err != nil || !os.SameFile(in, orig) {
		t.Errorf("the weights were copied: %v", err)
	}
	back, err := graph.Load(l.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	got := evaluate(t, back, map[string]tensor.Tensor{"ids": tensor.Ints(tensor.Shape{1}, 9)})["y"]
	if !slices.Equal(got.Data, weights.Data[9*16:]) {
		t.Error("the folder's weights are others")
	}
}

// TestAttentionInAWindowStays has no decomposition of attention forget the window.
func TestAttentionInAWindowStays(t *testing.T) {
	b := graph.NewBuilder("window")
	b.Import(graph.DomainONNX, 25)
	x := b.Input("x", f32(graph.Known(1), graph.Known(2), graph.Known(6), graph.Known(4)))
	b.Output("y", b.Op("Attention", []string{x, x, x}, graph.IntAttr("is_causal", 1), graph.IntAttr("left_window_size", 0)), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: m}, refusing(false, "Attention"), nil)
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "left_window_size of 0") {
		t.Errorf("got %v", err)
	}
}
