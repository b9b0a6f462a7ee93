package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/accelhq/accel/core/bench"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/hub"
	"github.com/accelhq/accel/core/installed"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/server"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/backend"
)

// Exit statuses.
const (
	exitOK          = 0
	exitFailed      = 1   // what was asked did not hold or did not succeed
	exitUsage       = 2   // the command line, the configuration or the input is wrong
	exitNotFound    = 3   // no such model, backend or device, or none that can serve
	exitBackend     = 4   // a backend did not start, crashed, or ran out of memory
	exitInterrupted = 130 // by a signal
)

const exitHelp = `Exit status:
  0    done
  1    what was asked did not hold (accel verify: an output is off; accel backends test:
       a check failed) or failed otherwise
  2    the command line, the configuration or the input is wrong
  3    no such model, backend or device, or none that can serve
  4    a backend did not start, crashed, or ran out of memory
  130  interrupted
`

// usageError is a command line that can't be carried out.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// toldError is an error that the command has told of in its own way.
type toldError struct{ err error }

func (e *toldError) Error() string { return e.err.Error() }
func (e *toldError) Unwrap() error { return e.err }

// errMissed says that something did not hold.
var errMissed = &toldError{errors.New("not everything held")}

// notFoundError says that nothing has the name that was asked for.
type notFoundError struct{ what, remedy string }

func (e *notFoundError) Error() string { return e.what + "; " + e.remedy }

func exitStatus(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	for _, c := range exitClasses {
		if c.is(err) {
			return c.status
		}
	}
	return exitFailed
}

var exitClasses = []struct {
	is     func(error) bool
	status int
}{
	{isA[*usageError], exitUsage},
	{isA[config.Errors], exitUsage},
	{isA[*tasks.InvalidInputError], exitUsage},
	{isA[*tasks.InputTooLongError], exitUsage},
	{isA[*tensorfile.Error], exitUsage},
	{isA[*tensorfile.InputError], exitUsage},
	{isA[*server.ListenError], exitUsage},
	{isInvalid, exitUsage},
	{isA[*bench.JudgeError], exitUsage},
	{isA[*quantize.PrecisionError], exitUsage},
	{isA[*quantize.OptionError], exitUsage},
	{isA[*quantize.ExistsError], exitUsage},
	{isA[*quantize.SampleError], exitUsage},
	{isA[*installed.ArchiveError], exitUsage},
	{isA[*installed.ManifestError], exitUsage},
	{isA[*installed.IncompatibleError], exitUsage},
	{isA[*installed.ChecksumError], exitUsage},
	{isA[*installed.ExistsError], exitUsage},
	{isA[*hub.RefError], exitUsage},
	{isA[*hub.PatternError], exitUsage},
	{isA[*hub.ChoiceError], exitUsage},
	{isA[*notFoundError], exitNotFound},
	{isA[*hub.NotCachedError], exitNotFound},
	{isA[*hub.RepoNotFoundError], exitNotFound},
	{isA[*hub.RevisionNotFoundError], exitNotFound},
	{isA[*hub.NoModelError], exitNotFound},
	{isA[*engine.ModelNotFoundError], exitNotFound},
	{isA[*engine.ModelUnusableError], exitNotFound},
	{isA[*engine.NoPlatformError], exitNotFound},
	{isA[*installed.NotInstalledError], exitNotFound},
	{isA[*hosts.NotFoundError], exitNotFound},
	{isA[*hosts.UnavailableError], exitNotFound},
	{isA[*engine.PoisonedError], exitBackend},
	{isA[*hosts.StartError], exitBackend},
	{isA[*installed.ChangedError], exitBackend},
	{isA[*hosts.CrashedError], exitBackend},
	{isA[*hosts.DeviceLostError], exitBackend},
	{isA[*hosts.TimeoutError], exitBackend},
	{isA[*hosts.ProtocolError], exitBackend},
	{isA[*backend.Error], exitBackend},
}

// isInvalid reports whether a backend found the input wrong.
func isInvalid(err error) bool {
	var e *backend.Error
	return errors.As(err, &e) && e.Code == backend.CodeInvalid
}

func isA[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// report tells of the error that ends a command.
func (a *app) report(ctx context.Context, err error) {
	if isA[*toldError](err) {
		return
	}
	if a.json {
		b, _ := json.Marshal(map[string]any{"error": map[string]any{"message": err.Error(), "exit_status": exitStatus(ctx, err)}})
		fmt.Fprintf(a.screen, "%s\n", b)
		return
	}
	if ctx.Err() != nil {
		fmt.Fprintln(a.screen, "interrupted")
		return
	}
	style := styleOf(a.err, a.environ)
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	var none *engine.NoPlatformError
	if errors.As(err, &none) {
		lines = noPlatform(none)
	}
	fmt.Fprintf(a.screen, "%s %s\n", style.bad("error:"), lines[0])
	for _, l := range lines[1:] {
		fmt.Fprintf(a.screen, "       %s\n", l)
	}
}

// noPlatform sets the reasons of each platform one below the other.
func noPlatform(e *engine.NoPlatformError) []string {
	d := e.Decision
	lines := []string{fmt.Sprintf("no platform can serve %s (route: %s; fallback: %s)", d.Model, strings.Join(d.Wanted, ", "), d.Policy)}
	for _, r := range e.Reasons() {
		line := fmt.Sprintf("%s: %s", refName(r), firstLine(r.Reason))
		if r.Remedy != "" {
			line += " (" + r.Remedy + ")"
		}
		lines = append(lines, line)
	}
	return lines
}
