package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/route"
)

func newExplain(a *app) *cobra.Command {
	var platform, fallback, split string
	var nodes bool
	c := &cobra.Command{
		Use:   "explain MODEL",
		Short: "Say where a model would run and why, and what is done to its graph there",
		Long: `Say where a model would run and why, and what is done to its graph there. MODEL is a name of
the configuration, or the path of a model's folder. The model is placed for it, as a first
request would; an ONNX model without a task is lowered as a run would lower it. With --nodes
there is a line for each node: its device, what computes it there, and why another than the
preferred device has it.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeModels,
	}
	f := c.Flags()
	f.StringVar(&platform, "platform", "", "preferred `PLATFORM` or device")
	f.StringVar(&fallback, "fallback", "", "`POLICY` where that can't serve: deny, warn, allow")
	f.StringVar(&split, "split", "", "`WAY` to go where a device takes only part of the graph: off, auto, force")
	f.BoolVar(&nodes, "nodes", false, "list the nodes")
	a.completePlatforms(c, "platform")
	complete(c, "fallback", "deny", "warn", "allow")
	complete(c, "split", "off", "auto", "force")
	c.RunE = func(c *cobra.Command, args []string) error {
		flags := append(flagValue(c, "fallback", fallback, "fallback", "policy"), flagValue(c, "split", split, "split")...)
		l, err := a.load("", flags)
		if err != nil {
			return err
		}
		cfg, name, err := only(l.Config, args[0], platform)
		if err != nil {
			return err
		}
		return a.withEngine(c.Context(), cfg, func(e engineAPI, started error) error {
			p := a.progress("placing " + name)
			x, err := e.Explain(c.Context(), name)
			p.end()
			// That there is no platform, and why, explains the model, too.
			var none *engine.NoPlatformError
			switch {
			case errors.As(err, &none):
				x.Decision = none.Decision
				x.ModelInfo = modelInfo(e, name)
			case err != nil:
				return errors.Join(err, started)
			}
			if !nodes {
				for i := range x.Placements {
					x.Placements[i].Table = nil
				}
			}
			tell := a.printExplanation
			if a.json {
				tell = func(x engine.Explanation) error { return json.NewEncoder(a.out).Encode(x) }
			}
			if err := tell(x); err != nil {
				return err
			}
			if err != nil {
				return &toldError{err}
			}
			return nil
		})
	}
	return c
}

func modelInfo(e engineAPI, name string) engine.ModelInfo {
	for _, m := range e.Models() {
		if m.Name == name {
			return m
		}
	}
	return engine.ModelInfo{Name: name}
}

func (a *app) printExplanation(x engine.Explanation) error {
	s := styleOf(a.out, a.environ)
	d := x.Decision
	say := func(what, format string, args ...any) {
		fmt.Fprintf(a.out, "%s %s\n", s.dim(fmt.Sprintf("%-9s", what)), fmt.Sprintf(format, args...))
	}
	say("model", "%s  %s", s.bold(x.Name), x.Path)
	if x.Class != "" {
		pooled := ""
		if len(x.Pooling) > 0 {
			pooled = ", " + strings.Join(x.Pooling, " and ") + " pooling"
		}
		if x.Normalized {
			pooled += ", normalised"
		}
		say("class", "%s, %s%s", x.Class, x.Precision, pooled)
		switch {
		case x.Dimensions == 0 && x.MaxTokens > 0:
			say("takes", "%s, what it generates included", count(x.MaxTokens, "token"))
		case x.MaxTokens > 0:
			say("takes", "%s, gives %s", count(x.MaxTokens, "token"), count(x.Dimensions, "component"))
		}
	}
	if x.Parameters > 0 {
		say("weights", "%s in %s", count(int(x.Parameters), "parameter"), memory(x.WeightBytes))
		inputs := ""
		if x.CostTokens > 0 {
			inputs = " for " + count(x.CostTokens, "token")
		}
		say("cost", "%.2f GFLOP%s, %s", float64(x.Cost.FLOPs)/1e9, inputs, count(x.Cost.Nodes, "node"))
	}
	for _, n := range x.Notes {
		say("note", "%s", n)
	}
	if len(x.Unused) > 0 {
		say("unused", "%s of the checkpoint: %s", count(len(x.Unused), "tensor"), strings.Join(x.Unused, ", "))
	}
	say("route", "%s (fallback: %s)", strings.Join(d.Wanted, ", "), d.Policy)
	for _, r := range d.Refused {
		remedy := ""
		if r.Remedy != "" {
			remedy = s.dim(" (" + r.Remedy + ")")
		}
		say("passed", "%s: %s%s", refName(r), firstLine(r.Reason), remedy)
	}
	for _, r := range d.Replays {
		say("died", "%s: %s", refName(r), firstLine(r.Reason))
	}
	if d.Chosen.Device == "" {
		say("chosen", "%s", s.bad("none"))
		return nil
	}
	note := ""
	switch {
	case d.Split():
		note = s.warn(", and others for parts of it")
	case d.Fallback():
		note = s.warn(", a fallback from " + d.First)
	}
	say("chosen", "%s (%s)%s", s.good(d.Chosen.Device), d.Chosen.Kind, note)
	for _, p := range x.Placements {
		shapes := "any shape"
		if p.Shapes != "" {
			shapes = p.Shapes
		}
		part := ""
		if p.Piece > 0 {
			part = fmt.Sprintf("piece %d on ", p.Piece)
		}
		say("placed", "%s%s, %s: %s, %s, %s", part, p.Device, shapes, count(p.Nodes, "node"), count(len(p.Rewrites), "rewrite"), memory(p.Memory))
		say("", "%s", p.Dir)
		for _, did := range p.Simplified {
			say("", "%s", did)
		}
		for _, r := range p.Rewrites {
			node := r.Node
			if node == "" {
				node = "the graph"
			}
			say("", "%s: %s (%s)", node, r.What, r.Why)
		}
	}
	if len(x.Placements) > 0 && x.Placements[0].Table != nil {
		return a.printNodes(s, x.Placements)
	}
	return nil
}

// printNodes prints a line a node, pieces in the order they run.
func (a *app) printNodes(s style, placements []engine.Placement) error {
	t := table{header: []string{"NODE", "OPERATOR", "DEVICE", "BY", "WHY NOT THE PREFERRED DEVICE"}}
	for _, p := range placements {
		for _, n := range p.Table {
			on := p.Device
			if p.Piece > 0 {
				on = fmt.Sprintf("%s (%d)", p.Device, p.Piece)
			}
			t.add(n.Name, n.OpType, on, n.Implementation, firstLine(n.Why))
		}
	}
	fmt.Fprintln(a.out)
	return t.write(a.out, s, 0)
}

func refName(r route.Refusal) string {
	if r.Device != "" {
		return r.Device
	}
	return r.Platform
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+by)
}
