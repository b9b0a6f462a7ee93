package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// onnxClass is the class that routes know plain ONNX models by.
const onnxClass = "onnx"

// SessionOptions say which graph of a model is opened, and where it may run.
type SessionOptions struct {
	Name      string // for records; empty: the path
	Component string // models.Full, models.Encode, ...; empty: the one that answers requests. An ONNX model has one graph
	Models    models.Options
	Preferred string // platform or device; empty: as the route says
	Policy    route.Policy
	Split     route.Split // empty: off
}

// Session is one graph of a checkpoint, open to be run.
type Session struct {
	*Runner
	Name   string
	Class  string
	Model  *models.Model // nil for an ONNX model
	Source *graph.Model
	Path   string // that was opened, where a hub: path led to
	Dir    string // of config.json and tokenizer

	component string // of Model that Source is
	// run makes the Runner of a graph of the checkpoint.
	run   func(g *graph.Model) *Runner
	parts map[string]*Session // other components, by name

	closers []func() error
}

// Part is the session of another component of the same model, which is placed by itself. It is
// closed with s. Parts are made by one goroutine.
func (s *Session) Part(component string) (*Session, error) {
	if component == s.component {
		return s, nil
	}
	if p, ok := s.parts[component]; ok {
		return p, nil
	}
	g, err := s.Model.Component(component)
	if err != nil {
		return nil, err
	}
	p := &Session{Runner: s.run(g), Name: s.Name, Class: s.Class, Model: s.Model, Source: g, Path: s.Path, Dir: s.Dir, component: component}
	if s.parts == nil {
		s.parts = map[string]*Session{}
	}
	s.parts[component] = p
	return p, nil
}

// Open opens a graph of the checkpoint at path: a Hugging Face folder, an ONNX file
// or folder, a GGUF file or a folder with one, or hub:ORG/NAME for what was pulled.
// Nothing is compiled yet, and nothing pulled: *hub.NotCachedError says what is not there.
func (e *Engine) Open(path string, o SessionOptions) (*Session, error) {
	if o.Name == "" {
		o.Name = path
	}
	path, err := e.locate(path)
	if err != nil {
		return nil, err
	}
	ck, closeCheckpoint, err := e.openCheckpoint(context.Background(), path)
	if err != nil {
		return nil, err
	}
	s, err := e.open(ck, o)
	if err != nil {
		return nil, errors.Join(err, closeCheckpoint())
	}
	s.Path = path
	s.closers = append(s.closers, closeCheckpoint)
	return s, nil
}

func (e *Engine) open(ck *checkpoint.Checkpoint, o SessionOptions) (*Session, error) {
	identity, err := ck.Identity()
	if err != nil {
		return nil, err
	}
	s := &Session{Name: o.Name, Class: onnxClass, Dir: ck.Dir}
	var paddable []string
	if ck.Kind == checkpoint.ONNX {
		if s.Source, err = graph.Load(ck.Path, graph.WithLinks()); err != nil {
			return nil, err
		}
		s.closers = append(s.closers, s.Source.Close)
		s.Source.Graph.Inputs = tasks.FeedInputs(s.Source.Graph)
	} else {
		if s.Model, err = models.Load(ck, o.Models); err != nil {
			return nil, err
		}
		component := o.Component
		if component == "" {
			component = s.Model.Serving()
		}
		if component == "" {
			return nil, &noTaskError{s.Model.Class}
		}
		if s.Model.Decoder != nil {
			o.Split = route.SplitOff // pools lie on one device
		}
		if s.Source, err = s.Model.Component(component); err != nil {
			return nil, err
		}
		s.Class, s.component = s.Model.Class, component
		paddable = []string{models.Batch, models.Sequence}
	}
	q := route.Query{Model: s.Name, Class: s.Class, Preferred: o.Preferred, Policy: o.Policy, Split: o.Split,
		Platforms: e.platforms(s.Class), RestartWait: e.config.Fallback.RestartWait}
	s.run = func(g *graph.Model) *Runner {
		return newRunner(e.fleet, e.store, lower.Source{Graph: g, Dir: ck.Dir, Identity: identity}, paddable, q, e.keeper, e.log)
	}
	s.Runner = s.run(s.Source)
	return s, nil
}

// platforms is the route of a class.
func (e *Engine) platforms(class string) []string {
	if r, ok := e.config.Route[class]; ok {
		return r
	}
	return e.config.Route["default"]
}

// Feeds completes and checks inputs as the model's class wants them; an ONNX model
// takes them as they are.
func (s *Session) Feeds(inputs map[string]graph.Datum) (map[string]graph.Datum, error) {
	if s.Model == nil {
		return inputs, nil
	}
	given := make(map[string]tensor.Tensor, len(inputs))
	for name, v := range inputs {
		if v.Kind != graph.KindTensor {
			return nil, fmt.Errorf("input %s is no tensor, as all inputs of %s are", name, s.Class)
		}
		given[name] = v.Tensor
	}
	full, err := s.feeds(given)
	if err != nil {
		return nil, err
	}
	return graph.TensorData(full), nil
}

// feeds is Feeds for what is a model's component.
func (s *Session) feeds(inputs map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	return s.Model.Feeds(s.component, inputs)
}

// Outputs are the names of the graph's outputs, in order.
func (s *Session) Outputs() []string {
	var names []string
	for _, v := range s.Source.Graph.Outputs {
		names = append(names, v.Name)
	}
	return names
}

// Infer runs the graph once on its own: Feeds, then Run.
func (s *Session) Infer(ctx context.Context, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, route.Decision, error) {
	var d route.Decision
	feeds, err := s.Feeds(inputs)
	if err != nil {
		return nil, d, err
	}
	out, err := s.Run(ctx, &d, feeds, wanted)
	return out, d, err
}

// Cost is what one run over inputs computes.
type Cost struct {
	Nodes int   `json:"nodes"`
	FLOPs int64 `json:"flops"` // a multiply-add counts as two
}

// Cost counts the graph's nodes and operations at the inputs' shapes. Nodes whose
// shapes only a run can tell count no operations.
func (s *Session) Cost(inputs map[string]graph.Datum) (Cost, error) {
	feeds, err := s.Feeds(inputs)
	if err != nil {
		return Cost{}, err
	}
	d, err := bind(s.Source.Graph, feeds)
	if err != nil {
		return Cost{}, err
	}
	return s.cost(d)
}

// CostAt is Cost at given sizes of the symbolic dimensions.
func (s *Session) CostAt(sizes map[string]int64) (Cost, error) { return s.cost(sizes) }

func (s *Session) cost(d dims) (Cost, error) {
	m := s.Source.Clone()
	defer m.Close()
	nodes := len(m.Graph.Nodes)
	if err := graph.Bind(m, d); err != nil {
		return Cost{}, fmt.Errorf("fix the shapes of %s: %w", s.Name, err)
	}
	c := Cost{Nodes: nodes}
	types := m.Graph.Types()
	for _, n := range m.Graph.Nodes {
		if f, ok := graph.FLOPs(n, types); ok {
			c.FLOPs += f
		}
	}
	return c, nil
}

// Close frees the graph wherever it was placed.
func (s *Session) Close() error {
	s.Runner.Close()
	var errs []error
	for _, p := range s.parts {
		errs = append(errs, p.Close())
	}
	for _, c := range s.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}
