package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/vendorlib"
)

// Constants of a trial. Those of more than keptConstant bytes are zeros: what they hold
// decides nothing, and the layers of a model then make the same trials. A node with one of
// more than packedConstant is not compiled: it would be packed, which takes as long as
// the compilation that follows.
const (
	keptConstant   = 4 << 10
	packedConstant = 1 << 20
)

// maxWholeTrial is how many bytes of constants a graph has at most to be compiled as a
// whole when it is assessed. Of a larger one each kind of node is.
const maxWholeTrial = 16 << 20

// trials are the nodes that a device was asked about: what takes a node and why not,
// nobody but the runtime knows. To read and compile a model costs 20 ms however small
// it is, so nodes are tried many together, and in halves where that fails.
type trials struct {
	library    string
	device     string
	properties map[string]string
	dir        string // temporary

	mu    sync.Mutex
	known map[trialKey]backend.Verdict
	child *vendorlib.Child // nil: none is there
	rest  *time.Timer      // ends the child when nothing was asked for a while
}

// A trial ends its process if it takes longer than trialLimit; the process ends when
// nothing was asked for as long as childRest.
const (
	trialLimit = 2 * time.Minute
	childRest  = 10 * time.Second
)

type trialKey [sha256.Size]byte

func (o *openVINO) judge(lib *ov.Library, device string) (*trials, error) {
	properties := o.properties(device, "")
	delete(properties, cacheDir)
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.trials[device]; t != nil {
		return t, nil
	}
	dir, err := os.MkdirTemp("", "accel-openvino-")
	if err != nil {
		return nil, backend.Internal("%v", err)
	}
	t := &trials{library: lib.Path(), device: device, properties: properties, dir: dir, known: map[trialKey]backend.Verdict{}}
	o.trials[device] = t
	return t, nil
}

func (t *trials) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endChild()
	return os.RemoveAll(t.dir)
}

// endChild ends the child, if there is one. mu is held.
func (t *trials) endChild() {
	if t.child != nil {
		t.child.Close()
		t.child = nil
	}
}

// verdicts on the nodes of a model's main graph, in order.
func (t *trials) verdicts(ctx context.Context, m *graph.Model, dir string) ([]backend.Verdict, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]backend.Verdict, len(m.Graph.Nodes))
	s := newSurroundings(m)
	whole := true
	for i, n := range m.Graph.Nodes {
		out[i] = backend.AcceptAs(platform)
		for _, rule := range rules {
			if v := rule(s, n); !v.OK {
				out[i], whole = v, false
				break
			}
		}
	}
	var together error
	if whole {
		small := graph.FootprintOf(m).Weights <= maxWholeTrial
		var types []*graph.Type
		types, together = t.take(ctx, filepath.Join(dir, graph.ModelFile), small)
		if together == nil && small && agree(m.Graph.Outputs, types, func(int, string) {}) {
			return out, nil
		}
		if e := (*refusedError)(nil); together != nil && !errors.As(together, &e) {
			return nil, together
		}
	}
	made := make([]*trial, len(m.Graph.Nodes)) // nil: it can't be tried
	ask := map[trialKey]*trial{}
	for i, n := range m.Graph.Nodes {
		if !out[i].OK {
			continue
		}
		if !s.typed(n) {
			continue // behind one that is refused, and asked about again without it
		}
		x, err := s.alone(n)
		if err != nil {
			return nil, backend.Internal("node %s: %v", n.Label(), err)
		}
		if made[i] = x; !t.has(x.key) {
			ask[x.key] = x
		}
	}
	var asked []*trial
	for _, x := range made {
		if x != nil && ask[x.key] == x {
			asked = append(asked, x)
		}
	}
	for _, stage := range []func(context.Context, []*trial) error{t.read, t.compile} {
		if err := t.split(ctx, asked, stage); err != nil {
			return nil, err
		}
		asked = slices.DeleteFunc(asked, func(x *trial) bool { return t.has(x.key) })
	}
	for _, x := range asked {
		t.known[x.key] = backend.AcceptAs(platform)
	}
	taken := true
	for i, x := range made {
		if x != nil {
			out[i] = t.known[x.key]
		}
		taken = taken && out[i].OK
	}
	if taken && together != nil {
		return out, t.together(ctx, s, dir, together, out)
	}
	return out, nil
}

// together finds, of nodes that are taken one by one and not all together, the first
// that can't stand behind those before it, and refuses it. What then remains is asked
// about again, in pieces.
func (t *trials) together(ctx context.Context, s *surroundings, dir string, why error, out []backend.Verdict) error {
	good, bad := 0, len(out) // so many nodes from the first on are taken, and are not
	for bad-good > 1 {
		n := (good + bad) / 2
		err := t.first(ctx, s, dir, n)
		e := (*refusedError)(nil)
		switch {
		case err == nil:
			good = n
		case errors.As(err, &e):
			bad, why = n, err
		default:
			return err
		}
	}
	out[bad-1] = backend.Refuse(backend.RefusedOperator, "behind the nodes before it: "+why.Error())
	return nil
}

// first tries the first n nodes of a graph.
func (t *trials) first(ctx context.Context, s *surroundings, dir string, n int) error {
	m := s.model.Clone()
	defer m.Close()
	g := m.Graph
	faces := map[string]bool{}
	for _, v := range g.Outputs {
		faces[v.Name] = true
	}
	for _, x := range g.Nodes[n:] {
		for _, name := range slices.Concat(x.Inputs, x.Captures()) {
			faces[name] = true
		}
	}
	g.Nodes, g.Outputs = g.Nodes[:n], nil
	for _, x := range g.Nodes {
		for _, name := range x.Outputs {
			if faces[name] && name != "" {
				g.Outputs = append(g.Outputs, &graph.Value{Name: name, Type: s.typeOf(name)})
			}
		}
	}
	m.Prune()
	// Beside the model, for constants in files lie there.
	f, err := os.CreateTemp(dir, ".trial-*.onnx")
	if err != nil {
		return backend.Internal("%v", err)
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return backend.Internal("%v", err)
	}
	for _, in := range g.Initializers {
		if in.External != nil {
			in.External.Path = filepath.Base(in.External.Path)
		}
	}
	data, err := graph.Marshal(m)
	if err == nil {
		err = os.WriteFile(f.Name(), data, 0o600)
	}
	if err != nil {
		return backend.Internal("%v", err)
	}
	_, err = t.take(ctx, f.Name(), true)
	return err
}

func (t *trials) has(k trialKey) bool {
	_, ok := t.known[k]
	return ok
}

// split has all of a list pass a stage, or finds those that do not and notes why.
func (t *trials) split(ctx context.Context, list []*trial, stage func(context.Context, []*trial) error) error {
	if len(list) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := stage(ctx, list)
	if e := (*refusedError)(nil); err == nil || !errors.As(err, &e) {
		return err
	}
	if len(list) == 1 {
		t.known[list[0].key] = backend.Refuse(backend.RefusedOperator, err.Error())
		return nil
	}
	half := len(list) / 2
	if err := t.split(ctx, list[:half], stage); err != nil {
		return err
	}
	return t.split(ctx, list[half:], stage)
}

func (t *trials) read(ctx context.Context, list []*trial) error { return t.stage(ctx, list, false) }

// compile leaves out what is large, see packedConstant.
func (t *trials) compile(ctx context.Context, list []*trial) error {
	var small []*trial
	for _, x := range list {
		if x.zeros <= packedConstant {
			small = append(small, x)
		}
	}
	if len(small) == 0 {
		return nil
	}
	return t.stage(ctx, small, true)
}

// joined is one model of several trials, side by side, and how many bytes of zeros it
// wants beside it. Names end in the trial's place in the list.
func joined(list []*trial) (*graph.Model, int64) {
	m := &graph.Model{IRVersion: list[0].model.IRVersion, Opsets: list[0].model.Opsets, Graph: &graph.Graph{Name: "trial"}}
	var zeros int64
	for i, x := range list {
		g := x.model.Graph.Clone()
		names := map[string]string{}
		for _, v := range slices.Concat(g.Inputs, g.Outputs) {
			names[v.Name] = fmt.Sprintf("%s.%d", v.Name, i)
		}
		for _, in := range g.Initializers {
			names[in.Name] = fmt.Sprintf("%s.%d", in.Name, i)
		}
		g.Rename(names)
		m.Graph.Nodes = append(m.Graph.Nodes, g.Nodes...)
		m.Graph.Inputs = append(m.Graph.Inputs, g.Inputs...)
		m.Graph.Outputs = append(m.Graph.Outputs, g.Outputs...)
		m.Graph.Initializers = append(m.Graph.Initializers, g.Initializers...)
		zeros = max(zeros, x.zeros)
	}
	return m, zeros
}

// stage has the runtime take several nodes.
func (t *trials) stage(ctx context.Context, list []*trial, compile bool) error {
	m, zeros := joined(list)
	data, err := graph.Marshal(m)
	if err != nil {
		return backend.Internal("%v", err)
	}
	path := filepath.Join(t.dir, graph.ModelFile)
	err = os.WriteFile(path, data, 0o600)
	if err == nil && zeros > 0 {
		err = t.grow(zeros)
	}
	if err != nil {
		return backend.Internal("%v", err)
	}
	types, err := t.take(ctx, path, compile)
	if err != nil {
		return err
	}
	of := make([]int, 0, len(types)) // trial of each output
	for i, x := range list {
		for range x.model.Graph.Outputs {
			of = append(of, i)
		}
	}
	agree(m.Graph.Outputs, types, func(i int, why string) {
		t.known[list[of[i]].key] = backend.Refuse(backend.RefusedAttribute, "OpenVINO would compute something else: its output is "+why)
	})
	return nil
}

// agree holds the types that the runtime gives outputs against those that they have,
// and tells of each that is another.
func agree(outputs []*graph.Value, types []*graph.Type, other func(i int, why string)) bool {
	ok := len(outputs) == len(types)
	for i := range min(len(outputs), len(types)) {
		if why := unlike(outputs[i].Type, types[i]); why != "" {
			other(i, why)
			ok = false
		}
	}
	return ok
}

// take has the runtime read a model, and compile it, in a child. The error is
// *refusedError where it does not, or dies of it. It returns the types of its outputs.
func (t *trials) take(ctx context.Context, path string, compile bool) ([]*graph.Type, error) {
	if t.rest != nil {
		t.rest.Stop()
	}
	t.rest = time.AfterFunc(childRest, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.endChild()
	})
	if t.child == nil {
		c, err := vendorlib.StartChild()
		if err != nil {
			return nil, err
		}
		t.child = c
	}
	q := question{Library: t.library, Model: path, Properties: t.properties}
	if compile {
		q.Device = t.device
	}
	var a answer
	err := t.child.Ask(ctx, q, trialLimit, &a)
	if err != nil {
		t.endChild()
	}
	dead := (*vendorlib.ChildError)(nil)
	switch {
	case errors.As(err, &dead):
		return nil, &refusedError{"OpenVINO did not survive it, " + dead.Error()}
	case err == nil && a.Error != "":
		return nil, &refusedError{a.Error}
	}
	return a.Outputs, err
}

// refusedError is the runtime's word on a trial.
type refusedError struct{ why string }

func (e *refusedError) Error() string { return e.why }

// zerosFile holds the constants of a trial that are too large to be written. It has
// holes only.
const zerosFile = "zeros"

func (t *trials) grow(bytes int64) error {
	path := filepath.Join(t.dir, zerosFile)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
	case err != nil:
		return err
	case info.Size() >= bytes:
		return nil
	}
	return os.Truncate(path, bytes)
}

// surroundings are what a model says of the values around a node.
type surroundings struct {
	model     *graph.Model
	types     map[string]*graph.Type
	constants map[string]*graph.Initializer
}

func newSurroundings(m *graph.Model) *surroundings {
	s := &surroundings{model: m, types: m.Graph.Types(), constants: map[string]*graph.Initializer{}}
	for _, in := range m.Graph.Initializers {
		s.constants[in.Name] = in
	}
	for _, n := range m.Graph.Nodes {
		if c, ok := n.Constant(); ok {
			s.constants[n.Outputs[0]] = &graph.Initializer{Name: n.Outputs[0], Tensor: c}
		}
	}
	return s
}

// typeOf is a copy of a value's type; of one that is not known a tensor's that says
// nothing.
func (s *surroundings) typeOf(name string) *graph.Type {
	if t := s.types[name]; t != nil {
		return t.Clone()
	}
	return &graph.Type{Kind: graph.KindTensor}
}

// typed reports whether the types of all that a node reads are known.
func (s *surroundings) typed(n *graph.Node) bool {
	return !slices.ContainsFunc(slices.Concat(n.Inputs, n.Captures()), func(name string) bool {
		return name != "" && s.constants[name] == nil && (s.types[name] == nil || s.types[name].Elem == tensor.Undefined)
	})
}

// trial is a model of one node, the values around it being inputs. Names are
// replaced, so that equal nodes make equal models.
type trial struct {
	model *graph.Model
	zeros int64             // bytes of zeros that it wants beside it
	names map[string]string // of the values, by those that they had
	key   trialKey
}

func (s *surroundings) alone(n *graph.Node) (*trial, error) {
	x := &trial{model: &graph.Model{IRVersion: s.model.IRVersion, Opsets: s.model.Opsets, Graph: &graph.Graph{Name: "node"}}}
	g := x.model.Graph
	c := n.Clone()
	c.Name, c.Doc, c.Metadata = "", "", nil
	g.Nodes = []*graph.Node{c}
	names := map[string]string{}
	for _, name := range slices.Concat(n.Inputs, n.Captures()) {
		if name == "" || names[name] != "" {
			continue
		}
		names[name] = fmt.Sprintf("in%d", len(names))
		k := s.constants[name]
		if k == nil {
			g.Inputs = append(g.Inputs, &graph.Value{Name: name, Type: s.types[name].Clone()})
			continue
		}
		in := &graph.Initializer{Name: name, Tensor: k.Tensor}
		bytes, err := tensor.ByteSize(k.Tensor.DType, k.Tensor.Shape)
		if err != nil {
			return nil, err
		}
		if bytes > keptConstant {
			in.Tensor.Data = nil
			in.External = &graph.External{Path: zerosFile, Length: bytes}
			x.zeros = max(x.zeros, bytes)
		}
		g.Initializers = append(g.Initializers, in)
	}
	for _, name := range n.Outputs {
		if name != "" {
			names[name] = fmt.Sprintf("out%d", len(names))
			g.Outputs = append(g.Outputs, &graph.Value{Name: name, Type: s.typeOf(name)})
		}
	}
	g.Rename(names)
	x.names = names
	data, err := graph.Marshal(x.model)
	x.key = sha256.Sum256(data)
	return x, err
}
