package models

import (
	"maps"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
)

// Matrix is a stored matrix [Rows, Columns] of which the graphs read nothing but
// products with it and rows of it, so that it may be stored quantised.
type Matrix struct {
	Name          string // of the tensor; of one that is quantised without the endings of its parts
	Rows, Columns int64
	Uses          []Use // in the order of components
}

// Use is a node that reads a matrix.
type Use struct {
	Component string
	// Node is called SCOPE/Operator, where the scope ends with the role, such as
	// decoder.layer.0.attention.q. Its output is [..., Rows], or [..., Columns] of rows
	// that are looked up. A table that is read whole, in order, has none until it is quantised.
	Node   string
	Lookup bool // rows are looked up
}

// Scope is what the node stands in.
func (u Use) Scope() string { return u.Node[:max(strings.LastIndexByte(u.Node, '/'), 0)] }

// matrix notes the use of a matrix by a node. stored is its tensor, or that of its codes.
func (w *weights) matrix(n net, stored string, rows, columns int64, node string) {
	if w.err != nil {
		return
	}
	name := strings.TrimSuffix(stored, checkpoint.CodesSuffix)
	if _, ok := w.ck.Quantized(name); !ok {
		name = stored
	}
	if w.uses == nil {
		w.uses = map[string]*Matrix{}
	}
	m := w.uses[name]
	if m == nil {
		m = &Matrix{Name: name, Rows: rows, Columns: columns}
		w.uses[name] = m
	}
	m.Uses = append(m.Uses, Use{n.name, node, strings.Contains(node, "/Gather")})
}

// matrices are those that nothing reads in another way, by name.
func (w *weights) matrices() []Matrix {
	var list []Matrix
	for _, name := range slices.Sorted(maps.Keys(w.uses)) {
		if m := w.uses[name]; w.reads[name] == 0 || w.reads[name] == len(m.Uses) {
			list = append(list, *m)
		}
	}
	return list
}
