// Package processors turns what users have, texts first of all, into the tensors that models take, and back.
package processors

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Tokenizer turns texts into token ids and back, as the Hugging Face tokenizer that it was opened from does. It is immutable and may be
// used by many goroutines at once.
//
// A text goes through a pipeline: added tokens are cut out; the normalizer rewrites what is between them; the pre-tokenizer splits that
// into words; the model breaks words into tokens; the post-processor puts special tokens around. The decoder leads back.
type Tokenizer struct {
	vocab      *vocabulary
	addedByID  map[int32]AddedToken
	special    SpecialTokens
	maxLength  int
	raw        *addedTokens // looked for in the text as it is
	normalized *addedTokens // looked for in the normalized text
	normalizer normalizer   // or nil
	pre        preTokenizer // or nil
	model      model
	post       postProcessor
	edges      []edge // by id, if post.trim
	decoder    decoder
	scratch    sync.Pool
}

// hole stands in the vocabulary where an id has no token. It is not UTF-8, which every token is.
const hole = "\xff"

// NoToken stands for a special token that a tokenizer does not have.
const NoToken int64 = -1

// SpecialTokens are the ids of tokens with a role of their own, or NoToken.
type SpecialTokens struct {
	Pad  int64 // fills rows of a batch up
	CLS  int64 // begins a sequence that is to be classified
	Sep  int64 // ends a sequence, or stands between two
	Unk  int64 // stands for what the vocabulary can't express
	Mask int64 // is to be guessed
	BOS  int64 // begins a text
	EOS  int64 // ends a text
}

// EncodeOptions say how to encode. The zero value is what most models are trained with.
type EncodeOptions struct {
	// NoSpecial leaves out the special tokens that the post-processor adds.
	NoSpecial bool
	// SpecialAsText treats special tokens that are spelled out in the text like any other text: use it for texts from strangers.
	SpecialAsText bool
	// MaxLength cuts texts so that no more than so many tokens come out, special ones included. 0 means that nothing is cut.
	MaxLength int
	// Cut says which of two texts is cut.
	Cut CutStrategy
	// CutLeft cuts at the start of texts instead of at their end.
	CutLeft bool
}

// CutStrategy says which of two texts is cut if they are too long together.
type CutStrategy int

const (
	CutLongest CutStrategy = iota // the longer one, until they are of a length, then both
	CutFirst
	CutSecond
)

// Encoding is an encoded text, or a pair of them. The slices are of one length.
type Encoding struct {
	// IDs are the tokens, each in [0, VocabSize).
	IDs []int64
	// TypeIDs say which segment a token belongs to, for models that tell segments apart.
	TypeIDs []int64
	// Offsets say which part of its text a token stands for; nothing, {0, 0}, for special tokens that were added.
	Offsets []Offset
	// Sources say which text a token comes from: 0, 1, or Added for the special tokens that were added. Special tokens that are spelled
	// out in the text belong to the text.
	Sources []int8
	// Cut is how many tokens were cut off to keep to MaxLength.
	Cut int
}

// Added is the source of a token that comes from no text.
const Added int8 = -1

// Offset is a part of a text: its first character and the one after its last, counted in code points.
type Offset struct{ Start, End int }

// scratch is what one call of Encode works with. It is used again, unless it has grown large.
type scratch struct {
	text    text
	words   words
	found   []span // added tokens in the text as it is
	pieces  []piece
	tokens  []token
	chars   []int32 // for each byte of the text the number of its character
	symbols []symbol
	heap    mergeHeap
	key     []byte
	best    []reached
	way     []piece
}

// maxScratch is the size of a text, in bytes, past which what it was worked on with is given back to the garbage collector.
const maxScratch = 1 << 18

// VocabSize returns one more than the largest id. There may be ids below it that have no token.
func (t *Tokenizer) VocabSize() int { return len(t.vocab.tokens) }

// TokenToID returns the id of a token, given as it is spelled in the vocabulary, or NoToken.
func (t *Tokenizer) TokenToID(token string) (int64, bool) {
	id := t.vocab.get(token)
	return int64(id), id != none
}

// IDToToken returns a token as it is spelled in the vocabulary.
func (t *Tokenizer) IDToToken(id int64) (string, bool) {
	if id < 0 || id >= int64(len(t.vocab.tokens)) || t.vocab.tokens[id] == hole {
		return "", false
	}
	return t.vocab.tokens[id], true
}

// Special returns the ids of the tokens with a role of their own.
func (t *Tokenizer) Special() SpecialTokens { return t.special }

// AddedTokens returns the tokens that are found in a text before it is split, in the order of their ids.
func (t *Tokenizer) AddedTokens() []AddedToken {
	list := make([]AddedToken, 0, len(t.addedByID))
	for _, a := range t.addedByID {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b AddedToken) int { return int(a.ID - b.ID) })
	return list
}

// MaxLength returns the number of tokens, special ones included, that the tokenizer's configuration says the model takes, or 0 if it does
// not say. It is not applied by itself: see EncodeOptions.MaxLength. Truncation and padding that tokenizer.json may ask for are not
// applied either.
func (t *Tokenizer) MaxLength() int { return t.maxLength }

// Encode encodes one text, which must be UTF-8. Errors are a *TextError or a *TruncationError.
func (t *Tokenizer) Encode(text string, o EncodeOptions) (Encoding, error) {
	return t.encode(o, text)
}

// EncodePair encodes two texts as one sequence. Errors are as Encode's.
func (t *Tokenizer) EncodePair(a, b string, o EncodeOptions) (Encoding, error) {
	return t.encode(o, a, b)
}

func (t *Tokenizer) encode(o EncodeOptions, texts ...string) (Encoding, error) {
	s, _ := t.scratch.Get().(*scratch)
	if s == nil {
		s = new(scratch)
	}
	s.tokens = s.tokens[:0]
	size := 0
	var ends [2]int
	for i, text := range texts {
		if err := t.tokenize(s, text, o.SpecialAsText); err != nil {
			return Encoding{}, err
		}
		ends[i] = len(s.tokens)
		size += len(text)
	}
	parts := [2][]token{s.tokens[:ends[0]]}
	if len(texts) > 1 {
		parts[1] = s.tokens[ends[0]:]
	}
	slots := t.post.slots(len(texts) > 1, o.NoSpecial)
	cut, err := truncate(&parts, special(slots), len(texts), o)
	if err != nil {
		return Encoding{}, err
	}
	e := t.post.assemble(&parts, slots)
	e.Cut = cut
	if size <= maxScratch {
		t.scratch.Put(s)
	}
	return e, nil
}

// truncate cuts the tokens of one or two texts so that, with so many special ones, they keep to o.MaxLength.
func truncate(parts *[2][]token, special, texts int, o EncodeOptions) (cut int, err error) {
	n, m := len(parts[0]), len(parts[1])
	room := o.MaxLength - special
	over := n + m - room
	if o.MaxLength == 0 || over <= 0 {
		return 0, nil
	}
	refuse := func(format string, args ...any) (int, error) {
		return 0, &TruncationError{MaxLength: o.MaxLength, Length: n + m + special, Reason: fmt.Sprintf(format, args...)}
	}
	if room < 0 {
		return refuse("%d special tokens alone are more", special)
	}
	keep := [2]int{n, m}
	switch {
	case texts == 1:
		if o.Cut == CutSecond {
			return refuse("the second text is to be cut, but there is only one")
		}
		keep[0] -= over
	case o.Cut == CutFirst:
		keep[0] -= over
	case o.Cut == CutSecond:
		keep[1] -= over
	default:
		// The shorter text keeps up to half of the room, the longer one the rest; between equals, the second gets the odd token.
		short, long := 0, 1
		if n > m {
			short, long = 1, 0
		}
		keep[short] = min(keep[short], room/2)
		keep[long] = room - keep[short]
	}
	for i := range keep {
		if keep[i] < 0 {
			return refuse("that text has only %d tokens", len(parts[i]))
		}
		if o.CutLeft {
			parts[i] = parts[i][len(parts[i])-keep[i]:]
		} else {
			parts[i] = parts[i][:keep[i]]
		}
	}
	return over, nil
}

// assemble puts texts' tokens and special tokens together.
func (p *postProcessor) assemble(parts *[2][]token, slots []slot) Encoding {
	n := 0
	for _, s := range slots {
		if s.source == Added {
			n++
		} else {
			n += len(parts[s.source])
		}
	}
	ids := make([]int64, 2*n)
	e := Encoding{IDs: ids[:n:n], TypeIDs: ids[n:], Offsets: make([]Offset, n), Sources: make([]int8, n)}
	if p.trim {
		p.trimOffsets(parts[0])
		p.trimOffsets(parts[1])
	}
	at := 0
	for _, s := range slots {
		if s.source == Added {
			e.IDs[at], e.TypeIDs[at], e.Sources[at] = int64(s.id), s.typeID, Added
			at++
			continue
		}
		for _, k := range parts[s.source] {
			e.IDs[at], e.TypeIDs[at], e.Sources[at] = int64(k.id), s.typeID, s.source
			e.Offsets[at] = Offset{int(k.start), int(k.end)}
			at++
		}
	}
	return e
}

// maxText is the size in bytes that a text may have. Times maxGrowth it still is a 32-bit number, which offsets are while at work.
const maxText = 1 << 24

// tokenize appends the tokens of one text to s.tokens.
func (t *Tokenizer) tokenize(s *scratch, text string, specialAsText bool) error {
	if len(text) > maxText {
		return &TextError{Offset: maxText, Reason: fmt.Sprintf("it is longer than %d bytes: encode it in parts", maxText)}
	}
	ascii := true
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	s.chars = s.chars[:0]
	if !ascii {
		if !utf8.ValidString(text) {
			return &TextError{Offset: invalidAt(text), Reason: "it is not UTF-8"}
		}
		char := int32(-1)
		for i := range len(text) {
			if utf8.RuneStart(text[i]) {
				char++
			}
			s.chars = append(s.chars, char)
		}
	}
	s.text.reset(text, 0)
	s.found = t.raw.find(s.found[:0], s.text.buf, specialAsText)
	done := 0
	for _, m := range s.found {
		if err := t.stretch(s, text[done:m.start], done, specialAsText); err != nil {
			return err
		}
		s.text.reset(text[m.start:m.end], m.start)
		t.addToken(s, span{0, m.end - m.start, m.id})
		done = m.end
	}
	return t.stretch(s, text[done:], done, specialAsText)
}

// invalidAt returns where the first byte stands that is not UTF-8.
func invalidAt(s string) int {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return i
		}
	}
	return len(s)
}

// stretch appends the tokens of a part of the text, which begins at byte base of it, to s.tokens.
func (t *Tokenizer) stretch(s *scratch, part string, base int, specialAsText bool) error {
	if part == "" {
		return nil
	}
	s.text.reset(part, base)
	if t.normalizer != nil {
		if err := t.normalizer.normalize(&s.text); err != nil {
			return err
		}
	}
	w := &s.words
	w.list, w.matches = w.list[:0], t.normalized.find(w.matches[:0], s.text.buf, specialAsText)
	done := 0
	for _, m := range w.matches {
		w.add(done, m.start)
		w.list = append(w.list, m)
		done = m.end
	}
	w.add(done, len(s.text.buf))
	if t.pre != nil {
		if err := t.pre.preTokenize(&s.text, w); err != nil {
			return err
		}
	}
	for _, word := range w.list {
		if word.id != none {
			t.addToken(s, word)
			continue
		}
		s.pieces = s.pieces[:0]
		if err := t.model.tokenize(s, s.text.buf[word.start:word.end], word.start); err != nil {
			return err
		}
		for _, p := range s.pieces {
			k := s.locate(p)
			if t.edges != nil {
				k.edge = t.edges[p.id]
			}
			s.tokens = append(s.tokens, k)
		}
	}
	return nil
}

// addToken appends an added token, which stands in s.text, to s.tokens.
func (t *Tokenizer) addToken(s *scratch, w span) {
	k := s.locate(piece{w.id, int32(w.start), int32(w.end)})
	if t.post.trim {
		k.edge = edgeOf(string(s.text.buf[w.start:w.end]))
	}
	s.tokens = append(s.tokens, k)
}

// locate finds the characters of the input that a part of s.text comes from.
func (s *scratch) locate(p piece) token {
	return token{id: p.id, start: s.char(s.text.at(int(p.start)), 0), end: s.char(s.text.at(int(p.end-1)), 1)}
}

// char returns n more than the number of the character that byte i of the input belongs to, or, if i is none, of the first one of s.text.
func (s *scratch) char(i, n int32) int32 {
	if i == none {
		i, n = s.text.base, 0
	}
	if len(s.chars) > 0 {
		i = s.chars[i]
	}
	return i + n
}

// edgeOf counts the white space at the ends of a token, in characters; that of byteAlphabet included.
func edgeOf(token string) edge {
	visible := byteAlphabet[' ']
	isSpace := func(r rune) bool { return r == visible || unicode.IsSpace(r) }
	head := strings.TrimLeftFunc(token, isSpace)
	tail := strings.TrimRightFunc(token, isSpace)
	return edge{int32(utf8.RuneCountInString(token[:len(token)-len(head)])), int32(utf8.RuneCountInString(token[len(tail):]))}
}

// Decode returns the text that ids stand for, without special tokens if so asked. What is not UTF-8 becomes U+FFFD. An id that is not in
// the vocabulary is an *IDError.
func (t *Tokenizer) Decode(ids []int64, skipSpecial bool) (string, error) {
	tokens := make([]string, 0, len(ids))
	for i, id := range ids {
		token, ok := t.IDToToken(id)
		if !ok {
			return "", &IDError{id, i, len(t.vocab.tokens)}
		}
		if skipSpecial && t.addedByID[int32(id)].Special {
			continue
		}
		tokens = append(tokens, token)
	}
	return strings.Join(t.decoder.decode(tokens), ""), nil
}
