// Package backendtest is the conformance suite of the backend protocol. It starts
// a backend as the core does, in a process of its own, and checks what the
// protocol and sdk/backend promise; operators are checked against sdk/reference.
//
// A backend's test is
//
//	func TestConformance(t *testing.T) {
//		backendtest.Run(t, backendtest.Target{Command: []string{backendtest.Build(t, ".")}})
//	}
package backendtest

import (
	"context"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/tensor"
)

// Target is what is tested.
type Target struct {
	// Command is the backend's program and its arguments.
	Command []string
	// Env is added to the process's environment, as NAME=VALUE.
	Env []string
	// Settings is the JSON object given to Configure; empty: Configure is not called.
	Settings string
	// Devices says which healthy devices are tested; nil: all.
	Devices func(backend.Device) bool
	// Tolerances replaces the tolerance of operators' results of an element type,
	// for devices that compute with less precision than the type has.
	Tolerances map[tensor.DType]Tolerance
	// Timeout bounds the start and each call; 0: a minute.
	Timeout time.Duration
}

func (t Target) withDefaults() Target {
	if t.Timeout == 0 {
		t.Timeout = time.Minute
	}
	return t
}

// T is what a check needs of a test: *testing.T has it, and so has a check that
// Check runs outside of tests.
type T interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	TempDir() string
	Failed() bool
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
}

// check is one promise of the protocol.
type check[Of any] struct {
	name string
	run  func(T, Of)
}

// Run tests a backend: its process, and each of its devices.
func Run(t *testing.T, target Target) {
	t.Helper()
	s := newSuite(target)
	t.Cleanup(s.drop)
	s.walk(func(name string, run func(T)) {
		t.Run(name, func(t *testing.T) { run(t) })
	})
}

// devicesCheck is the check that finds the devices for the checks after it.
const devicesCheck = "devices"

// walk goes through the checks: those of the process, and then of each device,
// whose names are "device ID/NAME".
func (s *suite) walk(each func(name string, run func(T))) {
	for _, c := range processChecks {
		each(c.name, func(t T) { c.run(t, s) })
	}
	var devices []backend.Device
	each(devicesCheck, func(t T) { devices = s.chosen(t) })
	for _, d := range devices {
		for _, c := range deviceChecks {
			each("device "+d.ID+"/"+c.name, func(t T) { c.run(t, s.connect(t, d.ID)) })
		}
	}
}

// suite is one run of the checks.
type suite struct {
	target  Target
	process *Process // shared by the checks of devices, as long as it lives
	end     func()
}

func newSuite(target Target) *suite { return &suite{target: target.withDefaults()} }

// drop ends the shared process.
func (s *suite) drop() {
	if s.end != nil {
		s.end()
	}
	s.process, s.end = nil, nil
}

// chosen lists the devices that are to be tested.
func (s *suite) chosen(t T) []backend.Device {
	c := s.fresh(t)
	var chosen []backend.Device
	for _, d := range c.devices() {
		switch {
		case d.Health != backend.Healthy:
			t.Logf("device %s (%s) is %s: %s", d.ID, d.Platform, d.Health, d.Reason)
		case s.target.Devices == nil || s.target.Devices(d):
			t.Logf("device %s (%s): %s, kind %s", d.ID, d.Platform, d.Name, d.Kind)
			chosen = append(chosen, d)
		}
	}
	if len(chosen) == 0 {
		t.Error("no healthy device is there to be tested")
	}
	return chosen
}

// fresh starts a process of its own for one check.
func (s *suite) fresh(t T) *conn {
	t.Helper()
	p, end, err := launch(s.target)
	if err != nil {
		t.Fatalf("cannot start the backend: %v", err)
	}
	t.Cleanup(end)
	return &conn{t: t, suite: s, p: p, timeout: s.target.Timeout}
}

// configured is fresh, after Configure.
func (s *suite) configured(t T) *conn {
	t.Helper()
	c := s.fresh(t)
	c.configure(s.target.Settings)
	return c
}

// connect gives a device of the shared process, which is started anew where a
// check before ended it.
func (s *suite) connect(t T, device string) *conn {
	t.Helper()
	if s.process != nil && s.process.client.Exited() {
		s.drop()
	}
	if s.process == nil {
		p, end, err := launch(s.target)
		if err != nil {
			t.Fatalf("cannot start the backend: %v", err)
		}
		s.process, s.end = p, end
		c := &conn{t: t, suite: s, p: p, timeout: s.target.Timeout}
		c.configure(s.target.Settings)
	}
	c := &conn{t: t, suite: s, p: s.process, timeout: s.target.Timeout}
	t.Cleanup(func() {
		c.releaseAll()
		if t.Failed() {
			t.Logf("the backend's standard error:\n%s", c.p.Stderr())
			s.drop() // the next check shall not inherit what went wrong
		}
	})
	for _, d := range c.devices() {
		if d.ID == device {
			c.device = d
			return c
		}
	}
	t.Fatalf("device %s is gone", device)
	return nil
}
