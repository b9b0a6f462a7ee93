package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/tensor"
)

// guest is a tenant that goes when it is asked and nobody uses it.
type guest struct {
	*tenant
	k *keeper

	mu    sync.Mutex
	busy  bool
	last  time.Time
	going bool
}

func newGuest(k *keeper, name string) *guest {
	g := &guest{k: k, last: time.Now()}
	g.tenant = &tenant{model: "m", component: name, used: func() time.Time {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.busy {
			return time.Now()
		}
		return g.last
	}, leave: func() {
		g.mu.Lock()
		g.going = true
		now := !g.busy
		g.mu.Unlock()
		if now {
			k.gone(g.tenant)
		}
	}}
	return g
}

func (g *guest) use(busy bool) {
	g.mu.Lock()
	g.busy, g.last = busy, time.Now()
	now := !busy && g.going
	g.mu.Unlock()
	if now {
		g.k.gone(g.tenant)
	}
}

func (k *keeper) names(dev string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for t := range k.tenants {
		if t.bytes[dev] > 0 {
			out = append(out, t.component)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestKeeperLetsTheOldestGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(100, hclog.NewNullLogger())
		for i, step := range []struct {
			name  string
			bytes int64
			held  string
		}{{"a", 40, "a"}, {"b", 40, "a b"}, {"c", 20, "a b c"}, {"d", 30, "b c d"}, {"e", 60, "d e"}, {"f", 100, "f"}} {
			time.Sleep(time.Second)
			if err := k.enter(t.Context(), newGuest(k, step.name).tenant, map[string]int64{"cpu:0": step.bytes}); err != nil {
				t.Fatal(err)
			}
			if got := k.names("cpu:0"); got != step.held {
				t.Errorf("after step %d %q is held, want %q", i, got, step.held)
			}
		}
		if got, want := k.memory(), (DeviceMemory{"cpu:0", 100, 5}); len(got) != 1 || got[0] != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestKeeperWaitsForWhatIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(100, hclog.NewNullLogger())
		on := func(n int64) map[string]int64 { return map[string]int64{"gpu:0": n} }
		a, b, c := newGuest(k, "a"), newGuest(k, "b"), newGuest(k, "c")
		if err := k.enter(t.Context(), a.tenant, on(70)); err != nil {
			t.Fatal(err)
		}
		a.use(true)
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		for i, g := range []*guest{b, c} {
			all.Go(func() {
				if err := k.enter(t.Context(), g.tenant, on(60-int64(i)*35)); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, g.component)
				mu.Unlock()
			})
			synctest.Wait()
		}
		// c would fit beside a, but b was there before it.
		if len(order) != 0 || k.names("gpu:0") != "a" {
			t.Errorf("%v came in while a was in use: %s", order, k.names("gpu:0"))
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := k.enter(short, newGuest(k, "d").tenant, on(50))
		var e *BudgetError
		if !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) || e.Component != "d" || e.Needed != 50 || e.Budget != 100 || len(e.Holds) != 1 || e.Holds[0] != (Held{"m", "a", 70}) {
			t.Errorf("got %v", err)
		}
		a.use(false)
		all.Wait()
		slices.Sort(order)
		if fmt.Sprint(order) != "[b c]" || k.names("gpu:0") != "b c" {
			t.Errorf("%v came in, %s is held", order, k.names("gpu:0"))
		}
		err = k.enter(t.Context(), newGuest(k, "huge").tenant, map[string]int64{"cpu:0": 1, "gpu:0": 101})
		if !errors.As(err, &e) || e.Err != nil || e.Device != "gpu:0" || !strings.Contains(err.Error(), "raise memory.budget") {
			t.Errorf("got %v", err)
		}
		if err := k.resize(c.tenant, on(101)); !errors.As(err, &e) {
			t.Errorf("a component that turned out too large: %v", err)
		}
		time.Sleep(time.Second)
		c.use(false)
		if err := k.resize(c.tenant, on(50)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if k.names("gpu:0") != "c" {
			t.Errorf("c grew, and %s is held", k.names("gpu:0"))
		}
	})
}

func TestKeeperCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(1, hclog.NewNullLogger())
		a := newGuest(k, "a")
		if err := k.enter(t.Context(), a.tenant, map[string]int64{"cpu:0": 1}); err != nil {
			t.Fatal(err)
		}
		a.use(true)
		var err error
		var done sync.WaitGroup
		done.Go(func() { err = k.enter(t.Context(), newGuest(k, "b").tenant, map[string]int64{"cpu:0": 1}) })
		synctest.Wait()
		k.close()
		done.Wait()
		if !errors.Is(err, errKeeperClosed) {
			t.Errorf("got %v", err)
		}
		if err := k.enter(t.Context(), newGuest(k, "c").tenant, nil); !errors.Is(err, errKeeperClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// Many want room on two devices, some on both, and give up now and then: nobody waits for ever and the budget holds.
func TestKeeperStorm(t *testing.T) {
	k := newKeeper(100, hclog.NewNullLogger())
	var over, gaveUp atomic.Int32
	var all sync.WaitGroup
	for c := range 16 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(c)))
			for range 200 {
				need := map[string]int64{}
				for _, dev := range [][]string{{"a"}, {"b"}, {"a", "b"}}[rng.IntN(3)] {
					need[dev] = 1 + rng.Int64N(100)
				}
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if rng.IntN(8) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(300))*time.Microsecond)
				}
				g := newGuest(k, "x")
				g.use(true)
				if err := k.enter(ctx, g.tenant, need); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					gaveUp.Add(1)
					cancel()
					continue
				}
				cancel()
				for _, m := range k.memory() {
					if m.Bytes > 100 {
						over.Add(1)
					}
				}
				g.use(false)
			}
		})
	}
	all.Wait()
	k.close()
	k.asked.Wait()
	t.Logf("%d gave up, %v", gaveUp.Load(), k.memory())
	if over.Load() > 0 {
		t.Errorf("the budget was passed %d times", over.Load())
	}
}

// Two graphs on a device with room for one: each goes for the other, never under a run, and all answers are right.
func TestRunnersShareABudget(t *testing.T) {
	cpu := device("cpu", backend.Hardware)
	var running, worst atomic.Int32
	cpu.run = func(tensor.Tensor) error {
		if n := cpu.open.Load(); n > worst.Load() {
			worst.Store(n)
		}
		running.Add(1)
		time.Sleep(200 * time.Microsecond)
		running.Add(-1)
		return nil
	}
	f := &fakeFleet{devices: []*fakeDevice{cpu}}
	k := newKeeper(1, hclog.NewNullLogger()) // a fakeExecutable takes one byte
	var runners []*Runner
	for range 3 {
		r := newTestRunner(t, f, route.Query{})
		r.keeper = k
		r.sizes["cpu:0"] = 1
		runners = append(runners, r)
	}
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			for j := range 8 {
				out, err := runners[(i+j)%3].Run(t.Context(), &route.Decision{}, x(2, int64(1+j)), []string{"y"})
				if err != nil || tensor.View[float32](out["y"].Tensor)[1] != float32(1+j) {
					t.Errorf("%v, %v", out, err)
				}
			}
		})
	}
	all.Wait()
	k.asked.Wait()
	if n := worst.Load(); n != 1 {
		t.Errorf("%d executables were there at once", n)
	}
	if m := k.memory(); len(m) != 1 || m[0].Bytes > 1 || m[0].Offloads < 3 {
		t.Errorf("%v", m)
	}
	for _, r := range runners {
		r.Close()
	}
}

// A request whose time ends while it waits for room is told what has the room; one that can never have it goes to
// the next platform.
func TestRunnerSaysWhatHasTheRoom(t *testing.T) {
	cpu, sim := device("cpu", backend.Hardware), device("simulation", backend.Simulated)
	started, end := make(chan struct{}), make(chan struct{})
	var once sync.Once
	cpu.run = func(tensor.Tensor) error {
		once.Do(func() { close(started) })
		<-end
		return nil
	}
	f := &fakeFleet{devices: []*fakeDevice{cpu, sim}}
	k := newKeeper(1, hclog.NewNullLogger())
	first, second := newTestRunner(t, f, route.Query{}), newTestRunner(t, f, route.Query{})
	for _, r := range []*Runner{first, second} {
		r.keeper = k
		r.sizes["cpu:0"] = 1
	}
	var busy sync.WaitGroup
	busy.Go(func() {
		if _, err := first.Run(t.Context(), &route.Decision{}, x(1, 1), []string{"y"}); err != nil {
			t.Error(err)
		}
	})
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := second.Run(ctx, &route.Decision{}, x(1, 1), []string{"y"})
	var e *BudgetError
	if !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) || len(e.Holds) != 1 {
		t.Errorf("got %v", err)
	}
	close(end)
	busy.Wait()
	k.asked.Wait()
	var d route.Decision
	r := newTestRunner(t, f, route.Query{})
	r.keeper, r.sizes["cpu:0"], r.sizes["simulation:0"] = k, 2, 1
	if _, err := r.Run(t.Context(), &d, x(1, 1), []string{"y"}); err != nil || d.Chosen.Device != "simulation:0" || !strings.Contains(d.Summary(), "budget") {
		t.Errorf("%v, on %s: %s", err, d.Chosen.Device, d.Summary())
	}
	for _, r := range []*Runner{first, second, r} {
		r.Close()
	}
}
