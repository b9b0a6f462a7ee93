package schedule

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/schedule/constrain"
	"github.com/accelhq/accel/sdk/tensor"
)

// Constraint narrows the next token.
type Constraint = constrain.Constraint

// Request asks for what comes after a prompt. The scheduler reads its slices and
// maps until the stream ends; nobody may change them meanwhile.
type Request struct {
	ID     string  // for logs and errors
	Prompt []int64 // token ids, at least one
	// Embeds are runs of the prompt whose rows come as embeddings, in order; the ids at their places
	// don't count. Only for models whose Options.Embeds is set.
	Embeds []Embed
	// Source is what the sequence attends to beside its own tokens; needed by models that have
	// one, and refused by others.
	Source    *Source
	MaxTokens int // a choice; 0: as many as model and cache have room for
	N         int // choices; 0: 1
	Sampling  Sampling
	// Stop are the sequences of tokens that end a choice with Finish "stop": each end token,
	// alone, and what else the caller looks for in ids. The tokens themselves are given out too.
	Stop [][]int64
	// Constraint is called once a choice; nil: free.
	Constraint func() Constraint
	// Rule is called once a choice; nil: there is none. It is asked last of what changes logits.
	Rule func(choice int) Rule
	// Salt keeps prefixes apart that must not be shared: tenant, model, precision. Those
	// with the same salt are one party at admission.
	Salt     string
	Priority int // higher goes first
}

// Rule says what may come next, knowing how likely it is. It is used by one goroutine at a time.
type Rule interface {
	// Adjust changes the logits that the next token is drawn from.
	Adjust(logits []float32)
	// Accept takes the token that was drawn, one that ends the text too.
	Accept(id int64)
}

// Embed is a run of rows in a prompt: those of a picture or a sound.
type Embed struct {
	At   int       // of the first, in Prompt
	Rows []float32 // [n, Options.Embeds]
	// Hash is that of what they were made of and how: who has the same shares their pages.
	Hash [32]byte
}

// Source is what an encoder gives a decoder.
type Source struct {
	Inputs map[string]tensor.Tensor // of models.Prepare, one text or sound
	Rows   int                      // of the encoder's output
	Hash   [32]byte                 // of the inputs and how they were made
}

// NewSource is a source of so many rows with a hash of all that its inputs hold.
func NewSource(inputs map[string]tensor.Tensor, rows int) *Source {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		t := inputs[name]
		fmt.Fprintf(h, "%q %s %v\n", name, t.DType, t.Shape)
		h.Write(t.Data)
	}
	s := &Source{Inputs: inputs, Rows: rows}
	h.Sum(s.Hash[:0])
	return s
}

// content says what tells the sequence's pages from those of others with the same tokens.
func (r *Request) content(width int) kvcache.Content {
	c := kvcache.Content{Salt: r.Salt, Private: r.Sampling.Deterministic}
	if r.Source != nil {
		c.Root = r.Source.Hash
	}
	for _, e := range r.Embeds {
		c.Spans = append(c.Spans, kvcache.Span{From: e.At, To: e.At + len(e.Rows)/width, Hash: e.Hash})
	}
	return c
}

// alike reports whether the same tokens would have the same keys and values in both.
func (r *Request) alike(o *Request) bool {
	if r.Salt != o.Salt || (r.Source == nil) != (o.Source == nil) || r.Source != nil && r.Source.Hash != o.Source.Hash || len(r.Embeds) != len(o.Embeds) {
		return false
	}
	for i, e := range r.Embeds {
		if e.At != o.Embeds[i].At || e.Hash != o.Embeds[i].Hash {
			return false
		}
	}
	return true
}

// Sampling says how a token is chosen. What is zero is off; zero as a whole, it is
// greedy. The order is: penalties and bias; constraint; temperature; top-k; top-p of what
// top-k left; min-p.
type Sampling struct {
	Temperature float64 // 0: the most probable token, of equal ones the first
	TopK        int     // the k most probable
	TopP        float64 // in (0, 1]: the fewest of the most probable that together have this probability
	MinP        float64 // in [0, 1): those that have this part of the highest probability
	// RepetitionPenalty divides the positive and multiplies the negative logits of tokens in prompt
	// or output (Keskar et al. 2019); 0 and 1 are off.
	RepetitionPenalty float64
	PresencePenalty   float64           // taken from logits of tokens in the output
	FrequencyPenalty  float64           // taken from them as often as they are in it
	LogitBias         map[int64]float64 // added to logits; -Inf never comes
	Seed              uint64            // random numbers are keyed by (Seed, choice, position)
	// Logprobs asks for the natural logarithm of each token's probability: the model's own, before
	// penalties, bias, constraint and temperature. TopLogprobs asks for the most probable tokens too.
	Logprobs    bool
	TopLogprobs int
	// Deterministic makes logits independent of what else runs: the sequence's steps
	// are its own, its prompt is cut at fixed places, and no prefix is shared with other
	// requests. It costs throughput.
	Deterministic bool
}

// Finish says why a choice ended.
type Finish string

// Reasons for a choice to end.
const (
	Stop   Finish = "stop"   // an end token or sequence came
	Length Finish = "length" // MaxTokens, or the room that model or cache have
)

// Token is one token of one choice.
type Token struct {
	Choice  int
	ID      int64
	Logprob float32        // if asked for
	Top     []TokenLogprob // the TopLogprobs most probable ones, most probable first
	Finish  Finish         // of the choice's last token
}

// TokenLogprob is a token and the natural logarithm of its probability.
type TokenLogprob struct {
	ID      int64
	Logprob float32
}

// check refuses what can't be carried out, before anything is changed.
func (r *Request) check(o *Options) error {
	invalid := func(field, format string, args ...any) error {
		return &InvalidError{Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	vocab := int64(o.Vocabulary)
	if len(r.Prompt) == 0 {
		return invalid("Prompt", "has no token; at least one is needed")
	}
	for i, id := range r.Prompt {
		if id < 0 || id >= vocab {
			return invalid("Prompt", "token %d is %d; ids are 0 to %d", i, id, vocab-1)
		}
	}
	end := 0
	for i, e := range r.Embeds {
		switch n := len(e.Rows); {
		case o.Embeds == 0:
			return invalid("Embeds", "are %d runs of rows; the model takes token ids only", len(r.Embeds))
		case n == 0 || n%o.Embeds != 0:
			return invalid("Embeds", "run %d has %d numbers; rows of %d are wanted", i, n, o.Embeds)
		case e.At < end || e.At+n/o.Embeds > len(r.Prompt):
			return invalid("Embeds", "run %d is at %d with %d rows; it must follow the one before and lie in the prompt of %d tokens", i, e.At, n/o.Embeds, len(r.Prompt))
		}
		end = e.At + len(e.Rows)/o.Embeds
	}
	switch {
	case o.Sources && r.Source == nil:
		return invalid("Source", "is missing; the model attends to one")
	case !o.Sources && r.Source != nil:
		return invalid("Source", "is there; the model attends to its own tokens only")
	case o.Sources && r.Source.Rows < 1:
		return invalid("Source", "has %d rows; at least 1 is needed", r.Source.Rows)
	}
	if r.MaxTokens < 0 || r.MaxTokens > math.MaxInt32 {
		return invalid("MaxTokens", "is %d; it must be from 0 to %d", r.MaxTokens, math.MaxInt32)
	}
	if most := min(o.MaxChoices, o.MaxSequences); r.N < 1 || r.N > most {
		return invalid("N", "is %d; 1 to %d choices may be asked for", r.N, most)
	}
	for i, stop := range r.Stop {
		if len(stop) == 0 {
			return invalid("Stop", "sequence %d has no token", i)
		}
	}
	s := &r.Sampling
	for _, f := range []struct {
		name     string
		value    float64
		min, max float64
	}{
		{"Temperature", s.Temperature, 0, 100},
		{"TopP", s.TopP, 0, 1},
		{"MinP", s.MinP, 0, 1},
		{"RepetitionPenalty", s.RepetitionPenalty, 0, 100},
		{"PresencePenalty", s.PresencePenalty, -100, 100},
		{"FrequencyPenalty", s.FrequencyPenalty, -100, 100},
	} {
		if !(f.value >= f.min && f.value <= f.max) {
			return invalid("Sampling."+f.name, "is %v; it must be from %v to %v", f.value, f.min, f.max)
		}
	}
	if s.RepetitionPenalty != 0 && s.RepetitionPenalty < 0.01 {
		return invalid("Sampling.RepetitionPenalty", "is %v; it must be 0 (off) or at least 0.01", s.RepetitionPenalty)
	}
	if s.TopK < 0 {
		return invalid("Sampling.TopK", "is %d; it can't be negative", s.TopK)
	}
	if s.TopLogprobs < 0 || s.TopLogprobs > maxTopLogprobs {
		return invalid("Sampling.TopLogprobs", "is %d; it must be from 0 to %d", s.TopLogprobs, maxTopLogprobs)
	}
	if s.TopLogprobs > 0 && !s.Logprobs {
		return invalid("Sampling.TopLogprobs", "is %d, but Logprobs are not asked for", s.TopLogprobs)
	}
	for id, bias := range s.LogitBias {
		if id < 0 || id >= vocab {
			return invalid("Sampling.LogitBias", "names token %d; ids are 0 to %d", id, vocab-1)
		}
		if !(math.Abs(bias) <= maxBias || math.IsInf(bias, -1)) {
			return invalid("Sampling.LogitBias", "is %v for token %d; it must be from %v to %v, or -Inf", bias, id, -maxBias, maxBias)
		}
	}
	if o.MaxLength > 0 && len(r.Prompt)+max(1, r.MaxTokens) > o.MaxLength {
		return &TooLongError{Prompt: len(r.Prompt), MaxTokens: r.MaxTokens, Limit: o.MaxLength}
	}
	return nil
}

const (
	maxTopLogprobs = 64
	maxBias        = 1e6
)
