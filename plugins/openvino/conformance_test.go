package main

import (
	"testing"

	"github.com/accelhq/accel/sdk/backendtest"
	"github.com/accelhq/accel/sdk/testfiles"
)

// TestConformance runs the suite against a process of this backend.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the backend and starts processes")
	}
	backendtest.Run(t, backendtest.Target{
		Command:  []string{backendtest.Build(t, ".")},
		Env:      []string{envLibrary + "=" + testfiles.OpenVINO(t)},
		Settings: `{"threads":2}`,
	})
}
