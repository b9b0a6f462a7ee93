//go:build race

package kernels

// The race detector slows the plain loops of the tests down tenfold; it has nothing to find in
// them, nor in the library.
const (
	raceEnabled = true
	thin        = 8 // of so many cases of a long list, one is run
)
