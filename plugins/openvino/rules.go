package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// rules refuse what the runtime takes and gets wrong, and what it fails at without a
// word. All else is found by trying.
var rules = []func(*surroundings, *graph.Node) backend.Verdict{functions, values, ranges, misread, rounding}

// functions refuses calls of a model's functions, which the reader does not know.
func functions(s *surroundings, n *graph.Node) backend.Verdict {
	if s.model.Function(n.ID()) != nil || n.Domain == graph.DomainAccel {
		return backend.Refuse(backend.RefusedFunction, "functions are taken by their bodies")
	}
	return backend.Accept
}

// values refuses nodes on what is no tensor of a type that the runtime has, or that it
// computes in another: the CPU computes float64 as float32, and the wide unsigned
// integers as int32.
func values(s *surroundings, n *graph.Node) backend.Verdict {
	for _, name := range slices.Concat(n.Inputs, n.Outputs) {
		t := s.types[name]
		if name == "" || t == nil {
			continue
		}
		switch {
		case t.Kind != graph.KindTensor:
			return backend.Refuse(backend.RefusedElementType, name+" is no tensor")
		case t.Elem == tensor.String || t.Elem != tensor.Undefined && !ov.Has(t.Elem):
			return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("%s is of %s", name, t.Elem))
		case t.Elem == tensor.Float64 || t.Elem == tensor.Uint32 || t.Elem == tensor.Uint64:
			return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("%s is of %s, which OpenVINO would compute in fewer bits", name, t.Elem))
		}
	}
	return backend.Accept
}

// narrowArithmetic are operators whose results on integers of 8 and 16 bits wrap
// around, where the runtime computes in 32 bits and saturates.
var narrowArithmetic = []string{"Add", "Sub", "Mul", "Pow", "Neg", "Abs", "Sum", "CumSum", "BitShift", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceSumSquare"}

// ranges refuses integers that the runtime does not hold: it computes int64 in 32 bits.
// Inputs of the graph are looked at when they come.
func ranges(s *surroundings, n *graph.Node) backend.Verdict {
	if n.Domain != graph.DomainONNX {
		return backend.Accept
	}
	if slices.Contains(narrowArithmetic, n.OpType) && len(n.Inputs) > 0 {
		if t := s.types[n.Inputs[0]]; t != nil {
			switch t.Elem {
			case tensor.Int8, tensor.Uint8, tensor.Int16, tensor.Uint16:
				return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("%s of %s would saturate where it has to wrap around", n.OpType, t.Elem))
			}
		}
	}
	// An end beyond all ends is one at 32 bits too.
	if n.OpType == "Slice" || n.OpType == "Clip" {
		return backend.Accept
	}
	for _, name := range n.Inputs {
		c := s.constants[name]
		if c == nil || c.Tensor.DType != tensor.Int64 || c.Tensor.Data == nil {
			continue
		}
		if v, ok := beyondInt32(tensor.View[int64](c.Tensor.Aligned())); ok {
			return backend.Refuse(backend.RefusedElementType, fmt.Sprintf("constant %s holds %d, and OpenVINO computes int64 in 32 bits", name, v))
		}
	}
	return backend.Accept
}

// beyondInt32 is the first value that 32 bits do not hold.
func beyondInt32(values []int64) (int64, bool) {
	for _, v := range values {
		if v != int64(int32(v)) {
			return v, true
		}
	}
	return 0, false
}

// misreading is a use of an operator of ONNX that OpenVINO 2026.4 takes and computes as
// something else.
type misreading struct {
	op   string
	when func(*surroundings, *graph.Node) bool
	why  string
}

// misreadings were found with ONNX's own tests and with the nodes of real graphs. A
// node may fit several.
var misreadings = []misreading{
	{"Attention", func(_ *surroundings, n *graph.Node) bool {
		return n.AttrInt("left_window_size", -1) >= 0 || n.AttrInt("right_window_size", -1) >= 0
	}, "windows are left out"},
	{"Attention", func(_ *surroundings, n *graph.Node) bool {
		return n.AttrInt("is_causal", 0) != 0 && reads(n, 6)
	}, "with nonpad_kv_seqlen it is not causal"},
	{"Attention", func(_ *surroundings, n *graph.Node) bool {
		return n.AttrInt("is_causal", 0) != 0 && gives(n, 3)
	}, "qk_matmul_output has no causal mask"},
	{"Attention", func(s *surroundings, n *graph.Node) bool {
		return n.AttrInt("q_num_heads", 0) == 0 && (!s.known(n.Inputs[0], 1) || !s.known(n.Inputs[1], 1))
	}, "heads that are not known to share keys do not"},
	{"BitShift", func(s *surroundings, n *graph.Node) bool {
		t := s.types[n.Inputs[0]]
		return t == nil || t.Elem == tensor.Int32 || t.Elem == tensor.Int64
	}, "signs are not kept, nor shifts of all bits"},
	{"Cast", toSmallFloat, "what is too large becomes infinite, not the largest number"},
	{"CastLike", toSmallFloat, "what is too large becomes infinite, not the largest number"},
	{"Col2Im", func(s *surroundings, n *graph.Node) bool {
		return !s.constant(n, 1) || !s.constant(n, 2)
	}, "sizes that are computed end the process where they are zero"},
	{"DFT", func(s *surroundings, n *graph.Node) bool {
		if n.AttrInt("onesided", 0) != 0 && (n.AttrInt("inverse", 0) != 0 || s.opset() >= 20) {
			return true
		}
		if s.opset() < 20 { // the axis is an attribute
			return n.AttrInt("axis", 1) < 0
		}
		axis, ok := s.scalar(n, 2, -2)
		return !ok || axis != 1 && axis != 1-s.rank(n, 0)
	}, "the axis is taken to be 1, and half of the result for the whole"},
	{"LSTM", func(_ *surroundings, n *graph.Node) bool { return reads(n, 7) }, "peepholes are left out"},
	{"LSTM", given("layout"), "the layout is taken to be 0"},
	{"GRU", given("layout"), "the layout is taken to be 0"},
	{"RNN", given("layout"), "the layout is taken to be 0"},
	{"QuantizeLinear", func(s *surroundings, n *graph.Node) bool {
		return s.rank(n, 1) > 0 && s.open(n.Inputs[0])
	}, "by axis and with sizes that are not known it wraps around"},
	{"Range", func(s *surroundings, n *graph.Node) bool {
		t := s.types[n.Outputs[0]]
		return !s.constant(n, 2) && (t == nil || !t.Elem.IsFloat())
	}, "a step of zero ends the process"},
	{"ReduceLogSum", func(s *surroundings, n *graph.Node) bool {
		return n.AttrInt("noop_with_empty_axes", 0) != 0
	}, "where there are no axes it leaves out the logarithm"},
	{"Resize", given("antialias", "exclude_outside"), "antialias and exclude_outside are left out"},
	{"Resize", func(_ *surroundings, n *graph.Node) bool {
		return n.AttrString("keep_aspect_ratio_policy", "stretch") != "stretch"
	}, "the policy is taken to be stretch"},
	{"Resize", func(_ *surroundings, n *graph.Node) bool {
		return n.AttrString("coordinate_transformation_mode", "") == "align_corners" && reads(n, 2)
	}, "scales are rounded to the sizes that they give"},
	{"RoiAlign", func(_ *surroundings, n *graph.Node) bool { return n.AttrString("mode", "avg") == "max" }, "it takes the largest of other samples"},
	{"com.microsoft.DynamicQuantizeMatMul", always, "activations are rounded otherwise"},
	{"com.microsoft.QLinearMul", always, "it wraps around where it has to saturate"},
	{"SpaceToDepth", func(_ *surroundings, n *graph.Node) bool { return n.AttrString("mode", "DCR") != "DCR" }, "the mode is taken to be DCR"},
	{"Tile", func(s *surroundings, n *graph.Node) bool {
		const most = 2 // dimensions that are surely repeated right
		return !s.constant(n, 1) && s.repeated(n.Inputs[1]) > most
	}, "computed repeats of three dimensions and more may give what was in memory"},
}

// given is true of nodes that have one of the attributes, other than 0.
func given(names ...string) func(*surroundings, *graph.Node) bool {
	return func(_ *surroundings, n *graph.Node) bool {
		return slices.ContainsFunc(names, func(name string) bool { return n.AttrInt(name, 0) != 0 })
	}
}

func always(*surroundings, *graph.Node) bool { return true }

func reads(n *graph.Node, i int) bool { return i < len(n.Inputs) && n.Inputs[i] != "" }

func gives(n *graph.Node, i int) bool { return i < len(n.Outputs) && n.Outputs[i] != "" }

func toSmallFloat(s *surroundings, n *graph.Node) bool {
	t := s.types[n.Outputs[0]]
	return t != nil && t.Elem.IsFloat() && t.Elem.Bits() <= 8
}

// misread refuses what would come out wrong.
func misread(s *surroundings, n *graph.Node) backend.Verdict {
	name := n.OpType
	if n.Domain != graph.DomainONNX {
		name = n.Domain + "." + name
	}
	for _, m := range misreadings {
		if m.op == name && m.when(s, n) {
			return backend.Refuse(backend.RefusedAttribute, "OpenVINO would compute something else: "+m.why)
		}
	}
	return backend.Accept
}

// rounding refuses a Cast of float32 to fewer bits that is widened again: the runtime
// leaves out both, and with them the rounding, on which codes of quantised pools depend.
func rounding(s *surroundings, n *graph.Node) backend.Verdict {
	if n.Domain != graph.DomainONNX || n.OpType != "Cast" {
		return backend.Accept
	}
	from, to := s.types[n.Inputs[0]], s.types[n.Outputs[0]]
	if from == nil || to == nil || from.Elem != tensor.Float32 || to.Elem != tensor.Float16 && to.Elem != tensor.BFloat16 || !s.widened(n.Outputs[0]) {
		return backend.Accept
	}
	return backend.Refuse(backend.RefusedAttribute, fmt.Sprintf("OpenVINO would not round to %s what is widened again", to.Elem))
}

// moving are operators that give the elements that they take.
var moving = []string{"Reshape", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Expand", "Slice", "Gather", "Identity"}

// widened reports whether a value becomes float32 again, perhaps after it was moved.
func (s *surroundings) widened(name string) bool {
	for _, n := range s.model.Graph.Nodes {
		if n.Domain != graph.DomainONNX || !slices.Contains(n.Inputs, name) {
			continue
		}
		t := s.types[n.Outputs[0]]
		if n.OpType == "Cast" && t != nil && t.Elem == tensor.Float32 || slices.Contains(moving, n.OpType) && s.widened(n.Outputs[0]) {
			return true
		}
	}
	return false
}

// opset is the version of ONNX's operators.
func (s *surroundings) opset() int64 { return s.model.Opsets[graph.DomainONNX] }

// rank is the rank of a node's input; 0: it is not known.
func (s *surroundings) rank(n *graph.Node, i int) int64 {
	if i >= len(n.Inputs) {
		return 0
	}
	if t := s.types[n.Inputs[i]]; t != nil && t.HasShape {
		return int64(len(t.Dims))
	}
	return 0
}

// open reports whether not all dimensions of a value are known.
func (s *surroundings) open(name string) bool {
	t := s.types[name]
	return t == nil || !t.HasShape || slices.ContainsFunc(t.Dims, func(d graph.Dim) bool { return d.Size < 0 })
}

// repeated is how many of a Tile's repeats may be other than 1. They often are a Concat
// of one that is computed and ones that are known.
func (s *surroundings) repeated(name string) int {
	if c := s.constants[name]; c != nil && c.Tensor.DType == tensor.Int64 && c.Tensor.Data != nil {
		many := 0
		for _, v := range tensor.View[int64](c.Tensor.Aligned()) {
			if v != 1 {
				many++
			}
		}
		return many
	}
	for _, n := range s.model.Graph.Nodes {
		if n.Domain == graph.DomainONNX && n.OpType == "Concat" && n.Outputs[0] == name {
			many := 0
			for _, part := range n.Inputs {
				many += s.repeated(part)
			}
			return many
		}
	}
	if t := s.types[name]; t != nil && len(t.Dims) == 1 && t.Dims[0].Size >= 0 {
		return int(t.Dims[0].Size)
	}
	return math.MaxInt16
}

// known reports whether a dimension of a value is known.
func (s *surroundings) known(name string, dim int) bool {
	t := s.types[name]
	return t != nil && dim < len(t.Dims) && t.Dims[dim].Size >= 0
}

// constant reports whether a node's input is known beforehand, or left out.
func (s *surroundings) constant(n *graph.Node, i int) bool {
	return !reads(n, i) || s.constants[n.Inputs[i]] != nil
}

// scalar is a node's input that is a constant of one int64, def where it is left
// out; ok is false for any other.
func (s *surroundings) scalar(n *graph.Node, i int, def int64) (v int64, ok bool) {
	if !reads(n, i) {
		return def, true
	}
	c := s.constants[n.Inputs[i]]
	if c == nil || c.Tensor.DType != tensor.Int64 || len(c.Tensor.Data) != 8 {
		return 0, false
	}
	return tensor.View[int64](c.Tensor.Aligned())[0], true
}

// fusesWrong reports whether OpenVINO's fused kernels for parts of a graph (snippets) may
// get it wrong: they leave out a Transpose that changes no shape, as one of heads and
// tokens that are as many.
func fusesWrong(g *graph.Graph) bool {
	types := g.Types()
	for _, n := range g.Nodes {
		for inner := range n.Graphs() {
			if fusesWrong(inner) {
				return true
			}
		}
		if n.Domain != graph.DomainONNX || n.OpType != "Transpose" {
			continue
		}
		if t := types[n.Inputs[0]]; t != nil && exchangesAlike(t.Dims, n.AttrInts("perm")) {
			return true
		}
	}
	return false
}

// exchangesAlike reports whether a permutation has dimensions of one known size take each
// other's places.
func exchangesAlike(dims []graph.Dim, perm []int64) bool {
	if len(dims) != len(perm) {
		return false
	}
	for i, from := range perm {
		if from != int64(i) && from >= 0 && from < int64(len(dims)) && dims[i].Size == dims[from].Size && dims[i].Size > 1 {
			return true
		}
	}
	return false
}
