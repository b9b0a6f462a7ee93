package graph

import "iter"

// Graphs iterates over the model's graph and all graphs inside it, depth first,
// outer before inner. Bodies of functions are not visited.
func (m *Model) Graphs() iter.Seq[*Graph] {
	return func(yield func(*Graph) bool) {
		if m.Graph != nil {
			visitGraphs(m.Graph, yield)
		}
	}
}

func visitGraphs(g *Graph, yield func(*Graph) bool) bool {
	if !yield(g) {
		return false
	}
	for _, n := range g.Nodes {
		for sub := range n.Graphs() {
			if !visitGraphs(sub, yield) {
				return false
			}
		}
	}
	return true
}

// AllNodes iterates over the nodes of the model's graph and of all graphs inside
// it, each with the graph it stands in; a node comes before those inside it.
func (m *Model) AllNodes() iter.Seq2[*Graph, *Node] {
	return func(yield func(*Graph, *Node) bool) {
		if m.Graph != nil {
			visitNodes(m.Graph, yield)
		}
	}
}

func visitNodes(g *Graph, yield func(*Graph, *Node) bool) bool {
	for _, n := range g.Nodes {
		if !yield(g, n) {
			return false
		}
		for sub := range n.Graphs() {
			if !visitNodes(sub, yield) {
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

// Captures lists the values of outer graphs that the graphs among a node's
// attributes use, each once, in the order of first use.
func (n *Node) Captures() []string {
	var out []string
	var seen map[string]bool
	for g := range n.Graphs() {
		if seen == nil {
			seen = map[string]bool{}
		}
		captures(g, map[string]bool{}, func(name string) {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		})
	}
	return out
}

// captures calls found for each use of a name that is defined neither in g nor
// in the graphs between g and the one captures was first called for.
func captures(g *Graph, defined map[string]bool, found func(string)) {
	added := define(g, defined)
	use := func(name string) {
		if name != "" && !defined[name] {
			found(name)
		}
	}
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			use(in)
		}
		for sub := range n.Graphs() {
			captures(sub, defined, found)
		}
	}
	for _, v := range g.Outputs {
		use(v.Name)
	}
	for _, name := range added {
		delete(defined, name)
	}
}

// define adds all names that g defines to the set and returns the new ones.
func define(g *Graph, defined map[string]bool) (added []string) {
	add := func(name string) {
		if name != "" && !defined[name] {
			defined[name] = true
			added = append(added, name)
		}
	}
	for _, v := range g.Inputs {
		add(v.Name)
	}
	for _, in := range g.Initializers {
		add(in.Name)
	}
	for _, n := range g.Nodes {
		for _, out := range n.Outputs {
			add(out)
		}
	}
	return added
}

// Use is one place where a value is read: an input of a node, or a graph inside
// the node (Input is -1).
type Use struct {
	Node  *Node
	Input int
}

// Index finds who makes and who reads the values of one graph. It does not
// follow later changes of the graph.
type Index struct {
	producers map[string]*Node
	uses      map[string][]Use
	outputs   map[string]bool
}

// NewIndex indexes the nodes of g; what graphs inside them read counts as read
// by the node of g.
func NewIndex(g *Graph) *Index {
	ix := &Index{
		producers: make(map[string]*Node, len(g.Nodes)),
		uses:      make(map[string][]Use, len(g.Nodes)),
		outputs:   make(map[string]bool, len(g.Outputs)),
	}
	for _, n := range g.Nodes {
		for _, out := range n.Outputs {
			if out != "" {
				ix.producers[out] = n
			}
		}
		for i, in := range n.Inputs {
			if in != "" {
				ix.uses[in] = append(ix.uses[in], Use{n, i})
			}
		}
		for _, in := range n.Captures() {
			ix.uses[in] = append(ix.uses[in], Use{n, -1})
		}
	}
	for _, v := range g.Outputs {
		ix.outputs[v.Name] = true
	}
	return ix
}

// Producer is the node that makes the value; nil for inputs and initializers.
func (ix *Index) Producer(value string) *Node { return ix.producers[value] }

// Uses lists the places where the value is read, in node order.
func (ix *Index) Uses(value string) []Use { return ix.uses[value] }

// IsOutput reports whether the value is an output of the graph.
func (ix *Index) IsOutput(value string) bool { return ix.outputs[value] }
