package lower

import (
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// Bounds of constant folding.
const (
	maxFoldedValue  = 64 << 10 // bytes of a folded value that replaces no constant as large
	maxFoldedBytes  = 16 << 20 // bytes that a model may grow by in all
	maxFoldedFLOPs  = 1 << 27  // operations of a node: the reference is slow
	maxFoldedInputs = 64 << 20 // bytes that a node may read
)

// notFolded are operators whose results differ from run to run; Constant, which is
// folded already; and DequantizeLinear, by which a device knows that it may compute in
// few bits.
var notFolded = map[string]bool{
	"Constant": true, "DequantizeLinear": true, "RandomNormal": true, "RandomUniform": true, "RandomNormalLike": true, "RandomUniformLike": true,
	"Bernoulli": true, "Multinomial": true, "Dropout": true,
}

// foldConstants puts constants in the place of nodes whose values are known: small
// integers that inference has found, and what sdk/reference computes from
// constants. A large value only replaces constants of the model file that are as
// large and that nobody else reads: neither does an expanded constant go into the
// file, nor a weight that lies in a file of its own. A node that can't be computed
// stays, and fails when it is run.
func foldConstants(s *simplifier) (int, error) {
	gone := map[*graph.Node]bool{}
	made := map[string]bool{}
	for _, n := range slices.Clone(s.g.Nodes) {
		if n.OpType == "Constant" && n.Domain == graph.DomainONNX || s.givenOut(n) {
			continue
		}
		values, ok := s.inferred(n)
		if !ok {
			if err := s.ctx.Err(); err != nil {
				return 0, err
			}
			if values, ok = s.computed(n); !ok {
				continue
			}
		}
		for i, name := range n.Outputs {
			if name != "" {
				s.constant(name, values[i])
				made[name] = true
			}
		}
		gone[n] = true
	}
	s.g.Nodes = slices.DeleteFunc(s.g.Nodes, func(n *graph.Node) bool { return gone[n] })
	s.g.Values = slices.DeleteFunc(s.g.Values, func(v *graph.Value) bool { return made[v.Name] })
	return len(gone), nil
}

// givenOut reports whether the graph gives out what the node makes. Such a node
// stays: a graph that gives out a constant is more than some devices take.
func (s *simplifier) givenOut(n *graph.Node) bool {
	return slices.ContainsFunc(n.Outputs, s.ix.IsOutput)
}

// inferred is the outputs where inference knows them all.
func (s *simplifier) inferred(n *graph.Node) ([]tensor.Tensor, bool) {
	out := make([]tensor.Tensor, len(n.Outputs))
	found := false
	for i, name := range n.Outputs {
		if name == "" {
			continue
		}
		t, ok := s.known[name]
		if !ok {
			return nil, false
		}
		out[i], found = t, true
	}
	return out, found
}

// computed is the outputs where the inputs are constants, and it is worth it.
func (s *simplifier) computed(n *graph.Node) ([]tensor.Tensor, bool) {
	if notFolded[n.OpType] || len(n.Inputs) == 0 || s.m.Function(n.ID()) != nil {
		return nil, false
	}
	if slices.ContainsFunc(n.Attrs, func(a *graph.Attr) bool { return a.Graph != nil || len(a.Graphs) > 0 }) {
		return nil, false
	}
	op, ok := reference.Lookup(n.Domain, n.OpType, s.m.Opsets[n.Domain])
	if !ok {
		return nil, false
	}
	inputs := make([]graph.Datum, len(n.Inputs))
	var read, freed int64
	for i, name := range n.Inputs {
		if name == "" {
			continue
		}
		t, ok := s.constOf(name)
		if !ok || t.DType == tensor.String {
			return nil, false
		}
		inputs[i] = graph.Datum{Kind: graph.KindTensor, Tensor: t.Aligned()}
		read += int64(len(t.Data))
		if in := s.own[name]; in != nil && in.External == nil && s.only(name) {
			freed += int64(len(t.Data))
		}
	}
	limit := max(maxFoldedValue, freed)
	types := map[string]*graph.Type{}
	for _, name := range slices.Concat(n.Inputs, n.Outputs) {
		types[name] = s.typeOf(name)
	}
	if f, ok := graph.FLOPs(n, types); read > maxFoldedInputs || ok && f > maxFoldedFLOPs {
		return nil, false
	}
	for _, name := range n.Outputs {
		// What is known to be too large is not computed.
		if d, ok := s.dims(name); ok {
			if size, err := tensor.ByteSize(s.elem(name), d); err == nil && size > limit {
				return nil, false
			}
		}
	}
	out, err := op.Eval(s.ctx, n, inputs, reference.Env{Opsets: s.m.Opsets, MaxBytes: 4*limit + 16*read})
	if err != nil {
		return nil, false
	}
	values := make([]tensor.Tensor, len(out))
	var size int64
	for i, v := range out {
		if i >= len(n.Outputs) || n.Outputs[i] == "" {
			continue
		}
		if v.Kind != graph.KindTensor || v.Tensor.DType == tensor.String || !s.fits(n.Outputs[i], v.Tensor) {
			return nil, false
		}
		values[i] = v.Tensor
		size += int64(len(v.Tensor.Data))
	}
	if size > limit || size-freed > *s.budget {
		return nil, false
	}
	*s.budget -= max(size-freed, 0)
	return values, true
}

// fits reports whether a computed value is what inference expects; where it is not,
// the mistake is left to be found where it is not hidden.
func (s *simplifier) fits(name string, v tensor.Tensor) bool {
	t := s.typeOf(name)
	if t == nil {
		return true
	}
	if t.Kind != graph.KindTensor || t.Elem != tensor.Undefined && t.Elem != v.DType || t.HasShape && len(t.Dims) != len(v.Shape) {
		return false
	}
	for i, d := range t.Dims {
		if d.Param == "" && d.Size >= 0 && d.Size != v.Shape[i] {
			return false
		}
	}
	return true
}
