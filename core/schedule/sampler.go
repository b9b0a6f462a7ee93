package schedule

import (
	"cmp"
	"math"
	"slices"
)

// chooser is what decides one choice's next token beside the logits.
type chooser struct {
	sampling   *Sampling
	choice     int
	history    *history   // nil: no penalties
	constraint Constraint // nil: free
	rule       Rule       // nil: none
	allowed    []uint32   // of the constraint, for the next token
	masked     bool       // allowed is up to date
	limit      int        // tokens, prompt included; 0: any number
}

func newChooser(r *Request, choice int, vocabulary int) *chooser {
	c := &chooser{sampling: &r.Sampling, choice: choice}
	if r.Constraint != nil {
		c.constraint = r.Constraint()
		c.allowed = make([]uint32, (vocabulary+31)/32)
	}
	if r.Rule != nil {
		c.rule = r.Rule(choice)
	}
	if s := &r.Sampling; s.PresencePenalty != 0 || s.FrequencyPenalty != 0 || s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 {
		c.history = newHistory(r.Prompt, nil)
	}
	return c
}

// mask asks the constraint what may come at a position, unless it was asked already.
func (c *chooser) mask(position int) {
	if c.constraint == nil || c.masked {
		return
	}
	left := math.MaxInt
	if c.limit > 0 {
		left = c.limit - position
	}
	c.constraint.Mask(c.allowed, left)
	c.masked = true
}

// accept takes the token that was chosen. An end is not the constraint's business.
func (c *chooser) accept(id int64, end bool) error {
	if c.history != nil {
		c.history.add(id)
	}
	if c.rule != nil {
		c.rule.Accept(id)
	}
	if c.constraint == nil || end {
		return nil
	}
	c.masked = false
	if err := c.constraint.Accept(id); err != nil {
		return &ConstraintError{Choice: c.choice, Token: id, Err: err}
	}
	return nil
}

// sampler chooses tokens, one at a time. Its memory is used again.
type sampler struct {
	row    []float32 // logits after penalties, bias, constraint and rule
	sums   []float64 // of blocks of them
	ranker ranker
}

// choose chooses the token at a position. Logits are read only. The device is for errors.
func (m *sampler) choose(c *chooser, logits []float32, position int, device string) (Token, error) {
	greatest, at, bad := scan(logits)
	if bad >= 0 {
		return Token{}, &LogitsError{Device: device, Token: bad, Value: logits[bad]}
	}
	s := c.sampling
	row, top := logits, greatest
	if c.history != nil || len(s.LogitBias) > 0 || c.constraint != nil || c.rule != nil {
		row = m.adjust(c, logits, position)
		top, at, _ = scan(row)
	}
	if math.IsInf(float64(top), -1) {
		if c.constraint != nil {
			return Token{}, &ConstraintError{Choice: c.choice, Token: -1}
		}
		return Token{}, &LogitsError{Device: device, Token: at, Value: top}
	}
	id := at
	if s.Temperature > 0 {
		id = m.draw(s, row, top, uniform(s.Seed, c.choice, position))
	}
	token := Token{Choice: c.choice, ID: int64(id)}
	if s.Logprobs {
		m.explain(&token, logits, greatest, s.TopLogprobs)
	}
	return token, nil
}

// adjust returns the logits with penalties, bias and constraint applied.
func (m *sampler) adjust(c *chooser, logits []float32, position int) []float32 {
	m.row = append(m.row[:0], logits...)
	row := m.row
	if c.history != nil {
		c.history.penalise(row, c.sampling)
	}
	for id, bias := range c.sampling.LogitBias {
		row[id] += float32(bias)
	}
	if c.constraint != nil {
		m.allow(c, row, position)
	}
	if c.rule != nil {
		c.rule.Adjust(row)
	}
	return row
}

// allow leaves what the constraint allows.
func (m *sampler) allow(c *chooser, row []float32, position int) {
	c.mask(position)
	never := float32(math.Inf(-1))
	for w, word := range c.allowed {
		part := row[w*32 : min(w*32+32, len(row))]
		switch word {
		case 0:
			for i := range part {
				part[i] = never
			}
		case math.MaxUint32:
		default:
			for i := range part {
				if word>>i&1 == 0 {
					part[i] = never
				}
			}
		}
	}
}

// coldest is the 1 / temperature from which on sampling is greedy: beyond it, products overflow.
const coldest = 1e30

// draw returns a token by its probability among those that the filters leave: the
// one at which the part u of their weight is reached.
func (m *sampler) draw(s *Sampling, row []float32, greatest float32, u float64) int {
	inverse := float32(1 / s.Temperature)
	if s.TopK == 1 || inverse > coldest {
		return slices.Index(row, greatest)
	}
	var kept []candidate
	topP := s.TopP > 0 && s.TopP < 1
	switch {
	case s.TopK > 0 && s.TopK < len(row):
		kept = m.ranker.largest(row, s.TopK)
		if total := weigh(kept, greatest, inverse); topP {
			kept = kept[:prefix(kept, s.TopP*total)]
		}
	case topP:
		kept = m.ranker.heaviest(row, greatest, inverse, s.TopP)
	case s.MinP > 0:
		// A little more than is asked for, since rounding is different there.
		kept = m.ranker.atLeast(row, greatest+float32(s.Temperature*(math.Log(s.MinP)-1e-3)))
		weigh(kept, greatest, inverse)
	default:
		return m.drawOfAll(row, greatest, inverse, u)
	}
	total := 0.0
	n := 0
	for _, k := range kept {
		if k.weight > 0 && k.weight >= float32(s.MinP) {
			kept[n] = k
			n++
			total += float64(k.weight)
		}
	}
	u *= total
	for _, k := range kept[:n] {
		if u -= float64(k.weight); u < 0 {
			return int(k.id)
		}
	}
	// Rounding left a rest of u.
	return int(kept[n-1].id)
}

// drawOfAll draws where nothing narrows: it finds the block of logits in which u lies first.
func (m *sampler) drawOfAll(row []float32, greatest, inverse float32, u float64) int {
	const block = 256
	m.sums = m.sums[:0]
	total := 0.0
	for part := range slices.Chunk(row, block) {
		sum := mass(part, greatest, inverse)
		m.sums = append(m.sums, sum)
		total += sum
	}
	u *= total
	last := 0
	for b, sum := range m.sums {
		if u -= sum; u >= 0 && b+1 < len(m.sums) {
			continue
		}
		u += sum
		for i, v := range row[b*block : min((b+1)*block, len(row))] {
			if w := exp((v - greatest) * inverse); w > 0 {
				last = b*block + i
				if u -= float64(w); u < 0 {
					return last
				}
			}
		}
	}
	return last
}

// explain writes the model's own probabilities into a token.
func (m *sampler) explain(t *Token, logits []float32, greatest float32, top int) {
	norm := float64(greatest) + math.Log(mass(logits, greatest, 1))
	t.Logprob = float32(float64(logits[t.ID]) - norm)
	if top == 0 {
		return
	}
	best := m.ranker.largest(logits, min(top, len(logits)))
	slices.SortFunc(best, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.logit, a.logit), cmp.Compare(a.id, b.id)) })
	t.Top = make([]TokenLogprob, len(best))
	for i, c := range best {
		t.Top[i] = TokenLogprob{ID: int64(c.id), Logprob: float32(float64(c.logit) - norm)}
	}
}
