package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// PoolOptions say how large a decoder's pools are.
type PoolOptions struct {
	PageSize int64 // tokens
	Pages    int64 // page 0 included; 0: as Bytes says
	Bytes    int64 // of all pools together; 0: what useful and the device's free memory allow
	Useful   int64 // tokens that all sequences may have together; more pages serve nobody

	// The same of sources, where the model has them; Bytes is divided as Useful and UsefulRows are.
	CrossPages int64
	UsefulRows int64
}

const (
	// unknownMemory is what the pools get on a device that does not tell its memory.
	unknownMemory = 1 << 30
	// poolShare is the part of a device's free memory that the pools get unless told.
	poolShare = 0.5
)

// decoder is where a scheduler's steps run: Decode of a model with its pools, on one
// device at a time. It is a schedule.Executor, and so is used by one goroutine.
type decoder struct {
	runner  *Runner
	prepare *Runner // of models.Prepare; nil: there are no sources
	model   *models.Decoder
	output  string // that a step gives, rows of width numbers
	width   int64
	o       PoolOptions

	at     route.Device // zero: nowhere
	static bool         // at takes fixed shapes only
	pages  int64
	pools  []Pool  // as model.Pools
	bound  []Pool  // what Decode takes: pools, and those of sources to be read
	page   []int64 // bytes of a page in each
	cross  crossPools
	mu     sync.Mutex         // of placed, for those who ask from elsewhere
	placed map[sizes]*graphOn // by padded sizes; dynamic shapes: by none
	tenant *tenant            // nil: nothing is held
	wanted chan struct{}      // holds one if others want the device
	used   atomic.Int64       // when a step or encoding began or ended last, in Unix nanoseconds
	frame  frame
	result func() // lets go of the last logits
	stale  int    // losses of idle devices in a row
}

// graphOn is Decode compiled.
type graphOn struct {
	*placement
	narrow map[string]bool // inputs that lowering made int32
}

// sizes are the dimensions of a step. crossEach and embeds are 0 where the model has no such inputs.
type sizes struct{ tokens, sequences, pagesEach, selected, crossEach, embeds int64 }

// newDecoder makes an executor; prepare is nil for models without sources.
func newDecoder(r, prepare *Runner, m *models.Decoder, o PoolOptions) *decoder {
	return &decoder{runner: r, prepare: prepare, model: m, output: models.Logits, width: m.VocabSize, o: o, wanted: make(chan struct{}, 1), placed: map[sizes]*graphOn{}, cross: crossPools{placed: map[string]*graphOn{}}}
}

// Decoder is where a scheduler runs the steps of a session's model, which has to be a decoder.
func (s *Session) Decoder(o PoolOptions) (schedule.Executor, error) {
	x, err := s.decoder(o)
	if err != nil {
		return nil, err
	}
	return x, nil
}

// Hidden is Decoder for the last hidden states in the place of logits: rows of Model.Decoder.Hidden
// numbers. Models with a source have none.
func (s *Session) Hidden(o PoolOptions) (schedule.Executor, error) {
	p, err := s.Part(models.Hidden)
	if err != nil {
		return nil, err
	}
	x := newDecoder(p.Runner, nil, s.Model.Decoder, o)
	x.output, x.width = models.LastHiddenState, s.Model.Decoder.Hidden
	return x, nil
}

func (s *Session) decoder(o PoolOptions) (*decoder, error) {
	if s.Model.Decoder.Cross == nil {
		return newDecoder(s.Runner, nil, s.Model.Decoder, o), nil
	}
	prepare, err := s.Part(models.Prepare)
	if err != nil {
		return nil, err
	}
	return newDecoder(s.Runner, prepare.Runner, s.Model.Decoder, o), nil
}

// Open is schedule.Executor's.
func (x *decoder) Open(ctx context.Context, d *route.Decision) (schedule.Pools, error) {
	x.leave()
	err := x.runner.seek(ctx, d, func(dev route.Device) error {
		begun := time.Now()
		p, err := x.settle(ctx, dev)
		if err != nil {
			x.leave()
			return err
		}
		d.Chosen, d.Pieces = p.decision(dev)
		x.runner.log.Info("placed a decoder", "model", x.runner.query.Model, "device", dev.Ref, "kind", string(dev.Kind), "pages", x.pages,
			"page_size", x.o.PageSize, "pool_bytes", x.pages*x.pageBytes()+x.cross.pages*x.crossPageBytes(), "took", time.Since(begun).Round(time.Millisecond).String())
		return nil
	})
	if err != nil {
		return schedule.Pools{}, err
	}
	pools := schedule.Pools{Own: kvcache.Geometry{Pages: int(x.pages), PageSize: int(x.o.PageSize), PageBytes: x.pageBytes(), Window: x.window()}}
	if x.model.Cross != nil {
		pools.Cross = kvcache.Geometry{Pages: int(x.cross.pages), PageSize: int(x.o.PageSize), PageBytes: x.crossPageBytes()}
	}
	return pools, nil
}

// window is how far back any layer looks; 0: to the beginning.
func (x *decoder) window() int {
	if slices.Contains(x.model.Windows, 0) || len(x.model.Windows) == 0 {
		return 0
	}
	return int(slices.Max(x.model.Windows))
}

func (x *decoder) pageBytes() int64 { return bytesOf(x.model.Pools, x.o.PageSize) }

func (x *decoder) crossPageBytes() int64 {
	if x.model.Cross == nil {
		return 0
	}
	return bytesOf(x.model.Cross.Pools, x.o.PageSize)
}

// bytesOf is the size of a page in all pools.
func bytesOf(pools []models.Pool, pageSize int64) int64 {
	var n int64
	for _, p := range pools {
		n += p.PageBytes(pageSize)
	}
	return n
}

// settle brings graph and pools onto a device.
func (x *decoder) settle(ctx context.Context, dev route.Device) (*placement, error) {
	info, ok := x.runner.fleet.Device(dev.Ref)
	if !ok {
		return nil, backend.BadState("device %s is gone", dev.Ref)
	}
	x.at, x.static = dev, info.StaticShapes
	x.pages, x.cross.pages = x.fitting(info)
	if err := x.enter(ctx); err != nil {
		return nil, err
	}
	g, err := x.graph(ctx, x.padded(sizes{tokens: 1, sequences: 1, pagesEach: 1, selected: 1}))
	if err != nil {
		return nil, err
	}
	if err := x.alloc(ctx); err != nil {
		return nil, err
	}
	return g.placement, x.resize()
}

// enter makes room for graphs and pools.
func (x *decoder) enter(ctx context.Context) error {
	select {
	case <-x.wanted: // what was held before
	default:
	}
	x.touch()
	t := &tenant{model: x.runner.query.Model, component: x.runner.component(), used: func() time.Time { return time.Unix(0, x.used.Load()) }, leave: func() {
		select {
		case x.wanted <- struct{}{}:
		default:
		}
	}}
	if err := x.runner.keeper.enter(ctx, t, map[string]int64{x.at.Ref: x.bytes()}); err != nil {
		return err
	}
	x.tenant = t
	return nil
}

// touch notes that the device is in use.
func (x *decoder) touch() { x.used.Store(time.Now().UnixNano()) }

// Wanted is schedule.Executor's.
func (x *decoder) Wanted() <-chan struct{} { return x.wanted }

// bytes is what graphs and pools take on the device: those that are not there yet are counted as one of each graph.
func (x *decoder) bytes() int64 {
	n := x.pages*x.pageBytes() + x.cross.pages*x.crossPageBytes()
	for _, g := range x.placed {
		n += x.runner.measured(&g.pieces[0])
	}
	if len(x.placed) == 0 {
		n += x.runner.size(x.at.Ref, x.runner.source.Graph)
	}
	if x.prepare == nil {
		return n
	}
	for _, g := range x.cross.placed {
		n += x.prepare.measured(&g.pieces[0])
	}
	if len(x.cross.placed) == 0 {
		n += x.prepare.size(x.at.Ref, x.prepare.source.Graph)
	}
	return n
}

// resize tells what is held now.
func (x *decoder) resize() error {
	return x.runner.keeper.resize(x.tenant, map[string]int64{x.at.Ref: x.bytes()})
}

// weights is what graphs take on the device at the least.
func (x *decoder) weights() int64 {
	n := x.runner.size(x.at.Ref, x.runner.source.Graph)
	if x.prepare != nil {
		n += x.prepare.size(x.at.Ref, x.prepare.source.Graph)
	}
	return n
}

// fitting are the numbers of pages for a device, page 0 included: for tokens, and for sources
// where there are any.
func (x *decoder) fitting(info backend.Device) (own, cross int64) {
	sources := x.model.Cross != nil
	if x.o.Pages > 0 {
		if sources {
			cross = max(2, x.o.CrossPages)
		}
		return max(2, x.o.Pages), cross
	}
	room := x.o.Bytes
	if room == 0 {
		room = unknownMemory
		if info.MemoryFree > 0 {
			room = int64(float64(info.MemoryFree) * poolShare)
		}
		if budget := x.runner.keeper.budget; budget > 0 {
			room = min(room, int64(float64(max(0, budget-x.weights()))*poolShare))
		}
	}
	useful := (x.o.Useful/x.o.PageSize + 2) * x.pageBytes()
	usefulCross := int64(0)
	if sources {
		usefulCross = (x.o.UsefulRows/x.o.PageSize + 2) * x.crossPageBytes()
	}
	// Memory that was asked for is used whole; else no more than is of use.
	if x.o.Bytes == 0 {
		room = min(room, useful+usefulCross)
	}
	share := int64(float64(room) * float64(useful) / float64(useful+usefulCross))
	if sources {
		cross = max(2, (room-share)/x.crossPageBytes())
	}
	return max(2, share/x.pageBytes()), cross
}

// alloc makes the pools, fewer pages than planned where nobody said how many and the
// device has not the memory.
func (x *decoder) alloc(ctx context.Context) error {
	for {
		err := x.allocPages(ctx)
		var e *backend.Error
		if err == nil || x.o.Pages+x.o.Bytes != 0 || x.static || x.pages <= 2 || !errors.As(err, &e) || e.Code != backend.CodeOutOfMemory {
			return err
		}
		x.pages = max(2, x.pages/2)
		if x.cross.pages > 0 {
			x.cross.pages = max(2, x.cross.pages/2)
		}
	}
}

func (x *decoder) allocPages(ctx context.Context) error {
	for _, p := range x.model.Pools {
		made, err := x.allocPool(ctx, p, x.pages)
		if err != nil {
			return err
		}
		x.page = append(x.page, p.PageBytes(x.o.PageSize))
		x.pools = append(x.pools, made)
	}
	x.bound = append(x.bound[:0], x.pools...)
	if x.model.Cross == nil {
		return nil
	}
	for _, p := range x.model.Cross.Pools {
		made, err := x.allocPool(ctx, p, x.cross.pages)
		if err != nil {
			return err
		}
		x.cross.pools = append(x.cross.pools, made)
		made.Output = "" // Decode only reads it
		x.bound = append(x.bound, made)
	}
	return nil
}

// allocPool makes one pool, or gives all back.
func (x *decoder) allocPool(ctx context.Context, p models.Pool, pages int64) (Pool, error) {
	b, err := x.runner.fleet.Alloc(ctx, x.at.Ref, pages*p.PageBytes(x.o.PageSize))
	if err != nil {
		x.free()
		return Pool{}, fmt.Errorf("%d pages of %d tokens for %s: %w", pages, x.o.PageSize, p.Name, err)
	}
	return Pool{Input: p.Name, Output: p.Output, DType: p.DType, Buffer: b, Shape: append(tensor.Shape{pages, x.o.PageSize}, p.Row...)}, nil
}

// free gives the pools back. What dies with its device is gone already.
func (x *decoder) free() {
	for _, p := range slices.Concat(x.pools, x.cross.pools) {
		if err := p.Buffer.Close(); err != nil {
			x.runner.log.Debug("a pool was not given back", "device", x.at.Ref, "error", err)
		}
	}
	x.pools, x.page, x.bound, x.cross.pools = nil, nil, nil, nil
}

// leave gives up the device.
func (x *decoder) leave() {
	x.letGo()
	x.free()
	x.freeGraphs()
	x.at = route.Device{}
	if x.tenant != nil {
		x.runner.keeper.gone(x.tenant)
		x.tenant = nil
	}
}

// freeGraphs gives Decode and Prepare back. The last logits are let go of before.
func (x *decoder) freeGraphs() {
	for _, g := range x.placed {
		for _, p := range g.pieces {
			x.runner.freePiece(p)
		}
	}
	for _, g := range x.cross.placed {
		for _, p := range g.pieces {
			x.prepare.freePiece(p)
		}
	}
	x.mu.Lock()
	clear(x.placed)
	clear(x.cross.placed)
	x.mu.Unlock()
}

func (x *decoder) letGo() {
	if x.result != nil {
		x.result()
		x.result = nil
	}
}

// Close is schedule.Executor's.
func (x *decoder) Close() error {
	x.leave()
	return nil
}

// graph returns Decode compiled for these sizes, or for any where the device takes
// symbolic ones.
func (x *decoder) graph(ctx context.Context, z sizes) (*graphOn, error) {
	key, smoke := sizes{}, x.padded(sizes{tokens: 1, sequences: 1, pagesEach: 1, selected: 1})
	pages, crossPages := int64(2), int64(2)
	var fixed dims
	if x.static {
		key, smoke, pages, crossPages = z, z, x.pages, x.cross.pages
		fixed = dims{models.Tokens: z.tokens, models.Sequences: z.sequences, models.SequencesOne: z.sequences + 1, models.PagesEach: z.pagesEach,
			models.Selected: z.selected, models.Pages: x.pages, models.PageSize: x.o.PageSize}
		if z.crossEach > 0 {
			fixed[models.CrossPagesEach], fixed[models.CrossPages] = z.crossEach, x.cross.pages
		}
		if z.embeds > 0 {
			fixed[models.EmbedCount] = z.embeds
		}
	}
	if g := x.placed[key]; g != nil {
		return g, nil
	}
	values, err := x.smoke(smoke, pages, crossPages)
	if err != nil {
		return nil, err
	}
	if len(x.placed) > 0 {
		x.spare(x.runner)
	}
	g, err := x.bring(ctx, x.runner, fixed, values)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	x.placed[key] = g
	x.mu.Unlock()
	return g, x.resize()
}

// spare lets go of the graphs that there are where one more, of other sizes, would pass the budget: a decoder that has its
// device never waits for more of it.
func (x *decoder) spare(r *Runner) {
	if budget := r.keeper.budget; budget > 0 && x.bytes()+r.size(x.at.Ref, r.source.Graph) > budget {
		x.freeGraphs()
	}
}

// bring compiles a graph for the device; values are what its smoke run is on.
func (x *decoder) bring(ctx context.Context, r *Runner, fixed dims, values map[string]graph.Datum) (*graphOn, error) {
	pieces, err := r.lower(ctx, x.at, fixed, fixed)
	if err != nil {
		return nil, err
	}
	piece := &pieces[0]
	g := &graphOn{placement: &placement{key: placeKey{device: x.at.Ref, dims: fixed.key()}, pieces: pieces}, narrow: map[string]bool{}}
	for _, v := range piece.Graph.Graph.Inputs {
		if v.Type != nil && v.Type.Elem == tensor.Int32 {
			g.narrow[v.Name] = true
		}
	}
	values, err = feed(piece.Graph.Graph, values)
	if err == nil {
		piece.exe, err = r.fleet.Compile(ctx, x.at.Ref, backend.CompileSpec{Dir: piece.Dir, MemoryBudget: r.keeper.budget, SmokeInputs: values}, r.progress)
	}
	if err != nil {
		r.freePiece(*piece)
		return nil, &pieceError{device: x.at, compiling: true, err: err}
	}
	return g, nil
}

// Placements lists where Decode and Prepare are now. It may be called from any goroutine.
func (x *decoder) Placements() []Placement {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []Placement
	for _, g := range x.placed {
		out = append(out, g.describe()...)
	}
	for _, g := range x.cross.placed {
		out = append(out, g.describe()...)
	}
	slices.SortFunc(out, func(a, b Placement) int { return cmp.Compare(a.Shapes, b.Shapes) })
	return out
}

// smoke is a step of nothing but padding, over pools of so many pages.
func (x *decoder) smoke(z sizes, pages, crossPages int64) (map[string]graph.Datum, error) {
	var f frame
	f.pad(z, x.o.PageSize, x.model.Embeds)
	values := map[string]graph.Datum{}
	for _, in := range f.inputs(nil, x.model.Embeds) {
		values[in.Name] = graph.TensorDatum(in.Tensor)
	}
	err := x.empty(values, x.model.Pools, pages)
	if err == nil && x.model.Cross != nil {
		err = x.empty(values, x.model.Cross.Pools, crossPages)
	}
	return values, err
}

// empty adds pools of zeros.
func (x *decoder) empty(values map[string]graph.Datum, pools []models.Pool, pages int64) error {
	for _, p := range pools {
		t, err := tensor.New(p.DType, append(tensor.Shape{pages, x.o.PageSize}, p.Row...))
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
		values[p.Name] = graph.TensorDatum(t)
	}
	return nil
}

// Step is schedule.Executor's.
func (x *decoder) Step(ctx context.Context, s *schedule.Step) ([]float32, error) {
	x.letGo()
	x.touch()
	defer x.touch()
	logits, err := x.step(ctx, s)
	return logits, x.outcome(err)
}

func (x *decoder) step(ctx context.Context, s *schedule.Step) ([]float32, error) {
	z := sizes{tokens: int64(len(s.InputIDs)), sequences: int64(len(s.Lengths)), pagesEach: int64(s.PageWidth), selected: int64(len(s.Select)), crossEach: int64(s.CrossWidth)}
	if x.model.Embeds > 0 {
		z.embeds = int64(len(s.EmbedRows)) / x.model.Embeds
	}
	z = x.padded(z)
	g, err := x.graph(ctx, z)
	if err != nil {
		return nil, err
	}
	if err := x.copyPages(ctx, s.Copies); err != nil {
		return nil, err
	}
	f := &x.frame
	f.fill(s)
	f.pad(z, x.o.PageSize, x.model.Embeds)
	t, release, err := g.pieces[0].exe.Advance(ctx, f.inputs(g.narrow, x.model.Embeds), x.bound, x.output, s.Alone)
	if err != nil {
		return nil, err
	}
	x.result = release
	want := tensor.Shape{z.selected, x.width}
	if t.DType != tensor.Float32 || !t.Shape.Equal(want) {
		return nil, fmt.Errorf("%s gave %s %s%v, wants float32%v", x.at.Ref, x.output, t.DType, t.Shape, want)
	}
	return tensor.View[float32](t.Aligned())[:int64(len(s.Select))*x.width], nil
}

// outcome tells the scheduler where the device or its process is gone.
func (x *decoder) outcome(err error) error {
	if err == nil {
		x.stale = 0
		return nil
	}
	lost := &schedule.LostError{Device: x.at.Ref, Platform: x.at.Platform, Err: err}
	if death, died := x.runner.fleet.Died(err); died {
		if at := (&pieceError{}); errors.As(err, &at) && at.compiling {
			x.runner.compileDied(x.at.Ref, death)
		}
		lost.Reason, lost.Stderr = death.Reason, death.Stderr
		return lost
	}
	if x.stale++; x.stale <= maxStale && x.runner.fleet.Replayable(err) {
		lost.Reason, lost.Idle = err.Error(), true
		return lost
	}
	return err
}

func (x *decoder) copyPages(ctx context.Context, copies []kvcache.PageCopy) error {
	if len(copies) == 0 {
		return nil
	}
	pairs := make([][2]Range, 0, len(copies)*len(x.pools))
	for _, c := range copies {
		for i := range x.pools {
			pairs = append(pairs, [2]Range{x.pageOf(i, c.From), x.pageOf(i, c.To)})
		}
	}
	return x.runner.fleet.Copy(ctx, x.at.Ref, pairs)
}

// pageOf is a page of pool i.
func (x *decoder) pageOf(i int, page int64) Range {
	return Range{Buffer: x.pools[i].Buffer, Offset: page * x.page[i], Bytes: x.page[i]}
}

// swapped is pages in host memory: pool after pool of each page.
type swapped struct{ data []byte }

func (s *swapped) Bytes() int64 { return int64(len(s.data)) }
func (s *swapped) Release()     { s.data = nil }

// SwapOut is schedule.Executor's.
func (x *decoder) SwapOut(ctx context.Context, pages []int64) (schedule.Swapped, error) {
	data, err := x.runner.fleet.Read(ctx, x.at.Ref, x.ranges(pages))
	if err != nil {
		return nil, x.outcome(err)
	}
	return &swapped{data}, nil
}

// SwapIn is schedule.Executor's.
func (x *decoder) SwapIn(ctx context.Context, s schedule.Swapped, pages []int64) error {
	saved := s.(*swapped).data
	var data []byte
	var wanted []int64
	for i, p := range pages {
		if p != 0 {
			wanted = append(wanted, p)
			data = append(data, saved[int64(i)*x.pageBytes():int64(i+1)*x.pageBytes()]...)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return x.outcome(x.runner.fleet.Write(ctx, x.at.Ref, x.ranges(wanted), data))
}

func (x *decoder) ranges(pages []int64) []Range {
	var list []Range
	for _, p := range pages {
		for i := range x.pools {
			list = append(list, x.pageOf(i, p))
		}
	}
	return list
}
