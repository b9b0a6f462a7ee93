package lower

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Simplification is what one pass did to a graph, in numbers.
type Simplification struct {
	Pass  string `json:"pass"`
	Count int    `json:"count"` // of nodes, unless What says otherwise
	What  string `json:"what"`
}

func (s Simplification) String() string { return fmt.Sprintf("%s %d %s", s.Pass, s.Count, s.What) }

// pass changes one graph and counts what it changed.
type pass struct {
	name, what string
	run        func(*simplifier) (int, error)
	moves      bool // nodes from one graph into another
}

// passes in the order in which they run; all of them again until none finds anything.
var passes = []pass{
	{"inlined", "branches whose condition is constant", inlineIfs, true},
	{"folded", "nodes of known values", foldConstants, false},
	{"removed", "nodes that change nothing", removeNoOps, false},
	{"merged", "casts that another follows", mergeCasts, false},
	{"merged", "transposes that meet another", mergeTransposes, false},
	{"folded", "batch normalizations into convolutions", foldBatchNorms, false},
	{"merged", "nodes that compute the same", mergeEqual, false},
}

// maxSimplifyRounds bounds how often all passes run.
const maxSimplifyRounds = 8

// Simplify makes a graph smaller: it computes what is constant, and removes what
// nothing needs and what changes nothing. The same passes run on every graph,
// whichever the device. What the graph computes stays the same bit for bit, save
// where a pass says otherwise; so do its inputs, outputs, their types, the names of
// nodes that stay, and what is refused when it runs. Weights that lie in files stay
// there.
//
// The passes rely on graph.FindFacts alone: what a model claims about the values
// between its nodes is not believed. Types are inferred anew at the end. Errors are
// those of inference, or the context's.
func Simplify(ctx context.Context, m *graph.Model) ([]Simplification, error) {
	w := &simplification{m: m, counts: make([]int, len(passes)), budget: maxFoldedBytes}
	original := m.Clone()
	defer original.Close()
	w.prune()
	for range maxSimplifyRounds {
		changed, err := w.round(ctx)
		if err != nil {
			return nil, err
		}
		if !changed {
			break
		}
	}
	if err := graph.Infer(m); err != nil {
		// What is known now contradicts what the model claims between its nodes.
		m.Graph, m.Functions = original.Graph, original.Functions
		return nil, graph.Infer(m)
	}
	var out []Simplification
	say := func(name string, count int, what string) {
		if count > 0 {
			out = append(out, Simplification{name, count, what})
		}
	}
	for i, p := range passes {
		say(p.name, w.counts[i], p.what)
	}
	say("removed", w.dead[0], "nodes that nothing needed")
	say("removed", w.dead[1], "constants that nothing needed")
	say("removed", w.dead[2], "functions that nothing calls")
	return out, nil
}

// simplification is the work on one model.
type simplification struct {
	m      *graph.Model
	counts []int  // by pass
	dead   [3]int // nodes, constants, functions
	budget int64  // bytes that folding may still add
}

// prune removes and counts what nothing needs.
func (w *simplification) prune() {
	was := modelSize(w.m)
	w.m.Prune()
	for i, n := range modelSize(w.m) {
		w.dead[i] += was[i] - n
	}
}

// round runs every pass once. A pass that brings a contradiction to light, as an
// index outside its dimension, is taken back and ends the work: the node that it
// lies in is refused when it is run, if it is run at all.
func (w *simplification) round(ctx context.Context) (changed bool, err error) {
	var facts map[*graph.Graph]graph.Facts
	var undo func()
	for i, p := range passes {
		if facts == nil {
			if facts, err = graph.FindFacts(w.m); err != nil {
				if undo == nil {
					return false, err
				}
				undo()
				return false, nil
			}
		}
		good, count := w.m.Clone(), w.counts[i]
		again := undo
		undo = func() {
			w.m.Graph, w.m.Functions, w.counts[i] = good.Graph, good.Functions, count
		}
		touched := false
		for _, s := range simplifiers(ctx, w.m, facts, &w.budget) {
			n, err := p.run(s)
			if err != nil {
				good.Close()
				return false, err
			}
			w.counts[i] += n
			touched = touched || n > 0
			if n > 0 && p.moves {
				break // the graphs that moved into this one are no longer what they were
			}
		}
		good.Close() // what it points to stays: the model itself holds the files
		if touched {
			changed, facts = true, nil
		} else {
			undo = again
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
	}
	if facts == nil {
		if _, err := graph.FindFacts(w.m); err != nil {
			undo()
			return false, nil
		}
	}
	w.prune()
	return changed, nil
}

// modelSize counts nodes, initializers and functions.
func modelSize(m *graph.Model) [3]int {
	n := [3]int{2: len(m.Functions)}
	for g := range m.Graphs() {
		n[0] += len(g.Nodes)
		n[1] += len(g.Initializers)
	}
	return n
}

// simplifier is one graph of a model as the passes see it.
type simplifier struct {
	ctx    context.Context
	m      *graph.Model
	g      *graph.Graph
	outer  *simplifier
	ix     *graph.Index
	types  map[string]*graph.Type   // of the values of g; see typeOf
	consts map[string]tensor.Tensor // see constOf
	known  map[string]tensor.Tensor // integers that nodes of g make, known by inference
	own    map[string]*graph.Initializer
	names  map[string]int // of all values of the model: how many graphs make one called so
	budget *int64         // bytes that folding may still add
}

// simplifiers are the model's graphs, outer before inner.
func simplifiers(ctx context.Context, m *graph.Model, facts map[*graph.Graph]graph.Facts, budget *int64) []*simplifier {
	names := map[string]int{}
	var out []*simplifier
	var visit func(g *graph.Graph, outer *simplifier)
	visit = func(g *graph.Graph, outer *simplifier) {
		for _, v := range g.Inputs {
			names[v.Name]++
		}
		for _, in := range g.Initializers {
			names[in.Name]++
		}
		for _, n := range g.Nodes {
			for _, o := range n.Outputs {
				names[o]++
			}
		}
		s := outer
		// A branch that is never taken was not looked at.
		if f, ok := facts[g]; ok {
			s = &simplifier{ctx: ctx, m: m, g: g, outer: outer, ix: graph.NewIndex(g), types: f.Types, consts: g.Constants(),
				known: f.Constants, own: map[string]*graph.Initializer{}, names: names, budget: budget}
			for _, in := range g.Initializers {
				s.own[in.Name] = in
			}
			out = append(out, s)
		}
		for _, n := range g.Nodes {
			for sub := range n.Graphs() {
				visit(sub, s)
			}
		}
	}
	visit(m.Graph, nil)
	return out
}

// typeOf is the type of a value in sight, nil where it is not known.
func (s *simplifier) typeOf(name string) *graph.Type {
	for ; s != nil; s = s.outer {
		if t, ok := s.types[name]; ok {
			return t
		}
	}
	return nil
}

// constOf is the value of a constant in sight.
func (s *simplifier) constOf(name string) (tensor.Tensor, bool) {
	for ; s != nil; s = s.outer {
		if t, ok := s.consts[name]; ok {
			return t, true
		}
		if t, ok := s.known[name]; ok {
			return t, true
		}
	}
	return tensor.Tensor{}, false
}

// fresh claims a name that nothing has.
func (s *simplifier) fresh(name string) string {
	free := name
	for i := 1; s.names[free] > 0; i++ {
		free = name + "_" + strconv.Itoa(i)
	}
	s.names[free]++
	return free
}

// dims are the sizes of a value; false where one is not a number, or not known.
func (s *simplifier) dims(name string) ([]int64, bool) {
	t := s.typeOf(name)
	if t == nil || t.Kind != graph.KindTensor || !t.HasShape {
		return nil, false
	}
	out := make([]int64, len(t.Dims))
	for i, d := range t.Dims {
		if out[i] = d.Size; d.Param != "" || d.Size < 0 {
			return nil, false
		}
	}
	return out, true
}

// shape is what is known of the sizes of a value: its rank at least.
func (s *simplifier) shape(name string) ([]graph.Dim, bool) {
	t := s.typeOf(name)
	if t == nil || t.Kind != graph.KindTensor || !t.HasShape {
		return nil, false
	}
	return t.Dims, true
}

func (s *simplifier) elem(name string) tensor.DType {
	if t := s.typeOf(name); t != nil && t.Kind == graph.KindTensor {
		return t.Elem
	}
	return tensor.Undefined
}

// ints are the elements of a constant integer tensor.
func (s *simplifier) ints(name string) ([]int64, bool) {
	t, ok := s.constOf(name)
	if !ok || t.Check() != nil || len(t.Shape) > 1 {
		return nil, false
	}
	out := make([]int64, t.Len())
	for i := range out {
		switch t.DType {
		case tensor.Int64:
			out[i] = int64(binary.LittleEndian.Uint64(t.Data[8*i:]))
		case tensor.Int32:
			out[i] = int64(int32(binary.LittleEndian.Uint32(t.Data[4*i:])))
		default:
			return nil, false
		}
	}
	return out, true
}

// list is an attribute of older operator sets, or the constant input i that took
// its place; given is false where the node has neither.
func (s *simplifier) list(n *graph.Node, attr string, i int) (v []int64, given, known bool) {
	if a := n.Attr(attr); a != nil {
		return a.Ints, true, a.Kind == graph.AttrInts
	}
	if input(n, i) == "" {
		return nil, false, true
	}
	v, known = s.ints(n.Inputs[i])
	return v, true, known
}

// only reports whether the value is read once, by a node of this graph itself, and
// is no output.
func (s *simplifier) only(name string) bool {
	u := s.ix.Uses(name)
	return len(u) == 1 && u[0].Input >= 0 && !s.ix.IsOutput(name)
}

// standard reports whether the node is of one of the standard operators.
func standard(n *graph.Node, ops ...string) bool {
	return n != nil && n.Domain == graph.DomainONNX && slices.Contains(ops, n.OpType)
}

// bypass removes nodes whose outputs are other values by another name: of is what
// each stands for. A node whose output the graph gives out stays, unless what it
// stands for can take that name. It returns how many nodes went.
func (s *simplifier) bypass(of map[*graph.Node]string) int {
	if len(of) == 0 {
		return 0
	}
	redirect := map[string]string{}
	renamed := map[string]string{} // value -> the output's name that its maker shall use
	gone := map[*graph.Node]bool{}
	for _, n := range s.g.Nodes {
		source, ok := of[n]
		if !ok {
			continue
		}
		for to, more := redirect[source]; more; to, more = redirect[source] {
			source = to
		}
		out := n.Outputs[0]
		if s.ix.IsOutput(out) {
			maker := s.ix.Producer(source)
			if maker == nil || gone[maker] || s.ix.IsOutput(source) || renamed[source] != "" || !sameType(s.typeOf(source), s.typeOf(out)) {
				continue
			}
			renamed[source] = out
		}
		redirect[out] = source
		gone[n] = true
	}
	s.g.Nodes = slices.DeleteFunc(s.g.Nodes, func(n *graph.Node) bool { return gone[n] })
	s.g.Redirect(redirect)
	s.rename(renamed)
	return len(gone)
}

// sameType reports whether a value of type b can stand where one of type a is
// declared.
func sameType(a, b *graph.Type) bool {
	return a == nil || b == nil || a.Kind == b.Kind && (a.Kind != graph.KindTensor || a.Elem == b.Elem)
}

// rename gives values of the graph the names of outputs whose makers are gone.
func (s *simplifier) rename(to map[string]string) {
	if len(to) == 0 {
		return
	}
	for _, n := range s.g.Nodes {
		for i, o := range n.Outputs {
			if name, ok := to[o]; ok {
				n.Outputs[i] = name
			}
		}
	}
	s.g.Redirect(to)
	s.g.Values = slices.DeleteFunc(s.g.Values, func(v *graph.Value) bool { return to[v.Name] != "" })
}

// forget drops what is declared and known of values whose type changes.
func (s *simplifier) forget(names ...string) {
	for _, name := range names {
		s.types[name] = nil
	}
	s.g.Values = slices.DeleteFunc(s.g.Values, func(v *graph.Value) bool { return slices.Contains(names, v.Name) })
}

// constant adds a constant to the graph: an initializer, or where those would have
// to be inputs as well (before IR version 4) a node.
func (s *simplifier) constant(name string, t tensor.Tensor) {
	s.consts[name] = t
	if s.m.IRVersion >= 4 {
		s.g.Initializers = append(s.g.Initializers, &graph.Initializer{Name: name, Tensor: t})
		return
	}
	n := &graph.Node{Name: name, OpType: "Constant", Outputs: []string{name}, Attrs: []*graph.Attr{graph.TensorAttr("value", t)}}
	s.g.Nodes = slices.Insert(s.g.Nodes, 0, n)
}
