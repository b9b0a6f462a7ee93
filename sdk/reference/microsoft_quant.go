package reference

import (
	"fmt"
	"math"
	"runtime"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

var microsoftQuantOps = []spec{
	{"MatMulNBits", since(1), "A T:f32|f16|bf16, B u8, scales f32|f16|bf16, zero_points? u8|f32|f16|bf16, g_idx? i32, bias? T -> Y T",
		"K int!, N int!, accuracy_level int=0, bits int=4, block_size int!, weight_prepacked int=0", matMulNBits},
	{"MatMulBnb4", since(1), "A T:f32|f16|bf16, B u8, absmax T -> Y T", "K int!, N int!, block_size int!, quant_type int!, training_mode int=0, transB int=1", matMulBnb4},
	{"GatherBlockQuantized", since(1), "data T1:i4|u4|u8|f8|f4, indices idx, scales T2:f32|f16|bf16, zero_points? T1 -> output T2",
		"bits int=4, block_size int=128, gather_axis int=0, quantize_axis int=1", gatherBlockQuantized},
	{"QuantizeLinear", since(1), "x T1:f32|f16, y_scale T1, y_zero_point? T2:i8|u8|i16|u16|i4|u4 -> y T2", "axis int=1", quantizeLinear},
	{"DequantizeLinear", since(1), "x T1:i8|u8|i16|u16|i32|i4|u4, x_scale T2:f32|f16, x_zero_point? T1 -> y T2", "axis int=1", dequantizeLinear},
	{"DynamicQuantizeMatMul", since(1), "A T1:f32, B T2:i8|u8, b_scale T1, b_zero_point? T2, bias? T1 -> Y T1", "", dynamicQuantizeMatMul},
	{"MatMulIntegerToFloat", since(1), "A T1:i8|u8, B T2:i8|u8, a_scale T3:f32|f16, b_scale T3, a_zero_point? T1, b_zero_point? T2, bias? T3 -> Y T3", "", matMulIntegerToFloat},
	{"MatMulInteger16", since(1), "A i16|u16, B i16|u16 -> Y i32|u32", "", matMulInteger16},
	{"QGemm", since(1), "A TA:i8|u8, a_scale T:f32, a_zero_point TA, B TB:i8|u8, b_scale T, b_zero_point TB, C? i32, y_scale? T, y_zero_point? TYZ:i8|u8 -> Y f32|i8|u8",
		"alpha float=1, transA int=0, transB int=0", qGemm},
	{"QLinearConv", since(1), "x T1:i8|u8, x_scale f32, x_zero_point T1, w T2:i8|u8, w_scale f32, w_zero_point T2, y_scale f32, y_zero_point T3:i8|u8, B? i32 -> y T3",
		convAttrs + ", channels_last int=0", microsoftQLinearConv},
	{"QLinearAdd", since(1), qLinearBinary, "", qLinearArithmetic(func(a, b float64) float64 { return a + b })},
	{"QLinearMul", since(1), qLinearBinary, "", qLinearArithmetic(func(a, b float64) float64 { return a * b })},
	{"QLinearSigmoid", since(1), qLinearUnary, "", qLinearMap(func(*call) func(float64) float64 { return sigmoid })},
	{"QLinearLeakyRelu", since(1), qLinearUnary, "alpha float=0.01", qLinearMap(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 {
			if x < 0 {
				return alpha * x
			}
			return x
		}
	})},
	{"QLinearSoftmax", since(1), "X T:i8|u8, X_scale f32, x_zero_point? T, y_scale f32, y_zero_point T -> Y T", "axis int=-1, opset int!", qLinearSoftmax},
	{"QLinearGlobalAveragePool", since(1), "X T:i8|u8, x_scale f32, x_zero_point T, y_scale f32, y_zero_point T -> Y T", "channels_last int=0", qLinearGlobalAveragePool},
	{"QLinearAveragePool", since(1), "X T:i8|u8, x_scale f32, x_zero_point? T, y_scale f32, y_zero_point? T -> Y T",
		poolAttrs + ", channels_last int=0, count_include_pad int=0", qLinearAveragePool},
	{"QLinearConcat", since(1), "Y_scale f32, Y_zero_point T8:i8|u8, inputs... i8|u8|f32 -> Y T8", "axis int!", qLinearConcat},
	{"QLinearWhere", since(1), "condition bool, X T:i8|u8, x_scale f32, x_zero_point T, Y T, y_scale f32, y_zero_point T, z_scale f32, z_zero_point T -> Z T", "", qLinearWhere},
}

const (
	qLinearUnary  = "X T:i8|u8, X_scale f32, X_zero_point? T, Y_scale f32, Y_zero_point? T -> Y T"
	qLinearBinary = "A T:i8|u8, A_scale f32, A_zero_point? T, B T, B_scale f32, B_zero_point? T, C_scale f32, C_zero_point? T -> C T"
)

// matMulNBits multiplies with a matrix [N,K] of 2, 4 or 8 bit numbers that share a
// scale and zero point in blocks along K. Lowest bits come first. Weights without
// elements are a product that is left out: zero.
//
// accuracy_level allows A to be rounded, and is not made use of. The kernel refuses
// scales of another type than A, and zero points of floats for 8 bits; with g_idx
// it takes no notice of packed zero points. The schema is followed in all three.
func matMulNBits(c *call) error {
	a, b, scales := c.tensor(0), c.tensor(1), c.tensor(2)
	k, n, bits, block := c.int("K"), c.int("N"), c.int("bits"), c.int("block_size")
	if bits != 2 && bits != 4 && bits != 8 {
		return fmt.Errorf("attribute bits is %d, wants 2, 4 or 8", bits)
	}
	if block < 16 || block&(block-1) != 0 || block > maxSpatial || k < 1 || n < 1 || k > maxSpatial || n > maxSpatial {
		return fmt.Errorf("attributes K %d, N %d, block_size %d: positive sizes and a power of two of at least 16 are wanted", k, n, block)
	}
	if c.int("weight_prepacked") != 0 {
		return fmt.Errorf("attribute weight_prepacked is %d: the layouts of devices are not known", c.int("weight_prepacked"))
	}
	blocks := (k + block - 1) / block
	blob := block * bits / 8
	if omitted := len(b.Shape) == 3 && b.Len() == 0 && (b.Shape[0] == 0 || b.Shape[0] == n) && (b.Shape[1] == 0 || b.Shape[1] == blocks) &&
		(b.Shape[2] == 0 || b.Shape[2] == blob); omitted {
		return c.matMulWeights(a, k, n, 5, func(dst []float64, _ int64) { clear(dst) })
	}
	if int64(b.Len()) != n*blocks*blob {
		return badInput(1, "has shape %v, wants [%d,%d,%d]", b.Shape, n, blocks, blob)
	}
	if int64(scales.Len()) != n*blocks {
		return badInput(2, "has shape %v, wants [%d,%d]", scales.Shape, n, blocks)
	}
	zeroBytes := (blocks*bits + 7) / 8
	zeros := c.tensor(3)
	packedZeros := zeros.DType == tensor.Uint8
	switch {
	case !c.has(3):
	case packedZeros && int64(zeros.Len()) != n*zeroBytes:
		return badInput(3, "has shape %v, wants [%d,%d]", zeros.Shape, n, zeroBytes)
	case !packedZeros && int64(zeros.Len()) != n*blocks:
		return badInput(3, "has shape %v, wants [%d,%d]", zeros.Shape, n, blocks)
	}
	group := func(col int64) int64 { return col / block }
	if c.has(4) && c.tensor(4).Len() > 0 {
		index := c.tensor(4)
		if int64(index.Len()) < k {
			return badInput(4, "has shape %v, wants [%d]", index.Shape, k)
		}
		for i := range index.Len() {
			if v := intAt(index, i); v < 0 || v >= blocks {
				return badInput(4, "holds %d, there are %d groups", v, blocks)
			}
		}
		group = func(col int64) int64 { return intAt(index, int(col)) }
	}
	zero := func(row, g int64) float64 {
		switch {
		case !c.has(3):
			return float64(int64(1) << (bits - 1))
		case packedZeros:
			return float64(packed(zeros.Data[row*zeroBytes:], int(bits), int(g)))
		}
		return floatAt(zeros, int(row*blocks+g))
	}
	return c.matMulWeights(a, k, n, 5, func(dst []float64, row int64) {
		for col := range dst {
			g := group(int64(col))
			q := packed(b.Data[row*blocks*blob:], int(bits), col)
			dst[col] = (float64(q) - zero(row, g)) * floatAt(scales, int(row*blocks+g))
		}
	})
}

// bnb4 are the values of codes of 4 bits: 0 FP4, 1 NF4 (Dettmers et al., QLoRA, 2023).
var bnb4 = [2][16]float64{
	{0, 0.0052083333, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25, -0, -0.0052083333, -0.66666667, -1, -0.33333333, -0.5, -0.16666667, -0.25},
	{-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
		0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1},
}

// matMulBnb4 multiplies with a matrix [N,K], flat, whose elements are codes of 4 bits
// of a table, high nibble first, times the largest value of their block.
func matMulBnb4(c *call) error {
	a, b, largest := c.tensor(0), c.tensor(1), c.tensor(2)
	k, n, block, kind := c.int("K"), c.int("N"), c.int("block_size"), c.int("quant_type")
	if k < 1 || n < 1 || block < 1 || k > maxSpatial || n > maxSpatial || kind != 0 && kind != 1 {
		return fmt.Errorf("attributes K %d, N %d, block_size %d, quant_type %d: positive sizes and 0 or 1 are wanted", k, n, block, kind)
	}
	if !c.flag("transB") {
		return fmt.Errorf("attribute transB 0 is not supported")
	}
	if int64(b.Len()) != (n*k+1)/2 {
		return badInput(1, "has shape %v, wants [%d]", b.Shape, (n*k+1)/2)
	}
	if int64(largest.Len()) != (n*k-1)/block+1 {
		return badInput(2, "has shape %v, wants [%d]", largest.Shape, (n*k-1)/block+1)
	}
	return c.matMulWeights(a, k, n, len(c.op.inputs), func(dst []float64, row int64) {
		for col := range dst {
			i := row*k + int64(col)
			dst[col] = bnb4[kind][b.Data[i/2]>>(4-i%2*4)&15] * floatAt(largest, int(i/block))
		}
	})
}

// gatherBlockQuantized looks rows up in a quantised table. uint8 holds codes of
// attribute bits, packed along the last dimension, whose zero is 2^(bits-1); the
// other types are what they are. An index out of range gives zeros.
func gatherBlockQuantized(c *call) error {
	data, ids, scales := c.tensor(0), c.tensor(1), c.tensor(2)
	rank := len(data.Shape)
	axis, err := axisOf(c.int("gather_axis"), rank)
	if err != nil {
		return err
	}
	along, err := axisOf(c.int("quantize_axis"), rank)
	if err != nil {
		return err
	}
	block, bits, float := c.int("block_size"), data.DType.Bits(), data.DType.IsFloat()
	if block < 16 && !(block == 0 && float) || block&(block-1) != 0 || block > maxSpatial {
		return fmt.Errorf("attribute block_size is %d, wants a power of two of at least 16", block)
	}
	per := int64(1) // codes in an element
	s := data.Shape.Clone()
	if data.DType == tensor.Uint8 {
		bits = int(c.int("bits"))
		if bits != 2 && bits != 4 && bits != 8 {
			return fmt.Errorf("attribute bits is %d, wants 2, 4 or 8", bits)
		}
		if axis != 0 || bits < 8 && along == 0 || bits < 8 && along != rank-1 {
			return fmt.Errorf("attributes gather_axis %d and quantize_axis %d: 0 and the last are wanted for uint8", axis, along)
		}
		per = int64(8 / bits)
		s[rank-1] *= per
	}
	if block == 0 {
		block = max(s[along], 1)
	}
	want := s.Clone()
	want[along] = (s[along] + block - 1) / block
	if len(scales.Shape) != rank {
		return badInput(2, "has shape %v, wants %v", scales.Shape, want)
	}
	for i, d := range scales.Shape {
		if d != want[i] && !(float && d == 1 && i != along) {
			return badInput(2, "has shape %v, wants %v", scales.Shape, want)
		}
	}
	zeroShape := want.Clone()
	if per > 1 {
		zeroShape[rank-1] = (want[rank-1] + per - 1) / per
	}
	zeros := c.tensor(3)
	if c.has(3) && (float || !zeros.Shape.Equal(zeroShape)) {
		return badInput(3, "has shape %v, wants %v, or none for floating-point numbers", zeros.Shape, zeroShape)
	}
	shape := append(append(s[:axis:axis].Clone(), ids.Shape...), s[axis+1:]...)
	out, err := c.make(0, scales.DType, shape)
	if err != nil || out.Len() == 0 {
		return err
	}
	inner := elements(s[axis+1:])
	if err := c.reserve((int64(ids.Len()) + int64(inner)*int64(runtime.GOMAXPROCS(0))) * 8); err != nil {
		return err
	}
	index := make([]int64, ids.Len())
	loadInt(index, ids, 0)
	st, zst := strides(s), strides(zeroShape)
	sst := broadcastStrides(scales.Shape, want)
	grain := max(1, 1<<12/inner)
	return c.parallel(elements(s[:axis])*len(index), grain, func(lo, hi int) error {
		v := make([]float64, inner)
		for item := lo; item < hi; item++ {
			id := index[item%len(index)]
			if id < 0 {
				id += s[axis]
			}
			if id < 0 || id >= s[axis] {
				continue
			}
			from := (item/len(index)*int(s[axis]) + int(id)) * inner
			for i := range v {
				at, scale, zero, last := from+i, 0, 0, 0
				for d := range rank {
					p := at / st[d] % int(s[d])
					if d == along {
						p /= int(block)
					}
					scale += p * sst[d]
					if d == rank-1 {
						last = p
						p /= int(per)
					}
					zero += p * zst[d]
				}
				code, shift := 0.0, 0.0
				if data.DType == tensor.Uint8 {
					code, shift = float64(packed(data.Data, bits, at)), float64(int(1)<<(bits-1))
					if c.has(3) {
						shift = float64(packed(zeros.Data[zero:], bits, last%int(per)))
					}
				} else {
					code = floatAt(data, at)
					if c.has(3) {
						shift = floatAt(zeros, zero)
					}
				}
				v[i] = (code - shift) * floatAt(scales, scale)
			}
			storeFloat(out, item*inner, v)
		}
		return nil
	})
}

// scaledProduct is the product of integers A, input ai, and B, input bi, times a
// scale for all and one for all or each column of B, plus a bias.
func (c *call) scaledProduct(a, b tensor.Tensor, la lane[int64], bi, bScale, bZero, bias int, aScale float64, d tensor.DType) error {
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	lb, err := c.shiftedLane(bZero, b.Shape, -1)
	if err != nil {
		return err
	}
	scales, err := c.widened(c.tensor(bScale))
	if err != nil {
		return err
	}
	if len(scales) != 1 && (len(scales) != s.n || len(c.tensor(bScale).Shape) != 1) {
		return badInput(bScale, "has shape %v, wants one element or [%d]", c.tensor(bScale).Shape, s.n)
	}
	var add []float64
	if c.has(bias) {
		if add, err = c.perChannel(bias, int64(s.n)); err != nil {
			return err
		}
	}
	out, err := c.make(0, d, s.out)
	if err != nil {
		return err
	}
	return multiply(c, s, out, a, b, la, lb, lane[int64]{store: func(t tensor.Tensor, at int, v []int64) {
		w := make([]float64, len(v))
		for i, x := range v {
			col := (at + i) % s.n
			w[i] = float64(x) * aScale * scales[col%len(scales)]
			if add != nil {
				w[i] += add[col]
			}
		}
		storeFloat(t, at, w)
	}})
}

func dynamicQuantizeMatMul(c *call) error {
	a := c.tensor(0)
	op, _ := Lookup(graph.DomainONNX, "DynamicQuantizeLinear", newest[graph.DomainONNX])
	inner := &call{ctx: c.ctx, op: op, node: &graph.Node{OpType: op.Name, Outputs: []string{"y", "s", "z"}}, mem: c.mem, in: c.in[:1:1], out: make([]graph.Datum, 3)}
	if err := inner.eval(); err != nil {
		return err
	}
	q, zero := inner.out[0].Tensor, intAt(inner.out[2].Tensor, 0)
	la := lane[int64]{load: func(dst []int64, t tensor.Tensor, at int) {
		loadInt(dst, t, at)
		for i := range dst {
			dst[i] -= zero
		}
	}}
	return c.scaledProduct(q, c.tensor(1), la, 1, 2, 3, 4, floatAt(inner.out[1].Tensor, 0), a.DType)
}

func matMulIntegerToFloat(c *call) error {
	scale, err := c.floatOf(2)
	if err != nil {
		return badInput(2, "%w", err)
	}
	if c.has(4) && c.tensor(4).Len() != 1 {
		return badInput(4, "has shape %v, wants one element", c.tensor(4).Shape)
	}
	la, err := c.shiftedLane(4, c.tensor(0).Shape, -1)
	if err != nil {
		return err
	}
	return c.scaledProduct(c.tensor(0), c.tensor(1), la, 1, 3, 5, 6, scale, c.tensor(2).DType)
}

// matMulInteger16 wraps like int32.
func matMulInteger16(c *call) error {
	a, b := c.tensor(0), c.tensor(1)
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	d := tensor.Int32
	if a.DType == tensor.Uint16 && b.DType == tensor.Uint16 {
		d = tensor.Uint32
	}
	out, err := c.make(0, d, s.out)
	if err != nil {
		return err
	}
	return multiply(c, s, out, a, b, intLane, intLane, intLane)
}

// qGemm is Gemm of integers. C is added to the sums, so it is in their scale; with a
// scale for the output that is quantised, else it is float32.
func qGemm(c *call) error {
	a, b := c.tensor(0), c.tensor(3)
	if len(a.Shape) != 2 || len(b.Shape) != 2 {
		return fmt.Errorf("shapes %v and %v: matrices are wanted", a.Shape, b.Shape)
	}
	if c.has(7) != c.has(8) {
		return fmt.Errorf("y_scale and y_zero_point must be given together")
	}
	aScale, err := c.floatOf(1)
	if err != nil {
		return badInput(1, "%w", err)
	}
	if c.tensor(2).Len() != 1 {
		return badInput(2, "has shape %v, wants one element", c.tensor(2).Shape)
	}
	if c.flag("transA") {
		if a, err = c.transposed(a, []int{1, 0}); err != nil {
			return err
		}
	}
	if c.flag("transB") {
		if b, err = c.transposed(b, []int{1, 0}); err != nil {
			return err
		}
	}
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	la, err := c.shiftedLane(2, a.Shape, -2)
	if err != nil {
		return err
	}
	lb, sb, err := c.quantized(4, 5, b.Shape, -1)
	if err != nil {
		return err
	}
	var add tensor.Tensor
	var st []int
	if c.has(6) {
		add = c.tensor(6)
		if got, err := broadcast(add.Shape, s.out); err != nil || !got.Equal(s.out) {
			return badInput(6, "has shape %v, which does not broadcast to %v", add.Shape, s.out)
		}
		st = broadcastStrides(add.Shape, s.out)
	}
	d, scale, zero := tensor.Float32, 1.0, 0.0
	if c.has(7) {
		d = c.tensor(8).DType
		if scale, err = c.floatOf(7); err != nil {
			return badInput(7, "%w", err)
		}
		if zero, err = c.floatOf(8); err != nil {
			return badInput(8, "%w", err)
		}
	}
	out, err := c.make(0, d, s.out)
	if err != nil {
		return err
	}
	alpha := c.float("alpha")
	return multiply(c, s, out, a, b, la, lb, lane[int64]{store: func(t tensor.Tensor, at int, v []int64) {
		factor := func(i int) float64 { return alpha * aScale * sb[(at+i)%s.n%len(sb)] }
		for i := range v {
			if st != nil {
				v[i] += intAt(add, (at+i)/s.n*st[0]+(at+i)%s.n*st[1])
			}
			if d == tensor.Float32 {
				putFloat(t, at+i, float64(v[i])*factor(i))
			}
		}
		if d != tensor.Float32 {
			requantize(t, at, v, factor, scale, zero)
		}
	}})
}

func microsoftQLinearConv(c *call) error {
	f := func(x tensor.Tensor) (tensor.Tensor, error) {
		in := c.tensors(0)
		in[0] = x
		return c.sub("", "QLinearConv", c.givenAttrs("channels_last"), in...)
	}
	if c.flag("channels_last") {
		return c.channelsLast(0, f)
	}
	y, err := f(c.tensor(0))
	if err != nil {
		return err
	}
	c.give(0, y)
	return nil
}

// grid is a linear quantisation of a whole tensor.
type grid struct{ scale, zero float64 }

// grid reads scale and zero point, inputs i and i+1; the latter may be left out.
func (c *call) grid(i int) (g grid, err error) {
	if g.scale, err = c.floatOf(i); err != nil {
		return g, badInput(i, "%w", err)
	}
	if c.has(i + 1) {
		if g.zero, err = c.floatOf(i + 1); err != nil {
			return g, badInput(i+1, "%w", err)
		}
	}
	return g, nil
}

func (g grid) from(code float64) float64 { return (code - g.zero) * g.scale }

// to rounds to the nearest code, ties to even. The kernels divide in float32.
func (g grid) to(x float64, d tensor.DType) int64 {
	return saturateInt(math.RoundToEven(float64(float32(x)/float32(g.scale)))+g.zero, d)
}

// qLinearMap computes a function of quantised numbers, a table of 256 entries.
func qLinearMap(f func(*call) func(float64) float64) func(*call) error {
	return func(c *call) error {
		x := c.tensor(0)
		from, err := c.grid(1)
		if err != nil {
			return err
		}
		to, err := c.grid(3)
		if err != nil {
			return err
		}
		out, err := c.make(0, x.DType, x.Shape)
		if err != nil {
			return err
		}
		g := f(c)
		return c.mapCodes(out, 0, x, func(code float64) int64 { return to.to(g(from.from(code)), out.DType) })
	}
}

// mapCodes stores f of each element of x, of 8 bits, in out from an element on.
func (c *call) mapCodes(out tensor.Tensor, at int, x tensor.Tensor, f func(float64) int64) error {
	var table [256]byte
	for i := range table {
		code := float64(i)
		if x.DType == tensor.Int8 {
			code = float64(int8(i))
		}
		table[i] = byte(f(code))
	}
	return c.parallel(x.Len(), 1<<16, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			out.Data[at+i] = table[x.Data[i]]
		}
		return nil
	})
}

func qLinearArithmetic(f func(a, b float64) float64) func(*call) error {
	return func(c *call) error {
		a, b := c.tensor(0), c.tensor(3)
		var g [3]grid
		for i, at := range []int{1, 4, 6} {
			var err error
			if g[i], err = c.grid(at); err != nil {
				return err
			}
		}
		s, err := broadcast(a.Shape, b.Shape)
		if err != nil {
			return err
		}
		out, err := c.make(0, a.DType, s)
		if err != nil {
			return err
		}
		return lanes(c, out, intLane, floatLane, each2(func(x, y float64) int64 {
			return g[2].to(f(g[0].from(x), g[1].from(y)), out.DType)
		}), a, b)
	}
}

// qLinearSoftmax is, before operator set 13, over all dimensions from the axis on as
// one.
func qLinearSoftmax(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	from, err := c.grid(1)
	if err != nil {
		return err
	}
	to, err := c.grid(3)
	if err != nil {
		return err
	}
	over := make([]bool, len(x.Shape))
	for i := range over {
		over[i] = i == axis || c.int("opset") < 13 && i > axis
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	y, err := c.new(tensor.Float32, x.Shape)
	if err != nil {
		return err
	}
	if err := c.mapGroups(y, x, over, func(v []float64) {
		for i := range v {
			v[i] = from.from(v[i])
		}
		softmax(v)
	}); err != nil {
		return err
	}
	return lanes(c, out, intLane, floatLane, each1(func(p float64) int64 { return to.to(p, out.DType) }), y)
}

func qLinearGlobalAveragePool(c *call) error {
	x := c.tensor(0)
	rank := len(x.Shape)
	if rank < 3 || x.Len() == 0 {
		return badInput(0, "has shape %v, wants pictures", x.Shape)
	}
	from, err := c.grid(1)
	if err != nil {
		return err
	}
	to, err := c.grid(3)
	if err != nil {
		return err
	}
	over := make([]bool, rank)
	for i := range over {
		over[i] = i >= 2
		if c.flag("channels_last") {
			over[i] = i > 0 && i < rank-1
		}
	}
	g := newGroups(x.Shape, over, true)
	out, err := c.make(0, x.DType, g.out)
	if err != nil {
		return err
	}
	return c.parallel(out.Len(), max(1, 1<<13/g.n), func(lo, hi int) error {
		eachGroup(g, x, floatLane, lo, hi, func(i int, v []float64) { putInt(out, i, to.to(from.from(meanOf(v)), out.DType)) })
		return nil
	})
}

func qLinearAveragePool(c *call) error {
	if _, err := c.grid(1); err != nil {
		return err
	}
	to, err := c.grid(3)
	if err != nil {
		return err
	}
	f := func(x tensor.Tensor) (tensor.Tensor, error) {
		y, err := c.sub("", "DequantizeLinear", nil, x, c.tensor(1), c.tensor(2))
		if err != nil {
			return y, err
		}
		if y, err = c.sub("", "AveragePool", c.givenAttrs("channels_last"), y); err != nil {
			return y, err
		}
		q, err := c.new(x.DType, y.Shape)
		if err != nil {
			return q, err
		}
		return q, lanes(c, q, intLane, floatLane, each1(func(v float64) int64 { return to.to(v, q.DType) }), y)
	}
	if c.flag("channels_last") {
		return c.channelsLast(0, f)
	}
	y, err := f(c.tensor(0))
	if err != nil {
		return err
	}
	c.give(0, y)
	return nil
}

// qLinearConcat brings tensors, each followed by its scale and zero point, to one
// grid and joins them.
func qLinearConcat(c *call) error {
	to, err := c.grid(0)
	if err != nil {
		return err
	}
	d := c.tensor(1).DType
	var parts []tensor.Tensor
	if n := len(c.in) - 2; n < 3 || n%3 != 0 {
		return fmt.Errorf("it has %d inputs: a scale, a zero point, and three for each tensor are wanted", len(c.in))
	}
	for i := 2; i < len(c.in); i += 3 {
		x := c.tensor(i)
		if x.DType != d || c.tensor(i+1).DType != tensor.Float32 || c.tensor(i+2).DType != d {
			return badInput(i, "is %s with scale %s and zero point %s, wants %s, float32 and %s", x.DType, c.tensor(i+1).DType, c.tensor(i+2).DType, d, d)
		}
		from, err := c.grid(i + 1)
		if err != nil {
			return err
		}
		if len(x.Shape) == 0 {
			return badInput(i, "is a scalar")
		}
		if from != to {
			q, err := c.new(d, x.Shape)
			if err != nil {
				return err
			}
			if err := c.mapCodes(q, 0, x, func(code float64) int64 { return to.to(from.from(code), d) }); err != nil {
				return err
			}
			x = q
		}
		parts = append(parts, x)
	}
	axis, err := axisOf(c.int("axis"), len(parts[0].Shape))
	if err != nil {
		return err
	}
	out, err := c.concat(parts, axis)
	if err != nil {
		return err
	}
	c.give(0, out)
	return nil
}

func qLinearWhere(c *call) error {
	condition, x, y := c.tensor(0), c.tensor(1), c.tensor(4)
	var g [3]grid
	for i, at := range []int{2, 5, 7} {
		var err error
		if g[i], err = c.grid(at); err != nil {
			return err
		}
	}
	s, err := broadcast(condition.Shape, x.Shape, y.Shape)
	if err != nil {
		return err
	}
	out, err := c.make(0, x.DType, s)
	if err != nil {
		return err
	}
	return lanes(c, out, intLane, floatLane, func(dst []int64, args [][]float64) error {
		for i := range dst {
			from, code := g[0], args[1][i]
			if args[0][i] == 0 {
				from, code = g[1], args[2][i]
			}
			dst[i] = g[2].to(from.from(code), out.DType)
		}
		return nil
	}, condition, x, y)
}
