package reference

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// microsoftVector is a file that testdata/microsoft.py writes.
type microsoftVector struct {
	name  string // OPERATOR/CASE
	model *graph.Model
	want  map[string]tensor.Tensor
}

func microsoftVectors(t *testing.T) []microsoftVector {
	root := filepath.Join("testdata", "microsoft")
	paths, err := filepath.Glob(filepath.Join(root, "*", "*.onnx"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no vectors in %s: %v", root, err)
	}
	var all []microsoftVector
	for _, path := range paths {
		m, err := graph.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		op := filepath.Base(filepath.Dir(path))
		v := microsoftVector{name: op + "/" + strings.TrimSuffix(filepath.Base(path), ".onnx"), model: m, want: map[string]tensor.Tensor{}}
		for _, in := range m.Graph.Initializers {
			if out, ok := strings.CutPrefix(in.Name, "want."); ok {
				v.want[out] = in.Tensor
			}
		}
		if len(v.want) != len(m.Graph.Outputs) || len(v.want) == 0 {
			t.Fatalf("%s: %d results for %d outputs", v.name, len(v.want), len(m.Graph.Outputs))
		}
		all = append(all, v)
	}
	return all
}

// near compares floating-point numbers by the largest one, NaN in want for any;
// of integers, those that lie off by one must be few: where a quotient is close to
// a half, kernels of float32 round another way.
func near(got, want tensor.Tensor) error {
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		return fmt.Errorf("is %s, want %s", describeTensor(got), describeTensor(want))
	}
	if err := got.Check(); err != nil {
		return err
	}
	largest := 1e-3
	for i := range want.Len() {
		if v := math.Abs(floatAt(want, i)); v > largest && !math.IsInf(v, 0) {
			largest = v
		}
	}
	tolerance := map[tensor.DType]float64{tensor.Float32: 2e-6, tensor.Float64: 1e-12, tensor.Float16: 2e-3}[want.DType] * largest
	off := 0
	for i := range want.Len() {
		a, b := floatAt(got, i), floatAt(want, i)
		if b != b || math.Abs(a-b) <= tolerance || a == b {
			continue
		}
		if bits := want.DType.Bits(); want.DType.IsInt() && bits <= 8 && math.Abs(a-b) == 1 {
			off++
			continue
		}
		return fmt.Errorf("element %d of %s is %v, want %v", i, describeTensor(got), a, b)
	}
	if off > want.Len()/25 {
		return fmt.Errorf("%d of %d elements are off by one", off, want.Len())
	}
	return nil
}

// TestMicrosoftVectors compares the operators of com.microsoft with what ONNX
// Runtime computed.
func TestMicrosoftVectors(t *testing.T) {
	byOp := map[string]int{}
	for _, v := range microsoftVectors(t) {
		op, _, _ := strings.Cut(v.name, "/")
		byOp[op]++
		p, err := New(v.model, Options{})
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		got, err := p.Run(context.Background(), nil, nil)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		for name, want := range v.want {
			if err := near(got[name], want); err != nil {
				t.Errorf("%s: %s %v", v.name, name, err)
			}
		}
	}
	total := 0
	for _, n := range byOp {
		total += n
	}
	t.Logf("%d cases of %d operators", total, len(byOp))
}

// ours are how operators of com.microsoft differ from their schemas, on purpose:
// what is wrong with them, and why.
var ours = map[string]string{
	"GroupQueryAttention: does not take tensor(float8e4m3fn)": "the schema does not say how scales go with it, and only CUDA has it",
	"QMoE: does not take tensor(float8e4m3fn)":                "experts of integers are all that is made",
	"QMoE: does not take tensor(float8e8m0)":                  "experts of integers are all that is made",
}

// TestMicrosoftSchemas compares the operator table with ONNX Runtime's schemas.
func TestMicrosoftSchemas(t *testing.T) {
	var schemas []schema
	readJSON(t, filepath.Join("testdata", "microsoft", "schemas.json"), &schemas)
	known, used := map[string]bool{}, map[string]bool{}
	for _, s := range schemas {
		known[s.Name] = true
		op, ok := Lookup(graph.DomainMicrosoft, s.Name, 1)
		if !ok {
			t.Errorf("%s is not registered", s.Name)
			continue
		}
		for _, why := range compareSchema(op, s) {
			fault := s.Name + ": " + why
			excused := false
			for known := range ours {
				if op, what, _ := strings.Cut(known, ": "); s.Name == op && strings.HasSuffix(fault, what) {
					excused, used[known] = true, true
				}
			}
			if !excused {
				t.Error(fault)
			}
		}
	}
	for what := range ours {
		if !used[what] {
			t.Errorf("nothing differs any more as in %q", what)
		}
	}
	for _, s := range microsoftOps {
		if !known[s.name] && s.name != "SimplifiedLayerNormalization" { // which ONNX Runtime has in the default domain only
			t.Errorf("%s has no vectors", s.name)
		}
	}
}

// Shape inference tells what the operators give, from constants exactly, and from
// types of inputs nothing that is not so.
func TestMicrosoftInference(t *testing.T) {
	for _, v := range microsoftVectors(t) {
		for _, way := range []string{"constants", "inputs"} {
			m := v.model.Clone()
			defer m.Close()
			if way == "inputs" {
				for _, in := range m.Graph.Initializers {
					ty := graph.TensorType(in.Tensor.DType)
					for _, d := range in.Tensor.Shape {
						ty.Dims = append(ty.Dims, graph.Known(d))
					}
					m.Graph.Inputs = append(m.Graph.Inputs, &graph.Value{Name: in.Name, Type: ty})
				}
				m.Graph.Initializers = nil
			}
			for _, o := range m.Graph.Outputs {
				o.Type = nil
			}
			if err := graph.Infer(m); err != nil {
				t.Errorf("%s, %s: %v", v.name, way, err)
				continue
			}
			for _, o := range m.Graph.Outputs {
				want := v.want[o.Name]
				ok := o.Type != nil && o.Type.Elem == want.DType && o.Type.HasShape && len(o.Type.Dims) == len(want.Shape)
				for i := 0; ok && i < len(want.Shape); i++ {
					known := o.Type.Dims[i].Param == "" && o.Type.Dims[i].Size >= 0
					ok = known && o.Type.Dims[i].Size == want.Shape[i] || !known && way == "inputs"
				}
				if !ok {
					t.Errorf("%s, %s: %s is inferred as %+v, it is %s", v.name, way, o.Name, o.Type, describeTensor(want))
				}
			}
			if flops, ok := graph.FLOPs(m.Graph.Nodes[0], m.Graph.Types()); way == "constants" && (!ok || flops < 0) {
				t.Errorf("%s: its FLOPs are not known", v.name)
			}
		}
	}
}

// call is the vector's node and its inputs.
func (v microsoftVector) call() (*graph.Node, []graph.Datum) {
	n := *v.model.Graph.Nodes[0]
	n.Attrs = slices.Clone(n.Attrs)
	var in []graph.Datum
	for _, name := range n.Inputs {
		d := graph.Datum{}
		for _, i := range v.model.Graph.Initializers {
			if name != "" && i.Name == name {
				d = tensorValue(i.Tensor)
			}
		}
		in = append(in, d)
	}
	return &n, in
}

// Calls that are nearly right are refused or computed, never a panic, and what is
// refused is so by a typed error.
func TestMutatedMicrosoftVectors(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 4
	}
	ran, refused := 0, 0
	for k, v := range microsoftVectors(t) {
		for seed := range seeds {
			r := randomCall{rand.New(rand.NewPCG(uint64(k)<<16|seed, 3))}
			n, in := v.call()
			for range 1 + r.IntN(2) {
				r.mutate(in, []*graph.Node{n})
			}
			o, ok := Lookup(n.Domain, n.OpType, v.model.Opsets[n.Domain])
			if !ok {
				t.Fatalf("%s is not registered", v.name)
			}
			// Paddings may become vast: that is what contexts are for.
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			out, err := o.Eval(ctx, n, in, Env{MaxBytes: 64 << 20})
			cancel()
			var internal *InternalError
			var blamed *NodeError
			switch {
			case errors.As(err, &internal):
				t.Fatalf("%s, seed %d: %v", v.name, seed, err)
			case err == nil:
				ran++
				for i, d := range out {
					if d.Kind == graph.KindTensor {
						if err := d.Tensor.Check(); err != nil {
							t.Fatalf("%s, seed %d: output %d: %v", v.name, seed, i, err)
						}
					}
				}
			case errors.Is(err, context.DeadlineExceeded):
			case !errors.As(err, &blamed):
				t.Errorf("%s, seed %d: %v is not typed", v.name, seed, err)
			default:
				refused++
			}
		}
	}
	t.Logf("%d calls ran, %d were refused", ran, refused)
	if ran == 0 || refused == 0 {
		t.Error("all calls went one way")
	}
}

// Packed forms, for which ONNX Runtime's CPU kernels are not made, mean what the
// others do; so do the newest inputs of GroupQueryAttention.
func TestMicrosoftForms(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	const b, s, l, h, d = 2, 3, 5, 2, 8
	x := func(shape ...int64) tensor.Tensor { return randomFloats(r, shape) }
	q, k, v := x(b, s, h*d), x(b, l, h*d), x(b, l, h*d)
	bias, none := x(3*h*d), tensor.Tensor{}
	// packed puts tensors [B,L,H*D] side by side as [B,L,H,n,D].
	packed := func(ts ...tensor.Tensor) tensor.Tensor {
		length := ts[0].Shape[1]
		out := zeros(t, tensor.Float32, tensor.Shape{b, length, h, int64(len(ts)), d})
		for i, one := range ts {
			for row := range int(b * length * h) {
				move(out, (row*len(ts)+i)*d, one, row*d, d)
			}
		}
		return out
	}
	// byHead turns [B,L,H*D] into [B,H,L,D].
	byHead := func(one tensor.Tensor) tensor.Tensor {
		length := int(one.Shape[1])
		out := zeros(t, tensor.Float32, tensor.Shape{b, h, int64(length), d})
		for i := range b {
			for p := range length {
				for n := range h {
					move(out, ((i*h+n)*length+p)*d, one, ((i*length+p)*h+n)*d, d)
				}
			}
		}
		return out
	}
	eval := func(op string, outputs int, attrs []*graph.Attr, in ...tensor.Tensor) []graph.Datum {
		t.Helper()
		out, err := evalOp(graph.DomainMicrosoft, op, values(in...), outputs, attrs...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	same := func(name string, got, want []graph.Datum, tolerance float64) {
		t.Helper()
		for i := range want {
			if rel, err := worst(got[i].Tensor, want[i].Tensor); err != nil || rel > tolerance {
				t.Errorf("%s: output %d differs by %g: %v", name, i, rel, err)
			}
		}
	}
	heads := []*graph.Attr{graph.IntAttr("num_heads", h)}
	const mha = "MultiHeadAttention"
	self := x(b, s, h*d)
	same("packed queries, keys and values", eval(mha, 3, heads, packed(q, self, self), none, none, bias), eval(mha, 3, heads, q, self, self, bias), 0)
	same("packed keys and values", eval(mha, 3, heads, q, packed(k, v), none, bias), eval(mha, 3, heads, q, k, v, bias), 0)
	same("keys and values by head", eval(mha, 1, heads, q, byHead(k), byHead(v)), eval(mha, 1, heads, q, k, v), 0)

	// A mask of positions, of which the rows and columns in use are cut out.
	input, weights, square := x(b, s, 6), x(6, 3*h*d), zeros(t, tensor.Int32, tensor.Shape{b, 1, 7, 7})
	for i := range square.Len() {
		putInt(square, i, int64(r.IntN(2)))
	}
	past := x(2, b, h, 2, d)
	cut := zeros(t, tensor.Int32, tensor.Shape{b, s, s + 2})
	for i := range cut.Len() {
		batch, row, col := i/(s*(s+2)), i/(s+2)%s, i%(s+2)
		putInt(cut, i, intAt(square, (batch*7+2+row)*7+col))
	}
	same("a mask by position", eval("Attention", 2, heads, input, weights, none, square, past), eval("Attention", 2, heads, input, weights, none, cut, past), 0)

	// Norms of queries and keys before rotation.
	attrs := []*graph.Attr{graph.IntAttr("num_heads", h), graph.IntAttr("kv_num_heads", h)}
	ends, total := tensor.Of(tensor.Int32, tensor.Shape{b}, []int32{s - 1, s - 1}), tensor.Of(tensor.Int32, tensor.Shape{}, []int32{s})
	qw, kw := x(d), x(d)
	normed := func(one, w tensor.Tensor) tensor.Tensor {
		out, err := evalOp("", "RMSNormalization", values(reshaped(one, tensor.Shape{b, s, h, d}), w), 1, graph.FloatAttr("epsilon", 1e-6))
		if err != nil {
			t.Fatal(err)
		}
		return reshaped(out[0].Tensor, tensor.Shape{b, s, h * d})
	}
	const gqa = "GroupQueryAttention"
	same("norms", eval(gqa, 3, attrs, q, self, self, none, none, ends, total, none, none, none, none, none, none, none, qw, kw),
		eval(gqa, 3, attrs, normed(q, qw), normed(self, kw), self, none, none, ends, total), 1e-6)
}

// Gates and what they gate may be interleaved, side by side, or layers of their own.
func TestMicrosoftExperts(t *testing.T) {
	const e, h, inter = 3, 8, 4
	x, router, gate, up, down := randomTensor(5, h), randomFloats(rand.New(rand.NewPCG(1, 23)), tensor.Shape{5, e}), randomTensor(e, inter, h),
		randomFloats(rand.New(rand.NewPCG(2, 23)), tensor.Shape{e, inter, h}), randomTensor(e, h, inter)
	mixed, joined := zeros(t, tensor.Float32, tensor.Shape{e, 2 * inter, h}), zeros(t, tensor.Float32, tensor.Shape{e, 2 * inter, h})
	for i := range e {
		for r := range inter {
			for at, w := range []tensor.Tensor{gate, up} {
				move(mixed, (i*2*inter+2*r+at)*h, w, (i*inter+r)*h, h)
				move(joined, (i*2*inter+at*inter+r)*h, w, (i*inter+r)*h, h)
			}
		}
	}
	var want tensor.Tensor
	for fusion, in := range [][]tensor.Tensor{{x, router, gate, {}, down, {}, up}, {x, router, mixed, {}, down}, {x, router, joined, {}, down}} {
		out, err := evalOp(graph.DomainMicrosoft, "MoE", values(in...), 1, graph.StringAttr("activation_type", "swiglu"), graph.IntAttr("swiglu_fusion", int64(fusion)),
			graph.IntAttr("k", 2), graph.FloatAttr("activation_beta", 1), graph.FloatAttr("swiglu_limit", 1.5))
		if err != nil {
			t.Fatal(err)
		}
		if fusion == 0 {
			want = out[0].Tensor
		} else if err := sameTensor(out[0].Tensor, want, 0, 0); err != nil {
			t.Errorf("swiglu_fusion %d: %v", fusion, err)
		}
	}
}

// What contradicts itself is refused, and the input blamed.
func TestMicrosoftRefuses(t *testing.T) {
	x := randomTensor
	none := tensor.Tensor{}
	i32 := func(s tensor.Shape, v ...int32) tensor.Tensor { return tensor.Of(tensor.Int32, s, v) }
	u8 := func(s ...int64) tensor.Tensor { return zeros(t, tensor.Uint8, s) }
	ai := graph.IntAttr
	nbits := func(k, n, bits, block int64) []*graph.Attr {
		return []*graph.Attr{ai("K", k), ai("N", n), ai("bits", bits), ai("block_size", block)}
	}
	heads := func(n int64) []*graph.Attr { return []*graph.Attr{ai("num_heads", n)} }
	groups := func(n, kv int64, more ...*graph.Attr) []*graph.Attr {
		return append([]*graph.Attr{ai("num_heads", n), ai("kv_num_heads", kv)}, more...)
	}
	q, one := x(1, 2, 16), i32(tensor.Shape{}, 2)
	for _, tt := range []struct {
		name, op string
		input    int // to blame, -1 for none
		attrs    []*graph.Attr
		in       []tensor.Tensor
	}{
		{"3 bits", "MatMulNBits", -1, nbits(32, 3, 3, 16), []tensor.Tensor{x(2, 32), u8(3, 2, 6), x(3, 2)}},
		{"a block of 24", "MatMulNBits", -1, nbits(48, 3, 4, 24), []tensor.Tensor{x(2, 48), u8(3, 2, 12), x(3, 2)}},
		{"packed for a device", "MatMulNBits", -1, append(nbits(32, 3, 4, 16), ai("weight_prepacked", 1)), []tensor.Tensor{x(2, 32), u8(3, 2, 8), x(3, 2)}},
		{"few weights", "MatMulNBits", 1, nbits(32, 3, 4, 16), []tensor.Tensor{x(2, 32), u8(3, 2, 7), x(3, 2)}},
		{"few scales", "MatMulNBits", 2, nbits(32, 3, 4, 16), []tensor.Tensor{x(2, 32), u8(3, 2, 8), x(3, 1)}},
		{"few zero points", "MatMulNBits", 3, nbits(64, 3, 4, 16), []tensor.Tensor{x(2, 64), u8(3, 4, 8), x(3, 4), u8(3, 1)}},
		{"a group that is not there", "MatMulNBits", 4, nbits(16, 1, 4, 16), []tensor.Tensor{x(2, 16), u8(1, 1, 8), x(1, 1), none, i32(tensor.Shape{16}, make([]int32, 16)...)}},
		{"a bias of other columns", "MatMulNBits", 5, nbits(32, 3, 4, 16), []tensor.Tensor{x(2, 32), u8(3, 2, 8), x(3, 2), none, none, x(4)}},
		{"a wide A", "MatMulNBits", 0, nbits(32, 3, 4, 16), []tensor.Tensor{x(2, 33), u8(3, 2, 8), x(3, 2)}},
		{"a skip of another shape", "SkipLayerNormalization", 1, nil, []tensor.Tensor{x(2, 3, 8), x(2, 2, 8), x(8)}},
		{"a gamma of another width", "SkipLayerNormalization", 2, nil, []tensor.Tensor{x(2, 3, 8), x(2, 3, 8), x(7)}},
		{"vectors to normalise", "SkipSimplifiedLayerNormalization", 0, nil, []tensor.Tensor{x(8), x(8), x(8)}},
		{"a bias of another width", "BiasGelu", 1, nil, []tensor.Tensor{x(2, 8), x(7)}},
		{"a word that is not there", "EmbedLayerNormalization", 0, nil, []tensor.Tensor{i32(tensor.Shape{1, 2}, 0, 9), none, x(4, 8), x(4, 8), none, x(8), x(8)}},
		{"a negative word", "EmbedLayerNormalization", 0, nil, []tensor.Tensor{i32(tensor.Shape{1, 2}, 0, -1), none, x(4, 8), x(4, 8), none, x(8), x(8)}},
		{"few positions", "EmbedLayerNormalization", 3, nil, []tensor.Tensor{i32(tensor.Shape{1, 2}, 0, 1), none, x(4, 8), x(1, 8), none, x(8), x(8)}},
		{"segments without a table", "EmbedLayerNormalization", -1, nil, []tensor.Tensor{i32(tensor.Shape{1, 2}, 0, 1), i32(tensor.Shape{1, 2}, 0, 1), x(4, 8), x(4, 8), none, x(8), x(8)}},
		{"inner dimensions", "FusedMatMul", -1, []*graph.Attr{ai("transA", 1)}, []tensor.Tensor{x(3, 4), x(4, 5)}},
		{"a batch that is none", "FusedMatMul", 0, []*graph.Attr{ai("transBatchA", 1)}, []tensor.Tensor{x(3, 4), x(4, 5)}},
		{"an unknown activation", "FusedGemm", -1, []*graph.Attr{graph.StringAttr("activation", "Cosh")}, []tensor.Tensor{x(3, 4), x(4, 5)}},
		{"an activation without its numbers", "FusedConv", -1, []*graph.Attr{graph.StringAttr("activation", "Clip")}, []tensor.Tensor{x(1, 1, 3, 3), x(1, 1, 3, 3)}},
		{"a sum of another shape", "FusedConv", 3, nil, []tensor.Tensor{x(1, 1, 3, 3), x(1, 1, 3, 3), none, x(1, 1, 2, 1)}},
		{"a table of 3 bits", "GatherBlockQuantized", -1, []*graph.Attr{ai("bits", 3)}, []tensor.Tensor{u8(4, 16), i32(tensor.Shape{1}, 0), x(4, 1)}},
		{"few scales of a table", "GatherBlockQuantized", 2, []*graph.Attr{ai("block_size", 16)}, []tensor.Tensor{u8(4, 16), i32(tensor.Shape{1}, 0), x(4, 1)}},
		{"bytes gathered along the packed axis", "GatherBlockQuantized", -1, []*graph.Attr{ai("block_size", 16), ai("gather_axis", 1)}, []tensor.Tensor{u8(4, 16), i32(tensor.Shape{1}, 0), x(4, 2)}},
		{"heads that do not divide", "MultiHeadAttention", 0, heads(3), []tensor.Tensor{q, q, q}},
		{"no heads", "MultiHeadAttention", 0, heads(0), []tensor.Tensor{q, q, q}},
		{"no keys", "MultiHeadAttention", 1, heads(2), []tensor.Tensor{q}},
		{"keys of another batch", "MultiHeadAttention", 1, heads(2), []tensor.Tensor{q, x(2, 2, 16), x(2, 2, 16)}},
		{"values of another length", "MultiHeadAttention", 2, heads(2), []tensor.Tensor{q, q, x(1, 3, 16)}},
		{"a bias of queries only", "MultiHeadAttention", 3, heads(2), []tensor.Tensor{q, q, q, x(16)}},
		{"a mask of other keys", "MultiHeadAttention", 4, heads(2), []tensor.Tensor{q, q, q, none, i32(tensor.Shape{1, 3}, 1, 1, 1)}},
		{"cumulated lengths", "MultiHeadAttention", 4, heads(2), []tensor.Tensor{q, q, q, none, i32(tensor.Shape{5}, 2, 0, 2, 0, 2)}},
		{"a bias of other keys", "MultiHeadAttention", 5, heads(2), []tensor.Tensor{q, q, q, none, none, x(1, 2, 2, 1)}},
		{"past keys alone", "MultiHeadAttention", -1, heads(2), []tensor.Tensor{q, q, q, none, none, none, x(1, 2, 3, 8)}},
		{"past keys of other heads", "MultiHeadAttention", 6, heads(2), []tensor.Tensor{q, q, q, none, none, none, x(1, 3, 3, 8), x(1, 3, 3, 8)}},
		{"beams", "MultiHeadAttention", 9, heads(2), []tensor.Tensor{q, q, q, none, none, none, none, none, none, i32(tensor.Shape{1, 1, 1}, 0)}},
		{"two queries for a decoder", "DecoderMaskedMultiHeadAttention", 0, heads(2), []tensor.Tensor{q, q, q}},
		{"weights of other rows", "Attention", -1, heads(2), []tensor.Tensor{x(1, 2, 6), x(5, 48)}},
		{"sizes that do not add up", "Attention", -1, append(heads(2), graph.IntsAttr("qkv_hidden_sizes", 16, 16, 8)), []tensor.Tensor{x(1, 2, 6), x(6, 48)}},
		{"a past of other heads", "Attention", 4, heads(2), []tensor.Tensor{x(1, 2, 6), x(6, 48), none, none, x(2, 1, 3, 1, 8)}},
		{"rotation", "Attention", -1, append(heads(2), ai("do_rotary", 1)), []tensor.Tensor{x(1, 2, 6), x(6, 48)}},
		{"groups that do not divide", "GroupQueryAttention", -1, groups(4, 3), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 1), one}},
		{"a total below the chunk", "GroupQueryAttention", 6, groups(2, 2), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 0), i32(tensor.Shape{}, 1)}},
		{"a sequence beyond the total", "GroupQueryAttention", 5, groups(2, 2), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 2), one}},
		{"a past that is too short", "GroupQueryAttention", 5, groups(2, 2), []tensor.Tensor{q, q, q, x(1, 2, 1, 8), x(1, 2, 1, 8), i32(tensor.Shape{1}, 4), i32(tensor.Shape{}, 5)}},
		{"past values of another length", "GroupQueryAttention", 4, groups(2, 2), []tensor.Tensor{q, q, q, x(1, 2, 3, 8), x(1, 2, 2, 8), i32(tensor.Shape{1}, 4), i32(tensor.Shape{}, 5)}},
		{"rotation without caches", "GroupQueryAttention", -1, groups(2, 2, ai("do_rotary", 1)), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 1), one}},
		{"a position beyond the caches", "GroupQueryAttention", 7, groups(2, 2, ai("do_rotary", 1)), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 1), one, x(1, 4), x(1, 4)}},
		{"a window that looks both ways", "GroupQueryAttention", -1, groups(2, 2, ai("causal", 0), ai("local_window_size", 2)), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 1), one}},
		{"a cache that evicts", "GroupQueryAttention", -1, groups(2, 2, ai("sliding_window_cache", 1)), []tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 1), one}},
		{"a quantised cache without scales", "GroupQueryAttention", 12, groups(2, 2, ai("kv_cache_bit_width", 8), graph.StringAttr("k_quant_type", "PER_TENSOR")),
			[]tensor.Tensor{q, q, q, none, none, i32(tensor.Shape{1}, 1), one}},
		{"a position beyond the table", "RotaryEmbedding", 1, nil, []tensor.Tensor{q, tensor.Ints(tensor.Shape{1, 2}, 0, 9), x(4, 4), x(4, 4)}},
		{"tables of two shapes", "RotaryEmbedding", 3, nil, []tensor.Tensor{q, tensor.Ints(tensor.Shape{1}, 0), x(4, 4), x(3, 4)}},
		{"a table that is too wide", "RotaryEmbedding", 2, append(heads(4), ai("rotary_embedding_dim", 4)), []tensor.Tensor{q, tensor.Ints(tensor.Shape{1}, 0), x(4, 8), x(4, 8)}},
		{"two scales", "QLinearSigmoid", 1, nil, []tensor.Tensor{u8(4), x(2), none, x(1), u8(1)}},
		{"shapes that do not broadcast", "QLinearAdd", -1, nil, []tensor.Tensor{u8(4), x(1), u8(1), u8(3), x(1), u8(1), x(1), u8(1)}},
		{"a tensor without its scale", "QLinearConcat", -1, []*graph.Attr{ai("axis", 0)}, []tensor.Tensor{x(1), u8(1), u8(4), x(1)}},
		{"tensors in the wrong order", "QLinearConcat", 2, []*graph.Attr{ai("axis", 0)}, []tensor.Tensor{x(1), u8(1), x(1), u8(4), u8(1)}},
		{"more experts than there are", "MoE", -1, []*graph.Attr{ai("k", 3)}, []tensor.Tensor{x(1, 4), x(1, 2), x(2, 3, 4), none, x(2, 4, 3)}},
		{"a router of other tokens", "MoE", 1, nil, []tensor.Tensor{x(2, 4), x(1, 2), x(2, 3, 4), none, x(2, 4, 3)}},
		{"layers that do not follow", "MoE", 4, nil, []tensor.Tensor{x(1, 4), x(1, 2), x(2, 3, 4), none, x(2, 4, 4)}},
		{"gates without a layer", "MoE", -1, []*graph.Attr{graph.StringAttr("activation_type", "swiglu")}, []tensor.Tensor{x(1, 4), x(1, 2), x(2, 3, 4), none, x(2, 4, 3)}},
		{"experts of 3 bits", "QMoE", -1, []*graph.Attr{ai("expert_weight_bits", 3)}, []tensor.Tensor{x(1, 4), x(1, 2), u8(2, 4, 2), x(2, 4), none, u8(2, 4, 2), x(2, 4)}},
		{"experts without scales", "QMoE", 3, nil, []tensor.Tensor{x(1, 4), x(1, 2), u8(2, 4, 2), none, none, u8(2, 4, 2), x(2, 4)}},
		{"a picture that is not there", "CropAndResize", 2, nil, []tensor.Tensor{x(1, 1, 4, 4), x(1, 4), i32(tensor.Shape{1}, 1), i32(tensor.Shape{2}, 1, 1)}},
		{"a window that does not fit", "UnfoldTensor", -1, []*graph.Attr{ai("size", 5)}, []tensor.Tensor{x(2, 4)}},
	} {
		if tt.name == "a group that is not there" {
			putInt(tt.in[4], 3, 7)
		}
		_, err := evalOp(graph.DomainMicrosoft, tt.op, values(tt.in...), 1, tt.attrs...)
		var n *NodeError
		if !errors.As(err, &n) || n.Input != tt.input {
			t.Errorf("%s, %s: got %v, want input %d to be blamed", tt.op, tt.name, err, tt.input)
		}
	}
}
