package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

func devicesOf(t *testing.T, s *simulation) []backend.Device {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var got []backend.Device
	err := s.Watch(ctx, func(d []backend.Device) { got = d; cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return got
}

func TestDevices(t *testing.T) {
	var ids []string
	for _, d := range devicesOf(t, newSimulation()) {
		ids = append(ids, d.ID)
		if d.Platform != "simulation" || d.Kind != backend.Simulated || d.Health != backend.Healthy || d.MemoryFree <= 0 || len(d.ElementTypes) == 0 {
			t.Errorf("device %+v", d)
		}
	}
	if !slices.Equal(ids, []string{"plain", "static", "picky"}) {
		t.Errorf("devices %v: the platform stands for its first", ids)
	}
}

func TestSettings(t *testing.T) {
	for settings, want := range map[string]string{
		`{}`: "",
		`{"devices":[{"name":"npu","element_types":["float16"],"memory_bytes":1024,"static_shapes":true}]}`: "",
		`{"devices":[{"name":"plain"}]}`:                       "there already",
		`{"devices":[{"name":"a"},{"name":"a"}]}`:              "there already",
		`{"devices":[{"name":"A b"}]}`:                         "device name",
		`{"devices":[{"name":"a","element_types":["float"]}]}`: `"float" is not known`,
		`{"devices":[{"name":"a","memory_bytes":-1}]}`:         "memory_bytes",
		`{"devices":[{"name":"a","speed":3}]}`:                 "speed",
		`{"device":[]}`:                                        "device",
		`{"devices":`:                                          "EOF",
	} {
		s := newSimulation()
		_, err := s.Configure(t.Context(), json.RawMessage(settings))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", settings, err)
		case want != "" && (backend.CodeOf(err) != backend.CodeInvalid || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want an invalid setting (%s)", settings, err, want)
		case want != "" && len(s.devices) != len(profiles):
			t.Errorf("%s: refused settings have changed the devices", settings)
		}
	}
	if !json.Valid([]byte(settingsSchema)) {
		t.Error("the schema is no JSON")
	}
	s := newSimulation()
	if _, err := s.Configure(t.Context(), json.RawMessage(`{"devices":[{"name":"npu","element_types":["float16"],"memory_bytes":1024}]}`)); err != nil {
		t.Fatal(err)
	}
	ds := devicesOf(t, s)
	npu := ds[len(ds)-1]
	if npu.ID != "npu" || npu.MemoryTotal != 1024 || !slices.Equal(npu.ElementTypes, []tensor.DType{tensor.Float16}) {
		t.Errorf("device %+v", npu)
	}
	versions := map[string]bool{}
	for _, d := range ds {
		versions[d.RuntimeVersion] = true
	}
	if len(versions) != len(ds) {
		t.Error("devices of different rules have one runtime version, so that they would share cached graphs")
	}
}

func write(t *testing.T, f func(b *graph.Builder)) string {
	t.Helper()
	b := graph.NewBuilder("test")
	f(b)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return save(t, m)
}

func save(t *testing.T, m *graph.Model) string {
	t.Helper()
	data, err := graph.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, graph.ModelFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func typ(d tensor.DType, dims ...int64) *graph.Type {
	t := graph.TensorType(d)
	for _, n := range dims {
		if n < 0 {
			t.Dims = append(t.Dims, graph.Sym("n"))
		} else {
			t.Dims = append(t.Dims, graph.Known(n))
		}
	}
	return t
}

// doubled is a function of the model.
func doubled() *graph.Function {
	return &graph.Function{Domain: "mine", Name: "Doubled", Inputs: []string{"x"}, Outputs: []string{"y"}, Opsets: map[string]int64{"": 23},
		Nodes: []*graph.Node{{OpType: "Add", Inputs: []string{"x", "x"}, Outputs: []string{"y"}}}}
}

// The rules of the devices, one model each. A verdict names the first node that is
// refused, "" if none is.
func TestVerdicts(t *testing.T) {
	const ok = backend.Refusal("")
	cases := map[string]struct {
		build               func(b *graph.Builder)
		plain, static, fine backend.Refusal // fine: picky
	}{
		"float32": {func(b *graph.Builder) {
			b.Output("y", b.Op("Relu", []string{b.Input("x", typ(tensor.Float32, 4))}), nil)
		}, ok, ok, ok},
		"a symbol": {func(b *graph.Builder) {
			b.Output("y", b.Op("Relu", []string{b.Input("x", typ(tensor.Float32, -1))}), nil)
		}, ok, backend.RefusedDynamicShape, backend.RefusedDynamicShape},
		"a size that depends on values": {func(b *graph.Builder) {
			b.Output("y", b.Op("NonZero", []string{b.Input("x", typ(tensor.Float32, 4))}), typ(tensor.Int64, 1, 4))
		}, ok, backend.RefusedDynamicShape, backend.RefusedElementType},
		"float16": {func(b *graph.Builder) {
			b.Output("y", b.Op("Relu", []string{b.Input("x", typ(tensor.Float16, 4))}), nil)
		}, ok, ok, backend.RefusedElementType},
		"int64 as a shape": {func(b *graph.Builder) {
			b.Output("y", b.Op("Reshape", []string{b.Input("x", typ(tensor.Float32, 4)), b.Ints(2, 2)}), nil)
		}, ok, ok, ok},
		"int64 from Constant": {func(b *graph.Builder) {
			c := b.Op("Constant", nil, graph.IntsAttr("value_ints", 2, 2))
			b.Output("y", b.Op("Reshape", []string{b.Input("x", typ(tensor.Float32, 4)), c}), nil)
		}, ok, ok, ok},
		"int64 input": {func(b *graph.Builder) {
			w := b.Tensor("w", tensor.Floats(tensor.Shape{3}, 1, 2, 3))
			b.Output("y", b.Op("Gather", []string{w, b.Input("i", typ(tensor.Int64, 2))}), nil)
		}, ok, ok, backend.RefusedElementType},
		"int32 input": {func(b *graph.Builder) {
			w := b.Tensor("w", tensor.Floats(tensor.Shape{3}, 1, 2, 3))
			b.Output("y", b.Op("Gather", []string{w, b.Input("i", typ(tensor.Int32, 2))}), nil)
		}, ok, ok, ok},
		"computed int64": {func(b *graph.Builder) {
			b.Output("y", b.Op("Cast", []string{b.Op("Cast", []string{b.Input("x", typ(tensor.Float32, 2))}, graph.IntAttr("to", 7))}, graph.IntAttr("to", 1)), nil)
		}, ok, ok, backend.RefusedElementType},
		"bool inside": {func(b *graph.Builder) {
			x := b.Input("x", typ(tensor.Float32, 2))
			b.Output("y", b.Op("Where", []string{b.Op("Less", []string{x, b.Float(0)}), x, b.Float(1)}), nil)
		}, ok, ok, ok},
		"bool output": {func(b *graph.Builder) {
			b.Output("y", b.Op("Less", []string{b.Input("x", typ(tensor.Float32, 2)), b.Float(0)}), nil)
		}, ok, ok, backend.RefusedElementType},
		"denied": {func(b *graph.Builder) {
			b.Output("y", b.Op("Gelu", []string{b.Input("x", typ(tensor.Float32, 2))}), nil)
		}, ok, ok, backend.RefusedOperator},
		"denied inside a branch": {func(b *graph.Builder) {
			b.Input("x", typ(tensor.Float32, 2))
			branch := func(op string) *graph.Graph {
				return &graph.Graph{Name: op, Nodes: []*graph.Node{{OpType: op, Inputs: []string{"x"}, Outputs: []string{op}}},
					Outputs: []*graph.Value{{Name: op, Type: typ(tensor.Float32, 2)}}}
			}
			cond := b.Op("Less", []string{b.Op("ReduceSum", []string{"x"}, graph.IntAttr("keepdims", 0)), b.Float(0)})
			b.Output("y", b.Op("If", []string{cond}, graph.GraphAttr("then_branch", branch("Gelu")), graph.GraphAttr("else_branch", branch("Relu"))), typ(tensor.Float32, 2))
		}, ok, ok, backend.RefusedOperator},
		"unknown inside a branch": {func(b *graph.Builder) {
			b.Input("x", typ(tensor.Float32, 2))
			branch := func(op string) *graph.Graph {
				return &graph.Graph{Name: op, Nodes: []*graph.Node{{OpType: op, Inputs: []string{"x"}, Outputs: []string{op}}},
					Outputs: []*graph.Value{{Name: op, Type: typ(tensor.Float32, 2)}}}
			}
			cond := b.Op("Less", []string{b.Op("ReduceSum", []string{"x"}, graph.IntAttr("keepdims", 0)), b.Float(0)})
			b.Output("y", b.Op("If", []string{cond}, graph.GraphAttr("then_branch", branch("Frobnicate")), graph.GraphAttr("else_branch", branch("Relu"))), typ(tensor.Float32, 2))
		}, backend.RefusedOperator, backend.RefusedOperator, backend.RefusedOperator},
		"a function": {func(b *graph.Builder) {
			b.Function(doubled())
			y := b.Node(&graph.Node{Domain: "mine", OpType: "Doubled", Inputs: []string{b.Input("x", typ(tensor.Float32, 2))}}, 1)[0]
			b.Output("y", y, typ(tensor.Float32, 2))
		}, ok, ok, backend.RefusedFunction},
		"an attribute": {func(b *graph.Builder) {
			b.Output("y", b.Op("Relu", []string{b.Input("x", typ(tensor.Float32, 2))}, graph.IntAttr("fast", 1)), nil)
		}, backend.RefusedAttribute, backend.RefusedAttribute, backend.RefusedAttribute},
		"too large": {func(b *graph.Builder) {
			x := b.Input("x", typ(tensor.Float32, 1))
			b.Output("y", b.Op("ReduceSum", []string{b.Op("Expand", []string{x, b.Ints(1 << 40)}), b.Ints(0)}), nil)
		}, backend.RefusedSize, backend.RefusedSize, backend.RefusedSize},
	}
	s := newSimulation()
	for name, c := range cases {
		dir := write(t, c.build)
		for id, want := range map[string]backend.Refusal{"plain": c.plain, "static": c.static, "picky": c.fine} {
			a, err := s.Assess(t.Context(), id, dir)
			if err != nil {
				t.Errorf("%s on %s: %v", name, id, err)
				continue
			}
			got := ok
			for _, v := range a.Nodes {
				if !v.OK {
					got = v.Refusal
					if v.Reason == "" {
						t.Errorf("%s on %s: a refusal without a reason", name, id)
					}
					break
				}
			}
			if got != want {
				t.Errorf("%s on %s: got %q, want %q: %+v", name, id, got, want, a.Nodes)
			}
			agree(t, s, id, dir, a)
		}
	}
}

// agree checks that Compile refuses exactly what Assess does.
func agree(t *testing.T, s *simulation, id, dir string, a backend.Assessment) {
	t.Helper()
	m, err := graph.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var want []string
	for i, v := range a.Nodes {
		if !v.OK {
			name := m.Graph.Nodes[i].Name
			if name == "" {
				name = m.Graph.Nodes[i].Label()
			}
			want = append(want, name)
		}
	}
	e, err := s.Compile(t.Context(), backend.CompileSpec{Device: id, Dir: dir}, func(string, float64) {})
	var u *backend.Error
	switch {
	case err == nil && len(want) > 0:
		t.Errorf("%s on %s: Compile takes what Assess refuses: %v", dir, id, want)
	case len(want) > 0 && (!errors.As(err, &u) || u.Code != backend.CodeUnsupported || !slices.Equal(u.Nodes, want)):
		t.Errorf("%s on %s: Compile refuses with %v, Assess refuses %v", dir, id, err, want)
	case len(want) == 0 && err != nil:
		t.Errorf("%s on %s: Compile refuses what Assess takes: %v", dir, id, err)
	}
	if err == nil {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Real graphs: Compile and Assess agree on every device, and nothing of them is
// held when they are closed.
func TestExportsAreJudgedAlike(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(testfiles.Shared(t, "onnx"), "*", graph.ModelFile))
	if err != nil {
		t.Fatal(err)
	}
	s := newSimulation()
	taken := map[string]int{}
	judged := 0
	for i := 0; i < len(dirs); i += 5 {
		dir := filepath.Dir(dirs[i])
		judged++
		for _, d := range s.devices {
			a, err := s.Assess(t.Context(), d.Name, dir)
			if err != nil {
				t.Errorf("%s: %v", dir, err)
				continue
			}
			if !slices.ContainsFunc(a.Nodes, func(v backend.Verdict) bool { return !v.OK }) {
				taken[d.Name]++
			}
			if a.MemoryEstimate <= 0 {
				t.Errorf("%s on %s: the estimate is %d bytes", dir, d.Name, a.MemoryEstimate)
			}
			agree(t, s, d.Name, dir, a)
			if total, free := d.memory.state(); total != free {
				t.Fatalf("%s on %s: %d bytes are still held", dir, d.Name, total-free)
			}
		}
	}
	t.Logf("of %d graphs as exported are taken whole: %v", judged, taken)
	if taken["plain"] != judged || taken["static"] == 0 || taken["picky"] >= taken["static"] {
		t.Errorf("of %d graphs are taken: %v", judged, taken)
	}
}

// results are the outputs of a run in host memory.
type results struct {
	skip    map[int]bool
	buffers map[int]backend.Value
	got     map[int]tensor.Tensor
	filled  map[int]tensor.Shape
}

func (r *results) Wanted(i int) bool { return !r.skip[i] }

func (r *results) Buffer(i int) (backend.Value, int64, bool) {
	v, ok := r.buffers[i]
	if !ok {
		return backend.Value{}, 0, false
	}
	return v, v.Buffer.Size() - v.Offset, true
}

func host(t tensor.Tensor) backend.Value { return backend.Value{Datum: graph.TensorDatum(t)} }

func (r *results) Give(i int, v graph.Datum) error {
	t, err := r.Place(i, v.Tensor.DType, v.Tensor.Shape)
	copy(t.Data, v.Tensor.Data)
	return err
}

func (r *results) Filled(i int, _ tensor.DType, s tensor.Shape) error {
	if r.filled == nil {
		r.filled = map[int]tensor.Shape{}
	}
	r.filled[i] = s
	return nil
}

func (r *results) Place(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	t, err := tensor.New(d, s)
	if r.got == nil {
		r.got = map[int]tensor.Tensor{}
	}
	r.got[i] = t
	return t, err
}

func compile(t *testing.T, s *simulation, id, dir string) backend.Executable {
	t.Helper()
	e, err := s.Compile(t.Context(), backend.CompileSpec{Device: id, Dir: dir}, func(string, float64) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestRun(t *testing.T) {
	s := newSimulation()
	e := compile(t, s, "plain", write(t, func(b *graph.Builder) {
		x := b.Input("x", typ(tensor.Float32, -1))
		b.Output("twice", b.Op("Add", []string{x, x}), nil)
		b.Output("less", b.Op("Neg", []string{x}), nil)
	}))
	x := tensor.Floats(tensor.Shape{3}, 1, 2, 3)
	r := &results{skip: map[int]bool{1: true}}
	if err := e.Run(t.Context(), []backend.Value{host(x)}, r); err != nil {
		t.Fatal(err)
	}
	if got := tensor.View[float32](r.got[0]); !slices.Equal(got, []float32{2, 4, 6}) || len(r.got) != 1 {
		t.Errorf("got %v and %d outputs", got, len(r.got))
	}
	// From a buffer into the same buffer.
	b, err := s.Alloc(t.Context(), "plain", 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteAt(x.Data, 16); err != nil {
		t.Fatal(err)
	}
	in := backend.Value{Datum: graph.TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{3}}), Buffer: b, Offset: 16}
	r = &results{buffers: map[int]backend.Value{0: {Buffer: b, Offset: 16}, 1: {Buffer: b, Offset: 32}}}
	if err := e.Run(t.Context(), []backend.Value{in}, r); err != nil {
		t.Fatal(err)
	}
	got := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{7}, Data: make([]byte, 28)}
	if _, err := b.ReadAt(got.Data, 16); err != nil {
		t.Fatal(err)
	}
	if v := tensor.View[float32](got); !slices.Equal(v, []float32{2, 4, 6, 0, -1, -2, -3}) || !r.filled[0].Equal(tensor.Shape{3}) || len(r.got) != 0 {
		t.Errorf("the buffer holds %v", v)
	}
	if _, err := b.ReadAt(make([]byte, 8), 60); err == nil {
		t.Error("read past the end of a buffer")
	}
	if _, err := b.WriteAt(make([]byte, 8), -1); err == nil {
		t.Error("wrote before a buffer")
	}
	in.Offset = 56
	if err := e.Run(t.Context(), []backend.Value{in}, &results{}); backend.CodeOf(err) != backend.CodeInvalid {
		t.Errorf("a value past the end of its buffer: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsOfRuns(t *testing.T) {
	s := newSimulation()
	gather := compile(t, s, "plain", write(t, func(b *graph.Builder) {
		w := b.Tensor("w", tensor.Floats(tensor.Shape{3}, 1, 2, 3))
		b.Output("y", b.Op("Gather", []string{w, b.Input("i", typ(tensor.Int64, -1))}), nil)
	}))
	err := gather.Run(t.Context(), []backend.Value{host(tensor.Ints(tensor.Shape{1}, 9))}, &results{})
	if backend.CodeOf(err) != backend.CodeInvalid || !strings.Contains(err.Error(), "index 9") {
		t.Errorf("an index out of range: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gather.Run(ctx, []backend.Value{host(tensor.Ints(tensor.Shape{1}, 1))}, &results{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run: %v", err)
	}
	expand := compile(t, s, "plain", write(t, func(b *graph.Builder) {
		b.Output("y", b.Op("Expand", []string{b.Float(1), b.Input("s", typ(tensor.Int64, 1))}), nil)
	}))
	err = expand.Run(t.Context(), []backend.Value{host(tensor.Ints(tensor.Shape{1}, 1<<40))}, &results{})
	var e *backend.Error
	if !errors.As(err, &e) || e.Code != backend.CodeOutOfMemory || e.Needed != 4<<40 || e.Free <= 0 {
		t.Errorf("too large a result: %v", err)
	}
}

func TestMemory(t *testing.T) {
	s := newSimulation()
	if _, err := s.Configure(t.Context(), json.RawMessage(`{"devices":[{"name":"small","memory_bytes":10000}]}`)); err != nil {
		t.Fatal(err)
	}
	d, err := s.device("small")
	if err != nil {
		t.Fatal(err)
	}
	held := func() int64 {
		total, free := d.memory.state()
		return total - free
	}
	// A weight of 4000 bytes, and two values of 400 at a time: the Reshape shares.
	dir := write(t, func(b *graph.Builder) {
		w := b.Tensor("w", tensor.Floats(tensor.Shape{10, 100}, make([]float32, 1000)...))
		x := b.Op("MatMul", []string{b.Input("x", typ(tensor.Float32, 1, 10)), w})
		x = b.Op("Reshape", []string{b.Op("Relu", []string{x}), b.Ints(100)})
		b.Output("y", b.Op("Neg", []string{x}), nil)
	})
	a, err := s.Assess(t.Context(), "small", dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(4000 + 8 + 800); a.MemoryEstimate != want {
		t.Errorf("the estimate is %d bytes, want %d", a.MemoryEstimate, want)
	}
	if held() != 0 {
		t.Errorf("Assess holds %d bytes", held())
	}
	spec := backend.CompileSpec{Device: "small", Dir: dir}
	quiet := func(string, float64) {}
	first, err := s.Compile(t.Context(), spec, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if first.Info().Memory != a.MemoryEstimate || held() != a.MemoryEstimate {
		t.Errorf("it says %d bytes, %d are held, the estimate was %d", first.Info().Memory, held(), a.MemoryEstimate)
	}
	second, err := s.Compile(t.Context(), spec, quiet)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Compile(t.Context(), spec, quiet)
	var e *backend.Error
	if !errors.As(err, &e) || e.Code != backend.CodeOutOfMemory || e.Needed != a.MemoryEstimate || e.Free != 10000-2*a.MemoryEstimate {
		t.Errorf("a third one: %v", err)
	}
	if _, err := s.Alloc(t.Context(), "small", 1000); backend.CodeOf(err) != backend.CodeOutOfMemory {
		t.Errorf("a buffer beyond what is free: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := s.Alloc(t.Context(), "small", 1000)
	if err != nil {
		t.Fatal(err)
	}
	spec.MemoryBudget = 100
	if _, err := s.Compile(t.Context(), spec, quiet); backend.CodeOf(err) != backend.CodeOutOfMemory {
		t.Errorf("beyond the budget: %v", err)
	}
	if err := errors.Join(b.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if held() != 0 {
		t.Errorf("%d bytes are held in the end", held())
	}
}

// Watch tells of memory as it is taken and given back.
func TestWatchFollowsMemory(t *testing.T) {
	s := newSimulation()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	free := make(chan int64, 100)
	done := make(chan error)
	go func() {
		done <- s.Watch(ctx, func(d []backend.Device) { free <- d[0].MemoryFree })
	}()
	before := <-free
	b, err := s.Alloc(t.Context(), "plain", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-free; got != before-1<<20 {
		t.Errorf("%d bytes are free, want %d", got, before-1<<20)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-free; got != before {
		t.Errorf("%d bytes are free, want %d", got, before)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A real text encoder through the interface, with its recorded outputs.
func TestBert(t *testing.T) {
	dir := testfiles.Shared(t, "onnx", "bert")
	s := newSimulation()
	e := compile(t, s, "plain", dir)
	read := func(what string, i int) tensor.Tensor {
		data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", fmt.Sprintf("%s_%d.pb", what, i)))
		if err != nil {
			t.Fatal(err)
		}
		_, x, err := graph.ParseTensor(data)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	var in []backend.Value
	for i := range e.Info().Inputs {
		in = append(in, host(read("input", i)))
	}
	r := &results{}
	if err := e.Run(t.Context(), in, r); err != nil {
		t.Fatal(err)
	}
	for i, v := range e.Info().Outputs {
		want, got := tensor.View[float32](read("output", i).Aligned()), tensor.View[float32](r.got[i])
		if len(got) != len(want) {
			t.Fatalf("output %s has %d elements, want %d", v.Name, len(got), len(want))
		}
		worst, scale := float32(0), float32(0)
		for k := range want {
			worst = max(worst, got[k]-want[k], want[k]-got[k])
			scale = max(scale, want[k], -want[k])
		}
		if worst > 1e-4*scale {
			t.Errorf("output %s is off by %g of %g", v.Name, worst, scale)
		}
	}
}
