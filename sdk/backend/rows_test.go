package backend

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// rowGraph gives rows [T,2] of a pool [P,S,2], and one output more.
type rowGraph struct {
	info ExecutableInfo
	runs int
}

func newRowGraph(row tensor.DType) *rowGraph {
	g := &rowGraph{}
	g.info.Inputs = []graph.Value{
		{Name: "x", Type: graph.TensorType(tensor.Float32, graph.Sym("T"), graph.Known(2))},
		{Name: "k.0", Type: graph.TensorType(tensor.Float32, graph.Sym("P"), graph.Sym("S"), graph.Known(2))},
		{Name: RowSlots, Type: graph.TensorType(tensor.Int64, graph.Sym("T"))},
	}
	g.info.Outputs = []graph.Value{
		{Name: "y", Type: graph.TensorType(tensor.Float32, graph.Sym("T"), graph.Known(2))},
		{Name: "k_new.0", Type: graph.TensorType(row, graph.Sym("T"), graph.Known(2))},
	}
	return g
}

func (g *rowGraph) Info() ExecutableInfo { return g.info }
func (g *rowGraph) Close() error         { return nil }

func (g *rowGraph) Run(_ context.Context, in []Value, out Outputs) error {
	g.runs++
	for i := range 2 {
		if !out.Wanted(i) {
			continue
		}
		if err := out.Give(i, in[0].Datum); err != nil {
			return err
		}
	}
	return nil
}

// rowMemory is a buffer that counts its writes.
type rowMemory struct {
	data   []byte
	writes int
}

func (m *rowMemory) Size() int64 { return int64(len(m.data)) }
func (m *rowMemory) ReadAt(p []byte, at int64) (int, error) {
	return copy(p, m.data[at:]), nil
}
func (m *rowMemory) WriteAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) > m.Size() {
		return 0, io.ErrShortWrite
	}
	m.writes++
	return copy(m.data[at:], p), nil
}
func (m *rowMemory) Close() error { return nil }

// rowResults are outputs in host memory, or output 1 in a buffer.
type rowResults struct {
	skip   bool // output 1
	buffer Value
	room   int64
	got    map[int]tensor.Tensor
	filled tensor.Shape
}

func (r *rowResults) Wanted(i int) bool { return i == 0 || !r.skip }
func (r *rowResults) Buffer(i int) (Value, int64, bool) {
	return r.buffer, r.room, i == 1 && r.buffer.Buffer != nil
}
func (r *rowResults) Filled(_ int, _ tensor.DType, s tensor.Shape) error {
	if bytes, _ := s.Elements(); bytes*4 > r.room {
		return errors.New("no room")
	}
	r.filled = s
	return nil
}
func (r *rowResults) Place(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	t, err := tensor.New(d, s)
	if r.got == nil {
		r.got = map[int]tensor.Tensor{}
	}
	r.got[i] = t
	return t, err
}
func (r *rowResults) Give(i int, v graph.Datum) error {
	t, err := r.Place(i, v.Tensor.DType, v.Tensor.Shape)
	copy(t.Data, v.Tensor.Data)
	return err
}

func TestWithPools(t *testing.T) {
	g := newRowGraph(tensor.Float32)
	e, err := WithPools(g)
	if err != nil {
		t.Fatal(err)
	}
	if out := e.Info().Outputs[1]; out.Name != "k_out.0" || len(out.Type.Dims) != 3 || g.info.Outputs[1].Name != "k_new.0" {
		t.Errorf("it shows %s", out.Name)
	}
	pool := tensor.Floats(tensor.Shape{2, 2, 2}, 1, 1, 2, 2, 3, 3, 4, 4)
	want := []float32{30, 31, 2, 2, 10, 11, 20, 21}
	x := Value{Datum: graph.TensorDatum(tensor.Floats(tensor.Shape{3, 2}, 10, 11, 20, 21, 30, 31))}
	slots := Value{Datum: graph.TensorDatum(tensor.Ints(tensor.Shape{3}, 2, 3, 0))}
	host := Value{Datum: graph.TensorDatum(pool)}

	// From host memory into a copy.
	r := &rowResults{}
	if err := e.Run(t.Context(), []Value{x, host, slots}, r); err != nil {
		t.Fatal(err)
	}
	if got := tensor.View[float32](r.got[1]); !slices.Equal(got, want) || !r.got[1].Shape.Equal(pool.Shape) || tensor.View[float32](pool)[0] != 1 {
		t.Errorf("the pool is %v, the input %v", got, tensor.View[float32](pool))
	}
	if got := tensor.View[float32](r.got[0]); !slices.Equal(got, tensor.View[float32](x.Tensor)) {
		t.Errorf("the other output is %v", got)
	}

	// Into the pool's own memory: rows side by side in one write, nothing else.
	memory := &rowMemory{data: append(make([]byte, 8), pool.Data...)}
	typed := Value{Datum: graph.TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: pool.Shape}), Buffer: memory, Offset: 8}
	narrow, err := tensor.New(tensor.Int32, tensor.Shape{3})
	if err != nil {
		t.Fatal(err)
	}
	copy(tensor.View[int32](narrow), []int32{2, 3, 0})
	r = &rowResults{buffer: Value{Buffer: memory, Offset: 8}, room: 32}
	if err := e.Run(t.Context(), []Value{x, typed, {Datum: graph.TensorDatum(narrow)}}, r); err != nil {
		t.Fatal(err)
	}
	now := tensor.Tensor{DType: tensor.Float32, Shape: pool.Shape, Data: memory.data[8:]}
	if got := tensor.View[float32](now.Aligned()); !slices.Equal(got, want) || memory.writes != 2 || !r.filled.Equal(pool.Shape) || len(r.got) != 1 {
		t.Errorf("the buffer holds %v after %d writes", got, memory.writes)
	}

	// Into other memory: through the host.
	r = &rowResults{buffer: Value{Buffer: &rowMemory{data: make([]byte, 32)}}, room: 32}
	if err := e.Run(t.Context(), []Value{x, typed, slots}, r); err != nil || !slices.Equal(tensor.View[float32](r.got[1]), want) {
		t.Errorf("another buffer: %v, %v", r.got, err)
	}

	// Not wanted.
	r = &rowResults{skip: true}
	if err := e.Run(t.Context(), []Value{x, host, slots}, r); err != nil || len(r.got) != 1 {
		t.Errorf("not wanted: %v, %v", r.got, err)
	}

	// Places beyond the pool are refused before anything runs.
	runs := g.runs
	for _, at := range []int64{-1, 4} {
		bad := Value{Datum: graph.TensorDatum(tensor.Ints(tensor.Shape{3}, 0, at, 1))}
		if err := e.Run(t.Context(), []Value{x, host, bad}, &rowResults{}); CodeOf(err) != CodeInvalid || !strings.Contains(err.Error(), "4 places") {
			t.Errorf("slot %d: %v", at, err)
		}
	}
	if g.runs != runs {
		t.Error("it ran all the same")
	}
	few := Value{Datum: graph.TensorDatum(tensor.Ints(tensor.Shape{2}, 0, 1))}
	if err := e.Run(t.Context(), []Value{x, host, few}, &rowResults{}); CodeOf(err) != CodeInternal {
		t.Errorf("more rows than slots: %v", err)
	}
}

func TestWithPoolsRefuses(t *testing.T) {
	if _, err := WithPools(newRowGraph(tensor.Float16)); err == nil {
		t.Error("rows of another type are taken")
	}
	g := newRowGraph(tensor.Float32)
	g.info.Inputs = g.info.Inputs[:2]
	if _, err := WithPools(g); err == nil {
		t.Error("rows without slots are taken")
	}
	g = newRowGraph(tensor.Float32)
	g.info.Outputs = g.info.Outputs[:1]
	if e, err := WithPools(g); err != nil || e != Executable(g) {
		t.Errorf("a graph without pools is changed: %v", err)
	}
	for pool, want := range map[string]string{"k.3": "k_out.3 k_new.3", "v_scales.0": "v_scales_out.0 v_scales_new.0", "logits": "", "a.b.c": "", ".1": ""} {
		updated, row, ok := RowNames(pool)
		if got := strings.TrimSpace(updated + " " + row); ok != (want != "") || ok && got != want {
			t.Errorf("%s: found %q, %v", pool, got, ok)
		}
	}
}
