package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const goldenFile = "golden.safetensors"

// loadGolden reads in.NAME and out.NAME, or in.CASE.NAME and out.CASE.NAME. Every
// recorded output must be one of those given; nil: any may be.
func loadGolden(path string, outputs []string) ([]test, error) {
	st, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	cases := map[string]*test{}
	at := func(name string) *test {
		if cases[name] == nil {
			cases[name] = &test{name: name, inputs: map[string]graph.Datum{}}
		}
		return cases[name]
	}
	for _, key := range st.Names() {
		side, rest, _ := strings.Cut(key, ".")
		if side != "in" && side != "out" {
			continue
		}
		name := rest
		which, last, split := strings.Cut(rest, ".")
		if split {
			name = last
		} else {
			which = ""
		}
		t, err := st.Tensor(key)
		if err != nil {
			return nil, err
		}
		c, err := owned(t)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, key, err)
		}
		if side == "in" {
			at(which).inputs[name] = graph.TensorDatum(c)
			continue
		}
		if outputs != nil && !slices.Contains(outputs, name) {
			return nil, fmt.Errorf("%s records output %s, the model gives only %s", path, name, strings.Join(outputs, ", "))
		}
		at(which).outputs = append(at(which).outputs, named{name, graph.TensorDatum(c)})
	}
	var tests []test
	for _, name := range sortedKeys(cases) {
		c := cases[name]
		if len(c.inputs) == 0 || len(c.outputs) == 0 {
			return nil, fmt.Errorf("%s: case %q has %d inputs and %d outputs, wants some of both", path, name, len(c.inputs), len(c.outputs))
		}
		slices.SortFunc(c.outputs, func(a, b named) int { return strings.Compare(a.name, b.name) })
		tests = append(tests, *c)
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("%s records nothing: it has no in.* and out.*", path)
	}
	return tests, nil
}

// owned is a copy that outlives the file's mapping.
func owned(t tensor.Tensor) (tensor.Tensor, error) {
	c, err := tensor.New(t.DType, t.Shape)
	if err != nil {
		return c, err
	}
	copy(c.Data, t.Data)
	return c, nil
}
