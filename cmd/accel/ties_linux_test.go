package main_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestVerifyTies records what a model makes of scores that are a little off, so that
// two rows stand in another order than its own.
func TestVerifyTies(t *testing.T) {
	b := graph.NewBuilder("choose")
	scores := b.Input("scores", graph.TensorType(tensor.Float32, graph.Known(4)))
	x := b.Input("x", graph.TensorType(tensor.Float32, graph.Known(4), graph.Known(2)))
	top := b.Node(&graph.Node{Name: "top", OpType: "TopK", Inputs: []string{scores, b.Ints(3)}}, 2)
	b.Output("y", b.Op("Neg", []string{b.Op("Gather", []string{x, top[1]})}), nil)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		units  int
		status verify.Status
	}{
		"near": {2, verify.Whole},
		"far":  {verify.TieUnits + 1, verify.Wrong},
	} {
		t.Run(name, func(t *testing.T) {
			above := math.Float32frombits(math.Float32bits(3) + uint32(tt.units))
			dir := filepath.Join(t.TempDir(), name)
			onnxTest(t, dir, m, map[string]tensor.Tensor{
				"scores": tensor.Floats(tensor.Shape{4}, 9, 3, above, 1),
				"x":      tensor.Floats(tensor.Shape{4, 2}, 1, 2, 3, 4, 5, 6, 7, 8)})
			data, err := graph.AppendTensor(nil, "scores", tensor.Floats(tensor.Shape{4}, 9, above, 3, 1))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "test_data_set_0", "input_0.pb"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			status, out, errs := accel(t, dir, "verify", ".", "--platform", "cpu,simulation", "--json")
			var report verify.Report
			if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Results) != 2 {
				t.Fatalf("status %d, %v: %s%s", status, err, out, errs)
			}
			for _, r := range report.Results {
				ties := r.Status == verify.Whole && len(r.Ties) == 1 && r.Ties[0].Node == "top" && slices.Equal(r.Ties[0].Exchanged[0], []int64{1, 2}) && r.Outputs[0].Tied
				if r.Status != tt.status || ties != (tt.status == verify.Whole) {
					t.Errorf("%+v", r)
				}
			}
			if tt.status != verify.Whole {
				if status != 1 || report.Tied != 0 {
					t.Errorf("status %d, %+v", status, report)
				}
				return
			}
			if status != 0 || report.Tied != 2 {
				t.Errorf("status %d, %+v", status, report)
			}
			_, out, _ = accel(t, dir, "verify", ".", "--platform", "simulation")
			contains(t, out, "y: as recorded once rows 1 and 2 change places: their scores tie at top, 2 units", "; 1 passed with rows of tied scores exchanged")
		})
	}
}
