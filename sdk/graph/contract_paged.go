package graph

import (
	"math"
	"sync"
)

// pagedForm tells calls of PagedAttention and PagedWrite apart whose bodies differ.
type pagedForm struct {
	op       string
	bits     [2]int64 // of the pools of keys and of values; 0: plain
	readOnly bool     // no k, v and slots
	bias     bool
	rows     bool // gives the new rows, not the pools
}

// Places of the optional inputs.
var pagedScales = map[string]int{"PagedAttention": pagedKScales, "PagedWrite": 5}

const pagedBias = pagedKScales + 2

// formOf is the form of a call; ok is false where it has no body.
func formOf(n *Node) (f pagedForm, ok bool) {
	scales, ok := pagedScales[n.OpType]
	if !ok {
		return f, false
	}
	has := func(i int) bool { return i < len(n.Inputs) && n.Inputs[i] != "" }
	f.op = n.OpType
	for i, name := range []string{"k_bits", "v_bits"} {
		if has(scales + i) {
			f.bits[i] = n.AttrInt(name, 0)
			if f.bits[i] == 0 {
				f.bits[i] = 8
			}
		}
	}
	if n.OpType == "PagedAttention" {
		f.readOnly, f.bias = !has(pagedK), has(pagedBias)
	}
	for _, bits := range f.bits {
		ok = ok && (bits == 0 || bits == 4 || bits == 8)
	}
	// Attention adds its mask after it capped the scores.
	return f, ok && !(f.bias && n.AttrFloat("softcap", 0) > 0)
}

// ContractFunctionOf is the meaning of one call of an operator of ai.accel; nil where
// it has none. It is as ContractFunction's but for PagedAttention and PagedWrite,
// whose body depends on what the call has: quantised pools, a bias, no k, v and slots.
// Calls of one form get one and the same function. A model that has calls of several
// forms tells them apart by overloads.
func ContractFunctionOf(n *Node) *Function {
	if n.Domain != DomainAccel {
		return nil
	}
	f, ok := formOf(n)
	if _, paged := pagedScales[n.OpType]; !paged {
		return ContractFunction(n.OpType)
	}
	if !ok {
		return nil
	}
	return pagedFunction(f)
}

// PagedRowsFunction is PagedAttention for runtimes that only read pools: a function
// of the call's inputs that gives o and, in the place of the updated pools, this
// step's rows as the pools store them: k_new [T,Hkv,D], v_new [T,Hkv,Dv] and for
// quantised pools k_scales_new, v_scales_new [T,Hkv]. A call that only reads gives o
// alone, a PagedWrite the rows alone. It attends to what the pools held before the step,
// and to these rows. nil where the call has no such form.
func PagedRowsFunction(n *Node) *Function {
	f, ok := formOf(n)
	if !ok || n.Domain != DomainAccel {
		return nil
	}
	f.rows = true
	return pagedFunction(f)
}

var pagedFunctions = struct {
	sync.Mutex
	made map[pagedForm]*Function
}{made: map[pagedForm]*Function{}}

func pagedFunction(f pagedForm) *Function {
	p := &pagedFunctions
	p.Lock()
	defer p.Unlock()
	if p.made[f] == nil {
		if f.op == "PagedWrite" {
			p.made[f] = f.write()
		} else {
			p.made[f] = f.attention()
		}
	}
	return p.made[f]
}

// pagedBuilder writes the body of one form.
type pagedBuilder struct {
	functionBuilder
	f pagedForm
}

// sides are the two pools; what belongs to one has names that begin with its letter.
var sides = []string{"k", "v"}

func (b pagedBuilder) float(out string, v float32) {
	b.set(out, "Constant", nil, FloatAttr("value_float", v))
}

// constants that all bodies use.
func (b pagedBuilder) constants() {
	b.int("zero", 0)
	b.int("one", 1)
	b.ints("minus_one", -1)
	b.ints("axis_0", 0)
	b.ints("axis_1", 1)
	b.ints("axis_2", 2)
	b.ints("axis_3", 3)
	b.ints("far", 1<<63-1)
	if b.f.quantised() {
		b.float("zero_f", 0)
		b.float("eight_f", 8)
		b.float("sixteen_f", 16)
		b.ints("twice_last", 1, 1, 2)
	}
}

// stored makes x_new and x_scales_new: rows x [T,H,D] as the pool holds them.
func (b pagedBuilder) stored(i int) {
	x, bits := sides[i], b.f.bits[i]
	if bits == 0 {
		b.set(x+"_new", "CastLike", []string{x, x + "_pages"})
		return
	}
	limit := float32(int64(1)<<(bits-1) - 1)
	b.float(x+"_limit", limit)
	b.float(x+"_least", -limit)
	b.set(x+"_f", "Cast", []string{x}, IntAttr("to", 1))
	b.set(x+"_size", "Abs", []string{x + "_f"})
	b.set(x+"_largest", "ReduceMax", []string{x + "_size", "axis_2"}, IntAttr("keepdims", 0))
	b.set(x+"_scale_f", "Div", []string{x + "_largest", x + "_limit"})
	b.set(x+"_scales_new", "Cast", []string{x + "_scale_f"}, IntAttr("to", 10))
	b.set(x+"_scale_read", "Cast", []string{x + "_scales_new"}, IntAttr("to", 1))
	b.set(x+"_scale", "Unsqueeze", []string{x + "_scale_read", "axis_2"})
	b.set(x+"_ratio", "Div", []string{x + "_f", x + "_scale"})
	b.set(x+"_round", "Round", []string{x + "_ratio"})
	b.set(x+"_flat", "Equal", []string{x + "_scale", "zero_f"})
	b.set(x+"_nan", "IsNaN", []string{x + "_round"})
	b.set(x+"_none", "Or", []string{x + "_flat", x + "_nan"})
	b.set(x+"_known", "Where", []string{x + "_none", "zero_f", x + "_round"})
	b.set(x+"_code", "Clip", []string{x + "_known", x + "_least", x + "_limit"})
	if bits == 8 {
		b.set(x+"_new", "Cast", []string{x + "_code"}, IntAttr("to", 3))
		return
	}
	b.ints(x+"_two", 2)
	b.set(x+"_nibble", "Add", []string{x + "_code", "eight_f"})
	b.set(x+"_low", "Slice", []string{x + "_nibble", "axis_0", "far", "axis_2", x + "_two"})
	b.set(x+"_high", "Slice", []string{x + "_nibble", "axis_1", "far", "axis_2", x + "_two"})
	b.set(x+"_high_up", "Mul", []string{x + "_high", "sixteen_f"})
	b.set(x+"_byte", "Add", []string{x + "_low", x + "_high_up"})
	b.set(x+"_new", "Cast", []string{x + "_byte"}, IntAttr("to", 2))
}

// written scatters rows into the places of a pool [P,S,...] that slots name.
func (b pagedBuilder) written(out, pool, rows string) {
	b.set(out+"_shape", "Shape", []string{pool})
	b.set(out+"_row", "Shape", []string{pool}, IntAttr("start", 2))
	b.set(out+"_flat_shape", "Concat", []string{"minus_one", out + "_row"}, IntAttr("axis", 0))
	b.set(out+"_flat", "Reshape", []string{pool, out + "_flat_shape"})
	b.set(out+"_rows", "ScatterND", []string{out + "_flat", "slot", rows})
	b.set(out, "Reshape", []string{out + "_rows", out + "_shape"})
}

// updated makes the pools of a side after the step.
func (b pagedBuilder) updated(i int) {
	x := sides[i]
	if b.f.readOnly {
		b.set(x+"_pages_out", "Identity", []string{x + "_pages"})
		if b.f.bits[i] > 0 {
			b.set(x+"_scales_out", "Identity", []string{x + "_scales"})
		}
		return
	}
	b.stored(i)
	b.written(x+"_pages_out", x+"_pages", x+"_new")
	if b.f.bits[i] > 0 {
		b.written(x+"_scales_out", x+"_scales", x+"_scales_new")
	}
}

// gathered makes out, the rows of all pages that tables name, [B*M*S, ...].
func (b pagedBuilder) gathered(out, pool string) {
	b.set(out+"_pages", "Gather", []string{pool, "pages"}, IntAttr("axis", 0))
	b.set(out+"_row", "Shape", []string{pool}, IntAttr("start", 2))
	b.set(out+"_shape", "Concat", []string{"minus_one", out + "_row"}, IntAttr("axis", 0))
	b.set(out, "Reshape", []string{out + "_pages", out + "_shape"})
}

// read makes out [N,H,D] of rows as a pool holds them: in the type of q where both
// pools are plain, else as float32.
func (b pagedBuilder) read(out string, i int, rows, scales string) {
	bits := b.f.bits[i]
	switch {
	case !b.f.quantised():
		b.set(out, "CastLike", []string{rows, "q"})
		return
	case bits == 0:
		b.set(out, "Cast", []string{rows}, IntAttr("to", 1))
		return
	}
	code := out + "_code"
	b.set(code, "Cast", []string{rows}, IntAttr("to", 1))
	if bits == 4 {
		b.set(out+"_shifted", "Div", []string{code, "sixteen_f"})
		b.set(out+"_high", "Floor", []string{out + "_shifted"})
		b.set(out+"_high_up", "Mul", []string{out + "_high", "sixteen_f"})
		b.set(out+"_low", "Sub", []string{code, out + "_high_up"})
		b.set(out+"_low_pair", "Unsqueeze", []string{out + "_low", "axis_3"})
		b.set(out+"_high_pair", "Unsqueeze", []string{out + "_high", "axis_3"})
		b.set(out+"_pair", "Concat", []string{out + "_low_pair", out + "_high_pair"}, IntAttr("axis", 3))
		b.set(out+"_bytes", "Shape", []string{rows})
		b.set(out+"_wide", "Mul", []string{out + "_bytes", "twice_last"})
		b.set(out+"_nibble", "Reshape", []string{out + "_pair", out + "_wide"}, IntAttr("allowzero", 1))
		b.set(out+"_signed", "Sub", []string{out + "_nibble", "eight_f"})
		code = out + "_signed"
	}
	b.set(out+"_scale_f", "Cast", []string{scales}, IntAttr("to", 1))
	b.set(out+"_scale", "Unsqueeze", []string{out + "_scale_f", "axis_2"})
	b.set(out, "Mul", []string{code, out + "_scale"})
}

// begin is a function with the inputs that all forms have and, where a pool is
// quantised, those of the scales and their outputs. A side without scales has an
// output of its own all the same, which no call wants.
func (f pagedForm) begin(inputs, outputs, attrs []string, defaults ...*Attr) pagedBuilder {
	if f.quantised() || f.bias {
		inputs = append(inputs, "k_scales", "v_scales")
	}
	if f.bias {
		inputs = append(inputs, "bias")
	}
	if scaled := f.quantised() && !(f.rows && f.readOnly); scaled {
		outputs = append(outputs, f.output("k_scales"), f.output("v_scales"))
	}
	b := pagedBuilder{newFunction(f.op, inputs, outputs, attrs, defaults...), f}
	b.constants()
	for i, x := range sides {
		if f.quantised() && f.bits[i] == 0 {
			b.int(f.output(x+"_scales"), 0)
		}
	}
	return b
}

func (f pagedForm) quantised() bool { return f.bits != [2]int64{} }

// output is what stands for a pool among the outputs.
func (f pagedForm) output(pool string) string {
	if f.rows {
		return pool + "_new"
	}
	return pool + "_out"
}

// end is the function, without constants that nothing reads.
func (b pagedBuilder) end() *Function {
	f := b.functionBuilder.f
	used := map[string]bool{}
	for _, name := range f.Outputs {
		used[name] = true
	}
	for _, n := range f.Nodes {
		for _, in := range n.Inputs {
			used[in] = true
		}
	}
	f.Nodes = keep(f.Nodes, func(n *Node) bool { return used[n.Outputs[0]] })
	return f
}

func (f pagedForm) write() *Function {
	if f.rows {
		b := f.begin([]string{"k", "v", "slots", "k_pages", "v_pages"}, []string{"k_new", "v_new"}, nil, IntAttr("k_bits", 0), IntAttr("v_bits", 0))
		b.stored(0)
		b.stored(1)
		return b.end()
	}
	b := f.begin([]string{"k", "v", "slots", "k_pages", "v_pages"}, []string{"k_pages_out", "v_pages_out"}, nil,
		IntAttr("k_bits", 0), IntAttr("v_bits", 0))
	b.set("slot", "Unsqueeze", []string{"slots", "axis_1"})
	b.updated(0)
	b.updated(1)
	return b.end()
}

// attention gathers the pages of all sequences side by side and attends to them with
// a mask: which key belongs to which sequence, and how far it lies. As rows, the
// pools are those before the step, and its own keys stand behind what was gathered.
func (f pagedForm) attention() *Function {
	outputs := []string{"o", "k_pages_out", "v_pages_out"}
	switch {
	case f.rows && f.readOnly:
		outputs = outputs[:1]
	case f.rows:
		outputs = []string{"o", "k_new", "v_new"}
	}
	b := f.begin([]string{"q", "k", "v", "k_pages", "v_pages", "slots", "page_tables", "lengths", "starts"}, outputs, []string{"scale"},
		FloatAttr("softcap", 0), IntAttr("window", 0), IntAttr("causal", 1), IntAttr("k_bits", 0), IntAttr("v_bits", 0))
	b.set("slot", "Unsqueeze", []string{"slots", "axis_1"})
	b.set("pages", "Reshape", []string{"page_tables", "minus_one"})
	own := f.rows && !f.readOnly
	for i, x := range sides {
		pool, scales := x+"_pages", x+"_scales"
		switch {
		case own:
			b.stored(i)
			b.read(x+"_own", i, x+"_new", x+"_scales_new")
		case !f.rows:
			b.updated(i)
			pool, scales = x+"_pages_out", x+"_scales_out"
		}
		b.gathered(x+"_held", pool)
		if f.bits[i] > 0 {
			b.gathered(x+"_held_scales", scales)
		}
		b.read(x+"_all", i, x+"_held", x+"_held_scales")
		keys := x + "_all"
		if own {
			b.set(x+"_joined", "Concat", []string{keys, x + "_own"}, IntAttr("axis", 0))
			keys = x + "_joined"
		}
		b.set(x+"_heads", "Transpose", []string{keys}, IntsAttr("perm", 1, 0, 2))
		b.set(x+"_batch", "Unsqueeze", []string{x + "_heads", "axis_0"})
	}
	b.tokens()
	b.mask(own)
	mask := "mask"
	if f.bias {
		// Added to the score by distance, of keys that come after it by none.
		b.float("hidden", float32(math.Inf(-1)))
		b.set("distance", "Sub", []string{"position_column", "key_pos_row"})
		b.set("bias_shape", "Shape", []string{"bias"})
		b.set("bias_count", "Gather", []string{"bias_shape", "one"}, IntAttr("axis", 0))
		b.set("bias_last", "Sub", []string{"bias_count", "one"})
		b.set("bias_column", "Clip", []string{"distance", "zero", "bias_last"})
		b.set("biases", "Gather", []string{"bias", "bias_column"}, IntAttr("axis", 1))
		b.set("hidden_like", "CastLike", []string{"hidden", "bias"})
		b.set("biased", "Where", []string{"mask", "biases", "hidden_like"})
		b.set("biased_like", "CastLike", []string{"biased", "k_batch"})
		mask = "biased_like"
	}
	b.set("q_like", "CastLike", []string{"q", "k_batch"})
	b.set("q_heads", "Transpose", []string{"q_like"}, IntsAttr("perm", 1, 0, 2))
	b.set("q_batch", "Unsqueeze", []string{"q_heads", "axis_0"})
	b.set("o_batch", "Attention", []string{"q_batch", "k_batch", "v_batch", mask},
		RefAttr("scale", AttrFloat, "scale"), RefAttr("softcap", AttrFloat, "softcap"))
	b.set("o_heads", "Squeeze", []string{"o_batch", "axis_0"})
	b.set("o_tokens", "Transpose", []string{"o_heads"}, IntsAttr("perm", 1, 0, 2))
	b.set("o", "CastLike", []string{"o_tokens", "q"})
	return b.end()
}

// tokens makes of each token its sequence (how many have ended by then) and its
// position, length - (end - token).
func (b pagedBuilder) tokens() {
	counted := "slots" // of all layers; q is each one's own
	if b.f.readOnly {
		counted = "q"
	}
	b.set("tokens_shape", "Shape", []string{counted})
	b.set("token_count", "Gather", []string{"tokens_shape", "zero"}, IntAttr("axis", 0))
	b.set("token", "Range", []string{"zero", "token_count", "one"})
	b.set("token_column", "Unsqueeze", []string{"token", "axis_1"})
	b.set("ends", "Slice", []string{"starts", "axis_1", "far"})
	b.set("ends_row", "Unsqueeze", []string{"ends", "axis_0"})
	b.set("ended", "GreaterOrEqual", []string{"token_column", "ends_row"})
	b.set("ended_int", "Cast", []string{"ended"}, IntAttr("to", 7))
	b.set("seq", "ReduceSum", []string{"ended_int", "axis_1"}, IntAttr("keepdims", 0))
	b.set("start", "Gather", []string{"starts", "seq"}, IntAttr("axis", 0))
	b.set("end", "Gather", []string{"ends", "seq"}, IntAttr("axis", 0))
	b.set("length", "Gather", []string{"lengths", "seq"}, IntAttr("axis", 0))
	b.set("after", "Sub", []string{"end", "token"})
	b.set("position", "Sub", []string{"length", "after"})
	b.set("seq_column", "Unsqueeze", []string{"seq", "axis_1"})
	b.set("position_column", "Unsqueeze", []string{"position", "axis_1"})
	b.set("length_column", "Unsqueeze", []string{"length", "axis_1"})
}

// mask makes which keys [1, keys] each token [tokens, 1] attends to. own: this
// step's keys stand behind those of the pages. Where the size of a page is known,
// nothing here depends on the layer, so that simplifying leaves one mask for all of
// one window.
func (b pagedBuilder) mask(own bool) {
	b.set("page_shape", "Shape", []string{"k_pages"})
	b.set("page_size", "Gather", []string{"page_shape", "one"}, IntAttr("axis", 0))
	b.set("tables_shape", "Shape", []string{"page_tables"})
	b.set("pages_each", "Gather", []string{"tables_shape", "one"}, IntAttr("axis", 0))
	b.set("keys_each", "Mul", []string{"pages_each", "page_size"})
	b.set("table_count", "Gather", []string{"tables_shape", "zero"}, IntAttr("axis", 0))
	b.set("key_count", "Mul", []string{"table_count", "keys_each"})
	b.set("key", "Range", []string{"zero", "key_count", "one"})
	b.set("key_seq", "Div", []string{"key", "keys_each"})
	b.set("key_pos", "Mod", []string{"key", "keys_each"})
	seq, pos := "key_seq", "key_pos"
	if own {
		b.set("all_seq", "Concat", []string{"key_seq", "seq"}, IntAttr("axis", 0))
		b.set("all_pos", "Concat", []string{"key_pos", "position"}, IntAttr("axis", 0))
		seq, pos = "all_seq", "all_pos"
	}
	b.set("key_seq_row", "Unsqueeze", []string{seq, "axis_0"})
	b.set("key_pos_row", "Unsqueeze", []string{pos, "axis_0"})
	b.set("same", "Equal", []string{"seq_column", "key_seq_row"})
	if own {
		// Of the pages, what lies before the step; of the step, all.
		b.set("taken", "Sub", []string{"end", "start"})
		b.set("before", "Sub", []string{"length", "taken"})
		b.set("before_column", "Unsqueeze", []string{"before", "axis_1"})
		b.set("held", "Less", []string{"key_pos_row", "before_column"})
		b.set("all_count", "Add", []string{"key_count", "token_count"})
		b.set("all_keys", "Range", []string{"zero", "all_count", "one"})
		b.set("is_own", "GreaterOrEqual", []string{"all_keys", "key_count"})
		b.set("is_own_row", "Unsqueeze", []string{"is_own", "axis_0"})
		b.set("stored", "Or", []string{"held", "is_own_row"})
	} else {
		b.set("stored", "Less", []string{"key_pos_row", "length_column"})
	}
	b.set("earlier", "LessOrEqual", []string{"key_pos_row", "position_column"})
	b.attr("causal", "causal")
	b.set("any", "Equal", []string{"causal", "zero"})
	b.set("in_order", "Or", []string{"earlier", "any"})
	b.attr("window", "window")
	b.set("endless", "LessOrEqual", []string{"window", "zero"})
	b.set("lowest", "Sub", []string{"position_column", "window"})
	b.set("inside", "Greater", []string{"key_pos_row", "lowest"})
	b.set("near", "Or", []string{"inside", "endless"})
	b.set("mine", "And", []string{"same", "stored"})
	b.set("mine_in_order", "And", []string{"mine", "in_order"})
	b.set("mask", "And", []string{"mine_in_order", "near"})
}
