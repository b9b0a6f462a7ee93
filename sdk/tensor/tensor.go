package tensor

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unsafe"
)

// Shape is a list of dimensions, outermost first. An empty shape is a scalar.
// In a Tensor every dimension is known and not negative.
type Shape []int64

// Elements is the number of elements, or an error if a dimension is negative or
// the product does not fit an int64.
func (s Shape) Elements() (int64, error) {
	n := uint64(1)
	for _, d := range s {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", s)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v has more elements than an int64 can count", s)
		}
		n = lo
	}
	return int64(n), nil
}

// Equal reports whether two shapes have the same rank and dimensions.
func (s Shape) Equal(t Shape) bool {
	if len(s) != len(t) {
		return false
	}
	for i := range s {
		if s[i] != t[i] {
			return false
		}
	}
	return true
}

// Clone returns a copy that shares no memory.
func (s Shape) Clone() Shape { return append(Shape(nil), s...) }

func (s Shape) String() string {
	parts := make([]string, len(s))
	for i, d := range s {
		parts[i] = strconv.FormatInt(d, 10)
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// ByteSize is the number of bytes of a dense tensor: types narrower than a byte
// are packed, the last byte padded.
func ByteSize(d DType, s Shape) (int64, error) {
	n, err := s.Elements()
	if err != nil {
		return 0, err
	}
	if !d.Valid() || d == String {
		return 0, fmt.Errorf("%s has no fixed size", d)
	}
	hi, lo := bits.Mul64(uint64(n), uint64(d.Bits()))
	if hi != 0 || lo > math.MaxInt64-7 {
		return 0, fmt.Errorf("%s%v is too large to address", d, s)
	}
	return int64(lo+7) / 8, nil
}

// Tensor is a dense, row-major, little-endian tensor. Data may be memory that
// somebody else owns (a mapped file, a shared region); Strings is used instead
// of Data when DType is String.
type Tensor struct {
	DType   DType
	Shape   Shape
	Data    []byte
	Strings []string
}

// New allocates a zeroed tensor, aligned for its element type.
func New(d DType, s Shape) (Tensor, error) {
	if d == String {
		n, err := s.Elements()
		if err != nil {
			return Tensor{}, err
		}
		return Tensor{DType: d, Shape: s, Strings: make([]string, n)}, nil
	}
	n, err := ByteSize(d, s)
	if err != nil {
		return Tensor{}, err
	}
	// Backed by words, so that every view is aligned.
	words := make([]uint64, (n+7)/8)
	data := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)[:n:n]
	return Tensor{DType: d, Shape: s, Data: data}, nil
}

// Check reports an error if the data's length is not what type and shape say.
func (t Tensor) Check() error {
	if t.DType == String {
		n, err := t.Shape.Elements()
		if err != nil {
			return err
		}
		if int64(len(t.Strings)) != n {
			return fmt.Errorf("tensor string%v holds %d strings, wants %d", t.Shape, len(t.Strings), n)
		}
		return nil
	}
	n, err := ByteSize(t.DType, t.Shape)
	if err != nil {
		return err
	}
	if int64(len(t.Data)) != n {
		return fmt.Errorf("tensor %s%v holds %d bytes, wants %d", t.DType, t.Shape, len(t.Data), n)
	}
	return nil
}

// Len is the number of elements of a tensor that Check accepts.
func (t Tensor) Len() int {
	n, _ := t.Shape.Elements()
	return int(n)
}

// Element is a Go type that is laid out as a DType is. Float16 and BFloat16 are
// viewed as uint16, types of a byte or less as uint8 or int8.
type Element interface {
	~float32 | ~float64 | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~bool | ~complex64 | ~complex128
}

// View is the tensor's data as a slice of T, sharing memory. It panics if the
// data is misaligned or no whole number of T; use Check on untrusted tensors and
// Aligned on mapped ones.
func View[T Element](t Tensor) []T {
	if len(t.Data) == 0 {
		return nil
	}
	var z T
	size := unsafe.Sizeof(z)
	p := unsafe.Pointer(unsafe.SliceData(t.Data))
	if uintptr(p)%unsafe.Alignof(z) != 0 {
		panic(fmt.Sprintf("tensor: %s%v at %p is not aligned for %T", t.DType, t.Shape, p, z))
	}
	if uintptr(len(t.Data))%size != 0 {
		panic(fmt.Sprintf("tensor: %d bytes are no whole number of %T", len(t.Data), z))
	}
	return unsafe.Slice((*T)(p), uintptr(len(t.Data))/size)
}

// Aligned returns t itself if its data is aligned to its element type, else a
// copy that is.
func (t Tensor) Aligned() Tensor {
	if len(t.Data) == 0 || t.DType == String {
		return t
	}
	align := uintptr(t.DType.Bits()+7) / 8
	if align > 8 {
		align = 8
	}
	if align == 0 || uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))%align == 0 {
		return t
	}
	c, err := New(t.DType, t.Shape)
	if err != nil {
		panic(err) // the shape was already used to size t.Data
	}
	copy(c.Data, t.Data)
	return c
}

// Of makes a tensor that shares values' memory. The element type is given
// because uint16 may mean Float16, BFloat16 or Uint16.
func Of[T Element](d DType, s Shape, values []T) Tensor {
	var z T
	data := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), uintptr(len(values))*unsafe.Sizeof(z))
	if len(values) == 0 {
		data = nil
	}
	t := Tensor{DType: d, Shape: s, Data: data}
	if err := t.Check(); err != nil {
		panic("tensor: " + err.Error())
	}
	return t
}

// Floats makes a float32 tensor of values.
func Floats(s Shape, values ...float32) Tensor { return Of(Float32, s, values) }

// Ints makes an int64 tensor of values.
func Ints(s Shape, values ...int64) Tensor { return Of(Int64, s, values) }
