package reference

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// allOperators lists the operators in a fixed order.
func allOperators() []*Operator {
	var ops []*Operator
	for _, versions := range registry {
		ops = append(ops, versions...)
	}
	slices.SortFunc(ops, func(a, b *Operator) int {
		if c := strings.Compare(a.Domain+":"+a.Name, b.Domain+":"+b.Name); c != 0 {
			return c
		}
		return int(a.Version - b.Version)
	})
	return ops
}

// randomCall makes a node and inputs of the right kinds and types, but of any
// shape, content and attributes.
type randomCall struct{ *rand.Rand }

func (r randomCall) pick(s typeSet) tensor.DType {
	var all []tensor.DType
	for d := tensor.Undefined + 1; d.Valid(); d++ {
		if s.has(d) {
			all = append(all, d)
		}
	}
	return all[r.IntN(len(all))]
}

func (r randomCall) dim() int64 {
	switch r.IntN(12) {
	case 0:
		return 0
	case 1, 2, 3, 4:
		return 1
	}
	return int64(r.IntN(5)) + 1
}

func (r randomCall) tensor(d tensor.DType) tensor.Tensor {
	s := make(tensor.Shape, r.IntN(5))
	for i := range s {
		s[i] = r.dim()
	}
	if d == tensor.Int64 && r.IntN(2) == 0 {
		s = tensor.Shape{int64(r.IntN(5))} // axes, shapes, pads
	}
	t, err := tensor.New(d, s)
	if err != nil {
		panic(err)
	}
	for i := range t.Data {
		t.Data[i] = byte(r.Uint32())
	}
	for i := range t.Len() {
		switch classOf(d) {
		case classInt, classUint:
			if r.IntN(20) > 0 {
				putInt(t, i, int64(r.IntN(7))-2)
			}
		case classBool:
			t.Data[i] &= 1
		case classFloat:
			if r.IntN(20) > 0 && (floatTypes.has(d)) {
				putFloat(t, i, r.NormFloat64())
			}
		default:
			if d == tensor.String {
				t.Strings[i] = string(rune('a' + r.IntN(3)))
			}
		}
	}
	return t
}

func (r randomCall) value(p param, bound map[string]tensor.DType) graph.Datum {
	if p.kinds&tensorKind == 0 || p.kinds != tensorKind && r.IntN(3) == 0 {
		if p.kinds&sequenceKind != 0 {
			v := graph.Datum{Kind: graph.KindSequence}
			d := r.pick(typeNames["any"])
			for range r.IntN(4) {
				v.Sequence = append(v.Sequence, tensorValue(r.tensor(d)))
			}
			return v
		}
		v := graph.Datum{Kind: graph.KindOptional}
		if r.IntN(2) == 0 {
			t := tensorValue(r.tensor(tensor.Float32))
			v.Optional = &t
		}
		return v
	}
	d, ok := bound[p.bind]
	if !ok || p.bind == "" {
		d = r.pick(p.types)
		bound[p.bind] = d
	}
	return tensorValue(r.tensor(d))
}

func (r randomCall) ints() []int64 {
	v := make([]int64, r.IntN(5))
	for i := range v {
		v[i] = int64(r.IntN(6)) - 1
		if r.IntN(30) == 0 {
			v[i] = int64(r.Uint64())
		}
	}
	return v
}

func (r randomCall) attr(name string, s attrSpec) *graph.Attr {
	a := &graph.Attr{Name: name, Kind: s.kind}
	switch s.kind {
	case graph.AttrInt:
		a.Int = int64(r.IntN(7)) - 2
		switch {
		case name == "to" || strings.HasSuffix(name, "dtype"):
			a.Int = int64(r.IntN(28))
		case r.IntN(30) == 0:
			a.Int = int64(r.Uint64())
		}
	case graph.AttrFloat:
		a.Float = float32(r.NormFloat64())
	case graph.AttrString:
		if s.allowed != nil {
			a.String = s.allowed[r.IntN(len(s.allowed))]
		} else {
			a.String = []string{"LEFT", "RIGHT", "ij,jk->ik", "...i,i", "ii->i", "i,j->j...", "->"}[r.IntN(7)]
		}
	case graph.AttrInts:
		a.Ints = r.ints()
	case graph.AttrFloats:
		a.Floats = []float32{1, 1, 2, 0.5}[:r.IntN(5)]
	case graph.AttrStrings:
		a.Strings = []string{"a", "b"}
	case graph.AttrTensor:
		a.Tensor = &graph.Initializer{Tensor: r.tensor(r.pick(typeNames["any"]))}
	case graph.AttrGraph:
		a.Graph = r.graph()
	case graph.AttrType:
		a.Type = graph.TensorType(tensor.Float32)
	}
	return a
}

// graph is a body: some inputs passed on, and a condition.
func (r randomCall) graph() *graph.Graph {
	g := &graph.Graph{Name: "body"}
	for i := range r.IntN(4) {
		name := string(rune('a' + i))
		g.Inputs = append(g.Inputs, &graph.Value{Name: name})
		g.Outputs = append(g.Outputs, &graph.Value{Name: name, Type: graph.TensorType(tensor.Float32)})
	}
	if r.IntN(2) == 0 {
		g.Initializers = []*graph.Initializer{{Name: "yes", Tensor: tensor.Tensor{DType: tensor.Bool, Shape: tensor.Shape{}, Data: []byte{byte(r.IntN(2))}}}}
		g.Outputs = append([]*graph.Value{{Name: "yes"}}, g.Outputs...)
	}
	return g
}

func (r randomCall) call(o *Operator) (*graph.Node, []graph.Datum) {
	n := &graph.Node{Name: "n", Domain: o.Domain, OpType: o.Name}
	bound := map[string]tensor.DType{}
	var in []graph.Datum
	for _, p := range o.inputs {
		count := 1
		if p.variadic {
			count = r.IntN(4)
		}
		if p.optional && r.IntN(2) == 0 {
			in, n.Inputs = append(in, graph.Datum{}), append(n.Inputs, "")
			continue
		}
		for range count {
			in, n.Inputs = append(in, r.value(p, bound)), append(n.Inputs, "x")
		}
	}
	for _, p := range o.outputs {
		switch {
		case p.optional && r.IntN(2) == 0:
			n.Outputs = append(n.Outputs, "")
		default:
			n.Outputs = append(n.Outputs, "y")
		}
	}
	names := make([]string, 0, len(o.attrs))
	for name := range o.attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if s := o.attrs[name]; s.required || r.IntN(3) == 0 {
			n.Attrs = append(n.Attrs, r.attr(name, s))
		}
	}
	return n, in
}

// tryRandom reports a panic inside an operator, or an output that is not a tensor.
func tryRandom(t *testing.T, o *Operator, seed uint64) {
	r := randomCall{rand.New(rand.NewPCG(seed, 0))}
	n, in := r.call(o)
	limit := 30 * time.Second
	if o.Name == "Loop" {
		limit = 20 * time.Millisecond // it may have no end
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := o.Eval(ctx, n, in, Env{Opsets: map[string]int64{"": 23}, MaxBytes: 64 << 20})
	var internal *InternalError
	switch {
	case errors.As(err, &internal):
		t.Fatalf("%s-%d, seed %d: %v", o.Name, o.Version, seed, err)
	case errors.Is(err, context.DeadlineExceeded) && o.Name != "Loop":
		t.Fatalf("%s-%d, seed %d: does not end", o.Name, o.Version, seed)
	case err != nil:
		return
	}
	for i, v := range out {
		if v.Kind == graph.KindTensor {
			if err := v.Tensor.Check(); err != nil {
				t.Fatalf("%s-%d, seed %d: output %d: %v", o.Name, o.Version, seed, i, err)
			}
		}
	}
}

// Operators meet bad input with errors, not panics.
func TestRandomCalls(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for _, o := range allOperators() {
		for seed := range seeds {
			tryRandom(t, o, seed)
		}
	}
}

func FuzzOperators(f *testing.F) {
	ops := allOperators()
	for i := range 16 {
		f.Add(uint16(i*37), uint64(i))
	}
	f.Fuzz(func(t *testing.T, op uint16, seed uint64) {
		tryRandom(t, ops[int(op)%len(ops)], seed)
	})
}

// mutate changes an input or an attribute a little.
func (r randomCall) mutate(inputs []graph.Datum, nodes []*graph.Node) {
	if len(inputs) == 0 || r.IntN(3) == 0 && len(nodes) > 0 {
		n := nodes[r.IntN(len(nodes))]
		if len(n.Attrs) == 0 {
			return
		}
		at := r.IntN(len(n.Attrs))
		a := *n.Attrs[at]
		n.Attrs[at] = &a
		switch a.Kind {
		case graph.AttrInt:
			a.Int += int64(r.IntN(7)) - 3
			if r.IntN(4) == 0 {
				a.Int = int64(r.Uint64()) >> r.IntN(64)
			}
		case graph.AttrInts:
			a.Ints = append([]int64(nil), a.Ints...)
			switch {
			case len(a.Ints) == 0 || r.IntN(4) == 0:
				a.Ints = append(a.Ints, int64(r.IntN(4)))
			case r.IntN(3) == 0:
				a.Ints = a.Ints[1:]
			default:
				a.Ints[r.IntN(len(a.Ints))] = int64(r.Uint64()) >> r.IntN(64)
			}
		case graph.AttrFloat:
			a.Float = float32(r.NormFloat64())
		}
		return
	}
	v := &inputs[r.IntN(len(inputs))]
	if v.Kind != graph.KindTensor {
		return
	}
	t := v.Tensor
	s := t.Shape.Clone()
	switch r.IntN(5) {
	case 0:
		s = append(s, r.dim())
	case 1:
		if len(s) > 0 {
			s = s[1:]
		}
	case 2:
		if len(s) > 0 {
			s[r.IntN(len(s))] = r.dim()
		}
	case 3: // the same elements in other dimensions
		if len(s) > 1 {
			i := r.IntN(len(s) - 1)
			s[i], s[i+1] = s[i+1], s[i]
		}
	}
	fresh, err := tensor.New(t.DType, s)
	if err != nil || fresh.Len() > 1<<16 {
		return
	}
	for i := range fresh.Len() {
		if t.Len() > 0 {
			move(fresh, i, t, i%t.Len(), 1)
		}
	}
	if n := fresh.Len(); n > 0 && t.DType.IsInt() && r.IntN(2) == 0 {
		putInt(fresh, r.IntN(n), int64(r.Uint64())>>r.IntN(64))
	}
	*v = tensorValue(fresh)
}

// Calls that are nearly right are refused or computed, never a panic.
func TestMutatedNodeTests(t *testing.T) {
	dir := testfiles.ONNX(t)
	var cases []onnxCase
	readJSON(t, filepath.Join(dir, "cases.json"), &cases)
	ran := 0
	for k, c := range cases {
		if testing.Short() && k%4 > 0 {
			continue
		}
		m, err := graph.Load(filepath.Join(dir, c.Name))
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(2) {
			if mutateModel(t, dir, c.Name, m.Clone(), uint64(k)<<8|seed) {
				ran++
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d mutated models ran to the end", ran)
	if ran == 0 {
		t.Error("no mutated model ran")
	}
}

func mutateModel(t *testing.T, dir, name string, m *graph.Model, seed uint64) bool {
	r := randomCall{rand.New(rand.NewPCG(seed, 1))}
	var in []graph.Datum
	for i, v := range m.Graph.Inputs {
		d, err := readDatum(filepath.Join(dir, name, "test_data_set_0", fmt.Sprintf("input_%d.pb", i)), v.Type)
		if err != nil {
			return false
		}
		in = append(in, d)
		v.Type = &graph.Type{Kind: v.Type.Kind, Elem: v.Type.Elem, Of: v.Type.Of}
	}
	m.Graph.Values = nil
	r.mutate(in, m.Graph.Nodes)
	p, err := New(m, Options{MaxBytes: 64 << 20})
	if err != nil {
		return false
	}
	inputs := map[string]graph.Datum{}
	for i, v := range m.Graph.Inputs {
		inputs[v.Name] = in[i]
	}
	// Loops and kernels may become endless: that is what contexts are for.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = p.RunValues(ctx, inputs, nil)
	var internal *InternalError
	if errors.As(err, &internal) {
		t.Fatalf("%s, seed %d: %v", name, seed, err)
	}
	return err == nil
}

// The operators that ONNX has no node tests of.
func TestMutatedContractCalls(t *testing.T) {
	base := rand.New(rand.NewPCG(7, 8))
	pool := func(d tensor.DType, width int64) tensor.Tensor { return zeros(t, d, tensor.Shape{4, 2, 2, width}) }
	x := func(s ...int64) tensor.Tensor { return randomFloats(base, s) }
	ints := func(v ...int64) tensor.Tensor { return tensor.Ints(tensor.Shape{int64(len(v))}, v...) }
	scales := zeros(t, tensor.Float16, tensor.Shape{4, 2, 2})
	table := tensor.Ints(tensor.Shape{2, 2}, 1, 2, 3, 0)
	none := tensor.Tensor{}
	calls := []struct {
		domain, op string
		in         []graph.Datum
		outputs    int
		attrs      []*graph.Attr
	}{
		{graph.DomainAccel, "PagedAttention", values(x(4, 4, 8), x(4, 2, 8), x(4, 2, 8), pool(tensor.Float32, 8), pool(tensor.Float32, 8), ints(2, 3, 4, 6), table, ints(3, 1), ints(0, 3, 4), none, none, x(4, 3)), 3,
			[]*graph.Attr{graph.IntAttr("window", 2), graph.IntAttr("causal", 1), graph.FloatAttr("softcap", 3)}},
		{graph.DomainAccel, "PagedAttention", values(x(4, 4, 8), x(4, 2, 8), x(4, 2, 8), pool(tensor.Uint8, 4), pool(tensor.Int8, 8), ints(2, 3, 4, 6), table, ints(3, 1), ints(0, 3, 4), scales, scales), 5,
			[]*graph.Attr{graph.IntAttr("k_bits", 4), graph.IntAttr("v_bits", 8)}},
		{graph.DomainAccel, "PagedWrite", values(x(4, 2, 8), x(4, 2, 8), ints(2, 3, 4, 6), pool(tensor.Float32, 8), pool(tensor.Float32, 8)), 2, nil},
		{graph.DomainAccel, "MatMulBlocks", values(x(2, 16), zeros(t, tensor.Uint8, tensor.Shape{3, 6}), x(3, 2), x(3, 2)), 1,
			[]*graph.Attr{graph.IntAttr("bits", 3), graph.IntAttr("block", 8), graph.IntAttr("K", 16), graph.IntAttr("N", 3)}},
		{graph.DomainAccel, "GatherBlocks", values(zeros(t, tensor.Uint8, tensor.Shape{3, 6}), x(3, 2), x(3, 2), ints(2, 0, -1)), 1,
			[]*graph.Attr{graph.IntAttr("bits", 3), graph.IntAttr("block", 8), graph.IntAttr("K", 16)}},
		{graph.DomainMicrosoft, "MatMulNBits", values(x(2, 32), zeros(t, tensor.Uint8, tensor.Shape{3, 2, 8}), x(3, 2), zeros(t, tensor.Uint8, tensor.Shape{3, 1}), none, x(3)), 1,
			[]*graph.Attr{graph.IntAttr("bits", 4), graph.IntAttr("block_size", 16), graph.IntAttr("K", 32), graph.IntAttr("N", 3)}},
	}
	for _, c := range calls {
		if _, err := evalOp(c.domain, c.op, c.in, c.outputs, c.attrs...); err != nil {
			t.Errorf("%s: %v", c.op, err)
		}
		for seed := range uint64(400) {
			r := randomCall{rand.New(rand.NewPCG(seed, 2))}
			n := node(c.op, c.in, c.outputs, append([]*graph.Attr(nil), c.attrs...)...)
			n.Domain = c.domain
			in := append([]graph.Datum(nil), c.in...)
			for range 1 + r.IntN(2) {
				r.mutate(in, []*graph.Node{n})
			}
			o, _ := Lookup(c.domain, c.op, 1)
			_, err := o.Eval(context.Background(), n, in, Env{MaxBytes: 64 << 20})
			var internal *InternalError
			if errors.As(err, &internal) {
				t.Fatalf("%s, seed %d: %v", c.op, seed, err)
			}
		}
	}
}
