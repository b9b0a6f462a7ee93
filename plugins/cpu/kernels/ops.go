package kernels

import "unsafe"

// The structs of this file mirror those of native/cpu/include/accelcpu.h, field by
// field; that header states what each operation computes, its shapes, types and
// rules. A test compares every offset with the library's own.

// Ref names memory: a byte offset into one of the buffers given to Run. The zero
// Ref is an absent operand; buffer 0 therefore stands for none.
type Ref struct {
	Buffer uint32
	_      uint32
	Offset int64
}

// Format is an arrangement of packed weights.
type Format uint32

// Weights in column panels, by the type of their elements. PackedBlocks is what the operation
// PackBlocks writes.
const (
	PackF32 Format = iota
	PackF16
	PackBF16
	PackedBlocks
)

// Activation is applied by Gemm and MatMul while a tile is in registers.
type Activation uint32

// The activations; formulas in accelcpu.h.
const (
	ActNone Activation = iota
	ActRelu
	ActGeluErf
	ActGeluTanh
	ActSilu
	ActTanh
	ActSigmoid
	// Conv only, with its ActA and ActB.
	ActClip
	ActLeakyRelu
	ActHardSigmoid
	ActHardSwish
)

// MaskKind says what an attention mask holds.
type MaskKind uint32

// MaskAdd is f32 added to the scores; MaskBool is a byte each, non-zero to attend.
const (
	MaskNone MaskKind = iota
	MaskAdd
	MaskBool
)

// NormKind chooses the normalisation of Norm and Embed.
type NormKind uint32

// EmbedPlain, in Embed only, leaves the sum as it is.
const (
	NormLayer  NormKind = 0
	NormRMS    NormKind = 1
	NormL2     NormKind = 2
	EmbedPlain NormKind = 255
)

// ReduceKind chooses what Reduce computes.
type ReduceKind uint32

// The reductions.
const (
	ReduceSum ReduceKind = iota
	ReduceMean
	ReduceMax
	ReduceMin
	ReduceProd
	ReduceSumSq
	ReduceL2
	ReduceL1
)

// PoolKind chooses what Pool computes.
type PoolKind uint32

// The poolings; which taps an average counts is in accelcpu.h.
const (
	PoolMax PoolKind = iota
	PoolAverage
	PoolAveragePadded
)

// Fn is one elementwise function of a Map.
type Fn uint8

// The functions; operand counts, types and errors in accelcpu.h.
const (
	FnConst Fn = 1
	FnCopy  Fn = 2
	FnAdd   Fn = 3
	FnSub   Fn = 4
	FnMul   Fn = 5
	FnDiv   Fn = 6
	FnMin   Fn = 7
	FnMax   Fn = 8
	FnNeg   Fn = 9
	FnAbs   Fn = 10
	FnSign  Fn = 11
	FnEq    Fn = 12
	FnNe    Fn = 13
	FnLt    Fn = 14
	FnLe    Fn = 15
	FnGt    Fn = 16
	FnGe    Fn = 17
	FnAnd   Fn = 18
	FnOr    Fn = 19
	FnXor   Fn = 20
	FnNot   Fn = 21
	FnWhere Fn = 22
	FnMod   Fn = 23
	FnFmod  Fn = 24
	FnPow   Fn = 25

	FnSqrt     Fn = 32
	FnRsqrt    Fn = 33
	FnRecip    Fn = 34
	FnExp      Fn = 35
	FnLog      Fn = 36
	FnTanh     Fn = 37
	FnErf      Fn = 38
	FnSigmoid  Fn = 39
	FnSilu     Fn = 40
	FnGeluErf  Fn = 41
	FnGeluTanh Fn = 42
	FnRelu     Fn = 43
	FnFloor    Fn = 44
	FnCeil     Fn = 45
	FnRound    Fn = 46
	FnSin      Fn = 47
	FnCos      Fn = 48
	FnTan      Fn = 49
	FnAsin     Fn = 50
	FnAcos     Fn = 51
	FnAtan     Fn = 52
	FnSinh     Fn = 53
	FnCosh     Fn = 54
	FnAsinh    Fn = 55
	FnAcosh    Fn = 56
	FnAtanh    Fn = 57
	FnSoftplus Fn = 58
	FnIsNaN    Fn = 59
)

// Limits of the operation structs.
const (
	MatMulRank  = 6
	MapRank     = 6
	MapInputs   = 6
	MapSteps    = 24
	CopyRank    = 8
	EmbedTables = 4
	Spatial     = 3
)

// StepResult is the operand number of step i's result, for a later Step.
func StepResult(i int) uint8 { return uint8(8 + i) }

// Op is an operation of a Program: a pointer to one of the structs below.
type Op interface {
	raw() (kind uint32, size uintptr, head *opHead)
}

type opHead struct{ kind, bytes uint32 }

// Pack writes a weight in the form that Gemm reads; its size is Runner.PackedBytes.
type Pack struct {
	Op               opHead
	Src, Dst         Ref
	N, K             int64
	NStride, KStride int64
	Format           Format
	_                uint32
}

// Gemm is C = act(alpha*A*B^T + bias) + residual with a packed B, the rest f32; A may be bf16 where B is.
type Gemm struct {
	Op                      opHead
	A, B, Bias, Residual, C Ref
	M, N, K                 int64
	LDA, LDC, LDR           int64
	Alpha                   float32
	Activation              Activation
	Format                  Format
	AType                   uint32 // of ONNX's numbers: f32 or bf16
}

// MatMul is C = act(alpha*A*B + bias) over a batch, both sides strided, f32.
type MatMul struct {
	Op                     opHead
	A, B, Bias, C          Ref
	M, N, K                int64
	ARow, ACol, BRow, BCol int64
	CRow                   int64
	Batch                  [MatMulRank]int64
	ABatch, BBatch, CBatch [MatMulRank]int64
	Rank                   uint32
	Alpha                  float32
	Activation             Activation
	_                      uint32
}

// Attention is softmax(scale*q*k^T + mask)*v per batch and head, f32.
type Attention struct {
	Op                                 opHead
	Q, K, V, Mask, KVLengths, O        Ref
	Batch, Heads, KVHeads, QLen, KVLen int64
	HeadDim, VDim                      int64
	QStride, KStride, VStride, OStride [3]int64
	MaskStride                         [4]int64
	Offset, Window                     int64
	Scale, Softcap                     float32
	MaskKind                           MaskKind
	Causal                             uint32
}

// Norm normalises rows, adding a residual before, f32.
type Norm struct {
	Op                             opHead
	X, Residual, Gamma, Beta, Sum  Ref
	Y                              Ref
	Rows, Cols, LDX, LDR, LDS, LDY int64
	Eps                            float32
	Norm                           NormKind
}

// Softmax runs along the middle of [outer, axis, inner], f32, dense.
type Softmax struct {
	Op                 opHead
	X, Y               Ref
	Outer, Axis, Inner int64
	Log                uint32
	_                  uint32
}

// Step is one function of a Map. Operands 0..5 are inputs, StepResult(i) a step's result.
type Step struct {
	Fn      Fn
	A, B, C uint8
	_       uint32
	Imm     int64
}

// MapOperand is an input or the output of a Map. DType has ONNX's numbers.
type MapOperand struct {
	Data   Ref
	DType  uint32
	_      uint32
	Stride [MapRank]int64
}

// Map is a chain of elementwise functions with broadcasting.
type Map struct {
	Op      opHead
	Compute uint32
	Rank    uint32
	Inputs  uint32
	Steps   uint32
	Dims    [MapRank]int64
	Out     MapOperand
	In      [MapInputs]MapOperand
	Step    [MapSteps]Step
}

// Cast converts N dense elements.
type Cast struct {
	Op               opHead
	Src, Dst         Ref
	N                int64
	SrcType, DstType uint32
}

// Copy moves elements between two strided arrangements.
type Copy struct {
	Op                         opHead
	Src, Dst                   Ref
	Rank, ElemBytes            uint32
	Dims, SrcStride, DstStride [CopyRank]int64
}

// Gather is y[outer,count,inner] = data[outer,axis,inner] at index[count]; Inner in bytes.
type Gather struct {
	Op                        opHead
	Data, Index, Y            Ref
	Outer, Axis, Inner, Count int64
	IndexType                 uint32
	_                         uint32
}

// Embed sums rows of up to four tables, then normalises, f32.
type Embed struct {
	Op                opHead
	Table, IDs        [EmbedTables]Ref
	Gamma, Beta, Y    Ref
	TableRows, Period [EmbedTables]int64
	Count, Width, LDY int64
	Tables, IDsType   uint32
	Eps               float32
	Norm              NormKind
}

// Reduce reduces the middle of [outer, axis, inner], f32, dense.
type Reduce struct {
	Op                 opHead
	X, Weight, Y       Ref
	Outer, Axis, Inner int64
	Reduce             ReduceKind
	Eps                float32
}

// Conv is act(conv(x, w) + bias + residual), f32, over up to three spatial dimensions,
// the last ones; w is packed, or as ONNX has it where Channels is 1 and Groups more than 1.
type Conv struct {
	Op                               opHead
	X, W, Bias, Residual, Y          Ref
	Batch, Groups, Channels, Filters int64
	In, Kernel, Out                  [Spatial]int64
	Stride, Dilation, Pad            [Spatial]int64
	YStride                          [2 + Spatial]int64
	ActA, ActB                       float32
	Activation                       Activation
	ResidualLast                     uint32
	Format                           Format
	_                                uint32
}

// Pool reduces the windows of planes, f32.
type Pool struct {
	Op                            opHead
	X, Y                          Ref
	Planes                        int64
	In, Kernel, Out               [Spatial]int64
	Stride, Dilation, Pad, PadEnd [Spatial]int64
	Pool                          PoolKind
	_                             uint32
}

// Resample is one axis of a resize: each place a weighted sum of others, f32.
type Resample struct {
	Op                          opHead
	X, Index, Weight, Y         Ref
	Outer, In, Out, Inner, Taps int64
}

// GroupNorm normalises groups of channels, f32.
type GroupNorm struct {
	Op                             opHead
	X, Scale, Bias, Y              Ref
	Batch, Groups, Channels, Inner int64
	Eps                            float32
	Activation                     Activation
}

// SampleMode is how GridSample makes a point of its neighbours.
type SampleMode uint32

// The modes.
const (
	SampleNearest SampleMode = iota
	SampleLinear
	SampleCubic
)

// SamplePadding is what lies outside the image that GridSample reads.
type SamplePadding uint32

// The paddings.
const (
	SampleZeros SamplePadding = iota
	SampleBorder
	SampleReflection
)

// GridSample reads images at the places of a grid, over the last Rank dimensions, f32.
type GridSample struct {
	Op                      opHead
	X, Grid, Y              Ref
	Batch, Channels, Points int64
	In                      [Spatial]int64
	Rank                    uint32
	Mode                    SampleMode
	Padding                 SamplePadding
	AlignCorners            uint32
}

// AsMany, as a size of Paged, is what the buffer holds.
const AsMany = -1

// Paged is attention over keys and values in pages, and their writing.
type Paged struct {
	Op                                              opHead
	Q, K, V, KPages, VPages, Slots, PageTables      Ref
	Lengths, Starts, KScales, VScales, Bias, O      Ref
	Tokens, Heads, KVHeads, HeadDim, VDim, PageSize int64
	LDQ, LDK, LDV                                   int64
	Pages, Sequences, TableWidth                    int64
	Window, BiasColumns                             int64
	Scale, Softcap                                  float32
	KType, VType                                    uint32
	Causal                                          uint32
	_                                               uint32
}

// Rope turns pairs of elements of heads by angles.
type Rope struct {
	Op                                    opHead
	X, Cos, Sin, Positions, Y             Ref
	Batch, Tokens, Heads, Dim, Half, Rows int64
	XStride, YStride                      [3]int64
	Interleaved                           uint32
	_                                     uint32
}

func (o *Pack) raw() (uint32, uintptr, *opHead)       { return 1, unsafe.Sizeof(*o), &o.Op }
func (o *Gemm) raw() (uint32, uintptr, *opHead)       { return 2, unsafe.Sizeof(*o), &o.Op }
func (o *MatMul) raw() (uint32, uintptr, *opHead)     { return 3, unsafe.Sizeof(*o), &o.Op }
func (o *Attention) raw() (uint32, uintptr, *opHead)  { return 4, unsafe.Sizeof(*o), &o.Op }
func (o *Norm) raw() (uint32, uintptr, *opHead)       { return 5, unsafe.Sizeof(*o), &o.Op }
func (o *Softmax) raw() (uint32, uintptr, *opHead)    { return 6, unsafe.Sizeof(*o), &o.Op }
func (o *Map) raw() (uint32, uintptr, *opHead)        { return 7, unsafe.Sizeof(*o), &o.Op }
func (o *Cast) raw() (uint32, uintptr, *opHead)       { return 8, unsafe.Sizeof(*o), &o.Op }
func (o *Copy) raw() (uint32, uintptr, *opHead)       { return 9, unsafe.Sizeof(*o), &o.Op }
func (o *Gather) raw() (uint32, uintptr, *opHead)     { return 10, unsafe.Sizeof(*o), &o.Op }
func (o *Embed) raw() (uint32, uintptr, *opHead)      { return 11, unsafe.Sizeof(*o), &o.Op }
func (o *Reduce) raw() (uint32, uintptr, *opHead)     { return 12, unsafe.Sizeof(*o), &o.Op }
func (o *Conv) raw() (uint32, uintptr, *opHead)       { return 13, unsafe.Sizeof(*o), &o.Op }
func (o *Pool) raw() (uint32, uintptr, *opHead)       { return 14, unsafe.Sizeof(*o), &o.Op }
func (o *Resample) raw() (uint32, uintptr, *opHead)   { return 15, unsafe.Sizeof(*o), &o.Op }
func (o *GroupNorm) raw() (uint32, uintptr, *opHead)  { return 16, unsafe.Sizeof(*o), &o.Op }
func (o *GridSample) raw() (uint32, uintptr, *opHead) { return 17, unsafe.Sizeof(*o), &o.Op }
func (o *Paged) raw() (uint32, uintptr, *opHead)      { return 18, unsafe.Sizeof(*o), &o.Op }
func (o *Rope) raw() (uint32, uintptr, *opHead)       { return 19, unsafe.Sizeof(*o), &o.Op }

// Program is a list of operations that Runner.Run executes in one call. It holds
// no pointers: one Program serves any number of runs at a time, each with its
// own buffers, once nothing is added any more.
type Program struct {
	words []uint64
	count int
}

// Add appends a copy of op and returns its index, by which an Error names it.
func (p *Program) Add(op Op) int {
	kind, size, head := op.raw()
	*head = opHead{kind: kind, bytes: uint32(size)}
	p.words = append(p.words, unsafe.Slice((*uint64)(unsafe.Pointer(head)), size/8)...)
	p.count++
	return p.count - 1
}

// Len is the number of operations.
func (p *Program) Len() int { return p.count }
