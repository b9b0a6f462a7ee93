package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/accelhq/accel/core/hub"
	"github.com/accelhq/accel/core/hub/hubtest"
	"github.com/accelhq/accel/sdk/testfiles"
)

// hubFor starts a hub that the commands of this test ask, with a cache of their own.
func hubFor(t *testing.T) (s *hubtest.Server, cache string) {
	t.Helper()
	s, cache = hubtest.New(t), t.TempDir()
	for k, v := range map[string]string{"HF_ENDPOINT": s.URL, "HF_HUB_CACHE": cache, "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", "HF_HUB_OFFLINE": ""} {
		t.Setenv(k, v)
	}
	return s, cache
}

// folder is the content of a folder's files.
func folder(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

type pulledJSON struct {
	Model, Revision, Commit, Path, File, Use string
	Files                                    int
	Bytes, Loaded                            int64
	Notes                                    []string
}

// TestPullAndUse pulls a model as users do, runs it by its name in every command, and removes it.
func TestPullAndUse(t *testing.T) {
	s, cache := hubFor(t)
	llama := folder(t, tiny(t, "llama"))
	commit := s.Add("org/tiny-llama", hubtest.Repo{Files: llama})
	s.Add("org/tiny-bert", hubtest.Repo{Files: folder(t, tinyBERT(t))})

	// Not there yet: every command says what to do.
	for _, args := range [][]string{{"chat", "hub:org/tiny-llama", "hello"}, {"inspect", "hub:org/tiny-llama"}, {"explain", "hub:org/tiny-llama"}, {"run", "hub:org/tiny-llama", "--generate", "zeros"}} {
		status, out, errs := accel(t, ".", args...)
		if status != 3 || !strings.Contains(errs, "org/tiny-llama is not in the hub's cache ("+cache+"); run `accel pull org/tiny-llama`") {
			t.Errorf("%v: status %d, %s%s", args, status, out, errs)
		}
	}
	if status, out, errs := accel(t, ".", "models", "list"); status != 0 || !strings.Contains(out, "There is no model in "+cache) {
		t.Errorf("status %d: %s%s", status, out, errs)
	}

	s.Cut(llama["model.safetensors"], 100_000)
	status, out, errs := accel(t, ".", "pull", "org/tiny-llama")
	if status != 0 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	snapshot := filepath.Join(cache, "models--org--tiny-llama", "snapshots", commit)
	contains(t, out, "org/tiny-llama is in "+snapshot+": 6 files, ", " loaded in ", "use it: accel chat hub:org/tiny-llama\n")
	if _, err := os.Stat(filepath.Join(snapshot, "golden.safetensors")); err == nil {
		t.Error("a file was taken that Accel does not read")
	}
	var again pulledJSON
	answer(t, &again, "pull", "hub:org/tiny-llama@main", "--json")
	if again.Loaded != 0 || again.File != snapshot || again.Commit != commit || again.Use != "accel chat hub:org/tiny-llama" || again.Files != 6 {
		t.Errorf("got %+v", again)
	}

	var byPath, byName struct {
		Text, Model string
		Finish      string `json:"finish_reason"`
	}
	answer(t, &byPath, "chat", tiny(t, "llama"), "hello", "--json", "--temperature", "0", "--max-tokens", "12")
	answer(t, &byName, "chat", "hub:org/tiny-llama", "hello", "--json", "--temperature", "0", "--max-tokens", "12")
	if byName.Text == "" || byName.Text != byPath.Text {
		t.Errorf("by name %+v, by path %+v", byName, byPath)
	}
	server := serve(t, map[string]any{"models": map[string]any{"l": map[string]any{"path": "hub:org/tiny-llama@" + commit}}})
	var reply struct {
		Choices []struct{ Message struct{ Content string } }
	}
	server.postJSON(t, "/v1/chat/completions", map[string]any{"model": "l", "temperature": 0, "max_tokens": 12,
		"messages": []any{map[string]any{"role": "user", "content": "hello"}}}, &reply)
	if got := reply.Choices[0].Message.Content; got != byPath.Text {
		t.Errorf("served: %q, want %q", got, byPath.Text)
	}
	for _, args := range [][]string{{"inspect", "hub:org/tiny-llama"}, {"explain", "hub:org/tiny-llama"}} {
		if status, out, errs := accel(t, ".", args...); status != 0 || !strings.Contains(out, "llama") {
			t.Errorf("%v: status %d, %s%s", args, status, out, errs)
		}
	}

	// verify wants the recorded outputs, too.
	answer(t, &again, "pull", "org/tiny-bert", "--all", "--json")
	if again.Use != "accel serve --model tiny-bert=hub:org/tiny-bert" {
		t.Errorf("got %+v", again)
	}
	if status, out, errs := accel(t, ".", "verify", "hub:org/tiny-bert", "--platform", "cpu"); status != 0 || !strings.Contains(out, "1 passed") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	run := filepath.Join(t.TempDir(), "run.yaml")
	if err := os.WriteFile(run, []byte("task: embed\nmodel: hub:org/tiny-bert\ninputs: {texts: [a cat, a dog]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := accel(t, ".", "run", run); status != 0 || !strings.Contains(out, "2 sentences") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}

	status, out, errs = accel(t, ".", "models", "list")
	if status != 0 || errs != "" {
		t.Errorf("status %d: %s", status, errs)
	}
	contains(t, out, "MODEL           REVISION  CLASS  FILES", "org/tiny-bert   main      bert       5", "org/tiny-llama  main      llama      6", "  now\n")
	var list struct {
		Cache  string
		Models []hub.Cached
	}
	answer(t, &list, "models", "list", "--json")
	if list.Cache != cache || len(list.Models) != 2 || list.Models[1].Commit != commit || list.Models[1].Path != snapshot {
		t.Errorf("got %+v", list)
	}
	if _, out, _ := accel(t, ".", "__complete", "chat", ""); !strings.Contains(out, "hub:org/tiny-llama\n") {
		t.Errorf("completion: %s", out)
	}

	status, out, errs = accel(t, ".", "models", "rm", "org/tiny-llama@main")
	if status != 0 || !strings.Contains(out, "removed org/tiny-llama: 1 revision, ") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	if _, err := os.Stat(snapshot); err == nil {
		t.Error("it is still there")
	}
	for _, x := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"models", "rm", "org/tiny-llama"}, 3, "is not in the hub's cache"},
		{[]string{"models", "rm", "org/tiny-bert:Q4"}, 2, "a revision is removed whole"},
		{[]string{"models", "rm", "../../etc"}, 2, "names no model of the hub"},
		{[]string{"pull", "org/nothing"}, 3, "has no model org/nothing, or it is private"},
		{[]string{"pull", "org/tiny-bert@v9"}, 3, "has no revision v9"},
		{[]string{"pull", "org/tiny-bert:Q4_0"}, 2, "no GGUF or ONNX file of org/tiny-bert is called Q4_0"},
		{[]string{"pull", "org/tiny-bert", "--file", "*.gguf"}, 2, `no file of org/tiny-bert fits "*.gguf"`},
		{[]string{"pull", "org/tiny-bert", "--file", "x", "--all"}, 2, "exclude one another"},
		{[]string{"pull", "a/b/c"}, 2, "more than two parts"},
	} {
		if status, out, errs := accel(t, ".", x.args...); status != x.status || !strings.Contains(errs, x.says) {
			t.Errorf("%v: status %d, %s%s", x.args, status, out, errs)
		}
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	before := len(s.Requests())
	if status, _, errs := accel(t, ".", "pull", "org/tiny-llama"); status != 3 || !strings.Contains(errs, "$HF_HUB_OFFLINE forbids") || len(s.Requests()) != before {
		t.Errorf("offline: status %d, %s", status, errs)
	}
}

// TestPullGated needs a token, and shows it to the hub alone.
func TestPullGated(t *testing.T) {
	s, _ := hubFor(t)
	s.Add("org/gated", hubtest.Repo{Files: folder(t, tinyBERT(t)), Gated: true})
	status, out, errs := accel(t, ".", "pull", "org/gated")
	if status != 1 || !strings.Contains(errs, "org/gated is gated: accept its terms at "+s.URL+"/org/gated, then give a token of that account by $HF_TOKEN or hub.token") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	t.Setenv("HF_TOKEN", hubtest.Token)
	if status, out, errs = accel(t, ".", "pull", "org/gated"); status != 0 || strings.Contains(out+errs, hubtest.Token) {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	if _, out, _ = accel(t, ".", "config", "show"); strings.Contains(out, hubtest.Token) || !strings.Contains(out, "$HF_TOKEN") {
		t.Errorf("the token is shown, or not where it comes from: %s", out)
	}
}

// TestPullsInTwoProcesses: both succeed, and every byte comes once.
func TestPullsInTwoProcesses(t *testing.T) {
	s, _ := hubFor(t)
	files := folder(t, tinyBERT(t))
	s.Add("org/tiny", hubtest.Repo{Files: files})
	var weights atomic.Int64
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/lfs/") {
			weights.Add(1)
			time.Sleep(700 * time.Millisecond)
		}
		return false
	})
	first, second := command(t, "pull", "org/tiny", "--json"), command(t, "pull", "org/tiny", "--json")
	var a, b bytes.Buffer
	first.Stdout, second.Stdout = &a, &b
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if err := second.Run(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	var one, two pulledJSON
	for out, into := range map[*bytes.Buffer]*pulledJSON{&a: &one, &b: &two} {
		if err := json.Unmarshal(out.Bytes(), into); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	}
	if weights.Load() != 1 || one.Loaded+two.Loaded != one.Bytes || one.File != two.File {
		t.Errorf("the weights were asked for %d times; %+v and %+v", weights.Load(), one, two)
	}
}

// TestPullGGUF pulls one of several quantisations of a real model, which goes on after it was
// interrupted, and talks with it.
func TestPullGGUF(t *testing.T) {
	path := filepath.Join(testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1"), "SmolLM2-135M-Instruct.Q4_1.gguf")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := hubFor(t)
	s.Add("org/smol-GGUF", hubtest.Repo{Files: map[string][]byte{"SmolLM2-135M-Instruct.Q4_1.gguf": data, "SmolLM2-135M-Instruct.Q8_0.gguf": []byte("GGUF"), "README.md": []byte("x")}})
	if status, _, errs := accel(t, ".", "pull", "org/smol-GGUF"); status != 2 || !strings.Contains(errs, "93.8 MiB  SmolLM2-135M-Instruct.Q4_1.gguf") {
		t.Errorf("status %d: %s", status, errs)
	}
	begun := make(chan struct{})
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/lfs/") || r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", "98362432")
		w.Write(data[:30<<20])
		http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		return true
	})
	cut := command(t, "pull", "org/smol-GGUF:q4_1")
	if err := cut.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	time.Sleep(300 * time.Millisecond)
	if err := cut.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if cut.Wait(); cut.ProcessState.ExitCode() != 130 {
		t.Errorf("status %d", cut.ProcessState.ExitCode())
	}
	if _, out, _ := accel(t, ".", "models", "list"); !strings.Contains(out, "org/smol-GGUF are of a pull that has not ended; `accel pull org/smol-GGUF` goes on") {
		t.Errorf("it lists %s", out)
	}
	var got pulledJSON
	answer(t, &got, "pull", "org/smol-GGUF:q4_1", "--json")
	if got.Loaded > got.Bytes-10<<20 || got.Bytes != int64(len(data)) || got.Use != "accel chat hub:org/smol-GGUF:q4_1" {
		t.Errorf("got %+v", got)
	}
	var said struct{ Text string }
	answer(t, &said, "chat", "hub:org/smol-GGUF", "What is the capital of France?", "--json", "--temperature", "0", "--max-tokens", "12")
	if !strings.Contains(said.Text, "Paris") {
		t.Errorf("it said %q", said.Text)
	}
	var gone hub.Removed
	answer(t, &gone, "models", "rm", "org/smol-GGUF", "--json")
	if gone.Freed+gone.Linked != int64(len(data)) {
		t.Errorf("got %+v", gone)
	}
}

// TestPullSharesWithPython: each finds what the other pulled, and waits where the other loads, if the
// Makefile could install huggingface_hub.
func TestPullSharesWithPython(t *testing.T) {
	venv, err := filepath.Abs("../../.cache/venv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(venv, "huggingface_hub")); err != nil {
		t.Skip("huggingface_hub is not there: `make hub-client` installs it, with python3-venv")
	}
	s, cache := hubFor(t)
	t.Setenv("HF_HOME", filepath.Dir(cache)) // its own files go there, too
	t.Setenv("HF_HUB_DISABLE_TELEMETRY", "1")
	bert := folder(t, tinyBERT(t))
	commit := s.Add("org/ours", hubtest.Repo{Files: bert})
	theirs := s.Add("org/theirs", hubtest.Repo{Files: folder(t, tiny(t, "qwen2"))})
	python := func(into any, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(venv, "bin/python"), append([]string{"testdata/hub_client.py"}, args...)...)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err == nil {
			err = json.Unmarshal(out, into)
		}
		if err != nil {
			t.Fatalf("%v: %v\n%s%s", args, err, out, said.String())
		}
	}
	var ours pulledJSON
	answer(t, &ours, "pull", "org/ours", "--json")
	var found, pulled string
	python(&found, "find", "org/ours")
	if found != ours.File {
		t.Errorf("Python finds %s, want %s", found, ours.File)
	}
	python(&pulled, "pull", "org/theirs")
	before := len(s.Requests())
	if status, out, errs := accel(t, ".", "explain", "hub:org/theirs"); status != 0 || !strings.Contains(out, "qwen2") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	var again pulledJSON
	answer(t, &again, "pull", "org/theirs", "--json")
	if again.File != pulled || again.Loaded != 0 || len(s.Requests()) != before+1 {
		t.Errorf("pulled %+v again, Python has it in %s", again, pulled)
	}
	var scan map[string]map[string]struct {
		Refs, Files []string
		Size        int64
	}
	python(&scan, "scan", cache)
	if r := scan["org/ours"][commit]; len(scan) != 2 || len(r.Files) != 4 || r.Size != ours.Bytes || len(r.Refs) != 1 || r.Refs[0] != "main" || scan["org/theirs"][theirs].Size == 0 {
		t.Errorf("Python sees %+v", scan)
	}

	// Python loads the weights: accel waits until it has.
	if status, _, errs := accel(t, ".", "models", "rm", "org/ours"); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	lock := filepath.Join(cache, ".locks", "models--org--ours", hubtest.SHA256(bert["model.safetensors"])+".lock")
	hold := exec.CommandContext(t.Context(), filepath.Join(venv, "bin/python"), "testdata/hub_client.py", "hold", lock)
	end, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	wait := command(t, "pull", "org/ours")
	said := &lockedBuffer{}
	wait.Stdout, wait.Stderr = said, said
	if err := wait.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it waits", func() bool { return strings.Contains(said.String(), "another process loads model.safetensors") })
	if status, _, errs := accel(t, ".", "models", "rm", "org/ours"); status != 1 || !strings.Contains(errs, "org/ours is being pulled") {
		t.Errorf("status %d: %s", status, errs)
	}
	end.Close()
	if err := errors.Join(hold.Wait(), wait.Wait()); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	python(&found, "find", "org/ours")
}
