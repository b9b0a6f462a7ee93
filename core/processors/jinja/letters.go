package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// Letters change their case by the rules of Unicode that go for every language, among them those by which one becomes several.

func upper(s string) string { return change(s, unicode.ToUpper, cases.Upper) }
func lower(s string) string { return change(s, unicode.ToLower, cases.Lower) }

func change(s string, ascii func(r rune) rune, full func(t language.Tag, opts ...cases.Option) cases.Caser) string {
	if len(s) == utf8.RuneCountInString(s) {
		return strings.Map(ascii, s)
	}
	return full(language.Und).String(s)
}

// titleCase returns what one character is at the start of a word.
func titleCase(r rune) string {
	if r < utf8.RuneSelf {
		return string(unicode.ToTitle(r))
	}
	return cases.Title(language.Und).String(string(r))
}

// capitalize begins a text with a capital letter and makes all others small.
func capitalize(s string) string {
	if s == "" {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	return titleCase(r) + lower(s[n:])
}

// title begins what stands behind anything but a letter with a capital one, as Python's str.title does.
func title(s string) string {
	var b strings.Builder
	inside := false
	for i, r := range s {
		switch {
		case !unicode.IsLetter(r):
			b.WriteRune(r)
		case inside:
			b.WriteString(lower(s[i : i+utf8.RuneLen(r)]))
		default:
			b.WriteString(titleCase(r))
		}
		inside = unicode.IsLetter(r)
	}
	return b.String()
}

// titleWords begins words with a capital letter, as the filter title does: only white space, hyphens and opening brackets end one.
func titleWords(s string) string {
	var b strings.Builder
	word := func(w string) {
		if w != "" {
			r, n := utf8.DecodeRuneInString(w)
			b.WriteString(upper(string(r)) + lower(w[n:]))
		}
	}
	start := 0
	for i, r := range s {
		if isSpace(r) || strings.ContainsRune("-({[<", r) {
			word(s[start:i])
			b.WriteRune(r)
			start = i + utf8.RuneLen(r)
		}
	}
	word(s[start:])
	return b.String()
}
