package graph

import "sync"

// ContractFunction is the meaning of an operator of ai.accel as a function of
// standard operators (opset 23), to attach to a model that uses it, or to inline
// for a device that does not take the operator; nil where name is none of the
// domain's. It is one and the same for all callers, who must not change it.
//
// PagedAttention and PagedWrite are those over plain pools (f32, bf16, f16), and
// PagedAttention has no bias; calls of other forms have more inputs than the
// function, so they can't be inlined. MatMulBlocks is whole; it computes in f32.
func ContractFunction(name string) *Function {
	f, ok := contractFunctions()[name]
	if !ok {
		return nil
	}
	return f
}

var contractFunctions = sync.OnceValue(func() map[string]*Function {
	return map[string]*Function{
		"PagedAttention": pagedAttentionBody(),
		"PagedWrite":     pagedWriteBody(),
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

// written scatters rows into the places of pages [P,S,H,D] that slots name, and
// makes out, and out_rows, which is the same as [P*S,H,D].
func (b functionBuilder) written(out, pages, rows string) {
	b.set(out+"_shape", "Shape", []string{pages})
	b.set(out+"_row", "Shape", []string{pages}, IntAttr("start", 2))
	b.set(out+"_flat_shape", "Concat", []string{"minus_one", out + "_row"}, IntAttr("axis", 0))
	b.set(out+"_flat", "Reshape", []string{pages, out + "_flat_shape"})
	b.set(out+"_new", "CastLike", []string{rows, pages})
	b.set(out+"_rows", "ScatterND", []string{out + "_flat", "slot", out + "_new"})
	b.set(out, "Reshape", []string{out + "_rows", out + "_shape"})
}

func pagedWriteBody() *Function {
	b := newFunction("PagedWrite", []string{"k", "v", "slots", "k_pages", "v_pages"}, []string{"k_pages_out", "v_pages_out"}, nil,
		IntAttr("k_bits", 0), IntAttr("v_bits", 0))
	b.ints("minus_one", -1)
	b.ints("axis_1", 1)
	b.set("slot", "Unsqueeze", []string{"slots", "axis_1"})
	b.written("k_pages_out", "k_pages", "k")
	b.written("v_pages_out", "v_pages", "v")
	return b.f
}

// pagedAttentionBody gathers the pages of all sequences side by side and attends
// to them with a mask: which key belongs to which sequence, and how far it lies.
func pagedAttentionBody() *Function {
	b := newFunction("PagedAttention", []string{"q", "k", "v", "k_pages", "v_pages", "slots", "page_tables", "lengths", "starts"},
		[]string{"o", "k_pages_out", "v_pages_out"}, []string{"scale"},
		FloatAttr("softcap", 0), IntAttr("window", 0), IntAttr("causal", 1), IntAttr("k_bits", 0), IntAttr("v_bits", 0))
	b.int("zero", 0)
	b.int("one", 1)
	b.ints("minus_one", -1)
	b.ints("axis_0", 0)
	b.ints("axis_1", 1)
	b.set("slot", "Unsqueeze", []string{"slots", "axis_1"})
	b.written("k_pages_out", "k_pages", "k")
	b.written("v_pages_out", "v_pages", "v")
	// Keys [1,Hkv,B*M*S,D] in q's type, of sequence key_seq at position key_pos.
	b.set("pages", "Reshape", []string{"page_tables", "minus_one"})
	for _, x := range []string{"k", "v"} {
		b.set(x+"_gathered", "Gather", []string{x + "_pages_out", "pages"}, IntAttr("axis", 0))
		b.set(x+"_all", "Reshape", []string{x + "_gathered", x + "_pages_out_flat_shape"})
		b.set(x+"_cast", "CastLike", []string{x + "_all", "q"})
		b.set(x+"_heads", "Transpose", []string{x + "_cast"}, IntsAttr("perm", 1, 0, 2))
		b.set(x+"_batch", "Unsqueeze", []string{x + "_heads", "axis_0"})
	}
	b.set("page_size", "Gather", []string{"k_pages_out_shape", "one"}, IntAttr("axis", 0))
	b.set("tables_shape", "Shape", []string{"page_tables"})
	b.set("pages_each", "Gather", []string{"tables_shape", "one"}, IntAttr("axis", 0))
	b.set("keys_each", "Mul", []string{"pages_each", "page_size"})
	b.set("keys_shape", "Shape", []string{"k_all"})
	b.set("key_count", "Gather", []string{"keys_shape", "zero"}, IntAttr("axis", 0))
	b.set("key", "Range", []string{"zero", "key_count", "one"})
	b.set("key_seq", "Div", []string{"key", "keys_each"})
	b.set("key_pos", "Mod", []string{"key", "keys_each"})
	b.set("key_seq_row", "Unsqueeze", []string{"key_seq", "axis_0"})
	b.set("key_pos_row", "Unsqueeze", []string{"key_pos", "axis_0"})
	// Tokens: the sequence is how many have ended by then.
	b.set("q_shape", "Shape", []string{"q"})
	b.set("token_count", "Gather", []string{"q_shape", "zero"}, IntAttr("axis", 0))
	b.set("token", "Range", []string{"zero", "token_count", "one"})
	b.set("token_column", "Unsqueeze", []string{"token", "axis_1"})
	b.ints("far", 1<<63-1)
	b.set("ends", "Slice", []string{"starts", "axis_1", "far"})
	b.set("ends_row", "Unsqueeze", []string{"ends", "axis_0"})
	b.set("ended", "GreaterOrEqual", []string{"token_column", "ends_row"})
	b.set("ended_int", "Cast", []string{"ended"}, IntAttr("to", 7))
	b.set("seq", "ReduceSum", []string{"ended_int", "axis_1"}, IntAttr("keepdims", 0))
	b.set("start", "Gather", []string{"starts", "seq"}, IntAttr("axis", 0))
	b.set("end", "Gather", []string{"ends", "seq"}, IntAttr("axis", 0))
	b.set("length", "Gather", []string{"lengths", "seq"}, IntAttr("axis", 0))
	// Its position is length - (end - token).
	b.set("after", "Sub", []string{"end", "token"})
	b.set("position", "Sub", []string{"length", "after"})
	b.set("seq_column", "Unsqueeze", []string{"seq", "axis_1"})
	b.set("position_column", "Unsqueeze", []string{"position", "axis_1"})
	b.set("length_column", "Unsqueeze", []string{"length", "axis_1"})
	// What it attends to.
	b.set("same", "Equal", []string{"seq_column", "key_seq_row"})
	b.set("stored", "Less", []string{"key_pos_row", "length_column"})
	b.set("earlier", "LessOrEqual", []string{"key_pos_row", "position_column"})
	b.attr("causal", "causal")
	b.set("any", "Equal", []string{"causal", "zero"})
	b.set("in_order", "Or", []string{"earlier", "any"})
	b.attr("window", "window")
	b.set("endless", "LessOrEqual", []string{"window", "zero"})
	b.set("lowest", "Sub", []string{"position_column", "window"})
	b.set("inside", "Greater", []string{"key_pos_row", "lowest"})
	b.set("near", "Or", []string{"inside", "endless"})
	b.set("own", "And", []string{"same", "stored"})
	b.set("own_in_order", "And", []string{"own", "in_order"})
	b.set("mask", "And", []string{"own_in_order", "near"})
	b.set("q_heads", "Transpose", []string{"q"}, IntsAttr("perm", 1, 0, 2))
	b.set("q_batch", "Unsqueeze", []string{"q_heads", "axis_0"})
	b.set("o_batch", "Attention", []string{"q_batch", "k_batch", "v_batch", "mask"},
		RefAttr("scale", AttrFloat, "scale"), RefAttr("softcap", AttrFloat, "softcap"))
	b.set("o_heads", "Squeeze", []string{"o_batch", "axis_0"})
	b.set("o", "Transpose", []string{"o_heads"}, IntsAttr("perm", 1, 0, 2))
	return b.f
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
