package lower

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// decompositions rewrite an operator into simpler ones of the same meaning, for
// devices that refuse it. Each follows the operator's definition in ONNX.
var decompositions = map[string]func(*emitter, *graph.Node) error{
	"LayerNormalization": layerNormalization,
	"RMSNormalization":   rmsNormalization,
	"Gelu":               gelu,
	"Attention":          attention,
	"RotaryEmbedding":    rotaryEmbedding,
	"ArgMax":             extremum("ReduceMax"),
	"ArgMin":             extremum("ReduceMin"),
}

// emitter collects the nodes that replace one.
type emitter struct {
	types        map[string]*graph.Type
	opset        int64 // of the default domain
	prefix       string
	nodes        []*graph.Node
	initializers []*graph.Initializer
}

// cannot says why this use of an operator has no decomposition here.
func cannot(n *graph.Node, format string, args ...any) error {
	return fmt.Errorf("%s can't be decomposed: %s", n.OpType, fmt.Sprintf(format, args...))
}

func (e *emitter) name(hint string) string {
	return fmt.Sprintf("%s/%s.%d", e.prefix, hint, len(e.nodes)+len(e.initializers))
}

// to adds a node that writes out, and returns out.
func (e *emitter) to(out, op string, inputs []string, attrs ...*graph.Attr) string {
	e.nodes = append(e.nodes, &graph.Node{Name: e.name(op), OpType: op, Inputs: inputs, Outputs: []string{out}, Attrs: attrs})
	return out
}

// op adds a node and returns the name of its output.
func (e *emitter) op(op string, inputs []string, attrs ...*graph.Attr) string {
	return e.to(e.name(op+"_out"), op, inputs, attrs...)
}

func (e *emitter) constant(hint string, t tensor.Tensor) string {
	name := e.name(hint)
	e.initializers = append(e.initializers, &graph.Initializer{Name: name, Tensor: t})
	return name
}

func (e *emitter) ints(hint string, v ...int64) string {
	return e.constant(hint, tensor.Ints(tensor.Shape{int64(len(v))}, v...))
}

// scalar is a constant of the element type of value like.
func (e *emitter) scalar(n *graph.Node, like string, v float64) (string, error) {
	t := e.types[like]
	if t == nil || t.Elem != tensor.Float32 {
		return "", cannot(n, "%s is not known to be float32", like)
	}
	return e.constant("c", tensor.Floats(tensor.Shape{}, float32(v))), nil
}

func input(n *graph.Node, i int) string {
	if i < len(n.Inputs) {
		return n.Inputs[i]
	}
	return ""
}

func output(n *graph.Node, i int) string {
	if i < len(n.Outputs) {
		return n.Outputs[i]
	}
	return ""
}

// normalizedAxes are the axes from `axis` to the last, counted from the end so that
// they hold for any rank.
func (e *emitter) normalizedAxes(n *graph.Node) ([]int64, error) {
	axis := n.AttrInt("axis", -1)
	if axis >= 0 {
		t := e.types[n.Inputs[0]]
		if t == nil || !t.HasShape {
			return nil, cannot(n, "the rank of %s is not known", n.Inputs[0])
		}
		axis -= int64(len(t.Dims))
	}
	var axes []int64
	for a := axis; a < 0; a++ {
		axes = append(axes, a)
	}
	return axes, nil
}

// layerNormalization: (x - mean) / sqrt(var + epsilon) * scale + bias.
func layerNormalization(e *emitter, n *graph.Node) error {
	axes, err := e.normalizedAxes(n)
	if err != nil {
		return err
	}
	x, scale, bias := input(n, 0), input(n, 1), input(n, 2)
	eps, err := e.scalar(n, x, float64(n.AttrFloat("epsilon", 1e-5)))
	if err != nil {
		return err
	}
	mean := e.mean(x, axes, output(n, 1))
	centered := e.op("Sub", []string{x, mean})
	variance := e.mean(e.op("Mul", []string{centered, centered}), axes, "")
	deviation := e.op("Sqrt", []string{e.op("Add", []string{variance, eps})})
	if inv := output(n, 2); inv != "" {
		e.to(inv, "Reciprocal", []string{deviation})
	}
	y := e.op("Div", []string{centered, deviation})
	if bias == "" {
		e.to(n.Outputs[0], "Mul", []string{y, scale})
		return nil
	}
	e.to(n.Outputs[0], "Add", []string{e.op("Mul", []string{y, scale}), bias})
	return nil
}

// rmsNormalization: x / sqrt(mean(x^2) + epsilon) * scale.
func rmsNormalization(e *emitter, n *graph.Node) error {
	axes, err := e.normalizedAxes(n)
	if err != nil {
		return err
	}
	x := input(n, 0)
	eps, err := e.scalar(n, x, float64(n.AttrFloat("epsilon", 1e-5)))
	if err != nil {
		return err
	}
	square := e.mean(e.op("Mul", []string{x, x}), axes, "")
	y := e.op("Div", []string{x, e.op("Sqrt", []string{e.op("Add", []string{square, eps})})})
	e.to(n.Outputs[0], "Mul", []string{y, input(n, 1)})
	return nil
}

// mean over axes, dimensions kept; into out unless that is empty.
func (e *emitter) mean(x string, axes []int64, out string) string {
	if out == "" {
		out = e.name("mean")
	}
	return e.reduce(out, "ReduceMean", x, axes, 1)
}

// reduce adds a reduction over axes that writes out.
func (e *emitter) reduce(out, op, x string, axes []int64, keep int64) string {
	if e.opset < 18 { // axes became an input
		return e.to(out, op, []string{x}, graph.IntsAttr("axes", axes...), graph.IntAttr("keepdims", keep))
	}
	return e.to(out, op, []string{x, e.ints("axes", axes...)}, graph.IntAttr("keepdims", keep))
}

// extremum: the least place, or the greatest, whose element is the extreme one. All
// of it has a form for int32, which ArgMax and ArgMin have not.
func extremum(reduce string) func(*emitter, *graph.Node) error {
	return func(e *emitter, n *graph.Node) error {
		x := input(n, 0)
		t := e.types[x]
		if t == nil || !t.HasShape {
			return cannot(n, "the rank of %s is not known", x)
		}
		rank := int64(len(t.Dims))
		axis := n.AttrInt("axis", 0)
		if axis < 0 {
			axis += rank
		}
		if axis < 0 || axis >= rank || t.Dims[axis].Param != "" || t.Dims[axis].Size < 1 {
			return cannot(n, "the size of axis %d of %s is not known", axis, x)
		}
		size := t.Dims[axis].Size
		pick, other := "ReduceMin", size-1
		if n.AttrInt("select_last_index", 0) != 0 {
			pick, other = "ReduceMax", 0
		}
		places := make([]int64, size)
		for i := range places {
			places[i] = int64(i)
		}
		shape := make(tensor.Shape, rank-axis)
		for i := range shape {
			shape[i] = 1
		}
		shape[0] = size
		is := e.op("Equal", []string{x, e.reduce(e.name("extreme"), reduce, x, []int64{axis}, 1)})
		at := e.op("Where", []string{is, e.constant("places", tensor.Ints(shape, places...)), e.constant("other", tensor.Ints(tensor.Shape{}, other))})
		e.reduce(n.Outputs[0], pick, at, []int64{axis}, n.AttrInt("keepdims", 1))
		return nil
	}
}

// gelu: x/2 * (1 + erf(x/sqrt(2))), or its tanh approximation.
func gelu(e *emitter, n *graph.Node) error {
	x := input(n, 0)
	var consts [3]string
	values := [3]float64{0.5, 1, math.Sqrt(0.5)}
	tanh := n.AttrString("approximate", "none") == "tanh"
	if tanh {
		values[2] = math.Sqrt(2 / math.Pi)
	}
	for i, v := range values {
		var err error
		if consts[i], err = e.scalar(n, x, v); err != nil {
			return err
		}
	}
	half, one, k := consts[0], consts[1], consts[2]
	var inner string
	if tanh {
		c, err := e.scalar(n, x, 0.044715)
		if err != nil {
			return err
		}
		cube := e.op("Mul", []string{e.op("Mul", []string{x, x}), x})
		inner = e.op("Tanh", []string{e.op("Mul", []string{k, e.op("Add", []string{x, e.op("Mul", []string{c, cube})})})})
	} else {
		inner = e.op("Erf", []string{e.op("Mul", []string{x, k})})
	}
	e.to(n.Outputs[0], "Mul", []string{e.op("Mul", []string{half, x}), e.op("Add", []string{one, inner})})
	return nil
}

// repeatHeads gives each query head a key head of its own: [B,Hkv,S,D] -> [B,H,S,D].
func (e *emitter) repeatHeads(x string, heads, kvHeads int64) string {
	x = e.op("Unsqueeze", []string{x, e.ints("axes", 2)})
	x = e.op("Tile", []string{x, e.ints("repeats", 1, 1, heads/kvHeads, 1, 1)})
	// [B,Hkv,g,S,D]: joined by way of [B,S,D,Hkv,g], for a shape may leave one size open.
	x = e.op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 3, 4, 1, 2))
	x = e.op("Reshape", []string{x, e.ints("shape", 0, 0, 0, heads)})
	return e.op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 3, 1, 2))
}

// rotaryEmbedding: of each head's first elements, halves a and b become
// a cos - b sin and b cos + a sin.
func rotaryEmbedding(e *emitter, n *graph.Node) error {
	x, cos, sin := input(n, 0), input(n, 1), input(n, 2)
	t, ct := e.types[x], e.types[cos]
	switch {
	case n.AttrInt("interleaved", 0) != 0:
		return cannot(n, "its halves are interleaved")
	case t == nil || !t.HasShape || len(t.Dims) != 3 && len(t.Dims) != 4 || t.Dims[len(t.Dims)-1].Size < 1:
		return cannot(n, "the shape of %s is not known", x)
	case ct == nil || !ct.HasShape || ct.Dims[len(ct.Dims)-1].Size < 1:
		return cannot(n, "the shape of %s is not known", cos)
	}
	flat, size := len(t.Dims) == 3, t.Dims[len(t.Dims)-1].Size
	if flat {
		heads := n.AttrInt("num_heads", 0)
		if heads < 1 || size%heads != 0 {
			return cannot(n, "its number of heads is not known")
		}
		size /= heads
		x = e.op("Reshape", []string{x, e.ints("shape", 0, 0, heads, size)})
	} else {
		x = e.op("Transpose", []string{x}, graph.IntsAttr("perm", 0, 2, 1, 3))
	}
	half := ct.Dims[len(ct.Dims)-1].Size
	if positions := input(n, 3); positions != "" {
		cos, sin = e.op("Gather", []string{cos, positions}), e.op("Gather", []string{sin, positions})
	}
	head := e.ints("axes", 2) // of [B,S,H,D]
	cos, sin = e.op("Unsqueeze", []string{cos, head}), e.op("Unsqueeze", []string{sin, head})
	part := func(from, to int64) string {
		return e.op("Slice", []string{x, e.ints("from", from), e.ints("to", to), e.ints("axes", 3)})
	}
	a, b := part(0, half), part(half, 2*half)
	times := func(x, y string) string { return e.op("Mul", []string{x, y}) }
	parts := []string{e.op("Sub", []string{times(a, cos), times(b, sin)}), e.op("Add", []string{times(b, cos), times(a, sin)})}
	if 2*half < size {
		parts = append(parts, part(2*half, size))
	}
	y := e.op("Concat", parts, graph.IntAttr("axis", 3))
	if flat {
		e.to(n.Outputs[0], "Reshape", []string{y, e.ints("shape", 0, 0, -1)})
	} else {
		e.to(n.Outputs[0], "Transpose", []string{y}, graph.IntsAttr("perm", 0, 2, 1, 3))
	}
	return nil
}

// length is the number of rows of a query or a key, -1 where it is not known.
func (e *emitter) length(x string) int64 {
	if t := e.types[x]; t != nil && t.HasShape && len(t.Dims) > 1 {
		return t.Dims[len(t.Dims)-2].Size
	}
	return -1
}

// attention: softmax(softcap(scale q k^T) + mask) v, without a key-value cache. A
// query that may attend to nothing gives zeros, as in the operator's reference.
func attention(e *emitter, n *graph.Node) error {
	for i, what := range map[int]string{4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"} {
		if input(n, i) != "" {
			return cannot(n, "it has %s", what)
		}
	}
	for i := 1; i < len(n.Outputs); i++ {
		if n.Outputs[i] != "" {
			return cannot(n, "its output %d is wanted", i)
		}
	}
	for _, side := range []string{"left_window_size", "right_window_size"} {
		if w := n.AttrInt(side, -1); w >= 0 {
			return cannot(n, "it has a %s of %d", side, w)
		}
	}
	q, k, v, mask := input(n, 0), input(n, 1), input(n, 2), input(n, 3)
	qt := e.types[q]
	if qt == nil || !qt.HasShape || len(qt.Dims) != 3 && len(qt.Dims) != 4 {
		return cannot(n, "the rank of %s is not known", q)
	}
	flat := len(qt.Dims) == 3
	var headDim int64
	heads, kvHeads := n.AttrInt("q_num_heads", 0), n.AttrInt("kv_num_heads", 0)
	if flat {
		if heads <= 0 || kvHeads <= 0 || qt.Dims[2].Size < 0 || qt.Dims[2].Size%heads != 0 {
			return cannot(n, "heads of %s are not known", q)
		}
		headDim = qt.Dims[2].Size / heads
		split := func(x string, h int64) string {
			s := e.op("Reshape", []string{x, e.ints("shape", 0, 0, h, -1)})
			return e.op("Transpose", []string{s}, graph.IntsAttr("perm", 0, 2, 1, 3))
		}
		q, k, v = split(q, heads), split(k, kvHeads), split(v, kvHeads)
	} else {
		kt := e.types[k]
		if kt == nil || !kt.HasShape || len(kt.Dims) != 4 || qt.Dims[1].Size <= 0 || kt.Dims[1].Size <= 0 || qt.Dims[3].Size <= 0 {
			return cannot(n, "heads of %s and %s are not known", q, k)
		}
		heads, kvHeads, headDim = qt.Dims[1].Size, kt.Dims[1].Size, qt.Dims[3].Size
	}
	if heads != kvHeads {
		if heads%kvHeads != 0 {
			return cannot(n, "its %d query heads share %d key heads", heads, kvHeads)
		}
		k, v = e.repeatHeads(k, heads, kvHeads), e.repeatHeads(v, heads, kvHeads)
	}
	scale := float64(n.AttrFloat("scale", 0))
	if scale == 0 {
		scale = 1 / math.Sqrt(float64(headDim))
	}
	s, err := e.scalar(n, n.Inputs[0], scale)
	if err != nil {
		return err
	}
	kt := e.op("Transpose", []string{k}, graph.IntsAttr("perm", 0, 1, 3, 2))
	scores := e.op("MatMul", []string{e.op("Mul", []string{q, s}), kt})
	if softcap := n.AttrFloat("softcap", 0); softcap != 0 {
		c, err := e.scalar(n, n.Inputs[0], float64(softcap))
		if err != nil {
			return err
		}
		scores = e.op("Mul", []string{e.op("Tanh", []string{e.op("Div", []string{scores, c})}), c})
	}
	allowed := "" // where a query may attend
	if mask != "" {
		mt := e.types[mask]
		if mt == nil {
			return cannot(n, "the type of %s is not known", mask)
		}
		if mt.Elem == tensor.Bool {
			allowed = mask
		} else {
			scores = e.op("Add", []string{scores, mask})
		}
	}
	if n.AttrInt("is_causal", 0) != 0 {
		queries, keys := e.length(n.Inputs[0]), e.length(n.Inputs[1])
		var shape string
		if queries >= 0 && keys >= 0 {
			shape = e.ints("shape", queries, keys)
		} else {
			shape = e.op("Shape", []string{scores}, graph.IntAttr("start", 2))
		}
		all := e.op("Expand", []string{e.constant("all", tensor.Of(tensor.Bool, nil, []bool{true})), shape})
		before := e.op("Trilu", []string{all}, graph.IntAttr("upper", 0))
		if allowed != "" {
			before = e.op("And", []string{allowed, before})
		}
		allowed = before
	}
	if allowed != "" {
		low, err := e.scalar(n, n.Inputs[0], -math.MaxFloat32)
		if err != nil {
			return err
		}
		scores = e.op("Where", []string{allowed, scores, low})
	}
	probs := e.op("Softmax", []string{scores}, graph.IntAttr("axis", -1))
	if allowed != "" {
		zero, err := e.scalar(n, n.Inputs[0], 0)
		if err != nil {
			return err
		}
		probs = e.op("Where", []string{allowed, probs, zero})
	}
	if !flat {
		e.to(n.Outputs[0], "MatMul", []string{probs, v})
		return nil
	}
	o := e.op("Transpose", []string{e.op("MatMul", []string{probs, v})}, graph.IntsAttr("perm", 0, 2, 1, 3))
	e.to(n.Outputs[0], "Reshape", []string{o, e.ints("shape", 0, 0, -1)})
	return nil
}
