package graph

import (
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainONNX, shapeOf, 1, "Shape")
	addRules(DomainONNX, sizeOf, 1, "Size")
	addRules(DomainONNX, reshape, 1, "Reshape")
	addRules(DomainONNX, flatten, 1, "Flatten")
	addRules(DomainONNX, transpose, 1, "Transpose")
	addRules(DomainONNX, squeeze, 1, "Squeeze")
	addRules(DomainONNX, unsqueeze, 1, "Unsqueeze")
	addRules(DomainONNX, concat, 1, "Concat")
	addRules(DomainONNX, split, 1, "Split")
	addRules(DomainONNX, slice, 1, "Slice")
	addRules(DomainONNX, expand, 2, "Expand")
	addRules(DomainONNX, tile, 2, "Tile")
	addRules(DomainONNX, pad, 1, "Pad")
	addRules(DomainONNX, rangeOf, 3, "Range")
	addRules(DomainONNX, constant, 0, "Constant")
	addRules(DomainONNX, constantOfShape, 1, "ConstantOfShape")
	addRules(DomainONNX, gather, 2, "Gather")
	addRules(DomainONNX, gatherElements, 2, "GatherElements")
	addRules(DomainONNX, gatherND, 2, "GatherND")
	addRules(DomainONNX, topK, 1, "TopK")
	addRules(DomainONNX, nonZero, 1, "NonZero")
	addRules(DomainONNX, oneHot, 3, "OneHot")
	addRules(DomainONNX, eyeLike, 1, "EyeLike")
	addRules(DomainONNX, compress, 2, "Compress")
	addRules(DomainONNX, unique, 1, "Unique")
	addRules(DomainONNX, depthToSpace, 1, "DepthToSpace", "SpaceToDepth")
	addRules(DomainONNX, randomOf, 0, "RandomNormal", "RandomUniform")
	addRules(DomainONNX, randomLike, 1, "RandomNormalLike", "RandomUniformLike", "Bernoulli")
}

func shapeOf(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, tensorOf(tensor.Int64, c.f.newDim()))
		return nil
	}
	rank := int64(len(d))
	clip := func(a int64) int64 {
		if a < 0 {
			a += rank
		}
		return min(max(a, 0), rank)
	}
	start := clip(c.int("start", 0))
	end := max(clip(c.int("end", rank)), start)
	out := tensorOf(tensor.Int64, num(end-start))
	out.data = append([]expr{}, d[start:end]...)
	c.out(0, out)
	return nil
}

func sizeOf(c *call) error {
	out := tensorOf(tensor.Int64)
	if d, ok := c.dims(0); ok {
		out.data = []expr{c.product(d)}
	}
	c.out(0, out)
	return nil
}

func reshape(c *call) error {
	elem := c.elem(0)
	var want []expr
	if a := c.attr("shape"); a != nil { // before opset 5
		want = exprs(a.Ints)
	} else if s := c.in(1); s != nil {
		if want = s.ints(); want == nil {
			if n, ok := s.shape(); ok && len(n) == 1 && n[0] <= maxData {
				c.out(0, tensorOf(elem, c.f.newDims(int(n[0]))...))
			} else {
				c.out(0, someTensor(elem))
			}
			return nil
		}
	}
	in, known := c.dims(0)
	dims := make([]expr, len(want))
	infer := -1
	sure := known // every dimension of both sides may be used to find the one left open
	for i, e := range want {
		n, isNum := e.value()
		switch {
		case isNum && n == -1:
			if infer >= 0 {
				return fmt.Errorf("its shape has two dimensions of -1")
			}
			infer = i
		case isNum && n == 0 && c.int("allowzero", 0) == 0:
			switch {
			case known && i < len(in):
				dims[i] = in[i]
			case known:
				return fmt.Errorf("its shape copies dimension %d of a tensor of shape %s", i, dimsText(in))
			default:
				dims[i] = c.f.newDim()
			}
		case isNum && n < 0:
			return fmt.Errorf("its shape has a dimension of %d", n)
		case !e.size(), c.f.exact && !c.stays(e, i, in):
			// May be -1 or 0 at run time.
			dims[i], sure = c.f.newDim(), false
		default:
			dims[i] = e
		}
	}
	if infer >= 0 {
		dims[infer] = c.f.newDim()
		if sure {
			if d, ok := c.quotient(in, dims, infer); ok {
				dims[infer] = d
			}
		}
	}
	if err := reshapable(c, in, dims, infer, sure); err != nil {
		return err
	}
	out := tensorOf(elem, dims...)
	if v := c.in(0); v != nil && v.ints() != nil {
		out.data = v.data
	}
	c.out(0, out)
	return nil
}

// stays reports whether a dimension of a Reshape is the size e whatever e turns out
// to be: 0 copies the dimension of the input unless zeros are allowed.
func (c *call) stays(e expr, i int, in []expr) bool {
	return e.positive() && (e.c > 0 || c.int("allowzero", 0) != 0 || i < len(in) && in[i].eq(e))
}

// quotient is the dimension at skip that makes the products of both shapes
// equal. Equal dimensions are taken out first, so that sums among them do no harm.
func (c *call) quotient(in, out []expr, skip int) (expr, bool) {
	rest := slices.Clone(in)
	below := num(1)
	for i, d := range out {
		if i == skip {
			continue
		}
		if k := slices.IndexFunc(rest, d.eq); k >= 0 {
			rest = slices.Delete(rest, k, k+1)
			continue
		}
		var ok bool
		if below, ok = below.mul(d); !ok {
			return expr{}, false
		}
	}
	above := c.product(rest)
	if below.is(0) {
		return expr{}, false
	}
	return above.exact(below)
}

// reshapable fails if both shapes are numbers and hold different counts.
func reshapable(c *call, in, out []expr, infer int, sure bool) error {
	if !sure {
		return nil
	}
	a, aok := c.product(in).value()
	b := int64(1)
	bok := true
	for i, d := range out {
		if i == infer {
			continue
		}
		n, ok := d.value()
		if !ok {
			return nil
		}
		if b, bok = mulInt(b, n); !bok {
			return nil
		}
	}
	switch {
	case !aok:
		return nil
	case infer < 0 && a != b, infer >= 0 && b != 0 && a%b != 0:
		return fmt.Errorf("a tensor of shape %s can't be reshaped to %s", dimsText(in), dimsText(out))
	}
	return nil
}

func flatten(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, tensorOf(c.elem(0), c.f.newDims(2)...))
		return nil
	}
	a := c.int("axis", 1)
	if a < 0 {
		a += int64(len(d))
	}
	if a < 0 || a > int64(len(d)) {
		return fmt.Errorf("axis %d does not exist in a tensor of rank %d", a, len(d))
	}
	c.out(0, tensorOf(c.elem(0), c.product(d[:a]), c.product(d[a:])))
	return nil
}

func transpose(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	perm := c.ints("perm")
	if perm == nil {
		for i := range d {
			perm = append(perm, int64(len(d)-1-i))
		}
	}
	if len(perm) != len(d) {
		return fmt.Errorf("perm %v does not fit shape %s", perm, dimsText(d))
	}
	dims := make([]expr, len(d))
	seen := make([]bool, len(d))
	for i, p := range perm {
		if p < 0 || p >= int64(len(d)) || seen[p] {
			return fmt.Errorf("perm %v is no permutation of %d axes", perm, len(d))
		}
		seen[p] = true
		dims[i] = d[p]
	}
	out := tensorOf(c.elem(0), dims...)
	c.remap(c.in(0), out, func(at, src []int64) {
		for i, p := range perm {
			src[p] = at[i]
		}
	})
	c.out(0, out)
	return nil
}

func squeeze(c *call) error {
	d, ok := c.dims(0)
	list, given, known := c.axes(1)
	if !ok || !known {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	drop := make([]bool, len(d))
	for _, a := range list {
		i, err := axis(a, len(d))
		if err != nil {
			return err
		}
		if n, isNum := d[i].value(); isNum && n != 1 {
			return fmt.Errorf("axis %d of shape %s can't be squeezed", a, dimsText(d))
		}
		drop[i] = true
	}
	var dims []expr
	for i, e := range d {
		if !given {
			n, isNum := e.value()
			if !isNum {
				c.out(0, someTensor(c.elem(0)))
				return nil
			}
			drop[i] = n == 1
		}
		if !drop[i] {
			dims = append(dims, e)
		}
	}
	out := tensorOf(c.elem(0), dims...)
	out.data = c.in(0).ints()
	c.out(0, out)
	return nil
}

func unsqueeze(c *call) error {
	d, ok := c.dims(0)
	list, _, known := c.axes(1)
	if !ok || !known {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	rank := len(d) + len(list)
	added := make([]bool, rank)
	for _, a := range list {
		i, err := axis(a, rank)
		if err != nil {
			return err
		}
		if added[i] {
			return fmt.Errorf("axis %d is added twice", a)
		}
		added[i] = true
	}
	dims := make([]expr, 0, rank)
	for i := range rank {
		if added[i] {
			dims = append(dims, num(1))
		} else {
			dims = append(dims, d[0])
			d = d[1:]
		}
	}
	out := tensorOf(c.elem(0), dims...)
	out.data = c.in(0).ints()
	c.out(0, out)
	return nil
}

func concat(c *call) error {
	all := make([]int, len(c.ins))
	for i := range all {
		all[i] = i
	}
	if err := c.sameElem(all...); err != nil {
		return err
	}
	elem := c.elem(0)
	var dims []expr
	at := -1
	ranked := true
	for i := range c.ins {
		d, ok := c.dims(i)
		if !ok {
			ranked = false
			continue
		}
		if dims == nil {
			a, err := axis(c.int("axis", 0), len(d))
			if err != nil {
				return err
			}
			at = a
			dims = slices.Clone(d)
			continue
		}
		if len(d) != len(dims) {
			return fmt.Errorf("shapes %s and %s can't be joined", dimsText(dims), dimsText(d))
		}
		for k := range d {
			if k == at {
				dims[k] = c.or(dims[k].add(d[k]))
				continue
			}
			if err := must(fmt.Sprintf("dimension %d", k), dims[k], d[k]); err != nil {
				return err
			}
			dims[k] = either(dims[k], d[k])
		}
	}
	if dims == nil {
		c.out(0, someTensor(elem))
		return nil
	}
	if !ranked {
		dims[at] = c.f.newDim()
	}
	out := tensorOf(elem, dims...)
	if ranked {
		c.concatData(out, at)
	}
	c.out(0, out)
	return nil
}

// concatData joins elements. An input whose elements are unknown leaves a gap.
func (c *call) concatData(out *value, axis int) {
	to, ok := out.shape()
	if !ok {
		return
	}
	n, err := to.Elements()
	if err != nil || n > maxData || !out.elem.IsInt() && out.elem != tensor.Bool {
		return
	}
	data := make([]expr, n)
	outer, inner := int64(1), int64(1) // elements before and from the axis on
	for i, d := range to {
		if i < axis {
			outer *= d
		} else {
			inner *= d
		}
	}
	start := int64(0)
	for _, v := range c.ins {
		shape, ok := v.shape()
		if !ok {
			return // it has a symbol where another input has the number
		}
		width := int64(1)
		for _, d := range shape[axis:] {
			width *= d
		}
		part := v.ints()
		for o := range outer {
			for i := range width {
				if part != nil {
					data[o*inner+start+i] = part[o*width+i]
				} else {
					data[o*inner+start+i] = c.f.newInt()
				}
			}
		}
		start += width
	}
	if n > 0 && !slices.ContainsFunc(c.ins, func(v *value) bool { return v.ints() != nil }) {
		return
	}
	out.data = data
}

func split(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	if !ok {
		for i := range c.outs {
			c.out(i, someTensor(elem))
		}
		return nil
	}
	at, err := axis(c.int("axis", 0), len(d))
	if err != nil {
		return err
	}
	parts := c.ints("split")
	known := true
	if v := c.in(1); v != nil {
		parts, known = v.numbers()
	}
	sizes := make([]expr, len(c.outs))
	switch {
	case !known:
		sizes = c.f.newDims(len(c.outs))
	case parts != nil:
		if len(parts) != len(c.outs) {
			return fmt.Errorf("it splits into %d parts and has %d outputs", len(parts), len(c.outs))
		}
		sum := int64(0)
		for i, p := range parts {
			if p < 0 {
				return fmt.Errorf("a part has %d elements", p)
			}
			sizes[i] = num(p)
			sum += p
		}
		if err := must("the split dimension", d[at], num(sum)); err != nil {
			return err
		}
	default:
		n := int64(len(c.outs))
		if n == 0 {
			return nil
		}
		whole, isNum := d[at].value()
		even, isEven := d[at].exact(num(n))
		chunk := c.or(even, isEven)
		if isNum {
			chunk = num((whole + n - 1) / n)
		}
		for i := range sizes {
			if sizes[i] = chunk; !isNum && !isEven && c.opset >= 18 {
				sizes[i] = c.f.newDim() // the last parts may be smaller
			}
		}
		if isNum && c.opset >= 18 {
			per := (whole + n - 1) / n
			sizes[n-1] = num(max(whole-per*(n-1), 0))
		} else if isNum && whole%n != 0 {
			return fmt.Errorf("dimension %d does not split into %d equal parts", whole, n)
		}
	}
	data := c.in(0).ints()
	for i, s := range sizes {
		dims := slices.Clone(d)
		dims[at] = s
		out := tensorOf(elem, dims...)
		if n, isNum := s.value(); isNum && len(d) == 1 && data != nil {
			if int(n) > len(data) {
				data = nil
			} else {
				out.data, data = data[:n:n], data[n:]
			}
		}
		c.out(i, out)
	}
	return nil
}

func slice(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(elem))
		return nil
	}
	list := func(attr string, i int) ([]expr, bool) {
		if a := c.attr(attr); a != nil { // before opset 10
			return exprs(a.Ints), true
		}
		v := c.in(i)
		if v == nil {
			return nil, true
		}
		return v.ints(), v.ints() != nil
	}
	axesIn, axesKnown := c.in(3), true
	var axesList []int64
	if a := c.attr("axes"); a != nil {
		axesList = a.Ints
	} else if axesIn != nil {
		axesList, axesKnown = axesIn.numbers()
	}
	if !axesKnown {
		c.out(0, tensorOf(elem, c.f.newDims(len(d))...))
		return nil
	}
	starts, startsKnown := list("starts", 1)
	ends, endsKnown := list("ends", 2)
	steps, stepsKnown := list("steps", 4)
	count := len(axesList)
	if axesList == nil {
		count = len(starts)
		if !startsKnown {
			count = len(ends)
		}
		if !startsKnown && !endsKnown {
			count = len(d) // any of them
		}
		if count > len(d) {
			return fmt.Errorf("it slices %d axes of a tensor of rank %d", count, len(d))
		}
		for i := range count {
			axesList = append(axesList, int64(i))
		}
	}
	if startsKnown && len(starts) != count || endsKnown && len(ends) != count || stepsKnown && steps != nil && len(steps) != count {
		return fmt.Errorf("starts, ends, axes and steps have different lengths")
	}
	dims := slices.Clone(d)
	for i, a := range axesList {
		at, err := axis(a, len(d))
		if err != nil {
			return err
		}
		step := num(1)
		if steps != nil {
			step = steps[i]
		}
		s, isNum := step.value()
		if isNum && s == 0 {
			return fmt.Errorf("it slices with a step of 0")
		}
		if !startsKnown || !endsKnown || !stepsKnown || !isNum {
			dims[at] = c.f.newDim()
			continue
		}
		dims[at] = c.sliced(d[at], starts[i], ends[i], s)
	}
	out := tensorOf(elem, dims...)
	c.sliceData(out, axesList, starts, steps)
	c.out(0, out)
	return nil
}

// sliced is how many elements of d lie in [start, end) by step.
func (c *call) sliced(d, start, end expr, step int64) expr {
	n, nok := d.value()
	s, sok := start.value()
	e, eok := end.value()
	if nok && sok && eok {
		return num(sliceCount(n, s, e, step))
	}
	if step != 1 {
		if step == -1 && sok && s == -1 && eok && e <= -math.MaxInt32 {
			return d // reversed
		}
		if step < 0 || !(sok && s >= 0) || !(eok && e >= math.MaxInt32) || c.f.exact && s > 0 {
			return c.f.newDim()
		}
		// ceil((d - s) / step)
		r := c.or(d.add(num(step - 1 - s)))
		return c.or(r.floorDiv(step))
	}
	// Bounds as positions in [0, d], as far as they can be told.
	position := func(x expr, v int64, isNum bool) (expr, bool) {
		switch {
		case !isNum:
			if !x.size() {
				return expr{}, false
			}
			if x.negative() {
				return d.add(x)
			}
			// What has both signs is an end minus something: S - 3.
			return x, true
		case v >= math.MaxInt32:
			return d, true
		case v >= 0:
			return num(v), true
		case v <= -math.MaxInt32:
			return num(0), true
		}
		p, ok := d.add(num(v))
		return p, ok
	}
	from, ok1 := position(start, s, sok)
	to, ok2 := position(end, e, eok)
	if !ok1 || !ok2 {
		return c.f.newDim()
	}
	// A number past a symbolic dimension is cut off there, so a number is only
	// sure where the dimension is one too, or at most one element is asked for.
	if v, isNum := to.value(); isNum && !nok && v > 1 {
		return c.f.newDim()
	}
	if c.f.exact {
		if from.is(0) && to.eq(d) {
			return d
		}
		return c.f.newDim()
	}
	size, ok := to.sub(from)
	if !ok {
		return c.f.newDim()
	}
	if v, isNum := size.value(); isNum {
		return num(max(v, 0))
	}
	return c.size(size)
}

// sliceCount follows the operator's rules for numbers.
func sliceCount(n, start, end, step int64) int64 {
	clip := func(v, lo, hi int64) int64 {
		if v < 0 {
			v += n
		}
		return min(max(v, lo), hi)
	}
	if step > 0 {
		start, end = clip(start, 0, n), clip(end, 0, n)
		if end <= start {
			return 0
		}
		return (end-start-1)/step + 1
	}
	start = clip(start, -1, n-1)
	if end < -n {
		end = -1
	} else {
		end = clip(end, -1, n-1)
	}
	if start <= end {
		return 0
	}
	if step == math.MinInt64 {
		return 1
	}
	return (start-end-1)/-step + 1
}

// sliceData finds the elements of a slice whose shape is known.
func (c *call) sliceData(out *value, axes []int64, starts, steps []expr) {
	d, ok := c.in(0).shape()
	if !ok || len(starts) != len(axes) {
		return
	}
	first, by := make([]int64, len(d)), make([]int64, len(d))
	for i := range by {
		by[i] = 1
	}
	for i, a := range axes {
		k, err := axis(a, len(d))
		s, sok := starts[i].value()
		if err != nil || !sok {
			return
		}
		if steps != nil {
			if by[k], sok = steps[i].value(); !sok {
				return
			}
		}
		if s < 0 {
			s += d[k]
		}
		if by[k] > 0 {
			first[k] = min(max(s, 0), d[k])
		} else {
			first[k] = min(max(s, -1), d[k]-1)
		}
	}
	c.remap(c.in(0), out, func(at, src []int64) {
		for i := range src {
			src[i] = first[i] + at[i]*by[i]
		}
	})
}

func expand(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	want := c.in(1).ints()
	if want == nil {
		if n, known := c.in(1).shape(); ok && known && len(n) == 1 && n[0] <= maxData {
			c.out(0, tensorOf(elem, c.f.newDims(max(len(d), int(n[0])))...))
		} else {
			c.out(0, someTensor(elem))
		}
		return nil
	}
	if !ok {
		c.out(0, someTensor(elem))
		return nil
	}
	sizes := make([]expr, len(want))
	for i, e := range want {
		if n, isNum := e.value(); isNum && n < 0 {
			return fmt.Errorf("its shape has a dimension of %d", n)
		}
		sizes[i] = c.size(e)
	}
	dims, err := c.broadcast(d, sizes)
	if err != nil {
		return err
	}
	out := tensorOf(elem, dims...)
	if s, known := out.shape(); known {
		out.data = c.in(0).spread(s)
	}
	c.out(0, out)
	return nil
}

func tile(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	repeats := c.in(1).ints()
	if repeats == nil {
		c.out(0, tensorOf(c.elem(0), c.f.newDims(len(d))...))
		return nil
	}
	if len(repeats) != len(d) {
		return fmt.Errorf("it has %d repeats for a tensor of rank %d", len(repeats), len(d))
	}
	dims := make([]expr, len(d))
	for i, e := range d {
		dims[i] = c.or(e.mul(c.size(repeats[i])))
	}
	out := tensorOf(c.elem(0), dims...)
	if s, known := c.in(0).shape(); known {
		c.remap(c.in(0), out, func(at, src []int64) {
			for i := range src {
				src[i] = at[i] % s[i]
			}
		})
	}
	c.out(0, out)
	return nil
}

func pad(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	var pads []expr
	if a := c.attr("pads"); a != nil { // before opset 11
		pads = exprs(a.Ints)
	} else if pads = c.in(1).ints(); pads == nil {
		c.out(0, tensorOf(c.elem(0), c.f.newDims(len(d))...))
		return nil
	}
	list := make([]int64, len(d))
	for i := range list {
		list[i] = int64(i)
	}
	if v := c.in(3); v != nil {
		var known bool
		if list, known = v.numbers(); !known {
			c.out(0, tensorOf(c.elem(0), c.f.newDims(len(d))...))
			return nil
		}
	}
	if len(pads) != 2*len(list) {
		return fmt.Errorf("it has %d pads for %d axes", len(pads), len(list))
	}
	dims := slices.Clone(d)
	for i, a := range list {
		at, err := axis(a, len(d))
		if err != nil {
			return err
		}
		both, ok1 := pads[i].add(pads[i+len(list)])
		sum, ok2 := dims[at].add(both)
		dims[at] = c.size(c.orInt(sum, ok1 && ok2))
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func rangeOf(c *call) error {
	if err := c.sameElem(0, 1, 2); err != nil {
		return err
	}
	elem := c.elem(0)
	start, limit, delta := c.in(0).ints(), c.in(1).ints(), c.in(2).ints()
	if len(start) != 1 || len(limit) != 1 || len(delta) != 1 {
		c.out(0, tensorOf(elem, c.f.newDim()))
		return nil
	}
	span, ok := limit[0].sub(start[0])
	step, isNum := delta[0].value()
	if isNum && step == 0 {
		return fmt.Errorf("it counts by 0")
	}
	if !ok || !isNum {
		c.out(0, tensorOf(elem, c.f.newDim()))
		return nil
	}
	n, spanNum := span.value()
	switch {
	case spanNum && n != math.MinInt64 && step != math.MinInt64:
		count := int64(0)
		if step > 0 && n > 0 {
			count = (n-1)/step + 1
		} else if step < 0 && n < 0 {
			count = (-n-1)/-step + 1
		}
		out := tensorOf(elem, num(count))
		if count <= maxData {
			out.data = make([]expr, count)
			for i := range out.data {
				out.data[i] = c.orInt(start[0].add(num(int64(i) * step)))
			}
		}
		c.out(0, out)
	case step > 0:
		up := c.or(span.add(num(step - 1)))
		c.out(0, tensorOf(elem, c.size(c.or(up.floorDiv(step)))))
	default:
		c.out(0, tensorOf(elem, c.f.newDim()))
	}
	return nil
}

func constant(c *call) error {
	attrs := make([]*Attr, 0, 1)
	for _, a := range c.n.Attrs {
		if a = c.f.resolve(a); a != nil {
			attrs = append(attrs, a)
		}
	}
	if len(attrs) != 1 {
		return fmt.Errorf("it has %d values, wants one", len(attrs))
	}
	n := &Node{OpType: "Constant", Attrs: attrs}
	if t, ok := n.Constant(); ok {
		c.out(0, fromTensor(t, true))
	} else if t := attrs[0].Tensor; t != nil {
		c.out(0, fromTensor(t.Tensor, false))
	}
	return nil
}

func constantOfShape(c *call) error {
	elem, fill := tensor.Float32, []expr{num(0)}
	if a := c.attr("value"); a != nil && a.Tensor != nil {
		elem = a.Tensor.Tensor.DType
		fill = fromTensor(a.Tensor.Tensor, a.Tensor.External == nil).ints()
	}
	want := c.in(0).ints()
	if want == nil {
		if n, ok := c.in(0).shape(); ok && len(n) == 1 && n[0] <= maxData {
			c.out(0, tensorOf(elem, c.f.newDims(int(n[0]))...))
		} else {
			c.out(0, someTensor(elem))
		}
		return nil
	}
	dims := make([]expr, len(want))
	for i, e := range want {
		if n, ok := e.value(); ok && n < 0 {
			return fmt.Errorf("its shape has a dimension of %d", n)
		}
		dims[i] = c.size(e)
	}
	out := tensorOf(elem, dims...)
	if n, ok := c.product(dims).value(); ok && n <= maxData && len(fill) == 1 {
		out.data = make([]expr, n)
		for i := range out.data {
			out.data[i] = fill[0]
		}
	}
	c.out(0, out)
	return nil
}

func gather(c *call) error {
	d, ok1 := c.dims(0)
	ix, ok2 := c.dims(1)
	if !ok1 || !ok2 {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	at, err := axis(c.int("axis", 0), len(d))
	if err != nil {
		return err
	}
	dims := slices.Concat(d[:at], ix, d[at+1:])
	out := tensorOf(c.elem(0), dims...)
	if n, ok := d[at].value(); ok {
		if list, known := c.in(1).numbers(); known {
			for _, i := range list {
				if i < -n || i >= n {
					return fmt.Errorf("index %d lies outside dimension %d", i, n)
				}
			}
			// The place among the indices, then the place in the data.
			if shape, ok := c.in(1).shape(); ok {
				c.remap(c.in(0), out, func(pos, src []int64) {
					flat := int64(0)
					for k, m := range shape {
						flat = flat*m + pos[at+k]
					}
					copy(src, pos[:at])
					if src[at] = list[flat]; src[at] < 0 {
						src[at] += n
					}
					copy(src[at+1:], pos[at+len(shape):])
				})
			}
		}
	}
	c.out(0, out)
	return nil
}

func gatherElements(c *call) error {
	d, ok1 := c.dims(0)
	ix, ok2 := c.dims(1)
	if ok1 && ok2 && len(d) != len(ix) {
		return fmt.Errorf("data has shape %s and indices %s: the ranks must be the same", dimsText(d), dimsText(ix))
	}
	if ok1 {
		if _, err := axis(c.int("axis", 0), len(d)); err != nil {
			return err
		}
	}
	c.out(0, like(c.in(1), c.elem(0)))
	return nil
}

func gatherND(c *call) error {
	d, ok1 := c.dims(0)
	ix, ok2 := c.dims(1)
	if !ok1 || !ok2 || len(ix) == 0 {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	last, ok := ix[len(ix)-1].value()
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	batch := c.int("batch_dims", 0)
	if batch < 0 || batch >= int64(len(ix)) || last < 1 || batch+last > int64(len(d)) {
		return fmt.Errorf("indices of shape %s with %d batch dimensions do not fit data of shape %s", dimsText(ix), batch, dimsText(d))
	}
	dims := slices.Concat(ix[:len(ix)-1], d[batch+last:])
	for i := range batch {
		if err := must(fmt.Sprintf("batch dimension %d", i), d[i], ix[i]); err != nil {
			return err
		}
		dims[i] = either(d[i], ix[i])
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func topK(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		c.out(1, someTensor(tensor.Int64))
		return nil
	}
	at, err := axis(c.int("axis", -1), len(d))
	if err != nil {
		return err
	}
	dims := slices.Clone(d)
	dims[at] = c.f.newDim()
	if a := c.attr("k"); a != nil { // before opset 10
		dims[at] = num(a.Int)
	} else if k := c.in(1).ints(); len(k) == 1 {
		dims[at] = c.size(k[0])
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	c.out(1, tensorOf(tensor.Int64, dims...))
	return nil
}

func nonZero(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, tensorOf(tensor.Int64, c.f.newDims(2)...))
		return nil
	}
	count := c.f.newDim()
	list, known := c.in(0).numbers()
	var at []expr
	if known {
		for i, v := range list {
			if v != 0 {
				at = append(at, num(int64(i)))
			}
		}
		count = num(int64(len(at)))
	}
	out := tensorOf(tensor.Int64, num(int64(len(d))), count)
	if known && len(d) == 1 {
		out.data = append([]expr{}, at...)
	}
	c.out(0, out)
	return nil
}

func oneHot(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(2)))
		return nil
	}
	at, err := axis(c.int("axis", -1), len(d)+1)
	if err != nil {
		return err
	}
	depth := c.f.newDim()
	if k := c.in(1).ints(); len(k) == 1 {
		depth = c.size(k[0])
	}
	c.out(0, tensorOf(c.elem(2), slices.Insert(slices.Clone(d), at, depth)...))
	return nil
}

func eyeLike(c *call) error {
	c.out(0, like(c.in(0), c.dtype(c.elem(0))))
	return nil
}

// dtype is the attribute of that name, or def.
func (c *call) dtype(def tensor.DType) tensor.DType {
	if n := c.int("dtype", 0); n > 0 && n < 256 && tensor.DType(n).Valid() {
		return tensor.DType(n)
	}
	return def
}

func compress(c *call) error {
	d, ok := c.dims(0)
	if c.attr("axis") == nil {
		c.out(0, tensorOf(c.elem(0), c.f.newDim()))
		return nil
	}
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	at, err := axis(c.int("axis", 0), len(d))
	if err != nil {
		return err
	}
	dims := slices.Clone(d)
	dims[at] = c.f.newDim()
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func unique(c *call) error {
	count := c.f.newDim()
	d, ok := c.dims(0)
	switch {
	case c.attr("axis") == nil:
		c.out(0, tensorOf(c.elem(0), count))
	case ok:
		at, err := axis(c.int("axis", 0), len(d))
		if err != nil {
			return err
		}
		dims := slices.Clone(d)
		dims[at] = count
		c.out(0, tensorOf(c.elem(0), dims...))
	default:
		c.out(0, someTensor(c.elem(0)))
	}
	c.out(1, tensorOf(tensor.Int64, count))
	c.out(2, tensorOf(tensor.Int64, c.f.newDim()))
	c.out(3, tensorOf(tensor.Int64, count))
	return nil
}

func depthToSpace(c *call) error {
	if err := c.rank(0, 4); err != nil {
		return err
	}
	d, ok := c.dims(0)
	b := c.int("blocksize", 0)
	if !ok || b <= 0 || b > math.MaxInt32 {
		c.out(0, tensorOf(c.elem(0), c.f.newDims(4)...))
		return nil
	}
	square := num(b * b)
	var dims []expr
	if c.n.OpType == "DepthToSpace" {
		dims = []expr{d[0], c.or(d[1].exact(square)), c.or(d[2].mul(num(b))), c.or(d[3].mul(num(b)))}
	} else {
		dims = []expr{d[0], c.or(d[1].mul(square)), c.or(d[2].exact(num(b))), c.or(d[3].exact(num(b)))}
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func randomOf(c *call) error {
	dims := exprs(c.ints("shape"))
	for _, d := range dims {
		if !d.size() {
			return fmt.Errorf("its shape is %s", dimsText(dims))
		}
	}
	c.out(0, tensorOf(c.dtype(tensor.Float32), dims...))
	return nil
}

func randomLike(c *call) error {
	c.out(0, like(c.in(0), c.dtype(c.elem(0))))
	return nil
}
