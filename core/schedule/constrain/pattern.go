package constrain

import (
	"encoding/binary"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxPattern      = 2048    // bytes
	maxInstructions = 20_000  // of a pattern's program
	maxRuneStates   = 200_000 // of a pattern's sets of characters
)

// pattern makes the automaton of the inside of JSON strings (without quotes) in which a regular
// expression of ECMA 262 is found, as JSON Schema has it: anchored only by ^ and $.
func pattern(b *budget, source string) (*dfa, error) {
	if len(source) > maxPattern {
		return nil, problem(fmt.Sprintf("the pattern has %d bytes, more than the %d allowed", len(source), maxPattern))
	}
	translated, err := translate(source)
	if err != nil {
		return nil, err
	}
	re, err := syntax.Parse(translated, syntax.Perl)
	if err != nil {
		return nil, problem(fmt.Sprintf("the pattern %q is not a regular expression, or not one of those supported: %v", source, err))
	}
	if size(re) > maxInstructions {
		return nil, errTooComplex
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, problem(fmt.Sprintf("the pattern %q: %v", source, err))
	}
	p := &subsets{prog: prog, budget: b, closures: make([][]uint32, len(prog.Inst)), ending: make([]int8, len(prog.Inst))}
	if err := p.number(); err != nil {
		return nil, err
	}
	start, err := p.start()
	if err != nil {
		return nil, err
	}
	return explore(b, start, p.row, p.accept)
}

// size is about how many instructions an expression takes, up to a bound.
func size(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)/16
	for _, sub := range re.Sub {
		n = min(n+size(sub), 1<<20)
	}
	if re.Op == syntax.OpRepeat {
		n = min(n*max(re.Min, re.Max, 1), 1<<20)
	}
	return n
}

// subsets determinises a program. Its elements are pairs of an instruction that reads a
// character and how far its bytes were read, instructions that wait for the text's end, and two
// loops over any character: one before the match and one behind it.
type subsets struct {
	prog     *syntax.Prog
	budget   *budget
	base     []uint32   // by instruction: the number of its first element
	sets     []*runeSet // by instruction; nil: reads nothing
	owner    []int32    // by element: its instruction; len(Inst): the loop before; one more: the loop behind
	closures [][]uint32
	ending   []int8 // by instruction: does the end lead from it to a match? 0 unknown, 1 yes, -1 no
}

func (p *subsets) before() uint32 { return p.base[len(p.prog.Inst)] }
func (p *subsets) behind() uint32 { return p.base[len(p.prog.Inst)+1] }

// number gives elements their numbers.
func (p *subsets) number() error {
	known := map[string]*runeSet{}
	add := func(set *runeSet) error {
		p.base = append(p.base, uint32(len(p.owner)))
		p.sets = append(p.sets, set)
		n := 1
		if set != nil {
			n = len(set.ways)
		}
		if len(p.owner)+n > maxRuneStates {
			return errTooComplex
		}
		for range n {
			p.owner = append(p.owner, int32(len(p.base)-1))
		}
		return p.budget.spend(n)
	}
	for i := range p.prog.Inst {
		inst := &p.prog.Inst[i]
		var set *runeSet
		switch inst.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			ranges := inst.Rune
			switch {
			case inst.Op == syntax.InstRuneAny:
				ranges = []rune{0, utf8.MaxRune}
			case inst.Op == syntax.InstRuneAnyNotNL:
				ranges = []rune{0, '\n' - 1, '\n' + 1, utf8.MaxRune}
			case len(ranges) == 1:
				ranges = folded(ranges[0], syntax.Flags(inst.Arg)&syntax.FoldCase != 0)
			}
			name := make([]byte, 0, 4*len(ranges))
			for _, r := range ranges {
				name = binary.LittleEndian.AppendUint32(name, uint32(r))
			}
			key := string(name)
			if set = known[key]; set == nil {
				set = newRuneSet(ranges)
				known[key] = set
			}
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(inst.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
				return problem(`\b and \B are not supported in patterns`)
			}
		}
		if err := add(set); err != nil {
			return err
		}
	}
	if err := add(anyCharacter); err != nil {
		return err
	}
	return add(anyCharacter)
}

// folded is the ranges of one character: the parser makes [eE] an e of either case.
func folded(r rune, fold bool) []rune {
	all := []rune{r}
	for f := unicode.SimpleFold(r); fold && f != r; f = unicode.SimpleFold(f) {
		all = append(all, f)
	}
	slices.Sort(all)
	var ranges []rune
	for _, r := range all {
		ranges = append(ranges, r, r)
	}
	return ranges
}

// closure adds the elements that an instruction leads to without reading.
func (p *subsets) closure(pc uint32, begin bool) ([]uint32, error) {
	if !begin && p.closures[pc] != nil {
		return p.closures[pc], nil
	}
	elements := []uint32{}
	seen := map[uint32]bool{}
	var walk func(pc uint32)
	walk = func(pc uint32) {
		if seen[pc] {
			return
		}
		seen[pc] = true
		inst := &p.prog.Inst[pc]
		switch inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			walk(inst.Out)
			walk(inst.Arg)
		case syntax.InstCapture, syntax.InstNop:
			walk(inst.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(inst.Arg)&syntax.EmptyEndText != 0 {
				elements = append(elements, p.base[pc])
			} else if begin {
				walk(inst.Out)
			}
		case syntax.InstMatch:
			elements = append(elements, p.behind())
		case syntax.InstFail:
		default:
			elements = append(elements, p.base[pc])
		}
	}
	walk(pc)
	if err := p.budget.spend(8 * len(seen)); err != nil {
		return nil, err
	}
	if !begin {
		p.closures[pc] = elements
	}
	return elements, nil
}

// ends says whether at the text's end an instruction leads to a match.
func (p *subsets) ends(pc uint32) bool {
	if p.ending[pc] != 0 {
		return p.ending[pc] > 0
	}
	seen := map[uint32]bool{}
	var walk func(pc uint32) bool
	walk = func(pc uint32) bool {
		if seen[pc] {
			return false
		}
		seen[pc] = true
		inst := &p.prog.Inst[pc]
		switch inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			return walk(inst.Out) || walk(inst.Arg)
		case syntax.InstCapture, syntax.InstNop:
			return walk(inst.Out)
		case syntax.InstEmptyWidth:
			return syntax.EmptyOp(inst.Arg)&syntax.EmptyBeginText == 0 && walk(inst.Out)
		}
		return inst.Op == syntax.InstMatch
	}
	p.ending[pc] = -1
	if walk(pc) {
		p.ending[pc] = 1
	}
	return p.ending[pc] > 0
}

func (p *subsets) start() (string, error) {
	elements, err := p.closure(uint32(p.prog.Start), true)
	if err != nil {
		return "", err
	}
	later, err := p.closure(uint32(p.prog.Start), false)
	if err != nil {
		return "", err
	}
	if len(later) > 0 {
		elements = append(slices.Clone(elements), p.before())
	}
	return p.key(elements), nil
}

// key names a set. Once there is a match, nothing else matters.
func (p *subsets) key(elements []uint32) string {
	if slices.Contains(elements, p.behind()) {
		elements = []uint32{p.behind()}
	}
	slices.Sort(elements)
	elements = slices.Compact(elements)
	key := make([]byte, 0, 4*len(elements))
	for _, e := range elements {
		key = binary.LittleEndian.AppendUint32(key, e)
	}
	return string(key)
}

func elementsOf(key string) []uint32 {
	elements := make([]uint32, 0, len(key)/4)
	for i := 0; i < len(key); i += 4 {
		elements = append(elements, binary.LittleEndian.Uint32([]byte(key[i:i+4])))
	}
	return elements
}

func (p *subsets) row(key string, way func(lo, hi byte, to string)) error {
	var cut [257]bool
	elements := elementsOf(key)
	for _, e := range elements {
		if set := p.sets[p.owner[e]]; set != nil {
			for _, w := range set.ways[e-p.base[p.owner[e]]] {
				cut[w.lo], cut[int(w.hi)+1] = true, true
			}
		}
	}
	for lo := 0; lo < 256; {
		hi := lo
		for hi < 255 && !cut[hi+1] {
			hi++
		}
		var targets []uint32
		for _, e := range elements {
			owner := p.owner[e]
			set := p.sets[owner]
			if set == nil {
				continue
			}
			ways := set.ways[e-p.base[owner]]
			at, found := slices.BinarySearchFunc(ways, byte(lo), func(w byteWay, c byte) int {
				switch {
				case w.hi < c:
					return -1
				case w.lo > c:
					return 1
				}
				return 0
			})
			if !found {
				continue
			}
			if to := ways[at].to; to >= 0 {
				targets = append(targets, p.base[owner]+uint32(to))
				continue
			}
			next, err := p.after(owner)
			if err != nil {
				return err
			}
			targets = append(targets, next...)
		}
		if err := p.budget.spend(len(elements) + 4*len(targets)); err != nil {
			return err
		}
		if len(targets) > 0 {
			way(byte(lo), byte(hi), p.key(targets))
		}
		lo = hi + 1
	}
	return nil
}

// after is where an element's instruction leads once its character was read.
func (p *subsets) after(owner int32) ([]uint32, error) {
	switch int(owner) - len(p.prog.Inst) {
	case 0:
		again, err := p.closure(uint32(p.prog.Start), false)
		return append(slices.Clone(again), p.before()), err
	case 1:
		return []uint32{p.behind()}, nil
	}
	return p.closure(p.prog.Inst[owner].Out, false)
}

func (p *subsets) accept(key string) bool {
	for _, e := range elementsOf(key) {
		if e == p.behind() {
			return true
		}
		if owner := p.owner[e]; int(owner) < len(p.prog.Inst) && p.sets[owner] == nil && p.ends(uint32(owner)) {
			return true
		}
	}
	return false
}

// The white space of ECMA 262 and that of RE2's \s, and what is in neither.
const (
	ecmaSpace    = `\t\n\v\f\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}`
	noEcmaSpace  = `\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}`
	asciiSpace   = `\t\n\f\r `
	noAsciiSpace = `\x{0}-\x{8}\x{b}\x{e}-\x{1f}\x{21}-\x{10ffff}`
)

// translate writes an expression of ECMA 262 in RE2's syntax. Where validators disagree
// (\s, .) it takes what all of them take.
func translate(source string) (string, error) {
	var out strings.Builder
	refuse := func(what string) (string, error) {
		return "", problem(fmt.Sprintf("the pattern %q has %s, which is not supported", source, what))
	}
	class, negated := false, false
	for i := 0; i < len(source); i++ {
		c := source[i]
		switch {
		case c == '\\':
			n, err := translateEscape(&out, source[i:], class, negated)
			if err != nil {
				return refuse(err.Error())
			}
			i += n - 1
		case class && c == ']':
			class = false
			out.WriteByte(c)
		case class && c == '[':
			out.WriteString(`\[`)
		case class:
			out.WriteByte(c)
		case c == '[':
			class, negated = true, strings.HasPrefix(source[i:], "[^")
			out.WriteByte(c)
			if negated {
				i++
				out.WriteByte('^')
			}
			if strings.HasPrefix(source[i+1:], "]") {
				return refuse("an empty class")
			}
		case c == '.':
			out.WriteString(`[^\n\r\x{2028}\x{2029}]`)
		case c == '(' && strings.HasPrefix(source[i:], "(?"):
			rest := source[i+2:]
			named := strings.HasPrefix(rest, "<") && !strings.HasPrefix(rest, "<=") && !strings.HasPrefix(rest, "<!")
			if !named && !strings.HasPrefix(rest, ":") {
				return refuse("a look-around or flags (" + rest[:min(2, len(rest))] + ")")
			}
			out.WriteString("(?")
			i++
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), nil
}

// translateEscape writes the escape that s begins with, and says how long it was.
func translateEscape(out *strings.Builder, s string, class, negated bool) (int, error) {
	if len(s) < 2 {
		return 0, problem(`a \ at its end`)
	}
	set := func(inside string) {
		if class {
			out.WriteString(inside)
		} else {
			out.WriteString("[" + inside + "]")
		}
	}
	c := s[1]
	switch c {
	case 'd', 'D', 'w', 'W', 't', 'n', 'v', 'f', 'r':
		out.WriteString(s[:2])
		return 2, nil
	case 's':
		if class && negated {
			set(ecmaSpace)
		} else {
			set(asciiSpace)
		}
		return 2, nil
	case 'S':
		if class && negated {
			set(noAsciiSpace)
		} else {
			set(noEcmaSpace)
		}
		return 2, nil
	case 'p', 'P':
		end := strings.IndexByte(s, '}')
		if len(s) < 3 || s[2] != '{' || end < 0 {
			return 0, problem(`\p without {}`)
		}
		_, name, found := strings.Cut(s[3:end], "=") // Script=Greek, General_Category=L
		if !found {
			name = s[3:end]
		}
		out.WriteString(s[:3] + name + "}")
		return end + 1, nil
	case 'b':
		if class {
			out.WriteString(`\x08`)
			return 2, nil
		}
	case '0':
		if len(s) == 2 || s[2] < '0' || s[2] > '9' {
			out.WriteString(`\x00`)
			return 2, nil
		}
	case 'c':
		if len(s) > 2 && (s[2]|0x20) >= 'a' && (s[2]|0x20) <= 'z' {
			fmt.Fprintf(out, `\x{%x}`, s[2]&0x1f)
			return 3, nil
		}
	case 'x', 'u':
		r, n := hexEscape(s)
		if n > 0 {
			fmt.Fprintf(out, `\x{%x}`, r)
			return n, nil
		}
	default:
		if c < utf8.RuneSelf && !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z') {
			if c == '_' {
				out.WriteByte(c)
			} else {
				out.WriteString(s[:2])
			}
			return 2, nil
		}
	}
	return 0, problem(fmt.Sprintf("%q", s[:2]))
}

// hexEscape reads \xHH, \uHHHH (pairs of surrogates too) or \u{H...}; length 0: none of them.
func hexEscape(s string) (r rune, length int) {
	digits := func(from, to int) (rune, bool) {
		if to > len(s) || from == to {
			return 0, false
		}
		r := rune(0)
		for _, c := range []byte(s[from:to]) {
			v := strings.IndexByte("0123456789abcdef", c|0x20)
			if c < '0' || v < 0 || r > utf8.MaxRune {
				return 0, false
			}
			r = r<<4 | rune(v)
		}
		return r, true
	}
	if s[1] == 'x' {
		if r, ok := digits(2, 4); ok {
			return r, 4
		}
		return 0, 0
	}
	if strings.HasPrefix(s, `\u{`) {
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return 0, 0
		}
		if r, ok := digits(3, end); ok && utf8.ValidRune(r) {
			return r, end + 1
		}
		return 0, 0
	}
	r, ok := digits(2, 6)
	if !ok {
		return 0, 0
	}
	if r>>10 == 0xd800>>10 && strings.HasPrefix(s[6:], `\u`) {
		if low, ok := digits(8, 12); ok && low>>10 == 0xdc00>>10 {
			return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000, 12
		}
	}
	if !utf8.ValidRune(r) {
		return 0, 0
	}
	return r, 6
}
