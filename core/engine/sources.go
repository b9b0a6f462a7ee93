package engine

import (
	"context"
	"fmt"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// crossPools are where sources' keys and values lie, beside a decoder's own pools, and
// Prepare, which writes them.
type crossPools struct {
	pages  int64
	pools  []Pool              // as models.Cross.Pools
	placed map[string]*graphOn // Prepare, by padded sizes; dynamic shapes: by none
}

// Encode is schedule.Executor's.
func (x *decoder) Encode(ctx context.Context, e *schedule.Encoding) error {
	x.letGo()
	x.touch()
	defer x.touch()
	return x.outcome(x.encode(ctx, e))
}

func (x *decoder) encode(ctx context.Context, e *schedule.Encoding) error {
	g := x.prepare.Graph()
	values := make(map[string]graph.Datum, len(e.Inputs)+1)
	var sources []*graph.Value
	for _, v := range g.Inputs {
		if t, ok := e.Inputs[v.Name]; ok {
			values[v.Name] = graph.TensorDatum(t)
			sources = append(sources, v)
		}
	}
	if len(sources) != len(x.model.Cross.Inputs) {
		return fmt.Errorf("a source has %d of the %d inputs of the encoder", len(sources), len(x.model.Cross.Inputs))
	}
	asked, err := bind(&graph.Graph{Inputs: sources}, values)
	if err != nil {
		return err
	}
	f := fit{asked: asked, padded: asked, source: &graph.Graph{Inputs: sources}}
	slots := e.Slots
	if x.static {
		f.padded = x.prepare.padded(asked)
		if n, ok := f.padded[models.Sequence]; ok { // a row a token
			slots = extend(append([]int64(nil), slots...), n)
		}
		if values, err = f.inputs(values); err != nil {
			return err
		}
	}
	values[models.Slots] = graph.TensorDatum(tensor.Ints(tensor.Shape{int64(len(slots))}, slots...))
	on, err := x.prepared(ctx, f.padded, int64(len(slots)), values)
	if err != nil {
		return err
	}
	var inputs []Named
	for _, v := range on.pieces[0].Graph.Graph.Inputs {
		given, ok := values[v.Name]
		if !ok {
			continue // a pool
		}
		t, err := convert(given.Tensor, v.Type.Elem)
		if err != nil {
			return fmt.Errorf("input %s: %w", v.Name, err)
		}
		inputs = append(inputs, Named{v.Name, t})
	}
	_, release, err := on.pieces[0].exe.Advance(ctx, inputs, x.cross.pools, "", e.Alone)
	if err != nil {
		return err
	}
	release()
	return nil
}

// prepared is Prepare compiled for these sizes, or for any where the device takes symbolic ones.
func (x *decoder) prepared(ctx context.Context, padded dims, rows int64, values map[string]graph.Datum) (*graphOn, error) {
	var fixed dims
	pages := int64(2)
	if x.static {
		fixed, pages = dims{models.SourceRows: rows, models.CrossPages: x.cross.pages, models.PageSize: x.o.PageSize}, x.cross.pages
		for name, n := range padded {
			fixed[name] = n
		}
	}
	key := fixed.key()
	if g := x.cross.placed[key]; g != nil {
		return g, nil
	}
	smoke := map[string]graph.Datum{}
	for name, v := range values {
		smoke[name] = v
	}
	smoke[models.Slots] = graph.TensorDatum(tensor.Ints(tensor.Shape{rows}, make([]int64, rows)...))
	if err := x.empty(smoke, x.model.Cross.Pools, pages); err != nil {
		return nil, err
	}
	if len(x.cross.placed) > 0 {
		x.spare(x.prepare)
	}
	g, err := x.bring(ctx, x.prepare, fixed, smoke)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	x.cross.placed[key] = g
	x.mu.Unlock()
	return g, x.resize()
}
