package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/backend"
)

// fake is an engine without backends: a vector holds 1 and the text's length.
type fake struct {
	config   config.Config
	startErr error
	embedErr error
	decision *route.Decision
	backends []hosts.BackendStatus
	devices  []hosts.DeviceStatus
	explain  error
	says     string // what is typed
	requests []tasks.EmbedRequest
	closed   int
}

func (f *fake) Start(context.Context) error { return f.startErr }
func (f *fake) Close(context.Context) error { f.closed++; return nil }

func (f *fake) Embed(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	f.requests = append(f.requests, req)
	if f.embedErr != nil {
		return tasks.EmbedResult{}, f.embedErr
	}
	if err := ctx.Err(); err != nil {
		return tasks.EmbedResult{}, err
	}
	res := tasks.EmbedResult{Decision: cpuDecision(model)}
	if f.decision != nil {
		res.Decision = *f.decision
	}
	for i, t := range req.Texts {
		res.Vectors = append(res.Vectors, []float32{1, float32(len(t))})
		res.Tokens += len(strings.Fields(t))
		if req.Truncate && strings.HasPrefix(t, "long") {
			if res.Truncated == nil {
				res.Truncated = make([]int, len(req.Texts))
			}
			res.Truncated[i] = 3
		}
	}
	return res, nil
}

func (f *fake) Classify(_ context.Context, model string, req tasks.ClassifyRequest) (tasks.ClassifyResult, error) {
	res := tasks.ClassifyResult{Decision: cpuDecision(model)}
	for _, file := range req.Files {
		list := []tasks.Label{{Name: "cat", Index: 3, Score: 0.75}, {Name: "dog", Score: float32(len(file.Data))}}
		for i, name := range req.Labels {
			list[i%2] = tasks.Label{Name: name, Index: i, Score: 0.5}
		}
		res.Labels = append(res.Labels, list)
	}
	return res, nil
}

func (f *fake) Detect(_ context.Context, model string, req tasks.DetectRequest) (tasks.DetectResult, error) {
	res := tasks.DetectResult{Decision: cpuDecision(model)}
	for range req.Files {
		things := []tasks.Thing{{Detection: pixels.Detection{Label: 1, Score: 0.9, Box: [4]float32{1, 2, 13, 14}}, Name: "dog"}}
		if req.Threshold != nil && *req.Threshold > 0.9 {
			things = nil
		}
		res.Pictures = append(res.Pictures, tasks.DetectedPicture{Height: 17, Width: 23, Things: things})
	}
	return res, nil
}

func (f *fake) Generate(_ context.Context, model string, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error) {
	last := req.Messages[len(req.Messages)-1].Content.Text
	res := tasks.GenerateResult{PromptTokens: len(req.Messages), CompletionTokens: 2, Decision: route.Decision{Model: model, Chosen: route.Choice{Platform: "cpu", Device: "cpu:0", Kind: backend.Hardware}}}
	for i, e := range []tasks.GenerateEvent{{Text: "You said "}, {Text: last, Finish: tasks.FinishStop}} {
		if i == 0 {
			e.First = &res
		}
		if err := emit(e); err != nil {
			return res, err
		}
	}
	return res, nil
}

// Transcribe hears two segments, and says in the first what it was asked.
func (f *fake) Transcribe(_ context.Context, model string, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error) {
	res := tasks.TranscribeResult{Language: "en", Tokens: 7, Decision: cpuDecision(model)}
	heard, block := 0, make([]float32, 1000)
	for {
		n, err := req.Sound.Read(block)
		if heard += n; err == io.EOF {
			break
		}
		if err != nil {
			return res, err
		}
	}
	res.Duration = float64(heard) / float64(req.Sound.Rate())
	for i, text := range []string{fmt.Sprintf(" language %q, prompt %q, translate %v.", req.Language, req.Prompt, req.Translate), " The end."} {
		if err := emit(tasks.Segment{ID: i, Start: float64(i), End: float64(i) + 0.5, Text: text}); err != nil {
			return res, err
		}
	}
	return res, nil
}

func (f *fake) Tokenizer(context.Context, string) (*processors.Tokenizer, error) {
	return nil, errors.New("no tokenizer")
}

func (f *fake) SchedulerStats() map[string]schedule.Stats { return nil }
func (f *fake) Memory() []engine.DeviceMemory             { return nil }

func (f *fake) Models() []engine.ModelInfo {
	var out []engine.ModelInfo
	for name, m := range f.config.Models {
		out = append(out, engine.ModelInfo{Name: name, Path: m.Path, Class: "bert", State: engine.ModelReady})
	}
	return out
}

func (f *fake) Ready() (bool, []engine.Condition) { return true, nil }
func (f *fake) Backends() []engine.BackendStatus  { return nil }
func (f *fake) Quantize(context.Context, string, string, quantize.Options) (quantize.Report, error) {
	return quantize.Report{}, errors.ErrUnsupported
}

func (f *fake) Machine() ([]hosts.BackendStatus, []hosts.DeviceStatus) { return f.backends, f.devices }

func (f *fake) Explain(_ context.Context, model string) (engine.Explanation, error) {
	return engine.Explanation{ModelInfo: engine.ModelInfo{Name: model, Path: f.config.Models[model].Path, Class: "bert", Precision: "f32"},
		Decision: cpuDecision(model), Placements: []engine.Placement{{Device: "cpu:0", Nodes: 7, Dir: "/cache/abc"}}}, f.explain
}

func (f *fake) Open(path string, o engine.SessionOptions) (*engine.Session, error) {
	if o.Policy != route.Deny {
		return nil, fmt.Errorf("policy %q", o.Policy)
	}
	if o.Preferred == "cuda" {
		return nil, &engine.NoPlatformError{Decision: route.Decision{Model: path, Wanted: []string{"cuda"}, Policy: route.Deny,
			Refused: []route.Refusal{{Platform: "cuda", Reason: "no backend offers it"}}}}
	}
	return nil, errors.New("the folder is broken")
}

func (f *fake) Assess(context.Context, *engine.Session, map[string]int64) (engine.Assessed, error) {
	return engine.Assessed{}, errors.New("the fake engine assesses nothing")
}

func cpuDecision(model string) route.Decision {
	return route.Decision{Model: model, Class: "bert", Policy: route.Warn, Wanted: []string{"cuda", "cpu"}, First: "cpu",
		Refused: []route.Refusal{{Platform: "cuda", Reason: "no backend offers it", Remedy: "see `accel backends`"}},
		Chosen:  route.Choice{Platform: "cpu", Device: "cpu:0", Kind: backend.Hardware}}
}

func machine() *fake {
	return &fake{
		backends: []hosts.BackendStatus{
			{Name: "cpu", State: hosts.Healthy, Version: "1.2", Path: "/b/accel-backend-cpu",
				Libraries: []backend.Library{{Name: "libaccelcpu", Found: true, Version: "1"}, {Name: "libnuma", Reason: "not installed", Remedy: "apt-get install libnuma1"}}},
			{Name: "cuda", State: hosts.Unhealthy, Reason: "it exited", Remedy: "update the driver", Stderr: "no driver\n"},
		},
		devices: []hosts.DeviceStatus{
			{Device: backend.Device{ID: "0", Platform: "cpu", Name: "A CPU", Kind: backend.Hardware, Health: backend.Healthy, MemoryTotal: 3 << 29}, Ref: "cpu:0", Backend: "cpu"},
			{Device: backend.Device{ID: "0", Platform: "cuda", Name: "A GPU", Kind: backend.Hardware, Health: backend.Unhealthy, Reason: "process died", Remedy: "wait"}, Ref: "cuda:0", Backend: "cuda"},
		},
	}
}

// buffer may be written and read by several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// call runs one command line with f for an engine.
func call(ctx context.Context, f *fake, environ []string, args ...string) (status int, out, err string) {
	var o, e buffer
	a := &app{in: strings.NewReader(f.says), out: &o, err: &e, environ: append([]string{"ACCEL_CACHE=/cache"}, environ...),
		open: func(c config.Config, _ hclog.Logger) (engineAPI, error) {
			f.config = c
			return f, nil
		}}
	status = execute(ctx, a, args)
	return status, o.String(), e.String()
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const runFile = "task: embed\nmodel: models/mini\ninputs: {texts: [aaaa, bb, cc, long one]}\n"

func TestRun(t *testing.T) {
	fallback := cpuDecision("mini")
	fallback.First = "cuda"
	for _, x := range []struct {
		name      string
		file      string
		fake      *fake
		args      []string
		out, err  []string // that must be in there
		platform  string
		requested bool
	}{
		{name: "table", file: runFile, fake: &fake{},
			out: []string{"COSINE  SENTENCE  NEAREST", "1.0000  bb        cc", "mini on cpu:0 (hardware): 4 sentences, 5 tokens in "}},
		{name: "one pair", file: runFile + "output: {pairs: 1}", fake: &fake{}, out: []string{"NEAREST\n1.0000  bb        cc\n\nmini on"}},
		{name: "no pairs", file: "task: embed\nmodel: m\ninputs: {texts: [a]}\n", fake: &fake{}, out: []string{"There are no pairs", "1 sentence, 1 token in"}},
		{name: "cut", file: strings.Replace(runFile, "inputs: {", "inputs: {truncate: true, ", 1), fake: &fake{}, out: []string{"note: 3 tokens were cut"}},
		{name: "another platform", file: runFile, fake: &fake{decision: &fallback}, args: []string{"--platform", "cuda", "--fallback", "allow"},
			out: []string{"note: cpu:0 answered instead of cuda: cuda: no backend offers it"}, platform: "cuda"},
		{name: "jsonl", file: runFile, fake: &fake{}, args: []string{"--format", "jsonl"},
			out: []string{`{"index":1,"text":"bb","embedding":[1,2]}` + "\n"}, err: []string{"mini on cpu:0"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			status, out, errs := call(t.Context(), x.fake, nil, append([]string{"run", write(t, "run.yaml", x.file)}, x.args...)...)
			if status != 0 || x.fake.closed != 1 {
				t.Errorf("status %d, closed %d times: %s", status, x.fake.closed, errs)
			}
			for _, want := range x.out {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			for _, want := range x.err {
				if !strings.Contains(errs, want) {
					t.Errorf("%q is not in\n%s", want, errs)
				}
			}
			for _, m := range x.fake.config.Models {
				if m.Platform != x.platform {
					t.Errorf("platform %q", m.Platform)
				}
			}
		})
	}
}

func TestRunJSON(t *testing.T) {
	status, out, errs := call(t.Context(), &fake{}, nil, "run", write(t, "run.yaml", runFile), "--json")
	var got struct {
		Model      string
		Inputs     int
		Tokens     int
		Decisions  []route.Decision
		Pairs      []tasks.Pair
		Embeddings []row
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 || errs != "" {
		t.Fatalf("status %d, %v: %s%s", status, err, out, errs)
	}
	if got.Model != "mini" || got.Inputs != 4 || got.Tokens != 5 || len(got.Decisions) != 1 || got.Decisions[0].Chosen.Device != "cpu:0" ||
		len(got.Pairs) != 6 || !reflect.DeepEqual(got.Embeddings[3], row{3, "long one", []float32{1, 8}}) {
		t.Errorf("got %+v", got)
	}
}

func TestRunWritesFiles(t *testing.T) {
	path := write(t, "run.yaml", runFile)
	npy := filepath.Join(t.TempDir(), "v.npy")
	status, out, errs := call(t.Context(), &fake{}, nil, "run", path, "--format", "npy", "--output", npy)
	if status != 0 || !strings.Contains(out, "wrote "+npy) {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	b, err := os.ReadFile(npy)
	if err != nil {
		t.Fatal(err)
	}
	n := int(binary.LittleEndian.Uint16(b[8:]))
	if !bytes.HasPrefix(b, []byte("\x93NUMPY\x01\x00")) || (10+n)%64 != 0 || b[10+n-1] != '\n' ||
		!strings.Contains(string(b[10:10+n]), "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }") || len(b) != 10+n+4*2*4 {
		t.Errorf("got %q", b)
	}
	if got := binary.LittleEndian.Uint32(b[10+n+4:]); got != 0x40800000 { // 4
		t.Errorf("first vector's second number: %x", got)
	}

	file := filepath.Join(t.TempDir(), "v.json")
	status, out, _ = call(t.Context(), &fake{}, nil, "run", path, "--json", "--output", file)
	var summary, whole map[string]any
	b, err = os.ReadFile(file)
	if status != 0 || err != nil || json.Unmarshal(b, &whole) != nil || json.Unmarshal([]byte(out), &summary) != nil ||
		whole["embeddings"] == nil || summary["embeddings"] != nil || summary["tokens"] != 5.0 {
		t.Errorf("status %d, %v: %s\n%s", status, err, out, b)
	}
	if _, _, errs := call(t.Context(), &fake{}, nil, "run", path, "--output", filepath.Join(t.TempDir(), "no", "such")); !strings.Contains(errs, "output.file") {
		t.Errorf("got %s", errs)
	}
}

func TestRunReadsFiles(t *testing.T) {
	dir := t.TempDir()
	texts := strings.Repeat("one line\r\n\n", 300)
	if err := os.WriteFile(filepath.Join(dir, "in.txt"), []byte(texts), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(path, []byte("task: embed\nmodel: m\ninputs: {file: in.txt}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	status, out, errs := call(t.Context(), f, nil, "run", path, "--json")
	if status != 0 || !strings.Contains(out, `"inputs":300`) {
		t.Fatalf("status %d: %s", status, errs)
	}
	if len(f.requests) != 3 || len(f.requests[0].Texts) != inputsAtATime || f.requests[1].Texts[0] != "one line" {
		t.Errorf("%d requests", len(f.requests))
	}
	// An error names the input of the file, not of the request.
	f = &fake{}
	first := true
	f.embedErr = nil
	wrapped := &failSecond{fake: f, err: &tasks.InputTooLongError{Model: "m", Input: 3, Tokens: 9, Limit: 5}, first: &first}
	var o, e buffer
	a := &app{in: strings.NewReader(f.says), out: &o, err: &e, environ: []string{"ACCEL_CACHE=/c"}, open: func(config.Config, hclog.Logger) (engineAPI, error) { return wrapped, nil }}
	if status := execute(t.Context(), a, []string{"run", path}); status != exitUsage || !strings.Contains(e.String(), fmt.Sprintf("input %d has 9 tokens", inputsAtATime+3)) {
		t.Errorf("status %d: %s", status, &e)
	}
	for name, x := range map[string]struct{ content, want string }{
		"empty":     {"\n\n", "holds no text"},
		"not UTF-8": {"ok\n\xff\n", "in.txt:2 is not valid UTF-8"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "in.txt"), []byte(x.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, errs := call(t.Context(), &fake{}, nil, "run", path); status != exitUsage || !strings.Contains(errs, x.want) {
			t.Errorf("%s: status %d: %s", name, status, errs)
		}
	}
	os.Remove(filepath.Join(dir, "in.txt"))
	if status, _, errs := call(t.Context(), &fake{}, nil, "run", path); status != exitUsage || !strings.Contains(errs, "inputs.file") {
		t.Errorf("missing: status %d: %s", status, errs)
	}
}

type failSecond struct {
	*fake
	err   error
	first *bool
}

func (f *failSecond) Embed(ctx context.Context, model string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	if *f.first {
		*f.first = false
		return f.fake.Embed(ctx, model, req)
	}
	return tasks.EmbedResult{}, f.err
}

func TestExitStatuses(t *testing.T) {
	run := write(t, "run.yaml", runFile)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, x := range []struct {
		name   string
		ctx    context.Context
		fake   *fake
		env    []string
		args   []string
		status int
		err    string
	}{
		{name: "help", args: []string{}, status: 0},
		{name: "unknown command", args: []string{"sevre"}, status: 2, err: `did you mean "serve"?`},
		{name: "unknown flag", args: []string{"run", "--nope"}, status: 2, err: "unknown flag: --nope"},
		{name: "no argument", args: []string{"run"}, status: 2, err: "usage: accel run MODEL|FILE.yaml"},
		{name: "unknown variable", env: []string{"ACCEL_LOG_LEVLE=x"}, args: []string{"devices"}, status: 2, err: "did you mean ACCEL_LOG_LEVEL?"},
		{name: "bad flag value", args: []string{"devices", "--log-level", "loud"}, status: 2, err: `flag --log-level: log.level = "loud": unknown value`},
		{name: "missing file", args: []string{"run", "/nowhere.yaml"}, status: 2, err: "there is no such file"},
		{name: "bad input", fake: &fake{embedErr: &tasks.InvalidInputError{Field: "input", Input: 0, Problem: "odd"}}, args: []string{"run", run}, status: 2, err: "input[0]: odd"},
		{name: "no platform", fake: &fake{embedErr: &engine.NoPlatformError{Decision: cpuDecision("mini")}}, args: []string{"run", run}, status: 3,
			err: "error: no platform can serve mini (route: cuda, cpu; fallback: warn)\n       cuda: no backend offers it (see `accel backends`)\n"},
		{name: "unusable model", fake: &fake{embedErr: &engine.ModelUnusableError{Model: "mini", Err: errors.New("torn")}}, args: []string{"run", run}, status: 3, err: "torn"},
		{name: "unknown model", args: []string{"explain", "mini"}, status: 3, err: `there is no model "mini"`},
		{name: "unknown backend", fake: machine(), args: []string{"backends", "cdua"}, status: 3, err: `did you mean "cuda"?`},
		{name: "unknown platform", fake: machine(), args: []string{"devices", "metal"}, status: 3, err: "there are: cpu:0, cuda:0; backend cuda is unhealthy"},
		{name: "crash", fake: &fake{embedErr: &engine.PoisonedError{Model: "mini", Deaths: make([]route.Refusal, 3), Stderr: "segfault"}}, args: []string{"run", run}, status: 4, err: "segfault"},
		{name: "backend's error", fake: &fake{embedErr: backend.OutOfMemory("weights", 2, 1), startErr: errors.New("cuda did not start")}, args: []string{"run", run}, status: 4, err: "cuda did not start"},
		{name: "something else", fake: &fake{embedErr: errors.New("odd")}, args: []string{"run", run}, status: 1, err: "error: odd"},
		{name: "interrupted", ctx: gone, args: []string{"run", run}, status: 130, err: "interrupted"},
		{name: "as JSON", args: []string{"run", "/nowhere.yaml", "--json"}, status: 2, err: `{"error":{"exit_status":2,"message":"/nowhere.yaml: there is no such file; check the path"}}`},
		{name: "nothing to serve", args: []string{"serve"}, status: 2, err: "there is no model to serve"},
		{name: "bad --model", args: []string{"serve", "--model", "mini"}, status: 2, err: "want NAME=PATH"},
		{name: "public address", args: []string{"serve", "--model", "m=p", "--listen", "0.0.0.0:0"}, status: 2, err: "no API key is set"},
		{name: "bad tolerance", args: []string{"verify", "x", "--tolerance", "-1"}, status: 2, err: "want 0 or more"},
		{name: "nothing to verify on", args: []string{"verify", "x"}, status: 3, err: "there is no healthy device"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.fake == nil {
				x.fake = &fake{}
			}
			if x.ctx == nil {
				x.ctx = t.Context()
			}
			status, out, errs := call(x.ctx, x.fake, x.env, x.args...)
			if status != x.status || !strings.Contains(errs, x.err) {
				t.Errorf("status %d, want %d; %q is not in\n%s%s", status, x.status, x.err, errs, out)
			}
		})
	}
}

func TestDevicesAndBackends(t *testing.T) {
	status, out, _ := call(t.Context(), machine(), nil, "devices")
	for _, want := range []string{
		"DEVICE  KIND      HEALTH      MEMORY  BACKEND  NAME\n",
		"cpu:0   hardware  healthy    1.5 GiB  cpu      A CPU\n",
		"cuda:0  hardware  unhealthy        -  cuda     A GPU\n",
		"cuda:0 is unhealthy: process died\n  remedy: wait\n", "backend cuda is unhealthy: it exited\n  remedy: update the driver\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("status %d: %q is not in\n%s", status, want, out)
		}
	}
	var devices struct{ Devices []deviceRow }
	if _, out, _ = call(t.Context(), machine(), nil, "devices", "cuda", "--json"); json.Unmarshal([]byte(out), &devices) != nil ||
		len(devices.Devices) != 1 || devices.Devices[0].Kind != backend.Hardware || devices.Devices[0].Reason != "process died" {
		t.Errorf("got %s", out)
	}
	_, out, _ = call(t.Context(), machine(), nil, "backends")
	for _, want := range []string{"cpu      healthy    1.2", "cuda     unhealthy  -", "cuda is unhealthy: it exited", "    no driver\n",
		"cpu found libaccelcpu 1", "cpu: libnuma is not found: not installed\n  remedy: apt-get install libnuma1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if _, out, _ = call(t.Context(), machine(), nil, "backends", "cpu", "--json"); !strings.Contains(out, `{"backends":[{"name":"cpu"`) {
		t.Errorf("got %s", out)
	}
	if status, out, _ = call(t.Context(), &fake{}, nil, "devices", "--json"); status != 0 || out != "{\"devices\":[]}\n" {
		t.Errorf("status %d: %s", status, out)
	}
	if _, out, _ = call(t.Context(), &fake{}, nil, "backends"); !strings.Contains(out, "There is no backend.") {
		t.Errorf("got %s", out)
	}
}

func TestExplain(t *testing.T) {
	cfg := write(t, "accel.yaml", "models: {mini: {path: /m}}\n")
	f := &fake{}
	status, out, errs := call(t.Context(), f, nil, "--config", cfg, "explain", "mini", "--platform", "cpu")
	for _, want := range []string{"model     mini  /m", "class     bert, f32", "route     cuda, cpu (fallback: warn)", "passed    cuda: no backend offers it",
		"chosen    cpu:0 (hardware)", "placed    cpu:0, any shape: 7 nodes", "/cache/abc"} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("status %d: %q is not in\n%s%s", status, want, out, errs)
		}
	}
	if f.config.Models["mini"].Platform != "cpu" {
		t.Errorf("platform %q", f.config.Models["mini"].Platform)
	}
	var x engine.Explanation
	if _, out, _ := call(t.Context(), &fake{}, nil, "explain", "some/path", "--json"); json.Unmarshal([]byte(out), &x) != nil || x.Name != "path" || x.Path != "some/path" {
		t.Errorf("got %s", out)
	}
	none := cpuDecision("path")
	none.Chosen = route.Choice{}
	status, out, errs = call(t.Context(), &fake{explain: &engine.NoPlatformError{Decision: none}}, nil, "explain", "some/path")
	if status != exitNotFound || !strings.Contains(out, "chosen    none") || errs != "" {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

func TestVerify(t *testing.T) {
	f := machine()
	status, out, _ := call(t.Context(), f, nil, "verify", "a", "b", "--platform", "cpu,cuda")
	for _, want := range []string{"FAILED   a on cpu\n         the folder is broken", "refused  b on cuda\n         no platform can serve", "0 passed, 2 failed, 2 refused"} {
		if status != 1 || !strings.Contains(out, want) {
			t.Errorf("status %d: %q is not in\n%s", status, want, out)
		}
	}
	var report struct {
		Results []struct {
			Path, Platform, Status string
			OK                     bool
		}
		Passed, Failed, Refused int
	}
	// By default every platform with a healthy device: here cpu.
	status, out, _ = call(t.Context(), machine(), nil, "verify", "a", "--json")
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 1 || report.Failed != 1 || len(report.Results) != 1 || report.Results[0].Platform != "cpu" {
		t.Errorf("status %d, %v: %s", status, err, out)
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out, in := io.Pipe()
	f := &fake{}
	a := &app{out: in, err: &buffer{}, environ: []string{"ACCEL_CACHE=/c", "ACCEL_SERVER_TIMEOUTS_DRAIN_DELAY=0s"},
		open: func(c config.Config, _ hclog.Logger) (engineAPI, error) { f.config = c; return f, nil }}
	done := make(chan int, 1)
	go func() {
		done <- execute(ctx, a, []string{"serve", "--listen", "127.0.0.1:0", "--model", "mini=/m", "--json"})
	}()
	var said struct {
		Address string
		Models  []string
	}
	if err := json.NewDecoder(out).Decode(&said); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out)
	resp, err := http.Post("http://"+said.Address+"/v1/embeddings", "application/json", strings.NewReader(`{"model":"mini","input":"abc"}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || !strings.Contains(string(body), `"embedding":[1,3]`) || !reflect.DeepEqual(said.Models, []string{"mini"}) {
		t.Errorf("%d %s, %+v", resp.StatusCode, body, said)
	}
	cancel()
	if status := <-done; status != 0 || f.closed != 1 {
		t.Errorf("status %d, closed %d times: %s", status, f.closed, a.err)
	}
}

func TestConfigCommands(t *testing.T) {
	cfg := write(t, "accel.yaml", "server: {api_keys: [hunter2]}\nmodels: {mini: {path: /m}}\n")
	env := []string{"ACCEL_CONFIG=" + cfg, "ACCEL_LOG_LEVEL=debug"}
	status, out, errs := call(t.Context(), &fake{}, env, "config", "show")
	for _, want := range []string{"level: debug", "# $ACCEL_LOG_LEVEL", "# " + cfg + ":1", "[redacted]", "dir: /cache"} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("status %d: %q is not in\n%s%s", status, want, out, errs)
		}
	}
	if strings.Contains(out, "hunter2") {
		t.Error("a key was shown")
	}
	if _, out, _ := call(t.Context(), &fake{}, env, "config", "show", "--json"); !strings.Contains(out, `{"key":"log.level","value":"debug","origin":{"kind":"env","name":"ACCEL_LOG_LEVEL"}}`) {
		t.Errorf("got %s", out)
	}
	if status, out, _ := call(t.Context(), &fake{}, env, "config", "check"); status != 0 || !strings.Contains(out, "4 values beside the defaults") {
		t.Errorf("status %d: %s", status, out)
	}
	if status, _, errs := call(t.Context(), &fake{}, nil, "config", "check", write(t, "bad.yaml", "sever: {}")); status != 2 || !strings.Contains(errs, `did you mean "server"?`) {
		t.Errorf("status %d: %s", status, errs)
	}
	if status, out, errs := call(t.Context(), &fake{}, nil, "config", "check", "--run", write(t, "run.yaml", runFile), "--json"); status != 0 || !strings.Contains(out, `"ok":true`) {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	for _, args := range [][]string{{"config", "schema"}, {"config", "schema", "--run"}} {
		status, out, _ := call(t.Context(), &fake{}, nil, args...)
		if status != 0 || !json.Valid([]byte(out)) || strings.Contains(out, `"task": {`) != (len(args) == 3) && len(args) == 3 {
			t.Errorf("%v: status %d", args, status)
		}
	}
}

// The configurations that the project gives must be good as they are.
func TestOwnConfigurations(t *testing.T) {
	for _, args := range [][]string{{"check", "../../configs/serve.yaml"}, {"check", "../../configs/pictures.yaml"}, {"check", "--run", "../../configs/demo.yaml"}, {"check", "--run", "../../configs/generate.yaml"}, {"check", "--run", "../../configs/transcribe.yaml"}, {"check", "--run", "../../configs/classify.yaml"}, {"check", "--run", "../../configs/detect.yaml"}, {"check", "../../configs/policy/routes.yaml"}} {
		if status, out, errs := call(t.Context(), &fake{}, nil, append([]string{"config"}, args...)...); status != 0 {
			t.Errorf("%v: status %d: %s%s", args, status, out, errs)
		}
	}
}

func TestCompletion(t *testing.T) {
	cfg := write(t, "accel.yaml", "models: {mini: {path: /m}, other: {path: /o}}\nroute: {bert: [qnn]}\n")
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"explain", ""}, []string{"mini", "other"}},
		{[]string{"run", "--platform", ""}, []string{"cpu", "cuda", "qnn", "simulation"}},
		{[]string{"serve", "--fallback", ""}, []string{"deny", "warn", "allow"}},
		{[]string{""}, []string{"run", "serve", "devices", "backends", "explain", "verify", "config", "version"}},
	} {
		_, out, _ := call(t.Context(), &fake{}, []string{"ACCEL_CONFIG=" + cfg, "HF_HUB_CACHE=/nowhere"}, append([]string{"__complete"}, x.args...)...)
		for _, want := range x.want {
			if !strings.Contains("\n"+out, "\n"+want) {
				t.Errorf("%v: %q is not in\n%s", x.args, want, out)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	if status, out, _ := call(t.Context(), &fake{}, nil, "version"); status != 0 || !strings.HasPrefix(out, "accel unversioned (backend protocol 1, go") {
		t.Errorf("status %d: %s", status, out)
	}
	var v map[string]any
	if _, out, _ := call(t.Context(), &fake{}, nil, "version", "--json"); json.Unmarshal([]byte(out), &v) != nil || v["backend_protocol"] != 1.0 {
		t.Errorf("got %s", out)
	}
}

func TestChat(t *testing.T) {
	f := &fake{says: "one\n\ntwo\n/new\nthree\n"}
	status, out, errs := call(t.Context(), f, nil, "chat", "./model", "--system", "Be brief.")
	if status != 0 || out != "You said one\nYou said two\nYou said three\n" {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}
	status, out, errs = call(t.Context(), f, nil, "chat", "./model", "hi", "--json", "--max-tokens", "4")
	var answer chatAnswer
	if err := json.Unmarshal([]byte(out), &answer); status != 0 || err != nil || answer.Text != "You said hi" || answer.Finish != "stop" || answer.Platform != "cpu" || answer.PromptTokens != 1 {
		t.Errorf("status %d, %q, %q: %+v", status, out, errs, answer)
	}
	if status, _, errs = call(t.Context(), &fake{}, nil, "chat", "nobody"); status == 0 || !strings.Contains(errs, "nobody") {
		t.Errorf("status %d, %q", status, errs)
	}
}
