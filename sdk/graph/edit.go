package graph

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

// Rename gives values of g new names, wherever they are made or used, graphs
// inside included. The new names must be free.
func (g *Graph) Rename(names map[string]string) {
	to := func(s *string) {
		if n, ok := names[*s]; ok {
			*s = n
		}
	}
	for _, vs := range [][]*Value{g.Inputs, g.Outputs, g.Values} {
		for _, v := range vs {
			to(&v.Name)
		}
	}
	for _, in := range g.Initializers {
		to(&in.Name)
	}
	rename(g.Nodes, names)
}

// Redirect makes what reads one value read another instead: inputs of nodes, and
// what graphs inside them take from around. Nobody may make the old values any
// more. Outputs of g keep their names.
func (g *Graph) Redirect(to map[string]string) {
	whole := make(map[string]string, len(to))
	for from, name := range to {
		for n, ok := to[name]; ok; n, ok = to[name] {
			name = n
		}
		whole[from] = name
	}
	rename(g.Nodes, whole)
}

// rename renames what nodes make and use. In graphs inside them only what those
// capture is renamed.
func rename(nodes []*Node, names map[string]string) {
	if len(names) == 0 {
		return
	}
	for _, n := range nodes {
		for i, s := range n.Inputs {
			if to, ok := names[s]; ok {
				n.Inputs[i] = to
			}
		}
		for i, s := range n.Outputs {
			if to, ok := names[s]; ok {
				n.Outputs[i] = to
			}
		}
		n.renameReferences(names)
		for g := range n.Graphs() {
			inner := names
			own := map[string]bool{}
			for _, s := range define(g, own) {
				if _, ok := names[s]; ok {
					inner = without(names, own)
					break
				}
			}
			rename(g.Nodes, inner)
			for _, v := range g.Outputs {
				if to, ok := inner[v.Name]; ok {
					v.Name = to
				}
			}
		}
	}
}

func without(names map[string]string, drop map[string]bool) map[string]string {
	out := map[string]string{}
	for k, v := range names {
		if !drop[k] {
			out[k] = v
		}
	}
	return out
}

// Sort puts the nodes of g, and of the graphs inside, into topological order,
// changing the order as little as a depth-first walk allows. It fails, changing
// nothing, when nodes depend on each other in a ring.
func (g *Graph) Sort() error {
	order, err := sorted(g.Nodes)
	if err != nil {
		return fmt.Errorf("graph %q: %w", g.Name, err)
	}
	for _, n := range g.Nodes {
		for sub := range n.Graphs() {
			if err := sub.Sort(); err != nil {
				return err
			}
		}
	}
	g.Nodes = order
	return nil
}

func sorted(nodes []*Node) ([]*Node, error) {
	producer := make(map[string]int, len(nodes))
	for i, n := range nodes {
		for _, out := range n.Outputs {
			if out != "" {
				producer[out] = i
			}
		}
	}
	needs := make([][]int, len(nodes))
	for i, n := range nodes {
		for _, in := range n.Inputs {
			if p, ok := producer[in]; ok {
				needs[i] = append(needs[i], p)
			}
		}
		for _, in := range n.Captures() {
			if p, ok := producer[in]; ok {
				needs[i] = append(needs[i], p)
			}
		}
	}
	const (
		open = 1
		done = 2
	)
	state := make([]uint8, len(nodes))
	out := make([]*Node, 0, len(nodes))
	var stack []int
	for i := range nodes {
		stack = append(stack, i)
		for len(stack) > 0 {
			k := stack[len(stack)-1]
			if state[k] == done {
				stack = stack[:len(stack)-1]
				continue
			}
			state[k] = open
			ready := true
			for len(needs[k]) > 0 && ready {
				p := needs[k][0]
				switch state[p] {
				case done:
					needs[k] = needs[k][1:]
				case open:
					return nil, fmt.Errorf("node %s depends on itself", nodes[k].Label())
				default:
					stack = append(stack, p)
					ready = false
				}
			}
			if ready {
				state[k] = done
				out = append(out, nodes[k])
				stack = stack[:len(stack)-1]
			}
		}
	}
	return out, nil
}

// Prune removes what no output of the graph depends on: nodes, initializers,
// types of values, and functions that nothing calls. Inputs stay. The nodes must
// be in topological order.
func (m *Model) Prune() {
	prune(m.Graph)
	byID := m.functions()
	called := map[FunctionID]bool{}
	var mark func(nodes []*Node)
	mark = func(nodes []*Node) {
		for _, n := range nodes {
			if f := byID[n.ID()]; f != nil && !called[f.ID()] {
				called[f.ID()] = true
				mark(f.Nodes)
			}
			for g := range n.Graphs() {
				mark(g.Nodes)
			}
		}
	}
	mark(m.Graph.Nodes)
	m.Functions = keep(m.Functions, func(f *Function) bool { return called[f.ID()] })
}

func prune(g *Graph) {
	live := make(map[string]bool, len(g.Nodes))
	for _, v := range g.Outputs {
		live[v.Name] = true
	}
	dead := map[*Node]bool{}
	made := make(map[string]bool, len(g.Nodes))
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := g.Nodes[i]
		wanted := false
		for _, out := range n.Outputs {
			wanted = wanted || out != "" && live[out]
		}
		if !wanted {
			dead[n] = true
			continue
		}
		for _, out := range n.Outputs {
			made[out] = true
		}
		for _, in := range n.Inputs {
			live[in] = true
		}
		for sub := range n.Graphs() {
			prune(sub)
		}
		for _, in := range n.Captures() {
			live[in] = true
		}
	}
	for _, v := range g.Inputs {
		made[v.Name] = true
	}
	g.Nodes = keep(g.Nodes, func(n *Node) bool { return !dead[n] })
	g.Initializers = keep(g.Initializers, func(in *Initializer) bool { return live[in.Name] || made[in.Name] })
	g.Values = keep(g.Values, func(v *Value) bool { return made[v.Name] })
}

// keep filters in place and clears the tail.
func keep[T any](s []*T, f func(*T) bool) []*T {
	out := s[:0]
	for _, v := range s {
		if f(v) {
			out = append(out, v)
		}
	}
	clear(s[len(out):])
	return out
}

// Constants are the values of g that are the same in every run and lie in
// memory: initializers that are no inputs, and outputs of Constant nodes.
func (g *Graph) Constants() map[string]tensor.Tensor {
	out := make(map[string]tensor.Tensor, len(g.Initializers))
	for _, in := range g.Initializers {
		if in.External == nil || in.Tensor.Data != nil {
			out[in.Name] = in.Tensor
		}
	}
	for _, v := range g.Inputs {
		delete(out, v.Name)
	}
	for _, n := range g.Nodes {
		if t, ok := n.Constant(); ok && len(n.Outputs) == 1 {
			out[n.Outputs[0]] = t
		}
	}
	return out
}

// Constant is the value of a Constant node; false for other nodes, for values
// that lie elsewhere and for attributes that refer to a function's.
func (n *Node) Constant() (tensor.Tensor, bool) {
	if n.OpType != "Constant" || n.Domain != DomainONNX || len(n.Attrs) != 1 || n.Attrs[0].Ref != "" {
		return tensor.Tensor{}, false
	}
	a := n.Attrs[0]
	vector := func(n int) tensor.Shape { return tensor.Shape{int64(n)} }
	switch a.Name {
	case "value":
		if a.Tensor == nil || a.Tensor.External != nil && a.Tensor.Tensor.Data == nil {
			return tensor.Tensor{}, false
		}
		return a.Tensor.Tensor, true
	case "value_int":
		return tensor.Ints(nil, a.Int), true
	case "value_ints":
		return tensor.Of(tensor.Int64, vector(len(a.Ints)), a.Ints), true
	case "value_float":
		return tensor.Floats(nil, a.Float), true
	case "value_floats":
		return tensor.Of(tensor.Float32, vector(len(a.Floats)), a.Floats), true
	case "value_string":
		return tensor.Tensor{DType: tensor.String, Strings: []string{a.String}}, true
	case "value_strings":
		return tensor.Tensor{DType: tensor.String, Shape: vector(len(a.Strings)), Strings: a.Strings}, true
	}
	return tensor.Tensor{}, false
}
