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

// BenchmarkExecute measures what the process boundary costs: a fence, which is
// nothing but the way there and back; a run on 1 MiB in and 1 MiB out that lie in
// regions, by a backend that leaves them as they are; one that copies them; and
// one whose tensors travel inside the messages.
func BenchmarkExecute(b *testing.B) {
	const bytes = 1 << 20
	program := faulty(b)
	like := tensor.Tensor{DType: tensor.Float32, Shape: tensor.Shape{bytes / 4}}
	for _, c := range []struct {
		name, fault string
		request     func(exe, in, out *backendv1.Id) *backendv1.ExecuteRequest
	}{
		{"fence", "", func(_, _, _ *backendv1.Id) *backendv1.ExecuteRequest {
			return &backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Fence{}}
		}},
		{"regions", "run_idle", runRequest(func(in, out *backendv1.Id) (x, y *backendv1.Binding) {
			return typed(regionAt("x", in, 0, bytes), like), regionAt("y", out, 0, bytes)
		})},
		{"regions, copied by the backend", "", runRequest(func(in, out *backendv1.Id) (x, y *backendv1.Binding) {
			return typed(regionAt("x", in, 0, bytes), like), regionAt("y", out, 0, bytes)
		})},
		{"inline", "", runRequest(func(in, out *backendv1.Id) (x, y *backendv1.Binding) {
			return typed(&backendv1.Binding{Name: "x", Place: &backendv1.Binding_Inline{Inline: make([]byte, bytes)}}, like), inlineOut("y")
		})},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, err := Start(b, Target{Command: []string{program}, Env: []string{"ACCEL_FAULT=" + c.fault}})
			if err != nil {
				b.Fatal(err)
			}
			exe := benchCompile(b, p, identity(b, bytes/4))
			q := c.request(exe, benchMap(b, p, bytes), benchMap(b, p, bytes))
			ctx, cancel := context.WithCancel(b.Context())
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

func runRequest(places func(in, out *backendv1.Id) (x, y *backendv1.Binding)) func(exe, in, out *backendv1.Id) *backendv1.ExecuteRequest {
	return func(exe, in, out *backendv1.Id) *backendv1.ExecuteRequest {
		x, y := places(in, out)
		return &backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Run{
			Run: &backendv1.Run{Executable: exe, Inputs: bind(x), Outputs: bind(y)},
		}}
	}
}

func benchCompile(b *testing.B, p *Process, dir string) *backendv1.Id {
	b.Helper()
	s, err := p.RPC.Compile(b.Context(), &backendv1.CompileRequest{Device: "0", GraphDir: dir})
	if err != nil {
		b.Fatal(err)
	}
	for {
		r, err := s.Recv()
		if err != nil {
			b.Fatal(err)
		}
		if c := r.GetCompiled(); c != nil {
			return c.GetExecutable()
		}
	}
}

func benchMap(b *testing.B, p *Process, bytes int64) *backendv1.Id {
	b.Helper()
	r, err := region.Create(bytes)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	clear(r.Bytes()) // so that its pages are there
	m, err := p.RPC.Map(b.Context(), &backendv1.MapRequest{
		Device: "0", Locator: r.Locator(), Length: uint64(bytes), Mode: readWrite,
	})
	if err != nil {
		b.Fatal(err)
	}
	return m.GetRegion()
}
