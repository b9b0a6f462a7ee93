package processors

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// StreamDecoder turns ids into text as they come. All that Push and Flush return, joined, is what Decode makes of all the ids. It is used
// by one goroutine.
//
// Text comes out as soon as no later token can change it, so it never ends inside a character. What is held back: bytes of an unfinished
// character; a run of byte-fallback tokens until it ends, for one that is not UTF-8 as a whole reads differently from its first byte on;
// white space that is only there if a word follows. Each Push costs what its token's length costs, however long the text is.
type StreamDecoder struct {
	t           *Tokenizer
	skipSpecial bool
	keep        []int64
	pushed      int
	first       stage
	text        sink
}

// Stream returns a decoder of ids that come one by one, without special tokens if so asked, but for those to keep: markers of tool calls,
// for instance.
//
// SentencePiece decoders leave out the space that begins a text. Where a text goes on after another one, a prompt for instance, push the
// other one's ids first and drop what comes out.
func (t *Tokenizer) Stream(skipSpecial bool, keep ...int64) *StreamDecoder {
	d := &StreamDecoder{t: t, skipSpecial: skipSpecial, keep: keep}
	d.first = t.decoder.stream(&d.text)
	return d
}

// Push takes the next id and returns the text that is certain now, often none. An id that is not in the vocabulary is an *IDError and
// leaves the decoder as it was.
func (d *StreamDecoder) Push(id int64) (string, error) {
	token, ok := d.t.IDToToken(id)
	if !ok {
		return "", &IDError{id, d.pushed, len(d.t.vocab.tokens)}
	}
	d.pushed++
	if d.skipSpecial && d.t.addedByID[int32(id)].Special && !slices.Contains(d.keep, id) {
		return "", nil
	}
	d.first.write(token)
	d.first.end()
	return d.text.take(), nil
}

// Flush returns what was held back and ends the text. The next id begins a new one.
func (d *StreamDecoder) Flush() string {
	d.first.close()
	text := d.text.take()
	d.pushed = 0
	d.first = d.t.decoder.stream(&d.text)
	return text
}

// stage is a decoder at work on parts that come in pieces: any number of write and end for each part, then one close. What it makes of
// them it passes on to the next stage in the same way.
type stage interface {
	write(s string) // the part goes on
	end()           // the part ends here
	close()         // there are no more parts
}

// sink ends a chain of stages.
type sink struct{ b strings.Builder }

func (s *sink) write(text string) { s.b.WriteString(text) }
func (s *sink) end()              {}
func (s *sink) close()            {}

func (s *sink) take() string {
	text := s.b.String()
	s.b.Reset()
	return text
}

// gathered are the pieces of a part so far. A part that comes in one piece is kept as it is.
type gathered struct {
	s    string
	more []byte
}

func (p *gathered) write(s string) {
	if p.s == "" && p.more == nil {
		p.s = s
		return
	}
	if p.more == nil {
		p.more = append(p.more, p.s...)
	}
	p.more = append(p.more, s...)
}

func (p *gathered) take() string {
	s := p.s
	if p.more != nil {
		s = string(p.more)
	}
	*p = gathered{}
	return s
}

// wholeStage is the stage of a decoder that looks at each part as a whole.
type wholeStage struct {
	gathered
	next   stage
	decode func(s string, first bool) string
	begun  bool
}

func (w *wholeStage) end() {
	w.next.write(w.decode(w.take(), !w.begun))
	w.next.end()
	w.begun = true
}

func (w *wholeStage) close() { w.next.close() }

func (s decoderSequence) stream(next stage) stage {
	for i := len(s) - 1; i >= 0; i-- {
		next = s[i].stream(next)
	}
	return next
}

// joinedStage makes one part of all, with something in between.
type joinedStage struct {
	next      stage
	separator string
	ended     bool // and the separator is due if another part follows
}

func (j *joinedStage) write(s string) {
	if j.ended {
		j.next.write(j.separator)
		j.ended = false
	}
	j.next.write(s)
}

func (j *joinedStage) end() {
	if j.ended { // a part without a piece
		j.next.write(j.separator)
	}
	j.ended = true
}

func (j *joinedStage) close() {
	j.next.end()
	j.next.close()
}

func (joined) stream(next stage) stage { return &joinedStage{next: next, separator: " "} }
func (fused) stream(next stage) stage  { return &joinedStage{next: next} }

func (d wordPieceDecoder) stream(next stage) stage { return &wholeStage{next: next, decode: d.word} }
func (d metaspaceDecoder) stream(next stage) stage { return &wholeStage{next: next, decode: d.piece} }

func (d replaceDecoder) stream(next stage) stage {
	return &wholeStage{next: next, decode: func(s string, _ bool) string { return strings.ReplaceAll(s, d.old, d.by) }}
}

// byteLevelStage passes on what is whole characters.
type byteLevelStage struct {
	gathered
	next stage
	held []byte // begins a character
}

func (byteLevelDecoder) stream(next stage) stage { return &byteLevelStage{next: next} }

func (b *byteLevelStage) end() {
	b.held = appendToken(b.held, b.take())
	whole := len(b.held)
	for i := 1; i < utf8.UTFMax && i <= len(b.held); i++ {
		if at := len(b.held) - i; utf8.RuneStart(b.held[at]) {
			if !utf8.FullRune(b.held[at:]) {
				whole = at
			}
			break
		}
	}
	b.next.write(toValid(b.held[:whole]))
	b.held = append(b.held[:0], b.held[whole:]...)
}

func (b *byteLevelStage) close() {
	b.next.write(toValid(b.held))
	b.next.end()
	b.next.close()
}

// byteFallbackStage passes on runs of byte tokens when they end.
type byteFallbackStage struct {
	gathered
	next stage
	run  []byte
}

func (byteFallbackDecoder) stream(next stage) stage { return &byteFallbackStage{next: next} }

func (b *byteFallbackStage) end() {
	token := b.take()
	if v, ok := byteToken(token); ok {
		b.run = append(b.run, v)
		return
	}
	b.flush()
	b.next.write(token)
	b.next.end()
}

func (b *byteFallbackStage) flush() {
	for _, s := range runText(b.run) {
		b.next.write(s)
		b.next.end()
	}
	b.run = b.run[:0]
}

func (b *byteFallbackStage) close() {
	b.flush()
	b.next.close()
}

// suffixStage keeps a word's suffix back, which is a space if another word follows.
type suffixStage struct {
	gathered
	next   stage
	suffix string
	held   string // of the last part, from its first suffix on
	begun  bool
}

func (d suffixDecoder) stream(next stage) stage { return &suffixStage{next: next, suffix: string(d)} }

func (s *suffixStage) end() {
	s.release(" ")
	word := s.take()
	at := strings.Index(word, s.suffix)
	if at < 0 {
		at = len(word)
	}
	s.next.write(word[:at])
	s.held, s.begun = word[at:], true
}

// release ends the last part.
func (s *suffixStage) release(by string) {
	if !s.begun {
		return
	}
	s.next.write(strings.ReplaceAll(s.held, s.suffix, by))
	s.next.end()
}

func (s *suffixStage) close() {
	s.release("")
	s.next.close()
}

// stripStage removes what begins a part as it comes, for a part may be the whole text; what ends one only when it ends.
type stripStage struct {
	gathered
	next stage
	d    stripDecoder
	left int // so many may still be removed from the start
}

func (d stripDecoder) stream(next stage) stage {
	return &stripStage{next: next, d: d, left: d.start}
}

func (s *stripStage) write(piece string) {
	if s.d.end > 0 {
		s.gathered.write(piece)
		return
	}
	if s.left > 0 {
		s.gathered.write(piece)
		piece = s.take()
		for ok := true; ok && s.left > 0; {
			if piece, ok = strings.CutPrefix(piece, s.d.content); ok {
				s.left--
			}
		}
		if s.left > 0 && strings.HasPrefix(s.d.content, piece) {
			s.gathered.write(piece)
			return
		}
		s.left = 0
	}
	s.next.write(piece)
}

func (s *stripStage) end() {
	rest := s.take()
	if s.d.end > 0 {
		rest = s.d.strip(rest)
	}
	s.next.write(rest)
	s.next.end()
	s.left = s.d.start
}

func (s *stripStage) close() { s.next.close() }
