package backendtest

import (
	"os"
	"path/filepath"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// write writes a model into a folder of its own. It does not sync, as graph.Save
// would: there are many.
func write(t T, m *graph.Model) string {
	t.Helper()
	data, err := graph.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, data)
}

func writeFile(t T, data []byte) string {
	t.Helper()
	dir, err := filepath.Abs(t.TempDir())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, graph.ModelFile), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func build(t T, b *graph.Builder) *graph.Model {
	t.Helper()
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// length is the type of a vector: of n elements on a device of static shapes, else
// of any number.
func (c *conn) length(d tensor.DType, n int64) *graph.Type {
	if c.device.StaticShapes {
		return graph.TensorType(d, graph.Known(n))
	}
	return graph.TensorType(d, graph.Sym("n"))
}

// doubling is y = x + x, which every backend must take, and so is what the checks
// of the protocol run.
func (c *conn) doubling(n int64) string {
	c.t.Helper()
	b := graph.NewBuilder("doubling")
	x := b.Input("x", c.length(tensor.Float32, n))
	b.Output("y", b.Op("Add", []string{x, x}), c.length(tensor.Float32, n))
	return write(c.t, build(c.t, b))
}

// weighted is y = x + w with a weight of so many elements.
func (c *conn) weighted(elements int64) string {
	c.t.Helper()
	b := graph.NewBuilder("weighted")
	ty := graph.TensorType(tensor.Float32, graph.Known(elements))
	w, err := tensor.New(tensor.Float32, tensor.Shape{elements})
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range tensor.View[float32](w) {
		tensor.View[float32](w)[i] = float32(i)
	}
	b.Output("y", b.Op("Add", []string{b.Input("x", ty), b.Tensor("w", w)}), ty)
	return write(c.t, build(c.t, b))
}

// sum is y = a + b of equal vectors.
func (c *conn) sum(n int64) string {
	c.t.Helper()
	b := graph.NewBuilder("sum")
	ty := c.length(tensor.Float32, n)
	x, y := b.Input("a", ty), b.Input("b", ty)
	b.Output("y", b.Op("Add", []string{x, y}), ty)
	return write(c.t, build(c.t, b))
}

// long runs for a while: a chain of additions of large vectors that cannot be
// folded, as each depends on the input.
func (c *conn) long(n int64, nodes int) string {
	c.t.Helper()
	b := graph.NewBuilder("long")
	x := b.Input("x", c.length(tensor.Float32, n))
	y := b.Op("Add", []string{x, x})
	for range nodes - 1 {
		y = b.Op("Mul", []string{b.Op("Neg", []string{y}), x})
	}
	b.Output("y", y, c.length(tensor.Float32, n))
	return write(c.t, build(c.t, b))
}

// unknown is a graph of nodes of a domain that nobody has, the second of three.
func (c *conn) unknown() string {
	c.t.Helper()
	b := graph.NewBuilder("unknown")
	b.Import("test.backendtest", 1)
	ty := c.length(tensor.Float32, 4)
	x := b.Op("Add", []string{b.Input("x", ty), "x"})
	y := b.Node(&graph.Node{Name: "odd", Domain: "test.backendtest", OpType: "Frobnicate", Inputs: []string{x}, Outputs: []string{"z"}}, 1)[0]
	b.Output("y", b.Op("Neg", []string{y}), ty)
	return write(c.t, build(c.t, b))
}

// ramp is 1, 2, 3, ...
func ramp(n int64) tensor.Tensor {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i + 1)
	}
	return tensor.Floats(tensor.Shape{n}, v...)
}
