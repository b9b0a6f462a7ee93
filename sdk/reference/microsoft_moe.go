package reference

import (
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/accelhq/accel/sdk/tensor"
)

const moeAttrs = "activation_alpha float=1, activation_beta float=0, activation_type string=relu|gelu|silu|swiglu|identity, k int=1, " +
	"normalize_routing_weights int=0, swiglu_fusion int=0, swiglu_limit float, swiglu_limit_after_activation int=0, use_sparse_mixer int=0"

var microsoftMoEOps = []spec{
	{"MoE", since(1), "input T:f32|f16|bf16, router_probs T, fc1_experts_weights T, fc1_experts_bias? T, fc2_experts_weights T, fc2_experts_bias? T, " +
		"fc3_experts_weights? T, fc3_experts_bias? T -> output T", moeAttrs, func(c *call) error {
		return mixtureOfExperts(c, [3]expertInputs{{2, -1, -1, 3, 0}, {4, -1, -1, 5, 0}, {6, -1, -1, 7, 0}}, -1)
	}},
	{"QMoE", since(1), "input T:f32|f16|bf16, router_probs T, fc1_experts_weights u8, fc1_scales? f32|f16|bf16, fc1_experts_bias? T, fc2_experts_weights u8, " +
		"fc2_scales? f32|f16|bf16, fc2_experts_bias? T, fc3_experts_weights? u8, fc3_scales? f32|f16|bf16, fc3_experts_bias? T, fc1_zero_points? u8, " +
		"fc2_zero_points? u8, fc3_zero_points? u8, router_weights? T, fc1_global_scale? f32, fc2_global_scale? f32, fc1_act_scale? f32, fc2_act_scale? f32, " +
		"fc1_act_block_scale? f32|f16|bf16, fc2_act_block_scale? f32|f16|bf16 -> output T",
		moeAttrs + ", accuracy_level int=0, block_size int, expert_weight_bits int=4, fc1_expert_weight_bits int, fc2_expert_weight_bits int, " +
			"fc3_expert_weight_bits int, quant_type string=int|fp4|nvfp4|fp8|wfp4afp8, weights_prepacked int=-1", func(c *call) error {
			if t := c.str("quant_type"); t != "int" {
				return fmt.Errorf("attribute quant_type %s is not supported, int is", t)
			}
			if c.int("weights_prepacked") == 1 {
				return errors.New("attribute weights_prepacked is 1: the layouts of devices are not known")
			}
			var bits [3]int
			for i := range bits {
				bits[i] = int(c.int("expert_weight_bits"))
				if own := fmt.Sprintf("fc%d_expert_weight_bits", i+1); c.hasAttr(own) {
					bits[i] = int(c.int(own))
				}
				if b := bits[i]; b != 2 && b != 4 && b != 8 {
					return fmt.Errorf("experts of %d bits: 2, 4 or 8 are wanted", b)
				}
			}
			return mixtureOfExperts(c, [3]expertInputs{{2, 3, 11, 4, bits[0]}, {5, 6, 12, 7, bits[1]}, {8, 9, 13, 10, bits[2]}}, 14)
		}},
}

// expertInputs are where the weights of a layer of experts are: inputs, -1 for one
// that the operator lacks, and their bits, 0 for numbers.
type expertInputs struct{ weights, scales, zeros, bias, bits int }

// expertLayer is a linear layer [E,N,K] of experts.
type expertLayer struct {
	weights, scales, zeros, bias tensor.Tensor
	bits, n, k, block, blocks    int
}

// expertLayer reads a layer of known input width; nil where it is left out.
func (c *call) expertLayer(in expertInputs, experts, k int64) (*expertLayer, error) {
	if !c.has(in.weights) {
		return nil, nil
	}
	l := &expertLayer{weights: c.tensor(in.weights), bits: in.bits, k: int(k), block: int(k), blocks: 1}
	s := l.weights.Shape
	per := int64(1)
	if in.bits > 0 {
		per = int64(8 / in.bits)
	}
	if len(s) != 3 || s[0] != experts || s[2]*per != k || s[1] < 1 {
		return nil, badInput(in.weights, "has shape %v, wants [%d,_,%d]", s, experts, k/per)
	}
	l.n = int(s[1])
	if c.has(in.bias) {
		l.bias = c.tensor(in.bias)
		if !l.bias.Shape.Equal(tensor.Shape{experts, s[1]}) {
			return nil, badInput(in.bias, "has shape %v, wants [%d,%d]", l.bias.Shape, experts, s[1])
		}
	}
	if in.bits == 0 {
		return l, nil
	}
	if !c.has(in.scales) {
		return nil, badInput(in.scales, "is left out")
	}
	l.scales = c.tensor(in.scales)
	want, zeros := tensor.Shape{experts, s[1]}, tensor.Shape{experts, (s[1] + per - 1) / per}
	if block := c.int("block_size"); c.hasAttr("block_size") && block != 0 {
		if block < 16 || block&(block-1) != 0 || k%block != 0 {
			return nil, fmt.Errorf("attribute block_size is %d, wants a power of two of at least 16 that divides %d", block, k)
		}
		l.block, l.blocks = int(block), int(k/block)
		want = tensor.Shape{experts, s[1], k / block}
		zeros = tensor.Shape{experts, s[1], (k/block + per - 1) / per}
	}
	if !l.scales.Shape.Equal(want) {
		return nil, badInput(in.scales, "has shape %v, wants %v", l.scales.Shape, want)
	}
	if c.has(in.zeros) {
		l.zeros = c.tensor(in.zeros)
		if !l.zeros.Shape.Equal(zeros) {
			return nil, badInput(in.zeros, "has shape %v, wants %v", l.zeros.Shape, zeros)
		}
	}
	return l, nil
}

// apply is y = W x + b for an expert. row is scratch space of k.
func (l *expertLayer) apply(y, x, row []float64, expert int) {
	for i := range l.n {
		at := expert*l.n + i
		if l.bits == 0 {
			loadFloat(row, l.weights, at*l.k)
		} else {
			line := l.weights.Data[at*(l.k*l.bits/8):]
			for j := range row {
				b := j / l.block
				zero := float64(int(1) << (l.bits - 1))
				if l.zeros.DType != tensor.Undefined {
					width := int(l.zeros.Shape[len(l.zeros.Shape)-1])
					if len(l.zeros.Shape) == 2 { // packed over the rows
						zero = float64(packed(l.zeros.Data[expert*width:], l.bits, i))
					} else {
						zero = float64(packed(l.zeros.Data[at*width:], l.bits, b))
					}
				}
				row[j] = (float64(packed(line, l.bits, j)) - zero) * floatAt(l.scales, at*l.blocks+b)
			}
		}
		y[i] = dot(x, row)
		if l.bias.DType != tensor.Undefined {
			y[i] += floatAt(l.bias, at)
		}
	}
}

// mixtureOfExperts sends each token through the k experts that its router scores
// highest: fc2(activation(fc1(x))), or with a third layer fc2(activation(fc1(x)) *
// fc3(x)), weighted by the softmax of the scores. Sums are in float64.
//
// Kernels take gelu by its tanh, and that of QMoE takes the softmax over the chosen
// experts alone, whatever normalize_routing_weights says.
func mixtureOfExperts(c *call, in [3]expertInputs, routerWeights int) error {
	x, router := c.tensor(0), c.tensor(1)
	rank := len(x.Shape)
	if rank != 2 && rank != 3 {
		return badInput(0, "has shape %v, wants [T,H] or [B,S,H]", x.Shape)
	}
	hidden := x.Shape[rank-1]
	if len(router.Shape) != 2 || hidden < 1 || router.Shape[0]*hidden != int64(x.Len()) || router.Shape[1] < 1 {
		return badInput(1, "has shape %v for tokens %v", router.Shape, x.Shape)
	}
	tokens, experts := int(router.Shape[0]), int(router.Shape[1])
	k := c.int("k")
	if k < 1 || k > int64(experts) {
		return fmt.Errorf("attribute k is %d for %d experts", k, experts)
	}
	if c.flag("use_sparse_mixer") || c.flag("swiglu_limit_after_activation") {
		return errors.New("attributes use_sparse_mixer and swiglu_limit_after_activation are not supported")
	}
	fc1, err := c.expertLayer(in[0], int64(experts), hidden)
	if err != nil {
		return err
	}
	fusion, kind := c.int("swiglu_fusion"), c.str("activation_type")
	inter := fc1.n
	if kind != "swiglu" {
		fusion = 0
	}
	switch {
	case fusion < 0 || fusion > 2:
		return fmt.Errorf("attribute swiglu_fusion is %d, wants 0, 1 or 2", fusion)
	case fusion > 0 && inter%2 != 0:
		return badInput(in[0].weights, "has shape %v, its rows are two for each gate", fc1.weights.Shape)
	case fusion > 0:
		inter /= 2
	}
	fc2, err := c.expertLayer(in[1], int64(experts), int64(inter))
	if err != nil {
		return err
	}
	if fc2.n != int(hidden) {
		return badInput(in[1].weights, "has shape %v, wants %d rows", fc2.weights.Shape, hidden)
	}
	fc3, err := c.expertLayer(in[2], int64(experts), hidden)
	if err != nil {
		return err
	}
	if fc3 != nil && (fusion > 0 || fc3.n != inter) || fc3 == nil && kind == "swiglu" && fusion == 0 {
		return fmt.Errorf("fc3_experts_weights go with swiglu_fusion 0, and have as many rows as fc1: %d", inter)
	}
	mix, given := router, routerWeights >= 0 && c.has(routerWeights)
	if given {
		if mix = c.tensor(routerWeights); !mix.Shape.Equal(router.Shape) {
			return badInput(routerWeights, "has shape %v, router_probs has %v", mix.Shape, router.Shape)
		}
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	scratch := int64(4*int(hidden)+3*fc1.n+3*experts) * 8
	if err := c.reserve(scratch * int64(runtime.GOMAXPROCS(0))); err != nil {
		return err
	}
	limit, alpha, beta := math.Inf(1), c.float("activation_alpha"), c.float("activation_beta")
	if c.hasAttr("swiglu_limit") {
		limit = c.float("swiglu_limit")
	}
	silu := func(g float64) float64 { return g * sigmoid(g) }
	activation := map[string]func(float64) float64{"relu": relu, "gelu": geluTanh, "silu": silu, "identity": func(g float64) float64 { return g },
		"swiglu": func(g float64) float64 { g = min(g, limit); return g * sigmoid(alpha*g) }}[kind]
	linear := func(l float64) float64 {
		if kind == "swiglu" {
			return max(-limit, min(limit, l)) + beta
		}
		return l
	}
	normalise := c.flag("normalize_routing_weights") || c.op.Name == "QMoE" && !given
	return c.parallel(tokens, 1, func(t, _ int) error {
		token, y, sum, row := make([]float64, hidden), make([]float64, hidden), make([]float64, hidden), make([]float64, max(int(hidden), inter))
		up, gate, lin := make([]float64, fc1.n), make([]float64, inter), make([]float64, inter)
		scores, weights := make([]float64, experts), make([]float64, experts)
		loadFloat(token, x, t*int(hidden))
		loadFloat(scores, router, t*experts)
		if given {
			loadFloat(weights, mix, t*experts)
		} else {
			copy(weights, scores)
			softmax(weights)
		}
		chosen, total := highest(scores, int(k)), 0.0
		for _, e := range chosen {
			total += weights[e]
		}
		for _, e := range chosen {
			fc1.apply(up, token, row[:hidden], e)
			for i := range gate {
				switch fusion {
				case 1:
					gate[i], lin[i] = up[2*i], up[2*i+1]
				case 2:
					gate[i], lin[i] = up[i], up[inter+i]
				default:
					gate[i] = up[i]
				}
			}
			if fc3 != nil {
				fc3.apply(lin, token, row[:hidden], e)
			}
			for i := range gate {
				gate[i] = activation(gate[i])
				if fusion > 0 || fc3 != nil {
					gate[i] *= linear(lin[i])
				}
			}
			fc2.apply(y, gate, row[:inter], e)
			w := weights[e]
			if normalise && total > 0 {
				w /= total
			}
			for i := range sum {
				sum[i] += w * y[i]
			}
		}
		storeFloat(out, t*int(hidden), sum)
		return nil
	})
}

// highest are the places of the k highest numbers, of equal ones the first.
func highest(v []float64, k int) []int {
	var best []int
	taken := make([]bool, len(v))
	for range k {
		at := -1
		for i, x := range v {
			if !taken[i] && (at < 0 || x > v[at]) {
				at = i
			}
		}
		taken[at] = true
		best = append(best, at)
	}
	return best
}
