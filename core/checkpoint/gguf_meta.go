package checkpoint

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// ggufValue is a value of the metadata as the file has it.
type ggufValue struct {
	kind  ggufKind
	elem  ggufKind // of an array
	count int      // of an array
	raw   []byte   // a string's bytes, an array's elements
}

// value reads the value of a key, and all of an array, so that nothing that was
// read fails later.
func (r *ggufReader) value(key string) ggufValue {
	v := ggufValue{kind: r.kind(key)}
	if v.kind != kindArray {
		v.raw = r.scalar(v.kind, key)
		return v
	}
	v.elem = r.kind(key)
	if r.err != nil {
		return v
	}
	if v.elem == kindArray {
		r.fail(&Error{Field: key, Found: "it is an array of arrays", Wanted: "an array of numbers or strings"})
		return v
	}
	size := ggufKinds[v.elem].size
	if size == 0 {
		size = 8 // of its length
	}
	v.count = r.count("length of "+key, size)
	at := r.at
	for i := 0; i < v.count && r.err == nil; i++ {
		r.scalar(v.elem, key)
	}
	v.raw = r.data[at:r.at]
	return v
}

func (r *ggufReader) kind(key string) ggufKind {
	k := r.u32(key)
	if k >= uint32(len(ggufKinds)) {
		r.fail(&Error{Field: key, Found: fmt.Sprintf("its type is number %d", k), Wanted: "a type that is known", Remedy: damagedRemedy})
		return 0
	}
	return ggufKind(k)
}

// scalar gives the bytes of a value; of a string those without its length.
func (r *ggufReader) scalar(k ggufKind, key string) []byte {
	if k == kindString {
		return r.take(r.u64(key), key)
	}
	b := r.take(uint64(ggufKinds[k].size), key)
	if k == kindBool && len(b) == 1 && b[0] > 1 {
		r.fail(&Error{Field: key, Found: fmt.Sprintf("found %d", b[0]), Wanted: "0 or 1 for a bool", Remedy: damagedRemedy})
	}
	return b
}

// GGUFFields reads a file's metadata. As Fields does, it keeps the first error,
// after which every value is zero.
type GGUFFields struct {
	p   *ggufPart
	err *error
}

// Fields begins to read the metadata; that of a split file is the first part's.
func (g *GGUF) Fields() GGUFFields { return g.parts[0].fields() }

func (p *ggufPart) fields() GGUFFields { return GGUFFields{p, new(error)} }

// Keys lists the keys in alphabetical order.
func (f GGUFFields) Keys() []string { return slices.Sorted(maps.Keys(f.p.meta)) }

// Err is the first error, of type *Error.
func (f GGUFFields) Err() error { return *f.err }

// Fail records that a value can't be used.
func (f GGUFFields) Fail(key, found, wanted, remedy string) {
	if *f.err == nil {
		*f.err = &Error{File: f.p.file, Field: key, Found: found, Wanted: wanted, Remedy: remedy}
	}
}

// Has reports whether there is a value of that key.
func (f GGUFFields) Has(key string) bool {
	_, ok := f.p.meta[key]
	return ok
}

// get finds a value of one of the kinds, or an array of them.
func (f GGUFFields) get(key, wanted string, array bool, kinds ...ggufKind) (ggufValue, bool) {
	if *f.err != nil {
		return ggufValue{}, false
	}
	v, ok := f.p.meta[key]
	if !ok {
		remedy := ""
		if alike := Alike(key, slices.Collect(maps.Keys(f.p.meta)), 1); len(alike) > 0 {
			remedy = "there is " + strconv.Quote(alike[0])
		}
		f.Fail(key, "it is missing", wanted, remedy)
		return v, false
	}
	kind, found := v.kind, "found a "+v.kind.String()
	if v.kind == kindArray {
		kind, found = v.elem, "found an array of "+v.elem.String()
	}
	if (v.kind == kindArray) != array || !slices.Contains(kinds, kind) {
		f.Fail(key, found, wanted, "")
		return v, false
	}
	return v, true
}

var (
	wholeKinds = []ggufKind{kindUint8, kindInt8, kindUint16, kindInt16, kindUint32, kindInt32, kindUint64, kindInt64}
	floatKinds = []ggufKind{kindFloat32, kindFloat64}
)

// whole is an integer's value; false where it is beyond int64.
func whole(k ggufKind, b []byte) (int64, bool) {
	switch k {
	case kindUint8:
		return int64(b[0]), true
	case kindInt8:
		return int64(int8(b[0])), true
	case kindUint16:
		return int64(binary.LittleEndian.Uint16(b)), true
	case kindInt16:
		return int64(int16(binary.LittleEndian.Uint16(b))), true
	case kindUint32:
		return int64(binary.LittleEndian.Uint32(b)), true
	case kindInt32:
		return int64(int32(binary.LittleEndian.Uint32(b))), true
	}
	n := int64(binary.LittleEndian.Uint64(b))
	return n, n >= 0 || k == kindInt64
}

// Int reads a whole number from lo to hi.
func (f GGUFFields) Int(key string, lo, hi int64) int64 {
	wanted := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	v, ok := f.get(key, wanted, false, wholeKinds...)
	if !ok {
		return 0
	}
	n, ok := whole(v.kind, v.raw)
	if !ok || n < lo || n > hi {
		f.Fail(key, fmt.Sprintf("found %d", uint64(n)), wanted, "")
		return 0
	}
	return n
}

// IntOr is Int with a default for a missing key.
func (f GGUFFields) IntOr(key string, def, lo, hi int64) int64 {
	if !f.Has(key) {
		return def
	}
	return f.Int(key, lo, hi)
}

// Float reads a number from lo to hi.
func (f GGUFFields) Float(key string, lo, hi float64) float64 {
	wanted := fmt.Sprintf("a number from %g to %g", lo, hi)
	v, ok := f.get(key, wanted, false, floatKinds...)
	if !ok {
		return 0
	}
	x := float(v.kind, v.raw)
	if !(x >= lo && x <= hi) {
		f.Fail(key, fmt.Sprintf("found %g", x), wanted, "")
		return 0
	}
	return x
}

// float is a number's value. One that was stored in 32 bits is the nearest decimal
// of so few digits as tell it from its neighbours: 1e-5, not 9.999999747378752e-06.
func float(k ggufKind, b []byte) float64 {
	if k == kindFloat64 {
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	x := float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	if short, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', -1, 32), 64); err == nil {
		return short
	}
	return x
}

// FloatOr is Float with a default for a missing key.
func (f GGUFFields) FloatOr(key string, def, lo, hi float64) float64 {
	if !f.Has(key) {
		return def
	}
	return f.Float(key, lo, hi)
}

// BoolOr reads true or false, with a default for a missing key.
func (f GGUFFields) BoolOr(key string, def bool) bool {
	if !f.Has(key) {
		return def
	}
	v, ok := f.get(key, "true or false", false, kindBool)
	return ok && v.raw[0] == 1
}

// String reads a text.
func (f GGUFFields) String(key string) string {
	v, ok := f.get(key, "a string", false, kindString)
	if !ok {
		return ""
	}
	if !utf8.Valid(v.raw) {
		f.Fail(key, "found "+quote(string(v.raw)), "text in UTF-8", "")
		return ""
	}
	return string(v.raw)
}

// StringOr is String with a default for a missing key.
func (f GGUFFields) StringOr(key, def string) string {
	if !f.Has(key) {
		return def
	}
	return f.String(key)
}

// Strings reads an array of texts; a missing key is an empty one.
func (f GGUFFields) Strings(key string) []string {
	if !f.Has(key) {
		return nil
	}
	v, ok := f.get(key, "an array of strings", true, kindString)
	if !ok {
		return nil
	}
	list := make([]string, v.count)
	at := uint64(0)
	for i := range list {
		n := binary.LittleEndian.Uint64(v.raw[at:])
		b := v.raw[at+8 : at+8+n]
		if !utf8.Valid(b) {
			f.Fail(fmt.Sprintf("%s[%d]", key, i), "found "+quote(string(b)), "text in UTF-8", "")
			return nil
		}
		list[i] = string(b)
		at += 8 + n
	}
	return list
}

// Ints reads an array of whole numbers; a missing key is an empty one.
func (f GGUFFields) Ints(key string) []int64 {
	if !f.Has(key) {
		return nil
	}
	v, ok := f.get(key, "an array of whole numbers", true, wholeKinds...)
	if !ok {
		return nil
	}
	list, size := make([]int64, v.count), ggufKinds[v.elem].size
	for i := range list {
		if list[i], ok = whole(v.elem, v.raw[i*size:]); !ok {
			f.Fail(fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("found %d", uint64(list[i])), "at most 2^63-1", "")
			return nil
		}
	}
	return list
}

// Floats reads an array of numbers; a missing key is an empty one.
func (f GGUFFields) Floats(key string) []float64 {
	if !f.Has(key) {
		return nil
	}
	v, ok := f.get(key, "an array of numbers", true, floatKinds...)
	if !ok {
		return nil
	}
	list, size := make([]float64, v.count), ggufKinds[v.elem].size
	for i := range list {
		list[i] = float(v.elem, v.raw[i*size:])
	}
	return list
}

// IsArray reports whether the value of a key is an array.
func (f GGUFFields) IsArray(key string) bool { return f.p.meta[key].kind == kindArray && f.Has(key) }
