package processors

import (
	"fmt"
	"unicode/utf8"
)

// none is the origin of a byte that comes from nowhere in the input.
const none = -1

// text is a stretch of the input on its way through normalizer and pre-tokenizer: its bytes as they are now and, for each of them,
// the byte of the input that it came from. A byte that stands for a whole character may point to any byte of that character:
// offsets are counted in characters at the end. While every byte still stands where it stood in the input, nothing is recorded.
//
// A pass rewrites the text from front to back: begin, then for the whole of the source keep, put and insert.
type text struct {
	buf    []byte
	origin []int32 // one for each byte of buf, if moved
	moved  bool
	base   int32 // where the stretch begins in the input
	limit  int   // of the length of buf

	src       []byte // what the pass under way reads
	srcOrigin []int32
	srcMoved  bool
}

// reset makes s, which begins at byte base of the input, the content.
func (t *text) reset(s string, base int) {
	t.buf = append(t.buf[:0], s...)
	t.moved = false
	t.base = int32(base)
	t.limit = maxGrowth*len(s) + growthRoom
}

// at returns the byte of the input that byte i comes from, or none.
func (t *text) at(i int) int32 {
	if t.moved {
		return t.origin[i]
	}
	return t.base + int32(i)
}

func (t *text) srcAt(i int) int32 {
	if t.srcMoved {
		return t.srcOrigin[i]
	}
	return t.base + int32(i)
}

// begin starts a pass and returns the content that it has to work through.
func (t *text) begin() []byte {
	t.src, t.buf = t.buf, t.src[:0]
	t.srcOrigin, t.origin = t.origin, t.srcOrigin[:0]
	t.srcMoved = t.moved
	return t.src
}

// A tokenizer may make a text so many times as long, and somewhat more, in bytes.
const (
	maxGrowth  = 16
	growthRoom = 1 << 20
)

func (t *text) checkGrowth() error {
	if len(t.buf) > t.limit {
		return &TextError{Offset: none, Reason: fmt.Sprintf("the tokenizer makes it longer than %d bytes", t.limit)}
	}
	return nil
}

// track starts recording origins, for bytes from n on don't stand where they stood.
func (t *text) track(n int) {
	if t.moved {
		return
	}
	t.moved = true
	t.origin = t.origin[:0]
	for i := range n {
		t.origin = append(t.origin, t.base+int32(i))
	}
}

// keep copies the source's bytes from..to as they are.
func (t *text) keep(from, to int) {
	if len(t.buf) != from {
		t.track(len(t.buf))
	}
	t.buf = append(t.buf, t.src[from:to]...)
	if !t.moved {
		return
	}
	if t.srcMoved {
		t.origin = append(t.origin, t.srcOrigin[from:to]...)
		return
	}
	for i := from; i < to; i++ {
		t.origin = append(t.origin, t.base+int32(i))
	}
}

// put writes r in the place of the source's character at from, which is width bytes wide.
func (t *text) put(r rune, from, width int) {
	n := len(t.buf)
	t.buf = utf8.AppendRune(t.buf, r)
	if !t.moved && n == from && len(t.buf)-n == width {
		return
	}
	t.mark(n, t.srcAt(from))
}

// insert writes s as something that comes from the source's byte at from, or from nowhere if from is none.
func (t *text) insert(s string, from int) {
	if s == "" {
		return
	}
	n := len(t.buf)
	t.buf = append(t.buf, s...)
	o := int32(none)
	if from != none {
		o = t.srcAt(from)
	}
	t.mark(n, o)
}

// mark records that the bytes of buf from n on come from origin o.
func (t *text) mark(n int, o int32) {
	t.track(n)
	for range len(t.buf) - n {
		t.origin = append(t.origin, o)
	}
}

// transform is a pass that replaces the whole content by characters of which each says how it came about.
type transform struct {
	t   *text
	pos int
}

// emit writes r. A change of 0 says that r replaces the next character of the source, -n that it replaces that one and the n after it,
// and more than 0 that it was inserted; an inserted character comes from where the one before it came from.
func (x *transform) emit(r rune, change int) {
	if change > 0 {
		if x.pos == 0 {
			x.t.insert(string(r), none)
			return
		}
		n := len(x.t.buf)
		x.t.buf = utf8.AppendRune(x.t.buf, r)
		x.t.mark(n, x.t.srcAt(x.pos-1))
		return
	}
	if x.pos >= len(x.t.src) {
		x.t.insert(string(r), none)
		return
	}
	from := x.pos
	_, w := utf8.DecodeRune(x.t.src[from:])
	x.t.put(r, from, w)
	x.pos += w
	for ; change < 0 && x.pos < len(x.t.src); change++ {
		_, w := utf8.DecodeRune(x.t.src[x.pos:])
		x.pos += w
	}
}

// rewrite is a pass that calls f for each character of the content, with its place and width in bytes.
func (t *text) rewrite(f func(r rune, i, width int)) {
	src := t.begin()
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		f(r, i, n)
		i += n
	}
}

// abandon ends the pass under way and leaves the content as it was before it.
func (t *text) abandon() {
	t.src, t.buf = t.buf, t.src
	t.srcOrigin, t.origin = t.origin, t.srcOrigin
	t.moved = t.srcMoved
}
