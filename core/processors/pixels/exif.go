package pixels

import (
	"bytes"
	"encoding/binary"
)

// exifHeader begins the block in JPEG files, and sometimes in WebP files.
const exifHeader = "Exif\x00\x00"

// jpegEXIF finds the block in an APP1 segment before the picture's data.
func jpegEXIF(data []byte) []byte {
	for b := data[2:]; len(b) >= 4 && b[0] == 0xff; {
		marker, n := b[1], int(binary.BigEndian.Uint16(b[2:]))
		if marker == 0xff { // filling
			b = b[1:]
			continue
		}
		if marker == 0xda || n < 2 || n+2 > len(b) { // start of scan
			return nil
		}
		if block, ok := bytes.CutPrefix(b[4:n+2], []byte(exifHeader)); marker == 0xe1 && ok {
			return block
		}
		b = b[n+2:]
	}
	return nil
}

// pngEXIF finds the chunk eXIf.
func pngEXIF(data []byte) []byte {
	for c := range chunks(data) {
		if c.kind == "eXIf" {
			return c.data
		}
	}
	return nil
}

// webpEXIF finds the chunk EXIF.
func webpEXIF(data []byte) []byte {
	for b := data[12:]; len(b) >= 8; {
		n := binary.LittleEndian.Uint32(b[4:])
		if uint64(n)+8 > uint64(len(b)) {
			return nil
		}
		if string(b[:4]) == "EXIF" {
			return bytes.TrimPrefix(b[8:8+n], []byte(exifHeader))
		}
		b = b[min(8+int(n)+int(n&1), len(b)):]
	}
	return nil
}

// orientation reads the tag 0x0112 of the first directory of a TIFF structure: 1 to 8; 1
// where it does not say. (EXIF 2.32, section 4.6.4.)
func orientation(block []byte) int {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(block, []byte("II*\x00")):
		order = binary.LittleEndian
	case bytes.HasPrefix(block, []byte("MM\x00*")):
		order = binary.BigEndian
	}
	if order == nil || len(block) < 8 {
		return 1
	}
	at := order.Uint32(block[4:])
	if uint64(at)+2 > uint64(len(block)) {
		return 1
	}
	entries := block[at+2:]
	for range order.Uint16(block[at:]) {
		if len(entries) < 12 {
			return 1
		}
		const short = 3
		if order.Uint16(entries) == 0x0112 && order.Uint16(entries[2:]) == short {
			if v := int(order.Uint16(entries[8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
		entries = entries[12:]
	}
	return 1
}

// turned is the picture as an orientation says it is to be seen.
func (p Picture) turned(orientation int) Picture {
	if orientation == 1 {
		return p
	}
	// Where the pixel that comes to x, y was.
	w, h := p.Width-1, p.Height-1
	from := [...]func(x, y int) (int, int){
		2: func(x, y int) (int, int) { return w - x, y },
		3: func(x, y int) (int, int) { return w - x, h - y },
		4: func(x, y int) (int, int) { return x, h - y },
		5: func(x, y int) (int, int) { return y, x },
		6: func(x, y int) (int, int) { return y, h - x },
		7: func(x, y int) (int, int) { return w - y, h - x },
		8: func(x, y int) (int, int) { return w - y, x },
	}[orientation]
	out := Black(p.Width, p.Height)
	if orientation > 4 {
		out.Width, out.Height = p.Height, p.Width
	}
	for y := range out.Height {
		to := out.row(y)
		for x := range out.Width {
			i, j := from(x, y)
			copy(to[3*x:3*x+3], p.Pix[3*(j*p.Width+i):])
		}
	}
	return out
}
