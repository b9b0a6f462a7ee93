package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

// maxBeams bounds the texts that are followed side by side.
const maxBeams = 16

// beam is a text on its way: the tokens behind the prompt, and the sum of their logarithms of
// probability.
type beam struct {
	tokens []schedule.Token
	score  float64
}

// ended is a beam that came to its end.
func (b beam) ended(finish schedule.Finish) beam {
	tokens := slices.Clone(b.tokens)
	tokens[len(tokens)-1].Finish = finish
	return beam{tokens, b.score}
}

// weight is what beams are compared by once they have ended: the score by the length to the
// power of the penalty.
func (b beam) weight(penalty float64) float64 {
	return b.score / math.Pow(float64(len(b.tokens)), penalty)
}

// search follows the req.Beams likeliest texts side by side, as transformers' beam search
// does (generation/utils.py, early_stopping False): at each step the likeliest continuations of all go
// on, and it ends when no text on its way can become better than those that have ended. It returns req.N
// texts, the best first.
//
// Every step is a request of its own for each beam: they run in one step of the scheduler, and the
// pages of what beams have in common are shared, as those of any common prefix are.
func (g *Completer) search(ctx context.Context, req *GenerateRequest, r schedule.Request, res *GenerateResult) ([]beam, error) {
	most := r.MaxTokens
	if most == 0 {
		most = g.MaxTokens - len(r.Prompt)
	}
	live, done := []beam{{}}, []beam(nil)
	better := func(a, b beam) int { return cmp.Compare(b.weight(req.LengthPenalty), a.weight(req.LengthPenalty)) }
	for step := 1; len(live) > 0; step++ {
		next, err := g.extend(ctx, r, live, 2*req.Beams, res)
		if err != nil {
			return nil, err
		}
		live = live[:0]
		for rank, b := range next {
			last := b.tokens[len(b.tokens)-1].ID
			switch {
			case slices.Contains(g.End, last):
				if rank < req.Beams { // one that is less likely is no end worth having
					done = append(done, b.ended(schedule.Stop))
				}
			case step == most:
				done = append(done, b.ended(schedule.Length))
			case len(live) < req.Beams:
				live = append(live, b)
			}
		}
		slices.SortStableFunc(done, better)
		if len(done) > req.Beams {
			done = done[:req.Beams]
		}
		if len(done) == req.Beams && len(live) > 0 && live[0].weight(req.LengthPenalty) <= done[len(done)-1].weight(req.LengthPenalty) {
			break
		}
	}
	return done[:min(len(done), max(1, req.N))], nil
}

// extend returns the likeliest continuations of beams by a token, at most n, likeliest first.
func (g *Completer) extend(ctx context.Context, r schedule.Request, live []beam, n int, res *GenerateResult) ([]beam, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prompt, id := r.Prompt, r.ID
	r.MaxTokens, r.N, r.Stop = 1, 1, nil
	r.Sampling.Temperature, r.Sampling.Logprobs, r.Sampling.TopLogprobs = 0, true, n
	streams := make([]*schedule.Stream, len(live))
	for i, b := range live {
		r.ID = fmt.Sprintf("%s beam %d", id, i)
		r.Prompt = slices.Clone(prompt)
		for _, t := range b.tokens {
			r.Prompt = append(r.Prompt, t.ID)
		}
		s, err := g.Scheduler.Submit(ctx, r)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		streams[i] = s
	}
	var next []beam
	for i, s := range streams {
		token, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			err = errors.New("the scheduler ended a request before its choices had ended")
		}
		if err != nil {
			return nil, err
		}
		first := len(live[i].tokens) == 0
		if first {
			res.CachedTokens = s.Cached()
		}
		res.Decision = merged(res.Decision, s.Decision())
		res.CompletionTokens++
		for _, t := range token.Top {
			tokens := append(slices.Clone(live[i].tokens), schedule.Token{ID: t.ID, Logprob: t.Logprob})
			next = append(next, beam{tokens, live[i].score + float64(t.Logprob)})
		}
	}
	slices.SortStableFunc(next, func(a, b beam) int { return cmp.Compare(b.score, a.score) })
	return next[:min(n, len(next))], nil
}

// merged is the decision of a request that went through another step: where it ran last, and all
// deaths that it lived through.
func merged(before, now route.Decision) route.Decision {
	for _, r := range before.Replays {
		if !slices.Contains(now.Replays, r) {
			now.Replays = append(now.Replays, r)
		}
	}
	now.Parts = before.Parts
	return now
}

// checkBeams refuses what a search can't do.
func (req *GenerateRequest) checkBeams() error {
	invalid := func(field, problem string) error {
		return &InvalidInputError{Field: field, Input: -1, Problem: problem}
	}
	s := req.Sampling
	switch {
	case req.Beams < 0 || req.Beams > maxBeams:
		return invalid("beams", fmt.Sprintf("%d were asked for; it takes 1 to %d", req.Beams, maxBeams))
	case !(math.Abs(req.LengthPenalty) <= 10):
		return invalid("length_penalty", fmt.Sprintf("%v was asked for; it takes -10 to 10", req.LengthPenalty))
	case req.Beams < 2:
		return nil
	case req.N > req.Beams:
		return invalid("n", fmt.Sprintf("%d texts were asked for, and %d beams", req.N, req.Beams))
	case s.Temperature != 0 || s.TopK != 0 || s.TopP != 0 && s.TopP != 1 || s.MinP != 0:
		return invalid("beams", "beams follow the likeliest texts: there is nothing to draw; set temperature to 0")
	case s.RepetitionPenalty != 0 && s.RepetitionPenalty != 1 || s.PresencePenalty != 0 || s.FrequencyPenalty != 0 || len(s.LogitBias) > 0:
		return invalid("beams", "penalties and biases are not taken together with beams")
	case req.Schema != nil || len(req.Tools) > 0 || req.Logprobs:
		return invalid("beams", "schemas, tools and logprobs are not taken together with beams")
	}
	return nil
}
