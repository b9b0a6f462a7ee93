package processors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

func TestVocabulary(t *testing.T) {
	for name, want := range map[string]struct {
		size    int
		special SpecialTokens
		max     int
		added   int
	}{
		"wordpiece":   {700, SpecialTokens{0, 2, 3, 1, 4, NoToken, NoToken}, 64, 5},
		"bpe_gpt2":    {600, SpecialTokens{599, NoToken, NoToken, 599, NoToken, 599, 599}, 0, 1},
		"bpe_roberta": {560, SpecialTokens{1, 0, 2, 3, 4, 0, 2}, 0, 5},
		"bpe_clip":    {893, SpecialTokens{892, NoToken, NoToken, 892, NoToken, 891, 892}, 24, 2},
	} {
		tok := openGolden(t, name)
		if got := tok.VocabSize(); got != want.size {
			t.Errorf("%s: VocabSize %d, want %d", name, got, want.size)
		}
		if got := tok.Special(); got != want.special {
			t.Errorf("%s: Special %+v, want %+v", name, got, want.special)
		}
		if got := tok.MaxLength(); got != want.max {
			t.Errorf("%s: MaxLength %d, want %d", name, got, want.max)
		}
		if got := tok.AddedTokens(); len(got) != want.added || !got[0].Special {
			t.Errorf("%s: AddedTokens %+v, want %d", name, got, want.added)
		}
		for id := range int64(tok.VocabSize()) {
			token, ok := tok.IDToToken(id)
			if back, known := tok.TokenToID(token); !ok || !known || back != id {
				t.Errorf("%s: id %d is token %q, %v, which is id %d, %v", name, id, token, ok, back, known)
			}
		}
		for _, id := range []int64{-1, int64(tok.VocabSize()), 1 << 40} {
			if token, ok := tok.IDToToken(id); ok {
				t.Errorf("%s: id %d is token %q", name, id, token)
			}
		}
		if id, ok := tok.TokenToID("no such token"); ok || id != NoToken {
			t.Errorf("%s: an unknown token has id %d", name, id)
		}
	}
}

func TestTruncation(t *testing.T) {
	tok := openGolden(t, "wordpiece")
	// Lower-case letters are tokens each.
	text := func(n int) string { return strings.Repeat("x ", n) }
	other := func(n int) string { return strings.Repeat("y ", n) }
	x, y := tok.vocab.ids["x"], tok.vocab.ids["y"]
	for _, c := range []struct {
		a, b  int // b < 0: no pair
		o     EncodeOptions
		x, y  int // what is kept
		cut   int
		fails string
	}{
		{a: 5, b: -1, o: EncodeOptions{MaxLength: 7}, x: 5},
		{a: 5, b: -1, o: EncodeOptions{MaxLength: 6}, x: 4, cut: 1},
		{a: 5, b: -1, o: EncodeOptions{MaxLength: 2}, x: 0, cut: 5},
		{a: 5, b: -1, o: EncodeOptions{MaxLength: 1}, fails: "7 tokens can't be cut to 1: 2 special tokens alone are more"},
		{a: 5, b: -1, o: EncodeOptions{MaxLength: 1, NoSpecial: true}, x: 1, cut: 4},
		{a: 5, b: -1, o: EncodeOptions{MaxLength: 3, Cut: CutSecond}, fails: "only one"},
		{a: 5, b: -1, o: EncodeOptions{}, x: 5},
		{a: 5, b: 5, o: EncodeOptions{MaxLength: 10}, x: 3, y: 4, cut: 3},
		{a: 9, b: 2, o: EncodeOptions{MaxLength: 10}, x: 5, y: 2, cut: 4},
		{a: 2, b: 9, o: EncodeOptions{MaxLength: 10}, x: 2, y: 5, cut: 4},
		{a: 9, b: 9, o: EncodeOptions{MaxLength: 3}, x: 0, y: 0, cut: 18},
		{a: 9, b: 2, o: EncodeOptions{MaxLength: 10, Cut: CutFirst}, x: 5, y: 2, cut: 4},
		{a: 9, b: 4, o: EncodeOptions{MaxLength: 14, Cut: CutSecond}, x: 9, y: 2, cut: 2},
		{a: 9, b: 2, o: EncodeOptions{MaxLength: 10, Cut: CutSecond}, fails: "that text has only 2 tokens"},
		{a: 0, b: 0, o: EncodeOptions{MaxLength: 3}},
	} {
		c.o.CutLeft = c.a%2 == 1
		var e Encoding
		var err error
		if c.b < 0 {
			e, err = tok.Encode(text(c.a), c.o)
		} else {
			e, err = tok.EncodePair(text(c.a), other(c.b), c.o)
		}
		var refused *TruncationError
		if c.fails != "" {
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%+v: error %v", c, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		var xs, ys int
		for i, id := range e.IDs {
			switch {
			case id == int64(x) && e.Sources[i] == 0 && e.TypeIDs[i] == 0:
				if first := (c.a - c.x) * 2; xs == 0 && c.o.CutLeft && e.Offsets[i] != (Offset{first, first + 1}) {
					t.Errorf("%+v: the first token kept is at %v", c, e.Offsets[i])
				}
				xs++
			case id == int64(y) && e.Sources[i] == 1 && e.TypeIDs[i] == 1:
				ys++
			case e.Sources[i] != Added || e.Offsets[i] != Offset{}:
				t.Errorf("%+v: token %d is %d of text %d at %v", c, i, id, e.Sources[i], e.Offsets[i])
			}
		}
		if xs != c.x || ys != c.y || e.Cut != c.cut {
			t.Errorf("%+v: kept %d and %d, cut %d", c, xs, ys, e.Cut)
		}
	}
}

func TestSpecialAsText(t *testing.T) {
	for name, special := range map[string]string{
		"wordpiece": "[SEP]", "bpe_gpt2": "<|endoftext|>", "bpe_llama3": "<|eot_id|>", "bpe_qwen": "<|im_end|>", "bpe_llama2_llava": "</s>",
	} {
		tok := openGolden(t, name)
		id, ok := tok.TokenToID(special)
		if !ok {
			t.Fatalf("%s: %s has no id", name, special)
		}
		text := "a" + special + " b"
		e, err := tok.Encode(text, EncodeOptions{NoSpecial: true})
		if err != nil || !slices.Contains(e.IDs, id) {
			t.Errorf("%s: %v has no %s; error %v", name, e.IDs, special, err)
		}
		e, err = tok.Encode(text, EncodeOptions{NoSpecial: true, SpecialAsText: true})
		if err != nil || slices.Contains(e.IDs, id) {
			t.Errorf("%s: %v has %s; error %v", name, e.IDs, special, err)
		}
		if last := e.Offsets[len(e.Offsets)-1]; last.End != len(text) {
			t.Errorf("%s: the last token ends at %d", name, last.End)
		}
	}
}

// TestOlderFiles makes tokenizers from vocab.txt, and from vocab.json and merges.txt, and compares them with those from tokenizer.json.
func TestOlderFiles(t *testing.T) {
	for name, class := range map[string]string{
		"wordpiece": "BertTokenizer", "bpe_gpt2": "GPT2TokenizerFast", "bpe_roberta": "RobertaTokenizer", "bpe_qwen": "Qwen2Tokenizer",
		"bpe_clip": "CLIPTokenizer",
	} {
		t.Run(name, func(t *testing.T) {
			var cfg map[string]any
			data, err := os.ReadFile(filepath.Join(tokenizersDir, name, configFile))
			if err == nil {
				err = json.Unmarshal(data, &cfg)
			}
			if err != nil {
				t.Fatal(err)
			}
			cfg["tokenizer_class"] = class
			model := readModel(t, name)
			vocab := model["vocab"].(map[string]any)
			want := openGolden(t, name)
			added := make(map[string]any)
			for _, a := range want.AddedTokens() {
				if _, ok := vocab[a.Content]; !ok {
					added[a.Content] = a.ID
				}
			}
			dir := fstest.MapFS{configFile: {Data: marshal(cfg)}}
			if name == "wordpiece" {
				lines := make([]string, len(vocab))
				for token, id := range vocab {
					lines[int(id.(float64))] = token
				}
				dir[vocabTextFile] = &fstest.MapFile{Data: []byte(strings.Join(lines, "\n") + "\n")}
			} else {
				maps.Copy(vocab, added) // CLIP's vocab.json, for one, has its special tokens
				merges := "#version: 0.2\n"
				for _, m := range model["merges"].([]any) {
					merges += fmt.Sprintf("%s %s\n", m.([]any)[0], m.([]any)[1])
				}
				if name == "bpe_qwen" {
					cfg["added_tokens_decoder"] = map[string]any{}
					for token, id := range added {
						cfg["added_tokens_decoder"].(map[string]any)[fmt.Sprint(id)] = map[string]any{"content": token, "special": true}
						delete(vocab, token)
					}
					dir[configFile].Data = marshal(cfg)
				}
				dir[vocabFile] = &fstest.MapFile{Data: marshal(vocab)}
				dir[mergesFile] = &fstest.MapFile{Data: []byte(merges)}
			}
			got, err := openTokenizer(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got.Special() != want.Special() || got.VocabSize() != want.VocabSize() || got.MaxLength() != want.MaxLength() {
				t.Errorf("special tokens %+v of %d, want %+v of %d", got.Special(), got.VocabSize(), want.Special(), want.VocabSize())
			}
			g := readGolden(t, name)
			for i, c := range g.Encodings {
				pair := g.Encodings[(i+1)%len(g.Encodings)].Text
				w, err := want.EncodePair(c.Text, pair, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				e, err := got.EncodePair(c.Text, pair, EncodeOptions{})
				if err != nil || !equal(e, w) {
					t.Errorf("%q and %q:\n%v, want\n%v; error %v", c.Text, pair, e, w, err)
				}
				e, err = got.Encode(c.Text, EncodeOptions{})
				if err != nil || !slices.Equal(e.IDs, c.IDs) {
					t.Errorf("%q: %v, want %v; error %v", c.Text, e.IDs, c.IDs, err)
				}
				if text, err := got.Decode(e.IDs, true); err != nil || text != c.DecodedSkipSpecial {
					t.Errorf("%v decoded: %q, want %q; error %v", e.IDs, text, c.DecodedSkipSpecial, err)
				}
			}
		})
	}
}

func equal(a, b Encoding) bool {
	return slices.Equal(a.IDs, b.IDs) && slices.Equal(a.TypeIDs, b.TypeIDs) && slices.Equal(a.Offsets, b.Offsets) &&
		slices.Equal(a.Sources, b.Sources) && a.Cut == b.Cut
}

func TestBERTSettings(t *testing.T) {
	words := "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nE\né\ne\nÉ\n中\n中文\n"
	for cfg, want := range map[string][]string{
		`{}`:                      {"e", "中", "[UNK]"},
		`{"do_lower_case":false}`: {"É", "中", "[UNK]"},
		`{"do_lower_case":false,"strip_accents":true,"tokenize_chinese_chars":false}`: {"E", "中文"},
		`{"strip_accents":false}`: {"é", "中", "[UNK]"},
	} {
		tok, err := openTokenizer(fstest.MapFS{vocabTextFile: {Data: []byte(words)}, configFile: {Data: []byte(cfg)}})
		if err != nil {
			t.Fatal(err)
		}
		e, err := tok.Encode("É 中文", EncodeOptions{NoSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, id := range e.IDs {
			token, _ := tok.IDToToken(id)
			got = append(got, token)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", cfg, got, want)
		}
	}
}

func TestRobertaMaskTakesSpace(t *testing.T) {
	vocab := map[string]int{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5, "Ġ": 6}
	for cfg, ids := range map[string][]int64{
		`{"tokenizer_class":"RobertaTokenizer"}`:                                                        {5, 4},
		`{"tokenizer_class":"RobertaTokenizer","mask_token":"<mask>"}`:                                  {5, 4},
		`{"tokenizer_class":"RobertaTokenizer","mask_token":{"content":"<mask>","lstrip":false}}`:       {5, 6, 4},
		`{"tokenizer_class":"RobertaTokenizer","mask_token":{"content":"<mask>","lstrip":true}}`:        {5, 4},
		`{"tokenizer_class":"RobertaTokenizer","additional_special_tokens":["<mask>"],"unk_token":"a"}`: {5, 4},
	} {
		tok, err := openTokenizer(fstest.MapFS{
			configFile: {Data: []byte(cfg)}, vocabFile: {Data: marshal(vocab)}, mergesFile: {Data: []byte("#version: 0.2\n")},
		})
		if err != nil {
			t.Fatal(err)
		}
		if e, err := tok.Encode("a <mask>", EncodeOptions{NoSpecial: true}); err != nil || !slices.Equal(e.IDs, ids) {
			t.Errorf("%s: %v, want %v; error %v", cfg, e.IDs, ids, err)
		}
	}
}

func TestSpecialTokensMap(t *testing.T) {
	tok, err := openTokenizer(fstest.MapFS{
		vocabTextFile: {Data: []byte("[PAD]\n[UNK]\n<c>\n<s>\n[MASK]\na\nb\n")},
		specialsFile:  {Data: []byte(`{"cls_token":{"content":"<c>","lstrip":true},"sep_token":"<s>","mask_token":null,"additional_special_tokens":["b"]}`)},
		configFile:    {Data: []byte(`{"pad_token":"a","model_max_length":1e30}`)},
		addedFile:     {Data: []byte(`{"<new>":9}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := (SpecialTokens{5, 2, 3, 1, 4, NoToken, NoToken}); tok.Special() != want || tok.MaxLength() != 0 || tok.VocabSize() != 10 {
		t.Errorf("special tokens %+v, want %+v; MaxLength %d; VocabSize %d", tok.Special(), want, tok.MaxLength(), tok.VocabSize())
	}
	e, err := tok.Encode("b <c><new>x", EncodeOptions{})
	if err != nil || !slices.Equal(e.IDs, []int64{2, 6, 2, 9, 1, 3}) {
		t.Errorf("%v, error %v", e.IDs, err)
	}
	if text, err := tok.Decode([]int64{6, 5, 9, 1}, true); err != nil || text != "<new>" {
		t.Errorf("decoded %q, error %v", text, err)
	}
	if _, err := tok.Decode([]int64{1, 8}, false); !errors.As(err, new(*IDError)) {
		t.Errorf("a gap in the vocabulary is decoded: error %v", err)
	}
}

func TestEncodeErrors(t *testing.T) {
	spec := func(model, pre string) string {
		return fmt.Sprintf(`{"model":%s,"pre_tokenizer":%s}`, model, pre)
	}
	bpe := `{"type":"BPE","vocab":{"a":0},"merges":[]}`
	for name, c := range map[string]struct{ file, text, want string }{
		"not UTF-8":           {spec(bpe, "null"), "aé\xff", "at byte 3: it is not UTF-8"},
		"half a character":    {spec(bpe, "null"), "aaa\xe2\x82", "at byte 3: it is not UTF-8"},
		"unknown character":   {spec(bpe, "null"), "aéa", `no token for "é"`},
		"unknown byte":        {spec(bpe, `{"type":"ByteLevel","add_prefix_space":false}`), "é", `no token for "\xc3"`},
		"unknown to unigram":  {spec(`{"type":"Unigram","vocab":[["a",-1]],"unk_id":null}`, "null"), "éa", `no token for "é"`},
		"catastrophic regexp": {spec(bpe, `{"type":"Split","behavior":"Isolated","pattern":{"Regex":"(a+)+$x"}}`), strings.Repeat("a", 64), "takes too long"},
		"too long":            {spec(bpe, "null"), strings.Repeat("a", maxText+1), "encode it in parts"},
		"grows": {`{"model":` + bpe + `,"normalizer":{"type":"Sequence","normalizers":[` + strings.Repeat(
			`{"type":"Replace","pattern":{"String":"a"},"content":"`+strings.Repeat("a", 1000)+`"},`, 3) + `{"type":"NFC"}]}}`, "aaaaaaaa", "makes it longer"},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := openTokenizer(fstest.MapFS{tokenizerFile: {Data: []byte(c.file)}})
			if err != nil {
				t.Fatal(err)
			}
			e, err := tok.Encode(c.text, EncodeOptions{})
			if !errors.As(err, new(*TextError)) || !strings.Contains(err.Error(), c.want) || e.IDs != nil {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if e, err := tok.Encode("a", EncodeOptions{}); name != "grows" && (err != nil || len(e.IDs) != 1) {
				t.Errorf("after the error: %v, %v", e, err)
			}
		})
	}
	tok := openGolden(t, "wordpiece")
	var bad *IDError
	for _, id := range []int64{-1, 700, 1 << 32} {
		if _, err := tok.Decode([]int64{5, id}, false); !errors.As(err, &bad) || bad.ID != id || bad.Index != 1 || bad.VocabSize != 700 {
			t.Errorf("decoding id %d: error %v", id, err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	model := `"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<":3},"merges":[["a","b"]]}`
	with := func(parts string) string { return "{" + parts + "," + model + "}" }
	bpe := func(vocab, merges string) string {
		return fmt.Sprintf(`{"model":{"type":"BPE","vocab":%s,"merges":%s}}`, vocab, merges)
	}
	nested := strings.Repeat(`{"type":"Sequence","normalizers":[`, 40) + `{"type":"NFC"}` + strings.Repeat("]}", 40)
	good := with(`"version":"1.0"`)
	if _, err := openTokenizer(fstest.MapFS{tokenizerFile: {Data: []byte(good)}}); err != nil {
		t.Fatal(err)
	}
	format, unsupported := new(*FormatError), new(*UnsupportedError)
	for _, c := range []struct {
		file string
		as   any
		want string // in the message
	}{
		{"", format, "tokenizer.json: it ends in the middle, after 0 bytes"},
		{good[:len(good)-10], format, "it ends in the middle"},
		{"{\"model\":]}", format, "it is not JSON: at byte 10"},
		{"[]", format, "found array, which does not fit here"},
		{"{\"a\":\"\xff\"}", format, "it is not UTF-8"},
		{"{}", format, "model.vocab: it is missing"},
		{`{"model":{"type":"Magic","vocab":{"a":0}}}`, unsupported, `model: a model of type "Magic" is not supported`},
		{`{"model":{"vocab":{"a":0}}}`, unsupported, `a model of type "WordLevel"`},
		{`{"model":{"type":"BPE","vocab":7}}`, format, "model.vocab: an object of ids by token is expected"},
		{`{"model":{"type":5,"vocab":{}}}`, format, "model.type: found number, which does not fit here"},
		{bpe(`{}`, `[]`), format, "model.vocab: it is empty"},
		{bpe(`{"a":-1}`, `[]`), format, `token "a" has id -1`},
		{bpe(`{"a":1.5}`, `[]`), format, `the id of token "a" is "1.5", not a whole number`},
		{bpe(`{"a":"0"}`, `[]`), format, "not a whole number"},
		{bpe(`{"a":{"b":[]}}`, `[]`), format, "not a whole number"},
		{bpe(`{"a":null}`, `[]`), format, "not a whole number"},
		{bpe(`{"a":99999999999999999999}`, `[]`), format, "not a whole number"},
		{bpe(`{"a":16777216}`, `[]`), format, "is not in 0 to"},
		{bpe(`{"a":9999999}`, `[]`), format, "far out of the range of 1 tokens"},
		{bpe(`{"a":0,"b":0}`, `[]`), format, `tokens "a" and "b" have the same id 0`},
		{bpe(`{"a":0,"\u0061":1}`, `[]`), format, `token "a" is there twice, with ids 0 and 1`},
		{bpe(`{"`+strings.Repeat("a", 5000)+`":0}`, `[]`), format, "is 5000 bytes long"},
		{bpe(`{"a":0}`, `[["a","b"]]`), format, `model.merges[0]: "a" and "b" merge, but "b" is not in the vocabulary`},
		{bpe(`{"a":0,"b":1}`, `["a b"]`), format, `model.merges[0]: "a" and "b" merge, but "ab" is not in the vocabulary`},
		{bpe(`{"a":0}`, `["ab"]`), format, "model.merges[0]: \"ab\" is not two tokens"},
		{bpe(`{"a":0}`, `["a b c"]`), format, "is not two tokens"},
		{bpe(`{"a":0}`, `[["a"]]`), format, "model.merges[0]"},
		{bpe(`{"a":0}`, `[["a","a","a"]]`), format, "is not a pair of tokens"},
		{bpe(`{"a":0}`, `[7]`), format, "is not a pair of tokens"},
		{bpe(`{"a":0}`, `7`), format, "a list of merges is expected"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"u"}}`, format, `model.unk_token: "u" is not in the vocabulary`},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.5}}`, unsupported, "model.dropout"},
		{`{"model":{"type":"BPE","vocab":{"a":0},"merges":[],"byte_fallback":true,"end_of_word_suffix":"x"}}`, unsupported, "model.byte_fallback"},
		{`{"pre_tokenizer":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0},"merges":[],"byte_fallback":true}}`, unsupported, "model.byte_fallback"},
		{`{"pre_tokenizer":{"type":"ByteLevel"},"model":{"type":"WordPiece","vocab":{"[UNK]":0}}}`, unsupported, "model"},
		{`{"model":{"type":"WordPiece","vocab":{"a":0}}}`, format, `model.unk_token: "[UNK]" is not in the vocabulary`},
		{`{"model":{"type":"Unigram","vocab":[]}}`, format, "model.vocab: it is empty"},
		{`{"model":{"type":"Unigram","vocab":{"a":0}}}`, format, "model.vocab: found object, which does not fit here"},
		{`{"model":{"type":"Unigram","vocab":[["a"]]}}`, format, "is not a token with its score"},
		{`{"model":{"type":"Unigram","vocab":[["a",0],["a",1]]}}`, format, `token "a" is there twice`},
		{`{"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":1}}`, format, "model.unk_id: id 1 is not in the vocabulary of 1 tokens"},
		{`{"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":-1}}`, format, "model.unk_id"},
		{with(`"normalizer":{"type":"Precompiled","precompiled_charsmap":"AA=="}`), unsupported, `normalizer: a normalizer of type "Precompiled"`},
		{with(`"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Odd"}]}`), unsupported, `normalizer.normalizers[1]: a normalizer of type "Odd"`},
		{with(`"normalizer":{"type":"Sequence","normalizers":[null]}`), format, "normalizer.normalizers[0]: it is empty"},
		{with(`"normalizer":{"type":"Sequence"}`), format, "normalizer.normalizers"},
		{with(`"normalizer":` + nested), format, "nested more than 16 deep"},
		{with(`"normalizer":{}`), format, "normalizer: it has no type"},
		{with(`"normalizer":[]`), format, "normalizer: found array, which does not fit here"},
		{with(`"normalizer":{"type":"BertNormalizer","lowercase":"yes"}`), format, "normalizer.lowercase: found string, which does not fit here"},
		{with(`"normalizer":{"type":"Replace","pattern":{"String":""},"content":"x"}`), format, "normalizer.pattern"},
		{with(`"normalizer":{"type":"Replace","pattern":{"Regex":"("},"content":"x"}`), format, "normalizer.pattern"},
		{with(`"normalizer":{"type":"Replace","pattern":{"String":"a"},"content":"` + strings.Repeat("x", 2000) + `"}`), format, "normalizer.content"},
		{with(`"normalizer":{"type":"Prepend","prepend":"` + strings.Repeat("x", 2000) + `"}`), format, "normalizer.prepend"},
		{with(`"pre_tokenizer":{"type":"Odd"}`), unsupported, `pre_tokenizer: a pre-tokenizer of type "Odd"`},
		{with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"` + strings.Repeat("x", 5000) + `"},"behavior":"Isolated"}`), format, "5000 bytes long"},
		{with(`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"x"},"behavior":"Odd"}`), format, `pre_tokenizer.behavior: it is "Odd", not one of Contiguous, Isolated`},
		{with(`"pre_tokenizer":{"type":"Metaspace","replacement":"ab"}`), format, "pre_tokenizer.replacement"},
		{with(`"pre_tokenizer":{"type":"Metaspace","prepend_scheme":"odd"}`), format, `pre_tokenizer.prepend_scheme: it is "odd", not one of always, first, never`},
		{with(`"pre_tokenizer":{"type":"CharDelimiterSplit","delimiter":""}`), format, "pre_tokenizer.delimiter"},
		{with(`"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]}`), unsupported, "pre_tokenizer.pretokenizers[1]"},
		{with(`"decoder":{"type":"CTC"}`), unsupported, `decoder: a decoder of type "CTC"`},
		{with(`"decoder":{"type":"Strip","content":""}`), format, "decoder.content"},
		{with(`"decoder":{"type":"BPEDecoder","suffix":""}`), format, "decoder.suffix"},
		{with(`"decoder":{"type":"Replace","pattern":{"Regex":"x"},"content":""}`), unsupported, "decoder"},
		{with(`"post_processor":{"type":"Odd"}`), unsupported, `post_processor: a post-processor of type "Odd"`},
		{with(`"post_processor":{"type":"BertProcessing","sep":["a",0],"cls":["z",9]}`), format, "post_processor.cls: id 9 is not in the vocabulary"},
		{with(`"post_processor":{"type":"BertProcessing","sep":["a"],"cls":["z",9]}`), format, "is not a token with its id"},
		{with(`"post_processor":{"type":"TemplateProcessing","single":[],"pair":[]}`), format, "post_processor.single: sequence A is there 0 times"},
		{with(`"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"pair":[]}`), format, "there is no sequence \"B\" here"},
		{with(`"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":-1}}],"pair":[]}`), format, "post_processor.single[0].type_id"},
		{with(`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}}],"pair":[]}`), format, `special token "x" is not among`},
		{with(`"post_processor":{"type":"TemplateProcessing","single":[{}],"pair":[]}`), format, "neither a sequence nor a special token"},
		{with(`"post_processor":{"type":"Sequence","processors":[{"type":"BertProcessing","sep":["a",0],"cls":["a",0]},{"type":"BertProcessing","sep":["a",0],"cls":["a",0]}]}`), unsupported, "post_processor.processors[1]"},
		{with(`"added_tokens":[{"content":"x"}]`), format, "added_tokens[0]: it has no id"},
		{with(`"added_tokens":[{"content":"","id":9}]`), format, "added_tokens[0]: the token with id 9 is empty"},
		{with(`"added_tokens":[{"content":"x","id":0}]`), format, `tokens "a" and "x" have the same id 0`},
		{with(`"added_tokens":[{"content":"a","id":1}]`), format, `token "a" is to have id 1, but has id 0`},
		{with(`"added_tokens":[{"content":"x","id":-5}]`), format, "added_tokens[0]"},
		{with(`"added_tokens":[{"content":"x","id":999999}]`), format, "far out of the range"},
		{with(`"added_tokens":{}`), format, "added_tokens: found object, which does not fit here"},
	} {
		_, err := openTokenizer(fstest.MapFS{tokenizerFile: {Data: []byte(c.file)}})
		if err == nil || !errors.As(err, c.as) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.200s:\nerror %v\nwant  %T with %q", c.file, err, c.as, c.want)
		}
	}

	vocab := "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"
	for _, c := range []struct {
		files map[string]string
		want  string
	}{
		{nil, "there is neither tokenizer.json, nor vocab.txt, nor vocab.json with merges.txt"},
		{map[string]string{vocabFile: `{"a":0}`}, "there is neither"},
		{map[string]string{vocabTextFile: vocab + "a\n"}, `vocab.txt: token "a" is there twice`},
		{map[string]string{vocabTextFile: "a\n"}, `vocab.txt: special token "[CLS]" is not in the vocabulary`},
		{map[string]string{vocabTextFile: ""}, "vocab.txt"},
		{map[string]string{vocabTextFile: vocab, configFile: `{"pad_token":"<p>"}`}, `pad_token: token "<p>" is not in the vocabulary`},
		{map[string]string{vocabTextFile: vocab, configFile: `{"pad_token":5}`}, `tokenizer_config.json: "5" is not a token`},
		{map[string]string{vocabTextFile: vocab, configFile: `{"extra_special_tokens":5}`}, `"5" is not a list of tokens`},
		{map[string]string{vocabTextFile: vocab, configFile: `{"extra_special_tokens":{"image":"<i>"}}`}, `token "<i>" is not in the vocabulary`},
		{map[string]string{vocabTextFile: vocab, configFile: `{"added_tokens_decoder":{"x":{"content":"y"}}}`}, `"x" is not an id`},
		{map[string]string{vocabTextFile: vocab, configFile: `{`}, "tokenizer_config.json: it ends in the middle"},
		{map[string]string{vocabTextFile: vocab, specialsFile: `[]`}, "special_tokens_map.json: found array, which does not fit here"},
		{map[string]string{vocabTextFile: vocab, addedFile: `{"x":"y"}`}, "added_tokens.json"},
		{map[string]string{vocabTextFile: vocab, addedFile: `{"x":1}`}, `added_tokens.json: tokens "[UNK]" and "x" have the same id 1`},
		{map[string]string{vocabFile: `{"a":0}`, mergesFile: ""}, `making a tokenizer of class "" from vocab.json and merges.txt (it is done for CLIPTokenizer`},
		{map[string]string{vocabFile: `{"a":0}`, mergesFile: "a\n", configFile: `{"tokenizer_class":"GPT2Tokenizer"}`}, `merges.txt: line 1: "a" is not two tokens`},
		{map[string]string{vocabFile: `{"a":`, mergesFile: "", configFile: `{"tokenizer_class":"GPT2Tokenizer"}`}, "vocab.json: it ends in the middle"},
		{map[string]string{vocabFile: `{"a":0}`, mergesFile: "", configFile: `{"tokenizer_class":"RobertaTokenizer"}`}, `vocab.json: special token "<s>" is not in the vocabulary`},
	} {
		dir := fstest.MapFS{}
		for name, data := range c.files {
			dir[name] = &fstest.MapFile{Data: []byte(data)}
		}
		if _, err := openTokenizer(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v:\nerror %v\nwant one with %q", c.files, err, c.want)
		}
	}

	dir := t.TempDir()
	if _, err := OpenTokenizer(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := OpenTokenizer(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	big := filepath.Join(dir, tokenizerFile)
	if err := errors.Join(os.WriteFile(big, []byte("{"), 0o600), os.Truncate(big, maxFile+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokenizer(dir); !errors.As(err, format) || !strings.Contains(err.Error(), "more than the") {
		t.Errorf("a gigantic file: %v", err)
	}
	if _, err := OpenTokenizer(big); err == nil || !strings.Contains(err.Error(), "is not a folder") {
		t.Errorf("a file for a folder: %v", err)
	}
	if err := errors.Join(os.Remove(big), os.Mkdir(big, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTokenizer(dir); !errors.As(err, format) || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a folder for a file: %v", err)
	}
}

// TestMergeOrder compares the two ways to merge with each other on random vocabularies.
func TestMergeOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		const letters = "abcd"
		vocab := newVocabulary()
		tokens := strings.Split(letters, "")
		m := &bpe{merges: newMergeTable(100), ids: vocab.ids, unk: none, cache: newWordCache()}
		for _, token := range tokens {
			vocab.ids[token] = int32(len(vocab.ids))
		}
		for rank := range int32(100) {
			a, b := tokens[rng.IntN(len(tokens))], tokens[rng.IntN(len(tokens))]
			id, ok := vocab.ids[a+b]
			if !ok {
				id = int32(len(vocab.ids))
				vocab.ids[a+b] = id
				tokens = append(tokens, a+b)
			}
			m.merges.add(vocab.ids[a], vocab.ids[b], rank, id)
		}
		for range 20 {
			word := make([]byte, 1+rng.IntN(300))
			for i := range word {
				word[i] = letters[rng.IntN(len(letters))]
			}
			var short, long scratch
			for _, s := range []*scratch{&short, &long} {
				if err := m.begin(s, word); err != nil {
					t.Fatal(err)
				}
				for i := range s.symbols {
					m.pair(s.symbols, i, i+1)
				}
			}
			short.symbols = m.mergeShort(short.symbols)
			m.mergeLong(&long)
			same := func(a, b symbol) bool { return a.id == b.id && a.end == b.end }
			if !slices.EqualFunc(short.symbols, long.symbols, same) {
				t.Fatalf("%s: %v and %v", word, short.symbols, long.symbols)
			}
		}
	}
}

// TestLongWords encodes texts of one word, which must not take quadratic time.
func TestLongWords(t *testing.T) {
	for _, name := range tokenizerNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := openGolden(t, name)
			for _, part := range []string{"a", "ab", "é", "\u0301\u0323", " ", "[", "<|", "字"} {
				text := strings.Repeat(part, 100_000/len(part))
				e, err := tok.Encode(text, EncodeOptions{})
				if err != nil {
					t.Fatal(err)
				}
				check(t, tok, text, e)
			}
		})
	}
}

// check says whether an encoding is one that can be: ids within the vocabulary, offsets in order and within the text.
func check(t *testing.T, tok *Tokenizer, text string, e Encoding) {
	t.Helper()
	n := len(e.IDs)
	if len(e.TypeIDs) != n || len(e.Offsets) != n || len(e.Sources) != n {
		t.Fatalf("%d ids, %d type ids, %d offsets, %d sources", n, len(e.TypeIDs), len(e.Offsets), len(e.Sources))
	}
	chars := utf8.RuneCountInString(text)
	var last Offset
	for i, id := range e.IDs {
		if _, ok := tok.IDToToken(id); !ok {
			t.Fatalf("token %d is %d, which is not in the vocabulary", i, id)
		}
		o := e.Offsets[i]
		if e.Sources[i] == Added {
			if o != (Offset{}) {
				t.Fatalf("added token %d is at %v", i, o)
			}
			continue
		}
		if o.Start < last.Start || o.End < last.End || o.Start > o.End || o.End > chars {
			t.Fatalf("token %d is at %v, after %v, in a text of %d characters", i, o, last, chars)
		}
		last = o
	}
}

func TestConcurrentUse(t *testing.T) {
	for _, name := range []string{"wordpiece", "bpe_qwen", "unigram_t5"} {
		tok := openGolden(t, name)
		g := readGolden(t, name)
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				for i := range g.Encodings {
					c := g.Encodings[(i+worker*25)%len(g.Encodings)]
					if e, err := tok.Encode(c.Text, EncodeOptions{}); err != nil || !slices.Equal(e.IDs, c.IDs) {
						t.Errorf("%s: %q: %v, want %v; error %v", name, c.Text, e.IDs, c.IDs, err)
					}
				}
			})
		}
		wg.Wait()
	}
}
