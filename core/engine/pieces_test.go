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
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// pieceFleet has devices that refuse operators and compute with the reference.
type pieceFleet struct {
	mu      sync.Mutex
	devices []*pieceDevice
}

type pieceDevice struct {
	route.Device
	refuses        []string // operators
	compile        func(spec backend.CompileSpec) error
	die            atomic.Int32 // deaths to come, in runs
	epoch          atomic.Int32
	runs           atomic.Int32
	open           atomic.Int32
	lent, released atomic.Int32
	static         bool
	memory         int64 // of buffers; 0: any
	allocated      atomic.Int64
	buffers        atomic.Int32
	read, solos    atomic.Int32
}

func (f *pieceFleet) find(ref string) *pieceDevice {
	return f.devices[slices.IndexFunc(f.devices, func(d *pieceDevice) bool { return d.Ref == ref })]
}

func (f *pieceFleet) Devices() []route.Device {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []route.Device
	for _, d := range f.devices {
		out = append(out, d.Device)
	}
	return out
}

func (f *pieceFleet) Device(ref string) (backend.Device, bool) {
	d := f.find(ref)
	return backend.Device{Platform: d.Platform, Kind: d.Kind, StaticShapes: d.static, Attention: backend.AttentionFused}, true
}

func (f *pieceFleet) WaitReady(ctx context.Context, ref string) error {
	for {
		if d := f.find(ref); func() bool { f.mu.Lock(); defer f.mu.Unlock(); return d.Presence == route.Ready }() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (f *pieceFleet) Assess(_ context.Context, ref, dir string) (backend.Assessment, error) {
	m, err := graph.Load(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	a := backend.Assessment{}
	for _, n := range m.Graph.Nodes {
		v := backend.AcceptAs(ref)
		if slices.Contains(f.find(ref).refuses, n.OpType) {
			v = backend.Refuse(backend.RefusedOperator, "no "+n.OpType)
		}
		a.Nodes = append(a.Nodes, v)
	}
	return a, nil
}

func (f *pieceFleet) Compile(_ context.Context, ref string, spec backend.CompileSpec, _ func(string, float64)) (Executable, error) {
	d := f.find(ref)
	if d.compile != nil {
		if err := d.compile(spec); err != nil {
			return nil, err
		}
	}
	m, err := graph.Load(spec.Dir)
	if err != nil {
		return nil, err
	}
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &pieceExecutable{f: f, d: d, epoch: d.epoch.Load(), m: m, p: p}, nil
}

func (f *pieceFleet) Died(err error) (Death, bool) {
	return Death{Reason: "killed"}, errors.Is(err, errDied)
}
func (f *pieceFleet) Replayable(err error) bool { return errors.Is(err, errStale) }

type pieceExecutable struct {
	f     *pieceFleet
	d     *pieceDevice
	epoch int32
	m     *graph.Model
	p     *reference.Program
}

func (x *pieceExecutable) Memory() int64 { return 1 }
func (x *pieceExecutable) Close() error  { x.d.open.Add(-1); return x.m.Close() }

func (x *pieceExecutable) Run(ctx context.Context, in map[string]graph.Datum, wanted []string, _ bool) (map[string]graph.Datum, error) {
	if x.epoch != x.d.epoch.Load() {
		return nil, errStale
	}
	x.d.runs.Add(1)
	if x.d.die.Add(-1) >= 0 {
		x.d.epoch.Add(1)
		x.f.mu.Lock()
		x.d.Presence, x.d.ReadyIn = route.Returning, time.Millisecond
		x.f.mu.Unlock()
		time.AfterFunc(3*time.Millisecond, func() {
			x.f.mu.Lock()
			defer x.f.mu.Unlock()
			x.d.Presence = route.Ready
		})
		return nil, errDied
	}
	x.d.die.Store(max(x.d.die.Load(), 0))
	return x.p.RunValues(ctx, in, wanted)
}

// tower is MatMul, Sin, MatMul, Sin, ... on x[batch, 4]; y is its end, early its
// first Sin.
func tower(t *testing.T, sins int) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("tower")
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Sym("batch"), graph.Known(4)))
	w := make([]float32, 16)
	for i := range w {
		w[i] = float32(i%5) / 10
	}
	early := ""
	for i := range sins {
		x = b.Op("Sin", []string{b.Op("MatMul", []string{x, b.Tensor(fmt.Sprintf("w%d", i), tensor.Floats(tensor.Shape{4, 4}, w...))})})
		if i == 0 {
			early = x
		}
	}
	b.Output("y", b.Op("Neg", []string{x}), nil)
	b.Output("early", early, nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRunnerSplits(t *testing.T) {
	internal := &backend.Error{Code: backend.CodeInternal, Message: "sizes contradict each other"}
	for _, tt := range []struct {
		name      string
		set       func(npu, cpu *pieceDevice)
		preferred string
		policy    route.Policy
		split     route.Split
		platforms []string
		// want is device and nodes of each piece, or the device that ran it whole, or
		// the end of an error.
		want    string
		kind    backend.Kind
		replays string
		summary string
	}{
		{name: "the CPU takes what is refused", split: route.SplitForce, want: "npu:0 1, cpu:0 1, npu:0 1, cpu:0 1, npu:0 1", kind: backend.Emulated, summary: "npu:0 answered with cpu:0, which ran 2 of 5 nodes: npu:0: "},
		{name: "off", split: route.SplitOff, want: "cpu:0", kind: backend.Hardware, summary: "cpu:0 answered instead of npu"},
		{name: "too little to be worth it", split: route.SplitAuto, want: "cpu:0", kind: backend.Hardware, summary: "too little to be worth splitting"},
		{name: "denied", policy: route.Deny, split: route.SplitAuto, want: "error: npu:0: npu:0 refuses 2 nodes"},
		{name: "denied, but asked for", policy: route.Deny, split: route.SplitForce, want: "npu:0 1, cpu:0 1, npu:0 1, cpu:0 1, npu:0 1", kind: backend.Emulated, summary: "with cpu:0"},
		{name: "no CPU on the route", split: route.SplitForce, platforms: []string{"npu", "simulation"}, want: "simulation:0", kind: backend.Simulated, summary: "instead of npu"},
		{name: "where the CPU refuses the next takes it, and all is simulated", split: route.SplitForce, preferred: "cpu", platforms: []string{"cpu", "simulation"},
			set:  func(_, cpu *pieceDevice) { cpu.refuses = []string{"Sin"} },
			want: "cpu:0 1, simulation:0 1, cpu:0 1, simulation:0 1, cpu:0 1", kind: backend.Simulated, summary: "with simulation:0"},
		{name: "nothing refused", split: route.SplitForce, set: func(npu, _ *pieceDevice) { npu.refuses = nil }, want: "npu:0", kind: backend.Emulated},
		{name: "the device dies", split: route.SplitForce, set: func(npu, _ *pieceDevice) { npu.die.Store(1) },
			want: "npu:0 1, cpu:0 1, npu:0 1, cpu:0 1, npu:0 1", kind: backend.Emulated, replays: "npu:0", summary: "npu:0 died (killed)"},
		{name: "the other dies", split: route.SplitForce, set: func(_, cpu *pieceDevice) { cpu.die.Store(1) },
			want: "npu:0 1, cpu:0 1, npu:0 1, cpu:0 1, npu:0 1", kind: backend.Emulated, replays: "cpu:0", summary: "cpu:0 died (killed)"},
		{name: "both die", split: route.SplitForce, set: func(npu, cpu *pieceDevice) { npu.die.Store(1); cpu.die.Store(1) },
			want: "npu:0 1, cpu:0 1, npu:0 1, cpu:0 1, npu:0 1", kind: backend.Emulated, replays: "npu:0 cpu:0"},
		{name: "zeros make no sense to a piece", split: route.SplitForce, set: func(_, cpu *pieceDevice) {
			cpu.compile = func(spec backend.CompileSpec) error {
				if spec.SmokeInputs == nil {
					return internal
				}
				for name, v := range spec.SmokeInputs {
					if name != "x" && tensor.View[float32](v.Tensor)[0] == 0 {
						return fmt.Errorf("%s was not computed", name)
					}
				}
				return nil
			}
		}, want: "npu:0 1, cpu:0 1, npu:0 1, cpu:0 1, npu:0 1", kind: backend.Emulated},
		{name: "nor do values", split: route.SplitForce, set: func(_, cpu *pieceDevice) {
			n := 0
			cpu.compile = func(spec backend.CompileSpec) error {
				if n++; n <= 2 {
					return internal
				}
				return nil
			}
		}, want: "cpu:0", kind: backend.Hardware, summary: "sizes contradict"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := func(platform string, kind backend.Kind, refuses ...string) *pieceDevice {
				return &pieceDevice{Device: route.Device{Platform: platform, Ref: platform + ":0", Kind: kind}, refuses: refuses}
			}
			npu, cpu, sim := dev("npu", backend.Emulated, "Sin"), dev("cpu", backend.Hardware), dev("simulation", backend.Simulated)
			if tt.set != nil {
				tt.set(npu, cpu)
			}
			f := &pieceFleet{devices: []*pieceDevice{npu, cpu, sim}}
			store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			q := route.Query{Model: "m", Preferred: tt.preferred, Policy: tt.policy, Split: tt.split, Platforms: tt.platforms, RestartWait: time.Second}
			if q.Policy == "" {
				q.Policy = route.Warn
			}
			if q.Preferred == "" {
				q.Preferred = "npu"
			}
			if q.Platforms == nil {
				q.Platforms = []string{"npu", "cpu", "simulation"}
			}
			m := tower(t, 2)
			r := newRunner(f, store, lower.Source{Graph: m}, nil, q, newKeeper(0, hclog.NewNullLogger()), hclog.NewNullLogger())
			in := map[string]graph.Datum{"x": graph.TensorDatum(tensor.Floats(tensor.Shape{2, 4}, 1, 2, 3, 4, 5, 6, 7, 8))}
			var d route.Decision
			out, err := r.Run(t.Context(), &d, in, []string{"early", "y"})
			r.Close()
			for _, x := range f.devices {
				if n := x.open.Load(); n != 0 {
					t.Errorf("%s: %d executables were never closed", x.Ref, n)
				}
				if lent, back := x.lent.Load(), x.released.Load(); lent != back {
					t.Errorf("%s lent %d times and had it back %d times", x.Ref, lent, back)
				}
			}
			if want, refused := strings.CutPrefix(tt.want, "error: "); refused {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("got %v, want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := reference.New(m, reference.Options{})
			if err != nil {
				t.Fatal(err)
			}
			want, err := p.RunValues(t.Context(), in, []string{"early", "y"})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"early", "y"} {
				if !slices.Equal(out[name].Tensor.Data, want[name].Tensor.Data) {
					t.Errorf("%s is %v, want %v", name, tensor.View[float32](out[name].Tensor), tensor.View[float32](want[name].Tensor))
				}
			}
			var ran []string
			for _, p := range d.Pieces {
				ran = append(ran, fmt.Sprint(p.Device, " ", p.Nodes))
			}
			if ran == nil {
				ran = []string{d.Chosen.Device}
			}
			if got := strings.Join(ran, ", "); got != tt.want {
				t.Errorf("ran on %s, want %s", got, tt.want)
			}
			if d.Split() != (len(d.Pieces) > 0) || d.Split() && !d.Fallback() {
				t.Errorf("split %v, fallback %v with %d pieces", d.Split(), d.Fallback(), len(d.Pieces))
			}
			if d.Chosen.Kind != tt.kind {
				t.Errorf("the result is called %s, want %s", d.Chosen.Kind, tt.kind)
			}
			var died []string
			for _, x := range d.Replays {
				died = append(died, x.Device)
			}
			if got := strings.Join(died, " "); got != tt.replays {
				t.Errorf("died: %q, want %q", got, tt.replays)
			}
			if s := d.Summary(); !strings.Contains(s, tt.summary) || tt.summary == "" && len(d.Replays) == 0 && d.Split() != (s != "") {
				t.Errorf("summary %q does not hold %q", s, tt.summary)
			}
		})
	}
}

// TestSplitRunsWhatIsWanted: pieces behind the wanted outputs are left out.
func TestSplitRunsWhatIsWanted(t *testing.T) {
	npu := &pieceDevice{Device: route.Device{Platform: "npu", Ref: "npu:0"}, refuses: []string{"Sin"}}
	cpu := &pieceDevice{Device: route.Device{Platform: "cpu", Ref: "cpu:0"}}
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	r := newRunner(&pieceFleet{devices: []*pieceDevice{npu, cpu}}, store, lower.Source{Graph: tower(t, 3)}, nil,
		route.Query{Preferred: "npu", Platforms: []string{"npu", "cpu"}, Policy: route.Warn, Split: route.SplitForce}, newKeeper(0, hclog.NewNullLogger()), hclog.NewNullLogger())
	defer r.Close()
	in := map[string]graph.Datum{"x": graph.TensorDatum(tensor.Floats(tensor.Shape{1, 4}, 1, 2, 3, 4))}
	if _, err := r.Run(t.Context(), &route.Decision{}, in, []string{"early"}); err != nil {
		t.Fatal(err)
	}
	if n, c := npu.runs.Load(), cpu.runs.Load(); n != 1 || c != 1 {
		t.Errorf("%d runs on the device and %d on the CPU, want one of each", n, c)
	}
	placements := r.Placements()
	if len(placements) != 7 || placements[1].Device != "cpu:0" || placements[1].For != "npu:0" || placements[1].Piece != 2 || placements[1].Table[0].Why != "no Sin" {
		t.Errorf("placements: %+v", placements)
	}
}

func (x *pieceExecutable) Pass(ctx context.Context, in map[string]Passed, wanted []string, solo bool) (map[string]Passed, func(), error) {
	feeds := map[string]graph.Datum{}
	for k, v := range in {
		feeds[k] = v.Datum
	}
	out, err := x.Run(ctx, feeds, wanted, solo)
	passed := map[string]Passed{}
	for k, v := range out {
		passed[k] = Passed{Datum: v, Lent: x}
	}
	if err == nil {
		x.d.lent.Add(1)
	}
	return passed, func() {
		x.d.released.Add(1)
		for _, v := range out {
			clear(v.Tensor.Data) // as a later run would
		}
	}, err
}
