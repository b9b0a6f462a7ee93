package lower

import (
	"encoding/binary"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// foldBatchNorms multiplies the scale of a batch normalization into the weights of
// the convolution before it and its shift into the bias (decision 0008). Only
// weights that lie in the model file itself are changed: those of a checkpoint stay
// where they are. Numbers differ by rounding, less than 1e-6 of the largest.
func foldBatchNorms(s *simplifier) (int, error) {
	of := map[*graph.Node]string{}
	for _, n := range s.g.Nodes {
		if standard(n, "BatchNormalization") && len(n.Inputs) == 5 && unusedBut(n, 0) && n.AttrInt("training_mode", 0) == 0 &&
			s.m.Opsets[graph.DomainONNX] >= 9 {
			if conv := s.ix.Producer(n.Inputs[0]); standard(conv, "Conv") && s.only(n.Inputs[0]) && s.foldBatchNorm(conv, n) {
				of[n] = n.Inputs[0]
			}
		}
	}
	return s.bypass(of), nil
}

// floats are the elements of a constant float32 tensor.
func (s *simplifier) floats(name string) ([]float64, tensor.Shape, bool) {
	t, ok := s.constOf(name)
	if !ok || t.DType != tensor.Float32 || t.Check() != nil {
		return nil, nil, false
	}
	out := make([]float64, t.Len())
	for i := range out {
		out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:])))
	}
	return out, t.Shape, true
}

func (s *simplifier) foldBatchNorm(conv, norm *graph.Node) bool {
	if len(conv.Inputs) < 2 || len(conv.Inputs) > 3 {
		return false
	}
	w := s.own[conv.Inputs[1]]
	if w == nil || w.External != nil || !s.only(w.Name) || !sameType(s.typeOf(conv.Outputs[0]), s.typeOf(norm.Outputs[0])) {
		return false
	}
	weights, shape, ok := s.floats(w.Name)
	if !ok || len(shape) < 3 || shape[0] == 0 {
		return false
	}
	channels := int(shape[0])
	vector := func(name string) []float64 {
		v, sh, ok := s.floats(name)
		if !ok || len(sh) != 1 || len(v) != channels {
			return nil
		}
		return v
	}
	var p [4][]float64 // scale, shift, mean, variance
	for i := range p {
		if p[i] = vector(norm.Inputs[i+1]); p[i] == nil {
			return false
		}
	}
	bias := make([]float64, channels)
	if b := input(conv, 2); b != "" {
		if bias = vector(b); bias == nil {
			return false
		}
	}
	epsilon := float64(norm.AttrFloat("epsilon", 1e-5))
	newWeights, err1 := tensor.New(tensor.Float32, shape)
	newBias, err2 := tensor.New(tensor.Float32, tensor.Shape{int64(channels)})
	if err1 != nil || err2 != nil {
		return false
	}
	put := func(t tensor.Tensor, i int, v float64) bool {
		f := float32(v)
		binary.LittleEndian.PutUint32(t.Data[4*i:], math.Float32bits(f))
		return !math.IsInf(float64(f), 0) && f == f
	}
	per := len(weights) / channels
	for c := range channels {
		k := p[0][c] / math.Sqrt(p[3][c]+epsilon)
		ok := put(newBias, c, (bias[c]-p[2][c])*k+p[1][c])
		for i := c * per; i < (c+1)*per && ok; i++ {
			ok = put(newWeights, i, weights[i]*k)
		}
		if !ok {
			return false // a variance that is no variance
		}
	}
	name := norm.Name
	if name == "" {
		name = norm.Outputs[0]
	}
	in := []string{conv.Inputs[0], s.fresh(name + "/weight"), s.fresh(name + "/bias")}
	s.constant(in[1], newWeights)
	s.constant(in[2], newBias)
	conv.Inputs = in
	return true
}
