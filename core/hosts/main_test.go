//go:build unix

package hosts

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// backends is the folder of the faulty backend, see sdk/backendtest/faulty.
var backends string

// envRole makes the test's own binary play a part in another process.
const envRole = "ACCEL_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(envRole); role != "" {
		play(role)
		return
	}
	flag.Parse()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(m.Run()) // needs no backend, which takes longer to build than some fuzzing lasts
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "accel-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		backends = dir
		file := filepath.Join(dir, filePrefix+"faulty"+fileSuffix())
		build := exec.Command("go", "build", "-o", file, "github.com/accelhq/accel/sdk/backendtest/faulty")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the faulty backend: %v\n%s", err, out)
			return 1
		}
		if err := os.Chmod(file, 0o755); err != nil { // whatever the umask
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// noLeaks checks after the test, and after all that is to be closed by then, that
// no goroutine, descriptor, shared region, process or folder is left.
func noLeaks(t *testing.T) {
	t.Helper()
	before := resources()
	t.Cleanup(func() {
		var after map[string]int
		var left string
		for range 100 {
			after, left = resources(), ""
			for what, n := range after {
				if n > before[what] {
					left += fmt.Sprintf(" %s: %d, before %d;", what, n, before[what])
				}
			}
			if left == "" {
				return
			}
			time.Sleep(30 * time.Millisecond)
		}
		var stacks bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Errorf("left behind:%s\n%s", left, stacks.String())
	})
}

func resources() map[string]int {
	n := map[string]int{"goroutines": runtime.NumGoroutine()}
	if base, err := socketBase(); err == nil {
		dirs, _ := filepath.Glob(filepath.Join(base, fmt.Sprintf("%s%d-*", socketPrefix, os.Getpid())))
		n["socket folders"] = len(dirs)
	}
	if runtime.GOOS != "linux" {
		return n
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	n["descriptors"] = len(fds)
	maps, _ := os.ReadFile("/proc/self/maps")
	n["regions"] = strings.Count(string(maps), "accel-region")
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, c := range children {
		pids, _ := os.ReadFile(c)
		n["children"] += len(strings.Fields(string(pids)))
	}
	return n
}

// fault is the configuration of a faulty backend.
func fault(name string, env ...string) map[string]Backend {
	b := Backend{Env: map[string]string{"ACCEL_FAULT": name}}
	for _, e := range env {
		k, v, _ := strings.Cut(e, "=")
		b.Env[k] = v
	}
	return map[string]Backend{"faulty": b}
}

// logged collects a log.
type logged struct {
	hclog.Logger
	*safeBuffer
}

func newLog() logged {
	b := &safeBuffer{}
	return logged{hclog.New(&hclog.LoggerOptions{Output: b, Level: hclog.Debug}), b}
}

// manage makes a manager that is closed, and has left nothing behind, at the end.
func manage(t *testing.T, o Options) *Manager {
	t.Helper()
	noLeaks(t)
	if o.Path == nil {
		o.Path = []string{backends}
	}
	log := newLog()
	if o.Logger == nil {
		o.Logger = log
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
		if t.Failed() {
			t.Log(log.safeBuffer.String())
		}
	})
	return m
}

// started is a manager whose backends run, and its first device.
func started(t *testing.T, o Options) (*Manager, *Device) {
	t.Helper()
	m := manage(t, o)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := m.Device("simulation")
	if err != nil {
		t.Fatal(err)
	}
	return m, d
}

// identity is a graph folder: y = x, of any size, and z = -y.
func identity(t testing.TB) string {
	t.Helper()
	float := func(name string) *graph.Value {
		return &graph.Value{Name: name, Type: graph.TensorType(tensor.Float32, graph.Sym("n"))}
	}
	return folder(t, &graph.Graph{
		Name: "identity",
		Nodes: []*graph.Node{
			{Name: "copy", OpType: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}},
			{Name: "negate", OpType: "Neg", Inputs: []string{"y"}, Outputs: []string{"z"}},
		},
		Inputs:  []*graph.Value{float("x")},
		Outputs: []*graph.Value{float("y"), float("z")},
	})
}

func folder(t testing.TB, g *graph.Graph) string {
	t.Helper()
	dir := t.TempDir()
	m := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 23}, Graph: g}
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func compile(t testing.TB, d *Device, dir string) *Executable {
	t.Helper()
	x, err := d.Compile(context.Background(), backend.CompileSpec{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// ramp is a tensor of n floats, each another.
func ramp(n int) tensor.Tensor {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i) + 0.5
	}
	return tensor.Floats(tensor.Shape{int64(n)}, v...)
}

func one(v float32) map[string]graph.Datum {
	return map[string]graph.Datum{"x": graph.TensorDatum(tensor.Floats(tensor.Shape{1}, v))}
}

// works runs the executable once and checks the result.
func works(t *testing.T, x *Executable) {
	t.Helper()
	out, _, err := x.Run(context.Background(), one(3), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	if y, z := tensor.View[float32](out["y"].Tensor)[0], tensor.View[float32](out["z"].Tensor)[0]; y != 3 || z != -3 {
		t.Fatalf("y is %v, z is %v, want 3 and -3", y, z)
	}
}

// until waits until the backend is as wanted.
func until(t *testing.T, m *Manager, name string, want func(BackendStatus) bool) BackendStatus {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		changed := m.Changed()
		var s BackendStatus
		for _, b := range m.Backends() {
			if b.Name == name {
				s = b
			}
		}
		if want(s) {
			return s
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("backend %s is %+v", name, s)
		}
	}
}

func healthy(s BackendStatus) bool { return s.State == Healthy }

func as[E error](t *testing.T, err error) E {
	t.Helper()
	var e E
	if !errors.As(err, &e) {
		t.Fatalf("error is %T (%v), want %T", err, err, e)
	}
	return e
}

func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q does not say %q", text, p)
		}
	}
}

func isCode(err error, c backend.Code) bool { return errors.Is(err, &backend.Error{Code: c}) }

// gone waits until there is no process of that number.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 600 {
		if !running(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d still runs", pid)
}

// running reports whether there is such a process that is no zombie: one whose
// parent was killed may wait long for init to reap it.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux"
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
