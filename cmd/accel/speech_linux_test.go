package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"

	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestSpeechIsHeard: the words of a sentence come out of a real model, a folder of CTranslate2. The
// sound is line 12 of core/bench/testdata/speech.txt, as speech.py beside it makes it.
func TestSpeechIsHeard(t *testing.T) {
	const sound, said = "testdata/speech.wav", "There are 12 months in a year and 7 days in a week."
	model := testfiles.Model(t, "whisper-tiny")
	data, err := os.ReadFile(sound)
	if err != nil {
		t.Fatal(err)
	}
	seconds := float64(len(data)-44) / (2 * 16000)

	for format, want := range map[tasks.TranscriptFormat]string{
		tasks.TranscriptText: said + "\n",
		tasks.TranscriptSRT:  "1\n00:00:00,000 --> 00:00:03,4",
		tasks.TranscriptVTT:  "WEBVTT\n\n00:00:00.000 --> 00:00:03.4",
	} {
		out, err := command(t, "run", model, "--task", "transcribe", "--inputs", sound, "--format", string(format), "--no-progress").Output()
		if err != nil || !strings.HasPrefix(string(out), want) || !strings.Contains(string(out), said) {
			t.Errorf("%s: %v, %q, wanted %q and %q", format, err, out, want, said)
		}
	}

	s := serve(t, map[string]any{"models": map[string]any{"tiny": map[string]any{"path": model, "platform": "cpu"}}})
	client := openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
	ask := func(format openai.AudioResponseFormat) openai.AudioTranscriptionNewParams {
		return openai.AudioTranscriptionNewParams{Model: "tiny", File: openai.File(bytes.NewReader(data), "speech.wav", "audio/wav"), Language: openai.String("en"), ResponseFormat: format}
	}
	got, err := client.Audio.Transcriptions.New(t.Context(), ask(openai.AudioResponseFormatJSON))
	if err != nil {
		t.Fatal(err)
	}
	if got.Text != said {
		t.Errorf("%q, wanted %q", got.Text, said)
	}
	got, err = client.Audio.Transcriptions.New(t.Context(), ask(openai.AudioResponseFormatVerboseJSON))
	if err != nil {
		t.Fatal(err)
	}
	var verbose struct {
		Text     string
		Language string
		Duration float64
		Segments []struct {
			Start, End   float64
			Text         string
			Temperature  float64
			AvgLogprob   float64 `json:"avg_logprob"`
			NoSpeechProb float64 `json:"no_speech_prob"`
		}
	}
	if err := json.Unmarshal([]byte(got.RawJSON()), &verbose); err != nil {
		t.Fatal(err)
	}
	if verbose.Text != said || verbose.Language != "english" && verbose.Language != "en" || verbose.Duration != seconds || len(verbose.Segments) != 1 {
		t.Fatalf("%s, wanted %q in %g s", got.RawJSON(), said, seconds)
	}
	// The model is sure of it.
	if g := verbose.Segments[0]; strings.TrimSpace(g.Text) != said || g.Start != 0 || g.End < 3 || g.End > seconds || g.Temperature != 0 || g.AvgLogprob < -0.5 || g.AvgLogprob >= 0 || g.NoSpeechProb > 0.5 {
		t.Errorf("the segment is %+v", g)
	}
	stream := client.Audio.Transcriptions.NewStreaming(t.Context(), ask(openai.AudioResponseFormatJSON))
	var deltas, whole string
	for stream.Next() {
		switch e := stream.Current(); e.Type {
		case "transcript.text.delta":
			deltas += e.Delta
		case "transcript.text.done":
			whole = e.Text
		}
	}
	if err := stream.Err(); err != nil || deltas != said || whole != said {
		t.Errorf("in a stream: %v, %q and %q, wanted %q", err, deltas, whole, said)
	}
}
