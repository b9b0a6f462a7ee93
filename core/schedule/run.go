package schedule

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/accelhq/accel/core/route"
)

// job is one token to be chosen.
type job struct {
	q     *sequence
	row   int // of the logits
	token Token
	err   error
}

// run has the batch computed and draws what comes next.
func (s *Scheduler) run() {
	s.build()
	// While the device computes, constraints find out what may come next.
	masks := s.masks()
	begin := time.Now()
	logits, err := s.exec.Step(s.ctx, &s.step)
	took := time.Since(begin).Seconds()
	masks.Wait()
	s.cache.Copied()
	s.count.Steps++
	s.count.StepSeconds += took

	var lost *LostError
	switch want := len(s.step.Select) * s.o.Vocabulary; {
	case s.ctx.Err() != nil:
		return
	case errors.As(err, &lost):
		s.lost(lost, s.batch)
		return
	case err == nil && len(logits) != want:
		err = fmt.Errorf("%s computed %d logits; %d rows of %d were asked for",
			s.decision.Chosen.Device, len(logits), len(s.step.Select), s.o.Vocabulary)
	}
	if err != nil {
		for _, q := range s.batch {
			s.end(q.r, err)
		}
		return
	}
	s.idle = 0
	s.commit(took)
	begin = time.Now()
	s.sample(logits)
	s.count.SamplingSeconds += time.Since(begin).Seconds()
	s.deliver()
}

// build writes the batch into the step.
func (s *Scheduler) build() {
	st := &s.step
	st.InputIDs, st.Positions, st.Slots, st.Select = st.InputIDs[:0], st.Positions[:0], st.Slots[:0], st.Select[:0]
	st.Lengths, st.Starts, st.Sequences = st.Lengths[:0], append(st.Starts[:0], 0), st.Sequences[:0]
	st.EmbedIndex, st.EmbedRows = st.EmbedIndex[:0], st.EmbedRows[:0]
	st.PageWidth = 0
	for _, q := range s.batch {
		st.PageWidth = max(st.PageWidth, q.pages.Width())
	}
	s.sources()
	st.PageTables = slices.Grow(st.PageTables[:0], len(s.batch)*st.PageWidth)[:len(s.batch)*st.PageWidth]
	for i, q := range s.batch {
		from := q.known()
		to := from + q.taken
		for p := from; p < to; p++ {
			st.Positions = append(st.Positions, int64(p))
			st.Slots = append(st.Slots, q.pages.Slot(p))
		}
		s.embed(q, from, to)
		st.InputIDs = append(st.InputIDs, q.tokens[from:to]...)
		q.pages.Table(st.PageTables[i*st.PageWidth : (i+1)*st.PageWidth])
		st.Lengths = append(st.Lengths, int64(to))
		st.Starts = append(st.Starts, int64(len(st.InputIDs)))
		if to == len(q.tokens) {
			st.Select = append(st.Select, int64(len(st.InputIDs)-1))
		}
		st.Sequences = append(st.Sequences, Member{Request: q.r.ID, Choice: q.choice})
	}
	st.Copies = s.cache.Copies()
	st.Alone = s.batch[0].suspect()
	if len(st.EmbedIndex) > 0 {
		st.EmbedIndex = none(st.EmbedIndex, len(st.InputIDs))
	}
}

// embed writes the rows of a sequence's tokens that came as embeddings into the step.
func (s *Scheduler) embed(q *sequence, from, to int) {
	st, width := &s.step, s.o.Embeds
	for _, e := range q.r.Embeds {
		first, end := max(from, e.At), min(to, e.At+len(e.Rows)/width)
		if first >= end {
			continue
		}
		st.EmbedIndex = none(st.EmbedIndex, len(st.InputIDs)+first-from)
		for range end - first {
			st.EmbedIndex = append(st.EmbedIndex, int64(len(st.EmbedRows)/width))
			st.EmbedRows = append(st.EmbedRows, e.Rows[(first-e.At)*width:(first-e.At+1)*width]...)
			first++
		}
	}
	if len(st.EmbedIndex) > 0 {
		st.EmbedIndex = none(st.EmbedIndex, len(st.InputIDs)+to-from)
	}
}

// none lengthens a list of rows with tokens that have none.
func none(list []int64, n int) []int64 {
	for len(list) < n {
		list = append(list, -1)
	}
	return list
}

// masks has the constraints of those that will draw a token work, beside the device.
func (s *Scheduler) masks() *sync.WaitGroup {
	var busy sync.WaitGroup
	var constrained []*sequence
	for _, q := range s.batch {
		if q.chooser.constraint != nil && q.known()+q.taken == len(q.tokens) {
			constrained = append(constrained, q)
		}
	}
	if len(constrained) > 0 {
		busy.Go(func() {
			for _, q := range constrained {
				q.chooser.mask(len(q.tokens))
			}
		})
	}
	return &busy
}

// commit takes note of what is in the cache now, and lists the tokens to be drawn.
func (s *Scheduler) commit(took float64) {
	s.jobs = s.jobs[:0]
	prompts, decodes, row := 0, 0, 0
	for _, q := range s.batch {
		from := q.known()
		q.pages.Append(q.tokens[from : from+q.taken]...)
		whole := q.known() == len(q.tokens)
		if whole && q.taken == 1 && len(q.tokens) > len(q.r.Prompt) {
			decodes++
		} else {
			prompts += q.taken
		}
		q.taken, q.fresh = 0, false
		if !whole {
			continue
		}
		if q.suspect() {
			if q.proven++; q.proven == provenAfter {
				q.r.guilty = 0
			}
		}
		if q.joint {
			for _, c := range q.split() {
				if c != q {
					s.running = insert(s.running, c)
				}
				s.jobs = append(s.jobs, job{q: c, row: row})
			}
		} else {
			s.jobs = append(s.jobs, job{q: q, row: row})
		}
		row++
	}
	s.count.PrefillTokens += uint64(prompts)
	s.count.DecodeTokens += uint64(decodes)
	s.count.Sampled += uint64(len(s.jobs))
	if prompts > 0 {
		average(&s.rates.prefill, float64(prompts+decodes)/max(took, 1e-9))
	} else {
		average(&s.rates.step, took)
	}
}

// sample does the jobs, in parallel where there are several.
func (s *Scheduler) sample(logits []float32) {
	workers := min(len(s.jobs), runtime.GOMAXPROCS(0))
	for len(s.samplers) < workers {
		s.samplers = append(s.samplers, &sampler{})
	}
	var next atomic.Int64
	work := func(m *sampler) {
		for i := int(next.Add(1)) - 1; i < len(s.jobs); i = int(next.Add(1)) - 1 {
			j := &s.jobs[i]
			j.draw(m, logits[j.row*s.o.Vocabulary:][:s.o.Vocabulary], s.decision.Chosen.Device)
		}
	}
	var busy sync.WaitGroup
	for i := 1; i < workers; i++ {
		busy.Go(func() { work(s.samplers[i]) })
	}
	if workers > 0 {
		work(s.samplers[0])
	}
	busy.Wait()
}

// draw chooses a token and appends it.
func (j *job) draw(m *sampler, logits []float32, device string) {
	q := j.q
	if j.token, j.err = m.choose(q.chooser, logits, len(q.tokens), device); j.err != nil {
		return
	}
	q.tokens = append(q.tokens, j.token.ID)
	j.token.Finish = q.finish()
	j.err = q.chooser.accept(j.token.ID, q.r.ends(j.token.ID))
}

// deliver gives the tokens out and ends what is through.
func (s *Scheduler) deliver() {
	for i := range s.jobs {
		j := &s.jobs[i]
		q := j.q
		if q.r.ended {
			continue // another choice of it failed
		}
		if j.err != nil {
			s.end(q.r, j.err)
			continue
		}
		if j.token.Finish == "" && s.full(q) {
			j.token.Finish = Length
		}
		q.r.stream.push(j.token)
		if j.token.Finish != "" {
			s.through(q)
		}
	}
}

// full reports whether the pools have no room for the next token, even if there were nothing else in them.
func (s *Scheduler) full(q *sequence) bool {
	return q.r.MaxTokens == 0 && s.tooLong(q) != nil
}

// maxIdle bounds how often in a row a device may be found gone without anybody counting a death.
const maxIdle = 8

// lost sees to what follows from a device's death: all begin anew on the next, and those
// that were in flight count it. Tokens that were drawn stay.
func (s *Scheduler) lost(e *LostError, in []*sequence) {
	s.count.Losses++
	s.past.Add(s.cache.Stats().Counts)
	s.cache, s.cross = nil, nil
	s.turns = s.turns[:0]
	for _, q := range s.waiting {
		if q.swapped != nil {
			s.forget(q)
		}
		q.pages = nil
	}
	for _, q := range s.running {
		q.pages, q.taken, q.r.source = nil, 0, nil
		s.waiting = insert(s.waiting, q)
	}
	s.running = s.running[:0]
	if e.Idle && s.idle < maxIdle {
		s.idle++
		return
	}
	var struck []*request
	for _, q := range in {
		if q.r.ended || slices.Contains(struck, q.r) {
			continue
		}
		struck = append(struck, q.r)
		if q.suspect() {
			q.r.guilty++
		}
		q.r.deaths = append(slices.Clip(q.r.deaths), route.Refusal{Platform: e.Platform, Device: e.Device, Reason: e.Reason})
		s.tell(q.r)
		if q.r.guilty >= refusedAfter || len(q.r.deaths) >= maxDeaths {
			s.end(q.r, &PoisonedError{Deaths: q.r.deaths, Stderr: e.Stderr})
		}
	}
	for _, q := range s.waiting {
		if slices.Contains(struck, q.r) {
			q.proven = 0
		}
	}
}
