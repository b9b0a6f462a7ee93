//go:build !linux

package main

import "runtime"

// processorName is the architecture: the system is not asked here.
func processorName() string { return runtime.GOARCH + " processor" }

// memory is not known here.
func memory() (total, free int64) { return 0, 0 }
