package models

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// inputs describe what a component is fed with: its graph declares them, and what is
// given is completed and checked by them.
type inputs struct {
	list  []input
	sizes map[string]size // of symbolic dimensions; those that are not here are at least 1
	// also checks what the tables can't say, once all else is right; may be nil.
	also func(feeds) error
}

// feeds are the tensors given to a graph, by the names of its inputs.
type feeds = map[string]tensor.Tensor

// input is one input of a graph. Dimensions of the same symbol are of the same size.
type input struct {
	name  string
	dtype tensor.DType
	dims  []graph.Dim
	// values of integers begin at 0 and are below this; 0: all are good. Floats are
	// always finite.
	below int64
	// what is wanted of a value, in an error, and what may have gone wrong.
	wanted, remedy string
	// fill makes the input where it is left out, after all that were given were
	// checked; out has its shape and holds zeros. nil: it must be given.
	fill func(out tensor.Tensor, given feeds)
}

// size bounds a symbolic dimension.
type size struct {
	least, most int64  // 0: 1, and no bound
	remedy      string // where it is out of bounds
}

// Ways to fill an input.
var (
	ones = func(out tensor.Tensor, _ feeds) {
		if out.DType == tensor.Int32 {
			fill[int32](out, 1)
			return
		}
		fill[int64](out, 1)
	}
	zeros = func(tensor.Tensor, feeds) {}
)

func fill[T int32 | int64](out tensor.Tensor, x T) {
	v := tensor.View[T](out)
	for i := range v {
		v[i] = x
	}
}

// symbols are dimensions by their symbols.
func symbols(names ...string) []graph.Dim {
	dims := make([]graph.Dim, len(names))
	for i, n := range names {
		dims[i] = graph.Sym(n)
	}
	return dims
}

// tokens is the input of token ids that most text models begin with, and mask the
// attention mask beside it, all ones where it is left out.
func tokens(vocab int64, dims ...graph.Dim) (ids, mask input) {
	return input{name: InputIDs, dtype: tensor.Int64, dims: dims, below: vocab,
			wanted: fmt.Sprintf("a token below vocab_size, which is %d", vocab), remedy: "was the text tokenized for another model?"},
		input{name: "attention_mask", dtype: tensor.Int64, dims: dims, below: 2, wanted: "0 or 1", fill: ones}
}

// declare makes them inputs of a graph.
func (in inputs) declare(b *graph.Builder) {
	for _, i := range in.list {
		b.Input(i.name, graph.TensorType(i.dtype, i.dims...))
	}
}

// feeds is Model.Feeds for the graph that they describe.
func (in inputs) feeds(given feeds) (feeds, error) {
	var names []string
	for _, i := range in.list {
		names = append(names, i.name)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(names, name) {
			return nil, &InputError{Input: name, Found: "the model has no such input", Wanted: "one of " + strings.Join(names, ", ")}
		}
	}
	full, bound := make(feeds, len(in.list)), map[string]int64{}
	for _, i := range in.list {
		t, ok := given[i.name]
		switch {
		case ok:
			if err := i.check(t, bound, in.sizes); err != nil {
				return nil, err
			}
			full[i.name] = t
		case i.fill == nil:
			return nil, &InputError{Input: i.name, Found: "it is missing"}
		}
	}
	for _, i := range in.list {
		if _, ok := full[i.name]; ok {
			continue
		}
		shape := make(tensor.Shape, len(i.dims))
		for d, dim := range i.dims {
			if shape[d] = dim.Size; dim.Param != "" {
				shape[d] = bound[dim.Param]
			}
		}
		t, err := tensor.New(i.dtype, shape)
		if err != nil {
			return nil, &InputError{Input: i.name, Found: err.Error()}
		}
		i.fill(t, full)
		full[i.name] = t
	}
	if in.also != nil {
		if err := in.also(full); err != nil {
			return nil, err
		}
	}
	return full, nil
}

// check refuses a tensor that the input can't be. bound holds the symbols' sizes so
// far, and gets those that this tensor says.
func (in *input) check(t tensor.Tensor, bound map[string]int64, sizes map[string]size) error {
	if t.DType != in.dtype {
		return &InputError{Input: in.name, Found: "its type is " + t.DType.String(), Wanted: in.dtype.String()}
	}
	if !in.fits(t.Shape, bound) {
		return &InputError{Input: in.name, Found: "its shape is " + t.Shape.String(), Wanted: in.shape(bound)}
	}
	for d, dim := range in.dims {
		if dim.Param == "" {
			continue
		}
		n, s := t.Shape[d], sizes[dim.Param]
		if least := max(s.least, 1); n < least {
			return &InputError{Input: in.name, Found: fmt.Sprintf("its shape is %s, %s %d", t.Shape, dim.Param, n), Wanted: fmt.Sprintf("at least %d", least), Remedy: s.remedy}
		}
		if s.most > 0 && n > s.most {
			return &InputError{Input: in.name, Found: fmt.Sprintf("its shape is %s, %s %d", t.Shape, dim.Param, n), Wanted: fmt.Sprintf("at most %d", s.most), Remedy: s.remedy}
		}
		bound[dim.Param] = n
	}
	if err := t.Check(); err != nil {
		return &InputError{Input: in.name, Found: err.Error()}
	}
	if at, found := in.bad(t); found != "" {
		return &InputError{Input: in.name, Index: place(t.Shape, at), Found: "found " + found, Wanted: in.wants(), Remedy: in.remedy}
	}
	return nil
}

func (in *input) fits(s tensor.Shape, bound map[string]int64) bool {
	if len(s) != len(in.dims) {
		return false
	}
	for d, dim := range in.dims {
		want, known := dim.Size, dim.Param == ""
		if !known {
			want, known = bound[dim.Param]
		}
		if known && s[d] != want {
			return false
		}
	}
	return true
}

// shape is what a shape must be, in an error: sizes where they are known.
func (in *input) shape(bound map[string]int64) string {
	var dims []string
	for _, dim := range in.dims {
		s := strconv.FormatInt(dim.Size, 10)
		if dim.Param != "" {
			s = dim.Param
			if n, ok := bound[s]; ok {
				s = strconv.FormatInt(n, 10)
			}
		}
		dims = append(dims, s)
	}
	return "[" + strings.Join(dims, ",") + "]"
}

func (in *input) wants() string {
	if in.dtype.IsFloat() {
		return "a finite number"
	}
	return in.wanted
}

// bad is the first element that is out of bounds; empty: none is.
func (in *input) bad(t tensor.Tensor) (at int, found string) {
	switch in.dtype {
	case tensor.Int64:
		return outside(tensor.View[int64](t.Aligned()), in.below)
	case tensor.Int32:
		return outside(tensor.View[int32](t.Aligned()), in.below)
	case tensor.Float32:
		for i, v := range tensor.View[float32](t.Aligned()) {
			if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
				return i, fmt.Sprint(v)
			}
		}
	}
	return 0, ""
}

// outside is the first value that is not from 0 to below-1; below 0: all are.
func outside[T int32 | int64](values []T, below int64) (at int, found string) {
	for i, v := range values {
		if below > 0 && (v < 0 || int64(v) >= below) {
			return i, strconv.FormatInt(int64(v), 10)
		}
	}
	return 0, ""
}

// place is where element i of a tensor stands.
func place(s tensor.Shape, i int) []int64 {
	at := make([]int64, len(s))
	for d := len(s) - 1; d >= 0; d-- {
		at[d] = int64(i) % s[d]
		i /= int(s[d])
	}
	return at
}

// attends refuses a mask [rows, sequence] that hides every token of a row: its
// softmax would be over nothing.
func attends(given feeds) error {
	const name = "attention_mask"
	mask := given[name]
	values, sequence := tensor.View[int64](mask.Aligned()), int(mask.Shape[1])
	for row := 0; len(values) > 0; row++ {
		if !slices.Contains(values[:sequence], 1) {
			return &InputError{Input: name, Index: []int64{int64(row)}, Found: "found only 0", Wanted: "a 1 for at least one token"}
		}
		values = values[sequence:]
	}
	return nil
}
