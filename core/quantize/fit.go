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

// widest is the line over the whole range of a block: the number that is farthest out is
// on it, and with mins the other end as well.
func (g grid) widest(w []float32) line { return g.over(w, 1) }

// over is the line over a part of the range of a block, around its middle or around zero.
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

// Of the half-quadratic fit (after HQQ, Badri and Shaji 2023): the norm |error|^p, with
// p below 1 so that few large weights do not rule a block, is split into a shrinkage of
// errors and a least-squares problem, which are solved in turns.
const (
	fitNorm   = 0.7
	fitRounds = 8
	fitBeta   = 10.0 // relative to the largest weight of a block
	fitGrowth = 1.05
)

// fitter fits lines to blocks. It is used by one goroutine.
type fitter struct {
	grid
	best, trial []uint8
	narrow      []float32 // parts of the range that a fit begins with
}

func newFitter(f Format) *fitter {
	ft := &fitter{grid: gridOf(f.Bits, f.Mins), best: make([]uint8, f.Block), trial: make([]uint8, f.Block), narrow: []float32{1}}
	if f.Bits <= 4 {
		ft.narrow = []float32{1, 0.85}
	}
	if f.Bits <= 2 {
		ft.narrow = []float32{1, 0.8, 0.6}
	}
	return ft
}

// nearest rounds a block over its whole range.
func (f *fitter) nearest(w []float32, codes []uint8) line {
	l := f.widest(w)
	f.codes(w, l, codes)
	return l
}

// fit finds the line with the smallest sum of weighted squares of errors among those that
// rounds of least squares give, from several beginnings. importance (nil: all 1) is of
// columns.
func (f *fitter) fit(w, importance []float32, codes []uint8) line {
	best, least := line{}, float32(math.Inf(1))
	trial := f.trial[:len(w)]
	for _, part := range f.narrow {
		l := f.over(w, part)
		for range fitRounds {
			if !l.finite() {
				break
			}
			f.grid.codes(w, l, trial)
			e := squares(w, importance, trial, l)
			if e >= least*(1-1e-4) {
				if e < least {
					best, least = l, e
					copy(codes, trial)
				}
				break
			}
			best, least = l, e
			copy(codes, trial)
			l = f.leastSquares(w, importance, trial, l)
		}
	}
	if math.IsInf(float64(least), 1) {
		return f.nearest(w, codes)
	}
	return best
}

// squares is the sum of weighted squares of errors.
func squares(w, importance []float32, codes []uint8, l line) float32 {
	codes = codes[:len(w)]
	var sum float32
	if importance == nil {
		for i, x := range w {
			d := x - (l.s*float32(codes[i]) + l.m)
			sum += d * d
		}
		return sum
	}
	importance = importance[:len(w)]
	for i, x := range w {
		d := x - (l.s*float32(codes[i]) + l.m)
		sum += d * d * importance[i]
	}
	return sum
}

// leastSquares is the line that fits numbers best, their codes given.
func (f *fitter) leastSquares(w, importance []float32, codes []uint8, was line) line {
	codes = codes[:len(w)]
	var n, q, qq, x, qx float32
	if importance == nil {
		n = float32(len(w))
		for i, v := range w {
			c := float32(codes[i]) - f.middle
			q, qq, x, qx = q+c, qq+c*c, x+v, qx+c*v
		}
	} else {
		importance = importance[:len(w)]
		for i, v := range w {
			c, h := float32(codes[i])-f.middle, importance[i]
			n, q, qq, x, qx = n+h, q+h*c, qq+h*c*c, x+h*v, qx+h*c*v
		}
	}
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
