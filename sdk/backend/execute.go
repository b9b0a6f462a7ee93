package backend

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// Bounds on one Execute stream, far above what the core uses.
const (
	maxOpen    = 4096    // commands that are not answered yet
	maxPending = 4 << 30 // bytes of chunks whose command has not come
)

// stream is one Execute stream. Its goroutines take turns: the one that has read a
// command which nothing holds up lets another one read and runs the command
// itself, so that between receipt and start nobody has to be woken.
type stream struct {
	srv     *server
	ctx     context.Context
	recv    func() (*backendv1.ExecuteRequest, error)
	send    func(*backendv1.ExecuteResponse) error
	running sync.WaitGroup // commands that the device has

	idle atomic.Int32  // goroutines that wait for their turn to read
	over chan struct{} // closed when there is nothing more to read

	reading sync.Mutex // guards the following
	err     error      // of recv, which ended the reading
	dev     *device
	chunks  map[uint64]*chunks
	pending int64 // bytes in chunks

	sending sync.Mutex

	mu   sync.Mutex
	open map[uint64]*command // not answered
}

// command is a Run, a Copy or a Fence on its way.
type command struct {
	stream   *stream
	seq      uint64
	epoch    uint64
	ctx      context.Context
	cancel   context.CancelFunc
	received time.Time

	run    *run
	ranges []copyRange

	err     error
	timings *backendv1.Timings

	// Guarded by the stream.
	waits  int        // a fence's: commands before it that are not answered
	fences []*command // that wait for this one

	// Guarded by the device.
	state    state
	stale    bool // claimed after the loss of the device
	uses     []*object
	blockers int
	blocks   []*command
}

type state uint8

const (
	waiting state = iota
	running
	cancelled // answered, and still in its place among the others
	done
)

// Execute implements backendv1.BackendServer.
func (s *server) Execute(rpc grpc.BidiStreamingServer[backendv1.ExecuteRequest, backendv1.ExecuteResponse]) error {
	x := &stream{
		srv: s, ctx: rpc.Context(), recv: rpc.Recv, send: rpc.Send, over: make(chan struct{}),
		chunks: map[uint64]*chunks{}, open: map[uint64]*command{},
	}
	go x.serve()
	<-x.over
	// Commands are answered on this stream until they have ended.
	x.running.Wait()
	if x.err == io.EOF {
		return nil
	}
	return x.err
}

// serve reads and runs commands until the stream ends.
func (x *stream) serve() {
	for {
		x.idle.Add(1)
		x.reading.Lock()
		x.idle.Add(-1)
		c := x.next()
		if c == nil {
			x.reading.Unlock()
			return
		}
		if x.idle.Load() == 0 {
			go x.serve()
		}
		x.reading.Unlock()
		x.dev.run(c)
	}
}

// next reads until there is a command for the caller to run, or nothing more to
// read. reading is held.
func (x *stream) next() *command {
	for x.err == nil {
		q, err := x.recv()
		if err == nil {
			if c := x.take(q); c != nil {
				return c
			}
			continue
		}
		if err != io.EOF {
			x.cancelAll()
		}
		x.err = err
		close(x.over)
	}
	return nil
}

// take handles one message, and returns the command that the caller is to run. It
// does not block on a device.
func (x *stream) take(q *backendv1.ExecuteRequest) *command {
	seq := q.GetSeq()
	x.mu.Lock()
	used, full := x.open[seq] != nil, len(x.open) >= maxOpen
	x.mu.Unlock()
	if c := q.GetChunk(); c != nil {
		if !used {
			x.keep(seq, c)
		}
		return nil
	}
	pending := x.chunks[seq]
	if pending != nil {
		delete(x.chunks, seq)
		x.pending -= pending.bytes
	}
	c, err := x.begin(q, pending, used, full)
	switch {
	case err != nil:
		x.reply(failed(seq, err))
	case c == nil:
	case x.dev.enqueue(c):
		return c
	}
	return nil
}

// begin handles a message that is no chunk. A command that is to go to the device
// is returned; all else is done.
func (x *stream) begin(q *backendv1.ExecuteRequest, pending *chunks, used, full bool) (*command, error) {
	seq := q.GetSeq()
	if used {
		return nil, BadState("sequence number %d is in use", seq)
	}
	if full {
		return nil, BadState("%d commands are waiting already", maxOpen)
	}
	switch m := q.GetCommand().(type) {
	case *backendv1.ExecuteRequest_Run:
		return x.run(seq, m.Run, pending)
	case *backendv1.ExecuteRequest_Copy:
		return x.copy(seq, m.Copy)
	case *backendv1.ExecuteRequest_Fence:
		x.fence(seq)
		return nil, nil
	case *backendv1.ExecuteRequest_Cancel:
		x.cancel(m.Cancel.GetTarget())
		x.reply(succeeded(seq))
		return nil, nil
	case *backendv1.ExecuteRequest_Open:
		if err := x.start(m.Open); err != nil {
			return nil, err
		}
		x.reply(succeeded(seq))
		return nil, nil
	}
	return nil, Invalid("command", "message %d has no command that protocol version %d knows", seq, ProtocolVersion)
}

func succeeded(seq uint64) *backendv1.ExecuteResponse {
	return &backendv1.ExecuteResponse{Seq: seq, Result: &backendv1.ExecuteResponse_Done{Done: &backendv1.Done{}}}
}

func failed(seq uint64, err error) *backendv1.ExecuteResponse {
	return &backendv1.ExecuteResponse{Seq: seq, Result: &backendv1.ExecuteResponse_Error{Error: ToProto(AsError(err))}}
}

// reply sends one message. Where the core is gone nobody reads it, and the
// stream's reader ends what is open.
func (x *stream) reply(r *backendv1.ExecuteResponse) {
	x.sending.Lock()
	defer x.sending.Unlock()
	_ = x.send(r)
}

// start handles Open.
func (x *stream) start(q *backendv1.Open) error {
	if x.dev != nil {
		return BadState("the stream is open on device %s already", x.dev.id)
	}
	d, _, err := x.srv.device(x.ctx, q.GetDevice())
	if err != nil {
		return err
	}
	x.dev = d
	return nil
}

// chunks is what came of the tensors of a command that has not come.
type chunks struct {
	parts map[string][][]byte
	bytes int64
	err   error
}

// keep handles Chunk.
func (x *stream) keep(seq uint64, c *backendv1.Chunk) {
	// What an entry costs beside its data.
	const overhead = 128
	k := x.chunks[seq]
	if k == nil {
		if len(x.chunks) >= maxOpen {
			return // its command will find no chunks
		}
		k = &chunks{parts: map[string][][]byte{}}
		x.chunks[seq] = k
	}
	size := int64(len(c.GetData())) + overhead
	if k.err == nil && size > maxPending-x.pending {
		k.err = OutOfMemory(fmt.Sprintf("the chunks for command %d", seq), k.bytes+size, maxPending-x.pending)
		x.pending -= k.bytes
		k.parts, k.bytes = nil, 0
	}
	if k.err != nil {
		return
	}
	x.pending += size
	k.bytes += size
	k.parts[c.GetName()] = append(k.parts[c.GetName()], c.GetData())
}

// join puts a tensor's chunks together.
func (k *chunks) join(name string, d tensor.DType, s tensor.Shape, bytes int64) ([]byte, error) {
	if k == nil {
		k = &chunks{}
	}
	if k.err != nil {
		return nil, k.err
	}
	var have int64
	for _, p := range k.parts[name] {
		have += int64(len(p))
	}
	if have != bytes {
		return nil, Invalid(name, "the chunks of input %q have %d bytes, %s%v has %d", name, have, d, s, bytes)
	}
	t, err := tensor.New(d, s)
	if err != nil {
		return nil, Invalid(name, "input %q: %v", name, err)
	}
	at := t.Data
	for _, p := range k.parts[name] {
		at = at[copy(at, p):]
	}
	return t.Data, nil
}

// newCommand looks up what a command names and holds it, so that a release or the
// device's loss does not close it under the command. Ids and kinds stand in one
// order; the objects come back in it.
func (x *stream) newCommand(seq uint64, ids []*backendv1.Id, kinds []kindOfObject) (*command, error) {
	d := x.dev
	if d == nil {
		return nil, BadState("the stream is not open: Open comes first")
	}
	c := &command{stream: x, seq: seq, received: time.Now(), uses: make([]*object, 0, len(ids))}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.usable(); err != nil {
		return nil, err
	}
	c.epoch = d.info.Epoch
	for i, id := range ids {
		o, err := d.find(id, kinds[i])
		if err != nil {
			d.drop(c) // closes nothing: the table still holds all
			return nil, err
		}
		o.refs++
		c.uses = append(c.uses, o)
	}
	return c, nil
}

// admit opens a checked command.
func (x *stream) admit(c *command) {
	c.ctx, c.cancel = context.WithCancel(x.ctx)
	x.mu.Lock()
	x.open[c.seq] = c
	x.mu.Unlock()
	x.running.Add(1)
}

// abandon lets go of a command that was found wrong.
func (x *stream) abandon(c *command) {
	x.dev.mu.Lock()
	unused := x.dev.drop(c)
	x.dev.mu.Unlock()
	for _, o := range unused {
		x.srv.close(o)
	}
}

// run handles Run.
func (x *stream) run(seq uint64, q *backendv1.Run, pending *chunks) (*command, error) {
	// The executable, then one place a binding, nil where it is no slice.
	n := 1 + len(q.GetInputs()) + len(q.GetOutputs())
	ids, kinds := make([]*backendv1.Id, 1, n), make([]kindOfObject, 1, n)
	ids[0], kinds[0] = q.GetExecutable(), anExecutable
	sliced := make([]bool, 0, n)
	for _, list := range [][]*backendv1.Binding{q.GetInputs(), q.GetOutputs()} {
		for _, b := range list {
			switch p := b.GetPlace().(type) {
			case *backendv1.Binding_Region:
				ids, kinds = append(ids, p.Region.GetId()), append(kinds, aRegion)
			case *backendv1.Binding_Buffer:
				ids, kinds = append(ids, p.Buffer.GetId()), append(kinds, aBuffer)
			default:
				sliced = append(sliced, false)
				continue
			}
			sliced = append(sliced, true)
		}
	}
	c, err := x.newCommand(seq, ids, kinds)
	if err != nil {
		return nil, err
	}
	exe := c.uses[0]
	objects, next := make([]*object, len(sliced)), 1
	for i, s := range sliced {
		if s {
			objects[i] = c.uses[next]
			next++
		}
	}
	c.run = &run{signature: exe.signature, exec: exe.executable}
	inputs := len(q.GetInputs())
	if err = c.run.bindInputs(q.GetInputs(), objects[:inputs], pending); err == nil {
		err = c.run.bindOutputs(q.GetOutputs(), objects[inputs:])
	}
	if err != nil {
		x.abandon(c)
		return nil, err
	}
	x.admit(c)
	return c, nil
}

// copyRange is a checked CopyRange.
type copyRange struct {
	from, to             *object
	fromOffset, toOffset int64
	length               int64
}

// copy handles Copy.
func (x *stream) copy(seq uint64, q *backendv1.Copy) (*command, error) {
	ranges := q.GetRanges()
	ids, kinds := make([]*backendv1.Id, 0, 2*len(ranges)), make([]kindOfObject, 2*len(ranges))
	for i, r := range ranges {
		ids = append(ids, r.GetFrom(), r.GetTo())
		kinds[2*i], kinds[2*i+1] = aBuffer|aRegion, aBuffer|aRegion
	}
	c, err := x.newCommand(seq, ids, kinds)
	if err != nil {
		return nil, err
	}
	for i, r := range ranges {
		k, err := newCopyRange(i, r, c.uses[2*i], c.uses[2*i+1])
		if err != nil {
			x.abandon(c)
			return nil, err
		}
		c.ranges = append(c.ranges, k)
	}
	x.admit(c)
	return c, nil
}

func newCopyRange(i int, r *backendv1.CopyRange, from, to *object) (copyRange, error) {
	argument := fmt.Sprintf("ranges[%d]", i)
	if err := from.bounds(argument, r.GetFromOffset(), r.GetLength()); err != nil {
		return copyRange{}, err
	}
	if err := to.bounds(argument, r.GetToOffset(), r.GetLength()); err != nil {
		return copyRange{}, err
	}
	if to.kind == aRegion && !to.writable {
		return copyRange{}, Invalid(argument, "the region copied to is mapped for reading only")
	}
	k := copyRange{
		from: from, to: to, length: int64(r.GetLength()),
		fromOffset: int64(r.GetFromOffset()), toOffset: int64(r.GetToOffset()),
	}
	if from == to && k.fromOffset < k.toOffset+k.length && k.toOffset < k.fromOffset+k.length && k.length > 0 {
		return copyRange{}, Invalid(argument, "the range overlaps the one it is copied to")
	}
	return k, nil
}

// do copies, in parts, so that a cancelled copy ends soon.
func (k copyRange) do(ctx context.Context) error {
	const part = 4 << 20
	var between []byte
	for at := int64(0); at < k.length; at += part {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(part, k.length-at)
		from, to := k.fromOffset+at, k.toOffset+at
		var err error
		switch {
		case k.from.kind == aRegion && k.to.kind == aRegion:
			copy(k.to.data[to:to+n], k.from.data[from:from+n])
		case k.from.kind == aRegion:
			err = writeAll(k.to.buffer, k.from.data[from:from+n], to)
		case k.to.kind == aRegion:
			err = readAll(k.from.buffer, k.to.data[to:to+n], from)
		default:
			if between == nil {
				between = make([]byte, n)
			}
			if err = readAll(k.from.buffer, between[:n], from); err == nil {
				err = writeAll(k.to.buffer, between[:n], to)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fence handles Fence.
func (x *stream) fence(seq uint64) {
	f := &command{stream: x, seq: seq}
	x.mu.Lock()
	for _, c := range x.open {
		c.fences = append(c.fences, f)
	}
	n := len(x.open)
	if n > 0 {
		f.waits = n
		x.open[seq] = f
	}
	x.mu.Unlock()
	if n == 0 {
		x.reply(succeeded(seq))
	}
}

// cancel handles Cancel.
func (x *stream) cancel(target uint64) {
	if k := x.chunks[target]; k != nil {
		delete(x.chunks, target)
		x.pending -= k.bytes
	}
	x.mu.Lock()
	c := x.open[target]
	x.mu.Unlock()
	if c != nil {
		c.abort()
	}
}

func (x *stream) cancelAll() {
	x.mu.Lock()
	list := make([]*command, 0, len(x.open))
	for _, c := range x.open {
		list = append(list, c)
	}
	x.mu.Unlock()
	for _, c := range list {
		c.abort()
	}
}

// abort ends a command that runs, and answers one that does not yet. A fence goes
// on waiting.
func (c *command) abort() {
	if c.cancel == nil {
		return
	}
	d := c.stream.dev
	d.mu.Lock()
	started := c.state != waiting
	if !started {
		c.state = cancelled
	}
	d.mu.Unlock()
	c.cancel()
	if !started {
		c.err = context.Canceled
		c.answer()
	}
}

// execute does the command's work.
func (c *command) execute() {
	start := time.Now()
	switch {
	case c.stale:
		c.err = BadState("device %s was lost before the command began: compile and allocate again", c.stream.dev.id)
	case c.ctx.Err() != nil:
		c.err = c.ctx.Err()
	default:
		c.err = c.work()
	}
	if c.err != nil {
		c.err = c.stream.dev.failed(c.epoch, c.err)
	}
	c.timings = &backendv1.Timings{
		QueuedNs: uint64(start.Sub(c.received)), RunNs: uint64(time.Since(start)),
	}
}

func (c *command) work() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.stream.srv.panicked("Run", p)
		}
	}()
	if c.run != nil {
		return c.run.do(c.ctx)
	}
	for _, k := range c.ranges {
		if err := k.do(c.ctx); err != nil {
			return err
		}
	}
	return nil
}

// answer sends the command's result, and then that of fences which waited for it
// last.
func (c *command) answer() {
	x := c.stream
	if c.cancel != nil {
		c.cancel()
	}
	if c.err != nil {
		x.reply(failed(c.seq, c.err))
	} else {
		r := &backendv1.Done{Timings: c.timings}
		if c.run != nil {
			x.sendChunks(c)
			r.Outputs = c.run.bindings()
		}
		x.reply(&backendv1.ExecuteResponse{Seq: c.seq, Result: &backendv1.ExecuteResponse_Done{Done: r}})
	}
	var passed []*command
	x.mu.Lock()
	delete(x.open, c.seq)
	for _, f := range c.fences {
		if f.waits--; f.waits == 0 {
			passed = append(passed, f)
		}
	}
	x.mu.Unlock()
	for _, f := range passed {
		f.answer()
	}
}

// sendChunks sends the outputs that go in chunks.
func (x *stream) sendChunks(c *command) {
	for i := range c.run.outputs {
		out := &c.run.outputs[i]
		if out.place != chunked {
			continue
		}
		name := c.run.signature.outputs[i].name
		for part := range slices.Chunk(out.t.Data, ChunkBytes) {
			x.reply(&backendv1.ExecuteResponse{Seq: c.seq, Result: &backendv1.ExecuteResponse_Chunk{
				Chunk: &backendv1.Chunk{Name: name, Data: part},
			}})
		}
	}
}
