package reference

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"

	"github.com/accelhq/accel/sdk/tensor"
)

var decodeOps = []spec{
	{"ImageDecoder", since(20), "encoded_stream u8 -> image u8", "pixel_format string=RGB|BGR|Grayscale", imageDecoder},
}

// pictureFormat is a kind of file. rgb lists the pixels of a decoded picture, three
// bytes each, row after row.
type pictureFormat struct {
	name   string
	magic  []string // "?" matches any byte
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	rgb    func(image.Image) []byte
}

var pictureFormats = []pictureFormat{
	{"JPEG", []string{"\xff\xd8"}, jpeg.DecodeConfig, jpeg.Decode, jpegRGB},
	{"PNG", []string{"\x89PNG\r\n\x1a\n"}, png.DecodeConfig, png.Decode, anyRGB},
	{"BMP", []string{"BM"}, bmp.DecodeConfig, bmp.Decode, anyRGB},
	{"TIFF", []string{"II*\x00", "MM\x00*"}, tiff.DecodeConfig, tiff.Decode, anyRGB},
	{"WebP", []string{"RIFF????WEBP"}, webp.DecodeConfig, webp.Decode, webpRGB},
	{"PNM", []string{"P1", "P2", "P3", "P4", "P5", "P6"}, pnmConfig, pnmDecode, anyRGB},
	{name: "JPEG 2000", magic: []string{"\x00\x00\x00\x0cjP  \r\n\x87\n", "\xff\x4f\xff\x51"}},
}

func pictureFormatOf(data []byte) *pictureFormat {
	for i, f := range pictureFormats {
		for _, m := range f.magic {
			match := len(data) >= len(m)
			for k := range m {
				match = match && (m[k] == '?' || data[k] == m[k])
			}
			if match {
				return &pictureFormats[i]
			}
		}
	}
	return nil
}

// imageDecoder gives an empty picture for data that is no picture of a known format,
// or a broken one, as ONNX says. JPEG 2000 is refused.
func imageDecoder(c *call) error {
	x := c.tensor(0)
	if len(x.Shape) != 1 {
		return badInput(0, "has shape %v, wants a list of bytes", x.Shape)
	}
	channels := int64(3)
	if c.str("pixel_format") == "Grayscale" {
		channels = 1
	}
	width, height, rgb, err := c.picturePixels(x.Data)
	if err != nil {
		return err
	}
	out, err := c.make(0, tensor.Uint8, tensor.Shape{int64(height), int64(width), channels})
	if err != nil {
		return err
	}
	switch c.str("pixel_format") {
	case "Grayscale":
		for i := range out.Data {
			// ITU-R 601 luma, in fixed point.
			p := rgb[i*3:]
			out.Data[i] = uint8((int(p[0])*19595 + int(p[1])*38470 + int(p[2])*7471 + 1<<15) >> 16)
		}
	case "BGR":
		for i := 0; i < len(rgb); i += 3 {
			out.Data[i], out.Data[i+1], out.Data[i+2] = rgb[i+2], rgb[i+1], rgb[i]
		}
	default:
		copy(out.Data, rgb)
	}
	return nil
}

func (c *call) picturePixels(data []byte) (width, height int, rgb []byte, err error) {
	f := pictureFormatOf(data)
	if f == nil {
		return 0, 0, nil, nil
	}
	if f.decode == nil {
		return 0, 0, nil, badInput(0, "is a picture of format %s, which is not supported", f.name)
	}
	config, err := f.config(bytes.NewReader(data))
	if err != nil || config.Width < 1 || config.Height < 1 {
		return 0, 0, nil, nil
	}
	// Decoders hold up to three coefficients of 4 bytes and a picture of 8 bytes a
	// pixel, in blocks of 64 by 64 at the edges.
	w, h := float64(config.Width)+64, float64(config.Height)+64
	if err := c.reserve(int64(min(w*h*24, math.MaxInt64/2))); err != nil {
		return 0, 0, nil, err
	}
	if err := c.ctx.Err(); err != nil {
		return 0, 0, nil, err
	}
	m, err := f.decode(bytes.NewReader(data))
	if err != nil || m.Bounds().Dx() != config.Width || m.Bounds().Dy() != config.Height {
		return 0, 0, nil, nil
	}
	return config.Width, config.Height, f.rgb(m), c.ctx.Err()
}

// anyRGB leaves alpha out: colours are as they were before it was applied.
func anyRGB(m image.Image) []byte {
	b := m.Bounds()
	rgb := make([]byte, 0, 3*b.Dx()*b.Dy())
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			p := color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA)
			rgb = append(rgb, p.R, p.G, p.B)
		}
	}
	return rgb
}

func clamp8(v int) uint8 { return uint8(min(max(v, 0), 255)) }

// planes reads a picture row by row with as many samples of colour as of light.
// upsample makes a row of colour from the nearest row of samples and the nearest
// but one, half is which of the two output rows of a sample's row this is.
func planes(m *image.YCbCr, vertical bool, upsample func(dst []uint8, near, far []uint8, half int), pixel func(y, cb, cr int) (r, g, b uint8)) []byte {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	cw, ch := w, h
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420:
		cw = (w + 1) / 2
	}
	if vertical {
		ch = (h + 1) / 2
	}
	rgb := make([]byte, 0, 3*w*h)
	cb, cr := make([]uint8, w+1), make([]uint8, w+1) // room for two of each sample
	for y := range h {
		near, far := y, y
		if vertical {
			near = y / 2
			far = min(max(near-1+2*(y%2), 0), ch-1)
		}
		row := func(p []uint8, y int) []uint8 { return p[y*m.CStride:][:cw] }
		upsample(cb, row(m.Cb, near), row(m.Cb, far), y%2)
		upsample(cr, row(m.Cr, near), row(m.Cr, far), y%2)
		for x := range w {
			r, g, b := pixel(int(m.Y[y*m.YStride+x]), int(cb[x]), int(cr[x]))
			rgb = append(rgb, r, g, b)
		}
	}
	return rgb
}

// jpegRGB interpolates colour between the centers of samples, 3/4 to 1/4, and rounds
// halves down and up in turn: what ONNX asks for and libjpeg calls fancy upsampling.
func jpegRGB(m image.Image) []byte {
	p, ok := m.(*image.YCbCr)
	if !ok {
		return anyRGB(m)
	}
	upsample, vertical := copyRow, false
	switch p.SubsampleRatio {
	case image.YCbCrSubsampleRatio444:
	case image.YCbCrSubsampleRatio422:
		upsample = jpegAcross
	case image.YCbCrSubsampleRatio440:
		upsample, vertical = jpegDown, true
	case image.YCbCrSubsampleRatio420:
		upsample, vertical = jpegBoth, true
	default:
		return anyRGB(m)
	}
	return planes(p, vertical, upsample, jpegPixel)
}

func copyRow(dst, near, _ []uint8, _ int) { copy(dst, near) }

func jpegAcross(dst, near, _ []uint8, _ int) {
	n := len(near)
	for i, v := range near {
		dst[2*i], dst[2*i+1] = v, v
		if n > 2 && i > 0 {
			dst[2*i] = uint8((3*int(v) + int(near[i-1]) + 1) >> 2)
		}
		if n > 2 && i < n-1 {
			dst[2*i+1] = uint8((3*int(v) + int(near[i+1]) + 2) >> 2)
		}
	}
}

func jpegDown(dst, near, far []uint8, half int) {
	for i, v := range near {
		dst[i] = uint8((3*int(v) + int(far[i]) + 1 + half) >> 2)
	}
}

func jpegBoth(dst, near, far []uint8, _ int) {
	n := len(near)
	if n <= 2 {
		jpegAcross(dst, near, far, 0)
		return
	}
	sum := func(i int) int { return 3*int(near[i]) + int(far[i]) }
	for i := range near {
		this := sum(i)
		left, right := this, this
		if i > 0 {
			left = sum(i - 1)
		}
		if i < n-1 {
			right = sum(i + 1)
		}
		dst[2*i] = uint8((3*this + left + 8) >> 4)
		dst[2*i+1] = uint8((3*this + right + 7) >> 4)
	}
}

// jpegPixel converts JFIF's colours with 16 bits of fraction.
func jpegPixel(y, cb, cr int) (r, g, b uint8) {
	const half = 1 << 15
	cb, cr = cb-128, cr-128
	return clamp8(y + (91881*cr+half)>>16), clamp8(y + (-22554*cb-46802*cr+half)>>16), clamp8(y + (116130*cb+half)>>16)
}

// webpRGB interpolates colour between four samples and converts it as libwebp does.
func webpRGB(m image.Image) []byte {
	p, ok := m.(*image.YCbCr)
	if a, alpha := m.(*image.NYCbCrA); alpha {
		p, ok = &a.YCbCr, true
	}
	if !ok || p.SubsampleRatio != image.YCbCrSubsampleRatio420 {
		return anyRGB(m)
	}
	return planes(p, true, webpBoth, webpPixel)
}

func webpBoth(dst, near, far []uint8, _ int) {
	n := len(near)
	edge := func(i int) uint8 { return uint8((3*int(near[i]) + int(far[i]) + 2) >> 2) }
	dst[0], dst[2*n-1] = edge(0), edge(n-1)
	for i := 1; i < n; i++ {
		a, b, c, d := int(near[i-1]), int(near[i]), int(far[i-1]), int(far[i])
		sum := a + b + c + d + 8
		dst[2*i-1] = uint8(((sum+2*(b+c))>>3 + a) >> 1)
		dst[2*i] = uint8(((sum+2*(a+d))>>3 + b) >> 1)
	}
}

// webpPixel converts colours of ITU-R 601 in the range of television.
func webpPixel(y, u, v int) (r, g, b uint8) {
	y = y * 19077 >> 8
	return clamp8((y + v*26149>>8 - 14234) >> 6), clamp8((y - u*6419>>8 - v*13320>>8 + 8708) >> 6), clamp8((y + u*33050>>8 - 17685) >> 6)
}

// pnm reads the numbers of a portable any-map.
type pnm struct {
	data  []byte
	kind  byte // '1' to '6'
	width int
	high  int
	top   int // the largest sample
}

var errPNM = errors.New("no PNM picture")

// number reads a decimal number and the one white space after it.
func (p *pnm) number() (int, error) {
	for len(p.data) > 0 {
		switch ch := p.data[0]; {
		case ch == '#':
			if i := bytes.IndexByte(p.data, '\n'); i >= 0 {
				p.data = p.data[i:]
			} else {
				p.data = nil
			}
		case ch == ' ' || ch >= '\t' && ch <= '\r':
			p.data = p.data[1:]
		case ch >= '0' && ch <= '9':
			v := 0
			for len(p.data) > 0 && p.data[0] >= '0' && p.data[0] <= '9' {
				if v = v*10 + int(p.data[0]-'0'); v > maxSpatial {
					return 0, errPNM
				}
				p.data = p.data[1:]
			}
			if len(p.data) > 0 {
				p.data = p.data[1:]
			}
			return v, nil
		default:
			return 0, errPNM
		}
	}
	return 0, io.ErrUnexpectedEOF
}

func newPNM(r io.Reader) (*pnm, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(data) < 2 || data[0] != 'P' || data[1] < '1' || data[1] > '6' {
		return nil, errPNM
	}
	p := &pnm{data: data[2:], kind: data[1], top: 1}
	if p.width, err = p.number(); err != nil {
		return nil, err
	}
	if p.high, err = p.number(); err != nil {
		return nil, err
	}
	if p.kind != '1' && p.kind != '4' {
		if p.top, err = p.number(); err != nil {
			return nil, err
		}
	}
	if p.top < 1 || p.top > math.MaxUint16 {
		return nil, fmt.Errorf("a largest sample of %d: %w", p.top, errPNM)
	}
	return p, nil
}

func pnmConfig(r io.Reader) (image.Config, error) {
	p, err := newPNM(r)
	if err != nil {
		return image.Config{}, err
	}
	return image.Config{ColorModel: color.NRGBAModel, Width: p.width, Height: p.high}, nil
}

// sample reads one sample, scaled to 255.
func (p *pnm) sample() (uint8, error) {
	v := 0
	switch {
	case p.kind == '1': // digits may stand without space between
		for len(p.data) > 0 && p.data[0] != '0' && p.data[0] != '1' {
			p.data = p.data[1:]
		}
		if len(p.data) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		v, p.data = int('1'-p.data[0]), p.data[1:]
	case p.kind <= '3':
		var err error
		if v, err = p.number(); err != nil {
			return 0, err
		}
	default:
		n := 1
		if p.top > 255 {
			n = 2
		}
		if len(p.data) < n {
			return 0, io.ErrUnexpectedEOF
		}
		for _, b := range p.data[:n] {
			v = v<<8 | int(b)
		}
		p.data = p.data[n:]
	}
	return uint8((min(v, p.top)*255 + p.top/2) / p.top), nil
}

func pnmDecode(r io.Reader) (image.Image, error) {
	p, err := newPNM(r)
	if err != nil {
		return nil, err
	}
	m := image.NewNRGBA(image.Rect(0, 0, p.width, p.high))
	for y := range p.high {
		if p.kind == '4' { // eight pixels a byte, 1 is black
			n := (p.width + 7) / 8
			if len(p.data) < n {
				return nil, io.ErrUnexpectedEOF
			}
			for x := range p.width {
				v := 255 * (1 - p.data[x/8]>>(7-x%8)&1)
				m.SetNRGBA(x, y, color.NRGBA{v, v, v, 255})
			}
			p.data = p.data[n:]
			continue
		}
		for x := range p.width {
			var v [3]uint8
			for k := range v {
				if k > 0 && p.kind != '3' && p.kind != '6' {
					v[k] = v[0]
				} else if v[k], err = p.sample(); err != nil {
					return nil, err
				}
			}
			m.SetNRGBA(x, y, color.NRGBA{v[0], v[1], v[2], 255})
		}
	}
	return m, nil
}
