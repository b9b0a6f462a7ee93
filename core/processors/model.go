package processors

import (
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"unicode/utf8"
)

// piece is a token of the model: its id and the bytes of the text that it stands for.
type piece struct{ id, start, end int32 }

// model breaks a word into tokens.
type model interface {
	// tokenize appends the tokens of word, which begins at byte base of the text and is not empty, to s.pieces.
	tokenize(s *scratch, word []byte, base int) error
}

// byteTokens are the tokens, like <0xE2>, that stand for the bytes of what is not in the vocabulary; none where there is no such token.
type byteTokens [256]int32

// all says whether there is a token for each byte of s.
func (t *byteTokens) all(s []byte) bool {
	if t == nil {
		return false
	}
	for _, b := range s {
		if t[b] == none {
			return false
		}
	}
	return true
}

// noToken is the error for something that a model has no token for, not even an unknown one.
func noToken(what string) error {
	return &TextError{Offset: none, Reason: "the vocabulary has no token for " + what + ", and the tokenizer no token for what is unknown"}
}

// wordPiece takes the longest token that the rest of the word begins with, again and again (Wu et al. 2016).
type wordPiece struct {
	starts, continuations *trie // the second by what comes after the continuation prefix
	unk                   int32
	maxChars              int
}

func (m *wordPiece) tokenize(s *scratch, word []byte, base int) error {
	first := len(s.pieces)
	if len(word) <= m.maxChars || utf8.RuneCount(word) <= m.maxChars {
		t := m.starts
		for at := 0; ; t = m.continuations {
			id, n := t.longest(word[at:])
			if n == 0 {
				break
			}
			s.pieces = append(s.pieces, piece{id, int32(base + at), int32(base + at + n)})
			if at += n; at == len(word) {
				return nil
			}
		}
	}
	s.pieces = append(s.pieces[:first], piece{m.unk, int32(base), int32(base + len(word))})
	return nil
}

// unigram takes the tokens whose probabilities have the greatest product (Kudo 2018), by Viterbi's algorithm.
type unigram struct {
	trie         *trie
	ids          map[string]int32
	scores       []float64 // logarithms of probabilities, by id
	unk          int32     // or none
	unkScore     float64
	byteFallback *byteTokens // or nil
	cache        wordCache
}

// unkPenalty is how much less likely than the least likely token an unknown character is.
const unkPenalty = 10

// reached is the best way to a place in a word: the token that ends there, where it begins, and the score so far.
type reached struct {
	id, from int32
	score    float64
}

func (m *unigram) tokenize(s *scratch, word []byte, base int) error {
	if m.cache.load(s, word, base) {
		return nil
	}
	first := len(s.pieces)
	best := s.best[:0]
	for range len(word) + 1 {
		best = append(best, reached{from: none})
	}
	s.best = best
	reach := func(from, to int, id int32, score float64) {
		if score += best[from].score; best[to].from == none || score > best[to].score {
			best[to] = reached{id, int32(from), score}
		}
	}
	for i := 0; i < len(word); {
		_, width := utf8.DecodeRune(word[i:])
		single := false
		node := m.trie.root[word[i]]
		for end := i + 1; node != 0; end++ {
			if id := m.trie.value[node]; id >= 0 {
				reach(i, end, id, m.scores[id])
				single = single || end == i+width
			}
			if end == len(word) {
				break
			}
			node = m.trie.child(node, word[end])
		}
		if !single {
			reach(i, i+width, m.unk, m.unkScore)
		}
		i += width
	}

	// Back to front: tokens, with neighbouring unknown ones made one.
	way := s.way[:0]
	for end := int32(len(word)); end > 0; {
		r := best[end]
		if n := len(way); n > 0 && r.id == m.unk && way[n-1].id == m.unk {
			way[n-1].start = r.from
		} else {
			way = append(way, piece{r.id, r.from, end})
		}
		end = r.from
	}
	s.way = way
	for i := len(way) - 1; i >= 0; i-- {
		if err := m.resolve(s, word, way[i], int32(base)); err != nil {
			return err
		}
	}
	m.cache.store(word, s.pieces[first:], base)
	return nil
}

// resolve adds a token of the best way, or what stands for it if it is unknown.
func (m *unigram) resolve(s *scratch, word []byte, p piece, base int32) error {
	part := word[p.start:p.end]
	p.start, p.end = p.start+base, p.end+base
	if p.id == m.unk {
		if id, ok := m.ids[string(part)]; ok {
			p.id = id
		} else if m.byteFallback.all(part) {
			for _, b := range part {
				s.pieces = append(s.pieces, piece{m.byteFallback[b], p.start, p.end})
			}
			return nil
		}
	}
	if p.id == none {
		return noToken(fmt.Sprintf("%q", part))
	}
	s.pieces = append(s.pieces, p)
	return nil
}

// wordCache remembers how words were broken up. It is bounded, for a new word takes the place of an old one, and needs no lock.
type wordCache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cachedWord]
}

type cachedWord struct {
	word   string
	pieces []piece // from the start of the word
}

const (
	cacheSlots   = 1 << 14
	maxCacheWord = 64 // bytes
)

func newWordCache() wordCache {
	return wordCache{maphash.MakeSeed(), make([]atomic.Pointer[cachedWord], cacheSlots)}
}

func (c *wordCache) slot(word []byte) *atomic.Pointer[cachedWord] {
	return &c.slots[maphash.Bytes(c.seed, word)%cacheSlots]
}

// load appends the tokens of word, if they are known, to s.pieces.
func (c *wordCache) load(s *scratch, word []byte, base int) bool {
	if len(word) > maxCacheWord {
		return false
	}
	w := c.slot(word).Load()
	if w == nil || w.word != string(word) {
		return false
	}
	for _, p := range w.pieces {
		s.pieces = append(s.pieces, piece{p.id, p.start + int32(base), p.end + int32(base)})
	}
	return true
}

func (c *wordCache) store(word []byte, pieces []piece, base int) {
	if len(word) > maxCacheWord {
		return
	}
	w := &cachedWord{string(word), make([]piece, len(pieces))}
	for i, p := range pieces {
		w.pieces[i] = piece{p.id, p.start - int32(base), p.end - int32(base)}
	}
	c.slot(word).Store(w)
}
