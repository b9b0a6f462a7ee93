package reference

import (
	"github.com/accelhq/accel/sdk/tensor"
)

// Elements are moved as opaque cells: the same code serves every element type.

// narrow reports types of which several share a byte.
func narrow(d tensor.DType) bool { return d != tensor.String && d.Bits() < 8 }

// move copies n neighbouring elements between tensors of one type.
func move(dst tensor.Tensor, di int, src tensor.Tensor, si, n int) {
	switch bits := dst.DType.Bits(); {
	case dst.DType == tensor.String:
		copy(dst.Strings[di:di+n], src.Strings[si:si+n])
	case bits < 8:
		for i := range n {
			setPacked(dst.Data, bits, di+i, packed(src.Data, bits, si+i))
		}
	default:
		w := bits / 8
		copy(dst.Data[di*w:(di+n)*w], src.Data[si*w:(si+n)*w])
	}
}

// moveStrided copies n elements that lie step elements apart in src to
// neighbouring places of dst. A step of 0 repeats one element.
func moveStrided(dst tensor.Tensor, di int, src tensor.Tensor, si, step, n int) {
	bits := dst.DType.Bits()
	switch {
	case step == 1:
		move(dst, di, src, si, n)
	case dst.DType == tensor.String:
		for i := range n {
			dst.Strings[di+i] = src.Strings[si+i*step]
		}
	case bits < 8:
		for i := range n {
			setPacked(dst.Data, bits, di+i, packed(src.Data, bits, si+i*step))
		}
	case bits == 32:
		d := dst.Data[di*4 : (di+n)*4]
		for i := range n {
			le.PutUint32(d[i*4:], le.Uint32(src.Data[(si+i*step)*4:]))
		}
	default:
		w := bits / 8
		d := dst.Data[di*w : (di+n)*w]
		for i := range n {
			copy(d[i*w:(i+1)*w], src.Data[(si+i*step)*w:])
		}
	}
}

// fill sets n elements to element si of src.
func fill(dst tensor.Tensor, di int, src tensor.Tensor, si, n int) {
	moveStrided(dst, di, src, si, 0, n)
}

// moveView copies a view of src, given by an offset and a stride a dimension of
// dst, to the dense tensor dst.
func (c *call) moveView(dst, src tensor.Tensor, offset int, st []int) error {
	if dst.Len() == 0 {
		return nil
	}
	w := newWalk(dst.Shape, strides(dst.Shape), st)
	// Where src repeats or permutes, dst may still be walked in one piece: the
	// innermost stride of dst is 1 unless there is nothing to walk.
	grain := max(1, 1<<15/w.inner)
	if narrow(dst.DType) {
		grain = w.rows
	}
	return c.parallel(w.rows, grain, func(lo, hi int) error {
		w.each(lo, hi, func(_ int, offs []int) {
			moveStrided(dst, offs[0], src, offset+offs[1], w.steps[1], w.inner)
		})
		return nil
	})
}

// placeView copies the dense tensor src to a view of dst, given by an offset and
// a stride a dimension of src.
func (c *call) placeView(dst tensor.Tensor, offset int, st []int, src tensor.Tensor) {
	if src.Len() == 0 {
		return
	}
	w := newWalk(src.Shape, strides(src.Shape), st)
	w.each(0, w.rows, func(_ int, offs []int) {
		if w.steps[1] == 1 || w.inner == 1 {
			move(dst, offset+offs[1], src, offs[0], w.inner)
			return
		}
		for i := range w.inner {
			move(dst, offset+offs[1]+i*w.steps[1], src, offs[0]+i, 1)
		}
	})
}
