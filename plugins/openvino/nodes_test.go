package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/accelhq/accel/plugins/openvino/ov"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// openRuntime opens the runtime in this process, or skips the test.
func openRuntime(t testing.TB) (*ov.Library, *ov.Core) {
	t.Helper()
	at, err := settings{Library: testfiles.OpenVINO(t)}.find()
	if err != nil {
		t.Fatal(err)
	}
	lib, err := ov.Open(at.Path)
	if err != nil {
		t.Fatal(err)
	}
	core, err := lib.NewCore()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(core.Close)
	return lib, core
}

// TestNodesOfExports has OpenVINO compute each node of real graphs by itself, from
// values that the reference has computed, and compares what comes out.
func TestNodesOfExports(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs thousands of nodes")
	}
	lib, core := openRuntime(t)
	seen := map[trialKey]bool{}
	for _, dir := range testfiles.Exports(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) { nodesOf(t, lib, core, dir, seen) })
	}
	t.Logf("%d different nodes", len(seen))
}

func nodesOf(t *testing.T, lib *ov.Library, core *ov.Core, dir string, seen map[trialKey]bool) {
	m, err := graph.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := graph.Inline(m, nil); err != nil {
		t.Fatal(err)
	}
	if err := graph.Infer(m); err != nil {
		t.Fatal(err)
	}
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	in := map[string]tensor.Tensor{}
	k := 0
	constant := m.Graph.Constants()
	for _, v := range m.Graph.Inputs {
		if _, ok := constant[v.Name]; ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, "test_data_set_0", fmt.Sprintf("input_%d.pb", k)))
		if err != nil {
			t.Fatal(err)
		}
		if _, in[v.Name], err = graph.ParseTensor(data); err != nil {
			t.Fatal(err)
		}
		k++
	}
	s := newSurroundings(m)
	var list []*trial
	var nodes []*graph.Node
	var wanted []string
	for _, n := range m.Graph.Nodes {
		if _, is := n.Constant(); is {
			continue
		}
		refused := false
		for _, rule := range rules {
			refused = refused || !rule(s, n).OK
		}
		x, err := s.alone(n)
		if err != nil {
			t.Fatal(err)
		}
		if refused || x.zeros > 0 || seen[x.key] { // zeros in the place of weights would tell nothing
			continue
		}
		seen[x.key] = true
		list, nodes = append(list, x), append(nodes, n)
		for _, name := range slices.Concat(n.Inputs, n.Captures(), n.Outputs) {
			if name != "" && s.constants[name] == nil && in[name].Shape == nil {
				wanted = append(wanted, name)
			}
		}
	}
	if len(list) == 0 {
		return
	}
	values, err := p.Run(t.Context(), in, wanted)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range in {
		values[name] = v
	}
	compareNodes(t, lib, core, list, nodes, s, values)
}

// compareNodes runs nodes together, or in halves where the runtime does not take them
// all.
func compareNodes(t *testing.T, lib *ov.Library, core *ov.Core, list []*trial, nodes []*graph.Node, s *surroundings, values map[string]tensor.Tensor) {
	m, _ := joined(list)
	got, err := runModel(t, lib, core, m, func(i int) tensor.Tensor {
		name := m.Graph.Inputs[i].Name
		var at int
		fmt.Sscanf(name[slices.Index([]byte(name), '.')+1:], "%d", &at)
		for _, from := range slices.Concat(nodes[at].Inputs, nodes[at].Captures()) {
			if fmt.Sprintf("%s.%d", list[at].names[from], at) == name {
				return values[from]
			}
		}
		return tensor.Tensor{}
	})
	if err != nil {
		if len(list) == 1 {
			t.Logf("%s (%s): not taken: %v", nodes[0].Label(), nodes[0].OpType, err)
			return
		}
		half := len(list) / 2
		compareNodes(t, lib, core, list[:half], nodes[:half], s, values)
		compareNodes(t, lib, core, list[half:], nodes[half:], s, values)
		return
	}
	for i, n := range nodes {
		for _, name := range n.Outputs {
			if name == "" {
				continue
			}
			want := values[name]
			g := got[fmt.Sprintf("%s.%d", list[i].names[name], i)]
			if why := apart(g, want); why != "" {
				if known := limitOf(n, name, values); known != "" {
					t.Logf("%s (%s), output %s: %s: %s", n.Label(), n.OpType, name, why, known)
					continue
				}
				t.Errorf("%s (%s), output %s: %s", n.Label(), n.OpType, name, why)
			}
		}
	}
}

// limitOf is the limit in docs/limits.md by which an output may be another; empty: it may not.
func limitOf(n *graph.Node, output string, values map[string]tensor.Tensor) string {
	v := values[output]
	if v.DType == tensor.Int64 && slices.ContainsFunc(tensor.View[int64](v.Aligned()), func(x int64) bool { return x != int64(int32(x)) }) {
		return "int64 is computed in 32 bits"
	}
	if n.OpType == "TopK" && output == n.Outputs[1] {
		if sorted := values[n.Outputs[0]]; sorted.DType == tensor.Float32 {
			x := tensor.View[float32](sorted.Aligned())
			for i := range len(x) - 1 {
				if x[i] == x[i+1] {
					return "values are equal"
				}
			}
		}
	}
	return ""
}

func runModel(t *testing.T, lib *ov.Library, core *ov.Core, m *graph.Model, input func(i int) tensor.Tensor) (map[string]tensor.Tensor, error) {
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	read, err := core.Read(filepath.Join(dir, graph.ModelFile))
	if err != nil {
		return nil, err
	}
	defer read.Close()
	x, err := core.Compile(read, "CPU", newOpenVINO().properties("CPU", dir))
	if err != nil {
		return nil, err
	}
	defer x.Close()
	r, err := x.NewRequest()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for i := range m.Graph.Inputs {
		v := input(i)
		made, err := lib.TensorOf(v)
		if err != nil {
			return nil, err
		}
		defer made.Close()
		if err := r.SetInput(i, made); err != nil {
			return nil, fmt.Errorf("input %d of %s%v: %w", i, v.DType, v.Shape, err)
		}
	}
	if err := r.Start(); err != nil {
		return nil, err
	}
	if err := r.Wait(); err != nil {
		return nil, err
	}
	out := map[string]tensor.Tensor{}
	for i, v := range m.Graph.Outputs {
		o, err := r.Output(i)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		value, err := o.Value()
		if err != nil {
			return nil, err
		}
		value.Data = slices.Clone(value.Data)
		out[v.Name] = value
	}
	return out, nil
}

// apart says how a value is not another, or nothing.
func apart(got, want tensor.Tensor) string {
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		return fmt.Sprintf("%s%v, want %s%v", got.DType, got.Shape, want.DType, want.Shape)
	}
	if want.DType != tensor.Float32 {
		if !slices.Equal(got.Data, want.Data) {
			return fmt.Sprintf("%s%v has other elements", got.DType, got.Shape)
		}
		return ""
	}
	a, b := tensor.View[float32](got.Aligned()), tensor.View[float32](want.Aligned())
	largest := 1e-30
	for _, v := range b {
		if m := math.Abs(float64(v)); m > largest && !math.IsInf(m, 0) {
			largest = m
		}
	}
	for i := range b {
		x, y := float64(a[i]), float64(b[i])
		if x != y && !(x != x && y != y) && !(math.Abs(x-y) <= 2e-5*largest) {
			return fmt.Sprintf("%s%v: element %d is %g, want %g (largest %g)", got.DType, got.Shape, i, x, y, largest)
		}
	}
	return ""
}
