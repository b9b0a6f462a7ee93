package quantize

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/processors"
)

const tinyTokenizers = "../../testdata/tiny/tokenizers"

// tokenizerMeta is a tokenizer.json as a GGUF file has it.
func tokenizerMeta(t testing.TB, path string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var def struct {
		Added []struct {
			ID      int
			Content string
			Special bool
		} `json:"added_tokens"`
		Model struct {
			Vocab  map[string]int
			Merges [][2]string
			Bytes  bool `json:"byte_fallback"`
		}
	}
	if err := json.Unmarshal(data, &def); err != nil {
		t.Fatal(err)
	}
	n := len(def.Model.Vocab)
	for _, a := range def.Added {
		n = max(n, a.ID+1)
	}
	tokens, kinds := make([]string, n), slices.Repeat([]int32{tokenNormal}, n)
	for token, id := range def.Model.Vocab {
		tokens[id] = token
		if def.Model.Bytes && len(token) == 6 && strings.HasPrefix(token, "<0x") {
			kinds[id] = tokenByte
		}
	}
	ids := map[string]int{}
	for _, a := range def.Added {
		tokens[a.ID], kinds[a.ID], ids[a.Content] = a.Content, tokenUser, a.ID
		if a.Special {
			kinds[a.ID] = tokenControl
		}
	}
	meta := map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
	if def.Model.Bytes {
		// The score of a token falls with the merge that makes it.
		scores := make([]float32, n)
		for rank, m := range def.Model.Merges {
			if id := def.Model.Vocab[m[0]+m[1]]; scores[id] == 0 {
				scores[id] = -1 - float32(rank)
			}
		}
		meta["tokenizer.ggml.model"], meta["tokenizer.ggml.scores"] = "llama", scores
	} else {
		merges := make([]string, len(def.Model.Merges))
		for i, m := range def.Model.Merges {
			merges[i] = m[0] + " " + m[1]
		}
		meta["tokenizer.ggml.merges"] = merges
	}
	for key, names := range map[string][]string{"bos": {"<s>", "<|begin_of_text|>"}, "eos": {"</s>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>"}, "unknown": {"<unk>"}} {
		for _, name := range names {
			if id, ok := ids[name]; ok {
				meta["tokenizer.ggml."+key+"_token_id"] = id
			}
		}
	}
	return meta
}

// writeTokenizer opens the tokenizer of a file with that metadata.
func writeTokenizer(t testing.TB, meta map[string]any) *processors.Tokenizer {
	t.Helper()
	tok, err := readTokenizer((&ggufFile{meta: meta}).open(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, v := range map[string]any{"tokenizer.json": tok.definition, "tokenizer_config.json": tok.config} {
		if err := writeJSON(filepath.Join(dir, name), v); err != nil {
			t.Fatal(err)
		}
	}
	opened, err := processors.OpenTokenizer(dir)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// TestTokenizers: what went through a GGUF file's metadata gives the recorded ids.
func TestTokenizers(t *testing.T) {
	for name, set := range map[string]map[string]any{
		"bpe_gpt2":         {"tokenizer.ggml.pre": "gpt-2"},
		"bpe_llama3":       {"tokenizer.ggml.pre": "llama-bpe"},
		"bpe_qwen":         {"tokenizer.ggml.pre": "qwen2"},
		"bpe_llama2_llava": {},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(tinyTokenizers, name)
			meta := tokenizerMeta(t, filepath.Join(dir, "tokenizer.json"))
			for k, v := range set {
				meta[k] = v
			}
			got := writeTokenizer(t, meta)
			var golden struct {
				Encodings []struct {
					Text    string
					IDs     []int64 `json:"ids"`
					Decoded string  `json:"decoded_skip_special"`
				}
			}
			data, err := os.ReadFile(filepath.Join(dir, "golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &golden); err != nil || len(golden.Encodings) < 100 {
				t.Fatalf("%d encodings, %v", len(golden.Encodings), err)
			}
			for _, e := range golden.Encodings {
				enc, err := got.Encode(e.Text, processors.EncodeOptions{})
				if err != nil || !slices.Equal(enc.IDs, e.IDs) {
					t.Errorf("%q: found %v, %v, wanted %v", e.Text, enc.IDs, err, e.IDs)
				}
				if text, err := got.Decode(e.IDs, true); err != nil || text != e.Decoded {
					t.Errorf("%q: decoded to %q, %v, wanted %q", e.Text, text, err, e.Decoded)
				}
			}
		})
	}
}

// TestTokenizerSettings: tokens around a text, roles and the chat template.
func TestTokenizerSettings(t *testing.T) {
	meta := map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": []string{"<s>", "</s>", "a", "1", "2", "12", "<x>"},
		"tokenizer.ggml.token_type": []int32{3, 3, 1, 1, 1, 1, 4}, "tokenizer.ggml.merges": []string{"1 2"}, "tokenizer.ggml.bos_token_id": 0,
		"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.padding_token_id": 1, "tokenizer.chat_template": "{{ messages }}"}
	encode := func() []int64 {
		t.Helper()
		enc, err := writeTokenizer(t, meta).Encode("a<x>12</s>", processors.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return enc.IDs
	}
	// Digits stand alone in this kind; in that of GPT-2 they merge.
	if got := encode(); !slices.Equal(got, []int64{2, 6, 3, 4, 1}) {
		t.Errorf("found %v", got)
	}
	meta["tokenizer.ggml.pre"], meta["tokenizer.ggml.add_bos_token"], meta["tokenizer.ggml.add_eos_token"] = "gpt-2", true, true
	if got := encode(); !slices.Equal(got, []int64{0, 2, 6, 5, 1, 1}) {
		t.Errorf("found %v", got)
	}
	tok, err := readTokenizer((&ggufFile{meta: meta}).open(t))
	if err != nil {
		t.Fatal(err)
	}
	want := object{"add_bos_token": true, "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "chat_template": "{{ messages }}",
		"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false}
	if !reflect.DeepEqual(tok.config, want) {
		t.Errorf("found %v", tok.config)
	}
}

func TestTokenizerRefuses(t *testing.T) {
	for _, tt := range []struct {
		key  string
		v    any // nil: it is taken away
		want string
	}{
		{"tokenizer.ggml.model", "bert", `tokenizer.ggml.model: found "bert", wanted "gpt2" or "llama"`},
		{"tokenizer.ggml.model", nil, "tokenizer.ggml.model: it is missing"},
		{"tokenizer.ggml.model", "llama", "tokenizer.ggml.scores: it has 0 elements, wanted 3"},
		{"tokenizer.ggml.tokens", nil, "tokenizer.ggml.tokens: it is missing"},
		{"tokenizer.ggml.tokens", []string{"a", "b", "a"}, `tokenizer.ggml.tokens[2]: "a" is token 0 too`},
		{"tokenizer.ggml.token_type", []int32{1}, "tokenizer.ggml.token_type: it has 1 elements, wanted 3"},
		{"tokenizer.ggml.pre", "poro-chat", `tokenizer.ggml.pre: found "poro-chat", wanted one of codeshell, command-r`},
		{"tokenizer.ggml.merges", nil, "tokenizer.ggml.merges: it is missing"},
		{"tokenizer.ggml.merges", []string{"a b c"}, `tokenizer.ggml.merges[0]: found "a b c"`},
		{"tokenizer.ggml.merges", []string{" b"}, `tokenizer.ggml.merges[0]: found " b"`},
		{"tokenizer.ggml.bos_token_id", 3, "tokenizer.ggml.bos_token_id: found 3"},
		{"tokenizer.chat_template", 3, "tokenizer.chat_template: found a uint32"},
	} {
		meta := map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": []string{"a", "b", "ab"}, "tokenizer.ggml.merges": []string{"a b"},
			"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": 0}
		if meta[tt.key] = tt.v; tt.v == nil {
			delete(meta, tt.key)
		}
		if _, err := readTokenizer((&ggufFile{meta: meta}).open(t)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s = %v: found %v, wanted %s", tt.key, tt.v, err, tt.want)
		}
	}
}
