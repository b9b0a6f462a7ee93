package verify

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Prefixes of what a golden file records of processors.
const (
	processed = "proc." // proc.CASE.NAME: what is made of the media in the folder
	posted    = "post." // post.CASE.NAME: what is made of the outputs
	sizesName = processed + "target_sizes"
	// torchvision ends the names of what torchvision's variant makes.
	torchvision = "_tv"
)

// checkProcessed holds what processors make of a folder's media against its records.
// They run in this process, whatever the platform.
func checkProcessed(dir, modelType string, tolerance float64) ([]Output, error) {
	records, err := recordsOf(filepath.Join(dir, goldenFile), processed)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	delete(records, sizesName) // an input of what is posted
	made, err := hear(dir, records)
	if err == nil && made == nil {
		made, err = process(dir, modelType)
	}
	if err != nil {
		return nil, err
	}
	var outs []Output
	for _, name := range sortedKeys(records) {
		out := Output{Name: name, Tolerance: tolerance, Problem: "no processor makes it"}
		if got, ok := made[name]; ok {
			out = compare(got, records[name], tensor.Tensor{}, tolerance)
			out.Name = name
		}
		outs = append(outs, out)
	}
	return outs, nil
}

// process makes all that the processors of a folder make of the media in it, by the
// names under which that is recorded.
func process(dir, modelType string) (map[string]tensor.Tensor, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	slices.Sort(files)
	batches := map[string][]pixels.Picture{}
	for _, file := range files {
		p, err := pixels.File(file, pixels.Limits{})
		if err != nil {
			return nil, err
		}
		batches[strings.TrimSuffix(filepath.Base(file), ".png")] = []pixels.Picture{p}
		batches["batch"] = append(batches["batch"], p)
	}
	made := map[string]tensor.Tensor{}
	for suffix, variant := range map[string]pixels.Variant{"": pixels.PIL, torchvision: pixels.Torchvision} {
		p, err := pixels.Open(dir, modelType, pixels.As(variant))
		if err != nil {
			return nil, err
		}
		for name, pictures := range batches {
			out, err := p.Process(pictures)
			if err != nil && name == "batch" {
				continue // not all processors take pictures of different sizes
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", dir, err)
			}
			for output, value := range out {
				made[processed+name+"."+output+suffix] = value
			}
		}
	}
	return made, nil
}

// checkPosted holds what is read out of a detector's outputs against its records, which
// are of the folder's pictures in alphabetical order.
func checkPosted(dir string, outputs map[string]graph.Datum, tolerance float64) ([]Output, error) {
	file := filepath.Join(dir, goldenFile)
	records, err := recordsOf(file, posted)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	more, err := recordsOf(file, sizesName)
	if err != nil {
		return nil, err
	}
	of := more[sizesName]
	if of.DType != tensor.Int64 || len(of.Shape) != 2 || of.Shape[1] != 2 {
		return nil, fmt.Errorf("%s: %s is no int64 [pictures,2]", file, sizesName)
	}
	var sizes [][2]int
	for v := tensor.View[int64](of); len(v) > 0; v = v[2:] {
		sizes = append(sizes, [2]int{int(v[0]), int(v[1])})
	}
	found, err := pixels.Detections(outputs["logits"].Tensor, outputs["pred_boxes"].Tensor, sizes, 0)
	if err != nil {
		return nil, err
	}
	var outs []Output
	for i, list := range found {
		var scores, boxes []float32
		var classes []int64
		for _, d := range list {
			classes, scores, boxes = append(classes, int64(d.Label)), append(scores, d.Score), append(boxes, d.Box[:]...)
		}
		n := int64(len(list))
		for name, got := range map[string]tensor.Tensor{
			"labels": tensor.Ints(tensor.Shape{n}, classes...), "scores": tensor.Floats(tensor.Shape{n}, scores...), "boxes": tensor.Floats(tensor.Shape{n, 4}, boxes...),
		} {
			key := fmt.Sprintf("%s%c.%s", posted, 'a'+i, name)
			want, ok := records[key]
			if !ok {
				return nil, fmt.Errorf("%s records no %s", file, key)
			}
			out := compare(got, want, tensor.Tensor{}, tolerance)
			out.Name = key
			outs = append(outs, out)
		}
	}
	slices.SortFunc(outs, func(a, b Output) int { return strings.Compare(a.Name, b.Name) })
	if len(outs) != len(records) {
		return nil, fmt.Errorf("%s records %d values of detections, of which %d can be made", file, len(records), len(outs))
	}
	return outs, nil
}

// recordsOf reads what a golden file records under a prefix; nothing, where there is no
// file.
func recordsOf(file, prefix string) (map[string]tensor.Tensor, error) {
	if _, err := os.Stat(file); os.IsNotExist(err) {
		return nil, nil
	}
	st, err := checkpoint.OpenSafetensors(file)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	records := map[string]tensor.Tensor{}
	for _, name := range st.Names() {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		t, err := st.Tensor(name)
		if err != nil {
			return nil, err
		}
		if records[name], err = owned(t); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, name, err)
		}
	}
	return records, nil
}
