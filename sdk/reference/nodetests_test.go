package reference

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// knownFailures reads lines of a case's name and the reason why it fails.
func knownFailures(t *testing.T) map[string]string {
	f, err := os.Open(filepath.Join("testdata", "known-failures.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	known := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			name, reason, _ := strings.Cut(line, " ")
			known[name] = reason
		}
	}
	return known
}

// onnxCase is one of ONNX's tests.
type onnxCase struct {
	Name       string // its folder
	RTol, ATol float64
	Sets       int
	Ops        []string
}

// TestNodeTests runs ONNX's tests of single operators.
func TestNodeTests(t *testing.T) {
	dir := testfiles.ONNX(t)
	var cases []onnxCase
	readJSON(t, filepath.Join(dir, "cases.json"), &cases)
	runCases(t, dir, cases)
	names := map[string]bool{}
	for _, c := range cases {
		names[c.Name] = true
	}
	for name := range randomCases {
		if !names[name] {
			t.Errorf("%s is listed as random, there is no such case", name)
		}
	}
}

// TestModels runs the small models that the onnx package carries: what PyTorch
// exported years ago, in operator sets as old.
func TestModels(t *testing.T) {
	dir := testfiles.ONNX(t)
	if _, err := os.Stat(filepath.Join(dir, "models.json")); err != nil {
		t.Skipf("the models are not there: remove %s and run `make onnx-tests`: %v", dir, err)
	}
	var cases []onnxCase
	readJSON(t, filepath.Join(dir, "models.json"), &cases)
	runCases(t, dir, cases)
	if len(cases) < 140 {
		t.Errorf("only %d models", len(cases))
	}
}

// runCases fails for a case that does not pass and is not listed with a reason, and
// for one that is listed and passes.
func runCases(t *testing.T, dir string, cases []onnxCase) {
	known := knownFailures(t)
	type tally struct{ passed, all int }
	byOp := map[string]*tally{}
	passed, failed := 0, 0
	// Models are listed by their set, as SET/CASE.
	inSet := func(name string) bool { return strings.Contains(name, "/") }
	for name := range known {
		if len(cases) > 0 && inSet(name) == inSet(cases[0].Name) && !slices.ContainsFunc(cases, func(c onnxCase) bool { return c.Name == name }) {
			t.Errorf("%s is listed in known-failures.txt, there is no such case", name)
		}
	}
	for _, c := range cases {
		begun := time.Now()
		right := func(_ map[string]graph.Datum, _ string, got, want graph.Datum) error {
			return sameValue(got, want, c.RTol, c.ATol)
		}
		if drawn := randomCases[c.Name]; drawn != nil {
			right = drawn
		}
		err := runCase(filepath.Join(dir, c.Name), c.Sets, right)
		if d := time.Since(begun); d > 2*time.Second {
			t.Logf("%s took %v", c.Name, d)
		}
		for _, op := range c.Ops {
			if byOp[op] == nil {
				byOp[op] = &tally{}
			}
			byOp[op].all++
			if err == nil {
				byOp[op].passed++
			}
		}
		reason, expected := known[c.Name]
		switch {
		case err == nil && expected:
			t.Errorf("%s passes, but is listed in known-failures.txt (%s)", c.Name, reason)
		case err == nil:
			passed++
		case expected:
			failed++
		default:
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	t.Logf("%d of %d cases passed, %d failed as known", passed, len(cases), failed)
	var lines []string
	for op, n := range byOp {
		lines = append(lines, fmt.Sprintf("%s %d/%d", strings.TrimPrefix(op, ":"), n.passed, n.all))
	}
	slices.Sort(lines)
	t.Logf("passed by operator: %s", strings.Join(lines, ", "))
}

// judge says why a result is wrong, which the inputs and the recorded result are
// known of.
type judge func(in map[string]graph.Datum, name string, got, want graph.Datum) error

// randomCases draw their results: what is judged is type, shape and what holds of
// every draw. TestRandomDraws judges the distributions.
var randomCases = map[string]judge{
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
	return eachDrawn(got, want, func(i int, v float64) bool { return v == 0 || v == 1 })
}

// droppedOut wants elements of x to be dropped or scaled up, and kept as often as
// the ratio says, give or take five standard deviations.
func droppedOut(in map[string]graph.Datum, name string, got, want graph.Datum) error {
	x, ratio := in["x"].Tensor, floatAt(in["r"].Tensor, 0)
	kept := 0.0
	err := eachDrawn(got, want, func(i int, v float64) bool {
		if v != 0 {
			kept++
		}
		if name == "z" { // the mask
			return v == 0 || v == 1
		}
		whole := floatAt(x, i) / (1 - ratio)
		return v == 0 || math.Abs(v-whole) <= 1e-6*math.Abs(whole)
	})
	n := float64(x.Len())
	if off := kept - n*(1-ratio); err == nil && math.Abs(off) > 5*math.Sqrt(n*ratio*(1-ratio)) {
		return fmt.Errorf("%g of %g elements are kept at a ratio of %g", kept, n, ratio)
	}
	return err
}

func eachDrawn(got, want graph.Datum, possible func(i int, v float64) bool) error {
	if got.Kind != graph.KindTensor || got.Tensor.DType != want.Tensor.DType || !got.Tensor.Shape.Equal(want.Tensor.Shape) {
		return fmt.Errorf("is %s, want %s", describe(got), describe(want))
	}
	for i := range got.Tensor.Len() {
		if v := floatAt(got.Tensor, i); !possible(i, v) {
			return fmt.Errorf("element %d is %g", i, v)
		}
	}
	return nil
}

// runCase runs a folder in ONNX's test layout.
func runCase(dir string, sets int, right judge) error {
	m, err := graph.Load(dir)
	if err != nil {
		return err
	}
	defer m.Close()
	p, err := New(m, Options{})
	if err != nil {
		return err
	}
	for i := range sets {
		data := filepath.Join(dir, fmt.Sprintf("test_data_set_%d", i))
		inputs := map[string]graph.Datum{}
		for k, v := range m.Graph.Inputs {
			in, err := readDatum(filepath.Join(data, fmt.Sprintf("input_%d.pb", k)), v.Type)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			inputs[v.Name] = in
		}
		got, err := p.RunValues(context.Background(), inputs, nil)
		if err != nil {
			return err
		}
		for k, v := range m.Graph.Outputs {
			want, err := readDatum(filepath.Join(data, fmt.Sprintf("output_%d.pb", k)), v.Type)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := right(inputs, v.Name, got[v.Name], want); err != nil {
				return fmt.Errorf("output %s: %w", v.Name, err)
			}
		}
	}
	return nil
}

func readDatum(path string, typ *graph.Type) (graph.Datum, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return graph.Datum{}, err
	}
	_, v, err := graph.ParseDatum(data, typ.Kind)
	if err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

func sameValue(got, want graph.Datum, rtol, atol float64) error {
	if got.Kind != want.Kind {
		return fmt.Errorf("is %s, want %s", describe(got), describe(want))
	}
	switch got.Kind {
	case graph.KindSequence:
		if len(got.Sequence) != len(want.Sequence) {
			return fmt.Errorf("has %d entries, want %d", len(got.Sequence), len(want.Sequence))
		}
		for i := range got.Sequence {
			if err := sameValue(got.Sequence[i], want.Sequence[i], rtol, atol); err != nil {
				return fmt.Errorf("entry %d %w", i, err)
			}
		}
		return nil
	case graph.KindOptional:
		if (got.Optional == nil) != (want.Optional == nil) {
			return fmt.Errorf("is %s, want %s", describe(got), describe(want))
		}
		if got.Optional == nil {
			return nil
		}
		return sameValue(*got.Optional, *want.Optional, rtol, atol)
	}
	return sameTensor(got.Tensor, want.Tensor, rtol, atol)
}

// sameTensor compares as numpy's allclose does, NaN equal to NaN.
func sameTensor(got, want tensor.Tensor, rtol, atol float64) error {
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		return fmt.Errorf("is %s, want %s", describeTensor(got), describeTensor(want))
	}
	if err := got.Check(); err != nil {
		return err
	}
	// The recorded half-precision results were rounded after each step, ours once.
	switch got.DType {
	case tensor.BFloat16:
		rtol = max(rtol, 0x1p-6)
	case tensor.Float16:
		rtol = max(rtol, 0x1p-9)
	}
	for i := range got.Len() {
		if sameCell(got, i, want, i) {
			continue
		}
		if classOf(got.DType) == classNone {
			return fmt.Errorf("element %d differs", i)
		}
		a, b := floatAt(got, i), floatAt(want, i)
		if a != a && b != b || math.Abs(a-b) <= atol+rtol*math.Abs(b) {
			continue
		}
		return fmt.Errorf("element %d of %s is %v, want %v", i, describeTensor(got), a, b)
	}
	return nil
}
