package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/route"
)

// record is what the log and the metrics say of a request. It never holds texts.
type record struct {
	id       string
	model    string // empty where the request names none that there is
	inputs   int
	tokens   int
	decision *route.Decision
	status   int
	bytes    int
	code     string // of the error that was answered
	err      error
}

type recordKey struct{}

// recordOf returns the record that observe laid into the context.
func recordOf(ctx context.Context) *record { return ctx.Value(recordKey{}).(*record) }

// observe gives each request its id, a line in the log, and its place in the
// metrics, and answers 500 where a handler panics.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		rec := &record{id: requestID(r.Header.Get("X-Request-Id"))}
		routing := chi.NewRouteContext()
		ctx := context.WithValue(r.Context(), recordKey{}, rec)
		r = r.WithContext(context.WithValue(ctx, chi.RouteCtxKey, routing))
		w.Header().Set("X-Request-Id", rec.id)
		w.Header().Set("Server", "accel/"+s.version)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		rw := &responseWriter{ResponseWriter: w, rec: rec}

		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.log.Error("panic while answering", "request_id", rec.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if rec.status == 0 {
					s.fail(rw, r, fmt.Errorf("panic: %v", p))
				} else {
					p = http.ErrAbortHandler // a half-written answer must not look whole
				}
			}
			took := time.Since(begin)
			pattern := routing.RoutePattern()
			if pattern == "" {
				pattern = "other"
			}
			s.metrics.observe(r, pattern, rec, took)
			s.logRequest(r, pattern, rec, took)
			if p == http.ErrAbortHandler || rec.status == clientGone {
				panic(http.ErrAbortHandler) // closes the connection without an answer
			}
		}()
		next.ServeHTTP(rw, r)
	})
}

func (s *Server) logRequest(r *http.Request, pattern string, rec *record, took time.Duration) {
	level := hclog.Info
	switch {
	case rec.status >= 500:
		level = hclog.Error
	case pattern == "/healthz" || pattern == "/readyz" || pattern == "/metrics":
		level = hclog.Debug
	}
	fields := []any{"request_id", rec.id, "method", r.Method, "path", r.URL.Path, "status", rec.status,
		"duration_ms", float64(took.Microseconds()) / 1000, "bytes", rec.bytes, "remote", r.RemoteAddr}
	if rec.model != "" {
		fields = append(fields, "model", rec.model, "inputs", rec.inputs, "tokens", rec.tokens)
	}
	if d := rec.decision; d != nil {
		fields = append(fields, "platform", d.Chosen.Platform, "device", d.Chosen.Device, "kind", string(d.Chosen.Kind))
		if summary := d.Summary(); summary != "" {
			fields = append(fields, "fallback", d.Fallback(), "replays", len(d.Replays), "decision", summary)
		}
	}
	if rec.err != nil {
		fields = append(fields, "code", rec.code, "error", rec.err.Error())
	}
	s.log.Log(level, "request", fields...)
}

// requestID takes the client's id if it is sane: it goes into logs and headers.
func requestID(id string) string {
	const sane = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-"
	if id != "" && len(id) <= 128 && strings.Trim(id, sane) == "" {
		return id
	}
	return "req-" + rand.Text()
}

// responseWriter notes the status and length of an answer.
type responseWriter struct {
	http.ResponseWriter
	rec *record
}

func (w *responseWriter) WriteHeader(status int) {
	if w.rec.status == 0 {
		w.rec.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	if w.rec.status == 0 {
		w.rec.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.rec.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
