package tasks

import (
	"context"
	"io"

	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
)

// TranscribeRequest asks for what is said in a sound.
type TranscribeRequest struct {
	ID    string       // for logs and errors
	Sound audio.Source // of any length and rate; it is read once, in pieces
	// Language that is spoken, as a code such as "en" or an English name; empty: it is
	// found out.
	Language string
	// Translate asks for English, whatever is spoken.
	Translate bool
	// Prompt is what was said before, or words in the spelling that is wanted.
	Prompt string
	// Temperatures at which a piece is tried, until what comes is good; nil: 0, 0.2 ... 1.
	Temperatures []float64
	Words        bool // ask for each word's times
	Salt         string
	Priority     int
}

// Segment is a piece of what is said, a sentence or less.
type Segment struct {
	ID         int // from 0
	Start, End float64
	Text       string // with the space that stands between it and what was said before
	Words      []Word // if they were asked for
	// What a model says of its own work; nil where it says nothing.
	Detail *SegmentDetail
}

// SegmentDetail is how well a segment came out.
type SegmentDetail struct {
	Tokens           []int64 // with those that say times
	Seek             int64   // where the window begins that it was heard in, in 1/100 s
	Temperature      float64
	AvgLogprob       float64 // of a token, natural logarithm
	CompressionRatio float64 // of the text; high for text that repeats itself
	NoSpeech         float64 // probability that nothing is said
}

// Word is a word and when it is said, in seconds.
type Word struct {
	Text       string
	Start, End float64
}

// TranscribeResult is what is known at the end.
type TranscribeResult struct {
	Language string  // code; empty: the model does not tell
	Duration float64 // of the sound, in seconds
	Tokens   int     // that were generated; 0 where text is not generated
	Decision route.Decision
}

// Transcriber hears what is said. Memory is bounded whatever the length of the sound.
type Transcriber interface {
	// Transcribe hands segments to emit as they come, in order; an error of emit ends it
	// and is returned. Other errors: *InvalidInputError, those of the sound, and those of
	// what runs the model.
	Transcribe(ctx context.Context, req TranscribeRequest, emit func(Segment) error) (TranscribeResult, error)
}

// window is the part of a sound that is looked at, of a model's rate.
type window struct {
	src     audio.Source
	samples []float32 // from sample at on
	at      int64
	size    int // samples that are wanted
	ended   bool
}

// newWindow begins at the start of a sound.
func newWindow(src audio.Source, rate, size int) (*window, error) {
	src, err := audio.Resample(src, rate)
	if err != nil {
		return nil, err
	}
	w := &window{src: src, size: size, samples: make([]float32, 0, size)}
	return w, w.fill()
}

// advance forgets the first n samples and reads on.
func (w *window) advance(n int) error {
	n = min(n, len(w.samples))
	w.samples = append(w.samples[:0], w.samples[n:]...)
	w.at += int64(n)
	return w.fill()
}

func (w *window) fill() error {
	for !w.ended && len(w.samples) < w.size {
		n, more, err := readSome(w.src, w.samples[len(w.samples):w.size])
		w.samples = w.samples[:len(w.samples)+n]
		if err != nil {
			return err
		}
		w.ended = !more
	}
	return nil
}

// readSome reads at least a sample unless the sound ended.
func readSome(src audio.Source, dst []float32) (n int, more bool, err error) {
	switch n, err = src.Read(dst); {
	case n > 0:
		return n, true, nil
	case err == io.EOF:
		return 0, false, nil
	case err == nil:
		err = io.ErrNoProgress
	}
	return 0, false, err
}

// seconds of so many samples.
func seconds(samples int64, rate int) float64 { return float64(samples) / float64(rate) }
