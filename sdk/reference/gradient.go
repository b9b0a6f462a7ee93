package reference

import (
	"fmt"
	"maps"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Gradient differentiates the graph around it: attribute y names a value, xs and zs
// the values that it is made of. The planner turns such a node into a body: the
// nodes between, computed with the node's inputs as xs and zs, and after them, from
// y back, the nodes that pass derivatives on. Derivatives are written in operators
// of the newest set, whatever the model's is.

// derivative writes the nodes that make, of dy, the derivative by the node's output,
// those by its inputs; an empty name stands for none. wanted says which inputs are
// asked for.
type derivative func(b *backward, n *graph.Node, dy string, wanted []bool) ([]string, error)

// backward collects nodes.
type backward struct {
	nodes []*graph.Node
	names int
}

func (b *backward) op(op string, in []string, attrs ...*graph.Attr) string {
	b.names++
	out := fmt.Sprintf("\x00gradient %d", b.names) // no name of the model's
	b.nodes = append(b.nodes, &graph.Node{OpType: op, Inputs: in, Outputs: []string{out}, Attrs: attrs})
	return out
}

// call is op with inputs alone.
func (b *backward) call(op string, in ...string) string { return b.op(op, in) }

// number is a constant of the type of another value.
func (b *backward) number(v float32, like string) string {
	return b.call("CastLike", b.op("Constant", nil, graph.FloatAttr("value_float", v)), like)
}

func (b *backward) ints(v ...int64) string {
	return b.op("Constant", nil, graph.IntsAttr("value_ints", v...))
}

// summed adds a derivative up to the shape of a value that was broadcast.
func (b *backward) summed(dy, x string) string {
	to, from := b.call("Shape", x), b.call("Shape", dy)
	lead := b.call("Sub", b.call("Shape", from), b.call("Shape", to))
	to1 := b.op("Concat", []string{b.call("Expand", b.ints(1), lead), to}, graph.IntAttr("axis", 0))
	axes := b.call("Reshape", b.call("NonZero", b.call("Not", b.call("Equal", to1, from))), b.ints(-1))
	sum := b.op("ReduceSum", []string{dy, axes}, graph.IntAttr("noop_with_empty_axes", 1))
	return b.call("Reshape", sum, to)
}

// each is the derivative of an operator of one input, of whose output y f makes the
// factor.
func each(f func(b *backward, x, y string) string) derivative {
	return func(b *backward, n *graph.Node, dy string, _ []bool) ([]string, error) {
		return []string{b.call("Mul", dy, f(b, n.Inputs[0], n.Outputs[0]))}, nil
	}
}

// both is the derivative of an operator of two inputs that broadcast.
func both(fs ...func(b *backward, dy, x, y, z string) string) derivative {
	return func(b *backward, n *graph.Node, dy string, wanted []bool) ([]string, error) {
		dx := make([]string, len(fs))
		for i, f := range fs {
			if wanted[i] {
				dx[i] = b.summed(f(b, dy, n.Inputs[0], n.Inputs[1], n.Outputs[0]), n.Inputs[i])
			}
		}
		return dx, nil
	}
}

// reshapedBack is that of an operator that moves no element.
func reshapedBack(b *backward, n *graph.Node, dy string, _ []bool) ([]string, error) {
	return append([]string{b.call("Reshape", dy, b.call("Shape", n.Inputs[0]))}, make([]string, len(n.Inputs)-1)...), nil
}

var derivatives = map[string]derivative{
	"Identity": func(_ *backward, _ *graph.Node, dy string, _ []bool) ([]string, error) { return []string{dy}, nil },
	"Add": both(func(_ *backward, dy, _, _, _ string) string { return dy },
		func(_ *backward, dy, _, _, _ string) string { return dy }),
	"Sub": both(func(_ *backward, dy, _, _, _ string) string { return dy },
		func(b *backward, dy, _, _, _ string) string { return b.call("Neg", dy) }),
	"Mul": both(func(b *backward, dy, _, y, _ string) string { return b.call("Mul", dy, y) },
		func(b *backward, dy, x, _, _ string) string { return b.call("Mul", dy, x) }),
	"Div": both(func(b *backward, dy, _, y, _ string) string { return b.call("Div", dy, y) },
		func(b *backward, dy, _, y, z string) string {
			return b.call("Neg", b.call("Div", b.call("Mul", dy, z), y))
		}),
	"Pow": both(func(b *backward, dy, x, y, _ string) string {
		less := b.call("Pow", x, b.call("Sub", y, b.number(1, y)))
		return b.call("Mul", dy, b.call("Mul", b.call("CastLike", y, x), less))
	}, func(b *backward, dy, x, _, z string) string {
		return b.call("Mul", dy, b.call("Mul", z, b.call("Log", x)))
	}),
	"Sum": func(b *backward, n *graph.Node, dy string, wanted []bool) ([]string, error) {
		dx := make([]string, len(n.Inputs))
		for i, x := range n.Inputs {
			if wanted[i] {
				dx[i] = b.summed(dy, x)
			}
		}
		return dx, nil
	},

	"Neg":        each(func(b *backward, x, _ string) string { return b.number(-1, x) }),
	"Abs":        each(func(b *backward, x, _ string) string { return b.call("Sign", x) }),
	"Exp":        each(func(_ *backward, _, y string) string { return y }),
	"Log":        each(func(b *backward, x, _ string) string { return b.call("Reciprocal", x) }),
	"Sqrt":       each(func(b *backward, x, y string) string { return b.call("Div", b.number(0.5, x), y) }),
	"Reciprocal": each(func(b *backward, _, y string) string { return b.call("Neg", b.call("Mul", y, y)) }),
	"Sin":        each(func(b *backward, x, _ string) string { return b.call("Cos", x) }),
	"Cos":        each(func(b *backward, x, _ string) string { return b.call("Neg", b.call("Sin", x)) }),
	"Tanh": each(func(b *backward, x, y string) string {
		return b.call("Sub", b.number(1, x), b.call("Mul", y, y))
	}),
	"Sigmoid": each(func(b *backward, x, y string) string {
		return b.call("Mul", y, b.call("Sub", b.number(1, x), y))
	}),
	"Relu": each(func(b *backward, x, _ string) string {
		return b.call("CastLike", b.call("Greater", x, b.number(0, x)), x)
	}),

	// Matrices, and batches of them.
	"MatMul": func(b *backward, n *graph.Node, dy string, wanted []bool) ([]string, error) {
		dx := make([]string, 2)
		if wanted[0] {
			dx[0] = b.summed(b.op("Einsum", []string{dy, n.Inputs[1]}, graph.StringAttr("equation", "...ij,...kj->...ik")), n.Inputs[0])
		}
		if wanted[1] {
			dx[1] = b.summed(b.op("Einsum", []string{n.Inputs[0], dy}, graph.StringAttr("equation", "...ji,...jk->...ik")), n.Inputs[1])
		}
		return dx, nil
	},
	"Gemm": gemmBack,

	"Reshape":   reshapedBack,
	"Flatten":   reshapedBack,
	"Squeeze":   reshapedBack,
	"Unsqueeze": reshapedBack,
	"Transpose": func(b *backward, n *graph.Node, dy string, _ []bool) ([]string, error) {
		a := n.Attr("perm")
		if a == nil {
			return []string{b.call("Transpose", dy)}, nil
		}
		back := make([]int64, len(a.Ints))
		for i, p := range a.Ints {
			if p < 0 || p >= int64(len(back)) {
				return nil, fmt.Errorf("attribute perm is %v", a.Ints)
			}
			back[p] = int64(i)
		}
		return []string{b.op("Transpose", []string{dy}, graph.IntsAttr("perm", back...))}, nil
	},
	"ReduceSum":  reducedBack,
	"ReduceMean": reducedBack,
}

// gemmBack is of y = alpha A' B' + beta C, where A' and B' may be transposed.
func gemmBack(b *backward, n *graph.Node, dy string, wanted []bool) ([]string, error) {
	factor := func(name, v string) string {
		if a := n.Attr(name); a != nil && a.Float != 1 {
			return b.call("Mul", v, b.number(a.Float, v))
		}
		return v
	}
	flag := func(name string) bool { a := n.Attr(name); return a != nil && a.Int != 0 }
	product := func(x string, tx bool, y string, ty bool) string {
		var attrs []*graph.Attr
		for name, on := range map[string]bool{"transA": tx, "transB": ty} {
			if on {
				attrs = append(attrs, graph.IntAttr(name, 1))
			}
		}
		return b.op("Gemm", []string{x, y}, attrs...)
	}
	dx := make([]string, len(n.Inputs))
	scaled := factor("alpha", dy)
	ta, tb := flag("transA"), flag("transB")
	if wanted[0] {
		if dx[0] = product(scaled, false, n.Inputs[1], !tb); ta {
			dx[0] = product(n.Inputs[1], tb, scaled, true)
		}
	}
	if wanted[1] {
		if dx[1] = product(n.Inputs[0], !ta, scaled, false); tb {
			dx[1] = product(scaled, true, n.Inputs[0], ta)
		}
	}
	if len(n.Inputs) > 2 && wanted[2] {
		dx[2] = b.summed(factor("beta", dy), n.Inputs[2])
	}
	return dx, nil
}

// reducedBack spreads the derivative of a sum or mean over what was added up.
func reducedBack(b *backward, n *graph.Node, dy string, _ []bool) ([]string, error) {
	x := n.Inputs[0]
	in := []string{x}
	if a := n.Attr("axes"); a != nil {
		in = append(in, b.ints(a.Ints...))
	} else {
		in = append(in, n.Inputs[1:]...)
	}
	var attrs []*graph.Attr
	if a := n.Attr("noop_with_empty_axes"); a != nil {
		attrs = append(attrs, a)
	}
	kept := b.call("Shape", b.op("ReduceSum", in, attrs...))
	dx := b.call("Expand", b.call("Reshape", dy, kept), b.call("Shape", x))
	if n.OpType == "ReduceMean" {
		dx = b.call("Div", b.call("Mul", dx, b.call("CastLike", b.call("Size", dy), dx)), b.call("CastLike", b.call("Size", x), dx))
	}
	return append([]string{dx}, make([]string, len(n.Inputs)-1)...), nil
}

// gradient makes the body of a Gradient node.
func (pl *planner) gradient(n *graph.Node, st *step, s *scope) error {
	fail := func(format string, args ...any) error {
		return &graph.CheckError{Where: "graph", Node: n.Label(), Reason: fmt.Sprintf(format, args...)}
	}
	refuse := func(cause Cause, format string, args ...any) error {
		pl.refused = append(pl.refused, UnsupportedNode{Name: nodeName(n), Domain: n.Domain, OpType: n.OpType, Opset: s.opsets[n.Domain],
			Cause: cause, Reason: fmt.Sprintf(format, args...)})
		return nil
	}
	var xs, zs []string
	if a := n.Attr("xs"); a != nil {
		xs = a.Strings
	}
	if a := n.Attr("zs"); a != nil {
		zs = a.Strings
	}
	given := append(slices.Clone(xs), zs...)
	y := n.Attr("y")
	if y == nil || len(xs) == 0 || len(n.Inputs) != len(given) || len(n.Outputs) > len(xs) {
		return fail("%d inputs and %d outputs do not fit attributes xs %v, zs %v", len(n.Inputs), len(n.Outputs), xs, zs)
	}
	body := newScope(nil, s.opsets)
	for i, name := range given {
		if slices.Contains(given[:i], name) {
			return fail("%q is named twice among xs and zs", name)
		}
		body.inputs = append(body.inputs, body.define(name))
		body.types[name] = s.types[name]
	}
	forward, leaves := s.between(given, y.String)
	values := map[int]graph.Datum{}
	for _, c := range s.consts {
		values[c.slot] = c.value
	}
	for _, name := range leaves {
		slot, ok := s.names[name]
		v, constantly := values[slot]
		if !ok || !constantly {
			return fail("value %q depends on %q, which is made by no node before, is no constant and is named neither in xs nor in zs", y.String, name)
		}
		body.consts = append(body.consts, constant{body.define(name), v})
	}
	for _, f := range forward {
		for _, o := range f.Outputs {
			if slices.Contains(given, o) {
				return fail("%q is named in xs or zs, but is made together with a value that %q depends on", o, y.String)
			}
		}
	}
	// Each such node repeats those before it, and may stand among what another one
	// repeats.
	if pl.repeated += len(forward) + 1; pl.repeated > maxSteps || pl.nested == maxDepth {
		return fail("the nodes that Gradient repeats are more than %d, or nested deeper than %d", maxSteps, maxDepth)
	}
	pl.nested++
	defer func() { pl.nested-- }()
	if err := pl.nodes(forward, body); err != nil {
		return err
	}
	b := &backward{}
	of, why := b.differentiate(forward, xs, y.String)
	if why != nil {
		return refuse(UnknownOperator, "%v", why)
	}
	body.opsets = maps.Clone(newest)
	if err := pl.nodes(b.nodes, body); err != nil {
		return err
	}
	var wanted []int
	for i, name := range n.Outputs {
		if err := body.output(of[xs[i]]); err != nil {
			return err
		}
		if name != "" {
			wanted = append(wanted, body.outputs[i])
		}
	}
	body.full = body.schedule(wanted)
	st.body = body.plan
	return nil
}

// between are the nodes planned so far that make y of the given values and of
// others, the leaves, which no node makes.
func (s *scope) between(given []string, y string) (nodes []*graph.Node, leaves []string) {
	needed := map[string]bool{y: true}
	for i := len(s.steps) - 1; i >= 0; i-- {
		n := s.steps[i].node
		if !slices.ContainsFunc(n.Outputs, func(o string) bool { return needed[o] && !slices.Contains(given, o) }) {
			continue
		}
		nodes = append(nodes, n)
		for _, o := range n.Outputs {
			delete(needed, o)
		}
		for _, in := range n.Inputs {
			if in != "" {
				needed[in] = true
			}
		}
	}
	slices.Reverse(nodes)
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if !slices.Contains(given, name) {
			leaves = append(leaves, name)
		}
	}
	return nodes, leaves
}

// differentiate writes the derivatives of y by each of xs, in the order of the
// nodes that make y. What y does not depend on has the derivative zero.
func (b *backward) differentiate(nodes []*graph.Node, xs []string, y string) (map[string]string, error) {
	depends := map[string]bool{}
	for _, x := range xs {
		depends[x] = true
	}
	for _, n := range nodes {
		if slices.ContainsFunc(n.Inputs, func(in string) bool { return depends[in] }) {
			for _, o := range n.Outputs {
				depends[o] = o != ""
			}
		}
	}
	one := tensor.Floats(tensor.Shape{1}, 1)
	ones := b.op("ConstantOfShape", []string{b.call("Shape", y)}, graph.TensorAttr("value", one))
	of := map[string]string{y: b.call("CastLike", ones, y)}
	for i := len(nodes) - 1; i >= 0; i-- {
		n := nodes[i]
		wanted := make([]bool, len(n.Inputs))
		for k, in := range n.Inputs {
			wanted[k] = depends[in]
		}
		if len(n.Outputs) == 0 || of[n.Outputs[0]] == "" || !slices.Contains(wanted, true) {
			continue
		}
		f := derivatives[n.OpType]
		if n.Domain != graph.DomainONNX || f == nil || len(n.Outputs) > 1 {
			return nil, fmt.Errorf("the derivative of node %q (%s) is not known", nodeName(n), opName(n.Domain, n.OpType))
		}
		dx, err := f(b, n, of[n.Outputs[0]], wanted)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", nodeName(n), n.OpType, err)
		}
		for k, in := range n.Inputs {
			switch {
			case !wanted[k]:
			case dx[k] == "":
				return nil, fmt.Errorf("the derivative of node %q (%s) by input %d is not known", nodeName(n), n.OpType, k)
			case of[in] == "":
				of[in] = dx[k]
			default:
				of[in] = b.call("Add", of[in], dx[k])
			}
		}
	}
	for _, x := range xs {
		if of[x] == "" {
			of[x] = b.call("Sub", x, x)
		}
	}
	return of, nil
}
