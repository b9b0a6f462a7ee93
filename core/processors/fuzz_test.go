package processors

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

// FuzzTokenizerJSON opens any file as a tokenizer.json and, if that works, encodes some texts.
func FuzzTokenizerJSON(f *testing.F) {
	for _, name := range tokenizerNames {
		f.Add(smallTokenizer(f, name))
	}
	f.Add([]byte(`{"model":{"vocab":{"a":0,"b":1,"ab":2,"<0x0A>":3},"merges":["a b"],"unk_token":"a","byte_fallback":true,"continuing_subword_prefix":""},
		"normalizer":{"type":"Sequence","normalizers":[{"type":"Strip"},{"type":"Replace","pattern":{"Regex":"^|b"},"content":"a "},{"type":"Nmt"},{"type":"NFKD"}]},
		"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Punctuation"},{"type":"Digits"},{"type":"Metaspace","add_prefix_space":true}]},
		"post_processor":{"type":"RobertaProcessing","sep":["a",0],"cls":["b",1]},
		"decoder":{"type":"Sequence","decoders":[{"type":"BPEDecoder"},{"type":"Strip","content":"a","start":1,"stop":2}]},
		"added_tokens":[{"id":9,"content":"é","normalized":true,"lstrip":true,"rstrip":true},{"id":1,"content":"b","single_word":true}]}`))
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"##a":1,"aa":2},"merges":[["a","##a"]],"unk_token":"a","continuing_subword_prefix":"##"},
		"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(?=a)\\w"},"behavior":"MergedWithNext","invert":true},
		"decoder":{"type":"WordPiece"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := openTokenizer(fstest.MapFS{tokenizerFile: {Data: data}})
		if err != nil {
			if !errors.As(err, new(*FormatError)) && !errors.As(err, new(*UnsupportedError)) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			return
		}
		for _, text := range []string{"", " a\n", "Hello, wörld e\u0301\u0323! 12", "ab<s>日本 \u0301"} {
			e, err := tok.EncodePair(text, "b"+text, EncodeOptions{})
			if err != nil {
				if !errors.As(err, new(*TextError)) {
					t.Fatalf("error of type %T: %v", err, err)
				}
				continue
			}
			for i, id := range e.IDs {
				if _, ok := tok.IDToToken(id); !ok && e.Sources[i] != Added {
					t.Fatalf("token %d is %d, which is not in the vocabulary", i, id)
				}
				if o := e.Offsets[i]; o.Start < 0 || o.Start > o.End || o.End > 1+utf8.RuneCountInString(text) {
					t.Fatalf("token %d is at %v", i, o)
				}
			}
			if _, err := tok.Decode(e.IDs, true); err != nil {
				if !errors.As(err, new(*IDError)) {
					t.Fatalf("error of type %T: %v", err, err)
				}
				continue
			}
			checkStream(t, tok, e.IDs, true)
		}
	})
}

// smallTokenizer returns the tokenizer.json of one of the golden tokenizers with a small part of its vocabulary.
func smallTokenizer(f *testing.F, name string) []byte {
	data, err := os.ReadFile(filepath.Join(tokenizersDir, name, tokenizerFile))
	if err != nil {
		f.Fatal(err)
	}
	var file map[string]any
	if err := json.Unmarshal(data, &file); err != nil {
		f.Fatal(err)
	}
	file["added_tokens"] = file["added_tokens"].([]any)[:1]
	model := file["model"].(map[string]any)
	model["merges"] = []any{}
	switch vocab := model["vocab"].(type) {
	case []any:
		model["vocab"] = vocab[:20]
	case map[string]any:
		maps.DeleteFunc(vocab, func(token string, id any) bool {
			return id.(float64) > 20 && len(token) > 1 && !strings.HasPrefix(token, "[") && !strings.HasPrefix(token, "<")
		})
	}
	return marshal(file)
}

// FuzzEncode encodes any text with each of the golden tokenizers.
func FuzzEncode(f *testing.F) {
	toks := make([]*Tokenizer, len(tokenizerNames))
	for i, name := range tokenizerNames {
		toks[i] = openGolden(f, name)
	}
	for i, c := range readGolden(f, "wordpiece").Encodings {
		f.Add(c.Text, uint8(i), uint16(i))
	}
	f.Add("a\xff", uint8(0), uint16(3))
	f.Fuzz(func(t *testing.T, text string, flags uint8, limit uint16) {
		for i, tok := range toks {
			o := EncodeOptions{NoSpecial: flags&1 != 0, SpecialAsText: flags&2 != 0}
			e, err := tok.Encode(text, o)
			if !utf8.ValidString(text) {
				if !errors.As(err, new(*TextError)) {
					t.Fatalf("not UTF-8: error %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", tokenizerNames[i], err)
			}
			check(t, tok, text, e)

			cut := o
			cut.MaxLength, cut.CutLeft = int(limit)+8, flags&4 != 0
			short, err := tok.Encode(text, cut)
			if err != nil {
				t.Fatalf("%s: cut to %d: %v", tokenizerNames[i], cut.MaxLength, err)
			}
			check(t, tok, text, short)
			if len(short.IDs) > cut.MaxLength || len(short.IDs)+short.Cut != len(e.IDs) {
				t.Fatalf("%s: %d tokens of %d with %d cut to %d", tokenizerNames[i], len(short.IDs), len(e.IDs), short.Cut, cut.MaxLength)
			}

			bare, err := tok.Encode(text, EncodeOptions{NoSpecial: true, SpecialAsText: flags&2 != 0})
			if err != nil {
				t.Fatalf("%s: %v", tokenizerNames[i], err)
			}
			back, err := tok.Decode(bare.IDs, false)
			if err != nil {
				t.Fatalf("%s: %v", tokenizerNames[i], err)
			}
			exact := []string{"bpe_gpt2", "bpe_roberta", "bpe_llama3", "bpe_whisper"} // these lose nothing
			if slices.Contains(exact, tokenizerNames[i]) && back != text {
				t.Fatalf("%s: %q comes back as %q", tokenizerNames[i], text, back)
			}
			if !utf8.ValidString(back) {
				t.Fatalf("%s: %q comes back as %q", tokenizerNames[i], text, back)
			}
		}
	})
}
