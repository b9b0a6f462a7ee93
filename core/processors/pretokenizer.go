package processors

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// span is a part of a text, in bytes. In a list of words, id is the added token that stands there, or none.
type span struct {
	start, end int
	id         int32
}

// words are the parts that a text has been split into so far.
type words struct {
	list     []span
	previous []span // what list is made from
	matches  []span
	segments []segment
}

// refine calls f for each word that is not an added token; f adds what it is split into.
func (w *words) refine(f func(word span) error) error {
	w.list, w.previous = w.previous[:0], w.list
	for _, word := range w.previous {
		if word.id != none {
			w.list = append(w.list, word)
			continue
		}
		if err := f(word); err != nil {
			return err
		}
	}
	return nil
}

func (w *words) add(start, end int) {
	if start < end {
		w.list = append(w.list, span{start, end, none})
	}
}

// preTokenizer splits the words of a text further. It may rewrite the text.
type preTokenizer interface {
	preTokenize(t *text, w *words) error
}

type preTokenizerSequence []preTokenizer

func (s preTokenizerSequence) preTokenize(t *text, w *words) error {
	for _, p := range s {
		if err := p.preTokenize(t, w); err != nil {
			return err
		}
		if err := t.checkGrowth(); err != nil {
			return err
		}
	}
	return nil
}

// bertPreTokenizer splits at white space, which it removes, and around each punctuation mark.
type bertPreTokenizer struct{ classes *classes }

func (p bertPreTokenizer) preTokenize(t *text, w *words) error {
	return w.refine(func(word span) error {
		start := word.start
		for i := start; i < word.end; {
			k, n := p.classes.next(t.buf, i)
			if k&(space|punct) != 0 {
				w.add(start, i)
				start = i + n
				if k&space == 0 {
					w.add(i, start)
				}
			}
			i += n
		}
		w.add(start, word.end)
		return nil
	})
}

// behavior is what becomes of the matches at which a text is split.
type behavior int

const (
	removed behavior = iota
	isolated
	mergedWithPrevious
	mergedWithNext
	contiguous
)

var behaviors = map[string]behavior{
	"Removed":            removed,
	"Isolated":           isolated,
	"MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext":     mergedWithNext,
	"Contiguous":         contiguous,
}

// split splits at the matches of a pattern, or, if inverted, at what is between them.
type split struct {
	pattern  pattern
	behavior behavior
	invert   bool
}

// segment is a match, or what is between two of them.
type segment struct {
	start, end int
	match      bool
}

func (p split) preTokenize(t *text, w *words) error {
	return w.refine(func(word span) error {
		var err error
		if w.matches, err = p.pattern.find(w.matches[:0], t.buf[word.start:word.end]); err != nil {
			return err
		}
		w.segments = w.segments[:0]
		done := word.start
		add := func(start, end int, match bool) {
			if start < end {
				w.segments = append(w.segments, segment{start, end, match != p.invert})
			}
			done = end
		}
		for _, m := range w.matches {
			add(done, word.start+m.start, false)
			add(done, word.start+m.end, true)
		}
		add(done, word.end, false)
		p.behavior.apply(w.segments, w)
		return nil
	})
}

func (b behavior) apply(segments []segment, w *words) {
	for i := 0; i < len(segments); {
		s := segments[i]
		next := i + 1
		switch b {
		case removed:
			if s.match {
				s.end = s.start
			}
		case mergedWithPrevious:
			if !s.match && next < len(segments) && segments[next].match {
				next++
			}
		case mergedWithNext:
			if s.match && next < len(segments) && !segments[next].match {
				next++
			}
		case contiguous:
			for next < len(segments) && segments[next].match == s.match {
				next++
			}
		}
		if next > i+1 {
			s.end = segments[next-1].end
		}
		w.add(s.start, s.end)
		i = next
	}
}

// anyOf finds single characters of some classes.
type anyOf struct {
	classes *classes
	bits    class
}

func (p anyOf) find(dst []span, s []byte) ([]span, error) {
	for i := 0; i < len(s); {
		k, n := p.classes.next(s, i)
		if k&p.bits != 0 {
			dst = append(dst, span{start: i, end: i + n})
		}
		i += n
	}
	return dst, nil
}

// wordsOrSymbols is the regular expression \w+|[^\w\s]+.
type wordsOrSymbols struct{}

func (wordsOrSymbols) find(dst []span, s []byte) ([]span, error) {
	start, was := 0, ' '
	for i := 0; i <= len(s); {
		kind, n := ' ', 1
		if i < len(s) {
			var r rune
			r, n = utf8.DecodeRune(s[i:])
			switch {
			case isWord(r):
				kind = 'w'
			case !unicode.IsSpace(r):
				kind = 's'
			}
		}
		if kind != was {
			if was != ' ' {
				dst = append(dst, span{start: start, end: i})
			}
			start, was = i, kind
		}
		i += n
	}
	return dst, nil
}

// byteLevel makes each byte a character of its own. The model that follows works on bytes (see byteAlphabet), so that nothing
// is left to do here but to split, as GPT-2 does.
type byteLevel struct {
	prefixSpace bool
	split       preTokenizer // nil if the text is split already
}

func (p byteLevel) preTokenize(t *text, w *words) error {
	if p.prefixSpace {
		prefixWords(t, w, " ", func(word span) bool { return t.buf[word.start] != ' ' })
	}
	if p.split == nil {
		return nil
	}
	return p.split.preTokenize(t, w)
}

// prefixWords inserts a prefix before the words that need one.
func prefixWords(t *text, w *words, prefix string, needs func(word span) bool) {
	needed := false
	for i, word := range w.list {
		if word.id == none && needs(word) {
			w.list[i].id = prefixed
			needed = true
		}
	}
	if !needed {
		return
	}
	t.begin()
	for i, word := range w.list {
		start := len(t.buf)
		if word.id == prefixed {
			t.insert(prefix, word.start)
			word.id = none
		}
		t.keep(word.start, word.end)
		w.list[i] = span{start, len(t.buf), word.id}
	}
}

// prefixed marks a word that is to have a prefix.
const prefixed = none - 1

// metaspace makes spaces visible, puts one before the text if need be, and splits before each.
type metaspace struct {
	visible string // one character
	prepend prependScheme
	split   bool
}

type prependScheme int

const (
	prependNever  prependScheme = iota
	prependFirst                // only at the start of the input
	prependAlways               // before each part of it
)

var prependSchemes = map[string]prependScheme{"never": prependNever, "first": prependFirst, "always": prependAlways}

func (p metaspace) preTokenize(t *text, w *words) error {
	src := t.begin()
	for i, word := range w.list {
		if word.id != none {
			start := len(t.buf)
			t.keep(word.start, word.end)
			w.list[i] = span{start, len(t.buf), word.id}
			continue
		}
		start := len(t.buf)
		s := src[word.start:word.end]
		if s[0] != ' ' && !bytes.HasPrefix(s, []byte(p.visible)) &&
			(p.prepend == prependAlways || p.prepend == prependFirst && t.base == 0 && word.start == 0) {
			t.insert(p.visible, word.start)
		}
		for from := word.start; from < word.end; {
			n := bytes.IndexByte(src[from:word.end], ' ')
			if n < 0 {
				t.keep(from, word.end)
				break
			}
			t.keep(from, from+n)
			t.insert(p.visible, from+n)
			from += n + 1
		}
		w.list[i] = span{start, len(t.buf), none}
	}
	if !p.split {
		return nil
	}
	return split{pattern: literal(p.visible), behavior: mergedWithNext}.preTokenize(t, w)
}
