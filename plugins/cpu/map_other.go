//go:build !unix

package main

import (
	"fmt"
	"os"
)

// mapFile reads the file: processes do not share packed weights here.
func mapFile(path string, size int64) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("it has %d bytes, wants %d", len(data), size)
	}
	return data, nil
}

func unmap([]byte) error { return nil }

// expect does nothing: files are read when they are read.
func expect([]byte) error { return nil }

// forget does nothing: the system takes back clean pages when it needs them.
func forget([]byte) error { return nil }
