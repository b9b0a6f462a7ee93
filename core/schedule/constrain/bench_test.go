package constrain

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// largeVocabulary is like those of byte-level BPE: words with and without a space before
// them, numbers, and what JSON and code have.
func largeVocabulary(n int) *Vocabulary {
	r := rand.New(rand.NewPCG(1, 2))
	syllables := make([]string, 300)
	for i := range syllables {
		for range 2 + r.IntN(3) {
			syllables[i] += string(rune('a' + r.IntN(26)))
		}
	}
	marks := []string{`"`, `":`, `",`, `"}`, `{`, `}`, `[`, `]`, `,`, `: `, `\n`, `\u`, `.`, `(`, `);`, "\n", "  "}
	seen := map[string]bool{}
	var tokens [][]byte
	add := func(s string) {
		if !seen[s] {
			seen[s] = true
			tokens = append(tokens, []byte(s))
		}
	}
	for b := range 256 {
		add(string([]byte{byte(b)}))
	}
	for i := range 1000 {
		add(fmt.Sprint(i))
	}
	for len(tokens) < n-1 {
		s := ""
		if r.IntN(2) == 0 {
			s = " "
		}
		for range 1 + r.IntN(4) {
			switch x := r.IntN(100); {
			case x < 4:
				s += marks[r.IntN(len(marks))]
			case x < 8:
				s += string(rune(0xc0 + r.IntN(0x5000)))
			default:
				s += syllables[r.IntN(len(syllables))]
			}
		}
		add(s)
	}
	return NewVocabulary(append(tokens, nil), []int64{int64(len(tokens))})
}

const person = `{"type":"object","properties":{"name":{"type":"string"},"email":{"type":"string","format":"email"},"age":{"type":"integer","minimum":0,"maximum":150},
	"nick":{"type":"string","maxLength":40},"tags":{"type":"array","items":{"enum":["red","green","blue"]}},"born":{"type":"string","format":"date"},
	"notes":{"type":"array","items":{"anyOf":[{"type":"string"},{"type":"number"},{"$ref":"#"}]}}},"required":["name","email","age","tags"],"additionalProperties":false}`

const personText = `{"name": "Ada Lovelace", "email": "ada@example.org", "age": 36, "nick": "the enchantress", "tags": ["red","blue"], "born": "1815-12-10", "notes": ["first of them all", 1843, {"name": "G", "email": "note@g.uk", "age": 1, "tags": []}]}`

// tokens cuts a text into the longest tokens.
func (v *Vocabulary) tokensOf(text string) []int64 {
	var list []int64
	for text != "" {
		best := int32(0)
		for n := int32(1); n < v.nodes[0].skip; {
			node := v.nodes[n]
			if int(node.depth) > len(text) || text[node.depth-1] != node.char {
				n = node.skip
				continue
			}
			if node.token < v.nodes[n+1].token {
				best = n
			}
			n++
		}
		list = append(list, int64(v.order[v.nodes[best].token]))
		text = text[v.nodes[best].depth:]
	}
	return list
}

// BenchmarkText is a token's mask and Accept, in the mean over a text.
func BenchmarkText(b *testing.B) {
	for _, n := range []int{50_000, 150_000} {
		v := largeVocabulary(n)
		for _, tt := range []struct{ name, schema, text string }{
			{"schema", person, personText},
			{"any", `{}`, personText},
		} {
			g := compile(b, tt.schema, v)
			tokens := v.tokensOf(tt.text)
			allowed := make([]uint32, (n+31)/32)
			for _, cold := range []bool{true, false} {
				b.Run(fmt.Sprintf("%d/%s/cold=%v", n, tt.name, cold), func(b *testing.B) {
					b.ReportAllocs()
					for i := 0; i < b.N; {
						if cold {
							v.forget()
						}
						c := g.Start()
						for _, id := range tokens {
							c.Mask(allowed, math.MaxInt)
							if err := c.Accept(id); err != nil {
								b.Fatal(err)
							}
							i++
						}
					}
				})
			}
		}
	}
}

func BenchmarkString(b *testing.B) {
	v := largeVocabulary(50_000)
	c := compile(b, `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`, v).Start()
	allowed := make([]uint32, 50_000/32+1)
	tokens := v.tokensOf(`{"a":"and so on`)
	for _, id := range tokens {
		if err := c.Accept(id); err != nil {
			b.Fatal(err)
		}
	}
	for _, known := range []string{"state", "automaton", "nothing"} {
		b.Run("known="+known, func(b *testing.B) {
			for b.Loop() {
				c.(*state).masked = known == "state"
				if known == "nothing" {
					v.forget()
				}
				c.Mask(allowed, math.MaxInt)
			}
		})
	}
	for _, left := range []int{4, 9} { // it has to be closed; some more may come
		b.Run(fmt.Sprint("left=", left), func(b *testing.B) {
			for b.Loop() {
				c.(*state).masked = false
				c.Mask(allowed, left)
			}
		})
	}
}

// forget drops all masks.
func (v *Vocabulary) forget() {
	clear(v.masks)
	v.recent.Init()
	v.bytes, v.body, v.bodies = 0, sync.Once{}, bodies{}
}

// BenchmarkBounded is two masks of strings with bounds that were not asked for before.
func BenchmarkBounded(b *testing.B) {
	v := largeVocabulary(50_000)
	v.room = 0
	for b.Loop() {
		v.lookup(stringMachine{}, frame{kind: inBody, b: 3})
		v.lookup(stringMachine{}, frame{kind: inBody, a: 3, b: -1})
	}
}

func BenchmarkAccept(b *testing.B) {
	v := largeVocabulary(50_000)
	c := compile(b, `{}`, v).Start()
	tokens := v.tokensOf(`{"a":"`)
	for _, id := range tokens {
		if err := c.Accept(id); err != nil {
			b.Fatal(err)
		}
	}
	id := v.tokensOf("word")[0]
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Accept(id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClone(b *testing.B) {
	c := compile(b, person, largeVocabulary(2000)).Start()
	for b.Loop() {
		c.Clone()
	}
}

func BenchmarkCompile(b *testing.B) {
	v := largeVocabulary(50_000)
	for b.Loop() {
		compile(b, person, v)
	}
}

func BenchmarkNewVocabulary(b *testing.B) {
	tokens := largeVocabulary(150_000).tokens
	for b.Loop() {
		NewVocabulary(tokens, []int64{int64(len(tokens) - 1)})
	}
}

// TestMemory: long texts hold no more than short ones, and masks have a bound.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("a text of 50,000 tokens")
	}
	v := largeVocabulary(5000)
	g := compile(t, `{"type":"array","items":{"type":"object","properties":{"a":{"type":"string","maxLength":900}}}}`, v)
	c := g.Start()
	allowed := make([]uint32, 5000/32+1)
	say := func(text string) {
		t.Helper()
		for _, id := range v.tokensOf(text) {
			c.Mask(allowed, math.MaxInt)
			if !has(allowed, id) {
				t.Fatalf("%q is not allowed", v.tokens[id])
			}
			if err := c.Accept(id); err != nil {
				t.Fatal(err)
			}
		}
	}
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	say(`[{"a":"x","b":[1,{"c":2}]}`)
	for range 200 {
		say(`,{"a":"some words of a text", "b":[1,{"c":null}]}`)
	}
	before := used()
	for range 2000 {
		say(`,{"a":"some words of a text", "b":[1,{"c":null}]}`)
	}
	if after := used(); after > before+1<<20 {
		t.Errorf("%d bytes more after a long text", after-before)
	}
	v.room = 50_000
	for n := range 15 {
		v.lookup(stringMachine{}, frame{kind: inBody, b: int32(n), a: int32(n % 7)})
	}
	if v.bytes > v.room || v.recent.Len() != len(v.masks) || v.recent.Len() < 2 {
		t.Errorf("%d bytes of masks; %d in the list, %d in the map", v.bytes, v.recent.Len(), len(v.masks))
	}
}
