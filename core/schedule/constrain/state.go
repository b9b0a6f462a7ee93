package constrain

import "slices"

// call is a value, or a member's name, that is being read. All that began it at the same byte
// share it: they go on, each in its way, once it ends.
type call struct {
	rule  int32
	depth int32 // arrays and objects open around it
	root  bool
	rest  int32 // distance from its end to the text's
	first config
	more  []config
}

// config is a place where a text may stand: a frame and what is open around it.
type config struct {
	frame
	in *call
}

// walker reads bytes from all places where a text may stand.
type walker struct {
	grammar *Grammar
	limit   int32    // how far from the end a token may lead
	most    int32    // how far one does
	passed  bool     // one would lead beyond the limit
	out     []config // places behind the byte
	done    bool     // the text may end behind it
	calls   []*call  // begun at it
	seen    map[config]struct{}

	scratch bool // calls are of the arena, for the time of one mask
	arena   []*call
	used    int
	levels  [][]config // places behind the bytes of a walk
	popped  []config
	others  []config
	a, b    []config // for Accept
}

// few places are compared one by one.
const few = 16

func (w *walker) begin(scratch bool) {
	w.out, w.done, w.calls, w.scratch = w.out[:0], false, w.calls[:0], scratch
	if len(w.seen) > 0 {
		clear(w.seen)
	}
}

func (w *walker) emit(f frame, in *call) {
	c := config{f, in}
	if len(w.out) < few {
		if slices.Contains(w.out, c) {
			return
		}
		w.out = append(w.out, c)
		return
	}
	if w.seen == nil {
		w.seen = map[config]struct{}{}
	}
	if len(w.seen) == 0 {
		for _, old := range w.out {
			w.seen[old] = struct{}{}
		}
	}
	if _, ok := w.seen[c]; !ok {
		w.seen[c] = struct{}{}
		w.out = append(w.out, c)
	}
}

// pop goes on behind a value that may end here.
func (w *walker) pop(in *call) {
	if in.root {
		w.done = true
		return
	}
	w.emit(in.first.frame, in.first.in)
	for _, c := range in.more {
		w.emit(c.frame, c.in)
	}
}

// call begins a value, behind which then stands in a call.
func (w *walker) call(rule int32, then frame, in *call, depth int32) {
	for _, c := range w.calls {
		if c.rule == rule {
			c.more = append(c.more, config{then, in})
			c.rest = min(c.rest, w.rest(then, in))
			return
		}
	}
	var c *call
	if w.scratch {
		if w.used == len(w.arena) {
			w.arena = append(w.arena, &call{})
		}
		c = w.arena[w.used]
		w.used++
		*c = call{more: c.more[:0]}
	} else {
		c = &call{}
	}
	c.rule, c.depth, c.rest, c.first = rule, depth, w.rest(then, in), config{then, in}
	w.calls = append(w.calls, c)
	w.start(rule, c)
}

func (w *walker) start(rule int32, c *call) {
	for _, s := range w.grammar.rules[rule].starts {
		if c.depth+s.need <= maxDepth {
			w.emit(s.frame, c)
		}
	}
}

// step reads a byte. dst becomes the places behind it.
func (w *walker) step(from, dst []config, b byte, scratch bool) []config {
	w.out = dst
	w.begin(scratch)
	for i := range from {
		w.grammar.machines[from[i].machine].step(w, from[i].frame, from[i].in, b)
	}
	return w.out
}

// rest is the distance from a place to the end of the text.
func (w *walker) rest(f frame, in *call) int32 {
	return plus(w.grammar.machines[f.machine].rest(w.grammar.vocabulary, f), in.rest)
}

// far is the distance from the nearest of the places; never: none leads to an end.
func (w *walker) far(places []config) int32 {
	if w.done {
		return 0
	}
	far := int32(never)
	for i := range places {
		far = min(far, w.rest(places[i].frame, places[i].in))
	}
	return far
}

// ends says whether a token may end here: the text can be finished from one of the places,
// within the limit.
func (w *walker) ends(places []config) bool {
	far := w.far(places)
	if far == never {
		return false
	}
	if far > w.limit {
		w.passed = true
		return false
	}
	w.most = max(w.most, far)
	return true
}

// walk allows tokens that go on from a node of the trie, from places behind it.
func (w *walker) walk(allowed []uint32, node int32, from []config, level int) {
	if level == len(w.levels) {
		w.levels = append(w.levels, nil)
	}
	v := w.grammar.vocabulary
	for n := node + 1; n < v.nodes[node].skip; n = v.nodes[n].skip {
		used := w.used
		to := w.step(from, w.levels[level], v.nodes[n].char, true)
		w.levels[level] = to
		if v.nodes[n].token < v.nodes[n+1].token && w.ends(to) {
			v.set(allowed, n)
		}
		if len(to) > 0 && v.nodes[n].skip > n+1 {
			w.walk(allowed, n, to, level+1)
		}
		w.used = used
	}
}

// state is where one text stands. It is the Constraint of a grammar.
type state struct {
	grammar *Grammar
	configs []config
	done    bool
	far     int32    // distance to the end
	mask    []uint32 // of this state, if masked
	masked  bool
	limit   int32 // that the mask was made with
	most    int32 // how far the tokens of the mask lead
	passed  bool  // others lead beyond the limit
}

func (t *state) Clone() Constraint {
	return &state{grammar: t.grammar, configs: slices.Clone(t.configs), done: t.done, far: t.far}
}

func (t *state) Accept(token int64) error {
	v := t.grammar.vocabulary
	if token < 0 || token >= int64(len(v.tokens)) || len(v.tokens[token]) == 0 {
		return &TokenError{Token: token}
	}
	w := t.grammar.walker()
	defer t.grammar.walkers.Put(w)
	from := t.configs
	for _, b := range v.tokens[token] {
		to := w.step(from, w.a, b, false)
		w.a, w.b = w.b, to
		from = to
	}
	far := w.far(from)
	if far == never {
		return &TokenError{Token: token, Text: v.tokens[token]}
	}
	t.masked = t.masked && t.done == w.done && slices.Equal(t.configs, from)
	t.done, t.far = w.done, far
	t.configs = append(t.configs[:0], from...)
	return nil
}

func (t *state) Mask(allowed []uint32, left int) {
	// The end token is one of those left, and so is the one that comes now.
	limit := int32(min(max(left-2, int(t.far)-1), never-1))
	if !t.masked || limit != t.limit && (t.passed || limit < t.most) {
		if t.mask == nil {
			t.mask = make([]uint32, (len(t.grammar.vocabulary.tokens)+31)/32)
		}
		t.work(limit)
		if t.passed && !slices.ContainsFunc(t.mask, func(word uint32) bool { return word != 0 }) {
			t.work(never - 1) // the short way needs more open brackets than there may be
		}
		t.masked, t.limit = true, limit
	}
	clear(allowed[copy(allowed, t.mask):])
}

// work makes the state's mask, of tokens that lead no farther than limit from the end.
func (t *state) work(limit int32) {
	v := t.grammar.vocabulary
	w := t.grammar.walker()
	defer t.grammar.walkers.Put(w)
	w.limit, w.most, w.passed = limit, 0, false
	clear(t.mask)
	if t.done {
		for _, id := range v.end {
			t.mask[id>>5] |= 1 << (id & 31)
		}
	}
	w.used = 0
	if len(w.levels) == 0 {
		w.levels = append(w.levels, nil)
	}
	others := w.others[:0]
	for _, c := range t.configs {
		m := t.grammar.machines[c.machine]
		within, farthest := false, int32(0) // the value; from its end, where tokens lead that don't leave it
		switch m := m.(type) {
		case *lexeme:
			within, farthest = true, m.farthest
		case stringMachine:
			within, farthest = c.kind != inQuote, plus(1, v.farBody, times(int64(c.a), v.perCharacter))
		}
		if !within {
			others = append(others, c)
			continue
		}
		made := v.lookup(m, c.frame)
		if room := limit - c.in.rest; room >= farthest {
			w.most = max(w.most, plus(farthest, c.in.rest))
			for i, word := range made.allowed {
				t.mask[i] |= word
			}
		} else if w.passed = true; room > 0 {
			v.walk(&mask{allowed: t.mask}, m, c.frame, room)
		}
		if len(made.exits) == 0 {
			continue
		}
		w.out = w.popped
		w.begin(true)
		w.pop(c.in)
		w.popped = w.out
		ends := w.ends(w.popped)
		for _, n := range made.exits {
			if ends {
				v.set(t.mask, n)
			}
			if len(w.popped) > 0 && v.nodes[n].skip > n+1 {
				w.walk(t.mask, n, w.popped, 0)
			}
		}
	}
	if w.others = others; len(others) > 0 {
		w.walk(t.mask, 0, others, 0)
	}
	t.most, t.passed = w.most, w.passed
}
