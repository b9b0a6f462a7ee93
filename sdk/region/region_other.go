//go:build unix && !linux

package region

import "os"

func create(length int64) (*Region, error) { return createNamed(length) }

func reserve(f *os.File, length int64) error { return fill(f, length) }

func isDescriptor(string) bool { return false }

func checkDescriptor(int) error { return nil }

func advise([]byte) {}
