package main

import (
	"math"
	"slices"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Exporters write many operators in pieces. simplify puts the operator in the place
// of its pieces, so that all that is done for the operator is done for them too, and drops
// nodes that do nothing. What it writes has a native form at these types and shapes: the
// operator may be younger than the model's operator set, and the reference operators never see it.
func (p *planner) simplify() {
	p.fold()
	p.dropNothings()
	p.reindex()
	for _, rule := range []func(*graph.Node) *rewriting{p.gelu, p.silu, p.layerNorm, p.rmsNorm} {
		replaced, gone := map[*graph.Node]*graph.Node{}, map[*graph.Node]bool{}
		for _, n := range p.model.Graph.Nodes {
			r := rule(n)
			if r == nil || slices.ContainsFunc(r.pieces, func(n *graph.Node) bool { return gone[n] }) || !p.enclosed(r.pieces) {
				continue
			}
			last := r.pieces[0]
			for _, piece := range r.pieces {
				gone[piece] = true
				if p.position[piece] > p.position[last] {
					last = piece
				}
				p.pieces[r.whole] = append(p.pieces[r.whole], p.origins(piece)...)
			}
			r.whole.Name = last.Name
			replaced[last] = r.whole
		}
		if len(replaced) == 0 {
			continue
		}
		nodes := make([]*graph.Node, 0, len(p.model.Graph.Nodes))
		for _, n := range p.model.Graph.Nodes {
			if whole := replaced[n]; whole != nil {
				nodes = append(nodes, whole)
			} else if !gone[n] {
				nodes = append(nodes, n)
			}
		}
		p.model.Graph.Nodes = nodes
		p.reindex()
	}
}

// rewriting is one operator in the place of several.
type rewriting struct {
	whole  *graph.Node
	pieces []*graph.Node
}

// reindex follows a change of the nodes.
func (p *planner) reindex() {
	p.index = graph.NewIndex(p.model.Graph)
	clear(p.position)
	for i, n := range p.model.Graph.Nodes {
		p.position[n] = i
	}
}

// origins are the model's own nodes that n stands for.
func (p *planner) origins(n *graph.Node) []*graph.Node {
	if list := p.pieces[n]; list != nil {
		return list
	}
	return []*graph.Node{n}
}

// enclosed reports whether nobody but the pieces reads what they make, the last result aside.
func (p *planner) enclosed(pieces []*graph.Node) bool {
	last := pieces[0]
	for _, n := range pieces {
		if p.position[n] > p.position[last] {
			last = n
		}
	}
	for _, n := range pieces {
		if n == last {
			continue
		}
		for _, out := range n.Outputs {
			if p.index.IsOutput(out) || slices.ContainsFunc(p.index.Uses(out), func(u graph.Use) bool { return !slices.Contains(pieces, u.Node) }) {
				return false
			}
		}
	}
	return true
}

// dropNothings lets the readers of a node that changes nothing read its input.
func (p *planner) dropNothings() {
	p.reindex()
	renamed := map[string]string{}
	nodes := make([]*graph.Node, 0, len(p.model.Graph.Nodes))
	for _, n := range p.model.Graph.Nodes {
		n.Inputs = slices.Clone(n.Inputs)
		for i, in := range n.Inputs {
			if to, ok := renamed[in]; ok {
				n.Inputs[i] = to
			}
		}
		if p.nothing(n) {
			renamed[n.Outputs[0]] = n.Inputs[0]
			continue
		}
		nodes = append(nodes, n)
	}
	p.model.Graph.Nodes = nodes
}

// nothing reports whether a node's result is its first input as it is.
func (p *planner) nothing(n *graph.Node) bool {
	if n.Domain != graph.DomainONNX || len(n.Inputs) == 0 || len(n.Outputs) == 0 || p.index.IsOutput(n.Outputs[0]) {
		return false
	}
	x, y := n.Inputs[0], n.Outputs[0]
	for _, extra := range n.Outputs[1:] {
		if extra != "" {
			return false
		}
	}
	// What a graph inside a node reads keeps its name.
	for _, u := range p.index.Uses(y) {
		if u.Input < 0 {
			return false
		}
	}
	if p.dtype(x) != p.dtype(y) || !p.sameShape(x, y) {
		return false
	}
	switch n.OpType {
	case "Identity", "Cast", "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze":
		return true
	case "Dropout":
		return attrInput(n, 2) == "" && (p.model.Opsets[graph.DomainONNX] >= 7 || n.AttrInt("is_test", 0) != 0)
	case "Concat", "Sum", "Mean", "Max", "Min":
		return len(n.Inputs) == 1
	case "Transpose":
		perm := n.AttrInts("perm")
		return perm != nil && slices.IsSorted(perm)
	case "Slice":
		steps, ok := p.ints(attrInput(n, 4))
		return ok && !slices.ContainsFunc(steps, func(s int64) bool { return s < 0 })
	}
	return false
}

// plain reports whether a value is f32 of known shape that elementwise operators are native for.
func (p *planner) plain(name string) bool {
	s, ok := p.shape(name)
	return ok && p.dtype(name) == tensor.Float32 && len(s) <= kernels.MapRank && p.elements(name) > 0
}

// number is the value of a constant of one f32.
func (p *planner) number(name string) (float64, bool) {
	c := p.constants[name]
	if c == nil || c.Tensor.DType != tensor.Float32 || p.elements(name) != 1 {
		return 0, false
	}
	return float64(tensor.View[float32](c.Tensor.Aligned())[0]), true
}

// near compares with a constant that an exporter has rounded.
func near(v, want float64) bool { return math.Abs(v-want) <= 2e-4*math.Abs(want) }

// maker is the node that makes a value, if it is an operator of this name.
func (p *planner) maker(value, op string) *graph.Node {
	if n := p.index.Producer(value); is(n, op) {
		return n
	}
	return nil
}

// product is a value as factors: a number, and other values.
type product struct {
	number float64
	values []string
	nodes  []*graph.Node
}

// factors takes a value apart at Mul and Div by a number, as far as nobody else reads the parts.
func (p *planner) factors(value string) product {
	out := product{number: 1}
	var walk func(value string, root bool)
	walk = func(value string, root bool) {
		if v, ok := p.number(value); ok {
			out.number *= v
			return
		}
		n := p.index.Producer(value)
		if root || len(p.index.Uses(value)) == 1 && !p.index.IsOutput(value) {
			if is(n, "Mul") {
				out.nodes = append(out.nodes, n)
				walk(n.Inputs[0], false)
				walk(n.Inputs[1], false)
				return
			}
			if is(n, "Div") {
				if d, ok := p.number(n.Inputs[1]); ok && d != 0 {
					out.nodes = append(out.nodes, n)
					out.number /= d
					walk(n.Inputs[0], false)
					return
				}
			}
		}
		out.values = append(out.values, value)
	}
	walk(value, true)
	return out
}

// plusOne is the value v of a sum v + 1.
func (p *planner) plusOne(value string) (string, *graph.Node) {
	n := p.maker(value, "Add")
	if n == nil {
		return "", nil
	}
	for i := range 2 {
		if one, ok := p.number(n.Inputs[i]); ok && one == 1 {
			return n.Inputs[1-i], n
		}
	}
	return "", nil
}

// gelu: x/2 (1 + erf(x/sqrt 2)), or x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
func (p *planner) gelu(n *graph.Node) *rewriting {
	if !is(n, "Mul") && !is(n, "Div") || !p.plain(n.Outputs[0]) {
		return nil
	}
	f := p.factors(n.Outputs[0])
	if len(f.values) != 2 || !near(f.number, 0.5) {
		return nil
	}
	for i, x := range f.values {
		s, add := p.plusOne(f.values[1-i])
		if add == nil || !p.sameShape(x, n.Outputs[0]) {
			continue
		}
		pieces := append(f.nodes, add)
		whole := &graph.Node{OpType: "Gelu", Inputs: []string{x}, Outputs: n.Outputs}
		if erf := p.maker(s, "Erf"); erf != nil {
			in := p.factors(erf.Inputs[0])
			if slices.Equal(in.values, []string{x}) && near(in.number, math.Sqrt2/2) {
				return &rewriting{whole, append(append(pieces, erf), in.nodes...)}
			}
		}
		if tanh := p.maker(s, "Tanh"); tanh != nil {
			if nodes := p.tanhArgument(tanh.Inputs[0], x); nodes != nil {
				whole.Attrs = []*graph.Attr{graph.StringAttr("approximate", "tanh")}
				return &rewriting{whole, append(append(pieces, tanh), nodes...)}
			}
		}
	}
	return nil
}

// tanhArgument matches sqrt(2/pi) (x + 0.044715 x^3), its x perhaps outside the brackets.
func (p *planner) tanhArgument(value, x string) []*graph.Node {
	const cube = 0.044715
	f := p.factors(value)
	if !near(f.number, math.Sqrt(2/math.Pi)) {
		return nil
	}
	switch len(f.values) {
	case 1: // x + 0.044715 x^3
		add := p.maker(f.values[0], "Add")
		if add == nil {
			return nil
		}
		for i := range 2 {
			if add.Inputs[i] != x {
				continue
			}
			t := p.factors(add.Inputs[1-i])
			if near(t.number, cube) {
				if power, nodes := p.power(t.values, x); power == 3 {
					return slices.Concat(f.nodes, []*graph.Node{add}, t.nodes, nodes)
				}
			}
		}
	case 2: // x (1 + 0.044715 x^2)
		for i := range 2 {
			s, add := p.plusOne(f.values[1-i])
			if f.values[i] != x || add == nil {
				continue
			}
			t := p.factors(s)
			if near(t.number, cube) {
				if power, nodes := p.power(t.values, x); power == 2 {
					return slices.Concat(f.nodes, []*graph.Node{add}, t.nodes, nodes)
				}
			}
		}
	}
	return nil
}

// power counts x among factors that are x or powers of it; 0 if another is.
func (p *planner) power(values []string, x string) (n float64, nodes []*graph.Node) {
	for _, v := range values {
		if v == x {
			n++
			continue
		}
		pow := p.maker(v, "Pow")
		if pow == nil || pow.Inputs[0] != x {
			return 0, nil
		}
		e, ok := p.number(pow.Inputs[1])
		if !ok {
			return 0, nil
		}
		n += e
		nodes = append(nodes, pow)
	}
	return n, nodes
}

// silu: x sigmoid(x).
func (p *planner) silu(n *graph.Node) *rewriting {
	if !is(n, "Mul") || !p.plain(n.Outputs[0]) {
		return nil
	}
	for i := range 2 {
		if s := p.maker(n.Inputs[1-i], "Sigmoid"); s != nil && s.Inputs[0] == n.Inputs[i] {
			return &rewriting{&graph.Node{OpType: "Swish", Inputs: []string{n.Inputs[i]}, Outputs: n.Outputs}, []*graph.Node{n, s}}
		}
	}
	return nil
}

// overLast is a ReduceMean of the last dimension that keeps it, of x.
func (p *planner) overLast(value string) (x string, n *graph.Node) {
	if n = p.maker(value, "ReduceMean"); n == nil || n.AttrInt("keepdims", 1) != 1 {
		return "", nil
	}
	axes := n.AttrInts("axes")
	if in := attrInput(n, 1); in != "" {
		list, ok := p.ints(in)
		if !ok {
			return "", nil
		}
		axes = list
	}
	s, ok := p.shape(n.Inputs[0])
	if !ok || len(axes) != 1 || axes[0] != -1 && axes[0] != int64(len(s))-1 {
		return "", nil
	}
	return n.Inputs[0], n
}

// squareOf is v of v*v or v^2.
func (p *planner) squareOf(value string) (v string, n *graph.Node) {
	if n = p.maker(value, "Mul"); n != nil && n.Inputs[0] == n.Inputs[1] {
		return n.Inputs[0], n
	}
	if n = p.maker(value, "Pow"); n != nil {
		if e, ok := p.number(n.Inputs[1]); ok && e == 2 {
			return n.Inputs[0], n
		}
	}
	return "", nil
}

// overRoot matches v / sqrt(mean(v^2) + eps), however it is divided.
func (p *planner) overRoot(n *graph.Node) (v string, eps float64, pieces []*graph.Node) {
	var root string
	switch {
	case is(n, "Div"):
		v, root, pieces = n.Inputs[0], n.Inputs[1], []*graph.Node{n}
	case is(n, "Mul"):
		for i := range 2 {
			inverse := p.index.Producer(n.Inputs[i])
			if is(inverse, "Div") {
				if one, ok := p.number(inverse.Inputs[0]); ok && one == 1 {
					v, root, pieces = n.Inputs[1-i], inverse.Inputs[1], []*graph.Node{n, inverse}
				}
			}
			if is(inverse, "Reciprocal") {
				v, root, pieces = n.Inputs[1-i], inverse.Inputs[0], []*graph.Node{n, inverse}
			}
		}
	}
	if root == "" {
		return "", 0, nil
	}
	sqrt := p.maker(root, "Sqrt")
	if sqrt == nil {
		return "", 0, nil
	}
	add := p.maker(sqrt.Inputs[0], "Add")
	if add == nil {
		return "", 0, nil
	}
	for i := range 2 {
		e, ok := p.number(add.Inputs[i])
		if !ok {
			continue
		}
		squares, mean := p.overLast(add.Inputs[1-i])
		if mean == nil {
			continue
		}
		of, square := p.squareOf(squares)
		if of == "" {
			continue
		}
		if of != v {
			// Some exporters subtract the mean twice.
			a, b := p.maker(of, "Sub"), p.maker(v, "Sub")
			if a == nil || b == nil || !slices.Equal(a.Inputs, b.Inputs) {
				continue
			}
			pieces = append(pieces, a)
		}
		return v, e, append(pieces, sqrt, add, mean, square)
	}
	return "", 0, nil
}

// scaled follows a normalised value into a multiplication by gamma, and for a layer norm an addition of beta.
func (p *planner) scaled(n *graph.Node, shift bool) (gamma, beta string, last *graph.Node, nodes []*graph.Node) {
	width := func(name string) bool {
		s, _ := p.shape(n.Outputs[0])
		return p.isBias(name, s[len(s)-1])
	}
	last = n
	mul := p.next(last.Outputs[0])
	if !is(mul, "Mul") || !width(other(mul, last.Outputs[0])) || !p.sameShape(mul.Outputs[0], n.Outputs[0]) {
		return "", "", last, nil
	}
	gamma, last, nodes = other(mul, last.Outputs[0]), mul, []*graph.Node{mul}
	if add := p.next(last.Outputs[0]); shift && is(add, "Add") && width(other(add, last.Outputs[0])) && p.sameShape(add.Outputs[0], n.Outputs[0]) {
		beta, last, nodes = other(add, last.Outputs[0]), add, append(nodes, add)
	}
	return gamma, beta, last, nodes
}

// layerNorm: (x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma + beta over the last dimension.
func (p *planner) layerNorm(n *graph.Node) *rewriting {
	v, eps, pieces := p.overRoot(n)
	sub := p.maker(v, "Sub")
	if pieces == nil || sub == nil || !p.plain(n.Outputs[0]) {
		return nil
	}
	x, mean := p.overLast(sub.Inputs[1])
	if mean == nil || x != sub.Inputs[0] || !p.sameShape(x, n.Outputs[0]) || p.dtype(x) != tensor.Float32 {
		return nil
	}
	gamma, beta, last, more := p.scaled(n, true)
	if gamma == "" {
		return nil
	}
	in := []string{x, gamma}
	if beta != "" {
		in = append(in, beta)
	}
	whole := &graph.Node{OpType: "LayerNormalization", Inputs: in, Outputs: last.Outputs, Attrs: []*graph.Attr{graph.FloatAttr("epsilon", float32(eps)), graph.IntAttr("axis", -1)}}
	return &rewriting{whole, slices.Concat(pieces, []*graph.Node{sub, mean}, more)}
}

// rmsNorm: x / sqrt(mean(x^2) + eps) * gamma over the last dimension.
func (p *planner) rmsNorm(n *graph.Node) *rewriting {
	x, eps, pieces := p.overRoot(n)
	if pieces == nil || !p.plain(n.Outputs[0]) || !p.sameShape(x, n.Outputs[0]) || p.dtype(x) != tensor.Float32 {
		return nil
	}
	gamma, _, last, more := p.scaled(n, false)
	if gamma == "" {
		return nil
	}
	whole := &graph.Node{OpType: "RMSNormalization", Inputs: []string{x, gamma}, Outputs: last.Outputs,
		Attrs: []*graph.Attr{graph.FloatAttr("epsilon", float32(eps)), graph.IntAttr("axis", -1)}}
	return &rewriting{whole, slices.Concat(pieces, more)}
}
