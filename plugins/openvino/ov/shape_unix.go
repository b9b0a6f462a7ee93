//go:build !windows

package ov

import "unsafe"

// tensorOf is ov_tensor_create_from_host_ptr. Its shape, two words by value, travels
// as two arguments here.
type tensorOf func(elem int32, rank int64, dims *int64, data unsafe.Pointer, out *uintptr) int32

func (f tensorOf) call(elem int32, s shape, data unsafe.Pointer, out *uintptr) int32 {
	return f(elem, s.rank, s.dims, data, out)
}
