package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// judge gives a device's verdicts on a model whose types are inferred.
type judge struct {
	*device
	model     *graph.Model
	types     map[string]*graph.Type
	constants map[string]bool // initializers that are no inputs, and what Constant makes
	face      map[string]bool // inputs and outputs of the graph
	tainted   map[string]bool // values that follow from an operator that is not known
}

func newJudge(d *device, m *graph.Model) *judge {
	j := &judge{device: d, model: m, types: m.Graph.Types(), constants: map[string]bool{}, face: map[string]bool{}, tainted: map[string]bool{}}
	for _, in := range m.Graph.Initializers {
		j.constants[in.Name] = true
	}
	for _, list := range [][]*graph.Value{m.Graph.Inputs, m.Graph.Outputs} {
		for _, v := range list {
			j.face[v.Name] = true
			delete(j.constants, v.Name)
		}
	}
	return j
}

// verdicts on the nodes of the main graph, in order.
func (j *judge) verdicts() []backend.Verdict {
	out := make([]backend.Verdict, len(j.model.Graph.Nodes))
	for i, n := range j.model.Graph.Nodes {
		out[i] = j.node(n, j.types)
		if !out[i].OK && out[i].Refusal == backend.RefusedOperator || slices.ContainsFunc(n.Inputs, func(v string) bool { return j.tainted[v] }) {
			for _, o := range n.Outputs {
				j.tainted[o] = j.types[o] == nil
			}
		}
	}
	return out
}

func opName(n *graph.Node) string {
	if n.Domain == graph.DomainONNX {
		return n.OpType
	}
	return n.Domain + "." + n.OpType
}

// node is the verdict on a node and on what is inside it.
func (j *judge) node(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	for _, rule := range []func(*graph.Node, map[string]*graph.Type) backend.Verdict{
		j.function, j.denied, j.known, j.elementTypes, j.shapes, j.size, j.inside,
	} {
		if v := rule(n, types); !v.OK {
			return v
		}
	}
	return backend.AcceptAs("reference")
}

// function refuses what other runtimes see as a function.
func (j *judge) function(n *graph.Node, _ map[string]*graph.Type) backend.Verdict {
	if j.NoFunctions && (j.model.Function(n.ID()) != nil || n.Domain == graph.DomainAccel) {
		return backend.Refuse(backend.RefusedFunction, fmt.Sprintf("%s is a function, the device takes none", opName(n)))
	}
	return backend.Accept
}

func (j *judge) denied(n *graph.Node, _ map[string]*graph.Type) backend.Verdict {
	name := opName(n)
	if slices.Contains(j.DeniedOperators, name) || len(j.AllowedOperators) > 0 && !slices.Contains(j.AllowedOperators, name) {
		return backend.Refuse(backend.RefusedOperator, fmt.Sprintf("the device does not take %s", name))
	}
	if f := j.model.Function(n.ID()); f != nil && n.Domain != graph.DomainAccel {
		for _, inner := range f.Nodes {
			if v := j.denied(inner, nil); !v.OK {
				return backend.Refuse(backend.RefusedFunction, fmt.Sprintf("function %s: %s", name, v.Reason))
			}
		}
	}
	return backend.Accept
}

// known asks the reference operators. Nodes with graphs inside and calls of
// functions are asked about as models of one node.
func (j *judge) known(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	var in []*graph.Type
	for _, name := range n.Inputs {
		in = append(in, types[name])
	}
	whole := j.model.Function(n.ID()) != nil
	for range n.Graphs() {
		whole = true
	}
	var err error
	if whole {
		err = j.alone(n, types)
	} else {
		err = reference.Supports(n, j.model.Opsets[n.Domain], in)
	}
	var u *reference.UnsupportedError
	switch {
	case err == nil:
		return backend.Accept
	case errors.As(err, &u) && len(u.Nodes) > 0:
		return backend.Refuse(backend.Refusal(u.Nodes[0].Cause), u.Error())
	}
	return backend.Refuse(backend.RefusedOperator, err.Error())
}

// alone makes a program of one node, the values around it being inputs.
func (j *judge) alone(n *graph.Node, types map[string]*graph.Type) error {
	m := *j.model
	m.Graph = &graph.Graph{Name: "node", Nodes: []*graph.Node{n}}
	for _, name := range slices.Concat(n.Inputs, n.Captures()) {
		if name == "" || slices.ContainsFunc(m.Graph.Inputs, func(v *graph.Value) bool { return v.Name == name }) {
			continue
		}
		m.Graph.Inputs = append(m.Graph.Inputs, &graph.Value{Name: name, Type: types[name]})
	}
	_, err := reference.New(&m, reference.Options{})
	return err
}

// elementTypes compares the types of a node's values with the device's.
func (j *judge) elementTypes(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	constant := n.Domain == graph.DomainONNX && n.OpType == "Constant"
	if constant {
		for _, o := range n.Outputs {
			if !j.face[o] {
				j.constants[o] = true
			}
		}
	}
	for _, name := range slices.Concat(n.Inputs, n.Outputs) {
		t := types[name]
		if name == "" || t == nil || t.Kind != graph.KindTensor || t.Elem == tensor.Undefined {
			continue
		}
		switch {
		case j.constants[name]:
			if !j.device.constants.takes(t.Elem) {
				return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("constant %s is of %s", name, t.Elem))
			}
		case !j.device.types.takes(t.Elem):
			return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("value %s is of %s", name, t.Elem))
		case j.face[name] && !j.faces.takes(t.Elem):
			return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("value %s is of %s, which no input or output of a graph may be", name, t.Elem))
		}
	}
	return backend.Accept
}

// shapes refuses dimensions that are not known, where the device wants them.
func (j *judge) shapes(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	if !j.StaticShapes {
		return backend.Accept
	}
	for _, name := range slices.Concat(n.Inputs, n.Outputs) {
		if name == "" {
			continue
		}
		t := types[name]
		switch {
		case t == nil && (j.tainted[name] || slices.ContainsFunc(n.Inputs, func(v string) bool { return j.tainted[v] })):
			// The operator that makes it is refused.
		case t == nil || t.Kind == graph.KindTensor && !t.HasShape:
			return backend.Refuse(backend.RefusedDynamicShape, fmt.Sprintf("the shape of %s is not known", name))
		case t.Kind == graph.KindTensor:
			for i, d := range t.Dims {
				if d.Size < 0 {
					return backend.Refuse(backend.RefusedDynamicShape, fmt.Sprintf("dimension %d of %s is %s", i, name, dimName(d)))
				}
			}
		}
	}
	return backend.Accept
}

func dimName(d graph.Dim) string {
	if d.Param != "" {
		return "symbolic (" + d.Param + ")"
	}
	return "not known"
}

// size refuses values that the device could never hold.
func (j *judge) size(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	for _, name := range slices.Concat(n.Inputs, n.Outputs) {
		if bytes, ok := byteSize(types[name]); ok && bytes > j.memory.limit {
			return backend.Refuse(backend.RefusedSize, fmt.Sprintf("value %s has %d bytes, the device %d", name, bytes, j.memory.limit))
		}
	}
	return backend.Accept
}

// byteSize is the size of a tensor of known shape. A shape too large to count has
// all the bytes there are.
func byteSize(t *graph.Type) (int64, bool) {
	if t == nil || t.Kind != graph.KindTensor || !t.HasShape {
		return 0, false
	}
	s := make(tensor.Shape, len(t.Dims))
	for i, d := range t.Dims {
		if d.Size < 0 {
			return 0, false
		}
		s[i] = d.Size
	}
	if t.Elem == tensor.String || !t.Elem.Valid() {
		return 0, false
	}
	bytes, err := tensor.ByteSize(t.Elem, s)
	if err != nil {
		return 1<<63 - 1, true
	}
	return bytes, true
}

// inside judges the nodes of the graphs that a node holds.
func (j *judge) inside(n *graph.Node, types map[string]*graph.Type) backend.Verdict {
	for g := range n.Graphs() {
		all := g.Types()
		for name, t := range types {
			if all[name] == nil {
				all[name] = t
			}
		}
		for _, in := range g.Initializers {
			j.constants[in.Name] = true
		}
		for _, inner := range g.Nodes {
			if v := j.node(inner, all); !v.OK {
				v.Reason = fmt.Sprintf("inside, node %s: %s", inner.Label(), v.Reason)
				return v
			}
		}
	}
	return backend.Accept
}
