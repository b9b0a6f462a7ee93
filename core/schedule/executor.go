// Package schedule runs many sequences of tokens through one decoder: which go into the
// next step, where their keys and values lie, what each says next, and what
// happens when the device dies. It owns the loop; where the model runs is an
// Executor's business. Design sections 4 and 6, decision 0012.
package schedule

import (
	"context"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/tensor"
)

// Step is one run of a decoder's graph over T tokens of B sequences, of which L
// logits are wanted; nothing in it is padded. It is good for one Executor.Step.
type Step struct {
	InputIDs  []int64 // [T], one sequence after another
	Positions []int64 // [T]
	Slots     []int64 // [T], page * page size + place
	// PageTables are the sequences' pages, row by row; 0: not used. Page 0 is nobody's.
	PageTables []int64 // [B, PageWidth]
	PageWidth  int
	Lengths    []int64 // [B], tokens in the cache after the step
	Starts     []int64 // [B+1], where each sequence begins; Starts[B] = T
	Select     []int64 // [L], tokens of the step whose logits are wanted; may be empty
	// CrossTables are the pages of the sequences' sources, row by row, and CrossLengths their rows;
	// empty where the model has no sources.
	CrossTables  []int64 // [B, CrossWidth]
	CrossWidth   int
	CrossLengths []int64 // [B]
	// EmbedIndex says which of EmbedRows takes the place of a token's own embedding; -1: none does. It is empty
	// where no token's does.
	EmbedIndex []int64            // [T]
	EmbedRows  []float32          // [E, hidden]
	Copies     []kvcache.PageCopy // done before the run, in any order: no page is in it twice as a target, or as source and target
	Sequences  []Member           // [B], who is in it, for errors and logs
	// Alone asks that nothing else runs in the backend meanwhile: the request may have killed it before.
	Alone bool
}

// Member is a sequence in a step.
type Member struct {
	Request string // Request.ID
	Choice  int
}

// Encoding is one run of what computes a source's keys and values.
type Encoding struct {
	Inputs map[string]tensor.Tensor // as Source has them
	Slots  []int64                  // [rows], places in the cross pools; those on page 0 are nobody's
	Member
	Alone bool // as Step's
}

// Pools are the forms of an executor's pools.
type Pools struct {
	Own   kvcache.Geometry // of the sequences' tokens
	Cross kvcache.Geometry // of their sources; zero: the model has none
}

// Executor runs steps where the pools are. It is used by one goroutine.
type Executor interface {
	// Open brings the model and zeroed pools onto a device. It is called before the first
	// step, and again after the pools were lost. It writes into d how it went; d's
	// replays are empty. Waiting for a device that restarts, the next platform of the route
	// and deaths while compiling are its business: an error ends all requests there are.
	Open(ctx context.Context, d *route.Decision) (Pools, error)
	// Step returns the logits [L, V] of s.Select. They are good until the next call
	// and may be written to. A *LostError (errors.As) says that the pools are gone.
	Step(ctx context.Context, s *Step) (logits []float32, err error)
	// Encode writes a source's keys and values into the cross pools. A *LostError says that
	// all pools are gone. It is never called where the model has no sources.
	Encode(ctx context.Context, e *Encoding) error
	// SwapOut saves the bytes that all pools have in these pages. It may fail with a *LostError.
	SwapOut(ctx context.Context, pages []int64) (Swapped, error)
	// SwapIn brings them back into these pages, in the same order; 0: this one is not
	// wanted. It may fail with a *LostError.
	SwapIn(ctx context.Context, s Swapped, pages []int64) error
	// Wanted delivers when others want the device's memory: what runs is then finished, nothing else taken
	// in, and the executor closed and opened anew for what waits, or with the next request. nil: nobody ever does.
	Wanted() <-chan struct{}
	// Close gives up device and pools. Open may follow.
	Close() error
}

// Swapped is the bytes of pages in host memory.
type Swapped interface {
	Bytes() int64
	// Release frees them. It is called once.
	Release()
}
