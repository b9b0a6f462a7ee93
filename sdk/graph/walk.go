package graph

import "iter"

// Graphs iterates over the model's graph and all graphs inside it, depth first,
// outer before inner. Bodies of functions are not visited.
func (m *Model) Graphs() iter.Seq[*Graph] {
	return func(yield func(*Graph) bool) {
		if m.Graph != nil {
			m.Graph.visit(yield)
		}
	}
}

func (g *Graph) visit(yield func(*Graph) bool) bool {
	if !yield(g) {
		return false
	}
	for _, n := range g.Nodes {
		for sub := range n.Graphs() {
			if !sub.visit(yield) {
				return false
			}
		}
	}
	return true
}

// Graphs iterates over the graphs among a node's attributes, not over those
// inside them.
func (n *Node) Graphs() iter.Seq[*Graph] {
	return func(yield func(*Graph) bool) {
		for _, a := range n.Attrs {
			if a.Graph != nil && !yield(a.Graph) {
				return
			}
			for _, g := range a.Graphs {
				if !yield(g) {
					return
				}
			}
		}
	}
}
