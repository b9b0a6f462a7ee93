package kvcache

import (
	"fmt"
	"slices"
)

// Sequence is the page table of one sequence of tokens.
type Sequence struct {
	c       *Cache
	content Content
	length  int     // tokens in the cache
	pages   []int32 // of the places, in order; 0: given back
	keys    []key   // keys[i]: of what comes before page i; none if private
	live    int     // first page that is not given back
	listed  int     // pages before this one are known to the cache
	away    bool    // its pages were released, to be restored
}

// Open begins a sequence with as many of the tokens as the cache holds already.
// Whoever wants the logits of the last token of a prompt leaves it out.
func (c *Cache) Open(content Content, tokens []int64) *Sequence {
	s := &Sequence{c: c, content: content}
	c.stats.LookedUp += uint64(len(tokens))
	if content.Private {
		return s
	}
	s.keys = append(make([]key, 0, len(tokens)/c.g.PageSize+2), content.root())
	s.find(tokens)
	c.stats.Hit += uint64(s.length)
	return s
}

// Again looks for more of the tokens that Open was asked for, if nothing was
// reserved since: others may have written them meanwhile.
func (s *Sequence) Again(tokens []int64) {
	if s.content.Private || len(s.pages) > ceil(s.length, s.c.g.PageSize) {
		return
	}
	had := s.length
	s.release()
	s.pages, s.keys, s.length, s.live, s.listed = s.pages[:0], s.keys[:1], 0, 0, 0
	s.find(tokens)
	s.c.stats.Hit += uint64(s.length - had)
}

// find shares the longest beginning of tokens from which the sequence can go on:
// all pages of it, or with a window those that the next token looks back on.
func (s *Sequence) find(tokens []int64) {
	c, size := s.c, s.c.g.PageSize
	var found []int32 // 0: not there
	best, run := 0, 0 // best: full pages to begin with; run: pages found without a gap
	rows := make([]row, 0, size)
	for n := 0; (n+1)*size <= len(tokens); n++ {
		rows = rows[:0]
		for i := n * size; i < (n+1)*size; i++ {
			rows = append(rows, s.content.row(i, tokens[i]))
		}
		var k key
		k, c.buf = s.keys[n].next(rows, c.buf)
		p, there := c.full[k]
		if !there && c.g.Window == 0 {
			break
		}
		s.keys = append(s.keys, k)
		found = append(found, p)
		if run++; !there {
			run = 0
		}
		if after := n + 1; after-c.g.firstLive(after*size) <= run {
			best = after
		}
	}
	s.keys = s.keys[:best+1]
	s.live = c.g.firstLive(best * size)
	s.pages = append(s.pages, found[:best]...)
	for i, p := range s.pages {
		if i < s.live {
			s.pages[i] = 0
		} else {
			c.hold(p)
		}
	}
	s.length, s.listed = best*size, best
	s.findPartial(tokens)
	s.trim()
}

// findPartial shares the page whose beginning has most in common with what follows.
func (s *Sequence) findPartial(tokens []int64) {
	rest := tokens[s.length:]
	if len(rest) == 0 {
		return
	}
	from, common := int32(0), 0
	for _, p := range s.c.starting[start{s.keys[s.listed], s.content.row(s.length, rest[0])}] {
		rows, n := s.c.pages[p].rows, 0
		for n < len(rows) && n < len(rest) && rows[n] == s.content.row(s.length+n, rest[n]) {
			n++
		}
		if n > common {
			from, common = p, n
		}
	}
	if from != 0 {
		s.c.hold(from)
		s.pages = append(s.pages, from)
		s.length += common
	}
}

// Len is the number of tokens in the cache.
func (s *Sequence) Len() int { return s.length }

// Reserve makes room for n more tokens: new pages where they are needed, and a copy of the
// last page if others look at it. It fails with a *FullError.
func (s *Sequence) Reserve(n int) error {
	c, size := s.c, s.c.g.PageSize
	at := s.length / size
	need, have := max(0, ceil(s.length+n, size)-len(s.pages)), c.Available()
	switch kept := n > 0 && s.mustKeepLast(); {
	case kept && need < have:
		s.pages[at] = c.copyOf(s.pages[at], s.length%size)
	case need > have, kept && c.pages[s.pages[at]].users() > 1:
		if kept {
			need++
		}
		return &FullError{Need: need, Available: have}
	case kept:
		// Nobody but the cache loses by it.
		c.cut(s.pages[at], s.length%size)
	}
	for range need {
		s.pages = append(s.pages, c.take())
	}
	return nil
}

// mustKeepLast reports whether the last page has more in it than this
// sequence's tokens, or is held by others, so that it can't be written to as it is.
func (s *Sequence) mustKeepLast() bool {
	r := s.length % s.c.g.PageSize
	if r == 0 {
		return false
	}
	last := &s.c.pages[s.pages[s.length/s.c.g.PageSize]]
	return last.users() > 1 || last.filled != r
}

// Room is the number of tokens that Reserve can make room for at this moment.
func (s *Sequence) Room() int {
	pages := s.c.Available()
	if s.mustKeepLast() && s.c.pages[s.pages[s.length/s.c.g.PageSize]].users() > 1 {
		pages-- // for the copy
	}
	if pages < 0 {
		return 0
	}
	return (len(s.pages)+pages)*s.c.g.PageSize - s.length
}

// cut forgets what a page holds beyond its first rows.
func (c *Cache) cut(p int32, rows int) {
	c.unlist(p)
	pg := &c.pages[p]
	pg.filled, pg.rows = rows, pg.rows[:min(rows, len(pg.rows))]
}

// copyOf gives a page out that will hold the first rows of another, on which the
// caller gives up its hold.
func (c *Cache) copyOf(from int32, rows int) int32 {
	to := c.take()
	src, dst := &c.pages[from], &c.pages[to]
	dst.rows = append(dst.rows, src.rows[:min(rows, len(src.rows))]...)
	dst.filled = rows
	c.copies = append(c.copies, PageCopy{From: int64(from), To: int64(to)})
	src.pins++
	c.pinned = append(c.pinned, from)
	c.stats.Copies++
	return to
}

// Append says that tokens have been written into the places reserved, and lets
// others share them.
func (s *Sequence) Append(tokens ...int64) {
	size := s.c.g.PageSize
	for _, id := range tokens {
		at := s.length / size
		if at >= len(s.pages) {
			panic(fmt.Sprintf("kvcache: token %d has no place; Reserve was not called", s.length))
		}
		pg := &s.c.pages[s.pages[at]]
		if !s.content.Private {
			pg.rows = append(slices.Grow(pg.rows, size-len(pg.rows)), s.content.row(s.length, id))
		}
		pg.filled++
		s.length++
		if s.length%size == 0 && !s.content.Private {
			var k key
			k, s.c.buf = s.keys[at].next(pg.rows, s.c.buf)
			s.keys = append(s.keys, k)
		}
	}
	s.list()
	s.trim()
}

// trim gives back what lies before the window.
func (s *Sequence) trim() {
	for first := s.c.g.firstLive(s.length); s.live < first; s.live++ {
		s.c.drop(s.pages[s.live])
		s.pages[s.live] = 0
	}
}

// list lets others find the pages that they could not find yet. It is done only
// when a step has succeeded, so that nobody finds what was never written.
func (s *Sequence) list() {
	if s.content.Private {
		return
	}
	for size := s.c.g.PageSize; s.listed*size < s.length; s.listed++ {
		if p := s.pages[s.listed]; p != 0 {
			s.c.list(p, s.keys[s.listed])
			if (s.listed+1)*size <= s.length {
				s.c.name(p, s.keys[s.listed+1])
			}
		}
		if (s.listed+1)*size > s.length {
			return
		}
	}
}

// Fork returns a second sequence with the same tokens in the same pages.
func (s *Sequence) Fork() *Sequence {
	f := *s
	f.keys = append([]key(nil), s.keys...)
	f.pages = append([]int32(nil), s.pages[:ceil(s.length, s.c.g.PageSize)]...)
	for _, p := range f.pages[f.live:] {
		s.c.hold(p)
	}
	return &f
}

// Slot is where the token at a position is stored: page * page size + place.
func (s *Sequence) Slot(position int) int64 {
	size := s.c.g.PageSize
	return int64(s.pages[position/size])*int64(size) + int64(position%size)
}

// Width is the number of entries of the table: pages of all places reserved.
func (s *Sequence) Width() int { return len(s.pages) }

// Table writes the page of each place range into table and zeros behind. Pages
// that were given back are 0 too.
func (s *Sequence) Table(table []int64) {
	for i, p := range s.pages {
		table[i] = int64(p)
	}
	clear(table[len(s.pages):])
}

// Held is the number of pages that only this sequence holds: those that Close frees.
func (s *Sequence) Held() int {
	n := 0
	for _, p := range s.pages[s.live:] {
		if s.c.pages[p].users() == 1 {
			n++
		}
	}
	return n
}

// Pages lists the pages that hold the sequence's tokens, in order: what must be saved to swap it out.
func (s *Sequence) Pages() []int64 {
	end := ceil(s.length, s.c.g.PageSize)
	out := make([]int64, 0, max(0, end-s.live))
	for i := s.live; i < end; i++ {
		out = append(out, int64(s.pages[i]))
	}
	return out
}

// Close gives all pages back. What others may share is kept until the room is needed,
// ends before beginnings.
func (s *Sequence) Close() {
	s.release()
	s.c = nil
}

func (s *Sequence) release() {
	for i := len(s.pages) - 1; i >= s.live; i-- {
		s.c.drop(s.pages[i])
	}
	s.pages = nil
}

// Release gives the pages back and keeps what is needed to restore them. The caller has
// saved the pages that Pages lists.
func (s *Sequence) Release() {
	s.release()
	s.away = true
}

// Restore takes pages for a released sequence again. Of the pages that Pages listed it
// says, in the same order, where each belongs now; 0: it is still in the cache and need not be
// brought back. Tokens are all that the sequence holds. It fails with a *FullError.
func (s *Sequence) Restore(tokens []int64) ([]int64, error) {
	if !s.away || len(tokens) != s.length {
		panic(fmt.Sprintf("kvcache: restore of %d tokens into a sequence of %d", len(tokens), s.length))
	}
	c, size := s.c, s.c.g.PageSize
	end := ceil(s.length, size)
	pages := make([]int32, end)
	need := 0
	for i := s.live; i < end; i++ {
		if i+1 < len(s.keys) {
			if p, there := c.full[s.keys[i+1]]; there {
				c.hold(p)
				pages[i] = p
				continue
			}
		}
		need++
	}
	if have := c.Available(); need > have {
		for i := end - 1; i >= s.live; i-- {
			if pages[i] != 0 {
				c.drop(pages[i])
			}
		}
		return nil, &FullError{Need: need, Available: have}
	}
	out := make([]int64, 0, end-s.live)
	for i := s.live; i < end; i++ {
		if pages[i] != 0 {
			out = append(out, 0)
			continue
		}
		p := c.take()
		pg := &c.pages[p]
		for at := i * size; at < min((i+1)*size, s.length); at++ {
			if !s.content.Private {
				pg.rows = append(pg.rows, s.content.row(at, tokens[at]))
			}
			pg.filled++
		}
		pages[i] = p
		out = append(out, int64(p))
	}
	s.pages, s.away, s.listed = pages, false, s.live
	return out, nil
}
