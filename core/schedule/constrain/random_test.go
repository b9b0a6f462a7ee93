package constrain

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemas makes random ones.
type schemas struct {
	*rand.Rand
	defs int
}

type members = map[string]any

func (r schemas) pick(list ...string) string { return list[r.IntN(len(list))] }

func (r schemas) schema(depth int) any {
	if depth <= 0 {
		return r.scalar()
	}
	switch r.IntN(14) {
	case 0:
		return r.choose(any(true), any(members{}), any(members{"title": "anything"}))
	case 1:
		list := []any{}
		for range 1 + r.IntN(3) {
			list = append(list, r.schema(depth-1))
		}
		return members{"anyOf": list}
	case 2:
		return members{"oneOf": []any{r.tagged(depth-1, "a"), r.tagged(depth-1, "b"), members{"type": "null"}}}
	case 3:
		if r.defs > 0 {
			return members{"$ref": fmt.Sprintf("#/$defs/d%d", r.IntN(r.defs))}
		}
		return r.scalar()
	case 4:
		return members{"allOf": []any{r.object(depth - 1), r.object(depth - 1)}}
	case 5:
		o := r.object(depth - 1)
		o["anyOf"] = []any{members{"required": []any{"a"}}, members{"required": []any{"né\""}, "properties": members{"b": r.schema(depth - 1)}}}
		return o
	case 6, 7, 8:
		return r.array(depth - 1)
	case 9:
		return r.scalar()
	}
	return r.object(depth - 1)
}

func (r schemas) choose(list ...any) any { return list[r.IntN(len(list))] }

func (r schemas) tagged(depth int, tag string) any {
	o := r.object(depth)
	o["properties"].(members)["tag"] = members{"const": tag}
	o["required"] = append(o["required"].([]any), "tag")
	return o
}

func (r schemas) object(depth int) members {
	properties, required := members{}, []any{}
	for _, name := range []string{"a", "b", "ab", "né\"", ""} {
		if r.IntN(2) == 0 {
			properties[name] = r.schema(depth)
		}
		if r.IntN(4) == 0 {
			required = append(required, name)
		}
	}
	o := members{"type": "object", "properties": properties, "required": required}
	switch r.IntN(4) {
	case 0:
		o["additionalProperties"] = false
	case 1:
		o["additionalProperties"] = r.schema(depth - 1)
	}
	if r.IntN(4) == 0 {
		o["patternProperties"] = members{r.pick("^x", "b$", "^a.*c"): r.schema(depth - 1)}
	}
	return o
}

func (r schemas) array(depth int) any {
	a := members{"type": "array"}
	if r.IntN(3) > 0 {
		a["items"] = r.schema(depth)
	}
	if r.IntN(3) == 0 {
		a["prefixItems"] = []any{r.schema(depth), r.schema(depth)}
	}
	if r.IntN(3) == 0 {
		a["minItems"] = r.IntN(4)
	}
	if r.IntN(3) == 0 {
		a["maxItems"] = 1 + r.IntN(4)
	}
	return a
}

func (r schemas) scalar() any {
	switch r.IntN(9) {
	case 0:
		return members{"type": r.choose("null", "boolean", "string", "number", "integer")}
	case 1:
		return members{"enum": []any{1, "a\u2028", nil, true, 2.5, members{"k": []any{"<>&\n"}}, "abc"}, "type": r.choose("string", []any{"integer", "object", "null"}, "number")}
	case 2:
		s := members{"type": "string", "minLength": r.IntN(5)}
		if r.IntN(2) == 0 {
			s["maxLength"] = 2 + r.IntN(20)
		}
		return s
	case 3:
		return members{"type": "string", "pattern": r.pick(`^[a-zé-ü]{2,5}$`, `\d+\.\d`, `^(foo|bar)*$`, `^[^x]*$`, `\s\S`, `^\W?.\w$`, `[:А-я]|\\$`, `a|^b`, `^\p{L}\P{L}`)}
	case 4:
		return members{"type": "string", "format": r.pick("date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri")}
	case 5, 6:
		n := members{"type": r.choose("integer", "number", []any{"number", "null"})}
		lo := float64(r.IntN(2000)-1000) / float64(r.choose(1.0, 8.0, 1024.0).(float64))
		if r.IntN(4) > 0 {
			n[r.pick("minimum", "exclusiveMinimum")] = lo
		}
		if r.IntN(4) > 0 {
			n[r.pick("maximum", "exclusiveMaximum")] = lo + float64(r.IntN(300))/4
		}
		return n
	case 7:
		return members{"type": "string", "pattern": `^[a-f\n"]*$`, "minLength": r.IntN(3), "maxLength": 3 + r.IntN(5)}
	}
	return members{"const": r.choose("x", 17, 1.25, []any{1, nil}, members{"b": 1, "a": "\\"}, false)}
}

func (r schemas) whole() members {
	s := schemas{r.Rand, r.IntN(3)}
	defs := members{}
	for i := range s.defs {
		defs[fmt.Sprintf("d%d", i)] = members{"anyOf": []any{s.scalar(), s.object(1 + s.IntN(2))}}
	}
	return members{"$defs": defs, "allOf": []any{s.schema(3)}}
}

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
		schema, err := json.Marshal(schemas{r, 0}.whole())
		if err != nil {
			t.Fatal(err)
		}
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
		valid := validator(t, schema)
		for range 3 {
			text := say(t, r, g, schema)
			texts++
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
			if err != nil {
				t.Fatalf("%s: %s: %v", schema, text, err)
			}
			if err := valid.Validate(value); err != nil {
				t.Fatalf("%s\n%s\n%v", schema, text, err)
			}
		}
	}
	t.Logf("%d schemas, %d texts; refused: %v", compiled, texts, refused)
}

func validator(t testing.TB, schema []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(schema)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	return s
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
