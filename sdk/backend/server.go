package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
)

// server serves one Backend.
type server struct {
	backendv1.UnimplementedBackendServer

	backend Backend
	log     hclog.Logger
	ctx     context.Context // ends with the process
	cancel  context.CancelFunc
	calls   sync.WaitGroup // calls in progress
	closing sync.WaitGroup // closings in the background

	configure sync.Mutex // held during Configure

	mu         sync.Mutex
	configured bool
	watching   bool // devices are in use
	devices    map[string]*device
	order      []string // of the last report
	reported   bool
	watchErr   error
	changed    chan struct{} // closed, and replaced, at each change of the above
}

func newServer(b Backend, log hclog.Logger) *server {
	ctx, cancel := context.WithCancel(context.Background())
	return &server{
		backend: b, log: log, ctx: ctx, cancel: cancel,
		devices: map[string]*device{}, changed: make(chan struct{}),
	}
}

// options are the gRPC server's. They do not include its credentials.
func (s *server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(2 * streamWindow),
	}
}

// interceptors count the calls in progress, so that end can wait for them, and
// call begun at each call.
func (s *server) interceptors(begun func()) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, q any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			begun()
			if info.Server == any(s) {
				s.calls.Add(1)
				defer s.calls.Done()
			}
			return next(ctx, q)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			begun()
			if server == any(s) {
				s.calls.Add(1)
				defer s.calls.Done()
			}
			return next(server, stream)
		}),
	}
}

// end closes all that is open, and the backend. The gRPC server has stopped.
func (s *server) end() error {
	s.cancel()
	s.calls.Wait()
	s.mu.Lock()
	devices := s.devices
	s.devices = map[string]*device{}
	s.mu.Unlock()
	for _, d := range devices {
		d.end()
	}
	s.closing.Wait()
	return s.guard("Close", s.backend.Close)
}

// guard turns a panic of the backend into an error: one bad call does not take
// with it what others compiled. Faults that Go cannot recover from still end the
// process, which is right: its memory can no longer be trusted.
func (s *server) guard(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(what, p)
		}
	}()
	return f()
}

func (s *server) panicked(what string, p any) error {
	s.log.Error("panic in the backend", "call", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return Internal("%s panicked: %v", what, p)
}

func (s *server) close(o *object) {
	if err := s.guard("Close", o.close); err != nil {
		s.log.Error("cannot close", "kind", o.kind, "error", err)
	}
}

// closeLater closes what is left of a lost device, which may take its time.
func (s *server) closeLater(objects []*object) {
	if len(objects) == 0 {
		return
	}
	s.closing.Go(func() {
		for _, o := range objects {
			s.close(o)
		}
	})
}

// Describe implements backendv1.BackendServer.
func (s *server) Describe(ctx context.Context, _ *backendv1.DescribeRequest) (*backendv1.DescribeResponse, error) {
	info, err := s.describe(ctx)
	if err != nil {
		return nil, ToStatus(err)
	}
	return InfoToProto(info), nil
}

func (s *server) describe(ctx context.Context) (info Info, err error) {
	err = s.guard("Describe", func() error {
		info, err = s.backend.Describe(ctx)
		return err
	})
	return info, err
}

// Configure implements backendv1.BackendServer.
func (s *server) Configure(ctx context.Context, q *backendv1.ConfigureRequest) (*backendv1.ConfigureResponse, error) {
	warnings, err := s.configureOnce(ctx, q.GetSettingsJson())
	if err != nil {
		return nil, ToStatus(err)
	}
	for i, w := range warnings {
		warnings[i] = text(w)
	}
	return &backendv1.ConfigureResponse{Warnings: warnings}, nil
}

func (s *server) configureOnce(ctx context.Context, settings string) (warnings []string, err error) {
	const argument = "settings_json"
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(settings), &keys); err != nil || keys == nil {
		return nil, Invalid(argument, "the settings are not one JSON object: %v", err)
	}
	s.configure.Lock()
	defer s.configure.Unlock()
	s.mu.Lock()
	configured, watching := s.configured, s.watching
	s.mu.Unlock()
	if configured {
		return nil, BadState("the backend is configured already")
	}
	if watching {
		return nil, BadState("the backend's devices are in use already; configure it before")
	}
	info, err := s.describe(ctx)
	if err != nil {
		return nil, err
	}
	if info.ConfigSchema == "" && len(keys) > 0 {
		return nil, Invalid(argument, "backend %s takes no settings", info.Name)
	}
	err = s.guard("Configure", func() error {
		warnings, err = s.backend.Configure(ctx, json.RawMessage(settings))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.configured = true
	s.mu.Unlock()
	return warnings, nil
}

// watch begins to watch the devices, once, and waits for their first list.
func (s *server) watch(ctx context.Context) error {
	s.mu.Lock()
	known := s.reported && s.watchErr == nil
	s.mu.Unlock()
	if known {
		return nil
	}
	s.configure.Lock()
	s.mu.Lock()
	if !s.watching {
		s.watching, s.watchErr = true, nil
		go s.watchBackend()
	}
	s.configure.Unlock()
	for {
		reported, err, changed := s.reported, s.watchErr, s.changed
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if reported {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return s.ended()
		}
		s.mu.Lock()
	}
}

func (s *server) ended() error { return BadState("the backend is ending") }

func (s *server) watchBackend() {
	err := s.guard("Watch", func() error { return s.backend.Watch(s.ctx, s.update) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !s.reported {
		err = Internal("Watch returned without a list of devices")
	}
	if err == nil || s.ctx.Err() != nil {
		return
	}
	s.log.Error("watching the devices failed", "error", err)
	// The next call tries again.
	s.watching, s.watchErr = false, err
	s.notifyLocked()
}

// update takes in a list of devices, or none of it where it is wrong.
func (s *server) update(list []Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.notifyLocked()
	seen := make(map[string]bool, len(list))
	for _, info := range list {
		err := info.Check()
		if err == nil && seen[info.ID] {
			err = fmt.Errorf("device %q is there twice", info.ID)
		}
		if err != nil {
			s.log.Error("the backend reported a device that breaks the contract", "error", err)
			s.watchErr = Internal("the backend breaks the contract: %v", err)
			return
		}
		seen[info.ID] = true
	}
	s.reported, s.watchErr = true, nil
	s.order = s.order[:0:0]
	for _, info := range list {
		d := s.devices[info.ID]
		if d == nil {
			d = newDevice(s, info.ID)
			s.devices[info.ID] = d
		}
		d.report(info)
		s.order = append(s.order, info.ID)
	}
	for id, d := range s.devices {
		if !seen[id] {
			d.report(Device{ID: id, Health: Undetected, Reason: "it is gone"})
		}
	}
}

func (s *server) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notifyLocked()
}

func (s *server) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Watch implements backendv1.BackendServer.
func (s *server) Watch(_ *backendv1.WatchRequest, stream grpc.ServerStreamingServer[backendv1.WatchResponse]) error {
	ctx := stream.Context()
	if err := s.watch(ctx); err != nil {
		return ToStatus(err)
	}
	for {
		s.mu.Lock()
		changed, err := s.changed, s.watchErr
		list := make([]Device, 0, len(s.order))
		for _, id := range s.order {
			d := s.devices[id]
			d.mu.Lock()
			list = append(list, d.info)
			d.mu.Unlock()
		}
		s.mu.Unlock()
		if err != nil {
			return ToStatus(err)
		}
		r := &backendv1.WatchResponse{}
		for _, info := range list {
			p, err := DeviceToProto(info)
			if err != nil {
				return ToStatus(Internal("%v", err))
			}
			r.Devices = append(r.Devices, p)
		}
		if err := stream.Send(r); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ToStatus(ctx.Err())
		case <-s.ctx.Done():
			return ToStatus(s.ended())
		}
	}
}

// device finds a device and the epoch that work on it belongs to.
func (s *server) device(ctx context.Context, id string) (*device, uint64, error) {
	if err := s.watch(ctx); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	d := s.devices[id]
	order := s.order
	s.mu.Unlock()
	if d == nil {
		return nil, 0, Invalid("device", "there is no device %q; there are %q", id, order)
	}
	epoch, err := d.begin()
	return d, epoch, err
}

// checkFolder refuses a graph folder that cannot be one, before the backend sees it.
func checkFolder(dir string) error {
	const argument = "graph_dir"
	if !filepath.IsAbs(dir) {
		return Invalid(argument, "%q is no absolute path", dir)
	}
	st, err := os.Stat(filepath.Join(dir, graph.ModelFile))
	if err != nil {
		return Invalid(argument, "%v", err)
	}
	if !st.Mode().IsRegular() {
		return Invalid(argument, "%s in %s is no file", graph.ModelFile, dir)
	}
	return nil
}

// Assess implements backendv1.BackendServer.
func (s *server) Assess(ctx context.Context, q *backendv1.AssessRequest) (*backendv1.AssessResponse, error) {
	r, err := s.assess(ctx, q)
	return r, ToStatus(err)
}

func (s *server) assess(ctx context.Context, q *backendv1.AssessRequest) (*backendv1.AssessResponse, error) {
	d, epoch, err := s.device(ctx, q.GetDevice())
	if err != nil {
		return nil, err
	}
	if err := checkFolder(q.GetGraphDir()); err != nil {
		return nil, err
	}
	var a Assessment
	err = s.guard("Assess", func() error {
		a, err = s.backend.Assess(ctx, d.id, q.GetGraphDir())
		return err
	})
	if err != nil {
		return nil, d.failed(epoch, err)
	}
	if err := d.refuse(q.GetGraphDir(), &a); err != nil {
		return nil, err
	}
	r, err := AssessmentToProto(a)
	if err != nil {
		return nil, Internal("the backend's assessment breaks the contract: %v", err)
	}
	return r, nil
}

// Compile implements backendv1.BackendServer.
func (s *server) Compile(q *backendv1.CompileRequest, stream grpc.ServerStreamingServer[backendv1.CompileResponse]) error {
	compiled, err := s.compile(stream.Context(), q, &progress{stream: stream})
	if err != nil {
		return ToStatus(err)
	}
	return stream.Send(&backendv1.CompileResponse{Step: &backendv1.CompileResponse_Compiled{Compiled: compiled}})
}

func (s *server) compile(ctx context.Context, q *backendv1.CompileRequest, p *progress) (*backendv1.Compiled, error) {
	defer p.end()
	d, epoch, err := s.device(ctx, q.GetDevice())
	if err != nil {
		return nil, err
	}
	if err := checkFolder(q.GetGraphDir()); err != nil {
		return nil, err
	}
	if q.GetMemoryBudget() > math.MaxInt64 {
		return nil, Invalid("memory_budget", "%d bytes cannot be", q.GetMemoryBudget())
	}
	for symbol, n := range q.GetSmokeDims() {
		if n < 0 {
			return nil, Invalid("smoke_dims", "dimension %q cannot be %d", symbol, n)
		}
	}
	spec := CompileSpec{
		Device: d.id, Dir: q.GetGraphDir(), MemoryBudget: int64(q.GetMemoryBudget()), SmokeDims: q.GetSmokeDims(),
	}
	var e Executable
	err = s.guard("Compile", func() error {
		e, err = s.backend.Compile(ctx, spec, p.report)
		return err
	})
	if err == nil && e == nil {
		err = Internal("Compile returned no executable and no error")
	}
	if err != nil {
		return nil, d.failed(epoch, err)
	}
	o := &object{kind: anExecutable, executable: e}
	r, err := s.try(ctx, d, o, q, p)
	if err != nil {
		s.close(o)
		return nil, d.failed(epoch, err)
	}
	if r.Executable, err = d.add(epoch, o); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		// Nobody will ever learn the id.
		d.release(r.Executable)
		return nil, err
	}
	return r, nil
}

// try reads the executable's description and runs it once: what cannot run does
// not compile.
func (s *server) try(ctx context.Context, d *device, o *object, q *backendv1.CompileRequest, p *progress) (*backendv1.Compiled, error) {
	var info ExecutableInfo
	err := s.guard("Info", func() error {
		info = o.executable.Info()
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := ExecutableToProto(info)
	if err != nil {
		return nil, Unsupported(err.Error())
	}
	d.mu.Lock()
	is := d.info
	d.mu.Unlock()
	for _, v := range slices.Concat(info.Inputs, info.Outputs) {
		if lacks, ok := is.Carries(v.Type); !ok {
			return nil, Unsupported(fmt.Sprintf("%q is %s, and device %s lacks %s", v.Name, typeName(v.Type), d.id, lacks))
		}
	}
	if o.signature, err = newSignature(info); err != nil {
		return nil, Internal("the executable breaks the contract: %v", err)
	}
	regions, release, err := d.regions(q.GetSmokeInputs())
	if err != nil {
		return nil, err
	}
	defer release()
	p.report("smoke run", 1)
	if err := s.smoke(ctx, o, q.GetSmokeDims(), q.GetSmokeInputs(), regions); err != nil {
		return nil, fmt.Errorf("smoke run: %w", err)
	}
	return r, nil
}

// progress sends how far a compilation is, as long as it lasts.
type progress struct {
	stream grpc.ServerStreamingServer[backendv1.CompileResponse]

	mu    sync.Mutex
	ended bool
}

func (p *progress) report(stage string, fraction float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if math.IsNaN(fraction) {
		fraction = 0
	}
	step := &backendv1.CompileProgress{Stage: text(stage), Fraction: min(max(fraction, 0), 1)}
	// Where the caller is gone, ctx tells the backend so.
	_ = p.stream.Send(&backendv1.CompileResponse{Step: &backendv1.CompileResponse_Progress{Progress: step}})
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
}

// Map implements backendv1.BackendServer.
func (s *server) Map(ctx context.Context, q *backendv1.MapRequest) (*backendv1.MapResponse, error) {
	id, err := s.mapRegion(ctx, q)
	if err != nil {
		return nil, ToStatus(err)
	}
	return &backendv1.MapResponse{Region: id}, nil
}

func (s *server) mapRegion(ctx context.Context, q *backendv1.MapRequest) (*backendv1.Id, error) {
	d, epoch, err := s.device(ctx, q.GetDevice())
	if err != nil {
		return nil, err
	}
	var mode region.Mode
	switch q.GetMode() {
	case backendv1.MapMode_MAP_MODE_READ:
		mode = region.Read
	case backendv1.MapMode_MAP_MODE_READ_WRITE:
		mode = region.ReadWrite
	default:
		return nil, Invalid("mode", "mode %d is neither read nor read-write", int32(q.GetMode()))
	}
	if q.GetLength() > math.MaxInt64 {
		return nil, Invalid("length", "%d bytes cannot be", q.GetLength())
	}
	r, err := region.Open(q.GetLocator(), int64(q.GetLength()), mode)
	if errors.Is(err, region.ErrLength) {
		return nil, Invalid("length", "%v", err)
	}
	if err != nil {
		return nil, Invalid("locator", "%v", err)
	}
	return d.add(epoch, &object{
		kind: aRegion, region: r, data: r.Bytes(), size: int64(len(r.Bytes())), writable: mode == region.ReadWrite,
	})
}

// Alloc implements backendv1.BackendServer.
func (s *server) Alloc(ctx context.Context, q *backendv1.AllocRequest) (*backendv1.AllocResponse, error) {
	id, err := s.alloc(ctx, q)
	if err != nil {
		return nil, ToStatus(err)
	}
	return &backendv1.AllocResponse{Buffer: id}, nil
}

func (s *server) alloc(ctx context.Context, q *backendv1.AllocRequest) (*backendv1.Id, error) {
	d, epoch, err := s.device(ctx, q.GetDevice())
	if err != nil {
		return nil, err
	}
	if q.GetLength() == 0 || q.GetLength() > math.MaxInt64 {
		return nil, Invalid("length", "a buffer of %d bytes cannot be", q.GetLength())
	}
	length := int64(q.GetLength())
	o := &object{kind: aBuffer, size: length}
	err = s.guard("Alloc", func() error {
		o.buffer, err = s.backend.Alloc(ctx, d.id, length)
		if err == nil && o.buffer == nil {
			err = Internal("Alloc returned no buffer and no error")
		}
		return err
	})
	if err != nil {
		return nil, d.failed(epoch, err)
	}
	err = s.guard("Size", func() error {
		if size := o.buffer.Size(); size < length {
			return Internal("Alloc made a buffer of %d bytes, %d were asked for", size, length)
		}
		return nil
	})
	if err != nil {
		s.close(o)
		return nil, err
	}
	return d.add(epoch, o)
}

// Release implements backendv1.BackendServer. It returns once the memory of what
// no command uses is given back.
func (s *server) Release(_ context.Context, q *backendv1.ReleaseRequest) (*backendv1.ReleaseResponse, error) {
	for _, id := range q.GetIds() {
		s.mu.Lock()
		d := s.devices[id.GetDevice()]
		s.mu.Unlock()
		if d != nil {
			d.release(id)
		}
	}
	return &backendv1.ReleaseResponse{}, nil
}
