package engine

import (
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/tensor"
)

// read goes on with the prompt after a source; each is called with how many tokens there are.
func (x *decoderTest) read(t *testing.T, source []int64, n int, each func(int)) ([]int64, route.Decision, error) {
	t.Helper()
	inputs, err := x.model.Feeds(models.Prepare, map[string]tensor.Tensor{models.InputIDs: tensor.Ints(tensor.Shape{1, int64(len(source))}, source...)})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := x.Submit(t.Context(), schedule.Request{Prompt: x.prompt, MaxTokens: n, Source: schedule.NewSource(inputs, len(source))})
	if err != nil {
		return nil, route.Decision{}, err
	}
	defer stream.Close()
	var out []int64
	for {
		token, err := stream.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return out, stream.Decision(), nil
		}
		if err != nil {
			return out, stream.Decision(), err
		}
		out = append(out, token.ID)
		if each != nil {
			each(len(out))
		}
	}
}

// prepared is how often Prepare is compiled now.
func (x *decoderTest) prepared() int {
	x.decoder.mu.Lock()
	defer x.decoder.mu.Unlock()
	return len(x.decoder.cross.placed)
}

// atRest is what the scheduler counts once it has seen to what was read to its end; a stream ends a little before.
func (x *decoderTest) atRest() schedule.Stats {
	for range 400 {
		if st := x.Stats(); st.Running+st.Waiting+st.Cross.Used+st.Cache.Used == 0 {
			return st
		}
		time.Sleep(5 * time.Millisecond)
	}
	return x.Stats()
}

func TestDecoderReadsSources(t *testing.T) {
	for _, tt := range []struct {
		name     string
		pools    PoolOptions
		static   bool
		prepared int // graphs of Prepare for sources of 35, 5, 6, 7 and 9 tokens
	}{
		{"pages of 16", PoolOptions{PageSize: 16, Useful: 512, UsefulRows: 512}, false, 1},
		{"pages of 1", PoolOptions{PageSize: 1, Useful: 512, UsefulRows: 512}, false, 1},
		{"static shapes", PoolOptions{PageSize: 16, Useful: 128, UsefulRows: 256}, true, 3}, // of 48, 8 and 16
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := simDevice("sim")
			dev.static = tt.static
			x := newDecoderTest(t, "t5", tt.pools, schedule.Options{}, dev)
			var others sync.WaitGroup
			for _, n := range []int{5, 6, 7, 9} {
				others.Go(func() {
					if _, _, err := x.read(t, x.source[:n], 3, nil); err != nil {
						t.Errorf("a source of %d: %v", n, err)
					}
				})
			}
			for range 2 {
				got, d, err := x.read(t, x.source, len(x.want), nil)
				if err != nil || !slices.Equal(got, x.want) || d.Chosen.Device != "sim:0" {
					t.Errorf("got %v, %v on %+v, want %v", got, err, d.Chosen, x.want)
				}
			}
			others.Wait()
			if n := x.prepared(); n != tt.prepared {
				t.Errorf("Prepare was compiled for %d sizes, wanted %d", n, tt.prepared)
			}
			st := x.atRest()
			if st.Encodings != 5 || st.Cross.Used != 0 || st.Cache.Used != 0 {
				t.Errorf("%d sources were read, %d of their pages and %d of texts are held", st.Encodings, st.Cross.Used, st.Cache.Used)
			}
		})
	}
}

// TestSourcesOutliveTheirDevice: what was read is lost with the device, and read again when it is
// back, or where the request goes then.
func TestSourcesOutliveTheirDevice(t *testing.T) {
	for _, tt := range []struct {
		name      string
		after     int   // tokens; 0: as the source is read
		deaths    int32 // in a row
		encodings uint64
	}{
		{"as it is read", 0, 1, 1},
		{"in the middle", 5, 1, 2},
		{"twice, the second time as it is read again", 5, 2, 2},
		{"at the last token but one", 14, 1, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := simDevice("sim")
			if tt.after == 0 {
				dev.die.Store(tt.deaths)
			}
			x := newDecoderTest(t, "t5", PoolOptions{PageSize: 4, Useful: 256, UsefulRows: 256}, schedule.Options{}, dev)
			got, d, err := x.read(t, x.source, len(x.want), func(n int) {
				if n == tt.after {
					dev.die.Store(tt.deaths)
				}
			})
			if err != nil || !slices.Equal(got, x.want) || len(d.Replays) != int(tt.deaths) {
				t.Errorf("got %v, %v after %d replays, want %v", got, err, len(d.Replays), x.want)
			}
			if st := x.atRest(); st.Encodings != tt.encodings || st.Losses != uint64(tt.deaths) || st.Cross.Used != 0 {
				t.Errorf("%d sources were read, %d losses, %d pages of sources are held", st.Encodings, st.Losses, st.Cross.Used)
			}
		})
	}
}

// TestPoolsShareMemory: pages for texts and for what they attend to, as far as either is of use.
func TestPoolsShareMemory(t *testing.T) {
	pool := func(row int64) []models.Pool { return []models.Pool{{DType: tensor.Float32, Row: tensor.Shape{row}}} }
	for _, tt := range []struct {
		name       string
		o          PoolOptions
		sources    bool
		own, cross int64
	}{
		{"said", PoolOptions{PageSize: 4, Pages: 7, CrossPages: 5}, true, 7, 5},
		{"said, too few", PoolOptions{PageSize: 4, Pages: 1}, true, 2, 2},
		{"no sources", PoolOptions{PageSize: 4, Pages: 7, CrossPages: 5}, false, 7, 0},
		// Pages of 4 tokens take 32 bytes, and of 4 rows 96: 3 and 6 of them are of use.
		{"what is of use", PoolOptions{PageSize: 4, Useful: 4, UsefulRows: 16}, true, 3, 6},
		{"bytes, divided alike", PoolOptions{PageSize: 4, Useful: 4, UsefulRows: 16, Bytes: 10 * (3*32 + 6*96)}, true, 30, 60},
		{"bytes of texts alone", PoolOptions{PageSize: 4, Useful: 4, Bytes: 320}, false, 10, 0},
		{"hardly any", PoolOptions{PageSize: 4, Useful: 4, UsefulRows: 16, Bytes: 1}, true, 2, 2},
	} {
		m := &models.Decoder{Pools: pool(2)}
		if tt.sources {
			m.Cross = &models.Cross{Pools: pool(6)}
		}
		x := &decoder{runner: &Runner{keeper: newKeeper(0, hclog.NewNullLogger())}, model: m, o: tt.o}
		if own, cross := x.fitting(backend.Device{}); own != tt.own || cross != tt.cross {
			t.Errorf("%s: %d and %d pages, wanted %d and %d", tt.name, own, cross, tt.own, tt.cross)
		}
	}
}
