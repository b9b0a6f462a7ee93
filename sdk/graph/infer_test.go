package graph

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

var typeNames = map[string]tensor.DType{"f": tensor.Float32, "h": tensor.Float16, "i": tensor.Int64, "w": tensor.Int32, "b": tensor.Bool, "u": tensor.Uint8, "d": tensor.Float64, "s": tensor.String}

// typeOf reads "f[N,4,?]"; "f" has no known rank, "" nothing.
func typeOf(s string) *Type {
	if s == "" {
		return nil
	}
	t := &Type{Kind: KindTensor, Elem: typeNames[s[:1]]}
	if len(s) > 1 {
		t.HasShape = true
		for _, d := range strings.Split(strings.Trim(s[1:], "[]"), ",") {
			switch n, err := strconv.ParseInt(d, 10, 64); {
			case d == "":
			case d == "?":
				t.Dims = append(t.Dims, Dim{Size: -1})
			case err == nil:
				t.Dims = append(t.Dims, Known(n))
			default:
				t.Dims = append(t.Dims, Sym(d))
			}
		}
	}
	return t
}

func typeText(t *Type) string {
	if t == nil {
		return ""
	}
	if t.Kind != KindTensor {
		return "kind" + strconv.Itoa(int(t.Kind)) + "(" + typeText(t.Of) + ")"
	}
	s := "?"
	for k, v := range typeNames {
		if v == t.Elem {
			s = k
		}
	}
	if !t.HasShape {
		return s
	}
	var dims []string
	for _, d := range t.Dims {
		switch {
		case d.Param != "":
			dims = append(dims, d.Param)
		case d.Size < 0:
			dims = append(dims, "?")
		default:
			dims = append(dims, strconv.FormatInt(d.Size, 10))
		}
	}
	return s + "[" + strings.Join(dims, ",") + "]"
}

// program makes a model of lines: "name = f[N,4]" is an input, "name = {1,2}" a
// constant vector, "name = {1}:" a scalar, and "a,b = Op(x,y) k=1 l=1,2 m=text"
// a node. Its outputs are those of the last node.
func program(t testing.TB, opset int64, lines ...string) *Model {
	t.Helper()
	m := &Model{IRVersion: 10, Opsets: map[string]int64{"": opset, DomainAccel: 1, DomainMicrosoft: 1, DomainML: 5, DomainPreview: 1, DomainTraining: 1}, Graph: &Graph{Name: "p"}}
	call := regexp.MustCompile(`^([\w.:]+)\((.*?)\)(.*)$`)
	for _, line := range lines {
		out, rest, ok := strings.Cut(line, " = ")
		switch {
		case !ok:
			t.Fatalf("line %q", line)
		case rest[0] == '{':
			list, scalar := strings.CutSuffix(rest, ":")
			var v []int64
			for _, s := range strings.Split(strings.Trim(list, "{}"), ",") {
				if s != "" {
					n, err := strconv.ParseInt(s, 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					v = append(v, n)
				}
			}
			shape := tensor.Shape{int64(len(v))}
			if scalar {
				shape = nil
			}
			m.Graph.Initializers = append(m.Graph.Initializers, &Initializer{Name: out, Tensor: tensor.Ints(shape, v...)})
		case call.MatchString(rest):
			p := call.FindStringSubmatch(rest)
			n := node(p[1] + "(" + p[2] + ")->" + out)
			for _, a := range strings.Fields(p[3]) {
				n.Attrs = append(n.Attrs, attrOf(a))
			}
			m.Graph.Nodes = append(m.Graph.Nodes, n)
		default:
			m.Graph.Inputs = append(m.Graph.Inputs, &Value{Name: out, Type: typeOf(rest)})
		}
	}
	for _, name := range m.Graph.Nodes[len(m.Graph.Nodes)-1].Outputs {
		if name != "" {
			m.Graph.Outputs = append(m.Graph.Outputs, &Value{Name: name})
		}
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	return m
}

func attrOf(s string) *Attr {
	k, v, _ := strings.Cut(s, "=")
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return IntAttr(k, n)
	}
	if v[0] == '[' {
		var list []int64
		for _, s := range strings.Split(strings.Trim(v, "[]"), ",") {
			n, _ := strconv.ParseInt(s, 10, 64)
			list = append(list, n)
		}
		return IntsAttr(k, list...)
	}
	return StringAttr(k, v)
}

// inference is a program and what is inferred of it.
type inference struct {
	name  string
	lines []string
	want  string // types of the outputs; or "!" and part of the error
}

func testInference(t *testing.T, tests []inference) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := program(t, 23, tt.lines...)
			err := Infer(m)
			if want, bad := strings.CutPrefix(tt.want, "!"); bad {
				var ie *InferError
				if !errors.As(err, &ie) || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range m.Graph.Outputs {
				got = append(got, typeText(v.Type))
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
}

func TestInfer(t *testing.T) {
	tests := []inference{
		{"unary", []string{"x = f[N,4]", "y = Erf(x)"}, "f[N,4]"},
		{"unknown operator", []string{"x = f[N,4]", "a = Whatever(x)", "y = Add(a,x)"}, "f"},
		{"unknown rank", []string{"x = f", "y = Softmax(x)"}, "f"},
		{"broadcast", []string{"x = f[N,1,4]", "z = f[S,1]", "y = Add(x,z)"}, "f[N,S,4]"},
		{"broadcast number wins", []string{"x = f[N]", "z = f[4]", "y = Add(x,z)"}, "f[4]"},
		{"broadcast two symbols", []string{"x = f[N]", "z = f[M]", "y = Add(x,z)"}, "f[?y.0]"},
		{"broadcast contradiction", []string{"x = f[3,4]", "z = f[3,5]", "y = Add(x,z)"}, "!making \"y\" (Add): shapes"},
		{"element types", []string{"x = f[3]", "z = i[3]", "y = Mul(x,z)"}, "!float32 and int64"},
		{"comparison", []string{"x = f[N,4]", "z = f[4]", "y = Less(x,z)"}, "b[N,4]"},
		{"where", []string{"c = b[N,1]", "x = f[4]", "z = f[]", "y = Where(c,x,z)"}, "f[N,4]"},
		{"pow", []string{"x = f[N]", "z = i[]", "y = Pow(x,z)"}, "f[N]"},
		{"not", []string{"x = b[N]", "y = Not(x)"}, "b[N]"},
		{"isnan", []string{"x = f[N]", "y = IsNaN(x)"}, "b[N]"},
		{"cast", []string{"x = f[N]", "y = Cast(x) to=10"}, "h[N]"},
		{"cast to nothing", []string{"x = f[N]", "y = Cast(x) to=99"}, "!no element type"},
		{"castlike", []string{"x = f[N]", "z = h[]", "y = CastLike(x,z)"}, "h[N]"},

		{"matmul", []string{"x = f[B,S,64]", "w = f[64,32]", "y = MatMul(x,w)"}, "f[B,S,32]"},
		{"matmul batches", []string{"x = f[B,1,S,8]", "w = f[H,8,T]", "y = MatMul(x,w)"}, "f[B,H,S,T]"},
		{"matmul vectors", []string{"x = f[8]", "w = f[8]", "y = MatMul(x,w)"}, "f[]"},
		{"matmul contradiction", []string{"x = f[B,64]", "w = f[63,32]", "y = MatMul(x,w)"}, "!inner dimension is 64 on one side and 63"},
		{"matmulinteger", []string{"x = u[N,8]", "w = u[8,4]", "y = MatMulInteger(x,w)"}, "w[N,4]"},
		{"gemm", []string{"x = f[N,8]", "w = f[4,8]", "b = f[4]", "y = Gemm(x,w,b) transB=1"}, "f[N,4]"},
		{"gemm contradiction", []string{"x = f[N,8]", "w = f[8,4]", "y = Gemm(x,w) transB=1"}, "!inner dimension"},
		{"gemm addend", []string{"x = f[N,8]", "w = f[8,4]", "b = f[3]", "y = Gemm(x,w,b)"}, "!addend"},
		{"einsum", []string{"x = f[B,H,S,D]", "z = f[B,H,T,D]", "y = Einsum(x,z) equation=bhsd,bhtd->bhst"}, "f[B,H,S,T]"},
		{"einsum dots", []string{"x = f[B,H,S,8]", "z = f[8,4]", "y = Einsum(x,z) equation=...d,de->...e"}, "f[B,H,S,4]"},
		{"einsum implicit", []string{"x = f[S,8]", "z = f[8,4]", "y = Einsum(x,z) equation=ij,jk"}, "f[S,4]"},
		{"einsum contradiction", []string{"x = f[S,8]", "z = f[7,4]", "y = Einsum(x,z) equation=ij,jk"}, "!index j"},
		{"nbits", []string{"x = f[B,S,64]", "w = u[32,2,16]", "s = f[64]", "y = com.microsoft:MatMulNBits(x,w,s) K=64 N=32 bits=4"}, "f[B,S,32]"},
		{"nbits contradiction", []string{"x = f[B,S,60]", "w = u[32,2,16]", "s = f[64]", "y = com.microsoft:MatMulNBits(x,w,s) K=64 N=32"}, "!K is 64"},
		{"blocks", []string{"x = f[B,64]", "w = u[32,24]", "s = f[32,2]", "y = ai.accel:MatMulBlocks(x,w,s) K=64 N=32 bits=3"}, "f[B,32]"},
		{"rows of blocks", []string{"w = u[V,24]", "s = h[V,2]", "i = i[B,S]", "y = ai.accel:GatherBlocks(w,s,,i) K=64 bits=3"}, "f[B,S,64]"},
		{"rows of blocks without K", []string{"w = u[V,24]", "s = h[V,2]", "i = i[B,S]", "y = ai.accel:GatherBlocks(w,s,,i) bits=3"}, "!attribute K is 0"},

		{"layernorm", []string{"x = f[B,S,64]", "w = f[64]", "y,m = LayerNormalization(x,w,w)"}, "f[B,S,64] f[B,S,1]"},
		{"layernorm contradiction", []string{"x = f[B,S,64]", "w = f[63]", "y = LayerNormalization(x,w)"}, "!normalized [64]"},
		{"rmsnorm", []string{"x = f[B,S,64]", "w = f[64]", "y = RMSNormalization(x,w)"}, "f[B,S,64]"},
		{"softmax axis", []string{"x = f[B,S]", "y = Softmax(x) axis=2"}, "!axis 2"},
		{"dropout", []string{"x = f[B,S]", "y,m = Dropout(x)"}, "f[B,S] b[B,S]"},
		{"attention 4", []string{"q = f[B,12,S,64]", "k = f[B,4,T,64]", "v = f[B,4,T,32]", "y = Attention(q,k,v)"}, "f[B,12,S,32]"},
		{"attention 3", []string{"q = f[B,S,768]", "k = f[B,T,768]", "v = f[B,T,768]", "y = Attention(q,k,v) q_num_heads=12 kv_num_heads=12"}, "f[B,S,768]"},
		{"attention cache", []string{"q = f[B,8,S,64]", "k = f[B,8,S,64]", "p = f[B,8,P,64]", "y,a,b = Attention(q,k,k,,p,p)"}, "f[B,8,S,64] f[B,8,P + S,64] f[B,8,P + S,64]"},
		{"attention heads", []string{"q = f[B,S,768]", "y = Attention(q,q,q)"}, "!number of heads"},
		{"attention contradiction", []string{"q = f[B,8,S,64]", "k = f[B,8,S,32]", "y = Attention(q,k,q)"}, "!head size"},
		{"paged", []string{"q = f[T,8,64]", "k = f[T,4,64]", "v = f[T,4,32]", "kp = f[P,16,4,64]", "vp = f[P,16,4,32]", "s = i[T]", "t = i[B,M]", "l = i[B]", "st = i[B + 1]",
			"o,ko,vo = ai.accel:PagedAttention(q,k,v,kp,vp,s,t,l,st) scale=1"}, "f[T,8,32] f[P,16,4,64] f[P,16,4,32]"},
		{"paged write", []string{"k = f[T,4,64]", "s = i[T]", "kp = h[P,16,4,64]", "a,b = ai.accel:PagedWrite(k,k,s,kp,kp)"}, "h[P,16,4,64] h[P,16,4,64]"},
		{"conv", []string{"x = f[N,3,224,H]", "w = f[64,3,7,7]", "y = Conv(x,w) strides=[2,2] pads=[3,3,3,3]"}, "f[N,64,112,floor((H + 1)/2)]"},
		{"conv same", []string{"x = f[N,3,225,H]", "w = f[64,3,3,3]", "y = Conv(x,w) strides=[2,2] auto_pad=SAME_UPPER"}, "f[N,64,113,floor((H + 1)/2)]"},
		{"conv channels", []string{"x = f[N,4,8,8]", "w = f[64,3,3,3]", "y = Conv(x,w)"}, "!number of channels"},
		{"conv too small", []string{"x = f[N,3,2,2]", "w = f[64,3,3,3]", "y = Conv(x,w)"}, "!does not fit"},
		{"convtranspose", []string{"x = f[N,8,7,W]", "w = f[8,4,3,3]", "y = ConvTranspose(x,w) strides=[2,2] pads=[1,1,1,1] output_padding=[1,1]"}, "f[N,4,14,2*W]"},
		{"maxpool", []string{"x = f[N,8,7,7]", "y,i = MaxPool(x) kernel_shape=[3,3] strides=[2,2] ceil_mode=1"}, "f[N,8,3,3] i[N,8,3,3]"},
		{"global pool", []string{"x = f[N,8,H,W]", "y = GlobalAveragePool(x)"}, "f[N,8,1,1]"},
		{"resize", []string{"x = f[N,8,H,7]", "s = {1,8,14,14}", "y = Resize(x,,,s)"}, "f[1,8,14,14]"},
		{"lstm", []string{"x = f[T,N,16]", "w = f[1,32,16]", "r = f[1,32,8]", "y,h,c = LSTM(x,w,r) hidden_size=8"}, "f[T,1,N,8] f[1,N,8] f[1,N,8]"},

		{"shape", []string{"x = f[N,4]", "y = Shape(x)"}, "i[2]"},
		{"shape part", []string{"x = f[N,4,5]", "y = Shape(x) start=-2 end=-1"}, "i[1]"},
		{"size", []string{"x = f[N,4]", "s = Size(x)", "one = {0}", "v = Unsqueeze(s,one)", "z = f[1]", "y = Expand(z,v)"}, "f[4*N]"},
		{"reshape", []string{"x = f[B,S,64]", "s = {0,0,8,-1}", "y = Reshape(x,s)"}, "f[B,S,8,8]"},
		{"reshape flat", []string{"x = f[B,S,64]", "s = {-1,64}", "y = Reshape(x,s)"}, "f[B*S,64]"},
		{"reshape computed", []string{"x = f[B,S + 1,64]", "s = Shape(x)", "zero = {0}", "one = {1}", "b = Gather(s,zero)", "l = Gather(s,one)", "h = {8,-1}", "n = Concat(b,l,h) axis=0", "y = Reshape(x,n)"}, "f[B,S + 1,8,8]"},
		{"reshape back", []string{"x = f[B*S,64]", "z = f[B,S]", "s = Shape(z)", "h = {-1}", "n = Concat(s,h) axis=0", "y = Reshape(x,n)"}, "f[B,S,64]"},
		{"reshape unknown", []string{"x = f[B,S]", "s = i[3]", "y = Reshape(x,s)"}, "f[?y.0,?y.1,?y.2]"},
		{"reshape contradiction", []string{"x = f[2,3]", "s = {4,2}", "y = Reshape(x,s)"}, "!can't be reshaped"},
		{"reshape remainder", []string{"x = f[2,3]", "s = {4,-1}", "y = Reshape(x,s)"}, "!can't be reshaped"},
		{"reshape two open", []string{"x = f[2,3]", "s = {-1,-1}", "y = Reshape(x,s)"}, "!two dimensions"},
		{"flatten", []string{"x = f[B,2,S]", "y = Flatten(x)"}, "f[B,2*S]"},
		{"transpose", []string{"x = f[B,S,4]", "y = Transpose(x) perm=[0,2,1]"}, "f[B,4,S]"},
		{"transpose wrong", []string{"x = f[B,S,4]", "y = Transpose(x) perm=[0,2,2]"}, "!permutation"},
		{"squeeze", []string{"x = f[1,N,1]", "a = {0}", "y = Squeeze(x,a)"}, "f[N,1]"},
		{"squeeze all", []string{"x = f[1,3,1]", "y = Squeeze(x)"}, "f[3]"},
		{"squeeze wrong", []string{"x = f[2,N]", "a = {0}", "y = Squeeze(x,a)"}, "!can't be squeezed"},
		{"unsqueeze", []string{"x = f[N]", "a = {0,-1}", "y = Unsqueeze(x,a)"}, "f[1,N,1]"},
		{"concat", []string{"x = f[N,3]", "z = f[N,S]", "y = Concat(x,z,x) axis=1"}, "f[N,S + 6]"},
		{"concat contradiction", []string{"x = f[2,3]", "z = f[3,3]", "y = Concat(x,z) axis=1"}, "!dimension 0"},
		{"split", []string{"x = f[N,9]", "a,b,c = Split(x) axis=1 num_outputs=3"}, "f[N,3] f[N,3] f[N,3]"},
		{"split uneven", []string{"x = f[N,7]", "a,b,c = Split(x) axis=1 num_outputs=3"}, "f[N,3] f[N,3] f[N,1]"},
		{"split sizes", []string{"x = f[N,9]", "s = {2,7}", "a,b = Split(x,s) axis=1"}, "f[N,2] f[N,7]"},
		{"split symbol", []string{"x = f[6*N]", "a,b = Split(x) axis=0 num_outputs=2"}, "f[3*N] f[3*N]"},
		{"split contradiction", []string{"x = f[N,9]", "s = {2,8}", "a,b = Split(x,s) axis=1"}, "!is 9 on one side and 10"},
		{"slice", []string{"x = f[N,9]", "s = {1}", "e = {-1}", "a = {1}", "y = Slice(x,s,e,a)"}, "f[N,7]"},
		{"slice to a symbol", []string{"p = i[1,512]", "x = f[B,S]", "sh = Shape(x)", "o = {1}", "l = Gather(sh,o)", "z = {0}", "y = Slice(p,z,l,o)"}, "i[1,S]"},
		{"slice from the end", []string{"x = f[N,S]", "s = {-1}", "e = {9223372036854775807}", "a = {1}", "y = Slice(x,s,e,a)"}, "f[N,1]"},
		{"slice all but one", []string{"x = f[N,S]", "s = {0}", "e = {-1}", "a = {1}", "y = Slice(x,s,e,a)"}, "f[N,S - 1]"},
		{"slice past a symbol", []string{"x = f[S]", "s = {0}", "e = {512}", "y = Slice(x,s,e)"}, "f[?y.0]"},
		{"slice by two", []string{"x = f[S]", "s = {1}", "e = {9223372036854775807}", "a = {0}", "t = {2}", "y = Slice(x,s,e,a,t)"}, "f[floor(S/2)]"},
		{"slice reversed", []string{"x = f[3,S]", "s = {-1}", "e = {-9223372036854775807}", "a = {1}", "t = {-1}", "y = Slice(x,s,e,a,t)"}, "f[3,S]"},
		{"slice step 0", []string{"x = f[S]", "s = {1}", "e = {9}", "a = {0}", "t = {0}", "y = Slice(x,s,e,a,t)"}, "!step of 0"},
		{"expand", []string{"x = f[1,4]", "z = f[B,S]", "s = Shape(z) end=1", "o = {1}", "n = Concat(s,o) axis=0", "y = Expand(x,n)"}, "f[B,4]"},
		{"expand by the usual trick", []string{"x = f[1,S]", "z = f[B,1,Q]", "s = Shape(z)", "m = {-1,-1,-1}", "o = {1,1,1}", "e = Equal(s,m)", "n = Where(e,o,s)", "u = {0}", "w = Unsqueeze(x,u)", "y = Expand(w,n)"}, "f[B,1,?y.2]"},
		{"tile", []string{"x = f[N,2]", "r = {3,4}", "y = Tile(x,r)"}, "f[3*N,8]"},
		{"pad", []string{"x = f[N,2]", "p = {0,1,0,3}", "y = Pad(x,p)"}, "f[N,6]"},
		{"pad wrong", []string{"x = f[N,2]", "p = {0,1,0}", "y = Pad(x,p)"}, "!3 pads"},
		{"range", []string{"x = f[S,4]", "s = Shape(x)", "o = {0}:", "n = Gather(s,o)", "k = {1}:", "y = Range(o,n,k)"}, "i[S]"},
		{"range of an input", []string{"n = i[]", "o = {0}:", "k = {1}:", "y = Range(o,n,k)"}, "i[?y.0]"},
		{"range numbers", []string{"a = {10}:", "b = {1}:", "k = {-4}:", "y = Range(a,b,k)"}, "i[3]"},
		{"constantofshape", []string{"x = f[S,4]", "s = Shape(x)", "y = ConstantOfShape(s)"}, "f[S,4]"},
		{"gather", []string{"x = f[1000,64]", "i = i[B,S]", "y = Gather(x,i)"}, "f[B,S,64]"},
		{"gather outside", []string{"x = f[4,64]", "i = {4}", "y = Gather(x,i)"}, "!index 4"},
		{"gatherelements", []string{"x = f[B,64]", "i = i[B,K]", "y = GatherElements(x,i) axis=1"}, "f[B,K]"},
		{"gathernd", []string{"x = f[B,S,64]", "i = i[B,K,1]", "y = GatherND(x,i) batch_dims=1"}, "f[B,K,64]"},
		{"gathernd wrong", []string{"x = f[B,S]", "i = i[B,K,3]", "y = GatherND(x,i)"}, "!do not fit"},
		{"scatternd", []string{"x = f[B,S]", "i = i[K,1]", "u = f[K,S]", "y = ScatterND(x,i,u)"}, "f[B,S]"},
		{"cumsum", []string{"x = i[B,S]", "a = {1}:", "y = CumSum(x,a)"}, "i[B,S]"},
		{"trilu", []string{"x = f[B,S]", "y = Trilu(x)"}, "f[B,S]"},
		{"reduce input axes", []string{"x = f[B,S,64]", "a = {-1}", "y = ReduceMean(x,a)"}, "f[B,S,1]"},
		{"reduce attribute", []string{"x = f[B,S,64]", "y = ReduceMax(x) axes=[1] keepdims=0"}, "f[B,64]"},
		{"reduce all", []string{"x = f[B,S,64]", "y = ReduceSum(x) keepdims=0"}, "f[]"},
		{"reduce nothing", []string{"x = f[B,S]", "y = ReduceSum(x) noop_with_empty_axes=1"}, "f[B,S]"},
		{"reduce wrong", []string{"x = f[B,S]", "a = {2}", "y = ReduceMean(x,a)"}, "!axis 2"},
		{"reduceprod of a shape", []string{"x = f[B,S,4]", "s = Shape(x)", "p = ReduceProd(s)", "z = f[1]", "y = Expand(z,p)"}, "f[4*B*S]"},
		{"argmax", []string{"x = f[B,S]", "y = ArgMax(x) axis=-1 keepdims=0"}, "i[B]"},
		{"topk", []string{"x = f[B,S]", "k = {5}", "v,i = TopK(x,k)"}, "f[B,5] i[B,5]"},
		{"nonzero", []string{"x = f[B,S]", "y = NonZero(x)"}, "i[2,?y.1]"},
		{"onehot", []string{"x = i[B,S]", "d = {10}:", "v = f[2]", "y = OneHot(x,d,v)"}, "f[B,S,10]"},
		{"arithmetic on shapes", []string{"x = f[B,S]", "s = Shape(x)", "o = {1}:", "n = Gather(s,o)", "two = {2}:", "h = Div(n,two)", "r = Sub(n,h)", "u = {0}", "v = Unsqueeze(r,u)", "y = ConstantOfShape(v)"}, "f[S - floor(S/2)]"},
		{"through floats", []string{"x = f[B,S]", "s = Shape(x)", "f = Cast(s) to=1", "i = Cast(f) to=7", "y = ConstantOfShape(i)"}, "f[B,S]"},
		{"quantize", []string{"x = f[B,S]", "s = f[]", "z = u[]", "q = QuantizeLinear(x,s,z)", "y = DequantizeLinear(q,s,z)"}, "f[B,S]"},
		{"dynamic quantize", []string{"x = f[B,S]", "y,s,z = DynamicQuantizeLinear(x)"}, "u[B,S] f[] u[]"},
		{"sequences", []string{"x = f[B,S]", "e = SequenceEmpty() dtype=1", "s = SequenceInsert(e,x)", "n = SequenceLength(s)", "y = ConcatFromSequence(s) axis=0"}, "f"},
		{"join a sequence", []string{"x = f[B,S]", "s = SequenceConstruct(x,x)", "y = ConcatFromSequence(s) axis=1"}, "f[B,?y.1]"},
		{"stack a sequence", []string{"x = f[B,S]", "s = SequenceConstruct(x,x)", "y = ConcatFromSequence(s) axis=-1 new_axis=1"}, "f[B,S,?y.2]"},
		{"split to a sequence", []string{"x = f[B,S]", "s = SplitToSequence(x) axis=1 keepdims=0", "o = {0}:", "y = SequenceAt(s,o)"}, "f[B]"},
		{"optional", []string{"x = f[B,S]", "o = Optional(x)", "h = OptionalHasElement(o)", "y = OptionalGetElement(o)"}, "f[B,S]"},
		{"skip normalization", []string{"x = f[B,S,8]", "w = f[8]", "y,,,s = com.microsoft:SkipLayerNormalization(x,x,w)"}, "f[B,S,8] f[B,S,8]"},
		{"roi", []string{"x = f[N,8,H,W]", "r = f[R,4]", "i = i[R]", "y = RoiAlign(x,r,i) output_height=7 output_width=5"}, "f[R,8,7,5]"},
		{"boxes", []string{"b = f[1,N,4]", "s = f[1,C,N]", "y = NonMaxSuppression(b,s)"}, "i[?y.0,3]"},
		{"window", []string{"n = {400}:", "y = HannWindow(n)"}, "f[400]"},
		{"dft", []string{"x = f[B,400,1]", "y = DFT(x) onesided=1"}, "f[B,201,2]"},
		{"grid", []string{"x = f[N,8,H,W]", "g = f[N,P,Q,2]", "y = GridSample(x,g)"}, "f[N,8,P,Q]"},
		{"depth", []string{"x = f[N,8,H,W]", "y = DepthToSpace(x) blocksize=2"}, "f[N,2,2*H,2*W]"},
		{"gru both ways", []string{"x = f[T,N,16]", "w = f[2,24,16]", "r = f[2,24,8]", "y,h = GRU(x,w,r) direction=bidirectional hidden_size=8"}, "f[T,2,N,8] f[2,N,8]"},
		{"batchnorm", []string{"x = f[N,8,H,W]", "s = f[8]", "y = BatchNormalization(x,s,s,s,s)"}, "f[N,8,H,W]"},
		{"batchnorm channels", []string{"x = f[N,8,H,W]", "s = f[7]", "y = BatchNormalization(x,s,s,s,s)"}, "!number of channels"},
		{"unique", []string{"x = i[N]", "y,a,b,c = Unique(x)"}, "i[?y.0] i[?y.0] i[?b.0] i[?y.0]"},
		{"compress", []string{"x = f[N,4]", "c = b[N]", "y = Compress(x,c) axis=0"}, "f[?y.0,4]"},
		{"what is made of data keeps its size", []string{"x = f[B,S]", "nz = NonZero(x)", "t = Transpose(nz)", "g = GatherND(x,t)", "s = Shape(g)", "z = ConstantOfShape(s)", "y = Add(g,z)"}, "f[?nz.1]"},
		{"computed from a size of data", []string{"x = f[N]", "c = b[N]", "k = Compress(x,c) axis=0", "p = Concat(k,x) axis=0", "h = Shape(p)", "two = {2}", "q = Div(h,two)", "y = ConstantOfShape(q)"}, "f[floor((?k.0 + N)/2)]"},
		{"parts of a sequence may differ", []string{"x = f[N,4]", "n = {3}:", "s = SplitToSequence(x,n)", "i0 = {0}:", "i1 = {1}:", "a = SequenceAt(s,i0)", "b = SequenceAt(s,i1)", "p = Shape(a)", "q = Shape(b)", "y = Concat(a,b) axis=0"}, "f[?a.0 + ?b.0,4]"},
		{"nonzero of numbers", []string{"s = {5}", "o = ConstantOfShape(s)", "c = Cast(o) to=9", "n = Not(c)", "y = NonZero(n)"}, "i[1,5]"},
		{"data of two dimensions", []string{"p = {0,1,2,3}", "s = {-1,2}", "a = Reshape(p,s)", "st = {-1}", "e = {-9}", "ax = {0}", "b = Slice(a,st,e,ax,st)", "c = Transpose(b)", "f = {-1}", "d = Reshape(c,f)", "x = f[N,2]", "y = Pad(x,d)"}, "f[N + 5,3]"},
		{"data joined and repeated", []string{"a = {1,2}", "r = {2}", "t = Tile(a,r)", "y = ConstantOfShape(t)"}, "f[1,2,1,2]"},
		{"data picked", []string{"x = f[A,B,C]", "s = Shape(x)", "i = {-1,0}", "p = Gather(s,i)", "y = ConstantOfShape(p)"}, "f[C,A]"},
		{"missing input", []string{"x = f[N]", "y = Where(x,,x)"}, "!input 1 is missing"},
		{"sequence", []string{"x = f[B,S]", "s = SequenceConstruct(x,x)", "o = {0}:", "y = SequenceAt(s,o)"}, "f[B,S]"},
	}
	testInference(t, tests)
}

func TestInferOldForms(t *testing.T) {
	for _, tt := range []struct {
		opset int64
		lines []string
		want  string
	}{
		{11, []string{"x = f[1,N]", "y = Squeeze(x) axes=[0]"}, "f[N]"},
		{11, []string{"x = f[N]", "y = Unsqueeze(x) axes=[0,2]"}, "f[1,N,1]"},
		{9, []string{"x = f[N,9]", "y = Slice(x) axes=[1] starts=[1] ends=[-1]"}, "f[N,7]"},
		{11, []string{"x = f[N,9]", "a,b = Split(x) axis=1 split=[2,7]"}, "f[N,2]"},
		{2, []string{"x = f[N,2]", "y = Pad(x) pads=[0,1,0,3]"}, "f[N,6]"},
		{1, []string{"x = f[N,6]", "y = Reshape(x) shape=[0,2,3]"}, "f[N,2,3]"},
		{9, []string{"x = f[N,6]", "y,i = TopK(x) k=2"}, "f[N,2]"},
	} {
		m := program(t, tt.opset, tt.lines...)
		if err := Infer(m); err != nil {
			t.Error(err)
		}
		if got := typeText(m.Graph.Outputs[0].Type); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.lines, got, tt.want)
		}
	}
}

func TestInferDeclared(t *testing.T) {
	// What is declared fills in for an unknown operator, and must agree.
	m := program(t, 23, "x = f[N,4]", "a = Whatever(x)", "y = Add(a,x)")
	m.Graph.Values = []*Value{{Name: "a", Type: typeOf("f[M,1]"), Doc: "kept"}, {Name: "gone", Type: typeOf("f[]")}}
	m.Graph.Outputs[0].Type = typeOf("f[out,4]")
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "output", typeText(m.Graph.Outputs[0].Type), "f[out,4]")
	mustEqual(t, "values", []string{m.Graph.Values[0].Name, m.Graph.Values[0].Doc}, []string{"a", "kept"})
	mustEqual(t, "number of values", len(m.Graph.Values), 1)

	for _, declared := range []string{"f[N,5]", "i[N,4]", "f[N,4,1]"} {
		m = program(t, 23, "x = f[N,4]", "y = Erf(x)")
		m.Graph.Outputs[0].Type = typeOf(declared)
		if err := Infer(m); err == nil || !strings.Contains(err.Error(), "declared") {
			t.Errorf("declared as %s: %v", declared, err)
		}
	}
}

func TestInferControl(t *testing.T) {
	branch := func(shape string) *Graph {
		g := graphOf("", "t", node("Expand(x,"+shape+")->t"))
		return g
	}
	m := program(t, 23, "c = b[]", "x = f[1,4]", "s1 = {2,4}", "s2 = {3,4}", "y = If(c)")
	m.Graph.Nodes[0].Attrs = []*Attr{GraphAttr("then_branch", branch("s1")), GraphAttr("else_branch", branch("s2"))}
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "If", typeText(m.Graph.Outputs[0].Type), "f[?y.0,4]")
	mustEqual(t, "its branch", typeText(m.Graph.Nodes[0].Attr("then_branch").Graph.Outputs[0].Type), "f[2,4]")

	// A branch that contradicts what it is given is never taken; not both can.
	m = program(t, 23, "c = b[]", "x = f[1,4]", "s1 = {2,4}", "s2 = {2,3}", "y = If(c)")
	m.Graph.Nodes[0].Attrs = []*Attr{GraphAttr("then_branch", branch("s1")), GraphAttr("else_branch", branch("s2"))}
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "If with one branch", typeText(m.Graph.Outputs[0].Type), "f[2,4]")
	m = program(t, 23, "c = b[]", "x = f[1,4]", "s2 = {2,3}", "y = If(c)")
	m.Graph.Nodes[0].Attrs = []*Attr{GraphAttr("then_branch", branch("s2")), GraphAttr("else_branch", branch("s2"))}
	if err := Infer(m); err == nil {
		t.Error("an If of two branches that contradict passes")
	}

	// A loop that appends a row each round, and collects what it is given.
	body := graphOf("i,c,a,same", "c,grown,same,x", node("Concat(a,x)->grown", IntAttr("axis", 0)))
	m = program(t, 23, "n = i[]", "c = b[]", "x = f[N,4]", "a,s,all = Loop(n,c,x,x)")
	m.Graph.Nodes[0].Attrs = []*Attr{GraphAttr("body", body)}
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range m.Graph.Outputs {
		got = append(got, typeText(v.Type))
	}
	mustEqual(t, "Loop", got, []string{"f[?a.0,4]", "f[N,4]", "f[?all.0,N,4]"})
	mustEqual(t, "its body", typeText(body.Outputs[1].Type), "f[?grown.0,4]")

	step := graphOf("sum,row", "next,row", node("Add(sum,row)->next"))
	m = program(t, 23, "z = f[4]", "x = f[N,4]", "total,rows = Scan(z,x) num_scan_inputs=1")
	m.Graph.Nodes[0].Attrs = append(m.Graph.Nodes[0].Attrs, GraphAttr("body", step))
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "Scan", typeText(m.Graph.Outputs[0].Type)+typeText(m.Graph.Outputs[1].Type), "f[4]f[N,4]")
}

func TestInferFunctions(t *testing.T) {
	inner := fn("Inner", "a", "b", node("Softmax(a)->t", RefAttr("axis", AttrInt, "axis")), node("Cast(t)->b", RefAttr("to", AttrInt, "to")))
	inner.Attrs, inner.Defaults = []string{"to"}, []*Attr{IntAttr("axis", -1)}
	outer := fn("Outer", "a", "b", node("f:Inner(a)->b", RefAttr("to", AttrInt, "type")))
	outer.Attrs = []string{"type"}
	m := modelOf(graphOf("x", "y", node("f:Outer(x)->y", IntAttr("type", 10))), inner, outer)
	m.Graph.Inputs[0].Type = typeOf("f[N,4]")
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "output", typeText(m.Graph.Outputs[0].Type), "h[N,4]")

	m.Graph.Nodes[0].Attrs[0].Int = 99
	if err := Infer(m); err == nil || !strings.Contains(err.Error(), "function f.Inner") {
		t.Errorf("a contradiction in a function: %v", err)
	}

	var bomb []*Function
	for i := range 40 {
		n := strconv.Itoa(i + 1)
		bomb = append(bomb, fn("G"+strconv.Itoa(i), "a", "c", node("f:G"+n+"(a)->b"), node("f:G"+n+"(b)->c")))
	}
	m = modelOf(graphOf("x", "y", node("f:G0(x)->y")), append(bomb, fn("G40", "a", "b", node("Neg(a)->b")))...)
	var le *LimitError
	if _, err := infer(m, true, 10000); !errors.As(err, &le) {
		t.Errorf("a bomb: %v", err)
	}
	m.Functions = []*Function{fn("G0", "a", "b", node("f:G0(a)->b"))}
	if err := Infer(m); !errors.As(err, &le) {
		t.Errorf("a function that calls itself: %v", err)
	}
}

func TestInferContract(t *testing.T) {
	for _, kind := range []string{"plain", "softcap", "window"} {
		whole := mustLoad(t, testfiles.Shared(t, "contract", "paged_attention_"+kind+".onnx"))
		flat := whole.Clone()
		defer flat.Close()
		if err := Inline(flat, nil); err != nil {
			t.Fatal(err)
		}
		for _, m := range []*Model{whole, flat} {
			want := make([]string, len(m.Graph.Outputs))
			for i, v := range m.Graph.Outputs {
				want[i] = typeText(v.Type)
				v.Type = nil
			}
			if err := Infer(m); err != nil {
				t.Fatal(err)
			}
			for i, v := range m.Graph.Outputs {
				if got := typeText(v.Type); got != want[i] {
					t.Errorf("%s: output %s is %s, want %s", kind, v.Name, got, want[i])
				}
			}
		}
	}
}

// TestInferExports holds inferred types of outputs against those recorded from
// runs, with all that the models say of them taken away.
func TestInferExports(t *testing.T) {
	unknown := 0
	for _, dir := range testfiles.Exports(t) {
		m := mustLoad(t, dir)
		m.Graph.Values = nil
		for _, v := range m.Graph.Outputs {
			v.Type = nil
		}
		if err := Infer(m); err != nil {
			t.Errorf("%s: %v", filepath.Base(dir), err)
			continue
		}
		for i, v := range m.Graph.Outputs {
			data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", "output_"+strconv.Itoa(i)+".pb"))
			if err != nil {
				t.Fatal(err)
			}
			_, want, err := ParseTensor(data)
			if err != nil {
				t.Fatal(err)
			}
			if v.Type == nil || v.Type.Elem != want.DType {
				t.Errorf("%s: output %s is %s, want %s", filepath.Base(dir), v.Name, typeText(v.Type), want.DType)
				continue
			}
			if !v.Type.HasShape {
				unknown++
				continue
			}
			for k, d := range v.Type.Dims {
				if d.Size < 0 {
					unknown++
				} else if k >= len(want.Shape) || d.Size != want.Shape[k] {
					t.Errorf("%s: output %s is %s, want %v", filepath.Base(dir), v.Name, typeText(v.Type), want.Shape)
				}
			}
		}
	}
	if unknown > 0 {
		t.Errorf("%d dimensions of outputs are unknown", unknown)
	}
}

func TestInferBoundsMemory(t *testing.T) {
	lines := []string{"v0 = i[1,1]"}
	for i := range 60 {
		n := strconv.Itoa(i)
		lines = append(lines, "v"+strconv.Itoa(i+1)+" = Gather(v"+n+",v"+n+")")
	}
	var ie *InferError
	if err := Infer(program(t, 23, lines...)); !errors.As(err, &ie) || !strings.Contains(err.Error(), "rank") {
		t.Errorf("a rank that doubles: %v", err)
	}
	m := program(t, 23, "x = f[A,B,C]", "s = Shape(x)", "y = Mul(s,s)")
	f := &inferrer{budget: 100, facts: maxFacts, all: map[*Graph]map[string]*value{}}
	s, err := f.graph(m.Graph, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v := s.values["y"]; v.elem != tensor.Int64 || v.ranked || v.data != nil {
		t.Errorf("past the bound it knows %+v", v)
	}
}

func BenchmarkInfer(b *testing.B) {
	m, err := Load(testfiles.Shared(b, "onnx", "rwkv"))
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.ReportAllocs()
	for b.Loop() {
		m.Graph.Values = nil
		if err := Infer(m); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(m.Graph.Nodes)), "nodes")
}
