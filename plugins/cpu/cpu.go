package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/machine"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// settings are what a configuration file may say of this backend.
type settings struct {
	Threads int    `json:"threads"`
	ISA     string `json:"isa"`
	Pin     bool   `json:"pin"`
	Library string `json:"library"`
}

const settingsSchema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "threads": {"type": "integer", "minimum": 0, "description": "threads that work on one operation; 0: the physical cores"},
    "isa": {"type": "string", "description": "instruction set (baseline, avx2, avx512, avx512vnni, avx512bf16, amx, neon); empty: $ACCEL_CPU_ISA, else the best of this machine"},
    "pin": {"type": "boolean", "description": "bind each thread to a processor"},
    "library": {"type": "string", "description": "path of libaccelcpu; empty: beside the backend, else the one built in"}
  }
}`

const deviceID = "0"

// cpu is the backend: one device, the processor.
type cpu struct {
	mu       sync.Mutex
	settings settings
	library  *kernels.Library
	runner   *kernels.Runner
	failed   error // why there is no runner
	backlog  backlog
}

func (c *cpu) Describe(context.Context) (backend.Info, error) {
	info := backend.Info{Name: "cpu", Version: version, ConfigSchema: settingsSchema}
	lib := backend.Library{Name: "libaccelcpu"}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, err := kernels.Open(c.settings.Library); err != nil {
		lib.Reason, lib.Remedy = err.Error(), "run `make build`"
	} else {
		lib.Found, lib.Path, lib.Version = true, l.Path(), l.Version()
	}
	info.Libraries = append(info.Libraries, lib)
	return info, nil
}

func (c *cpu) Configure(_ context.Context, raw json.RawMessage) ([]string, error) {
	var s settings
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return nil, backend.Invalid("settings", "%v", err)
	}
	if s.Threads < 0 {
		return nil, backend.Invalid("settings", "threads is %d, wants 0 or more", s.Threads)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runner != nil {
		return nil, backend.BadState("the device is in use already")
	}
	c.settings = s
	return nil, nil
}

// ready opens the library and starts its threads, once.
func (c *cpu) ready() (*kernels.Runner, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runner != nil || c.failed != nil {
		return c.runner, c.failed
	}
	c.library, c.failed = kernels.Open(c.settings.Library)
	if c.failed == nil {
		c.runner, c.failed = c.library.NewRunner(kernels.Config{ISA: c.settings.ISA, Threads: c.settings.Threads, Pin: c.settings.Pin})
	}
	return c.runner, c.failed
}

func (c *cpu) Watch(ctx context.Context, update func([]backend.Device)) error {
	d := backend.Device{ID: deviceID, Platform: "cpu", Name: machine.Processor(), Kind: backend.Hardware, Health: backend.Healthy,
		Attention: backend.AttentionFused}
	d.MemoryTotal, d.MemoryFree = machine.Memory()
	for t := tensor.Float32; t.Valid(); t++ {
		d.ElementTypes = append(d.ElementTypes, t)
	}
	if r, err := c.ready(); err != nil {
		d.Health, d.Reason, d.Remedy = backend.Unhealthy, err.Error(), "run `make build`, or choose an instruction set of this machine"
	} else {
		d.Features = []string{"isa:" + r.ISA(), "threads:" + strconv.Itoa(r.Threads()),
			backend.FeatureStrings, backend.FeatureSequences, backend.FeatureOptionals}
		d.RuntimeVersion = c.library.Version() + " " + r.ISA()
	}
	update([]backend.Device{d})
	<-ctx.Done()
	return ctx.Err()
}

func checkDevice(id string) error {
	if id != deviceID {
		return backend.Invalid("device", "there is no device %q, only %q", id, deviceID)
	}
	return nil
}

func (c *cpu) Assess(_ context.Context, device, dir string) (backend.Assessment, error) {
	if err := checkDevice(device); err != nil {
		return backend.Assessment{}, err
	}
	m, err := backend.LoadModel(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	a := backend.Assessment{Nodes: make([]backend.Verdict, len(m.Graph.Nodes))}
	types := m.Graph.Types()
	var by []string
	if runner, err := c.ready(); err == nil {
		by = implementations(m, runner)
	}
	for i, n := range m.Graph.Nodes {
		if a.Nodes[i] = verdict(m, n, types); a.Nodes[i].OK && by != nil {
			a.Nodes[i] = backend.AcceptAs(by[i])
		}
	}
	a.MemoryEstimate = graph.FootprintOf(m).Total()
	return a, nil
}

// verdict on a node: what the reference operators compute, this device does, some
// of it fast.
func verdict(m *graph.Model, n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	opset, imported := m.Opsets[n.Domain]
	for _, f := range m.Functions {
		if f.Domain == n.Domain && f.Name == n.OpType && f.Overload == n.Overload {
			if _, known := reference.Lookup(n.Domain, n.OpType, opset); known && n.Domain == graph.DomainAccel {
				return backend.Accept
			}
			return backend.Refuse(backend.RefusedFunction, "functions are taken by their bodies")
		}
	}
	if !imported {
		return backend.Refuse(backend.RefusedOperator, fmt.Sprintf("operator domain %q is not imported", n.Domain))
	}
	in := make([]*graph.Type, len(n.Inputs))
	for j, name := range n.Inputs {
		in[j] = types[name]
	}
	err := reference.Supports(n, opset, in)
	var u *reference.UnsupportedError
	switch {
	case err == nil:
		return backend.Accept
	case errors.As(err, &u) && len(u.Nodes) > 0:
		return backend.Refuse(backend.Refusal(u.Nodes[0].Cause), u.Nodes[0].Reason)
	}
	return backend.Refuse(backend.RefusedOperator, err.Error())
}

// nodeName is how a node is called in errors: by its name, else its first output.
func nodeName(n *graph.Node) string {
	if n.Name != "" || len(n.Outputs) == 0 {
		return n.Name
	}
	return n.Outputs[0]
}

func (c *cpu) Compile(ctx context.Context, spec backend.CompileSpec, progress func(string, float64)) (backend.Executable, error) {
	if err := checkDevice(spec.Device); err != nil {
		return nil, err
	}
	runner, err := c.ready()
	if err != nil {
		return nil, backend.Unsupported(err.Error())
	}
	progress("load", 0)
	m, err := backend.LoadModel(spec.Dir)
	if err != nil {
		return nil, err
	}
	types := m.Graph.Types()
	var refused []string
	for _, n := range m.Graph.Nodes {
		if v := verdict(m, n, types); !v.OK {
			refused = append(refused, nodeName(n))
		}
	}
	if len(refused) > 0 {
		m.Close()
		return nil, backend.Unsupported("the device does not take these nodes; Assess says why", refused...)
	}
	weights := newPackedWeights(spec.Dir, runner, hclog.L().Named("cpu"))
	weights.backlog, weights.progress = &c.backlog, progress
	e, err := newExecutable(m, runner, weights)
	if err != nil {
		weights.Close()
		m.Close()
		return nil, err
	}
	for _, in := range m.Graph.Initializers {
		if size, err := tensor.ByteSize(in.Tensor.DType, in.Tensor.Shape); err == nil {
			e.info.Memory += size
		}
	}
	if spec.MemoryBudget > 0 && e.info.Memory > spec.MemoryBudget {
		return nil, errors.Join(backend.OutOfMemory("the graph's weights", e.info.Memory, spec.MemoryBudget), e.Close())
	}
	progress("plan", 0.5)
	return e, nil
}

func (c *cpu) Alloc(_ context.Context, device string, bytes int64) (backend.Buffer, error) {
	if err := checkDevice(device); err != nil {
		return nil, err
	}
	if _, free := machine.Memory(); free > 0 && bytes > free {
		return nil, backend.OutOfMemory("a buffer", bytes, free)
	}
	return &hostBuffer{data: alignedBytes(bytes)}, nil
}

func (c *cpu) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runner != nil {
		c.runner.Close()
		c.runner = nil
	}
	c.failed = errors.New("the backend was closed")
	return nil
}

// hostBuffer is a device buffer: the device's memory is the host's.
type hostBuffer struct{ data []byte }

func (b *hostBuffer) Size() int64 { return int64(len(b.data)) }

func (b *hostBuffer) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > b.Size() {
		return 0, io.EOF
	}
	return copy(p, b.data[off:]), nil
}

func (b *hostBuffer) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > b.Size() {
		return 0, io.ErrShortWrite
	}
	return copy(b.data[off:], p), nil
}

func (b *hostBuffer) Close() error {
	b.data = nil
	return nil
}

var _ backend.Backend = (*cpu)(nil)
