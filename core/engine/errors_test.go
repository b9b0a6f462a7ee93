package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/route"
)

func TestErrorsNameWhatToDo(t *testing.T) {
	refused := []route.Refusal{{Platform: "cuda", Device: "cuda:0", Reason: "no driver", Remedy: "install it"}, {Platform: "cpu", Reason: "fallback is denied"}}
	none := func(p route.Policy, first string) error {
		return &NoPlatformError{Decision: route.Decision{Model: "m", Wanted: []string{"cuda", "cpu"}, Policy: p, First: first, Refused: refused}}
	}
	for _, x := range []struct {
		err       error
		want, not string
	}{
		{&ModelNotFoundError{Model: "mini", Known: []string{"minim", "x"}, Nearest: "minim"}, `did you mean "minim"?`, "x"},
		{&ModelNotFoundError{Model: "mini", Known: []string{"a", "b"}}, "there are: a, b", "mean"},
		{&ModelNotFoundError{Model: "mini"}, "--model NAME=PATH", "there are:"},
		{none(route.Warn, "cuda"), `"m" (route: cuda, cpu; fallback: warn); cuda:0: no driver (install it); cpu: fallback is denied`, "\n"},
		{none(route.Deny, "cuda"), "cuda:0: no driver (install it)", "cpu: fallback"},
		{none(route.Deny, "cuda:0"), "cuda:0: no driver (install it)", "cpu: fallback"},
		{none(route.Deny, ""), "cpu: fallback is denied", "\n"},
		{&PoisonedError{Model: "m", Deaths: []route.Refusal{{Platform: "cpu", Device: "cpu:0", Reason: "killed"}, {Platform: "cpu", Reason: "killed again"}}, Stderr: " boom\n"},
			"BACKEND_CRASHED: the request to model \"m\" was in flight at 2 deaths of its backend and is refused; cpu:0: killed; cpu: killed again; it last said: boom", "\n"},
		{&ModelUnusableError{Model: "m", Path: "/p", Err: errors.New("torn")}, `model "m" (/p) can't be used: torn`, "\n"},
	} {
		if got := x.err.Error(); !strings.Contains(got, x.want) || strings.Contains(got, x.not) {
			t.Errorf("got %q, want %q and not %q", got, x.want, x.not)
		}
	}
}
