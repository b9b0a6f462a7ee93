package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/lower"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// decoderTest is a scheduler over a tiny model on devices of a pieceFleet.
type decoderTest struct {
	*schedule.Scheduler
	decoder      *decoder
	model        *models.Model
	devices      []*pieceDevice
	prompt, want []int64
	source       []int64 // what the prompt attends to; nil: nothing
}

func newDecoderTest(t *testing.T, name string, o PoolOptions, so schedule.Options, devices ...*pieceDevice) *decoderTest {
	t.Helper()
	dir := filepath.Join("..", "..", "testdata", "tiny", name)
	if _, err := os.Stat(dir); err != nil {
		dir = testfiles.Shared(t, "tiny", name)
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	m, err := models.Load(ck, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := m.Component(models.Decode)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := ck.Identity()
	if err != nil {
		t.Fatal(err)
	}
	store, err := lower.OpenStore(t.TempDir(), 0, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range devices {
		platforms = append(platforms, d.Platform)
	}
	q := route.Query{Model: name, Policy: route.Warn, Platforms: platforms, RestartWait: time.Second}
	fleet, kept := &pieceFleet{devices: devices}, newKeeper(0, hclog.NewNullLogger())
	runner := func(g *graph.Model, paddable ...string) *Runner {
		return newRunner(fleet, store, lower.Source{Graph: g, Dir: dir, Identity: identity}, paddable, q, kept, hclog.NewNullLogger())
	}
	r := runner(g)
	var prepare *Runner
	if m.Decoder.Cross != nil {
		g, err := m.Component(models.Prepare)
		if err != nil {
			t.Fatal(err)
		}
		prepare, so.Sources = runner(g, models.Sequence), true
	}
	so.Vocabulary = int(m.Decoder.VocabSize)
	x := &decoderTest{decoder: newDecoder(r, prepare, m.Decoder, o), model: m, devices: devices}
	s, err := schedule.New(x.decoder, so)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	x.Scheduler = s
	recorded := map[string]*[]int64{"in.gen.input_ids": &x.prompt, "out.gen.token_ids": &x.want}
	if prepare != nil {
		recorded = map[string]*[]int64{"in.gen.decoder_input_ids": &x.prompt, "in.gen.input_ids": &x.source, "out.gen.token_ids": &x.want}
	}
	for name, to := range recorded {
		v, err := golden.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		*to = slices.Clone(tensor.View[int64](v.Aligned()))
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		r.Close()
		if prepare != nil {
			prepare.Close()
		}
		for _, d := range devices {
			if n, b, lent := d.open.Load(), d.buffers.Load(), d.lent.Load()-d.released.Load(); n != 0 || b != 0 || lent != 0 {
				t.Errorf("%s: %d executables, %d buffers and %d results were never given back", d.Ref, n, b, lent)
			}
		}
	})
	return x
}

// greedy generates as many tokens as the golden has.
func (x *decoderTest) greedy(t *testing.T, prompt []int64, n int) ([]int64, route.Decision, error) {
	t.Helper()
	stream, err := x.Submit(t.Context(), schedule.Request{Prompt: prompt, MaxTokens: n})
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
	}
}

func simDevice(platform string) *pieceDevice {
	return &pieceDevice{Device: route.Device{Platform: platform, Ref: platform + ":0", Kind: backend.Simulated}}
}

func TestDecoderGoldens(t *testing.T) {
	for _, name := range []string{"llama", "llama_rope3", "qwen2", "qwen3"} {
		for _, tt := range []struct {
			name   string
			pools  PoolOptions
			so     schedule.Options
			static bool
			crowd  int // others that run beside
		}{
			{name: "pages of 16", pools: PoolOptions{PageSize: 16, Useful: 512}},
			{name: "pages of 1, chunks of 3", pools: PoolOptions{PageSize: 1, Useful: 512}, so: schedule.Options{StepTokens: 3}},
			{name: "beside others", pools: PoolOptions{PageSize: 4, Useful: 512}, crowd: 5},
			{name: "static shapes", pools: PoolOptions{PageSize: 16, Useful: 64}, static: true, crowd: 1},
		} {
			t.Run(name+"/"+tt.name, func(t *testing.T) {
				dev := simDevice("sim")
				dev.static = tt.static
				x := newDecoderTest(t, name, tt.pools, tt.so, dev)
				var others sync.WaitGroup
				for i := range tt.crowd {
					others.Go(func() {
						if _, _, err := x.greedy(t, x.prompt[i%3:4+i%3], 5+i); err != nil {
							t.Error(err)
						}
					})
				}
				got, d, err := x.greedy(t, x.prompt, len(x.want))
				others.Wait()
				if err != nil || !slices.Equal(got, x.want) {
					t.Errorf("got %v, %v, want %v", got, err, x.want)
				}
				if d.Chosen.Device != "sim:0" || d.Chosen.Kind != backend.Simulated {
					t.Errorf("the answer says that it is from %+v", d.Chosen)
				}
			})
		}
	}
}

func TestDecoderPreempts(t *testing.T) {
	for _, how := range []schedule.Preemption{schedule.PreemptSwap, schedule.PreemptRecompute} {
		t.Run(string(how), func(t *testing.T) {
			// Room for about one and a half sequences.
			x := newDecoderTest(t, "llama", PoolOptions{PageSize: 1, Useful: 1 << 20, Bytes: 40 * 384}, schedule.Options{Preemption: how, SwapBytes: 1 << 30}, simDevice("sim"))
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					got, _, err := x.greedy(t, x.prompt, len(x.want))
					if err != nil || !slices.Equal(got, x.want) {
						t.Errorf("got %v, %v, want %v", got, err, x.want)
					}
				})
			}
			all.Wait()
			st := x.Stats()
			t.Logf("%+v", st)
			if how == schedule.PreemptSwap && (st.PreemptedSwap == 0 || x.devices[0].read.Load() == 0) || how == schedule.PreemptRecompute && st.PreemptedAnew == 0 {
				t.Errorf("nothing was preempted: %+v", st)
			}
		})
	}
}

func TestDecoderOutlivesItsDevice(t *testing.T) {
	for _, tt := range []struct {
		name   string
		deaths int32
		first  string // of two devices, that answers; empty: an error
		solos  bool
	}{
		{"one death", 1, "sim:0", false},
		{"three deaths: it runs alone", 3, "sim:0", true},
		{"four deaths: it is refused", 4, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dev := simDevice("sim")
			dev.die.Store(tt.deaths)
			x := newDecoderTest(t, "qwen3", PoolOptions{PageSize: 4, Useful: 256}, schedule.Options{}, dev)
			got, d, err := x.greedy(t, x.prompt, len(x.want))
			if (dev.solos.Load() > 0) != tt.solos {
				t.Errorf("it ran alone %d times", dev.solos.Load())
			}
			if tt.first == "" {
				var poisoned *schedule.PoisonedError
				if !errors.As(err, &poisoned) || len(poisoned.Deaths) != 4 {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil || !slices.Equal(got, x.want) || d.Chosen.Device != tt.first || len(d.Replays) != int(tt.deaths) {
				t.Errorf("got %v, %v on %+v after %d replays, want %v", got, err, d.Chosen, len(d.Replays), x.want)
			}
		})
	}
}

func TestDecoderGoesElsewhere(t *testing.T) {
	first, second := simDevice("gpu"), simDevice("cpu")
	first.compile = func(backend.CompileSpec) error { return backend.Unsupported("no decoders here") }
	x := newDecoderTest(t, "llama", PoolOptions{PageSize: 4, Useful: 256}, schedule.Options{}, first, second)
	got, d, err := x.greedy(t, x.prompt, len(x.want))
	if err != nil || !slices.Equal(got, x.want) {
		t.Fatalf("got %v, %v, want %v", got, err, x.want)
	}
	if !d.Fallback() || !strings.Contains(d.Summary(), "no decoders here") {
		t.Errorf("the record says %q", d.Summary())
	}
}

func TestDecoderTakesThePagesThereAre(t *testing.T) {
	dev := simDevice("sim")
	dev.memory = 300 << 10
	x := newDecoderTest(t, "llama", PoolOptions{PageSize: 4, Useful: 1 << 14}, schedule.Options{}, dev)
	got, _, err := x.greedy(t, x.prompt, len(x.want))
	if err != nil || !slices.Equal(got, x.want) {
		t.Fatalf("got %v, %v, want %v", got, err, x.want)
	}
	if st := x.Stats().Cache; st.Pages < 10 || st.Pages > 1<<12 {
		t.Errorf("there are %d pages", st.Pages)
	}
}

func TestStepSizes(t *testing.T) {
	for n, want := range map[int64]int64{1: 1, 7: 7, 16: 16, 17: 18, 33: 36, 64: 64, 65: 72, 500: 512, 512: 512} {
		if got := stepSize(n); got != want {
			t.Errorf("a step of %d is run as %d, want %d", n, got, want)
		}
	}
	x := &decoder{o: PoolOptions{PageSize: 1}, model: &models.Decoder{Cross: &models.Cross{}, Embeds: 3}}
	for _, z := range []sizes{{}, {1, 1, 1, 1, 1, 0}, {300, 3, 2, 3, 9, 20}, {17, 17, 3, 17, 8, 1}} {
		var f frame
		starts := make([]int64, z.sequences+1)
		starts[z.sequences] = z.tokens
		f.fill(&schedule.Step{InputIDs: make([]int64, z.tokens), Positions: make([]int64, z.tokens), Slots: make([]int64, z.tokens), PageWidth: int(z.pagesEach),
			PageTables: slices.Repeat([]int64{7}, int(z.sequences*z.pagesEach)), Lengths: make([]int64, z.sequences), Starts: starts, Select: make([]int64, z.selected),
			CrossWidth: int(z.crossEach), CrossTables: slices.Repeat([]int64{7}, int(z.sequences*z.crossEach)), CrossLengths: make([]int64, z.sequences), EmbedRows: make([]float32, 3*z.embeds)})
		p := x.padded(z)
		f.pad(p, 1, 3)
		if int64(len(f.crossLengths)) != p.sequences || int64(len(f.cross.pages)) != p.sequences*p.crossEach || int64(len(f.embedIndex)) != p.tokens {
			t.Errorf("%+v: %d lengths of sources, %d pages in their tables and %d indices, planned is %+v", z, len(f.crossLengths), len(f.cross.pages), len(f.embedIndex), p)
		}
		if got := (sizes{int64(len(f.ids)), int64(len(f.lengths)), f.tables.width, int64(len(f.selected)), f.cross.width, int64(len(f.embedRows)) / 3}); got != p || int64(len(f.tables.pages)) != p.sequences*p.pagesEach {
			t.Errorf("%+v is padded to %+v with %d places in the tables, planned is %+v", z, got, len(f.tables.pages), p)
		}
		if n := len(f.starts); int64(n) != p.sequences+1 || f.starts[n-1] != p.tokens {
			t.Errorf("%+v: starts end %v, there are %d tokens", z, f.starts, p.tokens)
		}
		for r := range p.sequences {
			for c, v := range f.tables.pages[r*p.pagesEach : (r+1)*p.pagesEach] {
				if want := map[bool]int64{true: 7}[r < z.sequences && int64(c) < z.pagesEach]; v != want {
					t.Fatalf("%+v: table %d has %d at %d, want %d", z, r, v, c, want)
				}
			}
		}
	}
}
