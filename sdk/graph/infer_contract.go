package graph

import (
	"errors"
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

// Rules for the contract's own operators (docs/architecture.md, "The graph
// contract") and for those of com.microsoft.
func init() {
	addRules(DomainAccel, matMulNBits, 3, "MatMulBlocks")
	addRules(DomainAccel, gatherRows, 2, "GatherBlocks")
	addRules(DomainAccel, pagedAttention, 1, "PagedAttention")
	addRules(DomainAccel, pagedWrite, 5, "PagedWrite")

	addRules(DomainMicrosoft, matMulNBits, 3, "MatMulNBits", "MatMulBnb4")
	addRules(DomainMicrosoft, likeFirst, 1, "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "RotaryEmbedding", "Trilu", "MoE", "QMoE")
	addRules(DomainMicrosoft, quantizeLinear, 2, "QuantizeLinear")
	addRules(DomainMicrosoft, dequantizeLinear, 2, "DequantizeLinear")
	for _, domain := range []string{DomainONNX, DomainMicrosoft} { // ONNX Runtime keeps it in the former
		addRules(domain, simplifiedNormalization, 2, "SimplifiedLayerNormalization")
	}
	addRules(DomainMicrosoft, skipNormalization, 3, "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
	addRules(DomainMicrosoft, embedNormalization, 1, "EmbedLayerNormalization")
	addRules(DomainMicrosoft, fusedMatMul, 2, "FusedMatMul", "TransposeMatMul")
	addRules(DomainMicrosoft, gemm, 2, "FusedGemm")
	addRules(DomainMicrosoft, quantizedGemm, 4, "QGemm")
	addRules(DomainMicrosoft, productAs(0), 2, "DynamicQuantizeMatMul")
	addRules(DomainMicrosoft, productAs(2), 3, "MatMulIntegerToFloat")
	addRules(DomainMicrosoft, matMulInteger16, 2, "MatMulInteger16")
	addRules(DomainMicrosoft, convolution, 2, "FusedConv")
	addRules(DomainMicrosoft, channelsLast(convolution), 4, "QLinearConv")
	addRules(DomainMicrosoft, channelsLast(pool), 1, "NhwcMaxPool", "QLinearAveragePool")
	addRules(DomainMicrosoft, channelsLast(globalPool), 1, "QLinearGlobalAveragePool")
	addRules(DomainMicrosoft, gatherBlocks, 3, "GatherBlockQuantized")
	addRules(DomainMicrosoft, broadcastOf(0, 0, 3), 4, "QLinearAdd", "QLinearMul")
	addRules(DomainMicrosoft, broadcastOf(1, 0, 1, 4), 5, "QLinearWhere")
	addRules(DomainMicrosoft, quantizedConcat, 3, "QLinearConcat")
	addRules(DomainMicrosoft, cropAndResize, 4, "CropAndResize")
	addRules(DomainMicrosoft, expandDims, 2, "ExpandDims")
	addRules(DomainMicrosoft, unfoldTensor, 1, "UnfoldTensor")
	addRules(DomainMicrosoft, multiHeadAttention, 1, "MultiHeadAttention", "DecoderMaskedMultiHeadAttention")
	addRules(DomainMicrosoft, fusedAttention(0, 4), 2, "Attention")
	addRules(DomainMicrosoft, fusedAttention(2, 8), 3, "QAttention")
	addRules(DomainMicrosoft, groupQueryAttention, 1, "GroupQueryAttention")
}

// matMulNBits multiplies [..., K] by quantised weights of [N, K].
func matMulNBits(c *call) error {
	k, n := c.int("K", 0), c.int("N", 0)
	if k <= 0 || n <= 0 {
		return fmt.Errorf("attribute K is %d and N %d, want sizes", k, n)
	}
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(d) == 0 {
		return fmt.Errorf("its input is a scalar")
	}
	if err := must("K", num(k), d[len(d)-1]); err != nil {
		return err
	}
	dims := append([]expr(nil), d[:len(d)-1]...)
	c.out(0, tensorOf(c.elem(0), append(dims, num(n))...))
	return nil
}

// gatherRows gives rows [ids..., K] of a table in blocks, in float32.
func gatherRows(c *call) error {
	k := c.int("K", 0)
	if k <= 0 {
		return fmt.Errorf("attribute K is %d, wants a size", k)
	}
	if c.in(3) == nil {
		return errors.New("input 3, ids, is missing")
	}
	ids, ok := c.dims(3)
	if !ok {
		c.out(0, someTensor(tensor.Float32))
		return nil
	}
	c.out(0, tensorOf(tensor.Float32, append(slices.Clone(ids), num(k))...))
	return nil
}

// Inputs of PagedAttention, version 1.
const (
	pagedQ = iota
	pagedK
	pagedV
	pagedKPages
	pagedVPages
	_ // slots
	pagedTables
	_ // lengths
	_ // starts
	pagedKScales
)

// pagedAttention gives o [T,Hq,Dv] and the pools.
func pagedAttention(c *call) error {
	for _, i := range []int{pagedQ, pagedK, pagedV} {
		if err := c.rank(i, 3); err != nil {
			return err
		}
	}
	for _, i := range []int{pagedKPages, pagedVPages} {
		if err := c.rank(i, 4); err != nil {
			return err
		}
	}
	o := c.f.newDims(3)
	if q, ok := c.dims(pagedQ); ok {
		copy(o, q[:2])
	}
	if v, ok := c.dims(pagedV); ok {
		o[2] = v[2]
	} else if pages, ok := c.dims(pagedVPages); ok {
		o[2] = pages[3]
		if c.int("v_bits", 0) == 4 {
			o[2] = c.or(o[2].mul(num(2))) // two to a byte
		}
	}
	q, qok := c.dims(pagedQ)
	k, kok := c.dims(pagedK)
	if qok && kok {
		if err := must("the head size of q and k", q[2], k[2]); err != nil {
			return err
		}
		if err := must("the number of tokens of q and k", q[0], k[0]); err != nil {
			return err
		}
	}
	c.out(0, tensorOf(c.elem(pagedQ), o...))
	c.out(1, like(c.in(pagedKPages), c.elem(pagedKPages)))
	c.out(2, like(c.in(pagedVPages), c.elem(pagedVPages)))
	c.out(3, like(c.in(pagedKScales), tensor.Float16))
	c.out(4, like(c.in(pagedKScales+1), tensor.Float16))
	return nil
}

// pagedWrite takes k, v, slots, k_pages, v_pages, scales, and gives the pools.
func pagedWrite(c *call) error {
	for i := range 4 {
		c.out(i, like(c.in(3+i), c.elem(3+i)))
	}
	return nil
}

// likeFirst gives what its first input is.
func likeFirst(c *call) error {
	c.out(0, like(c.in(0), c.elem(0)))
	return nil
}

// as follows another rule, with inputs of this node whose element types do not
// matter, and gives elem as output 0.
func (c *call) as(r rule, elem tensor.DType, inputs ...int) error {
	inner := *c
	inner.ins, inner.outs = nil, make([]*value, 1)
	for _, i := range inputs {
		v := c.in(i)
		if v != nil {
			v = like(v, tensor.Undefined)
		}
		inner.ins = append(inner.ins, v)
	}
	if err := r(&inner); err != nil {
		return err
	}
	c.out(0, like(inner.outs[0], elem))
	return nil
}

// simplifiedNormalization has the statistics of its namesake but the mean.
func simplifiedNormalization(c *call) error {
	inner := *c
	inner.outs = make([]*value, 2)
	if err := layerNormalization(&inner); err != nil {
		return err
	}
	c.out(0, like(c.in(0), c.elem(1)))
	c.out(1, inner.outs[1])
	return nil
}

// skipNormalization gives the normalized sum, mean, inverse deviation, the sum.
func skipNormalization(c *call) error {
	c.out(0, like(c.in(0), c.elem(0)))
	c.out(3, like(c.in(0), c.elem(0)))
	stat := someTensor(tensor.Float32)
	if d, ok := c.dims(0); ok && len(d) > 0 {
		stat = tensorOf(tensor.Float32, append(slices.Clone(d[:len(d)-1]), num(1))...)
	}
	c.out(1, stat)
	c.out(2, stat)
	return nil
}

// embedNormalization gives [B,S,H], how long the rows of the mask are, and the sum.
func embedNormalization(c *call) error {
	out := c.f.newDims(3)
	if err := c.rank(0, 2); err != nil {
		return err
	}
	if d, ok := c.dims(0); ok {
		copy(out, d)
	}
	if d, ok := c.dims(5); ok && len(d) == 1 {
		out[2] = d[0]
	}
	c.out(0, tensorOf(c.elem(5), out...))
	c.out(1, tensorOf(tensor.Int32, out[0]))
	c.out(2, tensorOf(c.elem(5), out...))
	return nil
}

// fusedMatMul transposes the last two dimensions of an operand; with transBatch
// its rows come first, before the batch.
func fusedMatMul(c *call) error {
	operand := func(i int, trans, batch string) ([]expr, bool) {
		d, ok := c.dims(i)
		if n := len(d); ok && n > 1 {
			d = slices.Clone(d)
			if n > 2 && c.int(batch, 0) != 0 {
				d = slices.Concat(d[1:n-1], d[:1], d[n-1:])
			}
			if c.int(trans, 0) != 0 {
				d[n-1], d[n-2] = d[n-2], d[n-1]
			}
		}
		return d, ok
	}
	a, aok := operand(0, "transA", "transBatchA")
	b, bok := operand(1, "transB", "transBatchB")
	if !aok || !bok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	dims, err := c.matmulDims(a, b)
	if err != nil {
		return err
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

// productAs is a product of the first two inputs, of the element type of another.
func productAs(elem int) rule {
	return func(c *call) error { return c.as(matmul, c.elem(elem), 0, 1) }
}

func matMulInteger16(c *call) error {
	elem := tensor.Int32
	if c.elem(0) == tensor.Uint16 && c.elem(1) == tensor.Uint16 {
		elem = tensor.Uint32
	}
	return c.as(matmul, elem, 0, 1)
}

func quantizedGemm(c *call) error {
	elem := c.elem(8)
	if c.in(8) == nil {
		elem = tensor.Float32
	}
	return c.as(gemm, elem, 0, 3, 6)
}

// channelsLast follows a rule of [N,C,...] where attribute channels_last, or the
// operator's name, says that the input is [N,...,C].
func channelsLast(r rule) rule {
	return func(c *call) error {
		d, ok := c.dims(0)
		if c.int("channels_last", 0) == 0 && c.n.OpType != "NhwcMaxPool" || !ok || len(d) < 3 {
			return r(c)
		}
		inner := *c
		inner.ins, inner.outs = slices.Clone(c.ins), make([]*value, 1)
		n := len(d)
		inner.ins[0] = tensorOf(c.elem(0), slices.Concat(d[:1], d[n-1:], d[1:n-1])...)
		if err := r(&inner); err != nil {
			return err
		}
		out := inner.outs[0]
		if out != nil && out.ranked && len(out.dims) == n {
			out = tensorOf(out.elem, slices.Concat(out.dims[:1], out.dims[2:], out.dims[1:2])...)
		}
		c.out(0, out)
		return nil
	}
}

// gatherBlocks is Gather of a table that is quantised, and packed where it is of
// bytes.
func gatherBlocks(c *call) error {
	elem := c.elem(2)
	d, ok1 := c.dims(0)
	ix, ok2 := c.dims(1)
	if !ok1 || !ok2 || c.elem(0) == tensor.Undefined {
		c.out(0, someTensor(elem))
		return nil
	}
	at, err := axis(c.int("gather_axis", 0), len(d))
	if err != nil {
		return err
	}
	if c.elem(0) == tensor.Uint8 {
		bits := c.int("bits", 4)
		if bits != 2 && bits != 4 && bits != 8 {
			return fmt.Errorf("attribute bits is %d, wants 2, 4 or 8", bits)
		}
		d = slices.Clone(d)
		d[len(d)-1] = c.or(d[len(d)-1].mul(num(8 / bits)))
	}
	c.out(0, tensorOf(elem, slices.Concat(d[:at], ix, d[at+1:])...))
	return nil
}

// broadcastOf is the shape that some inputs broadcast to.
func broadcastOf(elem int, inputs ...int) rule {
	return func(c *call) error {
		var shapes [][]expr
		for _, i := range inputs {
			d, ok := c.dims(i)
			if !ok {
				c.out(0, someTensor(c.elem(elem)))
				return nil
			}
			shapes = append(shapes, d)
		}
		dims, err := c.broadcast(shapes...)
		if err != nil {
			return err
		}
		c.out(0, tensorOf(c.elem(elem), dims...))
		return nil
	}
}

// quantizedConcat joins every third input, each of which has a scale and a zero
// point.
func quantizedConcat(c *call) error {
	var parts []int
	for i := 2; i < len(c.ins); i += 3 {
		parts = append(parts, i)
	}
	return c.as(concat, c.elem(1), parts...)
}

// cropAndResize gives [R,C,h,w] of pictures [N,C,H,W] and R boxes.
func cropAndResize(c *call) error {
	if err := c.rank(0, 4); err != nil {
		return err
	}
	out := c.f.newDims(4)
	if d, ok := c.dims(1); ok && len(d) == 2 {
		out[0] = d[0]
	}
	if d, ok := c.dims(0); ok {
		out[1] = d[1]
	}
	if size, ok := c.in(3).numbers(); ok {
		if len(size) != 2 || size[0] < 1 || size[1] < 1 {
			return fmt.Errorf("the size of its crops is %v, wants a height and a width", size)
		}
		out[2], out[3] = num(size[0]), num(size[1])
	}
	c.out(0, tensorOf(c.elem(0), out...))
	return nil
}

func expandDims(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	list, known := c.in(1).numbers()
	if !known || len(list) != 1 {
		c.out(0, tensorOf(c.elem(0), c.f.newDims(len(d)+1)...))
		return nil
	}
	at, err := axis(list[0], len(d)+1)
	if err != nil {
		return err
	}
	c.out(0, tensorOf(c.elem(0), slices.Insert(slices.Clone(d), at, num(1))...))
	return nil
}

// unfoldTensor puts windows of a dimension last.
func unfoldTensor(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	at, err := axis(c.int("dim", -1), len(d))
	if err != nil {
		return err
	}
	size, step := c.int("size", 0), c.int("step", 1)
	if size < 1 || step < 1 {
		return fmt.Errorf("attributes size %d and step %d, want positive ones", size, step)
	}
	d = slices.Clone(d)
	room := c.or(d[at].add(num(-size)))
	if v, ok := room.value(); ok && v < 0 {
		return fmt.Errorf("a window of %d does not fit dimension %s", size, d[at])
	}
	d[at] = c.or(c.or(room.floorDiv(step)).add(num(1)))
	c.out(0, tensorOf(c.elem(0), append(d, num(size))...))
	return nil
}

// multiHeadAttention takes [B,S,W], or all three packed as [B,S,H,3,D]; keys and
// values [B,L,W], packed as [B,L,H,2,D], or by heads, [B,H,L,D]. It gives
// [B,S,H*Dv], present keys and values, and the scores.
func multiHeadAttention(c *call) error {
	elem := c.elem(0)
	heads := c.int("num_heads", 0)
	if heads < 1 {
		return fmt.Errorf("attribute num_heads is %d", heads)
	}
	q, ok := c.dims(0)
	if !ok {
		c.out(0, tensorOf(elem, c.f.newDims(3)...))
		for i := 1; i < 4; i++ {
			c.out(i, tensorOf(elem, c.f.newDims(4)...))
		}
		return nil
	}
	if len(q) != 3 && len(q) != 5 {
		return fmt.Errorf("its query has shape %s, wants rank 3 or 5", dimsText(q))
	}
	length, size := c.f.newDim(), c.f.newDim() // of keys, of a value
	var d expr
	if len(q) == 5 {
		length, d, size = q[1], q[4], q[4]
		q = []expr{q[0], q[1], c.or(d.mul(num(heads)))}
	} else {
		split, err := c.heads(q, heads)
		if err != nil {
			return err
		}
		d = split[3]
	}
	k, _ := c.dims(1)
	v, _ := c.dims(2)
	switch {
	case len(k) == 5:
		length, size = k[1], k[4]
	case len(k) == 4:
		length = k[2]
	case len(k) == 3:
		length = k[1]
	}
	switch {
	case len(v) == 4:
		size = v[3]
	case len(v) == 3:
		split, err := c.heads(v, heads)
		if err != nil {
			return err
		}
		size = split[3]
	}
	past, shared := 6, c.n.OpType == "DecoderMaskedMultiHeadAttention"
	if shared {
		past = 5
	}
	total := length
	if p, ok := c.dims(past); ok && len(p) == 4 && !shared {
		total = c.or(total.add(p[2]))
	} else if c.in(past) != nil {
		total = c.f.newDim()
	}
	c.out(0, tensorOf(elem, q[0], q[1], c.or(size.mul(num(heads)))))
	for i, size := range []expr{d, size} {
		present := tensorOf(elem, q[0], num(heads), total, size)
		if shared && c.in(past) != nil {
			present = like(c.in(past+i), elem)
		}
		c.out(1+i, present)
	}
	c.out(3, tensorOf(elem, q[0], num(heads), q[1], total))
	return nil
}

// fusedAttention takes [B,S,I] and weights [I,2*W+Wv], and gives [B,S,Wv] and the
// present [2,B,H,_,D], of the element type of an input.
func fusedAttention(elem, past int) rule {
	return func(c *call) error {
		for i, want := range []int{3, 2} {
			if err := c.rank(i, want); err != nil {
				return err
			}
		}
		heads := c.int("num_heads", 0)
		if heads < 1 {
			return fmt.Errorf("attribute num_heads is %d", heads)
		}
		x, w := c.f.newDims(3), c.f.newDims(2)
		if d, ok := c.dims(0); ok {
			x = d
		}
		if d, ok := c.dims(1); ok {
			w = d
			if err := must("the width of its input", x[2], d[0]); err != nil {
				return err
			}
		}
		width := c.or(w[1].exact(num(3)))
		out := width
		if sizes := c.ints("qkv_hidden_sizes"); len(sizes) == 3 {
			width, out = num(sizes[0]), num(sizes[2])
		}
		length := x[1]
		if p, ok := c.dims(past); ok && len(p) == 5 {
			length = c.or(length.add(p[3]))
		} else if c.in(past) != nil {
			length = c.f.newDim()
		}
		c.out(0, tensorOf(c.elem(elem), x[0], x[1], out))
		c.out(1, tensorOf(c.elem(elem), num(2), x[0], num(heads), length, c.or(width.exact(num(heads)))))
		return nil
	}
}

// groupQueryAttention takes [B,S,H*D], keys and values, or all three side by side;
// caches are [B,Hkv,_,D], two elements to a byte where they have 4 bits.
func groupQueryAttention(c *call) error {
	heads, kv := c.int("num_heads", 0), c.int("kv_num_heads", 0)
	if heads < 1 || kv < 1 {
		return fmt.Errorf("attributes num_heads %d and kv_num_heads %d, want positive ones", heads, kv)
	}
	if err := c.rank(0, 3); err != nil {
		return err
	}
	elem := c.elem(0)
	q := c.f.newDims(3)
	if d, ok := c.dims(0); ok {
		q = d
	}
	share := heads
	if c.in(1) == nil {
		share += 2 * kv
	}
	size := c.or(q[2].exact(num(share)))
	total := c.f.newDim() // what the caches hold is told by input 6
	rows := total
	if n, ok := c.in(6).numbers(); ok && len(n) == 1 {
		total, rows = num(n[0]), num(n[0])
		if past, ok := c.dims(3); ok && len(past) == 4 {
			if p, known := past[2].value(); !known {
				rows = c.f.newDim()
			} else if p > n[0] {
				rows = num(p)
			}
		} else if c.in(3) != nil {
			rows = c.f.newDim()
		}
	}
	c.out(0, tensorOf(elem, q[0], q[1], c.or(size.mul(num(heads)))))
	for i, mode := range []string{"k_quant_type", "v_quant_type"} {
		d, e := size, elem
		if m := c.str(mode, "NONE"); m != "NONE" {
			e = tensor.Int8
			if c.int("kv_cache_bit_width", 8) == 4 {
				e = tensor.Uint8
				d = c.or(c.or(size.add(num(1))).floorDiv(2))
			}
		}
		c.out(1+i, tensorOf(e, q[0], num(kv), rows, d))
	}
	c.out(3, tensorOf(elem, q[0], num(heads), q[1], total))
	return nil
}
