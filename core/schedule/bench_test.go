package schedule

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/route"
)

// idle is an executor that computes nothing: what is measured is the scheduler.
type idle struct {
	geometry kvcache.Geometry
	row      []float32
	logits   []float32
}

func (e *idle) Open(context.Context, *route.Decision) (Pools, error) {
	return Pools{Own: e.geometry}, nil
}

func (e *idle) Step(_ context.Context, s *Step) ([]float32, error) {
	need := len(s.Select) * len(e.row)
	for len(e.logits) < need {
		e.logits = append(e.logits, e.row...)
	}
	return e.logits[:need], nil
}

func (e *idle) Encode(context.Context, *Encoding) error           { panic("nothing is encoded") }
func (e *idle) SwapOut(context.Context, []int64) (Swapped, error) { panic("nothing is swapped") }
func (e *idle) SwapIn(context.Context, Swapped, []int64) error    { panic("nothing is swapped") }
func (e *idle) Wanted() <-chan struct{}                           { return nil }
func (e *idle) Close() error                                      { return nil }

// BenchmarkStep is the time of a step with 64 sequences that decode, readers
// included, beside what the executor takes; one row of logits is short, so that sampling is little of it.
func BenchmarkStep(b *testing.B) {
	for _, vocab := range []int{64, 49152} {
		for _, sequences := range []int{1, 64} {
			b.Run(fmt.Sprintf("%d sequences, vocabulary %d", sequences, vocab), func(b *testing.B) {
				pages := sequences*(b.N/16+4) + 2
				e := &idle{geometry: kvcache.Geometry{Pages: pages, PageSize: 16}, row: bigRow(vocab)}
				s, err := New(e, Options{Vocabulary: vocab})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				var readers sync.WaitGroup
				for i := range sequences {
					stream, err := s.Submit(b.Context(), Request{Prompt: prompt(i, 30), MaxTokens: b.N})
					if err != nil {
						b.Fatal(err)
					}
					readers.Go(func() {
						if _, _, err := read(stream, 1); err != io.EOF {
							b.Error(err)
						}
					})
				}
				readers.Wait()
				st := s.Stats()
				b.ReportMetric(st.SamplingSeconds*1e9/float64(st.Steps), "sampling-ns/op")
				if err := s.Close(); err != nil {
					b.Error(err)
				}
			})
		}
	}
}
