package processors

import "strings"

// TokenBytes is what a token stands for in the middle of a text; it may be part of a character. nil: there is no such token.
func (t *Tokenizer) TokenBytes(id int64) []byte {
	token, ok := t.IDToToken(id)
	if !ok {
		return nil
	}
	if _, added := t.addedByID[int32(id)]; added {
		return []byte(token)
	}
	return middle(t.decoder, token)
}

// middle decodes a token that others stand around.
func middle(d decoder, token string) []byte {
	switch d := d.(type) {
	case decoderSequence:
		b := []byte(token)
		for _, one := range d {
			b = middle(one, string(b))
		}
		return b
	case byteLevelDecoder:
		return appendToken(nil, token)
	case byteFallbackDecoder:
		if b, ok := byteToken(token); ok {
			return []byte{b}
		}
	case metaspaceDecoder:
		return []byte(d.piece(token, false))
	case wordPieceDecoder:
		return []byte(d.word(token, false))
	case suffixDecoder:
		return []byte(strings.ReplaceAll(token, string(d), " "))
	case replaceDecoder:
		return []byte(strings.ReplaceAll(token, d.old, d.by))
	}
	return []byte(token) // the others only look at where a text begins and ends
}
