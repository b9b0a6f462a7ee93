package main

import (
	"testing"

	"github.com/accelhq/accel/sdk/backendtest"
)

// TestConformance runs the suite against a process of this backend, on every
// device of the table and on one that the settings add.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the backend and starts processes")
	}
	backendtest.Run(t, backendtest.Target{
		Command:  []string{backendtest.Build(t, ".")},
		Settings: `{"devices":[{"name":"tiny","memory_bytes":67108864,"denied_operators":["Softmax"]}]}`,
	})
}
