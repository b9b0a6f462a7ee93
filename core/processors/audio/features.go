package audio

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// Extractor makes a model's inputs of sounds, as the class of transformers does that
// preprocessor_config.json names.
type Extractor interface {
	// Rate is the sampling rate that sounds must have, in Hz.
	Rate() int
	// MostSamples is the longest sound that is taken whole; 0: there is no such bound.
	MostSamples() int
	// Extract makes the inputs, by the names of the model's graphs, of a batch of sounds.
	// The first dimension of each is the batch. Errors are *InputError.
	Extract(sounds [][]float32) (map[string]tensor.Tensor, error)
}

// InputError says that a sound can't be an input.
type InputError struct {
	Sound  int // of the batch
	Found  string
	Wanted string
}

func (e *InputError) Error() string {
	return fmt.Sprintf("sound %d of the batch: %s, wanted %s", e.Sound, e.Found, e.Wanted)
}

// Files of a folder that say how features are extracted.
const (
	preprocessorFile = "preprocessor_config.json"
	processorFile    = "processor_config.json" // of transformers 5, with the former inside
)

// OpenExtractor opens the extractor of a model's folder. Errors are *checkpoint.Error,
// of fs.ErrNotExist if the folder names none.
func OpenExtractor(dir string) (Extractor, error) {
	c, err := checkpoint.ReadConfig(filepath.Join(dir, preprocessorFile))
	if err == nil {
		return NewExtractor(c.Fields())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c, inner := checkpoint.ReadConfig(filepath.Join(dir, processorFile)); inner == nil {
		if f := c.Fields(); f.Has("feature_extractor") {
			return NewExtractor(f.Object("feature_extractor"))
		}
	} else if !errors.Is(inner, fs.ErrNotExist) {
		return nil, inner
	}
	return nil, err
}

// extractors are the classes that are built, by feature_extractor_type.
var extractors = map[string]func(checkpoint.Fields) Extractor{
	"WhisperFeatureExtractor":  func(f checkpoint.Fields) Extractor { return whisperFields(f) },
	"Wav2Vec2FeatureExtractor": func(f checkpoint.Fields) Extractor { return wav2vec2Fields(f) },
	"ClapFeatureExtractor":     func(f checkpoint.Fields) Extractor { return clapFields(f) },
}

// NewExtractor makes the extractor that a configuration describes.
func NewExtractor(f checkpoint.Fields) (Extractor, error) {
	const field = "feature_extractor_type"
	kind := f.StringOr(field, "")
	if kind == "" {
		kind = f.StringOr("processor_class", "") // what older files say alone
		if kind != "" {
			kind = map[string]string{"WhisperProcessor": "WhisperFeatureExtractor", "Wav2Vec2Processor": "Wav2Vec2FeatureExtractor", "ClapProcessor": "ClapFeatureExtractor"}[kind]
		}
	}
	build := extractors[kind]
	if f.Err() == nil && build == nil {
		f.Fail(field, "found "+strconv.Quote(kind), "ClapFeatureExtractor, Wav2Vec2FeatureExtractor or WhisperFeatureExtractor", "")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	e := build(f)
	if err := f.Err(); err != nil {
		return nil, err
	}
	return e, nil
}

// Bounds on what a configuration may ask for.
const (
	maxFeatures = 1 << 12
	maxWindow   = 1 << 14
	maxSeconds  = 1 << 12
	maxSamples  = 1 << 26
)

func rate(f checkpoint.Fields, def int64) int {
	return int(f.IntOr("sampling_rate", def, minRate, maxRate))
}

// padsRight refuses settings of padding that change the numbers.
func padsRight(f checkpoint.Fields) {
	if side := f.StringOr("padding_side", "right"); side != "right" && f.Err() == nil {
		f.Fail("padding_side", "found "+strconv.Quote(side), `"right"`, "")
	}
}

// none refuses an empty batch and empty sounds.
func none(sounds [][]float32) error {
	if len(sounds) == 0 {
		return &InputError{Found: "there is none", Wanted: "at least one"}
	}
	for i, x := range sounds {
		if len(x) == 0 {
			return &InputError{Sound: i, Found: "it has no samples", Wanted: "at least one"}
		}
	}
	return nil
}

// Whisper is WhisperFeatureExtractor: the logarithm of a mel spectrogram of a window of
// constant length, which shorter sounds fill with silence.
type Whisper struct {
	rate, samples int
	spectrogram
}

// NewWhisper is the extractor of OpenAI's models: 16 kHz, windows of 30 seconds; mels
// is 80 or, since large-v3, 128.
func NewWhisper(mels int) *Whisper {
	return &Whisper{rate: 16000, samples: 480000, spectrogram: spectrogram{size: 400, hop: 160, filters: melFilters(slaney, mels, 201, 0, 8000, 16000)}}
}

func whisperFields(f checkpoint.Fields) *Whisper {
	w := &Whisper{rate: rate(f, 16000)}
	mels := f.IntOr("feature_size", 80, 1, maxFeatures)
	seconds := f.IntOr("chunk_length", 30, 1, maxSeconds)
	w.size = int(f.IntOr("n_fft", 400, 2, maxWindow))
	w.hop = int(f.IntOr("hop_length", 160, 1, maxWindow))
	padsRight(f)
	w.samples = w.rate * int(seconds)
	switch {
	case f.Err() != nil:
		return w
	case f.FloatOr("dither", 0, 0, 1) != 0:
		f.Fail("dither", fmt.Sprintf("found %g", f.Float("dither", 0, 1)), "0", "noise is not added: answers are to repeat")
	case f.FloatOr("padding_value", 0, -1, 1) != 0:
		f.Fail("padding_value", fmt.Sprintf("found %g", f.Float("padding_value", -1, 1)), "0", "")
	case w.samples > maxSamples || w.samples/w.hop*int(mels) > maxSamples:
		f.Fail("chunk_length", fmt.Sprintf("found %d", seconds), fmt.Sprintf("at most %d samples, and numbers of features", maxSamples), "")
	case w.samples%w.hop != 0:
		f.Fail("hop_length", fmt.Sprintf("found %d", w.hop), fmt.Sprintf("a divisor of a window's samples, which are %d", w.samples), "")
	default:
		w.filters = melFilters(slaney, int(mels), w.size/2+1, 0, 8000, float64(w.rate))
	}
	return w
}

// Rate is Extractor's.
func (w *Whisper) Rate() int { return w.rate }

// MostSamples is a window.
func (w *Whisper) MostSamples() int { return w.samples }

// Extract makes input_features [batch, mels, frames] float32.
func (w *Whisper) Extract(sounds [][]float32) (map[string]tensor.Tensor, error) {
	if err := none(sounds); err != nil {
		return nil, err
	}
	mels, frames := len(w.filters), w.samples/w.hop
	out, err := tensor.New(tensor.Float32, tensor.Shape{int64(len(sounds)), int64(mels), int64(frames)})
	if err != nil {
		return nil, err
	}
	values := tensor.View[float32](out)
	for i, x := range sounds {
		if len(x) > w.samples {
			return nil, &InputError{Sound: i, Found: fmt.Sprintf("%d samples", len(x)), Wanted: fmt.Sprintf("at most %d, a window", w.samples)}
		}
		v := values[i*mels*frames : (i+1)*mels*frames]
		most := float32(math.Inf(-1))
		w.compute(x, w.samples, func(frame int, mel []float64) {
			if frame == frames {
				return // the last one, as the model was trained
			}
			for m, p := range mel {
				l := float32(math.Log10(max(p, 1e-10)))
				v[m*frames+frame] = l
				most = max(most, l)
			}
		})
		for j, l := range v {
			v[j] = (max(l, most-8) + 4) / 4
		}
	}
	return map[string]tensor.Tensor{"input_features": out}, nil
}

// Wav2Vec2 is Wav2Vec2FeatureExtractor: the samples themselves, of mean 0 and variance 1.
type Wav2Vec2 struct {
	rate      int
	normalize bool
	mask      bool    // padding is told to the model, and left out of mean and variance
	padding   float32 // what shorter sounds of a batch are filled with
}

func wav2vec2Fields(f checkpoint.Fields) *Wav2Vec2 {
	w := &Wav2Vec2{rate: rate(f, 16000), normalize: f.BoolOr("do_normalize", true), mask: f.BoolOr("return_attention_mask", false),
		padding: float32(f.FloatOr("padding_value", 0, -1e6, 1e6))}
	padsRight(f)
	if n := f.IntOr("feature_size", 1, 1, maxFeatures); n != 1 && f.Err() == nil {
		f.Fail("feature_size", fmt.Sprintf("found %d", n), "1", "")
	}
	return w
}

// Rate is Extractor's.
func (w *Wav2Vec2) Rate() int { return w.rate }

// MostSamples is 0.
func (w *Wav2Vec2) MostSamples() int { return 0 }

// PadsApart reports whether the model is told of padding: then sounds of a batch need
// not be as long as one another to be answered as they are alone.
func (w *Wav2Vec2) PadsApart() bool { return w.mask }

// Extract makes input_values [batch, samples] float32 and, where the model is told of
// padding, attention_mask [batch, samples] int32. Where it is not, padding counts as
// sound, in mean and variance too, as it did when the model was trained.
func (w *Wav2Vec2) Extract(sounds [][]float32) (map[string]tensor.Tensor, error) {
	if err := none(sounds); err != nil {
		return nil, err
	}
	longest := 0
	for _, x := range sounds {
		longest = max(longest, len(x))
	}
	shape := tensor.Shape{int64(len(sounds)), int64(longest)}
	out, err := tensor.New(tensor.Float32, shape)
	if err != nil {
		return nil, err
	}
	inputs := map[string]tensor.Tensor{"input_values": out}
	var mask []int32
	if w.mask {
		m, err := tensor.New(tensor.Int32, shape)
		if err != nil {
			return nil, err
		}
		inputs["attention_mask"], mask = m, tensor.View[int32](m)
	}
	values := tensor.View[float32](out)
	for i, x := range sounds {
		v := values[i*longest : (i+1)*longest]
		pad := v[copy(v, x):]
		for j := range pad {
			pad[j] = w.padding
		}
		counted := v
		if w.mask {
			counted = v[:len(x)]
			for j := range counted {
				mask[i*longest+j] = 1
			}
		}
		if w.normalize {
			normalize(counted)
		}
	}
	return inputs, nil
}

// normalize gives values a mean of 0 and a variance of 1.
func normalize(v []float32) {
	var sum, squares float64
	for _, x := range v {
		sum += float64(x)
	}
	mean := sum / float64(len(v))
	for _, x := range v {
		squares += (float64(x) - mean) * (float64(x) - mean)
	}
	scale := 1 / math.Sqrt(squares/float64(len(v))+1e-7)
	for i, x := range v {
		v[i] = float32((float64(x) - mean) * scale)
	}
}

// Clap is ClapFeatureExtractor without fusion: a mel spectrogram in decibels of a window
// of constant length.
type Clap struct {
	rate, samples int
	fill          clapFill
	spectrogram
}

// clapFill is what shorter sounds are filled with.
type clapFill string

const (
	fillRepeat    clapFill = "repeat"    // the sound again and again, cut at the end
	fillRepeatPad clapFill = "repeatpad" // the sound as often as it fits, then silence
	fillPad       clapFill = "pad"       // silence
)

func clapFields(f checkpoint.Fields) *Clap {
	c := &Clap{rate: rate(f, 48000), fill: clapFill(f.StringOr("padding", string(fillRepeatPad)))}
	mels := f.IntOr("feature_size", 64, 1, maxFeatures)
	c.size = int(f.IntOr("fft_window_size", 1024, 2, maxWindow))
	c.hop = int(f.IntOr("hop_length", 480, 1, maxWindow))
	least, most := f.FloatOr("frequency_min", 0, 0, maxRate), f.FloatOr("frequency_max", 14000, 0, maxRate)
	c.samples = int(f.IntOr("nb_max_samples", f.IntOr("max_length_s", 10, 1, maxSeconds)*int64(c.rate), 1, maxSamples))
	padsRight(f)
	if f.Err() != nil {
		return c
	}
	switch truncation := f.StringOr("truncation", "fusion"); {
	case truncation == "fusion":
		f.Fail("truncation", `found "fusion"`, `"rand_trunc"`, "fusion of views of long sounds is not built: use an unfused model, such as laion/clap-htsat-unfused")
	case truncation != "rand_trunc":
		f.Fail("truncation", "found "+strconv.Quote(truncation), `"rand_trunc"`, "")
	case c.fill != fillRepeat && c.fill != fillRepeatPad && c.fill != fillPad:
		f.Fail("padding", "found "+strconv.Quote(string(c.fill)), `"repeat", "repeatpad" or "pad"`, "")
	case most <= least:
		f.Fail("frequency_max", fmt.Sprintf("found %g", most), fmt.Sprintf("more than frequency_min, which is %g", least), "")
	case f.Has("top_db"):
		f.Fail("top_db", fmt.Sprintf("found %g", f.Float("top_db", 0, 1e6)), "null", "")
	case c.samples/c.hop*int(mels) > maxSamples:
		f.Fail("hop_length", fmt.Sprintf("found %d", c.hop), fmt.Sprintf("at most %d numbers of features", maxSamples), "")
	default:
		c.filters = melFilters(slaney, int(mels), c.size/2+1, least, most, float64(c.rate))
	}
	return c
}

// Rate is Extractor's.
func (c *Clap) Rate() int { return c.rate }

// MostSamples is a window.
func (c *Clap) MostSamples() int { return c.samples }

// Extract makes input_features [batch, 1, frames, mels] float32. Of a sound that is
// longer than a window its middle is taken: transformers takes a place at random, and
// answers are to repeat.
func (c *Clap) Extract(sounds [][]float32) (map[string]tensor.Tensor, error) {
	if err := none(sounds); err != nil {
		return nil, err
	}
	mels, frames := len(c.filters), c.frames(c.samples)
	out, err := tensor.New(tensor.Float32, tensor.Shape{int64(len(sounds)), 1, int64(frames), int64(mels)})
	if err != nil {
		return nil, err
	}
	values := tensor.View[float32](out)
	for i, x := range sounds {
		v := values[i*mels*frames : (i+1)*mels*frames]
		c.compute(c.window(x), c.samples, func(frame int, mel []float64) {
			for m, p := range mel {
				v[frame*mels+m] = float32(10 * math.Log10(max(p, 1e-10)))
			}
		})
	}
	return map[string]tensor.Tensor{"input_features": out}, nil
}

// IsLonger is 1 for each sound that is longer than a window. Only models that fuse views of
// long sounds are told of it.
func (c *Clap) IsLonger(sounds [][]float32) []int64 {
	longer := make([]int64, len(sounds))
	for i, x := range sounds {
		if len(x) > c.samples {
			longer[i] = 1
		}
	}
	return longer
}

// window is a window's worth of a sound, or less if silence follows.
func (c *Clap) window(x []float32) []float32 {
	if over := len(x) - c.samples; over >= 0 {
		return x[over/2 : over/2+c.samples]
	}
	times := 1
	switch c.fill {
	case fillRepeat:
		times = c.samples/len(x) + 1
	case fillRepeatPad:
		times = c.samples / len(x)
	}
	full := make([]float32, 0, c.samples)
	for range times {
		full = append(full, x[:min(len(x), c.samples-len(full))]...)
	}
	return full
}
