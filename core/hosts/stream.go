package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// stream is the Execute stream of one device in one life. Commands of many
// goroutines travel on it side by side, told apart by their seq.
type stream struct {
	life   *life
	device string
	opened sync.Once
	err    error // of the opening

	sending sync.Mutex // a gRPC stream takes one sender
	rpc     grpc.BidiStreamingClient[backendv1.ExecuteRequest, backendv1.ExecuteResponse]

	mu      sync.Mutex
	seq     uint64
	pending map[uint64]*command // nil once the stream is over
}

// openSeq is the seq of the first message.
const openSeq = 1

// command is one command on its way. All of it is its sender's until it is sent,
// then the receiver's until done.
type command struct {
	session *session
	message backendv1.ExecuteRequest
	chunks  []*backendv1.Chunk // sent before message
	// incoming holds the outputs that come in chunks, by name, with the most bytes
	// that each may have.
	incoming map[string]*incoming

	answer  *backendv1.ExecuteResponse // nil: the process died
	problem string                     // how the answer broke the protocol
	done    chan struct{}              // takes one value a command
	spent   bool

	// Guarded by stream.sending.
	sent, cancelled bool
	// Guarded by stream.mu.
	hung  bool
	timer *time.Timer
}

type incoming struct {
	data  []byte
	limit int64
}

// open returns the device's stream, opening it first if need be.
func (l *life) open(s *session) (*stream, error) {
	l.mu.Lock()
	if l.streams == nil {
		l.mu.Unlock()
		<-l.over
		return nil, l.ended(s.dev.ref, false)
	}
	st := l.streams[s.dev.id]
	if st == nil {
		st = &stream{life: l, device: s.dev.id, pending: map[uint64]*command{}}
		l.streams[s.dev.id] = st
	}
	l.mu.Unlock()
	st.opened.Do(func() { st.err = st.open(s) })
	if st.err != nil {
		l.mu.Lock()
		if l.streams[s.dev.id] == st {
			delete(l.streams, s.dev.id)
		}
		l.mu.Unlock()
		return nil, st.err
	}
	return st, nil
}

func (st *stream) open(s *session) error {
	ctx, cancel := context.WithCancel(st.life.ctx)
	var err error
	if st.rpc, err = st.life.rpc.Execute(ctx); err != nil {
		cancel()
		st.life.broken("connection", err)
		<-st.life.over
		return st.life.ended(s.dev.ref, false)
	}
	st.life.mu.Lock()
	if st.life.streams == nil {
		st.life.mu.Unlock()
		cancel()
		<-st.life.over
		return st.life.ended(s.dev.ref, false)
	}
	st.life.reading.Go(func() {
		defer cancel()
		if err := st.receive(); err != nil {
			st.life.broken("Execute stream of "+s.dev.ref, err)
		}
	})
	st.life.mu.Unlock()
	limit := st.life.h.m.opts.Timeouts.Call
	late := time.AfterFunc(limit, func() {
		st.life.fail(fmt.Sprintf("it did not open the Execute stream of %s within %v", s.dev.ref, limit))
	})
	defer late.Stop()
	c := &command{session: s, done: make(chan struct{}, 1)}
	c.message.Command = &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: st.device}}
	_, err = st.do(context.Background(), c)
	return err
}

// do sends a command and waits for its end: the answer, or the death of the
// process. When ctx ends the command is cancelled, and the process killed if it
// does not answer for the grace that Timeouts.Cancel gives. So when do returns, nobody uses the
// command's memory any more.
func (st *stream) do(ctx context.Context, c *command) (*backendv1.Done, error) {
	if err := c.session.ended(false); err != nil {
		return nil, err
	}
	st.mu.Lock()
	if st.pending == nil {
		st.mu.Unlock()
		return nil, c.session.ended(false)
	}
	st.seq++
	seq := st.seq
	st.pending[seq] = c
	st.mu.Unlock()

	begun := time.Now()
	var uncancel func() bool
	if ctx.Done() != nil {
		uncancel = context.AfterFunc(ctx, func() { st.cancel(seq, c) })
	}
	c.message.Seq = seq
	if err := st.send(c); err != nil && !errors.Is(err, io.EOF) && st.take(seq) != nil {
		// The stream itself is well (else err is io.EOF): the message can't be sent.
		c.answer = &backendv1.ExecuteResponse{Result: &backendv1.ExecuteResponse_Error{Error: backend.ToProto(backend.Internal("send the command: %v", err))}}
		c.done <- struct{}{}
	}
	<-c.done
	// A command whose cancelling has begun may not be used again.
	c.spent = uncancel != nil && !uncancel()
	st.mu.Lock()
	hung := c.hung
	if c.timer != nil {
		c.timer.Stop()
	}
	st.mu.Unlock()
	if c.answer == nil {
		if hung && ctx.Err() != nil {
			return nil, &TimeoutError{Backend: st.life.h.name, Device: c.session.dev.ref, Call: "Execute", After: time.Since(begun), Killed: true, Err: context.Cause(ctx)}
		}
		return nil, c.session.ended(true)
	}
	if e := c.answer.GetError(); e != nil {
		err := backend.FromProto(e)
		if err.Code == backend.CodeCancelled && ctx.Err() != nil {
			return nil, fmt.Errorf("command on %s was cancelled: %w", c.session.dev.ref, context.Cause(ctx))
		}
		return nil, c.session.explain(err)
	}
	if c.problem != "" {
		return nil, c.session.protocol("%s", c.problem)
	}
	return c.answer.GetDone(), nil
}

// send hands a command's messages to gRPC, and its cancelling if that came first.
func (st *stream) send(c *command) error {
	if len(c.chunks) > 0 {
		chunk := backendv1.ExecuteRequest{Seq: c.message.Seq}
		for _, k := range c.chunks {
			chunk.Command = &backendv1.ExecuteRequest_Chunk{Chunk: k}
			st.sending.Lock()
			err := st.rpc.Send(&chunk)
			st.sending.Unlock()
			if err != nil {
				return err
			}
		}
	}
	st.sending.Lock()
	defer st.sending.Unlock()
	if err := st.rpc.Send(&c.message); err != nil {
		return err
	}
	c.sent = true
	if c.cancelled {
		return st.sendCancel(c.message.Seq)
	}
	return nil
}

// sendCancel is called with st.sending held. Its answer, an empty Done under a
// seq that nobody waits for, is dropped.
func (st *stream) sendCancel(target uint64) error {
	st.mu.Lock()
	st.seq++
	seq := st.seq
	st.mu.Unlock()
	return st.rpc.Send(&backendv1.ExecuteRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Cancel{Cancel: &backendv1.Cancel{Target: target}}})
}

// cancel asks the backend to end a command early.
func (st *stream) cancel(seq uint64, c *command) {
	grace := st.life.h.m.opts.Timeouts.Cancel
	st.expire(seq, c, fmt.Sprintf("it did not end a cancelled command on %s within %v", c.session.dev.ref, grace))
	st.sending.Lock()
	defer st.sending.Unlock()
	if !c.sent {
		c.cancelled = true
		return
	}
	st.sendCancel(seq) // an error means that the stream is over, and with it the command
}

// expire kills the process if the command has no answer after the grace.
func (st *stream) expire(seq uint64, c *command, why string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.pending[seq] != c || c.timer != nil {
		return
	}
	c.timer = time.AfterFunc(st.life.h.m.opts.Timeouts.Cancel, func() {
		st.mu.Lock()
		waiting := st.pending[seq] == c
		c.hung = waiting
		st.mu.Unlock()
		if waiting {
			st.life.fail(why)
		}
	})
}

// abandon expires the commands of a session that is over: the backend must answer them.
func (l *life) abandon(s *session, why string) {
	l.mu.Lock()
	st := l.streams[s.dev.id]
	l.mu.Unlock()
	if st == nil {
		return
	}
	st.mu.Lock()
	waiting := map[uint64]*command{}
	for seq, c := range st.pending {
		if c.session == s {
			waiting[seq] = c
		}
	}
	st.mu.Unlock()
	for seq, c := range waiting {
		st.expire(seq, c, why+", and did not end the commands that were under way there")
	}
}

// take removes a command that waits, or returns nil.
func (st *stream) take(seq uint64) *command {
	st.mu.Lock()
	defer st.mu.Unlock()
	c := st.pending[seq]
	delete(st.pending, seq)
	return c
}

// receive hands answers to those who wait until the stream ends, which is no
// error only if the backend refused to open it.
func (st *stream) receive() error {
	for {
		r, err := st.rpc.Recv()
		if err != nil {
			return err
		}
		if k := r.GetChunk(); k != nil {
			st.mu.Lock()
			c := st.pending[r.GetSeq()]
			st.mu.Unlock()
			if c != nil {
				c.take(k)
			}
			continue
		}
		c := st.take(r.GetSeq())
		if c == nil {
			continue
		}
		c.answer = r
		c.done <- struct{}{}
		if r.GetSeq() == openSeq && r.GetError() != nil {
			return nil
		}
	}
}

// take adds a chunk to the output that it is of.
func (c *command) take(k *backendv1.Chunk) {
	in := c.incoming[k.GetName()]
	switch {
	case c.problem != "":
	case in == nil:
		c.problem = fmt.Sprintf("it sent chunks of output %q, which was not asked for in chunks", k.GetName())
	case int64(len(k.GetData())) > in.limit-int64(len(in.data)):
		c.problem = fmt.Sprintf("it sent more than the %d bytes that output %q can have", in.limit, k.GetName())
		in.data = nil
	default:
		in.data = append(in.data, k.GetData()...)
	}
}

// end ends all commands: the process is gone.
func (st *stream) end() {
	st.mu.Lock()
	pending := st.pending
	st.pending = nil
	st.mu.Unlock()
	for _, c := range pending {
		c.done <- struct{}{}
	}
}
