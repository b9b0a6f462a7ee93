package reference

import (
	"fmt"

	"github.com/accelhq/accel/sdk/graph"
)

// plan is a graph, or the body of a function, with names resolved to slots.
type plan struct {
	inputs   []int // slots of the graph's inputs
	outputs  []int
	consts   []constant
	captures []capture // values of the outer graph
	steps    []*step
	names    map[string]int
	full     *schedule // for all outputs
}

type constant struct {
	slot  int
	value graph.Datum
}

// capture copies a value of the outer frame into a slot.
type capture struct {
	name        string
	outer, slot int
}

// step is one node of a plan.
type step struct {
	node *graph.Node
	op   *Operator // nil: body is called
	body *plan
	in   []int // slots; -1: left out
	out  []int
	subs map[string]*plan // graphs among the attributes
}

// uses are all slots that a step reads.
func (s *step) uses(f func(slot int)) {
	for _, i := range s.in {
		if i >= 0 {
			f(i)
		}
	}
	for _, sub := range s.subs {
		for _, c := range sub.captures {
			f(c.outer)
		}
	}
}

// schedule is the steps that some values need, each with the slots that nobody
// reads after it.
type schedule struct {
	steps []*step
	free  [][]int
	links []bool // by slot: see plan.links
}

func (p *plan) schedule(wanted []int) *schedule {
	needed := make([]bool, len(p.names))
	for _, s := range wanted {
		needed[s] = true
	}
	// Wanted values are kept until the end.
	kept := append([]bool(nil), needed...)
	seen := append([]bool(nil), needed...)
	s := &schedule{}
	for i := len(p.steps) - 1; i >= 0; i-- {
		st := p.steps[i]
		use := false
		for _, o := range st.out {
			use = use || o >= 0 && needed[o]
		}
		if !use {
			continue
		}
		var free []int
		last := func(slot int) {
			if !seen[slot] {
				seen[slot] = true
				free = append(free, slot)
			}
			needed[slot] = true
		}
		for _, o := range st.out {
			if o >= 0 {
				last(o) // not read by anyone, or seen already
			}
		}
		st.uses(last)
		s.steps = append(s.steps, st)
		s.free = append(s.free, free)
	}
	reverse(s.steps)
	reverse(s.free)
	s.links = p.links(s.steps, kept)
	return s
}

func reverse[T any](s []T) {
	for i, j := 0, len(s)-1; i < j; i, j = i+1, j-1 {
		s[i], s[j] = s[j], s[i]
	}
}

// Bounds of what functions that call functions may expand to.
const (
	maxSteps = 1 << 20
	maxDepth = 64
)

// planner makes the plans of one model.
type planner struct {
	functions map[graph.FunctionID]*graph.Function
	sizes     map[*graph.Function]int // nodes of a body, calls expanded
	refused   []UnsupportedNode
}

func newPlanner(functions []*graph.Function) *planner {
	pl := &planner{functions: make(map[graph.FunctionID]*graph.Function, len(functions)), sizes: map[*graph.Function]int{}}
	for _, f := range functions {
		pl.functions[f.ID()] = f
	}
	return pl
}

// expanded counts nodes with those of the functions that they call, up to a little
// over maxSteps. depth counts the calls around; functions may not call themselves,
// which Check sees to, but a node evaluated alone is not checked.
func (pl *planner) expanded(nodes []*graph.Node, depth int) int {
	sum := 0
	for _, n := range nodes {
		sum++
		for g := range n.Graphs() {
			sum += pl.expanded(g.Nodes, depth)
		}
		if f := pl.functions[n.ID()]; f != nil {
			size, ok := pl.sizes[f]
			if !ok {
				if depth == maxDepth {
					return maxSteps + 1
				}
				size = pl.expanded(f.Nodes, depth+1)
				pl.sizes[f] = size
			}
			sum += size
		}
		if sum > maxSteps {
			return maxSteps + 1
		}
	}
	return sum
}

// checkSize refuses models that functions blow up, before they are expanded.
func (pl *planner) checkSize(nodes []*graph.Node) error {
	if pl.expanded(nodes, 0) > maxSteps {
		return &graph.CheckError{Where: "model", Reason: fmt.Sprintf("with functions expanded it has more than %d nodes, or calls nested deeper than %d", maxSteps, maxDepth)}
	}
	return nil
}

// scope is the plan being made, within the scopes around it.
type scope struct {
	*plan
	outer  *scope
	opsets map[string]int64
	types  map[string]*graph.Type
	// free resolves names that no scope knows, where a node is evaluated alone.
	free func(name string) bool
}

func newScope(outer *scope, opsets map[string]int64) *scope {
	s := &scope{plan: &plan{names: map[string]int{}}, outer: outer, opsets: opsets, types: map[string]*graph.Type{}}
	if outer != nil {
		s.free = outer.free
	}
	return s
}

func (s *scope) define(name string) int {
	i, ok := s.names[name]
	if !ok {
		i = len(s.names)
		s.names[name] = i
	}
	return i
}

// find is the slot of a name, captured from outer scopes where necessary.
func (s *scope) find(name string) (int, bool) {
	if i, ok := s.names[name]; ok {
		return i, true
	}
	c := capture{name: name, outer: -1}
	switch {
	case s.outer != nil:
		var ok bool
		if c.outer, ok = s.outer.find(name); !ok {
			return 0, false
		}
		if t := s.outer.types[name]; t != nil {
			s.types[name] = t
		}
	case s.free != nil && s.free(name):
	default:
		return 0, false
	}
	c.slot = s.define(name)
	s.captures = append(s.captures, c)
	return c.slot, true
}

func (pl *planner) graph(g *graph.Graph, outer *scope, opsets map[string]int64) (*scope, error) {
	s := newScope(outer, opsets)
	for _, v := range g.Values {
		s.types[v.Name] = v.Type
	}
	for _, v := range g.Inputs {
		s.inputs = append(s.inputs, s.define(v.Name))
		s.types[v.Name] = v.Type
	}
	for _, in := range g.Initializers {
		if err := in.Tensor.Check(); err != nil {
			return nil, &graph.CheckError{Where: "initializer " + in.Name, Reason: err.Error()}
		}
		v := graph.Datum{Kind: graph.KindTensor, Tensor: in.Tensor}
		s.consts = append(s.consts, constant{s.define(in.Name), v})
		if s.types[in.Name] == nil {
			s.types[in.Name] = &graph.Type{Kind: graph.KindTensor, Elem: in.Tensor.DType}
		}
	}
	if err := pl.nodes(g.Nodes, s); err != nil {
		return nil, err
	}
	for _, v := range g.Outputs {
		if err := s.output(v.Name); err != nil {
			return nil, err
		}
	}
	s.full = s.schedule(s.outputs)
	return s, nil
}

func (s *scope) output(name string) error {
	i, ok := s.find(name)
	if !ok {
		return &graph.CheckError{Where: "graph", Reason: fmt.Sprintf("output %q is made by no node", name)}
	}
	s.outputs = append(s.outputs, i)
	return nil
}

func (pl *planner) nodes(nodes []*graph.Node, s *scope) error {
	for _, n := range nodes {
		if err := pl.node(n, s); err != nil {
			return err
		}
	}
	return nil
}

func (pl *planner) node(n *graph.Node, s *scope) error {
	fail := func(format string, args ...any) error {
		return &graph.CheckError{Where: "graph", Node: n.Label(), Reason: fmt.Sprintf(format, args...)}
	}
	st := &step{node: n}
	types := make([]*graph.Type, len(n.Inputs))
	for i, name := range n.Inputs {
		slot := -1
		if name != "" {
			var ok bool
			if slot, ok = s.find(name); !ok {
				return fail("input %q is not defined before it", name)
			}
			types[i] = s.types[name]
		}
		st.in = append(st.in, slot)
	}
	if err := pl.operator(n, st, s, types); err != nil {
		return err
	}
	for _, name := range n.Outputs {
		slot := -1
		if name != "" {
			slot = s.define(name)
		}
		st.out = append(st.out, slot)
	}
	s.steps = append(s.steps, st)
	return nil
}

// operator finds what computes a node: an operator of this package, else the
// body of a function of the model. What is not known is noted, not an error.
func (pl *planner) operator(n *graph.Node, st *step, s *scope, types []*graph.Type) error {
	op, refused := resolve(n, s.opsets[n.Domain], types)
	f := pl.functions[graph.FunctionID{Domain: n.Domain, Name: n.OpType, Overload: n.Overload}]
	switch {
	case f != nil && (op == nil || n.Domain != graph.DomainAccel):
		// A model's own function means what its body says, except in our domain,
		// where the operator and the body mean the same.
		return pl.call(f, n, st)
	case op == nil:
		pl.refused = append(pl.refused, *refused)
		return nil
	}
	st.op = op
	if why := op.arity(n.Inputs, n.Outputs); why != "" {
		return &graph.CheckError{Where: "graph", Node: n.Label(), Reason: why}
	}
	for _, a := range n.Attrs {
		switch {
		case a.Ref != "":
			return &graph.CheckError{Where: "graph", Node: n.Label(), Reason: fmt.Sprintf("attribute %q refers to %q outside a function", a.Name, a.Ref)}
		case a.Kind == graph.AttrGraph:
			sub, err := pl.graph(a.Graph, s, s.opsets)
			if err != nil {
				return err
			}
			if st.subs == nil {
				st.subs = map[string]*plan{}
			}
			st.subs[a.Name] = sub.plan
		}
	}
	return nil
}

func (pl *planner) call(f *graph.Function, n *graph.Node, st *step) error {
	fail := func(format string, args ...any) error {
		return &graph.CheckError{Where: "function " + f.ID().String(), Node: n.Label(), Reason: fmt.Sprintf(format, args...)}
	}
	if len(n.Inputs) > len(f.Inputs) || len(n.Outputs) > len(f.Outputs) {
		return fail("it is called with %d inputs and %d outputs, has %d and %d", len(n.Inputs), len(n.Outputs), len(f.Inputs), len(f.Outputs))
	}
	given := map[string]*graph.Attr{}
	for _, a := range f.Defaults {
		given[a.Name] = a
	}
	for _, a := range n.Attrs {
		given[a.Name] = a
	}
	for _, name := range f.Attrs {
		if given[name] == nil {
			given[name] = nil // known, but left out
		}
	}
	s := newScope(nil, f.Opsets)
	for _, v := range f.Values {
		s.types[v.Name] = v.Type
	}
	for _, name := range f.Inputs {
		s.inputs = append(s.inputs, s.define(name))
	}
	if err := pl.nodes(bindAttrs(f.Nodes, given), s); err != nil {
		return err
	}
	for _, name := range f.Outputs {
		if err := s.output(name); err != nil {
			return err
		}
	}
	// Only the outputs that the caller uses are computed.
	var wanted []int
	for i, name := range n.Outputs {
		if name != "" {
			wanted = append(wanted, s.outputs[i])
		}
	}
	s.full = s.schedule(wanted)
	st.body = s.plan
	return nil
}

// bindAttrs replaces references to a function's attributes by what the call
// gives; attributes that refer to one left out are left out. The nodes are
// copied as far as they change.
func bindAttrs(nodes []*graph.Node, given map[string]*graph.Attr) []*graph.Node {
	out := make([]*graph.Node, len(nodes))
	for i, n := range nodes {
		c := *n
		c.Attrs = nil
		for _, a := range n.Attrs {
			switch {
			case a.Ref != "":
				if v := given[a.Ref]; v != nil {
					b := *v
					b.Name = a.Name
					c.Attrs = append(c.Attrs, &b)
				}
			case a.Graph != nil:
				b, g := *a, *a.Graph
				g.Nodes = bindAttrs(g.Nodes, given)
				b.Graph = &g
				c.Attrs = append(c.Attrs, &b)
			default:
				c.Attrs = append(c.Attrs, a)
			}
		}
		out[i] = &c
	}
	return out
}
