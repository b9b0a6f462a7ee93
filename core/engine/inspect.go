package engine

import (
	"context"
	"errors"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
)

// Assessed is what a device says of a graph as it stands, before anything is done
// to it for the device's sake.
type Assessed struct {
	Device         route.Choice
	Graph          *graph.Model // whose nodes were assessed, types inferred; Close it
	Nodes          []backend.Verdict
	MemoryEstimate int64 // bytes; 0: unknown
}

// errAssessed ends a lowering once the device has spoken.
var errAssessed = errors.New("assessed")

// Assess asks the first device of the session's route what it says of each node.
// dims gives sizes to symbolic dimensions. Nothing is compiled.
func (e *Engine) Assess(ctx context.Context, s *Session, dims map[string]int64) (Assessed, error) {
	usable, decision, err := route.Plan(s.Runner.query, e.fleet.Devices())
	if err != nil {
		return Assessed{}, err
	}
	if len(usable) == 0 {
		return Assessed{}, &NoPlatformError{Decision: decision}
	}
	dev := usable[0]
	out := Assessed{Device: route.Choice{Platform: dev.Platform, Device: dev.Ref, Kind: dev.Kind}}
	var failed error
	target := lower.Target{Device: dev.Ref, Assess: func(ctx context.Context, dir string) (backend.Assessment, error) {
		a, err := e.fleet.Assess(ctx, dev.Ref, dir)
		if err == nil {
			out.Nodes, out.MemoryEstimate = a.Nodes, a.MemoryEstimate
			out.Graph, err = graph.Load(dir)
		}
		failed = err
		return a, errAssessed
	}}
	if _, err := e.store.Lower(ctx, s.Runner.source, target, dims); !errors.Is(err, errAssessed) {
		return out, err
	}
	return out, failed
}

// OnProgress has f told how the bringing of the graph onto its device goes on. It
// is called before the first run.
func (s *Session) OnProgress(f func(stage string, fraction float64)) { s.Runner.progress = f }
