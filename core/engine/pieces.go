package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// piece is a graph on one device: a whole one, or a part of one that was split.
type piece struct {
	*lower.Piece
	device route.Device
	exe    Executable
}

// pieceError says on which device something went wrong, and whether that was while
// a graph was brought onto it.
type pieceError struct {
	device    route.Device
	compiling bool
	err       error
}

func (e *pieceError) Error() string { return e.err.Error() }
func (e *pieceError) Unwrap() error { return e.err }

// lower makes the folders of a graph for a device: one, or where the device takes
// only part of it and the query lets it be split, several.
func (r *Runner) lower(ctx context.Context, dev route.Device, fixed, asked dims) ([]piece, error) {
	q := r.query
	q.Excluded = r.restingDevices()
	second, splits := route.Rest(q, dev, r.fleet.Devices())
	var parts []*lower.Piece
	var err error
	if splits {
		worth := lower.WorthDefault
		if q.Split == route.SplitForce {
			worth = lower.WorthAnything
		}
		parts, err = r.store.Split(ctx, r.source, r.target(dev), r.target(second), fixed, asked, worth)
	} else {
		var whole *lower.Piece
		if whole, err = r.store.Whole(ctx, r.source, r.target(dev), fixed); err == nil {
			parts = []*lower.Piece{whole}
		}
	}
	if err != nil {
		var at *pieceError
		if !errors.As(err, &at) {
			err = &pieceError{device: dev, compiling: true, err: err}
		}
		return nil, err
	}
	var out []piece
	for _, p := range parts {
		x := piece{Piece: p, device: dev}
		if p.Rest {
			x.device = second
		}
		out = append(out, x)
	}
	return out, nil
}

// target is a device as lowering sees it. One that restarts is waited for when it
// is asked.
func (r *Runner) target(dev route.Device) lower.Target {
	info, _ := r.fleet.Device(dev.Ref) // a device that is gone is asked in vain
	return lower.Target{Device: dev.Ref, Attention: info.Attention, Assess: func(ctx context.Context, dir string) (backend.Assessment, error) {
		if now, _ := r.presence(dev.Ref); now.Presence == route.Returning {
			if _, err := r.await(ctx, dev); err != nil {
				return backend.Assessment{}, err
			}
		}
		a, err := r.fleet.Assess(ctx, dev.Ref, dir)
		if err != nil {
			err = &pieceError{device: dev, compiling: true, err: err}
		}
		return a, err
	}}
}

// compile brings pieces onto their devices. Their smoke runs are on zeros, in the
// sizes of the request at hand, for sizes of one's own choosing may contradict each
// other. Where sizes follow from values, zeros may contradict each other as well: a
// graph that fails on them is judged by the request's own values. These do not
// come first, for a request that kills its backend should not do so in Compile.
func (r *Runner) compile(ctx context.Context, pieces []piece, f fit, inputs map[string]graph.Datum) error {
	var values map[string]graph.Datum // that the pieces before have computed, once one needs them
	for i := range pieces {
		x := &pieces[i]
		spec := backend.CompileSpec{Dir: x.Dir, MemoryBudget: r.keeper.budget, SmokeDims: f.asked}
		var err error
		x.exe, err = r.fleet.Compile(ctx, x.device.Ref, spec, r.progress)
		if r.contradicted(err) {
			if values, err = smokeValues(ctx, pieces[:i], values, f, inputs); err == nil {
				if spec.SmokeInputs, err = feed(x.Graph.Graph, values); err == nil {
					x.exe, err = r.fleet.Compile(ctx, x.device.Ref, spec, r.progress)
				}
			}
		}
		if err != nil {
			return &pieceError{device: x.device, compiling: true, err: err}
		}
	}
	return nil
}

// contradicted reports whether a smoke run on zeros may have failed for want of
// values that make sense.
func (r *Runner) contradicted(err error) bool {
	var e *backend.Error
	if _, died := r.fleet.Died(err); died || r.fleet.Replayable(err) || !errors.As(err, &e) {
		return false
	}
	return e.Code == backend.CodeInvalid || e.Code == backend.CodeInternal
}

// smokeValues are a request's inputs with all that the pieces compute from them.
func smokeValues(ctx context.Context, pieces []piece, values map[string]graph.Datum, f fit, inputs map[string]graph.Datum) (map[string]graph.Datum, error) {
	if values == nil {
		var err error
		if values, err = f.inputs(inputs); err != nil {
			return nil, &backend.Error{Code: backend.CodeInvalid, Argument: "inputs", Message: err.Error()}
		}
	}
	for _, x := range pieces {
		if len(x.Graph.Graph.Outputs) == 0 {
			continue
		}
		if _, known := values[x.Graph.Graph.Outputs[0].Name]; known {
			continue
		}
		if err := x.run(ctx, values, nil, false); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// run computes outputs (nil: all) of a piece from values, and adds them to these.
func (x *piece) run(ctx context.Context, values map[string]graph.Datum, wanted []string, solo bool) error {
	if wanted == nil {
		for _, v := range x.Graph.Graph.Outputs {
			wanted = append(wanted, v.Name)
		}
	}
	in, err := feed(x.Graph.Graph, values)
	if err != nil {
		return &backend.Error{Code: backend.CodeInvalid, Argument: "inputs", Message: err.Error()}
	}
	out, err := x.exe.Run(ctx, in, wanted, solo)
	if err != nil {
		return &pieceError{device: x.device, err: err}
	}
	maps.Copy(values, out)
	return nil
}

// pass is run with values that may be lent, and adds the outputs to these.
func (x *piece) pass(ctx context.Context, values map[string]Passed, wanted []string, solo bool) (release func(), err error) {
	in := make(map[string]Passed, len(x.Graph.Graph.Inputs))
	for _, v := range x.Graph.Graph.Inputs {
		from, ok := values[v.Name]
		if !ok {
			return nil, backend.Internal("value %s was not computed", v.Name)
		}
		in[v.Name] = from
		if from.Kind != graph.KindTensor || v.Type == nil || v.Type.Elem == from.Tensor.DType {
			continue
		}
		t, err := convert(from.Tensor, v.Type.Elem)
		if err != nil {
			return nil, &backend.Error{Code: backend.CodeInvalid, Argument: v.Name, Message: fmt.Sprintf("value %s: %v", v.Name, err)}
		}
		in[v.Name] = Passed{Datum: graph.TensorDatum(t)}
	}
	out, release, err := x.exe.Pass(ctx, in, wanted, solo)
	if err != nil {
		return nil, &pieceError{device: x.device, err: err}
	}
	maps.Copy(values, out)
	return release, nil
}

// runPieces computes the wanted values. Of several pieces those of which nothing is
// needed are left out, and what passes between them is let go of after its last
// reader.
func runPieces(ctx context.Context, pieces []piece, in map[string]graph.Datum, wanted []string, solo bool) (map[string]graph.Datum, error) {
	if len(pieces) == 1 {
		if err := pieces[0].run(ctx, in, wanted, solo); err != nil {
			return nil, err
		}
		return pick(in, wanted)
	}
	needed := make(map[string]bool, len(wanted))
	for _, name := range wanted {
		needed[name] = true
	}
	take := make([][]string, len(pieces)) // outputs by piece
	until := make([]int, len(pieces))     // the last reader of a piece's outputs
	last := map[string]int{}              // value -> its last reader
	for _, name := range wanted {
		last[name] = len(pieces)
	}
	for i := len(pieces) - 1; i >= 0; i-- {
		g := pieces[i].Graph.Graph
		for _, v := range g.Outputs {
			if needed[v.Name] && !slices.Contains(take[i], v.Name) {
				take[i] = append(take[i], v.Name)
				until[i] = max(until[i], last[v.Name])
			}
		}
		if take[i] == nil {
			continue
		}
		for _, v := range g.Inputs {
			needed[v.Name] = true
			last[v.Name] = max(last[v.Name], i)
		}
	}
	values := make(map[string]Passed, len(in))
	for name, v := range in {
		values[name] = Passed{Datum: v}
	}
	lent := map[int]func(){} // by piece
	defer func() {
		for _, release := range lent {
			release()
		}
	}()
	for i := range pieces {
		if take[i] == nil {
			continue
		}
		release, err := pieces[i].pass(ctx, values, take[i], solo)
		if err != nil {
			return nil, err
		}
		lent[i] = release
		for k, release := range lent {
			if until[k] <= i {
				release()
				delete(lent, k)
			}
		}
	}
	out := make(map[string]graph.Datum, len(wanted))
	for _, name := range wanted {
		v, ok := values[name]
		if !ok {
			continue // pick says so
		}
		out[name] = v.Datum
		if v.Lent != nil {
			c, err := tensor.New(v.Tensor.DType, v.Tensor.Shape)
			if err != nil {
				return nil, err
			}
			copy(c.Data, v.Tensor.Data)
			out[name] = graph.TensorDatum(c)
		}
	}
	return pick(out, wanted)
}

// pick takes the wanted values.
func pick(values map[string]graph.Datum, wanted []string) (map[string]graph.Datum, error) {
	out := make(map[string]graph.Datum, len(wanted))
	for _, name := range wanted {
		v, ok := values[name]
		if !ok {
			return nil, backend.Invalid(name, "the graph has no output %q", name)
		}
		out[name] = v
	}
	return out, nil
}

// decision says which device answered, and what each computed if several did.
func (p *placement) decision(dev route.Device) (route.Choice, []route.Piece) {
	chosen := route.Choice{Platform: dev.Platform, Device: dev.Ref, Kind: dev.Kind}
	if len(p.pieces) == 1 {
		return chosen, nil
	}
	var pieces []route.Piece
	for _, x := range p.pieces {
		c := route.Piece{Choice: route.Choice{Platform: x.device.Platform, Device: x.device.Ref, Kind: x.device.Kind}, Nodes: len(x.Nodes), FLOPs: x.FLOPs}
		if x.Rest {
			for _, n := range x.Nodes {
				if n.Why != "" {
					c.Why = fmt.Sprintf("%s (%s): %s", n.Name, n.OpType, n.Why)
					break
				}
			}
		}
		if realness[x.device.Kind] < realness[chosen.Kind] {
			chosen.Kind = x.device.Kind
		}
		pieces = append(pieces, c)
	}
	return chosen, pieces
}

// realness orders kinds: what one simulated device took part in is simulated.
var realness = map[backend.Kind]int{backend.Simulated: 0, backend.Emulated: 1, backend.Hardware: 2}

func (r *Runner) freePiece(x piece) {
	if x.exe != nil {
		if err := x.exe.Close(); err != nil {
			r.log.Debug("an executable could not be released", "device", x.device.Ref, "error", err)
		}
	}
	if err := x.Release(); err != nil {
		r.log.Warn("a lowered folder could not be released", "dir", x.Dir, "error", err)
	}
}
