package lower

import (
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// part says which of the two targets has a node.
type part int8

const (
	anywhere part = iota // constants, which every piece has its own copies of
	device               // the target that a graph is split for
	rest                 // the target that takes what the device does not
)

// flow is how values flow between the nodes of a graph, constants left out.
type flow struct {
	graph     *graph.Graph
	types     map[string]*graph.Type
	constants map[string]bool
	producer  map[string]int // value -> node
	inputs    [][]string     // by node: what it and the graphs inside it read, each once
	edges     []edge
	anchor    int // the node whose piece gives the outputs that are constants
}

// edge is a value that one node makes and another reads.
type edge struct {
	from, to int
	value    string
	stays    bool // it can't cross from one piece to another
}

func newFlow(g *graph.Graph) *flow {
	f := &flow{graph: g, types: g.Types(), constants: map[string]bool{}, producer: make(map[string]int, len(g.Nodes)), inputs: make([][]string, len(g.Nodes))}
	for _, in := range g.Initializers {
		f.constants[in.Name] = true
	}
	for _, v := range g.Inputs {
		delete(f.constants, v.Name)
	}
	for i, n := range g.Nodes {
		for _, o := range n.Outputs {
			if o != "" {
				f.producer[o] = i
			}
		}
		if isConstant(n) {
			f.constants[firstOutput(n)] = true
		}
	}
	f.anchor = slices.IndexFunc(g.Nodes, func(n *graph.Node) bool { return !isConstant(n) })
	for i, n := range g.Nodes {
		seen := map[string]bool{"": true}
		for _, name := range slices.Concat(n.Inputs, n.Captures()) {
			if seen[name] {
				continue
			}
			seen[name] = true
			f.inputs[i] = append(f.inputs[i], name)
			if from, ok := f.producer[name]; ok && !f.constants[name] {
				f.edges = append(f.edges, edge{from: from, to: i, value: name, stays: !crosses(f.types[name])})
			}
		}
	}
	return f
}

func isConstant(n *graph.Node) bool {
	return n.OpType == "Constant" && n.Domain == graph.DomainONNX
}

func firstOutput(n *graph.Node) string {
	for _, o := range n.Outputs {
		if o != "" {
			return o
		}
	}
	return ""
}

// crosses reports whether values of a type may go from one executable to another:
// dense tensors of a known rank do, strings, sequences and optionals do not.
func crosses(t *graph.Type) bool {
	return t != nil && t.Kind == graph.KindTensor && t.HasShape && t.Elem.Valid() && t.Elem != tensor.String
}

// partition groups the nodes of a graph into pieces, in an order in which they can
// run: every value that a piece reads was made by an earlier one or by itself. So
// no path leaves a piece and comes back. Pieces change target from one to the next, and
// there are as few as can be for a run from front to back: one for each change of
// target along the path with the most changes, give or take the first.
//
// where says which target takes each node. Nodes that share a value that can't
// cross stand in one piece; where they are the device's, or on a path that leads
// through it and back to them, they go to the rest, and where is changed to say so.
func partition(f *flow, where []part) [][]int {
	unit, units := f.knots(where)
	side := make([]part, units)
	for i, u := range unit {
		if where[i] != anywhere {
			side[u] = where[i]
		}
	}
	// Units are numbered against the flow.
	before := make([][]int, units)
	for _, e := range f.edges {
		if a, b := unit[e.from], unit[e.to]; a != b {
			before[b] = append(before[b], a)
		}
	}
	var best [][]int
	for _, first := range []part{device, rest} {
		phase := make([]int, units)
		last := 0
		for u := units - 1; u >= 0; u-- {
			if side[u] != first {
				phase[u] = 1
			}
			for _, p := range before[u] {
				n := phase[p]
				if side[p] != side[u] {
					n++
				}
				phase[u] = max(phase[u], n)
			}
			last = max(last, phase[u])
		}
		pieces := make([][]int, last+1)
		for i, u := range unit {
			if where[i] != anywhere {
				pieces[phase[u]] = append(pieces[phase[u]], i)
			}
		}
		pieces = slices.DeleteFunc(pieces, func(p []int) bool { return len(p) == 0 })
		if best == nil || len(pieces) < len(best) {
			best = pieces
		}
	}
	return best
}

// knots numbers the nodes by what must stand in one piece: nodes joined by values
// that can't cross, and all on a path from such nodes back to them. Those are the
// strongly connected components of the graph in which such a value leads both ways
// (Tarjan, Depth-first search and linear graph algorithms, 1972); they come out
// numbered against the flow. Knots of several nodes go to the rest.
func (f *flow) knots(where []part) (unit []int, units int) {
	n := len(f.graph.Nodes)
	next := make([][]int, n)
	joined := make([]bool, n)
	for _, e := range f.edges {
		next[e.from] = append(next[e.from], e.to)
		if e.stays {
			next[e.to] = append(next[e.to], e.from)
			joined[e.from], joined[e.to] = true, true
		}
	}
	unit = make([]int, n)
	index, low, at := make([]int, n), make([]int, n), make([]int, n)
	var stack, path []int
	count := 0
	for root := range n {
		if index[root] != 0 {
			continue
		}
		path = append(path, root)
		for len(path) > 0 {
			v := path[len(path)-1]
			if index[v] == 0 {
				count++
				index[v], low[v], unit[v] = count, count, -1
				stack = append(stack, v)
			}
			if at[v] < len(next[v]) {
				w := next[v][at[v]]
				at[v]++
				switch {
				case index[w] == 0:
					path = append(path, w)
				case unit[w] < 0:
					low[v] = min(low[v], index[w])
				}
				continue
			}
			path = path[:len(path)-1]
			if len(path) > 0 {
				p := path[len(path)-1]
				low[p] = min(low[p], low[v])
			}
			if low[v] < index[v] {
				continue
			}
			for {
				w := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				unit[w] = units
				if w == v {
					break
				}
			}
			units++
		}
	}
	knotted := make([]bool, units)
	for i, j := range joined {
		knotted[unit[i]] = knotted[unit[i]] || j
	}
	for i := range where {
		if knotted[unit[i]] && where[i] == device {
			where[i] = rest
		}
	}
	return unit, units
}

// islands are the connected parts of a piece.
func (f *flow) islands(piece []int) [][]int {
	root := make(map[int]int, len(piece))
	for _, i := range piece {
		root[i] = i
	}
	find := func(i int) int {
		for root[i] != i {
			root[i] = root[root[i]]
			i = root[i]
		}
		return i
	}
	for _, i := range piece {
		for _, name := range f.inputs[i] {
			if from, ok := f.producer[name]; ok && !f.constants[name] {
				if _, inside := root[from]; inside {
					root[find(i)] = find(from)
				}
			}
		}
	}
	order := map[int]int{}
	var out [][]int
	for _, i := range piece {
		r := find(i)
		k, ok := order[r]
		if !ok {
			k = len(out)
			order[r] = k
			out = append(out, nil)
		}
		out[k] = append(out[k], i)
	}
	return out
}

// piece makes a model of some of the nodes: what they read from elsewhere are its
// inputs, what others read from them its outputs. Constants are copied into it;
// their bytes stay where they are.
func (f *flow) piece(m *graph.Model, nodes []int) *graph.Model {
	g := &graph.Graph{Name: m.Graph.Name}
	inside := make(map[int]bool, len(nodes))
	for _, i := range nodes {
		inside[i] = true
	}
	seen := map[string]bool{}
	constants := map[string]bool{}
	value := func(name string) *graph.Value {
		v := &graph.Value{Name: name}
		if t := f.types[name]; t != nil {
			v.Type = t.Clone()
		}
		return v
	}
	read := func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		if i, made := f.producer[name]; f.constants[name] {
			constants[name] = true
			if made {
				g.Nodes = append(g.Nodes, f.graph.Nodes[i])
			}
		} else if !made || !inside[i] {
			g.Inputs = append(g.Inputs, value(name))
		}
	}
	for _, i := range nodes {
		for _, name := range f.inputs[i] {
			read(name)
		}
	}
	for _, i := range nodes {
		g.Nodes = append(g.Nodes, f.graph.Nodes[i])
	}
	wanted := map[string]bool{}
	for _, v := range f.graph.Outputs {
		wanted[v.Name] = true
		if f.constants[v.Name] && inside[f.anchor] {
			read(v.Name)
			g.Outputs = append(g.Outputs, value(v.Name))
		}
	}
	for _, e := range f.edges {
		if inside[e.from] && !inside[e.to] {
			wanted[e.value] = true
		}
	}
	for _, i := range nodes {
		for _, o := range f.graph.Nodes[i].Outputs {
			if wanted[o] {
				g.Outputs = append(g.Outputs, value(o))
			}
		}
	}
	for _, in := range f.graph.Initializers {
		if constants[in.Name] {
			g.Initializers = append(g.Initializers, in)
		}
	}
	whole := *m
	whole.Graph = g
	p := whole.Clone()
	p.Prune()
	return p
}
