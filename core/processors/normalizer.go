package processors

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// normalizer rewrites a stretch of the input before it is split into words.
type normalizer interface {
	normalize(t *text) error
}

type normalizerSequence []normalizer

func (s normalizerSequence) normalize(t *text) error {
	for _, n := range s {
		if err := n.normalize(t); err != nil {
			return err
		}
		if err := t.checkGrowth(); err != nil {
			return err
		}
	}
	return nil
}

// runeMap replaces each character by another one, or by none.
type runeMap func(r rune) (to rune, keep bool)

func (f runeMap) normalize(t *text) error {
	t.rewrite(func(r rune, i, width int) {
		if to, ok := f(r); ok {
			t.put(to, i, width)
		}
	})
	return nil
}

// lowercase maps each character to lower case by itself, without context and locale.
type lowercase struct{}

// The one character whose lower case is two characters in every locale (Unicode's SpecialCasing.txt).
const (
	capitalDottedI = 'İ'
	dotAbove       = "\u0307"
)

func (lowercase) normalize(t *text) error {
	t.rewrite(t.putLower)
	return nil
}

// putLower is put in lower case.
func (t *text) putLower(r rune, from, width int) {
	t.put(unicode.ToLower(r), from, width)
	if r == capitalDottedI {
		t.insert(dotAbove, from)
	}
}

// spacedIdeographs puts a space before and after each CJK ideograph.
type spacedIdeographs struct{ classes *classes }

func (n spacedIdeographs) normalize(t *text) error {
	t.rewrite(func(r rune, i, width int) {
		if n.classes.of(r)&ideograph == 0 {
			t.put(r, i, width)
			return
		}
		t.insert(" ", i)
		t.put(r, i, width)
		t.insert(" ", i)
	})
	return nil
}

// stripSpace removes white space from the ends.
type stripSpace struct{ left, right bool }

func (n stripSpace) normalize(t *text) error {
	src := t.begin()
	from, to := 0, len(src)
	if n.left {
		from = to - len(bytes.TrimLeftFunc(src, unicode.IsSpace))
	}
	if n.right {
		to = from + len(bytes.TrimRightFunc(src[from:], unicode.IsSpace))
	}
	t.keep(from, to)
	return nil
}

// prepend puts a string before a text that is not empty.
type prepend string

func (p prepend) normalize(t *text) error {
	if src := t.begin(); len(src) > 0 {
		t.insert(string(p), 0)
		t.keep(0, len(src))
	}
	return nil
}

// replace puts a string in the place of each match of a pattern.
type replace struct {
	pattern pattern
	by      string
}

func (n replace) normalize(t *text) error {
	src := t.begin()
	matches, err := n.pattern.find(nil, src)
	if err != nil {
		return err
	}
	if len(matches) == 0 {
		t.abandon()
		return nil
	}
	done := 0
	for _, m := range matches {
		t.keep(done, m.start)
		t.insert(n.by, m.end-1) // from the last character replaced; none for an empty match at the start
		done = m.end
		if err := t.checkGrowth(); err != nil {
			return err
		}
	}
	t.keep(done, len(src))
	return nil
}

// nmt is the clean-up that SentencePiece's nmt_* rules begin with.
func nmt(r rune) (rune, bool) {
	switch {
	case r == 0x9, r == 0xA, r == 0xC, r == 0xD, r == 0x1680, 0x200B <= r && r <= 0x200F, r == 0x2028, r == 0x2029, r == 0x2581, r == 0xFEFF,
		r == utf8.RuneError:
		return ' ', true
	case 0x1 <= r && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
		return 0, false
	}
	return r, true
}

// bertNormalizer is what BERT does to a text, in one pass: clean up, put spaces around ideographs, strip accents, lower the case
// (Devlin et al. 2018; BasicTokenizer in the code published with it).
type bertNormalizer struct {
	clean, ideographs, strip, lower bool
	classes                         *classes
	ascii                           [256]byte // what an ASCII character becomes, 0 where that is not one character
}

func newBertNormalizer(clean, ideographs, strip, lower bool) *bertNormalizer {
	n := &bertNormalizer{clean: clean, ideographs: ideographs, strip: strip, lower: lower, classes: unicodeClasses()}
	for c := range rune(utf8.RuneSelf) {
		to, keep := c, true
		if clean {
			to, keep = n.cleaned(c)
		}
		if lower {
			to = unicode.ToLower(to)
		}
		if keep {
			n.ascii[c] = byte(to)
		}
	}
	return n
}

func (n *bertNormalizer) cleaned(r rune) (rune, bool) {
	switch c := n.classes.of(r); {
	case r == 0, r == utf8.RuneError, c&control != 0:
		return 0, false
	case c&space != 0:
		return ' ', true
	}
	return r, true
}

func (n *bertNormalizer) normalize(t *text) error {
	src := t.begin()
	i := 0
	if !t.srcMoved {
		for i < len(src) && n.ascii[src[i]] != 0 {
			t.buf = append(t.buf, n.ascii[src[i]])
			i++
		}
	}
	for i < len(src) {
		if c := n.ascii[src[i]]; c != 0 {
			t.put(rune(c), i, 1)
			i++
			continue
		}
		r, width := utf8.DecodeRune(src[i:])
		if !n.rune(t, r, i, width) {
			t.abandon()
			return n.passes().normalize(t)
		}
		i += width
	}
	return nil
}

// rune handles one character. It reports false where characters would change their order, which only whole passes do right.
func (n *bertNormalizer) rune(t *text, r rune, i, width int) bool {
	if n.clean {
		var keep bool
		if r, keep = n.cleaned(r); !keep {
			return true
		}
	}
	put := t.put
	if n.lower {
		put = t.putLower
	}
	spaced := n.ideographs && n.classes.of(r)&ideograph != 0
	if spaced {
		t.insert(" ", i)
	}
	if !n.strip {
		put(r, i, width)
	} else {
		var parts [8]part
		for _, p := range unicodeForms["NFD"].decompose(parts[:0], r) {
			if n.classes.of(p.r)&accent != 0 {
				continue
			}
			if p.ccc != 0 {
				return false
			}
			put(p.r, i, width)
		}
	}
	if spaced {
		t.insert(" ", i)
	}
	return true
}

// passes is the same, one thing after another.
func (n *bertNormalizer) passes() normalizerSequence {
	var s normalizerSequence
	if n.clean {
		s = append(s, runeMap(n.cleaned))
	}
	if n.ideographs {
		s = append(s, spacedIdeographs{n.classes})
	}
	if n.strip {
		s = append(s, unicodeForms["NFD"], without(n.classes, accent))
	}
	if n.lower {
		s = append(s, lowercase{})
	}
	return s
}

// without removes the characters of a class.
func without(c *classes, bits class) runeMap {
	return func(r rune) (rune, bool) { return r, c.of(r)&bits == 0 }
}
