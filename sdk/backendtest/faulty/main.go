// Command faulty is a backend for tests: a good one, unless ACCEL_FAULT names a
// fault. It runs graphs of Identity (any type, sequences and optionals too), Neg, Add and Mul (float32, equal
// shapes) on one device, "0", whose kind is simulated.
//
// ACCEL_FAULT is one of
//
//	stdout          prints to standard output before the handshake
//	hang_start      hangs before the handshake
//	exit_start      says why on standard error and exits with 7 before the handshake
//	version         speaks protocol version 99 only
//	noise           prints to descriptor 1 in every call, which must do no harm
//	no_kind         reports a device without a kind
//	twice           reports its device twice in one list
//	unhealthy       reports an unhealthy device
//	flap            is unhealthy for a moment after each Compile
//	assess_short    gives a verdict too few
//	compile_exit    exits with 7 in Compile
//	compile_hang    hangs in Compile, whatever is cancelled
//	compile_panic   panics in Compile
//	accept_all      compiles graphs that it cannot run: its outputs stay undone
//	run_exit        exits with 7 in Run
//	run_segv        dies of SIGSEGV in Run
//	run_kill        dies of SIGKILL in Run
//	run_hang        hangs in Run, whatever is cancelled
//	run_panic       panics in Run
//	run_lost        answers DEVICE_LOST in Run
//	run_wrong       adds 1 to every float32 result
//	run_shape       says one more in the last dimension of every result
//	run_type        says int32 instead of the result's type
//	run_missing     gives no output
//	run_mute        gives empty strings for all strings
//	run_hollow      gives sequences and optionals without what is in them
//	run_idle        leaves the outputs as they are, so that what remains can be measured
//	ignore_cancel   runs for a minute, whatever is cancelled
//	unordered       forgets what a buffer held before the last write
//	alloc_dirty     allocates buffers that are not zeroed
//	alloc_any       allocates any size
//	leak            keeps an open file for every Compile and Alloc
//	ignore_term     hangs in Close
//
// Run faults happen outside the smoke run only. They can be narrowed:
//
//	ACCEL_FAULT_ONCE=PATH   no fault where the file PATH exists; it is made before the first
//	ACCEL_FAULT_POISON=N    only in runs whose first input's first float32 is N
//	ACCEL_FAULT_DELAY=D     every run takes D, or until it is cancelled; works without a fault
//	ACCEL_FAULT_PLATFORM=P  the device's platform, by default simulation
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	deviceID = "0"
	capacity = 1 << 30 // bytes of the device's memory
)

func main() {
	b, err := newFaulty()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	switch {
	case b.now("stdout"):
		fmt.Println("vendor runtime 1.2.3 loaded")
	case b.now("hang_start"):
		time.Sleep(time.Hour) // not for ever, which the runtime would notice
	case b.now("exit_start"):
		fmt.Fprintln(os.Stderr, "libvendor.so.1: cannot open shared object file")
		os.Exit(7)
	case b.now("version"):
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig:  backend.Handshake,
			VersionedPlugins: map[int]plugin.PluginSet{99: {backend.PluginName: future{}}},
			GRPCServer:       plugin.DefaultGRPCServer,
		})
		os.Exit(0)
	}
	backend.Serve(b)
}

// future serves nothing.
type future struct{ plugin.NetRPCUnsupportedPlugin }

func (future) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (future) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a server only")
}

// faulty implements backend.Backend.
type faulty struct {
	fault    string
	once     string
	poison   float32
	poisoned bool // only poison brings the fault
	delay    time.Duration
	platform string

	flaps chan struct{}

	mu     sync.Mutex
	used   int64
	leaked []*os.File
}

func newFaulty() (*faulty, error) {
	b := &faulty{
		fault: os.Getenv("ACCEL_FAULT"), once: os.Getenv("ACCEL_FAULT_ONCE"),
		platform: os.Getenv("ACCEL_FAULT_PLATFORM"), flaps: make(chan struct{}, 1),
	}
	if b.platform == "" {
		b.platform = "simulation"
	}
	if v := os.Getenv("ACCEL_FAULT_POISON"); v != "" {
		f, err := strconv.ParseFloat(v, 32)
		if err != nil {
			return nil, err
		}
		b.poison, b.poisoned = float32(f), true
	}
	if v := os.Getenv("ACCEL_FAULT_DELAY"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			return nil, err
		}
		b.delay = d
	}
	return b, nil
}

// now reports whether this is the fault, and it is to happen.
func (b *faulty) now(fault string) bool {
	if b.fault != fault {
		return false
	}
	if b.once == "" {
		return true
	}
	f, err := os.OpenFile(b.once, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func (b *faulty) noise() {
	if b.now("noise") {
		printToDescriptor1("vendor runtime: 1|1|unix|/nowhere|grpc|\n")
		fmt.Println("printed by Go")
	}
}

func (b *faulty) Describe(context.Context) (backend.Info, error) {
	b.noise()
	return backend.Info{
		Name: "faulty", Version: "1.0.0",
		Libraries:    []backend.Library{{Name: "libvendor.so.1", Reason: "this backend has no vendor", Remedy: "use a real one"}},
		ConfigSchema: `{"type":"object","properties":{"threads":{"type":"integer","minimum":1}},"additionalProperties":false}`,
	}, nil
}

func (b *faulty) Configure(_ context.Context, settings json.RawMessage) ([]string, error) {
	b.noise()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(settings, &keys); err != nil {
		return nil, backend.Invalid("settings_json", "%v", err)
	}
	var warnings []string
	for key, v := range keys {
		if key != "threads" {
			return nil, backend.Invalid("settings_json", "there is no setting %q; there is threads", key)
		}
		var n int
		if err := json.Unmarshal(v, &n); err != nil || n < 1 {
			return nil, backend.Invalid("settings_json", "threads is %s, wants an integer of at least 1", v)
		}
		if n > 1 {
			warnings = append(warnings, "threads: this backend uses one")
		}
	}
	return warnings, nil
}

func (b *faulty) device() backend.Device {
	b.mu.Lock()
	defer b.mu.Unlock()
	return backend.Device{
		ID: deviceID, Platform: b.platform, Name: "faulty device", Kind: backend.Simulated, Health: backend.Healthy,
		MemoryTotal: capacity, MemoryFree: capacity - b.used,
		ElementTypes: []tensor.DType{tensor.Float32, tensor.Int64, tensor.Int32, tensor.Uint8, tensor.Bool},
		Attention:    backend.AttentionBody, RuntimeVersion: "1",
		Features: []string{backend.FeatureStrings, backend.FeatureSequences, backend.FeatureOptionals},
	}
}

func (b *faulty) Watch(ctx context.Context, update func([]backend.Device)) error {
	b.noise()
	d := b.device()
	sick := d
	sick.Health, sick.Reason, sick.Remedy = backend.Unhealthy, "the fan does not turn", "turn it"
	switch {
	case b.now("no_kind"):
		d.Kind = ""
	case b.now("unhealthy"):
		d = sick
	case b.now("twice"):
		update([]backend.Device{d, d})
		return nil
	}
	update([]backend.Device{d})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.flaps:
			update([]backend.Device{sick})
			time.Sleep(20 * time.Millisecond)
			update([]backend.Device{b.device()})
		}
	}
}

func (b *faulty) Assess(_ context.Context, _, dir string) (backend.Assessment, error) {
	b.noise()
	m, err := backend.LoadModel(dir)
	if err != nil {
		return backend.Assessment{}, err
	}
	defer m.Close()
	a := backend.Assessment{Nodes: judge(m)}
	if b.now("assess_short") && len(a.Nodes) > 0 {
		a.Nodes = a.Nodes[1:]
	}
	return a, nil
}

// judge gives a verdict on each node.
func judge(m *graph.Model) []backend.Verdict {
	types := map[string]*graph.Type{}
	for _, v := range m.Graph.Inputs {
		types[v.Name] = v.Type
	}
	for _, i := range m.Graph.Initializers {
		types[i.Name] = graph.TensorType(i.Tensor.DType)
		for _, n := range i.Tensor.Shape {
			types[i.Name].Dims = append(types[i.Name].Dims, graph.Known(n))
		}
	}
	verdicts := make([]backend.Verdict, len(m.Graph.Nodes))
	for i, n := range m.Graph.Nodes {
		verdicts[i] = backend.Accept
		if n.Domain != graph.DomainONNX || n.OpType != "Identity" && n.OpType != "Neg" && n.OpType != "Add" && n.OpType != "Mul" {
			verdicts[i] = backend.Refuse(backend.RefusedOperator, "the operator is not known")
			continue
		}
		first := types[n.Inputs[0]]
		types[n.Outputs[0]] = first
		if n.OpType == "Identity" || first == nil {
			continue
		}
		last := types[n.Inputs[len(n.Inputs)-1]]
		switch {
		case first.Elem != tensor.Float32:
			verdicts[i] = backend.Refuse(backend.RefusedElementType, "only float32 is computed with")
		case last != nil && !slices.Equal(first.Dims, last.Dims):
			verdicts[i] = backend.Refuse(backend.RefusedAttribute, "nothing is broadcast")
		}
	}
	return verdicts
}

func (b *faulty) Compile(ctx context.Context, spec backend.CompileSpec, progress func(string, float64)) (backend.Executable, error) {
	b.noise()
	switch {
	case b.now("compile_exit"):
		fmt.Fprintln(os.Stderr, "vendor compiler: internal error 0x42")
		os.Exit(7)
	case b.now("compile_hang"):
		select {}
	case b.now("compile_panic"):
		panic("no code for this")
	case b.now("flap"):
		defer func() { b.flaps <- struct{}{} }()
	}
	progress("read", 0)
	m, err := backend.LoadModel(spec.Dir)
	if err != nil {
		return nil, err
	}
	e := &executable{b: b, m: m}
	if err := e.plan(); err != nil {
		m.Close()
		return nil, err
	}
	if budget := spec.MemoryBudget; budget > 0 && e.info.Memory > budget {
		m.Close()
		return nil, backend.OutOfMemory("the graph", e.info.Memory, budget)
	}
	b.leak()
	progress("plan", 0.5)
	return e, ctx.Err()
}

func (b *faulty) leak() {
	if !b.now("leak") {
		return
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		panic(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaked = append(b.leaked, f)
}

func (b *faulty) Alloc(_ context.Context, _ string, bytes int64) (backend.Buffer, error) {
	b.noise()
	b.leak()
	if b.now("alloc_any") {
		return &buffer{b: b, data: make([]byte, min(bytes, 1<<20)), size: bytes}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if bytes > capacity-b.used {
		return nil, backend.OutOfMemory("the buffer", bytes, capacity-b.used)
	}
	b.used += bytes
	f := &buffer{b: b, data: make([]byte, bytes), size: bytes}
	if b.fault == "alloc_dirty" {
		f.data[0] = 1
	}
	return f, nil
}

func (b *faulty) Close() error {
	if b.now("ignore_term") {
		select {}
	}
	return nil
}

// buffer is host memory that plays a device's.
type buffer struct {
	b    *faulty
	data []byte
	size int64
}

func (f *buffer) Size() int64 { return f.size }

func (f *buffer) ReadAt(p []byte, offset int64) (int, error) { return copy(p, f.data[offset:]), nil }

func (f *buffer) WriteAt(p []byte, offset int64) (int, error) {
	if f.b.now("unordered") {
		clear(f.data)
	}
	return copy(f.data[offset:], p), nil
}

func (f *buffer) Close() error {
	f.b.mu.Lock()
	defer f.b.mu.Unlock()
	f.b.used -= int64(len(f.data))
	return nil
}

// executable interprets its graph node by node.
type executable struct {
	b       *faulty
	m       *graph.Model
	weights map[string]tensor.Tensor
	info    backend.ExecutableInfo
	warmed  bool // the smoke run is over
}

// plan refuses what Run could not do.
func (e *executable) plan() error {
	e.weights = map[string]tensor.Tensor{}
	for _, i := range e.m.Graph.Initializers {
		e.weights[i.Name] = i.Tensor.Aligned()
		e.info.Memory += int64(len(i.Tensor.Data))
	}
	for _, v := range e.m.Graph.Inputs {
		if _, constant := e.weights[v.Name]; !constant {
			e.info.Inputs = append(e.info.Inputs, *v)
		}
	}
	for _, v := range e.m.Graph.Outputs {
		e.info.Outputs = append(e.info.Outputs, *v)
	}
	var refused []string
	for i, v := range judge(e.m) {
		if !v.OK {
			refused = append(refused, e.m.Graph.Nodes[i].Name)
		}
	}
	if len(refused) > 0 && !e.b.now("accept_all") {
		return backend.Unsupported("the device does not take these nodes", refused...)
	}
	return nil
}

func (e *executable) Info() backend.ExecutableInfo { return e.info }

func (e *executable) Close() error { return e.m.Close() }

func (e *executable) Run(ctx context.Context, inputs []backend.Value, out backend.Outputs) error {
	values := make(map[string]graph.Datum, len(e.weights)+len(inputs))
	for name, t := range e.weights {
		values[name] = graph.TensorDatum(t)
	}
	for i, v := range inputs {
		if v.Buffer != nil {
			t, err := v.Host()
			if err != nil {
				return err
			}
			v.Datum = graph.TensorDatum(t)
		}
		values[e.info.Inputs[i].Name] = v.Datum
	}
	fault := e.fault(values)
	switch fault {
	case "run_exit":
		fmt.Fprintln(os.Stderr, "vendor runtime: assertion failed: queue != NULL")
		os.Exit(7)
	case "run_segv", "run_kill":
		die(fault)
	case "run_hang":
		select {}
	case "run_panic":
		panic("index out of luck")
	case "run_lost":
		return backend.DeviceLost("the device fell off the bus")
	case "run_missing":
		return nil
	case "ignore_cancel":
		time.Sleep(time.Minute)
	}
	if e.b.delay > 0 {
		select {
		case <-time.After(e.b.delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.b.noise()
	for _, n := range e.m.Graph.Nodes {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v, err := apply(n, values)
		if err != nil {
			return err
		}
		values[n.Outputs[0]] = v
	}
	for i, v := range e.info.Outputs {
		if !out.Wanted(i) {
			continue
		}
		if err := e.deliver(out, i, values[v.Name], fault); err != nil {
			return err
		}
	}
	return nil
}

// fault is the fault of this run. The smoke run has none.
func (e *executable) fault(values map[string]graph.Datum) string {
	smoke := !e.warmed
	e.warmed = true
	if smoke {
		return ""
	}
	if e.b.poisoned {
		t := values[e.info.Inputs[0].Name].Tensor
		if t.DType != tensor.Float32 || len(t.Data) == 0 || tensor.View[float32](t)[0] != e.b.poison {
			return ""
		}
	}
	if e.b.now(e.b.fault) {
		return e.b.fault
	}
	return ""
}

func (e *executable) deliver(out backend.Outputs, i int, v graph.Datum, fault string) error {
	if !backend.Dense(e.info.Outputs[i].Type) {
		if fault == "run_mute" && v.Tensor.Strings != nil {
			v.Tensor.Strings = make([]string, len(v.Tensor.Strings))
		}
		if fault == "run_hollow" {
			v.Sequence, v.Optional = nil, nil
		}
		return out.Give(i, v)
	}
	t := v.Tensor
	d, s := t.DType, t.Shape
	switch {
	case fault == "run_shape" && len(s) > 0:
		s = s.Clone()
		s[len(s)-1]++
	case fault == "run_type":
		d = tensor.Int32
	}
	p, err := out.Place(i, d, s)
	if err != nil {
		return err
	}
	if fault == "run_idle" {
		return nil
	}
	copy(p.Data, t.Data)
	if fault == "run_wrong" && d == tensor.Float32 {
		for k := range tensor.View[float32](p) {
			tensor.View[float32](p)[k]++
		}
	}
	return nil
}

func apply(n *graph.Node, values map[string]graph.Datum) (graph.Datum, error) {
	if n.OpType == "Identity" {
		return values[n.Inputs[0]], nil
	}
	x := values[n.Inputs[0]].Tensor
	y, err := tensor.New(x.DType, x.Shape)
	if err != nil {
		return graph.Datum{}, err
	}
	a, z := tensor.View[float32](x), tensor.View[float32](y)
	if n.OpType == "Neg" {
		for i := range z {
			z[i] = -a[i]
		}
		return graph.TensorDatum(y), nil
	}
	w := values[n.Inputs[1]].Tensor
	if !w.Shape.Equal(x.Shape) {
		return graph.Datum{}, backend.Unsupported(fmt.Sprintf("%s of shapes %v and %v", n.OpType, x.Shape, w.Shape), n.Name)
	}
	b := tensor.View[float32](w)
	for i := range z {
		if n.OpType == "Add" {
			z[i] = a[i] + b[i]
		} else {
			z[i] = a[i] * b[i]
		}
	}
	return graph.TensorDatum(y), nil
}
