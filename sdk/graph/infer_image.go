package graph

import (
	"fmt"
	"slices"
)

func init() {
	addRules(DomainONNX, col2Im, 3, "Col2Im")
	addRules(DomainONNX, centerCropPad, 2, "CenterCropPad")
	addRules(DomainONNX, affineGrid, 2, "AffineGrid")
	addRules(DomainONNX, maxUnpool, 2, "MaxUnpool")
}

// listed is the elements of a list of sizes of known length, each a dimension or
// unknown; false where the length is not known.
func (c *call) listed(i int) ([]expr, bool) {
	v := c.in(i)
	if data := v.ints(); data != nil {
		out := make([]expr, len(data))
		for k, e := range data {
			out[k] = c.size(e)
		}
		return out, true
	}
	if s, ok := v.shape(); ok && len(s) == 1 && s[0] <= maxRank {
		return c.f.newDims(int(s[0])), true
	}
	return nil, false
}

// col2Im puts blocks [N, C*block, places] together to pictures [N, C, image...].
func col2Im(c *call) error {
	if err := c.rank(0, 3); err != nil {
		return err
	}
	image, ok := c.listed(1)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	dims := append(c.f.newDims(2), image...)
	if d, ok := c.dims(0); ok {
		dims[0] = d[0]
		if block := c.in(2).ints(); block != nil {
			if area := c.product(block); !area.is(0) {
				dims[1] = c.or(d[1].exact(area))
			}
		}
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

// centerCropPad gives the axes the sizes that input 1 lists.
func centerCropPad(c *call) error {
	d, ok := c.dims(0)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	list := c.ints("axes")
	if c.attr("axes") == nil {
		for i := range d {
			list = append(list, int64(i))
		}
	}
	want, known := c.listed(1)
	if known && len(want) != len(list) {
		return fmt.Errorf("it has %d sizes for %d axes", len(want), len(list))
	}
	dims := slices.Clone(d)
	for i, a := range list {
		at, err := axis(a, len(d))
		if err != nil {
			return err
		}
		if dims[at] = c.f.newDim(); known {
			dims[at] = want[i]
		}
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

// affineGrid gives [N, H, W, 2] for size [N, C, H, W], [N, D, H, W, 3] for three
// dimensions.
func affineGrid(c *call) error {
	if err := c.rank(0, 3); err != nil {
		return err
	}
	size, ok := c.listed(1)
	if !ok {
		c.out(0, someTensor(c.elem(0)))
		return nil
	}
	if len(size) != 4 && len(size) != 5 {
		return fmt.Errorf("its size has %d numbers, wants 4 or 5", len(size))
	}
	dims := append([]expr{size[0]}, size[2:]...)
	c.out(0, tensorOf(c.elem(0), append(dims, num(int64(len(size)-2)))...))
	return nil
}

// maxUnpool is as large as input 2 says, else as what MaxPool would make input 0 of.
func maxUnpool(c *call) error {
	d, ok := c.dims(0)
	if c.in(2) != nil {
		if want, known := c.listed(2); known {
			c.out(0, tensorOf(c.elem(0), want...))
			return nil
		}
	}
	if !ok || c.in(2) != nil {
		out := someTensor(c.elem(0))
		if ok {
			out = tensorOf(c.elem(0), c.f.newDims(len(d))...)
		}
		c.out(0, out)
		return nil
	}
	if len(d) < 3 {
		return fmt.Errorf("its input has shape %s, wants at least one spatial dimension", dimsText(d))
	}
	w, err := c.window(len(d)-2, c.ints("kernel_shape"))
	if err != nil {
		return err
	}
	dims := slices.Clone(d)
	n := len(w.kernel)
	for i := range n {
		more := w.kernel[i] - w.strides[i] - w.pads[i] - w.pads[n+i]
		dims[i+2] = c.size(c.orInt(c.orInt(d[i+2].mul(num(w.strides[i]))).add(num(more))))
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}
