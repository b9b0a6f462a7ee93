package reference

import (
	"cmp"
	"errors"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

var elementwiseOps = []spec{
	// Arithmetic with broadcasting.
	{"Add", since(7, 13, 14), "A T:num, B T -> C T", "", arithmetic(func(a, b float64) float64 { return a + b },
		func(a, b int64) int64 { return a + b }, func(a, b uint64) uint64 { return a + b })},
	{"Sub", since(7, 13, 14), "A T:num, B T -> C T", "", arithmetic(func(a, b float64) float64 { return a - b },
		func(a, b int64) int64 { return a - b }, func(a, b uint64) uint64 { return a - b })},
	{"Mul", since(7, 13, 14), "A T:num, B T -> C T", "", arithmetic(func(a, b float64) float64 { return a * b },
		func(a, b int64) int64 { return a * b }, func(a, b uint64) uint64 { return a * b })},
	{"Div", since(7, 13, 14), "A T:num, B T -> C T", "", nonZero(arithmetic(func(a, b float64) float64 { return a / b },
		func(a, b int64) int64 { return a / b }, func(a, b uint64) uint64 { return a / b }))},
	{"Mod", since(10, 13, 28), "A T:num, B T -> C T", "fmod int=0", nonZero(mod)},
	{"Pow", since(7, 12, 13, 15), "X T:num, Y num -> Z T", "", pow},
	{"BitShift", since(11, 28), "X T:int, Y T -> Z T", "direction string!", bitShift},
	{"BitwiseAnd", since(18), "A T:int, B T -> C T", "", arithmetic(nil,
		func(a, b int64) int64 { return a & b }, func(a, b uint64) uint64 { return a & b })},
	{"BitwiseOr", since(18), "A T:int, B T -> C T", "", arithmetic(nil,
		func(a, b int64) int64 { return a | b }, func(a, b uint64) uint64 { return a | b })},
	{"BitwiseXor", since(18), "A T:int, B T -> C T", "", arithmetic(nil,
		func(a, b int64) int64 { return a ^ b }, func(a, b uint64) uint64 { return a ^ b })},
	{"PRelu", since(7, 9, 16), "X T:num, slope T -> Y T", "", prelu},

	// Any number of inputs.
	{"Max", since(8, 12, 13), "data_0... T:num -> max T", "", variadic(greater[float64], greater[int64], greater[uint64])},
	{"Min", since(8, 12, 13), "data_0... T:num -> min T", "", variadic(less[float64], less[int64], less[uint64])},
	{"Sum", since(8, 13), "data_0... T:float -> sum T", "", variadic(func(a, b float64) float64 { return a + b }, nil, nil)},
	{"Mean", since(8, 13), "data_0... T:float -> mean T", "", mean},

	// Comparisons and logic.
	{"Equal", since(7, 11, 13, 19), "A T:bool|num|string, B T -> C bool", "", compare(func(a, b float64) bool { return a == b },
		func(a, b int64) bool { return a == b }, func(a, b uint64) bool { return a == b }, func(a, b string) bool { return a == b })},
	{"Less", since(7, 9, 13), "A T:num, B T -> C bool", "", compare(func(a, b float64) bool { return a < b },
		func(a, b int64) bool { return a < b }, func(a, b uint64) bool { return a < b }, nil)},
	{"LessOrEqual", since(12, 16), "A T:num, B T -> C bool", "", compare(func(a, b float64) bool { return a <= b },
		func(a, b int64) bool { return a <= b }, func(a, b uint64) bool { return a <= b }, nil)},
	{"Greater", since(7, 9, 13), "A T:num, B T -> C bool", "", compare(func(a, b float64) bool { return a > b },
		func(a, b int64) bool { return a > b }, func(a, b uint64) bool { return a > b }, nil)},
	{"GreaterOrEqual", since(12, 16), "A T:num, B T -> C bool", "", compare(func(a, b float64) bool { return a >= b },
		func(a, b int64) bool { return a >= b }, func(a, b uint64) bool { return a >= b }, nil)},
	{"And", since(7), "A T:bool, B T -> C bool", "", logic(func(a, b bool) bool { return a && b })},
	{"Or", since(7), "A T:bool, B T -> C bool", "", logic(func(a, b bool) bool { return a || b })},
	{"Xor", since(7), "A T:bool, B T -> C bool", "", logic(func(a, b bool) bool { return a != b })},
	{"Not", since(1), "X T:bool -> Y T", "", func(c *call) error {
		return same(c, boolLane, each1(func(a bool) bool { return !a }))
	}},
	{"IsNaN", since(9, 13, 20), "X float|f8|f4|e8m0 -> Y bool", "", test(func(*call) func(float64) bool { return math.IsNaN })},
	{"IsInf", since(10, 20), "X float|f8|f4|e8m0 -> Y bool", "detect_negative int=1, detect_positive int=1", test(func(c *call) func(float64) bool {
		pos, neg := c.flag("detect_positive"), c.flag("detect_negative")
		return func(x float64) bool { return pos && math.IsInf(x, 1) || neg && math.IsInf(x, -1) }
	})},
	{"Where", since(9, 16), "condition bool, X T:any, Y T -> output T", "", where},

	// One input, any number type.
	{"Abs", since(6, 13), "X T:num -> Y T", "", unary(math.Abs, func(a int64) int64 { return max(a, -a) }, func(a uint64) uint64 { return a })},
	{"Neg", since(6, 13), "X T:num -> Y T", "", unary(func(x float64) float64 { return -x }, func(a int64) int64 { return -a }, nil)},
	{"Sign", since(9, 13), "input T:num -> output T", "", unary(sign,
		func(a int64) int64 { return min(max(a, -1), 1) }, func(a uint64) uint64 { return min(a, 1) })},
	{"BitwiseNot", since(18), "X T:int -> Y T", "", unary(nil, func(a int64) int64 { return ^a }, func(a uint64) uint64 { return ^a })},
	{"Relu", since(6, 13, 14), "X T:num -> Y T", "", unary(relu, func(a int64) int64 { return max(a, 0) }, nil)},
	{"Clip", since(6), "input T:float -> output T", "min float=-3.4028234663852886e+38, max float=3.4028234663852886e+38", clip6},
	{"Clip", since(11, 12, 13), "input T:num, min? T, max? T -> output T", "", clip},
	{"Shrink", since(9), "input T:num -> output T", "bias float=0, lambd float=0.5", shrink},

	// One input, floating point.
	{"Sqrt", since(6, 13), "X T:float -> Y T", "", float(math.Sqrt)},
	{"Reciprocal", since(6, 13), "X T:float -> Y T", "", float(func(x float64) float64 { return 1 / x })},
	{"Exp", since(6, 13), "input T:float -> output T", "", float(math.Exp)},
	{"Log", since(6, 13), "input T:float -> output T", "", float(math.Log)},
	{"Floor", since(6, 13), "X T:float -> Y T", "", float(math.Floor)},
	{"Ceil", since(6, 13), "X T:float -> Y T", "", float(math.Ceil)},
	{"Round", since(11, 22), "X T:float -> Y T", "", float(math.RoundToEven)},
	{"Erf", since(9, 13), "input T:float -> output T", "", float(math.Erf)},
	{"Sin", since(7, 22), "input T:float -> output T", "", float(math.Sin)},
	{"Cos", since(7, 22), "input T:float -> output T", "", float(math.Cos)},
	{"Tan", since(7, 22), "input T:float -> output T", "", float(math.Tan)},
	{"Asin", since(7, 22), "input T:float -> output T", "", float(math.Asin)},
	{"Acos", since(7, 22), "input T:float -> output T", "", float(math.Acos)},
	{"Atan", since(7, 22), "input T:float -> output T", "", float(math.Atan)},
	{"Sinh", since(9, 22), "input T:float -> output T", "", float(math.Sinh)},
	{"Cosh", since(9, 22), "input T:float -> output T", "", float(math.Cosh)},
	{"Tanh", since(6, 13), "input T:float -> output T", "", float(math.Tanh)},
	{"Asinh", since(9, 22), "input T:float -> output T", "", float(math.Asinh)},
	{"Acosh", since(9, 22), "input T:float -> output T", "", float(math.Acosh)},
	{"Atanh", since(9, 22), "input T:float -> output T", "", float(math.Atanh)},

	// Activations.
	{"Sigmoid", since(6, 13), "X T:float -> Y T", "", float(sigmoid)},
	{"Softplus", since(1, 22), "X T:float -> Y T", "", float(softplus)},
	{"Softsign", since(1, 22), "input T:float -> output T", "", float(func(x float64) float64 { return x / (1 + math.Abs(x)) })},
	{"Mish", since(18, 22), "X T:float -> Y T", "", float(func(x float64) float64 { return x * math.Tanh(softplus(x)) })},
	{"HardSwish", since(14, 22), "X T:float -> Y T", "", float(func(x float64) float64 { return x * max(0, min(1, x/6+0.5)) })},
	{"Gelu", since(20), "X T:float -> Y T", "approximate string=none|tanh", floatWith(func(c *call) func(float64) float64 {
		if c.str("approximate") == "tanh" {
			return geluTanh
		}
		return gelu
	})},
	{"Swish", since(24), "X T:float -> Y T", "alpha float=1", floatWith(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 { return x * sigmoid(alpha*x) }
	})},
	{"SwiGLU", since(28), "A T:float, B T -> Y T", "alpha float=1", swiglu},
	{"LeakyRelu", since(6, 16), "X T:float -> Y T", "alpha float=0.01", floatWith(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 {
			if x < 0 {
				return alpha * x
			}
			return x
		}
	})},
	{"Elu", since(6, 22), "X T:float -> Y T", "alpha float=1", floatWith(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 {
			if x < 0 {
				return alpha * math.Expm1(x)
			}
			return x
		}
	})},
	{"Celu", since(12, 28), "X T:float -> Y T", "alpha float=1", floatWith(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 { return max(0, x) + min(0, alpha*math.Expm1(x/alpha)) }
	})},
	{"Selu", since(6, 22), "X T:float -> Y T", "alpha float=1.67326319217681884765625, gamma float=1.05070102214813232421875", floatWith(func(c *call) func(float64) float64 {
		alpha, gamma := c.float("alpha"), c.float("gamma")
		return func(x float64) float64 {
			if x > 0 {
				return gamma * x
			}
			return gamma * alpha * math.Expm1(x)
		}
	})},
	{"HardSigmoid", since(6, 22), "X T:float -> Y T", "alpha float=0.2, beta float=0.5", floatWith(func(c *call) func(float64) float64 {
		alpha, beta := c.float("alpha"), c.float("beta")
		return func(x float64) float64 { return max(0, min(1, alpha*x+beta)) }
	})},
	{"ThresholdedRelu", since(10, 22), "X T:float -> Y T", "alpha float=1", floatWith(func(c *call) func(float64) float64 {
		alpha := c.float("alpha")
		return func(x float64) float64 {
			if x > alpha {
				return x
			}
			return 0
		}
	})},
}

// greater and less pass NaN on.
func greater[W cmp.Ordered](a, b W) W { return max(a, b) }
func less[W cmp.Ordered](a, b W) W    { return min(a, b) }

func relu(x float64) float64 {
	if x < 0 {
		return 0
	}
	return x
}

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return x
}

func sigmoid(x float64) float64 {
	if x < 0 {
		e := math.Exp(x)
		return e / (1 + e)
	}
	return 1 / (1 + math.Exp(-x))
}

func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

// gelu is x * Phi(x); erfc keeps the relative precision of the left tail.
func gelu(x float64) float64 {
	if math.IsInf(x, -1) {
		return 0
	}
	return 0.5 * x * math.Erfc(-x/math.Sqrt2)
}

func geluTanh(x float64) float64 {
	// 0.5 * (1 + tanh(y)) is sigmoid(2y), without cancellation.
	return x * sigmoid(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
}

// same computes an output of the type and shape of input 0.
func same[W any](c *call, l lane[W], f func([]W, [][]W) error) error {
	x := c.tensor(0)
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	return lanes(c, out, l, l, f, x)
}

func float(f func(float64) float64) func(*call) error {
	return func(c *call) error { return same(c, floatLane, each1(f)) }
}

func floatWith(f func(*call) func(float64) float64) func(*call) error {
	return func(c *call) error { return same(c, floatLane, each1(f(c))) }
}

var errType = errors.New("the element type is not supported here")

func unary(f func(float64) float64, i func(int64) int64, u func(uint64) uint64) func(*call) error {
	return func(c *call) error {
		switch cl := classOf(c.tensor(0).DType); {
		case cl == classFloat && f != nil:
			return same(c, floatLane, each1(f))
		case cl == classInt && i != nil:
			return same(c, intLane, each1(i))
		case cl == classUint && u != nil:
			return same(c, uintLane, each1(u))
		}
		return badInput(0, "is of type %s, for which the operator is not defined", c.tensor(0).DType)
	}
}

// broadcastAll makes an output of type d with the shape that all inputs
// broadcast to.
func (c *call) broadcastAll(d tensor.DType) (tensor.Tensor, error) {
	shapes := make([]tensor.Shape, len(c.in))
	for i := range c.in {
		shapes[i] = c.tensor(i).Shape
	}
	s, err := broadcast(shapes...)
	if err != nil {
		return tensor.Tensor{}, err
	}
	return c.make(0, d, s)
}

func arithmetic(f func(a, b float64) float64, i func(a, b int64) int64, u func(a, b uint64) uint64) func(*call) error {
	return func(c *call) error {
		a, b := c.tensor(0), c.tensor(1)
		out, err := c.broadcastAll(a.DType)
		if err != nil {
			return err
		}
		switch cl := classOf(a.DType); {
		case cl == classFloat && f != nil:
			return lanes(c, out, floatLane, floatLane, each2(f), a, b)
		case cl == classInt && i != nil:
			return lanes(c, out, intLane, intLane, each2(i), a, b)
		case cl == classUint && u != nil:
			return lanes(c, out, uintLane, uintLane, each2(u), a, b)
		}
		return errType
	}
}

// variadic folds any number of inputs.
func variadic(f func(a, b float64) float64, i func(a, b int64) int64, u func(a, b uint64) uint64) func(*call) error {
	return func(c *call) error {
		out, ts, err := c.variadicOut()
		if err != nil {
			return err
		}
		switch cl := classOf(out.DType); {
		case cl == classFloat && f != nil:
			return lanes(c, out, floatLane, floatLane, fold(f), ts...)
		case cl == classInt && i != nil:
			return lanes(c, out, intLane, intLane, fold(i), ts...)
		case cl == classUint && u != nil:
			return lanes(c, out, uintLane, uintLane, fold(u), ts...)
		}
		return errType
	}
}

func (c *call) variadicOut() (tensor.Tensor, []tensor.Tensor, error) {
	if len(c.in) == 0 {
		return tensor.Tensor{}, nil, errors.New("it has no inputs")
	}
	out, err := c.broadcastAll(c.tensor(0).DType)
	return out, c.tensors(0), err
}

func mean(c *call) error {
	out, ts, err := c.variadicOut()
	if err != nil {
		return err
	}
	sum := fold(func(a, b float64) float64 { return a + b })
	return lanes(c, out, floatLane, floatLane, func(dst []float64, args [][]float64) error {
		err := sum(dst, args)
		for i := range dst {
			dst[i] /= float64(len(args))
		}
		return err
	}, ts...)
}

func compare(f func(a, b float64) bool, i func(a, b int64) bool, u func(a, b uint64) bool, s func(a, b string) bool) func(*call) error {
	return func(c *call) error {
		a, b := c.tensor(0), c.tensor(1)
		out, err := c.broadcastAll(tensor.Bool)
		if err != nil {
			return err
		}
		switch classOf(a.DType) {
		case classFloat:
			return lanes(c, out, boolLane, floatLane, each2(f), a, b)
		case classInt, classBool:
			return lanes(c, out, boolLane, intLane, each2(i), a, b)
		case classUint:
			return lanes(c, out, boolLane, uintLane, each2(u), a, b)
		}
		return lanes(c, out, boolLane, textLane, each2(s), a, b)
	}
}

func logic(f func(a, b bool) bool) func(*call) error {
	return func(c *call) error {
		out, err := c.broadcastAll(tensor.Bool)
		if err != nil {
			return err
		}
		return lanes(c, out, boolLane, boolLane, each2(f), c.tensor(0), c.tensor(1))
	}
}

func test(f func(*call) func(float64) bool) func(*call) error {
	return func(c *call) error {
		out, err := c.make(0, tensor.Bool, c.tensor(0).Shape)
		if err != nil {
			return err
		}
		return lanes(c, out, boolLane, floatLane, each1(f(c)), c.tensor(0))
	}
}

// nonZero refuses integer divisors that are zero.
func nonZero(f func(*call) error) func(*call) error {
	return func(c *call) error {
		b := c.tensor(1)
		if !b.DType.IsInt() || c.tensor(0).Len() == 0 {
			return f(c)
		}
		for i := range b.Len() {
			if intAt(b, i) == 0 {
				return badInput(1, "is zero at element %d: integers can't be divided by it", i)
			}
		}
		return f(c)
	}
}

func mod(c *call) error {
	if c.flag("fmod") {
		return arithmetic(math.Mod, func(a, b int64) int64 { return a % b }, func(a, b uint64) uint64 { return a % b })(c)
	}
	return arithmetic(floorMod, func(a, b int64) int64 {
		m := a % b
		if m != 0 && (m < 0) != (b < 0) {
			m += b
		}
		return m
	}, func(a, b uint64) uint64 { return a % b })(c)
}

// floorMod has the sign of b; zeros too.
func floorMod(a, b float64) float64 {
	m := math.Mod(a, b)
	switch {
	case m == 0:
		return math.Copysign(0, b)
	case (m < 0) != (b < 0):
		return m + b
	}
	return m
}

func pow(c *call) error {
	x, y := c.tensor(0), c.tensor(1)
	out, err := c.broadcastAll(x.DType)
	if err != nil {
		return err
	}
	switch {
	case classOf(x.DType) == classFloat:
		return lanes(c, out, floatLane, floatLane, each2(math.Pow), x, y)
	case y.DType.IsInt():
		// Wraps as repeated multiplication does, for signed and unsigned alike.
		return lanes(c, out, intLane, intLane, each2(intPow), x, y)
	}
	return lanes(c, out, intSaturating(x.DType), floatLane, each2(math.Pow), x, y)
}

// intSaturating stores floats as integers, rounded toward zero.
func intSaturating(d tensor.DType) lane[float64] {
	return lane[float64]{loadFloat, func(t tensor.Tensor, at int, src []float64) {
		for i, v := range src {
			putInt(t, at+i, saturateInt(v, d))
		}
	}}
}

func intPow(x, n int64) int64 {
	if n < 0 {
		switch x {
		case 1:
			return 1
		case -1:
			return 1 - 2*(n&1)
		}
		return 0
	}
	r := int64(1)
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			r *= x
		}
		x *= x
	}
	return r
}

func bitShift(c *call) error {
	bits := uint64(c.tensor(0).DType.Bits())
	switch c.str("direction") {
	case "LEFT":
		return arithmetic(nil, func(a, b int64) int64 {
			if uint64(b) >= bits {
				return 0
			}
			return a << b
		}, func(a, b uint64) uint64 {
			if b >= bits {
				return 0
			}
			return a << b
		})(c)
	case "RIGHT":
		return arithmetic(nil, func(a, b int64) int64 { return a >> min(uint64(b), 63) }, func(a, b uint64) uint64 { return a >> b })(c)
	}
	return errors.New("attribute direction is neither LEFT nor RIGHT")
}

func prelu(c *call) error {
	x, slope := c.tensor(0), c.tensor(1)
	s, err := broadcast(x.Shape, slope.Shape)
	if err != nil || !s.Equal(x.Shape) {
		return badInput(1, "has shape %v, which does not broadcast to %v", slope.Shape, x.Shape)
	}
	return arithmetic(func(a, b float64) float64 {
		if a < 0 {
			return a * b
		}
		return a
	}, func(a, b int64) int64 {
		if a < 0 {
			return a * b
		}
		return a
	}, func(a, b uint64) uint64 { return a })(c)
}

func swiglu(c *call) error {
	a, b := c.tensor(0), c.tensor(1)
	if !a.Shape.Equal(b.Shape) {
		return badInput(1, "has shape %v, wants %v as the gate", b.Shape, a.Shape)
	}
	alpha := c.float("alpha")
	return arithmetic(func(x, y float64) float64 { return x * sigmoid(alpha*x) * y }, nil, nil)(c)
}

func clip6(c *call) error {
	lo, hi := c.float("min"), c.float("max")
	return same(c, floatLane, each1(func(x float64) float64 { return min(hi, max(lo, x)) }))
}

func clip(c *call) error {
	switch classOf(c.tensor(0).DType) {
	case classFloat:
		return clipAs(c, floatLane)
	case classInt:
		return clipAs(c, intLane)
	}
	return clipAs(c, uintLane)
}

// clipAs limits values by the optional inputs 1 and 2; the upper limit wins.
func clipAs[W cmp.Ordered](c *call, l lane[W]) error {
	var limits [2][1]W
	for i := range limits {
		t := c.tensor(i + 1)
		if !c.has(i + 1) {
			continue
		}
		if t.Len() != 1 {
			return badInput(i+1, "has shape %v, wants one element", t.Shape)
		}
		l.load(limits[i][:], t, 0)
	}
	lo, hi := c.has(1), c.has(2)
	return same(c, l, each1(func(x W) W {
		if lo {
			x = max(x, limits[0][0])
		}
		if hi {
			x = min(x, limits[1][0])
		}
		return x
	}))
}

func shrink(c *call) error {
	bias, lambda := c.float("bias"), c.float("lambd")
	f := func(x float64) float64 {
		switch {
		case x < -lambda:
			return x + bias
		case x > lambda:
			return x - bias
		}
		return 0
	}
	x := c.tensor(0)
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	to := floatLane
	if classOf(x.DType) != classFloat {
		to = intSaturating(x.DType)
	}
	return lanes(c, out, to, floatLane, each1(f), x)
}

func where(c *call) error {
	cond, x, y := c.tensor(0), c.tensor(1), c.tensor(2)
	out, err := c.broadcastAll(x.DType)
	if err != nil || out.Len() == 0 {
		return err
	}
	w := newWalk(out.Shape, strides(out.Shape), broadcastStrides(cond.Shape, out.Shape),
		broadcastStrides(x.Shape, out.Shape), broadcastStrides(y.Shape, out.Shape))
	grain := max(1, 1<<14/w.inner)
	if narrow(out.DType) {
		grain = w.rows
	}
	return c.parallel(w.rows, grain, func(lo, hi int) error {
		w.each(lo, hi, func(_ int, offs []int) {
			for i := range w.inner {
				if cond.Data[offs[1]+i*w.steps[1]] != 0 {
					move(out, offs[0]+i, x, offs[2]+i*w.steps[2], 1)
				} else {
					move(out, offs[0]+i, y, offs[3]+i*w.steps[3], 1)
				}
			}
		})
		return nil
	})
}
