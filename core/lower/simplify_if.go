package lower

import (
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// inlineIfs puts the branch that is taken in the place of an If whose condition is
// constant. Its nodes keep their names.
func inlineIfs(s *simplifier) (int, error) {
	count := 0
	var nodes []*graph.Node
	for _, n := range s.g.Nodes {
		branch, ok := s.branch(n)
		if !ok {
			nodes = append(nodes, n)
			continue
		}
		nodes = append(nodes, s.inlined(n, branch)...)
		count++
	}
	s.g.Nodes = nodes
	return count, nil
}

// branch is the graph that an If always takes.
func (s *simplifier) branch(n *graph.Node) (*graph.Graph, bool) {
	if !standard(n, "If") || len(n.Inputs) != 1 {
		return nil, false
	}
	cond, ok := s.constOf(n.Inputs[0])
	if !ok || cond.DType != tensor.Bool || cond.Len() != 1 {
		return nil, false
	}
	name := "else_branch"
	if cond.Data[0] != 0 {
		name = "then_branch"
	}
	a := n.Attr(name)
	if a == nil || a.Graph == nil || len(a.Graph.Inputs) > 0 || len(a.Graph.Outputs) < len(n.Outputs) {
		return nil, false
	}
	return a.Graph, true
}

// inlined is the nodes of a branch, which makes the outputs of the If itself.
func (s *simplifier) inlined(n *graph.Node, branch *graph.Graph) []*graph.Node {
	// What the branch makes must not be called as anything else: graphs beside it,
	// which may use the same names, are other scopes no longer.
	made := map[string]bool{}
	names := map[string]string{}
	claim := func(name string) {
		if name != "" {
			made[name] = true
			if names[name] = name; s.names[name] > 1 {
				names[name] = s.fresh(name)
			}
		}
	}
	for _, in := range branch.Initializers {
		claim(in.Name)
	}
	inner := map[string]bool{}
	for _, b := range branch.Nodes {
		for _, o := range b.Outputs {
			claim(o)
			inner[o] = true
		}
	}
	var copies []*graph.Node
	given := map[string]bool{}
	for i, out := range n.Outputs {
		source := branch.Outputs[i].Name
		switch {
		case out == "":
		case inner[source] && !given[source]:
			names[source] = out
			given[source] = true
		default:
			if made[source] {
				source = names[source]
			}
			copies = append(copies, &graph.Node{Name: n.Name, OpType: "Identity", Inputs: []string{source}, Outputs: []string{out}})
		}
	}
	branch.Rename(names)
	s.g.Initializers = append(s.g.Initializers, branch.Initializers...)
	return slices.Concat(branch.Nodes, copies)
}
