package main

import (
	"math"
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// heads is a value seen as [batch, heads, tokens, dim]: strides in elements of batch,
// token and head.
type heads struct {
	value                     string
	batch, count, tokens, dim int64
	stride                    [3]int64
	group                     int64 // heads that repeat each of the value's, as keys shared by queries are
	scale                     float64
	nodes                     []*graph.Node
}

// sole is the producer of a value that nobody but one node reads.
func (p *planner) sole(value string) *graph.Node {
	n := p.index.Producer(value)
	if n == nil || p.done[n] || p.next(value) == nil {
		return nil
	}
	return n
}

// headsOf sees through what exporters put between a projection and a product:
// scales, a transposition of heads and tokens, a repetition of shared heads. transposed says that the
// value's last two dimensions stand the other way round: [batch, heads, dim, tokens].
func (p *planner) headsOf(value string, transposed bool) (h heads, ok bool) {
	full, known := p.shape(value)
	if !known || p.dtype(value) != tensor.Float32 || len(full) != 3 && len(full) != 4 {
		return h, false
	}
	rank := len(full)
	// Dimension i of the first value is dimension where[i] of the one at hand.
	where := []int{0, 1, 2, 3}[:rank:rank]
	order := slices.Clone(where) // which of them are batch, heads, tokens and dim
	if transposed {
		order[rank-1], order[rank-2] = order[rank-2], order[rank-1]
	}
	at := heads{value: value, scale: 1, group: 1}
	for {
		// What the kernel can read is kept: the head's own dimension has to be dense.
		s := mustShape(p, at.value)
		dense := denseStrides(s)
		batch, token, dim := where[order[0]], where[order[rank-2]], where[order[rank-1]]
		if dense[dim] == 1 {
			h, ok = at, true
			h.nodes = slices.Clone(at.nodes)
			h.batch, h.tokens, h.dim, h.count = s[batch], s[token], s[dim], 1
			h.stride = [3]int64{dense[batch], dense[token], 0}
			if rank == 4 {
				h.count, h.stride[2] = s[where[order[1]]]*at.group, dense[where[order[1]]]
			}
		}
		n := p.sole(at.value)
		if n == nil || !p.fixed(n.Inputs) {
			return h, ok
		}
		switch n.OpType {
		case "Mul", "Div":
			x, v, scaled := p.scaling(n)
			if !scaled {
				return h, ok
			}
			at.scale *= v
			at.value = x
		case "Transpose":
			perm := n.AttrInts("perm")
			if len(perm) != rank {
				return h, ok
			}
			for i := range where {
				where[i] = int(perm[where[i]])
			}
			at.value = n.Inputs[0]
		case "Reshape":
			x, group, nodes := p.repetition(n)
			if x == "" || at.group != 1 || !slices.Equal(where, order) {
				return h, ok
			}
			at.nodes = append(at.nodes, nodes...)
			at.group, at.value = group, x
		default:
			return h, ok
		}
		at.nodes = append(at.nodes, n)
	}
}

// scaling is a multiplication or division by a number: of x, by v.
func (p *planner) scaling(n *graph.Node) (x string, v float64, ok bool) {
	if !is(n, "Mul") && !is(n, "Div") {
		return "", 0, false
	}
	x = n.Inputs[0]
	v, ok = p.number(n.Inputs[1])
	if !ok && is(n, "Mul") {
		x = n.Inputs[1]
		v, ok = p.number(n.Inputs[0])
	}
	if !ok || v == 0 || !p.sameShape(x, n.Outputs[0]) {
		return "", 0, false
	}
	if is(n, "Div") {
		v = 1 / v
	}
	return x, v, true
}

// repetition sees Reshape(Expand(Unsqueeze(x, 2))) of [batch, heads, tokens, dim] as x, each head group times.
func (p *planner) repetition(reshape *graph.Node) (x string, group int64, nodes []*graph.Node) {
	expand := p.sole(reshape.Inputs[0])
	if !is(expand, "Expand") {
		return "", 0, nil
	}
	unsqueeze := p.sole(expand.Inputs[0])
	if !is(unsqueeze, "Unsqueeze") {
		return "", 0, nil
	}
	x = unsqueeze.Inputs[0]
	from, ok := p.shape(x)
	wide, ok2 := p.shape(expand.Outputs[0])
	to, ok3 := p.shape(reshape.Outputs[0])
	narrow, ok4 := p.shape(unsqueeze.Outputs[0])
	if !ok || !ok2 || !ok3 || !ok4 || len(from) != 4 || len(wide) != 5 {
		return "", 0, nil
	}
	group = wide[2]
	if !narrow.Equal(tensor.Shape{from[0], from[1], 1, from[2], from[3]}) || !wide.Equal(tensor.Shape{from[0], from[1], group, from[2], from[3]}) ||
		!to.Equal(tensor.Shape{from[0], from[1] * group, from[2], from[3]}) {
		return "", 0, nil
	}
	return x, group, []*graph.Node{expand, unsqueeze}
}

// attentionPattern: softmax(q k^T scale + mask) v, written in pieces, anchored at its last product.
func (p *planner) attentionPattern(n *graph.Node) *unit {
	if !is(n, "MatMul") {
		return nil
	}
	pieces := []*graph.Node{n}
	take := func(value, op string) *graph.Node {
		m := p.sole(value)
		if !is(m, op) {
			return nil
		}
		pieces = append(pieces, m)
		return m
	}
	weights := n.Inputs[0]
	if w := p.sole(weights); is(w, "Where") {
		// Rows that see nothing are made zeros, which is what the kernel gives.
		soft := w.Inputs[2]
		nan := p.sole(w.Inputs[0])
		zero, ok := p.number(w.Inputs[1])
		if !is(nan, "IsNaN") || nan.Inputs[0] != soft || !ok || zero != 0 || len(p.index.Uses(soft)) != 2 || p.index.IsOutput(soft) {
			return nil
		}
		m := p.index.Producer(soft)
		if !is(m, "Softmax") || p.done[m] {
			return nil
		}
		pieces, weights = append(pieces, w, nan, m), soft
	} else if take(weights, "Softmax") == nil {
		return nil
	}
	soft := p.index.Producer(weights)
	full, ok := p.shape(weights)
	rank := int64(len(full))
	if axis := soft.AttrInt("axis", -1); !ok || rank != 3 && rank != 4 || axis != -1 && axis != rank-1 || p.dtype(weights) != tensor.Float32 ||
		p.elements(weights) == 0 || p.model.Opsets[graph.DomainONNX] < 13 {
		return nil
	}
	scale, mask, value := 1.0, "", soft.Inputs[0]
scores:
	for {
		m := p.sole(value)
		switch {
		case is(m, "Add") && mask == "" && scale == 1:
			i := 0
			if !p.scoreLike(m.Inputs[0], full) {
				i = 1
			}
			mask, value = m.Inputs[1-i], m.Inputs[i]
		case is(m, "Mul") || is(m, "Div"):
			x, v, ok := p.scaling(m)
			if !ok {
				return nil
			}
			scale, value = scale*v, x
		default:
			break scores
		}
		pieces = append(pieces, m)
	}
	product := p.sole(value)
	if !is(product, "MatMul") || !p.sameShape(value, weights) {
		return nil
	}
	pieces = append(pieces, product)
	q, ok := p.headsOf(product.Inputs[0], false)
	k, ok2 := p.headsOf(product.Inputs[1], true)
	v, ok3 := p.headsOf(n.Inputs[1], false)
	if !ok || !ok2 || !ok3 {
		return nil
	}
	batch, count := full[0], int64(1)
	if rank == 4 {
		count = full[1]
	}
	for _, h := range []heads{q, k, v} {
		if h.batch != batch || h.count != count {
			return nil
		}
	}
	if k.group != v.group || q.group != 1 || v.scale != 1 || q.dim != k.dim || q.tokens != full[rank-2] || k.tokens != full[rank-1] || v.tokens != k.tokens ||
		q.dim > 1024 || v.dim > 1024 || q.dim == 0 || v.dim == 0 {
		return nil
	}
	op := kernels.Attention{Batch: batch, Heads: count, KVHeads: count / k.group, QLen: q.tokens, KVLen: k.tokens, HeadDim: q.dim, VDim: v.dim,
		QStride: q.stride, KStride: k.stride, VStride: v.stride, Scale: float32(scale * q.scale * k.scale)}
	reads := []string{q.value, k.value, v.value}
	if mask != "" {
		ms, known := p.shape(mask)
		if !known || p.dtype(mask) != tensor.Float32 || int64(len(ms)) > rank || !broadcastsTo(ms, full) {
			return nil
		}
		st := broadcastStrides(ms, full)
		if rank == 3 {
			st = []int64{st[0], 0, st[1], st[2]}
		}
		op.MaskKind = kernels.MaskAdd
		copy(op.MaskStride[:], st)
		reads = append(reads, mask)
	}
	y := n.Outputs[0]
	ys, _ := p.shape(y)
	dense := denseStrides(ys)
	op.OStride = [3]int64{dense[0], dense[rank-2], 0}
	if rank == 4 {
		op.OStride[2] = dense[1]
		if t := p.next(y); is(t, "Transpose") && slices.Equal(t.AttrInts("perm"), []int64{0, 2, 1, 3}) {
			pieces, y = append(pieces, t), t.Outputs[0]
			dense = denseStrides(mustShape(p, y))
			op.OStride = [3]int64{dense[0], dense[1], dense[2]}
		}
	}
	if math.IsInf(float64(op.Scale), 0) || op.Scale == 0 {
		return nil
	}
	pieces = slices.Concat(pieces, q.nodes, k.nodes, v.nodes)
	u := &unit{nodes: p.ordered(pieces), reads: reads, writes: []string{y}}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.Q, o.K, o.V, o.Mask, o.O = p.ref(q.value), p.ref(k.value), p.ref(v.value), p.ref(mask), p.ref(y)
		prog.Add(&o)
		return nil
	}
	return u
}

// ordered are nodes as they stand in the graph, each once.
func (p *planner) ordered(nodes []*graph.Node) []*graph.Node {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *graph.Node) int { return p.position[a] - p.position[b] })
	return slices.Compact(nodes)
}

// scoreLike reports whether a value is a product of queries and keys, perhaps scaled.
func (p *planner) scoreLike(value string, full tensor.Shape) bool {
	s, ok := p.shape(value)
	n := p.sole(value)
	return ok && s.Equal(full) && (is(n, "MatMul") || is(n, "Mul") || is(n, "Div"))
}

// broadcastsTo reports whether s can be read as to.
func broadcastsTo(s, to tensor.Shape) bool {
	if len(s) > len(to) {
		return false
	}
	for i := range s {
		if d := to[len(to)-len(s)+i]; s[i] != d && s[i] != 1 {
			return false
		}
	}
	return true
}
