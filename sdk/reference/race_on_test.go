//go:build race

package reference

// raceDetector: everything takes ten times as long, so less of it is done.
const raceDetector = true
