// Package backend is what a backend author implements and serves. A backend is a
// process: its main calls Serve with a value of type Backend, and the SDK does
// the rest (handshake, protocol, ids and epochs, shared memory, ordering,
// cancellation, smoke runs).
package backend

import (
	"context"
	"encoding/json"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Backend drives one vendor runtime. Calls may come from several goroutines.
// Errors that the core should act upon are of type *Error; any other error is
// reported as the backend's own fault (CodeInternal). A panic is reported so too,
// and the process goes on. CodeDeviceLost, from any call, ends the device's epoch:
// all that was made on it is closed.
type Backend interface {
	// Describe says what the backend is and which vendor libraries it found. It
	// opens no device.
	Describe(ctx context.Context) (Info, error)
	// Configure receives the settings, a JSON object that the schema in Info
	// accepts, at most once and before any device is used.
	Configure(ctx context.Context, settings json.RawMessage) (warnings []string, err error)
	// Watch calls update with all devices, at once and after each change, until
	// ctx ends. To return nil earlier says that nothing will change any more. The
	// epoch of a device is the SDK's: a device that was reported unhealthy and comes
	// back healthy begins a new one. Only healthy devices are used.
	Watch(ctx context.Context, update func([]Device)) error
	// Assess says for each node of the main graph whether the device takes it.
	// dir holds model.onnx and its external data. Nothing is allocated.
	Assess(ctx context.Context, device, dir string) (Assessment, error)
	// Compile makes an executable of the graph in dir. The folder stays until the
	// executable is closed, so weights may be mapped from it.
	// The SDK then runs it once on zeros; it need not. progress may be called until
	// that run has ended, and does nothing later.
	Compile(ctx context.Context, spec CompileSpec, progress func(stage string, fraction float64)) (Executable, error)
	// Alloc makes a zeroed buffer of so many bytes on the device.
	Alloc(ctx context.Context, device string, bytes int64) (Buffer, error)
	// Close gives everything back; the process ends after it.
	Close() error
}

// Executable is a compiled graph. Run is called by one goroutine at a time, Close
// once and after the last Run has returned.
type Executable interface {
	// Info describes the executable; it does not change. Inputs and outputs are dense
	// tensors, inputs of known rank; tensors of strings, sequences and optionals only
	// where the device has the features for them.
	Info() ExecutableInfo
	// Run computes the outputs that out wants. inputs stand in the order of
	// Info().Inputs and have the types and shapes that it says; tensors are aligned to
	// their elements. They may be memory that others read: Run does not write to
	// them, and keeps none after it returns. It should end soon with ctx.Err() when
	// ctx ends.
	Run(ctx context.Context, inputs []Value, out Outputs) error
	Close() error
}

// Value is an input or output in host memory, or a whole or part of a buffer of the
// same device seen as a tensor (then Tensor.Data is nil and its type and shape
// describe the buffer's content). It is a dense tensor, Tensor, unless the device
// has features that say more.
type Value struct {
	graph.Datum
	Buffer Buffer // nil for host memory
	Offset int64  // bytes into Buffer
}

// Outputs is where a run's results go. Every output that is wanted is given by
// Place, by Filled, or by Give, once. It is used by one goroutine at a time, and
// not after Run has returned.
type Outputs interface {
	// Wanted reports whether output i (as in Info().Outputs) is asked for.
	Wanted(i int) bool
	// Place returns host memory for output i, once its type and shape are known.
	// The tensor's data is not zeroed; the backend fills it before Run returns.
	// What belongs into a buffer the SDK then copies there. An error is CodeInvalid
	// where the caller gave too little room; Run returns it.
	Place(i int, d tensor.DType, s tensor.Shape) (tensor.Tensor, error)
	// Buffer returns the buffer that output i is bound to, if it is to one, for a
	// backend that writes into its own buffers without host memory between. Room
	// ends where the binding does: no more than room bytes from Offset.
	Buffer(i int) (at Value, room int64, ok bool)
	// Filled says that output i, of this type and shape, lies in its buffer.
	Filled(i int, d tensor.DType, s tensor.Shape) error
	// Give copies output i to where it belongs. What is no dense tensor (a tensor of
	// strings, a sequence, an optional) is given in this way only.
	Give(i int, v graph.Datum) error
}

// Buffer is memory on a device, zeroed when made. Calls that touch one buffer come
// one after another.
type Buffer interface {
	Size() int64
	ReadAt(p []byte, offset int64) (int, error)
	WriteAt(p []byte, offset int64) (int, error)
	Close() error
}

// Info describes a backend.
type Info struct {
	Name         string
	Version      string
	Libraries    []Library
	ConfigSchema string // JSON Schema of the settings; empty: takes none
}

// Library is a vendor library that was looked for.
type Library struct {
	Name    string `json:"name"`
	Found   bool   `json:"found"`
	Path    string `json:"path,omitempty"`
	Version string `json:"version,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Remedy  string `json:"remedy,omitempty"`
}

// Kind says what stands behind a device; it goes with every result.
type Kind string

// Kinds of device.
const (
	Hardware  Kind = "hardware"
	Emulated  Kind = "emulated"
	Simulated Kind = "simulated"
)

// Health of a device.
type Health string

// States of health. Unhealthy and undetected devices have a reason.
const (
	Healthy    Health = "healthy"
	Unhealthy  Health = "unhealthy"
	Undetected Health = "undetected"
)

// AttentionWay is how a device runs ai.accel.PagedAttention.
type AttentionWay string

// Ways of attention, see docs/architecture.md.
const (
	AttentionFused AttentionWay = "fused"
	AttentionRows  AttentionWay = "rows"
	AttentionBody  AttentionWay = "body"
)

// Device is one device of a platform.
type Device struct {
	ID             string // stable within the backend
	Platform       string // cpu, cuda, ..., simulation
	Name           string
	Kind           Kind
	Health         Health
	Reason         string
	Remedy         string
	MemoryTotal    int64 // bytes; 0: unknown
	MemoryFree     int64
	ElementTypes   []tensor.DType
	Features       []string // words for people, and those that the core acts upon (FeatureStrings)
	Attention      AttentionWay
	RuntimeVersion string // part of cache keys
	StaticShapes   bool   // takes no symbolic dimension
	Epoch          uint64 // set by the SDK
}

// Refusal is why a device does not take a node, as far as the core can act on it.
type Refusal string

// Refusals.
const (
	RefusedOperator     Refusal = "operator"
	RefusedElementType  Refusal = "element_type"
	RefusedDynamicShape Refusal = "dynamic_shape"
	RefusedFunction     Refusal = "function"
	RefusedAttribute    Refusal = "attribute"
	RefusedSize         Refusal = "size"
)

// Verdict on one node. The zero value refuses; use Accept.
type Verdict struct {
	OK      bool
	Refusal Refusal
	Reason  string
	// Implementation says what would compute an accepted node, in the backend's
	// words ("native", "reference"), for people. Empty: not said.
	Implementation string
}

// Accept is the verdict on a node that the device takes.
var Accept = Verdict{OK: true}

// AcceptAs is Accept with what would compute the node.
func AcceptAs(implementation string) Verdict {
	return Verdict{OK: true, Implementation: implementation}
}

// Refuse is the verdict on a node that it does not take.
func Refuse(why Refusal, reason string) Verdict { return Verdict{Refusal: why, Reason: reason} }

// Assessment holds one verdict a node of the main graph, in its order.
type Assessment struct {
	Nodes          []Verdict
	MemoryEstimate int64 // bytes; 0: unknown
}

// CompileSpec is what to compile and where.
type CompileSpec struct {
	Device       string
	Dir          string           // holds model.onnx and its external data
	MemoryBudget int64            // bytes; 0: the device's free memory
	SmokeDims    map[string]int64 // symbolic dimensions of the smoke run; absent ones are 1
	// SmokeInputs are what the smoke run computes on, by name; nil: zeros, empty
	// strings, sequences of nothing. The SDK runs it; a backend sees none of it.
	SmokeInputs map[string]graph.Datum
}

// ExecutableInfo describes a compiled graph.
type ExecutableInfo struct {
	Memory  int64 // bytes held, shared mappings counted once
	Inputs  []graph.Value
	Outputs []graph.Value
}
