package lower

import (
	"github.com/accelhq/accel/sdk/tensor"
)

// numbers describes the values of an element type: for floats the bits of the
// significand and of the exponent, for integers the bits of the magnitude.
type numbers struct {
	float, signed         bool
	significand, exponent int
}

var numberTypes = map[tensor.DType]numbers{
	tensor.Bool:     {significand: 1},
	tensor.Int8:     {signed: true, significand: 7},
	tensor.Int16:    {signed: true, significand: 15},
	tensor.Int32:    {signed: true, significand: 31},
	tensor.Int64:    {signed: true, significand: 63},
	tensor.Uint8:    {significand: 8},
	tensor.Uint16:   {significand: 16},
	tensor.Uint32:   {significand: 32},
	tensor.Uint64:   {significand: 64},
	tensor.Float16:  {float: true, signed: true, significand: 11, exponent: 5},
	tensor.BFloat16: {float: true, signed: true, significand: 8, exponent: 8},
	tensor.Float32:  {float: true, signed: true, significand: 24, exponent: 8},
	tensor.Float64:  {float: true, signed: true, significand: 53, exponent: 11},
}

// holds reports whether type b has every value of type a.
func holds(b, a tensor.DType) bool {
	x, ok1 := numberTypes[a]
	y, ok2 := numberTypes[b]
	switch {
	case !ok1 || !ok2 || a != tensor.Bool && b == tensor.Bool:
		return false
	case a == b:
		return true
	case x.float:
		return y.float && y.significand >= x.significand && y.exponent >= x.exponent
	case y.float:
		// 2^significand must not overflow: 2^16 does in float16, whose significand
		// does not hold it anyway.
		return y.significand >= x.significand
	}
	return y.significand >= x.significand && (y.signed || !x.signed)
}

// mergeCasts lets a cast read what a cast before it read, where that one lost
// nothing and the second would do the same to the value as it was.
func mergeCasts(s *simplifier) (int, error) {
	count := 0
	for _, n := range s.g.Nodes {
		if !standard(n, "Cast") || len(n.Inputs) != 1 {
			continue
		}
		p := s.ix.Producer(n.Inputs[0])
		if !standard(p, "Cast") || len(p.Inputs) != 1 {
			continue
		}
		from, between, to := s.elem(p.Inputs[0]), tensor.DType(p.AttrInt("to", 0)), tensor.DType(n.AttrInt("to", 0))
		if _, known := numberTypes[to]; !known || !holds(between, from) {
			continue
		}
		if numberTypes[between].float && !numberTypes[from].float && !numberTypes[to].float && !holds(to, from) {
			continue // too large a float is not cut off as an integer is
		}
		n.Inputs[0] = p.Inputs[0]
		count++
	}
	return count, nil
}
