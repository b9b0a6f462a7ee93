package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/quantize"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Quantize writes the model at path into a folder with weights of fewer bits. With a
// sample the engine has to be started. Errors are those of Open and of quantize.Run.
func (e *Engine) Quantize(ctx context.Context, path, dir string, o quantize.Options) (_ quantize.Report, err error) {
	if path, err = e.locate(path); err != nil {
		return quantize.Report{}, err
	}
	ck, closeCheckpoint, err := e.openCheckpoint(ctx, path)
	if err != nil {
		return quantize.Report{}, err
	}
	defer func() { err = errors.Join(err, closeCheckpoint()) }()
	if o.Sample != "" {
		var m *measurer
		if m, err = e.measurer(path); err != nil {
			return quantize.Report{}, err
		}
		defer func() { err = errors.Join(err, m.close()) }()
		o.Runtime = m
	}
	return quantize.Run(ctx, ck, dir, o)
}

// measurer is a quantize.Runtime: graphs that are run a few times, in a store of their own.
type measurer struct {
	e     *Engine
	model string
	dir   string
	lock  *flock.Flock
	store *lower.Store
}

// measurePrefix begins the names of folders in the cache that need not stay.
const measurePrefix = "measure-"

func (e *Engine) measurer(model string) (*measurer, error) {
	if err := removeStale(e.config.Cache.Dir); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(e.config.Cache.Dir, measurePrefix)
	if err != nil {
		return nil, err
	}
	m := &measurer{e: e, model: model, dir: dir, lock: flock.New(filepath.Join(dir, "lock"))}
	if got, err := m.lock.TryLock(); err != nil || !got { // another run took it for stale just then
		return nil, errors.Join(fmt.Errorf("lock %s: it is taken: try again", dir), err, m.close())
	}
	if m.store, err = lower.OpenStore(filepath.Join(dir, "graphs"), 0, e.log); err != nil {
		return nil, errors.Join(err, m.close())
	}
	return m, nil
}

// removeStale removes what runs that were killed left: folders whose lock nobody holds.
func removeStale(cache string) error {
	left, err := filepath.Glob(filepath.Join(cache, measurePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		lock := flock.New(filepath.Join(dir, "lock"))
		if got, err := lock.TryLock(); err != nil || !got {
			continue
		}
		if err := errors.Join(lock.Unlock(), os.RemoveAll(dir)); err != nil {
			return err
		}
	}
	return nil
}

func (m *measurer) close() error { return errors.Join(m.lock.Unlock(), os.RemoveAll(m.dir)) }

// Scratch is a folder for what need not stay.
func (m *measurer) Scratch() string { return m.dir }

// Open makes a graph ready to be run where the route of its class says.
func (m *measurer) Open(_ context.Context, g *graph.Model, dir, identity string) (quantize.Runnable, error) {
	id := sha256.Sum256([]byte(identity))
	q := route.Query{Model: m.model, Class: onnxClass, Policy: route.Warn, Platforms: m.e.platforms(onnxClass), RestartWait: m.e.config.Fallback.RestartWait}
	return &measured{newRunner(m.e.fleet, m.store, lower.Source{Graph: g, Dir: dir, Identity: hex.EncodeToString(id[:])}, nil, q, m.e.keeper, m.e.log)}, nil
}

// measured is a graph that is measured.
type measured struct{ r *Runner }

func (m *measured) Run(ctx context.Context, inputs map[string]tensor.Tensor, wanted []string) (map[string]tensor.Tensor, error) {
	var d route.Decision
	values, err := m.r.Run(ctx, &d, graph.TensorData(inputs), wanted)
	if err != nil {
		return nil, err
	}
	out := map[string]tensor.Tensor{}
	for name, v := range values {
		if v.Kind != graph.KindTensor {
			return nil, fmt.Errorf("output %s is no tensor", name)
		}
		out[name] = v.Tensor
	}
	return out, nil
}

func (m *measured) Close() error {
	m.r.Close()
	return nil
}
