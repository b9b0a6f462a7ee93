package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/tasks"
)

func (s *Server) transcriptions(w http.ResponseWriter, r *http.Request) { s.transcribe(w, r, false) }
func (s *Server) translations(w http.ResponseWriter, r *http.Request)   { s.transcribe(w, r, true) }

// transcribeRequest is the form of POST /v1/audio/transcriptions and /v1/audio/translations.
type transcribeRequest struct {
	model   string
	format  tasks.TranscriptFormat
	options tasks.TranscriptOptions
	stream  bool
	sound   *spool
	tasks.TranscribeRequest
}

// transcribe answers when all was heard, or as it is heard.
func (s *Server) transcribe(w http.ResponseWriter, r *http.Request, translate bool) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), s.config.Timeouts.Generate, errTimeout)
	defer cancel()
	r = r.WithContext(ctx)
	leave, err := s.queue.enter()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer leave()
	req, err := s.readForm(w, r, translate)
	defer req.sound.remove()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec := recordOf(ctx)
	req.ID = rec.id
	s.name(rec, req.model, 1)
	release, err := s.queue.acquire(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer release()
	sound, err := audio.Open(req.sound)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	req.Sound = sound
	if req.stream {
		s.transcribeStream(w, r, req, sound)
		return
	}
	var out bytes.Buffer
	writer, err := tasks.NewTranscriptWriter(req.format, &out, req.options)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	res, err := s.engine.Transcribe(ctx, req.model, req.TranscribeRequest, writer.Segment)
	if err == nil {
		err = writer.End(res)
	}
	if err == nil {
		rec.tokens, rec.decision = res.Tokens, &res.Decision
		setDecision(w.Header(), &res.Decision)
		if notes := sound.Notes(); len(notes) > 0 {
			w.Header().Set("X-Accel-Notes", headerSafe(strings.Join(notes, "; ")))
		}
		err = s.writeBefore(w)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", transcriptTypes[req.format])
	w.Header().Set("Content-Length", strconv.Itoa(out.Len()))
	if _, err := w.Write(out.Bytes()); err != nil {
		rec.err, rec.code = err, "write"
	}
}

var transcriptTypes = map[tasks.TranscriptFormat]string{
	tasks.TranscriptJSON: "application/json", tasks.TranscriptVerbose: "application/json", tasks.TranscriptText: "text/plain; charset=utf-8",
	tasks.TranscriptSRT: "application/x-subrip; charset=utf-8", tasks.TranscriptVTT: "text/vtt; charset=utf-8",
}

// transcriptEvent is one of OpenAI's events of a transcription; Accel and Notes come with the
// last.
type transcriptEvent struct {
	Type  string   `json:"type"`
	Delta *string  `json:"delta,omitempty"`
	Text  *string  `json:"text,omitempty"`
	Accel *placed  `json:"accel,omitempty"`
	Notes []string `json:"notes,omitempty"`
}

func (s *Server) transcribeStream(w http.ResponseWriter, r *http.Request, req *transcribeRequest, sound *audio.Sound) {
	rec := recordOf(r.Context())
	send := s.events(w)
	begun := false
	begin := func() {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-cache")
		}
	}
	var text strings.Builder
	line, err := tasks.NewTranscriptWriter(tasks.TranscriptText, &text, req.options)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	res, err := s.engine.Transcribe(r.Context(), req.model, req.TranscribeRequest, func(seg tasks.Segment) error {
		before := text.Len()
		if err := line.Segment(seg); err != nil {
			return err
		}
		begin()
		delta := text.String()[before:]
		return send(transcriptEvent{Type: "transcript.text.delta", Delta: &delta})
	})
	if err == nil {
		rec.tokens, rec.decision = res.Tokens, &res.Decision
		begin()
		whole := text.String()
		err = send(transcriptEvent{Type: "transcript.text.done", Text: &whole, Accel: placedAt(&res.Decision), Notes: sound.Notes()})
	}
	if err != nil {
		s.broke(w, r, rec, begun, send, err)
	}
}

// events sends server-sent events (WHATWG HTML, 9.2).
func (s *Server) events(w http.ResponseWriter) func(any) error {
	conn := http.NewResponseController(w)
	return func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := s.writeBefore(w); err != nil {
			return errWrite{err}
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return errWrite{err}
		}
		if err := conn.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return errWrite{err}
		}
		return nil
	}
}

// Bounds on a form beside its file.
const (
	maxFormParts = 64
	maxFormField = 1 << 16
)

// readForm reads a form strictly: unknown and doubled fields are refused. The file is kept in
// memory while it is small, and else on disk. The request's sound is to be removed in any case.
func (s *Server) readForm(w http.ResponseWriter, r *http.Request, translate bool) (*transcribeRequest, error) {
	req := &transcribeRequest{format: tasks.TranscriptJSON, options: tasks.TranscriptOptions{Task: "transcribe"}, sound: &spool{}}
	if translate {
		req.Translate, req.options.Task = true, "translate"
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" || params["boundary"] == "" {
		return req, &problem{Status: http.StatusUnsupportedMediaType, Type: invalidRequest, Code: "unsupported_media_type",
			Message: "the body is to be a form, Content-Type: multipart/form-data, with file and model"}
	}
	limit := int64(s.config.MaxAudioBytes)
	if r.ContentLength > limit {
		return req, errLongAudio(limit)
	}
	conn := http.NewResponseController(w)
	body := &patient{r: http.MaxBytesReader(w, r.Body, limit), conn: conn, each: s.config.Timeouts.ReadBody, end: time.Now().Add(s.config.Timeouts.Generate)}
	err = req.read(multipart.NewReader(body, params["boundary"]))
	var long *http.MaxBytesError
	var own *problem
	switch {
	case err == nil:
		err = conn.SetReadDeadline(time.Time{})
		if errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
		return req, err
	case errors.As(err, &own):
		return req, own
	case errors.As(err, &long):
		return req, errLongAudio(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return req, &problem{Status: http.StatusRequestTimeout, Type: invalidRequest, Code: "body_timeout", Final: true,
			Message: fmt.Sprintf("nothing of the body arrived for %v", s.config.Timeouts.ReadBody)}
	case errors.As(err, new(*spoolError)):
		return req, err
	}
	return req, invalid("", "the form can't be read: %v", err)
}

func errLongAudio(limit int64) error {
	return &problem{Status: http.StatusRequestEntityTooLarge, Type: invalidRequest, Code: "request_too_large",
		Message: fmt.Sprintf("the body is longer than %d bytes; send a compressed sound, such as FLAC or Opus, or raise server.max_audio_bytes", limit)}
}

// patient gives a client a while for each piece of a body, and an end to all of it.
type patient struct {
	r    io.Reader
	conn *http.ResponseController
	each time.Duration
	end  time.Time
}

func (p *patient) Read(b []byte) (int, error) {
	until := time.Now().Add(p.each)
	if until.After(p.end) {
		until = p.end
	}
	if err := p.conn.SetReadDeadline(until); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.r.Read(b)
}

// transcribeFields are those of a form beside its file.
var transcribeFields = map[string]func(req *transcribeRequest, value string) error{
	"model": func(req *transcribeRequest, v string) error { req.model = v; return nil },
	"language": func(req *transcribeRequest, v string) error {
		if req.Translate {
			return invalid("language", "language: a translation is into English, and what is spoken is found out")
		}
		req.Language = v
		return nil
	},
	"prompt": func(req *transcribeRequest, v string) error { req.Prompt = v; return nil },
	"response_format": func(req *transcribeRequest, v string) error {
		req.format = tasks.TranscriptFormat(v)
		if !slices.Contains(tasks.TranscriptFormats, req.format) {
			return invalid("response_format", "response_format: found %q, wanted one of %v", v, tasks.TranscriptFormats)
		}
		return nil
	},
	"temperature": func(req *transcribeRequest, v string) error {
		t, err := strconv.ParseFloat(v, 64)
		if err != nil || !(t >= 0 && t <= 1) {
			return invalid("temperature", "temperature: found %q, wanted a number from 0 to 1", v)
		}
		// 0 is OpenAI's word for: warmer as long as what comes is no good.
		if t > 0 {
			for ; t <= 1; t += 0.2 {
				req.Temperatures = append(req.Temperatures, t)
			}
		}
		return nil
	},
	"timestamp_granularities[]": setGranularity,
	"timestamp_granularities":   setGranularity,
	"stream": func(req *transcribeRequest, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return invalid("stream", "stream: found %q, wanted true or false", v)
		}
		req.stream = b
		return nil
	},
	"chunking_strategy": func(_ *transcribeRequest, v string) error {
		if v != "auto" {
			return invalid("chunking_strategy", "chunking_strategy: found %q; only \"auto\" is known", v)
		}
		return nil
	},
}

// ReadTranscription reads a transcription's fields where they are given as values, as in a run
// file; translate is one more of them.
func ReadTranscription(fields map[string]any) (tasks.TranscribeRequest, tasks.TranscriptOptions, error) {
	req := &transcribeRequest{options: tasks.TranscriptOptions{Task: "transcribe"}}
	known := []string{"language", "prompt", "temperature", "timestamp_granularities", "translate"}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) {
			return req.TranscribeRequest, req.options, invalid(name, "there is no field %q; there are %s", name, strings.Join(known, ", "))
		}
		values, list := fields[name].([]any)
		if !list {
			values = []any{fields[name]}
		}
		for _, v := range values {
			if name == "translate" {
				on, ok := v.(bool)
				if !ok {
					return req.TranscribeRequest, req.options, invalid(name, "translate: found %v, wanted true or false", v)
				}
				if req.Translate = on; on {
					req.options.Task = "translate"
				}
				continue
			}
			if err := transcribeFields[name](req, fmt.Sprint(v)); err != nil {
				return req.TranscribeRequest, req.options, err
			}
		}
	}
	req.options.Segments = req.options.Segments || !req.options.Words
	return req.TranscribeRequest, req.options, nil
}

func setGranularity(req *transcribeRequest, v string) error {
	switch v {
	case "word":
		req.Words, req.options.Words = true, true
	case "segment":
		req.options.Segments = true
	default:
		return invalid("timestamp_granularities", "timestamp_granularities: found %q, wanted word or segment", v)
	}
	return nil
}

// read takes the form's parts.
func (req *transcribeRequest) read(form *multipart.Reader) error {
	seen := map[string]bool{}
	for n := 0; ; n++ {
		part, err := form.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := part.FormName()
		list := strings.HasPrefix(name, "timestamp_granularities")
		switch set := transcribeFields[name]; {
		case n == maxFormParts:
			return invalid("", "the form has more than %d fields", maxFormParts)
		case seen[name] && !list:
			return invalid(name, "%s: it is given twice", name)
		case name == "file":
			if err := req.sound.take(part); err != nil {
				return err
			}
		case set == nil:
			return invalid(name, "there is no field %q; there are file, model, language, prompt, response_format, temperature, timestamp_granularities[], stream and chunking_strategy", name)
		default:
			value, err := io.ReadAll(io.LimitReader(part, maxFormField+1))
			switch {
			case err != nil:
				return err
			case len(value) > maxFormField:
				return invalid(name, "%s: it is longer than %d bytes", name, maxFormField)
			case !utf8.Valid(value):
				return invalid(name, "%s: it is not valid UTF-8", name)
			}
			if err := set(req, string(value)); err != nil {
				return err
			}
		}
		seen[name] = true
	}
	if !req.options.Words {
		req.options.Segments = true
	}
	switch {
	case req.model == "":
		return invalid("model", "model: it is missing; name one of GET /v1/models")
	case !seen["file"]:
		return invalid("file", "file: it is missing; send the sound as a file of the form")
	case (seen["timestamp_granularities[]"] || seen["timestamp_granularities"]) && req.format != tasks.TranscriptVerbose:
		return invalid("timestamp_granularities", "timestamp_granularities: it goes with response_format verbose_json")
	case req.stream && req.format != tasks.TranscriptJSON && req.format != tasks.TranscriptText:
		return invalid("stream", "stream: it goes with response_format json or text, and %s was asked for", req.format)
	}
	return nil
}

// spoolMemory is how much of a file is kept in memory; what is longer goes to disk.
const spoolMemory = 1 << 20

// spool keeps a file of a form until it was read.
type spool struct {
	memory bytes.Buffer
	file   *os.File // nil: all is in memory
}

// spoolError is a failure of this machine's disk.
type spoolError struct{ error }

func (e *spoolError) Unwrap() error { return e.error }

func (f *spool) take(r io.Reader) error {
	_, err := io.CopyN(&f.memory, r, spoolMemory)
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return err
	}
	if f.file, err = os.CreateTemp("", "accel-sound-"); err != nil {
		return &spoolError{fmt.Errorf("keeping a sound on disk: %w", err)}
	}
	for buffer := make([]byte, 64<<10); ; {
		n, err := r.Read(buffer)
		if _, bad := f.file.Write(buffer[:n]); bad != nil {
			return &spoolError{fmt.Errorf("keeping a sound on disk: %w", bad)}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return &spoolError{err}
	}
	return nil
}

func (f *spool) Read(b []byte) (int, error) {
	if f.memory.Len() > 0 {
		return f.memory.Read(b)
	}
	if f.file == nil {
		return 0, io.EOF
	}
	return f.file.Read(b)
}

func (f *spool) remove() {
	if f.file != nil {
		f.file.Close()
		os.Remove(f.file.Name())
	}
}
