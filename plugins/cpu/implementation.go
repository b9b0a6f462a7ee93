package main

import (
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
)

// What computes a node, in the words of a verdict.
const (
	byKernel    = "native"    // an operation of libaccelcpu
	byReference = "reference" // sdk/reference, in plain Go
	byPlanning  = "folded"    // nothing at run time: its value follows from the shapes, or nobody reads it
)

// implementations says, for each node of the main graph, what would compute it, by
// the plan of the graph at trial sizes. nil: no sizes were found that fit it. Sizes
// may matter (an empty value is the reference's), so this is what would be at usual
// ones.
func implementations(m *graph.Model, runner *kernels.Runner) []string {
	c := m.Clone()
	defer c.Close()
	nameDims(c.Graph)
	forgetShapes(c.Graph)
	if graph.Infer(c) != nil {
		return nil
	}
	for _, dims := range trialSizes(c.Symbols()) {
		b := c.Clone()
		b.Prune()
		if graph.Bind(b, dims) != nil {
			b.Close()
			continue
		}
		by := plannedAs(b, runner)
		b.Close()
		out := make([]string, len(m.Graph.Nodes))
		for i, n := range m.Graph.Nodes {
			if out[i] = by[firstOutput(n)]; out[i] == "" {
				out[i] = byPlanning
			}
		}
		return out
	}
	return nil
}

// trialSizes are sizes to try for symbolic dimensions: different ones, that no two
// shapes are alike by chance, then the same for all, in case some must be.
func trialSizes(symbols []string) []map[string]int64 {
	distinct := []int64{3, 5, 7, 11, 13, 17, 19, 23}
	all := func(size func(i int) int64) map[string]int64 {
		out := map[string]int64{}
		for i, s := range symbols {
			out[s] = size(i)
		}
		return out
	}
	out := []map[string]int64{all(func(i int) int64 { return distinct[i%len(distinct)] })}
	if len(symbols) == 0 {
		return out
	}
	for _, n := range []int64{8, 64, 224, 2, 1} {
		out = append(out, all(func(int) int64 { return n }))
	}
	return out
}

// plannedAs is what computes each node of a bound graph that is computed at run
// time, by the node's first output. Nothing is packed or allocated.
func plannedAs(m *graph.Model, runner *kernels.Runner) map[string]string {
	p := newPlanner(m, runner, nil)
	p.fuse()
	out := map[string]string{}
	for _, u := range p.units {
		by := byReference
		if u.emit != nil {
			by = byKernel
		}
		for _, n := range u.nodes {
			for _, o := range p.origins(n) {
				out[firstOutput(o)] = by
			}
		}
	}
	return out
}

func firstOutput(n *graph.Node) string {
	if i := slices.IndexFunc(n.Outputs, func(s string) bool { return s != "" }); i >= 0 {
		return n.Outputs[i]
	}
	return ""
}
