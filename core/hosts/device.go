package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// DeviceStatus is what is known of a device. Its Health is Unhealthy, with a
// Reason, while its backend's process is gone.
type DeviceStatus struct {
	backend.Device
	Ref     string // "platform:id"
	Backend string
	// Returning says that the device was lost and should be back soon: its process
	// is being started again (NextTry is when, if that is not yet under way), or is
	// about to name the device anew.
	Returning bool
	NextTry   time.Time
}

// Device is a device of a backend, over all lives of the backend's process.
type Device struct {
	h   *host
	id  string
	ref string

	mu      sync.Mutex
	info    backend.Device
	session *session // nil while the device can't be used
	lost    *session // the last one, if a call told that it is over and no list has yet
}

// Ref is the device's reference, "platform:id".
func (d *Device) Ref() string { return d.ref }

// Status is what is known of the device now.
func (d *Device) Status() DeviceStatus {
	b := d.h.state()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := DeviceStatus{Device: d.info, Ref: d.ref, Backend: d.h.name}
	switch {
	case s.Health != backend.Unhealthy:
	case b.State == Healthy:
		s.Returning = d.lost != nil
	default:
		s.Returning = b.State == Restarting || b.State == Starting
		s.NextTry = b.NextTry
	}
	return s
}

// WaitHealthy waits until the device can be used, ctx ends (its error), or it can't
// be expected back soon (*UnavailableError).
func (d *Device) WaitHealthy(ctx context.Context) error {
	for {
		changed := d.h.m.Changed()
		_, err := d.current()
		if err == nil {
			return nil
		}
		b := d.h.state()
		if b.State != Healthy && b.State != Restarting && b.State != Starting {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// current is the device's session, or why there is none.
func (d *Device) current() (*session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == nil {
		if d.h.m.ctx.Err() != nil {
			return nil, ErrClosed
		}
		return nil, &UnavailableError{Device: d.ref, Reason: fmt.Sprintf("it is %s: %s", d.info.Health, d.info.Reason), Remedy: d.info.Remedy}
	}
	return d.session, nil
}

// session is one life of a device: one epoch of one process.
type session struct {
	life  *life
	dev   *Device
	epoch uint64
	arena *arena

	mu   sync.Mutex
	over func(inFlight bool) error // why it is over; nil while it lasts
}

// ended is the error of a call of what belonged to the session, or nil while it lasts.
func (s *session) ended(inFlight bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return s.over(inFlight)
	}
	return s.life.ended(s.dev.ref, inFlight)
}

// finish ends the session; the first reason is kept.
func (s *session) finish(why func(inFlight bool) error) {
	s.mu.Lock()
	if s.over == nil {
		s.over = why
	}
	s.mu.Unlock()
	s.arena.close()
}

// explain turns a backend's error into the host's where the host knows more.
func (s *session) explain(e *backend.Error) error {
	if e.Code == backend.CodeDeviceLost {
		s.lose(e.Message)
		return &DeviceLostError{Backend: s.life.h.name, Device: s.dev.ref, Reason: e.Message, InFlight: true}
	}
	if err := s.ended(true); err != nil && (e.Code == backend.CodeBadState || e.Code == backend.CodeCancelled) {
		return err
	}
	return e
}

// lose ends the session before the backend's list of devices says so.
func (s *session) lose(reason string) {
	d := s.dev
	d.mu.Lock()
	if d.session == s {
		d.session = nil
		d.lost = s
		d.info.Health, d.info.Reason, d.info.Remedy = backend.Unhealthy, reason, ""
	}
	d.mu.Unlock()
	s.finish(lostDevice(s, reason))
	s.life.h.m.note()
}

func lostDevice(s *session, reason string) func(bool) error {
	return func(inFlight bool) error {
		return &DeviceLostError{Backend: s.life.h.name, Device: s.dev.ref, Reason: reason, InFlight: inFlight}
	}
}

// began makes a life with its first list of devices the current one.
func (h *host) began(l *life, list []backend.Device) {
	h.mu.Lock()
	h.life = l
	if h.ready {
		h.status.Restarts++
	}
	h.ready = true
	h.attempts++
	h.lastErr = nil
	s := &h.status
	s.State, s.Reason, s.Remedy, s.NextTry = Healthy, "", "", time.Time{}
	s.PID, s.Version, s.Libraries, s.ConfigSchema = l.proc.pid(), l.info.Version, l.info.Libraries, l.info.ConfigSchema
	h.list(l, list)
	h.mu.Unlock()
	h.m.note()
}

// update takes a list of devices from a life, if it is the current one.
func (h *host) update(l *life, list []backend.Device) {
	var over []*session
	h.mu.Lock()
	if h.life == l {
		over = h.list(l, list)
	}
	h.mu.Unlock()
	for _, s := range over {
		s.dev.mu.Lock()
		reason := s.dev.info.Reason
		s.dev.mu.Unlock()
		if reason == "" {
			reason = "it went away and came back"
		}
		s.finish(lostDevice(s, reason))
		l.abandon(s, fmt.Sprintf("it lost device %s (%s)", s.dev.ref, reason))
	}
	h.m.note()
}

// list makes list the host's devices, those that it no longer has last, and
// returns the sessions that are over for it. h.mu is held.
func (h *host) list(l *life, list []backend.Device) (over []*session) {
	old := slices.Clone(h.devices)
	h.devices = h.devices[:0:0]
	for _, info := range list {
		var d *Device
		if i := slices.IndexFunc(old, func(d *Device) bool { return d.id == info.ID && d.info.Platform == info.Platform }); i >= 0 {
			d = old[i]
			old = slices.Delete(old, i, i+1)
		} else {
			d = &Device{h: h, id: info.ID, ref: info.Platform + ":" + info.ID}
		}
		h.devices = append(h.devices, d)
		over = append(over, d.report(l, info)...)
	}
	for _, d := range old {
		d.mu.Lock()
		info := d.info
		d.mu.Unlock()
		info.Health, info.Reason, info.Remedy = backend.Undetected, "the backend lists it no more", ""
		over = append(over, d.report(l, info)...)
		h.devices = append(h.devices, d)
	}
	return over
}

// report takes what the backend says of the device and returns the session that
// is over for it, if one is.
func (d *Device) report(l *life, info backend.Device) (over []*session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost != nil && d.lost.life == l && d.lost.epoch == info.Epoch && info.Health == backend.Healthy {
		return nil // sent before the backend knew what its answer then told
	}
	d.lost = nil
	if info.Health != d.info.Health {
		l.h.log.Info("device changed", "device", d.ref, "kind", string(info.Kind), "health", string(info.Health), "reason", info.Reason)
	}
	d.info = info
	healthy := info.Health == backend.Healthy
	if s := d.session; s != nil && (s.life != l || s.epoch != info.Epoch || !healthy) {
		over = append(over, s)
		d.session = nil
	}
	if healthy && d.session == nil {
		d.session = &session{life: l, dev: d, epoch: info.Epoch}
		d.session.arena = newArena(d.session, l.h.m.opts.Regions)
	}
	return over
}

// lost ends the sessions of a life that is over.
func (h *host) lost(l *life) {
	var over []*session
	h.mu.Lock()
	h.life = nil
	reason := "its backend's process is gone"
	if !l.stopping.Load() {
		reason = "its backend's process died: " + l.crash.how()
		h.status.State, h.status.Reason, h.status.PID = Restarting, "it died: "+l.crash.how(), 0
	}
	for _, d := range h.devices {
		d.mu.Lock()
		if d.session != nil {
			over = append(over, d.session)
			d.session = nil
		}
		if d.info.Health == backend.Healthy {
			d.info.Health, d.info.Reason, d.info.Remedy = backend.Unhealthy, reason, ""
		}
		d.mu.Unlock()
	}
	h.mu.Unlock()
	for _, s := range over {
		s.finish(func(inFlight bool) error { return l.death(s.dev.ref, inFlight) })
	}
	h.m.note()
}

// Assess asks which nodes of the graph in dir the device takes.
func (d *Device) Assess(ctx context.Context, dir string) (backend.Assessment, error) {
	s, err := d.current()
	if err != nil {
		return backend.Assessment{}, err
	}
	limit := newLimit(ctx, d.h.m.opts.Timeouts.Assess)
	defer limit.end()
	r, err := s.life.rpc.Assess(limit.ctx, &backendv1.AssessRequest{Device: d.id, GraphDir: dir})
	if err != nil {
		return backend.Assessment{}, s.life.explain(ctx, s, "Assess", limit, err)
	}
	a, err := backend.AssessmentFromProto(r)
	if err != nil {
		return backend.Assessment{}, s.protocol("%v", err)
	}
	return a, nil
}

// protocol is the error of an answer that the protocol does not allow.
func (s *session) protocol(format string, args ...any) error {
	return &ProtocolError{Backend: s.life.h.name, Device: s.dev.ref, Problem: fmt.Sprintf(format, args...)}
}

// smoke binds the inputs of a smoke run: small ones inside the message, others in a
// lease that is held until Compile has ended. Where no memory is shared they must
// fit the message.
func (s *session) smoke(inputs map[string]graph.Datum) (list []*backendv1.Binding, lease *Lease, err error) {
	var need int64
	for _, v := range inputs {
		need += roundUp(int64(len(v.Tensor.Data)), align)
	}
	if need > inlineBytes {
		lease = s.arena.lease(need)
	}
	if lease == nil && need > backend.MaxInline {
		return nil, nil, backend.Invalid("smoke_inputs", "the inputs of the smoke run have %d bytes, which no memory shared with %s holds and no message takes", need, s.dev.ref)
	}
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		t, ty := inputs[name].Tensor, &graph.Type{Kind: inputs[name].Kind, Elem: inputs[name].Tensor.DType}
		b := &backendv1.Binding{Name: name, Encoding: backend.EncodingOf(ty)}
		list = append(list, b)
		if !backend.Dense(ty) {
			data, err := graph.AppendDatum(nil, "", inputs[name])
			if err != nil {
				return nil, lease, backend.Invalid(name, "input %q: %v", name, err)
			}
			if len(data) > backend.MaxInline {
				return nil, lease, backend.Invalid(name, "input %q of the smoke run has %d bytes, a message takes %d", name, len(data), backend.MaxInline)
			}
			b.Place = &backendv1.Binding_Inline{Inline: data}
			continue
		}
		b.ElementType, b.Dims = int32(t.DType), t.Shape
		if lease == nil {
			b.Place = &backendv1.Binding_Inline{Inline: t.Data}
			continue
		}
		at, err := lease.Tensor(t.DType, t.Shape)
		if err != nil {
			return nil, lease, err
		}
		copy(at.Data, t.Data)
		offset, _ := lease.offset(at.Data)
		b.Place = &backendv1.Binding_Region{Region: &backendv1.Slice{Id: lease.region.id, Offset: uint64(offset), Length: uint64(len(t.Data))}}
	}
	return list, lease, nil
}

// Compile makes an executable of the graph in spec.Dir on this device; spec.Device
// is not looked at. progress, which may be nil, is called in turn with the stage and
// the fraction done, 0 to 1. There is no limit to the time it may take as long as
// the backend reports progress.
func (d *Device) Compile(ctx context.Context, spec backend.CompileSpec, progress func(stage string, fraction float64)) (*Executable, error) {
	s, err := d.current()
	if err != nil {
		return nil, err
	}
	smoke, lease, err := s.smoke(spec.SmokeInputs)
	if lease != nil {
		defer lease.Release()
	}
	if err != nil {
		return nil, err
	}
	limit := newLimit(ctx, d.h.m.opts.Timeouts.Stall)
	defer limit.end()
	stream, err := s.life.rpc.Compile(limit.ctx, &backendv1.CompileRequest{
		Device: d.id, GraphDir: spec.Dir, MemoryBudget: uint64(max(spec.MemoryBudget, 0)), SmokeDims: spec.SmokeDims, SmokeInputs: smoke})
	if err != nil {
		return nil, s.life.explain(ctx, s, "Compile", limit, err)
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, s.protocol("Compile ended without an executable")
		}
		if err != nil {
			return nil, s.life.explain(ctx, s, "Compile", limit, err)
		}
		limit.renew()
		if p := r.GetProgress(); p != nil && progress != nil {
			progress(p.GetStage(), p.GetFraction())
		}
		if c := r.GetCompiled(); c != nil {
			return newExecutable(s, c)
		}
	}
}

// quick makes a call that leaves something behind in the backend, and so is
// carried through even where the caller's context ends meanwhile.
func quick[R any](ctx context.Context, s *session, name string, call func(context.Context) (R, error)) (R, error) {
	var none R
	if err := ctx.Err(); err != nil {
		return none, context.Cause(ctx)
	}
	if err := s.ended(false); err != nil {
		return none, err
	}
	ctx = context.WithoutCancel(ctx)
	limit := newLimit(ctx, s.life.h.m.opts.Timeouts.Call)
	defer limit.end()
	r, err := call(limit.ctx)
	if err != nil {
		return none, s.life.explain(ctx, s, name, limit, err)
	}
	return r, nil
}

// Buffer is zeroed memory on a device. It lives no longer than the device's epoch.
type Buffer struct {
	session *session
	id      *backendv1.Id
	size    int64
}

// Alloc makes a buffer of so many bytes, zeroed.
func (d *Device) Alloc(ctx context.Context, bytes int64) (*Buffer, error) {
	if bytes <= 0 {
		return nil, backend.Invalid("bytes", "a buffer of %d bytes cannot be", bytes)
	}
	s, err := d.current()
	if err != nil {
		return nil, err
	}
	r, err := quick(ctx, s, "Alloc", func(ctx context.Context) (*backendv1.AllocResponse, error) {
		return s.life.rpc.Alloc(ctx, &backendv1.AllocRequest{Device: d.id, Length: uint64(bytes)})
	})
	if err != nil {
		return nil, err
	}
	if err := s.own(r.GetBuffer()); err != nil {
		return nil, err
	}
	return &Buffer{session: s, id: r.GetBuffer(), size: bytes}, nil
}

// own checks that an id that the backend made is the session's.
func (s *session) own(id *backendv1.Id) error {
	if id.GetDevice() != s.dev.id {
		return s.protocol("it made an object of device %q when asked for one of %q", id.GetDevice(), s.dev.id)
	}
	if id.GetEpoch() != s.epoch {
		// The device came back while the call was under way; its report follows.
		quick(context.Background(), s, "Release", func(ctx context.Context) (*backendv1.ReleaseResponse, error) {
			return s.life.rpc.Release(ctx, &backendv1.ReleaseRequest{Ids: []*backendv1.Id{id}})
		})
		return &DeviceLostError{Backend: s.life.h.name, Device: s.dev.ref, Reason: "it went away and came back", InFlight: false}
	}
	return nil
}

// release gives objects back to the backend. What belongs to a session that is
// over is gone already.
func (s *session) release(ids ...*backendv1.Id) error {
	if s.ended(false) != nil {
		return nil
	}
	_, err := quick(context.Background(), s, "Release", func(ctx context.Context) (*backendv1.ReleaseResponse, error) {
		return s.life.rpc.Release(ctx, &backendv1.ReleaseRequest{Ids: ids})
	})
	// One that had its backend killed says so, however soon that is known.
	if timeout := (*TimeoutError)(nil); errors.As(err, &timeout) {
		return err
	}
	if err != nil && s.ended(false) != nil {
		return nil
	}
	return err
}

// Size is the buffer's size in bytes.
func (b *Buffer) Size() int64 { return b.size }

// Close gives the buffer back. It may be repeated.
func (b *Buffer) Close() error { return b.session.release(b.id) }
