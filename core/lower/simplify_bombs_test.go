//go:build linux

package lower

import (
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestSimplifyTakesNoBait: models that ask for huge constants, or for a lot of work
// before they run, come out soon and small.
func TestSimplifyTakesNoBait(t *testing.T) {
	ints := func(b *graph.Builder, v ...int64) string { return b.Ints(v...) }
	for _, tt := range []struct {
		name  string
		build func(*graph.Builder) string
	}{
		{"a constant of terabytes", func(b *graph.Builder) string {
			return b.Op("Relu", []string{b.Op("ConstantOfShape", []string{ints(b, 1<<20, 1<<20)})})
		}},
		{"outer products of constants", func(b *graph.Builder) string {
			v := b.Op("Cast", []string{b.Op("Range", []string{b.Int(0), b.Int(8000), b.Int(1)})}, graph.IntAttr("to", int64(tensor.Float32)))
			u := b.Op("Mul", []string{b.Op("Unsqueeze", []string{v, ints(b, 0)}), b.Op("Unsqueeze", []string{v, ints(b, 1)})})
			for range 4 {
				u = b.Op("Add", []string{u, b.Op("Exp", []string{u})})
			}
			return b.Op("ReduceSum", []string{u})
		}},
		{"much work for a small result", func(b *graph.Builder) string {
			x, _ := tensor.New(tensor.Float32, tensor.Shape{2048, 2048})
			w := b.Tensor("w", x)
			return b.Op("ReduceMax", []string{b.Op("MatMul", []string{w, w})})
		}},
		{"an endless loop of constants", func(b *graph.Builder) string {
			body := &graph.Graph{Name: "body", Inputs: []*graph.Value{{Name: "i"}, {Name: "on"}}, Outputs: []*graph.Value{{Name: "on"}, {Name: "i"}}}
			return b.Op("Loop", []string{"", ""}, graph.GraphAttr("body", body))
		}},
		{"a thousand transposes", func(b *graph.Builder) string {
			x := b.Input("x", f32(graph.Sym("N"), graph.Sym("M"), graph.Sym("K")))
			for range 1000 {
				x = b.Op("Transpose", []string{x}, graph.IntsAttr("perm", 1, 2, 0))
			}
			return x
		}},
		{"ten thousand constant nodes", func(b *graph.Builder) string {
			x := b.Float(1)
			for range 10000 {
				x = b.Op("Neg", []string{x})
			}
			return b.Op("Add", []string{x, b.Input("x", f32(graph.Sym("N")))})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := graph.NewBuilder("bait")
			b.Output("y", tt.build(b), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			small := m.Clone()
			did, err := Simplify(t.Context(), small)
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begun); d > 30*time.Second {
				t.Errorf("it took %v (%v)", d, did)
			}
			size := int64(0)
			for _, c := range small.Graph.Initializers {
				size += int64(len(c.Tensor.Data))
			}
			if size > 2048*2048*4+maxFoldedBytes {
				t.Errorf("it holds %d bytes of constants", size)
			}
			t.Logf("%d nodes became %d in %v", len(m.Graph.Nodes), len(small.Graph.Nodes), time.Since(begun))
		})
	}
}
