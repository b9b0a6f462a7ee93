package audio

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sine is a source of a tone, in pieces of odd sizes.
type sine struct {
	rate      int
	frequency float64
	at, total int
	rng       *rand.Rand
}

func (s *sine) Rate() int { return s.rate }

func (s *sine) Read(dst []float32) (int, error) {
	n := min(len(dst), s.total-s.at)
	if s.rng != nil {
		n = min(n, 1+s.rng.IntN(1000))
	}
	for i := range n {
		dst[i] = float32(math.Sin(2 * math.Pi * s.frequency * float64(s.at+i) / float64(s.rate)))
	}
	if s.at += n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestResample measures what becomes of tones: those that both rates hold stay what
// they are, to the sample; those that the lower rate can't hold are gone.
func TestResample(t *testing.T) {
	for _, rates := range [][2]int{{44100, 16000}, {48000, 16000}, {8000, 16000}, {22050, 16000}, {96000, 48000}, {44100, 48000}, {44101, 16000}, {11025, 48000}, {1000, 16000}} {
		from, to := rates[0], rates[1]
		half := float64(min(from, to)) / 2
		for _, at := range []float64{0.01, 0.3, 0.6, 0.88, 1.01, 1.3, 1.9} {
			f := at * half
			if f >= float64(from)/2 {
				continue // no tone of the source
			}
			t.Run(fmt.Sprintf("%d to %d Hz, %.0f Hz", from, to, f), func(t *testing.T) {
				total := from/2 + 13
				src, err := Resample(&sine{rate: from, frequency: f, total: total, rng: rand.New(rand.NewPCG(1, 1))}, to)
				if err != nil {
					t.Fatal(err)
				}
				x, err := collect(src)
				if err != nil {
					t.Fatal(err)
				}
				if want := (total*to + from - 1) / from; len(x) != want || src.Rate() != to {
					t.Errorf("%d samples of %d Hz, wanted %d", len(x), src.Rate(), want)
				}
				var noise, power float64
				edge := len(x) / 4
				for i := edge; i < len(x)-edge; i++ {
					want := 0.0
					if at < 1 {
						want = math.Sin(2 * math.Pi * f * float64(i) / float64(to))
					}
					noise += (float64(x[i]) - want) * (float64(x[i]) - want)
					power += 0.5
				}
				if snr := 10 * math.Log10(power/noise); !(snr > 80) {
					t.Errorf("%.1f dB", snr)
				}
			})
		}
	}
}

// TestResamplePieces holds that pieces are seamless, and ready filters those that are
// made anew.
func TestResamplePieces(t *testing.T) {
	tone := func(rng *rand.Rand) *sine { return &sine{rate: 44100, frequency: 700, total: 30000, rng: rng} }
	whole, err := Resample(tone(nil), 16000)
	if err != nil {
		t.Fatal(err)
	}
	want, err := collect(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(4) {
		rng := rand.New(rand.NewPCG(i, 2))
		src, err := Resample(tone(rng), 16000)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			src.(*resampler).phases = nil
		}
		var got []float32
		for err == nil {
			block := make([]float32, 1+rng.IntN(3000))
			var n int
			n, err = src.Read(block)
			got = append(got, block[:n]...)
		}
		if err != io.EOF || !slices.Equal(got, want) {
			t.Errorf("run %d: %v, %d samples, wanted %d", i, err, len(got), len(want))
		}
	}
	if same, err := Resample(whole, 16000); err != nil || same != whole {
		t.Errorf("the same rate gave %v, %v", same, err)
	}
	if _, err := Resample(whole, 10); err == nil {
		t.Error("10 Hz were accepted")
	}
}

// TestResampleMemory holds that what is kept does not grow with the sound.
func TestResampleMemory(t *testing.T) {
	src, err := Resample(&sine{rate: 44100, frequency: 100, total: 3_000_000}, 16000)
	if err != nil {
		t.Fatal(err)
	}
	r := src.(*resampler)
	block, heard, most := make([]float32, 16000), 0, 0
	for err == nil {
		var n int
		n, err = src.Read(block)
		heard, most = heard+n, max(most, cap(r.have))
	}
	if err != io.EOF || heard != 1088436 {
		t.Errorf("%d samples, %v", heard, err)
	}
	if most > 1<<16 {
		t.Errorf("%d samples were kept", most)
	}
}

func TestResampleShort(t *testing.T) {
	for n := range 5 {
		src, err := Resample(&sine{rate: 8000, frequency: 1, total: n}, 16000)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := collect(src); err != nil || len(x) != 2*n {
			t.Errorf("%d samples became %d, %v", n, len(x), err)
		}
	}
}
