package constrain

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// byteVocabulary has a token for every byte, an end token behind them, and some more.
func byteVocabulary(more ...string) *Vocabulary {
	tokens := make([][]byte, 257)
	for i := range 256 {
		tokens[i] = []byte{byte(i)}
	}
	for _, m := range more {
		tokens = append(tokens, []byte(m))
	}
	return NewVocabulary(tokens, []int64{256})
}

func has(allowed []uint32, id int64) bool { return allowed[id>>5]>>(id&31)&1 != 0 }

func maskOf(t *state) []uint32 {
	allowed := make([]uint32, (len(t.grammar.vocabulary.tokens)+31)/32)
	t.Mask(allowed, math.MaxInt)
	return allowed
}

func compile(t testing.TB, schema string, v *Vocabulary) *Grammar {
	t.Helper()
	g, err := Compile(json.RawMessage(schema), v)
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	return g
}

// accepts feeds a text byte by byte, and says whether it may end there. Masks must agree.
func accepts(t *testing.T, g *Grammar, text string) bool {
	t.Helper()
	c := g.Start().(*state)
	for _, b := range []byte(text) {
		ok := has(maskOf(c), int64(b))
		if err := c.Accept(int64(b)); (err == nil) != ok {
			t.Fatalf("%s: the mask says %v of %q, Accept says %v", text, ok, b, err)
		}
		if !ok {
			return false
		}
	}
	return has(maskOf(c), 256)
}

func TestTexts(t *testing.T) {
	v := byteVocabulary()
	for _, tt := range []struct {
		schema string
		yes    []string
		no     []string
	}{
		{`{}`, []string{`null`, `true`, `0`, `-1.5e+10`, `""`, `"\ud83d\ude00 é\n"`, `[]`, `[1, "a",{}]`, `{"a": [null],"b":{}}`},
			[]string{``, ` 1`, `01`, `1.`, `.5`, `+1`, `"`, `"\x"`, `"\ud800"`, `"\udc00"`, "\"\n\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"", `[1,]`, `[1,  2]`, `{"a" :1}`, `{,}`, `nul`, `"a"x`}},
		{`true`, []string{`[[]]`}, []string{`]`}},
		{`{"type":"integer"}`, []string{`0`, `12`, `-7`}, []string{`1.0`, `1e3`, `00`, `-`, `"1"`, strings.Repeat("9", 19)}},
		{`{"type":"integer","minimum":-3,"exclusiveMaximum":120}`, []string{`-3`, `-1`, `0`, `9`, `119`}, []string{`-4`, `120`, `1000`, `-10`, `-0`}},
		{`{"type":"integer","minimum":1000000000000000000}`, []string{`1000000000000000000`, `1000000000000000001`}, []string{`999999999999999999`}},
		{`{"type":"number","exclusiveMinimum":0,"maximum":1}`, []string{`0.5`, `1`, `1.0`, `0.001`, `0.00000000000000001`}, []string{`0`, `0.0`, `1.01`, `2`, `-0.5`, `1e0`}},
		{`{"type":"number","minimum":-2.5,"maximum":-1.25}`, []string{`-2.5`, `-1.25`, `-1.3`, `-2`, `-2.50`}, []string{`-2.51`, `-1.24`, `-1`, `1`, `-3`, `0`}},
		{`{"type":"number","minimum":-1,"maximum":2e1}`, []string{`-1`, `-0.5`, `-0`, `0`, `20`, `20.0`, `7.25`}, []string{`20.1`, `21`, `-1.1`, `-2`}},
		{`{"type":["string","null"],"minLength":2,"maxLength":3}`, []string{`"ab"`, `"äöü"`, `"\u00e9\n"`, `"\ud83d\ude00a"`, `null`}, []string{`"a"`, `"abcd"`, `"\n"`, `1`}},
		{`{"type":"string","pattern":"^[a-c]+\\d{2}[eE]?$"}`, []string{`"a12"`, `"abc00e"`, `"c11E"`}, []string{`"12"`, `"a1"`, `"a123"`, `"d12"`}},
		{`{"type":"string","pattern":"x.y"}`, []string{`"xay"`, `"..xéy.."`, `"x\"y"`, `"\nx\\y"`}, []string{`"xy"`, `"x\ny"`, `"x\u0061y"`}},
		{`{"type":"string","pattern":"^\\S+$","maxLength":2}`, []string{`"ab"`, `"é"`}, []string{`""`, `"a "`, "\"\u00a0\"", `"abc"`}},
		{`{"type":"string","pattern":"^(a|b)*$","minLength":3,"maxLength":4}`, []string{`"aba"`, `"bbbb"`}, []string{`"ab"`, `"aaaaa"`, `"abc"`}},
		{`{"type":"string","pattern":"^$|^\\/[\\w-]+\\u0041$"}`, []string{`""`, `"/a-_A"`}, []string{`"/A"`, `"a"`}},
		{`{"type":"string","format":"date"}`, []string{`"2024-02-29"`, `"1999-12-31"`}, []string{`"2023-02-29"`, `"1900-02-29"`, `"2024-04-31"`, `"24-01-01"`}},
		{`{"type":"string","format":"uuid"}`, []string{`"123e4567-e89b-12d3-a456-426614174000"`}, []string{`"123e4567e89b12d3a456426614174000"`}},
		{`{"type":"string","format":"ipv4"}`, []string{`"0.10.255.1"`}, []string{`"256.1.1.1"`, `"1.1.1"`, `"01.1.1.1"`}},
		{`{"type":"string","format":"unheard-of"}`, []string{`"x"`}, []string{`1`}},
		{`{"enum":["a\"b",1.50,null,{"k":[1,true]}]}`, []string{`"a\"b"`, `1.50`, `null`, `{"k":[1,true]}`}, []string{`1.5`, `"a`, `{"k": [1,true]}`, `true`}},
		{`{"enum":[1,"a",2.5,"abc"],"type":["integer","string"],"minLength":2}`, []string{`1`, `"abc"`}, []string{`"a"`, `2.5`}},
		{`{"const":"x"}`, []string{`"x"`}, []string{`"y"`, `x`}},
		{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"},"ab":true},"required":["b"],"additionalProperties":false}`,
			[]string{`{"a":1,"b":true}`, `{"b": false}`, `{"a": 1, "b": true, "ab": []}`}, []string{`{}`, `{"a":1}`, `{"b":true,"a":1}`, `{"b":true,"c":1}`, `{"b":1}`, `{"b":true,}`, `{"b":true,"b":true}`}},
		{`{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"string"}}`,
			[]string{`{}`, `{"a":1}`, `{"b":"x"}`, `{"a":1,"aa":"x","":"y","a\"":"z"}`}, []string{`{"a":"x"}`, `{"b":1}`, `{"b":"x","a":1}`, `{"\u0061":"x"}`}},
		{`{"type":"object","patternProperties":{"^x_":{"type":"integer"}},"additionalProperties":false,"required":["x_1"]}`,
			[]string{`{"x_1":1}`, `{"x_1":1,"x_":2}`}, []string{`{}`, `{"x_1":"a"}`, `{"x_1":1,"y":2}`, `{"x_2":1}`}},
		{`{"type":"object","patternProperties":{"^a":{"type":"string"},"z$":{"maxLength":1}},"additionalProperties":{"type":"null"}}`,
			[]string{`{"a":"long","b":null,"z":7,"z":"c","az":"x"}`}, []string{`{"az":"xx"}`, `{"az":1}`, `{"b":1}`, `{"z":"cc"}`}},
		{`{"type":"object","required":["q"]}`, []string{`{"q":1}`, `{"q":{}, "r":2}`}, []string{`{}`, `{"r":2}`}},
		{`{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3}`, []string{`[1]`, `[1, 2,3]`}, []string{`[]`, `[1,2,3,4]`, `["a"]`}},
		{`{"type":"array","prefixItems":[{"const":1},{"type":"string"}],"items":false}`, []string{`[]`, `[1]`, `[1,"a"]`}, []string{`["a"]`, `[1,"a",2]`}},
		{`{"type":"array","prefixItems":[{"const":1}],"items":{"type":"null"},"minItems":3}`, []string{`[1,null,null]`, `[1,null,null,null]`}, []string{`[1,null]`}},
		{`{"anyOf":[{"type":"integer"},{"type":"string","maxLength":1}]}`, []string{`5`, `"a"`}, []string{`"ab"`, `null`}},
		{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"additionalProperties":false,"anyOf":[{"required":["a"]},{"required":["b"]}]}`,
			[]string{`{"a":1}`, `{"b":1}`, `{"a":1,"b":2}`}, []string{`{}`}},
		{`{"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"v":{"type":"integer"}},"required":["k","v"]},{"type":"object","properties":{"k":{"const":"b"}},"required":["k"],"additionalProperties":false}]}`,
			[]string{`{"k":"a","v":1}`, `{"k":"b"}`}, []string{`{"k":"c"}`, `{"k":"b","v":1}`, `{"k":"a"}`}},
		{`{"allOf":[{"properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"string"},"a":{"minimum":3}}}],"type":"object","additionalProperties":true}`,
			[]string{`{"a":3}`, `{"a":4,"b":"x","c":0}`}, []string{`{"a":2}`, `{"b":"x"}`}},
		{`{"$ref":"#/$defs/list","$defs":{"list":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/list"},{"type":"null"}]}},"required":["v","next"],"additionalProperties":false}}}`,
			[]string{`{"v":1,"next":null}`, `{"v":1,"next":{"v":2,"next":null}}`}, []string{`{"v":1}`, `{"v":1,"next":{}}`}},
		{`{"type":"array","items":{"$ref":"#"}}`, []string{`[]`, `[[],[[]]]`, strings.Repeat("[", 64) + strings.Repeat("]", 64)}, []string{`[1]`, strings.Repeat("[", 65)}},
		{`{"$ref":"#/$defs/a~1b%25","$defs":{"a/b%":{"const":1}}}`, []string{`1`}, []string{`2`}},
		{`{"properties":{"a":false},"type":"object"}`, []string{`{}`, `{"b":1}`}, []string{`{"a":1}`}},
		{`{"anyOf":[{"const":1},{"const":12},{"enum":["a","ab"]}]}`, []string{`1`, `12`, `"a"`, `"ab"`}, []string{`2`, `"b"`}},
	} {
		g := compile(t, tt.schema, v)
		for _, text := range tt.yes {
			if !accepts(t, g, text) {
				t.Errorf("%s: %s is refused", tt.schema, text)
			}
		}
		for _, text := range tt.no {
			if accepts(t, g, text) {
				t.Errorf("%s: %s is allowed", tt.schema, text)
			}
		}
	}
}

func TestSchemasRefused(t *testing.T) {
	long := strings.Repeat(`{"items":`, 130) + `{}` + strings.Repeat(`}`, 130)
	for _, tt := range []struct{ schema, path, problem string }{
		{``, "#", "not JSON"},
		{`{"type":"string"`, "#", "not JSON"},
		{`{} {}`, "#", "not JSON"},
		{"\"\xff\"", "#", "UTF-8"},
		{`{"const":"\ud800x"}`, "#", "surrogates"},
		{`3`, "#", "a number"},
		{`{"type":"str"}`, "#/type", `"str"`},
		{`{"type":[]}`, "#/type", "at least one"},
		{`{"type":"object","type":"array"}`, "#/type", "twice"},
		{`{"properties":{"a/b":{"items":[1]}}}`, "#/properties/a~1b/items", "prefixItems"},
		{`{"properties":[]}`, "#/properties", "an array"},
		{`{"required":"a"}`, "#/required", "strings"},
		{`{"enum":[]}`, "#/enum", "at least one"},
		{`{"minimum":"1"}`, "#/minimum", "a number"},
		{`{"minimum":1e99999}`, "#/minimum", "exponent"},
		{`{"type":"number","minimum":1e40}`, "#", "31 digits"},
		{`{"minLength":-1}`, "#/minLength", "whole number"},
		{`{"minLength":1.5}`, "#/minLength", "whole number"},
		{`{"multipleOf":2}`, "#/multipleOf", "not supported"},
		{`{"uniqueItems":true}`, "#/uniqueItems", "not supported"},
		{`{"not":{}}`, "#/not", "not supported"},
		{`{"if":{}}`, "#/if", "not supported"},
		{`{"type":"string","nullable":true}`, "#/nullable", "null"},
		{`{"proprties":{}}`, "#/proprties", "not supported"},
		{`{"$ref":"other.json"}`, "#/$ref", "within the schema"},
		{`{"$ref":"#name"}`, "#/$ref", "within the schema"},
		{`{"$ref":"#/$defs/x"}`, "#/$ref", "leads nowhere"},
		{`{"$ref":"#"}`, "#", "refers to itself"},
		{`{"anyOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/a"}]}}}`, "#/$defs/a", "refers to itself"},
		{`{"properties":{"a":{"$id":"x"}}}`, "#/properties/a/$id", "address"},
		{`{"type":"string","pattern":"(?=a)"}`, "#", "look-around"},
		{`{"type":"string","pattern":"(a"}`, "#", "regular expression"},
		{`{"type":"string","pattern":"(a)\\1"}`, "#", "not supported"},
		{`{"type":"string","pattern":"\\bx"}`, "#", "not supported"},
		{`{"type":"string","pattern":"(a?b?c?d?e?f?g?h?){1000}(a?b?c?d?e?f?g?h?){1000}"}`, "#", "too complex"},
		{`{"type":"string","pattern":".*a.{30}"}`, "#", "too complex"},
		{`{"oneOf":[{"type":"integer"},{"type":"number"}]}`, "#/oneOf", "branches 0 and 1"},
		{`{"oneOf":[{"type":"string","format":"date"},{"type":"string","format":"uuid"}]}`, "#/oneOf", "may both hold"},
		{`{"oneOf":[{"required":["a"]},{"required":["b"]}],"type":"object"}`, "#/oneOf", "may both hold"},
		{`false`, "#", "no value"},
		{`{"type":"string","minLength":2,"maxLength":1}`, "#", "no value"},
		{`{"type":"integer","minimum":2,"maximum":1}`, "#", "no value"},
		{`{"type":"integer","exclusiveMinimum":1,"exclusiveMaximum":2}`, "#", "no value"},
		{`{"type":"string","enum":[1]}`, "#", "no value"},
		{`{"type":"string","pattern":"a^"}`, "#", "no value"},
		{`{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, "#", "no value"},
		{`{"type":"array","items":{"$ref":"#"},"minItems":1}`, "#", "no value"},
		{`{"type":"array","prefixItems":[{}],"items":false,"minItems":2}`, "#", "no value"},
		{`{"allOf":[{"type":"string"},{"type":"null"}]}`, "#", "no value"},
		{long, strings.Repeat("#/items", 1), "nested"},
	} {
		_, err := Compile(json.RawMessage(tt.schema), byteVocabulary())
		var refused *SchemaError
		if !errors.As(err, &refused) {
			t.Errorf("%.200s: %v, want a SchemaError", tt.schema, err)
			continue
		}
		if !strings.HasPrefix(refused.Path, tt.path) || tt.problem != "nested" && refused.Path != tt.path || !strings.Contains(refused.Problem, tt.problem) {
			t.Errorf("%.200s: %v; want %s: ... %s", tt.schema, refused, tt.path, tt.problem)
		}
	}
}

func TestVocabularies(t *testing.T) {
	for _, tt := range []struct {
		name, schema string
		tokens       []string
		ok           bool
		yes, no      []string // token by token, separated by |
	}{
		{"no quote", `{"type":"string"}`, []string{`a`, `"a"`}, false, nil, nil},
		{"a quote", `{"type":"string"}`, []string{`"`, `é`, `a"`}, true, []string{`"|é|"`, `"|a"`}, nil},
		{"no character", `{"type":"string","minLength":1}`, []string{`"`, `é`}, false, nil, nil},
		{"half a character", `{"type":"string"}`, []string{`"`, "\xc3", "\xc3\xa9", "\xc3\xa9\""}, true, []string{"\"|\xc3\xa9|\"", "\"|\xc3\xa9\""}, []string{"\"|\xc3"}},
		{"no digits", `{"type":"number"}`, []string{`"`, `a`, `12`}, false, nil, nil},
		{"no comma", `{"type":"array","items":{"const":1}}`, []string{`[`, `]`, `1`, `,1`}, true, []string{`[|1|]`, `[|]`, `[|1|,1|]`}, nil},
		{"a dead comma", `{"type":"array","items":{"enum":[1,23]}}`, []string{`[`, `]`, `1`, `,`, `2`, `23`}, true, []string{`[|1|,|1|]`, `[|23|]`}, []string{`[|2`}},
		{"an unspelled name", `{"type":"object","properties":{"né":{"const":1},"b":{"const":1}},"additionalProperties":false}`,
			strings.Split(`{ } " : 1 b , né n`, " "), true, []string{`{|"|b|"|:|1|}`}, []string{`{|"|n`, `{|"|né`}},
		{"a required unspelled name", `{"type":"object","properties":{"é":{"const":1}},"required":["é"]}`, strings.Split(`{ } " : 1 é`, " "), false, nil, nil},
		{"the name's comma", `{"type":"object","properties":{"a":{"const":1},"b":{"const":1}},"required":["b"]}`, strings.Split(`{ } " : 1 a b`, " "), false, nil, nil},
		{"a space", `{"type":"array","items":{"const":1},"minItems":2}`, []string{`[`, `]`, `1`, `,`, `, `, `, 1`}, true, []string{`[|1|, 1|]`, `[|1|,|1|]`, `[|1|, |1|]`}, nil},
	} {
		var tokens [][]byte
		ids := map[string]int64{}
		for i, s := range tt.tokens {
			tokens = append(tokens, []byte(s))
			ids[s] = int64(i)
		}
		g, err := Compile(json.RawMessage(tt.schema), NewVocabulary(tokens, []int64{int64(len(tokens))}))
		if !tt.ok {
			var refused *VocabularyError
			if !errors.As(err, &refused) {
				t.Errorf("%s: %v, want a VocabularyError", tt.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for i, text := range append(tt.yes, tt.no...) {
			c := g.Start().(*state)
			ok := true
			for _, token := range strings.Split(text, "|") {
				ok = has(maskOf(c), ids[token])
				if err := c.Accept(ids[token]); (err == nil) != ok {
					t.Errorf("%s: %s: the mask says %v, Accept %v", tt.name, text, ok, err)
				}
			}
			if ok = ok && has(maskOf(c), int64(len(tokens))); ok != (i < len(tt.yes)) {
				t.Errorf("%s: %s: allowed is %v", tt.name, text, ok)
			}
		}
	}
	var refused *VocabularyError
	if _, err := Compile(json.RawMessage(`{}`), NewVocabulary([][]byte{[]byte(`"`)}, nil)); !errors.As(err, &refused) {
		t.Errorf("no end token: %v", err)
	}
}

func TestState(t *testing.T) {
	v := byteVocabulary(`{"`, `":`, `ab`, `"}`, `", "`, `12`, "")
	g := compile(t, `{"type":"object","properties":{"ab":{"type":"integer","maximum":99}},"additionalProperties":{"type":"string"}}`, v)
	c := g.Start().(*state)
	accept := func(c *state, ids ...int64) {
		t.Helper()
		for _, id := range ids {
			if err := c.Accept(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	accept(c, 257, 259, 258) // {"ab":
	d := c.Clone().(*state)
	before := fmt.Sprint(maskOf(c))
	for _, id := range []int64{256, 'x', -1, 1 << 40, 263, 260} {
		var refused *TokenError
		if err := c.Accept(id); !errors.As(err, &refused) || refused.Token != id {
			t.Errorf("token %d: %v", id, err)
		}
	}
	if after := fmt.Sprint(maskOf(c)); after != before {
		t.Error("a refused token changed the state")
	}
	accept(d, 262, '}')
	if !has(maskOf(d), 256) || has(maskOf(d), '}') {
		t.Error("the text is not at its end")
	}
	if after := fmt.Sprint(maskOf(c)); after != before {
		t.Error("a clone's token changed the state")
	}
	accept(c, '9')
	if m := maskOf(c); has(m, 262) || !has(m, '9') || !has(m, ',') || has(m, 256) {
		t.Error("behind 9 come a digit, a comma or the end of the object")
	}
	// A slice that is longer than the vocabulary is covered whole.
	long := make([]uint32, 20)
	long[19] = 1
	c.Mask(long, math.MaxInt)
	if long[19] != 0 {
		t.Error("what is behind the vocabulary is allowed")
	}
}

// TestAmbiguous: readings that a text has at once share what they have in common.
func TestAmbiguous(t *testing.T) {
	g := compile(t, `{"$ref":"#/$defs/v","$defs":{"v":{"anyOf":[{"type":"object","properties":{"a":{"$ref":"#/$defs/v"}}},
		{"type":"object","properties":{"a":{"$ref":"#/$defs/v"},"b":{"type":"null"}}},{"type":"object","additionalProperties":{"$ref":"#/$defs/v"}}]}}}`, byteVocabulary())
	c := g.Start().(*state)
	text := strings.Repeat(`{"a":`, 60) + `{}` + strings.Repeat(`}`, 60)
	for _, b := range []byte(text) {
		if err := c.Accept(int64(b)); err != nil {
			t.Fatal(err)
		}
		if len(c.configs) > 20 {
			t.Fatalf("%d places at once", len(c.configs))
		}
	}
	if !has(maskOf(c), 256) {
		t.Error("the text may not end")
	}
}

// TestParallel: texts of one grammar, and grammars of one vocabulary, don't meet.
func TestParallel(t *testing.T) {
	v := largeVocabulary(3000)
	v.room = 5000 // masks come and go
	g := compile(t, person, v)
	tokens := v.tokensOf(personText)
	var group sync.WaitGroup
	for i := range 6 {
		group.Go(func() {
			mine := g
			if i%2 == 0 {
				var err error
				if mine, err = Compile(json.RawMessage(person), v); err != nil {
					t.Error(err)
					return
				}
			}
			c := mine.Start().(*state)
			for _, id := range tokens {
				if !has(maskOf(c), id) {
					t.Errorf("%q is not allowed", v.tokens[id])
				}
				if err := c.Accept(id); err != nil {
					t.Error(err)
					return
				}
			}
			if !has(maskOf(c), v.end[0]) {
				t.Error("the text may not end")
			}
		})
	}
	group.Wait()
}

// TestStringMasks: masks that are made of that of any string are those that walking finds.
func TestStringMasks(t *testing.T) {
	for _, v := range vocabularies(t, rand.New(rand.NewPCG(1, 9))) {
		if v.perCharacter == never {
			t.Fatal("no character")
		}
		for _, bounds := range [][2]int32{{0, -1}, {0, 0}, {0, 1}, {1, 1}, {2, 5}, {3, -1}, {0, 7}, {9, 11}} {
			f := frame{kind: inBody, a: bounds[0], b: bounds[1]}
			want := &mask{allowed: make([]uint32, (len(v.tokens)+31)/32)}
			v.walkString(want, f, anyRoom, nil, nil)
			got := v.lookup(stringMachine{}, f)
			if !slices.Equal(got.allowed, want.allowed) || !slices.Equal(got.exits, want.exits) {
				t.Errorf("%v: %d tokens and %d exits, want %d and %d", bounds, len(ids(got.allowed)), len(got.exits), len(ids(want.allowed)), len(want.exits))
			}
		}
	}
}
