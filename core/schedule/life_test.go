package schedule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
)

func TestRequestCheck(t *testing.T) {
	f := newFake(40, 4)
	s := start(t, f, Options{MaxLength: 50, MaxSequences: 4})
	for _, tt := range []struct {
		name  string
		r     Request
		field string // empty: TooLongError
	}{
		{"no prompt", Request{}, "Prompt"},
		{"an id past the vocabulary", Request{Prompt: []int64{61}}, "Prompt"},
		{"a negative id", Request{Prompt: []int64{-1}}, "Prompt"},
		{"a negative number of tokens", Request{Prompt: []int64{1}, MaxTokens: -1}, "MaxTokens"},
		{"more tokens than can be counted", Request{Prompt: []int64{1}, MaxTokens: math.MaxInt}, "MaxTokens"},
		{"more choices than sequences", Request{Prompt: []int64{1}, N: 5}, "N"},
		{"a negative number of choices", Request{Prompt: []int64{1}, N: -1}, "N"},
		{"an empty stop", Request{Prompt: []int64{1}, Stop: [][]int64{{}}}, "Stop"},
		{"temperature", Request{Prompt: []int64{1}, Sampling: Sampling{Temperature: -1}}, "Sampling.Temperature"},
		{"temperature NaN", Request{Prompt: []int64{1}, Sampling: Sampling{Temperature: math.NaN()}}, "Sampling.Temperature"},
		{"top-p", Request{Prompt: []int64{1}, Sampling: Sampling{TopP: 1.1}}, "Sampling.TopP"},
		{"min-p", Request{Prompt: []int64{1}, Sampling: Sampling{MinP: -0.1}}, "Sampling.MinP"},
		{"top-k", Request{Prompt: []int64{1}, Sampling: Sampling{TopK: -1}}, "Sampling.TopK"},
		{"repetition", Request{Prompt: []int64{1}, Sampling: Sampling{RepetitionPenalty: 1e-9}}, "Sampling.RepetitionPenalty"},
		{"frequency", Request{Prompt: []int64{1}, Sampling: Sampling{FrequencyPenalty: math.Inf(1)}}, "Sampling.FrequencyPenalty"},
		{"logprobs", Request{Prompt: []int64{1}, Sampling: Sampling{Logprobs: true, TopLogprobs: 1000}}, "Sampling.TopLogprobs"},
		{"top logprobs alone", Request{Prompt: []int64{1}, Sampling: Sampling{TopLogprobs: 1}}, "Sampling.TopLogprobs"},
		{"bias of no token", Request{Prompt: []int64{1}, Sampling: Sampling{LogitBias: map[int64]float64{61: 1}}}, "Sampling.LogitBias"},
		{"bias +Inf", Request{Prompt: []int64{1}, Sampling: Sampling{LogitBias: map[int64]float64{6: math.Inf(1)}}}, "Sampling.LogitBias"},
		{"longer than the model takes", Request{Prompt: prompt(1, 50)}, ""},
		{"longer with its output", Request{Prompt: prompt(1, 40), MaxTokens: 11}, ""},
	} {
		_, err := s.Submit(t.Context(), tt.r)
		var invalid *InvalidError
		var long *TooLongError
		if tt.field == "" && (!errors.As(err, &long) || long.Limit != 50 || long.Cache) || tt.field != "" && (!errors.As(err, &invalid) || invalid.Field != tt.field) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Submit(over, Request{Prompt: []int64{1}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	settled(t, s, f)
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{}, {Vocabulary: -1}, {Vocabulary: 9, StepTokens: -1}, {Vocabulary: 9, StepTokens: 8, MaxSequences: 9},
		{Vocabulary: 9, SwapBytes: -1}, {Vocabulary: 9, Preemption: "never"}, {Vocabulary: 9, MaxWaiting: -1}} {
		if _, err := New(newFake(9, 4), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

// TestLimits: a text ends where the model or the cache has no more room, and says so.
func TestLimits(t *testing.T) {
	f := newFake(6, 4) // 20 tokens, and one that need not be stored
	s := start(t, f, Options{MaxLength: 64})
	for _, tt := range []struct {
		prompt, max, want int // want: tokens of output; 0: refused
	}{{5, 0, 16}, {20, 0, 1}, {21, 0, 0}, {5, 16, 16}, {5, 17, 0}, {19, 2, 2}} {
		stream := submit(t, s, Request{Prompt: prompt(3, tt.prompt), MaxTokens: tt.max})
		texts, finishes, err := read(stream, 1)
		var long *TooLongError
		switch {
		case tt.want == 0 && (!errors.As(err, &long) || !long.Cache || long.Limit != 21 || !strings.Contains(err.Error(), "kv_cache.memory")):
			t.Errorf("%+v: %v", tt, err)
		case tt.want > 0 && (err != io.EOF || len(texts[0]) != tt.want || finishes[0] != Length):
			t.Errorf("%+v: %d tokens, %q, %v", tt, len(texts[0]), finishes[0], err)
		}
	}
	settled(t, s, f)
	f = newFake(60, 4)
	s = start(t, f, Options{MaxLength: 30})
	if texts, finishes, err := read(submit(t, s, Request{Prompt: prompt(3, 10)}), 1); err != io.EOF || len(texts[0]) != 20 || finishes[0] != Length {
		t.Errorf("%d tokens, %q, %v", len(texts[0]), finishes[0], err)
	}
	settled(t, s, f)
}

// TestCancel: what is cancelled is gone by the next step, whichever way and wherever it was.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(40, 4)
		f.hold = make(chan struct{})
		s := start(t, f, Options{MaxSequences: 3})
		cause := errors.New("the client went away")
		ctx, cancel := context.WithCancelCause(t.Context())
		byContext, err := s.Submit(ctx, Request{ID: "context", Prompt: prompt(1, 3)})
		if err != nil {
			t.Fatal(err)
		}
		byClose := submit(t, s, Request{ID: "close", Prompt: prompt(2, 3)})
		stays := Request{ID: "stays", Prompt: prompt(3, 3), MaxTokens: 6}
		stayer := submit(t, s, stays)
		queued := submit(t, s, Request{ID: "queued", Prompt: prompt(4, 3)})
		for range 3 {
			f.hold <- struct{}{}
			synctest.Wait()
		}
		if st := s.Stats(); st.Running != 3 || st.Waiting != 1 {
			t.Errorf("before: %+v", st)
		}
		cancel(cause)
		byClose.Close()
		queued.Close()
		f.hold <- struct{}{} // the step that was running
		synctest.Wait()
		f.hold <- struct{}{} // the next
		synctest.Wait()
		if got := f.shapes[len(f.shapes)-1].members; len(got) != 1 || got[0].Request != "stays" {
			t.Errorf("after cancelling, a step ran %v", got)
		}
		if st := s.Stats(); st.Running != 1 || st.Waiting != 0 || st.Cancelled != 3 {
			t.Errorf("after: %+v", st)
		}
		close(f.hold)
		expect(t, f, stayer, stays)
		for name, stream := range map[string]*Stream{"context": byContext, "close": byClose, "queued": queued} {
			_, _, err := read(stream, 1)
			if want := map[string]error{"context": cause, "close": context.Canceled, "queued": context.Canceled}[name]; !errors.Is(err, want) {
				t.Errorf("%s ended with %v", name, err)
			}
		}
		settled(t, s, f)
	})
}

// TestDrop: one choice is ended, the others go on; without any, the request is through.
func TestDrop(t *testing.T) {
	f := newFake(100, 4)
	s := gated(t, f, Options{})
	r := Request{ID: "r", Prompt: prompt(1, 9), MaxTokens: 40, N: 3, Sampling: Sampling{Temperature: 1}}
	streams := together(t, s, f, r, r)
	streams[1].Drop(0)
	texts, _, err := read(streams[1], 3)
	if err != io.EOF || len(texts[0]) > 1 || !slices.Equal(texts[1], oracle(t, f, r, 1)) || !slices.Equal(texts[2], oracle(t, f, r, 2)) {
		t.Errorf("one dropped early: %v, %v", texts, err)
	}
	f.mu.Lock()
	f.delay = 5 * time.Millisecond
	f.mu.Unlock()
	r.MaxTokens = 0
	stream := submit(t, s, r)
	for range 9 {
		if _, err := stream.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for c := range 3 {
		stream.Drop(c)
	}
	if texts, _, err := read(stream, 3); err != io.EOF || len(texts[0]) > 10 {
		t.Errorf("all dropped: %d more tokens, %v", len(texts[0]), err)
	}
	if st := settled(t, s, f); st.Finished != 3 || st.Cancelled != 0 {
		t.Errorf("%+v", st)
	}
}

// TestCloseWaits: Close returns when the step is over, and leaves no goroutine (synctest would say so).
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(40, 4)
		f.delay = time.Minute
		s := start(t, f, Options{})
		streams := []*Stream{submit(t, s, Request{Prompt: prompt(1, 3)}), submit(t, s, Request{Prompt: prompt(1, 3), N: 2})}
		synctest.Wait()
		begin := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if time.Since(begin) != time.Minute || f.closed != 1 {
			t.Errorf("Close returned after %v", time.Since(begin))
		}
		for _, stream := range streams {
			if _, err := stream.Next(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		}
		if st := s.Stats(); st.Running+st.Waiting+st.Cache.Used != 0 {
			t.Errorf("closed, yet %+v", st)
		}
	})
}

func TestNextGivesUpWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(40, 4)
		f.hold = make(chan struct{})
		s := start(t, f, Options{})
		r := Request{Prompt: prompt(1, 3), MaxTokens: 2}
		stream := submit(t, s, r)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := stream.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next: %v", err)
		}
		close(f.hold)
		expect(t, f, stream, r)
		settled(t, s, f)
	})
}

func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(40, 4)
		f.hold = make(chan struct{})
		s := start(t, f, Options{MaxSequences: 1, MaxWaiting: 2})
		r := Request{Prompt: prompt(1, 3), MaxTokens: 2}
		streams := []*Stream{submit(t, s, r)}
		synctest.Wait() // it runs, and waits no longer
		streams = append(streams, submit(t, s, r), submit(t, s, r))
		var busy *BusyError
		if _, err := s.Submit(t.Context(), r); !errors.As(err, &busy) || busy.Waiting != 2 {
			t.Errorf("the third to wait: %v", err)
		}
		close(f.hold)
		for _, stream := range streams {
			expect(t, f, stream, r)
		}
		expect(t, f, submit(t, s, r), r)
		if st := settled(t, s, f); st.Refused != 1 || st.Finished != 4 {
			t.Errorf("%+v", st)
		}
	})
}

// TestFailures: an error that is no loss ends those that were in the step, and nobody else.
func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		err  error
		is   func(error) bool
	}{
		{"an error", boom, func(err error) bool { return errors.Is(err, boom) }},
		{"too few logits", nil, func(err error) bool { return strings.Contains(err.Error(), "fake:0 computed 60 logits") }},
		{"NaN", nil, func(err error) bool { var bad *LogitsError; return errors.As(err, &bad) && bad.Device == "fake:0" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(40, 4)
			e := &spoiler{fake: f}
			f.stepErr = func(n int, s *Step) error {
				e.spoil = func(l []float32) []float32 { return l }
				if s.Sequences[0].Request == "unlucky" && s.Positions[0] > 4 {
					switch tt.name {
					case "too few logits":
						e.spoil = func(l []float32) []float32 { return l[:60] }
					case "NaN":
						e.spoil = func(l []float32) []float32 { l[7] = nan; return l }
					}
					return tt.err
				}
				return nil
			}
			close(f.gate)
			s, err := New(e, Options{Vocabulary: f.vocab, MaxSequences: 1})
			if err != nil {
				t.Fatal(err)
			}
			unlucky := submit(t, s, Request{ID: "unlucky", Prompt: prompt(1, 3)})
			r := Request{ID: "lucky", Prompt: prompt(1, 3), MaxTokens: 9}
			lucky := submit(t, s, r)
			texts, _, err := read(unlucky, 1)
			if !tt.is(err) || len(texts[0]) != 3 {
				t.Errorf("after %d tokens: %v", len(texts[0]), err)
			}
			expect(t, f, lucky, r)
			if st := settled(t, s, f); st.Failed != 1 || st.Finished != 1 || f.opened != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// spoiler changes what a fake computes.
type spoiler struct {
	*fake
	spoil func([]float32) []float32
}

func (e *spoiler) Step(ctx context.Context, s *Step) ([]float32, error) {
	logits, err := e.fake.Step(ctx, s)
	return e.spoil(logits), err
}

func TestOpenFails(t *testing.T) {
	f := newFake(40, 4)
	f.openErr = errors.New("no platform")
	s := start(t, f, Options{})
	for range 2 {
		if _, err := submit(t, s, Request{Prompt: []int64{1}}).Next(t.Context()); !errors.Is(err, f.openErr) {
			t.Errorf("%v", err)
		}
	}
	f.mu.Lock()
	f.openErr = nil
	f.mu.Unlock()
	r := Request{Prompt: []int64{1}, MaxTokens: 2}
	stream := submit(t, s, r)
	expect(t, f, stream, r)
	if d := stream.Decision(); d.Chosen != (route.Choice{Platform: "fake", Device: "fake:0"}) || d.Model != "fake" {
		t.Errorf("decision %+v", d)
	}
	settled(t, s, f)

	f = newFake(1, 4)
	s = start(t, f, Options{})
	if _, err := submit(t, s, Request{Prompt: []int64{1}}).Next(t.Context()); err == nil || !strings.Contains(err.Error(), "at least 2") {
		t.Errorf("pools of one page: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestConstrained: masks are asked for once a token, with how many are left, and what a constraint refuses ends the request.
func TestConstrained(t *testing.T) {
	f := newFake(40, 4)
	s := start(t, f, Options{})
	var all []*only
	r := Request{Prompt: prompt(1, 5), N: 2, MaxTokens: 12, Sampling: Sampling{Temperature: 1}, Stop: [][]int64{{60}}, Constraint: func() Constraint {
		o := &only{allowed: []int64{1, 2, 33, 60}, refused: -1}
		all = append(all, o)
		return o
	}}
	texts, finishes, err := read(submit(t, s, r), 2)
	if err != io.EOF {
		t.Fatal(err)
	}
	for c, o := range all {
		said := texts[c]
		if finishes[c] == Stop {
			said = said[:len(said)-1]
		}
		if !slices.Equal(o.taken, said) || len(o.left) != len(texts[c]) {
			t.Errorf("choice %d: %v was said, the constraint saw %v and was asked with %v left", c, texts[c], o.taken, o.left)
		}
		for i, left := range o.left {
			if left != r.MaxTokens-i {
				t.Errorf("choice %d: at token %d, %d are said to be left of %d", c, i, left, r.MaxTokens)
			}
		}
	}
	r.Constraint = func() Constraint { return &only{allowed: []int64{5}, refused: 5} }
	_, _, err = read(submit(t, s, r), 2)
	var refused *ConstraintError
	if !errors.As(err, &refused) || refused.Token != 5 {
		t.Errorf("%v", err)
	}
	settled(t, s, f)
}

func TestLogprobsAreGivenOut(t *testing.T) {
	f := newFake(40, 4)
	s := start(t, f, Options{})
	stream := submit(t, s, Request{Prompt: prompt(1, 5), MaxTokens: 3, Sampling: Sampling{Logprobs: true, TopLogprobs: 2}})
	for range 3 {
		token, err := stream.Next(t.Context())
		if err != nil || len(token.Top) != 2 || token.Top[0].ID != token.ID || token.Top[0].Logprob != token.Logprob || token.Logprob >= 0 {
			t.Errorf("%+v, %v", token, err)
		}
	}
	settled(t, s, f)
}

// TestCached: prefixes are shared, counted, and apart where the salt is another.
func TestCached(t *testing.T) {
	f := newFake(60, 4)
	s := start(t, f, Options{})
	for _, tt := range []struct {
		r    Request
		want int
	}{
		{Request{Prompt: prompt(1, 30), MaxTokens: 4}, 0},
		{Request{Prompt: prompt(1, 30), MaxTokens: 4}, 29},
		{Request{Prompt: append(prompt(1, 18), 1, 2, 3), MaxTokens: 4}, 18},
		{Request{Prompt: prompt(1, 30), MaxTokens: 4, Salt: "another"}, 0},
		{Request{Prompt: prompt(1, 30), MaxTokens: 4, Sampling: Sampling{Deterministic: true}}, 0},
	} {
		stream := submit(t, s, tt.r)
		expect(t, f, stream, tt.r)
		if got := stream.Cached(); got != tt.want {
			t.Errorf("%+v: %d tokens from the cache, want %d", tt.r, got, tt.want)
		}
	}
	if st := settled(t, s, f); st.CachedTokens != 47 || st.Cache.Hit != 47 || st.PrefillTokens != 30+1+3+30+30 || st.DecodeTokens != 15 || st.Sampled != 20 {
		t.Errorf("%+v", st)
	}
}

func TestErrorTexts(t *testing.T) {
	death := route.Refusal{Platform: "cpu", Device: "cpu:0", Reason: "killed"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&PoisonedError{Deaths: []route.Refusal{death, death, death}, Stderr: "oops\n"}, "BACKEND_CRASHED: the request was in flight at 3 deaths of its backend and is refused; cpu:0: killed; cpu:0: killed; cpu:0: killed; it last said: oops"},
		{&TooLongError{Prompt: 5, Limit: 4}, "the prompt has 5 tokens and the output at least 1; the model takes 4; shorten it"},
		{&LostError{Device: "cpu:0", Reason: "killed"}, "cpu:0 was lost: killed"},
		{&LogitsError{Device: "cpu:0", Token: 3, Value: nan}, "cpu:0 computed NaN as the logit of token 3; no token can be chosen from that"},
		{&kvcache.FullError{Need: 3, Available: 1}, "the KV cache is full: 3 pages are needed, 1 are free"},
		{&BusyError{Waiting: 7}, "7 requests are waiting for this model, no more may; ask again later"},
	} {
		if got := fmt.Sprint(tt.err); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
