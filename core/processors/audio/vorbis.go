package audio

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/jfreymuth/oggvorbis"
)

// Bounds on what Vorbis' headers may say, well above what encoders write.
const (
	vorbisPacket = 1 << 24 // bytes of a header: comments hold pictures
	vorbisBooks  = 1 << 21 // numbers in all codebooks
)

// vorbisDecoder decodes Vorbis (Xiph.Org's Vorbis I specification).
type vorbisDecoder struct{ r *oggvorbis.Reader }

// openVorbis reads the three headers twice: the library takes what memory they ask for.
func openVorbis(r *bufio.Reader) (decoder, int, int, error) {
	var seen bytes.Buffer
	ogg := oggReader{r: io.TeeReader(plain{r}, &seen), most: vorbisPacket}
	for _, check := range []func([]byte) error{func([]byte) error { return nil }, checkVorbisComments, checkVorbisSetup} {
		packet, _, err := ogg.packet()
		if err != nil {
			return nil, 0, 0, noEOF(err)
		}
		if err := check(packet); err != nil {
			return nil, 0, 0, err
		}
	}
	v, err := oggvorbis.NewReader(plain{io.MultiReader(&seen, r)})
	if err != nil {
		return nil, 0, 0, noEOF(err)
	}
	return vorbisDecoder{v}, v.SampleRate(), v.Channels(), nil
}

func (d vorbisDecoder) decode(dst []float32) (int, error) { return d.r.Read(dst) }

func (vorbisDecoder) notes() []string { return nil }

var errVorbis = errors.New("its headers make no sense")

// checkVorbisComments refuses more comments than the header has bytes for (chapter 5).
func checkVorbisComments(p []byte) error {
	if len(p) < 11 {
		return errVorbis
	}
	vendor := int64(binary.LittleEndian.Uint32(p[7:]))
	if int64(len(p)) < 11+vendor+4 {
		return errVorbis
	}
	rest := p[11+vendor:]
	if n := int64(binary.LittleEndian.Uint32(rest)); n > int64(len(rest)-4)/4 {
		return fmt.Errorf("its header says that there are %d comments, and has %d bytes", n, len(rest)-4)
	}
	return nil
}

// checkVorbisSetup refuses codebooks of more numbers than are of use (section 3.2.1).
func checkVorbisSetup(p []byte) error {
	if len(p) < 8 {
		return errVorbis
	}
	r := bitReader{data: p[7:]}
	numbers := uint64(0)
	for range r.read(8) + 1 {
		if r.read(24) != 0x564342 {
			return errVorbis
		}
		dims, entries := uint64(r.read(16)), r.read(24)
		numbers += uint64(entries) * max(dims, 1)
		if entries == 0 || numbers > vorbisBooks {
			return fmt.Errorf("its codebooks have %d numbers or more, wanted some and at most %d", numbers, vorbisBooks)
		}
		if ordered := r.read(1) == 1; ordered {
			length := r.read(5) + 1
			for at := uint32(0); at < entries; length++ {
				if at += r.read(bits.Len32(entries - at)); at > entries || length > 32 || r.ended {
					return errVorbis
				}
			}
		} else {
			sparse := r.read(1) == 1
			for range entries {
				if !sparse || r.read(1) == 1 {
					r.read(5)
				}
			}
		}
		switch lookup := r.read(4); lookup {
		case 0:
		case 1, 2:
			r.read(32)
			r.read(32)
			width := int(r.read(4)) + 1
			r.read(1)
			values := uint64(entries) * dims
			if lookup == 1 {
				values = vorbisRoot(uint64(entries), dims)
			}
			r.skip(values * uint64(width))
		default:
			return errVorbis
		}
		if r.ended {
			return errVorbis
		}
	}
	return nil
}

// vorbisRoot is the largest number whose dims-th power is at most entries.
func vorbisRoot(entries, dims uint64) uint64 {
	if dims == 0 {
		return 0
	}
	fits := func(n uint64) bool {
		power := uint64(1)
		for range dims {
			if power *= n; power > entries {
				return false
			}
			if n < 2 {
				break
			}
		}
		return true
	}
	n := uint64(1)
	for fits(n + 1) {
		n++
	}
	return n
}

// bitReader takes numbers out of bytes, the lowest bit first.
type bitReader struct {
	data  []byte
	at    uint64 // bit
	ended bool   // more was read than there is; what there is not is 0
}

func (r *bitReader) read(n int) (v uint32) {
	for i := range n {
		if r.at>>3 >= uint64(len(r.data)) {
			r.ended = true
			return v
		}
		v |= uint32(r.data[r.at>>3]>>(r.at&7)&1) << i
		r.at++
	}
	return v
}

func (r *bitReader) skip(n uint64) {
	if r.at += n; r.at > 8*uint64(len(r.data)) {
		r.ended = true
	}
}
