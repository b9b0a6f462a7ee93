package main

import (
	"fmt"
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// A plan is a graph at fixed shapes, ready to run: units in order, each a native
// operation or a stretch of reference operators, over memory laid out once.
//
// Buffers are numbered: 0 is none, 1 the arena, then the graph's inputs, its
// outputs, and one for each constant that native operations read.
type plan struct {
	steps   []step
	arena   int64 // bytes
	buffers []kernels.Buffer
	inputs  []boundary
	outputs []boundary
	nodes   []placedNode
	frame   frame
	heap    map[string]graph.Datum // constants that are no dense tensors and outputs
	keep    []any                  // owns what buffers point to
}

// boundary is a graph input or output.
type boundary struct {
	name   string
	index  int // in the executable's inputs or outputs
	dtype  tensor.DType
	shape  tensor.Shape // nil: known only once it is computed, or no dense tensor
	bound  tensor.Shape // of an input's tensor, that the plan was made for; -1: of any size
	free   []int        // dimensions of an input that the plan does not depend on
	bytes  int64
	buffer uint32
	// of an output: the input, as the executable counts them, that it is an update of
	// in its very memory where both are bound to one buffer; -1: none. Its shape is the input's.
	updates int
}

// placedNode says how a node runs, for people.
type placedNode struct {
	Label  string
	OpType string
	Native bool
}

const arenaBuffer = 1

// memoryAlign is the alignment of values in the arena: a cache line, and the
// widest vector there is.
const memoryAlign = 64

// unit is what one native operation, or one reference operator, computes. It has no nodes where
// it prepares what several others read.
type unit struct {
	nodes  []*graph.Node
	reads  []string
	writes []string
	// emit adds the native operation; nil: the node is the reference operators'.
	emit func(*planner, *kernels.Program) error
	// view: the unit's output is its input's memory in another shape.
	view bool
}

func (u *unit) label() string {
	if len(u.nodes) == 0 {
		return u.writes[0]
	}
	return u.nodes[len(u.nodes)-1].Label()
}

// planner turns a bound graph into a plan.
type planner struct {
	model     *graph.Model // shapes fixed
	constants map[string]*graph.Initializer
	types     map[string]*graph.Type
	index     *graph.Index
	position  map[*graph.Node]int
	weights   *packedWeights
	runner    *kernels.Runner

	units   []*unit
	done    map[*graph.Node]bool          // taken by a unit
	rounded map[string]*unit              // value in 8 bits -> what makes it, until somebody reads it
	pieces  map[*graph.Node][]*graph.Node // of the model, that a node stands for
	refs    map[string]kernels.Ref
	heap    map[string]bool // values of the reference operators whose size is not known
	plan    *plan
	opened  map[string]uint32 // constant -> buffer

	aliases map[string]string // output that updates an input in place -> the input
	free    map[string][]int  // dimensions of an input that the plan does not depend on

	pagedOnly map[string]bool // inputs that paged nodes alone read, as far as it was asked
}

// newPlanner begins to plan model, a bound graph.
func newPlanner(model *graph.Model, runner *kernels.Runner, weights *packedWeights) *planner {
	p := &planner{
		model: model, runner: runner, weights: weights,
		constants: map[string]*graph.Initializer{}, types: model.Graph.Types(),
		index: graph.NewIndex(model.Graph), position: map[*graph.Node]int{}, pieces: map[*graph.Node][]*graph.Node{},
		done: map[*graph.Node]bool{}, rounded: map[string]*unit{}, refs: map[string]kernels.Ref{}, heap: map[string]bool{},
		plan:   &plan{buffers: make([]kernels.Buffer, arenaBuffer+1), heap: map[string]graph.Datum{}},
		opened: map[string]uint32{}, aliases: map[string]string{}, free: map[string][]int{}, pagedOnly: map[string]bool{},
	}
	for _, in := range model.Graph.Initializers {
		p.constants[in.Name] = in
	}
	for i, n := range model.Graph.Nodes {
		p.position[n] = i
		if t, ok := n.Constant(); ok {
			p.constants[n.Outputs[0]] = &graph.Initializer{Name: n.Outputs[0], Tensor: t}
			p.done[n] = true
		}
	}
	return p
}

// newPlan plans model, a bound graph whose outputs are the wanted ones. outputs
// gives their indexes in the executable.
func newPlan(model *graph.Model, inputs, outputs map[string]int, runner *kernels.Runner, weights *packedWeights) (*plan, error) {
	p := newPlanner(model, runner, weights)
	for _, v := range model.Graph.Inputs {
		if p.constants[v.Name] == nil {
			b := p.boundary(v, inputs[v.Name])
			p.heap[v.Name] = b.shape == nil
			p.plan.inputs = append(p.plan.inputs, b)
		}
	}
	for _, v := range model.Graph.Outputs {
		b := p.boundary(v, outputs[v.Name])
		if c := p.constants[v.Name]; c != nil && b.shape == nil {
			p.heap[v.Name], p.plan.heap[v.Name] = true, graph.TensorDatum(c.Tensor)
		}
		p.plan.outputs = append(p.plan.outputs, b)
	}
	p.fuse()
	for i := range p.plan.outputs {
		if in, ok := p.aliases[p.plan.outputs[i].name]; ok {
			p.plan.outputs[i].updates = inputs[in]
		}
	}
	for i := range p.plan.inputs {
		p.plan.inputs[i].free = p.free[p.plan.inputs[i].name]
	}
	p.layOut()
	if err := p.emit(); err != nil {
		return nil, err
	}
	return p.plan, nil
}

func (p *planner) boundary(v *graph.Value, index int) boundary {
	b := boundary{name: v.Name, index: index, buffer: uint32(len(p.plan.buffers)), updates: -1}
	p.plan.buffers = append(p.plan.buffers, kernels.Buffer{})
	if shape, ok := p.shape(v.Name); ok {
		b.dtype, b.shape = p.types[v.Name].Elem, shape
		b.bytes, _ = tensor.ByteSize(b.dtype, shape)
	}
	return b
}

// shape is the fixed shape of a value, if it is one dense tensor of known size.
func (p *planner) shape(name string) (tensor.Shape, bool) {
	if c := p.constants[name]; c != nil {
		return c.Tensor.Shape, c.Tensor.DType != tensor.String
	}
	t := p.types[name]
	if t == nil || t.Kind != graph.KindTensor || !t.HasShape || t.Elem == tensor.String || t.Elem == tensor.Undefined {
		return nil, false
	}
	s := make(tensor.Shape, len(t.Dims))
	for i, d := range t.Dims {
		if d.Size < 0 {
			return nil, false
		}
		s[i] = d.Size
	}
	return s, true
}

func (p *planner) dtype(name string) tensor.DType {
	if c := p.constants[name]; c != nil {
		return c.Tensor.DType
	}
	if t := p.types[name]; t != nil {
		return t.Elem
	}
	return tensor.Undefined
}

// elements is the number of elements of a value of known shape.
func (p *planner) elements(name string) int64 {
	s, _ := p.shape(name)
	n, _ := s.Elements()
	return n
}

// fixed reports whether all values have known shapes.
func (p *planner) fixed(names []string) bool {
	for _, n := range names {
		if n == "" {
			continue
		}
		if _, ok := p.shape(n); !ok {
			return false
		}
	}
	return true
}

// layOut gives every value of known size its place: views that of their input,
// others a stretch of the arena for as long as somebody still reads them.
func (p *planner) layOut() {
	root := map[string]string{} // view -> what it views
	find := func(name string) string {
		for root[name] != "" {
			name = root[name]
		}
		return name
	}
	outputs := map[string]bool{}
	for _, o := range p.plan.outputs {
		outputs[o.name] = true
	}
	inputs := map[string]bool{}
	for _, in := range p.plan.inputs {
		inputs[in.name] = true
	}
	for _, u := range p.units {
		if !u.view {
			continue
		}
		// A graph's output has memory of its own: a view that is one is copied.
		if outputs[u.writes[0]] || p.heap[find(u.reads[0])] {
			u.view = false
			continue
		}
		root[u.writes[0]] = u.reads[0]
	}
	type span struct {
		name        string
		size        int64
		first, last int
		offset      int64
	}
	spans := map[string]*span{}
	var order []*span
	for i, u := range p.units {
		for _, name := range u.reads {
			if s := spans[find(name)]; s != nil {
				s.last = i
			}
		}
		for _, name := range u.writes {
			if name == "" || root[name] != "" || outputs[name] || p.heap[name] {
				continue
			}
			n, _ := tensor.ByteSize(p.dtype(name), mustShape(p, name))
			s := &span{name: name, size: (n + memoryAlign - 1) / memoryAlign * memoryAlign, first: i, last: i}
			spans[name] = s
			order = append(order, s)
		}
	}
	// Largest first, each at the lowest offset that no overlapping span has.
	slices.SortStableFunc(order, func(a, b *span) int { return int(min(max(b.size-a.size, -1), 1)) })
	var laid []*span
	for _, s := range order {
		var busy []*span
		for _, o := range laid {
			if o.first <= s.last && s.first <= o.last {
				busy = append(busy, o)
			}
		}
		slices.SortFunc(busy, func(a, b *span) int { return int(min(max(a.offset-b.offset, -1), 1)) })
		for _, o := range busy {
			if s.offset+s.size <= o.offset {
				break
			}
			s.offset = max(s.offset, o.offset+o.size)
		}
		laid = append(laid, s)
		p.plan.arena = max(p.plan.arena, s.offset+s.size)
		p.refs[s.name] = kernels.Ref{Buffer: arenaBuffer, Offset: s.offset}
	}
	for _, b := range p.plan.inputs {
		p.refs[b.name] = kernels.Ref{Buffer: b.buffer}
	}
	for _, b := range p.plan.outputs {
		if !inputs[b.name] && p.constants[b.name] == nil {
			p.refs[b.name] = kernels.Ref{Buffer: b.buffer}
		}
	}
	for view := range root {
		// Constants and inputs have their places already, or get them when opened.
		if r, ok := p.refs[find(view)]; ok {
			p.refs[view] = r
		} else if p.constants[find(view)] != nil {
			p.refs[view] = p.ref(find(view))
		}
	}
}

func mustShape(p *planner, name string) tensor.Shape {
	s, ok := p.shape(name)
	if !ok {
		panic("cpu: " + name + " has no fixed shape")
	}
	return s
}

// ref is where a value lies; a constant is opened as a buffer of its own.
func (p *planner) ref(name string) kernels.Ref {
	if name == "" {
		return kernels.Ref{}
	}
	if r, ok := p.refs[name]; ok {
		return r
	}
	c := p.constants[name]
	if c == nil {
		panic("cpu: nothing places " + name)
	}
	r := kernels.Ref{Buffer: p.open(name, c.Tensor.Aligned())}
	p.refs[name] = r
	return r
}

// open makes a buffer of constant data.
func (p *planner) open(name string, t tensor.Tensor) uint32 {
	if b, ok := p.opened[name]; ok {
		return b
	}
	b := uint32(len(p.plan.buffers))
	p.plan.buffers = append(p.plan.buffers, kernels.BufferOf(t.Data))
	p.plan.keep = append(p.plan.keep, t.Data)
	p.opened[name] = b
	return b
}

// emit turns units into steps: neighbouring native units into one program,
// neighbouring reference nodes into one small model.
func (p *planner) emit() error {
	var native *nativeStep
	var loose []*unit
	flush := func() error {
		if len(loose) == 0 {
			return nil
		}
		s, err := p.referenceStep(loose)
		if err != nil {
			return err
		}
		p.plan.steps = append(p.plan.steps, s)
		loose = nil
		return nil
	}
	for _, u := range p.units {
		isNative := u.emit != nil
		for _, n := range u.nodes {
			for _, o := range p.origins(n) {
				p.plan.nodes = append(p.plan.nodes, placedNode{Label: o.Label(), OpType: o.OpType, Native: isNative})
			}
		}
		if !isNative {
			native = nil
			loose = append(loose, u)
			continue
		}
		// A view is memory that the reference nodes before it fill when they end.
		if err := flush(); err != nil {
			return err
		}
		if u.view {
			continue
		}
		if native == nil {
			native = &nativeStep{program: &kernels.Program{}}
			p.plan.steps = append(p.plan.steps, native)
		}
		if err := u.emit(p, native.program); err != nil {
			return fmt.Errorf("node %s: %w", u.label(), err)
		}
		for len(native.labels) < native.program.Len() {
			native.labels = append(native.labels, u.label())
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return p.passThrough()
}

// passThrough copies graph outputs that are inputs or constants.
func (p *planner) passThrough() error {
	for _, o := range p.plan.outputs {
		produced := p.index.Producer(o.name) != nil && p.constants[o.name] == nil
		if produced || p.heap[o.name] || o.bytes == 0 {
			continue
		}
		s := &nativeStep{program: &kernels.Program{}, labels: []string{o.name}}
		s.program.Add(copyBytes(p.ref(o.name), kernels.Ref{Buffer: o.buffer}, o.bytes))
		p.plan.steps = append(p.plan.steps, s)
	}
	return nil
}

// copyBytes copies dense memory.
func copyBytes(src, dst kernels.Ref, bytes int64) *kernels.Copy {
	c := &kernels.Copy{Src: src, Dst: dst, Rank: 1, ElemBytes: 1}
	c.Dims[0], c.SrcStride[0], c.DstStride[0] = bytes, 1, 1
	return c
}
