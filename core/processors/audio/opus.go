package audio

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/pion/opus"
)

const (
	opusRate = 48000 // Opus decodes to it whatever was encoded
	// opusMost is the most samples of a channel that a packet has: 120 ms.
	opusMost = opusRate / 1000 * 120
	// opusPacket is the most bytes that a packet may have, its comments with pictures
	// included; sound takes up to 61298.
	opusPacket = 1 << 24
)

// opusDecoder decodes Opus (RFC 6716) in Ogg (RFC 7845).
type opusDecoder struct {
	ogg      oggReader
	d        opus.Decoder
	channels int
	gain     float32
	skip     int64 // samples of a channel at the start that are not to be heard
	pre      int64 // skip as the header has it
	made     int64 // samples of a channel that were decoded
	block    []float32
	buffer   []float32
	strange  []string
}

func openOpus(r *bufio.Reader) (decoder, int, int, error) {
	bad := func(format string, args ...any) (decoder, int, int, error) {
		return nil, 0, 0, &FormatError{Format: "Ogg Opus", Found: fmt.Sprintf(format, args...)}
	}
	d := &opusDecoder{ogg: oggReader{r: plain{r}, most: opusPacket}}
	head, _, err := d.ogg.packet()
	if err != nil {
		return nil, 0, 0, noEOF(err)
	}
	if len(head) < 19 {
		return bad("its header has %d bytes, wanted at least 19", len(head))
	}
	d.channels = int(head[9])
	d.pre = int64(binary.LittleEndian.Uint16(head[10:]))
	d.skip = d.pre
	d.gain = float32(math.Pow(10, float64(int16(binary.LittleEndian.Uint16(head[16:])))/256/20))
	switch {
	case head[8]&0xf0 != 0:
		return bad("its header is of version %d, wanted 0 to 15", head[8])
	case head[18] != 0:
		return bad("its channels are of mapping family %d, wanted 0: mono or stereo", head[18])
	case d.channels != 1 && d.channels != 2:
		return bad("it says that it has %d channels, wanted 1 or 2", d.channels)
	}
	if d.d, err = opus.NewDecoderWithOutput(opusRate, d.channels); err != nil {
		return nil, 0, 0, err
	}
	if tags, _, err := d.ogg.packet(); err != nil {
		return nil, 0, 0, noEOF(err)
	} else if len(tags) < 8 || string(tags[:8]) != "OpusTags" {
		return bad("its comments are missing")
	}
	d.buffer = make([]float32, opusMost*d.channels)
	return d, opusRate, d.channels, nil
}

func (d *opusDecoder) decode(dst []float32) (int, error) {
	if len(d.block) == 0 {
		if err := d.next(); err != nil {
			return 0, err
		}
	}
	n := copy(dst, d.block)
	d.block = d.block[n:]
	return n, nil
}

// next decodes a packet into block.
func (d *opusDecoder) next() error {
	packet, end, err := d.ogg.packet()
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF && !d.ogg.ended {
			d.strange = append(d.strange, "the Ogg file ends before its last page")
			err = io.EOF
		} else if n, _ := d.ogg.r.Read(d.ogg.page[:1]); err == io.EOF && n > 0 {
			d.strange = append(d.strange, "the Ogg file goes on with another stream, which was left out")
		}
		return err
	}
	if len(packet) == 0 {
		return nil
	}
	n, err := d.d.DecodeToFloat32(packet, d.buffer)
	if err != nil {
		return err
	}
	d.made += int64(n)
	if end >= 0 && d.made > end {
		// The last page says how many samples are to be heard.
		n = int(max(int64(n)-(d.made-end), 0))
	}
	cut := min(int64(n), d.skip)
	d.skip -= cut
	d.block = d.buffer[int(cut)*d.channels : n*d.channels]
	if d.gain != 1 {
		for i := range d.block {
			d.block[i] *= d.gain
		}
	}
	return nil
}

func (d *opusDecoder) notes() []string { return d.strange }
