package reference

import (
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

// worst is the largest difference of two float tensors over the largest value.
func worst(got, want tensor.Tensor) (float64, error) {
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		return 0, fmt.Errorf("is %s, want %s", describeTensor(got), describeTensor(want))
	}
	diff, scale := 0.0, 0.0
	for i := range got.Len() {
		a, b := floatAt(got, i), floatAt(want, i)
		if a == b || a != a && b != b {
			continue
		}
		if d := math.Abs(a - b); !(d <= diff) {
			diff = d
		}
	}
	for i := range want.Len() {
		if v := math.Abs(floatAt(want, i)); v > scale && !math.IsInf(v, 0) {
			scale = v
		}
	}
	if diff == 0 {
		return 0, nil
	}
	return diff / scale, nil
}

// TestExports runs exports of real architectures against recorded outputs, as simulated
// devices do.
func TestExports(t *testing.T) {
	dir := testfiles.Shared(t, "onnx")
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Architectures []struct{ Arch, Category string }
	}
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	must := []string{"bert", "roberta", "distilbert", "albert", "electra"}
	passed, refused := map[string]int{}, map[string]int{}
	var whole []string
	for i, a := range index.Architectures {
		if testing.Short() && i%10 > 0 && !slices.Contains(must, a.Arch) {
			continue
		}
		begun := time.Now()
		rel, err := runExport(filepath.Join(dir, a.Arch))
		if d := time.Since(begun); d > 2*time.Second {
			t.Logf("%s took %v", a.Arch, d)
		}
		var u *UnsupportedError
		switch {
		case errors.As(err, &u):
			refused[a.Category]++
			if slices.Contains(must, a.Arch) {
				t.Errorf("%s: %v", a.Arch, err)
			}
			t.Logf("%s: %v", a.Arch, err)
		case err != nil:
			t.Errorf("%s: %v", a.Arch, err)
		case rel <= 1e-4:
			passed[a.Category]++
			whole = append(whole, a.Arch)
		default:
			t.Errorf("%s: outputs differ by %.2g of the largest value, at most 1e-4 is allowed", a.Arch, rel)
		}
	}
	for _, m := range must {
		if !slices.Contains(whole, m) {
			t.Errorf("%s did not pass", m)
		}
	}
	var lines []string
	for c, n := range passed {
		lines = append(lines, fmt.Sprintf("%s %d", c, n))
	}
	slices.Sort(lines)
	t.Logf("%d of %d exports pass (%s)", len(whole), len(index.Architectures), strings.Join(lines, ", "))
}

// runExport is the worst relative error of a model's outputs.
func runExport(dir string) (float64, error) {
	m, err := graph.Load(dir)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	p, err := New(m, Options{RoundLate: true})
	if err != nil {
		return 0, err
	}
	data := filepath.Join(dir, "test_data_set_0")
	inputs := map[string]tensor.Tensor{}
	for i, v := range m.Graph.Inputs {
		in, err := readDatum(filepath.Join(data, fmt.Sprintf("input_%d.pb", i)), v.Type)
		if err != nil {
			return 0, err
		}
		inputs[v.Name] = in.Tensor
	}
	got, err := p.Run(context.Background(), inputs, nil)
	if err != nil {
		return 0, err
	}
	rel := 0.0
	for i, v := range m.Graph.Outputs {
		want, err := readDatum(filepath.Join(data, fmt.Sprintf("output_%d.pb", i)), v.Type)
		if err != nil {
			return 0, err
		}
		r, err := worst(got[v.Name], want.Tensor)
		if err != nil {
			return 0, fmt.Errorf("output %s: %w", v.Name, err)
		}
		rel = max(rel, r)
	}
	return rel, nil
}
