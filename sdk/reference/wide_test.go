package reference

import (
	"context"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestSumsAreRoundedOnce takes a product of 1 + 2^-30, which float32 rounds to 1,
// through graphs that subtract 1 from it.
func TestSumsAreRoundedOnce(t *testing.T) {
	const small = 0x1p-30
	minus := func(b *graph.Builder, x string) string { return b.Op("Add", []string{x, b.Float(-1)}) }
	for _, tt := range []struct {
		name string
		rest func(b *graph.Builder, product string) string // what the output "y" is made of
		want float64
	}{
		{"a bias", minus, small},
		{"a bias on the left", func(b *graph.Builder, p string) string { return b.Op("Add", []string{b.Float(-1), p}) }, small},
		{"a chain", func(b *graph.Builder, p string) string {
			x := b.Op("Div", []string{b.Op("Mul", []string{p, b.Float(3)}), b.Float(3)})
			return b.Op("Sub", []string{x, b.Float(1)})
		}, small},
		{"two products", func(b *graph.Builder, p string) string {
			one := b.Const(tensor.Floats(tensor.Shape{1, 1}, 1))
			return b.Op("Sub", []string{p, b.Op("Gemm", []string{one, one})})
		}, small},
		{"the same one twice", func(b *graph.Builder, p string) string {
			return b.Op("Sub", []string{b.Op("Mul", []string{p, p}), b.Float(1)})
		}, 0},
		{"two readers", func(b *graph.Builder, p string) string {
			return b.Op("Sub", []string{b.Op("Add", []string{minus(b, p), p}), b.Float(1)})
		}, 0},
		{"an output", func(b *graph.Builder, p string) string { b.Output("p", p, nil); return minus(b, p) }, 0},
		{"no product", func(b *graph.Builder, p string) string {
			x := b.Op("Mul", []string{b.Op("Identity", []string{p}), b.Float(1 + 0x1p-23)})
			return b.Op("Sub", []string{b.Op("Mul", []string{x, b.Float(1 + 0x1p-23)}), b.Float(1 + 0x1p-22)})
		}, 0},
		{"another operator between", func(b *graph.Builder, p string) string { return minus(b, b.Op("Relu", []string{p})) }, 0},
		{"at the end", func(b *graph.Builder, p string) string {
			return b.Op("Floor", []string{minus(b, b.Op("Mul", []string{p, b.Float(1)}))})
		}, 0},
		{"read by a graph inside", func(b *graph.Builder, p string) string {
			then := &graph.Graph{Name: "then", Nodes: []*graph.Node{{OpType: "Sub", Inputs: []string{p, "one"}, Outputs: []string{"r"}}}, Outputs: []*graph.Value{{Name: "r"}}}
			b.Tensor("one", tensor.Floats(nil, 1))
			yes := b.Const(tensor.Of(tensor.Bool, nil, []bool{true}))
			return b.Op("If", []string{yes}, graph.GraphAttr("then_branch", then), graph.GraphAttr("else_branch", then.Clone()))
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := build(t, func(b *graph.Builder) {
				x := b.Input("x", f32(graph.Known(1), graph.Known(2)))
				w := b.Tensor("w", tensor.Floats(tensor.Shape{2, 1}, 1, 0x1p-15))
				b.Output("y", tt.rest(b, b.Op("MatMul", []string{x, w})), nil)
			})
			x := map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{1, 2}, 1, 0x1p-15)}
			got, err := mustNew(t, m, Options{}).Run(context.Background(), x, nil)
			if err != nil {
				t.Fatal(err)
			}
			if v := floatAt(got["y"], 0); v != 0 {
				t.Errorf("rounded after each node: got %g, want 0", v)
			}
			if got, err = mustNew(t, m, Options{RoundLate: true}).Run(context.Background(), x, nil); err != nil {
				t.Fatal(err)
			}
			for name, v := range got {
				if v.DType != tensor.Float32 {
					t.Errorf("output %s is of type %s", name, v.DType)
				}
			}
			if v := floatAt(got["y"], 0); v != tt.want {
				t.Errorf("got %g, want %g", v, tt.want)
			}
		})
	}
}

// TestSumsOfOtherTypes computes 1 + tiny - 1 in types that are rounded after each node.
func TestSumsOfOtherTypes(t *testing.T) {
	for d, want := range map[tensor.DType]float64{tensor.Float64: 0x1p-12, tensor.Float16: 0, tensor.BFloat16: 0} {
		of := func(s tensor.Shape, v ...float64) tensor.Tensor {
			x, err := tensor.New(d, s)
			if err != nil {
				t.Fatal(err)
			}
			storeFloat(x, 0, v)
			return x
		}
		m := build(t, func(b *graph.Builder) {
			p := b.Op("MatMul", []string{b.Input("x", graph.TensorType(d, graph.Known(1), graph.Known(2))), b.Tensor("w", of(tensor.Shape{2, 1}, 1, 0x1p-6))})
			b.Output("y", b.Op("Sub", []string{p, b.Const(of(nil, 1))}), nil)
		})
		got, err := mustNew(t, m, Options{RoundLate: true}).Run(context.Background(), map[string]tensor.Tensor{"x": of(tensor.Shape{1, 2}, 1, 0x1p-6)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if y := got["y"]; y.DType != d || floatAt(y, 0) != want {
			t.Errorf("%s: got %g of type %s, want %g", d, floatAt(y, 0), y.DType, want)
		}
	}
}
