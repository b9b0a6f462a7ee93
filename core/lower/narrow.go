package lower

import (
	"errors"
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// shapeOperands are the inputs that hold sizes, axes or positions: an operator
// wants them as int64, and devices take them as constants whatever else they
// refuse. -1 stands for all inputs from 1 on.
var shapeOperands = map[string]int{
	"Reshape": 1, "Expand": 1, "Squeeze": 1, "Unsqueeze": 1, "Tile": 1, "Split": 1, "TopK": 1, "CumSum": 1, "Trilu": 1,
	"ReduceMean": 1, "ReduceSum": 1, "ReduceMax": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceL1": 1, "ReduceL2": 1,
	"ReduceSumSquare": 1, "ReduceLogSum": 1, "ReduceLogSumExp": 1,
	"GatherND": 1, "ScatterND": 1, "ConstantOfShape": 0, "CenterCropPad": 1, "DFT": -1,
	"Slice": -1, "Pad": -1, "Resize": -1,
}

func isShapeOperand(op string, i int) bool {
	at, ok := shapeOperands[op]
	return ok && (at == i || at == -1 && i >= 1)
}

// int32Operators take int32 wherever they take int64 and give back what they
// take, or, as gathering and scattering do, take either as indices. What they take
// as shapeOperands stays as it is.
var int32Operators = map[string]bool{
	"Gather": true, "GatherElements": true, "GatherND": true, "ScatterElements": true, "ScatterND": true, "OneHot": true,
	"Identity": true, "Reshape": true, "Transpose": true, "Unsqueeze": true, "Squeeze": true, "Flatten": true, "Expand": true, "Slice": true,
	"Concat": true, "Split": true, "Tile": true, "Pad": true, "Trilu": true, "DepthToSpace": true, "SpaceToDepth": true,
	"Where": true, "Cast": true, "CastLike": true, "Compress": true, "ConstantOfShape": true,
	"Add": true, "Sub": true, "Mul": true, "Div": true, "Neg": true, "Abs": true, "Sign": true, "Min": true, "Max": true, "Mod": true,
	"Sum": true, "Clip": true, "Relu": true, "Pow": true, "Range": true, "BitwiseAnd": true, "BitwiseOr": true, "BitwiseXor": true, "BitwiseNot": true,
	"Equal": true, "Less": true, "LessOrEqual": true, "Greater": true, "GreaterOrEqual": true,
	"CumSum": true, "ReduceSum": true, "ReduceMax": true, "ReduceMin": true, "ReduceProd": true, "ReduceL1": true, "ReduceSumSquare": true,
}

// computedShapeOperands are those of shapeOperands that take int32 as well, so that
// theirs may be computed; the others' must be constants.
var computedShapeOperands = map[string]bool{"Slice": true, "CumSum": true, "DFT": true}

// narrower turns int64 values into int32, for devices without int64. Who feeds
// the graph checks that values fit.
type narrower struct {
	types     map[string]*graph.Type
	constants map[string]*graph.Initializer
	ready     map[string]*graph.Initializer // constant -> its int32 copy
	made      []*graph.Initializer          // those of ready, in the order of use
}

func newNarrower(g *graph.Graph, types map[string]*graph.Type) *narrower {
	w := &narrower{types: types, constants: map[string]*graph.Initializer{}, ready: map[string]*graph.Initializer{}}
	for _, in := range g.Initializers {
		w.constants[in.Name] = in
	}
	for _, v := range g.Inputs {
		delete(w.constants, v.Name)
	}
	for _, n := range g.Nodes {
		if t, ok := n.Constant(); ok {
			w.constants[n.Outputs[0]] = &graph.Initializer{Name: n.Outputs[0], Tensor: t}
		}
	}
	return w
}

func (w *narrower) wide(name string) bool {
	t := w.types[name]
	return name != "" && t != nil && t.Kind == graph.KindTensor && t.Elem == tensor.Int64
}

// constant is the int32 copy of a constant.
func (w *narrower) constant(name string) (*graph.Initializer, error) {
	if in := w.ready[name]; in != nil {
		return in, nil
	}
	c := w.constants[name]
	if c.External != nil && c.Tensor.Data == nil {
		return nil, fmt.Errorf("constant %s: it lies in a file that was not loaded", name)
	}
	t, err := toInt32(c.Tensor)
	if err != nil {
		return nil, fmt.Errorf("constant %s: %w", name, err)
	}
	in := &graph.Initializer{Name: name + "/int32", Tensor: t}
	w.ready[name] = in
	w.made = append(w.made, in)
	return in, nil
}

// node reports whether a node works on int64 values, and which of its inputs are
// constants to be copied; the error says why it has no form for int32.
func (w *narrower) node(n *graph.Node) (touched bool, constants []int, err error) {
	for i, name := range n.Inputs {
		if !w.wide(name) {
			continue
		}
		if w.constants[name] == nil {
			touched = true
			if isShapeOperand(n.OpType, i) && !computedShapeOperands[n.OpType] {
				return true, nil, fmt.Errorf("node %s: its input %s is computed, and may only be int64", n.Label(), name)
			}
			continue
		}
		if n.Domain == graph.DomainONNX && isShapeOperand(n.OpType, i) {
			continue
		}
		touched = true
		constants = append(constants, i)
	}
	for _, name := range n.Outputs {
		touched = touched || w.wide(name)
	}
	if !touched {
		return false, nil, nil
	}
	if n.Domain != graph.DomainONNX || !int32Operators[n.OpType] {
		return true, nil, fmt.Errorf("node %s: %s works on int64, and there is no form of it for int32", n.Label(), n.OpType)
	}
	for _, i := range constants {
		if _, err := w.constant(n.Inputs[i]); err != nil {
			return true, nil, err
		}
	}
	if a := n.Attr("value"); n.OpType == "ConstantOfShape" && a != nil && a.Tensor != nil {
		if _, err := toInt32(a.Tensor.Tensor); err != nil {
			return true, nil, fmt.Errorf("node %s: %w", n.Label(), err)
		}
	}
	return true, constants, nil
}

// errNothingWide says that a graph has no int64 values to narrow.
var errNothingWide = errors.New("it has no int64 values")

// narrow turns the int64 values of a graph into int32: inputs, outputs, constants
// and what is computed between. It fails, naming the node, where an operator needs
// int64; then the graph is half done and to be thrown away.
func narrow(g *graph.Graph, types map[string]*graph.Type) error {
	w := newNarrower(g, types)
	did := false
	for _, n := range g.Nodes {
		if _, ok := n.Constant(); ok {
			continue // its readers take a copy, or it as it is
		}
		touched, constants, err := w.node(n)
		if err != nil {
			return err
		}
		if !touched {
			continue
		}
		did = true
		for _, i := range constants {
			n.Inputs[i] = w.ready[n.Inputs[i]].Name
		}
		switch to := n.Attr("to"); {
		case n.OpType == "Cast" && to != nil && to.Int == int64(tensor.Int64):
			to.Int = int64(tensor.Int32)
		case n.OpType == "ConstantOfShape":
			a := n.Attr("value")
			t, err := toInt32(a.Tensor.Tensor) // it is of int64, for its output is
			if err != nil {
				return err
			}
			a.Tensor.Tensor = t
		}
	}
	for _, list := range [][]*graph.Value{g.Inputs, g.Outputs} {
		for _, v := range list {
			if v.Type != nil && v.Type.Kind == graph.KindTensor && v.Type.Elem == tensor.Int64 {
				if w.constants[v.Name] != nil {
					return fmt.Errorf("output %s is a constant of int64", v.Name)
				}
				v.Type.Elem = tensor.Int32
				did = true
			}
		}
	}
	if !did {
		return errNothingWide
	}
	g.Initializers = append(g.Initializers, w.made...)
	g.Values = nil // inferred again
	return nil
}

// widenFaces makes the bool inputs and outputs of a graph int32, for devices that
// compute on bool but do not pass it in or out.
func widenFaces(g *graph.Graph) bool {
	var before, after []*graph.Node
	cast := func(from, to string, elem tensor.DType) *graph.Node {
		return &graph.Node{Name: to + "/cast", OpType: "Cast", Inputs: []string{from}, Outputs: []string{to}, Attrs: []*graph.Attr{graph.IntAttr("to", int64(elem))}}
	}
	isBool := func(v *graph.Value) bool {
		return v.Type != nil && v.Type.Kind == graph.KindTensor && v.Type.Elem == tensor.Bool
	}
	inner := map[string]string{}
	for _, v := range g.Inputs {
		if isBool(v) {
			inner[v.Name] = v.Name + "/bool"
			before = append(before, cast(v.Name, inner[v.Name], tensor.Bool))
		}
	}
	for _, v := range g.Outputs {
		if isBool(v) && inner[v.Name] == "" {
			inner[v.Name] = v.Name + "/bool"
			after = append(after, cast(inner[v.Name], v.Name, tensor.Int32))
		}
	}
	if len(inner) == 0 {
		return false
	}
	g.Rename(inner)
	outer := make(map[string]string, len(inner))
	for name, in := range inner {
		outer[in] = name
	}
	for _, list := range [][]*graph.Value{g.Inputs, g.Outputs} {
		for _, v := range list {
			if name, ok := outer[v.Name]; ok {
				v.Name, v.Type.Elem = name, tensor.Int32
			}
		}
	}
	g.Nodes = append(append(before, g.Nodes...), after...)
	g.Values = nil
	return true
}

func toInt32(t tensor.Tensor) (tensor.Tensor, error) {
	out, err := tensor.New(tensor.Int32, t.Shape)
	if err != nil {
		return tensor.Tensor{}, err
	}
	if t.DType != tensor.Int64 {
		return tensor.Tensor{}, fmt.Errorf("it is of %s", t.DType)
	}
	if err := Narrow(tensor.View[int32](out), tensor.View[int64](t.Aligned())); err != nil {
		return tensor.Tensor{}, err
	}
	return out, nil
}

// Narrow writes src to dst, of the same length, and refuses values that int32
// can't hold.
func Narrow(dst []int32, src []int64) error {
	for i, v := range src {
		if v < math.MinInt32 || v > math.MaxInt32 {
			return fmt.Errorf("value %d at element %d does not fit int32, and the device has no int64", v, i)
		}
		dst[i] = int32(v)
	}
	return nil
}
