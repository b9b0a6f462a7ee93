package kvcache

import (
	"crypto/sha256"
	"encoding/binary"
)

// Content says what a sequence's places hold beside token ids. Sequences share
// pages only if all of it is equal.
type Content struct {
	// Salt keeps apart what must not be shared: model, precision, tenant.
	Salt string
	// Root is the hash of what all rows depend on: an encoder's input. Zero: nothing.
	Root [32]byte
	// Spans are the rows that came as embeddings; the ids at their places don't count.
	Spans []Span
	// Private sequences neither find pages of others nor leave theirs to others.
	// Their forks share with them.
	Private bool
}

// Span is a run of rows, from place From up to To, that came as embeddings of one
// picture or sound. Hash is that of the input and of how it was processed.
type Span struct {
	From, To int
	Hash     [32]byte
}

// row is the content of one place: a token id, or a row's number in a span and the span's hash.
type row struct {
	id   int64
	from [32]byte
}

func (c *Content) row(at int, id int64) row {
	for i := range c.Spans {
		if s := &c.Spans[i]; at >= s.From && at < s.To {
			return row{int64(at - s.From), s.Hash}
		}
	}
	return row{id: id}
}

// key names a page by its content and by all that came before it.
type key [sha256.Size]byte

func (c *Content) root() key {
	b := make([]byte, 0, 64+len(c.Salt))
	b = append(b, "accel kvcache 1\x00"...)
	b = append(b, c.Root[:]...)
	b = append(b, c.Salt...)
	return sha256.Sum256(b)
}

// next is the key of a full page that follows the one with key k. The buffer is
// handed on, so that hashing takes no memory.
func (k key) next(rows []row, buf []byte) (key, []byte) {
	b := append(buf[:0], k[:]...)
	for i := range rows {
		r := &rows[i]
		b = binary.LittleEndian.AppendUint64(b, uint64(r.id))
		// The tag keeps ids and hashes apart, whatever bytes they have.
		if r.from == [32]byte{} {
			b = append(b, 0)
		} else {
			b = append(append(b, 1), r.from[:]...)
		}
	}
	return sha256.Sum256(b), b
}
