package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/accelhq/accel/sdk/testfiles"
)

// sounds are files to be heard, by name.
func sounds(t *testing.T) map[string][]byte {
	t.Helper()
	list := map[string][]byte{}
	for _, model := range []string{"whisper", "wav2vec2", "clap"} {
		data, err := os.ReadFile(testfiles.Shared(t, "tiny", model, "audio.wav"))
		if err != nil {
			t.Fatal(err)
		}
		list[model+".wav"] = data
	}
	for _, name := range []string{"stereo16.flac", "stereo.ogg", "silk.opus", "mono22050.mp3"} {
		data, err := os.ReadFile(filepath.Join("../../core/processors/audio/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		list[name] = data
	}
	return list
}

// TestServedTranscriptionsEqualThoseOfRun asks with OpenAI's client, for one sound after the
// other, for all at the same time, and for streams.
func TestServedTranscriptionsEqualThoseOfRun(t *testing.T) {
	list := sounds(t)
	models := map[string]string{"whisper": testfiles.Shared(t, "tiny", "whisper"), "wav2vec2": testfiles.Shared(t, "tiny", "wav2vec2")}
	config := map[string]any{}
	for name, path := range models {
		config[name] = map[string]any{"path": path}
	}
	s := serve(t, map[string]any{"models": config})
	client := openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	ask := func(model, name string) openai.AudioTranscriptionNewParams {
		return openai.AudioTranscriptionNewParams{Model: model, File: openai.File(bytes.NewReader(list[name]), name, "application/octet-stream")}
	}
	said := map[string]string{}
	for model, path := range models {
		for name, data := range list {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := command(t, "run", path, "--task", "transcribe", "--inputs", file, "--format", "text", "--no-progress").Output()
			if err != nil {
				t.Fatalf("accel run: %v\n%s", err, out)
			}
			got, err := client.Audio.Transcriptions.New(t.Context(), ask(model, name))
			if err != nil {
				t.Fatal(err)
			}
			if got.Text != strings.TrimSuffix(string(out), "\n") {
				t.Errorf("%s of %s: served %q, run %q", model, name, got.Text, out)
			}
			said[model+name] = got.Text
			stream := client.Audio.Transcriptions.NewStreaming(t.Context(), ask(model, name))
			var deltas, whole string
			for stream.Next() {
				switch e := stream.Current(); e.Type {
				case "transcript.text.delta":
					deltas += e.Delta
				case "transcript.text.done":
					whole = e.Text
				}
			}
			if err := stream.Err(); err != nil || deltas != got.Text || whole != got.Text {
				t.Errorf("%s of %s in a stream: %v, %q, %q, wanted %q", model, name, err, deltas, whole, got.Text)
			}
		}
	}
	if said["wav2vec2whisper.wav"] == said["wav2vec2clap.wav"] || said["wav2vec2wav2vec2.wav"] == "" {
		t.Errorf("sounds are not told apart: %q", said)
	}
	// The prompts of all are the same, and the sounds are not.
	var clients sync.WaitGroup
	for range 3 {
		for model := range models {
			for name := range list {
				clients.Go(func() {
					got, err := client.Audio.Transcriptions.New(t.Context(), ask(model, name))
					if err != nil || got.Text != said[model+name] {
						t.Errorf("%s of %s beside others: %v, %q, wanted %q", model, name, err, fmt.Sprint(got), said[model+name])
					}
				})
			}
		}
	}
	clients.Wait()
	if _, err := client.Audio.Translations.New(t.Context(), openai.AudioTranslationNewParams{Model: "wav2vec2", File: bytes.NewReader(list["clap.wav"])}); err == nil || !strings.Contains(err.Error(), "does not translate") {
		t.Errorf("Wav2Vec2 translates: %v", err)
	}
}

// TestPythonClientHears asks with OpenAI's Python package, if the Makefile could install it.
func TestPythonClientHears(t *testing.T) {
	venv, err := filepath.Abs("../../.cache/venv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(venv, "openai")); err != nil {
		t.Skip("OpenAI's Python package is not there: `make openai-client` installs it, with python3-venv")
	}
	whisper := testfiles.Shared(t, "tiny", "whisper")
	s := serve(t, map[string]any{"models": map[string]any{"hears": map[string]any{"path": whisper}, "embeds": map[string]any{"path": tinyBERT(t)}}})
	out, err := exec.CommandContext(t.Context(), filepath.Join(venv, "bin/python"), "testdata/openai_transcriptions.py", s.url+"/v1", "hears", "embeds", filepath.Join(whisper, "audio.wav")).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
