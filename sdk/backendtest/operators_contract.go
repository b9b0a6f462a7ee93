package backendtest

import (
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// accel is a case of one operator of ai.accel.
func accel(name, op string, outputs int, inputs func(*gen) []string, attrs ...*graph.Attr) operatorCase {
	return nodes(name, op, graph.DomainAccel, outputs, inputs, attrs...)
}

// pools are the types of pages, with the bits of those that are quantised.
var pools = []struct {
	name string
	d    tensor.DType
	bits int64
}{{"f32", tensor.Float32, 0}, {"bf16", tensor.BFloat16, 0}, {"f16", tensor.Float16, 0}, {"int8", tensor.Int8, 8}, {"4 bit", tensor.Uint8, 4}}

// paged is a batch of three sequences, of 4, none and 1 new tokens, on pages of 4,
// and one of padding on page 0. What says where tokens lie is constant.
type paged struct {
	heads, kv, d, dv int64
	pool             int // of pools
	readOnly, bias   bool
}

const pagedTokens = 6

// pages declares keys and values and their scales; of those "" where there are none.
func (p paged) pages(g *gen) (k, v, ks, vs string) {
	const pages, size = 7, 4
	kind := pools[p.pool]
	pool := func(d int64) (string, string) {
		switch kind.bits {
		case 0:
			return g.of(kind.d, pages, size, p.kv, d), ""
		case 4:
			d /= 2
		}
		return g.in(g.between(kind.d, 0, 100, pages, size, p.kv, d)), g.in(g.between(tensor.Float16, 0.01, 0.02, pages, size, p.kv))
	}
	k, ks = pool(p.d)
	v, vs = pool(p.dv)
	return k, v, ks, vs
}

func (p paged) attend(g *gen) []string {
	q, k, v, slots := g.f(pagedTokens, p.heads, p.d), "", "", ""
	if !p.readOnly {
		k, v = g.f(pagedTokens, p.kv, p.d), g.f(pagedTokens, p.kv, p.dv)
		slots = g.Ints(5*4+1, 5*4+2, 5*4+3, 2*4, 3*4+2, 0)
	}
	kp, vp, ks, vs := p.pages(g)
	in := []string{q, k, v, kp, vp, slots, g.Const(tensor.Ints(tensor.Shape{4, 3}, 5, 2, 0, 4, 0, 0, 1, 6, 3, 0, 0, 0)), g.Ints(5, 2, 11, 1), g.Ints(0, 4, 4, 5, 6), ks, vs}
	if p.bias {
		return append(in, g.f(p.heads, 6))
	}
	for in[len(in)-1] == "" {
		in = in[:len(in)-1]
	}
	return in
}

func (p paged) attrs(more ...*graph.Attr) []*graph.Attr {
	return append([]*graph.Attr{af("scale", 0.3), ai("k_bits", pools[p.pool].bits), ai("v_bits", pools[p.pool].bits)}, more...)
}

func (p paged) outputs() int {
	if pools[p.pool].bits > 0 {
		return 5
	}
	return 3
}

// longPaged is one long sequence with a new token, and one with a prompt, on pages of 16; keys and values may be stored
// in different types.
type longPaged struct {
	heads, kv, d, dv int64
	keys, values     int // of pools
}

func (p longPaged) attend(g *gen) []string {
	const length, prompt, size, pages = 700, 70, 16, 50
	table := make([]int64, 2*44)
	for i := range table[:44] {
		table[i] = int64(1 + (i*19)%44)
	}
	for i := range int64(5) {
		table[44+i] = 45 + i
	}
	slots := []int64{table[(length-1)/size]*size + (length-1)%size}
	for i := range int64(prompt) {
		slots = append(slots, table[44+i/size]*size+i%size)
	}
	in := []string{g.f(prompt+1, p.heads, p.d), g.f(prompt+1, p.kv, p.d), g.f(prompt+1, p.kv, p.dv), "", "", g.Ints(slots...),
		g.Const(tensor.Ints(tensor.Shape{2, 44}, table...)), g.Ints(length, prompt), g.Ints(0, 1, prompt+1), "", ""}
	for i, x := range []struct {
		kind int
		d    int64
	}{{p.keys, p.d}, {p.values, p.dv}} {
		switch pools[x.kind].bits {
		case 0:
			in[3+i] = g.of(pools[x.kind].d, pages, size, p.kv, x.d)
			continue
		case 4:
			x.d /= 2
		}
		in[3+i] = g.in(g.between(pools[x.kind].d, 0, 100, pages, size, p.kv, x.d))
		in[9+i] = g.in(g.between(tensor.Float16, 0.001, 0.02, pages, size, p.kv))
	}
	for in[len(in)-1] == "" {
		in = in[:len(in)-1]
	}
	return in
}

func (p longPaged) attrs(more ...*graph.Attr) []*graph.Attr {
	return append([]*graph.Attr{ai("k_bits", pools[p.keys].bits), ai("v_bits", pools[p.values].bits)}, more...)
}

// outputs of the node: the result, both pools and the scales as far as there are any.
func (p longPaged) outputs() []string {
	out := []string{"long_o", "long_k", "long_v"}
	if pools[p.keys].bits > 0 {
		out = append(out, "long_ks")
	} else if pools[p.values].bits > 0 {
		out = append(out, "")
	}
	if pools[p.values].bits > 0 {
		out = append(out, "long_vs")
	}
	return out
}

// contract are the operators of ai.accel, and those of com.microsoft that models
// carry, but for MatMulNBits.
func contract() []operatorCase {
	var list []operatorCase
	add := func(name string, p paged, more ...*graph.Attr) {
		list = append(list, accel("PagedAttention "+name, "PagedAttention", p.outputs(), p.attend, p.attrs(more...)...))
	}
	base := paged{heads: 4, kv: 2, d: 8, dv: 8}
	for i, kind := range pools {
		p := base
		p.pool = i
		add(kind.name, p)
		p.readOnly = true
		add(kind.name+", read only", p)
		list = append(list, accel("PagedAttention "+kind.name+", read only, pools left out", "PagedAttention", 1, p.attend, p.attrs(ai("causal", 0))...))
		list = append(list, accel("PagedWrite "+kind.name, "PagedWrite", p.outputs()-1, func(g *gen) []string {
			k, v, ks, vs := p.pages(g)
			in := []string{g.f(3, p.kv, p.d), g.f(3, p.kv, p.dv), g.Ints(4, 27, 9), k, v}
			if ks != "" {
				in = append(in, ks, vs)
			}
			return in
		}, ai("k_bits", kind.bits), ai("v_bits", kind.bits)))
	}
	add("with a window", base, ai("window", 3))
	add("soft-capped", base, af("softcap", 1.5))
	add("of all keys", paged{heads: 4, kv: 2, d: 8, dv: 8, readOnly: true}, ai("causal", 0))
	add("with a bias", paged{heads: 4, kv: 2, d: 8, dv: 8, bias: true}, af("softcap", 2))
	add("of larger values", paged{heads: 6, kv: 3, d: 8, dv: 20})
	long := func(name string, p longPaged, more ...*graph.Attr) {
		list = append(list, operatorCase{name: "PagedAttention " + name, build: func(g *gen) []string {
			out := p.outputs()
			g.Node(&graph.Node{Domain: graph.DomainAccel, OpType: "PagedAttention", Inputs: p.attend(g), Outputs: out, Attrs: p.attrs(more...)}, 0)
			return slices.DeleteFunc(slices.Clone(out), func(s string) bool { return s == "" })
		}})
	}
	for i, kind := range pools {
		long("of long contexts, "+kind.name, longPaged{heads: 6, kv: 2, d: 64, dv: 64, keys: i, values: i})
	}
	long("of keys in int8 and values in 4 bit", longPaged{heads: 4, kv: 2, d: 32, dv: 48, keys: 3, values: 4})
	long("of keys in int8 and values in f16", longPaged{heads: 4, kv: 2, d: 32, dv: 32, keys: 3, values: 2})
	long("of keys in f16 and values in int8", longPaged{heads: 4, kv: 2, d: 32, dv: 32, keys: 2, values: 3})
	long("of one head for all queries", longPaged{heads: 40, kv: 1, d: 16, dv: 16})
	long("with a long window", longPaged{heads: 4, kv: 4, d: 24, dv: 24}, ai("window", 300))
	for bits := int64(2); bits <= 8; bits++ {
		for name, mins := range ordered(map[string]bool{"": false, " with mins": true}) {
			for _, scales := range []tensor.DType{tensor.Float32, tensor.Float16} {
				const n, k, block = 12, 64, 16
				list = append(list, accel(fmt.Sprintf("MatMulBlocks %d%s, scales %s", bits, name, scales), "MatMulBlocks", 1, func(g *gen) []string {
					in := []string{g.f(2, 3, k), g.bits(n, k*bits/8), g.Const(g.between(scales, 0, 0.1, n, k/block))}
					if mins {
						in = append(in, g.Const(g.between(scales, -1, 0, n, k/block)))
					}
					return in
				}, ai("bits", bits), ai("block", block), ai("K", k), ai("N", n)))
				list = append(list, accel(fmt.Sprintf("GatherBlocks %d%s, scales %s", bits, name, scales), "GatherBlocks", 1, func(g *gen) []string {
					in := []string{g.bits(n, k*bits/8), g.Const(g.between(scales, 0, 0.1, n, k/block)), "", ""}
					if mins {
						in[2] = g.Const(g.between(scales, -1, 0, n, k/block))
					}
					in[3] = g.ints(-n, n, 2, 3)
					return in
				}, ai("bits", bits), ai("block", block), ai("K", k)))
				list = append(list, accel(fmt.Sprintf("MatMulBlocks %d%s, scales %s, activations of 8 bits", bits, name, scales), "MatMulBlocks", 1, func(g *gen) []string {
					const depth, wide = 320, 32
					in := []string{g.f(9, depth), g.bits(n, depth*bits/8), g.Const(g.between(scales, 0, 0.1, n, depth/wide))}
					if mins {
						in = append(in, g.Const(g.between(scales, -1, 0, n, depth/wide)))
					}
					return in
				}, ai("bits", bits), ai("block", 32), ai("K", 320), ai("N", n), ai("accuracy_level", 4)).within(rounded8.Abs, rounded8.Rel))
			}
		}
	}
	for _, bits := range []int64{4, 8} { // a table that MatMulNBits takes too
		const n, k, block = 12, 64, 32
		list = append(list, accel(fmt.Sprintf("GatherBlocks %d of a table of MatMulNBits", bits), "GatherBlocks", 1, func(g *gen) []string {
			return []string{g.bits(n, k/block, block*bits/8), g.Const(g.between(tensor.Float16, 0, 0.1, n, k/block)), "", g.ints(0, n, 7)}
		}, ai("bits", bits), ai("block", block), ai("K", k)))
	}
	return append(list, fused()...)
}

func fused() []operatorCase {
	norm := func(skip bool, extra ...int64) func(*gen) []string {
		return func(g *gen) []string {
			in := []string{g.f(2, 5, 24)}
			if skip {
				in = append(in, g.f(2, 5, 24))
			}
			in = append(in, g.Const(g.between(tensor.Float32, 0.5, 1.5, 24)))
			for _, n := range extra {
				in = append(in, g.w(n))
			}
			return in
		}
	}
	byte1 := func(v uint8) tensor.Tensor { return tensor.Of(tensor.Uint8, nil, []uint8{v}) }
	// grid is the scale and the zero point of bytes.
	grid := func(g *gen, scale float32, zero uint8) []string {
		return []string{g.Float(scale), g.Const(byte1(zero))}
	}
	bytes := func(g *gen, shape ...int64) string { return g.in(g.between(tensor.Uint8, 0, 256, shape...)) }
	const heads, width = 4, 32
	gqa := func(sequence, past int64, ends, total int32, rotary bool) func(*gen) []string {
		return func(g *gen) []string {
			in := []string{g.f(2, sequence, 64), g.f(2, sequence, 32), g.f(2, sequence, 32), g.f(2, 2, past, 16), g.f(2, 2, past, 16),
				g.Const(tensor.Of(tensor.Int32, tensor.Shape{2}, []int32{ends, ends})), g.Const(tensor.Of(tensor.Int32, nil, []int32{total}))}
			if rotary {
				in = append(in, g.w(20, 8), g.w(20, 8))
			}
			return in
		}
	}
	groups := func(more ...*graph.Attr) []*graph.Attr {
		return append([]*graph.Attr{ai("num_heads", heads), ai("kv_num_heads", 2)}, more...)
	}
	list := []operatorCase{
		microsoft("Gelu of com.microsoft", "Gelu", in1(3, 37)),
		microsoft("QuickGelu", "QuickGelu", in1(3, 37)),
		microsoft("FastGelu", "FastGelu", in1(3, 37)),
		microsoft("FastGelu with a bias", "FastGelu", func(g *gen) []string { return []string{g.f(3, 37), g.w(37)} }),
		microsoft("BiasGelu", "BiasGelu", func(g *gen) []string { return []string{g.f(3, 37), g.w(37)} }),
		node("SimplifiedLayerNormalization", "SimplifiedLayerNormalization", norm(false)),
		microsoft("SimplifiedLayerNormalization of com.microsoft", "SimplifiedLayerNormalization", norm(false)),
		microsoft("SkipLayerNormalization", "SkipLayerNormalization", norm(true, 24, 24)),
		microsoft("SkipSimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", norm(true)),
		{name: "SkipSimplifiedLayerNormalization and its sum", build: func(g *gen) []string {
			out := g.Node(&graph.Node{Domain: graph.DomainMicrosoft, OpType: "SkipSimplifiedLayerNormalization", Inputs: norm(true, 24)(g),
				Outputs: []string{"skip_y", "", "", "skip_sum"}}, 4)
			return []string{out[0], out[3]}
		}},
		microsoft("EmbedLayerNormalization", "EmbedLayerNormalization", func(g *gen) []string {
			ids := func(n float64) string { return g.in(g.between(tensor.Int32, 0, n, 2, 7)) }
			return []string{ids(50), ids(2), g.w(50, 24), g.w(9, 24), g.w(2, 24), g.w(24), g.w(24)}
		}),
		microsoft("FusedMatMul", "FusedMatMul", in2(dims{2, 3, 16, 5}, dims{2, 3, 7, 16}), ai("transA", 1), ai("transB", 1), af("alpha", 0.5)),
		microsoft("FusedMatMul of weights", "FusedMatMul", func(g *gen) []string { return []string{g.f(2, 5, 16), g.w(7, 16)} }, ai("transB", 1)),
		microsoft("FusedGemm", "FusedGemm", func(g *gen) []string { return []string{g.f(5, 16), g.w(7, 16), g.w(7)} }, ai("transB", 1), as("activation", "Relu")),
		microsoft("FusedConv", "FusedConv", func(g *gen) []string { return []string{g.f(1, 4, 7, 9), g.w(6, 4, 3, 3), g.w(6)} },
			as("activation", "Relu"), ais("pads", 1, 1, 1, 1)),
		microsoft("FusedConv with a sum", "FusedConv", func(g *gen) []string { return []string{g.f(1, 4, 5, 6), g.w(6, 4, 1, 1), g.w(6), g.f(1, 6, 5, 6)} }, as("activation", "Sigmoid")),
		microsoft("MultiHeadAttention", "MultiHeadAttention", func(g *gen) []string {
			return []string{g.f(2, 5, width), g.f(2, 7, width), g.f(2, 7, width), g.w(3 * width)}
		},
			ai("num_heads", heads)),
		nodes("MultiHeadAttention with a past", "MultiHeadAttention", graph.DomainMicrosoft, 3, func(g *gen) []string {
			x := g.f(2, 3, width)
			return []string{x, x, x, "", "", g.f(2, 4, 3, 8), g.f(2, 4, 5, 8), g.f(2, 4, 5, 8)}
		}, ai("num_heads", heads), ai("unidirectional", 1)),
		microsoft("Attention of com.microsoft", "Attention", func(g *gen) []string { return []string{g.f(2, 5, 24), g.w(24, 3*width), g.w(3 * width)} }, ai("num_heads", heads)),
		nodes("GroupQueryAttention of a prompt", "GroupQueryAttention", graph.DomainMicrosoft, 3, gqa(5, 0, 4, 5, true), groups(ai("do_rotary", 1))...),
		nodes("GroupQueryAttention of a token", "GroupQueryAttention", graph.DomainMicrosoft, 3, gqa(1, 8, 6, 7, true), groups(ai("do_rotary", 1), ai("rotary_interleaved", 1))...),
		nodes("GroupQueryAttention with a window", "GroupQueryAttention", graph.DomainMicrosoft, 3, gqa(5, 0, 4, 5, false),
			groups(ai("local_window_size", 3), af("softcap", 2), ai("smooth_softmax", 1))...),
		microsoft("RotaryEmbedding of com.microsoft", "RotaryEmbedding", func(g *gen) []string { return []string{g.f(2, 5, 24), g.ints(0, 20, 2, 5), g.w(20, 4), g.w(20, 4)} },
			ai("interleaved", 0)),
		microsoft("GatherBlockQuantized", "GatherBlockQuantized", func(g *gen) []string { return []string{g.bits(20, 16), g.ints(0, 20, 2, 3), g.w(20, 2), g.bits(20, 1)} },
			ai("block_size", 16), ai("bits", 4)),
		microsoft("DynamicQuantizeMatMul", "DynamicQuantizeMatMul", func(g *gen) []string {
			return []string{g.f(5, 16), g.bits(16, 7), g.Float(0.02), g.Const(byte1(120)), g.w(7)}
		}).within(2e-2, 0),
		microsoft("MatMulIntegerToFloat", "MatMulIntegerToFloat", func(g *gen) []string {
			return []string{bytes(g, 5, 16), g.bits(16, 7), g.Float(0.1), g.w(7), g.Const(byte1(100)), "", g.w(7)}
		}),
		microsoft("QGemm", "QGemm", func(g *gen) []string {
			in := append([]string{bytes(g, 5, 16)}, grid(g, 0.05, 120)...)
			in = append(append(in, g.bits(16, 7)), grid(g, 0.02, 130)...)
			return append(append(in, ""), grid(g, 0.4, 128)...)
		}).within(1, 0),
		microsoft("QLinearConv, channels last", "QLinearConv", func(g *gen) []string {
			in := append([]string{bytes(g, 1, 7, 9, 4)}, grid(g, 0.05, 120)...)
			in = append(append(in, g.bits(6, 4, 3, 3)), grid(g, 0.02, 130)...)
			return append(in, grid(g, 0.7, 128)...)
		}, ai("channels_last", 1)).within(1, 0),
		microsoft("QLinearGlobalAveragePool", "QLinearGlobalAveragePool", func(g *gen) []string {
			return append(append([]string{bytes(g, 2, 3, 4, 5)}, grid(g, 0.05, 120)...), grid(g, 0.03, 110)...)
		}).within(1, 0),
		microsoft("QLinearSoftmax", "QLinearSoftmax", func(g *gen) []string {
			return append(append([]string{bytes(g, 3, 9)}, grid(g, 0.05, 120)...), grid(g, 1.0/256, 0)...)
		}, ai("opset", 13)).within(1, 0),
		microsoft("QLinearConcat", "QLinearConcat", func(g *gen) []string {
			in := append(grid(g, 0.1, 128), bytes(g, 2, 3))
			in = append(append(in, grid(g, 0.05, 120)...), bytes(g, 2, 4))
			return append(in, grid(g, 0.1, 128)...)
		}, ai("axis", 1)).within(1, 0),
		microsoft("NhwcMaxPool", "NhwcMaxPool", func(g *gen) []string { return []string{bytes(g, 1, 7, 9, 4)} }, ais("kernel_shape", 3, 3), ais("strides", 2, 2), ais("pads", 1, 1, 1, 1)),
		microsoft("CropAndResize", "CropAndResize", func(g *gen) []string {
			return []string{g.f(2, 3, 7, 9), g.Const(tensor.Floats(tensor.Shape{2, 4}, 0, 0, 1, 1, 0.1, 0.2, 0.7, 0.9)),
				g.Const(tensor.Of(tensor.Int32, tensor.Shape{2}, []int32{1, 0})), g.Const(tensor.Of(tensor.Int32, tensor.Shape{2}, []int32{4, 5}))}
		}),
		microsoft("Trilu of com.microsoft", "Trilu", in1(2, 5, 7), ai("upper", 0)),
	}
	for _, op := range []string{"QLinearSigmoid", "QLinearLeakyRelu"} {
		list = append(list, microsoft(op, op, func(g *gen) []string {
			return append(append([]string{bytes(g, 3, 37)}, grid(g, 0.05, 120)...), grid(g, 0.03, 110)...)
		}).within(1, 0))
	}
	for _, op := range []string{"QLinearAdd", "QLinearMul"} {
		list = append(list, microsoft(op, op, func(g *gen) []string {
			in := append([]string{bytes(g, 2, 3, 17)}, grid(g, 0.05, 120)...)
			in = append(append(in, bytes(g, 3, 1)), grid(g, 0.07, 130)...)
			return append(in, grid(g, 0.3, 110)...)
		}).within(1, 0))
	}
	return list
}
