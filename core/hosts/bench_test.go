//go:build unix

package hosts

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// BenchmarkExecute is one run with 1 MiB in and 1 MiB out. The backend copies the
// one to the other, whose time boundary-us leaves out: it is what the process
// boundary costs.
//
//	go test -run '^$' -bench Execute ./core/hosts
func BenchmarkExecute(b *testing.B) {
	const elements = 1 << 18
	in := ramp(elements)
	g := &graph.Graph{
		Name:    "copy",
		Nodes:   []*graph.Node{{OpType: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}}},
		Inputs:  []*graph.Value{{Name: "x", Type: graph.TensorType(tensor.Float32, graph.Sym("n"))}},
		Outputs: []*graph.Value{{Name: "y", Type: graph.TensorType(tensor.Float32, graph.Sym("n"))}},
	}
	for _, c := range []struct {
		name    string
		regions Regions
		mapped  bool
	}{{"mapped", Regions{}, true}, {"copied", Regions{}, false}, {"messages", Regions{Disabled: true}, false}} {
		b.Run(c.name, func(b *testing.B) {
			m, err := New(Options{Path: []string{backends}, Regions: c.regions})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close(context.Background())
			if err := m.Start(context.Background()); err != nil {
				b.Fatal(err)
			}
			d, err := m.Device("simulation")
			if err != nil {
				b.Fatal(err)
			}
			x := compile(b, d, folder(b, g))
			lease, err := d.Lease(4 * elements)
			if err != nil {
				b.Fatal(err)
			}
			defer lease.Release()
			q := Request{Inputs: []Input{{Name: "x", Value: graph.TensorDatum(in)}}}
			if c.mapped {
				t, err := lease.Tensor(in.DType, in.Shape)
				if err != nil {
					b.Fatal(err)
				}
				copy(t.Data, in.Data)
				q.Inputs[0] = Input{Name: "x", Value: graph.TensorDatum(t), Lease: lease}
			}
			out := make([]byte, len(in.Data))
			ctx, cancel := context.WithCancel(context.Background()) // as a request has one
			defer cancel()
			var total, boundary []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				begun := time.Now()
				r, err := x.Do(ctx, q)
				if err != nil {
					b.Fatal(err)
				}
				if !c.mapped {
					copy(out, r.Outputs[0].Tensor.Data)
				}
				r.Release()
				took := time.Since(begun)
				total, boundary = append(total, took), append(boundary, took-r.Timings.Run)
			}
			b.ReportMetric(p50(total), "p50-us")
			b.ReportMetric(p50(boundary), "boundary-us")
		})
	}
}

func p50(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Nanoseconds()) / 1e3
}
