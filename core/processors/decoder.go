package processors

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// decoder turns tokens into parts of a text, which are then joined.
type decoder interface {
	decode(tokens []string) []string
	// stream does the same to tokens that come one by one, and passes the parts on.
	stream(next stage) stage
}

type decoderSequence []decoder

func (s decoderSequence) decode(tokens []string) []string {
	for _, d := range s {
		tokens = d.decode(tokens)
	}
	return tokens
}

// joined puts spaces between tokens: what is done where there is no decoder.
type joined struct{}

func (joined) decode(tokens []string) []string { return []string{strings.Join(tokens, " ")} }

// fused makes one part of all.
type fused struct{}

func (fused) decode(tokens []string) []string { return []string{strings.Join(tokens, "")} }

// wordPieceDecoder puts spaces between words.
type wordPieceDecoder struct {
	prefix  string // of tokens that go on with a word
	cleanup bool
}

// pieceCleanup removes, in this order, the spaces that splitting at punctuation has made.
var pieceCleanup = [][2]string{
	{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"}, {" do not", " don't"},
	{" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
}

func (d wordPieceDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		tokens[i] = d.word(t, i == 0)
	}
	return tokens
}

func (d wordPieceDecoder) word(t string, first bool) string {
	if !first {
		if rest, ok := strings.CutPrefix(t, d.prefix); ok {
			t = rest
		} else {
			t = " " + t
		}
	}
	if d.cleanup {
		for _, c := range pieceCleanup {
			t = strings.ReplaceAll(t, c[0], c[1])
		}
	}
	return t
}

// byteLevelDecoder turns the characters of byteAlphabet into bytes. What is then not UTF-8 becomes U+FFFD.
type byteLevelDecoder struct{}

func (byteLevelDecoder) decode(tokens []string) []string {
	var b []byte
	for _, t := range tokens {
		b = appendToken(b, t)
	}
	return []string{toValid(b)}
}

// appendToken appends the bytes that a token stands for: its own if they are not of the alphabet.
func appendToken(b []byte, token string) []byte {
	bytes, ok := fromAlphabet(b, token)
	if !ok {
		return append(b, token...)
	}
	return bytes
}

// toValid replaces each maximal part of b that could begin a UTF-8 sequence, but doesn't, by U+FFFD (Unicode Standard, section 3.9,
// "U+FFFD Substitution of Maximal Subparts"), as other languages' libraries do; Go's own replaces byte by byte or whole runs.
func toValid(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError {
			for n < len(b) && !utf8.FullRune(b[:n+1]) {
				n++
			}
		}
		s.WriteRune(r)
		b = b[n:]
	}
	return s.String()
}

// byteFallbackDecoder turns runs of tokens like <0xE2> into the text that these bytes are, or one U+FFFD for each byte if they are none.
type byteFallbackDecoder struct{}

func (byteFallbackDecoder) decode(tokens []string) []string {
	var out []string
	var run []byte
	for _, t := range tokens {
		if b, ok := byteToken(t); ok {
			run = append(run, b)
			continue
		}
		out = append(append(out, runText(run)...), t)
		run = run[:0]
	}
	return append(out, runText(run)...)
}

// runText returns the parts that a run of byte tokens is.
func runText(run []byte) []string {
	switch {
	case len(run) == 0:
		return nil
	case utf8.Valid(run):
		return []string{string(run)}
	}
	return slices.Repeat([]string{string(utf8.RuneError)}, len(run))
}

// byteToken returns the byte that a token like <0xE2> stands for.
func byteToken(token string) (byte, bool) {
	if len(token) != 6 || !strings.HasPrefix(token, "<0x") || token[5] != '>' {
		return 0, false
	}
	b, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(b), err == nil
}

// metaspaceDecoder turns visible spaces into spaces, and leaves out the one that was put before the text.
type metaspaceDecoder struct {
	visible  string
	prefixed bool
}

func (d metaspaceDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		tokens[i] = d.piece(t, i == 0)
	}
	return tokens
}

func (d metaspaceDecoder) piece(t string, first bool) string {
	by := " "
	if first && d.prefixed {
		by = ""
	}
	return strings.ReplaceAll(t, d.visible, by)
}

// suffixDecoder turns the suffix that ends a word into a space.
type suffixDecoder string

func (d suffixDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		by := " "
		if i == len(tokens)-1 {
			by = ""
		}
		tokens[i] = strings.ReplaceAll(t, string(d), by)
	}
	return tokens
}

// replaceDecoder replaces one string by another in each token.
type replaceDecoder struct{ old, by string }

func (d replaceDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		tokens[i] = strings.ReplaceAll(t, d.old, d.by)
	}
	return tokens
}

// stripDecoder removes up to so many of a character from the ends of each token.
type stripDecoder struct {
	content    string
	start, end int
}

func (d stripDecoder) decode(tokens []string) []string {
	for i, t := range tokens {
		tokens[i] = d.strip(t)
	}
	return tokens
}

func (d stripDecoder) strip(t string) string {
	ok := true
	for n := 0; ok && n < d.start; n++ {
		t, ok = strings.CutPrefix(t, d.content)
	}
	ok = true
	for n := 0; ok && n < d.end; n++ {
		t, ok = strings.CutSuffix(t, d.content)
	}
	return t
}
