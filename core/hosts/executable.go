package hosts

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	// inlineBytes is the size up to which a tensor travels inside the message.
	inlineBytes = 4 << 10
	// unboundBytes is the most that an output may have whose shape neither the
	// graph nor the inputs tell.
	unboundBytes = 2 << 30
)

// Executable is a graph compiled on one device. It lives no longer than the
// device's epoch: afterwards every call of it fails at once with a *CrashedError
// or *DeviceLostError (errors.Is BAD_STATE), and the graph is to be compiled again.
type Executable struct {
	session *session
	id      *backendv1.Id
	info    backend.ExecutableInfo
	inputs  []port
	outputs []port
	symbols int // how many there are
	closed  atomic.Bool
	runs    sync.Pool // of *run
}

// port is an input or output with its symbolic dimensions numbered.
type port struct {
	name    string
	typ     *graph.Type // of what is no dense tensor; else nil
	coding  backendv1.Encoding
	elem    tensor.DType
	ranked  bool
	sizes   []int64 // -1: symbolic or not known
	symbols []int   // by dimension; -1: none
	names   []string
}

func newExecutable(s *session, c *backendv1.Compiled) (*Executable, error) {
	if err := s.own(c.GetExecutable()); err != nil {
		return nil, err
	}
	info, err := backend.ExecutableFromProto(c)
	if err != nil {
		return nil, s.protocol("Compile described its result wrongly: %v", err)
	}
	x := &Executable{session: s, id: c.GetExecutable(), info: info}
	numbers := map[string]int{}
	ports := func(values []graph.Value) []port {
		var list []port
		for _, v := range values {
			p := port{name: v.Name, coding: backend.EncodingOf(v.Type), elem: v.Type.Elem, ranked: v.Type.HasShape}
			if !backend.Dense(v.Type) {
				p.typ = v.Type
			}
			for _, d := range v.Type.Dims {
				n := -1
				if d.Param != "" {
					var known bool
					if n, known = numbers[d.Param]; !known {
						n = len(numbers)
						numbers[d.Param] = n
					}
				}
				p.sizes, p.symbols, p.names = append(p.sizes, d.Size), append(p.symbols, n), append(p.names, d.Param)
			}
			list = append(list, p)
		}
		return list
	}
	x.inputs, x.outputs = ports(info.Inputs), ports(info.Outputs)
	x.symbols = len(numbers)
	x.runs.New = func() any { return x.newRun() }
	return x, nil
}

// Info says what was compiled: inputs, outputs and memory.
func (x *Executable) Info() backend.ExecutableInfo { return x.info }

// Close gives the executable back. It may be repeated. Runs that are under way end
// by themselves.
func (x *Executable) Close() error {
	if x.closed.Swap(true) {
		return nil
	}
	return x.session.release(x.id)
}

// Input is one input of a run: a value in this process's memory, or what lies in a
// buffer of the same device, seen as a tensor of the type and shape of Value.Tensor.
type Input struct {
	Name   string
	Value  graph.Datum
	Lease  *Lease  // set where the tensor lies in a lease, of any device, which then is not copied where that can be
	Buffer *Buffer // set where the data is in a buffer; Value.Tensor.Data is nil then
	Offset int64   // bytes into Buffer
}

// Output is one output that is wanted, in this process's memory or, if it is a dense
// tensor, written into a buffer of the same device.
type Output struct {
	Name   string
	Buffer *Buffer
	Offset int64 // bytes into Buffer
	Length int64 // room there
}

// Request is one run.
type Request struct {
	Inputs  []Input  // all that the executable has, in any order
	Outputs []Output // those that are wanted; nil: all, in the executable's order
	// Solo runs it with no other run in the backend's process, for a request that
	// may have killed it before.
	Solo bool
}

// Timings say where the time of a run went.
type Timings struct {
	Queued time.Duration // in the backend, before it began
	Run    time.Duration // in the backend
	Total  time.Duration // as the caller saw it, the gate included
}

// Result is what a run computed. Its tensors may lie in memory that is used again
// after Release. For outputs in buffers they have no data, only type and shape.
type Result struct {
	Outputs []graph.Datum // in the order of the request
	Timings Timings
	lease   *Lease
}

// Release gives the memory of the outputs back. It is called once.
func (r *Result) Release() {
	if r.lease != nil {
		r.lease.Release()
	}
}

// Run computes the wanted outputs (nil: all) and returns them in memory of their
// own. See Do for its errors.
func (x *Executable) Run(ctx context.Context, inputs map[string]graph.Datum, wanted []string, solo bool) (map[string]graph.Datum, Timings, error) {
	q := Request{Solo: solo, Inputs: make([]Input, 0, len(inputs))}
	for name, v := range inputs {
		q.Inputs = append(q.Inputs, Input{Name: name, Value: v})
	}
	if wanted == nil {
		for _, p := range x.outputs {
			wanted = append(wanted, p.name)
		}
	}
	q.Outputs = make([]Output, 0, len(wanted))
	for _, name := range wanted {
		q.Outputs = append(q.Outputs, Output{Name: name})
	}
	r, err := x.Do(ctx, q)
	if err != nil {
		return nil, Timings{}, err
	}
	defer r.Release()
	out := make(map[string]graph.Datum, len(wanted))
	for i, name := range wanted {
		v := r.Outputs[i]
		if t := v.Tensor; r.lease != nil && t.Data != nil {
			if v.Tensor, err = tensor.New(t.DType, t.Shape); err != nil {
				return nil, Timings{}, x.session.protocol("output %q: %v", name, err)
			}
			copy(v.Tensor.Data, t.Data)
		}
		out[name] = v
	}
	return out, r.Timings, nil
}

// Do runs the executable. Inputs in leases and outputs are not copied where
// memory is shared with the backend.
//
// Errors: the backend's *Error (INVALID for inputs that don't fit, before anything
// is sent); *CrashedError and *DeviceLostError (see Replayable); *TimeoutError if ctx ended and the
// backend did not let go of the run; ctx's own, wrapped, if it did;
// *ProtocolError; ErrClosed.
func (x *Executable) Do(ctx context.Context, q Request) (*Result, error) {
	begun := time.Now()
	if x.closed.Load() {
		return nil, backend.BadState("the executable was closed")
	}
	if err := x.session.ended(false); err != nil {
		return nil, err
	}
	r := x.runs.Get().(*run)
	result, err := r.do(ctx, q)
	if r.reset() {
		x.runs.Put(r)
	}
	if err != nil {
		return nil, err
	}
	result.Timings.Total = time.Since(begun)
	return result, nil
}

// run holds the messages of one run, which are used again for the next.
type run struct {
	command
	x       *Executable
	body    backendv1.Run
	in, out []binding
	outs    []*backendv1.Binding // body.Outputs' memory
	given   []bool               // which inputs are there
	bound   []int64              // sizes of the symbols; -1: not known yet
	shape   tensor.Shape         // that size works on
	room    int64                // bytes that may yet travel inside the message
	leases  []*Lease             // held until the run is over
}

// binding is a wire binding with room for each of its places.
type binding struct {
	backendv1.Binding
	inline  backendv1.Binding_Inline
	chunked backendv1.Binding_Chunked
	length  backendv1.ChunkedData
	region  backendv1.Binding_Region
	buffer  backendv1.Binding_Buffer
	slice   backendv1.Slice
	source  []byte // an input that is to be copied
	encoded []byte // an input that is no dense tensor, and too large for the message
	want    int64  // bytes of an output; -1: not known
	small   bool   // the output travels inside the message
	shared  []byte // the room of an output in the lease
	port    *port
}

func (x *Executable) newRun() *run {
	r := &run{x: x, in: make([]binding, len(x.inputs)), given: make([]bool, len(x.inputs)), bound: make([]int64, x.symbols)}
	r.session = x.session
	r.done = make(chan struct{}, 1)
	r.body.Executable = x.id
	for i := range r.in {
		b := &r.in[i]
		b.init(&x.inputs[i])
		b.Encoding = b.port.coding
		r.body.Inputs = append(r.body.Inputs, &b.Binding)
	}
	r.message.Command = &backendv1.ExecuteRequest_Run{Run: &r.body}
	return r
}

func (b *binding) init(p *port) {
	b.port, b.Name = p, p.name
	b.chunked.Chunked = &b.length
	b.region.Region, b.buffer.Buffer = &b.slice, &b.slice
}

// reset makes the run ready for the next one, or says that it can't be used again.
func (r *run) reset() bool {
	for _, l := range r.leases {
		l.drop()
	}
	if r.spent {
		return false
	}
	clear(r.leases)
	r.leases = r.leases[:0]
	for i := range r.in {
		r.in[i].clear()
	}
	for i := range r.out {
		r.out[i].clear()
	}
	clear(r.given)
	r.chunks, r.incoming, r.answer, r.problem, r.sent = nil, nil, nil, "", false
	return true
}

func (b *binding) clear() {
	b.Place, b.Dims, b.inline.Inline, b.source, b.encoded, b.shared, b.slice.Id = nil, nil, nil, nil, nil, nil, nil
}

func (r *run) do(ctx context.Context, q Request) (*Result, error) {
	if err := r.bind(q.Inputs); err != nil {
		return nil, err
	}
	if err := r.want(q.Outputs); err != nil {
		return nil, err
	}
	weight := int64(1)
	if q.Solo {
		weight = everyone
	}
	s := r.session
	if err := s.life.h.gate.Acquire(ctx, weight); err != nil {
		return nil, fmt.Errorf("waiting for %s: %w", s.dev.ref, context.Cause(ctx))
	}
	defer s.life.h.gate.Release(weight)
	st, err := s.life.open(s)
	if err != nil {
		return nil, err
	}
	lease := r.place()
	done, err := st.do(ctx, &r.command)
	var result *Result
	if err == nil {
		result, err = r.result(done)
	}
	if lease != nil {
		if err == nil && r.shares() {
			result.lease = lease
		} else {
			lease.Release()
		}
	}
	return result, err
}

// shares reports whether an output lies in the run's lease.
func (r *run) shares() bool {
	for i := range r.out {
		if r.out[i].shared != nil {
			return true
		}
	}
	return false
}

// bind checks the inputs and binds the symbols to their sizes.
func (r *run) bind(inputs []Input) error {
	for i := range r.bound {
		r.bound[i] = -1
	}
	r.room = backend.MaxInline
	for i := range inputs {
		in := &inputs[i]
		n := slices.IndexFunc(r.x.inputs, func(p port) bool { return p.name == in.Name })
		if n < 0 {
			return backend.Invalid(in.Name, "the graph has no input %q", in.Name)
		}
		if r.given[n] {
			return backend.Invalid(in.Name, "input %q is given twice", in.Name)
		}
		r.given[n] = true
		if err := r.bindOne(&r.in[n], in); err != nil {
			return err
		}
	}
	for i, given := range r.given {
		if !given {
			return backend.Invalid(r.x.inputs[i].name, "input %q is missing", r.x.inputs[i].name)
		}
	}
	return nil
}

func (r *run) bindOne(b *binding, in *Input) error {
	p, t := b.port, in.Value.Tensor
	if p.typ != nil {
		return r.encode(b, in)
	}
	if in.Value.Kind != graph.KindTensor {
		return backend.Invalid(in.Name, "input %q is no tensor, the graph takes one of %s", in.Name, p.elem)
	}
	if t.DType != p.elem {
		return backend.Invalid(in.Name, "input %q is %s, the graph takes %s", in.Name, t.DType, p.elem)
	}
	if err := r.symbols(b, in.Name, t.Shape); err != nil {
		return err
	}
	n, err := tensor.ByteSize(t.DType, t.Shape)
	if err != nil {
		return backend.Invalid(in.Name, "input %q: %v", in.Name, err)
	}
	b.ElementType, b.Dims = int32(t.DType), t.Shape
	if in.Buffer != nil {
		return r.bindBuffer(b, in.Buffer, in.Offset, n)
	}
	if int64(len(t.Data)) != n {
		return backend.Invalid(in.Name, "input %q holds %d bytes, %s%v has %d", in.Name, len(t.Data), t.DType, t.Shape, n)
	}
	var region *backendv1.Id
	if in.Lease != nil && (in.Lease.arena == r.session.arena || n > inlineBytes) {
		region = r.session.arena.idFor(in.Lease)
	}
	switch {
	case region != nil && n > 0:
		at, ok := in.Lease.offset(t.Data)
		if !ok {
			return backend.Invalid(in.Name, "input %q does not lie in its lease", in.Name)
		}
		if unit := int64(min(t.DType.Bits()+7, 64) / 8); at%max(unit, 1) != 0 {
			return backend.Invalid(in.Name, "input %q lies at an offset that is not aligned for %s", in.Name, t.DType)
		}
		in.Lease.hold()
		r.leases = append(r.leases, in.Lease)
		b.slice.Id, b.slice.Offset, b.slice.Length = region, uint64(at), uint64(n)
		b.Place = &b.region
	case n <= inlineBytes && n <= r.room:
		r.room -= n
		b.inline.Inline = t.Data
		b.Place = &b.inline
	default:
		b.source = t.Data
	}
	return nil
}

// encode binds what is no dense tensor.
func (r *run) encode(b *binding, in *Input) error {
	p, v := b.port, in.Value
	if in.Buffer != nil || in.Lease != nil {
		return backend.Invalid(in.Name, "input %q lies in a buffer or lease, where only dense tensors can", in.Name)
	}
	if v.Kind == graph.KindTensor && p.typ.Kind == graph.KindTensor && p.ranked {
		if err := r.symbols(b, in.Name, v.Tensor.Shape); err != nil {
			return err
		}
	}
	data, err := backend.EncodeValue(in.Name, p.typ, v)
	if err != nil {
		return err
	}
	b.ElementType, b.Dims = 0, nil
	if n := int64(len(data)); n <= inlineBytes && n <= r.room {
		r.room -= n
		b.inline.Inline = data
		b.Place = &b.inline
		return nil
	}
	b.encoded = data
	return nil
}

// symbols checks a tensor's shape and binds the symbols in it.
func (r *run) symbols(b *binding, name string, shape tensor.Shape) error {
	p := b.port
	if len(shape) != len(p.sizes) {
		return backend.Invalid(name, "input %q has shape %v, the graph takes %d dimensions", name, shape, len(p.sizes))
	}
	for d, size := range shape {
		if p.sizes[d] >= 0 && size != p.sizes[d] {
			return backend.Invalid(name, "input %q has shape %v, the graph takes %d as dimension %d", name, shape, p.sizes[d], d)
		}
		if sym := p.symbols[d]; sym >= 0 {
			if known := r.bound[sym]; known >= 0 && size != known {
				return backend.Invalid(name, "input %q has %d as dimension %d, another input has %d for the same %q", name, size, d, known, p.names[d])
			}
			r.bound[sym] = size
		}
	}
	return nil
}

// bindBuffer binds to n bytes of a buffer.
func (r *run) bindBuffer(b *binding, buf *Buffer, offset, n int64) error {
	if buf.session != r.session {
		if buf.session.dev == r.session.dev {
			return backend.BadState("the buffer for %q belongs to an earlier life of %s", b.Name, r.session.dev.ref)
		}
		return backend.Invalid(b.Name, "the buffer for %q is on %s, the executable on %s", b.Name, buf.session.dev.ref, r.session.dev.ref)
	}
	if offset < 0 || n < 0 || offset > buf.size || n > buf.size-offset {
		return backend.Invalid(b.Name, "%q: %d bytes at %d do not fit a buffer of %d", b.Name, n, offset, buf.size)
	}
	b.slice.Id, b.slice.Offset, b.slice.Length = buf.id, uint64(offset), uint64(n)
	b.Place = &b.buffer
	return nil
}

// want checks which outputs are wanted, and computes their sizes as far as the
// symbols tell.
func (r *run) want(outputs []Output) error {
	n := len(outputs)
	if outputs == nil {
		n = len(r.x.outputs)
	}
	if cap(r.out) < n {
		r.out = make([]binding, n)
		r.outs = make([]*backendv1.Binding, n)
		for i := range r.out {
			r.outs[i] = &r.out[i].Binding
		}
	}
	r.out, r.body.Outputs = r.out[:n], r.outs[:n]
	r.room = backend.MaxInline
	for i := range r.out {
		b := &r.out[i]
		if outputs == nil {
			b.init(&r.x.outputs[i])
		} else {
			name := outputs[i].Name
			k := slices.IndexFunc(r.x.outputs, func(p port) bool { return p.name == name })
			if k < 0 {
				return backend.Invalid(name, "the graph has no output %q", name)
			}
			if slices.ContainsFunc(outputs[:i], func(o Output) bool { return o.Name == name }) {
				return backend.Invalid(name, "output %q is wanted twice", name)
			}
			b.init(&r.x.outputs[k])
		}
		b.want = r.size(b.port)
		if b.small = b.want >= 0 && b.want <= min(inlineBytes, r.room); b.small {
			r.room -= b.want
		}
		if outputs != nil && outputs[i].Buffer != nil {
			if b.port.typ != nil {
				return backend.Invalid(b.Name, "output %q is wanted in a buffer, where only dense tensors can lie", b.Name)
			}
			if err := r.bindBuffer(b, outputs[i].Buffer, outputs[i].Offset, outputs[i].Length); err != nil {
				return err
			}
		}
	}
	return nil
}

// size is the number of bytes of an output, or -1.
func (r *run) size(p *port) int64 {
	if !p.ranked || p.typ != nil {
		return -1
	}
	r.shape = r.shape[:0]
	for d, size := range p.sizes {
		if sym := p.symbols[d]; sym >= 0 {
			size = r.bound[sym]
		}
		if size < 0 {
			return -1
		}
		r.shape = append(r.shape, size)
	}
	n, err := tensor.ByteSize(p.elem, r.shape)
	if err != nil {
		return -1
	}
	return n
}

// place gives every input that is to be copied, and every output in host memory, its
// place: small ones in the message, others in one lease, or in chunks where none
// is to be had.
func (r *run) place() *Lease {
	var need int64
	for i := range r.in {
		need += roundUp(int64(len(r.in[i].source)), align)
	}
	for i := range r.out {
		if b := &r.out[i]; b.Place == nil && b.want >= 0 && !b.small && need < math.MaxInt64-b.want-align {
			need += roundUp(b.want, align)
		}
	}
	var lease *Lease
	if need > 0 {
		lease = r.session.arena.lease(need)
	}
	if lease != nil {
		lease.hold()
		r.leases = append(r.leases, lease)
	}
	for i := range r.in {
		b := &r.in[i]
		switch {
		case b.encoded != nil:
			r.chunk(b, b.encoded)
		case b.source == nil:
		case lease != nil:
			copy(b.share(lease, int64(len(b.source))), b.source)
		default:
			r.chunk(b, b.source)
		}
	}
	for i := range r.out {
		b := &r.out[i]
		switch {
		case b.Place != nil:
		case b.small:
			b.Place = &b.inline
		case b.want >= 0 && lease != nil:
			b.shared = b.share(lease, b.want)
		default:
			b.length.Length = 0
			b.Place = &b.chunked
			limit := b.want
			switch {
			case b.port.typ != nil:
				limit = backend.MaxValue
			case limit < 0:
				limit = unboundBytes
			}
			if r.incoming == nil {
				r.incoming = map[string]*incoming{}
			}
			r.incoming[b.Name] = &incoming{limit: limit}
		}
	}
	return lease
}

// chunk has an input sent in chunks.
func (r *run) chunk(b *binding, data []byte) {
	b.length.Length = uint64(len(data))
	b.Place = &b.chunked
	for part := range slices.Chunk(data, backend.ChunkBytes) {
		r.chunks = append(r.chunks, &backendv1.Chunk{Name: b.Name, Data: part})
	}
}

// share places a binding into the next part of a lease that has room for it.
func (b *binding) share(l *Lease, n int64) []byte {
	data := l.data[l.used : l.used+n : l.used+n]
	b.slice.Id, b.slice.Offset, b.slice.Length = l.region.id, uint64(l.from+l.used), uint64(n)
	b.Place = &b.region
	l.used = roundUp(l.used+n, align)
	return data
}

// result checks the answer against what was asked.
func (r *run) result(done *backendv1.Done) (*Result, error) {
	result := &Result{Outputs: make([]graph.Datum, len(r.out)), Timings: Timings{
		Queued: duration(done.GetTimings().GetQueuedNs()), Run: duration(done.GetTimings().GetRunNs())}}
	answers := done.GetOutputs()
	if len(answers) != len(r.out) {
		return nil, r.session.protocol("%d outputs were asked for, %d answered", len(r.out), len(answers))
	}
	for i := range r.out {
		b := &r.out[i]
		a := answers[i]
		if a.GetName() != b.Name {
			k := slices.IndexFunc(answers, func(a *backendv1.Binding) bool { return a.GetName() == b.Name })
			if k < 0 {
				return nil, r.session.protocol("output %q is missing in the answer", b.Name)
			}
			a = answers[k]
		}
		var problem string
		switch {
		case a.GetEncoding() != b.port.coding:
			problem = fmt.Sprintf("it came as %v, the graph says %v", a.GetEncoding(), b.port.coding)
		case b.port.typ != nil:
			result.Outputs[i], problem = r.value(b, a)
		default:
			result.Outputs[i].Kind = graph.KindTensor
			result.Outputs[i].Tensor, problem = r.output(b, a)
		}
		if problem != "" {
			return nil, r.session.protocol("output %q: %s", b.Name, problem)
		}
	}
	return result, nil
}

// value is one output of the answer that is no dense tensor, or what is wrong with
// it.
func (r *run) value(b *binding, a *backendv1.Binding) (v graph.Datum, problem string) {
	if a.GetElementType() != 0 || len(a.GetDims()) > 0 {
		return v, "it has an element type or dims of a dense tensor, and the graph says that it is none"
	}
	var data []byte
	switch place := a.GetPlace().(type) {
	case *backendv1.Binding_Inline:
		data = place.Inline
	case *backendv1.Binding_Chunked:
		in := r.incoming[b.Name]
		if in == nil || place.Chunked.GetLength() != uint64(len(in.data)) {
			return v, "its chunks are not what the answer says that they are"
		}
		data = in.data
	default:
		return v, "it came to another place than was asked for"
	}
	v, err := backend.DecodeValue(b.port.typ, data)
	if err != nil {
		return v, err.Error()
	}
	return v, ""
}

// output is one dense output of the answer, or what is wrong with it.
func (r *run) output(b *binding, a *backendv1.Binding) (t tensor.Tensor, problem string) {
	t = tensor.Tensor{DType: tensor.DType(a.GetElementType()), Shape: a.GetDims()}
	if a.GetElementType() != int32(b.port.elem) {
		return t, fmt.Sprintf("it is of element type %d, the graph says %s", a.GetElementType(), b.port.elem)
	}
	if b.port.ranked && len(t.Shape) != len(b.port.sizes) {
		return t, fmt.Sprintf("it has shape %v, the graph says %d dimensions", t.Shape, len(b.port.sizes))
	}
	n, err := tensor.ByteSize(t.DType, t.Shape)
	if err != nil {
		return t, err.Error()
	}
	slice := a.GetRegion()
	if slice == nil {
		slice = a.GetBuffer()
	}
	_, asked := b.Place.(*backendv1.Binding_Region)
	_, inBuffer := b.Place.(*backendv1.Binding_Buffer)
	switch place := a.GetPlace().(type) {
	case *backendv1.Binding_Inline:
		if asked || inBuffer {
			return t, "it came in the message, and was asked for elsewhere"
		}
		t.Data = place.Inline
	case *backendv1.Binding_Chunked:
		in := r.incoming[b.Name]
		if in == nil {
			return t, "it came in chunks, and was asked for elsewhere"
		}
		if place.Chunked.GetLength() != uint64(len(in.data)) {
			return t, fmt.Sprintf("its chunks have %d bytes, and are said to have %d", len(in.data), place.Chunked.GetLength())
		}
		t.Data = in.data
	case *backendv1.Binding_Region, *backendv1.Binding_Buffer:
		_, isBuffer := place.(*backendv1.Binding_Buffer)
		if !asked && !inBuffer || isBuffer != inBuffer || !sameID(slice.GetId(), b.slice.GetId()) || slice.GetOffset() != b.slice.Offset {
			return t, "it came to another place than was asked for"
		}
		if uint64(n) > b.slice.Length || slice.GetLength() != uint64(n) {
			return t, fmt.Sprintf("%s%v has %d bytes; it is said to have %d, and was given room for %d", t.DType, t.Shape, n, slice.GetLength(), b.slice.Length)
		}
		if inBuffer {
			return t, ""
		}
		t.Data = b.shared[:n:n]
		return t, ""
	default:
		return t, "it came to no place"
	}
	if int64(len(t.Data)) != n {
		return t, fmt.Sprintf("%s%v has %d bytes, %d came", t.DType, t.Shape, n, len(t.Data))
	}
	return t.Aligned(), ""
}

func sameID(a, b *backendv1.Id) bool {
	return a.GetN() == b.GetN() && a.GetEpoch() == b.GetEpoch() && a.GetDevice() == b.GetDevice()
}

func duration(ns uint64) time.Duration { return time.Duration(min(ns, math.MaxInt64)) }

// within is where part lies in whole, if it does.
func within(whole, part []byte) (int64, bool) {
	from, at := uintptr(unsafe.Pointer(unsafe.SliceData(whole))), uintptr(unsafe.Pointer(unsafe.SliceData(part)))
	return int64(at - from), at >= from && at+uintptr(len(part)) <= from+uintptr(len(whole))
}
