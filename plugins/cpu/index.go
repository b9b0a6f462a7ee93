package main

import (
	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Operators that pick or place elements at indices are Gathers of rows: where the
// indices are constant, as those that exporters make of ranges are once shapes are
// known, the rows are found while planning.

// placed is a list of row numbers for a Gather, as a constant of the plan.
func (p *planner) placed(u *unit, rows []int64) kernels.Ref {
	return kernels.Ref{Buffer: p.open(u.writes[0]+":rows", tensor.Ints(tensor.Shape{int64(len(rows))}, rows...))}
}

// elementBytes is the size of an element that Gather and Copy can move; 0 if there is none.
func (p *planner) elementBytes(name string) int64 {
	if b := int64(p.dtype(name).Bits()); b%8 == 0 && p.dtype(name) != tensor.String {
		return b / 8
	}
	return 0
}

// flatRows are the rows that an index of k coordinates over dims names; ok is false where one lies outside.
func flatRows(index []int64, dims tensor.Shape) (rows []int64, ok bool) {
	k := len(dims)
	rows = make([]int64, len(index)/k)
	for i := range rows {
		for j, d := range dims {
			at := index[i*k+j]
			if at < 0 {
				at += d
			}
			if at < 0 || at >= d {
				return nil, false
			}
			rows[i] = rows[i]*d + at
		}
	}
	return rows, true
}

func gatherND(p *planner, n *graph.Node, u *unit) {
	data, index, y := n.Inputs[0], n.Inputs[1], n.Outputs[0]
	xs, is := mustShape(p, data), mustShape(p, index)
	bytes := p.elementBytes(data)
	if bytes == 0 || len(is) == 0 || n.AttrInt("batch_dims", 0) != 0 || p.dtype(index) != tensor.Int64 {
		return
	}
	k := is[len(is)-1]
	if k < 1 || k > int64(len(xs)) {
		return
	}
	axis, _ := xs[:k].Elements()
	inner, _ := xs[k:].Elements()
	count := p.elements(index) / k
	op := kernels.Gather{Outer: 1, Axis: axis, Inner: inner * bytes, Count: count, IndexType: uint32(tensor.Int64)}
	list, constant := p.ints(index)
	rows, ok := []int64(nil), k == 1
	if constant && k > 1 {
		rows, ok = flatRows(list, xs[:k])
	}
	if !ok {
		return
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.Data, o.Index, o.Y = p.ref(data), p.ref(index), p.ref(y)
		if rows != nil {
			o.Index = p.placed(u, rows)
		}
		prog.Add(&o)
		return nil
	}
}

// alongAxis are the elements of a tensor of shape xs that constant indices of shape is name, each along axis.
func (p *planner) alongAxis(index string, xs tensor.Shape, axis int64) (rows []int64, ok bool) {
	if axis < 0 {
		axis += int64(len(xs))
	}
	is := mustShape(p, index)
	list, constant := p.ints(index)
	if !constant || len(is) != len(xs) || axis < 0 || axis >= int64(len(xs)) {
		return nil, false
	}
	dense, own := denseStrides(xs), denseStrides(is)
	rows = make([]int64, len(list))
	for i, at := range list {
		if at < 0 {
			at += xs[axis]
		}
		if at < 0 || at >= xs[axis] {
			return nil, false
		}
		for d := range is {
			coordinate := int64(i) / own[d] % is[d]
			if int64(d) == axis {
				coordinate = at
			}
			rows[i] += coordinate * dense[d]
		}
	}
	return rows, true
}

func gatherElements(p *planner, n *graph.Node, u *unit) {
	data, index, y := n.Inputs[0], n.Inputs[1], n.Outputs[0]
	bytes := p.elementBytes(data)
	rows, ok := p.alongAxis(index, mustShape(p, data), n.AttrInt("axis", 0))
	if !ok || bytes == 0 {
		return
	}
	u.reads = []string{data}
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.Gather{Data: p.ref(data), Index: p.placed(u, rows), Y: p.ref(y), Outer: 1, Axis: p.elements(data), Inner: bytes,
			Count: int64(len(rows)), IndexType: uint32(tensor.Int64)})
		return nil
	}
}

// scatter: ScatterND and ScatterElements at constant indices: rows of the data and of the updates, one
// after the other, picked in the order in which they end up.
func scatter(p *planner, n *graph.Node, u *unit) {
	data, index, updates, y := n.Inputs[0], n.Inputs[1], n.Inputs[2], n.Outputs[0]
	xs := mustShape(p, data)
	bytes := p.elementBytes(data)
	if bytes == 0 || n.AttrString("reduction", "none") != "none" {
		return
	}
	var rows []int64
	ok, width := false, int64(1) // elements of a row
	if n.OpType == "ScatterElements" {
		rows, ok = p.alongAxis(index, xs, n.AttrInt("axis", 0))
	} else {
		is := mustShape(p, index)
		if len(is) == 0 || is[len(is)-1] < 1 || is[len(is)-1] > int64(len(xs)) {
			return
		}
		k := is[len(is)-1]
		if list, constant := p.ints(index); constant {
			rows, ok = flatRows(list, xs[:k])
		}
		width, _ = xs[k:].Elements()
	}
	if !ok {
		return
	}
	total := p.elements(data) / width
	from := make([]int64, total)
	for i := range from {
		from[i] = int64(i)
	}
	for i, r := range rows {
		from[r] = total + int64(i)
	}
	all := p.temporary(u, "rows of data and updates", p.dtype(data), tensor.Shape{p.elements(data) + p.elements(updates)})
	u.emit = func(p *planner, prog *kernels.Program) error {
		size := p.elements(data) * bytes
		first, second := p.ref(all), p.ref(all)
		second.Offset += size
		prog.Add(copyBytes(p.ref(data), first, size))
		prog.Add(copyBytes(p.ref(updates), second, p.elements(updates)*bytes))
		prog.Add(&kernels.Gather{Data: first, Index: p.placed(u, from), Y: p.ref(y), Outer: 1, Axis: total + int64(len(rows)), Inner: width * bytes,
			Count: total, IndexType: uint32(tensor.Int64)})
		return nil
	}
}

func tile(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs, ys := mustShape(p, x), mustShape(p, y)
	if len(xs) != len(ys) {
		return
	}
	from, to := denseStrides(xs), denseStrides(ys)
	var dims, src, dst []int64
	for i := range xs {
		if times := ys[i] / xs[i]; times > 1 {
			dims, src, dst = append(dims, times), append(src, 0), append(dst, xs[i]*to[i])
		}
		if xs[i] > 1 {
			dims, src, dst = append(dims, xs[i]), append(src, from[i]), append(dst, to[i])
		}
	}
	copied(p, u, x, y, dims, src, dst, 0, 0)
}

// trilu multiplies nothing: it chooses between x and 0 by a constant mask.
func trilu(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs := mustShape(p, x)
	k, ok := p.ints(attrInput(n, 1))
	compute := tensor.Float32
	switch p.dtype(x) {
	case tensor.Int64, tensor.Int32:
		compute = tensor.Int64
	case tensor.Float32, tensor.Bool:
	default:
		return
	}
	rank := len(xs)
	if !ok || len(k) > 1 || rank < 2 || xs[rank-1]*xs[rank-2] > foldElements {
		return
	}
	offset := int64(0)
	if len(k) == 1 {
		offset = k[0]
	}
	rows, cols := xs[rank-2], xs[rank-1]
	keep := make([]uint8, rows*cols)
	for i := range keep {
		row, col := int64(i)/cols, int64(i)%cols
		if above := col-row >= offset; above && n.AttrInt("upper", 1) != 0 || col-row <= offset && n.AttrInt("upper", 1) == 0 {
			keep[i] = 1
		}
	}
	outer := p.elements(x) / (rows * cols)
	u.reads = []string{x}
	u.emit = func(p *planner, prog *kernels.Program) error {
		mask := p.open(u.writes[0]+":keep", tensor.Of(tensor.Uint8, tensor.Shape{rows * cols}, keep))
		op := &kernels.Map{Compute: uint32(compute), Rank: 2, Inputs: 2, Steps: 2}
		op.Dims = [kernels.MapRank]int64{outer, rows * cols}
		dense := [kernels.MapRank]int64{rows * cols, 1}
		op.In[0] = kernels.MapOperand{Data: p.ref(x), DType: uint32(p.dtype(x)), Stride: dense}
		op.In[1] = kernels.MapOperand{Data: kernels.Ref{Buffer: mask}, DType: uint32(tensor.Bool), Stride: [kernels.MapRank]int64{0, 1}}
		op.Out = kernels.MapOperand{Data: p.ref(y), DType: uint32(p.dtype(y)), Stride: dense}
		op.Step[0] = kernels.Step{Fn: kernels.FnConst}
		op.Step[1] = kernels.Step{Fn: kernels.FnWhere, A: 1, B: 0, C: kernels.StepResult(0)}
		prog.Add(op)
		return nil
	}
}
