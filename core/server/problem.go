package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/backend"
)

// problem is an error as a client sees it.
type problem struct {
	Status     int
	Type       string
	Code       string
	Param      string // the field of the request; may be empty
	Message    string
	RetryAfter time.Duration // 0: says nothing
	Final      bool          // asking again would do the same harm
}

func (p *problem) Error() string { return p.Message }

// Types of error, as OpenAI names them.
const (
	invalidRequest = "invalid_request_error"
	rateLimit      = "rate_limit_error"
	serverError    = "server_error"
)

// clientGone is the status in logs and metrics of requests whose client left; it
// is never sent. nginx brought it into use.
const clientGone = 499

// problemOf translates an error of the engine or of the connection. Errors that it
// does not know are the server's own business: the client gets the request's id.
func problemOf(ctx context.Context, id string, err error) *problem {
	var own *problem
	if errors.As(err, &own) {
		return own
	}
	// Once the context is done, whatever the engine returns is a consequence.
	if ctx.Err() != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errDraining):
			return &problem{Status: http.StatusServiceUnavailable, Type: serverError, Code: "DRAINING", Message: "the server is shutting down; ask again", RetryAfter: time.Second}
		case errors.Is(cause, context.DeadlineExceeded), errors.Is(cause, errTimeout):
			return &problem{Status: http.StatusGatewayTimeout, Type: serverError, Code: "timeout",
				Message: "the request took longer than the server allows; send fewer inputs, or raise server.timeouts.request"}
		}
		return &problem{Status: clientGone, Type: invalidRequest, Code: "client_gone", Message: "the client closed the connection"}
	}
	for _, translate := range translations {
		if p := translate(err); p != nil {
			return p
		}
	}
	return &problem{Status: http.StatusInternalServerError, Type: serverError, Code: "INTERNAL",
		Message: fmt.Sprintf("an internal error; the server's log names it under request id %s", id)}
}

// translations know the errors that a client can act upon.
var translations = []func(error) *problem{
	as(func(e *http.MaxBytesError) *problem {
		return &problem{Status: http.StatusRequestEntityTooLarge, Type: invalidRequest, Code: "request_too_large",
			Message: fmt.Sprintf("the body is longer than %d bytes; send fewer inputs at a time, or raise server.max_body_bytes", e.Limit)}
	}),
	as(func(e *tasks.InputTooLongError) *problem {
		return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "context_length_exceeded", Param: "input",
			Message: e.Error() + ` ("truncate": true)`}
	}),
	as(func(e *tasks.InvalidInputError) *problem {
		return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "invalid_value", Param: e.Field, Message: e.Error()}
	}),
	as(func(e *tasks.ContextError) *problem {
		return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "context_length_exceeded", Param: e.Field, Message: e.Error()}
	}),
	as(func(e *audio.FormatError) *problem {
		return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "invalid_value", Param: "file", Message: e.Error()}
	}),
	as(func(e *schedule.InvalidError) *problem {
		return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "invalid_value", Param: e.Field, Message: e.Error()}
	}),
	as(func(e *schedule.BusyError) *problem {
		return &problem{Status: http.StatusTooManyRequests, Type: rateLimit, Code: "rate_limit_exceeded",
			Message: e.Error() + ", or raise generate.max_waiting", RetryAfter: time.Second}
	}),
	as(func(e *engine.TaskError) *problem {
		return &problem{Status: http.StatusBadRequest, Type: invalidRequest, Code: "wrong_task", Param: "model", Message: e.Error()}
	}),
	as(func(e *engine.ModelNotFoundError) *problem {
		return &problem{Status: http.StatusNotFound, Type: invalidRequest, Code: "model_not_found", Param: "model", Message: e.Error()}
	}),
	as(func(e *engine.ModelUnusableError) *problem {
		return &problem{Status: http.StatusServiceUnavailable, Type: serverError, Code: "MODEL_UNUSABLE", Param: "model", Message: e.Error(), Final: true}
	}),
	as(func(e *engine.PoisonedError) *problem {
		return &problem{Status: http.StatusInternalServerError, Type: serverError, Code: "BACKEND_CRASHED", Message: e.Error(), Final: true}
	}),
	as(func(e *engine.NoPlatformError) *problem {
		return &problem{Status: http.StatusServiceUnavailable, Type: serverError, Code: "NO_PLATFORM", Message: e.Error(), RetryAfter: 2 * time.Second}
	}),
	as(func(e *backend.Error) *problem {
		switch e.Code {
		case backend.CodeOutOfMemory, backend.CodeDeviceLost, backend.CodeBadState:
			return &problem{Status: http.StatusServiceUnavailable, Type: serverError, Code: string(e.Code), Message: e.Error(), RetryAfter: 2 * time.Second}
		}
		return nil
	}),
}

// as makes a translation of one type of error.
func as[E error](translate func(E) *problem) func(error) *problem {
	return func(err error) *problem {
		var e E
		if errors.As(err, &e) {
			return translate(e)
		}
		return nil
	}
}

// fail answers with an error, and notes it for the log.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	rec := recordOf(r.Context())
	p := problemOf(r.Context(), rec.id, err)
	rec.err, rec.code = err, p.Code
	if p.Status == clientGone {
		rec.status = clientGone
		return
	}
	h := w.Header()
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.RetryAfter+time.Second-1)/time.Second)))
	}
	if p.Final {
		h.Set("X-Should-Retry", "false") // OpenAI's clients ask again after a 5xx else
	}
	writeJSON(w, p.Status, p.body())
}

// problemBody is an error in OpenAI's form.
type problemBody struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    string  `json:"code"`
	} `json:"error"`
}

func (p *problem) body() problemBody {
	var b problemBody
	b.Error.Message, b.Error.Type, b.Error.Code = p.Message, p.Type, p.Code
	if p.Param != "" {
		b.Error.Param = &p.Param
	}
	return b
}

// writeJSON answers with a value that encoding/json can hold.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("server: an answer can't be encoded: %v", err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}
