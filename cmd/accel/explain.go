package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/route"
)

func newExplain(a *app) *cobra.Command {
	var platform, fallback string
	c := &cobra.Command{
		Use:   "explain MODEL",
		Short: "Say where a model would run and why, and what is done to its graph there",
		Long: `Say where a model would run and why, and what is done to its graph there. MODEL is a name of
the configuration, or the path of a model's folder. The model is placed for it, as a first
request would.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeModels,
	}
	f := c.Flags()
	f.StringVar(&platform, "platform", "", "preferred `PLATFORM` or device")
	f.StringVar(&fallback, "fallback", "", "`POLICY` where that can't serve: deny, warn, allow")
	a.completePlatforms(c, "platform")
	complete(c, "fallback", "deny", "warn", "allow")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := a.load("", flagValue(c, "fallback", fallback, "fallback", "policy"))
		if err != nil {
			return err
		}
		cfg, name := l.Config, args[0]
		m, ok := cfg.Models[name]
		if !ok {
			if !strings.ContainsAny(name, `/\.`) {
				var known []string
				for k := range cfg.Models {
					known = append(known, k)
				}
				return &engine.ModelNotFoundError{Model: name, Known: known, Nearest: config.Nearest(name, known)}
			}
			m = config.Model{Path: name}
			name = filepath.Base(filepath.Clean(name))
		}
		if platform != "" {
			m.Platform = platform
		}
		cfg.Models = map[string]config.Model{name: m}
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
			if a.json {
				if err := json.NewEncoder(a.out).Encode(x); err != nil {
					return err
				}
			} else {
				a.printExplanation(x)
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

func (a *app) printExplanation(x engine.Explanation) {
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
		say("takes", "%s, gives %s", count(x.MaxTokens, "token"), count(x.Dimensions, "component"))
	}
	if x.Parameters > 0 {
		say("weights", "%s in %s", count(int(x.Parameters), "parameter"), memory(x.WeightBytes))
		say("cost", "%.2f GFLOP for %s, %s", float64(x.Cost.FLOPs)/1e9, count(x.CostTokens, "token"), count(x.Cost.Nodes, "node"))
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
		return
	}
	note := ""
	if d.Fallback() {
		note = s.warn(", a fallback from " + d.First)
	}
	say("chosen", "%s (%s)%s", s.good(d.Chosen.Device), d.Chosen.Kind, note)
	for _, p := range x.Placements {
		shapes := "any shape"
		if p.Shapes != "" {
			shapes = p.Shapes
		}
		say("placed", "%s, %s: %s, %s, %s", p.Device, shapes, count(p.Nodes, "node"), count(len(p.Rewrites), "rewrite"), memory(p.Memory))
		say("", "%s", p.Dir)
		for _, r := range p.Rewrites {
			node := r.Node
			if node == "" {
				node = "the graph"
			}
			say("", "%s: %s (%s)", node, r.What, r.Why)
		}
	}
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
