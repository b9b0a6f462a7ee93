package models

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// quantise puts codes, scales and mins in the place of a matrix, and gives the
// matrix that they stand for. The codes are drawn: what they say matters, not how
// near it is.
func quantise(w map[string]tensor.Tensor, name string, q checkpoint.Quantized, r *rand.Rand) []float32 {
	old := w[name]
	q.N, q.K = old.Shape[0], old.Shape[1]
	codes, _ := tensor.New(tensor.Uint8, q.CodesShape())
	scales, _ := tensor.New(tensor.Float16, q.ScalesShape())
	mins, _ := tensor.New(tensor.Float16, q.ScalesShape())
	// Float16 of 2^-e, and 1.5 times that.
	value := func(t tensor.Tensor, i int) float64 {
		e, half := 4+r.IntN(3), r.IntN(2)
		bits := uint16(15-e)<<10 | uint16(half)<<9
		t.Data[2*i], t.Data[2*i+1] = byte(bits), byte(bits>>8)
		return math.Ldexp(1+float64(half)/2, -e)
	}
	out := make([]float32, 0, q.N*q.K)
	var s, m float64
	for i := range q.N * q.K {
		if i%q.Block == 0 {
			s = value(scales, int(i/q.Block))
			if q.Mins {
				m = value(mins, int(i/q.Block))
			}
		}
		code := r.IntN(1 << q.Bits)
		for b := range q.Bits {
			if at := i*q.Bits + b; code>>b&1 == 1 {
				codes.Data[at/8] |= 1 << (at % 8)
			}
		}
		v := s * float64(code-1<<(q.Bits-1))
		if q.Mins {
			v = s*float64(code) - m
		}
		out = append(out, float32(v))
	}
	if q.Mins {
		for i := range q.ScalesShape()[0] * q.ScalesShape()[1] {
			mins.Data[2*i+1] |= 0x80 // negative
		}
		w[name+checkpoint.MinsSuffix] = mins
	}
	w[name+checkpoint.CodesSuffix], w[name+checkpoint.ScalesSuffix] = codes, scales
	delete(w, name)
	return out
}

// TestQuantizedDecoder holds a decoder of quantised weights, its table and head
// among them, against one of the floats that they stand for.
func TestQuantizedDecoder(t *testing.T) {
	forms := []checkpoint.Quantized{
		{Operator: checkpoint.MatMulNBits, Bits: 4, Block: 16},
		{Operator: checkpoint.MatMulNBits, Bits: 8, Block: 16},
		{Operator: checkpoint.MatMulBlocks, Bits: 5, Block: 8, Mins: true},
		{Operator: checkpoint.MatMulBlocks, Bits: 6, Block: 8},
	}
	for _, name := range []string{"llama", "qwen2"} { // head of its own, and tied
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(4, 4))
			made := map[string]checkpoint.Quantized{}
			floats := map[string][]float32{}
			dir := copied(t, tiny(name), nil, func(w map[string]tensor.Tensor) {
				var names []string
				for n, v := range w {
					if len(v.Shape) == 2 {
						names = append(names, n)
					}
				}
				slices.Sort(names)
				for i, n := range names {
					q := forms[i%len(forms)]
					if w[n].Shape[1]%q.Block != 0 {
						q = forms[2]
					}
					made[n], floats[n] = q, quantise(w, n, q, r)
				}
			})
			// Once more with what config.json then says.
			dir = copied(t, dir, func(c map[string]any) { c["quantization_config"] = checkpoint.QuantizationConfig(made) }, nil)
			plain := copied(t, tiny(name), nil, func(w map[string]tensor.Tensor) {
				for n, v := range floats {
					w[n] = tensor.Floats(w[n].Shape, v...)
				}
			})
			prompt := [][]int64{{3, 9, 200, 41}, {77}}
			m, ck := load(t, plain)
			want := newSession(t, m, ck, 8, 4, 2).step(prompt)[Logits]
			ck = open(t, dir)
			for activations, level := range map[string]int64{"": 1, "f32": 1, "bf16": 3, "int8": 4} {
				m, err := Load(ck, Options{Activations: activations})
				if err != nil {
					t.Fatal(err)
				}
				if len(m.Unused) > 0 {
					t.Errorf("unused: %v", m.Unused)
				}
				count := map[string]int{}
				for _, n := range m.Components[0].Graph.Graph.Nodes {
					count[n.OpType]++
					if strings.HasPrefix(n.OpType, "MatMul") && n.AttrInt("accuracy_level", -1) != level {
						t.Errorf("activations %q: %s has level %d", activations, n.Label(), n.AttrInt("accuracy_level", -1))
					}
				}
				if count["MatMul"] > 0 || count["GatherBlocks"] != 1 || count["MatMulNBits"] == 0 || count["MatMulBlocks"] == 0 {
					t.Errorf("found %v", count)
				}
				if m.Components[0].Graph.Function(graph.FunctionID{Domain: graph.DomainAccel, Name: "MatMulBlocks"}) == nil {
					t.Error("MatMulBlocks comes without its meaning")
				}
				// The reference does not round activations, whatever the level.
				compare(t, "logits", newSession(t, m, ck, 8, 4, 2).step(prompt)[Logits], want)
			}
		})
	}
	for method, want := range map[string]string{"gptq": `quant_method: found "gptq"`, "": `quant_method: found ""`} {
		_, err := Load(open(t, copied(t, tiny("llama"), func(c map[string]any) { c["quantization_config"] = map[string]any{"quant_method": method, "bits": 4} }, nil)), Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", method, err)
		}
	}
}

// asBF16 rounds the matrices of a checkpoint to bfloat16.
func asBF16(w map[string]tensor.Tensor) {
	for name, v := range w {
		if len(v.Shape) == 2 {
			half, _ := tensor.New(tensor.BFloat16, v.Shape)
			for i, x := range tensor.View[float32](v.Aligned()) {
				b := math.Float32bits(x)
				tensor.View[uint16](half)[i] = uint16((b + 0x7fff + b>>16&1) >> 16)
			}
			w[name] = half
		}
	}
}

// divergence is the mean KL divergence of rows of logits from others, in nats.
func divergence(logits, from []float32, row int) (mean float64) {
	for i := 0; i < len(from); i += row {
		p, q := logSoftmax(from[i:i+row]), logSoftmax(logits[i:i+row])
		for j := range p {
			mean += math.Exp(p[j]) * (p[j] - q[j]) * float64(row) / float64(len(from))
		}
	}
	return mean
}

func logSoftmax(row []float32) []float64 {
	var sum float64
	top := float64(slices.Max(row))
	for _, x := range row {
		sum += math.Exp(float64(x) - top)
	}
	out := make([]float64, len(row))
	for i, x := range row {
		out[i] = float64(x) - top - math.Log(sum)
	}
	return out
}

// TestBF16Activations holds a decoder whose activations are rounded to bfloat16 before matrices of that against
// the same without: rounded once for q, k and v, and near.
func TestBF16Activations(t *testing.T) {
	prompt := [][]int64{{3, 9, 200, 41, 17, 5, 640, 33, 12, 101, 77, 300}, {77, 4}}
	for _, name := range []string{"llama", "qwen2"} { // head of its own, and tied
		t.Run(name, func(t *testing.T) {
			dir := copied(t, tiny(name), nil, asBF16)
			m, ck := load(t, dir)
			want := newSession(t, m, ck, 8, 4, 2).step(prompt)[Logits]
			m, err := Load(ck, Options{Activations: "bf16"})
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Notes) > 0 {
				t.Errorf("notes: %q", m.Notes)
			}
			rounded := 0
			for _, n := range m.Components[0].Graph.Graph.Nodes {
				if n.OpType == "Cast" && n.AttrInt("to", 0) == int64(tensor.BFloat16) {
					rounded++
				}
			}
			// Of a layer what q, k and v read, what o reads, what gate and up read and what down reads.
			if all := int(4*m.Decoder.Layers) + 1; rounded != all {
				t.Errorf("%d values are rounded, wanted %d", rounded, all)
			}
			got := newSession(t, m, ck, 8, 4, 2).step(prompt)[Logits]
			g, w := tensor.View[float32](got), tensor.View[float32](want)
			kl := divergence(g, w, int(m.VocabSize))
			t.Logf("KL divergence %.3g nats", kl)
			// Logits that are off by 2^-8 of some units differ by about 1e-4 nats.
			if !(kl > 0 && kl < 1e-3) {
				t.Errorf("KL divergence from activations of f32 is %g, wanted within 0 and 1e-3", kl)
			}
		})
	}
	t.Run("bert", func(t *testing.T) {
		ck := open(t, filepath.Join("testdata", "bert_token_bf16"))
		inputs := map[string]tensor.Tensor{"input_ids": tensor.Ints(tensor.Shape{2, 5}, 1, 7, 3, 20, 2, 9, 4, 4, 11, 0)}
		states := map[string][]float32{}
		for _, activations := range []string{"f32", "bf16"} {
			m, err := Load(ck, Options{Activations: activations})
			if err != nil {
				t.Fatal(err)
			}
			states[activations] = tensor.View[float32](run(t, m, ck, Full, inputs)["last_hidden_state"].Aligned())
		}
		var worst float64
		for i, want := range states["f32"] {
			worst = max(worst, math.Abs(float64(states["bf16"][i]-want)))
		}
		t.Logf("last_hidden_state, normalised, is off by %.3g", worst)
		if !(worst > 1e-5 && worst < 0.05) {
			t.Errorf("last_hidden_state is off by %g, wanted within 1e-5 and 0.05", worst)
		}
	})
	// Nothing is rounded in secret, and nothing promised in vain.
	ck := open(t, tiny("llama"))
	for activations, want := range map[string]string{"f32": "", "bf16": "activations stay f32: there are no weights that those of bf16 are multiplied with", "int8": "activations stay f32: there are no weights that those of int8"} {
		m, err := Load(ck, Options{Activations: activations})
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(m.Notes, "\n"); !strings.HasPrefix(notes, want) || want == "" && notes != "" {
			t.Errorf("%s: notes %q, wanted %q", activations, notes, want)
		}
	}
}
