package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/machine"
	"github.com/accelhq/accel/sdk/vendorlib"
)

const platform = "openvino"

// lookEvery is how often the runtime is looked for where it is not there, and its
// file is looked at where it is.
const lookEvery = 2 * time.Second

// openVINO is the backend.
type openVINO struct {
	log hclog.Logger

	mu       sync.Mutex
	settings settings
	at       vendorlib.Found
	found    described
	failed   error // why there is no runtime
	looked   bool
	lib      *ov.Library
	core     *ov.Core
	devices  []backend.Device // as last reported
	trials   map[string]*trials
}

func newOpenVINO() *openVINO {
	return &openVINO{log: hclog.L().Named(platform), trials: map[string]*trials{}}
}

// look finds and probes the runtime, where that has not been done. mu is held.
func (o *openVINO) look(ctx context.Context) {
	if o.looked {
		return
	}
	o.at, o.found, o.failed = o.settings.look(ctx)
	o.looked = ctx.Err() == nil
}

func (o *openVINO) Describe(ctx context.Context) (backend.Info, error) {
	info := backend.Info{Name: platform, Version: version, ConfigSchema: settingsSchema}
	lib := backend.Library{Name: "OpenVINO"}
	o.mu.Lock()
	defer o.mu.Unlock()
	// The settings are not known yet: they may name another.
	at, err := o.settings.find()
	if err == nil && o.looked && o.at == at {
		err, lib.Version = o.failed, o.found.Version
	}
	if lib.Path = at.Path; err != nil {
		lib.Reason, lib.Remedy = err.Error(), remedy
	} else {
		lib.Found = true
	}
	info.Libraries = append(info.Libraries, lib)
	return info, nil
}

func (o *openVINO) Configure(_ context.Context, raw json.RawMessage) ([]string, error) {
	s, err := parseSettings(raw)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.core != nil {
		return nil, backend.BadState("a device is in use already")
	}
	o.settings, o.looked = s, false
	return nil, nil
}

func (o *openVINO) Watch(ctx context.Context, update func([]backend.Device)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last []backend.Device
	for {
		o.mu.Lock()
		devices := o.state(ctx)
		o.devices = devices
		o.mu.Unlock()
		if ctx.Err() == nil && (last == nil || !same(devices, last)) {
			update(devices)
			last = devices
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// same compares what matters of devices: free memory changes all the time.
func same(a, b []backend.Device) bool {
	return slices.EqualFunc(a, b, func(x, y backend.Device) bool {
		return x.ID == y.ID && x.Health == y.Health && x.Reason == y.Reason && x.RuntimeVersion == y.RuntimeVersion
	})
}

// state is the devices as they are now. mu is held.
func (o *openVINO) state(ctx context.Context) []backend.Device {
	gone := func(id string, health backend.Health, reason string) backend.Device {
		return backend.Device{ID: id, Platform: platform, Name: "OpenVINO " + id, Kind: backend.Hardware, Health: health, Reason: reason, Remedy: remedy,
			Attention: backend.AttentionRows}
	}
	if o.looked && o.failed != nil {
		// What was not there may be by now; what is there and failed is not tried on and on.
		if at, err := o.settings.find(); err == nil && at != o.at {
			o.looked = false
		}
	}
	o.look(ctx)
	if o.failed != nil {
		health := backend.Undetected
		if e := (*vendorlib.ChildError)(nil); errors.As(o.failed, &e) {
			health = backend.Unhealthy
		}
		return []backend.Device{gone("CPU", health, o.failed.Error())}
	}
	offered, missing := o.settings.offered(o.found)
	var out []backend.Device
	_, err := os.Stat(o.at.Path)
	for _, d := range offered {
		x := d.describe(o.found.Version)
		if err != nil {
			x.Health, x.Reason, x.Remedy = backend.Unhealthy, "the library is gone: "+err.Error(), remedy
		}
		out = append(out, x)
	}
	for _, id := range missing {
		out = append(out, gone(id, backend.Undetected, fmt.Sprintf("OpenVINO %s does not list a device %s", o.found.Version, id)))
	}
	if len(out) == 0 {
		out = append(out, gone("CPU", backend.Undetected, fmt.Sprintf("OpenVINO %s lists no device", o.found.Version)))
	}
	return out
}

// use opens the runtime for a device.
func (o *openVINO) use(ctx context.Context, id string) (*ov.Library, *ov.Core, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.look(ctx)
	if o.failed != nil {
		return nil, nil, backend.DeviceLost(o.failed.Error())
	}
	if offered, _ := o.settings.offered(o.found); !slices.ContainsFunc(offered, func(d describedDevice) bool { return d.ID == id }) {
		return nil, nil, backend.Invalid("device", "there is no device %q", id)
	}
	if o.core != nil {
		return o.lib, o.core, nil
	}
	lib, err := ov.Open(o.at.Path)
	if err != nil {
		return nil, nil, backend.DeviceLost(err.Error())
	}
	core, err := lib.NewCore()
	if err != nil {
		return nil, nil, backend.DeviceLost(err.Error())
	}
	o.lib, o.core = lib, core
	return lib, core, nil
}

func (o *openVINO) Assess(ctx context.Context, id, dir string) (backend.Assessment, error) {
	lib, _, err := o.use(ctx, id)
	if err != nil {
		return backend.Assessment{}, err
	}
	m, err := loadModel(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	j, err := o.judge(lib, id)
	if err != nil {
		return backend.Assessment{}, err
	}
	nodes, err := j.verdicts(ctx, m, dir)
	return backend.Assessment{Nodes: nodes, MemoryEstimate: graph.FootprintOf(m).Total()}, err
}

func (o *openVINO) Compile(ctx context.Context, spec backend.CompileSpec, progress func(string, float64)) (backend.Executable, error) {
	lib, core, err := o.use(ctx, spec.Device)
	if err != nil {
		return nil, err
	}
	progress("read", 0)
	x := &executable{lib: lib}
	if err := x.describe(spec.Dir); err != nil {
		return nil, err
	}
	m, err := core.Read(filepath.Join(spec.Dir, graph.ModelFile))
	if err != nil {
		return nil, o.refused(ctx, lib, spec, err)
	}
	defer m.Close()
	if spec.MemoryBudget > 0 && x.info.Memory > spec.MemoryBudget {
		return nil, backend.OutOfMemory("the graph's weights", x.info.Memory, spec.MemoryBudget)
	}
	progress("compile", 0.3)
	properties := o.properties(spec.Device, spec.Dir)
	if x.plain && kindOf(spec.Device) == "CPU" {
		properties["SNIPPETS_MODE"] = "DISABLE"
	}
	if x.compiled, err = core.Compile(m, spec.Device, properties); err != nil {
		return nil, o.refused(ctx, lib, spec, err)
	}
	if err := x.match(); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return backend.WithPools(x)
}

// refused gives an error of the runtime's with a model its place in the protocol,
// and names the nodes that are to blame.
func (o *openVINO) refused(ctx context.Context, lib *ov.Library, spec backend.CompileSpec, err error) error {
	e := backend.Unsupported(brief(err))
	if j, jerr := o.judge(lib, spec.Device); jerr == nil {
		if m, merr := loadModel(spec.Dir); merr == nil {
			defer m.Close()
			verdicts, _ := j.verdicts(ctx, m, spec.Dir)
			for i, v := range verdicts {
				if !v.OK {
					e.Nodes = append(e.Nodes, nodeName(m.Graph.Nodes[i]))
				}
			}
		}
	}
	return e
}

// nodeName is how a node is called in errors: by its name, else its first output.
func nodeName(n *graph.Node) string {
	if n.Name != "" || len(n.Outputs) == 0 {
		return n.Name
	}
	return n.Outputs[0]
}

const cacheDir = "CACHE_DIR"

// properties are what a model is compiled with. Nothing is computed in less than the
// graph says unless the settings do.
func (o *openVINO) properties(id, dir string) map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.settings
	p := map[string]string{"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}
	if s.Performance != "" {
		p["PERFORMANCE_HINT"] = strings.ToUpper(s.Performance)
	}
	if s.Precision != "" && s.Precision != "f32" {
		p["INFERENCE_PRECISION_HINT"], p["EXECUTION_MODE_HINT"] = s.Precision, "PERFORMANCE"
	}
	if s.Streams > 0 {
		p["NUM_STREAMS"] = strconv.Itoa(s.Streams)
	}
	kind := kindOf(id)
	switch kind {
	case "CPU":
		p["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = strconv.Itoa(s.Quantization)
		if s.Quantization > 0 {
			p["EXECUTION_MODE_HINT"] = "PERFORMANCE"
		}
		if s.Threads > 0 {
			p["INFERENCE_NUM_THREADS"] = strconv.Itoa(s.Threads)
		}
	case "GPU":
		p["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = strconv.Itoa(s.Quantization)
	case "NPU":
		delete(p, "EXECUTION_MODE_HINT") // it computes in half precision, whatever is asked
		delete(p, "INFERENCE_PRECISION_HINT")
	}
	if s.Cache == "on" || s.Cache != "off" && kind != "CPU" {
		p[cacheDir] = filepath.Join(dir, "ov", kind)
	}
	for k, v := range s.Properties[kind] {
		p[k] = v
	}
	return p
}

func (o *openVINO) Alloc(ctx context.Context, id string, bytes int64) (backend.Buffer, error) {
	if _, _, err := o.use(ctx, id); err != nil {
		return nil, err
	}
	if bytes <= 0 {
		return nil, backend.Invalid("length", "a buffer of %d bytes can't be made", bytes)
	}
	if _, free := machine.Memory(); free > 0 && bytes > free {
		return nil, backend.OutOfMemory("a buffer", bytes, free)
	}
	return newBuffer(bytes), nil
}

func (o *openVINO) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, t := range o.trials {
		errs = append(errs, t.close())
	}
	clear(o.trials)
	if o.core != nil {
		o.core.Close()
		o.core = nil
	}
	o.looked, o.failed = true, errors.New("the backend was closed")
	return errors.Join(errs...)
}

// brief is the part of the runtime's message that is for people: without the places
// in its source.
func brief(err error) string {
	e := (*ov.Error)(nil)
	if !errors.As(err, &e) {
		return err.Error()
	}
	var kept []string
	for _, line := range strings.Split(e.Message, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Exception from ") || strings.HasPrefix(line, "Check '") && strings.Contains(line, " failed at ") {
			if _, after, ok := strings.Cut(line, "failed at "); ok {
				if _, after, ok = strings.Cut(after, ": "); ok {
					kept = append(kept, after)
				}
			}
			continue
		}
		kept = append(kept, line)
	}
	if len(kept) == 0 {
		return e.Message
	}
	return strings.Join(kept, " ")
}

var _ backend.Backend = (*openVINO)(nil)
