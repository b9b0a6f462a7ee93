package graph

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

// BindError says that sizes can't be given to symbolic dimensions.
type BindError struct {
	Name   string
	Reason string
}

func (e *BindError) Error() string { return fmt.Sprintf("dimension %q: %s", e.Name, e.Reason) }

// Symbols lists the names of the symbolic dimensions of the model's inputs,
// sorted. Expressions count by the names in them.
func (m *Model) Symbols() []string {
	names := map[string]bool{}
	for _, v := range m.Graph.Inputs {
		v.Type.eachDim(func(d *Dim) {
			if d.Param != "" {
				parseExpr(d.Param).names(func(s string) { names[s] = true })
			}
		})
	}
	return slices.Sorted(maps.Keys(names))
}

// eachDim calls f for the dimensions of a type and those inside it.
func (t *Type) eachDim(f func(*Dim)) {
	for ; t != nil; t = t.Of {
		for i := range t.Dims {
			f(&t.Dims[i])
		}
	}
}

// Bind gives sizes to symbolic dimensions and infers all types anew. Names that
// sizes does not have stay symbolic. What then is known of computed shapes is put
// in as initializers, and the nodes that computed it are removed, with all else
// that no output depends on: with every symbol bound, no shape is computed at run
// time, save where sizes depend on the values of inputs. Bind(m, nil) just does
// that.
//
// A name may also be a whole expression, as an input's dimension is written.
// Errors are *BindError (no input has the name, or the size is negative) and
// Infer's. On error the model is unchanged.
func Bind(m *Model, sizes map[string]int64) error {
	known := map[string]bool{}
	for _, s := range m.Symbols() {
		known[s] = true
	}
	for _, v := range m.Graph.Inputs {
		v.Type.eachDim(func(d *Dim) { known[d.Param] = true })
	}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		switch {
		case name == "" || !known[name]:
			return &BindError{name, fmt.Sprintf("no input of %q has it; they have %s", m.Graph.Name, strings.Join(m.Symbols(), ", "))}
		case sizes[name] < 0:
			return &BindError{name, fmt.Sprintf("its size can't be %d", sizes[name])}
		}
	}
	c := m.Clone()
	for g := range c.Graphs() {
		for _, vs := range [][]*Value{g.Inputs, g.Outputs, g.Values} {
			for _, v := range vs {
				v.Type.eachDim(func(d *Dim) { *d = d.bind(sizes) })
			}
		}
	}
	// Names of values between nodes are taken at their word only where nothing
	// better is known.
	f, err := infer(c, false, maxVisits)
	if err != nil {
		return discard(c, err)
	}
	for g := range c.Graphs() {
		fold(g, f.all[g])
	}
	c.Prune()
	m.Graph, m.Functions = c.Graph, c.Functions
	return discard(c, nil)
}

func (d Dim) bind(sizes map[string]int64) Dim {
	if d.Param == "" {
		return d
	}
	if n, ok := sizes[d.Param]; ok {
		return Known(n)
	}
	e := parseExpr(d.Param)
	bound, ok := e.bind(sizes)
	switch {
	case !ok:
		return Dim{Size: -1}
	case bound.eq(e):
		return d
	}
	return bound.dim()
}

// fold puts integers that are known in the place of the nodes that compute them.
func fold(g *Graph, values map[string]*value) {
	outputs := make(map[string]bool, len(g.Outputs))
	for _, v := range g.Outputs {
		outputs[v.Name] = true
	}
	g.Nodes = keep(g.Nodes, func(n *Node) bool {
		if n.OpType == "Constant" && n.Domain == DomainONNX {
			return true
		}
		var made []*Initializer
		for _, name := range n.Outputs {
			if name == "" {
				continue
			}
			t, ok := values[name].constant()
			if !ok || outputs[name] {
				return true
			}
			made = append(made, &Initializer{Name: name, Tensor: t})
		}
		g.Initializers = append(g.Initializers, made...)
		return false
	})
}

// constant is the tensor that v is known to be.
func (v *value) constant() (tensor.Tensor, bool) {
	list, ok := v.numbers()
	shape, known := v.shape()
	if !ok || !known {
		return tensor.Tensor{}, false
	}
	t, err := tensor.New(v.elem, shape)
	if err != nil || t.Len() != len(list) {
		return tensor.Tensor{}, false
	}
	for i, n := range list {
		switch v.elem {
		case tensor.Int64:
			binary.LittleEndian.PutUint64(t.Data[8*i:], uint64(n))
		case tensor.Int32:
			binary.LittleEndian.PutUint32(t.Data[4*i:], uint32(n))
		case tensor.Bool, tensor.Uint8:
			t.Data[i] = byte(n)
		default:
			return tensor.Tensor{}, false
		}
	}
	return t, true
}
