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

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// maxTrialConstant is the largest constant, in bytes, that a trial has as it is.
// Larger ones are zeros: what they hold decides nothing.
const maxTrialConstant = 1 << 20

// trials are the nodes that a device was asked about, each as a model of its own:
// what takes a node and why not, nobody but the runtime knows.
type trials struct {
	core   *ov.Core
	device string
	dir    string // temporary

	mu    sync.Mutex
	known map[[sha256.Size]byte]backend.Verdict
}

func (o *openVINO) judge(core *ov.Core, device string) (*trials, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.trials[device]; t != nil {
		return t, nil
	}
	dir, err := os.MkdirTemp("", "accel-openvino-")
	if err != nil {
		return nil, backend.Internal("%v", err)
	}
	t := &trials{core: core, device: device, dir: dir, known: map[[sha256.Size]byte]backend.Verdict{}}
	o.trials[device] = t
	return t, nil
}

func (t *trials) close() error { return os.RemoveAll(t.dir) }

// verdicts on the nodes of a model's main graph, in order.
func (t *trials) verdicts(ctx context.Context, m *graph.Model, dir string) ([]backend.Verdict, error) {
	out := make([]backend.Verdict, len(m.Graph.Nodes))
	g := newSurroundings(m)
	refused := false
	for i, n := range m.Graph.Nodes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v, err := t.node(g, n)
		if err != nil {
			return nil, err
		}
		out[i] = v
		refused = refused || !v.OK
	}
	if refused {
		return out, nil
	}
	// Nodes that are taken one by one may not be together.
	whole, err := t.core.Read(filepath.Join(dir, graph.ModelFile))
	if err != nil {
		why := brief(err)
		for i := range out {
			out[i] = backend.Refuse(backend.RefusedOperator, "together: "+why)
		}
		return out, nil
	}
	whole.Close()
	return out, nil
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

// node is the verdict on a node.
func (t *trials) node(s *surroundings, n *graph.Node) (backend.Verdict, error) {
	for _, rule := range rules {
		if v := rule(s, n); !v.OK {
			return v, nil
		}
	}
	return t.try(s, n)
}

// try reads and compiles a model of the one node.
func (t *trials) try(s *surroundings, n *graph.Node) (backend.Verdict, error) {
	m, zeros, err := s.alone(n)
	if err != nil {
		return backend.Verdict{}, backend.Internal("%v", err)
	}
	data, err := graph.Marshal(m)
	if err != nil {
		return backend.Verdict{}, backend.Internal("%v", err)
	}
	key := sha256.Sum256(data)
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.known[key]; ok {
		return v, nil
	}
	path := filepath.Join(t.dir, graph.ModelFile)
	err = os.WriteFile(path, data, 0o600)
	if err == nil && zeros > 0 {
		err = t.grow(zeros)
	}
	if err != nil {
		return backend.Verdict{}, backend.Internal("%v", err)
	}
	v := t.verdict(path, zeros == 0)
	t.known[key] = v
	return v, nil
}

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

func (t *trials) verdict(path string, compile bool) backend.Verdict {
	m, err := t.core.Read(path)
	if err != nil {
		return backend.Refuse(backend.RefusedOperator, brief(err))
	}
	defer m.Close()
	if !compile {
		return backend.AcceptAs("openvino")
	}
	x, err := t.core.Compile(m, t.device, map[string]string{"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"})
	if err != nil {
		return backend.Refuse(backend.RefusedOperator, brief(err))
	}
	x.Close()
	return backend.AcceptAs("openvino")
}

// alone is a model of one node, the values around it being inputs, and how many
// bytes of zeros it wants beside it. Names are replaced, so that equal nodes make
// equal models; those of a node with graphs inside stay.
func (s *surroundings) alone(n *graph.Node) (*graph.Model, int64, error) {
	m := &graph.Model{IRVersion: s.model.IRVersion, Opsets: s.model.Opsets, Functions: s.model.Functions, Graph: &graph.Graph{Name: "node"}}
	c := n.Clone()
	c.Name, c.Doc, c.Metadata = "", "", nil
	inside := false
	for range n.Graphs() {
		inside = true
	}
	names := map[string]string{}
	rename := func(prefix, name string) string {
		if inside || name == "" {
			return name
		}
		if names[name] == "" {
			names[name] = fmt.Sprintf("%s%d", prefix, len(names))
		}
		return names[name]
	}
	var zeros int64
	for i, name := range slices.Concat(n.Inputs, n.Captures()) {
		if name == "" {
			continue
		}
		known := names[name] != "" || inside && slices.Contains(slices.Concat(n.Inputs, n.Captures())[:i], name)
		as := rename("in", name)
		if i < len(c.Inputs) {
			c.Inputs[i] = as
		}
		if known {
			continue
		}
		k := s.constants[name]
		if k == nil {
			m.Graph.Inputs = append(m.Graph.Inputs, &graph.Value{Name: as, Type: s.types[name].Clone()})
			continue
		}
		in := &graph.Initializer{Name: as, Tensor: k.Tensor}
		bytes, err := tensor.ByteSize(k.Tensor.DType, k.Tensor.Shape)
		if err != nil {
			return nil, 0, err
		}
		if bytes > maxTrialConstant {
			in.Tensor.Data = nil
			in.External = &graph.External{Path: zerosFile, Length: bytes}
			zeros = max(zeros, bytes)
		}
		m.Graph.Initializers = append(m.Graph.Initializers, in)
	}
	for i, name := range n.Outputs {
		if name == "" {
			continue
		}
		as := rename("out", name)
		c.Outputs[i] = as
		m.Graph.Outputs = append(m.Graph.Outputs, &graph.Value{Name: as, Type: s.types[name].Clone()})
	}
	m.Graph.Nodes = []*graph.Node{c}
	return m, zeros, nil
}

// rules refuse what the runtime would take, or fail at, for reasons that it does not
// tell.
var rules = []func(*surroundings, *graph.Node) backend.Verdict{functions, values}

// functions refuses calls of a model's functions, which the reader does not know.
func functions(s *surroundings, n *graph.Node) backend.Verdict {
	if s.model.Function(n.ID()) != nil || n.Domain == graph.DomainAccel {
		return backend.Refuse(backend.RefusedFunction, "functions are taken by their bodies")
	}
	return backend.Accept
}

// values refuses nodes on what is no tensor of a type that the runtime has.
func values(s *surroundings, n *graph.Node) backend.Verdict {
	for _, name := range slices.Concat(n.Inputs, n.Outputs) {
		t := s.types[name]
		if name == "" || t == nil {
			continue
		}
		if t.Kind != graph.KindTensor {
			return backend.Refuse(backend.RefusedElementType, name+" is no tensor")
		}
		if t.Elem == tensor.String || t.Elem != tensor.Undefined && !ov.Has(t.Elem) {
			return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("%s is of %s", name, t.Elem))
		}
	}
	return backend.Accept
}
