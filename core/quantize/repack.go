package quantize

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// weight is a tensor of a file on its way into a folder.
type weight struct {
	name   string // in the folder
	stored string // in the file
	info   checkpoint.GGUFTensor
	data   []byte
	layout *layout            // nil: elements stay as they are
	row    func(int64) int64  // the file's row that becomes row i; nil: the same
	scale  func(int64) uint16 // of all blocks of a row, as float16; nil: blocks have their own
}

// quantized says how the weight is kept, if in codes.
func (w *weight) quantized() checkpoint.Quantized {
	q := w.layout.Quantized
	q.N, q.K = w.info.Shape[0], w.info.Shape[1]
	return q
}

// tensors are those of the folder that stand for the weight, without data.
func (w *weight) tensors() map[string]tensor.Tensor {
	if w.layout == nil {
		return map[string]tensor.Tensor{w.name: {DType: w.info.Type.DType, Shape: w.info.Shape}}
	}
	q := w.quantized()
	m := map[string]tensor.Tensor{
		w.name + checkpoint.CodesSuffix:  {DType: tensor.Uint8, Shape: q.CodesShape()},
		w.name + checkpoint.ScalesSuffix: {DType: tensor.Float16, Shape: q.ScalesShape()},
	}
	if q.Mins {
		m[w.name+checkpoint.MinsSuffix] = tensor.Tensor{DType: tensor.Float16, Shape: q.ScalesShape()}
	}
	return m
}

// rows are how many rows the weight has; a vector is a column of them.
func (w *weight) rows() int64 { return w.info.Shape[0] }

// chunkBytes is about how much of a weight is repacked at a time: all that is held
// in memory, once a processor.
const chunkBytes = 1 << 20

// writeWeights writes a safetensors file of weights, several chunks at a time.
// Errors are *checkpoint.Error for what is wrong with file, the GGUF file.
func writeWeights(ctx context.Context, path, file string, weights []weight) (err error) {
	all := map[string]tensor.Tensor{}
	for i := range weights {
		for name, t := range weights[i].tensors() {
			if _, twice := all[name]; twice {
				return &checkpoint.Error{File: file, Field: "tensor " + strconv.Quote(weights[i].stored), Found: "another tensor becomes " + name + " too"}
			}
			all[name] = t
		}
	}
	plan, err := checkpoint.PlanSafetensors(all, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(plan.Size); err != nil {
		return err
	}
	if _, err := f.WriteAt(plan.Header, 0); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range weights {
		w := &weights[i]
		step := max(1, chunkBytes/(w.info.Length/w.rows()))
		for from := int64(0); from < w.rows(); from += step {
			g.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return w.write(f, file, plan, from, min(from+step, w.rows()))
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return f.Sync()
}

// write writes the rows [from, to).
func (w *weight) write(f *os.File, file string, plan *checkpoint.SafetensorsPlan, from, to int64) error {
	put := func(suffix string, data []byte) error {
		name := w.name + suffix
		_, err := f.WriteAt(data, plan.Offset(name)+from*int64(len(data))/(to-from))
		return err
	}
	if w.layout == nil {
		return put("", w.elements(from, to))
	}
	codes, scales, mins, bad := w.repack(from, to)
	if bad >= 0 {
		return &checkpoint.Error{File: file, Field: "tensor " + strconv.Quote(w.stored), Found: fmt.Sprintf("the scale or min of block %d is not finite", bad),
			Wanted: "numbers that a float16 holds", Remedy: "the file is damaged: fetch or quantise it again"}
	}
	if err := put(checkpoint.CodesSuffix, codes); err != nil {
		return err
	}
	if err := put(checkpoint.ScalesSuffix, scales); err != nil || mins == nil {
		return err
	}
	return put(checkpoint.MinsSuffix, mins)
}

// source is a row of the file.
func (w *weight) source(row int64) []byte {
	if w.row != nil {
		row = w.row(row)
	}
	size := w.info.Length / w.rows()
	return w.data[row*size : (row+1)*size]
}

// elements are rows of a weight that is kept as it is.
func (w *weight) elements(from, to int64) []byte {
	size := w.info.Length / w.rows()
	if w.row == nil {
		return w.data[from*size : to*size]
	}
	out := make([]byte, 0, (to-from)*size)
	for row := from; row < to; row++ {
		out = append(out, w.source(row)...)
	}
	return out
}

// repack gives the codes, scales and mins of rows. bad is the first block whose
// scale or min is not finite, -1 where all are.
func (w *weight) repack(from, to int64) (codes, scales, mins []byte, bad int64) {
	q := w.quantized()
	n, block := to-from, w.info.Type.Block
	codes = make([]byte, n*q.K*q.Bits/8)
	scales = make([]byte, n*q.K/q.Block*2)
	each := block / q.Block // blocks that one of the file becomes
	c, s, m := make([]uint8, block), make([]uint16, each), make([]uint16, each)
	if q.Mins {
		mins = make([]byte, len(scales))
	}
	at := int64(0) // blocks of the file so far
	for row := from; row < to; row++ {
		line := w.source(row)
		for ; len(line) > 0; line = line[w.info.Type.Bytes:] {
			w.layout.unpack(line[:w.info.Type.Bytes], c, s, m)
			if w.scale != nil {
				s[0] = w.scale(row)
			}
			pack(codes[at*block*q.Bits/8:], c, q.Bits)
			for i := range s {
				if !finite(s[i]) || !finite(m[i]) {
					return nil, nil, nil, (row*q.K + at%(q.K/block)*block) / block
				}
				putHalf(scales, at*each+int64(i), s[i])
				if mins != nil {
					putHalf(mins, at*each+int64(i), m[i])
				}
			}
			at++
		}
	}
	return codes, scales, mins, -1
}

func putHalf(b []byte, i int64, h uint16) { b[2*i], b[2*i+1] = byte(h), byte(h>>8) }
