package reference

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

var castOps = []spec{
	{"Cast", since(6, 9, 13, 19, 21, 23, 24, 25, 28), "input num|bool|string|f8|narrow|e8m0 -> output T:num|bool|string|f8|narrow|e8m0",
		"to int!, saturate int=1, round_mode string=up|down|nearest", func(c *call) error {
			to, err := c.dtypeAttr("to", tensor.Undefined)
			if err != nil {
				return err
			}
			return castTo(c, to)
		}},
	{"CastLike", since(15, 19, 21, 23, 24, 25), "input num|bool|string|f8|narrow|e8m0, target_type T:num|bool|string|f8|narrow|e8m0 -> output T",
		"saturate int=1, round_mode string=up|down|nearest", func(c *call) error { return castTo(c, c.tensor(1).DType) }},
	{"BitCast", since(26), "input any -> output T:any", "to int!", bitCast},
}

func castTo(c *call, to tensor.DType) error {
	x := c.tensor(0)
	if x.DType == to {
		c.give(0, x)
		return nil
	}
	out, err := c.make(0, to, x.Shape)
	if err != nil {
		return err
	}
	if x.DType == tensor.String {
		for i, s := range x.Strings {
			if err := parseInto(out, i, s, c); err != nil {
				return badInput(0, "element %d: %v", i, err)
			}
		}
		return nil
	}
	if to == tensor.String {
		for i := range x.Len() {
			out.Strings[i] = format(x, i)
		}
		return nil
	}
	from, target := classOf(x.DType), classOf(to)
	if from == classFloat || target == classFloat {
		if from != classFloat && to == tensor.Float32 {
			return lanes(c, out, intToFloat32, intLane, each1(func(v int64) int64 { return v }), x)
		}
		return lanes(c, out, castLane(c, to), floatLane, each1(func(v float64) float64 { return v }), x)
	}
	store := storeInt
	if target == classBool {
		store = func(t tensor.Tensor, at int, src []int64) {
			for i, v := range src {
				t.Data[at+i] = 0
				if v != 0 {
					t.Data[at+i] = 1
				}
			}
		}
	}
	return lanes(c, out, lane[int64]{store: store}, intLane, each1(func(v int64) int64 { return v }), x)
}

// intToFloat32 rounds integers once: by way of float64 those beyond 2^53 would be
// rounded twice.
var intToFloat32 = lane[int64]{store: func(t tensor.Tensor, at int, src []int64) {
	for i, v := range src {
		le.PutUint32(t.Data[(at+i)*4:], math.Float32bits(float32(v)))
	}
}}

// castLane stores floats as Cast does.
func castLane(c *call, to tensor.DType) lane[float64] {
	saturate := c.flag("saturate")
	switch {
	case to == tensor.Float8E8M0:
		mode := map[string]int{"up": roundUp, "down": roundDown, "nearest": roundNearest}[c.str("round_mode")]
		return lane[float64]{store: func(t tensor.Tensor, at int, src []float64) {
			for i, v := range src {
				t.Data[at+i] = e8m0Bits(v, mode, saturate)
			}
		}}
	case classOf(to) == classFloat:
		return lane[float64]{store: func(t tensor.Tensor, at int, src []float64) { storeFloatAs(t, at, src, saturate) }}
	}
	if classOf(to) == classBool {
		return lane[float64]{store: func(t tensor.Tensor, at int, src []float64) {
			for i, v := range src {
				storeNumber(t, at+i, v)
			}
		}}
	}
	// What is out of range ONNX leaves open. As compilers do: the nearest number of
	// at least 32 bits, of which narrower types keep the low bits.
	wide := to
	if to.Bits() < 32 {
		wide = tensor.Int32
	}
	return intSaturating(wide)
}

// parseInto reads a number in plain or scientific notation.
func parseInto(out tensor.Tensor, i int, s string, c *call) error {
	s = strings.TrimSpace(s)
	switch classOf(out.DType) {
	case classInt:
		if v, err := strconv.ParseInt(s, 10, 64); err == nil {
			putInt(out, i, v)
			return nil
		}
	case classUint:
		if v, err := strconv.ParseUint(s, 10, 64); err == nil {
			putInt(out, i, int64(v))
			return nil
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(v, 0) {
		return fmt.Errorf("%q is no number", s)
	}
	castLane(c, out.DType).store(out, i, []float64{v})
	return nil
}

// format writes a number as numpy does: the shortest digits that read back as
// the same value of the type, with a decimal point for floats.
func format(x tensor.Tensor, i int) string {
	switch classOf(x.DType) {
	case classUint:
		return strconv.FormatUint(uintAt(x, i), 10)
	case classInt:
		return strconv.FormatInt(intAt(x, i), 10)
	case classBool:
		if intAt(x, i) != 0 {
			return "True"
		}
		return "False"
	}
	v := floatAt(x, i)
	switch {
	case v != v:
		return "NaN"
	case math.IsInf(v, 1):
		return "INF"
	case math.IsInf(v, -1):
		return "-INF"
	}
	bits := 64
	if x.DType != tensor.Float64 {
		bits = 32
	}
	return strconv.FormatFloat(v, 'f', -1, bits)
}

func bitCast(c *call) error {
	x := c.tensor(0)
	to, err := c.dtypeAttr("to", tensor.Undefined)
	if err != nil {
		return err
	}
	if x.DType == tensor.String || to == tensor.String || to.Bits() != x.DType.Bits() {
		return fmt.Errorf("%s can't be seen as %s: they have %d and %d bits", x.DType, to, x.DType.Bits(), to.Bits())
	}
	c.give(0, tensor.Tensor{DType: to, Shape: x.Shape, Data: x.Data})
	return nil
}
