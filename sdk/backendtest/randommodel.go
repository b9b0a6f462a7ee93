package backendtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// A random model grows node by node: an operator of the table is drawn, inputs for
// it are chosen among the values that are there or made anew, and the reference
// computes it, exactly and twice more on values that are a little off, to either side. A node
// stays if its results are finite and of moderate size, if numbers that are off
// come out not much further off, and if integers and booleans come out the same: no
// comparison, rounding or maximum hangs by a hair.

// Bounds of a random model.
const (
	randomElements  = 800 // of a value
	randomMagnitude = 200 // of a number
	randomRank      = 5
)

// RandomModel is a small valid model of 3 to 30 nodes, in opset 23, and inputs for
// it; the same seed gives the same. Its results on sdk/reference are finite, and an
// implementation with correct rounding errors is within Mismatch's tolerances.
// Some dimensions of inputs are symbolic. There is always an output that depends on an input.
func RandomModel(seed uint64) (*graph.Model, map[string]tensor.Tensor) {
	for try := uint64(0); ; try++ {
		g := &randomGraph{
			b:      graph.NewBuilder(fmt.Sprintf("random-%d", seed)),
			rand:   rand.New(rand.NewPCG(seed, try)),
			inputs: map[string]tensor.Tensor{},
		}
		if m, err := g.grow(); err == nil {
			return m, g.inputs
		}
	}
}

// Mismatch reports how the outputs got of a random model differ from the
// reference's. Allowed are, relative to the largest magnitude of an output:
// 3e-5 for f32, 2e-2 for floats where the model computes in f16 or bf16 anywhere;
// integers and booleans must be equal.
func Mismatch(m *graph.Model, got, want map[string]tensor.Tensor) error {
	tol := map[tensor.DType]Tolerance{tensor.Float32: {1e-6, 3e-5}, tensor.Float64: {1e-6, 3e-5}}
	if coarse(m) {
		tol[tensor.Float32] = Tolerance{1e-3, 2e-2}
	}
	tol[tensor.Float16] = Tolerance{1e-3, 2e-2}
	tol[tensor.BFloat16] = Tolerance{1e-2, 4e-2}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[name]
		if !ok {
			errs = append(errs, fmt.Errorf("output %s did not come", name))
		} else if err := compare(g, want[name], tol[want[name].DType]); err != nil {
			errs = append(errs, fmt.Errorf("output %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// coarse reports whether numbers pass through a type of less than 24 bits of precision.
func coarse(m *graph.Model) bool {
	for _, n := range m.AllNodes() {
		to := tensor.DType(n.AttrInt("to", 0))
		if n.OpType == "Cast" && (to == tensor.Float16 || to == tensor.BFloat16) {
			return true
		}
	}
	return slices.ContainsFunc(m.Graph.Inputs, func(v *graph.Value) bool { return v.Type.Elem == tensor.Float16 || v.Type.Elem == tensor.BFloat16 })
}

// ModelText writes a model for people: a line for each input, constant, node and output.
func ModelText(m *graph.Model) string {
	var s strings.Builder
	graphText(&s, m.Graph, "")
	return s.String()
}

func graphText(s *strings.Builder, g *graph.Graph, indent string) {
	for _, v := range g.Inputs {
		fmt.Fprintf(s, "%sinput %s %s\n", indent, v.Name, typeText(v.Type))
	}
	for _, in := range g.Initializers {
		fmt.Fprintf(s, "%sconstant %s %s%v", indent, in.Name, in.Tensor.DType, in.Tensor.Shape)
		if v := numbers(in.Tensor); len(v) <= 8 {
			fmt.Fprintf(s, " %v", v)
		}
		s.WriteByte('\n')
	}
	for _, n := range g.Nodes {
		fmt.Fprintf(s, "%s%s = %s(%s)", indent, strings.Join(n.Outputs, ", "), strings.TrimPrefix(n.Domain+"."+n.OpType, "."), strings.Join(n.Inputs, ", "))
		for _, a := range n.Attrs {
			switch a.Kind {
			case graph.AttrFloat:
				fmt.Fprintf(s, " %s=%g", a.Name, a.Float)
			case graph.AttrInt:
				fmt.Fprintf(s, " %s=%d", a.Name, a.Int)
			case graph.AttrString:
				fmt.Fprintf(s, " %s=%q", a.Name, a.String)
			case graph.AttrInts:
				fmt.Fprintf(s, " %s=%v", a.Name, a.Ints)
			}
		}
		s.WriteByte('\n')
		for _, a := range n.Attrs {
			if a.Graph != nil {
				fmt.Fprintf(s, "%s  %s:\n", indent, a.Name)
				graphText(s, a.Graph, indent+"    ")
			}
		}
	}
	for _, v := range g.Outputs {
		fmt.Fprintf(s, "%soutput %s %s\n", indent, v.Name, typeText(v.Type))
	}
}

func typeText(t *graph.Type) string {
	if t == nil {
		return "?"
	}
	dims := "[...]"
	if t.HasShape {
		var list []string
		for _, d := range t.Dims {
			switch {
			case d.Param != "":
				list = append(list, d.Param)
			case d.Size < 0:
				list = append(list, "?")
			default:
				list = append(list, fmt.Sprint(d.Size))
			}
		}
		dims = "[" + strings.Join(list, ",") + "]"
	}
	return t.Elem.String() + dims
}

// Shrink looks for a smaller model that still fails: the first value, in the
// nodes' order, that comes out wrong, computed from as few nodes as possible, with
// values of the reference in place of the others. fails runs a model and says whether it fails.
func Shrink(m *graph.Model, inputs map[string]tensor.Tensor, fails func(*graph.Model, map[string]tensor.Tensor) bool) (*graph.Model, map[string]tensor.Tensor) {
	best, in := m, inputs
	for _, n := range m.Graph.Nodes {
		if c := endingIn(m, n); c != nil && fails(c, read(c, inputs)) {
			best, in = c, read(c, inputs)
			break
		}
	}
	for i := len(best.Graph.Nodes) - 1; i >= 0; i-- {
		if i >= len(best.Graph.Nodes) {
			continue
		}
		if c, with := startingAfter(best, in, best.Graph.Nodes[i]); c != nil && fails(c, with) {
			best, in = c, with
		}
	}
	return best, in
}

// endingIn is the model whose outputs are n's; nil if their types are not known.
func endingIn(m *graph.Model, n *graph.Node) *graph.Model {
	c := m.Clone()
	if graph.Infer(c) != nil {
		return nil
	}
	types := c.Graph.Types()
	c.Graph.Outputs, c.Graph.Values = nil, nil
	for _, name := range n.Outputs {
		if name == "" {
			continue
		}
		if types[name] == nil {
			return nil
		}
		c.Graph.Outputs = append(c.Graph.Outputs, &graph.Value{Name: name, Type: &graph.Type{Kind: graph.KindTensor, Elem: types[name].Elem}})
	}
	c.Prune()
	dropInputs(c.Graph)
	return c
}

// startingAfter is the model with what n computes among its inputs.
func startingAfter(m *graph.Model, inputs map[string]tensor.Tensor, n *graph.Node) (*graph.Model, map[string]tensor.Tensor) {
	if slices.ContainsFunc(m.Graph.Outputs, func(v *graph.Value) bool { return slices.Contains(n.Outputs, v.Name) }) {
		return nil, nil
	}
	before := endingIn(m, n)
	if before == nil {
		return nil, nil
	}
	p, err := reference.New(before, reference.Options{})
	if err != nil {
		return nil, nil
	}
	values, err := p.Run(context.Background(), read(before, inputs), nil)
	if err != nil {
		return nil, nil
	}
	c, in := m.Clone(), maps.Clone(inputs)
	c.Graph.Values = nil
	c.Graph.Nodes = slices.DeleteFunc(c.Graph.Nodes, func(o *graph.Node) bool { return slices.Equal(o.Outputs, n.Outputs) })
	for _, name := range n.Outputs {
		if t, ok := values[name]; ok {
			c.Graph.Inputs = append(c.Graph.Inputs, &graph.Value{Name: name, Type: knownType(t)})
			in[name] = t
		}
	}
	c.Prune()
	dropInputs(c.Graph)
	return c, read(c, in)
}

// read are those of the inputs that the model has.
func read(m *graph.Model, inputs map[string]tensor.Tensor) map[string]tensor.Tensor {
	in := map[string]tensor.Tensor{}
	for _, v := range m.Graph.Inputs {
		in[v.Name] = inputs[v.Name]
	}
	return in
}

func dropInputs(g *graph.Graph) {
	used := map[string]bool{}
	for _, n := range g.Nodes {
		for _, in := range append(n.Captures(), n.Inputs...) {
			used[in] = true
		}
	}
	for _, o := range g.Outputs {
		used[o.Name] = true
	}
	g.Inputs = slices.DeleteFunc(g.Inputs, func(v *graph.Value) bool { return !used[v.Name] })
}

func knownType(t tensor.Tensor) *graph.Type {
	ty := graph.TensorType(t.DType)
	for _, n := range t.Shape {
		ty.Dims = append(ty.Dims, graph.Known(n))
	}
	return ty
}

// randomGraph is a random model as it grows.
type randomGraph struct {
	b      *graph.Builder
	rand   *rand.Rand
	inputs map[string]tensor.Tensor
	values []*randomValue
	nodes  int
	inner  int // names of graphs inside
}

// randomValue is a value of the model: as it is, and as it comes out of numbers
// that are a little off, to one side and to the other.
type randomValue struct {
	name   string
	t      tensor.Tensor
	off    [2]tensor.Tensor
	coarse bool // it comes from f16 or bf16
	read   bool // by a node
	varies bool // it depends on an input
	fresh  bool // a constant or input that is not in the model yet
	input  bool
}

var errHair = errors.New("the node was not taken")

func (g *randomGraph) grow() (*graph.Model, error) {
	for range 1 + g.rand.IntN(3) {
		g.take(g.newInput(tensor.Float32, g.shape(1, 4)))
	}
	if g.chance(3) {
		g.take(g.newInput(tensor.Int64, g.shape(0, 3)))
	}
	want := 3 + g.rand.IntN(28)
	for tries := 0; g.nodes < want && tries < 40*want; tries++ {
		randomTable.draw(g.rand)(g)
	}
	if g.nodes < 3 {
		return nil, errHair
	}
	return g.finish()
}

// finish makes outputs of the values that nobody reads, and of some others.
func (g *randomGraph) finish() (*graph.Model, error) {
	varies := false
	n := 0
	for _, v := range g.values {
		if v.input && v.read || !v.input && v.read && !g.chance(12) || v.input && !g.chance(4) {
			continue
		}
		g.b.Output(fmt.Sprintf("out%d", n), v.name, &graph.Type{Kind: graph.KindTensor, Elem: v.t.DType})
		varies = varies || v.varies && !v.input
		n++
	}
	if !varies {
		return nil, errHair
	}
	m, err := g.b.Model()
	if err != nil {
		panic("backendtest: a random model is not valid: " + err.Error()) // a fault of the generator's
	}
	return m, nil
}

func (g *randomGraph) chance(n int) bool { return g.rand.IntN(n) == 0 }

func (g *randomGraph) one(list ...int64) int64 { return list[g.rand.IntN(len(list))] }

// shape draws a shape of lo to hi dimensions.
func (g *randomGraph) shape(lo, hi int) tensor.Shape {
	for {
		s := make(tensor.Shape, lo+g.rand.IntN(hi-lo+1))
		for i := range s {
			s[i] = g.one(1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 8, 9, 12, 16, 17)
		}
		if n, _ := s.Elements(); n <= randomElements {
			return s
		}
	}
}

// numbers draws a tensor: floats around 0, small integers, either boolean.
func (g *randomGraph) numbers(d tensor.DType, s tensor.Shape, lo, hi float64) tensor.Tensor {
	t, err := tensor.New(d, s)
	if err != nil {
		panic(err)
	}
	for i := range t.Len() {
		v := lo + (hi-lo)*g.rand.Float64()
		if d == tensor.Float32 && lo < 0 && g.chance(4) {
			v = math.Round(v*4) / 4 // exact numbers, and equal ones, are there as well
		}
		set(t, i, v)
	}
	return t
}

func rangeOf(d tensor.DType) (lo, hi float64) {
	switch d {
	case tensor.Uint8:
		return 0, 9
	case tensor.Bool:
		return -1, 1
	case tensor.Int64, tensor.Int32, tensor.Int8:
		return -6, 7
	}
	return -2, 2
}

func (g *randomGraph) newInput(d tensor.DType, s tensor.Shape) *randomValue {
	lo, hi := rangeOf(d)
	v := g.newConst(g.numbers(d, s, lo, hi))
	v.input, v.varies = true, true
	v.off = g.shifted(v.off, v.coarse)
	return v
}

// newConst is a constant that enters the model with the node that reads it.
func (g *randomGraph) newConst(t tensor.Tensor) *randomValue {
	return &randomValue{t: t, off: [2]tensor.Tensor{t, t}, coarse: t.DType == tensor.Float16 || t.DType == tensor.BFloat16, fresh: true}
}

func (g *randomGraph) ints(v ...int64) *randomValue {
	return g.newConst(tensor.Ints(tensor.Shape{int64(len(v))}, v...))
}

func (g *randomGraph) float(v float32) *randomValue { return g.newConst(tensor.Floats(nil, v)) }

// weight is a constant of floats in [lo, hi), now and then an input.
func (g *randomGraph) weight(lo, hi float64, shape ...int64) *randomValue {
	v := g.newConst(g.numbers(tensor.Float32, shape, lo, hi))
	if g.chance(8) {
		v.input, v.varies = true, true
	}
	return v
}

// take puts a new constant or input into the model.
func (g *randomGraph) take(v *randomValue) {
	if !v.fresh {
		return
	}
	v.fresh = false
	if !v.input {
		v.name = g.b.Const(v.t)
		return
	}
	name := fmt.Sprintf("in%d", len(g.inputs))
	ty := knownType(v.t)
	for i, n := range v.t.Shape {
		if g.chance(3) {
			ty.Dims[i] = graph.Sym(fmt.Sprintf("n%d", n)) // one symbol for one size
		}
	}
	g.inputs[name] = v.t
	v.name = g.b.Input(name, ty)
	g.values = append(g.values, v)
}

// pick chooses a value, later ones rather than earlier; nil if none is right.
func (g *randomGraph) pick(right func(*randomValue) bool) *randomValue {
	var list []*randomValue
	for _, v := range g.values {
		if right(v) {
			list = append(list, v)
		}
	}
	if len(list) == 0 {
		return nil
	}
	if g.chance(3) {
		return list[g.rand.IntN(len(list))]
	}
	return list[max(g.rand.IntN(len(list)), g.rand.IntN(len(list)))]
}

// of chooses a value of a type and at least so many dimensions, or makes an input.
func (g *randomGraph) of(d tensor.DType, rank int) *randomValue {
	v := g.pick(func(v *randomValue) bool { return v.t.DType == d && len(v.t.Shape) >= rank })
	if v == nil || g.chance(25) {
		v = g.newInput(d, g.shape(rank, max(rank, 4)))
	}
	return v
}

// f chooses a value of float32.
func (g *randomGraph) f(rank int) *randomValue { return g.of(tensor.Float32, rank) }

// ranked chooses a value of float32 of just so many dimensions.
func (g *randomGraph) ranked(rank int) *randomValue {
	v := g.pick(func(v *randomValue) bool { return v.t.DType == tensor.Float32 && len(v.t.Shape) == rank })
	if v == nil || g.chance(25) {
		v = g.newInput(tensor.Float32, g.shape(rank, rank))
	}
	return v
}

// any chooses a value of any type.
func (g *randomGraph) any(rank int) *randomValue {
	if v := g.pick(func(v *randomValue) bool { return len(v.t.Shape) >= rank }); v != nil {
		return v
	}
	return g.f(rank)
}

// partner chooses what v can be computed with, elementwise: a value that broadcasts, or a new one.
func (g *randomGraph) partner(v *randomValue) *randomValue {
	if !g.chance(3) {
		p := g.pick(func(p *randomValue) bool {
			return p.t.DType == v.t.DType && broadcasts(p.t.Shape, v.t.Shape)
		})
		if p != nil && (p != v || g.chance(4)) {
			return p
		}
	}
	s := v.t.Shape.Clone()
	for i := range s {
		if g.chance(3) {
			s[i] = 1
		}
	}
	s = s[g.rand.IntN(len(s)+1):]
	lo, hi := rangeOf(v.t.DType)
	p := g.newConst(g.numbers(v.t.DType, s, lo, hi))
	if g.chance(3) {
		p = g.newInput(v.t.DType, s)
	}
	return p
}

func broadcasts(a, b tensor.Shape) bool {
	n := int64(1)
	for i := range max(len(a), len(b)) {
		x, y := int64(1), int64(1)
		if i < len(a) {
			x = a[len(a)-1-i]
		}
		if i < len(b) {
			y = b[len(b)-1-i]
		}
		if x != y && x != 1 && y != 1 {
			return false
		}
		n *= max(x, y)
	}
	return n <= randomElements
}

// shifted are tensors a little further off, by no more than their type's step, each to its side.
func (g *randomGraph) shifted(t [2]tensor.Tensor, coarse bool) [2]tensor.Tensor {
	if !t[0].DType.IsFloat() {
		return t
	}
	step := shiftFine
	if coarse {
		step = shiftCoarse
	}
	list := [2][]float64{numbers(t[0]), numbers(t[1])}
	step *= largest(list[0])
	for side := range t {
		out, err := tensor.New(t[side].DType, t[side].Shape)
		if err != nil {
			panic(err)
		}
		t[side] = out
	}
	for i := range list[0] {
		by := step * float64(2*g.rand.IntN(2)-1)
		set(t[0], i, list[0][i]+by)
		set(t[1], i, list[1][i]-by)
	}
	return t
}

// How much values are off, relative to their largest, and may become.
const (
	shiftFine, hairFine     = 1e-5, 1.5e-4
	shiftCoarse, hairCoarse = 1e-3, 8e-3
)

func largest(list []float64) float64 {
	m := 0.0
	for _, v := range list {
		m = max(m, math.Abs(v))
	}
	return m
}

// op adds a node of one output; nil where it is not taken. A nil input makes it nil;
// absent stands for one that is left out.
func (g *randomGraph) op(op string, inputs []*randomValue, attrs ...*graph.Attr) *randomValue {
	out := g.node(&graph.Node{OpType: op, Attrs: attrs}, 1, inputs...)
	if out == nil {
		return nil
	}
	return out[0]
}

var absent = &randomValue{}

// node adds a node, if the reference computes it and nothing hangs by a hair.
func (g *randomGraph) node(n *graph.Node, outputs int, inputs ...*randomValue) []*randomValue {
	if slices.Contains(inputs, nil) {
		return nil
	}
	opset := int64(graph.DefaultOpset)
	if n.Domain != graph.DomainONNX {
		opset = 1
	}
	o, ok := reference.Lookup(n.Domain, n.OpType, opset)
	if !ok {
		return nil
	}
	captured := n.Captures()
	reads := slices.Clone(inputs)
	for _, name := range captured {
		for _, v := range g.values {
			if v.name == name {
				reads = append(reads, v)
			}
		}
	}
	coarse, varies := false, false
	for _, v := range reads {
		coarse, varies = coarse || v.coarse, varies || v.varies
	}
	trial := &graph.Node{OpType: n.OpType, Domain: n.Domain, Attrs: n.Attrs}
	for i := range inputs {
		trial.Inputs = append(trial.Inputs, "")
		if inputs[i] != absent {
			trial.Inputs[i] = fmt.Sprintf("i%d", i)
		}
	}
	for i := range outputs {
		trial.Outputs = append(trial.Outputs, fmt.Sprintf("o%d", i))
	}
	run := func(side int) []graph.Datum {
		of := func(v *randomValue) graph.Datum {
			switch {
			case v == absent:
				return graph.Datum{}
			case side >= 0:
				return graph.Datum{Kind: graph.KindTensor, Tensor: v.off[side]}
			}
			return graph.Datum{Kind: graph.KindTensor, Tensor: v.t}
		}
		var in []graph.Datum
		for _, v := range inputs {
			in = append(in, of(v))
		}
		out, err := o.Eval(context.Background(), trial, in, reference.Env{
			Opsets: map[string]int64{graph.DomainONNX: graph.DefaultOpset},
			Outer: func(name string) (graph.Datum, bool) {
				for _, v := range g.values {
					if v.name == name {
						return of(v), true
					}
				}
				return graph.Datum{}, false
			}})
		if err != nil {
			return nil
		}
		return out
	}
	exact, low, high := run(-1), run(0), run(1)
	if exact == nil || low == nil || high == nil {
		return nil
	}
	values := make([]*randomValue, outputs)
	for i := range values {
		if exact[i].Kind != graph.KindTensor || low[i].Kind != graph.KindTensor || high[i].Kind != graph.KindTensor {
			return nil
		}
		v := &randomValue{t: exact[i].Tensor, varies: varies, coarse: coarse || exact[i].Tensor.DType == tensor.Float16 || exact[i].Tensor.DType == tensor.BFloat16}
		if !v.sound(low[i].Tensor) || !v.sound(high[i].Tensor) {
			return nil
		}
		v.off = g.shifted([2]tensor.Tensor{low[i].Tensor, high[i].Tensor}, v.coarse)
		values[i] = v
	}
	n.Inputs = nil
	for _, v := range inputs {
		g.take(v)
		n.Inputs = append(n.Inputs, v.name)
	}
	for _, v := range reads {
		v.read = true
	}
	for i, name := range g.b.Node(n, outputs) {
		values[i].name = name
	}
	g.values = append(g.values, values...)
	g.nodes++
	return values
}

// sound reports whether a result is one to build on.
func (v *randomValue) sound(off tensor.Tensor) bool {
	n, err := v.t.Shape.Elements()
	if err != nil || n == 0 || n > randomElements || len(v.t.Shape) > randomRank || !off.Shape.Equal(v.t.Shape) || off.DType != v.t.DType {
		return false
	}
	a, b := numbers(v.t), numbers(off)
	if a == nil {
		return false
	}
	top := largest(a)
	hair := 0.0
	if v.t.DType.IsFloat() {
		hair = hairFine * top
		if v.coarse {
			hair = hairCoarse * top
		}
	}
	for i := range a {
		if math.IsNaN(a[i]) || math.Abs(a[i]) > randomMagnitude || !(math.Abs(a[i]-b[i]) <= hair) {
			return false
		}
	}
	return top == 0 || !v.t.DType.IsFloat() || top > 1e-3
}
