package main

import (
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// fuse divides the nodes into units. Patterns of several nodes are tried from the
// largest to the smallest at the node that begins them; a unit stands where its
// last node stood, so that all it reads is there by then.
func (p *planner) fuse() {
	p.simplify()
	at, of := map[*graph.Node]*unit{}, map[*graph.Node]*unit{}
	claim := func(u *unit) {
		for _, n := range u.nodes {
			p.done[n] = true
			of[n] = u
		}
		at[u.nodes[len(u.nodes)-1]] = u
	}
	patterns := []func(*graph.Node) *unit{p.paged, p.embedding, p.attentionPattern, p.linear, p.blocksLinear, p.gatherBlocks, p.convolution, p.normalization}
	for _, match := range patterns {
		for _, n := range p.model.Graph.Nodes {
			if p.done[n] {
				continue
			}
			if u := match(n); u != nil {
				claim(u)
			}
		}
	}
	// What products have read the origin of, and nobody else reads, is part of the first of them.
	for _, n := range p.model.Graph.Nodes {
		if is(n, "Cast") && !p.done[n] && p.seenThrough(n.Outputs[0], of) {
			first := of[p.index.Uses(n.Outputs[0])[0].Node]
			first.nodes = append([]*graph.Node{n}, first.nodes...)
			p.done[n] = true
		}
	}
	// Elementwise chains are found from their last node backwards.
	for _, n := range slices.Backward(p.model.Graph.Nodes) {
		if p.done[n] {
			continue
		}
		if u := p.elementwise(n); u != nil {
			claim(u)
		}
	}
	for _, n := range p.model.Graph.Nodes {
		if !p.done[n] {
			claim(p.single(n))
		}
	}
	for _, n := range p.model.Graph.Nodes {
		u := at[n]
		if u == nil {
			continue // taken in by a later node's unit, or a constant
		}
		for _, name := range u.reads {
			if first := p.rounded[name]; first != nil {
				p.units = append(p.units, first)
				delete(p.rounded, name)
			}
		}
		if u.emit == nil {
			for _, w := range u.writes {
				if w != "" && !p.fixed([]string{w}) {
					p.heap[w] = true
				}
			}
		}
		p.units = append(p.units, u)
	}
}

// seenThrough reports whether all nodes that read a value are of units that do not.
func (p *planner) seenThrough(value string, of map[*graph.Node]*unit) bool {
	uses := p.index.Uses(value)
	return len(uses) > 0 && !p.index.IsOutput(value) && !slices.ContainsFunc(uses, func(use graph.Use) bool {
		return use.Node == nil || of[use.Node] == nil || slices.Contains(of[use.Node].reads, value)
	})
}

// single is the unit of one node: native if there is a kernel for this use of it.
func (p *planner) single(n *graph.Node) *unit {
	u := &unit{nodes: []*graph.Node{n}, reads: append(slices.Clone(n.Inputs), n.Captures()...), writes: n.Outputs}
	u.reads = slices.DeleteFunc(u.reads, func(s string) bool { return s == "" })
	make := natives[n.OpType]
	if n.Domain != graph.DomainONNX || make == nil || !p.fixed(u.reads) || !p.fixed(u.writes) || hasEmpty(p, u) {
		return u
	}
	make(p, n, u)
	return u
}

// hasEmpty reports whether a value has no elements: the reference operators know
// what that means for each.
func hasEmpty(p *planner, u *unit) bool {
	for _, name := range append(slices.Clone(u.reads), u.writes...) {
		if name != "" && p.elements(name) == 0 {
			return true
		}
	}
	return false
}

// next is the only node that reads a value, if there is just one, it reads it
// once, and the value is no output.
func (p *planner) next(value string) *graph.Node {
	if p.index.IsOutput(value) {
		return nil
	}
	uses := p.index.Uses(value)
	if len(uses) != 1 || p.done[uses[0].Node] {
		return nil
	}
	return uses[0].Node
}

func is(n *graph.Node, op string) bool {
	return n != nil && n.Domain == graph.DomainONNX && n.OpType == op
}

// other is the input of a two-input node that is not name.
func other(n *graph.Node, name string) string {
	if n.Inputs[0] == name {
		return n.Inputs[1]
	}
	return n.Inputs[0]
}

// weight is a constant that a linear multiplies by: seen through a transposition
// and a widening cast.
type weight struct {
	name       string // of the constant
	init       *graph.Initializer
	transposed bool // stored [out,in]
	nodes      []*graph.Node
}

func (p *planner) weight(name string) (weight, bool) {
	var w weight
	for {
		if c := p.constants[name]; c != nil {
			w.name, w.init = name, c
			return w, len(c.Tensor.Shape) == 2 && (c.Tensor.DType == tensor.Float32 || c.Tensor.DType == tensor.Float16 || c.Tensor.DType == tensor.BFloat16)
		}
		n := p.index.Producer(name)
		switch {
		case is(n, "Transpose") && slices.Equal(n.AttrInts("perm"), []int64{1, 0}):
			w.transposed = !w.transposed
		case is(n, "Cast") && n.AttrInt("to", 0) == int64(tensor.Float32):
		default:
			return w, false
		}
		w.nodes = append(w.nodes, n)
		name = n.Inputs[0]
	}
}

// linear: MatMul or Gemm by a constant, with what follows it: a bias, an
// activation, a residual.
func (p *planner) linear(n *graph.Node) *unit {
	if !is(n, "MatMul") && !is(n, "Gemm") {
		return nil
	}
	x := n.Inputs[0]
	w, ok := p.weight(n.Inputs[1])
	xs, known := p.shape(x)
	if !ok || !known || len(xs) < 2 || p.dtype(x) != tensor.Float32 {
		return nil
	}
	g := kernels.Gemm{Alpha: 1, Format: formats[w.init.Tensor.DType], AType: uint32(tensor.Float32)}
	var bias string
	if is(n, "Gemm") {
		if n.AttrInt("transA", 0) != 0 || n.AttrFloat("beta", 1) != 1 {
			return nil
		}
		if n.AttrInt("transB", 0) != 0 {
			w.transposed = !w.transposed
		}
		g.Alpha = n.AttrFloat("alpha", 1)
		if len(n.Inputs) > 2 {
			bias = n.Inputs[2]
		}
	}
	rows, cols := w.init.Tensor.Shape[0], w.init.Tensor.Shape[1]
	g.N, g.K = cols, rows
	if w.transposed {
		g.N, g.K = rows, cols
	}
	if xs[len(xs)-1] != g.K || p.elements(x) == 0 || g.N == 0 {
		return nil
	}
	g.M = p.elements(x) / g.K
	if bias != "" && !p.isBias(bias, g.N) {
		return nil
	}
	if half := p.widenedFrom(x, tensor.BFloat16); half != "" && g.Format == kernels.PackBF16 {
		x, g.AType = half, uint32(tensor.BFloat16)
	}
	u := &unit{nodes: []*graph.Node{n}, reads: []string{x}}
	after := p.epilogue(u, n.Outputs[0], bias, g.N, g.Alpha == 1)
	g.Activation = after.activation
	// The weight's own nodes are taken too, unless somebody else reads them.
	var own []*graph.Node
	for _, wn := range w.nodes {
		if len(p.index.Uses(wn.Outputs[0])) == 1 && !p.index.IsOutput(wn.Outputs[0]) {
			own = append(own, wn)
		}
	}
	u.nodes = append(own, u.nodes...)
	u.emit = func(p *planner, prog *kernels.Program) error {
		b, err := p.weights.get(w, g.N, g.K)
		if err != nil {
			return err
		}
		op := g
		op.A, op.B, op.C = p.ref(x), kernels.Ref{Buffer: p.open(w.key(), b)}, p.ref(after.out)
		op.Bias, op.Residual = p.ref(after.bias), p.ref(after.residual)
		op.LDA, op.LDC, op.LDR = g.K, g.N, g.N
		prog.Add(&op)
		return nil
	}
	return u
}

// widenedFrom is the value of that type that an f32 is a Cast of; "" where it is none.
func (p *planner) widenedFrom(x string, from tensor.DType) string {
	n := p.index.Producer(x)
	if !is(n, "Cast") || p.dtype(n.Inputs[0]) != from || !p.fixed(n.Inputs) {
		return ""
	}
	return n.Inputs[0]
}

// formats are how weights are packed, by their type.
var formats = map[tensor.DType]kernels.Format{tensor.Float32: kernels.PackF32, tensor.Float16: kernels.PackF16, tensor.BFloat16: kernels.PackBF16}

// epilogue is what a linear does with its sums.
type epilogue struct {
	bias       string
	activation kernels.Activation
	residual   string
	out        string
}

// epilogue takes into u, a linear of n columns that gives y, what follows it: a bias,
// unless it has one or is scaled, an activation and a residual.
func (p *planner) epilogue(u *unit, y, bias string, n int64, unscaled bool) epilogue {
	e := epilogue{bias: bias}
	if bias == "" && unscaled {
		if add := p.next(y); is(add, "Add") && p.isBias(other(add, y), n) && p.sameShape(add.Outputs[0], y) {
			e.bias = other(add, y)
			u.nodes = append(u.nodes, add)
			y = add.Outputs[0]
		}
	}
	if act := p.next(y); act != nil {
		if a, ok := activation(act); ok {
			e.activation = a
			u.nodes = append(u.nodes, act)
			y = act.Outputs[0]
		}
	}
	if add := p.next(y); is(add, "Add") && p.sameShape(other(add, y), y) && p.sameShape(add.Outputs[0], y) &&
		p.dtype(other(add, y)) == tensor.Float32 && !p.feedsNormalization(add) {
		e.residual = other(add, y)
		u.nodes = append(u.nodes, add)
		u.reads = append(u.reads, e.residual)
		y = add.Outputs[0]
	}
	if e.bias != "" && p.constants[e.bias] == nil {
		u.reads = append(u.reads, e.bias)
	}
	e.out = y
	u.writes = []string{y}
	return e
}

// feedsNormalization reports whether the sum is read by a normalisation that
// takes it in itself, which then need not be written out first.
func (p *planner) feedsNormalization(add *graph.Node) bool {
	n := p.next(add.Outputs[0])
	return is(n, "LayerNormalization") || is(n, "RMSNormalization")
}

func (p *planner) isBias(name string, n int64) bool {
	s, ok := p.shape(name)
	return ok && p.dtype(name) == tensor.Float32 && len(s) >= 1 && s[len(s)-1] == n && p.elements(name) == n
}

func (p *planner) sameShape(a, b string) bool {
	s, ok := p.shape(a)
	t, ok2 := p.shape(b)
	return ok && ok2 && s.Equal(t)
}

func activation(n *graph.Node) (kernels.Activation, bool) {
	if n.Domain != graph.DomainONNX {
		return 0, false
	}
	switch n.OpType {
	case "Relu":
		return kernels.ActRelu, true
	case "Tanh":
		return kernels.ActTanh, true
	case "Sigmoid":
		return kernels.ActSigmoid, true
	case "Gelu":
		if n.AttrString("approximate", "none") == "tanh" {
			return kernels.ActGeluTanh, true
		}
		return kernels.ActGeluErf, true
	case "Swish":
		return kernels.ActSilu, n.AttrFloat("alpha", 1) == 1
	}
	return 0, false
}

// normalization: LayerNormalization or RMSNormalization over the last dimensions,
// with the sum before it.
func (p *planner) normalization(n *graph.Node) *unit {
	kind := kernels.NormLayer
	switch {
	case is(n, "LayerNormalization"):
	case is(n, "RMSNormalization"):
		kind = kernels.NormRMS
	default:
		return nil
	}
	x := n.Inputs[0]
	shape, ok := p.shape(x)
	if !ok || p.dtype(x) != tensor.Float32 || len(shape) == 0 || p.elements(x) == 0 || n.AttrInt("stash_type", 1) != 1 {
		return nil
	}
	for i := 1; i < len(n.Outputs); i++ {
		if n.Outputs[i] != "" {
			return nil
		}
	}
	axis := n.AttrInt("axis", -1)
	if axis < 0 {
		axis += int64(len(shape))
	}
	if axis < 0 || axis >= int64(len(shape)) {
		return nil
	}
	cols, err := shape[axis:].Elements()
	if err != nil {
		return nil
	}
	gamma, beta := n.Inputs[1], ""
	if len(n.Inputs) > 2 {
		beta = n.Inputs[2]
	}
	for _, g := range []string{gamma, beta} {
		if g != "" && (p.dtype(g) != tensor.Float32 || p.elements(g) != cols) {
			return nil
		}
	}
	op := kernels.Norm{Rows: p.elements(x) / cols, Cols: cols, LDX: cols, LDR: cols, LDS: cols, LDY: cols,
		Eps: n.AttrFloat("epsilon", 1e-5), Norm: kind}
	u := &unit{nodes: []*graph.Node{n}, reads: []string{x, gamma}, writes: []string{n.Outputs[0]}}
	if beta != "" {
		u.reads = append(u.reads, beta)
	}
	residual, sum := "", ""
	if add := p.index.Producer(x); is(add, "Add") && !p.done[add] &&
		p.sameShape(add.Inputs[0], x) && p.sameShape(add.Inputs[1], x) {
		u.nodes = []*graph.Node{add, n}
		u.reads[0], residual = add.Inputs[0], add.Inputs[1]
		u.reads = append(u.reads, residual)
		if p.next(x) != n {
			sum = x // others read it as well
			u.writes = append(u.writes, sum)
		}
		x = add.Inputs[0]
	}
	if sum != "" && !p.earlyEnough(u, sum) {
		return nil
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.X, o.Residual, o.Gamma, o.Beta = p.ref(x), p.ref(residual), p.ref(gamma), p.ref(beta)
		o.Sum, o.Y = p.ref(sum), p.ref(n.Outputs[0])
		prog.Add(&o)
		return nil
	}
	return u
}

// earlyEnough reports whether a unit that writes value where its last node
// stands is early enough for everybody else who reads it.
func (p *planner) earlyEnough(u *unit, value string) bool {
	last := p.position[u.nodes[len(u.nodes)-1]]
	for _, use := range p.index.Uses(value) {
		if use.Node != nil && !slices.Contains(u.nodes, use.Node) && p.position[use.Node] < last {
			return false
		}
	}
	return true
}

// embedding: rows of up to four tables, added up and normalised.
func (p *planner) embedding(n *graph.Node) *unit {
	if !is(n, "LayerNormalization") || n.AttrInt("stash_type", 1) != 1 || len(n.Outputs) > 1 {
		return nil
	}
	u := &unit{nodes: []*graph.Node{n}, writes: []string{n.Outputs[0]}}
	x := n.Inputs[0]
	shape, ok := p.shape(x)
	if !ok || len(shape) < 2 || p.dtype(x) != tensor.Float32 {
		return nil
	}
	width := shape[len(shape)-1]
	if axis := n.AttrInt("axis", -1); axis != -1 && axis != int64(len(shape)-1) {
		return nil
	}
	type row struct{ table, ids string }
	var rows []row
	var idsType tensor.DType
	var collect func(value string) bool
	collect = func(value string) bool {
		node := p.index.Producer(value)
		if p.next(value) == nil || !p.sameShape(value, x) {
			return false
		}
		switch {
		case is(node, "Add"):
			u.nodes = append(u.nodes, node)
			return collect(node.Inputs[0]) && collect(node.Inputs[1])
		case is(node, "Gather") && node.AttrInt("axis", 0) == 0:
			table, ids := node.Inputs[0], node.Inputs[1]
			ts, known := p.shape(table)
			if !known || len(ts) != 2 || ts[1] != width || p.constants[table] == nil || p.dtype(table) != tensor.Float32 {
				return false
			}
			t := p.dtype(ids)
			if t != tensor.Int64 && t != tensor.Int32 || idsType != tensor.Undefined && t != idsType {
				return false
			}
			idsType = t
			u.nodes = append(u.nodes, node)
			u.reads = append(u.reads, ids)
			rows = append(rows, row{table, ids})
			return true
		}
		return false
	}
	if !collect(x) || len(rows) > kernels.EmbedTables || p.elements(x) == 0 {
		return nil
	}
	slices.Reverse(u.nodes)
	gamma, beta := n.Inputs[1], ""
	if len(n.Inputs) > 2 {
		beta = n.Inputs[2]
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		op := kernels.Embed{Count: p.elements(x) / width, Width: width, LDY: width, Tables: uint32(len(rows)), IDsType: uint32(idsType),
			Eps: n.AttrFloat("epsilon", 1e-5), Norm: kernels.NormLayer, Gamma: p.ref(gamma), Beta: p.ref(beta), Y: p.ref(n.Outputs[0])}
		for i, r := range rows {
			op.Table[i], op.IDs[i] = p.ref(r.table), p.ref(r.ids)
			op.TableRows[i] = mustShape(p, r.table)[0]
			op.Period[i] = 1
		}
		prog.Add(&op)
		return nil
	}
	return u
}
