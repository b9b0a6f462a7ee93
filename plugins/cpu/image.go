package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// pool: MaxPool without indices, and AveragePool.
func pool(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs := mustShape(p, x)
	if p.dtype(x) != tensor.Float32 || len(n.Outputs) > 1 && n.Outputs[1] != "" {
		return
	}
	w, ok := p.windows(n, xs, mustShape(p, y), n.AttrInts("kernel_shape"))
	if !ok {
		return
	}
	op := kernels.Pool{Planes: xs[0] * xs[1], In: w.in, Kernel: w.kernel, Out: w.out, Stride: w.stride, Dilation: w.dilation, Pad: w.pad, PadEnd: w.padEnd}
	if n.OpType == "AveragePool" {
		op.Pool = kernels.PoolAverage
		if n.AttrInt("count_include_pad", 0) != 0 {
			op.Pool = kernels.PoolAveragePadded
		}
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.X, o.Y = p.ref(x), p.ref(y)
		prog.Add(&o)
		return nil
	}
}

// globalPool over all spatial dimensions.
func globalPool(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs := mustShape(p, x)
	if p.dtype(x) != tensor.Float32 || len(xs) < 3 {
		return
	}
	kind := kernels.ReduceMean
	if n.OpType == "GlobalMaxPool" {
		kind = kernels.ReduceMax
	}
	area, _ := xs[2:].Elements()
	u.emit = func(p *planner, prog *kernels.Program) error {
		prog.Add(&kernels.Reduce{X: p.ref(x), Y: p.ref(y), Outer: xs[0] * xs[1], Axis: area, Inner: 1, Reduce: kind})
		return nil
	}
}

// pass is one axis of an operator that works axis by axis.
type pass struct {
	axis, out int64
	index     []int64   // [out, taps]
	weight    []float32 // likewise; nil: an index alone
	taps      int64
}

// eachAxis sets u to passes over one axis after the other.
func eachAxis(p *planner, u *unit, x, y string, passes []pass) {
	d := p.dtype(x)
	dims := mustShape(p, x).Clone()
	from := x
	type stage struct {
		from, to string
		dims     tensor.Shape
	}
	var stages []stage
	for i, a := range passes {
		to := y
		before := dims.Clone()
		dims[a.axis] = a.out
		if i+1 < len(passes) {
			to = p.temporary(u, fmt.Sprintf("axis %d", a.axis), d, dims)
		}
		stages = append(stages, stage{from, to, before})
		from = to
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		for i, a := range passes {
			s := stages[i]
			outer, in, inner, _ := around(s.dims, a.axis)
			name := fmt.Sprintf("%s:axis %d", y, a.axis)
			if a.weight == nil {
				index := kernels.Ref{Buffer: p.open(name, tensor.Ints(tensor.Shape{a.out}, a.index...))}
				prog.Add(&kernels.Gather{Data: p.ref(s.from), Index: index, Y: p.ref(s.to), Outer: outer, Axis: in, Inner: inner * int64(d.Bits()/8), Count: a.out, IndexType: uint32(tensor.Int64)})
				continue
			}
			narrow := make([]int32, len(a.index))
			for i, v := range a.index {
				narrow[i] = int32(v)
			}
			shape := tensor.Shape{a.out, a.taps}
			prog.Add(&kernels.Resample{X: p.ref(s.from), Y: p.ref(s.to), Outer: outer, In: in, Out: a.out, Inner: inner, Taps: a.taps,
				Index:  kernels.Ref{Buffer: p.open(name+" index", tensor.Of(tensor.Int32, shape, narrow))},
				Weight: kernels.Ref{Buffer: p.open(name+" weight", tensor.Floats(shape, a.weight...))}})
		}
		return nil
	}
}

// resize: Resize and Upsample, axis by axis.
func resize(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs, ys := mustShape(p, x), mustShape(p, y)
	version := p.model.Opsets[graph.DomainONNX]
	old := version < 11 || n.OpType == "Upsample"
	if p.dtype(x) != tensor.Float32 || len(xs) != len(ys) || n.AttrString("keep_aspect_ratio_policy", "stretch") != "stretch" {
		return
	}
	axes := n.AttrInts("axes")
	if axes == nil {
		for i := range xs {
			axes = append(axes, int64(i))
		}
	}
	var scales []float32
	switch {
	case n.Attr("scales") != nil:
		scales = n.Attr("scales").Floats
	case old:
		if scales = p.floats(attrInput(n, 1)); scales == nil {
			return
		}
	case attrInput(n, 2) != "":
		if p.constants[n.Inputs[2]] == nil {
			return
		}
		scales = p.floats(n.Inputs[2])
	}
	if len(scales) != 0 && len(scales) != len(axes) {
		return
	}
	scale := make([]float64, len(xs))
	for i := range scale {
		scale[i] = float64(ys[i]) / float64(xs[i])
	}
	for i, s := range scales {
		a := axes[i]
		if a < 0 {
			a += int64(len(xs))
		}
		if a < 0 || a >= int64(len(xs)) {
			return
		}
		scale[a] = float64(s)
	}
	coords, nearest := "asymmetric", "floor"
	if !old {
		coords, nearest = n.AttrString("coordinate_transformation_mode", "half_pixel"), n.AttrString("nearest_mode", "round_prefer_floor")
	}
	if coords == "tf_crop_and_resize" {
		return
	}
	exclude, antialias := !old && n.AttrInt("exclude_outside", 0) != 0, !old && n.AttrInt("antialias", 0) != 0
	var filter func(float64) float64
	radius := 0.0
	switch n.AttrString("mode", "nearest") {
	case "nearest":
	case "linear", "bilinear":
		radius, filter = 1, func(x float64) float64 { return max(0, 1-math.Abs(x)) }
	case "cubic":
		radius, filter = 2, keys(float64(n.AttrFloat("cubic_coeff_a", -0.75)))
	default:
		return
	}
	var passes []pass
	grows := false
	for i := range xs {
		if scale[i] == 1 && xs[i] == ys[i] {
			continue
		}
		if xs[i] > math.MaxInt32 {
			return
		}
		grows = grows || ys[i] > xs[i]
		a := pass{axis: int64(i), out: ys[i]}
		rows := make([][]tap, ys[i])
		for j := range rows {
			at := origin(float64(j), float64(xs[i]), float64(ys[i]), scale[i], coords)
			switch {
			case filter == nil:
				rows[j] = []tap{{nearestTo(at, nearest, xs[i]), 1}}
			case antialias:
				rows[j] = tapsAt(filter, radius, at, min(scale[i], 1), xs[i], exclude)
			default:
				rows[j] = tapsAt(filter, radius, at, 1, xs[i], exclude)
			}
			a.taps = max(a.taps, int64(len(rows[j])))
		}
		for _, row := range rows {
			if len(row) == 0 {
				return
			}
			for t := range a.taps {
				tp := tap{at: row[0].at}
				if t < int64(len(row)) {
					tp = row[t]
				}
				a.index = append(a.index, tp.at)
				a.weight = append(a.weight, float32(tp.weight))
			}
		}
		passes = append(passes, a)
	}
	if len(passes) == 0 {
		return
	}
	// The smaller of the two orders: what grows grows along rows first.
	if grows {
		slices.Reverse(passes)
	}
	u.reads = []string{x}
	eachAxis(p, u, x, y, passes)
}

// tap is an element of the input and its weight.
type tap struct {
	at     int64
	weight float64
}

// origin is where place i of the output lies in the input.
func origin(i, in, out, scale float64, mode string) float64 {
	width := scale * in // the output's size before it was rounded
	switch mode {
	case "align_corners":
		if width == 1 {
			return 0
		}
		return i * (in - 1) / (width - 1)
	case "asymmetric":
		return i / scale
	case "tf_half_pixel_for_nn":
		return (i + 0.5) / scale
	case "pytorch_half_pixel":
		if width == 1 {
			return -0.5
		}
	case "half_pixel_symmetric":
		return in/2*(1-out/width) + (i+0.5)/scale - 0.5
	}
	return (i+0.5)/scale - 0.5
}

func nearestTo(x float64, mode string, n int64) int64 {
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
	return int64(min(max(x, 0), float64(n-1)))
}

// keys is the cubic filter of R. Keys, IEEE ASSP 29 (1981).
func keys(a float64) func(float64) float64 {
	return func(x float64) float64 {
		x = math.Abs(x)
		switch {
		case x <= 1:
			return ((a+2)*x-(a+3))*x*x + 1
		case x < 2:
			return ((a*x-5*a)*x+8*a)*x - 4*a
		}
		return 0
	}
}

// tapsAt are the elements that point x is made of; the filter is stretched by
// 1/scale. Beyond the ends the last element is repeated, or left out.
func tapsAt(filter func(float64) float64, radius, x, scale float64, n int64, exclude bool) []tap {
	reach := radius / scale
	var taps []tap
	sum := 0.0
	for i := math.Ceil(x - reach); i <= math.Floor(x+reach); i++ {
		w := filter((i - x) * scale)
		if w == 0 || exclude && (i < 0 || i > float64(n-1)) {
			continue
		}
		taps = append(taps, tap{int64(min(max(i, 0), float64(n-1))), w})
		sum += w
	}
	if scale != 1 || exclude {
		for i := range taps {
			taps[i].weight /= sum
		}
	}
	return taps
}

// pad by constant widths.
func pad(p *planner, n *graph.Node, u *unit) {
	x, y := n.Inputs[0], n.Outputs[0]
	xs, ys := mustShape(p, x), mustShape(p, y)
	d := p.dtype(x)
	bytes := int64(d.Bits() / 8)
	if len(xs) == 0 || len(xs) > kernels.CopyRank || bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8 {
		return
	}
	widths, ok := n.AttrInts("pads"), true
	if widths == nil {
		if widths, ok = p.ints(attrInput(n, 1)); !ok {
			return
		}
	}
	before := make([]int64, len(xs))
	axes, ok := p.ints(attrInput(n, 3))
	if !ok {
		return
	}
	if attrInput(n, 3) == "" {
		for i := range xs {
			axes = append(axes, int64(i))
		}
	}
	if len(widths) != 2*len(axes) {
		return
	}
	for i, a := range axes {
		if a < 0 {
			a += int64(len(xs))
		}
		if a < 0 || a >= int64(len(xs)) {
			return
		}
		before[a] = widths[i]
	}
	mode := n.AttrString("mode", "constant")
	if mode != "constant" {
		var passes []pass
		for i, b := range before {
			if b == 0 && xs[i] == ys[i] {
				continue
			}
			a := pass{axis: int64(i), out: ys[i]}
			for j := range ys[i] {
				at, size := j-b, xs[i]
				switch {
				case mode == "edge":
					at = min(max(at, 0), size-1)
				case mode == "wrap":
					at = (at%size + size) % size
				case mode == "reflect" && at > -size && at < 2*size-1:
					if at < 0 {
						at = -at
					}
					if at >= size {
						at = 2*(size-1) - at
					}
				default:
					return
				}
				a.index = append(a.index, at)
			}
			passes = append(passes, a)
		}
		if len(passes) > 0 {
			u.reads = []string{x}
			eachAxis(p, u, x, y, passes)
		}
		return
	}
	value := attrInput(n, 2)
	if value != "" && (p.dtype(value) != d || p.elements(value) != 1) || n.AttrFloat("value", 0) != 0 && d != tensor.Float32 {
		return
	}
	src, dst := denseStrides(xs), denseStrides(ys)
	region := make(tensor.Shape, len(xs))
	srcOffset, dstOffset, some := int64(0), int64(0), true
	for i, b := range before {
		low, high := max(0, b), min(ys[i], xs[i]+b)
		region[i] = high - low
		some = some && high > low
		srcOffset += (low - b) * src[i]
		dstOffset += low * dst[i]
	}
	u.reads = []string{x}
	if value != "" {
		u.reads = append(u.reads, value)
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		with := p.ref(value)
		if value == "" {
			fill, err := tensor.New(d, tensor.Shape{1})
			if err != nil {
				return err
			}
			if v := n.AttrFloat("value", 0); v != 0 {
				tensor.View[float32](fill)[0] = v
			}
			with = kernels.Ref{Buffer: p.open(y+":fill", fill)}
		}
		fill := &kernels.Copy{Src: with, Dst: p.ref(y), Rank: 1, ElemBytes: uint32(bytes)}
		fill.Dims[0], fill.DstStride[0] = p.elements(y), 1
		prog.Add(fill)
		if !some {
			return nil
		}
		op := &kernels.Copy{Src: p.ref(x), Dst: p.ref(y), Rank: uint32(len(xs)), ElemBytes: uint32(bytes)}
		op.Src.Offset += srcOffset * bytes
		op.Dst.Offset += dstOffset * bytes
		copy(op.Dims[:], region)
		copy(op.SrcStride[:], src)
		copy(op.DstStride[:], dst)
		prog.Add(op)
		return nil
	}
}

// gridSample over one to three dimensions.
func gridSample(p *planner, n *graph.Node, u *unit) {
	x, grid, y := n.Inputs[0], n.Inputs[1], n.Outputs[0]
	xs, gs := mustShape(p, x), mustShape(p, grid)
	rank := len(xs) - 2
	if p.dtype(x) != tensor.Float32 || p.dtype(grid) != tensor.Float32 || rank < 1 || rank > kernels.Spatial || len(gs) != len(xs) || gs[0] != xs[0] || gs[rank+1] != int64(rank) ||
		slices.ContainsFunc(xs[2:], func(d int64) bool { return d > maxSpatial }) {
		return
	}
	mode, ok := map[string]kernels.SampleMode{"nearest": kernels.SampleNearest, "linear": kernels.SampleLinear, "bilinear": kernels.SampleLinear,
		"cubic": kernels.SampleCubic, "bicubic": kernels.SampleCubic}[n.AttrString("mode", "linear")]
	padding, ok2 := map[string]kernels.SamplePadding{"zeros": kernels.SampleZeros, "border": kernels.SampleBorder,
		"reflection": kernels.SampleReflection}[n.AttrString("padding_mode", "zeros")]
	if !ok || !ok2 {
		return
	}
	op := kernels.GridSample{Batch: xs[0], Channels: xs[1], Points: p.elements(grid) / xs[0] / int64(rank), In: spatialOf(xs[2:], 1), Rank: uint32(rank), Mode: mode, Padding: padding}
	if n.AttrInt("align_corners", 0) != 0 {
		op.AlignCorners = 1
	}
	u.emit = func(p *planner, prog *kernels.Program) error {
		o := op
		o.X, o.Grid, o.Y = p.ref(x), p.ref(grid), p.ref(y)
		prog.Add(&o)
		return nil
	}
}
