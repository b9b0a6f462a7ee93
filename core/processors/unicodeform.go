package processors

import (
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// unicodeForm brings a text into one of Unicode's normalization forms (UAX 15), without the stream-safe limit on combining characters
// that golang.org/x/text applies, and keeping track of where characters come from.
type unicodeForm struct {
	form    norm.Form
	compose bool
}

var unicodeForms = map[string]unicodeForm{
	"NFC":  {norm.NFC, true},
	"NFD":  {norm.NFD, false},
	"NFKC": {norm.NFKC, true},
	"NFKD": {norm.NFKD, false},
}

// laterDecompositions have decompositions in Go's Unicode version but not in that of the library that tokenizers are trained with.
var laterDecompositions = parseRanges("32ff a7f2-a7f4 ab69 10781-10785 10787-107b0 107b2-107ba 11938 1e030-1e06d 1f16c 1fbf0-1fbf9")

// The conjoining behaviour of Hangul (The Unicode Standard, section 3.12).
const (
	hangulS, hangulL, hangulV, hangulT  = 0xAC00, 0x1100, 0x1161, 0x11A7
	hangulVs, hangulTs, hangulSyllables = 21, 28, 11172
)

// part is a character of a decomposed text.
type part struct {
	r      rune
	ccc    uint8 // canonical combining class
	change int   // as transform.emit takes it
}

// decompose appends the full decomposition of r to parts, in canonical order by itself.
func (f unicodeForm) decompose(parts []part, r rune) []part {
	if r < utf8.RuneSelf {
		return append(parts, part{r: r})
	}
	if s := r - hangulS; s >= 0 && s < hangulSyllables {
		parts = append(parts, part{r: hangulL + s/(hangulVs*hangulTs)}, part{r: hangulV + s%(hangulVs*hangulTs)/hangulTs, change: 1})
		if t := s % hangulTs; t > 0 {
			parts = append(parts, part{r: hangulT + t, change: 1})
		}
		return parts
	}
	var b [utf8.UTFMax]byte
	p := f.form.Properties(b[:utf8.EncodeRune(b[:], r)])
	d := p.Decomposition()
	if d == nil || laterDecompositions.contain(r) {
		return append(parts, part{r: r, ccc: p.CCC()})
	}
	for change := 0; len(d) > 0; change = 1 {
		r, n := utf8.DecodeRune(d)
		parts = append(parts, part{r: r, ccc: norm.NFD.Properties(d).CCC(), change: change})
		d = d[n:]
	}
	return parts
}

// composite returns the character that a followed by b composes to; nothing below U+0300 composes with what stands before it.
func composite(a, b rune) (rune, bool) {
	if b < 0x300 {
		return 0, false
	}
	var buf, out [2 * utf8.UTFMax]byte
	s := utf8.AppendRune(utf8.AppendRune(buf[:0], a), b)
	c := norm.NFC.Append(out[:0], s...)
	r, n := utf8.DecodeRune(c)
	return r, n == len(c)
}

func (f unicodeForm) normalize(t *text) error {
	if f.form.IsNormal(t.buf) {
		return nil
	}
	x := transform{t: t}
	var parts []part
	flush := func() {
		order(parts)
		if f.compose {
			parts = recompose(parts)
		}
		for _, p := range parts {
			x.emit(p.r, p.change)
		}
		parts = parts[:0]
	}
	for src := t.begin(); len(src) > 0; {
		r, n := utf8.DecodeRune(src)
		if f.form.Properties(src).BoundaryBefore() {
			flush()
		}
		src = src[n:]
		parts = f.decompose(parts, r)
	}
	flush()
	return nil
}

// order brings parts into canonical order.
func order(parts []part) {
	for len(parts) > 0 {
		n := slices.IndexFunc(parts, func(p part) bool { return p.ccc == 0 })
		if n < 0 {
			n = len(parts)
		}
		slices.SortStableFunc(parts[:n], func(a, b part) int { return int(a.ccc) - int(b.ccc) })
		parts = parts[min(n+1, len(parts)):]
	}
}

// recompose composes, in place, what is in canonical order.
func recompose(parts []part) []part {
	out := parts[:0]
	starter := -1
	for _, p := range parts {
		if last := len(out) - 1; starter >= 0 && (last == starter || out[last].ccc < p.ccc) {
			if r, ok := composite(out[starter].r, p.r); ok {
				out[starter].r = r
				out[starter].change += p.change - 1
				continue
			}
		}
		if p.ccc == 0 {
			starter = len(out)
		}
		out = append(out, p)
	}
	return out
}
