package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// Limits of what is computed once, while planning: masks, positions, rotary
// tables. Weights are left to the operations that pack them.
const (
	foldElements = 1 << 20 // of a result
	foldWeight   = 1 << 12 // of an operand that the model stores
)

// fold computes what depends on constants and shapes alone. A value that is folded
// gets a name that tells its content: at other shapes it is another one, and what is
// kept by name (packed weights) must not be mistaken.
func (p *planner) fold() {
	stored := map[string]bool{}
	for _, in := range p.model.Graph.Initializers {
		stored[in.Name] = true
	}
	renamed := map[string]string{}
	nodes := make([]*graph.Node, 0, len(p.model.Graph.Nodes))
	for _, n := range p.model.Graph.Nodes {
		n.Inputs = slices.Clone(n.Inputs)
		for i, in := range n.Inputs {
			if to, ok := renamed[in]; ok {
				n.Inputs[i] = to
			}
		}
		values := p.folded(n, stored)
		if values == nil {
			nodes = append(nodes, n)
			continue
		}
		for i, t := range values {
			if n.Outputs[i] == "" {
				continue
			}
			sum := sha256.Sum256(append([]byte(t.DType.String()+t.Shape.String()), t.Data...))
			name := n.Outputs[i] + "#" + hex.EncodeToString(sum[:12])
			renamed[n.Outputs[i]] = name
			p.constants[name] = &graph.Initializer{Name: name, Tensor: t}
		}
	}
	p.model.Graph.Nodes = nodes
}

// folded are the values of a node that is computed while planning; nil if it is not.
func (p *planner) folded(n *graph.Node, stored map[string]bool) []tensor.Tensor {
	if p.done[n] || n.Domain != graph.DomainONNX || len(n.Inputs) == 0 || strings.HasPrefix(n.OpType, "Random") ||
		n.OpType == "Bernoulli" || n.OpType == "Multinomial" || n.OpType == "Dropout" {
		return nil
	}
	for range n.Graphs() {
		return nil
	}
	in := make([]graph.Datum, len(n.Inputs))
	for i, name := range n.Inputs {
		if name == "" {
			continue
		}
		c := p.constants[name]
		if c == nil || stored[name] && p.elements(name) > foldWeight {
			return nil
		}
		in[i] = graph.TensorDatum(c.Tensor.Aligned())
	}
	for _, out := range n.Outputs {
		if out == "" {
			continue
		}
		if _, ok := p.shape(out); !ok || p.elements(out) > foldElements || p.index.IsOutput(out) {
			return nil
		}
		// A graph inside a node reads values by the names that they have.
		if slices.ContainsFunc(p.index.Uses(out), func(u graph.Use) bool { return u.Input < 0 }) {
			return nil
		}
	}
	op, ok := reference.Lookup(n.Domain, n.OpType, p.model.Opsets[n.Domain])
	if !ok {
		return nil
	}
	out, err := op.Eval(context.Background(), n, in, reference.Env{Opsets: p.model.Opsets})
	if err != nil {
		return nil // it fails as it runs, and says why
	}
	values := make([]tensor.Tensor, len(out))
	for i, v := range out {
		if n.Outputs[i] == "" {
			continue
		}
		if v.Kind != graph.KindTensor || v.Tensor.DType == tensor.String {
			return nil
		}
		values[i] = v.Tensor
	}
	return values
}
