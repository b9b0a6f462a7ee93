package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// runners are the instruction sets that this machine can run.
func runners(t *testing.T) []*kernels.Runner {
	t.Helper()
	lib, err := kernels.Open("")
	if err != nil {
		t.Fatal(err)
	}
	return runnersOf(t, lib)
}

func runnersOf(t *testing.T, lib *kernels.Library) []*kernels.Runner {
	t.Helper()
	var out []*kernels.Runner
	for _, isa := range lib.ISAs() {
		if !isa.Supported {
			t.Logf("%s is not tested: this machine does not have it", isa.Name)
			continue
		}
		r, err := lib.NewRunner(kernels.Config{ISA: isa.Name, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		out = append(out, r)
	}
	return out
}

// collected are the outputs of a run.
type collected struct {
	only map[int]bool // nil: all
	got  map[int]tensor.Tensor
}

func (c *collected) Wanted(i int) bool { return c.only == nil || c.only[i] }
func (c *collected) Place(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	t, err := tensor.New(d, s)
	c.got[i] = t
	return t, err
}
func (c *collected) Buffer(int) (backend.Value, int64, bool)      { return backend.Value{}, 0, false }
func (c *collected) Filled(int, tensor.DType, tensor.Shape) error { return nil }
func (c *collected) Give(i int, v graph.Datum) error {
	c.got[i] = v.Tensor
	return nil
}

type testGraph struct {
	name   string
	build  func(b *graph.Builder, rng *rand.Rand)
	inputs func(rng *rand.Rand) map[string]tensor.Tensor
	units  int      // native operations and reference nodes; 0: not looked at
	slow   []string // operators that run on the reference operators
}

func floats(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t, err := tensor.New(tensor.Float32, shape)
	if err != nil {
		panic(err)
	}
	for i := range tensor.View[float32](t) {
		tensor.View[float32](t)[i] = float32(rng.NormFloat64())
	}
	return t
}

func halves(rng *rand.Rand, shape ...int64) tensor.Tensor {
	t, err := tensor.New(tensor.Float16, shape)
	if err != nil {
		panic(err)
	}
	for i := range tensor.View[uint16](t) {
		// Between 1 and 2, either sign.
		tensor.View[uint16](t)[i] = 0x3c00 | uint16(rng.IntN(1<<10)) | uint16(rng.IntN(2))<<15
	}
	return t
}

func typed(d tensor.DType, names ...string) *graph.Type {
	var dims []graph.Dim
	for _, n := range names {
		var size int64
		if _, err := fmt.Sscan(n, &size); err == nil {
			dims = append(dims, graph.Known(size))
		} else {
			dims = append(dims, graph.Sym(n))
		}
	}
	return graph.TensorType(d, dims...)
}

func one(names []string, shapes ...tensor.Shape) func(*rand.Rand) map[string]tensor.Tensor {
	return func(rng *rand.Rand) map[string]tensor.Tensor {
		m := map[string]tensor.Tensor{}
		for i, n := range names {
			m[n] = floats(rng, shapes[i]...)
		}
		return m
	}
}

func linearOf(b *graph.Builder, rng *rand.Rand, x, name string, out, in int64) string {
	w := b.Op("Transpose", []string{b.Tensor(name+".weight", floats(rng, out, in))}, graph.IntsAttr("perm", 1, 0))
	return b.Op("Add", []string{b.Op("MatMul", []string{x, w}), b.Tensor(name+".bias", floats(rng, out))})
}

var f32 = tensor.Float32

var testGraphs = []testGraph{
	{name: "linear, bias, gelu", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "B", "S", "33"))
		b.Output("y", b.Op("Gelu", []string{linearOf(b, rng, x, "fc", 17, 33)}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{2, 3, 33}), units: 1},
	{name: "linear with residual", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "B", "S", "16"))
		b.Output("y", b.Op("Add", []string{x, linearOf(b, rng, x, "fc", 16, 16)}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{2, 3, 16}), units: 1},
	{name: "gemm", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "9"))
		y := b.Op("Gemm", []string{x, b.Tensor("w", floats(rng, 5, 9)), b.Tensor("b", floats(rng, 5))}, graph.IntAttr("transB", 1), graph.FloatAttr("alpha", 0.5))
		b.Output("y", b.Op("Tanh", []string{y}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{7, 9}), units: 1},
	{name: "half-precision weight, stored both ways", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "8"))
		w := b.Op("Cast", []string{b.Tensor("w", halves(rng, 4, 8))}, graph.IntAttr("to", int64(f32)))
		v := b.Op("Cast", []string{b.Tensor("v", halves(rng, 4, 6))}, graph.IntAttr("to", int64(f32)))
		h := b.Op("MatMul", []string{x, b.Op("Transpose", []string{w}, graph.IntsAttr("perm", 1, 0))})
		b.Output("y", b.Op("MatMul", []string{h, v}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{3, 8}), units: 2},
	{name: "sum and normalise, sum read again", build: func(b *graph.Builder, rng *rand.Rand) {
		x, y := b.Input("x", typed(f32, "N", "24")), b.Input("y", typed(f32, "N", "24"))
		s := b.Op("Add", []string{x, y})
		n := b.Op("LayerNormalization", []string{s, b.Tensor("g", floats(rng, 24)), b.Tensor("b", floats(rng, 24))}, graph.FloatAttr("epsilon", 1e-5))
		b.Output("z", b.Op("Mul", []string{n, s}), nil)
	}, inputs: one([]string{"x", "y"}, tensor.Shape{5, 24}, tensor.Shape{5, 24}), units: 2},
	{name: "attention with a mask, heads in rows", build: func(b *graph.Builder, rng *rand.Rand) {
		in := []string{b.Input("q", typed(f32, "B", "S", "16")), b.Input("k", typed(f32, "B", "T", "16")), b.Input("v", typed(f32, "B", "T", "16"))}
		m := b.Op("Unsqueeze", []string{b.Op("Greater", []string{b.Input("m", typed(f32, "B", "T")), b.Float(0)}), b.Ints(1, 2)})
		b.Output("y", b.Op("Attention", append(in, m), graph.IntAttr("q_num_heads", 4), graph.IntAttr("kv_num_heads", 4)), nil)
	}, inputs: one([]string{"q", "k", "v", "m"}, tensor.Shape{2, 5, 16}, tensor.Shape{2, 7, 16}, tensor.Shape{2, 7, 16}, tensor.Shape{2, 7}), units: 2},
	{name: "attention, shared key heads, causal", build: func(b *graph.Builder, rng *rand.Rand) {
		in := []string{b.Input("q", typed(f32, "B", "4", "S", "8")), b.Input("k", typed(f32, "B", "2", "S", "8")), b.Input("v", typed(f32, "B", "2", "S", "6"))}
		b.Output("y", b.Op("Attention", in, graph.IntAttr("is_causal", 1), graph.FloatAttr("softcap", 3)), nil)
	}, inputs: one([]string{"q", "k", "v"}, tensor.Shape{2, 4, 5, 8}, tensor.Shape{2, 2, 5, 8}, tensor.Shape{2, 2, 5, 6}), units: 1},
	{name: "embedding of three tables", build: func(b *graph.Builder, rng *rand.Rand) {
		row := func(name string, n int64) string {
			return b.Op("Gather", []string{b.Tensor(name, floats(rng, n, 12)), b.Input(name+"_ids", typed(tensor.Int64, "B", "S"))})
		}
		s := b.Op("Add", []string{b.Op("Add", []string{row("word", 30), row("type", 2)}), row("place", 9)})
		b.Output("y", b.Op("LayerNormalization", []string{s, b.Tensor("g", floats(rng, 12)), b.Tensor("b", floats(rng, 12))}), nil)
	}, inputs: func(rng *rand.Rand) map[string]tensor.Tensor {
		m := map[string]tensor.Tensor{}
		for name, n := range map[string]int64{"word_ids": 30, "type_ids": 2, "place_ids": 9} {
			ids := make([]int64, 8)
			for i := range ids {
				ids[i] = rng.Int64N(n)
			}
			m[name] = tensor.Ints(tensor.Shape{2, 4}, ids...)
		}
		return m
	}, units: 1},
	{name: "a chain that broadcasts", build: func(b *graph.Builder, rng *rand.Rand) {
		x, y := b.Input("x", typed(f32, "B", "S", "4")), b.Input("y", typed(f32, "S", "1"))
		s := b.Op("Mul", []string{b.Op("Add", []string{x, y}), b.Float(2)})
		w := b.Op("Where", []string{b.Op("Less", []string{s, b.Float(0)}), b.Op("Exp", []string{s}), b.Op("Sub", []string{s, y})})
		b.Output("z", b.Op("Sigmoid", []string{w}), nil)
	}, inputs: one([]string{"x", "y"}, tensor.Shape{2, 3, 4}, tensor.Shape{3, 1})},
	{name: "a long chain", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N"))
		v := x
		for i := range 40 {
			v = b.Op("Tanh", []string{b.Op("Add", []string{v, b.Float(float32(i) / 8)})})
		}
		b.Output("y", v, nil)
	}, inputs: one([]string{"x"}, tensor.Shape{19})},
	{name: "masked mean, normalised", build: func(b *graph.Builder, rng *rand.Rand) {
		x, m := b.Input("x", typed(f32, "B", "S", "6")), b.Input("m", typed(tensor.Int64, "B", "S"))
		w := b.Op("Unsqueeze", []string{b.Op("Cast", []string{m}, graph.IntAttr("to", int64(f32))), b.Ints(-1)})
		keep := graph.IntAttr("keepdims", 0)
		mean := b.Op("Div", []string{b.Op("ReduceSum", []string{b.Op("Mul", []string{x, w}), b.Ints(1)}, keep),
			b.Op("Max", []string{b.Op("ReduceSum", []string{w, b.Ints(1)}, keep), b.Float(1e-9)})})
		norm := b.Op("ReduceL2", []string{mean, b.Ints(-1)}, graph.IntAttr("keepdims", 1))
		b.Output("y", b.Op("Div", []string{mean, b.Op("Max", []string{norm, b.Float(1e-12)})}), nil)
	}, inputs: func(rng *rand.Rand) map[string]tensor.Tensor {
		return map[string]tensor.Tensor{"x": floats(rng, 2, 3, 6), "m": tensor.Ints(tensor.Shape{2, 3}, 1, 1, 0, 1, 0, 0)}
	}},
	{name: "moving data", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "A", "B", "6"))
		t := b.Op("Transpose", []string{x}, graph.IntsAttr("perm", 2, 0, 1))
		s := b.Op("Slice", []string{t, b.Ints(4, 0), b.Ints(-7, 2), b.Ints(0, -1), b.Ints(-2, 1)})
		parts := b.Node(&graph.Node{OpType: "Split", Inputs: []string{s, b.Ints(1, 2)}, Attrs: []*graph.Attr{graph.IntAttr("axis", 0)}}, 2)
		c := b.Op("Concat", []string{parts[1], parts[0]}, graph.IntAttr("axis", 0))
		e := b.Op("Expand", []string{b.Op("Unsqueeze", []string{c, b.Ints(0)}), b.Ints(2, 1, 1, 1)})
		b.Output("y", b.Op("Reshape", []string{e, b.Ints(0, -1)}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{2, 3, 6})},
	{name: "matmul of two values, softmax", build: func(b *graph.Builder, rng *rand.Rand) {
		x, y := b.Input("x", typed(f32, "B", "1", "M", "7")), b.Input("y", typed(f32, "3", "7", "N"))
		b.Output("z", b.Op("Softmax", []string{b.Op("MatMul", []string{x, y})}, graph.IntAttr("axis", 2)), nil)
	}, inputs: one([]string{"x", "y"}, tensor.Shape{2, 1, 4, 7}, tensor.Shape{3, 7, 5}), units: 2},
	{name: "matmul of two matrices", build: func(b *graph.Builder, rng *rand.Rand) {
		b.Output("z", b.Op("MatMul", []string{b.Input("x", typed(f32, "M", "K")), b.Input("y", typed(f32, "K", "N"))}), nil)
	}, inputs: one([]string{"x", "y"}, tensor.Shape{2, 5}, tensor.Shape{5, 3}), units: 1},
	{name: "outputs that are inputs, constants and views", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "4"))
		b.Output("same", b.Op("Identity", []string{x}), nil)
		b.Output("flat", b.Op("Reshape", []string{x, b.Ints(-1)}), nil)
		b.Output("constant", b.Op("Identity", []string{b.Tensor("k", floats(rng, 3))}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{3, 4})},
	{name: "a size that only the data tell", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "4"))
		pos := b.Op("Greater", []string{x, b.Float(0)})
		idx := b.Op("Transpose", []string{b.Op("NonZero", []string{pos})})
		b.Output("values", b.Op("Mul", []string{b.Op("GatherND", []string{x, idx}), b.Float(2)}), nil)
		b.Output("all", b.Op("Neg", []string{x}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{3, 4}), slow: []string{"NonZero", "Transpose", "GatherND", "Mul"}},
	{name: "reference operators between native ones", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "4"))
		y := b.Op("CumSum", []string{b.Op("Neg", []string{x}), b.Int(1)})
		b.Output("y", b.Op("Neg", []string{y}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{3, 4}), slow: []string{"CumSum"}},
	{name: "a view between reference operators", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "4"))
		y := b.Op("Reshape", []string{b.Op("CumSum", []string{x, b.Int(1)}), b.Ints(-1)})
		b.Output("y", b.Op("CumSum", []string{y, b.Int(0)}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{3, 4}), slow: []string{"CumSum", "CumSum"}},
	{name: "no rows", build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N", "4"))
		b.Output("y", b.Op("Relu", []string{linearOf(b, rng, x, "fc", 3, 4)}), nil)
	}, inputs: one([]string{"x"}, tensor.Shape{0, 4})},
}

func buildTest(t *testing.T, g testGraph) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("test")
	g.build(b, rand.New(rand.NewPCG(1, 2)))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// compiled is a model as this backend compiles it, by way of a folder.
func compiled(t testing.TB, m *graph.Model, r *kernels.Runner) *executable {
	t.Helper()
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	loaded, err := backend.LoadModel(dir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := newExecutable(loaded, r, newPackedWeights(dir, r, hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func (e *executable) values(in map[string]tensor.Tensor) []backend.Value {
	var out []backend.Value
	for _, v := range e.info.Inputs {
		out = append(out, backend.Value{Datum: graph.TensorDatum(in[v.Name])})
	}
	return out
}

func TestPlansComputeWhatTheReferenceComputes(t *testing.T) {
	asReference(t, slices.Concat(testGraphs, imageGraphs))
}

// asReference runs graphs on every instruction set and looks at their plans.
func asReference(t *testing.T, graphs []testGraph) {
	rs := runners(t)
	for _, g := range graphs {
		m := buildTest(t, g)
		in := g.inputs(rand.New(rand.NewPCG(3, 4)))
		p, err := reference.New(m, reference.Options{})
		if err != nil {
			t.Fatalf("%s: %v", g.name, err)
		}
		var names []string
		for _, o := range m.Graph.Outputs {
			names = append(names, o.Name)
		}
		want, err := p.Run(t.Context(), in, names)
		if err != nil {
			t.Fatalf("%s: %v", g.name, err)
		}
		for _, r := range rs {
			t.Run(g.name+"/"+r.ISA(), func(t *testing.T) {
				e := compiled(t, m, r)
				// The second run is on a plan that is there already.
				for range 2 {
					out := &collected{got: map[int]tensor.Tensor{}}
					if err := e.Run(t.Context(), e.values(in), out); err != nil {
						t.Fatal(err)
					}
					for i, name := range names {
						close32(t, name, out.got[i], want[name])
					}
				}
				if len(e.plans) != 1 {
					t.Errorf("%d plans for one shape", len(e.plans))
				}
				checkPlan(t, g, e.plans[0].plan)
			})
		}
	}
}

func checkPlan(t *testing.T, g testGraph, p *plan) {
	t.Helper()
	ops := 0
	for _, s := range p.steps {
		if n, ok := s.(*nativeStep); ok {
			ops += n.program.Len()
		}
	}
	var slow []string
	for _, n := range p.nodes {
		if !n.Native {
			slow = append(slow, n.OpType)
		}
	}
	if g.units > 0 && ops+len(slow) != g.units {
		t.Errorf("%d native operations and %d reference nodes, want %d in all", ops, len(slow), g.units)
	}
	if g.units > 0 || g.slow != nil {
		if !slices.Equal(slow, g.slow) {
			t.Errorf("on the reference operators: %v, want %v", slow, g.slow)
		}
	}
}

func close32(t *testing.T, name string, got, want tensor.Tensor) {
	t.Helper()
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		t.Fatalf("%s is %s%v, want %s%v", name, got.DType, got.Shape, want.DType, want.Shape)
	}
	for i, w := range tensor.View[float32](want) {
		if g := tensor.View[float32](got)[i]; math.Abs(float64(g-w)) > 1e-5*max(1, math.Abs(float64(w))) {
			t.Errorf("%s, element %d: %v, want %v", name, i, g, w)
			return
		}
	}
}

func TestOnlyWhatIsWantedIsComputed(t *testing.T) {
	r := runners(t)[0]
	g := testGraph{build: func(b *graph.Builder, rng *rand.Rand) {
		x := b.Input("x", typed(f32, "N"))
		b.Output("a", b.Op("Neg", []string{x}), nil)
		b.Output("b", b.Op("CumSum", []string{x, b.Int(0)}), nil)
	}}
	e := compiled(t, buildTest(t, g), r)
	out := &collected{only: map[int]bool{0: true}, got: map[int]tensor.Tensor{}}
	if err := e.Run(t.Context(), e.values(map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{2}, 1, 2)}), out); err != nil {
		t.Fatal(err)
	}
	if len(out.got) != 1 || !slices.Equal(tensor.View[float32](out.got[0]), []float32{-1, -2}) {
		t.Errorf("got %v", out.got)
	}
	if n := len(e.plans[0].nodes); n != 1 {
		t.Errorf("%d nodes were planned, want 1", n)
	}
}

func TestIndexOutOfRangeNamesItsNode(t *testing.T) {
	for _, r := range runners(t) {
		g := testGraph{build: func(b *graph.Builder, rng *rand.Rand) {
			b.Output("y", b.Op("Gather", []string{b.Tensor("table", floats(rng, 10, 4)), b.Input("ids", typed(tensor.Int64, "N"))}), nil)
		}}
		e := compiled(t, buildTest(t, g), r)
		err := e.Run(t.Context(), e.values(map[string]tensor.Tensor{"ids": tensor.Ints(tensor.Shape{2}, 3, 10)}), &collected{got: map[int]tensor.Tensor{}})
		if backend.CodeOf(err) != backend.CodeInvalid || !strings.Contains(err.Error(), "10") || !strings.Contains(err.Error(), "Gather") {
			t.Errorf("%s: got %v, want INVALID naming the index and the node", r.ISA(), err)
		}
	}
}

func TestPlansAreBounded(t *testing.T) {
	e := compiled(t, buildTest(t, testGraphs[0]), runners(t)[0])
	rng := rand.New(rand.NewPCG(5, 6))
	for n := int64(1); n <= maxPlans+5; n++ {
		out := &collected{got: map[int]tensor.Tensor{}}
		if err := e.Run(t.Context(), e.values(map[string]tensor.Tensor{"x": floats(rng, 1, n, 33)}), out); err != nil {
			t.Fatal(err)
		}
		if got := out.got[0].Shape; !got.Equal(tensor.Shape{1, n, 17}) {
			t.Fatalf("shape %v", got)
		}
	}
	if len(e.plans) != maxPlans {
		t.Errorf("%d plans are kept, bound is %d", len(e.plans), maxPlans)
	}
}

// TestPackedWeightsAreShared: the second to open a folder reads what the first wrote.
func TestPackedWeightsAreShared(t *testing.T) {
	r := runners(t)[0]
	m := buildTest(t, testGraphs[0])
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	in := testGraphs[0].inputs(rand.New(rand.NewPCG(3, 4)))
	var first tensor.Tensor
	for i, damage := range []bool{false, false, true} {
		files, err := filepath.Glob(filepath.Join(dir, "packed", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if want := min(i, 1); len(files) != want {
			t.Fatalf("before run %d: packed files %v, want %d", i, files, want)
		}
		if damage {
			if err := os.Truncate(files[0], 3); err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := backend.LoadModel(dir)
		if err != nil {
			t.Fatal(err)
		}
		e, err := newExecutable(loaded, r, newPackedWeights(dir, r, hclog.NewNullLogger()))
		if err != nil {
			t.Fatal(err)
		}
		out := &collected{got: map[int]tensor.Tensor{}}
		if err := e.Run(t.Context(), e.values(in), out); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = out.got[0]
		} else if !slices.Equal(first.Data, out.got[0].Data) {
			t.Errorf("run %d gave other numbers", i)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	e := compiled(t, buildTest(t, testGraphs[0]), runners(t)[0])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in := testGraphs[0].inputs(rand.New(rand.NewPCG(3, 4)))
	if err := e.Run(ctx, e.values(in), &collected{got: map[int]tensor.Tensor{}}); err == nil {
		t.Error("a cancelled run succeeded")
	}
}

// tiny is a graph of so many small operations that nothing fuses.
func tiny(b *graph.Builder, nodes int) {
	x := b.Input("x", typed(tensor.Int64, "N"))
	v := x
	for range nodes / 2 {
		v = b.Op("Slice", []string{b.Op("Concat", []string{x, v}, graph.IntAttr("axis", 0)), b.Ints(1), b.Ints(4)})
	}
	b.Output("y", v, nil)
}

// A planned run allocates nothing, however many operations it has.
func TestRunsAllocateNothing(t *testing.T) {
	e := compiled(t, buildTest(t, testGraph{name: "tiny", build: func(b *graph.Builder, rng *rand.Rand) { tiny(b, 500) }}), runners(t)[0])
	in := e.values(map[string]tensor.Tensor{"x": tensor.Ints(tensor.Shape{3}, 1, 2, 3)})
	out := &placed{t: tensor.Ints(tensor.Shape{3}, 0, 0, 0)}
	ctx := context.Background()
	if n := testing.AllocsPerRun(20, func() {
		if err := e.Run(ctx, in, out); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("a run allocates %g times", n)
	}
	if got := tensor.View[int64](out.t); !slices.Equal(got, []int64{2, 3, 2}) {
		t.Errorf("got %v", got)
	}
}

// placed is an output that is there already.
type placed struct {
	collected
	t tensor.Tensor
}

func (p *placed) Place(int, tensor.DType, tensor.Shape) (tensor.Tensor, error) { return p.t, nil }

func BenchmarkTinyNodes(b *testing.B) {
	lib, err := kernels.Open("")
	if err != nil {
		b.Fatal(err)
	}
	r, err := lib.NewRunner(kernels.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	bld := graph.NewBuilder("tiny")
	tiny(bld, 500)
	m, err := bld.Model()
	if err != nil {
		b.Fatal(err)
	}
	e, err := newExecutable(m, r, newPackedWeights(b.TempDir(), r, hclog.NewNullLogger()))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	in, out := e.values(map[string]tensor.Tensor{"x": tensor.Ints(tensor.Shape{3}, 1, 2, 3)}), &placed{t: tensor.Ints(tensor.Shape{3}, 0, 0, 0)}
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Run(context.Background(), in, out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	lib, err := kernels.Open("")
	if err != nil {
		b.Fatal(err)
	}
	r, err := lib.NewRunner(kernels.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	bld := graph.NewBuilder("test")
	testGraphs[0].build(bld, rand.New(rand.NewPCG(1, 2)))
	m, err := bld.Model()
	if err != nil {
		b.Fatal(err)
	}
	e, err := newExecutable(m, r, newPackedWeights(b.TempDir(), r, hclog.NewNullLogger()))
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	in := e.values(testGraphs[0].inputs(rand.New(rand.NewPCG(3, 4))))
	out := &collected{got: map[int]tensor.Tensor{}}
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Run(context.Background(), in, out); err != nil {
			b.Fatal(err)
		}
	}
}
