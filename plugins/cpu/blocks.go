package main

import (
	"fmt"
	"math/bits"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// accuracyInt8 is the accuracy_level that lets activations be rounded to 8 bits. That of bf16, 3, is not made use
// of: weights in blocks would have to be rounded to bf16 as well.
const accuracyInt8 = 4

// blocksWeight is a constant weight of codes in blocks, as MatMulNBits and MatMulBlocks
// have it.
type blocksWeight struct {
	kernels.Blocks
	n, k                   int64
	stride                 int64 // bytes of a row of codes
	codes, scales, offsets string
}

// key names the weight within its graph.
func (w blocksWeight) key() string {
	return w.codes + ":" + w.scales + ":" + w.offsets
}

// constant is an initializer's tensor of a type and a number of elements.
func (p *planner) constant(name string, elements int64, types ...tensor.DType) (tensor.Tensor, bool) {
	c := p.constants[name]
	if c == nil || p.elements(name) != elements {
		return tensor.Tensor{}, false
	}
	for _, t := range types {
		if c.Tensor.DType == t {
			return c.Tensor, true
		}
	}
	return tensor.Tensor{}, false
}

// blocksWeight reads the weight or table of a node, and the name of its bias. Forms that the kernels
// do not have are the reference operators'.
func (p *planner) blocksWeight(n *graph.Node) (w blocksWeight, bias string, ok bool) {
	var block int64
	switch (graph.FunctionID{Domain: n.Domain, Name: n.OpType}) {
	case graph.FunctionID{Domain: graph.DomainMicrosoft, Name: "MatMulNBits"}:
		if attrInput(n, 4) != "" || n.AttrInt("weight_prepacked", 0) != 0 {
			return w, "", false
		}
		block, bias = n.AttrInt("block_size", 0), attrInput(n, 5)
		w.Bits = uint32(n.AttrInt("bits", 4))
		w.offsets = attrInput(n, 3)
		w.Offsets = kernels.OffsetsZeros
		w.codes, w.scales = attrInput(n, 1), attrInput(n, 2)
		w.n = n.AttrInt("N", 0)
	case graph.FunctionID{Domain: graph.DomainAccel, Name: "MatMulBlocks"}:
		block = n.AttrInt("block", 0)
		w.Bits = uint32(n.AttrInt("bits", 0))
		w.codes, w.scales, w.offsets = attrInput(n, 1), attrInput(n, 2), attrInput(n, 3)
		w.Offsets = kernels.OffsetsMins
		w.n = n.AttrInt("N", 0)
	case graph.FunctionID{Domain: graph.DomainAccel, Name: "GatherBlocks"}:
		block = n.AttrInt("block", 0)
		w.Bits = uint32(n.AttrInt("bits", 0))
		w.codes, w.scales, w.offsets = n.Inputs[0], n.Inputs[1], n.Inputs[2]
		w.Offsets = kernels.OffsetsMins
		if s, ok := p.shape(w.codes); ok && len(s) > 0 {
			w.n = s[0]
		}
	default:
		return w, "", false
	}
	if w.offsets == "" {
		w.Offsets = kernels.OffsetsNone
	}
	w.k = n.AttrInt("K", 0)
	if block < 16 || block > 1<<20 || bits.OnesCount64(uint64(block)) != 1 || w.Bits < 2 || w.Bits > 8 || w.Bits == 7 || w.n < 1 || w.k < 1 {
		return w, "", false
	}
	w.Block = uint32(block)
	blocks := (w.k + block - 1) / block
	w.stride = (w.k*int64(w.Bits) + 7) / 8
	if s, ok := p.shape(w.codes); n.Domain == graph.DomainMicrosoft || ok && len(s) == 3 {
		w.stride = blocks * block * int64(w.Bits) / 8 // whole blocks
	}
	if _, ok := p.constant(w.codes, w.n*w.stride, tensor.Uint8); !ok {
		return w, "", false
	}
	scales, ok := p.constant(w.scales, w.n*blocks, tensor.Float16, tensor.Float32)
	if !ok {
		return w, "", false
	}
	w.Scales = uint32(scales.DType)
	switch w.Offsets {
	case kernels.OffsetsZeros:
		_, ok = p.constant(w.offsets, w.n*((blocks*int64(w.Bits)+7)/8), tensor.Uint8)
	case kernels.OffsetsMins:
		_, ok = p.constant(w.offsets, w.n*blocks, scales.DType)
	}
	return w, bias, ok
}

// blocksLinear: a product with a weight in blocks, with what follows it as linear has it.
func (p *planner) blocksLinear(n *graph.Node) *unit {
	w, bias, ok := p.blocksWeight(n)
	if !ok || n.OpType == "GatherBlocks" {
		return nil
	}
	x := n.Inputs[0]
	xs, known := p.shape(x)
	if !known || len(xs) < 1 || p.dtype(x) != tensor.Float32 || xs[len(xs)-1] != w.k || p.elements(x) == 0 || bias != "" && !p.isBias(bias, w.n) {
		return nil
	}
	g := kernels.GemmBlocks{M: p.elements(x) / w.k, N: w.n, K: w.k, LDA: w.k, LDC: w.n, LDR: w.n, Weight: w.Blocks}
	u := &unit{nodes: []*graph.Node{n}, reads: []string{x}}
	if n.AttrInt("accuracy_level", 0) == accuracyInt8 {
		g.Quantized = 1
		x = p.quantized(x, g.M, w.k, w.Unit())
		u.reads[0] = x
	}
	after := p.epilogue(u, n.Outputs[0], bias, w.n, true)
	g.Activation = after.activation
	u.emit = func(p *planner, prog *kernels.Program) error {
		b, err := p.weights.blocks(p, w)
		if err != nil {
			return err
		}
		op := g
		op.A, op.B, op.C = p.ref(x), kernels.Ref{Buffer: p.open(w.key(), b)}, p.ref(after.out)
		op.Bias, op.Residual = p.ref(after.bias), p.ref(after.residual)
		prog.Add(&op)
		return nil
	}
	return u
}

// gatherBlocks: rows of a constant table in blocks, which is read where it lies.
func (p *planner) gatherBlocks(n *graph.Node) *unit {
	if n.Domain != graph.DomainAccel || n.OpType != "GatherBlocks" {
		return nil
	}
	w, _, ok := p.blocksWeight(n)
	ids := n.Inputs[3]
	if !ok || !p.fixed([]string{ids}) || p.elements(ids) == 0 || p.dtype(ids) != tensor.Int64 && p.dtype(ids) != tensor.Int32 {
		return nil
	}
	u := &unit{nodes: []*graph.Node{n}, reads: []string{ids}, writes: n.Outputs}
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.GatherBlocks{Codes: p.ref(w.codes), Scales: p.ref(w.scales), Offsets: p.ref(w.offsets), Index: p.ref(ids), Y: p.ref(n.Outputs[0]),
			N: w.n, K: w.k, CodesStride: w.stride, Count: p.elements(ids), Weight: w.Blocks, IndexType: uint32(p.dtype(ids))})
		return nil
	}
	return u
}

// quantized is the value of rows [m,k] rounded to 8 bits, in units of k. All that read it share
// it: it is made before the first of them.
func (p *planner) quantized(x string, m, k int64, by uint32) string {
	name := fmt.Sprintf("%s:in 8 bits by %d", x, by)
	if p.rounded[name] != nil {
		return name
	}
	p.types[name] = graph.TensorType(tensor.Uint8, graph.Known(kernels.QuantizedBytes(m, k, by)))
	p.rounded[name] = &unit{reads: []string{x}, writes: []string{name}, emit: func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.QuantizeRows{X: p.ref(x), Q: p.ref(name), Rows: m, K: k, LDX: k, Unit: by})
		return nil
	}}
	return name
}

// blocks is the packed form of a weight in blocks.
func (pw *packedWeights) blocks(p *planner, w blocksWeight) (tensor.Tensor, error) {
	size, err := pw.runner.PackedBlocksBytes(w.Blocks, w.n, w.k)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return pw.kept(kernels.PackedBlocks, w.key(), fmt.Sprintf("%d %d %+v", w.n, w.k, w.Blocks), size, size, func(out []byte, _ int64) error {
		op := &kernels.PackBlocks{Dst: kernels.Ref{Buffer: 1}, N: w.n, K: w.k, CodesStride: w.stride, Weight: w.Blocks}
		buffers := []kernels.Buffer{{}, kernels.BufferOf(out)}
		for _, part := range []struct {
			name string
			to   *kernels.Ref
		}{{w.codes, &op.Codes}, {w.scales, &op.Scales}, {w.offsets, &op.Offsets}} {
			if part.name != "" {
				*part.to = kernels.Ref{Buffer: uint32(len(buffers))}
				buffers = append(buffers, kernels.BufferOf(p.constants[part.name].Tensor.Aligned().Data))
			}
		}
		prog := &kernels.Program{}
		prog.Add(op)
		if err := pw.runner.Run(prog, buffers, nil); err != nil {
			return err
		}
		for _, name := range []string{w.codes, w.scales, w.offsets} {
			if name != "" {
				pw.readOnce(p.constants[name])
			}
		}
		return nil
	})
}
