package schedule

import (
	"errors"
	"fmt"
	"strings"

	"github.com/accelhq/accel/core/route"
)

// ErrClosed says that the scheduler was closed.
var ErrClosed = errors.New("the scheduler is closed: its model is being unloaded")

// LostError says that a device or its process died, and with it the pools.
type LostError struct {
	Device   string // platform[:id]
	Platform string
	Reason   string
	Stderr   string // the tail of what the backend said
	Idle     bool   // it was gone before the call began: nobody's request did it, and none counts a death
	Err      error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%s was lost: %s", e.Device, e.Reason)
}

func (e *LostError) Unwrap() error { return e.Err }

// PoisonedError says that a request was refused because backends died of it: it
// was in flight at two deaths, ran alone, and its device died twice more; or it was in flight at
// too many altogether.
type PoisonedError struct {
	Deaths []route.Refusal // where it ran and how that ended, in order
	Stderr string          // the tail of what the last backend said
}

func (e *PoisonedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "BACKEND_CRASHED: the request was in flight at %d deaths of its backend and is refused", len(e.Deaths))
	for _, d := range e.Deaths {
		fmt.Fprintf(&b, "; %s: %s", d.Device, d.Reason)
	}
	if s := strings.TrimSpace(e.Stderr); s != "" {
		b.WriteString("; it last said: ")
		b.WriteString(s)
	}
	return b.String()
}

// InvalidError says that a request can't be carried out as it stands.
type InvalidError struct {
	Field   string // as Request or Sampling names it
	Problem string // what was found and what is allowed
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }

// TooLongError says that a request has more tokens than the model or the cache takes.
type TooLongError struct {
	Prompt    int  // tokens
	MaxTokens int  // that may be added; 0: as many as there is room for
	Limit     int  // tokens, prompt and output together
	Cache     bool // the limit is the KV cache's, not the model's
	Source    bool // Prompt counts the rows of the source, which alone are too many
}

func (e *TooLongError) Error() string {
	whose, remedy := "the model takes", ""
	if e.Cache {
		whose, remedy = "the KV cache holds", ", or give kv_cache.memory more"
	}
	if e.Source {
		return fmt.Sprintf("the input has %d rows for the decoder to attend to; %s %d; shorten it%s", e.Prompt, whose, e.Limit, remedy)
	}
	if e.MaxTokens == 0 {
		return fmt.Sprintf("the prompt has %d tokens and the output at least 1; %s %d; shorten it%s", e.Prompt, whose, e.Limit, remedy)
	}
	return fmt.Sprintf("the prompt has %d tokens and the output up to %d; %s %d; shorten one of them%s",
		e.Prompt, e.MaxTokens, whose, e.Limit, remedy)
}

// BusyError says that as many requests wait as may.
type BusyError struct{ Waiting int }

func (e *BusyError) Error() string {
	return fmt.Sprintf("%d requests are waiting for this model, no more may; ask again later", e.Waiting)
}

// LogitsError says that a device computed logits from which nothing can be chosen.
type LogitsError struct {
	Device string // platform[:id]
	Token  int    // the first bad one
	Value  float32
}

func (e *LogitsError) Error() string {
	return fmt.Sprintf("%s computed %v as the logit of token %d; no token can be chosen from that", e.Device, e.Value, e.Token)
}

// ConstraintError says that a constraint and the model can't agree.
type ConstraintError struct {
	Choice int
	Token  int64 // that was refused; negative: no token was allowed at all
	Err    error
}

func (e *ConstraintError) Error() string {
	if e.Token < 0 {
		return fmt.Sprintf("choice %d: the constraint allows no token, nor an end", e.Choice)
	}
	return fmt.Sprintf("choice %d: the constraint refused token %d, which its mask allowed: %v", e.Choice, e.Token, e.Err)
}

func (e *ConstraintError) Unwrap() error { return e.Err }
