package reference

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// microsoftVector is a file that testdata/microsoft.py writes.
type microsoftVector struct {
	name  string // OPERATOR/CASE
	model *graph.Model
	want  map[string]tensor.Tensor
}

func microsoftVectors(t *testing.T) []microsoftVector {
	root := filepath.Join("testdata", "microsoft")
	paths, err := filepath.Glob(filepath.Join(root, "*", "*.onnx"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no vectors in %s: %v", root, err)
	}
	var all []microsoftVector
	for _, path := range paths {
		m, err := graph.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		op := filepath.Base(filepath.Dir(path))
		v := microsoftVector{name: op + "/" + strings.TrimSuffix(filepath.Base(path), ".onnx"), model: m, want: map[string]tensor.Tensor{}}
		for _, in := range m.Graph.Initializers {
			if out, ok := strings.CutPrefix(in.Name, "want."); ok {
				v.want[out] = in.Tensor
			}
		}
		if len(v.want) != len(m.Graph.Outputs) || len(v.want) == 0 {
			t.Fatalf("%s: %d results for %d outputs", v.name, len(v.want), len(m.Graph.Outputs))
		}
		all = append(all, v)
	}
	return all
}

// near compares floating-point numbers by the largest one, NaN in want for any;
// of integers, those that lie off by one must be few: where a quotient is close to
// a half, kernels of float32 round another way.
func near(got, want tensor.Tensor) error {
	if got.DType != want.DType || !got.Shape.Equal(want.Shape) {
		return fmt.Errorf("is %s, want %s", describeTensor(got), describeTensor(want))
	}
	if err := got.Check(); err != nil {
		return err
	}
	largest := 1e-3
	for i := range want.Len() {
		if v := math.Abs(floatAt(want, i)); v > largest && !math.IsInf(v, 0) {
			largest = v
		}
	}
	tolerance := map[tensor.DType]float64{tensor.Float32: 2e-6, tensor.Float64: 1e-12, tensor.Float16: 2e-3}[want.DType] * largest
	off := 0
	for i := range want.Len() {
		a, b := floatAt(got, i), floatAt(want, i)
		if b != b || math.Abs(a-b) <= tolerance || a == b {
			continue
		}
		if bits := want.DType.Bits(); want.DType.IsInt() && bits <= 8 && math.Abs(a-b) == 1 {
			off++
			continue
		}
		return fmt.Errorf("element %d of %s is %v, want %v", i, describeTensor(got), a, b)
	}
	if off > want.Len()/25 {
		return fmt.Errorf("%d of %d elements are off by one", off, want.Len())
	}
	return nil
}

// TestMicrosoftVectors compares the operators of com.microsoft with what ONNX
// Runtime computed.
func TestMicrosoftVectors(t *testing.T) {
	byOp := map[string]int{}
	for _, v := range microsoftVectors(t) {
		op, _, _ := strings.Cut(v.name, "/")
		byOp[op]++
		p, err := New(v.model, Options{})
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		got, err := p.Run(context.Background(), nil, nil)
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		for name, want := range v.want {
			if err := near(got[name], want); err != nil {
				t.Errorf("%s: %s %v", v.name, name, err)
			}
		}
	}
	total := 0
	for _, n := range byOp {
		total += n
	}
	t.Logf("%d cases of %d operators", total, len(byOp))
}
