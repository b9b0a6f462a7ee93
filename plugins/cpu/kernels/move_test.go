package kernels

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

func TestCopy(t *testing.T) {
	type layout struct {
		dims     []int64
		src, dst []int64
		from, to int64 // elements before the first one
		srcSize  int64
		dstSize  int64
	}
	// transposed gives the source strides of a permutation.
	transposed := func(perm []int, in ...int64) layout {
		strides := make([]int64, len(in))
		n := int64(1)
		for i := len(in) - 1; i >= 0; i-- {
			strides[i] = n
			n *= in[i]
		}
		var l layout
		l.srcSize, l.dstSize = n, n
		for _, p := range perm {
			l.dims, l.src = append(l.dims, in[p]), append(l.src, strides[p])
		}
		l.dst = make([]int64, len(in))
		for i, m := len(in)-1, int64(1); i >= 0; i-- {
			l.dst[i] = m
			m *= l.dims[i]
		}
		return l
	}
	layouts := map[string]layout{
		"scalar":        {nil, nil, nil, 0, 0, 1, 1},
		"long":          {[]int64{100003}, []int64{1}, []int64{1}, 0, 0, 100003, 100003},
		"nothing":       {[]int64{3, 0}, []int64{4, 1}, []int64{4, 1}, 0, 0, 12, 12},
		"transpose":     transposed([]int{1, 0}, 33, 65),
		"heads":         transposed([]int{0, 2, 1, 3}, 2, 17, 3, 8),
		"keys":          transposed([]int{0, 2, 3, 1}, 2, 17, 3, 8),
		"reverse dims":  transposed([]int{4, 3, 2, 1, 0}, 2, 3, 4, 5, 6),
		"eight":         transposed([]int{7, 1, 5, 3, 4, 2, 6, 0}, 2, 3, 2, 3, 2, 3, 2, 3),
		"slice":         {[]int64{5, 7}, []int64{20, 2}, []int64{7, 1}, 3, 0, 100, 35},
		"concat":        {[]int64{5, 7}, []int64{7, 1}, []int64{12, 1}, 0, 5, 35, 60},
		"expand":        {[]int64{4, 9, 3}, []int64{3, 0, 1}, []int64{27, 3, 1}, 0, 0, 12, 108},
		"backwards":     {[]int64{19}, []int64{-1}, []int64{1}, 18, 0, 19, 19},
		"strided write": {[]int64{19, 2}, []int64{2, 1}, []int64{8, 3}, 0, 1, 38, 160},
	}
	onEveryISA(t, func(t *testing.T, r *Runner) {
		for name, l := range layouts {
			for _, bytes := range []int64{1, 2, 4, 8} {
				mem := newMemory()
				source := make([]uint64, l.srcSize)
				raw := make([]byte, l.srcSize*bytes)
				for i := range source {
					source[i] = uint64(i)*0x9E3779B97F4A7C15 | 1
					for b := range bytes {
						raw[int64(i)*bytes+b] = byte(source[i] >> (8 * b))
					}
				}
				pad := make([]uint64, (l.srcSize*bytes+7)/8) // uint64s, so that elements are aligned
				src, sv := put(mem, pad)
				copyBytes(sv, raw)
				dst, dv := put(mem, make([]uint64, (l.dstSize*bytes+7)/8))
				o := &Copy{Src: src, Dst: dst, Rank: uint32(len(l.dims)), ElemBytes: uint32(bytes)}
				o.Src.Offset, o.Dst.Offset = l.from*bytes, l.to*bytes
				copy(o.Dims[:], l.dims)
				copy(o.SrcStride[:], l.src)
				copy(o.DstStride[:], l.dst)
				mem.run(t, r, o)
				want := make([]byte, len(dv)*8)
				n := int64(1)
				for _, d := range l.dims {
					n *= d
				}
				for linear := range n {
					s, d, rest := l.from, l.to, linear
					for i := len(l.dims) - 1; i >= 0; i-- {
						s += rest % l.dims[i] * l.src[i]
						d += rest % l.dims[i] * l.dst[i]
						rest /= l.dims[i]
					}
					copy(want[d*bytes:(d+1)*bytes], raw[s*bytes:(s+1)*bytes])
				}
				if got := bytesOf(dv); !slices.Equal(got, want) {
					t.Fatalf("%s of %d bytes: %v, want %v", name, bytes, got[:min(len(got), 64)], want[:min(len(want), 64)])
				}
			}
		}
	})
}

func bytesOf(s []uint64) []byte {
	var out []byte
	for _, v := range s {
		for b := range 8 {
			out = append(out, byte(v>>(8*b)))
		}
	}
	return out
}

func copyBytes(dst []uint64, raw []byte) {
	for i, b := range raw {
		dst[i/8] |= uint64(b) << (8 * (i % 8))
	}
}

func TestGather(t *testing.T) {
	onEveryISA(t, func(t *testing.T, r *Runner) {
		for _, inner := range []int64{1, 4, 7, 384, 5000} {
			const outer, axis = 3, 11
			data := make([]byte, outer*axis*inner)
			for i := range data {
				data[i] = byte(i * 7)
			}
			index := []int32{0, 10, -1, -11, 5, 5, 3}
			mem := newMemory()
			o := &Gather{Outer: outer, Axis: axis, Inner: inner, Count: int64(len(index)), IndexType: uint32(tensor.Int32)}
			var y []byte
			o.Data, _ = put(mem, data)
			o.Index, index = put(mem, index)
			o.Y, y = put(mem, make([]byte, outer*o.Count*inner))
			mem.run(t, r, o)
			for i := range int64(outer) {
				for j, id := range index {
					from := (i*axis + (int64(id)+axis)%axis) * inner
					if !slices.Equal(y[(i*o.Count+int64(j))*inner:][:inner], data[from:from+inner]) {
						t.Fatalf("inner %d: row %d of %d is wrong", inner, j, i)
					}
				}
			}
			for _, bad := range []int32{axis, -axis - 1, math.MaxInt32} {
				index[3] = bad
				y[0] = 0xEE
				err := mem.try(t, r, o)
				var e *Error
				if !errors.As(err, &e) || e.Code != CodeIndex || e.Value != int64(bad) || e.Limit != axis || e.Op != 0 {
					t.Fatalf("index %d gives %v", bad, err)
				}
				if y[0] != 0xEE {
					t.Fatal("something was gathered before the index was refused")
				}
			}
		}
	})
}

func TestEmbedRefusesBadIDs(t *testing.T) {
	r := newRunner(t, Config{})
	for _, id := range []int64{-1, 9, math.MaxInt64, math.MinInt64} {
		mem := newMemory()
		o := &Embed{Tables: 1, Count: 3, Width: 2, LDY: 2, IDsType: uint32(tensor.Int64), Norm: EmbedPlain}
		o.Table[0], _ = put(mem, make([]float32, 18))
		o.TableRows[0] = 9
		o.IDs[0], _ = put(mem, []int64{8, id, 0})
		o.Y, _ = put(mem, make([]float32, 6))
		var e *Error
		if err := mem.try(t, r, o); !errors.As(err, &e) || e.Code != CodeIndex || e.Value != id || e.Limit != 9 {
			t.Fatalf("id %d gives %v", id, err)
		}
	}
}

func TestCast(t *testing.T) {
	r := newRunner(t, Config{})
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	cases := []struct {
		from tensor.DType
		src  any
		to   tensor.DType
		want any
	}{
		{tensor.Float32, []float32{0, -1.9, 1.9, nan, inf, -inf, 3e9, 200, -200}, tensor.Int8, []int8{0, -1, 1, 0, 127, -128, 127, 127, -128}},
		{tensor.Float32, []float32{-1, 0.9, nan, 300, inf}, tensor.Uint8, []uint8{0, 0, 0, 255, 255}},
		{tensor.Float32, []float32{nan, 1e30, -1e30, 16777217, -2.5}, tensor.Int64, []int64{0, math.MaxInt64, math.MinInt64, 16777216, -2}},
		{tensor.Float32, []float32{2147483520, 2147483648, -2147483648, -3e9}, tensor.Int32, []int32{2147483520, math.MaxInt32, math.MinInt32, math.MinInt32}},
		{tensor.Float32, []float32{1e30, -5, 4294967040}, tensor.Uint32, []uint32{math.MaxUint32, 0, 4294967040}},
		{tensor.Float64, []float64{1e30, 18446744073709549568, -1}, tensor.Uint64, []uint64{math.MaxUint64, 18446744073709549568, 0}},
		{tensor.Float64, []float64{0.1, 1e300, -1e-300}, tensor.Float32, []float32{0.1, inf, float32(math.Copysign(0, -1))}},
		{tensor.Int64, []int64{1 << 40, -1, 300}, tensor.Int8, []int8{0, -1, 44}},
		{tensor.Int64, []int64{1<<53 + 1, math.MinInt64}, tensor.Float64, []float64{1 << 53, math.MinInt64}},
		{tensor.Int64, []int64{16777217, 16777219}, tensor.Float32, []float32{16777216, 16777220}},
		{tensor.Uint64, []uint64{math.MaxUint64}, tensor.Float32, []float32{18446744073709551616}},
		{tensor.Bool, []uint8{0, 1, 255}, tensor.Float32, []float32{0, 1, 1}},
		{tensor.Float32, []float32{0, nan, -0.1}, tensor.Bool, []uint8{0, 1, 1}},
		{tensor.Bool, []uint8{7}, tensor.Bool, []uint8{1}},
		{tensor.Float32, []float32{1, 65504, 65519, 65520, 6e-8, 2.9e-8, 2.99e-8, nan, -inf, 0.33325195}, tensor.Float16, []uint16{0x3c00, 0x7bff, 0x7bff, 0x7c00, 1, 0, 1, 0x7e00, 0xfc00, 0x3555}},
		{tensor.Float16, []uint16{0x3c00, 0x7bff, 0x7c00, 1, 0x03ff, 0x8000, 0xfc00, 0x3555}, tensor.Float32, []float32{1, 65504, inf, 0x1p-24, 0x3ffp-24, float32(math.Copysign(0, -1)), -inf, 0.33325195}},
		{tensor.Float32, []float32{1, 1.00390625, 1.01171875, 1.0039064, nan, 3.4e38, -inf}, tensor.BFloat16, []uint16{0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x7fc0, 0x7f80, 0xff80}},
		{tensor.BFloat16, []uint16{0x3f81, 0xff80}, tensor.Float32, []float32{1.0078125, -inf}},
		// Halfway once rounded to float32, not before: 1 + 2^-11 + 2^-40, and an int64 like it.
		{tensor.Float64, []float64{1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-11 - 0x1p-40}, tensor.Float16, []uint16{0x3c01, 0x3c00}},
		{tensor.Int64, []int64{1<<62 + 1<<54 + 1, -(1<<62 + 1<<54 + 1), 1<<62 + 1<<54}, tensor.BFloat16, []uint16{0x5e81, 0xde81, 0x5e80}},
		{tensor.Int16, []int16{-5, 300}, tensor.Uint16, []uint16{65531, 300}},
	}
	for _, c := range cases {
		mem := newMemory()
		var src, dst Ref
		var n int64
		var got func() (string, bool)
		switch s := c.src.(type) {
		case []float32:
			src, _ = put(mem, s)
			n = int64(len(s))
		case []float64:
			src, _ = put(mem, s)
			n = int64(len(s))
		case []int64:
			src, _ = put(mem, s)
			n = int64(len(s))
		case []uint64:
			src, _ = put(mem, s)
			n = int64(len(s))
		case []uint8:
			src, _ = put(mem, s)
			n = int64(len(s))
		case []uint16:
			src, _ = put(mem, s)
			n = int64(len(s))
		case []int16:
			src, _ = put(mem, s)
			n = int64(len(s))
		}
		switch w := c.want.(type) {
		case []float32:
			dst, got = outputs(mem, w)
		case []float64:
			dst, got = outputs(mem, w)
		case []int8:
			dst, got = outputs(mem, w)
		case []uint8:
			dst, got = outputs(mem, w)
		case []uint16:
			dst, got = outputs(mem, w)
		case []int32:
			dst, got = outputs(mem, w)
		case []uint32:
			dst, got = outputs(mem, w)
		case []int64:
			dst, got = outputs(mem, w)
		case []uint64:
			dst, got = outputs(mem, w)
		}
		mem.run(t, r, &Cast{Src: src, Dst: dst, N: n, SrcType: uint32(c.from), DstType: uint32(c.to)})
		if text, ok := got(); !ok {
			t.Errorf("%v %v as %v: %s", c.from, c.src, c.to, text)
		}
	}
}

// Every half-precision number goes to f32 and back.
func TestCastOfEveryHalf(t *testing.T) {
	r := newRunner(t, Config{Threads: 2})
	all := make([]uint16, 1<<16)
	for i := range all {
		all[i] = uint16(i)
	}
	for _, d := range []tensor.DType{tensor.Float16, tensor.BFloat16} {
		mem := newMemory()
		src, _ := put(mem, all)
		wide, wv := put(mem, make([]float32, len(all)))
		back, bv := put(mem, make([]uint16, len(all)))
		n := int64(len(all))
		mem.run(t, r, &Cast{Src: src, Dst: wide, N: n, SrcType: uint32(d), DstType: uint32(tensor.Float32)},
			&Cast{Src: wide, Dst: back, N: n, SrcType: uint32(tensor.Float32), DstType: uint32(d)})
		for i, b := range bv {
			if wv[i] == wv[i] && b != all[i] {
				t.Fatalf("%v %#x is %g, and back %#x", d, i, wv[i], b)
			}
		}
	}
}

// outputs makes room for values like want, and a function that compares.
func outputs[T comparable](mem *memory, want []T) (Ref, func() (string, bool)) {
	ref, got := put(mem, make([]T, len(want)))
	return ref, func() (string, bool) {
		return fmt.Sprintf("%v, want %v", got, want), slices.Equal(got, want)
	}
}
