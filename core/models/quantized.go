package models

import (
	"slices"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// accuracyLevels are MatMulNBits' and MatMulBlocks' accuracy_level by
// Options.Activations.
var accuracyLevels = map[string]int64{"f32": 1, "bf16": 3, "int8": 4}

// quantized says how a matrix [rows, columns] is stored, where it is quantised, and
// makes its parts initialisers: codes, scales, and mins or "".
func (n net) quantized(name string, rows, columns int64) (parts []string, q checkpoint.Quantized, ok bool) {
	stored, q, ok := n.w.quantized(name, rows, columns)
	if !ok {
		return nil, q, false
	}
	for _, suffix := range []string{checkpoint.CodesSuffix, checkpoint.ScalesSuffix, checkpoint.MinsSuffix} {
		part := ""
		if suffix != checkpoint.MinsSuffix || q.Mins {
			part = stored + suffix
			n.place(part)
		}
		parts = append(parts, part)
	}
	return parts, q, true
}

// place makes a stored tensor an initialiser, whatever it is; checkpoint.Open has
// held the parts of quantised weights against each other.
func (n net) place(name string) {
	n.w.used[name] = true
	if n.placed[name] || n.w.err != nil {
		return
	}
	e, err := n.w.ck.Tensor(name)
	if err != nil {
		n.w.err = err
		return
	}
	n.placed[name] = true
	n.Weight(name, e.DType, e.Shape, graph.External{Path: e.File, Offset: e.Offset, Length: e.Length})
}

// timesQuantized multiplies by a quantised matrix.
func (n net) timesQuantized(x string, parts []string, q checkpoint.Quantized) string {
	attrs := []*graph.Attr{graph.IntAttr("K", q.K), graph.IntAttr("N", q.N), graph.IntAttr("bits", q.Bits), graph.IntAttr("accuracy_level", accuracyLevels[n.o.Activations])}
	node := &graph.Node{Domain: graph.DomainMicrosoft, OpType: q.Operator, Inputs: trimmed(append([]string{x}, parts...))}
	if q.Operator == checkpoint.MatMulNBits {
		node.Attrs = append(attrs, graph.IntAttr("block_size", q.Block))
	} else {
		node.Domain, node.Attrs = graph.DomainAccel, append(attrs, graph.IntAttr("block", q.Block))
		n.Function(graph.ContractFunctionOf(node))
	}
	return n.Node(node, 1)[0]
}

// rounds reports whether a graph lets activations be rounded, or rounds them itself.
func rounds(m *graph.Model, activations string) bool {
	return slices.ContainsFunc(m.Graph.Nodes, func(n *graph.Node) bool {
		return n.AttrInt("accuracy_level", 0) == accuracyLevels[activations] ||
			activations == "bf16" && n.OpType == "Cast" && n.AttrInt("to", 0) == int64(tensor.BFloat16)
	})
}

// gatherQuantized looks ids up in a quantised table.
func (n net) gatherQuantized(ids string, parts []string, q checkpoint.Quantized) string {
	node := &graph.Node{Domain: graph.DomainAccel, OpType: "GatherBlocks", Inputs: append(parts, ids),
		Attrs: []*graph.Attr{graph.IntAttr("bits", q.Bits), graph.IntAttr("block", q.Block), graph.IntAttr("K", q.K)}}
	n.Function(graph.ContractFunctionOf(node))
	return n.Node(node, 1)[0]
}

// quantized finds a quantised matrix. One of another shape is an error.
func (w *weights) quantized(name string, rows, columns int64) (string, checkpoint.Quantized, bool) {
	if w.err != nil {
		return "", checkpoint.Quantized{}, false
	}
	stored, q, ok := w.codes(name)
	if ok && (q.N != rows || q.K != columns) {
		w.err = &checkpoint.Error{File: w.ck.Dir, Field: "tensor " + stored, Found: "its shape is " + tensor.Shape{q.N, q.K}.String(),
			Wanted: tensor.Shape{rows, columns}.String(), Remedy: "config.json and the weights are of different models"}
		return "", q, false
	}
	return stored, q, ok
}

// codes is what the checkpoint calls a matrix that is stored quantised, and how that is.
func (w *weights) codes(name string) (string, checkpoint.Quantized, bool) {
	for _, stored := range []string{w.prefix + name, w.outer + name, name} {
		if q, ok := w.ck.Quantized(stored); ok {
			return stored, q, true
		}
	}
	return "", checkpoint.Quantized{}, false
}

// isQuantized reports whether a matrix is stored quantised.
func (w *weights) isQuantized(name string) bool {
	_, _, ok := w.codes(name)
	return ok
}
