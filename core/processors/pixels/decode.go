package pixels

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/bmp"
	"golang.org/x/image/webp"
)

// Limits bound what is decoded. They are held against the header, before memory is
// taken for the pixels.
type Limits struct {
	Bytes  int // of the file; 0: DefaultLimits's, as below
	Pixels int // of a picture
	Frames int // of an animation
}

// DefaultLimits are those of fields that are 0.
var DefaultLimits = Limits{Bytes: 64 << 20, Pixels: 1 << 27, Frames: 4096}

func (l Limits) orDefault() Limits {
	for _, f := range []struct{ v, def *int }{{&l.Bytes, &DefaultLimits.Bytes}, {&l.Pixels, &DefaultLimits.Pixels}, {&l.Frames, &DefaultLimits.Frames}} {
		if *f.v == 0 {
			*f.v = *f.def
		}
	}
	return l
}

// format is a kind of file.
type format struct {
	name   string
	is     func([]byte) bool
	config func([]byte) (image.Config, error)
	decode func([]byte) (image.Image, error)
	exif   func([]byte) []byte // the EXIF block, nil where there is none; nil: never
}

var formats = []format{
	{"PNG", begins("\x89PNG\r\n\x1a\n"), reading(png.DecodeConfig), reading(png.Decode), pngEXIF},
	{"JPEG", begins("\xff\xd8\xff"), reading(jpeg.DecodeConfig), reading(jpeg.Decode), jpegEXIF},
	{"WebP", isWebP, reading(webp.DecodeConfig), reading(webp.Decode), webpEXIF},
	{"GIF", begins("GIF8"), reading(gif.DecodeConfig), nil, nil}, // see frames.go
	{"BMP", begins("BM"), reading(bmp.DecodeConfig), reading(bmp.Decode), nil},
}

func begins(magic string) func([]byte) bool {
	return func(b []byte) bool { return bytes.HasPrefix(b, []byte(magic)) }
}

func isWebP(b []byte) bool {
	return len(b) >= 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP"
}

func reading[T any](f func(io.Reader) (T, error)) func([]byte) (T, error) {
	return func(b []byte) (T, error) { return f(bytes.NewReader(b)) }
}

// Decode reads a picture: PNG, JPEG, WebP, GIF (its first frame) or BMP. It is turned as
// its EXIF orientation says, and becomes red, green and blue of 8 bits as Pillow's
// convert("RGB") has it: transparency is dropped, not blended; of 16 bits a channel the
// upper eight count, but grey of 16 bits is cut at 255. The pixels are those that Pillow
// decodes, for JPEG within 3 of 255. Errors are *DecodeError.
func Decode(data []byte, l Limits) (Picture, error) {
	f, c, err := inspect(data, l)
	if err != nil {
		return Picture{}, err
	}
	if f.name == "GIF" {
		frames, err := gifFrames(data, l.orDefault(), 1)
		if err != nil {
			return Picture{}, err
		}
		return frames[0], nil
	}
	m, err := f.decode(data)
	if err != nil {
		return Picture{}, &DecodeError{Format: f.name, Found: "it is damaged", Err: err}
	}
	if b := m.Bounds(); b.Dx() != c.Width || b.Dy() != c.Height {
		return Picture{}, &DecodeError{Format: f.name, Found: fmt.Sprintf("its header says %dx%d, its pixels are %dx%d", c.Width, c.Height, b.Dx(), b.Dy())}
	}
	p, err := rgb(m, f.name, data)
	if err != nil {
		return Picture{}, err
	}
	if f.exif != nil {
		p = p.turned(orientation(f.exif(data)))
	}
	return p, nil
}

// Size reads the size of a picture from its header, as it stands in the file. Errors are
// *DecodeError.
func Size(data []byte, l Limits) (width, height int, err error) {
	_, c, err := inspect(data, l)
	return c.Width, c.Height, err
}

// inspect finds the format and holds the header against the limits.
func inspect(data []byte, l Limits) (format, image.Config, error) {
	l = l.orDefault()
	if len(data) > l.Bytes {
		return format{}, image.Config{}, &DecodeError{Found: fmt.Sprintf("it has %d bytes", len(data)), Wanted: fmt.Sprintf("at most %d", l.Bytes)}
	}
	for _, f := range formats {
		if !f.is(data) {
			continue
		}
		c, err := f.config(data)
		if err != nil {
			return f, c, &DecodeError{Format: f.name, Found: "its header is damaged", Err: err}
		}
		if c.Width <= 0 || c.Height <= 0 || c.Height > l.Pixels/c.Width {
			return f, c, &DecodeError{Format: f.name, Found: fmt.Sprintf("it is %dx%d", c.Width, c.Height), Wanted: fmt.Sprintf("1 to %d pixels", l.Pixels)}
		}
		return f, c, nil
	}
	return format{}, image.Config{}, &DecodeError{Found: "its format is not known", Wanted: "PNG, JPEG, WebP, GIF or BMP"}
}

// rgb drops all but red, green and blue of 8 bits.
func rgb(m image.Image, name string, data []byte) (Picture, error) {
	b := m.Bounds()
	out := Black(b.Dx(), b.Dy())
	// each copies rows of so many bytes a pixel, of which those of the three channels
	// stand at the given places.
	each := func(pix []byte, stride, size, r, g, b int) Picture {
		for y := range out.Height {
			from, to := pix[y*stride:], out.row(y)
			for x := range out.Width {
				to[3*x], to[3*x+1], to[3*x+2] = from[size*x+r], from[size*x+g], from[size*x+b]
			}
		}
		return out
	}
	switch m := m.(type) {
	case *image.RGBA: // opaque: the decoders give pictures with transparency as NRGBA
		return each(m.Pix, m.Stride, 4, 0, 1, 2), nil
	case *image.NRGBA:
		return each(m.Pix, m.Stride, 4, 0, 1, 2), nil
	case *image.RGBA64:
		return each(m.Pix, m.Stride, 8, 0, 2, 4), nil
	case *image.NRGBA64:
		if name == "PNG" && len(data) > 25 && data[25] == 0 { // grey with one transparent level
			return grey16(out, m.Pix, m.Stride, 8), nil
		}
		return each(m.Pix, m.Stride, 8, 0, 2, 4), nil
	case *image.Gray:
		return each(m.Pix, m.Stride, 1, 0, 0, 0), nil
	case *image.Gray16:
		return grey16(out, m.Pix, m.Stride, 2), nil
	case *image.Paletted:
		palette := rgbPalette(m.Palette)
		for y := range out.Height {
			to := out.row(y)
			for x, i := range m.Pix[y*m.Stride : y*m.Stride+out.Width] {
				if int(i) >= len(m.Palette) {
					return out, &DecodeError{Format: name, Found: fmt.Sprintf("a pixel has color %d of %d", i, len(m.Palette))}
				}
				copy(to[3*x:], palette[i][:])
			}
		}
		return out, nil
	case *image.YCbCr:
		if name == "WebP" {
			return webpRGB(out, m), nil
		}
		return jpegRGB(out, m), nil
	case *image.NYCbCrA:
		return webpRGB(out, &m.YCbCr), nil
	case *image.CMYK:
		for y := range out.Height {
			from, to := m.Pix[y*m.Stride:], out.row(y)
			for x := range out.Width {
				k := 255 - int(from[4*x+3])
				for c := range 3 {
					v := int(from[4*x+c])*k + 128
					to[3*x+c] = byte(max(0, k-(v>>8+v)>>8))
				}
			}
		}
		return out, nil
	}
	return out, &DecodeError{Format: name, Found: fmt.Sprintf("its pixels are %T", m)}
}

// grey16 cuts levels at 255, as Pillow does.
func grey16(out Picture, pix []byte, stride, size int) Picture {
	for y := range out.Height {
		from, to := pix[y*stride:], out.row(y)
		for x := range out.Width {
			v := byte(min(binary.BigEndian.Uint16(from[size*x:]), 255))
			to[3*x], to[3*x+1], to[3*x+2] = v, v, v
		}
	}
	return out
}

// rgbPalette are a palette's colours without their transparency.
func rgbPalette(p color.Palette) [256][3]byte {
	var out [256][3]byte
	for i, c := range p[:min(len(p), 256)] {
		switch c := c.(type) {
		case color.RGBA:
			out[i] = [3]byte{c.R, c.G, c.B}
		case color.NRGBA:
			out[i] = [3]byte{c.R, c.G, c.B}
		default:
			r, g, b, _ := c.RGBA()
			out[i] = [3]byte{byte(r >> 8), byte(g >> 8), byte(b >> 8)}
		}
	}
	return out
}
