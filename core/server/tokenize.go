package server

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"

	"github.com/accelhq/accel/core/processors"
)

// tokenize answers POST /tokenize: the token ids of a text.
func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var model, content string
	special := true
	s.withTokenizer(w, r, map[string]func(name string, v json.RawMessage) error{
		"model":              func(name string, v json.RawMessage) error { return decode(name, v, "a string", &model) },
		"prompt":             func(name string, v json.RawMessage) error { return decode(name, v, "a string", &content) },
		"add_special_tokens": func(name string, v json.RawMessage) error { return decode(name, v, "true or false", &special) },
	}, &model, func(t *processors.Tokenizer) (any, error) {
		e, err := t.Encode(content, processors.EncodeOptions{NoSpecial: !special})
		if err != nil {
			return nil, invalid("prompt", "prompt: %v", err)
		}
		if e.IDs == nil {
			e.IDs = []int64{}
		}
		return struct {
			Tokens []int64 `json:"tokens"`
			Count  int     `json:"count"`
		}{e.IDs, len(e.IDs)}, nil
	})
}

// detokenize answers POST /detokenize: the text of token ids.
func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) {
	var model string
	var tokens []int64
	skip := false
	s.withTokenizer(w, r, map[string]func(name string, v json.RawMessage) error{
		"model":               func(name string, v json.RawMessage) error { return decode(name, v, "a string", &model) },
		"tokens":              func(name string, v json.RawMessage) error { return decode(name, v, "a list of token ids", &tokens) },
		"skip_special_tokens": func(name string, v json.RawMessage) error { return decode(name, v, "true or false", &skip) },
	}, &model, func(t *processors.Tokenizer) (any, error) {
		text, err := t.Decode(tokens, skip)
		if err != nil {
			return nil, invalid("tokens", "tokens: %v", err)
		}
		return struct {
			Prompt string `json:"prompt"`
		}{text}, nil
	})
}

// withTokenizer reads a body's fields and has the tokenizer of the model that they name answer.
func (s *Server) withTokenizer(w http.ResponseWriter, r *http.Request, set map[string]func(string, json.RawMessage) error, model *string, answer func(*processors.Tokenizer) (any, error)) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), s.config.Timeouts.Request, errTimeout)
	defer cancel()
	r = r.WithContext(ctx)
	v, err := func() (any, error) {
		leave, err := s.queue.enter()
		if err != nil {
			return nil, err
		}
		defer leave()
		body, err := s.readBody(w, r)
		if err != nil {
			return nil, err
		}
		fields, err := splitBody(body, slices.Sorted(maps.Keys(set)))
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			if err := set[f.name](f.name, f.value); err != nil {
				return nil, err
			}
		}
		t, err := s.engine.Tokenizer(ctx, *model)
		if err != nil {
			return nil, err
		}
		return answer(t)
	}()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}
