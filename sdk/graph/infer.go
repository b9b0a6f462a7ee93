package graph

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/accelhq/accel/sdk/tensor"
)

// InferError says which node contradicts what flows into it.
type InferError struct {
	Node   string // label
	Reason string
}

func (e *InferError) Error() string { return "node " + e.Node + ": " + e.Reason }

// Infer finds the types of all values: it fills Graph.Values of the model's
// graph and of graphs inside it, and completes the types of outputs. Symbolic
// dimensions are followed through arithmetic on shapes, and the small integer
// tensors that shapes are computed with are known element by element, so that a
// Reshape to a computed shape is understood. A dimension that is not a sum of
// products of named ones (or a floor quotient of such) is unknown; where a node makes
// one, as NonZero does, it gets a name of its own, "?value.axis", which all that is
// computed from it shares.
//
// Where numbers contradict each other, or what the model declares, the error is
// an *InferError. Different symbols never contradict. Operators without a rule,
// and what depends on them, have unknown types unless the model declares them.
// Some liberties are taken with symbols: a slice that ends at a symbolic position
// is taken to lie inside its dimension, a symbol in the shape of a Reshape to be
// neither 0 nor -1, and a difference of sizes not to be negative. None is taken
// with numbers, so after Bind all is as it will run.
//
// The model must be valid (see Check).
func Infer(m *Model) error {
	_, err := infer(m, true, maxVisits)
	return err
}

// maxVisits bounds the nodes seen, since functions may call functions.
const maxVisits = 1 << 20

// maxData is how many elements of an integer tensor are followed.
const maxData = 1024

// maxRank bounds ranks, which a Gather of a tensor by itself would double.
const maxRank = 64

// maxFacts is about how many bytes dimensions and elements may take in all; what
// is found when they are spent is forgotten but for its element type.
const maxFacts = 256 << 20

// value is what is known of a value.
type value struct {
	kind   TypeKind // 0: nothing
	elem   tensor.DType
	ranked bool
	dims   []expr
	of     *value // element of a sequence or optional
	typ    *Type  // for kinds that no rule looks into
	data   []expr // elements of an integer or bool tensor, where they are known
	konst  *tensor.Tensor
}

type inferrer struct {
	functions map[FunctionID]*Function
	opsets    map[string]int64
	attrs     map[string]*Attr // of the function around
	strict    bool             // what is declared must agree
	exact     bool             // no liberties with symbols, and no belief in what is declared between nodes
	write     bool             // fill Graph.Values; false inside functions
	atoms     int64
	facts     int64 // bytes
	visits    int64
	budget    int64 // of visits
	depth     int   // of calls of functions
	irVersion int64
	all       map[*Graph]map[string]*value
	named     map[string]*Node // who first had a dimension of that name
}

// scope is the values in sight.
type scope struct {
	values map[string]*value
	outer  *scope
}

func (s *scope) get(name string) *value {
	for ; s != nil; s = s.outer {
		if v, ok := s.values[name]; ok {
			return v
		}
	}
	return nil
}

func infer(m *Model, strict bool, budget int64) (*inferrer, error) {
	f := newInferrer(m, budget)
	f.strict = strict
	if m.Graph == nil {
		return f, &CheckError{Where: "model", Reason: "it has no graph"}
	}
	if err := m.withinBudget(budget); err != nil {
		return f, err
	}
	_, err := f.graph(m.Graph, nil, nil)
	return f, err
}

func newInferrer(m *Model, budget int64) *inferrer {
	return &inferrer{
		functions: m.functions(), opsets: m.Opsets, write: true, budget: budget,
		irVersion: m.IRVersion, all: map[*Graph]map[string]*value{}, named: map[string]*Node{},
	}
}

// newDim is a size that nothing is known of.
func (f *inferrer) newDim() expr {
	f.atoms++
	return atom(freshDim + strconv.FormatInt(f.atoms, 36))
}

// newInt is an integer that nothing is known of.
func (f *inferrer) newInt() expr {
	f.atoms++
	return atom(freshVal + strconv.FormatInt(f.atoms, 36))
}

// newDims is a shape of which only the rank is known.
func (f *inferrer) newDims(n int) []expr {
	out := make([]expr, n)
	for i := range out {
		out[i] = f.newDim()
	}
	return out
}

// fromType reads a declared type.
func (f *inferrer) fromType(t *Type) *value {
	if t == nil {
		return &value{}
	}
	v := &value{kind: t.Kind, elem: t.Elem}
	switch t.Kind {
	case KindTensor:
		v.ranked = t.HasShape
		if t.HasShape {
			v.dims = make([]expr, len(t.Dims))
		}
		for i, d := range t.Dims {
			switch {
			case d.Param != "":
				v.dims[i] = parseExpr(d.Param)
			case d.Size >= 0:
				v.dims[i] = num(d.Size)
			default:
				v.dims[i] = f.newDim()
			}
		}
	case KindSequence, KindOptional:
		v.of = f.fromType(t.Of)
	default:
		v.typ = t
	}
	return v
}

// toType writes a type for the model; nil where nothing is known.
func (v *value) toType() *Type {
	switch {
	case v == nil || v.kind == 0:
		return nil
	case v.typ != nil:
		return v.typ.Clone()
	case v.kind != KindTensor:
		return &Type{Kind: v.kind, Of: v.of.toType()}
	}
	t := &Type{Kind: KindTensor, Elem: v.elem, HasShape: v.ranked}
	if v.ranked {
		t.Dims = make([]Dim, len(v.dims))
		for i, e := range v.dims {
			t.Dims[i] = e.dim()
		}
	}
	return t
}

// dim is the dimension that e says.
func (e expr) dim() Dim {
	if n, ok := e.value(); ok && n >= 0 {
		return Known(n)
	}
	s, ok := e.text()
	if !ok || len(e.terms) == 0 || len(s) > maxExprText {
		return Dim{Size: -1}
	}
	return Sym(s)
}

// fromTensor is a constant.
func fromTensor(t tensor.Tensor, known bool) *value {
	v := &value{kind: KindTensor, elem: t.DType, ranked: true, dims: make([]expr, len(t.Shape))}
	for i, n := range t.Shape {
		v.dims[i] = num(n)
	}
	if known {
		v.konst = &t
	}
	return v
}

// ints is the elements of a tensor of whole numbers, or nil where they are not
// known or too many. Truth values are 0 and 1.
func (v *value) ints() []expr {
	if v == nil {
		return nil
	}
	if v.data != nil || v.konst == nil || v.konst.Check() != nil || v.konst.Len() > maxData || v.konst.DType == tensor.String {
		return v.data
	}
	t := v.konst.Aligned()
	switch t.DType {
	case tensor.Int64:
		v.data = exprs(tensor.View[int64](t))
	case tensor.Int32:
		v.data = exprs(tensor.View[int32](t))
	case tensor.Uint8, tensor.Bool:
		v.data = exprs(tensor.View[uint8](t))
	case tensor.Float32:
		v.data = whole(tensor.View[float32](t))
	case tensor.Float64:
		v.data = whole(tensor.View[float64](t))
	}
	return v.data
}

// whole is the elements of a float tensor, if all are whole numbers that any
// float holds exactly: sizes pass through floats where a model scales them.
func whole[T float32 | float64](s []T) []expr {
	out := make([]expr, len(s))
	for i, x := range s {
		if x != T(math.Trunc(float64(x))) || math.Abs(float64(x)) > 1<<24 {
			return nil
		}
		out[i] = num(int64(x))
	}
	return out
}

func exprs[T int64 | int32 | uint8](s []T) []expr {
	out := make([]expr, len(s))
	for i, n := range s {
		out[i] = num(int64(n))
	}
	return out
}

// numbers is ints where all of them are numbers.
func (v *value) numbers() ([]int64, bool) {
	data := v.ints()
	if data == nil {
		return nil, false
	}
	out := make([]int64, len(data))
	for i, e := range data {
		n, ok := e.value()
		if !ok {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}

// shape is the dimensions where all of them are numbers.
func (v *value) shape() (tensor.Shape, bool) {
	if v == nil || !v.ranked {
		return nil, false
	}
	out := make(tensor.Shape, len(v.dims))
	for i, e := range v.dims {
		n, ok := e.value()
		if !ok {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}

// graph infers the values of g. args are what is known of its inputs from
// outside, for graphs inside nodes.
func (f *inferrer) graph(g *Graph, outer *scope, args []*value) (*scope, error) {
	s := &scope{values: make(map[string]*value, len(g.Inputs)+len(g.Initializers)+len(g.Nodes)), outer: outer}
	inputs := make(map[string]bool, len(g.Inputs))
	names := make([]string, 0, len(g.Inputs))
	for i, v := range g.Inputs {
		names = append(names, v.Name)
		t := f.fromType(v.Type)
		if f.exact && outer != nil {
			t = &value{}
		}
		if i < len(args) && args[i] != nil {
			var err error
			if t, err = f.merge(t, args[i]); err != nil {
				return nil, &InferError{Node: "(input " + strconv.Quote(v.Name) + ")", Reason: err.Error()}
			}
		}
		s.values[v.Name] = t
		inputs[v.Name] = true
	}
	for _, in := range g.Initializers {
		// From IR 4 on, what a caller gives an input replaces its initializer.
		if inputs[in.Name] && f.irVersion >= 4 {
			continue
		}
		s.values[in.Name] = fromTensor(in.Tensor, in.External == nil || in.Tensor.Data != nil)
	}
	f.nameDims(nil, s, names)
	declared := make(map[string]*Type, len(g.Values)+len(g.Outputs))
	for _, vs := range [][]*Value{g.Values, g.Outputs} {
		for _, v := range vs {
			if v.Type != nil && !f.exact {
				declared[v.Name] = v.Type
			}
		}
	}
	if err := f.nodes(g.Nodes, s, declared); err != nil {
		return nil, err
	}
	f.all[g] = s.values
	if f.write && !f.exact {
		f.store(g, s)
	}
	return s, nil
}

// store writes what was found into the graph.
func (f *inferrer) store(g *Graph, s *scope) {
	isOutput := make(map[string]bool, len(g.Outputs))
	for _, v := range g.Outputs {
		isOutput[v.Name] = true
		if t := s.get(v.Name).toType(); t != nil {
			v.Type = t
		}
	}
	old := make(map[string]*Value, len(g.Values))
	for _, v := range g.Values {
		old[v.Name] = v
	}
	var out []*Value
	for _, n := range g.Nodes {
		for _, name := range n.Outputs {
			if name == "" || isOutput[name] {
				continue
			}
			v := old[name]
			if t := s.values[name].toType(); t != nil {
				if v == nil {
					v = &Value{Name: name}
				}
				v.Type = t
			}
			if v != nil {
				out = append(out, v)
			}
		}
	}
	g.Values = out
}

// nodes infers nodes in order into s.
func (f *inferrer) nodes(nodes []*Node, s *scope, declared map[string]*Type) error {
	for _, n := range nodes {
		if f.visits++; f.visits > f.budget {
			return &LimitError{What: "nodes, those of functions counted at each call,", Limit: f.budget, Found: f.visits}
		}
		c := &call{f: f, n: n, s: s, opset: f.opsets[n.Domain], outs: make([]*value, len(n.Outputs))}
		c.ins = make([]*value, len(n.Inputs))
		for i, name := range n.Inputs {
			if name != "" {
				if c.ins[i] = s.get(name); c.ins[i] == nil {
					c.ins[i] = &value{}
				}
			}
		}
		if err := c.run(); err != nil {
			switch err.(type) {
			case *InferError, *LimitError:
				return err // from a graph or function inside
			}
			return &InferError{Node: n.Label(), Reason: err.Error()}
		}
		for i, name := range n.Outputs {
			if name == "" {
				continue
			}
			v := c.outs[i]
			if v == nil {
				v = &value{}
			}
			if len(v.dims) > maxRank {
				return &InferError{Node: n.Label(), Reason: fmt.Sprintf("output %q has rank %d, more than %d", name, len(v.dims), maxRank)}
			}
			if f.facts += v.weight(); f.facts > maxFacts {
				v = &value{kind: v.kind, elem: v.elem, typ: v.typ}
			}
			if t := declared[name]; t != nil {
				merged, err := f.merge(v, f.fromType(t))
				switch {
				case err == nil:
					v = merged
				case f.strict:
					return &InferError{Node: n.Label(), Reason: fmt.Sprintf("output %q: inferred and declared types differ: %v", name, err)}
				}
			}
			s.values[name] = v
		}
		f.nameDims(n, s, n.Outputs)
	}
	return nil
}

// nameDims names the sizes that nothing is known of and that a node is the first
// to have, after the value and the axis: "?value.axis". So what is computed from
// them is known to have the same sizes. Values of functions, and of loops that are
// still being widened, are met with other sizes each time and get no names; of
// values that are called alike the first has the name.
func (f *inferrer) nameDims(n *Node, s *scope, names []string) {
	if !f.write {
		return
	}
	var to map[string]string
	for _, name := range names {
		v := s.values[name]
		if name == "" || v == nil {
			continue
		}
		cloned := false
		for i, d := range v.dims {
			a := d.nameless()
			if a == "" {
				continue
			}
			if to[a] == "" {
				named := namedDim(name, i)
				if owner, taken := f.named[named]; taken && owner != n || len(named) > maxExprText/4 {
					continue
				}
				if to == nil {
					to = map[string]string{}
				}
				f.named[named], to[a] = n, named
			}
			if !cloned {
				c := *v
				c.dims, cloned = slices.Clone(v.dims), true
				v, s.values[name] = &c, &c
			}
			v.dims[i] = atom(to[a])
		}
	}
}

// run applies the operator's rule, or the body of a function.
func (c *call) run() error {
	id := c.n.ID()
	if rule := rules[id]; rule != nil {
		return rule(c)
	}
	fn := c.f.functions[id]
	if fn == nil {
		return nil
	}
	f := c.f
	if f.depth++; f.depth > maxCallDepth {
		return &LimitError{What: "functions calling each other", Limit: maxCallDepth, Found: int64(f.depth)}
	}
	defer func() { f.depth-- }()
	attrs := maps.Clone(f.attrs)
	inner := map[string]*Attr{}
	for _, a := range fn.Defaults {
		inner[a.Name] = a
	}
	for _, a := range c.n.Attrs {
		if a = f.resolve(a); a != nil {
			inner[a.Name] = a
		}
	}
	opsets, write := f.opsets, f.write
	f.attrs, f.opsets, f.write = inner, fn.Opsets, false
	defer func() { f.attrs, f.opsets, f.write = attrs, opsets, write }()
	s := &scope{values: make(map[string]*value, len(fn.Nodes)+len(fn.Inputs))}
	for i, name := range fn.Inputs {
		if v := c.in(i); v != nil {
			s.values[name] = v
		}
	}
	if err := f.nodes(fn.Nodes, s, nil); err != nil {
		if _, ok := err.(*LimitError); ok {
			return err
		}
		return fmt.Errorf("in function %s: %w", fn.ID(), err)
	}
	for i, name := range fn.Outputs {
		c.out(i, s.get(name))
	}
	return nil
}

// resolve is what an attribute stands for; nil where it refers to none.
func (f *inferrer) resolve(a *Attr) *Attr {
	if a == nil || a.Ref == "" {
		return a
	}
	v := f.attrs[a.Ref]
	if v == nil || v.Kind != a.Kind {
		return nil
	}
	if v.Name == a.Name {
		return v
	}
	c := *v
	c.Name = a.Name
	return &c
}

// weight is about how many bytes are held to describe v.
func (v *value) weight() int64 {
	n := int64(64)
	for _, es := range [][]expr{v.dims, v.data} {
		for _, e := range es {
			n += 32
			for _, t := range e.terms {
				n += 24 + int64(len(t.atoms))
			}
		}
	}
	return n
}

// merge joins two descriptions of one value; the first one's symbols win.
func (f *inferrer) merge(a, b *value) (*value, error) {
	if a == nil || a.kind == 0 {
		return b, nil
	}
	if b == nil || b.kind == 0 {
		return a, nil
	}
	if a.kind != b.kind {
		return nil, fmt.Errorf("type kind %d against %d", a.kind, b.kind)
	}
	out := *a
	if a.kind != KindTensor {
		if a.of != nil && b.of != nil {
			var err error
			out.of, err = f.merge(a.of, b.of)
			return &out, err
		}
		return &out, nil
	}
	switch {
	case a.elem == tensor.Undefined:
		out.elem = b.elem
	case b.elem != tensor.Undefined && a.elem != b.elem:
		return nil, fmt.Errorf("element type %s against %s", a.elem, b.elem)
	}
	if out.data == nil {
		out.data = b.data
	}
	if out.konst == nil {
		out.konst = b.konst
	}
	if !b.ranked {
		return &out, nil
	}
	if !a.ranked {
		out.ranked, out.dims = true, b.dims
		return &out, nil
	}
	if len(a.dims) != len(b.dims) {
		return nil, fmt.Errorf("shape %s against %s", dimsText(a.dims), dimsText(b.dims))
	}
	out.dims = slices.Clone(a.dims)
	for i, d := range a.dims {
		e := b.dims[i]
		_, dn := d.value()
		_, en := e.value()
		switch {
		case dn && en && !d.eq(e):
			return nil, fmt.Errorf("shape %s against %s", dimsText(a.dims), dimsText(b.dims))
		case !dn && (en || d.fresh()):
			out.dims[i] = e
		}
	}
	return &out, nil
}

// join is what holds of a value that is either a or b.
func (f *inferrer) join(a, b *value) *value {
	if a == nil || b == nil || a.kind == 0 || a.kind != b.kind || a.elem != b.elem {
		return &value{}
	}
	if a.kind != KindTensor {
		return &value{kind: a.kind, elem: a.elem, typ: a.typ, of: f.join(a.of, b.of)}
	}
	out := &value{kind: KindTensor, elem: a.elem}
	if a.ranked && b.ranked && len(a.dims) == len(b.dims) {
		out.ranked = true
		out.dims = make([]expr, len(a.dims))
		for i := range a.dims {
			if out.dims[i] = a.dims[i]; !a.dims[i].eq(b.dims[i]) {
				out.dims[i] = f.newDim()
			}
		}
	}
	return out
}

func dimsText(dims []expr) string {
	s := "["
	for i, d := range dims {
		if i > 0 {
			s += ","
		}
		if d.fresh() {
			s += "?"
		} else {
			s += d.String()
		}
	}
	return s + "]"
}

// Types gathers what g declares: types of inputs, initializers, values between
// nodes and outputs. After Infer that is every value whose type is known.
func (g *Graph) Types() map[string]*Type {
	out := make(map[string]*Type, len(g.Values)+len(g.Initializers)+len(g.Inputs))
	for _, in := range g.Initializers {
		t := &Type{Kind: KindTensor, Elem: in.Tensor.DType, HasShape: true, Dims: make([]Dim, len(in.Tensor.Shape))}
		for i, n := range in.Tensor.Shape {
			t.Dims[i] = Known(n)
		}
		out[in.Name] = t
	}
	for _, vs := range [][]*Value{g.Inputs, g.Values, g.Outputs} {
		for _, v := range vs {
			if v.Type != nil {
				out[v.Name] = v.Type
			}
		}
	}
	return out
}
