package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
)

// fileRequest is what the bodies of POST /v1/classify and /v1/detect have in common:
// JSON, or a form (multipart/form-data) whose files are the input.
type fileRequest struct {
	model string
	files []tasks.File
}

var (
	classifyFields = []string{"model", "input", "labels", "templates", "top", "user"}
	detectFields   = []string{"model", "input", "threshold", "max_detections", "user"}
)

// readFiles reads a body; set takes the fields that are the request's own.
func (s *Server) readFiles(r *http.Request, body []byte, known []string, set func(name string, value json.RawMessage) error) (fileRequest, error) {
	var req fileRequest
	fields, files, err := bodyFields(r.Header.Get("Content-Type"), body, known)
	if err != nil {
		return req, err
	}
	req.files = files
	for _, f := range fields {
		switch {
		case f.name == "model":
			err = decode(f.name, f.value, "a string", &req.model)
		case f.name == "input":
			err = req.addInput(f.value, s.config.MaxInputs)
		case f.name == "user":
			var user string
			err = decode(f.name, f.value, "a string", &user)
		case string(f.value) != "null":
			err = set(f.name, f.value)
		}
		if err != nil {
			return req, err
		}
	}
	switch {
	case req.model == "":
		return req, invalid("model", "model: it is missing; name one of GET /v1/models")
	case len(req.files) == 0:
		return req, invalid("input", "input: it is missing; give a URL (data: or, where the server fetches, http), a list of them, or files of a form")
	case len(req.files) > s.config.MaxInputs:
		return req, invalid("input", "input: it has more than %d entries; send them in several requests, or raise server.max_inputs", s.config.MaxInputs)
	}
	return req, nil
}

// bodyFields are the fields of a body, and the files of one that is a form.
func bodyFields(contentType string, body []byte, known []string) ([]field, []tasks.File, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" {
		fields, err := splitBody(body, known)
		return fields, nil, err
	}
	var fields []field
	var files []tasks.File
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return fields, files, nil
		}
		var data []byte
		if err == nil {
			data, err = io.ReadAll(part)
		}
		if err != nil {
			return nil, nil, invalid("", "the form is malformed: %v", err)
		}
		name := part.FormName()
		if part.FileName() != "" {
			if name != "file" && name != "input" {
				return nil, nil, invalid(name, "%q is a file; files are called file", name)
			}
			files = append(files, tasks.File{Data: data})
			continue
		}
		name = strings.TrimSuffix(name, "[]")
		if !slices.Contains(known, name) {
			return nil, nil, unknownField(name, known)
		}
		fields = append(fields, formField(name, string(data)))
	}
}

// formLists are the fields of forms that are lists: several values are one a line.
var formLists = []string{"labels", "templates"}

// formField is a form's value as JSON has it.
func formField(name, text string) field {
	var value any = text
	if slices.Contains(formLists, name) {
		value = strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	} else if number := json.Number(text); json.Valid([]byte(text)) && strings.Trim(text, "+-.0123456789eE") == "" && text != "" {
		value = number
	}
	raw, err := json.Marshal(value)
	if err != nil {
		raw = []byte("null") // texts always marshal
	}
	return field{name, raw}
}

// addInput takes a file or a list of them.
func (req *fileRequest) addInput(value json.RawMessage, most int) error {
	if value[0] != '[' {
		f, err := fileOf("input", value)
		req.files = append(req.files, f)
		return err
	}
	var list []json.RawMessage
	if err := decode("input", value, "a list", &list); err != nil {
		return err
	}
	if len(list) > most {
		return invalid("input", "input: it has more than %d entries; send them in several requests, or raise server.max_inputs", most)
	}
	for i, item := range list {
		f, err := fileOf(fmt.Sprintf("input[%d]", i), item)
		if err != nil {
			return err
		}
		req.files = append(req.files, f)
	}
	return nil
}

// fileKeys are the keys of an object that is a file, each a URL, or an object with a url;
// input_audio holds base64, as in OpenAI's API.
var fileKeys = []string{"type", "image_url", "image", "video_url", "video", "audio_url", "audio", "input_audio", "url"}

// fileOf reads a URL, or an object as messages of a chat have it.
func fileOf(at string, value json.RawMessage) (tasks.File, error) {
	bad := func() (tasks.File, error) {
		return tasks.File{}, invalid("input", "%s: want a URL, or an object with image_url, video_url, audio_url or input_audio", at)
	}
	if value[0] == '"' {
		var url string
		if err := decode("input", value, "a string", &url); err != nil || url == "" {
			return bad()
		}
		return tasks.File{URL: url}, nil
	}
	if value[0] != '{' {
		return bad()
	}
	fields, err := splitObject(value, fileKeys)
	if err != nil {
		return tasks.File{}, err
	}
	var found []tasks.File
	for _, f := range fields {
		switch {
		case f.name == "type":
		case f.name == "input_audio":
			var in struct{ Data, Format string }
			if json.Unmarshal(f.value, &in) != nil {
				return bad()
			}
			data, err := base64.StdEncoding.DecodeString(in.Data)
			if err != nil || len(data) == 0 {
				return tasks.File{}, invalid("input", "%s: the data of input_audio is not base64", at)
			}
			found = append(found, tasks.File{Data: data})
		case f.value[0] == '{':
			var in struct {
				URL string `json:"url"`
			}
			if json.Unmarshal(f.value, &in) != nil || in.URL == "" {
				return bad()
			}
			found = append(found, tasks.File{URL: in.URL})
		default:
			var url string
			if json.Unmarshal(f.value, &url) != nil || url == "" {
				return bad()
			}
			found = append(found, tasks.File{URL: url})
		}
	}
	if len(found) != 1 {
		return bad()
	}
	return found[0], nil
}

// perceive answers a request about files: parse reads its body, answer has the engine
// answer and returns what is to be written.
func (s *Server) perceive(w http.ResponseWriter, r *http.Request,
	parse func(r *http.Request, body []byte) (fileRequest, error), answer func(ctx context.Context, req fileRequest) (any, route.Decision, error)) {
	r, body, finish, err := s.begin(w, r, s.config.Timeouts.Request)
	defer finish()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx := r.Context()
	req, err := parse(r, body)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec := recordOf(ctx)
	s.name(rec, req.model, len(req.files))
	release, err := s.queue.acquire(ctx)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	out, decision, err := answer(ctx, req)
	release()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	rec.decision = &decision
	setDecision(w.Header(), &decision)
	if err := s.writeBefore(w); err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

// listed is an answer of several entries.
type listed struct {
	Object string `json:"object"`
	Model  string `json:"model"`
	Data   []any  `json:"data"`
}

type labelled struct {
	Object string  `json:"object"`
	Index  int     `json:"index"`
	Labels []label `json:"labels"`
}

type label struct {
	Label string  `json:"label"`
	Index int     `json:"index"`
	Score float32 `json:"score"`
}

func (s *Server) classify(w http.ResponseWriter, r *http.Request) {
	var ask tasks.ClassifyRequest
	s.perceive(w, r, func(r *http.Request, body []byte) (fileRequest, error) {
		return s.readFiles(r, body, classifyFields, func(name string, value json.RawMessage) error {
			switch name {
			case "labels":
				return decode(name, value, "a list of strings", &ask.Labels)
			case "templates":
				return decode(name, value, "a list of strings", &ask.Templates)
			}
			return decode(name, value, "a whole number", &ask.Top)
		})
	}, func(ctx context.Context, req fileRequest) (any, route.Decision, error) {
		ask.Files = req.files
		res, err := s.engine.Classify(ctx, req.model, ask)
		if err != nil {
			return nil, res.Decision, err
		}
		out := listed{Object: "list", Model: req.model}
		for i, list := range res.Labels {
			entry := labelled{Object: "classification", Index: i, Labels: []label{}}
			for _, l := range list {
				entry.Labels = append(entry.Labels, label{l.Name, l.Index, l.Score})
			}
			out.Data = append(out.Data, entry)
		}
		return out, res.Decision, nil
	})
}

type detected struct {
	Object     string      `json:"object"`
	Index      int         `json:"index"`
	Width      int         `json:"width"`
	Height     int         `json:"height"`
	Detections []detection `json:"detections"`
}

type detection struct {
	label
	Box box `json:"box"`
}

// box is in pixels, from the upper left.
type box struct {
	Left   float32 `json:"xmin"`
	Top    float32 `json:"ymin"`
	Right  float32 `json:"xmax"`
	Bottom float32 `json:"ymax"`
}

func (s *Server) detect(w http.ResponseWriter, r *http.Request) {
	var ask tasks.DetectRequest
	s.perceive(w, r, func(r *http.Request, body []byte) (fileRequest, error) {
		return s.readFiles(r, body, detectFields, func(name string, value json.RawMessage) error {
			if name == "max_detections" {
				return decode(name, value, "a whole number", &ask.Most)
			}
			threshold := math.NaN()
			ask.Threshold = &threshold
			return decode(name, value, "a number", &threshold)
		})
	}, func(ctx context.Context, req fileRequest) (any, route.Decision, error) {
		ask.Files = req.files
		res, err := s.engine.Detect(ctx, req.model, ask)
		if err != nil {
			return nil, res.Decision, err
		}
		out := listed{Object: "list", Model: req.model}
		for i, p := range res.Pictures {
			entry := detected{Object: "detections", Index: i, Width: p.Width, Height: p.Height, Detections: []detection{}}
			for _, t := range p.Things {
				entry.Detections = append(entry.Detections, detection{label{t.Name, t.Label, t.Score}, box{t.Box[0], t.Box[1], t.Box[2], t.Box[3]}})
			}
			out.Data = append(out.Data, entry)
		}
		return out, res.Decision, nil
	})
}
