package tasks

import (
	"context"
	"fmt"
	"strings"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Recognizer hears with a model of CTC. Long sounds are cut into chunks that overlap;
// of each only the frames are taken that have heard enough before and behind them.
type Recognizer struct {
	Model     string
	Runner    Runner
	Feeds     func(map[string]tensor.Tensor) (map[string]tensor.Tensor, error)
	Extractor audio.Extractor
	Text      *processors.CTC
	Clock     models.FrameClock
	Vocab     int
	Output    string // the graph's output, [1, frames, Vocab] float32
	Beam      int    // texts that are followed; 0 and 1: the likeliest token of each frame
	Language  string // that the model hears; empty: it is not known
	// Chunk is how long a chunk is and Margin how much of each end is not taken, in
	// seconds; 0: 20 and 2.5.
	Chunk, Margin float64
}

const (
	chunkSeconds  = 20
	marginSeconds = 2.5
	// pause is the silence between two words, in seconds, at which a segment ends, and
	// longSegment how long it gets at most.
	pause       = 0.8
	longSegment = 12
)

// Transcribe is Transcriber's.
func (r *Recognizer) Transcribe(ctx context.Context, req TranscribeRequest, emit func(Segment) error) (TranscribeResult, error) {
	res := TranscribeResult{Language: r.Language}
	switch {
	case req.Translate:
		return res, r.refuse("translate", "it hears, and does not translate")
	case strings.TrimSpace(req.Prompt) != "":
		return res, r.refuse("prompt", "it hears each sound for itself")
	case req.Language != "" && r.Language != "" && req.Language != r.Language:
		return res, r.refuse("language", fmt.Sprintf("it hears %q alone", r.Language))
	}
	chunk, margin := r.Chunk, r.Margin
	if chunk == 0 {
		chunk, margin = chunkSeconds, marginSeconds
	}
	rate := r.Extractor.Rate()
	stride := r.Clock.Stride
	size := max(int64(chunk*float64(rate))/stride, 3) // frames of a chunk
	side := min(int64(margin*float64(rate))/stride, (size-1)/2)
	w, err := newWindow(req.Sound, rate, int((size-1)*stride+r.Clock.Window))
	if err != nil {
		return res, err
	}
	h := &hearing{r: r, req: &req, emit: emit, decoder: r.Text.Greedy(), words: r.Text.Words(), frame: seconds(stride, rate)}
	if r.Beam > 1 {
		h.decoder = r.Text.Beam(r.Beam)
	}
	var taken int64 // frames
	for {
		if err := ctx.Err(); err != nil {
			return res, context.Cause(ctx)
		}
		first := w.at / stride // frame of the window's first
		frames := r.Clock.Frames(int64(len(w.samples)))
		if frames > 0 && first+frames > taken {
			rows, err := r.hear(ctx, &res.Decision, w.samples)
			if err != nil {
				return res, err
			}
			to := frames
			if !w.ended {
				to -= side
			}
			for i := taken - first; i < to; i++ {
				if err := h.push(rows[i*int64(r.Vocab) : (i+1)*int64(r.Vocab)]); err != nil {
					return res, err
				}
			}
			taken = first + to
		}
		if w.ended {
			res.Duration = seconds(w.at+int64(len(w.samples)), rate)
			break
		}
		// The next chunk begins so far before the first frame that is still to be taken.
		if err := w.advance(int((taken - side - first) * stride)); err != nil {
			return res, err
		}
	}
	return res, h.end()
}

func (r *Recognizer) refuse(field, why string) error {
	return &InvalidInputError{Field: field, Input: -1, Problem: fmt.Sprintf("model %q can't: %s", r.Model, why)}
}

// hear runs a chunk: [frames * Vocab].
func (r *Recognizer) hear(ctx context.Context, d *route.Decision, samples []float32) ([]float32, error) {
	inputs, err := r.Extractor.Extract([][]float32{samples})
	if err != nil {
		return nil, err
	}
	if inputs, err = r.Feeds(inputs); err != nil {
		return nil, err
	}
	feeds := make(map[string]graph.Datum, len(inputs))
	for name, t := range inputs {
		feeds[name] = graph.TensorDatum(t)
	}
	out, err := r.Runner.Run(ctx, d, feeds, []string{r.Output})
	if err != nil {
		return nil, err
	}
	t := out[r.Output].Tensor
	if want := (tensor.Shape{1, r.Clock.Frames(int64(len(samples))), int64(r.Vocab)}); t.DType != tensor.Float32 || !t.Shape.Equal(want) {
		return nil, fmt.Errorf("model %q: output %s is %s%v, wanted float32%v", r.Model, r.Output, t.DType, t.Shape, want)
	}
	return tensor.View[float32](t.Aligned()), nil
}

// hearing makes segments of frames.
type hearing struct {
	r       *Recognizer
	req     *TranscribeRequest
	emit    func(Segment) error
	decoder processors.CTCDecoder
	words   *processors.CTCWords
	frame   float64 // seconds from one to the next
	next    int     // segment's ID
	pending []Word
}

func (h *hearing) push(logits []float32) error {
	return h.take(h.words.Add(h.decoder.Push(logits)))
}

func (h *hearing) end() error {
	if err := h.take(h.words.Add(h.decoder.Flush())); err != nil {
		return err
	}
	if err := h.take(h.words.Flush()); err != nil {
		return err
	}
	return h.flush()
}

func (h *hearing) take(words []processors.CTCWord) error {
	for _, w := range words {
		word := Word{Text: w.Text, Start: float64(w.Start) * h.frame, End: float64(w.End) * h.frame}
		if n := len(h.pending); n > 0 && (word.Start-h.pending[n-1].End >= pause || word.End-h.pending[0].Start > longSegment) {
			if err := h.flush(); err != nil {
				return err
			}
		}
		h.pending = append(h.pending, word)
	}
	return nil
}

// flush gives out the words as a segment.
func (h *hearing) flush() error {
	if len(h.pending) == 0 {
		return nil
	}
	texts := make([]string, len(h.pending))
	for i, w := range h.pending {
		texts[i] = w.Text
	}
	s := Segment{ID: h.next, Start: h.pending[0].Start, End: h.pending[len(h.pending)-1].End, Text: strings.Join(texts, h.r.Text.Between())}
	if h.next > 0 {
		s.Text = h.r.Text.Between() + s.Text
	}
	if h.req.Words {
		s.Words = h.pending
	}
	h.next++
	h.pending = nil
	return h.emit(s)
}
