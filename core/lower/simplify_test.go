//go:build linux

package lower

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/backendtest"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// ops lists the operators of a graph, in order.
func ops(g *graph.Graph) []string {
	out := []string{}
	for _, n := range g.Nodes {
		out = append(out, n.OpType)
	}
	return out
}

func simplified(t *testing.T, m *graph.Model) (*graph.Model, []Simplification) {
	t.Helper()
	c := m.Clone()
	t.Cleanup(func() { c.Close() })
	did, err := Simplify(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err != nil {
		t.Fatalf("what is left is not valid: %v", err)
	}
	return c, did
}

// mustMatch fails unless two sets of results are the same bit for bit, or within
// tol of the largest value where tol is not 0.
func mustMatch(t *testing.T, got, want map[string]tensor.Tensor, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d outputs, want %d", len(got), len(want))
	}
	for name, w := range want {
		if err := match(got[name], w, tol); err != nil {
			t.Errorf("%s %v", name, err)
		}
	}
}

func match(g, w tensor.Tensor, tol float64) error {
	switch {
	case g.DType != w.DType || !g.Shape.Equal(w.Shape):
		return fmt.Errorf("is %s%v, want %s%v", g.DType, g.Shape, w.DType, w.Shape)
	case slices.Equal(g.Strings, w.Strings) && bytes.Equal(g.Data, w.Data):
		return nil
	case tol == 0 || g.DType != tensor.Float32:
		return errors.New("differs")
	}
	var diff, scale float64
	a, b := tensor.View[float32](g.Aligned()), tensor.View[float32](w.Aligned())
	for i := range a {
		if x, y := float64(a[i]), float64(b[i]); x != y && (x == x || y == y) {
			diff, scale = max(diff, math.Abs(x-y)), max(scale, math.Abs(y))
		}
	}
	if diff > tol*scale {
		return fmt.Errorf("differs by %.2g of the largest value, at most %.2g is allowed", diff/scale, tol)
	}
	return nil
}

// TestSimplify holds each pass against what a small graph computed before, and says
// what is left of it.
func TestSimplify(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	N, C, K := graph.Sym("N"), graph.Sym("C"), graph.Known
	x2 := map[string]tensor.Tensor{"x": random(rng, 2, 3)}
	x4 := map[string]tensor.Tensor{"x": random(rng, 2, 3, 4, 5)}
	in2 := func(b *graph.Builder) string { return b.Input("x", f32(N, K(3))) }
	in4 := func(b *graph.Builder) string { return b.Input("x", f32(N, K(3), C, K(5))) }
	i32 := func(v ...int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
	transpose := func(b *graph.Builder, x string, perm ...int64) string {
		return b.Op("Transpose", []string{x}, graph.IntsAttr("perm", perm...))
	}
	cast := func(b *graph.Builder, x string, to tensor.DType) string {
		return b.Op("Cast", []string{x}, graph.IntAttr("to", int64(to)))
	}
	for _, tt := range []struct {
		name  string
		in    map[string]tensor.Tensor
		build func(*graph.Builder) string
		left  string // operators, or "same"
		tol   float64
	}{
		{"identity before an output", x2, func(b *graph.Builder) string {
			return b.Op("Identity", []string{b.Op("Relu", []string{b.Op("Identity", []string{in2(b)})})})
		}, "Relu", 0},
		{"an output that is an input", x2, func(b *graph.Builder) string { return b.Op("Identity", []string{in2(b)}) }, "Identity", 0},
		{"dropout", x2, func(b *graph.Builder) string {
			return b.Op("Relu", []string{b.Op("Dropout", []string{in2(b), b.Float(0.3)})})
		}, "Relu", 0},
		{"nodes that do nothing", x2, func(b *graph.Builder) string {
			x := cast(b, in2(b), tensor.Float32)
			x = b.Op("Reshape", []string{x, b.Ints(0, 3)})
			x = b.Op("Reshape", []string{x, b.Ints(0, -1)})
			x = b.Op("Expand", []string{x, b.Ints(1, 3)})
			x = b.Op("Tile", []string{x, b.Ints(1, 1)})
			x = transpose(b, x, 0, 1)
			x = b.Op("Slice", []string{x, b.Ints(0, 0), b.Ints(math.MaxInt64, 3)})
			x = b.Op("Pad", []string{x, b.Ints(0, 0, 0, 0)})
			x = b.Op("Concat", []string{x}, graph.IntAttr("axis", 0))
			x = b.Op("Mul", []string{b.Float(1), x})
			x = b.Op("Div", []string{x, b.Tensor("ones", tensor.Floats(tensor.Shape{1, 3}, 1, 1, 1))})
			x = b.Op("Sub", []string{x, b.Float(0)})
			x = b.Op("Add", []string{x, b.Float(float32(math.Copysign(0, -1)))})
			return b.Op("Neg", []string{x})
		}, "Reshape Neg", 0}, // where N is 0, -1 has no meaning
		{"what is not quite nothing", map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 3}, float32(math.Copysign(0, -1)), 1, 2)}, func(b *graph.Builder) string {
			x := b.Op("Add", []string{in2(b), b.Float(0)}) // -0 becomes 0
			x = b.Op("Mul", []string{x, b.Tensor("more", tensor.Floats(tensor.Shape{2, 1, 1}, 1, 1))})
			x = b.Op("Slice", []string{x, b.Ints(0), b.Ints(1), b.Ints(1)})
			return b.Op("Reshape", []string{x, b.Ints(2, -1)})
		}, "same", 0},
		{"casts", map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{2, 3}, 0.1, 300, -2.7, 1e9, 0, -0.5)}, func(b *graph.Builder) string {
			x := cast(b, cast(b, in2(b), tensor.Float64), tensor.Float32) // widened and narrowed back: nothing
			x = cast(b, cast(b, x, tensor.Float16), tensor.Float32)       // rounds: stays
			return cast(b, cast(b, x, tensor.Float64), tensor.Bool)       // one
		}, "Cast Cast", 0},
		{"transposes in a row", x4, func(b *graph.Builder) string {
			return b.Op("Relu", []string{transpose(b, transpose(b, in4(b), 0, 2, 3, 1), 0, 2, 1, 3)})
		}, "Transpose Relu", 0},
		{"transposes that undo each other", x4, func(b *graph.Builder) string {
			return b.Op("Relu", []string{transpose(b, transpose(b, in4(b), 0, 2, 3, 1), 0, 3, 1, 2)})
		}, "Relu", 0},
		{"transposes around elementwise nodes", x4, func(b *graph.Builder) string {
			x := in4(b)
			y := b.Op("Sigmoid", []string{b.Op("Mul", []string{transpose(b, x, 0, 2, 3, 1), b.Float(3)})})
			z := b.Op("Tanh", []string{transpose(b, x, 0, 2, 3, 1)})
			return transpose(b, b.Op("Add", []string{y, z}), 0, 3, 1, 2)
		}, "Mul Sigmoid Tanh Add", 0},
		{"transposes around a broadcast", x4, func(b *graph.Builder) string {
			y := b.Op("Add", []string{transpose(b, in4(b), 0, 2, 3, 1), b.Tensor("bias", tensor.Floats(tensor.Shape{3}, 1, 2, 3))})
			return transpose(b, y, 0, 3, 1, 2)
		}, "same", 0},
		{"constants", x2, func(b *graph.Builder) string {
			w := b.Op("Transpose", []string{b.Tensor("w", random(rng, 4, 3))})
			h := b.Op("MatMul", []string{in2(b), w})
			s := b.Op("Sqrt", []string{b.Op("Mul", []string{b.Float(2), b.Float(8)})})
			return b.Op("Div", []string{h, s})
		}, "MatMul Div", 0},
		{"shapes", x4, func(b *graph.Builder) string {
			x := in4(b)
			s := b.Op("Shape", []string{x})
			n := b.Op("Gather", []string{s, b.Ints(1)})
			k := b.Op("Gather", []string{s, b.Ints(3)})
			return b.Op("Reshape", []string{x, b.Op("Concat", []string{b.Ints(-1), n, k}, graph.IntAttr("axis", 0))})
		}, "Reshape", 0},
		{"a large expanded constant", x4, func(b *graph.Builder) string {
			big := b.Op("Expand", []string{b.Float(2), b.Ints(20000, 1, 1, 1, 1, 1)})
			return b.Op("ReduceSum", []string{b.Op("Mul", []string{big, b.Op("ReduceMax", []string{in4(b)})})})
		}, "same", 0},
		{"random numbers", x2, func(b *graph.Builder) string {
			r := b.Op("RandomNormal", nil, graph.IntsAttr("shape", 2, 3))
			l := b.Op("RandomNormalLike", []string{b.Tensor("c", random(rng, 2, 3))})
			return b.Op("Shape", []string{b.Op("Concat", []string{b.Op("Add", []string{r, l}), in2(b)}, graph.IntAttr("axis", 0))})
		}, "random", 0},
		{"an index outside stays and is refused", x2, func(b *graph.Builder) string {
			i := b.Op("Cast", []string{b.Tensor("far", tensor.Floats(tensor.Shape{1}, 7.5))}, graph.IntAttr("to", int64(tensor.Int64)))
			return b.Op("Add", []string{in2(b), b.Op("Gather", []string{b.Tensor("table", tensor.Floats(tensor.Shape{3}, 1, 2, 3)), i})})
		}, "error", 0},
		{"the same twice", x2, func(b *graph.Builder) string {
			x := in2(b)
			l, r := b.Op("Exp", []string{x}), b.Op("Exp", []string{x})
			return b.Op("Sub", []string{b.Op("Neg", []string{l}), b.Op("Neg", []string{r})})
		}, "Exp Neg Sub", 0},
		{"batch normalization after a convolution", x4, func(b *graph.Builder) string {
			c := b.Op("Conv", []string{in4(b), b.Tensor("w", random(rng, 6, 3, 3, 3)), b.Tensor("b", random(rng, 6))}, graph.IntsAttr("pads", 1, 1, 1, 1))
			variance := tensor.Floats(tensor.Shape{6}, 0.5, 1, 2, 0.01, 3, 1)
			return b.Op("Relu", []string{b.Op("BatchNormalization", []string{c, b.Tensor("s", random(rng, 6)), b.Tensor("o", random(rng, 6)),
				b.Tensor("m", random(rng, 6)), b.Tensor("v", variance)})})
		}, "Conv Relu", 1e-6},
		{"the indices are used", x4, func(b *graph.Builder) string {
			v, i := b.Tensor("v", tensor.Floats(tensor.Shape{4}, 4, 3, 2, 1)), i32(2)
			out := b.Node(&graph.Node{OpType: "TopK", Inputs: []string{v, b.Tensor("k", i)}}, 2)
			return b.Op("Add", []string{in4(b), b.Op("ReduceSum", []string{cast(b, out[1], tensor.Float32)})})
		}, "Add", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := graph.NewBuilder("test")
			b.Output("y", tt.build(b), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			run := func(m *graph.Model) (map[string]tensor.Tensor, error) {
				p, err := reference.New(m, reference.Options{})
				if err != nil {
					t.Fatal(err)
				}
				return p.Run(t.Context(), tt.in, nil)
			}
			before := strings.Join(ops(m.Graph), " ")
			want, wantErr := run(m)
			small, did := simplified(t, m)
			got, err := run(small)
			left := strings.Join(ops(small.Graph), " ")
			switch tt.left {
			case "error":
				if err == nil || wantErr == nil {
					t.Fatalf("it runs: %v, and simplified: %v", wantErr, err)
				}
				return
			case "same":
				tt.left = before
			case "random":
				if tt.left = before; !strings.Contains(left, "RandomNormal RandomNormalLike") && len(small.Graph.Nodes) > 0 {
					tt.left = left // the shape alone may be known
				} else {
					tt.left = left
				}
			}
			if wantErr != nil || err != nil {
				t.Fatalf("before: %v, after: %v", wantErr, err)
			}
			if left != tt.left {
				t.Errorf("%s became %s, want %s (%v)", before, left, tt.left, did)
			}
			if len(small.Graph.Nodes) < len(m.Graph.Nodes) && len(did) == 0 {
				t.Error("it does not say what it did")
			}
			mustMatch(t, got, want, tt.tol)
		})
	}
}

// TestSimplifyInlinesBranches takes a graph whose branches use the same names, one
// of them a name of the outer graph later.
func TestSimplifyInlinesBranches(t *testing.T) {
	branch := func(op string) *graph.Graph {
		return &graph.Graph{Name: op, Nodes: []*graph.Node{
			{Name: "inner " + op, OpType: op, Inputs: []string{"x"}, Outputs: []string{"h"}},
			{OpType: "Identity", Inputs: []string{"h"}, Outputs: []string{"o"}},
		}, Outputs: []*graph.Value{{Name: "o"}, {Name: "x"}, {Name: "o"}}}
	}
	yes, no := tensor.Of(tensor.Bool, nil, []bool{true}), tensor.Of(tensor.Bool, nil, []bool{false})
	m := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 23}, Graph: &graph.Graph{
		Name:   "g",
		Inputs: []*graph.Value{{Name: "x", Type: f32(graph.Sym("N"))}},
		Initializers: []*graph.Initializer{
			{Name: "yes", Tensor: yes}, {Name: "no", Tensor: no},
		},
		Nodes: []*graph.Node{
			{Name: "if 1", OpType: "If", Inputs: []string{"yes"}, Outputs: []string{"a", "b", "c"}, Attrs: []*graph.Attr{
				graph.GraphAttr("then_branch", branch("Exp")), graph.GraphAttr("else_branch", branch("Neg"))}},
			{Name: "if 2", OpType: "If", Inputs: []string{"no"}, Outputs: []string{"d", "e", ""}, Attrs: []*graph.Attr{
				graph.GraphAttr("then_branch", branch("Exp")), graph.GraphAttr("else_branch", branch("Neg"))}},
			{OpType: "Sum", Inputs: []string{"a", "b", "c", "d", "e"}, Outputs: []string{"h"}},
		},
		Outputs: []*graph.Value{{Name: "h"}},
	}}
	in := map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{3}, 1, -2, 3)}
	small, did := simplified(t, m)
	mustMatch(t, evaluate(t, small, in), evaluate(t, m, in), 0)
	if got := strings.Join(ops(small.Graph), " "); got != "Exp Neg Sum" {
		t.Errorf("left are %s (%v)", got, did)
	}
	if small.Graph.Nodes[0].Name != "inner Exp" || small.Graph.Nodes[1].Name != "inner Neg" {
		t.Errorf("nodes are called %q and %q", small.Graph.Nodes[0].Name, small.Graph.Nodes[1].Name)
	}
}

// TestSimplifyLeavesWeightsInTheirFiles loads a model with external data: no weight
// may come into the model file, nor anything as large.
func TestSimplifyLeavesWeightsInTheirFiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	b := graph.NewBuilder("test")
	x := b.Input("x", f32(graph.Sym("N"), graph.Known(256)))
	w := b.Tensor("w", random(rng, 256, 256))
	h := b.Op("MatMul", []string{x, b.Op("Transpose", []string{w})})
	h = b.Op("Add", []string{h, b.Op("ReduceSum", []string{w})}) // shrinks
	b.Output("y", b.Op("MatMul", []string{h, b.Op("Mul", []string{w, b.Float(2)})}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{External: 1 << 10}); err != nil {
		t.Fatal(err)
	}
	loaded, err := graph.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	in := map[string]tensor.Tensor{"x": random(rng, 2, 256)}
	small, _ := simplified(t, loaded)
	mustMatch(t, evaluate(t, small, in), evaluate(t, loaded, in), 0)
	if got := strings.Join(ops(small.Graph), " "); got != "Transpose MatMul Add Mul MatMul" {
		t.Errorf("left are %s", got)
	}
	for _, c := range small.Graph.Initializers {
		if c.External == nil && len(c.Tensor.Data) > 1<<10 {
			t.Errorf("%s has %d bytes inside the model", c.Name, len(c.Tensor.Data))
		}
	}
	// The same weights inside the model file may be replaced, as long as it does not grow.
	inside, _ := simplified(t, m)
	var before, after int
	for _, c := range m.Graph.Initializers {
		before += len(c.Tensor.Data)
	}
	for _, c := range inside.Graph.Initializers {
		after += len(c.Tensor.Data)
	}
	if after > before+maxFoldedValue {
		t.Errorf("%d bytes of weights became %d", before, after)
	}
	mustMatch(t, evaluate(t, inside, in), evaluate(t, m, in), 0)
}

// TestSimplifyBelievesNoClaims: a model says of a value between its nodes what does
// not hold. Nothing may be removed on the strength of that.
func TestSimplifyBelievesNoClaims(t *testing.T) {
	b := graph.NewBuilder("test")
	x := b.Input("x", f32(graph.Sym("N")))
	nz := b.Op("NonZero", []string{x})
	b.Output("y", b.Op("Slice", []string{nz, b.Ints(0), b.Ints(2), b.Ints(1)}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	m.Graph.Values = []*graph.Value{{Name: nz, Type: graph.TensorType(tensor.Int64, graph.Known(1), graph.Known(2))}}
	in := map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{4}, 1, 2, 3, 4)}
	small, _ := simplified(t, m)
	mustMatch(t, evaluate(t, small, in), evaluate(t, m, in), 0)
}

// TestSimplifyKeepsTheNumbers runs all models at hand before and after.
func TestSimplifyKeepsTheNumbers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, set := range []struct {
		name string
		dirs []string
	}{
		{"node tests", testfiles.NodeTests(t)},
		{"exports", testfiles.Exports(t)},
	} {
		counts := map[string]int{}
		ran, before, after := 0, 0, 0
		for _, dir := range set.dirs {
			n, m, did, err := keepsTheNumbers(t.Context(), dir)
			if errors.Is(err, errNotRun) {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(dir), err)
				continue
			}
			ran++
			before, after = before+n, after+m
			for _, d := range did {
				counts[d.Pass+" "+d.What] += d.Count
			}
		}
		t.Logf("%s: %d of %d ran, %d nodes became %d", set.name, ran, len(set.dirs), before, after)
		for what, n := range counts {
			t.Logf("%s: %d %s", set.name, n, what)
		}
	}
}

// roundingOf is what the passes that ran may change, relative to the largest value.
func roundingOf(did []Simplification) float64 {
	if slices.ContainsFunc(did, func(d Simplification) bool { return strings.Contains(d.What, "batch normalization") }) {
		return 1e-5
	}
	return 0
}

// TestSimplifyRandomModels runs random graphs before and after.
func TestSimplifyRandomModels(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 30
	}
	before, after := 0, 0
	for seed := range seeds {
		m, in := backendtest.RandomModel(seed)
		small, did := simplified(t, m)
		before, after = before+len(m.Graph.Nodes), after+len(small.Graph.Nodes)
		want := evaluate(t, m, in)
		mustMatch(t, evaluate(t, small, in), want, roundingOf(did))
		sizes := map[string]int64{}
		for _, v := range m.Graph.Inputs {
			for i, d := range v.Type.Dims {
				if d.Param != "" {
					sizes[d.Param] = in[v.Name].Shape[i]
				}
			}
		}
		sized := m.Clone()
		if err := graph.Bind(sized, sizes); err != nil {
			t.Fatal(err)
		}
		small, did = simplified(t, sized)
		mustMatch(t, evaluate(t, small, in), want, roundingOf(did))
		if t.Failed() {
			t.Fatalf("seed %d: %v\n%s", seed, did, backendtest.ModelText(m))
		}
	}
	t.Logf("%d nodes became %d", before, after)
}

var errNotRun = errors.New("the reference does not compute it, or not twice the same")

func keepsTheNumbers(ctx context.Context, dir string) (before, after int, did []Simplification, err error) {
	m, err := graph.Load(dir)
	if err != nil {
		return 0, 0, nil, err
	}
	defer m.Close()
	for _, n := range m.AllNodes() {
		if notFolded[n.OpType] && n.OpType != "Constant" && n.OpType != "Dropout" {
			return 0, 0, nil, errNotRun
		}
	}
	inputs := map[string]graph.Datum{}
	for k, v := range m.Graph.Inputs {
		data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", fmt.Sprintf("input_%d.pb", k)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, nil, err
		}
		if _, inputs[v.Name], err = graph.ParseDatum(data, v.Type.Kind); err != nil {
			return 0, 0, nil, errors.Join(errNotRun, err)
		}
	}
	run := func(m *graph.Model) (map[string]graph.Datum, error) {
		p, err := reference.New(m, reference.Options{})
		if err != nil {
			return nil, err
		}
		return p.RunValues(ctx, inputs, nil)
	}
	want, err := run(m)
	if err != nil {
		return 0, 0, nil, errors.Join(errNotRun, err)
	}
	small := m.Clone()
	defer small.Close()
	if did, err = Simplify(ctx, small); err != nil {
		return 0, 0, nil, err
	}
	got, err := run(small)
	if err != nil {
		return 0, 0, nil, err
	}
	tol := roundingOf(did)
	for i, v := range m.Graph.Outputs {
		if o := small.Graph.Outputs[i]; o.Name != v.Name {
			return 0, 0, nil, fmt.Errorf("output %q became %q", v.Name, o.Name)
		}
		if err := sameDatum(got[v.Name], want[v.Name], tol); err != nil {
			return 0, 0, nil, fmt.Errorf("%s %w (%v)", v.Name, err, did)
		}
	}
	return modelSize(m)[0], modelSize(small)[0], did, nil
}

func sameDatum(g, w graph.Datum, tol float64) error {
	if g.Kind != w.Kind || len(g.Sequence) != len(w.Sequence) || (g.Optional == nil) != (w.Optional == nil) {
		return errors.New("is of another kind or length")
	}
	for i := range g.Sequence {
		if err := sameDatum(g.Sequence[i], w.Sequence[i], tol); err != nil {
			return err
		}
	}
	if g.Optional != nil {
		return sameDatum(*g.Optional, *w.Optional, tol)
	}
	if g.Kind == graph.KindTensor {
		return match(g.Tensor, w.Tensor, tol)
	}
	return nil
}

// TestQuantisedWeightsStay has a device see that weights are of 8 bits, however small.
func TestQuantisedWeightsStay(t *testing.T) {
	b := graph.NewBuilder("quantised")
	w := b.Op("DequantizeLinear", []string{b.Tensor("codes", tensor.Of(tensor.Int8, tensor.Shape{2, 2}, []int8{1, 2, 3, 4})), b.Float(0.5)})
	b.Output("y", b.Op("MatMul", []string{b.Input("x", f32(graph.Sym("n"), graph.Known(2))), w}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Simplify(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if len(m.Graph.Nodes) != 2 {
		t.Errorf("%d nodes are left of two", len(m.Graph.Nodes))
	}
}
