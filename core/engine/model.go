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
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
)

// model is a configured model: opened once, in the background, and placed where
// its route leads.
type model struct {
	name   string
	config config.Model
	opened chan struct{} // closed when session and embedder, or err, are set

	session  *Session
	embedder *tasks.Embedder
	err      error

	mu     sync.Mutex
	last   error        // how the last placing ended
	chosen route.Choice // where the last request ran
	ready  time.Time
}

// open reads the checkpoint and the tokenizer and holds one against the other.
func (m *model) open(e *Engine) error {
	s, err := e.Open(m.config.Path, SessionOptions{Name: m.name, Component: models.Encode, Preferred: m.config.Platform, Policy: m.policy(e), Split: e.split()})
	if err != nil {
		return err
	}
	if s.Model == nil || s.Model.Embedding == nil {
		err := error(&noTaskError{s.Class})
		if s.Model != nil {
			err = fmt.Errorf("a model of class %q does not embed, and no other task is known", s.Class)
		}
		return errors.Join(err, s.Close())
	}
	tok, err := processors.OpenTokenizer(s.Dir)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	if n := int64(tok.VocabSize()); n > s.Model.VocabSize {
		return errors.Join(fmt.Errorf("the tokenizer has %d tokens and the model %d: it is another model's tokenizer", n, s.Model.VocabSize), s.Close())
	}
	m.session = s
	emb := s.Model.Embedding
	m.embedder = &tasks.Embedder{
		Model: m.name, Encoder: textEncoder{tok, emb.Prompt, emb.Lowercase}, Runner: s.Runner, Feeds: s.Model.Feeds,
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
	_, err := m.embed(ctx, tasks.EmbedRequest{Texts: []string{"ready"}})
	return err
}

func (m *model) embed(ctx context.Context, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	res, err := m.embedder.Embed(ctx, req)
	m.mu.Lock()
	defer m.mu.Unlock()
	var none *NoPlatformError
	switch {
	case err == nil:
		if m.last != nil || m.ready.IsZero() {
			m.ready = time.Now()
		}
		m.last, m.chosen = nil, res.Decision.Chosen
	case errors.As(err, &none) || m.ready.IsZero():
		m.last = err
	}
	return res, err
}

func (m *model) info() ModelInfo {
	i := ModelInfo{Name: m.name, Path: m.config.Path, Task: "embed", Precision: "f32", State: ModelLoading}
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
	i.MaxTokens, i.Dimensions = m.embedder.MaxTokens, m.embedder.Hidden
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
