package constrain

import (
	"bytes"
	"container/list"
	"slices"
	"sync"
)

// maskBytes is what a vocabulary's remembered masks may take.
const maskBytes = 16 << 20

// Vocabulary is a model's tokens as a trie. It is made once a model, and serves any
// number of grammars and goroutines.
type Vocabulary struct {
	tokens [][]byte // by id; nil: never comes
	end    []int64
	nodes  []trieNode // in preorder; the first is the root, the last stands behind all
	order  []int32    // ids by the bytes of their tokens
	long   int        // the longest token's bytes

	first   [256]int32 // the node of each byte
	spelled [256]bool  // which bytes are tokens by themselves
	// How many of those it takes to finish a string's character, and to write a whole one; never: they can't.
	toBody       [stringKinds]int32
	perCharacter int32
	farBody      int32 // the most of toBody

	mu     sync.Mutex
	masks  map[maskKey]*list.Element // of *mask
	recent list.List                 // the latest used first
	bytes  int                       // of all masks
	room   int                       // for them

	body   sync.Once
	bodies bodies
}

// trieNode is a prefix of tokens.
type trieNode struct {
	skip  int32 // the node behind all that begin with it
	token int32 // into order: the first that begins with it. Those that are it go up to the next node's
	depth int32
	char  byte
}

// NewVocabulary takes the bytes that each token stands for, by id (nil or empty: the token
// never comes while output is constrained, as for special tokens), and the tokens that end a text.
func NewVocabulary(tokens [][]byte, end []int64) *Vocabulary {
	v := &Vocabulary{tokens: slices.Clone(tokens), end: slices.Clone(end), masks: map[maskKey]*list.Element{}, room: maskBytes}
	for _, e := range end {
		for e >= int64(len(v.tokens)) {
			v.tokens = append(v.tokens, nil)
		}
		v.tokens[e] = nil
	}
	for id, t := range v.tokens {
		if len(t) > 0 {
			v.order = append(v.order, int32(id))
			v.long = max(v.long, len(t))
		}
		if len(t) == 1 {
			v.spelled[t[0]] = true
		}
	}
	slices.SortFunc(v.order, func(a, b int32) int { return bytes.Compare(v.tokens[a], v.tokens[b]) })
	v.nodes = []trieNode{{}}
	var open []int32 // the nodes of the last token's bytes
	var last []byte
	closeTo := func(depth int) {
		for _, n := range open[depth:] {
			v.nodes[n].skip = int32(len(v.nodes))
		}
		open = open[:depth]
	}
	for i, id := range v.order {
		t := v.tokens[id]
		same := 0
		for same < min(len(t), len(last)) && t[same] == last[same] {
			same++
		}
		closeTo(same)
		for d := same; d < len(t); d++ {
			open = append(open, int32(len(v.nodes)))
			v.nodes = append(v.nodes, trieNode{token: int32(i), depth: int32(d + 1), char: t[d]})
		}
		last = t
	}
	closeTo(0)
	v.nodes[0].skip = int32(len(v.nodes))
	v.nodes = append(v.nodes, trieNode{token: int32(len(v.order))})
	for c := range v.first {
		v.first[c] = v.nodes[0].skip
	}
	for n := int32(1); n < v.nodes[0].skip; n = v.nodes[n].skip {
		v.first[v.nodes[n].char] = n
	}
	v.spellStrings()
	return v
}

// spellStrings finds out how strings can be written with tokens of single bytes.
func (v *Vocabulary) spellStrings() {
	for k := range v.toBody {
		v.toBody[k] = never
	}
	v.toBody[inBody], v.perCharacter = 0, never
	for changed := true; changed; {
		changed = false
		for k := range stringNext {
			least := &v.toBody[k]
			if k == inBody {
				least = &v.perCharacter
			}
			for c, to := range stringNext[k] {
				if to != noKind && v.spelled[c] && plus(1, v.toBody[to]) < *least {
					*least, changed = plus(1, v.toBody[to]), true
				}
			}
		}
	}
	for _, d := range v.toBody {
		if d < never {
			v.farBody = max(v.farBody, d)
		}
	}
}

// spells says whether all bytes of a text are tokens.
func (v *Vocabulary) spells(text string) bool {
	for _, c := range []byte(text) {
		if !v.spelled[c] {
			return false
		}
	}
	return true
}

// set allows the tokens that are exactly a node.
func (v *Vocabulary) set(allowed []uint32, node int32) {
	for _, id := range v.order[v.nodes[node].token:v.nodes[node+1].token] {
		allowed[id>>5] |= 1 << (id & 31)
	}
}

// maskKey is the state of an automaton. Strings have no dfa and are alike in all grammars.
type maskKey struct {
	lexeme *dfa
	frame  frame
}

// mask is what an automaton's state allows.
type mask struct {
	key     maskKey
	allowed []uint32 // tokens that don't leave it
	exits   []int32  // nodes of the trie behind which the value may have ended
}

// lookup returns a state's mask, remembered or made.
func (v *Vocabulary) lookup(m machine, f frame) *mask {
	var key maskKey
	lex, _ := m.(*lexeme)
	if lex != nil {
		key = maskKey{lex.dfa, frame{kind: f.kind}}
	} else {
		// What is beyond the longest token makes no difference.
		key.frame = frame{kind: f.kind, a: min(f.a, int32(v.long)), b: f.b}
		if int(f.b) > v.long {
			key.frame.b = -1
		}
	}
	v.mu.Lock()
	if e := v.masks[key]; e != nil {
		v.recent.MoveToFront(e)
		v.mu.Unlock()
		return e.Value.(*mask)
	}
	v.mu.Unlock()
	made := &mask{key: key, allowed: make([]uint32, (len(v.tokens)+31)/32)}
	if lex == nil && f.kind == inBody && v.perCharacter < never {
		v.bounded(made, key.frame)
	} else {
		v.walk(made, m, key.frame, anyRoom)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.masks[key] == nil {
		v.masks[key] = v.recent.PushFront(made)
		v.bytes += made.size()
		for v.bytes > v.room && v.recent.Len() > 1 {
			old := v.recent.Remove(v.recent.Back()).(*mask)
			delete(v.masks, old.key)
			v.bytes -= old.size()
		}
	}
	return made
}

func (m *mask) size() int { return 4*(len(m.allowed)+cap(m.exits)) + 200 }

// anyRoom is the room of tokens that may lead anywhere whence there is an end.
const anyRoom = never - 1

// walk makes the mask of a state, of tokens that lead no farther than room from the value's end.
func (v *Vocabulary) walk(out *mask, m machine, f frame, room int32) {
	if lex, ok := m.(*lexeme); ok {
		v.walkLexeme(out, lex, f.kind, room)
	} else {
		v.walkString(out, f, room, nil, nil)
	}
}

func (v *Vocabulary) walkLexeme(out *mask, m *lexeme, state, room int32) {
	states := make([]int32, v.long+1)
	states[0] = state
	for n := int32(1); n < v.nodes[0].skip; {
		node := &v.nodes[n]
		to, ok := m.dfa.step(states[node.depth-1], node.char)
		if !ok {
			n = node.skip
			continue
		}
		states[node.depth] = to
		if m.distance[to] <= room {
			v.set(out.allowed, n)
		}
		if m.accept[to] {
			out.exits = append(out.exits, n)
		}
		if n++; !m.more[to] {
			n = node.skip
		}
	}
}

// walkString makes the mask of a string's state. token, if any, is told of every node allowed
// how many characters it begins, exit of every exit how many came before.
func (v *Vocabulary) walkString(out *mask, f frame, room int32, token, exit func(n, characters int32)) {
	if !v.spelled['"'] {
		room = 0
	}
	kinds := make([]uint8, v.long+1)
	counts := make([]int32, v.long+1) // of characters completed
	kinds[0] = uint8(f.kind)
	for n := int32(1); n < v.nodes[0].skip; {
		node := &v.nodes[n]
		kind, count := kinds[node.depth-1], counts[node.depth-1]
		if kind == inBody {
			if node.char == '"' {
				if count >= f.a {
					out.exits = append(out.exits, n)
					if exit != nil {
						exit(n, count)
					}
				}
				n = node.skip
				continue
			}
			if f.b >= 0 && count >= f.b {
				n = node.skip
				continue
			}
		}
		to := stringNext[kind][node.char]
		if to == noKind {
			n = node.skip
			continue
		}
		begun := count + 1
		if to == inBody {
			count++
		}
		kinds[node.depth], counts[node.depth] = to, count
		if v.nodes[n].token < v.nodes[n+1].token && plus(1, v.toBody[to], times(int64(f.a-begun), v.perCharacter)) <= room {
			v.set(out.allowed, n)
			if token != nil {
				token(n, begun)
			}
		}
		n++
	}
}

// bodies is what may come within a string of any length. What a string with bounds allows
// is a part of it.
type bodies struct {
	mask
	tokens  [][]int32 // ids that are allowed, by how many characters they begin
	leaving []int32   // by exit: the characters before it
}

// bounded makes the mask of a string that wants f.a more characters and allows f.b. Without
// a character among the tokens of single bytes it has to be walked.
func (v *Vocabulary) bounded(out *mask, f frame) {
	all := &v.bodies
	v.body.Do(func() {
		all.allowed = make([]uint32, len(out.allowed))
		all.tokens = make([][]int32, v.long+1)
		v.walkString(&all.mask, frame{kind: inBody, b: -1}, anyRoom, func(n, characters int32) {
			all.tokens[characters] = append(all.tokens[characters], v.order[v.nodes[n].token:v.nodes[n+1].token]...)
		}, func(_, characters int32) { all.leaving = append(all.leaving, characters) })
	})
	most := int(f.b)
	if f.b < 0 {
		most = v.long
	}
	longer := 0
	for _, ids := range all.tokens[most+1:] {
		longer += len(ids)
	}
	if longer < len(v.order)/2 {
		copy(out.allowed, all.allowed)
		for _, ids := range all.tokens[most+1:] {
			for _, id := range ids {
				out.allowed[id>>5] &^= 1 << (id & 31)
			}
		}
	} else {
		for _, ids := range all.tokens[:most+1] {
			for _, id := range ids {
				out.allowed[id>>5] |= 1 << (id & 31)
			}
		}
	}
	for i, characters := range all.leaving {
		if characters >= f.a && int(characters) <= most {
			out.exits = append(out.exits, all.exits[i])
		}
	}
}
