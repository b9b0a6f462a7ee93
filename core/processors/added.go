package processors

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is found in the text as it stands, before the text is split into words.
type AddedToken struct {
	Content    string
	ID         int64
	Special    bool // left out by Decode on request
	SingleWord bool // only found where it is not part of a longer word
	LStrip     bool // takes the white space before it
	RStrip     bool // takes the white space after it
	Normalized bool // looked for in the normalized text instead of the raw one
}

// addedTokens finds added tokens in a text: of those that begin at a place the longest.
type addedTokens struct {
	byID map[int32]AddedToken
	trie *trie
}

func newAddedTokens(tokens []AddedToken, keys []string) *addedTokens {
	if len(tokens) == 0 {
		return nil
	}
	a := &addedTokens{byID: make(map[int32]AddedToken, len(tokens))}
	ids := make([]int32, len(tokens))
	for i, t := range tokens {
		ids[i] = int32(t.ID)
		a.byID[ids[i]] = t
	}
	a.trie = newTrie(keys, ids)
	return a
}

// find appends to dst where added tokens stand in s, in order and without overlaps.
func (a *addedTokens) find(dst []span, s []byte, specialAsText bool) []span {
	if a == nil {
		return dst
	}
	done := 0
	for i := 0; i < len(s); {
		if a.trie.root[s[i]] == 0 {
			i++
			continue
		}
		id, n := a.trie.longest(s[i:])
		if n == 0 {
			i++
			continue
		}
		start, end := i, i+n
		i = end
		t := a.byID[id]
		if specialAsText && t.Special || t.SingleWord && !alone(s, start, end) || start < done {
			continue
		}
		if t.LStrip {
			start = max(done, len(bytes.TrimRightFunc(s[:start], unicode.IsSpace)))
		}
		if t.RStrip {
			end = len(s) - len(bytes.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		dst = append(dst, span{start: start, end: end, id: id})
		done = end
	}
	return dst
}

// alone says whether no word goes on before start or after end.
func alone(s []byte, start, end int) bool {
	before, n := utf8.DecodeLastRune(s[:start])
	after, m := utf8.DecodeRune(s[end:])
	return (n == 0 || !isWord(before)) && (m == 0 || !isWord(after))
}
