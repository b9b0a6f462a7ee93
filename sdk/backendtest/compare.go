package backendtest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

// Tolerance is how far a result may be from the reference's: at most Abs + Rel *
// the largest magnitude in the reference's tensor.
type Tolerance struct{ Abs, Rel float64 }

// tolerances are the defaults; types that are not here must be equal.
var tolerances = map[tensor.DType]Tolerance{
	tensor.Float64:  {1e-12, 1e-11},
	tensor.Float32:  {1e-6, 1e-5},
	tensor.Float16:  {1e-3, 4e-3},
	tensor.BFloat16: {1e-2, 2e-2},
}

// compare reports how got differs from want.
func compare(got, want tensor.Tensor, tol Tolerance) error {
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		return fmt.Errorf("it is %s%v, the reference's %s%v", got.DType, got.Shape, want.DType, want.Shape)
	}
	g, w := numbers(got), numbers(want)
	if g == nil {
		if string(got.Data) != string(want.Data) {
			return fmt.Errorf("its bytes are not the reference's")
		}
		return nil
	}
	largest := 0.0
	for _, v := range w {
		if !math.IsInf(v, 0) && !math.IsNaN(v) {
			largest = max(largest, math.Abs(v))
		}
	}
	bound := tol.Abs + tol.Rel*largest
	worst, at := 0.0, -1
	for i := range w {
		if g[i] == w[i] || math.IsNaN(g[i]) && math.IsNaN(w[i]) {
			continue
		}
		d := math.Abs(g[i] - w[i])
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return fmt.Errorf("element %d is %v, the reference's %v", i, g[i], w[i])
		}
		if d > worst {
			worst, at = d, i
		}
	}
	if worst > bound {
		return fmt.Errorf("element %d is %v, the reference's %v: %.3g apart, allowed are %.3g", at, g[at], w[at], worst, bound)
	}
	return nil
}

// numbers reads elements of a byte or more that are numbers; nil for others.
func numbers(t tensor.Tensor) []float64 {
	var read func([]byte) float64
	le := binary.LittleEndian
	switch t.DType {
	case tensor.Float32:
		read = func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) }
	case tensor.Float64:
		read = func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }
	case tensor.Float16:
		read = func(b []byte) float64 { return fromHalf(le.Uint16(b)) }
	case tensor.BFloat16:
		read = func(b []byte) float64 { return float64(math.Float32frombits(uint32(le.Uint16(b)) << 16)) }
	case tensor.Int8:
		read = func(b []byte) float64 { return float64(int8(b[0])) }
	case tensor.Uint8, tensor.Bool:
		read = func(b []byte) float64 { return float64(b[0]) }
	case tensor.Int16:
		read = func(b []byte) float64 { return float64(int16(le.Uint16(b))) }
	case tensor.Uint16:
		read = func(b []byte) float64 { return float64(le.Uint16(b)) }
	case tensor.Int32:
		read = func(b []byte) float64 { return float64(int32(le.Uint32(b))) }
	case tensor.Uint32:
		read = func(b []byte) float64 { return float64(le.Uint32(b)) }
	case tensor.Int64:
		read = func(b []byte) float64 { return float64(int64(le.Uint64(b))) }
	case tensor.Uint64:
		read = func(b []byte) float64 { return float64(le.Uint64(b)) }
	default:
		return nil
	}
	size := t.DType.Bits() / 8
	out := make([]float64, len(t.Data)/size)
	for i := range out {
		out[i] = read(t.Data[i*size:])
	}
	return out
}

// fromHalf reads IEEE 754 binary16.
func fromHalf(h uint16) float64 {
	sign := 1.0
	if h>>15 == 1 {
		sign = -1
	}
	exp, frac := int(h>>10&31), float64(h&1023)
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 31:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}

// toHalf rounds to IEEE 754 binary16, to nearest and even. v is finite and in its
// range.
func toHalf(v float64) uint16 {
	sign := uint16(0)
	if math.Signbit(v) {
		sign, v = 1<<15, -v
	}
	if v == 0 {
		return sign
	}
	exp := max(math.Ilogb(v), -14)
	n := uint16(math.RoundToEven(math.Ldexp(v, 10-exp))) // 1024 to 2048, or less when subnormal
	return sign + uint16(exp+14)<<10 + n
}

// toBFloat rounds to bfloat16, to nearest and even.
func toBFloat(v float64) uint16 {
	b := math.Float32bits(float32(v))
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}
