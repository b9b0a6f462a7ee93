//go:build unix

package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const poison = float32(13)

func poisoned(name string) map[string]Backend { return fault(name, "ACCEL_FAULT_POISON=13") }

// TestDeath dies in Execute in several ways, twice.
func TestDeath(t *testing.T) {
	for _, c := range []struct{ fault, exit, stderr string }{
		{"run_exit", "exit status 7", "vendor runtime: assertion failed"},
		{"run_segv", "", "SIGSEGV"}, // the Go runtime catches it and says where
		{"run_kill", "signal: killed", ""},
	} {
		for way, regions := range ways {
			t.Run(c.fault+" "+way, func(t *testing.T) {
				m, d := started(t, Options{Backends: poisoned(c.fault), Regions: regions, Restart: Restart{Base: time.Millisecond}})
				dir := identity(t)
				in := ramp(5000)
				tensor.View[float32](in)[0] = poison
				for round := range 2 {
					pid := m.Backends()[0].PID
					x := compile(t, d, dir)
					works(t, x)
					buffer, err := d.Alloc(t.Context(), 64)
					if err != nil {
						t.Fatal(err)
					}
					_, _, err = x.Run(t.Context(), map[string]graph.Datum{"x": graph.TensorDatum(in)}, nil, round == 1)
					e := as[*CrashedError](t, err)
					if e.Backend != "faulty" || e.Device != "simulation:0" || e.PID != pid || !strings.HasPrefix(e.Exit, c.exit) || e.Reason != "" || !e.InFlight {
						t.Errorf("error is %+v", e)
					}
					if !Replayable(err) || isCode(err, backend.CodeBadState) {
						t.Error("it can't be replayed")
					}
					says(t, err.Error(), "BACKEND_CRASHED", `"faulty"`, fmt.Sprint(pid), c.exit, c.stderr)
					gone(t, pid)

					// What lived in the process says so at once, and can be closed.
					_, _, err = x.Run(t.Context(), one(1), nil, false)
					if e := as[*CrashedError](t, err); e.InFlight || !isCode(err, backend.CodeBadState) || !Replayable(err) {
						t.Errorf("a stale executable ran: %v", err)
					}
					if err := errors.Join(x.Close(), buffer.Close()); err != nil {
						t.Errorf("closing what is gone: %v", err)
					}

					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					if err := d.WaitHealthy(ctx); err != nil {
						t.Fatal(err)
					}
					cancel()
					s := until(t, m, "faulty", healthy)
					if s.Restarts != round+1 || s.PID == pid || !strings.HasPrefix(s.LastExit, c.exit) || !strings.Contains(s.Stderr, c.stderr) {
						t.Errorf("status is %+v", s)
					}
					y := compile(t, d, dir)
					works(t, y)
					// An executable and a buffer of two lives don't mix.
					_, err = y.Do(t.Context(), Request{Inputs: []Input{{Name: "x", Buffer: buffer, Value: graph.TensorDatum(tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{1}})}}})
					if !isCode(err, backend.CodeBadState) {
						t.Errorf("a stale buffer: %v", err)
					}
				}
			})
		}
	}
}

func TestDeathInCompile(t *testing.T) {
	once := "ACCEL_FAULT_ONCE=" + filepath.Join(t.TempDir(), "once")
	m, d := started(t, Options{Backends: fault("compile_exit", once)})
	dir := identity(t)
	pid := m.Backends()[0].PID
	_, err := d.Compile(t.Context(), backend.CompileSpec{Dir: dir}, nil)
	if now := m.Backends()[0].PID; now == pid {
		t.Errorf("process %d is listed after its death was told", pid)
	}
	if e := as[*CrashedError](t, err); !e.InFlight || e.Exit != "exit status 7" {
		t.Errorf("error is %+v", e)
	}
	says(t, err.Error(), "vendor compiler: internal error 0x42")
	if err := d.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stages []string
	x, err := d.Compile(t.Context(), backend.CompileSpec{Dir: dir}, func(stage string, fraction float64) {
		stages = append(stages, fmt.Sprintf("%s %g", stage, fraction))
	})
	if err != nil {
		t.Fatal(err)
	}
	works(t, x)
	says(t, strings.Join(stages, ", "), "read 0", "plan 0.5")
}

func TestRefusedCompiles(t *testing.T) {
	m, d := started(t, Options{Backends: fault("compile_panic")})
	pid := m.Backends()[0].PID
	_, err := d.Compile(t.Context(), backend.CompileSpec{Dir: t.TempDir()}, nil)
	if !isCode(err, backend.CodeInvalid) {
		t.Errorf("an empty folder: %v", err)
	}
	_, err = d.Compile(t.Context(), backend.CompileSpec{Dir: identity(t)}, nil)
	if !isCode(err, backend.CodeInternal) || Replayable(err) {
		t.Errorf("a panic: %v", err)
	}
	if s := m.Backends()[0]; s.PID != pid || s.State != Healthy {
		t.Errorf("status is %+v", s)
	}
}

func TestStalledCompile(t *testing.T) {
	once := "ACCEL_FAULT_ONCE=" + filepath.Join(t.TempDir(), "once")
	m, d := started(t, Options{Backends: fault("compile_hang", once), Timeouts: Timeouts{Stall: 200 * time.Millisecond}})
	dir := identity(t)
	_, err := d.Compile(t.Context(), backend.CompileSpec{Dir: dir}, nil)
	if e := as[*TimeoutError](t, err); e.Call != "Compile" || !e.Killed || e.After != 200*time.Millisecond {
		t.Errorf("error is %+v", e)
	}
	says(t, err.Error(), "Compile on simulation:0", "200ms")
	s := until(t, m, "faulty", func(s BackendStatus) bool { return s.State == Healthy && s.Restarts == 1 })
	if s.LastExit != "signal: killed" {
		t.Errorf("status is %+v", s)
	}
	if err := d.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	works(t, compile(t, d, dir))
}

func TestCancelledCompile(t *testing.T) {
	m, d := started(t, Options{Backends: fault("compile_hang"), Timeouts: Timeouts{Shutdown: 100 * time.Millisecond}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := d.Compile(ctx, backend.CompileSpec{Dir: identity(t)}, nil)
	if !errors.Is(err, context.DeadlineExceeded) || Replayable(err) {
		t.Errorf("error %v", err)
	}
	if s := m.Backends()[0]; s.State != Healthy || s.Restarts != 0 {
		t.Errorf("status is %+v", s)
	}
}

// TestHang leaves a run unanswered past its deadline. What else is in flight dies
// with the process that is ended for it.
func TestHang(t *testing.T) {
	m, d := started(t, Options{Backends: fault("run_hang", "ACCEL_FAULT_POISON=13", "ACCEL_FAULT_DELAY=1h"),
		Timeouts: Timeouts{Cancel: 100 * time.Millisecond}})
	// The smoke run takes the delay as well, so the executables come without one.
	m.opts.Backends["faulty"].Env["ACCEL_FAULT_DELAY"] = "0s"
	restart(t, m, d)
	dir := identity(t)
	hung, other := compile(t, d, dir), compile(t, d, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	victim := make(chan error)
	go func() {
		// It waits for the executable that hangs.
		_, _, err := hung.Run(context.Background(), one(1), nil, false)
		victim <- err
	}()
	_, _, err := hung.Run(ctx, one(poison), nil, false)
	e := as[*TimeoutError](t, err)
	if !e.Killed || e.Device != "simulation:0" || !errors.Is(err, context.DeadlineExceeded) || Replayable(err) {
		t.Errorf("error is %+v", e)
	}
	if err := <-victim; err != nil { // unless it was faster
		if v := as[*CrashedError](t, err); !v.InFlight || !strings.Contains(v.Reason, "cancelled command on simulation:0 within 100ms") {
			t.Errorf("the other's error is %+v", v)
		}
	}
	if _, _, err := other.Run(t.Context(), one(1), nil, false); !isCode(err, backend.CodeBadState) {
		t.Errorf("a stale executable: %v", err)
	}
	if err := d.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	works(t, compile(t, d, dir))
}

// restart kills the process and waits for the next.
func restart(t *testing.T, m *Manager, d *Device) {
	t.Helper()
	before := m.Backends()[0]
	syscall.Kill(before.PID, syscall.SIGKILL)
	until(t, m, before.Name, func(s BackendStatus) bool { return s.State == Healthy && s.Restarts == before.Restarts+1 })
	if err := d.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestIgnoredCancel cancels runs that go on regardless: within the grace a late
// answer counts, past it the process is ended.
func TestIgnoredCancel(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
		grace   time.Duration
		killed  bool
	}{
		{"late", role(t, "slow"), time.Minute, false},
		{"never", Options{Backends: poisoned("ignore_cancel")}, 50 * time.Millisecond, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.Timeouts.Cancel = c.grace
			m, d := started(t, c.options)
			x := compile(t, d, identity(t))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			out, _, err := x.Run(ctx, one(poison), []string{"y"}, false)
			if c.killed {
				as[*TimeoutError](t, err)
				until(t, m, m.Backends()[0].Name, func(s BackendStatus) bool { return s.Restarts == 1 })
				return
			}
			if err != nil || tensor.View[float32](out["y"].Tensor)[0] != poison || m.Backends()[0].Restarts != 0 {
				t.Errorf("the late answer is %v, %v", out, err)
			}
		})
	}
}

func TestDeviceLoss(t *testing.T) {
	m, d := started(t, Options{Backends: poisoned("run_lost")})
	dir := identity(t)
	pid := m.Backends()[0].PID
	for range 3 {
		x, y := compile(t, d, dir), compile(t, d, dir)
		lease, err := d.Lease(100)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = x.Run(t.Context(), one(poison), nil, false)
		e := as[*DeviceLostError](t, err)
		if e.Device != "simulation:0" || e.Backend != "faulty" || !e.InFlight || !Replayable(err) || !isCode(err, backend.CodeDeviceLost) {
			t.Errorf("error is %+v", e)
		}
		says(t, err.Error(), "DEVICE_LOST", "fell off the bus")
		if s := d.Status(); s.Health != backend.Healthy && !s.Returning { // it may be back already
			t.Errorf("device is %+v", s)
		}
		for _, x := range []*Executable{x, y} {
			_, _, err := x.Run(t.Context(), one(1), nil, false)
			if e := as[*DeviceLostError](t, err); e.InFlight || !isCode(err, backend.CodeBadState) {
				t.Errorf("a stale executable: %v", err)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		}
		lease.data[99] = 1
		lease.Release()
		if err := d.WaitHealthy(t.Context()); err != nil {
			t.Fatal(err)
		}
		works(t, compile(t, d, dir))
	}
	if s := m.Backends()[0]; s.PID != pid || s.Restarts != 0 || s.State != Healthy {
		t.Errorf("status is %+v", s)
	}
}

// TestFlap has the device go and come back without a call that tells.
func TestFlap(t *testing.T) {
	m, d := started(t, Options{Backends: fault("flap")})
	changed := m.Changed()
	x, err := d.Compile(t.Context(), backend.CompileSpec{Dir: identity(t)}, nil)
	if err != nil && !isCode(err, backend.CodeDeviceLost) && !isCode(err, backend.CodeBadState) {
		t.Fatal(err)
	}
	if x == nil { // the smoke run met the loss
		return
	}
	<-changed
	for {
		_, _, err := x.Run(t.Context(), one(1), nil, false)
		if err == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		as[*DeviceLostError](t, err)
		says(t, err.Error(), "the fan does not turn")
		break
	}
	if err := d.WaitHealthy(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestKillUnderLoad kills the process under fifty runs, several times: each ends
// once, with its result or as one that may be replayed, and is replayed.
func TestKillUnderLoad(t *testing.T) {
	m, d := started(t, Options{Restart: Restart{Base: time.Millisecond, Loop: 1000}})
	dir := identity(t)
	var current atomic.Pointer[Executable]
	var compiling sync.Mutex
	renew := func(old *Executable) error {
		compiling.Lock()
		defer compiling.Unlock()
		if current.Load() != old {
			return nil
		}
		for {
			if err := d.WaitHealthy(context.Background()); err != nil {
				return err
			}
			x, err := d.Compile(context.Background(), backend.CompileSpec{Dir: dir}, nil)
			if err == nil {
				current.Store(x)
				return nil
			}
			if !Replayable(err) && !isCode(err, backend.CodeBadState) {
				return err
			}
		}
	}
	if err := renew(nil); err != nil {
		t.Fatal(err)
	}
	const runs, workers = 60, 50
	var crashes atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			in := ramp(2000 + w)
			for i := 0; i < runs; {
				x := current.Load()
				out, _, err := x.Run(context.Background(), map[string]graph.Datum{"x": graph.TensorDatum(in)}, nil, false)
				switch {
				case err == nil:
					if !bytes.Equal(out["y"].Tensor.Data, in.Data) {
						t.Error("a result is wrong")
					}
					i++
					continue
				case !Replayable(err):
					t.Errorf("error %v", err)
					return
				}
				var crash *CrashedError
				if errors.As(err, &crash) && crash.InFlight {
					crashes.Add(1)
				}
				if err := renew(x); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const kills = 4
	for range kills {
		time.Sleep(30 * time.Millisecond)
		before := until(t, m, "faulty", healthy)
		syscall.Kill(before.PID, syscall.SIGKILL)
		until(t, m, "faulty", func(s BackendStatus) bool { return s.Restarts > before.Restarts })
	}
	wg.Wait()
	if s := m.Backends()[0]; s.Restarts != kills || s.State != Healthy {
		t.Errorf("status is %+v", s)
	}
	t.Logf("%d runs were in flight at %d deaths", crashes.Load(), kills)
}

// TestCrashLoop kills the process whenever it is healthy, until it is given up for
// a while, and then lets it live.
func TestCrashLoop(t *testing.T) {
	m, d := started(t, Options{Restart: Restart{Base: time.Millisecond, Max: 300 * time.Millisecond, Loop: 6, Quiet: time.Hour}})
	var s BackendStatus
	for deaths := 0; ; {
		s = until(t, m, "faulty", func(s BackendStatus) bool { return s.State == Healthy || s.State == Unhealthy })
		if s.State == Unhealthy {
			if deaths != 6 {
				t.Errorf("it is unhealthy after %d deaths", deaths)
			}
			break
		}
		syscall.Kill(s.PID, syscall.SIGKILL)
		deaths++
		until(t, m, "faulty", func(n BackendStatus) bool { return n.PID != s.PID })
	}
	says(t, s.Reason, "6 times", "signal: killed")
	if s.NextTry.IsZero() || s.Remedy == "" || s.Restarts != 5 {
		t.Errorf("status is %+v", s)
	}
	if st := d.Status(); st.Health != backend.Unhealthy || st.Returning || !strings.Contains(st.Reason, "died") {
		t.Errorf("device is %+v", st)
	}
	as[*UnavailableError](t, d.WaitHealthy(t.Context()))
	if _, err := m.Device("simulation"); err == nil {
		t.Error("a dead device is handed out")
	}
	s = until(t, m, "faulty", healthy) // the next try
	if s.Reason != "" || s.Restarts != 6 {
		t.Errorf("status is %+v", s)
	}
	works(t, compile(t, d, identity(t)))
}

func TestReturning(t *testing.T) {
	m, d := started(t, Options{Restart: Restart{Base: time.Hour, Max: time.Hour, Loop: 10}})
	restart(t, m, d) // the first restart is immediate
	pid := m.Backends()[0].PID
	syscall.Kill(pid, syscall.SIGKILL)
	s := until(t, m, "faulty", func(s BackendStatus) bool { return s.PID != pid && !s.NextTry.IsZero() })
	if s.State != Restarting || time.Until(s.NextTry) < time.Minute {
		t.Errorf("status is %+v", s)
	}
	if st := d.Status(); !st.Returning || st.NextTry != s.NextTry || st.Health != backend.Unhealthy {
		t.Errorf("device is %+v", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := d.WaitHealthy(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting: %v", err)
	}
	says(t, err.Error(), "died: signal: killed")
	if err := m.Start(t.Context()); err != nil { // somebody asks for it
		t.Fatal(err)
	}
	works(t, compile(t, d, identity(t)))
}

// TestDescendants kills a backend that has children: those in its group end with
// it, and one that left the group does not hide the death by holding its pipes.
func TestDescendants(t *testing.T) {
	for _, c := range []struct {
		name, start string
		ends        bool
	}{{"in the group", "sleep 300 &", true}, {"outside", "setsid sleep 300 &", false}} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "program")
			pidFile := filepath.Join(t.TempDir(), "pid")
			text := fmt.Sprintf("#!/bin/sh\n%s\necho $! > %s\nexec %s\n", c.start, pidFile, filepath.Join(backends, "accel-backend-faulty"))
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			m, d := started(t, Options{Path: []string{t.TempDir()}, Backends: map[string]Backend{"script": {Path: path}}})
			said, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(strings.TrimSpace(string(said)))
			if err != nil {
				t.Fatal(err)
			}
			if !running(child) {
				t.Fatal("the child does not run")
			}
			restart(t, m, d)
			if c.ends {
				gone(t, child)
			} else {
				syscall.Kill(child, syscall.SIGKILL)
			}
			said, err = os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			if second, err := strconv.Atoi(strings.TrimSpace(string(said))); err == nil && !c.ends {
				defer syscall.Kill(second, syscall.SIGKILL)
			}
			works(t, compile(t, d, identity(t)))
		})
	}
}

// stop stops a process, and waits until all its threads are.
func stop(pid int) {
	syscall.Kill(pid, syscall.SIGSTOP)
	for range 1000 {
		moving := false
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			moving = moving || err == nil && !strings.Contains(string(stat), ") T ")
		}
		if !moving && len(tasks) > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// TestStopped stops the process with a signal, so that it neither dies nor
// answers.
func TestStopped(t *testing.T) {
	m, d := started(t, Options{Timeouts: Timeouts{Cancel: 100 * time.Millisecond, Call: 300 * time.Millisecond, Assess: 300 * time.Millisecond},
		Restart: Restart{Base: time.Millisecond, Loop: 100}})
	dir := identity(t)
	for what, call := range map[string]func(x *Executable) error{
		"run": func(x *Executable) error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, _, err := x.Run(ctx, one(1), nil, false)
			return err
		},
		"messages that fill the pipe": func(x *Executable) error {
			s, err := d.current()
			if err != nil {
				return err
			}
			s.arena.mu.Lock()
			s.arena.off = true
			s.arena.mu.Unlock()
			in := ramp(8 << 20)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			_, _, err = x.Run(ctx, map[string]graph.Datum{"x": graph.TensorDatum(in)}, nil, false)
			return err
		},
		"assess": func(*Executable) error {
			_, err := d.Assess(t.Context(), dir)
			return err
		},
		"alloc": func(*Executable) error {
			_, err := d.Alloc(t.Context(), 10)
			return err
		},
		"release": func(x *Executable) error { return x.Close() },
	} {
		x := compile(t, d, dir)
		works(t, x)
		before := m.Backends()[0]
		stop(before.PID)
		err := call(x)
		if e := as[*TimeoutError](t, err); !e.Killed {
			t.Errorf("%s: %v", what, err)
		}
		until(t, m, "faulty", func(s BackendStatus) bool { return s.State == Healthy && s.Restarts > before.Restarts })
		if err := d.WaitHealthy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
