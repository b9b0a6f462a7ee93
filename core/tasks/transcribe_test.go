package tasks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// counted is a sound whose samples are their own numbers.
type counted struct{ rate, at, total int }

func (c *counted) Rate() int { return c.rate }

func (c *counted) Read(dst []float32) (int, error) {
	n := min(len(dst), c.total-c.at, 97)
	for i := range n {
		dst[i] = float32(c.at + i)
	}
	c.at += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// passing hands samples on as they are.
type passing struct{ rate, most int }

func (p passing) Rate() int        { return p.rate }
func (p passing) MostSamples() int { return p.most }
func (p passing) Extract(sounds [][]float32) (map[string]tensor.Tensor, error) {
	x := sounds[0]
	return map[string]tensor.Tensor{models.InputValues: tensor.Floats(tensor.Shape{1, int64(len(x))}, x...)}, nil
}

// scripted hears in frame i of a sound, wherever it is cut, letter i of a script.
type scripted struct {
	clock  models.FrameClock
	script string
	vocab  map[rune]int
	runs   int
	most   int // samples of a run
}

func (s *scripted) Run(_ context.Context, d *route.Decision, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
	x := tensor.View[float32](inputs[models.InputValues].Tensor)
	s.runs, s.most = s.runs+1, max(s.most, len(x))
	d.Chosen.Platform = "script"
	frames := s.clock.Frames(int64(len(x)))
	logits := make([]float32, int(frames)*len(s.vocab))
	first := int64(x[0]) / s.clock.Stride
	for i := range frames {
		// At the edges of a chunk nothing is heard right, but at those of the sound.
		letter := rune(s.script[first+i])
		if i < 2 && first > 0 || i >= frames-2 && first+frames < int64(len(s.script)) {
			letter = 'X'
		}
		logits[int(i)*len(s.vocab)+s.vocab[letter]] = 5
	}
	return map[string]graph.Datum{wanted[0]: graph.TensorDatum(tensor.Floats(tensor.Shape{1, frames, int64(len(s.vocab))}, logits...))}, nil
}

func recognizer(t *testing.T, script string) (*Recognizer, *scripted, *counted) {
	t.Helper()
	text, err := processors.OpenCTC(filepath.Join("testdata", "ctc"))
	if err != nil {
		t.Fatal(err)
	}
	clock := models.FrameClock{Stride: 20, Window: 30}
	s := &scripted{clock: clock, script: script, vocab: map[rune]int{'_': 0, '|': 1, 'A': 2, 'B': 3, 'C': 4, 'X': 5}}
	// One sample more than the frames need.
	sound := &counted{rate: 1000, total: (len(script)-1)*20 + 31}
	return &Recognizer{Model: "m", Runner: s, Feeds: func(in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) { return in, nil },
		Extractor: passing{rate: 1000}, Text: text, Clock: clock, Vocab: 6, Output: models.Logits, Chunk: 0.5, Margin: 0.1}, s, sound
}

func segmentsOf(t *testing.T, tr Transcriber, req TranscribeRequest) ([]Segment, TranscribeResult) {
	t.Helper()
	var list []Segment
	res, err := tr.Transcribe(t.Context(), req, func(s Segment) error {
		list = append(list, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list, res
}

func TestRecognizer(t *testing.T) {
	// Of every length, so that chunks end everywhere in the words.
	words := "AAB_B|_CAB__|BCCA|"
	for n := 1; n < 120; n++ {
		script := strings.Repeat(words, n/len(words)+1)[:n]
		for _, beam := range []int{0, 4} {
			r, s, sound := recognizer(t, script)
			r.Beam = beam
			list, res := segmentsOf(t, r, TranscribeRequest{Sound: sound, Words: true})
			var got, want []string
			for i, seg := range list {
				if seg.ID != i || len(seg.Words) == 0 || seg.Start != seg.Words[0].Start || seg.End-seg.Start > longSegment {
					t.Errorf("segment %+v", seg)
				}
				for _, w := range seg.Words {
					got = append(got, fmt.Sprintf("%s %.2f-%.2f", w.Text, w.Start, w.End))
				}
			}
			at := 0
			for _, part := range strings.SplitAfter(script, "|") {
				var text []rune
				start, end, last := -1, 0, '_'
				for i, c := range part {
					if c != last && c != '_' && c != '|' {
						text = append(text, c)
					}
					if c != '_' && c != '|' {
						if start < 0 {
							start = at + i
						}
						end = at + i + 1
					}
					last = c
				}
				if len(text) > 0 {
					want = append(want, fmt.Sprintf("%s %.2f-%.2f", string(text), float64(start)*0.02, float64(end)*0.02))
				}
				at += len(part)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d frames, beam %d: found %q, wanted %q", n, beam, got, want)
			}
			if s.most > 500+30 || res.Decision.Chosen.Platform != "script" || math.Abs(res.Duration-float64(sound.total)/1000) > 1e-9 {
				t.Errorf("%d frames: %d samples in a run, result %+v", n, s.most, res)
			}
		}
	}
}

func TestRecognizerSegments(t *testing.T) {
	r, s, sound := recognizer(t, strings.Repeat("A|", 5)+strings.Repeat("_", 50)+strings.Repeat("B|_", 700))
	list, _ := segmentsOf(t, r, TranscribeRequest{Sound: sound})
	if len(list) < 4 || list[0].Text != "A A A A A" || !strings.HasPrefix(list[1].Text, " B B B") || list[0].Words != nil {
		t.Errorf("found %d segments, %+v", len(list), list[:min(2, len(list))])
	}
	for _, seg := range list {
		if seg.End-seg.Start > longSegment {
			t.Errorf("segment from %v to %v", seg.Start, seg.End)
		}
	}
	if s.runs < 50 {
		t.Errorf("%d chunks", s.runs)
	}
	stop := errors.New("enough")
	r, s, sound = recognizer(t, strings.Repeat("A|", 5000))
	if _, err := r.Transcribe(t.Context(), TranscribeRequest{Sound: sound}, func(Segment) error { return stop }); err != stop {
		t.Errorf("found %v", err)
	}
	if s.runs > 100 {
		t.Errorf("%d chunks were heard before the first segment was given out", s.runs)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := r.Transcribe(ctx, TranscribeRequest{Sound: sound}, func(Segment) error { return nil }); err != stop {
		t.Errorf("found %v", err)
	}
	r.Language = "en"
	for _, req := range []TranscribeRequest{{Translate: true}, {Prompt: "so"}, {Language: "de"}} {
		req.Sound = sound
		var bad *InvalidInputError
		if _, err := r.Transcribe(t.Context(), req, nil); !errors.As(err, &bad) {
			t.Errorf("%+v: found %v", req, err)
		}
	}
}

// speaker draws what a script says of each window, if the rule lets it.
type speaker struct {
	t        *testing.T
	tokens   *WhisperTokens
	vocab    int
	script   func(at int, temperature float64, choice int) spoken
	silence  map[int]float32 // logit of the token for silence, by window
	language int64
	asked    []SpeechRequest
	most     int // samples of a window
}

// spoken are tokens and how sure they are.
type spoken struct {
	ids  []int64
	sure float32
}

func (s *speaker) Decode(_ context.Context, d *route.Decision, req SpeechRequest) ([][]int64, error) {
	d.Chosen.Platform = "script"
	x := tensor.View[float32](req.Source.Inputs[models.InputValues])
	at := int(x[0])
	s.most = max(s.most, len(x))
	s.asked = append(s.asked, req)
	glancing := req.Prompt[len(req.Prompt)-1] == s.tokens.Start && req.MaxTokens == 1
	var out [][]int64
	for c := range req.N {
		rule := req.Rule(c)
		say := spoken{sure: 12}
		if !glancing {
			say = s.script(at, req.Temperature, c)
		}
		var drawn []int64
		for len(drawn) < req.MaxTokens {
			logits := make([]float32, s.vocab)
			if glancing {
				logits[s.language] = 8
				logits[s.tokens.NoSpeech] = s.silence[at]
			}
			next := s.tokens.End
			if len(drawn) < len(say.ids) {
				next = say.ids[len(drawn)]
			}
			logits[next] = say.sure
			rule.Adjust(logits)
			id := int64(0)
			for i, v := range logits {
				if v > logits[id] {
					id = int64(i)
				}
			}
			rule.Accept(id)
			if id == s.tokens.End {
				break
			}
			if !glancing && id != next {
				s.t.Errorf("window at %d: token %d of the script is %d, the rule wants %d", at, len(drawn), next, id)
			}
			drawn = append(drawn, id)
		}
		out = append(out, drawn)
	}
	return out, nil
}

// heard is Whisper with windows of one second, and a speaker.
func heard(t *testing.T) (*Whisper, *speaker) {
	t.Helper()
	tok, err := processors.OpenTokenizer(testfiles.Shared(t, "tiny", "whisper"))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := NewWhisperTokens(tok, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &speaker{t: t, tokens: &tokens, vocab: 620, language: tokens.Languages["de"], silence: map[int]float32{}}
	return &Whisper{Model: "w", Tokenizer: tok, Tokens: tokens, Extractor: passing{rate: 1000, most: 1000}, Rows: 50, Decoder: s, MaxTokens: 64}, s
}

// say makes tokens of text and times such as <0.40>.
func (w *Whisper) say(t *testing.T, text string) []int64 {
	t.Helper()
	var ids []int64
	for text != "" {
		if text[0] == '<' {
			var at float64
			if _, err := fmt.Sscanf(text, "<%f>", &at); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, w.Tokens.Times+int64(math.Round(at/0.02)))
			text = text[strings.IndexByte(text, '>')+1:]
			continue
		}
		end := strings.IndexByte(text, '<')
		if end < 0 {
			end = len(text)
		}
		e, err := w.Tokenizer.Encode(text[:end], processors.EncodeOptions{NoSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		ids, text = append(ids, e.IDs...), text[end:]
	}
	return ids
}

func TestWhisperTokens(t *testing.T) {
	w, _ := heard(t)
	want := WhisperTokens{Start: 560, End: 559, Translate: 563, Transcribe: 564, Previous: 566, NoSpeech: 567, NoTimes: 568, Times: 569,
		Languages: map[string]int64{"en": 561, "de": 562}, Suppress: []int64{560, 561, 562, 563, 564, 565, 566, 567, 568}}
	if fmt.Sprint(w.Tokens) != fmt.Sprint(want) {
		t.Errorf("found %+v, wanted %+v", w.Tokens, want)
	}
	c, err := checkpoint.ParseConfig("generation_config.json", []byte(`{"suppress_tokens":[-1,7,3],"begin_suppress_tokens":[220,559]}`))
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := NewWhisperTokens(w.Tokenizer, c)
	if err != nil || !slices.Equal(tokens.Suppress[:3], []int64{3, 7, 560}) || !slices.Equal(tokens.SuppressFirst, []int64{220, 559}) {
		t.Errorf("found %+v, %v", tokens, err)
	}
	c, err = checkpoint.ParseConfig("generation_config.json", []byte(`{"is_multilingual":false}`))
	if err != nil {
		t.Fatal(err)
	}
	if tokens, err = NewWhisperTokens(w.Tokenizer, c); err != nil || len(tokens.Languages) > 0 || !slices.Equal(tokens.Suppress, want.Suppress) {
		t.Errorf("found %+v, %v", tokens, err)
	}
	bert, err := processors.OpenTokenizer(testfiles.Shared(t, "tiny", "bert"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewWhisperTokens(bert, nil); err == nil || !strings.Contains(err.Error(), "<|startoftranscript|>") {
		t.Errorf("of BERT's tokenizer: %v", err)
	}
}

func TestWhisper(t *testing.T) {
	w, s := heard(t)
	s.script = func(at int, _ float64, _ int) spoken {
		text := map[int]string{
			0:    "<0.00> one two<0.40><0.40> three<0.80><0.80> fo", // four is cut: the next window begins before it
			800:  "<0.00> four<0.50><0.60> five<0.90>",              // silence after it: the window is done with
			1800: "<0.20> six<1.00>",
			2800: "<0.10> seven",
		}[at]
		if text == "" {
			t.Errorf("a window begins at %d", at)
		}
		return spoken{w.say(t, text), 12}
	}
	list, res := segmentsOf(t, w, TranscribeRequest{Sound: &counted{rate: 1000, total: 3100}, Prompt: "zero"})
	var got []string
	for i, seg := range list {
		if seg.ID != i || seg.Detail == nil || seg.Detail.Temperature != 0 || seg.Detail.AvgLogprob < -0.1 {
			t.Errorf("segment %+v, %+v", seg, seg.Detail)
		}
		got = append(got, fmt.Sprintf("%.2f-%.2f%s", seg.Start, seg.End, seg.Text))
	}
	want := []string{"0.00-0.40 one two", "0.40-0.80 three", "0.80-1.30 four", "1.40-1.70 five", "2.00-2.80 six", "2.90-3.10 seven"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, wanted %q", got, want)
	}
	if res.Language != "de" || res.Duration != 3.1 || res.Decision.Chosen.Platform != "script" || s.most > 1000 {
		t.Errorf("%+v, windows of up to %d samples", res, s.most)
	}
	zero := w.say(t, " zero")
	if p := s.asked[1].Prompt; !slices.Equal(p, slices.Concat([]int64{566}, zero, []int64{560, 562, 564})) {
		t.Errorf("the first window was heard after %v", p)
	}
	p := s.asked[3].Prompt
	if said := w.say(t, "<0.00> one two<0.40><0.40> three<0.80>"); p[0] != 566 || !slices.Equal(p[len(p)-3-len(said):], slices.Concat(said, []int64{560, 562, 564})) {
		t.Errorf("the second window was heard after %v", p)
	}
	for _, a := range s.asked {
		if len(a.Prompt)+a.MaxTokens > 64 || a.Source.Rows != 50 || a.N != 1 {
			t.Errorf("asked for %+v", a)
		}
	}
}

func TestWhisperFallback(t *testing.T) {
	w, s := heard(t)
	type way struct {
		at          int
		temperature float64
	}
	var ways []way
	again := "<0.00>" + strings.Repeat(" a", 28)
	s.script = func(at int, temperature float64, choice int) spoken {
		if choice == 0 {
			ways = append(ways, way{at, temperature})
		}
		switch {
		case at == 0 && temperature == 0:
			return spoken{w.say(t, again), 12} // repeats itself
		case at == 0 && temperature == 0.2:
			return spoken{w.say(t, "<0.00> unsure<1.00>"), 4.5}
		case at == 0 && choice == 3:
			return spoken{w.say(t, "<0.00> good<1.00>"), 12}
		case at == 0:
			return spoken{w.say(t, "<0.00> less<1.00>"), 8}
		case at == 1000:
			return spoken{w.say(t, "<0.00> never sure<1.00>"), 4.5}
		}
		return spoken{w.say(t, "<0.00> end<1.00>"), 12}
	}
	list, _ := segmentsOf(t, w, TranscribeRequest{Sound: &counted{rate: 1000, total: 3000}, Language: "German"})
	if len(list) != 3 || list[0].Text != " good" || list[0].Detail.Temperature != 0.4 || list[1].Text != " never sure" || list[1].Detail.Temperature != 1 {
		t.Errorf("found %+v", list)
	}
	want := []way{{0, 0}, {0, 0.2}, {0, 0.4}, {1000, 0}, {1000, 0.2}, {1000, 0.4}, {1000, 0.6}, {1000, 0.8}, {1000, 1}, {2000, 0}}
	if !slices.Equal(ways, want) {
		t.Errorf("found %v, wanted %v", ways, want)
	}
	// What came at a high temperature does not prompt the next window.
	if p := s.asked[len(s.asked)-1].Prompt; !slices.Equal(p, []int64{560, 562, 564}) {
		t.Errorf("the last window was heard after %v", p)
	}
	for _, a := range s.asked {
		if n := a.N; n != 1 && a.Temperature == 0 || n != bestOf && a.Temperature > 0 {
			t.Errorf("%d choices at %v", n, a.Temperature)
		}
	}
}

func TestWhisperSilence(t *testing.T) {
	w, s := heard(t)
	s.silence[0], s.silence[1000] = 20, 20
	s.script = func(at int, temperature float64, _ int) spoken {
		if temperature > 0 {
			t.Errorf("the window at %d was heard at %v", at, temperature)
		}
		if at == 0 {
			return spoken{w.say(t, "<0.00> you you you<1.00>"), 4.2} // a guess
		}
		return spoken{w.say(t, "<0.00> said<1.00>"), 12}
	}
	list, _ := segmentsOf(t, w, TranscribeRequest{Sound: &counted{rate: 1000, total: 2000}, Language: "en", Translate: true})
	if len(list) != 1 || list[0].Text != " said" || list[0].Start != 1 || list[0].Detail.NoSpeech < 0.9 {
		t.Errorf("found %+v", list)
	}
	if p := s.asked[1].Prompt; !slices.Equal(p, []int64{560, 561, 563}) {
		t.Errorf("translated after %v", p)
	}
}

func TestWhisperErrors(t *testing.T) {
	w, s := heard(t)
	s.script = func(int, float64, int) spoken { return spoken{w.say(t, "<0.00> x<1.00>"), 12} }
	one, _ := heard(t)
	one.Tokens.Languages = nil
	for _, tt := range []struct {
		w    *Whisper
		req  TranscribeRequest
		want string
	}{
		{w, TranscribeRequest{Language: "fr"}, `language: model "w" does not know "fr"`},
		{w, TranscribeRequest{Language: "klingon"}, "language:"},
		{w, TranscribeRequest{Words: true}, "timestamp_granularities:"},
		{w, TranscribeRequest{Temperatures: []float64{2}}, "temperature: it is 2"},
		{one, TranscribeRequest{Translate: true}, "translate:"},
		{one, TranscribeRequest{Language: "de"}, "language: model \"w\" hears English alone"},
	} {
		tt.req.Sound = &counted{rate: 1000, total: 100}
		var bad *InvalidInputError
		if _, err := tt.w.Transcribe(t.Context(), tt.req, nil); !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: found %v, wanted %q", tt.req, err, tt.want)
		}
	}
	stop := errors.New("enough")
	if _, err := w.Transcribe(t.Context(), TranscribeRequest{Sound: &counted{rate: 1000, total: 9000}}, func(Segment) error { return stop }); err != stop {
		t.Errorf("found %v", err)
	}
	if list, res := segmentsOf(t, w, TranscribeRequest{Sound: &counted{rate: 1000}}); len(list) != 0 || res.Duration != 0 {
		t.Errorf("of nothing was made %+v, %+v", list, res)
	}
}

// TestWhisperRule holds what may come next, by what came.
func TestWhisperRule(t *testing.T) {
	tokens := WhisperTokens{Start: 11, End: 10, NoTimes: 12, Times: 13, Suppress: []int64{3, 11, 12}, SuppressFirst: []int64{0, 10}}
	const vocab = 20 // times 0 to 6
	for _, tt := range []struct {
		name    string
		drawn   []int64
		logits  map[int64]float32
		allowed []int64
	}{
		{"first", nil, nil, []int64{13, 14, 15}},
		{"a segment begins", []int64{14}, nil, []int64{0, 1, 2, 4, 5, 6, 7, 8, 9, 10}},
		{"text", []int64{14, 1}, map[int64]float32{1: 5}, []int64{0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18, 19}},
		{"times together are likelier", []int64{14, 1}, map[int64]float32{1: 1}, []int64{15, 16, 17, 18, 19}},
		{"a segment ended", []int64{14, 1, 16}, map[int64]float32{10: 5}, []int64{10, 16, 17, 18, 19}},
		{"another began", []int64{14, 1, 16, 17}, nil, []int64{0, 1, 2, 4, 5, 6, 7, 8, 9, 10}},
		{"and has text", []int64{14, 1, 16, 17, 2}, map[int64]float32{2: 5}, []int64{0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 18, 19}},
	} {
		r := newWhisperRule(&tokens, 2)
		row := func() []float32 { return make([]float32, vocab) }
		for _, id := range tt.drawn {
			r.Adjust(row())
			r.Accept(id)
		}
		logits := row()
		for id, v := range tt.logits {
			logits[id] = v
		}
		r.Adjust(logits)
		var got []int64
		for id, v := range logits {
			if !math.IsInf(float64(v), -1) {
				got = append(got, int64(id))
			}
		}
		if !slices.Equal(got, tt.allowed) {
			t.Errorf("%s: %v may come, wanted %v", tt.name, got, tt.allowed)
		}
	}
}

func TestTranscriptFormats(t *testing.T) {
	segments := []Segment{
		{ID: 0, Start: 0, End: 1.5, Text: " Hello <there>", Detail: &SegmentDetail{Tokens: []int64{5, 6}, AvgLogprob: -0.25, CompressionRatio: 1.5, NoSpeech: 0.125}, Words: []Word{{"Hello", 0, 0.5}}},
		{ID: 1, Start: 3661.0004, End: 3662.9996, Text: " a\n\nb"},
	}
	for _, tt := range []struct {
		f    TranscriptFormat
		o    TranscriptOptions
		want string
	}{
		{TranscriptText, TranscriptOptions{}, "Hello <there> a\n\nb\n"},
		{TranscriptSRT, TranscriptOptions{}, "1\n00:00:00,000 --> 00:00:01,500\nHello <there>\n\n2\n01:01:01,000 --> 01:01:03,000\na\nb\n\n"},
		{TranscriptVTT, TranscriptOptions{}, "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello &lt;there&gt;\n\n01:01:01.000 --> 01:01:03.000\na\nb\n\n"},
		{TranscriptJSON, TranscriptOptions{}, `{"text":"Hello <there> a\n\nb"}` + "\n"},
		{TranscriptVerbose, TranscriptOptions{Task: "transcribe", Segments: true}, `{"task":"transcribe","language":"german","duration":12.5,"text":"Hello <there> a\n\nb","segments":[` +
			`{"id":0,"seek":0,"start":0,"end":1.5,"text":" Hello <there>","tokens":[5,6],"temperature":0,"avg_logprob":-0.25,"compression_ratio":1.5,"no_speech_prob":0.125},` +
			`{"id":1,"start":3661.0004,"end":3662.9996,"text":" a\n\nb","tokens":[]}]}` + "\n"},
		{TranscriptVerbose, TranscriptOptions{Task: "translate", Words: true}, `{"task":"translate","language":"german","duration":12.5,"text":"Hello <there> a\n\nb","words":[{"word":"Hello","start":0,"end":0.5}]}` + "\n"},
	} {
		var b bytes.Buffer
		w, err := NewTranscriptWriter(tt.f, &b, tt.o)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range segments {
			if err := w.Segment(s); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.End(TranscribeResult{Language: "de", Duration: 12.5}); err != nil {
			t.Fatal(err)
		}
		if b.String() != tt.want {
			t.Errorf("%s: found\n%s\nwanted\n%s", tt.f, b.String(), tt.want)
		}
	}
	var bad *InvalidInputError
	if _, err := NewTranscriptWriter("doc", io.Discard, TranscriptOptions{}); !errors.As(err, &bad) {
		t.Errorf("found %v", err)
	}
	var b bytes.Buffer
	if w, err := NewTranscriptWriter(TranscriptVTT, &b, TranscriptOptions{}); err != nil || w.End(TranscribeResult{}) != nil || b.String() != "WEBVTT\n\n" {
		t.Errorf("of nothing was written %q, %v", b.String(), err)
	}
}
