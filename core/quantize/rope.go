package quantize

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// ropeScaling is rope_scaling of config.json; nil: none.
func ropeScaling(g *checkpoint.GGUF, f checkpoint.GGUFFields, name string, headDim, positions int64) map[string]any {
	key := func(k string) string { return name + ".rope.scaling." + k }
	const most = 1 << 20
	kind := f.StringOr(key("type"), "none")
	if !f.Has(key("type")) && f.FloatOr(name+".rope.scale_linear", 1, 0, most) > 1 { // its first name
		return map[string]any{"rope_type": "linear", "factor": f.Float(name+".rope.scale_linear", 1, most)}
	}
	// What is not passed on must say nothing.
	for k, neutral := range map[string]float64{"yarn_ext_factor": 1, "yarn_attn_factor": 1, "attn_factor": 1, "yarn_log_multiplier": 0} {
		if v := f.FloatOr(key(k), neutral, -most, most); v != neutral && f.Err() == nil && !(k == "yarn_ext_factor" && v == -1) {
			f.Fail(key(k), fmt.Sprintf("found %g", v), fmt.Sprintf("%g", neutral), "")
		}
	}
	if factors, ok := g.Tensor(ropeFactors); ok {
		if kind != "none" {
			f.Fail(key("type"), "found "+kind+" beside the factors of "+ropeFactors, "one of both", "")
		}
		if factors.Type.DType != tensor.Float32 || !factors.Shape.Equal(tensor.Shape{headDim / 2}) {
			f.Fail("tensor "+ropeFactors, "it is "+factors.Type.Name+factors.Shape.String(), fmt.Sprintf("F32[%d]", headDim/2), "")
		}
		data, err := g.Data(ropeFactors)
		if err != nil || f.Err() != nil {
			return nil
		}
		list := make([]float32, headDim/2)
		for i := range list {
			list[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
			if !(list[i] > 0) || math.IsInf(float64(list[i]), 0) {
				f.Fail("tensor "+ropeFactors, fmt.Sprintf("element %d is %g", i, list[i]), "numbers above 0", "")
				return nil
			}
		}
		return scaledBy(list, f.FloatOr(name+".rope.freq_base", 10000, 1, 1e12), positions)
	}
	switch kind {
	case "none":
		return nil
	case "linear":
		return map[string]any{"rope_type": kind, "factor": f.Float(key("factor"), 1, most)}
	case "yarn":
		scaling := map[string]any{"rope_type": kind, "factor": f.Float(key("factor"), 1, most),
			"original_max_position_embeddings": f.Int(key("original_context_length"), 1, maxTokens)}
		for _, k := range []string{"beta_fast", "beta_slow"} {
			if f.Has(key("yarn_" + k)) {
				scaling[k] = f.Float(key("yarn_"+k), 0, most)
			}
		}
		return scaling
	}
	f.Fail(key("type"), "found "+kind, "none, linear or yarn", "")
	return nil
}

// llama3 are the settings of rope_type llama3 that LLaMA 3.1 and later were published
// with, but for the factor, which is the largest of the list.
var llama3 = struct{ low, high, original float64 }{1, 4, 8192}

// scaledBy says a list of factors by which frequencies are divided: as LLaMA 3's
// settings where it follows from them, else as LongRoPE's lists, which are the same
// for every length.
func scaledBy(factors []float32, theta float64, positions int64) map[string]any {
	factor := float64(slices.Max(factors))
	same := true
	for i, got := range factors {
		turns := llama3.original * math.Pow(theta, -float64(i)/float64(len(factors))) / (2 * math.Pi)
		want := 1.0
		switch {
		case turns < llama3.low:
			want = factor
		case turns <= llama3.high:
			smooth := (turns - llama3.low) / (llama3.high - llama3.low)
			want = 1 / ((1-smooth)/factor + smooth)
		}
		same = same && math.Abs(float64(got)-want) <= 1e-5*want
	}
	if same && factor > 1 {
		return map[string]any{"rope_type": "llama3", "factor": factor, "low_freq_factor": llama3.low, "high_freq_factor": llama3.high,
			"original_max_position_embeddings": int64(llama3.original)}
	}
	return map[string]any{"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0, "attention_factor": 1.0,
		"original_max_position_embeddings": positions}
}
