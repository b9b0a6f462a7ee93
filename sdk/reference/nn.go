package reference

import (
	"fmt"
	"math"
	"runtime"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const convAttrs = "auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, dilations ints, group int=1, kernel_shape ints, pads ints, strides ints"

var nnOps = []spec{
	{"Conv", since(1, 11, 22), "X T:float, W T, B? T -> Y T", convAttrs, conv},
	{"ConvInteger", since(10), "x T1:i8|u8, w T2:i8|u8, x_zero_point? T1, w_zero_point? T2 -> y i32", convAttrs, convInteger},
	{"ConvTranspose", since(1, 11, 22), "X T:float, W T, B? T -> Y T", convAttrs + ", output_padding ints, output_shape ints", convTranspose},
	{"CausalConvWithState", since(27), "input T:float, weight T, bias? T, past_state? T -> output T, present_state T", "activation string=none|silu|swish", causalConv},
	{"MaxPool", since(1), "X T:float -> Y T", "auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, kernel_shape ints!, pads ints, strides ints", maxPool},
	{"MaxPool", since(8), "X T:float -> Y T, Indices? i64", "auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, kernel_shape ints!, pads ints, storage_order int=0, strides ints", maxPool},
	{"MaxPool", since(10, 11, 12, 22), "X T:float|i8|u8 -> Y T, Indices? i64",
		"auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, ceil_mode int=0, dilations ints, kernel_shape ints!, pads ints, storage_order int=0, strides ints", maxPool},
	{"AveragePool", since(7), "X T:float -> Y T",
		"auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, count_include_pad int=0, kernel_shape ints!, pads ints, strides ints", averagePool},
	{"AveragePool", since(10, 11), "X T:float -> Y T",
		"auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, ceil_mode int=0, count_include_pad int=0, kernel_shape ints!, pads ints, strides ints", averagePool},
	{"AveragePool", since(19, 22), "X T:float -> Y T",
		"auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, ceil_mode int=0, count_include_pad int=0, dilations ints, kernel_shape ints!, pads ints, strides ints", averagePool},
	{"LpPool", since(2, 11), "X T:float -> Y T",
		"auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, kernel_shape ints!, p int=2, pads ints, strides ints", lpPool},
	{"LpPool", since(18, 22), "X T:float -> Y T",
		"auto_pad string=NOTSET|SAME_UPPER|SAME_LOWER|VALID, ceil_mode int=0, dilations ints, kernel_shape ints!, p int=2, pads ints, strides ints", lpPool},
	{"GlobalAveragePool", since(1, 22), "X T:float -> Y T", "", globalPool(func(*call) func([]float64) float64 { return meanOf[float64] })},
	{"GlobalMaxPool", since(1, 22), "X T:float -> Y T", "", globalPool(func(*call) func([]float64) float64 { return maxOf[float64] })},
	{"GlobalLpPool", since(2, 22), "X T:float -> Y T", "p int=2", globalPool(func(c *call) func([]float64) float64 { return lpNorm(float64(c.int("p"))) })},
	{"MaxUnpool", since(9, 11, 22), "X T:float, I i64, output_shape? i64 -> output T", "kernel_shape ints!, pads ints, strides ints", maxUnpool},
	{"Col2Im", since(18), "input T:num, image_shape i64, block_shape i64 -> output T", "dilations ints, pads ints, strides ints", col2Im},
	{"Dropout", since(7), "data T:float -> output T, mask? T", "ratio float=0.5", dropout},
	{"Dropout", since(10), "data T:float -> output T, mask? bool", "ratio float=0.5", dropout},
	{"Dropout", since(12, 13, 22), "data T:float|f8, ratio? float|f8, training_mode? bool -> output T, mask? bool", "seed int", dropout},
}

// windows is how a kernel slides over the spatial dimensions of a picture.
type windows struct {
	in, out, kernel, stride, dilation []int
	before, after                     []int // padding
	taps                              int   // elements of the kernel
}

// maxSpatial bounds sizes, strides and paddings, so that sums of products of two
// fit an int.
const maxSpatial = 1 << 30

// spatialList is an attribute with one number for each spatial dimension.
func (c *call) spatialList(name string, n int, def, least int64) ([]int, error) {
	list := make([]int, n)
	for i := range list {
		list[i] = int(def)
	}
	if _, known := c.op.attrs[name]; !known || !c.hasAttr(name) {
		return list, nil
	}
	given := c.ints(name)
	if len(given) != n {
		return nil, fmt.Errorf("attribute %s has %d numbers, wants %d", name, len(given), n)
	}
	for i, v := range given {
		if v < least || v > maxSpatial {
			return nil, fmt.Errorf("attribute %s is %v", name, given)
		}
		list[i] = int(v)
	}
	return list, nil
}

// newWindows reads the attributes of convolutions and pools. in and kernel are
// spatial dimensions.
func (c *call) newWindows(in, kernel []int64) (*windows, error) {
	n := len(in)
	w := &windows{taps: 1}
	var err error
	if w.stride, err = c.spatialList("strides", n, 1, 1); err != nil {
		return nil, err
	}
	if w.dilation, err = c.spatialList("dilations", n, 1, 1); err != nil {
		return nil, err
	}
	pads, err := c.spatialList("pads", 2*n, 0, 0)
	if err != nil {
		return nil, err
	}
	w.before, w.after = pads[:n:n], pads[n:]
	auto := "NOTSET"
	if _, ok := c.op.attrs["auto_pad"]; ok {
		auto = c.str("auto_pad")
	}
	ceil := false
	if _, ok := c.op.attrs["ceil_mode"]; ok {
		ceil = c.flag("ceil_mode")
	}
	if len(kernel) != n {
		return nil, fmt.Errorf("the kernel %v has not %d dimensions", kernel, n)
	}
	for i, k := range kernel {
		if k < 1 || k > maxSpatial || in[i] > maxSpatial || int(k)*w.dilation[i] > maxSpatial || w.taps > maxSpatial/int(k) {
			return nil, fmt.Errorf("a kernel of %v can't slide over %v", kernel, in)
		}
		size := int(in[i])
		extent := (int(k)-1)*w.dilation[i] + 1
		if auto == "VALID" {
			w.before[i], w.after[i] = 0, 0
		}
		room := size + w.before[i] + w.after[i] - extent
		out := floorDiv(room, w.stride[i]) + 1
		if auto == "SAME_UPPER" || auto == "SAME_LOWER" {
			out = (size + w.stride[i] - 1) / w.stride[i]
			total := max(0, (out-1)*w.stride[i]+extent-size)
			w.before[i], w.after[i] = total/2, total-total/2
			if auto == "SAME_LOWER" {
				w.before[i], w.after[i] = w.after[i], w.before[i]
			}
		} else if ceil && room%w.stride[i] != 0 && room > 0 && out*w.stride[i] < size+w.before[i] {
			out++ // the last window begins inside the picture or its padding before
		}
		w.in = append(w.in, size)
		w.kernel = append(w.kernel, int(k))
		w.out = append(w.out, max(out, 0))
		w.taps *= int(k)
	}
	// Each worker lists the taps of a window.
	return w, c.reserve(int64(w.taps) * 24 * int64(runtime.GOMAXPROCS(0)))
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b != 0 && a < 0 {
		q--
	}
	return q
}

func count(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

// shape puts batch and channels before the output's dimensions.
func (w *windows) shape(n, channels int64) tensor.Shape {
	s := tensor.Shape{n, channels}
	for _, d := range w.out {
		s = append(s, int64(d))
	}
	return s
}

// at lists, for one output position, the element of the picture under each tap of
// the kernel, -1 where it lies outside. It returns how many taps lie on the
// picture or its padding.
func (w *windows) at(position int, dst []int) (covered int) {
	rank := len(w.in)
	var start [16]int
	origin := start[:0]
	if rank > len(start) {
		origin = make([]int, 0, rank)
	}
	origin = origin[:rank]
	for i := rank - 1; i >= 0; i-- {
		origin[i] = position%w.out[i]*w.stride[i] - w.before[i]
		position /= w.out[i]
	}
	for t := range dst {
		rest, at, scale := t, 0, 1
		inside, under := true, true
		for i := rank - 1; i >= 0; i-- {
			p := origin[i] + rest%w.kernel[i]*w.dilation[i]
			rest /= w.kernel[i]
			inside = inside && p >= 0 && p < w.in[i]
			under = under && p >= -w.before[i] && p < w.in[i]+w.after[i]
			at += p * scale
			scale *= w.in[i]
		}
		dst[t] = -1
		if inside {
			dst[t] = at
		}
		if under {
			covered++
		}
	}
	return covered
}

// convolution is the geometry that all convolutions share.
type convolution struct {
	*windows
	n, channels, filters, groups int
}

func (c *call) convolution() (*convolution, error) {
	x, w := c.tensor(0).Shape, c.tensor(1).Shape
	if len(x) < 3 || len(w) != len(x) {
		return nil, fmt.Errorf("shapes %v and %v: pictures and a kernel of the same rank, at least 3, are wanted", x, w)
	}
	g := c.int("group")
	if g < 1 || x[1] != w[1]*g || w[0]%g != 0 {
		return nil, fmt.Errorf("shapes %v and %v do not fit for %d groups", x, w, g)
	}
	if c.hasAttr("kernel_shape") && !tensor.Shape(c.ints("kernel_shape")).Equal(w[2:]) {
		return nil, badInput(1, "has shape %v, attribute kernel_shape says %v", w, c.ints("kernel_shape"))
	}
	win, err := c.newWindows(x[2:], w[2:])
	if err != nil {
		return nil, err
	}
	return &convolution{win, int(x[0]), int(x[1]), int(w[0]), int(g)}, nil
}

func conv(c *call) error {
	g, err := c.convolution()
	if err != nil {
		return err
	}
	var bias []float64
	if c.has(2) {
		if bias, err = c.perChannel(2, int64(g.filters)); err != nil {
			return err
		}
	}
	out, err := c.make(0, c.tensor(0).DType, g.shape(int64(g.n), int64(g.filters)))
	if err != nil {
		return err
	}
	return convolve(c, g, out, floatLane, floatLane, biased(out, bias))
}

// convolve computes a convolution as a product of filters and patches. store takes
// neighbouring outputs of one filter, which begin at an element of out.
func convolve[W number](c *call, g *convolution, out tensor.Tensor, lx, lw lane[W], store func(v []W, filter, at int)) error {
	area := count(g.in)
	return convolvePatches(c, g, out, lx, lw, func(dst, picture []W, n, first, lo, hi int) {
		from := picture[(n*g.channels+first)*area:]
		taps := make([]int, g.taps)
		per := g.channels / g.groups
		for pos := lo; pos < hi; pos++ {
			g.at(pos, taps)
			col := dst[(pos-lo)*per*g.taps:]
			for ch := range per {
				for t, o := range taps {
					v := W(0)
					if o >= 0 {
						v = from[ch*area+o]
					}
					col[ch*g.taps+t] = v
				}
			}
		}
	}, store)
}

// convolvePatches is convolve with patches of any making: patches fills dst
// [hi-lo, channels of a group, taps] for output positions [lo,hi) of picture n from
// the channels of a group, of which first is the first. It is given all pictures.
func convolvePatches[W number](c *call, g *convolution, out tensor.Tensor, lx, lw lane[W],
	patches func(dst, pictures []W, n, first, lo, hi int), store func(v []W, filter, at int)) error {
	if out.Len() == 0 {
		return nil
	}
	x, w := c.tensor(0), c.tensor(1)
	if err := c.reserve(int64(x.Len()) * 8); err != nil {
		return err
	}
	pictures := make([]W, x.Len())
	lx.load(pictures, x, 0)
	per, positions := g.channels/g.groups, count(g.windows.out)
	p := product[W]{batches: g.n * g.groups, m: g.filters / g.groups, k: per * g.taps, n: positions}
	p.rows = func(dst []W, batch, lo, hi int) {
		lw.load(dst, w, (batch%g.groups*p.m+lo)*p.k)
	}
	p.cols = func(dst []W, batch, lo, hi int) {
		patches(dst, pictures, batch/g.groups, batch%g.groups*per, lo, hi)
	}
	p.store = func(block []W, batch, rlo, rhi, clo, chi int) {
		n := chi - clo
		for i := rlo; i < rhi; i++ {
			filter := batch%g.groups*p.m + i
			store(block[(i-rlo)*n:(i-rlo+1)*n], filter, (batch/g.groups*g.filters+filter)*positions+clo)
		}
	}
	return p.run(c)
}

// biased stores rows of a filter with its bias, which may be nil.
func biased(out tensor.Tensor, bias []float64) func(v []float64, filter, at int) {
	return func(v []float64, filter, at int) {
		if bias != nil {
			for i := range v {
				v[i] += bias[filter]
			}
		}
		storeFloat(out, at, v)
	}
}

func convInteger(c *call) error {
	g, err := c.convolution()
	if err != nil {
		return err
	}
	lx, err := c.shiftedLane(2, c.tensor(0).Shape, 1)
	if err != nil {
		return err
	}
	lw, err := c.shiftedLane(3, c.tensor(1).Shape, 0)
	if err != nil {
		return err
	}
	out, err := c.make(0, tensor.Int32, g.shape(int64(g.n), int64(g.filters)))
	if err != nil {
		return err
	}
	return convolve(c, g, out, lx, lw, func(v []int64, _, at int) { storeInt(out, at, v) })
}

func convTranspose(c *call) error {
	x, w := c.tensor(0), c.tensor(1)
	g := c.int("group")
	if len(x.Shape) < 3 || len(w.Shape) != len(x.Shape) || g < 1 || x.Shape[1] != w.Shape[0] || x.Shape[1]%g != 0 {
		return fmt.Errorf("shapes %v and %v do not fit for %d groups", x.Shape, w.Shape, g)
	}
	rank := len(x.Shape) - 2
	win, err := c.newWindows(x.Shape[2:], w.Shape[2:])
	if err != nil {
		return err
	}
	extra, err := c.spatialList("output_padding", rank, 0, 0)
	if err != nil {
		return err
	}
	want, err := c.spatialList("output_shape", rank, -1, 0)
	if err != nil {
		return err
	}
	auto := c.str("auto_pad")
	// The windows slide over the output: in and out change places.
	t := &windows{in: make([]int, rank), out: win.in, kernel: win.kernel, stride: win.stride, dilation: win.dilation, before: win.before, after: win.after, taps: win.taps}
	for i := range rank {
		full := (win.in[i]-1)*win.stride[i] + extra[i] + (win.kernel[i]-1)*win.dilation[i] + 1
		size := want[i]
		switch {
		case size >= 0:
		case auto == "SAME_UPPER" || auto == "SAME_LOWER":
			size = win.in[i] * win.stride[i]
		default:
			t.in[i] = full - win.before[i] - win.after[i]
			if t.in[i] < 0 || win.in[i] == 0 {
				return fmt.Errorf("shape %v and a kernel of %v with these paddings give no output", x.Shape, w.Shape)
			}
			continue
		}
		total := max(0, full-size)
		t.before[i] = total - total/2
		if auto == "SAME_UPPER" {
			t.before[i] = total / 2
		}
		t.in[i] = size
	}
	perOut := w.Shape[1]
	filters := perOut * g
	s := tensor.Shape{x.Shape[0], filters}
	for _, d := range t.in {
		s = append(s, int64(d))
	}
	var bias []float64
	if c.has(2) {
		if bias, err = c.perChannel(2, filters); err != nil {
			return err
		}
	}
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	xs, err := c.widened(x)
	if err != nil {
		return err
	}
	ws, err := c.widened(w)
	if err != nil {
		return err
	}
	area, positions := count(t.in), count(t.out)
	perIn := int(x.Shape[1] / g)
	if err := c.reserve(int64(area) * 16); err != nil {
		return err
	}
	return c.parallel(int(x.Shape[0]*filters), 1, func(item, _ int) error {
		n, f := item/int(filters), item%int(filters)
		group := f / int(perOut)
		sum := make([]float64, area)
		if bias != nil {
			for i := range sum {
				sum[i] = bias[f]
			}
		}
		taps := make([]int, t.taps)
		for pos := range positions {
			t.at(pos, taps)
			for ch := group * perIn; ch < (group+1)*perIn; ch++ {
				v := xs[(n*int(x.Shape[1])+ch)*positions+pos]
				kernel := ws[(ch*int(perOut)+f%int(perOut))*t.taps:]
				for k, o := range taps {
					if o >= 0 {
						sum[o] += v * kernel[k]
					}
				}
			}
		}
		storeFloat(out, item*area, sum)
		return nil
	})
}

func causalConv(c *call) error {
	x, w := c.tensor(0), c.tensor(1)
	if len(x.Shape) != 3 || len(w.Shape) != 3 || w.Shape[0] != x.Shape[1] || w.Shape[1] != 1 || w.Shape[2] < 1 {
		return fmt.Errorf("shapes %v and %v do not fit", x.Shape, w.Shape)
	}
	channels, length, k := int(x.Shape[1]), int(x.Shape[2]), int(w.Shape[2])
	stateShape := tensor.Shape{x.Shape[0], x.Shape[1], int64(k - 1)}
	if c.has(3) && !c.tensor(3).Shape.Equal(stateShape) {
		return badInput(3, "has shape %v, wants %v", c.tensor(3).Shape, stateShape)
	}
	var bias []float64
	var err error
	if c.has(2) {
		if bias, err = c.perChannel(2, x.Shape[1]); err != nil {
			return err
		}
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil {
		return err
	}
	state, err := c.make(1, x.DType, stateShape)
	if err != nil {
		return err
	}
	return c.parallel(int(x.Shape[0])*channels, 1, func(row, _ int) error {
		// The past, then this step's input.
		all := make([]float64, k-1+length)
		if c.has(3) {
			loadFloat(all[:k-1], c.tensor(3), row*(k-1))
		}
		loadFloat(all[k-1:], x, row*length)
		kernel := make([]float64, k)
		loadFloat(kernel, w, row%channels*k)
		y := make([]float64, length)
		for i := range y {
			if bias != nil {
				y[i] = bias[row%channels]
			}
			y[i] += dot(kernel, all[i:i+k])
			if c.str("activation") != "none" {
				y[i] *= sigmoid(y[i])
			}
		}
		storeFloat(out, row*length, y)
		storeFloat(state, row*(k-1), all[length:])
		return nil
	})
}

// pool calls f for each window: its output element, the elements of the picture
// under it, and how many of its taps lie on the picture or its padding.
func (c *call) pool(d tensor.DType, f func(out tensor.Tensor, at int, under []int, covered int)) error {
	x := c.tensor(0)
	if len(x.Shape) < 3 {
		return badInput(0, "has shape %v, wants pictures", x.Shape)
	}
	w, err := c.newWindows(x.Shape[2:], c.ints("kernel_shape"))
	if err != nil {
		return err
	}
	out, err := c.make(0, d, w.shape(x.Shape[0], x.Shape[1]))
	if err != nil || out.Len() == 0 {
		return err
	}
	area, positions := count(w.in), count(w.out)
	return c.parallel(out.Len(), max(1, 1<<13/w.taps), func(lo, hi int) error {
		taps := make([]int, w.taps)
		under := make([]int, 0, w.taps)
		for i := lo; i < hi; i++ {
			covered := w.at(i%positions, taps)
			under = under[:0]
			for _, o := range taps {
				if o >= 0 {
					under = append(under, i/positions*area+o)
				}
			}
			f(out, i, under, covered)
		}
		return nil
	})
}

func maxPool(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) < 3 {
		return badInput(0, "has shape %v, wants pictures", x.Shape)
	}
	var index tensor.Tensor
	columns := false
	if _, ok := c.op.attrs["storage_order"]; ok {
		columns = c.flag("storage_order")
	}
	if c.wants(1) {
		w, err := c.newWindows(x.Shape[2:], c.ints("kernel_shape"))
		if err != nil {
			return err
		}
		if index, err = c.make(1, tensor.Int64, w.shape(x.Shape[0], x.Shape[1])); err != nil {
			return err
		}
	}
	least := tensor.Floats(nil, float32(math.Inf(-1)))
	return c.pool(x.DType, func(out tensor.Tensor, at int, under []int, _ int) {
		if len(under) == 0 {
			storeNumber(out, at, floatAt(least, 0))
			return
		}
		best := under[0]
		for _, o := range under[1:] {
			if compareCells(x, o, best) > 0 {
				best = o
			}
		}
		move(out, at, x, best, 1)
		if index.DType != tensor.Undefined {
			if columns {
				best = columnMajor(best, x.Shape)
			}
			putInt(index, at, int64(best))
		}
	})
}

// columnMajor numbers an element within its picture by columns first.
func columnMajor(at int, s tensor.Shape) int {
	area := elements(s[2:])
	rest, i := at%area, 0
	// The last dimension, which is the fastest in row-major order, is the slowest.
	scale := area
	for k := len(s) - 1; k >= 2; k-- {
		scale /= int(s[k])
		i += rest % int(s[k]) * scale
		rest /= int(s[k])
	}
	return at/area*area + i
}

func averagePool(c *call) error {
	x := c.tensor(0)
	padded := c.flag("count_include_pad")
	return c.pool(x.DType, func(out tensor.Tensor, at int, under []int, covered int) {
		sum := 0.0
		for _, o := range under {
			sum += floatAt(x, o)
		}
		n := len(under)
		if padded {
			n = covered
		}
		putFloat(out, at, sum/float64(n))
	})
}

func lpNorm(p float64) func([]float64) float64 {
	return func(v []float64) float64 {
		sum := 0.0
		for _, x := range v {
			sum += math.Pow(math.Abs(x), p)
		}
		return math.Pow(sum, 1/p)
	}
}

func lpPool(c *call) error {
	x := c.tensor(0)
	p := c.float("p") // of version 1
	if c.attr("p").Kind == graph.AttrInt {
		p = float64(c.int("p"))
	}
	norm := lpNorm(p)
	return c.pool(x.DType, func(out tensor.Tensor, at int, under []int, _ int) {
		v := make([]float64, len(under))
		for i, o := range under {
			v[i] = floatAt(x, o)
		}
		putFloat(out, at, norm(v))
	})
}

func globalPool(f func(*call) func([]float64) float64) func(*call) error {
	return func(c *call) error {
		x := c.tensor(0)
		if len(x.Shape) < 3 || x.Len() == 0 {
			return badInput(0, "has shape %v, wants pictures", x.Shape)
		}
		over := make([]bool, len(x.Shape))
		for i := range over {
			over[i] = i >= 2
		}
		g := newGroups(x.Shape, over, true)
		out, err := c.make(0, x.DType, g.out)
		if err != nil {
			return err
		}
		pool := f(c)
		return c.parallel(out.Len(), max(1, 1<<13/g.n), func(lo, hi int) error {
			eachGroup(g, x, floatLane, lo, hi, func(i int, v []float64) { putFloat(out, i, pool(v)) })
			return nil
		})
	}
}

func maxUnpool(c *call) error {
	x, index := c.tensor(0), c.tensor(1)
	if len(x.Shape) < 3 || !index.Shape.Equal(x.Shape) {
		return badInput(1, "has shape %v, the values have %v", index.Shape, x.Shape)
	}
	rank := len(x.Shape) - 2
	kernel, err := c.spatialList("kernel_shape", rank, 1, 1)
	if err != nil {
		return err
	}
	stride, err := c.spatialList("strides", rank, 1, 1)
	if err != nil {
		return err
	}
	pads, err := c.spatialList("pads", 2*rank, 0, 0)
	if err != nil {
		return err
	}
	// Indices count in the picture that the pool was made of.
	from := x.Shape.Clone()
	for i := range rank {
		from[i+2] = (x.Shape[i+2]-1)*int64(stride[i]) + int64(kernel[i]-pads[i]-pads[rank+i])
	}
	if _, err := from.Elements(); err != nil {
		return err
	}
	s := from
	if c.has(2) {
		if s, err = c.intsOf(2); err != nil {
			return err
		}
		if len(s) != len(x.Shape) {
			return badInput(2, "is %v, wants %d numbers", s, len(x.Shape))
		}
	}
	out, err := c.make(0, x.DType, s)
	if err != nil {
		return err
	}
	fromSt, st := strides(from), strides(s)
	total := int64(elements(from))
	for i := range x.Len() {
		at := intAt(index, i)
		if at < 0 || at >= total {
			return badInput(1, "holds %d, the picture has %d elements", at, total)
		}
		rest, to := int(at), 0
		for k, f := range fromSt {
			p := rest / f
			rest %= f
			if int64(p) >= s[k] {
				return badInput(2, "is %v, too small for index %d", s, at)
			}
			to += p * st[k]
		}
		move(out, to, x, i, 1)
	}
	return nil
}

// col2Im adds blocks back into the pictures they were taken from.
func col2Im(c *call) error {
	x := c.tensor(0)
	image, err := c.intsOf(1)
	if err != nil {
		return err
	}
	block, err := c.intsOf(2)
	if err != nil {
		return err
	}
	if len(image) == 0 || len(image) != len(block) {
		return badInput(2, "is %v for pictures of %v", block, image)
	}
	for _, d := range image {
		if d < 1 {
			return badInput(1, "is %v", image)
		}
	}
	w, err := c.newWindows(image, block)
	if err != nil {
		return err
	}
	positions, area := count(w.out), elements(image)
	if len(x.Shape) != 3 || x.Shape[1]%int64(w.taps) != 0 || x.Shape[2] != int64(positions) {
		return badInput(0, "has shape %v, wants [_,_*%d,%d]", x.Shape, w.taps, positions)
	}
	channels := x.Shape[1] / int64(w.taps)
	out, err := c.make(0, x.DType, append(tensor.Shape{x.Shape[0], channels}, image...))
	if err != nil || out.Len() == 0 {
		return err
	}
	return c.parallel(int(x.Shape[0]*channels), 1, func(item, _ int) error {
		floats, ints := make([]float64, area), make([]int64, area)
		taps := make([]int, w.taps)
		for pos := range positions {
			w.at(pos, taps)
			for t, o := range taps {
				at := (item*w.taps+t)*positions + pos
				switch {
				case o < 0:
				case x.DType.IsInt():
					ints[o] += intAt(x, at)
				default:
					floats[o] += floatAt(x, at)
				}
			}
		}
		if x.DType.IsInt() {
			storeInt(out, item*area, ints)
		} else {
			storeFloat(out, item*area, floats)
		}
		return nil
	})
}

// dropout passes its input on: random dropping, which training asks for, has no
// right answer to compare with.
// dropout passes its input on, but in training mode, which later versions have.
func dropout(c *call) error {
	x := c.tensor(0)
	var mask tensor.Tensor
	if c.wants(1) {
		d := tensor.Bool
		if c.op.Version < 10 {
			d = x.DType
		}
		var err error
		if mask, err = c.make(1, d, x.Shape); err != nil {
			return err
		}
	}
	if c.has(2) {
		if c.tensor(2).Len() != 1 {
			return badInput(2, "has shape %v, wants one element", c.tensor(2).Shape)
		}
		ratio := 0.5
		if c.has(1) {
			var err error
			if ratio, err = c.floatOf(1); err != nil {
				return err
			}
		}
		if c.tensor(2).Data[0] != 0 && ratio != 0 {
			return c.dropped(x, ratio, mask)
		}
	}
	c.give(0, x)
	if mask.DType == tensor.Undefined {
		return nil
	}
	one, err := c.new(mask.DType, nil)
	if err != nil {
		return err
	}
	storeNumber(one, 0, 1)
	fill(mask, 0, one, 0, mask.Len())
	return nil
}
