package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/backend"
)

// fake is an engine whose vectors hold, for each input, its index and length.
type fake struct {
	embed      func(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error)
	transcribe func(ctx context.Context, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error)
	generate   func(ctx context.Context, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error)
	classify   func(req tasks.ClassifyRequest) (tasks.ClassifyResult, error)
	detect     func(req tasks.DetectRequest) (tasks.DetectResult, error)
	conditions []engine.Condition
}

func (f *fake) Classify(_ context.Context, model string, req tasks.ClassifyRequest) (tasks.ClassifyResult, error) {
	if f.classify == nil {
		return tasks.ClassifyResult{}, &engine.TaskError{Model: model, Class: "bert", Asked: "classify", Serves: "embed"}
	}
	return f.classify(req)
}

func (f *fake) Detect(_ context.Context, model string, req tasks.DetectRequest) (tasks.DetectResult, error) {
	if f.detect == nil {
		return tasks.DetectResult{}, &engine.TaskError{Model: model, Class: "bert", Asked: "detect", Serves: "embed"}
	}
	return f.detect(req)
}

func (f *fake) Generate(ctx context.Context, model string, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error) {
	if model != "mini" {
		return tasks.GenerateResult{}, &engine.ModelNotFoundError{Model: model, Known: []string{"mini"}}
	}
	return f.generate(ctx, req, emit)
}

func (f *fake) Transcribe(ctx context.Context, model string, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error) {
	if model != "mini" {
		return tasks.TranscribeResult{}, &engine.ModelNotFoundError{Model: model, Known: []string{"mini"}}
	}
	return f.transcribe(ctx, req, emit)
}

func (f *fake) Tokenizer(context.Context, string) (*processors.Tokenizer, error) {
	return processors.OpenTokenizer(filepath.Join("..", "..", "testdata", "tiny", "tokenizers", "bpe_qwen"))
}

func (f *fake) SchedulerStats() map[string]schedule.Stats {
	return map[string]schedule.Stats{"mini": {Steps: 7, Encodings: 3, Cross: kvcache.Stats{Pages: 40, Used: 5, Shared: 2, Cached: 6, Counts: kvcache.Counts{Evictions: 1}}}}
}

func (f *fake) Memory() []engine.DeviceMemory {
	return []engine.DeviceMemory{{Device: "cpu:0", Bytes: 1000, Offloads: 2}}
}

func (f *fake) Embed(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	if f.embed != nil {
		return f.embed(ctx, model, req)
	}
	if model != "mini" && model != "org/other" {
		return tasks.EmbedResult{}, &engine.ModelNotFoundError{Model: model, Known: []string{"mini", "org/other"}, Nearest: "mini"}
	}
	res := tasks.EmbedResult{Decision: decision()}
	for i, s := range req.Texts {
		res.Vectors = append(res.Vectors, []float32{float32(i), float32(len(s)), 0.1, -1e-7, 3e38})
		res.Tokens += 2
	}
	for i, ids := range req.Tokens {
		res.Vectors = append(res.Vectors, []float32{float32(i), float32(len(ids))})
		res.Tokens += len(ids)
	}
	for i, file := range req.Files {
		res.Vectors = append(res.Vectors, []float32{float32(i), float32(len(file.Data) + len(file.URL))})
	}
	if req.Truncate {
		res.Truncated = make([]int, len(res.Vectors))
		res.Truncated[0] = 7
	}
	if req.Dimensions > 0 {
		for i, v := range res.Vectors {
			res.Vectors[i] = v[:req.Dimensions]
		}
	}
	return res, nil
}

func (f *fake) Models() []engine.ModelInfo {
	return []engine.ModelInfo{
		{Name: "mini", Class: "bert", Task: "embed", State: engine.ModelReady, Ready: time.Unix(1000, 0), MaxTokens: 256, Dimensions: 384,
			Chosen: route.Choice{Platform: "cpu", Device: "cpu", Kind: backend.Hardware}},
		{Name: "org/other", State: engine.ModelFailed, Reason: "no such folder"},
	}
}

func (f *fake) Ready() (bool, []engine.Condition) {
	for _, c := range f.conditions {
		if !c.OK {
			return false, f.conditions
		}
	}
	return true, f.conditions
}

func (f *fake) Backends() []engine.BackendStatus {
	return []engine.BackendStatus{{Name: "cpu", Healthy: true, Restarts: 3}, {Name: "reference"}}
}

func decision() route.Decision {
	return route.Decision{Model: "mini", Class: "bert", Policy: route.Warn, Wanted: []string{"cuda", "cpu"}, First: "cpu",
		Chosen: route.Choice{Platform: "cpu", Device: "cpu:0", Kind: backend.Hardware}}
}

// harness is a server with its log.
type harness struct {
	*Server
	log *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newServer(t testing.TB, e Engine, change func(*config.Server)) *harness {
	t.Helper()
	c := config.Default().Server
	c.Listen = "127.0.0.1:0"
	c.Timeouts.DrainDelay = 0
	if change != nil {
		change(&c)
	}
	log := &lockedBuffer{}
	s, err := New(Options{Config: c, Engine: e, Version: "test",
		Log: hclog.New(&hclog.LoggerOptions{Output: log, JSONFormat: true, Level: hclog.Debug})})
	if err != nil {
		t.Fatal(err)
	}
	return &harness{s, log}
}

// do sends one request straight to the handler. header holds name, value, ...
func (h *harness) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "localhost:8399"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	return w
}

type apiError struct {
	Error struct {
		Message, Type, Code string
		Param               *string
	}
}

func errorOf(t *testing.T, w *httptest.ResponseRecorder) apiError {
	t.Helper()
	var e apiError
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error.Message == "" || e.Error.Type == "" {
		t.Fatalf("status %d, not an error of OpenAI's form: %s", w.Code, w.Body)
	}
	return e
}

func TestEmbeddings(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	for _, x := range []struct{ name, body, want string }{
		{"one text", `{"model":"mini","input":"abc"}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0,3,0.1,-1e-07,3e+38]}],"model":"mini","usage":{"prompt_tokens":2,"total_tokens":2}}`},
		{"two texts, shortened", `{"input":["a","ü😀"],"model":"mini","dimensions":2,"user":"u","encoding_format":"float"}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0,1]},{"object":"embedding","index":1,"embedding":[1,6]}],"model":"mini","usage":{"prompt_tokens":4,"total_tokens":4}}`},
		{"one list of ids", `{"model":"mini","input":[5, 6, 7]}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0,3]}],"model":"mini","usage":{"prompt_tokens":3,"total_tokens":3}}`},
		{"lists of ids, base64", `{"model":"mini","input":[[1],[1,2]],"encoding_format":"base64"}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AAAAAAAAgD8="},{"object":"embedding","index":1,"embedding":"AACAPwAAAEA="}],"model":"mini","usage":{"prompt_tokens":3,"total_tokens":3}}`},
		{"cut", `{"model":"org/other","input":["a","b"],"truncate":true,"dimensions":1}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0]},{"object":"embedding","index":1,"embedding":[1]}],"model":"org/other","usage":{"prompt_tokens":4,"total_tokens":4},"truncated":[7,0]}`},
		{"nulls are absent", `{"model":"mini","input":"a","dimensions":null,"user":null,"encoding_format":null,"truncate":null}`,
			`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0,1,0.1,-1e-07,3e+38]}],"model":"mini","usage":{"prompt_tokens":2,"total_tokens":2}}`},
	} {
		w := h.do("POST", "/v1/embeddings", x.body)
		if w.Code != 200 || strings.TrimSpace(w.Body.String()) != x.want {
			t.Errorf("%s: status %d\ngot  %s\nwant %s", x.name, w.Code, w.Body, x.want)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: not JSON", x.name)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Accel-Platform": "cpu", "X-Accel-Device": "cpu:0",
			"X-Accel-Device-Kind": "hardware", "X-Accel-Fallback": "", "X-Accel-Replays": "", "Server": "accel/test",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", x.name, name, got, want)
			}
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	h := newServer(t, &fake{}, func(c *config.Server) { c.MaxInputs = 3; c.MaxBodyBytes = 600 })
	const embed = "/v1/embeddings"
	for _, x := range []struct {
		name, method, path, body string
		status                   int
		code, param, message     string
	}{
		{"no such page", "GET", "/v1/complete", "", 404, "unknown_url", "", "there is no GET /v1/complete"},
		{"wrong method", "GET", embed, "", 405, "method_not_allowed", "", "/v1/embeddings does not take GET"},
		{"unknown model", "POST", embed, `{"model":"mimi","input":"a"}`, 404, "model_not_found", "model", `did you mean "mini"?`},
		{"unknown model's page", "GET", "/v1/models/min", "", 404, "model_not_found", "model", `there is no model "min"; did you mean "mini"?`},
		{"empty body", "POST", embed, " ", 400, "invalid_value", "", "ends after byte"},
		{"no object", "POST", embed, `[1]`, 400, "invalid_value", "", "not a JSON object"},
		{"cut short", "POST", embed, `{"model":"mini","input":"a`, 400, "invalid_value", "", "in the middle of a value"},
		{"not JSON", "POST", embed, `{"model":"mini" "input":1}`, 400, "invalid_value", "", "not JSON: at byte"},
		{"more than one", "POST", embed, `{"model":"mini","input":"a"} {}`, 400, "invalid_value", "", "something follows"},
		{"not UTF-8", "POST", embed, "{\"model\":\"mini\",\"input\":\"\xff\"}", 400, "invalid_value", "", "not valid UTF-8"},
		{"half a character", "POST", embed, `{"model":"mini","input":"\ud83d"}`, 400, "invalid_value", "", "surrogate"},
		{"no model", "POST", embed, `{"input":"a"}`, 400, "invalid_value", "model", "model: it is missing"},
		{"null model", "POST", embed, `{"input":"a","model":null}`, 400, "invalid_value", "model", "want a string, found null"},
		{"no input", "POST", embed, `{"model":"mini"}`, 400, "invalid_value", "input", "input: it is missing"},
		{"unknown field", "POST", embed, `{"model":"mini","input":"a","dimension":3}`, 400, "unknown_parameter", "dimension", `did you mean "dimensions"?`},
		{"fields differ by case", "POST", embed, `{"Model":"mini","input":"a"}`, 400, "unknown_parameter", "Model", `did you mean "model"?`},
		{"field twice", "POST", embed, `{"model":"mini","model":"mini","input":"a"}`, 400, "invalid_value", "model", "given twice"},
		{"number for model", "POST", embed, `{"model":7,"input":"a"}`, 400, "invalid_value", "model", "want a string, found the number 7"},
		{"object for input", "POST", embed, `{"model":"mini","input":{}}`, 400, "invalid_value", "input", "or an object with image_url"},
		{"empty text", "POST", embed, `{"model":"mini","input":["a",""]}`, 400, "invalid_value", "input", "input[1]: it is an empty string"},
		{"empty list", "POST", embed, `{"model":"mini","input":[]}`, 400, "invalid_value", "input", "the list is empty"},
		{"empty ids", "POST", embed, `{"model":"mini","input":[[1],[]]}`, 400, "invalid_value", "input", "input[1]: the list of token ids is empty"},
		{"negative id", "POST", embed, `{"model":"mini","input":[[1,-2]]}`, 400, "invalid_value", "input", "input[0]: entry 1 is -2"},
		{"fraction for id", "POST", embed, `{"model":"mini","input":[1.5]}`, 400, "invalid_value", "input", "whole numbers"},
		{"null for id", "POST", embed, `{"model":"mini","input":[1,null]}`, 400, "invalid_value", "input", "whole numbers"},
		{"id out of int64", "POST", embed, `{"model":"mini","input":[99999999999999999999]}`, 400, "invalid_value", "input", "whole numbers"},
		{"mixed", "POST", embed, `{"model":"mini","input":["a",[1]]}`, 400, "invalid_value", "input", "input[1]: a list among entries of the other kind"},
		{"ids and a text", "POST", embed, `{"model":"mini","input":[[1],"a"]}`, 400, "invalid_value", "input", "input[1]: a string among entries of the other kind"},
		{"null among texts", "POST", embed, `{"model":"mini","input":["a",null]}`, 400, "invalid_value", "input", "input[1]: want a string or a list of token ids, found null"},
		{"too many inputs", "POST", embed, `{"model":"mini","input":["a","b","c","d"]}`, 400, "invalid_value", "input", "more than 3 entries"},
		{"unknown format", "POST", embed, `{"model":"mini","input":"a","encoding_format":"hex"}`, 400, "invalid_value", "encoding_format", `"hex" was given`},
		{"no dimensions", "POST", embed, `{"model":"mini","input":"a","dimensions":0}`, 400, "invalid_value", "dimensions", "must be 1 or more"},
		{"fraction of a dimension", "POST", embed, `{"model":"mini","input":"a","dimensions":1.5}`, 400, "invalid_value", "dimensions", "found the number 1.5"},
		{"text for truncate", "POST", embed, `{"model":"mini","input":"a","truncate":"yes"}`, 400, "invalid_value", "truncate", "want true or false, found a string"},
		{"too long", "POST", embed, `{"model":"mini","input":"` + strings.Repeat("a", 600) + `"}`, 413, "request_too_large", "", "longer than 600 bytes"},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := h.do(x.method, x.path, x.body)
			e := errorOf(t, w).Error
			param := ""
			if e.Param != nil {
				param = *e.Param
			}
			if w.Code != x.status || e.Code != x.code || param != x.param || !strings.Contains(e.Message, x.message) {
				t.Errorf("got %d %s %q: %s", w.Code, e.Code, param, e.Message)
			}
		})
	}
	if w := h.do("POST", embed, `{"model":"mini","input":"a"}`, "Content-Encoding", "gzip"); w.Code != 415 {
		t.Errorf("an encoded body: status %d", w.Code)
	}
	if w := h.do("POST", embed, `{"model":"mini","input":"a"}`, "Content-Type", "application/x-www-form-urlencoded"); w.Code != 200 {
		t.Errorf("as curl -d sends it: status %d", w.Code)
	}
	// Without a length the limit is met while reading.
	r := httptest.NewRequest("POST", "http://localhost/v1/embeddings", io.MultiReader(strings.NewReader(strings.Repeat(" ", 601))))
	r.ContentLength = -1
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	if h.Handler().ServeHTTP(w, r); w.Code != 413 {
		t.Errorf("chunked: status %d", w.Code)
	}
}

func TestErrorsOfTheEngine(t *testing.T) {
	var err error
	h := newServer(t, &fake{embed: func(context.Context, string, tasks.EmbedRequest) (tasks.EmbedResult, error) {
		return tasks.EmbedResult{}, err
	}}, nil)
	for _, x := range []struct {
		err           error
		status        int
		code, message string
		retry, final  bool
	}{
		{&tasks.InputTooLongError{Model: "mini", Input: 1, Tokens: 900, Limit: 256}, 400, "context_length_exceeded", "input 1 has 900 tokens, model \"mini\" takes 256", false, false},
		{&tasks.InvalidInputError{Field: "dimensions", Input: -1, Problem: "500 was asked for"}, 400, "invalid_value", "dimensions: 500 was asked for", false, false},
		{&engine.ModelNotFoundError{Model: "x"}, 404, "model_not_found", "none is configured", false, false},
		{&engine.ModelUnusableError{Model: "mini", Path: "/m", Err: errors.New("no config.json")}, 503, "MODEL_UNUSABLE", "no config.json", false, true},
		{fmt.Errorf("wrapped: %w", &engine.NoPlatformError{Decision: route.Decision{Model: "mini", Wanted: []string{"cpu"},
			Refused: []route.Refusal{{Platform: "cpu", Reason: "restarting"}}}}), 503, "NO_PLATFORM", "cpu: restarting", true, false},
		{&engine.PoisonedError{Model: "mini", Deaths: []route.Refusal{{Platform: "cpu", Reason: "SIGSEGV"}}, Stderr: "fault at 0"}, 500, "BACKEND_CRASHED", "fault at 0", false, true},
		{backend.OutOfMemory("activations", 9, 1), 503, "OUT_OF_MEMORY", "needs 9 bytes", true, false},
		{backend.DeviceLost("unplugged"), 503, "DEVICE_LOST", "unplugged", true, false},
		{backend.BadState("restarting"), 503, "BAD_STATE", "restarting", true, false},
		{backend.Internal("assertion"), 500, "INTERNAL", "under request id", false, false},
		{errors.New("secret path /x"), 500, "INTERNAL", "under request id", false, false},
	} {
		err = x.err
		w := h.do("POST", "/v1/embeddings", `{"model":"mini","input":"a"}`)
		e := errorOf(t, w).Error
		if w.Code != x.status || e.Code != x.code || !strings.Contains(e.Message, x.message) {
			t.Errorf("%v: got %d %s: %s", x.err, w.Code, e.Code, e.Message)
		}
		if got := w.Header().Get("Retry-After") != ""; got != x.retry {
			t.Errorf("%v: Retry-After is there: %v", x.err, got)
		}
		if got := w.Header().Get("X-Should-Retry") == "false"; got != x.final {
			t.Errorf("%v: told not to retry: %v", x.err, got)
		}
		if strings.Contains(e.Message, "/x") {
			t.Errorf("an internal error was shown: %s", e.Message)
		}
	}
	if !strings.Contains(h.log.String(), "secret path /x") {
		t.Error("the log does not name the internal error")
	}
	h = newServer(t, &fake{embed: func(context.Context, string, tasks.EmbedRequest) (tasks.EmbedResult, error) {
		return tasks.EmbedResult{Vectors: [][]float32{{1, float32(zero / zero)}}, Decision: decision()}, nil
	}}, nil)
	if w := h.do("POST", "/v1/embeddings", `{"model":"mini","input":"a"}`); w.Code != 500 || !strings.Contains(h.log.String(), "component 1 of the embedding of input 0 is NaN") {
		t.Errorf("a NaN: status %d", w.Code)
	}
	if w := h.do("POST", "/v1/embeddings", `{"model":"mini","input":["a","b"]}`); w.Code != 500 {
		t.Errorf("too few vectors: status %d", w.Code)
	}
}

var zero float64

func TestFallbackAndReplaysAreSaid(t *testing.T) {
	d := decision()
	d.First = "cuda"
	d.Refused = []route.Refusal{{Platform: "cuda", Device: "cuda:0", Reason: "no driver\r\nX-Evil: ü"}}
	d.Replays = []route.Refusal{{Platform: "cuda", Device: "cuda:0", Reason: "signal: killed"}}
	h := newServer(t, &fake{embed: func(_ context.Context, _ string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
		return tasks.EmbedResult{Vectors: [][]float32{{1}}, Tokens: 5, Decision: d}, nil
	}}, nil)
	w := h.do("POST", "/v1/embeddings", `{"model":"mini","input":"a"}`)
	if got := w.Header().Get("X-Accel-Fallback"); !strings.Contains(got, `cuda:0: no driver X-Evil: \u00fc`) || strings.ContainsAny(got, "\r\n") {
		t.Errorf("X-Accel-Fallback: %q", got)
	}
	if got := w.Header().Get("X-Accel-Replays"); !strings.HasPrefix(got, "1; ") || !strings.Contains(got, "signal: killed") {
		t.Errorf("X-Accel-Replays: %q", got)
	}
	m := h.do("GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`accel_fallbacks_total{from="cuda",model="mini",reason="died",to="cpu"} 1`,
		`accel_replays_total{model="mini",platform="cuda"} 1`,
		`accel_tokens_total{kind="hardware",model="mini",platform="cpu"} 5`,
	} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if !strings.Contains(h.log.String(), `"fallback":true`) {
		t.Error("the log does not say that it was a fallback")
	}
}

func TestHeaderSafe(t *testing.T) {
	if got := headerSafe(" a\r\n\tb\x00ü😀\x7f "); got != `a b\x00\u00fc\U0001f600\x7f` {
		t.Errorf("got %q", got)
	}
	if got := headerSafe(strings.Repeat("x", 5000)); len(got) > 1100 || !strings.Contains(got, "more bytes)") {
		t.Errorf("%d bytes: ...%q", len(got), got[len(got)-30:])
	}
}

func TestKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("# team\n\n  from-file  \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newServer(t, &fake{conditions: []engine.Condition{{Name: "model org/other", Reason: "secret reason"}}}, func(c *config.Server) {
		c.APIKeys, c.APIKeyFile = []config.Secret{"inline key"}, file
	})
	const body = `{"model":"mini","input":"a private text"}`
	for _, x := range []struct {
		auth   string
		status int
	}{
		{"Bearer inline key", 200}, {"bearer from-file", 200}, {"Bearer  from-file ", 200},
		{"", 401}, {"Bearer", 401}, {"Bearer wrong-key-5", 401}, {"Basic from-file", 401}, {"Bearer # team", 401}, {"Bearer from-file2", 401},
	} {
		for _, try := range []func() *httptest.ResponseRecorder{
			func() *httptest.ResponseRecorder {
				return h.do("POST", "/v1/embeddings", body, "Authorization", x.auth)
			},
			func() *httptest.ResponseRecorder { return h.do("GET", "/v1/models", "", "Authorization", x.auth) },
			func() *httptest.ResponseRecorder { return h.do("GET", "/metrics", "", "Authorization", x.auth) },
		} {
			w := try()
			if w.Code != x.status {
				t.Errorf("%q: status %d, want %d", x.auth, w.Code, x.status)
			}
			if w.Code == 401 && (errorOf(t, w).Error.Code != "invalid_api_key" || w.Header().Get("WWW-Authenticate") == "") {
				t.Errorf("%q: %s", x.auth, w.Body)
			}
		}
	}
	if w := h.do("GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("/healthz wants a key: %d", w.Code)
	}
	if w := h.do("GET", "/readyz", ""); w.Code != 503 || strings.Contains(w.Body.String(), "secret reason") {
		t.Errorf("/readyz without a key: %d %s", w.Code, w.Body)
	}
	if w := h.do("GET", "/readyz", "", "Authorization", "Bearer from-file"); w.Code != 503 || !strings.Contains(w.Body.String(), "secret reason") {
		t.Errorf("/readyz with a key: %d %s", w.Code, w.Body)
	}
	for _, private := range []string{"inline key", "from-file", "wrong-key-5", "a private text"} {
		if strings.Contains(h.log.String(), private) {
			t.Errorf("the log holds %q", private)
		}
	}
	for _, bad := range []config.Server{{APIKeys: []config.Secret{" "}}, {APIKeyFile: filepath.Join(t.TempDir(), "none")}, {APIKeyFile: os.DevNull}} {
		if _, err := New(Options{Config: bad, Engine: &fake{}, Log: hclog.NewNullLogger()}); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestPagesAndHosts(t *testing.T) {
	h := newServer(t, &fake{}, func(c *config.Server) { c.AllowOrigins = []string{"https://app.example.com"} })
	const body = `{"model":"mini","input":"a"}`
	for _, x := range []struct {
		name   string
		method string
		header []string
		status int
		cors   string
	}{
		{"no browser", "POST", nil, 200, ""},
		{"a page that may", "POST", []string{"Origin", "https://app.example.com", "Sec-Fetch-Site", "cross-site"}, 200, "https://app.example.com"},
		{"its question before", "OPTIONS", []string{"Origin", "https://app.example.com", "Access-Control-Request-Method", "POST"}, 204, "https://app.example.com"},
		{"a page that may not", "POST", []string{"Origin", "https://evil.example.com", "Sec-Fetch-Site", "cross-site"}, 403, ""},
		{"its question before", "OPTIONS", []string{"Origin", "https://evil.example.com", "Access-Control-Request-Method", "POST"}, 405, ""},
		{"a name made to point here", "POST", []string{"Host", "evil.example.com:8399"}, 403, ""},
		{"loopback by number", "POST", []string{"Host", "127.0.0.1:1"}, 200, ""},
		{"loopback, version 6", "POST", []string{"Host", "[::1]:1"}, 200, ""},
		{"a name of loopback", "POST", []string{"Host", "accel.localhost."}, 200, ""},
		{"no such name", "POST", []string{"Host", "localhost.evil.com"}, 403, ""},
	} {
		w := h.do(x.method, "/v1/embeddings", body, x.header...)
		if w.Code != x.status || w.Header().Get("Access-Control-Allow-Origin") != x.cors {
			t.Errorf("%s: status %d, origin %q: %s", x.name, w.Code, w.Header().Get("Access-Control-Allow-Origin"), w.Body)
		}
	}
	open := newServer(t, &fake{}, func(c *config.Server) { c.APIKeys = []config.Secret{"k"} })
	if w := open.do("GET", "/v1/models", "", "Host", "accel.example.com", "Authorization", "Bearer k"); w.Code != 200 {
		t.Errorf("with a key every name serves: %d", w.Code)
	}
}

func TestListenRefusesToBePublic(t *testing.T) {
	for _, x := range []struct {
		listen string
		keys   []config.Secret
		allow  bool
		ok     bool
	}{
		{"127.0.0.1:0", nil, false, true}, {"localhost:0", nil, false, true},
		{"0.0.0.0:0", nil, false, false}, {":0", nil, false, false}, {"[::]:0", nil, false, false},
		{"0.0.0.0:0", []config.Secret{"k"}, false, true}, {"0.0.0.0:0", nil, true, true},
		{"nowhere", nil, false, false},
	} {
		h := newServer(t, &fake{}, func(c *config.Server) { c.Listen, c.APIKeys, c.AllowPublic = x.listen, x.keys, x.allow })
		l, err := h.Listen()
		if (err == nil) != x.ok {
			t.Errorf("%+v: %v", x, err)
		}
		if err == nil {
			l.Close()
			continue
		}
		var le *ListenError
		if !errors.As(err, &le) || le.Remedy == "" {
			t.Errorf("%+v: %v", x, err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	h := newServer(t, &fake{}, func(c *config.Server) { c.Listen = taken.Addr().String() })
	if _, err := h.Listen(); err == nil || !strings.Contains(err.Error(), "another program may have the port") {
		t.Errorf("a port that is taken: %v", err)
	}
}

func TestModelsAndHealth(t *testing.T) {
	f := &fake{}
	h := newServer(t, f, nil)
	var list struct {
		Object string
		Data   []map[string]any
	}
	if err := json.Unmarshal(h.do("GET", "/v1/models", "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"id": "mini", "object": "model", "created": 1000.0, "owned_by": "accel", "task": "embed", "class": "bert",
		"state": "ready", "max_tokens": 256.0, "dimensions": 384.0, "platform": "cpu", "kind": "hardware"}
	if list.Object != "list" || len(list.Data) != 2 || !reflect.DeepEqual(list.Data[0], want) {
		t.Errorf("got %+v", list)
	}
	var one map[string]any
	if w := h.do("GET", "/v1/models/org/other", ""); w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &one) != nil || one["reason"] != "no such folder" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := h.do("GET", "/readyz", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"ready":true`) {
		t.Errorf("ready: %d %s", w.Code, w.Body)
	}
	f.conditions = []engine.Condition{{Name: "devices", OK: true}, {Name: "model mini", Reason: "loading"}}
	if w := h.do("GET", "/readyz", ""); w.Code != 503 || !strings.Contains(w.Body.String(), `"reason":"loading"`) {
		t.Errorf("not ready: %d %s", w.Code, w.Body)
	}
	if w := h.do("GET", "/healthz", ""); w.Code != 200 {
		t.Errorf("health: %d", w.Code)
	}
}

func TestMetrics(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	h.do("POST", "/v1/embeddings", `{"model":"mini","input":["a","b"]}`)
	h.do("POST", "/v1/embeddings", `{"model":"made-up","input":"a"}`)
	h.do("BREW", "/pot", "")
	h.do("GET", "/v1/models/mini", "")
	m := h.do("GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`accel_http_requests_total{code="200",kind="hardware",method="POST",model="mini",platform="cpu",route="/v1/embeddings"} 1`,
		`accel_http_requests_total{code="404",kind="",method="POST",model="",platform="",route="/v1/embeddings"} 1`,
		`accel_http_requests_total{code="405",kind="",method="other",model="",platform="",route="other"} 1`,
		`accel_http_requests_total{code="200",kind="",method="GET",model="",platform="",route="/v1/models/*"} 1`,
		`accel_http_request_duration_seconds_count{kind="hardware",model="mini",platform="cpu",route="/v1/embeddings"} 1`,
		`accel_tokens_total{kind="hardware",model="mini",platform="cpu"} 4`,
		`accel_inputs_total{kind="hardware",model="mini",platform="cpu"} 2`,
		`accel_backend_restarts{backend="cpu"} 3`, `accel_backend_healthy{backend="cpu"} 1`, `accel_backend_healthy{backend="reference"} 0`,
		`accel_device_resident_bytes{device="cpu:0"} 1000`, `accel_offloads_total{device="cpu:0"} 2`,
		"accel_requests_in_flight 0", "accel_requests_running 0", "accel_queue_depth 0", "accel_queue_refused_total 0", "go_goroutines",
	} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(m, "made-up") || strings.Contains(m, "BREW") {
		t.Error("a client's words became labels")
	}
}

func TestRequestIDs(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	for id, kept := range map[string]bool{
		"abc-1.2:3_Z": true, strings.Repeat("a", 128): true,
		"": false, strings.Repeat("a", 129): false, "a b": false, "a\"b": false, "ü": false,
	} {
		got := h.do("GET", "/healthz", "", "X-Request-Id", id).Header().Get("X-Request-Id")
		if (got == id) != kept || got == "" {
			t.Errorf("%q became %q", id, got)
		}
	}
	a, b := h.do("GET", "/healthz", ""), h.do("GET", "/healthz", "")
	if a.Header().Get("X-Request-Id") == b.Header().Get("X-Request-Id") {
		t.Error("two requests have one id")
	}
}

func TestLogLines(t *testing.T) {
	h := newServer(t, &fake{}, nil)
	h.do("POST", "/v1/embeddings", `{"model":"mini","input":["private","words"]}`, "X-Request-Id", "id-1")
	var line map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(h.log.String(), "\n", 2)[0]), &line); err != nil {
		t.Fatalf("%v in %s", err, h.log)
	}
	for key, want := range map[string]any{"request_id": "id-1", "method": "POST", "path": "/v1/embeddings", "status": 200.0, "model": "mini",
		"inputs": 2.0, "tokens": 4.0, "platform": "cpu", "device": "cpu:0", "kind": "hardware", "@level": "info"} {
		if line[key] != want {
			t.Errorf("%s: %v, want %v", key, line[key], want)
		}
	}
	if _, ok := line["duration_ms"].(float64); !ok {
		t.Errorf("no duration in %v", line)
	}
	if strings.Contains(h.log.String(), "private") {
		t.Error("a text is in the log")
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	h := newServer(t, &fake{embed: func(context.Context, string, tasks.EmbedRequest) (tasks.EmbedResult, error) { panic("boom") }}, nil)
	w := h.do("POST", "/v1/embeddings", `{"model":"mini","input":"a"}`, "X-Request-Id", "id-7")
	if w.Code != 500 || !strings.Contains(errorOf(t, w).Error.Message, "id-7") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if !strings.Contains(h.log.String(), "boom") || !strings.Contains(h.log.String(), "server_test.go") {
		t.Errorf("the log lacks the panic or its stack: %s", h.log)
	}
	if n := h.queue.inFlight() + h.queue.atEngine(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}
