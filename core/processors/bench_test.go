package processors

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// benchTexts returns English prose, and text in many scripts.
func benchTexts(b *testing.B) (prose, mixed []string) {
	for _, c := range readGolden(b, "wordpiece").Encodings {
		ascii := !strings.ContainsFunc(c.Text, func(r rune) bool { return r >= utf8.RuneSelf })
		switch {
		case ascii && len(c.Text) > 60:
			prose = append(prose, c.Text)
		case !ascii:
			mixed = append(mixed, c.Text)
		}
	}
	return prose, mixed
}

func BenchmarkEncode(b *testing.B) {
	prose, mixed := benchTexts(b)
	for _, name := range tokenizerNames {
		tok := openGolden(b, name)
		for kind, texts := range map[string][]string{"prose": prose, "mixed": mixed} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				size, tokens, i := 0, 0, 0
				for b.Loop() {
					text := texts[i%len(texts)]
					e, err := tok.Encode(text, EncodeOptions{})
					if err != nil {
						b.Fatal(err)
					}
					size += len(text)
					tokens += len(e.IDs)
					i++
				}
				b.ReportMetric(float64(tokens)/b.Elapsed().Seconds()/1e6, "Mtokens/s")
				b.ReportMetric(float64(size)/b.Elapsed().Seconds()/1e6, "MB/s")
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range tokenizerNames {
		tok := openGolden(b, name)
		g := readGolden(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			tokens, i := 0, 0
			for b.Loop() {
				ids := g.Encodings[i%len(g.Encodings)].IDs
				if _, err := tok.Decode(ids, true); err != nil {
					b.Fatal(err)
				}
				tokens += len(ids)
				i++
			}
			b.ReportMetric(float64(tokens)/b.Elapsed().Seconds()/1e6, "Mtokens/s")
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, name := range tokenizerNames {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				openGolden(b, name)
			}
		})
	}
}
