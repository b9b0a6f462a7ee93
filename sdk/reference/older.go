package reference

import (
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	consumed     = "consumed_inputs ints" // a hint about memory of the first operator set
	oldBroadcast = "axis int, broadcast int=0"
)

// olderOps are the forms of operator sets 1 to 6, each computed as a later version
// once its attributes and inputs are those of that version.
var olderOps = slices.Concat(
	unchanged("X T:float -> Y T", consumed, "Abs", "Ceil", "Floor", "Neg", "Reciprocal", "Relu", "Sigmoid", "Sqrt"),
	unchanged("input T:float -> output T", consumed, "Exp", "Log", "Tanh"),
	unchanged("X T:float -> Y T", consumed+", alpha float=1", "Elu"),
	unchanged("X T:float -> Y T", consumed+", alpha float=0.2, beta float=0.5", "HardSigmoid"),
	unchanged("X T:float -> Y T", consumed+", alpha float=0.01", "LeakyRelu"),
	unchanged("X T:float -> Y T", consumed+", alpha float=1.6732, gamma float=1.0507", "Selu"),
	unchanged("input T:float -> output T", consumed+", max float, min float", "Clip"),
	unchanged("input T:float, scale T, B T -> output T", consumed+", epsilon float=1e-5", "InstanceNormalization"),
	aligned(1, "A T:float, B T -> C T", oldBroadcast+", "+consumed, "Add", "Sub", "Mul", "Div"),
	aligned(6, "A T:float|i32|i64|u32|u64, B T -> C T", oldBroadcast, "Add", "Sub", "Mul", "Div"),
	aligned(1, "A T:bool, B T -> C bool", oldBroadcast, "And", "Or", "Xor"),
	aligned(1, "A T:float, B T -> C bool", oldBroadcast, "Greater", "Less"),
	aligned(1, "A T:bool|i32|i64, B T -> C bool", oldBroadcast, "Equal"),
	aligned(1, "X T:float, Y T -> Z T", oldBroadcast, "Pow"),
	alike("max", "Max"), alike("min", "Min"), alike("sum", "Sum"), alike("mean", "Mean"),
	[]spec{
		{"PRelu", since(1), "X T:float, slope T -> Y T", consumed, as(7, channelSlope)},
		{"PRelu", since(6), "X T:float, slope T -> Y T", "", as(7, channelSlope)},
		{"Gemm", since(1, 6), "A T:float, B T, C T -> Y T", "alpha float=1, beta float=1, broadcast int=0, transA int=0, transB int=0", as(7, wholeBias)},
		{"AveragePool", since(1), "X T:float -> Y T", "auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, kernel_shape ints!, pads ints, strides ints", as(7, nil)},
		{"LpPool", since(1), "X T:float -> Y T", "auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, kernel_shape ints, p float=2, pads ints, strides ints", lpPool},
		{"GlobalLpPool", since(1), "X T:float -> Y T", "p float=2", globalPool(func(c *call) func([]float64) float64 { return lpNorm(c.float("p")) })},
		{"BatchNormalization", since(1), oldBatchNorm, consumed + "!, epsilon float=1e-5, is_test int=0, momentum float=0.9, spatial int=1", olderBatchNormalization},
		{"BatchNormalization", since(6), oldBatchNorm, "epsilon float=1e-5, is_test int=0, momentum float=0.9, spatial int=1", olderBatchNormalization},
		{"Dropout", since(1), "data T:float -> output T, mask? T", "ratio float=0.5, is_test int=0, " + consumed, olderDropout},
		{"Dropout", since(6), "data T:float -> output T, mask? T", "ratio float=0.5, is_test int=0", olderDropout},
		{"Cast", since(1), "input num|bool -> output num|bool", "to string!", as(6, castByName)},
		{"Concat", since(1), "inputs... T:float -> concat_result T", "axis int", as(4, func(c *call) error {
			if !c.hasAttr("axis") {
				c.setAttr(graph.IntAttr("axis", 1))
			}
			return nil
		})},
		// The name of its output ends in dots.
		{"Split", since(1), "input T:float, split? T -> outputs...... T", "axis int, split ints", as(2, splitByInput)},
		{"Reshape", since(1), "data T:float -> reshaped T", "shape ints, " + consumed, as(5, func(c *call) error {
			return c.addInts(c.ints("shape")...)
		})},
		{"TopK", since(1), "X T:float -> Values T, Indices i64", "axis int=-1, k int!", as(10, func(c *call) error {
			return c.addInts(c.int("k"))
		})},
		{"Tile", since(1), "input T:float, tiles T, axis T -> output T", "", as(6, tileAxis)},
		{"Pad", since(1), "data T:float -> output T", "mode string=constant|reflect|edge, paddings ints!, value float=0", as(2, func(c *call) error {
			c.setAttr(graph.IntsAttr("pads", c.ints("paddings")...))
			return nil
		})},
		{"Upsample", since(1), "X T:bool|i32|i64|float -> Y T", "height_scale float!, mode string=nearest|bilinear, width_scale float!", as(7, scalesOfPicture)},
	},
)

const oldBatchNorm = "X T:float, scale T, B T, mean T, var T -> Y T, mean? T, var? T, saved_mean? T, saved_var? T"

// as computes a node as a later version of its operator does. translate, which may
// be nil, turns inputs and attributes into that version's; attributes that the
// older version has defaults for keep them.
func as(version int64, translate func(*call) error) func(*call) error {
	return func(c *call) error {
		n := *c.node
		n.Attrs = slices.Clone(n.Attrs)
		for name, s := range c.op.attrs {
			if s.def != nil && n.Attr(name) == nil {
				n.Attrs = append(n.Attrs, s.def)
			}
		}
		c.node, c.in = &n, slices.Clone(c.in)
		if translate != nil {
			if err := translate(c); err != nil {
				return err
			}
		}
		later, ok := Lookup(c.op.Domain, c.op.Name, version)
		if !ok {
			return fmt.Errorf("version %d is not known", version)
		}
		c.op = later
		return later.eval(c)
	}
}

// setAttr sets an attribute of the node being translated.
func (c *call) setAttr(a *graph.Attr) {
	c.node.Attrs = slices.DeleteFunc(c.node.Attrs, func(b *graph.Attr) bool { return b.Name == a.Name })
	c.node.Attrs = append(c.node.Attrs, a)
}

// addInts makes a list of integers the second input.
func (c *call) addInts(v ...int64) error {
	t, err := c.new(tensor.Int64, tensor.Shape{int64(len(v))})
	if err != nil {
		return err
	}
	storeInt(t, 0, v)
	c.in = append(c.in[:1], tensorValue(t))
	return nil
}

// unchanged are first versions that mean the same as the sixth.
func unchanged(sig, attrs string, names ...string) []spec {
	var list []spec
	for _, name := range names {
		list = append(list, spec{name, since(1), sig, attrs, as(6, nil)})
	}
	return list
}

// aligned are operators of two inputs, of which the second broadcasts only where
// the node says so.
func aligned(version int64, sig, attrs string, names ...string) []spec {
	var list []spec
	for _, name := range names {
		list = append(list, spec{name, since(version), sig, attrs, as(7, alignSecond)})
	}
	return list
}

// alignSecond gives the second input the rank that makes it broadcast as it should:
// its dimensions are those of the first from axis on, or else the last ones.
func alignSecond(c *call) error {
	a, b := c.tensor(0), c.tensor(1)
	if !c.flag("broadcast") {
		if !a.Shape.Equal(b.Shape) {
			return badInput(1, "has shape %v, wants %v, as attribute broadcast is not set", b.Shape, a.Shape)
		}
		return nil
	}
	if b.Len() == 1 {
		c.in[1] = tensorValue(reshaped(b, tensor.Shape{}))
		return nil
	}
	axis := len(a.Shape) - len(b.Shape)
	if c.hasAttr("axis") {
		var err error
		if axis, err = axisOf(c.int("axis"), len(a.Shape)); err != nil {
			return err
		}
	}
	fits := axis >= 0 && axis+len(b.Shape) <= len(a.Shape)
	for i, d := range b.Shape {
		// Exporters also wrote dimensions of 1, which the text does not foresee.
		fits = fits && (d == 1 || d == a.Shape[axis+i])
	}
	if !fits {
		return badInput(1, "has shape %v, which is not that of %v from axis %d on", b.Shape, a.Shape, axis)
	}
	s := b.Shape.Clone()
	for range len(a.Shape) - axis - len(b.Shape) {
		s = append(s, 1)
	}
	c.in[1] = tensorValue(reshaped(b, s))
	return nil
}

// alike are operators of any number of inputs before they broadcast.
func alike(output, name string) []spec {
	check := as(8, func(c *call) error {
		for i, t := range c.tensors(0) {
			if first := c.tensor(0).Shape; !t.Shape.Equal(first) {
				return badInput(i, "has shape %v, the first has %v", t.Shape, first)
			}
		}
		return nil
	})
	return []spec{
		{name, since(1), "data_0... T:float -> " + output + " T", consumed, check},
		{name, since(6), "data_0... T:float -> " + output + " T", "", check},
	}
}

// channelSlope puts the slopes, one for all or one a channel, along axis 1.
func channelSlope(c *call) error {
	x, slope := c.tensor(0).Shape, c.tensor(1)
	s := tensor.Shape{}
	if slope.Len() != 1 {
		if len(x) < 2 || !slope.Shape.Equal(tensor.Shape{x[1]}) {
			return badInput(1, "has shape %v, wants one slope or one for each channel of %v", slope.Shape, x)
		}
		s = append(s, x[1])
		for range x[2:] {
			s = append(s, 1)
		}
	}
	c.in[1] = tensorValue(reshaped(slope, s))
	return nil
}

func wholeBias(c *call) error {
	if c.flag("broadcast") || len(c.tensor(0).Shape) != 2 || len(c.tensor(1).Shape) != 2 {
		return nil // what does not fit is found by the later version
	}
	row, col := 0, 1
	if c.flag("transA") {
		row = 1
	}
	if c.flag("transB") {
		col = 0
	}
	want := tensor.Shape{c.tensor(0).Shape[row], c.tensor(1).Shape[col]}
	if got := c.tensor(2).Shape; !got.Equal(want) {
		return badInput(2, "has shape %v, wants %v, as attribute broadcast is not set", got, want)
	}
	return nil
}

func olderBatchNormalization(c *call) error {
	if c.flag("is_test") {
		return as(7, nil)(c)
	}
	if c.wants(3) || c.wants(4) {
		return fmt.Errorf("outputs saved_mean and saved_var, whose values ONNX leaves open, are not supported")
	}
	if !c.flag("spatial") {
		return fmt.Errorf("attribute spatial 0 is not supported")
	}
	return as(14, func(c *call) error {
		c.setAttr(graph.IntAttr("training_mode", 1))
		return nil
	})(c)
}

// olderDropout drops unless the node says that it is a test.
func olderDropout(c *call) error {
	if c.flag("is_test") || c.float("ratio") == 0 {
		return as(7, nil)(c)
	}
	var mask tensor.Tensor
	if c.wants(1) {
		var err error
		if mask, err = c.make(1, c.tensor(0).DType, c.tensor(0).Shape); err != nil {
			return err
		}
	}
	return c.dropped(c.tensor(0), c.float("ratio"), mask)
}

// castNames are ONNX's names of element types.
var castNames = map[string]tensor.DType{
	"FLOAT": tensor.Float32, "DOUBLE": tensor.Float64, "FLOAT16": tensor.Float16, "BOOL": tensor.Bool,
	"INT8": tensor.Int8, "INT16": tensor.Int16, "INT32": tensor.Int32, "INT64": tensor.Int64,
	"UINT8": tensor.Uint8, "UINT16": tensor.Uint16, "UINT32": tensor.Uint32, "UINT64": tensor.Uint64,
}

func castByName(c *call) error {
	d, ok := castNames[c.str("to")]
	if !ok {
		return fmt.Errorf("attribute to is %q, which is no known element type", c.str("to"))
	}
	c.setAttr(graph.IntAttr("to", int64(d)))
	return nil
}

// countsOf is an input of any type as small whole numbers.
func (c *call) countsOf(i int) ([]int64, error) {
	v, err := c.widened(c.tensor(i))
	if err != nil {
		return nil, err
	}
	list := make([]int64, len(v))
	for k, x := range v {
		if list[k] = int64(x); !(x >= -maxSpatial && x <= maxSpatial) || float64(list[k]) != x {
			return nil, badInput(i, "holds %g", x)
		}
	}
	return list, nil
}

func splitByInput(c *call) error {
	if c.has(1) {
		sizes, err := c.countsOf(1)
		if err != nil {
			return err
		}
		c.setAttr(graph.IntsAttr("split", sizes...))
		c.in = c.in[:1]
	}
	return nil
}

func tileAxis(c *call) error {
	tiles, err := c.countsOf(1)
	if err != nil {
		return err
	}
	axes, err := c.countsOf(2)
	if err != nil {
		return err
	}
	if len(tiles) != 1 || len(axes) != 1 {
		return fmt.Errorf("%d tiles and %d axes are given, wants one of each", len(tiles), len(axes))
	}
	repeats := make([]int64, len(c.tensor(0).Shape))
	for i := range repeats {
		repeats[i] = 1
	}
	axis, err := axisOf(axes[0], len(repeats))
	if err != nil {
		return badInput(2, "%w", err)
	}
	repeats[axis] = tiles[0]
	return c.addInts(repeats...)
}

func scalesOfPicture(c *call) error {
	if s := c.tensor(0).Shape; len(s) != 4 {
		return badInput(0, "has shape %v, wants 4 dimensions", s)
	}
	if c.tensor(0).DType == tensor.Bool {
		return badInput(0, "is of type bool, of which nothing lies between")
	}
	mode := "nearest"
	if c.str("mode") == "bilinear" {
		mode = "linear"
	}
	c.setAttr(graph.StringAttr("mode", mode))
	c.setAttr(graph.FloatsAttr("scales", 1, 1, float32(c.float("height_scale")), float32(c.float("width_scale"))))
	return nil
}
