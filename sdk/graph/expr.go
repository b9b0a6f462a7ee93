package graph

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// expr is an integer, possibly symbolic: a constant plus products of atoms. An
// atom is the name of a dimension, a floor quotient, or a fresh unknown. The
// terms are sorted and none is zero, so equal expressions look the same.
type expr struct {
	c     int64
	terms []term
}

type term struct {
	k     int64
	atoms string // sorted, joined by atomSep
}

const (
	atomSep  = "\x1f"
	freshDim = "\x01" // begins the atom of a size that nothing is known of
	freshVal = "\x02" // begins the atom of an integer that may be negative

	// Larger expressions become unknown.
	maxTerms   = 12
	maxAtoms   = 12
	maxNesting = 16
)

func num(n int64) expr { return expr{c: n} }

func atom(name string) expr { return expr{terms: []term{{1, name}}} }

// value is the number that e is, if it is one.
func (e expr) value() (int64, bool) { return e.c, len(e.terms) == 0 }

// is reports whether e is the number n.
func (e expr) is(n int64) bool { return len(e.terms) == 0 && e.c == n }

func (e expr) eq(f expr) bool { return e.c == f.c && slices.Equal(e.terms, f.terms) }

// fresh reports whether e speaks of anything unknown.
func (e expr) fresh() bool {
	for _, t := range e.terms {
		if strings.ContainsAny(t.atoms, freshDim+freshVal) {
			return true
		}
	}
	return false
}

// namedDim is the atom of a size that only a run can tell, known by where it is
// first met: axis i of a value. In text it begins with a question mark.
func namedDim(value string, i int) string {
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || strings.ContainsRune("+-*/()", r) {
			return '_'
		}
		return r
	}, value)
	return freshDim + "?" + clean + "." + strconv.Itoa(i)
}

// isNamedDim reports whether s is what namedDim gives, without its mark.
func isNamedDim(s string) bool {
	at := strings.LastIndexByte(s, '.')
	if len(s) == 0 || s[0] != '?' || at < 0 || at == len(s)-1 {
		return false
	}
	_, err := strconv.ParseUint(s[at+1:], 10, 16)
	return err == nil
}

// nameless tells sizes apart that text can't say; it is empty for those it can.
func (e expr) nameless() string {
	if _, ok := e.text(); ok {
		return ""
	}
	return e.String()
}

// text is e as parseExpr reads it; false where it speaks of what has no name.
func (e expr) text() (string, bool) {
	s := e.String()
	if strings.Contains(s, freshVal) {
		return "", false
	}
	parts := strings.Split(s, freshDim)
	for _, p := range parts[1:] {
		if !strings.HasPrefix(p, "?") && !strings.HasPrefix(p, "floor(") {
			return "", false
		}
	}
	return strings.Join(parts, ""), true
}

// size reports whether e is made of sizes only, so that it may be a dimension.
func (e expr) size() bool {
	for _, t := range e.terms {
		if strings.Contains(t.atoms, freshVal) {
			return false
		}
	}
	return len(e.terms) > 0 || e.c >= 0
}

// negative reports whether no term of e is positive.
func (e expr) negative() bool {
	return e.c <= 0 && !slices.ContainsFunc(e.terms, func(t term) bool { return t.k > 0 })
}

// positive reports whether e can't be negative, as a sum of sizes.
func (e expr) positive() bool {
	return e.size() && e.c >= 0 && !slices.ContainsFunc(e.terms, func(t term) bool { return t.k < 0 })
}

// The operations give ok = false where the result would be too large to hold.

func (e expr) add(f expr) (expr, bool) {
	c, ok := addInt(e.c, f.c)
	if !ok {
		return expr{}, false
	}
	if len(e.terms) == 0 {
		return expr{c, f.terms}, true
	}
	if len(f.terms) == 0 {
		return expr{c, e.terms}, true
	}
	out := make([]term, 0, len(e.terms)+len(f.terms))
	a, b := e.terms, f.terms
	for len(a) > 0 && len(b) > 0 {
		switch cmp.Compare(a[0].atoms, b[0].atoms) {
		case -1:
			out, a = append(out, a[0]), a[1:]
		case 1:
			out, b = append(out, b[0]), b[1:]
		default:
			k, ok := addInt(a[0].k, b[0].k)
			if !ok {
				return expr{}, false
			}
			if k != 0 {
				out = append(out, term{k, a[0].atoms})
			}
			a, b = a[1:], b[1:]
		}
	}
	out = append(append(out, a...), b...)
	if len(out) > maxTerms {
		return expr{}, false
	}
	return expr{c, out}, true
}

func (e expr) neg() (expr, bool) { return e.mul(num(-1)) }

func (e expr) sub(f expr) (expr, bool) {
	n, ok := f.neg()
	if !ok {
		return expr{}, false
	}
	return e.add(n)
}

func (e expr) mul(f expr) (expr, bool) {
	out := expr{}
	for _, a := range e.all() {
		for _, b := range f.all() {
			k, ok := mulInt(a.k, b.k)
			if !ok {
				return expr{}, false
			}
			if k == 0 {
				continue
			}
			t := expr{c: k}
			if atoms := joinAtoms(a.atoms, b.atoms); atoms != "" {
				if strings.Count(atoms, atomSep) >= maxAtoms || len(atoms) > 4*maxExprText {
					return expr{}, false
				}
				t = expr{terms: []term{{k, atoms}}}
			}
			if out, ok = out.add(t); !ok {
				return expr{}, false
			}
		}
	}
	return out, true
}

// all is the terms with the constant as one of them.
func (e expr) all() []term {
	if e.c == 0 {
		return e.terms
	}
	return append([]term{{e.c, ""}}, e.terms...)
}

func joinAtoms(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	s := append(strings.Split(a, atomSep), strings.Split(b, atomSep)...)
	slices.Sort(s)
	return strings.Join(s, atomSep)
}

// exact divides where no remainder is left and the divisor is one term.
func (e expr) exact(f expr) (expr, bool) {
	d := f.all()
	if len(d) != 1 {
		if len(d) > 1 && e.eq(f) {
			return num(1), true
		}
		return expr{}, false
	}
	out := expr{}
	for _, t := range e.all() {
		atoms, ok := dropAtoms(t.atoms, d[0].atoms)
		if !ok || t.k%d[0].k != 0 {
			return expr{}, false
		}
		q := expr{c: t.k / d[0].k}
		if atoms != "" {
			q = expr{terms: []term{{t.k / d[0].k, atoms}}}
		}
		if out, ok = out.add(q); !ok {
			return expr{}, false
		}
	}
	return out, true
}

// dropAtoms takes the atoms of b out of a.
func dropAtoms(a, b string) (string, bool) {
	if b == "" {
		return a, true
	}
	have := strings.Split(a, atomSep)
	for _, x := range strings.Split(b, atomSep) {
		i := slices.Index(have, x)
		if i < 0 {
			return "", false
		}
		have = slices.Delete(have, i, i+1)
	}
	return strings.Join(have, atomSep), true
}

// floorDiv is floor(e / n) for n > 0.
func (e expr) floorDiv(n int64) (expr, bool) {
	if v, ok := e.value(); ok {
		return num(floorInt(v, n)), true
	}
	if q, ok := e.exact(num(n)); ok {
		return q, true
	}
	// What divides evenly may leave the quotient: floor((2S + 3)/2) = S + 1.
	whole, rest := expr{c: floorInt(e.c, n)}, expr{c: e.c - n*floorInt(e.c, n)}
	for _, t := range e.terms {
		to := &rest
		if t.k%n == 0 {
			t.k /= n
			to = &whole
		}
		to.terms = append(to.terms, t)
	}
	if len(rest.terms) == 0 {
		return whole, true
	}
	if q, ok := rest.oneFloor(n); ok {
		return whole.add(q)
	}
	s := rest.String()
	if len(rest.terms) > 1 || rest.c != 0 || s[0] == '-' {
		// -A/2 would be read as -(A/2), which rounds the other way.
		s = "(" + s + ")"
	}
	if len(s) > maxExprText/2 || nesting(s) >= maxNesting {
		return expr{}, false
	}
	s = "floor(" + s + "/" + strconv.FormatInt(n, 10) + ")"
	if rest.fresh() {
		// A quotient of an unknown is no name to be read; mark it as its operand is.
		mark := freshDim
		if !rest.size() {
			mark = freshVal
		}
		s = mark + s
	}
	return whole.add(atom(s))
}

// oneFloor is floor(e / n) where e is a floor and perhaps a number: floor((floor(a/m) + c)/n)
// is floor((a + c*m)/(m*n)).
func (e expr) oneFloor(n int64) (expr, bool) {
	if len(e.terms) != 1 || e.terms[0].k != 1 || !strings.HasPrefix(e.terms[0].atoms, "floor(") || strings.Contains(e.terms[0].atoms, atomSep) {
		return expr{}, false
	}
	a, m, ok := splitFloor(e.terms[0].atoms)
	if !ok {
		return expr{}, false
	}
	by, ok := mulInt(m, n)
	if !ok {
		return expr{}, false
	}
	c, ok := mulInt(e.c, m)
	if !ok {
		return expr{}, false
	}
	if a, ok = a.add(num(c)); !ok {
		return expr{}, false
	}
	return a.floorDiv(by)
}

// nesting is how deep the parentheses in s go.
func nesting(s string) int {
	depth, deepest := 0, 0
	for _, c := range s {
		switch c {
		case '(':
			depth++
			deepest = max(deepest, depth)
		case ')':
			depth--
		}
	}
	return deepest
}

// String writes e; fresh atoms with their marks, see text.
func (e expr) String() string {
	if len(e.terms) == 0 {
		return strconv.FormatInt(e.c, 10)
	}
	var b strings.Builder
	write := func(k int64, atoms string) {
		neg := k < 0
		switch {
		case b.Len() == 0 && neg:
			b.WriteString("-")
		case b.Len() > 0 && neg:
			b.WriteString(" - ")
		case b.Len() > 0:
			b.WriteString(" + ")
		}
		u := uint64(k)
		if neg {
			u = -u
		}
		if u != 1 || atoms == "" {
			b.WriteString(strconv.FormatUint(u, 10))
			if atoms != "" {
				b.WriteByte('*')
			}
		}
		b.WriteString(strings.ReplaceAll(atoms, atomSep, "*"))
	}
	for _, t := range e.terms {
		write(t.k, t.atoms)
	}
	if e.c != 0 {
		write(e.c, "")
	}
	return b.String()
}

// bind replaces named atoms by numbers.
func (e expr) bind(sizes map[string]int64) (expr, bool) {
	out := num(e.c)
	for _, t := range e.terms {
		p := num(t.k)
		for _, a := range strings.Split(t.atoms, atomSep) {
			f := atom(a)
			if n, ok := sizes[a]; ok {
				f = num(n)
			} else if strings.HasPrefix(a, "floor(") {
				if inner, n, ok := splitFloor(a); ok {
					b, ok := inner.bind(sizes)
					if !ok {
						return expr{}, false
					}
					if f, ok = b.floorDiv(n); !ok {
						return expr{}, false
					}
				}
			}
			var ok bool
			if p, ok = p.mul(f); !ok {
				return expr{}, false
			}
		}
		var ok bool
		if out, ok = out.add(p); !ok {
			return expr{}, false
		}
	}
	return out, true
}

// splitFloor takes the atom floor(e/n) apart.
func splitFloor(a string) (e expr, n int64, ok bool) {
	s := strings.TrimSuffix(strings.TrimPrefix(a, "floor("), ")")
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return expr{}, 0, false
	}
	n, err := strconv.ParseInt(s[i+1:], 10, 64)
	if err != nil || n <= 0 {
		return expr{}, 0, false
	}
	p := exprParser{s: s[:i]}
	e = p.sum(0)
	return e, n, !p.bad && p.at == len(p.s)
}

// names calls f for each named dimension in e.
func (e expr) names(f func(string)) {
	for _, t := range e.terms {
		for _, a := range strings.Split(t.atoms, atomSep) {
			if inner, _, ok := splitFloor(a); ok && strings.HasPrefix(a, "floor(") {
				inner.names(f)
			} else if !strings.HasPrefix(a, freshDim) && !strings.HasPrefix(a, freshVal) {
				f(a)
			}
		}
	}
}

// parseExpr reads the Param of a dimension: a sum of products with floor
// division, as String and other tools write it. What can't be read so is a name.
func parseExpr(s string) expr {
	s = cleanAtom(s)
	if s != "" && len(s) <= maxExprText && (strings.ContainsAny(s, "+*/(") || strings.Contains(s, " - ") || s[0] == '-') {
		p := exprParser{s: s}
		if e := p.sum(0); !p.bad && p.at == len(s) {
			return e
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return num(n)
	}
	return dimAtom(s)
}

// dimAtom is the atom of a name in text.
func dimAtom(s string) expr {
	if isNamedDim(s) {
		return atom(freshDim + s)
	}
	return atom(s)
}

// cleanAtom keeps a foreign name from looking like our own marks.
func cleanAtom(s string) string {
	if strings.ContainsAny(s, freshDim+freshVal+atomSep) {
		return strings.Map(func(r rune) rune {
			if r < ' ' {
				return '_'
			}
			return r
		}, s)
	}
	return s
}

const maxExprText = 1024

type exprParser struct {
	s   string
	at  int
	bad bool
}

func (p *exprParser) peek() byte {
	for p.at < len(p.s) && p.s[p.at] == ' ' {
		p.at++
	}
	if p.at == len(p.s) {
		return 0
	}
	return p.s[p.at]
}

func (p *exprParser) take(c byte) bool {
	if p.peek() == c {
		p.at++
		return true
	}
	return false
}

func (p *exprParser) must(e expr, ok bool) expr {
	p.bad = p.bad || !ok
	return e
}

func (p *exprParser) sum(depth int) expr {
	if depth > maxNesting {
		p.bad = true
	}
	neg := p.take('-')
	e := p.product(depth)
	if neg {
		e = p.must(e.neg())
	}
	for !p.bad {
		switch {
		case p.take('+'):
			e = p.must(e.add(p.product(depth)))
		case p.take('-'):
			e = p.must(e.sub(p.product(depth)))
		default:
			return e
		}
	}
	return e
}

func (p *exprParser) product(depth int) expr {
	e := p.factor(depth)
	for !p.bad {
		switch {
		case p.take('*'):
			e = p.must(e.mul(p.factor(depth)))
		case p.take('/'):
			p.take('/')
			n, ok := p.factor(depth).value()
			if !ok || n <= 0 {
				p.bad = true
				return e
			}
			e = p.must(e.floorDiv(n))
		default:
			return e
		}
	}
	return e
}

func (p *exprParser) factor(depth int) expr {
	if p.bad {
		return expr{}
	}
	if p.take('(') {
		e := p.sum(depth + 1)
		p.bad = p.bad || !p.take(')')
		return e
	}
	p.peek()
	start := p.at
	for p.at < len(p.s) && !strings.ContainsRune(" +-*/()", rune(p.s[p.at])) {
		p.at++
	}
	name := p.s[start:p.at]
	if n, err := strconv.ParseInt(name, 10, 64); err == nil {
		return num(n)
	}
	switch {
	case name == "floor" && p.take('('):
		e := p.sum(depth + 1)
		p.bad = p.bad || !p.take(')')
		return e
	case name == "" || name[0] >= '0' && name[0] <= '9' || p.peek() == '(':
		p.bad = true
	}
	return dimAtom(name)
}

func addInt(a, b int64) (int64, bool) {
	s := a + b
	return s, (s > a) == (b > 0)
}

func mulInt(a, b int64) (int64, bool) {
	ua, ub := uint64(a), uint64(b)
	if a < 0 {
		ua = -ua
	}
	if b < 0 {
		ub = -ub
	}
	hi, lo := bits.Mul64(ua, ub)
	if hi != 0 || lo > 1<<63-1 {
		return 0, false
	}
	if (a < 0) != (b < 0) {
		return -int64(lo), true
	}
	return int64(lo), true
}

// floorInt is floor(a / n) for n > 0.
func floorInt(a, n int64) int64 {
	q := a / n
	if a%n < 0 {
		q--
	}
	return q
}
