package schedule

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/accelhq/accel/core/route"
)

// Stream is what a request answers, as it comes. One goroutine reads it. It holds what
// was not read yet: at most N * MaxTokens tokens.
type Stream struct {
	cancel context.CancelFunc
	ready  chan struct{} // holds one while there may be something to read
	drops  atomic.Bool   // some of dropped have not been seen to

	mu       sync.Mutex
	tokens   []Token
	read     int
	err      error
	decision route.Decision
	cached   int
	dropped  []int // choices that nobody wants to read on
}

func newStream(cancel context.CancelFunc) *Stream {
	return &Stream{cancel: cancel, ready: make(chan struct{}, 1)}
}

// Next waits for the next token of any choice. After the last one it returns io.EOF;
// if the request failed or was cancelled, the reason. An end of ctx ends the wait
// only.
func (t *Stream) Next(ctx context.Context) (Token, error) {
	for {
		t.mu.Lock()
		if t.read < len(t.tokens) {
			next := t.tokens[t.read]
			if t.read++; t.read == len(t.tokens) {
				t.tokens, t.read = t.tokens[:0], 0
			}
			t.mu.Unlock()
			return next, nil
		}
		err := t.err
		t.mu.Unlock()
		if err != nil {
			return Token{}, err
		}
		select {
		case <-t.ready:
		case <-ctx.Done():
			return Token{}, context.Cause(ctx)
		}
	}
}

// Close cancels what is still to come, at the next step.
func (t *Stream) Close() { t.cancel() }

// Drop ends one choice at the next step, because its reader knows its text to be complete. Tokens
// of it that were drawn by then may still come. When no other goes on, the stream ends with io.EOF.
func (t *Stream) Drop(choice int) {
	t.mu.Lock()
	t.dropped = append(t.dropped, choice)
	t.mu.Unlock()
	t.drops.Store(true)
}

// isDropped reports whether a choice is not wanted any more.
func (t *Stream) isDropped(choice int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.dropped, choice)
}

// Decision says where the request runs, or ran, and what it lived through. Before
// the first token it is what is known by then.
func (t *Stream) Decision() route.Decision {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.decision
	d.Replays = slices.Clone(d.Replays)
	return d
}

// Cached is the number of prompt tokens that the cache had when the request was
// first taken in.
func (t *Stream) Cached() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cached
}

func (t *Stream) push(token Token) {
	t.mu.Lock()
	t.tokens = append(t.tokens, token)
	t.mu.Unlock()
	t.wake()
}

// end says that nothing comes any more. What was not read can still be.
func (t *Stream) end(err error) {
	if err == nil {
		err = io.EOF
	}
	t.mu.Lock()
	if t.err == nil {
		t.err = err
	}
	t.mu.Unlock()
	t.wake()
	t.cancel()
}

func (t *Stream) wake() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

func (t *Stream) decided(d *route.Decision, replays []route.Refusal) {
	t.mu.Lock()
	t.decision = *d
	t.decision.Replays = replays
	t.mu.Unlock()
}

func (t *Stream) fromCache(n int) {
	t.mu.Lock()
	t.cached = n
	t.mu.Unlock()
}
