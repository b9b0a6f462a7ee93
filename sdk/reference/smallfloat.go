package reference

import "math"

// smallFloat is a binary floating-point format of at most 16 bits.
type smallFloat struct {
	exp, man int // bits
	bias     int
	max      uint16 // the largest finite value
	inf      bool   // has infinities, in the IEEE place
	nan      uint16 // a NaN; 0: has none
	uz       bool   // no negative zero: its bits are the only NaN
}

// Formats, see onnx/docs/docsgen/source/technical/float8.md and float4.md for the
// 8 and 4 bit ones.
var (
	float16Format  = &smallFloat{exp: 5, man: 10, bias: 15, max: 0x7bff, inf: true, nan: 0x7e00}
	bfloat16Format = &smallFloat{exp: 8, man: 7, bias: 127, max: 0x7f7f, inf: true, nan: 0x7fc0}
	e4m3fnFormat   = &smallFloat{exp: 4, man: 3, bias: 7, max: 0x7e, nan: 0x7f}
	e4m3uzFormat   = &smallFloat{exp: 4, man: 3, bias: 8, max: 0x7f, nan: 0x80, uz: true}
	e5m2Format     = &smallFloat{exp: 5, man: 2, bias: 15, max: 0x7b, inf: true, nan: 0x7e}
	e5m2uzFormat   = &smallFloat{exp: 5, man: 2, bias: 16, max: 0x7f, nan: 0x80, uz: true}
	e2m1Format     = &smallFloat{exp: 2, man: 1, bias: 1, max: 7}
)

// encode rounds x to the nearest value, ties to even. What lies beyond the
// largest value becomes that where saturate is set or the format has neither
// infinity nor NaN, else infinity, else NaN.
func (f *smallFloat) encode(x float64, saturate bool) uint16 {
	width := f.exp + f.man
	in := math.Float64bits(x)
	sign := uint16(in>>63) << width
	if x != x {
		if f.nan == 0 {
			// As ml_dtypes does: minus zero.
			return 1 << width
		}
		if f.uz {
			return f.nan
		}
		return sign | f.nan
	}
	man := in&(1<<52-1) | 1<<52
	exp := int(in>>52&0x7ff) - 1023
	shift := 52 - f.man
	if low := 1 - f.bias; exp < low { // subnormal
		shift = min(shift+low-exp, 60)
		exp = low
	}
	q := int64(man >> shift)
	rest, half := man&(1<<shift-1), uint64(1)<<(shift-1)
	if rest > half || rest == half && q&1 == 1 {
		q++
	}
	// A number without the leading one has the exponent field of exp - 1; one that
	// was rounded up to a power of two carries into the next exponent by itself.
	bits := int64(exp+f.bias-1)<<f.man + q
	if bits > int64(f.max) {
		switch {
		case saturate || f.nan == 0:
			bits = int64(f.max)
		case f.inf:
			bits = (1<<f.exp - 1) << f.man
		case f.uz:
			return f.nan
		default:
			bits = int64(f.nan)
		}
	}
	if bits == 0 && f.uz {
		return 0
	}
	return sign | uint16(bits)
}

func (f *smallFloat) decode(b uint16) float64 {
	width := f.exp + f.man
	man := int(b) & (1<<f.man - 1)
	exp := int(b) >> f.man & (1<<f.exp - 1)
	neg := b>>width&1 == 1
	switch {
	case f.uz && b == f.nan:
		return math.NaN()
	case f.inf && exp == 1<<f.exp-1:
		if man != 0 {
			return math.NaN()
		}
		if neg {
			return math.Inf(-1)
		}
		return math.Inf(1)
	case f.nan != 0 && !f.inf && !f.uz && b&(1<<width-1) == f.nan:
		return math.NaN()
	}
	var x float64
	if exp == 0 {
		x = math.Ldexp(float64(man), 1-f.bias-f.man)
	} else {
		x = math.Ldexp(float64(man|1<<f.man), exp-f.bias-f.man)
	}
	if neg {
		x = -x
	}
	return x
}

// table decodes all values of a format of up to 8 bits.
func (f *smallFloat) table() *[256]float64 {
	var t [256]float64
	for i := range t {
		t[i] = f.decode(uint16(i) & (1<<(f.exp+f.man+1) - 1))
	}
	return &t
}

var (
	e4m3fnTable = e4m3fnFormat.table()
	e4m3uzTable = e4m3uzFormat.table()
	e5m2Table   = e5m2Format.table()
	e5m2uzTable = e5m2uzFormat.table()
	e2m1Table   = e2m1Format.table()
)

// float16From widens without a loop over exponents: it is on the hot path of
// half-precision matmuls.
func float16From(b uint16) float64 {
	sign := uint32(b&0x8000) << 16
	exp := uint32(b>>10) & 31
	man := uint32(b & 0x3ff)
	switch exp {
	case 0:
		x := float64(man) * 0x1p-24
		if sign != 0 {
			x = -x
		}
		return x
	case 31:
		return float64(math.Float32frombits(sign | 0x7f800000 | man<<13))
	}
	return float64(math.Float32frombits(sign | (exp+112)<<23 | man<<13))
}

// e8m0 is a power of two without sign: 2^(b-127), 255 is NaN.
func e8m0From(b uint8) float64 {
	if b == 255 {
		return math.NaN()
	}
	return math.Ldexp(1, int(b)-127)
}
