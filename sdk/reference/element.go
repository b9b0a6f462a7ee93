package reference

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

// Numbers are computed in one of three wide types and rounded or wrapped once,
// when they are stored: float64 for all floating-point types (exact for the four
// operations and the root of float32 and narrower), int64 for signed integers,
// uint64 for unsigned ones.

// class is the wide type of an element type.
type class uint8

const (
	classNone class = iota // strings, complex numbers
	classFloat
	classInt
	classUint
	classBool
)

func classOf(d tensor.DType) class {
	switch d {
	case tensor.Int8, tensor.Int16, tensor.Int32, tensor.Int64, tensor.Int4, tensor.Int2:
		return classInt
	case tensor.Uint8, tensor.Uint16, tensor.Uint32, tensor.Uint64, tensor.Uint4, tensor.Uint2:
		return classUint
	case tensor.Bool:
		return classBool
	}
	if d.IsFloat() {
		return classFloat
	}
	return classNone
}

var le = binary.LittleEndian

// packed reads element i of a type of 4 or 2 bits, lowest bits first.
func packed(b []byte, bits, i int) uint8 {
	per := 8 / bits
	return b[i/per] >> (i % per * bits) & (1<<bits - 1)
}

func setPacked(b []byte, bits, i int, v uint8) {
	per := 8 / bits
	shift := i % per * bits
	mask := uint8(1<<bits-1) << shift
	b[i/per] = b[i/per]&^mask | v<<shift&mask
}

// signed widens a two's complement number of so many bits.
func signed(v uint8, bits int) int64 { return int64(int8(v<<(8-bits))) >> (8 - bits) }

// loadFloat widens elements at, at+1, ... of a numeric or bool tensor. The data
// needs no alignment, as mapped files have none.
func loadFloat(dst []float64, t tensor.Tensor, at int) {
	b := t.Data
	switch t.DType {
	case tensor.Float32:
		b = b[at*4:]
		for i := range dst {
			dst[i] = float64(math.Float32frombits(le.Uint32(b[i*4:])))
		}
	case tensor.Float64:
		b = b[at*8:]
		for i := range dst {
			dst[i] = math.Float64frombits(le.Uint64(b[i*8:]))
		}
	case tensor.Float16:
		b = b[at*2:]
		for i := range dst {
			dst[i] = float16From(le.Uint16(b[i*2:]))
		}
	case tensor.BFloat16:
		b = b[at*2:]
		for i := range dst {
			dst[i] = float64(math.Float32frombits(uint32(le.Uint16(b[i*2:])) << 16))
		}
	case tensor.Float8E4M3:
		loadTable(dst, b[at:], e4m3fnTable)
	case tensor.Float8E4M3UZ:
		loadTable(dst, b[at:], e4m3uzTable)
	case tensor.Float8E5M2:
		loadTable(dst, b[at:], e5m2Table)
	case tensor.Float8E5M2UZ:
		loadTable(dst, b[at:], e5m2uzTable)
	case tensor.Float4E2M1:
		for i := range dst {
			dst[i] = e2m1Table[packed(b, 4, at+i)]
		}
	case tensor.Float8E8M0:
		for i := range dst {
			dst[i] = e8m0From(b[at+i])
		}
	default:
		switch classOf(t.DType) {
		case classUint:
			for i := range dst {
				dst[i] = float64(uintAt(t, at+i))
			}
		default:
			for i := range dst {
				dst[i] = float64(intAt(t, at+i))
			}
		}
	}
}

func loadTable(dst []float64, b []byte, table *[256]float64) {
	for i := range dst {
		dst[i] = table[b[i]]
	}
}

// intAt is element i of a tensor of signed or unsigned integers or bools; uint64
// values wrap.
func intAt(t tensor.Tensor, i int) int64 {
	b := t.Data
	switch t.DType {
	case tensor.Int64, tensor.Uint64:
		return int64(le.Uint64(b[i*8:]))
	case tensor.Int32:
		return int64(int32(le.Uint32(b[i*4:])))
	case tensor.Int16:
		return int64(int16(le.Uint16(b[i*2:])))
	case tensor.Int8:
		return int64(int8(b[i]))
	case tensor.Uint32:
		return int64(le.Uint32(b[i*4:]))
	case tensor.Uint16:
		return int64(le.Uint16(b[i*2:]))
	case tensor.Uint8, tensor.Bool:
		return int64(b[i])
	case tensor.Int4:
		return signed(packed(b, 4, i), 4)
	case tensor.Uint4:
		return int64(packed(b, 4, i))
	case tensor.Int2:
		return signed(packed(b, 2, i), 2)
	case tensor.Uint2:
		return int64(packed(b, 2, i))
	}
	panic(fmt.Sprintf("reference: %s is no integer type", t.DType))
}

func uintAt(t tensor.Tensor, i int) uint64 { return uint64(intAt(t, i)) }

func loadInt(dst []int64, t tensor.Tensor, at int) {
	for i := range dst {
		dst[i] = intAt(t, at+i)
	}
}

func loadUint(dst []uint64, t tensor.Tensor, at int) {
	for i := range dst {
		dst[i] = uintAt(t, at+i)
	}
}

// storeFloat rounds values to the tensor's floating-point type: to nearest, ties
// to even; what is out of range becomes infinity or NaN.
func storeFloat(t tensor.Tensor, at int, src []float64) { storeFloatAs(t, at, src, false) }

// storeFloatAs is storeFloat; saturate makes values beyond the largest of an 8
// bit type that largest one.
func storeFloatAs(t tensor.Tensor, at int, src []float64, saturate bool) {
	b := t.Data
	var f *smallFloat
	switch t.DType {
	case tensor.Float32:
		b = b[at*4:]
		for i, v := range src {
			le.PutUint32(b[i*4:], math.Float32bits(float32(v)))
		}
		return
	case tensor.Float64:
		b = b[at*8:]
		for i, v := range src {
			le.PutUint64(b[i*8:], math.Float64bits(v))
		}
		return
	case tensor.Float16:
		b = b[at*2:]
		for i, v := range src {
			le.PutUint16(b[i*2:], float16Format.encode(v, false))
		}
		return
	case tensor.BFloat16:
		b = b[at*2:]
		for i, v := range src {
			le.PutUint16(b[i*2:], bfloat16Format.encode(v, false))
		}
		return
	case tensor.Float4E2M1:
		for i, v := range src {
			setPacked(b, 4, at+i, uint8(e2m1Format.encode(v, true)))
		}
		return
	case tensor.Float8E8M0:
		for i, v := range src {
			b[at+i] = e8m0Bits(v, roundNearest, saturate)
		}
		return
	case tensor.Float8E4M3:
		f = e4m3fnFormat
	case tensor.Float8E4M3UZ:
		f = e4m3uzFormat
	case tensor.Float8E5M2:
		f = e5m2Format
	case tensor.Float8E5M2UZ:
		f = e5m2uzFormat
	default:
		panic(fmt.Sprintf("reference: %s is no floating-point type", t.DType))
	}
	for i, v := range src {
		b[at+i] = uint8(f.encode(v, saturate))
	}
}

// putInt stores the low bits of v as element i of an integer or bool tensor.
func putInt(t tensor.Tensor, i int, v int64) {
	b := t.Data
	switch t.DType {
	case tensor.Int64, tensor.Uint64:
		le.PutUint64(b[i*8:], uint64(v))
	case tensor.Int32, tensor.Uint32:
		le.PutUint32(b[i*4:], uint32(v))
	case tensor.Int16, tensor.Uint16:
		le.PutUint16(b[i*2:], uint16(v))
	case tensor.Int8, tensor.Uint8:
		b[i] = uint8(v)
	case tensor.Bool:
		b[i] = uint8(v & 1)
	case tensor.Int4, tensor.Uint4:
		setPacked(b, 4, i, uint8(v))
	case tensor.Int2, tensor.Uint2:
		setPacked(b, 2, i, uint8(v))
	default:
		panic(fmt.Sprintf("reference: %s is no integer type", t.DType))
	}
}

func storeInt(t tensor.Tensor, at int, src []int64) {
	for i, v := range src {
		putInt(t, at+i, v)
	}
}

func storeUint(t tensor.Tensor, at int, src []uint64) {
	for i, v := range src {
		putInt(t, at+i, int64(v))
	}
}

// floatAt is one element, widened.
func floatAt(t tensor.Tensor, i int) float64 {
	var v [1]float64
	loadFloat(v[:], t, i)
	return v[0]
}

func putFloat(t tensor.Tensor, i int, v float64) {
	storeFloat(t, i, []float64{v})
}

// intRange is the smallest and largest value of an integer type; that of uint64
// is cut at the largest int64.
func intRange(d tensor.DType) (lo, hi int64) {
	n := d.Bits()
	if classOf(d) == classInt {
		return -1 << (n - 1), 1<<(n-1) - 1
	}
	return 0, int64(uint64(1)<<min(n, 63) - 1)
}

// saturateInt rounds x toward zero into an integer type; what is out of range
// becomes the nearest value, NaN zero. (ONNX leaves both open.) uint64 values
// beyond int64 come back wrapped.
func saturateInt(x float64, d tensor.DType) int64 {
	if x != x {
		return 0
	}
	x = math.Trunc(x)
	lo, hi := intRange(d)
	switch {
	case x <= float64(lo):
		return lo
	case d == tensor.Uint64:
		if x >= 0x1p64 {
			return -1
		}
		return int64(uint64(x))
	case x >= float64(hi):
		return hi
	}
	return int64(x)
}

// Ways of rounding to a power of two.
const (
	roundUp = iota
	roundDown
	roundNearest
)

// e8m0Bits encodes a power of two. Zero and values below the range become the
// smallest where saturate is set, else NaN.
func e8m0Bits(x float64, mode int, saturate bool) uint8 {
	const nan = 255
	if x != x || x < 0 {
		return nan
	}
	frac, e := math.Frexp(x) // [0.5,1)
	switch {
	case x == 0:
		e = math.MinInt16
	case math.IsInf(x, 0):
		e = math.MaxInt16
	case frac == 0.5 || mode == roundDown:
		e--
	case mode == roundNearest && frac < 0.75:
		e--
	}
	e += 127
	switch {
	case e >= 0 && e < nan:
		return uint8(e)
	case !saturate:
		return nan
	case e < 0:
		return 0
	}
	return nan - 1
}
