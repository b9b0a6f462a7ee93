package hosts

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	// align is that of tensors in a region: a cache line, and more than any
	// element needs.
	align = 64
	// grain is that of leases, so that no two of them share a page.
	grain = 4096
	// keepRegions is what an arena keeps mapped when nothing is leased from it, in
	// bytes beside its first region; mapping again costs a fault a page.
	keepRegions = 256 << 20
)

// arena is the memory that one life of a device shares with this process: a few
// regions, added on demand, from which leases are cut.
type arena struct {
	session *session
	growing sync.Mutex // held before mu

	mu      sync.Mutex
	limits  Regions
	regions []*sharedRegion
	total   int64 // bytes of all regions
	off     bool  // the backend takes none, or the session is over
	closed  bool
}

// sharedRegion is a region with its free spans, sorted and never adjacent.
type sharedRegion struct {
	region *region.Region
	bytes  []byte
	id     *backendv1.Id
	free   []span

	visiting sync.Mutex
	visits   map[*session]*backendv1.Id // on other devices, that read what lies in it; nil: they can't
	gone     bool
}

// idFor is the id of a lease's region on the arena's device. Another device's
// region is mapped once, for reading, so that tensors go from one backend to the
// next without a copy in this process. It is nil where the region can't be had.
func (a *arena) idFor(l *Lease) *backendv1.Id {
	if l == nil || l.region == nil {
		return nil
	}
	r, s := l.region, a.session
	if l.arena == a {
		return r.id
	}
	if a.limits.Disabled {
		return nil
	}
	r.visiting.Lock()
	defer r.visiting.Unlock()
	id, known := r.visits[s]
	if known || r.gone {
		return id
	}
	for other := range r.visits {
		if other.ended(false) != nil {
			delete(r.visits, other)
		}
	}
	m, err := quick(context.Background(), s, "Map", func(ctx context.Context) (*backendv1.MapResponse, error) {
		return s.life.rpc.Map(ctx, &backendv1.MapRequest{Device: s.dev.id, Locator: r.region.Locator(),
			Length: uint64(len(r.bytes)), Mode: backendv1.MapMode_MAP_MODE_READ})
	})
	if err == nil {
		if id = m.GetRegion(); s.own(id) != nil {
			id = nil
		}
	} else {
		s.life.h.log.Debug("a region of another device can't be mapped: tensors are copied", "device", s.dev.ref, "error", err)
	}
	if r.visits == nil {
		r.visits = map[*session]*backendv1.Id{}
	}
	r.visits[s] = id
	return id
}

// close unmaps the region here, once those that visit it have let go.
func (r *sharedRegion) close() {
	r.visiting.Lock()
	visits := r.visits
	r.visits, r.gone = nil, true
	r.visiting.Unlock()
	for s, id := range visits {
		if id != nil {
			// Where that fails the visitor's life is over, or nearly.
			_ = s.release(id)
		}
	}
	r.region.Close()
}

type span struct{ from, to int64 }

func newArena(s *session, limits Regions) *arena {
	return &arena{session: s, limits: limits, off: limits.Disabled}
}

// lease cuts n bytes, or returns nil where regions are not to be had: then the
// tensors travel in messages.
func (a *arena) lease(n int64) *Lease {
	if n = roundUp(max(n, 1), grain); n <= 0 {
		return nil // n was close to the largest int64
	}
	l, full := a.cutAny(n)
	if l != nil || !full {
		return l
	}
	// Without a.mu: what the backend answers to Map may end the session, and with it
	// the arena.
	a.growing.Lock()
	defer a.growing.Unlock()
	if l, full = a.cutAny(n); l != nil || !full { // another has grown it meanwhile
		return l
	}
	a.grow(n)
	l, _ = a.cutAny(n)
	return l
}

// cutAny cuts n bytes from any region, or reports whether that is for want of room.
func (a *arena) cutAny(n int64) (l *Lease, full bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off {
		return nil, false
	}
	for _, r := range a.regions {
		if l := a.cut(r, n); l != nil {
			return l, false
		}
	}
	return nil, true
}

func (a *arena) cut(r *sharedRegion, n int64) *Lease {
	for i := range r.free {
		f := &r.free[i]
		if f.to-f.from < n {
			continue
		}
		l := &Lease{arena: a, region: r, from: f.from, data: r.bytes[f.from : f.from+n : f.from+n]}
		l.held.Store(1)
		if f.from += n; f.from == f.to {
			r.free = slices.Delete(r.free, i, i+1)
		}
		return l
	}
	return nil
}

// grow adds a region that holds n bytes, each larger than the one before so that
// there are few, within the limit. a.growing is held.
func (a *arena) grow(n int64) {
	a.mu.Lock()
	room, size := a.limits.Limit-a.total, max(n, a.limits.First<<len(a.regions))
	a.mu.Unlock()
	if size = min(size, room) / grain * grain; size < n {
		return
	}
	r, err := a.share(size)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.off = a.off || len(a.regions) == 0
		a.limits.Limit = a.total // asking each time would cost more than it gains
		a.session.life.h.log.Warn("tensors travel in messages, for no memory could be shared", "device", a.session.dev.ref, "bytes", size, "error", err)
	case a.closed:
		r.region.Close()
	default:
		a.regions = append(a.regions, r)
		a.total += size
	}
}

// share makes a region and has the backend map it: one without a name first,
// which needs no clearing up, else a named one.
func (a *arena) share(size int64) (*sharedRegion, error) {
	var err error
	for _, create := range []func(int64) (*region.Region, error){region.Create, region.CreateNamed} {
		var r *region.Region
		if r, err = create(size); err != nil {
			continue
		}
		var m *backendv1.MapResponse
		m, err = quick(context.Background(), a.session, "Map", func(ctx context.Context) (*backendv1.MapResponse, error) {
			return a.session.life.rpc.Map(ctx, &backendv1.MapRequest{Device: a.session.dev.id, Locator: r.Locator(),
				Length: uint64(size), Mode: backendv1.MapMode_MAP_MODE_READ_WRITE})
		})
		if err == nil {
			err = a.session.own(m.GetRegion())
		}
		if err == nil {
			if err := r.Unlink(); err != nil {
				a.session.life.h.log.Warn("the name of a shared region can't be removed", "error", err)
			}
			return &sharedRegion{region: r, bytes: r.Bytes(), id: m.GetRegion(), free: []span{{0, size}}}, nil
		}
		r.Close()
		if a.session.ended(false) != nil {
			break
		}
	}
	return nil, err
}

// give takes a lease's bytes back, and gives up regions that are not needed.
func (a *arena) give(l *Lease) {
	a.mu.Lock()
	r := l.region
	f := span{l.from, l.from + int64(len(l.data))}
	i, _ := slices.BinarySearchFunc(r.free, f, func(x, f span) int { return int(x.from - f.from) })
	if i < len(r.free) && r.free[i].from == f.to {
		f.to = r.free[i].to
		r.free = slices.Delete(r.free, i, i+1)
	}
	if i > 0 && r.free[i-1].to == f.from {
		r.free[i-1].to = f.to
	} else {
		r.free = slices.Insert(r.free, i, f)
	}
	var gone *sharedRegion
	if r.idle() && (a.closed || a.total > a.limits.First+keepRegions && r != a.regions[0]) {
		gone = r
		a.regions = slices.DeleteFunc(a.regions, func(x *sharedRegion) bool { return x == r })
		a.total -= int64(len(r.bytes))
	}
	a.mu.Unlock()
	if gone != nil {
		// The backend lets go first; nothing waits for it.
		go func() {
			a.session.release(gone.id)
			gone.close()
		}()
	}
}

func (r *sharedRegion) idle() bool {
	return len(r.free) == 1 && r.free[0] == span{0, int64(len(r.bytes))}
}

// close ends the leasing. Regions of which something is leased stay mapped until
// that is given back.
func (a *arena) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.off, a.closed = true, true
	a.regions = slices.DeleteFunc(a.regions, func(r *sharedRegion) bool {
		if !r.idle() {
			return false
		}
		go r.close()
		return true
	})
}

// Lease is memory for tensors, shared with the device's process where that can
// be, so that they need not be copied to get there. It is not zeroed. It outlives
// the process, and must be released. Its methods are not for concurrent use.
type Lease struct {
	arena  *arena // nil: ordinary memory
	region *sharedRegion
	from   int64
	data   []byte
	used   int64
	held   atomic.Int32 // the owner and the commands that use it
	freed  bool         // by the owner
}

// Lease gives room for tensors of so many bytes together, each rounded up to a
// multiple of 64. Where no memory can be shared it is ordinary memory, which Do then
// copies.
func (d *Device) Lease(bytes int64) (*Lease, error) {
	if bytes < 0 {
		return nil, backend.Invalid("bytes", "a lease of %d bytes cannot be", bytes)
	}
	s, err := d.current()
	if err != nil {
		return nil, err
	}
	if l := s.arena.lease(bytes); l != nil {
		return l, nil
	}
	t, err := tensor.New(tensor.Uint8, tensor.Shape{roundUp(bytes, align)})
	if err != nil {
		return nil, err
	}
	l := &Lease{data: t.Data}
	l.held.Store(1)
	return l, nil
}

// Tensor takes the next part of the lease for a tensor.
func (l *Lease) Tensor(d tensor.DType, s tensor.Shape) (tensor.Tensor, error) {
	n, err := tensor.ByteSize(d, s)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if n > int64(len(l.data))-l.used {
		return tensor.Tensor{}, backend.Invalid("shape", "%s%v needs %d bytes, the lease has %d left", d, s, n, int64(len(l.data))-l.used)
	}
	data := l.data[l.used : l.used+n : l.used+n]
	l.used = min(roundUp(l.used+n, align), int64(len(l.data)))
	return tensor.Tensor{DType: d, Shape: s, Data: data}, nil
}

// Lease is the lease that output i lies in, for another run to take it from there
// until Release; nil if it lies in none.
func (r *Result) Lease(i int) *Lease {
	if r.lease == nil || len(r.Outputs[i].Tensor.Data) == 0 {
		return nil
	}
	if _, inside := r.lease.offset(r.Outputs[i].Tensor.Data); !inside {
		return nil
	}
	return r.lease
}

// Release gives the memory back; the tensors in it must not be used any more. Commands
// that still run with it are waited for in the background. It may be repeated.
func (l *Lease) Release() {
	if !l.freed {
		l.freed = true
		l.drop()
	}
}

func (l *Lease) hold() { l.held.Add(1) }

func (l *Lease) drop() {
	if l.held.Add(-1) == 0 && l.arena != nil {
		l.arena.give(l)
	}
}

// offset is where in its region data lies, if it lies in the lease.
func (l *Lease) offset(data []byte) (int64, bool) {
	at, ok := within(l.data, data)
	return l.from + at, ok
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
