package constrain

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/core/schedule/constrain/schematest"
)

// joined is what f makes of 0 to n-1.
func joined(n int, f func(i int) string) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = f(i)
	}
	return strings.Join(parts, ",")
}

// hostile are schemas that would take for ever, or all memory, if nothing bounded them.
func hostile() map[string]string {
	same := func(text string) func(int) string { return func(int) string { return text } }
	anyOf := func(k int) string {
		return fmt.Sprintf(`{"anyOf":[%s]}`, joined(10, func(i int) string { return fmt.Sprintf(`{"required":["%d_%d"]}`, k, i) }))
	}
	return map[string]string{
		"deep":        strings.Repeat(`{"items":`, 100_000) + `{}` + strings.Repeat(`}`, 100_000),
		"long paths":  `{"properties":{"` + strings.Repeat("x", 500_000) + `":{"properties":{` + joined(30_000, func(i int) string { return fmt.Sprintf(`"%d":{}`, i) }) + `}}}}`,
		"product":     `{"type":"object","allOf":[` + joined(20, anyOf) + `]}`,
		"enum":        `{"enum":[` + joined(80_000, func(i int) string { return fmt.Sprintf(`"%d"`, i*7919) }) + `]}`,
		"long enum":   `{"enum":["` + strings.Repeat("a", 900_000) + `"]}`,
		"properties":  `{"properties":{` + joined(50_000, func(i int) string { return fmt.Sprintf(`"p%d":{}`, i) }) + `}}`,
		"anyOf":       `{"anyOf":[` + joined(20_000, func(i int) string { return fmt.Sprintf(`{"maxLength":%d}`, i) }) + `]}`,
		"oneOf":       `{"oneOf":[` + joined(20_000, func(i int) string { return fmt.Sprintf(`{"maxLength":%d}`, i) }) + `]}`,
		"consts":      `{"oneOf":[` + joined(10_000, func(i int) string { return fmt.Sprintf(`{"const":%d}`, i) }) + `]}`,
		"patterns":    `{"patternProperties":{` + joined(9_000, func(i int) string { return fmt.Sprintf(`"a%d":{}`, i) }) + `},"properties":{` + joined(9_000, func(i int) string { return fmt.Sprintf(`"p%d":{}`, i) }) + `}}`,
		"states":      `{"type":"string","pattern":"(a|b)*a(a|b){60}"}`,
		"repeats":     `{"type":"string","pattern":"` + strings.Repeat(`(a?b?){1000}`, 150) + `"}`,
		"classes":     `{"type":"string","pattern":"(\\p{L}|\\P{N}|\\p{Lu}x){500}"}`,
		"long length": `{"type":"string","pattern":"^.*$","minLength":2000000000}`,
		"conjunction": `{"type":"string","allOf":[` + joined(8, func(i int) string { return fmt.Sprintf(`{"pattern":"(a|b){%d}c"}`, 11+i) }) + `]}`,
		"chain":       `{"$ref":"#/$defs/d0","$defs":{` + joined(15_000, func(i int) string { return fmt.Sprintf(`"d%d":{"$ref":"#/$defs/d%d"}`, i, i+1) }) + `,"d15000":{}}}`,
		"doubling": `{"$ref":"#/$defs/d0","$defs":{` + joined(300, func(i int) string {
			return fmt.Sprintf(`"d%d":{"anyOf":[{"$ref":"#/$defs/d%d"},{"allOf":[{"$ref":"#/$defs/d%d"},{"required":["%d"]}]}]}`, i, i+1, i+1, i)
		}) + `,"d300":{}}}`,
		"subsets": `{"$ref":"#/$defs/d0","$defs":{` + joined(40, func(i int) string {
			return fmt.Sprintf(`"d%d":{"type":"object","properties":{"a":{"$ref":"#/$defs/d%d"},"b":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}}}`, i, (i+1)%40, (i+7)%40, (i*3+1)%40)
		}) + `}}`,
		"required chain": `{"$ref":"#/$defs/d0","$defs":{` + joined(9_000, func(i int) string {
			return fmt.Sprintf(`"d%d":{"type":"array","minItems":1,"items":{"$ref":"#/$defs/d%d"}}`, i, i+1)
		}) + `,"d9000":{}}}`,
		"admit":   `{"$defs":{"l":{"anyOf":[{"type":"null"},{"allOf":[{"$ref":"#/$defs/l"}]}]}},"enum":[[1]],"items":{"$ref":"#/$defs/l"}}`,
		"numbers": `{"anyOf":[` + joined(5_000, func(i int) string { return fmt.Sprintf(`{"type":"number","minimum":%d.5}`, i) }) + `]}`,
		"many":    `{"allOf":[` + joined(60_000, same(`{"type":"null"}`)) + `]}`,
	}
}

// TestHostile: time and memory are bounded, and errors are typed.
func TestHostile(t *testing.T) {
	if testing.Short() {
		t.Skip("it computes for long")
	}
	v := byteVocabulary()
	for name, schema := range hostile() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begin := time.Now()
			g, err := Compile(json.RawMessage(schema), v)
			took := time.Since(begin)
			runtime.ReadMemStats(&after)
			allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
			if took > 20*time.Second || allocated > 2000 {
				t.Errorf("took %v and %d MB", took, allocated)
			}
			checkError(t, err)
			if err == nil {
				try(t, g, 20)
			}
			t.Logf("%.3f s, %d MB: %.200v", took.Seconds(), allocated, err)
		})
	}
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var s *SchemaError
	var v *VocabularyError
	if err != nil && !errors.As(err, &s) && !errors.As(err, &v) {
		t.Errorf("not a typed error: %v", err)
	}
}

// try says something: there is always a way on, and what ends is JSON.
func try(t *testing.T, g *Grammar, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	v := g.vocabulary
	c := g.Start().(*state)
	var text []byte
	for range n {
		allowed := ids(maskOf(c))
		if len(allowed) == 0 {
			t.Fatalf("nothing may follow %s", text)
		}
		id := allowed[r.IntN(len(allowed))]
		if id == v.end[0] {
			break
		}
		if err := c.Accept(id); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		text = append(text, v.tokens[id]...)
	}
	if has(maskOf(c), v.end[0]) && !json.Valid(text) {
		t.Errorf("%s is not JSON", text)
	}
}

func FuzzCompile(f *testing.F) {
	for _, schema := range hostile() {
		if len(schema) < 1000 {
			f.Add([]byte(schema))
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		f.Add([]byte(schematest.Random(r)))
	}
	f.Add([]byte(person))
	vs := []*Vocabulary{byteVocabulary(`{"`, `":`, `", "`, `"}`, `12`), NewVocabulary([][]byte{[]byte(`"`), []byte("a"), []byte("é\""), nil}, []int64{3})}
	f.Fuzz(func(t *testing.T, schema []byte) {
		for _, v := range vs {
			begin := time.Now()
			g, err := Compile(schema, v)
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			checkError(t, err)
			if err == nil {
				try(t, g, 100)
			}
		}
	})
}
