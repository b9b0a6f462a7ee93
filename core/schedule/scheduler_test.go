package schedule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
)

// submit submits, and fails the test if that fails.
func submit(t *testing.T, s *Scheduler, r Request) *Stream {
	t.Helper()
	stream, err := s.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// expect reads a stream and holds it against the oracle.
func expect(t *testing.T, f *fake, stream *Stream, r Request) {
	t.Helper()
	n := max(1, r.N)
	texts, finishes, err := read(stream, n)
	if err != io.EOF {
		t.Errorf("%s: ended with %v", r.ID, err)
		return
	}
	for c := range n {
		if want := oracle(t, f, r, c); !slices.Equal(texts[c], want) {
			t.Errorf("%s, choice %d: %v, want %v", r.ID, c, texts[c], want)
		}
		if finishes[c] == "" {
			t.Errorf("%s, choice %d: its last token does not say why it ended", r.ID, c)
		}
	}
}

// mixed are requests of many kinds.
func mixed() []Request {
	shared := prompt(9, 40)
	var out []Request
	for i := range 24 {
		r := Request{ID: fmt.Sprint("request ", i), Prompt: prompt(i, 1+i*5%37), MaxTokens: 3 + i%14, Priority: i % 3 / 2}
		switch i % 6 {
		case 1:
			r.Sampling = Sampling{Temperature: 0.9, TopP: 0.9, Seed: uint64(i)}
		case 2:
			r.Prompt, r.N = append(slices.Clone(shared[:20+i/2]), int64(i)), 3
			r.Sampling = Sampling{Temperature: 1.2, Seed: uint64(i)}
		case 3:
			r.Prompt = append(slices.Clone(shared), prompt(i, 5)...)
			r.Sampling.RepetitionPenalty = 1.3
		case 4:
			r.Sampling = Sampling{Deterministic: true, Temperature: 1, TopK: 5, Seed: 3}
		case 5:
			r.Stop = [][]int64{{int64(i)}, {3, 4}, {7}, {11}}
			r.MaxTokens = 40
		}
		out = append(out, r)
	}
	return out
}

// TestOracle runs requests of all kinds together, under all kinds of trouble: each must
// say what it would say alone.
func TestOracle(t *testing.T) {
	for _, tt := range []struct {
		name     string
		pages    int
		pageSize int
		window   int
		o        Options
		dies     func(n int, s *Step) error
		check    func(t *testing.T, st Stats, f *fake)
	}{
		{name: "plenty", pages: 400, pageSize: 16},
		{name: "pages of one token", pages: 1000, pageSize: 1},
		{name: "chunks of three", pages: 400, pageSize: 4, o: Options{StepTokens: 8, MaxSequences: 5}},
		{name: "window", pages: 60, pageSize: 4, window: 9, o: Options{StepTokens: 16}},
		{name: "swap", pages: 24, pageSize: 4, o: Options{Preemption: PreemptSwap, SwapBytes: 1 << 40, StepTokens: 32},
			check: func(t *testing.T, st Stats, f *fake) {
				if st.PreemptedSwap == 0 || st.PreemptedAnew != 0 {
					t.Errorf("%d swapped, %d computed anew", st.PreemptedSwap, st.PreemptedAnew)
				}
			}},
		{name: "recompute", pages: 24, pageSize: 4, o: Options{Preemption: PreemptRecompute, SwapBytes: 1 << 40, StepTokens: 32},
			check: func(t *testing.T, st Stats, f *fake) {
				if st.PreemptedAnew == 0 || f.swaps != 0 {
					t.Errorf("%d computed anew, %d swaps", st.PreemptedAnew, f.swaps)
				}
			}},
		{name: "little host memory", pages: 24, pageSize: 4, o: Options{Preemption: PreemptSwap, SwapBytes: 12 << 20, StepTokens: 32},
			check: func(t *testing.T, st Stats, f *fake) {
				if st.PreemptedSwap == 0 || st.PreemptedAnew == 0 {
					t.Errorf("%d swapped, %d computed anew", st.PreemptedSwap, st.PreemptedAnew)
				}
			}},
		{name: "tight window, swap", pages: 18, pageSize: 4, window: 30, o: Options{Preemption: PreemptSwap, SwapBytes: 1 << 40, StepTokens: 16}},
		{name: "deaths", pages: 30, pageSize: 4, o: Options{Preemption: PreemptSwap, SwapBytes: 1 << 40, StepTokens: 32},
			dies: func(n int, s *Step) error {
				if n == 9 || n == 40 {
					return lost("killed")
				}
				return nil
			},
			check: func(t *testing.T, st Stats, f *fake) {
				if st.Losses != 2 || f.opened != 3 {
					t.Errorf("%d losses, opened %d times", st.Losses, f.opened)
				}
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(tt.pages, tt.pageSize)
			f.geometry.Window = tt.window
			f.stepErr = tt.dies
			s := gated(t, f, tt.o)
			var readers sync.WaitGroup
			requests := mixed()
			for i, stream := range together(t, s, f, requests...) {
				readers.Go(func() { expect(t, f, stream, requests[i]) })
			}
			readers.Wait()
			st := settled(t, s, f)
			if st.Finished != 24 {
				t.Errorf("%d requests finished", st.Finished)
			}
			if tt.check != nil {
				tt.check(t, st, f)
			}
		})
	}
}

// TestAlike: of prompts that come in together what they begin with is computed once, in steps that
// belong to the first; private ones and those of others are not waited for.
func TestAlike(t *testing.T) {
	var requests []Request
	for i := range 6 {
		requests = append(requests, Request{ID: fmt.Sprint(i), Prompt: append(prompt(1, 50), prompt(20+i, 10)...), MaxTokens: 5})
	}
	requests[4].Salt = "other"
	requests[5].Sampling.Deterministic = true
	f := newFake(200, 4)
	s := gated(t, f, Options{StepTokens: 16, MaxSequences: 8})
	for i, stream := range together(t, s, f, requests...) {
		expect(t, f, stream, requests[i])
		// Pages of 4: the last 2 of the 50 are in a page that differs, of which the beginning may be found.
		got := stream.Cached()
		if want := i >= 1 && i <= 3; want != (got >= 48) || got > 50 {
			t.Errorf("%d: %d tokens from the cache", i, got)
		}
	}
	if st := settled(t, s, f); st.PrefillTokens > 60*3+3*12 {
		t.Errorf("%+v", st)
	}
	if got, want := fmt.Sprint(f.shapes[0].members), "[{0 0} {4 0}]"; got != want {
		t.Errorf("the first step ran %s, want %s", got, want)
	}
}

func TestClosedRefuses(t *testing.T) {
	f := newFake(10, 4)
	f.hold = make(chan struct{})
	s := start(t, f, Options{})
	stream := submit(t, s, Request{Prompt: []int64{1}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("the open stream ended with %v", err)
	}
	if _, err := s.Submit(context.Background(), Request{Prompt: []int64{1}}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed scheduler answered %v", err)
	}
	if err := s.Close(); err != nil || f.closed != 1 {
		t.Errorf("closed again: %v; the executor was closed %d times", err, f.closed)
	}
}
