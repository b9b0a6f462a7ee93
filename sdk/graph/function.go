package graph

import (
	"fmt"
	"strconv"
)

// FunctionID tells functions and operators apart.
type FunctionID struct {
	Domain, Name, Overload string
}

func (id FunctionID) String() string {
	s := id.Name
	if id.Domain != "" {
		s = id.Domain + "." + s
	}
	if id.Overload != "" {
		s += ":" + id.Overload
	}
	return s
}

// ID is what nodes call the function by.
func (f *Function) ID() FunctionID { return FunctionID{f.Domain, f.Name, f.Overload} }

// ID is the operator, or function of the model, that the node calls.
func (n *Node) ID() FunctionID { return FunctionID{n.Domain, n.OpType, n.Overload} }

// Function returns the function of that identity, or nil.
func (m *Model) Function(id FunctionID) *Function {
	for _, f := range m.Functions {
		if f.ID() == id {
			return f
		}
	}
	return nil
}

// Attach gives the model a function body for nodes that call f. Attaching the
// same function again does nothing; another one of its identity is refused. The
// domain is imported, in version 1, where it is not yet.
func (m *Model) Attach(f *Function) error {
	if old := m.Function(f.ID()); old != nil {
		if old != f {
			return fmt.Errorf("function %s is given twice", f.ID())
		}
		return nil
	}
	m.Functions = append(m.Functions, f)
	if m.Opsets == nil {
		m.Opsets = map[string]int64{}
	}
	if _, ok := m.Opsets[f.Domain]; !ok {
		m.Opsets[f.Domain] = 1
	}
	return nil
}

// functions indexes the model's functions.
func (m *Model) functions() map[FunctionID]*Function {
	out := make(map[FunctionID]*Function, len(m.Functions))
	for _, f := range m.Functions {
		out[f.ID()] = f
	}
	return out
}

// expanded counts the model's nodes with those of the functions that they call, up
// to a little over limit. Functions that call themselves are not entered twice.
func (m *Model) expanded(limit int64) int64 {
	functions := m.functions()
	sizes := map[FunctionID]int64{}
	var count func(nodes []*Node) int64
	count = func(nodes []*Node) int64 {
		sum := int64(0)
		for _, n := range nodes {
			sum++
			for g := range n.Graphs() {
				sum += count(g.Nodes)
			}
			if f := functions[n.ID()]; f != nil {
				size, ok := sizes[n.ID()]
				if !ok {
					sizes[n.ID()] = 0
					size = count(f.Nodes)
					sizes[n.ID()] = size
				}
				sum += size
			}
			if sum > limit {
				return limit + 1
			}
		}
		return sum
	}
	if m.Graph == nil {
		return 0
	}
	return count(m.Graph.Nodes)
}

// withinBudget refuses a model that functions blow up, before any work is done.
func (m *Model) withinBudget(limit int64) error {
	if n := m.expanded(limit); n > limit {
		return &LimitError{What: "nodes, those of functions counted at each call,", Limit: limit, Found: n}
	}
	return nil
}

// InlineError says why a call of a function can't be replaced by its body.
type InlineError struct {
	Function FunctionID
	Node     string // label of the call, or empty
	Reason   string
}

func (e *InlineError) Error() string {
	s := "inline function " + strconv.Quote(e.Function.String())
	if e.Node != "" {
		s += " at node " + e.Node
	}
	return s + ": " + e.Reason
}

// Inline replaces calls of model-local functions by their bodies, calls inside
// bodies and inside graphs of nodes included, and removes those functions.
// Functions for which keep is true stay, and so do calls of them; keep may be
// nil. Values and nodes of a body get names that begin with the name of the call.
//
// The operator sets that a body uses are merged into the model's; a domain in
// two versions is an error. Errors are *InlineError, *LimitError (a body that
// would grow past the default limit of nodes) and *CheckError. On error the
// model is unchanged.
func Inline(m *Model, keep func(FunctionID) bool) error {
	return inlineWithin(m, keep, Limits{}.orDefaults().Nodes)
}

func inlineWithin(m *Model, keep func(FunctionID) bool, limit int64) error {
	if err := m.Check(); err != nil {
		return err
	}
	if keep == nil {
		if err := m.withinBudget(limit); err != nil {
			return err
		}
	}
	c := m.Clone()
	in := &inliner{functions: map[FunctionID]*Function{}, used: map[string]bool{}, limit: limit}
	var kept []*Function
	for _, f := range c.Functions {
		if keep != nil && keep(f.ID()) {
			kept = append(kept, f)
		} else {
			in.functions[f.ID()] = f
		}
	}
	for g := range c.Graphs() {
		define(g, in.used)
	}
	var err error
	in.opsets = c.Opsets
	if c.Graph.Nodes, err = in.expand(c.Graph.Nodes); err != nil {
		return discard(c, err)
	}
	for _, f := range kept {
		// The names in a function are its own, but unique ones do no harm.
		for _, name := range f.Inputs {
			in.used[name] = true
		}
		defineAll(f.Nodes, in.used)
		in.opsets = f.Opsets
		if f.Nodes, err = in.expand(f.Nodes); err != nil {
			return discard(c, err)
		}
	}
	c.Functions = kept
	for id := range in.functions {
		if id.Domain != DomainONNX && !c.uses(id.Domain) {
			delete(c.Opsets, id.Domain)
		}
	}
	m.Graph, m.Functions, m.Opsets = c.Graph, c.Functions, c.Opsets
	return discard(c, nil)
}

// uses reports whether any node of the model is of the domain.
func (m *Model) uses(domain string) bool {
	for _, n := range m.AllNodes() {
		if n.Domain == domain {
			return true
		}
	}
	for _, f := range m.Functions {
		if f.Domain == domain {
			return true
		}
	}
	return false
}

// discard closes a clone that has served.
func discard(c *Model, err error) error {
	if c.files != nil {
		c.files.release() // never the last reference: the original holds one
	}
	return err
}

// defineAll adds what nodes and the graphs inside them make.
func defineAll(nodes []*Node, used map[string]bool) {
	for _, n := range nodes {
		for _, out := range n.Outputs {
			used[out] = true
		}
		for g := range n.Graphs() {
			define(g, used)
			defineAll(g.Nodes, used)
		}
	}
}

type inliner struct {
	functions map[FunctionID]*Function
	opsets    map[string]int64 // of the model or function that is expanded
	used      map[string]bool
	made      int64 // nodes
	limit     int64 // of those
}

// unique claims a name that nothing has.
func (in *inliner) unique(name string) string {
	s := name
	for i := 1; in.used[s]; i++ {
		s = name + "_" + strconv.Itoa(i)
	}
	in.used[s] = true
	return s
}

// expand returns nodes with the calls among them replaced.
func (in *inliner) expand(nodes []*Node) ([]*Node, error) {
	out := make([]*Node, 0, len(nodes))
	for _, n := range nodes {
		for g := range n.Graphs() {
			var err error
			if g.Nodes, err = in.expand(g.Nodes); err != nil {
				return nil, err
			}
		}
		f := in.functions[n.ID()]
		if f == nil {
			out = append(out, n)
			continue
		}
		body, err := in.call(f, n)
		if err != nil {
			return nil, err
		}
		// Functions do not recurse (Check), so this ends.
		if body, err = in.expand(body); err != nil {
			return nil, err
		}
		out = append(out, body...)
	}
	return out, nil
}

// call is the body of f as it stands for the node.
func (in *inliner) call(f *Function, n *Node) ([]*Node, error) {
	fail := func(format string, args ...any) error {
		return &InlineError{Function: f.ID(), Node: n.Label(), Reason: fmt.Sprintf(format, args...)}
	}
	if len(n.Inputs) > len(f.Inputs) || len(n.Outputs) > len(f.Outputs) {
		return nil, fail("the call has %d inputs and %d outputs, the function %d and %d", len(n.Inputs), len(n.Outputs), len(f.Inputs), len(f.Outputs))
	}
	if err := in.merge(f, n); err != nil {
		return nil, err
	}
	prefix := n.Name
	for _, out := range n.Outputs {
		if prefix == "" {
			prefix = out
		}
	}
	prefix += "/"

	names := make(map[string]string, len(f.Nodes)+len(f.Inputs))
	isInput := make(map[string]bool, len(f.Inputs))
	for i, formal := range f.Inputs {
		names[formal] = ""
		isInput[formal] = true
		if i < len(n.Inputs) {
			names[formal] = n.Inputs[i]
		}
	}
	// A body value that is an output takes the name that the call gives it. One
	// that is an input as well, or two outputs, needs an Identity.
	var copies []*Node
	for i, formal := range f.Outputs {
		if i >= len(n.Outputs) || n.Outputs[i] == "" {
			continue
		}
		source, taken := names[formal]
		if !taken {
			names[formal] = n.Outputs[i]
			continue
		}
		if source == "" {
			return nil, fail("output %q is input %q, which the call leaves out", n.Outputs[i], formal)
		}
		copies = append(copies, &Node{OpType: "Identity", Inputs: []string{source}, Outputs: []string{n.Outputs[i]}})
	}
	if len(copies) > 0 && in.opsets[DomainONNX] == 0 {
		return nil, fail("it passes an input on, which needs operator Identity, and the model does not import the standard operators")
	}
	attrs := make(map[string]*Attr, len(n.Attrs)+len(f.Defaults))
	for _, a := range f.Defaults {
		attrs[a.Name] = a
	}
	for _, a := range n.Attrs {
		attrs[a.Name] = a
	}
	b := &body{in: in, prefix: prefix, attrs: attrs, fail: fail}
	nodes, err := b.copy(f.Nodes, names)
	if err != nil {
		return nil, err
	}
	return append(nodes, copies...), nil
}

// merge adds the operator sets that a function's nodes use.
func (in *inliner) merge(f *Function, n *Node) error {
	var add func(nodes []*Node) error
	add = func(nodes []*Node) error {
		for _, b := range nodes {
			want := f.Opsets[b.Domain]
			have, ok := in.opsets[b.Domain]
			if in.functions[b.ID()] != nil {
				continue // its own body is merged in turn
			}
			if ok && have != want {
				return &InlineError{Function: f.ID(), Node: n.Label(), Reason: fmt.Sprintf(
					"it uses version %d of the operators of domain %q, the model version %d: convert one of them", want, b.Domain, have)}
			}
			if !ok {
				in.opsets[b.Domain] = want
			}
			for g := range b.Graphs() {
				if err := add(g.Nodes); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return add(f.Nodes)
}

// body copies the nodes of one call.
type body struct {
	in     *inliner
	prefix string
	attrs  map[string]*Attr // what references of the body stand for
	fail   func(format string, args ...any) error
}

// copy copies nodes; names gets the new names of what they make.
func (b *body) copy(nodes []*Node, names map[string]string) ([]*Node, error) {
	out := make([]*Node, len(nodes))
	for i, n := range nodes {
		if b.in.made++; b.in.made > b.in.limit {
			return nil, &LimitError{What: "nodes made by inlining", Limit: b.in.limit, Found: b.in.made}
		}
		c := *n
		if c.Name != "" {
			c.Name = b.prefix + c.Name
		}
		c.Inputs = make([]string, len(n.Inputs))
		for k, in := range n.Inputs {
			c.Inputs[k] = names[in]
		}
		c.Outputs = make([]string, len(n.Outputs))
		for k, o := range n.Outputs {
			c.Outputs[k] = b.define(o, names)
		}
		c.Attrs = nil
		for _, a := range n.Attrs {
			a, err := b.attr(n, a, names)
			if err != nil {
				return nil, err
			}
			if a != nil {
				c.Attrs = append(c.Attrs, a)
			}
		}
		c.renameReferences(names)
		out[i] = &c
	}
	return out, nil
}

// define is the new name of a value that the body makes.
func (b *body) define(name string, names map[string]string) string {
	if name == "" {
		return ""
	}
	if to, ok := names[name]; ok {
		return to
	}
	names[name] = b.in.unique(b.prefix + name)
	return names[name]
}

// attr copies an attribute; nil where it refers to one that is not given.
func (b *body) attr(n *Node, a *Attr, names map[string]string) (*Attr, error) {
	if a.Ref != "" {
		v := b.attrs[a.Ref]
		if v == nil {
			return nil, nil
		}
		if v.Kind != a.Kind {
			return nil, b.fail("attribute %q of its node %s is of kind %d, and attribute %q given for it of kind %d", a.Name, n.Label(), a.Kind, a.Ref, v.Kind)
		}
		c := v.Clone()
		c.Name = a.Name
		return c, nil
	}
	if a.Graph == nil && len(a.Graphs) == 0 {
		return a.Clone(), nil
	}
	c := *a
	var err error
	if a.Graph != nil {
		if c.Graph, err = b.graph(a.Graph, names); err != nil {
			return nil, err
		}
	}
	c.Graphs = make([]*Graph, len(a.Graphs))
	for i, g := range a.Graphs {
		if c.Graphs[i], err = b.graph(g, names); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// graph copies a graph inside the body. What it makes gets new names too, for no
// value may share its name with one of an outer graph.
func (b *body) graph(g *Graph, outer map[string]string) (*Graph, error) {
	names := make(map[string]string, len(outer)+len(g.Nodes))
	for k, v := range outer {
		names[k] = v
	}
	for _, name := range define(g, map[string]bool{}) {
		delete(names, name) // graphs side by side may use the same name
	}
	c := *g
	c.Inputs = cloneAll(g.Inputs, (*Value).Clone)
	for _, v := range c.Inputs {
		v.Name = b.define(v.Name, names)
	}
	c.Initializers = cloneAll(g.Initializers, (*Initializer).Clone)
	for _, in := range c.Initializers {
		in.Name = b.define(in.Name, names)
	}
	var err error
	if c.Nodes, err = b.copy(g.Nodes, names); err != nil {
		return nil, err
	}
	c.Outputs = cloneAll(g.Outputs, (*Value).Clone)
	for _, v := range c.Outputs {
		if names[v.Name] == "" {
			return nil, b.fail("a graph inside it gives out %q, which the call leaves out", v.Name)
		}
		v.Name = names[v.Name]
	}
	// Types of values between nodes may speak of dimensions by the function's names.
	c.Values = nil
	return &c, nil
}
