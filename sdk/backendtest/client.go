package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

// conn is what a check has of a backend: calls that end the check when they fail,
// and that are bounded in time.
type conn struct {
	t       T
	suite   *suite
	p       *Process
	device  backend.Device
	timeout time.Duration
	made    []*backendv1.Id
	streams []*stream
}

// context ends with the check, or when it takes too long.
func (c *conn) context() context.Context {
	ctx, cancel := context.WithTimeoutCause(c.t.Context(), c.timeout, fmt.Errorf("no answer within %v", c.timeout))
	c.t.Cleanup(cancel)
	return ctx
}

// must ends the check on an error.
func (c *conn) must(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", what, backend.FromStatus(err))
	}
}

// refused checks that a call was refused with one of the codes, and gives the
// error.
func (c *conn) refused(what string, err error, codes ...backend.Code) *backend.Error {
	c.t.Helper()
	var e *backend.Error
	switch {
	case err == nil:
		c.t.Errorf("%s succeeded, want %v", what, codes)
	case !errors.As(backend.FromStatus(err), &e):
		c.t.Errorf("%s: %v, want an error with code %v", what, err, codes)
	default:
		for _, code := range codes {
			if e.Code == code {
				return e
			}
		}
		c.t.Errorf("%s: %v, want code %v", what, e, codes)
		return e
	}
	return &backend.Error{}
}

func (c *conn) configure(settings string) {
	c.t.Helper()
	if settings == "" {
		return
	}
	_, err := c.p.RPC.Configure(c.context(), &backendv1.ConfigureRequest{SettingsJson: settings})
	c.must("Configure", err)
}

// watch begins a Watch and gives a function that waits for the next list.
func (c *conn) watch() func() []backend.Device {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	w, err := c.p.RPC.Watch(ctx, &backendv1.WatchRequest{})
	c.must("Watch", err)
	return func() []backend.Device {
		c.t.Helper()
		defer time.AfterFunc(c.timeout, cancel).Stop()
		r, err := w.Recv()
		c.must("Watch", err)
		var list []backend.Device
		for _, p := range r.GetDevices() {
			d, err := backend.DeviceFromProto(p)
			if err != nil {
				c.t.Fatalf("Watch: %v", err)
			}
			list = append(list, d)
		}
		return list
	}
}

func (c *conn) devices() []backend.Device {
	c.t.Helper()
	return c.watch()()
}

func (c *conn) assess(dir string) (backend.Assessment, error) {
	r, err := c.p.RPC.Assess(c.context(), &backendv1.AssessRequest{Device: c.device.ID, GraphDir: dir})
	if err != nil {
		return backend.Assessment{}, backend.FromStatus(err)
	}
	return backend.AssessmentFromProto(r)
}

// compiled is an executable.
type compiled struct {
	id       *backendv1.Id
	info     backend.ExecutableInfo
	progress []*backendv1.CompileProgress
}

func (c *conn) tryCompile(q *backendv1.CompileRequest) (*compiled, error) {
	q.Device = c.device.ID
	s, err := c.p.RPC.Compile(c.context(), q)
	if err != nil {
		return nil, backend.FromStatus(err)
	}
	out := &compiled{}
	for {
		r, err := s.Recv()
		switch {
		case err == io.EOF && out.id != nil:
			return out, nil
		case err == io.EOF:
			return nil, errors.New("the stream ended without an executable")
		case err != nil:
			return nil, backend.FromStatus(err)
		case out.id != nil:
			return nil, errors.New("a message came after the executable")
		case r.GetProgress() != nil:
			out.progress = append(out.progress, r.GetProgress())
			continue
		case r.GetCompiled() == nil:
			return nil, errors.New("a message says neither progress nor executable")
		}
		if out.info, err = backend.ExecutableFromProto(r.GetCompiled()); err != nil {
			return nil, err
		}
		out.id = r.GetCompiled().GetExecutable()
		c.made = append(c.made, out.id)
	}
}

func (c *conn) compile(dir string) *compiled {
	c.t.Helper()
	e, err := c.tryCompile(&backendv1.CompileRequest{GraphDir: dir})
	c.must("Compile", err)
	return e
}

func (c *conn) alloc(length uint64) *backendv1.Id {
	c.t.Helper()
	r, err := c.p.RPC.Alloc(c.context(), &backendv1.AllocRequest{Device: c.device.ID, Length: length})
	c.must("Alloc", err)
	c.made = append(c.made, r.GetBuffer())
	return r.GetBuffer()
}

// shared is a region with its id in the backend.
type shared struct {
	*region.Region
	id *backendv1.Id
}

func (c *conn) share(length int64, mode backendv1.MapMode) shared {
	c.t.Helper()
	r, err := region.Create(length)
	c.must("create a region", err)
	c.t.Cleanup(func() { r.Close() })
	m, err := c.p.RPC.Map(c.context(), &backendv1.MapRequest{
		Device: c.device.ID, Locator: r.Locator(), Length: uint64(length), Mode: mode,
	})
	c.must("Map", err)
	c.made = append(c.made, m.GetRegion())
	return shared{r, m.GetRegion()}
}

func (c *conn) release(ids ...*backendv1.Id) {
	c.t.Helper()
	_, err := c.p.RPC.Release(c.context(), &backendv1.ReleaseRequest{Ids: ids})
	c.must("Release", err)
}

// releaseAll gives back what the check made, when it is over.
func (c *conn) releaseAll() {
	for _, s := range c.streams {
		s.cancel()
	}
	if len(c.made) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		defer cancel()
		_, err := c.p.RPC.Release(ctx, &backendv1.ReleaseRequest{Ids: c.made})
		if err != nil && !c.t.Failed() {
			c.t.Errorf("Release: %v", err)
		}
	}
}

// stream is an Execute stream.
type stream struct {
	c       *conn
	x       grpc.BidiStreamingClient[backendv1.ExecuteRequest, backendv1.ExecuteResponse]
	cancel  context.CancelFunc
	seq     uint64
	open    map[uint64]bool
	results map[uint64]*result
}

// result is the answer to a command.
type result struct {
	done   *backendv1.Done
	err    *backend.Error
	chunks map[string][]byte
}

func (c *conn) tryExecute(device string) (*stream, *result) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	x, err := c.p.RPC.Execute(ctx)
	c.must("Execute", err)
	s := &stream{c: c, x: x, cancel: cancel, open: map[uint64]bool{}, results: map[uint64]*result{}}
	c.streams = append(c.streams, s)
	return s, s.wait(s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: device}}}))
}

// execute begins a stream on the device.
func (c *conn) execute() *stream {
	c.t.Helper()
	s, r := c.tryExecute(c.device.ID)
	if r.err != nil {
		c.t.Fatalf("Open: %v", r.err)
	}
	return s
}

// send sends a command and returns its sequence number. A chunk is sent under the
// number of the command that comes next.
func (s *stream) send(q *backendv1.ExecuteRequest) uint64 {
	s.c.t.Helper()
	q.Seq = s.seq + 1
	if q.GetChunk() == nil {
		s.seq++
		s.open[q.Seq] = true
	}
	if err := s.x.Send(q); err != nil && err != io.EOF { // at io.EOF, Recv says why
		s.c.t.Fatalf("send command %d: %v", q.Seq, err)
	}
	return q.Seq
}

func (s *stream) sendRun(exe *backendv1.Id, in, out []*backendv1.Binding) uint64 {
	s.c.t.Helper()
	return s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Run{
		Run: &backendv1.Run{Executable: exe, Inputs: in, Outputs: out},
	}})
}

func (s *stream) sendCopy(ranges ...*backendv1.CopyRange) uint64 {
	s.c.t.Helper()
	return s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Copy{Copy: &backendv1.Copy{Ranges: ranges}}})
}

func (s *stream) sendFence() uint64 {
	s.c.t.Helper()
	return s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Fence{}})
}

func (s *stream) sendCancel(target uint64) uint64 {
	s.c.t.Helper()
	return s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Cancel{Cancel: &backendv1.Cancel{Target: target}}})
}

// wait gives the answer to a command, reading the stream as far as that.
func (s *stream) wait(seq uint64) *result {
	s.c.t.Helper()
	// The stream ends with the wait: a command without an answer is a failure.
	defer time.AfterFunc(s.c.timeout, s.cancel).Stop()
	for s.open[seq] {
		s.read()
	}
	return s.results[seq]
}

// read reads one message.
func (s *stream) read() {
	s.c.t.Helper()
	r, err := s.x.Recv()
	if err != nil {
		s.c.t.Fatalf("commands %v are not answered: %v", s.waiting(), err)
	}
	if !s.open[r.Seq] {
		s.c.t.Fatalf("an answer to command %d, which is not open: %v", r.Seq, r)
	}
	at := s.results[r.Seq]
	if at == nil {
		at = &result{chunks: map[string][]byte{}}
		s.results[r.Seq] = at
	}
	switch m := r.GetResult().(type) {
	case *backendv1.ExecuteResponse_Chunk:
		at.chunks[m.Chunk.GetName()] = append(at.chunks[m.Chunk.GetName()], m.Chunk.GetData()...)
		return
	case *backendv1.ExecuteResponse_Done:
		at.done = m.Done
	case *backendv1.ExecuteResponse_Error:
		at.err = backend.FromProto(m.Error)
	default:
		s.c.t.Fatalf("the answer to command %d says nothing: %v", r.Seq, r)
	}
	delete(s.open, r.Seq)
}

func (s *stream) waiting() []uint64 {
	var list []uint64
	for seq := range s.open {
		list = append(list, seq)
	}
	return list
}

// done waits for a command that must succeed.
func (s *stream) done(seq uint64) *result {
	s.c.t.Helper()
	r := s.wait(seq)
	if r.err != nil {
		s.c.t.Fatalf("command %d: %v", seq, r.err)
	}
	return r
}

// failed waits for a command that must fail with one of the codes.
func (s *stream) failed(what string, seq uint64, codes ...backend.Code) *backend.Error {
	s.c.t.Helper()
	r := s.wait(seq)
	if r.err == nil {
		return s.c.refused(what, nil, codes...)
	}
	return s.c.refused(what, r.err, codes...)
}

// runInline runs on tensors in messages and gives all outputs.
func (s *stream) runInline(e *compiled, inputs map[string]tensor.Tensor) (map[string]tensor.Tensor, *backend.Error) {
	s.c.t.Helper()
	var in, out []*backendv1.Binding
	for name, t := range inputs {
		in = append(in, &backendv1.Binding{
			Name: name, ElementType: int32(t.DType), Dims: t.Shape, Place: &backendv1.Binding_Inline{Inline: t.Data},
		})
	}
	for _, v := range e.info.Outputs {
		out = append(out, &backendv1.Binding{Name: v.Name, Place: &backendv1.Binding_Inline{}})
	}
	r := s.wait(s.sendRun(e.id, in, out))
	if r.err != nil {
		return nil, r.err
	}
	got := map[string]tensor.Tensor{}
	for _, b := range r.done.GetOutputs() {
		got[b.GetName()] = s.c.tensor(b, b.GetInline())
	}
	return got, nil
}

// tensor reads an output as the answer describes it.
func (c *conn) tensor(b *backendv1.Binding, data []byte) tensor.Tensor {
	c.t.Helper()
	d, err := backend.DTypeFromProto(b.GetElementType())
	if err != nil {
		c.t.Fatalf("output %q: %v", b.GetName(), err)
	}
	t := tensor.Tensor{DType: d, Shape: b.GetDims(), Data: data}.Aligned()
	if err := t.Check(); err != nil {
		c.t.Fatalf("output %q: %v", b.GetName(), err)
	}
	return t
}
