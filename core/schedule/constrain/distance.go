package constrain

import "slices"

// How far a text is from its end is counted in tokens of single bytes, and within constants and
// declared names, which are longest, in any. It is what a text surely needs no more than.

// plus adds distances; never stays never.
func plus(distances ...int32) int32 {
	sum := int64(0)
	for _, d := range distances {
		sum += int64(d)
	}
	return int32(min(sum, never))
}

// times is n times a distance.
func times(n int64, d int32) int32 {
	if n <= 0 {
		return 0
	}
	return int32(min(n*int64(d), never))
}

// distances are those from each state to an end, by at least one of the bytes of a set.
func (d *dfa) distances(spelled *[256]bool) []int32 {
	if d == nil {
		return nil
	}
	before := make([][]uint16, len(d.accept))
	rest := make([]int32, len(d.accept))
	var queue []uint16
	for s := range before {
		rest[s] = never
		seen := uint16(dead)
		for b := range 256 {
			t := d.next[s*d.classes+int(d.class[b])]
			if t == dead || !spelled[b] {
				continue
			}
			if d.accept[t] && rest[s] == never {
				rest[s] = 1
				queue = append(queue, uint16(s))
			}
			if t != seen {
				before[t] = append(before[t], uint16(s))
				seen = t
			}
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		for _, s := range before[queue[0]] {
			if rest[s] == never {
				rest[s] = rest[queue[0]] + 1
				queue = append(queue, s)
			}
		}
	}
	return rest
}

// shorten lowers an automaton's distances by longer tokens. It has to be one of literals,
// whose ways lead to states of higher numbers only.
func (v *Vocabulary) shorten(b *budget, d *dfa, rest []int32) error {
	states := make([]int32, v.long+1)
	for s := len(rest) - 1; s >= 0; s-- {
		if rest[s] == never {
			continue
		}
		states[0] = int32(s)
		visited := 0
		for n := int32(1); n < v.nodes[0].skip; visited++ {
			node := &v.nodes[n]
			to, ok := d.step(states[node.depth-1], node.char)
			if !ok {
				n = node.skip
				continue
			}
			states[node.depth] = to
			if v.nodes[n].token < v.nodes[n+1].token {
				if d.accept[to] {
					rest[s] = 1
				}
				rest[s] = min(rest[s], plus(1, rest[to]))
			}
			n++
		}
		if err := b.spend(visited / 4); err != nil {
			return err
		}
	}
	return nil
}

// cover says how many tokens it takes to write what is left of a text, from each place.
func (v *Vocabulary) cover(b *budget, text string) ([]int32, error) {
	rest := make([]int32, len(text)+1)
	for at := len(text) - 1; at >= 0; at-- {
		rest[at] = never
		visited := 0
		end := v.nodes[0].skip
		for n, to := v.first[text[at]], at; n < end && to < len(text); visited++ {
			node := &v.nodes[n]
			if node.char != text[to] {
				n = node.skip
				continue
			}
			to++
			if node.token < v.nodes[n+1].token {
				rest[at] = min(rest[at], plus(1, rest[to]))
			}
			end = node.skip
			n++
		}
		if err := b.spend(1 + visited/4); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// measure works out how far the ends of rules are from their beginnings.
func (c *compiler) measure() error {
	users := make([][]int32, len(c.rules))
	queue := make([]int32, 0, len(c.rules))
	queued := make([]bool, len(c.rules))
	for id := range c.rules {
		c.rules[id].rest = never
		queue, queued[id] = append(queue, int32(id)), true
		for _, s := range c.rules[id].starts {
			for _, n := range s.needs {
				users[n] = append(users[n], int32(id))
			}
		}
	}
	for ; len(queue) > 0; queue = queue[1:] {
		id := queue[0]
		queued[id] = false
		r := &c.rules[id]
		least := int32(never)
		for i := range r.starts {
			s := &r.starts[i]
			if s.need > maxDepth {
				continue
			}
			rest := s.own
			for _, n := range s.needs {
				rest = plus(rest, c.rules[n].rest)
			}
			if s.repeats > 0 {
				rest = plus(rest, times(s.repeats, c.rules[s.needs[len(s.needs)-1]].rest))
			}
			least = min(least, rest)
			if err := c.spend(1 + len(s.needs)); err != nil {
				return err
			}
		}
		if least < r.rest {
			r.rest = least
			for _, user := range users[id] {
				if !queued[user] {
					queue, queued[user] = append(queue, user), true
				}
			}
		}
	}
	return nil
}

func (m *lexeme) rest(_ *Vocabulary, f frame) int32 { return m.distance[f.kind] }

func (stringMachine) rest(v *Vocabulary, f frame) int32 {
	if !v.spelled['"'] {
		return never
	}
	characters := int64(f.a)
	switch f.kind {
	case inQuote:
		return plus(2, times(characters, v.perCharacter))
	case inBody:
		return plus(1, times(characters, v.perCharacter))
	}
	return plus(1, v.toBody[f.kind], times(characters-1, v.perCharacter))
}

// measure works out distances of an array once those of its items are known.
func (m *arrayMachine) measure() {
	m.sums = make([]int32, len(m.items)+1)
	for i := len(m.items) - 1; i >= 0; i-- {
		m.sums[i] = m.sums[i+1]
		if i < int(m.min) {
			m.sums[i] = plus(m.sums[i], 1, m.items[i].rest)
		}
	}
}

// after is the distance behind so many items.
func (m *arrayMachine) after(items int32) int32 {
	rest := plus(1, m.sums[min(int(items), len(m.items))])
	if more := int64(m.min) - int64(max(int(items), len(m.items))); more > 0 {
		rest = plus(rest, times(more, plus(1, m.items[len(m.items)-1].rest)))
	}
	return rest
}

func (m *arrayMachine) rest(v *Vocabulary, f frame) int32 {
	switch f.kind {
	case atStart:
		return 1 + m.afterOpen()
	case atOpen:
		return 1
	case atComma: // and a space, for items that come without one have begun
		if !v.spelled[' '] {
			return never
		}
		return plus(1, m.items[min(int(f.a), len(m.items)-1)].rest, m.after(f.a+1))
	}
	return m.after(f.a)
}

func (m *arrayMachine) afterOpen() int32 {
	if m.min == 0 {
		return 1
	}
	return m.after(0) - 1 // no comma before the first
}

// measure works out distances of an object once those of its members are known.
func (m *objectMachine) measure() {
	n := len(m.members)
	m.after, m.toName = make([]int32, n+1), make([]int32, n+1)
	m.after[n], m.toName[n] = 1, never
	for _, c := range m.classes {
		m.toName[n] = min(m.toName[n], plus(1, c.keyRest, 1, c.rest, 1))
	}
	for i := n - 1; i >= 0; i-- {
		p := &m.members[i]
		whole := plus(1, p.tail(0), 1, p.rest, m.after[i+1])
		switch w := int(m.wanted[i]); {
		case w == n:
			m.after[i], m.toName[i] = 1, min(m.toName[i+1], whole)
		case w == i:
			m.after[i], m.toName[i] = plus(1, whole), whole
		default:
			m.after[i], m.toName[i] = m.after[w], m.toName[w]
		}
	}
	m.best = make([][]int32, len(m.below))
	depth := make([]int32, len(m.below))
	for state, some := range m.below {
		for c := range m.names.classes {
			if to := m.names.next[state*m.names.classes+c]; to != dead {
				depth[to] = depth[state] + 1
			}
		}
		m.best[state] = make([]int32, len(some))
		for k := len(some) - 1; k >= 0; k-- {
			i := some[k]
			p := &m.members[i]
			best := plus(p.tail(int(depth[state])), 1, p.rest, m.after[i+1])
			if k+1 < len(some) && m.wanted[some[k+1]] == m.wanted[i] {
				best = min(best, m.best[state][k+1])
			}
			m.best[state][k] = best
		}
	}
}

func (m *objectMachine) rest(v *Vocabulary, f frame) int32 {
	switch f.kind {
	case atStart:
		return 1 + m.afterOpen()
	case atOpen:
		return m.afterOpen()
	case atComma, atSpaced:
		return m.toName[f.a]
	case atKey:
		return m.nearest(f.b, f.a)
	case atColon, atValue:
		rest, after := int32(0), int32(1)
		if int(f.a) < len(m.members) {
			rest, after = m.members[f.a].rest, m.after[f.a+1]
		} else {
			rest = m.classes[int(f.a)-len(m.members)].rest
		}
		if f.kind == atValue && !v.spelled[' '] { // values that come without one have begun
			return never
		}
		return plus(1, rest, after)
	}
	return m.after[f.a]
}

func (m *objectMachine) afterOpen() int32 {
	if int(m.wanted[0]) == len(m.members) {
		return 1
	}
	return m.toName[0]
}

// nearest is the distance within a declared name, for the nearest of the members from first on
// that go through a state of names.
func (m *objectMachine) nearest(state, first int32) int32 {
	some := m.below[state]
	k, _ := slices.BinarySearch(some, first)
	if k == len(some) || some[k] > m.wanted[first] {
		return never
	}
	return m.best[state][k]
}
