package reference

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestBombs runs small models that ask for huge values: each is refused before the
// memory is taken, and soon.
func TestBombs(t *testing.T) {
	const tera = int64(1) << 40
	x := func(b *graph.Builder) string {
		return b.Tensor("x", tensor.Floats(tensor.Shape{2, 2}, 1, 2, 3, 4))
	}
	ints := func(b *graph.Builder, name string, v ...int64) string {
		return b.Tensor(name, tensor.Ints(tensor.Shape{int64(len(v))}, v...))
	}
	scalar := func(b *graph.Builder, name string, v int64) string { return b.Tensor(name, tensor.Ints(nil, v)) }
	for _, tt := range []struct {
		name  string
		build func(*graph.Builder) string
	}{
		{"ConstantOfShape", func(b *graph.Builder) string { return b.Op("ConstantOfShape", []string{ints(b, "n", tera, 4)}) }},
		{"ConstantOfShape of bits", func(b *graph.Builder) string {
			return b.Op("ConstantOfShape", []string{ints(b, "n", tera)}, graph.TensorAttr("value", tensor.Tensor{DType: tensor.Uint4, Shape: tensor.Shape{1}, Data: []byte{1}}))
		}},
		{"a product that overflows", func(b *graph.Builder) string {
			return b.Op("ConstantOfShape", []string{ints(b, "n", math.MaxInt64, math.MaxInt64)})
		}},
		{"Expand", func(b *graph.Builder) string { return b.Op("Expand", []string{x(b), ints(b, "n", tera, 1, 2)}) }},
		{"Tile", func(b *graph.Builder) string { return b.Op("Tile", []string{x(b), ints(b, "n", 1<<20, 1<<20)}) }},
		{"Range", func(b *graph.Builder) string {
			return b.Op("Range", []string{scalar(b, "a", 0), scalar(b, "b", tera), scalar(b, "c", 1)})
		}},
		{"Pad", func(b *graph.Builder) string { return b.Op("Pad", []string{x(b), ints(b, "n", 0, tera, 0, 0)}) }},
		{"OneHot", func(b *graph.Builder) string {
			return b.Op("OneHot", []string{ints(b, "i", 1, 2), scalar(b, "d", 1<<30), b.Tensor("v", tensor.Floats(tensor.Shape{2}, 0, 1))})
		}},
		{"Resize", func(b *graph.Builder) string {
			return b.Op("Resize", []string{x(b), "", "", ints(b, "n", 1<<20, 1<<20)}, graph.StringAttr("mode", "nearest"))
		}},
		{"an outer product", func(b *graph.Builder) string {
			v := b.Op("Reshape", []string{b.Op("Range", []string{scalar(b, "a", 0), scalar(b, "b", 1<<20), scalar(b, "c", 1)}), ints(b, "col", -1, 1)})
			return b.Op("Add", []string{v, b.Op("Transpose", []string{v})})
		}},
		{"doubling in a loop", func(b *graph.Builder) string {
			body := &graph.Graph{Name: "body", Inputs: []*graph.Value{{Name: "i"}, {Name: "on"}, {Name: "v"}},
				Nodes:   []*graph.Node{{OpType: "Concat", Inputs: []string{"v", "v"}, Outputs: []string{"w"}, Attrs: []*graph.Attr{graph.IntAttr("axis", 0)}}},
				Outputs: []*graph.Value{{Name: "on"}, {Name: "w"}}}
			return b.Op("Loop", []string{scalar(b, "m", 64), "", x(b)}, graph.GraphAttr("body", body))
		}},
		{"a loop that collects", func(b *graph.Builder) string {
			body := &graph.Graph{Name: "body", Inputs: []*graph.Value{{Name: "i"}, {Name: "on"}},
				Nodes:   []*graph.Node{{OpType: "Expand", Inputs: []string{"x", "n"}, Outputs: []string{"w"}}},
				Outputs: []*graph.Value{{Name: "on"}, {Name: "w"}}}
			x(b)
			ints(b, "n", 1<<10, 2, 2)
			return b.Op("Loop", []string{scalar(b, "m", 1<<30), ""}, graph.GraphAttr("body", body))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := graph.NewBuilder("bomb")
			b.Output("y", tt.build(b), nil)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			p, err := New(m, Options{MaxBytes: 64 << 20})
			if err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			_, err = p.Run(t.Context(), nil, nil)
			var me *MemoryError
			var ne *NodeError
			overflows := strings.Contains(tt.name, "overflow")
			if !errors.As(err, &ne) || !overflows && !errors.As(err, &me) {
				t.Fatalf("got %v, want a node's memory error", err)
			}
			if d := time.Since(begun); d > 20*time.Second {
				t.Errorf("refused after %v", d)
			}
		})
	}
}

// TestLoopsEnd: a loop without an end is ended, nested ones counted together.
func TestLoopsEnd(t *testing.T) {
	body := func(nodes ...*graph.Node) *graph.Graph {
		return &graph.Graph{Name: "body", Inputs: []*graph.Value{{Name: "i"}, {Name: "on"}}, Nodes: nodes, Outputs: []*graph.Value{{Name: "on"}}}
	}
	inner := body()
	inner.Inputs = []*graph.Value{{Name: "k"}, {Name: "go"}}
	inner.Outputs = []*graph.Value{{Name: "go"}}
	for _, tt := range []struct {
		name  string
		build func(b *graph.Builder) string
		trips int64 // that it makes; 0: no end
	}{
		{"no end", func(b *graph.Builder) string {
			g := body()
			g.Outputs = append(g.Outputs, &graph.Value{Name: "i"})
			return b.Op("Loop", []string{"", ""}, graph.GraphAttr("body", g))
		}, 0},
		{"nested", func(b *graph.Builder) string {
			ten := b.Int(10)
			g := body(&graph.Node{OpType: "Loop", Inputs: []string{ten, ""}, Attrs: []*graph.Attr{graph.GraphAttr("body", inner)}})
			g.Outputs = append(g.Outputs, &graph.Value{Name: "i"})
			return b.Op("Loop", []string{ten, ""}, graph.GraphAttr("body", g))
		}, 10},
		{"scan", func(b *graph.Builder) string {
			g := &graph.Graph{Name: "body", Inputs: []*graph.Value{{Name: "s"}}, Outputs: []*graph.Value{{Name: "s"}}}
			return b.Op("Scan", []string{b.Tensor("x", tensor.Floats(tensor.Shape{5}, 1, 2, 3, 4, 5))}, graph.GraphAttr("body", g), graph.IntAttr("num_scan_inputs", 1))
		}, 5},
	} {
		b := graph.NewBuilder("loops")
		b.Output("y", tt.build(b), nil)
		m, err := b.Model()
		if err != nil {
			t.Fatal(err)
		}
		run := func(limit int64) error {
			p, err := New(m, Options{MaxTrips: limit})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err = p.Run(ctx, nil, nil)
			return err
		}
		var le *graph.LimitError
		if tt.trips > 0 {
			if err := run(tt.trips); err != nil {
				t.Errorf("%s, %d rounds: %v", tt.name, tt.trips, err)
			}
		}
		if err := run(max(tt.trips-1, 100*(1-min(tt.trips, 1)))); !errors.As(err, &le) || !strings.Contains(le.What, "loops") {
			t.Errorf("%s: %v, want a limit error", tt.name, err)
		}
	}
}
