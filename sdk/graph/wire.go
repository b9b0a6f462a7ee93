package graph

import (
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// reader steps over the fields of one protobuf message. After next, num and typ
// describe the field; v holds a varint or fixed value, data a length-delimited
// one. The first error ends the iteration and stays in err.
type reader struct {
	b    []byte
	off  int64 // of b[0] in the file
	num  protowire.Number
	typ  protowire.Type
	at   int64 // offset of the field
	v    uint64
	data []byte
	doff int64 // offset of data
	err  error
}

func (r *reader) next() bool {
	if r.err != nil || len(r.b) == 0 {
		return false
	}
	r.at = r.off
	num, typ, n := protowire.ConsumeTag(r.b)
	if n < 0 {
		r.fail("broken field tag")
		return false
	}
	r.num, r.typ = num, typ
	r.skip(n)
	switch typ {
	case protowire.VarintType:
		r.v, n = protowire.ConsumeVarint(r.b)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(r.b)
		r.v = uint64(v)
	case protowire.Fixed64Type:
		r.v, n = protowire.ConsumeFixed64(r.b)
	case protowire.BytesType:
		r.data, n = protowire.ConsumeBytes(r.b)
		r.doff = r.off + int64(n-len(r.data))
	case protowire.StartGroupType:
		_, n = protowire.ConsumeGroup(num, r.b)
	default:
		n = -1
	}
	if n < 0 {
		r.fail("field %d is truncated or malformed", num)
		return false
	}
	r.skip(n)
	return true
}

func (r *reader) skip(n int) {
	r.b = r.b[n:]
	r.off += int64(n)
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = &FormatError{Offset: r.at, Reason: fmt.Sprintf(format, args...)}
	}
}

// is checks the field's wire type.
func (r *reader) is(t protowire.Type) bool {
	if r.typ != t {
		r.fail("field %d has wire type %d, wants %d", r.num, r.typ, t)
		return false
	}
	return true
}

func (r *reader) int64() int64 {
	if !r.is(protowire.VarintType) {
		return 0
	}
	return int64(r.v)
}

// enum reads a varint that must lie in [0, limit).
func (r *reader) enum(what string, limit int64) int64 {
	v := r.int64()
	if r.err == nil && (v < 0 || v >= limit) {
		r.fail("%s %d is not known", what, v)
	}
	return v
}

func (r *reader) float32() float32 {
	if !r.is(protowire.Fixed32Type) {
		return 0
	}
	return math.Float32frombits(uint32(r.v))
}

func (r *reader) bytes() []byte {
	if !r.is(protowire.BytesType) {
		return nil
	}
	return r.data
}

// msg is a reader over the field's sub-message.
func (r *reader) msg() reader {
	return reader{b: r.bytes(), off: r.doff, at: r.doff}
}

// ints appends a repeated integer field, packed or not.
func (r *reader) ints(dst []int64) []int64 {
	if r.typ == protowire.VarintType {
		return append(dst, int64(r.v))
	}
	b := r.bytes()
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			r.fail("field %d is truncated or malformed", r.num)
			return dst
		}
		dst = append(dst, int64(v))
		b = b[n:]
	}
	return dst
}

// floats appends a repeated float field, packed or not.
func (r *reader) floats(dst []float32) []float32 {
	if r.typ == protowire.Fixed32Type {
		return append(dst, math.Float32frombits(uint32(r.v)))
	}
	b := r.bytes()
	if len(b)%4 != 0 {
		r.fail("field %d holds %d bytes, no whole number of floats", r.num, len(b))
		return dst
	}
	for len(b) > 0 {
		v, n := protowire.ConsumeFixed32(b)
		dst = append(dst, math.Float32frombits(v))
		b = b[n:]
	}
	return dst
}

// text checks that the field is UTF-8, as protobuf's string type demands.
func (r *reader) text() []byte {
	b := r.bytes()
	if !utf8.Valid(b) {
		r.fail("field %d is not UTF-8", r.num)
		return nil
	}
	return b
}

// under adds a step to the path of a format error.
func under(err error, step string) error {
	if e, ok := err.(*FormatError); ok {
		if e.Path == "" {
			e.Path = step
		} else {
			e.Path = step + "." + e.Path
		}
	}
	return err
}

func underIndex(err error, step string, i int) error {
	if _, ok := err.(*FormatError); ok {
		return under(err, fmt.Sprintf("%s[%d]", step, i))
	}
	return err
}
