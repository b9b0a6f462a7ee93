package schedule

import (
	"errors"
	"slices"

	"github.com/accelhq/accel/core/kvcache"
)

// attach gives a request pages for its source; false: there are none to be had now.
func (s *Scheduler) attach(r *request) bool {
	if r.Source == nil || r.source != nil {
		return true
	}
	// A source's places are told apart by their number alone; the root says whose they are.
	q := s.cross.Open(kvcache.Content{Salt: r.Salt, Root: r.Source.Hash, Private: r.Sampling.Deterministic}, s.places(r.Source.Rows))
	if q.Reserve(r.Source.Rows-q.Len()) != nil {
		q.Close()
		return false
	}
	r.source = q
	return true
}

// places are the numbers of a source's rows.
func (s *Scheduler) places(n int) []int64 {
	for len(s.numbers) < n {
		s.numbers = append(s.numbers, int64(len(s.numbers)))
	}
	return s.numbers[:n]
}

// detach gives up a source that no sequence in the batch needs any more. Its pages stay as
// long as nobody needs the room.
func (s *Scheduler) detach(r *request) {
	if r.source == nil || slices.ContainsFunc(s.running, func(q *sequence) bool { return q.r == r }) {
		return
	}
	r.source.Close()
	r.source = nil
}

// encode has the keys and values of a sequence's source computed where the pages don't hold them.
// An error says that the device died of it; what follows from that has been seen to.
func (s *Scheduler) encode(q *sequence) error {
	r := q.r
	if r.source == nil || r.source.Len() == r.Source.Rows {
		return nil
	}
	e := Encoding{Inputs: r.Source.Inputs, Member: Member{Request: r.ID, Choice: q.choice}, Alone: q.suspect()}
	for i := range r.Source.Rows {
		if i < r.source.Len() {
			e.Slots = append(e.Slots, 0) // it is there, and perhaps others'
		} else {
			e.Slots = append(e.Slots, r.source.Slot(i))
		}
	}
	// What a page shared in part holds is in the new page's numbers too, as it is computed again.
	copies := s.cross.Copies()
	for _, c := range copies {
		size := s.cross.Geometry().PageSize
		for i := range e.Slots {
			if at := r.source.Slot(i); e.Slots[i] == 0 && at/int64(size) == c.To {
				e.Slots[i] = at
			}
		}
	}
	err := s.exec.Encode(s.ctx, &e)
	s.cross.Copied()
	var lost *LostError
	switch {
	case err == nil:
		s.count.Encodings++
		r.source.Append(s.places(r.Source.Rows)[r.source.Len():]...)
		return nil
	case s.ctx.Err() != nil:
		return s.ctx.Err()
	case errors.As(err, &lost):
		s.lost(lost, []*sequence{q})
		return err
	}
	s.end(r, err)
	return nil
}

// sources writes the pages of the batch's sources into the step.
func (s *Scheduler) sources() {
	st := &s.step
	st.CrossTables, st.CrossLengths, st.CrossWidth = st.CrossTables[:0], st.CrossLengths[:0], 0
	if s.cross == nil {
		return
	}
	for _, q := range s.batch {
		st.CrossWidth = max(st.CrossWidth, q.r.source.Width())
	}
	st.CrossTables = slices.Grow(st.CrossTables, len(s.batch)*st.CrossWidth)[:len(s.batch)*st.CrossWidth]
	for i, q := range s.batch {
		q.r.source.Table(st.CrossTables[i*st.CrossWidth : (i+1)*st.CrossWidth])
		st.CrossLengths = append(st.CrossLengths, int64(q.r.Source.Rows))
	}
}
