package graph

import (
	"math"
	"slices"

	"github.com/accelhq/accel/sdk/tensor"
)

// Footprint is about how much memory a model takes where it runs.
type Footprint struct {
	Weights int64 // bytes of all constants
	// Peak is the most bytes that values hold at a time when nodes run in order, each
	// value freed after its last use. Loops hold one round.
	Peak int64
	// Open is how many values were not counted: strings, sequences, and tensors of a
	// size that types do not tell. Where it is 0, all is counted.
	Open int
}

// Total is the sum of both, or the largest int64.
func (f Footprint) Total() int64 { return addBytes(f.Weights, f.Peak) }

// sharing are operators whose result is their first input's memory.
var sharing = []string{"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}

// FootprintOf counts what a model declares: infer or bind it before, to have more
// known. Nothing is allocated, so that a model can be refused that would not fit.
// Functions count by the values that their calls give.
func FootprintOf(m *Model) Footprint {
	var f Footprint
	if m.Graph != nil {
		f.Peak = f.graph(m.Graph)
	}
	return f
}

// graph is the peak of a graph's own values; its weights are added to f.
func (f *Footprint) graph(g *Graph) int64 {
	types := g.Types()
	for _, in := range g.Initializers {
		if n, ok := byteSize(types[in.Name]); ok {
			f.Weights = addBytes(f.Weights, n)
		}
	}
	// Values that share memory live as long as the last of them.
	root := map[string]string{}
	rootOf := func(name string) string {
		if r, ok := root[name]; ok {
			return r
		}
		return name
	}
	made, last := map[string]bool{}, map[string]int{}
	for i, n := range g.Nodes {
		for _, name := range n.Inputs {
			last[rootOf(name)] = i
		}
		for _, name := range n.Captures() {
			last[rootOf(name)] = i
		}
		for _, o := range n.Outputs {
			switch {
			case o == "":
			case n.Domain == DomainONNX && slices.Contains(sharing, n.OpType) && len(n.Inputs) > 0:
				root[o] = rootOf(n.Inputs[0])
			default:
				made[o] = true
				last[o] = i
			}
		}
	}
	for _, o := range g.Outputs {
		last[rootOf(o.Name)] = len(g.Nodes)
	}
	dying := map[int][]string{}
	for name, i := range last {
		if made[name] {
			dying[i] = append(dying[i], name)
		}
	}
	held, peak := int64(0), int64(0)
	for i, n := range g.Nodes {
		inside := int64(0)
		for sub := range n.Graphs() {
			inside = max(inside, f.graph(sub)) // one branch runs, or one body
		}
		peak = max(peak, addBytes(held, inside))
		for _, o := range n.Outputs {
			if !made[o] {
				continue
			}
			if n, ok := byteSize(types[o]); ok {
				held = addBytes(held, n)
			} else {
				f.Open++
			}
		}
		peak = max(peak, held)
		for _, name := range dying[i] {
			if n, ok := byteSize(types[name]); ok {
				held -= n
			}
		}
	}
	return peak
}

// byteSize is the size of a tensor of known shape. A shape too large to count has
// the largest size.
func byteSize(t *Type) (int64, bool) {
	if t == nil || t.Kind != KindTensor || !t.HasShape || t.Elem == tensor.Undefined || t.Elem == tensor.String {
		return 0, false
	}
	shape := make(tensor.Shape, len(t.Dims))
	for i, d := range t.Dims {
		if shape[i] = d.Size; d.Param != "" || d.Size < 0 {
			return 0, false
		}
	}
	n, err := tensor.ByteSize(t.Elem, shape)
	if err != nil {
		return math.MaxInt64, true
	}
	return n, true
}

func addBytes(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
