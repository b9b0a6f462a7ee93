package backend

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

func wantCode(t *testing.T, what string, err error, want Code) *Error {
	t.Helper()
	var e *Error
	if !errors.As(FromStatus(err), &e) {
		t.Errorf("%s: %v, want %s", what, err, want)
		return &Error{}
	}
	if e.Code != want {
		t.Errorf("%s: %v, want %s", what, e, want)
	}
	return e
}

func TestDescribe(t *testing.T) {
	c := serve(t, &fake{})
	r, err := c.Describe(t.Context(), &backendv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "fake" || r.ApiMin != ProtocolVersion || r.ApiMax != ProtocolVersion {
		t.Errorf("described as %v", r)
	}
}

func TestConfigure(t *testing.T) {
	set := func(c backendv1.BackendClient, s string) ([]string, error) {
		r, err := c.Configure(t.Context(), &backendv1.ConfigureRequest{SettingsJson: s})
		return r.GetWarnings(), err
	}
	t.Run("once", func(t *testing.T) {
		c := serve(t, &fake{configure: func(s json.RawMessage) ([]string, error) {
			if string(s) == `{"x":1}` {
				return nil, Invalid("settings_json", "no x")
			}
			return []string{"warned \xff"}, nil
		}})
		for _, s := range []string{"", "null", "3", `{"a":`, `{} {}`, `{"x":1}`} {
			_, err := set(c, s)
			wantCode(t, s, err, CodeInvalid)
		}
		w, err := set(c, `{"a":1}`)
		if err != nil || len(w) != 1 {
			t.Errorf("warnings %q, %v", w, err)
		}
		_, err = set(c, `{}`)
		wantCode(t, "second time", err, CodeBadState)
	})
	t.Run("takes none", func(t *testing.T) {
		c := serve(t, &fake{info: Info{Name: "plain"}})
		_, err := set(c, `{"a":1}`)
		wantCode(t, "settings", err, CodeInvalid)
		if _, err := set(c, `{}`); err != nil {
			t.Error(err)
		}
	})
	t.Run("too late", func(t *testing.T) {
		c := serve(t, &fake{})
		compiled := compile(t, c)
		if compiled.Executable == nil {
			t.Fatal("no id")
		}
		_, err := set(c, `{}`)
		wantCode(t, "after Compile", err, CodeBadState)
	})
	t.Run("panics", func(t *testing.T) {
		c := serve(t, &fake{configure: func(json.RawMessage) ([]string, error) { panic("no") }})
		_, err := set(c, `{}`)
		wantCode(t, "panic", err, CodeInternal)
		if _, err := c.Describe(t.Context(), &backendv1.DescribeRequest{}); err != nil {
			t.Errorf("after the panic: %v", err)
		}
	})
}

func watch(t *testing.T, c backendv1.BackendClient) func() []*backendv1.Device {
	t.Helper()
	w, err := c.Watch(t.Context(), &backendv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return func() []*backendv1.Device {
		t.Helper()
		r, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r.Devices
	}
}

func TestWatch(t *testing.T) {
	devices := make(chan []Device)
	c := serve(t, &fake{devices: devices})
	go func() { devices <- []Device{healthy("0"), unhealthy("1")} }()
	next := watch(t, c)
	first := next()
	if len(first) != 2 || first[0].Id != "0" || first[1].Id != "1" || first[1].Reason == "" {
		t.Fatalf("devices %v", first)
	}
	if first[0].Epoch == 0 || first[1].Epoch == 0 || first[0].Epoch == first[1].Epoch {
		t.Errorf("epochs %d and %d", first[0].Epoch, first[1].Epoch)
	}
	second := watch(t, c)()
	if len(second) != 2 || second[0].Epoch != first[0].Epoch {
		t.Errorf("another watcher sees %v", second)
	}

	devices <- []Device{unhealthy("0"), unhealthy("1")}
	if got := next()[0]; got.Health != backendv1.Health_HEALTH_UNHEALTHY || got.Epoch != first[0].Epoch {
		t.Errorf("when unhealthy: %v", got)
	}
	devices <- []Device{healthy("0"), unhealthy("1")}
	back := next()[0]
	if back.Health != backendv1.Health_HEALTH_HEALTHY || back.Epoch == first[0].Epoch {
		t.Errorf("back again, with the epoch it had: %v", back)
	}
	devices <- []Device{healthy("1")}
	if got := next(); len(got) != 1 || got[0].Id != "1" || got[0].Epoch == first[1].Epoch {
		t.Errorf("with one gone and one recovered: %v", got)
	}
	devices <- []Device{healthy("0"), healthy("1")}
	if got := next(); len(got) != 2 || got[0].Epoch == back.Epoch {
		t.Errorf("the device that was gone is back with its epoch: %v", got)
	}
}

func TestWatchOfBadBackends(t *testing.T) {
	noKind := healthy("0")
	noKind.Kind = ""
	for name, f := range map[string]*fake{
		"no kind": {devices: once([]Device{noKind})},
		"twice":   {devices: once([]Device{healthy("0"), healthy("0")})},
		"fails":   {watchErr: errors.New("no driver")},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, f)
			w, err := c.Watch(t.Context(), &backendv1.WatchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Recv()
			wantCode(t, "Watch", err, CodeInternal)
		})
	}
}

func once(list []Device) chan []Device {
	ch := make(chan []Device, 1)
	ch <- list
	return ch
}

func TestUnusableDevices(t *testing.T) {
	c := serve(t, &fake{devices: once([]Device{unhealthy("0")})})
	for id, want := range map[string]Code{"0": CodeDeviceLost, "7": CodeInvalid} {
		_, err := c.Assess(t.Context(), &backendv1.AssessRequest{Device: id, GraphDir: folder(t)})
		wantCode(t, "Assess", err, want)
		_, err = tryCompile(t, c, &backendv1.CompileRequest{Device: id, GraphDir: folder(t)})
		wantCode(t, "Compile", err, want)
		_, err = c.Alloc(t.Context(), &backendv1.AllocRequest{Device: id, Length: 1})
		wantCode(t, "Alloc", err, want)
		_, err = c.Map(t.Context(), &backendv1.MapRequest{Device: id, Length: 1})
		wantCode(t, "Map", err, want)
		s := open(t, c, id)
		if e := s.next().GetError(); e == nil || FromProto(e).Code != want {
			t.Errorf("Open of %q: %v, want %s", id, e, want)
		}
	}
}

func TestAssess(t *testing.T) {
	dir := folder(t)
	verdict := Verdict{}
	c := serve(t, &fake{assess: func(_, got string) (Assessment, error) {
		if got != dir {
			return Assessment{}, Invalid("graph_dir", "%s", got)
		}
		return Assessment{Nodes: []Verdict{verdict}, MemoryEstimate: 3}, nil
	}})
	q := &backendv1.AssessRequest{Device: "0", GraphDir: dir}
	_, err := c.Assess(t.Context(), q)
	wantCode(t, "an empty verdict", err, CodeInternal)
	verdict = Refuse(RefusedOperator, "no Foo")
	r, err := c.Assess(t.Context(), q)
	if err != nil || len(r.Nodes) != 1 || r.Nodes[0].Refusal != backendv1.Refusal_REFUSAL_OPERATOR || r.MemoryEstimate != 3 {
		t.Errorf("assessment %v, %v", r, err)
	}
}

func TestGraphFolders(t *testing.T) {
	empty, odd := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(odd, graph.ModelFile), 0o700); err != nil {
		t.Fatal(err)
	}
	c := serve(t, &fake{})
	for _, dir := range []string{"", "relative", empty, odd, filepath.Join(empty, "absent"), "/a\x00b"} {
		_, err := c.Assess(t.Context(), &backendv1.AssessRequest{Device: "0", GraphDir: dir})
		if e := wantCode(t, "Assess of "+dir, err, CodeInvalid); e.Argument != "graph_dir" {
			t.Errorf("argument %q", e.Argument)
		}
		_, err = tryCompile(t, c, &backendv1.CompileRequest{Device: "0", GraphDir: dir})
		wantCode(t, "Compile of "+dir, err, CodeInvalid)
	}
}

func TestCompile(t *testing.T) {
	var spec CompileSpec
	f := &fake{}
	var smoked []Value
	f.compile = func(_ context.Context, s CompileSpec, progress func(string, float64)) (Executable, error) {
		spec = s
		progress("half \xff", 0.5)
		progress("much", math.Inf(1))
		progress("none", math.NaN())
		in := []graph.Value{
			value("a", tensor.Int64, graph.Sym("n"), graph.Known(2)), value("b", tensor.Int4, graph.Sym("m"), graph.Known(-1)),
			value("c", tensor.Bool),
		}
		out := []graph.Value{value("y", tensor.Float32, graph.Sym("k"))}
		return f.executable(in, out, func(_ context.Context, in []Value, out Outputs) error {
			smoked = in
			if !out.Wanted(0) {
				return errors.New("the smoke run wants all")
			}
			y, err := out.Place(0, tensor.Float32, tensor.Shape{2})
			if err == nil {
				tensor.View[float32](y)[0] = float32(math.NaN())
			}
			return err
		}), nil
	}
	c := serve(t, f)
	stream, err := c.Compile(t.Context(), &backendv1.CompileRequest{
		Device: "0", GraphDir: folder(t), MemoryBudget: 5, SmokeDims: map[string]int64{"n": 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	var stages []string
	var done *backendv1.Compiled
	for done == nil {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p := r.GetProgress(); p != nil {
			stages = append(stages, p.Stage)
			if p.Fraction < 0 || p.Fraction > 1 {
				t.Errorf("progress %v", p)
			}
		}
		done = r.GetCompiled()
	}
	if len(stages) != 4 {
		t.Errorf("stages %q", stages)
	}
	if spec.MemoryBudget != 5 || spec.SmokeDims["n"] != 3 || spec.Device != "0" {
		t.Errorf("spec %+v", spec)
	}
	if done.Executable.GetN() == 0 || len(done.Inputs) != 3 || len(done.Outputs) != 1 {
		t.Errorf("compiled %v", done)
	}
	for i, want := range []tensor.Shape{{3, 2}, {1, 1}, {}} {
		if got := smoked[i].Tensor; !got.Shape.Equal(want) || got.Check() != nil {
			t.Errorf("smoke input %d is %v, want %v, %v", i, got.Shape, want, got.Check())
		}
	}
	if _, err := c.Release(t.Context(), &backendv1.ReleaseRequest{Ids: []*backendv1.Id{done.Executable}}); err != nil {
		t.Fatal(err)
	}
	if n := f.open(); n != 0 {
		t.Errorf("%d executables are open after Release", n)
	}
}

func TestCompileFails(t *testing.T) {
	n := graph.Sym("n")
	f := &fake{}
	one := []graph.Value{value("y", tensor.Float32, graph.Known(1))}
	give := func(d tensor.DType, s ...int64) func(context.Context, []Value, Outputs) error {
		return func(_ context.Context, _ []Value, out Outputs) error {
			_, err := out.Place(0, d, s)
			return err
		}
	}
	swallow := func(_ context.Context, _ []Value, out Outputs) error {
		_, _ = out.Place(0, tensor.Int8, tensor.Shape{1})
		return nil
	}
	for name, c := range map[string]struct {
		make func() (Executable, error)
		want Code
	}{
		"unsupported": {func() (Executable, error) { return nil, Unsupported("no", "node") }, CodeUnsupported},
		"plain error": {func() (Executable, error) { return nil, errors.New("oh") }, CodeInternal},
		"panic":       {func() (Executable, error) { panic(3) }, CodeInternal},
		"nothing":     {func() (Executable, error) { return nil, nil }, CodeInternal},
		"string input": {func() (Executable, error) {
			return f.executable([]graph.Value{value("s", tensor.String, n)}, one, nil), nil
		}, CodeUnsupported},
		"two inputs of one name": {func() (Executable, error) {
			return f.executable([]graph.Value{value("s", tensor.Int8), value("s", tensor.Int8)}, one, nil), nil
		}, CodeInternal},
		"smoke run fails": {func() (Executable, error) {
			return f.executable(nil, one, func(context.Context, []Value, Outputs) error { return OutOfMemory("it", 2, 1) }), nil
		}, CodeOutOfMemory},
		"smoke run panics": {func() (Executable, error) {
			return f.executable(nil, one, func(context.Context, []Value, Outputs) error { panic("no") }), nil
		}, CodeInternal},
		"no output": {func() (Executable, error) {
			return f.executable(nil, one, func(context.Context, []Value, Outputs) error { return nil }), nil
		}, CodeInternal},
		"wrong type":       {func() (Executable, error) { return f.executable(nil, one, give(tensor.Int64, 1)), nil }, CodeInternal},
		"wrong rank":       {func() (Executable, error) { return f.executable(nil, one, give(tensor.Float32, 1, 1)), nil }, CodeInternal},
		"wrong size":       {func() (Executable, error) { return f.executable(nil, one, give(tensor.Float32, 2)), nil }, CodeInternal},
		"error overlooked": {func() (Executable, error) { return f.executable(nil, one, swallow), nil }, CodeInternal},
		"enormous input": {func() (Executable, error) {
			return f.executable([]graph.Value{value("x", tensor.Int8, graph.Known(1<<40))}, one, nil), nil
		}, CodeOutOfMemory},
		"impossible input": {func() (Executable, error) {
			return f.executable([]graph.Value{value("x", tensor.Int64, graph.Known(1<<62))}, one, nil), nil
		}, CodeInvalid},
		"negative output": {func() (Executable, error) {
			return f.executable(nil, []graph.Value{value("y", tensor.Float32, n)}, give(tensor.Float32, -1)), nil
		}, CodeInternal},
		"given twice":       {func() (Executable, error) { return f.executable(nil, one, twice), nil }, CodeInternal},
		"filled, no buffer": {func() (Executable, error) { return f.executable(nil, one, fill), nil }, CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			f.compile = func(context.Context, CompileSpec, func(string, float64)) (Executable, error) { return c.make() }
			cl := serve(t, &fake{compile: f.compile})
			_, err := tryCompile(t, cl, &backendv1.CompileRequest{Device: "0", GraphDir: folder(t)})
			wantCode(t, name, err, c.want)
			if n := f.open(); n != 0 {
				t.Errorf("%d executables are still open", n)
			}
		})
	}
	c := serve(t, &fake{})
	_, err := tryCompile(t, c, &backendv1.CompileRequest{Device: "0", GraphDir: folder(t), SmokeDims: map[string]int64{"n": -1}})
	wantCode(t, "negative smoke dimension", err, CodeInvalid)
	_, err = tryCompile(t, c, &backendv1.CompileRequest{Device: "0", GraphDir: folder(t), MemoryBudget: math.MaxUint64})
	wantCode(t, "absurd budget", err, CodeInvalid)
}

func twice(_ context.Context, _ []Value, out Outputs) error {
	for range 2 {
		if _, err := out.Place(0, tensor.Float32, tensor.Shape{1}); err != nil {
			return err
		}
	}
	return nil
}

func fill(_ context.Context, _ []Value, out Outputs) error {
	if _, _, ok := out.Buffer(0); ok {
		return errors.New("bound to a buffer")
	}
	return out.Filled(0, tensor.Float32, tensor.Shape{1})
}

func TestCompileIsCancelled(t *testing.T) {
	f := &fake{}
	begun := make(chan struct{})
	f.compile = func(ctx context.Context, _ CompileSpec, _ func(string, float64)) (Executable, error) {
		close(begun)
		<-ctx.Done()
		return f.double(), nil // finished all the same: nobody will ask for it
	}
	c := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Compile(ctx, &backendv1.CompileRequest{Device: "0", GraphDir: folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	cancel()
	if _, err := s.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("Compile: %v, want it to be cancelled", err)
	}
	eventually(t, "the executable is closed", func() bool { return f.open() == 0 })
}

// eventually waits for what happens beside the test.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func TestAllocAndRelease(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	for _, n := range []uint64{0, math.MaxUint64, 1 << 63} {
		_, err := c.Alloc(t.Context(), &backendv1.AllocRequest{Device: "0", Length: n})
		wantCode(t, "Alloc", err, CodeInvalid)
	}
	r, err := c.Alloc(t.Context(), &backendv1.AllocRequest{Device: "0", Length: 64})
	if err != nil {
		t.Fatal(err)
	}
	id := r.Buffer
	stale := &backendv1.Id{Device: id.Device, Epoch: id.Epoch + 1, N: id.N}
	foreign := &backendv1.Id{Device: "7", Epoch: id.Epoch, N: id.N}
	for _, ids := range [][]*backendv1.Id{{stale, foreign, nil, {}}, {id, id}, {id}} {
		if _, err := c.Release(t.Context(), &backendv1.ReleaseRequest{Ids: ids}); err != nil {
			t.Fatal(err)
		}
		want := 0
		if ids[0] == stale {
			want = 1
		}
		if got := f.open(); got != want {
			t.Errorf("%d buffers are open, want %d", got, want)
		}
	}
}

func TestBadBuffers(t *testing.T) {
	f := &fake{}
	for name, c := range map[string]struct {
		alloc func(int64) (Buffer, error)
		want  Code
	}{
		"none":   {func(int64) (Buffer, error) { return nil, nil }, CodeInternal},
		"short":  {func(n int64) (Buffer, error) { f.count(1); return &fakeBuffer{f: f, data: make([]byte, n-1)}, nil }, CodeInternal},
		"full":   {func(n int64) (Buffer, error) { return nil, OutOfMemory("buffer", n, 0) }, CodeOutOfMemory},
		"panics": {func(int64) (Buffer, error) { panic("no") }, CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			cl := serve(t, &fake{alloc: c.alloc})
			_, err := cl.Alloc(t.Context(), &backendv1.AllocRequest{Device: "0", Length: 64})
			wantCode(t, name, err, c.want)
			if n := f.open(); n != 0 {
				t.Errorf("%d buffers are open", n)
			}
		})
	}
}

func TestMap(t *testing.T) {
	c := serve(t, &fake{})
	r, err := region.Create(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rw := backendv1.MapMode_MAP_MODE_READ_WRITE
	for argument, q := range map[string]*backendv1.MapRequest{
		"locator": {Device: "0", Locator: "/etc/passwd", Length: 1, Mode: rw},
		"length":  {Device: "0", Locator: r.Locator(), Length: 1 << 20, Mode: rw},
		"mode":    {Device: "0", Locator: r.Locator(), Length: 1},
		"device":  {Device: "9", Locator: r.Locator(), Length: 1, Mode: rw},
	} {
		_, err := c.Map(t.Context(), q)
		if e := wantCode(t, argument, err, CodeInvalid); e.Argument != argument {
			t.Errorf("argument %q, want %q", e.Argument, argument)
		}
	}
	_, err = c.Map(t.Context(), &backendv1.MapRequest{Device: "0", Locator: r.Locator(), Length: math.MaxUint64, Mode: rw})
	wantCode(t, "absurd length", err, CodeInvalid)
	m, err := c.Map(t.Context(), &backendv1.MapRequest{Device: "0", Locator: r.Locator(), Length: 4096, Mode: rw})
	if err != nil || m.Region.GetN() == 0 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestLossInAlloc(t *testing.T) {
	lost := false
	f := &fake{}
	f.alloc = func(n int64) (Buffer, error) {
		if lost {
			return nil, DeviceLost("gone")
		}
		f.count(1)
		return &fakeBuffer{f: f, data: make([]byte, n)}, nil
	}
	c := serve(t, f)
	next := watch(t, c)
	before := next()[0].Epoch
	if _, err := c.Alloc(t.Context(), &backendv1.AllocRequest{Device: "0", Length: 8}); err != nil {
		t.Fatal(err)
	}
	lost = true
	_, err := c.Alloc(t.Context(), &backendv1.AllocRequest{Device: "0", Length: 8})
	wantCode(t, "Alloc", err, CodeDeviceLost)
	if after := next()[0].Epoch; after == before {
		t.Error("the epoch did not change when the device was lost")
	}
	eventually(t, "what was on the device is closed", func() bool { return f.open() == 0 })
}
