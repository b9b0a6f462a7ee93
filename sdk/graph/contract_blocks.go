package graph

// matMulBlocksBody makes the whole matrix of weights and multiplies with it.
// accuracy_level says how far activations may be rounded; it does not round.
func matMulBlocksBody() *Function {
	b := newFunction("MatMulBlocks", []string{"A", "codes", "scales", "mins"}, []string{"Y"}, []string{"bits", "block", "K", "N"},
		IntAttr("accuracy_level", 0))
	b.blockGrid("codes")
	b.blockWeights("weights", "codes", "scales_f", "mins_f")
	b.set("columns", "Transpose", []string{"weights"}, IntsAttr("perm", 1, 0))
	b.set("A_f", "Cast", []string{"A"}, IntAttr("to", 1))
	b.set("product", "MatMul", []string{"A_f", "columns"})
	b.set("Y", "CastLike", []string{"product", "A"})
	return b.f
}

// gatherBlocksBody takes rows of codes, scales and mins, and makes weights of those.
func gatherBlocksBody() *Function {
	b := newFunction("GatherBlocks", []string{"codes", "scales", "mins", "ids"}, []string{"rows"}, []string{"bits", "block", "K"})
	b.set("flat", "Flatten", []string{"codes"}, IntAttr("axis", 1)) // codes may be [N, blocks, bytes]
	b.blockGrid("flat")
	for _, x := range []string{"flat", "scales_f", "mins_f"} {
		b.set(x+"_rows", "Gather", []string{x, "ids"}, IntAttr("axis", 0))
	}
	b.blockWeights("rows", "flat_rows", "scales_f_rows", "mins_f_rows")
	return b.f
}

// blockGrid makes what is the same for all rows of codes [N,bytes]: where each
// column's code stands, and scales_f and mins_f [N,groups] in f32, mins of zeros where
// there are none.
func (b functionBuilder) blockGrid(codes string) {
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
	b.set("group", "Div", []string{"column", "block"})
	b.set("codes_shape", "Shape", []string{codes})
	b.set("bytes", "Gather", []string{"codes_shape", "one"}, IntAttr("axis", 0))
	b.set("last", "Sub", []string{"bytes", "one"})
	b.set("byte_after", "Add", []string{"byte", "one"})
	b.set("next", "Min", []string{"byte_after", "last"})
	for _, x := range []string{"shift", "eight", "bits", "one"} {
		b.set(x+"_u", "Cast", []string{x}, IntAttr("to", 12))
	}
	b.set("end_u", "BitShift", []string{"one_u", "bits_u"}, StringAttr("direction", "LEFT"))
	b.set("end", "Cast", []string{"end_u"}, IntAttr("to", 7))
	b.set("mask", "Sub", []string{"end", "one"})
	b.set("mask_u", "Cast", []string{"mask"}, IntAttr("to", 12))
	// Without mins, codes are around half their range. Gemm's C may be left out:
	// a product of zeros plus C is mins, or zero.
	b.set("has_mins", "OptionalHasElement", []string{"mins"})
	b.set("half", "Div", []string{"end", "two"})
	b.set("offset_int", "Where", []string{"has_mins", "zero", "half"})
	b.set("offset", "Cast", []string{"offset_int"}, IntAttr("to", 1))
	b.set("scales_f", "Cast", []string{"scales"}, IntAttr("to", 1))
	b.set("scales_shape", "Shape", []string{"scales"})
	b.set("table_rows", "Slice", []string{"scales_shape", "axis_0", "axis_1"})
	b.set("groups", "Slice", []string{"scales_shape", "axis_1", "axis_2"})
	b.set("tall", "Concat", []string{"table_rows", "axis_1"}, IntAttr("axis", 0))
	b.set("wide", "Concat", []string{"axis_1", "groups"}, IntAttr("axis", 0))
	b.set("none", "CastLike", []string{"zero", "scales"})
	b.set("tall_zeros", "Expand", []string{"none", "tall"})
	b.set("wide_zeros", "Expand", []string{"none", "wide"})
	b.set("shift_by", "Gemm", []string{"tall_zeros", "wide_zeros", "mins"})
	b.set("mins_f", "Cast", []string{"shift_by"}, IntAttr("to", 1))
}

// blockWeights makes weights [..., K] of codes [..., bytes] and of scales and mins
// [..., groups]: codes are unpacked as uint32, of each the byte where it begins and the
// next one.
func (b functionBuilder) blockWeights(out, codes, scales, mins string) {
	for _, x := range []struct{ out, from, index string }{
		{"low", codes, "byte"}, {"high", codes, "next"}, {"scale", scales, "group"}, {"min", mins, "group"},
	} {
		b.set(x.out, "Gather", []string{x.from, x.index}, IntAttr("axis", -1))
	}
	for _, x := range []string{"low", "high"} {
		b.set(x+"_u", "Cast", []string{x}, IntAttr("to", 12))
	}
	b.set("high_up", "BitShift", []string{"high_u", "eight_u"}, StringAttr("direction", "LEFT"))
	b.set("word", "BitwiseOr", []string{"low_u", "high_up"})
	b.set("word_down", "BitShift", []string{"word", "shift_u"}, StringAttr("direction", "RIGHT"))
	b.set("code_u", "BitwiseAnd", []string{"word_down", "mask_u"})
	b.set("code", "Cast", []string{"code_u"}, IntAttr("to", 1))
	b.set("steps", "Sub", []string{"code", "offset"})
	b.set("scaled", "Mul", []string{"steps", "scale"})
	b.set(out, "Add", []string{"scaled", "min"})
}
