// Command accel-backend-reference runs graphs in plain Go (sdk/reference): slow,
// right, on every machine. Its devices pretend to be easy or difficult ones, so
// that what the core does for difficult hardware is tested without any.
package main

import "github.com/accelhq/accel/sdk/backend"

// version is set by the build.
var version = "unversioned"

func main() {
	backend.Serve(newSimulation())
}
