package backendtest

import (
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Random tensors of a case. Shapes are small, and seldom multiples of a vector's
// width.

// between is a tensor with elements in [lo, hi).
func (g *gen) between(d tensor.DType, lo, hi float64, shape ...int64) tensor.Tensor {
	t, err := tensor.New(d, shape)
	if err != nil {
		panic(err) // a shape of the table below
	}
	for i := range t.Len() {
		set(t, i, lo+(hi-lo)*g.rand.Float64())
	}
	return t
}

// set writes an element, rounded to the tensor's type.
func set(t tensor.Tensor, i int, v float64) {
	switch t.DType {
	case tensor.Float32:
		tensor.View[float32](t)[i] = float32(v)
	case tensor.Float64:
		tensor.View[float64](t)[i] = v
	case tensor.Float16:
		tensor.View[uint16](t)[i] = toHalf(v)
	case tensor.BFloat16:
		tensor.View[uint16](t)[i] = toBFloat(v)
	case tensor.Int64:
		tensor.View[int64](t)[i] = int64(math.Floor(v))
	case tensor.Int32:
		tensor.View[int32](t)[i] = int32(math.Floor(v))
	case tensor.Int8:
		tensor.View[int8](t)[i] = int8(math.Floor(v))
	case tensor.Uint8:
		tensor.View[uint8](t)[i] = uint8(math.Floor(v))
	case tensor.Bool:
		tensor.View[bool](t)[i] = v >= 0
	default:
		panic("backendtest: no elements of type " + t.DType.String())
	}
}

// f declares an input of float32 in [-2, 2).
func (g *gen) f(shape ...int64) string { return g.in(g.between(tensor.Float32, -2, 2, shape...)) }

// of declares an input of a type, in [-2, 2).
func (g *gen) of(d tensor.DType, shape ...int64) string { return g.in(g.between(d, -2, 2, shape...)) }

// ints declares an input of int64 in [lo, hi).
func (g *gen) ints(lo, hi float64, shape ...int64) string {
	return g.in(g.between(tensor.Int64, lo, hi, shape...))
}

// w adds a constant of float32 in [-1, 1), as weights are.
func (g *gen) w(shape ...int64) string { return g.Const(g.between(tensor.Float32, -1, 1, shape...)) }

// bits adds a constant of random bytes.
func (g *gen) bits(shape ...int64) string {
	return g.Const(g.between(tensor.Uint8, 0, 256, shape...))
}

// node is a case of one operator with one output.
func node(name, op string, inputs func(*gen) []string, attrs ...*graph.Attr) operatorCase {
	return operatorCase{name: name, build: func(g *gen) []string {
		return []string{g.Op(op, inputs(g), attrs...)}
	}}
}

// nodes is a case of one operator with several outputs.
func nodes(name, op, domain string, outputs int, inputs func(*gen) []string, attrs ...*graph.Attr) operatorCase {
	return operatorCase{name: name, build: func(g *gen) []string {
		return g.Node(&graph.Node{Domain: domain, OpType: op, Inputs: inputs(g), Attrs: attrs}, outputs)
	}}
}

// microsoft is a case of one operator of com.microsoft.
func microsoft(name, op string, inputs func(*gen) []string, attrs ...*graph.Attr) operatorCase {
	return nodes(name, op, graph.DomainMicrosoft, 1, inputs, attrs...)
}

// within gives a case its own tolerance.
func (k operatorCase) within(abs, rel float64) operatorCase {
	k.tol = &Tolerance{abs, rel}
	return k
}

// Short for the table.
var (
	in1 = func(shape ...int64) func(*gen) []string {
		return func(g *gen) []string { return []string{g.f(shape...)} }
	}
	in2 = func(a, b []int64) func(*gen) []string {
		return func(g *gen) []string { return []string{g.f(a...), g.f(b...)} }
	}
	ai  = graph.IntAttr
	ais = graph.IntsAttr
	af  = graph.FloatAttr
	as  = graph.StringAttr
)

type dims = []int64

// operatorCases are what a device is tried on. What a smoke run on zeros cannot
// compute (division of integers, steps of a range) is constant.
var operatorCases = concat(
	elementwise(), typesAndCasts(), products(), normalizations(), reductions(), movements(), indexing(),
	convolutions(), quantized(), contract(), control(), networks(),
)

func concat(lists ...[]operatorCase) []operatorCase {
	var all []operatorCase
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// ordered goes through a map in the order of its keys.
func ordered[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

func elementwise() []operatorCase {
	var list []operatorCase
	for _, u := range []struct {
		op     string
		lo, hi float64
	}{
		{"Abs", -2, 2}, {"Neg", -2, 2}, {"Exp", -3, 3}, {"Log", 0.1, 5}, {"Sqrt", 0, 9}, {"Reciprocal", 0.2, 4},
		{"Floor", -5, 5}, {"Ceil", -5, 5}, {"Round", -5, 5}, {"Sign", -2, 2}, {"Erf", -3, 3}, {"Sin", -6, 6}, {"Cos", -6, 6},
		{"Tan", -1, 1}, {"Asin", -1, 1}, {"Acos", -1, 1}, {"Atan", -4, 4}, {"Sinh", -2, 2}, {"Cosh", -2, 2}, {"Asinh", -3, 3},
		{"Acosh", 1.1, 5}, {"Atanh", -0.9, 0.9}, {"Tanh", -4, 4}, {"Sigmoid", -6, 6}, {"Relu", -2, 2}, {"Softplus", -4, 4},
		{"Softsign", -4, 4}, {"Elu", -3, 3}, {"Selu", -3, 3}, {"Celu", -3, 3}, {"LeakyRelu", -3, 3}, {"HardSigmoid", -5, 5},
		{"HardSwish", -5, 5}, {"Mish", -4, 4}, {"Gelu", -4, 4}, {"ThresholdedRelu", -3, 3}, {"IsNaN", -2, 2}, {"IsInf", -2, 2},
		{"Identity", -2, 2},
	} {
		list = append(list, node(u.op, u.op, func(g *gen) []string {
			return []string{g.in(g.between(tensor.Float32, u.lo, u.hi, 3, 37))}
		}).within(2e-6, 0))
	}
	list = append(list,
		node("Gelu of tanh", "Gelu", in1(5, 33), as("approximate", "tanh")),
		node("Exp of large values", "Exp", func(g *gen) []string { return []string{g.in(g.between(tensor.Float32, -90, 85, 200))} }),
		node("Tanh of large values", "Tanh", func(g *gen) []string { return []string{g.in(g.between(tensor.Float32, -90, 90, 200))} }),
		node("Clip", "Clip", func(g *gen) []string { return []string{g.f(4, 9), g.Float(-0.5), g.Float(1)} }),
		node("Clip without minimum", "Clip", func(g *gen) []string { return []string{g.f(4, 9), "", g.Float(1)} }),
		node("PRelu", "PRelu", in2(dims{2, 3, 5}, dims{3, 1})),
		node("Not", "Not", func(g *gen) []string { return []string{g.of(tensor.Bool, 4, 5)} }),
		node("Where", "Where", func(g *gen) []string { return []string{g.of(tensor.Bool, 4, 1), g.f(1, 5), g.f(4, 5)} }),
		node("Where of int64", "Where", func(g *gen) []string {
			return []string{g.of(tensor.Bool, 4, 5), g.ints(-9, 9, 4, 5), g.ints(-9, 9, 1)}
		}),
		node("Pow", "Pow", func(g *gen) []string { return []string{g.in(g.between(tensor.Float32, 0.1, 3, 3, 7)), g.f(3, 7)} }),
		node("Pow of 2", "Pow", func(g *gen) []string { return []string{g.f(3, 7), g.Float(2)} }),
		node("Mod", "Mod", func(g *gen) []string { return []string{g.ints(-20, 20, 3, 8), g.Ints(3, 4, 5, 6, 7, -3, -4, -5)} }),
		node("Mod of floats", "Mod", func(g *gen) []string { return []string{g.f(3, 8), g.Float(0.7)} }, ai("fmod", 1)),
		node("Div of int64", "Div", func(g *gen) []string { return []string{g.ints(-50, 50, 3, 4), g.Ints(3, -4, 7, 2)} }),
		node("Max of three", "Max", func(g *gen) []string { return []string{g.f(2, 3), g.f(3), g.f(2, 1)} }),
		node("Min of three", "Min", func(g *gen) []string { return []string{g.f(2, 3), g.f(3), g.f(2, 1)} }),
		node("Sum of three", "Sum", func(g *gen) []string { return []string{g.f(2, 3), g.f(3), g.f(2, 1)} }),
		node("Mean of three", "Mean", func(g *gen) []string { return []string{g.f(2, 3), g.f(3), g.f(2, 1)} }),
		node("And", "And", func(g *gen) []string { return []string{g.of(tensor.Bool, 4, 5), g.of(tensor.Bool, 5)} }),
		node("Or", "Or", func(g *gen) []string { return []string{g.of(tensor.Bool, 4, 5), g.of(tensor.Bool, 5)} }),
		node("Xor", "Xor", func(g *gen) []string { return []string{g.of(tensor.Bool, 4, 5), g.of(tensor.Bool, 5)} }),
		node("Add to itself", "Add", func(g *gen) []string { x := g.f(7); return []string{x, x} }),
	)
	for _, op := range []string{"Add", "Sub", "Mul", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"} {
		for name, shapes := range ordered(map[string][2]dims{
			"":                     {{3, 37}, {3, 37}},
			" with a row":          {{3, 37}, {37}},
			" with a column":       {{3, 37}, {3, 1}},
			" both broadcast":      {{4, 1, 5}, {3, 1}},
			" with a scalar":       {{2, 19}, {}},
			" of a vector and all": {{5}, {2, 3, 5}},
		}) {
			list = append(list, node(op+name, op, func(g *gen) []string {
				b := g.between(tensor.Float32, 0.5, 2, shapes[1]...)
				return []string{g.f(shapes[0]...), g.in(b)}
			}))
		}
	}
	return list
}

func typesAndCasts() []operatorCase {
	var list []operatorCase
	for _, d := range []tensor.DType{tensor.Float16, tensor.BFloat16, tensor.Float64, tensor.Int32, tensor.Int64, tensor.Int8, tensor.Uint8} {
		for _, op := range []string{"Add", "Sub", "Mul", "Max"} {
			list = append(list, node(op+" of "+d.String(), op, func(g *gen) []string {
				return []string{g.in(g.between(d, 0, 5, 3, 9)), g.in(g.between(d, 0, 5, 9))}
			}))
		}
		list = append(list,
			node("Equal of "+d.String(), "Equal", func(g *gen) []string {
				return []string{g.in(g.between(d, 0, 3, 3, 9)), g.in(g.between(d, 0, 3, 9))}
			}),
			node("Cast from "+d.String(), "Cast", func(g *gen) []string { return []string{g.in(g.between(d, 0, 100, 3, 9))} }, ai("to", int64(tensor.Float32))),
			node("Cast to "+d.String(), "Cast", func(g *gen) []string { return []string{g.in(g.between(tensor.Float32, 0, 100, 3, 9))} }, ai("to", int64(d))),
		)
	}
	for _, d := range []tensor.DType{tensor.Float16, tensor.BFloat16, tensor.Float64} {
		list = append(list,
			node("Exp of "+d.String(), "Exp", func(g *gen) []string { return []string{g.of(d, 3, 11)} }),
			node("Tanh of "+d.String(), "Tanh", func(g *gen) []string { return []string{g.of(d, 3, 11)} }),
			node("Softmax of "+d.String(), "Softmax", func(g *gen) []string { return []string{g.of(d, 3, 11)} }),
			node("MatMul of "+d.String(), "MatMul", func(g *gen) []string { return []string{g.of(d, 5, 16), g.of(d, 16, 3)} }),
			node("LayerNormalization of "+d.String(), "LayerNormalization", func(g *gen) []string {
				return []string{g.of(d, 4, 24), g.Const(g.between(d, 0.5, 1.5, 24)), g.Const(g.between(d, -1, 1, 24))}
			}),
			node("ReduceMean of "+d.String(), "ReduceMean", func(g *gen) []string { return []string{g.of(d, 4, 24), g.Ints(-1)} }),
		)
	}
	return append(list,
		node("Cast of bool", "Cast", func(g *gen) []string { return []string{g.of(tensor.Bool, 3, 9)} }, ai("to", int64(tensor.Float32))),
		node("Cast to bool", "Cast", func(g *gen) []string { return []string{g.ints(-1, 2, 3, 9)} }, ai("to", int64(tensor.Bool))),
		node("Cast of negatives to int64", "Cast", in1(3, 9), ai("to", int64(tensor.Int64))),
		node("CastLike", "CastLike", func(g *gen) []string { return []string{g.f(3, 9), g.Ints(1)} }),
		node("Neg of int64", "Neg", func(g *gen) []string { return []string{g.ints(-9, 9, 8)} }),
	)
}

func products() []operatorCase {
	var list []operatorCase
	for name, s := range ordered(map[string][2]dims{
		"":                   {{5, 16}, {16, 7}},
		" odd":               {{3, 33}, {33, 17}},
		" of a row":          {{1, 64}, {64, 65}},
		" of vectors":        {{16}, {16}},
		" vector, matrix":    {{16}, {16, 5}},
		" matrix, vector":    {{5, 16}, {16}},
		" batched":           {{2, 3, 5, 8}, {2, 3, 8, 4}},
		" batch, matrix":     {{2, 5, 8}, {8, 4}},
		" matrix, batch":     {{5, 8}, {2, 8, 4}},
		" batches broadcast": {{2, 1, 5, 8}, {3, 8, 4}},
		" large":             {{65, 130}, {130, 67}},
	}) {
		list = append(list,
			node("MatMul"+name, "MatMul", in2(s[0], s[1])),
			node("MatMul with weights"+name, "MatMul", func(g *gen) []string { return []string{g.f(s[0]...), g.w(s[1]...)} }),
		)
	}
	// As models have it where activations are bf16: rounded on the way, products and sums in f32.
	for name, m := range ordered(map[string]int64{" a row": 1, "": 7, " many": 70}) {
		to := func(g *gen, x string, d tensor.DType) string { return g.Op("Cast", []string{x}, ai("to", int64(d))) }
		list = append(list, node("MatMul of bf16 in f32,"+name, "MatMul", func(g *gen) []string {
			w := to(g, g.Const(g.between(tensor.BFloat16, -1, 1, 33, 65)), tensor.Float32)
			return []string{to(g, to(g, g.f(m, 65), tensor.BFloat16), tensor.Float32), g.Op("Transpose", []string{w}, ais("perm", 1, 0))}
		}))
	}
	for ta := range int64(2) {
		for tb := range int64(2) {
			a, b := dims{5, 16}, dims{16, 7}
			if ta == 1 {
				a = dims{16, 5}
			}
			if tb == 1 {
				b = dims{7, 16}
			}
			for name, bias := range ordered(map[string]dims{" without bias": nil, " with a row": {7}, " with a column": {5, 1}, " with all": {5, 7}}) {
				list = append(list, node(fmt.Sprintf("Gemm transA %d transB %d%s", ta, tb, name), "Gemm", func(g *gen) []string {
					x := []string{g.f(a...), g.w(b...)}
					if bias != nil {
						x = append(x, g.w(bias...))
					}
					return x
				}, ai("transA", ta), ai("transB", tb), af("alpha", 0.5), af("beta", 2)))
			}
		}
	}
	for _, e := range []struct {
		equation string
		shapes   []dims
	}{
		{"ij,jk->ik", []dims{{3, 4}, {4, 5}}}, {"bhid,bhjd->bhij", []dims{{2, 3, 4, 8}, {2, 3, 5, 8}}}, {"ij->ji", []dims{{3, 4}}},
		{"ii->i", []dims{{4, 4}}}, {"...i,...i->...", []dims{{2, 3, 4}, {2, 3, 4}}}, {"i,j->ij", []dims{{3}, {4}}},
	} {
		list = append(list, node("Einsum "+e.equation, "Einsum", func(g *gen) []string {
			var x []string
			for _, s := range e.shapes {
				x = append(x, g.f(s...))
			}
			return x
		}, as("equation", e.equation)))
	}
	return list
}

func normalizations() []operatorCase {
	var list []operatorCase
	for _, axis := range []int64{-1, 0, 1} {
		for _, op := range []string{"Softmax", "LogSoftmax", "Hardmax"} {
			list = append(list, node(fmt.Sprintf("%s axis %d", op, axis), op, in1(3, 5, 19), ai("axis", axis)))
		}
		list = append(list, node(fmt.Sprintf("LpNormalization axis %d", axis), "LpNormalization", in1(3, 5, 19), ai("axis", axis)))
	}
	scaled := func(x dims, s dims, bias bool) func(*gen) []string {
		return func(g *gen) []string {
			in := []string{g.f(x...), g.Const(g.between(tensor.Float32, 0.5, 1.5, s...))}
			if bias {
				in = append(in, g.w(s...))
			}
			return in
		}
	}
	return append(list,
		node("LayerNormalization", "LayerNormalization", scaled(dims{3, 5, 24}, dims{24}, true), ai("axis", -1)),
		node("LayerNormalization without bias", "LayerNormalization", scaled(dims{3, 5, 24}, dims{24}, false), af("epsilon", 1e-12)),
		node("LayerNormalization axis 1", "LayerNormalization", scaled(dims{3, 5, 24}, dims{5, 24}, true), ai("axis", 1)),
		nodes("LayerNormalization with statistics", "LayerNormalization", "", 3, scaled(dims{3, 24}, dims{24}, true)),
		node("LayerNormalization of equal values", "LayerNormalization", func(g *gen) []string {
			return []string{g.in(g.between(tensor.Float32, 3, 3, 2, 24)), g.w(24), g.w(24)}
		}),
		node("RMSNormalization", "RMSNormalization", scaled(dims{3, 5, 24}, dims{24}, false)),
		node("BatchNormalization", "BatchNormalization", func(g *gen) []string {
			return []string{g.f(2, 3, 4, 5), g.w(3), g.w(3), g.w(3), g.Const(g.between(tensor.Float32, 0.5, 2, 3))}
		}),
		node("InstanceNormalization", "InstanceNormalization", func(g *gen) []string { return []string{g.f(2, 3, 4, 5), g.w(3), g.w(3)} }),
		node("GroupNormalization", "GroupNormalization", func(g *gen) []string { return []string{g.f(2, 6, 4, 5), g.w(6), g.w(6)} }, ai("num_groups", 3)),
		node("LRN", "LRN", in1(2, 6, 4, 5), ai("size", 3)),
		node("Softmax of large values", "Softmax", func(g *gen) []string { return []string{g.in(g.between(tensor.Float32, -100, 100, 4, 50))} }),
		node("Softmax with a mask", "Softmax", func(g *gen) []string {
			x := g.between(tensor.Float32, -2, 2, 4, 50)
			for i := range 60 {
				set(x, i*3, math.Inf(-1))
			}
			return []string{g.in(x)}
		}),
	)
}

func reductions() []operatorCase {
	var list []operatorCase
	for _, op := range []string{"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum"} {
		x := func(g *gen) string { return g.in(g.between(tensor.Float32, 0.2, 1.5, 3, 5, 7)) }
		list = append(list,
			node(op+" last", op, func(g *gen) []string { return []string{x(g), g.Ints(-1)} }),
			node(op+" first, dropped", op, func(g *gen) []string { return []string{x(g), g.Ints(0)} }, ai("keepdims", 0)),
			node(op+" two", op, func(g *gen) []string { return []string{x(g), g.Ints(0, 2)} }),
			node(op+" all", op, func(g *gen) []string { return []string{x(g)} }, ai("keepdims", 0)),
			node(op+" none", op, func(g *gen) []string { return []string{x(g)} }, ai("noop_with_empty_axes", 1)),
		)
	}
	for _, op := range []string{"ArgMax", "ArgMin"} {
		for axis := range int64(2) {
			list = append(list, node(fmt.Sprintf("%s axis %d", op, axis), op, in1(5, 9), ai("axis", axis), ai("keepdims", axis)))
		}
		list = append(list, node(op+" of ties, last", op, func(g *gen) []string { return []string{g.ints(0, 2, 5, 9)} }, ai("axis", 1), ai("select_last_index", 1)))
	}
	return append(list,
		node("CumSum", "CumSum", func(g *gen) []string { return []string{g.f(3, 7), g.Int(1)} }),
		node("CumSum exclusive, reverse", "CumSum", func(g *gen) []string { return []string{g.f(3, 7), g.Int(0)} }, ai("exclusive", 1), ai("reverse", 1)),
		node("ReduceSum of int64", "ReduceSum", func(g *gen) []string { return []string{g.ints(-9, 9, 4, 5), g.Ints(1)} }),
		node("ReduceMax of int32", "ReduceMax", func(g *gen) []string { return []string{g.in(g.between(tensor.Int32, -9, 9, 4, 5)), g.Ints(1)} }),
		nodes("TopK", "TopK", "", 2, func(g *gen) []string { return []string{g.f(4, 20), g.Ints(5)} }),
		nodes("TopK, smallest, axis 0", "TopK", "", 2, func(g *gen) []string { return []string{g.f(9, 3), g.Ints(4)} }, ai("largest", 0), ai("axis", 0)),
	)
}

func movements() []operatorCase {
	var list []operatorCase
	for _, p := range []dims{{1, 0, 2, 3}, {0, 2, 1, 3}, {3, 2, 1, 0}, {0, 1, 3, 2}, {0, 2, 3, 1}} {
		list = append(list, node(fmt.Sprint("Transpose ", p), "Transpose", in1(2, 3, 4, 5), ais("perm", p...)))
	}
	for _, d := range []tensor.DType{tensor.Float32, tensor.Int64, tensor.Bool, tensor.Float16} {
		list = append(list,
			node("Transpose of "+d.String(), "Transpose", func(g *gen) []string { return []string{g.of(d, 3, 7)} }),
			node("Concat of "+d.String(), "Concat", func(g *gen) []string { return []string{g.of(d, 3, 7), g.of(d, 3, 2)} }, ai("axis", -1)),
			node("Gather of "+d.String(), "Gather", func(g *gen) []string { return []string{g.of(d, 9, 5), g.ints(0, 9, 4)} }),
			node("Expand of "+d.String(), "Expand", func(g *gen) []string { return []string{g.of(d, 3, 1), g.Ints(2, 1, 4)} }),
			node("Slice of "+d.String(), "Slice", func(g *gen) []string { return []string{g.of(d, 6, 8), g.Ints(1, 2), g.Ints(5, 8)} }),
		)
	}
	for name, shape := range ordered(map[string]dims{"": {4, 15}, " -1": {3, -1, 2}, " 0": {0, -1}, " to a vector": {-1}, " one more": {1, 5, 12, 1}}) {
		list = append(list, node("Reshape"+name, "Reshape", func(g *gen) []string { return []string{g.f(5, 12), g.Ints(shape...)} }))
	}
	sliced := func(starts, ends, axes, steps dims) func(*gen) []string {
		return func(g *gen) []string {
			return []string{g.f(6, 7, 8), g.Ints(starts...), g.Ints(ends...), g.Ints(axes...), g.Ints(steps...)}
		}
	}
	padded := func(pads dims) func(*gen) []string {
		return func(g *gen) []string { return []string{g.f(3, 4, 5), g.Ints(pads...)} }
	}
	return append(list,
		node("Flatten", "Flatten", in1(2, 3, 4), ai("axis", 2)),
		node("Squeeze", "Squeeze", func(g *gen) []string { return []string{g.f(1, 3, 1, 5), g.Ints(0, -2)} }),
		node("Unsqueeze", "Unsqueeze", func(g *gen) []string { return []string{g.f(3, 5), g.Ints(0, -1)} }),
		node("Concat of three, axis 0", "Concat", func(g *gen) []string { return []string{g.f(3, 7), g.f(1, 7), g.f(2, 7)} }, ai("axis", 0)),
		nodes("Split", "Split", "", 3, in1(4, 9), ai("axis", 1), ai("num_outputs", 3)),
		nodes("Split in unequal parts", "Split", "", 2, func(g *gen) []string { return []string{g.f(7, 4), g.Ints(5, 2)} }),
		node("Slice with steps", "Slice", sliced(dims{0, 1}, dims{6, 7}, dims{0, 2}, dims{2, 3})),
		node("Slice backwards", "Slice", sliced(dims{-1, -1}, dims{math.MinInt64, -5}, dims{0, 1}, dims{-1, -2})),
		node("Slice beyond the end", "Slice", sliced(dims{2}, dims{math.MaxInt64}, dims{-1}, dims{1})),
		node("Slice with negative ends", "Slice", sliced(dims{-5}, dims{-1}, dims{1}, dims{1})),
		node("Expand to more", "Expand", func(g *gen) []string { return []string{g.f(1, 3, 1), g.Ints(2, 3, 4)} }),
		node("Tile", "Tile", func(g *gen) []string { return []string{g.f(2, 3), g.Ints(2, 3)} }),
		node("Pad", "Pad", padded(dims{1, 0, 2, 0, 1, 3})),
		node("Pad with a value", "Pad", func(g *gen) []string { return []string{g.f(3, 4), g.Ints(1, 1, 1, 1), g.Float(7)} }),
		node("Pad by reflection", "Pad", padded(dims{0, 1, 2, 0, 2, 1}), as("mode", "reflect")),
		node("Pad by the edge", "Pad", padded(dims{0, 1, 2, 0, 2, 1}), as("mode", "edge")),
		node("Shape", "Shape", in1(3, 4, 5)),
		node("Shape, a part", "Shape", in1(3, 4, 5), ai("start", 1), ai("end", -1)),
		node("Size", "Size", in1(3, 4, 5)),
		node("ConstantOfShape", "ConstantOfShape", func(g *gen) []string { return []string{g.Ints(2, 3)} }, graph.TensorAttr("value", tensor.Ints(tensor.Shape{1}, 7))),
		node("Range", "Range", func(g *gen) []string { return []string{g.Int(2), g.Int(17), g.Int(3)} }),
		node("DepthToSpace", "DepthToSpace", in1(1, 8, 2, 3), ai("blocksize", 2)),
		node("DepthToSpace, CRD", "DepthToSpace", in1(1, 8, 2, 3), ai("blocksize", 2), as("mode", "CRD")),
		node("SpaceToDepth", "SpaceToDepth", in1(1, 2, 4, 6), ai("blocksize", 2)),
		node("Trilu", "Trilu", in1(2, 5, 6)),
		node("Trilu, lower", "Trilu", func(g *gen) []string { return []string{g.f(5, 6), g.Int(1)} }, ai("upper", 0)),
		node("EyeLike", "EyeLike", in1(4, 6), ai("k", 1)),
		node("ReverseSequence", "ReverseSequence", func(g *gen) []string { return []string{g.f(4, 3, 2), g.Ints(4, 2, 1)} }),
	)
}

func indexing() []operatorCase {
	at := func(g *gen, data string, index tensor.Tensor) []string { return []string{data, g.Const(index)} }
	return []operatorCase{
		node("Gather axis 1", "Gather", func(g *gen) []string { return []string{g.f(3, 9, 2), g.ints(0, 9, 2, 2)} }, ai("axis", 1)),
		node("Gather negative", "Gather", func(g *gen) []string { return []string{g.f(9, 2), g.ints(-9, 9, 5)} }),
		node("Gather a scalar", "Gather", func(g *gen) []string { return []string{g.f(9, 2), g.ints(0, 9)} }),
		node("Gather of weights", "Gather", func(g *gen) []string { return []string{g.w(30, 16), g.ints(0, 30, 2, 7)} }),
		node("Gather by int32", "Gather", func(g *gen) []string { return []string{g.f(9, 3), g.in(g.between(tensor.Int32, 0, 9, 4))} }),
		node("GatherElements", "GatherElements", func(g *gen) []string { return []string{g.f(4, 6), g.ints(-6, 6, 4, 3)} }, ai("axis", 1)),
		node("GatherND", "GatherND", func(g *gen) []string {
			return at(g, g.f(3, 4, 5), tensor.Ints(tensor.Shape{2, 2}, 0, 1, 2, 3))
		}),
		node("GatherND with a batch", "GatherND", func(g *gen) []string {
			return at(g, g.f(2, 4, 5), tensor.Ints(tensor.Shape{2, 1}, 1, 3))
		}, ai("batch_dims", 1)),
		node("ScatterND", "ScatterND", func(g *gen) []string {
			return append(at(g, g.f(5, 3), tensor.Ints(tensor.Shape{2, 1}, 4, 1)), g.f(2, 3))
		}),
		node("ScatterND adding", "ScatterND", func(g *gen) []string {
			return append(at(g, g.f(5, 3), tensor.Ints(tensor.Shape{3, 1}, 4, 1, 4)), g.f(3, 3))
		}, as("reduction", "add")),
		node("ScatterElements", "ScatterElements", func(g *gen) []string {
			return append(at(g, g.f(3, 4), tensor.Ints(tensor.Shape{3, 2}, 0, 1, 3, 2, 1, 0)), g.f(3, 2))
		}, ai("axis", 1)),
		node("OneHot", "OneHot", func(g *gen) []string {
			return []string{g.ints(0, 5, 6), g.Int(5), g.Const(tensor.Floats(tensor.Shape{2}, -1, 3))}
		}),
		node("NonZero", "NonZero", func(g *gen) []string { return []string{g.ints(0, 2, 4, 5)} }),
		node("Compress", "Compress", func(g *gen) []string {
			return []string{g.f(4, 3), g.Const(tensor.Of(tensor.Bool, tensor.Shape{4}, []bool{true, false, true, true}))}
		}, ai("axis", 0)),
	}
}

func convolutions() []operatorCase {
	conv := func(x, w dims, bias bool) func(*gen) []string {
		return func(g *gen) []string {
			in := []string{g.f(x...), g.w(w...)}
			if bias {
				in = append(in, g.w(w[0]))
			}
			return in
		}
	}
	return []operatorCase{
		node("Conv", "Conv", conv(dims{2, 3, 8, 9}, dims{4, 3, 3, 3}, true)),
		node("Conv, padded, strided", "Conv", conv(dims{1, 3, 9, 11}, dims{4, 3, 3, 3}, true), ais("pads", 1, 1, 1, 1), ais("strides", 2, 2)),
		node("Conv, uneven pads", "Conv", conv(dims{1, 3, 7, 7}, dims{2, 3, 3, 2}, false), ais("pads", 0, 1, 2, 1)),
		node("Conv, dilated", "Conv", conv(dims{1, 2, 9, 9}, dims{3, 2, 3, 3}, false), ais("dilations", 2, 2)),
		node("Conv, groups", "Conv", conv(dims{1, 4, 6, 6}, dims{6, 2, 3, 3}, true), ai("group", 2)),
		node("Conv, depthwise", "Conv", conv(dims{1, 4, 6, 6}, dims{4, 1, 3, 3}, true), ai("group", 4), ais("pads", 1, 1, 1, 1)),
		node("Conv 1x1", "Conv", conv(dims{2, 5, 4, 6}, dims{7, 5, 1, 1}, true)),
		node("Conv, same upper", "Conv", conv(dims{1, 2, 7, 8}, dims{3, 2, 3, 3}, false), as("auto_pad", "SAME_UPPER"), ais("strides", 2, 2)),
		node("Conv of one dimension", "Conv", conv(dims{2, 3, 20}, dims{4, 3, 5}, true), ais("pads", 2, 2), ais("strides", 2)),
		node("Conv of three dimensions", "Conv", conv(dims{1, 2, 4, 5, 6}, dims{3, 2, 2, 2, 2}, true)),
		node("ConvTranspose", "ConvTranspose", func(g *gen) []string { return []string{g.f(1, 3, 4, 5), g.w(3, 2, 3, 3), g.w(2)} }, ais("strides", 2, 2), ais("pads", 1, 1, 1, 1), ais("output_padding", 1, 1)),
		node("MaxPool", "MaxPool", in1(2, 3, 8, 9), ais("kernel_shape", 3, 2), ais("strides", 2, 2), ais("pads", 1, 0, 1, 0)),
		node("MaxPool, ceiling", "MaxPool", in1(1, 2, 7, 7), ais("kernel_shape", 2, 2), ais("strides", 2, 2), ai("ceil_mode", 1)),
		node("AveragePool", "AveragePool", in1(2, 3, 8, 9), ais("kernel_shape", 3, 3), ais("pads", 1, 1, 1, 1)),
		node("AveragePool, pads counted", "AveragePool", in1(2, 3, 8, 9), ais("kernel_shape", 3, 3), ais("pads", 1, 1, 1, 1), ai("count_include_pad", 1)),
		node("GlobalAveragePool", "GlobalAveragePool", in1(2, 3, 4, 5)),
		node("GlobalMaxPool", "GlobalMaxPool", in1(2, 3, 4, 5)),
		node("Resize, nearest", "Resize", func(g *gen) []string {
			return []string{g.f(1, 2, 3, 4), "", g.Const(tensor.Floats(tensor.Shape{4}, 1, 1, 2, 2))}
		}, as("mode", "nearest"), as("coordinate_transformation_mode", "asymmetric"), as("nearest_mode", "floor")),
		node("Resize, linear", "Resize", func(g *gen) []string {
			return []string{g.f(1, 2, 3, 4), "", "", g.Ints(1, 2, 5, 7)}
		}, as("mode", "linear")),
		node("Resize, cubic", "Resize", func(g *gen) []string {
			return []string{g.f(1, 1, 4, 4), "", "", g.Ints(1, 1, 7, 6)}
		}, as("mode", "cubic")),
	}
}

// rounded8 is for products whose activations may be rounded to 8 bits, in blocks of some 32: by
// 1/254 of the largest of a block each, which adds up by chance.
var rounded8 = Tolerance{1e-3, 2e-2}

// rounded16 is for products whose activations may be rounded to bf16: by 2^-9 of each.
var rounded16 = Tolerance{1e-3, 4e-3}

func quantized() []operatorCase {
	list := []operatorCase{
		node("QuantizeLinear", "QuantizeLinear", func(g *gen) []string {
			return []string{g.f(4, 9), g.Float(0.02), g.Const(tensor.Of(tensor.Uint8, nil, []uint8{120}))}
		}).within(1, 0),
		node("QuantizeLinear by axis", "QuantizeLinear", func(g *gen) []string {
			return []string{g.f(3, 9), g.Const(tensor.Floats(tensor.Shape{3}, 0.02, 0.01, 0.03)), g.Const(tensor.Of(tensor.Int8, tensor.Shape{3}, []int8{0, 3, -7}))}
		}, ai("axis", 0)).within(1, 0),
		node("DequantizeLinear", "DequantizeLinear", func(g *gen) []string {
			return []string{g.in(g.between(tensor.Int8, -128, 128, 4, 9)), g.Float(0.05)}
		}),
		node("DequantizeLinear by axis", "DequantizeLinear", func(g *gen) []string {
			return []string{g.in(g.between(tensor.Uint8, 0, 256, 3, 8)), g.w(3), g.bits(3)}
		}, ai("axis", 0)),
		node("DequantizeLinear in blocks", "DequantizeLinear", func(g *gen) []string {
			return []string{g.Const(g.between(tensor.Int8, -128, 128, 8, 6)), g.w(2, 6)}
		}, ai("axis", 0), ai("block_size", 4)),
		nodes("DynamicQuantizeLinear", "DynamicQuantizeLinear", "", 3, in1(4, 9)).within(1, 0),
		node("MatMulInteger", "MatMulInteger", func(g *gen) []string {
			return []string{g.in(g.between(tensor.Uint8, 0, 256, 5, 16)), g.Const(g.between(tensor.Int8, -128, 128, 16, 7)),
				g.Const(tensor.Of(tensor.Uint8, nil, []uint8{100}))}
		}),
	}
	for _, bits := range []int64{8, 4, 2} {
		const n, k, block = 12, 64, 32
		for name, points := range ordered(map[string]bool{"": false, " with zero points": true}) {
			list = append(list, microsoft(fmt.Sprintf("MatMulNBits %d%s", bits, name), "MatMulNBits", func(g *gen) []string {
				in := []string{g.f(2, 3, k), g.bits(n, k/block, block*bits/8), g.w(n * k / block)}
				if points {
					in = append(in, g.bits(n*((k/block*bits+7)/8)))
				}
				return in
			}, ai("K", k), ai("N", n), ai("bits", bits), ai("block_size", block), ai("accuracy_level", 1)))
			for _, rounded := range []struct {
				name  string
				level int64
				by    Tolerance
			}{{"bf16", 3, rounded16}, {"8 bits", 4, rounded8}} {
				list = append(list, microsoft(fmt.Sprintf("MatMulNBits %d%s, a part of a block, activations of %s", bits, name, rounded.name), "MatMulNBits", func(g *gen) []string {
					const rows, part, blocks = 37, 90, 3
					in := []string{g.f(7, part), g.bits(rows, blocks, block*bits/8), g.w(rows * blocks)}
					if points {
						in = append(in, g.bits(rows*((blocks*bits+7)/8)))
					}
					return in
				}, ai("K", 90), ai("N", 37), ai("bits", bits), ai("block_size", block), ai("accuracy_level", rounded.level)).within(rounded.by.Abs, rounded.by.Rel))
			}
		}
	}
	return list
}

func control() []operatorCase {
	branch := func(name, op string) *graph.Graph {
		return &graph.Graph{
			Name:    name,
			Nodes:   []*graph.Node{{Name: name + "_node", OpType: op, Inputs: []string{"in1"}, Outputs: []string{name + "_y"}}},
			Outputs: []*graph.Value{{Name: name + "_y", Type: graph.TensorType(tensor.Float32, graph.Known(-1))}},
		}
	}
	var list []operatorCase
	for name, cond := range ordered(map[string]float64{"If, true": 1, "If, false": -1}) {
		list = append(list, operatorCase{name: name, build: func(g *gen) []string {
			c := g.in(g.between(tensor.Bool, cond, cond))
			g.f(6)
			return []string{g.Op("If", []string{c}, graph.GraphAttr("then_branch", branch("then", "Neg")), graph.GraphAttr("else_branch", branch("else", "Exp")))}
		}})
	}
	scalar := func(name string, d tensor.DType) *graph.Value {
		return &graph.Value{Name: name, Type: graph.TensorType(d)}
	}
	state := func(name string) *graph.Value {
		return &graph.Value{Name: name, Type: graph.TensorType(tensor.Float32, graph.Known(-1))}
	}
	return append(list, operatorCase{name: "Loop", build: func(g *gen) []string {
		x := g.f(5)
		body := &graph.Graph{
			Name:   "body",
			Inputs: []*graph.Value{scalar("i", tensor.Int64), scalar("cond_in", tensor.Bool), state("v_in")},
			Nodes: []*graph.Node{
				{Name: "keep", OpType: "Identity", Inputs: []string{"cond_in"}, Outputs: []string{"cond_out"}},
				{Name: "grow", OpType: "Add", Inputs: []string{"v_in", x}, Outputs: []string{"v_out"}},
				{Name: "scan", OpType: "Neg", Inputs: []string{"v_in"}, Outputs: []string{"scan_out"}},
			},
			Outputs: []*graph.Value{scalar("cond_out", tensor.Bool), state("v_out"), state("scan_out")},
		}
		yes := g.Const(tensor.Of(tensor.Bool, nil, []bool{true}))
		return g.Node(&graph.Node{OpType: "Loop", Inputs: []string{g.Int(4), yes, x}, Attrs: []*graph.Attr{graph.GraphAttr("body", body)}}, 2)
	}})
}

// networks are pieces of real models, which backends fuse.
func networks() []operatorCase {
	linear := func(g *gen, x string, in, out int64) string {
		return g.Op("Add", []string{g.Op("MatMul", []string{x, g.w(in, out)}), g.w(out)})
	}
	norm := func(g *gen, x string, n int64) string {
		return g.Op("LayerNormalization", []string{x, g.w(n), g.w(n)}, af("epsilon", 1e-12))
	}
	// gelu as exporters of old write it, by erf.
	gelu := func(g *gen, x string) string {
		erf := g.Op("Erf", []string{g.Op("Div", []string{x, g.Float(math.Sqrt2)})})
		return g.Op("Mul", []string{g.Op("Mul", []string{x, g.Op("Add", []string{erf, g.Float(1)})}), g.Float(0.5)})
	}
	// heads makes [B,T,H*D] into [B,H,T,D].
	heads := func(g *gen, x string, h, d int64) string {
		return g.Op("Transpose", []string{g.Op("Reshape", []string{x, g.Ints(0, 0, h, d)})}, ais("perm", 0, 2, 1, 3))
	}
	const width, headCount, inner = 24, 3, 40
	attention := func(g *gen, x, mask string) string {
		q, k, v := heads(g, linear(g, x, width, width), headCount, width/headCount), heads(g, linear(g, x, width, width), headCount, width/headCount),
			heads(g, linear(g, x, width, width), headCount, width/headCount)
		scores := g.Op("MatMul", []string{q, g.Op("Transpose", []string{k}, ais("perm", 0, 1, 3, 2))})
		scores = g.Op("Div", []string{scores, g.Float(float32(math.Sqrt(width / headCount)))})
		if mask != "" {
			scores = g.Op("Add", []string{scores, mask})
		}
		y := g.Op("MatMul", []string{g.Op("Softmax", []string{scores}, ai("axis", -1)), v})
		y = g.Op("Reshape", []string{g.Op("Transpose", []string{y}, ais("perm", 0, 2, 1, 3)), g.Ints(0, 0, width)})
		return linear(g, y, width, width)
	}
	layer := func(g *gen, x, mask string) string {
		x = norm(g, g.Op("Add", []string{attention(g, x, mask), x}), width)
		y := linear(g, gelu(g, linear(g, x, width, inner)), inner, width)
		return norm(g, g.Op("Add", []string{y, x}), width)
	}
	return []operatorCase{
		{name: "linear, bias, gelu", build: func(g *gen) []string { return []string{gelu(g, linear(g, g.f(2, 5, width), width, inner))} }},
		{name: "linear, bias, Gelu", build: func(g *gen) []string { return []string{g.Op("Gelu", []string{linear(g, g.f(7, width), width, inner)})} }},
		{name: "linear, bias, relu", build: func(g *gen) []string { return []string{g.Op("Relu", []string{linear(g, g.f(7, width), width, inner)})} }},
		{name: "linear, bias, residual", build: func(g *gen) []string {
			x := g.f(2, 5, width)
			return []string{g.Op("Add", []string{linear(g, x, width, width), x})}
		}},
		{name: "linear, its parts wanted too", build: func(g *gen) []string {
			y := g.Op("MatMul", []string{g.f(5, width), g.w(width, inner)})
			z := g.Op("Add", []string{y, g.w(inner)})
			return []string{y, z, g.Op("Gelu", []string{z})}
		}},
		{name: "linear of transposed weights", build: func(g *gen) []string {
			return []string{g.Op("MatMul", []string{g.f(2, 5, width), g.Op("Transpose", []string{g.w(inner, width)})})}
		}},
		{name: "norm of a residual", build: func(g *gen) []string {
			return []string{norm(g, g.Op("Add", []string{g.f(2, 5, width), g.f(2, 5, width)}), width)}
		}},
		{name: "norm of old exporters", build: func(g *gen) []string {
			x := g.f(2, 5, width)
			d := g.Op("Sub", []string{x, g.Op("ReduceMean", []string{x, g.Ints(-1)})})
			v := g.Op("ReduceMean", []string{g.Op("Pow", []string{d, g.Float(2)}), g.Ints(-1)})
			y := g.Op("Div", []string{d, g.Op("Sqrt", []string{g.Op("Add", []string{v, g.Float(1e-5)})})})
			return []string{g.Op("Add", []string{g.Op("Mul", []string{y, g.w(width)}), g.w(width)})}
		}},
		{name: "swiglu", build: func(g *gen) []string {
			x := g.f(5, width)
			gate := linear(g, x, width, inner)
			return []string{g.Op("Mul", []string{g.Op("Mul", []string{gate, g.Op("Sigmoid", []string{gate})}), linear(g, x, width, inner)})}
		}},
		{name: "attention", build: func(g *gen) []string { return []string{attention(g, g.f(2, 7, width), "")} }},
		{name: "attention with a mask", build: func(g *gen) []string {
			return []string{attention(g, g.f(2, 7, width), g.in(g.between(tensor.Float32, -20, 0, 2, 1, 1, 7)))}
		}},
		{name: "encoder layer", build: func(g *gen) []string {
			return []string{layer(g, g.f(2, 7, width), g.in(g.between(tensor.Float32, -20, 0, 2, 1, 1, 7)))}
		}},
		{name: "three encoder layers", build: func(g *gen) []string {
			x, mask := g.f(1, 9, width), g.in(g.between(tensor.Float32, -20, 0, 1, 1, 1, 9))
			return []string{layer(g, layer(g, layer(g, x, mask), mask), mask)}
		}},
		{name: "embeddings", build: func(g *gen) []string {
			ids, kinds := g.ints(0, 50, 2, 7), g.ints(0, 2, 2, 7)
			x := g.Op("Add", []string{g.Op("Gather", []string{g.w(50, width), ids}), g.Op("Gather", []string{g.w(2, width), kinds})})
			return []string{norm(g, g.Op("Add", []string{x, g.w(1, 7, width)}), width)}
		}},
		{name: "mean of the tokens that count", build: func(g *gen) []string {
			x, mask := g.f(2, 7, width), g.in(g.between(tensor.Int64, 1, 2, 2, 7))
			m := g.Op("Unsqueeze", []string{g.Op("Cast", []string{mask}, ai("to", int64(tensor.Float32))), g.Ints(-1)})
			sum := g.Op("ReduceSum", []string{g.Op("Mul", []string{x, m}), g.Ints(1)}, ai("keepdims", 0))
			n := g.Op("Clip", []string{g.Op("ReduceSum", []string{m, g.Ints(1)}, ai("keepdims", 0)), g.Float(1e-9)})
			y := g.Op("Div", []string{sum, n})
			return []string{y, g.Op("Div", []string{y, g.Op("ReduceL2", []string{y, g.Ints(-1)})})}
		}},
		{name: "mask of a shape", build: func(g *gen) []string {
			mask := g.ints(0, 2, 2, 7)
			m := g.Op("Cast", []string{g.Op("Unsqueeze", []string{mask, g.Ints(1, 2)})}, ai("to", int64(tensor.Float32)))
			m = g.Op("Mul", []string{g.Op("Sub", []string{g.Float(1), m}), g.Float(-math.MaxFloat32)})
			shape := g.Op("Shape", []string{mask})
			n := g.Op("Gather", []string{shape, g.Ints(1)})
			full := g.Op("Concat", []string{g.Op("Gather", []string{shape, g.Ints(0)}), g.Ints(1), n, n}, ai("axis", 0))
			return []string{g.Op("Expand", []string{m, full})}
		}},
		{name: "Attention of opset 23", build: func(g *gen) []string {
			return []string{g.Op("Attention", []string{g.f(2, 4, 5, 8), g.f(2, 2, 7, 8), g.f(2, 2, 7, 8)}, af("scale", 0.3))}
		}},
		{name: "Attention, causal, with a mask", build: func(g *gen) []string {
			return []string{g.Op("Attention", []string{g.f(1, 4, 6, 8), g.f(1, 4, 6, 8), g.f(1, 4, 6, 8), g.f(6, 6)}, ai("is_causal", 1), af("softcap", 5))}
		}},
		node("RotaryEmbedding by angles", "RotaryEmbedding", func(g *gen) []string { return []string{g.f(1, 7, 3*8), g.f(1, 7, 4), g.f(1, 7, 4)} }, ai("num_heads", 3)),
		node("RotaryEmbedding of a part", "RotaryEmbedding", func(g *gen) []string { return []string{g.f(2, 5, 2*10), g.w(9, 3), g.w(9, 3), g.ints(-9, 9, 2, 5)} },
			ai("num_heads", 2), ai("rotary_embedding_dim", 6)),
		node("RotaryEmbedding, interleaved", "RotaryEmbedding", func(g *gen) []string { return []string{g.f(2, 3, 5, 8), g.f(2, 5, 4), g.f(2, 5, 4)} }, ai("interleaved", 1)),
		{name: "RotaryEmbedding", build: func(g *gen) []string {
			return []string{g.Op("RotaryEmbedding", []string{g.f(2, 3, 5, 8), g.w(20, 4), g.w(20, 4), g.ints(0, 20, 2, 5)})}
		}},
	}
}
