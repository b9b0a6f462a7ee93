package verify

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// loadONNX reads folders with input_0.pb, ... and output_0.pb, ..., which stand in
// the order of the graph's inputs and outputs.
func loadONNX(sets []string, g *graph.Graph) ([]test, error) {
	constants := map[string]bool{}
	for _, in := range g.Initializers {
		constants[in.Name] = true
	}
	var inputs, outputs []*graph.Value
	for _, v := range g.Inputs {
		if !constants[v.Name] {
			inputs = append(inputs, v)
		}
	}
	outputs = g.Outputs
	var tests []test
	for _, dir := range sets {
		t := test{inputs: map[string]tensor.Tensor{}}
		if len(sets) > 1 {
			t.name = filepath.Base(dir)
		}
		in, err := tensors(dir, "input", inputs)
		if err != nil {
			return nil, err
		}
		for _, n := range in {
			t.inputs[n.name] = n.tensor
		}
		if t.outputs, err = tensors(dir, "output", outputs); err != nil {
			return nil, err
		}
		if len(t.outputs) == 0 {
			return nil, fmt.Errorf("%s records no outputs", dir)
		}
		tests = append(tests, t)
	}
	return tests, nil
}

// tensors reads DIR/what_0.pb and so on. Recorded values may carry the name of the
// graph's value; those that do not stand for the values in order.
func tensors(dir, what string, values []*graph.Value) ([]named, error) {
	var out []named
	for i := 0; ; i++ {
		path := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", what, i))
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		name, t, err := graph.ParseTensor(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !slices.ContainsFunc(values, func(v *graph.Value) bool { return v.Name == name }) {
			if i >= len(values) {
				return nil, fmt.Errorf("%s: the model has %d %ss only", path, len(values), what)
			}
			name = values[i].Name
		}
		out = append(out, named{name, t})
	}
}
