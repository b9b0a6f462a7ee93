package tasks

import (
	"cmp"
	"math"
	"slices"
)

// Pair is two inputs of a request and how alike their vectors are.
type Pair struct {
	A      int     `json:"a"` // A < B
	B      int     `json:"b"`
	Cosine float64 `json:"cosine"` // from -1 to 1; 0 where a vector is zero
}

// NearestPairs returns the n pairs of vectors with the largest cosine, largest
// first, and of equal ones those that come first. All vectors have the same length.
func NearestPairs(vectors [][]float32, n int) []Pair {
	if n <= 0 {
		return nil
	}
	norms := make([]float64, len(vectors))
	for i, v := range vectors {
		norms[i] = math.Sqrt(dot(v, v))
	}
	byCosine := func(x, y Pair) int {
		return cmp.Or(cmp.Compare(y.Cosine, x.Cosine), cmp.Compare(x.A, y.A), cmp.Compare(x.B, y.B))
	}
	// Sorted every n candidates, so that no more than 2n are held.
	var best []Pair
	worst := math.Inf(-1)
	for a := range vectors {
		for b := a + 1; b < len(vectors); b++ {
			p := Pair{A: a, B: b}
			if norm := norms[a] * norms[b]; norm > 0 {
				p.Cosine = dot(vectors[a], vectors[b]) / norm
			}
			if p.Cosine <= worst {
				continue
			}
			if best = append(best, p); len(best) >= 2*n {
				slices.SortFunc(best, byCosine)
				best = best[:n]
				worst = best[n-1].Cosine
			}
		}
	}
	slices.SortFunc(best, byCosine)
	return best[:min(n, len(best))]
}

func dot(a, b []float32) float64 {
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float64(a[0]) * float64(b[0])
		s1 += float64(a[1]) * float64(b[1])
		s2 += float64(a[2]) * float64(b[2])
		s3 += float64(a[3]) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i := range a {
		s0 += float64(a[i]) * float64(b[i])
	}
	return s0 + s1 + s2 + s3
}
