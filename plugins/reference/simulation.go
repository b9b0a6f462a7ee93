package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
)

// simulation is the backend: the devices of the table, and those that the
// settings add.
type simulation struct {
	mu      sync.Mutex
	devices []*device
	changed chan struct{} // closed, and made anew, when the devices' memory changes
}

func newSimulation() *simulation {
	s := &simulation{changed: make(chan struct{})}
	for _, p := range profiles {
		d, err := newDevice(p)
		if err != nil {
			panic(err) // the table is tested
		}
		s.add(d)
	}
	return s
}

func (s *simulation) add(d *device) {
	d.memory.changed = s.notify
	s.devices = append(s.devices, d)
}

func (s *simulation) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *simulation) Describe(context.Context) (backend.Info, error) {
	return backend.Info{Name: "reference", Version: version, ConfigSchema: settingsSchema}, nil
}

func (s *simulation) Configure(_ context.Context, settings json.RawMessage) ([]string, error) {
	more, err := parseSettings(settings)
	if err != nil {
		return nil, backend.Invalid("settings", "%v", err)
	}
	var added []*device
	for _, p := range more {
		d, err := newDevice(p)
		if err != nil {
			return nil, backend.Invalid("settings", "%v", err)
		}
		added = append(added, d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range added {
		s.add(d)
	}
	return nil, nil
}

func (s *simulation) Watch(ctx context.Context, update func([]backend.Device)) error {
	for {
		s.mu.Lock()
		changed := s.changed
		devices := slices.Clone(s.devices)
		s.mu.Unlock()
		out := make([]backend.Device, len(devices))
		for i, d := range devices {
			out[i] = d.describe()
		}
		update(out)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (s *simulation) device(id string) (*device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.Name == id {
			return d, nil
		}
	}
	return nil, backend.Invalid("device", "there is no device %q", id)
}

// load reads the model in a graph folder and infers its types. The shapes that its
// outputs declare are believed only where nothing follows from the graph: a size
// that depends on values is not known, whatever is declared.
func load(dir string) (*graph.Model, error) {
	m, err := backend.LoadModel(dir)
	if err != nil {
		return nil, err
	}
	declared := map[*graph.Value]*graph.Type{}
	err = graph.Infer(m)
	for _, v := range m.Graph.Outputs {
		if v.Type != nil && v.Type.Kind == graph.KindTensor {
			declared[v] = v.Type
			v.Type = &graph.Type{Kind: graph.KindTensor, Elem: v.Type.Elem}
		}
	}
	if err == nil {
		err = graph.Infer(m)
	}
	if err != nil {
		_ = m.Close() // read only; the model's fault is the one to tell
		return nil, backend.Invalid("graph_dir", "%v", err)
	}
	for v, t := range declared {
		if !v.Type.HasShape {
			v.Type = t
		}
	}
	return m, nil
}

func (s *simulation) Assess(_ context.Context, id, dir string) (backend.Assessment, error) {
	d, err := s.device(id)
	if err != nil {
		return backend.Assessment{}, err
	}
	m, err := load(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	j := newJudge(d, m)
	return backend.Assessment{Nodes: j.verdicts(), MemoryEstimate: graph.FootprintOf(m).Total()}, nil
}

func (s *simulation) Compile(_ context.Context, spec backend.CompileSpec, progress func(string, float64)) (backend.Executable, error) {
	d, err := s.device(spec.Device)
	if err != nil {
		return nil, err
	}
	progress("load", 0)
	m, err := load(spec.Dir)
	if err != nil {
		return nil, err
	}
	progress("plan", 0.5)
	e, err := d.compile(m, spec)
	if err != nil {
		_ = m.Close() // read only; the refusal is the one to tell
		return nil, err
	}
	if d.Attention != backend.AttentionRows {
		return e, nil
	}
	pooled, err := backend.WithPools(e)
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return pooled, nil
}

func (d *device) compile(m *graph.Model, spec backend.CompileSpec) (*executable, error) {
	j := newJudge(d, m)
	var refused []string
	reason := ""
	for i, v := range j.verdicts() {
		if v.OK {
			continue
		}
		n := m.Graph.Nodes[i]
		name := n.Name
		if name == "" {
			name = n.Label()
		}
		refused = append(refused, name)
		if reason == "" {
			reason = v.Reason
		}
	}
	if len(refused) > 0 {
		return nil, backend.Unsupported("device "+d.Name+" refuses nodes, the first because "+reason, refused...)
	}
	holds := graph.FootprintOf(m)
	e := &executable{device: d, model: m, memory: holds.Total()}
	for _, l := range []struct {
		from []*graph.Value
		to   *[]graph.Value
	}{{m.Graph.Inputs, &e.info.Inputs}, {m.Graph.Outputs, &e.info.Outputs}} {
		for _, v := range l.from {
			if v.Type == nil {
				return nil, backend.Unsupported("the type of value " + v.Name + " of the graph's interface is not known")
			}
			*l.to = append(*l.to, graph.Value{Name: v.Name, Type: v.Type})
		}
	}
	e.info.Memory = e.memory
	// Operators need room to work in, besides what is held between them.
	room := max(d.memory.limit-holds.Weights, 1)
	var err error
	if e.program, err = reference.New(m, reference.Options{MaxBytes: room, RoundLate: true}); err != nil {
		return nil, backend.Unsupported(err.Error())
	}
	if err := d.memory.reserve("the graph", e.memory, spec.MemoryBudget); err != nil {
		return nil, err
	}
	return e, nil
}

func (s *simulation) Alloc(_ context.Context, id string, bytes int64) (backend.Buffer, error) {
	d, err := s.device(id)
	if err != nil {
		return nil, err
	}
	return newBuffer(d.memory, bytes)
}

func (s *simulation) Close() error { return nil }
