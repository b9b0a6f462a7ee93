package hosts

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// TestCutting leases and gives back at random and compares with a plain map of
// what is taken.
func TestCutting(t *testing.T) {
	const size = 64 * grain
	random := rand.New(rand.NewPCG(1, 2))
	a := &arena{limits: Regions{First: size, Limit: size}, total: size}
	r := &sharedRegion{bytes: make([]byte, size), free: []span{{0, size}}}
	a.regions = []*sharedRegion{r}
	var taken [size / grain]bool
	var held []*Lease
	for range 20000 {
		if random.IntN(2) == 0 {
			n := 1 + random.Int64N(8*grain)
			l := a.lease(n)
			if l == nil {
				continue
			}
			if int64(len(l.data)) != roundUp(n, grain) {
				t.Fatalf("%d bytes were leased as %d", n, len(l.data))
			}
			for p := l.from / grain; p < (l.from+int64(len(l.data)))/grain; p++ {
				if taken[p] {
					t.Fatalf("page %d was leased twice", p)
				}
				taken[p] = true
			}
			held = append(held, l)
		} else if len(held) > 0 {
			i := random.IntN(len(held))
			l := held[i]
			held = slices.Delete(held, i, i+1)
			for p := l.from / grain; p < (l.from+int64(len(l.data)))/grain; p++ {
				taken[p] = false
			}
			l.Release()
			l.Release() // once is enough
		}
		var free int64
		for i, f := range r.free {
			free += f.to - f.from
			if f.from >= f.to || i > 0 && r.free[i-1].to >= f.from {
				t.Fatalf("free spans %v", r.free)
			}
		}
		var want int64
		for _, p := range taken {
			if !p {
				want += grain
			}
		}
		if free != want {
			t.Fatalf("%d bytes are free, want %d", free, want)
		}
	}
	for _, l := range held {
		l.Release()
	}
	if !r.idle() {
		t.Errorf("free spans %v after all was given back", r.free)
	}
	if l := a.lease(size + 1); l != nil {
		t.Error("more than the limit was leased")
	}
	if l := a.lease(1<<63 - 1); l != nil {
		t.Error("the largest number was leased")
	}
}

func TestLeaseTensors(t *testing.T) {
	l := &Lease{data: make([]byte, 256)}
	l.held.Store(1)
	a, err := l.Tensor(tensor.Float32, tensor.Shape{5})
	if err != nil || len(a.Data) != 20 || cap(a.Data) != 20 {
		t.Fatalf("%v, %v", a, err)
	}
	b, err := l.Tensor(tensor.Int64, tensor.Shape{24})
	if at, ok := within(l.data, b.Data); err != nil || !ok || at != 64 {
		t.Fatalf("the second tensor lies at %d: %v", at, err)
	}
	if _, err := l.Tensor(tensor.Uint8, tensor.Shape{1}); err == nil {
		t.Error("a full lease gave more")
	}
	if _, ok := within(l.data, make([]byte, 8)); ok {
		t.Error("foreign memory lies within")
	}
	if _, ok := within(l.data[:16], l.data[8:24]); ok {
		t.Error("what juts out lies within")
	}
	l.Release()
}
