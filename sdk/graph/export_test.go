package graph

import (
	"maps"
	"slices"
)

// Differentiable are the operators that have a derivative.
func Differentiable() []string { return slices.Sorted(maps.Keys(derivatives)) }

// ReadNode is node, for tests that run what they build.
func ReadNode(s string, attrs ...*Attr) *Node { return node(s, attrs...) }
