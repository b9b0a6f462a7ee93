package kvcache

import (
	"errors"
	"slices"
	"testing"
)

func count(from, n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(from + i)
	}
	return out
}

// write opens a sequence and writes what the cache did not have.
func (w *world) write(content Content, tokens []int64) *life {
	w.t.Helper()
	l := w.open(content, tokens)
	if err := l.s.Reserve(len(tokens) - l.s.Len()); err != nil {
		w.t.Fatal(err)
	}
	w.step([]*life{l}, [][]int64{tokens[l.s.Len():]}, false)
	w.check()
	return l
}

// TestFind asks, after one sequence was written, how much of another is there.
func TestFind(t *testing.T) {
	picture := func(hash byte) Content { return Content{Spans: []Span{{From: 2, To: 8, Hash: [32]byte{hash}}}} }
	for _, tt := range []struct {
		name          string
		first, second Content
		written       []int64
		asked         []int64
		window        int
		want          int
	}{
		{name: "the same", written: count(0, 10), asked: count(0, 10), want: 10},
		{name: "the same but the last", written: count(0, 10), asked: count(0, 9), want: 9},
		{name: "whole pages but the last", written: count(0, 8), asked: count(0, 7), want: 7},
		{name: "a longer one", written: count(0, 10), asked: count(0, 20), want: 10},
		{name: "parting inside a page", written: count(0, 10), asked: append(count(0, 6), 99, 98), want: 6},
		{name: "parting after a page", written: count(0, 10), asked: append(count(0, 4), 99), want: 4},
		{name: "parting at once", written: count(0, 10), asked: count(5, 10), want: 0},
		{name: "the same page elsewhere", written: count(0, 8), asked: append(count(4, 4), count(4, 4)...), want: 0},
		{name: "other salt", second: Content{Salt: "other"}, written: count(0, 10), asked: count(0, 10), want: 0},
		{name: "other root", second: Content{Root: [32]byte{1}}, written: count(0, 10), asked: count(0, 10), want: 0},
		{name: "same root", first: Content{Root: [32]byte{1}}, second: Content{Root: [32]byte{1}}, written: count(0, 10), asked: count(0, 10), want: 10},
		{name: "two pictures under one prompt", first: picture(1), second: picture(2), written: count(0, 10), asked: count(0, 10), want: 2},
		{name: "one picture", first: picture(1), second: picture(1), written: count(0, 10), asked: count(0, 10), want: 10},
		{name: "ids under a picture don't count", first: picture(1), second: picture(1), written: count(0, 10), asked: append(count(0, 2), 7, 7, 7, 7, 7, 7, 8, 9), want: 10},
		{name: "a picture is not its ids", first: picture(1), written: count(0, 10), asked: count(0, 10), want: 2},
		{name: "a private one finds nothing", second: Content{Private: true}, written: count(0, 10), asked: count(0, 10), want: 0},
		{name: "a private one leaves nothing", first: Content{Private: true}, written: count(0, 10), asked: count(0, 10), want: 0},
		{name: "behind a window", written: count(0, 30), asked: count(0, 40), window: 6, want: 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, running := range []bool{false, true} {
				w := newWorld(t, Geometry{Pages: 30, PageSize: 4, Window: tt.window})
				first := w.write(tt.first, tt.written)
				if !running {
					w.end(first)
				}
				second := w.open(tt.second, tt.asked)
				w.check()
				if got := second.s.Len(); got != tt.want {
					t.Errorf("running %v: %d tokens were there, want %d", running, got, tt.want)
				}
				if st := w.c.Stats(); int(st.Hit) != tt.want || int(st.LookedUp) != len(tt.written)+len(tt.asked) {
					t.Errorf("running %v: %+v", running, st)
				}
			}
		})
	}
}

// TestAgain: what was written since is found, and counted once.
func TestAgain(t *testing.T) {
	for _, window := range []int{0, 6} {
		w := newWorld(t, Geometry{Pages: 30, PageSize: 4, Window: window})
		first := w.write(Content{}, count(0, 6))
		second := w.open(Content{}, count(0, 20))
		w.step([]*life{first}, [][]int64{count(6, 8)}, false)
		second.s.Again(count(0, 20))
		second.tokens = count(0, second.s.Len())
		w.check()
		if second.s.Len() != 14 || w.c.Stats().Hit != 14 || w.c.Stats().LookedUp != 26 {
			t.Errorf("window %d: %d tokens, %+v", window, second.s.Len(), w.c.Stats())
		}
		if err := second.s.Reserve(6); err != nil {
			t.Fatal(err)
		}
		w.c.Copies()
		w.c.Copied()
		if second.s.Again(count(0, 20)); second.s.Len() != 14 || second.s.Width() != 5 {
			t.Errorf("window %d: with pages reserved, it began anew: %d tokens", window, second.s.Len())
		}
	}
}

// TestWindow holds no more pages than the window needs, and finds only where it can go on.
func TestWindow(t *testing.T) {
	g := Geometry{Pages: 8, PageSize: 4, Window: 9}
	w := newWorld(t, g)
	l := w.open(Content{}, nil)
	most := 0
	for i := range 200 {
		w.step([]*life{l}, [][]int64{{int64(i)}}, false)
		w.check()
		most = max(most, w.c.Stats().Used)
	}
	if want := g.PagesFor(200, 1); most != want {
		t.Errorf("held %d pages at most, PagesFor says %d", most, want)
	}
	w.end(l)
	// The 7 pages there are keep the last 28 tokens: the beginning is gone.
	if got := w.open(Content{}, count(0, 200)).s.Len(); got != 200 {
		t.Errorf("of the whole text %d tokens were found", got)
	}
	if got := w.open(Content{}, count(0, 40)).s.Len(); got != 0 {
		t.Errorf("of a beginning that was thrown away %d tokens were found", got)
	}
	w.check()
}

func TestEviction(t *testing.T) {
	w := newWorld(t, Geometry{Pages: 9, PageSize: 4})
	w.end(w.write(Content{}, count(0, 16)))   // 4 pages
	w.end(w.write(Content{}, count(100, 16))) // 4 pages
	// The first is used again, so that the other is the oldest; of that the end goes first.
	w.end(w.open(Content{}, count(0, 16)))
	w.end(w.write(Content{}, count(200, 8)))
	for _, tt := range []struct{ from, want int }{{0, 16}, {100, 8}, {200, 8}} {
		l := w.open(Content{}, count(tt.from, 16))
		if l.s.Len() != tt.want {
			t.Errorf("of the text from %d on %d tokens are left, want %d", tt.from, l.s.Len(), tt.want)
		}
		w.end(l)
	}
	if st := w.c.Stats(); st.Evictions != 2 {
		t.Errorf("%+v", st)
	}
}

func TestForks(t *testing.T) {
	w := newWorld(t, Geometry{Pages: 20, PageSize: 4})
	l := w.write(Content{}, count(0, 10))
	all := []*life{l, w.fork(l), w.fork(l)}
	if st := w.c.Stats(); st.Used != 3 || st.Shared != 3 {
		t.Errorf("three forks of three pages: %+v", st)
	}
	w.step(all, [][]int64{{1}, {2}, {3}}, false)
	w.check()
	// Two of them copied the last page, and the third had it for itself by then.
	if st := w.c.Stats(); st.Used != 5 || st.Shared != 2 || st.Copies != 2 {
		t.Errorf("after a token each: %+v", st)
	}
	if got := l.s.Held(); got != 1 {
		t.Errorf("a fork holds %d pages alone", got)
	}
}

func TestFull(t *testing.T) {
	w := newWorld(t, Geometry{Pages: 4, PageSize: 4})
	l := w.write(Content{}, count(0, 9))
	if got := l.s.Room(); got != 3 {
		t.Errorf("room for %d tokens, want 3", got)
	}
	var full *FullError
	if err := l.s.Reserve(4); !errors.As(err, &full) || full.Need != 1 || full.Available != 0 {
		t.Errorf("Reserve(4): %v", err)
	}
	f := w.fork(l)
	if err := f.s.Reserve(1); !errors.As(err, &full) || f.s.Room() != 0 {
		t.Errorf("a fork that needs a copy: %v, room for %d", err, f.s.Room())
	}
	w.end(l)
	if err := f.s.Reserve(3); err != nil {
		t.Errorf("alone again: %v", err)
	}
	w.check()
	w.end(f)

	// What is only kept for its content is overwritten where there is no room for a copy.
	g := w.open(Content{}, append(count(0, 9), 9)[:10])
	w.step([]*life{g}, [][]int64{{50, 51, 52}}, false)
	h := w.open(Content{}, append(count(0, 9), 50))
	if g.s.Len() != 12 || h.s.Len() != 10 {
		t.Errorf("%d and %d tokens", g.s.Len(), h.s.Len())
	}
	w.check()
}

func TestSwap(t *testing.T) {
	w := newWorld(t, Geometry{Pages: 12, PageSize: 4})
	l := w.write(Content{}, count(0, 18))
	f := w.fork(l)
	w.step([]*life{f}, [][]int64{{77}}, false)
	w.swapOut(f)
	w.check()
	if st := w.c.Stats(); st.Used != 5 || st.Shared != 0 {
		t.Errorf("swapped out: %+v", st)
	}
	pages, err := f.s.Restore(f.tokens)
	if err != nil {
		t.Fatal(err)
	}
	// Four full pages are there still; only the last has to be brought back.
	if i := slices.IndexFunc(pages, func(p int64) bool { return p != 0 }); i != 4 || len(pages) != 5 {
		t.Errorf("restored into %v", pages)
	}
	copy(w.page(pages[4]), f.saved[16:])
	w.check()
	if st := w.c.Stats(); st.Shared != 4 {
		t.Errorf("swapped in: %+v", st)
	}
}

// TestRestoredAreFound: what was brought back is shared again, once a step has run over it.
func TestRestoredAreFound(t *testing.T) {
	w := newWorld(t, Geometry{Pages: 7, PageSize: 4})
	l := w.write(Content{}, count(0, 17))
	w.swapOut(l)
	w.end(w.write(Content{}, count(100, 24))) // throws all of it away
	if !w.swapIn(l) {
		t.Fatal("there was no room")
	}
	w.check()
	early := w.open(Content{}, count(0, 17))
	if early.s.Len() != 0 {
		t.Errorf("%d tokens were found before any step", early.s.Len())
	}
	w.end(early)
	w.step([]*life{l}, [][]int64{{17}}, false)
	if got := w.open(Content{}, count(0, 18)).s.Len(); got != 18 {
		t.Errorf("%d tokens were found, want 18", got)
	}
	w.check()
}

func TestGeometry(t *testing.T) {
	for _, tt := range []struct {
		g             Geometry
		tokens, chunk int
		want          int
	}{
		{Geometry{Pages: 9, PageSize: 4}, 0, 1, 0},
		{Geometry{Pages: 9, PageSize: 4}, 1, 1, 1},
		{Geometry{Pages: 9, PageSize: 4}, 8, 1, 2},
		{Geometry{Pages: 9, PageSize: 4}, 9, 512, 3},
		{Geometry{Pages: 9, PageSize: 4, Window: 8}, 4, 1, 1},
		{Geometry{Pages: 9, PageSize: 4, Window: 8}, 400, 1, 3},
		{Geometry{Pages: 9, PageSize: 4, Window: 8}, 400, 9, 5},
	} {
		if got := tt.g.PagesFor(tt.tokens, tt.chunk); got != tt.want {
			t.Errorf("%+v: PagesFor(%d, %d) = %d, want %d", tt.g, tt.tokens, tt.chunk, got, tt.want)
		}
	}
	if got := (Geometry{Pages: 9, PageSize: 4}).Capacity(); got != 32 {
		t.Errorf("capacity %d", got)
	}
	for _, g := range []Geometry{{}, {Pages: 1, PageSize: 4}, {Pages: 2}, {Pages: 2, PageSize: 1, Window: -1}, {Pages: 2, PageSize: 1, PageBytes: -1}} {
		if _, err := New(g); err == nil {
			t.Errorf("%+v was accepted", g)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	c, err := New(Geometry{Pages: 1 << 12, PageSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var s *Sequence
	for i := 0; b.Loop(); i++ {
		if i%4096 == 0 {
			if s != nil {
				s.Close()
			}
			s = c.Open(Content{}, nil)
		}
		if err := s.Reserve(1); err != nil {
			b.Fatal(err)
		}
		s.Append(int64(i))
	}
}

func BenchmarkOpen4096(b *testing.B) {
	c, err := New(Geometry{Pages: 1 << 12, PageSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	tokens := count(0, 4096)
	s := c.Open(Content{}, tokens)
	if err := s.Reserve(len(tokens)); err != nil {
		b.Fatal(err)
	}
	s.Append(tokens...)
	s.Close()
	for b.Loop() {
		if s = c.Open(Content{}, tokens); s.Len() != 4096 {
			b.Fatalf("%d tokens found", s.Len())
		}
		s.Close()
	}
}
