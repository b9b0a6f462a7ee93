package quantize

import "math"

// mixture chooses formats by what they cost and what they bring.
type mixture struct {
	items []*Item
	// ratio is what the loss of a whole model is of the sum that parts alone predict;
	// rounding with feedback brings it below 1.
	ratio float64
}

// First guesses of the ratio, before a result has been measured.
const (
	ratioFit        = 1
	ratioCalibrated = 0.35
)

// newMixture takes the measured parts: a matrix has its share of the loss of its part, and
// in another format as much of it as its weights are off by there.
func (d *dials) newMixture(method string) *mixture {
	m := &mixture{ratio: ratioFit}
	if method == Calibrated {
		m.ratio = ratioCalibrated
	}
	for _, part := range d.parts {
		var sum float64
		for _, it := range part.items {
			sum += it.costs[0]
		}
		for _, it := range part.items {
			it.losses = make([]float64, len(it.costs))
			for c, cost := range it.costs {
				if sum > 0 {
					it.losses[c] = part.loss * cost / sum
				}
			}
			m.items = append(m.items, it)
		}
	}
	return m
}

// predicted is the loss that the chosen formats should bring.
func (m *mixture) predicted() float64 {
	var sum float64
	for _, it := range m.items {
		sum += it.losses[it.chosen]
	}
	return sum * m.ratio
}

// solve gives more bits to where they bring most for a byte, from the formats with the
// fewest on, until the loss is small enough or there are no bytes left. It reports whether
// anything changed.
func (m *mixture) solve(p *Plan, maxLoss float64, maxBytes int64) bool {
	before := make([]int, len(m.items))
	for i, it := range m.items {
		before[i] = it.chosen
		it.chosen = 0
		p.give(it, p.choices(it)[0])
	}
	bytes := p.Size().Bytes
	for m.predicted() > maxLoss {
		var best *Item
		to, most := 0, 0.0
		for _, it := range m.items {
			now := it.Bytes()
			for c := it.chosen + 1; c < len(it.losses); c++ {
				trial := *it
				p.give(&trial, p.choices(it)[c])
				more := trial.Bytes() - now
				gain := it.losses[it.chosen] - it.losses[c]
				if more <= 0 || gain <= 0 || maxBytes > 0 && bytes+more > maxBytes {
					continue
				}
				if g := gain / float64(more); g > most {
					best, to, most = it, c, g
				}
			}
		}
		if best == nil {
			break
		}
		was := best.Bytes()
		best.chosen = to
		p.give(best, p.choices(best)[to])
		bytes += best.Bytes() - was
	}
	changed := false
	for i, it := range m.items {
		changed = changed || it.chosen != before[i]
	}
	return changed
}

// learn takes a measured loss for the ratio.
func (m *mixture) learn(measured float64) {
	if p := m.predicted(); p > 0 && measured > 0 && !math.IsInf(measured, 0) {
		m.ratio *= measured / p
	}
}

// maxBytes is what all weights may take: as asked for, or as the policy has it for each
// tensor's precision; 0: anything.
func (p *Plan) maxBytes() int64 {
	if p.options.MaxBytes > 0 {
		return p.options.MaxBytes
	}
	var sum float64
	for i := range p.Items {
		it := &p.Items[i]
		a, ok := p.policy.Accepted[it.precision]
		if !ok {
			if it.matrix != nil {
				return 0
			}
			a = p.accepts // goes with the others
		}
		sum += (1 - a.Smaller) * 2 * float64(it.Weights())
	}
	return int64(sum)
}
