package backendtest

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

func vectorIn(name string, t tensor.Tensor) *backendv1.Binding {
	return &backendv1.Binding{Name: name, ElementType: int32(t.DType), Dims: t.Shape, Place: &backendv1.Binding_Inline{Inline: t.Data}}
}

func inlineOut(name string) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Inline{}}
}

func chunkedAt(name string, length uint64) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: length}}}
}

func regionAt(name string, id *backendv1.Id, offset, length uint64) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: id, Offset: offset, Length: length}}}
}

func bufferAt(name string, id *backendv1.Id, offset, length uint64) *backendv1.Binding {
	return &backendv1.Binding{Name: name, Place: &backendv1.Binding_Buffer{Buffer: &backendv1.Slice{Id: id, Offset: offset, Length: length}}}
}

func typed(b *backendv1.Binding, like tensor.Tensor) *backendv1.Binding {
	b.ElementType, b.Dims = int32(like.DType), like.Shape
	return b
}

func bind(b ...*backendv1.Binding) []*backendv1.Binding { return b }

const readWrite = backendv1.MapMode_MAP_MODE_READ_WRITE

// checkBindings runs with the data in every place, which must give the same.
func checkBindings(t T, c *conn) {
	const n = 1500 // more than a page, and no round number
	const size = 4 * n
	e := c.compile(c.doubling(n))
	s := c.execute()
	mem := c.share(1<<16, readWrite)
	buf := c.alloc(1 << 16)
	x := ramp(n)
	want := make([]float32, n)
	for i := range want {
		want[i] = float32(2 * (i + 1))
	}
	const inAt, outAt, backAt = 64, 1 << 14, 1 << 15
	copy(mem.Bytes()[inAt:], x.Data)
	s.done(s.sendCopy(&backendv1.CopyRange{From: mem.id, FromOffset: inAt, To: buf, ToOffset: inAt, Length: size}))

	inputs := map[string]func() *backendv1.Binding{
		"inline": func() *backendv1.Binding { return vectorIn("x", x) },
		"chunks": func() *backendv1.Binding {
			for part := range slices.Chunk(x.Data, 1001) {
				s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Chunk{Chunk: &backendv1.Chunk{Name: "x", Data: part}}})
			}
			return typed(chunkedAt("x", size), x)
		},
		"region": func() *backendv1.Binding { return typed(regionAt("x", mem.id, inAt, size), x) },
		"buffer": func() *backendv1.Binding { return typed(bufferAt("x", buf, inAt, size), x) },
	}
	// Each reads the output from where the answer says that it lies.
	outputs := map[string]struct {
		bind *backendv1.Binding
		read func(b *backendv1.Binding, r *result) []byte
	}{
		"inline": {inlineOut("y"), func(b *backendv1.Binding, _ *result) []byte { return b.GetInline() }},
		"chunks": {chunkedAt("y", 0), func(b *backendv1.Binding, r *result) []byte { return r.chunks["y"] }},
		"region": {regionAt("y", mem.id, outAt, size+4), func(b *backendv1.Binding, _ *result) []byte {
			at := b.GetRegion()
			return mem.Bytes()[at.GetOffset() : at.GetOffset()+at.GetLength()]
		}},
		"buffer": {bufferAt("y", buf, outAt, size), func(b *backendv1.Binding, _ *result) []byte {
			at := b.GetBuffer()
			s.done(s.sendCopy(&backendv1.CopyRange{From: buf, FromOffset: at.GetOffset(), To: mem.id, ToOffset: backAt, Length: at.GetLength()}))
			return mem.Bytes()[backAt : backAt+at.GetLength()]
		}},
	}
	for from, input := range inputs {
		for to, output := range outputs {
			what := from + " to " + to
			clear(mem.Bytes()[outAt:])
			seq := s.sendRun(e.id, bind(input()), bind(output.bind))
			r := s.wait(seq)
			if r.err != nil {
				t.Errorf("%s: %v", what, r.err)
				continue
			}
			if len(r.done.GetOutputs()) != 1 || r.done.GetOutputs()[0].GetName() != "y" {
				t.Errorf("%s: outputs %v, want y", what, r.done.GetOutputs())
				continue
			}
			b := r.done.GetOutputs()[0]
			y := c.tensor(b, bytes.Clone(output.read(b, r)))
			if !y.Shape.Equal(x.Shape) || y.DType != tensor.Float32 {
				t.Errorf("%s: y is %s%v", what, y.DType, y.Shape)
			} else if got := tensor.View[float32](y); !slices.Equal(got, want) {
				t.Errorf("%s: y = %v..., want %v...", what, got[:5], want[:5])
			}
		}
	}
	if !bytes.Equal(mem.Bytes()[inAt:inAt+size], x.Data) {
		t.Error("a run wrote to its input")
	}
	if r := s.done(s.sendRun(e.id, bind(vectorIn("x", x)), nil)); len(r.done.GetOutputs()) != 0 {
		t.Errorf("outputs %v came, none was asked for", r.done.GetOutputs())
	}
}

func checkShapes(t T, c *conn) {
	s := c.execute()
	e := c.compile(c.doubling(4))
	for _, n := range []int64{4, 1, 5, 1000, 4} {
		x := ramp(n)
		got, err := s.runInline(e, map[string]tensor.Tensor{"x": x})
		if c.device.StaticShapes && n != 4 {
			if err == nil {
				t.Errorf("an executable of 4 elements ran on %d", n)
			} else {
				c.refused("another shape", err, backend.CodeInvalid)
			}
			continue
		}
		if err != nil {
			t.Errorf("with %d elements: %v", n, err)
			continue
		}
		y := got["y"]
		if !y.Shape.Equal(x.Shape) {
			t.Errorf("with %d elements y has shape %v", n, y.Shape)
			continue
		}
		for i, v := range tensor.View[float32](y) {
			if v != float32(2*(i+1)) {
				t.Errorf("with %d elements y[%d] = %v", n, i, v)
				break
			}
		}
	}
}

func checkWrongRuns(t T, c *conn) {
	e := c.compile(c.sum(4))
	s := c.execute()
	a, b, five := vectorIn("a", ramp(4)), vectorIn("b", ramp(4)), ramp(5)
	ints := tensor.Ints(tensor.Shape{4}, 1, 2, 3, 4)
	short := vectorIn("b", ramp(4))
	short.Place = &backendv1.Binding_Inline{Inline: ramp(4).Data[:15]}
	negative := vectorIn("b", ramp(4))
	negative.Dims = []int64{-4}
	for what, w := range map[string]struct {
		in, out  []*backendv1.Binding
		argument string
	}{
		"a missing input":        {bind(a), nil, "b"},
		"an unknown input":       {bind(a, b, vectorIn("c", ramp(4))), nil, "c"},
		"an input twice":         {bind(a, b, a), nil, "a"},
		"a wrong type":           {bind(a, vectorIn("b", ints)), nil, "b"},
		"an undefined type":      {bind(a, &backendv1.Binding{Name: "b", Dims: []int64{4}}), nil, "b"},
		"a wrong rank":           {bind(a, typed(vectorIn("b", ramp(4)), tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, 4))), nil, "b"},
		"unequal sizes":          {bind(a, vectorIn("b", five)), nil, "b"},
		"a negative size":        {bind(a, negative), nil, "b"},
		"short data":             {bind(a, short), nil, "b"},
		"chunks that never came": {bind(a, typed(chunkedAt("b", 16), ramp(4))), nil, "b"},
		"an input nowhere":       {bind(a, typed(&backendv1.Binding{Name: "b"}, ramp(4))), nil, "b"},
		"an unknown output":      {bind(a, b), bind(inlineOut("z")), "z"},
		"an output twice":        {bind(a, b), bind(inlineOut("y"), inlineOut("y")), "y"},
		"an output nowhere":      {bind(a, b), bind(&backendv1.Binding{Name: "y"}), "y"},
	} {
		if err := s.failed(what, s.sendRun(e.id, w.in, w.out), backend.CodeInvalid); err.Argument != w.argument {
			t.Errorf("%s: the error blames %q, want %q: %v", what, err.Argument, w.argument, err)
		}
	}
	s.failed("a command that says nothing", s.send(&backendv1.ExecuteRequest{}), backend.CodeInvalid)
	s.failed("a second Open", s.send(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Open{
		Open: &backendv1.Open{Device: c.device.ID}}}), backend.CodeBadState)
	s.done(s.sendRun(e.id, bind(a, b), bind(inlineOut("y"))))
}

func checkIDs(t T, c *conn) {
	e := c.compile(c.doubling(4))
	buf, mem := c.alloc(64), c.share(4096, readWrite)
	s := c.execute()
	x := bind(vectorIn("x", ramp(4)))
	like := func(id *backendv1.Id, change func(*backendv1.Id)) *backendv1.Id {
		k := &backendv1.Id{Device: id.GetDevice(), Epoch: id.GetEpoch(), N: id.GetN()}
		change(k)
		return k
	}
	for what, id := range map[string]*backendv1.Id{
		"no id":           nil,
		"an unknown id":   like(e.id, func(k *backendv1.Id) { k.N += 1 << 40 }),
		"a stale epoch":   like(e.id, func(k *backendv1.Id) { k.Epoch++ }),
		"another device":  like(e.id, func(k *backendv1.Id) { k.Device += "x" }),
		"a buffer's id":   buf,
		"a region's id":   mem.id,
		"an empty device": like(e.id, func(k *backendv1.Id) { k.Device = "" }),
	} {
		s.failed("to run "+what, s.sendRun(id, x, nil), backend.CodeBadState)
	}
	s.failed("a region as buffer", s.sendRun(e.id, bind(typed(bufferAt("x", mem.id, 0, 16), ramp(4))), nil), backend.CodeBadState)
	s.failed("a buffer as region", s.sendRun(e.id, bind(typed(regionAt("x", buf, 0, 16), ramp(4))), nil), backend.CodeBadState)
	s.failed("to copy from an executable", s.sendCopy(&backendv1.CopyRange{From: e.id, To: buf, Length: 1}), backend.CodeBadState)

	// What is unknown or stale is ignored, and releases what it names of nothing.
	c.release(like(e.id, func(k *backendv1.Id) { k.Epoch++ }), like(e.id, func(k *backendv1.Id) { k.N += 1 << 40 }), nil)
	s.done(s.sendRun(e.id, x, nil))
	c.release(e.id, buf, mem.id, e.id)
	c.release(e.id)
	s.failed("to run what was released", s.sendRun(e.id, x, nil), backend.CodeBadState)
	s.failed("to copy what was released", s.sendCopy(&backendv1.CopyRange{From: mem.id, To: buf, Length: 1}), backend.CodeBadState)
}

func checkRegions(t T, c *conn) {
	r, err := region.Create(4096)
	c.must("create a region", err)
	defer r.Close()
	try := func(locator string, length uint64, mode backendv1.MapMode) error {
		_, err := c.p.RPC.Map(c.context(), &backendv1.MapRequest{Device: c.device.ID, Locator: locator, Length: length, Mode: mode})
		return err
	}
	for what, w := range map[string]struct {
		locator  string
		length   uint64
		mode     backendv1.MapMode
		argument string
	}{
		"no locator":         {"", 4096, readWrite, "locator"},
		"a locator of none":  {"/no/such/region", 4096, readWrite, "locator"},
		"somebody's file":    {"/etc/passwd", 1, readWrite, "locator"},
		"a lie of length":    {r.Locator(), 1 << 20, readWrite, "length"},
		"no length":          {r.Locator(), 0, readWrite, "length"},
		"an absurd length":   {r.Locator(), 1<<64 - 1, readWrite, "length"},
		"no mode":            {r.Locator(), 4096, 0, "mode"},
		"a mode of tomorrow": {r.Locator(), 4096, 9, "mode"},
	} {
		if e := c.refused("Map with "+what, try(w.locator, w.length, w.mode), backend.CodeInvalid); e.Argument != w.argument {
			t.Errorf("Map with %s: the error blames %q, want %q: %v", what, e.Argument, w.argument, e)
		}
	}
	e := c.compile(c.doubling(4))
	mem, readOnly := c.share(4096, readWrite), c.share(4096, backendv1.MapMode_MAP_MODE_READ)
	s := c.execute()
	x := ramp(4)
	copy(readOnly.Bytes(), x.Data)
	for what, w := range map[string]struct{ in, out []*backendv1.Binding }{
		"an input beyond the end":        {bind(typed(regionAt("x", mem.id, 4088, 16), x)), nil},
		"an offset that wraps":           {bind(typed(regionAt("x", mem.id, 1<<64-16, 16), x)), nil},
		"an unaligned input":             {bind(typed(regionAt("x", mem.id, 2, 16), x)), nil},
		"an input's slice too long":      {bind(typed(regionAt("x", mem.id, 0, 20), x)), nil},
		"an output beyond the end":       {bind(vectorIn("x", x)), bind(regionAt("y", mem.id, 4088, 16))},
		"an unaligned output":            {bind(vectorIn("x", x)), bind(regionAt("y", mem.id, 1, 64))},
		"an output to read-only":         {bind(vectorIn("x", x)), bind(regionAt("y", readOnly.id, 64, 64))},
		"an output with too little room": {bind(vectorIn("x", x)), bind(regionAt("y", mem.id, 0, 15))},
	} {
		err := s.failed(what, s.sendRun(e.id, w.in, w.out), backend.CodeInvalid)
		if what == "an output with too little room" && err.Needed != 16 {
			t.Errorf("%s: the error says that %d bytes are needed, want 16", what, err.Needed)
		}
	}
	got := s.done(s.sendRun(e.id, bind(typed(regionAt("x", readOnly.id, 0, 16), x)), bind(inlineOut("y"))))
	if y := c.tensor(got.done.GetOutputs()[0], got.done.GetOutputs()[0].GetInline()); tensor.View[float32](y)[3] != 8 {
		t.Errorf("from a region for reading: y = %v", tensor.View[float32](y))
	}
}

func checkBuffers(t T, c *conn) {
	s := c.execute()
	const size = 1 << 16
	mem := c.share(2*size, readWrite)
	a, b := c.alloc(size), c.alloc(size)
	for i := range mem.Bytes() {
		mem.Bytes()[i] = 0xaa
	}
	s.done(s.sendCopy(&backendv1.CopyRange{From: a, To: mem.id, Length: size}))
	if i := bytes.IndexFunc(mem.Bytes()[:size], func(r rune) bool { return r != 0 }); i >= 0 {
		t.Errorf("byte %d of a new buffer is not zero", i)
	}
	for i := range mem.Bytes()[:size] {
		mem.Bytes()[i] = byte(i*7 + i>>8)
	}
	// In pieces and in turn: what is not written stays.
	s.done(s.sendCopy(&backendv1.CopyRange{From: mem.id, To: a, Length: size}))
	s.done(s.sendCopy(
		&backendv1.CopyRange{From: mem.id, FromOffset: 1000, To: a, ToOffset: 3, Length: 5},
		&backendv1.CopyRange{From: a, FromOffset: 0, To: b, ToOffset: 100, Length: 1000},
		&backendv1.CopyRange{From: b, FromOffset: 100, To: b, ToOffset: 5000, Length: 1000},
		&backendv1.CopyRange{From: b, FromOffset: 0, To: mem.id, ToOffset: size, Length: size},
	))
	want := make([]byte, size)
	row := bytes.Clone(mem.Bytes()[:1000])
	copy(row[3:8], mem.Bytes()[1000:1005])
	copy(want[100:], row)
	copy(want[5000:], row)
	if got := mem.Bytes()[size:]; !bytes.Equal(got, want) {
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("byte %d after the copies is %d, want %d", i, got[i], want[i])
				break
			}
		}
	}
	for what, r := range map[string]*backendv1.CopyRange{
		"from beyond the end":    {From: a, FromOffset: size - 1, To: b, Length: 2},
		"to beyond the end":      {From: a, To: b, ToOffset: size, Length: 1},
		"with an offset of 2^64": {From: a, FromOffset: 1<<64 - 1, To: b, Length: 2},
		"onto itself":            {From: a, To: a, ToOffset: 1, Length: 2},
	} {
		s.failed("to copy "+what, s.sendCopy(r), backend.CodeInvalid)
	}
	e := c.compile(c.doubling(4))
	x := bind(vectorIn("x", ramp(4)))
	s.failed("an input beyond the buffer", s.sendRun(e.id, bind(typed(bufferAt("x", a, size-8, 16), ramp(4))), nil), backend.CodeInvalid)
	s.failed("an output beyond the buffer", s.sendRun(e.id, x, bind(bufferAt("y", a, size-8, 16))), backend.CodeInvalid)
	if err := s.failed("an output with too little room", s.sendRun(e.id, x, bind(bufferAt("y", a, 0, 12))), backend.CodeInvalid); err.Needed != 16 {
		t.Errorf("the error says that %d bytes are needed, want 16", err.Needed)
	}
}

func checkMemory(t T, c *conn) {
	_, err := c.p.RPC.Alloc(c.context(), &backendv1.AllocRequest{Device: c.device.ID, Length: 1 << 50})
	if e := c.refused("a buffer of a petabyte", err, backend.CodeOutOfMemory); e.Needed < 1<<50 {
		t.Errorf("the error says that %d bytes are needed", e.Needed)
	}
	for _, n := range []uint64{0, 1<<64 - 1} {
		_, err := c.p.RPC.Alloc(c.context(), &backendv1.AllocRequest{Device: c.device.ID, Length: n})
		c.refused(fmt.Sprintf("a buffer of %d bytes", n), err, backend.CodeInvalid)
	}
	id := c.alloc(4096)
	s := c.execute()
	s.done(s.sendCopy(&backendv1.CopyRange{From: id, To: c.alloc(4096), Length: 4096}))
}

// checkOrder sends commands that depend on each other without waiting for any.
func checkOrder(t T, c *conn) {
	const steps = 20
	e := c.compile(c.doubling(4))
	s := c.execute()
	mem := c.share(4096, readWrite)
	a, b := c.alloc(16), c.alloc(16)
	x := ramp(4)
	copy(mem.Bytes(), x.Data)
	s.sendCopy(&backendv1.CopyRange{From: mem.id, To: a, Length: 16})
	for range steps / 2 {
		s.sendRun(e.id, bind(typed(bufferAt("x", a, 0, 16), x)), bind(bufferAt("y", b, 0, 16)))
		s.sendRun(e.id, bind(typed(bufferAt("x", b, 0, 16), x)), bind(bufferAt("y", a, 0, 16)))
	}
	last := s.sendCopy(&backendv1.CopyRange{From: a, To: mem.id, ToOffset: 64, Length: 16})
	fence := s.sendFence()
	s.done(fence)
	if len(s.open) > 0 {
		t.Errorf("the fence is answered, commands %v are not", s.waiting())
	}
	s.done(last)
	y := tensor.View[float32](tensor.Tensor{DType: tensor.Float32, Data: mem.Bytes()[64:80]})
	for i := range y {
		if want := float32(i+1) * (1 << steps); y[i] != want {
			t.Errorf("after %d doublings y[%d] = %v, want %v", steps, i, y[i], want)
		}
	}
	s.done(s.sendFence())
}

// checkOverlap keeps many commands open on several executables at once.
func checkOverlap(t T, c *conn) {
	exes := []*compiled{c.compile(c.doubling(64)), c.compile(c.doubling(64)), c.compile(c.long(64, 5))}
	s := c.execute()
	x := bind(vectorIn("x", ramp(64)))
	var seqs []uint64
	for i := range 60 {
		seqs = append(seqs, s.sendRun(exes[i%3].id, x, bind(inlineOut("y"))))
	}
	fence := s.sendFence()
	for i, seq := range seqs {
		r := s.done(seq)
		y := c.tensor(r.done.GetOutputs()[0], r.done.GetOutputs()[0].GetInline())
		want := float32(4) // of 2 = x[1]: the doubling; the chain: 2x * x^4
		if i%3 == 2 {
			want = 64
		}
		if got := tensor.View[float32](y)[1]; got != want {
			t.Errorf("run %d: y[1] = %v, want %v", i, got, want)
		}
	}
	s.done(fence)
}

// checkCancel cancels commands that run, that wait, that are over and that never
// were. Each is answered once, and the stream goes on.
func checkCancel(t T, c *conn) {
	const n = 1 << 17
	e := c.compile(c.long(n, 100))
	quick := c.compile(c.doubling(4))
	s := c.execute()
	mem := c.share(4*n, readWrite)
	ones := tensor.View[float32](tensor.Tensor{DType: tensor.Float32, Data: mem.Bytes()})
	for i := range ones {
		ones[i] = 1
	}
	like := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{n}}
	x := bind(typed(regionAt("x", mem.id, 0, 4*n), like))
	for range 3 {
		first, second := s.sendRun(e.id, x, nil), s.sendRun(e.id, x, nil)
		s.done(s.sendCancel(second))
		s.done(s.sendCancel(first))
		for _, seq := range []uint64{first, second} {
			if r := s.wait(seq); r.err != nil && r.err.Code != backend.CodeCancelled {
				t.Errorf("a command that was cancelled: %v, want CANCELLED or its result", r.err)
			}
		}
		s.done(s.sendCancel(first))
	}
	s.done(s.sendCancel(1 << 60))
	s.done(s.sendRun(quick.id, bind(vectorIn("x", ramp(4))), nil))
	s.done(s.sendFence())
}

// checkClientGone ends a stream under its commands.
func checkClientGone(t T, c *conn) {
	e := c.compile(c.doubling(1 << 16))
	x := bind(vectorIn("x", ramp(1<<16)))
	for range 5 {
		s := c.execute()
		for range 8 {
			s.sendRun(e.id, x, bind(inlineOut("y")))
		}
		s.cancel()
	}
	s := c.execute()
	s.done(s.sendRun(e.id, x, bind(inlineOut("y"))))
	// Half-closed is not gone: what is open is answered.
	last := s.sendRun(e.id, x, bind(inlineOut("y")))
	if err := s.x.CloseSend(); err != nil {
		t.Fatal(err)
	}
	s.done(last)
}

func checkConcurrency(t T, c *conn) {
	const streams, runs = 4, 25
	exes := []*compiled{c.compile(c.doubling(256)), c.compile(c.doubling(256))}
	var all []*stream
	for range streams {
		all = append(all, c.execute())
	}
	var group sync.WaitGroup
	defer group.Wait()
	for k, s := range all {
		group.Go(func() {
			x := ramp(256)
			tensor.View[float32](x)[0] = float32(k)
			for i := range runs {
				e := exes[(i+k)%2]
				q := &backendv1.ExecuteRequest{Seq: uint64(100 + i), Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{
					Executable: e.id, Inputs: bind(vectorIn("x", x)), Outputs: bind(inlineOut("y")),
				}}}
				if err := s.x.Send(q); err != nil {
					t.Error(err)
					return
				}
				r, err := s.x.Recv()
				if err != nil {
					t.Error(err)
					return
				}
				if out := r.GetDone().GetOutputs(); r.GetSeq() != q.Seq || len(out) != 1 || len(out[0].GetInline()) != 1024 {
					t.Errorf("stream %d, run %d: %v", k, i, r)
					return
				}
				y := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{256}, Data: r.GetDone().GetOutputs()[0].GetInline()}.Aligned()
				if v := tensor.View[float32](y); v[0] != float32(2*k) || v[255] != 512 {
					t.Errorf("stream %d, run %d: y[0] = %v, y[255] = %v", k, i, v[0], v[255])
					return
				}
			}
		})
	}
	// Calls beside the streams do not disturb them.
	for range 5 {
		c.release(c.compile(c.doubling(256)).id, c.alloc(1<<12))
	}
}
