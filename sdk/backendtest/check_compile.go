package backendtest

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// deviceChecks are the promises about a device.
var deviceChecks = []check[*conn]{
	{"assess", checkAssess},
	{"compile", checkCompile},
	{"compile refuses", checkCompileRefuses},
	{"malformed folders", checkMalformed},
	{"weights", checkWeights},
	{"memory budget", checkBudget},
	{"bindings", checkBindings},
	{"shapes", checkShapes},
	{"values", checkValues},
	{"wrong runs", checkWrongRuns},
	{"ids", checkIDs},
	{"regions", checkRegions},
	{"buffers", checkBuffers},
	{"pools", checkPools},
	{"memory", checkMemory},
	{"order", checkOrder},
	{"overlap", checkOverlap},
	{"cancel", checkCancel},
	{"client gone", checkClientGone},
	{"concurrency", checkConcurrency},
	{"leaks", checkLeaks},
	{"operators", checkOperators},
}

func nodesOf(t T, dir string) int {
	t.Helper()
	m, err := graph.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	return len(m.Graph.Nodes)
}

func checkAssess(t T, c *conn) {
	for what, dir := range map[string]string{
		"y = x + x": c.doubling(4), "a chain": c.long(64, 10), "a weight": c.weighted(16), "an operator nobody has": c.unknown(),
	} {
		a, err := c.assess(dir)
		c.must("Assess of "+what, err)
		if want := nodesOf(t, dir); len(a.Nodes) != want {
			t.Errorf("%s: %d verdicts on %d nodes", what, len(a.Nodes), want)
			continue
		}
		for i, v := range a.Nodes {
			known := what != "an operator nobody has" || i != 1
			switch {
			case known && !v.OK:
				t.Errorf("%s: node %d is refused (%s: %s); Add, Mul and Neg of float32 are what every backend takes", what, i, v.Refusal, v.Reason)
			case !known && (v.OK || v.Refusal != backend.RefusedOperator || v.Reason == ""):
				t.Errorf("%s: the verdict on the node is %+v, want a refusal of the operator with a reason", what, v)
			}
		}
	}
	if c.device.StaticShapes {
		b := graph.NewBuilder("dynamic")
		ty := graph.TensorType(tensor.Float32, graph.Sym("n"))
		b.Output("y", b.Op("Neg", []string{b.Input("x", ty)}), ty)
		dir := write(t, build(t, b))
		a, err := c.assess(dir)
		c.must("Assess of a symbolic dimension", err)
		if len(a.Nodes) != 1 || a.Nodes[0].OK || a.Nodes[0].Refusal != backend.RefusedDynamicShape {
			t.Errorf("the device takes static shapes only, its verdict on a symbolic one is %+v", a.Nodes)
		}
		_, err = c.tryCompile(&backendv1.CompileRequest{GraphDir: dir})
		c.refused("Compile of a symbolic dimension", err, backend.CodeUnsupported)
	}
}

func checkCompile(t T, c *conn) {
	e, err := c.tryCompile(&backendv1.CompileRequest{GraphDir: c.doubling(4), SmokeDims: map[string]int64{"n": 7, "unused": 3}})
	c.must("Compile", err)
	if e.id.GetDevice() != c.device.ID || e.id.GetEpoch() != c.device.Epoch || e.id.GetN() == 0 {
		t.Errorf("the executable's id is %v on device %s of epoch %d", e.id, c.device.ID, c.device.Epoch)
	}
	for _, p := range e.progress {
		if p.GetStage() == "" || p.GetFraction() < 0 || p.GetFraction() > 1 {
			t.Errorf("progress %v", p)
		}
	}
	for what, values := range map[string][]graph.Value{"x": e.info.Inputs, "y": e.info.Outputs} {
		if len(values) != 1 || values[0].Name != what || values[0].Type.Elem != tensor.Float32 ||
			!values[0].Type.HasShape || len(values[0].Type.Dims) != 1 {
			t.Errorf("%+v is described where %s of float32 and rank 1 is meant", values, what)
			continue
		}
		if d := values[0].Type.Dims[0]; c.device.StaticShapes && d != graph.Known(4) || !c.device.StaticShapes && d.Size >= 0 {
			t.Errorf("%s is described with dimension %+v", what, d)
		}
	}
	second := c.compile(c.doubling(4))
	if second.id.GetN() == e.id.GetN() {
		t.Errorf("two executables have the id %v", e.id)
	}
}

func checkCompileRefuses(t T, c *conn) {
	_, err := c.tryCompile(&backendv1.CompileRequest{GraphDir: c.unknown()})
	e := c.refused("Compile of an operator that nobody has", err, backend.CodeUnsupported)
	if !slices.Equal(e.Nodes, []string{"odd"}) {
		t.Errorf("the error names the nodes %q, want the one that is not supported, \"odd\"", e.Nodes)
	}
	_, err = c.tryCompile(&backendv1.CompileRequest{GraphDir: c.doubling(4), SmokeDims: map[string]int64{"n": -1}})
	c.refused("Compile with a negative smoke dimension", err, backend.CodeInvalid)
	c.compile(c.doubling(4))
}

func checkMalformed(t T, c *conn) {
	good, err := os.ReadFile(filepath.Join(c.weighted(1000), graph.ModelFile))
	if err != nil {
		t.Fatal(err)
	}
	loop := &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 21}, Graph: &graph.Graph{
		Nodes: []*graph.Node{
			{Name: "a", OpType: "Neg", Inputs: []string{"y"}, Outputs: []string{"z"}},
			{Name: "b", OpType: "Neg", Inputs: []string{"z"}, Outputs: []string{"y"}},
		},
		Outputs: []*graph.Value{{Name: "y", Type: graph.TensorType(tensor.Float32, graph.Known(1))}},
	}}
	external := func(at graph.External) *graph.Model {
		ty := graph.TensorType(tensor.Float32, graph.Known(4))
		return &graph.Model{IRVersion: 10, Opsets: map[string]int64{"": 21}, Graph: &graph.Graph{
			Initializers: []*graph.Initializer{{Name: "w", Tensor: tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{4}}, External: &at}},
			Inputs:       []*graph.Value{{Name: "x", Type: ty}},
			Nodes:        []*graph.Node{{Name: "a", OpType: "Add", Inputs: []string{"x", "w"}, Outputs: []string{"y"}}},
			Outputs:      []*graph.Value{{Name: "y", Type: ty}},
		}}
	}
	short := write(t, external(graph.External{Path: "weights", Length: 16}))
	if err := os.WriteFile(filepath.Join(short, "weights"), make([]byte, 15), 0o600); err != nil {
		t.Fatal(err)
	}
	empty, isFolder := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(isFolder, graph.ModelFile), 0o700); err != nil {
		t.Fatal(err)
	}
	for what, dir := range map[string]string{
		"no folder":             filepath.Join(empty, "absent"),
		"an empty folder":       empty,
		"a folder for a model":  isFolder,
		"an empty file":         writeFile(t, nil),
		"garbage":               writeFile(t, bytes.Repeat([]byte{0xfe, 0x01, 0x7f}, 500)),
		"half a model":          writeFile(t, good[:len(good)/2]),
		"a loop":                write(t, loop),
		"a missing weight file": write(t, external(graph.External{Path: "absent", Length: 16})),
		"a short weight file":   short,
	} {
		_, err := c.tryCompile(&backendv1.CompileRequest{GraphDir: dir})
		if e := c.refused("Compile of "+what, err, backend.CodeInvalid); e.Code == backend.CodeInvalid && e.Argument != "graph_dir" {
			t.Errorf("Compile of %s: the error blames %q: %v", what, e.Argument, e)
		}
		_, err = c.assess(dir)
		c.refused("Assess of "+what, err, backend.CodeInvalid)
	}
	c.compile(c.doubling(4))
}

// Weights inside the model and beside it give the same.
func checkWeights(t T, c *conn) {
	const n = 5000
	m, err := graph.Load(c.weighted(n))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	beside := t.TempDir()
	if err := graph.Save(m, beside, graph.SaveOptions{External: 1, File: "weights.bin"}); err != nil {
		t.Fatal(err)
	}
	s := c.execute()
	for what, dir := range map[string]string{"inside": c.weighted(n), "beside": beside} {
		x := ramp(n)
		got, err := s.runInline(c.compile(dir), map[string]tensor.Tensor{"x": x})
		if err != nil {
			t.Errorf("weights %s the model: %v", what, err)
			continue
		}
		for i, y := range tensor.View[float32](got["y"]) {
			if want := float32(2*i + 1); y != want {
				t.Errorf("weights %s the model: y[%d] = %v, want %v", what, i, y, want)
				break
			}
		}
	}
}

func checkBudget(t T, c *conn) {
	dir := c.weighted(1 << 18)
	_, err := c.tryCompile(&backendv1.CompileRequest{GraphDir: dir, MemoryBudget: 4096})
	if e := c.refused("Compile of a megabyte into a budget of 4096 bytes", err, backend.CodeOutOfMemory); e.Needed <= 4096 {
		t.Errorf("the error says that %d bytes are needed", e.Needed)
	}
	_, err = c.tryCompile(&backendv1.CompileRequest{GraphDir: dir, MemoryBudget: 64 << 20})
	c.must("Compile of a megabyte into a budget of 64 MiB", err)
}
