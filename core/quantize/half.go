package quantize

import "math"

// fromHalf widens a float16; the result is exact.
func fromHalf(h uint16) float32 {
	sign, exp, man := uint32(h>>15)<<31, uint32(h>>10)&31, uint32(h)&0x3ff
	switch exp {
	case 0:
		v := float32(man) * 0x1p-24
		return math.Float32frombits(sign | math.Float32bits(v))
	case 31:
		return math.Float32frombits(sign | 0xff<<23 | man<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
}

// toHalf rounds to the nearest float16, ties to even; what is too large becomes
// infinite.
func toHalf(f float32) uint16 {
	b := math.Float32bits(f)
	sign, abs := uint16(b>>16)&0x8000, b&^(1<<31)
	switch {
	case abs > 0xff<<23:
		return sign | 0x7e00
	case abs >= 0x477ff000: // 65520, halfway to what would come after 65504
		return sign | 0x7c00
	case abs < 113<<23: // below 2^-14: multiples of 2^-24
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(abs))*0x1p24))
	}
	abs += 0xfff + abs>>13&1
	return sign | uint16(abs>>13-112<<10)
}

// finite reports whether a float16 is neither infinite nor NaN.
func finite(h uint16) bool { return h&0x7c00 != 0x7c00 }
