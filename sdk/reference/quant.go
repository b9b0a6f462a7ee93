package reference

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

var quantOps = []spec{
	{"QuantizeLinear", since(10), "x f32|i32, y_scale f32, y_zero_point? U:i8|u8 -> y U", "", quantizeLinear},
	{"QuantizeLinear", since(13), "x f32|i32, y_scale f32, y_zero_point? U:i8|u8 -> y U", "axis int=1", quantizeLinear},
	{"QuantizeLinear", since(19), "x T:f32|f16|bf16|i32, y_scale T, y_zero_point? U:i8|u8|f8 -> y U", "axis int=1, saturate int=1", quantizeLinear},
	{"QuantizeLinear", since(21), "x T:f32|f16|bf16|i32, y_scale T, y_zero_point? U:i8|u8|i16|u16|f8|narrow -> y U",
		"axis int=1, block_size int=0, output_dtype int=0, saturate int=1", quantizeLinear},
	{"QuantizeLinear", since(23, 24, 25, 28), "x f32|f16|bf16|i32, y_scale f32|f16|bf16|i32|e8m0, y_zero_point? U:i8|u8|i16|u16|f8|narrow -> y U",
		"axis int=1, block_size int=0, output_dtype int=0, precision int=0, saturate int=1", quantizeLinear},
	{"DequantizeLinear", since(10), "x T:i8|u8|i32, x_scale f32, x_zero_point? T -> y f32", "", dequantizeLinear},
	{"DequantizeLinear", since(13), "x T:i8|u8|i32, x_scale f32, x_zero_point? T -> y f32", "axis int=1", dequantizeLinear},
	{"DequantizeLinear", since(19), "x T:i8|u8|i32|f8, x_scale f32|f16|bf16, x_zero_point? T -> y f32|f16|bf16", "axis int=1", dequantizeLinear},
	{"DequantizeLinear", since(21), "x T:i8|u8|i16|u16|i32|f8|narrow, x_scale f32|f16|bf16, x_zero_point? T -> y f32|f16|bf16",
		"axis int=1, block_size int=0", dequantizeLinear},
	{"DequantizeLinear", since(23, 24, 25, 28), "x T:i8|u8|i16|u16|i32|f8|narrow, x_scale f32|f16|bf16|e8m0, x_zero_point? T -> y f32|f16|bf16",
		"axis int=1, block_size int=0, output_dtype int=0", dequantizeLinear},
	{"DynamicQuantizeLinear", since(11), "x f32 -> y u8, y_scale f32, y_zero_point u8", "", dynamicQuantizeLinear},
	{"QLinearMatMul", since(10, 21), "a T1:i8|u8, a_scale TS:f32|f16|bf16, a_zero_point T1, b T2:i8|u8, b_scale TS, b_zero_point T2, y_scale TS, y_zero_point T3:i8|u8 -> y T3", "", qLinearMatMul},
	{"QLinearConv", since(10), "x T1:i8|u8, x_scale f32, x_zero_point T1, w T2:i8|u8, w_scale f32, w_zero_point T2, y_scale f32, y_zero_point T3:i8|u8, B? i32 -> y T3", convAttrs, qLinearConv},
}

// granularity finds the scale of an element: one for all, one for each entry of an
// axis, or one for each block along it.
type granularity struct {
	n                   int // scales
	inner, length, blen int
	blocks              int
}

// granularity compares the shape of scales, input 1, with that of the data.
func (c *call) granularity() (*granularity, error) {
	x, s := c.tensor(0).Shape, c.tensor(1).Shape
	single := c.tensor(1).Len() == 1 && len(s) <= 1
	if z := c.tensor(2); c.has(2) && !z.Shape.Equal(s) && !(single && z.Len() == 1) {
		return nil, badInput(2, "has shape %v, the scale has %v", z.Shape, s)
	}
	if single {
		return &granularity{n: 1}, nil
	}
	axis := int64(1)
	if _, ok := c.op.attrs["axis"]; ok {
		axis = c.int("axis")
	}
	if len(x) == 1 {
		axis = 0
	}
	a, err := axisOf(axis, len(x))
	if err != nil {
		return nil, err
	}
	block := int64(0)
	if _, ok := c.op.attrs["block_size"]; ok {
		block = c.int("block_size")
	}
	g := &granularity{n: c.tensor(1).Len(), inner: elements(x[a+1:]), length: int(x[a]), blen: 1, blocks: int(x[a])}
	if block == 0 {
		if !s.Equal(tensor.Shape{x[a]}) {
			return nil, badInput(1, "has shape %v, axis %d of %v wants [%d]", s, a, x, x[a])
		}
		return g, nil
	}
	if block < 0 {
		return nil, fmt.Errorf("attribute block_size is %d", block)
	}
	want := x.Clone()
	want[a] = (x[a]-1)/block + 1
	if x[a] == 0 {
		want[a] = 0
	}
	if !s.Equal(want) {
		return nil, badInput(1, "has shape %v, blocks of %d along axis %d of %v want %v", s, block, a, x, want)
	}
	g.blen, g.blocks = int(min(block, x[a])), int(want[a])
	return g, nil
}

// at is the number of the scale of element i.
func (g *granularity) at(i int) int {
	if g.n == 1 {
		return 0
	}
	axis := i / g.inner % g.length
	if g.blocks == g.n {
		return axis / g.blen
	}
	return (i/(g.inner*g.length)*g.blocks+axis/g.blen)*g.inner + i%g.inner
}

// rounded is x rounded to an element type, as a float64.
func rounded(x float64, d tensor.DType) float64 {
	switch d {
	case tensor.Float32:
		return float64(float32(x))
	case tensor.Float16:
		return float16From(float16Format.encode(x, false))
	case tensor.BFloat16:
		return bfloat16Format.decode(bfloat16Format.encode(x, false))
	}
	return x
}

// quantizedType is the type of an output that the zero point, input 2, or an
// attribute gives.
func (c *call) quantizedType() (tensor.DType, error) {
	d := tensor.Uint8
	if c.has(2) {
		d = c.tensor(2).DType
	}
	if _, ok := c.op.attrs["output_dtype"]; ok && c.int("output_dtype") != 0 {
		want, err := c.dtypeAttr("output_dtype", d)
		if err != nil {
			return 0, err
		}
		if c.has(2) && want != d {
			return 0, fmt.Errorf("attribute output_dtype is %s, the zero point is %s", want, d)
		}
		return want, nil
	}
	return d, nil
}

func quantizeLinear(c *call) error {
	x, scale := c.tensor(0), c.tensor(1)
	g, err := c.granularity()
	if err != nil {
		return err
	}
	d, err := c.quantizedType()
	if err != nil {
		return err
	}
	precision := scale.DType
	if _, ok := c.op.attrs["precision"]; ok && c.int("precision") != 0 {
		precision = tensor.DType(c.int("precision"))
	}
	if !floatTypes.has(precision) {
		precision = tensor.Float32
	}
	saturate := true
	if _, ok := c.op.attrs["saturate"]; ok {
		saturate = c.flag("saturate")
	}
	out, err := c.make(0, d, x.Shape)
	if err != nil {
		return err
	}
	zero := func(i int) float64 {
		if c.has(2) {
			return floatAt(c.tensor(2), i)
		}
		return 0
	}
	grain := 1 << 12
	if narrow(d) {
		grain = x.Len()
	}
	return c.parallel(x.Len(), grain, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			k := g.at(i)
			v := rounded(floatAt(x, i)/floatAt(scale, k), precision)
			if d.IsFloat() {
				storeFloatAs(out, i, []float64{v + zero(k)}, saturate)
			} else {
				putInt(out, i, saturateInt(math.RoundToEven(v)+zero(k), d))
			}
		}
		return nil
	})
}

func dequantizeLinear(c *call) error {
	x, scale := c.tensor(0), c.tensor(1)
	g, err := c.granularity()
	if err != nil {
		return err
	}
	d := scale.DType
	if d == tensor.Float8E8M0 {
		d = tensor.Float32
	}
	if _, ok := c.op.attrs["output_dtype"]; ok && c.int("output_dtype") != 0 {
		if d, err = c.dtypeAttr("output_dtype", d); err != nil {
			return err
		}
	}
	out, err := c.make(0, d, x.Shape)
	if err != nil {
		return err
	}
	zeros := c.has(2)
	return c.parallel(x.Len(), 1<<12, func(lo, hi int) error {
		v := make([]float64, hi-lo)
		loadFloat(v, x, lo)
		for i := range v {
			k := g.at(lo + i)
			if zeros {
				v[i] -= floatAt(c.tensor(2), k)
			}
			v[i] *= floatAt(scale, k)
		}
		storeFloat(out, lo, v)
		return nil
	})
}

// dynamicQuantizeLinear computes in float32, as the operator's function does: the
// zero point depends on it.
func dynamicQuantizeLinear(c *call) error {
	x := c.tensor(0)
	out, err := c.make(0, tensor.Uint8, x.Shape)
	if err != nil {
		return err
	}
	scale, err := c.make(1, tensor.Float32, nil)
	if err != nil {
		return err
	}
	zero, err := c.make(2, tensor.Uint8, nil)
	if err != nil {
		return err
	}
	var lo, hi float32
	for i := range x.Len() {
		v := float32(floatAt(x, i))
		lo, hi = min(lo, v), max(hi, v)
	}
	s := (hi - lo) / 255
	z := 0.0
	if s != 0 {
		z = math.RoundToEven(float64(min(max(-lo/s, 0), 255)))
	}
	putFloat(scale, 0, float64(s))
	putInt(zero, 0, int64(z))
	for i := range x.Len() {
		v := 0.0
		if s != 0 {
			v = math.RoundToEven(float64(float32(floatAt(x, i)) / s))
		}
		putInt(out, i, saturateInt(v+z, tensor.Uint8))
	}
	return c.ctx.Err()
}

// quantized reads a scale and zero point that hold for all, or for each entry of an
// axis of a tensor of shape s.
func (c *call) quantized(scale, zero int, s tensor.Shape, axis int) (lane[int64], []float64, error) {
	l, err := c.shiftedLane(zero, s, axis)
	if err != nil {
		return l, nil, err
	}
	if !c.tensor(zero).Shape.Equal(c.tensor(scale).Shape) {
		return l, nil, badInput(zero, "has shape %v, the scale has %v", c.tensor(zero).Shape, c.tensor(scale).Shape)
	}
	v, err := c.widened(c.tensor(scale))
	return l, v, err
}

// requantize rounds integer sums, times a factor each, to the output's grid.
func requantize(out tensor.Tensor, at int, v []int64, factor func(i int) float64, scale, zero float64) {
	for i, s := range v {
		x := math.RoundToEven(float64(float32(float64(s) * factor(i) / scale)))
		putInt(out, at+i, saturateInt(x+zero, out.DType))
	}
}

func qLinearMatMul(c *call) error {
	a, b := c.tensor(0), c.tensor(3)
	s, err := newMatmulShape(a.Shape, b.Shape)
	if err != nil {
		return err
	}
	la, sa, err := c.quantized(1, 2, a.Shape, -2)
	if err != nil {
		return err
	}
	lb, sb, err := c.quantized(4, 5, b.Shape, -1)
	if err != nil {
		return err
	}
	scale, err := c.floatOf(6)
	if err != nil {
		return err
	}
	zero, err := c.floatOf(7)
	if err != nil {
		return err
	}
	out, err := c.make(0, c.tensor(7).DType, s.out)
	if err != nil {
		return err
	}
	to := lane[int64]{store: func(t tensor.Tensor, at int, v []int64) {
		requantize(t, at, v, func(i int) float64 {
			return sa[(at+i)/s.n%s.m%len(sa)] * sb[(at+i)%s.n%len(sb)]
		}, scale, zero)
	}}
	return multiply(c, s, out, a, b, la, lb, to)
}

func qLinearConv(c *call) error {
	// The filter is input 3: see it where a convolution has it.
	inner := *c
	inner.in = append(c.in[:1:1], c.in[3])
	g, err := inner.convolution()
	c.scratch = inner.scratch
	if err != nil {
		return err
	}
	lx, sx, err := c.quantized(1, 2, c.tensor(0).Shape, 1)
	if err != nil {
		return err
	}
	if len(sx) != 1 {
		return badInput(1, "has shape %v, wants one element", c.tensor(1).Shape)
	}
	lw, sw, err := c.quantized(4, 5, c.tensor(3).Shape, 0)
	if err != nil {
		return err
	}
	scale, err := c.floatOf(6)
	if err != nil {
		return err
	}
	zero, err := c.floatOf(7)
	if err != nil {
		return err
	}
	bias := make([]int64, g.filters)
	if c.has(8) {
		if !c.tensor(8).Shape.Equal(tensor.Shape{int64(g.filters)}) {
			return badInput(8, "has shape %v, wants [%d]", c.tensor(8).Shape, g.filters)
		}
		loadInt(bias, c.tensor(8), 0)
	}
	out, err := c.make(0, c.tensor(7).DType, g.shape(int64(g.n), int64(g.filters)))
	if err != nil {
		return err
	}
	inner.scratch = 0
	err = convolve(&inner, g, out, lx, lw, func(v []int64, filter, at int) {
		for i := range v {
			v[i] += bias[filter]
		}
		requantize(out, at, v, func(int) float64 { return sx[0] * sw[filter%len(sw)] }, scale, zero)
	})
	c.scratch += inner.scratch
	return err
}

// matMulWeights is A [...,K] times the transpose of a matrix [N,K] whose rows
// weights fills in; plus the bias, input bias, if there is one.
func (c *call) matMulWeights(a tensor.Tensor, k, n int64, bias int, weights func(dst []float64, row int64)) error {
	rank := len(a.Shape)
	if rank == 0 || a.Shape[rank-1] != k {
		return badInput(0, "has shape %v, wants [...,%d]", a.Shape, k)
	}
	var add []float64
	if c.has(bias) {
		var err error
		if add, err = c.perChannel(bias, n); err != nil {
			return err
		}
	}
	s := a.Shape.Clone()
	s[rank-1] = n
	out, err := c.make(0, a.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	p := product[float64]{batches: 1, m: a.Len() / int(k), k: int(k), n: int(n)}
	p.rows = func(dst []float64, _, lo, hi int) { loadRows(dst, floatLane, a, 0, p.k, lo, hi) }
	p.cols = func(dst []float64, _, lo, hi int) {
		for row := lo; row < hi; row++ {
			weights(dst[(row-lo)*p.k:(row-lo+1)*p.k], int64(row))
		}
	}
	p.store = func(block []float64, _, rlo, rhi, clo, chi int) {
		w := chi - clo
		for i := rlo; i < rhi; i++ {
			row := block[(i-rlo)*w : (i-rlo+1)*w]
			for j := range row {
				if add != nil {
					row[j] += add[clo+j]
				}
			}
			storeFloat(out, i*p.n+clo, row)
		}
	}
	return p.run(c)
}
