package main

import (
	"slices"
	"strconv"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// natives are the operators with a kernel of their own. A function sets u.emit if
// there is a kernel for this use of the operator, and leaves it to the reference
// operators if not. All shapes are known and no value is empty.
var natives = map[string]func(*planner, *graph.Node, *unit){
	"Attention": attention, "RotaryEmbedding": rotary,
	"MatMul":  matMul,
	"Softmax": softmax, "LogSoftmax": softmax,
	"Gather":   gather,
	"GatherND": gatherND, "GatherElements": gatherElements, "ScatterND": scatter, "ScatterElements": scatter,
	"Tile": tile, "Trilu": trilu,
	"Cast":    cast,
	"Reshape": view, "Squeeze": view, "Unsqueeze": view, "Flatten": view, "Identity": view, "Dropout": dropout,
	"Transpose": transpose, "Expand": expand, "Slice": slice, "Concat": concat, "Split": split,
	"ReduceSum": reduce, "ReduceMean": reduce, "ReduceMax": reduce, "ReduceMin": reduce, "ReduceProd": reduce,
	"ReduceSumSquare": reduce, "ReduceL1": reduce, "ReduceL2": reduce,
	"MaxPool": pool, "AveragePool": pool, "GlobalAveragePool": globalPool, "GlobalMaxPool": globalPool,
	"Resize": resize, "Upsample": resize, "Pad": pad, "GridSample": gridSample,
	"BatchNormalization": batchNorm, "GroupNormalization": groupNorm, "InstanceNormalization": groupNorm,
}

func attrInput(n *graph.Node, i int) string {
	if i < len(n.Inputs) {
		return n.Inputs[i]
	}
	return ""
}

// attention without a cache of its own: q, k and v as [batch, tokens, heads*dim] or
// [batch, heads, tokens, dim].
func attention(p *planner, n *graph.Node, u *unit) {
	q, k, v, mask := n.Inputs[0], n.Inputs[1], n.Inputs[2], attrInput(n, 3)
	for i := 4; i < len(n.Inputs); i++ {
		if n.Inputs[i] != "" {
			return
		}
	}
	for i := 1; i < len(n.Outputs); i++ {
		if n.Outputs[i] != "" {
			return
		}
	}
	if p.dtype(q) != tensor.Float32 || p.dtype(k) != tensor.Float32 || p.dtype(v) != tensor.Float32 || n.Attr("softmax_precision") != nil ||
		n.AttrInt("left_window_size", -1) >= 0 || n.AttrInt("right_window_size", -1) >= 0 {
		return
	}
	qs, ks, vs := mustShape(p, q), mustShape(p, k), mustShape(p, v)
	op := kernels.Attention{Softcap: n.AttrFloat("softcap", 0), Causal: uint32(n.AttrInt("is_causal", 0))}
	strides := func(s tensor.Shape, heads int64) (dim int64, st [3]int64) {
		if len(s) == 4 {
			return s[3], [3]int64{s[1] * s[2] * s[3], s[3], s[2] * s[3]}
		}
		dim = s[2] / heads
		return dim, [3]int64{s[1] * s[2], s[2], dim}
	}
	switch len(qs) {
	case 3:
		op.Heads, op.KVHeads = n.AttrInt("q_num_heads", 0), n.AttrInt("kv_num_heads", 0)
		if op.Heads <= 0 || op.KVHeads <= 0 || qs[2]%op.Heads != 0 || ks[2]%op.KVHeads != 0 || vs[2]%op.KVHeads != 0 {
			return
		}
		op.QLen, op.KVLen = qs[1], ks[1]
	case 4:
		op.Heads, op.KVHeads, op.QLen, op.KVLen = qs[1], ks[1], qs[2], ks[2]
	default:
		return
	}
	if op.Heads%op.KVHeads != 0 {
		return
	}
	op.Batch = qs[0]
	var kDim int64
	op.HeadDim, op.QStride = strides(qs, op.Heads)
	kDim, op.KStride = strides(ks, op.KVHeads)
	op.VDim, op.VStride = strides(vs, op.KVHeads)
	_, op.OStride = strides(mustShape(p, n.Outputs[0]), op.Heads)
	if kDim != op.HeadDim {
		return
	}
	op.Scale = n.AttrFloat("scale", 0)
	if op.Scale == 0 {
		op.Scale = invSqrt(op.HeadDim)
	}
	if mask != "" {
		switch p.dtype(mask) {
		case tensor.Bool:
			op.MaskKind = kernels.MaskBool
		case tensor.Float32:
			op.MaskKind = kernels.MaskAdd
		default:
			return
		}
		ms := mustShape(p, mask)
		if len(ms) > 4 || ms[len(ms)-1] != op.KVLen {
			return
		}
		copy(op.MaskStride[:], broadcastStrides(ms, tensor.Shape{op.Batch, op.Heads, op.QLen, op.KVLen}))
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.Q, o.K, o.V, o.Mask, o.O = p.ref(q), p.ref(k), p.ref(v), p.ref(mask), p.ref(n.Outputs[0])
		prog.Add(&o)
		return nil
	}
}

// matMul of two values, batches broadcast.
func matMul(p *planner, n *graph.Node, u *unit) {
	a, b, c := n.Inputs[0], n.Inputs[1], n.Outputs[0]
	as, bs, cs := mustShape(p, a), mustShape(p, b), mustShape(p, c)
	if p.dtype(a) != tensor.Float32 || p.dtype(b) != tensor.Float32 || len(as) < 2 || len(bs) < 2 {
		return
	}
	op := kernels.MatMul{M: as[len(as)-2], K: as[len(as)-1], N: bs[len(bs)-1], ACol: 1, BCol: 1, Alpha: 1}
	op.ARow, op.BRow, op.CRow = op.K, op.N, op.N
	batch := cs[:len(cs)-2]
	if len(batch) > kernels.MatMulRank {
		return
	}
	op.Rank = uint32(len(batch))
	copy(op.Batch[:], batch)
	scaled := func(s tensor.Shape) []int64 {
		st := broadcastStrides(s[:len(s)-2], batch)
		for i := range st {
			st[i] *= s[len(s)-2] * s[len(s)-1]
		}
		return st
	}
	copy(op.ABatch[:], scaled(as))
	copy(op.BBatch[:], scaled(bs))
	copy(op.CBatch[:], scaled(cs))
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.A, o.B, o.C = p.ref(a), p.ref(b), p.ref(c)
		prog.Add(&o)
		return nil
	}
}

// around splits a shape at an axis: outer, axis, inner.
func around(s tensor.Shape, axis int64) (outer, size, inner int64, ok bool) {
	if axis < 0 {
		axis += int64(len(s))
	}
	if axis < 0 || axis >= int64(len(s)) {
		return 0, 0, 0, false
	}
	outer, _ = s[:axis].Elements()
	inner, _ = s[axis+1:].Elements()
	return outer, s[axis], inner, true
}

func softmax(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	// Before operator set 13 the axis meant something else.
	outer, size, inner, ok := around(mustShape(p, x), n.AttrInt("axis", -1))
	if !ok || p.dtype(x) != tensor.Float32 || p.model.Opsets[graph.DomainONNX] < 13 {
		return
	}
	log := uint32(0)
	if n.OpType == "LogSoftmax" {
		log = 1
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.Softmax{X: p.ref(x), Y: p.ref(y), Outer: outer, Axis: size, Inner: inner, Log: log})
		return nil
	}
}

func gather(p *planner, n *graph.Node, u *unit) {
	data, ids, y := n.Inputs[0], n.Inputs[1], n.Outputs[0]
	bytes := int64(p.dtype(data).Bits() / 8)
	idType := p.dtype(ids)
	outer, size, inner, ok := around(mustShape(p, data), n.AttrInt("axis", 0))
	if !ok || bytes == 0 || idType != tensor.Int64 && idType != tensor.Int32 {
		return
	}
	count := p.elements(ids)
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.Gather{Data: p.ref(data), Index: p.ref(ids), Y: p.ref(y), Outer: outer, Axis: size,
			Inner: inner * bytes, Count: count, IndexType: uint32(idType)})
		return nil
	}
}

// castable are the types that the Cast kernel converts between as ONNX says.
var castable = []tensor.DType{tensor.Float32, tensor.Float16, tensor.BFloat16, tensor.Int64, tensor.Int32, tensor.Int8, tensor.Uint8, tensor.Bool}

func cast(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	from, to := p.dtype(x), p.dtype(y)
	if from == to {
		view(p, n, u)
		return
	}
	if !slices.Contains(castable, from) || !slices.Contains(castable, to) {
		return
	}
	count := p.elements(x)
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.Cast{Src: p.ref(x), Dst: p.ref(y), N: count, SrcType: uint32(from), DstType: uint32(to)})
		return nil
	}
}

// dropout is a view where it is known not to train.
func dropout(p *planner, n *graph.Node, u *unit) {
	if attrInput(n, 2) != "" || p.model.Opsets[graph.DomainONNX] < 7 && n.AttrInt("is_test", 0) == 0 {
		return
	}
	view(p, n, u)
}

// view: the same memory in another shape; copied where it must be its own.
func view(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	bytes, err := tensor.ByteSize(p.dtype(x), mustShape(p, x))
	if err != nil || len(n.Outputs) > 1 && n.Outputs[1] != "" {
		return
	}
	u.reads = []string{x}
	u.view = true
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(copyBytes(p.ref(x), p.ref(y), bytes))
		return nil
	}
}

// copied sets u to one strided copy. srcOffset and dstOffset are in elements.
func copied(p *planner, u *unit, x, y string, dims, src, dst []int64, srcOffset, dstOffset int64) bool {
	bytes := p.dtype(x).Bits() / 8
	if bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8 || len(dims) > kernels.CopyRank {
		return false
	}
	if len(dims) == 0 {
		dims, src, dst = []int64{1}, []int64{1}, []int64{1}
	}
	before := u.emit
	u.emit = func(p *planner, prog *kernels.Program) error {
		if before != nil {
			if err := before(p, prog); err != nil {
				return err
			}
		}
		op := &kernels.Copy{Src: p.ref(x), Dst: p.ref(y), Rank: uint32(len(dims)), ElemBytes: uint32(bytes)}
		op.Src.Offset += srcOffset * int64(bytes)
		op.Dst.Offset += dstOffset * int64(bytes)
		copy(op.Dims[:], dims)
		copy(op.SrcStride[:], src)
		copy(op.DstStride[:], dst)
		prog.Add(op)
		return nil
	}
	return true
}

func transpose(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs, ys := mustShape(p, x), mustShape(p, y)
	perm := n.AttrInts("perm")
	if perm == nil {
		for i := range xs {
			perm = append(perm, int64(len(xs)-1-i))
		}
	}
	dense := denseStrides(xs)
	src := make([]int64, len(perm))
	for i, a := range perm {
		if a < 0 || a >= int64(len(xs)) {
			return
		}
		src[i] = dense[a]
	}
	copied(p, u, x, y, ys, src, denseStrides(ys), 0, 0)
}

func expand(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	ys := mustShape(p, y)
	copied(p, u, x, y, ys, broadcastStrides(mustShape(p, x), ys), denseStrides(ys), 0, 0)
}

// slice by constant starts and steps.
func slice(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs, ys := mustShape(p, x), mustShape(p, y)
	if len(n.Inputs) < 3 {
		return
	}
	starts, ok := p.ints(n.Inputs[1])
	axes, ok2 := p.ints(attrInput(n, 3))
	steps, ok3 := p.ints(attrInput(n, 4))
	if !ok || !ok2 || !ok3 || starts == nil {
		return
	}
	src := denseStrides(xs)
	offset := int64(0)
	for i, start := range starts {
		axis, step := int64(i), int64(1)
		if axes != nil {
			axis = axes[i]
		}
		if axis < 0 {
			axis += int64(len(xs))
		}
		if steps != nil {
			step = steps[i]
		}
		if axis < 0 || axis >= int64(len(xs)) {
			return
		}
		size := xs[axis]
		if start < 0 {
			start += size
		}
		if step > 0 {
			start = min(max(start, 0), size)
		} else {
			start = min(max(start, 0), size-1)
		}
		offset += start * src[axis]
		src[axis] *= step
	}
	copied(p, u, x, y, ys, src, denseStrides(ys), offset, 0)
}

// ints is a constant list of int64 or int32; nil without error where name is empty.
func (p *planner) ints(name string) ([]int64, bool) {
	if name == "" {
		return nil, true
	}
	c := p.constants[name]
	if c == nil {
		return nil, false
	}
	switch t := c.Tensor.Aligned(); t.DType {
	case tensor.Int64:
		return tensor.View[int64](t), true
	case tensor.Int32:
		var out []int64
		for _, v := range tensor.View[int32](t) {
			out = append(out, int64(v))
		}
		return out, true
	}
	return nil, false
}

func concat(p *planner, n *graph.Node, u *unit) {
	y := n.Outputs[0]
	ys := mustShape(p, y)
	axis := n.AttrInt("axis", 0)
	if axis < 0 {
		axis += int64(len(ys))
	}
	if axis < 0 || axis >= int64(len(ys)) {
		return
	}
	dst := denseStrides(ys)
	at := int64(0)
	for _, x := range n.Inputs {
		xs := mustShape(p, x)
		if !copied(p, u, x, y, xs, denseStrides(xs), dst, 0, at*dst[axis]) {
			u.emit = nil
			return
		}
		at += xs[axis]
	}
}

func split(p *planner, n *graph.Node, u *unit) {
	x := n.Inputs[0]
	xs := mustShape(p, x)
	axis := n.AttrInt("axis", 0)
	if axis < 0 {
		axis += int64(len(xs))
	}
	if axis < 0 || axis >= int64(len(xs)) {
		return
	}
	src := denseStrides(xs)
	at := int64(0)
	for _, y := range n.Outputs {
		if y == "" {
			u.emit = nil
			return
		}
		ys := mustShape(p, y)
		if !copied(p, u, x, y, ys, src, denseStrides(ys), at*src[axis], 0) {
			u.emit = nil
			return
		}
		at += ys[axis]
	}
}

var reductions = map[string]kernels.ReduceKind{
	"ReduceSum": kernels.ReduceSum, "ReduceMean": kernels.ReduceMean, "ReduceMax": kernels.ReduceMax, "ReduceMin": kernels.ReduceMin,
	"ReduceProd": kernels.ReduceProd, "ReduceSumSquare": kernels.ReduceSumSq, "ReduceL1": kernels.ReduceL1, "ReduceL2": kernels.ReduceL2,
}

// reduce over any axes.
func reduce(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs := mustShape(p, x)
	axes := slices.Clone(n.AttrInts("axes"))
	if in := attrInput(n, 1); in != "" {
		list, ok := p.ints(in)
		if !ok {
			return
		}
		axes = slices.Clone(list)
	}
	if p.dtype(x) != tensor.Float32 || len(axes) == 0 && n.AttrInt("noop_with_empty_axes", 0) != 0 {
		return
	}
	for i := range axes {
		if axes[i] < 0 {
			axes[i] += int64(len(xs))
		}
		if axes[i] < 0 || axes[i] >= int64(len(xs)) {
			return
		}
	}
	slices.Sort(axes)
	if len(axes) == 0 {
		for i := range xs {
			axes = append(axes, int64(i))
		}
	}
	// Neighbouring axes go in one pass, from the last to the first.
	kind := reductions[n.OpType]
	type pass struct {
		outer, size, inner int64
		kind               kernels.ReduceKind
		to                 string
	}
	var passes []pass
	s := xs.Clone()
	for end := len(axes); end > 0; {
		begin := end - 1
		for begin > 0 && axes[begin-1] == axes[begin]-1 {
			begin--
		}
		first, last := axes[begin], axes[end-1]
		r := pass{kind: kind, to: y}
		r.outer, _ = s[:first].Elements()
		r.size, _ = s[first : last+1].Elements()
		r.inner, _ = s[last+1:].Elements()
		s = append(s[:first:first], s[last+1:]...)
		if end = begin; end > 0 {
			r.to = p.temporary(u, "reduced "+strconv.Itoa(len(passes)), tensor.Float32, s)
		}
		passes = append(passes, r)
		if kind == kernels.ReduceSumSq {
			kind = kernels.ReduceSum // of squares
		}
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		from := x
		for _, r := range passes {
			prog.Add(&kernels.Reduce{X: p.ref(from), Y: p.ref(r.to), Outer: r.outer, Axis: r.size, Inner: r.inner, Reduce: r.kind})
			from = r.to
		}
		return nil
	}
}
