package graph

import (
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainONNX, layerNormalization, 2, "LayerNormalization")
	addRules(DomainONNX, batchNormalization, 5, "BatchNormalization")
	addRules(DomainONNX, dropout, 1, "Dropout")
	addRules(DomainONNX, attention, 3, "Attention")
	addRules(DomainONNX, convolution, 2, "Conv", "ConvInteger", "QLinearConv", "DeformConv")
	addRules(DomainONNX, convTranspose, 2, "ConvTranspose")
	addRules(DomainONNX, pool, 1, "MaxPool", "AveragePool", "LpPool")
	addRules(DomainONNX, globalPool, 1, "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
	addRules(DomainONNX, resize, 1, "Resize", "Upsample")
	addRules(DomainONNX, gridSample, 2, "GridSample")
	addRules(DomainONNX, dft, 1, "DFT")
	addRules(DomainONNX, recurrent, 3, "RNN", "GRU", "LSTM")
	addRules(DomainONNX, regionPool, 2, "MaxRoiPool", "RoiAlign")
	addRules(DomainONNX, nonMaxSuppression, 2, "NonMaxSuppression")
	addRules(DomainONNX, windowOf, 1, "HannWindow", "HammingWindow", "BlackmanWindow")
}

func layerNormalization(c *call) error {
	v := c.in(0)
	c.out(0, like(v, c.elem(0)))
	stash := tensor.DType(c.int("stash_type", int64(tensor.Float32)))
	if v == nil || !v.ranked {
		c.out(1, someTensor(stash))
		c.out(2, someTensor(stash))
		return nil
	}
	if err := normScale(c, v); err != nil {
		return err
	}
	a, err := axis(c.int("axis", -1), len(v.dims))
	if err != nil {
		return err
	}
	dims := slices.Clone(v.dims)
	for i := a; i < len(dims); i++ {
		dims[i] = num(1)
	}
	c.out(1, tensorOf(stash, dims...))
	c.out(2, tensorOf(stash, dims...))
	return nil
}

func batchNormalization(c *call) error {
	c.out(0, like(c.in(0), c.elem(0)))
	if d, ok := c.dims(0); ok && len(d) > 1 {
		for i := 1; i < 5; i++ {
			if s, ok := c.dims(i); ok && len(s) == 1 {
				if err := must("the number of channels", d[1], s[0]); err != nil {
					return err
				}
			}
		}
	}
	for i := 1; i < 5; i++ {
		c.out(i, like(c.in(i%2+3), c.elem(i%2+3)))
	}
	return nil
}

func dropout(c *call) error {
	c.out(0, like(c.in(0), c.elem(0)))
	mask := tensor.Bool
	if c.opset < 10 {
		mask = c.elem(0)
	}
	c.out(1, like(c.in(0), mask))
	return nil
}

// attention is Attention of opset 23 and later: q, k, v are [B,H,S,D], or
// [B,S,H*D] with the numbers of heads as attributes.
func attention(c *call) error {
	q, qok := c.dims(0)
	k, kok := c.dims(1)
	v, vok := c.dims(2)
	elem := c.elem(0)
	if !qok || !kok || !vok {
		c.out(0, like(c.in(0), elem))
		if c.in(0) != nil && c.in(0).ranked {
			c.outs[0] = tensorOf(elem, c.f.newDims(len(q))...)
		}
		c.out(1, tensorOf(c.elem(1), c.f.newDims(4)...))
		c.out(2, tensorOf(c.elem(2), c.f.newDims(4)...))
		c.out(3, tensorOf(elem, c.f.newDims(4)...))
		return nil
	}
	if len(q) != len(k) || len(k) != len(v) || len(q) != 3 && len(q) != 4 {
		return fmt.Errorf("q, k and v have shapes %s, %s and %s, want all of rank 3 or all of rank 4", dimsText(q), dimsText(k), dimsText(v))
	}
	flat := len(q) == 3
	if flat {
		var err error
		hq, hkv := c.int("q_num_heads", 0), c.int("kv_num_heads", 0)
		if q, err = c.heads(q, hq); err != nil {
			return err
		}
		if k, err = c.heads(k, hkv); err != nil {
			return err
		}
		if v, err = c.heads(v, hkv); err != nil {
			return err
		}
	}
	for _, pair := range []struct {
		what string
		a, b expr
	}{
		{"the batch of q and k", q[0], k[0]}, {"the batch of k and v", k[0], v[0]}, {"the heads of k and v", k[1], v[1]},
		{"the length of k and v", k[2], v[2]}, {"the head size of q and k", q[3], k[3]},
	} {
		if err := must(pair.what, pair.a, pair.b); err != nil {
			return err
		}
	}
	hq, qNum := q[1].value()
	hkv, kNum := k[1].value()
	if qNum && kNum && (hkv == 0 || hq%hkv != 0) {
		return fmt.Errorf("%d heads of q can't share %d heads of k", hq, hkv)
	}
	total := k[2]
	if past, ok := c.dims(4); ok && len(past) == 4 {
		total = c.or(total.add(past[2]))
	} else if c.in(4) != nil {
		total = c.f.newDim()
	}
	if flat {
		c.out(0, tensorOf(elem, q[0], q[2], c.or(q[1].mul(v[3]))))
	} else {
		c.out(0, tensorOf(elem, q[0], q[1], q[2], v[3]))
	}
	c.out(1, tensorOf(c.elem(1), k[0], k[1], total, k[3]))
	c.out(2, tensorOf(c.elem(2), v[0], v[1], total, v[3]))
	c.out(3, tensorOf(elem, q[0], q[1], q[2], total))
	return nil
}

// heads turns [B,S,H*D] into [B,H,S,D].
func (c *call) heads(d []expr, n int64) ([]expr, error) {
	if n <= 0 {
		return nil, fmt.Errorf("its inputs have rank 3, and the number of heads is not given")
	}
	size, ok := d[2].exact(num(n))
	if whole, isNum := d[2].value(); isNum && !ok {
		return nil, fmt.Errorf("%d features do not split into %d heads", whole, n)
	}
	return []expr{d[0], num(n), d[1], c.or(size, ok)}, nil
}

// window is what convolutions and pools have in common.
type window struct {
	kernel, strides, dilations, pads []int64
	auto                             string
	ceil                             bool
}

// window reads the attributes for n spatial dimensions.
func (c *call) window(n int, kernel []int64) (window, error) {
	w := window{kernel: kernel, auto: c.str("auto_pad", "NOTSET"), ceil: c.int("ceil_mode", 0) != 0}
	list := func(name string, length int, def, least int64) ([]int64, error) {
		l := c.ints(name)
		if l == nil {
			l = make([]int64, length)
			for i := range l {
				l[i] = def
			}
		}
		if len(l) != length {
			return nil, fmt.Errorf("attribute %s is %v, wants %d numbers", name, l, length)
		}
		for _, v := range l {
			if v < least || v > math.MaxInt32 {
				return nil, fmt.Errorf("attribute %s is %v", name, l)
			}
		}
		return l, nil
	}
	var err error
	if w.strides, err = list("strides", n, 1, 1); err != nil {
		return w, err
	}
	if w.dilations, err = list("dilations", n, 1, 1); err != nil {
		return w, err
	}
	if w.pads, err = list("pads", 2*n, 0, 0); err != nil {
		return w, err
	}
	if len(w.kernel) != n {
		return w, fmt.Errorf("its kernel has shape %v, wants %d dimensions", w.kernel, n)
	}
	for _, k := range w.kernel {
		if k < 1 || k > math.MaxInt32 {
			return w, fmt.Errorf("its kernel has shape %v", w.kernel)
		}
	}
	return w, nil
}

// slide is how many places the window takes along spatial dimension i.
func (c *call) slide(w window, i int, d expr) (expr, error) {
	s := w.strides[i]
	switch w.auto {
	case "SAME_UPPER", "SAME_LOWER":
		up := c.or(d.add(num(s - 1)))
		return c.or(up.floorDiv(s)), nil
	}
	reach := (w.kernel[i]-1)*w.dilations[i] + 1
	n := len(w.kernel)
	room := -reach
	if w.auto != "VALID" {
		room += w.pads[i] + w.pads[n+i]
	}
	free := c.or(d.add(num(room)))
	if v, ok := free.value(); ok && v < 0 {
		return expr{}, fmt.Errorf("a window of %d does not fit dimension %s", reach, d)
	}
	if w.ceil {
		q := c.or(c.or(free.add(num(s - 1))).floorDiv(s))
		// A last window may not begin in the padding behind the end.
		if v, ok := q.value(); ok {
			if size, isNum := d.value(); isNum && w.auto == "NOTSET" && v*s >= size+w.pads[i] {
				return num(v), nil
			}
		}
		if _, ok := free.value(); !ok && c.f.exact {
			return c.f.newDim(), nil
		}
		return c.or(q.add(num(1))), nil
	}
	return c.or(c.or(free.floorDiv(s)).add(num(1))), nil
}

func convolution(c *call) error {
	elem, weights := c.elem(0), 1
	switch c.n.OpType {
	case "ConvInteger":
		elem = tensor.Int32
	case "QLinearConv":
		elem, weights = c.elem(7), 3
	}
	d, ok := c.dims(0)
	k, kok := c.dims(weights)
	if !ok || !kok {
		if ok {
			c.out(0, tensorOf(elem, c.f.newDims(len(d))...))
		} else {
			c.out(0, someTensor(elem))
		}
		return nil
	}
	if len(d) != len(k) || len(d) < 3 {
		return fmt.Errorf("an input of shape %s does not fit weights of shape %s", dimsText(d), dimsText(k))
	}
	group := c.int("group", 1)
	if per, ok := k[1].mul(num(group)); ok {
		if err := must("the number of channels", d[1], per); err != nil {
			return err
		}
	}
	kernel := c.ints("kernel_shape")
	if kernel == nil {
		for _, e := range k[2:] {
			n, isNum := e.value()
			if !isNum {
				c.out(0, tensorOf(elem, append([]expr{d[0], k[0]}, c.f.newDims(len(d)-2)...)...))
				return nil
			}
			kernel = append(kernel, n)
		}
	}
	w, err := c.window(len(d)-2, kernel)
	if err != nil {
		return err
	}
	dims := []expr{d[0], k[0]}
	for i, e := range d[2:] {
		if e, err = c.slide(w, i, e); err != nil {
			return err
		}
		dims = append(dims, e)
	}
	c.out(0, tensorOf(elem, dims...))
	return nil
}

func convTranspose(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	k, kok := c.dims(1)
	if !ok || !kok {
		c.out(0, someTensor(elem))
		return nil
	}
	if len(d) != len(k) || len(d) < 3 {
		return fmt.Errorf("an input of shape %s does not fit weights of shape %s", dimsText(d), dimsText(k))
	}
	if err := must("the number of channels", d[1], k[0]); err != nil {
		return err
	}
	n := len(d) - 2
	kernel := c.ints("kernel_shape")
	if kernel == nil {
		for _, e := range k[2:] {
			v, isNum := e.value()
			if !isNum {
				c.out(0, tensorOf(elem, c.f.newDims(len(d))...))
				return nil
			}
			kernel = append(kernel, v)
		}
	}
	w, err := c.window(n, kernel)
	if err != nil {
		return err
	}
	extra := c.ints("output_padding")
	if extra == nil {
		extra = make([]int64, n)
	}
	want := c.ints("output_shape")
	if len(extra) != n || want != nil && len(want) != n && len(want) != n+2 {
		return fmt.Errorf("output_padding %v or output_shape %v does not fit %d dimensions", extra, want, n)
	}
	dims := []expr{d[0], c.or(k[1].mul(num(c.int("group", 1))))}
	for i, e := range d[2:] {
		s := w.strides[i]
		switch {
		case want != nil:
			v := want[len(want)-n+i]
			if v < 0 {
				return fmt.Errorf("output_shape is %v", want)
			}
			e = num(v)
		case w.auto == "SAME_UPPER" || w.auto == "SAME_LOWER":
			e = c.or(e.mul(num(s)))
		default:
			e = c.or(c.or(e.mul(num(s))).add(num(-s + extra[i] + (w.kernel[i]-1)*w.dilations[i] + 1 - w.pads[i] - w.pads[n+i])))
		}
		if v, isNum := e.value(); isNum && v < 0 {
			return fmt.Errorf("output dimension %d would be %d", i+2, v)
		}
		dims = append(dims, e)
	}
	c.out(0, tensorOf(elem, dims...))
	return nil
}

func pool(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(elem))
		c.out(1, someTensor(tensor.Int64))
		return nil
	}
	if len(d) < 3 {
		return fmt.Errorf("its input has shape %s, wants at least one spatial dimension", dimsText(d))
	}
	w, err := c.window(len(d)-2, c.ints("kernel_shape"))
	if err != nil {
		return err
	}
	dims := slices.Clone(d[:2])
	for i, e := range d[2:] {
		if e, err = c.slide(w, i, e); err != nil {
			return err
		}
		dims = append(dims, e)
	}
	c.out(0, tensorOf(elem, dims...))
	c.out(1, tensorOf(tensor.Int64, dims...))
	return nil
}

func globalPool(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(d) < 2 {
		return fmt.Errorf("its input has shape %s, wants at least rank 2", dimsText(d))
	}
	dims := slices.Clone(d)
	for i := 2; i < len(dims); i++ {
		dims[i] = num(1)
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func resize(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(elem))
		return nil
	}
	axesList := c.ints("axes")
	if axesList == nil {
		for i := range d {
			axesList = append(axesList, int64(i))
		}
	}
	at := make([]int, len(axesList))
	for i, a := range axesList {
		var err error
		if at[i], err = axis(a, len(d)); err != nil {
			return err
		}
	}
	dims := slices.Clone(d)
	scalesIn := 2
	if c.n.OpType == "Upsample" || c.opset < 11 {
		scalesIn = 1
	}
	policy := c.str("keep_aspect_ratio_policy", "stretch")
	sizes := c.in(3)
	if scalesIn == 1 {
		sizes = nil
	}
	switch {
	case sizes != nil:
		data := sizes.ints()
		if data != nil && len(data) != len(at) {
			return fmt.Errorf("it has %d sizes for %d axes", len(data), len(at))
		}
		for i, a := range at {
			if data == nil || policy != "stretch" {
				dims[a] = c.f.newDim()
			} else {
				dims[a] = c.size(data[i])
			}
		}
	default:
		scales, known := c.in(scalesIn).floats()
		if a := c.attr("scales"); a != nil {
			scales, known = a.Floats, true
		}
		if known && len(scales) != len(at) {
			return fmt.Errorf("it has %d scales for %d axes", len(scales), len(at))
		}
		for i, a := range at {
			n, isNum := dims[a].value()
			switch {
			case known && scales[i] == 1:
			case known && isNum && scales[i] > 0 && float64(n)*float64(scales[i]) < math.MaxInt32:
				dims[a] = num(int64(math.Floor(float64(n) * float64(scales[i]))))
			case known && scales[i] == float32(math.Trunc(float64(scales[i]))) && scales[i] > 0 && scales[i] < math.MaxInt32:
				dims[a] = c.or(dims[a].mul(num(int64(scales[i]))))
			default:
				dims[a] = c.f.newDim()
			}
		}
	}
	c.out(0, tensorOf(elem, dims...))
	return nil
}

// floats is the elements of a constant float32 vector.
func (v *value) floats() ([]float32, bool) {
	if v == nil || v.konst == nil || v.konst.DType != tensor.Float32 || v.konst.Check() != nil || v.konst.Len() > maxData {
		return nil, false
	}
	return tensor.View[float32](v.konst.Aligned()), true
}

func gridSample(c *call) error {
	d, ok1 := c.dims(0)
	g, ok2 := c.dims(1)
	if !ok1 || !ok2 {
		c.out(0, like(c.in(0), c.elem(0)))
		if ok1 {
			c.outs[0] = tensorOf(c.elem(0), c.f.newDims(len(d))...)
		}
		return nil
	}
	if len(d) != len(g) || len(d) < 3 {
		return fmt.Errorf("an input of shape %s does not fit a grid of shape %s", dimsText(d), dimsText(g))
	}
	c.out(0, tensorOf(c.elem(0), slices.Concat(d[:2], g[1:len(g)-1])...))
	return nil
}

func dft(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(d) < 2 {
		return fmt.Errorf("its input has shape %s, wants at least rank 2", dimsText(d))
	}
	dims := slices.Clone(d)
	oneSided, inverse := c.int("onesided", 0) != 0, c.int("inverse", 0) != 0
	along := c.int("axis", 1)
	if c.opset >= 20 {
		along = -2
		if v := c.in(2); v != nil {
			list, known := v.numbers()
			if !known || len(list) != 1 {
				c.out(0, tensorOf(c.elem(0), c.f.newDims(len(d))...))
				return nil
			}
			along = list[0]
		}
	}
	at, err := axis(along, len(d))
	if err != nil {
		return err
	}
	if v := c.in(1); v != nil {
		dims[at] = c.f.newDim()
		if data := v.ints(); len(data) == 1 {
			dims[at] = c.size(data[0])
		}
	}
	last := num(2)
	switch {
	case oneSided && inverse:
		last = num(1)
		if c.in(1) == nil {
			// Half a spectrum of n/2 + 1 bins comes from n samples.
			dims[at] = c.or(c.or(dims[at].mul(num(2))).add(num(-2)))
		}
	case oneSided:
		dims[at] = c.or(c.or(dims[at].floorDiv(2)).add(num(1)))
	}
	dims[len(dims)-1] = last
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func recurrent(c *call) error {
	elem := c.elem(0)
	d, ok := c.dims(0)
	hidden := c.f.newDim()
	if r, rok := c.dims(2); rok && len(r) == 3 {
		hidden = r[2]
	} else if h := c.int("hidden_size", 0); h > 0 {
		hidden = num(h)
	}
	directions := num(1)
	if c.str("direction", "forward") == "bidirectional" {
		directions = num(2)
	}
	if err := c.rank(0, 3); err != nil {
		return err
	}
	if !ok {
		d = c.f.newDims(3)
	}
	if c.int("layout", 0) != 0 {
		c.out(0, tensorOf(elem, d[0], d[1], directions, hidden))
		c.out(1, tensorOf(elem, d[0], directions, hidden))
		c.out(2, tensorOf(elem, d[0], directions, hidden))
		return nil
	}
	c.out(0, tensorOf(elem, d[0], directions, d[1], hidden))
	c.out(1, tensorOf(elem, directions, d[1], hidden))
	c.out(2, tensorOf(elem, directions, d[1], hidden))
	return nil
}

func regionPool(c *call) error {
	if err := c.rank(0, 4); err != nil {
		return err
	}
	d, ok := c.dims(0)
	r, rok := c.dims(1)
	dims := c.f.newDims(4)
	if rok && len(r) == 2 {
		dims[0] = r[0]
	}
	if ok {
		dims[1] = d[1]
	}
	h, w := c.int("output_height", 1), c.int("output_width", 1)
	if s := c.ints("pooled_shape"); len(s) == 2 {
		h, w = s[0], s[1]
	}
	if h < 0 || w < 0 {
		return fmt.Errorf("its output would be %d x %d", h, w)
	}
	dims[2], dims[3] = num(h), num(w)
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

func nonMaxSuppression(c *call) error {
	c.out(0, tensorOf(tensor.Int64, c.f.newDim(), num(3)))
	return nil
}

func windowOf(c *call) error {
	elem := tensor.DType(c.int("output_datatype", int64(tensor.Float32)))
	size := c.f.newDim()
	if data := c.in(0).ints(); len(data) == 1 {
		size = c.size(data[0])
	}
	c.out(0, tensorOf(elem, size))
	return nil
}
