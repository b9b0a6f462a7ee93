package graph

import (
	"maps"
	"slices"
)

// Clone copies a model. Structure is copied, the bytes of tensors are shared; a
// mapping that the model holds stays until both are closed.
func (m *Model) Clone() *Model {
	c := *m
	c.Opsets = maps.Clone(m.Opsets)
	c.Metadata = maps.Clone(m.Metadata)
	if m.Graph != nil {
		c.Graph = m.Graph.Clone()
	}
	c.Functions = cloneAll(m.Functions, (*Function).Clone)
	if c.files != nil {
		c.files.retain()
	}
	return &c
}

// Clone copies a graph; the bytes of tensors are shared.
func (g *Graph) Clone() *Graph {
	c := *g
	c.Metadata = maps.Clone(g.Metadata)
	c.Nodes = cloneAll(g.Nodes, (*Node).Clone)
	c.Inputs = cloneAll(g.Inputs, (*Value).Clone)
	c.Outputs = cloneAll(g.Outputs, (*Value).Clone)
	c.Values = cloneAll(g.Values, (*Value).Clone)
	c.Initializers = cloneAll(g.Initializers, (*Initializer).Clone)
	return &c
}

// Clone copies a node and the graphs among its attributes.
func (n *Node) Clone() *Node {
	c := *n
	c.Inputs = slices.Clone(n.Inputs)
	c.Outputs = slices.Clone(n.Outputs)
	c.Attrs = cloneAll(n.Attrs, (*Attr).Clone)
	c.Metadata = maps.Clone(n.Metadata)
	return &c
}

// Clone copies an attribute; the bytes of tensors are shared.
func (a *Attr) Clone() *Attr {
	c := *a
	if a.Tensor != nil {
		c.Tensor = a.Tensor.Clone()
	}
	if a.Graph != nil {
		c.Graph = a.Graph.Clone()
	}
	if a.Type != nil {
		c.Type = a.Type.Clone()
	}
	c.Floats = slices.Clone(a.Floats)
	c.Ints = slices.Clone(a.Ints)
	c.Strings = slices.Clone(a.Strings)
	c.Tensors = cloneAll(a.Tensors, (*Initializer).Clone)
	c.Graphs = cloneAll(a.Graphs, (*Graph).Clone)
	c.Types = cloneAll(a.Types, (*Type).Clone)
	c.Raw = slices.Clone(a.Raw)
	return &c
}

// Clone copies an initializer; its bytes are shared.
func (in *Initializer) Clone() *Initializer {
	c := *in
	c.Metadata = maps.Clone(in.Metadata)
	c.Tensor.Shape = in.Tensor.Shape.Clone()
	if in.External != nil {
		e := *in.External
		c.External = &e
	}
	return &c
}

// Clone copies a value and its type.
func (v *Value) Clone() *Value {
	c := *v
	c.Metadata = maps.Clone(v.Metadata)
	if v.Type != nil {
		c.Type = v.Type.Clone()
	}
	return &c
}

// Clone copies a type.
func (t *Type) Clone() *Type {
	c := *t
	c.Dims = slices.Clone(t.Dims)
	if t.Of != nil {
		c.Of = t.Of.Clone()
	}
	return &c
}

// Clone copies a function.
func (f *Function) Clone() *Function {
	c := *f
	c.Inputs = slices.Clone(f.Inputs)
	c.Outputs = slices.Clone(f.Outputs)
	c.Attrs = slices.Clone(f.Attrs)
	c.Defaults = cloneAll(f.Defaults, (*Attr).Clone)
	c.Nodes = cloneAll(f.Nodes, (*Node).Clone)
	c.Opsets = maps.Clone(f.Opsets)
	c.Values = cloneAll(f.Values, (*Value).Clone)
	c.Metadata = maps.Clone(f.Metadata)
	return &c
}

func cloneAll[T any](s []*T, clone func(*T) *T) []*T {
	if s == nil {
		return nil
	}
	out := make([]*T, len(s))
	for i, v := range s {
		out[i] = clone(v)
	}
	return out
}
