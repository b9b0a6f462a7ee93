package engine

import (
	"context"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
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
	// Alloc makes a buffer of so many bytes on a device, zeroed.
	Alloc(ctx context.Context, ref string, bytes int64) (Buffer, error)
	// Copy copies ranges within a device, in order; the two of a pair are of one size.
	Copy(ctx context.Context, ref string, pairs [][2]Range) error
	// Read brings ranges of buffers to this process, one after another.
	Read(ctx context.Context, ref string, ranges []Range) ([]byte, error)
	// Write is the opposite of Read.
	Write(ctx context.Context, ref string, ranges []Range, data []byte) error
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
	// Advance is Run for one wanted tensor, or none, with inputs that lie in buffers and are
	// updated there. The result is good until release.
	Advance(ctx context.Context, inputs []Named, pools []Pool, wanted string, solo bool) (result tensor.Tensor, release func(), err error)
	Close() error
}

// Buffer is memory on a device. It lives no longer than the device's epoch.
type Buffer interface{ Close() error }

// Range is a part of a buffer.
type Range struct {
	Buffer        Buffer
	Offset, Bytes int64
}

// Named is a tensor under the name of an input.
type Named struct {
	Name   string
	Tensor tensor.Tensor
}

// Pool is an input in a buffer, from its beginning on, that an output of the same type
// takes the place of; without Output it is only read.
type Pool struct {
	Input, Output string
	DType         tensor.DType
	Shape         tensor.Shape
	Buffer        Buffer
}

// Passed is a value on its way from one executable to the next.
type Passed struct {
	graph.Datum
	Lent any // the memory that it lies in, as the executable that made it knows it; nil: its own
}
