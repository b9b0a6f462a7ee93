package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/tasks"
)

// vectorOf is the component that makes vectors of what a model sees or hears; empty: none
// does.
func vectorOf(m *models.Model) string {
	for _, name := range []string{models.Image, models.Video, models.Audio} {
		if m.Has(name) {
			return name
		}
	}
	return ""
}

// templates are what a label stands in when a model is asked for none, as in
// transformers' pipelines.
var templates = map[string]string{models.Image: "This is a photo of {}.", models.Video: "{}", models.Audio: "This is a sound of {}."}

// newSense makes what turns files into the model's inputs.
func newSense(s *Session) (tasks.Sense, error) {
	if s.Model.Has(models.Audio) {
		x, err := audio.OpenExtractor(s.Dir)
		return &tasks.SoundSense{Extractor: x}, err
	}
	p, err := pixels.Open(s.Dir, s.Model.ModelType)
	if err != nil {
		return nil, err
	}
	if frames := int(s.Model.Vision.Frames); frames > 0 {
		return &tasks.VideoSense{Processor: p, Frames: frames}, nil
	}
	return &tasks.PictureSense{Processor: p}, nil
}

// fetches is what gets files from URLs; nil where nothing may be fetched.
func (e *Engine) fetches() tasks.Fetcher {
	if f := newFetcher(e.config.Fetch); f != nil {
		return f
	}
	return nil
}

// part is a component as tasks run it.
func (s *Session) part(component string) (*tasks.Part, error) {
	p, err := s.Part(component)
	if err != nil {
		return nil, err
	}
	var inputs []string
	for _, in := range p.Source.Graph.Inputs {
		inputs = append(inputs, in.Name)
	}
	return &tasks.Part{Runner: p.Runner, Feeds: p.feeds, Inputs: inputs, Outputs: p.Outputs()}, nil
}

// fits makes a sample ready and holds it against what a component takes: the files of a
// folder may be of different models.
func fits(s tasks.Sense, p *tasks.Part) error {
	sample, err := s.Sample()
	if err == nil {
		_, err = p.Feeds(sample.Inputs)
	}
	if err != nil {
		return fmt.Errorf("preprocessor_config.json and config.json are of different models: %w", err)
	}
	return nil
}

// fixed is how many tokens a component takes of every text; 0: as many as there are.
func fixed(s *Session, texts *tasks.Part) int {
	if slices.Contains(texts.Inputs, "attention_mask") {
		return 0
	}
	return int(s.Model.MaxTokens)
}

// addClassify makes what tells classes, of the model's own or of texts.
func (m *model) addClassify(e *Engine, s *Session) (err error) {
	c := &tasks.Classifier{Model: m.name, Fetcher: e.fetches()}
	if c.Sense, err = newSense(s); err != nil {
		return err
	}
	if s.Model.Has(models.Classify) {
		if c.Own, err = s.part(models.Classify); err != nil {
			return err
		}
		c.Classes = s.Model.Vision.Labels
		if err := fits(c.Sense, c.Own); err != nil {
			return err
		}
	}
	if s.Model.Has(models.Match) {
		seen := vectorOf(s.Model)
		for _, p := range []struct {
			to        **tasks.Part
			component string
		}{{&c.Seen, seen}, {&c.Texts, models.Text}, {&c.Match, models.Match}} {
			if *p.to, err = s.part(p.component); err != nil {
				return err
			}
		}
		c.Encoder, c.Pad, c.MaxTokens = textEncoder{tokenizer: m.tokenizer}, s.Model.PadToken, int(s.Model.MaxTokens)
		c.Fixed, c.Unit, c.Template = fixed(s, c.Texts), c.Texts.Outputs[0] == models.TextEmbeds, templates[seen]
		c.Independent = s.Model.Vision != nil && s.Model.Vision.Independent
		if err := fits(c.Sense, c.Seen); err != nil {
			return err
		}
	}
	m.classifier = c
	m.tries = append(m.tries, c.Ready)
	return nil
}

// addDetect makes what finds things in pictures.
func (m *model) addDetect(e *Engine, s *Session) (err error) {
	t := &tasks.Detector{Model: m.name, Fetcher: e.fetches(), Classes: s.Model.Vision.Labels}
	if t.Sense, err = newSense(s); err != nil {
		return err
	}
	if t.Part, err = s.part(models.Detect); err != nil {
		return err
	}
	m.detector = t
	m.tries = append(m.tries, t.Ready)
	return fits(t.Sense, t.Part)
}

// perceivingEmbedder makes what embeds files, and texts into the same space where the
// model has one.
func (m *model) perceivingEmbedder(from *Engine, s *Session) (_ *tasks.Embedder, err error) {
	e := &tasks.Embedder{Model: m.name, Fetcher: from.fetches(), Normalize: true}
	if e.Sense, err = newSense(s); err != nil {
		return nil, err
	}
	component := vectorOf(s.Model)
	if e.Perceive, err = s.part(component); err != nil {
		return nil, err
	}
	made, err := s.Model.Component(component)
	if err != nil {
		return nil, err
	}
	dims := made.Graph.Outputs[0].Type.Dims
	e.Hidden = int(dims[len(dims)-1].Size)
	if s.Model.Has(models.Text) {
		text, err := s.part(models.Text)
		if err != nil {
			return nil, err
		}
		if text.Outputs[0] == models.TextEmbeds {
			e.Encoder, e.Runner, e.Feeds, e.Output = textEncoder{tokenizer: m.tokenizer}, text.Runner, text.Feeds, models.TextEmbeds
			e.MaxTokens, e.Pad, e.Fixed = int(s.Model.MaxTokens), s.Model.PadToken, fixed(s, text)
		}
	}
	return e, fits(e.Sense, e.Perceive)
}

// Classify tells classes of pictures, videos or sounds.
func (e *Engine) Classify(ctx context.Context, name string, req tasks.ClassifyRequest) (tasks.ClassifyResult, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return tasks.ClassifyResult{}, err
	}
	if m.classifier == nil {
		return tasks.ClassifyResult{}, m.cannot(taskClassify)
	}
	res, err := m.classifier.Classify(ctx, req)
	m.note(&res.Decision, err)
	if err == nil {
		e.record(&res.Decision)
	}
	return res, err
}

// Detect finds things in pictures.
func (e *Engine) Detect(ctx context.Context, name string, req tasks.DetectRequest) (tasks.DetectResult, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return tasks.DetectResult{}, err
	}
	if m.detector == nil {
		return tasks.DetectResult{}, m.cannot(taskDetect)
	}
	res, err := m.detector.Detect(ctx, req)
	m.note(&res.Decision, err)
	if err == nil {
		e.record(&res.Decision)
	}
	return res, err
}
