package processors

import (
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// class says what kind of character one is, as a set of bits.
type class uint8

const (
	letter    class = 1 << iota // \p{L}
	number                      // \p{N}
	space                       // White_Space
	punct                       // what BERT splits off: \p{P} and ASCII's symbols
	control                     // what BERT's clean-up removes: \p{Cc}, \p{Cf}, \p{Co}, but not tab, newline, carriage return
	accent                      // what BERT strips: \p{Mn}
	combining                   // what StripAccents strips: \p{M}
	ideograph                   // what BERT puts spaces around: CJK ideographs
)

// Where the library that tokenizers are trained with uses tables of another Unicode version than Go's, these are the differences:
// ranges of code points, in hexadecimal. Its \p{L} and \p{N} are of Unicode 16, newer than Go's 15; its punctuation and marks of Unicode 8
// and 9, older. The test's table of every class, taken from that library, judges them.
const (
	newerLetters = "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 11380-11389 1138b 1138e 11390-113b5 " +
		"113b7 113d1 113d3 11bc0-11be0 13460-143fa 16100-1611d 16d40-16d6c 18cff 1e5d0-1e5ed 1e5f0 2ebf0-2ee5d"
	newerNumbers = "10d40-10d49 116d0-116e3 11bf0-11bf9 16130-16139 16d70-16d79 1ccf0-1ccf9 1e5f1-1e5fa"
	olderPunct   = "166d 111c9"
	laterPunct   = "61d 9fd a76 c77 c84 1b7d-1b7e 2e43-2e4f 2e52-2e5d 10ead 10f55-10f59 10f86-10f89 1144b-1144f 1145a-1145b 1145d " +
		"11660-1166c 116b9 1183b 11944-11946 119e2 11a3f-11a46 11a9a-11a9c 11a9e-11aa2 11b00-11b09 11c41-11c45 11c70-11c71 " +
		"11ef7-11ef8 11f43-11f4f 11fff 12ff1-12ff2 16e97-16e9a 16fe2 1e95e-1e95f"
	laterControl = "890-891 8e2 110cd 13430-1343f"
	olderAccents = "1734"
	laterAccents = "7fd 898-89f 8ca-8e1 9fe afa-aff b55 c04 c3c d00 d3b-d3c d81 eba ece 180f 1885-1886 1abf-1ace 1df6-1dfb a82c " +
		"a8c5 a8ff a9bd 10d24-10d27 10eab-10eac 10efd-10eff 10f46-10f50 10f82-10f85 11070 11073-11074 110c2 111c9 111cf 1123e 11241 " +
		"1133b 11438-1143f 11442-11444 11446 1145e 1182f-11837 11839-1183a 1193b-1193c 1193e 11943 119d4-119d7 119da-119db 119e0 " +
		"11a01-11a0a 11a33-11a38 11a3b-11a3e 11a47 11a51-11a56 11a59-11a5b 11a8a-11a96 11a98-11a99 11c30-11c36 11c38-11c3d 11c3f " +
		"11c92-11ca7 11caa-11cb0 11cb2-11cb3 11cb5-11cb6 11d31-11d36 11d3a 11d3c-11d3d 11d3f-11d45 11d47 11d90-11d91 11d95 11d97 " +
		"11ef3-11ef4 11f00-11f01 11f36-11f3a 11f40 11f42 13440 13447-13455 16f4f 16fe4 1cf00-1cf2d 1cf30-1cf46 1e000-1e006 " +
		"1e008-1e018 1e01b-1e021 1e023-1e024 1e026-1e02a 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e944-1e94a"
	olderCombining = "1cf2-1cf3"
	laterCombining = "7fd 898-89f 8ca-8d3 9fe afa-aff b55 c04 c3c cf3 d00 d3b-d3c d81 eba ece 1715 180f 1abf-1ace 1cf7 1df6-1dfa a82c " +
		"a8ff 10d24-10d27 10eab-10eac 10efd-10eff 10f46-10f50 10f82-10f85 11070 11073-11074 110c2 11145-11146 111c9 111ce-111cf 11241 " +
		"1133b 1145e 1182c-1183a 11930-11935 11937-11938 1193b-1193e 11940 11942-11943 119d1-119d7 119da-119e0 119e4 11a01-11a0a " +
		"11a33-11a39 11a3b-11a3e 11a47 11a51-11a5b 11a8a-11a99 11d31-11d36 11d3a 11d3c-11d3d 11d3f-11d45 11d47 11d8a-11d8e " +
		"11d90-11d91 11d93-11d97 11ef3-11ef6 11f00-11f01 11f03 11f34-11f3a 11f3e-11f42 13440 13447-13455 16f4f 16f7f-16f87 16fe4 " +
		"16ff0-16ff1 1cf00-1cf2d 1cf30-1cf46 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef"
	asciiSymbols = "24 2b 3c-3e 5e 60 7c 7e"
	// The fifth range of the original BERT code begins at 2b820; the library's does not.
	ideographs = "3400-4dbf 4e00-9fff f900-faff 20000-2a6df 2a700-2b81f 2b920-2ceaf 2f800-2fa1f"
)

// ranges is a set of code points: the first and the last of each range.
type ranges [][2]rune

// parseRanges reads a table as it is written above.
func parseRanges(s string) ranges {
	var rs ranges
	for f := range strings.FieldsSeq(s) {
		lo, hi, ok := strings.Cut(f, "-")
		if !ok {
			hi = lo
		}
		from, err := strconv.ParseUint(lo, 16, 32)
		to, err2 := strconv.ParseUint(hi, 16, 32)
		if err != nil || err2 != nil || to > unicode.MaxRune {
			panic("processors: bad table of code points: " + f)
		}
		rs = append(rs, [2]rune{rune(from), rune(to)})
	}
	return rs
}

func (rs ranges) contain(r rune) bool {
	for _, x := range rs {
		if x[0] <= r && r <= x[1] {
			return true
		}
	}
	return false
}

// classes is the class of every code point, in pages of 256.
type classes struct {
	page [(unicode.MaxRune + 1) >> 8]uint16
	data [][256]class
}

func (c *classes) of(r rune) class {
	return c.data[c.page[r>>8]][r&0xff]
}

// next returns the class of the character that b, valid UTF-8, has at i, and its width in bytes.
func (c *classes) next(b []byte, i int) (class, int) {
	if b[i] < utf8.RuneSelf {
		return c.data[0][b[i]], 1
	}
	r, n := utf8.DecodeRune(b[i:])
	return c.of(r), n
}

// unicodeClasses builds the table once, when the first tokenizer is opened.
var unicodeClasses = sync.OnceValue(func() *classes {
	all := make([]class, unicode.MaxRune+1)
	set := func(bit class, tables ...*unicode.RangeTable) {
		for _, t := range tables {
			for _, r := range t.R16 {
				for c := uint32(r.Lo); c <= uint32(r.Hi); c += uint32(r.Stride) {
					all[c] |= bit
				}
			}
			for _, r := range t.R32 {
				for c := r.Lo; c <= r.Hi; c += r.Stride {
					all[c] |= bit
				}
			}
		}
	}
	add := func(bit class, rs string) {
		for _, r := range parseRanges(rs) {
			for c := r[0]; c <= r[1]; c++ {
				all[c] |= bit
			}
		}
	}
	remove := func(bit class, rs string) {
		for _, r := range parseRanges(rs) {
			for c := r[0]; c <= r[1]; c++ {
				all[c] &^= bit
			}
		}
	}

	set(letter, unicode.L)
	add(letter, newerLetters)
	set(number, unicode.N)
	add(number, newerNumbers)
	set(space, unicode.White_Space)
	set(punct, unicode.P)
	add(punct, asciiSymbols+" "+olderPunct)
	remove(punct, laterPunct)
	set(control, unicode.Cc, unicode.Cf, unicode.Co)
	remove(control, "9-a d "+laterControl)
	set(accent, unicode.Mn)
	add(accent, olderAccents)
	remove(accent, laterAccents)
	set(combining, unicode.M)
	add(combining, olderCombining)
	remove(combining, laterCombining)
	add(ideograph, ideographs)

	c := new(classes)
	seen := make(map[[256]class]uint16)
	for p := range c.page {
		block := [256]class(all[p<<8:])
		n, ok := seen[block]
		if !ok {
			n = uint16(len(c.data))
			seen[block] = n
			c.data = append(c.data, block)
		}
		c.page[p] = n
	}
	return c
})

// isWord says whether r matches \w as Unicode defines it for regular expressions (UTS 18, annex C).
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}
