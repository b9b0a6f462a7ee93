package graph

import "sync"

// ContractFunction is the meaning of an operator of ai.accel as a function of
// standard operators (opset 23), to attach to a model that uses it, or to inline
// for a device that does not take the operator; nil where name is none of the
// domain's. It is one and the same for all callers, who must not change it.
//
// PagedAttention and PagedWrite are those over plain pools (f32, bf16, f16), and
// PagedAttention has no bias; ContractFunctionOf has the other forms. MatMulBlocks
// computes in f32.
func ContractFunction(name string) *Function {
	f, ok := contractFunctions()[name]
	if !ok {
		return nil
	}
	return f
}

var contractFunctions = sync.OnceValue(func() map[string]*Function {
	return map[string]*Function{
		"PagedAttention": pagedFunction(pagedForm{op: "PagedAttention"}),
		"PagedWrite":     pagedFunction(pagedForm{op: "PagedWrite"}),
		"MatMulBlocks":   matMulBlocksBody(),
	}
})

// functionBuilder writes a body node by node.
type functionBuilder struct{ f *Function }

func newFunction(name string, inputs, outputs, attrs []string, defaults ...*Attr) functionBuilder {
	return functionBuilder{&Function{
		Domain: DomainAccel, Name: name, Inputs: inputs, Outputs: outputs, Attrs: attrs, Defaults: defaults,
		Opsets: map[string]int64{DomainONNX: DefaultOpset},
	}}
}

// set adds a node that makes the value out.
func (b functionBuilder) set(out, op string, inputs []string, attrs ...*Attr) {
	b.f.Nodes = append(b.f.Nodes, &Node{Name: out, OpType: op, Inputs: inputs, Outputs: []string{out}, Attrs: attrs})
}

func (b functionBuilder) int(out string, v int64) {
	b.set(out, "Constant", nil, IntAttr("value_int", v))
}

func (b functionBuilder) ints(out string, v ...int64) {
	b.set(out, "Constant", nil, IntsAttr("value_ints", v...))
}

// attr makes an attribute of the call a value.
func (b functionBuilder) attr(out, name string) {
	b.set(out, "Constant", nil, RefAttr("value_int", AttrInt, name))
}

// matMulBlocksBody unpacks codes as uint32, of each the byte where it begins and
// the next one.
func matMulBlocksBody() *Function {
	b := newFunction("MatMulBlocks", []string{"A", "codes", "scales", "mins"}, []string{"Y"}, []string{"bits", "block", "K", "N"})
	b.int("zero", 0)
	b.int("one", 1)
	b.int("two", 2)
	b.int("eight", 8)
	b.ints("axis_0", 0)
	b.ints("axis_1", 1)
	b.ints("axis_2", 2)
	b.attr("bits", "bits")
	b.attr("block", "block")
	b.attr("K", "K")
	b.set("column", "Range", []string{"zero", "K", "one"})
	b.set("bit", "Mul", []string{"column", "bits"})
	b.set("byte", "Div", []string{"bit", "eight"})
	b.set("shift", "Mod", []string{"bit", "eight"})
	b.set("codes_shape", "Shape", []string{"codes"})
	b.set("bytes", "Gather", []string{"codes_shape", "one"}, IntAttr("axis", 0))
	b.set("last", "Sub", []string{"bytes", "one"})
	b.set("byte_after", "Add", []string{"byte", "one"})
	b.set("next", "Min", []string{"byte_after", "last"})
	b.set("low", "Gather", []string{"codes", "byte"}, IntAttr("axis", 1))
	b.set("high", "Gather", []string{"codes", "next"}, IntAttr("axis", 1))
	for _, x := range []string{"low", "high", "shift", "eight", "bits", "one"} {
		b.set(x+"_u", "Cast", []string{x}, IntAttr("to", 12))
	}
	b.set("high_up", "BitShift", []string{"high_u", "eight_u"}, StringAttr("direction", "LEFT"))
	b.set("word", "BitwiseOr", []string{"low_u", "high_up"})
	b.set("word_down", "BitShift", []string{"word", "shift_u"}, StringAttr("direction", "RIGHT"))
	b.set("end_u", "BitShift", []string{"one_u", "bits_u"}, StringAttr("direction", "LEFT"))
	b.set("end", "Cast", []string{"end_u"}, IntAttr("to", 7))
	b.set("mask", "Sub", []string{"end", "one"})
	b.set("mask_u", "Cast", []string{"mask"}, IntAttr("to", 12))
	b.set("code_u", "BitwiseAnd", []string{"word_down", "mask_u"})
	b.set("code", "Cast", []string{"code_u"}, IntAttr("to", 1))
	// Without mins, codes are around half their range. Gemm's C may be left out:
	// a product of zeros plus C is mins, or zero.
	b.set("has_mins", "OptionalHasElement", []string{"mins"})
	b.set("half", "Div", []string{"end", "two"})
	b.set("offset_int", "Where", []string{"has_mins", "zero", "half"})
	b.set("offset", "Cast", []string{"offset_int"}, IntAttr("to", 1))
	b.set("scales_f", "Cast", []string{"scales"}, IntAttr("to", 1))
	b.set("scales_shape", "Shape", []string{"scales"})
	b.set("rows", "Slice", []string{"scales_shape", "axis_0", "axis_1"})
	b.set("groups", "Slice", []string{"scales_shape", "axis_1", "axis_2"})
	b.set("tall", "Concat", []string{"rows", "axis_1"}, IntAttr("axis", 0))
	b.set("wide", "Concat", []string{"axis_1", "groups"}, IntAttr("axis", 0))
	b.set("none", "CastLike", []string{"zero", "scales"})
	b.set("tall_zeros", "Expand", []string{"none", "tall"})
	b.set("wide_zeros", "Expand", []string{"none", "wide"})
	b.set("shift_by", "Gemm", []string{"tall_zeros", "wide_zeros", "mins"})
	b.set("mins_f", "Cast", []string{"shift_by"}, IntAttr("to", 1))
	b.set("group", "Div", []string{"column", "block"})
	b.set("scale", "Gather", []string{"scales_f", "group"}, IntAttr("axis", 1))
	b.set("min", "Gather", []string{"mins_f", "group"}, IntAttr("axis", 1))
	b.set("steps", "Sub", []string{"code", "offset"})
	b.set("scaled", "Mul", []string{"steps", "scale"})
	b.set("weights", "Add", []string{"scaled", "min"})
	b.set("columns", "Transpose", []string{"weights"}, IntsAttr("perm", 1, 0))
	b.set("A_f", "Cast", []string{"A"}, IntAttr("to", 1))
	b.set("product", "MatMul", []string{"A_f", "columns"})
	b.set("Y", "CastLike", []string{"product", "A"})
	return b.f
}
