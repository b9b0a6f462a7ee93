package schedule

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
)

// Scheduler runs requests through an executor. All its methods may be called by many.
type Scheduler struct {
	o      Options
	exec   Executor
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // holds one if there is news
	done   chan struct{} // closed when the loop has ended

	mu       sync.Mutex
	inbox    []*sequence
	arrivals uint64
	unbegun  int // requests that were not taken in yet
	closed   bool
	closeErr error
	stats    Stats

	// What follows is the loop's own.
	cache    *kvcache.Cache // nil: the pools have to be opened
	cross    *kvcache.Cache // of the sources; nil: the model has none, or as cache
	decision route.Decision
	leaving  bool        // others want the device
	served   bool        // something was taken in since the pools were opened
	waiting  []*sequence // both in order
	running  []*sequence
	turns    []*sequence // that run alone and have their turn before the next round
	extra    int         // steps that the first of them had beside its own
	together []*sequence // that had a step together last
	blocked  blockade    // the last try to take one in
	batch    []*sequence // in the step that is being put together
	step     Step
	samplers []*sampler
	jobs     []job
	rates    rates
	numbers  []int64        // 0, 1, 2, ...
	idle     int            // losses in a row that nobody counted
	count    Stats          // what Stats will show
	past     kvcache.Counts // of the caches that were lost
}

// New starts a scheduler. The executor is its own from then on: it is opened with the first
// request, closed while others want its device, and by Close.
func New(exec Executor, o Options) (*Scheduler, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Scheduler{o: o, exec: exec, ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.loop()
	return s, nil
}

// Submit takes a request on. It ends when the stream has been read, at the end of ctx or
// with Stream.Close. Errors: *InvalidError, *TooLongError, *BusyError, ErrClosed. Others come from
// Stream.Next.
func (s *Scheduler) Submit(ctx context.Context, r Request) (*Stream, error) {
	if r.N == 0 {
		r.N = 1
	}
	if err := r.check(&s.o); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	q := newSequence(&request{Request: r, ctx: ctx, stream: newStream(cancel), left: r.N}, &s.o)
	if err := s.enter(q); err != nil {
		cancel()
		return nil, err
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return q.r.stream, nil
}

func (s *Scheduler) enter(q *sequence) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.unbegun >= s.o.MaxWaiting:
		s.stats.Refused++
		return &BusyError{Waiting: s.unbegun}
	}
	s.unbegun++
	s.arrivals++
	q.r.arrival = s.arrivals
	s.inbox = append(s.inbox, q)
	return nil
}

// Stats is a snapshot, as of the last step.
func (s *Scheduler) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Waiting += len(s.inbox)
	return out
}

// Close ends all requests with ErrClosed, waits for the step that runs, and closes
// the executor.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	<-s.done
	return s.closeErr
}

func (s *Scheduler) loop() {
	defer close(s.done)
	for s.collect() {
		if s.leaving && !s.bound() {
			s.rest()
			continue
		}
		if s.cache == nil {
			s.open()
			continue // that may take long; others have come and gone
		}
		if s.plan() && len(s.batch) > 0 {
			s.run()
		}
		s.publish()
	}
	for _, list := range [][]*sequence{s.waiting, s.running} {
		for _, q := range slices.Clone(list) {
			s.end(q.r, ErrClosed)
		}
	}
	s.publish()
	s.closeErr = errors.Join(s.closeErr, s.exec.Close())
}

// bound reports whether some have begun and not ended: these are never left without their device.
func (s *Scheduler) bound() bool {
	return len(s.running) > 0 || slices.ContainsFunc(s.waiting, func(q *sequence) bool { return q.r.begun })
}

// rest gives up device and pools. What the pools had of finished texts is lost.
func (s *Scheduler) rest() {
	s.leaving = false
	if s.cache == nil {
		return
	}
	s.past.Add(s.cache.Stats().Counts)
	s.cache, s.cross = nil, nil
	s.turns, s.blocked = nil, blockade{}
	s.count.Rests++
	s.closeErr = errors.Join(s.closeErr, s.exec.Close())
}

// collect takes in what came and throws out what was cancelled. It waits until there
// is something to do, and returns false when the scheduler is closed.
func (s *Scheduler) collect() bool {
	for {
		s.mu.Lock()
		for _, q := range s.inbox {
			s.waiting = insert(s.waiting, q)
		}
		clear(s.inbox)
		s.inbox = s.inbox[:0]
		s.mu.Unlock()
		if s.ctx.Err() != nil {
			return false
		}
		s.throwOut()
		if len(s.waiting)+len(s.running) > 0 {
			// Those for whom the pools were opened come in first: nobody is kept out for ever.
			if s.served {
				select {
				case <-s.exec.Wanted():
					s.leaving = true
				default:
				}
			}
			return true
		}
		if s.leaving {
			s.rest()
		}
		s.publish()
		// Requests that are through are not kept alive by lists that were made for them.
		s.batch, s.together, s.turns, s.jobs, s.blocked = nil, nil, nil, nil, blockade{}
		select {
		case <-s.wake:
		case <-s.exec.Wanted():
			s.rest()
		case <-s.ctx.Done():
		}
	}
}

// throwOut ends requests that were cancelled, and choices that were dropped.
func (s *Scheduler) throwOut() {
	var unwanted []*sequence
	for _, list := range [...][]*sequence{s.waiting, s.running} {
		for _, q := range list {
			if q.r.ctx.Err() != nil || q.r.stream.drops.Load() {
				unwanted = append(unwanted, q)
			}
		}
	}
	for _, q := range unwanted {
		// While one sequence stands for all choices, none can be ended by itself.
		if err := context.Cause(q.r.ctx); err != nil {
			s.end(q.r, err)
		} else if !q.joint && q.r.stream.isDropped(q.choice) {
			s.through(q)
		}
	}
}

// open brings the pools onto a device. If that fails, all requests end.
func (s *Scheduler) open() {
	s.decision, s.leaving, s.served = route.Decision{}, false, false
	g, err := s.exec.Open(s.ctx, &s.decision)
	if err == nil && s.o.Sources {
		s.cross, err = kvcache.New(g.Cross)
	}
	if err == nil {
		s.cache, err = kvcache.New(g.Own)
	}
	if err == nil || s.ctx.Err() != nil {
		return
	}
	for _, q := range slices.Clone(s.waiting) {
		s.tell(q.r)
		s.end(q.r, err)
	}
}

// tell shows a request's reader where it runs.
func (s *Scheduler) tell(r *request) { r.stream.decided(&s.decision, r.deaths) }

// end ends all choices of a request; nil: they are through.
func (s *Scheduler) end(r *request, err error) {
	if r.ended {
		return
	}
	r.ended = true
	for _, list := range []*[]*sequence{&s.waiting, &s.running} {
		*list = slices.DeleteFunc(*list, func(q *sequence) bool {
			if q.r == r {
				s.forget(q)
			}
			return q.r == r
		})
	}
	s.detach(r)
	if !r.begun {
		s.begin(r)
	}
	switch {
	case err == nil:
		s.count.Finished++
	case r.ctx.Err() != nil:
		s.count.Cancelled++
	default:
		s.count.Failed++
	}
	r.stream.end(err)
}

// through ends one choice, and the request with the last.
func (s *Scheduler) through(q *sequence) {
	s.waiting, s.running = remove(s.waiting, q), remove(s.running, q)
	s.forget(q)
	if q.r.left--; q.r.left == 0 {
		s.end(q.r, nil)
	}
}

// forget gives up what a sequence holds in the pools and in host memory.
func (s *Scheduler) forget(q *sequence) {
	if q.swapped != nil {
		s.count.SwapBytes -= q.swapped.Bytes()
		s.count.Swapped--
		q.swapped.Release()
	} else if q.pages != nil {
		q.pages.Close()
	}
	q.swapped, q.pages = nil, nil
}

// begin counts a request as taken in.
func (s *Scheduler) begin(r *request) {
	r.begun = true
	s.mu.Lock()
	s.unbegun--
	s.mu.Unlock()
}

// publish shows the state to Stats.
func (s *Scheduler) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := s.stats.Refused
	s.stats = s.count
	s.stats.Refused = refused
	s.stats.Waiting, s.stats.Running = len(s.waiting), len(s.running)
	if s.cache != nil {
		s.stats.Cache = s.cache.Stats()
	}
	if s.cross != nil {
		s.stats.Cross = s.cross.Stats()
	}
	s.stats.Cache.Counts.Add(s.past)
}
