//go:build linux

package hosts

import (
	"context"
	"slices"
	"syscall"
	"testing"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// TestOutputsAreReadWhereTheyLie: what one backend wrote into shared memory another
// reads there, and both go on when either dies.
func TestOutputsAreReadWhereTheyLie(t *testing.T) {
	pass := func(x *Executable, in Input) *Result {
		t.Helper()
		r, err := x.Do(t.Context(), Request{Inputs: []Input{in}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	_, first := started(t, Options{})
	dir, big := identity(t), ramp(1<<16)
	a := compile(t, first, dir)
	pass(a, Input{Name: "x", Value: graph.TensorDatum(big)}).Release() // what it keeps is there before the other is watched for leaks
	second, other := started(t, Options{})
	b := compile(t, other, dir)
	for range 3 {
		r := pass(a, Input{Name: "x", Value: graph.TensorDatum(big)})
		lease := r.Lease(0)
		if lease == nil {
			t.Fatal("a large output lies in no lease")
		}
		s := pass(b, Input{Name: "x", Value: r.Outputs[0], Lease: lease})
		if got := s.Outputs[0].Tensor; !got.Shape.Equal(big.Shape) || !slices.Equal(got.Data, big.Data) {
			t.Error("the other backend read something else")
		}
		if n := len(lease.region.visits); n != 1 || lease.region.visits[b.session] == nil {
			t.Errorf("the region has %d visitors", n)
		}
		if total := b.session.arena.total; total != b.session.arena.limits.First {
			t.Errorf("the other backend's own memory grew to %d", total)
		}
		s.Release()
		r.Release()
	}

	// What is small, or not in a lease, travels as ever.
	small := pass(a, Input{Name: "x", Value: graph.TensorDatum(tensor.Floats(tensor.Shape{2}, 1, 2))})
	if small.Lease(0) != nil {
		t.Error("an output inside the message lies in a lease")
	}
	small.Release()

	// The visitor dies: its next life maps the region anew.
	r := pass(a, Input{Name: "x", Value: graph.TensorDatum(big)})
	defer r.Release()
	pid := second.Backends()[0].PID
	syscall.Kill(pid, syscall.SIGKILL)
	until(t, second, "faulty", func(s BackendStatus) bool { return healthy(s) && s.PID != pid })
	c := compile(t, other, dir)
	s := pass(c, Input{Name: "x", Value: r.Outputs[0], Lease: r.Lease(0)})
	if got := s.Outputs[0].Tensor; !slices.Equal(got.Data, big.Data) {
		t.Error("the other backend's next life read something else")
	}
	if n := len(r.Lease(0).region.visits); n != 1 {
		t.Errorf("the region has %d visitors, one of them dead", n)
	}
	s.Release()
}

// BenchmarkPass is 1 MiB from one backend to another through this process: read
// where it lies, or copied out and in. Both backends copy it once more.
//
//	go test -run '^$' -bench Pass ./core/hosts
func BenchmarkPass(b *testing.B) {
	var ends [2]*Executable
	dir := folder(b, &graph.Graph{
		Name:    "copy",
		Nodes:   []*graph.Node{{OpType: "Identity", Inputs: []string{"x"}, Outputs: []string{"y"}}},
		Inputs:  []*graph.Value{{Name: "x", Type: graph.TensorType(tensor.Float32, graph.Sym("n"))}},
		Outputs: []*graph.Value{{Name: "y", Type: graph.TensorType(tensor.Float32, graph.Sym("n"))}},
	})
	for i := range ends {
		m, err := New(Options{Path: []string{backends}})
		if err != nil {
			b.Fatal(err)
		}
		defer m.Close(context.Background())
		if err := m.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		d, err := m.Device("simulation")
		if err != nil {
			b.Fatal(err)
		}
		ends[i] = compile(b, d, dir)
	}
	big := graph.TensorDatum(ramp(1 << 18))
	for _, mapped := range []bool{true, false} {
		b.Run(map[bool]string{true: "mapped", false: "copied"}[mapped], func(b *testing.B) {
			for b.Loop() {
				r, err := ends[0].Do(b.Context(), Request{Inputs: []Input{{Name: "x", Value: big}}})
				if err != nil {
					b.Fatal(err)
				}
				in := Input{Name: "x", Value: r.Outputs[0], Lease: r.Lease(0)}
				if !mapped {
					t, err := tensor.New(in.Value.Tensor.DType, in.Value.Tensor.Shape)
					if err != nil {
						b.Fatal(err)
					}
					copy(t.Data, in.Value.Tensor.Data)
					in.Value, in.Lease = graph.TensorDatum(t), nil
				}
				s, err := ends[1].Do(b.Context(), Request{Inputs: []Input{in}})
				if err != nil {
					b.Fatal(err)
				}
				s.Release()
				r.Release()
			}
		})
	}
}
