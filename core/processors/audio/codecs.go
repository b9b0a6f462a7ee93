package audio

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/hajimehoshi/go-mp3"
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

// mp3Decoder decodes MPEG 1 and 2 Audio Layer III (ISO/IEC 11172-3, 13818-3). The library
// gives two channels of 16 bits whatever the file has; those of a mono file are the same.
type mp3Decoder struct {
	d        *mp3.Decoder
	channels int
	skip     int64 // samples of a channel at the start that are not to be heard
	left     int64 // samples of a channel that are to be heard; -1: not known
	buffer   [4 * blockFrames]byte
}

// mp3Header is the header of a frame.
type mp3Header struct {
	lsf      bool // MPEG 2: half the rates
	rate     int
	channels int
	size     int // bytes of the frame
	side     int // bytes of side information
}

var mp3Rates = [3]int{44100, 48000, 32000}

// mp3Bitrates are in kbit/s, by whether the rates are halved.
var mp3Bitrates = [2][15]int{
	{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320},
	{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160},
}

// isMP3 knows the header of a frame of layer III.
func isMP3(h []byte) bool {
	return len(h) > 3 && h[0] == 0xff && h[1]&0xe6 == 0xe2 && h[1]&0x18 != 0x08 && h[2]&0xf0 != 0xf0 && h[2]&0x0c != 0x0c
}

func parseMP3(h []byte) (f mp3Header) {
	f.lsf, f.channels = h[1]&0x08 == 0, 2
	if h[3]>>6 == 3 {
		f.channels = 1
	}
	half := 0
	f.side = map[int]int{1: 17, 2: 32}[f.channels]
	if f.lsf {
		half = 1
		f.side = map[int]int{1: 9, 2: 17}[f.channels]
	}
	f.rate = mp3Rates[h[2]>>2&3] >> half
	f.size = 144000*mp3Bitrates[half][h[2]>>4]/(f.rate<<half) + int(h[2]>>1&1)
	return f
}

func openMP3(r *bufio.Reader) (decoder, int, int, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, 0, 0, noEOF(err)
	}
	f := parseMP3(head)
	bad := func(found string) (decoder, int, int, error) {
		return nil, 0, 0, &FormatError{Format: "MP3", Found: found + ", which is not read", Remedy: "convert it, as with ffmpeg -i SOUND sound.flac"}
	}
	switch {
	case head[1]&0x18 == 0:
		return bad("it is of MPEG 2.5, with 8000 to 12000 samples a second")
	case f.lsf && f.rate == 22050:
		// The library loses the byte by which such frames are padded.
		return bad("it has 22050 samples a second")
	}
	d := &mp3Decoder{channels: f.channels, left: -1}
	if err := d.skipInfo(r, f); err != nil {
		return nil, 0, 0, err
	}
	if d.d, err = mp3.NewDecoder(plain{r}); err != nil {
		return nil, 0, 0, noEOF(err)
	}
	return d, d.d.SampleRate(), f.channels, nil
}

// mp3Delay is by how many samples decoders of MP3 are late.
const mp3Delay = 529

// skipInfo skips a first frame that is no sound: it has the tag that Xing began and
// LAME extended, which says how many samples at the start and the end are not to be
// heard (http://gabriel.mp3-tech.org/mp3infotag.html).
func (d *mp3Decoder) skipInfo(r *bufio.Reader, f mp3Header) error {
	frame, err := r.Peek(max(f.size, 4))
	if err != nil || len(frame) < 4+f.side+8 {
		return nil // the decoder says what is wrong
	}
	tag := frame[4+f.side:]
	if name := string(tag[:4]); name != "Xing" && name != "Info" {
		return nil
	}
	flags := binary.BigEndian.Uint32(tag[4:])
	at, frames := 8, int64(0)
	for bit, size := range []int{4, 4, 100, 4} { // frames, bytes, places to seek to, quality
		if flags>>bit&1 == 0 {
			continue
		}
		if len(tag) < at+size {
			return nil
		}
		if bit == 0 {
			frames = int64(binary.BigEndian.Uint32(tag[at:]))
		}
		at += size
	}
	if len(tag) >= at+24 && tag[at] != 0 {
		before := int64(tag[at+21])<<4 | int64(tag[at+22]>>4)
		behind := int64(tag[at+22]&0xf)<<8 | int64(tag[at+23])
		samples := frames * 1152
		if f.lsf {
			samples = frames * 576
		}
		d.skip = before + mp3Delay
		if frames > 0 && samples > before+behind {
			d.left = samples - before - behind
		}
	}
	_, err = r.Discard(f.size)
	return err
}

func (d *mp3Decoder) decode(dst []float32) (int, error) {
	for d.left != 0 {
		n, err := io.ReadAtLeast(d.d, d.buffer[:min(len(dst)/d.channels*4, len(d.buffer))&^3], 4)
		n = n &^ 3 / 4 // samples of a channel
		if n == 0 {
			return 0, err
		}
		cut := min(int64(n), d.skip)
		d.skip -= cut
		if n -= int(cut); n == 0 {
			continue
		}
		if d.left >= 0 {
			n = int(min(int64(n), d.left))
			d.left -= int64(n)
		}
		sound := d.buffer[4*cut:]
		for i := range n * d.channels {
			at := 2 * i
			if d.channels == 1 {
				at = 4 * i
			}
			dst[i] = float32(int16(binary.LittleEndian.Uint16(sound[at:]))) / (1 << 15)
		}
		return n * d.channels, nil
	}
	return 0, io.EOF
}

func (*mp3Decoder) notes() []string { return nil }
