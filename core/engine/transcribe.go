package engine

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

// addTranscribe makes what hears: a decoder that attends to sounds, or a model of CTC.
func (m *model) addTranscribe(e *Engine, s *Session) (err error) {
	extractor, err := audio.OpenExtractor(s.Dir)
	if err != nil {
		return err
	}
	if s.Model.Hears() {
		err = m.addWhisper(e, s, extractor)
	} else {
		err = m.addRecognizer(s, extractor)
	}
	if err != nil {
		return err
	}
	m.tries = append(m.tries, func(ctx context.Context) (route.Decision, error) {
		res, err := m.transcribe(ctx, tasks.TranscribeRequest{ID: "ready", Sound: &silence{rate: extractor.Rate(), left: extractor.Rate()}, Temperatures: []float64{0}},
			func(tasks.Segment) error { return nil })
		return res.Decision, err
	})
	return nil
}

func (m *model) addWhisper(e *Engine, s *Session, extractor audio.Extractor) error {
	generation, err := generationOf(s.Dir)
	if err != nil {
		return err
	}
	tokens, err := tasks.NewWhisperTokens(m.tokenizer, generation)
	if err != nil {
		return err
	}
	if err := m.addScheduler(e, s); err != nil {
		return err
	}
	d := s.Model.Decoder
	m.transcriber = &tasks.Whisper{Model: m.name, Tokenizer: m.tokenizer, Tokens: tokens, Extractor: extractor, Rows: int(d.Cross.Rows),
		Decoder: &speechDecoder{m.scheduler, m.name, d.EOS}, MaxTokens: int(m.maxLength(e, d))}
	return nil
}

// generationOf is generation_config.json of a folder; nil where there is none.
func generationOf(dir string) (*checkpoint.Config, error) {
	ck, err := checkpoint.Open(dir)
	if err != nil {
		return nil, err
	}
	c, err := ck.Generation()
	return c, errors.Join(err, ck.Close())
}

func (m *model) addRecognizer(s *Session, extractor audio.Extractor) error {
	text, err := processors.OpenCTC(s.Dir)
	if err != nil {
		return err
	}
	c := s.Model.CTC
	if n := int64(text.VocabSize()); n > c.VocabSize {
		return fmt.Errorf("the tokenizer has %d tokens and the model %d: it is another model's tokenizer", n, c.VocabSize)
	}
	m.transcriber = &tasks.Recognizer{Model: m.name, Runner: s.Runner, Feeds: s.feeds, Extractor: extractor, Text: text, Clock: c.FrameClock,
		Vocab: int(c.VocabSize), Output: models.Logits}
	return nil
}

// speechDecoder draws what is said through a scheduler.
type speechDecoder struct {
	scheduler *schedule.Scheduler
	model     string
	end       []int64
}

// Decode is tasks.SpeechDecoder's.
func (x *speechDecoder) Decode(ctx context.Context, d *route.Decision, req tasks.SpeechRequest) ([][]int64, error) {
	r := schedule.Request{ID: req.ID, Prompt: req.Prompt, Source: req.Source, MaxTokens: req.MaxTokens, N: req.N, Salt: x.model + "\x00" + req.Salt, Priority: req.Priority,
		Sampling: schedule.Sampling{Temperature: req.Temperature, Seed: req.Seed}, Rule: func(choice int) schedule.Rule { return req.Rule(choice) }}
	for _, id := range x.end {
		r.Stop = append(r.Stop, []int64{id})
	}
	stream, err := x.scheduler.Submit(ctx, r)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	out := make([][]int64, max(1, req.N))
	replays := d.Replays
	for {
		token, err := stream.Next(ctx)
		*d = stream.Decision()
		d.Replays = append(d.Replays, replays...)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if token.Finish != schedule.Stop {
			out[token.Choice] = append(out[token.Choice], token.ID)
		}
	}
}

// silence is a sound in which nothing is heard.
type silence struct{ rate, left int }

func (s *silence) Rate() int { return s.rate }

func (s *silence) Read(dst []float32) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := min(len(dst), s.left)
	clear(dst[:n])
	s.left -= n
	return n, nil
}

func (m *model) transcribe(ctx context.Context, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error) {
	if m.transcriber == nil {
		return tasks.TranscribeResult{}, m.cannot(taskTranscribe)
	}
	res, err := m.transcriber.Transcribe(ctx, req, emit)
	err = m.poisoned(err)
	m.note(&res.Decision, err)
	return res, err
}

// Transcribe hands on what is said in a sound, segment by segment; see tasks.Transcriber.
func (e *Engine) Transcribe(ctx context.Context, name string, req tasks.TranscribeRequest, emit func(tasks.Segment) error) (tasks.TranscribeResult, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return tasks.TranscribeResult{}, err
	}
	res, err := m.transcribe(ctx, req, emit)
	if err == nil {
		e.record(&res.Decision)
	}
	return res, err
}
