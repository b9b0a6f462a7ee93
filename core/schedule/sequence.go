package schedule

import (
	"cmp"
	"context"
	"slices"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
)

const (
	// soloAfter is the number of deaths that a request was in flight at after which
	// its sequences run alone (design section 6).
	soloAfter = 2
	// refusedAfter is the number of deaths in a row, while it ran alone, at which it is refused. One
	// may be somebody else's doing: texts take long.
	refusedAfter = 2
	// provenAfter is the number of tokens that a sequence draws alone to show that it
	// was another's fault.
	provenAfter = 8
	// maxDeaths is the number of deaths at which a request is refused however often it seemed harmless.
	maxDeaths = 12
)

// request is a Request on its way.
type request struct {
	Request
	ctx      context.Context
	stream   *Stream
	arrival  uint64
	choosers []*chooser // one a choice
	begun    bool       // it was taken in once
	ended    bool
	left     int // choices that have not ended
	deaths   []route.Refusal
	guilty   int               // of the last of them: while it ran alone
	source   *kvcache.Sequence // pages of Source; nil: none are held
}

// sequence is a choice on its way, or all choices of a request while their
// tokens are the same: until the prompt is through.
type sequence struct {
	r       *request
	choice  int
	joint   bool    // it stands for all choices
	tokens  []int64 // prompt and output
	limit   int     // tokens, by what was asked for and what the model takes; 0: any number
	chooser *chooser

	pages   *kvcache.Sequence // nil: it has to be computed from the beginning
	swapped Swapped           // nil: its pages are in the pools, or there are none
	taken   int               // tokens in the step that is being put together
	proven  int               // tokens drawn alone since the last death
	fresh   bool              // nothing of it was computed since it came in
}

func newSequence(r *request, o *Options) *sequence {
	q := &sequence{r: r, joint: true, tokens: slices.Clone(r.Prompt), limit: o.MaxLength}
	if r.MaxTokens > 0 {
		q.limit = len(r.Prompt) + r.MaxTokens
	}
	for i := range r.N {
		c := newChooser(&r.Request, i, o.Vocabulary)
		c.limit = q.limit
		r.choosers = append(r.choosers, c)
	}
	q.chooser = r.choosers[0]
	return q
}

// split returns one sequence for each choice: itself for the first, forks for the others.
func (q *sequence) split() []*sequence {
	all := []*sequence{q}
	for i := 1; i < q.r.N; i++ {
		all = append(all, &sequence{r: q.r, choice: i, tokens: slices.Clone(q.tokens), limit: q.limit,
			chooser: q.r.choosers[i], pages: q.pages.Fork(), proven: q.proven})
	}
	q.joint = false
	return all
}

// weight is the number of sequences that it will be.
func (q *sequence) weight() int {
	if q.joint {
		return q.r.N
	}
	return 1
}

// known is the number of tokens whose keys and values are in the cache.
func (q *sequence) known() int {
	if q.pages == nil {
		return 0
	}
	return q.pages.Len()
}

// runs reports whether its keys and values are in the pools.
func (q *sequence) runs() bool { return q.pages != nil && q.swapped == nil }

// alone reports whether a sequence's steps are its own: because its logits must not depend on
// others, or because it may take others down with it.
func (q *sequence) alone() bool {
	return q.r.Sampling.Deterministic || q.suspect()
}

// suspect reports whether the next death would be held to be its doing.
func (q *sequence) suspect() bool { return len(q.r.deaths) >= soloAfter && q.proven < provenAfter }

// chunk is the number of tokens that it would best take in a step with so much room. A
// deterministic sequence's tokens are computed in the same pieces always, first time or again: the prompt
// in whole steps, what was drawn one by one.
func (q *sequence) chunk(room int) int {
	if q.r.Sampling.Deterministic {
		if rest := len(q.r.Prompt) - q.known(); rest > 0 {
			return min(rest, room)
		}
		return 1
	}
	return min(len(q.tokens)-q.known(), room)
}

// catchesUp reports whether its next step computes a token again that it drew before, and not the last.
func (q *sequence) catchesUp() bool {
	known := q.known()
	return q.r.Sampling.Deterministic && known >= len(q.r.Prompt) && known+1 < len(q.tokens)
}

// gains reports whether it would find another page of its prompt in the cache if it let another prompt's
// part that is in the batch go first.
func (q *sequence) gains(from *sequence, pageSize int) bool {
	if !q.fresh || from.taken < 2 || !from.r.alike(&q.r.Request) || from.alone() || q.alone() {
		return false
	}
	end := from.known() + pageSize
	return end-pageSize >= q.known() && end <= min(len(from.tokens), len(q.tokens)-1) && slices.Equal(from.tokens[:end], q.tokens[:end])
}

// order is that in which sequences are served: by priority, then as they came.
func order(a, b *sequence) int {
	return cmp.Or(cmp.Compare(b.r.Priority, a.r.Priority), cmp.Compare(a.r.arrival, b.r.arrival), cmp.Compare(a.choice, b.choice))
}

func insert(list []*sequence, q *sequence) []*sequence {
	i, _ := slices.BinarySearchFunc(list, q, order)
	return slices.Insert(list, i, q)
}

func remove(list []*sequence, q *sequence) []*sequence {
	if i := slices.Index(list, q); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// finish says whether the last token ended the choice, and why.
func (q *sequence) finish() Finish {
	output := q.tokens[len(q.r.Prompt):]
	for _, stop := range q.r.Stop {
		if len(output) >= len(stop) && slices.Equal(output[len(output)-len(stop):], stop) {
			return Stop
		}
	}
	if len(q.tokens) == q.limit {
		return Length
	}
	return ""
}

// ends reports whether a token alone ends the text.
func (r *request) ends(id int64) bool {
	return slices.ContainsFunc(r.Stop, func(stop []int64) bool { return len(stop) == 1 && stop[0] == id })
}
