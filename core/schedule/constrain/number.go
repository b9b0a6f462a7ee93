package constrain

import "fmt"

const (
	wholeDigits    = 18 // before the point, where bounds need no more: 64 bits hold them
	fractionDigits = 17 // behind the point: 64-bit floats need no more
	maxBoundDigits = 31 // of a bound, before the point and behind it
)

const (
	anyInteger = `^-?(0|[1-9]\d{0,17})$`
	anyNumber  = `^-?(0|[1-9]\d{0,17})(\.\d{1,17})?([eE][+-]?\d{1,2})?$`
)

// bound is a minimum or maximum.
type bound struct {
	decimal
	exclusive bool
}

// numbers is the automaton of numbers within bounds (nil: none). With bounds there are no exponents.
func numbers(b *budget, lo, hi *bound, integer bool) (*dfa, error) {
	if lo == nil && hi == nil {
		if integer {
			return pattern(b, anyInteger)
		}
		return pattern(b, anyNumber)
	}
	// A magnitude is compared with the bounds of its sign, digit by digit.
	type limits struct {
		lo, hi       *bound
		loDigits     [2]string
		hiDigits     [2]string
		impossible   bool
		whole, after int8
	}
	var signs [2]limits
	for negative := range signs {
		l := &signs[negative]
		if negative == 0 {
			l.lo, l.hi = lo, hi
		} else {
			l.lo, l.hi = hi, lo
		}
		within := func(d *bound) bool { return d.digits == "" || d.negative == (negative == 1) }
		// A magnitude's bound on the far side of zero: no limit below, or nothing at all above.
		if l.lo != nil && !within(l.lo) {
			l.lo = nil
		}
		l.impossible = l.hi != nil && !within(l.hi)
		l.whole, l.after = wholeDigits, fractionDigits
		for i, d := range []*bound{l.lo, l.hi} {
			if d == nil {
				continue
			}
			w, f := d.parts()
			if len(w) > maxBoundDigits || len(f) > maxBoundDigits {
				return nil, problem(fmt.Sprintf("a bound has more than %d digits before or behind the point", maxBoundDigits))
			}
			l.whole, l.after = max(l.whole, int8(len(w)+1)), max(l.after, int8(len(f)+1))
			if i == 0 {
				l.loDigits = [2]string{w, f}
			} else {
				l.hiDigits = [2]string{w, f}
			}
		}
	}
	const (
		start = iota
		minus
		zero // a leading one: no digit follows
		whole
		point
		fraction
	)
	type place struct {
		phase  uint8
		sign   int8
		n      int8 // digits read of this part
		lo, hi int8 // the digits so far against the bound's: -1 less, 0 equal, 1 greater
	}
	compare := func(so, n int8, digits string, c byte, fraction bool) int8 {
		if !fraction && int(n) >= len(digits) {
			return 1
		}
		d := byte('0')
		if int(n) < len(digits) {
			d = digits[n]
		}
		switch {
		case so != 0 || c == d:
			return so
		case c < d:
			return -1
		}
		return 1
	}
	digit := func(p place, c byte, phase uint8) place {
		l, part := &signs[p.sign], 0
		if phase == fraction {
			part = 1
		}
		to := place{phase: phase, sign: p.sign, n: p.n + 1}
		if l.lo != nil {
			to.lo = compare(p.lo, p.n, l.loDigits[part], c, part == 1)
		}
		if l.hi != nil {
			to.hi = compare(p.hi, p.n, l.hiDigits[part], c, part == 1)
		}
		return to
	}
	// endWhole compares a whole part that ended with those of the bounds.
	endWhole := func(p place) place {
		l := &signs[p.sign]
		if l.lo != nil && int(p.n) < len(l.loDigits[0]) {
			p.lo = -1
		}
		if l.hi != nil && int(p.n) < len(l.hiDigits[0]) {
			p.hi = -1
		}
		p.n, p.phase = 0, point
		return p
	}
	row := func(p place, way func(lo, hi byte, to place)) error {
		digits := func(from byte, phase uint8) {
			for c := from; c <= '9'; c++ {
				way(c, c, digit(p, c, phase))
			}
		}
		l := &signs[p.sign]
		switch p.phase {
		case start:
			if !signs[1].impossible {
				way('-', '-', place{phase: minus, sign: 1})
			}
			if !l.impossible {
				way('0', '0', digit(p, '0', zero))
				digits('1', whole)
			}
		case minus:
			if !integer {
				way('0', '0', digit(p, '0', zero))
			}
			digits('1', whole)
		case zero, whole:
			if !integer {
				way('.', '.', endWhole(p))
			}
			if p.phase == whole && p.n < l.whole {
				digits('0', whole)
			}
		case point, fraction:
			if p.n < l.after {
				digits('0', fraction)
			}
		}
		return b.spend(16)
	}
	accept := func(p place) bool {
		switch p.phase {
		case zero, whole:
			p = endWhole(p)
		case fraction:
		default:
			return false
		}
		l := &signs[p.sign]
		if l.lo != nil && p.lo == 0 && int(p.n) < len(l.loDigits[1]) {
			p.lo = -1
		}
		if l.hi != nil && p.hi == 0 && int(p.n) < len(l.hiDigits[1]) {
			p.hi = -1
		}
		return (l.lo == nil || p.lo > 0 || p.lo == 0 && !l.lo.exclusive) &&
			(l.hi == nil || p.hi < 0 || p.hi == 0 && !l.hi.exclusive)
	}
	return explore(b, place{}, row, accept)
}
