//go:build unix

package hosts

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// role is the configuration of a backend that the test's own binary plays.
func role(t *testing.T, name string) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Path:     []string{t.TempDir()}, // no other backends
		Backends: map[string]Backend{"played": {Path: self, Env: map[string]string{envRole: name, "GORACE": "atexit_sleep_ms=0"}}},
	}
}

// hang never returns, and unlike an empty select is no deadlock.
func hang() {
	for {
		time.Sleep(time.Hour)
	}
}

// play is the main of the other process.
func play(role string) {
	switch role {
	case "hangs":
		hang()
	case "mute": // shakes hands and never answers
		dir := os.Getenv(backend.EnvSocketDir)
		l, err := net.Listen("unix", filepath.Join(dir, "plugin1"))
		if err != nil {
			panic(err)
		}
		fmt.Printf("1|%d|unix|%s|grpc|\n", backend.ProtocolVersion, l.Addr())
		hang()
	case "tcp": // says that it listens elsewhere than it should
		fmt.Printf("1|%d|tcp|127.0.0.1:1|grpc|\n", backend.ProtocolVersion)
		hang()
	case "closes_stdout":
		os.Stdout.Close()
		hang()
	case "half_handshake":
		fmt.Printf("1|%d\n", backend.ProtocolVersion)
		hang()
	case "long_line":
		fmt.Print(strings.Repeat("x", 1<<20))
		hang()
	case "raw_noise", "raw_closes", "raw_http": // listens, and speaks something else
		l, err := net.Listen("unix", filepath.Join(os.Getenv(backend.EnvSocketDir), "plugin1"))
		if err != nil {
			panic(err)
		}
		fmt.Printf("1|%d|unix|%s|grpc|\n", backend.ProtocolVersion, l.Addr())
		for {
			c, err := l.Accept()
			if err != nil {
				panic(err)
			}
			switch role {
			case "raw_noise":
				c.Write(bytes.Repeat([]byte{0xfe, 0, 7, 0xff}, 1<<10))
			case "raw_http":
				io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			default:
				c.Close()
			}
		}
	case "both_versions": // speaks the host's version, and a later one
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig: backend.Handshake,
			VersionedPlugins: map[int]plugin.PluginSet{
				backend.ProtocolVersion:     {backend.PluginName: served{server: &liar{lie: "describe_wider", stderr: os.Stderr}}},
				backend.ProtocolVersion + 1: {backend.PluginName: served{server: &liar{lie: "describe_dies", stderr: os.Stderr}}},
			},
			GRPCServer: plugin.DefaultGRPCServer,
		})
	case "manager": // a host that is to be killed
		m, err := New(Options{Path: []string{os.Getenv("ACCEL_TEST_BACKENDS")}})
		if err == nil {
			err = m.Start(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(m.Backends()[0].PID)
		hang()
	default:
		serve(role)
	}
}

func serve(role string) {
	stderr := os.Stderr
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  backend.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{backend.ProtocolVersion: {backend.PluginName: served{server: &liar{lie: role, stderr: stderr}}}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, misbehaviour(role, stderr)...)...)
		},
	})
}

type served struct {
	plugin.NetRPCUnsupportedPlugin
	server backendv1.BackendServer
}

func (p served) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	backendv1.RegisterBackendServer(s, p.server)
	return nil
}

func (served) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

// liar is a backend that speaks the protocol without the SDK, and breaks it in
// one way. It maps no regions. Its one graph has an input x [n] and an output y
// [n], float32, that it answers with x.
type liar struct {
	backendv1.UnimplementedBackendServer
	lie    string
	stderr *os.File // go-plugin puts a pipe of its own in its place
}

const liarEpoch = 7

func (l *liar) Describe(context.Context, *backendv1.DescribeRequest) (*backendv1.DescribeResponse, error) {
	r := &backendv1.DescribeResponse{Name: "played", Version: "0", ApiMin: 1, ApiMax: 1}
	switch l.lie {
	case "describe_dies":
		l.stderr.WriteString("vendor library: bad instruction\n")
		os.Exit(4)
	case "describe_hangs":
		hang()
	case "talks": // to stdout, more than a pipe holds and in one line
		stdout := os.NewFile(1, "stdout") // go-plugin has put a pipe in the place of os.Stdout
		if _, err := stdout.Write(bytes.Repeat([]byte("|"), 1<<20)); err != nil {
			return nil, err
		}
	case "describe_newer":
		r.ApiMin, r.ApiMax = 5, 9
	case "describe_wider":
		r.ApiMax = backend.ProtocolVersion + 1
	}
	return r, nil
}

func (l *liar) Configure(context.Context, *backendv1.ConfigureRequest) (*backendv1.ConfigureResponse, error) {
	return &backendv1.ConfigureResponse{}, nil
}

func (l *liar) Assess(context.Context, *backendv1.AssessRequest) (*backendv1.AssessResponse, error) {
	r := &backendv1.AssessResponse{Nodes: []*backendv1.Verdict{{Ok: true}, {Ok: true}}, MemoryEstimate: 1000}
	switch l.lie {
	case "assess_absurd":
		r.MemoryEstimate = 1<<64 - 1
	case "assess_no_word":
		r.Nodes[1] = &backendv1.Verdict{Refusal: 77}
	}
	return r, nil
}

func (l *liar) Alloc(context.Context, *backendv1.AllocRequest) (*backendv1.AllocResponse, error) {
	id := &backendv1.Id{Device: "0", Epoch: liarEpoch, N: 2}
	switch l.lie {
	case "alloc_other_device":
		id.Device = "1"
	case "alloc_no_memory":
		return nil, backend.ToStatus(backend.OutOfMemory("it", 1<<62, 0))
	}
	return &backendv1.AllocResponse{Buffer: id}, nil
}

func (l *liar) Watch(_ *backendv1.WatchRequest, s grpc.ServerStreamingServer[backendv1.WatchResponse]) error {
	d := &backendv1.Device{Id: "0", Platform: "simulation", Kind: backendv1.Kind_KIND_SIMULATED, Health: backendv1.Health_HEALTH_HEALTHY, Epoch: liarEpoch}
	list := []*backendv1.Device{d}
	switch l.lie {
	case "watch_absurd":
		d.MemoryTotal, d.MemoryFree = 1<<20, 1<<64-1
	case "watch_free":
		d.MemoryTotal, d.MemoryFree = 1<<20, 1<<21
	case "watch_no_epoch":
		d.Epoch = 0
	case "watch_twice":
		list = append(list, d)
	case "watch_silent":
		<-s.Context().Done()
		return nil
	}
	if err := s.Send(&backendv1.WatchResponse{Devices: list}); err != nil {
		return err
	}
	switch l.lie {
	case "watch_ends":
		time.Sleep(50 * time.Millisecond)
		return nil
	case "watch_removes":
		time.Sleep(50 * time.Millisecond)
		if err := s.Send(&backendv1.WatchResponse{}); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return nil
}

func (l *liar) Compile(_ *backendv1.CompileRequest, s grpc.ServerStreamingServer[backendv1.CompileResponse]) error {
	value := func(name string) []*backendv1.ValueInfo {
		return []*backendv1.ValueInfo{{Name: name, ElementType: 1, Dims: []*backendv1.Dim{{Size: -1, Symbol: "n"}}}}
	}
	c := &backendv1.Compiled{Executable: &backendv1.Id{Device: "0", Epoch: liarEpoch, N: 1}, Inputs: value("x"), Outputs: value("y")}
	switch l.lie {
	case "compile_nothing":
		return nil
	case "compile_other_device":
		c.Executable.Device = "1"
	case "compile_other_epoch":
		c.Executable.Epoch = 8
	case "compile_absurd":
		c.Memory = 1<<64 - 1
	case "compile_bad_type":
		c.Inputs[0].ElementType = 99
	case "unknown_shape":
		c.Outputs[0].Dims, c.Outputs[0].Unranked = nil, true
	}
	return s.Send(&backendv1.CompileResponse{Step: &backendv1.CompileResponse_Compiled{Compiled: c}})
}

func (l *liar) Release(context.Context, *backendv1.ReleaseRequest) (*backendv1.ReleaseResponse, error) {
	return &backendv1.ReleaseResponse{}, nil
}

func (l *liar) Map(ctx context.Context, q *backendv1.MapRequest) (*backendv1.MapResponse, error) {
	if l.lie == "map_hangs" {
		<-ctx.Done()
		hang()
	}
	if l.lie == "map_lost" {
		return nil, backend.ToStatus(backend.DeviceLost("it went away"))
	}
	return nil, backend.ToStatus(backend.Invalid("locator", "this backend maps nothing"))
}

func (l *liar) Execute(s grpc.BidiStreamingServer[backendv1.ExecuteRequest, backendv1.ExecuteResponse]) error {
	chunks := map[uint64][]byte{}
	for {
		q, err := s.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		r := &backendv1.ExecuteResponse{Seq: q.GetSeq(), Result: &backendv1.ExecuteResponse_Done{Done: &backendv1.Done{}}}
		switch c := q.GetCommand().(type) {
		case *backendv1.ExecuteRequest_Chunk:
			chunks[q.GetSeq()] = append(chunks[q.GetSeq()], c.Chunk.GetData()...)
			continue
		case *backendv1.ExecuteRequest_Open:
			switch l.lie {
			case "open_refused":
				r.Result = &backendv1.ExecuteResponse_Error{Error: backend.ToProto(backend.DeviceLost("it is gone"))}
			case "open_ends":
				return nil
			}
		case *backendv1.ExecuteRequest_Run:
			if l.lie == "stream_ends" {
				return nil
			}
			in := c.Run.GetInputs()[0]
			data := in.GetInline()
			if in.GetChunked() != nil {
				data = chunks[q.GetSeq()]
			}
			delete(chunks, q.GetSeq())
			l.answer(s, r, in, c.Run.GetOutputs()[0], data)
		}
		if err := s.Send(r); err != nil {
			return err
		}
	}
}

// answer answers y = x, with the lie.
func (l *liar) answer(s grpc.BidiStreamingServer[backendv1.ExecuteRequest, backendv1.ExecuteResponse], r *backendv1.ExecuteResponse, in, out *backendv1.Binding, data []byte) {
	a := &backendv1.Binding{Name: "y", ElementType: 1, Dims: in.GetDims()}
	done := r.GetDone()
	done.Outputs = []*backendv1.Binding{a}
	chunk := func(name string, data []byte) {
		_ = s.Send(&backendv1.ExecuteResponse{Seq: r.GetSeq(), Result: &backendv1.ExecuteResponse_Chunk{Chunk: &backendv1.Chunk{Name: name, Data: data}}})
	}
	if out.GetChunked() != nil {
		chunk("y", data)
		a.Place = &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: uint64(len(data))}}
	} else {
		a.Place = &backendv1.Binding_Inline{Inline: data}
	}
	switch l.lie {
	case "slow":
		time.Sleep(300 * time.Millisecond)
	case "no_output":
		done.Outputs = nil
	case "other_output":
		a.Name = "q"
	case "two_outputs":
		done.Outputs = append(done.Outputs, a)
	case "short":
		a.Place = &backendv1.Binding_Inline{Inline: data[1:]}
	case "long":
		a.Dims = []int64{1 << 40}
	case "negative":
		a.Dims = []int64{-1}
	case "rank":
		a.Dims = append(a.Dims, 1)
	case "type":
		a.ElementType = 2
	case "no_place":
		a.Place = nil
	case "region":
		a.Place = &backendv1.Binding_Region{Region: &backendv1.Slice{Id: &backendv1.Id{Device: "0", Epoch: liarEpoch, N: 1}, Length: uint64(len(data))}}
	case "buffer":
		a.Place = &backendv1.Binding_Buffer{Buffer: &backendv1.Slice{Id: &backendv1.Id{Device: "0", Epoch: liarEpoch, N: 1}, Length: uint64(len(data))}}
	case "chunk_of_nothing":
		chunk("q", data)
	case "chunk_flood":
		for range 100 {
			chunk("y", data)
		}
	case "chunk_count":
		a.Place = &backendv1.Binding_Chunked{Chunked: &backendv1.ChunkedData{Length: uint64(len(data)) + 1}}
	case "other_seq": // and then the true one: answers to nobody are dropped
		other := &backendv1.ExecuteResponse{Seq: r.GetSeq() + 1000, Result: r.GetResult()}
		_ = s.Send(other)
	}
}
