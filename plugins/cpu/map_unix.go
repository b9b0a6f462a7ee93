//go:build unix

package main

import (
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapped remembers what came from mapFile: packed weights that could not be kept
// on disk are ordinary memory.
var mapped sync.Map

func mapFile(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != size {
		return nil, fmt.Errorf("it has %d bytes, wants %d", info.Size(), size)
	}
	if size == 0 {
		return nil, nil
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map it: %w", err)
	}
	mapped.Store(unsafe.SliceData(data), true)
	return data, nil
}

func unmap(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if _, ok := mapped.LoadAndDelete(unsafe.SliceData(data)); !ok {
		return nil
	}
	return unix.Munmap(data)
}

// expectBytes are asked for at a time: of more, the kernel reads no more than the device takes in one request, or its read-ahead.
const expectBytes = 256 << 10

// expect has the pages of data, which must lie in a mapped file, read in the background.
func expect(data []byte) error {
	page := uintptr(os.Getpagesize())
	for len(data) > 0 {
		begin := unsafe.Pointer(unsafe.SliceData(data))
		skip := int(uintptr(begin) & (page - 1)) // of the page, which the mapping has whole
		n := min(len(data), expectBytes-skip)
		if err := unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(begin, -skip)), skip+n), unix.MADV_WILLNEED); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// forget gives back the whole pages of data, which must lie in a mapped file: what
// is read there later comes from the file again.
func forget(data []byte) error {
	page := uintptr(os.Getpagesize())
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	skip := -begin & (page - 1)
	if uintptr(len(data)) < skip+page {
		return nil
	}
	whole := (uintptr(len(data)) - skip) / page * page
	return unix.Madvise(data[skip:skip+whole], unix.MADV_DONTNEED)
}
