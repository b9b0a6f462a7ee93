package schedule

import (
	"errors"
	"time"
)

// rates are what was measured, for the choice between swap and recompute; averages in which
// the newest has a tenth.
type rates struct {
	prefill float64 // tokens a second, of steps with prompts
	step    float64 // seconds, of steps without
	swap    float64 // bytes a second
}

func average(mean *float64, newest float64) {
	if *mean == 0 {
		*mean = newest
	}
	*mean += (newest - *mean) / 10
}

// swapGuess is the rate of the first swap, bytes a second: memory that is copied twice.
const swapGuess = 2e9

// preempt takes a running sequence's pages. Its tokens stay.
func (s *Scheduler) preempt(q *sequence) error {
	s.running = remove(s.running, q)
	s.waiting = insert(s.waiting, q)
	s.detach(q.r)
	if s.swaps(q) {
		begin := time.Now()
		saved, err := s.exec.SwapOut(s.ctx, q.pages.Pages())
		var lost *LostError
		switch {
		case err == nil:
			average(&s.rates.swap, float64(saved.Bytes())/max(time.Since(begin).Seconds(), 1e-9))
			q.pages.Release()
			q.swapped = saved
			s.count.PreemptedSwap++
			s.count.Swapped++
			s.count.SwapBytes += saved.Bytes()
			return nil
		case errors.As(err, &lost):
			s.lost(lost, []*sequence{q})
			return err
		}
		// Host memory may be short; what can't be kept is computed again.
		s.count.SwapsFailed++
	}
	s.forget(q)
	s.count.PreemptedAnew++
	return nil
}

// swaps chooses between swap and recompute.
func (s *Scheduler) swaps(q *sequence) bool {
	g, known := s.cache.Geometry(), q.known()
	bytes := int64(len(q.pages.Pages())) * g.PageBytes
	if known == 0 || s.o.Preemption == PreemptRecompute || s.count.SwapBytes+bytes > s.o.SwapBytes {
		return false
	}
	if s.o.Preemption == PreemptSwap {
		return true
	}
	rate := s.rates.swap
	if rate == 0 {
		rate = swapGuess
	}
	there := float64(2*bytes) / rate
	anew := float64(known) / s.rates.prefill
	if again := known - len(q.r.Prompt); q.r.Sampling.Deterministic && again > 0 {
		anew = float64(len(q.r.Prompt))/s.rates.prefill + float64(again)*s.rates.step
	}
	return there < anew
}

// swapIn brings a sequence back, if there are pages for it.
func (s *Scheduler) swapIn(q *sequence) (bool, error) {
	pages, err := q.pages.Restore(q.tokens[:q.known()])
	if err != nil {
		return false, nil
	}
	saved := q.swapped
	begin := time.Now()
	err = s.exec.SwapIn(s.ctx, saved, pages)
	s.count.Swapped--
	s.count.SwapBytes -= saved.Bytes()
	q.swapped = nil
	saved.Release()
	var lost *LostError
	switch {
	case err == nil:
		average(&s.rates.swap, float64(saved.Bytes())/max(time.Since(begin).Seconds(), 1e-9))
		return true, nil
	case errors.As(err, &lost):
		s.lost(lost, []*sequence{q})
		return false, err
	}
	s.count.SwapsFailed++
	// Nobody has seen the pages yet; it begins anew.
	s.forget(q)
	s.count.PreemptedAnew++
	return s.enough(q)
}
