package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// settleTime is how long a process whose connection broke has to be seen dead by
// itself before it is ended for it.
const settleTime = time.Second

// life is one process of a backend, from its start to its end.
type life struct {
	h      *host
	proc   *process
	client *plugin.Client
	dir    string // of its socket
	rpc    backendv1.BackendClient
	info   backend.Info
	ready  time.Time

	ctx       context.Context // of its streams; ends with it
	cancel    context.CancelFunc
	reading   sync.WaitGroup // the goroutines that read its streams
	closeOnce sync.Once

	mu      sync.Mutex
	streams map[string]*stream // by device id; nil once it is over
	conns   []*grpc.ClientConn

	stopping atomic.Bool   // it was asked to end, so that its end is no crash
	crash    *CrashedError // how it ended; valid after over
	over     chan struct{} // closed when the process is gone
	dead     chan struct{} // closed then, when nothing is left of it
}

// launch starts a process and makes it usable, or says why it is not. Nothing is
// left of a process that did not become usable.
func (h *host) launch(ctx context.Context) (*life, error) {
	found, err := h.m.opts.find(h.name)
	if err != nil {
		return nil, err
	}
	path := found.path
	h.set(func(s *BackendStatus) { s.Path, s.Origin = path, found.origin })
	if found.origin == Installed {
		if _, err := h.m.opts.Installed.Verify(ctx, h.name); err != nil {
			return nil, &StartError{Backend: h.name, Path: path, Cause: StartChanged, Detail: err.Error(), Err: err}
		}
	}
	dir, err := socketDir(h.m.base)
	if err != nil {
		return nil, &StartError{Backend: h.name, Path: path, Cause: StartExec, Detail: "no folder for its socket: " + err.Error(), Err: err}
	}
	config := h.m.opts.Backends[h.name]
	l := &life{h: h, dir: dir, proc: newProcess(path, config.Args, h.log), streams: map[string]*stream{},
		over: make(chan struct{}), dead: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	h.mu.Lock()
	h.proc = l.proc
	h.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.proc.stop("") })
	defer stop()
	if err := l.connect(ctx); err != nil {
		l.cancel()
		l.proc.stop("")
		l.close()
		return nil, err
	}
	go l.await()
	return l, nil
}

func (l *life) environment() []string {
	config := l.h.m.opts.Backends[l.h.name]
	env := append(os.Environ(), backend.EnvLogLevel+"="+l.h.log.GetLevel().String())
	for k, v := range config.Env {
		env = append(env, k+"="+v)
	}
	return env
}

// connect runs the program, shakes hands, and asks all that is asked before the
// backend counts as healthy.
func (l *life) connect(ctx context.Context) error {
	times := l.h.m.opts.Timeouts
	var address net.Addr
	l.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  backend.Handshake,
		VersionedPlugins: backend.HostPlugins(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		StartTimeout:     times.Start,
		// The host reads stderr and logs for itself.
		Logger: hclog.NewNullLogger(),
		// What the process writes by go-plugin's own stand-ins for its streams.
		SyncStdout: l.proc.speech(),
		SyncStderr: l.proc.speech(),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			l.proc.cmd.Env = append(l.environment(), cmd.Env...)
			return l.proc, nil
		},
		SkipHostEnv:      true, // environment adds it, the configuration's after it
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: l.dir},
		// A Unix socket in a folder that only this user can enter needs no
		// certificates, which not every gRPC library can verify.
		AutoMTLS: runtime.GOOS == "windows",
		GRPCDialOptions: append(backend.DialOptions(), grpc.WithStreamInterceptor(l.keep),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialSocket(ctx, address) })),
	})
	begun := time.Now()
	var err error
	if address, err = l.client.Start(); err != nil {
		return l.startFailure(err, time.Since(begun))
	}

	// From here on its silence is ended by a kill, which ends every call.
	late := time.AfterFunc(times.Probe, func() {
		l.proc.stop(fmt.Sprintf("it did not describe itself and its devices within %v", times.Probe))
	})
	defer late.Stop()
	protocol, err := l.client.Client()
	if err == nil {
		var raw any
		if raw, err = protocol.Dispense(backend.PluginName); err == nil {
			l.rpc = raw.(backendv1.BackendClient)
		}
	}
	if err != nil {
		return l.probeFailure("connecting", err)
	}
	if err := l.describe(ctx); err != nil {
		return err
	}
	watch, err := l.rpc.Watch(l.ctx, &backendv1.WatchRequest{})
	if err != nil {
		return l.probeFailure("Watch", err)
	}
	list, err := devices(watch)
	if err != nil {
		return l.probeFailure("Watch", err)
	}
	l.ready = time.Now()
	l.h.began(l, list)
	l.reading.Go(func() { l.watch(watch) })
	return nil
}

// keep notes the connections that go-plugin makes: it loses those that it makes
// while the process dies.
func (l *life) keep(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	l.mu.Lock()
	if !slices.Contains(l.conns, conn) {
		l.conns = append(l.conns, conn)
	}
	l.mu.Unlock()
	return streamer(ctx, desc, conn, method, opts...)
}

func (l *life) describe(ctx context.Context) error {
	r, err := l.rpc.Describe(ctx, &backendv1.DescribeRequest{})
	if err != nil {
		return l.probeFailure("Describe", err)
	}
	// The handshake chose the version; here the backend says what it understands at all.
	if spoken := uint32(l.client.NegotiatedVersion()); r.GetApiMin() > spoken || r.GetApiMax() < spoken {
		return l.versionError(fmt.Sprintf("%d to %d", r.GetApiMin(), r.GetApiMax()))
	}
	l.info = backend.InfoFromProto(r)
	if l.info.Name != l.h.name {
		l.h.log.Warn("a backend calls itself otherwise than its file", "calls_itself", l.info.Name, "path", l.proc.Name())
	}
	settings := l.h.m.opts.Backends[l.h.name].Settings
	if len(settings) == 0 {
		return nil
	}
	c, err := l.rpc.Configure(ctx, &backendv1.ConfigureRequest{SettingsJson: string(settings)})
	if err != nil {
		return l.probeFailure("Configure", err)
	}
	for _, w := range c.GetWarnings() {
		l.h.log.Warn("backend warns of its settings", "warning", w)
	}
	return nil
}

func (l *life) startError(cause StartCause, detail, remedy string, err error) *StartError {
	e := &StartError{Backend: l.h.name, Path: l.proc.Name(), Cause: cause, Detail: detail, Remedy: remedy, Err: err}
	// What it said and how it ended is complete once it is gone.
	l.proc.stop("")
	if l.proc.pid() != 0 {
		select {
		case <-l.proc.exited:
			if cause == StartExited {
				e.Exit = l.proc.exit
			}
		case <-l.proc.lost:
		}
	}
	e.Stderr = l.proc.said.String()
	return e
}

func (l *life) versionError(theirs string) *StartError {
	return l.startError(StartVersion, fmt.Sprintf("it speaks version %s of the backend protocol, Accel speaks version %d", theirs, backend.ProtocolVersion),
		"install a backend of the same release as Accel", nil)
}

// startFailure says why there was no handshake. go-plugin's words are for the
// programmer; what is known of the process says more.
func (l *life) startFailure(err error, after time.Duration) error {
	line := l.proc.head.String()
	if version, ok := handshakeVersion(line); ok {
		if version != backend.ProtocolVersion {
			return l.versionError(fmt.Sprint(version))
		}
		return l.startError(StartOutput, fmt.Sprintf("its handshake %q is wrong: %v", line, err), "report it to the backend's author", err)
	}
	if l.proc.pid() == 0 {
		return l.startError(StartExec, "the program can't be run: "+err.Error(), "check that it is built for this machine", err)
	}
	if line != "" {
		return l.startError(StartOutput, fmt.Sprintf("it printed %q where its handshake was expected", line),
			"a backend must leave stdout alone: let it log to stderr", err)
	}
	if start := l.h.m.opts.Timeouts.Start; after >= start {
		return l.startError(StartTimeout, fmt.Sprintf("it said nothing within %v", start),
			"see what it said on stderr, or raise the start time-out", err)
	}
	e := l.startError(StartExited, "it ended before it was ready", "", err)
	if !l.proc.alone {
		e.Cause, e.Detail, e.Remedy, e.Exit = StartOutput, "it closed its stdout without a handshake", "report it to the backend's author", ""
	}
	return e
}

// probeFailure says why a call that every backend must answer failed.
func (l *life) probeFailure(call string, err error) error {
	err = backend.FromStatus(err)
	var said *backend.Error
	if errors.As(err, &said) {
		remedy := ""
		if call == "Configure" {
			remedy = "correct the backend's settings in the configuration"
		}
		return l.startError(StartRefused, call+" was refused: "+err.Error(), remedy, err)
	}
	if reason := l.proc.why(); reason != "" {
		return l.startError(StartTimeout, reason, "see what it said on stderr, or raise the probe time-out", err)
	}
	if _, broken := status.FromError(err); broken {
		select {
		case <-l.proc.exited:
			if l.proc.alone {
				return l.startError(StartExited, fmt.Sprintf("it ended in %s", call), "", err)
			}
		case <-time.After(settleTime):
		}
	}
	return l.startError(StartRefused, fmt.Sprintf("%s failed: %v", call, err), "report it to the backend's author", err)
}

// devices receives one list of devices.
func devices(w grpc.ServerStreamingClient[backendv1.WatchResponse]) ([]backend.Device, error) {
	r, err := w.Recv()
	if err != nil {
		return nil, err
	}
	list := make([]backend.Device, 0, len(r.GetDevices()))
	seen := map[string]bool{}
	for _, p := range r.GetDevices() {
		d, err := backend.DeviceFromProto(p)
		if err != nil {
			return nil, err
		}
		if seen[d.ID] {
			return nil, fmt.Errorf("device %q is listed twice", d.ID)
		}
		seen[d.ID] = true
		list = append(list, d)
	}
	return list, nil
}

// watch follows the devices until the process ends.
func (l *life) watch(w grpc.ServerStreamingClient[backendv1.WatchResponse]) {
	for {
		list, err := devices(w)
		if err != nil {
			l.broken("list of devices", err)
			return
		}
		l.h.update(l, list)
	}
}

// broken is told that a stream which should last as long as the process has
// ended. Mostly the process has, too.
func (l *life) broken(what string, err error) {
	select {
	case <-l.proc.exited:
	case <-l.ctx.Done():
	case <-time.After(settleTime):
		if l.stopping.Load() {
			return // it has its grace
		}
		l.fail(fmt.Sprintf("its %s ended: %v", what, err))
	}
}

// fail ends the process for a reason.
func (l *life) fail(reason string) { l.proc.stop(reason) }

// end asks the process to end, and kills it after the grace.
func (l *life) end(grace time.Duration) {
	l.stopping.Store(true)
	l.proc.grace.Store(time.Now().Add(grace).UnixNano())
	// go-plugin asks, and waits without end for the answer.
	timer := time.AfterFunc(grace, func() { l.proc.stop("") })
	l.close()
	timer.Stop()
}

// close releases what go-plugin and the file system hold for the process, ending
// it if it has not ended. It does not wait for one that can't be ended.
func (l *life) close() {
	l.closeOnce.Do(func() {
		done := make(chan struct{})
		go func() {
			l.client.Kill()
			l.mu.Lock()
			for _, c := range l.conns {
				c.Close() // mostly for the second time
			}
			l.mu.Unlock()
			os.RemoveAll(l.dir)
			close(done)
		}()
		select {
		case <-done:
		case <-l.proc.lost:
		}
	})
}

// await waits for the end of the process and cleans up after it: all calls end,
// then all that was held for the process is given back.
func (l *life) await() {
	select {
	case <-l.proc.exited:
	case <-l.proc.lost:
	}
	l.crash = &CrashedError{Backend: l.h.name, PID: l.proc.pid(), Reason: l.proc.why(), Exit: l.proc.ending(), Stderr: l.proc.said.String()}
	// Who learns of the death from a call finds the device gone already.
	l.h.lost(l)
	close(l.over)
	l.mu.Lock()
	streams := l.streams
	l.streams = nil
	l.mu.Unlock()
	for _, s := range streams {
		s.end()
	}
	l.cancel()
	l.reading.Wait()
	l.close()
	close(l.dead)
}

// ended is the error of a call for a device once the life is over, else nil.
func (l *life) ended(device string, inFlight bool) error {
	select {
	case <-l.over:
	default:
		return nil
	}
	return l.death(device, inFlight)
}

// death is the error of a call for a device of a life that is over.
func (l *life) death(device string, inFlight bool) error {
	if l.stopping.Load() {
		return ErrClosed
	}
	c := *l.crash
	c.Device, c.InFlight = device, inFlight
	return &c
}

// limit bounds a call in time, apart from the caller's context: passing it is the
// backend's fault.
type limit struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	after  time.Duration
	timer  *time.Timer
}

var errLate = errors.New("the backend did not answer in time")

func newLimit(ctx context.Context, after time.Duration) *limit {
	l := &limit{after: after}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.timer = time.AfterFunc(after, func() { l.cancel(errLate) })
	return l
}

// renew begins the time anew.
func (l *limit) renew() { l.timer.Reset(l.after) }

func (l *limit) end() {
	l.timer.Stop()
	l.cancel(nil)
}

// explain turns the gRPC error of a call for a session into the backend's
// *Error, a *CrashedError, a *TimeoutError or the end of ctx, the caller's.
func (l *life) explain(ctx context.Context, s *session, call string, limit *limit, err error) error {
	err = backend.FromStatus(err)
	var said *backend.Error
	if errors.As(err, &said) {
		return s.explain(said)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s on %s: %w", call, s.dev.ref, context.Cause(ctx))
	}
	if context.Cause(limit.ctx) == errLate {
		l.fail(fmt.Sprintf("it left %s on %s unanswered for %v", call, s.dev.ref, limit.after))
		return &TimeoutError{Backend: l.h.name, Device: s.dev.ref, Call: call, After: limit.after, Killed: true}
	}
	switch c := status.Code(err); {
	case c == codes.DeadlineExceeded: // the backend's clock was faster than ctx
		return fmt.Errorf("%s on %s: %w", call, s.dev.ref, context.DeadlineExceeded)
	case c == codes.Unavailable, c == codes.Canceled, errors.Is(err, io.EOF):
		l.broken("connection", err)
		<-l.over
		return l.ended(s.dev.ref, true)
	}
	return s.protocol("%s failed: %v", call, err)
}
