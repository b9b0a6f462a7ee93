package reference

import (
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// With Options.RoundLate a sum of products is rounded to float32 once, after what is
// added to it and what it is multiplied by: bias, residual, scale. Between these nodes
// it stays in float64, where nothing else reads it. Backends that fuse such nodes do no
// less; rounding after each node takes the outputs of mobilebert three times as far
// from the truth.
//
// Chains end there. Softmax, comparisons, rounding to integers and casts see
// float32 values: an overflow is an infinity, and equal scores are equal.
var (
	sumsOfProducts = []string{"MatMul", "Gemm", "Conv", "ConvTranspose"}
	linkOperators  = []string{"Add", "Sub", "Mul", "Div"}
)

// is reports whether a step computes one of ONNX's operators.
func (s *step) is(names []string) bool {
	return s.op != nil && s.op.Domain == graph.DomainONNX && slices.Contains(names, s.op.Name)
}

// links are the slots between two nodes of a chain: what steps make of float32
// values may lie in them as float64. kept are the slots that are read from outside.
func (p *plan) links(steps []*step, kept []bool) []bool {
	readers := make([]int, len(p.names))
	inside := make([]bool, len(p.names)) // a link operator reads it
	for _, st := range steps {
		reads := st.is(linkOperators)
		st.uses(func(slot int) {
			readers[slot]++
			inside[slot] = reads
		})
	}
	links := make([]bool, len(p.names))
	for _, st := range steps {
		follows := st.is(linkOperators) && slices.ContainsFunc(st.in, func(slot int) bool { return slot >= 0 && links[slot] })
		if !follows && !st.is(sumsOfProducts) {
			continue
		}
		if out := st.out[0]; out >= 0 { // they have one output each
			links[out] = readers[out] == 1 && inside[out] && !kept[out]
		}
	}
	return links
}

// widening is what a call has to do with links.
type widening struct {
	in   []bool // inputs that are float64 and stand for float32
	link bool   // output 0 is a link
	done bool   // output 0 is float64 and stands for float32
}

func (f *frame) widening(st *step) widening {
	w := widening{link: f.links != nil && len(st.out) > 0 && st.out[0] >= 0 && f.links[st.out[0]]}
	for i, slot := range st.in {
		if slot >= 0 && f.wide[slot] {
			if w.in == nil {
				w.in = make([]bool, len(st.in))
			}
			w.in[i] = true
		}
	}
	return w
}

// declared is the element type that input i has in the graph.
func (c *call) declared(i int) tensor.DType {
	if i < len(c.wide.in) && c.wide.in[i] {
		return tensor.Float32
	}
	return c.in[i].Tensor.DType
}

// stored is the element type in which output i is made where the operator computes
// type d. Operators in chains have one type for all inputs and the output.
func (c *call) stored(i int, d tensor.DType) tensor.DType {
	if i != 0 {
		return d
	}
	if slices.Contains(c.wide.in, true) {
		d = tensor.Float32
	}
	if c.wide.link && d == tensor.Float32 {
		c.wide.done = true
		d = tensor.Float64
	}
	return d
}
