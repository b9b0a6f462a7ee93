package schedule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestStorm: many clients that come and go, a device that dies now and then and that others want, and too few pages. Whatever
// ends well says what it would say alone, and in the end nothing is held.
func TestStorm(t *testing.T) {
	for _, window := range []int{0, 20} {
		t.Run(fmt.Sprint("window ", window), func(t *testing.T) {
			f := newFake(40, 4)
			f.geometry.Window = window
			var seed atomic.Uint64
			dice := rand.New(rand.NewPCG(1, uint64(window)))
			f.wanted = make(chan struct{}, 1)
			f.stepErr = func(n int, s *Step) error {
				if dice.IntN(60) == 0 {
					f.want()
				}
				if dice.IntN(60) == 0 {
					return lost("struck by lightning")
				}
				return nil
			}
			f.swapErr = func(bool) error {
				switch dice.IntN(40) {
				case 0:
					return lost("struck while it moved pages")
				case 1:
					return errors.New("no memory")
				}
				return nil
			}
			s := start(t, f, Options{StepTokens: 16, MaxSequences: 10, SwapBytes: 20 << 20})
			var ended, cancelled, poisoned atomic.Int64
			client := func(id int) {
				r := rand.New(rand.NewPCG(seed.Add(1), 7))
				for i := range 12 {
					q := Request{ID: fmt.Sprint(id, ".", i), Prompt: prompt(r.IntN(3), 1+r.IntN(50)), MaxTokens: 1 + r.IntN(40), N: 1 + r.IntN(3)*r.IntN(2),
						Priority: r.IntN(3) - 1, Salt: fmt.Sprint(r.IntN(2)),
						Sampling: Sampling{Temperature: 1, TopK: 20, Seed: r.Uint64(), Deterministic: r.IntN(6) == 0}}
					ctx, cancel := context.WithCancel(t.Context())
					if r.IntN(4) == 0 {
						ctx, cancel = context.WithTimeout(t.Context(), time.Duration(r.IntN(3000))*time.Microsecond)
					}
					stream, err := s.Submit(ctx, q)
					if err == nil {
						var texts [][]int64
						texts, _, err = read(stream, q.N)
						for c := range q.N {
							want := oracle(t, f, q, c)
							if n := len(texts[c]); n > len(want) || !slices.Equal(texts[c], want[:n]) || err == io.EOF && n < len(want) {
								t.Errorf("%s, choice %d (%v): %v, want %v", q.ID, c, err, texts[c], want)
							}
						}
					}
					var p *PoisonedError
					switch {
					case err == io.EOF:
						ended.Add(1)
					case errors.Is(err, context.DeadlineExceeded):
						cancelled.Add(1)
					case errors.As(err, &p) && len(p.Deaths) >= 3:
						poisoned.Add(1)
					default:
						t.Errorf("%s: %v", q.ID, err)
					}
					cancel()
				}
			}
			var clients sync.WaitGroup
			for id := range 16 {
				clients.Go(func() { client(id) })
			}
			clients.Wait()
			st := settled(t, s, f)
			if ended.Load() < 100 || st.Losses == 0 || st.Rests == 0 || st.PreemptedSwap+st.PreemptedAnew == 0 || st.Cache.Hit < st.CachedTokens {
				t.Errorf("%d ended well: %+v", ended.Load(), st)
			}
			t.Logf("%d ended well, %d were cancelled, %d poisoned: %+v", ended.Load(), cancelled.Load(), poisoned.Load(), st)
		})
	}
}
