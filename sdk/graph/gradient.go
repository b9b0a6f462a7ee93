package graph

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/accelhq/accel/sdk/tensor"
)

// Gradient (ai.onnx.preview.training, version 1) differentiates the graph around
// it: attribute y names a value, xs and zs the values that it is made of. What the
// graph would make of the node's inputs, were they in the place of xs and zs, is
// differentiated by each of xs. No other operator reads values by attributes, and a
// device that is asked about one node cannot compute it.
func (n *Node) isGradient() bool { return n.Domain == DomainTraining && n.OpType == "Gradient" }

// Bounds of writing out gradients.
const (
	gradientOpset = 12 // the standard operators that Gradient came with
	maxRounds     = 64 // in which gradients of gradients are, and functions that they lead through
	maxWalked     = 1 << 24
	maxMadeName   = 256 // bytes
)

// DerivativeError says which node keeps a Gradient node from being written out as
// plain nodes.
type DerivativeError struct {
	Gradient string // label of the Gradient node
	Node     string // name of the node that is in the way, or of its first output where it has none
	Domain   string
	OpType   string
	Opset    int64
	Reason   string
}

func (e *DerivativeError) Error() string {
	op := FunctionID{Domain: e.Domain, Name: e.OpType}
	return fmt.Sprintf("node %s: the derivative of node %q (%s, opset %d) is needed: %s", e.Gradient, e.Node, op, e.Opset, e.Reason)
}

// ExpandGradients puts plain nodes, which compute the derivatives backward from y to
// xs, in the place of the model's Gradient nodes, those of other gradients included,
// and says in the place of how many. The new nodes are of standard operators in the
// model's own operator set, which must be 12 or newer; they read what the nodes
// between xs and y have computed, and repeat these only for a node whose inputs are
// other values than it names. Functions that hold a Gradient, or that a derivative
// leads through, are inlined.
//
// At a kink, as where the input of Relu or Abs is 0, a derivative is 0. Integers, truth
// values and texts carry none.
//
// Errors: *DerivativeError for an operator without a derivative here, or one whose
// derivative needs an element type or a rank that is not known; *CheckError for a
// node that contradicts itself or the graph, as where y depends on an input that is
// neither in xs nor in zs; *LimitError for more nodes than a model may have; those of
// Inline and FindFacts. On error the model is unchanged. In any case its graph and
// functions are replaced, not written to.
func ExpandGradients(m *Model) (int, error) {
	return expandGradientsWithin(m, Limits{}.orDefaults().Nodes)
}

func expandGradientsWithin(m *Model, limit int64) (int, error) {
	if m.Graph == nil || !m.hasGradient() {
		return 0, nil
	}
	if err := m.Check(); err != nil {
		return 0, err
	}
	c := m.Clone()
	x := &gradients{m: c, limit: limit}
	if err := x.expand(); err != nil {
		return 0, discard(c, err)
	}
	if !c.uses(DomainTraining) {
		delete(c.Opsets, DomainTraining)
	}
	m.Graph, m.Functions, m.Opsets = c.Graph, c.Functions, c.Opsets
	return x.count, discard(c, nil)
}

func (m *Model) hasGradient() bool {
	for _, n := range m.AllNodes() {
		if n.isGradient() {
			return true
		}
	}
	return slices.ContainsFunc(m.Functions, func(f *Function) bool { return holdsGradient(f.Nodes) })
}

func holdsGradient(nodes []*Node) bool {
	found := false
	visitNodes(&Graph{Nodes: nodes}, func(_ *Graph, n *Node) bool {
		found = n.isGradient()
		return !found
	})
	return found
}

// gradients is the work on one model, done in rounds: each writes out the gradients
// that need no other.
type gradients struct {
	m     *Model
	limit int64 // of nodes made

	functions map[FunctionID]*Function
	facts     map[*Graph]Facts
	used      map[string]bool // names of values
	names     map[string]int  // how many values got a name that begins so
	constants map[string]bool // initializers and what Constant nodes make, in all graphs
	calls     map[FunctionID]bool

	count  int
	made   int64 // nodes
	walked int64 // values between gradients and what they are taken by
}

func (x *gradients) expand() error {
	if err := x.inline(x.holding()); err != nil {
		return err
	}
	x.names = map[string]int{}
	for range maxRounds {
		left, err := x.round()
		switch {
		case err != nil:
			return err
		case len(x.calls) > 0:
			if err := x.inline(x.calls); err != nil {
				return err
			}
		case !left:
			return nil
		}
	}
	return &LimitError{What: "gradients of gradients, one of the other,", Limit: maxRounds, Found: maxRounds + 1}
}

// holding are the functions that hold a Gradient, or call one that does.
func (x *gradients) holding() map[FunctionID]bool {
	out := map[FunctionID]bool{}
	for more := true; more; {
		more = false
		for _, f := range x.m.Functions {
			visitNodes(&Graph{Nodes: f.Nodes}, func(_ *Graph, n *Node) bool {
				if !out[f.ID()] && (n.isGradient() || out[n.ID()]) {
					out[f.ID()], more = true, true
				}
				return !out[f.ID()]
			})
		}
	}
	return out
}

func (x *gradients) inline(which map[FunctionID]bool) error {
	if len(which) == 0 {
		return nil
	}
	return Inline(x.m, func(id FunctionID) bool { return !which[id] })
}

func (x *gradients) round() (left bool, err error) {
	if x.facts, err = FindFacts(x.m); err != nil {
		return false, err
	}
	x.functions, x.calls = x.m.functions(), map[FunctionID]bool{}
	x.used, x.constants = map[string]bool{}, map[string]bool{}
	for g := range x.m.Graphs() {
		define(g, x.used)
		for _, in := range g.Initializers {
			x.constants[in.Name] = true
		}
		for _, n := range g.Nodes {
			if n.Domain == DomainONNX && n.OpType == "Constant" && len(n.Outputs) == 1 {
				x.constants[n.Outputs[0]] = true
			}
		}
	}
	if x.m.IRVersion >= 4 { // what a caller gives replaces the initializer
		for _, v := range x.m.Graph.Inputs {
			delete(x.constants, v.Name)
		}
	}
	return x.graph(x.m.Graph, nil)
}

// graph writes out the gradients of one graph and of those inside it; left says that
// some have to wait.
func (x *gradients) graph(g *Graph, outer func(string) *Type) (left bool, err error) {
	s := &surroundings{g: g, nodes: g.Nodes, makers: map[string]int{}, captures: map[int][]string{}}
	s.types = func(name string) *Type {
		t, ok := x.facts[g].Types[name]
		if !ok && outer != nil {
			return outer(name)
		}
		return t
	}
	for i, n := range g.Nodes {
		for _, o := range n.Outputs {
			s.makers[o] = i
		}
	}
	delete(s.makers, "")
	nodes := make([]*Node, 0, len(g.Nodes))
	for i, n := range g.Nodes {
		for sub := range n.Graphs() {
			l, err := x.graph(sub, s.types)
			if err != nil {
				return false, err
			}
			left = left || l
		}
		made := []*Node{n}
		if n.isGradient() {
			if made, err = x.node(s, i); err != nil {
				return false, err
			}
			left = left || slices.ContainsFunc(made, (*Node).isGradient)
		}
		nodes = append(nodes, made...)
	}
	g.Nodes = nodes
	return left, nil
}

// surroundings are what a Gradient node finds around it.
type surroundings struct {
	g        *Graph
	nodes    []*Node // of g, before any was replaced
	makers   map[string]int
	captures map[int][]string
	types    func(name string) *Type
}

// reads are all values that a node reads, by its inputs and by graphs inside it.
func (s *surroundings) reads(i int) []string {
	n := s.nodes[i]
	captured, ok := s.captures[i]
	if !ok {
		captured = n.Captures()
		s.captures[i] = captured
	}
	if len(captured) == 0 {
		return n.Inputs
	}
	return slices.Concat(n.Inputs, captured)
}

// node is what takes the place of a Gradient node; the node itself if it has to wait
// for others.
func (x *gradients) node(s *surroundings, at int) ([]*Node, error) {
	n := s.nodes[at]
	fail := func(format string, args ...any) error {
		return &CheckError{Where: "graph " + strconv.Quote(s.g.Name), Node: n.Label(), Reason: fmt.Sprintf(format, args...)}
	}
	if v := x.m.Opsets[DomainONNX]; v < gradientOpset {
		return nil, fail("it needs version %d or newer of the standard operators, the model imports %d: convert the model", gradientOpset, v)
	}
	d := &differentiation{surroundings: s, x: x, node: n, at: at, y: n.AttrString("y", "")}
	if a := n.Attr("xs"); a != nil {
		d.xs = a.Strings
	}
	d.given = slices.Clone(d.xs)
	if a := n.Attr("zs"); a != nil {
		d.given = append(d.given, a.Strings...)
	}
	if d.y == "" || len(d.xs) == 0 || len(n.Inputs) != len(d.given) || len(n.Outputs) > len(d.xs) {
		return nil, fail("%d inputs and %d outputs do not fit its attributes y %q and %d names in xs, %d in zs",
			len(n.Inputs), len(n.Outputs), d.y, len(d.xs), len(d.given)-len(d.xs))
	}
	d.cut = make(map[string]bool, len(d.given))
	for i, name := range d.given {
		if name == "" || n.Inputs[i] == "" || d.cut[name] {
			return nil, fail("%q is named twice among xs and zs, or without a value", name)
		}
		d.cut[name] = true
	}
	if waits, err := d.walk(fail); err != nil || waits {
		return []*Node{n}, err
	}
	var out []*Node
	var err error
	if slices.Equal(n.Inputs, d.given) {
		out, err = d.write(fail)
	} else {
		out = d.repeat()
	}
	if x.made += int64(len(out)); x.made > x.limit {
		return nil, &LimitError{What: "nodes that gradients are written out as", Limit: x.limit, Found: x.made}
	}
	return out, err
}

// differentiation is the work on one Gradient node.
type differentiation struct {
	*surroundings
	x     *gradients
	node  *Node
	at    int
	y     string
	xs    []string
	given []string // xs and zs
	cut   map[string]bool
	path  []int // the nodes that make y of the given values, in order
}

// walk finds the nodes between. It waits where one of them is a Gradient.
func (d *differentiation) walk(fail func(string, ...any) error) (waits bool, err error) {
	seen := map[string]bool{}
	taken := map[int]bool{}
	for todo := []string{d.y}; len(todo) > 0; {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if name == "" || d.cut[name] || seen[name] {
			continue
		}
		seen[name] = true
		i, ok := d.makers[name]
		switch {
		case !ok && d.x.constants[name]:
			continue
		case !ok || i >= d.at:
			if name == d.y {
				return false, fail("value %q, which is to be differentiated, is made by no node before it and is named neither in xs nor in zs", name)
			}
			return false, fail("value %q depends on %q, which is no constant and is named neither in xs nor in zs", d.y, name)
		case taken[i]:
			continue
		case d.nodes[i].isGradient():
			return true, nil
		}
		taken[i] = true
		reads := d.reads(i)
		todo = append(todo, reads...)
		if d.x.walked += 1 + int64(len(reads)); d.x.walked > maxWalked {
			return false, &LimitError{What: "values between gradients and what they are taken by", Limit: maxWalked, Found: d.x.walked}
		}
	}
	d.path = slices.Sorted(maps.Keys(taken))
	return false, nil
}

// fresh claims a name that no value has.
func (d *differentiation) fresh(of string) string {
	base := d.node.Name
	for _, o := range d.node.Outputs {
		if base == "" {
			base = o
		}
	}
	if base += "/" + of; len(base) > maxMadeName { // there may be many
		base = "gradient"
	}
	for {
		name := base
		if k := d.x.names[base]; k > 0 {
			name += "_" + strconv.Itoa(k)
		}
		d.x.names[base]++
		if !d.x.used[name] {
			d.x.used[name] = true
			return name
		}
	}
}

// repeat writes the nodes between once more, for other values in the place of the
// given ones, and a Gradient of those that names just what it reads.
func (d *differentiation) repeat() []*Node {
	var out []*Node
	names := map[string]string{}
	again := d.node.Clone()
	for i, name := range d.given {
		if d.node.Inputs[i] == name {
			continue
		}
		// A name of its own, for two may be given the same value.
		names[name] = d.fresh(name)
		out = append(out, &Node{OpType: "Identity", Inputs: []string{d.node.Inputs[i]}, Outputs: []string{names[name]}})
		again.Inputs[i] = names[name]
	}
	for _, i := range d.path {
		if !slices.ContainsFunc(d.reads(i), func(in string) bool { return names[in] != "" }) {
			continue
		}
		n := d.nodes[i].Clone()
		outputs := n.Outputs
		n.Outputs = nil
		rename([]*Node{n}, names)
		for _, o := range outputs {
			to := ""
			if o != "" {
				to = d.fresh(o)
				if !d.cut[o] {
					names[o] = to
				}
			}
			n.Outputs = append(n.Outputs, to)
		}
		if n.Name != "" {
			n.Name = d.fresh(n.Name)
		}
		out = append(out, n)
	}
	again.renameReferences(names)
	return append(out, again)
}

// renameReferences renames what a Gradient node names in its attributes.
func (n *Node) renameReferences(names map[string]string) {
	if !n.isGradient() {
		return
	}
	for _, a := range n.Attrs {
		if to, ok := names[a.String]; ok {
			a.String = to
		}
		a.Strings = slices.Clone(a.Strings)
		for i, s := range a.Strings {
			if to, ok := names[s]; ok {
				a.Strings[i] = to
			}
		}
	}
}

// write makes the derivatives of y by xs, from y back.
func (d *differentiation) write(fail func(string, ...any) error) ([]*Node, error) {
	for _, name := range append([]string{d.y}, d.xs...) {
		if t := d.types(name); t != nil && (t.Kind != KindTensor || t.Elem != tensor.Undefined && !t.Elem.IsFloat()) {
			return nil, fail("%q is no tensor of floating-point numbers (kind %d, element type %s): it has no derivative", name, t.Kind, t.Elem)
		}
	}
	depends := map[string]bool{}
	for _, name := range d.xs {
		depends[name] = true
	}
	for _, i := range d.path {
		if !slices.ContainsFunc(d.reads(i), func(in string) bool { return depends[in] }) {
			continue
		}
		for _, o := range d.nodes[i].Outputs {
			depends[o] = depends[o] || o != "" && d.carries(o)
		}
	}
	b := &backward{d: d, opset: d.x.m.Opsets[DomainONNX]}
	of := map[string]string{}
	if depends[d.y] {
		b.of = d.node
		of[d.y] = b.filled(1, d.y)
	}
	for _, i := range slices.Backward(d.path) {
		n := d.nodes[i]
		var dy []string // by output
		for _, o := range n.Outputs {
			if d.cut[o] {
				o = "" // given, whatever made it
			}
			dy = append(dy, of[o])
		}
		if !slices.ContainsFunc(dy, func(s string) bool { return s != "" }) ||
			!slices.ContainsFunc(d.reads(i), func(in string) bool { return depends[in] }) {
			continue
		}
		if d.x.functions[n.ID()] != nil {
			d.x.calls[n.ID()] = true
			return []*Node{d.node}, nil
		}
		dx := b.node(n, dy, depends)
		if b.err != nil {
			return nil, b.err
		}
		for k, in := range n.Inputs {
			switch {
			case dx[k] == "":
			case of[in] == "":
				of[in] = dx[k]
			default:
				of[in] = b.call("Add", of[in], dx[k])
			}
		}
		if made := d.x.made + int64(len(b.nodes)); made > d.x.limit {
			return nil, &LimitError{What: "nodes that gradients are written out as", Limit: d.x.limit, Found: made}
		}
	}
	b.of = d.node
	for i, out := range d.node.Outputs {
		if out == "" {
			continue
		}
		x := d.xs[i]
		if of[x] == "" { // y does not depend on it
			of[x] = b.filled(0, x)
		}
		b.nodes = append(b.nodes, &Node{Name: d.fresh("Identity"), OpType: "Identity", Inputs: []string{of[x]}, Outputs: []string{out}})
	}
	d.x.count++
	return b.nodes, b.err
}

// carries reports whether a value may pass a derivative on.
func (d *differentiation) carries(name string) bool {
	t := d.types(name)
	if t == nil || t.Kind != KindTensor {
		return true
	}
	return !t.Elem.IsInt() && t.Elem != tensor.Bool && t.Elem != tensor.String
}
