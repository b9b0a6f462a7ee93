package verify

import (
	"bytes"
	"iter"
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// rowed is an output and its record with their rows: [outer, k, inner], where outer
// counts the lists first.
type rowed struct {
	got                    tensor.Tensor
	lists, outer, k, inner int
	near                   func(i, j int) bool // element i of what came, j of the record
}

// rowsOf finds the rows of an output: along its first axis of k entries, behind that
// of the lists where there are several. It is nil where there is no such axis, what
// came can't be held against the record, or elements have no bytes of their own (text,
// types of less than 8 bits).
func (c *choice) rowsOf(got, want graph.Datum, mask tensor.Tensor, tolerance float64) *rowed {
	a, b := got.Tensor, want.Tensor
	if got.Kind != graph.KindTensor || want.Kind != graph.KindTensor || a.DType != b.DType || !a.Shape.Equal(b.Shape) || a.DType.Bits() < 8 {
		return nil
	}
	r := &rowed{got: a, lists: c.lists, outer: 1, k: c.k, inner: 1}
	axis := 0
	if c.lists > 1 {
		if len(a.Shape) == 0 || a.Shape[0] != int64(c.lists) {
			return nil
		}
		axis, r.outer = 1, c.lists
	}
	for ; axis < len(a.Shape) && a.Shape[axis] != int64(c.k); axis++ {
		r.outer *= int(a.Shape[axis])
	}
	if axis == len(a.Shape) {
		return nil
	}
	for _, d := range a.Shape[axis+1:] {
		r.inner *= int(d)
	}
	r.near = nearness(a, b, mask, tolerance)
	return r
}

// nearness says of two elements whether they agree, as compare has it of all.
func nearness(got, want, mask tensor.Tensor, tolerance float64) func(i, j int) bool {
	if want.DType != tensor.Float32 && want.DType != tensor.Float64 {
		size := want.DType.Bits() / 8
		return func(i, j int) bool {
			return bytes.Equal(got.Data[i*size:(i+1)*size], want.Data[j*size:(j+1)*size])
		}
	}
	a, b := floats(got), floats(want)
	keep := kept(want.Shape, mask)
	largest := 0.0
	for j, y := range b {
		if keep(j) {
			largest = max(largest, finite(y))
		}
	}
	if largest == 0 {
		largest = 1
	}
	return func(i, j int) bool {
		x, y := a[i], b[j]
		return !keep(j) || x == y || math.IsNaN(x) && math.IsNaN(y) || math.Abs(x-y)/largest <= tolerance
	}
}

// parts is where each part of inner elements of a row begins.
func (r *rowed) parts(list, row int) iter.Seq[int] {
	per := r.outer / r.lists
	return func(yield func(int) bool) {
		for o := list * per; o < (list+1)*per; o++ {
			if !yield((o*r.k + row) * r.inner) {
				return
			}
		}
	}
}

// same reports whether row p of what came is row q of the record.
func (r *rowed) same(list, p, q int) bool {
	for at := range r.parts(list, p) {
		for i := at; i < at+r.inner; i++ {
			if !r.near(i, i+(q-p)*r.inner) {
				return false
			}
		}
	}
	return true
}

// ordered is what came, with its rows in the places where they are recorded.
func (r *rowed) ordered(places [][]int) tensor.Tensor {
	out := r.got
	out.Data = slices.Clone(out.Data)
	size := out.DType.Bits() / 8
	for list := range places {
		for p, q := range places[list] {
			for at := range r.parts(list, p) {
				copy(out.Data[(at+(q-p)*r.inner)*size:], r.got.Data[at*size:(at+r.inner)*size])
			}
		}
	}
	return out
}

// assign gives each of n rows a place of its own among those that fit, its own
// place where that can be; nil where there is no such order. (Kuhn's augmenting
// paths.)
func assign(n int, fits func(row, place int) bool) []int {
	holder := make([]int, n) // of each place
	for p := range holder {
		holder[p] = -1
		if fits(p, p) {
			holder[p] = p
		}
	}
	var tried []bool
	var find func(row int) bool
	find = func(row int) bool {
		for place := range n {
			if tried[place] || !fits(row, place) {
				continue
			}
			tried[place] = true
			if holder[place] < 0 || find(holder[place]) {
				holder[place] = row
				return true
			}
		}
		return false
	}
	for row := range n {
		if fits(row, row) {
			continue
		}
		if tried = make([]bool, n); !find(row) {
			return nil
		}
	}
	places := make([]int, n)
	for place, row := range holder {
		places[row] = place
	}
	return places
}
