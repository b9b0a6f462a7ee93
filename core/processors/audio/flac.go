package audio

import (
	"bufio"
	"fmt"
	"io"

	"github.com/mewkiz/flac"
)

// flacDecoder decodes FLAC (RFC 9639).
type flacDecoder struct {
	stream   *flac.Stream
	channels int
	rate     uint32
	block    []float32 // decoded and not yet given out, interleaved
	strange  []string
	read     uint64 // frames
}

func openFLAC(r *bufio.Reader) (decoder, int, int, error) {
	s, err := flac.New(plain{r})
	if err != nil {
		return nil, 0, 0, noEOF(err)
	}
	return &flacDecoder{stream: s, channels: int(s.Info.NChannels), rate: s.Info.SampleRate}, int(s.Info.SampleRate), int(s.Info.NChannels), nil
}

func (d *flacDecoder) decode(dst []float32) (int, error) {
	if len(d.block) == 0 {
		f, err := d.stream.ParseNext()
		if err != nil {
			if said := d.stream.Info.NSamples; err == io.EOF && said > d.read {
				d.strange = append(d.strange, fmt.Sprintf("the FLAC file ends %d samples before its header says, which is %d", said-d.read, said))
			}
			return 0, err
		}
		if n := len(f.Subframes); n != d.channels {
			return 0, &FormatError{Format: "FLAC", Found: fmt.Sprintf("it says that it has %d channels, and %d are there", d.channels, n)}
		}
		if f.SampleRate != 0 && f.SampleRate != d.rate {
			return 0, &FormatError{Format: "FLAC", Found: fmt.Sprintf("its rate changes from %d Hz to %d Hz", d.rate, f.SampleRate)}
		}
		bits := f.BitsPerSample
		if bits == 0 {
			bits = d.stream.Info.BitsPerSample
		}
		if bits < 4 || bits > 32 {
			return 0, &FormatError{Format: "FLAC", Found: fmt.Sprintf("its samples have %d bits", bits)}
		}
		scale := 1 / float64(uint64(1)<<(bits-1))
		n := len(f.Subframes[0].Samples)
		d.block = make([]float32, n*d.channels)
		for c, sub := range f.Subframes {
			for i, v := range sub.Samples[:n] {
				d.block[i*d.channels+c] = float32(float64(v) * scale)
			}
		}
		d.read += uint64(n)
	}
	n := copy(dst, d.block)
	d.block = d.block[n:]
	return n, nil
}

func (d *flacDecoder) notes() []string { return d.strange }
