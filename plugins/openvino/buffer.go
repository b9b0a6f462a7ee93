package main

import (
	"io"
	"unsafe"
)

// memoryAlign is what the runtime's kernels like their memory aligned to, in bytes.
const memoryAlign = 64

// buffer is device memory, which is the host's.
type buffer struct{ data []byte }

// newBuffer makes a zeroed buffer that begins at a cache line.
func newBuffer(bytes int64) *buffer {
	b := make([]byte, bytes+memoryAlign)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (memoryAlign - 1)
	return &buffer{data: b[skip : int64(skip)+bytes : int64(skip)+bytes]}
}

func (b *buffer) Size() int64 { return int64(len(b.data)) }

func (b *buffer) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > b.Size()-int64(len(p)) {
		return 0, io.EOF
	}
	return copy(p, b.data[off:]), nil
}

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > b.Size()-int64(len(p)) {
		return 0, io.ErrShortWrite
	}
	return copy(b.data[off:], p), nil
}

func (b *buffer) Close() error {
	b.data = nil
	return nil
}
