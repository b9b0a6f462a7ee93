package tensor_test

import (
	"math"
	"slices"
	"testing"
	"unsafe"

	"github.com/accelhq/accel/sdk/tensor"
)

func TestDTypeNames(t *testing.T) {
	for d := tensor.Float32; d.Valid(); d++ {
		got, err := tensor.ParseDType(d.String())
		if err != nil || got != d {
			t.Errorf("%d: ParseDType(%q) = %v, %v", d, d, got, err)
		}
		if d.IsFloat() && d.IsInt() {
			t.Errorf("%s is a float and an integer", d)
		}
	}
	for _, bad := range []string{"", "undefined", "float31"} {
		if d, err := tensor.ParseDType(bad); err == nil {
			t.Errorf("ParseDType(%q) = %v", bad, d)
		}
	}
	if s := tensor.DType(99).String(); s != "dtype(99)" || tensor.DType(99).Bits() != 0 || tensor.DType(99).Valid() {
		t.Errorf("an unknown type is %s, %d bits", s, tensor.DType(99).Bits())
	}
}

func TestByteSize(t *testing.T) {
	for _, tt := range []struct {
		d    tensor.DType
		s    tensor.Shape
		want int64 // -1: an error
	}{
		{tensor.Float32, nil, 4},
		{tensor.Float32, tensor.Shape{2, 3}, 24},
		{tensor.Float32, tensor.Shape{2, 0, 3}, 0},
		{tensor.Int4, tensor.Shape{3}, 2},
		{tensor.Uint2, tensor.Shape{5}, 2},
		{tensor.Complex128, tensor.Shape{2}, 32},
		{tensor.Int8, tensor.Shape{-1}, -1},
		{tensor.String, tensor.Shape{1}, -1},
		{tensor.Undefined, tensor.Shape{1}, -1},
		{tensor.Int8, tensor.Shape{math.MaxInt64, 2}, -1},
		{tensor.Float64, tensor.Shape{math.MaxInt64 / 4}, -1},
	} {
		got, err := tensor.ByteSize(tt.d, tt.s)
		if tt.want < 0 && err == nil || tt.want >= 0 && (err != nil || got != tt.want) {
			t.Errorf("ByteSize(%s, %v) = %d, %v; want %d", tt.d, tt.s, got, err, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		t  tensor.Tensor
		ok bool
	}{
		"whole":            {tensor.Floats(tensor.Shape{2}, 1, 2), true},
		"short":            {tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{2}, Data: make([]byte, 7)}, false},
		"negative":         {tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{-2}}, false},
		"strings":          {tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{2}, Strings: []string{"a", "b"}}, true},
		"too few strings":  {tensor.Tensor{DType: tensor.String, Shape: tensor.Shape{2}, Strings: []string{"a"}}, false},
		"without any type": {tensor.Tensor{Shape: tensor.Shape{0}}, false},
	} {
		if err := tt.t.Check(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestViewsShareMemory(t *testing.T) {
	x, err := tensor.New(tensor.Int64, tensor.Shape{2, 2})
	if err != nil {
		t.Fatal(err)
	}
	tensor.View[int64](x)[3] = -5
	if got := tensor.View[int64](x); !slices.Equal(got, []int64{0, 0, 0, -5}) || x.Len() != 4 {
		t.Errorf("got %v, %d elements", got, x.Len())
	}
	values := []float32{1, 2}
	y := tensor.Of(tensor.Float32, tensor.Shape{2}, values)
	values[0] = 7
	if tensor.View[float32](y)[0] != 7 {
		t.Error("Of copied")
	}
}

func TestAlignedCopiesOnlyWhatIsMisaligned(t *testing.T) {
	whole := tensor.Floats(tensor.Shape{3}, 1, 2, 3)
	if a := whole.Aligned(); unsafe.SliceData(a.Data) != unsafe.SliceData(whole.Data) {
		t.Error("an aligned tensor was copied")
	}
	shifted := append([]byte{0}, whole.Data...)[1:]
	x := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{3}, Data: shifted}
	if got := tensor.View[float32](x.Aligned()); !slices.Equal(got, []float32{1, 2, 3}) {
		t.Errorf("got %v", got)
	}
}

func TestOfRefusesAShapeThatDoesNotFit(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	tensor.Floats(tensor.Shape{3}, 1, 2)
}
