package bench

import (
	"testing"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

const pageSize = 16 // tokens, as the configuration has it

// decoder is a model on the CPU backend with pages for one text, which is given to it
// step by step.
type decoder struct {
	session *engine.Session
	x       schedule.Executor
	cache   *kvcache.Cache
	text    *kvcache.Sequence
}

// openDecoder places a model with pages for so many tokens.
func openDecoder(b testing.TB, e *engine.Engine, path string, o models.Options, tokens int) *decoder {
	b.Helper()
	s, err := e.Open(path, engine.SessionOptions{Models: o, Preferred: "cpu", Policy: route.Deny})
	if err != nil {
		b.Fatal(err)
	}
	x, err := s.Decoder(engine.PoolOptions{PageSize: pageSize, Pages: int64(1 + (tokens+pageSize-1)/pageSize)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := x.Close(); err != nil {
			b.Error(err)
		}
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	var d route.Decision
	g, err := x.Open(b.Context(), &d)
	if err != nil {
		b.Fatal(err)
	}
	c, err := kvcache.New(g.Own)
	if err != nil {
		b.Fatal(err)
	}
	return &decoder{session: s, x: x, cache: c, text: c.Open(kvcache.Content{Private: true}, nil)}
}

// clear begins another text.
func (d *decoder) clear() {
	d.text.Close()
	d.text = d.cache.Open(kvcache.Content{Private: true}, nil)
}

// add adds tokens to the text. It returns the logits of the last of them, or of
// all, [n, vocabulary]; they are good until the next call.
func (d *decoder) add(b testing.TB, ids []int64, all bool) []float32 {
	b.Helper()
	if err := d.text.Reserve(len(ids)); err != nil {
		b.Fatal(err)
	}
	s := &schedule.Step{InputIDs: ids, PageWidth: d.text.Width(), PageTables: make([]int64, d.text.Width()), Starts: []int64{0, int64(len(ids))},
		Lengths: []int64{int64(d.text.Len() + len(ids))}, Sequences: []schedule.Member{{Request: "bench"}}}
	d.text.Table(s.PageTables)
	for i := range ids {
		at := d.text.Len() + i
		s.Positions, s.Slots = append(s.Positions, int64(at)), append(s.Slots, d.text.Slot(at))
		if all || i == len(ids)-1 {
			s.Select = append(s.Select, int64(i))
		}
	}
	logits, err := d.x.Step(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	d.text.Append(ids...)
	return logits
}

// likeliest is the index of the largest, and that of the next.
func likeliest(logits []float32) (first, second int64) {
	second = -1
	for i, v := range logits {
		switch {
		case v > logits[first]:
			first, second = int64(i), first
		case int64(i) != first && (second < 0 || v > logits[second]):
			second = int64(i)
		}
	}
	return first, second
}
