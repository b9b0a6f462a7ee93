package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
)

// generationFile says how a model's authors would have it generate.
const generationFile = "generation_config.json"

// addRecognizer makes what hears with a model of CTC.
func (m *model) addRecognizer(_ *Engine, s *Session) error {
	x, err := audio.OpenExtractor(s.Dir)
	if err != nil {
		return err
	}
	text, err := processors.OpenCTC(s.Dir)
	if err != nil {
		return err
	}
	ctc := s.Model.CTC
	if int64(text.VocabSize()) > ctc.VocabSize || int64(text.Blank()) != ctc.Blank {
		return fmt.Errorf("the tokenizer has %d tokens, its blank being %d, and the model %d and %d: it is another model's tokenizer", text.VocabSize(), text.Blank(), ctc.VocabSize, ctc.Blank)
	}
	m.hear(&tasks.Recognizer{Model: m.name, Runner: s.Runner, Feeds: s.feeds, Extractor: x, Text: text, Clock: ctc.FrameClock, Vocab: int(ctc.VocabSize), Output: models.Logits}, x)
	return nil
}

// addWhisper makes what hears with Whisper.
func (m *model) addWhisper(e *Engine, s *Session) error {
	d := s.Model.Decoder
	x, err := audio.OpenExtractor(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		x, err = defaultWhisper(s.Model)
	}
	if err != nil {
		return err
	}
	probe, err := x.Extract([][]float32{{0}})
	if err != nil {
		return err
	}
	if _, err := s.Model.Feeds(models.Prepare, probe); err != nil {
		return fmt.Errorf("the feature extractor is another model's: %w", err)
	}
	generation, err := checkpoint.ReadConfig(filepath.Join(s.Dir, generationFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tokens, err := tasks.NewWhisperTokens(m.tokenizer, generation)
	if err != nil {
		return err
	}
	if err := m.addScheduler(e, s); err != nil {
		return err
	}
	m.hear(&tasks.Whisper{Model: m.name, Tokenizer: m.tokenizer, Tokens: tokens, Extractor: x, Rows: int(d.Cross.Rows), Decoder: speech{m.name, m.scheduler, d.EOS}, MaxTokens: int(m.maxLength(e, d))}, x)
	return nil
}

// defaultWhisper is the extractor of OpenAI's models, for folders that name none.
func defaultWhisper(m *models.Model) (audio.Extractor, error) {
	g, err := m.Component(models.Encoder)
	if err != nil {
		return nil, err
	}
	return audio.NewWhisper(int(g.Graph.Inputs[0].Type.Dims[1].Size)), nil
}

// hear makes t serve the task.
func (m *model) hear(t tasks.Transcriber, x audio.Extractor) {
	m.transcriber = t
	m.tries = append(m.tries, func(ctx context.Context) (route.Decision, error) {
		res, err := m.transcribe(ctx, tasks.TranscribeRequest{ID: "ready", Sound: &silence{rate: x.Rate(), left: x.Rate()}, Temperatures: []float64{0}}, func(tasks.Segment) error { return nil })
		return res.Decision, err
	})
}

// silence is a sound without any.
type silence struct{ rate, left int }

// Rate is audio.Source's.
func (s *silence) Rate() int { return s.rate }

// Read is audio.Source's.
func (s *silence) Read(dst []float32) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := min(len(dst), s.left)
	clear(dst[:n])
	s.left -= n
	return n, nil
}

// speech has a scheduler draw what is said.
type speech struct {
	model     string
	scheduler tasks.Scheduler
	end       []int64
}

// Decode is tasks.SpeechDecoder's.
func (s speech) Decode(ctx context.Context, d *route.Decision, req tasks.SpeechRequest) ([][]int64, error) {
	r := schedule.Request{ID: req.ID, Prompt: req.Prompt, Source: req.Source, MaxTokens: req.MaxTokens, N: req.N,
		Sampling: schedule.Sampling{Temperature: req.Temperature, Seed: req.Seed}, Salt: s.model + "\x00" + req.Salt, Priority: req.Priority,
		Rule: func(choice int) schedule.Rule { return req.Rule(choice) }}
	for _, id := range s.end {
		r.Stop = append(r.Stop, []int64{id})
	}
	stream, err := s.scheduler.Submit(ctx, r)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	out := make([][]int64, req.N)
	before := d.Replays // of the windows before
	for {
		t, err := stream.Next(ctx)
		*d = stream.Decision()
		d.Replays = append(d.Replays, before...)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if t.Finish != schedule.Stop {
			out[t.Choice] = append(out[t.Choice], t.ID)
		}
	}
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

// Transcribe hands what is said in a sound to emit, as it comes; see tasks.Transcriber.
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
