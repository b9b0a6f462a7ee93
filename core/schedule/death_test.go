package schedule

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// TestPoison: a request that kills whatever runs it is refused at the fourth death, and
// takes nobody with it.
func TestPoison(t *testing.T) {
	f := newFake(60, 4)
	f.stepErr = func(n int, s *Step) error {
		if slices.ContainsFunc(s.Sequences, func(m Member) bool { return m.Request == "poison" }) {
			return lost(fmt.Sprint("death in step ", n))
		}
		return nil
	}
	s := gated(t, f, Options{})
	var requests []Request
	for i := range 5 {
		requests = append(requests, Request{ID: fmt.Sprint(i), Prompt: prompt(i, 10), MaxTokens: 12})
	}
	streams := together(t, s, f, append(requests, Request{ID: "poison", Prompt: prompt(7, 10), MaxTokens: 12, N: 2})...)
	poison := streams[5]
	_, _, err := read(poison, 2)
	var poisoned *PoisonedError
	if !errors.As(err, &poisoned) || len(poisoned.Deaths) != 4 || poisoned.Stderr != "last words" || poisoned.Deaths[0].Device != "fake:0" {
		t.Errorf("the poison ended with %v", err)
	}
	if d := poison.Decision(); len(d.Replays) != 4 {
		t.Errorf("its record: %+v", d)
	}
	for i, stream := range streams[:5] {
		expect(t, f, stream, requests[i])
		if d := stream.Decision(); len(d.Replays) != 2 {
			t.Errorf("%d lived through %d deaths", i, len(d.Replays))
		}
	}
	if st := settled(t, s, f); st.Losses != 4 || st.Failed != 1 || st.Finished != 5 {
		t.Errorf("%+v", st)
	}
}

// TestAlone: what was in flight at two deaths runs alone until it has shown that it does no harm; a death
// after that is no reason to refuse it, many are.
func TestAlone(t *testing.T) {
	f := newFake(200, 4)
	die := []int{3, 6, 60}
	f.stepErr = func(n int, s *Step) error {
		if len(die) > 0 && n >= die[0] {
			die = die[1:]
			return lost("killed")
		}
		return nil
	}
	s := gated(t, f, Options{})
	requests := []Request{{ID: "a", Prompt: prompt(1, 5), MaxTokens: 60}, {ID: "b", Prompt: prompt(2, 5), MaxTokens: 60, N: 2}}
	streams := together(t, s, f, requests...)
	for i, r := range requests {
		expect(t, f, streams[i], r)
		if d := streams[i].Decision(); len(d.Replays) != 3 {
			t.Errorf("%s: %+v", r.ID, d.Replays)
		}
	}
	// Of three sequences, each has drawn provenAfter tokens alone after the second death and after the third.
	alone, all, rejoined := 0, 0, 0
	for _, sh := range f.shapes {
		switch {
		case sh.alone && sh.sequences == 1:
			alone++
		case sh.alone:
			t.Errorf("%v had a step alone", sh.members)
		case sh.sequences == 3:
			all++
			rejoined = max(rejoined, alone)
		}
	}
	if rejoined != 2*3*provenAfter || all < 20 {
		t.Errorf("%d steps were alone before all were together again, %d were together", rejoined, all)
	}
	settled(t, s, f)

	f = newFake(200, 4)
	f.stepErr = func(n int, s *Step) error {
		if n%15 == 0 {
			return lost("killed")
		}
		return nil
	}
	s = start(t, f, Options{})
	_, _, err := read(submit(t, s, Request{Prompt: prompt(1, 5), MaxTokens: 500}), 1)
	var poisoned *PoisonedError
	if !errors.As(err, &poisoned) || len(poisoned.Deaths) != maxDeaths {
		t.Errorf("dying for ever: %v", err)
	}
	settled(t, s, f)
}

// TestAloneAtOneDeath: what was killed by somebody else while it ran alone is answered.
func TestAloneAtOneDeath(t *testing.T) {
	f := newFake(200, 4)
	die := []int{3, 6, 9, 60, 63}
	f.stepErr = func(n int, s *Step) error {
		if len(die) > 0 && n >= die[0] {
			die = die[1:]
			return lost("killed")
		}
		return nil
	}
	s := start(t, f, Options{})
	r := Request{ID: "a", Prompt: prompt(1, 5), MaxTokens: 90}
	stream := submit(t, s, r)
	expect(t, f, stream, r)
	if d := stream.Decision(); len(d.Replays) != 5 || len(die) > 0 {
		t.Errorf("%d deaths, %d to come", len(d.Replays), len(die))
	}
	settled(t, s, f)
}

// TestNeverResampled: each token is given out once, whatever dies in between.
func TestNeverResampled(t *testing.T) {
	f := newFake(100, 4)
	f.stepErr = func(n int, s *Step) error {
		if n%9 == 0 && n < 20 {
			return lost("killed")
		}
		return nil
	}
	s := start(t, f, Options{StepTokens: 8, MaxSequences: 4})
	r := Request{ID: "r", Prompt: prompt(1, 20), MaxTokens: 25, N: 3, Sampling: Sampling{Temperature: 1.5, Seed: 11}}
	stream := submit(t, s, r)
	expect(t, f, stream, r)
	if st := settled(t, s, f); st.Losses != 2 || st.Sampled != 75 {
		t.Errorf("%+v", st)
	}
}

// TestIdle: nobody counts a death that happened while nobody was in flight; a device that is never there is one, though.
func TestIdle(t *testing.T) {
	for _, tt := range []struct{ times, deaths int }{{3, 0}, {8, 0}, {9, 1}, {1000, 4}} {
		f := newFake(100, 4)
		f.stepErr = func(n int, s *Step) error {
			if n <= tt.times {
				return &LostError{Device: "fake:0", Platform: "fake", Reason: "it was gone", Idle: true}
			}
			return nil
		}
		s := start(t, f, Options{})
		r := Request{ID: "r", Prompt: prompt(1, 20), MaxTokens: 5}
		stream := submit(t, s, r)
		if tt.deaths < 4 {
			expect(t, f, stream, r)
		} else if _, _, err := read(stream, 1); !errors.As(err, new(*PoisonedError)) {
			t.Errorf("%d times: %v", tt.times, err)
		}
		if got := len(stream.Decision().Replays); got != tt.deaths {
			t.Errorf("%d times: %d deaths were counted, want %d", tt.times, got, tt.deaths)
		}
		settled(t, s, f)
	}
}

// TestIdleBetween: steps between such losses show that the device works.
func TestIdleBetween(t *testing.T) {
	f := newFake(100, 4)
	f.stepErr = func(n int, s *Step) error {
		if n%2 == 0 {
			return &LostError{Device: "fake:0", Platform: "fake", Reason: "it was gone", Idle: true}
		}
		return nil
	}
	s := start(t, f, Options{})
	r := Request{ID: "r", Prompt: prompt(1, 20), MaxTokens: 30}
	stream := submit(t, s, r)
	expect(t, f, stream, r)
	if got := stream.Decision().Replays; len(got) != 0 {
		t.Errorf("%d deaths were counted", len(got))
	}
	settled(t, s, f)
}

// TestLostInSwap: a device that dies while pages are moved is like one that dies in a step.
func TestLostInSwap(t *testing.T) {
	for _, out := range []bool{true, false} {
		f := newFake(12, 4)
		dead := false
		f.swapErr = func(o bool) error {
			if o == out && !dead {
				dead = true
				return lost("killed while it moved pages")
			}
			return nil
		}
		s := gated(t, f, Options{Preemption: PreemptSwap, SwapBytes: 1 << 40})
		a, b := Request{ID: "a", Prompt: prompt(1, 8), MaxTokens: 30}, Request{ID: "b", Prompt: prompt(2, 8), MaxTokens: 30}
		streams := together(t, s, f, a, b)
		first, second := streams[0], streams[1]
		expect(t, f, first, a)
		expect(t, f, second, b)
		if len(second.Decision().Replays) != 1 || len(first.Decision().Replays) != 0 {
			t.Errorf("out %v: %+v, %+v", out, first.Decision(), second.Decision())
		}
		if st := settled(t, s, f); st.Losses != 1 || f.opened != 2 {
			t.Errorf("out %v: %+v", out, st)
		}
	}
}

// TestCatchingUp: what a deterministic request loses with its device it gets back in few rounds, so that
// it gets on though devices die before as many are over as it has tokens.
func TestCatchingUp(t *testing.T) {
	f := newFake(200, 4)
	rounds, done := 0, 0
	f.stepErr = func(n int, s *Step) error {
		if s.Sequences[0].Request == "exact" {
			if s.Lengths[0] == 38 {
				done = rounds
			}
			return nil
		}
		if rounds++; rounds%12 == 0 && rounds < 85 {
			return lost("killed")
		}
		return nil
	}
	s := gated(t, f, Options{})
	// The other proves itself between the deaths.
	other := Request{ID: "other", Prompt: prompt(1, 5), MaxTokens: 100}
	r := Request{ID: "exact", Prompt: prompt(2, 9), MaxTokens: 30, Sampling: Sampling{Deterministic: true, Temperature: 1, Seed: 4}}
	streams := together(t, s, f, other, r)
	expect(t, f, streams[0], other)
	expect(t, f, streams[1], r)
	if n := len(streams[0].Decision().Replays); n != 7 || done == 0 || done > 48 {
		t.Errorf("after %d deaths and %d rounds its last token was computed", n, done)
	}
	settled(t, s, f)
}

// TestDeterministic: the steps of a deterministic request have the same shapes alone, among others,
// under preemption and after a death.
func TestDeterministic(t *testing.T) {
	r := Request{ID: "exact", Prompt: prompt(1, 21), MaxTokens: 14, Sampling: Sampling{Deterministic: true, Temperature: 1, Seed: 4}}
	// shapes are its steps by the position they begin at; a step that is done again has to be the same again.
	shapes := func(f *fake) map[int64]int {
		out := map[int64]int{}
		for _, sh := range f.shapes {
			if !slices.ContainsFunc(sh.members, func(m Member) bool { return m.Request == "exact" }) {
				continue
			}
			if n, there := out[sh.first]; sh.sequences != 1 || there && n != sh.tokens {
				t.Errorf("a step of %v with %d tokens from %d on; before it had %d", sh.members, sh.tokens, sh.first, n)
			}
			out[sh.first] = sh.tokens
		}
		return out
	}
	f := newFake(100, 4)
	s := start(t, f, Options{StepTokens: 8})
	expect(t, f, submit(t, s, r), r)
	want := shapes(f)
	settled(t, s, f)

	for _, preemption := range []Preemption{PreemptSwap, PreemptRecompute} {
		f := newFake(15, 4)
		f.stepErr = func(n int, _ *Step) error {
			if n == 40 {
				return lost("killed")
			}
			return nil
		}
		s := gated(t, f, Options{StepTokens: 8, Preemption: preemption, SwapBytes: 1 << 40})
		var all []Request
		for i := range 4 {
			all = append(all, Request{ID: fmt.Sprint(i), Prompt: prompt(1, 20), MaxTokens: 20, N: 1 + i%2, Sampling: Sampling{Temperature: 1}})
		}
		all = append(all, r)
		for i, stream := range together(t, s, f, all...) {
			expect(t, f, stream, all[i])
		}
		got := shapes(f)
		if len(got) != len(want) {
			t.Errorf("%s: steps %v, want %v", preemption, got, want)
		}
		for at, n := range want {
			if got[at] != n {
				t.Errorf("%s: from %d on %d tokens, want %d", preemption, at, got[at], n)
			}
		}
		if st := settled(t, s, f); st.PreemptedSwap+st.PreemptedAnew == 0 || st.Losses != 1 {
			t.Errorf("%s: %+v", preemption, st)
		}
	}
}
