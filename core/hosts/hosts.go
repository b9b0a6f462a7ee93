// Package hosts finds, starts, watches and restarts backend processes, and is the
// core's side of the backend protocol (sdk/proto/accel/backend/v1).
//
// A Manager knows the backends, each of which is one process at a time. The
// process may die at any moment: calls in flight then end with a *CrashedError,
// and the process is started again. Devices are handles that outlive their
// process; executables, buffers and leases belong to one life of a device, and
// answer with a typed error once that is over.
package hosts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/installed"
	"github.com/accelhq/accel/sdk/backend"
)

// Options say where backends are and how patient to be with them. Zero values
// stand for the defaults.
type Options struct {
	// Backends are the configured ones by name. A backend that is not configured
	// but lies in a folder is known too, with the zero configuration.
	Backends map[string]Backend
	// Path are the folders to look in, in order ($ACCEL_BACKEND_PATH).
	Path []string
	// Installed are those that the user installed, looked at after Path; nil: none.
	Installed *installed.Store
	// Beside is the folder beside the program, looked in last.
	Beside string
	// Logger receives what the backends say and what becomes of them.
	Logger   hclog.Logger
	Timeouts Timeouts
	Restart  Restart
	Regions  Regions
}

// Backend is the configuration of one backend.
type Backend struct {
	Path     string // of its program; empty: found by name
	Args     []string
	Env      map[string]string // beside the environment of this process, which is inherited
	Settings json.RawMessage   // a JSON object for Configure; empty: none
	Disabled bool              // never started
}

// Timeouts bound how long a backend may take.
type Timeouts struct {
	Start    time.Duration // until it has printed its handshake; 10 s
	Probe    time.Duration // then until it has described itself and named its devices; 30 s
	Call     time.Duration // for Alloc, Map and Release; 30 s
	Assess   time.Duration // 2 min
	Stall    time.Duration // between two signs of progress of a Compile; 5 min
	Cancel   time.Duration // from the cancelling of a command to its end, after which the process is killed; 10 s
	Shutdown time.Duration // from being asked to end to being killed; 5 s
}

// Restart says how soon a process that died is started again.
type Restart struct {
	Base  time.Duration // wait before the second restart in a row (the first is immediate), doubled for each further one; 500 ms
	Max   time.Duration // longest wait; 1 min
	Quiet time.Duration // a life of so long ends the row; 10 s
	Loop  int           // deaths in a row that make the backend unhealthy; 5
}

// Regions bound the memory shared with each device.
type Regions struct {
	Disabled bool  // all tensors travel in messages
	First    int64 // size of the first region, bytes; 16 MiB
	Limit    int64 // of all regions of a device, bytes; beyond it tensors travel in messages; 1 GiB
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (o *Options) complete() error {
	orDefault(&o.Timeouts.Start, 10*time.Second)
	orDefault(&o.Timeouts.Probe, 30*time.Second)
	orDefault(&o.Timeouts.Call, 30*time.Second)
	orDefault(&o.Timeouts.Assess, 2*time.Minute)
	orDefault(&o.Timeouts.Stall, 5*time.Minute)
	orDefault(&o.Timeouts.Cancel, 10*time.Second)
	orDefault(&o.Timeouts.Shutdown, 5*time.Second)
	orDefault(&o.Restart.Base, 500*time.Millisecond)
	orDefault(&o.Restart.Max, time.Minute)
	orDefault(&o.Restart.Quiet, 10*time.Second)
	orDefault(&o.Restart.Loop, 5)
	orDefault(&o.Regions.First, 16<<20)
	orDefault(&o.Regions.Limit, 1<<30)
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"start time-out", int64(o.Timeouts.Start)}, {"probe time-out", int64(o.Timeouts.Probe)},
		{"call time-out", int64(o.Timeouts.Call)}, {"assess time-out", int64(o.Timeouts.Assess)},
		{"stall time-out", int64(o.Timeouts.Stall)}, {"cancel time-out", int64(o.Timeouts.Cancel)},
		{"shutdown time-out", int64(o.Timeouts.Shutdown)}, {"base wait", int64(o.Restart.Base)},
		{"longest wait", int64(o.Restart.Max)}, {"quiet period", int64(o.Restart.Quiet)},
		{"number of deaths", int64(o.Restart.Loop)}, {"first region", o.Regions.First}, {"limit of regions", o.Regions.Limit},
	} {
		if d.value < 0 {
			return fmt.Errorf("hosts: the %s is negative", d.name)
		}
	}
	for name, b := range o.Backends {
		if !nameForm.MatchString(name) {
			return fmt.Errorf("hosts: %q is no name of a backend: wanted lower-case letters, digits, - and _", name)
		}
		var object map[string]json.RawMessage
		if len(b.Settings) > 0 && json.Unmarshal(b.Settings, &object) != nil {
			return fmt.Errorf("hosts: the settings of backend %q are no JSON object", name)
		}
	}
	return nil
}

// Manager owns the backend processes.
type Manager struct {
	opts   Options
	base   string // folder for the socket folders
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	hosts   []*host // sorted by name
	changed chan struct{}
}

// New looks for backends and starts none.
func New(opts Options) (*Manager, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	base, err := socketBase()
	if err != nil {
		return nil, err
	}
	sweep(base)
	m := &Manager{opts: opts, base: base, changed: make(chan struct{})}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for _, name := range opts.names() {
		m.hosts = append(m.hosts, newHost(m, name))
	}
	return m, nil
}

// Start starts the named backends, or without names all that are not disabled,
// at the same time, and waits until each is healthy or has failed. The error
// joins the failures: *NotFoundError, *StartError, or the context's. A backend
// that failed for a cause that may pass is tried again in the background; one that is
// healthy already is left alone.
func (m *Manager) Start(ctx context.Context, names ...string) error {
	hosts, err := m.toStart(names)
	if err != nil {
		return err
	}
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { errs[i] = h.start(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (m *Manager) toStart(names []string) ([]*host, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	var hosts []*host
	if len(names) == 0 {
		for _, h := range m.hosts {
			if !m.opts.Backends[h.name].Disabled {
				hosts = append(hosts, h)
			}
		}
	}
	for _, name := range names {
		h := m.host(name)
		if h == nil {
			_, err := m.opts.find(name)
			if err == nil { // it was put there since New
				i, _ := slices.BinarySearchFunc(m.hosts, name, func(h *host, name string) int { return strings.Compare(h.name, name) })
				h = newHost(m, name)
				m.hosts = slices.Insert(m.hosts, i, h)
			} else {
				return nil, err
			}
		}
		if m.opts.Backends[name].Disabled {
			return nil, &NotFoundError{Backend: name, Refused: []string{"it is disabled in the configuration"}, Remedy: "enable it there"}
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

func (m *Manager) host(name string) *host {
	for _, h := range m.hosts {
		if h.name == name {
			return h
		}
	}
	return nil
}

func (m *Manager) all() []*host {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.hosts)
}

// Backends describes the backends, sorted by name.
func (m *Manager) Backends() []BackendStatus {
	var list []BackendStatus
	for _, h := range m.all() {
		list = append(list, h.state())
	}
	return list
}

// Devices are the devices of all backends that were started, in the backends'
// order and in each its own. The handles stay valid; a device that went away
// says so in its status.
func (m *Manager) Devices() []*Device {
	var list []*Device
	for _, h := range m.all() {
		h.mu.Lock()
		list = append(list, h.devices...)
		h.mu.Unlock()
	}
	return list
}

// Device finds a healthy device by reference: "platform" is the first of the
// platform in its backend's order, "platform:id" a certain one. Otherwise the
// error is an *UnavailableError.
func (m *Manager) Device(ref string) (*Device, error) {
	var reasons, known []string
	remedy := ""
	for _, d := range m.Devices() {
		s := d.Status()
		if s.Ref != ref && s.Platform != ref {
			known = append(known, s.Ref)
			continue
		}
		if s.Health == backend.Healthy {
			return d, nil
		}
		reasons = append(reasons, fmt.Sprintf("%s is %s: %s", s.Ref, s.Health, s.Reason))
		orDefault(&remedy, s.Remedy)
	}
	if len(reasons) > 0 {
		return nil, &UnavailableError{Device: ref, Reason: strings.Join(reasons, "; "), Remedy: remedy}
	}
	reason := "no backend offers it"
	if len(known) > 0 {
		reason += "; there are " + strings.Join(known, ", ")
	}
	for _, b := range m.Backends() {
		if b.State != Healthy {
			reason += fmt.Sprintf("; backend %s is %s", b.Name, b.State)
			if b.Reason != "" {
				reason += ": " + b.Reason
			}
			orDefault(&remedy, b.Remedy)
		}
	}
	orDefault(&remedy, "install a backend for it, or name another platform")
	return nil, &UnavailableError{Device: ref, Reason: reason, Remedy: remedy}
}

// Changed returns a channel that is closed at the next change of any backend or
// device. Take the channel, look at Backends or Devices, then wait.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// note wakes those who wait for a change. It is called without h.mu.
func (m *Manager) note() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// Close asks all backends to end and waits until they have, killing those that
// take longer than the shutdown time-out or than ctx allows. Calls in flight end
// with ErrClosed. Leases stay readable until they are released.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	hosts := slices.Clone(m.hosts)
	m.mu.Unlock()
	m.cancel()
	done := make(chan struct{})
	go func() {
		for _, h := range hosts {
			h.wait()
		}
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, h := range hosts {
			h.kill()
		}
		<-done
		return ctx.Err()
	}
}
