package reference

import (
	"context"
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Options change how a Program runs. The zero value is the usual.
type Options struct {
	// MaxBytes bounds the memory that one Run holds beside its inputs and the
	// model's weights; 0 means DefaultMaxBytes.
	MaxBytes int64
	// MaxTrips bounds the rounds of all loops (Loop, Scan, SequenceMap) of one Run; 0
	// means DefaultMaxTrips.
	MaxTrips int64
	// Seed makes the random numbers of operators without a seed of their own the
	// same in every Run; 0 stands for others each time.
	Seed uint64
	// RoundLate rounds a float32 sum of products (MatMul, Gemm, Conv, ConvTranspose)
	// after the bias, residual or scale that alone reads it, as backends that fuse
	// such nodes do. Results are nearer the truth, but depend on how nodes stand
	// together: without it each node's result is rounded, whatever reads it.
	RoundLate bool
}

// Program is a model that is ready to run. It may be run by several goroutines
// at once.
type Program struct {
	model *graph.Model
	plan  *plan
	opts  Options
}

// New checks a model and prepares it. The model must not be changed or closed
// while the program is in use; its weights are used where they are.
//
// Errors: *graph.CheckError (joined) where the model breaks ONNX's rules,
// *UnsupportedError with all nodes whose operator, version, attributes or, as
// far as declared, element types are not known, and those of graph.ExpandGradients.
func New(m *graph.Model, opts Options) (*Program, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	plain := *m
	if _, err := graph.ExpandGradients(&plain); err != nil {
		return nil, err
	}
	m = &plain
	pl := newPlanner(m.Functions)
	if err := pl.checkSize(m.Graph.Nodes); err != nil {
		return nil, err
	}
	s, err := pl.graph(m.Graph, nil, m.Opsets)
	if err != nil {
		return nil, err
	}
	if len(pl.refused) > 0 {
		return nil, &UnsupportedError{Nodes: pl.refused}
	}
	return &Program{model: m, plan: s.plan, opts: opts}, nil
}

// Run computes values of a model of tensors; see RunValues.
func (p *Program) Run(ctx context.Context, inputs map[string]tensor.Tensor, wanted []string) (map[string]tensor.Tensor, error) {
	in := make(map[string]graph.Datum, len(inputs))
	for name, t := range inputs {
		in[name] = graph.Datum{Kind: graph.KindTensor, Tensor: t}
	}
	values, err := p.RunValues(ctx, in, wanted)
	if err != nil {
		return nil, err
	}
	out := make(map[string]tensor.Tensor, len(values))
	for name, v := range values {
		if v.Kind != graph.KindTensor {
			return nil, fmt.Errorf("output %q is no tensor but %s: use RunValues", name, describe(v))
		}
		out[name] = v.Tensor
	}
	return out, nil
}

// RunValues computes the wanted values of the main graph, all outputs if wanted
// is nil. Only nodes that they need are run. Inputs that have an initializer may
// be left out. Results may share memory with inputs, weights and each other.
//
// Errors: *InputError, *NodeError (which wraps *MemoryError or *graph.LimitError where a limit was
// reached), or the context's.
func (p *Program) RunValues(ctx context.Context, inputs map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
	return p.RunInPlace(ctx, inputs, wanted, nil)
}

// RunInPlace is RunValues with inputs that the run may write to: pools of
// PagedAttention and PagedWrite are updated where they lie, rather than in a copy,
// where nothing else reads the input.
func (p *Program) RunInPlace(ctx context.Context, inputs map[string]graph.Datum, wanted, writable []string) (map[string]graph.Datum, error) {
	given, err := p.bind(inputs)
	if err != nil {
		return nil, err
	}
	if wanted == nil {
		for _, v := range p.model.Graph.Outputs {
			wanted = append(wanted, v.Name)
		}
	}
	slots := make([]int, len(wanted))
	for i, name := range wanted {
		slot, ok := p.plan.names[name]
		if !ok {
			return nil, fmt.Errorf("value %q is wanted, the graph has none of that name", name)
		}
		slots[i] = slot
	}
	r := &run{ctx: ctx, mem: newMeter(p.opts.MaxBytes), trips: newTrips(p.opts.MaxTrips), random: generators{seed: p.opts.Seed}, late: p.opts.RoundLate}
	for _, name := range writable {
		if t := inputs[name].Tensor; len(t.Data) > 0 && !slices.Contains(wanted, name) && p.readers(name) == 1 {
			r.writable = append(r.writable, &t.Data[0])
		}
	}
	values, err := r.exec(p.plan, p.plan.schedule(slots), slots, given, nil)
	if err != nil {
		return nil, err
	}
	out := make(map[string]graph.Datum, len(wanted))
	for i, name := range wanted {
		out[name] = values[i]
	}
	return out, nil
}

// readers counts how often nodes of the main graph read a value.
func (p *Program) readers(name string) int {
	count := 0
	for _, n := range p.model.Graph.Nodes {
		for _, in := range slices.Concat(n.Inputs, n.Captures()) {
			if in == name {
				count++
			}
		}
	}
	return count
}

// bind puts the inputs into the graph's order and checks them against their
// declared types. A symbolic dimension has one size in all inputs.
func (p *Program) bind(inputs map[string]graph.Datum) ([]graph.Datum, error) {
	g := p.model.Graph
	known := make(map[string]bool, len(g.Inputs))
	dims := map[string]int64{}
	given := make([]graph.Datum, len(g.Inputs))
	defaults := map[int]bool{}
	for _, c := range p.plan.consts {
		defaults[c.slot] = true
	}
	for i, in := range g.Inputs {
		known[in.Name] = true
		v, ok := inputs[in.Name]
		switch {
		case ok:
			if why := mismatch(v, in.Type, dims); why != "" {
				return nil, &InputError{Input: in.Name, Reason: why}
			}
			given[i] = v
		case !defaults[p.plan.inputs[i]]:
			return nil, &InputError{Input: in.Name, Reason: "it is missing"}
		}
	}
	for name := range inputs {
		if !known[name] {
			return nil, &InputError{Input: name, Reason: "the model has no input of that name"}
		}
	}
	return given, nil
}

// mismatch says why a value is not of the declared type, or nothing.
func mismatch(v graph.Datum, t *graph.Type, dims map[string]int64) string {
	if t == nil {
		return ""
	}
	if v.Kind != t.Kind {
		return fmt.Sprintf("it is %s, the model declares a %s", describe(v), kindName(t.Kind))
	}
	if v.Kind != graph.KindTensor {
		return ""
	}
	got := v.Tensor
	if err := got.Check(); err != nil {
		return err.Error()
	}
	if t.Elem != tensor.Undefined && got.DType != t.Elem {
		return fmt.Sprintf("it is of type %s, the model declares %s", got.DType, t.Elem)
	}
	if !t.HasShape {
		return ""
	}
	if len(got.Shape) != len(t.Dims) {
		return fmt.Sprintf("it has shape %v, the model declares rank %d", got.Shape, len(t.Dims))
	}
	for i, d := range t.Dims {
		size := got.Shape[i]
		switch {
		case d.Param != "":
			if old, ok := dims[d.Param]; ok && old != size {
				return fmt.Sprintf("it has shape %v, dimension %d (%s) is %d in another place", got.Shape, i, d.Param, old)
			}
			dims[d.Param] = size
		case d.Size >= 0 && d.Size != size:
			return fmt.Sprintf("it has shape %v, the model declares %d for dimension %d", got.Shape, d.Size, i)
		}
	}
	return ""
}

// run is one execution of a program.
type run struct {
	ctx    context.Context
	mem    *meter
	trips  trips
	random generators
	// writable are where the inputs begin that operators may write to.
	writable []*byte
	late     bool // as Options.RoundLate
	// free finds values that no graph defines, where a node is evaluated alone.
	free func(name string) (graph.Datum, bool)
}

// frame holds the values of a plan while it runs.
type frame struct {
	plan   *plan
	values []graph.Datum
	links  []bool // slots that may hold float64 for float32; nil: none
	wide   []bool // slots that do
}

// exec runs a plan. The wanted values are returned retained: the caller releases
// them.
func (r *run) exec(p *plan, s *schedule, wanted []int, inputs []graph.Datum, outer *frame) ([]graph.Datum, error) {
	f := &frame{plan: p, values: make([]graph.Datum, len(p.names)), wide: make([]bool, len(p.names))}
	if r.late {
		f.links = s.links
	}
	set := func(slot int, v graph.Datum) {
		r.mem.retain(v)
		f.values[slot] = v
	}
	drop := func(slot int) {
		r.mem.release(f.values[slot])
		f.values[slot] = graph.Datum{}
	}
	defer func() {
		for slot := range f.values {
			drop(slot)
		}
	}()
	for _, c := range p.consts {
		set(c.slot, c.value)
	}
	for i, slot := range p.inputs {
		if i < len(inputs) && inputs[i].Kind != 0 {
			set(slot, inputs[i])
		}
	}
	for _, c := range p.captures {
		switch {
		case c.outer >= 0:
			set(c.slot, outer.values[c.outer])
		default:
			v, ok := r.free(c.name)
			if !ok {
				return nil, fmt.Errorf("value %q is not defined", c.name)
			}
			set(c.slot, v)
		}
	}
	for i, st := range s.steps {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		mark := len(r.mem.fresh)
		out, held, err := r.step(st, f)
		if err != nil {
			return nil, err
		}
		for j, slot := range st.out {
			if slot >= 0 {
				set(slot, out[j])
			}
		}
		for _, v := range held {
			r.mem.release(v)
		}
		for _, slot := range s.free[i] {
			drop(slot)
		}
		r.mem.sweep(mark)
	}
	out := make([]graph.Datum, len(wanted))
	for i, slot := range wanted {
		out[i] = f.values[slot]
		r.mem.retain(out[i])
	}
	return out, nil
}

// step computes a node. What is held is retained, and released by the caller once
// the outputs are in their slots.
func (r *run) step(st *step, f *frame) (out, held []graph.Datum, err error) {
	in := make([]graph.Datum, len(st.in))
	for i, slot := range st.in {
		if slot >= 0 {
			in[i] = f.values[slot]
		}
	}
	if st.body != nil {
		out, err = r.function(st, in)
		return out, out, err
	}
	c := &call{ctx: r.ctx, op: st.op, node: st.node, in: in, out: make([]graph.Datum, len(st.node.Outputs)),
		mem: r.mem, run: r, frame: f, step: st, wide: f.widening(st)}
	err = c.eval()
	if c.wide.done {
		f.wide[st.out[0]] = true
	}
	return c.out, c.held, err
}

// function runs a function's body; outputs that the caller leaves out stay empty.
func (r *run) function(st *step, in []graph.Datum) ([]graph.Datum, error) {
	var wanted []int
	for i, name := range st.node.Outputs {
		if name != "" {
			wanted = append(wanted, st.body.outputs[i])
		}
	}
	got, err := r.exec(st.body, st.body.full, wanted, in, nil)
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", st.node.Label(), err)
	}
	out := make([]graph.Datum, len(st.node.Outputs))
	for i, name := range st.node.Outputs {
		if name != "" {
			out[i], got = got[0], got[1:]
		}
	}
	return out, nil
}

// subgraph runs a graph among the node's attributes. The results are retained:
// drop them, or hold them until the outputs of the call are in place.
func (c *call) subgraph(attr string, inputs []graph.Datum) ([]graph.Datum, error) {
	sub := c.step.subs[attr]
	if len(inputs) != len(sub.inputs) {
		return nil, fmt.Errorf("graph %q takes %d inputs, it is given %d", attr, len(sub.inputs), len(inputs))
	}
	return c.run.exec(sub, sub.full, sub.outputs, inputs, c.frame)
}

func (c *call) drop(values ...graph.Datum) {
	for _, v := range values {
		c.mem.release(v)
	}
}

func (c *call) hold(values ...graph.Datum) { c.held = append(c.held, values...) }

// Env is what surrounds a node that is evaluated alone. The zero value is enough
// for nodes without graphs inside.
type Env struct {
	Opsets    map[string]int64 // for graphs inside the node
	Functions []*graph.Function
	// Outer finds the values that graphs inside the node take from around it.
	Outer    func(name string) (graph.Datum, bool)
	MaxBytes int64  // as in Options
	MaxTrips int64  // as in Options
	Seed     uint64 // as in Options
}

// Eval computes one node of this operator. inputs stand in the node's order, of
// Kind 0 where left out; so do the results. Results may share memory with inputs.
// Errors are as of Program.RunValues and New.
func (o *Operator) Eval(ctx context.Context, node *graph.Node, inputs []graph.Datum, env Env) ([]graph.Datum, error) {
	if cause, why := o.check(node, nil); why != "" {
		return nil, &UnsupportedError{Nodes: []UnsupportedNode{{
			Name: nodeName(node), Domain: o.Domain, OpType: o.Name, Opset: o.Version, Cause: cause, Reason: why}}}
	}
	for i, v := range inputs {
		if v.Kind == graph.KindTensor {
			if err := v.Tensor.Check(); err != nil {
				return nil, &InputError{Input: fmt.Sprintf("%d", i), Reason: err.Error()}
			}
		}
	}
	pl := newPlanner(env.Functions)
	if err := pl.checkSize([]*graph.Node{node}); err != nil {
		return nil, err
	}
	s := newScope(nil, env.Opsets)
	if env.Outer != nil {
		s.free = func(name string) bool { _, ok := env.Outer(name); return ok }
	}
	// The node's own inputs come by position: names that repeat or are empty do
	// not matter here.
	st := &step{node: node, op: o}
	if why := o.arity(node.Inputs, node.Outputs); why != "" {
		return nil, &graph.CheckError{Where: "graph", Node: node.Label(), Reason: why}
	}
	for _, a := range node.Attrs {
		if a.Kind != graph.AttrGraph {
			continue
		}
		sub, err := pl.graph(a.Graph, s, env.Opsets)
		if err != nil {
			return nil, err
		}
		if st.subs == nil {
			st.subs = map[string]*plan{}
		}
		st.subs[a.Name] = sub.plan
	}
	if len(pl.refused) > 0 {
		return nil, &UnsupportedError{Nodes: pl.refused}
	}
	r := &run{ctx: ctx, mem: newMeter(env.MaxBytes), trips: newTrips(env.MaxTrips), random: generators{seed: env.Seed}, free: env.Outer}
	f := &frame{plan: s.plan, values: make([]graph.Datum, len(s.names))}
	for _, c := range s.captures {
		f.values[c.slot], _ = env.Outer(c.name)
	}
	for len(inputs) < len(node.Inputs) {
		inputs = append(inputs[:len(inputs):len(inputs)], graph.Datum{})
	}
	c := &call{ctx: ctx, op: o, node: node, in: inputs, out: make([]graph.Datum, len(node.Outputs)),
		mem: r.mem, run: r, frame: f, step: st}
	if err := c.eval(); err != nil {
		return nil, err
	}
	return c.out, nil
}
