// Package kvcache keeps the books of a paged KV cache: which page belongs to whom,
// which prefixes are shared, what may be thrown away. It moves no bytes: the pools
// lie in a backend, and whoever runs the steps copies and saves pages as it is told
// here. A Cache belongs to one goroutine. Design section 4; pages and tables after
// Kwon et al. 2023 (PagedAttention).
package kvcache

import "fmt"

// Geometry is the form of the pools on a device.
type Geometry struct {
	Pages     int   // pages, page 0 included, which is never given out
	PageSize  int   // tokens a page
	PageBytes int64 // of one page, in all pools together
	// Window is the number of tokens, itself included, that a token looks back on in
	// the layer that looks farthest; 0 if a layer looks back on all. What lies before
	// it is given back.
	Window int
}

// Capacity is the number of tokens that all pages together hold.
func (g Geometry) Capacity() int { return (g.Pages - 1) * g.PageSize }

// PagesFor is the number of pages that a sequence of so many tokens holds at most
// at once if it grows by chunks of at most chunk tokens.
func (g Geometry) PagesFor(tokens, chunk int) int {
	all := ceil(tokens, g.PageSize)
	if g.Window == 0 {
		return all
	}
	// A window may begin and end inside pages.
	return min(all, ceil(g.Window+chunk-2, g.PageSize)+1)
}

// firstLive is the first page that a sequence needs whose next token stands at
// position length.
func (g Geometry) firstLive(length int) int {
	if g.Window == 0 {
		return 0
	}
	return max(0, length-g.Window+1) / g.PageSize
}

func (g Geometry) check() error {
	switch {
	case g.Pages < 2:
		return fmt.Errorf("a KV cache of %d pages: at least 2 are needed, for page 0 is never given out; give kv_cache.memory more", g.Pages)
	case g.PageSize < 1:
		return fmt.Errorf("a KV cache with %d tokens a page: at least 1 is needed", g.PageSize)
	case g.PageBytes < 0 || g.Window < 0:
		return fmt.Errorf("a KV cache with pages of %d bytes and a window of %d tokens: neither may be negative", g.PageBytes, g.Window)
	}
	return nil
}

func ceil(a, b int) int { return (a + b - 1) / b }

// PageCopy says that a page of all pools is to be copied to another.
type PageCopy struct{ From, To int64 }

// FullError says that there are too few pages. Nothing was changed.
type FullError struct {
	Need      int // pages
	Available int // pages that are free or hold only finished prefixes
}

func (e *FullError) Error() string {
	return fmt.Sprintf("the KV cache is full: %d pages are needed, %d are free", e.Need, e.Available)
}

// Stats is a snapshot of a cache. Counts are pages unless they say otherwise.
type Stats struct {
	Pages  int // that can be given out
	Used   int // held by sequences, or by copies that are under way
	Shared int // of these, held more than once
	Cached int // held by nobody, kept for their content
	Free   int // empty

	Capacity int // tokens that all pages hold
	Room     int // tokens that pages hold that can be had now: free and cached ones

	Counts
}

// Counts are what a cache has done so far.
type Counts struct {
	LookedUp  uint64 // tokens that Open was asked for
	Hit       uint64 // tokens of these that were there
	Evictions uint64 // cached pages thrown away for others
	Copies    uint64 // pages copied because they were to be written and were shared
}

// Add adds what another cache has done.
func (c *Counts) Add(o Counts) {
	c.LookedUp += o.LookedUp
	c.Hit += o.Hit
	c.Evictions += o.Evictions
	c.Copies += o.Copies
}
