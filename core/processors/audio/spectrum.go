package audio

import (
	"math"

	"gonum.org/v1/gonum/dsp/fourier"
)

// melScale is a scale of pitch (transformers' audio_utils.mel_filter_bank).
type melScale struct {
	fromHertz, toHertz func(float64) float64
	norm               bool // every filter has an area of 1 (Slaney's)
}

// slaney is the scale of Slaney's Auditory Toolbox: straight up to 1000 Hz, then
// logarithmic.
var slaney = melScale{
	fromHertz: func(f float64) float64 {
		if f < 1000 {
			return 3 * f / 200
		}
		return 15 + math.Log(f/1000)*27/math.Log(6.4)
	},
	toHertz: func(m float64) float64 {
		if m < 15 {
			return 200 * m / 3
		}
		return 1000 * math.Exp(math.Log(6.4)/27*(m-15))
	},
	norm: true,
}

// melFilter is a triangle over the bins of a spectrum: weights of bins from first on.
type melFilter struct {
	first   int
	weights []float64
}

// melFilters are triangles that overlap by half, from least to most Hz, over bins from 0
// to half the rate.
func melFilters(scale melScale, filters, bins int, least, most, rate float64) []melFilter {
	edges := make([]float64, filters+2)
	lo, hi := scale.fromHertz(least), scale.fromHertz(most)
	for i := range edges {
		edges[i] = scale.toHertz(lo + (hi-lo)*float64(i)/float64(filters+1))
	}
	list := make([]melFilter, filters)
	for m := range list {
		a, b, c := edges[m], edges[m+1], edges[m+2]
		area := 1.0
		if scale.norm {
			area = 2 / (c - a)
		}
		for k := range bins {
			f := math.Floor(rate/2) * float64(k) / float64(bins-1)
			v := min((f-a)/(b-a), (c-f)/(c-b)) * area
			if !(v > 0) {
				continue
			}
			if list[m].weights == nil {
				list[m].first = k
			}
			list[m].weights = append(list[m].weights, v)
		}
	}
	return list
}

// spectrogram computes mel spectrograms: Hann windows, squared magnitudes, centred
// frames over a sound that is mirrored at its ends.
type spectrogram struct {
	size, hop int
	filters   []melFilter
}

// hann is the periodic Hann window.
func hann(n int) []float64 {
	w := make([]float64, n)
	for i := range w {
		w[i] = 0.5 - 0.5*math.Cos(2*math.Pi*float64(i)/float64(n))
	}
	return w
}

// frames is how many frames there are of so many samples.
func (s *spectrogram) frames(samples int) int { return samples/s.hop + 1 }

// compute calls each with every frame's power by filter, which lasts until it returns.
// The sound is that of x, and zeros up to samples.
func (s *spectrogram) compute(x []float32, samples int, each func(frame int, mel []float64)) {
	fft := fourier.NewFFT(s.size)
	w := hann(s.size)
	frame, spectrum := make([]float64, s.size), make([]complex128, s.size/2+1)
	power, mel := make([]float64, s.size/2+1), make([]float64, len(s.filters))
	at := func(i int) float64 {
		// Mirrored without the sample at the end, as often as it takes.
		if period := 2 * (samples - 1); period == 0 {
			i = 0
		} else if i = ((i % period) + period) % period; i >= samples {
			i = period - i
		}
		if i >= len(x) {
			return 0
		}
		return float64(x[i])
	}
	for f := range s.frames(samples) {
		begin := f*s.hop - s.size/2
		quiet := begin >= len(x) && begin+s.size <= samples
		if quiet {
			clear(mel)
			each(f, mel)
			continue
		}
		for i := range frame {
			if k := begin + i; k >= 0 && k < len(x) {
				frame[i] = float64(x[k]) * w[i]
			} else {
				frame[i] = at(k) * w[i]
			}
		}
		for k, c := range fft.Coefficients(spectrum, frame) {
			power[k] = real(c)*real(c) + imag(c)*imag(c)
		}
		for m, t := range s.filters {
			var sum float64
			for k, v := range t.weights {
				sum += v * power[t.first+k]
			}
			mel[m] = sum
		}
		each(f, mel)
	}
}
