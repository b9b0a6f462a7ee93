package jinja

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenData
	tokenVariable    // {{
	tokenVariableEnd // }}
	tokenBlock       // {%
	tokenBlockEnd    // %}
	tokenName
	tokenString
	tokenNumber
	tokenOperator
)

// position is a byte of the source, counted from 0.
type position int

type lexed struct {
	kind  tokenKind
	text  string // of data, names, strings and operators
	value any    // of numbers
	pos   position
}

// lexer cuts a template into tokens.
type lexer struct {
	source string // with newlines as they are counted
	at     int
	tokens []lexed
}

// lex returns the tokens of a template, of which the last is tokenEnd, and the source that their positions count in.
func lex(source string) ([]lexed, string, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	l := &lexer{source: strings.TrimSuffix(source, "\n")}
	if err := l.root(); err != nil {
		return nil, "", err
	}
	return l.tokens, l.source, nil
}

// root reads text and the tags in it.
func (l *lexer) root() error {
	lineStart := true // the text begins a line
	for {
		start := l.at
		open := l.nextTag()
		if open < 0 {
			l.emit(tokenData, l.source[start:], start)
			l.at = len(l.source)
			l.emit(tokenEnd, "", l.at)
			return nil
		}
		tag := l.source[open : open+2]
		l.at = open + 2
		sign := l.sign()
		l.data(start, open, sign, tag != "{{", lineStart)
		var err error
		switch tag {
		case "{#":
			err = l.comment(open)
		case "{{":
			l.emit(tokenVariable, "", open)
			err = l.tag(open, tokenVariableEnd, "}}")
		default:
			var raw bool
			if raw, err = l.raw(open); !raw && err == nil {
				l.emit(tokenBlock, "", open)
				err = l.tag(open, tokenBlockEnd, "%}")
			}
		}
		if err != nil {
			return err
		}
		lineStart = l.source[l.at-1] == '\n'
	}
}

func (l *lexer) emit(kind tokenKind, text string, at int) {
	if kind != tokenData || text != "" {
		l.tokens = append(l.tokens, lexed{kind: kind, text: text, pos: position(at)})
	}
}

func (l *lexer) fail(at int, format string, args ...any) error {
	return newError(l.source, Syntax, position(at), format, args...)
}

// nextTag returns where the next tag opens, or -1.
func (l *lexer) nextTag() int {
	for at := l.at; ; at++ {
		i := strings.IndexByte(l.source[at:], '{')
		if i < 0 || at+i+1 == len(l.source) {
			return -1
		}
		at += i
		switch l.source[at+1] {
		case '{', '%', '#':
			return at
		}
	}
}

// sign reads the sign after a tag's opening, which says what becomes of the white space before it.
func (l *lexer) sign() byte {
	if l.at < len(l.source) && (l.source[l.at] == '-' || l.source[l.at] == '+') {
		l.at++
		return l.source[l.at-1]
	}
	return 0
}

// data emits the text before a tag, less the white space that the tag takes away.
func (l *lexer) data(start, end int, sign byte, block, lineStart bool) {
	text := l.source[start:end]
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case sign == 0 && block:
		line := strings.LastIndexByte(text, '\n') + 1
		if (line > 0 || lineStart) && strings.TrimFunc(text[line:], isSpace) == "" {
			text = text[:line]
		}
	}
	l.emit(tokenData, text, start)
}

// closed reads a tag's end with its sign, and the white space that it takes away. It says whether the end is there.
func (l *lexer) closed(end string, trim bool) bool {
	rest := l.source[l.at:]
	switch {
	case strings.HasPrefix(rest, "-"+end):
		rest = strings.TrimLeftFunc(rest[len(end)+1:], isSpace)
	case trim && strings.HasPrefix(rest, "+"+end):
		rest = rest[len(end)+1:]
	case strings.HasPrefix(rest, end):
		rest = rest[len(end):]
		if trim {
			rest = strings.TrimPrefix(rest, "\n")
		}
	default:
		return false
	}
	l.at = len(l.source) - len(rest)
	return true
}

func (l *lexer) comment(open int) error {
	for ; l.at < len(l.source); l.at++ {
		if l.closed("#}", true) {
			return nil
		}
	}
	return l.fail(open, "the comment is not closed by #}")
}

// raw reads text between {% raw %} and {% endraw %}, if it is that.
func (l *lexer) raw(open int) (bool, error) {
	saved := l.at
	l.spaces()
	if !strings.HasPrefix(l.source[l.at:], "raw") {
		l.at = saved
		return false, nil
	}
	l.at += len("raw")
	l.spaces()
	if !l.closed("%}", false) {
		l.at = saved
		return false, nil
	}
	lineStart := l.source[l.at-1] == '\n'
	for start := l.at; ; {
		i := strings.Index(l.source[l.at:], "{%")
		if i < 0 {
			return true, l.fail(open, "the raw block is not closed by {%% endraw %%}")
		}
		end := l.at + i
		l.at = end + 2
		sign := l.sign()
		l.spaces()
		if !strings.HasPrefix(l.source[l.at:], "endraw") {
			continue
		}
		l.at += len("endraw")
		l.spaces()
		if l.closed("%}", true) {
			l.data(start, end, sign, true, lineStart)
			return true, nil
		}
	}
}

func (l *lexer) spaces() {
	l.at = len(l.source) - len(strings.TrimLeftFunc(l.source[l.at:], isSpace))
}

// operators, longer ones first.
var operators = []string{"**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

var closers = map[string]string{"(": ")", "[": "]", "{": "}"}

// tag reads what is inside a tag, and its end.
func (l *lexer) tag(open int, endKind tokenKind, end string) error {
	var expected []string // brackets that close those that are open
	for {
		l.spaces()
		start := l.at
		if start == len(l.source) {
			return l.fail(open, "the tag is not closed by %s", end)
		}
		if len(expected) == 0 && l.closed(end, endKind == tokenBlockEnd) {
			l.emit(endKind, "", start)
			return nil
		}
		c, _ := utf8.DecodeRuneInString(l.source[start:])
		switch {
		case '0' <= c && c <= '9':
			if err := l.number(); err != nil {
				return err
			}
			continue
		case c == '_' || unicode.IsLetter(c):
			for l.at < len(l.source) {
				c, n := utf8.DecodeRuneInString(l.source[l.at:])
				if c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) && !unicode.IsMark(c) {
					break
				}
				l.at += n
			}
			l.emit(tokenName, l.source[start:l.at], start)
			continue
		case c == '\'' || c == '"':
			if err := l.str(byte(c)); err != nil {
				return err
			}
			continue
		}
		var operator string
		for _, o := range operators {
			if strings.HasPrefix(l.source[start:], o) {
				operator = o
				break
			}
		}
		switch operator {
		case "":
			return l.fail(start, "unexpected %q", c)
		case "(", "[", "{":
			expected = append(expected, closers[operator])
		case ")", "]", "}":
			if len(expected) == 0 {
				return l.fail(start, "unexpected %s", operator)
			}
			if want := expected[len(expected)-1]; want != operator {
				return l.fail(start, "unexpected %s, expected %s", operator, want)
			}
			expected = expected[:len(expected)-1]
		}
		l.at += len(operator)
		l.emit(tokenOperator, operator, start)
	}
}

// number reads an integer or a decimal number. After a dot, which asks for an item of a list, it is an integer.
func (l *lexer) number() error {
	start := l.at
	rest := l.source[start:]
	digits := func(at int) int { // end of digits with single underscores between them
		for at < len(rest) && (isDigit(rest[at]) || rest[at] == '_' && at > 0 && isDigit(rest[at-1]) && at+1 < len(rest) && isDigit(rest[at+1])) {
			at++
		}
		return at
	}
	if len(rest) > 2 && rest[0] == '0' && strings.ContainsRune("xXbBoO", rune(rest[1])) {
		end := 2
		for end < len(rest) && (rest[end] == '_' || isDigit(rest[end]) || 'a' <= rest[end]|0x20 && rest[end]|0x20 <= 'f') {
			end++
		}
		return l.integer(start, start+end)
	}
	end := digits(0)
	float := end
	if !(start > 0 && l.source[start-1] == '.') {
		if float+1 < len(rest) && rest[float] == '.' && isDigit(rest[float+1]) {
			float = digits(float + 1)
		}
		if exp := float; exp < len(rest) && rest[exp]|0x20 == 'e' {
			exp++
			if exp < len(rest) && (rest[exp] == '+' || rest[exp] == '-') {
				exp++
			}
			if exp < len(rest) && isDigit(rest[exp]) {
				float = digits(exp)
			}
		}
	}
	if float == end {
		return l.integer(start, start+end)
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(rest[:float], "_", ""), 64)
	if err != nil && !math.IsInf(v, 0) {
		return l.fail(start, "%s is not a number", rest[:float])
	}
	l.at = start + float
	l.tokens = append(l.tokens, lexed{kind: tokenNumber, value: v, pos: position(start)})
	return nil
}

func (l *lexer) integer(start, end int) error {
	text := l.source[start:end]
	base := 0
	if strings.Trim(text, "0_") != "" && text[0] == '0' && len(text) > 1 && isDigit(text[1]) {
		return l.fail(start, "%s begins with a zero", text)
	}
	if strings.Trim(text, "0_") == "" {
		base, text = 10, "0"
	}
	v, err := strconv.ParseInt(text, base, 64)
	if err != nil {
		return l.fail(start, "%s is not an integer of 64 bits", text)
	}
	l.at = end
	l.tokens = append(l.tokens, lexed{kind: tokenNumber, value: v, pos: position(start)})
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isSpace says whether a character is white space, as Python sees it.
func isSpace(r rune) bool { return unicode.IsSpace(r) || 0x1c <= r && r <= 0x1f }

// simpleEscapes are those of one character.
var simpleEscapes = map[byte]string{
	'\n': "", '\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v",
}

// str reads a string.
func (l *lexer) str(quote byte) error {
	start := l.at
	var b strings.Builder
	for i := start + 1; i < len(l.source); i++ {
		c := l.source[i]
		if c == quote {
			l.at = i + 1
			l.tokens = append(l.tokens, lexed{kind: tokenString, text: b.String(), pos: position(start)})
			return nil
		}
		if c != '\\' || i+1 == len(l.source) {
			b.WriteByte(c)
			continue
		}
		i++
		c = l.source[i]
		if s, ok := simpleEscapes[c]; ok {
			b.WriteString(s)
			continue
		}
		digits, base := 0, 16
		switch {
		case c == 'x':
			digits = 2
		case c == 'u':
			digits = 4
		case c == 'U':
			digits = 8
		case '0' <= c && c <= '7':
			base = 8
			for digits < 3 && i+digits < len(l.source) && '0' <= l.source[i+digits] && l.source[i+digits] <= '7' {
				digits++
			}
			i--
		case c == 'N':
			return l.fail(i-1, `escapes like \N{NAME} are not supported: write \u and the code point`)
		default: // not an escape
			b.WriteByte('\\')
			i--
			continue
		}
		if i+digits >= len(l.source) {
			return l.fail(i, "the escape is cut off")
		}
		v, err := strconv.ParseUint(l.source[i+1:i+1+digits], base, 32)
		if err != nil || v > unicode.MaxRune || 0xd800 <= v && v < 0xe000 {
			return l.fail(i, "the escape is not a character")
		}
		b.WriteRune(rune(v))
		i += digits
	}
	return l.fail(start, "the string is not closed")
}

// newError makes an error at a place.
func newError(source string, kind Kind, at position, format string, args ...any) *Error {
	before := source[:min(int(at), len(source))]
	line := strings.LastIndexByte(before, '\n') + 1
	return &Error{kind, 1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[line:]), fmt.Sprintf(format, args...)}
}
