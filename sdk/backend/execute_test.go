package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

type (
	execRequest  = backendv1.ExecuteRequest
	execResponse = backendv1.ExecuteResponse
)

// session is one Execute stream of a test.
type session struct {
	t      *testing.T
	x      grpc.BidiStreamingClient[execRequest, execResponse]
	cancel context.CancelFunc
	seq    uint64
}

// open begins a stream and sends Open, whose answer is still to be read.
func open(t *testing.T, c backendv1.BackendClient, device string) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	x, err := c.Execute(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, x: x, cancel: cancel}
	s.send(&execRequest{Command: &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: device}}})
	return s
}

// started begins a stream on device 0.
func started(t *testing.T, c backendv1.BackendClient) *session {
	t.Helper()
	s := open(t, c, "0")
	s.done(1)
	return s
}

func (s *session) send(q *execRequest) uint64 {
	s.t.Helper()
	if q.Seq == 0 {
		s.seq++
		q.Seq = s.seq
	}
	if err := s.x.Send(q); err != nil {
		s.t.Fatal(err)
	}
	return q.Seq
}

func (s *session) run(exe *backendv1.Id, in, out []*backendv1.Binding) uint64 {
	s.t.Helper()
	return s.send(&execRequest{Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{Executable: exe, Inputs: in, Outputs: out}}})
}

func (s *session) copy(ranges ...*backendv1.CopyRange) uint64 {
	s.t.Helper()
	return s.send(&execRequest{Command: &backendv1.ExecuteRequest_Copy{Copy: &backendv1.Copy{Ranges: ranges}}})
}

func (s *session) fence() uint64 {
	s.t.Helper()
	return s.send(&execRequest{Command: &backendv1.ExecuteRequest_Fence{}})
}

func (s *session) cancelSeq(target uint64) uint64 {
	s.t.Helper()
	return s.send(&execRequest{Command: &backendv1.ExecuteRequest_Cancel{Cancel: &backendv1.Cancel{Target: target}}})
}

// settle returns when the server has read all that was sent.
func (s *session) settle() {
	s.t.Helper()
	s.done(s.cancelSeq(1 << 60))
}

func (s *session) next() *execResponse {
	s.t.Helper()
	r, err := s.x.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// done reads the answer to seq, which must be Done.
func (s *session) done(seq uint64) *backendv1.Done {
	s.t.Helper()
	r := s.next()
	if r.Seq != seq || r.GetDone() == nil {
		s.t.Fatalf("answer %v, want Done of %d", r, seq)
	}
	return r.GetDone()
}

// failed reads the answer to seq, which must be an error.
func (s *session) failed(seq uint64, want Code) *Error {
	s.t.Helper()
	r := s.next()
	if r.Seq != seq || r.GetError() == nil {
		s.t.Fatalf("answer %v, want an error of %d", r, seq)
	}
	e := FromProto(r.GetError())
	if e.Code != want {
		s.t.Errorf("error %v, want %s", e, want)
	}
	return e
}

func inlineIn(name string, values ...float32) *backendv1.Binding {
	t := tensor.Floats(tensor.Shape{int64(len(values))}, values...)
	return &backendv1.Binding{Name: name, ElementType: 1, Dims: t.Shape, Place: &backendv1.Binding_Inline{Inline: t.Data}}
}

func inlineOut(name string) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Inline{}}
}

func regionAt(name string, id *backendv1.Id, offset, length uint64) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: id, Offset: offset, Length: length}}}
}

func bufferAt(name string, id *backendv1.Id, offset, length uint64) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Buffer{Buffer: &backendv1.Slice{Id: id, Offset: offset, Length: length}}}
}

// typed adds what an input's binding must have.
func typed(b *backendv1.Binding, elem int32, dims ...int64) *backendv1.Binding {
	b.ElementType, b.Dims = elem, dims
	return b
}

func floats(data []byte) []float32 {
	return tensor.View[float32](tensor.Tensor{DType: tensor.Float32, Data: bytes.Clone(data)}.Aligned())
}

// places are a region and a buffer of 4096 bytes each.
type places struct {
	memory *region.Region
	region *backendv1.Id
	buffer *backendv1.Id
}

func makePlaces(t testing.TB, c backendv1.BackendClient, mode backendv1.MapMode) places {
	t.Helper()
	r, err := region.Create(4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	m, err := c.Map(t.Context(), &backendv1.MapRequest{Device: "0", Locator: r.Locator(), Length: 4096, Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Alloc(t.Context(), &backendv1.AllocRequest{Device: "0", Length: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return places{r, m.Region, b.Buffer}
}

const readWrite = backendv1.MapMode_MAP_MODE_READ_WRITE

func TestBindings(t *testing.T) {
	c := serve(t, &fake{})
	exe := compile(t, c).Executable
	p := makePlaces(t, c, readWrite)
	s := started(t, c)
	x := []float32{1, 2, 3, 4}
	want := []float32{2, 4, 6, 8}
	raw := inlineIn("x", x...).GetInline()
	copy(p.memory.Bytes()[64:], raw)
	s.done(s.copy(&backendv1.CopyRange{From: p.region, FromOffset: 64, To: p.buffer, ToOffset: 128, Length: 16}))

	inputs := map[string]func(seq uint64) *backendv1.Binding{
		"inline": func(uint64) *backendv1.Binding { return inlineIn("x", x...) },
		"chunked": func(seq uint64) *backendv1.Binding {
			for _, part := range [][]byte{raw[:5], nil, raw[5:]} {
				s.send(&execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Chunk{Chunk: &backendv1.Chunk{Name: "x", Data: part}}})
			}
			return typed(&backendv1.Binding{Name: "x", Place: &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: 16}}}, 1, 4)
		},
		"region": func(uint64) *backendv1.Binding { return typed(regionAt("x", p.region, 64, 16), 1, 4) },
		"buffer": func(uint64) *backendv1.Binding { return typed(bufferAt("x", p.buffer, 128, 16), 1, 4) },
	}
	outputs := map[string]struct {
		bind *backendv1.Binding
		read func(*backendv1.Binding, []byte) []byte
	}{
		"inline":  {inlineOut("y"), func(b *backendv1.Binding, _ []byte) []byte { return b.GetInline() }},
		"chunked": {&backendv1.Binding{Name: "y", Place: &backendv1.Binding_Chunked{}}, func(_ *backendv1.Binding, chunks []byte) []byte { return chunks }},
		"region": {regionAt("y", p.region, 1024, 100), func(b *backendv1.Binding, _ []byte) []byte {
			at := b.GetRegion()
			return p.memory.Bytes()[at.Offset : at.Offset+at.Length]
		}},
		"buffer": {bufferAt("y", p.buffer, 2048, 16), func(b *backendv1.Binding, _ []byte) []byte {
			at := b.GetBuffer()
			s.done(s.copy(&backendv1.CopyRange{From: at.Id, FromOffset: at.Offset, To: p.region, ToOffset: 512, Length: at.Length}))
			return p.memory.Bytes()[512 : 512+at.Length]
		}},
	}
	for in, input := range inputs {
		for out, output := range outputs {
			t.Run(in+" to "+out, func(t *testing.T) {
				clear(p.memory.Bytes()[512:])
				s.seq++
				seq := s.seq
				s.send(&execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{
					Executable: exe, Inputs: []*backendv1.Binding{input(seq)}, Outputs: []*backendv1.Binding{output.bind},
				}}})
				var chunks []byte
				r := s.next()
				for ; r.GetChunk() != nil; r = s.next() {
					chunks = append(chunks, r.GetChunk().Data...)
				}
				if r.Seq != seq || r.GetDone() == nil || len(r.GetDone().Outputs) != 1 {
					t.Fatalf("answer %v", r)
				}
				b := r.GetDone().Outputs[0]
				if b.Name != "y" || b.ElementType != 1 || len(b.Dims) != 1 || b.Dims[0] != 4 {
					t.Errorf("output %v", b)
				}
				if got := floats(output.read(b, chunks)); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("y = %v, want %v", got, want)
				}
			})
		}
	}
	if d := s.done(s.run(exe, []*backendv1.Binding{inlineIn("x", 1)}, nil)); len(d.Outputs) != 0 {
		t.Errorf("no output was asked for, %v came", d.Outputs)
	}
	if d := s.done(s.run(exe, []*backendv1.Binding{inlineIn("x")}, []*backendv1.Binding{inlineOut("y")})); len(d.Outputs[0].GetInline()) != 0 {
		t.Errorf("of no elements came %v", d.Outputs)
	}
}

// A region is used where it lies: the backend sees the caller's own memory.
func TestRegionsAreNotCopied(t *testing.T) {
	f := &fake{}
	var in, out []byte
	n := graph.Sym("n")
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		return f.executable([]graph.Value{value("x", tensor.Uint8, n)}, []graph.Value{value("y", tensor.Uint8, n)},
			func(_ context.Context, inputs []Value, o Outputs) error {
				y, err := o.Place(0, tensor.Uint8, inputs[0].Tensor.Shape)
				in, out = inputs[0].Tensor.Data, y.Data
				if cap(in) != len(in) || cap(out) != len(out) {
					return errors.New("a slice reaches beyond its binding")
				}
				return err
			}), nil
	}
	c := serve(t, f)
	exe := compile(t, c).Executable
	p := makePlaces(t, c, readWrite)
	s := started(t, c)
	s.done(s.run(exe, []*backendv1.Binding{typed(regionAt("x", p.region, 1, 7), 2, 7)}, []*backendv1.Binding{regionAt("y", p.region, 100, 50)}))
	in[0], out[0] = 11, 22
	if p.memory.Bytes()[1] != 11 || p.memory.Bytes()[100] != 22 || len(out) != 7 {
		t.Error("the tensors are not the region's memory")
	}
}

func TestWrongRuns(t *testing.T) {
	f := &fake{}
	n, ran := graph.Sym("n"), 0
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		return f.executable(
			[]graph.Value{value("a", tensor.Float32, n, graph.Known(2)), value("b", tensor.Int64, n)},
			[]graph.Value{value("y", tensor.Float32, n)},
			func(_ context.Context, in []Value, out Outputs) error {
				ran++
				if !out.Wanted(0) {
					return nil
				}
				_, err := out.Place(0, tensor.Float32, in[1].Tensor.Shape)
				return err
			}), nil
	}
	c := serve(t, f)
	exe := compile(t, c).Executable
	p := makePlaces(t, c, readWrite)
	readOnly := makePlaces(t, c, backendv1.MapMode_MAP_MODE_READ).region
	s := started(t, c)
	a := func() *backendv1.Binding {
		return typed(&backendv1.Binding{Name: "a", Place: &backendv1.Binding_Inline{Inline: make([]byte, 24)}}, 1, 3, 2)
	}
	b := func() *backendv1.Binding {
		return typed(&backendv1.Binding{Name: "b", Place: &backendv1.Binding_Inline{Inline: make([]byte, 24)}}, 7, 3)
	}
	y := func() *backendv1.Binding { return inlineOut("y") }
	list := func(bs ...*backendv1.Binding) []*backendv1.Binding { return bs }
	stale := &backendv1.Id{Device: "0", Epoch: exe.Epoch ^ 1, N: exe.N}
	good := ran
	s.done(s.run(exe, list(b(), a()), list(y())))
	if ran != good+1 {
		t.Fatal("the good run did not run")
	}
	for name, r := range map[string]struct {
		exe      *backendv1.Id
		in, out  []*backendv1.Binding
		want     Code
		argument string
	}{
		"no id":                {nil, list(a(), b()), list(y()), CodeBadState, ""},
		"stale id":             {stale, list(a(), b()), list(y()), CodeBadState, ""},
		"other device":         {&backendv1.Id{Device: "1", Epoch: exe.Epoch, N: exe.N}, list(a(), b()), nil, CodeBadState, ""},
		"unknown id":           {&backendv1.Id{Device: "0", Epoch: exe.Epoch, N: 99}, list(a(), b()), nil, CodeBadState, ""},
		"a buffer's id":        {p.buffer, list(a(), b()), nil, CodeBadState, ""},
		"stale region":         {exe, list(a(), typed(regionAt("b", stale, 0, 24), 7, 3)), nil, CodeBadState, ""},
		"buffer as region":     {exe, list(a(), typed(regionAt("b", p.buffer, 0, 24), 7, 3)), nil, CodeBadState, ""},
		"region as buffer":     {exe, list(a(), typed(bufferAt("b", p.region, 0, 24), 7, 3)), nil, CodeBadState, ""},
		"missing input":        {exe, list(a()), nil, CodeInvalid, "b"},
		"unknown input":        {exe, list(a(), b(), inlineIn("c")), nil, CodeInvalid, "c"},
		"input twice":          {exe, list(a(), b(), a()), nil, CodeInvalid, "a"},
		"wrong type":           {exe, list(typed(a(), 7, 3, 2), b()), nil, CodeInvalid, "a"},
		"absurd type":          {exe, list(typed(a(), 1<<20+1, 3, 2), b()), nil, CodeInvalid, "a"},
		"wrong rank":           {exe, list(typed(a(), 1, 6), b()), nil, CodeInvalid, "a"},
		"wrong fixed size":     {exe, list(typed(a(), 1, 2, 3), b()), nil, CodeInvalid, "a"},
		"negative size":        {exe, list(typed(a(), 1, -3, 2), b()), nil, CodeInvalid, "a"},
		"enormous size":        {exe, list(typed(a(), 1, 1<<62, 2), b()), nil, CodeInvalid, "a"},
		"symbol of two sizes":  {exe, list(a(), typed(b(), 7, 2)), nil, CodeInvalid, "b"},
		"short data":           {exe, list(a(), typed(&backendv1.Binding{Name: "b", Place: &backendv1.Binding_Inline{Inline: make([]byte, 23)}}, 7, 3)), nil, CodeInvalid, "b"},
		"no place":             {exe, list(a(), typed(&backendv1.Binding{Name: "b"}, 7, 3)), nil, CodeInvalid, "b"},
		"chunks never came":    {exe, list(a(), typed(&backendv1.Binding{Name: "b", Place: &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: 24}}}, 7, 3)), nil, CodeInvalid, "b"},
		"short region slice":   {exe, list(a(), typed(regionAt("b", p.region, 0, 16), 7, 3)), nil, CodeInvalid, "b"},
		"region end":           {exe, list(a(), typed(regionAt("b", p.region, 4080, 24), 7, 3)), nil, CodeInvalid, "b"},
		"region overflow":      {exe, list(a(), typed(regionAt("b", p.region, 1<<64-8, 24), 7, 3)), nil, CodeInvalid, "b"},
		"unaligned region":     {exe, list(a(), typed(regionAt("b", p.region, 4, 24), 7, 3)), nil, CodeInvalid, "b"},
		"buffer end":           {exe, list(a(), typed(bufferAt("b", p.buffer, 4080, 24), 7, 3)), nil, CodeInvalid, "b"},
		"unknown output":       {exe, list(a(), b()), list(inlineOut("z")), CodeInvalid, "z"},
		"output twice":         {exe, list(a(), b()), list(y(), y()), CodeInvalid, "y"},
		"output nowhere":       {exe, list(a(), b()), list(&backendv1.Binding{Name: "y"}), CodeInvalid, "y"},
		"output, region end":   {exe, list(a(), b()), list(regionAt("y", p.region, 4096, 1)), CodeInvalid, "y"},
		"output, unaligned":    {exe, list(a(), b()), list(regionAt("y", p.region, 2, 64)), CodeInvalid, "y"},
		"output, read-only":    {exe, list(a(), b()), list(regionAt("y", readOnly, 0, 64)), CodeInvalid, "y"},
		"output, buffer end":   {exe, list(a(), b()), list(bufferAt("y", p.buffer, 0, 4097)), CodeInvalid, "y"},
		"output, stale region": {exe, list(a(), b()), list(regionAt("y", stale, 0, 64)), CodeBadState, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := ran
			if e := s.failed(s.run(r.exe, r.in, r.out), r.want); e.Argument != r.argument {
				t.Errorf("argument %q, want %q: %v", e.Argument, r.argument, e)
			}
			if ran != before {
				t.Error("it ran before it was checked")
			}
		})
	}
	t.Run("too little room", func(t *testing.T) {
		for _, out := range []*backendv1.Binding{regionAt("y", p.region, 0, 11), bufferAt("y", p.buffer, 0, 0)} {
			e := s.failed(s.run(exe, list(a(), b()), list(out)), CodeInvalid)
			if e.Needed != 12 || e.Argument != "y" {
				t.Errorf("%+v, want needed 12 of y", e)
			}
		}
	})
	s.done(s.run(exe, list(a(), b()), list(y())))
}

func TestInlineOutputsAreBounded(t *testing.T) {
	f := &fake{}
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		return f.executable([]graph.Value{value("n", tensor.Int64)}, []graph.Value{value("y", tensor.Uint8, graph.Sym("n"))},
			func(_ context.Context, in []Value, out Outputs) error {
				y, err := out.Place(0, tensor.Uint8, tensor.Shape{tensor.View[int64](in[0].Tensor)[0]})
				for i := range y.Data {
					y.Data[i] = byte(i % 251)
				}
				return err
			}), nil
	}
	c := serve(t, f)
	exe := compile(t, c).Executable
	s := started(t, c)
	n := func(v int64) []*backendv1.Binding {
		return []*backendv1.Binding{typed(&backendv1.Binding{Name: "n",
			Place: &backendv1.Binding_Inline{Inline: tensor.Ints(nil, v).Data}}, 7)}
	}
	y := []*backendv1.Binding{inlineOut("y")}
	if d := s.done(s.run(exe, n(MaxInline), y)); len(d.Outputs[0].GetInline()) != MaxInline {
		t.Errorf("%d bytes came", len(d.Outputs[0].GetInline()))
	}
	if e := s.failed(s.run(exe, n(MaxInline+1), y), CodeInvalid); e.Needed != MaxInline+1 {
		t.Errorf("%+v", e)
	}
	// What does not fit one message fits chunks.
	const large = MaxInline + 12345
	seq := s.run(exe, n(large), []*backendv1.Binding{{Name: "y", Place: &backendv1.Binding_Chunked{}}})
	var got []byte
	for {
		r := s.next()
		if d := r.GetDone(); d != nil {
			if d.Outputs[0].GetChunked().GetLength() != large || r.Seq != seq {
				t.Errorf("answer %v", r)
			}
			break
		}
		if len(r.GetChunk().Data) > ChunkBytes {
			t.Errorf("a chunk of %d bytes", len(r.GetChunk().Data))
		}
		got = append(got, r.GetChunk().Data...)
	}
	if len(got) != large || got[large-1] != byte((large-1)%251) {
		t.Errorf("%d bytes came in chunks, want %d", len(got), large)
	}
}

func TestBackendFillsItsBuffers(t *testing.T) {
	f := &fake{}
	var room int64
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		return f.executable(nil, []graph.Value{value("y", tensor.Uint8, graph.Sym("n"))},
			func(_ context.Context, _ []Value, out Outputs) error {
				at, r, ok := out.Buffer(0)
				if !ok {
					_, err := out.Place(0, tensor.Uint8, tensor.Shape{3})
					return err
				}
				room = r
				if _, err := at.Buffer.WriteAt([]byte{7, 8, 9}, at.Offset); err != nil {
					return err
				}
				return out.Filled(0, tensor.Uint8, tensor.Shape{3})
			}), nil
	}
	c := serve(t, f)
	exe := compile(t, c).Executable
	p := makePlaces(t, c, readWrite)
	s := started(t, c)
	d := s.done(s.run(exe, nil, []*backendv1.Binding{bufferAt("y", p.buffer, 10, 20)}))
	if b := d.Outputs[0]; b.Dims[0] != 3 || b.GetBuffer().Offset != 10 || b.GetBuffer().Length != 3 || room != 20 {
		t.Errorf("output %v, room %d", b, room)
	}
	s.done(s.copy(&backendv1.CopyRange{From: p.buffer, FromOffset: 9, To: p.region, Length: 5}))
	if got := p.memory.Bytes()[:5]; !bytes.Equal(got, []byte{0, 7, 8, 9, 0}) {
		t.Errorf("the buffer holds %v", got)
	}
	s.failed(s.run(exe, nil, []*backendv1.Binding{bufferAt("y", p.buffer, 10, 2)}), CodeInvalid)
}

func TestCopy(t *testing.T) {
	c := serve(t, &fake{})
	p, q := makePlaces(t, c, readWrite), makePlaces(t, c, readWrite)
	readOnly := makePlaces(t, c, backendv1.MapMode_MAP_MODE_READ).region
	s := started(t, c)
	for i := range p.memory.Bytes() {
		p.memory.Bytes()[i] = byte(i)
	}
	// Region to buffer to buffer to region, then within a region.
	s.done(s.copy(
		&backendv1.CopyRange{From: p.region, FromOffset: 3, To: p.buffer, ToOffset: 100, Length: 50},
		&backendv1.CopyRange{From: p.buffer, FromOffset: 100, To: q.buffer, ToOffset: 0, Length: 50},
		&backendv1.CopyRange{From: q.buffer, FromOffset: 0, To: p.buffer, ToOffset: 3000, Length: 50},
		&backendv1.CopyRange{From: p.buffer, FromOffset: 3000, To: q.region, ToOffset: 7, Length: 50},
		&backendv1.CopyRange{From: q.region, FromOffset: 7, To: q.region, ToOffset: 57, Length: 50},
		&backendv1.CopyRange{From: q.region, FromOffset: 4096, To: q.region, ToOffset: 4096, Length: 0},
	))
	for _, at := range []int{7, 57} {
		if !bytes.Equal(q.memory.Bytes()[at:at+50], p.memory.Bytes()[3:53]) {
			t.Errorf("at %d lies %v", at, q.memory.Bytes()[at:at+50])
		}
	}
	good := &backendv1.CopyRange{From: p.region, To: q.region, ToOffset: 4000, Length: 1}
	q.memory.Bytes()[4000] = 77
	for name, r := range map[string]struct {
		r    *backendv1.CopyRange
		want Code
	}{
		"from beyond":  {&backendv1.CopyRange{From: p.region, FromOffset: 4090, To: q.region, Length: 7}, CodeInvalid},
		"to beyond":    {&backendv1.CopyRange{From: p.region, To: q.buffer, ToOffset: 4096, Length: 1}, CodeInvalid},
		"overflow":     {&backendv1.CopyRange{From: p.region, FromOffset: 1<<64 - 1, To: q.buffer, Length: 2}, CodeInvalid},
		"overlap":      {&backendv1.CopyRange{From: p.buffer, To: p.buffer, ToOffset: 9, Length: 10}, CodeInvalid},
		"into itself":  {&backendv1.CopyRange{From: p.buffer, To: p.buffer, Length: 10}, CodeInvalid},
		"to read-only": {&backendv1.CopyRange{From: p.region, To: readOnly, Length: 1}, CodeInvalid},
		"unknown":      {&backendv1.CopyRange{From: p.region, To: &backendv1.Id{Device: "0", Epoch: p.region.Epoch, N: 99}, Length: 1}, CodeBadState},
		"nothing":      {&backendv1.CopyRange{}, CodeBadState},
	} {
		t.Run(name, func(t *testing.T) {
			e := s.failed(s.copy(good, r.r), r.want)
			if r.want == CodeInvalid && e.Argument != "ranges[1]" {
				t.Errorf("argument %q", e.Argument)
			}
			if q.memory.Bytes()[4000] != 77 {
				t.Error("something was copied before all was checked")
			}
		})
	}
}

func TestStreamIsOpenedOnce(t *testing.T) {
	c := serve(t, &fake{})
	x, err := c.Execute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, x: x}
	s.failed(s.run(&backendv1.Id{}, nil, nil), CodeBadState)
	s.failed(s.send(&execRequest{}), CodeInvalid)
	s.failed(s.send(&execRequest{Command: &backendv1.ExecuteRequest_Open{}}), CodeInvalid)
	s.done(s.send(&execRequest{Command: &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: "0"}}}))
	s.failed(s.send(&execRequest{Command: &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: "0"}}}), CodeBadState)
	s.done(s.fence())
	s.done(s.cancelSeq(12345))
	if err := s.x.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.x.Recv(); err != io.EOF {
		t.Errorf("after the last command: %v, want the end", err)
	}
}

// gate is an executable that waits inside Run until the test lets it go on.
type gate struct {
	mu      sync.Mutex
	order   []string
	begun   chan string
	release map[string]chan error
}

func newGate(names ...string) *gate {
	g := &gate{begun: make(chan string, 100), release: map[string]chan error{}}
	for _, n := range names {
		g.release[n] = make(chan error, 10)
	}
	return g
}

// client serves executables called a, b, ... that wait for the gate.
func (g *gate) client(t *testing.T, f *fake) (backendv1.BackendClient, map[string]*backendv1.Id) {
	var current string
	smoke := true
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		name := current
		in := []graph.Value{value("x", tensor.Float32, graph.Sym("n"))}
		return f.executable(in, nil, func(ctx context.Context, _ []Value, _ Outputs) error {
			if smoke {
				return nil
			}
			g.mu.Lock()
			g.order = append(g.order, name)
			g.mu.Unlock()
			g.begun <- name
			select {
			case err := <-g.release[name]:
				return err
			case <-ctx.Done():
				return fmt.Errorf("run: %w", ctx.Err())
			}
		}), nil
	}
	c := serve(t, f)
	ids := map[string]*backendv1.Id{}
	for current = range g.release {
		ids[current] = compile(t, c).Executable
	}
	smoke = false
	return c, ids
}

var one = []*backendv1.Binding{inlineIn("x", 1)}

func TestOrderAndOverlap(t *testing.T) {
	g := newGate("a", "b")
	c, ids := g.client(t, &fake{})
	s := started(t, c)
	a1, a2 := s.run(ids["a"], one, nil), s.run(ids["a"], one, nil)
	if got := <-g.begun; got != "a" {
		t.Fatalf("%s began", got)
	}
	b1 := s.run(ids["b"], one, nil)
	if got := <-g.begun; got != "b" {
		t.Fatalf("%s began: another executable does not overlap", got)
	}
	f1, f2 := s.fence(), s.fence()
	g.release["b"] <- nil
	s.done(b1)
	select {
	case n := <-g.begun:
		t.Fatalf("%s began while a run of the same executable was going on", n)
	default:
	}
	g.release["a"] <- nil
	s.done(a1)
	<-g.begun
	g.release["a"] <- errors.New("second run fails")
	s.failed(a2, CodeInternal)
	s.done(f1)
	s.done(f2)
	s.done(s.fence())
}

func TestBuffersOrder(t *testing.T) {
	g := newGate("a", "b", "c")
	c, ids := g.client(t, &fake{})
	p := makePlaces(t, c, readWrite)
	s := started(t, c)
	x := []*backendv1.Binding{typed(bufferAt("x", p.buffer, 0, 4), 1, 1)}
	r := []*backendv1.Binding{typed(regionAt("x", p.region, 0, 4), 1, 1)}
	a, b := s.run(ids["a"], x, nil), s.run(ids["b"], x, nil)
	<-g.begun
	// Regions do not hold each other up.
	d := s.run(ids["c"], r, nil)
	if got := <-g.begun; got != "c" {
		t.Fatalf("%s began", got)
	}
	e := s.copy(&backendv1.CopyRange{From: p.region, To: p.buffer, Length: 4})
	g.release["c"] <- nil
	s.done(d)
	g.release["a"] <- nil
	s.done(a)
	if got := <-g.begun; got != "b" {
		t.Fatalf("%s began", got)
	}
	g.release["b"] <- nil
	s.done(b)
	s.done(e)
}

func TestCancel(t *testing.T) {
	g := newGate("a")
	c, ids := g.client(t, &fake{})
	s := started(t, c)
	first, second, third := s.run(ids["a"], one, nil), s.run(ids["a"], one, nil), s.run(ids["a"], one, nil)
	<-g.begun
	// One that waits answers at once, one that runs when it has ended.
	c2 := s.cancelSeq(second)
	s.failed(second, CodeCancelled)
	s.done(c2)
	c1 := s.cancelSeq(first)
	for range 2 {
		switch r := s.next(); {
		case r.Seq == c1 && r.GetDone() != nil:
		case r.Seq == first && FromProto(r.GetError()).Code == CodeCancelled:
		default:
			t.Fatalf("answer %v", r)
		}
	}
	<-g.begun
	g.release["a"] <- nil
	s.done(third)
	if fmt.Sprint(g.order) != "[a a]" {
		t.Errorf("ran %v: the command cancelled while it waited must not", g.order)
	}
	s.done(s.cancelSeq(third))
	s.send(&execRequest{Seq: 999, Command: &backendv1.ExecuteRequest_Chunk{Chunk: &backendv1.Chunk{Name: "x", Data: []byte{1}}}})
	s.done(s.cancelSeq(999))
}

func TestResultThatBeatsItsCancel(t *testing.T) {
	f := &fake{}
	begun, goOn := make(chan struct{}, 2), make(chan struct{})
	smoke := true
	f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) {
		return f.executable(nil, nil, func(context.Context, []Value, Outputs) error {
			if !smoke {
				begun <- struct{}{}
				<-goOn
			}
			return nil
		}), nil
	}
	c := serve(t, f)
	exe := compile(t, c).Executable
	smoke = false
	s := started(t, c)
	run := s.run(exe, nil, nil)
	<-begun
	s.done(s.cancelSeq(run))
	close(goOn)
	s.done(run)
}

func TestSequenceNumberInUse(t *testing.T) {
	g := newGate("a")
	c, ids := g.client(t, &fake{})
	s := started(t, c)
	seq := s.run(ids["a"], one, nil)
	<-g.begun
	s.send(&execRequest{Seq: seq, Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{Executable: ids["a"], Inputs: one}}})
	s.failed(seq, CodeBadState)
	g.release["a"] <- nil
	s.done(seq)
}

func TestReleaseUnderACommand(t *testing.T) {
	f := &fake{}
	g := newGate("a")
	c, ids := g.client(t, f)
	s := started(t, c)
	running, queued := s.run(ids["a"], one, nil), s.run(ids["a"], one, nil)
	<-g.begun
	s.settle()
	if _, err := c.Release(t.Context(), &backendv1.ReleaseRequest{Ids: []*backendv1.Id{ids["a"]}}); err != nil {
		t.Fatal(err)
	}
	s.failed(s.run(ids["a"], one, nil), CodeBadState)
	if f.open() != 1 {
		t.Error("the executable was closed under its run")
	}
	g.release["a"] <- nil
	g.release["a"] <- nil
	s.done(running)
	s.done(queued)
	if f.open() != 0 {
		t.Error("the executable was not closed after its last run")
	}
}

func TestLossInRun(t *testing.T) {
	f := &fake{}
	g := newGate("a", "b")
	c, ids := g.client(t, f)
	next := watch(t, c)
	before := next()[0].Epoch
	s := started(t, c)
	running, queued := s.run(ids["a"], one, nil), s.run(ids["a"], one, nil)
	<-g.begun
	s.settle()
	g.release["a"] <- DeviceLost("the device fell off the bus")
	s.failed(running, CodeDeviceLost)
	s.failed(queued, CodeBadState)
	s.failed(s.run(ids["b"], one, nil), CodeBadState)
	after := next()[0].Epoch
	if after == before {
		t.Error("the epoch did not change")
	}
	eventually(t, "all is closed", func() bool { return f.open() == 0 })
	f.compile = nil
	if exe := compile(t, c).Executable; exe.Epoch != after {
		t.Errorf("the new executable's epoch is %d, the device's %d", exe.Epoch, after)
	}
}

func TestUnhealthyDeviceTakesNoCommands(t *testing.T) {
	devices := make(chan []Device, 1)
	devices <- []Device{healthy("0")}
	c := serve(t, &fake{devices: devices})
	exe := compile(t, c).Executable
	s := started(t, c)
	next := watch(t, c)
	next()
	devices <- []Device{unhealthy("0")}
	next()
	s.failed(s.run(exe, []*backendv1.Binding{inlineIn("x", 1)}, nil), CodeDeviceLost)
	devices <- []Device{healthy("0")}
	next()
	s.failed(s.run(exe, []*backendv1.Binding{inlineIn("x", 1)}, nil), CodeBadState)
}

func TestPanicInRun(t *testing.T) {
	g := newGate("a")
	f := &fake{}
	c, ids := g.client(t, f)
	compileGated := f.compile
	f.compile = func(ctx context.Context, s CompileSpec, p func(string, float64)) (Executable, error) {
		smoke := true
		return f.executable(nil, nil, func(context.Context, []Value, Outputs) error {
			if smoke {
				smoke = false
				return nil
			}
			panic("no")
		}), nil
	}
	bad := compile(t, c).Executable
	f.compile = compileGated
	s := started(t, c)
	for range 3 {
		s.failed(s.run(bad, nil, nil), CodeInternal)
	}
	good := s.run(ids["a"], one, nil)
	<-g.begun
	g.release["a"] <- nil
	s.done(good)
}

func TestClientGoesAway(t *testing.T) {
	f := &fake{}
	g := newGate("a")
	c, ids := g.client(t, f)
	s := started(t, c)
	s.run(ids["a"], one, nil)
	s.run(ids["a"], one, nil)
	<-g.begun
	s.cancel()
	if _, err := c.Release(t.Context(), &backendv1.ReleaseRequest{Ids: []*backendv1.Id{ids["a"]}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the commands end, and with them the executable", func() bool { return f.open() == 0 })
	if len(g.order) != 1 {
		t.Errorf("ran %v after the client was gone", g.order)
	}
}

func TestHalfClosedStreamIsAnswered(t *testing.T) {
	g := newGate("a")
	c, ids := g.client(t, &fake{})
	s := started(t, c)
	run := s.run(ids["a"], one, nil)
	<-g.begun
	if err := s.x.CloseSend(); err != nil {
		t.Fatal(err)
	}
	g.release["a"] <- nil
	s.done(run)
	if _, err := s.x.Recv(); err != io.EOF {
		t.Errorf("then %v, want the end", err)
	}
}

// Streams of several clients on one device, all at once.
func TestConcurrentStreams(t *testing.T) {
	c := serve(t, &fake{})
	var exes []*backendv1.Id
	for range 3 {
		exes = append(exes, compile(t, c).Executable)
	}
	var group sync.WaitGroup
	for k := range 6 {
		s := started(t, c)
		group.Go(func() {
			want := map[uint64]float32{}
			for i := range 50 {
				v := float32(100*k + i)
				want[s.run(exes[(i+k)%3], []*backendv1.Binding{inlineIn("x", v)}, []*backendv1.Binding{inlineOut("y")})] = 2 * v
			}
			fence := s.fence()
			for len(want) > 0 {
				r, err := s.x.Recv()
				if err != nil {
					t.Error(err)
					return
				}
				v, ok := want[r.Seq]
				if !ok || r.GetDone() == nil || floats(r.GetDone().Outputs[0].GetInline())[0] != v {
					t.Errorf("answer %v, want %v", r, v)
					return
				}
				delete(want, r.Seq)
			}
			if r, err := s.x.Recv(); err != nil || r.Seq != fence {
				t.Errorf("then %v, %v, want the fence", r, err)
			}
		})
	}
	group.Wait()
}

func TestTooManyCommands(t *testing.T) {
	g := newGate("a")
	c, ids := g.client(t, &fake{})
	s := started(t, c)
	for range maxOpen {
		s.run(ids["a"], one, nil)
	}
	s.failed(s.run(ids["a"], one, nil), CodeBadState)
	s.cancel()
}

func TestChunksAreBounded(t *testing.T) {
	x := &stream{chunks: map[uint64]*chunks{}, pending: maxPending - 1000}
	x.keep(1, &backendv1.Chunk{Name: "a", Data: make([]byte, 500)})
	x.keep(1, &backendv1.Chunk{Name: "a", Data: make([]byte, 500)})
	if x.pending != maxPending-1000 || x.chunks[1].parts != nil {
		t.Errorf("%d bytes are kept", x.pending)
	}
	if _, err := x.chunks[1].join("a", tensor.Uint8, tensor.Shape{500}, 500); CodeOf(err) != CodeOutOfMemory {
		t.Errorf("join: %v", err)
	}
	for seq := range uint64(2 * maxOpen) {
		x.keep(seq+10, &backendv1.Chunk{})
	}
	if len(x.chunks) > maxOpen {
		t.Errorf("chunks of %d commands are kept", len(x.chunks))
	}
}
