package audio

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// wav decodes WAV: Microsoft's "Multiple Channel Audio Data and WAVE Files" (2007), and
// RF64 (EBU Tech 3306) for files past 4 GiB.
type wav struct {
	r       io.Reader
	frame   int // bytes of one sample of all channels
	width   int // bytes of one sample
	value   func([]byte) float32
	left    int64 // bytes; -1: to the end of the file
	said    int64 // bytes that the header says
	buffer  []byte
	strange []string
}

// Codes of a format chunk.
const (
	wavPCM        = 1
	wavFloat      = 3
	wavALaw       = 6
	wavMuLaw      = 7
	wavExtensible = 0xfffe
)

// wavNames are compressed formats that WAV files may have inside.
var wavNames = map[uint16]string{
	2: "Microsoft ADPCM", wavALaw: "A-law", wavMuLaw: "mu-law", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x40: "G.721", 0x50: "MPEG", 0x55: "MP3",
	0x161: "WMA", 0xff: "AAC",
}

// wavValues turn the bytes of a sample into its value, by code and bits.
var wavValues = map[[2]uint16]func([]byte) float32{
	{wavPCM, 8}:  func(b []byte) float32 { return (float32(b[0]) - 128) / (1 << 7) },
	{wavPCM, 16}: func(b []byte) float32 { return float32(int16(binary.LittleEndian.Uint16(b))) / (1 << 15) },
	{wavPCM, 24}: func(b []byte) float32 {
		return float32(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)>>8) / (1 << 23)
	},
	{wavPCM, 32}:   func(b []byte) float32 { return float32(float64(int32(binary.LittleEndian.Uint32(b))) / (1 << 31)) },
	{wavFloat, 32}: func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) },
	{wavFloat, 64}: func(b []byte) float32 { return float32(math.Float64frombits(binary.LittleEndian.Uint64(b))) },
	{wavALaw, 8}:   func(b []byte) float32 { return aLaw(b[0]) },
	{wavMuLaw, 8}:  func(b []byte) float32 { return muLaw(b[0]) },
}

// aLaw and muLaw expand the logarithmic samples of telephony (ITU-T G.711).
func aLaw(b byte) float32 {
	b ^= 0x55
	v, e := int(b&0x0f)<<4+8, b>>4&7
	if e > 0 {
		v = (v + 0x100) << (e - 1)
	}
	if b&0x80 == 0 {
		v = -v
	}
	return float32(v) / (1 << 15)
}

func muLaw(b byte) float32 {
	b = ^b
	v := (int(b&0x0f)<<3+0x84)<<(b>>4&7) - 0x84
	if b&0x80 != 0 {
		v = -v
	}
	return float32(v) / (1 << 15)
}

func openWAV(r *bufio.Reader) (decoder, int, int, error) {
	bad := func(format string, args ...any) (decoder, int, int, error) {
		return nil, 0, 0, &FormatError{Format: "WAV", Found: fmt.Sprintf(format, args...)}
	}
	src := plain{r}
	var head [12]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return nil, 0, 0, err
	}
	large := int64(-1) // what RF64 says of the data's size
	w := &wav{r: src}
	var rate, channels int
	for range 1 << 10 {
		var chunk [8]byte
		if _, err := io.ReadFull(src, chunk[:]); err != nil {
			if err == io.EOF {
				return bad("it ends before its samples")
			}
			return nil, 0, 0, err
		}
		id, size := string(chunk[:4]), int64(binary.LittleEndian.Uint32(chunk[4:]))
		var body [40]byte // as much of a chunk as is of use
		switch id {
		case "data":
			if w.frame == 0 {
				return bad("its samples stand before their format")
			}
			w.left, w.said = size, size
			switch {
			case size == math.MaxUint32 && large >= 0:
				w.left, w.said = large, large
			case size == 0 || size >= math.MaxInt32-1<<12:
				// Who wrote it as a stream didn't know, and wrote nothing or the most there is.
				w.left = -1
			}
			return w, rate, channels, nil
		case "ds64", "fmt ":
			n := min(size, int64(len(body)))
			if _, err := io.ReadFull(src, body[:n]); err != nil {
				return nil, 0, 0, noEOF(err)
			}
			size -= n
			if id == "ds64" {
				if n < 16 {
					return bad("its ds64 chunk has %d bytes, wanted at least 16", n)
				}
				if large = int64(binary.LittleEndian.Uint64(body[8:])); large < 0 {
					return bad("its ds64 chunk says that there are %d bytes", uint64(large))
				}
				break
			}
			if n < 16 {
				return bad("its format chunk has %d bytes, wanted at least 16", n)
			}
			code, bits := binary.LittleEndian.Uint16(body[0:]), binary.LittleEndian.Uint16(body[14:])
			if code == wavExtensible {
				if n < 26 {
					return bad("its extensible format chunk has %d bytes, wanted at least 26", n)
				}
				code = binary.LittleEndian.Uint16(body[24:])
			}
			channels, rate = int(binary.LittleEndian.Uint16(body[2:])), int(binary.LittleEndian.Uint32(body[4:]))
			w.width = int(bits+7) / 8
			w.value = wavValues[[2]uint16{code, uint16(w.width) * 8}] // fewer bits stand in the upper ones
			if w.value == nil {
				name, ok := wavNames[code]
				if !ok {
					name = fmt.Sprintf("format %d", code)
				}
				if code == wavPCM || code == wavFloat {
					name = map[uint16]string{wavPCM: "whole numbers", wavFloat: "floating point"}[code]
				}
				return bad("its samples are %s of %d bits, which is not read", name, bits)
			}
			if channels < 1 || channels > maxChannels {
				return bad("it says that it has %d channels, wanted 1 to %d", channels, maxChannels)
			}
			w.frame = w.width * channels
			if align := int(binary.LittleEndian.Uint16(body[12:])); align != w.frame {
				return bad("it says that %d channels of %d bits have %d bytes", channels, bits, align)
			}
		}
		// Chunks are padded to even sizes.
		if _, err := io.CopyN(io.Discard, src, size+size%2); err != nil {
			return nil, 0, 0, noEOF(err)
		}
	}
	return bad("more than %d chunks stand before its samples", 1<<10)
}

// noEOF is for where the end of the file is not to be.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *wav) decode(dst []float32) (int, error) {
	want := int64(len(dst) * w.width)
	if w.left >= 0 {
		want = min(want, w.left/int64(w.frame)*int64(w.frame))
	}
	if want == 0 {
		return 0, io.EOF
	}
	if int64(cap(w.buffer)) < want {
		w.buffer = make([]byte, want)
	}
	n, err := io.ReadFull(w.r, w.buffer[:want])
	if w.left >= 0 {
		w.left -= int64(n)
	}
	switch {
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		if rest := n % w.frame; rest > 0 {
			w.strange = append(w.strange, fmt.Sprintf("the WAV file ends inside a sample: its last %d bytes were left out", rest))
		}
		if w.left > 0 {
			w.strange = append(w.strange, fmt.Sprintf("the WAV file ends %d bytes before its header says, which is %d", w.left, w.said))
		}
		w.left, err = 0, io.EOF
	case err != nil:
		return 0, err
	}
	n -= n % w.frame
	if n > 0 {
		err = nil
	}
	for i := range n / w.width {
		v := w.value(w.buffer[i*w.width : (i+1)*w.width])
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return 0, &FormatError{Format: "WAV", Found: fmt.Sprintf("a sample is %v", v)}
		}
		dst[i] = v
	}
	return n / w.width, err
}

func (w *wav) notes() []string { return w.strange }
