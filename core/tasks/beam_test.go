package tasks

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

// chain is an executor whose logits depend on the last token and its position alone.
type chain struct {
	script
	rows [][][]float32 // by position, by last token
}

func (c *chain) Step(_ context.Context, st *schedule.Step) ([]float32, error) {
	var logits []float32
	for _, row := range st.Select {
		logits = append(logits, c.rows[st.Positions[row]][st.InputIDs[row]]...)
	}
	return logits, nil
}

func (c *chain) Open(ctx context.Context, d *route.Decision) (schedule.Pools, error) {
	if _, err := c.script.Open(ctx, d); err != nil {
		return schedule.Pools{}, err
	}
	return schedule.Pools{Own: kvcache.Geometry{Pages: 512, PageSize: 2}}, nil
}

// logProb is that of next after last at a position.
func (c *chain) logProb(position int, last, next int64) float64 {
	row := c.rows[position][last]
	sum := 0.0
	for _, v := range row {
		sum += math.Exp(float64(v))
	}
	return float64(row[next]) - math.Log(sum)
}

const chainVocabulary, chainEnd = 4, 3

func newChain(t *testing.T, seed uint64, length int) (*chain, *Completer) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 3))
	c := &chain{}
	for range length + 1 {
		var rows [][]float32
		for range chainVocabulary {
			row := make([]float32, chainVocabulary)
			for i := range row {
				row[i] = float32(r.NormFloat64() * 2)
			}
			rows = append(rows, row)
		}
		c.rows = append(c.rows, rows)
	}
	s, err := schedule.New(c, schedule.Options{Vocabulary: chainVocabulary})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if st := s.Stats(); st.Running+st.Waiting+st.Cache.Used > 0 {
			t.Errorf("at rest, something runs: %+v", st)
		}
	})
	return c, &Completer{Model: "m", Scheduler: s, MaxTokens: 64, End: []int64{chainEnd}}
}

// best is the text with the greatest weight of all, by trying every one.
func (c *chain) best(prompt []int64, most int, penalty float64) (tokens []int64, weight float64) {
	weight = math.Inf(-1)
	var try func(text []int64, score float64)
	try = func(text []int64, score float64) {
		if n := len(text); n > 0 && (text[n-1] == chainEnd || n == most) {
			if w := score / math.Pow(float64(n), penalty); w > weight {
				tokens, weight = slices.Clone(text), w
			}
			return
		}
		last := prompt[len(prompt)-1]
		if len(text) > 0 {
			last = text[len(text)-1]
		}
		for next := range int64(chainVocabulary) {
			try(append(text, next), score+c.logProb(len(prompt)-1+len(text), last, next))
		}
	}
	try(nil, 0)
	return tokens, weight
}

// With as many beams as there are texts the search finds the best of all.
func TestBeamsFindTheBest(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c, g := newChain(t, seed, 8)
			prompt := []int64{0, 1}
			for _, penalty := range []float64{0, 1, 2} {
				const most = 3
				want, weight := c.best(prompt, most, penalty)
				req := &GenerateRequest{Beams: 16, LengthPenalty: penalty, N: 3}
				var res GenerateResult
				beams, err := g.search(t.Context(), req, schedule.Request{ID: "r", Prompt: prompt, MaxTokens: most}, &res)
				if err != nil || len(beams) != 3 {
					t.Fatal(beams, err)
				}
				var got []int64
				for _, token := range beams[0].tokens {
					got = append(got, token.ID)
				}
				if w := beams[0].weight(penalty); !slices.Equal(got, want) || math.Abs(w-weight) > 1e-4 {
					t.Errorf("penalty %g: found %v of weight %g, wanted %v of %g", penalty, got, w, want, weight)
				}
				if !slices.IsSortedFunc(beams, func(a, b beam) int {
					return int(math.Copysign(1, b.weight(penalty)-a.weight(penalty)))
				}) {
					t.Errorf("the texts are not in order: %v", beams)
				}
				if res.Decision.Chosen.Device != "script:0" || res.CompletionTokens == 0 {
					t.Errorf("the result says %+v", res)
				}
			}
		})
	}
}

// Beams share the pages of what they have in common.
func TestBeamsSharePages(t *testing.T) {
	_, g := newChain(t, 5, 40)
	s := g.Scheduler.(*schedule.Scheduler)
	before := s.Stats()
	var res GenerateResult
	if _, err := g.search(t.Context(), &GenerateRequest{Beams: 4, LengthPenalty: 1}, schedule.Request{ID: "r", Prompt: []int64{0, 1, 2, 0, 1}, MaxTokens: 20}, &res); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if ran := st.PrefillTokens + st.DecodeTokens - before.PrefillTokens - before.DecodeTokens; int(ran) > 5+res.CompletionTokens {
		t.Errorf("%d tokens were run for %d that were drawn: beams compute again what others have", ran, res.CompletionTokens)
	}
}

func TestBeamsRefused(t *testing.T) {
	for want, req := range map[string]GenerateRequest{
		"it takes 1 to 16":    {Beams: 17},
		"-10 to 10":           {Beams: 2, LengthPenalty: math.NaN()},
		"and 2 beams":         {Beams: 2, N: 3},
		"temperature to 0":    {Beams: 2, Sampling: schedule.Sampling{Temperature: 0.5}},
		"penalties":           {Beams: 2, Sampling: schedule.Sampling{FrequencyPenalty: 1}},
		"schemas, tools and ": {Beams: 2, Logprobs: true},
	} {
		req.Prompt = "x"
		_, err := (&Completer{}).Generate(t.Context(), req, nil)
		var e *InvalidInputError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("found %v, wanted %q", err, want)
		}
	}
}
