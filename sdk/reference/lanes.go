package reference

import (
	"github.com/accelhq/accel/sdk/tensor"
)

// chunk is how many elements are widened at a time.
const chunk = 1024

// lane is how elements of a tensor are widened to W or stored from it.
type lane[W any] struct {
	load  func(dst []W, t tensor.Tensor, at int)
	store func(t tensor.Tensor, at int, src []W)
}

var (
	floatLane = lane[float64]{loadFloat, storeFloat}
	intLane   = lane[int64]{loadInt, storeInt}
	uintLane  = lane[uint64]{loadUint, storeUint}
	boolLane  = lane[bool]{loadBool, storeBool}
	textLane  = lane[string]{
		func(dst []string, t tensor.Tensor, at int) { copy(dst, t.Strings[at:]) },
		func(t tensor.Tensor, at int, src []string) { copy(t.Strings[at:], src) },
	}
)

func loadBool(dst []bool, t tensor.Tensor, at int) {
	for i := range dst {
		dst[i] = t.Data[at+i] != 0
	}
}

func storeBool(t tensor.Tensor, at int, src []bool) {
	for i, v := range src {
		t.Data[at+i] = 0
		if v {
			t.Data[at+i] = 1
		}
	}
}

// lanes computes out = f(ins...) element by element; the inputs broadcast to the
// shape of out. f sees up to chunk elements at a time.
func lanes[W, R any](c *call, out tensor.Tensor, to lane[R], from lane[W], f func(dst []R, args [][]W) error, ins ...tensor.Tensor) error {
	if out.Len() == 0 {
		return nil
	}
	sts := make([][]int, len(ins)+1)
	sts[0] = strides(out.Shape)
	for k, t := range ins {
		sts[k+1] = broadcastStrides(t.Shape, out.Shape)
	}
	w := newWalk(out.Shape, sts...)
	perRow := (w.inner + chunk - 1) / chunk
	grain := max(1, 16*chunk/min(w.inner, chunk))
	if out.DType.Bits() < 8 && out.DType != tensor.String {
		grain = w.rows * perRow // neighbours share bytes
	}
	return c.parallel(w.rows*perRow, grain, func(lo, hi int) error {
		dst := make([]R, min(chunk, w.inner))
		args := make([][]W, len(ins))
		bufs := make([][]W, len(ins))
		for k := range ins {
			bufs[k] = make([]W, len(dst))
		}
		var err error
		w.each(lo/perRow, (hi-1)/perRow+1, func(row int, offs []int) {
			for p := max(lo-row*perRow, 0); p < min(hi-row*perRow, perRow) && err == nil; p++ {
				at := p * chunk
				n := min(chunk, w.inner-at)
				for k, t := range ins {
					args[k] = bufs[k][:n]
					switch step := w.steps[k+1]; step {
					case 1:
						from.load(args[k], t, offs[k+1]+at)
					case 0:
						from.load(args[k][:1], t, offs[k+1])
						for i := 1; i < n; i++ {
							args[k][i] = args[k][0]
						}
					default:
						for i := range args[k] {
							from.load(args[k][i:i+1], t, offs[k+1]+(at+i)*step)
						}
					}
				}
				if err = f(dst[:n], args); err == nil {
					to.store(out, offs[0]+at, dst[:n])
				}
			}
		})
		return err
	})
}

// each1 and each2 make a function of single elements one of chunks.
func each1[W, R any](f func(W) R) func([]R, [][]W) error {
	return func(dst []R, args [][]W) error {
		for i, a := range args[0] {
			dst[i] = f(a)
		}
		return nil
	}
}

func each2[W, R any](f func(a, b W) R) func([]R, [][]W) error {
	return func(dst []R, args [][]W) error {
		a, b := args[0], args[1]
		for i := range dst {
			dst[i] = f(a[i], b[i])
		}
		return nil
	}
}

// fold makes a function of two elements one of any number.
func fold[W any](f func(a, b W) W) func([]W, [][]W) error {
	return func(dst []W, args [][]W) error {
		copy(dst, args[0])
		for _, b := range args[1:] {
			for i := range dst {
				dst[i] = f(dst[i], b[i])
			}
		}
		return nil
	}
}
