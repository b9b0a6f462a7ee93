package hosts

import (
	"context"
	"fmt"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// Place is where bytes are: in a buffer, or in a lease that is shared memory.
type Place struct {
	Buffer *Buffer
	Lease  *Lease
	Offset int64 // bytes from the beginning of Buffer or Lease
}

// CopyRange is one range of a Copy.
type CopyRange struct {
	From, To Place
	Bytes    int64
}

// Copy moves ranges between buffers of the device and leases, in order. A lease
// that is ordinary memory is refused with UNSUPPORTED. See Executable.Do for the
// other errors.
func (d *Device) Copy(ctx context.Context, ranges ...CopyRange) error {
	if len(ranges) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	s, err := d.current()
	if err != nil {
		return err
	}
	body := &backendv1.Copy{}
	var held []*Lease
	defer func() {
		for _, l := range held {
			l.drop()
		}
	}()
	resolve := func(p Place, bytes int64) (*backendv1.Id, uint64, error) {
		var size, base int64
		var id *backendv1.Id
		switch {
		case (p.Buffer == nil) == (p.Lease == nil):
			return nil, 0, backend.Invalid("ranges", "a place is either in a buffer or in a lease")
		case p.Buffer != nil && p.Buffer.session.dev != d:
			return nil, 0, backend.Invalid("ranges", "the buffer is on %s, not on %s", p.Buffer.session.dev.ref, d.ref)
		case p.Buffer != nil && p.Buffer.session != s:
			return nil, 0, backend.BadState("the buffer belongs to an earlier life of %s", d.ref)
		case p.Buffer != nil:
			id, size = p.Buffer.id, p.Buffer.size
		case p.Lease.region == nil:
			return nil, 0, backend.Unsupported(fmt.Sprintf("no memory is shared with %s, so its buffers can't be read or written", d.ref))
		case p.Lease.arena != s.arena:
			return nil, 0, backend.BadState("the lease is of another device or of an earlier life of %s", d.ref)
		default:
			id, size, base = p.Lease.region.id, int64(len(p.Lease.data)), p.Lease.from
			p.Lease.hold()
			held = append(held, p.Lease)
		}
		if bytes < 0 || p.Offset < 0 || p.Offset > size || bytes > size-p.Offset {
			return nil, 0, backend.Invalid("ranges", "%d bytes at %d do not fit into %d", bytes, p.Offset, size)
		}
		return id, uint64(base + p.Offset), nil
	}
	for _, r := range ranges {
		w := &backendv1.CopyRange{Length: uint64(r.Bytes)}
		if w.From, w.FromOffset, err = resolve(r.From, r.Bytes); err != nil {
			return err
		}
		if w.To, w.ToOffset, err = resolve(r.To, r.Bytes); err != nil {
			return err
		}
		body.Ranges = append(body.Ranges, w)
	}
	st, err := s.life.open(s)
	if err != nil {
		return err
	}
	c := &command{session: s, done: make(chan struct{}, 1)}
	c.message.Command = &backendv1.ExecuteRequest_Copy{Copy: body}
	_, err = st.do(ctx, c)
	return err
}
