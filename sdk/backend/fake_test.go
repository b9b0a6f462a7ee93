package backend

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// fake is a Backend that tests script: a nil function does what is usual.
type fake struct {
	info      Info
	features  []string
	devices   chan []Device // nil: one healthy device, "0"
	watchErr  error
	configure func(json.RawMessage) ([]string, error)
	assess    func(device, dir string) (Assessment, error)
	compile   func(context.Context, CompileSpec, func(string, float64)) (Executable, error)
	alloc     func(bytes int64) (Buffer, error)
	close     func() error

	mu     sync.Mutex
	opened int // executables and buffers that are open
	closed int // calls of Close of the backend
}

func healthy(id string) Device {
	return Device{ID: id, Platform: "simulation", Name: "fake", Kind: Simulated, Health: Healthy}
}

func unhealthy(id string) Device {
	d := healthy(id)
	d.Health, d.Reason, d.Remedy = Unhealthy, "too hot", "wait"
	return d
}

func (f *fake) Describe(context.Context) (Info, error) {
	if f.info.Name == "" {
		return Info{Name: "fake", Version: "1", ConfigSchema: "{}"}, nil
	}
	return f.info, nil
}

func (f *fake) Configure(_ context.Context, s json.RawMessage) ([]string, error) {
	if f.configure == nil {
		return nil, nil
	}
	return f.configure(s)
}

func (f *fake) Watch(ctx context.Context, update func([]Device)) error {
	if f.watchErr != nil {
		return f.watchErr
	}
	if f.devices == nil {
		d := healthy("0")
		d.Features = f.features
		update([]Device{d})
		return nil
	}
	for {
		select {
		case list := <-f.devices:
			update(list)
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *fake) Assess(_ context.Context, device, dir string) (Assessment, error) {
	if f.assess == nil {
		return Assessment{Nodes: []Verdict{Accept}}, nil
	}
	return f.assess(device, dir)
}

func (f *fake) Compile(ctx context.Context, s CompileSpec, progress func(string, float64)) (Executable, error) {
	if f.compile == nil {
		return f.double(), nil
	}
	return f.compile(ctx, s, progress)
}

func (f *fake) Alloc(_ context.Context, _ string, bytes int64) (Buffer, error) {
	if f.alloc != nil {
		return f.alloc(bytes)
	}
	f.count(1)
	return &fakeBuffer{f: f, data: make([]byte, bytes)}, nil
}

func (f *fake) Close() error {
	f.mu.Lock()
	f.closed++
	f.mu.Unlock()
	if f.close != nil {
		return f.close()
	}
	return nil
}

func (f *fake) count(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened += n
}

func (f *fake) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened
}

type fakeBuffer struct {
	f    *fake
	data []byte
}

func (b *fakeBuffer) Size() int64 { return int64(len(b.data)) }

func (b *fakeBuffer) ReadAt(p []byte, at int64) (int, error) {
	n := copy(p, b.data[at:])
	if n == len(b.data)-int(at) {
		return n, io.EOF // as io.ReaderAt may
	}
	return n, nil
}

func (b *fakeBuffer) WriteAt(p []byte, at int64) (int, error) { return copy(b.data[at:], p), nil }

func (b *fakeBuffer) Close() error {
	b.f.count(-1)
	return nil
}

// fakeExecutable runs a function.
type fakeExecutable struct {
	f    *fake
	info ExecutableInfo
	run  func(context.Context, []Value, Outputs) error
}

func (f *fake) executable(in, out []graph.Value, run func(context.Context, []Value, Outputs) error) *fakeExecutable {
	f.count(1)
	return &fakeExecutable{f: f, info: ExecutableInfo{Memory: 1, Inputs: in, Outputs: out}, run: run}
}

func (e *fakeExecutable) Info() ExecutableInfo { return e.info }

func (e *fakeExecutable) Run(ctx context.Context, in []Value, out Outputs) error {
	return e.run(ctx, in, out)
}

func (e *fakeExecutable) Close() error {
	e.f.count(-1)
	return nil
}

func value(name string, d tensor.DType, dims ...graph.Dim) graph.Value {
	return graph.Value{Name: name, Type: graph.TensorType(d, dims...)}
}

// double gives y = 2 x, for float32 x of shape [n].
func (f *fake) double() *fakeExecutable {
	n := graph.Sym("n")
	return f.executable([]graph.Value{value("x", tensor.Float32, n)}, []graph.Value{value("y", tensor.Float32, n)},
		func(_ context.Context, in []Value, out Outputs) error {
			x, err := in[0].Host()
			if err != nil || !out.Wanted(0) {
				return err
			}
			y, err := out.Place(0, x.DType, x.Shape)
			if err != nil {
				return err
			}
			for i, v := range tensor.View[float32](x) {
				tensor.View[float32](y)[i] = 2 * v
			}
			return nil
		})
}

// serve serves f in this process, over gRPC.
func serve(t testing.TB, f *fake) backendv1.BackendClient {
	t.Helper()
	s := newServer(f, hclog.NewNullLogger())
	g := grpc.NewServer(append(s.options(), s.interceptors(func() {})...)...)
	backendv1.RegisterBackendServer(g, s)
	l := bufconn.Listen(1 << 20)
	go func() {
		if err := g.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:fake", append(DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		if err := s.end(); err != nil {
			t.Error(err)
		}
		if n := f.open(); n != 0 {
			t.Errorf("%d executables and buffers are still open", n)
		}
		if f.closed != 1 {
			t.Errorf("the backend was closed %d times, want once", f.closed)
		}
	})
	return backendv1.NewBackendClient(conn)
}

// folder is a graph folder, as far as the server looks into it: of one node that
// joins a sequence of words.
func folder(t testing.TB) string {
	t.Helper()
	b := graph.NewBuilder("words")
	s := b.Input("s", &graph.Type{Kind: graph.KindSequence, Of: graph.TensorType(tensor.String, graph.Sym("n"))})
	b.Output("y", b.Op("ConcatFromSequence", []string{s}, graph.IntAttr("axis", 0)), graph.TensorType(tensor.String, graph.Sym("n")))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	data, err := graph.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, graph.ModelFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// compile compiles on device 0.
func compile(t testing.TB, c backendv1.BackendClient) *backendv1.Compiled {
	t.Helper()
	r, err := tryCompile(t, c, &backendv1.CompileRequest{Device: "0", GraphDir: folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryCompile(t testing.TB, c backendv1.BackendClient, q *backendv1.CompileRequest) (*backendv1.Compiled, error) {
	t.Helper()
	s, err := c.Compile(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return nil, FromStatus(err)
		}
		if done := r.GetCompiled(); done != nil {
			return done, nil
		}
	}
}
