package processors

import (
	"fmt"
	"math"
	"strings"
)

// model compiles the model, whose vocabulary is in c.vocab. In byte mode, tokens are spelled in byteAlphabet.
func (c *compiler) model(m *modelJSON, scores []float64, bytes bool) (model, error) {
	if m.Dropout != nil && *m.Dropout != 0 {
		return nil, c.unsupported("model.dropout", "leaving out merges at random (dropout %g)", *m.Dropout)
	}
	if bytes && m.Type != "BPE" {
		return nil, c.unsupported("model", "a model of type %s after a pre-tokenizer of type ByteLevel", shorten(m.Type))
	}
	switch m.Type {
	case "WordPiece":
		return c.wordPiece(m)
	case "BPE":
		return c.bpe(m, bytes)
	case "Unigram":
		return c.unigram(m, scores)
	}
	return nil, c.unsupported("model", "a model of type %s", shorten(m.Type))
}

// unk returns the id of the token for what is unknown, or none.
func (c *compiler) unk(token *string) (int32, error) {
	if token == nil {
		return none, nil
	}
	id := c.vocab.get(*token)
	if id == none {
		return none, c.bad("model.unk_token", "%s is not in the vocabulary", shorten(*token))
	}
	return id, nil
}

func (c *compiler) wordPiece(m *modelJSON) (model, error) {
	token, prefix, maxChars := "[UNK]", "##", 100
	if m.UnkToken != nil {
		token = *m.UnkToken
	}
	if m.ContinuingSubwordPrefix != nil {
		prefix = *m.ContinuingSubwordPrefix
	}
	if m.MaxInputCharsPerWord != nil {
		maxChars = *m.MaxInputCharsPerWord
	}
	unk, err := c.unk(&token)
	if err != nil {
		return nil, err
	}
	var keys [2][]string
	var ids [2][]int32
	for token, id := range c.vocab.ids {
		if token == "" {
			continue
		}
		keys[0], ids[0] = append(keys[0], token), append(ids[0], id)
		if rest, ok := strings.CutPrefix(token, prefix); ok && rest != "" {
			keys[1], ids[1] = append(keys[1], rest), append(ids[1], id)
		}
	}
	return &wordPiece{newTrie(keys[0], ids[0]), newTrie(keys[1], ids[1]), unk, maxChars}, nil
}

func (c *compiler) bpe(m *modelJSON, bytes bool) (model, error) {
	b := &bpe{merges: newMergeTable(len(m.Merges)), fuseUnk: m.FuseUnk, wholeWords: m.IgnoreMerges, cache: newWordCache()}
	var err error
	if b.unk, err = c.unk(m.UnkToken); err != nil {
		return nil, err
	}
	if m.ContinuingSubwordPrefix != nil {
		b.prefix = *m.ContinuingSubwordPrefix
	}
	if m.EndOfWordSuffix != nil {
		b.suffix = *m.EndOfWordSuffix
	}
	if len(m.Merges) > maxTokens {
		return nil, c.bad("model.merges", "there are more than %d merges", maxTokens)
	}
	for rank, pair := range m.Merges {
		var of [3]int32
		for i, token := range [...]string{pair[0], pair[1], pair[0] + strings.TrimPrefix(pair[1], b.prefix)} {
			var ok bool
			if of[i], ok = c.vocab.ids[token]; !ok {
				return nil, c.bad(fmt.Sprintf("model.merges[%d]", rank), "%s and %s merge, but %s is not in the vocabulary",
					shorten(pair[0]), shorten(pair[1]), shorten(token))
			}
		}
		b.merges.add(of[0], of[1], int32(rank), of[2])
	}
	switch {
	case bytes:
		b.bytes = c.byteSymbols(b.prefix, b.suffix)
		if m.ByteFallback {
			for _, id := range b.bytes[0] {
				if id == none {
					return nil, c.unsupported("model.byte_fallback", "byte fallback after a pre-tokenizer of type ByteLevel")
				}
			}
		}
		if b.wholeWords {
			b.ids = make(map[string]int32, len(c.vocab.ids))
			for token, id := range c.vocab.ids {
				if s, ok := fromAlphabet(nil, token); ok {
					b.ids[string(s)] = id
				}
			}
		}
	case m.ByteFallback && b.prefix+b.suffix != "":
		return nil, c.unsupported("model.byte_fallback", "byte fallback together with a prefix or suffix of subwords")
	default:
		b.ids = c.vocab.ids
		if m.ByteFallback {
			b.byteFallback = c.byteTokens()
		}
	}
	return b, nil
}

// byteSymbols finds the tokens that stand for single bytes in byte mode.
func (c *compiler) byteSymbols(prefix, suffix string) *byteSymbols {
	var s byteSymbols
	for b, r := range byteAlphabet {
		for place := range s {
			token := string(r)
			if place&1 != 0 {
				token = prefix + token
			}
			if place&2 != 0 {
				token += suffix
			}
			s[place][b] = c.modelID(token)
		}
	}
	return &s
}

// modelID returns the id that a token has in the model, or none.
func (c *compiler) modelID(token string) int32 {
	if id, ok := c.vocab.ids[token]; ok {
		return id
	}
	return none
}

// byteTokens finds the tokens that byte fallback takes.
func (c *compiler) byteTokens() *byteTokens {
	var ids byteTokens
	for b := range ids {
		ids[b] = c.modelID(fmt.Sprintf("<0x%02X>", b))
	}
	return &ids
}

func (c *compiler) unigram(m *modelJSON, scores []float64) (model, error) {
	u := &unigram{ids: c.vocab.ids, scores: scores, unk: none, cache: newWordCache()}
	if m.UnkID != nil {
		if *m.UnkID < 0 || *m.UnkID >= int64(len(scores)) {
			return nil, c.bad("model.unk_id", "id %d is not in the vocabulary of %d tokens", *m.UnkID, len(scores))
		}
		u.unk = int32(*m.UnkID)
	}
	least := math.Inf(1)
	for _, score := range scores {
		least = min(least, score)
	}
	u.unkScore = least - unkPenalty
	var keys []string
	var ids []int32
	for token, id := range c.vocab.ids {
		if token != "" {
			keys, ids = append(keys, token), append(ids, id)
		}
	}
	u.trie = newTrie(keys, ids)
	if m.ByteFallback {
		u.byteFallback = c.byteTokens()
	}
	return u, nil
}

// readScored reads the vocabulary of a Unigram model, whose ids are places in a list.
func (c *compiler) readScored(raw []byte) ([]float64, error) {
	var list []scored
	if err := c.decode("model.vocab", raw, &list); err != nil {
		return nil, err
	}
	scores := make([]float64, len(list))
	for id, s := range list {
		if err := c.vocab.add(s.token, int64(id)); err != nil {
			return nil, c.bad("model.vocab", "%v", err)
		}
		scores[id] = s.score
	}
	return scores, nil
}

// modelType is the type of the model, which old files leave out.
func (m *modelJSON) modelType() string {
	switch {
	case m.Type != "":
		return m.Type
	case m.Merges != nil:
		return "BPE"
	case m.UnkID != nil:
		return "Unigram"
	case m.ContinuingSubwordPrefix != nil:
		return "WordPiece"
	}
	return "WordLevel"
}
