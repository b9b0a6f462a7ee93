package models

import (
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// weights finds a checkpoint's tensors under the names that its class uses today.
// It keeps the first error.
type weights struct {
	ck     *checkpoint.Checkpoint
	prefix string // before the base model's names, where heads were saved with it
	outer  string // before all names of a model that is a part of another
	used   map[string]bool
	reads  map[string]int // how often a tensor was taken as it is
	uses   map[string]*Matrix
	err    error
}

// oldEndings are how names ended in checkpoints made from TensorFlow's.
var oldEndings = [][2]string{
	{".LayerNorm.weight", ".LayerNorm.gamma"},
	{".LayerNorm.bias", ".LayerNorm.beta"},
}

// name is what the checkpoint calls a tensor.
func (w *weights) name(name string) (string, bool) {
	for _, n := range []string{w.prefix + name, w.outer + name, name} {
		if w.ck.Has(n) {
			return n, true
		}
		for _, old := range oldEndings {
			if stem, ok := strings.CutSuffix(n, old[0]); ok && w.ck.Has(stem+old[1]) {
				return stem + old[1], true
			}
		}
	}
	return "", false
}

// dtype is the element type of a tensor as it is stored; Undefined: there is none. It does
// not count as a read.
func (w *weights) dtype(name string) tensor.DType {
	if stored, ok := w.name(name); ok {
		if e, err := w.ck.Tensor(stored); err == nil {
			return e.DType
		}
	}
	return tensor.Undefined
}

// has reports whether a tensor is there, quantised or not.
func (w *weights) has(name string) bool {
	_, ok := w.name(name)
	return ok || w.isQuantized(name)
}

// skip marks tensors that are in checkpoints though nothing needs them: buffers
// and copies of tied weights.
func (w *weights) skip(names ...string) {
	for _, n := range names {
		if stored, ok := w.name(n); ok {
			w.used[stored] = true
		} else if stored, q, ok := w.codes(n); ok {
			for _, suffix := range q.Suffixes() {
				w.used[stored+suffix] = true
			}
		}
	}
}

// find returns a tensor of floats of the given shape.
func (w *weights) find(name string, shape tensor.Shape) (string, checkpoint.Entry, bool) {
	if w.err != nil {
		return "", checkpoint.Entry{}, false
	}
	stored, ok := w.name(name)
	if !ok {
		e := &checkpoint.Error{File: w.ck.Dir, Field: "tensor " + strconv.Quote(name), Found: "it is not there", Wanted: "one of shape " + shape.String()}
		if w.isQuantized(name) {
			e.Found = "it is quantised"
		} else if alike := checkpoint.Alike(name, w.ck.Names(), 3); len(alike) > 0 {
			e.Remedy = "there are names alike: " + strings.Join(alike, ", ")
		}
		w.err = e
		return "", checkpoint.Entry{}, false
	}
	entry, err := w.ck.Tensor(stored)
	if err != nil {
		w.err = err
		return "", checkpoint.Entry{}, false
	}
	e := &checkpoint.Error{File: entry.File, Field: "tensor " + strconv.Quote(stored)}
	switch {
	case !entry.Shape.Equal(shape):
		e.Found = "its shape is " + entry.Shape.String()
		e.Wanted = shape.String()
		e.Remedy = "config.json and the weights are of different models"
	case !slices.Contains([]tensor.DType{tensor.Float32, tensor.Float16, tensor.BFloat16, tensor.Float64}, entry.DType):
		e.Found = "it is of type " + entry.Stored
		e.Wanted = "F32, BF16, F16 or F64"
		e.Remedy = "quantised weights of this kind are not read: use the original model"
	default:
		w.used[stored] = true
		if w.reads == nil {
			w.reads = map[string]int{}
		}
		w.reads[stored]++
		return stored, entry, true
	}
	w.err = e
	return "", checkpoint.Entry{}, false
}

// rows is the first dimension of a matrix that config.json does not give the
// height of.
func (w *weights) rows(name string) int64 {
	if _, q, ok := w.codes(name); ok {
		return q.N
	}
	stored, ok := w.name(name)
	if !ok {
		return 1 // find says that it is missing
	}
	entry, err := w.ck.Tensor(stored)
	if err != nil || len(entry.Shape) == 0 {
		return 1 // find says that its shape is wrong
	}
	return entry.Shape[0]
}

// unused lists what no graph reads.
func (w *weights) unused() []string {
	var names []string
	for _, n := range w.ck.Names() {
		if !w.used[n] {
			names = append(names, n)
		}
	}
	return names
}
