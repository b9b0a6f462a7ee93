package processors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// definition is a tokenizer as tokenizer.json has it, or as it was put together from older files.
type definition struct {
	AddedTokens   []addedJSON     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelJSON       `json:"model"`
}

type addedJSON struct {
	ID         *int64 `json:"id"`
	Content    string `json:"content"`
	Special    bool   `json:"special"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
}

type modelJSON struct {
	Type                    string          `json:"type"`
	Vocab                   json.RawMessage `json:"vocab"`
	Merges                  mergeList       `json:"merges"`
	UnkToken                *string         `json:"unk_token"`
	UnkID                   *int64          `json:"unk_id"`
	ContinuingSubwordPrefix *string         `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string         `json:"end_of_word_suffix"`
	MaxInputCharsPerWord    *int            `json:"max_input_chars_per_word"`
	FuseUnk                 bool            `json:"fuse_unk"`
	ByteFallback            bool            `json:"byte_fallback"`
	IgnoreMerges            bool            `json:"ignore_merges"`
	Dropout                 *float64        `json:"dropout"`
}

// compiler makes a Tokenizer of a definition. Its errors name the file.
type compiler struct {
	file  string
	vocab *vocabulary
	t     *Tokenizer
}

// maxDepth is how deep components may be nested.
const maxDepth = 16

func (c *compiler) bad(part, format string, args ...any) error {
	return &FormatError{c.file, part, fmt.Sprintf(format, args...)}
}

func (c *compiler) unsupported(part, format string, args ...any) error {
	return &UnsupportedError{c.file, part, fmt.Sprintf(format, args...)}
}

// decode reads raw, which is part of the file, into v.
func (c *compiler) decode(part string, raw []byte, v any) error {
	err := json.Unmarshal(raw, v)
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		if part == "" && syntax.Offset >= int64(len(raw)) {
			return c.bad(part, "it ends in the middle, after %d bytes: fetch it again", len(raw))
		}
		return c.bad(part, "it is not JSON: at byte %d: %v", syntax.Offset, err)
	case errors.As(err, &wrong):
		at := part
		if wrong.Field != "" {
			at = strings.TrimPrefix(part+"."+wrong.Field, ".")
		}
		return c.bad(at, "found %s, which does not fit here", wrong.Value)
	}
	return c.bad(part, "%v", err)
}

// component reads the type of a component. It is empty if there is none.
func (c *compiler) component(part string, raw json.RawMessage, depth int) (string, error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return "", nil
	}
	if depth > maxDepth {
		return "", c.bad(part, "components are nested more than %d deep", maxDepth)
	}
	var head struct {
		Type string `json:"type"`
	}
	if err := c.decode(part, raw, &head); err != nil {
		return "", err
	}
	if head.Type == "" {
		return "", c.bad(part, "it has no type")
	}
	return head.Type, nil
}

// sequence compiles the components that a Sequence has under a key.
func sequence[T any](c *compiler, part, key string, raw json.RawMessage, compile func(part string, raw json.RawMessage, depth int) (T, error), depth int) ([]T, error) {
	var fields map[string]json.RawMessage
	if err := c.decode(part, raw, &fields); err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := c.decode(part+"."+key, fields[key], &list); err != nil {
		return nil, err
	}
	all := make([]T, len(list))
	for i, raw := range list {
		part := fmt.Sprintf("%s.%s[%d]", part, key, i)
		if typ, err := c.component(part, raw, depth); err != nil {
			return nil, err
		} else if typ == "" {
			return nil, c.bad(part, "it is empty")
		}
		var err error
		if all[i], err = compile(part, raw, depth+1); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// patternJSON is a pattern: a string or a regular expression.
type patternJSON struct {
	String *string
	Regex  *string
}

func (c *compiler) pattern(part string, p patternJSON) (pattern, error) {
	switch {
	case p.String != nil && *p.String != "":
		return literal(*p.String), nil
	case p.Regex != nil:
		re, err := newRegex(*p.Regex)
		if err != nil {
			return nil, c.bad(part, "%v", err)
		}
		return re, nil
	}
	return nil, c.bad(part, "it is neither a string that is not empty nor a regular expression")
}

// maxContent is the size in bytes of what a normalizer may put into a text.
const maxContent = 1024

func (c *compiler) normalizer(part string, raw json.RawMessage, depth int) (normalizer, error) {
	typ, err := c.component(part, raw, depth)
	if err != nil || typ == "" {
		return nil, err
	}
	if f, ok := unicodeForms[typ]; ok {
		return f, nil
	}
	switch typ {
	case "Sequence":
		list, err := sequence(c, part, "normalizers", raw, c.normalizer, depth)
		return normalizerSequence(list), err
	case "BertNormalizer":
		f := struct {
			CleanText          bool  `json:"clean_text"`
			HandleChineseChars bool  `json:"handle_chinese_chars"`
			StripAccents       *bool `json:"strip_accents"`
			Lowercase          bool  `json:"lowercase"`
		}{true, true, nil, true}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		strip := f.Lowercase
		if f.StripAccents != nil {
			strip = *f.StripAccents
		}
		return newBertNormalizer(f.CleanText, f.HandleChineseChars, strip, f.Lowercase), nil
	case "Lowercase":
		return lowercase{}, nil
	case "StripAccents":
		return without(unicodeClasses(), combining), nil
	case "Nmt":
		return runeMap(nmt), nil
	case "Strip":
		f := struct {
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}{true, true}
		err := c.decode(part, raw, &f)
		return stripSpace{f.Left, f.Right}, err
	case "Prepend":
		var f struct{ Prepend string }
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		if len(f.Prepend) > maxContent {
			return nil, c.bad(part+".prepend", "it is longer than %d bytes", maxContent)
		}
		return prepend(f.Prepend), nil
	case "Replace":
		var f struct {
			Pattern patternJSON
			Content string
		}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		if len(f.Content) > maxContent {
			return nil, c.bad(part+".content", "it is longer than %d bytes", maxContent)
		}
		p, err := c.pattern(part+".pattern", f.Pattern)
		return replace{p, f.Content}, err
	}
	return nil, c.unsupported(part, "a normalizer of type %s", shorten(typ))
}

func (c *compiler) preTokenizer(part string, raw json.RawMessage, depth int) (preTokenizer, error) {
	typ, err := c.component(part, raw, depth)
	if err != nil || typ == "" {
		return nil, err
	}
	classes := unicodeClasses()
	switch typ {
	case "Sequence":
		list, err := sequence(c, part, "pretokenizers", raw, c.preTokenizer, depth)
		return preTokenizerSequence(list), err
	case "BertPreTokenizer":
		return bertPreTokenizer{classes}, nil
	case "ByteLevel":
		f := struct {
			AddPrefixSpace bool `json:"add_prefix_space"`
			UseRegex       bool `json:"use_regex"`
		}{true, true}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		p := byteLevel{prefixSpace: f.AddPrefixSpace}
		if f.UseRegex {
			p.split = split{pattern: scanner{scanGPT2, classes}, behavior: isolated}
		}
		return p, nil
	case "Metaspace":
		visible, scheme, split, err := c.metaspace(part, raw)
		return metaspace{visible, scheme, split}, err
	case "Split":
		var f struct {
			Pattern  patternJSON
			Behavior string
			Invert   bool
		}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		b, err := c.behavior(part, f.Behavior)
		if err != nil {
			return nil, err
		}
		p, err := c.pattern(part+".pattern", f.Pattern)
		return split{p, b, f.Invert}, err
	case "Whitespace":
		return split{wordsOrSymbols{}, removed, true}, nil
	case "WhitespaceSplit":
		return split{anyOf{classes, space}, removed, false}, nil
	case "CharDelimiterSplit":
		var f struct{ Delimiter string }
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		if utf8.RuneCountInString(f.Delimiter) != 1 {
			return nil, c.bad(part+".delimiter", "%s is not one character", shorten(f.Delimiter))
		}
		return split{literal(f.Delimiter), removed, false}, nil
	case "Punctuation":
		f := struct{ Behavior string }{"Isolated"}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		b, err := c.behavior(part, f.Behavior)
		return split{anyOf{classes, punct}, b, false}, err
	case "Digits":
		var f struct {
			IndividualDigits bool `json:"individual_digits"`
		}
		err := c.decode(part, raw, &f)
		b := contiguous
		if f.IndividualDigits {
			b = isolated
		}
		return split{anyOf{classes, number}, b, false}, err
	}
	return nil, c.unsupported(part, "a pre-tokenizer of type %s", shorten(typ))
}

func (c *compiler) behavior(part, name string) (behavior, error) {
	b, ok := behaviors[name]
	if !ok {
		return 0, c.bad(part+".behavior", "it is %s, not one of %s", shorten(name), strings.Join(slices.Sorted(maps.Keys(behaviors)), ", "))
	}
	return b, nil
}

// metaspace reads what a pre-tokenizer and a decoder of type Metaspace have in common.
func (c *compiler) metaspace(part string, raw json.RawMessage) (visible string, scheme prependScheme, split bool, err error) {
	f := struct {
		Replacement    string
		PrependScheme  string `json:"prepend_scheme"`
		AddPrefixSpace *bool  `json:"add_prefix_space"` // what older files have instead
		Split          bool
	}{Replacement: "▁", Split: true}
	if err := c.decode(part, raw, &f); err != nil {
		return "", 0, false, err
	}
	if utf8.RuneCountInString(f.Replacement) != 1 {
		return "", 0, false, c.bad(part+".replacement", "%s is not one character", shorten(f.Replacement))
	}
	if f.PrependScheme == "" {
		f.PrependScheme = "always"
		if f.AddPrefixSpace != nil && !*f.AddPrefixSpace {
			f.PrependScheme = "never"
		}
	}
	scheme, ok := prependSchemes[f.PrependScheme]
	if !ok {
		return "", 0, false, c.bad(part+".prepend_scheme", "it is %s, not one of %s", shorten(f.PrependScheme),
			strings.Join(slices.Sorted(maps.Keys(prependSchemes)), ", "))
	}
	return f.Replacement, scheme, f.Split, nil
}

// byteMode says whether the model is to work on bytes, because the last pre-tokenizer is a byteLevel one. In other places that would be
// something else.
func (c *compiler) byteMode(p preTokenizer) (bool, error) {
	list, ok := p.(preTokenizerSequence)
	if !ok {
		_, ok := p.(byteLevel)
		return ok, nil
	}
	last := false
	for i, p := range list {
		if last {
			return false, c.unsupported(fmt.Sprintf("pre_tokenizer.pretokenizers[%d]", i), "another pre-tokenizer after one of type ByteLevel")
		}
		var err error
		if last, err = c.byteMode(p); err != nil {
			return false, err
		}
	}
	return last, nil
}

func (c *compiler) decoder(part string, raw json.RawMessage, depth int) (decoder, error) {
	typ, err := c.component(part, raw, depth)
	if err != nil || typ == "" {
		return joined{}, err
	}
	switch typ {
	case "Sequence":
		list, err := sequence(c, part, "decoders", raw, c.decoder, depth)
		return decoderSequence(list), err
	case "ByteLevel":
		return byteLevelDecoder{}, nil
	case "ByteFallback":
		return byteFallbackDecoder{}, nil
	case "Fuse":
		return fused{}, nil
	case "WordPiece":
		f := struct {
			Prefix  string
			Cleanup bool
		}{"##", true}
		err := c.decode(part, raw, &f)
		return wordPieceDecoder{f.Prefix, f.Cleanup}, err
	case "BPEDecoder":
		f := struct{ Suffix string }{"</w>"}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		if f.Suffix == "" {
			return nil, c.bad(part+".suffix", "it is empty")
		}
		return suffixDecoder(f.Suffix), nil
	case "Metaspace":
		visible, scheme, _, err := c.metaspace(part, raw)
		return metaspaceDecoder{visible, scheme != prependNever}, err
	case "Replace":
		var f struct {
			Pattern patternJSON
			Content string
		}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		if f.Pattern.String == nil || *f.Pattern.String == "" {
			return nil, c.unsupported(part, "a decoder of type Replace whose pattern is not a string")
		}
		return replaceDecoder{*f.Pattern.String, f.Content}, nil
	case "Strip":
		var f struct {
			Content     string
			Start, Stop int
		}
		if err := c.decode(part, raw, &f); err != nil {
			return nil, err
		}
		if f.Content == "" {
			return nil, c.bad(part+".content", "it is empty")
		}
		return stripDecoder{f.Content, f.Start, f.Stop}, nil
	}
	return nil, c.unsupported(part, "a decoder of type %s", shorten(typ))
}

// postProcessor adds what a post-processor does to c.t.post.
func (c *compiler) postProcessor(part string, raw json.RawMessage, depth int) (struct{}, error) {
	post := &c.t.post
	typ, err := c.component(part, raw, depth)
	if err != nil || typ == "" {
		return struct{}{}, err
	}
	switch typ {
	case "Sequence":
		_, err := sequence(c, part, "processors", raw, c.postProcessor, depth)
		return struct{}{}, err
	case "ByteLevel":
		return struct{}{}, c.trim(part, raw, true)
	}
	if post.single != nil {
		return struct{}{}, c.unsupported(part, "more than one post-processor that adds special tokens")
	}
	switch typ {
	case "TemplateProcessing":
		return struct{}{}, c.template(part, raw)
	case "BertProcessing", "RobertaProcessing":
		var f struct{ Sep, CLS specialJSON }
		if err := c.decode(part, raw, &f); err != nil {
			return struct{}{}, err
		}
		if err := errors.Join(c.checkID(part+".sep", f.Sep.id), c.checkID(part+".cls", f.CLS.id)); err != nil {
			return struct{}{}, err
		}
		cls, sep := slot{source: Added, id: int32(f.CLS.id)}, slot{source: Added, id: int32(f.Sep.id)}
		a, b := slot{source: 0}, slot{source: 1}
		if typ == "RobertaProcessing" {
			post.set([]slot{cls, a, sep}, []slot{cls, a, sep, sep, b, sep})
			return struct{}{}, c.trim(part, raw, true)
		}
		b.typeID = 1
		last := sep
		last.typeID = 1
		post.set([]slot{cls, a, sep}, []slot{cls, a, sep, b, last})
		return struct{}{}, nil
	}
	return struct{}{}, c.unsupported(part, "a post-processor of type %s", shorten(typ))
}

// trim reads what post-processors of types ByteLevel and RobertaProcessing say about offsets.
func (c *compiler) trim(part string, raw json.RawMessage, prefixSpace bool) error {
	f := struct {
		TrimOffsets    bool `json:"trim_offsets"`
		AddPrefixSpace bool `json:"add_prefix_space"`
	}{true, prefixSpace}
	if err := c.decode(part, raw, &f); err != nil {
		return err
	}
	if f.TrimOffsets {
		c.t.post.trim, c.t.post.prefixSpace = true, f.AddPrefixSpace
	}
	return nil
}

// specialJSON is a special token, in JSON an array of it and its id.
type specialJSON struct{ id int64 }

func (s *specialJSON) UnmarshalJSON(raw []byte) error {
	var pair []json.RawMessage
	var token string
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &token) != nil || json.Unmarshal(pair[1], &s.id) != nil {
		return fmt.Errorf("%s is not a token with its id", shorten(string(raw)))
	}
	return nil
}

func (c *compiler) checkID(part string, id int64) error {
	if id < 0 || id >= int64(len(c.vocab.tokens)) {
		return c.bad(part, "id %d is not in the vocabulary", id)
	}
	return nil
}

func (c *compiler) checkTypeID(part string, id int64) error {
	if id < 0 || id > math.MaxInt32 {
		return c.bad(part+".type_id", "it is %d, which is not in 0 to %d", id, math.MaxInt32)
	}
	return nil
}

// pieceJSON is a place in a template.
type pieceJSON struct {
	SpecialToken *struct {
		ID     string `json:"id"`
		TypeID int64  `json:"type_id"`
	}
	Sequence *struct {
		ID     string `json:"id"`
		TypeID int64  `json:"type_id"`
	}
}

// maxSlots is how many places a template may have, and how many special tokens may stand in one.
const maxSlots = 256

func (c *compiler) template(part string, raw json.RawMessage) error {
	var f struct {
		Single, Pair  []pieceJSON
		SpecialTokens map[string]struct {
			IDs []int64
		} `json:"special_tokens"`
	}
	if err := c.decode(part, raw, &f); err != nil {
		return err
	}
	slots := func(part string, pieces []pieceJSON, texts int) ([]slot, error) {
		if len(pieces) > maxSlots {
			return nil, c.bad(part, "it has more than %d pieces", maxSlots)
		}
		var list []slot
		var seen [2]int
		for i, p := range pieces {
			part := fmt.Sprintf("%s[%d]", part, i)
			switch {
			case p.Sequence != nil:
				source := strings.Index("AB", p.Sequence.ID)
				if len(p.Sequence.ID) != 1 || source < 0 || source >= texts {
					return nil, c.bad(part, "there is no sequence %s here", shorten(p.Sequence.ID))
				}
				seen[source]++
				if err := c.checkTypeID(part, p.Sequence.TypeID); err != nil {
					return nil, err
				}
				list = append(list, slot{source: int8(source), typeID: p.Sequence.TypeID})
			case p.SpecialToken != nil:
				special, ok := f.SpecialTokens[p.SpecialToken.ID]
				if !ok {
					return nil, c.bad(part, "special token %s is not among the template's special tokens", shorten(p.SpecialToken.ID))
				}
				if err := c.checkTypeID(part, p.SpecialToken.TypeID); err != nil {
					return nil, err
				}
				if len(special.IDs) > maxSlots {
					return nil, c.bad(part, "special token %s has more than %d ids", shorten(p.SpecialToken.ID), maxSlots)
				}
				for _, id := range special.IDs {
					if err := c.checkID(part, id); err != nil {
						return nil, err
					}
					list = append(list, slot{Added, int32(id), p.SpecialToken.TypeID})
				}
			default:
				return nil, c.bad(part, "it is neither a sequence nor a special token")
			}
		}
		for source, n := range seen[:texts] {
			if n != 1 {
				return nil, c.bad(part, "sequence %c is there %d times", "AB"[source], n)
			}
		}
		return list, nil
	}
	single, err := slots(part+".single", f.Single, 1)
	if err != nil {
		return err
	}
	pair, err := slots(part+".pair", f.Pair, 2)
	if err != nil {
		return err
	}
	c.t.post.set(single, pair)
	return nil
}
