package constrain

import (
	"encoding/json"
	"errors"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/schedule/constrain/schematest"
)

// vocabularies are random ones, some with bytes missing, and those of tokenizers.
func vocabularies(t testing.TB, r *rand.Rand) []*Vocabulary {
	pieces := []string{`{"`, `":`, `": `, `", "`, `","`, `},{`, `"}`, `"]`, `]}`, `}}`, `, `, `null`, `true`, `12`, `.5`, `-1`, `e+`, `{"a":`, `\n`, `\u00`, `\ud83d`, `é`, `漢字`, "\xe6\xbc", "\x97", "\xf0\x9f\x98",
		`2024-`, `foo`, `bar`, ` foo`, `abc`, `abcdefghijklmnop`, `"tag": "a"`, `"a": {"a": {"`, `tag`, `[[`, `]]`, `[]`, `{}`, `""`, `  `, "\n", `a"b`, `a":1,"b":`}
	var list []*Vocabulary
	for range 6 {
		var tokens [][]byte
		for i := range 256 {
			tokens = append(tokens, []byte{byte(i)})
		}
		for _, p := range pieces {
			if r.IntN(3) > 0 {
				tokens = append(tokens, []byte(p))
			}
		}
		for range 200 {
			var b []byte
			for range 1 + r.IntN(3) {
				b = append(b, pieces[r.IntN(len(pieces))]...)
			}
			tokens = append(tokens, b)
		}
		tokens = append(tokens, nil, []byte("</s>"))
		list = append(list, NewVocabulary(tokens, []int64{int64(len(tokens) - 1)}))
	}
	// Without bytes beyond ASCII, and without some of ASCII: characters come whole only.
	for range 3 {
		var tokens [][]byte
		for i := range 128 {
			if i >= 0x20 && (r.IntN(12) > 0 || strings.ContainsRune(`{}[]":,0123456789truefalsnTZ-.`, rune(i))) {
				tokens = append(tokens, []byte{byte(i)})
			}
		}
		for _, p := range pieces {
			tokens = append(tokens, []byte(p))
		}
		tokens = append(tokens, nil)
		list = append(list, NewVocabulary(tokens, []int64{int64(len(tokens) - 1)}))
	}
	for _, name := range []string{"bpe_gpt2", "bpe_llama3", "bpe_qwen"} {
		list = append(list, byteLevel(t, name))
	}
	return list
}

// byteLevel reads the vocabulary of a tokenizer whose tokens spell bytes as GPT-2's do.
func byteLevel(t testing.TB, name string) *Vocabulary {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../../../testdata/tiny/tokenizers", name, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Model struct{ Vocab map[string]int }
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	byteOf := map[rune]byte{}
	next := rune(256)
	for b := range 256 {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			byteOf[rune(b)] = byte(b)
		} else {
			byteOf[next] = byte(b)
			next++
		}
	}
	tokens := make([][]byte, len(file.Model.Vocab)+1)
	for s, id := range file.Model.Vocab {
		var b []byte
		for _, r := range s {
			c, ok := byteOf[r]
			if !ok {
				b = nil // a special token
				break
			}
			b = append(b, c)
		}
		if id >= 0 && id < len(tokens)-1 {
			tokens[id] = b
		}
	}
	return NewVocabulary(tokens, []int64{int64(len(tokens) - 1)})
}

func ids(allowed []uint32) []int64 {
	var list []int64
	for w, word := range allowed {
		for ; word != 0; word &= word - 1 {
			list = append(list, int64(w*32+bits.TrailingZeros32(word)))
		}
	}
	return list
}

// TestRandom: whatever a model says within random schemas and vocabularies, it is never
// stuck, can always end, and has then said what is valid.
func TestRandom(t *testing.T) {
	wanted := 350
	if testing.Short() {
		wanted = 30
	}
	r := rand.New(rand.NewPCG(5, 7))
	vs := vocabularies(t, r)
	compiled, texts, refused := 0, 0, map[string]int{}
	for compiled < wanted {
		schema := schematest.Random(r)
		v := vs[r.IntN(len(vs))]
		g, err := Compile(schema, v)
		if err != nil {
			var s *SchemaError
			var vocabulary *VocabularyError
			if !errors.As(err, &s) && !errors.As(err, &vocabulary) {
				t.Fatalf("%s: %v", schema, err)
			}
			refused[err.Error()]++
			continue
		}
		compiled++
		valid, err := schematest.Compile(schema)
		if err != nil {
			t.Fatalf("%s: %v", schema, err)
		}
		for range 3 {
			text := say(t, r, g, schema)
			texts++
			if err := valid(text); err != nil {
				t.Fatalf("%s\n%s\n%v", schema, text, err)
			}
		}
	}
	t.Logf("%d schemas, %d texts; refused: %v", compiled, texts, refused)
}

// say draws tokens until the text ends: for a while any, then those that lead to an end.
func say(t *testing.T, r *rand.Rand, g *Grammar, schema []byte) string {
	v := g.vocabulary
	c := g.Start().(*state)
	var text []byte
	patience := r.IntN(60)
	for n := 0; ; n++ {
		allowed := maskOf(c)
		list := ids(allowed)
		if len(list) == 0 {
			t.Fatalf("%s: nothing may follow %s", schema, text)
		}
		end := has(allowed, v.end[0])
		if end && (n > patience || r.IntN(8) == 0 || len(list) == 1) {
			return string(text)
		}
		if n > patience+5000 {
			t.Fatalf("%s: no end after %d tokens: ...%s", schema, n, text[max(0, len(text)-500):])
		}
		if r.IntN(8) == 0 {
			checkMask(t, r, c, allowed, text)
		}
		id := list[r.IntN(len(list))]
		if n > patience {
			// What closes something, or is short.
			for range r.IntN(30) {
				other := list[r.IntN(len(list))]
				if other != v.end[0] && closes(v.tokens[other]) > closes(v.tokens[id]) {
					id = other
				}
			}
			var closers, some []int64
			for _, other := range list {
				switch s := string(v.tokens[other]); {
				case s == `"` || len(list) < 40 && (s == "}" || s == "]"):
					closers = append(closers, other)
				case len(s) == 1 && strings.Contains("0123456789.: ab", s):
					some = append(some, other)
				}
			}
			if len(closers) > 0 && r.IntN(8) > 0 {
				id = closers[r.IntN(len(closers))]
			} else if len(some) > 0 && r.IntN(8) > 0 {
				id = some[r.IntN(len(some))]
			}
		}
		if id == v.end[0] {
			return string(text)
		}
		if err := c.Accept(id); err != nil {
			t.Fatalf("%s: %s: %v, which the mask allowed", schema, text, err)
		}
		text = append(text, v.tokens[id]...)
		if r.IntN(20) == 0 {
			c = c.Clone().(*state)
		}
	}
}

func closes(token []byte) int {
	n := -len(token)
	for _, b := range token {
		switch b {
		case '}', ']', '"':
			n += 2
		case '{', '[', ',':
			n -= 20
		}
	}
	return n
}

// checkMask holds a mask against what Accept says of some tokens.
func checkMask(t *testing.T, r *rand.Rand, c *state, allowed []uint32, text []byte) {
	v := c.grammar.vocabulary
	for range 50 {
		id := int64(r.IntN(len(v.tokens)))
		if id == v.end[0] {
			continue
		}
		if err := c.Clone().Accept(id); (err == nil) != has(allowed, id) {
			t.Fatalf("behind %s the mask says %v of %q, Accept says %v", text, has(allowed, id), v.tokens[id], err)
		}
	}
}
