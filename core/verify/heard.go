package verify

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/sdk/tensor"
)

// soundFile is the one sound of a folder.
const soundFile = "audio.wav"

// waveforms are what a golden records of the samples that features are made of: one, or
// several of different lengths, the first of which lies in the folder.
var waveforms = [][]string{{processed + "waveform"}, {processed + "waveform_0", processed + "waveform_1"}}

// hear makes all that a folder's feature extractor makes of the recorded samples, and the samples
// of the sound in the folder, by the names under which that is recorded.
func hear(dir string, records map[string]tensor.Tensor) (map[string]tensor.Tensor, error) {
	file, err := os.Open(filepath.Join(dir, soundFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	extractor, err := audio.OpenExtractor(dir)
	if err != nil {
		return nil, err
	}
	made := map[string]tensor.Tensor{}
	for _, names := range waveforms {
		var sounds [][]float32
		for _, name := range names {
			if w, ok := records[name]; ok && w.DType == tensor.Float32 {
				sounds = append(sounds, tensor.View[float32](w.Aligned()))
			}
		}
		if len(sounds) != len(names) {
			continue
		}
		samples, err := samplesOf(file, extractor.Rate())
		if err != nil {
			return nil, err
		}
		made[names[0]] = tensor.Floats(tensor.Shape{int64(len(samples))}, samples...)
		for _, name := range names[1:] {
			delete(records, name) // an input of what is recorded, in no file
		}
		whole, err := extractor.Extract(sounds)
		if err != nil {
			return nil, err
		}
		single, err := extractor.Extract(sounds[:1])
		if err != nil {
			return nil, err
		}
		for name, v := range whole {
			made[processed+name] = v
		}
		if clap, ok := extractor.(*audio.Clap); ok {
			made[processed+"is_longer"] = tensor.Ints(tensor.Shape{int64(len(sounds))}, clap.IsLonger(sounds)...)
		}
		for name, v := range single {
			made[processed+"single."+name] = v
		}
	}
	return made, nil
}

// samplesOf are all samples of a sound at a rate.
func samplesOf(r io.Reader, rate int) ([]float32, error) {
	sound, err := audio.Open(r)
	if err != nil {
		return nil, err
	}
	source, err := audio.Resample(sound, rate)
	if err != nil {
		return nil, err
	}
	var all []float32
	for {
		all = slices.Grow(all, 1<<14)
		n, err := source.Read(all[len(all):cap(all)])
		all = all[:len(all)+n]
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
