package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
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

// Placement is a graph on a device, or a piece of one that was split.
type Placement struct {
	Device string `json:"device"`
	For    string `json:"for,omitempty"`    // the device that the graph was split for; empty: it is whole
	Piece  int    `json:"piece,omitempty"`  // from 1, in the order they run
	Shapes string `json:"shapes,omitempty"` // fixed sizes; empty: any
	Nodes  int    `json:"nodes"`
	FLOPs  int64  `json:"flops,omitempty"` // of a piece, at the sizes it was split at
	// Simplified says what was done to the whole graph, whatever the device.
	Simplified []lower.Simplification `json:"simplified,omitempty"`
	Rewrites   []lower.Rewrite        `json:"rewrites,omitempty"`
	Memory     int64                  `json:"memory"`          // bytes on the device, or its estimate where nothing was compiled
	Dir        string                 `json:"dir"`             // of the lowered graph
	Table      []lower.Node           `json:"table,omitempty"` // the nodes themselves
}

// Explain runs a short text through a model, so that what it says is true. A graph
// without a task, for which nobody knows inputs, is lowered as a run would, and neither
// compiled nor run.
func (e *Engine) Explain(ctx context.Context, name string) (Explanation, error) {
	m, err := e.model(ctx, name)
	var none *noTaskError
	if errors.As(err, &none) {
		return e.explainGraph(ctx, m)
	}
	if err != nil {
		return Explanation{}, err
	}
	decision, err := m.try(ctx)
	if err != nil {
		return Explanation{}, err
	}
	cm := m.session.Model
	x := Explanation{ModelInfo: m.info(), ModelType: cm.ModelType, Notes: cm.Notes, Unused: cm.Unused, Decision: decision}
	if m.completer != nil {
		x.Placements, x.CostTokens = m.executor.Placements(), 1
		if err := x.weigh(m.session.Source.Graph); err != nil {
			return Explanation{}, err
		}
		x.Cost, err = m.session.cost(cm.Decoder.StepSizes(1))
		return x, err
	}
	x.Placements = m.session.Placements()
	if err := x.weigh(m.session.Source.Graph); err != nil {
		return Explanation{}, err
	}
	if cm.Embedding == nil {
		return x, nil
	}
	x.Normalized, x.CostTokens = cm.Embedding.Normalize, m.embedder.MaxTokens
	for _, p := range cm.Embedding.Pooling {
		x.Pooling = append(x.Pooling, string(p))
	}
	ids, err := tensor.New(tensor.Int64, tensor.Shape{1, int64(x.CostTokens)})
	if err != nil {
		return Explanation{}, err
	}
	x.Cost, err = m.session.Cost(map[string]graph.Datum{"input_ids": graph.TensorDatum(ids)})
	return x, err
}

// weigh counts the weights of a graph.
func (x *Explanation) weigh(g *graph.Graph) error {
	for _, in := range g.Initializers {
		n, err := in.Tensor.Shape.Elements()
		if err != nil {
			return err
		}
		switch {
		case in.External != nil:
			x.WeightBytes += in.External.Length
		case x.ModelType == "" && in.Tensor.DType != tensor.String:
			x.WeightBytes += int64(len(in.Tensor.Data)) // a model without files of weights holds them itself
		default:
			continue // a constant of the graph's making
		}
		x.Parameters += n
	}
	return nil
}

// explainGraph plans a graph at the sizes that it says, and 1 where it says none.
func (e *Engine) explainGraph(ctx context.Context, m *model) (Explanation, error) {
	s, err := e.Open(m.config.Path, SessionOptions{Name: m.name, Component: models.Full, Preferred: m.config.Platform, Policy: m.policy(e), Split: e.split()})
	if err != nil {
		return Explanation{}, err
	}
	defer s.Close()
	x := Explanation{ModelInfo: m.info()}
	x.Class = s.Class
	if err := x.weigh(s.Source.Graph); err != nil {
		return Explanation{}, err
	}
	sizes := dims{}
	for _, name := range lower.Symbols(s.Source.Graph) {
		sizes[name] = 1
		x.Notes = append(x.Notes, "dimension "+name+" is open: what is said holds for 1")
	}
	if x.Cost, err = s.cost(sizes); err != nil {
		return Explanation{}, err
	}
	x.Decision, x.Placements, err = s.plan(ctx, sizes)
	return x, err
}

// plan finds where a run would go, and lowers the graph for it.
func (r *Runner) plan(ctx context.Context, asked dims) (route.Decision, []Placement, error) {
	var d route.Decision
	excluded := map[string]route.Refusal{}
	for {
		dev, err := r.choose(&d, excluded)
		if err != nil {
			return d, nil, err
		}
		info, _ := r.fleet.Device(dev.Ref)
		p := &placement{key: placeKey{device: dev.Ref}}
		var fixed dims
		if info.StaticShapes {
			fixed = r.padded(asked)
			p.key.dims = fixed.key()
		}
		if p.pieces, err = r.lower(ctx, dev, fixed, asked); err != nil {
			if err := ctx.Err(); err != nil {
				return d, nil, err
			}
			refusal, next := refusalOf(dev, err)
			if !next {
				return d, nil, err
			}
			excluded[dev.Ref] = refusal
			continue
		}
		d.Chosen, d.Pieces = p.decision(dev)
		placements := p.describe()
		for _, x := range p.pieces {
			r.freePiece(x)
		}
		return d, placements, nil
	}
}

// describe lists a placement's pieces.
func (p *placement) describe() []Placement {
	var out []Placement
	for i, x := range p.pieces {
		at := Placement{Device: x.device.Ref, Shapes: p.key.dims, Nodes: len(x.Nodes), FLOPs: x.FLOPs, Simplified: x.Simplified, Rewrites: x.Rewrites,
			Memory: x.MemoryEstimate, Dir: x.Dir, Table: x.Nodes}
		if len(p.pieces) > 1 {
			at.For, at.Piece = p.key.device, i+1
		}
		if x.exe != nil {
			at.Memory = x.exe.Memory()
		}
		out = append(out, at)
	}
	return out
}

// Placements lists where the graph is now.
func (r *Runner) Placements() []Placement {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Placement
	for _, p := range r.placed {
		select {
		case <-p.ready:
			out = append(out, p.describe()...)
		default:
		}
	}
	slices.SortStableFunc(out, func(a, b Placement) int {
		return cmp.Or(cmp.Compare(cmp.Or(a.For, a.Device), cmp.Or(b.For, b.Device)), cmp.Compare(a.Shapes, b.Shapes), cmp.Compare(a.Piece, b.Piece))
	})
	return out
}
