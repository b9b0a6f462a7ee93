// Package cpu carries the native kernels of the CPU backend inside Go programs.
package cpu

import "embed"

// Libraries holds lib/<goos>_<goarch>/<library file> for each platform that was
// built before this program was; none is there in a tree where nothing was.
//
//go:embed lib
var Libraries embed.FS
