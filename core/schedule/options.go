package schedule

import (
	"cmp"
	"fmt"

	"github.com/accelhq/accel/core/kvcache"
)

// Preemption says what becomes of the keys and values of a sequence that must give
// its pages up.
type Preemption string

// Ways to preempt.
const (
	PreemptAuto      Preemption = ""          // whichever is estimated to be cheaper
	PreemptSwap      Preemption = "swap"      // they are kept in host memory, up to SwapBytes
	PreemptRecompute Preemption = "recompute" // they are computed again
)

// Options are a scheduler's limits. What is zero has the default.
type Options struct {
	Vocabulary int // V, the length of a row of logits; needed
	MaxLength  int // tokens that the model takes, prompt and output together; 0: any number
	// Embeds is the width of rows that may come as embeddings; 0: none may.
	Embeds  int
	Sources bool // each sequence attends to a source beside its own tokens
	// StepTokens is the number of tokens that a step has at most: one for each sequence that
	// decodes, the rest for prompts. Default 512.
	StepTokens   int
	MaxSequences int // in the cache at once; default 64, at most StepTokens
	MaxWaiting   int // requests not begun yet; default 256
	MaxChoices   int // of one request; default 16
	Preemption   Preemption
	SwapBytes    int64 // host memory for preempted sequences; 0: none, they are recomputed
}

func (o Options) complete() (Options, error) {
	for _, n := range []*int{&o.StepTokens, &o.MaxSequences, &o.MaxWaiting, &o.MaxChoices} {
		if *n < 0 {
			return o, fmt.Errorf("schedule: options %+v: no limit may be negative", o)
		}
	}
	o.StepTokens = cmp.Or(o.StepTokens, 512)
	o.MaxSequences = cmp.Or(o.MaxSequences, min(64, o.StepTokens))
	o.MaxWaiting = cmp.Or(o.MaxWaiting, 256)
	o.MaxChoices = cmp.Or(o.MaxChoices, 16)
	switch {
	case o.Vocabulary <= 0:
		return o, fmt.Errorf("schedule: a vocabulary of %d tokens; at least 1 is needed", o.Vocabulary)
	case o.Embeds < 0 || o.MaxLength < 0 || o.SwapBytes < 0:
		return o, fmt.Errorf("schedule: options %+v: no limit may be negative", o)
	case o.MaxSequences > o.StepTokens:
		return o, fmt.Errorf("schedule: %d sequences don't fit into a step of %d tokens; raise the latter or lower the former", o.MaxSequences, o.StepTokens)
	}
	switch o.Preemption {
	case PreemptAuto, PreemptSwap, PreemptRecompute:
	default:
		return o, fmt.Errorf("schedule: preemption %q; it must be %q, %q or empty", o.Preemption, PreemptSwap, PreemptRecompute)
	}
	return o, nil
}

// Stats is a snapshot of a scheduler.
type Stats struct {
	Cache kvcache.Stats // pages; zero before the first request
	Cross kvcache.Stats // pages of sources; zero where the model has none

	Waiting   int   // requests and preempted sequences that wait for pages
	Running   int   // sequences that hold pages
	Swapped   int   // of those that wait: in host memory
	SwapBytes int64 // that they take

	Steps           uint64
	Encodings       uint64 // sources whose keys and values were computed
	PrefillTokens   uint64 // tokens run that were known: prompts, and what was recomputed
	DecodeTokens    uint64 // tokens run that were drawn the step before
	Sampled         uint64 // tokens drawn
	CachedTokens    uint64 // prompt tokens that the cache had
	PreemptedSwap   uint64
	PreemptedAnew   uint64 // preempted, to be recomputed
	SwapsFailed     uint64 // of either direction; what they were for was recomputed
	Losses          uint64 // of the device
	Rests           uint64 // times that device and pools were given up for others
	Refused         uint64 // for the queue was full
	Cancelled       uint64
	Failed          uint64
	Finished        uint64  // requests
	StepSeconds     float64 // spent in Executor.Step
	SamplingSeconds float64 // spent choosing tokens
}
