package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/tensorfile"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// smallModel is y = table[ids] * mask, z = y as bfloat16, with symbolic sizes, and
// the indexes of what is not masked, whose number only a run can tell.
func smallModel(t *testing.T) string {
	t.Helper()
	b := graph.NewBuilder("small")
	b.Meta("author", "a test")
	values := make([]float32, 80)
	for i := range values {
		values[i] = float32(i)
	}
	table := b.Tensor("table", tensor.Floats(tensor.Shape{20, 4}, values...))
	ids := b.Input("ids", graph.TensorType(tensor.Int64, graph.Sym("batch"), graph.Sym("seq")))
	mask := b.Input("mask", graph.TensorType(tensor.Float32, graph.Sym("batch"), graph.Sym("seq")))
	y := b.Op("Mul", []string{b.Op("Gather", []string{table, ids}), b.Op("Unsqueeze", []string{mask, b.Ints(2)})})
	b.Output("y", y, graph.TensorType(tensor.Float32, graph.Sym("batch"), graph.Sym("seq"), graph.Known(4)))
	b.Output("z", b.Op("Cast", []string{y}, graph.IntAttr("to", int64(tensor.BFloat16))), nil)
	b.Output("kept", b.Op("NonZero", []string{mask}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// accel runs a command line in dir; it returns the exit status and what was said.
func accel(t *testing.T, dir string, args ...string) (status int, out, errs string) {
	t.Helper()
	cmd := command(t, args...)
	cmd.Dir = dir
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

func contains(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in\n%s", w, text)
		}
	}
}

func writeTensor(t *testing.T, path string, values ...tensorfile.Named) {
	t.Helper()
	if _, err := (tensorfile.Target{Path: path}).Write(values); err != nil {
		t.Fatal(err)
	}
}

func value(name string, x tensor.Tensor) tensorfile.Named {
	return tensorfile.Named{Name: name, Value: graph.Datum{Kind: graph.KindTensor, Tensor: x}}
}

// TestRunModel gives the same inputs in every way there is, and reads the same
// outputs from every kind of file.
func TestRunModel(t *testing.T) {
	dir := smallModel(t)
	ids, mask := value("ids", tensor.Ints(tensor.Shape{1, 2}, 3, 7)), value("mask", tensor.Floats(tensor.Shape{1, 2}, 1, 0.5))
	for _, v := range []tensorfile.Named{ids, mask} {
		for _, ext := range []string{"npy", "pb", "json"} {
			writeTensor(t, filepath.Join(dir, v.Name+"."+ext), v)
		}
	}
	writeTensor(t, filepath.Join(dir, "in.npz"), ids, mask)
	writeTensor(t, filepath.Join(dir, "in.json"), ids, mask)
	if err := tensorfile.WriteTestSet(filepath.Join(dir, "set"), []tensorfile.Named{ids, mask}, nil); err != nil {
		t.Fatal(err)
	}
	run := "task: infer\nmodel: model.onnx\nplatform: simulation\ninputs:\n  file: in.npz\n  tensors: {mask: [[1, 0.5]]}\noutput: {only: [y]}\n"
	if err := os.WriteFile(filepath.Join(dir, "run.yaml"), []byte(run), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []float32{12, 13, 14, 15, 14, 14.5, 15, 15.5}
	for name, args := range map[string][]string{
		"npy":            {"run", "model.onnx", "--input", "ids=ids.npy", "--input", "mask=mask.npy"},
		"pb":             {"run", "model.onnx", "--input", "ids=ids.pb", "--input", "mask=mask.pb"},
		"json":           {"run", "model.onnx", "--input", "ids=ids.json", "--input", "mask=mask.json"},
		"npz":            {"run", "model.onnx", "--inputs", "in.npz"},
		"json object":    {"run", "model.onnx", "--inputs", "in.json"},
		"one of npz":     {"run", "model.onnx", "--input", "ids=in.npz", "--input", "mask=[[1, 0.5]]"},
		"test data set":  {"run", ".", "--inputs", "set"},
		"values":         {"run", "model.onnx", "--input", "ids=[[3, 7]]", "--input", "mask=[[1, 5e-1]]"},
		"over an npz":    {"run", "model.onnx", "--inputs", "in.npz", "--input", "ids=ids.pb"},
		"file":           {"run", "run.yaml"},
		"file and flags": {"run", "run.yaml", "--platform", "cpu", "--input", "ids=ids.pb"},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "y.npz")
			status, out, errs := accel(t, dir, append(args, "--only", "y", "--output", target)...)
			if status != 0 {
				t.Fatalf("status %d: %s", status, errs)
			}
			contains(t, out, "wrote "+target, "float32  [1,2,4]   12", "one run in")
			in := &tensorfile.Inputs{Declared: []*graph.Value{{Name: "y"}}}
			if err := in.All(target); err != nil {
				t.Fatal(err)
			}
			got := tensor.View[float32](in.Values()["y"].Tensor)
			for i := range want {
				if math.Abs(float64(got[i]-want[i])) > 1e-5 {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
		})
	}
}

func TestRunModelJSON(t *testing.T) {
	dir := smallModel(t)
	status, out, errs := accel(t, dir, "run", "model.onnx", "--generate", "random:3", "--dim", "seq=5", "--repeat", "4", "--platform", "cpu", "--output", "out", "--record", "test_data_set_0", "--json")
	var got struct {
		Inputs []struct {
			Name, Type, Made_Up string
			Shape               []int64
		}
		Dims     map[string]int64
		Assumed  []string
		Outputs  []struct{ Name, Type string }
		Files    []tensorfile.Written
		Repeated struct{ Runs int }
		Decision struct{ Chosen struct{ Device, Kind string } }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 {
		t.Fatalf("status %d, %v: %s%s", status, err, out, errs)
	}
	if got.Dims["seq"] != 5 || got.Dims["batch"] != 1 || len(got.Assumed) != 1 || got.Repeated.Runs != 4 || got.Decision.Chosen.Kind != "hardware" ||
		got.Inputs[0].Made_Up != "random in [0, 20): it indexes table" || got.Inputs[1].Made_Up != "random in [0, 1)" || got.Outputs[1].Type != "bfloat16" {
		t.Errorf("got %+v", got)
	}
	// NumPy has no bfloat16, so that output is a .pb.
	for _, name := range []string{"out/y.npy", "out/z.pb", "out/kept.npy", "test_data_set_0/input_1.pb", "test_data_set_0/output_2.pb"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	// What one device recorded, another is held against.
	if status, out, errs := accel(t, dir, "verify", ".", "--platform", "simulation"); status != 0 {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

// TestRunTextsAndSequences takes to a device and back what is no tensor of numbers.
func TestRunTextsAndSequences(t *testing.T) {
	b := graph.NewBuilder("kinds")
	text := b.Input("text", graph.TensorType(tensor.String, graph.Sym("n")))
	list := b.Input("list", &graph.Type{Kind: graph.KindSequence, Of: &graph.Type{Kind: graph.KindTensor, Elem: tensor.Float32}})
	b.Output("twice", b.Op("StringConcat", []string{text, text}), nil)
	b.Output("longer", b.Op("SequenceInsert", []string{list, b.Float(7)}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	writeTensor(t, filepath.Join(dir, "list.pb"), tensorfile.Named{Name: "list", Value: graph.Datum{Kind: graph.KindSequence,
		Sequence: []graph.Datum{graph.TensorDatum(tensor.Floats(tensor.Shape{2}, 1, 2))}}})
	for _, platform := range []string{"cpu", "simulation"} {
		status, out, errs := accel(t, dir, "run", ".", "--input", `text=["a", "bc"]`, "--input", "list=list.pb", "--platform", platform, "--output", platform)
		if status != 0 {
			t.Fatalf("%s: status %d: %s", platform, status, errs)
		}
		contains(t, out, `"aa" "bcbc"`, "sequence  of 2     -     -    -  float32[2] float32[]")
		in := &tensorfile.Inputs{Declared: []*graph.Value{{Name: "twice"}, {Name: "longer", Type: &graph.Type{Kind: graph.KindSequence}}}}
		if err := in.All(filepath.Join(dir, platform)); err != nil {
			t.Fatal(err)
		}
		if got := in.Values(); got["twice"].Tensor.Strings[1] != "bcbc" || tensor.View[float32](got["longer"].Sequence[1].Tensor.Aligned())[0] != 7 {
			t.Errorf("%s: got %+v", platform, got)
		}
	}
	if status, _, errs := accel(t, dir, "run", ".", "--generate", "random", "--input", "list=list.pb"); status != 2 || !strings.Contains(errs, `input "text" is text, which is not made up; give it as text=FILE`) {
		t.Errorf("made-up texts: status %d: %s", status, errs)
	}
}

func TestRunModelRefuses(t *testing.T) {
	dir := smallModel(t)
	writeTensor(t, filepath.Join(dir, "f64.npy"), value("mask", tensor.Of(tensor.Float64, tensor.Shape{1, 2}, []float64{1, 0.5})))
	writeTensor(t, filepath.Join(dir, "in.npz"), value("ids", tensor.Ints(tensor.Shape{1, 2}, 3, 7)), value("mask", tensor.Floats(tensor.Shape{1, 2}, 1, 1)))
	if err := os.WriteFile(filepath.Join(dir, "bad.onnx"), []byte("no model"), 0o600); err != nil {
		t.Fatal(err)
	}
	ids := []string{"--input", "ids=[[3, 7]]"}
	for name, tt := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"nothing given":      {[]string{"model.onnx"}, 2, "missing: ids (int64 [batch,seq]), mask (float32 [batch,seq]); give each as NAME=FILE"},
		"unknown input":      {[]string{"model.onnx", "--input", "idz=3"}, 2, `the model has no such input; did you mean "ids"?`},
		"another type":       {append(ids, "model.onnx", "--input", "mask=f64.npy"), 2, "it is float64, the model takes float32; convert it (NumPy: x.astype('float32'))"},
		"a fraction":         {[]string{"model.onnx", "--input", "ids=[[1.5]]"}, 2, `input "ids" (as given): 1.5 is no int64`},
		"another rank":       {[]string{"model.onnx", "--input", "ids=3"}, 2, "has 0 dimensions, the model takes int64 [batch,seq]"},
		"contradiction":      {append(ids, "model.onnx", "--input", "mask=[[1]]"), 2, `dimension 1, "seq", is 1 where input "ids" has 2`},
		"contradicting dim":  {[]string{"model.onnx", "--inputs", "in.npz", "--dim", "seq=3"}, 2, "it was said to be 3"},
		"unknown dim":        {[]string{"model.onnx", "--generate", "ones", "--dim", "sec=3"}, 2, `did you mean "seq"?`},
		"unknown generator":  {[]string{"model.onnx", "--generate", "noise"}, 2, "want zeros, ones, random or random:SEED"},
		"no NumPy type":      {[]string{"model.onnx", "--inputs", "in.npz", "--output", "out.npz"}, 2, "z: NumPy has no bfloat16; write it as .pb"},
		"one file for three": {[]string{"model.onnx", "--inputs", "in.npz", "--output", "out.npy"}, 2, "a .npy holds one value, there are 3"},
		"no folder":          {[]string{"model.onnx", "--inputs", "in.npz", "--output", "no/such/out.json"}, 2, "there is no folder no/such"},
		"no file":            {[]string{"model.onnx", "--inputs", "none.npz"}, 2, "none.npz: there is no such file"},
		"input twice":        {append(ids, "model.onnx", "--input", "ids=[[1, 1]]"), 2, "ids is given twice"},
		"input without name": {[]string{"model.onnx", "--input", "x.npy"}, 2, "want NAME=FILE"},
		"text for a task":    {[]string{"run.yaml", "--input", "x=3"}, 2, "it is for the task infer, this is embed"},
		"no model":           {[]string{"none.onnx"}, 3, "none.onnx: it does not exist"},
		"broken model":       {[]string{"bad.onnx"}, 3, "bad.onnx"},
		"beyond the table":   {[]string{"model.onnx", "--input", "ids=[[20]]", "--input", "mask=[[1]]"}, 2, "20"},
		"no such platform":   {[]string{"model.onnx", "--inputs", "in.npz", "--platform", "cuda", "--fallback", "deny"}, 3, "cuda: no backend offers it"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(dir, "run.yaml"), []byte("task: embed\nmodel: m\ninputs: {texts: [a]}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			status, out, errs := accel(t, dir, append([]string{"run"}, tt.args...)...)
			if status != tt.status || out != "" {
				t.Errorf("status %d, want %d: %s", status, tt.status, out)
			}
			contains(t, errs, tt.want)
		})
	}
	if status, out, errs := accel(t, dir, append(ids, "run", "model.onnx", "--input", "mask=f64.npy", "--cast")...); status != 0 {
		t.Errorf("--cast: status %d: %s", status, errs)
	} else {
		contains(t, out, "f64.npy, cast from float64")
	}
}

func TestInspectModel(t *testing.T) {
	dir := smallModel(t)
	status, out, errs := accel(t, dir, "inspect", "model.onnx")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	contains(t, out, "metadata   author: a test", "operators  Cast 1, Gather 1, Mul 1, NonZero 1, Unsqueeze 1", "--dim batch=N --dim seq=N",
		"input   ids   int64     [batch, seq]", "output  y     float32   [batch, seq, 4]")
	_, out, _ = accel(t, dir, "inspect", ".", "--dim", "batch=2", "--dim", "seq=3")
	contains(t, out, "a run at batch=2, seq=3", "at least")
	for args, want := range map[string]string{
		"inspect none.onnx":                       "it does not exist",
		"inspect model.onnx --dim x=1":            "they have batch, seq",
		"inspect model.onnx --dim batch":          "want NAME=N",
		"inspect model.onnx --platform cpu":       "add --nodes",
		"inspect model.onnx --nodes --platform x": "x: no backend offers it",
	} {
		if status, _, errs := accel(t, dir, strings.Fields(args)...); status == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: status %d: %s, want %q", args, status, errs, want)
		}
	}
}

// TestInspectContradiction: what a broken model declares is told all the same.
func TestInspectContradiction(t *testing.T) {
	m := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 21}, Graph: &graph.Graph{Name: "broken",
		Inputs:  []*graph.Value{{Name: "a", Type: graph.TensorType(tensor.Float32, graph.Known(2), graph.Known(3))}},
		Nodes:   []*graph.Node{{OpType: "MatMul", Inputs: []string{"a", "a"}, Outputs: []string{"y"}}},
		Outputs: []*graph.Value{{Name: "y", Type: graph.TensorType(tensor.Float32, graph.Known(2), graph.Known(3))}}}}
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	status, out, errs := accel(t, dir, "inspect", ".")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	contains(t, out, "problem", "can't be multiplied", "input   a     float32  [2, 3]")
}

// TestInspectNodes asks devices about nodes: the CPU's NonZero is the reference's,
// and a device of static shapes refuses what has none.
func TestInspectNodes(t *testing.T) {
	dir := smallModel(t)
	type node struct{ Name, Operator, Implementation, Reason string }
	ask := func(args ...string) map[string]node {
		t.Helper()
		status, out, errs := accel(t, dir, append([]string{"inspect", "model.onnx", "--nodes", "--json"}, args...)...)
		var got struct{ Node_List []node }
		if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 {
			t.Fatalf("%v: status %d, %v: %s%s", args, status, err, out, errs)
		}
		by := map[string]node{}
		for _, n := range got.Node_List {
			by[n.Operator] = n
		}
		return by
	}
	if got := ask(); got["Gather"].Implementation != "native" || got["NonZero"].Implementation != "reference" || len(got) != 5 {
		t.Errorf("cpu: %+v", got)
	}
	if got := ask("--platform", "simulation"); got["Gather"].Implementation != "reference" {
		t.Errorf("simulation: %+v", got)
	}
	if got := ask("--platform", "simulation:static"); got["Gather"].Implementation != "" || got["Gather"].Reason == "" {
		t.Errorf("simulation:static: %+v", got)
	}
	if got := ask("--platform", "simulation:static", "--dim", "batch=1"); got["Gather"].Implementation != "reference" {
		t.Errorf("simulation:static at fixed sizes: %+v", got)
	}
	status, out, errs := accel(t, dir, "inspect", "model.onnx", "--nodes")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	contains(t, out, "CPU:0", "f32[batch,seq,4]", "model.onnx on cpu:0 (hardware): 5 nodes: 4 native, 1 reference")
}

// TestRunCompletion completes from the model of the command line.
func TestRunCompletion(t *testing.T) {
	dir := smallModel(t)
	for args, want := range map[string]string{
		"run model.onnx --input ":    "ids=\nmask=\n",
		"run model.onnx --dim ":      "batch=\nseq=\n",
		"run model.onnx --only ":     "y\nz\nkept\n",
		"run model.onnx --generate ": "zeros\nones\nrandom\n",
		"inspect model.onnx --dim ":  "batch=\nseq=\n",
	} {
		words := strings.Split(args, " ")
		status, out, errs := accel(t, dir, append([]string{"__complete"}, words...)...)
		if status != 0 || !strings.HasPrefix(out, want) {
			t.Errorf("%s: status %d: %s%s", args, status, out, errs)
		}
	}
	status, out, _ := accel(t, dir, "run", "--help")
	if status != 0 {
		t.Error("no help")
	}
	contains(t, out, "accel run model.onnx --generate random", "--input NAME=FILE")
}
