package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/tensor"
)

// model is a configured model: opened once, in the background, and placed where
// its route leads.
type model struct {
	name   string
	config config.Model
	opened chan struct{} // closed when session and embedder, or err, are set

	session   *Session
	tokenizer *processors.Tokenizer
	embedder  *tasks.Embedder // one of these two
	completer *tasks.Completer
	scheduler *schedule.Scheduler // the completer's
	executor  *decoder            // the scheduler's
	err       error

	mu     sync.Mutex
	last   error        // how the last placing ended
	chosen route.Choice // where the last request ran
	ready  time.Time
}

// open reads the checkpoint and the tokenizer and holds one against the other.
func (m *model) open(e *Engine) error {
	kv, err := kvTypes(e.config.KVCache)
	if err != nil {
		return err
	}
	s, err := e.Open(m.config.Path, SessionOptions{Name: m.name, Preferred: m.config.Platform, Policy: m.policy(e), Split: e.split(),
		Models: models.Options{KV: kv, Activations: m.config.Activations}})
	if err != nil {
		return err
	}
	if s.Model != nil && s.Model.Decoder != nil {
		err = quantize.CheckPages(s.Class, s.Model.Decoder)
	}
	if err == nil {
		err = m.serve(e, s)
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	m.session = s
	return nil
}

// serve makes of a session what answers requests.
func (m *model) serve(e *Engine, s *Session) error {
	if s.Model == nil {
		return &noTaskError{s.Class}
	}
	tok, err := processors.OpenTokenizer(s.Dir)
	if err != nil {
		return err
	}
	if n := int64(tok.VocabSize()); n > s.Model.VocabSize {
		return fmt.Errorf("the tokenizer has %d tokens and the model %d: it is another model's tokenizer", n, s.Model.VocabSize)
	}
	m.tokenizer = tok
	task := taskEmbed
	if s.Model.Embedding == nil {
		task = taskGenerate
	}
	if want := m.config.Task; want != "" && want != task {
		return fmt.Errorf("task %q was asked for; a model of class %q can %s", want, s.Class, task)
	}
	if task == taskGenerate {
		return m.decode(e, s, tok)
	}
	emb := s.Model.Embedding
	m.embedder = &tasks.Embedder{
		Model: m.name, Encoder: textEncoder{tok, emb.Prompt, emb.Lowercase}, Runner: s.Runner,
		Feeds: func(in map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
			return s.Model.Feeds(models.Encode, in)
		},
		MaxTokens: int(emb.MaxTokens), Hidden: int(emb.Dimension), Pad: s.Model.PadToken,
		Output: models.SentenceEmbedding, Normalize: emb.Normalize,
	}
	return nil
}

// noTaskError says that a model is a bare graph: it can be run and explained, and
// answers no requests.
type noTaskError struct{ class string }

func (e *noTaskError) Error() string {
	return fmt.Sprintf("a model of class %q is a graph alone: there is no tokenizer, and no task is known", e.class)
}

// policy is the fallback policy for the model.
func (m *model) policy(e *Engine) route.Policy {
	if m.config.Fallback != "" {
		return route.Policy(m.config.Fallback)
	}
	return route.Policy(e.config.Fallback.Policy)
}

// split says how far graphs may be split.
func (e *Engine) split() route.Split { return route.Split(e.config.Split) }

// textEncoder is a tokenizer as tasks wants it, with what sentence-transformers does
// to a text before. As there, special tokens that a text spells out are special: a
// vector should be the one that others compute.
type textEncoder struct {
	tokenizer *processors.Tokenizer
	prompt    string
	lowercase bool
}

func (t textEncoder) Encode(text string, max int) ([]int64, int, error) {
	if t.lowercase {
		text = strings.ToLower(text)
	}
	enc, err := t.tokenizer.Encode(t.prompt+text, processors.EncodeOptions{MaxLength: max})
	return enc.IDs, enc.Cut, err
}

// place brings the model onto its first device, so that the first request need not.
func (m *model) place(ctx context.Context) error {
	_, err := m.try(ctx)
	return err
}

// try runs as little as can be, and says where.
func (m *model) try(ctx context.Context) (route.Decision, error) {
	if m.completer != nil {
		res, err := m.generate(ctx, tasks.GenerateRequest{ID: "ready", Tokens: []int64{max(0, m.session.Model.Decoder.BOS)}, MaxTokens: 1},
			func(tasks.GenerateEvent) error { return nil })
		return res.Decision, err
	}
	res, err := m.embed(ctx, tasks.EmbedRequest{Texts: []string{"ready"}})
	return res.Decision, err
}

func (m *model) embed(ctx context.Context, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	if m.embedder == nil {
		return tasks.EmbedResult{}, &TaskError{Model: m.name, Class: m.session.Class, Asked: taskEmbed, Serves: taskGenerate}
	}
	res, err := m.embedder.Embed(ctx, req)
	m.note(&res.Decision, err)
	return res, err
}

// note takes in how a request ended.
func (m *model) note(d *route.Decision, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var none *NoPlatformError
	switch {
	case err == nil:
		if m.last != nil || m.ready.IsZero() {
			m.ready = time.Now()
		}
		m.last, m.chosen = nil, d.Chosen
	case errors.As(err, &none) || m.ready.IsZero():
		m.last = err
	}
}

func (m *model) info() ModelInfo {
	i := ModelInfo{Name: m.name, Path: m.config.Path, State: ModelLoading}
	select {
	case <-m.opened:
	default:
		return i
	}
	if m.err != nil {
		i.State, i.Reason = ModelFailed, m.err.Error()
		return i
	}
	i.Class = m.session.Class
	i.Precision = "f32"
	if m.completer != nil {
		i.Task, i.MaxTokens = taskGenerate, m.completer.MaxTokens
	} else {
		i.Task, i.MaxTokens, i.Dimensions = taskEmbed, m.embedder.MaxTokens, m.embedder.Hidden
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.last != nil:
		i.State, i.Reason = ModelFailed, m.last.Error()
	case !m.ready.IsZero():
		i.State, i.Ready, i.Chosen = ModelReady, m.ready, m.chosen
	}
	return i
}
