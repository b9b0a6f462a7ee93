package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// fakeFleet has devices that add up their input's rows, and die as told.
type fakeFleet struct {
	noBuffers
	mu       sync.Mutex
	devices  []*fakeDevice
	assessed int
	restless int // how often a device dies again as soon as it was waited for
}

type fakeDevice struct {
	route.Device
	static  bool
	epoch   int
	refuse  string                       // Assess refuses every node with this
	compile func() error                 // nil: fine
	run     func(in tensor.Tensor) error // nil: fine
	back    time.Duration                // how long a restart takes; negative: never
	solos   atomic.Int32
	shapes  []tensor.Shape
	open    atomic.Int32 // executables
}

var errDied = errors.New("died")
var errStale = errors.New("stale")

func (f *fakeFleet) find(ref string) *fakeDevice {
	for _, d := range f.devices {
		if d.Ref == ref {
			return d
		}
	}
	return nil
}

func (f *fakeFleet) Devices() []route.Device {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []route.Device
	for _, d := range f.devices {
		out = append(out, d.Device)
	}
	return out
}

func (f *fakeFleet) Device(ref string) (backend.Device, bool) {
	d := f.find(ref)
	if d == nil {
		return backend.Device{}, false
	}
	return backend.Device{Platform: d.Platform, Kind: d.Kind, StaticShapes: d.static}, true
}

func (f *fakeFleet) WaitReady(ctx context.Context, ref string) error {
	for {
		f.mu.Lock()
		ready := f.find(ref).Presence == route.Ready
		again := ready && f.restless > 0
		if again {
			f.restless--
		}
		f.mu.Unlock()
		if again {
			f.die(f.find(ref))
		}
		if ready {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// die ends a device's life and brings it back after a while.
func (f *fakeFleet) die(d *fakeDevice) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d.Presence != route.Ready {
		return
	}
	d.epoch++
	d.Presence, d.Reason = route.Returning, "restarting"
	if d.back < 0 {
		d.Presence = route.Unhealthy
		return
	}
	time.AfterFunc(d.back, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		d.Presence = route.Ready
	})
}

func (f *fakeFleet) Assess(_ context.Context, ref, dir string) (backend.Assessment, error) {
	f.mu.Lock()
	f.assessed++
	f.mu.Unlock()
	m, err := graph.Load(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	a := backend.Assessment{Nodes: make([]backend.Verdict, len(m.Graph.Nodes))}
	for i := range a.Nodes {
		a.Nodes[i] = backend.Accept
		if d := f.find(ref); d.refuse != "" {
			a.Nodes[i] = backend.Refuse(backend.RefusedOperator, d.refuse)
		}
	}
	return a, nil
}

func (f *fakeFleet) Compile(_ context.Context, ref string, _ backend.CompileSpec, _ func(string, float64)) (Executable, error) {
	d := f.find(ref)
	if d.compile != nil {
		if err := d.compile(); err != nil {
			if errors.Is(err, errDied) {
				f.die(d)
			}
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d.open.Add(1)
	return &fakeExecutable{fleet: f, d: d, epoch: d.epoch}, nil
}

func (f *fakeFleet) Died(err error) (Death, bool) {
	return Death{Reason: "signal: killed", Stderr: "last words"}, errors.Is(err, errDied)
}

func (f *fakeFleet) Replayable(err error) bool { return errors.Is(err, errStale) }

type fakeExecutable struct {
	noBuffers
	fleet *fakeFleet
	d     *fakeDevice
	epoch int
}

func (x *fakeExecutable) Memory() int64 { return 1 }
func (x *fakeExecutable) Close() error  { x.d.open.Add(-1); return nil }

func (x *fakeExecutable) Run(_ context.Context, in map[string]graph.Datum, wanted []string, solo bool) (map[string]graph.Datum, error) {
	x.fleet.mu.Lock()
	stale := x.epoch != x.d.epoch
	x.d.shapes = append(x.d.shapes, in["x"].Tensor.Shape)
	x.fleet.mu.Unlock()
	if stale {
		return nil, errStale
	}
	if solo {
		x.d.solos.Add(1)
	}
	if x.d.run != nil {
		if err := x.d.run(in["x"].Tensor); err != nil {
			if errors.Is(err, errDied) {
				x.fleet.die(x.d)
			}
			return nil, err
		}
	}
	n, l := in["x"].Tensor.Shape[0], in["x"].Tensor.Shape[1]
	out := make([]float32, n)
	for i, v := range tensor.View[float32](in["x"].Tensor) {
		out[int64(i)/l] += v
	}
	return map[string]graph.Datum{wanted[0]: graph.TensorDatum(tensor.Floats(tensor.Shape{n}, out...))}, nil
}

// sumGraph is y[batch] = sum over x[batch, sequence].
func sumGraph(t *testing.T) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("sum")
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Sym("batch"), graph.Sym("sequence")))
	b.Output("y", b.Op("ReduceSum", []string{x, b.Ints(1)}, graph.IntAttr("keepdims", 0)), graph.TensorType(tensor.Float32, graph.Sym("batch")))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newTestRunner(t *testing.T, f *fakeFleet, q route.Query) *Runner {
	t.Helper()
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	q.Model = "m"
	if q.Platforms == nil {
		q.Platforms = []string{"cpu", "simulation"}
	}
	if q.Policy == "" {
		q.Policy = route.Warn
	}
	if q.RestartWait == 0 {
		q.RestartWait = time.Second
	}
	r := newRunner(f, store, lower.Source{Graph: sumGraph(t), Identity: "test"}, []string{"batch", "sequence"}, q, newKeeper(0, hclog.NewNullLogger()), hclog.NewNullLogger())
	t.Cleanup(func() {
		r.Close()
		for _, d := range f.devices {
			if n := d.open.Load(); n != 0 {
				t.Errorf("%s: %d executables were never closed", d.Ref, n)
			}
		}
	})
	return r
}

func device(platform string, kind backend.Kind) *fakeDevice {
	return &fakeDevice{Device: route.Device{Platform: platform, Ref: platform + ":0", Kind: kind}, back: 5 * time.Millisecond}
}

func x(rows, cols int64) map[string]graph.Datum {
	v := make([]float32, rows*cols)
	for i := range v {
		v[i] = 1
	}
	return map[string]graph.Datum{"x": graph.TensorDatum(tensor.Floats(tensor.Shape{rows, cols}, v...))}
}

// deaths gives a run function that dies so many times.
func deaths(n int32) func(tensor.Tensor) error {
	var count atomic.Int32
	return func(tensor.Tensor) error {
		if count.Add(1) <= n {
			return errDied
		}
		return nil
	}
}

func TestRunnerFollowsTheRoute(t *testing.T) {
	boom := &backend.Error{Code: backend.CodeInternal, Message: "boom"}
	for _, tt := range []struct {
		name    string
		set     func(cpu, sim *fakeDevice)
		q       route.Query
		chosen  string // "" wants an error that holds err
		err     string
		replays int
		summary string
	}{
		{name: "the first device", chosen: "cpu:0"},
		{name: "a death is replayed on the restarted device", set: func(cpu, _ *fakeDevice) { cpu.run = deaths(1) }, chosen: "cpu:0", replays: 1, summary: "signal: killed"},
		{name: "two deaths, then alone", set: func(cpu, _ *fakeDevice) { cpu.run = deaths(2) }, chosen: "cpu:0", replays: 2},
		{name: "three deaths are poison", set: func(cpu, _ *fakeDevice) { cpu.run = deaths(3) }, err: "BACKEND_CRASHED"},
		{name: "replay goes on when the device stays away", set: func(cpu, _ *fakeDevice) { cpu.run, cpu.back = deaths(1), -1 }, chosen: "simulation:0", replays: 1, summary: "instead of cpu"},
		{name: "too slow a restart is not waited for", set: func(cpu, _ *fakeDevice) { cpu.run, cpu.back = deaths(1), time.Hour },
			q: route.Query{RestartWait: 10 * time.Millisecond}, chosen: "simulation:0", replays: 1},
		{name: "deny waits but does not fall back", set: func(cpu, _ *fakeDevice) { cpu.run, cpu.back = deaths(1), -1 },
			q: route.Query{Policy: route.Deny}, err: "fallback: deny"},
		{name: "refused nodes", set: func(cpu, _ *fakeDevice) { cpu.refuse = "no sums" }, chosen: "simulation:0", summary: "no sums"},
		{name: "an error of the backend's own", set: func(cpu, _ *fakeDevice) { cpu.run = func(tensor.Tensor) error { return boom } }, chosen: "simulation:0", summary: "boom"},
		{name: "the caller's error goes nowhere else", set: func(cpu, _ *fakeDevice) {
			cpu.run = func(tensor.Tensor) error { return backend.Invalid("inputs", "bad id") }
		}, err: "bad id"},
		{name: "out of memory in compile", set: func(cpu, _ *fakeDevice) {
			cpu.compile = func() error { return backend.OutOfMemory("weights", 10, 1) }
		}, chosen: "simulation:0", summary: "needs 10 bytes"},
		{name: "dying in compile keeps away", set: func(cpu, _ *fakeDevice) { cpu.compile = func() error { return errDied } },
			chosen: "simulation:0", replays: 2, summary: "died 2 times compiling this model (signal: killed: last words)"},
		{name: "nothing left", set: func(cpu, sim *fakeDevice) { cpu.refuse, sim.refuse = "no", "no" }, err: "no platform can serve"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cpu, sim := device("cpu", backend.Hardware), device("simulation", backend.Simulated)
			if tt.set != nil {
				tt.set(cpu, sim)
			}
			r := newTestRunner(t, &fakeFleet{devices: []*fakeDevice{cpu, sim}}, tt.q)
			var d route.Decision
			out, err := r.Run(t.Context(), &d, x(2, 3), []string{"y"})
			if tt.chosen == "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := tensor.View[float32](out["y"].Tensor); !slices.Equal(got, []float32{3, 3}) {
				t.Errorf("y = %v, want [3 3]", got)
			}
			if d.Chosen.Device != tt.chosen || len(d.Replays) != tt.replays {
				t.Errorf("chosen %s after %d replays, want %s after %d", d.Chosen.Device, len(d.Replays), tt.chosen, tt.replays)
			}
			if s := d.Summary(); !strings.Contains(s, tt.summary) {
				t.Errorf("summary %q does not hold %q", s, tt.summary)
			}
		})
	}
}

func TestPoisonNamesItsDeaths(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	cpu.run = deaths(100)
	r := newTestRunner(t, &fakeFleet{devices: []*fakeDevice{cpu}}, route.Query{})
	_, err := r.Run(t.Context(), &route.Decision{}, x(1, 1), []string{"y"})
	var p *PoisonedError
	if !errors.As(err, &p) || len(p.Deaths) != 3 || p.Stderr != "last words" {
		t.Errorf("got %#v, want three deaths and the last words", err)
	}
	if n := cpu.solos.Load(); n != 1 {
		t.Errorf("ran alone %d times, want once", n)
	}
}

func TestPoisonDoesNotHurtTheOthers(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	cpu.run = func(in tensor.Tensor) error {
		if in.Shape[0] == 7 {
			return errDied
		}
		return nil
	}
	f := &fakeFleet{devices: []*fakeDevice{cpu}}
	r := newTestRunner(t, f, route.Query{})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			rows := int64(1)
			if i == 25 {
				rows = 7
			}
			_, err := r.Run(t.Context(), &route.Decision{}, x(rows, 2), []string{"y"})
			var p *PoisonedError
			if rows == 7 && !errors.As(err, &p) {
				t.Errorf("the poisonous request ended with %v", err)
			}
			if rows != 7 && err != nil {
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestRunnerPadsForStaticDevices(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	cpu.static = true
	r := newTestRunner(t, &fakeFleet{devices: []*fakeDevice{cpu}}, route.Query{})
	for _, s := range [][2]int64{{3, 5}, {4, 7}, {3, 9}} {
		out, err := r.Run(t.Context(), &route.Decision{}, x(s[0], s[1]), []string{"y"})
		if err != nil {
			t.Fatal(err)
		}
		y := out["y"].Tensor
		if !y.Shape.Equal(tensor.Shape{s[0]}) || tensor.View[float32](y)[s[0]-1] != float32(s[1]) {
			t.Errorf("x%v gave %v%v", s, y.Shape, tensor.View[float32](y))
		}
	}
	if got, want := fmt.Sprint(cpu.shapes), "[[4,8] [4,8] [4,16]]"; got != want {
		t.Errorf("ran shapes %s, want %s", got, want)
	}
	if n := cpu.open.Load(); n != 2 {
		t.Errorf("%d executables for two buckets", n)
	}
}

func TestRunnerBoundsItsPlacements(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	cpu.static = true
	r := newTestRunner(t, &fakeFleet{devices: []*fakeDevice{cpu}}, route.Query{})
	for n := int64(1); n <= 512*(maxPlacements+4); n += 512 {
		if _, err := r.Run(t.Context(), &route.Decision{}, x(1, n), []string{"y"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := cpu.open.Load(); n > maxPlacements {
		t.Errorf("%d executables are kept, bound is %d", n, maxPlacements)
	}
}

func TestRunnerRefusesInputsBeforeAnythingRuns(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	f := &fakeFleet{devices: []*fakeDevice{cpu}}
	r := newTestRunner(t, f, route.Query{})
	for name, in := range map[string]map[string]graph.Datum{
		"missing": {},
		"unknown": {"x": x(1, 1)["x"], "z": x(1, 1)["x"]},
		"type":    {"x": graph.TensorDatum(tensor.Ints(tensor.Shape{1, 1}, 1))},
		"kind":    {"x": {Kind: graph.KindSequence}},
		"rank":    {"x": graph.TensorDatum(tensor.Floats(tensor.Shape{1}, 1))},
		"short":   {"x": graph.TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{2, 2}, Data: make([]byte, 4)})},
	} {
		_, err := r.Run(t.Context(), &route.Decision{}, in, []string{"y"})
		if !errors.Is(err, &backend.Error{Code: backend.CodeInvalid}) {
			t.Errorf("%s: got %v, want INVALID", name, err)
		}
	}
	if f.assessed != 0 {
		t.Error("a device was asked")
	}
}

func TestRunnerWaitsAgain(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	f := &fakeFleet{devices: []*fakeDevice{cpu}, restless: 3}
	r := newTestRunner(t, f, route.Query{RestartWait: time.Minute})
	f.die(cpu)
	if _, err := r.Run(t.Context(), &route.Decision{}, x(1, 1), []string{"y"}); err != nil {
		t.Error(err)
	}
	if f.restless != 0 {
		t.Errorf("%d deaths were not waited out", f.restless)
	}
}

func TestRunnerEndsWithItsContext(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	cpu.Presence = route.Returning
	r := newTestRunner(t, &fakeFleet{devices: []*fakeDevice{cpu}}, route.Query{RestartWait: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Run(ctx, &route.Decision{}, x(1, 1), []string{"y"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func (x *fakeExecutable) Pass(ctx context.Context, in map[string]Passed, wanted []string, solo bool) (map[string]Passed, func(), error) {
	feeds := map[string]graph.Datum{}
	for k, v := range in {
		feeds[k] = v.Datum
	}
	out, err := x.Run(ctx, feeds, wanted, solo)
	passed := map[string]Passed{}
	for k, v := range out {
		passed[k] = Passed{Datum: v}
	}
	return passed, func() {}, err
}
