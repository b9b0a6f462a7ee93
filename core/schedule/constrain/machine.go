package constrain

import (
	"math"
	"slices"
)

// maxDepth is how many arrays and objects may be open.
const maxDepth = 64

// frame is where a machine stands.
type frame struct{ machine, kind, a, b int32 }

// machine reads one kind of value.
type machine interface {
	// step reads a byte and tells w where that leads.
	step(w *walker, f frame, in *call, c byte)
	// rest is the distance from here to the end of the value; never: it can't be finished.
	rest(v *Vocabulary, f frame) int32
}

// rule is a value, or the name of a member.
type rule struct {
	starts []start
	need   int32 // arrays and objects that must be opened, at least; never: impossible
	rest   int32 // distance to its end
}

const never = math.MaxInt32 / 2

// start is a way to begin a rule.
type start struct {
	frame     frame
	container bool
	spelled   bool    // tokens of single bytes have its own bytes
	needs     []int32 // rules of values that it can't do without
	repeats   int64   // more values of the last of them
	need      int32   // as a rule's
	own       int32   // the distance that is not of those values
}

// lexeme reads what an automaton takes. kind is its state.
type lexeme struct {
	*dfa
	distance []int32 // by state
	farthest int32   // of those from which there is an end
}

func (m *lexeme) step(w *walker, f frame, in *call, c byte) {
	to, ok := m.dfa.step(f.kind, c)
	if !ok {
		return
	}
	if m.accept[to] {
		w.pop(in)
	}
	if m.more[to] {
		f.kind = to
		w.emit(f, in)
	}
}

// stringMachine reads any string in any of JSON's forms. a is how many characters are
// still wanted, b how many are still allowed (< 0: any).
type stringMachine struct{}

// stringMachineID is its number in every grammar.
const stringMachineID = 0

// What a string's frame waits for.
const (
	inQuote = iota // the opening quote
	inBody
	inEscape
	inHex // four digits: 1, 2, 3 more after this one
	inHex2
	inHex3
	inHex4
	inHexD // behind \ud
	inHigh // of a surrogate's high half: its third digit
	inHigh4
	inLow // the low half: \
	inLowU
	inLow1
	inLow2
	inTail1 // bytes of UTF-8 that follow
	inTail2
	inTail3
	inE0
	inED
	inF0
	inF4
	stringKinds
)

const noKind = math.MaxUint8

// stringNext is where a byte leads within a string, the quotes apart.
var stringNext = func() (next [stringKinds][256]uint8) {
	for k := range next {
		for c := range next[k] {
			next[k][c] = noKind
		}
	}
	set := func(from, to uint8, lo, hi int) {
		for c := lo; c <= hi; c++ {
			next[from][c] = to
		}
	}
	hex := func(from, to uint8, digits string) {
		for _, c := range digits {
			next[from][c] = to
		}
	}
	const all = "0123456789abcdefABCDEF"
	set(inBody, inBody, 0x20, 0x7f)
	next[inBody]['"'] = noKind
	next[inBody]['\\'] = inEscape
	set(inBody, inTail1, 0xc2, 0xdf)
	set(inBody, inE0, 0xe0, 0xe0)
	set(inBody, inTail2, 0xe1, 0xec)
	set(inBody, inED, 0xed, 0xed)
	set(inBody, inTail2, 0xee, 0xef)
	set(inBody, inF0, 0xf0, 0xf0)
	set(inBody, inTail3, 0xf1, 0xf3)
	set(inBody, inF4, 0xf4, 0xf4)
	set(inTail1, inBody, 0x80, 0xbf)
	set(inTail2, inTail1, 0x80, 0xbf)
	set(inTail3, inTail2, 0x80, 0xbf)
	set(inE0, inTail1, 0xa0, 0xbf)
	set(inED, inTail1, 0x80, 0x9f)
	set(inF0, inTail2, 0x90, 0xbf)
	set(inF4, inTail2, 0x80, 0x8f)
	hex(inEscape, inBody, `"\/bfnrt`)
	hex(inEscape, inHex, "u")
	hex(inHex, inHex2, all)
	hex(inHex, inHexD, "dD")
	hex(inHexD, inHex3, "01234567")
	hex(inHexD, inHigh, "89abAB")
	hex(inHex2, inHex3, all)
	hex(inHex3, inHex4, all)
	hex(inHex4, inBody, all)
	hex(inHigh, inHigh4, all)
	hex(inHigh4, inLow, all)
	hex(inLow, inLowU, `\`)
	hex(inLowU, inLow1, "u")
	hex(inLow1, inLow2, "dD")
	hex(inLow2, inHex3, "cdefCDEF")
	return next
}()

// next is the frame behind a byte within the quotes; closed: the string ended.
func (stringMachine) next(f frame, c byte) (to frame, closed, ok bool) {
	if f.kind == inBody {
		if c == '"' {
			return f, true, f.a == 0
		}
		if f.b == 0 {
			return f, false, false
		}
	}
	k := stringNext[f.kind][c]
	if k == noKind {
		return f, false, false
	}
	f.kind = int32(k)
	if k == inBody {
		if f.a > 0 {
			f.a--
		}
		if f.b > 0 {
			f.b--
		}
	}
	return f, false, true
}

func (m stringMachine) step(w *walker, f frame, in *call, c byte) {
	if f.kind == inQuote {
		if c == '"' {
			f.kind = inBody
			w.emit(f, in)
		}
		return
	}
	to, closed, ok := m.next(f, c)
	switch {
	case !ok:
	case closed:
		w.pop(in)
	default:
		w.emit(to, in)
	}
}

// item is a place of an array.
type item struct {
	rule int32
	need int32
	rest int32
}

// arrayMachine reads arrays. a is the item it is at.
type arrayMachine struct {
	items    []item  // the last one stands for all that follow
	min, max int32   // max < 0: any
	sums     []int32 // by item: the distance over those that have to come from it on, the last one once
}

// Where arrays and objects stand.
const (
	atStart  = iota
	atOpen   // [ or {
	atComma  // a space may follow
	atSpaced // of objects: it did
	atKey    // of objects: within a declared name
	atColon  // of objects: behind the name
	atValue  // of objects: behind the colon; a space may follow
	atAfter  // behind an item or member
)

// fits says whether item i may come.
func (m *arrayMachine) fits(i, depth int32) bool {
	if m.max >= 0 && i >= m.max {
		return false
	}
	at := min(int(i), len(m.items)-1)
	return at >= 0 && depth+m.items[at].need <= maxDepth
}

// value calls the rule of item i.
func (m *arrayMachine) value(w *walker, f frame, in *call, i int32) {
	f.kind, f.a = atAfter, i+1
	if m.max < 0 {
		f.a = min(f.a, max(m.min, int32(len(m.items)))) // no more need be counted
	}
	w.call(m.items[min(int(i), len(m.items)-1)].rule, f, in, in.depth+1)
}

func (m *arrayMachine) step(w *walker, f frame, in *call, c byte) {
	switch {
	case f.kind == atStart && c == '[':
		if m.min == 0 {
			f.kind = atOpen
			w.emit(f, in)
		}
		if m.fits(0, in.depth+1) {
			m.value(w, f, in, 0)
		}
	case f.kind == atOpen && c == ']', f.kind == atAfter && c == ']' && f.a >= m.min:
		w.pop(in)
	case f.kind == atAfter && c == ',' && m.fits(f.a, in.depth+1):
		f.kind = atComma
		w.emit(f, in)
		m.value(w, f, in, f.a)
	case f.kind == atComma && c == ' ':
		m.value(w, f, in, f.a)
	}
}

// member is a property of an object.
type member struct {
	rule     int32
	need     int32 // of its value; never: it can't come
	rest     int32 // of its value
	spelled  bool
	required bool
	tails    []int32 // by byte of its name: the distance to behind the closing quote
}

// tail is the distance from a byte of the name; never: it can't be written.
func (p *member) tail(at int) int32 {
	if p.tails == nil {
		return never
	}
	return p.tails[at]
}

// class is the members whose names an automaton takes.
type class struct {
	key     int32 // the rule of their names
	keyRest int32
	member
}

// objectMachine reads objects: declared members in their order, then others. a is the
// first member that may still come, or the one that it is at; b the state within a name.
type objectMachine struct {
	members []member
	classes []class
	wanted  []int32   // by member: the first required one from it on
	names   *dfa      // of all declared members, with their closing quotes
	below   [][]int32 // by state of names: the members whose names go through it, in order

	// Distances.
	after  []int32   // by member: from behind the value before it
	toName []int32   // from where a name has to begin
	best   [][]int32 // as below: the least by the member or one behind it, up to the next required one
}

// index makes the automaton of names.
func (m *objectMachine) index(b *budget, texts []string) (err error) {
	m.wanted = make([]int32, len(texts)+1)
	m.wanted[len(texts)] = int32(len(texts))
	for i := len(texts) - 1; i >= 0; i-- {
		m.wanted[i] = m.wanted[i+1]
		if m.members[i].required {
			m.wanted[i] = int32(i)
		}
	}
	if m.names, err = literals(b, texts); m.names == nil || err != nil {
		return err
	}
	m.below = make([][]int32, len(m.names.accept))
	for i, text := range texts {
		state := int32(0)
		m.below[0] = append(m.below[0], int32(i))
		for _, c := range []byte(text) {
			state, _ = m.names.step(state, c)
			m.below[state] = append(m.below[state], int32(i))
		}
	}
	return nil
}

// reachable says whether one of the members that may come next, from the first on, is among some.
func (m *objectMachine) reachable(some []int32, first, depth int32) bool {
	i, _ := slices.BinarySearch(some, first)
	for ; i < len(some) && some[i] <= m.wanted[first]; i++ {
		if depth+m.members[some[i]].need <= maxDepth {
			return true
		}
	}
	return false
}

// others says whether members that are not declared may come.
func (m *objectMachine) others(first, depth int32) bool {
	return int(m.wanted[first]) == len(m.members) &&
		slices.ContainsFunc(m.classes, func(c class) bool { return depth+c.need <= maxDepth })
}

func (m *objectMachine) step(w *walker, f frame, in *call, c byte) {
	depth := in.depth + 1
	switch f.kind {
	case atStart:
		if c == '{' {
			f.kind = atOpen
			w.emit(f, in)
		}
	case atOpen:
		if c == '}' && int(m.wanted[0]) == len(m.members) {
			w.pop(in)
		} else if c == '"' {
			m.name(w, f, in)
		}
	case atComma, atSpaced:
		if c == ' ' && f.kind == atComma {
			f.kind = atSpaced
			w.emit(f, in)
		} else if c == '"' {
			m.name(w, f, in)
		}
	case atKey:
		to, ok := m.names.step(f.b, c)
		if !ok || !m.reachable(m.below[to], f.a, depth) {
			return
		}
		f.b = to
		if m.names.accept[to] {
			f.kind, f.a, f.b = atColon, m.below[to][0], 0
		}
		w.emit(f, in)
	case atColon:
		if c == ':' {
			f.kind = atValue
			w.emit(f, in)
			m.value(w, f, in)
		}
	case atValue:
		if c == ' ' {
			m.value(w, f, in)
		}
	case atAfter:
		if c == '}' && int(m.wanted[f.a]) == len(m.members) {
			w.pop(in)
		} else if c == ',' && (m.others(f.a, depth) || len(m.below) > 0 && m.reachable(m.below[0], f.a, depth)) {
			f.kind = atComma
			w.emit(f, in)
		}
	}
}

// name goes on behind the quote that opens a member's name.
func (m *objectMachine) name(w *walker, f frame, in *call) {
	depth := in.depth + 1
	if len(m.below) > 0 && m.reachable(m.below[0], f.a, depth) {
		w.emit(frame{f.machine, atKey, f.a, 0}, in)
	}
	if !m.others(f.a, depth) {
		return
	}
	for i, c := range m.classes {
		if depth+c.need <= maxDepth {
			w.call(c.key, frame{f.machine, atColon, int32(len(m.members) + i), 0}, in, depth)
		}
	}
}

func (m *objectMachine) value(w *walker, f frame, in *call) {
	rule, after := int32(0), int32(len(m.members))
	if int(f.a) < len(m.members) {
		rule, after = m.members[f.a].rule, f.a+1
	} else {
		rule = m.classes[int(f.a)-len(m.members)].rule
	}
	w.call(rule, frame{f.machine, atAfter, after, 0}, in, in.depth+1)
}
