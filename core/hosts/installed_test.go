//go:build unix

package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/accelhq/accel/core/installed"
)

// install puts the faulty backend into a store under a name.
func install(t *testing.T, name string) (*installed.Store, installed.Backend) {
	t.Helper()
	s := installed.Open(filepath.Join(t.TempDir(), "store"))
	in, err := s.Install(t.Context(), filepath.Join(backends, "accel-backend-faulty"), installed.InstallOptions{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return s, in
}

func TestInstalled(t *testing.T) {
	s, in := install(t, "mine")
	m := manage(t, Options{Path: []string{t.TempDir()}, Installed: s, Beside: t.TempDir()})
	if b := m.Backends(); len(b) != 1 || b[0].Name != "mine" || b[0].Origin != Installed || b[0].Path != in.Path() || b[0].State != Stopped {
		t.Fatalf("before the start: %+v", b)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b := m.Backends()[0]; b.State != Healthy || b.Origin != Installed {
		t.Errorf("status is %+v", b)
	}
}

// TestOrigins finds one name in all places: the first of them counts.
func TestOrigins(t *testing.T) {
	s, in := install(t, "a")
	configured, first, beside := program(t, t.TempDir(), "x", 0o755), t.TempDir(), t.TempDir()
	inPath, shipped := program(t, first, "a", 0o755), program(t, beside, "a", 0o755)
	o := Options{Backends: map[string]Backend{"a": {Path: configured}}, Path: []string{first}, Installed: s, Beside: beside}
	for _, want := range []candidate{{configured, Configured}, {inPath, SearchPath}, {in.Path(), Installed}, {shipped, Beside}} {
		got, err := o.find("a")
		if err != nil || got != want {
			t.Errorf("found %+v, %v, want %+v", got, err, want)
		}
		switch want.origin { // and without it
		case Configured:
			o.Backends = nil
		case SearchPath:
			o.Path = nil
		case Installed:
			o.Installed = nil
		case Beside:
			o.Beside = ""
		}
	}
	var missing *NotFoundError
	if _, err := o.find("a"); !errors.As(err, &missing) {
		t.Errorf("found %v", err)
	}
}

// TestChangedBackend starts no program that is not what was installed, not even after
// a death, until it is put right.
func TestChangedBackend(t *testing.T) {
	s, in := install(t, "mine")
	m, d := started(t, Options{Path: []string{t.TempDir()}, Installed: s, Restart: Restart{Base: time.Millisecond}})
	works(t, compile(t, d, identity(t)))
	restart(t, m, d) // as it was
	ran := filepath.Join(t.TempDir(), "ran")
	if err := os.Remove(in.Path()); err != nil { // it runs
		t.Fatal(err)
	}
	if err := os.WriteFile(in.Path(), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(m.Backends()[0].PID, syscall.SIGKILL)
	b := until(t, m, "mine", func(b BackendStatus) bool { return b.State == Unhealthy })
	says(t, b.Reason, `backend "mine" is not what was installed`, in.Path(), "SHA-256", "--replace")
	if !b.NextTry.IsZero() {
		t.Errorf("it is tried again at %v", b.NextTry)
	}
	e := as[*StartError](t, m.Start(t.Context()))
	if e.Cause != StartChanged || as[*installed.ChangedError](t, e).File != in.Path() {
		t.Errorf("error %+v", e)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the changed program was run")
	}
	if _, err := s.Install(t.Context(), filepath.Join(backends, "accel-backend-faulty"), installed.InstallOptions{Name: "mine", Replace: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	works(t, compile(t, d, identity(t)))
}
