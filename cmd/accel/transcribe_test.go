package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTranscribe(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// A second and a half of silence at 8 kHz, of which the header says two.
	sound := file("sound.wav", "RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data\x00\x7d\x00\x00"+strings.Repeat("\x00", 24000))
	run := file("run.yaml", "task: transcribe\nmodel: mini\ninputs: {file: sound.wav}\nrequest: {language: de, prompt: \"Hi\", translate: true}\n")

	status, out, errs := call(t.Context(), &fake{}, nil, "run", run)
	if want := "0:00.0 - 0:00.5  language \"de\", prompt \"Hi\", translate true.\n0:01.0 - 0:01.5  The end.\n"; status != 0 || out != want {
		t.Errorf("status %d: %s, wanted %s", status, out, want)
	}
	for _, want := range []string{"ends 8000 bytes before its header says", "mini on cpu:0 (hardware): 0:01.5 of en in "} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not in %s", want, errs)
		}
	}
	srt := filepath.Join(dir, "out.srt")
	status, out, errs = call(t.Context(), &fake{}, nil, "run", "mini", "--task", "transcribe", "--inputs", sound, "--format", "srt", "--output", srt)
	data, err := os.ReadFile(srt)
	if status != 0 || err != nil || !strings.HasPrefix(string(data), "1\n00:00:00,000 --> 00:00:00,500\nlanguage \"\", prompt \"\", translate false.\n\n2\n") || !strings.Contains(out, "wrote "+srt) {
		t.Errorf("status %d, %v: %s%s%s", status, err, data, out, errs)
	}
	var verbose struct {
		Task     string
		Duration float64
		Segments []struct{ Text string }
	}
	if status, out, _ = call(t.Context(), &fake{}, nil, "run", run, "--json"); status != 0 || json.Unmarshal([]byte(out), &verbose) != nil || verbose.Task != "translate" || verbose.Duration != 1.5 || len(verbose.Segments) != 2 {
		t.Errorf("status %d: %s", status, out)
	}
	var told transcript
	if status, out, _ = call(t.Context(), &fake{}, nil, "run", run, "--json", "--output", filepath.Join(dir, "o.json")); status != 0 || json.Unmarshal([]byte(out), &told) != nil || told.Segments != 2 || told.Language != "en" || len(told.Notes) != 1 {
		t.Errorf("status %d: %s", status, out)
	}
	for _, tt := range []struct{ file, want string }{
		{"task: transcribe\nmodel: mini\ninputs: {file: none.wav}\n", "none.wav"},
		{"task: transcribe\nmodel: mini\ninputs: {file: run.yaml}\n", "no format of sound"},
		{"task: transcribe\nmodel: mini\ninputs: {file: sound.wav}\nrequest: {speed: 2}\n", "there is no field \"speed\""},
		{"task: transcribe\nmodel: mini\ninputs: {file: sound.wav}\nrequest: {translate: maybe}\n", "translate: found maybe"},
		{"task: transcribe\nmodel: mini\ninputs: {file: sound.wav}\nrequest: {temperature: 7}\n", "temperature: found \"7\""},
	} {
		if status, _, errs := call(t.Context(), &fake{}, nil, "run", file("bad.yaml", tt.file)); status != exitUsage || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: status %d, %s, wanted %q", tt.file, status, errs, tt.want)
		}
	}
}
