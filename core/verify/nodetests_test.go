//go:build unix

package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// ONNX's own tests on whole backends: loaded, lowered, compiled and run in their
// processes as a user's model is. testdata/not-passed-PLATFORM.txt lists what does not pass
// there, and may only shrink.

// nodeCase is one of ONNX's tests, as sdk/reference/testdata/nodetests.py writes it.
type nodeCase struct {
	Name       string // its folder
	RTol, ATol float64
	Sets       int
	Ops        []string // domain:operator
}

// counted reports whether a case is one of the 1,869 of ai.onnx and ai.onnx.preview.
func (c nodeCase) counted() bool {
	return !slices.ContainsFunc(c.Ops, func(op string) bool {
		return strings.HasPrefix(op, "ai.onnx.ml:") || strings.HasPrefix(op, "ai.onnx.preview.training:")
	})
}

func readCases(t *testing.T) (dir string, nodes, models []nodeCase) {
	t.Helper()
	dir = testfiles.ONNX(t)
	for file, to := range map[string]*[]nodeCase{"cases.json": &nodes, "models.json": &models} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, to); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return dir, nodes, models
}

// backends is a folder with the backends of $ACCEL_BIN, or with ones built for the test.
func backends(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("ACCEL_BIN"); bin != "" {
		return filepath.Join(bin, "backends")
	}
	dir := t.TempDir()
	for _, name := range []string{"cpu", "openvino", "reference"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, "accel-backend-"+name), "../../plugins/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

func newEngine(t *testing.T) *engine.Engine {
	t.Helper()
	c := config.Default()
	c.Cache.Dir = t.TempDir()
	e, err := engine.New(c, engine.Options{Beside: backends(t), Log: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

func TestONNXOnPlatforms(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs four thousand models")
	}
	t.Setenv("ACCEL_OPENVINO", "off")
	dir, nodes, models := readCases(t)
	e := newEngine(t)
	for _, platform := range []string{"cpu", "simulation"} {
		t.Run(platform, func(t *testing.T) { onPlatform(t, e, platform, dir, nodes, models, 95) })
	}
}

// TestONNXOnOpenVINO: what is refused there other platforms compute. What comes out
// wrong is listed, and is to be said in docs/limits.md.
func TestONNXOnOpenVINO(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs two thousand models")
	}
	t.Setenv("ACCEL_OPENVINO", testfiles.OpenVINO(t))
	dir, nodes, models := readCases(t)
	onPlatform(t, newEngine(t), "openvino", dir, nodes, models, 70)
}

// onPlatform runs all cases on a platform, which must pass so many in a hundred, and
// those that are not listed.
func onPlatform(t *testing.T, e *engine.Engine, platform, dir string, nodes, models []nodeCase, percent int) {
	listed := notPassed(t, platform)
	cases := slices.Concat(nodes, models)
	results := make([]caseResult, len(cases))
	begun := time.Now()
	var wg sync.WaitGroup
	next := make(chan int)
	for range max(2, runtime.NumCPU()) {
		wg.Go(func() {
			for i := range next {
				results[i] = runCase(t.Context(), e, platform, filepath.Join(dir, cases[i].Name), cases[i])
			}
		})
	}
	for i := range cases {
		next <- i
	}
	close(next)
	wg.Wait()
	took := time.Since(begun)

	passed, all, apart, apartAll, ofModels := 0, 0, 0, 0, 0
	by := map[string]int{}
	known := map[string]bool{}
	for i, c := range cases {
		known[c.Name] = true
		r := results[i]
		reason, expected := listed[c.Name]
		switch {
		case r.err == nil && expected:
			t.Errorf("%s passes, and is listed in not-passed-%s.txt (%s)", c.Name, platform, reason)
		case r.err != nil && !expected:
			t.Errorf("%s: %v", c.Name, r.err)
		}
		ok := 0
		if r.err == nil {
			ok = 1
		}
		switch {
		case i >= len(nodes):
			ofModels += ok
		case c.counted():
			passed, all = passed+ok, all+1
			if ok == 1 {
				by[r.by]++
			}
		default:
			apart, apartAll = apart+ok, apartAll+1
		}
	}
	for name := range listed {
		if !known[name] {
			t.Errorf("%s is listed in not-passed-%s.txt, there is no such case", name, platform)
		}
	}
	t.Logf("%s: passed %d / %d of ai.onnx and ai.onnx.preview (%s); %d / %d of ai.onnx.ml and training; %d / %d models of the onnx package; %v, %v a case",
		platform, passed, all, tally(by), apart, apartAll, ofModels, len(models), took.Round(time.Millisecond), (took / time.Duration(len(cases))).Round(10*time.Microsecond))
	if passed*100 < all*percent {
		t.Errorf("%d of %d are less than %d %%", passed, all, percent)
	}
}

func tally(by map[string]int) string {
	var parts []string
	for _, name := range sortedKeys(by) {
		parts = append(parts, fmt.Sprintf("%d %s", by[name], name))
	}
	return strings.Join(parts, ", ")
}

// notPassed reads lines of a case's name and the reason why it does not pass.
func notPassed(t *testing.T, platform string) map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "not-passed-"+platform+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	listed := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			name, reason, _ := strings.Cut(line, " ")
			if reason == "" {
				t.Errorf("%s is listed without a reason", name)
			}
			listed[name] = reason
		}
	}
	return listed
}

// caseResult is how a case went; by says what computed its nodes.
type caseResult struct {
	by  string
	err error
}

func runCase(ctx context.Context, e *engine.Engine, platform, dir string, c nodeCase) (r caseResult) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := e.Open(dir, engine.SessionOptions{Preferred: platform, Policy: route.Deny})
	if err != nil {
		return caseResult{err: err}
	}
	defer func() { r.err = errors.Join(r.err, s.Close()) }()
	sets, err := filepath.Glob(filepath.Join(dir, "test_data_set_*"))
	if err == nil && len(sets) != c.Sets {
		err = fmt.Errorf("%d test sets, %d are said", len(sets), c.Sets)
	}
	if err != nil {
		return caseResult{err: err}
	}
	tests, err := loadONNX(sets, s.Source.Graph)
	if err != nil {
		return caseResult{err: err}
	}
	for _, t := range tests {
		var wanted []string
		for _, o := range t.outputs {
			wanted = append(wanted, o.name)
		}
		got, d, err := s.Infer(ctx, t.inputs, wanted)
		if err != nil {
			return caseResult{err: err}
		}
		if d.Chosen.Platform != platform {
			return caseResult{err: fmt.Errorf("it ran on %s", d.Chosen.Device)}
		}
		for _, o := range t.outputs {
			if draw := randomCases[c.Name]; draw != nil {
				err = draw(t.inputs, o.name, got[o.name], o.value)
			} else {
				err = sameValue(got[o.name], o.value, c.RTol, c.ATol)
			}
			if err != nil {
				return caseResult{err: fmt.Errorf("output %s %w", o.name, err)}
			}
		}
	}
	return caseResult{by: computedBy(s)}
}

// computedBy is "native" where a kernel computed at least one node of a case, else what
// did.
func computedBy(s *engine.Session) string {
	by := ""
	for _, p := range s.Placements() {
		for _, n := range p.Table {
			if n.Implementation == "native" {
				return n.Implementation
			}
			by = n.Implementation
		}
	}
	if by == "" {
		return "folded away"
	}
	return by
}

// drawn says why a draw can't be one, of which the inputs and a recorded draw are
// known.
type drawn func(in map[string]graph.Datum, name string, got, want graph.Datum) error

// randomCases draw their results: shape, type and range are judged. The distributions
// are judged in sdk/reference.
var randomCases = map[string]drawn{
	"test_bernoulli":                     zeroOrOne,
	"test_bernoulli_double":              zeroOrOne,
	"test_bernoulli_double_expanded":     zeroOrOne,
	"test_bernoulli_expanded":            zeroOrOne,
	"test_bernoulli_seed":                zeroOrOne,
	"test_bernoulli_seed_expanded":       zeroOrOne,
	"test_training_dropout":              droppedOut,
	"test_training_dropout_default":      droppedOut,
	"test_training_dropout_default_mask": droppedOut,
	"test_training_dropout_mask":         droppedOut,
}

func zeroOrOne(_ map[string]graph.Datum, _ string, got, want graph.Datum) error {
	return eachDrawn(got, want, func(_ int, v float64) bool { return v == 0 || v == 1 })
}

// droppedOut wants elements of x to be zero or scaled up, and masks to be of zeros and
// ones.
func droppedOut(in map[string]graph.Datum, name string, got, want graph.Datum) error {
	if name == "z" {
		return zeroOrOne(in, name, got, want)
	}
	x, err := numbers(in["x"].Tensor)
	if err != nil {
		return err
	}
	ratio, err := numbers(in["r"].Tensor)
	if err != nil || len(ratio) != 1 {
		return fmt.Errorf("of ratio %v: %v", ratio, err)
	}
	return eachDrawn(got, want, func(i int, v float64) bool {
		whole := x[i] / (1 - ratio[0])
		return v == 0 || math.Abs(v-whole) <= 1e-6*math.Abs(whole)
	})
}

func eachDrawn(got, want graph.Datum, possible func(i int, v float64) bool) error {
	if got.Kind != graph.KindTensor || got.Tensor.DType != want.Tensor.DType || !got.Tensor.Shape.Equal(want.Tensor.Shape) {
		return fmt.Errorf("is of another type or shape than %s%v", want.Tensor.DType, want.Tensor.Shape)
	}
	v, err := numbers(got.Tensor)
	if err != nil {
		return err
	}
	for i, x := range v {
		if !possible(i, x) {
			return fmt.Errorf("draws %v as element %d", x, i)
		}
	}
	return nil
}

func sameValue(got, want graph.Datum, rtol, atol float64) error {
	if got.Kind != want.Kind || len(got.Sequence) != len(want.Sequence) || (got.Optional == nil) != (want.Optional == nil) {
		return errors.New("is another kind of value, or holds another number of them")
	}
	for i := range got.Sequence {
		if err := sameValue(got.Sequence[i], want.Sequence[i], rtol, atol); err != nil {
			return fmt.Errorf("value %d %w", i, err)
		}
	}
	if got.Optional != nil {
		return sameValue(*got.Optional, *want.Optional, rtol, atol)
	}
	if got.Kind != graph.KindTensor {
		return nil
	}
	a, b := got.Tensor, want.Tensor
	if a.DType != b.DType || !a.Shape.Equal(b.Shape) {
		return fmt.Errorf("is %s%v, want %s%v", a.DType, a.Shape, b.DType, b.Shape)
	}
	if a.DType == tensor.String {
		if !slices.Equal(a.Strings, b.Strings) {
			return fmt.Errorf("is %q, want %q", a.Strings, b.Strings)
		}
		return nil
	}
	if slices.Equal(a.Data, b.Data) {
		return nil
	}
	// Recorded results of half precision were rounded after each step, ours once.
	switch a.DType {
	case tensor.BFloat16:
		rtol = max(rtol, 0x1p-6)
	case tensor.Float16:
		rtol = max(rtol, 0x1p-9)
	}
	x, err := numbers(a)
	if err != nil {
		return err
	}
	y, err := numbers(b)
	if err != nil {
		return err
	}
	for i := range x {
		if x[i] != y[i] && !(x[i] != x[i] && y[i] != y[i]) && !(math.Abs(x[i]-y[i]) <= atol+rtol*math.Abs(y[i])) {
			return fmt.Errorf("is %v as element %d, want %v", x[i], i, y[i])
		}
	}
	return nil
}

// numbers are a tensor's elements; complex ones count as two.
func numbers(t tensor.Tensor) ([]float64, error) {
	t = t.Aligned()
	switch t.DType {
	case tensor.Float64, tensor.Complex128:
		return tensor.View[float64](tensor.Tensor{DType: tensor.Float64, Data: t.Data}), nil
	case tensor.Complex64:
		t = tensor.Tensor{DType: tensor.Float32, Shape: append(t.Shape.Clone(), 2), Data: t.Data}
	}
	const opset = 25
	cast, ok := reference.Lookup(graph.DomainONNX, "Cast", opset)
	if !ok {
		return nil, errors.New("there is no Cast")
	}
	n := &graph.Node{OpType: "Cast", Inputs: []string{"x"}, Outputs: []string{"y"}, Attrs: []*graph.Attr{graph.IntAttr("to", int64(tensor.Float64))}}
	out, err := cast.Eval(context.Background(), n, []graph.Datum{graph.TensorDatum(t)}, reference.Env{})
	if err != nil {
		return nil, err
	}
	return tensor.View[float64](out[0].Tensor), nil
}
