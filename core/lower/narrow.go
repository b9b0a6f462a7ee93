package lower

import (
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
	"Slice": -1, "Pad": -1, "Resize": -1,
}

func isShapeOperand(op string, i int) bool {
	at, ok := shapeOperands[op]
	return ok && (at == i || at == -1 && i >= 1)
}

// int32Operators take int32 wherever they take int64 and give back what they take.
var int32Operators = map[string]bool{
	"Gather": true, "Identity": true, "Reshape": true, "Transpose": true, "Unsqueeze": true, "Squeeze": true, "Flatten": true,
	"Expand": true, "Slice": true, "Concat": true, "Split": true, "Tile": true, "Where": true, "Cast": true,
	"Add": true, "Sub": true, "Mul": true, "Div": true, "Neg": true, "Abs": true, "Min": true, "Max": true, "Mod": true,
	"Equal": true, "Less": true, "LessOrEqual": true, "Greater": true, "GreaterOrEqual": true, "CumSum": true,
	"ReduceSum": true, "ReduceMax": true, "ReduceMin": true,
}

// narrow turns the int64 values of a graph into int32, for devices without int64:
// inputs, outputs, constants and what is computed between. Who feeds the graph
// checks that values fit. It fails, naming the node, where an operator needs int64.
func narrow(g *graph.Graph, types map[string]*graph.Type) error {
	wide := func(name string) bool {
		t := types[name]
		return t != nil && t.Kind == graph.KindTensor && t.Elem == tensor.Int64
	}
	constants := map[string]*graph.Initializer{}
	for _, in := range g.Initializers {
		constants[in.Name] = in
	}
	narrowed := map[string]string{} // constant -> its int32 copy
	for _, n := range g.Nodes {
		touched := false
		for i, name := range n.Inputs {
			if name == "" || !wide(name) {
				continue
			}
			c, constant := constants[name]
			if constant && isShapeOperand(n.OpType, i) {
				continue
			}
			touched = true
			if !constant {
				continue
			}
			if narrowed[name] == "" {
				t, err := toInt32(c.Tensor)
				if err != nil {
					return fmt.Errorf("constant %s: %w", name, err)
				}
				narrowed[name] = name + "/int32"
				g.Initializers = append(g.Initializers, &graph.Initializer{Name: narrowed[name], Tensor: t})
			}
			n.Inputs[i] = narrowed[name]
		}
		for _, name := range n.Outputs {
			touched = touched || name != "" && wide(name)
		}
		if !touched {
			continue
		}
		if n.Domain != graph.DomainONNX || !int32Operators[n.OpType] {
			return fmt.Errorf("node %s: %s works on int64, and there is no form of it for int32", n.Label(), n.OpType)
		}
		if to := n.Attr("to"); n.OpType == "Cast" && to != nil && to.Int == int64(tensor.Int64) {
			to.Int = int64(tensor.Int32)
		}
	}
	for _, list := range [][]*graph.Value{g.Inputs, g.Outputs} {
		for _, v := range list {
			if v.Type != nil && v.Type.Elem == tensor.Int64 {
				v.Type.Elem = tensor.Int32
			}
		}
	}
	g.Values = nil // inferred again
	return nil
}

func toInt32(t tensor.Tensor) (tensor.Tensor, error) {
	out, err := tensor.New(tensor.Int32, t.Shape)
	if err != nil {
		return tensor.Tensor{}, err
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
