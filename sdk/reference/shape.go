package reference

import (
	"fmt"

	"github.com/accelhq/accel/sdk/tensor"
)

// maxEmpty bounds what the other dimensions of an empty tensor count: loops run
// over them, though there is nothing to compute.
const maxEmpty = 1 << 24

// checkEmpty refuses empty tensors of absurd dimensions.
func checkEmpty(s tensor.Shape) error {
	n, empty := int64(1), false
	for _, d := range s {
		if d == 0 {
			empty = true
		} else if n = min(n, maxEmpty+1) * min(d, maxEmpty+1); n > maxEmpty {
			n = maxEmpty + 1
		}
	}
	if empty && n > maxEmpty {
		return fmt.Errorf("shape %v is empty, but its other dimensions count more than %d", s, maxEmpty)
	}
	return nil
}

// elements is the number of elements of a shape that is known to be countable.
func elements(dims []int64) int {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	return int(n)
}

// strides of a dense row-major shape, in elements.
func strides(s tensor.Shape) []int {
	st := make([]int, len(s))
	n := 1
	for i := len(s) - 1; i >= 0; i-- {
		st[i] = n
		n *= int(s[i])
	}
	return st
}

// axisOf makes an axis of a rank-n tensor positive.
func axisOf(axis int64, n int) (int, error) {
	if axis < -int64(n) || axis >= int64(n) {
		return 0, fmt.Errorf("axis %d does not exist in rank %d", axis, n)
	}
	if axis < 0 {
		axis += int64(n)
	}
	return int(axis), nil
}

// axesOf makes axes positive and refuses one that is named twice.
func axesOf(axes []int64, n int) (list []int, set []bool, err error) {
	set = make([]bool, n)
	for _, a := range axes {
		i, err := axisOf(a, n)
		if err != nil {
			return nil, nil, err
		}
		if set[i] {
			return nil, nil, fmt.Errorf("axis %d is named twice", a)
		}
		set[i] = true
		list = append(list, i)
	}
	return list, set, nil
}

// broadcast is the shape that the given ones broadcast to (numpy's rules).
func broadcast(shapes ...tensor.Shape) (tensor.Shape, error) {
	rank := 0
	for _, s := range shapes {
		rank = max(rank, len(s))
	}
	out := make(tensor.Shape, rank)
	for i := range out {
		out[i] = 1
	}
	for _, s := range shapes {
		for i, d := range s {
			o := &out[rank-len(s)+i]
			switch {
			case *o == d || d == 1:
			case *o == 1:
				*o = d
			default:
				return nil, fmt.Errorf("shapes %v do not broadcast", shapes)
			}
		}
	}
	return out, nil
}

// broadcastStrides are the strides that walk over t as if it had the shape out;
// t must broadcast to it.
func broadcastStrides(s, out tensor.Shape) []int {
	st := make([]int, len(out))
	own := strides(s)
	for i, d := range s {
		if d != 1 {
			st[len(out)-len(s)+i] = own[i]
		}
	}
	return st
}

// walk steps over all index tuples of a shape and keeps one offset for each of
// some stride lists. The innermost dimension is left to the caller.
type walk struct {
	dims    []int
	strides [][]int // by operand
	inner   int     // size of the innermost dimension
	steps   []int   // strides of the innermost dimension, by operand
	rows    int
}

// newWalk merges neighbouring dimensions that all operands walk as one.
func newWalk(shape tensor.Shape, operands ...[]int) *walk {
	w := &walk{inner: 1, rows: 1, strides: make([][]int, len(operands)), steps: make([]int, len(operands))}
	var dims []int
	sts := make([][]int, len(operands))
	for i, d := range shape {
		if d == 1 {
			continue
		}
		last := len(dims) - 1
		merge := last >= 0
		for k, st := range operands {
			merge = merge && sts[k][last] == st[i]*int(d)
		}
		if merge {
			dims[last] *= int(d)
			for k, st := range operands {
				sts[k][last] = st[i]
			}
			continue
		}
		dims = append(dims, int(d))
		for k, st := range operands {
			sts[k] = append(sts[k], st[i])
		}
	}
	if n := len(dims); n > 0 {
		w.inner = dims[n-1]
		w.dims = dims[:n-1]
		for k := range operands {
			w.steps[k] = sts[k][n-1]
			w.strides[k] = sts[k][:n-1]
		}
	}
	for _, d := range w.dims {
		w.rows *= d
	}
	if w.inner == 0 {
		w.rows = 0
	}
	return w
}

// each calls f for the rows in [lo,hi) with the offset of each operand's first
// element. offs is reused.
func (w *walk) each(lo, hi int, f func(row int, offs []int)) {
	if lo >= hi {
		return
	}
	index := make([]int, len(w.dims))
	offs := make([]int, len(w.strides))
	rest := lo
	for i := len(w.dims) - 1; i >= 0; i-- {
		index[i] = rest % w.dims[i]
		rest /= w.dims[i]
		for k := range offs {
			offs[k] += index[i] * w.strides[k][i]
		}
	}
	for row := lo; row < hi; row++ {
		f(row, offs)
		for i := len(w.dims) - 1; i >= 0; i-- {
			index[i]++
			for k := range offs {
				offs[k] += w.strides[k][i]
			}
			if index[i] < w.dims[i] {
				break
			}
			for k := range offs {
				offs[k] -= index[i] * w.strides[k][i]
			}
			index[i] = 0
		}
	}
}
