package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/installed"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
)

// Options are what an engine needs beside its configuration.
type Options struct {
	// Beside is the folder beside the program that backends are looked for in last.
	Beside string
	Log    hclog.Logger
}

// Engine runs models. Its methods may be called from many goroutines.
type Engine struct {
	config config.Config
	log    hclog.Logger
	hosts  *hosts.Manager
	fleet  Fleet
	store  *lower.Store
	keeper *keeper
	models map[string]*model

	started context.CancelFunc
	loading sync.WaitGroup
}

// New makes an engine. Nothing runs before Start.
func New(c config.Config, o Options) (*Engine, error) {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	store, err := lower.OpenStore(c.Cache.Dir, int64(c.Cache.MaxBytes), o.Log.Named("cache"))
	if err != nil {
		return nil, err
	}
	where, err := Backends(c, o)
	if err != nil {
		return nil, err
	}
	manager, err := hosts.New(where)
	if err != nil {
		return nil, err
	}
	e := &Engine{config: c, log: o.Log.Named("engine"), hosts: manager, fleet: fleet{manager}, store: store, models: map[string]*model{}}
	e.keeper = newKeeper(int64(c.Memory.Budget), e.log)
	for name, m := range c.Models {
		e.models[name] = &model{name: name, config: m, opened: make(chan struct{})}
	}
	return e, nil
}

// Backends are the options of hosts that a configuration stands for.
func Backends(c config.Config, o Options) (hosts.Options, error) {
	known := map[string]hosts.Backend{}
	for name, b := range c.Backends {
		h := hosts.Backend{Path: b.Path, Args: b.Args, Disabled: b.Disabled, Env: map[string]string{}}
		for k, v := range b.Env {
			h.Env[k] = v.Reveal()
		}
		if len(b.Settings) > 0 {
			var err error
			if h.Settings, err = json.Marshal(b.Settings); err != nil {
				return hosts.Options{}, fmt.Errorf("backends.%s.settings: %w", name, err)
			}
		}
		known[name] = h
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	return hosts.Options{
		Backends: known, Path: c.Hosts.SearchPath, Installed: installed.Open(c.Hosts.Installed), Beside: o.Beside, Logger: o.Log.Named("hosts"),
		Timeouts: hosts.Timeouts{Start: c.Hosts.StartTimeout},
		Restart:  hosts.Restart{Base: c.Hosts.Backoff.First, Max: c.Hosts.Backoff.Max},
	}, nil
}

// Start starts the backends and then opens and places the models, in parallel and
// in the background: a model answers as soon as it is there itself. The error
// tells of backends that could not be started; the rest goes on without them.
func (e *Engine) Start(ctx context.Context) error {
	load, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.started = cancel
	err := e.hosts.Start(ctx)
	for _, m := range e.models {
		e.loading.Go(func() {
			m.err = m.open(e)
			close(m.opened)
			if m.err != nil {
				e.log.Error("a model can't be used", "model", m.name, "path", m.config.Path, "error", m.err)
				return
			}
			for _, note := range m.session.Model.Notes {
				e.log.Info(note, "model", m.name)
			}
			if err := m.place(load); err != nil && load.Err() == nil {
				e.log.Error("a model is not placed", "model", m.name, "error", err)
			}
		})
	}
	return err
}

// Close ends everything: requests in flight first, then backends.
func (e *Engine) Close(ctx context.Context) error {
	if e.started != nil {
		e.started()
	}
	e.keeper.close()
	e.loading.Wait()
	var errs []error
	for _, m := range e.models {
		if m.scheduler != nil {
			errs = append(errs, m.scheduler.Close())
		}
		if m.session != nil {
			errs = append(errs, m.session.Close())
		}
	}
	e.keeper.asked.Wait()
	return errors.Join(append(errs, e.hosts.Close(ctx))...)
}

// Memory is what models hold on each device, and how often components made room for others there.
func (e *Engine) Memory() []DeviceMemory { return e.keeper.memory() }

// model finds a model by name and waits until it is open. One that can't be used is
// returned with the error.
func (e *Engine) model(ctx context.Context, name string) (*model, error) {
	m, ok := e.models[name]
	if !ok {
		err := &ModelNotFoundError{Model: name, Known: slices.Sorted(maps.Keys(e.models))}
		if alike := checkpoint.Alike(name, err.Known, 1); len(alike) > 0 {
			err.Nearest = alike[0]
		}
		return nil, err
	}
	select {
	case <-m.opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.err != nil {
		return m, &ModelUnusableError{Model: name, Path: m.config.Path, Err: m.err}
	}
	return m, nil
}

// Embed computes one vector an input.
func (e *Engine) Embed(ctx context.Context, name string, req tasks.EmbedRequest) (tasks.EmbedResult, error) {
	m, err := e.model(ctx, name)
	if err != nil {
		return tasks.EmbedResult{}, err
	}
	res, err := m.embed(ctx, req)
	if err != nil {
		return tasks.EmbedResult{}, err
	}
	e.record(&res.Decision)
	return res, nil
}

// record logs a decision that people should hear of.
func (e *Engine) record(d *route.Decision) {
	if d.Fallback() && d.Policy == route.Warn {
		e.log.Warn("another device than the first answered", "model", d.Model, "first", d.First, "device", d.Chosen.Device,
			"kind", string(d.Chosen.Kind), "why", d.Summary())
	}
}

// Models lists the configured models by name.
func (e *Engine) Models() []ModelInfo {
	var out []ModelInfo
	for _, name := range slices.Sorted(maps.Keys(e.models)) {
		out = append(out, e.models[name].info())
	}
	return out
}

// Ready reports whether every model can be served, and on what that hangs.
func (e *Engine) Ready() (bool, []Condition) {
	ready := true
	var out []Condition
	devices := Condition{Name: "devices", Reason: "no device is healthy", Remedy: "see `accel devices`"}
	for _, d := range e.fleet.Devices() {
		if d.Presence == route.Ready {
			devices = Condition{Name: "devices", OK: true}
			break
		}
	}
	ready = ready && devices.OK
	out = append(out, devices)
	for _, m := range e.Models() {
		c := Condition{Name: "model " + m.Name, OK: m.State == ModelReady, Reason: m.Reason, Remedy: m.Remedy}
		if m.State == ModelLoading {
			c.Reason = "it is being loaded"
		}
		ready = ready && c.OK
		out = append(out, c)
	}
	return ready, out
}

// Backends lists the backend processes.
func (e *Engine) Backends() []BackendStatus {
	var out []BackendStatus
	for _, b := range e.hosts.Backends() {
		out = append(out, BackendStatus{Name: b.Name, Healthy: b.State == hosts.Healthy, Reason: b.Reason, Restarts: b.Restarts})
	}
	return out
}

// Hosts gives commands a look at the backend processes themselves.
func (e *Engine) Hosts() *hosts.Manager { return e.hosts }
