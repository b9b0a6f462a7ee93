package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/schedule/constrain"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/tensor"
)

// Tasks that models serve.
const (
	taskEmbed      = "embed"
	taskGenerate   = "generate"
	taskTranscribe = "transcribe"
	taskClassify   = "classify"
	taskDetect     = "detect"
)

// TaskError says that a model does something else than it was asked for.
type TaskError struct{ Model, Class, Asked, Serves string }

func (e *TaskError) Error() string {
	return fmt.Sprintf("model %q, of class %q, does not %s: it can %s", e.Model, e.Class, e.Asked, e.Serves)
}

// kvTypes are the element types of a configuration's pools.
func kvTypes(c config.KVCache) (models.KVTypes, error) {
	var t models.KVTypes
	for _, p := range []struct {
		name string
		elem *tensor.DType
		bits *int
	}{{c.Key, &t.Key, &t.KeyBits}, {c.Value, &t.Value, &t.ValueBits}} {
		switch p.name {
		case "f32":
			*p.elem = tensor.Float32
		case "f16":
			*p.elem = tensor.Float16
		case "bf16":
			*p.elem = tensor.BFloat16
		case "int8":
			*p.elem, *p.bits = tensor.Int8, 8
		case "int4":
			*p.elem, *p.bits = tensor.Uint8, 4
		default:
			return t, fmt.Errorf("kv_cache: there is no element type %q", p.name)
		}
	}
	return t, nil
}

// longSources is how many sources of the greatest length the pools have room for, unless kv_cache.memory
// says how large they are. Whisper's are all of that length, and what has been heard stays in the pools
// for as long as there is room: more would be memory for the past.
const longSources = 8

// addScheduler makes what runs a decoder's steps.
func (m *model) addScheduler(e *Engine, s *Session) (err error) {
	c, kv, d := e.config.Generate, e.config.KVCache, s.Model.Decoder
	preemption := schedule.Preemption(c.Preemption)
	if c.Preemption == "auto" {
		preemption = schedule.PreemptAuto
	}
	limit := m.maxLength(e, d)
	pools := PoolOptions{PageSize: int64(kv.PageSize), Bytes: int64(kv.Memory), Useful: int64(c.MaxSequences) * limit}
	if d.Cross != nil {
		pools.UsefulRows = int64(min(c.MaxSequences, longSources)) * d.Cross.MaxRows
	}
	if m.executor, err = s.decoder(pools); err != nil {
		return err
	}
	m.scheduler, err = schedule.New(m.executor, schedule.Options{
		Vocabulary: int(d.VocabSize), Embeds: int(d.Embeds), Sources: d.Cross != nil, MaxLength: int(limit), StepTokens: c.StepTokens, MaxSequences: c.MaxSequences,
		MaxWaiting: c.MaxWaiting, Preemption: preemption, SwapBytes: int64(kv.Swap),
	})
	return err
}

// maxLength is how many tokens a text may have, prompt and output together.
func (m *model) maxLength(e *Engine, d *models.Decoder) int64 {
	if n := int64(e.config.Generate.MaxLength); n > 0 {
		return min(n, d.MaxPositions)
	}
	return d.MaxPositions
}

// addGenerate makes a generator over a decoder.
func (m *model) addGenerate(e *Engine, s *Session) error {
	d := s.Model.Decoder
	template, err := processors.OpenTemplate(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := m.addScheduler(e, s); err != nil {
		return err
	}
	m.completer = &tasks.Completer{Model: m.name, Tokenizer: m.tokenizer, Template: template, Scheduler: m.scheduler, MaxTokens: int(m.maxLength(e, d)), End: d.EOS,
		Private: d.ByLength, Deterministic: e.config.Generate.Deterministic, Constrain: constrainer(m.tokenizer, d)}
	if d.Cross != nil {
		m.completer.Reader = textReader{s.Model}
	}
	m.tries = append(m.tries, func(ctx context.Context) (route.Decision, error) {
		res, err := m.generate(ctx, tasks.GenerateRequest{ID: "ready", Tokens: []int64{max(0, d.BOS)}, MaxTokens: 1}, func(tasks.GenerateEvent) error { return nil })
		return res.Decision, err
	})
	if s.Model.Pictures == nil {
		return nil
	}
	if f := newFetcher(e.config.Fetch); f != nil {
		m.completer.Fetcher = f
	}
	see, err := newEyes(s)
	if err != nil {
		return err
	}
	m.completer.Eyes = see
	m.tries = append(m.tries, see.ready)
	return nil
}

// textReader makes texts the source that a decoder attends to.
type textReader struct{ model *models.Model }

func (r textReader) Start() int64 { return r.model.Decoder.Cross.Start }

func (r textReader) Limit() int { return int(r.model.Decoder.Cross.MaxRows) }

func (r textReader) Source(ids []int64) (*schedule.Source, error) {
	inputs, err := r.model.Feeds(models.Prepare, map[string]tensor.Tensor{models.InputIDs: tensor.Ints(tensor.Shape{1, int64(len(ids))}, ids...)})
	if err != nil {
		return nil, err
	}
	return schedule.NewSource(inputs, len(ids)), nil
}

// constrainer holds texts of a decoder to schemas. What it needs to know of the vocabulary is
// found out when a schema first comes.
func constrainer(tok *processors.Tokenizer, d *models.Decoder) func(json.RawMessage) (func() schedule.Constraint, error) {
	vocabulary := sync.OnceValue(func() *constrain.Vocabulary {
		tokens := make([][]byte, d.VocabSize) // those without bytes never come
		for id := range tokens {
			tokens[id] = tok.TokenBytes(int64(id))
		}
		for _, t := range tok.AddedTokens() {
			tokens[t.ID] = nil
		}
		return constrain.NewVocabulary(tokens, d.EOS)
	})
	return func(schema json.RawMessage) (func() schedule.Constraint, error) {
		g, err := constrain.Compile(schema, vocabulary())
		if err != nil {
			return nil, err
		}
		return func() schedule.Constraint { return g.Start() }, nil
	}
}

func (m *model) generate(ctx context.Context, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error) {
	if m.completer == nil {
		return tasks.GenerateResult{}, m.cannot(taskGenerate)
	}
	res, err := m.completer.Generate(ctx, req, emit)
	err = m.poisoned(err)
	m.note(&res.Decision, err)
	return res, err
}

// poisoned is a scheduler's error as the engine has it.
func (m *model) poisoned(err error) error {
	if p := (*schedule.PoisonedError)(nil); errors.As(err, &p) {
		return &PoisonedError{Model: m.name, Deaths: p.Deaths, Stderr: p.Stderr}
	}
	return err
}

// Generate answers with what comes after a prompt, as it comes; see tasks.Completer.
func (e *Engine) Generate(ctx context.Context, name string, req tasks.GenerateRequest, emit func(tasks.GenerateEvent) error) (tasks.GenerateResult, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return tasks.GenerateResult{}, err
	}
	res, err := m.generate(ctx, req, emit)
	if err == nil {
		e.record(&res.Decision)
	}
	return res, err
}

// Tokenizer is the tokenizer of a model that serves requests.
func (e *Engine) Tokenizer(ctx context.Context, name string) (*processors.Tokenizer, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return nil, err
	}
	if m.tokenizer == nil {
		return nil, m.cannot("tokenize")
	}
	return m.tokenizer, nil
}

// SchedulerStats are snapshots of the models that generate, by name.
func (e *Engine) SchedulerStats() map[string]schedule.Stats {
	out := map[string]schedule.Stats{}
	for name, m := range e.models {
		select {
		case <-m.opened:
		default:
			continue
		}
		if m.scheduler != nil {
			out[name] = m.scheduler.Stats()
		}
	}
	return out
}
