package backendtest

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// built is the faulty backend, built once for all tests.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func faulty(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "accel-faulty-"); built.err == nil {
			built.path, built.err = buildIn(built.dir, "./faulty")
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func TestGoodBackend(t *testing.T) {
	Run(t, Target{Command: []string{faulty(t)}, Timeout: 30 * time.Second, Settings: `{"threads":1}`})
}

// TestUnderFault is run by TestFaults, in a process of its own: there it must fail.
func TestUnderFault(t *testing.T) {
	program := os.Getenv("BACKENDTEST_PROGRAM")
	if program == "" {
		t.Skip("this is what TestFaults runs")
	}
	timeout, err := time.ParseDuration(os.Getenv("BACKENDTEST_TIMEOUT"))
	if err != nil {
		t.Fatal(err)
	}
	Run(t, Target{Command: []string{program}, Timeout: timeout})
}

// TestFaults runs the suite on backends with a fault each: the right checks fail,
// and the others do not.
func TestFaults(t *testing.T) {
	t.Parallel()
	program := faulty(t)
	const soon, late = "2s", "30s" // for faults that hang, and for those that must not seem to
	for _, f := range []struct {
		fault         string
		timeout       string
		fails, passes []string
	}{
		{"", late, nil, []string{"describe", "watch", "bindings", "values", "memory"}},
		{"noise", late, nil, []string{"describe", "configure", "watch", "host_gone", "terminated", "assess", "compile", "bindings", "buffers"}},
		{"stdout", late, []string{"describe"}, nil},
		{"hang_start", soon, []string{"describe"}, nil},
		{"exit_start", late, []string{"describe"}, nil},
		{"version", late, []string{"describe"}, nil},
		{"no_kind", late, []string{"watch"}, []string{"describe"}},
		{"twice", late, []string{"watch"}, []string{"describe"}},
		{"unhealthy", late, []string{"devices"}, []string{"describe", "watch"}},
		{"assess_short", late, []string{"assess"}, []string{"compile"}},
		{"compile_exit", late, []string{"compile"}, []string{"assess", "memory"}},
		{"compile_hang", soon, []string{"compile"}, []string{"assess", "memory"}},
		{"compile_panic", late, []string{"compile"}, []string{"assess", "memory"}},
		{"accept_all", late, []string{"compile_refuses"}, []string{"compile", "bindings"}},
		{"run_exit", late, []string{"bindings"}, []string{"compile", "memory"}},
		{"run_segv", late, []string{"bindings"}, []string{"compile", "memory"}},
		{"run_kill", late, []string{"bindings"}, []string{"compile", "memory"}},
		{"run_hang", soon, []string{"bindings"}, []string{"compile"}},
		{"run_panic", late, []string{"bindings", "order"}, []string{"compile", "memory"}},
		{"run_lost", late, []string{"bindings"}, []string{"compile", "memory"}},
		{"run_wrong", late, []string{"bindings", "shapes", "order", "operators"}, []string{"compile", "wrong_runs"}},
		{"run_shape", late, []string{"bindings", "shapes"}, []string{"compile"}},
		{"run_type", late, []string{"bindings", "shapes"}, []string{"compile"}},
		{"run_missing", late, []string{"bindings", "shapes"}, []string{"compile"}},
		{"run_mute", late, []string{"values"}, []string{"compile", "bindings"}},
		{"run_hollow", late, []string{"values"}, []string{"compile", "bindings"}},
		{"ignore_cancel", soon, []string{"cancel"}, []string{"compile", "memory"}},
		{"unordered", late, []string{"buffers"}, []string{"compile", "memory"}},
		{"alloc_dirty", late, []string{"buffers"}, []string{"compile"}},
		{"alloc_any", late, []string{"memory"}, []string{"compile"}},
		{"leak", late, []string{"leaks"}, []string{"compile", "memory"}},
		{"ignore_term", late, []string{"terminated"}, []string{"describe", "host_gone"}},
	} {
		name := f.fault
		if name == "" {
			name = "none"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checks := strings.Join(slices.Concat(f.fails, f.passes), "|")
			cmd := exec.Command(os.Args[0], "-test.v",
				"-test.run=^TestUnderFault$/^(devices|device_0|"+checks+")$/^("+checks+")$")
			cmd.Env = append(os.Environ(), "BACKENDTEST_PROGRAM="+program, "BACKENDTEST_TIMEOUT="+f.timeout, "ACCEL_FAULT="+f.fault)
			out, err := cmd.CombinedOutput()
			if (err != nil) != (len(f.fails) > 0) {
				t.Errorf("the suite ended with: %v", err)
			}
			verdicts := map[string]string{}
			for _, m := range regexp.MustCompile(`(?m)^ +--- (\w+): TestUnderFault/(?:device_0/)?(\S+) `).FindAllStringSubmatch(string(out), -1) {
				verdicts[m[2]] = m[1]
			}
			for _, check := range f.fails {
				if verdicts[check] != "FAIL" {
					t.Errorf("check %s: %q, want it to fail", check, verdicts[check])
				}
			}
			for _, check := range f.passes {
				if verdicts[check] != "PASS" {
					t.Errorf("check %s: %q, want it to pass", check, verdicts[check])
				}
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}
