package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

func batchFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lines.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openBatch(t *testing.T, lines ...string) *BatchInput {
	t.Helper()
	in, err := OpenBatch(batchFile(t, lines...))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// echoes is an engine that says what it was asked, or fails as the prompt wants.
func echoes(seen func(tasks.GenerateRequest)) *fake {
	return &fake{generate: func(ctx context.Context, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error) {
		if seen != nil {
			seen(req)
		}
		text := req.Prompt
		if len(req.Messages) > 0 {
			text = req.Messages[0].Content.Text
		}
		res := tasks.GenerateResult{PromptTokens: 5, CachedTokens: 3, CompletionTokens: 2, Decision: decision()}
		switch text {
		case "poison":
			return res, &engine.PoisonedError{Model: "mini"}
		case "long":
			return res, &tasks.ContextError{Model: "mini", Prompt: 9, Limit: 4}
		case "NaN":
			return res, &schedule.LogitsError{Device: "cpu:0"}
		case "nowhere":
			return res, &engine.NoPlatformError{Decision: decision()}
		case "odd":
			return res, errors.New("odd")
		}
		for c := range max(1, req.N) {
			if err := emit(tasks.GenerateEvent{Choice: c, Text: "<" + text + ">", Finish: tasks.FinishStop}); err != nil {
				return res, err
			}
		}
		return res, nil
	}}
}

func runBatch(t *testing.T, b Batch, e Generator, in *BatchInput) (lines []map[string]any, r BatchResult, err error) {
	t.Helper()
	b.Model = "mini"
	var out bytes.Buffer
	r, err = b.Run(t.Context(), e, in, &out)
	dec := json.NewDecoder(&out)
	for dec.More() {
		var v map[string]any
		if derr := dec.Decode(&v); derr != nil {
			t.Fatalf("%v in %s", derr, &out)
		}
		lines = append(lines, v)
	}
	return lines, r, err
}

// TestBatchForms answers each form of a line in its own form.
func TestBatchForms(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]tasks.GenerateRequest{}
	e := echoes(func(r tasks.GenerateRequest) {
		mu.Lock()
		defer mu.Unlock()
		key := r.Prompt
		if len(r.Messages) > 0 {
			key = r.Messages[0].Content.Text
		}
		asked[key] = r
	})
	in := openBatch(t,
		`{"prompt": "a"}`, ``,
		`{"id": "x\u0031", "messages": [{"role": "user", "content": "b"}], "max_completion_tokens": 7, "temperature": 0.5, "stop": "z"}`,
		`{"id": 77, "prompt": "c", "n": 2, "max_tokens": null}`,
		`{"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "mini", "messages": [{"role": "user", "content": "d"}], "seed": 3}}`,
		`{"custom_id": "r2", "body": {"prompt": "long"}}`,
		`{"prompt": "e", "logprobs": 1}`)
	lines, r, err := runBatch(t, Batch{Concurrency: 3, InOrder: true, Request: map[string]json.RawMessage{"max_tokens": json.RawMessage("9"), "temperature": json.RawMessage("0")}}, e, in)
	if err != nil || len(lines) != 6 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, tt := range []struct {
		want any
		path []any
	}{
		{1.0, []any{"id"}}, {"<a>", []any{"text"}}, {"stop", []any{"finish_reason"}}, {7.0, []any{"usage", "total_tokens"}}, {3.0, []any{"usage", "prompt_tokens_details", "cached_tokens"}},
		{"cpu", []any{"platform"}}, {"cpu:0", []any{"device"}}, {"hardware", []any{"kind"}}, {0.0, []any{"replays"}}, {nil, []any{"error"}},
	} {
		if got := at(lines[0], tt.path...); got != tt.want {
			t.Errorf("%v is %v, want %v", tt.path, got, tt.want)
		}
	}
	for i, tt := range []struct {
		want any
		path []any
	}{
		{"<a>", []any{"text"}}, {"<b>", []any{"message", "content"}}, {"<c>", []any{"choices", 1, "text"}}, {"<d>", []any{"response", "body", "choices", 0, "message", "content"}},
		{"context_length_exceeded", []any{"response", "body", "error", "code"}}, {"<e>", []any{"text"}},
	} {
		if got := at(lines[i], tt.path...); got != tt.want {
			t.Errorf("line %d: %v is %v, want %v", i, tt.path, got, tt.want)
		}
	}
	if lines[1]["id"] != "x1" || lines[2]["id"] != 77.0 || lines[3]["custom_id"] != "r1" || at(lines[3], "response", "status_code") != 200.0 || lines[3]["error"] != nil ||
		at(lines[4], "response", "status_code") != 400.0 || lines[5]["id"] != 7.0 || lines[5]["logprobs"] == nil {
		t.Errorf("got %v", lines)
	}
	for key, want := range map[string][2]float64{"a": {9, 0}, "b": {7, 0.5}, "c": {16, 0}, "d": {9, 0}} { // max_tokens null is OpenAI's default
		if r := asked[key]; float64(r.MaxTokens) != want[0] || r.Sampling.Temperature != want[1] {
			t.Errorf("%s was asked with %d tokens at %g, want %v", key, r.MaxTokens, r.Sampling.Temperature, want)
		}
	}
	if asked["d"].Sampling.Seed != 3 || !slices.Equal(asked["b"].Stop, []string{"z"}) {
		t.Errorf("asked for %+v", asked)
	}
	if r.Lines != 6 || r.Answered != 6 || r.Failed != 1 || r.PromptTokens != 25 || r.CompletionTokens != 10 || len(r.Decisions) != 1 {
		t.Errorf("got %+v", r)
	}
}

// TestBatchErrors: what is wrong with a line is its answer.
func TestBatchErrors(t *testing.T) {
	cases := []struct{ line, says string }{
		{`nonsense`, "the line is not a JSON object"},
		{`[1]`, "the line is not a JSON object"},
		{`{"prompt": "a"} {"prompt": "b"}`, "the line is not a JSON object"},
		{`{}`, "want either prompt or messages"},
		{`{"prompt": "a", "messages": []}`, "want either prompt or messages"},
		{`{"prompt": "a", "temprature": 1}`, `unknown field "temprature"; did you mean "temperature"?`},
		{`{"prompt": "a", "temperature": 3}`, "it must be from 0 to 2"},
		{`{"prompt": "a", "prompt": "b"}`, "it is given twice"},
		{`{"prompt": "a", "stream": true}`, `unknown field "stream"`},
		{`{"prompt": "a", "model": "gpt-4o"}`, `the batch runs "mini"; leave the field out`},
		{`{"prompt": "\ud800"}`, "half of a surrogate pair"},
		{"{\"prompt\": \"\xff\"}", "not valid UTF-8"},
		{`{"id": {}, "prompt": "a"}`, "id: want a string or a whole number, found an object"},
		{`{"id": 1.5, "prompt": "a"}`, "id: want a string or a whole number"},
		{`{"prompt": "long"}`, "the prompt has 9 tokens; model"},
		{`{"prompt": "poison"}`, "BACKEND_CRASHED"},
		{`{"prompt": "NaN"}`, "no token can be chosen from that"},
		{`{"custom_id": "a", "body": 3}`, "the body is not a JSON object"},
		{`{"custom_id": "b"}`, "body: it is missing"},
		{`{"custom_id": "c", "url": "/v1/embeddings", "body": {"prompt": "x"}}`, `url: "/v1/embeddings" was given`},
		{`{"custom_id": "d", "url": "/v1/chat/completions", "body": {"prompt": "x"}}`, "does not go with what the body holds"},
		{`{"custom_id": "e", "method": "GET", "body": {"prompt": "x"}}`, `method: want "POST"`},
		{`{"prompt": "good"}`, ""},
	}
	var input []string
	for _, c := range cases {
		input = append(input, c.line)
	}
	in := openBatch(t, input...)
	lines, r, err := runBatch(t, Batch{Concurrency: 4, InOrder: true}, echoes(nil), in)
	if err != nil || len(lines) != len(cases) || r.Failed != len(cases)-1 {
		t.Fatalf("%d lines, %v, %+v", len(lines), err, r)
	}
	for i, c := range cases {
		got := at(lines[i], "error", "message")
		if got == nil {
			got = at(lines[i], "response", "body", "error", "message")
		}
		if text, _ := got.(string); !strings.Contains(text, c.says) || (text == "") != (c.says == "") {
			t.Errorf("%s: got %q, want %q", c.line, text, c.says)
		}
	}
	// What concerns every line ends the batch.
	for prompt, as := range map[string]func(error) bool{
		"nowhere": func(err error) bool { var e *engine.NoPlatformError; return errors.As(err, &e) },
		"odd":     func(err error) bool { return err != nil && err.Error() == "odd" },
	} {
		lines, _, err := runBatch(t, Batch{Concurrency: 1, InOrder: true}, echoes(nil), openBatch(t, `{"prompt": "a"}`, `{"prompt": "`+prompt+`"}`, `{"prompt": "b"}`))
		if !as(err) || len(lines) != 1 {
			t.Errorf("%s: %v after %v", prompt, err, lines)
		}
	}
	var wrong *tasks.InvalidInputError
	if err := (&Batch{Request: map[string]json.RawMessage{"max_token": nil}}).Check(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), `did you mean "max_tokens"?`) {
		t.Errorf("got %v", err)
	}
}

// TestBatchOrder: many at a time, never more than is allowed, and either order.
func TestBatchOrder(t *testing.T) {
	const n, most = 300, 7
	var input []string
	for i := range n {
		input = append(input, fmt.Sprintf(`{"id": "%d", "prompt": "p%d"}`, i, i))
	}
	var running, peak atomic.Int64
	e := echoes(func(r tasks.GenerateRequest) {
		now := running.Add(1)
		defer running.Add(-1)
		for p := peak.Load(); now > p && !peak.CompareAndSwap(p, now); p = peak.Load() {
		}
		if strings.HasSuffix(r.Prompt, "0") {
			time.Sleep(5 * time.Millisecond)
		}
	})
	for _, inOrder := range []bool{true, false} {
		last := 0
		lines, r, err := runBatch(t, Batch{Concurrency: most, InOrder: inOrder, Progress: func(now BatchResult) {
			if now.Answered != last+1 {
				t.Errorf("%d after %d", now.Answered, last)
			}
			last = now.Answered
		}}, e, openBatch(t, input...))
		if err != nil || len(lines) != n || r.Answered != n || last != n {
			t.Fatalf("%d lines, %+v, %v", len(lines), r, err)
		}
		sorted := true
		seen := map[string]bool{}
		for i, l := range lines {
			id := l["id"].(string)
			sorted = sorted && id == fmt.Sprint(i)
			if seen[id] || l["text"] != "<p"+id+">" {
				t.Errorf("line %d is %v", i, l)
			}
			seen[id] = true
		}
		if sorted != inOrder {
			t.Errorf("in order: %v, want %v", sorted, inOrder)
		}
	}
	if p := peak.Load(); p > most || p < 3 {
		t.Errorf("%d ran at a time; %d may", p, most)
	}
	ctx, cancel := context.WithCancel(t.Context())
	e = echoes(func(tasks.GenerateRequest) { cancel() })
	b := Batch{Model: "mini", Concurrency: most, InOrder: true}
	if _, err := b.Run(ctx, e, openBatch(t, input...), &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestBatchResumes goes on with what is there, and with nothing of another batch.
func TestBatchResumes(t *testing.T) {
	input := []string{`{"id": "a", "prompt": "1"}`, `{"prompt": "2"}`, `{"custom_id": "c", "body": {"prompt": "3"}}`, `{"id": "d", "prompt": "4"}`}
	for _, tt := range []struct {
		name, there  string
		left, failed int
		torn         int // bytes
		err          string
	}{
		{name: "nothing", left: 4},
		{name: "some", there: `{"id":"a","text":"x"}` + "\n" + `{"id":2,"error":{"message":"m"}}` + "\n", left: 2, failed: 1},
		{name: "OpenAI's", there: `{"id":"batch_req_1","custom_id":"c","response":{"status_code":400},"error":null}` + "\n", left: 3, failed: 1},
		{name: "a torn line", there: `{"id":"a","text":"x"}` + "\n" + `{"id":"d","te`, left: 3, torn: 13},
		{name: "only a torn line", there: `{"id":"d","te`, left: 4, torn: 13},
		{name: "of another batch", there: `{"id":"z","text":"x"}` + "\n", err: `:1: its id "z" is of no line of `},
		{name: "twice", there: `{"id":"a"}` + "\n" + `{"id":"\u0061"}` + "\n", err: `:2: the id "\u0061" was answered before`},
		{name: "something else", there: "hello\n", err: ":1: it is no answer of a batch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := openBatch(t, input...)
			path := batchFile(t, tt.there)
			failed, keep, err := in.Resume(path)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || in.Left() != tt.left || failed != tt.failed || keep != int64(len(tt.there)-tt.torn) {
				t.Fatalf("left %d, failed %d, keep %d, %v", in.Left(), failed, keep, err)
			}
			lines, r, err := runBatch(t, Batch{Concurrency: 2, InOrder: true}, echoes(nil), in)
			if err != nil || len(lines) != tt.left || r.Before != 4-tt.left {
				t.Errorf("%v, %+v, %v", lines, r, err)
			}
		})
	}
	var wrong *BatchFileError
	for name, x := range map[string]struct {
		lines []string
		says  string
	}{
		"twice":         {[]string{`{"id": "a"}`, ``, `{"id": "a"}`}, `:3: line 1 has the id "a", too`},
		"a line's name": {[]string{`{"id": 2}`, `{}`}, ":2: line 1 has the id 2, too"},
		"empty":         {[]string{"", " "}, "it holds no line"},
		"endless":       {[]string{strings.Repeat("x", maxLine+1)}, ":1: it is longer than"},
	} {
		if _, err := OpenBatch(batchFile(t, x.lines...)); !errors.As(err, &wrong) || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzBatchLine(f *testing.F) {
	f.Add([]byte(`{"id": "a", "prompt": "x", "max_tokens": 3}`))
	f.Add([]byte(`{"custom_id": 3, "url": "/v1/completions", "body": {"prompt": [1, 2]}}`))
	f.Add([]byte(`{"messages": [{"role": "user", "content": "b"}], "response_format": {"type": "json_object"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &batchRun{Batch: &Batch{Model: "mini"}}
		l, err := r.parse(5, data)
		if !json.Valid(l.id) || (err == nil) != (l.request != nil) {
			t.Fatalf("id %q, request %v, %v", l.id, l.request, err)
		}
		if err == nil {
			l.reply = newReply(l.request)
		}
		text, werr := l.write(&tasks.GenerateResult{Decision: decision()}, ownProblem(err))
		if werr != nil || bytes.Count(text, []byte("\n")) != 1 || !json.Valid(text) {
			t.Fatalf("%q, %v", text, werr)
		}
	})
}
