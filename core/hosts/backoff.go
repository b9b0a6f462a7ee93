package hosts

import (
	"math/rand/v2"
	"time"
)

// backoff says how long to wait before a backend is started again. The first
// restart is immediate; the next ones wait Base, twice Base and so on up to Max,
// each shortened by up to a quarter at random, so that several backends that die
// of one thing don't come back in step.
type backoff struct {
	Restart
	deaths int // in a row, each soon after its start
}

// died counts a death after a life of so long and returns the wait before the
// next start.
func (b *backoff) died(lived time.Duration) time.Duration {
	if lived >= b.Quiet {
		b.deaths = 0
	}
	b.deaths++
	if b.deaths == 1 {
		return 0
	}
	wait := b.Max
	if shift := b.deaths - 2; shift < 32 && b.Base<<shift>>shift == b.Base {
		wait = min(b.Base<<shift, b.Max)
	}
	return wait - time.Duration(rand.Int64N(int64(wait/4)+1))
}

// looping reports whether the deaths have become a crash loop.
func (b *backoff) looping() bool { return b.deaths >= b.Loop }
