package graph

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// shared is a path inside the folder of shared test data; tests skip without it.
func shared(t testing.TB, elem ...string) string {
	t.Helper()
	root := os.Getenv("ACCEL_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("shared test data is not there (set ACCEL_SHARED): %v", err)
	}
	return path
}

// exports lists the model folders of the shared exports.
func exports(t testing.TB) []string {
	t.Helper()
	models, err := filepath.Glob(filepath.Join(shared(t, "onnx"), "*", ModelFile))
	if err != nil || len(models) == 0 {
		t.Skipf("no exports among the shared test data: %v", err)
	}
	for i := range models {
		models[i] = filepath.Dir(models[i])
	}
	return models
}

// small builds y = relu(x * w + b) with an unused initializer.
func small(t testing.TB) *Model {
	t.Helper()
	b := NewBuilder("small")
	x := b.Input("x", TensorType(tensor.Float32, Sym("N"), Known(4)))
	w := b.Tensor("w", tensor.Floats(tensor.Shape{4, 2}, 1, 2, 3, 4, 5, 6, 7, 8))
	c := b.Tensor("b", tensor.Floats(tensor.Shape{2}, -1, 1))
	b.Tensor("unused", tensor.Ints(tensor.Shape{1}, 7))
	b.Meta("k", "v")
	h := b.Op("MatMul", []string{x, w})
	h = b.Op("Add", []string{h, c})
	b.Output("y", b.Op("Relu", []string{h}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustLoad(t testing.TB, path string, opts ...Option) *Model {
	t.Helper()
	m, err := Load(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func marshal(t testing.TB, m *Model) []byte {
	t.Helper()
	b, err := Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inline drops the places of external data, so that Marshal writes the bytes.
func inline(m *Model) {
	for g := range m.Graphs() {
		for _, in := range g.Initializers {
			in.External = nil
		}
	}
}

func mustEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func mustEqualBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes differ from the %d wanted", what, len(got), len(want))
	}
}
