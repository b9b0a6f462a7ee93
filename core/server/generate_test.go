package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

// says is an engine that generates given events and keeps the request.
func says(got *tasks.GenerateRequest, err error, events ...tasks.GenerateEvent) *fake {
	return &fake{generate: func(_ context.Context, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error) {
		*got = req
		res := tasks.GenerateResult{PromptTokens: 5, CachedTokens: 3, CompletionTokens: 2, Decision: decision()}
		for i, e := range events {
			if i == 0 {
				e.First = &res
			}
			if err := emit(e); err != nil {
				return res, err
			}
		}
		return res, err
	}}
}

// events are the data of a stream.
func events(t *testing.T, body string) (list []map[string]any, done bool) {
	t.Helper()
	for _, part := range strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(part, "data: ")
		if !ok || done {
			t.Fatalf("%q in the stream %q", part, body)
		}
		if data == "[DONE]" {
			done = true
			continue
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		list = append(list, v)
	}
	return list, done
}

// at walks into decoded JSON by keys and indexes.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

const chatBody = `{"model":"mini","messages":[{"role":"user","content":"hi"}]`

func TestChat(t *testing.T) {
	call := &processors.ToolCall{ID: "c1", Type: "function", Function: processors.FunctionCall{Name: "f", Arguments: `{"x":1}`}}
	var got tasks.GenerateRequest
	h := newServer(t, says(&got, nil, tasks.GenerateEvent{Text: "Hello"}, tasks.GenerateEvent{Text: " you", Tokens: []tasks.GeneratedToken{{ID: 1, Bytes: []byte("é")[:1], Logprob: -0.5}}},
		tasks.GenerateEvent{Call: call, Finish: tasks.FinishTools}), nil)
	body := chatBody + `,"logprobs":true,"max_completion_tokens":9,"stop":"x","seed":4,"temperature":0.5,"top_p":0.9,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto","user":"u"`
	w := h.do("POST", "/v1/chat/completions", body+"}")
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for _, tt := range []struct {
		want any
		path []any
	}{
		{"chat.completion", []any{"object"}}, {"mini", []any{"model"}}, {"Hello you", []any{"choices", 0, "message", "content"}},
		{"assistant", []any{"choices", 0, "message", "role"}}, {"tool_calls", []any{"choices", 0, "finish_reason"}},
		{"f", []any{"choices", 0, "message", "tool_calls", 0, "function", "name"}}, {`{"x":1}`, []any{"choices", 0, "message", "tool_calls", 0, "function", "arguments"}},
		{195.0, []any{"choices", 0, "logprobs", "content", 0, "bytes", 0}}, {-0.5, []any{"choices", 0, "logprobs", "content", 0, "logprob"}},
		{7.0, []any{"usage", "total_tokens"}}, {3.0, []any{"usage", "prompt_tokens_details", "cached_tokens"}}, {"cpu", []any{"accel", "platform"}},
	} {
		if have := at(v, tt.path...); have != tt.want {
			t.Errorf("%v is %v, want %v", tt.path, have, tt.want)
		}
	}
	if w.Header().Get("X-Accel-Platform") != "cpu" {
		t.Errorf("headers are %v", w.Header())
	}
	if got.MaxTokens != 9 || got.Sampling.Seed != 4 || got.Sampling.Temperature != 0.5 || got.Sampling.TopP != 0.9 || got.Salt != "u" || !got.Logprobs ||
		!slices.Equal(got.Stop, []string{"x"}) || len(got.Tools) != 1 || got.Messages[0].Content.Text != "hi" {
		t.Errorf("the engine was asked for %+v", got)
	}

	w = h.do("POST", "/v1/chat/completions", body+`,"stream":true,"stream_options":{"include_usage":true}}`)
	list, done := events(t, w.Body.String())
	if !done || w.Header().Get("Content-Type") != "text/event-stream" || w.Header().Get("X-Accel-Platform") != "cpu" {
		t.Fatalf("%v %q", w.Header(), w.Body)
	}
	content := ""
	for _, v := range list {
		if text, ok := at(v, "choices", 0, "delta", "content").(string); ok {
			content += text
		}
		if at(v, "object") != "chat.completion.chunk" || at(v, "id") != at(list[0], "id") {
			t.Errorf("a chunk is %v", v)
		}
	}
	last := list[len(list)-1]
	if content != "Hello you" || at(list[0], "choices", 0, "delta", "role") != "assistant" || at(last, "usage", "total_tokens") != 7.0 || at(last, "accel", "kind") != "hardware" {
		t.Errorf("the stream is %v", list)
	}
	if c := list[len(list)-3]; at(c, "choices", 0, "delta", "tool_calls", 0, "index") != 0.0 || at(c, "choices", 0, "delta", "tool_calls", 0, "id") != "c1" {
		t.Errorf("the call is %v", c)
	}
	if c := list[len(list)-2]; at(c, "choices", 0, "finish_reason") != "tool_calls" {
		t.Errorf("the end is %v", c)
	}
}

func TestCompletions(t *testing.T) {
	var got tasks.GenerateRequest
	h := newServer(t, says(&got, nil, tasks.GenerateEvent{Text: " b", Choice: 1}, tasks.GenerateEvent{Text: " a"}, tasks.GenerateEvent{Choice: 1, Finish: "stop"}, tasks.GenerateEvent{Finish: "length"}), nil)
	w := h.do("POST", "/v1/completions", `{"model":"mini","prompt":"x","n":2,"echo":true}`)
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatal(w.Body)
	}
	if at(v, "choices", 0, "text") != "x a" || at(v, "choices", 1, "text") != "x b" || at(v, "choices", 0, "finish_reason") != "length" || got.MaxTokens != 16 {
		t.Errorf("got %s for %+v", w.Body, got)
	}
	w = h.do("POST", "/v1/completions", `{"model":"mini","prompt":[1,2],"n":2,"stream":true}`)
	list, done := events(t, w.Body.String())
	if !done || len(list) != 4 || at(list[3], "choices", 0, "finish_reason") != "length" || at(list[3], "accel", "platform") != "cpu" || at(list[2], "accel") != nil || at(list[0], "choices", 0, "text") != " b" || at(list[0], "choices", 0, "index") != 1.0 || !slices.Equal(got.Tokens, []int64{1, 2}) {
		t.Errorf("got %v for %+v", list, got)
	}
}

// TestPromptsThatEncodersRead: what is counted is what the engine says was read, and a prompt that
// is too long is told the limit.
func TestPromptsThatEncodersRead(t *testing.T) {
	var got tasks.GenerateRequest
	long := &tasks.ContextError{Model: "mini", Field: "prompt", Prompt: 900, Limit: 512, Reads: true}
	for _, stream := range []string{"", `,"stream":true`} {
		w := newServer(t, says(&got, long), nil).do("POST", "/v1/completions", `{"model":"mini","prompt":"a"`+stream+`}`)
		e := errorOf(t, w)
		if w.Code != http.StatusBadRequest || e.Error.Code != "context_length_exceeded" || e.Error.Param == nil || *e.Error.Param != "prompt" || !strings.Contains(e.Error.Message, "900 tokens") || !strings.Contains(e.Error.Message, "reads 512") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	w := newServer(t, says(&got, nil, tasks.GenerateEvent{Text: "x", Finish: tasks.FinishStop}), nil).do("POST", "/v1/completions", `{"model":"mini","prompt":"a b c d e"}`)
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || at(v, "usage", "prompt_tokens") != 5.0 || at(v, "usage", "completion_tokens") != 2.0 || at(v, "usage", "prompt_tokens_details", "cached_tokens") != 3.0 {
		t.Errorf("%v: %s", err, w.Body)
	}
}

func TestGenerationErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		want string
	}{
		{&tasks.ContextError{Model: "mini", Prompt: 9, Limit: 8}, 400, "context_length_exceeded"},
		{&schedule.BusyError{Waiting: 3}, 429, "rate_limit_exceeded"},
		{&tasks.InvalidInputError{Field: "tools", Input: -1, Problem: "no"}, 400, "invalid_value"},
		{errors.New("secret"), 500, "INTERNAL"},
	} {
		for _, stream := range []string{"", `,"stream":true`} {
			var got tasks.GenerateRequest
			w := newServer(t, says(&got, tt.err), nil).do("POST", "/v1/chat/completions", chatBody+stream+"}")
			if e := errorOf(t, w); w.Code != tt.code || e.Error.Code != tt.want {
				t.Errorf("%v: %d %s", tt.err, w.Code, w.Body)
			}
		}
		// Once the stream has begun, it ends with the error and without [DONE].
		var got tasks.GenerateRequest
		w := newServer(t, says(&got, tt.err, tasks.GenerateEvent{Text: "Hel"}), nil).do("POST", "/v1/chat/completions", chatBody+`,"stream":true}`)
		list, done := events(t, w.Body.String())
		if last := list[len(list)-1]; done || at(last, "error", "code") != tt.want || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: %s", tt.err, w.Body)
		}
	}
}

func TestGenerationRequestsAreRefused(t *testing.T) {
	for _, tt := range []struct{ path, body, want string }{
		{"chat/completions", `{"messages":[{"role":"user","content":"x"}]}`, "model: it is missing"},
		{"chat/completions", `{"model":"mini"}`, "messages: there is none"},
		{"chat/completions", `{"model":"mini","messages":[{"content":"x"}]}`, "it has no role"},
		{"chat/completions", chatBody + `,"temprature":1}`, `did you mean \"temperature\"`},
		{"chat/completions", chatBody + `,"temperature":3}`, "from 0 to 2"},
		{"chat/completions", chatBody + `,"n":0}`, "from 1 to 128"},
		{"chat/completions", chatBody + `,"service_tier":"flex"}`, "there are auto, default"},
		{"chat/completions", chatBody + `,"modalities":["text","audio"]}`, "models answer with"},
		{"chat/completions", chatBody + `,"top_logprobs":3}`, "goes with"},
		{"chat/completions", chatBody + `,"stream_options":{"include_usage":true}}`, "goes with"},
		{"chat/completions", chatBody + `,"max_tokens":1,"max_completion_tokens":2}`, "mean the same"},
		{"chat/completions", chatBody + `,"tool_choice":"required"}`, "no tools to choose from"},
		{"chat/completions", chatBody + `,"tool_choice":"sometimes"}`, "was given"},
		{"chat/completions", chatBody + `,"response_format":{"type":"xml"}}`, "there are"},
		{"chat/completions", chatBody + `,"response_format":{"type":"json_schema"}}`, "schema is missing"},
		{"chat/completions", chatBody + `,"logit_bias":{"x":1}}`, "is no token id"},
		{"chat/completions", chatBody + `,"stop":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"]}`, "it takes 16"},
		{"chat/completions", chatBody + `,"tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}]}`, "another of the name"},
		{"completions", `{"model":"mini"}`, "prompt: it is missing"},
		{"completions", `{"model":"mini","prompt":["a","b"]}`, "requests of their own"},
		{"completions", `{"model":"mini","prompt":7}`, "found the number 7"},
		{"completions", `{"model":"mini","prompt":"a","messages":[]}`, "unknown field"},
	} {
		var got tasks.GenerateRequest
		w := newServer(t, says(&got, nil), nil).do("POST", "/v1/"+tt.path, tt.body)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %d %s, want %q", tt.body, w.Code, w.Body, tt.want)
		}
	}
}

func TestTokenize(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	w := h.do("POST", "/tokenize", `{"model":"mini","prompt":"Grüße, 東京"}`)
	var v struct {
		Tokens []int64
		Count  int
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || v.Count == 0 || len(v.Tokens) != v.Count {
		t.Fatal(w.Body)
	}
	ids, err := json.Marshal(v.Tokens)
	if err != nil {
		t.Fatal(err)
	}
	if w = h.do("POST", "/detokenize", `{"model":"mini","tokens":`+string(ids)+`}`); !strings.Contains(w.Body.String(), "Grüße, 東京") {
		t.Error(w.Body)
	}
	if w = h.do("POST", "/detokenize", `{"model":"mini","tokens":[99999999]}`); w.Code != http.StatusBadRequest {
		t.Error(w.Body)
	}
	w = h.do("GET", "/metrics", "")
	for _, want := range []string{`accel_steps_total{model="mini"} 7`, `accel_encodings_total{model="mini"} 3`, `accel_cross_kv_pages{model="mini"} 40`,
		`accel_cross_kv_pages_used{model="mini"} 5`, `accel_cross_kv_pages_shared{model="mini"} 2`, `accel_cross_kv_pages_cached{model="mini"} 6`, `accel_cross_kv_evictions_total{model="mini"} 1`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is not in\n%s", want, w.Body)
		}
	}
}

func FuzzGenerateRequest(f *testing.F) {
	f.Add([]byte(chatBody+`,"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":{"type":"function","function":{"name":"f"}}}`), true)
	f.Add([]byte(chatBody+`,"response_format":{"type":"json_schema","json_schema":{"schema":{}}},"logit_bias":{"1":-100}}`), true)
	f.Add([]byte(`{"model":"m","prompt":[1,2],"logprobs":3,"stream":true,"stream_options":{"include_usage":true}}`), false)
	f.Fuzz(func(t *testing.T, body []byte, chat bool) {
		r, err := parseGenerate(body, chat)
		var p *problem
		switch {
		case err == nil && r.model == "", err == nil && chat != (len(r.Messages) > 0):
			t.Errorf("%q is taken as %+v", body, r)
		case err != nil && (!errors.As(err, &p) || p.Status != http.StatusBadRequest):
			t.Errorf("%q: %v", body, err)
		}
	})
}
