package schedule

import (
	"testing"
	"time"
)

// resting is a fake whose device may be wanted by others, and whose steps wait for hold.
func resting(pages int) *fake {
	f := newFake(pages, 4)
	f.wanted, f.hold = make(chan struct{}, 1), make(chan struct{})
	return f
}

// until waits for a scheduler's state.
func until(t *testing.T, s *Scheduler, what string, holds func(Stats) bool) {
	t.Helper()
	for range 2000 {
		if holds(s.Stats()) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s never came: %+v", what, s.Stats())
}

// An idle scheduler gives its device up at once, and has it again with the next request. What the pools had is lost.
func TestRestsWhileIdle(t *testing.T) {
	f := resting(40)
	close(f.hold)
	s := start(t, f, Options{})
	r := Request{Prompt: prompt(1, 20), MaxTokens: 5}
	expect(t, f, submit(t, s, r), r)
	f.want()
	until(t, s, "rest", func(st Stats) bool { return st.Rests == 1 })
	f.want() // nothing is held: nothing is given up
	for len(f.wanted) > 0 {
		time.Sleep(time.Millisecond)
	}
	stream := submit(t, s, r)
	expect(t, f, stream, r)
	if n := stream.Cached(); n != 0 {
		t.Errorf("%d tokens are said to come from pools that were given up", n)
	}
	if st := settled(t, s, f); st.Rests != 1 || f.opened != 2 || st.Cache.LookedUp == 0 {
		t.Errorf("opened %d times: %+v", f.opened, st)
	}
}

// What runs is finished before the device is given up, a preempted sequence too; what comes meanwhile waits, and
// is the first to be taken in when the pools are there again, however much the device is wanted.
func TestRestsAfterWhatRuns(t *testing.T) {
	f := resting(8)
	s := start(t, f, Options{MaxSequences: 2, SwapBytes: 1 << 30})
	running := []Request{{ID: "a", Prompt: prompt(1, 9), MaxTokens: 14}, {ID: "b", Prompt: prompt(2, 9), MaxTokens: 14}}
	streams := []*Stream{submit(t, s, running[0]), submit(t, s, running[1])}
	f.hold <- struct{}{}
	until(t, s, "the start of both", func(st Stats) bool { return st.Running == 2 })
	f.want()
	f.hold <- struct{}{}
	late := Request{ID: "late", Prompt: prompt(3, 9), MaxTokens: 3, Priority: 9}
	streams = append(streams, submit(t, s, late))
	f.mu.Lock()
	f.stepErr = func(int, *Step) error { f.want(); return nil } // from now on, always
	f.mu.Unlock()
	close(f.hold)
	for i, r := range append(running, late) {
		expect(t, f, streams[i], r)
	}
	st := settled(t, s, f)
	if st.Rests == 0 || f.opened < 2 || st.PreemptedSwap+st.PreemptedAnew == 0 {
		t.Errorf("opened %d times: %+v", f.opened, st)
	}
	begun := map[string]int{}
	for i, x := range f.shapes {
		for _, m := range x.members {
			if _, ok := begun[m.Request]; !ok {
				begun[m.Request] = i
			}
			if m.Request != "late" && i > begun["late"] && begun["late"] > 0 {
				t.Errorf("step %d is of %s, and late began in step %d", i, m.Request, begun["late"])
			}
		}
	}
}
