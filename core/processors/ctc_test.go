package processors

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/accelhq/accel/sdk/testfiles"
)

func ctcOf(t testing.TB, vocab, config string) *CTC {
	t.Helper()
	dir := fstest.MapFS{vocabFile: {Data: []byte(vocab)}}
	if config != "" {
		dir[configFile] = &fstest.MapFile{Data: []byte(config)}
	}
	c, err := openCTC(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// say makes logits of a text of single letters, _ being the blank.
func say(c *CTC, frames string) [][]float32 {
	var rows [][]float32
	for _, r := range frames {
		row := make([]float32, c.VocabSize())
		id := c.blank
		if r != '_' {
			id = slices.Index(c.tokens, string(r))
		}
		row[id] = 9
		rows = append(rows, row)
	}
	return rows
}

func hear(c *CTC, d CTCDecoder, rows [][]float32) ([]CTCToken, []CTCWord) {
	var tokens []CTCToken
	var words []CTCWord
	w := c.Words()
	take := func(t []CTCToken) {
		tokens = append(tokens, t...)
		words = append(words, w.Add(t)...)
	}
	for _, row := range rows {
		take(d.Push(row))
	}
	take(d.Flush())
	return tokens, append(words, w.Flush()...)
}

const ctcVocab = `{"<pad>":0,"<s>":1,"</s>":2,"<unk>":3,"|":4,"E":5,"H":6,"L":7,"O":8}`

func TestCTC(t *testing.T) {
	plain := ctcOf(t, ctcVocab, "")
	lower := ctcOf(t, `{"[PAD]":3,"A":0,"B":1," ":2}`, `{"pad_token":"[PAD]","word_delimiter_token":" ","do_lower_case":true}`)
	letters := ctcOf(t, `{"<pad>":0,"a":1,"b":2}`, "")
	for _, tt := range []struct {
		c      *CTC
		frames string
		want   string // words with their frames
	}{
		{plain, "", ""},
		{plain, "____", ""},
		{plain, "HHE_LL_LO", "HELLO 0-9"},
		{plain, "__HE__L_LO__||__HO_", "HELLO 2-10 HO 16-18"},
		{plain, "|_|HE|||", "HE 3-5"},
		{plain, "HEEE", "HE 0-4"},
		{lower, "AAB_B _A", "abb 0-5 a 7-8"},
		{letters, "aa_ab", "a 0-2 a 3-4 b 4-5"},
	} {
		for name, d := range map[string]CTCDecoder{"greedy": tt.c.Greedy(), "beam": tt.c.Beam(8)} {
			_, words := hear(tt.c, d, say(tt.c, tt.frames))
			var got []string
			for _, w := range words {
				got = append(got, fmt.Sprintf("%s %d-%d", w.Text, w.Start, w.End))
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("%s of %q: found %q, wanted %q", name, tt.frames, s, tt.want)
			}
		}
	}
	if plain.Between() != " " || letters.Between() != "" {
		t.Errorf("between words are %q and %q", plain.Between(), letters.Between())
	}
	_, words := hear(plain, plain.Greedy(), [][]float32{{0, 5, 0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 5, 0, 0, 0, 0, 0}, {0, 0, 5, 0, 0, 0, 0, 0, 0}})
	if len(words) != 1 || words[0].Text != "<unk>" {
		t.Errorf("of what begins and ends texts was made %v", words)
	}
}

// TestCTCBeam holds the search against the sum over all ways to say each text.
func TestCTCBeam(t *testing.T) {
	c := ctcOf(t, `{"<pad>":0,"a":1,"b":2}`, "")
	const frames = 6
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rows := make([][]float32, frames)
		for i := range rows {
			rows[i] = make([]float32, 3)
			for j := range rows[i] {
				rows[i][j] = float32(2 * rng.NormFloat64())
			}
		}
		likely := map[string]float64{}
		for way := range int(math.Pow(3, frames)) {
			p, text, last := 0.0, "", 0
			for i, w := 0, way; i < frames; i, w = i+1, w/3 {
				id := w % 3
				var sum float64
				for _, v := range rows[i] {
					sum += math.Exp(float64(v))
				}
				p += float64(rows[i][id]) - math.Log(sum)
				if id != last && id != 0 {
					text += c.tokens[id]
				}
				last = id
			}
			likely[text] += math.Exp(p)
		}
		best := ""
		for text, p := range likely {
			if p > likely[best] {
				best = text
			}
		}
		tokens, words := hear(c, c.Beam(1000), rows)
		var got string
		for i, w := range words {
			got += w.Text
			if w.Start < 0 || w.End <= w.Start || w.End > frames || i > 0 && w.Start < words[i-1].Start {
				t.Errorf("seed %d: %v", seed, words)
			}
		}
		if got != best || len(tokens) != len(best) {
			t.Errorf("seed %d: found %q, wanted %q", seed, got, best)
		}
	}
}

// TestCTCForgets holds that texts are given out as they settle, whatever their length.
func TestCTCForgets(t *testing.T) {
	c := ctcOf(t, ctcVocab, "")
	rows := say(c, "HHE_L_LO_||_")
	rng := rand.New(rand.NewPCG(1, 1))
	for _, row := range rows {
		for i := range row {
			row[i] += rng.Float32()
		}
	}
	d := c.Beam(10).(*beamCTC)
	given, most := 0, 0
	for range 2000 {
		for _, row := range rows {
			given += len(d.Push(row))
			for _, p := range d.live {
				most = max(most, p.node.depth-d.root.depth)
			}
		}
	}
	if given += len(d.Flush()); given != 2000*6 {
		t.Errorf("%d tokens were given out, wanted %d", given, 2000*6)
	}
	if most > 2*ahead {
		t.Errorf("%d tokens were kept", most)
	}
}

func TestCTCFolder(t *testing.T) {
	c, err := OpenCTC(testfiles.Shared(t, "tiny", "wav2vec2"))
	if err != nil {
		t.Fatal(err)
	}
	if c.VocabSize() != 32 || c.Blank() != 0 || c.tokens[c.delimiter] != "|" || !slices.Equal(c.silent[:5], []bool{true, true, true, false, false}) {
		t.Errorf("found %+v", c)
	}
}

func TestCTCErrors(t *testing.T) {
	var format *FormatError
	var unsupported *UnsupportedError
	for _, tt := range []struct {
		vocab, config string
		as            any
		want          string
	}{
		{`{"a":0}`, "", &format, "the padding token, which is CTC's blank, is not in the vocabulary"},
		{`{"a":0,"b":0}`, "", &format, "vocab.json"},
		{`{"a"`, "", &format, "vocab.json"},
		{`{"eng":{"a":0}}`, "", &unsupported, "a vocabulary for each language"},
		{ctcVocab, `{"pad_token":3}`, &format, "tokenizer_config.json"},
		{ctcVocab, `{"pad_token":"<blank>"}`, &format, "the padding token"},
	} {
		_, err := openCTC(fstest.MapFS{vocabFile: {Data: []byte(tt.vocab)}, configFile: {Data: []byte(cmp.Or(tt.config, "{}"))}})
		if !errors.As(err, tt.as) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %s: found %v, wanted %q", tt.vocab, tt.config, err, tt.want)
		}
	}
	if _, err := openCTC(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a vocabulary: %v", err)
	}
}

// FuzzCTC opens any vocabulary and configuration and, if that works, decodes.
func FuzzCTC(f *testing.F) {
	f.Add(ctcVocab, `{"pad_token":"<pad>","word_delimiter_token":"|","do_lower_case":true}`)
	f.Add(`{"<pad>":0,"a":7}`, `{"pad_token":{"content":"a"},"word_delimiter_token":null,"bos_token":"a"}`)
	f.Fuzz(func(t *testing.T, vocab, config string) {
		c, err := openCTC(fstest.MapFS{vocabFile: {Data: []byte(vocab)}, configFile: {Data: []byte(config)}})
		if err != nil {
			if !errors.As(err, new(*FormatError)) && !errors.As(err, new(*UnsupportedError)) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if c.VocabSize() > 1<<12 {
			return
		}
		rng := rand.New(rand.NewPCG(1, 1))
		rows := make([][]float32, 8)
		for i := range rows {
			rows[i] = make([]float32, c.VocabSize())
			for j := range rows[i] {
				rows[i][j] = rng.Float32() * 9
			}
		}
		hear(c, c.Greedy(), rows)
		hear(c, c.Beam(4), rows)
	})
}
