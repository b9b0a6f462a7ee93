//go:build race

package kernels

// raceDetector allocates by itself.
const raceDetector = true
