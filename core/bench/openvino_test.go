package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// overheadFloor is the share of the Python package's throughput that ours is to have.
const overheadFloor = 0.97

// BenchmarkOpenVINO times ONNX models on the OpenVINO backend, process boundary included,
// beside OpenVINO's own Python package: same file, inputs, threads and precision, equal
// results. What differs is what Accel adds.
func BenchmarkOpenVINO(b *testing.B) {
	threads := runtime.NumCPU()
	b.Setenv("ACCEL_OPENVINO", testfiles.OpenVINO(b))
	var table []string
	logs, count := 0.0, 0
	for _, n := range networks {
		if !slices.Contains([]string{"ResNet-50", "ViT-B16", "BERT-base"}, n.name) {
			continue
		}
		for _, precision := range []string{"f32", "int8"} {
			b.Run(n.name+" "+precision, func(b *testing.B) {
				dir := n.folder(b)
				if precision == "int8" {
					dir = quantised(b, dir)
				}
				e := newEngine(b, b.TempDir(), func(c *config.Config) {
					c.Backends["openvino"] = config.Backend{Settings: map[string]any{"threads": threads}}
				})
				s, err := e.Open(dir, engine.SessionOptions{Preferred: "openvino", Policy: route.Deny})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { s.Close() })
				p := startPython(b, "openvino_model.py", filepath.Join(dir, graph.ModelFile), fmt.Sprint(threads))
				for _, batch := range n.batches {
					b.Run(fmt.Sprint("batch ", batch), func(b *testing.B) {
						ours, theirs, ratios := n.beside(b, s, p, dir, batch)
						ratio := median(ratios)
						b.ReportMetric(0, "ns/op")
						b.ReportMetric(median(ours)*1e3, "accel-ms")
						b.ReportMetric(median(theirs)*1e3, "python-ms")
						b.ReportMetric(ratio, "x-of-python")
						table = append(table, fmt.Sprintf("%-12s %-5s %5d %10.1f %10.1f %8.3f  (%.2f to %.2f)", n.name, precision, batch, median(ours)*1e3, median(theirs)*1e3, ratio, slices.Min(ratios), slices.Max(ratios)))
						logs += math.Log(ratio)
						count++
					})
				}
			})
		}
	}
	if count == 0 {
		b.Skip("no model was timed")
	}
	mean := math.Exp(logs / float64(count))
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(mean, "geomean-x-of-python")
	verdict := "reaches"
	if mean < overheadFloor {
		verdict = "misses"
	}
	fmt.Printf("\n%-12s %-5s %5s %10s %10s %8s  by round\n%s\ngeometric mean of throughput: %.3f of the Python package's, which %s %.2f; %d cases, %d threads\n\n",
		"model", "", "batch", "accel ms", "python ms", "ratio", strings.Join(table, "\n"), mean, verdict, overheadFloor, count, threads)
}

// quantised is a copy of a network's folder with matrices and convolutions of 8 bits,
// between QuantizeLinear and DequantizeLinear as exporters of quantised models write
// them. What its numbers mean is nobody's concern: scales are guessed.
func quantised(b *testing.B, dir string) string {
	b.Helper()
	to := dir + "-int8"
	if _, err := os.Stat(filepath.Join(to, graph.ModelFile)); err == nil {
		return to
	} else if !errors.Is(err, fs.ErrNotExist) {
		b.Fatal(err)
	}
	m, err := graph.Load(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	g := m.Graph
	weights := map[string]*graph.Initializer{}
	for _, in := range g.Initializers {
		weights[in.Name] = in
	}
	const activation = 6.0 / 127
	add := func(name string, t tensor.Tensor) string {
		if weights[name] == nil {
			weights[name] = &graph.Initializer{Name: name, Tensor: t}
			g.Initializers = append(g.Initializers, weights[name])
		}
		return name
	}
	scale := add("activation/scale", tensor.Floats(nil, activation))
	zero := add("activation/zero", tensor.Of(tensor.Int8, nil, []int8{0}))
	var nodes []*graph.Node
	done := map[string]bool{}
	op := func(kind, out string, in []string, attrs ...*graph.Attr) string {
		if !done[out] {
			done[out] = true
			nodes = append(nodes, &graph.Node{Name: out, OpType: kind, Inputs: in, Outputs: []string{out}, Attrs: attrs})
		}
		return out
	}
	for _, n := range g.Nodes {
		w := (*graph.Initializer)(nil)
		if len(n.Inputs) > 1 {
			w = weights[n.Inputs[1]]
		}
		axis := map[string]int{"Conv": 0, "MatMul": 1}[n.OpType]
		if w == nil || n.OpType != "Conv" && n.OpType != "MatMul" || len(w.Tensor.Shape) < 2 || w.Tensor.DType != tensor.Float32 {
			nodes = append(nodes, n)
			continue
		}
		codes, scales := eightBits(w.Tensor, axis)
		q := op("QuantizeLinear", n.Inputs[0]+"/q", []string{n.Inputs[0], scale, zero})
		n.Inputs[0] = op("DequantizeLinear", n.Inputs[0]+"/dq", []string{q, scale, zero})
		name := n.Inputs[1]
		n.Inputs[1] = op("DequantizeLinear", name+"/dq", []string{add(name+"/codes", codes), add(name+"/scales", scales)}, graph.IntAttr("axis", int64(axis)))
		nodes = append(nodes, n)
	}
	g.Nodes = nodes
	for _, in := range g.Initializers {
		in.External = nil
	}
	m.Prune()
	err = os.MkdirAll(to, 0o755)
	if err == nil {
		err = graph.Save(m, to, graph.SaveOptions{External: 1 << 16})
	}
	if err != nil {
		b.Fatal(err)
	}
	return to
}

// eightBits are a matrix's or convolution's weights in 8 bits, with a scale along an axis.
func eightBits(w tensor.Tensor, axis int) (codes, scales tensor.Tensor) {
	v := tensor.View[float32](w.Aligned())
	n := int(w.Shape[axis])
	inner := 1
	for _, d := range w.Shape[axis+1:] {
		inner *= int(d)
	}
	largest := make([]float32, n)
	for i, x := range v {
		c := i / inner % n
		largest[c] = max(largest[c], x, -x)
	}
	for c := range largest {
		largest[c] = max(largest[c], 1e-6) / 127
	}
	q := make([]int8, len(v))
	for i, x := range v {
		q[i] = int8(math.RoundToEven(float64(x / largest[i/inner%n])))
	}
	return tensor.Of(tensor.Int8, w.Shape, q), tensor.Floats(tensor.Shape{int64(n)}, largest...)
}
