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
