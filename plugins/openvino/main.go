// Command accel-backend-openvino runs graphs on Intel's processors, graphics and NPUs
// through OpenVINO, which it finds on the machine and opens without cgo.
package main

import (
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/vendorlib"
)

// version is set by the build.
var version = "unversioned"

func main() {
	vendorlib.Answer((&child{}).answer)
	backend.Serve(newOpenVINO())
}
