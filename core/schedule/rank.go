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

// steps is how finely logits are told apart before they are ranked: their
// distance to the greatest falls into one of them, the last of which is open.
const steps = 1024

// stepOf grows with the distance. The scale is steps / the distance that matters.
func stepOf(v, greatest, scale float32) int {
	return int(min((greatest-v)*scale, steps-1))
}

// ranker finds the largest of many logits without sorting them all. Its memory is
// used again.
type ranker struct {
	counts [steps]int32
	masses [steps]float64
	kept   []candidate
}

// largest returns the k first of the logits, in no order.
func (r *ranker) largest(logits []float32, greatest float32, k int) []candidate {
	// What is 32 below the greatest is seldom among the first few; if it is, the last step has many to rank.
	const scale = float32(steps) / 32
	clear(r.counts[:])
	for _, v := range logits {
		r.counts[stepOf(v, greatest, scale)]++
	}
	last, above := 0, 0
	for above+int(r.counts[last]) < k {
		above += int(r.counts[last])
		last++
	}
	r.gather(logits, greatest, scale, last)
	edge := r.edge(greatest, scale, last)
	for i := range edge {
		edge[i].weight = 1
	}
	n := prefix(edge, float64(k-above))
	return r.kept[:len(r.kept)-len(edge)+n]
}

// heaviest returns the fewest of the first logits that together have the part p of
// all weight, in no order.
func (r *ranker) heaviest(logits []float32, greatest, inverse float32, p float64) []candidate {
	// e^-32 is 1e-14: what lies beyond weighs less than rounding does.
	scale := inverse * steps / 32
	clear(r.masses[:])
	for _, v := range logits {
		r.masses[stepOf(v, greatest, scale)] += float64(exp((v - greatest) * inverse))
	}
	total := 0.0
	for _, m := range r.masses {
		total += m
	}
	last, above := 0, 0.0
	for last < steps-1 && above+r.masses[last] < p*total {
		above += r.masses[last]
		last++
	}
	r.gather(logits, greatest, scale, last)
	for i := range r.kept {
		r.kept[i].weight = exp((r.kept[i].logit - greatest) * inverse)
	}
	edge := r.edge(greatest, scale, last)
	n := prefix(edge, p*total-above)
	return r.kept[:len(r.kept)-len(edge)+n]
}

// gather keeps the logits up to a step.
func (r *ranker) gather(logits []float32, greatest, scale float32, last int) {
	r.kept = r.kept[:0]
	for i, v := range logits {
		if (greatest-v)*scale < float32(last+1) || last == steps-1 {
			r.kept = append(r.kept, candidate{id: int32(i), logit: v})
		}
	}
}

// edge moves those of the last step behind the others, and returns them.
func (r *ranker) edge(greatest, scale float32, last int) []candidate {
	n := 0
	for i, c := range r.kept {
		if stepOf(c.logit, greatest, scale) < last {
			r.kept[i], r.kept[n] = r.kept[n], c
			n++
		}
	}
	return r.kept[n:]
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

// exp is e^x for x <= 0, within 2e-7 of it; 0 from about -87 on. The polynomial
// is Taylor's, at most ln 2 / 2 from 0.
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
	exponent := math.Float32bits(n) << 23
	n -= rounds
	r := x - n*ln2Hi - n*ln2Lo
	p := 1 + r*(1+r*(1.0/2+r*(1.0/6+r*(1.0/24+r*(1.0/120+r*(1.0/720))))))
	return math.Float32frombits(math.Float32bits(p) + exponent)
}
