package schedule

import (
	"slices"
)

// plan takes in what there is room for and puts the next batch together. It returns false if the
// device died of it; what follows from that has been seen to.
func (s *Scheduler) plan() bool {
	s.batch = s.batch[:0]
	return s.admit() == nil && s.fill(s.turn()) == nil
}

// maxExtra is the number of steps that a sequence may have in a round to compute again what it had.
const maxExtra = 32

// turn lists whose turn it is. In each round those that run together have a step, and
// each that runs alone has one, and more to catch up: token by token in rounds, one that
// lost long output would never get on if devices die often.
func (s *Scheduler) turn() []*sequence {
	for len(s.turns) > 0 {
		q := s.turns[0]
		if q.alone() && q.runs() && q.catchesUp() && s.extra < maxExtra {
			s.extra++
			return []*sequence{q}
		}
		s.extra = 0
		if s.turns = s.turns[1:]; q.alone() && q.runs() {
			return []*sequence{q}
		}
	}
	s.turns, s.extra = s.turns[:0], 0
	together := s.together[:0]
	for _, q := range s.running {
		if q.alone() {
			s.turns = append(s.turns, q)
		} else {
			together = append(together, q)
		}
	}
	s.together = together
	if len(together) == 0 && len(s.turns) > 0 {
		return s.turn()
	}
	return together
}

// fill puts the sequences into the batch, in order, with pages for what they take: those
// that decode take a token, prompts share the rest of the step.
func (s *Scheduler) fill(turn []*sequence) error {
	room, prompts := s.o.StepTokens, 0
	for _, q := range turn {
		if q.chunk(2) == 1 {
			room--
		} else {
			prompts++
		}
	}
	for _, q := range turn {
		if !q.runs() {
			continue // it gave its pages to one before it
		}
		n := 1
		if q.chunk(2) > 1 {
			if s.holdsBack(q) {
				prompts--
				continue
			}
			// The first gets half of what there is, so that a long prompt doesn't hold up the short ones behind it.
			share := room
			if prompts--; prompts > 0 && !q.alone() {
				share = (room + 1) / 2
			}
			n = q.chunk(share)
			room -= n
		}
		if n == 0 {
			continue
		}
		got, err := s.reserve(q, n)
		if err != nil {
			return err
		}
		if got == 0 {
			continue
		}
		room += n - got
		q.taken = got
		s.batch = append(s.batch, q)
	}
	return nil
}

// holdsBack lets a prompt wait for one in the batch that begins alike, so that both are not
// computed; when it waits no more, it shares what came to be there.
func (s *Scheduler) holdsBack(q *sequence) bool {
	pageSize := s.cache.Geometry().PageSize
	if slices.ContainsFunc(s.batch, func(from *sequence) bool { return q.gains(from, pageSize) }) {
		return true
	}
	if !q.fresh {
		return false
	}
	had := q.known()
	q.pages.Again(q.tokens[:len(q.tokens)-1])
	if more := q.known() - had; more > 0 && q.joint {
		q.r.stream.fromCache(q.known())
		s.count.CachedTokens += uint64(more)
	}
	return false
}

// reserve finds pages for n more tokens of a sequence, or for fewer of a prompt. It takes
// them from those that come last in order, after the sequence and not in the batch. 0: none were to be had.
func (s *Scheduler) reserve(q *sequence, n int) (int, error) {
	for {
		err := q.pages.Reserve(n)
		if err == nil {
			return n, nil
		}
		if fits := q.pages.Room(); n > 1 && !q.r.Sampling.Deterministic && fits > 0 {
			n = min(n-1, fits)
			continue
		}
		victim := s.victim(func(v *sequence) bool { return order(v, q) > 0 && v.taken == 0 })
		if victim == nil {
			return 0, nil
		}
		if err := s.preempt(victim); err != nil {
			return 0, err
		}
	}
}

// victim is the last of those that run and fit.
func (s *Scheduler) victim(fits func(*sequence) bool) *sequence {
	for i := len(s.running) - 1; i >= 0; i-- {
		if fits(s.running[i]) {
			return s.running[i]
		}
	}
	return nil
}

// admit takes in waiting sequences while there is room.
func (s *Scheduler) admit() error {
	for len(s.waiting) > 0 {
		q := s.next()
		if q == nil {
			return nil
		}
		if err := s.tooLong(q); err != nil {
			s.tell(q.r)
			s.end(q.r, err)
			continue
		}
		in, err := s.enough(q)
		if err != nil {
			return err
		}
		if in {
			s.waiting = remove(s.waiting, q)
			s.running, s.served = insert(s.running, q), true
			if !q.r.begun {
				s.begin(q.r)
				q.r.stream.fromCache(q.known())
				s.count.CachedTokens += uint64(q.known())
			}
			s.tell(q.r)
			if err := s.encode(q); err != nil {
				return err
			}
			continue
		}
		// What is more urgent does not wait for what is less.
		victim := s.victim(func(v *sequence) bool { return v.r.Priority < q.r.Priority })
		if victim == nil {
			return nil
		}
		if err := s.preempt(victim); err != nil {
			return err
		}
	}
	return nil
}

// next is the waiting sequence that comes in first: of the highest priority, one that ran before;
// else the oldest of the party (Request.Salt) that has the fewest running. Nobody passes it. nil: others want
// the device, and none of those that wait has begun.
func (s *Scheduler) next() *sequence {
	if s.leaving {
		if i := slices.IndexFunc(s.waiting, func(q *sequence) bool { return q.r.begun }); i >= 0 {
			return s.waiting[i]
		}
		return nil
	}
	best := s.waiting[0]
	if best.r.begun {
		return best
	}
	fewest := s.share(best.r.Salt)
	for _, q := range s.waiting[1:] {
		if q.r.Priority < best.r.Priority {
			break
		}
		if q.r.begun {
			return q
		}
		if q.r.Salt != best.r.Salt {
			if n := s.share(q.r.Salt); n < fewest {
				best, fewest = q, n
			}
		}
	}
	return best
}

func (s *Scheduler) share(salt string) int {
	n := 0
	for _, q := range s.running {
		if q.r.Salt == salt {
			n++
		}
	}
	return n
}

// tooLong refuses what the pools can't hold even if nothing else is in them.
func (s *Scheduler) tooLong(q *sequence) error {
	g, chunk := s.cache.Geometry(), 1
	if q.r.Sampling.Deterministic {
		chunk = s.o.StepTokens
	}
	// The last token of a text is never stored.
	need := len(q.tokens)
	if q.r.MaxTokens > 0 {
		need = q.limit - 1
	}
	if src := q.r.Source; src != nil {
		if g := s.cross.Geometry(); g.PagesFor(src.Rows, src.Rows) >= g.Pages {
			return &TooLongError{Prompt: src.Rows, Limit: g.Capacity(), Cache: true, Source: true}
		}
	}
	if g.PagesFor(need, chunk) < g.Pages {
		return nil
	}
	return &TooLongError{Prompt: len(q.r.Prompt), MaxTokens: q.r.MaxTokens, Limit: g.Capacity() + 1, Cache: true}
}

// blockade is a state in which a sequence could not be taken in, if it was not.
type blockade struct {
	q       *sequence
	free    int // pages
	running int
}

// holds reports whether nothing has become better since.
func (b blockade) holds(now blockade) bool {
	return b.q == now.q && now.free <= b.free && now.running >= b.running
}

// enough tries to give a waiting sequence its first pages. It is let in only where the rest of what it
// knows will have room too, and those that run some to grow.
func (s *Scheduler) enough(q *sequence) (bool, error) {
	weight := q.weight()
	for _, r := range s.running {
		weight += r.weight()
	}
	now := blockade{q, s.cache.Available(), len(s.running)}
	if weight > s.o.MaxSequences || len(s.running) > 0 && s.blocked.holds(now) {
		return false, nil
	}
	s.blocked = now
	g := s.cache.Geometry()
	need := g.PagesFor(len(q.tokens)+1, s.o.StepTokens)
	room := now.free - len(s.running)
	for _, r := range s.running {
		room -= max(0, g.PagesFor(len(r.tokens), s.o.StepTokens)-r.pages.Width())
	}
	if !s.attach(q.r) {
		return false, nil
	}
	if q.swapped != nil {
		if need <= room || len(s.running) == 0 {
			in, err := s.swapIn(q)
			if !in {
				s.detach(q.r)
			}
			return in, err
		}
		s.detach(q.r)
		return false, nil
	}
	known := q.tokens[:len(q.tokens)-1]
	q.pages, q.fresh = s.cache.Open(q.r.content(s.o.Embeds), known), true
	// Pages that others hold too need no room.
	if need-(q.pages.Width()-q.pages.Held()) <= room || len(s.running) == 0 {
		return true, nil
	}
	q.pages.Close()
	q.pages = nil
	s.detach(q.r)
	return false, nil
}
