// Package verify runs models on a device and holds their outputs against recorded
// ones: golden folders of Hugging Face models, and test folders of ONNX models.
package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
)

// DefaultTolerance is the largest error of float32 outputs that passes: the largest
// absolute difference over the largest recorded magnitude.
const DefaultTolerance = 1e-4

// Status is how one folder went on one platform.
type Status string

// Statuses.
const (
	Whole   Status = "whole"   // all of it ran on the platform, and right
	Split   Status = "split"   // part of it ran on another platform, and all of it right
	Refused Status = "refused" // the platform is not there, or does not take the model
	Wrong   Status = "wrong"   // an output is off
	Failed  Status = "error"   // the folder, or the run, is broken
	// PassedOver: nothing is recorded in the folder. It counts as neither passed nor
	// failed, on no platform.
	PassedOver Status = "passed over"
)

// Output is one output held against its record.
type Output struct {
	Name string `json:"name"`
	// MaxRel is the error as DefaultTolerance measures it; nil where there is no
	// number for it (another shape or type, not-a-number on one side only).
	MaxRel *float64 `json:"max_rel"`
	// Cosine is that of the output and its record as two vectors; nil where they are no
	// floating point numbers, or all are zeros.
	Cosine    *float64 `json:"cosine,omitempty"`
	Tolerance float64  `json:"tolerance"`
	OK        bool     `json:"ok"`
	Tied      bool     `json:"tied,omitempty"` // it agrees once rows of tied scores change places
	Problem   string   `json:"problem,omitempty"`
}

// Result is one folder on one platform.
type Result struct {
	Path      string                 `json:"path"`
	Model     *Subject               `json:"model,omitempty"` // nil: an ONNX model, or the folder could not be opened
	Platform  string                 `json:"platform"`
	Device    string                 `json:"device,omitempty"`
	Kind      backend.Kind           `json:"kind,omitempty"`
	Precision string                 `json:"precision"`
	Status    Status                 `json:"status"`
	OK        bool                   `json:"ok"`
	Placed    map[string]engine.Cost `json:"placed,omitempty"` // by platform
	Pieces    []route.Piece          `json:"pieces,omitempty"` // of a graph that was split, as its last test ran
	Parts     string                 `json:"parts,omitempty"`  // "text": the export of a part of the architecture; see partsOf
	Outputs   []Output               `json:"outputs,omitempty"`
	Ties      []Tie                  `json:"ties,omitempty"` // without which outputs would be off
	Error     string                 `json:"error,omitempty"`
}

// Count says how results came out.
type Count struct {
	Passed     int `json:"passed"`
	Failed     int `json:"failed"`
	Refused    int `json:"refused"`
	PassedOver int `json:"passed_over,omitempty"`
}

func (c *Count) add(r Result) {
	switch {
	case r.OK:
		c.Passed++
	case r.Status == Refused:
		c.Refused++
	case r.Status == PassedOver:
		c.PassedOver++
	default:
		c.Failed++
	}
}

// Report is all results. Those that passed ran whole on their platform, or split.
// Whole architectures are counted apart from parts of others.
type Report struct {
	Results []Result `json:"results"`
	Count
	Whole int              `json:"whole"`
	Split int              `json:"split"`
	Tied  int              `json:"tied"`            // passed with Ties
	Parts map[string]Count `json:"parts,omitempty"` // "text": exports of parts, which Count includes
}

// Add counts a result in.
func (r *Report) Add(res Result) {
	r.Results = append(r.Results, res)
	r.Count.add(res)
	switch res.Status {
	case Whole:
		r.Whole++
	case Split:
		r.Split++
	}
	if res.OK && len(res.Ties) > 0 {
		r.Tied++
	}
	if res.Parts != "" {
		if r.Parts == nil {
			r.Parts = map[string]Count{}
		}
		c := r.Parts[res.Parts]
		c.add(res)
		r.Parts[res.Parts] = c
	}
}

// Opener opens a graph to be run; an engine does.
type Opener interface {
	Open(path string, o engine.SessionOptions) (*engine.Session, error)
}

// Options say what is verified where.
type Options struct {
	Platforms []string // platforms or devices
	Tolerance float64  // 0: DefaultTolerance
	// Split lets the CPU run what a platform does not take of a graph. Such a result
	// is never Whole.
	Split bool
	// Records is a folder whose records are taken; empty: each model's own. A model of
	// fewer bits is so held against those of the whole one.
	Records string
	// Outputs leaves out what is no output of a graph: processors, and generation.
	Outputs bool
}

// records is the folder of a model's records.
func (o *Options) records(path string) string {
	if o.Records != "" {
		return o.Records
	}
	return path
}

// test is a set of inputs and the outputs recorded for them.
type test struct {
	name    string // empty where there is only one
	inputs  map[string]graph.Datum
	outputs []named
}

type named struct {
	name  string
	value graph.Datum
}

// Run verifies each folder on each platform and hands every result to each as it
// comes. Fallback is denied: a platform that can't is not replaced by another, save
// in part where splitting is asked for.
func Run(ctx context.Context, o Opener, dirs []string, opts Options, each func(Result)) Report {
	if opts.Tolerance == 0 {
		opts.Tolerance = DefaultTolerance
	}
	var report Report
	for _, dir := range dirs {
		if !recorded(opts.records(dir)) {
			r := Result{Path: dir, Status: PassedOver, Error: nothingRecorded}
			report.Add(r)
			each(r)
			continue
		}
		for _, platform := range opts.Platforms {
			if ctx.Err() != nil {
				return report
			}
			r := one(ctx, o, dir, platform, opts)
			report.Add(r)
			each(r)
		}
	}
	return report
}

func one(ctx context.Context, o Opener, dir, platform string, opts Options) Result {
	res := Result{Path: dir, Platform: platform, Precision: "f32", Parts: partsOf(dir)}
	if err := run(ctx, o, &res, opts); err != nil {
		res.Status, res.Error = Failed, err.Error()
		var none *engine.NoPlatformError
		if errors.As(err, &none) {
			res.Status = Refused
		}
		return res
	}
	if res.Status != Split {
		res.Status = Whole
	}
	res.OK = true
	for _, out := range res.Outputs {
		if !out.OK {
			res.Status, res.OK = Wrong, false
		}
	}
	return res
}

func run(ctx context.Context, o Opener, res *Result, opts Options) error {
	split := route.SplitOff
	if opts.Split {
		split = route.SplitForce
	}
	s, err := o.Open(res.Path, engine.SessionOptions{Component: models.Full, Preferred: res.Platform, Policy: route.Deny, Split: split})
	if err != nil {
		return err
	}
	defer s.Close()
	if s.Model != nil {
		res.Model = subject(s.Model)
	}
	if s.Model != nil && !opts.Outputs {
		outs, err := checkProcessed(s.Dir, s.Model.ModelType, opts.Tolerance)
		if err != nil {
			return err
		}
		res.Outputs = append(res.Outputs, outs...)
	}
	records := opts.records(s.Path)
	if s.Model != nil && s.Model.Decoder != nil {
		return runDecoder(ctx, s, filepath.Join(records, goldenFile), res, opts)
	}
	tests, err := load(records, s)
	if err != nil {
		return err
	}
	for _, t := range tests {
		if err := runTest(ctx, s, t, res, opts); err != nil {
			if t.name != "" {
				err = fmt.Errorf("%s: %w", t.name, err)
			}
			return err
		}
	}
	return nil
}

func runTest(ctx context.Context, s *engine.Session, t test, res *Result, opts Options) error {
	wanted := make([]string, len(t.outputs))
	for i, o := range t.outputs {
		wanted[i] = o.name
	}
	got, err := account(ctx, s, t, res, wanted)
	if err != nil {
		return err
	}
	mask := t.inputs["attention_mask"].Tensor
	outs := make([]Output, len(t.outputs))
	for i, o := range t.outputs {
		outs[i] = compareValues(got[o.name], o.value, mask, opts.Tolerance)
		outs[i].Name = o.name
		if t.name != "" {
			outs[i].Name = t.name + "." + o.name
		}
	}
	if opts.Outputs {
		res.Outputs = append(res.Outputs, outs...)
		return nil
	}
	feeds, err := s.Feeds(t.inputs)
	if err != nil {
		return err
	}
	ties, err := settle(ctx, s.Source, feeds, t.outputs, got, mask, outs)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		// The outputs stay off.
		res.Error = fmt.Sprintf("whether scores of a TopK tie is not known: %v", err)
	}
	for i := range ties {
		ties[i].Test = t.name
	}
	res.Outputs, res.Ties = append(res.Outputs, outs...), append(res.Ties, ties...)
	if t.name == "" && s.Model != nil {
		outs, err := checkPosted(s.Dir, got, opts.Tolerance)
		if err != nil {
			return err
		}
		res.Outputs = append(res.Outputs, outs...)
	}
	return nil
}

// account runs a test's inputs and writes into res where they ran and what that cost.
func account(ctx context.Context, s *engine.Session, t test, res *Result, wanted []string) (map[string]graph.Datum, error) {
	got, d, err := s.Infer(ctx, t.inputs, wanted)
	if err != nil {
		return nil, err
	}
	res.Device, res.Kind = d.Chosen.Device, d.Chosen.Kind
	cost, err := s.Cost(t.inputs)
	if err != nil {
		return nil, err
	}
	if res.Placed == nil {
		res.Placed = map[string]engine.Cost{}
	}
	if res.Pieces = d.Pieces; d.Split() {
		res.Status = Split
	} else {
		sum := res.Placed[d.Chosen.Platform]
		res.Placed[d.Chosen.Platform] = engine.Cost{Nodes: cost.Nodes, FLOPs: sum.FLOPs + cost.FLOPs}
	}
	nodes := map[string]int{}
	for _, p := range d.Pieces {
		nodes[p.Platform] += p.Nodes
		res.Placed[p.Platform] = engine.Cost{Nodes: nodes[p.Platform], FLOPs: res.Placed[p.Platform].FLOPs + p.FLOPs}
	}
	return got, nil
}

const nothingRecorded = "it records nothing: there is neither " + goldenFile + " nor test_data_set_0"

// recorded reports whether a folder, or that of a file, holds anything to verify
// against. What is not there, or lies elsewhere, is for Open to judge.
func recorded(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return true
	}
	if !info.IsDir() {
		path = filepath.Dir(path)
	}
	for _, name := range []string{goldenFile, "test_data_set_*"} {
		if found, err := filepath.Glob(filepath.Join(path, name)); err != nil || len(found) > 0 {
			return true
		}
	}
	return false
}

// load reads what is recorded in a folder.
func load(dir string, s *engine.Session) ([]test, error) {
	golden := filepath.Join(dir, goldenFile)
	if _, err := os.Stat(golden); err == nil {
		return loadGolden(golden, s.Outputs())
	}
	sets, err := filepath.Glob(filepath.Join(dir, "test_data_set_*"))
	if err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		return nil, fmt.Errorf("%s holds neither %s nor test_data_set_0: there is nothing to verify against", dir, goldenFile)
	}
	return loadONNX(sets, s.Source.Graph)
}
