package schedule

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/accelhq/accel/core/kvcache"
)

func newSourced(pages, cross int) *fake {
	f := newFake(pages, 4)
	f.sources = kvcache.Geometry{Pages: cross, PageSize: 4, PageBytes: 1 << 20}
	return f
}

func finish(t *testing.T, f *fake, stream *Stream, r Request) {
	t.Helper()
	n := max(1, r.N)
	texts, _, err := read(stream, n)
	if !errors.Is(err, io.EOF) {
		t.Errorf("%s: %v", r.ID, err)
		return
	}
	for i, got := range texts {
		if want := oracle(t, f, r, i); !slices.Equal(got, want) {
			t.Errorf("%s, choice %d: found %v, wanted %v", r.ID, i, got, want)
		}
	}
}

// Two sources under one prompt never share a page, and one source is computed once.
func TestSources(t *testing.T) {
	f := newSourced(64, 64)
	s := start(t, f, Options{})
	for i, r := range []Request{
		{Source: source(1, 10), N: 3}, {Source: source(2, 10)}, {Source: source(1, 10)}, {Source: source(1, 9)}, {Source: source(2, 10)},
	} {
		r.ID, r.Prompt, r.MaxTokens = strconv.Itoa(i), prompt(3, 9), 7
		r.Sampling = Sampling{Temperature: 1, Seed: 5}
		finish(t, f, submit(t, s, r), r)
	}
	st := settled(t, s, f)
	if f.encoded != 3 || st.Encodings != 3 {
		t.Errorf("%d sources were computed, wanted 3: %+v", f.encoded, st)
	}
	if st.CachedTokens == 0 {
		t.Error("the same prompt over the same source shares nothing")
	}
}

// Requests of many kinds at once, too few pages of both kinds, and devices that die: each
// says what it would say alone.
func TestSourcesUnderPressure(t *testing.T) {
	for _, preemption := range []Preemption{PreemptSwap, PreemptRecompute, PreemptAuto} {
		t.Run(string("preemption "+preemption), func(t *testing.T) {
			f := newSourced(20, 12)
			f.embeds = 3
			f.stepErr = func(n int, _ *Step) error {
				if n%37 == 0 {
					return lost("killed")
				}
				return nil
			}
			f.encErr = func(n int) error {
				if n%11 == 0 {
					return lost("killed while encoding")
				}
				return nil
			}
			s := gated(t, f, Options{StepTokens: 16, MaxSequences: 8, Preemption: preemption, SwapBytes: 1 << 30})
			r := rand.New(rand.NewPCG(7, 7))
			var requests []Request
			for i := range 40 {
				q := Request{ID: strconv.Itoa(i), Prompt: prompt(r.IntN(2), 6+r.IntN(9)), MaxTokens: 3 + r.IntN(12), N: 1 + r.IntN(2), Source: source(r.IntN(4), 5+r.IntN(20))}
				q.Sampling = Sampling{Temperature: 0.8, Seed: uint64(i), Deterministic: r.IntN(4) == 0}
				if r.IntN(2) == 0 {
					q.Embeds = []Embed{f.embed(1, 1+r.IntN(2), 2), f.embed(3+r.IntN(2), 3, 1)}
				}
				requests = append(requests, q)
			}
			for i, stream := range together(t, s, f, requests...) {
				finish(t, f, stream, requests[i])
			}
			settled(t, s, f)
		})
	}
}

// Two pictures under one prompt never share a page; the same one does.
func TestEmbeds(t *testing.T) {
	f := newFake(64, 4)
	f.embeds = 2
	s := start(t, f, Options{StepTokens: 8})
	cached := uint64(0)
	for i, c := range []struct {
		embeds []Embed
		shares bool
	}{
		{[]Embed{f.embed(2, 1, 9)}, false}, {[]Embed{f.embed(2, 2, 9)}, true}, // the two tokens before them
		{[]Embed{f.embed(2, 1, 9)}, true}, {[]Embed{f.embed(2, 1, 4), f.embed(6, 2, 5)}, true}, {nil, true},
	} {
		r := Request{ID: strconv.Itoa(i), Prompt: prompt(1, 17), MaxTokens: 6, Embeds: c.embeds}
		stream := submit(t, s, r)
		finish(t, f, stream, r)
		st := s.Stats()
		if (st.CachedTokens > cached) != c.shares {
			t.Errorf("request %d: %d tokens were in the cache", i, st.CachedTokens-cached)
		}
		if i == 1 && stream.Cached() > 2 {
			t.Errorf("another picture shares %d tokens, wanted the 2 before it at most", stream.Cached())
		}
		if i == 2 && stream.Cached() != 16 {
			t.Errorf("the same picture shares %d tokens, wanted 16", stream.Cached())
		}
		cached = st.CachedTokens
	}
	settled(t, s, f)
}

func TestSourceRefused(t *testing.T) {
	f := newSourced(8, 4)
	f.embeds = 2
	s := start(t, f, Options{})
	for name, r := range map[string]Request{
		"Source: is missing":     {},
		"Source: has 0 rows":     {Source: source(1, 0)},
		"Embeds: run 0 has 3":    {Source: source(1, 2), Embeds: []Embed{{Rows: make([]float32, 3)}}},
		"Embeds: run 0 is at 4":  {Source: source(1, 2), Embeds: []Embed{f.embed(4, 1, 2)}},
		"Embeds: run 1 is at 1 ": {Source: source(1, 2), Embeds: []Embed{f.embed(0, 1, 2), f.embed(1, 1, 1)}},
	} {
		r.Prompt = prompt(1, 5)
		_, err := s.Submit(t.Context(), r)
		var e *InvalidError
		if !errors.As(err, &e) || len(err.Error()) < len(name) || err.Error()[:len(name)] != name {
			t.Errorf("found %v, wanted %s", err, name)
		}
	}
	stream := submit(t, s, Request{Prompt: prompt(1, 2), Source: source(1, 13)})
	_, _, err := read(stream, 1)
	var e *TooLongError
	if !errors.As(err, &e) || !e.Source || e.Limit != 12 {
		t.Errorf("found %v, wanted a source too long for 12 rows", err)
	}
	settled(t, s, f)
}

// cycle is a rule that lets one token come, after how often it was asked.
type cycle struct {
	asked    int
	accepted []int64
}

func (c *cycle) Adjust(logits []float32) {
	for i := range logits {
		if i != 7+c.asked%3 {
			logits[i] = float32(math.Inf(-1))
		}
	}
	c.asked++
}

func (c *cycle) Accept(id int64) { c.accepted = append(c.accepted, id) }

// A rule is asked for every token that is drawn, once, whatever devices die meanwhile.
func TestRule(t *testing.T) {
	f := newFake(64, 4)
	f.stepErr = func(n int, _ *Step) error {
		if n == 3 {
			return lost("killed")
		}
		return nil
	}
	s := start(t, f, Options{})
	rules := []*cycle{{}, {asked: 1}}
	stream := submit(t, s, Request{ID: "r", Prompt: prompt(1, 5), MaxTokens: 6, N: 2, Stop: [][]int64{{40}}, Rule: func(i int) Rule { return rules[i] }})
	texts, _, err := read(stream, 2)
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for i, want := range [][]int64{{7, 8, 9, 7, 8, 9}, {8, 9, 7, 8, 9, 7}} {
		if !slices.Equal(texts[i], want) || !slices.Equal(rules[i].accepted, want) {
			t.Errorf("choice %d is %v, its rule accepted %v, wanted %v", i, texts[i], rules[i].accepted, want)
		}
	}
	settled(t, s, f)
}
