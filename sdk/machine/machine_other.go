//go:build !linux

package machine

import "runtime"

// Processor is the architecture: the system is not asked here.
func Processor() string { return runtime.GOARCH + " processor" }

// Memory is not known here.
func Memory() (total, free int64) { return 0, 0 }
