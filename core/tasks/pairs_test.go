package tasks

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestNearestPairs(t *testing.T) {
	vectors := [][]float32{{1, 0, 0, 0, 0}, {0, 2, 0, 0, 0}, {3, 0, 0, 0, 0}, {1, 1, 0, 0, 0}, {0, 0, 0, 0, 0}}
	got := NearestPairs(vectors, 3)
	want := []Pair{{0, 2, 1}, {0, 3, math.Sqrt(0.5)}, {1, 3, math.Sqrt(0.5)}}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i].A != want[i].A || got[i].B != want[i].B || math.Abs(got[i].Cosine-want[i].Cosine) > 1e-7 {
			t.Errorf("pair %d is %v, want %v", i, got[i], want[i])
		}
	}
	for _, x := range []struct{ vectors, n, want int }{{0, 5, 0}, {1, 5, 0}, {2, 5, 1}, {5, 100, 10}, {5, 0, 0}, {5, -1, 0}} {
		if got := NearestPairs(vectors[:x.vectors], x.n); len(got) != x.want {
			t.Errorf("%d of %d vectors: %v", x.n, x.vectors, got)
		}
	}
}

// However few are held at a time, the best must come out.
func TestNearestPairsAgainstSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	vectors := make([][]float32, 40)
	for i := range vectors {
		vectors[i] = []float32{float32(r.IntN(3)), float32(r.IntN(3)), float32(r.NormFloat64())}
	}
	all := NearestPairs(vectors, len(vectors)*len(vectors))
	if len(all) != 40*39/2 || !slices.IsSortedFunc(all, func(x, y Pair) int { return cmp.Compare(y.Cosine, x.Cosine) }) {
		t.Fatalf("%d pairs, or not sorted", len(all))
	}
	for _, n := range []int{1, 2, 7, 100} {
		if got := NearestPairs(vectors, n); !slices.Equal(got, all[:n]) {
			t.Errorf("the best %d are %v, want %v", n, got, all[:n])
		}
	}
}
