package graph

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

func FuzzParse(f *testing.F) {
	data, err := Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(modelWire(wire(nil).bytes(5, tensorWire(6, 2).bytes(5, packedInts(-1, 2))))))
	f.Add([]byte(externalModel("w.bin", "4")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, WithLimits(Limits{Dense: 1 << 16}))
		if err != nil {
			return
		}
		first, err := Marshal(m)
		if err != nil {
			// External data that leads outside is read, but not written.
			return
		}
		again, err := Parse(first)
		if err != nil {
			t.Fatalf("what was written can't be read: %v", err)
		}
		second, err := Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Error("written twice, the bytes differ")
		}
		_ = m.Check()
		c := m.Clone()
		if c.Graph.Sort() == nil && c.Check() == nil {
			c.Prune()
		}
	})
}

func FuzzParseTensor(f *testing.F) {
	f.Add([]byte(tensorWire(1, 2).bytes(9, packedFloats(1, -2))))
	f.Add([]byte(tensorWire(6, 2).int(5, 1, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		name, v, err := ParseTensor(data)
		if err != nil {
			return
		}
		out, err := AppendTensor(nil, name, v)
		if err != nil {
			t.Fatal(err)
		}
		name2, v2, err := ParseTensor(out)
		if err != nil || name2 != name || v2.DType != v.DType || !v2.Shape.Equal(v.Shape) || !bytes.Equal(v2.Data, v.Data) {
			t.Fatalf("%+v came back as %+v, %v", v, v2, err)
		}
	})
}

func FuzzParseDatum(f *testing.F) {
	one := tensorWire(1).f32(4, 1)
	f.Add([]byte(wire(nil).str(1, "s").int(2, 1).bytes(3, one).bytes(3, one)))
	f.Add([]byte(wire(nil).int(2, 3).bytes(5, wire(nil).int(2, 5).bytes(7, nil))))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range []TypeKind{KindSequence, KindOptional} {
			name, v, err := ParseDatum(data, kind)
			if err != nil {
				continue
			}
			out, err := AppendDatum(nil, name, v)
			if err != nil {
				t.Fatalf("what was read can't be written: %v", err)
			}
			if name2, _, err := ParseDatum(out, kind); err != nil || name2 != name {
				t.Fatalf("what was written can't be read: %q, %v", name2, err)
			}
		}
	})
}

// drawn reads decisions from fuzzed bytes.
type drawn []byte

func (d *drawn) n(limit int) int {
	if len(*d) == 0 {
		return 0
	}
	v := int((*d)[0])
	*d = (*d)[1:]
	return v % limit
}

// model makes a model of operators that have rules, over random small types.
func (d *drawn) model() *Model {
	ids := slices.SortedFunc(maps.Keys(rules), func(a, b FunctionID) int { return strings.Compare(a.String(), b.String()) })
	attrNames := []string{"axis", "axes", "perm", "keepdims", "to", "split", "starts", "ends", "shape", "kernel_shape", "strides", "pads", "dilations",
		"group", "batch_dims", "K", "N", "q_num_heads", "kv_num_heads", "num_outputs", "allowzero", "onesided", "inverse", "blocksize", "num_scan_inputs", "k", "start", "end"}
	sizes := []int64{0, 1, 2, 3, 4, 7, 64, -1, -2, 1 << 40, math.MaxInt64, math.MinInt64}
	elems := []tensor.DType{tensor.Float32, tensor.Int64, tensor.Bool, tensor.Int32}
	opsets := []int64{23, 13, 11, 9, 1}
	m := &Model{IRVersion: 10, Opsets: map[string]int64{"": opsets[d.n(len(opsets))], DomainAccel: 1, DomainMicrosoft: 1}, Graph: &Graph{Name: "g"}}
	for _, id := range ids {
		if _, ok := m.Opsets[id.Domain]; !ok {
			m.Opsets[id.Domain] = 1
		}
	}
	var names []string
	add := func() string {
		names = append(names, "v"+strconv.Itoa(len(names)))
		return names[len(names)-1]
	}
	pick := func() string {
		if i := d.n(len(names) + 1); i < len(names) {
			return names[i]
		}
		return ""
	}
	for range 1 + d.n(4) {
		dims := make([]Dim, d.n(5))
		for i := range dims {
			switch k := d.n(6); k {
			case 0:
				dims[i] = Sym("N")
			case 1:
				dims[i] = Sym("2*M + 1")
			case 2:
				dims[i] = Dim{Size: -1}
			default:
				dims[i] = Known(int64(k - 2))
			}
		}
		m.Graph.Inputs = append(m.Graph.Inputs, &Value{Name: add(), Type: TensorType(elems[d.n(len(elems))], dims...)})
	}
	for range 1 + d.n(3) {
		v := make([]int64, d.n(4))
		for i := range v {
			v[i] = sizes[d.n(len(sizes))]
		}
		t := tensor.Ints(tensor.Shape{int64(len(v))}, v...)
		if len(v) == 1 && d.n(2) == 0 {
			t.Shape = nil
		}
		m.Graph.Initializers = append(m.Graph.Initializers, &Initializer{Name: add(), Tensor: t})
	}
	for range 1 + d.n(6) {
		id := ids[(d.n(256)*256+d.n(256))%len(ids)]
		n := &Node{Domain: id.Domain, OpType: id.Name}
		for range d.n(6) {
			n.Inputs = append(n.Inputs, pick())
		}
		seen := map[string]bool{}
		for range d.n(4) {
			name := attrNames[d.n(len(attrNames))]
			if seen[name] {
				continue
			}
			seen[name] = true
			if d.n(2) == 0 {
				n.Attrs = append(n.Attrs, IntAttr(name, sizes[d.n(len(sizes))]))
				continue
			}
			list := make([]int64, d.n(5))
			for i := range list {
				list[i] = sizes[d.n(len(sizes))]
			}
			n.Attrs = append(n.Attrs, IntsAttr(name, list...))
		}
		if d.n(8) == 0 {
			inner := graphOf("", "", node("Add("+pick()+","+pick()+")->in"+strconv.Itoa(len(names))))
			inner.Outputs = values("in" + strconv.Itoa(len(names)))
			for _, name := range []string{"body", "then_branch", "else_branch"} {
				n.Attrs = append(n.Attrs, GraphAttr(name, inner.Clone()))
			}
		}
		outs := 1 + d.n(3)
		for range outs {
			n.Outputs = append(n.Outputs, add())
		}
		m.Graph.Nodes = append(m.Graph.Nodes, n)
	}
	m.Graph.Outputs = values(names[len(names)-1])
	return m
}

// FuzzInfer takes either a model file or decisions from which to make a model.
func FuzzInfer(f *testing.F) {
	for _, m := range []*Model{textEncoder(f), full()} {
		data, err := Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, data)
	}
	f.Add(false, []byte("a few bytes to decide by, which make some model or other"))
	f.Fuzz(func(t *testing.T, isFile bool, data []byte) {
		var m *Model
		if isFile {
			var err error
			if m, err = Parse(data); err != nil || m.Check() != nil {
				return
			}
		} else {
			d := drawn(data)
			m = d.model()
			if err := m.Check(); err != nil {
				t.Fatal(err)
			}
		}
		plain := *m
		if _, err := ExpandGradients(&plain); err == nil && plain.Check() != nil {
			t.Errorf("with gradients written out it is not valid: %v", plain.Check())
		}
		facts, err := FindFacts(m)
		if err == nil && facts[m.Graph].Types == nil {
			t.Error("there are no facts, and no error")
		}
		bound := m.Clone()
		sizes := map[string]int64{}
		for i, s := range m.Symbols() {
			sizes[s] = int64(2 + i)
		}
		_ = Inline(m, nil)
		if err := Infer(m); err == nil {
			once := m.Graph.Types()
			if err := Infer(m); err != nil {
				t.Fatalf("inferred once, not twice: %v", err)
			}
			for name, ty := range m.Graph.Types() {
				if typeText(ty) != typeText(once[name]) {
					t.Errorf("%s is %s, inferred again %s", name, typeText(once[name]), typeText(ty))
				}
			}
			TotalFLOPs(m.Graph)
		}
		if err := Bind(bound, sizes); err == nil {
			if err := bound.Check(); err != nil {
				t.Errorf("bound, it is not valid: %v", err)
			}
		}
	})
}

// FuzzGradient differentiates models of operators that have derivatives, rightly used
// or not.
func FuzzGradient(f *testing.F) {
	f.Add([]byte("a few bytes to decide by, which make some model or other"))
	f.Add([]byte{3, 12, 7, 1, 0, 2, 40, 9, 5, 5, 1, 1, 0, 0, 33, 4, 2, 2, 7, 7, 21, 3, 3})
	ops := slices.Sorted(maps.Keys(derivatives))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := drawn(data)
		m := &Model{IRVersion: 10, Opsets: map[string]int64{"": []int64{18, 12, 13, 23}[d.n(4)], DomainTraining: 1}, Graph: &Graph{Name: "g"}}
		var names, xs []string
		dims := make([]Dim, d.n(4))
		for i := range dims {
			dims[i] = []Dim{Known(3), Sym("N"), Sym("M"), Known(1), Known(0), {Size: -1}}[d.n(6)]
		}
		for i := range 1 + d.n(3) {
			xs = append(xs, "x"+strconv.Itoa(i))
			elem := []tensor.DType{tensor.Float32, tensor.Float32, tensor.Float32, tensor.Float16, tensor.Bool}[d.n(5)]
			m.Graph.Inputs = append(m.Graph.Inputs, &Value{Name: xs[i], Type: TensorType(elem, dims[min(d.n(4), len(dims)):]...)})
		}
		names = slices.Clone(xs)
		m.Graph.Initializers = []*Initializer{{Name: "axes", Tensor: tensor.Ints(tensor.Shape{1}, int64(d.n(3))-1)}}
		pick := func() string { return names[d.n(len(names))] }
		for i := range 1 + d.n(12) {
			out := "v" + strconv.Itoa(i)
			n := &Node{OpType: ops[d.n(len(ops))], Outputs: []string{out}}
			for range derivatives[n.OpType].least + []int{0, 0, 0, 0, 1, -1}[d.n(6)] {
				n.Inputs = append(n.Inputs, pick())
			}
			switch n.OpType {
			case "Reshape", "Expand", "Squeeze", "Unsqueeze", "ReduceSum":
				n.Inputs = append(n.Inputs[:min(1, len(n.Inputs))], "axes")
			}
			if a := []string{"", "", "", "perm", "axes", "transA", "keepdims", "axis"}[d.n(8)]; a != "" {
				n.Attrs = append(n.Attrs, &Attr{Name: a, Kind: AttrInts, Ints: []int64{int64(d.n(4)), int64(-d.n(4))}, Int: int64(d.n(4) - 2)})
			}
			if n.OpType == "Cast" {
				n.Attrs = []*Attr{IntAttr("to", int64([]tensor.DType{tensor.Float32, tensor.Float64, tensor.Int64, tensor.BFloat16}[d.n(4)]))}
			}
			if d.n(4) == 0 {
				n.Domain, n.OpType, n.Inputs = DomainTraining, "Gradient", slices.Clone(xs)
				n.Attrs = []*Attr{StringAttr("y", pick()), {Name: "xs", Kind: AttrStrings, Strings: xs}}
				if d.n(3) == 0 {
					n.Inputs[0] = pick()
				}
				if d.n(8) == 0 {
					n.Attrs[1].Strings = []string{pick()}
				}
			}
			m.Graph.Nodes = append(m.Graph.Nodes, n)
			names = append(names, out)
		}
		m.Graph.Outputs = values(names[len(names)-1])
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, n := range m.Graph.Nodes {
			if n.isGradient() {
				count++
			}
		}
		was := text(m.Graph.Nodes)
		got, err := expandGradientsWithin(m, 1<<12)
		switch {
		case err != nil:
			mustEqual(t, "after an error the graph", text(m.Graph.Nodes), was)
		case got != count:
			t.Errorf("%d of %d gradients were written out", got, count)
		case m.hasGradient() || m.Check() != nil:
			t.Errorf("what was written is not valid: %v", m.Check())
		}
	})
}
