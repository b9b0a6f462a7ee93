package constrain

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/accelhq/accel/core/schedule/constrain/schematest"
)

// TestEnoughTokens: with as many tokens as the shortest text needs, or more, any text
// ends in time and is valid; with fewer, each token comes nearer to the end.
func TestEnoughTokens(t *testing.T) {
	wanted := 150
	if testing.Short() {
		wanted = 20
	}
	r := rand.New(rand.NewPCG(5, 8))
	vs := vocabularies(t, r)
	texts, full := 0, 0
	for compiled := 0; compiled < wanted; {
		schema := schematest.Random(r)
		g, err := Compile(schema, vs[r.IntN(len(vs))])
		if err != nil {
			continue // TestRandom looks at what is refused
		}
		compiled++
		valid, err := schematest.Compile(schema)
		if err != nil {
			t.Fatal(err)
		}
		least := int(g.Start().(*state).far) + 1 // the end token too
		for _, left := range []int{least, least + 1, least + r.IntN(10), least + r.IntN(100)} {
			text, used := spend(t, r, g, schema, left)
			texts++
			if used == left {
				full++
			}
			if err := valid(text); err != nil {
				t.Fatalf("%s\n%s\n%v", schema, text, err)
			}
		}
		c, v := g.Start().(*state), g.vocabulary
		var text []byte
		for left := least - 1; c.far > 0; left-- {
			list, far := ids(maskWith(c, left)), c.far
			if len(list) == 0 {
				t.Fatalf("%s: nothing may follow %s with %d tokens left", schema, text, left)
			}
			id := list[r.IntN(len(list))]
			if err := c.Accept(id); err != nil {
				t.Fatal(err)
			}
			if text = append(text, v.tokens[id]...); int(c.far) > max(left-2, int(far)-1) {
				t.Fatalf("%s: %s is %d from the end, %d before its last token", schema, text, c.far, far)
			}
		}
	}
	if full < texts/10 {
		t.Errorf("%d of %d texts took all tokens: they were not short of any", full, texts)
	}
}

func maskWith(t *state, left int) []uint32 {
	allowed := make([]uint32, (len(t.grammar.vocabulary.tokens)+31)/32)
	t.Mask(allowed, left)
	return allowed
}

// spend draws tokens, of which so many are left, until the text ends.
func spend(t *testing.T, r *rand.Rand, g *Grammar, schema []byte, left int) (string, int) {
	t.Helper()
	v, c := g.vocabulary, g.Start().(*state)
	var text []byte
	for used := 1; ; used++ {
		if used > left {
			t.Fatalf("%s: no end within %d tokens: %s", schema, left, text)
		}
		allowed := maskWith(c, left-used+1)
		list := ids(allowed)
		if len(list) == 0 {
			t.Fatalf("%s: nothing may follow %s with %d tokens left", schema, text, left-used+1)
		}
		if r.IntN(8) == 0 {
			checkLimit(t, r, c, allowed, left-used+1, text)
		}
		id := list[r.IntN(len(list))]
		if id == v.end[0] {
			return string(text), used
		}
		if err := c.Accept(id); err != nil {
			t.Fatalf("%s: %s: %v, which the mask allowed", schema, text, err)
		}
		text = append(text, v.tokens[id]...)
	}
}

// checkLimit holds a mask against where Accept leads by some tokens.
func checkLimit(t *testing.T, r *rand.Rand, c *state, allowed []uint32, left int, text []byte) {
	t.Helper()
	v := c.grammar.vocabulary
	for range 50 {
		id := int64(r.IntN(len(v.tokens)))
		if id == v.end[0] {
			continue
		}
		d := c.Clone().(*state)
		err := d.Accept(id)
		if want := err == nil && int(d.far) <= max(left-2, int(c.far)-1); want != has(allowed, id) {
			t.Fatalf("behind %s with %d left the mask says %v of %q; it leads to %d from the end, %d before, %v", text, left, has(allowed, id), v.tokens[id], d.far, c.far, err)
		}
	}
}

// TestDistances: how far ends are.
func TestDistances(t *testing.T) {
	v := byteVocabulary(`abc`, `ab`, `","`)
	for _, tt := range []struct {
		schema, text string
		want         int32
	}{
		{`{"type":"null"}`, ``, 4},
		{`{"type":"null"}`, `nu`, 2},
		{`{"const":"abcab"}`, ``, 4},   // " abc ab "
		{`{"const":"abcab"}`, `"a`, 4}, // b c ab "
		{`{"enum":["abcab","x"]}`, ``, 3},
		{`{"type":"string","minLength":5}`, `"x`, 5},
		{`{"type":"string","minLength":1}`, `"\`, 2},
		{`{"type":"integer"}`, ``, 1},
		{`{"type":"integer"}`, `12`, 0},
		{`{"type":"integer","minimum":100}`, `1`, 2},
		{`{"type":"string","format":"date"}`, `"2024`, 7},
		{`{"type":"array","items":{"type":"null"},"minItems":3}`, ``, 16},
		{`{"type":"array","items":{"type":"null"},"minItems":3}`, `[null`, 11},
		{`{"type":"array","prefixItems":[{"const":1},{"type":"null"}],"minItems":4,"items":{"const":22}}`, `[`, 13},
		{`{"type":"array","items":{"$ref":"#"},"minItems":2000000000}`, ``, never},
		{`{"type":"object","properties":{"abc":{"const":1},"b":{"const":22},"c":{"type":"null"}},"required":["b"]}`, ``, 8},
		{`{"type":"object","properties":{"abc":{"const":1},"b":{"const":22},"c":{"type":"null"}},"required":["b"]}`, `{`, 7},
		{`{"type":"object","properties":{"abc":{"const":1},"b":{"const":22},"c":{"type":"null"}},"required":["b"]}`, `{"abc":`, 9},
		{`{"type":"object","properties":{"abc":{"const":1},"b":{"const":22},"c":{"type":"null"}},"required":["b"]}`, `{"b":22,"`, 4}, // ":0},
		{`{"type":"object","properties":{"abc":{"const":1}},"additionalProperties":{"const":333}}`, `{"abc":1,`, 7},
		{`{"anyOf":[{"type":"string","minLength":9},{"type":"array","minItems":1,"items":{"$ref":"#/$defs/n"}}],"$defs":{"n":{"anyOf":[{"const":0},{"type":"array","minItems":1,"items":{"$ref":"#/$defs/n"}}]}}}`, `[[[`, 4},
	} {
		g, err := Compile([]byte(tt.schema), v)
		if err != nil {
			var refused *SchemaError
			if tt.want != never || !errors.As(err, &refused) {
				t.Errorf("%s: %v", tt.schema, err)
			}
			continue
		}
		c := g.Start().(*state)
		for _, b := range []byte(tt.text) {
			if err := c.Accept(int64(b)); err != nil {
				t.Fatalf("%s: %s: %v", tt.schema, tt.text, err)
			}
		}
		if c.far != tt.want {
			t.Errorf("%s: behind %s it is %d to the end, want %d", tt.schema, tt.text, c.far, tt.want)
		}
	}
}

// TestLimitedMasksAreReused: the mask of a string's middle is made again only once tokens run short.
func TestLimitedMasksAreReused(t *testing.T) {
	v := byteVocabulary("abc")
	c := compile(t, `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"null"}},"required":["a","b"],"additionalProperties":false}`, v).Start().(*state)
	for _, b := range []byte(`{"a":"x`) {
		if err := c.Accept(int64(b)); err != nil {
			t.Fatal(err)
		}
	}
	// ","b":null} is 11 from here.
	free := maskWith(c, math.MaxInt)
	for left := 40; left > 0; left-- {
		got := maskWith(c, left)
		fresh := c.Clone().(*state)
		if want := maskWith(fresh, left); !slices.Equal(got, want) {
			t.Fatalf("with %d left the mask is not that of a state without a past", left)
		}
		if has(got, 'x') != (left >= 13) || !has(got, '"') {
			t.Errorf("with %d left: x %v, the quote %v", left, has(got, 'x'), has(got, '"'))
		}
	}
	if got := maskWith(c, math.MaxInt); !slices.Equal(got, free) {
		t.Error("a limit that is lifted is not forgotten")
	}
}
