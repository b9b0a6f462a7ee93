package kernels

import (
	"fmt"
	"unsafe"
)

// OffsetKind says what is added to the scaled codes of a weight in blocks.
type OffsetKind uint32

// The kinds: scale*(code - 2^(bits-1)), scale*(code - zero), scale*code + min.
const (
	OffsetsNone OffsetKind = iota
	OffsetsZeros
	OffsetsMins
)

// Blocks describes a weight of codes that share a scale, and perhaps an offset, in
// blocks along K. Scales is ONNX's number of f16 or f32.
type Blocks struct {
	Bits    uint32 // 2, 3, 4, 5, 6 or 8
	Block   uint32 // a power of two from 16 to 2^20
	Scales  uint32
	Offsets OffsetKind
}

// Unit is the number of activations that are rounded to 8 bits with one scale.
func (b Blocks) Unit() uint32 { return min(b.Block, 32) }

// QuantizedBytes is the size of rows of K numbers that QuantizeRows rounded in units.
func QuantizedBytes(rows, k int64, unit uint32) int64 {
	u := int64(unit)
	return rows * ((k + u - 1) / u) * (u + 8)
}

// PackBlocks writes a weight in blocks in the form that GemmBlocks reads; its size is Runner.PackedBlocksBytes.
type PackBlocks struct {
	Op                          opHead
	Codes, Scales, Offsets, Dst Ref
	N, K, CodesStride           int64
	Weight                      Blocks
}

// QuantizeRows rounds rows of f32 to 8 bits, for GemmBlocks; its output's size is QuantizedBytes.
type QuantizeRows struct {
	Op           opHead
	X, Q         Ref
	Rows, K, LDX int64
	Unit         uint32
	_            uint32
}

// GemmBlocks is C = act(A*B^T + bias) + residual with B in blocks, packed; A is f32 or, if Quantized is 1,
// what QuantizeRows wrote.
type GemmBlocks struct {
	Op                      opHead
	A, B, Bias, Residual, C Ref
	M, N, K                 int64
	LDA, LDC, LDR           int64
	Weight                  Blocks
	Activation              Activation
	Quantized               uint32
}

// GatherBlocks is y[count,k] = the rows Index of a weight in blocks that is not packed, f32.
type GatherBlocks struct {
	Op                               opHead
	Codes, Scales, Offsets, Index, Y Ref
	N, K, CodesStride, Count         int64
	Weight                           Blocks
	IndexType                        uint32
	_                                uint32
}

// PackedBlocksBytes is the size of a packed [n,k] weight in blocks.
func (r *Runner) PackedBlocksBytes(b Blocks, n, k int64) (int64, error) {
	size := r.packedBlocksBytes(&b, n, k)
	if size < 0 {
		return 0, fmt.Errorf("a weight of [%d,%d] can't be packed in blocks %+v", n, k, b)
	}
	return size, nil
}

func (o *PackBlocks) raw() (uint32, uintptr, *opHead)   { return 20, unsafe.Sizeof(*o), &o.Op }
func (o *QuantizeRows) raw() (uint32, uintptr, *opHead) { return 21, unsafe.Sizeof(*o), &o.Op }
func (o *GemmBlocks) raw() (uint32, uintptr, *opHead)   { return 22, unsafe.Sizeof(*o), &o.Op }
func (o *GatherBlocks) raw() (uint32, uintptr, *opHead) { return 23, unsafe.Sizeof(*o), &o.Op }
