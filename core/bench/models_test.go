package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

const (
	modelRounds  = 5
	modelSeconds = 0.6  // of ours in a round, about
	modelError   = 1e-4 // of the largest number in an output
)

// folder writes the network, once, and inputs for each batch, as ONNX's test
// folders have them: model.onnx and batch_B/input_I.pb.
func (n network) folder(b *testing.B) string {
	b.Helper()
	dir, err := filepath.Abs(filepath.Join(repository(), "build", "bench", "onnx", n.name))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, graph.ModelFile)); errors.Is(err, fs.ErrNotExist) {
		w := &net{Builder: graph.NewBuilder(n.name), rng: rand.New(rand.NewPCG(11, 12))}
		w.Import(graph.DomainONNX, 17)
		n.build(w)
		m, err := w.Model()
		if err == nil {
			m.IRVersion = 8
			err = graph.Save(m, dir, graph.SaveOptions{External: 1 << 16})
		}
		if err != nil {
			b.Fatal(err)
		}
	} else if err != nil {
		b.Fatal(err)
	}
	return dir
}

func (n network) feeds(b *testing.B, dir string, batch int64) (map[string]tensor.Tensor, string) {
	b.Helper()
	in := n.inputs(batch, rand.New(rand.NewPCG(21, uint64(batch))))
	data := filepath.Join(dir, fmt.Sprintf("batch_%d", batch))
	if err := os.MkdirAll(data, 0o755); err != nil {
		b.Fatal(err)
	}
	for i, name := range slices.Sorted(maps.Keys(in)) {
		pb, err := graph.AppendTensor(nil, name, in[name])
		if err == nil {
			err = os.WriteFile(filepath.Join(data, fmt.Sprintf("input_%d.pb", i)), pb, 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return in, data
}

// same compares our outputs with the peer's.
func same(b *testing.B, data string, count int, got map[string]graph.Datum) {
	b.Helper()
	for i := range count {
		pb, err := os.ReadFile(filepath.Join(data, fmt.Sprintf("peer_%d.pb", i)))
		if err != nil {
			b.Fatal(err)
		}
		name, want, err := graph.ParseTensor(pb)
		if err != nil {
			b.Fatal(err)
		}
		v, ok := got[name]
		g := v.Tensor
		if !ok || g.DType != tensor.Float32 || !g.Shape.Equal(want.Shape) {
			b.Fatalf("output %s is %s%v, the peer's %s%v", name, g.DType, g.Shape, want.DType, want.Shape)
		}
		worst, largest := 0.0, 0.0
		ours := tensor.View[float32](g.Aligned())
		for i, w := range tensor.View[float32](want.Aligned()) {
			largest = max(largest, math.Abs(float64(w)))
			if d := math.Abs(float64(ours[i] - w)); d > worst || math.IsNaN(d) {
				worst = d
			}
		}
		if !(worst <= modelError*largest) || largest == 0 {
			b.Fatalf("output %s is up to %.3g from the peer's, whose largest is %.3g; allowed are %g of it", name, worst, largest, modelError)
		}
		b.Logf("output %s: at most %.2g of its largest from the peer's", name, worst/largest)
	}
}

// beside runs the network on s and in the peer by turns, after it has held the outputs
// of one against the other's. It returns the seconds of each run, and by round how many
// times as fast ours was.
func (n network) beside(b *testing.B, s *engine.Session, p *peer, dir string, batch int64) (ours, theirs, ratios []float64) {
	b.Helper()
	in, data := n.feeds(b, dir, batch)
	outputs := int(p.ask(b, "open", data)[0])
	once := func() (float64, map[string]graph.Datum) {
		begin := time.Now()
		var d route.Decision
		out, err := s.Run(b.Context(), &d, graph.TensorData(in), s.Outputs())
		if err != nil {
			b.Fatal(err)
		}
		return time.Since(begin).Seconds(), out
	}
	_, out := once()
	same(b, data, outputs, out)
	took, _ := once()
	runs := min(30, max(2, int(modelSeconds/took)))
	p.ask(b, "run", 2)
	for range modelRounds {
		var mine []float64
		for range runs {
			took, _ := once()
			mine = append(mine, took)
		}
		other := p.ask(b, "run", runs)
		ours, theirs = append(ours, mine...), append(theirs, other...)
		ratios = append(ratios, median(other)/median(mine))
	}
	return ours, theirs, ratios
}

// BenchmarkModels times ONNX models of real sizes through the whole engine, process
// boundary included, beside ONNX Runtime in its own process: same file, same
// inputs, same threads, float32, equal results.
func BenchmarkModels(b *testing.B) {
	threads := runtime.NumCPU()
	var table []string
	logs, count := 0.0, 0
	for _, n := range networks {
		b.Run(n.name, func(b *testing.B) {
			dir := n.folder(b)
			e := newEngine(b, b.TempDir())
			s, err := e.Open(dir, engine.SessionOptions{Preferred: "cpu", Policy: route.Deny})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { s.Close() })
			p := startPython(b, "onnxruntime_model.py", filepath.Join(dir, graph.ModelFile), fmt.Sprint(threads))
			for _, batch := range n.batches {
				b.Run(fmt.Sprint("batch ", batch), func(b *testing.B) {
					ours, theirs, ratios := n.beside(b, s, p, dir, batch)
					ratio := median(ratios)
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(median(ours)*1e3, "accel-ms")
					b.ReportMetric(median(theirs)*1e3, "ort-ms")
					b.ReportMetric(ratio, "x-of-ort")
					table = append(table, fmt.Sprintf("%-22s %5d %10.1f %10.1f %8.2f  (%.2f to %.2f)", n.name, batch, median(ours)*1e3, median(theirs)*1e3, ratio, slices.Min(ratios), slices.Max(ratios)))
					logs += math.Log(ratio)
					count++
				})
			}
		})
	}
	if count == 0 {
		b.Skip("no model was timed")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(math.Exp(logs/float64(count)), "geomean-x-of-ort")
	fmt.Printf("\n%-22s %5s %10s %10s %8s  by round\n%s\ngeometric mean of throughput: %.2f of ONNX Runtime's, over %d cases, %d threads\n\n",
		"model", "batch", "accel ms", "ort ms", "ratio", strings.Join(table, "\n"), math.Exp(logs/float64(count)), count, threads)
}
