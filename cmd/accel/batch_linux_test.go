package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/testfiles"
)

// batchLine is a line that `accel run` generated.
type batchLine struct {
	ID       any
	Text     string
	Message  struct{ Content string }
	Finish   string `json:"finish_reason"`
	Platform string
	Device   string
	Kind     string
	Replays  *int
	Usage    struct {
		Completion int `json:"completion_tokens"`
	}
	Error *struct{ Code, Message string }
}

func readBatch(t *testing.T, path string) []batchLine {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []batchLine
	for line := range strings.Lines(string(data)) {
		var l batchLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		out = append(out, l)
	}
	return out
}

// prompts writes n lines, some of them long.
func prompts(t *testing.T, n, tokens int) string {
	t.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"id": "p%d", "messages": [{"role": "user", "content": "%shello"}], "max_tokens": %d, "temperature": 0}`+"\n", i, strings.Repeat("so ", i%7), tokens)
	}
	path := filepath.Join(t.TempDir(), "prompts.jsonl")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type batchSummary struct {
	Lines, Before, Answered, Failed, Errors int
	Completion                              int     `json:"completion_tokens"`
	Speed                                   float64 `json:"tokens_per_second"`
	Decisions                               []any
}

// TestBatch answers lines as the server answers requests, in both orders, and goes on after it was
// cut off.
func TestBatch(t *testing.T) {
	in, dir := prompts(t, 60, 12), t.TempDir()
	whole := filepath.Join(dir, "whole.jsonl")
	var sum batchSummary
	answer(t, &sum, "run", tiny(t, "llama"), "--task", "generate", "--inputs", in, "--output", whole, "--json", "--platform", "cpu")
	if sum.Lines != 60 || sum.Answered != 60 || sum.Errors != 0 || sum.Completion < 60 || sum.Speed <= 0 || len(sum.Decisions) != 1 {
		t.Errorf("got %+v", sum)
	}
	lines := readBatch(t, whole)
	s := serve(t, map[string]any{"models": map[string]any{"llama": map[string]any{"path": tiny(t, "llama")}}})
	want := map[int]string{}
	for i, l := range lines {
		if l.ID != fmt.Sprint("p", i) || l.Platform != "cpu" || l.Device != "cpu:0" || l.Kind != "hardware" || l.Replays == nil || *l.Replays != 0 || l.Finish == "" || l.Usage.Completion == 0 {
			t.Fatalf("line %d is %+v", i, l)
		}
		if _, ok := want[i%7]; !ok {
			var reply struct {
				Choices []struct{ Message struct{ Content string } }
			}
			s.postJSON(t, "/v1/chat/completions", map[string]any{"model": "llama", "temperature": 0, "max_tokens": 12,
				"messages": []any{map[string]any{"role": "user", "content": strings.Repeat("so ", i%7) + "hello"}}}, &reply)
			want[i%7] = reply.Choices[0].Message.Content
		}
		if l.Message.Content != want[i%7] || l.Message.Content == "" {
			t.Errorf("line %d says %q, served it is %q", i, l.Message.Content, want[i%7])
		}
	}

	// Nothing is lost of a file that is there; with --resume the rest comes, and no more.
	run := []string{"run", tiny(t, "llama"), "--task", "generate", "--inputs", in, "--output", whole}
	if status, _, errs := accel(t, ".", run...); status != 2 || !strings.Contains(errs, "has answers already: go on with --resume, or remove it") {
		t.Errorf("status %d: %s", status, errs)
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	cut := bytes.SplitAfter(data, []byte("\n"))
	if err := os.WriteFile(whole, append(bytes.Join(cut[:20], nil), cut[20][:9]...), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, errs := accel(t, ".", append(run, "--resume", "--order", "finish", "--concurrency", "5")...)
	if status != 0 || !strings.Contains(out, "20 lines were answered before\n") || !strings.Contains(errs, "the last line of "+whole+" was not ended and is written anew") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	contains(t, out, "llama on cpu:0 (hardware): 40 lines, ", " tokens/s\n")
	if again := readBatch(t, whole); len(again) != 60 {
		t.Errorf("%d lines", len(again))
	} else {
		seen := map[any]string{}
		for _, l := range again {
			seen[l.ID] = l.Message.Content
		}
		for _, l := range lines {
			if seen[l.ID] != l.Message.Content {
				t.Errorf("%v says %q, and %q before", l.ID, seen[l.ID], l.Message.Content)
			}
		}
	}
	if status, out, errs := accel(t, ".", append(run, "--resume")...); status != 0 || !strings.Contains(out, "60 lines were answered before") {
		t.Errorf("nothing was left: status %d: %s%s", status, out, errs)
	}

	// Wrong lines are answered so, and the exit status says it; without a file answers are the output.
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(filepath.Join(dir, "bad.jsonl"), []byte("{\"prompt\": \"hello\"}\nnonsense\n{\"id\": \"x\", \"prompt\": \"a\", \"max_tokens\": 100000}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("task: generate\nmodel: "+tiny(t, "llama")+"\ninputs: {file: bad.jsonl}\nrequest: {max_tokens: 3, temperature: 0}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, errs = accel(t, ".", "run", bad)
	if status != 1 || strings.Count(out, "\n") != 3 || !strings.Contains(errs, "2 lines could not be answered; each says why") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	contains(t, out, `{"id":1,"text":`, `"usage":{"prompt_tokens":`, `{"id":2,"error":{"message":"the line is not a JSON object`, `{"id":"x","error":{"message":"the prompt has`)
	for _, x := range []struct {
		args []string
		says string
	}{
		{[]string{bad, "--json"}, "name a file for the answers with --output"},
		{[]string{bad, "--resume"}, "output.resume: there is no file to go on with"},
		{[]string{bad, "--output", in, "--resume"}, "of no line of"},
		{[]string{bad, "--inputs", "/nowhere.jsonl"}, "inputs.file: open /nowhere.jsonl"},
		{[]string{bad, "--format", "npy"}, "npy is for the task embed or infer, this is generate"},
	} {
		if status, out, errs := accel(t, ".", append([]string{"run"}, x.args...)...); status != 2 || !strings.Contains(errs, x.says) {
			t.Errorf("%v: status %d: %s%s", x.args, status, out, errs)
		}
	}
}

// TestBatchOutlivesItsBackend kills the backend under a batch, and interrupts another: with --resume
// all lines are answered, as an undisturbed run answers them.
func TestBatchOutlivesItsBackend(t *testing.T) {
	in, dir := prompts(t, 300, 48), t.TempDir()
	start := func(out string, more ...string) *serving {
		s := &serving{Cmd: command(t, append([]string{"run", tiny(t, "llama"), "--task", "generate", "--inputs", in, "--output", filepath.Join(dir, out), "--platform", "cpu"}, more...)...), log: &lockedBuffer{}}
		s.Stderr, s.Stdout = s.log, s.log
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if s.ProcessState == nil {
				s.Process.Kill()
				s.Wait()
			}
		})
		return s
	}
	written := func(out string) int {
		f, err := os.Open(filepath.Join(dir, out))
		if err != nil {
			return 0
		}
		defer f.Close()
		n := 0
		for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		}
		return n
	}
	if s := start("calm"); s.Wait() != nil {
		t.Fatalf("%s", s.log)
	}
	want := map[any]string{}
	for _, l := range readBatch(t, filepath.Join(dir, "calm")) {
		want[l.ID] = l.Message.Content
	}

	s := start("killed")
	eventually(t, 30*time.Second, "answers come", func() bool { return written("killed") > 20 })
	for _, pid := range s.backends(t, "cpu") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Wait(); err != nil {
		t.Fatalf("%v: %s", err, s.log)
	}
	replays := 0
	check := func(out string) {
		t.Helper()
		lines := readBatch(t, filepath.Join(dir, out))
		if len(lines) != len(want) {
			t.Fatalf("%s: %d lines, want %d", out, len(lines), len(want))
		}
		for i, l := range lines {
			if l.ID != fmt.Sprint("p", i) || l.Error != nil || l.Message.Content != want[l.ID] {
				t.Fatalf("%s: line %d is %+v, want %q", out, i, l, want[l.ID])
			}
			replays += *l.Replays
		}
	}
	check("killed")
	if replays == 0 {
		t.Error("no line says that its device died")
	}

	s = start("interrupted")
	eventually(t, 30*time.Second, "answers come", func() bool { return written("interrupted") > 20 })
	if err := s.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if s.Wait(); s.ProcessState.ExitCode() != 130 || !strings.Contains(s.log.String(), "of 300 lines are answered; --resume goes on from there") {
		t.Errorf("status %d: %s", s.ProcessState.ExitCode(), s.log)
	}
	if n := written("interrupted"); n == 300 {
		t.Error("nothing was left to resume")
	}
	if s := start("interrupted", "--resume"); s.Wait() != nil {
		t.Fatalf("%s", s.log)
	}
	check("interrupted")
}

// TestOwnBatch runs the example on the real model.
func TestOwnBatch(t *testing.T) {
	testfiles.Model(t, "SmolLM2-135M-Instruct-Q4_1")
	status, out, errs := accel(t, ".", "run", "../../configs/generate.yaml")
	if status != 0 || strings.Count(out, "\n") != 6 {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	contains(t, out, `{"id":"capital","message":{"role":"assistant","content":"The capital of France is Paris`, `"custom_id":"batch-1","response":{"status_code":200,`)
	for line := range strings.Lines(out) {
		var l batchLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		var animal struct {
			Name string
			Legs *int
		}
		if l.ID == "facts" && l.Finish == "stop" && (json.Unmarshal([]byte(l.Message.Content), &animal) != nil || animal.Legs == nil) {
			t.Errorf("against its schema: %+v", l)
		}
	}
}
