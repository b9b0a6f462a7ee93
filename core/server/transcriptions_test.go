package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/tasks"
)

// wave is a WAV file of 16-bit samples 0, 1, 2 ... at 8 kHz; cut leaves bytes out at its end.
func wave(samples, cut int) []byte {
	var b bytes.Buffer
	b.WriteString("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data")
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(2*samples)))
	for i := range samples {
		b.Write(binary.LittleEndian.AppendUint16(nil, uint16(i)))
	}
	return b.Bytes()[:b.Len()-cut]
}

// form writes a form; a field called file is one.
func form(t testing.TB, fields ...string) (string, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		var to io.Writer
		var err error
		if fields[i] == "file" {
			to, err = w.CreateFormFile("file", "sound.wav")
		} else {
			to, err = w.CreateFormField(fields[i])
		}
		if err == nil {
			_, err = io.WriteString(to, fields[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), w.FormDataContentType()
}

func (h *harness) postForm(t testing.TB, path string, fields ...string) *httptest.ResponseRecorder {
	t.Helper()
	body, kind := form(t, fields...)
	return h.do("POST", path, body, "Content-Type", kind)
}

// listener hears two segments in any sound, and keeps what it was asked.
func listener(t *testing.T, asked *tasks.TranscribeRequest, samples *int) *fake {
	return &fake{transcribe: func(_ context.Context, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error) {
		*asked = req
		block := make([]float32, 1000)
		for *samples = 0; ; {
			n, err := req.Sound.Read(block)
			*samples += n
			if err == io.EOF {
				break
			}
			if err != nil {
				return tasks.TranscribeResult{}, err
			}
		}
		for i, text := range []string{" Hello", " world."} {
			if err := emit(tasks.Segment{ID: i, Start: float64(i), End: float64(i) + 0.5, Text: text, Words: []tasks.Word{{Text: text[1:], Start: float64(i), End: float64(i) + 0.25}}}); err != nil {
				return tasks.TranscribeResult{}, err
			}
		}
		return tasks.TranscribeResult{Language: "en", Duration: float64(*samples) / float64(req.Sound.Rate()), Tokens: 9, Decision: decision()}, nil
	}}
}

func TestTranscriptions(t *testing.T) {
	var asked tasks.TranscribeRequest
	var samples int
	h := newServer(t, listener(t, &asked, &samples), nil)
	sound := string(wave(4000, 0))
	const transcriptions, translations = "/v1/audio/transcriptions", "/v1/audio/translations"
	for _, tt := range []struct {
		path   string
		fields []string
		kind   string
		want   string
		check  func(tasks.TranscribeRequest) bool
	}{
		{transcriptions, []string{"file", sound, "model", "mini"}, "application/json", `{"text":"Hello world."}` + "\n",
			func(r tasks.TranscribeRequest) bool {
				return !r.Translate && r.Language == "" && r.Temperatures == nil && !r.Words && r.ID != ""
			}},
		{transcriptions, []string{"model", "mini", "language", "en", "prompt", "Hi", "temperature", "0", "response_format", "text", "file", sound}, "text/plain; charset=utf-8", "Hello world.\n",
			func(r tasks.TranscribeRequest) bool {
				return r.Language == "en" && r.Prompt == "Hi" && r.Temperatures == nil
			}},
		{transcriptions, []string{"model", "mini", "file", sound, "response_format", "srt"}, "application/x-subrip; charset=utf-8", "1\n00:00:00,000 --> 00:00:00,500\nHello\n\n2\n00:00:01,000 --> 00:00:01,500\nworld.\n\n", nil},
		{transcriptions, []string{"model", "mini", "file", sound, "response_format", "vtt"}, "text/vtt; charset=utf-8", "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nHello\n\n00:00:01.000 --> 00:00:01.500\nworld.\n\n", nil},
		{transcriptions, []string{"model", "mini", "file", sound, "response_format", "verbose_json", "timestamp_granularities[]", "word"}, "application/json",
			`{"task":"transcribe","language":"english","duration":0.5,"text":"Hello world.","words":[{"word":"Hello","start":0,"end":0.25},{"word":"world.","start":1,"end":1.25}]}` + "\n",
			func(r tasks.TranscribeRequest) bool { return r.Words }},
		{translations, []string{"model", "mini", "file", sound, "response_format", "verbose_json", "temperature", "0.5"}, "application/json",
			`{"task":"translate","language":"english","duration":0.5,"text":"Hello world.","segments":[{"id":0,"start":0,"end":0.5,"text":" Hello","tokens":[]},{"id":1,"start":1,"end":1.5,"text":" world.","tokens":[]}]}` + "\n",
			func(r tasks.TranscribeRequest) bool {
				return r.Translate && slices.Equal(r.Temperatures, []float64{0.5, 0.7, 0.8999999999999999})
			}},
		{transcriptions, []string{"model", "mini", "file", sound, "stream", "true"}, "text/event-stream",
			`data: {"type":"transcript.text.delta","delta":"Hello"}` + "\n\n" + `data: {"type":"transcript.text.delta","delta":" world."}` + "\n\n" +
				`data: {"type":"transcript.text.done","text":"Hello world.","accel":{"platform":"cpu","device":"cpu:0","kind":"hardware"}}` + "\n\n", nil},
	} {
		w := h.postForm(t, tt.path, tt.fields...)
		got := w.Body.String()
		if w.Code != http.StatusOK || got != tt.want || w.Header().Get("Content-Type") != tt.kind {
			t.Errorf("%.80q: %d %s\n%s\nwanted\n%s", tt.fields, w.Code, w.Header().Get("Content-Type"), w.Body, tt.want)
		}
		if tt.check != nil && !tt.check(asked) {
			t.Errorf("%.80q: asked for %+v", tt.fields, asked)
		}
		if samples != 4000 {
			t.Errorf("%d samples were heard", samples)
		}
		if tt.kind != "text/event-stream" && w.Header().Get("X-Accel-Device") != "cpu:0" {
			t.Errorf("headers %v", w.Header())
		}
	}
	w := h.postForm(t, transcriptions, "model", "mini", "file", string(wave(4000, 100)))
	if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("X-Accel-Notes"), "ends 100 bytes before its header says") {
		t.Errorf("of a cut file: %d, %v", w.Code, w.Header())
	}
}

// TestLongTranscription sends a sound that is kept on disk, and looks for what is left of it.
func TestLongTranscription(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	var asked tasks.TranscribeRequest
	var samples int
	h := newServer(t, listener(t, &asked, &samples), nil)
	const n = 1_500_000
	if w := h.postForm(t, "/v1/audio/transcriptions", "model", "mini", "file", string(wave(n, 0))); w.Code != http.StatusOK || samples != n {
		t.Errorf("%d: %s, %d samples", w.Code, w.Body, samples)
	}
	// One that is refused after its file was read.
	if w := h.postForm(t, "/v1/audio/transcriptions", "file", string(wave(n, 0)), "model", "mini", "nonsense", "1"); w.Code != http.StatusBadRequest {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v, %v are left", left, err)
	}
}

func TestTranscriptionErrors(t *testing.T) {
	var asked tasks.TranscribeRequest
	var samples int
	h := newServer(t, listener(t, &asked, &samples), func(c *config.Server) { c.MaxAudioBytes = 20000 })
	sound := string(wave(100, 0))
	for _, tt := range []struct {
		fields []string
		status int
		want   string
	}{
		{[]string{"file", sound}, 400, "model: it is missing"},
		{[]string{"model", "mini"}, 400, "file: it is missing"},
		{[]string{"model", "mini", "model", "mini", "file", sound}, 400, "model: it is given twice"},
		{[]string{"model", "mini", "file", sound, "speed", "2"}, 400, `there is no field \"speed\"`},
		{[]string{"model", "mini", "file", sound, "response_format", "doc"}, 400, `response_format: found \"doc\"`},
		{[]string{"model", "mini", "file", sound, "temperature", "2"}, 400, `temperature: found \"2\"`},
		{[]string{"model", "mini", "file", sound, "temperature", "NaN"}, 400, `temperature: found \"NaN\"`},
		{[]string{"model", "mini", "file", sound, "stream", "maybe"}, 400, `stream: found \"maybe\"`},
		{[]string{"model", "mini", "file", sound, "stream", "true", "response_format", "srt"}, 400, "stream: it goes with"},
		{[]string{"model", "mini", "file", sound, "timestamp_granularities[]", "word"}, 400, "timestamp_granularities: it goes with response_format verbose_json"},
		{[]string{"model", "mini", "file", sound, "timestamp_granularities[]", "letter", "response_format", "verbose_json"}, 400, `found \"letter\"`},
		{[]string{"model", "mini", "file", sound, "prompt", "\xff"}, 400, "prompt: it is not valid UTF-8"},
		{[]string{"model", "mini", "file", "no sound at all"}, 400, "no format of sound"},
		{[]string{"model", "mini", "file", ""}, 400, "it is empty"},
		{[]string{"model", "mini", "file", string(wave(11000, 0))}, 413, "longer than 20000 bytes"},
		{[]string{"model", "other", "file", sound}, 404, "other"},
	} {
		w := h.postForm(t, "/v1/audio/transcriptions", tt.fields...)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%.60q: %d %s, wanted %d with %q", tt.fields, w.Code, w.Body, tt.status, tt.want)
		}
	}
	if w := h.postForm(t, "/v1/audio/translations", "model", "mini", "file", sound, "language", "de"); w.Code != 400 || !strings.Contains(w.Body.String(), "a translation is into English") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := h.do("POST", "/v1/audio/transcriptions", `{"model":"mini"}`); w.Code != http.StatusUnsupportedMediaType {
		t.Errorf("of JSON: %d %s", w.Code, w.Body)
	}
	body, kind := form(t, "model", "mini", "file", sound)
	if w := h.do("POST", "/v1/audio/transcriptions", body[:len(body)-40], "Content-Type", kind); w.Code != 400 || !strings.Contains(w.Body.String(), "the form can't be read") {
		t.Errorf("of half a form: %d %s", w.Code, w.Body)
	}
	// An error after the first segment ends the stream.
	h = newServer(t, &fake{transcribe: func(_ context.Context, _ tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error) {
		return tasks.TranscribeResult{}, errors.Join(emit(tasks.Segment{Text: "a"}), errors.New("broken"))
	}}, nil)
	w := h.postForm(t, "/v1/audio/transcriptions", "model", "mini", "file", sound, "stream", "true")
	events := strings.Split(strings.TrimSpace(w.Body.String()), "\n\n")
	var last problemBody
	if len(events) != 2 || json.Unmarshal([]byte(strings.TrimPrefix(events[1], "data: ")), &last) != nil || last.Error.Message == "" {
		t.Errorf("the stream is %q", w.Body)
	}
}

// FuzzTranscriptionForm reads any body as a form.
func FuzzTranscriptionForm(f *testing.F) {
	for _, fields := range [][]string{
		{"file", string(wave(3, 0)), "model", "mini", "temperature", "0.5", "stream", "true"},
		{"model", "mini", "timestamp_granularities[]", "word", "response_format", "verbose_json", "file", "x"},
		{"model", "mini", "prompt", "\xff"},
	} {
		body, _ := form(f, fields...)
		at := strings.Index(body, "\r\n")
		f.Add([]byte(strings.ReplaceAll(body, body[2:at], "B")))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req := &transcribeRequest{format: tasks.TranscriptJSON, sound: &spool{}}
		defer req.sound.remove()
		if err := req.read(multipart.NewReader(bytes.NewReader(body), "B")); err != nil {
			return
		}
		if req.model == "" || !slices.Contains(tasks.TranscriptFormats, req.format) {
			t.Errorf("%+v was accepted", req)
		}
		if n, err := io.Copy(io.Discard, req.sound); err != nil || n > int64(len(body)) {
			t.Errorf("%d bytes of sound, %v", n, err)
		}
	})
}
