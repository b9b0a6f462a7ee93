package config

import (
	stdbytes "bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// write puts a file into a fresh folder and returns its path.
func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func defaults() Config {
	c := Default()
	c.Cache.Dir = "/somewhere/accel"
	return c
}

func TestDefaultsLoadAsTheyAre(t *testing.T) {
	want := defaults()
	l, err := Load(Sources{Defaults: want})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l.Config, want) {
		t.Errorf("got  %+v\nwant %+v", l.Config, want)
	}
	for _, s := range l.Settings() {
		if s.Origin.Kind != FromDefault {
			t.Errorf("%s comes from %v", s.Key, s.Origin)
		}
	}
	if got := want.Route["default"]; !slices.Equal(got, []string{"cuda", "rocm", "openvino", "cpu", "simulation"}) {
		t.Errorf("default route: %v", got)
	}
	if got := want.Route["llava"]; !slices.Equal(got, []string{"cuda", "cpu", "simulation"}) {
		t.Errorf("route of llava: %v", got)
	}
}

const full = `
models:
  org/minilm-v2.5:
    path: models/minilm
    platform: simulation:static
    fallback: deny
route:
  bert: [cpu]
fallback: {policy: allow, restart_wait: 2s}
backends:
  cpu:
    settings: {threads: 2, nested: {a: [1, x, null]}}
    env: {TOKEN: hunter2}
    args: [--verbose]
  reference: {disabled: true}
hosts:
  search_path: [backends, /opt/accel]
cache: {dir: ../cache, max_bytes: 20GiB}
server:
  listen: "[::1]:0"
  api_keys: [k1, k2]
  max_body_bytes: 1000
  queue: {max_running: 1}
log:
`

func TestFile(t *testing.T) {
	path := write(t, "accel.yaml", full)
	dir := filepath.Dir(path)
	l, err := Load(Sources{Defaults: defaults(), File: path})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.Models = map[string]Model{"org/minilm-v2.5": {
		Path: filepath.Join(dir, "models", "minilm"), Platform: "simulation:static", Fallback: "deny"}}
	want.Route["bert"] = []string{"cpu"}
	want.Fallback = Fallback{Policy: "allow", RestartWait: 2 * time.Second}
	want.Backends = map[string]Backend{
		"cpu": {
			Settings: map[string]any{"threads": int64(2), "nested": map[string]any{"a": []any{int64(1), "x", nil}}},
			Env:      map[string]Secret{"TOKEN": "hunter2"},
			Args:     []string{"--verbose"},
		},
		"reference": {Disabled: true},
	}
	want.Hosts.SearchPath = []string{filepath.Join(dir, "backends"), "/opt/accel"}
	want.Cache = Cache{Dir: filepath.Join(filepath.Dir(dir), "cache"), MaxBytes: 20 << 30}
	want.Server.Listen = "[::1]:0"
	want.Server.APIKeys = []Secret{"k1", "k2"}
	want.Server.MaxBodyBytes = 1000
	want.Server.Queue.MaxRunning = 1
	if !reflect.DeepEqual(l.Config, want) {
		t.Errorf("got  %#v\nwant %#v", l.Config, want)
	}
	for key, line := range map[string]int{
		`models."org/minilm-v2.5".path`: 4, "route.bert": 8, "fallback.policy": 9, "server.queue.max_running": 23,
	} {
		if o := l.Origin(key); o.Kind != FromFile || o.Name != path || o.Line != line {
			t.Errorf("%s: %+v, want line %d", key, o, line)
		}
	}
	if o := l.Origin("route.llava"); o.Kind != FromDefault {
		t.Errorf("route.llava comes from %v", o)
	}
}

func TestJSONSaysTheSameAsYAML(t *testing.T) {
	y, err := parseYAML([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.MarshalIndent(y.plain(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	back, err := parseJSON(j)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(y.plain(), back.plain()) {
		t.Errorf("got  %v\nwant %v", back.plain(), y.plain())
	}
	path := write(t, "accel.json", "{\n\t\"server\": {\n\t\t\"lisen\": \"x\"\n\t}\n}\n")
	_, err = Load(Sources{Defaults: defaults(), File: path})
	if want := path + `:3: server.lisen: unknown key; did you mean "server.listen"?`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "accel.yaml", "server: {listen: '127.0.0.1:1', max_inputs: 1, queue: {max_running: 1, max_waiting: 1}}\n"+
		"models: {a: {path: /a}}\n")
	l, err := Load(Sources{
		Defaults: defaults(),
		File:     file,
		Environ: []string{"ACCEL_SERVER_LISTEN=127.0.0.1:2", "ACCEL_SERVER_MAX_INPUTS=2", "ACCEL_SERVER_API_KEYS=a, b",
			"ACCEL_CACHE=/cache", "ACCEL_BACKEND_PATH=/x" + string(filepath.ListSeparator) + "/y", "ACCEL_LOG_LEVEL=",
			`ACCEL_ROUTE={"t5":["cpu"]}`, "ACCEL_HOSTS_START_TIMEOUT=3s", "ACCEL_CACHE_MAX_BYTES=1MiB", "ACCEL_SERVER_ALLOW_PUBLIC=true",
			"ACCEL_CPU_ISA=avx2", "ACCEL_TEST_ANYTHING=1", "OTHER=1"},
		Flags: []Flag{
			{"--listen", []string{"server", "listen"}, "127.0.0.1:3"},
			{"--model", []string{"models", "b.c", "path"}, "/b"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	for _, x := range []struct {
		key       string
		got, want any
		from      string
	}{
		{"server.listen", c.Server.Listen, "127.0.0.1:3", "flag --listen"},
		{"server.max_inputs", c.Server.MaxInputs, 2, "$ACCEL_SERVER_MAX_INPUTS"},
		{"server.queue.max_running", c.Server.Queue.MaxRunning, 1, file + ":1"},
		{"server.queue.max_wait", c.Server.Queue.MaxWait, 30 * time.Second, "default"},
		{"server.api_keys", c.Server.APIKeys, []Secret{"a", "b"}, "$ACCEL_SERVER_API_KEYS"},
		{"server.allow_public", c.Server.AllowPublic, true, "$ACCEL_SERVER_ALLOW_PUBLIC"},
		{"cache.dir", c.Cache.Dir, "/cache", "$ACCEL_CACHE"},
		{"cache.max_bytes", c.Cache.MaxBytes, Bytes(1 << 20), "$ACCEL_CACHE_MAX_BYTES"},
		{"hosts.search_path", c.Hosts.SearchPath, []string{"/x", "/y"}, "$ACCEL_BACKEND_PATH"},
		{"hosts.start_timeout", c.Hosts.StartTimeout, 3 * time.Second, "$ACCEL_HOSTS_START_TIMEOUT"},
		{"route.t5", c.Route["t5"], []string{"cpu"}, "$ACCEL_ROUTE"},
		{"log.level", c.Log.Level, "info", "default"},
		{"models.a.path", c.Models["a"].Path, "/a", file + ":2"},
		{`models."b.c".path`, c.Models["b.c"].Path, "/b", "flag --model"},
	} {
		if !reflect.DeepEqual(x.got, x.want) {
			t.Errorf("%s = %v, want %v", x.key, x.got, x.want)
		}
		if got := l.Origin(x.key).String(); got != x.from {
			t.Errorf("%s comes from %q, want %q", x.key, got, x.from)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, x := range []struct {
		name string
		file string // YAML
		env  []string
		want []string // FILE stands for the file's path
	}{
		{"unknown section", "sever: {}", nil, []string{`FILE:1: sever: unknown key; did you mean "server"?`}},
		{"key of another section", "\nlisten: x", nil, []string{`FILE:2: listen: unknown key; did you mean "server.listen"?`}},
		{"nothing near", "cache: {zzzzzz: 1}", nil, []string{`FILE:1: cache.zzzzzz: unknown key; known here: dir, max_bytes`}},
		{"several", "log: {levl: info}\nfallback: {policy: warm}", nil, []string{
			`FILE:1: log.levl: unknown key; did you mean "log.level"?`,
			`FILE:2: fallback.policy = "warm": unknown value; did you mean "warn"?`}},
		{"within a table", "models:\n  m: {pth: x}", nil, []string{`FILE:2: models.m.pth: unknown key; did you mean "models.m.path"?`}},
		{"number for text", "models: {m: {path: 12}}", nil, []string{
			`FILE:1: models.m.path = 12: want text, found the number 12; quote it`}},
		{"text for number", "server: {max_inputs: many}", nil, []string{
			`FILE:1: server.max_inputs = "many": want a whole number, found the text "many"`}},
		{"fraction for whole number", "server: {max_inputs: 1.5}", nil, []string{
			`FILE:1: server.max_inputs = 1.5: want a whole number, found the number 1.5`}},
		{"number beyond int32", "server: {max_inputs: 3000000000}", nil, []string{
			`FILE:1: server.max_inputs = 3000000000: want a whole number, found the number 3000000000`}},
		{"number for duration", "fallback: {restart_wait: 5}", nil, []string{
			`FILE:1: fallback.restart_wait = 5: want a duration, found the number 5; write it with its unit, such as 500ms, 30s or 2m`}},
		{"negative duration", "fallback: {restart_wait: -5s}", nil, []string{`FILE:1: fallback.restart_wait = "-5s": want 0s or more`}},
		{"zero time-out", "hosts: {start_timeout: 0s}", nil, []string{`FILE:1: hosts.start_timeout = "0s": want more than 0s`}},
		{"below the minimum", "server: {queue: {max_running: 0}}", nil, []string{`FILE:1: server.queue.max_running = 0: want 1 or more`}},
		{"bad bytes", "cache: {max_bytes: 20XB}", nil, []string{
			`FILE:1: cache.max_bytes = "20XB": want a number of bytes such as 1048576, 512MB or 20GiB`}},
		{"too many bytes", "cache: {max_bytes: 9999999TiB}", nil, []string{
			`FILE:1: cache.max_bytes = "9999999TiB": 9999999TiB is more bytes than can be counted`}},
		{"text for boolean", "server: {allow_public: 'yes'}", nil, []string{
			`FILE:1: server.allow_public = "yes": want true or false, found the text "yes"`}},
		{"text for list", "route: {bert: cpu}", nil, []string{
			`FILE:1: route.bert = "cpu": want a list, found the text "cpu"; write [a, b] even for one entry`}},
		{"empty route", "route: {bert: []}", nil, []string{`FILE:1: route.bert: want 1 entries or more, found 0`}},
		{"bad platform", "route: {bert: [CPU]}", nil, []string{
			"FILE:1: route.bert.0 = \"CPU\": want a platform such as cpu, or a device such as simulation:static; `accel devices` lists those that there are"}},
		{"bad address", "server: {listen: localhost}", nil, []string{
			`FILE:1: server.listen = "localhost": want an address with a port, such as 127.0.0.1:8399 or [::1]:8399`}},
		{"bad port", "server: {listen: 'localhost:99999'}", nil, []string{
			`FILE:1: server.listen = "localhost:99999": want a port from 0 to 65535, not "99999"`}},
		{"bad origin", "server: {allow_origins: ['https://a/b']}", nil, []string{
			`FILE:1: server.allow_origins.0 = "https://a/b": want an origin such as https://app.example.com, without a path`}},
		{"map for text", "cache: {dir: {a: 1}}", nil, []string{`FILE:1: cache.dir: want text, found a map`}},
		{"list for section", "server: [1]", nil, []string{
			`FILE:1: server: want a section, found a list; it holds: listen, api_keys, api_key_file, allow_public, allow_origins, max_body_bytes, max_audio_bytes, max_inputs, queue, timeouts`}},
		{"secret of a wrong type", "server: {api_keys: [12345]}", nil, []string{
			`FILE:1: server.api_keys.0 = [redacted]: want secret text, found something else; quote it`}},
		{"required", "models:\n  x: {task: embed}", nil, []string{`FILE:2: models.x.path: it is required and not set; set it`}},
		{"empty name", "models: {'': {path: x}}", nil, []string{`FILE:1: models."": a name must be visible text in one line`}},
		{"settings that JSON can't say", "backends: {x: {settings: {a: .inf}}}", nil, []string{
			`FILE:1: backends.x.settings.a = +Inf: it is handed on as JSON, which can't say this`}},
		{"backoff turned round", "hosts: {backoff: {first: 1m}}", nil, []string{
			`FILE:1: hosts.backoff.first = 1m0s: it is longer than hosts.backoff.max (30s); lower it, or raise the other`}},
		{"syntax", "server:\n  listen: [", nil, []string{"FILE:2: did not find expected node content"}},
		{"duplicate key", "log: {}\nlog: {}", nil, []string{`FILE:2: key "log" was already given in line 1`}},
		{"two documents", "log: {}\n---\nlog: {}", nil, []string{"FILE:2: a second document begins here; a file holds one"}},
		{"foreign tag", "log: !!binary aGk=", nil, []string{"FILE:1: values of type !!binary are not taken"}},
		{"not UTF-8", "log: {level: \xff}", nil, []string{"FILE: it is not valid UTF-8"}},
		{"alias of itself", "backends: {x: {settings: &a {b: *a}}}", nil, []string{"values lie more than 64 deep"}},
		{"unknown variable", "", []string{"ACCEL_SERVER_LISEN=x"}, []string{
			"$ACCEL_SERVER_LISEN: no key has this variable; did you mean ACCEL_SERVER_LISTEN?"}},
		{"bad variable", "", []string{"ACCEL_SERVER_MAX_INPUTS=x"}, []string{
			`$ACCEL_SERVER_MAX_INPUTS: server.max_inputs = "x": want a whole number, found the text "x"`}},
		{"variable of a section", "", []string{"ACCEL_SERVER={}"}, []string{
			"$ACCEL_SERVER: no key has this variable; "}},
		{"variable that isn't JSON", "", []string{"ACCEL_MODELS={"}, []string{
			"$ACCEL_MODELS: models: it ends in the middle of a value; write it as JSON"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			path := write(t, "c.yaml", x.file)
			_, err := Load(Sources{Defaults: defaults(), File: path, Environ: x.env})
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want Errors", err)
			}
			if len(errs) != len(x.want) {
				t.Fatalf("got %d errors, want %d:\n%v", len(errs), len(x.want), err)
			}
			for i, want := range x.want {
				want = strings.ReplaceAll(want, "FILE", path)
				if got := errs[i].Error(); !strings.HasPrefix(got, want) && !strings.HasSuffix(got, want) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		})
	}
}

func TestFilesThatCantBeRead(t *testing.T) {
	for _, x := range []struct{ name, path, want string }{
		{"missing", filepath.Join(t.TempDir(), "none.yaml"), "there is no such file; check the path"},
		{"another kind", write(t, "accel.toml", "a = 1"), "its name ends neither in .yaml nor .yml nor .json"},
		{"too long", write(t, "a.yaml", strings.Repeat("#", maxFileBytes+1)), "it is longer than 4MiB"},
		{"JSON cut short", write(t, "a.json", "{\n\"log\": {"), ":2: it ends in the middle of a value"},
		{"JSON with more", write(t, "a.json", "{}\n{}"), ":2: something follows the end of the object"},
		{"JSON with a key twice", write(t, "a.json", `{"log": {}, "log": {}}`), `:1: key "log" is given twice`},
	} {
		_, err := Load(Sources{Defaults: defaults(), File: x.path})
		if err == nil || !strings.Contains(err.Error(), x.path) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %q", x.name, err, x.want)
		}
	}
}

func TestEmptyFileSaysNothing(t *testing.T) {
	for _, content := range []string{"", "# only a comment\n", "---\n", "{}"} {
		l, err := Load(Sources{Defaults: defaults(), File: write(t, "a.yaml", content)})
		if err != nil {
			t.Errorf("%q: %v", content, err)
		} else if !reflect.DeepEqual(l.Config, defaults()) {
			t.Errorf("%q changed the defaults", content)
		}
	}
}

func TestRunFile(t *testing.T) {
	base := write(t, "accel.yaml", "models: {mini: {path: /models/mini}}\nlog: {level: error}\n")
	for _, x := range []struct {
		name  string
		file  string // DIR stands for its folder
		flags []Flag
		run   Run
		model Model
		err   string
	}{
		{
			name:  "a path",
			file:  "task: embed\nmodel: ../m/MiniLM\ninputs: {file: s.txt}\noutput: {file: out.npy, format: npy}\nlog: {level: warn}\n",
			run:   Run{Task: "embed", Model: "MiniLM", Inputs: Inputs{File: "DIR/s.txt"}, Output: Output{Format: "npy", File: "DIR/out.npy", Pairs: 10}},
			model: Model{Path: "PARENT/m/MiniLM"},
		},
		{
			name:  "a name, on another platform",
			file:  "task: embed\nmodel: mini\nplatform: cpu\ninputs: {texts: [a, b]}\n",
			flags: []Flag{{"--platform", []string{"platform"}, "simulation:static"}},
			run: Run{Task: "embed", Model: "mini", Platform: "simulation:static", Inputs: Inputs{Texts: []string{"a", "b"}},
				Output: Output{Format: "table", Pairs: 10}},
			model: Model{Path: "/models/mini", Platform: "simulation:static"},
		},
		{
			name:  "a path whose name is taken",
			file:  "task: embed\nmodel: /elsewhere/mini\ninputs: {texts: [a]}\n",
			run:   Run{Task: "embed", Model: filepath.FromSlash("/elsewhere/mini"), Inputs: Inputs{Texts: []string{"a"}}, Output: Output{Format: "table", Pairs: 10}},
			model: Model{Path: filepath.FromSlash("/elsewhere/mini")},
		},
		{
			name: "infer", file: "task: infer\nmodel: ../m/net.onnx\nrepeat: 3\ninputs: {file: in.npz, tensors: {x: x.npy, n: 3, l: [[1, 2.5]]}, generate: 'random:7', dims: {batch: 2}, cast: true}\n" +
				"output: {file: out, format: pb, only: [y]}\n",
			run: Run{Task: "infer", Model: "net.onnx", Repeat: 3,
				Inputs: Inputs{File: "DIR/in.npz", Tensors: map[string]any{"x": "DIR/x.npy", "n": int64(3), "l": []any{[]any{int64(1), 2.5}}},
					Generate: "random:7", Dims: map[string]int{"batch": 2}, Cast: true},
				Output: Output{File: "DIR/out", Format: "pb", Only: []string{"y"}, Pairs: 10}},
			model: Model{Path: "PARENT/m/net.onnx"},
		},
		{
			name: "infer without inputs", file: "task: infer\nmodel: m.onnx\n",
			run:   Run{Task: "infer", Model: "m.onnx", Output: Output{Format: "table", Pairs: 10}},
			model: Model{Path: "DIR/m.onnx"},
		},
		{name: "infer with texts", file: "task: infer\nmodel: m.onnx\ninputs: {texts: [a]}\n", err: "inputs.texts: it is for the task embed, this is infer; leave it out"},
		{name: "embed with tensors", file: "task: embed\nmodel: m\ninputs: {file: a, tensors: {x: 1}}\n", err: "inputs.tensors: it is for the task infer"},
		{name: "a format of another task", file: "task: infer\nmodel: m\noutput: {format: jsonl}\n", err: "output.format: jsonl is for the task embed or generate or classify or detect, this is infer"},
		{
			name:  "generate",
			file:  "task: generate\nmodel: ../m/smol\ninputs: {file: p.jsonl}\noutput: {file: out.jsonl, order: finish, resume: true}\nrequest: {max_tokens: 8, stop: [a, b]}\nconcurrency: 3\n",
			run:   Run{Task: "generate", Model: "smol", Inputs: Inputs{File: "DIR/p.jsonl"}, Output: Output{Format: "table", File: "DIR/out.jsonl", Pairs: 10, Order: "finish", Resume: true}, Request: map[string]any{"max_tokens": int64(8), "stop": []any{"a", "b"}}, Concurrency: 3},
			model: Model{Path: "PARENT/m/smol"},
		},
		{
			name:  "transcribe",
			file:  "task: transcribe\nmodel: ../m/whisper\ninputs: {file: talk.mp3}\noutput: {file: talk.srt, format: srt}\nrequest: {language: en}\n",
			run:   Run{Task: "transcribe", Model: "whisper", Inputs: Inputs{File: "DIR/talk.mp3"}, Output: Output{Format: "srt", File: "DIR/talk.srt", Pairs: 10}, Request: map[string]any{"language": "en"}},
			model: Model{Path: "PARENT/m/whisper"},
		},
		{name: "transcribe nothing", file: "task: transcribe\nmodel: m\n", err: "inputs.file: it is required and not set; name a sound"},
		{name: "a request to embed", file: "task: embed\nmodel: m\ninputs: {texts: [a]}\nrequest: {a: 1}\n", err: "request: it is for the task generate or transcribe or classify or detect, this is embed"},
		{name: "subtitles of vectors", file: "task: embed\nmodel: m\ninputs: {texts: [a]}\noutput: {format: srt}\n", err: "output.format: srt is for the task transcribe, this is embed"},
		{name: "generate nothing", file: "task: generate\nmodel: m\n", err: "inputs.file: it is required and not set; name a file of JSON lines"},
		{name: "generate with texts", file: "task: generate\nmodel: m\ninputs: {file: a, texts: [b]}\n", err: "inputs.texts: it is for the task embed, this is generate"},
		{name: "resume what", file: "task: generate\nmodel: m\ninputs: {file: a}\noutput: {resume: true}\n", err: "output.resume: there is no file to go on with; set output.file"},
		{name: "too many at a time", file: "task: generate\nmodel: m\ninputs: {file: a}\nconcurrency: 257\n", err: "concurrency = 257: no more than generate.max_waiting (256) requests may wait"},
		{name: "another order", file: "task: generate\nmodel: m\ninputs: {file: a}\noutput: {order: random}\n", err: "output.order = \"random\": unknown value"},
		{name: "order of vectors", file: "task: embed\nmodel: m\ninputs: {file: a}\noutput: {order: input}\n", err: "output.order: it is for the task generate, this is embed"},
		{name: "unknown generator", file: "task: infer\nmodel: m\ninputs: {generate: noise}\n", err: "want zeros, ones, random or random:SEED"},
		{name: "no task", file: "model: mini\ninputs: {texts: [a]}\n", err: "task: it is required and not set; set it"},
		{name: "no inputs", file: "model: mini\ntask: embed\n", err: "inputs: want either a file or texts; give `file: FILE`, one text a line, or `texts: [...]`"},
		{name: "both inputs", file: "model: mini\ntask: embed\ninputs: {file: a, texts: [b]}\n", err: "inputs: want either a file or texts"},
		{name: "typo", file: "modle: mini\n", err: `modle: unknown key; did you mean "model"?`},
	} {
		t.Run(x.name, func(t *testing.T) {
			path := write(t, "run.yaml", x.file)
			l, err := Load(Sources{Defaults: defaults(), File: base, RunFile: path, Flags: x.flags})
			if x.err != "" {
				if err == nil || !strings.Contains(err.Error(), x.err) {
					t.Fatalf("got %v, want %q", err, x.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Dir(path)
			place := func(s string) string {
				return filepath.FromSlash(strings.NewReplacer("DIR", dir, "PARENT", filepath.Dir(dir)).Replace(s))
			}
			want := x.run
			want.Inputs.File, want.Output.File = place(want.Inputs.File), place(want.Output.File)
			for name, v := range want.Inputs.Tensors {
				if file, ok := v.(string); ok {
					want.Inputs.Tensors[name] = place(file)
				}
			}
			if !reflect.DeepEqual(*l.Run, want) {
				t.Errorf("got  %+v\nwant %+v", *l.Run, want)
			}
			model := x.model
			model.Path = place(model.Path)
			if got := l.Config.Models[l.Run.Model]; got != model {
				t.Errorf("model %+v, want %+v", got, model)
			}
		})
	}
	if _, err := Load(Sources{Defaults: defaults(), File: write(t, "c.yaml", "task: embed")}); err == nil {
		t.Error("a configuration file took a run's key")
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	path := write(t, "accel.yaml", "server: {api_keys: [hunter2]}\nbackends: {x: {env: {T: hunter2}}}\n")
	l, err := Load(Sources{Defaults: defaults(), File: path, Environ: []string{`ACCEL_BACKENDS={"y": {"env": {"K": "hunter2"}}}`}})
	if err != nil {
		t.Fatal(err)
	}
	var b stdbytes.Buffer
	if err := l.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(l.Settings())
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(l.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{b.String(), string(j), string(c), fmt.Sprintf("%v %+v %#v %s %q", l.Config, l.Config, l.Config, l.Config.Server.APIKeys, l.Config.Server.APIKeys)} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("shown: %s", s)
		}
	}
	if strings.Count(b.String(), redacted) != 3 {
		t.Errorf("want three marks:\n%s", b.String())
	}
	if l.Config.Server.APIKeys[0].Reveal() != "hunter2" {
		t.Error("the key is lost")
	}
}

// What WriteYAML writes must mean what it was made from.
func TestShownConfigurationLoadsAgain(t *testing.T) {
	path := write(t, "accel.yaml", strings.NewReplacer("api_keys: [k1, k2]", "api_keys: []", "env: {TOKEN: hunter2}", "env: {}").Replace(full))
	l, err := Load(Sources{Defaults: defaults(), File: path})
	if err != nil {
		t.Fatal(err)
	}
	var b stdbytes.Buffer
	if err := l.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	again, err := Load(Sources{Defaults: defaults(), File: write(t, "shown.yaml", b.String())})
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if a, z := fmt.Sprintf("%#v", l.Settings()), fmt.Sprintf("%#v", again.Settings()); len(l.Settings()) != len(again.Settings()) || l.Config.Server.Listen != again.Config.Server.Listen {
		t.Errorf("got  %s\nwant %s", z, a)
	}
	for i, s := range l.Settings() {
		if a := again.Settings()[i]; !reflect.DeepEqual(s.Value, a.Value) || s.Key != a.Key {
			t.Errorf("%s = %v became %s = %v", s.Key, s.Value, a.Key, a.Value)
		}
	}
	if !strings.Contains(b.String(), "# "+path+":") || !strings.Contains(b.String(), "# default") {
		t.Errorf("no origins in\n%s", b.String())
	}
}

func TestEveryKeyIsDocumented(t *testing.T) {
	seen := map[string]string{}
	runSpec.paths("", func(path string, f *spec) {
		if f.doc == "" {
			t.Errorf("%s has no doc", path)
		}
		if f.env != "" && f.settable() {
			if other, ok := seen[f.env]; ok {
				t.Errorf("%s and %s share %s", path, other, f.env)
			}
			seen[f.env] = path
			if isReserved(f.env) {
				t.Errorf("%s of %s is reserved", f.env, path)
			}
		}
	})
	if seen["ACCEL_TASK"] != "" || seen["ACCEL_SERVER_QUEUE_MAX_RUNNING"] != "server.queue.max_running" {
		t.Errorf("variables: %v", seen)
	}
}

func TestSchema(t *testing.T) {
	for _, run := range []bool{false, true} {
		b, err := Schema(defaults(), run)
		if err != nil {
			t.Fatal(err)
		}
		var s map[string]any
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		if s["additionalProperties"] != false {
			t.Error("unknown keys are taken")
		}
		props := s["properties"].(map[string]any)
		if _, ok := props["task"]; ok != run {
			t.Errorf("run %v: task is described: %v", run, ok)
		}
		srv := props["server"].(map[string]any)["properties"].(map[string]any)
		if got := srv["listen"].(map[string]any)["default"]; got != "127.0.0.1:8399" {
			t.Errorf("default of server.listen: %v", got)
		}
		if got := props["fallback"].(map[string]any)["properties"].(map[string]any)["policy"].(map[string]any)["enum"]; !reflect.DeepEqual(got, []any{"deny", "warn", "allow"}) {
			t.Errorf("fallback.policy takes %v", got)
		}
		if i, j := strings.Index(string(b), `"models"`), strings.Index(string(b), `"log"`); i < 0 || j < i {
			t.Error("the sections are not in the struct's order")
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"listen", "log", "cache", "max_body_bytes"}
	for name, want := range map[string]string{
		"lisetn": "listen", "lsiten": "listen", "Listen": "listen", "lgo": "log", "cahce": "cache",
		"max_body": "", "max_body_byte": "max_body_bytes", "zebra": "", "": "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	if got := Nearest("x", nil); got != "" {
		t.Errorf("among none: %q", got)
	}
}

func TestBytes(t *testing.T) {
	for s, want := range map[string]Bytes{
		"0": 0, "17": 17, "1KiB": 1024, "1.5 GiB": 3 << 29, "2MB": 2e6, "3kB": 3000, "12B": 12, "1TiB": 1 << 40,
	} {
		got, err := ParseBytes(s)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", s, got, err, want)
		}
		if back, err := ParseBytes(got.String()); err != nil || back != got {
			t.Errorf("%d prints as %q, which reads as %d, %v", got, got, back, err)
		}
	}
	for _, s := range []string{"", "GiB", "1.5", "x", "1 zB", "NaNGiB", "InfMB", "1e30GiB"} {
		if got, err := ParseBytes(s); err == nil {
			t.Errorf("%q was taken as %d", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full), false)
	f.Add([]byte(`{"server": {"listen": "127.0.0.1:1"}, "models": {"a": {"path": "b"}}}`), true)
	f.Add([]byte("a: &x [1, *x]"), false)
	f.Fuzz(func(t *testing.T, data []byte, asJSON bool) {
		parse := parseYAML
		if asJSON {
			parse = parseJSON
		}
		n, err := parse(data)
		if (n == nil) == (err == nil) {
			t.Fatalf("node %v, error %v", n, err)
		}
		if err != nil {
			return
		}
		var errs Errors
		c := &checker{origin: Origin{Kind: FromFile, Name: "f"}, origins: map[string]Origin{}, errs: &errs}
		c.section(runSpec, n, nil)
		for _, e := range errs {
			if e.Key == "" && n.shape == mapping {
				t.Fatalf("no key in %v", e)
			}
		}
	})
}
