package reference

import (
	"errors"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

var movementOps = []spec{
	{"Identity", since(1, 13, 14, 16, 19, 21, 23, 24, 25), "input V:value -> output V", "", identity},
	{"Shape", since(1, 13, 15, 19, 21, 23, 24, 25), "data any -> shape i64", "start int=0, end int", shapeOp},
	{"Size", since(1, 13, 19, 21, 23, 24, 25), "data any -> size i64", "", size},
	{"Reshape", since(5, 13, 14, 19, 21, 23, 24, 25), "data T:any, shape i64 -> reshaped T", "allowzero int=0", reshape},
	{"Flatten", since(1, 9, 11, 13, 21, 23, 24, 25), "input T:any -> output T", "axis int=1", flatten},
	{"Squeeze", since(1, 11), "data T:any -> squeezed T", "axes ints", squeeze},
	{"Squeeze", since(13, 21, 23, 24, 25), "data T:any, axes? i64 -> squeezed T", "", squeeze},
	{"Unsqueeze", since(1, 11), "data T:any -> expanded T", "axes ints!", unsqueeze},
	{"Unsqueeze", since(13, 21, 23, 24, 25), "data T:any, axes i64 -> expanded T", "", unsqueeze},
	{"Transpose", since(1, 13, 21, 23, 24, 25), "data T:any -> transposed T", "perm ints", transpose},
	{"Expand", since(8, 13), "input T:any, shape i64 -> output T", "", expand},
	{"Tile", since(6, 13), "input T:any, repeats i64 -> output T", "", tile},
	{"Concat", since(4, 11, 13), "inputs... T:any -> concat_result T", "axis int!", concat},
	{"Split", since(2, 11), "input T:any -> outputs... T", "axis int=0, split ints", split},
	{"Split", since(13, 18), "input T:any, split? i64 -> outputs... T", "axis int=0, num_outputs int", split},
	{"Slice", since(1), "data T:any -> output T", "axes ints, starts ints!, ends ints!", slice},
	{"Slice", since(10, 11, 13), "data T:any, starts I:idx, ends I, axes? I, steps? I -> output T", "", slice},
	{"Pad", since(2), "data T:any -> output T", "mode string=constant|reflect|edge, pads ints!, value float=0", pad},
	{"Pad", since(11, 13, 18, 19, 21, 23, 24, 25), "data T:any, pads i64, constant_value? T, axes? idx -> output T",
		"mode string=constant|reflect|edge|wrap", pad},
	{"CenterCropPad", since(18), "input_data T:any, shape idx -> output_data T", "axes ints", centerCropPad},
	{"DepthToSpace", since(1, 11, 13, 28), "input T:any -> output T", "blocksize int!, mode string=DCR|CRD", depthToSpace},
	{"SpaceToDepth", since(1, 13, 28), "input T:any -> output T", "blocksize int!, mode string=DCR|CRD", spaceToDepth},
	{"Trilu", since(14), "input T:any, k? i64 -> output T", "upper int=1", trilu},
	{"ReverseSequence", since(10, 28), "input T:any, sequence_lens i64 -> Y T", "batch_axis int=1, time_axis int=0", reverseSequence},
	{"Compress", since(9, 11, 28), "input T:any, condition bool -> output T", "axis int", compress},
}

func identity(c *call) error {
	c.giveValue(0, c.in[0])
	return nil
}

// reshaped is the same data under another shape.
func reshaped(t tensor.Tensor, s tensor.Shape) tensor.Tensor {
	t.Shape = s
	return t
}

func shapeOp(c *call) error {
	s := c.tensor(0).Shape
	clampTo := func(v int64) int64 {
		if v < 0 {
			v += int64(len(s))
		}
		return min(max(v, 0), int64(len(s)))
	}
	start, end := clampTo(c.int("start")), int64(len(s))
	if c.hasAttr("end") {
		end = max(clampTo(c.int("end")), start)
	}
	out, err := c.make(0, tensor.Int64, tensor.Shape{end - start})
	if err != nil {
		return err
	}
	storeInt(out, 0, s[start:end])
	return nil
}

func size(c *call) error {
	out, err := c.make(0, tensor.Int64, nil)
	if err != nil {
		return err
	}
	putInt(out, 0, int64(c.tensor(0).Len()))
	return nil
}

func reshape(c *call) error {
	x := c.tensor(0)
	want, err := c.intsOf(1)
	if err != nil {
		return err
	}
	s := make(tensor.Shape, len(want))
	free := -1
	known := tensor.Shape{}
	for i, d := range want {
		switch {
		case d == 0 && !c.flag("allowzero"):
			if i >= len(x.Shape) {
				return badInput(1, "copies dimension %d, the data has shape %v", i, x.Shape)
			}
			d = x.Shape[i]
		case d == -1:
			if free >= 0 {
				return badInput(1, "leaves two dimensions open: %v", want)
			}
			free = i
			continue
		case d < 0:
			return badInput(1, "has dimension %d", d)
		}
		s[i] = d
		known = append(known, d)
	}
	n, err := known.Elements()
	if err != nil {
		return badInput(1, "%v", err)
	}
	total := int64(x.Len())
	if free >= 0 {
		if n == 0 || total%n != 0 {
			return badInput(1, "is %v, to which data of shape %v does not fit", want, x.Shape)
		}
		s[free] = total / n
		n = total
	}
	if n != total {
		return badInput(1, "is %v, to which data of shape %v does not fit", want, x.Shape)
	}
	c.give(0, reshaped(x, s))
	return nil
}

func flatten(c *call) error {
	x := c.tensor(0)
	axis := c.int("axis")
	if axis < 0 {
		axis += int64(len(x.Shape))
	}
	if axis < 0 || axis > int64(len(x.Shape)) {
		return fmt.Errorf("axis %d does not exist in rank %d", c.int("axis"), len(x.Shape))
	}
	if x.Len() == 0 {
		// The product of one side may be too large to count.
		for _, part := range []tensor.Shape{x.Shape[:axis], x.Shape[axis:]} {
			if _, err := part.Elements(); err != nil {
				return badInput(0, "%v", err)
			}
		}
	}
	c.give(0, reshaped(x, tensor.Shape{int64(elements(x.Shape[:axis])), int64(elements(x.Shape[axis:]))}))
	return nil
}

// axesInput reads axes from an input where the version has one, else from the
// attribute. given is false where they are left out.
func (c *call) axesInput(i int) (axes []int64, given bool, err error) {
	if _, ok := c.op.attrs["axes"]; ok {
		return c.ints("axes"), c.hasAttr("axes"), nil
	}
	if !c.has(i) {
		return nil, false, nil
	}
	axes, err = c.intsOf(i)
	return axes, true, err
}

func squeeze(c *call) error {
	x := c.tensor(0)
	axes, given, err := c.axesInput(1)
	if err != nil {
		return err
	}
	_, drop, err := axesOf(axes, len(x.Shape))
	if err != nil {
		return err
	}
	s := tensor.Shape{}
	for i, d := range x.Shape {
		switch {
		case !given && d == 1:
		case drop[i] && d != 1:
			return fmt.Errorf("axis %d of shape %v is not 1", i, x.Shape)
		case !drop[i]:
			s = append(s, d)
		}
	}
	c.give(0, reshaped(x, s))
	return nil
}

func unsqueeze(c *call) error {
	x := c.tensor(0)
	axes, _, err := c.axesInput(1)
	if err != nil {
		return err
	}
	rank := len(x.Shape) + len(axes)
	_, added, err := axesOf(axes, rank)
	if err != nil {
		return err
	}
	s := make(tensor.Shape, 0, rank)
	rest := x.Shape
	for i := range rank {
		if added[i] {
			s = append(s, 1)
		} else {
			s, rest = append(s, rest[0]), rest[1:]
		}
	}
	c.give(0, reshaped(x, s))
	return nil
}

func transpose(c *call) error {
	x := c.tensor(0)
	perm := c.ints("perm")
	if !c.hasAttr("perm") {
		for i := range x.Shape {
			perm = append(perm, int64(len(x.Shape)-1-i))
		}
	}
	axes, _, err := axesOf(perm, len(x.Shape))
	if err != nil || len(axes) != len(x.Shape) {
		return fmt.Errorf("attribute perm %v does not permute rank %d", perm, len(x.Shape))
	}
	out, err := c.transposed(x, axes)
	if err != nil {
		return err
	}
	c.give(0, out)
	return nil
}

// transposed is a copy of x with its axes permuted.
func (c *call) transposed(x tensor.Tensor, axes []int) (tensor.Tensor, error) {
	own := strides(x.Shape)
	s := make(tensor.Shape, len(axes))
	st := make([]int, len(axes))
	for i, a := range axes {
		s[i], st[i] = x.Shape[a], own[a]
	}
	out, err := c.new(x.DType, s)
	if err != nil {
		return out, err
	}
	return out, c.moveView(out, x, 0, st)
}

func expand(c *call) error {
	x := c.tensor(0)
	want, err := c.intsOf(1)
	if err != nil {
		return err
	}
	for _, d := range want {
		if d < 0 {
			return badInput(1, "is %v", want)
		}
	}
	s, err := broadcast(x.Shape, want)
	if err != nil {
		return badInput(1, "%v", err)
	}
	out, err := c.make(0, x.DType, s)
	if err != nil {
		return err
	}
	return c.moveView(out, x, 0, broadcastStrides(x.Shape, s))
}

func tile(c *call) error {
	x := c.tensor(0)
	repeats, err := c.intsOf(1)
	if err != nil {
		return err
	}
	if len(repeats) != len(x.Shape) {
		return badInput(1, "has %d numbers, the data has rank %d", len(repeats), len(x.Shape))
	}
	s := make(tensor.Shape, len(x.Shape))
	// Each dimension is walked as repeats times itself.
	var double tensor.Shape
	var st []int
	own := strides(x.Shape)
	for i, d := range x.Shape {
		r := repeats[i]
		if r < 0 || d > 0 && r > math.MaxInt64/d {
			return badInput(1, "is %v, to repeat shape %v", repeats, x.Shape)
		}
		s[i] = d * r
		double = append(double, r, d)
		st = append(st, 0, own[i])
	}
	out, err := c.make(0, x.DType, s)
	if err != nil {
		return err
	}
	return c.moveView(reshaped(out, double), x, 0, st)
}

func concat(c *call) error {
	ts := c.tensors(0)
	if len(ts) == 0 {
		return errors.New("it has no inputs")
	}
	axis, err := axisOf(c.int("axis"), len(ts[0].Shape))
	if err != nil {
		return err
	}
	out, err := c.concat(ts, axis)
	if err != nil {
		return err
	}
	c.give(0, out)
	return nil
}

// concat joins tensors of one type along an axis of theirs.
func (c *call) concat(ts []tensor.Tensor, axis int) (tensor.Tensor, error) {
	s := ts[0].Shape.Clone()
	s[axis] = 0
	for i, t := range ts {
		if len(t.Shape) != len(s) {
			return tensor.Tensor{}, badInput(i, "has shape %v, the first has %v", t.Shape, ts[0].Shape)
		}
		for k, d := range t.Shape {
			if k == axis {
				if s[axis] > math.MaxInt64-d {
					return tensor.Tensor{}, badInput(i, "has shape %v, which is too long", t.Shape)
				}
				s[axis] += d
			} else if d != s[k] {
				return tensor.Tensor{}, badInput(i, "has shape %v, the first has %v", t.Shape, ts[0].Shape)
			}
		}
	}
	out, err := c.new(ts[0].DType, s)
	if err != nil {
		return out, err
	}
	st := strides(s)
	offset := 0
	for _, t := range ts {
		c.placeView(out, offset, st, t)
		offset += int(t.Shape[axis]) * st[axis]
	}
	return out, c.ctx.Err()
}

func split(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	var sizes []int64
	_, old := c.op.attrs["split"]
	switch {
	case old:
		sizes = c.ints("split")
	case c.has(1):
		if sizes, err = c.intsOf(1); err != nil {
			return err
		}
	}
	n := int64(len(c.node.Outputs))
	d := x.Shape[axis]
	if sizes == nil {
		if !old && c.op.Version >= 18 {
			if n = c.int("num_outputs"); n <= 0 || n != int64(len(c.node.Outputs)) {
				return fmt.Errorf("attribute num_outputs is %d, the node has %d outputs", n, len(c.node.Outputs))
			}
		} else if d%n != 0 {
			return fmt.Errorf("axis %d of shape %v can't be split into %d equal parts", axis, x.Shape, n)
		}
		part := (d + n - 1) / n
		for rest := d; int64(len(sizes)) < n; rest -= part {
			sizes = append(sizes, max(0, min(part, rest)))
		}
	}
	if int64(len(sizes)) != n {
		return fmt.Errorf("%d sizes are given for %d outputs", len(sizes), n)
	}
	sum := int64(0)
	for _, s := range sizes {
		if s < 0 || s > d-sum {
			return fmt.Errorf("sizes %v do not add up to %d, axis %d of shape %v", sizes, d, axis, x.Shape)
		}
		sum += s
	}
	if sum != d {
		return fmt.Errorf("sizes %v do not add up to %d, axis %d of shape %v", sizes, d, axis, x.Shape)
	}
	at := int64(0)
	for i, n := range sizes {
		part, err := c.part(x, axis, at, n)
		if err != nil {
			return err
		}
		c.give(i, part)
		at += n
	}
	return nil
}

// part copies n entries of an axis.
func (c *call) part(x tensor.Tensor, axis int, at, n int64) (tensor.Tensor, error) {
	s := x.Shape.Clone()
	s[axis] = n
	out, err := c.new(x.DType, s)
	if err != nil {
		return out, err
	}
	st := strides(x.Shape)
	return out, c.moveView(out, x, int(at)*st[axis], st)
}

func slice(c *call) error {
	x := c.tensor(0)
	lists := [4][]int64{c.intsAttr("starts"), c.intsAttr("ends"), c.intsAttr("axes")}
	if c.op.Version >= 10 {
		for i := range lists {
			if !c.has(i + 1) {
				continue
			}
			var err error
			if lists[i], err = c.intsOf(i + 1); err != nil {
				return err
			}
		}
	}
	starts, ends, axes, steps := lists[0], lists[1], lists[2], lists[3]
	if axes == nil {
		for i := range starts {
			axes = append(axes, int64(i))
		}
	}
	if steps == nil {
		for range starts {
			steps = append(steps, 1)
		}
	}
	if len(starts) != len(ends) || len(starts) != len(axes) || len(starts) != len(steps) {
		return fmt.Errorf("starts, ends, axes and steps have %d, %d, %d and %d numbers", len(starts), len(ends), len(axes), len(steps))
	}
	where, _, err := axesOf(axes, len(x.Shape))
	if err != nil {
		return err
	}
	s := x.Shape.Clone()
	st := strides(x.Shape)
	offset := 0
	for i, a := range where {
		d, step := x.Shape[a], max(steps[i], -math.MaxInt64)
		if step == 0 {
			return badInput(4, "is zero")
		}
		from := func(v, lo, hi int64) int64 {
			if v < 0 {
				v += d
			}
			return min(max(v, lo), hi)
		}
		var start, n int64
		if step > 0 {
			start = from(starts[i], 0, d)
			if end := from(ends[i], 0, d); end > start {
				n = 1 + (end-start-1)/step
			}
		} else {
			start = from(starts[i], 0, d-1)
			if end := from(ends[i], -1, d-1); start > end {
				n = 1 + (start-end-1)/-step
			}
		}
		s[a] = n
		if n > 0 {
			offset += int(start) * st[a]
		}
		if n > 1 {
			st[a] *= int(step)
		}
	}
	out, err := c.make(0, x.DType, s)
	if err != nil {
		return err
	}
	return c.moveView(out, x, offset, st)
}

// intsAttr is a list that only some versions of the operator have.
func (c *call) intsAttr(name string) []int64 {
	if _, ok := c.op.attrs[name]; !ok {
		return nil
	}
	return c.ints(name)
}

func pad(c *call) error {
	x := c.tensor(0)
	rank := len(x.Shape)
	pads := c.intsAttr("pads")
	value, err := c.new(x.DType, nil)
	if err != nil {
		return err
	}
	axes := make([]int64, rank)
	for i := range axes {
		axes[i] = int64(i)
	}
	if c.op.Version < 11 {
		if classOf(x.DType) != classFloat {
			return badInput(0, "is of type %s, for which this version is not defined", x.DType)
		}
		putFloat(value, 0, c.float("value"))
	} else {
		if pads, err = c.intsOf(1); err != nil {
			return err
		}
		if c.has(2) {
			if c.tensor(2).Len() != 1 {
				return badInput(2, "has shape %v, wants one element", c.tensor(2).Shape)
			}
			value = c.tensor(2)
		}
		if c.has(3) {
			if axes, err = c.intsOf(3); err != nil {
				return err
			}
		}
	}
	where, _, err := axesOf(axes, rank)
	if err != nil {
		return err
	}
	if len(pads) != 2*len(where) {
		return badInput(1, "has %d numbers, wants two for each of %d axes", len(pads), len(where))
	}
	before := make([]int64, rank)
	s := x.Shape.Clone()
	for i, a := range where {
		b, e := pads[i], pads[len(where)+i]
		const limit = math.MaxInt64 / 4
		if b > limit || e > limit || b < -limit || e < -limit || s[a] > limit || s[a]+b+e < 0 {
			return badInput(1, "is %v, shape %v can't be padded so", pads, x.Shape)
		}
		before[a] = b
		s[a] += b + e
	}
	mode := c.str("mode")
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	if mode == "constant" {
		return c.padConstant(out, x, before, value)
	}
	return c.padMirrored(out, x, before, mode)
}

// padConstant places x into out, which is larger or smaller by before and more.
func (c *call) padConstant(out, x tensor.Tensor, before []int64, value tensor.Tensor) error {
	fill(out, 0, value, 0, out.Len())
	// The part of x that is kept, and where it goes.
	kept := x.Shape.Clone()
	from, to := 0, 0
	ost, xst := strides(out.Shape), strides(x.Shape)
	for i := range kept {
		lo := max(0, -before[i])
		hi := min(x.Shape[i], out.Shape[i]-before[i])
		if hi <= lo {
			return nil
		}
		kept[i] = hi - lo
		from += int(lo) * xst[i]
		to += int(lo+before[i]) * ost[i]
	}
	w := newWalk(kept, ost, xst)
	w.each(0, w.rows, func(_ int, offs []int) {
		// The innermost dimensions of both are dense, or have one element.
		if w.steps[0] == 1 && w.steps[1] == 1 || w.inner == 1 {
			move(out, to+offs[0], x, from+offs[1], w.inner)
			return
		}
		for i := range w.inner {
			move(out, to+offs[0]+i*w.steps[0], x, from+offs[1]+i*w.steps[1], 1)
		}
	})
	return c.ctx.Err()
}

// padMirrored fills out from x by reflect, edge or wrap, dimension by dimension.
func (c *call) padMirrored(out, x tensor.Tensor, before []int64, mode string) error {
	maps := make([][]int, len(x.Shape))
	xst := strides(x.Shape)
	for i, n := range x.Shape {
		if n == 0 && out.Shape[i] > 0 {
			return badInput(0, "has shape %v: there is nothing to pad with", x.Shape)
		}
		if err := c.reserve(out.Shape[i] * 8); err != nil {
			return err
		}
		maps[i] = make([]int, out.Shape[i])
		for k := range maps[i] {
			maps[i][k] = int(mirrored(int64(k)-before[i], n, mode)) * xst[i]
		}
	}
	return c.gatherBy(out, x, maps)
}

// mirrored maps a position outside [0,n) into it.
func mirrored(p, n int64, mode string) int64 {
	switch {
	case mode == "edge":
		return min(max(p, 0), n-1)
	case mode == "wrap":
		return (p%n + n) % n
	case n == 1:
		return 0
	}
	period := 2 * (n - 1)
	p = (p%period + period) % period
	return min(p, period-p)
}

// gatherBy fills out with elements of x whose offset is the sum of one entry a
// dimension.
func (c *call) gatherBy(out, x tensor.Tensor, maps [][]int) error {
	if out.Len() == 0 {
		return nil
	}
	rank := len(out.Shape)
	if rank == 0 {
		move(out, 0, x, 0, 1)
		return nil
	}
	inner := maps[rank-1]
	rows := out.Len() / len(inner)
	grain := max(1, 1<<14/len(inner))
	if narrow(out.DType) {
		grain = rows
	}
	return c.parallel(rows, grain, func(lo, hi int) error {
		for row := lo; row < hi; row++ {
			offset, rest := 0, row
			for i := rank - 2; i >= 0; i-- {
				offset += maps[i][rest%len(maps[i])]
				rest /= len(maps[i])
			}
			for k, o := range inner {
				move(out, row*len(inner)+k, x, offset+o, 1)
			}
		}
		return nil
	})
}

func centerCropPad(c *call) error {
	x := c.tensor(0)
	want, err := c.intsOf(1)
	if err != nil {
		return err
	}
	axes := c.ints("axes")
	if !c.hasAttr("axes") {
		for i := range x.Shape {
			axes = append(axes, int64(i))
		}
	}
	where, _, err := axesOf(axes, len(x.Shape))
	if err != nil {
		return err
	}
	if len(want) != len(where) {
		return badInput(1, "has %d numbers for %d axes", len(want), len(where))
	}
	s := x.Shape.Clone()
	before := make([]int64, len(s))
	for i, a := range where {
		if want[i] < 0 {
			return badInput(1, "is %v", want)
		}
		s[a] = want[i]
		if d := x.Shape[a]; want[i] >= d {
			before[a] = (want[i] - d) / 2
		} else {
			before[a] = -((d - want[i]) / 2)
		}
	}
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	zero, err := c.new(x.DType, nil)
	if err != nil {
		return err
	}
	return c.padConstant(out, x, before, zero)
}

// rearrange reshapes, permutes and reshapes again.
func (c *call) rearrange(x tensor.Tensor, first tensor.Shape, perm []int, last tensor.Shape) error {
	out, err := c.transposed(reshaped(x, first), perm)
	if err != nil {
		return err
	}
	c.give(0, reshaped(out, last))
	return nil
}

func (c *call) blocks() (b, n, ch, h, w int64, err error) {
	s := c.tensor(0).Shape
	b = c.int("blocksize")
	if len(s) != 4 || b <= 0 || b > math.MaxInt32 {
		return 0, 0, 0, 0, 0, fmt.Errorf("shape %v with block size %d: a 4-dimensional tensor and a positive size are wanted", s, b)
	}
	return b, s[0], s[1], s[2], s[3], nil
}

func depthToSpace(c *call) error {
	b, n, ch, h, w, err := c.blocks()
	if err != nil {
		return err
	}
	if ch%(b*b) != 0 {
		return badInput(0, "has %d channels, no multiple of %d", ch, b*b)
	}
	ch /= b * b
	last := tensor.Shape{n, ch, h * b, w * b}
	if c.str("mode") == "CRD" {
		return c.rearrange(c.tensor(0), tensor.Shape{n, ch, b, b, h, w}, []int{0, 1, 4, 2, 5, 3}, last)
	}
	return c.rearrange(c.tensor(0), tensor.Shape{n, b, b, ch, h, w}, []int{0, 3, 4, 1, 5, 2}, last)
}

func spaceToDepth(c *call) error {
	b, n, ch, h, w, err := c.blocks()
	if err != nil {
		return err
	}
	if h%b != 0 || w%b != 0 {
		return badInput(0, "has shape %v, no multiple of %d high and wide", c.tensor(0).Shape, b)
	}
	h, w = h/b, w/b
	last := tensor.Shape{n, ch * b * b, h, w}
	perm := []int{0, 3, 5, 1, 2, 4}
	if c.str("mode") == "CRD" {
		perm = []int{0, 1, 3, 5, 2, 4}
	}
	return c.rearrange(c.tensor(0), tensor.Shape{n, ch, h, b, w, b}, perm, last)
}

func trilu(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) < 2 {
		return badInput(0, "has shape %v, wants matrices", x.Shape)
	}
	k := int64(0)
	if c.has(1) {
		var err error
		if k, err = c.intOf(1); err != nil {
			return err
		}
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil || out.Len() == 0 {
		return err
	}
	rows, cols := x.Shape[len(x.Shape)-2], x.Shape[len(x.Shape)-1]
	k = min(max(k, -rows), cols)
	for r := range int64(x.Len()) / cols {
		// Column of the diagonal in this row.
		diag := min(max(r%rows+k, 0), cols)
		from, to := diag, cols
		if !c.flag("upper") {
			from, to = 0, min(max(r%rows+k+1, 0), cols)
		}
		move(out, int(r*cols+from), x, int(r*cols+from), int(to-from))
	}
	return nil
}

func reverseSequence(c *call) error {
	x := c.tensor(0)
	batch, err := axisOf(c.int("batch_axis"), len(x.Shape))
	if err != nil {
		return err
	}
	time, err := axisOf(c.int("time_axis"), len(x.Shape))
	if err != nil {
		return err
	}
	if batch+time != 1 {
		return fmt.Errorf("batch axis %d and time axis %d: they must be 0 and 1", batch, time)
	}
	lens, err := c.intsOf(1)
	if err != nil {
		return err
	}
	if int64(len(lens)) != x.Shape[batch] {
		return badInput(1, "has %d lengths for a batch of %d", len(lens), x.Shape[batch])
	}
	out, err := c.make(0, x.DType, x.Shape)
	if err != nil || out.Len() == 0 {
		return err
	}
	st := strides(x.Shape)
	inner := elements(x.Shape[2:])
	for b, n := range lens {
		if n < 0 || n > x.Shape[time] {
			return badInput(1, "has length %d, the time axis has %d", n, x.Shape[time])
		}
		for t := range x.Shape[time] {
			from := t
			if t < n {
				from = n - 1 - t
			}
			move(out, b*st[batch]+int(t)*st[time], x, b*st[batch]+int(from)*st[time], inner)
		}
	}
	return nil
}

func compress(c *call) error {
	x, cond := c.tensor(0), c.tensor(1)
	if len(cond.Shape) != 1 {
		return badInput(1, "has shape %v, wants a list", cond.Shape)
	}
	axis := 0
	if c.hasAttr("axis") {
		var err error
		if axis, err = axisOf(c.int("axis"), len(x.Shape)); err != nil {
			return err
		}
	} else {
		x = reshaped(x, tensor.Shape{int64(x.Len())})
	}
	if cond.Shape[0] > x.Shape[axis] {
		return badInput(1, "has %d entries, axis %d has %d", cond.Shape[0], axis, x.Shape[axis])
	}
	var index []int64
	for i, v := range cond.Data {
		if v != 0 {
			index = append(index, int64(i))
		}
	}
	out, err := c.take(x, axis, index, tensor.Shape{int64(len(index))})
	if err != nil {
		return err
	}
	c.give(0, out)
	return nil
}

// take replaces an axis by entries at index, which are in range; the result has
// the dimensions of mid in its place.
func (c *call) take(x tensor.Tensor, axis int, index []int64, mid tensor.Shape) (tensor.Tensor, error) {
	s := append(append(x.Shape[:axis:axis].Clone(), mid...), x.Shape[axis+1:]...)
	out, err := c.new(x.DType, s)
	if err != nil || out.Len() == 0 {
		return out, err
	}
	inner := elements(x.Shape[axis+1:])
	outer := elements(x.Shape[:axis])
	d := int(x.Shape[axis])
	grain := max(1, 1<<15/inner)
	if narrow(x.DType) {
		grain = outer * len(index)
	}
	return out, c.parallel(outer*len(index), grain, func(lo, hi int) error {
		for i := lo; i < hi; i++ {
			from := i/len(index)*d + int(index[i%len(index)])
			move(out, i*inner, x, from*inner, inner)
		}
		return nil
	})
}

// tensorValue is a tensor as a value.
func tensorValue(t tensor.Tensor) graph.Datum {
	return graph.Datum{Kind: graph.KindTensor, Tensor: t}
}
