package reference

import (
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

var reduceOps = slices.Concat(
	reductions(since(1, 11, 13), since(18), []reduction{
		{"ReduceMean", meanOf[float64], meanOf[int64], 0},
		{"ReduceSumSquare", sumSquare[float64], sumSquare[int64], 0},
		{"ReduceL1", sumAbs[float64], sumAbs[int64], 0},
		{"ReduceL2", func(v []float64) float64 { return math.Sqrt(sumSquare(v)) }, nil, 0},
		{"ReduceProd", productOf[float64], productOf[int64], 0},
	}),
	reductions(since(1, 11), since(13), []reduction{{"ReduceSum", sumOf[float64], sumOf[int64], 0}}),
	reductions(since(1, 11, 13), since(18, 28), []reduction{
		{"ReduceLogSum", func(v []float64) float64 { return math.Log(sumOf(v)) }, nil, 0},
		{"ReduceLogSumExp", logSumExp, nil, 0},
	}),
	reductions(since(1, 11, 12, 13), since(18, 20), []reduction{
		{"ReduceMax", maxOf[float64], maxOf[int64], 1},
		{"ReduceMin", minOf[float64], minOf[int64], -1},
	}),
	[]spec{
		{"ArgMax", since(1, 11, 12, 13), "data num -> reduced i64", "axis int=0, keepdims int=1, select_last_index int=0", argExtreme(1)},
		{"ArgMin", since(1, 11, 12, 13), "data num -> reduced i64", "axis int=0, keepdims int=1, select_last_index int=0", argExtreme(-1)},
		{"TopK", since(10), "X T:num, K i64 -> Values T, Indices i64", "axis int=-1", topK},
		{"TopK", since(11, 24), "X T:num, K i64 -> Values T, Indices i64", "axis int=-1, largest int=1, sorted int=1", topK},
		{"CumSum", since(11, 14), "x T:num, axis idx -> y T", "exclusive int=0, reverse int=0",
			cumulate(0, func(a, b float64) float64 { return a + b }, func(a, b int64) int64 { return a + b })},
		{"CumProd", since(26), "x T:num, axis idx -> y T", "exclusive int=0, reverse int=0",
			cumulate(1, func(a, b float64) float64 { return a * b }, func(a, b int64) int64 { return a * b })},
	})

// reduction is one of the Reduce operators: a function of the elements of each
// group.
type reduction struct {
	name  string
	float func([]float64) float64
	// int is exact, but for wrapping; nil: integers are reduced as floats and
	// rounded toward zero.
	int     func([]int64) int64
	extreme int // 1: the largest, -1: the smallest
}

// reductions are the operators with axes as an attribute and as an input.
func reductions(attr, input []int64, rs []reduction) []spec {
	var specs []spec
	for _, r := range rs {
		specs = append(specs,
			spec{r.name, attr, "data T:num|bool -> reduced T", "axes ints, keepdims int=1", r.eval},
			spec{r.name, input, "data T:num|bool, axes? i64 -> reduced T", "keepdims int=1, noop_with_empty_axes int=0", r.eval})
	}
	return specs
}

// number is a wide type.
type number interface{ float64 | int64 | uint64 }

func sumOf[W number](v []W) W {
	s := W(0)
	for _, x := range v {
		s += x
	}
	return s
}

func meanOf[W number](v []W) W {
	n := W(len(v))
	if _, isInt := any(n).(int64); isInt && n == 0 {
		return 0
	}
	return sumOf(v) / n
}

func sumSquare[W number](v []W) W {
	s := W(0)
	for _, x := range v {
		s += x * x
	}
	return s
}

func sumAbs[W number](v []W) W {
	s := W(0)
	for _, x := range v {
		s += max(x, -x)
	}
	return s
}

func productOf[W number](v []W) W {
	p := W(1)
	for _, x := range v {
		p *= x
	}
	return p
}

func maxOf[W number](v []W) W {
	m := v[0]
	for _, x := range v[1:] {
		m = max(m, x)
	}
	return m
}

func minOf[W number](v []W) W {
	m := v[0]
	for _, x := range v[1:] {
		m = min(m, x)
	}
	return m
}

// groups is how a reduction walks: for each output element the elements of its
// group, in row-major order.
type groups struct {
	out   tensor.Shape // with keepdims applied
	outer *walk        // over the first elements of groups
	inner *walk        // over the elements of one
	n     int          // elements in a group
}

func newGroups(x tensor.Shape, reduced []bool, keep bool) *groups {
	g := &groups{n: 1}
	var outerShape, innerShape tensor.Shape
	var outerSt, innerSt []int
	st := strides(x)
	for i, d := range x {
		if !reduced[i] {
			g.out = append(g.out, d)
			outerShape = append(outerShape, d)
			outerSt = append(outerSt, st[i])
			continue
		}
		if keep {
			g.out = append(g.out, 1)
		}
		innerShape = append(innerShape, d)
		innerSt = append(innerSt, st[i])
		g.n *= int(d)
	}
	g.outer = newWalk(outerShape, outerSt)
	g.inner = newWalk(innerShape, innerSt)
	return g
}

// eachGroup calls f with the elements of each group in [lo,hi), widened. The slice
// is reused.
func eachGroup[W any](g *groups, x tensor.Tensor, l lane[W], lo, hi int, f func(i int, group []W)) {
	buf := make([]W, g.n)
	step := g.inner.steps[0]
	g.outerEach(lo, hi, func(i, start int) {
		at := 0
		if g.n > 0 {
			g.inner.each(0, g.inner.rows, func(_ int, offs []int) {
				part := buf[at : at+g.inner.inner]
				if step == 1 || len(part) == 1 {
					l.load(part, x, start+offs[0])
				} else {
					for k := range part {
						l.load(part[k:k+1], x, start+offs[0]+k*step)
					}
				}
				at += len(part)
			})
		}
		f(i, buf)
	})
}

// outerEach calls f for groups [lo,hi) with the offset of their first element.
func (g *groups) outerEach(lo, hi int, f func(i, start int)) {
	w := g.outer
	w.each(lo/max(w.inner, 1), (hi+w.inner-1)/max(w.inner, 1), func(row int, offs []int) {
		for k := range w.inner {
			if i := row*w.inner + k; i >= lo && i < hi {
				f(i, offs[0]+k*w.steps[0])
			}
		}
	})
}

func (r reduction) eval(c *call) error {
	x := c.tensor(0)
	axes, _, err := c.axesInput(1)
	if err != nil {
		return err
	}
	_, reduced, err := axesOf(axes, len(x.Shape))
	if err != nil {
		return err
	}
	noop := false
	if len(axes) == 0 {
		if _, ok := c.op.attrs["noop_with_empty_axes"]; ok {
			noop = c.flag("noop_with_empty_axes")
		}
		for i := range reduced {
			reduced[i] = !noop
		}
	}
	g := newGroups(x.Shape, reduced, c.flag("keepdims"))
	out, err := c.make(0, x.DType, g.out)
	if err != nil || out.Len() == 0 {
		return err
	}
	if err := c.reserve(int64(g.n) * 8); err != nil {
		return err
	}
	if g.n == 0 && r.extreme != 0 {
		return r.empty(out)
	}
	return c.parallel(out.Len(), max(1, 1<<14/max(g.n, 1)), func(lo, hi int) error {
		r.reduce(g, x, out, lo, hi)
		return nil
	})
}

func (r reduction) reduce(g *groups, x, out tensor.Tensor, lo, hi int) {
	cl := classOf(x.DType)
	switch {
	case cl == classFloat:
		eachGroup(g, x, floatLane, lo, hi, func(i int, v []float64) { putFloat(out, i, r.float(v)) })
	case r.int == nil:
		eachGroup(g, x, floatLane, lo, hi, func(i int, v []float64) { storeNumber(out, i, r.float(v)) })
	case r.extreme > 0 && cl == classUint:
		eachGroup(g, x, uintLane, lo, hi, func(i int, v []uint64) { putInt(out, i, int64(maxOf(v))) })
	case r.extreme < 0 && cl == classUint:
		eachGroup(g, x, uintLane, lo, hi, func(i int, v []uint64) { putInt(out, i, int64(minOf(v))) })
	default:
		eachGroup(g, x, intLane, lo, hi, func(i int, v []int64) { putInt(out, i, r.int(v)) })
	}
}

// empty is the extreme of nothing: the other end of the type's range.
func (r reduction) empty(out tensor.Tensor) error {
	for i := range out.Len() {
		switch classOf(out.DType) {
		case classFloat:
			putFloat(out, i, math.Inf(-r.extreme))
		case classBool:
			putInt(out, i, int64(1-r.extreme)/2)
		default:
			lo, hi := intRange(out.DType)
			if out.DType == tensor.Uint64 {
				hi = -1
			}
			if r.extreme > 0 {
				hi = lo
			}
			putInt(out, i, hi)
		}
	}
	return nil
}

func logSumExp(v []float64) float64 {
	m := math.Inf(-1)
	for _, x := range v {
		m = max(m, x)
	}
	if math.IsInf(m, 0) || m != m {
		return m
	}
	s := 0.0
	for _, x := range v {
		s += math.Exp(x - m)
	}
	return m + math.Log(s)
}

func argExtreme(sign int) func(*call) error {
	return func(c *call) error {
		x := c.tensor(0)
		axis, err := axisOf(c.int("axis"), len(x.Shape))
		if err != nil {
			return err
		}
		if x.Shape[axis] == 0 {
			return badInput(0, "has shape %v: an empty axis has no extreme", x.Shape)
		}
		reduced := make([]bool, len(x.Shape))
		reduced[axis] = true
		g := newGroups(x.Shape, reduced, c.flag("keepdims"))
		out, err := c.make(0, tensor.Int64, g.out)
		if err != nil || out.Len() == 0 {
			return err
		}
		step := strides(x.Shape)[axis]
		last := c.flag("select_last_index")
		return c.parallel(out.Len(), max(1, 1<<12/g.n), func(lo, hi int) error {
			g.outerEach(lo, hi, func(i, start int) {
				best := 0
				for k := 1; k < g.n; k++ {
					// compareCells puts NaN last: as the largest it wins, as numpy has it.
					d := compareCells(x, start+k*step, start+best*step) * sign
					if d > 0 || d == 0 && last {
						best = k
					}
				}
				putInt(out, i, int64(best))
			})
			return nil
		})
	}
}

func topK(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	k, err := c.intOf(1)
	if err != nil {
		return err
	}
	n := x.Shape[axis]
	if k < 0 || k > n {
		return badInput(1, "is %d, the axis has %d entries", k, n)
	}
	s := x.Shape.Clone()
	s[axis] = k
	values, err := c.make(0, x.DType, s)
	if err != nil {
		return err
	}
	index, err := c.make(1, tensor.Int64, s)
	if err != nil || values.Len() == 0 {
		return err
	}
	sign := -1
	if _, ok := c.op.attrs["largest"]; ok && !c.flag("largest") {
		sign = 1
	}
	reduced := make([]bool, len(x.Shape))
	reduced[axis] = true
	g := newGroups(x.Shape, reduced, true)
	step := strides(x.Shape)[axis]
	outStep := strides(s)[axis]
	groups := values.Len() / int(k)
	return c.parallel(groups, max(1, 1<<12/g.n), func(lo, hi int) error {
		order := make([]int, n)
		g.outerEach(lo, hi, func(i, start int) {
			for j := range order {
				order[j] = j
			}
			slices.SortStableFunc(order, func(a, b int) int {
				return sign * compareCells(x, start+a*step, start+b*step)
			})
			at := i/outStep*outStep*int(k) + i%outStep
			for j := range int(k) {
				move(values, at+j*outStep, x, start+order[j]*step, 1)
				putInt(index, at+j*outStep, int64(order[j]))
			}
		})
		return nil
	})
}

func cumulate(zero float64, f func(a, b float64) float64, u func(a, b int64) int64) func(*call) error {
	return func(c *call) error {
		x := c.tensor(0)
		a, err := c.intOf(1)
		if err != nil {
			return err
		}
		axis, err := axisOf(a, len(x.Shape))
		if err != nil {
			return err
		}
		out, err := c.make(0, x.DType, x.Shape)
		if err != nil || out.Len() == 0 {
			return err
		}
		reduced := make([]bool, len(x.Shape))
		reduced[axis] = true
		g := newGroups(x.Shape, reduced, true)
		step := strides(x.Shape)[axis]
		exclusive, reverse := c.flag("exclusive"), c.flag("reverse")
		return c.parallel(out.Len()/g.n, max(1, 1<<14/g.n), func(lo, hi int) error {
			g.outerEach(lo, hi, func(_, start int) {
				sum, isum := zero, int64(zero)
				for j := range g.n {
					if reverse {
						j = g.n - 1 - j
					}
					at := start + j*step
					if x.DType.IsInt() {
						next := u(isum, intAt(x, at))
						if !exclusive {
							isum = next
						}
						putInt(out, at, isum)
						isum = next
						continue
					}
					next := f(sum, floatAt(x, at))
					if !exclusive {
						sum = next
					}
					putFloat(out, at, sum)
					sum = next
				}
			})
			return nil
		})
	}
}
