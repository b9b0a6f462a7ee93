package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hub"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// isRunFile tells a file that describes a run from a model.
func isRunFile(arg string) bool {
	if strings.HasPrefix(arg, hub.Scheme) {
		return false
	}
	switch strings.ToLower(filepath.Ext(arg)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// runFlags are the flags of `accel run`. All of them are keys of a run file, too.
type runFlags struct {
	task, platform, fallback, format, output, record string
	inputs, generate, order                          string
	input, dim, only, labels                         []string
	frames, pictures                                 string
	top, maxDetections                               int
	threshold                                        float64
	cast, resume                                     bool
	repeat, concurrency                              int
}

func (o *runFlags) add(a *app, c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.input, "input", nil, "an input, as `NAME=FILE` or NAME=VALUE in JSON (x=3, ids=[[1, 2]]); repeatable")
	f.StringVar(&o.inputs, "inputs", "", "inputs by name: `FILE` (.npz, or .json with an object) or folder (of files, or ONNX's input_0.pb ...); of other tasks the file that they read")
	f.StringVar(&o.generate, "generate", "", "make up the inputs that are not given: `HOW` is zeros, ones or random[:SEED]")
	f.StringArrayVar(&o.dim, "dim", nil, "size of a symbolic dimension, `NAME=N`; repeatable")
	f.BoolVar(&o.cast, "cast", false, "convert inputs whose element type is not the model's")
	f.StringSliceVar(&o.only, "only", nil, "`OUTPUTS` that are wanted, separated by commas (default: all)")
	f.StringVar(&o.output, "output", "", "write to `FILE`, or to a folder that gets a file for each output")
	f.StringVar(&o.format, "format", "", "`FORMAT` of what is written: npy, npz, pb, json; of an embed task table, json, jsonl, npy; of a transcribe task table, text, srt, vtt, json, verbose_json")
	f.StringVar(&o.record, "record", "", "write inputs and outputs to `DIR` as an ONNX test data set, for accel verify")
	f.IntVar(&o.repeat, "repeat", 0, "time `N` runs, after one that is not timed")
	f.StringVar(&o.task, "task", "", "`TASK`: infer (what MODEL alone means), embed, generate, transcribe, classify, detect")
	f.StringArrayVar(&o.labels, "label", nil, "classify: a `LABEL` to tell from the others, for models that compare with texts; repeatable")
	f.IntVar(&o.top, "top", 0, "classify: the `N` likeliest labels")
	f.Float64Var(&o.threshold, "threshold", 0, "detect: `PROBABILITY` above which things are told (default 0.5)")
	f.IntVar(&o.maxDetections, "max-detections", 0, "detect: at most `N` things in a picture")
	f.StringVar(&o.frames, "frames", "", "classify: `DIR` whose pictures are the frames of a video")
	f.StringVar(&o.pictures, "pictures", "", "classify, detect: write pictures with what was found to `DIR`")
	f.StringVar(&o.order, "order", "", "`ORDER` of generated lines: input or finish")
	f.BoolVar(&o.resume, "resume", false, "go on with a file that has some of the generated lines")
	f.IntVar(&o.concurrency, "concurrency", 0, "generate `N` lines at a time at most")
	f.StringVar(&o.platform, "platform", "", "preferred `PLATFORM` or device")
	f.StringVar(&o.fallback, "fallback", "", "`POLICY` where that can't serve: deny, warn, allow")
	a.completePlatforms(c, "platform")
	complete(c, "task", "infer", "embed", "generate", "transcribe", "classify", "detect")
	complete(c, "order", "input", "finish")
	complete(c, "fallback", "deny", "warn", "allow")
	complete(c, "format", "table", "json", "jsonl", "npy", "npz", "pb", "text", "srt", "vtt", "verbose_json")
	complete(c, "generate", "zeros", "ones", "random")
	completeFromModel(c, "input", func(m *graph.Model) []string { return suffixed(valueNames(tasks.FeedInputs(m.Graph)), "=") })
	completeFromModel(c, "only", func(m *graph.Model) []string { return valueNames(m.Graph.Outputs) })
	completeFromModel(c, "dim", func(m *graph.Model) []string { return suffixed(m.Symbols(), "=") })
	cobra.CheckErr(c.MarkFlagFilename("inputs", "npz", "json", "jsonl", "wav", "flac", "mp3", "ogg", "opus"))
	cobra.CheckErr(c.MarkFlagDirname("record"))
	cobra.CheckErr(c.MarkFlagDirname("frames"))
	cobra.CheckErr(c.MarkFlagDirname("pictures"))
}

// completeFromModel completes a flag with names that the model of the command line
// has.
func completeFromModel(c *cobra.Command, flag string, names func(*graph.Model) []string) {
	err := c.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 || strings.Contains(typed, "=") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		m, err := graph.Load(args[0], graph.WithLinks())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		defer m.Close()
		return names(m), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	if err != nil {
		panic(err) // the flag is not there
	}
}

func valueNames(values []*graph.Value) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.Name)
	}
	return out
}

func suffixed(list []string, with string) []string {
	for i := range list {
		list[i] += with
	}
	return list
}

// flags are the flags that were given, as parts of the run.
func (o *runFlags) flags(c *cobra.Command) ([]config.Flag, error) {
	var out []config.Flag
	add := func(flag string, value any, key ...string) { out = append(out, flagValue(c, flag, value, key...)...) }
	add("platform", o.platform, "platform")
	add("fallback", o.fallback, "fallback", "policy")
	add("output", o.output, "output", "file")
	add("record", o.record, "output", "record")
	add("only", o.only, "output", "only")
	add("repeat", o.repeat, "repeat")
	add("order", o.order, "output", "order")
	add("resume", o.resume, "output", "resume")
	add("concurrency", o.concurrency, "concurrency")
	add("inputs", o.inputs, "inputs", "file")
	add("generate", o.generate, "inputs", "generate")
	add("cast", o.cast, "inputs", "cast")
	add("frames", o.frames, "inputs", "frames")
	add("pictures", o.pictures, "output", "pictures")
	request := map[string]any{}
	for flag, f := range map[string]struct {
		name  string
		value any
	}{"label": {"labels", o.labels}, "top": {"top", o.top}, "threshold": {"threshold", o.threshold}, "max-detections": {"max_detections", o.maxDetections}} {
		if c.Flags().Changed(flag) {
			request[f.name] = f.value
		}
	}
	if len(request) > 0 {
		out = append(out, config.Flag{Name: "--label and such", Key: []string{"request"}, Value: request})
	}
	tensors := map[string]any{}
	for _, in := range o.input {
		name, value, ok := strings.Cut(in, "=")
		if !ok || name == "" || value == "" {
			return nil, usage("--input %s: want NAME=FILE, or NAME=VALUE in JSON", in)
		}
		if _, twice := tensors[name]; twice {
			return nil, usage("--input %s is given twice", name)
		}
		tensors[name] = literal(value)
	}
	sizes, err := parseDims(o.dim)
	if err != nil {
		return nil, err
	}
	dims := map[string]any{}
	for name, n := range sizes {
		dims[name] = n
	}
	if len(tensors) > 0 {
		add("input", tensors, "inputs", "tensors")
	}
	if len(dims) > 0 {
		add("dim", dims, "inputs", "dims")
	}
	return out, nil
}

// literal is a value in JSON, or else the path of a file.
func literal(text string) any {
	if strings.IndexByte(`[{"-0123456789tfNI`, text[0]) < 0 {
		return text
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return text
	}
	if s, ok := v.(string); ok {
		return []any{s} // a text alone would be a path
	}
	return v
}

// readTensors takes a run's inputs from its files and values.
func readTensors(in *tensorfile.Inputs, from config.Inputs) error {
	if from.File != "" {
		if err := in.All(from.File); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(from.Tensors))
	for name := range from.Tensors {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value := from.Tensors[name]
		if path, ok := value.(string); ok {
			if err := in.File(name, path); err != nil {
				return err
			}
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if err := in.JSON(name, string(text), "as given"); err != nil {
			return err
		}
	}
	return nil
}

// inference is what a run of the task gives.
type inference struct {
	Model    string               `json:"model"`
	Task     string               `json:"task"`
	Inputs   []inputInfo          `json:"inputs"`
	Dims     map[string]int64     `json:"dims,omitempty"`    // of the inputs' symbolic dimensions
	Assumed  []string             `json:"assumed,omitempty"` // those that nobody said: 1
	Outputs  []tasks.Summary      `json:"outputs"`
	Files    []tensorfile.Written `json:"files,omitempty"`
	First    float64              `json:"first_seconds"` // of the first run, the model's start on its device included
	Repeated *tasks.Spread        `json:"repeated,omitempty"`
	Decision route.Decision       `json:"decision"`
}

// inputInfo is an input and where it comes from.
type inputInfo struct {
	Name     string       `json:"name"`
	Type     string       `json:"type"`
	Shape    tensor.Shape `json:"shape"` // null for sequences and optionals
	Elements int          `json:"elements"`
	From     string       `json:"from,omitempty"`    // a file
	Cast     string       `json:"cast,omitempty"`    // the element type that it had there
	Made     string       `json:"made_up,omitempty"` // how
}

func (a *app) infer(ctx context.Context, l *config.Loaded) error {
	cfg, r := l.Config, l.Run
	if f := r.Output.Format; r.Output.File == "" && f != "table" && f != "json" {
		return usage("%s goes to a file; name one with --output (output.file)", f)
	}
	m := cfg.Models[r.Model]
	policy := m.Fallback
	if policy == "" {
		policy = cfg.Fallback.Policy
	}
	cfg.Models = nil
	return a.withUnstarted(ctx, cfg, func(e engineAPI) error {
		p := a.progress("reading " + r.Model)
		defer func() { p.end() }()
		s, err := e.Open(m.Path, engine.SessionOptions{Name: r.Model, Component: models.Full, Preferred: m.Platform, Policy: route.Policy(policy)})
		if err != nil {
			return &engine.ModelUnusableError{Model: r.Model, Path: m.Path, Err: err}
		}
		defer s.Close()
		feed, err := prepare(s, r)
		if err != nil {
			return err
		}
		target := target(l)
		if r.Output.File != "" {
			if err := target.Check(wantedOutputs(s, feed)); err != nil {
				return err
			}
		}
		started := e.Start(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.say("placing %s", r.Model)
		s.OnProgress(func(stage string, fraction float64) {
			if 0 < fraction && fraction < 1 {
				stage = fmt.Sprintf("%s, %.0f %%", stage, 100*fraction)
			}
			p.say("placing and running %s: %s", r.Model, stage)
		})
		res, err := tasks.Infer(ctx, runsGraph(s), feed, r.Repeat, func(done int) {
			p.say("running %s: %d of %d", r.Model, done, r.Repeat)
		})
		if err != nil {
			return errors.Join(err, started)
		}
		out, err := inferred(r, feed, res)
		if err != nil {
			return err
		}
		if r.Output.Record != "" {
			var inputs []tensorfile.Named
			for _, in := range feed.Inputs {
				inputs = append(inputs, tensorfile.Named{Name: in.Name, Value: in.Value})
			}
			if err := tensorfile.WriteTestSet(r.Output.Record, inputs, res.Outputs); err != nil {
				return err
			}
			out.Files = append(out.Files, tensorfile.Written{File: r.Output.Record})
		}
		if r.Output.File != "" {
			files, err := target.Write(res.Outputs)
			if err != nil {
				return err
			}
			out.Files = append(out.Files, files...)
		}
		p.end()
		p = a.progress("")
		if a.json || r.Output.Format == "json" && r.Output.File == "" {
			return json.NewEncoder(a.out).Encode(out)
		}
		return a.printInference(out)
	})
}

// target is where a run's outputs go.
func target(l *config.Loaded) tensorfile.Target {
	o := l.Run.Output
	t := tensorfile.Target{Path: o.File, Format: tensorfile.Format(o.Format)}
	if o.Format == "table" || l.Origin("output.format").Name == jsonFlag {
		t.Format = "" // that is of the terminal; the file is as its name says
	}
	return t
}

func wantedOutputs(s *engine.Session, feed *tasks.Feed) []*graph.Value {
	var out []*graph.Value
	for _, v := range s.Source.Graph.Outputs {
		if slices.Contains(feed.Outputs, v.Name) {
			out = append(out, v)
		}
	}
	return out
}

// prepare reads a run's inputs and checks them against the graph.
func prepare(s *engine.Session, r *config.Run) (*tasks.Feed, error) {
	req := tasks.InferRequest{Outputs: r.Output.Only, Repeat: r.Repeat, Dims: map[string]int64{},
		Inputs: &tensorfile.Inputs{Declared: tasks.FeedInputs(s.Source.Graph), Cast: r.Inputs.Cast}}
	for name, n := range r.Inputs.Dims {
		req.Dims[name] = int64(n)
	}
	if err := readTensors(req.Inputs, r.Inputs); err != nil {
		return nil, err
	}
	if r.Inputs.Generate != "" {
		var err error
		if req.Generate, err = tasks.ParseGenerator(r.Inputs.Generate); err != nil {
			return nil, err
		}
	} else if s.Model != nil {
		if err := completeFeeds(s, req.Inputs); err != nil {
			return nil, err
		}
	}
	return tasks.Prepare(s.Source, req)
}

// completeFeeds adds the inputs that a model's class can work out of the others.
func completeFeeds(s *engine.Session, in *tensorfile.Inputs) error {
	given := in.Values()
	full, err := s.Feeds(given)
	if err != nil {
		return &tasks.InvalidInputError{Field: "inputs", Input: -1, Problem: err.Error()}
	}
	for name, v := range full {
		if _, ok := given[name]; !ok {
			in.Add(name, v, "worked out from the others")
		}
	}
	return nil
}

// runsGraph runs a session's graph.
func runsGraph(s *engine.Session) tasks.GraphRun {
	return func(ctx context.Context, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, route.Decision, error) {
		var d route.Decision
		out, err := s.Run(ctx, &d, inputs, wanted)
		return out, d, err
	}
}

// inferred sums up a run.
func inferred(r *config.Run, feed *tasks.Feed, res tasks.InferResult) (*inference, error) {
	out := &inference{Model: r.Model, Task: r.Task, Inputs: []inputInfo{}, Outputs: []tasks.Summary{}, Dims: feed.Dims, Assumed: feed.Assumed,
		First: res.First.Seconds(), Decision: res.Decision}
	for _, in := range feed.Inputs {
		sum, err := tasks.Summarize(tensorfile.Named{Name: in.Name, Value: in.Value})
		if err != nil {
			return nil, err
		}
		info := inputInfo{Name: in.Name, Type: sum.Type, Shape: sum.Shape, Elements: sum.Elements, From: in.From, Made: in.Made}
		if in.Was != tensor.Undefined {
			info.Cast = in.Was.String()
		}
		out.Inputs = append(out.Inputs, info)
	}
	for _, o := range res.Outputs {
		s, err := tasks.Summarize(o)
		if err != nil {
			return nil, err
		}
		out.Outputs = append(out.Outputs, s)
	}
	if len(res.Times) > 0 {
		spread := tasks.SpreadOf(res.Times)
		out.Repeated = &spread
	}
	return out, nil
}

func (a *app) printInference(x *inference) error {
	s := styleOf(a.out, a.environ)
	width := terminalWidth(a.out)
	if len(x.Inputs) > 0 {
		t := table{header: []string{"INPUT", "TYPE", "SHAPE", "FROM"}}
		for _, in := range x.Inputs {
			from := in.From
			switch {
			case in.Made != "":
				from = in.Made
			case in.Cast != "":
				from += ", cast from " + in.Cast
			}
			t.add(in.Name, in.Type, shapeOf(in.Shape, in.Elements), from)
		}
		if err := t.write(a.out, s, width); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	t := table{header: []string{"OUTPUT", "TYPE", "SHAPE", "MIN", "MEAN", "MAX", "FIRST VALUES"}, right: []bool{3: true, 4: true, 5: true}}
	for _, o := range x.Outputs {
		t.add(o.Name, o.Type, shapeOf(o.Shape, o.Elements), short(o.Min), short(o.Mean), short(o.Max), firstValues(o))
	}
	if err := t.write(a.out, s, width); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	for _, o := range x.Outputs {
		var odd []string
		if o.NaN > 0 {
			odd = append(odd, number(o.NaN)+" NaN")
		}
		if o.Infinite > 0 {
			odd = append(odd, count(o.Infinite, "infinite element"))
		}
		if len(odd) > 0 {
			fmt.Fprintf(a.out, "%s of %s of %s, %s\n", s.warn("note:"), count(o.Elements, "element"), o.Name, strings.Join(odd, " and "))
		}
	}
	if len(x.Assumed) > 0 {
		fmt.Fprintf(a.out, "%s nobody said the size of %s: taken as 1 (--dim %s=N)\n", s.warn("note:"), strings.Join(x.Assumed, ", "), x.Assumed[0])
	}
	if said := x.Decision.Summary(); said != "" {
		fmt.Fprintf(a.out, "%s %s\n", s.warn("note:"), said)
	}
	for _, f := range x.Files {
		fmt.Fprintf(a.out, "wrote %s\n", f.File)
	}
	on := s.good(fmt.Sprintf("%s (%s)", x.Decision.Chosen.Device, x.Decision.Chosen.Kind))
	first := exact(time.Duration(x.First * float64(time.Second)))
	if r := x.Repeated; r != nil {
		fmt.Fprintf(a.out, "%s on %s: %s, median %s, p10 %s, p90 %s; the first, start included, took %s\n",
			s.bold(x.Model), on, count(r.Runs, "run"), s.bold(exact(r.Median)), exact(r.P10), exact(r.P90), first)
		return nil
	}
	fmt.Fprintf(a.out, "%s on %s: one run in %s, start included\n", s.bold(x.Model), on, first)
	return nil
}

// shapeOf is a tensor's shape, or how many values lie in a container.
func shapeOf(s tensor.Shape, elements int) string {
	if s == nil {
		return fmt.Sprintf("of %d", elements)
	}
	return s.String()
}

// short is a number in a few digits.
func short(f *float64) string {
	if f == nil {
		return "-"
	}
	if *f == math.Trunc(*f) && math.Abs(*f) < 1e7 {
		return strconv.FormatFloat(*f, 'f', -1, 64)
	}
	return strconv.FormatFloat(*f, 'g', 4, 64)
}

func firstValues(o tasks.Summary) string {
	var out []string
	for _, l := range o.First {
		text := string(l)
		if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			text = short(&f)
		}
		out = append(out, text)
	}
	if len(out) < o.Elements {
		out = append(out, "…")
	}
	return strings.Join(out, " ")
}
