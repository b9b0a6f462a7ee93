package processors

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tokenizersDir holds tokenizers with what the Hugging Face libraries make of 204 strings and 10 pairs.
const tokenizersDir = "../../testdata/tiny/tokenizers"

var tokenizerNames = []string{
	"wordpiece", "bpe_gpt2", "bpe_roberta", "bpe_qwen", "bpe_llama3", "bpe_whisper", "bpe_clip", "bpe_llama2_llava", "unigram_t5",
}

type golden struct {
	Encodings []struct {
		Text               string
		IDs                []int64
		IDsNoSpecial       []int64  `json:"ids_no_special"`
		TokensNoSpecial    []string `json:"tokens_no_special"`
		OffsetsNoSpecial   [][2]int `json:"offsets_no_special"`
		Decoded            string
		DecodedSkipSpecial string `json:"decoded_skip_special"`
	}
	Pairs []struct {
		A, B    string
		IDs     []int64
		TypeIDs []int64 `json:"type_ids"`
	}
}

func readGolden(t testing.TB, name string) golden {
	t.Helper()
	var g golden
	data, err := os.ReadFile(filepath.Join(tokenizersDir, name, "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func openGolden(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := OpenTokenizer(filepath.Join(tokenizersDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGoldenEncodings(t *testing.T) {
	for _, name := range tokenizerNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := openGolden(t, name)
			g := readGolden(t, name)
			if len(g.Encodings) != 204 || len(g.Pairs) != 10 {
				t.Fatalf("%d encodings and %d pairs", len(g.Encodings), len(g.Pairs))
			}
			for _, want := range g.Encodings {
				if e, err := tok.Encode(want.Text, EncodeOptions{}); err != nil || !slices.Equal(e.IDs, want.IDs) {
					t.Errorf("%q: ids\n%v, want\n%v; error %v", want.Text, e.IDs, want.IDs, err)
				}
				e, err := tok.Encode(want.Text, EncodeOptions{NoSpecial: true})
				if err != nil || !slices.Equal(e.IDs, want.IDsNoSpecial) {
					t.Errorf("%q: ids without special tokens\n%v, want\n%v; error %v", want.Text, e.IDs, want.IDsNoSpecial, err)
					continue
				}
				for i, o := range e.Offsets {
					if got := [2]int{o.Start, o.End}; got != want.OffsetsNoSpecial[i] {
						t.Errorf("%q: token %d: offsets %v, want %v", want.Text, i, got, want.OffsetsNoSpecial[i])
					}
					if spelled, ok := tok.IDToToken(e.IDs[i]); !ok || spelled == "" {
						t.Errorf("%q: token %d: id %d has no token", want.Text, i, e.IDs[i])
					}
				}
				for skip, text := range map[bool]string{false: want.Decoded, true: want.DecodedSkipSpecial} {
					if got, err := tok.Decode(want.IDs, skip); err != nil || got != text {
						t.Errorf("%v decoded with skipSpecial %v: %q, want %q; error %v", want.IDs, skip, got, text, err)
					}
					checkStream(t, tok, want.IDs, skip)
				}
			}
			for _, want := range g.Pairs {
				e, err := tok.EncodePair(want.A, want.B, EncodeOptions{})
				if err != nil || !slices.Equal(e.IDs, want.IDs) || !slices.Equal(e.TypeIDs, want.TypeIDs) {
					t.Errorf("%q and %q: ids %v of types %v, want %v of types %v; error %v", want.A, want.B, e.IDs, e.TypeIDs, want.IDs, want.TypeIDs, err)
				}
			}
		})
	}
}
