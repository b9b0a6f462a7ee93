package processors

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkStream holds what a stream makes of ids against Decode.
func checkStream(t *testing.T, tok *Tokenizer, ids []int64, skipSpecial bool) {
	t.Helper()
	want, err := tok.Decode(ids, skipSpecial)
	if err != nil {
		t.Fatal(err)
	}
	d := tok.Stream(skipSpecial)
	var got strings.Builder
	for i, id := range ids {
		text, err := d.Push(id)
		if err != nil {
			t.Fatalf("id %d: %v", id, err)
		}
		if !utf8.ValidString(text) {
			t.Fatalf("%v: token %d gives %q, which ends inside a character", ids, i, text)
		}
		got.WriteString(text)
		if !strings.HasPrefix(want, got.String()) {
			t.Fatalf("%v: after token %d the text is %+q, want a beginning of %+q", ids, i, got.String(), want)
		}
	}
	got.WriteString(d.Flush())
	if got.String() != want {
		t.Fatalf("%v streamed: %+q, want %+q", ids, got.String(), want)
	}
	if again := d.Flush(); again != "" {
		t.Fatalf("flushed twice: %+q", again)
	}
}

// existing returns n random ids that have tokens; if near, most of them tokens of single bytes, of which characters come apart.
func existing(tok *Tokenizer, r *rand.Rand, n int, near bool) []int64 {
	ids := make([]int64, 0, n)
	for len(ids) < n {
		id := r.Int64N(int64(tok.VocabSize()))
		token, ok := tok.IDToToken(id)
		if _, byteLike := byteToken(token); !ok || near && r.IntN(5) > 0 && !byteLike && utf8.RuneCountInString(token) > 1 {
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

func TestStreamRandom(t *testing.T) {
	for _, name := range tokenizerNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tok := openGolden(t, name)
			r := rand.New(rand.NewPCG(1, 2))
			for i := range 400 {
				checkStream(t, tok, existing(tok, r, i%40, i%2 == 0), i%4 < 2)
			}
		})
	}
}

func TestStreamHoldsBack(t *testing.T) {
	for _, tt := range []struct {
		tokenizer string
		tokens    []string
		want      []string // text of each Push, then of Flush
	}{
		{"bpe_gpt2", []string{"H", "Ã", "©", "l", "ð", "Ł", "Ĵ"}, []string{"H", "", "é", "l", "", "", "", "\ufffd"}},
		{"bpe_gpt2", []string{"Ã", "H", "©"}, []string{"", "\ufffdH", "\ufffd", ""}},
		{"bpe_llama2_llava", []string{"▁", "H", "<0xC3>", "<0xB6>", "l", "<0xC3>"}, []string{"", "H", "", "", "öl", "", "\ufffd"}},
		{"bpe_llama2_llava", []string{"<0x20>", "<0x41>", "<0xFF>", "l"}, []string{"", "", "", "\ufffd\ufffd\ufffdl", ""}},
		{"bpe_llama2_llava", []string{"▁w", "▁w"}, []string{"w", " w", ""}},
		{"bpe_llama2_llava", []string{"<0x20>", "l", "▁w"}, []string{"", "l", " w", ""}},
	} {
		tok := openGolden(t, tt.tokenizer)
		d := tok.Stream(true)
		var got []string
		for _, token := range tt.tokens {
			id, ok := tok.TokenToID(token)
			if !ok {
				t.Fatalf("%s has no token %q", tt.tokenizer, token)
			}
			text, err := d.Push(id)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, text)
		}
		if got = append(got, d.Flush()); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q: text %+q, want %+q", tt.tokenizer, tt.tokens, got, tt.want)
		}
	}
}

func TestStreamRefusesUnknownIDs(t *testing.T) {
	tok := openGolden(t, "bpe_llama2_llava")
	d := tok.Stream(false)
	id, _ := tok.TokenToID("▁w")
	var text string
	for _, bad := range []int64{-1, int64(tok.VocabSize())} {
		var e *IDError
		if _, err := d.Push(bad); !errors.As(err, &e) || e.ID != bad {
			t.Fatalf("id %d: error %v", bad, err)
		}
		s, err := d.Push(id)
		if err != nil {
			t.Fatal(err)
		}
		text += s
	}
	if text += d.Flush(); text != "w w" {
		t.Errorf("text %q after refused ids", text)
	}
}

func TestStreamKeeps(t *testing.T) {
	tok := openGolden(t, "bpe_qwen")
	e, err := tok.Encode("a<|im_start|>b<|im_end|>c", EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keep, ok := tok.TokenToID("<|im_end|>")
	if !ok {
		t.Fatal("there is no <|im_end|>")
	}
	d := tok.Stream(true, keep)
	got := ""
	for _, id := range e.IDs {
		text, err := d.Push(id)
		if err != nil {
			t.Fatal(err)
		}
		got += text
	}
	if got += d.Flush(); got != "ab<|im_end|>c" {
		t.Errorf("%v streamed: %q", e.IDs, got)
	}
}

// FuzzStream streams any ids with each of the golden tokenizers.
func FuzzStream(f *testing.F) {
	toks := make([]*Tokenizer, len(tokenizerNames))
	for i, name := range tokenizerNames {
		toks[i] = openGolden(f, name)
	}
	f.Add([]byte{1, 0, 2, 0, 200, 0, 201, 0, 202, 1}, false)
	f.Fuzz(func(t *testing.T, data []byte, skipSpecial bool) {
		for _, tok := range toks {
			var ids []int64
			for i := 0; i+1 < len(data); i += 2 {
				id := int64(binary.LittleEndian.Uint16(data[i:])) % int64(tok.VocabSize())
				if _, ok := tok.IDToToken(id); ok {
					ids = append(ids, id)
				}
			}
			checkStream(t, tok, ids, skipSpecial)
		}
	})
}

func BenchmarkStream(b *testing.B) {
	for _, name := range []string{"bpe_llama3", "bpe_llama2_llava"} {
		b.Run(name, func(b *testing.B) {
			tok := openGolden(b, name)
			ids := existing(tok, rand.New(rand.NewPCG(1, 2)), 4096, false)
			d := tok.Stream(true)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := d.Push(ids[i%len(ids)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
