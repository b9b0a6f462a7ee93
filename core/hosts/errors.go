package hosts

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/accelhq/accel/sdk/backend"
)

// ErrClosed is the error of every call after Close, and of calls that Close ended.
var ErrClosed = errors.New("the backends are being stopped")

// NotFoundError says that a backend's program is missing, or is there but can't
// be used.
type NotFoundError struct {
	Backend string
	Looked  []string // the files that were looked for, in order
	Refused []string // files that are there, each with why it is not used
	Remedy  string
}

func (e *NotFoundError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "backend %q ", e.Backend)
	switch {
	case len(e.Refused) > 0:
		b.WriteString("can't be used: " + strings.Join(e.Refused, "; "))
	case len(e.Looked) > 0:
		b.WriteString("is not there; looked for " + strings.Join(e.Looked, ", "))
	default:
		b.WriteString("is not there; no folder is given to look in")
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// StartCause is why a backend did not start.
type StartCause string

// Causes of a failed start.
const (
	StartExec    StartCause = "exec"    // the program could not be run at all
	StartTimeout StartCause = "timeout" // it said nothing, or not enough, in time
	StartExited  StartCause = "exited"  // it ended before it was ready
	StartOutput  StartCause = "output"  // it printed something else than the handshake
	StartVersion StartCause = "version" // it speaks another version of the protocol
	StartRefused StartCause = "refused" // it refused its settings, or answered nonsense
	StartChanged StartCause = "changed" // it is installed, and no longer what was installed
)

// StartError says why a backend's process did not become usable.
type StartError struct {
	Backend string
	Path    string
	Cause   StartCause
	Detail  string // in words, with versions, time-outs or what was printed
	Remedy  string
	Exit    string // how the process ended, where it ended by itself
	Stderr  string // the tail of what it said
	Err     error  // the error underneath, if there is one
}

func (e *StartError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "backend %q (%s) did not start: %s", e.Backend, e.Path, e.Detail)
	if e.Exit != "" {
		fmt.Fprintf(&b, " (%s)", e.Exit)
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	writeStderr(&b, e.Stderr)
	return b.String()
}

func (e *StartError) Unwrap() error { return e.Err }

// permanent reports whether starting again can't help until a person has acted.
func (e *StartError) permanent() bool {
	return e.Cause == StartVersion || e.Cause == StartRefused || e.Cause == StartChanged
}

// CrashedError (BACKEND_CRASHED) says that a backend's process ended while, or
// before, a call was made of something that lived in it. What it held is lost;
// the call may be made again on what is compiled anew.
type CrashedError struct {
	Backend string
	Device  string // reference of the device the call was for; may be empty
	PID     int
	Exit    string // "signal: killed", "exit status 2"
	Reason  string // why Accel ended the process; empty: it died by itself
	Stderr  string // the tail of what it said
	// InFlight says that the call had been handed to the process when it died, so
	// that the call may be what killed it.
	InFlight bool
}

// Unwrap is a BAD_STATE where the call was not in flight.
func (e *CrashedError) Unwrap() error { return stale(e.InFlight, nil) }

func (e *CrashedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "BACKEND_CRASHED: backend %q", e.Backend)
	if e.PID != 0 {
		fmt.Fprintf(&b, " (pid %d)", e.PID)
	}
	b.WriteString(" died: " + e.how())
	if e.Device != "" {
		fmt.Fprintf(&b, "; device %s", e.Device)
	}
	writeStderr(&b, e.Stderr)
	return b.String()
}

// how says how the process ended, or why Accel ended it.
func (e *CrashedError) how() string {
	if e.Reason != "" {
		return "Accel ended it, for " + e.Reason
	}
	return e.Exit
}

// DeviceLostError (DEVICE_LOST) says that a device went away with all that was on
// it, while its process lives. The call may be made again on what is compiled
// anew once the device is back.
type DeviceLostError struct {
	Backend  string
	Device   string
	Reason   string
	InFlight bool // as in CrashedError
}

// Unwrap is a DEVICE_LOST, or a BAD_STATE where the call was not in flight.
func (e *DeviceLostError) Unwrap() error {
	return stale(e.InFlight, backend.DeviceLost(e.Reason))
}

func (e *DeviceLostError) Error() string {
	return fmt.Sprintf("DEVICE_LOST: device %s of backend %q: %s", e.Device, e.Backend, e.Reason)
}

// UnavailableError says that no device answers to a reference now.
type UnavailableError struct {
	Device string // the reference that was asked for
	Reason string
	Remedy string
}

// Unwrap is a BAD_STATE.
func (e *UnavailableError) Unwrap() error { return backend.BadState("%s", e.Reason) }

func (e *UnavailableError) Error() string {
	s := fmt.Sprintf("device %q is not available: %s", e.Device, e.Reason)
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// TimeoutError says that a backend did not answer a call in time. Killed says
// that the process was ended for it, and is started again.
type TimeoutError struct {
	Backend string
	Device  string
	Call    string // Assess, Compile, Run, ...
	After   time.Duration
	Killed  bool
	Err     error // context.DeadlineExceeded or context.Canceled, where a context ended
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("%s on %s of backend %q: no answer after %v", e.Call, e.Device, e.Backend, e.After.Round(time.Millisecond))
	if e.Killed {
		s += "; the process was ended"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *TimeoutError) Unwrap() error { return e.Err }

// ProtocolError says that a backend answered what the protocol does not allow,
// such as an output larger than its room.
type ProtocolError struct {
	Backend string
	Device  string
	Problem string
}

// Unwrap is the backend's own fault, an INTERNAL.
func (e *ProtocolError) Unwrap() error { return backend.Internal("%s", e.Problem) }

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("backend %q, device %s, broke the protocol: %s; report it to the backend's author",
		e.Backend, e.Device, e.Problem)
}

// stale is a BAD_STATE for a call that was never in flight, else lost.
func stale(inFlight bool, lost *backend.Error) error {
	switch {
	case !inFlight:
		return backend.BadState("what was used belongs to an earlier life of the device")
	case lost != nil:
		return lost
	}
	return nil
}

// Replayable reports whether err is the death of a process or the loss of a
// device, after which the same request may be made again on what is compiled anew.
func Replayable(err error) bool {
	var c *CrashedError
	var l *DeviceLostError
	return errors.As(err, &c) || errors.As(err, &l) || errors.Is(err, &backend.Error{Code: backend.CodeDeviceLost})
}

func writeStderr(b *strings.Builder, tail string) {
	if tail = strings.TrimSpace(tail); tail != "" {
		b.WriteString("; it last said:\n" + tail)
	}
}
