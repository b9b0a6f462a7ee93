package lower

import (
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// perm is the permutation of a Transpose, which without one reverses the axes.
func (s *simplifier) perm(n *graph.Node) ([]int64, bool) {
	if a := n.Attr("perm"); a != nil {
		return a.Ints, a.Kind == graph.AttrInts
	}
	d, ok := s.shape(n.Inputs[0])
	perm := make([]int64, len(d))
	for i := range perm {
		perm[i] = int64(len(d) - 1 - i)
	}
	return perm, ok
}

func isIdentity(perm []int64) bool {
	for i, p := range perm {
		if p != int64(i) {
			return false
		}
	}
	return true
}

// composed is what a transpose by first and then by second comes to.
func composed(first, second []int64) ([]int64, bool) {
	out := make([]int64, len(second))
	for i, p := range second {
		if p < 0 || p >= int64(len(first)) {
			return nil, false
		}
		out[i] = first[p]
	}
	return out, len(first) == len(second)
}

// maxMerges is how many transposes one run of the pass merges: each takes a look at
// the whole graph.
const maxMerges = 256

// mergeTransposes makes one of two transposes in a row, and removes two that undo
// each other around elementwise nodes. Each step leaves fewer transposes to run.
func mergeTransposes(s *simplifier) (int, error) {
	count := 0
	for count < maxMerges && s.mergeTranspose() {
		count++
		s.ix = graph.NewIndex(s.g)
	}
	return count, nil
}

// mergeTranspose does one such step.
func (s *simplifier) mergeTranspose() bool {
	for _, n := range s.g.Nodes {
		if !standard(n, "Transpose") || len(n.Inputs) != 1 {
			continue
		}
		perm, ok := s.perm(n)
		if !ok || isIdentity(perm) {
			continue
		}
		if p := s.ix.Producer(n.Inputs[0]); standard(p, "Transpose") && len(p.Inputs) == 1 {
			if inner, ok := s.perm(p); ok {
				if both, ok := composed(inner, perm); ok {
					n.Inputs[0] = p.Inputs[0]
					setInts(n, "perm", both)
					return true
				}
			}
		}
		l := lift{s: s, perm: perm}
		if l.value(n.Inputs[0], 0) && len(l.to) > 0 {
			l.apply()
			setInts(n, "perm", identity(len(perm)))
			return true
		}
	}
	return false
}

func identity(n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(i)
	}
	return out
}

func setInts(n *graph.Node, name string, v []int64) {
	n.Attrs = slices.DeleteFunc(n.Attrs, func(a *graph.Attr) bool { return a.Name == name })
	n.Attrs = append(n.Attrs, graph.IntsAttr(name, v...))
}

// elementwise operators give each element from those at the same place, with
// constants of one element beside.
var elementwise = map[string]bool{
	"Abs": true, "Ceil": true, "Cast": true, "Clip": true, "Elu": true, "Erf": true, "Exp": true, "Floor": true, "Gelu": true,
	"HardSigmoid": true, "HardSwish": true, "LeakyRelu": true, "Log": true, "Mish": true, "Neg": true, "Not": true, "Reciprocal": true,
	"Relu": true, "Round": true, "Selu": true, "Sigmoid": true, "Sign": true, "Softplus": true, "Softsign": true, "Sqrt": true,
	"Swish": true, "Tanh": true, "ThresholdedRelu": true,
	"Add": true, "Sub": true, "Mul": true, "Div": true, "Pow": true, "Max": true, "Min": true, "Sum": true, "Where": true,
}

// maxLift is how many elementwise nodes may lie between two transposes.
const maxLift = 16

// lift looks for transposes that undo a later one, with nothing but elementwise
// nodes in between that nobody else reads.
type lift struct {
	s     *simplifier
	perm  []int64 // of the later one
	nodes []*graph.Node
	to    []rewire
}

// rewire gives a node another input.
type rewire struct {
	n     *graph.Node
	input int
	name  string
}

// value reports whether what the later transpose reads as name can be had already
// transposed.
func (l *lift) value(name string, depth int) bool {
	n := l.s.ix.Producer(name)
	if n == nil || depth > maxLift || len(l.nodes) > maxLift || n.Domain != graph.DomainONNX || !elementwise[n.OpType] ||
		!l.s.only(name) || len(n.Outputs) != 1 {
		return false
	}
	l.nodes = append(l.nodes, n)
	for i, in := range n.Inputs {
		if in == "" || l.scalar(in) {
			continue
		}
		if d, ok := l.s.shape(in); !ok || len(d) != len(l.perm) {
			return false // broadcasting would line up other axes
		}
		p := l.s.ix.Producer(in)
		if standard(p, "Transpose") && len(p.Inputs) == 1 {
			inner, ok := l.s.perm(p)
			if !ok {
				return false
			}
			if both, ok := composed(inner, l.perm); !ok || !isIdentity(both) {
				return false
			}
			l.to = append(l.to, rewire{n, i, p.Inputs[0]})
			continue
		}
		if !l.value(in, depth+1) {
			return false
		}
	}
	return true
}

// scalar reports whether the value is a constant of one element and no more axes
// than the others.
func (l *lift) scalar(name string) bool {
	t, ok := l.s.constOf(name)
	return ok && t.DType != tensor.Undefined && len(t.Shape) <= len(l.perm) && t.Len() == 1
}

func (l *lift) apply() {
	for _, c := range l.to {
		c.n.Inputs[c.input] = c.name
	}
	for _, n := range l.nodes {
		l.s.forget(n.Outputs...)
	}
}
