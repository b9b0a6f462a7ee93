package backendtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
	"github.com/accelhq/accel/sdk/tensor"
)

// identity saves a graph that gives back n float32.
func identity(t testing.TB, n int64) string {
	t.Helper()
	b := graph.NewBuilder("identity")
	ty := graph.TensorType(tensor.Float32, graph.Known(n))
	b.Output("y", b.Op("Identity", []string{b.Input("x", ty)}), ty)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := graph.Save(m, dir, graph.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BenchmarkExecute measures what the process boundary costs: a run on 1 MiB in and
// 1 MiB out that lie in regions, whose backend does nothing.
func BenchmarkExecute(b *testing.B) {
	const bytes = 1 << 20
	ctx := b.Context()
	program := Build(b, "./faulty")
	for _, c := range []struct{ name, fault string }{
		{"fence", ""}, {"regions", "run_idle"}, {"regions, copied by the backend", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, err := Start(b, Target{Command: []string{program}, Env: []string{"ACCEL_FAULT=" + c.fault}})
			if err != nil {
				b.Fatal(err)
			}
			compile, err := p.RPC.Compile(ctx, &backendv1.CompileRequest{Device: "0", GraphDir: identity(b, bytes/4)})
			if err != nil {
				b.Fatal(err)
			}
			var exe *backendv1.Id
			for exe == nil {
				r, err := compile.Recv()
				if err != nil {
					b.Fatal(err)
				}
				exe = r.GetCompiled().GetExecutable()
			}
			mapRegion := func() *backendv1.Id {
				r, err := region.Create(bytes)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { r.Close() })
				clear(r.Bytes())
				m, err := p.RPC.Map(ctx, &backendv1.MapRequest{
					Device: "0", Locator: r.Locator(), Length: bytes, Mode: backendv1.MapMode_MAP_MODE_READ_WRITE,
				})
				if err != nil {
					b.Fatal(err)
				}
				return m.GetRegion()
			}
			in, out := mapRegion(), mapRegion()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			x, err := p.RPC.Execute(ctx)
			if err != nil {
				b.Fatal(err)
			}
			seq := uint64(0)
			do := func(q *backendv1.ExecuteRequest) {
				seq++
				q.Seq = seq
				if err := x.Send(q); err != nil {
					b.Fatal(err)
				}
				r, err := x.Recv()
				if err != nil {
					b.Fatal(err)
				}
				if r.GetDone() == nil || r.GetSeq() != seq {
					b.Fatalf("answer %v", r)
				}
			}
			do(&backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Open{Open: &backendv1.Open{Device: "0"}}})
			q := &backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{
				Executable: exe,
				Inputs: []*backendv1.Binding{{Name: "x", ElementType: 1, Dims: []int64{bytes / 4},
					Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: in, Length: bytes}}}},
				Outputs: []*backendv1.Binding{{Name: "y",
					Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: out, Length: bytes}}}},
			}}}
			if c.name == "fence" {
				q = &backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Fence{}}
			}
			for range 200 {
				do(q)
			}
			times := make([]time.Duration, 0, b.N)
			for b.Loop() {
				start := time.Now()
				do(q)
				times = append(times, time.Since(start))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "p50-us")
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, "p99-us")
		})
	}
}
