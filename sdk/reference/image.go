package reference

import (
	"errors"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

var imageOps = []spec{
	{"Upsample", since(7), "X T:num -> Y T", "mode string=nearest|linear, scales floats!", resize},
	{"Upsample", since(9, 10), "X T:num, scales f32 -> Y T", "mode string=nearest|linear", resize},
	{"Resize", since(10), "X T:num, scales f32 -> Y T", "mode string=nearest|linear", resize},
	{"Resize", since(11, 13), "X T:num, roi? float, scales? f32, sizes? i64 -> Y T",
		"coordinate_transformation_mode string=half_pixel|pytorch_half_pixel|align_corners|asymmetric|tf_half_pixel_for_nn|tf_crop_and_resize, " +
			"cubic_coeff_a float=-0.75, exclude_outside int=0, extrapolation_value float=0, mode string=nearest|linear|cubic, " +
			"nearest_mode string=round_prefer_floor|round_prefer_ceil|floor|ceil", resize},
	{"Resize", since(18, 19), "X T:num, roi? float, scales? f32, sizes? i64 -> Y T",
		"antialias int=0, axes ints, " +
			"coordinate_transformation_mode string=half_pixel|half_pixel_symmetric|pytorch_half_pixel|align_corners|asymmetric|tf_crop_and_resize, " +
			"cubic_coeff_a float=-0.75, exclude_outside int=0, extrapolation_value float=0, keep_aspect_ratio_policy string=stretch|not_larger|not_smaller, " +
			"mode string=nearest|linear|cubic, nearest_mode string=round_prefer_floor|round_prefer_ceil|floor|ceil", resize},
	{"GridSample", since(16), "X T:float, grid float -> Y T", "align_corners int=0, mode string=bilinear|nearest|bicubic, padding_mode string=zeros|border|reflection", gridSample},
	{"GridSample", since(20, 22), "X T:float, grid float -> Y T", "align_corners int=0, mode string=linear|nearest|cubic, padding_mode string=zeros|border|reflection", gridSample},
	{"AffineGrid", since(20), "theta T:float, size i64 -> grid T", "align_corners int=0", affineGrid},
}

// resampling is how one axis is resized.
type resampling struct {
	in, out    int
	scale      float64
	start, end float64 // region of interest
}

// resizeAxes works out sizes and scales of all axes.
func (c *call) resizeAxes() ([]resampling, error) {
	x := c.tensor(0)
	rank := len(x.Shape)
	axes := make([]int64, rank)
	for i := range axes {
		axes[i] = int64(i)
	}
	if _, ok := c.op.attrs["axes"]; ok && c.hasAttr("axes") {
		axes = c.ints("axes")
	}
	where, _, err := axesOf(axes, rank)
	if err != nil {
		return nil, err
	}
	rs := make([]resampling, rank)
	for i, d := range x.Shape {
		if d > maxSpatial {
			return nil, badInput(0, "has shape %v", x.Shape)
		}
		rs[i] = resampling{in: int(d), out: int(d), scale: 1, end: 1}
	}
	var scales []float64
	var sizes []int64
	switch {
	case c.op.Name == "Upsample" && c.op.Version < 9:
		for _, v := range c.attr("scales").Floats {
			scales = append(scales, float64(v))
		}
	case c.op.Version < 11:
		scales, err = c.widened(c.tensor(1))
	default:
		if c.has(1) && c.tensor(1).Len() > 0 && c.str("coordinate_transformation_mode") == "tf_crop_and_resize" {
			if c.tensor(1).Len() != 2*len(where) {
				return nil, badInput(1, "has shape %v for %d axes", c.tensor(1).Shape, len(where))
			}
			for i, a := range where {
				rs[a].start, rs[a].end = floatAt(c.tensor(1), i), floatAt(c.tensor(1), len(where)+i)
			}
		}
		// An empty tensor stands for one left out.
		if c.has(2) && c.tensor(2).Len() > 0 {
			scales, err = c.widened(c.tensor(2))
		}
		if c.has(3) && c.tensor(3).Len() > 0 && err == nil {
			sizes, err = c.intsOf(3)
		}
	}
	if err != nil {
		return nil, err
	}
	switch {
	case (scales == nil) == (sizes == nil):
		return nil, errors.New("either scales or sizes must be given")
	case scales != nil && len(scales) != len(where) || sizes != nil && len(sizes) != len(where):
		return nil, fmt.Errorf("scales %v or sizes %v are not for %d axes", scales, sizes, len(where))
	}
	for i, a := range where {
		r := &rs[a]
		if sizes != nil {
			if sizes[i] < 0 || sizes[i] > maxSpatial || r.in == 0 {
				return nil, fmt.Errorf("shape %v can't be resized to %v", x.Shape, sizes)
			}
			r.out = int(sizes[i])
			r.scale = float64(r.out) / float64(r.in)
			continue
		}
		size := math.Floor(float64(r.in) * (r.end - r.start) * scales[i])
		if !(scales[i] > 0) || !(size >= 0 && size <= maxSpatial) {
			return nil, fmt.Errorf("shape %v can't be scaled by %v", x.Shape, scales)
		}
		r.scale, r.out = scales[i], int(size)
	}
	if _, ok := c.op.attrs["keep_aspect_ratio_policy"]; ok && sizes != nil && c.str("keep_aspect_ratio_policy") != "stretch" {
		scale := rs[where[0]].scale
		for _, a := range where {
			if c.str("keep_aspect_ratio_policy") == "not_larger" {
				scale = min(scale, rs[a].scale)
			} else {
				scale = max(scale, rs[a].scale)
			}
		}
		for _, a := range where {
			rs[a].scale = scale
			rs[a].out = int(math.Floor(scale*float64(rs[a].in) + 0.5))
		}
	}
	return rs, nil
}

// origin is the coordinate in the input of output coordinate i.
func (r *resampling) origin(i int, mode string) float64 {
	x, in := float64(i), float64(r.in)
	width := r.scale * in // the output's size before it was rounded
	switch mode {
	case "align_corners":
		if width == 1 {
			return 0
		}
		return x * (in - 1) / (width - 1)
	case "asymmetric":
		return x / r.scale
	case "tf_half_pixel_for_nn":
		return (x + 0.5) / r.scale
	case "pytorch_half_pixel":
		if width == 1 {
			return -0.5
		}
		return (x+0.5)/r.scale - 0.5
	case "half_pixel_symmetric":
		return in/2*(1-float64(r.out)/width) + (x+0.5)/r.scale - 0.5
	case "tf_crop_and_resize":
		if width == 1 {
			return (r.start + r.end) * (in - 1) / 2
		}
		return r.start*(in-1) + x*(r.end-r.start)*(in-1)/(width-1)
	}
	return (x+0.5)/r.scale - 0.5
}

// filter is a resampling kernel: zero outside [-radius, radius].
type filter struct {
	radius float64
	f      func(x float64) float64
}

func linearFilter() filter {
	return filter{1, func(x float64) float64 { return max(0, 1-math.Abs(x)) }}
}

// cubicFilter is R. Keys's, IEEE ASSP 29 (1981).
func cubicFilter(a float64) filter {
	return filter{2, func(x float64) float64 {
		x = math.Abs(x)
		switch {
		case x <= 1:
			return ((a+2)*x-(a+3))*x*x + 1
		case x < 2:
			return ((a*x-5*a)*x+8*a)*x - 4*a
		}
		return 0
	}}
}

// tap is one input element and its weight.
type tap struct {
	at     int
	weight float64
}

// taps are the elements that a point is made of, stretched by 1/scale where scale
// is below one. Beyond the ends the last element is repeated, or left out.
func (k filter) taps(x, scale float64, n int, excludeOutside bool) []tap {
	reach := k.radius / scale
	var ts []tap
	sum := 0.0
	for i := math.Ceil(x - reach); i <= math.Floor(x+reach); i++ {
		w := k.f((i - x) * scale)
		if w == 0 || excludeOutside && (i < 0 || i > float64(n-1)) {
			continue
		}
		ts = append(ts, tap{int(min(max(i, 0), float64(n-1))), w})
		sum += w
	}
	if scale != 1 || excludeOutside {
		for i := range ts {
			ts[i].weight /= sum
		}
	}
	return ts
}

func resize(c *call) error {
	x := c.tensor(0)
	rs, err := c.resizeAxes()
	if err != nil {
		return err
	}
	s := make(tensor.Shape, len(rs))
	for i, r := range rs {
		s[i] = int64(r.out)
	}
	coords, nearest, old := "asymmetric", "floor", c.op.Version < 11
	excludeOutside, antialias, extrapolation := false, false, 0.0
	cubic := -0.75
	if !old {
		coords, nearest = c.str("coordinate_transformation_mode"), c.str("nearest_mode")
		excludeOutside, extrapolation, cubic = c.flag("exclude_outside"), c.float("extrapolation_value"), c.float("cubic_coeff_a")
	}
	if _, ok := c.op.attrs["antialias"]; ok {
		antialias = c.flag("antialias")
	}
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	if x.Len() == 0 {
		return badInput(0, "has shape %v: there is nothing to resize", x.Shape)
	}
	var kernel filter
	switch c.str("mode") {
	case "linear":
		kernel = linearFilter()
	case "cubic":
		kernel = cubicFilter(cubic)
	}
	data, err := c.widened(x)
	if err != nil {
		return err
	}
	dims := x.Shape.Clone()
	for axis, r := range rs {
		if r.scale == 1 && r.in == r.out && r.start == 0 && r.end == 1 {
			continue
		}
		taps := make([][]tap, r.out)
		for i := range taps {
			at := r.origin(i, coords)
			switch {
			case coords == "tf_crop_and_resize" && (at < 0 || at > float64(r.in-1)):
			case kernel.f == nil:
				taps[i] = []tap{{nearestTo(at, nearest, r.in), 1}}
			case antialias:
				taps[i] = kernel.taps(at, min(r.scale, 1), r.in, excludeOutside)
			default:
				taps[i] = kernel.taps(at, 1, r.in, excludeOutside)
			}
		}
		if data, err = c.resample(data, dims, axis, taps, extrapolation); err != nil {
			return err
		}
		dims[axis] = int64(r.out)
	}
	if x.DType.IsInt() {
		// Rounded toward zero as a cast does; what a cubic overshoots is cut.
		for i, v := range data {
			putInt(out, i, saturateInt(v, x.DType))
		}
		return nil
	}
	storeFloat(out, 0, data)
	return nil
}

func nearestTo(x float64, mode string, n int) int {
	switch mode {
	case "round_prefer_floor":
		x = math.Ceil(x - 0.5)
	case "round_prefer_ceil":
		x = math.Floor(x + 0.5)
	case "ceil":
		x = math.Ceil(x)
	default:
		x = math.Floor(x)
	}
	return int(min(max(x, 0), float64(n-1)))
}

// resample replaces an axis of data, of shape dims, by weighted sums of its
// elements. Positions without taps get the extrapolation value.
func (c *call) resample(data []float64, dims tensor.Shape, axis int, taps [][]tap, extrapolation float64) ([]float64, error) {
	inner := elements(dims[axis+1:])
	outer := elements(dims[:axis])
	n := int(dims[axis])
	out, err := c.floats(outer * len(taps) * inner)
	if err != nil {
		return nil, err
	}
	return out, c.parallel(outer*len(taps), max(1, 1<<14/inner), func(lo, hi int) error {
		for row := lo; row < hi; row++ {
			dst := out[row*inner : (row+1)*inner]
			ts := taps[row%len(taps)]
			for _, t := range ts {
				src := data[(row/len(taps)*n+t.at)*inner:][:inner]
				for i, v := range src {
					dst[i] += t.weight * v
				}
			}
			if len(ts) == 0 {
				for i := range dst {
					dst[i] = extrapolation
				}
			}
		}
		return nil
	})
}

// gridSample reads pictures at the points of a grid, whose coordinates run from -1
// to 1 and stand innermost dimension first.
func gridSample(c *call) error {
	x, grid := c.tensor(0), c.tensor(1)
	rank := len(x.Shape) - 2
	if rank < 1 || len(grid.Shape) != rank+2 || grid.Shape[0] != x.Shape[0] || grid.Shape[rank+1] != int64(rank) {
		return fmt.Errorf("shapes %v and %v do not fit", x.Shape, grid.Shape)
	}
	s := append(tensor.Shape{x.Shape[0], x.Shape[1]}, grid.Shape[1:rank+1]...)
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	area, points := elements(x.Shape[2:]), elements(grid.Shape[1:rank+1])
	if area == 0 {
		return badInput(0, "has shape %v: there is nothing to sample", x.Shape)
	}
	padding := c.str("padding_mode")
	corners := c.flag("align_corners")
	channels := int(x.Shape[1])
	sampler := sampler{dims: x.Shape[2:], padding: padding, corners: corners}
	switch c.str("mode") {
	case "linear", "bilinear":
		sampler.kernel = linearFilter()
	case "cubic", "bicubic":
		sampler.kernel = cubicFilter(-0.75)
	}
	data, err := c.widened(x)
	if err != nil {
		return err
	}
	return c.parallel(int(x.Shape[0])*points, 256, func(lo, hi int) error {
		at := make([]float64, rank)
		for i := lo; i < hi; i++ {
			loadFloat(at, grid, i*rank)
			taps := sampler.at(at)
			batch, point := i/points, i%points
			for ch := range channels {
				picture := data[(batch*channels+ch)*area:]
				sum := 0.0
				for _, t := range taps {
					sum += t.weight * picture[t.at]
				}
				putFloat(out, (batch*channels+ch)*points+point, sum)
			}
		}
		return nil
	})
}

type sampler struct {
	dims    []int64
	kernel  filter // without f: nearest
	padding string
	corners bool
}

// at lists the elements that a point, given innermost dimension first, is made of.
func (s *sampler) at(point []float64) []tap {
	all := []tap{{0, 1}}
	for i, d := range s.dims {
		n := float64(d)
		lo, hi := -0.5, n-0.5
		x := ((point[len(point)-1-i]+1)*n - 1) / 2
		if s.corners {
			lo, hi = 0, n-1
			x = (point[len(point)-1-i] + 1) / 2 * (n - 1)
		}
		if x != x {
			x = -1 // as torch: NaN lies outside
		}
		if s.kernel.f == nil {
			x = math.RoundToEven(x)
		}
		// Farther out no neighbour is inside either, and there one more is the same.
		x = min(max(s.inside(x, n, lo, hi), -s.kernel.radius-1), n+s.kernel.radius)
		ts := []tap{{0, 1}}
		var where []float64
		if s.kernel.f == nil {
			where = []float64{x}
		} else {
			ts = ts[:0]
			for p := math.Floor(x) - s.kernel.radius + 1; p <= math.Floor(x)+s.kernel.radius; p++ {
				where = append(where, p)
				ts = append(ts, tap{0, s.kernel.f(p - x)})
			}
		}
		var next []tap
		for k, p := range where {
			// Neighbours of a point inside may lie outside still.
			p = math.Trunc(s.inside(p, n, lo, hi))
			if p < 0 || p > n-1 || ts[k].weight == 0 {
				continue
			}
			for _, t := range all {
				next = append(next, tap{t.at*int(d) + int(p), t.weight * ts[k].weight})
			}
		}
		all = next
	}
	return all
}

// inside moves a coordinate that lies outside as the padding says.
func (s *sampler) inside(x, n, lo, hi float64) float64 {
	if x >= lo && x <= hi {
		return x
	}
	switch s.padding {
	case "border":
		return min(max(x, 0), n-1)
	case "reflection":
		span := hi - lo
		if span <= 0 || math.IsInf(x, 0) {
			return lo
		}
		past := lo - x
		if x > hi {
			past = x - hi
		}
		turns, rest := math.Floor(past/span), math.Mod(past, span)
		if (math.Mod(turns, 2) == 0) == (x < lo) {
			return lo + rest
		}
		return hi - rest
	}
	return x
}

func affineGrid(c *call) error {
	theta := c.tensor(0)
	size, err := c.intsOf(1)
	if err != nil {
		return err
	}
	rank := len(size) - 2
	if rank != 2 && rank != 3 || !theta.Shape.Equal(tensor.Shape{size[0], int64(rank), int64(rank + 1)}) {
		return fmt.Errorf("theta of shape %v and size %v do not fit", theta.Shape, size)
	}
	out, err := c.make(0, theta.DType, append(append(tensor.Shape{size[0]}, size[2:]...), int64(rank)))
	if err != nil {
		return badInput(1, "%w", err)
	}
	if out.Len() == 0 {
		return nil
	}
	corners := c.flag("align_corners")
	points := elements(size[2:])
	t := make([]float64, theta.Len())
	loadFloat(t, theta, 0)
	// Positions in the original space, innermost dimension first, then one.
	at := make([]float64, rank+1)
	at[rank] = 1
	for i := range int(size[0]) * points {
		rest := i % points
		for k := range rank {
			n := int(size[len(size)-1-k])
			p := float64(rest % n)
			rest /= n
			if corners {
				at[k] = -1 + 2*p/float64(n-1)
			} else {
				at[k] = -1 + (2*p+1)/float64(n)
			}
		}
		for k := range rank {
			row := t[(i/points*rank+k)*(rank+1):][:rank+1]
			putFloat(out, i*rank+k, dot(row, at))
		}
	}
	return c.ctx.Err()
}
