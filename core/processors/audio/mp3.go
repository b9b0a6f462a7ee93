package audio

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/hajimehoshi/go-mp3"
)

// mp3Decoder decodes MPEG 1 and 2 Audio Layer III (ISO/IEC 11172-3, 13818-3). The library
// gives two channels of 16 bits whatever the file has; those of a mono file are the same.
type mp3Decoder struct {
	d        *mp3.Decoder
	repacker *mp3Repacker // what d reads instead of the file; nil: the file
	channels int
	skip     int64 // samples of a channel at the start that are not to be heard
	left     int64 // samples of a channel that are to be heard; -1: not known
	buffer   [4 * blockFrames]byte
}

// mp3Header is the header of a frame.
type mp3Header struct {
	version  int // 1, 2, or 3 for MPEG 2.5
	rate     int
	channels int
	size     int  // bytes of the frame; 0: the header does not say
	side     int  // bytes of side information
	sum      bool // a checksum stands before it
}

var mp3Rates = [3]int{44100, 48000, 32000}

// mp3Bitrates are in kbit/s, of MPEG 1 and of the others.
var mp3Bitrates = [2][15]int{
	{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320},
	{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160},
}

// isMP3 knows the header of a frame of layer III.
func isMP3(h []byte) bool {
	return len(h) > 3 && h[0] == 0xff && h[1]&0xe6 == 0xe2 && h[1]&0x18 != 0x08 && h[2]&0xf0 != 0xf0 && h[2]&0x0c != 0x0c
}

func parseMP3(h []byte) mp3Header {
	f := mp3Header{version: map[byte]int{0x18: 1, 0x10: 2, 0x00: 3}[h[1]&0x18], channels: 2, side: 17, sum: h[1]&1 == 0}
	if h[3]>>6 == 3 {
		f.channels, f.side = 1, 9
	}
	f.rate = mp3Rates[h[2]>>2&3] >> (f.version - 1)
	// A frame of MPEG 1 has 1152 samples of a channel, others have 576.
	bytes, rates := 72000, 1
	if f.version == 1 {
		bytes, rates = 144000, 0
		f.side = map[int]int{1: 17, 2: 32}[f.channels]
	}
	if bitrate := mp3Bitrates[rates][h[2]>>4]; bitrate > 0 {
		f.size = bytes*bitrate/f.rate + int(h[2]>>1&1)
	}
	return f
}

func openMP3(r *bufio.Reader) (decoder, int, int, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, 0, 0, noEOF(err)
	}
	f := parseMP3(head)
	d := &mp3Decoder{channels: f.channels, left: -1}
	if err := d.skipInfo(r, f); err != nil {
		return nil, 0, 0, err
	}
	src := plain{r}
	switch {
	case f.size == 0:
		return nil, 0, 0, &FormatError{Format: "MP3", Found: "its frames do not say how long they are, which is not read", Remedy: mp3Remedy}
	case f.rate == 8000:
		return nil, 0, 0, &FormatError{Format: "MP3", Found: "it has 8000 samples a second, which is not read", Remedy: mp3Remedy}
	case f.version == 3 || f.rate == 22050:
		d.repacker = &mp3Repacker{r: r, first: f}
		src = plain{d.repacker}
	}
	if d.d, err = mp3.NewDecoder(src); err != nil {
		return nil, 0, 0, noEOF(err)
	}
	return d, f.rate, f.channels, nil
}

const mp3Remedy = "convert it, as with ffmpeg -i SOUND sound.flac"

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
		if f.version != 1 {
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

func (d *mp3Decoder) notes() []string {
	// Of the first frame of a sound that was cut out of another, the data are never there.
	if d.repacker == nil || d.repacker.lost < 2 {
		return nil
	}
	return []string{fmt.Sprintf("%d frames of the MP3 file are silent, for their data are not there or have no room", d.repacker.lost)}
}

// mp3Repacker makes frames that the library can read of those that it can't: of MPEG 2 at
// 22050 Hz it loses the byte that some are padded by, and it knows nothing of MPEG 2.5.
// Frames become larger ones without padding, of MPEG 2, at a rate whose bands are the
// same; what they say stays, to the bit. (A frame's data may begin in those before it, by
// a distance that its side information begins with, so the data are laid out anew.)
type mp3Repacker struct {
	r     *bufio.Reader
	first mp3Header // every frame is like it

	behind []byte // the last of the data that was read, at most mp3Reach
	out    []byte // ready to be read
	held   []byte // the last frame, whose data may still be added to
	room   int    // bytes at its end that are free
	ended  bool
	lost   int // frames that are silent because their data are not there, or there was no room
}

// mp3Reach is how far before its frame data may begin in MPEG 2.
const mp3Reach = 255

func (p *mp3Repacker) Read(b []byte) (int, error) {
	for len(p.out) == 0 {
		if p.ended {
			return 0, io.EOF
		}
		if err := p.next(); err != nil && err != io.EOF {
			return 0, err
		} else if err == io.EOF {
			p.ended, p.out = true, p.held
		}
	}
	n := copy(b, p.out)
	p.out = p.out[n:]
	return n, nil
}

// next reads a frame; the one before it is then ready.
func (p *mp3Repacker) next() error {
	f, frame, err := p.frame()
	if err != nil {
		return err
	}
	at := 4
	if f.sum {
		at += 2
	}
	side := frame[at : at+f.side]
	fresh := frame[at+f.side:]

	// The side information: where the data begin (8 bits), private bits (1 of mono, 2 of
	// stereo), and for each channel of 63 bits the length of its data (12 bits), in bits.
	reader := highBits{data: side}
	back := int(reader.read(8))
	reader.at += f.channels
	bits := 0
	for range f.channels {
		bits += int(reader.read(12))
		reader.at += 63 - 12
	}
	length := (bits + 7) / 8
	all := append(p.behind, fresh...)
	begin := len(all) - len(fresh) - back
	var data []byte
	if begin >= 0 && begin+length <= len(all) {
		data = all[begin : begin+length]
	} else {
		p.lost++
	}

	// The largest frame there is, 160 kbit/s, without padding and checksum.
	head := [4]byte{0xff, 0xf3, 0xe0, frame[3]}
	rate := 22050
	if f.version == 3 {
		head[2] |= 2 << 2
		rate = 16000
	}
	made := make([]byte, 144*160000/rate>>1)
	copy(made, head[:])
	copy(made[4:], side)
	if data == nil {
		clear(made[4 : 4+f.side])
	}
	area := made[4+f.side:]
	// As much as can be goes to the end of the frame before, so that there is room for
	// frames that are longer than the largest.
	early := min(len(data), p.room, mp3Reach)
	if len(data)-early > len(area) {
		p.lost++
		clear(made[4 : 4+f.side])
		data, early = nil, 0
	}
	made[4] = byte(early)
	copy(p.held[len(p.held)-early:], data[:early])
	copy(area, data[early:])
	p.out, p.held, p.room = p.held, made, len(area)-len(data[early:])
	p.behind = append(p.behind[:0], all[max(0, len(all)-mp3Reach):]...)
	return nil
}

// frame reads the next frame that is like the first, past what is none.
func (p *mp3Repacker) frame() (mp3Header, []byte, error) {
	for {
		head, err := p.r.Peek(4)
		if err != nil {
			return mp3Header{}, nil, ended(err)
		}
		f := mp3Header{}
		if isMP3(head) {
			f = parseMP3(head)
		}
		least := 4 + f.side
		if f.sum {
			least += 2
		}
		if f.version != p.first.version || f.rate != p.first.rate || f.channels != p.first.channels || f.size < least {
			if _, err := p.r.Discard(1); err != nil {
				return f, nil, ended(err)
			}
			continue
		}
		frame := make([]byte, f.size)
		_, err = io.ReadFull(p.r, frame)
		return f, frame, ended(err)
	}
}

// ended makes the end inside a frame an end.
func ended(err error) error {
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	return err
}

// highBits takes numbers out of bytes, the highest bit first.
type highBits struct {
	data []byte
	at   int // bit
}

func (r *highBits) read(n int) (v uint32) {
	for range n {
		v = v<<1 | uint32(r.data[r.at/8]>>(7-r.at%8)&1)
		r.at++
	}
	return v
}
