package lower

import (
	"encoding/binary"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// removeNoOps removes nodes that give back an input as it is.
func removeNoOps(s *simplifier) (int, error) {
	of := map[*graph.Node]string{}
	for _, n := range s.g.Nodes {
		if n.Domain != graph.DomainONNX || output(n, 0) == "" || len(n.Inputs) == 0 {
			continue
		}
		is := noOps[n.OpType]
		if is == nil {
			continue
		}
		if i := is(s, n); i >= 0 && input(n, i) != "" && unusedBut(n, 0) {
			of[n] = n.Inputs[i]
		}
	}
	return s.bypass(of), nil
}

// unusedBut reports whether output i is the only one that the node names.
func unusedBut(n *graph.Node, i int) bool {
	for k, o := range n.Outputs {
		if k != i && o != "" {
			return false
		}
	}
	return true
}

// noOps say which input a node of an operator gives back as its only output; -1
// where it does more. They rely on what is sure in every run.
var noOps = map[string]func(*simplifier, *graph.Node) int{
	"Identity": func(*simplifier, *graph.Node) int { return 0 },
	"Dropout":  inferenceDropout,
	"Cast": func(s *simplifier, n *graph.Node) int {
		return first(s.elem(n.Inputs[0]) != tensor.Undefined && int64(s.elem(n.Inputs[0])) == n.AttrInt("to", -1))
	},
	"CastLike": func(s *simplifier, n *graph.Node) int {
		e := s.elem(n.Inputs[0])
		return first(e != tensor.Undefined && e == s.elem(input(n, 1)))
	},
	"Reshape": sameReshape,
	"Flatten": func(s *simplifier, n *graph.Node) int {
		d, ok := s.shape(n.Inputs[0])
		axis := n.AttrInt("axis", 1)
		return first(ok && len(d) == 2 && (axis == 1 || axis == -1))
	},
	"Expand": func(s *simplifier, n *graph.Node) int {
		want, ok := s.ints(input(n, 1))
		return first(ok && s.keeps(n.Inputs[0], want, 1))
	},
	"Tile": func(s *simplifier, n *graph.Node) int {
		times, ok := s.ints(input(n, 1))
		d, ranked := s.shape(n.Inputs[0])
		return first(ok && ranked && len(times) == len(d) && all(times, 1))
	},
	"Transpose": func(s *simplifier, n *graph.Node) int {
		perm, ok := s.perm(n)
		return first(ok && isIdentity(perm))
	},
	"Slice": wholeSlice,
	"Pad": func(s *simplifier, n *graph.Node) int {
		pads, given, known := s.list(n, "pads", 1)
		d, ranked := s.shape(n.Inputs[0])
		return first(given && known && ranked && all(pads, 0) && len(pads) == 2*len(d))
	},
	"Concat": single, "Sum": single, "Max": single, "Min": single, "Mean": single,
	"Add": func(s *simplifier, n *graph.Node) int { return either(s, n, neutralSum) },
	"Mul": func(s *simplifier, n *graph.Node) int { return either(s, n, isOne) },
	"Sub": func(s *simplifier, n *graph.Node) int { return neutral(s, n, 0, 1, isZero) },
	"Div": func(s *simplifier, n *graph.Node) int { return neutral(s, n, 0, 1, isOne) },
	"And": func(s *simplifier, n *graph.Node) int { return either(s, n, isBool(1)) },
	"Or":  func(s *simplifier, n *graph.Node) int { return either(s, n, isBool(0)) },
}

func first(ok bool) int {
	if ok {
		return 0
	}
	return -1
}

func all(v []int64, want int64) bool {
	for _, x := range v {
		if x != want {
			return false
		}
	}
	return true
}

func single(_ *simplifier, n *graph.Node) int { return first(len(n.Inputs) == 1) }

// inferenceDropout: before operator set 7 an attribute says that it is no training,
// from 12 on an input.
func inferenceDropout(s *simplifier, n *graph.Node) int {
	switch opset := s.m.Opsets[graph.DomainONNX]; {
	case opset < 7:
		return first(n.AttrInt("is_test", 0) != 0)
	case opset < 12 || input(n, 2) == "":
		return 0
	}
	training, ok := s.constOf(n.Inputs[2])
	return first(ok && training.DType == tensor.Bool && training.Len() == 1 && training.Data[0] == 0)
}

// keeps reports whether the sizes, aligned at the last dimension, are those that
// the value has, or neutral.
func (s *simplifier) keeps(name string, want []int64, neutral int64) bool {
	d, ok := s.shape(name)
	if !ok || len(want) > len(d) {
		return false
	}
	for i, w := range want {
		at := d[len(d)-len(want)+i]
		if w != neutral && (at.Param != "" || at.Size != w) {
			return false
		}
	}
	return true
}

// sameReshape: every dimension stays, where one is left to be found (-1) because
// all others do.
func sameReshape(s *simplifier, n *graph.Node) int {
	d, ok := s.shape(n.Inputs[0])
	want, given, known := s.list(n, "shape", 1)
	if !ok || !given || !known || len(want) != len(d) {
		return -1
	}
	open := 0
	for i, w := range want {
		sure := d[i].Param == "" && d[i].Size >= 0
		switch {
		case w == 0 && n.AttrInt("allowzero", 0) == 0:
		case w == -1:
			open++
		case !sure || d[i].Size != w:
			return -1
		}
	}
	if open == 0 {
		return 0
	}
	// Which size -1 stands for can only be told where no other is 0.
	for i, w := range want {
		if w != -1 && (d[i].Param != "" || d[i].Size <= 0) {
			return -1
		}
	}
	return first(open == 1)
}

// wholeSlice starts at 0 and ends at the end or after, step by step.
func wholeSlice(s *simplifier, n *graph.Node) int {
	d, ok := s.shape(n.Inputs[0])
	starts, _, ok1 := s.list(n, "starts", 1)
	ends, _, ok2 := s.list(n, "ends", 2)
	axes, given, ok3 := s.list(n, "axes", 3)
	steps, _, ok4 := s.list(n, "steps", 4)
	if !ok || !ok1 || !ok2 || !ok3 || !ok4 || len(starts) == 0 || !all(starts, 0) || !all(steps, 1) || len(ends) != len(starts) {
		return -1
	}
	if !given {
		for i := range starts {
			axes = append(axes, int64(i))
		}
	}
	if len(axes) != len(ends) || len(steps) > 0 && len(steps) != len(ends) {
		return -1
	}
	for i, a := range axes {
		if a < 0 {
			a += int64(len(d))
		}
		if a < 0 || a >= int64(len(d)) {
			return -1
		}
		if at := d[a]; ends[i] != math.MaxInt64 && (at.Param != "" || at.Size < 0 || ends[i] < at.Size) {
			return -1
		}
	}
	return 0
}

// neutral is input x where input c is a constant that changes neither its numbers
// nor its shape.
func neutral(s *simplifier, n *graph.Node, x, c int, is func(tensor.DType, []byte) bool) int {
	if len(n.Inputs) != 2 {
		return -1
	}
	t, ok := s.constOf(n.Inputs[c])
	if !ok || t.DType != s.elem(n.Inputs[x]) || t.Check() != nil || t.DType == tensor.String || t.Len() == 0 || t.Len() > 1<<16 ||
		!s.keeps(n.Inputs[x], t.Shape, 1) {
		return -1
	}
	width := t.DType.Bits() / 8
	if width == 0 {
		return -1
	}
	for i := 0; i < len(t.Data); i += width {
		if !is(t.DType, t.Data[i:i+width]) {
			return -1
		}
	}
	return x
}

func either(s *simplifier, n *graph.Node, is func(tensor.DType, []byte) bool) int {
	if i := neutral(s, n, 0, 1, is); i >= 0 {
		return i
	}
	return neutral(s, n, 1, 0, is)
}

func zeros(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// isZero is 0, which may be taken away of anything.
func isZero(_ tensor.DType, b []byte) bool { return zeros(b) }

// neutralSum is what may be added to anything: 0, but for floats -0, since -0 + 0
// is 0.
func neutralSum(d tensor.DType, b []byte) bool {
	if d.IsInt() {
		return zeros(b)
	}
	last := len(b) - 1
	switch d {
	case tensor.Float16, tensor.BFloat16, tensor.Float32, tensor.Float64:
		return b[last] == 0x80 && zeros(b[:last])
	}
	return false
}

func isOne(d tensor.DType, b []byte) bool {
	switch d {
	case tensor.Float32:
		return binary.LittleEndian.Uint32(b) == math.Float32bits(1)
	case tensor.Float64:
		return binary.LittleEndian.Uint64(b) == math.Float64bits(1)
	case tensor.Float16:
		return binary.LittleEndian.Uint16(b) == 0x3c00
	case tensor.BFloat16:
		return binary.LittleEndian.Uint16(b) == 0x3f80
	}
	return d.IsInt() && b[0] == 1 && zeros(b[1:])
}

func isBool(v byte) func(tensor.DType, []byte) bool {
	return func(d tensor.DType, b []byte) bool { return d == tensor.Bool && b[0] == v }
}
