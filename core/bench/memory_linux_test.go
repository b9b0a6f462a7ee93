package bench

import (
	"testing"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// pss is resident of a process that is there.
func pss(b *testing.B, pid int) int64 {
	b.Helper()
	n, err := resident(pid)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkSharedWeights measures what a second backend process with the same
// model costs.
func BenchmarkSharedWeights(b *testing.B) {
	for _, m := range []struct {
		name string
		dir  func(*testing.B) string
	}{{"MiniLM-L6", minilm}, {"BERT-base", bertBase}} {
		b.Run(m.name, func(b *testing.B) {
			dir, cache := m.dir(b), b.TempDir()
			var pids []int
			load := func() {
				e := newEngine(b, cache)
				s, err := e.Open(dir, engine.SessionOptions{Component: models.Full, Preferred: "cpu", Policy: route.Deny})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { s.Close() })
				// Rows from all over the embeddings are read, so that they are mapped whole:
				// the kernel maps 64 KiB around each page that is touched.
				const every, batch = 16, 512
				for id := int64(0); id < s.Model.VocabSize; id += every * batch {
					ids := make([]int64, batch)
					for i := range ids {
						ids[i] = min(id+int64(i)*every, s.Model.VocabSize-1)
					}
					in := map[string]graph.Datum{"input_ids": graph.TensorDatum(tensor.Ints(tensor.Shape{4, batch / 4}, ids...))}
					if _, _, err := s.Infer(b.Context(), in, []string{"last_hidden_state"}); err != nil {
						b.Fatal(err)
					}
				}
				for _, h := range e.Hosts().Backends() {
					if h.Name == "cpu" {
						pids = append(pids, h.PID)
					}
				}
			}
			load()
			one := pss(b, pids[0])
			load()
			two := pss(b, pids[0]) + pss(b, pids[1])
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(one)/(1<<20), "one-MiB")
			b.ReportMetric(float64(two)/(1<<20), "two-MiB")
			b.ReportMetric(float64(two)/float64(one), "x-of-one")
		})
	}
}
