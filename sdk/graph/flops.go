package graph

import "github.com/accelhq/accel/sdk/tensor"

// FLOPs counts the arithmetic of a node whose values have the given types (see
// Graph.Types): a multiply-add is two, any other elementwise step one an element
// whatever its function costs, moving data nothing. Attention counts all
// positions that may be attended to, masked or not; paged attention all places of
// the page tables. It is false where a dimension is not known, for operators that
// hold graphs, for calls of functions, and for unknown operators.
func FLOPs(n *Node, types map[string]*Type) (int64, bool) {
	c := counter{n: n, types: types}
	switch n.ID() {
	case FunctionID{Domain: DomainMicrosoft, Name: "MatMulNBits"}, FunctionID{Domain: DomainAccel, Name: "MatMulBlocks"}:
		return c.times(2, c.product(c.out(0), 0), n.AttrInt("K", -1))
	case FunctionID{Domain: DomainAccel, Name: "GatherBlocks"}:
		return c.times(2, c.product(c.out(0), 0), 1)
	case FunctionID{Domain: DomainAccel, Name: "PagedAttention"}:
		return c.pagedAttention()
	case FunctionID{Domain: DomainAccel, Name: "PagedWrite"}:
		return 0, true
	}
	if n.Domain == DomainMicrosoft {
		return c.microsoft()
	}
	if n.Domain != DomainONNX {
		return 0, false
	}
	switch n.OpType {
	case "MatMul", "MatMulInteger", "QLinearMatMul":
		a := c.in(0)
		if a == nil || len(a.Dims) == 0 {
			return 0, false
		}
		return c.times(2, c.product(c.out(0), 0), a.Dims[len(a.Dims)-1].Size)
	case "Gemm":
		k := 1
		if n.AttrInt("transA", 0) != 0 {
			k = 0
		}
		a, y := c.in(0), c.product(c.out(0), 0)
		if a == nil || len(a.Dims) != 2 {
			return 0, false
		}
		f, ok := c.times(2, y, a.Dims[k].Size)
		if ok && len(n.Inputs) > 2 && n.Inputs[2] != "" {
			f, ok = addInt(f, y)
		}
		return f, ok
	case "Conv", "ConvInteger":
		return c.times(2, c.product(c.out(0), 0), c.product(c.in(1), 1))
	case "QLinearConv":
		return c.times(2, c.product(c.out(0), 0), c.product(c.in(3), 1))
	case "ConvTranspose":
		return c.times(2, c.product(c.in(0), 0), c.product(c.in(1), 1))
	case "Attention":
		return c.attention()
	case "Einsum":
		return c.einsum()
	case "RNN", "GRU", "LSTM":
		return c.recurrent()
	case "MaxPool", "AveragePool", "LpPool":
		kernel := int64(1)
		for _, k := range n.AttrInts("kernel_shape") {
			kernel *= max(k, 0)
		}
		return c.times(c.product(c.out(0), 0), kernel)
	}
	switch kind := costs[n.OpType]; {
	case kind == costNothing:
		return 0, true
	case kind == costInput:
		return c.times(c.product(c.in(0), 0))
	case rules[n.ID()] != nil && kind == costOutput:
		return c.times(c.product(c.out(0), 0))
	}
	return 0, false
}

// How an operator without a rule of its own is counted.
const (
	costOutput  = iota // as many as it gives elements
	costInput          // as many as it takes
	costNothing        // it moves data
	costUnknown
)

var costs = map[string]int{}

func init() {
	for kind, ops := range map[int][]string{
		costInput: {
			"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
			"ReduceSum", "ReduceSumSquare", "ArgMax", "ArgMin", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool",
		},
		costNothing: {
			"Constant", "ConstantOfShape", "Shape", "Size", "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Transpose",
			"Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Expand", "Tile", "Pad", "Range", "Gather", "GatherElements",
			"GatherND", "Scatter", "ScatterElements", "ScatterND", "TensorScatter", "Trilu", "NonZero", "OneHot", "EyeLike",
			"Compress", "Where", "DepthToSpace", "SpaceToDepth", "ReverseSequence", "Dropout", "SequenceConstruct",
			"SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceAt", "SequenceLength", "ConcatFromSequence",
			"SplitToSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
		},
		costUnknown: {"If", "Loop", "Scan", "DeformConv", "DFT", "NonMaxSuppression", "RoiAlign", "MaxRoiPool"},
	} {
		for _, op := range ops {
			costs[op] = kind
		}
	}
}

// counter looks at the values of one node. Sizes that are not known are -1.
type counter struct {
	n     *Node
	types map[string]*Type
}

func (c counter) in(i int) *Type {
	if i >= len(c.n.Inputs) {
		return nil
	}
	return c.shaped(c.n.Inputs[i])
}

func (c counter) out(i int) *Type {
	if i >= len(c.n.Outputs) {
		return nil
	}
	return c.shaped(c.n.Outputs[i])
}

func (c counter) shaped(name string) *Type {
	if t := c.types[name]; t != nil && t.Kind == KindTensor && t.HasShape {
		return t
	}
	return nil
}

// product multiplies the dimensions from the given one on; -1 where it is not
// known.
func (c counter) product(t *Type, from int) int64 {
	if t == nil || from > len(t.Dims) {
		return -1
	}
	p := int64(1)
	for _, d := range t.Dims[from:] {
		if d.Param != "" || d.Size < 0 {
			return -1
		}
		var ok bool
		if p, ok = mulInt(p, d.Size); !ok {
			return -1
		}
	}
	return p
}

// times multiplies; false where a factor is not known or the result too large.
func (counter) times(factors ...int64) (int64, bool) {
	p := int64(1)
	for _, f := range factors {
		if f < 0 {
			return 0, false
		}
		var ok bool
		if p, ok = mulInt(p, f); !ok {
			return 0, false
		}
	}
	return p, true
}

// attention: q k^T and the product with v.
func (c counter) attention() (int64, bool) {
	q, k, v := c.in(0), c.in(1), c.in(2)
	if q == nil || k == nil || v == nil || len(q.Dims) != len(k.Dims) || len(k.Dims) != len(v.Dims) || len(q.Dims) < 3 {
		return 0, false
	}
	last := len(q.Dims) - 1
	heads, kvHeads := int64(1), int64(1) // in rank 4 the head size stands alone
	if last == 2 {
		heads, kvHeads = c.n.AttrInt("q_num_heads", -1), c.n.AttrInt("kv_num_heads", -1)
		if heads <= 0 || kvHeads <= 0 {
			return 0, false
		}
	}
	batch, rows, keys := q.Dims[0].Size, q.Dims[last-1].Size, k.Dims[last-1].Size
	d, dv := q.Dims[last].Size/heads, v.Dims[last].Size/kvHeads
	if last == 3 {
		heads = q.Dims[1].Size
	}
	if past := c.in(4); past != nil && len(past.Dims) == 4 {
		if past.Dims[2].Size < 0 || keys < 0 {
			return 0, false
		}
		keys += past.Dims[2].Size
	}
	if d < 0 || dv < 0 {
		return 0, false
	}
	return c.times(2, batch, heads, rows, keys, d+dv)
}

// microsoft counts an operator of com.microsoft.
func (c counter) microsoft() (int64, bool) {
	out := c.product(c.out(0), 0)
	dim := func(i, at int) int64 { // of input i, from the end where at is negative
		t := c.in(i)
		if t == nil {
			return -1
		}
		if at < 0 {
			at += len(t.Dims)
		}
		if at < 0 || at >= len(t.Dims) || t.Dims[at].Param != "" {
			return -1
		}
		return t.Dims[at].Size
	}
	switch c.n.OpType {
	case "MatMulBnb4":
		return c.times(2, out, c.n.AttrInt("K", -1))
	case "FusedMatMul", "TransposeMatMul", "FusedGemm", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger16":
		at := -1
		if a := c.in(0); a != nil && len(a.Dims) > 1 && c.n.AttrInt("transA", 0) != 0 {
			at = -2
			if c.n.AttrInt("transBatchA", 0) != 0 {
				at = 0
			}
		}
		return c.times(2, out, dim(0, at))
	case "FusedConv":
		return c.times(2, out, c.product(c.in(1), 1))
	case "QLinearConv":
		return c.times(2, out, c.product(c.in(3), 1))
	case "MoE", "QMoE":
		// Each token goes through the layers of k experts, inputs 2, 4, 6 or 2, 5, 8.
		weights, step, per := int64(0), 2, int64(1)
		if c.n.OpType == "QMoE" {
			step, per = 3, 8/max(c.n.AttrInt("expert_weight_bits", 4), 1)
		}
		for i := 2; i <= 2+2*step; i += step {
			if i < len(c.n.Inputs) && c.n.Inputs[i] != "" {
				w, ok := c.times(c.product(c.in(i), 1), per)
				if !ok {
					return 0, false
				}
				weights += w
			}
		}
		return c.times(2, dim(1, 0), c.n.AttrInt("k", 1), weights)
	case "NhwcMaxPool", "QLinearAveragePool":
		kernel := int64(1)
		for _, k := range c.n.AttrInts("kernel_shape") {
			kernel *= max(k, 0)
		}
		return c.times(out, kernel)
	case "QLinearGlobalAveragePool":
		return c.times(c.product(c.in(0), 0))
	case "Trilu", "ExpandDims", "UnfoldTensor", "QLinearConcat":
		return 0, true
	case "MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "GroupQueryAttention":
		// The output has as many numbers as there are products with a value of one
		// key; keys are taken to be as wide as values.
		total := int64(-1)
		if t := c.out(1); t != nil && len(t.Dims) == 4 && t.Dims[2].Param == "" {
			total = t.Dims[2].Size
		} else if k := c.in(1); t == nil && k != nil && len(k.Dims) == 4 && k.Dims[2].Param == "" {
			total = k.Dims[2].Size
		} else if t == nil {
			total = dim(1, 1)
		}
		return c.times(4, out, total)
	case "Attention", "QAttention":
		total := dim(0, 1)
		if t := c.out(1); t != nil && len(t.Dims) == 5 && t.Dims[3].Param == "" {
			total = t.Dims[3].Size
		}
		projections, ok1 := c.times(2, dim(0, 0), dim(0, 1), dim(1, 0), dim(1, 1))
		attention, ok2 := c.times(4, out, total)
		sum, ok := addInt(projections, attention)
		return sum, ok && ok1 && ok2
	}
	if rules[c.n.ID()] == nil {
		return 0, false
	}
	return c.times(out)
}

func (c counter) pagedAttention() (int64, bool) {
	q, o, pages, tables := c.in(pagedQ), c.out(0), c.in(pagedKPages), c.in(pagedTables)
	if q == nil || o == nil || pages == nil || tables == nil || len(q.Dims) != 3 || len(o.Dims) != 3 || len(pages.Dims) != 4 || len(tables.Dims) != 2 {
		return 0, false
	}
	d, dv := q.Dims[2].Size, o.Dims[2].Size
	if d < 0 || dv < 0 {
		return 0, false
	}
	return c.times(2, q.Dims[0].Size, q.Dims[1].Size, tables.Dims[1].Size, pages.Dims[1].Size, d+dv)
}

// einsum counts every combination of indices once for each operand but one.
func (c counter) einsum() (int64, bool) {
	call := &call{f: &inferrer{}, n: c.n}
	for i := range c.n.Inputs {
		t := c.in(i)
		if c.product(t, 0) < 0 {
			return 0, false
		}
		call.ins = append(call.ins, call.f.fromType(t))
	}
	eq, err := call.equation()
	if err != nil || eq == nil {
		return 0, false
	}
	all := eq.spread
	for _, d := range eq.size {
		all = append(all, d)
	}
	n, ok := call.product(all).value()
	if !ok {
		return 0, false
	}
	return c.times(2, n, max(int64(len(c.n.Inputs))-1, 1))
}

// recurrent: the input and the recurrent product of each gate.
func (c counter) recurrent() (int64, bool) {
	x, w, r := c.in(0), c.in(1), c.in(2)
	if x == nil || w == nil || r == nil || len(x.Dims) != 3 {
		return 0, false
	}
	steps := c.product(&Type{Dims: x.Dims[:2]}, 0)
	a, ok1 := c.times(2, steps, c.product(w, 0))
	b, ok2 := c.times(2, steps, c.product(r, 0))
	sum, ok := addInt(a, b)
	return sum, ok && ok1 && ok2
}

// TotalFLOPs sums FLOPs over the nodes of g; false if any is not known.
func TotalFLOPs(g *Graph) (int64, bool) {
	types := g.Types()
	total := int64(0)
	for _, n := range g.Nodes {
		f, ok := FLOPs(n, types)
		if !ok {
			return 0, false
		}
		if total, ok = addInt(total, f); !ok {
			return 0, false
		}
	}
	return total, true
}

// Bytes is the size of a value of that type; false where it is not known.
func (t *Type) Bytes() (int64, bool) {
	if t == nil || t.Kind != KindTensor || !t.HasShape {
		return 0, false
	}
	s := make(tensor.Shape, len(t.Dims))
	for i, d := range t.Dims {
		if d.Param != "" || d.Size < 0 {
			return 0, false
		}
		s[i] = d.Size
	}
	n, err := tensor.ByteSize(t.Elem, s)
	return n, err == nil
}
