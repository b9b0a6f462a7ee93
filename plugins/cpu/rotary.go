package main

import (
	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// rotary: RotaryEmbedding of [batch, tokens, heads*dim] or [batch, heads, tokens, dim], by angles of each token or by
// tables and positions.
func rotary(p *planner, n *graph.Node, u *unit) {
	x, cos, sin, positions, y := n.Inputs[0], n.Inputs[1], n.Inputs[2], attrInput(n, 3), n.Outputs[0]
	if p.dtype(x) != tensor.Float32 || p.dtype(cos) != tensor.Float32 || p.dtype(sin) != tensor.Float32 {
		return
	}
	xs, cs := mustShape(p, x), mustShape(p, cos)
	op := kernels.Rope{Interleaved: uint32(n.AttrInt("interleaved", 0))}
	switch len(xs) {
	case 3:
		op.Batch, op.Tokens, op.Heads = xs[0], xs[1], n.AttrInt("num_heads", 0)
		if op.Heads <= 0 || xs[2]%op.Heads != 0 {
			return
		}
		op.Dim = xs[2] / op.Heads
		op.XStride = [3]int64{xs[1] * xs[2], xs[2], op.Dim}
	case 4:
		op.Batch, op.Heads, op.Tokens, op.Dim = xs[0], xs[1], xs[2], xs[3]
		op.XStride = [3]int64{xs[1] * xs[2] * xs[3], xs[3], xs[2] * xs[3]}
	default:
		return
	}
	op.YStride = op.XStride
	dim := n.AttrInt("rotary_embedding_dim", 0)
	if dim == 0 {
		dim = op.Dim
	}
	if dim < 0 || dim > op.Dim || dim%2 != 0 || op.Interleaved > 1 || !p.sameShape(cos, sin) {
		return
	}
	op.Half = dim / 2
	if positions == "" {
		if !cs.Equal(tensor.Shape{op.Batch, op.Tokens, op.Half}) {
			return
		}
	} else {
		if len(cs) != 2 || cs[1] != op.Half || p.dtype(positions) != tensor.Int64 || !mustShape(p, positions).Equal(tensor.Shape{op.Batch, op.Tokens}) {
			return
		}
		op.Rows = cs[0]
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.X, o.Cos, o.Sin, o.Positions, o.Y = p.ref(x), p.ref(cos), p.ref(sin), p.ref(positions), p.ref(y)
		prog.Add(&o)
		return nil
	}
}
