package processors

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"unicode/utf8"
)

// bpe begins with a word's characters, or bytes, and merges the two neighbours that were merged first in training, until none is left
// that was merged then (Sennrich et al. 2016; on bytes Radford et al. 2019).
type bpe struct {
	merges         mergeTable
	ids            map[string]int32 // tokens by the text they stand for; in byte mode only if whole words are looked up
	bytes          *byteSymbols     // if not nil, words begin as bytes
	prefix, suffix string           // of characters that do not begin, and that end, a word
	unk            int32            // or none
	fuseUnk        bool
	byteFallback   *byteTokens // or nil
	wholeWords     bool        // a word that is a token needs no merges
	cache          wordCache
}

// byteSymbols are the tokens that stand for single bytes, or none, by place (bit 0: not the first of a word, bit 1: the last) and byte.
type byteSymbols [4][256]int32

// symbol is a part of a word that may still be merged: its token and its end, and the merge with the symbol after it.
type symbol struct {
	id, end    int32
	rank, into int32 // noMerge if these two don't merge
	prev, next int32 // used by mergeLong only
}

const noMerge = math.MaxInt32

// maxShort is the number of symbols up to which looking at all of them for the next merge is faster than keeping a heap.
const maxShort = 48

func (m *bpe) tokenize(s *scratch, word []byte, base int) error {
	if m.cache.load(s, word, base) {
		return nil
	}
	first := len(s.pieces)
	if err := m.split(s, word, int32(base)); err != nil {
		return err
	}
	m.cache.store(word, s.pieces[first:], base)
	return nil
}

func (m *bpe) split(s *scratch, word []byte, base int32) error {
	if m.wholeWords {
		if id, ok := m.ids[string(word)]; ok {
			s.pieces = append(s.pieces, piece{id, base, base + int32(len(word))})
			return nil
		}
	}
	if err := m.begin(s, word); err != nil {
		return err
	}
	for i := range s.symbols {
		m.pair(s.symbols, i, i+1)
	}
	if len(s.symbols) <= maxShort {
		s.symbols = m.mergeShort(s.symbols)
	} else {
		m.mergeLong(s)
	}
	start := base
	for _, y := range s.symbols {
		s.pieces = append(s.pieces, piece{y.id, start, base + y.end})
		start = base + y.end
	}
	return nil
}

// begin makes s.symbols the characters, or bytes, of word.
func (m *bpe) begin(s *scratch, word []byte) error {
	s.symbols = s.symbols[:0]
	unknown := false // whether the last symbol is an unknown one
	for i := 0; i < len(word); {
		var id int32
		width := 1
		if m.bytes != nil {
			place := 0
			if i > 0 {
				place |= 1
			}
			if i+1 == len(word) {
				place |= 2
			}
			id = m.bytes[place][word[i]]
		} else {
			_, width = utf8.DecodeRune(word[i:])
			id = m.character(s, word, i, width)
		}
		end := int32(i + width)
		switch {
		case id != none:
			s.symbols = append(s.symbols, symbol{id: id, end: end})
			unknown = false
		case m.byteFallback.all(word[i:end]):
			for j := i; j < i+width; j++ {
				s.symbols = append(s.symbols, symbol{id: m.byteFallback[word[j]], end: int32(j + 1)})
			}
			unknown = false
		case m.unk == none:
			return noToken(fmt.Sprintf("%q", word[i:end]))
		case unknown && m.fuseUnk:
			s.symbols[len(s.symbols)-1].end = end
		default:
			s.symbols = append(s.symbols, symbol{id: m.unk, end: end})
			unknown = true
		}
		i += width
	}
	return nil
}

// character returns the token of the character at i, or none.
func (m *bpe) character(s *scratch, word []byte, i, width int) int32 {
	key := s.key[:0]
	if i > 0 {
		key = append(key, m.prefix...)
	}
	key = append(key, word[i:i+width]...)
	if i+width == len(word) {
		key = append(key, m.suffix...)
	}
	s.key = key
	if id, ok := m.ids[string(key)]; ok {
		return id
	}
	return none
}

// pair notes in symbol i how it merges with symbol j after it.
func (m *bpe) pair(symbols []symbol, i, j int) {
	symbols[i].rank = noMerge
	if 0 <= j && j < len(symbols) {
		symbols[i].rank, symbols[i].into = m.merges.find(symbols[i].id, symbols[j].id)
	}
}

func (m *bpe) mergeShort(symbols []symbol) []symbol {
	for {
		at, rank := 0, int32(noMerge)
		for i := range symbols {
			if symbols[i].rank < rank {
				at, rank = i, symbols[i].rank
			}
		}
		if rank == noMerge {
			return symbols
		}
		symbols[at].id, symbols[at].end = symbols[at].into, symbols[at+1].end
		symbols = slices.Delete(symbols, at+1, at+2)
		m.pair(symbols, at, at+1)
		if at > 0 {
			m.pair(symbols, at-1, at)
		}
	}
}

// mergeLong merges s.symbols as a linked list, with a heap of possible merges that may hold some that are no longer possible.
func (m *bpe) mergeLong(s *scratch) {
	symbols, heap := s.symbols, s.heap[:0]
	push := func(i int32) {
		if symbols[i].rank != noMerge {
			heap = heap.push(uint64(symbols[i].rank)<<32 | uint64(i))
		}
	}
	for i := range symbols {
		symbols[i].prev, symbols[i].next = int32(i-1), int32(i+1)
		push(int32(i))
	}
	symbols[len(symbols)-1].next = none
	for len(heap) > 0 {
		var top uint64
		top, heap = heap.pop()
		at := int32(uint32(top))
		y := &symbols[at]
		if y.rank != int32(top>>32) {
			continue
		}
		gone := &symbols[y.next]
		y.id, y.end, y.next = y.into, gone.end, gone.next
		gone.rank, gone.end = noMerge, none
		if y.next != none {
			symbols[y.next].prev = at
		}
		m.pair(symbols, int(at), int(y.next))
		push(at)
		if y.prev != none {
			m.pair(symbols, int(y.prev), int(at))
			push(y.prev)
		}
	}
	s.heap = heap
	s.symbols = slices.DeleteFunc(symbols, func(y symbol) bool { return y.end == none })
}

// mergeHeap is a binary heap of possible merges, each its rank and then its place.
type mergeHeap []uint64

func (h mergeHeap) push(x uint64) mergeHeap {
	h = append(h, x)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up] <= x {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = x
	return h
}

func (h mergeHeap) pop() (uint64, mergeHeap) {
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	for i := 0; i < len(h); {
		down := 2*i + 1
		if down+1 < len(h) && h[down+1] < h[down] {
			down++
		}
		if down >= len(h) || last <= h[down] {
			h[i] = last
			break
		}
		h[i] = h[down]
		i = down
	}
	return top, h
}

// mergeTable says which two tokens merge, when, and into what: a hash table with open addressing.
type mergeTable struct {
	slots []mergeSlot
	shift int
	odd   uint64 // the hash function, chosen at random
}

type mergeSlot struct {
	pair       uint64 // one more than the two ids; 0 if the slot is free
	rank, into int32
}

func newMergeTable(n int) mergeTable {
	size := bits.Len(uint(2*n + 1))
	return mergeTable{make([]mergeSlot, 1<<size), 64 - size, rand.Uint64() | 1}
}

func pairKey(left, right int32) uint64 { return (uint64(left)<<32 | uint64(right)) + 1 }

// slot returns the slot of a pair, or the free one that it would take.
func (t *mergeTable) slot(pair uint64) *mergeSlot {
	for i := pair * t.odd >> t.shift; ; i = (i + 1) & uint64(len(t.slots)-1) {
		if s := &t.slots[i]; s.pair == pair || s.pair == 0 {
			return s
		}
	}
}

// add notes a merge. A later one takes the place of an earlier one of the same two tokens.
func (t *mergeTable) add(left, right, rank, into int32) {
	pair := pairKey(left, right)
	*t.slot(pair) = mergeSlot{pair, rank, into}
}

func (t *mergeTable) find(left, right int32) (rank, into int32) {
	s := t.slot(pairKey(left, right))
	if s.pair == 0 {
		return noMerge, none
	}
	return s.rank, s.into
}

// byteAlphabet is the character that stands for each byte in the vocabularies of byte-level BPE: itself if it is visible in Latin-1,
// else one from U+0100 on (Radford et al. 2019).
var byteAlphabet = func() (alphabet [256]rune) {
	next := rune(0x100)
	for b := range rune(256) {
		if '!' <= b && b <= '~' || '¡' <= b && b <= '¬' || '®' <= b && b <= 'ÿ' {
			alphabet[b] = b
			continue
		}
		alphabet[b] = next
		next++
	}
	return alphabet
}()

// alphabetBytes is the inverse of byteAlphabet.
var alphabetBytes = func() map[rune]byte {
	m := make(map[rune]byte, 256)
	for b, r := range byteAlphabet {
		m[r] = byte(b)
	}
	return m
}()

// fromAlphabet appends to dst the bytes that a token of a byte-level vocabulary stands for; it reports false if that is not in the alphabet.
func fromAlphabet(dst []byte, token string) ([]byte, bool) {
	n := len(dst)
	for _, r := range token {
		b, ok := alphabetBytes[r]
		if !ok {
			return dst[:n], false
		}
		dst = append(dst, b)
	}
	return dst, true
}
