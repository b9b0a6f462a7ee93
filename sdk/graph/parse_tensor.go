package graph

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/accelhq/accel/sdk/tensor"
)

// Field numbers of TensorProto that carry elements.
const (
	fieldFloats  protowire.Number = 4
	fieldInt32s  protowire.Number = 5
	fieldStrings protowire.Number = 6
	fieldInt64s  protowire.Number = 7
	fieldRaw     protowire.Number = 9
	fieldDoubles protowire.Number = 10
	fieldUint64s protowire.Number = 11
)

var dataFieldNames = map[protowire.Number]string{
	fieldFloats: "float_data", fieldInt32s: "int32_data", fieldStrings: "string_data",
	fieldInt64s: "int64_data", fieldRaw: "raw_data", fieldDoubles: "double_data", fieldUint64s: "uint64_data",
}

// typedField is the field that holds elements of type t when raw_data does not.
func typedField(t tensor.DType) protowire.Number {
	switch t {
	case tensor.Float32, tensor.Complex64:
		return fieldFloats
	case tensor.Float64, tensor.Complex128:
		return fieldDoubles
	case tensor.Int64:
		return fieldInt64s
	case tensor.Uint32, tensor.Uint64:
		return fieldUint64s
	case tensor.String:
		return fieldStrings
	}
	return fieldInt32s
}

// tensor decodes a TensorProto. raw_data and packed floats stay where they lie;
// all else is converted to dense little-endian bytes.
func (d *decoder) tensor(r reader) (*Initializer, error) {
	body := r // for the second pass: the type may follow the data
	in := &Initializer{}
	t := &in.Tensor
	var raw []byte
	var present protowire.Number
	var chunks int
	var where []external
	location := int64(0)
	for r.next() {
		switch r.num {
		case 1:
			t.Shape = d.dims(&r, t.Shape)
		case 2:
			t.DType = d.dtype(&r)
		case 3:
			r.fail("segmented tensors are not supported: save the tensor whole or as external data")
		case 8:
			in.Name = d.str(&r)
		case 12:
			in.Doc = d.text(&r)
		case 13:
			k, v, err := d.pair(r.msg())
			if r.err == nil {
				r.err = under(err, "external_data")
			}
			where = append(where, external{k, v})
			d.item(&r)
		case 14:
			location = r.enum("data location", 2)
		case 16:
			in.Metadata = d.entry(&r, in.Metadata)
		case fieldRaw:
			raw = r.bytes()
			fallthrough
		case fieldFloats, fieldInt32s, fieldStrings, fieldInt64s, fieldDoubles, fieldUint64s:
			if r.typ == protowire.BytesType && len(r.data) == 0 && r.num != fieldStrings {
				continue // some writers leave an empty field behind
			}
			if present != 0 && present != r.num {
				r.fail("both %s and %s hold data", dataFieldNames[present], dataFieldNames[r.num])
			}
			present = r.num
			chunks++
		}
	}
	if r.err == nil && t.DType == tensor.Undefined {
		r.fail("the tensor has no element type")
	}
	if r.err != nil {
		return nil, under(r.err, quoteName(in.Name))
	}
	fail := func(format string, args ...any) (*Initializer, error) {
		return nil, &FormatError{Path: quoteName(in.Name), Offset: body.off, Reason: fmt.Sprintf(format, args...)}
	}
	elements, err := t.Shape.Elements()
	if err != nil {
		return fail("%v", err)
	}
	if location == 1 {
		if present != 0 {
			return fail("data is said to be external, and %s holds some too", dataFieldNames[present])
		}
		ext, err := parseExternal(where, t.DType, t.Shape)
		if err != nil {
			return fail("%v", err)
		}
		in.External = ext
		d.extern = append(d.extern, in)
		return in, nil
	}
	switch {
	case present == 0:
		// Nothing to read; Check below says whether nothing is enough.
		if t.DType == tensor.String && elements == 0 {
			t.Strings = []string{}
		}
	case present == fieldRaw && t.DType == tensor.String:
		return fail("raw_data can't hold strings")
	case present == fieldRaw:
		t.Data = raw
	case present != typedField(t.DType):
		return fail("elements of type %s can't lie in %s", t.DType, dataFieldNames[present])
	case present == fieldStrings:
		for body.next() {
			if body.num == fieldStrings {
				d.item(&body)
				t.Strings = append(t.Strings, d.raw(&body))
			}
		}
	case present == fieldFloats || present == fieldDoubles:
		if chunks == 1 || d.decoded(&body, len(body.b)) {
			t.Data = body.packed(present, chunks)
		}
	default:
		// A varint of one byte becomes as many as the element has.
		if d.decoded(&body, len(body.b)*max(t.DType.Bits()/8, 1)) {
			t.Data = body.narrowed(present, t.DType)
		}
	}
	if body.err != nil {
		return nil, under(body.err, quoteName(in.Name))
	}
	if err := t.Check(); err != nil {
		return fail("%v", err)
	}
	if err := checkBools(*t); err != nil {
		return fail("%v", err)
	}
	return in, nil
}

// initializer decodes a constant of a graph.
func (d *decoder) initializer(r reader) (*Initializer, error) {
	if d.consts++; !r.within("initializers", d.consts, d.limits.Initializers) {
		return nil, r.err
	}
	return d.tensor(r)
}

func (d *decoder) sparseInitializer(r reader) (*Initializer, error) {
	if d.consts++; !r.within("initializers", d.consts, d.limits.Initializers) {
		return nil, r.err
	}
	return d.sparse(r)
}

// dims reads a tensor's dimensions.
func (d *decoder) dims(r *reader, dst tensor.Shape) tensor.Shape {
	const varintMax = 10 // bytes
	if r.typ == protowire.BytesType && int64(len(r.data)) > varintMax*d.limits.Rank {
		r.within("dimensions", d.limits.Rank+1, d.limits.Rank)
		return dst
	}
	dst = r.ints(dst)
	r.within("dimensions", int64(len(dst)), d.limits.Rank)
	return dst
}

// checkBools refuses bytes that are no bool, since Go code reads them as bool.
func checkBools(t tensor.Tensor) error {
	if t.DType == tensor.Bool {
		for i, b := range t.Data {
			if b > 1 {
				return fmt.Errorf("element %d is %d, no bool", i, b)
			}
		}
	}
	return nil
}

// packed gathers the bytes of a repeated fixed-width field. One packed run,
// which is what every writer makes, is returned as it lies.
func (r *reader) packed(num protowire.Number, chunks int) []byte {
	var out []byte
	for r.next() {
		switch {
		case r.num != num:
		case r.typ == protowire.BytesType && chunks == 1:
			return r.data
		case r.typ == protowire.BytesType:
			out = append(out, r.data...)
		case r.typ == protowire.Fixed32Type && num == fieldFloats:
			out = protowire.AppendFixed32(out, uint32(r.v))
		case r.typ == protowire.Fixed64Type && num == fieldDoubles:
			out = protowire.AppendFixed64(out, r.v)
		default:
			r.fail("field %d has wire type %d", r.num, r.typ)
		}
	}
	return out
}

// narrowed converts a repeated varint field to little-endian elements. Types
// under a byte lie packed in the values already.
func (r *reader) narrowed(num protowire.Number, t tensor.DType) []byte {
	bits := max(t.Bits(), 8)
	var out []byte
	put := func(v uint64) bool {
		// A value may be written signed or as the bits of the type.
		if s := int64(v); bits < 64 && (s < -1<<(bits-1) || s >= 1<<bits) {
			r.fail("value %d does not fit %s", s, t)
			return false
		}
		for b := 0; b < bits; b += 8 {
			out = append(out, byte(v>>b))
		}
		return true
	}
	for r.next() {
		if r.num != num {
			continue
		}
		if r.typ == protowire.VarintType {
			put(r.v)
			continue
		}
		b := r.bytes()
		for len(b) > 0 {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				r.fail("field %d is truncated or malformed", num)
				break
			}
			if !put(v) {
				break
			}
			b = b[n:]
		}
	}
	return out
}

// sparse decodes a SparseTensorProto into a dense tensor.
func (d *decoder) sparse(r reader) (*Initializer, error) {
	var values, indices *Initializer
	var shape tensor.Shape
	start := r.off
	for r.next() {
		switch r.num {
		case 1:
			one(d, &r, &values, "values", d.tensor)
		case 2:
			one(d, &r, &indices, "indices", d.tensor)
		case 3:
			shape = d.dims(&r, shape)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	fail := func(format string, args ...any) (*Initializer, error) {
		return nil, &FormatError{Offset: start, Reason: fmt.Sprintf(format, args...)}
	}
	if values == nil || indices == nil {
		return fail("a sparse tensor lacks its values or its indices")
	}
	v, ix := values.Tensor, indices.Tensor
	switch {
	case values.External != nil || indices.External != nil:
		return fail("a sparse tensor with external data is not supported")
	case v.DType == tensor.String || v.DType.Bits()%8 != 0:
		return fail("a sparse tensor of %s is not supported", v.DType)
	case ix.DType != tensor.Int64:
		return fail("the indices of a sparse tensor are %s, want int64", ix.DType)
	case len(v.Shape) != 1:
		return fail("the values of a sparse tensor have shape %v, want one dimension", v.Shape)
	}
	nnz, rank := v.Shape[0], int64(len(shape))
	linear := ix.Shape.Equal(tensor.Shape{nnz})
	if !linear && !ix.Shape.Equal(tensor.Shape{nnz, rank}) {
		return fail("the indices of a sparse tensor have shape %v, want [%d] or [%d,%d]", ix.Shape, nnz, nnz, rank)
	}
	size, err := tensor.ByteSize(v.DType, shape)
	if err != nil {
		return fail("%v", err)
	}
	if d.dense += size; d.dense > d.limits.Dense || size > d.limits.Dense {
		return nil, &LimitError{What: "bytes in sparse tensors made dense", Limit: d.limits.Dense, Found: size}
	}
	out, err := tensor.New(v.DType, shape)
	if err != nil {
		return fail("%v", err)
	}
	width := int64(v.DType.Bits() / 8)
	total := int64(out.Len())
	at := tensor.View[int64](ix.Aligned())
	for i := range nnz {
		flat := int64(0)
		if linear {
			flat = at[i]
		} else {
			for k, n := range shape {
				c := at[i*rank+int64(k)]
				if c < 0 || c >= n {
					return fail("index %d of a sparse tensor lies outside dimension %d of shape %v", c, k, shape)
				}
				flat = flat*n + c
			}
		}
		if flat < 0 || flat >= total {
			return fail("index %d of a sparse tensor lies outside shape %v", flat, shape)
		}
		copy(out.Data[flat*width:(flat+1)*width], v.Data[i*width:])
	}
	values.Tensor = out
	return values, nil
}

// external is one entry of TensorProto.external_data.
type external struct{ key, value string }

// parseExternal reads where a tensor's bytes lie. Keys other than location,
// offset and length (checksum, runtimes' own) are not used.
func parseExternal(entries []external, t tensor.DType, s tensor.Shape) (*External, error) {
	size, err := tensor.ByteSize(t, s)
	if err != nil {
		return nil, err
	}
	e := &External{Length: size}
	seen := map[string]bool{}
	for _, kv := range entries {
		if seen[kv.key] {
			return nil, fmt.Errorf("external data gives %q twice", kv.key)
		}
		seen[kv.key] = true
		number := func() (int64, error) {
			n, err := strconv.ParseInt(kv.value, 10, 64)
			if err != nil || n < 0 {
				return 0, fmt.Errorf("external data has %s %q, want a number of bytes", kv.key, kv.value)
			}
			return n, nil
		}
		switch kv.key {
		case "location":
			e.Path = kv.value
		case "offset":
			if e.Offset, err = number(); err != nil {
				return nil, err
			}
		case "length":
			n, err := number()
			if err != nil {
				return nil, err
			}
			if n != size {
				return nil, fmt.Errorf("external data has %d bytes, %s%v wants %d", n, t, s, size)
			}
		}
	}
	if e.Path == "" || strings.ContainsRune(e.Path, 0) {
		return nil, fmt.Errorf("external data names no file")
	}
	if e.Offset > math.MaxInt64-size {
		return nil, fmt.Errorf("external data at offset %d of %d bytes overflows", e.Offset, size)
	}
	return e, nil
}
