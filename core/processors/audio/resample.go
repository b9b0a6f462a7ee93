package audio

import (
	"fmt"
	"io"
	"math"
	"sync"
)

// Resampling is by a sinc under a Kaiser window (Smith, "Digital Audio Resampling",
// ccrma.stanford.edu/~jos/resample), which lets through what lies below cutoff of the
// lower rate's half and stops what lies above the half.
const (
	crossings = 48   // of zero, on each side of the sinc
	cutoff    = 0.94 // of half the lower rate, in the middle of the band where it falls
	kaiser    = 9.0  // beta: stops 90 dB
	fine      = 1 << 12
	// maxPhases is how many numbers of ready filters are kept; past it each sample's is
	// made anew.
	maxPhases = 1 << 20
)

// window is the right half of the windowed sinc, fine values from one crossing to
// the next; between them it is taken to be straight, which is off by 3e-8.
var window = sync.OnceValue(func() []float64 {
	w := make([]float64, crossings*fine+2)
	for i := range w[:crossings*fine+1] {
		x := float64(i) / fine
		sinc := 1.0
		if i > 0 {
			sinc = math.Sin(math.Pi*x) / (math.Pi * x)
		}
		r := x / crossings
		w[i] = sinc * bessel(kaiser*math.Sqrt(max(1-r*r, 0))) / bessel(kaiser)
	}
	return w
})

// bessel is the modified Bessel function of the first kind and order 0.
func bessel(x float64) float64 {
	sum, term := 1.0, 1.0
	for k := 1.0; term > sum*1e-17; k++ {
		term *= x / 2 / k * (x / 2 / k)
		sum += term
	}
	return sum
}

// resampler changes the rate of a source.
type resampler struct {
	src      Source
	up, down int64   // a sample of the source is up/down samples here
	step     float64 // of the sinc's argument from one sample of the source to the next
	taps     int     // of the source on each side
	phases   [][]float32
	scratch  []float32
	have     []float32 // of the source, from sample first on
	first    int64
	next     int64 // sample to be given out
	total    int64 // samples of the source; -1: its end was not seen
	err      error // of the source, once have is used up
}

// Resample gives a source another rate. It neither delays nor shifts: sample i is at
// i/rate seconds. A source of n samples becomes one of n*rate/Rate(), rounded up. What
// the lower of the two rates can't hold is filtered out.
func Resample(src Source, rate int) (Source, error) {
	from := src.Rate()
	if from == rate {
		return src, nil
	}
	if rate < minRate || rate > maxRate {
		return nil, fmt.Errorf("sound: a rate of %d Hz was asked for, wanted %d to %d", rate, minRate, maxRate)
	}
	d := gcd(int64(from), int64(rate))
	r := &resampler{src: src, up: int64(rate) / d, down: int64(from) / d, total: -1}
	r.step = cutoff * min(1, float64(rate)/float64(from))
	r.taps = int(math.Ceil(crossings / r.step))
	r.scratch = make([]float32, 2*r.taps)
	if r.up*int64(len(r.scratch)) <= maxPhases {
		r.phases = make([][]float32, r.up)
	}
	return r, nil
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Rate is Source's.
func (r *resampler) Rate() int { return int(int64(r.src.Rate()) / r.down * r.up) }

// Read is Source's.
func (r *resampler) Read(dst []float32) (int, error) {
	for i := range dst {
		at := r.next * r.down / r.up // the source's sample at or before it
		if err := r.fill(at + int64(r.taps) + 1); err != nil {
			return i, err
		}
		if r.total >= 0 && r.next*r.down >= r.total*r.up {
			if r.err == nil {
				r.err = io.EOF
			}
			if i > 0 {
				return i, nil
			}
			return 0, r.err
		}
		filter := r.filter(r.next * r.down % r.up)
		begin := at - int64(r.taps) + 1 // of the filter's first number
		lo := max(0, -begin)
		if begin < r.first {
			lo = max(lo, r.first-begin)
		}
		hi := min(int64(len(filter)), r.first+int64(len(r.have))-begin)
		dst[i] = 0
		if lo < hi {
			dst[i] = dot(filter[lo:hi], r.have[begin+lo-r.first:begin+hi-r.first])
		}
		r.next++
	}
	return len(dst), nil
}

// dot is the sum of products; four sums at a time don't wait for one another.
func dot(a, b []float32) float32 {
	var s0, s1, s2, s3 float32
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		x, y := a[i:i+4:i+4], b[i:i+4:i+4]
		s0 += x[0] * y[0]
		s1 += x[1] * y[1]
		s2 += x[2] * y[2]
		s3 += x[3] * y[3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return (s0 + s1) + (s2 + s3)
}

// fill reads the source up to its sample end, and forgets what is no longer of use.
func (r *resampler) fill(end int64) error {
	for r.total < 0 && r.first+int64(len(r.have)) < end {
		if old := r.next*r.down/r.up - int64(r.taps) - r.first; old > int64(len(r.have))/2 && old > blockFrames {
			r.have = append(r.have[:0], r.have[min(old, int64(len(r.have))):]...)
			r.first += old
		}
		n := len(r.have)
		if cap(r.have)-n < blockFrames {
			r.have = append(make([]float32, 0, 2*cap(r.have)+2*blockFrames), r.have...)
		}
		got, err := r.src.Read(r.have[n : n+blockFrames])
		r.have = r.have[:n+got]
		switch {
		case err == io.EOF:
			r.total = r.first + int64(len(r.have))
		case err != nil:
			return err
		}
	}
	return nil
}

// filter is what the samples around a place are multiplied with, by how far the place
// lies behind the sample before it, in 1/up.
func (r *resampler) filter(phase int64) []float32 {
	f := r.scratch
	if r.phases != nil {
		if r.phases[phase] != nil {
			return r.phases[phase]
		}
		f = make([]float32, len(r.scratch))
		r.phases[phase] = f
	}
	w := window()
	behind := float64(phase) / float64(r.up)
	var sum float64
	for i := range f {
		x := math.Abs(float64(i-r.taps+1)-behind) * r.step * fine
		v := 0.0
		if at := int(x); at < crossings*fine {
			v = w[at] + (w[at+1]-w[at])*(x-float64(at))
		}
		sum += v
		f[i] = float32(v)
	}
	scale := float32(1 / sum) // so that what is constant stays so
	for i := range f {
		f[i] *= scale
	}
	return f
}
