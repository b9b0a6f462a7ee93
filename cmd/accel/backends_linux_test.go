package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/backendtest"
)

// stranger is somebody's backend, in a folder where no command looks, and an empty store.
func stranger(t *testing.T) (program, store string) {
	t.Helper()
	data := t.TempDir()
	for k, v := range map[string]string{"XDG_DATA_HOME": data, "ACCEL_HOSTS_INSTALLED": "", "ACCEL_BACKEND_PATH": "", "ACCEL_FAULT": ""} {
		t.Setenv(k, v)
	}
	os.Unsetenv("ACCEL_HOSTS_INSTALLED")
	program = filepath.Join(t.TempDir(), "accel-backend-mine")
	build := exec.Command("go", "build", "-o", program, "github.com/accelhq/accel/sdk/backendtest/faulty")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program, filepath.Join(data, "accel", "backends")
}

// TestInstallBackend takes a backend from a file to its removal, through every command.
func TestInstallBackend(t *testing.T) {
	program, store := stranger(t)
	want := func(status int, part string, args ...string) string {
		t.Helper()
		got, out, errs := accel(t, filepath.Dir(program), args...)
		if got != status || !strings.Contains(out+errs, part) {
			t.Errorf("%v: status %d, want %d and %q:\n%s%s", args, got, status, part, out, errs)
		}
		return out
	}
	// It lies in the current folder, and on the PATH: it is not run for that.
	t.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
	want(3, `there is no backend "mine"`, "backends", "list", "mine")
	want(3, `there is no backend "mine"`, "backends", "test", "mine", "--run", "describe")

	want(2, "--sha256 says", "backends", "install", program, "--sha256", strings.Repeat("0", 64))
	want(2, "neither an archive", "backends", "install", "/etc/hostname")
	want(1, "no such file", "backends", "install", "./absent.tar.gz")
	want(0, "mine is installed: its version is what it says, 1 file", "backends", "install", "./accel-backend-mine")
	want(2, "--replace", "backends", "install", program)
	want(0, "installed", "backends", "list", "mine")
	if err := os.Remove(program); err != nil { // what runs is the copy
		t.Fatal(err)
	}
	var listed struct {
		Backends []struct{ Name, State, Origin, Path, Reason, Version string }
	}
	list := func() {
		t.Helper()
		if err := json.Unmarshal([]byte(want(0, "", "backends", "list", "mine", "--json")), &listed); err != nil || len(listed.Backends) != 1 {
			t.Fatalf("%v: %+v", err, listed)
		}
	}
	list()
	copied := filepath.Join(store, "mine", "accel-backend-mine")
	if b := listed.Backends[0]; b.State != "healthy" || b.Origin != "installed" || b.Path != copied || b.Version != "1.0.0" {
		t.Errorf("listed as %+v", b)
	}
	want(0, "2 passed, 0 failed, 0 skipped", "backends", "test", "mine", "--run", "^(describe|watch)$")
	want(0, "mine\n", "__complete", "backends", "test", "")
	want(0, "mine\n", "__complete", "backends", "remove", "")
	want(0, "describe\n", "__complete", "backends", "test", "mine", "--run", "")

	if err := os.WriteFile(copied, []byte("#!/bin/sh\ntouch "+store+"/ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	list()
	if b := listed.Backends[0]; b.State != "unhealthy" || !strings.Contains(b.Reason, "is not what was installed") {
		t.Errorf("listed as %+v", b)
	}
	want(4, "is not what was installed", "backends", "test", "mine")
	if _, err := os.Stat(filepath.Join(store, "ran")); err == nil {
		t.Error("what was put in its place was run")
	}
	want(0, "removed mine", "backends", "remove", "mine")
	want(3, `backend "mine" is not installed; none is`, "backends", "remove", "mine")
}

// TestConformanceCommand says of each check how it ended and why.
func TestConformanceCommand(t *testing.T) {
	program, _ := stranger(t)
	for _, c := range []struct {
		fault  string
		args   []string
		status int
		says   []string
	}{
		{"", []string{program, "--run", "describe|device 0/(compile|values)$"}, 0, []string{"testing " + program, "pass  describe", "pass  device 0/compile", "3 passed, 0 failed, 0 skipped"}},
		{"", []string{program, "--run", "pools"}, 0, []string{"skip  device 0/pools", "Assess takes no kind of pools: operator: the operator is not known", "1 skipped"}},
		{"", []string{program, "--run", "pools", "--verbose"}, 0, []string{"PagedWrite of 4 bit: Assess does not take it"}},
		{"run_wrong", []string{program, "--run", "describe|shapes"}, 1, []string{"pass  describe", "fail  device 0/shapes", "with 4 elements y[0] = 3"}},
		{"run_exit", []string{program, "--run", "shapes"}, 1, []string{"vendor runtime: assertion failed"}},
		{"stdout", []string{program, "--run", "describe"}, 1, []string{"cannot start the backend", "vendor runtime 1.2.3 loaded", "fail  devices"}},
		{"unhealthy", []string{program, "--run", "shapes"}, 1, []string{"fail  devices", "no healthy device is there to be tested", "the fan does not turn"}},
		{"", []string{program, "--run", "shapes", "--device", "7"}, 1, []string{"no healthy device"}},
		{"", []string{program, "--run", "shapes", "--settings", `{"speed":1}`}, 1, []string{`there is no setting "speed"`}},
		{"", []string{program, "--run", "("}, 2, []string{"--run: error parsing regexp"}},
		{"", []string{program, "--run", "nothing of this name"}, 2, []string{"matches no check; there are: describe, configure"}},
		{"", []string{program, "--timeout", "-1s"}, 2, []string{"no time to wait"}},
		{"", []string{"/nowhere/accel-backend-x"}, 3, []string{"there is no program /nowhere/accel-backend-x"}},
		{"", []string{}, 2, []string{"usage: accel backends test"}},
	} {
		t.Setenv("ACCEL_FAULT", c.fault)
		status, out, errs := accel(t, ".", append([]string{"backends", "test"}, c.args...)...)
		if status != c.status {
			t.Errorf("%s %v: status %d, want %d\n%s%s", c.fault, c.args, status, c.status, out, errs)
		}
		contains(t, out+errs, c.says...)
	}
	t.Setenv("ACCEL_FAULT", "run_wrong")
	status, out, _ := accel(t, ".", "backends", "test", program, "--run", "describe|pools|shapes", "--json")
	var report struct {
		Command                           []string
		Protocol, Passed, Failed, Skipped int
		Checks                            []backendtest.Result
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if status != 1 || report.Command[0] != program || report.Protocol != 1 || report.Passed != 1 || report.Failed != 1 || report.Skipped != 1 {
		t.Errorf("status %d: %+v", status, report)
	}
	for i, want := range []backendtest.Result{{Check: "describe", Verdict: backendtest.Passed}, {Check: "device 0/shapes", Verdict: backendtest.Failed}, {Check: "device 0/pools", Verdict: backendtest.Skipped}} {
		got := report.Checks[i]
		if got.Check != want.Check || got.Verdict != want.Verdict || (got.Reason != "") != (want.Verdict == backendtest.Skipped) || (len(got.Failures) > 0) != (want.Verdict == backendtest.Failed) {
			t.Errorf("check %d is %+v, want %+v", i, got, want)
		}
	}
}
