package main

import (
	"testing"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backendtest"
)

// TestConformance runs the suite against a process of this backend, once on every
// instruction set of this machine.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the backend and starts processes")
	}
	lib, err := kernels.Open("")
	if err != nil {
		t.Fatal(err)
	}
	program := backendtest.Build(t, ".")
	for _, isa := range lib.ISAs() {
		t.Run(isa.Name, func(t *testing.T) {
			if !isa.Supported {
				t.Skip("this machine does not have it")
			}
			backendtest.Run(t, backendtest.Target{Command: []string{program}, Env: []string{kernels.EnvISA + "=" + isa.Name}, Settings: `{"threads":2}`})
		})
	}
}
