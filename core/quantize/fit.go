package quantize

import "math"

// grid is the numbers that codes of a block can mean: scale*code + min, or
// scale*(code - middle) where there are no mins.
type grid struct {
	top    float32 // the largest code
	middle float32
	mins   bool
}

func gridOf(bits int64, mins bool) grid {
	return grid{top: float32(int(1)<<bits - 1), middle: float32(int(1) << (bits - 1)), mins: mins}
}

// line is a scale and a min as they are stored, and what they mean.
type line struct {
	scale, min uint16 // float16
	s, m       float32
}

// line rounds a scale and a min to float16. Without mins the min follows from the scale.
func (g grid) line(s, m float32) line {
	l := line{scale: toHalf(s)}
	l.s = fromHalf(l.scale)
	if !g.mins {
		l.m = -g.middle * l.s
		return l
	}
	l.min = toHalf(m)
	l.m = fromHalf(l.min)
	return l
}

// finite reports whether float16 holds it.
func (l line) finite() bool { return finite(l.scale) && finite(l.min) }

// codes rounds numbers to the nearest on a line.
func (g grid) codes(w []float32, l line, codes []uint8) {
	codes = codes[:len(w)]
	inv := float32(0)
	if l.s != 0 {
		inv = 1 / l.s
	}
	base, top := 0.5-l.m*inv, g.top+0.5
	for i, x := range w {
		t := x*inv + base
		if !(t > 0) { // NaN too
			t = 0
		} else if t > top {
			t = top
		}
		codes[i] = uint8(int32(t))
	}
}

// over is the line over a part of the range of a block. Over all of it the number that is
// farthest out is on the line, and with mins the other end as well.
func (g grid) over(w []float32, part float32) line {
	lo, hi := w[0], w[0]
	for _, x := range w[1:] {
		if x < lo {
			lo = x
		}
		if x > hi {
			hi = x
		}
	}
	if g.mins {
		center, half := (lo+hi)/2, (hi-lo)/2*part
		return g.line(2*half/g.top, center-half)
	}
	// There is one code more below zero than above: the larger end is put there.
	far := hi
	if -lo > hi {
		far = lo
	}
	return g.line(-far*part/g.middle, 0)
}

// A fit takes turns: numbers to the nearest codes, and the line to the least squares of
// what these codes leave over, until that gains little. It is the half-quadratic scheme of
// HQQ (Badri and Shaji 2023) with both scale and min free and squares as the norm.
const (
	fitRounds = 6
	fitGain   = 1e-3 // of the error, below which a further round is not worth it
)

// fitter fits lines to blocks. It is used by one goroutine.
type fitter struct {
	grid
	starts []float32 // parts of the range that a fit begins with
}

func newFitter(f Format) *fitter {
	starts := []float32{1}
	switch {
	case f.Bits <= 2:
		starts = []float32{1, 0.8, 0.6}
	case f.Bits <= 4:
		starts = []float32{1, 0.85}
	}
	return &fitter{gridOf(f.Bits, f.Mins), starts}
}

// nearest rounds a block over its whole range.
func (f *fitter) nearest(w []float32, codes []uint8) line {
	l := f.over(w, 1)
	f.codes(w, l, codes)
	return l
}

// fit rounds a block on the line with the smallest sum of weighted squares of errors that
// its turns come to. importance (nil: all 1) is of columns.
func (f *fitter) fit(w, importance []float32, codes []uint8) line {
	best, least := f.over(w, 1), float32(math.Inf(1))
	for _, part := range f.starts {
		l, last := f.over(w, part), float32(math.Inf(1))
		for range fitRounds {
			if !l.finite() {
				break
			}
			var e float32
			var next line
			if importance == nil {
				e, next = f.turn(w, l)
			} else {
				e, next = f.weightedTurn(w, importance, l)
			}
			if e < least {
				best, least = l, e
			}
			if !(e < last*(1-fitGain)) {
				break
			}
			l, last = next, e
		}
	}
	f.codes(w, best, codes)
	return best
}

// turn rounds to the nearest on a line, and gives the sum of squares of errors and the
// line of least squares for these codes.
func (f *fitter) turn(w []float32, l line) (e float32, next line) {
	inv := float32(0)
	if l.s != 0 {
		inv = 1 / l.s
	}
	base, top := 0.5-l.m*inv, f.top+0.5
	s, m, middle := l.s, l.m, f.middle
	var q, qq, x, qx float32
	for _, v := range w {
		t := v*inv + base
		if !(t > 0) {
			t = 0
		} else if t > top {
			t = top
		}
		c := float32(int32(t))
		d := v - (s*c + m)
		e += d * d
		c -= middle
		q += c
		qq += c * c
		x += v
		qx += c * v
	}
	return e, f.solve(float32(len(w)), q, qq, x, qx, l)
}

// weightedTurn is turn with a weight for each square.
func (f *fitter) weightedTurn(w, importance []float32, l line) (e float32, next line) {
	importance = importance[:len(w)]
	inv := float32(0)
	if l.s != 0 {
		inv = 1 / l.s
	}
	base, top := 0.5-l.m*inv, f.top+0.5
	var n, q, qq, x, qx float32
	for i, v := range w {
		t := v*inv + base
		if !(t > 0) {
			t = 0
		} else if t > top {
			t = top
		}
		c := float32(int32(t))
		h := importance[i]
		d := v - (l.s*c + l.m)
		e += d * d * h
		c -= f.middle
		n += h
		q += h * c
		qq += h * c * c
		x += h * v
		qx += h * c * v
	}
	return e, f.solve(n, q, qq, x, qx, l)
}

// solve is the line of least squares from sums over weights: their number, codes (less the
// middle), their squares, numbers, and products.
func (f *fitter) solve(n, q, qq, x, qx float32, was line) line {
	if !f.mins {
		if qq <= 0 {
			return was
		}
		return f.line(qx/qq, 0)
	}
	d := n*qq - q*q
	if d <= 1e-6*n*qq {
		return was
	}
	s := (n*qx - q*x) / d
	return f.line(s, (x-s*q)/n-f.middle*s)
}

// squares is the sum of squares of errors.
func squares(w []float32, codes []uint8, l line) float32 {
	codes = codes[:len(w)]
	var sum float32
	for i, x := range w {
		d := x - (l.s*float32(codes[i]) + l.m)
		sum += d * d
	}
	return sum
}
