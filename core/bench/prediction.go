package bench

import (
	"math"
	"runtime"
	"slices"
	"sync"
)

// prediction is what was predicted of some tokens, by which others are judged.
type prediction struct {
	v        int       // numbers of a row
	p        []float32 // probabilities
	constant []float64 // [n]: the sum of p * log p
}

// predict takes logits [n, v] with the room of an earlier prediction.
func (r *prediction) predict(logits []float32, v int) {
	n := len(logits) / v
	r.v = v
	r.p, r.constant = slices.Grow(r.p[:0], n*v)[:n*v], make([]float64, n)
	each(n, func(i int) {
		row, p := logits[i*v:(i+1)*v], r.p[i*v:(i+1)*v]
		norm := logSum(row)
		for j, x := range row {
			log := float64(x) - norm
			e := math.Exp(log)
			p[j] = float32(e)
			r.constant[i] += e * log
		}
	})
}

// logSum is the logarithm of the sum of exponentials.
func logSum(row []float32) float64 {
	most, sum := slices.Max(row), 0.0
	for _, x := range row {
		sum += math.Exp(float64(x - most))
	}
	return float64(most) + math.Log(sum)
}

// score is how well a text was predicted.
type score struct {
	loss, kl float64 // sums of cross entropies, and of divergences from the reference, in nats
	n        int
}

func (s *score) perplexity() float64 { return math.Exp(s.loss / float64(s.n)) }

// add counts the first rows of logits in, each with the token that came next.
func (s *score) add(reference *prediction, logits []float32, targets []int64) {
	rows := make([]score, len(targets))
	each(len(targets), func(i int) {
		row, p := logits[i*reference.v:(i+1)*reference.v], reference.p[i*reference.v:(i+1)*reference.v]
		norm, product := logSum(row), 0.0
		for j, x := range row {
			product += float64(p[j]) * (float64(x) - norm)
		}
		rows[i] = score{loss: norm - float64(row[targets[i]]), kl: reference.constant[i] - product}
	})
	for _, r := range rows {
		s.loss, s.kl, s.n = s.loss+r.loss, s.kl+r.kl, s.n+1
	}
}

// each does f for 0 to n-1 on all cores.
func each(n int, f func(i int)) {
	var work sync.WaitGroup
	threads := runtime.NumCPU()
	for w := range threads {
		work.Go(func() {
			for i := w; i < n; i += threads {
				f(i)
			}
		})
	}
	work.Wait()
}
