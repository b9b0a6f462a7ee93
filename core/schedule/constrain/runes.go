package constrain

import (
	"slices"
	"unicode/utf8"
)

// byteWay is an edge of a runeSet. to < 0: the character is complete.
type byteWay struct {
	lo, hi byte
	to     int32
}

// runeSet is the automaton of one character of a set, as bytes within a JSON string.
type runeSet struct{ ways [][]byteWay } // by state, in order and without overlap

// anyCharacter takes every character.
var anyCharacter = newRuneSet([]rune{0, utf8.MaxRune})

// newRuneSet makes the automaton of ranges lo, hi, lo, hi..., in order and without overlap.
func newRuneSet(ranges []rune) *runeSet {
	s := &runeSet{ways: make([][]byteWay, 1)}
	for i := 0; i+1 < len(ranges); i += 2 {
		s.addRange(ranges[i], ranges[i+1])
	}
	for _, ways := range s.ways {
		slices.SortFunc(ways, func(a, b byteWay) int { return int(a.lo) - int(b.lo) })
	}
	return s
}

func (s *runeSet) addRange(lo, hi rune) {
	for ; lo <= hi && lo < 0x20; lo++ {
		s.addText(escape(lo))
	}
	for _, r := range `"\` {
		if lo <= r && r <= hi {
			s.addRange(lo, r-1)
			s.addText(escape(r))
			lo = r + 1
		}
	}
	const surrogate, afterSurrogates = 0xd800, 0xe000
	if lo < afterSurrogates && hi >= surrogate {
		s.addUTF8(lo, surrogate-1)
		lo = afterSurrogates
	}
	s.addUTF8(lo, hi)
}

// addUTF8 adds a range without escapes or surrogates: it is cut where the length changes, then until
// all but one byte of its ends agree or take every value.
func (s *runeSet) addUTF8(lo, hi rune) {
	if lo > hi {
		return
	}
	for _, last := range []rune{0x7f, 0x7ff, 0xffff} {
		if lo <= last && last < hi {
			s.addUTF8(lo, last)
			s.addUTF8(last+1, hi)
			return
		}
	}
	for bits := 6; bits < 6*utf8.RuneLen(hi); bits += 6 {
		low := rune(1)<<bits - 1
		if lo&^low == hi&^low {
			continue
		}
		if lo&low != 0 {
			s.addUTF8(lo, lo|low)
			s.addUTF8(lo|low+1, hi)
			return
		}
		if hi&low != low {
			s.addUTF8(lo, hi&^low-1)
			s.addUTF8(hi&^low, hi)
			return
		}
	}
	first, last := utf8.AppendRune(nil, lo), utf8.AppendRune(nil, hi)
	s.add(first, last)
}

func (s *runeSet) addText(text string) { s.add([]byte(text), []byte(text)) }

// add adds the texts whose every byte is between those of lo and hi. Of sets without
// overlap two that begin alike have the same range there.
func (s *runeSet) add(lo, hi []byte) {
	state := int32(0)
	for i := range lo {
		at := slices.IndexFunc(s.ways[state], func(w byteWay) bool { return w.lo == lo[i] && w.hi == hi[i] })
		if at < 0 {
			to := int32(-1)
			if i+1 < len(lo) {
				to = int32(len(s.ways))
				s.ways = append(s.ways, nil)
			}
			at = len(s.ways[state])
			s.ways[state] = append(s.ways[state], byteWay{lo[i], hi[i], to})
		}
		state = s.ways[state][at].to
	}
}
