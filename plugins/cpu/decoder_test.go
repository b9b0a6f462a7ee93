package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// testDecoder is a decoder as models builds one: pre-norm, rotary positions, gated MLPs, pools as inputs and outputs.
type testDecoder struct {
	layers, hidden, heads, kv, d, inner, vocab int64
	headNorm                                   bool // q and k by head, as Qwen3 has it
}

var smallDecoder = testDecoder{layers: 2, hidden: 32, heads: 4, kv: 2, d: 8, inner: 48, vocab: 50, headNorm: true}

func (d testDecoder) model(t testing.TB) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("decode")
	rng := rand.New(rand.NewPCG(1, 2))
	i64 := tensor.Int64
	ids, positions, slots := b.Input("input_ids", typed(i64, "tokens")), b.Input("positions", typed(i64, "tokens")), b.Input("slots", typed(i64, "tokens"))
	tables, lengths, starts := b.Input("page_tables", typed(i64, "sequences", "pages_each")), b.Input("lengths", typed(i64, "sequences")), b.Input("starts", typed(i64, "sequences_1"))
	selected := b.Input("select", typed(i64, "selected"))
	weight := func(name string, shape ...int64) string {
		w := floats(rng, shape...)
		if len(shape) == 2 {
			for i := range tensor.View[float32](w) {
				tensor.View[float32](w)[i] *= float32(1 / math.Sqrt(float64(shape[1])))
			}
		}
		return b.Tensor(name, w)
	}
	linear := func(x, name string, out, in int64) string {
		return b.Op("MatMul", []string{x, b.Op("Transpose", []string{weight(name, out, in)}, graph.IntsAttr("perm", 1, 0))})
	}
	norm := func(x, name string, n int64) string {
		return b.Op("RMSNormalization", []string{x, weight(name, n)}, graph.FloatAttr("epsilon", 1e-6))
	}
	inverse := make([]float32, d.d/2)
	for i := range inverse {
		inverse[i] = float32(math.Pow(10000, -2*float64(i)/float64(d.d)))
	}
	position := b.Op("Unsqueeze", []string{b.Op("Cast", []string{positions}, graph.IntAttr("to", int64(f32))), b.Ints(1)})
	angle := b.Op("Mul", []string{position, b.Const(tensor.Floats(tensor.Shape{1, d.d / 2}, inverse...))})
	cos, sin := b.Op("Unsqueeze", []string{b.Op("Cos", []string{angle}), b.Ints(0)}), b.Op("Unsqueeze", []string{b.Op("Sin", []string{angle}), b.Ints(0)})
	x := b.Op("Gather", []string{weight("embed", d.vocab, d.hidden), ids})
	for i := range d.layers {
		name := fmt.Sprintf("layer.%d.", i)
		h := norm(x, name+"norm", d.hidden)
		heads := func(letter string, n int64) string {
			y := b.Op("Reshape", []string{linear(h, name+letter, n*d.d, d.hidden), b.Ints(-1, n, d.d)})
			if letter == "v" {
				return y
			}
			if d.headNorm {
				y = norm(y, name+letter+"_norm", d.d)
			}
			y = b.Op("RotaryEmbedding", []string{b.Op("Reshape", []string{y, b.Ints(1, -1, n*d.d)}), cos, sin}, graph.IntAttr("num_heads", n))
			return b.Op("Reshape", []string{y, b.Ints(-1, n, d.d)})
		}
		q, k, v := heads("q", d.heads), heads("k", d.kv), heads("v", d.kv)
		pool := typed(tensor.Float16, "pages", "page_size", fmt.Sprint(d.kv), fmt.Sprint(d.d))
		kp, vp := b.Input(fmt.Sprintf("k.%d", i), pool), b.Input(fmt.Sprintf("v.%d", i), pool)
		out := []string{name + "o", kp + "_out", vp + "_out"}
		b.Node(&graph.Node{Domain: graph.DomainAccel, OpType: "PagedAttention", Inputs: []string{q, k, v, kp, vp, slots, tables, lengths, starts}, Outputs: out}, 0)
		b.Output(out[1], out[1], pool)
		b.Output(out[2], out[2], pool)
		o := linear(b.Op("Reshape", []string{out[0], b.Ints(-1, d.heads*d.d)}), name+"out", d.hidden, d.heads*d.d)
		x = b.Op("Add", []string{x, o})
		h = norm(x, name+"mlp_norm", d.hidden)
		gate, up := linear(h, name+"gate", d.inner, d.hidden), linear(h, name+"up", d.inner, d.hidden)
		h = b.Op("Mul", []string{b.Op("Mul", []string{gate, b.Op("Sigmoid", []string{gate})}), up})
		x = b.Op("Add", []string{x, linear(h, name+"down", d.hidden, d.inner)})
	}
	x = norm(b.Op("Gather", []string{x, selected}), "final_norm", d.hidden)
	b.Output("logits", linear(x, "head", d.vocab, d.hidden), typed(f32, "selected", fmt.Sprint(d.vocab)))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// step is a run of a decoder: tokens new ones for each of the sequences, of so many in all, on pages of 16.
func (d testDecoder) step(sequences, tokens, length, pages int64) map[string]tensor.Tensor {
	const size = 16
	rng := rand.New(rand.NewPCG(3, 4))
	width := (length + size - 1) / size
	in := map[string]tensor.Tensor{}
	var ids, positions, slots, tables, lengths, selected []int64
	starts := []int64{0}
	for s := range sequences {
		for i := range width {
			tables = append(tables, 1+s*width+i)
		}
		for t := range tokens {
			at := length - tokens + t
			ids, positions, slots = append(ids, rng.Int64N(d.vocab)), append(positions, at), append(slots, (1+s*width+at/size)*size+at%size)
		}
		lengths, starts = append(lengths, length), append(starts, (s+1)*tokens)
		selected = append(selected, (s+1)*tokens-1)
	}
	list := func(v []int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
	in["input_ids"], in["positions"], in["slots"], in["lengths"], in["starts"], in["select"] = list(ids), list(positions), list(slots), list(lengths), list(starts), list(selected)
	in["page_tables"] = tensor.Ints(tensor.Shape{sequences, width}, tables...)
	for i := range d.layers {
		in[fmt.Sprintf("k.%d", i)], in[fmt.Sprintf("v.%d", i)] = halves(rng, pages, size, d.kv, d.d), halves(rng, pages, size, d.kv, d.d)
	}
	return in
}

// inBuffers are a decoder's inputs with its pools in buffers, and the outputs that update them.
func (e *executable) inBuffers(in map[string]tensor.Tensor) ([]backend.Value, *kvBuffers) {
	out := &kvBuffers{collected: collected{got: map[int]tensor.Tensor{}}, buffers: map[int]*hostBuffer{}, filled: map[int]tensor.Tensor{}}
	values := e.values(in)
	for i, o := range e.info.Outputs {
		for j, v := range e.info.Inputs {
			if v.Name+"_out" != o.Name {
				continue
			}
			x := values[j].Tensor
			b := &hostBuffer{data: alignedBytes(bufferOffset + int64(len(x.Data)))}
			copy(b.data[bufferOffset:], x.Data)
			out.buffers[i] = b
			values[j].Buffer, values[j].Offset, values[j].Tensor.Data = b, bufferOffset, nil
		}
	}
	return values, out
}

// A decoder runs on kernels alone, whatever its steps are; only other numbers of tokens or of logits need another plan.
func TestDecoderIsNative(t *testing.T) {
	for _, r := range testRunners(t) {
		t.Run(r.ISA(), func(t *testing.T) {
			d := smallDecoder
			e := compiled(t, d.model(t), r)
			for _, s := range [][4]int64{{1, 1, 9, 4}, {1, 1, 40, 9}, {1, 1, 300, 30}} {
				values, out := e.inBuffers(d.step(s[0], s[1], s[2], s[3]))
				if err := e.Run(t.Context(), values, out); err != nil {
					t.Fatal(err)
				}
				for i := range out.buffers {
					if _, ok := out.filled[i]; !ok {
						t.Errorf("output %s was not updated in its buffer", e.info.Outputs[i].Name)
					}
				}
			}
			if len(e.plans) != 1 {
				t.Errorf("%d plans for steps of one token", len(e.plans))
			}
			if len(e.plans[0].steps) != 1 {
				t.Errorf("%d steps, want one native program", len(e.plans[0].steps))
			}
			for _, n := range e.plans[0].nodes {
				if !n.Native {
					t.Errorf("%s (%s) is not native", n.Label, n.OpType)
				}
			}
			values, out := e.inBuffers(d.step(3, 2, 9, 9))
			if err := e.Run(t.Context(), values, out); err != nil {
				t.Fatal(err)
			}
			if len(e.plans) != 2 {
				t.Errorf("%d plans after a step of six tokens", len(e.plans))
			}
		})
	}
}

// A decoder's logits are the reference's: of a prompt, of single tokens, of both kinds of sequences' lengths.
func TestDecoderAsReference(t *testing.T) {
	d := smallDecoder
	m := d.model(t)
	ref, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range [][4]int64{{1, 20, 20, 4}, {3, 1, 40, 12}, {1, 1, 600, 50}, {2, 5, 33, 9}} {
		in := d.step(s[0], s[1], s[2], s[3])
		want, err := ref.Run(t.Context(), in, []string{"logits"})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range testRunners(t) {
			e := compiled(t, m, r)
			values, out := e.inBuffers(in)
			if err := e.Run(t.Context(), values, out); err != nil {
				t.Fatal(err)
			}
			for i, o := range e.info.Outputs {
				if o.Name != "logits" {
					continue
				}
				got, w := tensor.View[float32](out.got[i].Aligned()), tensor.View[float32](want["logits"].Aligned())
				for j := range w {
					// Keys and values are rounded to f16, which may go either way.
					if diff := math.Abs(float64(got[j] - w[j])); !(diff <= 2e-3) {
						t.Fatalf("%s, step %v: logit %d is %g, want %g", r.ISA(), s, j, got[j], w[j])
					}
				}
			}
		}
	}
}

// benchDecoder has the layers of a model of 0.5B and next to no work in them.
var benchDecoder = testDecoder{layers: 24, hidden: 96, heads: 12, kv: 4, d: 8, inner: 96, vocab: 96}

func (d testDecoder) executable(b *testing.B) *executable {
	lib, err := kernels.Open("")
	if err != nil {
		b.Fatal(err)
	}
	r, err := lib.NewRunner(kernels.Config{Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Close)
	return compiled(b, d.model(b), r)
}

// What a plan of another number of tokens costs.
func BenchmarkDecoderPlan(b *testing.B) {
	e := benchDecoder.executable(b)
	values, out := e.inBuffers(benchDecoder.step(1, 1, 9, 4))
	best := time.Duration(math.MaxInt64)
	for b.Loop() {
		begin := time.Now()
		if _, err := e.makePlan(values, out); err != nil {
			b.Fatal(err)
		}
		best = min(best, time.Since(begin))
	}
	b.ReportMetric(float64(best.Microseconds()), "us-best")
}

// What a step costs beside the work in its kernels.
func BenchmarkDecoderStep(b *testing.B) {
	e := benchDecoder.executable(b)
	values, out := e.inBuffers(benchDecoder.step(1, 1, 9, 4))
	best := time.Duration(math.MaxInt64)
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		if err := e.Run(b.Context(), values, out); err != nil {
			b.Fatal(err)
		}
		best = min(best, time.Since(begin))
	}
	b.ReportMetric(float64(best.Microseconds()), "us-best")
}
