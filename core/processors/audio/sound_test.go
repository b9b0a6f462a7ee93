package audio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// amplitude of a tone in the middle of a sound, and the root mean square of what the
// tones of testdata leave there.
func tones(x []float32, rate int) (a440, a1000, rest float64) {
	x = x[len(x)/5 : len(x)*4/5]
	// Whole periods of 40 Hz, so that the tones don't disturb one another.
	n := len(x) / (rate / 40) * (rate / 40)
	left := make([]float64, n)
	for i := range left {
		left[i] = float64(x[i])
	}
	take := func(f float64) float64 {
		var c, s float64
		for i, v := range left {
			w := 2 * math.Pi * f * float64(i) / float64(rate)
			c, s = c+v*math.Cos(w), s+v*math.Sin(w)
		}
		c, s = c*2/float64(n), s*2/float64(n)
		for i := range left {
			w := 2 * math.Pi * f * float64(i) / float64(rate)
			left[i] -= c*math.Cos(w) + s*math.Sin(w)
		}
		return math.Hypot(c, s)
	}
	a440, a1000 = take(440), take(1000)
	for _, v := range left {
		rest += v * v
	}
	return a440, a1000, math.Sqrt(rest / float64(n))
}

func TestSounds(t *testing.T) {
	for _, tt := range []struct {
		file, format   string
		rate, channels int
		samples        int
		loud           float64 // of the mean of the channels
		rest           float64 // the most that the codec adds
	}{
		{"stereo16.flac", "FLAC", 44100, 2, 13230, 0.75, 1e-4},
		{"mono24.flac", "FLAC", 16000, 1, 4800, 1, 1e-6},
		{"stereo.ogg", "Ogg Vorbis", 44100, 2, 13230, 0.75, 0.01},
		{"mono.ogg", "Ogg Vorbis", 16000, 1, 4800, 1, 0.01},
		{"celt.opus", "Ogg Opus", 48000, 2, 14712, 0.75, 0.01},
		{"silk.opus", "Ogg Opus", 48000, 1, 14712, 1, 0.05},
		{"stereo.mp3", "MP3", 44100, 2, 13230, 0.75, 0.01},
		{"mono16000.mp3", "MP3", 16000, 1, 4800, 1, 0.01},
		{"mono22050.mp3", "MP3", 22050, 1, 6615, 1, 0.01},
		{"stereo22050.mp3", "MP3", 22050, 2, 6615, 0.75, 0.01},
		{"mono11025.mp3", "MP3", 11025, 1, 3307, 1, 0.01},
	} {
		t.Run(tt.file, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", tt.file))
			if err != nil {
				t.Fatal(err)
			}
			s, err := Open(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if s.Format() != tt.format || s.Rate() != tt.rate || s.Channels() != tt.channels {
				t.Errorf("found %s, %d Hz, %d channels", s.Format(), s.Rate(), s.Channels())
			}
			x, err := collect(s)
			if err != nil {
				t.Fatal(err)
			}
			if len(x) != tt.samples || len(s.Notes()) > 0 {
				t.Errorf("found %d samples, wanted %d; notes %q", len(x), tt.samples, s.Notes())
			}
			low, high, rest := tones(x, tt.rate)
			t.Logf("440 Hz %.4f, 1000 Hz %.4f, rest %.6f", low, high, rest)
			if math.Abs(low/tt.loud-0.3) > 0.02 || math.Abs(high/tt.loud-0.2) > 0.02 || rest > tt.rest {
				t.Errorf("440 Hz has %.4f, 1000 Hz %.4f, the rest %.6f", low, high, rest)
			}
			if n, err := s.Read(make([]float32, 1)); n != 0 || err != io.EOF {
				t.Errorf("after the end: %d, %v", n, err)
			}
			if got := readAll(t, iotest.OneByteReader(bytes.NewReader(data)), 0); !slices.Equal(got, x) {
				t.Error("it sounds differently byte by byte")
			}
			broken := errors.New("the line is broken")
			s, err = Open(io.MultiReader(bytes.NewReader(data[:len(data)*3/4]), iotest.ErrReader(broken)))
			if err == nil {
				_, err = collect(s)
			}
			if !errors.Is(err, broken) {
				t.Errorf("a reader's error became %v", err)
			}
		})
	}
}

// wavFile writes a WAV file; size is what the header says of the data, -1: what is there.
func wavFile(code, bits, channels, rate int, data []byte, size int64, extensible bool) []byte {
	if size < 0 {
		size = int64(len(data))
	}
	var b bytes.Buffer
	le := func(v ...any) {
		for _, x := range v {
			if err := binary.Write(&b, binary.LittleEndian, x); err != nil {
				panic(err)
			}
		}
	}
	b.WriteString("RIFF")
	le(uint32(36 + len(data)))
	b.WriteString("WAVEJUNK")
	le(uint32(3), [4]byte{}) // padded to an even size
	b.WriteString("fmt ")
	frame := channels * bits / 8
	if extensible {
		le(uint32(40), uint16(wavExtensible), uint16(channels), uint32(rate), uint32(rate*frame), uint16(frame), uint16(bits), uint16(22), uint16(bits), uint32(0), uint16(code))
		b.WriteString("\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71")
	} else {
		le(uint32(16), uint16(code), uint16(channels), uint32(rate), uint32(rate*frame), uint16(frame), uint16(bits))
	}
	b.WriteString("data")
	le(uint32(size))
	b.Write(data)
	return b.Bytes()
}

func TestWAV(t *testing.T) {
	le := func(v any) []byte {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	rf64 := append([]byte("RF64\xff\xff\xff\xffWAVEds64\x1c\x00\x00\x00"), le([]uint64{100, 4, 2})...)
	rf64 = append(rf64, 0, 0, 0, 0)
	rf64 = append(rf64, wavFile(wavPCM, 16, 1, 8000, le([]int16{16384, -32768, 77}), math.MaxUint32, false)[12:]...)
	pcm16 := le([]int16{16384, -32768, 0, 32767})
	for _, tt := range []struct {
		name string
		file []byte
		want []float32
		note string
	}{
		{"8 bits", wavFile(wavPCM, 8, 1, 8000, []byte{0, 64, 128, 255}, -1, false), []float32{-1, -0.5, 0, 127. / 128}, ""},
		{"16 bits", wavFile(wavPCM, 16, 1, 8000, pcm16, -1, false), []float32{0.5, -1, 0, 32767. / 32768}, ""},
		{"24 bits", wavFile(wavPCM, 24, 1, 8000, []byte{0, 0, 0x40, 0, 0, 0x80, 0xff, 0xff, 0xff}, -1, false), []float32{0.5, -1, -1. / (1 << 23)}, ""},
		{"32 bits", wavFile(wavPCM, 32, 1, 8000, le([]int32{1 << 30, math.MinInt32}), -1, true), []float32{0.5, -1}, ""},
		{"float32", wavFile(wavFloat, 32, 1, 8000, le([]float32{0.25, -1.5}), -1, false), []float32{0.25, -1.5}, ""},
		{"float64", wavFile(wavFloat, 64, 1, 8000, le([]float64{0.25, -1.5}), -1, true), []float32{0.25, -1.5}, ""},
		{"A-law", wavFile(wavALaw, 8, 1, 8000, []byte{0xd5, 0x55, 0xaa, 0x2a}, -1, false), []float32{8. / 32768, -8. / 32768, 32256. / 32768, -32256. / 32768}, ""},
		{"mu-law", wavFile(wavMuLaw, 8, 1, 8000, []byte{0xff, 0x80, 0x00}, -1, false), []float32{0, 32124. / 32768, -32124. / 32768}, ""},
		{"two channels", wavFile(wavPCM, 16, 2, 8000, pcm16, -1, true), []float32{-0.25, 32767. / 65536}, ""},
		{"a stream's header of zero", wavFile(wavPCM, 16, 1, 8000, pcm16, 0, false), []float32{0.5, -1, 0, 32767. / 32768}, ""},
		{"a stream's header of all there is", wavFile(wavPCM, 16, 1, 8000, pcm16, math.MaxUint32, false), []float32{0.5, -1, 0, 32767. / 32768}, ""},
		{"a header that says too much", wavFile(wavPCM, 16, 1, 8000, pcm16, 1000, false), []float32{0.5, -1, 0, 32767. / 32768}, "ends 992 bytes before its header says"},
		{"half a sample", wavFile(wavPCM, 16, 1, 8000, pcm16[:7], 8, false), []float32{0.5, -1, 0}, "ends inside a sample"},
		{"something behind", append(wavFile(wavPCM, 16, 1, 8000, pcm16[:4], -1, false), "LIST\x04\x00\x00\x00abcd"...), []float32{0.5, -1}, ""},
		{"past 4 GiB", rf64, []float32{0.5, -1}, ""},
		{"nothing", wavFile(wavPCM, 16, 1, 8000, nil, -1, false), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(bytes.NewReader(tt.file))
			if err != nil {
				t.Fatal(err)
			}
			got, err := collect(s)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("found %v, %v, wanted %v", got, err, tt.want)
			}
			if notes := strings.Join(s.Notes(), "; "); (tt.note == "") != (notes == "") || !strings.Contains(notes, tt.note) {
				t.Errorf("notes are %q, wanted %q", notes, tt.note)
			}
		})
	}
}

func TestRefusedSounds(t *testing.T) {
	wav := func(change func([]byte)) []byte {
		b := wavFile(wavPCM, 16, 1, 8000, make([]byte, 8), -1, false)
		change(b)
		return b
	}
	at := bytes.Index(wav(func([]byte) {}), []byte("fmt ")) + 8
	file := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	// vorbis changes a header of a Vorbis file.
	vorbis := func(number int, change func([]byte)) []byte {
		data := file("mono.ogg")
		at, n := 0, 0
		for page := data; n < number; {
			segments := int(page[26])
			body := 27 + segments
			for _, lacing := range page[27:body] {
				if at == 0 && n == number-1 {
					change(page[body:])
				}
				body += int(lacing)
				if at = 1; lacing < 255 {
					at, n = 0, n+1
				}
			}
			clear(page[22:26])
			binary.LittleEndian.PutUint32(page[22:], oggSum(page[:body]))
			page = page[body:]
		}
		return data
	}
	opus := file("silk.opus")
	families := slices.Clone(opus)
	families[28+18] = 1
	clear(families[22:26])
	binary.LittleEndian.PutUint32(families[22:], oggSum(families[:28+19]))
	nan := make([]byte, 4)
	binary.LittleEndian.PutUint32(nan, math.Float32bits(float32(math.NaN())))
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "it is empty"},
		{"text", []byte("hello there, this is no sound"), `begins with "hello there,", which is no format`},
		{"MP4", []byte("\x00\x00\x00\x20ftypM4A "), "MP4 or M4A: this format is not read"},
		{"WebM", []byte("\x1a\x45\xdf\xa3\x9fB\x86\x81"), "WebM or Matroska"},
		{"AAC", []byte("\xff\xf1\x50\x80\x00\x1f\xfc"), "AAC: this format"},
		{"AIFF", []byte("FORM\x00\x00\x00\x00AIFF"), "AIFF"},
		{"ADPCM", wav(func(b []byte) { b[at] = 2 }), "its samples are Microsoft ADPCM of 16 bits"},
		{"12 bits of floating point", wav(func(b []byte) { b[at] = 3 }), "its samples are floating point of 16 bits"},
		{"an unknown code", wav(func(b []byte) { b[at] = 0x77 }), "format 119"},
		{"no channels", wav(func(b []byte) { b[at+2] = 0 }), "0 channels"},
		{"60000 channels", wav(func(b []byte) { b[at+2], b[at+3] = 0x60, 0xea }), "60000 channels"},
		{"a block of another size", wav(func(b []byte) { b[at+12] = 3 }), "1 channels of 16 bits have 3 bytes"},
		{"no rate", wav(func(b []byte) { clear(b[at+4 : at+8]) }), "a second has 0 samples"},
		{"4 GHz", wav(func(b []byte) { b[at+7] = 0xff }), "wanted 1000 to 1048576"},
		{"no format", []byte("RIFF\x00\x00\x00\x00WAVEdata\x00\x00\x00\x00"), "its samples stand before their format"},
		{"only a head", []byte("RIFF\x00\x00\x00\x00WAVEfmt \xff\xff\xff\xff\x01\x00"), "it ends too early"},
		{"no data", wav(func([]byte) {})[:at+16], "it ends before its samples"},
		{"not a number", wavFile(wavFloat, 32, 1, 8000, nan, -1, false), "a sample is NaN"},
		{"a tag without a sound", []byte("ID3\x04\x00\x00\x00\x00\x00\x7f"), "it ends inside its tag"},
		{"a tag of no size", []byte("ID3\x04\x00\x00\x80\x00\x00\x7f"), "the size of its tag"},
		{"MP3 of free format", append([]byte("\xff\xfb\x00\xc0"), make([]byte, 500)...), "its frames do not say how long they are"},
		{"MP3 at 8 kHz", file("mono8000.mp3"), "it has 8000 samples a second"},
		{"several Opus streams in one", families, "mapping family 1"},
		{"a page that was changed", append(append(slices.Clone(opus[:200]), opus[200]^1), opus[201:]...), "checksum"},
		{"more comments than bytes", vorbis(2, func(p []byte) { binary.LittleEndian.PutUint32(p[11+binary.LittleEndian.Uint32(p[7:]):], 1<<31) }), "says that there are 2147483648 comments"},
		{"codebooks without end", vorbis(3, func(p []byte) { copy(p[11:], "\xff\xff\xff\xff\xff") }), "codebooks have 1099494785025 numbers or more"},
		{"a codebook of nothing", vorbis(3, func(p []byte) { copy(p[11:], "\x01\x00\x00\x00\x00") }), "codebooks have 0 numbers"},
		{"a cut FLAC", file("stereo16.flac")[:300], "it ends too early"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Open(bytes.NewReader(tt.data))
			if err == nil {
				_, err = collect(s)
			}
			var bad *FormatError
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("found %v, wanted a *FormatError with %q", err, tt.want)
			}
		})
	}
}

// TestCutOpus hears what is there of a recording that was cut, and says so.
func TestCutOpus(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "silk.opus"))
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndex(data, []byte("OggS"))
	data[last+5] &^= 4 // as if there were another
	clear(data[last+22 : last+26])
	binary.LittleEndian.PutUint32(data[last+22:], oggSum(data[last:]))
	s, err := Open(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	x, err := collect(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(x) == 0 || !strings.Contains(strings.Join(s.Notes(), ""), "ends before its last page") {
		t.Errorf("%d samples, notes %q", len(x), s.Notes())
	}
}

// TestCutMP3 begins in the middle, where data of the first frames are not there.
func TestCutMP3(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "stereo22050.mp3"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(bytes.NewReader(data[bytes.Index(data[1500:], []byte{0xff, 0xf3})+1500:]))
	if err != nil {
		t.Fatal(err)
	}
	x, err := collect(s)
	if err != nil {
		t.Fatal(err)
	}
	if low, high, rest := tones(x, 22050); len(x) < 5000 || math.Abs(low-0.225) > 0.02 || math.Abs(high-0.15) > 0.02 || rest > 0.01 {
		t.Errorf("%d samples: 440 Hz has %.4f, 1000 Hz %.4f, the rest %.6f", len(x), low, high, rest)
	}
}

// FuzzSound opens any bytes as a sound and hears it out.
func FuzzSound(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.*"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, ".py") {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(wavFile(wavPCM, 24, 2, 44100, make([]byte, 60), 1000, true))
	f.Add(wavFile(wavFloat, 64, 1, 8000, make([]byte, 64), 0, false))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Open(bytes.NewReader(data))
		block := make([]float32, 1000)
		for heard := 0; err == nil && heard < 1<<22; {
			var n int
			n, err = s.Read(block)
			if n == 0 && err == nil {
				t.Fatal("neither a sample nor an error")
			}
			heard += n
		}
		var bad *FormatError
		if err != nil && err != io.EOF && !errors.As(err, &bad) {
			t.Fatalf("%T: %v", err, err)
		}
	})
}
