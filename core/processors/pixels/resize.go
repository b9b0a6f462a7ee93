package pixels

import "math"

// Filter is a way to resample, numbered as Pillow and preprocessor_config.json number it.
type Filter int

// Filters.
const (
	Nearest Filter = iota
	Lanczos
	Bilinear
	Bicubic
	Box
	Hamming
)

func (f Filter) String() string {
	return [...]string{"nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"}[f]
}

// kernels are the filters' functions and how far they reach, when nothing is scaled
// down.
var kernels = [...]struct {
	reach float64
	at    func(float64) float64
}{
	Box: {0.5, func(x float64) float64 {
		if x > -0.5 && x <= 0.5 {
			return 1
		}
		return 0
	}},
	Bilinear: {1, func(x float64) float64 { return max(0, 1-math.Abs(x)) }},
	Hamming: {1, func(x float64) float64 {
		x = math.Abs(x)
		switch {
		case x == 0:
			return 1
		case x >= 1:
			return 0
		}
		x *= math.Pi
		return math.Sin(x) / x * (0.54 + float64(0.46*math.Cos(x)))
	}},
	Bicubic: {2, func(x float64) float64 {
		const a = -0.5
		x = math.Abs(x)
		switch {
		case x < 1:
			return float64(float64(float64((a+2)*x-(a+3))*x)*x) + 1
		case x < 2:
			return float64(float64(float64(float64(float64((x-5)*x)+8)*x)-4) * a)
		}
		return 0
	}},
	Lanczos: {3, func(x float64) float64 {
		if x < -3 || x >= 3 {
			return 0
		}
		return sinc(x) * sinc(x/3)
	}},
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	x *= math.Pi
	return math.Sin(x) / x
}

// taps says for each place of a line what it is made of: weights[i] times the places
// from[i], from[i]+1, ... of the line before, divided by 2 to the power bits.
type taps struct {
	from    []int
	weights [][]int32
	bits    uint
}

// Variant says whose arithmetic is followed. Both round to bytes after resizing, and
// differ by at most one or two of 255.
type Variant int

// Variants.
const (
	// PIL: Pillow's resizing, with weights of 22 bits (src/libImaging/Resample.c), and
	// NumPy's arithmetic.
	PIL Variant = iota
	// Torchvision: its resizing of bytes on CPUs, with weights of 16 bits (PyTorch's
	// aten/src/ATen/native/cpu/UpSampleKernel.cpp), and torch's arithmetic.
	Torchvision
)

// tapsOf computes the weights of a line of so many places made of another.
func tapsOf(f Filter, in, out int, by Variant) taps {
	k := kernels[f]
	scale := float64(in) / float64(out)
	wide := max(scale, 1)
	reach := k.reach * wide
	t := taps{from: make([]int, out), weights: make([][]int32, out), bits: 22}
	floats := make([][]float64, out)
	most := 0.0
	for i := range out {
		center := float64((float64(i) + 0.5) * scale)
		from := max(int(center-reach+0.5), 0)
		n := min(int(center+reach+0.5), in) - from
		w, sum := make([]float64, n), 0.0
		for j := range w {
			w[j] = k.at((float64(j+from) - center + 0.5) / wide)
			sum += w[j]
		}
		for j := range w {
			if sum != 0 {
				w[j] /= sum
			}
			most = max(most, w[j])
		}
		t.from[i], floats[i] = from, w
	}
	if by == Torchvision {
		for t.bits = 0; t.bits < 22 && int(0.5+most*float64(int64(1)<<(t.bits+1))) < 1<<15; t.bits++ {
		}
	}
	one := float64(int64(1) << t.bits)
	for i, w := range floats {
		t.weights[i] = make([]int32, len(w))
		for j, v := range w {
			t.weights[i][j] = int32(float64(v*one) + math.Copysign(0.5, v))
		}
	}
	return t
}

// resized resamples to another size as Pillow's Image.resize or torchvision's resize of
// bytes, with antialiasing, does: in one direction, then in the other, rounded in between.
func (p Picture) resized(width, height int, f Filter, by Variant) Picture {
	if f == Nearest {
		return p.nearest(width, height, by)
	}
	across := func() {
		if width != p.Width {
			p = p.horizontally(tapsOf(f, p.Width, width, by))
		}
	}
	// Pillow 13 begins with the columns where that leaves less to do; the versions
	// before it never did, and gave bytes that differ by a few.
	columnsFirst := by == PIL && p.Height > height && p.Height-height > 2*(p.Width-width)
	if !columnsFirst {
		across()
	}
	if height != p.Height {
		p = p.vertically(tapsOf(f, p.Height, height, by))
	}
	across()
	return p
}

func (p Picture) horizontally(t taps) Picture {
	out := Black(len(t.from), p.Height)
	half := int32(1) << (t.bits - 1)
	for y := range p.Height {
		from, to := p.row(y), out.row(y)
		for x, weights := range t.weights {
			r, g, b := half, half, half
			in := from[3*t.from[x]:]
			for i, w := range weights {
				pixel := in[3*i : 3*i+3 : 3*i+3]
				r += int32(pixel[0]) * w
				g += int32(pixel[1]) * w
				b += int32(pixel[2]) * w
			}
			to[3*x], to[3*x+1], to[3*x+2] = clip(r>>t.bits), clip(g>>t.bits), clip(b>>t.bits)
		}
	}
	return out
}

func (p Picture) vertically(t taps) Picture {
	out := Black(p.Width, len(t.from))
	sums := make([]int32, 3*p.Width)
	for y, weights := range t.weights {
		for i := range sums {
			sums[i] = 1 << (t.bits - 1)
		}
		for i, w := range weights {
			for x, v := range p.row(t.from[y] + i) {
				sums[x] += int32(v) * w
			}
		}
		to := out.row(y)
		for x, v := range sums {
			to[x] = clip(v >> t.bits)
		}
	}
	return out
}

func clip(v int32) byte { return byte(min(max(v, 0), 255)) }

// nearest takes the pixel under each pixel's middle.
func (p Picture) nearest(width, height int, by Variant) Picture {
	columns, rows := nearest(p.Width, width, by), nearest(p.Height, height, by)
	out := Black(width, height)
	for y := range height {
		from, to := p.row(rows[y]), out.row(y)
		for x := range width {
			copy(to[3*x:3*x+3], from[3*columns[x]:])
		}
	}
	return out
}

func nearest(in, out int, by Variant) []int {
	at := make([]int, out)
	scale := float64(in) / float64(out)
	middle := scale / 2
	for i := range at {
		at[i] = int(middle)
		if by == Torchvision {
			at[i] = int((float32(i) + 0.5) * (float32(in) / float32(out))) // its "nearest-exact"
		}
		at[i] = min(at[i], in-1)
		middle += scale // Pillow adds up, and ties fall as its rounding has them
	}
	return at
}
