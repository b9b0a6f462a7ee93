package ov

import "unsafe"

// tensorOf is ov_tensor_create_from_host_ptr. Its shape, larger than a word, travels
// by a pointer to a copy here.
type tensorOf func(elem int32, s *shape, data unsafe.Pointer, out *uintptr) int32

func (f tensorOf) call(elem int32, s shape, data unsafe.Pointer, out *uintptr) int32 {
	return f(elem, &s, data, out)
}
