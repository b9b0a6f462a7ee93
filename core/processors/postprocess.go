package processors

import "slices"

// token is a token of one text: its id and the characters of the text that it stands for.
type token struct {
	id, start, end int32
	edge           // zero if offsets are not trimmed
}

// edge is how many characters at the start and at the end of a token are white space.
type edge struct{ lead, trail int32 }

// slot is a place in the token sequence: a text's tokens, or one special token.
type slot struct {
	source int8 // 0 or 1: the text whose tokens stand here; Added: special token id
	id     int32
	typeID int64
}

// postProcessor says where special tokens go, for one text and for two, and what is in these places without special tokens.
type postProcessor struct {
	single, pair         []slot
	bareSingle, barePair []slot
	trim                 bool // leave white space at the ends of tokens out of the offsets
	prefixSpace          bool // the pre-tokenizer puts a space before the text, which has no place in it
}

// set makes single and pair the slots.
func (p *postProcessor) set(single, pair []slot) {
	isSpecial := func(s slot) bool { return s.source == Added }
	p.single, p.bareSingle = single, slices.DeleteFunc(slices.Clone(single), isSpecial)
	p.pair, p.barePair = pair, slices.DeleteFunc(slices.Clone(pair), isSpecial)
}

func (p *postProcessor) slots(pair, bare bool) []slot {
	switch {
	case pair && bare:
		return p.barePair
	case pair:
		return p.pair
	case bare:
		return p.bareSingle
	}
	return p.single
}

// special returns how many special tokens slots add.
func special(slots []slot) int {
	n := 0
	for _, s := range slots {
		if s.source == Added {
			n++
		}
	}
	return n
}

// trimOffsets leaves white space at the ends of tokens out of their offsets.
func (p *postProcessor) trimOffsets(tokens []token) {
	for i := range tokens {
		t := &tokens[i]
		// A single space at the start may be the one that was put there; several are the text's own.
		if first := i == 0 || t.start == 0; t.lead > 0 && !(t.lead == 1 && first && p.prefixSpace) {
			t.start = min(t.start+t.lead, t.end)
		}
		if t.trail > 0 && t.end >= t.trail {
			t.end = max(t.end-t.trail, t.start)
		}
	}
}
