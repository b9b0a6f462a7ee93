package processors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Files of a tokenizer's folder.
const (
	tokenizerFile = "tokenizer.json"
	configFile    = "tokenizer_config.json"
	specialsFile  = "special_tokens_map.json"
	addedFile     = "added_tokens.json"
	vocabTextFile = "vocab.txt"
	vocabFile     = "vocab.json"
	mergesFile    = "merges.txt"
)

// maxFile is the size of a file, in bytes, past which it is not read. The largest in use have about 40 MB.
const maxFile = 1 << 28

// maxModelLength is the number past which a model's maximum length means that there is none: files have 1e30 for that.
const maxModelLength = 1 << 30

// OpenTokenizer opens the tokenizer in a Hugging Face folder. It is made from tokenizer.json; where there is none, from vocab.txt
// (WordPiece, as BERT has it) or from vocab.json and merges.txt (byte-level BPE of the class that tokenizer_config.json names).
// tokenizer_config.json, special_tokens_map.json and added_tokens.json say which special tokens there are; each may be missing.
//
// Errors wrap a *FormatError, an *UnsupportedError or what the file system reports, fs.ErrNotExist if there is no tokenizer.
func OpenTokenizer(dir string) (*Tokenizer, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("tokenizer: %s is not a folder: name the folder that has %s", dir, tokenizerFile)
	}
	t, err := openTokenizer(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return t, nil
}

// openTokenizer is OpenTokenizer for a folder that need not be on disk.
func openTokenizer(dir fs.FS) (*Tokenizer, error) {
	cfg, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	for _, way := range []struct {
		files []string
		make  func(c *compiler, cfg *config, files [][]byte) (*definition, []float64, error)
	}{
		{[]string{tokenizerFile}, fromTokenizerJSON},
		{[]string{vocabTextFile}, fromVocabText},
		{[]string{vocabFile, mergesFile}, fromVocabAndMerges},
	} {
		files := make([][]byte, len(way.files))
		missing := false
		for i, name := range way.files {
			if files[i], err = readFile(dir, name); err != nil {
				return nil, err
			}
			missing = missing || files[i] == nil
		}
		if missing {
			continue
		}
		c := &compiler{file: way.files[0], vocab: newVocabulary()}
		def, scores, err := way.make(c, cfg, files)
		if err != nil {
			return nil, err
		}
		return c.compile(def, scores, cfg)
	}
	return nil, fmt.Errorf("tokenizer: there is neither %s, nor %s, nor %s with %s: save the tokenizer beside the model: %w",
		tokenizerFile, vocabTextFile, vocabFile, mergesFile, fs.ErrNotExist)
}

// readFile reads a file. It returns nil if there is none.
func readFile(dir fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &FormatError{name, "", "it is not a regular file"}
	}
	if info.Size() > maxFile {
		return nil, &FormatError{name, "", fmt.Sprintf("it has %d bytes, more than the %d allowed", info.Size(), maxFile)}
	}
	f, err := dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	defer f.Close()
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := io.Copy(data, io.LimitReader(f, maxFile)); err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	if !utf8.Valid(data.Bytes()) {
		return nil, &FormatError{name, "", "it is not UTF-8"}
	}
	return data.Bytes(), nil
}

// config is what the files beside tokenizer.json say.
type config struct {
	Class              string   `json:"tokenizer_class"`
	ModelMaxLength     *float64 `json:"model_max_length"`
	DoLowerCase        *bool    `json:"do_lower_case"`
	HandleChineseChars *bool    `json:"tokenize_chinese_chars"`
	StripAccents       *bool    `json:"strip_accents"`
	AddPrefixSpace     bool     `json:"add_prefix_space"`
	specialsJSON
	AddedTokens map[string]addedJSON `json:"added_tokens_decoder"`

	extra map[string]int64 // of added_tokens.json
}

// specialsJSON are the special tokens that tokenizer_config.json and special_tokens_map.json name.
type specialsJSON struct {
	Pad        *tokenJSON `json:"pad_token"`
	CLS        *tokenJSON `json:"cls_token"`
	Sep        *tokenJSON `json:"sep_token"`
	Unk        *tokenJSON `json:"unk_token"`
	Mask       *tokenJSON `json:"mask_token"`
	BOS        *tokenJSON `json:"bos_token"`
	EOS        *tokenJSON `json:"eos_token"`
	Additional tokensJSON `json:"additional_special_tokens"`
	Extra      tokensJSON `json:"extra_special_tokens"`
}

// role is a special token by the name it has in files.
type role struct {
	name  string
	token **tokenJSON
	id    *int64
}

func roles(s *specialsJSON, ids *SpecialTokens) []role {
	return []role{
		{"pad_token", &s.Pad, &ids.Pad}, {"cls_token", &s.CLS, &ids.CLS}, {"sep_token", &s.Sep, &ids.Sep}, {"unk_token", &s.Unk, &ids.Unk},
		{"mask_token", &s.Mask, &ids.Mask}, {"bos_token", &s.BOS, &ids.BOS}, {"eos_token", &s.EOS, &ids.EOS},
	}
}

// tokenJSON is a token: a string, or an object with flags.
type tokenJSON struct {
	addedJSON
	plain bool // without flags
}

func (t *tokenJSON) UnmarshalJSON(raw []byte) error {
	if json.Unmarshal(raw, &t.Content) == nil {
		t.plain = true
		return nil
	}
	if err := json.Unmarshal(raw, &t.addedJSON); err != nil {
		return fmt.Errorf("%s is not a token", shorten(string(raw)))
	}
	return nil
}

// tokensJSON are tokens: a list, or an object of tokens by name.
type tokensJSON []tokenJSON

func (t *tokensJSON) UnmarshalJSON(raw []byte) error {
	var list []tokenJSON
	var named map[string]tokenJSON
	switch {
	case json.Unmarshal(raw, &list) == nil:
		*t = list
	case json.Unmarshal(raw, &named) == nil:
		for _, name := range slices.Sorted(maps.Keys(named)) {
			*t = append(*t, named[name])
		}
	default:
		return fmt.Errorf("%s is not a list of tokens", shorten(string(raw)))
	}
	return nil
}

func readConfig(dir fs.FS) (*config, error) {
	cfg := new(config)
	var specials specialsJSON
	for _, f := range []struct {
		name string
		into any
	}{{configFile, cfg}, {specialsFile, &specials}, {addedFile, &cfg.extra}} {
		data, err := readFile(dir, f.name)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		c := compiler{file: f.name}
		if err := c.decode("", data, f.into); err != nil {
			return nil, err
		}
	}
	var unused SpecialTokens
	others := roles(&specials, &unused)
	for i, r := range roles(&cfg.specialsJSON, &unused) {
		if *r.token == nil {
			*r.token = *others[i].token
		}
	}
	cfg.Additional = append(cfg.Additional, specials.Additional...)
	return cfg, nil
}

// fromTokenizerJSON reads a tokenizer.json.
func fromTokenizerJSON(c *compiler, _ *config, files [][]byte) (*definition, []float64, error) {
	def := new(definition)
	if err := c.decode("", files[0], def); err != nil {
		return nil, nil, err
	}
	m := &def.Model
	m.Type = m.modelType()
	if len(m.Vocab) == 0 {
		return nil, nil, c.bad("model.vocab", "it is missing")
	}
	var scores []float64
	var err error
	if m.Type == "Unigram" {
		scores, err = c.readScored(m.Vocab)
	} else if err = c.vocab.readMap(m.Vocab); err != nil {
		err = c.bad("model.vocab", "%v", err)
	}
	m.Vocab = nil
	return def, scores, err
}

// fromVocabText makes BERT's tokenizer from its list of tokens.
func fromVocabText(c *compiler, cfg *config, files [][]byte) (*definition, []float64, error) {
	if err := c.vocab.readLines(string(files[0])); err != nil {
		return nil, nil, c.bad("", "%v", err)
	}
	defaults(cfg, map[string]string{"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"})
	post, err := c.surround("BertProcessing", cfg.CLS, cfg.Sep, false, false)
	if err != nil {
		return nil, nil, err
	}
	return &definition{
		Normalizer: marshal(map[string]any{
			"type": "BertNormalizer", "lowercase": orTrue(cfg.DoLowerCase), "handle_chinese_chars": orTrue(cfg.HandleChineseChars),
			"strip_accents": cfg.StripAccents,
		}),
		PreTokenizer:  json.RawMessage(`{"type":"BertPreTokenizer"}`),
		PostProcessor: post,
		Decoder:       json.RawMessage(`{"type":"WordPiece"}`),
		Model:         modelJSON{Type: "WordPiece", UnkToken: &cfg.Unk.Content},
	}, nil, nil
}

// byteLevelClass is what makes a class of byte-level BPE tokenizers what it is, beyond its vocabulary and merges.
type byteLevelClass struct {
	normalizer, preTokenizer string            // as in tokenizer.json
	suffix                   string            // of subwords that end a word
	post                     string            // type of the post-processor
	trim                     bool              // whether it leaves white space out of offsets
	begin, end               string            // roles of the special tokens that it puts around
	specials                 map[string]string // special tokens by role, where the configuration does not name them
	maskTakesSpace           bool              // whether the mask token takes the white space before it, if nothing else is said
}

var byteLevelClasses = map[string]byteLevelClass{
	"GPT2Tokenizer": {
		post:     "ByteLevel",
		specials: map[string]string{"unk": "<|endoftext|>", "bos": "<|endoftext|>", "eos": "<|endoftext|>"},
	},
	"RobertaTokenizer": {
		post: "RobertaProcessing", trim: true, begin: "cls", end: "sep",
		specials: map[string]string{
			"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>",
		},
		maskTakesSpace: true,
	},
	"Qwen2Tokenizer": {
		normalizer: `{"type":"NFC"}`,
		preTokenizer: `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":` + strconv.Quote(qwenPattern) +
			`},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`,
		post:     "ByteLevel",
		specials: map[string]string{"eos": "<|endoftext|>", "pad": "<|endoftext|>"},
	},
	"CLIPTokenizer": {
		normalizer: `{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"Regex":"\\s+"},"content":" "},{"type":"Lowercase"}]}`,
		preTokenizer: `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":` + strconv.Quote(clipPattern) +
			`},"behavior":"Removed","invert":true},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`,
		suffix: "</w>", post: "RobertaProcessing", begin: "bos", end: "eos",
		specials: map[string]string{"unk": "<|endoftext|>", "bos": "<|startoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"},
	},
}

// fromVocabAndMerges makes a byte-level BPE tokenizer from its vocabulary and merges.
func fromVocabAndMerges(c *compiler, cfg *config, files [][]byte) (*definition, []float64, error) {
	class, ok := byteLevelClasses[strings.TrimSuffix(cfg.Class, "Fast")]
	if !ok {
		return nil, nil, &UnsupportedError{configFile, "tokenizer_class", fmt.Sprintf(
			"making a tokenizer of class %s from %s and %s (it is done for %s; else save it as %s)",
			shorten(cfg.Class), vocabFile, mergesFile, strings.Join(slices.Sorted(maps.Keys(byteLevelClasses)), ", "), tokenizerFile)}
	}
	var vocab json.RawMessage
	if err := c.decode("", files[0], &vocab); err != nil {
		return nil, nil, err
	}
	if err := c.vocab.readMap(vocab); err != nil {
		return nil, nil, c.bad("", "%v", err)
	}
	merges, err := readMerges(string(files[1]))
	if err != nil {
		return nil, nil, &FormatError{mergesFile, "", err.Error()}
	}
	defaults(cfg, class.specials)
	if class.maskTakesSpace && cfg.Mask.plain {
		cfg.Mask.LStrip = true
	}
	def := &definition{
		Normalizer:   json.RawMessage(class.normalizer),
		PreTokenizer: json.RawMessage(class.preTokenizer),
		Decoder:      json.RawMessage(`{"type":"ByteLevel"}`),
		Model:        modelJSON{Type: "BPE", Merges: merges, EndOfWordSuffix: &class.suffix},
	}
	if cfg.Unk != nil {
		def.Model.UnkToken = &cfg.Unk.Content
	}
	if class.preTokenizer == "" {
		def.PreTokenizer = marshal(map[string]any{"type": "ByteLevel", "add_prefix_space": cfg.AddPrefixSpace})
	}
	if class.begin == "" {
		def.PostProcessor = marshal(map[string]any{"type": class.post, "trim_offsets": class.trim, "add_prefix_space": cfg.AddPrefixSpace})
		return def, nil, nil
	}
	byRole := map[string]*tokenJSON{"cls": cfg.CLS, "sep": cfg.Sep, "bos": cfg.BOS, "eos": cfg.EOS}
	def.PostProcessor, err = c.surround(class.post, byRole[class.begin], byRole[class.end], class.trim, cfg.AddPrefixSpace)
	return def, nil, err
}

// defaults names the special tokens of a class that the configuration does not name.
func defaults(cfg *config, byRole map[string]string) {
	var unused SpecialTokens
	for _, r := range roles(&cfg.specialsJSON, &unused) {
		if content, ok := byRole[strings.TrimSuffix(r.name, "_token")]; ok && *r.token == nil {
			*r.token = &tokenJSON{addedJSON{Content: content}, true}
		}
	}
}

// surround makes a post-processor that puts two tokens around a text.
func (c *compiler) surround(typ string, begin, end *tokenJSON, trim, prefixSpace bool) (json.RawMessage, error) {
	ids := [2]int32{c.vocab.get(begin.Content), c.vocab.get(end.Content)}
	for i, token := range [2]*tokenJSON{begin, end} {
		if ids[i] == none {
			return nil, c.bad("", "special token %s is not in the vocabulary", shorten(token.Content))
		}
	}
	return marshal(map[string]any{
		"type": typ, "cls": []any{begin.Content, ids[0]}, "sep": []any{end.Content, ids[1]}, "trim_offsets": trim, "add_prefix_space": prefixSpace,
	}), nil
}

// marshal writes what always can be written as JSON.
func marshal(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("processors: " + err.Error())
	}
	return raw
}

func orTrue(b *bool) bool { return b == nil || *b }

// compile makes the tokenizer.
func (c *compiler) compile(def *definition, scores []float64, cfg *config) (*Tokenizer, error) {
	c.t = &Tokenizer{vocab: c.vocab, addedByID: make(map[int32]AddedToken)}
	if err := c.vocab.index(); err != nil {
		return nil, c.bad("model.vocab", "%v", err)
	}
	if err := c.addTokens(def, cfg); err != nil {
		return nil, err
	}
	var err error
	if c.t.normalizer, err = c.normalizer("normalizer", def.Normalizer, 0); err != nil {
		return nil, err
	}
	if c.t.pre, err = c.preTokenizer("pre_tokenizer", def.PreTokenizer, 0); err != nil {
		return nil, err
	}
	bytes, err := c.byteMode(c.t.pre)
	if err != nil {
		return nil, err
	}
	if c.t.model, err = c.model(&def.Model, scores, bytes); err != nil {
		return nil, err
	}
	if _, err := c.postProcessor("post_processor", def.PostProcessor, 0); err != nil {
		return nil, err
	}
	post := &c.t.post
	if post.single == nil {
		post.set([]slot{{source: 0}}, []slot{{source: 0}, {source: 1, typeID: 1}})
	}
	if post.trim {
		c.t.edges = make([]edge, len(c.vocab.tokens))
		for id, token := range c.vocab.tokens {
			c.t.edges[id] = edgeOf(token)
		}
	}
	if c.t.decoder, err = c.decoder("decoder", def.Decoder, 0); err != nil {
		return nil, err
	}
	if err := c.match(); err != nil {
		return nil, err
	}
	if n := cfg.ModelMaxLength; n != nil && *n >= 1 && *n <= maxModelLength {
		c.t.maxLength = int(*n)
	}
	return c.t, nil
}

// addTokens gathers the added tokens of all files, and the special ones with a role.
func (c *compiler) addTokens(def *definition, cfg *config) error {
	add := func(file, part string, a addedJSON, id int64) error {
		if err := c.vocab.addExtra(a.Content, id); err != nil {
			return &FormatError{file, part, err.Error()}
		}
		if _, ok := c.t.addedByID[int32(id)]; !ok {
			c.t.addedByID[int32(id)] = AddedToken{a.Content, id, a.Special, a.SingleWord, a.LStrip, a.RStrip, a.Normalized}
		}
		return nil
	}
	for i, a := range def.AddedTokens {
		part := fmt.Sprintf("added_tokens[%d]", i)
		if a.ID == nil {
			return c.bad(part, "it has no id")
		}
		if err := add(c.file, part, a, *a.ID); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(cfg.AddedTokens)) {
		id, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			return &FormatError{configFile, "added_tokens_decoder", fmt.Sprintf("%s is not an id", shorten(key))}
		}
		if err := add(configFile, "added_tokens_decoder", cfg.AddedTokens[key], id); err != nil {
			return err
		}
	}

	// Roles come before what is left in added_tokens.json, which does not say which of its tokens are special.
	special := func(part string, t *tokenJSON) (int64, error) {
		id := int64(c.vocab.get(t.Content))
		if id == none {
			var ok bool
			if id, ok = cfg.extra[t.Content]; !ok {
				return 0, &FormatError{configFile + " or " + specialsFile, part, fmt.Sprintf(
					"token %s is not in the vocabulary: the files are not of one tokenizer, or the token was never saved", shorten(t.Content))}
			}
		}
		a := t.addedJSON
		a.Special = true
		return id, add(configFile, part, a, id)
	}
	c.t.special = SpecialTokens{NoToken, NoToken, NoToken, NoToken, NoToken, NoToken, NoToken}
	for _, r := range roles(&cfg.specialsJSON, &c.t.special) {
		if *r.token == nil {
			continue
		}
		var err error
		if *r.id, err = special(r.name, *r.token); err != nil {
			return err
		}
	}
	for _, t := range slices.Concat(cfg.Additional, cfg.Extra) {
		if _, err := special("additional_special_tokens", &t); err != nil {
			return err
		}
	}
	for _, token := range slices.Sorted(maps.Keys(cfg.extra)) {
		if err := add(addedFile, "", addedJSON{Content: token, Normalized: true}, cfg.extra[token]); err != nil {
			return err
		}
	}
	return nil
}

// match prepares looking for added tokens.
func (c *compiler) match() error {
	var lists [2][]AddedToken
	var keys [2][]string
	var t text
	for _, a := range c.t.AddedTokens() {
		which, key := 0, a.Content
		if a.Normalized {
			which = 1
			if c.t.normalizer != nil {
				t.reset(key, 0)
				if err := c.t.normalizer.normalize(&t); err != nil {
					return c.bad("added_tokens", "%s: %v", shorten(key), err)
				}
				key = string(t.buf)
			}
			if key == "" {
				continue // nothing is left of it to be found
			}
		}
		lists[which], keys[which] = append(lists[which], a), append(keys[which], key)
	}
	c.t.raw, c.t.normalized = newAddedTokens(lists[0], keys[0]), newAddedTokens(lists[1], keys[1])
	return nil
}
