package reference

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func build(t *testing.T, f func(b *graph.Builder)) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("test")
	f(b)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustNew(t *testing.T, m *graph.Model, o Options) *Program {
	t.Helper()
	p, err := New(m, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func f32(dims ...graph.Dim) *graph.Type { return graph.TensorType(tensor.Float32, dims...) }

func wantFloats(t *testing.T, got tensor.Tensor, want ...float32) {
	t.Helper()
	if err := sameTensor(got, tensor.Of(tensor.Float32, got.Shape, want), 1e-6, 1e-6); err != nil {
		t.Error(err)
	}
}

// mlp is y = relu(x w + b) with x [N,2].
func mlp(t *testing.T) *graph.Model {
	return build(t, func(b *graph.Builder) {
		x := b.Input("x", f32(graph.Sym("N"), graph.Known(2)))
		w := b.Tensor("w", tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, 4))
		h := b.Op("MatMul", []string{x, w})
		b.Output("y", b.Op("Relu", []string{b.Op("Add", []string{h, b.Const(tensor.Floats(tensor.Shape{2}, -5, 0))})}), nil)
	})
}

func TestRun(t *testing.T) {
	p := mustNew(t, mlp(t), Options{})
	x := tensor.Floats(tensor.Shape{2, 2}, 1, 1, 0, 1)
	got, err := p.Run(context.Background(), map[string]tensor.Tensor{"x": x}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFloats(t, got["y"], 0, 6, 0, 4)

	// Any value can be asked for, and only what it needs is run.
	var inner string
	for _, n := range mlp(t).Graph.Nodes {
		if n.OpType == "MatMul" {
			inner = n.Outputs[0]
		}
	}
	got, err = p.Run(context.Background(), map[string]tensor.Tensor{"x": x}, []string{inner})
	if err != nil {
		t.Fatal(err)
	}
	wantFloats(t, got[inner], 4, 6, 3, 4)
	if _, err := p.Run(context.Background(), map[string]tensor.Tensor{"x": x}, []string{"nobody"}); err == nil {
		t.Error("a value that is not there was given")
	}
}

func TestWrongInputs(t *testing.T) {
	p := mustNew(t, build(t, func(b *graph.Builder) {
		x := b.Input("x", f32(graph.Sym("N"), graph.Known(2)))
		y := b.Input("y", f32(graph.Sym("N")))
		b.Output("z", b.Op("Add", []string{b.Op("ReduceSum", []string{x, b.Ints(1)}, graph.IntAttr("keepdims", 0)), y}), nil)
	}), Options{})
	x, y := tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, 4), tensor.Floats(tensor.Shape{2}, 1, 2)
	cases := map[string]struct {
		inputs map[string]tensor.Tensor
		input  string
	}{
		"missing":    {map[string]tensor.Tensor{"x": x}, "y"},
		"unknown":    {map[string]tensor.Tensor{"x": x, "y": y, "q": x}, "q"},
		"type":       {map[string]tensor.Tensor{"x": tensor.Ints(tensor.Shape{2, 2}, 1, 2, 3, 4), "y": y}, "x"},
		"rank":       {map[string]tensor.Tensor{"x": y, "y": y}, "x"},
		"dimension":  {map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 3}, 1, 2, 3), "y": y}, "x"},
		"symbol":     {map[string]tensor.Tensor{"x": x, "y": tensor.Floats(tensor.Shape{3}, 1, 2, 3)}, "y"},
		"truncated":  {map[string]tensor.Tensor{"x": {DType: tensor.Float32, Shape: tensor.Shape{2, 2}, Data: make([]byte, 15)}, "y": y}, "x"},
		"impossible": {map[string]tensor.Tensor{"x": {DType: tensor.Float32, Shape: tensor.Shape{-1, 2}}, "y": y}, "x"},
	}
	for name, c := range cases {
		_, err := p.Run(context.Background(), c.inputs, nil)
		var in *InputError
		if !errors.As(err, &in) || in.Input != c.input {
			t.Errorf("%s: got %v, want an error about input %s", name, err, c.input)
		}
	}
}

func TestUnsupportedListsAllNodes(t *testing.T) {
	m := build(t, func(b *graph.Builder) {
		x := b.Input("x", f32(graph.Known(2)))
		b.Import("somewhere", 1)
		y := b.Node(&graph.Node{Name: "strange", Domain: "somewhere", OpType: "Thing", Inputs: []string{x}, Outputs: []string{"odd"}}, 1)[0]
		z := b.Op("Relu", []string{y}, graph.IntAttr("fast", 1))
		b.Output("z", b.Op("BitwiseNot", []string{x}), nil)
		b.Output("w", z, nil)
	})
	_, err := New(m, Options{})
	var u *UnsupportedError
	if !errors.As(err, &u) {
		t.Fatalf("got %v", err)
	}
	causes := map[string]Cause{}
	for _, n := range u.Nodes {
		causes[n.OpType] = n.Cause
	}
	want := map[string]Cause{"Thing": UnknownOperator, "Relu": WrongAttribute, "BitwiseNot": WrongType}
	for op, c := range want {
		if causes[op] != c {
			t.Errorf("%s is refused for %q, want %q (%v)", op, causes[op], c, err)
		}
	}
	if !strings.Contains(err.Error(), `"strange"`) {
		t.Errorf("the node is not named in %q", err)
	}
}

func TestOpsetsBeyondTheNewest(t *testing.T) {
	if _, ok := Lookup("", "Add", newest[""]+1); ok {
		t.Error("an operator of an unknown operator set was found")
	}
	n := &graph.Node{Name: "n", OpType: "Add", Inputs: []string{"a", "b"}, Outputs: []string{"c"}}
	var u *UnsupportedError
	if err := Supports(n, newest[""]+1, nil); !errors.As(err, &u) {
		t.Errorf("got %v", err)
	}
	types := []*graph.Type{f32(), graph.TensorType(tensor.Int64)}
	if err := Supports(n, 23, types); !errors.As(err, &u) || u.Nodes[0].Cause != WrongType {
		t.Errorf("mixed types: got %v", err)
	}
	if err := Supports(n, 23, []*graph.Type{f32(), nil}); err != nil {
		t.Errorf("an unknown type is refused: %v", err)
	}
}

func TestNodeErrorsNameTheInput(t *testing.T) {
	p := mustNew(t, build(t, func(b *graph.Builder) {
		x, i := b.Input("x", f32(graph.Sym("N"))), b.Input("i", graph.TensorType(tensor.Int64, graph.Sym("M")))
		b.Output("y", b.Op("Gather", []string{x, i}), nil)
	}), Options{})
	_, err := p.Run(context.Background(), map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{2}, 1, 2), "i": tensor.Ints(tensor.Shape{1}, 7)}, nil)
	var n *NodeError
	if !errors.As(err, &n) || n.OpType != "Gather" || n.Input != 1 || n.Name != "indices" {
		t.Errorf("got %v", err)
	}
}

// A chain of large values needs memory for two of them at a time.
func TestMemoryIsGivenBack(t *testing.T) {
	const size = 1 << 16 // bytes of a value
	chain := build(t, func(b *graph.Builder) {
		v := b.Input("x", f32(graph.Known(size/4)))
		for range 10 {
			v = b.Op("Neg", []string{v})
			// Other views of the same memory do not count.
			v = b.Op("Reshape", []string{b.Op("Unsqueeze", []string{v, b.Ints(0)}), b.Ints(-1)})
		}
		b.Output("y", v, nil)
	})
	in := map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{size / 4}, make([]float32, size/4)...)}
	if _, err := mustNew(t, chain, Options{MaxBytes: 2*size + 1024}).Run(context.Background(), in, nil); err != nil {
		t.Error(err)
	}
	_, err := mustNew(t, chain, Options{MaxBytes: 2*size - 1024}).Run(context.Background(), in, nil)
	var mem *MemoryError
	if !errors.As(err, &mem) || mem.Needed != size {
		t.Errorf("got %v", err)
	}
}

func TestMemoryLimitBeforeAllocation(t *testing.T) {
	p := mustNew(t, build(t, func(b *graph.Builder) {
		s := b.Input("s", graph.TensorType(tensor.Int64, graph.Sym("R")))
		b.Output("y", b.Op("Expand", []string{b.Float(1), s}), nil)
	}), Options{})
	for _, s := range [][]int64{{1 << 40}, {1 << 62, 4}, {math.MaxInt64, math.MaxInt64}, {-1}, {1 << 40, 0}} {
		_, err := p.Run(context.Background(), map[string]tensor.Tensor{"s": tensor.Ints(tensor.Shape{int64(len(s))}, s...)}, nil)
		var n *NodeError
		if !errors.As(err, &n) {
			t.Errorf("%v: got %v", s, err)
		}
	}
}

func TestCancel(t *testing.T) {
	p := mustNew(t, mlp(t), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := p.Run(ctx, map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 2}, 1, 1)}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Inside an operator too.
	big := tensor.Floats(tensor.Shape{512, 512}, make([]float32, 512*512)...)
	for _, op := range []string{"MatMul", "Add"} {
		o, _ := Lookup("", op, 23)
		in := values(big, big)
		if _, err := o.Eval(ctx, node(op, in, 1), in, Env{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", op, err)
		}
	}
}

func TestFunctions(t *testing.T) {
	// scaled(x, y?; by = 2) = x * by (+ y)
	call := func(attrs []*graph.Attr, inputs ...string) *graph.Model {
		m := &graph.Model{
			IRVersion: 10, Opsets: map[string]int64{"": 23, "mine": 1},
			Functions: []*graph.Function{{
				Domain: "mine", Name: "scaled", Inputs: []string{"x"}, Outputs: []string{"z", "unused"},
				Defaults: []*graph.Attr{graph.FloatAttr("by", 2)}, Opsets: map[string]int64{"": 23},
				Nodes: []*graph.Node{
					{OpType: "Constant", Outputs: []string{"c"}, Attrs: []*graph.Attr{graph.RefAttr("value_float", graph.AttrFloat, "by")}},
					{OpType: "Mul", Inputs: []string{"x", "c"}, Outputs: []string{"z"}},
					{OpType: "Neg", Inputs: []string{"x"}, Outputs: []string{"unused"}},
				},
			}},
			Graph: &graph.Graph{
				Name:    "g",
				Inputs:  []*graph.Value{{Name: "a", Type: f32(graph.Known(1))}},
				Outputs: []*graph.Value{{Name: "b", Type: f32(graph.Known(1))}},
				Nodes:   []*graph.Node{{Name: "call", Domain: "mine", OpType: "scaled", Inputs: inputs, Outputs: []string{"b"}, Attrs: attrs}},
			},
		}
		return m
	}
	for _, c := range []struct {
		attrs []*graph.Attr
		want  float32
	}{{nil, 6}, {[]*graph.Attr{graph.FloatAttr("by", 5)}, 15}} {
		got, err := mustNew(t, call(c.attrs, "a"), Options{}).Run(context.Background(), map[string]tensor.Tensor{"a": tensor.Floats(tensor.Shape{1}, 3)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantFloats(t, got["b"], c.want)
	}
	var check *graph.CheckError
	if _, err := New(call(nil, "a", "a"), Options{}); !errors.As(err, &check) {
		t.Errorf("too many inputs: got %v", err)
	}
}

// A function that doubles what it calls, many levels deep, is refused before it is
// expanded.
func TestFunctionsThatExplode(t *testing.T) {
	m := mlp(t)
	m.Opsets["bomb"] = 1
	last := "Relu"
	for i := range 40 {
		name := "f" + string(rune('A'+i%26)) + strings.Repeat("x", i/26)
		domain := "bomb"
		if last == "Relu" {
			domain = ""
		}
		m.Functions = append(m.Functions, &graph.Function{
			Domain: "bomb", Name: name, Inputs: []string{"x"}, Outputs: []string{"y"}, Opsets: map[string]int64{"": 23, "bomb": 1},
			Nodes: []*graph.Node{
				{Domain: domain, OpType: last, Inputs: []string{"x"}, Outputs: []string{"h"}},
				{Domain: domain, OpType: last, Inputs: []string{"h"}, Outputs: []string{"y"}},
			},
		})
		last = name
	}
	n := m.Graph.Nodes[len(m.Graph.Nodes)-1]
	n.Domain, n.OpType = "bomb", last
	var check *graph.CheckError
	if _, err := New(m, Options{}); !errors.As(err, &check) {
		t.Errorf("got %v", err)
	}
}

// loopModel doubles x while it is below a limit that the body takes from around
// it, and stacks what it saw.
func loopModel(t *testing.T) *graph.Model {
	body := &graph.Graph{
		Name:   "body",
		Inputs: []*graph.Value{{Name: "i"}, {Name: "going"}, {Name: "v"}},
		Nodes: []*graph.Node{
			{OpType: "Add", Inputs: []string{"v", "v"}, Outputs: []string{"v2"}},
			{OpType: "Less", Inputs: []string{"v2", "limit"}, Outputs: []string{"more"}},
			{OpType: "If", Inputs: []string{"more"}, Outputs: []string{"seen"}, Attrs: []*graph.Attr{
				graph.GraphAttr("then_branch", &graph.Graph{Name: "then", Outputs: []*graph.Value{{Name: "same"}},
					Nodes: []*graph.Node{{OpType: "Identity", Inputs: []string{"v2"}, Outputs: []string{"same"}}}}),
				graph.GraphAttr("else_branch", &graph.Graph{Name: "else", Outputs: []*graph.Value{{Name: "neg"}},
					Nodes: []*graph.Node{{OpType: "Neg", Inputs: []string{"limit"}, Outputs: []string{"neg"}}}}),
			}},
		},
		Outputs: []*graph.Value{{Name: "more"}, {Name: "v2"}, {Name: "seen"}},
	}
	return build(t, func(b *graph.Builder) {
		x := b.Input("x", f32())
		b.Input("limit", f32())
		out := b.Node(&graph.Node{OpType: "Loop", Inputs: []string{"", "", x}, Attrs: []*graph.Attr{graph.GraphAttr("body", body)}}, 2)
		b.Output("last", out[0], f32())
		b.Output("all", out[1], f32(graph.Sym("steps")))
	})
}

func TestLoop(t *testing.T) {
	p := mustNew(t, loopModel(t), Options{MaxBytes: 4096})
	got, err := p.Run(context.Background(), map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{}, 1), "limit": tensor.Floats(tensor.Shape{}, 10)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFloats(t, got["last"], 16)
	wantFloats(t, got["all"], 2, 4, 8, -10)
}

func TestEvalAlone(t *testing.T) {
	var loop *graph.Node
	for _, n := range loopModel(t).Graph.Nodes {
		if n.OpType == "Loop" {
			loop = n
		}
	}
	o, _ := Lookup("", "Loop", 23)
	in := []graph.Datum{{}, {}, tensorValue(tensor.Floats(tensor.Shape{}, 3))}
	env := Env{Opsets: map[string]int64{"": 23}, Outer: func(name string) (graph.Datum, bool) {
		return tensorValue(tensor.Floats(tensor.Shape{}, 7)), name == "limit"
	}}
	out, err := o.Eval(context.Background(), loop, in, env)
	if err != nil {
		t.Fatal(err)
	}
	wantFloats(t, out[0].Tensor, 12)
	wantFloats(t, out[1].Tensor, 6, -7)
	env.Outer = nil
	var check *graph.CheckError
	if _, err := o.Eval(context.Background(), loop, in, env); !errors.As(err, &check) {
		t.Errorf("a value from nowhere: got %v", err)
	}
}

// Weights in mapped files have no alignment.
func TestUnalignedWeights(t *testing.T) {
	m := mlp(t)
	for _, in := range m.Graph.Initializers {
		raw := make([]byte, len(in.Tensor.Data)+1)
		copy(raw[1:], in.Tensor.Data)
		in.Tensor.Data = raw[1:]
	}
	got, err := mustNew(t, m, Options{}).Run(context.Background(), map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 2}, 1, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFloats(t, got["y"], 0, 6)
}

// Results depend neither on the number of goroutines nor on each other.
func TestDeterminism(t *testing.T) {
	a, b := ramp(130, 257), ramp(257, 70)
	in := values(a, b)
	var first tensor.Tensor
	for _, procs := range []int{1, 2, 4} {
		old := runtime.GOMAXPROCS(procs)
		out, err := evalOp("", "MatMul", in, 1)
		runtime.GOMAXPROCS(old)
		if err != nil {
			t.Fatal(err)
		}
		if first.DType == tensor.Undefined {
			first = out[0].Tensor
		} else if err := sameTensor(out[0].Tensor, first, 0, 0); err != nil {
			t.Errorf("with %d processors: %v", procs, err)
		}
	}
	p := mustNew(t, mlp(t), Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			got, err := p.Run(context.Background(), map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 2}, 0, float32(i))}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			wantFloats(t, got["y"], max(0, float32(3*i-5)), float32(4*i))
		}()
	}
	wg.Wait()
}

func ramp(s ...int64) tensor.Tensor {
	v := make([]float32, elements(s))
	for i := range v {
		v[i] = float32(i%17)/7 - 1
	}
	return tensor.Of(tensor.Float32, s, v)
}

// float32 sums are exact where float32 arithmetic would not be.
func TestAccumulation(t *testing.T) {
	n := int64(1 << 12)
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	v[0] = 1 << 24 // adding one to it changes nothing in float32
	x := tensor.Of(tensor.Float32, tensor.Shape{1, n}, v)
	ones := make([]float32, n)
	for i := range ones {
		ones[i] = 1
	}
	out, err := evalOp("", "MatMul", values(x, tensor.Of(tensor.Float32, tensor.Shape{n, 1}, ones)), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := floatAt(out[0].Tensor, 0), float64(float32(1<<24+int(n)-1)); got != want {
		t.Errorf("MatMul gives %g, want %g", got, want)
	}
	out, err = evalOp("", "ReduceSum", values(x), 1, graph.IntAttr("keepdims", 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := floatAt(out[0].Tensor, 0), float64(float32(1<<24+int(n)-1)); got != want {
		t.Errorf("ReduceSum gives %g, want %g", got, want)
	}
}

// Integers wrap.
func TestIntegersWrap(t *testing.T) {
	cases := []struct {
		op   string
		d    tensor.DType
		a, b int64
		want int64
	}{
		{"Add", tensor.Int8, 127, 1, -128},
		{"Mul", tensor.Uint8, 16, 17, 16},
		{"Sub", tensor.Uint16, 0, 1, 65535},
		{"Add", tensor.Int32, math.MaxInt32, 1, math.MinInt32},
		{"Mul", tensor.Int64, math.MaxInt64, 2, -2},
		{"Div", tensor.Int8, -128, -1, -128},
		{"Div", tensor.Int64, -7, 2, -3},
		{"Mod", tensor.Int64, -7, 2, 1},
		{"Pow", tensor.Int32, 3, 21, 1870418611},
	}
	for _, c := range cases {
		a, b := zeros(t, c.d, tensor.Shape{1}), zeros(t, c.d, tensor.Shape{1})
		putInt(a, 0, c.a)
		putInt(b, 0, c.b)
		out, err := evalOp("", c.op, values(a, b), 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := intAt(out[0].Tensor, 0); got != c.want {
			t.Errorf("%s of %s %d and %d is %d, want %d", c.op, c.d, c.a, c.b, got, c.want)
		}
	}
	_, err := evalOp("", "Div", values(tensor.Ints(tensor.Shape{1}, 1), tensor.Ints(tensor.Shape{1}, 0)), 1)
	var n *NodeError
	if !errors.As(err, &n) || n.Input != 1 {
		t.Errorf("division by zero: got %v", err)
	}
}

func BenchmarkMatMul(b *testing.B) {
	x, w := ramp(128, 384), ramp(384, 1536)
	in := values(x, w)
	o, _ := Lookup("", "MatMul", 23)
	n := node("MatMul", in, 1)
	for b.Loop() {
		if _, err := o.Eval(context.Background(), n, in, Env{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(128*384*1536*float64(b.N)/b.Elapsed().Seconds()/1e9, "GMAC/s")
}
