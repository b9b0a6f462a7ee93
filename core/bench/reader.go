package bench

import (
	"context"
	"errors"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/kvcache"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/schedule"
)

const pageSize = 16 // tokens, as the configuration has it

// opener opens models to be run graph by graph; an engine does.
type opener interface {
	Open(path string, o engine.SessionOptions) (*engine.Session, error)
}

// reader is a decoder with pages for one text, which is given to it step by step.
type reader struct {
	session *engine.Session
	x       schedule.Executor
	cache   *kvcache.Cache
	text    *kvcache.Sequence
	d       route.Decision
}

// openReader places a model on a platform, and on no other, with pages for so many tokens.
func openReader(ctx context.Context, e opener, path, platform string, o models.Options, tokens int) (_ *reader, err error) {
	r := &reader{}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.session, err = e.Open(path, engine.SessionOptions{Models: o, Preferred: platform, Policy: route.Deny}); err != nil {
		return nil, err
	}
	if r.x, err = r.session.Decoder(engine.PoolOptions{PageSize: pageSize, Pages: int64(1 + (tokens+pageSize-1)/pageSize)}); err != nil {
		return nil, err
	}
	g, err := r.x.Open(ctx, &r.d)
	if err != nil {
		return nil, err
	}
	if r.cache, err = kvcache.New(g.Own); err != nil {
		return nil, err
	}
	r.text = r.cache.Open(kvcache.Content{Private: true}, nil)
	return r, nil
}

func (r *reader) close() (err error) {
	if r.x != nil {
		err = r.x.Close()
	}
	if r.session != nil {
		err = errors.Join(err, r.session.Close())
	}
	return err
}

// clear begins another text.
func (r *reader) clear() {
	r.text.Close()
	r.text = r.cache.Open(kvcache.Content{Private: true}, nil)
}

// add adds tokens to the text. It returns the logits of the last of them, or of
// all, [n, vocabulary]; they are good until the next call.
func (r *reader) add(ctx context.Context, ids []int64, all bool) ([]float32, error) {
	if err := r.text.Reserve(len(ids)); err != nil {
		return nil, err
	}
	s := &schedule.Step{InputIDs: ids, PageWidth: r.text.Width(), PageTables: make([]int64, r.text.Width()), Starts: []int64{0, int64(len(ids))},
		Lengths: []int64{int64(r.text.Len() + len(ids))}, Sequences: []schedule.Member{{Request: "bench"}}}
	r.text.Table(s.PageTables)
	for i := range ids {
		at := r.text.Len() + i
		s.Positions, s.Slots = append(s.Positions, int64(at)), append(s.Slots, r.text.Slot(at))
		if all || i == len(ids)-1 {
			s.Select = append(s.Select, int64(i))
		}
	}
	logits, err := r.x.Step(ctx, s)
	if err != nil {
		return nil, err
	}
	r.text.Append(ids...)
	return logits, nil
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
