package reference

import (
	"fmt"
	"math"
	"math/cmplx"

	"github.com/accelhq/accel/sdk/tensor"
)

var signalOps = []spec{
	{"DFT", since(17), "input T:float, dft_length? idx -> output T", "axis int=1, inverse int=0, onesided int=0", dft},
	{"DFT", since(20), "input T:float, dft_length? idx, axis? i64 -> output T", "inverse int=0, onesided int=0", dft},
	{"STFT", since(17), "signal T:float, frame_step idx, window? T, frame_length? idx -> output T", "onesided int=1", stft},
}

// fourier is sum x[k] exp(sign * 2 pi i jk/n) for j < len(dst); x counts as n long,
// cut or filled with zeros. Twiddles are taken from a table, so that large jk lose
// no precision.
func fourier(dst, x []complex128, n int, sign float64) {
	table := make([]complex128, n)
	for k := range table {
		table[k] = cmplx.Rect(1, sign*2*math.Pi*float64(k)/float64(n))
	}
	x = x[:min(n, len(x))]
	for j := range dst {
		sum := complex128(0)
		at := 0
		for _, v := range x {
			sum += v * table[at]
			if at += j; at >= n {
				at -= n
			}
		}
		dst[j] = sum
	}
}

func dft(c *call) error {
	x := c.tensor(0)
	rank := len(x.Shape)
	if rank < 2 || x.Shape[rank-1] != 1 && x.Shape[rank-1] != 2 {
		return badInput(0, "has shape %v, wants a last dimension of 1 or 2", x.Shape)
	}
	at := int64(-2)
	if c.op.Version < 20 {
		at = c.int("axis")
	} else if c.has(2) {
		var err error
		if at, err = c.intOf(2); err != nil {
			return err
		}
	}
	axis, err := axisOf(at, rank)
	if err != nil {
		return err
	}
	if axis == rank-1 {
		return fmt.Errorf("axis %d holds real and imaginary parts", axis)
	}
	inverse, onesided := c.flag("inverse"), c.flag("onesided")
	given := int(x.Shape[axis])
	n := given
	if inverse && onesided {
		n = 2 * (given - 1)
	}
	if c.has(1) {
		v, err := c.intOf(1)
		if err != nil {
			return err
		}
		if v < 1 || v > maxSpatial {
			return badInput(1, "is %d", v)
		}
		n = int(v)
	}
	s := x.Shape.Clone()
	s[axis], s[rank-1] = int64(n), 2
	switch {
	case onesided && inverse:
		s[rank-1] = 1
	case onesided:
		s[axis] = int64(n/2 + 1)
	}
	if n < 1 {
		return badInput(0, "has shape %v: axis %d is too short", x.Shape, axis)
	}
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	parts, outParts := int(x.Shape[rank-1]), int(s[rank-1])
	length := int(s[axis])
	inner := elements(x.Shape[axis+1 : rank-1])
	outer := elements(x.Shape[:axis])
	if err := c.reserve(int64(n) * 64); err != nil {
		return err
	}
	return c.parallel(outer*inner, 1, func(row, _ int) error {
		in := make([]complex128, max(given, n))
		for k := range given {
			from := ((row/inner*given+k)*inner + row%inner) * parts
			in[k] = complex(floatAt(x, from), 0)
			if parts == 2 {
				in[k] = complex(real(in[k]), floatAt(x, from+1))
			}
		}
		sign := -1.0
		if inverse {
			sign = 1
			if onesided {
				// The other half is the conjugate.
				for k := n/2 + 1; k < n; k++ {
					in[k] = cmplx.Conj(in[n-k])
				}
				in[0] = complex(real(in[0]), 0)
				if n%2 == 0 {
					in[n/2] = complex(real(in[n/2]), 0)
				}
			}
		}
		y := make([]complex128, length)
		fourier(y, in, n, sign)
		for k, v := range y {
			if inverse {
				v /= complex(float64(n), 0)
			}
			to := ((row/inner*length+k)*inner + row%inner) * outParts
			putFloat(out, to, real(v))
			if outParts == 2 {
				putFloat(out, to+1, imag(v))
			}
		}
		return nil
	})
}

func stft(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) != 3 || x.Shape[2] != 1 && x.Shape[2] != 2 {
		return badInput(0, "has shape %v, wants [batch,length,1 or 2]", x.Shape)
	}
	length, parts := x.Shape[1], int(x.Shape[2])
	step, err := c.intOf(1)
	if err != nil {
		return err
	}
	n := length
	if c.has(2) {
		n = int64(c.tensor(2).Len())
	}
	if c.has(3) {
		if n, err = c.intOf(3); err != nil {
			return err
		}
	}
	if step < 1 || n < 1 || n > length || c.has(2) && !c.tensor(2).Shape.Equal(tensor.Shape{n}) {
		return fmt.Errorf("frames of %d every %d do not fit a signal of %d with window %v", n, step, length, c.tensor(2).Shape)
	}
	frames := (length-n)/step + 1
	bins := n
	if c.flag("onesided") {
		if parts == 2 {
			return badInput(0, "is complex: its spectrum has two sides")
		}
		bins = n/2 + 1
	}
	out, err := c.make(0, x.DType, tensor.Shape{x.Shape[0], frames, bins, 2})
	if err != nil || out.Len() == 0 {
		return err
	}
	window := make([]float64, n)
	for i := range window {
		window[i] = 1
	}
	if c.has(2) {
		loadFloat(window, c.tensor(2), 0)
	}
	return c.parallel(int(x.Shape[0]*frames), 1, func(item, _ int) error {
		b, f := int64(item)/frames, int64(item)%frames
		in := make([]complex128, n)
		for k := range in {
			at := int(b*length+f*step+int64(k)) * parts
			re, im := floatAt(x, at), 0.0
			if parts == 2 {
				im = floatAt(x, at+1)
			}
			in[k] = complex(re*window[k], im*window[k])
		}
		y := make([]complex128, bins)
		fourier(y, in, int(n), -1)
		for k, v := range y {
			putFloat(out, (item*int(bins)+k)*2, real(v))
			putFloat(out, (item*int(bins)+k)*2+1, imag(v))
		}
		return nil
	})
}
