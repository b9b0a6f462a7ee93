package backend

import (
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// grace is how long a process may take to end once it must, before it is ended
// with whatever still hangs in a vendor's library.
const grace = 5 * time.Second

// Exit codes of a backend process, beside 0 for a proper end and 1 for a start
// that was refused.
const (
	exitHung = 3 // something did not end within the grace period
)

// Serve serves b to the host that started this process and ends the process when
// the host says so, is gone (EnvParentPipe) or the process is sent SIGTERM or
// SIGINT. It is the first thing that main calls: it moves standard output, which
// belongs to the handshake, out of the way of vendor libraries that print.
// Libraries are opened by b's methods, not before.
//
// The log of the default hclog logger and of package log goes to standard error
// as JSON, at the level of EnvLogLevel.
func Serve(b Backend) {
	stderr := os.Stderr
	if err := protectStdout(); err != nil {
		refuse(stderr, "cannot move standard output aside: %v", err)
	}
	logger := hclog.New(&hclog.LoggerOptions{
		Level: hclog.LevelFromString(os.Getenv(EnvLogLevel)), Output: stderr, JSONFormat: true,
	})
	hclog.SetDefault(logger)
	log.SetFlags(0)
	log.SetOutput(logger.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true}))

	creds, err := credentialsOfPeer()
	if err != nil {
		refuse(stderr, "%v", err)
	}
	p := &process{server: newServer(b, logger), log: logger}
	if err := p.watchHost(); err != nil {
		refuse(stderr, "%v", err)
	}
	p.watchSignals()
	var restore sync.Once
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{ProtocolVersion: {PluginName: &wire{server: p.server}}},
		Logger:           logger.Named("go-plugin"),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			opts = append(append(opts, creds...), p.server.options()...)
			// go-plugin has put pipes in the place of both files, which only a host that
			// asks for them empties.
			opts = append(opts, p.server.interceptors(func() {
				restore.Do(func() { os.Stdout, os.Stderr = stderr, stderr })
			})...)
			s := grpc.NewServer(opts...)
			p.serving(s)
			return s
		},
	})
	p.end("the host has ended the service")
	if err := p.server.end(); err != nil {
		logger.Error("closing the backend failed", "error", err)
	}
	os.Exit(0)
}

// refuse ends a process that cannot serve, saying why.
func refuse(stderr io.Writer, format string, args ...any) {
	fmt.Fprintf(stderr, "cannot serve: "+format+"\n", args...)
	os.Exit(1)
}

// process is this process's life.
type process struct {
	server *server
	log    hclog.Logger

	mu    sync.Mutex
	grpc  *grpc.Server
	ended bool
}

func (p *process) serving(s *grpc.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grpc = s
	if p.ended {
		s.Stop()
	}
}

// end makes plugin.Serve return, and sees to it that the process ends.
func (p *process) end(why string) {
	p.mu.Lock()
	first := !p.ended
	p.ended = true
	s := p.grpc
	p.mu.Unlock()
	if !first {
		return
	}
	p.log.Info("ending", "reason", why)
	time.AfterFunc(grace, func() {
		p.log.Error("the backend did not end in time", "grace", grace)
		os.Exit(exitHung)
	})
	p.server.cancel()
	if s != nil {
		s.Stop()
	}
}

// watchHost ends the process when the host is gone: only the host holds the other
// end of the pipe. Signals at a parent's death follow a thread of the host, not
// the host.
func (p *process) watchHost() error {
	v := os.Getenv(EnvParentPipe)
	if v == "" {
		p.log.Warn("started without a pipe to the host: its death will not be noticed", "variable", EnvParentPipe)
		return nil
	}
	n, err := strconv.ParseUint(v, 10, 31)
	if err != nil {
		return fmt.Errorf("%s is %q, and no number of a file descriptor", EnvParentPipe, v)
	}
	f, err := inherited(uintptr(n))
	if err != nil {
		return fmt.Errorf("descriptor %d of %s: %w", n, EnvParentPipe, err)
	}
	go func() {
		// The host writes nothing; were it to, that would not be its end.
		_, err := io.Copy(io.Discard, f)
		why := "the host is gone"
		if err != nil {
			why = "the pipe to the host is broken: " + err.Error()
		}
		p.end(why)
	}()
	return nil
}

func (p *process) watchSignals() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, os.Interrupt)
	go func() { p.end("signal: " + (<-ch).String()) }()
}

// credentialsOfPeer is how the server knows that its peer is of this user.
func credentialsOfPeer() ([]grpc.ServerOption, error) {
	if os.Getenv("PLUGIN_CLIENT_CERT") != "" {
		return nil, nil // go-plugin's mutual TLS
	}
	return credentialsOfUser()
}
