package graph

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// textEncoder builds a text encoder of one layer with shapes computed in the graph.
func textEncoder(t testing.TB) *Model {
	t.Helper()
	b := NewBuilder("encoder")
	f32 := func(name string, dims ...int64) string {
		v, err := tensor.New(tensor.Float32, dims)
		if err != nil {
			t.Fatal(err)
		}
		return b.Tensor(name, v)
	}
	ids := b.Input("input_ids", TensorType(tensor.Int64, Sym("batch"), Sym("seq")))
	mask := b.Input("attention_mask", TensorType(tensor.Int64, Sym("batch"), Sym("seq")))
	positions := b.Const(tensor.Ints(tensor.Shape{1, 16}, make([]int64, 16)...))

	shape := b.Op("Shape", []string{ids})
	batch := b.Op("Gather", []string{shape, b.Ints(0)})
	seq := b.Op("Gather", []string{shape, b.Ints(1)})
	pos := b.Op("Slice", []string{positions, b.Ints(0), seq, b.Ints(1)})
	x := b.Op("Gather", []string{f32("words", 100, 32), ids})
	x = b.Op("Add", []string{x, b.Op("Gather", []string{f32("places", 16, 32), pos})})
	x = b.Op("LayerNormalization", []string{x, f32("ln.w", 32), f32("ln.b", 32)})

	m := b.Op("Unsqueeze", []string{b.Op("Cast", []string{mask}, IntAttr("to", int64(tensor.Bool))), b.Ints(1, 2)})
	full := b.Op("Expand", []string{m, b.Op("Concat", []string{batch, b.Ints(1), seq, seq}, IntAttr("axis", 0))})
	heads := b.Op("Concat", []string{batch, seq, b.Ints(4, -1)}, IntAttr("axis", 0))
	split := func(name string) string {
		h := b.Op("Gemm", []string{b.Op("Reshape", []string{x, b.Ints(-1, 32)}), f32(name, 32, 32)}, IntAttr("transB", 1))
		return b.Op("Transpose", []string{b.Op("Reshape", []string{h, heads})}, IntsAttr("perm", 0, 2, 1, 3))
	}
	a := b.Op("Attention", []string{split("q"), split("k"), split("v"), full})
	a = b.Op("Reshape", []string{b.Op("Transpose", []string{a}, IntsAttr("perm", 0, 2, 1, 3)), b.Op("Concat", []string{batch, seq, b.Ints(-1)}, IntAttr("axis", 0))})
	x = b.Op("Add", []string{x, a})
	h := b.Op("Gelu", []string{b.Op("MatMul", []string{x, f32("up", 32, 64)})})
	x = b.Op("Add", []string{x, b.Op("MatMul", []string{h, f32("down", 64, 32)})})
	b.Output("hidden", x, nil)
	b.Output("pooled", b.Op("ReduceMean", []string{x, b.Ints(1)}, IntAttr("keepdims", 0)), nil)
	model, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return model
}

func TestBind(t *testing.T) {
	m := textEncoder(t)
	if err := Infer(m); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "symbols", m.Symbols(), []string{"batch", "seq"})
	types := func() string { return typeText(m.Graph.Outputs[0].Type) + " " + typeText(m.Graph.Outputs[1].Type) }
	mustEqual(t, "outputs", types(), "f[batch,seq,32] f[batch,32]")
	for name, ty := range m.Graph.Types() {
		for _, d := range ty.Dims {
			if d.Size < 0 && d.Param == "" {
				t.Errorf("%s is %s", name, typeText(ty))
			}
		}
	}
	if f, ok := TotalFLOPs(m.Graph); ok {
		t.Errorf("%d FLOPs of symbolic shapes", f)
	}

	half := m.Clone()
	if err := Bind(half, map[string]int64{"seq": 8}); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "with one symbol bound", typeText(half.Graph.Outputs[0].Type), "f[batch,8,32]")
	mustEqual(t, "symbols left", half.Symbols(), []string{"batch"})
	// The half-bound model can be bound further.
	if err := Bind(half, map[string]int64{"batch": 2}); err != nil {
		t.Fatal(err)
	}

	before := len(m.Graph.Nodes)
	if err := Bind(m, map[string]int64{"batch": 2, "seq": 8}); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "bound in two steps", fmt.Sprint(text(half.Graph.Nodes)), fmt.Sprint(text(m.Graph.Nodes)))
	mustEqual(t, "outputs", types(), "f[2,8,32] f[2,32]")
	if err := m.Check(); err != nil {
		t.Error(err)
	}
	for _, n := range m.Graph.Nodes {
		switch n.OpType {
		case "Shape", "Concat", "Slice":
			t.Errorf("node %s is left of %d", n.Label(), before)
		}
	}
	for name, ty := range m.Graph.Types() {
		if _, ok := ty.Bytes(); !ok {
			t.Errorf("%s is %s", name, typeText(ty))
		}
	}
	// 3 x 32x32 projections, attention, MLP, and the elementwise rest.
	rows := int64(2 * 8)
	want := rows*32*32*2*3 + 2*2*4*8*8*(8+8) + rows*32*64*2*2 + rows*(32+32+32+64+32+32)
	if f, ok := TotalFLOPs(m.Graph); !ok || f != want {
		t.Errorf("%d FLOPs, %v, want %d", f, ok, want)
	}
}

func TestBindRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sizes map[string]int64
		want  string
	}{
		{"unknown name", map[string]int64{"length": 3}, "they have batch, seq"},
		{"empty name", map[string]int64{"": 3}, "no input"},
		{"negative", map[string]int64{"seq": -3}, "can't be -3"},
		{"past the table of places", map[string]int64{"batch": 1, "seq": 17}, "Add"},
	} {
		m := textEncoder(t)
		before := marshal(t, m)
		err := Bind(m, tt.sizes)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
		var be *BindError
		if tt.want != "Add" && !errors.As(err, &be) {
			t.Errorf("%s: error is a %T", tt.name, err)
		}
		mustEqualBytes(t, tt.name, marshal(t, m), before)
	}
}

func TestBindExpressions(t *testing.T) {
	m := program(t, 23, "x = f[B,past + S]", "z = f[B,total-len]", "y = Concat(x,z) axis=1")
	mustEqual(t, "symbols", m.Symbols(), []string{"B", "S", "past", "total-len"})
	a := m.Clone()
	if err := Bind(a, map[string]int64{"past": 3, "S": 2, "total-len": 4}); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "by name", typeText(a.Graph.Outputs[0].Type), "f[B,9]")
	if err := Bind(m, map[string]int64{"past + S": 3}); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "by expression", typeText(m.Graph.Outputs[0].Type), "f[B,total-len + 3]")
}

func TestBindKeepsMapping(t *testing.T) {
	dir := t.TempDir()
	if err := Save(textEncoder(t), dir, SaveOptions{External: 1}); err != nil {
		t.Fatal(err)
	}
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := m.files
	if err := Bind(m, map[string]int64{"batch": 1, "seq": 4}); err != nil {
		t.Fatal(err)
	}
	if err := Bind(m, map[string]int64{"none": 1}); err == nil {
		t.Error("an unknown name is bound")
	}
	mustEqual(t, "references", files.refs.Load(), int64(1))
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "references after Close", files.refs.Load(), int64(0))
}

func TestBindExports(t *testing.T) {
	before, after := 0, 0
	for _, dir := range testfiles.Exports(t) {
		m := mustLoad(t, dir)
		before += len(m.Graph.Nodes)
		want := typeText(m.Graph.Outputs[0].Type)
		if err := Bind(m, nil); err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		after += len(m.Graph.Nodes)
		if err := m.Check(); err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		if got := typeText(m.Graph.Outputs[0].Type); !strings.Contains(want, "_dim_") && got != want {
			t.Errorf("%s: output is %s, declared as %s", dir, got, want)
		}
	}
	t.Logf("%d nodes, %d after folding", before, after)
	if after >= before {
		t.Error("nothing was folded")
	}
}

func TestFLOPs(t *testing.T) {
	for _, tt := range []struct {
		lines []string
		want  int64 // -1: not known
	}{
		{[]string{"x = f[2,8,64]", "w = f[64,32]", "y = MatMul(x,w)"}, 2 * 2 * 8 * 64 * 32},
		{[]string{"x = f[N,8,64]", "w = f[64,32]", "y = MatMul(x,w)"}, -1},
		{[]string{"x = f[8,64]", "w = f[64,32]", "b = f[32]", "y = Gemm(x,w,b)"}, 2*8*64*32 + 8*32},
		{[]string{"x = f[64,8]", "w = f[64,32]", "y = Gemm(x,w) transA=1"}, 2 * 8 * 64 * 32},
		{[]string{"x = f[1,16,8,8]", "w = f[32,4,3,3]", "y = Conv(x,w) group=4 pads=[1,1,1,1]"}, 2 * 32 * 64 * 4 * 9},
		{[]string{"x = f[1,8,4,4]", "w = f[8,4,2,2]", "y = ConvTranspose(x,w) strides=[2,2]"}, 2 * 8 * 16 * 4 * 4},
		{[]string{"q = f[2,8,5,16]", "k = f[2,4,7,16]", "v = f[2,4,7,32]", "y = Attention(q,k,v)"}, 2 * 2 * 8 * 5 * 7 * (16 + 32)},
		{[]string{"q = f[2,5,128]", "k = f[2,7,64]", "v = f[2,7,64]", "p = f[2,4,3,16]", "y = Attention(q,k,v,,p,p) q_num_heads=8 kv_num_heads=4"}, 2 * 2 * 8 * 5 * 10 * (16 + 16)},
		{[]string{"q = f[6,8,64]", "k = f[6,4,64]", "kp = f[9,16,4,64]", "s = i[6]", "t = i[2,3]", "l = i[2]", "st = i[3]", "o,ko,vo = ai.accel:PagedAttention(q,k,k,kp,kp,s,t,l,st)"}, 2 * 6 * 8 * 3 * 16 * 128},
		{[]string{"x = f[5,64]", "w = u[32,2,16]", "s = f[64]", "y = com.microsoft:MatMulNBits(x,w,s) K=64 N=32"}, 2 * 5 * 64 * 32},
		{[]string{"w = u[32,24]", "s = f[32,2]", "i = i[5]", "y = ai.accel:GatherBlocks(w,s,,i) K=64 bits=3"}, 2 * 5 * 64},
		{[]string{"x = f[3,5,8]", "z = f[3,7,8]", "y = Einsum(x,z) equation=bsd,btd->bst"}, 2 * 3 * 5 * 7 * 8},
		{[]string{"x = f[3,2,16]", "w = f[1,32,16]", "r = f[1,32,8]", "y = LSTM(x,w,r)"}, 2*6*32*16 + 2*6*32*8},
		{[]string{"x = f[3,4]", "y = Erf(x)"}, 12},
		{[]string{"x = f[3,1]", "z = f[4]", "y = Add(x,z)"}, 12},
		{[]string{"x = f[3,4]", "y = ReduceSum(x)"}, 12},
		{[]string{"x = f[1,1,4,4]", "y = MaxPool(x) kernel_shape=[2,2] strides=[2,2]"}, 16},
		{[]string{"x = f[3,4]", "y = Transpose(x)"}, 0},
		{[]string{"x = f[3,4]", "y = Whatever(x)"}, -1},
		{[]string{"x = f[4000000000,4000000000]", "w = f[4000000000,4000000000]", "y = MatMul(x,w)"}, -1},
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
