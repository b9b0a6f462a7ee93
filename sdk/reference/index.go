package reference

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

var indexOps = []spec{
	{"Gather", since(1, 11, 13), "data T:any, indices idx -> output T", "axis int=0", gather},
	{"GatherElements", since(11, 13), "data T:any, indices idx -> output T", "axis int=0", gatherElements},
	{"GatherND", since(11, 12, 13), "data T:any, indices i64 -> output T", "batch_dims int=0", gatherND},
	{"Scatter", since(9, 11), "data T:any, indices idx, updates T -> output T", "axis int=0", scatterElements},
	{"ScatterElements", since(11, 13, 16, 18), "data T:any, indices idx, updates T -> output T",
		"axis int=0, reduction string=none|add|mul|max|min", scatterElements},
	{"ScatterND", since(11, 13, 16, 18), "data T:any, indices i64, updates T -> output T",
		"reduction string=none|add|mul|max|min", scatterND},
	{"TensorScatter", since(24), "past_cache T:any, update T, write_indices? i64 -> present_cache T",
		"axis int=-2, mode string=linear|circular", tensorScatter},
	{"NonZero", since(9, 13), "X any -> Y i64", "", nonZeroOp},
	{"Unique", since(11, 28), "X T:any -> Y T, indices? i64, inverse_indices? i64, counts? i64", "axis int, sorted int=1", unique},
}

// wrapIndex makes an index into an axis of length d positive.
func wrapIndex(v, d int64, input int) (int64, error) {
	if v < -d || v >= d {
		return 0, badInput(input, "holds index %d, the axis has %d entries", v, d)
	}
	if v < 0 {
		v += d
	}
	return v, nil
}

// indices reads input i as positive indices into an axis of length d.
func (c *call) indices(i int, d int64) ([]int64, error) {
	t := c.tensor(i)
	if err := c.reserve(int64(t.Len()) * 8); err != nil {
		return nil, err
	}
	index := make([]int64, t.Len())
	loadInt(index, t, 0)
	for k, v := range index {
		var err error
		if index[k], err = wrapIndex(v, d, i); err != nil {
			return nil, err
		}
	}
	return index, nil
}

func gather(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	index, err := c.indices(1, x.Shape[axis])
	if err != nil {
		return err
	}
	out, err := c.take(x, axis, index, c.tensor(1).Shape)
	if err != nil {
		return err
	}
	c.give(0, out)
	return nil
}

// elementOffsets are the offsets into a tensor of shape data that the indices
// stand for: all coordinates are the index's own but that of axis.
func (c *call) elementOffsets(data tensor.Shape, axis int) ([]int64, error) {
	s := c.tensor(1).Shape
	if len(s) != len(data) {
		return nil, badInput(1, "has shape %v, wants rank %d", s, len(data))
	}
	for i, d := range s {
		if i != axis && d > data[i] {
			return nil, badInput(1, "has shape %v, the data has %v", s, data)
		}
	}
	index, err := c.indices(1, data[axis])
	if err != nil || len(index) == 0 {
		return nil, err
	}
	st := strides(data)
	along := int64(st[axis])
	st[axis] = 0
	w := newWalk(s, strides(s), st)
	w.each(0, w.rows, func(_ int, offs []int) {
		for i := range w.inner {
			p := &index[offs[0]+i]
			*p = *p*along + int64(offs[1]+i*w.steps[1])
		}
	})
	return index, nil
}

func gatherElements(c *call) error {
	x := c.tensor(0)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	offsets, err := c.elementOffsets(x.Shape, axis)
	if err != nil {
		return err
	}
	out, err := c.make(0, x.DType, c.tensor(1).Shape)
	if err != nil {
		return err
	}
	for i, o := range offsets {
		move(out, i, x, int(o), 1)
	}
	return nil
}

// tupleOffsets are the offsets of the slices of data that tuples of indices name.
// data has the first batch dimensions in common with the indices.
func (c *call) tupleOffsets(data tensor.Shape, batch int) (offsets []int64, tail tensor.Shape, err error) {
	t := c.tensor(1)
	q := len(t.Shape)
	if q == 0 || len(data) == 0 || batch < 0 || batch >= min(q, len(data)) {
		return nil, nil, badInput(1, "has shape %v, the data has %v with %d batch dimensions", t.Shape, data, batch)
	}
	k := int(t.Shape[q-1])
	if k > len(data)-batch {
		return nil, nil, badInput(1, "has shape %v, the data has %v with %d batch dimensions", t.Shape, data, batch)
	}
	for i := range batch {
		if t.Shape[i] != data[i] {
			return nil, nil, badInput(1, "has shape %v, the data has %v with %d batch dimensions", t.Shape, data, batch)
		}
	}
	st := strides(data)
	tail = data[batch+k:]
	n := elements(t.Shape[:q-1])
	if err := c.reserve(int64(n) * 8); err != nil {
		return nil, nil, err
	}
	perBatch := max(1, elements(t.Shape[batch:q-1]))
	offsets = make([]int64, n)
	for i := range offsets {
		o := 0
		if batch > 0 {
			o = i / perBatch * st[batch-1]
		}
		for j := range k {
			v, err := wrapIndex(intAt(t, i*k+j), data[batch+j], 1)
			if err != nil {
				return nil, nil, err
			}
			o += int(v) * st[batch+j]
		}
		offsets[i] = int64(o)
	}
	return offsets, tail, nil
}

func gatherND(c *call) error {
	x, t := c.tensor(0), c.tensor(1)
	offsets, tail, err := c.tupleOffsets(x.Shape, int(c.int("batch_dims")))
	if err != nil {
		return err
	}
	s := append(t.Shape[:len(t.Shape)-1:len(t.Shape)-1].Clone(), tail...)
	out, err := c.make(0, x.DType, s)
	if err != nil || out.Len() == 0 {
		return err
	}
	n := elements(tail)
	for i, o := range offsets {
		move(out, i*n, x, int(o), n)
	}
	return c.ctx.Err()
}

// copied is a copy of input 0, given as output 0.
func (c *call) copied() (tensor.Tensor, error) {
	x := c.tensor(0)
	out, err := c.make(0, x.DType, x.Shape)
	if err == nil {
		move(out, 0, x, 0, x.Len())
	}
	return out, err
}

func scatterElements(c *call) error {
	x, updates := c.tensor(0), c.tensor(2)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	if !updates.Shape.Equal(c.tensor(1).Shape) {
		return badInput(2, "has shape %v, the indices have %v", updates.Shape, c.tensor(1).Shape)
	}
	offsets, err := c.elementOffsets(x.Shape, axis)
	if err != nil {
		return err
	}
	out, err := c.copied()
	if err != nil {
		return err
	}
	return c.scatter(out, offsets, updates, 1)
}

func scatterND(c *call) error {
	x, t, updates := c.tensor(0), c.tensor(1), c.tensor(2)
	offsets, tail, err := c.tupleOffsets(x.Shape, 0)
	if err != nil {
		return err
	}
	want := append(t.Shape[:len(t.Shape)-1:len(t.Shape)-1].Clone(), tail...)
	if !updates.Shape.Equal(want) {
		return badInput(2, "has shape %v, wants %v", updates.Shape, want)
	}
	out, err := c.copied()
	if err != nil || updates.Len() == 0 {
		return err
	}
	return c.scatter(out, offsets, updates, elements(tail))
}

// scatter writes runs of n updates to offsets of out, in order.
func (c *call) scatter(out tensor.Tensor, offsets []int64, updates tensor.Tensor, n int) error {
	reduction := "none"
	if _, ok := c.op.attrs["reduction"]; ok {
		reduction = c.str("reduction")
	}
	if reduction == "none" {
		for i, o := range offsets {
			move(out, int(o), updates, i*n, n)
		}
		return c.ctx.Err()
	}
	each := func(f func(at, from int)) error {
		for i, o := range offsets {
			for k := range n {
				f(int(o)+k, i*n+k)
			}
		}
		return c.ctx.Err()
	}
	switch classOf(out.DType) {
	case classFloat:
		f := reducerOf[float64](reduction)
		return each(func(at, from int) { putFloat(out, at, f(floatAt(out, at), floatAt(updates, from))) })
	case classInt:
		f := reducerOf[int64](reduction)
		return each(func(at, from int) { putInt(out, at, f(intAt(out, at), intAt(updates, from))) })
	case classUint:
		f := reducerOf[uint64](reduction)
		return each(func(at, from int) { putInt(out, at, int64(f(uintAt(out, at), uintAt(updates, from)))) })
	}
	return fmt.Errorf("reduction %q is not defined for type %s", reduction, out.DType)
}

func reducerOf[W int64 | uint64 | float64](name string) func(a, b W) W {
	switch name {
	case "add":
		return func(a, b W) W { return a + b }
	case "mul":
		return func(a, b W) W { return a * b }
	case "max":
		return greater[W]
	}
	return less[W]
}

func tensorScatter(c *call) error {
	x, update := c.tensor(0), c.tensor(1)
	axis, err := axisOf(c.int("axis"), len(x.Shape))
	if err != nil {
		return err
	}
	if axis == 0 {
		return fmt.Errorf("axis 0 is the batch")
	}
	want := x.Shape.Clone()
	if len(update.Shape) == len(want) {
		want[axis] = min(update.Shape[axis], want[axis])
	}
	if !update.Shape.Equal(want) {
		return badInput(1, "has shape %v, the cache has %v", update.Shape, x.Shape)
	}
	starts := make([]int64, x.Shape[0])
	if c.has(2) {
		if starts, err = c.intsOf(2); err != nil {
			return err
		}
		if int64(len(starts)) != x.Shape[0] {
			return badInput(2, "has %d entries for a batch of %d", len(starts), x.Shape[0])
		}
	}
	circular := c.str("mode") == "circular"
	length, n := x.Shape[axis], update.Shape[axis]
	for _, s := range starts {
		if s < 0 || !circular && s > length-n {
			return badInput(2, "writes %d entries at %d, the axis has %d", n, s, length)
		}
	}
	out, err := c.copied()
	if err != nil || update.Len() == 0 {
		return err
	}
	inner := elements(x.Shape[axis+1:])
	outer := elements(x.Shape[:axis])
	perBatch := outer / int(x.Shape[0])
	for o := range outer {
		start := starts[o/perBatch] % length
		for i := range n {
			to := int64(o)*length + (start+i)%length
			move(out, int(to)*inner, update, (o*int(n)+int(i))*inner, inner)
		}
	}
	return c.ctx.Err()
}

func nonZeroOp(c *call) error {
	x := c.tensor(0)
	var found []int
	zero, err := c.new(x.DType, nil)
	if err != nil {
		return err
	}
	for i := range x.Len() {
		if !isZero(x, i, zero) {
			found = append(found, i)
		}
	}
	rank := len(x.Shape)
	out, err := c.make(0, tensor.Int64, tensor.Shape{int64(rank), int64(len(found))})
	if err != nil {
		return err
	}
	st := strides(x.Shape)
	for k, at := range found {
		for i := range rank {
			putInt(out, i*len(found)+k, int64(at/st[i]))
			at %= st[i]
		}
	}
	return nil
}

// isZero compares element i with a zero of the same type; minus zero is zero.
func isZero(x tensor.Tensor, i int, zero tensor.Tensor) bool {
	if classOf(x.DType) == classFloat {
		return floatAt(x, i) == 0
	}
	return sameCell(x, i, zero, 0)
}

// sameCell compares two elements of one type bit by bit.
func sameCell(a tensor.Tensor, i int, b tensor.Tensor, j int) bool {
	switch bits := a.DType.Bits(); {
	case a.DType == tensor.String:
		return a.Strings[i] == b.Strings[j]
	case bits < 8:
		return packed(a.Data, bits, i) == packed(b.Data, bits, j)
	default:
		w := bits / 8
		return string(a.Data[i*w:(i+1)*w]) == string(b.Data[j*w:(j+1)*w])
	}
}

// compareCells orders two elements of one type as numbers or strings; NaN stands
// last.
func compareCells(t tensor.Tensor, i, j int) int {
	switch classOf(t.DType) {
	case classFloat:
		a, b := floatAt(t, i), floatAt(t, j)
		switch {
		case a != a && b != b:
			return 0
		case a != a:
			return 1
		case b != b:
			return -1
		}
		return cmp.Compare(a, b)
	case classUint:
		return cmp.Compare(uintAt(t, i), uintAt(t, j))
	case classInt, classBool:
		return cmp.Compare(intAt(t, i), intAt(t, j))
	}
	if t.DType == tensor.String {
		return cmp.Compare(t.Strings[i], t.Strings[j])
	}
	w := t.DType.Bits() / 8
	return cmp.Compare(string(t.Data[i*w:(i+1)*w]), string(t.Data[j*w:(j+1)*w]))
}

func unique(c *call) error {
	x := c.tensor(0)
	axis := 0
	if c.hasAttr("axis") {
		var err error
		if axis, err = axisOf(c.int("axis"), len(x.Shape)); err != nil {
			return err
		}
	} else {
		x = reshaped(x, tensor.Shape{int64(x.Len())})
	}
	n := int(x.Shape[axis])
	// Entries of the axis as rows.
	perm := []int{axis}
	for i := range x.Shape {
		if i != axis {
			perm = append(perm, i)
		}
	}
	rows, err := c.transposed(x, perm)
	if err != nil {
		return err
	}
	width := 0
	if n > 0 {
		width = rows.Len() / n
	}
	compare := func(a, b int) int {
		for k := range width {
			if d := compareCells(rows, a*width+k, b*width+k); d != 0 {
				return d
			}
		}
		return 0
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, compare)
	// Groups of equal rows, each by its first occurrence.
	var first []int64
	group := make([]int, n)
	for k, i := range order {
		if k == 0 || compare(order[k-1], i) != 0 {
			first = append(first, int64(i))
		}
		group[i] = len(first) - 1
	}
	rank := make([]int, len(first)) // of a group in the output
	for i := range rank {
		rank[i] = i
	}
	if !c.flag("sorted") {
		slices.SortFunc(rank, func(a, b int) int { return cmp.Compare(first[a], first[b]) })
		slices.Sort(first)
		at := make([]int, len(rank))
		for i, g := range rank {
			at[g] = i
		}
		rank = at
	}
	y, err := c.take(x, axis, first, tensor.Shape{int64(len(first))})
	if err != nil {
		return err
	}
	c.give(0, y)
	inverse := make([]int64, n)
	counts := make([]int64, len(first))
	for i, g := range group {
		inverse[i] = int64(rank[g])
		counts[rank[g]]++
	}
	for i, list := range [][]int64{first, inverse, counts} {
		out, err := c.make(i+1, tensor.Int64, tensor.Shape{int64(len(list))})
		if err != nil {
			return err
		}
		storeInt(out, 0, list)
	}
	return nil
}
