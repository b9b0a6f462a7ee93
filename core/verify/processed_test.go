package verify

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// changed is a copy of a tiny model's media, processor and records, some of them changed.
func changed(t *testing.T, name string, change func(map[string]tensor.Tensor)) string {
	t.Helper()
	from, to := filepath.Join("..", "..", "testdata", "tiny", name), t.TempDir()
	for _, file := range []string{"a.png", "b.png", "preprocessor_config.json"} {
		data, err := os.ReadFile(filepath.Join(from, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	records, err := recordsOf(filepath.Join(from, goldenFile), "")
	if err != nil {
		t.Fatal(err)
	}
	change(records)
	var b bytes.Buffer
	if err := checkpoint.WriteSafetensors(&b, records, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, goldenFile), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func bad(outs []Output) string {
	var names []string
	for _, o := range outs {
		if !o.OK {
			names = append(names, o.Name+" "+o.Problem)
		}
	}
	return strings.Join(names, ", ")
}

func TestProcessed(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(map[string]tensor.Tensor)
		count  int
		bad    string
	}{
		{"vit", func(map[string]tensor.Tensor) {}, 4, ""},
		{"detr", func(map[string]tensor.Tensor) {}, 8, ""},
		{"vit", func(r map[string]tensor.Tensor) { tensor.View[float32](r["proc.b.pixel_values_tv"])[7] += 0.01 }, 4, "proc.b.pixel_values_tv "},
		{"detr", func(r map[string]tensor.Tensor) { tensor.View[int64](r["proc.batch.pixel_mask"])[0] = 0 }, 8, "proc.batch.pixel_mask "},
		{"vit", func(r map[string]tensor.Tensor) { r["proc.c.pixel_values"] = tensor.Floats(tensor.Shape{1}, 1) }, 5, "proc.c.pixel_values no processor makes it"},
		{"vit", func(r map[string]tensor.Tensor) { r["proc.a.pixel_values"] = tensor.Floats(tensor.Shape{1}, 1) }, 4, "proc.a.pixel_values it is float32[1,3,35,35], recorded is float32[1]"},
		{"vit", func(r map[string]tensor.Tensor) {
			for name := range r {
				if strings.HasPrefix(name, processed) {
					delete(r, name)
				}
			}
		}, 0, ""},
	} {
		outs, err := checkProcessed(changed(t, c.name, c.change), c.name, DefaultTolerance)
		if err != nil || len(outs) != c.count || bad(outs) != c.bad {
			t.Errorf("%s: found %d outputs, bad are %q, wanted %q: %v", c.name, len(outs), bad(outs), c.bad, err)
		}
	}
	dir := changed(t, "vit", func(map[string]tensor.Tensor) {})
	if err := os.WriteFile(filepath.Join(dir, "preprocessor_config.json"), []byte(`{"image_processor_type": "SamImageProcessor"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := checkProcessed(dir, "vit", DefaultTolerance); err == nil || !strings.Contains(err.Error(), "SamImageProcessor") {
		t.Errorf("found %v", err)
	}
}

func TestPosted(t *testing.T) {
	for _, c := range []struct {
		change func(map[string]tensor.Tensor)
		bad    string
		err    string
	}{
		{func(map[string]tensor.Tensor) {}, "", ""},
		{func(r map[string]tensor.Tensor) { tensor.View[int64](r["post.b.labels"])[3]++ }, "post.b.labels ", ""},
		{func(r map[string]tensor.Tensor) { tensor.View[float32](r["post.a.boxes"])[3] += 1 }, "post.a.boxes ", ""},
		{func(r map[string]tensor.Tensor) { delete(r, "post.a.scores") }, "", "records no post.a.scores"},
		{func(r map[string]tensor.Tensor) { delete(r, sizesName) }, "", "proc.target_sizes is no int64 [pictures,2]"},
		{func(r map[string]tensor.Tensor) { r["post.c.labels"] = tensor.Ints(tensor.Shape{1}, 1) }, "", "records 7 values of detections, of which 6 can be made"},
	} {
		dir := changed(t, "detr", c.change)
		records, err := recordsOf(filepath.Join(dir, goldenFile), "out.")
		if err != nil {
			t.Fatal(err)
		}
		outputs := map[string]graph.Datum{}
		for _, name := range []string{"logits", "pred_boxes"} {
			outputs[name] = graph.TensorDatum(records["out."+name])
		}
		outs, err := checkPosted(dir, outputs, 1e-6)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("found %v, wanted %q", err, c.err)
			}
			continue
		}
		if err != nil || len(outs) != 6 || bad(outs) != c.bad {
			t.Errorf("found %d outputs, bad are %q, wanted %q: %v", len(outs), bad(outs), c.bad, err)
		}
	}
}

// TestPassedOver: what records nothing is not opened.
func TestPassedOver(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var told []Result
	report := Run(t.Context(), nil, []string{dir, file}, Options{Platforms: []string{"cpu", "simulation"}}, func(r Result) { told = append(told, r) })
	if len(told) != 2 || told[0].Status != PassedOver || told[0].OK || !strings.Contains(told[1].Error, "it records nothing") || report.Count != (Count{PassedOver: 2}) {
		t.Errorf("found %+v of %+v", report.Count, told)
	}
}
