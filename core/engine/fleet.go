package engine

import (
	"context"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
)

// Fleet is what engine needs of the backend processes; hosts provides it.
type Fleet interface {
	// Devices are all devices, those of dead backends included, in the backends'
	// own order.
	Devices() []route.Device
	// Device describes one of them.
	Device(ref string) (backend.Device, bool)
	// WaitReady returns when the device is healthy, or ctx's error.
	WaitReady(ctx context.Context, ref string) error
	Assess(ctx context.Context, ref, dir string) (backend.Assessment, error)
	Compile(ctx context.Context, ref string, spec backend.CompileSpec, progress func(stage string, fraction float64)) (Executable, error)
	// Died reports whether err means that the process or device of a call died
	// while it was under way, and in what words.
	Died(err error) (Death, bool)
	// Replayable reports whether err only means that the executable, or what it ran
	// on, was gone already: the same request may be made again.
	Replayable(err error) bool
}

// Death is how a backend process or its device ended.
type Death struct {
	Reason string // "signal: killed"
	Stderr string // the tail of what it said
}

// Executable is a graph compiled on one device. It lives no longer than the
// device's epoch: afterwards Run's error is Replayable.
type Executable interface {
	Memory() int64 // bytes held on the device
	// Run computes the wanted outputs. solo runs it with nothing else on the device.
	Run(ctx context.Context, inputs map[string]graph.Datum, wanted []string, solo bool) (map[string]graph.Datum, error)
	// Pass is Run for values that other executables read: they may lie in memory
	// that processes share, where another Pass takes them without a copy. They are
	// good until release.
	Pass(ctx context.Context, inputs map[string]Passed, wanted []string, solo bool) (outputs map[string]Passed, release func(), err error)
	Close() error
}

// Passed is a value on its way from one executable to the next.
type Passed struct {
	graph.Datum
	Lent any // the memory that it lies in, as the executable that made it knows it; nil: its own
}
