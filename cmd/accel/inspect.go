package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/graph"
)

func newInspect(a *app) *cobra.Command {
	var dim []string
	var nodes bool
	platform := "cpu"
	component := models.Full
	c := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Say what is in a model: inputs, outputs, operators, weights, cost",
		Long: `Say what is in a model: inputs and outputs, operators, weights, and what a run costs in
operations and memory at the sizes of --dim. MODEL is an .onnx or .gguf file, a model's folder, or a name
of the configuration. Nothing is run and no backend started, unless --nodes asks one: then each
node of the graph is listed with what would compute it on --platform, or why it is refused.`,
		Example: `  accel inspect model.onnx
  accel inspect model.onnx --dim batch=8 --dim sequence=128
  accel inspect model.onnx --nodes --platform cpu`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return []string{"onnx", "gguf"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	f := c.Flags()
	f.StringArrayVar(&dim, "dim", nil, "size of a symbolic dimension, `NAME=N`; repeatable; once one is given the others are 1")
	f.BoolVar(&nodes, "nodes", false, "list the nodes, and what would compute each")
	f.StringVar(&platform, "platform", platform, "`PLATFORM` or device that --nodes asks")
	f.StringVar(&component, "component", component, "`GRAPH` of a Hugging Face model")
	a.completePlatforms(c, "platform")
	complete(c, "component", models.Full, models.Encode)
	completeFromModel(c, "dim", func(m *graph.Model) []string { return suffixed(m.Symbols(), "=") })
	c.RunE = func(c *cobra.Command, args []string) error {
		dims, err := parseDims(dim)
		if err != nil {
			return err
		}
		if !nodes && c.Flags().Changed("platform") {
			return usage("--platform says who is asked about nodes; add --nodes")
		}
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		cfg, name := l.Config, args[0]
		path := name
		if m, ok := cfg.Models[name]; ok {
			path = m.Path
		}
		cfg.Models = nil
		return a.withUnstarted(c.Context(), cfg, func(e engineAPI) error {
			p := a.progress("reading " + name)
			defer func() { p.end() }()
			s, err := e.Open(path, engine.SessionOptions{Name: filepath.Base(filepath.Clean(name)), Component: component, Preferred: platform, Policy: route.Deny})
			if err != nil {
				return &engine.ModelUnusableError{Model: name, Path: path, Err: err}
			}
			defer s.Close()
			m := s.Source.Clone()
			defer m.Close()
			x := inspection{Path: path, Class: s.Class}
			if err := graph.Infer(m); err != nil {
				x.Problem = err.Error() // what the model declares may be told all the same
			}
			if x.Inspection, err = tasks.Inspect(m, dims); err != nil && x.Problem == "" {
				return err
			}
			if nodes {
				p.say("asking %s", platform)
				if err := x.ask(c.Context(), e, s, dims); err != nil {
					return err
				}
			}
			p.end()
			p = a.progress("")
			if a.json {
				return json.NewEncoder(a.out).Encode(x)
			}
			if nodes {
				return a.printNodeList(&x)
			}
			return a.printInspection(&x)
		})
	}
	return c
}

// parseDims reads NAME=N.
func parseDims(list []string) (map[string]int64, error) {
	out := map[string]int64{}
	for _, d := range list {
		i := strings.LastIndexByte(d, '=')
		if i <= 0 {
			return nil, usage("--dim %s: want NAME=N, such as batch=2", d)
		}
		n, err := strconv.ParseInt(d[i+1:], 10, 64)
		if err != nil {
			return nil, usage("--dim %s: want NAME=N, such as batch=2", d)
		}
		if _, twice := out[d[:i]]; twice {
			return nil, usage("--dim %s is given twice", d[:i])
		}
		out[d[:i]] = n
	}
	return out, nil
}

// inspection is what the command tells.
type inspection struct {
	Path  string `json:"path"`
	Class string `json:"class"`
	// Problem is why shapes could not be inferred; the model can't be run then.
	Problem string `json:"problem,omitempty"`
	*tasks.Inspection
	Device       *route.Choice `json:"device,omitempty"`        // that was asked
	DeviceMemory int64         `json:"device_memory,omitempty"` // bytes that it expects to take; 0: it does not say
	Asked        []nodeInfo    `json:"node_list,omitempty"`
}

// nodeInfo is a node and what a device says of it.
type nodeInfo struct {
	Name           string      `json:"name"`
	Operator       string      `json:"operator"`
	Inputs         []valueInfo `json:"inputs"`
	Outputs        []valueInfo `json:"outputs"`
	Accepted       bool        `json:"accepted"`
	Implementation string      `json:"implementation,omitempty"` // in the device's words
	Refusal        string      `json:"refusal,omitempty"`
	Reason         string      `json:"reason,omitempty"`
}

type valueInfo struct {
	Name string `json:"name"` // empty: an optional one that is left out
	Type string `json:"type"`
}

// ask has the device speak of each node.
func (x *inspection) ask(ctx context.Context, e engineAPI, s *engine.Session, dims map[string]int64) error {
	if len(dims) > 0 {
		all, _, err := tasks.Sizes(s.Source, dims)
		if err != nil {
			return err
		}
		dims = all
	}
	started := e.Start(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	as, err := e.Assess(ctx, s, dims)
	if err != nil {
		return errors.Join(err, started)
	}
	defer as.Graph.Close()
	if len(as.Nodes) != len(as.Graph.Graph.Nodes) {
		return fmt.Errorf("%s gave %d verdicts on %d nodes", as.Device.Device, len(as.Nodes), len(as.Graph.Graph.Nodes))
	}
	x.Device, x.DeviceMemory = &as.Device, as.MemoryEstimate
	types := as.Graph.Graph.Types()
	values := func(names []string) []valueInfo {
		out := make([]valueInfo, len(names))
		for i, name := range names {
			if out[i] = (valueInfo{Name: name}); name != "" {
				out[i].Type = tensorfile.TypeText(types[name])
			}
		}
		return out
	}
	for i, n := range as.Graph.Graph.Nodes {
		v := as.Nodes[i]
		name := n.Name
		if name == "" && len(n.Outputs) > 0 {
			name = n.Outputs[0]
		}
		x.Asked = append(x.Asked, nodeInfo{Name: name, Operator: n.ID().String(), Inputs: values(n.Inputs), Outputs: values(n.Outputs),
			Accepted: v.OK, Implementation: v.Implementation, Refusal: string(v.Refusal), Reason: v.Reason})
	}
	return nil
}

// outcome is a node's verdict in a word.
func (n *nodeInfo) outcome() string {
	switch {
	case !n.Accepted:
		return "refused"
	case n.Implementation == "":
		return "accepted"
	}
	return n.Implementation
}

func (s style) outcome(outcome, text string) string {
	switch outcome {
	case "native", "accepted":
		return s.good(text)
	case "refused":
		return s.bad(text)
	}
	return s.warn(text)
}

// shortTypes are element types where there is no room for their names.
var shortTypes = strings.NewReplacer("bfloat16", "bf16", "float16", "f16", "float32", "f32", "float64", "f64", "float8", "f8", "float4", "f4",
	"uint", "u", "int", "i", "complex", "c", " [", "[")

func (a *app) printNodeList(x *inspection) error {
	s := styleOf(a.out, a.environ)
	t := table{header: []string{"#", "NODE", "OPERATOR", "TAKES", "GIVES", strings.ToUpper(x.Device.Device)}, right: []bool{true}}
	brief := func(values []valueInfo) string {
		var out []string
		for _, v := range values {
			if v.Name == "" {
				out = append(out, "-")
				continue
			}
			out = append(out, shortTypes.Replace(v.Type))
		}
		return strings.Join(out, " ")
	}
	counts := map[string]int{}
	reasons := map[string]int{}
	for i, n := range x.Asked {
		o := n.outcome()
		counts[o]++
		if !n.Accepted {
			reasons[n.Operator+": "+n.Reason]++
		}
		t.add(strconv.Itoa(i), n.Name, n.Operator, brief(n.Inputs), brief(n.Outputs), o)
	}
	t.paint = func(col int, cell, padded string) string {
		switch col {
		case 0:
			return s.dim(padded)
		case 5:
			return s.outcome(cell, padded)
		}
		return padded
	}
	if err := t.write(a.out, s, terminalWidth(a.out)); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(a.out, "%s %s %s\n", s.bad("refused:"), why, s.dim(fmt.Sprintf("(%s)", count(reasons[why], "node"))))
	}
	var parts []string
	for _, o := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, s.outcome(o, fmt.Sprintf("%s %s", number(counts[o]), o)))
	}
	if len(x.Asked) != x.Nodes {
		fmt.Fprintf(a.out, "%s the model has %s, simplified to these %s\n", s.warn("note:"), count(x.Nodes, "node"), number(len(x.Asked)))
	}
	takes := ""
	if x.DeviceMemory > 0 {
		takes = fmt.Sprintf("; it expects to take %s there", memory(x.DeviceMemory))
	}
	fmt.Fprintf(a.out, "%s on %s (%s): %s: %s%s\n", s.bold(filepath.Base(x.Path)), x.Device.Device, x.Device.Kind,
		count(len(x.Asked), "node"), strings.Join(parts, ", "), takes)
	return nil
}

func (a *app) printInspection(x *inspection) error {
	s := styleOf(a.out, a.environ)
	width := terminalWidth(a.out)
	say := func(what, format string, args ...any) {
		fmt.Fprintf(a.out, "%s %s\n", s.dim(fmt.Sprintf("%-10s", what)), fmt.Sprintf(format, args...))
	}
	wrapped := func(what string, parts []string) {
		for i, line := range wrap(parts, max(40, or(width, 100)-11)) {
			if i > 0 {
				what = ""
			}
			say(what, "%s", line)
		}
	}
	say("model", "%s", s.bold(x.Path))
	if x.Class != "onnx" {
		say("class", "%s", x.Class)
	}
	made := fmt.Sprintf("IR %d", x.IRVersion)
	for _, d := range slices.Sorted(maps.Keys(x.Opsets)) {
		made += fmt.Sprintf(", %s %d", oneLine(d), x.Opsets[d])
	}
	say("format", "%s", made)
	if x.Problem != "" {
		say("problem", "%s", s.bad(oneLine(x.Problem)))
	}
	if x.Producer != "" {
		say("producer", "%s", oneLine(strings.TrimSpace(x.Producer+" "+x.ProducerVersion)))
	}
	if x.Doc != "" {
		say("says", "%s", fit(oneLine(x.Doc), 200))
	}
	for _, k := range slices.Sorted(maps.Keys(x.Metadata)) {
		say("metadata", "%s: %s", oneLine(k), fit(oneLine(x.Metadata[k]), 200))
	}
	inner := ""
	if x.Inner > 0 {
		inner = fmt.Sprintf(" and %s in graphs inside them", number(x.Inner))
	}
	say("nodes", "%s%s", count(x.Nodes, "node"), inner)
	var ops []string
	for _, o := range x.Operators {
		name := o.Name
		if o.Domain != "" {
			name = o.Domain + "." + name
		}
		ops = append(ops, fmt.Sprintf("%s %s", oneLine(name), s.dim(number(o.Count))))
	}
	wrapped("operators", ops)
	for _, f := range x.Functions {
		say("function", "%s: %s, called %s", oneLine(graph.FunctionID{Domain: f.Domain, Name: f.Name}.String()), count(f.Nodes, "node"), count(f.Calls, "time"))
	}
	say("weights", "%s in %s", count(int(x.Parameters), "parameter"), memory(x.WeightBytes))
	if len(x.Weights) > 1 {
		for _, w := range x.Weights {
			say("", "%s: %s in %s, %s", w.Type, number(int(w.Elements)), count(w.Tensors, "tensor"), memory(w.Bytes))
		}
	} else if len(x.Weights) == 1 {
		say("", "all %s, %s", x.Weights[0].Type, count(x.Weights[0].Tensors, "tensor"))
	}
	for _, q := range x.Quantized {
		say("quantized", "%s of %d bits in blocks of %d: %s in %s, %.2f bits a weight", count(int(q.Weights), "weight"), q.Bits, q.Block,
			count(q.Tensors, "tensor"), memory(q.Bytes), q.BitsPerWeight)
	}
	for _, f := range x.Files {
		say("file", "%s: %s, %s of %s", oneLine(filepath.Base(f.Path)), count(f.Tensors, "tensor"), memory(f.Bytes), memory(f.Size))
	}
	if c := x.Cost; c != nil {
		least := ""
		if c.Uncounted > 0 {
			least = "at least "
		}
		say("cost", "%s%s a run%s", least, operations(c.FLOPs), atSizes(c))
		if c.Uncounted > 0 {
			say("", "%s", s.dim(fmt.Sprintf("%s not counted: only a run can tell", count(c.Uncounted, "node"))))
		}
		least = ""
		if c.Unsized > 0 {
			least = "at least "
		}
		say("memory", "%s%s: %s of weights, %s of values between nodes at the most", least, memory(c.Memory), memory(x.WeightBytes), memory(c.Activations))
		if c.Unsized > 0 {
			say("", "%s", s.dim(fmt.Sprintf("%s not counted: only a run can tell their size", count(c.Unsized, "value"))))
		}
	} else if x.Problem == "" {
		var ask []string
		for _, d := range x.Symbols {
			ask = append(ask, "--dim "+d+"=N")
		}
		say("cost", "depends on sizes: %s", strings.Join(ask, " "))
	}
	fmt.Fprintln(a.out)
	t := table{header: []string{"", "NAME", "TYPE", "SHAPE"}}
	add := func(what string, ports []tasks.PortInfo) {
		for _, p := range ports {
			shape := "[...]"
			if p.Shape != nil {
				shape = "[" + strings.Join(p.Shape, ", ") + "]"
			} else if strings.ContainsAny(p.Type, " ") {
				shape = ""
			}
			t.add(what, p.Name, p.Type, shape)
		}
	}
	add("input", x.Inputs)
	add("output", x.Outputs)
	t.paint = func(col int, _, padded string) string {
		if col == 0 {
			return s.dim(padded)
		}
		return padded
	}
	return t.write(a.out, s, width)
}

func atSizes(c *tasks.CostInfo) string {
	if len(c.Dims) == 0 {
		return ""
	}
	var parts []string
	for _, d := range slices.Sorted(maps.Keys(c.Dims)) {
		part := fmt.Sprintf("%s=%d", d, c.Dims[d])
		if slices.Contains(c.Assumed, d) {
			part += " (nobody said)"
		}
		parts = append(parts, part)
	}
	return " at " + strings.Join(parts, ", ")
}

// operations is a number of floating-point operations in the unit that people read.
func operations(n int64) string {
	return scaled(n, 1000, 2, "FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP")
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
