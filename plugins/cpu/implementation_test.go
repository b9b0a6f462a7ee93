package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/plugins/cpu/kernels"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// disagreements are the nodes of which implementations says something else than
// the plan at the inputs' shapes does.
func disagreements(t *testing.T, m *graph.Model, inputs map[string]tensor.Tensor, runner *kernels.Runner) (wrong []string, nodes int) {
	t.Helper()
	said := implementations(m, runner)
	if said == nil {
		return []string{"no sizes were found that fit the graph"}, len(m.Graph.Nodes)
	}
	e, err := newExecutable(m.Clone(), runner, newPackedWeights(t.TempDir(), runner, hclog.NewNullLogger()))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var values []backend.Value
	for _, v := range e.info.Inputs {
		values = append(values, backend.Value{Datum: graph.TensorDatum(inputs[v.Name])})
	}
	p, err := e.makePlan(values, &collected{got: map[int]tensor.Tensor{}})
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]string{}
	for _, n := range p.nodes {
		ran[n.Label] = byReference
		if n.Native {
			ran[n.Label] = byKernel
		}
	}
	for i, n := range m.Graph.Nodes {
		was := ran[n.Label()]
		if was == "" {
			was = byPlanning
		}
		if said[i] != was {
			wrong = append(wrong, n.Label()+": said "+said[i]+", ran "+was)
		}
	}
	return wrong, len(m.Graph.Nodes)
}

// TestImplementationsAreWhatRuns: what Assess says of a node is what the plan of a
// run does, also where Assess does not know the sizes yet.
func TestImplementationsAreWhatRuns(t *testing.T) {
	runner := runners(t)[0]
	for _, g := range testGraphs {
		t.Run(g.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			b := graph.NewBuilder(g.name)
			g.build(b, rng)
			m, err := b.Model()
			if err != nil {
				t.Fatal(err)
			}
			inputs := g.inputs(rng)
			for _, x := range inputs {
				if x.Len() == 0 {
					t.Skip("what is empty is the reference's, whatever it is at usual sizes")
				}
			}
			wrong, _ := disagreements(t, m, inputs, runner)
			for _, w := range wrong {
				t.Error(w)
			}
		})
	}
}

// TestImplementationsOfExports does so for exported models and ONNX's node tests,
// where they are.
func TestImplementationsOfExports(t *testing.T) {
	runner := runners(t)[0]
	for _, set := range []struct {
		pattern string
		every   int // one of so many; of the shortest tests all
	}{{"../../../shared/onnx/*", 5}, {"../../build/onnx-node-tests/test_*", 1}} {
		pattern, every := set.pattern, set.every
		if testing.Short() {
			every *= 10
		}
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(dirs) == 0 {
			t.Logf("%s is not tested: it is not there", pattern)
		}
		models, nodes, native := 0, 0, 0
		for i, dir := range dirs {
			if i%every != 0 {
				continue
			}
			m, err := graph.Load(dir)
			if err != nil {
				continue // index.json, and what the reader refuses
			}
			inputs, ok := recordedInputs(m.Graph, filepath.Join(dir, "test_data_set_0"))
			if !ok || m.Check() != nil || refusesAny(m) {
				m.Close()
				continue
			}
			for _, by := range implementations(m, runner) {
				if by == byKernel {
					native++
				}
			}
			wrong, n := disagreements(t, m, inputs, runner)
			for _, w := range wrong {
				t.Errorf("%s: %s", filepath.Base(dir), w)
			}
			models, nodes = models+1, nodes+n
			m.Close()
		}
		t.Logf("%s: %d models, %d nodes, %d native", pattern, models, nodes, native)
	}
}

func refusesAny(m *graph.Model) bool {
	types := m.Graph.Types()
	return slices.ContainsFunc(m.Graph.Nodes, func(n *graph.Node) bool { return !verdict(m, n, types).OK })
}

// recordedInputs reads a test data set; false where it is not all tensors of
// numbers, or the graph declares a type that is not.
func recordedInputs(g *graph.Graph, dir string) (map[string]tensor.Tensor, bool) {
	out := map[string]tensor.Tensor{}
	for i, v := range g.Inputs {
		data, err := os.ReadFile(filepath.Join(dir, "input_"+string(rune('0'+i))+".pb"))
		if err != nil || v.Type == nil || v.Type.Kind != graph.KindTensor || v.Type.Elem == tensor.String || i > 9 {
			return nil, false
		}
		_, t, err := graph.ParseTensor(data)
		if err != nil {
			return nil, false
		}
		out[v.Name] = t
	}
	return out, true
}
