package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// decoderWays are the ways in which a text is generated, all to the same tokens and logits.
var decoderWays = []struct {
	name     string
	pools    engine.PoolOptions
	schedule schedule.Options
	copies   int  // of the request at the same time
	again    bool // once more, with what the first left in the cache
	crowd    bool // others beside it
	// happened reports whether the way was really gone.
	happened func(*schedule.Stats) bool
}{
	{name: "pages of 16", pools: engine.PoolOptions{PageSize: 16, Pages: 16}},
	{name: "pages of 4", pools: engine.PoolOptions{PageSize: 4, Pages: 64}},
	{name: "pages of 1", pools: engine.PoolOptions{PageSize: 1, Pages: 128}},
	{name: "chunks of 3", pools: engine.PoolOptions{PageSize: 16, Pages: 16}, schedule: schedule.Options{StepTokens: 3}},
	{name: "beside others", pools: engine.PoolOptions{PageSize: 4, Pages: 128}, crowd: true},
	{name: "a shared prefix", pools: engine.PoolOptions{PageSize: 4, Pages: 64}, again: true,
		happened: func(s *schedule.Stats) bool { return s.CachedTokens > 0 }},
	// Pages for one and a half of the three.
	{name: "swapped", pools: engine.PoolOptions{PageSize: 4, Pages: 13}, schedule: schedule.Options{Preemption: schedule.PreemptSwap, SwapBytes: 1 << 30}, copies: 3,
		happened: func(s *schedule.Stats) bool { return s.PreemptedSwap > 0 }},
	{name: "recomputed", pools: engine.PoolOptions{PageSize: 4, Pages: 13}, schedule: schedule.Options{Preemption: schedule.PreemptRecompute}, copies: 3,
		happened: func(s *schedule.Stats) bool { return s.PreemptedAnew > 0 }},
}

// decoderGolden is what a folder records of a decoder.
type decoderGolden struct {
	prompt, tokens []int64
	steps          []float32                // [up to tokens, vocabulary]
	texts          map[string]*decoderTexts // by case
}

// decoderTexts are texts with the logits of all their tokens.
type decoderTexts struct {
	ids, mask []int64   // [batch, sequence]; mask nil: all ones
	logits    []float32 // [batch, sequence, vocabulary]
	batch     int
}

func loadDecoder(path string, vocabulary int) (*decoderGolden, error) {
	st, err := checkpoint.OpenSafetensors(path)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	ints := func(name string) []int64 {
		t, e := st.Tensor(name)
		if e != nil || t.DType != tensor.Int64 {
			err = errors.Join(err, fmt.Errorf("%s: %s is not there as int64", path, name))
			return nil
		}
		return slices.Clone(tensor.View[int64](t.Aligned()))
	}
	floats := func(name string) []float32 {
		t, e := st.Tensor(name)
		if e != nil || t.DType != tensor.Float32 {
			err = errors.Join(err, fmt.Errorf("%s: %s is not there as float32", path, name))
			return nil
		}
		return slices.Clone(tensor.View[float32](t.Aligned()))
	}
	g := &decoderGolden{prompt: ints("in.gen.input_ids"), tokens: ints("out.gen.token_ids"), steps: floats("out.gen.step_logits"), texts: map[string]*decoderTexts{}}
	if _, ok := st.Entry("out.gen.prefill_logits"); ok {
		g.texts["prefill"] = &decoderTexts{ids: g.prompt, logits: floats("out.gen.prefill_logits"), batch: 1}
	}
	for _, c := range []string{"leftpad", "rightpad"} {
		if _, ok := st.Entry("out." + c + ".logits"); ok {
			e, _ := st.Entry("in." + c + ".input_ids")
			g.texts[c] = &decoderTexts{ids: ints("in." + c + ".input_ids"), mask: ints("in." + c + ".attention_mask"), logits: floats("out." + c + ".logits"), batch: int(e.Shape[0])}
		}
	}
	if err != nil {
		return nil, err
	}
	if rows := len(g.steps) / vocabulary; rows == 0 || rows > len(g.tokens) || len(g.steps) != rows*vocabulary || len(g.prompt) == 0 {
		return nil, fmt.Errorf("%s: %d logits for %d tokens of a vocabulary of %d", path, len(g.steps), len(g.tokens), vocabulary)
	}
	for name, c := range g.texts {
		if len(c.logits) != len(c.ids)*vocabulary || c.mask != nil && len(c.mask) != len(c.ids) || len(c.ids)%c.batch != 0 {
			return nil, fmt.Errorf("%s: case %s: %d logits for %d tokens of a vocabulary of %d", path, name, len(c.logits), len(c.ids), vocabulary)
		}
	}
	return g, nil
}

// runDecoder holds a decoder against its golden in every way that tokens are generated.
func runDecoder(ctx context.Context, s *engine.Session, res *Result, tolerance float64) error {
	v := int(s.Model.Decoder.VocabSize)
	g, err := loadDecoder(filepath.Join(s.Path, goldenFile), v)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(g.texts) {
		if err := g.texts[name].verify(ctx, s, res, name, v, tolerance); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for i := range decoderWays {
		if err := generate(ctx, s, g, i, res, tolerance); err != nil {
			return fmt.Errorf("%s: %w", decoderWays[i].name, err)
		}
	}
	n := int64(len(g.prompt))
	cost, err := s.CostAt(map[string]int64{models.Tokens: n, models.Sequences: 1, models.SequencesOne: 2, models.PagesEach: 1, models.Selected: 1, models.Pages: 2, models.PageSize: 16})
	if err != nil {
		return err
	}
	platform, _, _ := strings.Cut(res.Device, ":")
	res.Placed = map[string]engine.Cost{platform: cost}
	return nil
}

// verify runs the texts side by side in one step and compares the logits of every token.
func (c *decoderTexts) verify(ctx context.Context, s *engine.Session, res *Result, name string, v int, tolerance float64) (err error) {
	const pageSize = 16
	x := s.Decoder(engine.PoolOptions{PageSize: pageSize, Pages: int64(1 + len(c.ids))})
	defer func() { err = errors.Join(err, x.Close()) }()
	var d route.Decision
	if _, err := x.Open(ctx, &d); err != nil {
		return err
	}
	res.Device, res.Kind = d.Chosen.Device, d.Chosen.Kind
	width := len(c.ids) / c.batch
	each := (width + pageSize - 1) / pageSize
	st := &schedule.Step{Starts: []int64{0}, PageWidth: each}
	var want []float32
	page := int64(1)
	for b := range c.batch {
		first, position := page, int64(0)
		for range each {
			st.PageTables = append(st.PageTables, page)
			page++
		}
		for i := b * width; i < (b+1)*width; i++ {
			if c.mask != nil && c.mask[i] == 0 {
				continue
			}
			st.Select = append(st.Select, int64(len(st.InputIDs)))
			st.InputIDs, st.Positions = append(st.InputIDs, c.ids[i]), append(st.Positions, position)
			st.Slots = append(st.Slots, first*pageSize+position)
			position++
			want = append(want, c.logits[i*v:(i+1)*v]...)
		}
		st.Lengths, st.Starts = append(st.Lengths, position), append(st.Starts, int64(len(st.InputIDs)))
		st.Sequences = append(st.Sequences, schedule.Member{Request: name})
	}
	got, err := x.Step(ctx, st)
	if err != nil {
		return err
	}
	res.Outputs = append(res.Outputs, compareRows(name+".logits", got, want, v, tolerance))
	return nil
}

// compareRows compares logits [n, v].
func compareRows(name string, got, want []float32, v int, tolerance float64) Output {
	shape := tensor.Shape{int64(len(want) / v), int64(v)}
	if len(got) != len(want) {
		return Output{Name: name, Tolerance: tolerance, Problem: fmt.Sprintf("%d rows were computed, %d are recorded", len(got)/v, len(want)/v)}
	}
	out := compareValues(graph.TensorDatum(tensor.Floats(shape, got...)), graph.TensorDatum(tensor.Floats(shape, want...)), tensor.Tensor{}, tolerance)
	out.Name = name
	return out
}

// listener keeps the logits that requests draw from, by request and position.
type listener struct {
	schedule.Executor
	vocabulary int
	rows       map[string]map[int64][]float32
}

func (l *listener) Step(ctx context.Context, s *schedule.Step) ([]float32, error) {
	logits, err := l.Executor.Step(ctx, s)
	if err != nil {
		return nil, err
	}
	for i, row := range s.Select {
		b := 0
		for s.Starts[b+1] <= row {
			b++
		}
		id := s.Sequences[b].Request
		if l.rows[id] == nil {
			l.rows[id] = map[int64][]float32{}
		}
		l.rows[id][s.Positions[row]] = slices.Clone(logits[i*l.vocabulary : (i+1)*l.vocabulary])
	}
	return logits, nil
}

// generate generates the recorded tokens in one way.
func generate(ctx context.Context, s *engine.Session, g *decoderGolden, way int, res *Result, tolerance float64) (err error) {
	w := &decoderWays[way]
	v := int(s.Model.Decoder.VocabSize)
	l := &listener{Executor: s.Decoder(w.pools), vocabulary: v, rows: map[string]map[int64][]float32{}}
	o := w.schedule
	o.Vocabulary = v
	sched, err := schedule.New(l, o)
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, sched.Close())
		}
	}()
	type asked struct {
		id     string
		stream *schedule.Stream
	}
	submit := func(id string, prompt []int64, n int, salt string) (asked, error) {
		stream, err := sched.Submit(ctx, schedule.Request{ID: id, Prompt: prompt, MaxTokens: n, Salt: salt})
		return asked{id, stream}, err
	}
	read := func(a asked) ([]int64, error) {
		defer a.stream.Close()
		var ids []int64
		for {
			t, err := a.stream.Next(ctx)
			if errors.Is(err, io.EOF) {
				d := a.stream.Decision()
				res.Device, res.Kind = d.Chosen.Device, d.Chosen.Kind
				return ids, nil
			}
			if err != nil {
				return nil, err
			}
			ids = append(ids, t.ID)
		}
	}
	var others []asked
	if w.crowd {
		for i := range 3 {
			a, err := submit(fmt.Sprint("other ", i), g.prompt[:min(3+2*i, len(g.prompt))], 6+i, "")
			if err != nil {
				return err
			}
			others = append(others, a)
		}
	}
	texts := map[string][]int64{}
	for round := range 2 {
		var these []asked
		for i := range max(1, w.copies) {
			// Copies share nothing, so that together they need more pages than there are.
			a, err := submit(fmt.Sprint(round, ".", i), g.prompt, len(g.tokens), fmt.Sprint(i))
			if err != nil {
				return err
			}
			these = append(these, a)
		}
		for _, a := range these {
			if texts[a.id], err = read(a); err != nil {
				return err
			}
		}
		if !w.again {
			break
		}
	}
	for _, a := range others {
		if _, err := read(a); err != nil {
			return err
		}
	}
	stats := sched.Stats()
	closed = true
	if err := sched.Close(); err != nil { // and l is no longer in use
		return err
	}
	for _, id := range sortedKeys(texts) {
		var got []float32
		for i := range len(g.steps) / v {
			got = append(got, l.rows[id][int64(len(g.prompt)-1+i)]...)
		}
		name := w.name
		if id != "0.0" {
			name += " (" + id + ")"
		}
		out := compareRows(name+".step_logits", got, g.steps, v, tolerance)
		switch {
		case !slices.Equal(texts[id], g.tokens):
			out.OK, out.Problem = false, fmt.Sprintf("the tokens are %v, recorded are %v", texts[id], g.tokens)
		case w.happened != nil && !w.happened(&stats):
			out.OK, out.Problem = false, fmt.Sprintf("this way was not gone: %+v", stats)
		}
		res.Outputs = append(res.Outputs, out)
	}
	return nil
}
