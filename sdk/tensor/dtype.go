// Package tensor holds the element types, shapes and dense tensors that cross
// every wall of Accel. It has no dependencies and no behaviour of a device.
package tensor

import "fmt"

// DType is an element type. Its numbers are those of ONNX TensorProto.DataType
// (onnx.proto), on disk, on the wire and in memory alike.
type DType uint8

// The element types of ONNX IR 14.
const (
	Undefined    DType = 0
	Float32      DType = 1
	Uint8        DType = 2
	Int8         DType = 3
	Uint16       DType = 4
	Int16        DType = 5
	Int32        DType = 6
	Int64        DType = 7
	String       DType = 8
	Bool         DType = 9
	Float16      DType = 10
	Float64      DType = 11
	Uint32       DType = 12
	Uint64       DType = 13
	Complex64    DType = 14
	Complex128   DType = 15
	BFloat16     DType = 16
	Float8E4M3   DType = 17
	Float8E4M3UZ DType = 18
	Float8E5M2   DType = 19
	Float8E5M2UZ DType = 20
	Uint4        DType = 21
	Int4         DType = 22
	Float4E2M1   DType = 23
	Float8E8M0   DType = 24
	Uint2        DType = 25
	Int2         DType = 26
)

var dtypes = [...]struct {
	name string
	bits int
}{
	Undefined:    {"undefined", 0},
	Float32:      {"float32", 32},
	Uint8:        {"uint8", 8},
	Int8:         {"int8", 8},
	Uint16:       {"uint16", 16},
	Int16:        {"int16", 16},
	Int32:        {"int32", 32},
	Int64:        {"int64", 64},
	String:       {"string", 0},
	Bool:         {"bool", 8},
	Float16:      {"float16", 16},
	Float64:      {"float64", 64},
	Uint32:       {"uint32", 32},
	Uint64:       {"uint64", 64},
	Complex64:    {"complex64", 64},
	Complex128:   {"complex128", 128},
	BFloat16:     {"bfloat16", 16},
	Float8E4M3:   {"float8e4m3fn", 8},
	Float8E4M3UZ: {"float8e4m3fnuz", 8},
	Float8E5M2:   {"float8e5m2", 8},
	Float8E5M2UZ: {"float8e5m2fnuz", 8},
	Uint4:        {"uint4", 4},
	Int4:         {"int4", 4},
	Float4E2M1:   {"float4e2m1", 4},
	Float8E8M0:   {"float8e8m0", 8},
	Uint2:        {"uint2", 2},
	Int2:         {"int2", 2},
}

// Valid reports whether d is one of the element types above.
func (d DType) Valid() bool { return d > Undefined && int(d) < len(dtypes) }

// Bits is the size of one element in bits; 0 for strings, which have none.
func (d DType) Bits() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].bits
}

// IsFloat reports whether d is a real floating-point type of any width.
func (d DType) IsFloat() bool {
	switch d {
	case Float32, Float16, Float64, BFloat16, Float8E4M3, Float8E4M3UZ, Float8E5M2, Float8E5M2UZ, Float4E2M1, Float8E8M0:
		return true
	}
	return false
}

// IsInt reports whether d is an integer type of any width and sign.
func (d DType) IsInt() bool {
	switch d {
	case Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Uint4, Int4, Uint2, Int2:
		return true
	}
	return false
}

func (d DType) String() string {
	if int(d) < len(dtypes) {
		return dtypes[d].name
	}
	return fmt.Sprintf("dtype(%d)", uint8(d))
}

// ParseDType reads the name that String writes.
func ParseDType(s string) (DType, error) {
	for d, e := range dtypes {
		if e.name == s && d != 0 {
			return DType(d), nil
		}
	}
	return Undefined, fmt.Errorf("element type %q is not known", s)
}
