package processors

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// pattern finds things in a text.
type pattern interface {
	// find appends to dst where the pattern matches in s, which is valid UTF-8, in order and without overlaps.
	find(dst []span, s []byte) ([]span, error)
}

// literal finds a string that is not empty.
type literal string

func (l literal) find(dst []span, s []byte) ([]span, error) {
	key := []byte(l)
	for at := 0; ; {
		i := bytes.Index(s[at:], key)
		if i < 0 {
			return dst, nil
		}
		dst = append(dst, span{start: at + i, end: at + i + len(l)})
		at += i + len(l)
	}
}

// scanner finds what one well-known regular expression matches, by a function written for it: it returns the end of the match that
// begins at i, or i if there is none.
type scanner struct {
	scan    func(c *classes, s []byte, i int) int
	classes *classes
}

func (p scanner) find(dst []span, s []byte) ([]span, error) {
	for i := 0; i < len(s); {
		end := p.scan(p.classes, s, i)
		if end > i {
			dst = append(dst, span{start: i, end: end})
			i = end
			continue
		}
		_, n := utf8.DecodeRune(s[i:])
		i += n
	}
	return dst, nil
}

// The regular expressions by which tokenizers in wide use split a text.
const (
	gpt2Pattern   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwenPattern   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	clipPattern   = `<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`
)

var scanners = map[string]func(c *classes, s []byte, i int) int{
	gpt2Pattern:   scanGPT2,
	llama3Pattern: func(c *classes, s []byte, i int) int { return scanTiktoken(c, s, i, 3) },
	qwenPattern:   func(c *classes, s []byte, i int) int { return scanTiktoken(c, s, i, 1) },
	clipPattern:   scanCLIP,
	`\s+`:         func(c *classes, s []byte, i int) int { return run(c, s, i, space, space) },
	` {2,}`:       scanSpaces,
}

// run returns the end of the run of characters at i of which those class bits that are in mask equal want. A mask of several bits with
// want 0 is "none of these"; want equal to a single bit's mask is "this".
func run(c *classes, s []byte, i int, mask, want class) int {
	for i < len(s) {
		k, n := c.next(s, i)
		if k&mask != want {
			break
		}
		i += n
	}
	return i
}

// contraction returns the end of an English contraction ('s, 't, 're, 've, 'm, 'll, 'd) at i, where an apostrophe stands, or i.
func contraction(s []byte, i int, fold bool) int {
	var two [2]byte
	n := copy(two[:], s[i+1:])
	if fold {
		if bytes.HasPrefix(s[i+1:], []byte("ſ")) { // folds to s
			return i + 1 + len("ſ")
		}
		for j := range two {
			if 'A' <= two[j] && two[j] <= 'Z' {
				two[j] += 'a' - 'A'
			}
		}
	}
	if n == 0 {
		return i
	}
	switch two[0] {
	case 's', 't', 'm', 'd':
		return i + 2
	}
	switch string(two[:n]) {
	case "re", "ve", "ll":
		return i + 3
	}
	return i
}

// spaces returns the end of the match of \s+(?!\S)|\s+ at i, where white space stands.
func spaces(c *classes, s []byte, i int) int {
	last := i
	for end := i; end < len(s); {
		k, n := c.next(s, end)
		if k&space == 0 {
			if last > i {
				return last
			}
			return end
		}
		last = end
		end += n
	}
	return len(s)
}

func scanGPT2(c *classes, s []byte, i int) int {
	if s[i] == '\'' {
		if end := contraction(s, i, false); end > i {
			return end
		}
	}
	at := i
	if s[i] == ' ' && i+1 < len(s) {
		at++
	}
	switch k, _ := c.next(s, at); {
	case k&letter != 0:
		return run(c, s, at, letter, letter)
	case k&number != 0:
		return run(c, s, at, number, number)
	case k&space == 0:
		return run(c, s, at, space|letter|number, 0)
	}
	return spaces(c, s, i)
}

// scanTiktoken is the pattern of GPT-4's tokenizer and its descendants, which split numbers into groups of so many digits.
func scanTiktoken(c *classes, s []byte, i, digits int) int {
	if s[i] == '\'' {
		if end := contraction(s, i, true); end > i {
			return end
		}
	}
	k, n := c.next(s, i)
	if k&letter != 0 {
		return run(c, s, i, letter, letter)
	}
	if k&number != 0 {
		for end := i; ; {
			end += n
			if digits--; digits == 0 || end == len(s) {
				return end
			}
			if k, n = c.next(s, end); k&number == 0 {
				return end
			}
		}
	}
	var next class // of the second character
	if i+n < len(s) {
		next, _ = c.next(s, i+n)
		if next&letter != 0 && s[i] != '\r' && s[i] != '\n' {
			return run(c, s, i+n, letter, letter)
		}
	}
	if k&space == 0 || s[i] == ' ' && i+1 < len(s) && next&(space|letter|number) == 0 {
		if k&space != 0 {
			i++
		}
		end := run(c, s, i, space|letter|number, 0)
		for end < len(s) && (s[end] == '\r' || s[end] == '\n') {
			end++
		}
		return end
	}
	if end := bytes.LastIndexAny(s[i:run(c, s, i, space, space)], "\r\n"); end >= 0 {
		return i + end + 1
	}
	return spaces(c, s, i)
}

func scanCLIP(c *classes, s []byte, i int) int {
	switch s[i] {
	case '<':
		for _, token := range []string{"<|startoftext|>", "<|endoftext|>"} {
			if len(s)-i >= len(token) && string(s[i:i+len(token)]) == token {
				return i + len(token)
			}
		}
	case '\'':
		if end := contraction(s, i, false); end > i {
			return end
		}
	}
	switch k, n := c.next(s, i); {
	case k&letter != 0:
		return run(c, s, i, letter, letter)
	case k&number != 0:
		return i + n
	case k&space == 0:
		return run(c, s, i, space|letter|number, 0)
	}
	return i
}

func scanSpaces(_ *classes, s []byte, i int) int {
	end := i
	for end < len(s) && s[end] == ' ' {
		end++
	}
	if end-i < 2 {
		return i
	}
	return end
}

// Bounds on regular expressions that come with a tokenizer and are none of the well-known ones.
const (
	maxPattern     = 4096 // bytes
	patternTimeout = 2 * time.Second
)

// regex is any other regular expression, by a backtracking matcher, for Go's own has no lookahead.
type regex struct{ re *regexp2.Regexp }

// newRegex returns what finds the regular expression expr.
func newRegex(expr string) (pattern, error) {
	if scan, ok := scanners[expr]; ok {
		return scanner{scan, unicodeClasses()}, nil
	}
	if len(expr) > maxPattern {
		return nil, fmt.Errorf("the regular expression is %d bytes long, more than the %d allowed", len(expr), maxPattern)
	}
	re, err := regexp2.Compile(expr, regexp2.None)
	if err != nil {
		return nil, err
	}
	re.MatchTimeout = patternTimeout
	return regex{re}, nil
}

func (p regex) find(dst []span, s []byte) ([]span, error) {
	// The matcher counts in runes.
	runes := []rune(string(s))
	at, rest := 0, 0 // rune at begins at byte rest
	seek := func(i int) int {
		for ; at < i; at++ {
			rest += utf8.RuneLen(runes[at])
		}
		return rest
	}
	deadline := time.Now().Add(patternTimeout)
	m, err := p.re.FindRunesMatch(runes)
	for m != nil && err == nil {
		start := seek(m.Index)
		dst = append(dst, span{start: start, end: seek(m.Index + m.Length)})
		if time.Now().After(deadline) {
			err = fmt.Errorf("match timeout after %v", patternTimeout)
			break
		}
		m, err = p.re.FindNextMatch(m)
	}
	if err != nil {
		return nil, &TextError{Offset: none, Reason: "matching the tokenizer's pattern " + shorten(p.re.String()) + " takes too long: " + err.Error()}
	}
	return dst, nil
}

// shorten makes a string from a file fit for a message.
func shorten(s string) string {
	const limit = 60
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}
