package graph

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

func init() {
	addRules(DomainONNX, stft, 2, "STFT")
	addRules(DomainONNX, melWeightMatrix, 5, "MelWeightMatrix")
}

// one is the only element of an integer input, where it is known.
func (c *call) one(i int) (expr, bool) {
	data := c.in(i).ints()
	if len(data) != 1 {
		return expr{}, false
	}
	return data[0], true
}

// stft gives [batch, frames, bins, 2] for a signal [batch, length, 1 or 2].
func stft(c *call) error {
	if err := c.rank(0, 3); err != nil {
		return err
	}
	dims := append(c.f.newDims(3), num(2))
	d, ok := c.dims(0)
	if !ok {
		c.out(0, tensorOf(c.elem(0), dims...))
		return nil
	}
	dims[0] = d[0]
	frame, known := d[1], true
	if w, ok := c.dims(2); ok && len(w) == 1 {
		frame = w[0]
	} else if c.in(2) != nil {
		known = false
	}
	if c.in(3) != nil {
		frame, known = c.one(3)
	}
	if !known || !frame.size() {
		c.out(0, tensorOf(c.elem(0), dims...))
		return nil
	}
	dims[2] = frame
	if c.int("onesided", 1) != 0 {
		dims[2] = c.or(c.or(frame.floorDiv(2)).add(num(1)))
	}
	step, isNum := expr{}, false
	if s, ok := c.one(1); ok {
		step = s
		_, isNum = s.value()
	}
	if n, _ := step.value(); isNum && n > 0 {
		room, ok := d[1].sub(frame)
		if v, isNum := room.value(); isNum && v < 0 {
			return fmt.Errorf("a frame of %s does not fit a signal of %s", frame, d[1])
		}
		if ok {
			dims[1] = c.size(c.orInt(c.orInt(room.floorDiv(n)).add(num(1))))
		}
	}
	c.out(0, tensorOf(c.elem(0), dims...))
	return nil
}

// melWeightMatrix gives [bins of the transform, mel bins].
func melWeightMatrix(c *call) error {
	dims := c.f.newDims(2)
	if n, ok := c.one(1); ok && n.size() {
		dims[0] = c.or(c.or(n.floorDiv(2)).add(num(1)))
	}
	if n, ok := c.one(0); ok {
		dims[1] = c.size(n)
	}
	elem := tensor.Float32
	if t := c.int("output_datatype", int64(tensor.Float32)); t > 0 && t < math.MaxUint8 && tensor.DType(t).Valid() {
		elem = tensor.DType(t)
	}
	c.out(0, tensorOf(elem, dims...))
	return nil
}
