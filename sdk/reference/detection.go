package reference

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

const roiAttrs = "mode string=avg|max, output_height int=1, output_width int=1, sampling_ratio int=0, spatial_scale float=1"

var detectionOps = []spec{
	{"NonMaxSuppression", since(10, 11), "boxes f32, scores f32, max_output_boxes_per_class? i64, iou_threshold? f32, score_threshold? f32 -> selected_indices i64",
		"center_point_box int=0", nonMaxSuppression},
	{"RoiAlign", since(10), "X T1:float, rois T1, batch_indices i64 -> Y T1", roiAttrs, roiAlign},
	{"RoiAlign", since(16, 22), "X T1:float, rois T1, batch_indices i64 -> Y T1",
		"coordinate_transformation_mode string=half_pixel|output_half_pixel, " + roiAttrs, roiAlign},
	{"MaxRoiPool", since(1, 22), "X T:float, rois T -> Y T", "pooled_shape ints!, spatial_scale float=1", maxRoiPool},
	{"DeformConv", since(19, 22), "X T:float, W T, offset T, B? T, mask? T -> Y T",
		"dilations ints, group int=1, kernel_shape ints, offset_group int=1, pads ints, strides ints", deformConv},
}

// box is a rectangle by its corners.
type box struct{ x0, y0, x1, y1 float64 }

func (b box) area() float64 { return (b.x1 - b.x0) * (b.y1 - b.y0) }

// overlap is the intersection of two boxes over their union, rounded to float32 as
// the thresholds are; 0 where either has no area.
func overlap(a, b box) float32 {
	in := box{max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1)}
	if !(in.x1 > in.x0 && in.y1 > in.y0) {
		return 0
	}
	return float32(in.area() / (a.area() + b.area() - in.area()))
}

// nonMaxSuppression selects boxes of each class by falling score, of equal ones the
// first, without those that overlap an earlier one too much. NaN scores stand last.
func nonMaxSuppression(c *call) error {
	boxes, scores := c.tensor(0).Shape, c.tensor(1).Shape
	if len(boxes) != 3 || boxes[2] != 4 {
		return badInput(0, "has shape %v, wants [batch,boxes,4]", boxes)
	}
	if len(scores) != 3 || scores[0] != boxes[0] || scores[2] != boxes[1] {
		return badInput(1, "has shape %v, wants [%d,classes,%d]", scores, boxes[0], boxes[1])
	}
	batches, classes, n := int(boxes[0]), int(scores[1]), int(boxes[1])
	most := int64(0)
	var limit, least float64
	var err error
	if c.has(2) {
		if most, err = c.intOf(2); err != nil {
			return err
		}
		most = max(most, 0)
	}
	if c.has(3) {
		if limit, err = c.floatOf(3); err != nil {
			return err
		}
		if !(limit >= 0 && limit <= 1) {
			return badInput(3, "is %g, wants a number from 0 to 1", limit)
		}
	}
	if c.has(4) {
		if least, err = c.floatOf(4); err != nil {
			return err
		}
	}
	most = min(most, int64(n))
	workers := int64(min(batches*classes, runtime.GOMAXPROCS(0)))
	if err := c.reserve(int64(batches*n)*32 + int64(batches*classes)*(24+8*most) + workers*int64(n)*16); err != nil {
		return err
	}
	all, err := c.boxes(c.tensor(0), c.flag("center_point_box"))
	if err != nil {
		return err
	}
	picked := make([][]int, batches*classes)
	err = c.parallel(len(picked), 1, func(item, _ int) error {
		batch := all[item/classes*n:][:n]
		score := make([]float64, n)
		loadFloat(score, c.tensor(1), item*n)
		order := make([]int, 0, n)
		for i, s := range score {
			if !c.has(4) || s > least {
				order = append(order, i)
			}
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(score[b], score[a]) })
		for k, i := range order {
			if k%1024 == 0 {
				if err := c.ctx.Err(); err != nil {
					return err
				}
			}
			if int64(len(picked[item])) == most {
				break
			}
			if !slices.ContainsFunc(picked[item], func(j int) bool { return overlap(batch[i], batch[j]) > float32(limit) }) {
				picked[item] = append(picked[item], i)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	total := 0
	for _, p := range picked {
		total += len(p)
	}
	out, err := c.make(0, tensor.Int64, tensor.Shape{int64(total), 3})
	if err != nil {
		return err
	}
	at := 0
	for item, p := range picked {
		for _, i := range p {
			storeInt(out, at, []int64{int64(item / classes), int64(item % classes), int64(i)})
			at += 3
		}
	}
	return nil
}

// boxes reads [..., 4]: two opposite corners (y, x), or center, width and height.
func (c *call) boxes(t tensor.Tensor, centered bool) ([]box, error) {
	v, err := c.widened(t)
	if err != nil {
		return nil, err
	}
	list := make([]box, len(v)/4)
	for i := range list {
		p := v[i*4:]
		if centered {
			list[i] = box{p[0] - p[2]/2, p[1] - p[3]/2, p[0] + p[2]/2, p[1] + p[3]/2}
		} else {
			list[i] = box{min(p[1], p[3]), min(p[0], p[2]), max(p[1], p[3]), max(p[0], p[2])}
		}
	}
	return list, nil
}

// picture checks that an input is a batch of pictures [N,C,H,W].
func (c *call) picture(i int) (s tensor.Shape, err error) {
	if s = c.tensor(i).Shape; len(s) != 4 {
		return nil, badInput(i, "has shape %v, wants 4 dimensions", s)
	}
	if s[2] > maxSpatial || s[3] > maxSpatial {
		return nil, badInput(i, "has shape %v", s)
	}
	return s, nil
}

// maxSampling bounds the samples of a region's cell along an axis that
// sampling_ratio may ask for.
const maxSampling = 1 << 10

// farthest bounds the coordinates of regions, so that their sizes are finite.
const farthest = 1e300

// samples are the places in a picture's axis that the cells of a region look at.
type samples struct {
	count float64 // of each cell, those outside the picture included
	cells [][]sample
}

// sample is a place between two elements of an axis: (1-w) * lo + w * hi.
type sample struct {
	lo, hi int
	w      float64
}

// newSamples divides a region into cells. ratio 0 stands for about one sample an
// element of the picture. Only samples inside the picture, or up to one element
// outside of it, are listed: the others are zero.
func newSamples(start, size float64, cells, length, ratio int) samples {
	s := samples{cells: make([][]sample, cells)}
	cell := size / float64(cells)
	count := float64(ratio)
	if ratio == 0 {
		count = math.Ceil(cell)
	}
	// Never more than are told apart: a region of that size sees next to nothing.
	s.count = min(max(count, 0), 1<<53)
	step := cell / count
	for i := range s.cells {
		first := start + float64(i)*cell
		from, to := 0.0, s.count
		if step > 0 {
			from = max(from, math.Floor((-1-first)/step)-1)
			to = min(to, math.Ceil((float64(length)-first)/step)+1)
		}
		for k := from; k < to; k++ {
			at := first + (k+0.5)*step
			if !(at >= -1 && at <= float64(length)) || length == 0 {
				continue
			}
			at = min(max(at, 0), float64(length-1))
			lo := int(at)
			s.cells[i] = append(s.cells[i], sample{lo, min(lo+1, length-1), at - float64(lo)})
		}
	}
	return s
}

// roiAlign pools regions, each cell over samples that are interpolated between four
// elements. In mode max it is the largest of the four weighted elements that
// counts, not that of their sums: ONNX's tests and runtimes have it so.
func roiAlign(c *call) error {
	x, err := c.picture(0)
	if err != nil {
		return err
	}
	rois, batch := c.tensor(1).Shape, c.tensor(2)
	if len(rois) != 2 || rois[1] != 4 {
		return badInput(1, "has shape %v, wants [regions,4]", rois)
	}
	if !batch.Shape.Equal(tensor.Shape{rois[0]}) {
		return badInput(2, "has shape %v, wants [%d]", batch.Shape, rois[0])
	}
	h, w, ratio := c.int("output_height"), c.int("output_width"), c.int("sampling_ratio")
	if h < 1 || w < 1 || h > maxSpatial || w > maxSpatial || ratio < 0 || ratio > maxSampling {
		return fmt.Errorf("an output of %d by %d with sampling_ratio %d (of at most %d) is not defined", h, w, ratio, maxSampling)
	}
	shift, least := 0.0, 1.0
	if _, ok := c.op.attrs["coordinate_transformation_mode"]; ok && c.str("coordinate_transformation_mode") == "half_pixel" {
		shift, least = 0.5, math.Inf(-1)
	}
	out, err := c.make(0, c.tensor(0).DType, tensor.Shape{rois[0], x[1], h, w})
	if err != nil || out.Len() == 0 {
		return err
	}
	area := int(x[2] * x[3])
	// Samples are at most two an element and ratio a cell, and live as long as their region.
	perAxis := 24 * (max(2*x[2]+ratio*h, 2*x[3]+ratio*w) + 4*max(h, w))
	if err := c.reserve((2*perAxis + int64(area)*8) * int64(min(int(rois[0]), runtime.GOMAXPROCS(0)))); err != nil {
		return err
	}
	scale, largest := c.float("spatial_scale"), c.str("mode") == "max"
	return c.parallel(int(rois[0]), 1, func(r, _ int) error {
		from, err := wrapIndex(intAt(batch, r), x[0], 2)
		if err != nil {
			return err
		}
		var p [4]float64 // x0, y0, x1, y1
		loadFloat(p[:], c.tensor(1), r*4)
		for i := range p {
			if p[i] = p[i]*scale - shift; !(math.Abs(p[i]) <= farthest) {
				return badInput(1, "holds %v for region %d", p, r)
			}
		}
		down := newSamples(p[1], max(p[3]-p[1], least), int(h), int(x[2]), int(ratio))
		across := newSamples(p[0], max(p[2]-p[0], least), int(w), int(x[3]), int(ratio))
		plane := make([]float64, area)
		values := make([]float64, h*w)
		for ch := range int(x[1]) {
			loadFloat(plane, c.tensor(0), (int(from)*int(x[1])+ch)*area)
			for i, rows := range down.cells {
				for j, cols := range across.cells {
					values[i*int(w)+j] = pooled(plane, int(x[3]), rows, cols, down.count, across.count, largest)
				}
				if err := c.ctx.Err(); err != nil {
					return err
				}
			}
			storeFloat(out, (r*int(x[1])+ch)*len(values), values)
		}
		return nil
	})
}

// pooled is the mean or the largest of a cell's samples, of which those that are
// not listed are zero.
func pooled(plane []float64, width int, rows, cols []sample, down, across float64, largest bool) float64 {
	sum, top := 0.0, math.Inf(-1)
	if float64(len(rows)) < down || float64(len(cols)) < across {
		top = 0
	}
	for _, y := range rows {
		lo, hi := plane[y.lo*width:], plane[y.hi*width:]
		for _, x := range cols {
			a, b := (1-y.w)*(1-x.w)*lo[x.lo], (1-y.w)*x.w*lo[x.hi]
			d, e := y.w*(1-x.w)*hi[x.lo], y.w*x.w*hi[x.hi]
			sum += a + b + d + e
			top = max(top, a, b, d, e)
		}
	}
	switch {
	case down == 0 || across == 0:
		return 0
	case largest:
		return top
	}
	return sum / (down * across)
}

// maxRoiPool takes the largest element of each cell of regions of whole elements.
// Cells without any are zero.
func maxRoiPool(c *call) error {
	x, err := c.picture(0)
	if err != nil {
		return err
	}
	rois := c.tensor(1).Shape
	if len(rois) != 2 || rois[1] != 5 {
		return badInput(1, "has shape %v, wants [regions,5]", rois)
	}
	cells := c.ints("pooled_shape")
	if len(cells) != 2 || cells[0] < 1 || cells[1] < 1 || cells[0] > maxSpatial || cells[1] > maxSpatial {
		return fmt.Errorf("attribute pooled_shape is %v", cells)
	}
	out, err := c.make(0, c.tensor(0).DType, tensor.Shape{rois[0], x[1], cells[0], cells[1]})
	if err != nil || out.Len() == 0 {
		return err
	}
	area := int(x[2] * x[3])
	if err := c.reserve((int64(area)*8 + cells[0]*cells[1]*8) * int64(min(int(rois[0]), runtime.GOMAXPROCS(0)))); err != nil {
		return err
	}
	scale := c.float("spatial_scale")
	return c.parallel(int(rois[0]), 1, func(r, _ int) error {
		var p [5]float64 // batch, x0, y0, x1, y1
		loadFloat(p[:], c.tensor(1), r*5)
		if !(p[0] >= 0 && p[0] < float64(x[0])) {
			return badInput(1, "holds picture %g of %d", p[0], x[0])
		}
		for i := range p[1:] {
			if p[i+1] = math.Round(p[i+1] * scale); !(math.Abs(p[i+1]) <= farthest) {
				return badInput(1, "holds %v for region %d", p, r)
			}
		}
		// edges are the elements [lo,hi) of a cell along an axis.
		edges := func(i, cells, length int64, from, to float64) (lo, hi int) {
			cell := max(to-from+1, 1) / float64(cells)
			inside := func(v float64) int { return int(min(max(v+from, 0), float64(length))) }
			return inside(math.Floor(float64(i) * cell)), inside(math.Ceil(float64(i+1) * cell))
		}
		plane := make([]float64, area)
		values := make([]float64, cells[0]*cells[1])
		for ch := range int(x[1]) {
			loadFloat(plane, c.tensor(0), (int(p[0])*int(x[1])+ch)*area)
			for i := range cells[0] {
				if err := c.ctx.Err(); err != nil {
					return err
				}
				top, bottom := edges(i, cells[0], x[2], p[2], p[4])
				for j := range cells[1] {
					left, right := edges(j, cells[1], x[3], p[1], p[3])
					v := &values[i*cells[1]+j]
					*v = 0
					if top < bottom && left < right {
						*v = math.Inf(-1)
					}
					for y := top; y < bottom; y++ {
						for _, e := range plane[y*int(x[3])+left : y*int(x[3])+max(left, right)] {
							*v = max(*v, e)
						}
					}
				}
			}
			storeFloat(out, (r*int(x[1])+ch)*len(values), values)
		}
		return nil
	})
}

// deformation is a convolution whose taps are moved by fractions of elements.
type deformation struct {
	*convolution
	offset, mask tensor.Tensor // mask: Undefined where there is none
	moves        int           // groups of channels that are moved alike
}

// corner is an element of a picture and what it weighs.
type corner struct {
	at     int
	weight float64
}

// corners lists, for a tap at an output position, the elements of the picture
// around the place where it looks, and their weights times the mask. Places beyond
// the picture are zero, as is one that is no number. dst is reused.
func (d *deformation) corners(dst []corner, n, move, tap, position int) []corner {
	rank, positions := len(d.in), count(d.windows.out)
	weight := 1.0
	if d.mask.DType != tensor.Undefined {
		weight = floatAt(d.mask, ((n*d.moves+move)*d.taps+tap)*positions+position)
	}
	dst = append(dst[:0], corner{0, weight})
	rest, at, stride := tap, position, 1
	for i := rank - 1; i >= 0; i-- {
		p := float64(at%d.windows.out[i]*d.stride[i] - d.before[i] + rest%d.kernel[i]*d.dilation[i])
		p += floatAt(d.offset, (((n*d.moves+move)*d.taps+tap)*rank+i)*positions+position)
		at /= d.windows.out[i]
		rest /= d.kernel[i]
		if !(p > -1 && p < float64(d.in[i])) {
			return dst[:0]
		}
		lo := int(math.Floor(p))
		w := p - float64(lo)
		all := len(dst)
		if lo+1 < d.in[i] {
			for _, c := range dst[:all] {
				dst = append(dst, corner{c.at + (lo+1)*stride, c.weight * w})
			}
		}
		if lo < 0 {
			dst = append(dst[:0], dst[all:]...)
		} else {
			for k := range dst[:all] {
				dst[k].at += lo * stride
				dst[k].weight *= 1 - w
			}
		}
		stride *= d.in[i]
	}
	return dst
}

func deformConv(c *call) error {
	g, err := c.convolution()
	if err != nil {
		return err
	}
	moves, parts := c.int("offset_group"), int64(g.taps*len(g.in))
	if len(g.in) > 8 {
		return badInput(0, "has shape %v, pictures of at most 8 dimensions are known", c.tensor(0).Shape)
	}
	if moves < 1 || int64(g.channels)%moves != 0 || moves > maxSpatial/parts {
		return fmt.Errorf("%d channels can't be moved in %d groups", g.channels, moves)
	}
	d := &deformation{convolution: g, offset: c.tensor(2), moves: int(moves)}
	if want := g.shape(int64(g.n), moves*parts); !d.offset.Shape.Equal(want) {
		return badInput(2, "has shape %v, wants %v", d.offset.Shape, want)
	}
	var bias []float64
	if c.has(3) {
		if bias, err = c.perChannel(3, int64(g.filters)); err != nil {
			return err
		}
	}
	if c.has(4) {
		d.mask = c.tensor(4)
		if want := g.shape(int64(g.n), moves*int64(g.taps)); !d.mask.Shape.Equal(want) {
			return badInput(4, "has shape %v, wants %v", d.mask.Shape, want)
		}
	}
	out, err := c.make(0, c.tensor(0).DType, g.shape(int64(g.n), int64(g.filters)))
	if err != nil {
		return err
	}
	area, per, alike := count(g.in), g.channels/g.groups, g.channels/d.moves
	return convolvePatches(c, g, out, floatLane, floatLane, func(dst, pictures []float64, n, first, lo, hi int) {
		var list []corner
		for pos := lo; pos < hi; pos++ {
			col := dst[(pos-lo)*per*g.taps:]
			for ch := first; ch < first+per; {
				// Channels that are moved alike look at the same places.
				end := min((ch/alike+1)*alike, first+per)
				for tap := range g.taps {
					list = d.corners(list, n, ch/alike, tap, pos)
					for k := ch; k < end; k++ {
						sum := 0.0
						for _, e := range list {
							sum += e.weight * pictures[(n*g.channels+k)*area+e.at]
						}
						col[(k-first)*g.taps+tap] = sum
					}
				}
				ch = end
			}
		}
	}, biased(out, bias))
}
