package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
)

const (
	// maxPlacements bounds the compiled shapes that one graph keeps.
	maxPlacements = 16
	// soloAfter is the number of deaths that a request was in flight at after which
	// it runs alone; one more, and it is refused (design section 6).
	soloAfter = 2
	// compileDeaths is how often a device may die compiling a graph before the
	// graph stays away from it, for compileRest.
	compileDeaths = 2
	compileRest   = time.Minute
	// maxStale bounds how often one request finds its executable gone without a
	// death of its own.
	maxStale = 8
)

// Runner runs one graph wherever the route says. It compiles on demand, one
// executable a device (and shape bucket, for static devices), and replays a
// request whose device died.
type Runner struct {
	fleet    Fleet
	store    *lower.Store
	source   lower.Source
	paddable []string // symbolic dimensions whose padding with zeros is masked out
	query    route.Query
	log      hclog.Logger
	keeper   *keeper
	progress func(stage string, fraction float64) // nil: nobody looks

	mu     sync.Mutex
	placed map[placeKey]*placement
	sizes  map[string]int64         // bytes that the graph was found to take, by device
	deaths map[string]compileRecord // by device
	closed bool
}

type placeKey struct{ device, dims string }

type compileRecord struct {
	count int
	last  time.Time
	how   string
}

// placement is a graph on a device, or split between that and another. Users hold
// it while they run.
type placement struct {
	key     placeKey
	ready   chan struct{} // closed when pieces, or err, are set
	pieces  []piece       // in the order they run
	tenant  *tenant       // nil: it holds no memory
	err     error
	users   int
	used    time.Time
	dropped bool
}

func newRunner(f Fleet, store *lower.Store, source lower.Source, paddable []string, q route.Query, k *keeper, log hclog.Logger) *Runner {
	return &Runner{fleet: f, store: store, source: source, paddable: paddable, query: q, keeper: k, log: log,
		placed: map[placeKey]*placement{}, sizes: map[string]int64{}, deaths: map[string]compileRecord{}}
}

// Run computes the wanted outputs and writes into d where and why. d begins
// empty and is handed on through all runs of one request, for what a request
// lived through decides how it goes on.
func (r *Runner) Run(ctx context.Context, d *route.Decision, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
	var out map[string]graph.Datum
	err := r.on(ctx, d, inputs, func(p *placement, f fit) (err error) {
		out, err = r.run(ctx, p, f, inputs, wanted, len(d.Replays) >= soloAfter)
		return err
	})
	return out, err
}

// Bring has the graph on a device, as a Run of these inputs would. Nothing is run: what compiles has run there once.
func (r *Runner) Bring(ctx context.Context, d *route.Decision, inputs map[string]graph.Datum) error {
	return r.on(ctx, d, inputs, func(p *placement, _ fit) error {
		r.release(p, false)
		return nil
	})
}

// on hands the graph where it is placed for these inputs to use, which lets go of it.
func (r *Runner) on(ctx context.Context, d *route.Decision, inputs map[string]graph.Datum, use func(p *placement, f fit) error) error {
	asked, err := bind(r.source.Graph.Graph, inputs)
	if err != nil {
		return &backend.Error{Code: backend.CodeInvalid, Argument: "inputs", Message: err.Error()}
	}
	return r.seek(ctx, d, func(dev route.Device) error {
		p, f, err := r.place(ctx, dev, asked, inputs)
		if err != nil {
			return err
		}
		if err := use(p, f); err != nil {
			return err
		}
		d.Chosen, d.Pieces = p.decision(dev)
		return nil
	})
}

// seek tries one device after the other as the route has them, until try is content
// or nothing is left. A device that died is tried again, and its death is one of
// d's replays.
func (r *Runner) seek(ctx context.Context, d *route.Decision, try func(route.Device) error) error {
	excluded := map[string]route.Refusal{}
	stale := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		dev, err := r.choose(d, excluded)
		if err != nil {
			return err
		}
		if dev.Presence == route.Returning {
			back, err := r.await(ctx, dev)
			if err != nil {
				return err
			}
			// One that came back and went again, under others, is waited for again.
			if !back {
				ready, _ := r.presence(dev.Ref)
				excluded[dev.Ref] = route.Refusal{Platform: dev.Platform, Device: dev.Ref,
					Reason: fmt.Sprintf("did not come back within %v: %s", r.query.RestartWait, ready.Reason), Remedy: ready.Remedy}
			}
			continue
		}
		if err = try(dev); err == nil {
			return nil
		}
		if cause := ctx.Err(); cause != nil {
			if errors.Is(err, cause) {
				return err
			}
			return cause
		}
		if death, died := r.fleet.Died(err); died {
			at := &pieceError{device: dev}
			if errors.As(err, &at) && at.compiling {
				r.compileDied(at.device.Ref, death)
			}
			d.Replays = append(d.Replays, route.Refusal{Platform: at.device.Platform, Device: at.device.Ref, Reason: death.Reason})
			r.log.Warn("a device died under a request", "model", r.query.Model, "device", at.device.Ref, "reason", death.Reason, "deaths", len(d.Replays))
			if len(d.Replays) > soloAfter {
				return &PoisonedError{Model: r.query.Model, Deaths: d.Replays, Stderr: death.Stderr}
			}
			continue
		}
		if r.fleet.Replayable(err) {
			if stale++; stale <= maxStale {
				continue // the device restarted under somebody else's request
			}
		}
		refusal, next := refusalOf(dev, err)
		if !next {
			return err
		}
		excluded[dev.Ref] = refusal
	}
}

// choose plans and takes the best device; d's record begins anew each time, its
// replays excepted.
func (r *Runner) choose(d *route.Decision, excluded map[string]route.Refusal) (route.Device, error) {
	for ref, rec := range r.restingDevices() {
		if _, ok := excluded[ref]; !ok {
			excluded[ref] = rec
		}
	}
	q := r.query
	q.Excluded = excluded
	usable, plan, err := route.Plan(q, r.fleet.Devices())
	if err != nil {
		return route.Device{}, err
	}
	plan.Replays = d.Replays
	*d = plan
	if len(usable) == 0 {
		return route.Device{}, &NoPlatformError{Decision: plan}
	}
	return usable[0], nil
}

func (r *Runner) presence(ref string) (route.Device, bool) {
	for _, d := range r.fleet.Devices() {
		if d.Ref == ref {
			return d, true
		}
	}
	return route.Device{Presence: route.Undetected, Reason: "its backend is gone"}, false
}

// await waits for a device that restarts, no longer than the policy says. Its error
// is ctx's.
func (r *Runner) await(ctx context.Context, dev route.Device) (back bool, err error) {
	wait, cancel := context.WithTimeout(ctx, r.query.RestartWait)
	defer cancel()
	if r.fleet.WaitReady(wait, dev.Ref) == nil {
		return true, nil
	}
	return false, ctx.Err()
}

// refusalOf says why a device could not serve, and whether the next on the route
// may.
func refusalOf(dev route.Device, err error) (route.Refusal, bool) {
	r := route.Refusal{Platform: dev.Platform, Device: dev.Ref, Reason: err.Error()}
	var budget *BudgetError
	if errors.As(err, &budget) {
		return r, budget.Err == nil
	}
	var refused *lower.RefusedError
	if errors.As(err, &refused) {
		r.Remedy = "see `accel explain`"
		return r, true
	}
	var e *backend.Error
	if !errors.As(err, &e) {
		return r, false
	}
	switch e.Code {
	case backend.CodeInvalid, backend.CodeCancelled:
		return r, false
	}
	return r, true
}

func (r *Runner) compileDied(ref string, death Death) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.deaths[ref]
	rec.count++
	rec.last, rec.how = time.Now(), death.Reason
	if said, _, _ := strings.Cut(strings.TrimSpace(death.Stderr), "\n"); said != "" {
		rec.how += ": " + said
	}
	r.deaths[ref] = rec
}

// restingDevices are those that died compiling this graph too often.
func (r *Runner) restingDevices() map[string]route.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]route.Refusal{}
	for ref, rec := range r.deaths {
		switch {
		case time.Since(rec.last) > compileRest:
			delete(r.deaths, ref)
		case rec.count >= compileDeaths:
			platform, _, _ := strings.Cut(ref, ":")
			out[ref] = route.Refusal{Platform: platform, Device: ref, Reason: fmt.Sprintf("it died %d times compiling this model (%s)", rec.count, rec.how),
				Remedy: fmt.Sprintf("it is tried again after %v", compileRest)}
		}
	}
	return out
}

// run runs on a placement that place returned, and lets go of it.
func (r *Runner) run(ctx context.Context, p *placement, f fit, inputs map[string]graph.Datum, wanted []string, solo bool) (map[string]graph.Datum, error) {
	in, err := f.inputs(inputs)
	if err != nil {
		r.release(p, false)
		return nil, &backend.Error{Code: backend.CodeInvalid, Argument: "inputs", Message: err.Error()}
	}
	out, err := runPieces(ctx, p.pieces, in, wanted, solo)
	if err != nil {
		_, died := r.fleet.Died(err)
		r.release(p, died || r.fleet.Replayable(err))
		return nil, err
	}
	r.release(p, false)
	return f.outputs(out)
}

// place returns the graph on a device, brought there first if need be, held for
// one run.
func (r *Runner) place(ctx context.Context, dev route.Device, asked dims, inputs map[string]graph.Datum) (*placement, fit, error) {
	info, ok := r.fleet.Device(dev.Ref)
	if !ok {
		return nil, fit{}, backend.BadState("device %s is gone", dev.Ref)
	}
	f := fit{asked: asked, padded: asked, source: r.source.Graph.Graph}
	key := placeKey{device: dev.Ref}
	var fixed dims
	if info.StaticShapes {
		f.padded = r.padded(asked)
		fixed = f.padded
		key.dims = fixed.key()
	}
	p, mine, err := r.hold(key)
	if err != nil {
		return nil, fit{}, err
	}
	if mine {
		r.bring(ctx, p, dev, fixed, f, inputs)
	}
	select {
	case <-p.ready:
	case <-ctx.Done():
		r.release(p, false)
		return nil, fit{}, r.keeper.explain(r.query.Model, r.component(), ctx.Err())
	}
	if p.err != nil {
		r.release(p, true)
		return nil, fit{}, p.err
	}
	return p, f, nil
}

// padded are the sizes that a device with static shapes compiles for a request.
func (r *Runner) padded(asked dims) dims {
	out := dims{}
	for name, n := range asked {
		if slices.Contains(r.paddable, name) {
			n = bucket(n)
		}
		out[name] = n
	}
	return out
}

// hold takes a placement, or makes an empty one that the caller must bring.
func (r *Runner) hold(key placeKey) (p *placement, mine bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, false, errors.New("the model was closed")
	}
	p = r.placed[key]
	if p == nil {
		p = &placement{key: key, ready: make(chan struct{})}
		r.placed[key] = p
		mine = true
	}
	p.users++
	return p, mine, nil
}

// release lets go of a placement; drop takes it out of use, and the last to let go
// of a dropped one frees it.
func (r *Runner) release(p *placement, drop bool) {
	r.mu.Lock()
	var free []*placement
	p.users--
	p.used = time.Now()
	if drop && !p.dropped {
		r.drop(p)
	}
	if p.dropped && p.users == 0 {
		free = append(free, p)
	}
	if len(r.placed) > maxPlacements {
		if old := r.oldestIdle(); old != nil {
			r.drop(old)
			free = append(free, old)
		}
	}
	r.mu.Unlock()
	for _, p := range free {
		r.free(p)
	}
}

func (r *Runner) drop(p *placement) {
	p.dropped = true
	if r.placed[p.key] == p {
		delete(r.placed, p.key)
	}
}

func (r *Runner) oldestIdle() *placement {
	var old *placement
	for _, p := range r.placed {
		if p.users == 0 && (old == nil || p.used.Before(old.used)) {
			old = p
		}
	}
	return old
}

func (r *Runner) free(p *placement) {
	<-p.ready
	for _, x := range p.pieces {
		r.freePiece(x)
	}
	if p.tenant != nil {
		r.keeper.gone(p.tenant)
	}
}

// leave frees a placement as soon as nobody holds it. Those that come meanwhile bring the graph anew.
func (r *Runner) leave(p *placement) {
	r.mu.Lock()
	free := !p.dropped && p.users == 0
	if !p.dropped {
		r.drop(p)
	}
	r.mu.Unlock()
	if free {
		r.free(p)
	}
}

// lastUse is when a placement was let go of last; now while it is held.
func (r *Runner) lastUse(p *placement) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.users > 0 {
		return time.Now()
	}
	return p.used
}

// component is how the graph is called.
func (r *Runner) component() string { return r.source.Graph.Graph.Name }

// size is what the graph takes on a device: as it was found there, else its weights.
func (r *Runner) size(ref string, m *graph.Model) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.sizes[ref]; ok {
		return n
	}
	return weightBytes(m)
}

// measured is what an executable takes on its device, which is remembered. Devices that do not tell take the weights.
func (r *Runner) measured(x *piece) int64 {
	n := x.exe.Memory()
	if n <= 0 {
		return weightBytes(x.Graph)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sizes[x.device.Ref] = n
	return n
}

// enter makes room for a placement and brings it there.
func (r *Runner) enter(ctx context.Context, p *placement, pieces []piece, f fit, inputs map[string]graph.Datum) error {
	need := map[string]int64{}
	for _, x := range pieces {
		need[x.device.Ref] += r.size(x.device.Ref, x.Graph)
	}
	t := &tenant{model: r.query.Model, component: r.component(), used: func() time.Time { return r.lastUse(p) }, leave: func() { r.leave(p) }}
	if err := r.keeper.enter(ctx, t, need); err != nil {
		return err
	}
	p.tenant = t
	if err := r.compile(ctx, pieces, f, inputs); err != nil {
		return err
	}
	taken := map[string]int64{}
	for i := range pieces {
		taken[pieces[i].device.Ref] += r.measured(&pieces[i])
	}
	return r.keeper.resize(t, taken)
}

// bring lowers and compiles in the background of all who wait for p: a request
// that gives up does not stop it for the others.
func (r *Runner) bring(ctx context.Context, p *placement, dev route.Device, fixed dims, f fit, inputs map[string]graph.Datum) {
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer close(p.ready)
		begun := time.Now()
		pieces, err := r.lower(ctx, dev, fixed, f.asked)
		if err != nil {
			p.err = err
			return
		}
		if err := r.enter(ctx, p, pieces, f, inputs); err != nil {
			for _, x := range pieces {
				r.freePiece(x)
			}
			p.err = err
			return
		}
		p.pieces = pieces
		var memory int64
		rewrites := 0
		for _, x := range pieces {
			memory += x.exe.Memory()
			rewrites += len(x.Rewrites)
		}
		r.log.Info("placed a model", "model", r.query.Model, "device", dev.Ref, "kind", string(dev.Kind), "shapes", p.key.dims, "pieces", len(pieces),
			"rewrites", rewrites, "memory", memory, "took", time.Since(begun).Round(time.Millisecond).String())
	}()
}

// Close frees everything once nobody runs any more.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	var free []*placement
	for _, p := range r.placed {
		r.drop(p)
		if p.users == 0 {
			free = append(free, p)
		}
	}
	r.mu.Unlock()
	for _, p := range free {
		r.free(p)
	}
}

// Graph is the graph as the class made it, before any lowering.
func (r *Runner) Graph() *graph.Graph { return r.source.Graph.Graph }
