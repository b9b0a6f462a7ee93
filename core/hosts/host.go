package hosts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"

	"github.com/accelhq/accel/sdk/backend"
)

// State of a backend.
type State string

// States of a backend. All but Healthy and Starting have a reason.
const (
	Undetected State = "undetected" // its program is missing or can't be used
	Stopped    State = "stopped"    // not started, disabled, or closed
	Starting   State = "starting"
	Healthy    State = "healthy"
	Restarting State = "restarting" // it died and is being started again
	Unhealthy  State = "unhealthy"  // it does not start, or keeps dying
)

// BackendStatus is what is known of a backend.
type BackendStatus struct {
	Name         string            `json:"name"`
	Path         string            `json:"path,omitempty"`
	Origin       Origin            `json:"origin,omitempty"` // how the path is known
	State        State             `json:"state"`
	Reason       string            `json:"reason,omitempty"`
	Remedy       string            `json:"remedy,omitempty"`
	Version      string            `json:"version,omitempty"`
	Libraries    []backend.Library `json:"libraries,omitempty"`
	ConfigSchema string            `json:"config_schema,omitempty"`
	PID          int               `json:"pid,omitempty"`
	Restarts     int               `json:"restarts"`            // starts after the first that succeeded
	NextTry      time.Time         `json:"next_try,omitzero"`   // when it is started again
	LastExit     string            `json:"last_exit,omitempty"` // how the last process ended
	Stderr       string            `json:"stderr,omitempty"`    // the tail of what that process said
}

// host is one backend over all the lives of its process.
type host struct {
	m    *Manager
	name string
	log  hclog.Logger
	// gate lets runs through side by side, and a solo run alone.
	gate *semaphore.Weighted
	wake chan struct{} // ends a wait for the next start

	mu       sync.Mutex
	status   BackendStatus
	lastErr  error    // of the last start
	attempts int      // starts that have succeeded or failed
	ready    bool     // one has succeeded
	life     *life    // nil while no process is healthy
	proc     *process // the last one, starting, healthy or dead
	devices  []*Device
	done     chan struct{} // closed when supervise has ended; nil before it has begun
}

// everyone is the gate's size: a solo run takes all of it, others one each.
const everyone = 1 << 40

func newHost(m *Manager, name string) *host {
	h := &host{m: m, name: name, log: m.opts.Logger.With("backend", name),
		gate: semaphore.NewWeighted(everyone), wake: make(chan struct{}, 1)}
	h.status = BackendStatus{Name: name, State: Stopped, Reason: "not started"}
	p, err := m.opts.find(name)
	switch {
	case m.opts.Backends[name].Disabled:
		h.status.Reason, h.status.Remedy = "disabled in the configuration", "enable it there"
	case err != nil:
		h.failed(Undetected, err)
	}
	h.status.Path, h.status.Origin = p.path, p.origin
	return h
}

func (h *host) state() BackendStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

// failed notes why there is no process. h.mu is held, or h not yet shared.
func (h *host) failed(state State, err error) {
	h.status.State, h.status.Reason, h.status.Remedy = state, err.Error(), ""
	var missing *NotFoundError
	var start *StartError
	switch {
	case errors.As(err, &missing):
		h.status.Remedy = missing.Remedy
	case errors.As(err, &start):
		h.status.Remedy = start.Remedy
		h.status.LastExit, h.status.Stderr = start.Exit, start.Stderr
	}
}

// start begins the supervision, or hastens the next try, and waits for its outcome.
func (h *host) start(ctx context.Context) error {
	h.mu.Lock()
	seen := h.attempts
	switch {
	case h.status.State == Healthy:
		h.mu.Unlock()
		return nil
	case h.done == nil:
		h.done = make(chan struct{})
		go h.supervise()
	default:
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
	h.mu.Unlock()
	for {
		changed := h.m.Changed()
		h.mu.Lock()
		attempts, err := h.attempts, h.lastErr
		h.mu.Unlock()
		if attempts > seen {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("backend %q is still starting: %w", h.name, context.Cause(ctx))
		case <-h.m.ctx.Done():
			return ErrClosed
		}
	}
}

// supervise keeps a process alive until the manager is closed.
func (h *host) supervise() {
	defer close(h.done)
	ctx := h.m.ctx
	rest := backoff{Restart: h.m.opts.Restart}
	for ctx.Err() == nil {
		h.set(func(s *BackendStatus) {
			s.NextTry = time.Time{}
			switch {
			case h.attempts == 0:
				s.State, s.Reason, s.Remedy = Starting, "", ""
			case s.State != Unhealthy && s.State != Undetected:
				s.State = Restarting
			}
		})
		l, err := h.launch(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			h.retry(ctx, &rest, err)
			continue
		}
		h.log.Info("backend is ready", "pid", l.proc.pid(), "version", l.info.Version, "path", l.proc.Name())
		select {
		case <-l.dead:
		case <-ctx.Done():
			l.end(h.m.opts.Timeouts.Shutdown)
			<-l.dead
		}
		h.ended(ctx, &rest, l)
	}
	h.set(func(s *BackendStatus) {
		*s = BackendStatus{Name: h.name, Path: s.Path, Origin: s.Origin, State: Stopped, Reason: "closed", Restarts: s.Restarts, Version: s.Version, LastExit: s.LastExit, Stderr: s.Stderr}
		if h.attempts == 0 {
			h.attempts, h.lastErr = 1, ErrClosed
		}
	})
}

// set changes the status and tells those who wait.
func (h *host) set(change func(*BackendStatus)) {
	h.mu.Lock()
	change(&h.status)
	h.mu.Unlock()
	h.m.note()
}

// retry notes a start that failed and waits until it may be tried again.
func (h *host) retry(ctx context.Context, rest *backoff, err error) {
	var start *StartError
	wait := max(rest.died(0), rest.Base)
	tryAgain := errors.As(err, &start) && !start.permanent()
	state := Unhealthy
	var missing *NotFoundError
	if errors.As(err, &missing) {
		state = Undetected
	}
	h.log.Error("backend did not start", "error", err)
	var next <-chan time.Time
	if tryAgain {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		next = timer.C
	}
	h.set(func(s *BackendStatus) {
		h.attempts++
		h.lastErr = err
		h.failed(state, err)
		if tryAgain {
			s.NextTry = time.Now().Add(wait)
		}
	})
	select {
	case <-next:
	case <-h.wake:
	case <-ctx.Done():
	}
}

// ended notes the death of a process and waits until it may be started again.
func (h *host) ended(ctx context.Context, rest *backoff, l *life) {
	if ctx.Err() != nil {
		return
	}
	wait := rest.died(time.Since(l.ready))
	crash := l.crash
	h.log.Error("backend died", "pid", crash.PID, "exit", crash.Exit, "reason", crash.Reason, "restart_in", wait)
	h.set(func(s *BackendStatus) {
		s.LastExit, s.Stderr = crash.Exit, crash.Stderr
		s.State, s.Remedy = Restarting, ""
		s.Reason = "it died: " + crash.how()
		if rest.looping() {
			s.State = Unhealthy
			s.Reason = fmt.Sprintf("it died %d times, each soon after its start; the last time %s", rest.deaths, crash.how())
			s.Remedy = "see what it said on stderr"
		}
		s.NextTry = time.Now().Add(wait)
	})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.wake:
	case <-ctx.Done():
	}
}

// wait waits for the end of the supervision.
func (h *host) wait() {
	h.mu.Lock()
	done := h.done
	h.mu.Unlock()
	if done != nil {
		<-done
	}
}

// kill ends whatever process there is.
func (h *host) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.proc != nil {
		h.proc.stop("")
	}
}
