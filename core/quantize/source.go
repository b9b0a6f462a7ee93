package quantize

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// files are the source's, opened once each: they are read, not mapped, so that what was
// read takes no memory.
type files map[string]*os.File

func (p *Plan) openFiles() (files, error) {
	fs := files{}
	for i := range p.Items {
		for _, e := range append(p.made(&p.Items[i]), p.Items[i].entries...) {
			if fs[e.File] != nil {
				continue
			}
			f, err := os.Open(e.File)
			if err != nil {
				fs.close()
				return nil, &checkpoint.Error{File: e.File, Err: err}
			}
			fs[e.File] = f
		}
	}
	return fs, nil
}

func (fs files) close() {
	for _, f := range fs {
		f.Close() // read only
	}
}

// scratch is the memory of one worker.
type scratch struct {
	raw                 []byte
	values              []float32
	codes               []uint8
	packed, scale, mins []byte
	lines               []line
	off, adjusted       []float32
}

// grown is a slice of n elements with the room of an earlier one.
func grown[T any](s []T, n int64) []T {
	if int64(cap(s)) < n {
		return make([]T, n)
	}
	return s[:n]
}

// part reads the rows [from, to) of a stored tensor with so many rows.
func (fs files) part(e checkpoint.Entry, rows, from, to int64, buf []byte) ([]byte, error) {
	each := e.Length / rows
	buf = grown(buf, (to-from)*each)
	if _, err := fs[e.File].ReadAt(buf, e.Offset+from*each); err != nil {
		return nil, &checkpoint.Error{File: e.File, Err: err}
	}
	return buf, nil
}

// rows reads rows [from, to) of a tensor as float32, into s.values.
func (it *Item) rows(fs files, from, to int64, s *scratch) ([]float32, error) {
	s.values = grown(s.values, (to-from)*it.Columns)
	if it.stored.Bits > 0 {
		return s.values, it.decode(fs, from, to, s)
	}
	var err error
	if s.raw, err = fs.part(it.entries[0], it.Rows, from, to, s.raw); err != nil {
		return nil, err
	}
	return s.values, widen(it.entries[0], s.raw, s.values)
}

// widen makes float32 of stored numbers.
func widen(e checkpoint.Entry, raw []byte, out []float32) error {
	switch e.DType {
	case tensor.Float32:
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case tensor.Float16:
		for i := range out {
			out[i] = fromHalf(binary.LittleEndian.Uint16(raw[2*i:]))
		}
	case tensor.BFloat16:
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		}
	case tensor.Float64:
		for i := range out {
			out[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])))
		}
	default:
		return &checkpoint.Error{File: e.File, Found: "a matrix of type " + e.Stored, Wanted: "F32, F16, BF16 or F64"}
	}
	return nil
}

// decode makes float32 of rows that are quantised in the source.
func (it *Item) decode(fs files, from, to int64, s *scratch) error {
	q := it.stored
	var err error
	if s.raw, err = fs.part(it.entries[0], it.Rows, from, to, s.raw); err != nil {
		return err
	}
	if s.scale, err = fs.part(it.entries[1], it.Rows, from, to, s.scale); err != nil {
		return err
	}
	if q.Mins {
		if s.mins, err = fs.part(it.entries[2], it.Rows, from, to, s.mins); err != nil {
			return err
		}
	}
	s.codes = grown(s.codes, (to-from)*q.K)
	unpack(s.codes, s.raw, q.Bits)
	middle := float32(int(1) << (q.Bits - 1))
	for b := range (to - from) * q.K / q.Block {
		scale := fromHalf(binary.LittleEndian.Uint16(s.scale[2*b:]))
		min := -middle * scale
		if q.Mins {
			min = fromHalf(binary.LittleEndian.Uint16(s.mins[2*b:]))
		}
		codes, out := s.codes[b*q.Block:(b+1)*q.Block], s.values[b*q.Block:(b+1)*q.Block]
		for i, c := range codes {
			out[i] = scale*float32(c) + min
		}
	}
	return nil
}

// unpack is the opposite of pack.
func unpack(codes []uint8, packed []byte, bits int64) {
	switch bits {
	case 8:
		copy(codes, packed)
		return
	case 4:
		for i, b := range packed[:len(codes)/2] {
			codes[2*i], codes[2*i+1] = b&15, b>>4
		}
		return
	}
	mask := uint64(1)<<bits - 1
	for i, at := 0, 0; i < len(codes); i += 8 {
		var word uint64
		eight := codes[i:min(i+8, len(codes))]
		for j := range int64(len(eight)) * bits / 8 {
			word |= uint64(packed[at]) << (8 * j)
			at++
		}
		for j := range eight {
			codes[i+j] = uint8(word & mask)
			word >>= bits
		}
	}
}

// narrow writes float32 as a type of 16 bits. What a float16 does not hold is refused.
func (it *Item) narrow(values []float32, out []byte) error {
	if it.dtype == tensor.BFloat16 {
		for i, v := range values {
			b := math.Float32bits(v)
			if b&0x7fffffff > 0x7f800000 {
				b |= 1 << 22 // a NaN stays one
			} else {
				b += 0x7fff + b>>16&1
			}
			binary.LittleEndian.PutUint16(out[2*i:], uint16(b>>16))
		}
		return nil
	}
	for i, v := range values {
		h := toHalf(v)
		if !finite(h) {
			return &checkpoint.Error{File: it.entries[0].File, Field: "tensor " + strconv.Quote(it.Name), Found: fmt.Sprintf("it holds %g", v),
				Wanted: "numbers that a float16 holds, up to 65504", Remedy: "store what is not quantised as bf16: --bits bf16"}
		}
		binary.LittleEndian.PutUint16(out[2*i:], h)
	}
	return nil
}
