package verify

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
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
		t := test{inputs: map[string]graph.Datum{}}
		if len(sets) > 1 {
			t.name = filepath.Base(dir)
		}
		in, err := values(dir, "input", inputs)
		if err != nil {
			return nil, err
		}
		for _, n := range in {
			t.inputs[n.name] = n.value
		}
		if t.outputs, err = values(dir, "output", outputs); err != nil {
			return nil, err
		}
		if len(t.outputs) == 0 {
			return nil, fmt.Errorf("%s records no outputs", dir)
		}
		tests = append(tests, t)
	}
	return tests, nil
}

// values reads DIR/what_0.pb and so on. Recorded values may carry the name of the
// graph's value; those that do not stand for the values in order, where numbers that
// are left out are inputs without a value.
func values(dir, what string, values []*graph.Value) ([]named, error) {
	var out []named
	for i := 0; i <= len(values); i++ {
		path := filepath.Join(dir, fmt.Sprintf("%s_%d.pb", what, i))
		data, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		kind := graph.KindTensor
		if i < len(values) && values[i].Type != nil {
			kind = values[i].Type.Kind
		}
		name, v, err := graph.ParseDatum(data, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !slices.ContainsFunc(values, func(v *graph.Value) bool { return v.Name == name }) {
			if i >= len(values) {
				return nil, fmt.Errorf("%s: the model has %d %ss only", path, len(values), what)
			}
			name = values[i].Name
		}
		out = append(out, named{name, v})
	}
	return out, nil
}
