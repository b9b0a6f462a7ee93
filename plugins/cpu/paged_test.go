package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sbinet/npyio/npz"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// testPools are the types of pools and the bits that k_bits and v_bits name.
var testPools = []struct {
	d    tensor.DType
	bits int64
}{{tensor.Float32, 0}, {tensor.Float16, 0}, {tensor.BFloat16, 0}, {tensor.Int8, 8}, {tensor.Uint8, 4}}

// pagedCase is a PagedAttention in a graph as a decoder has it: what says where tokens lie are inputs.
type pagedCase struct {
	heads, kvHeads, d, dv, pageSize int64
	tokens, lengths                 []int64 // of each sequence: new, and in all
	keys, values                    int     // of testPools
	readOnly                        bool
	attrs                           []*graph.Attr
	bias                            int64 // columns
}

func (c *pagedCase) String() string {
	s := fmt.Sprintf("%d heads of %d over %d of %d, pages of %d in %v and %v, tokens %v of %v, bias %d", c.heads, c.d, c.kvHeads, c.dv, c.pageSize,
		testPools[c.keys].d, testPools[c.values].d, c.tokens, c.lengths, c.bias)
	if c.readOnly {
		s += ", read only"
	}
	for _, a := range c.attrs {
		s += fmt.Sprintf(", %s %d %g", a.Name, a.Int, a.Float)
	}
	return s
}

func (c *pagedCase) total() int64 {
	var n int64
	for _, t := range c.tokens {
		n += t
	}
	return n
}

// model has the inputs q, k, v, kp, vp, slots, tables, lengths, starts, ks, vs, bias and outputs o, kp_out and so on.
func (c *pagedCase) model(t *testing.T) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("paged")
	i64, dim := tensor.Int64, func(n int64) string { return fmt.Sprint(n) }
	in := make([]string, 12)
	in[0] = b.Input("q", typed(f32, "T", dim(c.heads), dim(c.d)))
	if !c.readOnly {
		in[1], in[2] = b.Input("k", typed(f32, "T", dim(c.kvHeads), dim(c.d))), b.Input("v", typed(f32, "T", dim(c.kvHeads), dim(c.dv)))
		in[5] = b.Input("slots", typed(i64, "T"))
	}
	in[6], in[7], in[8] = b.Input("tables", typed(i64, "B", "M")), b.Input("lengths", typed(i64, "B")), b.Input("starts", typed(i64, "B1"))
	out := []string{"o", "kp_out", "vp_out", "", ""}
	attrs := append([]*graph.Attr{graph.IntAttr("k_bits", testPools[c.keys].bits), graph.IntAttr("v_bits", testPools[c.values].bits)}, c.attrs...)
	types := map[string]*graph.Type{"o": nil}
	for i, p := range []struct {
		name string
		kind int
		d    int64
	}{{"k", c.keys, c.d}, {"v", c.values, c.dv}} {
		kind := testPools[p.kind]
		if kind.bits == 4 {
			p.d /= 2
		}
		types[p.name+"p_out"] = typed(kind.d, "P", "S", dim(c.kvHeads), dim(p.d))
		in[3+i] = b.Input(p.name+"p", types[p.name+"p_out"])
		if kind.bits > 0 {
			out[3+i] = p.name + "s_out"
			types[out[3+i]] = typed(tensor.Float16, "P", "S", dim(c.kvHeads))
			in[9+i] = b.Input(p.name+"s", types[out[3+i]])
		}
	}
	if c.bias > 0 {
		in[11] = b.Input("bias", typed(f32, dim(c.heads), dim(c.bias)))
	}
	for in[len(in)-1] == "" {
		in = in[:len(in)-1]
	}
	for out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	b.Node(&graph.Node{Domain: graph.DomainAccel, OpType: "PagedAttention", Inputs: in, Outputs: out, Attrs: attrs}, 0)
	for _, name := range out {
		if name != "" {
			b.Output(name, name, types[name])
		}
	}
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// inputs lays the sequences on pages of a shuffled pool; page 0 is nobody's.
func (c *pagedCase) inputs(rng *rand.Rand, spare int64) map[string]tensor.Tensor {
	width := int64(1)
	pages := 1 + spare
	for _, n := range c.lengths {
		width = max(width, (n+c.pageSize-1)/c.pageSize)
		pages += (n + c.pageSize - 1) / c.pageSize
	}
	free := rng.Perm(int(pages - 1))
	b := int64(len(c.lengths))
	tables := make([]int64, b*width)
	starts := []int64{0}
	var slots []int64
	for i, n := range c.lengths {
		for j := range (n + c.pageSize - 1) / c.pageSize {
			tables[int64(i)*width+j] = int64(free[0] + 1)
			free = free[1:]
		}
		starts = append(starts, starts[i]+c.tokens[i])
		for t := range c.tokens[i] {
			at := max(0, n-c.tokens[i]+t)
			slots = append(slots, tables[int64(i)*width+at/c.pageSize]*c.pageSize+at%c.pageSize)
		}
	}
	in := map[string]tensor.Tensor{
		"q": floats(rng, c.total(), c.heads, c.d), "tables": tensor.Ints(tensor.Shape{b, width}, tables...),
		"lengths": tensor.Ints(tensor.Shape{b}, c.lengths...), "starts": tensor.Ints(tensor.Shape{b + 1}, starts...),
	}
	if !c.readOnly {
		in["k"], in["v"] = floats(rng, c.total(), c.kvHeads, c.d), floats(rng, c.total(), c.kvHeads, c.dv)
		in["slots"] = tensor.Ints(tensor.Shape{c.total()}, slots...)
	}
	if c.bias > 0 {
		in["bias"] = floats(rng, c.heads, c.bias)
	}
	for _, p := range []struct {
		name string
		kind int
		d    int64
	}{{"k", c.keys, c.d}, {"v", c.values, c.dv}} {
		kind := testPools[p.kind]
		shape := tensor.Shape{pages, c.pageSize, c.kvHeads, p.d}
		switch kind.d {
		case tensor.Float32:
			in[p.name+"p"] = floats(rng, shape...)
			continue
		case tensor.Float16, tensor.BFloat16:
			in[p.name+"p"] = halves(rng, shape...)
			if kind.d == tensor.BFloat16 {
				t := in[p.name+"p"]
				in[p.name+"p"] = tensor.Tensor{DType: kind.d, Shape: t.Shape, Data: t.Data}
			}
			continue
		}
		n, _ := shape.Elements()
		if kind.bits == 4 {
			shape[3] /= 2
			n /= 2
		}
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(rng.IntN(256))
		}
		in[p.name+"p"] = tensor.Tensor{DType: kind.d, Shape: shape, Data: data}
		scales := halves(rng, shape[:3]...)
		for i, v := range tensor.View[uint16](scales) {
			tensor.View[uint16](scales)[i] = v&0x03ff | 0x1c00 // 2^-8 and up
		}
		in[p.name+"s"] = scales
	}
	return in
}

// randomPaged is a case of any kind.
func randomPaged(rng *rand.Rand) *pagedCase {
	pick := func(v ...int64) int64 { return v[rng.IntN(len(v))] }
	c := &pagedCase{kvHeads: pick(1, 2, 3), d: pick(2, 8, 16, 24, 64, 80, 128), pageSize: pick(1, 4, 16), keys: rng.IntN(len(testPools))}
	c.heads = c.kvHeads * pick(1, 2, 3, 4, 7)
	c.dv, c.values = c.d, c.keys
	switch rng.IntN(8) {
	case 0:
		c.dv = pick(2, 20, 32, 96)
	case 1:
		c.values = rng.IntN(len(testPools))
	case 2:
		c.heads, c.kvHeads = 40, 1 // more than one item's worth of few queries
	case 3:
		c.kvHeads, c.heads, c.d, c.dv = 1, 2, 300, 260 // wider than the blocks that narrow heads go through
	}
	for range pick(1, 1, 2, 4) {
		n := pick(1, 1, 1, 0, 2, 5, 40, 130)
		c.tokens = append(c.tokens, n)
		c.lengths = append(c.lengths, n+pick(0, 0, 3, 50, 255, 300, 700))
	}
	switch rng.IntN(8) {
	case 0:
		c.attrs = append(c.attrs, graph.IntAttr("window", pick(1, 9, 100)))
	case 1:
		c.attrs = append(c.attrs, graph.FloatAttr("softcap", 2))
	case 2:
		c.bias = pick(1, 6, 300)
		c.attrs = append(c.attrs, graph.FloatAttr("softcap", 3))
	case 3:
		c.attrs = append(c.attrs, graph.IntAttr("causal", 0))
		c.readOnly = true
		c.lengths[0] = pick(0, 2)
	case 4:
		c.attrs = append(c.attrs, graph.IntAttr("causal", 0), graph.IntAttr("window", 20))
	case 5:
		c.readOnly = true
	}
	return c
}

// kvBuffers are outputs of a run whose pools lie in buffers of the device.
type kvBuffers struct {
	collected
	buffers map[int]*hostBuffer
	filled  map[int]tensor.Tensor
}

func (o *kvBuffers) Buffer(i int) (backend.Value, int64, bool) {
	b := o.buffers[i]
	if b == nil {
		return backend.Value{}, 0, false
	}
	return backend.Value{Buffer: b, Offset: bufferOffset}, b.Size() - bufferOffset, true
}

func (o *kvBuffers) Filled(i int, d tensor.DType, s tensor.Shape) error {
	n, err := tensor.ByteSize(d, s)
	o.filled[i] = tensor.Tensor{DType: d, Shape: s, Data: o.buffers[i].data[bufferOffset : bufferOffset+n]}
	return err
}

const bufferOffset = 128

// runInPlace runs e with its pools in buffers, inputs and outputs the same ones.
func runInPlace(t *testing.T, e *executable, in map[string]tensor.Tensor) map[string]tensor.Tensor {
	t.Helper()
	values, out := e.inBuffers(in)
	if err := e.Run(t.Context(), values, out); err != nil {
		t.Fatal(err)
	}
	got := map[string]tensor.Tensor{}
	for i, o := range e.info.Outputs {
		if x, ok := out.filled[i]; ok {
			got[o.Name] = x
		} else {
			got[o.Name] = out.got[i]
		}
	}
	return got
}

// TestPagedAttentionAsReference: any case, on every instruction set, from host tensors and in buffers that are updated in
// place; all on one plan for all numbers of pages, of sequences and widths of their tables.
func TestPagedAttentionAsReference(t *testing.T) {
	rs := testRunners(t)
	rng := rand.New(rand.NewPCG(5, 6))
	cases := 60
	if testing.Short() {
		cases = 15
	}
	for i := range cases {
		c := randomPaged(rng)
		m := c.model(t)
		p, err := reference.New(m, reference.Options{})
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		var names []string
		for _, o := range m.Graph.Outputs {
			names = append(names, o.Name)
		}
		in := c.inputs(rng, 2)
		want, err := p.Run(t.Context(), in, names)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		for _, r := range rs {
			t.Run(fmt.Sprintf("%d/%s", i, r.ISA()), func(t *testing.T) {
				e := compiled(t, m, r)
				out := &collected{got: map[int]tensor.Tensor{}}
				kept := map[string][]byte{}
				for name, x := range in {
					kept[name] = slices.Clone(x.Data)
				}
				if err := e.Run(t.Context(), e.values(in), out); err != nil {
					t.Fatalf("%v: %v", c, err)
				}
				for name, x := range in {
					if !slices.Equal(kept[name], x.Data) {
						t.Errorf("%v: the run wrote to its input %s", c, name)
					}
				}
				inBuffers := runInPlace(t, e, in)
				for i, name := range names {
					comparePaged(t, c, name, out.got[i], want[name])
					comparePaged(t, c, name+" in a buffer", inBuffers[name], want[name])
				}
				for _, n := range e.plans[0].nodes {
					if !n.Native && c.total() > 0 {
						t.Errorf("%v: %s is not native", c, n.Label)
					}
				}
				// One more sequence and more pages: no other plan.
				more := *c
				more.tokens, more.lengths = append(slices.Clone(c.tokens), 0), append(slices.Clone(c.lengths), 5)
				runInPlace(t, e, more.inputs(rand.New(rand.NewPCG(7, 8)), 20))
				if len(e.plans) != 1 {
					t.Errorf("%v: %d plans", c, len(e.plans))
				}
			})
		}
	}
}

// comparePaged: what is stored is the same bit for bit, what was computed near.
func comparePaged(t *testing.T, c *pagedCase, name string, got, want tensor.Tensor) {
	t.Helper()
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		t.Fatalf("%v: %s is %s%v, want %s%v", c, name, got.DType, got.Shape, want.DType, want.Shape)
	}
	if name[0] != 'o' {
		for i := range want.Data {
			if got.Data[i] != want.Data[i] {
				t.Fatalf("%v: byte %d of %s is %d, want %d", c, i, name, got.Data[i], want.Data[i])
			}
		}
		return
	}
	g, w := tensor.View[float32](got.Aligned()), tensor.View[float32](want.Aligned())
	for i := range w {
		if diff := g[i] - w[i]; !(diff <= 2e-5 && diff >= -2e-5) {
			t.Fatalf("%v: %s[%d] = %g, want %g", c, name, i, g[i], w[i])
		}
	}
}

// TestContractVectors: the recorded vectors of the contract.
func TestContractVectors(t *testing.T) {
	for _, name := range []string{"plain", "softcap", "window"} {
		f, err := npz.Open(testfiles.Shared(t, "contract", "paged_attention_"+name+".npz"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		m, err := graph.Load(testfiles.Shared(t, "contract", "paged_attention_"+name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		read := func(name string, d tensor.DType) tensor.Tensor {
			var shape tensor.Shape
			for _, n := range f.Header(name + ".npy").Descr.Shape {
				shape = append(shape, int64(n))
			}
			var ints []int64
			var numbers []float32
			if d == tensor.Int64 {
				err = f.Read(name+".npy", &ints)
			} else {
				err = f.Read(name+".npy", &numbers)
			}
			if err != nil {
				t.Fatal(err)
			}
			if d == tensor.Int64 {
				return tensor.Ints(shape, ints...)
			}
			return tensor.Floats(shape, numbers...)
		}
		in := map[string]tensor.Tensor{}
		for _, v := range m.Graph.Inputs {
			in[v.Name] = read(v.Name, v.Type.Elem)
		}
		for _, r := range testRunners(t) {
			t.Run(name+"/"+r.ISA(), func(t *testing.T) {
				e := compiled(t, m, r)
				out := &collected{got: map[int]tensor.Tensor{}}
				if err := e.Run(t.Context(), e.values(in), out); err != nil {
					t.Fatal(err)
				}
				for i, want := range []string{"want_o", "want_kp", "want_vp"} {
					comparePaged(t, &pagedCase{}, want[len("want_"):], out.got[i], read(want, f32))
				}
				for _, n := range e.plans[0].nodes {
					if !n.Native {
						t.Errorf("%s is not native", n.Label)
					}
				}
			})
		}
	}
}
