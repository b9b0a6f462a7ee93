// Command accel-backend-cpu runs graphs on the processor: Accel's own kernels
// (native/cpu) where there is one for a node, the reference operators elsewhere.
package main

import (
	"github.com/accelhq/accel/sdk/backend"
)

// version is set by the build.
var version = "unversioned"

func main() {
	backend.Serve(&cpu{})
}
