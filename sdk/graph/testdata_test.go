package graph

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

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
