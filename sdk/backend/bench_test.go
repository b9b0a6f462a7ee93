package backend

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/region"
)

// BenchmarkTake measures what a run costs between receipt and answer, without the
// wire.
func BenchmarkTake(b *testing.B) {
	f := &fake{}
	s := newServer(f, hclog.NewNullLogger())
	d, epoch, err := s.device(b.Context(), "0")
	if err != nil {
		b.Fatal(err)
	}
	e := f.double()
	g, err := newSignature(e.info)
	if err != nil {
		b.Fatal(err)
	}
	exe, err := d.add(epoch, &object{kind: anExecutable, executable: e, signature: g})
	if err != nil {
		b.Fatal(err)
	}
	r, err := region.Create(4096)
	if err != nil {
		b.Fatal(err)
	}
	reg, err := d.add(epoch, &object{kind: aRegion, region: r, data: r.Bytes(), size: 4096, writable: true})
	if err != nil {
		b.Fatal(err)
	}
	answers := make(chan *backendv1.ExecuteResponse, 1)
	x := &stream{srv: s, ctx: b.Context(), dev: d, chunks: map[uint64]*chunks{}, open: map[uint64]*command{},
		send: func(r *backendv1.ExecuteResponse) error {
			answers <- r
			return nil
		}}
	q := &backendv1.ExecuteRequest{Command: &backendv1.ExecuteRequest_Run{Run: &backendv1.Run{
		Executable: exe,
		Inputs: []*backendv1.Binding{{Name: "x", ElementType: 1, Dims: []int64{16},
			Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: reg, Length: 64}}}},
		Outputs: []*backendv1.Binding{{Name: "y",
			Place: &backendv1.Binding_Region{Region: &backendv1.Slice{Id: reg, Offset: 64, Length: 64}}}},
	}}}
	b.ReportAllocs()
	for b.Loop() {
		q.Seq++
		x.dev.run(x.take(q))
		if r := <-answers; r.GetDone() == nil {
			b.Fatalf("answer %v", r)
		}
	}
	x.running.Wait()
	if err := s.end(); err != nil {
		b.Fatal(err)
	}
}
