package reference

import (
	"errors"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

var generateOps = []spec{
	{"Constant", since(1, 9, 11, 12, 13, 19, 21, 23, 24, 25), "-> output T:any",
		"value tensor, value_float float, value_floats floats, value_int int, value_ints ints, value_string string, value_strings strings", constant1},
	{"ConstantOfShape", since(9, 20, 21, 23, 24, 25), "input i64 -> output T:any", "value tensor", constantOfShape},
	{"Range", since(11, 27), "start T:num, limit T, delta T -> output T", "stash_type int=1", rangeOp},
	{"EyeLike", since(9, 22), "input any -> output T:num|bool", "dtype int, k int=0", eyeLike},
	{"OneHot", since(9, 11, 28), "indices num, depth num, values T:any -> output T", "axis int=-1", oneHot},
	{"HannWindow", since(17), "size idx -> output T:num", "output_datatype int=1, periodic int=1", window(0.5, 0.5, 0)},
	{"HammingWindow", since(17), "size idx -> output T:num", "output_datatype int=1, periodic int=1", window(25.0/46, 21.0/46, 0)},
	{"BlackmanWindow", since(17), "size idx -> output T:num", "output_datatype int=1, periodic int=1", window(0.42, 0.5, 0.08)},
	{"MelWeightMatrix", since(17), "num_mel_bins idx, dft_length idx, sample_rate idx, lower_edge_hertz float, upper_edge_hertz float -> output T:num",
		"output_datatype int=1", melWeights},
}

// storeNumber rounds a number into element i of any numeric or bool tensor.
func storeNumber(t tensor.Tensor, i int, v float64) {
	switch classOf(t.DType) {
	case classFloat:
		putFloat(t, i, v)
	case classBool:
		putInt(t, i, 0)
		if v != 0 {
			putInt(t, i, 1)
		}
	default:
		putInt(t, i, saturateInt(v, t.DType))
	}
}

// dtypeAttr is an element type among an operator's allowed ones, def where the
// attribute is left out.
func (c *call) dtypeAttr(name string, def tensor.DType) (tensor.DType, error) {
	d := def
	if c.hasAttr(name) {
		n := c.int(name)
		if n < 0 || n > math.MaxUint8 || !tensor.DType(n).Valid() {
			return 0, fmt.Errorf("attribute %s is %d, which is no known element type", name, n)
		}
		d = tensor.DType(n)
	}
	if p := c.op.outputs[0]; !p.types.has(d) {
		return 0, fmt.Errorf("element type %s is not supported, only %s", d, p.types)
	}
	return d, nil
}

func constant1(c *call) error {
	if len(c.node.Attrs) != 1 {
		return fmt.Errorf("it has %d attributes, wants one", len(c.node.Attrs))
	}
	a := c.node.Attrs[0]
	scalar := tensor.Shape{}
	switch a.Name {
	case "value":
		if a.Tensor == nil {
			return errors.New("attribute value holds no tensor")
		}
		if err := a.Tensor.Tensor.Check(); err != nil {
			return err
		}
		c.give(0, a.Tensor.Tensor)
	case "value_float":
		c.give(0, tensor.Floats(scalar, a.Float))
	case "value_floats":
		c.give(0, tensor.Floats(tensor.Shape{int64(len(a.Floats))}, a.Floats...))
	case "value_int":
		c.give(0, tensor.Ints(scalar, a.Int))
	case "value_ints":
		c.give(0, tensor.Ints(tensor.Shape{int64(len(a.Ints))}, a.Ints...))
	case "value_string":
		c.give(0, tensor.Tensor{DType: tensor.String, Shape: scalar, Strings: []string{a.String}})
	case "value_strings":
		c.give(0, tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{int64(len(a.Strings))}, Strings: a.Strings})
	}
	return nil
}

func constantOfShape(c *call) error {
	s, err := c.intsOf(0)
	if err != nil {
		return err
	}
	value := tensor.Floats(nil, 0)
	if a := c.attr("value"); a != nil {
		if a.Tensor == nil || a.Tensor.Tensor.Check() != nil || a.Tensor.Tensor.Len() != 1 {
			return errors.New("attribute value must be a tensor of one element")
		}
		value = a.Tensor.Tensor
	}
	out, err := c.make(0, value.DType, s)
	if err != nil {
		return badInput(0, "%w", err)
	}
	fill(out, 0, value, 0, out.Len())
	return nil
}

func rangeOp(c *call) error {
	for i := range 3 {
		if c.tensor(i).Len() != 1 {
			return badInput(i, "has shape %v, wants one element", c.tensor(i).Shape)
		}
	}
	d := c.tensor(0).DType
	if d.IsInt() {
		start, limit, delta := intAt(c.tensor(0), 0), intAt(c.tensor(1), 0), intAt(c.tensor(2), 0)
		n, err := rangeLength(start, limit, delta)
		if err != nil {
			return err
		}
		out, err := c.make(0, d, tensor.Shape{n})
		if err != nil {
			return err
		}
		for i := range int(n) {
			putInt(out, i, start+int64(i)*delta)
		}
		return nil
	}
	start, limit, delta := floatAt(c.tensor(0), 0), floatAt(c.tensor(1), 0), floatAt(c.tensor(2), 0)
	length := math.Ceil((limit - start) / delta)
	if length != length || length > math.MaxInt32*64 {
		return fmt.Errorf("from %g to %g by %g has no countable number of elements", start, limit, delta)
	}
	out, err := c.make(0, d, tensor.Shape{int64(max(length, 0))})
	if err != nil {
		return err
	}
	for i := range out.Len() {
		putFloat(out, i, start+float64(float64(i)*delta))
	}
	return nil
}

// rangeLength is ceil((limit-start)/delta), at least 0. Values of uint64 beyond
// int64 are not told from negative ones.
func rangeLength(start, limit, delta int64) (int64, error) {
	var span, step uint64
	switch {
	case delta == 0:
		return 0, badInput(2, "is zero")
	case delta > 0 && limit > start:
		span, step = uint64(limit)-uint64(start), uint64(delta)
	case delta < 0 && limit < start:
		span, step = uint64(start)-uint64(limit), -uint64(delta)
	default:
		return 0, nil
	}
	n := (span-1)/step + 1
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("from %d to %d by %d has more elements than can be counted", start, limit, delta)
	}
	return int64(n), nil
}

func eyeLike(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) != 2 {
		return badInput(0, "has shape %v, wants a matrix", x.Shape)
	}
	d, err := c.dtypeAttr("dtype", x.DType)
	if err != nil {
		return err
	}
	out, err := c.make(0, d, x.Shape)
	if err != nil {
		return err
	}
	rows, cols, k := x.Shape[0], x.Shape[1], c.int("k")
	if k < -rows || k > cols {
		return nil
	}
	for r := max(0, -k); r < rows && r+k < cols; r++ {
		storeNumber(out, int(r*cols+r+k), 1)
	}
	return nil
}

func oneHot(c *call) error {
	index, values := c.tensor(0), c.tensor(2)
	depthF, err := c.floatOf(1)
	if err != nil {
		return err
	}
	if !(depthF >= 0 && depthF < 1<<40) {
		return badInput(1, "is %g", depthF)
	}
	depth := int64(depthF)
	if values.Len() != 2 {
		return badInput(2, "has shape %v, wants two elements", values.Shape)
	}
	axis, err := axisOf(c.int("axis"), len(index.Shape)+1)
	if err != nil {
		return err
	}
	s := append(append(index.Shape[:axis:axis].Clone(), depth), index.Shape[axis:]...)
	out, err := c.make(0, values.DType, s)
	if err != nil {
		return err
	}
	fill(out, 0, values, 0, out.Len())
	inner := elements(index.Shape[axis:])
	for i := range index.Len() {
		at := int64(floatAt(index, i))
		if at < -depth || at >= depth {
			continue
		}
		if at < 0 {
			at += depth
		}
		move(out, (i/inner*int(depth)+int(at))*inner+i%inner, values, 1, 1)
	}
	return nil
}

// window is a0 - a1 cos(2 pi i/n) + a2 cos(4 pi i/n).
func window(a0, a1, a2 float64) func(*call) error {
	return func(c *call) error {
		d, err := c.dtypeAttr("output_datatype", tensor.Float32)
		if err != nil {
			return err
		}
		n, err := c.intOf(0)
		if err != nil {
			return err
		}
		out, err := c.make(0, d, tensor.Shape{n})
		if err != nil {
			return badInput(0, "%w", err)
		}
		period := float64(n)
		if !c.flag("periodic") {
			period--
		}
		for i := range out.Len() {
			x := 2 * math.Pi * float64(i) / period
			storeNumber(out, i, a0-a1*math.Cos(x)+a2*math.Cos(2*x))
		}
		return nil
	}
}

func melWeights(c *call) error {
	d, err := c.dtypeAttr("output_datatype", tensor.Float32)
	if err != nil {
		return err
	}
	var ints [3]int64
	for i := range ints {
		if ints[i], err = c.intOf(i); err != nil {
			return err
		}
		if ints[i] <= 0 || ints[i] > math.MaxInt32 {
			return badInput(i, "is %d", ints[i])
		}
	}
	bins, length, rate := ints[0], ints[1], ints[2]
	lo, err := c.floatOf(3)
	if err != nil {
		return err
	}
	hi, err := c.floatOf(4)
	if err != nil {
		return err
	}
	rows := length/2 + 1
	out, err := c.make(0, d, tensor.Shape{rows, bins})
	if err != nil {
		return err
	}
	mel := func(hz float64) float64 { return 2595 * math.Log10(1+hz/700) }
	step := (mel(hi) - mel(lo)) / float64(bins+2)
	edge := func(i int64) int64 {
		hz := 700 * (math.Pow(10, (float64(i)*step+mel(lo))/2595) - 1)
		return int64(math.Floor(float64(length+1) * hz / float64(rate)))
	}
	set := func(row, col int64, v float64) {
		if row >= 0 && row < rows {
			storeNumber(out, int(row*bins+col), v)
		}
	}
	for i := range bins {
		left, center, right := edge(i), edge(i+1), edge(i+2)
		if left == center {
			set(center, i, 1)
		}
		for j := max(left, 0); j <= min(center, rows-1) && left < center; j++ {
			set(j, i, float64(j-left)/float64(center-left))
		}
		for j := max(center, 0); j < min(right, rows); j++ {
			set(j, i, float64(right-j)/float64(right-center))
		}
	}
	return nil
}
