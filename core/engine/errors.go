// Package engine wires the rooms of core into the API that Go programs use.
package engine

import (
	"fmt"
	"strings"

	"github.com/accelhq/accel/core/route"
)

// ModelNotFoundError says that no model has the name that was asked for.
type ModelNotFoundError struct {
	Model   string
	Known   []string // the names that there are, sorted
	Nearest string   // the known name that looks most like it; empty: none does
}

func (e *ModelNotFoundError) Error() string {
	switch {
	case e.Nearest != "":
		return fmt.Sprintf("there is no model %q; did you mean %q?", e.Model, e.Nearest)
	case len(e.Known) > 0:
		return fmt.Sprintf("there is no model %q; there are: %s", e.Model, strings.Join(e.Known, ", "))
	}
	return fmt.Sprintf("there is no model %q; none is configured: name one under `models` or with --model NAME=PATH", e.Model)
}

// ModelUnusableError says that a model is known but can't be opened: its files
// are missing, damaged, or of a class that isn't known.
type ModelUnusableError struct {
	Model string
	Path  string
	Err   error
}

func (e *ModelUnusableError) Error() string {
	return fmt.Sprintf("model %q (%s) can't be used: %v", e.Model, e.Path, e.Err)
}

func (e *ModelUnusableError) Unwrap() error { return e.Err }

// NoPlatformError says that no platform of a model's route can serve it now, or
// that the policy denies those that could.
type NoPlatformError struct {
	Decision route.Decision // Chosen is empty, Refused says why each was passed over
}

func (e *NoPlatformError) Error() string {
	d := &e.Decision
	var b strings.Builder
	fmt.Fprintf(&b, "no platform can serve model %q (route: %s; fallback: %s)",
		d.Model, strings.Join(d.Wanted, ", "), d.Policy)
	for _, r := range e.Reasons() {
		at := r.Device
		if at == "" {
			at = r.Platform
		}
		fmt.Fprintf(&b, "; %s: %s", at, r.Reason)
		if r.Remedy != "" {
			fmt.Fprintf(&b, " (%s)", r.Remedy)
		}
	}
	return b.String()
}

// Reasons are the refusals that matter: where fallback is denied, only those of
// what should have answered.
func (e *NoPlatformError) Reasons() []route.Refusal {
	d := &e.Decision
	if d.Policy != route.Deny || d.First == "" {
		return d.Refused
	}
	first, _, _ := strings.Cut(d.First, ":")
	var out []route.Refusal
	for _, r := range d.Refused {
		if r.Device == d.First || r.Platform == first {
			out = append(out, r)
		}
	}
	return out
}

// PoisonedError says that a request was refused because backends died of it: it
// was in flight at two deaths, ran alone, and its device died again.
type PoisonedError struct {
	Model  string
	Deaths []route.Refusal // where it ran and how that ended, in order
	Stderr string          // the tail of what the last backend said
}

func (e *PoisonedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "BACKEND_CRASHED: the request to model %q was in flight at %d deaths of its backend and is refused",
		e.Model, len(e.Deaths))
	for _, d := range e.Deaths {
		at := d.Device
		if at == "" {
			at = d.Platform
		}
		fmt.Fprintf(&b, "; %s: %s", at, d.Reason)
	}
	if s := strings.TrimSpace(e.Stderr); s != "" {
		b.WriteString("; it last said: ")
		b.WriteString(s)
	}
	return b.String()
}
