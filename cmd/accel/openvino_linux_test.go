package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/testfiles"
)

// These tests are about OpenVINO and let it in; they are skipped where it is not there.

// openVINO is the setting of a backend that looks for the runtime at path.
func openVINO(path string) map[string]any {
	return map[string]any{"env": map[string]string{"ACCEL_OPENVINO": path}}
}

// TestVerifyOnOpenVINO holds tiny models against what their references made of them.
func TestVerifyOnOpenVINO(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles dozens of graphs")
	}
	runtime := testfiles.OpenVINO(t)
	dirs, err := filepath.Glob(filepath.Join(testfiles.Shared(t, "tiny"), "*", "golden.safetensors"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no tiny models: %v", err)
	}
	args := []string{"verify", "--json", "--no-record", "--platform", "openvino"}
	for _, golden := range dirs {
		args = append(args, filepath.Dir(golden))
	}
	cmd := command(t, args...)
	cmd.Env = append(cmd.Env, "ACCEL_OPENVINO="+runtime)
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v", err)
	}
	var report verify.Report
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, r := range report.Results {
		var all int64
		for _, c := range r.Placed {
			all += c.FLOPs
		}
		if here := r.Placed["openvino"].FLOPs; !r.OK || all == 0 || here*100 < all*95 {
			t.Errorf("%s: %s, %d of %d operations on openvino: %s", r.Path, r.Status, here, all, r.Error)
		}
	}
	if report.Passed != len(dirs) {
		t.Errorf("%d of %d passed", report.Passed, len(dirs))
	}
}

// TestServeOnOpenVINO asks a model of each class, none of which may fall back.
func TestServeOnOpenVINO(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles dozens of graphs")
	}
	runtime := testfiles.OpenVINO(t)
	picture, err := os.ReadFile(filepath.Join(tinyModel(t, "vit"), "a.png"))
	if err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(filepath.Join("testdata", "speech.wav"))
	if err != nil {
		t.Fatal(err)
	}
	shown := "data:image/png;base64," + base64.StdEncoding.EncodeToString(picture)
	asks := func(text string) map[string]any {
		return map[string]any{"messages": []any{map[string]any{"role": "user", "content": []any{
			map[string]any{"type": "text", "text": text}, map[string]any{"type": "image_url", "image_url": map[string]any{"url": shown}}}}}, "max_tokens": 4, "temperature": 0}
	}
	completes := map[string]any{"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
	cases := []struct {
		model, path string
		body        map[string]any // nil: the sound
	}{
		{"bert", "/v1/embeddings", map[string]any{"input": "a sentence"}},
		{"llama", "/v1/completions", completes},
		{"qwen2", "/v1/completions", completes},
		{"qwen3", "/v1/completions", completes},
		{"t5", "/v1/completions", completes},
		{"vit", "/v1/classify", map[string]any{"input": shown}},
		{"clip", "/v1/classify", map[string]any{"input": shown, "labels": []string{"a cat", "a dog"}}},
		{"xclip", "/v1/classify", map[string]any{"input": map[string]any{"video_url": map[string]any{"url": shown}}, "labels": []string{"running", "standing"}}},
		{"detr", "/v1/detect", map[string]any{"input": shown, "threshold": 0.2}},
		{"llava", "/v1/chat/completions", asks("What is it?")},
		{"llava_next", "/v1/chat/completions", asks("What is it?")},
		{"clap", "/v1/embeddings", map[string]any{"input": "a dog barks"}},
		{"whisper", "/v1/audio/transcriptions", nil},
		{"wav2vec2", "/v1/audio/transcriptions", nil},
	}
	models := map[string]any{}
	for _, c := range cases {
		models[c.model] = map[string]any{"path": testfiles.Shared(t, "tiny", c.model), "platform": "openvino", "fallback": "deny"}
	}
	s := serveWithin(t, map[string]any{"models": models, "backends": map[string]any{"openvino": openVINO(runtime)}}, 4*time.Minute)
	for _, c := range cases {
		var body bytes.Buffer
		kind := "application/json"
		if c.body == nil {
			form := multipart.NewWriter(&body)
			f, err := form.CreateFormFile("file", "speech.wav")
			if err == nil {
				_, err = f.Write(sound)
			}
			if err == nil {
				err = form.WriteField("model", c.model)
			}
			if err == nil {
				err = form.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			kind = form.FormDataContentType()
		} else {
			fields := map[string]any{"model": c.model}
			for k, v := range c.body {
				fields[k] = v
			}
			if err := json.NewEncoder(&body).Encode(fields); err != nil {
				t.Fatal(err)
			}
		}
		res, err := http.Post(s.url+c.path, kind, &body)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || res.Header.Get("X-Accel-Platform") != "openvino" || res.Header.Get("X-Accel-Device-Kind") != "hardware" {
			t.Errorf("%s: status %d, %v, on %s: %.300s", c.model, res.StatusCode, err, res.Header.Get("X-Accel-Platform"), said)
		}
	}
}

// TestOpenVINOIsTakenAway has the library vanish under a server: requests go on, on the
// CPU, and are told why; and come back with it.
func TestOpenVINOIsTakenAway(t *testing.T) {
	runtime, err := filepath.Abs(testfiles.OpenVINO(t))
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "openvino")
	if err := os.Symlink(runtime, link); err != nil {
		t.Fatal(err)
	}
	s := serve(t, map[string]any{"backends": map[string]any{"openvino": openVINO(link)}})
	told := ""
	asked := func(want string) func() bool {
		return func() bool {
			status, header, body, err := s.post(sentences[0])
			if err != nil || status != http.StatusOK {
				t.Fatalf("status %d, %v: %s", status, err, body)
			}
			told = header.Get("X-Accel-Fallback")
			return header.Get("X-Accel-Platform") == want
		}
	}
	eventually(t, time.Minute, "OpenVINO answers, as the route has it", asked("openvino"))
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the CPU answers", asked("cpu"))
	if !strings.Contains(told, "openvino") || !strings.Contains(told, "the library is gone") {
		t.Errorf("X-Accel-Fallback: %q does not say why", told)
	}
	// A process that starts now finds none.
	for _, pid := range s.backends(t, "openvino") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	if !asked("cpu")() {
		t.Error("the CPU does not answer")
	}
	if err := os.Symlink(runtime, link); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "OpenVINO answers again", asked("openvino"))
}

// TestOpenVINOIsNotThere has the runtime asked for that nobody has set up.
func TestOpenVINOIsNotThere(t *testing.T) {
	status, out, errs := accel(t, ".", "devices", "openvino", "--json")
	if status != 0 || !strings.Contains(out, `"health":"undetected"`) || !strings.Contains(out, "setup-openvino") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	status, out, errs = accel(t, ".", "verify", "--no-record", "--platform", "openvino", tinyModel(t, "bert"))
	if status != 1 || !strings.Contains(out+errs, "ACCEL_OPENVINO is off") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

// TestOpenVINODies has its process killed and hung under requests.
func TestOpenVINODies(t *testing.T) {
	s := serve(t, map[string]any{"backends": map[string]any{"openvino": openVINO(testfiles.OpenVINO(t))},
		"models": map[string]any{"bert": map[string]any{"path": tinyBERT(t), "platform": "openvino", "fallback": "deny"}}})
	for range 2 {
		for _, pid := range s.backends(t, "openvino") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
		eventually(t, time.Minute, "it answers again", func() bool {
			status, header, _, err := s.post(sentences[0])
			return err == nil && status == http.StatusOK && header.Get("X-Accel-Platform") == "openvino"
		})
	}
}
