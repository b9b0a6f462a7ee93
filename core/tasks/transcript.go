package tasks

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// TranscriptFormat is how a transcript is written.
type TranscriptFormat string

// Formats of OpenAI's API.
const (
	TranscriptJSON    TranscriptFormat = "json"         // {"text": ...}
	TranscriptVerbose TranscriptFormat = "verbose_json" // with language, duration, segments and words
	TranscriptText    TranscriptFormat = "text"
	TranscriptSRT     TranscriptFormat = "srt" // SubRip's subtitles
	TranscriptVTT     TranscriptFormat = "vtt" // WebVTT (w3.org/TR/webvtt1)
)

// TranscriptFormats are all formats.
var TranscriptFormats = []TranscriptFormat{TranscriptJSON, TranscriptText, TranscriptSRT, TranscriptVerbose, TranscriptVTT}

// TranscriptWriter writes a transcript as it comes.
type TranscriptWriter interface {
	Segment(s Segment) error
	// End writes what can only be known at the end.
	End(r TranscribeResult) error
}

// TranscriptOptions say what is written.
type TranscriptOptions struct {
	Task            string // transcribe or translate
	Words, Segments bool   // of TranscriptVerbose: which times
}

// NewTranscriptWriter begins to write. Text, subtitles and captions are written segment
// by segment, and JSON at the end.
func NewTranscriptWriter(f TranscriptFormat, w io.Writer, o TranscriptOptions) (TranscriptWriter, error) {
	switch f {
	case TranscriptText:
		return &textTranscript{w: w}, nil
	case TranscriptSRT:
		return &captions{w: w, decimal: ","}, nil
	case TranscriptVTT:
		return &captions{w: w, decimal: ".", web: true}, nil
	case TranscriptJSON, TranscriptVerbose:
		return &jsonTranscript{w: w, verbose: f == TranscriptVerbose, o: o}, nil
	}
	return nil, &InvalidInputError{Field: "response_format", Input: -1, Problem: fmt.Sprintf("%q is not known", f),
		Remedy: "json, text, srt, verbose_json and vtt are"}
}

// glue joins the texts of segments, which begin with the space that is wanted between
// them.
type glue struct{ begun bool }

func (g *glue) join(text string) string {
	if !g.begun {
		text = strings.TrimLeft(text, " ")
		g.begun = text != ""
	}
	return text
}

// textTranscript is one line.
type textTranscript struct {
	w io.Writer
	glue
}

func (t *textTranscript) Segment(s Segment) error {
	_, err := io.WriteString(t.w, t.join(s.Text))
	return err
}

func (t *textTranscript) End(TranscribeResult) error {
	_, err := io.WriteString(t.w, "\n")
	return err
}

// captions are SubRip's or WebVTT's.
type captions struct {
	w       io.Writer
	decimal string
	web     bool
	begun   bool
	count   int
}

func (c *captions) Segment(s Segment) error {
	if err := c.begin(); err != nil {
		return err
	}
	c.count++
	head := fmt.Sprintf("%d\n", c.count)
	text := strings.TrimSpace(s.Text)
	if c.web {
		head = ""
		text = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	}
	// An empty line would end the caption.
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "\n")
	_, err := fmt.Fprintf(c.w, "%s%s --> %s\n%s\n\n", head, c.time(s.Start), c.time(s.End), text)
	return err
}

func (c *captions) begin() error {
	if c.begun || !c.web {
		return nil
	}
	c.begun = true
	_, err := io.WriteString(c.w, "WEBVTT\n\n")
	return err
}

func (c *captions) End(TranscribeResult) error { return c.begin() }

func (c *captions) time(s float64) string {
	ms := int64(math.Round(s * 1000))
	return fmt.Sprintf("%02d:%02d:%02d%s%03d", ms/3600000, ms/60000%60, ms/1000%60, c.decimal, ms%1000)
}

// jsonTranscript is an object of OpenAI's API.
type jsonTranscript struct {
	w        io.Writer
	verbose  bool
	o        TranscriptOptions
	text     strings.Builder
	segments []jsonSegment
	words    []jsonWord
	glue
}

type jsonSegment struct {
	ID               int      `json:"id"`
	Seek             *int64   `json:"seek,omitempty"`
	Start            float64  `json:"start"`
	End              float64  `json:"end"`
	Text             string   `json:"text"`
	Tokens           []int64  `json:"tokens"`
	Temperature      *float64 `json:"temperature,omitempty"`
	AvgLogprob       *float64 `json:"avg_logprob,omitempty"`
	CompressionRatio *float64 `json:"compression_ratio,omitempty"`
	NoSpeechProb     *float64 `json:"no_speech_prob,omitempty"`
}

type jsonWord struct {
	Word  string  `json:"word"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

func (j *jsonTranscript) Segment(s Segment) error {
	j.text.WriteString(j.join(s.Text))
	if !j.verbose {
		return nil
	}
	if j.o.Segments {
		out := jsonSegment{ID: s.ID, Start: s.Start, End: s.End, Text: s.Text, Tokens: []int64{}}
		if d := s.Detail; d != nil {
			out.Tokens, out.Seek = slices.Clone(d.Tokens), &d.Seek
			out.Temperature, out.AvgLogprob, out.CompressionRatio, out.NoSpeechProb = &d.Temperature, &d.AvgLogprob, &d.CompressionRatio, &d.NoSpeech
		}
		j.segments = append(j.segments, out)
	}
	if j.o.Words {
		for _, w := range s.Words {
			j.words = append(j.words, jsonWord{w.Text, w.Start, w.End})
		}
	}
	return nil
}

func (j *jsonTranscript) End(r TranscribeResult) error {
	var v any = struct {
		Text string `json:"text"`
	}{j.text.String()}
	if j.verbose {
		language := whisperLanguages[r.Language]
		if language == "" {
			language = r.Language
		}
		v = struct {
			Task     string        `json:"task"`
			Language string        `json:"language"`
			Duration float64       `json:"duration"`
			Text     string        `json:"text"`
			Segments []jsonSegment `json:"segments,omitempty"`
			Words    []jsonWord    `json:"words,omitempty"`
		}{j.o.Task, strings.ToLower(language), r.Duration, j.text.String(), j.segments, j.words}
	}
	e := json.NewEncoder(j.w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
