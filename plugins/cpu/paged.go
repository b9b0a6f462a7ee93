package main

import (
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// pageTypes are the element types of pools, and the bits of those that are quantised.
var pageTypes = map[tensor.DType]int64{tensor.Float32: 0, tensor.Float16: 0, tensor.BFloat16: 0, tensor.Int8: 8, tensor.Uint8: 4}

// maxPagedWidth is the widest head that the kernel takes.
const maxPagedWidth = 1024

// kvPool is a pool of a paged node, or the scales of one: what it reads and what the node gives.
type kvPool struct{ in, out string }

// pagedNode is a PagedAttention or a PagedWrite.
type pagedNode struct {
	node                         *graph.Node
	q, k, v, slots               string
	tables, lengths, starts      string
	bias, o                      string
	keys, values, kScale, vScale kvPool
}

func pagedOf(n *graph.Node) (*pagedNode, bool) {
	if n.Domain != graph.DomainAccel {
		return nil, false
	}
	in := func(i int) string { return attrInput(n, i) }
	out := func(i int) string {
		if i < len(n.Outputs) {
			return n.Outputs[i]
		}
		return ""
	}
	switch n.OpType {
	case "PagedAttention":
		return &pagedNode{node: n, q: in(0), k: in(1), v: in(2), slots: in(5), tables: in(6), lengths: in(7), starts: in(8), bias: in(11), o: out(0),
			keys: kvPool{in(3), out(1)}, values: kvPool{in(4), out(2)}, kScale: kvPool{in(9), out(3)}, vScale: kvPool{in(10), out(4)}}, true
	case "PagedWrite":
		return &pagedNode{node: n, k: in(0), v: in(1), slots: in(2),
			keys: kvPool{in(3), out(0)}, values: kvPool{in(4), out(1)}, kScale: kvPool{in(5), out(2)}, vScale: kvPool{in(6), out(3)}}, true
	}
	return nil, false
}

// pools are those that there are.
func (a *pagedNode) pools() []kvPool {
	return slices.DeleteFunc([]kvPool{a.keys, a.values, a.kScale, a.vScale}, func(k kvPool) bool { return k.in == "" })
}

// indexed are the inputs that say where tokens lie.
func (a *pagedNode) indexed() []string { return []string{a.tables, a.lengths, a.starts} }

// pagedTypes reports whether types and attributes of a node are the kernel's, whatever its shapes.
func (p *planner) pagedTypes(a *pagedNode) bool {
	for _, f32 := range []string{a.q, a.k, a.v, a.bias} {
		if f32 != "" && p.dtype(f32) != tensor.Float32 {
			return false
		}
	}
	for _, pool := range []struct {
		pages, scales kvPool
		bits          string
	}{{a.keys, a.kScale, "k_bits"}, {a.values, a.vScale, "v_bits"}} {
		want, ok := pageTypes[p.dtype(pool.pages.in)]
		bits := a.node.AttrInt(pool.bits, 0)
		if want == 8 && bits == 0 {
			bits = 8
		}
		if !ok || bits != want || (want != 0) != (pool.scales.in != "") || want != 0 && p.dtype(pool.scales.in) != tensor.Float16 {
			return false
		}
	}
	writes := a.k != ""
	return writes == (a.v != "") && writes == (a.slots != "") && (a.bias == "" || a.node.AttrInt("causal", 1) != 0) && a.node.AttrInt("window", 0) >= 0
}

// private reports whether an input of the graph is read by this node alone.
func (p *planner) private(value string, n *graph.Node) bool {
	uses := p.index.Uses(value)
	return p.isInput(value) && !p.index.IsOutput(value) && len(uses) == 1 && uses[0].Node == n
}

func (p *planner) isInput(value string) bool {
	return p.constants[value] == nil && slices.ContainsFunc(p.model.Graph.Inputs, func(v *graph.Value) bool { return v.Name == value })
}

// inPlace reports whether a pool is updated where it lies: an input of the graph that nobody else reads
// becomes an output of it.
func (p *planner) inPlace(k kvPool, n *graph.Node) bool {
	return k.out != "" && p.private(k.in, n) && p.index.IsOutput(k.out)
}

// poolsFree reports whether the number of pages is nobody's business but the kernel's.
func (p *planner) poolsFree(a *pagedNode) bool {
	for _, k := range a.pools() {
		if !p.inPlace(k, a.node) || len(p.index.Uses(k.out)) > 0 {
			return false
		}
	}
	return true
}

// tablesFree reports the same of the number of sequences and the width of their page tables: inputs of the
// graph that only paged nodes read, as such.
func (p *planner) tablesFree(a *pagedNode) bool {
	for _, name := range a.indexed() {
		only, known := p.pagedOnly[name]
		if !known {
			only = p.isInput(name) && !p.index.IsOutput(name) && !slices.ContainsFunc(p.index.Uses(name), func(use graph.Use) bool {
				other, ok := pagedOf(use.Node)
				return !ok || other.q == "" || use.Input < 6 || use.Input > 8 || !p.pagedTypes(other)
			})
			p.pagedOnly[name] = only
		}
		if !only {
			return false
		}
	}
	return true
}

// paged: attention over keys and values in pages.
func (p *planner) paged(n *graph.Node) *unit {
	a, ok := pagedOf(n)
	if !ok || !p.pagedTypes(a) {
		return nil
	}
	u := &unit{nodes: []*graph.Node{n}}
	for _, name := range append([]string{a.q, a.k, a.v, a.slots, a.tables, a.lengths, a.starts, a.bias}, a.keys.in, a.values.in, a.kScale.in, a.vScale.in) {
		if name != "" {
			u.reads = append(u.reads, name)
		}
	}
	if !p.fixed(u.reads) {
		return nil
	}
	op, ok := p.pagedSizes(a)
	if !ok {
		return nil
	}
	if a.o != "" {
		u.writes = append(u.writes, a.o)
	}
	// Where each pool is read and written; those that are no input's and output's own memory are copied first.
	type place struct {
		at, from string
		bytes    int64
	}
	where := map[string]place{}
	for _, k := range a.pools() {
		out := place{at: k.in}
		switch {
		case k.out == "" && a.k != "":
			return nil // written and not given: inputs stay as they are, so there would have to be a copy
		case k.out == "":
		case p.inPlace(k, n):
			out.at = k.out
			p.aliases[k.out] = k.in
			u.writes = append(u.writes, k.out)
		default:
			out = place{at: k.out, from: k.in}
			u.writes = append(u.writes, k.out)
		}
		out.bytes, _ = tensor.ByteSize(p.dtype(k.in), mustShape(p, k.in))
		where[k.in] = out
	}
	if p.poolsFree(a) {
		op.Pages = kernels.AsMany
		for _, k := range a.pools() {
			p.free[k.in] = []int{0}
		}
	}
	if a.q != "" && p.tablesFree(a) {
		op.Sequences, op.TableWidth = kernels.AsMany, kernels.AsMany
		for _, name := range a.indexed() {
			p.free[name] = []int{0}
		}
		p.free[a.tables] = []int{0, 1}
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		for _, k := range a.pools() {
			if w := where[k.in]; w.from != "" && w.bytes > 0 {
				prog.Add(copyBytes(p.ref(w.from), p.ref(w.at), w.bytes))
			}
		}
		o := *op
		o.Q, o.K, o.V, o.Slots, o.PageTables, o.Lengths, o.Starts = p.ref(a.q), p.ref(a.k), p.ref(a.v), p.ref(a.slots), p.ref(a.tables), p.ref(a.lengths), p.ref(a.starts)
		o.Bias, o.O = p.ref(a.bias), p.ref(a.o)
		o.KPages, o.VPages, o.KScales, o.VScales = p.ref(where[a.keys.in].at), p.ref(where[a.values.in].at), p.ref(where[a.kScale.in].at), p.ref(where[a.vScale.in].at)
		prog.Add(&o)
		return nil
	}
	return u
}

// pagedSizes reads a node's sizes and attributes. What the reference would refuse is left to it, to say so.
func (p *planner) pagedSizes(a *pagedNode) (*kernels.Paged, bool) {
	n := a.node
	ks, vs := mustShape(p, a.keys.in), mustShape(p, a.values.in)
	if len(ks) != 4 || len(vs) != 4 || !ks[:3].Equal(vs[:3]) {
		return nil, false
	}
	op := &kernels.Paged{Pages: ks[0], PageSize: ks[1], KVHeads: ks[2], HeadDim: ks[3], VDim: vs[3], KType: uint32(p.dtype(a.keys.in)), VType: uint32(p.dtype(a.values.in)),
		Window: n.AttrInt("window", 0), Softcap: n.AttrFloat("softcap", 0)}
	if pageTypes[p.dtype(a.keys.in)] == 4 {
		op.HeadDim *= 2
	}
	if pageTypes[p.dtype(a.values.in)] == 4 {
		op.VDim *= 2
	}
	if op.PageSize < 1 || op.KVHeads < 1 || op.HeadDim < 1 || op.VDim < 1 || op.HeadDim > maxPagedWidth || op.VDim > maxPagedWidth {
		return nil, false
	}
	for _, scales := range []string{a.kScale.in, a.vScale.in} {
		if scales != "" && !mustShape(p, scales).Equal(ks[:3]) {
			return nil, false
		}
	}
	op.LDK, op.LDV = op.KVHeads*op.HeadDim, op.KVHeads*op.VDim
	if a.q != "" {
		qs := mustShape(p, a.q)
		if len(qs) != 3 || qs[2] != op.HeadDim || qs[1]%op.KVHeads != 0 {
			return nil, false
		}
		op.Tokens, op.Heads, op.LDQ = qs[0], qs[1], qs[1]*qs[2]
		op.Causal = uint32(n.AttrInt("causal", 1))
		op.Scale = n.AttrFloat("scale", invSqrt(op.HeadDim))
		tables, lengths, starts := mustShape(p, a.tables), mustShape(p, a.lengths), mustShape(p, a.starts)
		if len(tables) != 2 || len(lengths) != 1 || len(starts) != 1 {
			return nil, false
		}
		op.Sequences, op.TableWidth = lengths[0], tables[1]
		if !p.tablesFree(a) && (tables[0] != lengths[0] || starts[0] != lengths[0]+1) {
			return nil, false
		}
	} else {
		op.Tokens = mustShape(p, a.k)[0]
	}
	if a.k != "" && (!mustShape(p, a.k).Equal(tensor.Shape{op.Tokens, op.KVHeads, op.HeadDim}) || !mustShape(p, a.v).Equal(tensor.Shape{op.Tokens, op.KVHeads, op.VDim}) ||
		!mustShape(p, a.slots).Equal(tensor.Shape{op.Tokens})) {
		return nil, false
	}
	if a.bias != "" {
		bs := mustShape(p, a.bias)
		if len(bs) != 2 || bs[0] != op.Heads || bs[1] < 1 {
			return nil, false
		}
		op.BiasColumns = bs[1]
	}
	return op, true
}
