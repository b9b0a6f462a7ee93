package engine

import (
	"cmp"
	"context"
	"slices"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/tensor"
)

// Explanation says where a model runs, why there, and what was done to it.
type Explanation struct {
	ModelInfo
	ModelType   string         `json:"model_type"`
	Pooling     []string       `json:"pooling,omitempty"`
	Normalized  bool           `json:"normalized"`
	Parameters  int64          `json:"parameters"`
	WeightBytes int64          `json:"weight_bytes"`
	Cost        Cost           `json:"cost"` // of one input of CostTokens
	CostTokens  int            `json:"cost_tokens"`
	Notes       []string       `json:"notes,omitempty"`
	Unused      []string       `json:"unused,omitempty"` // tensors of the checkpoint that the graph does not read
	Decision    route.Decision `json:"decision"`
	Placements  []Placement    `json:"placements"`
}

// Placement is a graph on a device.
type Placement struct {
	Device   string          `json:"device"`
	Shapes   string          `json:"shapes,omitempty"` // fixed sizes; empty: any
	Nodes    int             `json:"nodes"`
	Rewrites []lower.Rewrite `json:"rewrites,omitempty"`
	Memory   int64           `json:"memory"` // bytes on the device
	Dir      string          `json:"dir"`    // of the lowered graph
}

// Explain runs a short text through a model, so that what it says is true.
func (e *Engine) Explain(ctx context.Context, name string) (Explanation, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return Explanation{}, err
	}
	res, err := m.embed(ctx, tasks.EmbedRequest{Texts: []string{"ready"}})
	if err != nil {
		return Explanation{}, err
	}
	cm := m.session.Model
	x := Explanation{ModelInfo: m.info(), ModelType: cm.ModelType, Normalized: cm.Embedding.Normalize, Notes: cm.Notes, Unused: cm.Unused,
		Decision: res.Decision, Placements: m.session.Placements(), CostTokens: m.embedder.MaxTokens}
	for _, p := range cm.Embedding.Pooling {
		x.Pooling = append(x.Pooling, string(p))
	}
	for _, in := range m.session.Source.Graph.Initializers {
		if in.External == nil {
			continue // a constant of the graph's making
		}
		n, err := in.Tensor.Shape.Elements()
		if err != nil {
			return Explanation{}, err
		}
		x.Parameters += n
		x.WeightBytes += in.External.Length
	}
	ids, err := tensor.New(tensor.Int64, tensor.Shape{1, int64(x.CostTokens)})
	if err != nil {
		return Explanation{}, err
	}
	x.Cost, err = m.session.Cost(map[string]tensor.Tensor{"input_ids": ids})
	return x, err
}

// Placements lists where the graph is now.
func (r *Runner) Placements() []Placement {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Placement
	for _, p := range r.placed {
		select {
		case <-p.ready:
		default:
			continue
		}
		if p.err != nil {
			continue
		}
		out = append(out, Placement{Device: p.key.device, Shapes: p.key.dims, Nodes: len(p.lowered.Graph.Graph.Nodes),
			Rewrites: p.lowered.Rewrites, Memory: p.exe.Memory(), Dir: p.lowered.Dir})
	}
	slices.SortFunc(out, func(a, b Placement) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Shapes, b.Shapes))
	})
	return out
}
