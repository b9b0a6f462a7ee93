package schedule

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// stepwise runs a fake that waits before each step, in a bubble of its own.
func stepwise(t *testing.T, f *fake, o Options, test func(t *testing.T, s *Scheduler, step func())) {
	synctest.Test(t, func(t *testing.T) {
		f.hold = make(chan struct{})
		s := gated(t, f, o)
		test(t, s, func() {
			synctest.Wait()
			f.hold <- struct{}{}
			synctest.Wait()
		})
		close(f.hold)
		settled(t, s, f)
	})
}

// begun lists requests in the order in which they were first in a step.
func (f *fake) begun() []string {
	var out []string
	for _, sh := range f.shapes {
		for _, m := range sh.members {
			if !slices.Contains(out, m.Request) {
				out = append(out, m.Request)
			}
		}
	}
	return out
}

// TestOrder: higher priority first, then the party with the fewest running, then as they came.
func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name     string
		requests []Request
		want     []string
	}{
		{"as they came", []Request{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "d"}}, []string{"a", "b", "c", "d"}},
		{"by priority", []Request{{ID: "a"}, {ID: "b", Priority: -1}, {ID: "c"}, {ID: "d", Priority: 2}}, []string{"d", "a", "c", "b"}},
		{"by party", []Request{{ID: "a", Salt: "x"}, {ID: "b", Salt: "x"}, {ID: "c", Salt: "x"}, {ID: "d", Salt: "y"}, {ID: "e", Salt: "y"}},
			[]string{"a", "d", "b", "e", "c"}},
		{"by priority, then party", []Request{{ID: "a", Salt: "x"}, {ID: "b", Salt: "x"}, {ID: "c", Salt: "y"}, {ID: "d", Salt: "x", Priority: 1}},
			[]string{"d", "c", "a", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stepwise(t, newFake(40, 4), Options{MaxSequences: 2}, func(t *testing.T, s *Scheduler, step func()) {
				f := s.exec.(*fake)
				first := together(t, s, f, Request{ID: "first", Salt: "first", Priority: 9, Prompt: prompt(1, 3), MaxTokens: 50},
					Request{ID: "second", Salt: "second", Priority: 9, Prompt: prompt(1, 3), MaxTokens: 50})
				for _, r := range tt.requests {
					r.Prompt, r.MaxTokens = prompt(2, 3), 3
					submit(t, s, r)
				}
				step()
				first[0].Close()
				first[1].Close()
				for range 4 * len(tt.requests) {
					step()
					if st := s.Stats(); st.Running+st.Waiting == 0 {
						break
					}
				}
				if got := f.begun(); !slices.Equal(got[2:], tt.want) {
					t.Errorf("began as %v, want %v", got[2:], tt.want)
				}
			})
		})
	}
}

// TestUrgent: what has a higher priority takes the place of what has a lower one.
func TestUrgent(t *testing.T) {
	stepwise(t, newFake(40, 4), Options{MaxSequences: 2, Preemption: PreemptSwap, SwapBytes: 1 << 40}, func(t *testing.T, s *Scheduler, step func()) {
		f := s.exec.(*fake)
		low := Request{ID: "low", Priority: -1, Prompt: prompt(1, 3), MaxTokens: 20}
		middle := Request{ID: "middle", Prompt: prompt(1, 3), MaxTokens: 20}
		together(t, s, f, low, middle)
		step()
		submit(t, s, Request{ID: "high", Priority: 1, Prompt: prompt(2, 3), MaxTokens: 2})
		step()
		step()
		var got []string
		for _, m := range f.shapes[len(f.shapes)-1].members {
			got = append(got, m.Request)
		}
		if want := []string{"high", "middle"}; !slices.Equal(got, want) {
			t.Errorf("a step ran %v, want %v", got, want)
		}
		if st := s.Stats(); st.PreemptedSwap != 1 || st.Swapped != 1 || st.SwapBytes != 1<<20 {
			t.Errorf("%+v", st)
		}
	})
}

// TestReturning: what gave its place up is the first to have one again, before parties that have none.
func TestReturning(t *testing.T) {
	stepwise(t, newFake(40, 4), Options{MaxSequences: 2}, func(t *testing.T, s *Scheduler, step func()) {
		f := s.exec.(*fake)
		r := Request{ID: "stays", Salt: "x", Prompt: prompt(1, 3), MaxTokens: 20}
		returns := r
		returns.ID = "returns"
		together(t, s, f, r, returns)
		step()
		submit(t, s, Request{ID: "other", Salt: "y", Prompt: prompt(2, 3), MaxTokens: 2})
		submit(t, s, Request{ID: "urgent", Priority: 1, Prompt: prompt(3, 3), MaxTokens: 2})
		for range 5 {
			step()
		}
		if got, want := f.begun(), []string{"stays", "returns", "urgent"}; !slices.Equal(got, want) || len(f.shapes[len(f.shapes)-1].members) != 2 {
			t.Errorf("%v began, the last step ran %v", got, f.shapes[len(f.shapes)-1].members)
		}
	})
}

// TestMixed: prompts are cut to what a step has room for beside those that decode, and a long one
// leaves room for the next.
func TestMixed(t *testing.T) {
	stepwise(t, newFake(100, 4), Options{StepTokens: 16, MaxSequences: 8}, func(t *testing.T, s *Scheduler, step func()) {
		f := s.exec.(*fake)
		together(t, s, f, Request{ID: "talks", Prompt: prompt(1, 3), MaxTokens: 30})
		step()
		submit(t, s, Request{ID: "long", Prompt: prompt(2, 100), MaxTokens: 2})
		submit(t, s, Request{ID: "short", Prompt: prompt(3, 5), MaxTokens: 2})
		step()
		step()
		step()
		for i, want := range []string{
			"3 tokens: talks",
			"1 tokens: talks", // the others came while this step waited
			"14 tokens: talks long short",
			"16 tokens: talks long short",
		} {
			sh := f.shapes[i]
			got := fmt.Sprint(sh.tokens, " tokens:")
			for _, m := range sh.members {
				got += " " + m.Request
			}
			if got != want {
				t.Errorf("step %d ran %s, want %s", i, got, want)
			}
		}
	})
}

// TestAdmission: a sequence comes in only where its prompt will have room beside those of others.
func TestAdmission(t *testing.T) {
	stepwise(t, newFake(21, 4), Options{StepTokens: 8, MaxSequences: 8}, func(t *testing.T, s *Scheduler, step func()) {
		var three []Request
		for i := range 3 {
			three = append(three, Request{ID: fmt.Sprint(i), Prompt: prompt(i, 36), MaxTokens: 3})
		}
		together(t, s, s.exec.(*fake), three...)
		step()
		// Nine pages each, twenty in all: the third would take the room that the first two will need.
		if st := s.Stats(); st.Running != 2 || st.Waiting != 1 {
			t.Errorf("%+v", st)
		}
		for range 40 {
			if step(); s.Stats().Finished == 3 {
				break
			}
		}
		if st := s.Stats(); st.PreemptedAnew != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestCheaper: swap or recompute, by what was measured.
func TestCheaper(t *testing.T) {
	for _, tt := range []struct {
		name          string
		r             rates
		deterministic bool
		o             Options
		want          bool
	}{
		{"nothing was measured", rates{}, false, Options{SwapBytes: 1 << 40}, true},
		{"computing is slow", rates{prefill: 10, swap: 1e9}, false, Options{SwapBytes: 1 << 40}, true},
		{"computing is fast", rates{prefill: 1e6, swap: 1e9}, false, Options{SwapBytes: 1 << 40}, false},
		{"moving is fast", rates{prefill: 1e6, swap: 1e13}, false, Options{SwapBytes: 1 << 40}, true},
		{"one by one is slow", rates{prefill: 1e6, swap: 1e9, step: 0.1}, true, Options{SwapBytes: 1 << 40}, true},
		{"no host memory", rates{prefill: 10, swap: 1e9}, false, Options{}, false},
		{"swap, forced", rates{prefill: 1e6, swap: 1e9}, false, Options{SwapBytes: 1 << 40, Preemption: PreemptSwap}, true},
		{"recompute, forced", rates{prefill: 10, swap: 1e9}, false, Options{SwapBytes: 1 << 40, Preemption: PreemptRecompute}, false},
	} {
		f := newFake(40, 4)
		tt.o.Vocabulary = f.vocab
		o, err := tt.o.complete()
		if err != nil {
			t.Fatal(err)
		}
		s := &Scheduler{o: o, exec: f, rates: tt.r}
		close(f.gate)
		s.ctx = t.Context()
		s.open()
		q := newSequence(&request{Request: Request{Prompt: prompt(1, 30), N: 1, Sampling: Sampling{Deterministic: tt.deterministic}}}, &o)
		q.tokens = append(q.tokens, 1, 2, 3, 4, 5, 6)
		if in, err := s.enough(q); !in || err != nil {
			t.Fatal(in, err)
		}
		if err := q.pages.Reserve(35); err != nil {
			t.Fatal(err)
		}
		q.pages.Append(q.tokens[:35]...)
		if got := s.swaps(q); got != tt.want {
			t.Errorf("%s: swap %v", tt.name, got)
		}
	}
}

// TestSwapFails: what can't be saved or brought back is computed again; a text is the same.
func TestSwapFails(t *testing.T) {
	for _, out := range []bool{true, false} {
		t.Run(fmt.Sprint("out ", out), func(t *testing.T) {
			f := newFake(12, 4)
			f.swapErr = func(o bool) error {
				if o == out {
					return errors.New("no memory")
				}
				return nil
			}
			s := gated(t, f, Options{Preemption: PreemptSwap, SwapBytes: 1 << 40})
			a, b := Request{ID: "a", Prompt: prompt(1, 8), MaxTokens: 30}, Request{ID: "b", Prompt: prompt(2, 8), MaxTokens: 30}
			streams := together(t, s, f, a, b)
			expect(t, f, streams[0], a)
			expect(t, f, streams[1], b)
			if st := settled(t, s, f); st.SwapsFailed == 0 || st.PreemptedAnew == 0 || f.opened != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}
