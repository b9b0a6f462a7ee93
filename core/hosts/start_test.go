//go:build unix

package hosts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/backend"
)

func TestStart(t *testing.T) {
	m := manage(t, Options{Backends: map[string]Backend{"faulty": {Settings: json.RawMessage(`{"threads":2}`)}}})
	if s := m.Backends(); len(s) != 1 || s[0].State != Stopped || s[0].Name != "faulty" || s[0].Path == "" {
		t.Fatalf("before the start: %+v", s)
	}
	_, err := m.Device("simulation")
	says(t, as[*UnavailableError](t, err).Error(), `device "simulation"`, "no backend offers it", "backend faulty is stopped")
	changed := m.Changed()
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-changed
	s := m.Backends()[0]
	if s.State != Healthy || s.PID == 0 || s.Version != "1.0.0" || len(s.Libraries) != 1 || s.Restarts != 0 || s.ConfigSchema == "" {
		t.Errorf("status is %+v", s)
	}
	devices := m.Devices()
	if len(devices) != 1 || devices[0].Ref() != "simulation:0" {
		t.Fatalf("devices are %v", devices)
	}
	d := devices[0].Status()
	if d.Ref != "simulation:0" || d.Backend != "faulty" || d.Kind != backend.Simulated || d.Health != backend.Healthy || d.MemoryTotal == 0 || d.Returning {
		t.Errorf("device is %+v", d)
	}
	for _, ref := range []string{"simulation", "simulation:0"} {
		if got, err := m.Device(ref); got != devices[0] || err != nil {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"cuda", "simulation:1", "0", ""} {
		_, err := m.Device(ref)
		says(t, as[*UnavailableError](t, err).Reason, "there are simulation:0")
	}
	if err := m.Start(t.Context()); err != nil || m.Backends()[0].PID != s.PID {
		t.Errorf("starting again: %v, pid %d after %d", err, m.Backends()[0].PID, s.PID)
	}
	a, err := devices[0].Assess(t.Context(), identity(t))
	if err != nil || len(a.Nodes) != 2 || !a.Nodes[1].OK {
		t.Errorf("assessment %+v, %v", a, err)
	}
	_, err = devices[0].Assess(t.Context(), t.TempDir())
	if !isCode(err, backend.CodeInvalid) {
		t.Errorf("an empty folder is assessed: %v", err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, s.PID)
	if s := m.Backends()[0]; s.State != Stopped || s.PID != 0 {
		t.Errorf("after Close: %+v", s)
	}
	if err := m.Start(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("starting after Close: %v", err)
	}
	if _, err = devices[0].Assess(t.Context(), t.TempDir()); !errors.Is(err, ErrClosed) {
		t.Errorf("a call after Close: %v", err)
	}
}

func TestNothingToStart(t *testing.T) {
	m := manage(t, Options{Path: []string{t.TempDir()}, Backends: map[string]Backend{"off": {Disabled: true}, "cuda": {}}})
	err := m.Start(t.Context())
	if e := as[*NotFoundError](t, err); e.Backend != "cuda" || len(e.Looked) != 1 {
		t.Errorf("error %+v", e)
	}
	says(t, as[*NotFoundError](t, m.Start(t.Context(), "off")).Error(), "disabled")
	says(t, as[*NotFoundError](t, m.Start(t.Context(), "metal")).Error(), "accel-backend-metal", "ACCEL_BACKEND_PATH")
	states := map[string]State{}
	for _, b := range m.Backends() {
		states[b.Name] = b.State
	}
	if states["cuda"] != Undetected || states["off"] != Stopped {
		t.Errorf("states are %v", states)
	}
	_, err = m.Device("cuda")
	says(t, as[*UnavailableError](t, err).Error(), "backend cuda is undetected", "accel-backend-cuda")
}

// TestInstalledLater starts a backend whose program was put there after New, and
// one that was missing at its first start.
func TestInstalledLater(t *testing.T) {
	dir := t.TempDir()
	m := manage(t, Options{Path: []string{dir}, Backends: map[string]Backend{"second": {}}})
	as[*NotFoundError](t, m.Start(t.Context(), "first"))
	as[*NotFoundError](t, m.Start(t.Context(), "second"))
	for _, name := range []string{"first", "second"} {
		if err := os.Symlink(filepath.Join(backends, "accel-backend-faulty"), filepath.Join(dir, filePrefix+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Start(t.Context(), "first", "second"); err != nil {
		t.Fatal(err)
	}
	if list := m.Backends(); len(list) != 2 || list[0].State != Healthy || list[1].State != Healthy {
		t.Errorf("backends are %+v", list)
	}
}

func TestFailedStarts(t *testing.T) {
	start := Timeouts{Start: 300 * time.Millisecond, Probe: 300 * time.Millisecond}
	patient := Timeouts{Start: 20 * time.Second, Probe: 20 * time.Second}
	script := func(text string) Options {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return Options{Path: []string{t.TempDir()}, Backends: map[string]Backend{"script": {Path: path}}}
	}
	settings := func(s string) Options {
		return Options{Backends: map[string]Backend{"faulty": {Settings: json.RawMessage(s)}}}
	}
	cases := map[string]struct {
		options Options
		times   Timeouts
		cause   StartCause
		says    []string
	}{
		"garbage":        {Options{Backends: fault("stdout")}, patient, StartOutput, []string{`"vendor runtime 1.2.3 loaded"`, "stdout"}},
		"hangs":          {role(t, "hangs"), start, StartTimeout, []string{"300ms", "start time-out"}},
		"exits":          {Options{Backends: fault("exit_start")}, patient, StartExited, []string{"exit status 7", "libvendor.so.1: cannot open shared object file"}},
		"other version":  {Options{Backends: fault("version")}, patient, StartVersion, []string{"version 99", "version 1", "same release"}},
		"no kind":        {Options{Backends: fault("no_kind")}, patient, StartRefused, []string{"kind"}},
		"device twice":   {Options{Backends: fault("twice")}, patient, StartRefused, []string{"twice"}},
		"wrong setting":  {settings(`{"speed":9}`), patient, StartRefused, []string{"Configure", `"speed"`, "settings in the configuration"}},
		"no program":     {script("neither a script nor a program"), patient, StartExec, []string{"can't be run", "built for this machine"}},
		"killed":         {script("#!/bin/sh\necho dying >&2\nkill -9 $$\n"), patient, StartExited, []string{"signal: killed", "dying"}},
		"mute":           {role(t, "mute"), start, StartTimeout, []string{"300ms", "probe time-out"}},
		"tcp":            {role(t, "tcp"), start, StartOutput, []string{"127.0.0.1:1", "Unix socket"}},
		"closes stdout":  {role(t, "closes_stdout"), patient, StartOutput, []string{"closed its stdout"}},
		"half handshake": {role(t, "half_handshake"), patient, StartOutput, []string{`"1|1"`}},
		"describe dies":  {role(t, "describe_dies"), patient, StartExited, []string{"Describe", "exit status 4", "bad instruction"}},
		"describe hangs": {role(t, "describe_hangs"), start, StartTimeout, []string{"300ms"}},
		"newer protocol": {role(t, "describe_newer"), patient, StartVersion, []string{"5 to 9", "version 1"}},
		"no epoch":       {role(t, "watch_no_epoch"), patient, StartRefused, []string{"epoch"}},
		"listed twice":   {role(t, "watch_twice"), patient, StartRefused, []string{"twice"}},
		"a long line":    {role(t, "long_line"), patient, StartOutput, []string{`"xxxx`, "stdout"}},
		"other protocol": {role(t, "raw_noise"), start, StartRefused, []string{"report it"}},
		"other server":   {role(t, "raw_http"), start, StartRefused, []string{"report it"}},
		"closes":         {role(t, "raw_closes"), start, StartRefused, []string{"report it"}},
		"no list":        {role(t, "watch_silent"), start, StartTimeout, []string{"300ms", "devices"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.options.Timeouts = c.times
			c.options.Restart.Base = time.Hour // one try
			m := manage(t, c.options)
			err := m.Start(t.Context())
			e := as[*StartError](t, err)
			if e.Cause != c.cause {
				t.Errorf("cause is %q, want %q: %v", e.Cause, c.cause, e)
			}
			says(t, e.Error(), append(c.says, e.Path)...)
			s := m.Backends()[0]
			if s.State != Unhealthy || s.Reason != e.Error() || s.PID != 0 || s.Remedy != e.Remedy {
				t.Errorf("status is %+v", s)
			}
			if tried := !s.NextTry.IsZero(); tried == e.permanent() {
				t.Errorf("next try is %v", s.NextTry)
			}
		})
	}
}

// TestSecondTry starts a backend that fails once.
func TestSecondTry(t *testing.T) {
	once := "ACCEL_FAULT_ONCE=" + filepath.Join(t.TempDir(), "once")
	m := manage(t, Options{Backends: fault("exit_start", once), Restart: Restart{Base: time.Millisecond}})
	as[*StartError](t, m.Start(t.Context()))
	s := until(t, m, "faulty", healthy)
	if s.Restarts != 0 || s.Reason != "" || !s.NextTry.IsZero() {
		t.Errorf("status is %+v", s)
	}
	if _, err := m.Device("simulation"); err != nil {
		t.Error(err)
	}
}

// TestAskedAgain starts a backend that waits for its next try.
func TestAskedAgain(t *testing.T) {
	once := "ACCEL_FAULT_ONCE=" + filepath.Join(t.TempDir(), "once")
	m := manage(t, Options{Backends: fault("exit_start", once), Restart: Restart{Base: time.Hour}})
	as[*StartError](t, m.Start(t.Context()))
	if err := m.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStartIsBoundedByContext(t *testing.T) {
	m := manage(t, role(t, "hangs"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if s := m.Backends()[0]; s.State != Starting {
		t.Errorf("status is %+v", s)
	}
} // and Close ends what is still starting

func TestNoise(t *testing.T) {
	_, d := started(t, Options{Backends: fault("noise")})
	works(t, compile(t, d, identity(t)))
}

func TestStderrIsLogged(t *testing.T) {
	log := newLog()
	m, _ := started(t, Options{Backends: fault(""), Logger: log})
	if err := m.Close(t.Context()); err != nil { // all is logged then
		t.Fatal(err)
	}
	says(t, log.String(), "backend is ready", "backend=faulty", "module=go-plugin") // the last from the process, as JSON
}

func TestClose(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		bounded     bool
	}{{"gentle", "", false}, {"hangs", "ignore_term", false}, {"bounded", "ignore_term", true}} {
		t.Run(c.name, func(t *testing.T) {
			shutdown := 200 * time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.bounded {
				shutdown = time.Hour
				time.AfterFunc(100*time.Millisecond, cancel)
			}
			m, d := started(t, Options{Backends: fault(c.fault, "ACCEL_FAULT_DELAY=1h"), Timeouts: Timeouts{Shutdown: shutdown}})
			pid := m.Backends()[0].PID
			s, err := d.current()
			if err != nil {
				t.Fatal(err)
			}
			lease := s.arena.lease(100)
			lease.data[0] = 9
			errs, begun := make(chan error), make(chan struct{}, 9)
			dir := identity(t)
			go func() { // the smoke run takes the delay, too
				_, err := d.Compile(context.Background(), backend.CompileSpec{Dir: dir}, func(string, float64) { begun <- struct{}{} })
				errs <- err
			}()
			<-begun
			if err := m.Close(ctx); (err != nil) != c.bounded {
				t.Errorf("Close: %v", err)
			}
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("a call in flight ended with %v", err)
			}
			gone(t, pid)
			if lease.data[0] != 9 {
				t.Error("the lease was lost")
			}
			lease.Release()
		})
	}
}

// TestParentDeath kills a host; its backends must end.
func TestParentDeath(t *testing.T) {
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), envRole+"=manager", "ACCEL_TEST_BACKENDS="+backends)
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		host.Process.Kill()
		host.Wait()
		t.Fatalf("the host said %q: %v", line, err)
	}
	if !running(pid) {
		t.Errorf("backend %d does not run", pid)
	}
	host.Process.Kill()
	host.Wait()
	gone(t, pid)
	base, err := socketBase()
	if err != nil {
		t.Fatal(err)
	}
	sweep(base) // what the killed hosts could not remove
	left, _ := filepath.Glob(filepath.Join(base, socketPrefix+"*"))
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), socketPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && !alive(n) {
			t.Errorf("%s is left", dir)
		}
	}
}

func TestSweep(t *testing.T) {
	base := t.TempDir()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	pid := dead.Process.Pid
	paths := map[string]bool{ // stays
		fmt.Sprintf("%s%d-1/plugin-dir2/plugin3", socketPrefix, pid):         false,
		fmt.Sprintf("%s%d-1/plugin-dir3/plugin3", socketPrefix, os.Getpid()): true,
		fmt.Sprintf("%s%d-2/mine", socketPrefix, pid):                        true,
		socketPrefix + "notes-1/plugin-dir2/plugin3":                         true,
	}
	for p := range paths {
		p = filepath.Join(base, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sweep(base)
	for p, stays := range paths {
		if _, err := os.Stat(filepath.Join(base, p)); (err == nil) != stays {
			t.Errorf("%s: %v, should stay: %v", p, err, stays)
		}
	}
	if _, err := os.Stat(filepath.Join(base, fmt.Sprintf("%s%d-1", socketPrefix, pid))); err == nil {
		t.Error("an empty folder stays")
	}
}

func TestSocketBase(t *testing.T) {
	short := t.TempDir()
	if len(short) > socketPath-socketBelow {
		var err error
		if short, err = os.MkdirTemp("/tmp", "s"); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(short)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 20))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ runtime, temp, want string }{
		{short, long, short},
		{"", short, short},
		{filepath.Join(short, "none"), short, short},
		{long, long, "/tmp"},
	} {
		t.Setenv("XDG_RUNTIME_DIR", c.runtime)
		t.Setenv("TMPDIR", c.temp)
		if got, err := socketBase(); got != c.want || err != nil {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

func TestOrderOfBackends(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a"} {
		if err := os.Symlink(filepath.Join(backends, "accel-backend-faulty"), filepath.Join(dir, filePrefix+name)); err != nil {
			t.Fatal(err)
		}
	}
	m := manage(t, Options{Path: []string{dir}, Backends: map[string]Backend{
		"a": {Env: map[string]string{"ACCEL_FAULT": "unhealthy"}}, "b": {}}})
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, d := range m.Devices() {
		order = append(order, d.Status().Backend+" "+string(d.Status().Health))
	}
	if want := []string{"a unhealthy", "b healthy"}; !slices.Equal(order, want) {
		t.Errorf("devices are %q, want %q", order, want)
	}
	d, err := m.Device("simulation")
	if err != nil || d.Status().Backend != "b" {
		t.Errorf("the first healthy device is %v, %v", d, err)
	}
	_, err = m.Devices()[0].Compile(t.Context(), backend.CompileSpec{Dir: identity(t)}, nil)
	says(t, as[*UnavailableError](t, err).Error(), "the fan does not turn", "turn it")
}
