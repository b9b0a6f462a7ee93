package graph

import (
	"strings"
	"testing"
)

func TestInferMicrosoft(t *testing.T) {
	const ms = "com.microsoft:"
	for _, tt := range []struct {
		name  string
		lines []string
		want  string // types of the outputs; or "!" and part of the error
	}{
		{"gelu", []string{"x = f[N,4]", "b = f[4]", "y = " + ms + "BiasGelu(x,b)"}, "f[N,4]"},
		{"simplified, default domain", []string{"x = f[B,S,8]", "w = h[8]", "y,i = SimplifiedLayerNormalization(x,w)"}, "h[B,S,8] f[B,S,1]"},
		{"simplified", []string{"x = f[B,S,8]", "w = f[8]", "y = " + ms + "SimplifiedLayerNormalization(x,w)"}, "f[B,S,8]"},
		{"skip", []string{"x = h[B,S,8]", "w = h[8]", "y,m,i,s = " + ms + "SkipSimplifiedLayerNormalization(x,x,w)"}, "h[B,S,8] f[B,S,1] f[B,S,1] h[B,S,8]"},
		{"embeddings", []string{"i = w[B,S]", "e = f[99,16]", "p = f[9,16]", "g = f[16]", "y,m,s = " + ms + "EmbedLayerNormalization(i,,e,p,,g,g)"},
			"f[B,S,16] w[B] f[B,S,16]"},
		{"embeddings of vectors", []string{"i = w[B]", "e = f[99,16]", "y = " + ms + "EmbedLayerNormalization(i,,e,e,,e,e)"}, "!wants rank 2"},
		{"fused matmul", []string{"x = f[B,64,S]", "w = f[32,64]", "y = " + ms + "FusedMatMul(x,w) transA=1 transB=1"}, "f[B,S,32]"},
		{"fused matmul, batch inside", []string{"x = f[S,B,64]", "w = f[B,64,32]", "y = " + ms + "FusedMatMul(x,w) transBatchA=1"}, "f[B,S,32]"},
		{"fused matmul, batch inside, transposed", []string{"x = f[64,B,S]", "w = f[B,64,32]", "y = " + ms + "FusedMatMul(x,w) transBatchA=1 transA=1"}, "f[B,S,32]"},
		{"fused matmul that does not fit", []string{"x = f[B,64,S]", "w = f[63,32]", "y = " + ms + "FusedMatMul(x,w) transA=1"}, "!inner dimension"},
		{"fused gemm", []string{"x = f[N,64]", "w = f[32,64]", "y = " + ms + "FusedGemm(x,w) transB=1 activation=Relu"}, "f[N,32]"},
		{"fused conv", []string{"x = f[N,3,8,8]", "w = f[5,3,3,3]", "y = " + ms + "FusedConv(x,w) activation=Relu pads=[1,1,1,1]"}, "f[N,5,8,8]"},
		{"dynamic product", []string{"x = f[B,S,64]", "w = u[64,32]", "s = f[]", "y = " + ms + "DynamicQuantizeMatMul(x,w,s)"}, "f[B,S,32]"},
		{"product to float", []string{"x = u[B,S,64]", "w = u[64,32]", "s = h[]", "y = " + ms + "MatMulIntegerToFloat(x,w,s,s)"}, "h[B,S,32]"},
		{"quantised gemm", []string{"x = u[N,64]", "w = u[32,64]", "s = f[]", "z = u[]", "y = " + ms + "QGemm(x,s,z,w,s,z,,s,z) transB=1"}, "u[N,32]"},
		{"quantised gemm to float", []string{"x = u[64,N]", "w = u[64,32]", "s = f[]", "z = u[]", "y = " + ms + "QGemm(x,s,z,w,s,z) transA=1"}, "f[N,32]"},
		{"table of bytes", []string{"d = u[V,32]", "i = i[B,S]", "s = h[V,4]", "y = " + ms + "GatherBlockQuantized(d,i,s) block_size=16"}, "h[B,S,64]"},
		{"table of bytes, 2 bits", []string{"d = u[V,32]", "i = i[B,S]", "s = f[V,8]", "y = " + ms + "GatherBlockQuantized(d,i,s) block_size=16 bits=2"}, "f[B,S,128]"},
		{"table of 3 bits", []string{"d = u[V,32]", "i = i[B,S]", "s = f[V,8]", "y = " + ms + "GatherBlockQuantized(d,i,s) bits=3"}, "!bits is 3"},
		{"quantise", []string{"x = f[N,4]", "s = f[]", "z = u[]", "y = " + ms + "QuantizeLinear(x,s,z)"}, "u[N,4]"},
		{"dequantise", []string{"x = u[N,4]", "s = h[]", "y = " + ms + "DequantizeLinear(x,s)"}, "h[N,4]"},
		{"quantised sum", []string{"x = u[N,1,4]", "s = f[]", "z = u[]", "b = u[S,1]", "y = " + ms + "QLinearAdd(x,s,z,b,s,z,s,z)"}, "u[N,S,4]"},
		{"quantised choice", []string{"c = b[N,1]", "x = u[4]", "s = f[]", "z = u[]", "y = " + ms + "QLinearWhere(c,x,s,z,x,s,z,s,z)"}, "u[N,4]"},
		{"quantised concat", []string{"x = u[N,4]", "s = f[]", "z = u[]", "b = u[N,5]", "y = " + ms + "QLinearConcat(s,z,x,s,z,b,s,z) axis=1"}, "u[N,9]"},
		{"quantised softmax", []string{"x = u[N,4]", "s = f[]", "z = u[]", "y = " + ms + "QLinearSoftmax(x,s,z,s,z) opset=13"}, "u[N,4]"},
		{"quantised pool", []string{"x = u[N,3,4,5]", "s = f[]", "z = u[]", "y = " + ms + "QLinearGlobalAveragePool(x,s,z,s,z)"}, "u[N,3,1,1]"},
		{"quantised pool, channels last", []string{"x = u[N,4,5,3]", "s = f[]", "z = u[]", "y = " + ms + "QLinearGlobalAveragePool(x,s,z,s,z) channels_last=1"}, "u[N,1,1,3]"},
		{"quantised average", []string{"x = u[N,9,9,3]", "s = f[]", "z = u[]", "y = " + ms + "QLinearAveragePool(x,s,z,s,z) channels_last=1 kernel_shape=[3,3]"}, "u[N,7,7,3]"},
		{"quantised conv, channels last", []string{"x = u[N,8,8,3]", "s = f[]", "z = u[]", "w = u[5,3,3,3]",
			"y = " + ms + "QLinearConv(x,s,z,w,s,z,s,z) channels_last=1 strides=[2,2]"}, "u[N,3,3,5]"},
		{"pool, channels last", []string{"x = u[N,8,8,3]", "y = " + ms + "NhwcMaxPool(x) kernel_shape=[2,2] strides=[2,2]"}, "u[N,4,4,3]"},
		{"crops", []string{"x = f[N,3,8,8]", "r = f[R,4]", "b = w[R]", "s = {2,5}", "y = " + ms + "CropAndResize(x,r,b,s)"}, "f[R,3,2,5]"},
		{"dimension", []string{"x = f[N,8]", "a = {-1}:", "y = " + ms + "ExpandDims(x,a)"}, "f[N,8,1]"},
		{"no such dimension", []string{"x = f[N,8]", "a = {4}:", "y = " + ms + "ExpandDims(x,a)"}, "!axis 4"},
		{"windows", []string{"x = f[N,9]", "y = " + ms + "UnfoldTensor(x) size=3 step=2"}, "f[N,4,3]"},
		{"windows that do not fit", []string{"x = f[N,2]", "y = " + ms + "UnfoldTensor(x) size=3"}, "!does not fit"},

		{"heads", []string{"q = f[B,S,64]", "k = f[B,L,64]", "v = f[B,L,32]", "y,a,b,c = " + ms + "MultiHeadAttention(q,k,v) num_heads=4"},
			"f[B,S,32] f[B,4,L,16] f[B,4,L,8] f[B,4,S,L]"},
		{"heads with a past", []string{"q = f[B,S,64]", "p = f[B,4,P,16]", "y,a,b = " + ms + "MultiHeadAttention(q,q,q,,,,p,p) num_heads=4"},
			"f[B,S,64] f[B,4,P + S,16] f[B,4,P + S,16]"},
		{"packed heads", []string{"q = f[B,S,4,3,16]", "y,a = " + ms + "MultiHeadAttention(q) num_heads=4"}, "f[B,S,64] f[B,4,S,16]"},
		{"packed keys", []string{"q = f[B,S,64]", "k = f[B,L,4,2,16]", "y = " + ms + "MultiHeadAttention(q,k) num_heads=4"}, "f[B,S,64]"},
		{"keys by head", []string{"q = f[B,S,64]", "k = f[B,4,L,16]", "y = " + ms + "MultiHeadAttention(q,k,k) num_heads=4"}, "f[B,S,64]"},
		{"heads that do not divide", []string{"q = f[B,S,63]", "y = " + ms + "MultiHeadAttention(q,q,q) num_heads=4"}, "!4 heads"},
		{"decoder, shared buffers", []string{"q = f[B,1,64]", "p = f[B,4,M,16]", "n = w[1]", "y,a,b = " + ms + "DecoderMaskedMultiHeadAttention(q,q,q,,,p,p,n) num_heads=4"},
			"f[B,1,64] f[B,4,M,16] f[B,4,M,16]"},
		{"projected attention", []string{"x = f[B,S,24]", "w = f[24,96]", "p = f[2,B,4,P,8]", "y,a = " + ms + "Attention(x,w,,,p) num_heads=4"}, "f[B,S,32] f[2,B,4,P + S,8]"},
		{"projected attention of sizes", []string{"x = f[B,S,24]", "w = f[24,80]", "y = " + ms + "Attention(x,w) num_heads=4 qkv_hidden_sizes=[32,32,16]"}, "f[B,S,16]"},
		{"projected attention that does not fit", []string{"x = f[B,S,24]", "w = f[25,96]", "y = " + ms + "Attention(x,w) num_heads=4"}, "!width of its input"},
		{"quantised attention", []string{"x = u[B,S,24]", "w = u[24,96]", "b = f[96]", "s = f[]", "y = " + ms + "QAttention(x,w,b,s,s) num_heads=4"}, "f[B,S,32]"},
		{"groups", []string{"q = f[B,S,64]", "k = f[B,S,32]", "p = f[B,2,0,16]", "e = w[B]", "n = w[]", "y = " + ms + "GroupQueryAttention(q,k,k,p,p,e,n) num_heads=4 kv_num_heads=2"}, "f[B,S,64]"},
		{"packed groups", []string{"q = f[B,S,128]", "e = w[B]", "n = {9}:", "y,a,b = " + ms + "GroupQueryAttention(q,,,,,e,n) num_heads=4 kv_num_heads=2"},
			"f[B,S,64] f[B,2,9,16] f[B,2,9,16]"},
		{"groups with a buffer", []string{"q = f[B,1,128]", "p = f[B,2,20,16]", "e = w[B]", "n = {9}:", "y,a = " + ms + "GroupQueryAttention(q,,,p,p,e,n) num_heads=4 kv_num_heads=2"},
			"f[B,1,64] f[B,2,20,16]"},
		{"groups of 4 bits", []string{"q = f[B,1,128]", "p = u[B,2,20,8]", "e = w[B]", "n = {9}:",
			"y,a = " + ms + "GroupQueryAttention(q,,,p,p,e,n) num_heads=4 kv_num_heads=2 k_quant_type=PER_TENSOR kv_cache_bit_width=4"}, "f[B,1,64] u[B,2,20,8]"},
		{"experts", []string{"x = f[B,S,32]", "r = f[T,4]", "a = f[4,64,32]", "b = f[4,32,64]", "y = " + ms + "MoE(x,r,a,,b) k=2"}, "f[B,S,32]"},
		{"rotary", []string{"q = f[B,S,64]", "p = i[B,S]", "c = f[9,8]", "y = " + ms + "RotaryEmbedding(q,p,c,c)"}, "f[B,S,64]"},

		{"quantised pages", []string{"q = f[T,8,64]", "kp = u[P,16,4,32]", "s = i[T]", "t = i[B,M]", "l = i[B]", "st = i[B1]", "ks = h[P,16,4]",
			"o,ko,vo,a,b = ai.accel:PagedAttention(q,,,kp,kp,,t,l,st,ks,ks) k_bits=4 v_bits=4"}, "f[T,8,64] u[P,16,4,32] u[P,16,4,32] h[P,16,4] h[P,16,4]"},
		{"quantised write", []string{"k = f[T,4,64]", "s = i[T]", "kp = u[P,16,4,32]", "ks = h[P,16,4]", "a,b,c,d = ai.accel:PagedWrite(k,k,s,kp,kp,ks,ks) k_bits=4 v_bits=4"},
			"u[P,16,4,32] u[P,16,4,32] h[P,16,4] h[P,16,4]"},
	} {
		m := program(t, 23, tt.lines...)
		err := Infer(m)
		if part, isError := strings.CutPrefix(tt.want, "!"); isError {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v, want an error with %q", tt.name, err, part)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var types []string
		for _, v := range m.Graph.Outputs {
			types = append(types, typeText(v.Type))
		}
		if got := strings.Join(types, " "); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestMicrosoftFLOPs(t *testing.T) {
	const ms = "com.microsoft:"
	for _, tt := range []struct {
		lines []string
		want  int64 // -1: not known
	}{
		{[]string{"x = f[2,64,8]", "w = f[64,32]", "y = " + ms + "FusedMatMul(x,w) transA=1"}, 2 * 2 * 8 * 64 * 32},
		{[]string{"x = f[64,2,8]", "w = f[2,64,32]", "y = " + ms + "FusedMatMul(x,w) transA=1 transBatchA=1"}, 2 * 2 * 8 * 64 * 32},
		{[]string{"x = f[8,64]", "w = f[64,32]", "y = " + ms + "FusedGemm(x,w) activation=Relu"}, 2 * 8 * 64 * 32},
		{[]string{"x = f[N,64]", "w = f[64,32]", "y = " + ms + "FusedGemm(x,w)"}, -1},
		{[]string{"x = u[8,64]", "w = u[64,32]", "s = f[]", "y = " + ms + "MatMulIntegerToFloat(x,w,s,s)"}, 2 * 8 * 64 * 32},
		{[]string{"x = f[1,16,8,8]", "w = f[32,4,3,3]", "y = " + ms + "FusedConv(x,w) group=4 pads=[1,1,1,1]"}, 2 * 32 * 64 * 4 * 9},
		{[]string{"q = f[2,5,64]", "k = f[2,7,64]", "y = " + ms + "MultiHeadAttention(q,k,k) num_heads=4"}, 4 * 2 * 5 * 7 * 64},
		{[]string{"q = f[2,5,64]", "p = f[2,4,3,16]", "y,a,b = " + ms + "MultiHeadAttention(q,q,q,,,,p,p) num_heads=4"}, 4 * 2 * 5 * 8 * 64},
		{[]string{"x = f[2,5,24]", "w = f[24,96]", "y = " + ms + "Attention(x,w) num_heads=4"}, 2*2*5*24*96 + 4*2*5*5*32},
		{[]string{"q = f[2,1,128]", "e = w[2]", "n = {9}:", "y,a,b = " + ms + "GroupQueryAttention(q,,,,,e,n) num_heads=4 kv_num_heads=2"}, 4 * 2 * 9 * 64},
		{[]string{"x = u[1,8,8,3]", "y = " + ms + "NhwcMaxPool(x) kernel_shape=[2,2] strides=[2,2]"}, 16 * 3 * 4},
		{[]string{"x = f[5,32]", "r = f[5,4]", "a = f[4,64,32]", "b = f[4,32,64]", "y = " + ms + "MoE(x,r,a,,b) k=2"}, 2 * 5 * 2 * (64*32 + 32*64)},
		{[]string{"x = f[5,32]", "r = f[5,4]", "a = u[4,64,16]", "b = u[4,32,32]", "s = f[4,64]", "y = " + ms + "QMoE(x,r,a,s,,b,s) k=2"}, 2 * 5 * 2 * (64*32 + 32*64)},
		{[]string{"x = f[3,4]", "y = " + ms + "QuickGelu(x)"}, 12},
		{[]string{"x = f[3,4]", "y = " + ms + "Trilu(x)"}, 0},
		{[]string{"x = f[3,4]", "y = " + ms + "Whatever(x)"}, -1},
	} {
		m := program(t, 23, tt.lines...)
		if err := Infer(m); err != nil {
			t.Fatal(err)
		}
		f, ok := FLOPs(m.Graph.Nodes[0], m.Graph.Types())
		if !ok {
			f = -1
		}
		if f != tt.want {
			t.Errorf("%v: %d, want %d", tt.lines, f, tt.want)
		}
	}
}
