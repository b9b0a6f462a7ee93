package tasks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Part is a component of a model, whose outputs are float32.
type Part struct {
	Runner  Runner
	Feeds   func(map[string]tensor.Tensor) (map[string]tensor.Tensor, error) // completes and checks inputs
	Inputs  []string
	Outputs []string
}

// run gives all outputs.
func (p *Part) run(ctx context.Context, d *route.Decision, inputs map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	feeds, err := p.Feeds(inputs)
	if err != nil {
		return nil, err
	}
	out, err := p.Runner.Run(ctx, d, graph.TensorData(feeds), p.Outputs)
	if err != nil {
		return nil, err
	}
	got := make(map[string]tensor.Tensor, len(out))
	for name, v := range out {
		if v.Tensor.DType != tensor.Float32 {
			return nil, fmt.Errorf("output %s is %s, wanted float32", name, v.Tensor.DType)
		}
		got[name] = v.Tensor.Aligned()
	}
	return got, nil
}

// File is a picture, a video or a sound: its content, or a URL that carries it (data:) or
// leads to it, or a folder with the frames of a video.
type File struct {
	Data   []byte
	URL    string // counts where there is no Data
	Frames string // a folder; counts where there is neither
}

// Sense makes files what a component takes: pictures, videos or sounds.
type Sense interface {
	// Prepare decodes a file: inputs for a batch of one. Its error says what is wrong
	// with the file.
	Prepare(file []byte) (Perceived, error)
	// Sample is a small file's worth, which says whether the component runs at all.
	Sample() (Perceived, error)
}

// Perceived is a file that was decoded.
type Perceived struct {
	Inputs        map[string]tensor.Tensor
	Height, Width int // of a picture, in pixels; 0 for what is none
}

// PictureSense sees pictures.
type PictureSense struct {
	Processor *pixels.Processor
	Limits    pixels.Limits
}

// Prepare is Sense's.
func (s *PictureSense) Prepare(file []byte) (Perceived, error) {
	p, err := pixels.Decode(file, s.Limits)
	if err != nil {
		return Perceived{}, err
	}
	return s.perceive(p)
}

// Sample is Sense's: a black picture.
func (s *PictureSense) Sample() (Perceived, error) { return s.perceive(pixels.Black(64, 64)) }

func (s *PictureSense) perceive(p pixels.Picture) (Perceived, error) {
	in, err := s.Processor.Process([]pixels.Picture{p})
	return Perceived{in, p.Height, p.Width}, err
}

// VideoSense sees videos: animated GIF and PNG files.
type VideoSense struct {
	Processor *pixels.Processor
	Frames    int // that the model takes of a video, evenly from its first to its last
	Limits    pixels.Limits
}

// Prepare is Sense's.
func (s *VideoSense) Prepare(file []byte) (Perceived, error) {
	frames, err := pixels.Frames(file, s.Frames, s.Limits)
	if err != nil {
		return Perceived{}, err
	}
	return s.perceive(frames)
}

// folder is Prepare for a folder of frames.
func (s *VideoSense) folder(dir string) (Perceived, error) {
	frames, err := pixels.FolderFrames(dir, s.Frames, s.Limits)
	if err != nil {
		return Perceived{}, err
	}
	return s.perceive(frames)
}

// Sample is Sense's: black frames.
func (s *VideoSense) Sample() (Perceived, error) {
	frames := make([]pixels.Picture, s.Frames)
	for i := range frames {
		frames[i] = pixels.Black(64, 64)
	}
	return s.perceive(frames)
}

func (s *VideoSense) perceive(frames []pixels.Picture) (Perceived, error) {
	in, err := s.Processor.Videos([][]pixels.Picture{frames})
	return Perceived{in, frames[0].Height, frames[0].Width}, err
}

// SoundSense hears sounds.
type SoundSense struct{ Extractor audio.Extractor }

// maxSound bounds a sound that is taken whole, in samples: half an hour at 16 kHz.
const maxSound = 30 * 60 * 16000

// Prepare is Sense's.
func (s *SoundSense) Prepare(file []byte) (Perceived, error) {
	sound, err := audio.Open(bytes.NewReader(file))
	if err != nil {
		return Perceived{}, err
	}
	source, err := audio.Resample(sound, s.Extractor.Rate())
	if err != nil {
		return Perceived{}, err
	}
	var all []float32
	block := make([]float32, 1<<14)
	for {
		n, err := source.Read(block)
		if all = append(all, block[:n]...); len(all) > maxSound {
			return Perceived{}, fmt.Errorf("the sound is longer than %d s, and it is taken whole; cut it", maxSound/s.Extractor.Rate())
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Perceived{}, err
		}
	}
	in, err := s.Extractor.Extract([][]float32{all})
	return Perceived{Inputs: in}, err
}

// Sample is Sense's: a second of silence.
func (s *SoundSense) Sample() (Perceived, error) {
	in, err := s.Extractor.Extract([][]float32{make([]float32, s.Extractor.Rate())})
	return Perceived{Inputs: in}, err
}

// sampled is a sense whose every file is its sample.
type sampled struct{ Sense }

func (s sampled) Prepare([]byte) (Perceived, error) { return s.Sample() }

// maxBatchFiles are run together, so that memory is bounded whatever the request.
const maxBatchFiles = 8

// perceive runs a component over files, some at a time where their inputs are of one
// shape, and hands each its rows of every output.
func perceive(ctx context.Context, d *route.Decision, sense Sense, f Fetcher, part *Part, files []File, each func(i int, p Perceived, out map[string]tensor.Tensor) error) error {
	var batch []Perceived
	first := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		inputs, err := stack(batch)
		if err != nil {
			return err
		}
		out, err := part.run(ctx, d, inputs)
		if err != nil {
			return err
		}
		for i, p := range batch {
			rows := make(map[string]tensor.Tensor, len(out))
			for name, t := range out {
				if len(t.Shape) == 0 || t.Shape[0] != int64(len(batch)) {
					return fmt.Errorf("output %s is %v for %d inputs", name, t.Shape, len(batch))
				}
				n := len(t.Data) / len(batch)
				rows[name] = tensor.Tensor{DType: t.DType, Shape: append(tensor.Shape{1}, t.Shape[1:]...), Data: t.Data[i*n : (i+1)*n]}.Aligned()
			}
			if err := each(first+i, p, rows); err != nil {
				return err
			}
		}
		first, batch = first+len(batch), nil
		return nil
	}
	for i, file := range files {
		p, err := file.prepare(ctx, sense, f)
		if err != nil {
			return &InvalidInputError{Field: "input", Input: i, Problem: err.Error()}
		}
		if len(batch) == maxBatchFiles || len(batch) > 0 && !alike(batch[0], p) {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, p)
	}
	return flush()
}

// prepare gets a file and decodes it.
func (file *File) prepare(ctx context.Context, s Sense, f Fetcher) (Perceived, error) {
	data := file.Data
	switch {
	case data != nil:
	case file.URL != "":
		var err error
		if data, err = fetch(ctx, f, file.URL); err != nil {
			return Perceived{}, err
		}
	case file.Frames != "":
		v, ok := s.(*VideoSense)
		if !ok {
			return Perceived{}, errors.New("it is a folder of frames, and the model sees no videos")
		}
		return v.folder(file.Frames)
	}
	return s.Prepare(data)
}

// alike reports whether two files can be run together.
func alike(a, b Perceived) bool {
	for name, t := range a.Inputs {
		if u, ok := b.Inputs[name]; !ok || !u.Shape.Equal(t.Shape) {
			return false
		}
	}
	return len(a.Inputs) == len(b.Inputs)
}

// stack joins inputs along the batch.
func stack(list []Perceived) (map[string]tensor.Tensor, error) {
	if len(list) == 1 {
		return list[0].Inputs, nil
	}
	out := map[string]tensor.Tensor{}
	for name, t := range list[0].Inputs {
		shape := t.Shape.Clone()
		shape[0] *= int64(len(list))
		all, err := tensor.New(t.DType, shape)
		if err != nil {
			return nil, err
		}
		at := all.Data[:0]
		for _, p := range list {
			at = append(at, p.Inputs[name].Data...)
		}
		out[name] = all
	}
	return out, nil
}
