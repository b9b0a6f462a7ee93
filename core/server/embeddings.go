package server

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
)

func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) {
	r, body, finish, err := s.begin(w, r, s.config.Timeouts.Request)
	defer finish()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx := r.Context()
	req, err := parseEmbeddings(body, s.config.MaxInputs)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec := recordOf(ctx)
	s.name(rec, req.model, inputsOf(req.embed))
	res, err := s.embed(ctx, req)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec.tokens, rec.decision = res.Tokens, &res.Decision
	setDecision(w.Header(), &res.Decision)

	buf := answers.Get().(*[]byte)
	defer answers.Put(buf)
	*buf, err = appendEmbeddings((*buf)[:0], req.model, &res, req.base64)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if err := s.writeBefore(w); err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(*buf)))
	if _, err := w.Write(*buf); err != nil {
		rec.err, rec.code = err, "write"
	}
}

// begin takes a request on: it bounds its time, gives it a place among those that
// are answered, and reads its body. finish is to be called in any case.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, timeout time.Duration) (_ *http.Request, body []byte, finish func(), err error) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), timeout, errTimeout)
	r = r.WithContext(ctx)
	leave, err := s.queue.enter()
	if err != nil {
		return r, nil, cancel, err
	}
	body, err = s.readBody(w, r)
	return r, body, func() { leave(); cancel() }, err
}

// name notes the model that a request asks for. Names of no model go to no label of
// a metric: clients may make up any number.
func (s *Server) name(rec *record, model string, inputs int) {
	for _, m := range s.engine.Models() {
		if m.Name == model {
			rec.model, rec.inputs = m.Name, inputs
		}
	}
}

// embed has the engine answer, once there is a place for the request.
func (s *Server) embed(ctx context.Context, req embeddingsRequest) (tasks.EmbedResult, error) {
	release, err := s.queue.acquire(ctx)
	if err != nil {
		return tasks.EmbedResult{}, err
	}
	defer release()
	res, err := s.engine.Embed(ctx, req.model, req.embed)
	if inputs := inputsOf(req.embed); err == nil && len(res.Vectors) != inputs {
		err = fmt.Errorf("the engine returned %d vectors for %d inputs", len(res.Vectors), inputs)
	}
	return res, err
}

// readBody reads the whole body, within the bounds on its length and time.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Content-Type is not asked for: curl -d sends a form's by default, and pages
	// that may not call are kept out by protect.
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, &problem{Status: http.StatusUnsupportedMediaType, Type: invalidRequest, Code: "unsupported_media_type",
			Message: fmt.Sprintf("the body is encoded as %q; send it plain", coding)}
	}
	limit := int64(s.config.MaxBodyBytes)
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	conn := http.NewResponseController(w)
	if err := conn.SetReadDeadline(time.Now().Add(s.config.Timeouts.ReadBody)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &problem{Status: http.StatusRequestTimeout, Type: invalidRequest, Code: "body_timeout", Final: true,
			Message: fmt.Sprintf("the body did not arrive within %v", s.config.Timeouts.ReadBody)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, invalid("", "the body ended before its Content-Length")
	case err != nil:
		return nil, err
	}
	// From here on the connection is only watched for the client's leaving.
	if err := conn.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	return body, nil
}

// setDecision says in the headers where the answer comes from.
func setDecision(h http.Header, d *route.Decision) {
	h.Set("X-Accel-Platform", headerSafe(d.Chosen.Platform))
	h.Set("X-Accel-Device", headerSafe(d.Chosen.Device))
	h.Set("X-Accel-Device-Kind", headerSafe(string(d.Chosen.Kind)))
	if d.Fallback() {
		h.Set("X-Accel-Fallback", headerSafe(d.Summary()))
	}
	if len(d.Replays) > 0 {
		h.Set("X-Accel-Replays", headerSafe(fmt.Sprintf("%d; %s", len(d.Replays), d.Summary())))
	}
}

// answers holds the buffers of earlier answers.
var answers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// appendEmbeddings writes the answer as JSON. Numbers have the fewest digits that
// give the same float32 again. Besides OpenAI's fields there is `truncated`, the
// tokens cut from each input, where any were.
func appendEmbeddings(b []byte, model string, res *tasks.EmbedResult, asBase64 bool) ([]byte, error) {
	b = append(b, `{"object":"list","data":[`...)
	var err error
	for i, v := range res.Vectors {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"object":"embedding","index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"embedding":`...)
		if at := notFinite(v); at >= 0 {
			return b, fmt.Errorf("component %d of the embedding of input %d is %v", at, i, v[at])
		}
		if asBase64 {
			b = appendBase64(b, v)
		} else {
			b = appendFloats(b, v)
		}
		b = append(b, '}')
	}
	b = append(b, `],"model":`...)
	name, err := json.Marshal(model)
	if err != nil {
		return b, err
	}
	b = append(b, name...)
	b = append(b, `,"usage":{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(res.Tokens), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(res.Tokens), 10)
	b = append(b, '}')
	if res.Truncated != nil {
		b = append(b, `,"truncated":[`...)
		for i, n := range res.Truncated {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(n), 10)
		}
		b = append(b, ']')
	}
	return append(b, '}', '\n'), nil
}

// notFinite returns the index of the first infinity or NaN, or -1.
func notFinite(v []float32) int {
	for i, x := range v {
		if x-x != 0 {
			return i
		}
	}
	return -1
}

func appendFloats(b []byte, v []float32) []byte {
	b = append(b, '[')
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, float64(x), 'g', -1, 32)
	}
	return append(b, ']')
}

// appendBase64 encodes three numbers at a time: 12 bytes are 16 letters exactly.
func appendBase64(b []byte, v []float32) []byte {
	b = append(b, '"')
	var raw [12]byte
	for len(v) > 0 {
		n := min(3, len(v))
		for i, x := range v[:n] {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(x))
		}
		b = base64.StdEncoding.AppendEncode(b, raw[:4*n])
		v = v[n:]
	}
	return append(b, '"')
}
