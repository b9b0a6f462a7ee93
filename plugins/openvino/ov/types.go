package ov

import "github.com/accelhq/accel/sdk/tensor"

// elements are ov_element_type_e's numbers.
var elements = map[tensor.DType]int32{
	tensor.Bool:       1,
	tensor.BFloat16:   2,
	tensor.Float16:    3,
	tensor.Float32:    4,
	tensor.Float64:    5,
	tensor.Int4:       6,
	tensor.Int8:       7,
	tensor.Int16:      8,
	tensor.Int32:      9,
	tensor.Int64:      10,
	tensor.Uint2:      12,
	tensor.Uint4:      14,
	tensor.Uint8:      16,
	tensor.Uint16:     17,
	tensor.Uint32:     18,
	tensor.Uint64:     19,
	tensor.Float8E4M3: 21,
	tensor.Float8E5M2: 22,
	tensor.String:     23,
	tensor.Float4E2M1: 24,
	tensor.Float8E8M0: 25,
}

var dtypes = func() map[int32]tensor.DType {
	m := map[int32]tensor.DType{}
	for d, e := range elements {
		m[e] = d
	}
	return m
}()

// Has reports whether the runtime has an element type.
func Has(d tensor.DType) bool { return elements[d] != 0 }
