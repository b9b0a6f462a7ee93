package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/backendtest"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// onnxTest writes a model and what the reference makes of its inputs as an ONNX
// test folder.
func onnxTest(t *testing.T, dir string, m *graph.Model, in map[string]tensor.Tensor) {
	t.Helper()
	p, err := reference.New(m, reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wanted []string
	for _, v := range m.Graph.Outputs {
		wanted = append(wanted, v.Name)
	}
	out, err := p.Run(context.Background(), in, wanted)
	if err != nil {
		t.Fatal(err)
	}
	set := filepath.Join(dir, "test_data_set_0")
	if err := os.MkdirAll(set, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, list := range map[string][]*graph.Value{"input": m.Graph.Inputs, "output": m.Graph.Outputs} {
		for i, v := range list {
			x, ok := in[v.Name]
			if what == "output" {
				x, ok = out[v.Name]
			}
			if !ok {
				t.Fatalf("%s %s has no value", what, v.Name)
			}
			data, err := graph.AppendTensor(nil, v.Name, x)
			if err == nil {
				err = os.WriteFile(filepath.Join(set, fmt.Sprintf("%s_%d.pb", what, i)), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// exact reports whether all of a model is of types that verify holds to 1e-4.
func exact(m *graph.Model) bool {
	for _, t := range m.Graph.Types() {
		if t.Kind == graph.KindTensor && t.Elem != tensor.Float32 && t.Elem != tensor.Int64 && t.Elem != tensor.Int32 && t.Elem != tensor.Bool {
			return false
		}
	}
	return true
}

func answer(t *testing.T, into any, args ...string) {
	t.Helper()
	cmd := command(t, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("%v: %v\n%s\n%s", args, err, out, said.String())
	}
}

// TestSplitModels runs random models split at random places, between the cpu
// and pretending devices that deny operators, and holds them against whole runs.
func TestSplitModels(t *testing.T) {
	root := t.TempDir()
	var dirs []string
	for seed := uint64(0); len(dirs) < 25; seed++ {
		m, in := backendtest.RandomModel(seed)
		if !exact(m) {
			continue
		}
		dir := filepath.Join(root, fmt.Sprint("model", seed))
		onnxTest(t, dir, m, in)
		dirs = append(dirs, dir)
	}
	config := filepath.Join(root, "config.json")
	device := func(name string, denied ...string) map[string]any {
		return map[string]any{"name": name, "static_shapes": name == "heads", "denied_operators": denied}
	}
	data, err := json.Marshal(map[string]any{"backends": map[string]any{"reference": map[string]any{"settings": map[string]any{"devices": []any{
		device("heads", "Add", "MatMul", "Transpose", "ReduceSum", "Cast", "Relu", "Concat"),
		device("tails", "Mul", "Sub", "Softmax", "Gather", "Reshape", "Where", "Sigmoid", "ReduceMean"),
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var report verify.Report
	answer(t, &report, append([]string{"verify", "--config", config, "--json", "--split", "--platform", "cpu,simulation:picky,simulation:heads,simulation:tails"}, dirs...)...)
	count := map[string]int{}
	for _, r := range report.Results {
		switch r.Status {
		case verify.Refused: // nothing that computes is left to the device
			if !strings.Contains(r.Error, "too little to be worth splitting") {
				t.Errorf("%s on %s: %s", r.Path, r.Platform, r.Error)
			}
		case verify.Whole, verify.Split:
			count[string(r.Status)+" on "+r.Platform]++
			_, others := r.Placed["cpu"]
			if own := strings.HasPrefix(r.Platform, "simulation"); own && (others != (r.Status == verify.Split) || r.Kind != "simulated") {
				t.Errorf("%s on %s: %s, %s, placed %v", r.Path, r.Platform, r.Status, r.Kind, r.Placed)
			}
		default:
			t.Errorf("%s on %s: %s: %s %+v", r.Path, r.Platform, r.Status, r.Error, r.Outputs)
		}
	}
	t.Log(count)
	if count["whole on cpu"] != len(dirs) || count["split on simulation:heads"] < 8 || count["split on simulation:tails"] < 8 {
		t.Errorf("too little was split: %v", count)
	}
	if report.Whole+report.Split != report.Passed || report.Split == 0 {
		t.Errorf("%d whole and %d split of %d that passed", report.Whole, report.Split, report.Passed)
	}
}

// TestShapesFromValues: a graph whose sizes follow from its inputs' values fails on
// zeros, and is compiled all the same.
func TestShapesFromValues(t *testing.T) {
	b := graph.NewBuilder("view")
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Known(6)))
	shape := b.Input("shape", graph.TensorType(tensor.Int64, graph.Known(2)))
	b.Output("y", b.Op("Neg", []string{b.Op("Reshape", []string{x, shape})}), graph.TensorType(tensor.Float32, graph.Sym("a"), graph.Sym("b")))
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "view")
	onnxTest(t, dir, m, map[string]tensor.Tensor{"x": tensor.Floats(tensor.Shape{6}, 1, 2, 3, 4, 5, 6), "shape": tensor.Ints(tensor.Shape{2}, 2, 3)})
	var report verify.Report
	answer(t, &report, "verify", "--json", "--platform", "cpu,simulation", dir)
	if report.Passed != 2 || report.Whole != 2 {
		t.Errorf("%+v", report)
	}
}

// TestExplainNodes: each node once, with its device, and for those elsewhere why.
func TestExplainNodes(t *testing.T) {
	b := graph.NewBuilder("top")
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Sym("n"), graph.Known(8)))
	top := b.Node(&graph.Node{OpType: "TopK", Inputs: []string{b.Op("Exp", []string{x}), b.Ints(2)}}, 2)
	b.Output("y", b.Op("Neg", []string{top[0]}), nil)
	b.Output("at", b.Op("Abs", []string{top[1]}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	var e engine.Explanation
	answer(t, &e, "explain", "--json", "--nodes", "--platform", "simulation:picky", "--split", "force", filepath.Join(dir, "model.onnx"))
	where, why := map[string]string{}, ""
	for _, p := range e.Placements {
		for _, n := range p.Table {
			where[n.OpType] += p.Device
			if n.OpType == "TopK" {
				why = n.Why
			}
			if n.Implementation == "" {
				t.Errorf("what computes %s is not said", n.Name)
			}
		}
	}
	if !maps.Equal(where, map[string]string{"Exp": "simulation:picky", "TopK": "cpu:0", "Neg": "simulation:picky", "Abs": "simulation:picky"}) {
		t.Errorf("placed %v", where)
	}
	if !strings.Contains(why, "int64") {
		t.Errorf("TopK stands elsewhere because of %q", why)
	}
	if !e.Decision.Split() || e.Decision.Chosen.Device != "simulation:picky" || !slices.ContainsFunc(e.Notes, func(s string) bool { return strings.Contains(s, "dimension n") }) {
		t.Errorf("decision %+v, notes %v", e.Decision, e.Notes)
	}
	out, err := command(t, "explain", "--nodes", "--platform", "simulation:picky", "--split", "force", filepath.Join(dir, "model.onnx")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "OPERATOR") || !strings.Contains(string(out), "simulation:picky (1)") {
		t.Errorf("%v\n%s", err, out)
	}
}
