package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// InferRequest asks for one run of a graph as it is: tensors in, tensors out.
type InferRequest struct {
	Inputs *tensorfile.Inputs
	// Dims are sizes of symbolic dimensions, by name. What is given must agree with
	// them. Dimensions that nothing says are 1 in inputs that are made up.
	Dims map[string]int64
	// Generate makes up the inputs that are not given; nil: they are an error.
	Generate *Generator
	Outputs  []string // wanted; empty: all
	// Repeat is how many runs are timed, after one that is not. 0: the only run is
	// the first.
	Repeat int
}

// Feed is a run's inputs, checked and complete.
type Feed struct {
	Inputs  []FeedInput // in the graph's order
	Outputs []string
	Dims    map[string]int64 // of the inputs' symbolic dimensions, as far as they are known
	Assumed []string         // those of Dims that nobody said, and made-up inputs need
}

// FeedInput is one input of a run.
type FeedInput struct {
	Name  string
	Value graph.Datum
	From  string       // the file it was read from
	Was   tensor.DType // before it was cast; Undefined: it was not
	Made  string       // how it was made up; empty: it was given
}

// Values are the inputs by name.
func (f *Feed) Values() map[string]graph.Datum {
	out := make(map[string]graph.Datum, len(f.Inputs))
	for _, in := range f.Inputs {
		out[in.Name] = in.Value
	}
	return out
}

// FeedInputs are the inputs of a graph that a run must have: those without an
// initializer of the same name. The others are weights, listed as inputs up to IR 3
// and by some exporters after it; they are not to be overridden.
func FeedInputs(g *graph.Graph) []*graph.Value {
	constant := make(map[string]bool, len(g.Initializers))
	for _, in := range g.Initializers {
		constant[in.Name] = true
	}
	var out []*graph.Value
	for _, v := range g.Inputs {
		if !constant[v.Name] {
			out = append(out, v)
		}
	}
	return out
}

// Prepare checks a request against a graph, before anything runs, and makes up
// what it asks to be made up. Errors are *tensorfile.InputError and
// *InvalidInputError.
func Prepare(m *graph.Model, req InferRequest) (*Feed, error) {
	f := &Feed{Outputs: req.Outputs}
	declared := FeedInputs(m.Graph)
	if err := f.wanted(m.Graph); err != nil {
		return nil, err
	}
	var missing []*graph.Value
	for _, v := range declared {
		if _, ok := req.Inputs.Given(v.Name); !ok {
			missing = append(missing, v)
		}
	}
	if len(missing) > 0 && req.Generate == nil {
		return nil, missingInputs(missing)
	}
	sizes, err := sizes(declared, req)
	if err != nil {
		return nil, err
	}
	for _, name := range symbols(missing) {
		if _, ok := sizes[name]; !ok {
			sizes[name] = 1
			f.Assumed = append(f.Assumed, name)
		}
	}
	bound, err := bindInputs(declared, sizes)
	if err != nil {
		return nil, err
	}
	f.Dims = sizes
	for i, v := range bound {
		in := FeedInput{Name: v.Name}
		if g, ok := req.Inputs.Given(v.Name); ok {
			in.Value, in.From, in.Was = g.Value, g.From, g.Was
			if g.Value.Kind == graph.KindTensor {
				// Dimensions are known now that were expressions of others.
				if err := tensorfile.Check(v, g.Value.Tensor.DType, g.Value.Tensor.Shape, g.From); err != nil {
					return nil, err
				}
			}
		} else if in.Value, in.Made, err = req.Generate.value(m, declared[i].Name, v.Type); err != nil {
			return nil, err
		}
		f.Inputs = append(f.Inputs, in)
	}
	return f, nil
}

func (f *Feed) wanted(g *graph.Graph) error {
	var names []string
	for _, v := range g.Outputs {
		names = append(names, v.Name)
	}
	if len(f.Outputs) == 0 {
		f.Outputs = names
	}
	for _, w := range f.Outputs {
		if !slices.Contains(names, w) {
			e := &InvalidInputError{Field: "outputs", Input: -1, Problem: fmt.Sprintf("the model has no output %q", w), Remedy: "it has " + strings.Join(names, ", ")}
			if near := config.Nearest(w, names); near != "" {
				e.Remedy = fmt.Sprintf("did you mean %q?", near)
			}
			return e
		}
	}
	return nil
}

func missingInputs(missing []*graph.Value) error {
	var want []string
	for _, v := range missing {
		want = append(want, fmt.Sprintf("%s (%s)", v.Name, tensorfile.TypeText(v.Type)))
	}
	const most = 8
	if n := len(want) - most; n > 0 {
		want = append(want[:most], fmt.Sprintf("and %d more", n))
	}
	return &InvalidInputError{Field: "inputs", Input: -1, Problem: "missing: " + strings.Join(want, ", "),
		Remedy: "give each as NAME=FILE, or have them made up: --generate random"}
}

// eachDim calls yield with the dimensions of the tensors among values, and what
// each is called: its name or expression, else INPUT.INDEX.
func eachDim(values []*graph.Value, yield func(v *graph.Value, i int, name string)) {
	for _, v := range values {
		if v.Type == nil || v.Type.Kind != graph.KindTensor {
			continue
		}
		for i, d := range v.Type.Dims {
			switch {
			case d.Param != "":
				yield(v, i, d.Param)
			case d.Size < 0:
				yield(v, i, v.Name+"."+strconv.Itoa(i))
			}
		}
	}
}

// symbols are the dimensions whose sizes can be said: names, also those in
// expressions, and dimensions without one as INPUT.INDEX.
func symbols(values []*graph.Value) []string {
	m := &graph.Model{Graph: &graph.Graph{Inputs: named(values)}}
	return m.Symbols()
}

// named is values with a name for every dimension.
func named(values []*graph.Value) []*graph.Value {
	out := make([]*graph.Value, len(values))
	for i, v := range values {
		out[i] = v.Clone()
	}
	eachDim(out, func(v *graph.Value, i int, name string) { v.Type.Dims[i] = graph.Sym(name) })
	return out
}

// sizes are what the request and the inputs given say of symbolic dimensions.
func sizes(declared []*graph.Value, req InferRequest) (map[string]int64, error) {
	known := symbols(declared)
	from := map[string]string{}
	out := map[string]int64{}
	for _, name := range slices.Sorted(maps.Keys(req.Dims)) {
		n := req.Dims[name]
		e := &InvalidInputError{Field: "dims", Input: -1}
		switch {
		case !slices.Contains(known, name):
			e.Problem, e.Remedy = fmt.Sprintf("no input has the dimension %q", name), "all sizes are fixed"
			if near := config.Nearest(name, known); near != "" {
				e.Remedy = fmt.Sprintf("did you mean %q?", near)
			} else if len(known) > 0 {
				e.Remedy = "they have " + strings.Join(known, ", ")
			}
			return nil, e
		case n < 0:
			e.Problem = fmt.Sprintf("%s can't be %d", name, n)
			return nil, e
		}
		out[name], from[name] = n, "it was said to be"
	}
	var err error
	eachDim(declared, func(v *graph.Value, i int, name string) {
		g, given := req.Inputs.Given(v.Name)
		if !given || err != nil || g.Value.Kind != graph.KindTensor || !slices.Contains(known, name) {
			return
		}
		n := g.Value.Tensor.Shape[i]
		if was, ok := out[name]; ok && was != n {
			err = &tensorfile.InputError{Input: v.Name, From: g.From,
				Problem: fmt.Sprintf("dimension %d, %q, is %d where %s %d", i, name, n, from[name], was)}
			return
		}
		if _, ok := out[name]; !ok {
			out[name], from[name] = n, fmt.Sprintf("input %q has", v.Name)
		}
	})
	return out, err
}

// bindInputs fixes the dimensions of a graph's inputs.
func bindInputs(declared []*graph.Value, sizes map[string]int64) ([]*graph.Value, error) {
	m := &graph.Model{Opsets: map[string]int64{}, Graph: &graph.Graph{Name: "inputs", Inputs: named(declared)}}
	if err := graph.Bind(m, sizes); err != nil {
		return nil, &InvalidInputError{Field: "dims", Input: -1, Problem: err.Error()}
	}
	for _, v := range m.Graph.Inputs {
		if v.Type == nil || v.Type.Kind != graph.KindTensor {
			continue
		}
		for i, d := range v.Type.Dims {
			if d.Param == "" && d.Size < 0 {
				return nil, &InvalidInputError{Field: "dims", Input: -1, Problem: fmt.Sprintf("dimension %d of input %q can't be worked out at these sizes", i, v.Name)}
			}
		}
	}
	return m.Graph.Inputs, nil
}

// GraphRun runs a graph once and says in the decision where and why.
type GraphRun func(ctx context.Context, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, route.Decision, error)

// InferResult is what a graph gave.
type InferResult struct {
	Outputs  []tensorfile.Named
	First    time.Duration   // of the first run, which brings the graph onto its device
	Times    []time.Duration // of the runs after it
	Decision route.Decision  // of the last run
}

// Infer runs a graph over a feed. each is called after every timed run.
func Infer(ctx context.Context, run GraphRun, f *Feed, repeat int, each func(done int)) (InferResult, error) {
	var res InferResult
	inputs := f.Values()
	var out map[string]graph.Datum
	for i := range repeat + 1 {
		begin := time.Now()
		var err error
		if out, res.Decision, err = run(ctx, inputs, f.Outputs); err != nil {
			return res, err
		}
		if took := time.Since(begin); i == 0 {
			res.First = took
		} else {
			res.Times = append(res.Times, took)
			each(i)
		}
	}
	for _, name := range f.Outputs {
		v, ok := out[name]
		if !ok {
			return res, fmt.Errorf("%s did not give the output %q", res.Decision.Chosen.Device, name)
		}
		res.Outputs = append(res.Outputs, tensorfile.Named{Name: name, Value: v})
	}
	return res, nil
}

// Spread is how durations are spread.
type Spread struct {
	Runs   int           `json:"runs"`
	Median time.Duration `json:"median_ns"`
	P10    time.Duration `json:"p10_ns"`
	P90    time.Duration `json:"p90_ns"`
	Least  time.Duration `json:"min_ns"`
	Most   time.Duration `json:"max_ns"`
}

// SpreadOf takes percentiles as the nearest rank.
func SpreadOf(times []time.Duration) Spread {
	s := slices.Sorted(slices.Values(times))
	if len(s) == 0 {
		return Spread{}
	}
	rank := func(p float64) time.Duration { return s[max(0, int(math.Ceil(p*float64(len(s))))-1)] }
	return Spread{Runs: len(s), Median: rank(0.5), P10: rank(0.1), P90: rank(0.9), Least: s[0], Most: s[len(s)-1]}
}

// Summary describes a tensor for people. Min, Mean and Max are over the finite
// elements; nil where there are none, or no numbers.
type Summary struct {
	Name     string       `json:"name"`
	Type     string       `json:"type"`
	Shape    tensor.Shape `json:"shape"`
	Elements int          `json:"elements"`
	Min      *float64     `json:"min"`
	Mean     *float64     `json:"mean"`
	Max      *float64     `json:"max"`
	NaN      int          `json:"nan,omitempty"`
	Infinite int          `json:"infinite,omitempty"`
	First    []Literal    `json:"first"` // the first elements, exactly
}

// Literal is an element as text, texts in quotes.
type Literal string

// MarshalJSON writes what JSON can say as it stands, and the rest as text.
func (l Literal) MarshalJSON() ([]byte, error) {
	if json.Valid([]byte(l)) {
		return []byte(l), nil
	}
	return json.Marshal(string(l))
}

// firstElements are shown of each tensor.
const firstElements = 8

// describe says what kind of value lies in a container.
func describe(v graph.Datum) string {
	switch v.Kind {
	case graph.KindTensor:
		return v.Tensor.DType.String() + v.Tensor.Shape.String()
	case graph.KindSequence:
		return fmt.Sprintf("sequence of %d", len(v.Sequence))
	}
	return "optional"
}

// Summarize describes a value. Of sequences and optionals it says what lies in them.
func Summarize(v tensorfile.Named) (Summary, error) {
	s := Summary{Name: v.Name, First: []Literal{}}
	switch v.Value.Kind {
	case graph.KindTensor:
	case graph.KindSequence:
		s.Type, s.Elements = "sequence", len(v.Value.Sequence)
		for _, e := range v.Value.Sequence[:min(len(v.Value.Sequence), firstElements)] {
			s.First = append(s.First, Literal(describe(e)))
		}
		return s, nil
	case graph.KindOptional:
		s.Type = "optional"
		if v.Value.Optional != nil {
			s.Elements = 1
			s.First = append(s.First, Literal(describe(*v.Value.Optional)))
		}
		return s, nil
	default:
		return s, fmt.Errorf("%q is of a kind that can't be shown", v.Name)
	}
	t := v.Value.Tensor
	s.Type, s.Shape = t.DType.String(), t.Shape
	if s.Shape == nil {
		s.Shape = tensor.Shape{}
	}
	e, err := tensorfile.Elements(t)
	if err != nil {
		return s, fmt.Errorf("%q: %w", v.Name, err)
	}
	s.Elements = e.Len()
	for i := range min(e.Len(), firstElements) {
		text := e.Text(i)
		if t.DType == tensor.String {
			text = strconv.Quote(text)
		}
		s.First = append(s.First, Literal(text))
	}
	low, high, sum, finite := math.Inf(1), math.Inf(-1), 0.0, 0
	for i := range e.Len() {
		x, ok := e.Number(i)
		switch {
		case !ok:
			return s, nil
		case math.IsNaN(x):
			s.NaN++
		case math.IsInf(x, 0):
			s.Infinite++
		default:
			low, high, sum, finite = min(low, x), max(high, x), sum+x, finite+1
		}
	}
	if finite > 0 {
		mean := sum / float64(finite)
		s.Min, s.Mean, s.Max = &low, &mean, &high
		if math.IsInf(mean, 0) {
			s.Mean = nil // the sum left float64's range
		}
	}
	return s, nil
}
