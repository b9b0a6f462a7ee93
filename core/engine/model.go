package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
)

// model is a configured model: opened once, in the background, and placed where
// its route leads. What it can do is in abilities' fields.
type model struct {
	name   string
	config config.Model
	opened chan struct{} // closed when session and abilities, or err, are set

	session   *Session              // of the component that requests come to first; others are its parts
	tokenizer *processors.Tokenizer // nil: it reads no text
	tasks     []string              // that it serves, the first in first place
	tries     []try
	err       error

	embedder    *tasks.Embedder
	completer   *tasks.Completer
	transcriber tasks.Transcriber
	classifier  *tasks.Classifier
	detector    *tasks.Detector
	scheduler   *schedule.Scheduler // of what generates; nil: nothing does
	executor    *decoder            // the scheduler's

	mu     sync.Mutex
	last   error        // how the last placing ended
	chosen route.Choice // where the last request ran
	ready  time.Time
}

// try asks as little of a component as can be, and says where it ran.
type try func(ctx context.Context) (route.Decision, error)

// abilities are what models can do: each is there where a model's components allow it, and makes
// what serves it. The order is that of a model's tasks.
var abilities = []struct {
	task  string
	there func(*models.Model) bool
	add   func(*model, *Engine, *Session) error
}{
	{taskGenerate, func(m *models.Model) bool { return m.Decoder != nil && !m.Hears() }, (*model).addGenerate},
	{taskTranscribe, func(m *models.Model) bool { return m.CTC != nil }, (*model).addRecognizer},
	{taskTranscribe, (*models.Model).Hears, (*model).addWhisper},
	{taskClassify, func(m *models.Model) bool { return m.Has(models.Classify) || m.Has(models.Match) }, (*model).addClassify},
	{taskDetect, func(m *models.Model) bool { return m.Has(models.Detect) }, (*model).addDetect},
	{taskEmbed, func(m *models.Model) bool { return m.Embedding != nil || vectorOf(m) != "" }, (*model).addEmbed},
}

// Tasks are what a model can do, the first in first place.
func Tasks(m *models.Model) []string {
	var names []string
	for _, a := range abilities {
		if a.there(m) {
			names = append(names, a.task)
		}
	}
	return names
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
	if s.Model.VocabSize > 0 && s.Model.CTC == nil {
		tok, err := processors.OpenTokenizer(s.Dir)
		if err != nil {
			return err
		}
		if n := int64(tok.VocabSize()); n > s.Model.VocabSize {
			return fmt.Errorf("the tokenizer has %d tokens and the model %d: it is another model's tokenizer", n, s.Model.VocabSize)
		}
		m.tokenizer = tok
	}
	for _, a := range abilities {
		if !a.there(s.Model) {
			continue
		}
		if err := a.add(m, e, s); err != nil {
			return err
		}
		m.tasks = append(m.tasks, a.task)
	}
	switch want := m.config.Task; {
	case len(m.tasks) == 0:
		return &noTaskError{s.Class}
	case want != "" && !slices.Contains(m.tasks, want):
		return fmt.Errorf("task %q was asked for; a model of class %q can %s", want, s.Class, strings.Join(m.tasks, ", "))
	}
	return nil
}

// addEmbed makes what embeds texts, or files.
func (m *model) addEmbed(e *Engine, s *Session) (err error) {
	if s.Model.Embedding == nil {
		m.embedder, err = m.perceivingEmbedder(e, s)
	} else {
		emb := s.Model.Embedding
		m.embedder = &tasks.Embedder{
			Model: m.name, Encoder: textEncoder{m.tokenizer, emb.Prompt, emb.Lowercase}, Runner: s.Runner, Feeds: s.feeds,
			MaxTokens: int(emb.MaxTokens), Hidden: int(emb.Dimension), Pad: s.Model.PadToken,
			Output: models.SentenceEmbedding, Normalize: emb.Normalize,
		}
	}
	if err != nil {
		return err
	}
	m.tries = append(m.tries, m.embedder.Ready)
	return nil
}

// cannot says that a model does not serve a task.
func (m *model) cannot(task string) error {
	return &TaskError{Model: m.name, Class: m.session.Class, Asked: task, Serves: strings.Join(m.tasks, ", ")}
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

// place brings all components onto their first devices, so that the first request need not. They
// are brought side by side.
func (m *model) place(ctx context.Context) error {
	errs, where := make([]error, len(m.tries)), make([]route.Decision, len(m.tries))
	var busy sync.WaitGroup
	for i, t := range m.tries {
		busy.Go(func() { where[i], errs[i] = t(ctx) })
	}
	busy.Wait()
	err := errors.Join(errs...)
	m.note(&where[0], err)
	return err
}

// try asks as little as can be of the component that requests come to first, and says where it ran.
func (m *model) try(ctx context.Context) (route.Decision, error) { return m.tries[0](ctx) }

func (m *model) embed(ctx context.Context, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	if m.embedder == nil {
		return tasks.EmbedResult{}, m.cannot(taskEmbed)
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
	i.Task, i.Tasks = m.tasks[0], m.tasks
	if m.embedder != nil {
		i.MaxTokens, i.Dimensions = m.embedder.MaxTokens, m.embedder.Hidden
	}
	if m.completer != nil {
		i.MaxTokens = m.completer.MaxTokens
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
