package quantize

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
)

// Kinds of tokens, by the numbers that tokenizer.ggml.token_type has for them.
const (
	tokenNormal  = 1
	tokenUnknown = 2
	tokenControl = 3 // special: never made of text
	tokenUser    = 4 // found in text before it is split
	tokenUnused  = 5
	tokenByte    = 6
)

// tokenizer is a file's tokenizer as Hugging Face's files say it.
type tokenizer struct {
	definition object // tokenizer.json
	config     object // tokenizer_config.json
}

type object = map[string]any

// vocab is what the metadata says of tokens.
type vocab struct {
	f      checkpoint.GGUFFields
	tokens []string
	kinds  []int64
	ids    map[string]int64
}

// readTokenizer makes a tokenizer of tokenizer.ggml.*. Errors are *checkpoint.Error.
func readTokenizer(g *checkpoint.GGUF) (*tokenizer, error) {
	v := &vocab{f: g.Fields(), ids: map[string]int64{}}
	f := v.f
	kind := f.String("tokenizer.ggml.model")
	if !f.Has("tokenizer.ggml.tokens") && f.Err() == nil {
		f.Fail("tokenizer.ggml.tokens", "it is missing", "the vocabulary", "")
	}
	v.tokens, v.kinds = f.Strings("tokenizer.ggml.tokens"), f.Ints("tokenizer.ggml.token_type")
	if !f.Has("tokenizer.ggml.token_type") {
		v.kinds = slices.Repeat([]int64{tokenNormal}, len(v.tokens))
	}
	if len(v.kinds) != len(v.tokens) && f.Err() == nil {
		f.Fail("tokenizer.ggml.token_type", fmt.Sprintf("it has %d elements", len(v.kinds)), fmt.Sprintf("%d, one a token", len(v.tokens)), "")
	}
	if table, ok := g.Tensor("token_embd.weight"); ok && int64(len(v.tokens)) > table.Shape[0] && f.Err() == nil {
		f.Fail("tokenizer.ggml.tokens", fmt.Sprintf("there are %d", len(v.tokens)), fmt.Sprintf("at most %d, the rows of token_embd.weight", table.Shape[0]), "")
	}
	for id, token := range v.tokens {
		if other, twice := v.ids[token]; twice && f.Err() == nil {
			f.Fail(fmt.Sprintf("tokenizer.ggml.tokens[%d]", id), fmt.Sprintf("%q is token %d too", token, other), "another", "")
		}
		v.ids[token] = int64(id)
	}
	if f.Err() != nil {
		return nil, f.Err()
	}
	var t *tokenizer
	switch kind {
	case "gpt2":
		t = v.byteLevel()
	case "llama":
		t = v.sentencePiece()
	default:
		f.Fail("tokenizer.ggml.model", fmt.Sprintf("found %q", kind), `"gpt2" or "llama"`, "")
	}
	if f.Err() != nil {
		return nil, f.Err()
	}
	t.definition["version"] = "1.0"
	t.definition["added_tokens"] = v.added()
	if t.definition["post_processor"] = v.around(t.config["add_bos_token"] == true); f.Err() != nil {
		return nil, f.Err()
	}
	t.config["tokenizer_class"] = "PreTrainedTokenizerFast"
	t.config["clean_up_tokenization_spaces"] = false
	for _, role := range []struct{ name, key string }{{"bos_token", "bos"}, {"eos_token", "eos"}, {"unk_token", "unknown"}, {"pad_token", "padding"}} {
		if id := f.IntOr("tokenizer.ggml."+role.key+"_token_id", -1, 0, int64(len(v.tokens)-1)); id >= 0 {
			t.config[role.name] = v.tokens[id]
		}
	}
	if template := f.StringOr("tokenizer.chat_template", ""); template != "" {
		t.config["chat_template"] = template
	}
	return t, f.Err()
}

// added are the tokens that are found in text as they are.
func (v *vocab) added() []object {
	list := []object{}
	for id, kind := range v.kinds {
		if kind == tokenControl || kind == tokenUser || kind == tokenUnknown {
			list = append(list, object{"id": id, "content": v.tokens[id], "special": kind != tokenUser,
				"single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
		}
	}
	return list
}

// around puts the tokens that begin and end a text around it; nil: none.
func (v *vocab) around(begin bool) any {
	end := v.f.BoolOr("tokenizer.ggml.add_eos_token", false)
	if !begin && !end {
		return nil
	}
	specials := object{}
	token := func(key string) object {
		id := v.f.Int("tokenizer.ggml."+key+"_token_id", 0, int64(len(v.tokens)-1))
		name := v.tokens[id]
		specials[name] = object{"id": name, "ids": []int64{id}, "tokens": []string{name}}
		return object{"SpecialToken": object{"id": name, "type_id": 0}}
	}
	sequence := func(name string) []object {
		list := []object{{"Sequence": object{"id": name, "type_id": 0}}}
		if begin {
			list = slices.Insert(list, 0, token("bos"))
		}
		if end {
			list = append(list, token("eos"))
		}
		return list
	}
	return object{"type": "TemplateProcessing", "single": sequence("A"), "pair": append(sequence("A"), sequence("B")...), "special_tokens": specials}
}

// Patterns by which byte-level tokenizers split text before they merge.
const (
	gpt2Words   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Words = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwenWords   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	tekkenWords = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// byteLevelKind is what tokenizer.ggml.pre names.
type byteLevelKind struct {
	splits     []string // one after another
	composed   bool     // text is put into NFC first
	wholeWords bool     // a word that is a token is not merged
	begin      bool     // texts begin with bos where nothing else is said
}

var (
	gpt2Kind   = byteLevelKind{splits: []string{gpt2Words}}
	digitsKind = byteLevelKind{splits: []string{`\p{N}`, gpt2Words}}
	llama3Kind = byteLevelKind{splits: []string{llama3Words}, wholeWords: true, begin: true}
	qwenKind   = byteLevelKind{splits: []string{qwenWords}, composed: true}
)

// byteLevelKinds are the names that files have for them.
var byteLevelKinds = map[string]byteLevelKind{
	"gpt-2": gpt2Kind, "phi-2": gpt2Kind, "olmo": gpt2Kind, "mpt": gpt2Kind,
	"smollm": digitsKind, "starcoder": digitsKind, "refact": digitsKind, "command-r": digitsKind, "codeshell": digitsKind,
	"llama-bpe": llama3Kind, "llama3": llama3Kind, "llama-v3": llama3Kind,
	"qwen2": qwenKind, "deepseek-r1-qwen": qwenKind,
	"tekken": {splits: []string{tekkenWords}, wholeWords: true},
	// What was written before kinds had names.
	"default": {splits: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2Words, `\p{N}+`, `[0-9][0-9][0-9]`}},
}

// byteLevel is byte-level BPE, as GPT-2 introduced it.
func (v *vocab) byteLevel() *tokenizer {
	f := v.f
	name := f.StringOr("tokenizer.ggml.pre", "default")
	kind, ok := byteLevelKinds[name]
	if !ok {
		f.Fail("tokenizer.ggml.pre", fmt.Sprintf("found %q", name), "one of "+strings.Join(slices.Sorted(maps.Keys(byteLevelKinds)), ", "), "")
		return nil
	}
	if !f.Has("tokenizer.ggml.merges") {
		f.Fail("tokenizer.ggml.merges", "it is missing", "pairs of tokens", "")
		return nil
	}
	stored := f.Strings("tokenizer.ggml.merges")
	merges := make([][2]string, len(stored))
	for i, s := range stored {
		left, right, ok := strings.Cut(s, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			f.Fail(fmt.Sprintf("tokenizer.ggml.merges[%d]", i), fmt.Sprintf("found %q", s), "two tokens with a space between", "")
			return nil
		}
		merges[i] = [2]string{left, right}
	}
	var splits []object
	for _, pattern := range kind.splits {
		splits = append(splits, object{"type": "Split", "pattern": object{"Regex": pattern}, "behavior": "Isolated", "invert": false})
	}
	bytes := object{"type": "ByteLevel", "add_prefix_space": f.BoolOr("tokenizer.ggml.add_space_prefix", false), "trim_offsets": true, "use_regex": false}
	t := &tokenizer{object{
		"pre_tokenizer": object{"type": "Sequence", "pretokenizers": append(splits, bytes)},
		"decoder":       object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model": object{"type": "BPE", "fuse_unk": false, "byte_fallback": false, "ignore_merges": kind.wholeWords,
			"vocab": v.ids, "merges": merges},
	}, object{"add_bos_token": f.BoolOr("tokenizer.ggml.add_bos_token", kind.begin)}}
	if kind.composed {
		t.definition["normalizer"] = object{"type": "NFC"}
	}
	return t
}

// sentencePiece is the BPE of SentencePiece, as LLaMA 2 has it: a space is U+2581, and
// what is no token is bytes. It has scores in place of merges: of all pairs side by side
// the one that makes the token of the highest score is joined first.
func (v *vocab) sentencePiece() *tokenizer {
	f := v.f
	if f.BoolOr("tokenizer.ggml.remove_extra_whitespaces", false) {
		f.Fail("tokenizer.ggml.remove_extra_whitespaces", "found true", "false", "")
	}
	if f.Has("tokenizer.ggml.precompiled_charsmap") {
		f.Fail("tokenizer.ggml.precompiled_charsmap", "it is there", "no map of characters for this kind of tokenizer", "")
	}
	scores := f.Floats("tokenizer.ggml.scores")
	if len(scores) != len(v.tokens) && f.Err() == nil {
		f.Fail("tokenizer.ggml.scores", fmt.Sprintf("it has %d elements", len(scores)), fmt.Sprintf("%d, one a token", len(v.tokens)), "")
	}
	if f.Err() != nil {
		return nil
	}
	spaced := []object{}
	if f.BoolOr("tokenizer.ggml.add_space_prefix", true) {
		spaced = append(spaced, object{"type": "Prepend", "prepend": "▁"})
	}
	spaced = append(spaced, object{"type": "Replace", "pattern": object{"String": " "}, "content": "▁"})
	decoders := []object{{"type": "Replace", "pattern": object{"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}}
	if len(spaced) == 2 {
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	model := object{"type": "BPE", "fuse_unk": true, "byte_fallback": slices.Contains(v.kinds, tokenByte), "ignore_merges": false,
		"vocab": v.ids, "merges": v.merges(scores)}
	if id := f.IntOr("tokenizer.ggml.unknown_token_id", -1, 0, int64(len(v.tokens)-1)); id >= 0 {
		model["unk_token"] = v.tokens[id]
	}
	return &tokenizer{object{
		"normalizer": object{"type": "Sequence", "normalizers": spaced},
		"decoder":    object{"type": "Sequence", "decoders": decoders},
		"model":      model,
	}, object{"add_bos_token": f.BoolOr("tokenizer.ggml.add_bos_token", true)}}
}

// merges are all pairs of tokens that make a third, by that one's score, the highest
// first; of one token by the ids of the pair.
func (v *vocab) merges(scores []float64) [][2]string {
	type merge struct{ left, right, made int64 }
	var list []merge
	for id, token := range v.tokens {
		if v.kinds[id] != tokenNormal {
			continue
		}
		for i := range token {
			if i == 0 {
				continue
			}
			left, ok := v.ids[token[:i]]
			right, ok2 := v.ids[token[i:]]
			if ok && ok2 && v.kinds[left] == tokenNormal && v.kinds[right] == tokenNormal {
				list = append(list, merge{left, right, int64(id)})
			}
		}
	}
	slices.SortFunc(list, func(a, b merge) int {
		return cmp.Or(cmp.Compare(scores[b.made], scores[a.made]), cmp.Compare(a.made, b.made), cmp.Compare(a.left, b.left), cmp.Compare(a.right, b.right))
	})
	pairs := make([][2]string, len(list))
	for i, m := range list {
		pairs[i] = [2]string{v.tokens[m.left], v.tokens[m.right]}
	}
	return pairs
}
