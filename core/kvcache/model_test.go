package kvcache

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// world runs a cache beside pools whose places say which text they belong to: each holds the
// hash of everything up to it, of the salt, the root and the private family too. Whoever finds another hash at
// one of its places reads what isn't its own.
type world struct {
	t     testing.TB
	c     *Cache
	pools [][32]byte
	alive []*life
	named int // private families
}

// life is a sequence and what its text is.
type life struct {
	s       *Sequence
	tokens  []int64
	content Content
	family  int // 0: not private
	saved   [][32]byte
}

func newWorld(t testing.TB, g Geometry) *world {
	c, err := New(g)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, c: c, pools: make([][32]byte, g.Pages*g.PageSize)}
}

// text is what each place of a sequence should hold.
func (l *life) text() [][32]byte {
	h := sha256.Sum256(fmt.Append(nil, l.content.Salt, "|", l.content.Root, "|", l.family))
	var out [][32]byte
	for i, id := range l.tokens {
		row := fmt.Sprint("token ", id)
		for _, span := range l.content.Spans {
			if i >= span.From && i < span.To {
				row = fmt.Sprint("row ", i-span.From, span.Hash)
			}
		}
		h = sha256.Sum256(append(h[:], row...))
		out = append(out, h)
	}
	return out
}

func (w *world) open(content Content, tokens []int64) *life {
	l := &life{content: content, s: w.c.Open(content, tokens)}
	if content.Private {
		w.named++
		l.family = w.named
	}
	l.tokens = slices.Clone(tokens[:l.s.Len()])
	w.alive = append(w.alive, l)
	return l
}

// step writes tokens for some sequences, as a step does; fails: the run did not come about.
func (w *world) step(lives []*life, tokens [][]int64, fails bool) {
	var in []int
	for i, l := range lives {
		err := l.s.Reserve(len(tokens[i]))
		var full *FullError
		switch {
		case err == nil:
			in = append(in, i)
		case !errors.As(err, &full):
			w.t.Fatalf("Reserve(%d): %v", len(tokens[i]), err)
		case len(tokens[i]) <= l.s.Room():
			w.t.Fatalf("Reserve(%d): %v, but there is room for %d", len(tokens[i]), err, l.s.Room())
		}
	}
	from, to := map[int64]bool{0: true}, map[int64]bool{0: true}
	for _, c := range w.c.Copies() {
		if to[c.From] || to[c.To] || from[c.To] {
			w.t.Fatalf("copy %v depends on another, or on page 0", c)
		}
		from[c.From], to[c.To] = true, true
		copy(w.page(c.To), w.page(c.From))
	}
	for _, i := range in {
		l := lives[i]
		if fails {
			for p := range tokens[i] { // half of it was written
				w.pools[l.s.Slot(l.s.Len()+p)] = [32]byte{1}
			}
			continue
		}
		l.tokens = append(l.tokens, tokens[i]...)
		text := l.text()
		for p := l.s.Len(); p < len(l.tokens); p++ {
			w.pools[l.s.Slot(p)] = text[p]
		}
	}
	w.c.Copied()
	for _, i := range in {
		if fails {
			w.end(lives[i])
		} else {
			lives[i].s.Append(tokens[i]...)
		}
	}
}

func (w *world) page(p int64) [][32]byte {
	size := w.c.g.PageSize
	return w.pools[int(p)*size:][:size]
}

func (w *world) end(l *life) {
	l.s.Close()
	w.alive = slices.DeleteFunc(w.alive, func(o *life) bool { return o == l })
}

func (w *world) fork(l *life) *life {
	f := *l
	f.s, f.tokens = l.s.Fork(), slices.Clone(l.tokens)
	w.alive = append(w.alive, &f)
	return &f
}

func (w *world) swapOut(l *life) {
	for _, p := range l.s.Pages() {
		l.saved = append(l.saved, slices.Clone(w.page(p))...)
	}
	l.s.Release()
}

func (w *world) swapIn(l *life) bool {
	pages, err := l.s.Restore(l.tokens)
	if err != nil {
		return false
	}
	size := w.c.g.PageSize
	for i, p := range pages {
		if p != 0 {
			copy(w.page(p), l.saved[i*size:][:size])
		}
	}
	l.saved = nil
	return true
}

// check holds everything against what it must be.
func (w *world) check() {
	w.t.Helper()
	c, size := w.c, w.c.g.PageSize
	users := make([]int32, len(c.pages))
	for _, l := range w.alive {
		if l.s.away {
			continue
		}
		text := l.text()
		if l.s.Len() != len(text) {
			w.t.Fatalf("a sequence of %d tokens has %d in the cache", len(text), l.s.Len())
		}
		first := 0
		if c.g.Window > 0 {
			first = max(0, len(text)-c.g.Window+1)
		}
		for p := first; p < len(text); p++ {
			if w.pools[l.s.Slot(p)] != text[p] {
				w.t.Fatalf("place %d of %v (salt %q) holds another text", p, l.tokens, l.content.Salt)
			}
		}
		for i, p := range l.s.pages {
			if users[p]++; (p == 0) != (i < first/size) {
				w.t.Fatalf("page %d of a sequence of %d tokens is %d", i, len(text), p)
			}
		}
	}
	used, shared, cached := 0, 0, 0
	for p := 1; p < len(c.pages); p++ {
		pg := &c.pages[p]
		if pg.refs != users[p] || pg.pins != 0 {
			w.t.Fatalf("page %d counts %d users and has %d", p, pg.refs, users[p])
		}
		switch {
		case pg.refs > 1:
			shared++
			used++
		case pg.refs == 1:
			used++
		case pg.listed:
			cached++
		}
		if pg.listed && !slices.Contains(c.starting[pg.start], int32(p)) || pg.named && (c.full[pg.key] != int32(p) || !pg.listed) {
			w.t.Fatalf("page %d can't be found", p)
		}
	}
	listed := 0
	for _, with := range c.starting {
		for _, p := range with {
			if listed++; !c.pages[p].listed {
				w.t.Fatalf("page %d is found and should not be", p)
			}
		}
	}
	chain := 0
	for p := c.pages[0].next; p != 0; p = c.pages[p].next {
		if chain++; c.pages[p].refs != 0 || chain > cached {
			w.t.Fatalf("page %d is among the cached ones, %d of %d", p, chain, cached)
		}
	}
	want := Stats{Pages: c.g.Pages - 1, Used: used, Shared: shared, Cached: cached, Free: len(c.free),
		Capacity: (c.g.Pages - 1) * size, Room: (cached + len(c.free)) * size,
		Counts: c.stats.Counts}
	if got := c.Stats(); got != want || chain != cached || used+cached+len(c.free) != want.Pages {
		w.t.Fatalf("stats %+v, counted %+v with %d in the list", got, want, chain)
	}
	free := slices.Clone(c.free)
	slices.Sort(free)
	if len(slices.Compact(free)) != len(c.free) || slices.Contains(free, 0) {
		w.t.Fatalf("free pages %v", c.free)
	}
}

// play runs a story: bytes say what happens next.
func (w *world) play(story []byte) {
	next := func(n int) int {
		if len(story) == 0 || n <= 0 {
			return 0
		}
		b := story[0]
		story = story[1:]
		return int(b) % n
	}
	words := func(n int) []int64 {
		out := make([]int64, n)
		for i := range out {
			out[i] = int64(next(2))
		}
		return out
	}
	for len(story) > 0 {
		var here, away []*life
		for _, l := range w.alive {
			if l.s.away {
				away = append(away, l)
			} else {
				here = append(here, l)
			}
		}
		var one *life
		if len(here) > 0 {
			one = here[next(len(here))]
		}
		switch op := next(12); {
		case op < 3 || one == nil:
			content := Content{}
			switch next(8) {
			case 0:
				content.Salt = "other"
			case 1:
				content.Root[3] = 1
			case 2:
				from := next(6)
				content.Spans = []Span{{From: from, To: from + 1 + next(9), Hash: [32]byte{byte(1 + next(2))}}}
			case 3:
				content.Private = true
			}
			tokens := words(next(30))
			if l := w.open(content, tokens); l.s.Len() < len(tokens) {
				w.step([]*life{l}, [][]int64{tokens[l.s.Len():]}, false)
			}
		case op < 7:
			var tokens [][]int64
			for range here {
				tokens = append(tokens, words(next(4)))
			}
			w.step(here, tokens, false)
		case op == 7:
			w.step([]*life{one}, [][]int64{words(1 + next(7))}, true)
		case op == 8:
			w.fork(one)
		case op == 9:
			w.end(one)
		case op == 10:
			w.swapOut(one)
		case len(away) > 0:
			if l := away[next(len(away))]; next(4) == 0 {
				w.end(l)
			} else {
				w.swapIn(l)
			}
		}
		w.check()
	}
	for len(w.alive) > 0 {
		w.end(w.alive[0])
		w.check()
	}
	if st := w.c.Stats(); st.Used != 0 || st.Free+st.Cached != st.Pages {
		w.t.Fatalf("all is given back, yet %+v", st)
	}
}

var geometries = []Geometry{
	{Pages: 40, PageSize: 4}, {Pages: 9, PageSize: 4}, {Pages: 60, PageSize: 1}, {Pages: 14, PageSize: 3, Window: 5},
	{Pages: 30, PageSize: 2, Window: 1}, {Pages: 2, PageSize: 16}, {Pages: 20, PageSize: 4, Window: 8},
}

func TestStories(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 6
	}
	for i, g := range geometries {
		t.Run(fmt.Sprintf("%d pages of %d, window %d", g.Pages, g.PageSize, g.Window), func(t *testing.T) {
			for seed := range seeds {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				story := make([]byte, 600)
				for j := range story {
					story[j] = byte(r.Uint32())
				}
				newWorld(t, g).play(story)
			}
		})
	}
}

func FuzzStories(f *testing.F) {
	for i := range geometries {
		f.Add(uint8(i), []byte("\x00\x01\x00\x07\x1d open, write, fork, swap and close in turn \x08\x0a\x0b\x09"))
	}
	f.Fuzz(func(t *testing.T, which uint8, story []byte) {
		if len(story) > 2000 {
			return
		}
		newWorld(t, geometries[int(which)%len(geometries)]).play(story)
	})
}
