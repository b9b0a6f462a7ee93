// Package server answers OpenAI's API over HTTP with an engine behind it.
//
// It listens on loopback unless told otherwise, takes on no more requests than it
// is configured to, and says in the headers of every answer which device gave it:
//
//	X-Accel-Platform     the platform that answered: cpu
//	X-Accel-Device-Kind  hardware, emulated or simulated
//	X-Accel-Device       the device, as `accel devices` prints it: cpu:0
//	X-Accel-Fallback     only where another device than the first wanted one
//	                     answered: which, and why
//	X-Accel-Replays      only where the request outlived its device: how often, and
//	                     what happened
//	X-Accel-Notes        only where something about a sound was odd, such as that its
//	                     file ends before its header says
//	X-Request-Id         the client's, if it sent one of up to 128 letters, digits,
//	                     '.', '_', ':' or '-', else one made here
//
// Errors have OpenAI's form. Their codes are OpenAI's where it has one, and else
// Accel's own, in capitals.
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

// Engine is what the server needs of an engine. Its methods may be called from
// many goroutines.
type Engine interface {
	// Embed returns one vector an input, in their order. It ends soon after ctx.
	Embed(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error)
	// Classify tells classes of pictures, videos or sounds, Detect finds things in pictures:
	// for each file, in their order.
	Classify(ctx context.Context, model string, req tasks.ClassifyRequest) (tasks.ClassifyResult, error)
	Detect(ctx context.Context, model string, req tasks.DetectRequest) (tasks.DetectResult, error)
	// Generate hands what a model generates to emit, as it comes. It ends soon after ctx.
	Generate(ctx context.Context, model string, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error)
	// Transcribe hands what is said in a sound to emit, as it is heard. It ends soon after ctx.
	Transcribe(ctx context.Context, model string, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error)
	// Tokenizer is that of a model.
	Tokenizer(ctx context.Context, model string) (*processors.Tokenizer, error)
	// SchedulerStats are snapshots of the models that generate, by name.
	SchedulerStats() map[string]schedule.Stats
	// Memory is what models hold on each device.
	Memory() []engine.DeviceMemory
	// Models lists all models that were configured, loaded or not.
	Models() []engine.ModelInfo
	// Ready reports whether every model can be served, and on what that hangs.
	Ready() (bool, []engine.Condition)
	// Backends lists the backend processes.
	Backends() []engine.BackendStatus
}

// Options says what a server is made of.
type Options struct {
	Config  config.Server
	Engine  Engine
	Log     hclog.Logger
	Version string // of Accel, for the Server header
}

// Server answers HTTP requests. Make one with New.
type Server struct {
	config   config.Server
	engine   Engine
	log      hclog.Logger
	version  string
	keys     keyring
	guard    *http.CrossOriginProtection
	queue    *queue
	metrics  *metrics
	handler  http.Handler
	draining atomic.Bool
	public   bool // may listen beyond loopback
}

// New makes a server. It fails where the file of keys can't be read, or an origin
// is malformed.
func New(o Options) (*Server, error) {
	s := &Server{config: o.Config, engine: o.Engine, log: o.Log, version: o.Version}
	var err error
	if s.keys, err = newKeyring(o.Config.APIKeys, o.Config.APIKeyFile); err != nil {
		return nil, err
	}
	s.public = o.Config.AllowPublic || len(s.keys) > 0
	s.guard = http.NewCrossOriginProtection()
	for _, origin := range o.Config.AllowOrigins {
		if err := s.guard.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("server.allow_origins: %w", err)
		}
	}
	s.queue = newQueue(o.Config.Queue)
	s.metrics = newMetrics(s.queue, o.Engine)
	s.handler = s.observe(s.protect(s.routes()))
	return s, nil
}

func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &problem{Status: http.StatusNotFound, Type: invalidRequest, Code: "unknown_url",
			Message: fmt.Sprintf("there is no %s %s; there are POST /v1/embeddings, /v1/classify, /v1/detect, /v1/chat/completions, /v1/completions, /v1/audio/transcriptions, /v1/audio/translations, /tokenize and /detokenize, GET /v1/models, /healthz, /readyz and /metrics", r.Method, r.URL.Path)})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &problem{Status: http.StatusMethodNotAllowed, Type: invalidRequest, Code: "method_not_allowed",
			Message: fmt.Sprintf("%s does not take %s", r.URL.Path, r.Method)})
	})
	r.Get("/healthz", s.healthz)
	r.Get("/readyz", s.readyz)
	r.Group(func(r chi.Router) {
		r.Use(s.authenticate)
		r.Post("/v1/embeddings", s.embeddings)
		r.Post("/v1/classify", s.classify)
		r.Post("/v1/detect", s.detect)
		r.Post("/v1/chat/completions", s.chatCompletions)
		r.Post("/v1/completions", s.completions)
		r.Post("/v1/audio/transcriptions", s.transcriptions)
		r.Post("/v1/audio/translations", s.translations)
		r.Post("/tokenize", s.tokenize)
		r.Post("/detokenize", s.detokenize)
		r.Get("/v1/models", s.models)
		r.Get("/v1/models/*", s.model)
		r.Method(http.MethodGet, "/metrics", s.metrics.handler())
	})
	return r
}

// Handler answers requests without a listener of its own.
func (s *Server) Handler() http.Handler { return s.handler }

// ListenError says why the server does not listen.
type ListenError struct {
	Address string
	Problem string
	Remedy  string
}

func (e *ListenError) Error() string {
	return fmt.Sprintf("can't listen on %s: %s; %s", e.Address, e.Problem, e.Remedy)
}

// Listen opens the configured address. Beyond loopback it refuses to, unless
// there is a key or the configuration allows it.
func (s *Server) Listen() (net.Listener, error) {
	at := s.config.Listen
	addr, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		return nil, &ListenError{at, err.Error(), "set server.listen (--listen) to ADDRESS:PORT, such as 127.0.0.1:8399"}
	}
	if !addr.IP.IsLoopback() && !s.public {
		return nil, &ListenError{at, "that is reachable from other machines, and no API key is set",
			"set server.api_keys or server.api_key_file, listen on 127.0.0.1, or set server.allow_public to serve everybody"}
	}
	l, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, &ListenError{at, err.Error(), "another program may have the port; choose another with server.listen (--listen), or 0 for any free one"}
	}
	return l, nil
}

var (
	errTimeout  = errors.New("the request took longer than server.timeouts.request")
	errDraining = errors.New("the server is shutting down")
)

// Serve answers on l until ctx ends. Then /readyz fails at once, l is closed after
// the drain delay, and requests in flight have until the drain time-out, after
// which they are cancelled. It returns nil if none had to be.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	t := s.config.Timeouts
	base, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	srv := &http.Server{
		Handler:           s.handler,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: t.ReadHeader,
		IdleTimeout:       t.Idle,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          s.log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	s.log.Info("listening", "address", l.Addr().String(), "keys", len(s.keys), "public", s.public)

	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.log.Info("draining", "in_flight", s.queue.inFlight(), "delay", t.DrainDelay.String(), "timeout", t.Drain.String())
	time.Sleep(t.DrainDelay)

	end, stop := context.WithTimeout(context.Background(), t.Drain)
	defer stop()
	err := srv.Shutdown(end)
	if err == nil {
		s.log.Info("drained")
		return nil
	}
	left := s.queue.inFlight()
	cancel(errDraining)
	// What was cancelled answers 503; it gets a moment to be written.
	last, stopLast := context.WithTimeout(context.Background(), time.Second)
	defer stopLast()
	if srv.Shutdown(last) != nil {
		srv.Close()
	}
	return fmt.Errorf("%d requests were still in flight %v after the listener had closed and were cancelled; server.timeouts.drain bounds that time", left, t.Drain)
}

// headerSafe makes text fit for a header: one line, visible ASCII, at most 1 KiB.
// What is not is escaped as Go's strings are.
func headerSafe(s string) string {
	const most = 1024
	var b strings.Builder
	for i, r := range strings.Join(strings.Fields(s), " ") {
		if b.Len() > most {
			fmt.Fprintf(&b, " ... (%d more bytes)", len(s)-i)
			break
		}
		if r < ' ' || r > '~' {
			q := fmt.Sprintf("%+q", r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
