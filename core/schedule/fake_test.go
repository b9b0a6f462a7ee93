package schedule

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/tensor"
)

// fake is an executor whose pools hold the tokens themselves and whose logits are a
// function of what a token finds when it looks back through its table: a sequence that
// reads anything but its own text says something else than oracle does.
type fake struct {
	vocab    int
	geometry kvcache.Geometry
	sources  kvcache.Geometry // zero: it has none
	embeds   int              // width of rows that come as embeddings

	mu      sync.Mutex // for what tests look at while it runs
	pools   []int64    // token + 1; 0: never written
	cross   []int64    // what sources say, of the same kind
	encoded int
	opened  int
	closed  int
	steps   int
	shapes  []shape
	swapped int // not released yet
	swaps   int
	logits  []float32
	bad     []error // what the pools or steps were found to have wrong

	openErr error
	stepErr func(n int, s *Step) error // nil: none; n counts from 1, before the run
	swapErr func(out bool) error
	encErr  func(n int) error // as stepErr
	delay   time.Duration
	hold    chan struct{} // a step waits until it can read
	gate    chan struct{} // Open waits for its end
	wanted  chan struct{} // nil: others never want the device
}

func (f *fake) Wanted() <-chan struct{} { return f.wanted }

// want says that others want the device.
func (f *fake) want() {
	select {
	case f.wanted <- struct{}{}:
	default:
	}
}

type shape struct {
	tokens, sequences int
	members           []Member
	first             int64 // position of the first token
	alone             bool
}

func newFake(pages, pageSize int) *fake {
	return &fake{vocab: 61, geometry: kvcache.Geometry{Pages: pages, PageSize: pageSize, PageBytes: 1 << 20}, gate: make(chan struct{})}
}

func (f *fake) Open(_ context.Context, d *route.Decision) (Pools, error) {
	<-f.gate
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.openErr != nil {
		return Pools{}, f.openErr
	}
	f.opened++
	d.Model, d.Chosen = "fake", route.Choice{Platform: "fake", Device: "fake:0"}
	f.pools = make([]int64, f.geometry.Pages*f.geometry.PageSize)
	f.cross = make([]int64, f.sources.Pages*f.sources.PageSize)
	return Pools{f.geometry, f.sources}, nil
}

// source is what a test's source says in each row: numbers that depend on all of it.
func source(seed, rows int) *Source {
	r := &Source{Rows: rows, Inputs: map[string]tensor.Tensor{"text": tensor.Ints(tensor.Shape{int64(rows)}, prompt(seed, rows)...)}}
	r.Hash[0], r.Hash[1] = byte(seed), byte(rows)
	return r
}

func (f *fake) Encode(_ context.Context, e *Encoding) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.encoded++
	if f.encErr != nil {
		if err := f.encErr(f.encoded); err != nil {
			return err
		}
	}
	text := tensor.View[int64](e.Inputs["text"])
	if len(text) != len(e.Slots) {
		f.wrong("encoding of %d rows into %d places", len(text), len(e.Slots))
	}
	for i, at := range e.Slots {
		if at >= int64(f.sources.PageSize) {
			f.cross[at] = text[i] + 1
		}
	}
	return nil
}

// embed is a run of rows whose first numbers a fake tells apart.
func (f *fake) embed(at, seed, rows int) Embed {
	e := Embed{At: at, Rows: make([]float32, rows*f.embeds)}
	for i := range rows {
		e.Rows[i*f.embeds] = float32(seed*1000 + i)
	}
	e.Hash[0], e.Hash[1] = byte(seed), byte(rows)
	return e
}

// said is what stands for a request's tokens in the pools, less 1.
func (f *fake) said(r *Request, tokens []int64) []int64 {
	out := slices.Clone(tokens)
	for _, e := range r.Embeds {
		for i := range len(e.Rows) / f.embeds {
			out[e.At+i] = 1000000 + int64(e.Rows[i*f.embeds])
		}
	}
	return out
}

func (f *fake) wrong(format string, args ...any) { f.bad = append(f.bad, fmt.Errorf(format, args...)) }

func (f *fake) Step(ctx context.Context, s *Step) ([]float32, error) {
	if f.hold != nil {
		select {
		case <-f.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps++
	if f.stepErr != nil {
		if err := f.stepErr(f.steps, s); err != nil {
			return nil, err
		}
	}
	time.Sleep(f.delay)
	size := int64(f.geometry.PageSize)
	f.shapes = append(f.shapes, shape{len(s.InputIDs), len(s.Lengths), slices.Clone(s.Sequences), s.Positions[0], s.Alone})
	from, to := map[int64]bool{}, map[int64]bool{}
	for _, c := range s.Copies {
		if to[c.To] || from[c.To] || to[c.From] {
			f.wrong("step %d: copies %v depend on each other", f.steps, s.Copies)
		}
		from[c.From], to[c.To] = true, true
		copy(f.pools[c.To*size:][:size], f.pools[c.From*size:][:size])
	}
	if len(s.Starts) != len(s.Lengths)+1 || s.Starts[0] != 0 || int(s.Starts[len(s.Lengths)]) != len(s.InputIDs) ||
		len(s.Positions) != len(s.InputIDs) || len(s.Slots) != len(s.InputIDs) || len(s.PageTables) != len(s.Lengths)*s.PageWidth {
		f.wrong("step %d: sizes don't agree: %+v", f.steps, *s)
	}
	owner := map[int64]int{}
	for b := range s.Lengths {
		n := s.Starts[b+1] - s.Starts[b]
		for t := s.Starts[b]; t < s.Starts[b+1]; t++ {
			p := s.Lengths[b] - n + t - s.Starts[b]
			page := s.PageTables[int64(b*s.PageWidth)+p/size]
			if s.Positions[t] != p || s.Slots[t] != page*size+p%size || page == 0 {
				f.wrong("step %d: token %d of sequence %d: position %d, slot %d, page %d", f.steps, t, b, s.Positions[t], s.Slots[t], page)
			}
			if o, there := owner[page]; there && o != b {
				f.wrong("step %d: sequences %d and %d write to page %d", f.steps, o, b, page)
			}
			owner[page] = b
			f.pools[s.Slots[t]] = s.InputIDs[t] + 1
			if len(s.EmbedIndex) > 0 && s.EmbedIndex[t] >= 0 {
				f.pools[s.Slots[t]] = 1000001 + int64(s.EmbedRows[int(s.EmbedIndex[t])*f.embeds])
			}
		}
	}
	f.logits = f.logits[:0]
	for _, t := range s.Select {
		b := 0
		for s.Starts[b+1] <= t {
			b++
		}
		p := s.Positions[t]
		var seen []int64
		for j := range s.CrossLengths[min(b, len(s.CrossLengths)):min(b+1, len(s.CrossLengths))] {
			for i := range s.CrossLengths[b+j] {
				size := int64(f.sources.PageSize)
				seen = append(seen, f.cross[s.CrossTables[int64(b*s.CrossWidth)+i/size]*size+i%size]-1)
			}
		}
		for j := max(0, p+1-f.window(p)); j <= p; j++ {
			seen = append(seen, f.pools[s.PageTables[int64(b*s.PageWidth)+j/size]*size+j%size]-1)
		}
		f.logits = append(f.logits, oracleLogits(f.vocab, seen, p)...)
	}
	return f.logits, nil
}

func (f *fake) window(p int64) int64 {
	if f.geometry.Window > 0 {
		return int64(f.geometry.Window)
	}
	return p + 1
}

type fakeSwap struct {
	f     *fake
	bytes []int64
	done  bool
}

func (w *fakeSwap) Bytes() int64 {
	return int64(len(w.bytes)/w.f.geometry.PageSize) * w.f.geometry.PageBytes
}

func (w *fakeSwap) Release() {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if w.done {
		w.f.wrong("a swap was released twice")
	}
	w.done = true
	w.f.swapped--
}

func (f *fake) SwapOut(_ context.Context, pages []int64) (Swapped, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.swapErr != nil {
		if err := f.swapErr(true); err != nil {
			return nil, err
		}
	}
	w := &fakeSwap{f: f}
	for _, p := range pages {
		w.bytes = append(w.bytes, f.pools[int(p)*f.geometry.PageSize:][:f.geometry.PageSize]...)
	}
	f.swapped++
	f.swaps++
	return w, nil
}

func (f *fake) SwapIn(_ context.Context, s Swapped, pages []int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.swapErr != nil {
		if err := f.swapErr(false); err != nil {
			return err
		}
	}
	w, size := s.(*fakeSwap), f.geometry.PageSize
	if len(pages)*size != len(w.bytes) {
		f.wrong("swap in of %d pages, %d were swapped out", len(pages), len(w.bytes)/size)
	}
	for i, p := range pages {
		if p != 0 {
			copy(f.pools[int(p)*size:][:size], w.bytes[i*size:][:size])
		}
	}
	return nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

// oracleLogits is the model: a row that depends on every token seen and on the position.
func oracleLogits(vocab int, seen []int64, p int64) []float32 {
	h := fnv.New64a()
	fmt.Fprint(h, seen, p)
	row := make([]float32, vocab)
	for i, x := 0, h.Sum64(); i < vocab; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		row[i] = float32(x%4096)/256 - 8
	}
	return row
}

// oracle is what one choice of a request says, computed without any cache.
func oracle(t testing.TB, f *fake, r Request, choice int) []int64 {
	t.Helper()
	o, err := Options{Vocabulary: f.vocab}.complete()
	if err != nil {
		t.Fatal(err)
	}
	r.N = max(r.N, 1)
	q := newSequence(&request{Request: r}, &o)
	q.chooser = q.r.choosers[choice]
	for {
		p := int64(len(q.tokens) - 1)
		seen := f.said(&r, q.tokens)[max(0, p+1-f.window(p)):]
		if r.Source != nil {
			seen = slices.Concat(tensor.View[int64](r.Source.Inputs["text"]), seen)
		}
		j := job{q: q}
		if j.draw(&sampler{}, oracleLogits(f.vocab, seen, p), "oracle"); j.err != nil {
			t.Fatal(j.err)
		}
		if j.token.Finish != "" || len(q.tokens) > 4096 {
			return q.tokens[len(r.Prompt):]
		}
	}
}

// read reads a stream to its end.
func read(s *Stream, n int) (texts [][]int64, finishes []Finish, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	texts, finishes = make([][]int64, n), make([]Finish, n)
	for {
		token, err := s.Next(ctx)
		if err != nil {
			return texts, finishes, err
		}
		texts[token.Choice] = append(texts[token.Choice], token.ID)
		finishes[token.Choice] = token.Finish
	}
}

// settled checks what must hold when a scheduler has nothing to do, and closes it.
func settled(t *testing.T, s *Scheduler, f *fake) Stats {
	t.Helper()
	var st Stats
	for range 200 {
		if st = s.Stats(); st.Running+st.Waiting+st.Cache.Used == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if st.Running+st.Waiting+st.Swapped+st.Cache.Used+st.Cache.Shared+st.Cross.Used+st.Cross.Shared != 0 || st.SwapBytes != 0 || st.Cache.Free+st.Cache.Cached != st.Cache.Pages {
		t.Errorf("at rest, something is held still: %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, err := range f.bad {
		t.Error(err)
	}
	if f.swapped != 0 {
		t.Errorf("%d swaps were not released", f.swapped)
	}
	if want := 1 + int(st.Rests); f.closed != want {
		t.Errorf("the executor was closed %d times, not %d", f.closed, want)
	}
	return st
}

// start starts a scheduler; gated one that takes no step before together.
func start(t *testing.T, f *fake, o Options) *Scheduler {
	t.Helper()
	close(f.gate)
	return gated(t, f, o)
}

func gated(t *testing.T, f *fake, o Options) *Scheduler {
	t.Helper()
	o.Vocabulary, o.Embeds, o.Sources = f.vocab, f.embeds, f.sources.Pages > 0
	s, err := New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// together submits requests such that all are there before the first step.
func together(t *testing.T, s *Scheduler, f *fake, requests ...Request) []*Stream {
	t.Helper()
	var streams []*Stream
	for _, r := range requests {
		streams = append(streams, submit(t, s, r))
	}
	close(f.gate)
	return streams
}

func prompt(seed, n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64((seed*31 + i*i*7 + i) % 61)
	}
	return out
}

func lost(reason string) error {
	return fmt.Errorf("step: %w", &LostError{Device: "fake:0", Platform: "fake", Reason: reason, Stderr: "last words", Err: errors.New(reason)})
}

var nan = float32(math.NaN())
