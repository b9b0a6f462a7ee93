package schedule

// history counts the tokens of one choice, for penalties.
type history struct {
	ids    []int32         // distinct ones, of prompt and output
	counts []int32         // how often each is in the output
	at     map[int32]int32 // where an id stands in them
}

func newHistory(prompt, output []int64) *history {
	h := &history{at: map[int32]int32{}}
	for _, id := range prompt {
		h.find(id)
	}
	for _, id := range output {
		h.add(id)
	}
	return h
}

func (h *history) find(id int64) int32 {
	i, there := h.at[int32(id)]
	if !there {
		i = int32(len(h.ids))
		h.at[int32(id)] = i
		h.ids, h.counts = append(h.ids, int32(id)), append(h.counts, 0)
	}
	return i
}

func (h *history) add(id int64) { h.counts[h.find(id)]++ }

// penalise changes the logits of what was said before.
func (h *history) penalise(logits []float32, s *Sampling) {
	repetition := float32(1)
	if s.RepetitionPenalty > 0 {
		repetition = float32(s.RepetitionPenalty)
	}
	presence, frequency := float32(s.PresencePenalty), float32(s.FrequencyPenalty)
	for i, id := range h.ids {
		v := logits[id]
		if v > 0 {
			v /= repetition
		} else {
			v *= repetition
		}
		if n := h.counts[i]; n > 0 {
			v -= presence + frequency*float32(n)
		}
		logits[id] = v
	}
}
