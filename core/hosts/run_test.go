//go:build unix

package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// ways are the ways that tensors travel.
var ways = map[string]Regions{
	"regions":      {},
	"messages":     {Disabled: true},
	"small region": {First: 16 << 10, Limit: 24 << 10}, // large tensors travel in messages
}

func TestRun(t *testing.T) {
	for way, regions := range ways {
		t.Run(way, func(t *testing.T) {
			_, d := started(t, Options{Regions: regions})
			x := compile(t, d, identity(t))
			for _, n := range []int{0, 1, 1023, 1024, 1025, 5000, 1 << 18, 1<<20 + 3} {
				in := ramp(n)
				out, times, err := x.Run(t.Context(), map[string]graph.Datum{"x": graph.TensorDatum(in)}, nil, false)
				if err != nil {
					t.Fatalf("%d: %v", n, err)
				}
				y, z := out["y"].Tensor, out["z"].Tensor
				if len(out) != 2 || !bytes.Equal(y.Data, in.Data) || y.DType != tensor.Float32 || !y.Shape.Equal(in.Shape) {
					t.Fatalf("%d: y is %s%v", n, y.DType, y.Shape)
				}
				for i, v := range tensor.View[float32](z) {
					if v != -float32(i)-0.5 {
						t.Fatalf("%d: z[%d] is %v", n, i, v)
					}
				}
				if times.Total < times.Run+times.Queued {
					t.Errorf("times are %+v", times)
				}
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			if err := x.Close(); err != nil {
				t.Errorf("the second time: %v", err)
			}
			if _, _, err := x.Run(t.Context(), one(1), nil, false); !isCode(err, backend.CodeBadState) {
				t.Errorf("a closed executable ran: %v", err)
			}
		})
	}
}

func TestWantedOutputs(t *testing.T) {
	_, d := started(t, Options{})
	x := compile(t, d, identity(t))
	for _, wanted := range [][]string{{"z"}, {"z", "y"}, {"y", "z"}, {}, nil} {
		out, _, err := x.Run(t.Context(), one(2), wanted, false)
		if err != nil {
			t.Fatal(err)
		}
		want := wanted
		if want == nil {
			want = []string{"y", "z"}
		}
		if got := slices.Sorted(maps.Keys(out)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("wanted %q, got %q", wanted, got)
		}
	}
	r, err := x.Do(t.Context(), Request{Inputs: []Input{{Name: "x", Value: graph.TensorDatum(ramp(3000))}}, Outputs: []Output{{Name: "z"}, {Name: "y"}}})
	if err != nil {
		t.Fatal(err)
	}
	if tensor.View[float32](r.Outputs[0].Tensor)[9] != -9.5 || tensor.View[float32](r.Outputs[1].Tensor)[9] != 9.5 {
		t.Error("the outputs are not in the order of the request")
	}
	r.Release()
}

// TestTypes passes every element type through, with dimensions fixed, symbolic and
// shared between inputs.
func TestTypes(t *testing.T) {
	for way, regions := range ways {
		t.Run(way, func(t *testing.T) {
			_, d := started(t, Options{Regions: regions})
			for _, elem := range []tensor.DType{tensor.Uint8, tensor.Int64, tensor.Bool, tensor.Float16, tensor.Complex128, tensor.Int4, tensor.Float8E4M3} {
				g := &graph.Graph{Name: "g"}
				inputs := map[string]graph.Datum{}
				for i, n := range []int64{0, 1, 7, 3000} {
					name := fmt.Sprint("x", i)
					size, err := tensor.New(elem, tensor.Shape{2, n})
					if err != nil {
						t.Fatal(err)
					}
					for k := range size.Data {
						size.Data[k] = byte(k % 2)
					}
					inputs[name] = graph.TensorDatum(size)
					dim := graph.Sym(fmt.Sprint("n", i))
					g.Inputs = append(g.Inputs, &graph.Value{Name: name, Type: graph.TensorType(elem, graph.Known(2), dim)})
					g.Nodes = append(g.Nodes, &graph.Node{OpType: "Identity", Inputs: []string{name}, Outputs: []string{"y" + name}})
					g.Outputs = append(g.Outputs, &graph.Value{Name: "y" + name, Type: graph.TensorType(elem, graph.Known(2), dim)})
				}
				x := compile(t, d, folder(t, g))
				out, _, err := x.Run(t.Context(), inputs, nil, false)
				if err != nil {
					t.Fatalf("%s: %v", elem, err)
				}
				for name, given := range inputs {
					in := given.Tensor
					if got := out["y"+name].Tensor; !bytes.Equal(got.Data, in.Data) || !got.Shape.Equal(in.Shape) || got.DType != elem {
						t.Errorf("%s: %s%v came back as %s%v", name, elem, in.Shape, got.DType, got.Shape)
					}
				}
			}
		})
	}
}

// TestManyInputs has more small tensors than fit into one message.
func TestManyInputs(t *testing.T) {
	_, d := started(t, Options{})
	g := &graph.Graph{Name: "many"}
	inputs := map[string]graph.Datum{}
	const n = backend.MaxMessage/inlineBytes + 10
	for i := range n {
		in, out := fmt.Sprint("x", i), fmt.Sprint("y", i)
		kind := graph.TensorType(tensor.Uint8, graph.Known(inlineBytes))
		g.Inputs = append(g.Inputs, &graph.Value{Name: in, Type: kind})
		g.Outputs = append(g.Outputs, &graph.Value{Name: out, Type: kind})
		g.Nodes = append(g.Nodes, &graph.Node{OpType: "Identity", Inputs: []string{in}, Outputs: []string{out}})
		inputs[in] = graph.TensorDatum(tensor.Of(tensor.Uint8, tensor.Shape{inlineBytes}, bytes.Repeat([]byte{byte(i)}, inlineBytes)))
	}
	out, _, err := compile(t, d, folder(t, g)).Run(t.Context(), inputs, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if !bytes.Equal(out[fmt.Sprint("y", i)].Tensor.Data, inputs[fmt.Sprint("x", i)].Tensor.Data) {
			t.Fatalf("output %d is wrong", i)
		}
	}
}

func TestInputsAreChecked(t *testing.T) {
	_, d := started(t, Options{})
	value := func(name string, dims ...graph.Dim) *graph.Value {
		return &graph.Value{Name: name, Type: graph.TensorType(tensor.Float32, dims...)}
	}
	x := compile(t, d, folder(t, &graph.Graph{
		Name:    "g",
		Nodes:   []*graph.Node{{OpType: "Add", Inputs: []string{"a", "b"}, Outputs: []string{"y"}}},
		Inputs:  []*graph.Value{value("a", graph.Sym("n"), graph.Known(2)), value("b", graph.Sym("n"), graph.Known(2))},
		Outputs: []*graph.Value{value("y", graph.Sym("n"), graph.Known(2))},
	}))
	if info := x.Info(); len(info.Inputs) != 2 || len(info.Outputs) != 1 || info.Inputs[0].Name != "a" {
		t.Errorf("info is %+v", info)
	}
	float := func(shape ...int64) tensor.Tensor {
		v, err := tensor.New(tensor.Float32, shape)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	lease, err := d.Lease(1 << 12)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	crooked := float(2, 2)
	crooked.Data = lease.data[2:18]
	short := float(2, 2)
	short.Data = short.Data[:12]
	good := []Input{{Name: "a", Value: graph.TensorDatum(float(2, 2))}, {Name: "b", Value: graph.TensorDatum(float(2, 2))}}
	for name, c := range map[string]struct {
		inputs   []Input
		outputs  []Output
		argument string
	}{
		"missing":        {good[:1], nil, "b"},
		"unknown":        {append(slices.Clone(good), Input{Name: "c", Value: graph.TensorDatum(float(1))}), nil, "c"},
		"twice":          {append(slices.Clone(good), good[0]), nil, "a"},
		"element type":   {[]Input{{Name: "a", Value: graph.TensorDatum(tensor.Ints(tensor.Shape{1, 2}, 1, 2))}, good[1]}, nil, "a"},
		"rank":           {[]Input{{Name: "a", Value: graph.TensorDatum(float(2))}, good[1]}, nil, "a"},
		"dimension":      {[]Input{{Name: "a", Value: graph.TensorDatum(float(2, 3))}, good[1]}, nil, "a"},
		"symbol":         {[]Input{good[0], {Name: "b", Value: graph.TensorDatum(float(3, 2))}}, nil, "b"},
		"negative":       {[]Input{{Name: "a", Value: graph.TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{-2, 2}})}, good[1]}, nil, "a"},
		"too few bytes":  {[]Input{{Name: "a", Value: graph.TensorDatum(short)}, good[1]}, nil, "a"},
		"foreign lease":  {[]Input{{Name: "a", Value: graph.TensorDatum(float(2, 2)), Lease: lease}, good[1]}, nil, "a"},
		"crooked":        {[]Input{{Name: "a", Value: graph.TensorDatum(crooked), Lease: lease}, good[1]}, nil, "a"},
		"unknown output": {good, []Output{{Name: "q"}}, "q"},
		"output twice":   {good, []Output{{Name: "y"}, {Name: "y"}}, "y"},
	} {
		_, err := x.Do(t.Context(), Request{Inputs: c.inputs, Outputs: c.outputs})
		var e *backend.Error
		if !errors.As(err, &e) || e.Code != backend.CodeInvalid || e.Argument != c.argument {
			t.Errorf("%s: error %v, want INVALID (%s)", name, err, c.argument)
		}
	}
	if lease.held.Load() != 1 {
		t.Errorf("the lease is held %d times", lease.held.Load())
	}
	r, err := x.Do(t.Context(), Request{Inputs: good})
	if err != nil {
		t.Fatalf("after all that: %v", err)
	}
	r.Release()
}

// TestLeases runs with inputs and outputs where they lie.
func TestLeases(t *testing.T) {
	for way, regions := range ways {
		t.Run(way, func(t *testing.T) {
			_, d := started(t, Options{Regions: regions})
			x := compile(t, d, identity(t))
			for _, n := range []int64{1, 3000, 100000} {
				lease, err := d.Lease(4 * n)
				if err != nil {
					t.Fatal(err)
				}
				in, err := lease.Tensor(tensor.Float32, tensor.Shape{n})
				if err != nil {
					t.Fatal(err)
				}
				v := tensor.View[float32](in)
				for i := range v {
					v[i] = float32(i)
				}
				var results []*Result
				for range 3 { // results don't overwrite each other
					r, err := x.Do(t.Context(), Request{Inputs: []Input{{Name: "x", Value: graph.TensorDatum(in), Lease: lease}}})
					if err != nil {
						t.Fatal(err)
					}
					results = append(results, r)
				}
				for _, r := range results {
					for i, z := range tensor.View[float32](r.Outputs[1].Tensor) {
						if z != -v[i] {
							t.Fatalf("z[%d] is %v", i, z)
						}
					}
					r.Release()
				}
				lease.Release()
			}
			s, err := d.current()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range s.arena.regions {
				if !r.idle() {
					t.Errorf("of %d bytes only %v are free at the end", len(r.bytes), r.free)
				}
			}
			if _, err := d.Lease(-1); !isCode(err, backend.CodeInvalid) {
				t.Errorf("a negative lease: %v", err)
			}
		})
	}
}

// TestManyRuns shares one executable, and several, between goroutines.
func TestManyRuns(t *testing.T) {
	_, d := started(t, Options{Regions: Regions{First: 1 << 20, Limit: 4 << 20}})
	dir := identity(t)
	exes := []*Executable{compile(t, d, dir), compile(t, d, dir), compile(t, d, dir)}
	var wg sync.WaitGroup
	for g := range 24 {
		wg.Go(func() {
			for i := range 20 {
				n := 1 + (g*37+i*4099)%60000
				in := ramp(n)
				in.Data[0] = byte(g)
				out, _, err := exes[(g+i)%len(exes)].Run(context.Background(), map[string]graph.Datum{"x": graph.TensorDatum(in)}, []string{"y"}, g == 7)
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(out["y"].Tensor.Data, in.Data) {
					t.Errorf("%d floats came back changed", n)
				}
			}
		})
	}
	wg.Wait()
}

// TestRegionsAreBounded grows the arena, and sees idle regions given up.
func TestRegionsAreBounded(t *testing.T) {
	_, d := started(t, Options{Regions: Regions{First: 1 << 20, Limit: 2 * keepRegions}})
	s, err := d.current()
	if err != nil {
		t.Fatal(err)
	}
	var leases []*Lease
	for {
		l := s.arena.lease(keepRegions / 4)
		if l == nil {
			break
		}
		leases = append(leases, l)
	}
	if n := len(leases); n < 5 || n > 8 || s.arena.total > 2*keepRegions {
		t.Errorf("%d leases in %d bytes", n, s.arena.total)
	}
	if l := s.arena.lease(1 << 30); l != nil {
		t.Error("more than the limit was leased")
	}
	for _, l := range leases {
		l.Release()
	}
	s.arena.mu.Lock()
	defer s.arena.mu.Unlock()
	if s.arena.total > keepRegions+1<<20 {
		t.Errorf("%d bytes stay mapped", s.arena.total)
	}
}

func TestBuffers(t *testing.T) {
	_, d := started(t, Options{})
	x := compile(t, d, identity(t))
	const n = 1000
	in, err := d.Alloc(t.Context(), 8*n)
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Alloc(t.Context(), 4*n+16)
	if err != nil {
		t.Fatal(err)
	}
	if in.Size() != 8*n {
		t.Errorf("size is %d", in.Size())
	}
	lease, err := d.Lease(8 * n)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	copy(lease.data, ramp(2*n).Data)
	// The lease's halves change places in the buffer.
	err = d.Copy(t.Context(),
		CopyRange{From: Place{Lease: lease}, To: Place{Buffer: in, Offset: 4 * n}, Bytes: 4 * n},
		CopyRange{From: Place{Lease: lease, Offset: 4 * n}, To: Place{Buffer: in}, Bytes: 4 * n})
	if err != nil {
		t.Fatal(err)
	}
	shape := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{n}}
	r, err := x.Do(t.Context(), Request{
		Inputs:  []Input{{Name: "x", Value: graph.TensorDatum(shape), Buffer: in, Offset: 4 * n}},
		Outputs: []Output{{Name: "z", Buffer: out, Offset: 16, Length: 4 * n}, {Name: "y"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if z := r.Outputs[0].Tensor; z.Data != nil || !z.Shape.Equal(shape.Shape) {
		t.Errorf("the output in a buffer is %v with %d bytes", z.Shape, len(z.Data))
	}
	if y := r.Outputs[1].Tensor; !bytes.Equal(y.Data, ramp(n).Data) {
		t.Error("y is not what the buffer held")
	}
	r.Release()
	err = d.Copy(t.Context(), CopyRange{From: Place{Buffer: out, Offset: 16}, To: Place{Lease: lease}, Bytes: 4 * n})
	if err != nil {
		t.Fatal(err)
	}
	if z := tensor.View[float32](tensor.Tensor{Data: lease.data[:4*n]}); z[0] != -0.5 || z[n-1] != -(n-1)-0.5 {
		t.Errorf("z is %v ... %v", z[0], z[n-1])
	}

	local := &Lease{data: make([]byte, 64)}
	for name, c := range map[string]struct {
		r    CopyRange
		code backend.Code
	}{
		"past the end":  {CopyRange{From: Place{Buffer: in, Offset: 8*n - 1}, To: Place{Lease: lease}, Bytes: 2}, backend.CodeInvalid},
		"before":        {CopyRange{From: Place{Buffer: in, Offset: -1}, To: Place{Lease: lease}, Bytes: 2}, backend.CodeInvalid},
		"lease's end":   {CopyRange{From: Place{Buffer: in}, To: Place{Lease: lease, Offset: int64(len(lease.data))}, Bytes: 1}, backend.CodeInvalid},
		"negative":      {CopyRange{From: Place{Buffer: in}, To: Place{Lease: lease}, Bytes: -1}, backend.CodeInvalid},
		"nowhere":       {CopyRange{From: Place{Buffer: in}, Bytes: 1}, backend.CodeInvalid},
		"both":          {CopyRange{From: Place{Buffer: in}, To: Place{Lease: lease, Buffer: in}, Bytes: 1}, backend.CodeInvalid},
		"ordinary room": {CopyRange{From: Place{Buffer: in}, To: Place{Lease: local}, Bytes: 1}, backend.CodeUnsupported},
	} {
		if err := d.Copy(t.Context(), c.r); !isCode(err, c.code) {
			t.Errorf("%s: error %v, want %s", name, err, c.code)
		}
	}
	for name, in := range map[string]Input{
		"does not fit": {Name: "x", Value: graph.TensorDatum(shape), Buffer: in, Offset: 4*n + 1},
		"negative":     {Name: "x", Value: graph.TensorDatum(shape), Buffer: in, Offset: -4},
	} {
		if _, err := x.Do(t.Context(), Request{Inputs: []Input{in}}); !isCode(err, backend.CodeInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	_, err = x.Do(t.Context(), Request{Inputs: []Input{{Name: "x", Value: graph.TensorDatum(ramp(n))}}, Outputs: []Output{{Name: "y", Buffer: out, Length: 4}}})
	var small *backend.Error
	if !errors.As(err, &small) || small.Code != backend.CodeInvalid || small.Needed != 4*n {
		t.Errorf("too little room: %v", err)
	}
	if _, err := d.Alloc(t.Context(), 1<<40); !isCode(err, backend.CodeOutOfMemory) {
		t.Errorf("a terabyte: %v", err)
	}
	if _, err := d.Alloc(t.Context(), 0); !isCode(err, backend.CodeInvalid) {
		t.Errorf("nothing: %v", err)
	}
	for _, b := range []*Buffer{in, out, out} {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err = x.Do(t.Context(), Request{Inputs: []Input{{Name: "x", Value: graph.TensorDatum(shape), Buffer: in}}})
	if !isCode(err, backend.CodeBadState) {
		t.Errorf("a closed buffer: %v", err)
	}
}

func TestCancel(t *testing.T) {
	_, d := started(t, Options{Backends: fault("run_hang", "ACCEL_FAULT_POISON=13", "ACCEL_FAULT_DELAY=50ms")})
	x := compile(t, d, identity(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the client is gone")
	cancel(why)
	if _, _, err := x.Run(ctx, one(1), nil, false); !errors.Is(err, why) {
		t.Errorf("cancelled before: %v", err)
	}
	// The delay of each run ends when it is cancelled; the smoke run showed that it
	// lasts 50 ms else.
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if _, _, err := x.Run(ctx, one(1), nil, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("timed out: %v", err)
		}
		cancel()
	}
	works(t, x)
}

// TestGate runs three requests on executables that could overlap: the one that
// runs alone waits for the first and holds up the last.
func TestGate(t *testing.T) {
	m, d := started(t, Options{Backends: fault("", "ACCEL_FAULT_DELAY=100ms")})
	dir := identity(t)
	var exes []*Executable
	for range 3 {
		exes = append(exes, compile(t, d, dir))
	}
	gate := m.hosts[0].gate
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i, x := range exes {
		wg.Go(func() {
			if _, _, err := x.Run(context.Background(), one(1), nil, i == 1); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
		})
		// The next one comes when the first runs, and the second waits.
		if i < 2 {
			busy(gate, []int64{everyone, 1}[i])
		}
	}
	wg.Wait()
	if !slices.Equal(order, []int{0, 1, 2}) {
		t.Errorf("they ended in the order %v", order)
	}
	// One that gives up waiting lets the others pass.
	done := make(chan error)
	go func() {
		_, _, err := exes[0].Run(context.Background(), one(1), nil, false)
		done <- err
	}()
	busy(gate, everyone)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := exes[1].Run(ctx, one(1), nil, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting: %v", err)
	}
	works(t, exes[2])
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// busy waits, not for ever, until so much of the gate is not to be had.
func busy(gate *semaphore.Weighted, n int64) {
	for range 5000 {
		if !gate.TryAcquire(n) {
			return
		}
		gate.Release(n)
		time.Sleep(time.Millisecond)
	}
}
