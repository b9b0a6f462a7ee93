package backend

import (
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

// maxRunning is how many commands of one device run at a time. Commands that can
// overlap use different executables and buffers; runtimes queue what they cannot
// do at once.
const maxRunning = 8

// device is a device and all that was made on it.
type device struct {
	id  string
	srv *server

	mu      sync.Mutex
	info    Device // Epoch included
	down    bool   // was not healthy since it was last used
	objects map[uint64]*object
	lastID  uint64

	ready   []*command // that nothing holds up but maxRunning, in order
	running int
}

func newDevice(s *server, id string) *device {
	return &device{id: id, srv: s, objects: map[uint64]*object{}, info: Device{Epoch: newEpoch(0)}}
}

// newEpoch is random, so that ids of an earlier process are stale too.
func newEpoch(old uint64) uint64 {
	for {
		if e := rand.Uint64(); e != 0 && e != old {
			return e
		}
	}
}

// report takes in what the backend says of the device.
func (d *device) report(info Device) {
	d.mu.Lock()
	info.Epoch = d.info.Epoch
	d.info = info
	var dropped []*object
	switch {
	case info.Health != Healthy:
		d.down = true
	case d.down:
		d.down = false
		dropped = d.renew()
	}
	d.mu.Unlock()
	d.srv.closeLater(dropped)
}

// lose begins a new epoch, unless the one that was lost has ended already.
func (d *device) lose(epoch uint64) {
	d.mu.Lock()
	if d.info.Epoch != epoch {
		d.mu.Unlock()
		return
	}
	dropped := d.renew()
	d.mu.Unlock()
	d.srv.log.Warn("device lost", "device", d.id)
	d.srv.closeLater(dropped)
	d.srv.notify()
}

// renew begins a new epoch and returns what can be closed at once. mu is held.
func (d *device) renew() []*object {
	d.info.Epoch = newEpoch(d.info.Epoch)
	var unused []*object
	for _, o := range d.objects {
		if d.unref(o) {
			unused = append(unused, o)
		}
	}
	clear(d.objects)
	return unused
}

// usable reports why the device cannot be used now. mu is held.
func (d *device) usable() error {
	if d.info.Health == Healthy {
		return nil
	}
	m := "device " + d.id + " is " + string(d.info.Health) + ": " + d.info.Reason
	if d.info.Remedy != "" {
		m += " (" + d.info.Remedy + ")"
	}
	return DeviceLost(m)
}

// begin returns the epoch that work on the device belongs to.
func (d *device) begin() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.info.Epoch, d.usable()
}

// failed passes on the error of work that began in epoch, and acts upon it.
func (d *device) failed(epoch uint64, err error) error {
	if CodeOf(err) == CodeDeviceLost {
		d.lose(epoch)
	}
	return err
}

// add gives o an id. It takes o over: where the epoch is over, it is closed.
func (d *device) add(epoch uint64, o *object) (*backendv1.Id, error) {
	d.mu.Lock()
	if d.info.Epoch != epoch {
		d.mu.Unlock()
		d.srv.close(o)
		return nil, DeviceLost("device " + d.id + " was lost meanwhile")
	}
	defer d.mu.Unlock()
	d.lastID++
	o.refs = 1
	d.objects[d.lastID] = o
	return &backendv1.Id{Device: d.id, Epoch: epoch, N: d.lastID}, nil
}

// release takes an id away. What commands still use is closed after them.
func (d *device) release(id *backendv1.Id) {
	d.mu.Lock()
	o := d.objects[id.GetN()]
	if o == nil || id.GetEpoch() != d.info.Epoch {
		d.mu.Unlock()
		return
	}
	delete(d.objects, id.GetN())
	unused := d.unref(o)
	d.mu.Unlock()
	if unused {
		d.srv.close(o)
	}
}

// find looks an id up. mu is held.
func (d *device) find(id *backendv1.Id, what kindOfObject) (*object, error) {
	if id.GetDevice() != d.id {
		return nil, BadState("%s %d is of device %q, the call is for device %q", what, id.GetN(), id.GetDevice(), d.id)
	}
	if id.GetEpoch() != d.info.Epoch {
		return nil, BadState("%s %d is of an earlier life of device %s (epoch %d, now %d): compile and allocate again",
			what, id.GetN(), d.id, id.GetEpoch(), d.info.Epoch)
	}
	o := d.objects[id.GetN()]
	if o == nil {
		return nil, BadState("device %s has no %s %d", d.id, what, id.GetN())
	}
	if what&o.kind == 0 {
		return nil, BadState("id %d of device %s is a %s, not a %s", id.GetN(), d.id, o.kind, what)
	}
	return o, nil
}

// unref reports whether o is to be closed. mu is held.
func (d *device) unref(o *object) bool {
	o.refs--
	return o.refs == 0
}

// regions holds the regions that bindings lie in, in their order, nil where they
// lie in the message, until release is called.
func (d *device) regions(bindings []*backendv1.Binding) (list []*object, release func(), err error) {
	held := &command{}
	release = func() {
		d.mu.Lock()
		unused := d.drop(held)
		d.mu.Unlock()
		for _, o := range unused {
			d.srv.close(o)
		}
	}
	list = make([]*object, len(bindings))
	for i, b := range bindings {
		switch p := b.GetPlace().(type) {
		case *backendv1.Binding_Inline:
			continue
		case *backendv1.Binding_Region:
			d.mu.Lock()
			o, err := d.find(p.Region.GetId(), aRegion)
			if err == nil {
				o.refs++
				held.uses = append(held.uses, o)
			}
			d.mu.Unlock()
			if err != nil {
				release()
				return nil, nil, err
			}
			list[i] = o
		default:
			release()
			return nil, nil, Invalid(b.GetName(), "input %q of the smoke run lies neither inline nor in a region", b.GetName())
		}
	}
	return list, release, nil
}

// refuse takes back verdicts on nodes whose values the device does not carry. The
// model is read only where that may be.
func (d *device) refuse(dir string, a *Assessment) error {
	d.mu.Lock()
	is := d.info
	d.mu.Unlock()
	all := &graph.Type{Kind: graph.KindOptional, Of: &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.String)}}
	if _, ok := is.Carries(all); ok {
		return nil
	}
	m, err := LoadModel(dir)
	if err != nil {
		return err
	}
	refuseValues(is, m, a.Nodes)
	return m.Close()
}

// enqueue orders c behind the commands that share an executable or a buffer with
// it, whatever their stream. It reports whether the caller is to run c now; else
// whoever ends what holds it up will.
func (d *device) enqueue(c *command) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range c.uses {
		if o.kind == aRegion || o.last == c {
			continue
		}
		if o.last != nil {
			o.last.blocks = append(o.last.blocks, c)
			c.blockers++
		}
		o.last = c
	}
	if c.blockers > 0 {
		return false
	}
	if d.running == maxRunning {
		d.ready = append(d.ready, c)
		return false
	}
	d.claim(c)
	return true
}

// claim marks c as running. mu is held.
func (d *device) claim(c *command) {
	d.running++
	c.stale = c.epoch != d.info.Epoch
	if c.state == waiting {
		c.state = running
	}
}

// next claims a command that is ready, if there may run one more. mu is held.
func (d *device) next() *command {
	if len(d.ready) == 0 || d.running == maxRunning {
		return nil
	}
	c := d.ready[0]
	d.ready[0] = nil
	if d.ready = d.ready[1:]; len(d.ready) == 0 {
		d.ready = nil
	}
	d.claim(c)
	return c
}

// run runs a claimed command, and then what it held up.
func (d *device) run(c *command) {
	for c != nil {
		answered := c.state == cancelled // settled when it was claimed
		if !answered {
			c.execute()
		}
		next := d.retire(c)
		if !answered {
			c.answer()
		}
		c.stream.running.Done()
		c = next
	}
}

// retire lets go of what c used, and claims what the caller is to run next.
func (d *device) retire(c *command) *command {
	d.mu.Lock()
	c.state = done
	d.running--
	for _, b := range c.blocks {
		if b.blockers--; b.blockers == 0 {
			d.ready = append(d.ready, b)
		}
	}
	unused := d.drop(c)
	first := d.next()
	for more := d.next(); more != nil; more = d.next() {
		go d.run(more)
	}
	d.mu.Unlock()
	for _, o := range unused {
		d.srv.close(o)
	}
	return first
}

// drop lets go of what c used and returns what is to be closed. mu is held.
func (d *device) drop(c *command) []*object {
	var unused []*object
	for _, o := range c.uses {
		if o.last == c {
			o.last = nil
		}
		if d.unref(o) {
			unused = append(unused, o)
		}
	}
	c.uses = nil
	return unused
}

// end closes all that was made on the device. No command runs any more.
func (d *device) end() {
	d.mu.Lock()
	dropped := d.renew()
	d.mu.Unlock()
	for _, o := range dropped {
		d.srv.close(o)
	}
}

// kindOfObject is a set of kinds: a slice may be of a buffer or a region.
type kindOfObject uint8

const (
	anExecutable kindOfObject = 1 << iota
	aBuffer
	aRegion
)

func (k kindOfObject) String() string {
	switch k {
	case anExecutable:
		return "executable"
	case aBuffer:
		return "buffer"
	case aRegion:
		return "region"
	}
	return "buffer or region"
}

// object is what an id names. refs and last are guarded by the device.
type object struct {
	kind kindOfObject
	refs int      // one of the table's, one of each use by a command
	last *command // the last of those that wait for it in turn

	executable Executable
	signature  *signature

	buffer Buffer

	region   *region.Region
	writable bool

	data []byte // the region's
	size int64  // of buffer or region
}

func (o *object) close() error {
	switch o.kind {
	case anExecutable:
		return o.executable.Close()
	case aBuffer:
		return o.buffer.Close()
	case aRegion:
		return o.region.Close()
	}
	return errors.New("nothing to close")
}

// bounds checks a range against a buffer or region.
func (o *object) bounds(argument string, offset, length uint64) error {
	if size := uint64(o.size); offset > size || length > size-offset {
		return Invalid(argument, "%d bytes at %d do not lie in the %s of %d bytes", length, offset, o.kind, o.size)
	}
	return nil
}
