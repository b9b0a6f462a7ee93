package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

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
	pools    engine.PoolOptions // without Pages: too few for all copies at once
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
		happened: func(s *schedule.Stats) bool { return s.CachedTokens > 0 || s.Cross.Hit > 0 }},
	{name: "swapped", pools: engine.PoolOptions{PageSize: 4}, schedule: schedule.Options{Preemption: schedule.PreemptSwap, SwapBytes: 1 << 30}, copies: 3,
		happened: func(s *schedule.Stats) bool { return s.PreemptedSwap > 0 }},
	{name: "recomputed", pools: engine.PoolOptions{PageSize: 4}, schedule: schedule.Options{Preemption: schedule.PreemptRecompute}, copies: 3,
		happened: func(s *schedule.Stats) bool { return s.PreemptedAnew > 0 }},
}

// decoderText is one text with what is recorded of its tokens from the first on.
type decoderText struct {
	ids    []int64
	source *schedule.Source
	embeds []schedule.Embed
	rows   []float32 // [tokens, width], what is recorded of them
}

// decoderGolden is what a folder records of a decoder.
type decoderGolden struct {
	prompt decoderText // and its logits, where they are recorded
	tokens []int64
	steps  []float32 // [up to tokens, vocabulary]
	cases  []decoderCase
}

// decoderCase is texts that are run side by side, and what is recorded of their tokens.
type decoderCase struct {
	name   string // with a dot behind it; empty: it has none
	output string
	width  int
	texts  []decoderText
	open   func(engine.PoolOptions) (schedule.Executor, error)
}

// runDecoder holds a decoder against its golden in every way that tokens are generated, and the
// model's other components against what is recorded of them.
func runDecoder(ctx context.Context, s *engine.Session, golden string, res *Result, opts Options) error {
	v := int(s.Model.Decoder.VocabSize)
	tests, err := loadGolden(golden, nil)
	if err != nil {
		return err
	}
	g := &decoderGolden{}
	for _, t := range tests {
		if err := g.add(ctx, s, t, res, opts); err != nil {
			return fmt.Errorf("case %q of %s: %w", t.name, golden, err)
		}
	}
	if len(g.tokens) == 0 {
		return fmt.Errorf("%s records no generated tokens: it has no out.gen.token_ids", golden)
	}
	for i := range g.cases {
		if c := &g.cases[i]; len(c.texts) > 0 {
			if err := verifyTexts(ctx, s, res, c, opts.Tolerance); err != nil {
				return fmt.Errorf("%s%s: %w", c.name, c.output, err)
			}
		}
	}
	for i := range decoderWays {
		if opts.Outputs {
			break
		}
		if err := generate(ctx, s, g, i, res, opts.Tolerance); err != nil {
			return fmt.Errorf("%s: %w", decoderWays[i].name, err)
		}
	}
	cost, err := s.CostAt(s.Model.Decoder.StepSizes(int64(len(g.prompt.ids))))
	if err != nil {
		return err
	}
	if len(g.steps) != len(g.tokens)*v && len(g.steps)%v != 0 {
		return fmt.Errorf("%s: %d logits for %d tokens of a vocabulary of %d", s.Path, len(g.steps), len(g.tokens), v)
	}
	platform, _, _ := strings.Cut(res.Device, ":")
	sum := res.Placed[platform]
	res.Placed = map[string]engine.Cost{platform: {Nodes: sum.Nodes + cost.Nodes, FLOPs: sum.FLOPs + cost.FLOPs}}
	return nil
}

// add takes one recorded case in, and runs the components that it records outputs of.
func (g *decoderGolden) add(ctx context.Context, s *engine.Session, t test, res *Result, opts Options) error {
	rest := map[string]tensor.Tensor{}
	for _, o := range t.outputs {
		rest[o.name] = o.value.Tensor
	}
	for _, c := range s.Model.Components {
		if c.Name == models.Decode || c.Name == models.Hidden || c.Name == models.Prepare || c.Name == models.See {
			continue
		}
		part := test{name: t.name, inputs: map[string]graph.Datum{}}
		for _, o := range t.outputs {
			if slices.ContainsFunc(c.Graph.Graph.Outputs, func(v *graph.Value) bool { return v.Name == o.name }) {
				part.outputs = append(part.outputs, o)
				delete(rest, o.name)
			}
		}
		if len(part.outputs) == 0 {
			continue
		}
		for _, in := range c.Graph.Graph.Inputs {
			if v, ok := t.inputs[in.Name]; ok {
				part.inputs[in.Name] = v
			}
		}
		p, err := s.Part(c.Name)
		if err != nil {
			return err
		}
		if err := runTest(ctx, p, part, res, opts); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	take := func(name string) []float32 {
		v, ok := rest[name]
		delete(rest, name)
		if !ok || v.DType != tensor.Float32 {
			return nil
		}
		return slices.Clone(tensor.View[float32](v.Aligned()))
	}
	texts, err := textsOf(s, t)
	if err != nil {
		return err
	}
	if s.Model.Pictures != nil {
		delete(rest, imageFeatures)
		seen, err := see(ctx, s, t, res, opts.Tolerance)
		if err == nil {
			err = show(s.Model.Pictures, texts, seen)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range []string{models.Logits, "prefill_logits", models.LastHiddenState} {
		rows, width := take(name), int(s.Model.Decoder.VocabSize)
		if rows == nil {
			continue
		}
		c := decoderCase{name: t.name, output: name, open: s.Decoder}
		if c.name != "" {
			c.name += "."
		}
		switch name {
		case "prefill_logits":
			c.name, c.output = "prefill.", models.Logits
		case models.LastHiddenState:
			width, c.open = int(s.Model.Decoder.Hidden), s.Hidden
		}
		if c.texts, err = withRows(texts, t, rows, width); err != nil {
			return err
		}
		c.width = width
		g.cases = append(g.cases, c)
	}
	if tokens, ok := rest["token_ids"]; ok {
		delete(rest, "token_ids")
		if len(texts) != 1 || tokens.DType != tensor.Int64 {
			return fmt.Errorf("%d texts with tokens of type %s, wanted one and int64", len(texts), tokens.DType)
		}
		g.prompt, g.tokens, g.steps = texts[0], slices.Clone(tensor.View[int64](tokens.Aligned())), take("step_logits")
	}
	if len(rest) > 0 {
		return fmt.Errorf("it records %s, and the model gives no such output", strings.Join(sortedKeys(rest), ", "))
	}
	return nil
}

// tokensOf are a case's texts of the decoder, [batch, sequence], and which of their places count.
func tokensOf(s *engine.Session, t test) (ids, mask tensor.Tensor, err error) {
	names := []string{"input_ids", "attention_mask"}
	if s.Model.Decoder.Cross != nil {
		names = []string{"decoder_input_ids", "decoder_attention_mask"}
	}
	ids, mask = t.inputs[names[0]].Tensor, t.inputs[names[1]].Tensor
	if ids.DType != tensor.Int64 || len(ids.Shape) != 2 {
		return ids, mask, fmt.Errorf("%s is not there as int64 [batch, sequence]", names[0])
	}
	if mask.Data != nil && (mask.DType != tensor.Int64 || !mask.Shape.Equal(ids.Shape)) {
		return ids, mask, fmt.Errorf("%s is %s%v, wanted int64%v", names[1], mask.DType, mask.Shape, ids.Shape)
	}
	return ids, mask, nil
}

// counted calls f with each place of a text that counts.
func counted(ids, mask tensor.Tensor, text int, f func(at int)) {
	width := int(ids.Shape[1])
	for i := text * width; i < (text+1)*width; i++ {
		if mask.Data == nil || tensor.View[int64](mask.Aligned())[i] != 0 {
			f(i)
		}
	}
}

// textsOf are a case's texts without padding, with what each attends to.
func textsOf(s *engine.Session, t test) ([]decoderText, error) {
	ids, mask, err := tokensOf(s, t)
	if err != nil {
		return nil, err
	}
	texts := make([]decoderText, ids.Shape[0])
	for b := range texts {
		counted(ids, mask, b, func(at int) { texts[b].ids = append(texts[b].ids, tensor.View[int64](ids.Aligned())[at]) })
		if s.Model.Decoder.Cross != nil {
			if texts[b].source, err = sourceOf(s.Model.Decoder.Cross, t, b); err != nil {
				return nil, err
			}
		}
	}
	return texts, nil
}

// sourceOf is what text b of a case attends to, without padding.
func sourceOf(c *models.Cross, t test, b int) (*schedule.Source, error) {
	inputs, rows := map[string]tensor.Tensor{}, int(c.Rows)
	for _, name := range c.Inputs {
		v := t.inputs[name].Tensor
		switch {
		case len(v.Shape) == 0 || int64(b) >= v.Shape[0]:
			return nil, fmt.Errorf("%s is not there for text %d", name, b)
		case c.Rows == 0:
			text, mask := t.inputs[c.Inputs[0]].Tensor, t.inputs["attention_mask"].Tensor
			var values []int64
			counted(text, mask, b, func(at int) { values = append(values, tensor.View[int64](v.Aligned())[at]) })
			inputs[name], rows = tensor.Ints(tensor.Shape{1, int64(len(values))}, values...), len(values)
		default:
			size := len(v.Data) / int(v.Shape[0])
			shape := append(tensor.Shape{1}, v.Shape[1:]...)
			inputs[name] = tensor.Tensor{DType: v.DType, Shape: shape, Data: slices.Clone(v.Data[b*size : (b+1)*size])}.Aligned()
		}
	}
	return schedule.NewSource(inputs, rows), nil
}

// withRows gives texts what is recorded of their tokens, [batch, sequence, width].
func withRows(texts []decoderText, t test, rows []float32, width int) ([]decoderText, error) {
	out := slices.Clone(texts)
	var ids, mask tensor.Tensor
	for _, name := range []string{"decoder_input_ids", "input_ids"} {
		if ids = t.inputs[name].Tensor; ids.Data != nil {
			mask = t.inputs[strings.TrimSuffix(name, "input_ids")+"attention_mask"].Tensor
			break
		}
	}
	if len(rows) != ids.Len()*width {
		return nil, fmt.Errorf("%d numbers are recorded for %d tokens with rows of %d", len(rows), ids.Len(), width)
	}
	for b := range out {
		counted(ids, mask, b, func(at int) { out[b].rows = append(out[b].rows, rows[at*width:(at+1)*width]...) })
	}
	return out, nil
}

// verifyTexts runs a case's texts side by side in one step and compares what comes of every token.
func verifyTexts(ctx context.Context, s *engine.Session, res *Result, c *decoderCase, tolerance float64) (err error) {
	const pageSize = 16
	pagesFor := func(n int) int { return (n + pageSize - 1) / pageSize }
	each, crossEach, o := 0, 0, engine.PoolOptions{PageSize: pageSize, Pages: 1, CrossPages: 1}
	for _, t := range c.texts {
		each = max(each, pagesFor(len(t.ids)))
		if t.source != nil {
			crossEach = max(crossEach, pagesFor(t.source.Rows))
		}
	}
	o.Pages += int64(each * len(c.texts))
	o.CrossPages += int64(crossEach * len(c.texts))
	x, err := c.open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	var d route.Decision
	if _, err := x.Open(ctx, &d); err != nil {
		return err
	}
	res.Device, res.Kind = d.Chosen.Device, d.Chosen.Kind
	st := &schedule.Step{Starts: []int64{0}, PageWidth: each, CrossWidth: crossEach}
	var want []float32
	for b, t := range c.texts {
		first, crossFirst := int64(1+b*each), int64(1+b*crossEach)
		for i := range int64(each) {
			st.PageTables = append(st.PageTables, first+i)
		}
		for i, id := range t.ids {
			st.Select = append(st.Select, int64(len(st.InputIDs)))
			st.InputIDs, st.Positions = append(st.InputIDs, id), append(st.Positions, int64(i))
			st.Slots = append(st.Slots, first*pageSize+int64(i))
			if s.Model.Decoder.Embeds > 0 {
				st.EmbedIndex = append(st.EmbedIndex, -1)
			}
		}
		for _, e := range t.embeds {
			width := int(s.Model.Decoder.Embeds)
			for i := range len(e.Rows) / width {
				st.EmbedIndex[len(st.EmbedIndex)-len(t.ids)+e.At+i] = int64(len(st.EmbedRows)/width + i)
			}
			st.EmbedRows = append(st.EmbedRows, e.Rows...)
		}
		want = append(want, t.rows...)
		st.Lengths, st.Starts = append(st.Lengths, int64(len(t.ids))), append(st.Starts, int64(len(st.InputIDs)))
		member := schedule.Member{Request: c.name}
		st.Sequences = append(st.Sequences, member)
		if t.source == nil {
			continue
		}
		e := &schedule.Encoding{Inputs: t.source.Inputs, Member: member}
		for i := range t.source.Rows {
			e.Slots = append(e.Slots, crossFirst*pageSize+int64(i))
		}
		if err := x.Encode(ctx, e); err != nil {
			return err
		}
		for i := range int64(crossEach) {
			st.CrossTables = append(st.CrossTables, crossFirst+i)
		}
		st.CrossLengths = append(st.CrossLengths, int64(t.source.Rows))
	}
	got, err := x.Step(ctx, st)
	if err != nil {
		return err
	}
	res.Outputs = append(res.Outputs, compareRows(c.name+c.output, got, want, c.width, tolerance))
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
	pools := w.pools
	if pools.Pages == 0 { // for two copies to begin, and not to end
		pagesFor := func(n int) int64 { return (int64(n) + pools.PageSize - 1) / pools.PageSize }
		pools.Pages = 1 + max(pagesFor(len(g.prompt.ids)+len(g.tokens)), 2*pagesFor(len(g.prompt.ids)+1)+2)
	}
	pools.CrossPages = pools.Pages
	if g.prompt.source != nil { // all copies attend at once
		pools.CrossPages = 1 + int64(max(4, w.copies))*(int64(g.prompt.source.Rows)/pools.PageSize+1)
	}
	x, err := s.Decoder(pools)
	if err != nil {
		return err
	}
	l := &listener{Executor: x, vocabulary: v, rows: map[string]map[int64][]float32{}}
	o := w.schedule
	o.Vocabulary, o.Embeds, o.Sources = v, int(s.Model.Decoder.Embeds), s.Model.Decoder.Cross != nil
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
	submit := func(id string, length, n int, salt string) (asked, error) {
		r := schedule.Request{ID: id, Prompt: g.prompt.ids[:length], MaxTokens: n, Salt: salt, Source: g.prompt.source}
		for _, e := range g.prompt.embeds {
			if e.At+len(e.Rows)/o.Embeds <= length {
				r.Embeds = append(r.Embeds, e)
			}
		}
		stream, err := sched.Submit(ctx, r)
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
			a, err := submit(fmt.Sprint("other ", i), min(3+2*i, len(g.prompt.ids)), 6+i, "")
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
			a, err := submit(fmt.Sprint(round, ".", i), len(g.prompt.ids), len(g.tokens), fmt.Sprint(i))
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
			got = append(got, l.rows[id][int64(len(g.prompt.ids)-1+i)]...)
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
