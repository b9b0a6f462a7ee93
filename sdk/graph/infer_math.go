package graph

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainONNX, sameAsFirst, 1,
		"Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu", "Clip", "Cos", "Cosh",
		"Elu", "Erf", "Exp", "Floor", "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax",
		"InstanceNormalization", "LRN", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization",
		"MeanVarianceNormalization", "Mish", "Neg", "PRelu", "RMSNormalization", "Reciprocal", "Relu",
		"ReverseSequence", "RotaryEmbedding", "Round", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shrink",
		"Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh",
		"TensorScatter", "ThresholdedRelu", "Trilu", "CumSum", "CumProd", "Identity")
	addRules(DomainMicrosoft, sameAsFirst, 1, "FastGelu", "Gelu", "BiasGelu", "QuickGelu")
	addRules(DomainONNX, predicate, 1, "Not", "IsNaN", "IsInf")
	addRules(DomainONNX, arithmetic, 1, "Min", "Max", "Sum", "Mean")
	addRules(DomainONNX, arithmetic, 2,
		"Add", "Sub", "Mul", "Div", "Mod", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Pow")
	addRules(DomainONNX, comparison, 2, "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
	addRules(DomainONNX, where, 3, "Where")
	addRules(DomainONNX, cast, 1, "Cast")
	addRules(DomainONNX, castLike, 2, "CastLike")
	addRules(DomainONNX, bitCast, 1, "BitCast")
	addRules(DomainONNX, swiGLU, 2, "SwiGLU")
	addRules(DomainONNX, matmul, 2, "MatMul", "MatMulInteger", "QLinearMatMul")
	addRules(DomainONNX, gemm, 2, "Gemm")
	addRules(DomainONNX, einsum, 1, "Einsum")
	addRules(DomainONNX, reduce, 1,
		"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
		"ReduceSum", "ReduceSumSquare")
	addRules(DomainONNX, argReduce, 1, "ArgMax", "ArgMin")
	addRules(DomainONNX, quantizeLinear, 2, "QuantizeLinear")
	addRules(DomainONNX, dequantizeLinear, 2, "DequantizeLinear")
	addRules(DomainONNX, dynamicQuantizeLinear, 1, "DynamicQuantizeLinear")
}

// sameAsFirst is for operators whose output is like their first input.
func sameAsFirst(c *call) error {
	v := c.in(0)
	if v == nil {
		return nil
	}
	if v.ranked {
		if err := sameAsFirstChecks(c, v); err != nil {
			return err
		}
	}
	switch c.n.OpType {
	case "Identity":
		c.out(0, v)
		return nil
	}
	out := like(v, v.elem)
	switch c.n.OpType {
	case "Floor", "Ceil", "Round":
		out.data = v.ints()
	case "Neg":
		c.map1(out, func(e expr) (expr, bool) { return e.neg() })
	case "Abs":
		c.map1(out, func(e expr) (expr, bool) {
			n, ok := e.value()
			if e.positive() {
				return e, true
			}
			return num(max(n, -n)), ok && n != -n
		})
	}
	c.out(0, out)
	return nil
}

// sameAsFirstChecks looks for the contradictions that such operators can have.
func sameAsFirstChecks(c *call, v *value) error {
	switch c.n.OpType {
	case "Softmax", "LogSoftmax", "Hardmax":
		def := int64(1)
		if c.opset >= 13 {
			def = -1
		}
		if a := c.int("axis", def); len(v.dims) > 0 && !(c.opset < 13 && a == int64(len(v.dims))) {
			_, err := axis(a, len(v.dims))
			return err
		}
	case "LpNormalization":
		_, err := axis(c.int("axis", -1), len(v.dims))
		return err
	case "RMSNormalization":
		return normScale(c, v)
	case "PRelu":
		// Before operator set 7 a slope of one dimension is along the channels.
		if s, ok := c.dims(1); ok && (c.opset >= 7 || len(s) != 1) {
			_, err := c.broadcast(v.dims, s)
			return err
		}
	case "Trilu":
		if len(v.dims) < 2 {
			return fmt.Errorf("its input has rank %d, wants at least 2", len(v.dims))
		}
	}
	return nil
}

// normScale checks scale (and bias) of a layer normalization against the
// normalized dimensions.
func normScale(c *call, v *value) error {
	a, err := axis(c.int("axis", -1), len(v.dims))
	if err != nil {
		return err
	}
	for i := 1; i < len(c.ins); i++ {
		s, ok := c.dims(i)
		if !ok {
			continue
		}
		if _, err := c.broadcast(v.dims[a:], s); err != nil || len(s) > len(v.dims) {
			return fmt.Errorf("input %d has shape %s, which does not broadcast to the normalized %s", i, dimsText(s), dimsText(v.dims[a:]))
		}
	}
	return nil
}

func predicate(c *call) error {
	out := like(c.in(0), tensor.Bool)
	if c.n.OpType == "Not" {
		c.map1(out, func(e expr) (expr, bool) {
			n, ok := e.value()
			return truth(n == 0), ok
		})
	}
	c.out(0, out)
	return nil
}

func truth(b bool) expr {
	if b {
		return num(1)
	}
	return num(0)
}

func arithmetic(c *call) error {
	op := c.n.OpType
	switch op {
	case "Pow", "BitShift":
	default:
		all := make([]int, len(c.ins))
		for i := range all {
			all[i] = i
		}
		if err := c.sameElem(all...); err != nil {
			return err
		}
	}
	elem := c.elem(0)
	for i := 1; elem == tensor.Undefined && i < len(c.ins) && op != "Pow"; i++ {
		elem = c.elem(i)
	}
	out, err := c.elementwise(elem)
	if err != nil {
		return err
	}
	c.out(0, out)
	f := foldArithmetic[op]
	switch elem {
	case tensor.Int64, tensor.Int32, tensor.Bool:
	case tensor.Float32, tensor.Float64:
		if op == "Div" {
			f = func(x []expr) (expr, bool) {
				if x[1].is(0) {
					return expr{}, false
				}
				return x[0].exact(x[1])
			}
		}
	default:
		f = nil
	}
	if f != nil {
		c.each(out, func(x []expr) (expr, bool) {
			if op == "Div" && c.f.exact && !x[0].positive() && len(x[0].terms) > 0 {
				return expr{}, false
			}
			e, ok := f(x)
			return e, ok && holds(elem, e)
		})
	}
	return nil
}

// holds reports whether an element type holds a whole number exactly.
func holds(t tensor.DType, e expr) bool {
	n, ok := e.value()
	if !ok {
		return true
	}
	switch t {
	case tensor.Int64:
		return true
	case tensor.Int32:
		return n == int64(int32(n))
	case tensor.Float32, tensor.Float64:
		return n >= -1<<24 && n <= 1<<24
	case tensor.Bool:
		return n == 0 || n == 1
	}
	return false
}

// foldArithmetic works on integers and truth values, element by element.
var foldArithmetic = map[string]func(x []expr) (expr, bool){
	"Add": func(x []expr) (expr, bool) { return x[0].add(x[1]) },
	"Sub": func(x []expr) (expr, bool) { return x[0].sub(x[1]) },
	"Mul": func(x []expr) (expr, bool) { return x[0].mul(x[1]) },
	"Div": func(x []expr) (expr, bool) {
		d, ok := x[1].value()
		if n, isNum := x[0].value(); isNum && ok {
			if d == 0 || d == -1 && n == -n {
				return expr{}, false
			}
			return num(n / d), true
		}
		if q, exact := x[0].exact(x[1]); exact && !x[1].is(0) {
			return q, true
		}
		if ok && d > 0 && x[0].size() {
			return x[0].floorDiv(d)
		}
		return expr{}, false
	},
	"Mod": func(x []expr) (expr, bool) {
		n, nok := x[0].value()
		d, dok := x[1].value()
		switch {
		case nok && dok && d > 0 && n >= 0:
			return num(n % d), true
		case dok && d > 0:
			if _, exact := x[0].exact(num(d)); exact {
				return num(0), true
			}
		}
		return expr{}, false
	},
	"Min": func(x []expr) (expr, bool) { return extreme(x, func(a, b int64) bool { return a < b }) },
	"Max": func(x []expr) (expr, bool) { return extreme(x, func(a, b int64) bool { return a > b }) },
	"And": func(x []expr) (expr, bool) { return logic(x, func(a, b bool) bool { return a && b }) },
	"Or":  func(x []expr) (expr, bool) { return logic(x, func(a, b bool) bool { return a || b }) },
	"Xor": func(x []expr) (expr, bool) { return logic(x, func(a, b bool) bool { return a != b }) },
	"Sum": func(x []expr) (expr, bool) {
		s := num(0)
		for _, e := range x {
			var ok bool
			if s, ok = s.add(e); !ok {
				return expr{}, false
			}
		}
		return s, true
	},
}

func extreme(x []expr, better func(a, b int64) bool) (expr, bool) {
	best := x[0]
	for _, e := range x[1:] {
		if e.eq(best) {
			continue
		}
		// The difference may be a number where both are symbolic.
		d, ok := e.sub(best)
		if !ok {
			return expr{}, false
		}
		n, ok := d.value()
		if !ok {
			return expr{}, false
		}
		if better(n, 0) {
			best = e
		}
	}
	return best, true
}

func logic(x []expr, f func(a, b bool) bool) (expr, bool) {
	a, aok := x[0].value()
	b, bok := x[1].value()
	return truth(f(a != 0, b != 0)), aok && bok
}

func comparison(c *call) error {
	if err := c.sameElem(0, 1); err != nil {
		return err
	}
	out, err := c.elementwise(tensor.Bool)
	if err != nil {
		return err
	}
	op := c.n.OpType
	c.each(out, func(x []expr) (expr, bool) {
		d, ok := x[0].sub(x[1])
		if !ok {
			return expr{}, false
		}
		n, ok := d.value()
		if !ok {
			// No size is negative: the usual test of a shape for -1.
			if v, isNum := x[1].value(); op == "Equal" && isNum && v < 0 && x[0].positive() {
				return num(0), true
			}
			if v, isNum := x[0].value(); op == "Equal" && isNum && v < 0 && x[1].positive() {
				return num(0), true
			}
			return expr{}, false
		}
		switch op {
		case "Equal":
			return truth(n == 0), true
		case "Less":
			return truth(n < 0), true
		case "LessOrEqual":
			return truth(n <= 0), true
		case "Greater":
			return truth(n > 0), true
		}
		return truth(n >= 0), true
	})
	c.out(0, out)
	return nil
}

func where(c *call) error {
	if err := c.sameElem(1, 2); err != nil {
		return err
	}
	elem := c.elem(1)
	if elem == tensor.Undefined {
		elem = c.elem(2)
	}
	out, err := c.elementwise(elem)
	if err != nil {
		return err
	}
	c.each(out, func(x []expr) (expr, bool) {
		if x[1].eq(x[2]) {
			return x[1], true
		}
		n, ok := x[0].value()
		if n != 0 {
			return x[1], ok
		}
		return x[2], ok
	})
	c.out(0, out)
	return nil
}

func cast(c *call) error {
	to := c.int("to", 0)
	if to <= 0 || to > 255 || !tensor.DType(to).Valid() {
		return fmt.Errorf("attribute to is %d, no element type", to)
	}
	c.castTo(tensor.DType(to))
	return nil
}

func castLike(c *call) error {
	c.castTo(c.elem(1))
	return nil
}

// bitCast sees the bits of its input as another type of the same width.
func bitCast(c *call) error {
	to := c.int("to", 0)
	if to <= 0 || to > 255 || !tensor.DType(to).Valid() {
		return fmt.Errorf("attribute to is %d, no element type", to)
	}
	out, from := tensor.DType(to), c.elem(0)
	if from != tensor.Undefined && from.Bits() != out.Bits() {
		return fmt.Errorf("%s can't be seen as %s: they have %d and %d bits", from, out, from.Bits(), out.Bits())
	}
	c.out(0, like(c.in(0), out))
	return nil
}

// swiGLU takes two tensors of one shape.
func swiGLU(c *call) error {
	if err := c.sameElem(0, 1); err != nil {
		return err
	}
	out := c.in(0)
	if !out.ranked {
		out = c.in(1)
	}
	c.out(0, like(out, c.elem(0)))
	return nil
}

func (c *call) castTo(elem tensor.DType) {
	out := like(c.in(0), elem)
	c.out(0, out)
	if c.in(0) == nil {
		return
	}
	switch elem {
	case tensor.Int64, tensor.Int32, tensor.Float32, tensor.Float64:
		c.map1(out, func(e expr) (expr, bool) { return e, holds(elem, e) })
	case tensor.Bool:
		c.map1(out, func(e expr) (expr, bool) {
			n, ok := e.value()
			return truth(n != 0), ok
		})
	}
}

// matmul is numpy's matmul; the quantized forms have other element types.
func matmul(c *call) error {
	elem, second := c.elem(0), 1
	switch c.n.OpType {
	case "MatMul":
		if err := c.sameElem(0, 1); err != nil {
			return err
		}
		if elem == tensor.Undefined {
			elem = c.elem(1)
		}
	case "MatMulInteger":
		elem = tensor.Int32
	case "QLinearMatMul":
		elem, second = c.elem(7), 3
	}
	a, aok := c.dims(0)
	b, bok := c.dims(second)
	if !aok || !bok {
		c.out(0, someTensor(elem))
		return nil
	}
	dims, err := c.matmulDims(a, b)
	if err != nil {
		return err
	}
	c.out(0, tensorOf(elem, dims...))
	return nil
}

func (c *call) matmulDims(a, b []expr) ([]expr, error) {
	if len(a) == 0 || len(b) == 0 {
		return nil, fmt.Errorf("shapes %s and %s can't be multiplied: neither may be a scalar", dimsText(a), dimsText(b))
	}
	la, lb := len(a) == 1, len(b) == 1
	if la {
		a = []expr{num(1), a[0]}
	}
	if lb {
		b = []expr{b[0], num(1)}
	}
	if err := must("the inner dimension", a[len(a)-1], b[len(b)-2]); err != nil {
		return nil, fmt.Errorf("shapes %s and %s can't be multiplied: %w", dimsText(a), dimsText(b), err)
	}
	dims, err := c.broadcast(a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return nil, fmt.Errorf("shapes %s and %s can't be multiplied: %w", dimsText(a), dimsText(b), err)
	}
	dims = append([]expr(nil), dims...)
	if !la {
		dims = append(dims, a[len(a)-2])
	}
	if !lb {
		dims = append(dims, b[len(b)-1])
	}
	return dims, nil
}

func gemm(c *call) error {
	if err := c.sameElem(0, 1, 2); err != nil {
		return err
	}
	for i := range 2 {
		if err := c.rank(i, 2); err != nil {
			return err
		}
	}
	a, aok := c.dims(0)
	b, bok := c.dims(1)
	if !aok || !bok {
		c.out(0, tensorOf(c.elem(0), c.f.newDims(2)...))
		return nil
	}
	m, k := a[0], a[1]
	if c.int("transA", 0) != 0 {
		m, k = k, m
	}
	kb, n := b[0], b[1]
	if c.int("transB", 0) != 0 {
		kb, n = n, kb
	}
	if err := must("the inner dimension", k, kb); err != nil {
		return err
	}
	out := []expr{m, n}
	if s, ok := c.dims(2); ok {
		if _, err := c.broadcast(out, s); err != nil || len(s) > 2 {
			return fmt.Errorf("its addend of shape %s does not broadcast to %s", dimsText(s), dimsText(out))
		}
	}
	c.out(0, tensorOf(c.elem(0), out...))
	return nil
}

// equation is an Einsum's, with the sizes of its indices.
type equation struct {
	result string
	size   map[rune]expr
	spread []expr // what its ellipsis stands for
}

// equation reads the equation of an Einsum; nil where a rank is not known.
func (c *call) equation() (*equation, error) {
	left, right, explicit := strings.Cut(strings.ReplaceAll(c.str("equation", ""), " ", ""), "->")
	operands := strings.Split(left, ",")
	if len(operands) != len(c.ins) {
		return nil, fmt.Errorf("its equation has %d operands for %d inputs", len(operands), len(c.ins))
	}
	eq := &equation{result: right, size: map[rune]expr{}}
	count := map[rune]int{}
	for i, s := range operands {
		d, ok := c.dims(i)
		if !ok {
			return nil, nil
		}
		before, after, dots := strings.Cut(s, "...")
		named := len(before) + len(after)
		if len(d) < named || !dots && len(d) != named {
			return nil, fmt.Errorf("operand %q of its equation does not fit shape %s", s, dimsText(d))
		}
		var err error
		if eq.spread, err = c.broadcast(eq.spread, d[len(before):len(d)-len(after)]); err != nil {
			return nil, err
		}
		for k, r := range before + after {
			if r >= utf8.RuneSelf {
				return nil, fmt.Errorf("index %c of its equation is no letter", r)
			}
			if k >= len(before) {
				k += len(d) - named
			}
			count[r]++
			old, seen := eq.size[r]
			if !seen {
				old = d[k]
			}
			if eq.size[r], err = c.broadcastDim(old, d[k]); err != nil {
				return nil, fmt.Errorf("index %c of its equation: %w", r, err)
			}
		}
	}
	if !explicit {
		eq.result = "..."
		for r := rune(0); r < utf8.RuneSelf; r++ {
			if count[r] == 1 {
				eq.result += string(r)
			}
		}
	}
	return eq, nil
}

func einsum(c *call) error {
	eq, err := c.equation()
	if err != nil {
		return err
	}
	if eq == nil {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	before, after, dots := strings.Cut(eq.result, "...")
	var dims []expr
	add := func(s string) error {
		for _, r := range s {
			d, ok := eq.size[r]
			if !ok {
				return fmt.Errorf("index %c of its equation's result is in no operand", r)
			}
			dims = append(dims, d)
		}
		return nil
	}
	if err := add(before); err != nil {
		return err
	}
	if dots {
		dims = append(dims, eq.spread...)
	}
	if err := add(after); err != nil {
		return err
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func reduce(c *call) error {
	keep := c.int("keepdims", 1) != 0
	elem := c.elem(0)
	list, given, known := c.axes(1)
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(elem))
		return nil
	}
	if given && known && len(list) == 0 {
		given = false
	}
	if !given {
		if c.int("noop_with_empty_axes", 0) != 0 && c.in(1) == nil || c.int("noop_with_empty_axes", 0) != 0 && known {
			c.out(0, like(c.in(0), elem))
			return nil
		}
		for i := range d {
			list = append(list, int64(i))
		}
	}
	if !known {
		if keep {
			c.out(0, tensorOf(elem, c.f.newDims(len(d))...))
		} else {
			c.out(0, someTensor(elem))
		}
		return nil
	}
	drop := make([]bool, len(d))
	for _, a := range list {
		i, err := axis(a, len(d))
		if err != nil {
			return err
		}
		drop[i] = true
	}
	var dims []expr
	for i, e := range d {
		switch {
		case !drop[i]:
			dims = append(dims, e)
		case keep:
			dims = append(dims, num(1))
		}
	}
	out := tensorOf(elem, dims...)
	if len(d) <= 1 && len(list) == len(d) {
		foldReduce(c, out)
	}
	c.out(0, out)
	return nil
}

// foldReduce reduces the elements of a vector of integers.
func foldReduce(c *call, out *value) {
	data := c.in(0).ints()
	if len(data) == 0 || out.elem != tensor.Int64 {
		return
	}
	r, ok := data[0], true
	for _, e := range data[1:] {
		switch c.n.OpType {
		case "ReduceProd":
			r, ok = r.mul(e)
		case "ReduceSum":
			r, ok = r.add(e)
		case "ReduceMax":
			r, ok = foldArithmetic["Max"]([]expr{r, e})
		case "ReduceMin":
			r, ok = foldArithmetic["Min"]([]expr{r, e})
		default:
			return
		}
		if !ok {
			return
		}
	}
	switch c.n.OpType {
	case "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin":
		out.data = []expr{r}
	}
}

func argReduce(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(tensor.Int64))
		return nil
	}
	a, err := axis(c.int("axis", 0), len(d))
	if err != nil {
		return err
	}
	dims := append([]expr(nil), d[:a]...)
	if c.int("keepdims", 1) != 0 {
		dims = append(dims, num(1))
	}
	c.out(0, tensorOf(tensor.Int64, append(dims, d[a+1:]...)...))
	return nil
}

func quantizeLinear(c *call) error {
	elem := c.elem(2)
	if elem == tensor.Undefined {
		elem = tensor.DType(c.int("output_dtype", int64(tensor.Uint8)))
		if elem == tensor.Undefined {
			elem = tensor.Uint8
		}
	}
	c.out(0, like(c.in(0), elem))
	return nil
}

func dequantizeLinear(c *call) error {
	elem := tensor.DType(c.int("output_dtype", 0))
	if elem == tensor.Undefined {
		elem = c.elem(1)
	}
	c.out(0, like(c.in(0), elem))
	return nil
}

func dynamicQuantizeLinear(c *call) error {
	c.out(0, like(c.in(0), tensor.Uint8))
	c.out(1, tensorOf(tensor.Float32))
	c.out(2, tensorOf(tensor.Uint8))
	return nil
}
