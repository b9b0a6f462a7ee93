//go:build linux

package lower

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// paged is a graph of two PagedAttention over pools of their own; change may spoil
// the first.
func paged(t *testing.T, change func(b *graph.Builder, n *graph.Node)) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("paged")
	T := graph.Sym("T")
	x := b.Input("x", graph.TensorType(tensor.Float32, T, graph.Known(2), graph.Known(4)))
	ints := func(name string, dims ...graph.Dim) string {
		return b.Input(name, graph.TensorType(tensor.Int64, dims...))
	}
	slots, tables := ints("slots", T), ints("page_tables", graph.Sym("B"), graph.Sym("M"))
	lengths, starts := ints("lengths", graph.Sym("B")), ints("starts", graph.Sym("B1"))
	pool := func(name string) string {
		return b.Input(name, graph.TensorType(tensor.Float32, graph.Sym("P"), graph.Sym("S"), graph.Known(2), graph.Known(4)))
	}
	for _, layer := range []string{"0", "1"} {
		n := &graph.Node{Name: "attend." + layer, Domain: graph.DomainAccel, OpType: "PagedAttention",
			Inputs:  []string{x, x, x, pool("k." + layer), pool("v." + layer), slots, tables, lengths, starts},
			Outputs: []string{"o." + layer, "k_out." + layer, "v_out." + layer}, Attrs: []*graph.Attr{graph.FloatAttr("scale", 0.5)}}
		if change != nil && layer == "0" {
			change(b, n)
		}
		b.Function(graph.ContractFunctionOf(&graph.Node{Domain: graph.DomainAccel, OpType: "PagedAttention", Inputs: []string{"q", "k"}}))
		b.Node(n, 0)
		x = n.Outputs[0]
		for _, out := range n.Outputs[1:] {
			b.Output(out, out, nil)
		}
	}
	b.Output("y", x, nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAttend(t *testing.T) {
	names := func(values []*graph.Value) string {
		var list []string
		for _, v := range values {
			list = append(list, v.Name)
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	for way, outputs := range map[backend.AttentionWay]string{
		backend.AttentionFused: "k_out.0 k_out.1 v_out.0 v_out.1 y",
		backend.AttentionBody:  "k_out.0 k_out.1 v_out.0 v_out.1 y",
		backend.AttentionRows:  "k_new.0 k_new.1 v_new.0 v_new.1 y",
		"":                     "k_out.0 k_out.1 v_out.0 v_out.1 y",
	} {
		target := refusing(false)
		if way == backend.AttentionFused || way == "" {
			target = takesAll()
		}
		target.Attention = way
		source := paged(t, nil)
		l := lowered(t, source, target, map[string]int64{"P": 9, "S": 4})
		if got := names(l.Graph.Graph.Outputs); got != outputs {
			t.Errorf("%s: outputs are %s", way, got)
		}
		left := 0
		for _, n := range l.Graph.Graph.Nodes {
			if n.Domain == graph.DomainAccel {
				left++
			}
		}
		rewritten := way == backend.AttentionBody || way == backend.AttentionRows
		if (left == 0) != rewritten || (len(l.Rewrites) == 2) != rewritten || len(l.Graph.Functions) > 0 && rewritten {
			t.Errorf("%s: %d calls are left, %d functions, after %+v", way, left, len(l.Graph.Functions), l.Rewrites)
		}
		if got := names(source.Graph.Outputs); got != "k_out.0 k_out.1 v_out.0 v_out.1 y" {
			t.Errorf("%s: the source is changed: %s", way, got)
		}
		if rewritten { // masks and positions are the same in both layers
			count := 0
			for _, n := range l.Graph.Graph.Nodes {
				if n.OpType == "ReduceSum" {
					count++
				}
			}
			if count != 1 {
				t.Errorf("%s: tokens are counted %d times", way, count)
			}
		}
	}
}

// takesAll is a device that takes every node.
func takesAll() Target {
	return Target{Device: "test:0", Assess: func(_ context.Context, dir string) (backend.Assessment, error) {
		m, err := graph.Load(dir)
		if err != nil {
			return backend.Assessment{}, err
		}
		defer m.Close()
		return backend.Assessment{Nodes: slices.Repeat([]backend.Verdict{backend.Accept}, len(m.Graph.Nodes))}, nil
	}}
}

func TestAttendRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		way    backend.AttentionWay
		change func(b *graph.Builder, n *graph.Node)
		want   string
	}{
		"slots that are computed": {backend.AttentionRows, func(b *graph.Builder, n *graph.Node) { n.Inputs[5] = b.Op("Abs", []string{"slots"}) }, "its slots are Abs, wanted the input slots"},
		"a pool that is computed": {backend.AttentionRows, func(b *graph.Builder, n *graph.Node) { n.Inputs[3] = b.Op("Abs", []string{"k.0"}) }, "its pool Abs is no input"},
		"an output of another name": {backend.AttentionRows, func(_ *graph.Builder, n *graph.Node) { n.Outputs[1] = "k_next.0" },
			"it updates pool k.0 as k_next.0, wanted the output k_out.0"},
		"no form": {backend.AttentionBody, func(b *graph.Builder, n *graph.Node) {
			n.Inputs = append(n.Inputs, "", "", b.Tensor("bias", tensor.Floats(tensor.Shape{2, 1}, 1, 2)))
			n.Attrs = append(n.Attrs, graph.FloatAttr("softcap", 3))
		}, "this form of PagedAttention is not known"},
	} {
		target := takesAll()
		target.Attention = c.way
		_, err := open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: paged(t, c.change)}, target, nil)
		var e *AttentionError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || !strings.Contains(e.Node, "attend.0") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// written is a graph that writes rows into pools and attends to nothing, and one that only reads
// them, as an encoder-decoder's two graphs do.
func written(t *testing.T, elem tensor.DType, change func(b *graph.Builder, n *graph.Node)) *graph.Model {
	t.Helper()
	b := graph.NewBuilder("written")
	rows := b.Input("x", graph.TensorType(tensor.Float32, graph.Sym("R"), graph.Known(2), graph.Known(4)))
	slots := b.Input("slots", graph.TensorType(tensor.Int64, graph.Sym("R")))
	pool := func(name string, elem tensor.DType, row ...graph.Dim) string {
		return b.Input(name, graph.TensorType(elem, append([]graph.Dim{graph.Sym("P"), graph.Sym("S"), graph.Known(2)}, row...)...))
	}
	n := &graph.Node{Name: "write.0", Domain: graph.DomainAccel, OpType: "PagedWrite", Outputs: []string{"cross_k_out.0", "cross_v_out.0"},
		Inputs: []string{rows, rows, slots, pool("cross_k.0", elem, graph.Known(4)), pool("cross_v.0", elem, graph.Known(4))}}
	if elem == tensor.Int8 {
		n.Inputs = append(n.Inputs, pool("cross_k_scales.0", tensor.Float16), pool("cross_v_scales.0", tensor.Float16))
		n.Outputs = append(n.Outputs, "cross_k_scales_out.0", "cross_v_scales_out.0")
		n.Attrs = []*graph.Attr{graph.IntAttr("k_bits", 8), graph.IntAttr("v_bits", 8)}
	}
	if change != nil {
		change(b, n)
	}
	b.Function(graph.ContractFunctionOf(n))
	b.Node(n, 0)
	for _, out := range n.Outputs {
		b.Output(out, out, nil)
	}
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPagedWriteAsRows: what a device without the operator gives are the rows as pools store them, in
// the shape of the pools' rows and called so that the host writes them.
func TestPagedWriteAsRows(t *testing.T) {
	for _, elem := range []tensor.DType{tensor.Float32, tensor.Float16, tensor.BFloat16, tensor.Int8} {
		for way, want := range map[backend.AttentionWay][]string{
			backend.AttentionFused: {"cross_k_out.0", "cross_v_out.0", "cross_k_scales_out.0", "cross_v_scales_out.0"},
			backend.AttentionBody:  {"cross_k_out.0", "cross_v_out.0", "cross_k_scales_out.0", "cross_v_scales_out.0"},
			backend.AttentionRows:  {"cross_k_new.0", "cross_v_new.0", "cross_k_scales_new.0", "cross_v_scales_new.0"},
		} {
			if elem != tensor.Int8 {
				want = want[:2]
			}
			target := takesAll()
			target.Attention = way
			l := lowered(t, written(t, elem, nil), target, map[string]int64{"P": 9, "S": 4, "R": 3})
			var got []string
			for i, v := range l.Graph.Graph.Outputs {
				got = append(got, v.Name)
				shape := []int64{9, 4, 2, 4}
				if way == backend.AttentionRows {
					shape = []int64{3, 2, 4}
				}
				if i > 1 { // scales
					shape = shape[:len(shape)-1]
				}
				if v.Type == nil || !slices.EqualFunc(v.Type.Dims, shape, func(d graph.Dim, n int64) bool { return d.Size == n }) {
					t.Errorf("%s, %s: %s is %v, wanted %v", elem, way, v.Name, v.Type, shape)
				}
				if kept := map[bool]tensor.DType{false: elem, true: tensor.Float16}[i > 1]; v.Type != nil && v.Type.Elem != kept {
					t.Errorf("%s, %s: %s holds %s, the pool %s", elem, way, v.Name, v.Type.Elem, kept)
				}
			}
			left := slices.ContainsFunc(l.Graph.Graph.Nodes, func(n *graph.Node) bool { return n.Domain == graph.DomainAccel })
			if !slices.Equal(got, want) || left != (way == backend.AttentionFused) {
				t.Errorf("%s, %s: outputs are %v, wanted %v; the operator is left: %v", elem, way, got, want, left)
			}
		}
	}
}

func TestPagedWriteAsRowsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *graph.Builder, n *graph.Node)
		want   string
	}{
		"slots that are computed":   {func(b *graph.Builder, n *graph.Node) { n.Inputs[2] = b.Op("Abs", []string{"slots"}) }, "its slots are Abs, wanted the input slots"},
		"a pool that is computed":   {func(b *graph.Builder, n *graph.Node) { n.Inputs[3] = b.Op("Abs", []string{"cross_k.0"}) }, "its pool Abs is no input"},
		"an output of another name": {func(_ *graph.Builder, n *graph.Node) { n.Outputs[0] = "next" }, "it updates pool cross_k.0 as next, wanted the output cross_k_out.0"},
		"pools that are read on":    {nil, "reads cross_k_out.0: pools are updated after the run"},
	} {
		target := takesAll()
		target.Attention = backend.AttentionRows
		m := written(t, tensor.Float32, c.change)
		if c.change == nil {
			m.Graph.Nodes = append(m.Graph.Nodes, &graph.Node{Name: "after", OpType: "Abs", Inputs: []string{"cross_k_out.0"}, Outputs: []string{"y"}})
			m.Graph.Outputs = append(m.Graph.Outputs, &graph.Value{Name: "y"})
		}
		_, err := open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: m}, target, nil)
		var e *AttentionError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || !strings.Contains(e.Node, "write.0") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReadingAttendsAsRows: a call that only reads loses nothing but pools that it never changed.
func TestReadingAttendsAsRows(t *testing.T) {
	read := func(pools bool) *graph.Model {
		return paged(t, func(_ *graph.Builder, n *graph.Node) {
			n.Inputs[1], n.Inputs[2], n.Inputs[5] = "", "", ""
			n.Attrs = append(n.Attrs, graph.IntAttr("causal", 0))
			if !pools {
				n.Outputs = n.Outputs[:1]
			}
			n.Overload = "read"
		})
	}
	target := takesAll()
	target.Attention = backend.AttentionRows
	l := lowered(t, read(false), target, map[string]int64{"P": 9, "S": 4})
	var outputs []string
	for _, v := range l.Graph.Graph.Outputs {
		outputs = append(outputs, v.Name)
	}
	slices.Sort(outputs)
	if want := []string{"k_new.1", "v_new.1", "y"}; !slices.Equal(outputs, want) {
		t.Errorf("outputs are %v, wanted %v", outputs, want)
	}
	_, err := open(t, t.TempDir(), 0).Lower(t.Context(), Source{Graph: read(true)}, target, nil)
	if e := (*AttentionError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), "it only reads its pools, and k_out.0 is one of them") {
		t.Errorf("pools of a call that only reads: %v", err)
	}
}
