package backendtest

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// checkPools decodes some steps over pools that lie in a buffer of the device, input and output bound to the same
// place, as a server does: the pools are updated there, and nothing beside them. So are pools that are only written,
// as an encoder's keys and values are.
func checkPools(t T, c *conn) {
	taken, reason := 0, ""
	for i, kind := range pools {
		for _, op := range []string{"PagedAttention", "PagedWrite"} {
			if refused := c.decodeSteps(t, i, op, op+" of "+kind.name); refused != "" {
				reason = refused
			} else {
				taken++
			}
		}
	}
	if taken == 0 {
		t.Skipf("Assess takes no kind of pools: %s", reason)
	}
}

// poolSteps are the sizes of checkPools' graph: two sequences, a token each a step.
const (
	poolSteps = 6
	poolPages = 5
	poolPlace = 4 // places of a page
	poolGap   = 64
)

// stepGraph is a PagedAttention or a PagedWrite of two tokens, one of each of two sequences, all of its inputs the
// graph's. pooled are its pools, by input, with the outputs that update them.
func stepGraph(t T, kind int, op string) (m *graph.Model, pooled map[string]string) {
	b := graph.NewBuilder("decode steps")
	known := func(d tensor.DType, shape ...int64) *graph.Type {
		ty := graph.TensorType(d)
		for _, n := range shape {
			ty.Dims = append(ty.Dims, graph.Known(n))
		}
		return ty
	}
	f32, i64 := tensor.Float32, tensor.Int64
	p := paged{heads: 4, kv: 2, d: 8, dv: 16, pool: kind}
	k, v, slots := b.Input("k", known(f32, 2, p.kv, p.d)), b.Input("v", known(f32, 2, p.kv, p.dv)), b.Input("slots", known(i64, 2))
	in, out := []string{k, v, slots, "k_pages", "v_pages"}, []string{}
	if op == "PagedAttention" {
		in = []string{b.Input("q", known(f32, 2, p.heads, p.d)), k, v, "k_pages", "v_pages", slots,
			b.Input("page_tables", known(i64, 2, 2)), b.Input("lengths", known(i64, 2)), b.Input("starts", known(i64, 3))}
		out = append(out, "o")
	}
	width := int64(1)
	if pools[kind].bits == 4 {
		width = 2
	}
	types := map[string]*graph.Type{"k_pages": known(pools[kind].d, poolPages, poolPlace, p.kv, p.d/width), "v_pages": known(pools[kind].d, poolPages, poolPlace, p.kv, p.dv/width)}
	names := []string{"k_pages", "v_pages"}
	if pools[kind].bits > 0 {
		names = append(names, "k_scales", "v_scales")
		in = append(in, "k_scales", "v_scales")
		types["k_scales"], types["v_scales"] = known(tensor.Float16, poolPages, poolPlace, p.kv), known(tensor.Float16, poolPages, poolPlace, p.kv)
	}
	pooled = map[string]string{}
	for _, name := range names {
		b.Input(name, types[name])
		pooled[name] = name + "_out"
		out = append(out, pooled[name])
	}
	attrs := p.attrs()
	if op == "PagedWrite" { // it has no scale
		attrs = slices.DeleteFunc(attrs, func(a *graph.Attr) bool { return a.Name == "scale" })
	}
	b.Node(&graph.Node{Domain: graph.DomainAccel, OpType: op, Inputs: in, Outputs: out, Attrs: attrs}, 0)
	if op == "PagedAttention" {
		b.Output("o", "o", known(f32, 2, p.heads, p.dv))
	}
	for _, name := range names {
		b.Output(pooled[name], pooled[name], types[name])
	}
	return build(t, b), pooled
}

// step sets the inputs of a step of a graph. The sequences have pages 3 and 1, and 4 and 2; the second is two tokens ahead.
func (g *gen) step(m *graph.Model, inputs map[string]tensor.Tensor, step int64) {
	lengths, tables := []int64{step + 1, step + 3}, []int64{3, 1, 4, 2}
	var slots []int64
	for b, n := range lengths {
		slots = append(slots, tables[2*b+int(n-1)/poolPlace]*poolPlace+(n-1)%poolPlace)
	}
	for name, shape := range ordered(map[string]tensor.Shape{"q": {2, 4, 8}, "k": {2, 2, 8}, "v": {2, 2, 16}}) {
		inputs[name] = g.between(tensor.Float32, -2, 2, shape...)
	}
	inputs["slots"], inputs["page_tables"] = tensor.Ints(tensor.Shape{2}, slots...), tensor.Ints(tensor.Shape{2, 2}, tables...)
	inputs["lengths"], inputs["starts"] = tensor.Ints(tensor.Shape{2}, lengths...), tensor.Ints(tensor.Shape{3}, 0, 1, 2)
	maps.DeleteFunc(inputs, func(name string, _ tensor.Tensor) bool {
		return !slices.ContainsFunc(m.Graph.Inputs, func(v *graph.Value) bool { return v.Name == name })
	})
}

// decodeSteps runs the steps of one kind of pools, or says why the device refuses it.
func (c *conn) decodeSteps(t T, kind int, op, name string) (refused string) {
	m, pooled := stepGraph(t, kind, op)
	dir := write(t, m)
	a, err := c.assess(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range a.Nodes {
		if !v.OK {
			t.Logf("%s: Assess does not take it: %s", name, v.Reason)
			return string(v.Refusal) + ": " + v.Reason
		}
	}
	ref, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := &gen{Builder: graph.NewBuilder("inputs"), rand: rand.New(rand.NewPCG(1, uint64(kind))), inputs: map[string]tensor.Tensor{}}
	// All pools lie in one buffer, with a gap behind each.
	inputs, offset := map[string]tensor.Tensor{}, map[string]uint64{}
	size := uint64(poolGap)
	for _, v := range m.Graph.Inputs {
		if pooled[v.Name] == "" {
			continue
		}
		var shape tensor.Shape
		for _, d := range v.Type.Dims {
			shape = append(shape, d.Size)
		}
		x, err := tensor.New(v.Type.Elem, shape)
		if err != nil {
			t.Fatal(err)
		}
		inputs[v.Name], offset[v.Name] = x, size
		size += uint64(len(x.Data)+poolGap-1)/poolGap*poolGap + poolGap
	}
	g.step(m, inputs, 0)
	q := &backendv1.CompileRequest{GraphDir: dir}
	for name, x := range inputs {
		q.SmokeInputs = append(q.SmokeInputs, typed(&backendv1.Binding{Name: name, Place: &backendv1.Binding_Inline{Inline: x.Data}}, x))
	}
	e, err := c.tryCompile(q)
	c.must("Compile for pools of "+name, err)
	buffer, mem := c.alloc(size), c.share(int64(size), readWrite)
	s := c.execute()
	for step := range int64(poolSteps) {
		g.step(m, inputs, step)
		want, err := ref.Run(t.Context(), inputs, nil)
		if err != nil {
			t.Fatal(err)
		}
		in, out := []*backendv1.Binding{}, []*backendv1.Binding{}
		if op == "PagedAttention" {
			out = bind(inlineOut("o"))
		}
		for name, x := range inputs {
			if pooled[name] == "" {
				in = append(in, typed(&backendv1.Binding{Name: name, Place: &backendv1.Binding_Inline{Inline: x.Data}}, x))
				continue
			}
			in = append(in, typed(bufferAt(name, buffer, offset[name], uint64(len(x.Data))), x))
			out = append(out, bufferAt(pooled[name], buffer, offset[name], uint64(len(x.Data))))
		}
		r := s.done(s.sendRun(e.id, in, out))
		for _, b := range r.done.GetOutputs() {
			if b.GetName() != "o" {
				continue
			}
			if err := compare(c.tensor(b, b.GetInline()), want["o"], tolerances[tensor.Float32]); err != nil {
				t.Fatalf("%s, step %d: %v", name, step, err)
			}
		}
		s.done(s.sendCopy(&backendv1.CopyRange{From: buffer, To: mem.id, Length: size}))
		end := uint64(0)
		for _, v := range m.Graph.Inputs {
			if pooled[v.Name] == "" {
				continue
			}
			x, from := want[pooled[v.Name]], offset[v.Name]
			inputs[v.Name] = x
			if i := bytes.IndexFunc(mem.Bytes()[end:from], func(r rune) bool { return r != 0 }); i >= 0 {
				t.Fatalf("%s, step %d wrote to byte %d before %s", name, step, i, v.Name)
			}
			end = from + uint64(len(x.Data))
			if err := compare(tensor.Tensor{DType: x.DType, Shape: x.Shape, Data: bytes.Clone(mem.Bytes()[from:end])}, x, tolerances[x.DType]); err != nil {
				t.Fatalf("%s, step %d: %s after the run: %v", name, step, v.Name, err)
			}
		}
	}
	return ""
}
