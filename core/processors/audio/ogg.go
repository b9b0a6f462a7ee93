package audio

import (
	"encoding/binary"
	"fmt"
	"io"
)

// oggReader takes packets out of the pages of the first stream of an Ogg file (RFC
// 3533).
type oggReader struct {
	r       io.Reader
	most    int // bytes of a packet
	serial  uint32
	begun   bool
	ended   bool  // the stream's last page was read
	end     int64 // position at the end of the last page; -1: this is not the last
	lacing  []byte
	data    []byte
	partial []byte // of a packet that goes on in the next page
	page    [27 + 255 + 255*255]byte
}

// packet returns the next packet, which lasts until the next call; end is the position
// at the end of the stream where it is known, else -1.
func (o *oggReader) packet() (packet []byte, end int64, err error) {
	o.partial = o.partial[:0]
	for {
		for len(o.lacing) > 0 {
			n := int(o.lacing[0])
			o.lacing = o.lacing[1:]
			o.partial = append(o.partial, o.data[:n]...)
			o.data = o.data[n:]
			if len(o.partial) > o.most {
				return nil, 0, &FormatError{Format: "Ogg", Found: fmt.Sprintf("a packet has more than %d bytes", o.most)}
			}
			if n < 255 {
				return o.partial, o.end, nil
			}
		}
		if o.ended {
			return nil, 0, io.EOF
		}
		if err := o.next(); err != nil {
			if err == io.EOF && len(o.partial) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, 0, err
		}
	}
}

// next reads the next page of the stream.
func (o *oggReader) next() error {
	for {
		head := o.page[:27]
		if _, err := io.ReadFull(o.r, head); err != nil {
			return err
		}
		if string(head[:4]) != "OggS" || head[4] != 0 {
			return &FormatError{Format: "Ogg", Found: "a page does not begin where the last one ends"}
		}
		segments := int(head[26])
		if _, err := io.ReadFull(o.r, o.page[27:27+segments]); err != nil {
			return noEOF(err)
		}
		lacing := o.page[27 : 27+segments]
		size := 0
		for _, n := range lacing {
			size += int(n)
		}
		if _, err := io.ReadFull(o.r, o.page[27+segments:27+segments+size]); err != nil {
			return noEOF(err)
		}
		page := o.page[:27+segments+size]
		said := binary.LittleEndian.Uint32(page[22:])
		clear(page[22:26])
		if oggSum(page) != said {
			return &FormatError{Format: "Ogg", Found: "the checksum of a page is wrong"}
		}
		serial := binary.LittleEndian.Uint32(page[14:])
		if !o.begun {
			o.begun, o.serial = true, serial
		}
		if serial != o.serial {
			continue // of another stream beside this one
		}
		if continued := page[5]&1 != 0; !continued && len(o.partial) > 0 {
			return &FormatError{Format: "Ogg", Found: "a packet has no end"}
		}
		o.end = -1
		if page[5]&4 != 0 {
			o.ended, o.end = true, int64(binary.LittleEndian.Uint64(page[6:]))
		}
		o.lacing, o.data = lacing, page[27+segments:]
		return nil
	}
}

// oggSum is Ogg's CRC: polynomial 0x04c11db7, most significant bit first, from 0.
func oggSum(b []byte) uint32 {
	var sum uint32
	for _, v := range b {
		sum = sum<<8 ^ oggTable[byte(sum>>24)^v]
	}
	return sum
}

var oggTable = func() (t [256]uint32) {
	for i := range t {
		v := uint32(i) << 24
		for range 8 {
			if v&(1<<31) != 0 {
				v = v<<1 ^ 0x04c11db7
			} else {
				v <<= 1
			}
		}
		t[i] = v
	}
	return t
}()
