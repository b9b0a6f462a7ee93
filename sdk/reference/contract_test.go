package reference

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sbinet/npyio/npz"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// vectors are the tensors of a .npz file.
type vectors struct {
	t *testing.T
	f *npz.Reader
}

func openVectors(t *testing.T, path string) vectors {
	f, err := npz.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return vectors{t, f}
}

func (v vectors) shape(name string) tensor.Shape {
	h := v.f.Header(name + ".npy")
	if h == nil {
		v.t.Fatalf("there is no %s", name)
	}
	s := tensor.Shape{}
	for _, d := range h.Descr.Shape {
		s = append(s, int64(d))
	}
	return s
}

func readVector[T tensor.Element](v vectors, name string, d tensor.DType) tensor.Tensor {
	s := v.shape(name)
	var data []T
	if err := v.f.Read(name+".npy", &data); err != nil {
		v.t.Fatalf("%s: %v", name, err)
	}
	return tensor.Of(d, s, data)
}

var contractCases = []string{"plain", "softcap", "window"}

// TestContractVectors runs PagedAttention, as an operator and by the body that the
// contract gives, against the recorded vectors.
func TestContractVectors(t *testing.T) {
	for _, name := range contractCases {
		for _, way := range []string{"native", "body"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				v := openVectors(t, testfiles.Shared(t, "contract", "paged_attention_"+name+".npz"))
				m, err := graph.Load(testfiles.Shared(t, "contract", "paged_attention_"+name+".onnx"))
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				if way == "body" {
					// Under another domain the function is no operator of ours.
					m.Functions[0].Domain = "test"
					m.Opsets["test"] = 1
					for _, n := range m.Graph.Nodes {
						if n.OpType == "PagedAttention" {
							n.Domain = "test"
						}
					}
				}
				p, err := New(m, Options{})
				if err != nil {
					t.Fatal(err)
				}
				inputs := map[string]tensor.Tensor{}
				for _, in := range m.Graph.Inputs {
					if in.Type.Elem == tensor.Int64 {
						inputs[in.Name] = readVector[int64](v, in.Name, tensor.Int64)
					} else {
						inputs[in.Name] = readVector[float32](v, in.Name, tensor.Float32)
					}
				}
				got, err := p.Run(context.Background(), inputs, nil)
				if err != nil {
					t.Fatal(err)
				}
				for i, want := range []string{"want_o", "want_kp", "want_vp"} {
					out := m.Graph.Outputs[i].Name
					rel, err := worst(got[out], readVector[float32](v, want, tensor.Float32))
					if err != nil || rel > 1e-6 {
						t.Errorf("%s differs from %s by %.2g: %v", out, want, rel, err)
					}
				}
			})
		}
	}
}

// node makes a node whose inputs are called i0, i1, ... and outputs o0, o1, ...;
// inputs without a value are left out.
func node(op string, inputs []graph.Datum, outputs int, attrs ...*graph.Attr) *graph.Node {
	n := &graph.Node{Name: "n", OpType: op, Attrs: attrs}
	for i, v := range inputs {
		name := ""
		if v.Kind != 0 {
			name = fmt.Sprintf("i%d", i)
		}
		n.Inputs = append(n.Inputs, name)
	}
	for i := range outputs {
		n.Outputs = append(n.Outputs, fmt.Sprintf("o%d", i))
	}
	return n
}

// evalOp computes one node of the newest operator set.
func evalOp(domain, op string, inputs []graph.Datum, outputs int, attrs ...*graph.Attr) ([]graph.Datum, error) {
	o, ok := Lookup(domain, op, newest[domain])
	if !ok {
		return nil, fmt.Errorf("%s is not registered", op)
	}
	n := node(op, inputs, outputs, attrs...)
	n.Domain = domain
	return o.Eval(context.Background(), n, inputs, Env{})
}

// values are tensors as values, the zero tensor as one left out.
func values(ts ...tensor.Tensor) []graph.Datum {
	out := make([]graph.Datum, len(ts))
	for i, t := range ts {
		if t.DType != tensor.Undefined {
			out[i] = tensorValue(t)
		}
	}
	return out
}

func randomFloats(r *rand.Rand, s tensor.Shape) tensor.Tensor {
	v := make([]float32, elements(s))
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return tensor.Of(tensor.Float32, s, v)
}

func zeros(t *testing.T, d tensor.DType, s tensor.Shape) tensor.Tensor {
	x, err := tensor.New(d, s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// quantised pools hold what was written to within half a step, and what is
// attended to is what was stored.
func TestQuantisedPools(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const pages, size, heads, dim = 4, 4, 2, 8
	tokens := int64(6)
	q, k, v := randomFloats(r, tensor.Shape{tokens, 4, dim}), randomFloats(r, tensor.Shape{tokens, heads, dim}), randomFloats(r, tensor.Shape{tokens, heads, dim})
	slots := tensor.Ints(tensor.Shape{tokens}, 4, 5, 6, 7, 8, 9) // pages 1 and 2
	table := tensor.Ints(tensor.Shape{1, 2}, 1, 2)
	lengths, starts := tensor.Ints(tensor.Shape{1}, tokens), tensor.Ints(tensor.Shape{2}, 0, tokens)
	scaleShape := tensor.Shape{pages, size, heads}
	for _, bits := range []int64{8, 4} {
		d, width := tensor.Int8, int64(dim)
		if bits == 4 {
			d, width = tensor.Uint8, dim/2
		}
		poolShape := tensor.Shape{pages, size, heads, width}
		attrs := []*graph.Attr{graph.IntAttr("k_bits", bits), graph.IntAttr("v_bits", bits)}
		out, err := evalOp(graph.DomainAccel, "PagedAttention", values(q, k, v, zeros(t, d, poolShape), zeros(t, d, poolShape), slots, table, lengths, starts,
			zeros(t, tensor.Float16, scaleShape), zeros(t, tensor.Float16, scaleShape)), 5, attrs...)
		if err != nil {
			t.Fatal(err)
		}
		// Read the pools back as plain numbers.
		limit := float64(int(1)<<(bits-1) - 1)
		plain := func(pool, scales, want tensor.Tensor) tensor.Tensor {
			x := zeros(t, tensor.Float32, tensor.Shape{pages, size, heads, dim})
			for i := range x.Len() {
				n := 0.0
				if bits == 8 {
					n = floatAt(pool, i)
				} else {
					n = float64(packed(pool.Data, 4, i)) - 8
				}
				putFloat(x, i, n*floatAt(scales, i/dim))
			}
			for i := range want.Len() {
				at := i + 4*heads*dim // slot 4
				step := floatAt(scales, at/dim)
				if diff := math.Abs(floatAt(x, at) - floatAt(want, i)); diff > 0.51*step {
					t.Errorf("%d bits: element %d is off by %g, a step is %g", bits, i, diff, step)
				}
				if n := math.Abs(floatAt(x, at)) / step; n > limit+1e-6 {
					t.Errorf("%d bits: element %d is stored as %g", bits, i, n)
				}
			}
			return x
		}
		kp := plain(out[1].Tensor, out[3].Tensor, k)
		vp := plain(out[2].Tensor, out[4].Tensor, v)
		read, err := evalOp(graph.DomainAccel, "PagedAttention", values(q, tensor.Tensor{}, tensor.Tensor{}, kp, vp, tensor.Tensor{}, table, lengths, starts), 3)
		if err != nil {
			t.Fatal(err)
		}
		if rel, err := worst(out[0].Tensor, read[0].Tensor); err != nil || rel > 1e-6 {
			t.Errorf("%d bits: attention over the quantised pools differs from that over what they hold by %g: %v", bits, rel, err)
		}
		wrote, err := evalOp(graph.DomainAccel, "PagedWrite", values(k, v, slots, zeros(t, d, poolShape), zeros(t, d, poolShape),
			zeros(t, tensor.Float16, scaleShape), zeros(t, tensor.Float16, scaleShape)), 4, attrs...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range wrote {
			if err := sameTensor(wrote[i].Tensor, out[i+1].Tensor, 0, 0); err != nil {
				t.Errorf("%d bits: PagedWrite's output %d: %v", bits, i, err)
			}
		}
	}
}

// PagedAttention over one sequence is Attention with a causal mask.
func TestPagedAttentionIsAttention(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const hq, hkv, dim, tokens = 4, 2, 8, 5
	q := randomFloats(r, tensor.Shape{tokens, hq, dim})
	k, v := randomFloats(r, tensor.Shape{tokens, hkv, dim}), randomFloats(r, tensor.Shape{tokens, hkv, dim})
	pool := zeros(t, tensor.Float32, tensor.Shape{4, 2, hkv, dim})
	slots := tensor.Ints(tensor.Shape{tokens}, 6, 7, 2, 3, 4) // pages 3, 1, 2
	paged, err := evalOp(graph.DomainAccel, "PagedAttention", values(q, k, v, pool, pool, slots, tensor.Ints(tensor.Shape{1, 3}, 3, 1, 2),
		tensor.Ints(tensor.Shape{1}, tokens), tensor.Ints(tensor.Shape{2}, 0, tokens)), 3)
	if err != nil {
		t.Fatal(err)
	}
	flat := func(x tensor.Tensor) tensor.Tensor {
		return reshaped(x, tensor.Shape{1, tokens, x.Shape[1] * dim})
	}
	dense, err := evalOp("", "Attention", values(flat(q), flat(k), flat(v)), 1,
		graph.IntAttr("is_causal", 1), graph.IntAttr("q_num_heads", hq), graph.IntAttr("kv_num_heads", hkv))
	if err != nil {
		t.Fatal(err)
	}
	if rel, err := worst(paged[0].Tensor, reshaped(dense[0].Tensor, tensor.Shape{tokens, hq, dim})); err != nil || rel > 1e-6 {
		t.Errorf("they differ by %g: %v", rel, err)
	}
}
