// Package audio makes models' inputs of people's sounds: it reads WAV, FLAC, MP3 and
// Ogg (Vorbis, Opus) files, mixes channels down, changes sampling rates, and computes
// what a model's preprocessor_config.json asks for. Sounds come in pieces, so that
// memory is bounded whatever their length.
package audio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// FormatError says that a sound can't be read.
type FormatError struct {
	Format string // such as "WAV"; empty: it was not found out
	Found  string
	Remedy string // empty where there is none
}

func (e *FormatError) Error() string {
	s := "sound: "
	if e.Format != "" {
		s += e.Format + ": "
	}
	s += e.Found
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

// Source is one channel of sound.
type Source interface {
	// Rate is how many samples a second has, in Hz.
	Rate() int
	// Read fills dst with the next samples, full scale being 1. It returns how many
	// there are, at least one unless there is an error; io.EOF at the end.
	Read(dst []float32) (int, error)
}

// Sound is a sound that is being decoded. It is a Source: the mean of its channels.
type Sound struct {
	format   string
	rate     int
	channels int
	decoder  decoder
	buffer   []float32 // interleaved
	err      error     // after which nothing can be read
}

// decoder decodes a format.
type decoder interface {
	// decode fills dst, whose length is a multiple of the channels, with interleaved
	// samples. It returns how many it wrote, a multiple of the channels and at least one
	// frame unless there is an error; io.EOF at the end.
	decode(dst []float32) (int, error)
	// notes say what was odd with what was read so far, a sentence each.
	notes() []string
}

// Bounds on what a header may say.
const (
	minRate     = 1000
	maxRate     = 1 << 20
	maxChannels = 256
)

// blockFrames is how many samples of each channel are decoded at a time.
const blockFrames = 4096

// Open begins to read a sound, of the format that its first bytes tell. It reads no
// more of r than it has use for, and never all of it at once. Errors that are not r's
// are *FormatError.
func Open(r io.Reader) (*Sound, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	if err := skipID3(b); err != nil {
		return nil, err
	}
	head, err := b.Peek(512)
	if len(head) == 0 {
		if err == io.EOF || err == nil {
			return nil, &FormatError{Found: "it is empty"}
		}
		return nil, err
	}
	f, err := sniff(head)
	if err != nil {
		return nil, err
	}
	s := &Sound{format: f.name}
	if err := s.guard(func() (err error) {
		s.decoder, s.rate, s.channels, err = f.open(b)
		return err
	}); err != nil {
		return nil, err
	}
	if s.rate < minRate || s.rate > maxRate {
		return nil, &FormatError{Format: f.name, Found: fmt.Sprintf("it says that a second has %d samples, wanted %d to %d", s.rate, minRate, maxRate)}
	}
	if s.channels < 1 || s.channels > maxChannels {
		return nil, &FormatError{Format: f.name, Found: fmt.Sprintf("it says that it has %d channels, wanted 1 to %d", s.channels, maxChannels)}
	}
	return s, nil
}

// Format is the name of the sound's format.
func (s *Sound) Format() string { return s.format }

// Rate is the sampling rate, in Hz.
func (s *Sound) Rate() int { return s.rate }

// Channels is how many channels the file has.
func (s *Sound) Channels() int { return s.channels }

// Notes say what was odd with the file, a sentence each, such as that it ends before
// its header says; all are known at the end.
func (s *Sound) Notes() []string { return s.decoder.notes() }

// Read is Source's.
func (s *Sound) Read(dst []float32) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	frames := min(len(dst), blockFrames)
	if frames == 0 {
		return 0, nil
	}
	if s.channels == 1 {
		n, err := s.decode(dst[:frames])
		return n, err
	}
	if s.buffer == nil {
		s.buffer = make([]float32, blockFrames*s.channels)
	}
	n, err := s.decode(s.buffer[:frames*s.channels])
	n /= s.channels
	for i := range n {
		var sum float64
		for _, v := range s.buffer[i*s.channels : (i+1)*s.channels] {
			sum += float64(v)
		}
		dst[i] = float32(sum / float64(s.channels))
	}
	return n, err
}

// decode is the decoder's decode, whose panics are errors.
func (s *Sound) decode(dst []float32) (n int, err error) {
	for range maxEmpty {
		err = s.guard(func() (err error) {
			n, err = s.decoder.decode(dst)
			return err
		})
		if n -= n % s.channels; n > 0 || err != nil {
			break
		}
	}
	if n == 0 && err == nil {
		err = &FormatError{Format: s.format, Found: "it has no samples where there should be some"}
	}
	if err != nil {
		s.err = err
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

// maxEmpty is how many blocks without samples may follow one another.
const maxEmpty = 1 << 12

// guard runs a step of a codec's library, which may panic on bytes that it did not
// expect, and gives its errors a type.
func (s *Sound) guard(step func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &FormatError{Format: s.format, Found: fmt.Sprintf("it is damaged: %v", r)}
		}
	}()
	err = step()
	var own *FormatError
	var read *readError
	switch {
	case err == nil, err == io.EOF, errors.As(err, &own):
		return err
	case errors.As(err, &read):
		return read.error
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{Format: s.format, Found: "it ends too early"}
	}
	return &FormatError{Format: s.format, Found: "it is damaged: " + err.Error()}
}

// readError marks an error of what a sound is read from, to be told from those of its
// format.
type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

// plain hides all that a reader can but Read, so that libraries don't look for a way
// to seek, and marks its errors.
type plain struct{ r io.Reader }

func (p plain) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}

// format is a kind of file.
type format struct {
	name string
	is   func(head []byte) bool
	open func(r *bufio.Reader) (decoder, int, int, error) // rate, channels
}

func begins(at int, magic string) func([]byte) bool {
	return func(head []byte) bool { return len(head) >= at && bytes.HasPrefix(head[at:], []byte(magic)) }
}

// ogg tells what an Ogg file's first packet begins with.
func ogg(magic string) func([]byte) bool {
	return func(head []byte) bool {
		if len(head) < 28 || !bytes.HasPrefix(head, []byte("OggS")) {
			return false
		}
		at := 27 + int(head[26])
		return len(head) > at && bytes.HasPrefix(head[at:], []byte(magic))
	}
}

// formats are those that are read.
var formats = []format{
	{"WAV", func(h []byte) bool { return begins(8, "WAVE")(h) && (begins(0, "RIFF")(h) || begins(0, "RF64")(h)) }, openWAV},
	{"FLAC", begins(0, "fLaC"), openFLAC},
	{"Ogg Vorbis", ogg("\x01vorbis"), openVorbis},
	{"Ogg Opus", ogg("OpusHead"), openOpus},
	{"MP3", isMP3, openMP3},
}

// others are formats that people have and that are not read.
var others = []struct {
	name string
	is   func([]byte) bool
}{
	{"Ogg FLAC", ogg("\x7fFLAC")},
	{"Ogg Speex", ogg("Speex   ")},
	{"MP4 or M4A", begins(4, "ftyp")},
	{"WebM or Matroska", begins(0, "\x1a\x45\xdf\xa3")},
	{"AIFF", begins(0, "FORM")},
	{"AU", begins(0, ".snd")},
	{"CAF", begins(0, "caff")},
	{"AMR", begins(0, "#!AMR")},
	{"WMA", begins(0, "\x30\x26\xb2\x75")},
	{"WAV with the bytes the other way round", begins(0, "RIFX")},
	{"AAC", func(h []byte) bool { return len(h) > 1 && h[0] == 0xff && h[1]&0xf6 == 0xf0 }},
}

func sniff(head []byte) (format, error) {
	for _, f := range formats {
		if f.is(head) {
			return f, nil
		}
	}
	const remedy = "WAV, FLAC, MP3, Ogg Vorbis and Ogg Opus are: convert it, as with ffmpeg -i SOUND sound.flac"
	for _, o := range others {
		if o.is(head) {
			return format{}, &FormatError{Format: o.name, Found: "this format is not read", Remedy: remedy}
		}
	}
	return format{}, &FormatError{Found: fmt.Sprintf("it begins with %q, which is no format of sound that is read", head[:min(len(head), 12)]), Remedy: remedy}
}

// skipID3 skips the tags that may stand before MP3 and FLAC
// (https://id3.org/id3v2.4.0-structure).
func skipID3(r *bufio.Reader) error {
	for range 8 {
		head, err := r.Peek(10)
		if err != nil || string(head[:3]) != "ID3" {
			return nil // Open sees it again
		}
		size := 10
		for i, b := range head[6:10] {
			if b >= 0x80 {
				return &FormatError{Format: "ID3", Found: "the size of its tag is no size"}
			}
			size += int(b) << (7 * (3 - i))
		}
		if head[5]&0x10 != 0 {
			size += 10 // a footer
		}
		if _, err := r.Discard(size); err == io.EOF {
			return &FormatError{Format: "ID3", Found: "it ends inside its tag"}
		} else if err != nil {
			return err
		}
	}
	return &FormatError{Format: "ID3", Found: "one tag follows another"}
}
