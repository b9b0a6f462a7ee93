package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
)

func TestAssess(t *testing.T) {
	cpu, sim := device("cpu", backend.Hardware), device("simulation", backend.Simulated)
	sim.refuse = "not today"
	f := &fakeFleet{devices: []*fakeDevice{cpu, sim}}
	ask := func(preferred string, dims map[string]int64) (Assessed, error) {
		r := newTestRunner(t, f, route.Query{Preferred: preferred, Policy: route.Deny})
		e := &Engine{fleet: f, store: r.store}
		a, err := e.Assess(t.Context(), &Session{Runner: r}, dims)
		if a.Graph != nil {
			t.Cleanup(func() { a.Graph.Close() })
		}
		return a, err
	}
	a, err := ask("cpu", nil)
	if err != nil || a.Device.Device != "cpu:0" || len(a.Nodes) != len(a.Graph.Graph.Nodes) || len(a.Nodes) == 0 || !a.Nodes[0].OK {
		t.Errorf("cpu: %+v, %v", a, err)
	}
	if d := a.Graph.Graph.Inputs[0].Type.Dims[1]; d.Param != "sequence" {
		t.Errorf("without sizes the graph has the dimension %v", d)
	}
	// A refusal is an answer, and nothing is lowered for its sake.
	before := f.assessed
	if a, err = ask("simulation", map[string]int64{"batch": 2, "sequence": 3}); err != nil || a.Nodes[0].OK || a.Nodes[0].Reason != "not today" || f.assessed != before+1 {
		t.Errorf("simulation: %+v, %v, assessed %d times", a, err, f.assessed-before)
	}
	if d := a.Graph.Graph.Inputs[0].Type.Dims[1]; d.Size != 3 {
		t.Errorf("with sizes the graph has the dimension %v", d)
	}
	var none *NoPlatformError
	if _, err := ask("cuda", nil); !errors.As(err, &none) {
		t.Errorf("cuda: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := newTestRunner(t, f, route.Query{Preferred: "cpu", Policy: route.Deny})
	if _, err := (&Engine{fleet: f, store: r.store}).Assess(ctx, &Session{Runner: r}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
