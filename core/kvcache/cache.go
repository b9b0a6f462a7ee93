package kvcache

import "slices"

// Cache is the pool of pages and all that is known of their content.
type Cache struct {
	g     Geometry
	pages []page // [0] is the head of the list of cached pages
	free  []int32

	full     map[key]int32     // full pages by content
	starting map[start][]int32 // full and partial pages by their beginning

	copies []PageCopy // that the next step must do
	pinned []int32    // sources of copies that are not done yet

	stats Stats
	buf   []byte
}

// page is one page's record. Page 0 of a list is its head, for page 0 is nobody's.
type page struct {
	refs       int32
	pins       int32 // of refs, those of copies that are not done yet
	next, prev int32 // among cached pages, last used first
	rows       []row // what is in it; none is kept for private sequences
	filled     int
	listed     bool // in starting
	named      bool // in full
	key        key  // of a named page
	start      start
}

// start is where a page hangs: after the page with this key, beginning with this row.
type start struct {
	after key
	first row
}

// New returns an empty cache.
func New(g Geometry) (*Cache, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	c := &Cache{g: g, pages: make([]page, g.Pages), free: make([]int32, 0, g.Pages-1),
		full: map[key]int32{}, starting: map[start][]int32{}}
	for p := g.Pages - 1; p > 0; p-- {
		c.free = append(c.free, int32(p))
	}
	c.stats.Pages = g.Pages - 1
	return c, nil
}

// Geometry is the form that the cache was made for.
func (c *Cache) Geometry() Geometry { return c.g }

// Available is the number of pages that can be had now: free ones, and those that
// hold only finished prefixes.
func (c *Cache) Available() int { return len(c.free) + c.stats.Cached }

// Stats is a snapshot.
func (c *Cache) Stats() Stats {
	s := c.stats
	s.Free = len(c.free)
	s.Used = s.Pages - s.Free - s.Cached
	s.Capacity, s.Room = c.g.Capacity(), c.Available()*c.g.PageSize
	return s
}

// Copies hands over the copies that the next step must do before it writes, and
// forgets them. No page is in the list as source and as target, so that their
// order does not matter. Sources stay as they are until Copied.
func (c *Cache) Copies() []PageCopy {
	out := c.copies
	c.copies = nil
	return out
}

// Copied says that the copies handed over last are done, or never will be.
func (c *Cache) Copied() {
	for _, p := range c.pinned {
		c.pages[p].pins--
		c.drop(p)
	}
	c.pinned = c.pinned[:0]
}

// users is the number of sequences that hold a page. Who holds it alone may write to
// it although it is to be copied, for copies are done before anything is written.
func (pg *page) users() int32 { return pg.refs - pg.pins }

// take gives a page out, empty. The caller has made sure that there is one.
func (c *Cache) take() int32 {
	var p int32
	if n := len(c.free); n > 0 {
		p, c.free = c.free[n-1], c.free[:n-1]
	} else {
		p = c.pages[0].prev
		c.uncache(p)
		c.unlist(p)
		c.stats.Evictions++
	}
	pg := &c.pages[p]
	pg.refs, pg.filled, pg.rows = 1, 0, pg.rows[:0]
	return p
}

// hold counts one more user.
func (c *Cache) hold(p int32) {
	pg := &c.pages[p]
	switch pg.refs++; pg.refs {
	case 1:
		c.uncache(p)
	case 2:
		c.stats.Shared++
	}
}

// drop counts one user less. What nobody uses is kept if it can be found.
func (c *Cache) drop(p int32) {
	pg := &c.pages[p]
	switch pg.refs--; {
	case pg.refs == 1:
		c.stats.Shared--
	case pg.refs == 0 && pg.listed:
		head := &c.pages[0]
		pg.prev, pg.next = 0, head.next
		c.pages[head.next].prev = p
		head.next = p
		c.stats.Cached++
	case pg.refs == 0:
		c.free = append(c.free, p)
	}
}

func (c *Cache) uncache(p int32) {
	pg := &c.pages[p]
	c.pages[pg.prev].next, c.pages[pg.next].prev = pg.next, pg.prev
	pg.next, pg.prev = 0, 0
	c.stats.Cached--
}

// list lets others find a page by its beginning.
func (c *Cache) list(p int32, after key) {
	pg := &c.pages[p]
	if pg.listed {
		return
	}
	pg.listed, pg.start = true, start{after, pg.rows[0]}
	c.starting[pg.start] = append(c.starting[pg.start], p)
}

// name lets others find a full page whole. A second page of the same content is
// of no use to anybody but those who hold it.
func (c *Cache) name(p int32, k key) {
	pg := &c.pages[p]
	if pg.named {
		return
	}
	if _, there := c.full[k]; there {
		c.unlist(p)
		return
	}
	pg.named, pg.key = true, k
	c.full[k] = p
}

func (c *Cache) unlist(p int32) {
	pg := &c.pages[p]
	if pg.named {
		delete(c.full, pg.key)
		pg.named = false
	}
	if !pg.listed {
		return
	}
	pg.listed = false
	with := c.starting[pg.start]
	if len(with) == 1 {
		delete(c.starting, pg.start)
		return
	}
	i := slices.Index(with, p)
	with[i] = with[len(with)-1]
	c.starting[pg.start] = with[:len(with)-1]
}
