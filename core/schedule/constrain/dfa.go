package constrain

import (
	"math"
	"slices"
)

// dfa is a deterministic automaton over bytes. Every state can be reached from state 0
// and can reach an end. nil is the automaton of no text.
type dfa struct {
	class   [256]uint8
	classes int
	next    []uint16 // [states, classes]; dead: no way
	accept  []bool   // the text may end here
	more    []bool   // it may go on from here
}

const dead = math.MaxUint16

func (d *dfa) step(state int32, b byte) (int32, bool) {
	next := d.next[int(state)*d.classes+int(d.class[b])]
	return int32(next), next != dead
}

// matches says whether the automaton takes the whole text.
func (d *dfa) matches(text []byte) bool {
	if d == nil {
		return false
	}
	state, ok := int32(0), true
	for _, b := range text {
		if state, ok = d.step(state, b); !ok {
			return false
		}
	}
	return d.accept[state]
}

// reaching marks the states from which an end is reached, given the states before each.
func reaching(ends []bool, before [][]uint16) []bool {
	reached := slices.Clone(ends)
	var queue []uint16
	for s, end := range ends {
		if end {
			queue = append(queue, uint16(s))
		}
	}
	for len(queue) > 0 {
		t := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, s := range before[t] {
			if !reached[s] {
				reached[s] = true
				queue = append(queue, s)
			}
		}
	}
	return reached
}

type edge struct {
	lo, hi byte
	to     uint16
}

// explore makes an automaton of states of any kind: row gives a state's ways, in order
// and without overlap; accept says where a text may end.
func explore[S comparable](b *budget, start S, row func(s S, way func(lo, hi byte, to S)) error, accept func(S) bool) (*dfa, error) {
	ids := map[S]uint16{start: 0}
	states := []S{start}
	var rows [][]edge
	for at := 0; at < len(states); at++ {
		var edges []edge
		err := row(states[at], func(lo, hi byte, to S) {
			id, ok := ids[to]
			if !ok {
				if len(states) >= dead {
					return
				}
				id = uint16(len(states))
				ids[to] = id
				states = append(states, to)
			}
			if n := len(edges); n > 0 && edges[n-1].to == id && edges[n-1].hi+1 == lo {
				edges[n-1].hi = hi
			} else {
				edges = append(edges, edge{lo, hi, id})
			}
		})
		if err != nil {
			return nil, err
		}
		if b.states -= 1; b.states < 0 || len(states) >= dead {
			return nil, errTooComplex
		}
		if err := b.spend(64); err != nil {
			return nil, err
		}
		rows = append(rows, edges)
	}
	ends := make([]bool, len(states))
	for i, s := range states {
		ends[i] = accept(s)
	}
	return trim(rows, ends), nil
}

// trim leaves out states from which there is no end, and packs the table.
func trim(rows [][]edge, ends []bool) *dfa {
	before := make([][]uint16, len(rows))
	for s, edges := range rows {
		for _, e := range edges {
			before[e.to] = append(before[e.to], uint16(s))
		}
	}
	useful := reaching(ends, before)
	if !useful[0] {
		return nil
	}
	d := &dfa{}
	var cut [257]bool
	ids := make([]uint16, len(rows))
	for s, edges := range rows {
		if !useful[s] {
			continue
		}
		ids[s] = uint16(len(d.accept))
		d.accept = append(d.accept, ends[s])
		more := false
		for _, e := range edges {
			if useful[e.to] {
				cut[e.lo], cut[int(e.hi)+1], more = true, true, true
			}
		}
		d.more = append(d.more, more)
	}
	for b := range 256 {
		if b > 0 && cut[b] {
			d.classes++
		}
		d.class[b] = uint8(d.classes)
	}
	d.classes++
	d.next = make([]uint16, len(d.accept)*d.classes)
	for i := range d.next {
		d.next[i] = dead
	}
	for s, edges := range rows {
		if !useful[s] {
			continue
		}
		base := int(ids[s]) * d.classes
		for _, e := range edges {
			if useful[e.to] {
				for c := int(d.class[e.lo]); c <= int(d.class[e.hi]); c++ {
					d.next[base+c] = ids[e.to]
				}
			}
		}
	}
	return d
}

// literals is the automaton of some texts.
func literals(b *budget, texts []string) (*dfa, error) {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if len(texts) == 0 {
		return nil, nil
	}
	type place struct{ lo, hi, at int } // texts[lo:hi] agree before at
	row := func(p place, way func(lo, hi byte, to place)) error {
		lo := p.lo
		if len(texts[lo]) == p.at {
			lo++
		}
		for lo < p.hi {
			c := texts[lo][p.at]
			hi := lo + 1
			for hi < p.hi && texts[hi][p.at] == c {
				hi++
			}
			way(c, c, place{lo, hi, p.at + 1})
			lo = hi
		}
		return b.spend(p.hi - p.lo)
	}
	return explore(b, place{0, len(texts), 0}, row, func(p place) bool { return len(texts[p.lo]) == p.at })
}

const maxConjuncts = 7

// characters is the automaton of the inside of JSON strings, closing quote included, in the
// form appendCharacters writes: those that all of include take and none of exclude does, of
// minimum to maximum characters (maximum < 0: any). opened: the opening quote was read before.
func characters(b *budget, include, exclude []*dfa, minimum, maximum int64, opened bool) (*dfa, error) {
	if slices.Contains(include, nil) {
		return nil, nil
	}
	exclude = slices.DeleteFunc(slices.Clone(exclude), func(d *dfa) bool { return d == nil })
	parts := slices.Concat(include, exclude)
	if len(parts) > maxConjuncts {
		return nil, errTooComplex
	}
	const (
		before = iota
		inside
		after
	)
	type place struct {
		phase  uint8
		states [maxConjuncts]int32 // -1: an excluded one that failed
		within int32               // of one character
		count  int64
	}
	most := max(minimum, maximum)
	if maximum >= 0 && minimum > maximum {
		return nil, nil
	}
	row := func(p place, way func(lo, hi byte, to place)) error {
		switch p.phase {
		case before:
			way('"', '"', place{phase: inside})
			return nil
		case after:
			return nil
		}
		closing := p.within == 0 && p.count >= minimum
		for i, d := range parts {
			closing = closing && (p.states[i] >= 0 && d.accept[p.states[i]]) == (i < len(include))
		}
		for _, e := range anyCharacter.ways[p.within] {
			if p.within == 0 && closing && e.lo > '"' {
				way('"', '"', place{phase: after})
				closing = false
			}
			if p.within == 0 && maximum >= 0 && p.count >= maximum {
				continue
			}
		bytes:
			for c := int(e.lo); c <= int(e.hi); c++ {
				to := place{phase: inside, within: e.to, count: p.count}
				if to.within < 0 {
					to.within = 0
					to.count = min(p.count+1, max(most, 0))
				}
				for i, d := range parts {
					to.states[i] = -1
					if p.states[i] >= 0 {
						if s, ok := d.step(p.states[i], byte(c)); ok {
							to.states[i] = s
						}
					}
					if to.states[i] < 0 && i < len(include) {
						continue bytes
					}
				}
				way(byte(c), byte(c), to)
			}
		}
		return b.spend(256 * (1 + len(parts)))
	}
	start := place{phase: before}
	if opened {
		start.phase = inside
	}
	return explore(b, start, row, func(p place) bool { return p.phase == after })
}
