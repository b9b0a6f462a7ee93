package schedule

import "math"

// candidate is a token that may still be chosen.
type candidate struct {
	id     int32
	logit  float32
	weight float32 // e^((logit - greatest) / temperature)
}

// before is the order of candidates: likelier ones first, of equal ones the lower id.
func (a candidate) before(b candidate) bool {
	return a.logit > b.logit || a.logit == b.logit && a.id < b.id
}

// scan finds the greatest logit and where it first stands. bad is the first that is NaN
// or +Inf, or negative if none is.
func scan(logits []float32) (greatest float32, at, bad int) {
	greatest, at, bad = float32(math.Inf(-1)), 0, -1
	for i, v := range logits {
		if !(v <= greatest) {
			if !(v <= math.MaxFloat32) {
				return v, i, i
			}
			greatest, at = v, i
		}
	}
	return greatest, at, bad
}

// ranker finds the largest of many logits without sorting them all. Its memory is
// used again.
type ranker struct{ kept []candidate }

// largest returns the k first of the logits, in no order; fewer if others are -Inf.
// It gathers what may be among them, and throws away half whenever it has twice as many.
func (r *ranker) largest(logits []float32, k int) []candidate {
	kept, least := r.kept[:0], float32(math.Inf(-1))
	for i, v := range logits {
		if v > least {
			if kept = append(kept, candidate{id: int32(i), logit: v, weight: 1}); len(kept) == 2*k {
				kept = kept[:prefix(kept, float64(k))]
				least = kept[0].logit
				for _, c := range kept {
					least = min(least, c.logit)
				}
			}
		}
	}
	r.kept = kept
	return kept[:prefix(kept, float64(k))]
}

// heaviest returns the fewest of the first logits that together have the part p of
// all weight, in no order.
func (r *ranker) heaviest(logits []float32, greatest, inverse float32, p float64) []candidate {
	want := p * mass(logits, greatest, inverse)
	// They are few as a rule, whatever the vocabulary.
	for k := 64; ; k *= 16 {
		kept := r.largest(logits, min(k, len(logits)))
		if weigh(kept, greatest, inverse) >= want || k >= len(logits) {
			return kept[:prefix(kept, want)]
		}
	}
}

// atLeast returns the logits from a least one on.
func (r *ranker) atLeast(logits []float32, least float32) []candidate {
	r.kept = r.kept[:0]
	for i, v := range logits {
		if v >= least {
			r.kept = append(r.kept, candidate{id: int32(i), logit: v})
		}
	}
	return r.kept
}

// weigh gives candidates their weights, and returns the sum.
func weigh(c []candidate, greatest, inverse float32) float64 {
	sum := 0.0
	for i := range c {
		c[i].weight = exp((c[i].logit - greatest) * inverse)
		sum += float64(c[i].weight)
	}
	return sum
}

// mass is the sum of the logits' weights. Four sums, so that none waits for another.
func mass(logits []float32, greatest, inverse float32) float64 {
	var a, b, c, d float64
	for len(logits) >= 4 {
		a += float64(exp((logits[0] - greatest) * inverse))
		b += float64(exp((logits[1] - greatest) * inverse))
		c += float64(exp((logits[2] - greatest) * inverse))
		d += float64(exp((logits[3] - greatest) * inverse))
		logits = logits[4:]
	}
	for _, v := range logits {
		a += float64(exp((v - greatest) * inverse))
	}
	return a + b + c + d
}

// prefix moves the fewest of the first candidates that together weigh as much as is wanted to
// the front, in no order, and returns their number: at least 1 if there are any. Quickselect by weight.
func prefix(c []candidate, want float64) int {
	lo, hi := 0, len(c)
	for hi-lo > 1 {
		mid := lo + (hi-lo)/2
		if c[mid].before(c[lo]) {
			c[mid], c[lo] = c[lo], c[mid]
		}
		if c[hi-1].before(c[lo]) {
			c[hi-1], c[lo] = c[lo], c[hi-1]
		}
		if c[hi-1].before(c[mid]) {
			c[hi-1], c[mid] = c[mid], c[hi-1]
		}
		pivot := c[mid]
		c[mid], c[hi-1] = c[hi-1], c[mid]
		at, weight := lo, 0.0
		for i := lo; i < hi-1; i++ {
			if c[i].before(pivot) {
				weight += float64(c[i].weight)
				c[i], c[at] = c[at], c[i]
				at++
			}
		}
		c[hi-1], c[at] = c[at], c[hi-1]
		switch {
		case weight >= want:
			hi = at
		case weight+float64(pivot.weight) >= want:
			return at + 1
		default:
			want -= weight + float64(pivot.weight)
			lo = at + 1
		}
	}
	if lo < len(c) && lo < hi {
		return lo + 1
	}
	return max(lo, min(1, len(c)))
}

// exp is e^x for x <= 0, within 3e-7 of it; 0 from about -87 on. The polynomial
// goes through (e^r - 1) / r at the Chebyshev nodes of [-ln 2 / 2, ln 2 / 2]. It is small enough to be inlined.
func exp(x float32) float32 {
	const (
		log2e  = 1.44269504
		ln2Hi  = 0.693359375 // few bits, so that multiples are exact
		ln2Lo  = -2.12194440e-4
		rounds = 3 << 22 // added, it leaves a float's whole part in its low bits
	)
	if !(x > -87) {
		return 0
	}
	n := x*log2e + rounds
	r := x - (n-rounds)*ln2Hi - (n-rounds)*ln2Lo
	p := 1 + r*(1+r*(0.4999937+r*(0.16666577+r*(0.041876064+r*0.0083632329))))
	return math.Float32frombits(math.Float32bits(p) + math.Float32bits(n)<<23)
}

// LogSumExp is the natural logarithm of the sum of e^v, within 1e-6 of it; -Inf if there is
// nothing to add up. Taken from a logit it makes it a log-probability.
func LogSumExp(v []float32) float64 {
	most := float32(math.Inf(-1))
	for _, x := range v {
		if x > most {
			most = x
		}
	}
	if math.IsInf(float64(most), -1) {
		return float64(most)
	}
	var sum float64
	for len(v) > 0 {
		block := v[:min(len(v), 256)]
		v = v[len(block):]
		var part float32
		for _, x := range block {
			part += exp(x - most)
		}
		sum += float64(part)
	}
	return float64(most) + math.Log(sum)
}
