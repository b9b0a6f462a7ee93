package pixels

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// Mark is a box on a picture, with a text above it.
type Mark struct {
	Box   [4]float32 // left, top, right, bottom, in pixels
	Text  string
	Color int // equal numbers are of one colour, those of a few after it of others
}

// colors are told apart by most people, on most pictures (Okabe and Ito's, of 2008).
var colors = [...][3]byte{{230, 159, 0}, {86, 180, 233}, {0, 158, 115}, {240, 228, 66}, {0, 114, 178}, {213, 94, 0}, {204, 121, 167}}

// Marked is a copy of the picture with marks drawn on it. Texts are as large as the
// picture allows; letters that are not ASCII become boxes.
func (p Picture) Marked(marks []Mark) Picture {
	out := Picture{p.Width, p.Height, bytes.Clone(p.Pix)}
	scale := max(1, min(p.Width, p.Height)/400)
	for _, m := range marks {
		c := colors[((m.Color%len(colors))+len(colors))%len(colors)]
		left, top, right, bottom := inside(m.Box[0], p.Width), inside(m.Box[1], p.Height), inside(m.Box[2], p.Width), inside(m.Box[3], p.Height)
		for i := range 2 * scale {
			out.line(left, right, top+i, top+i+1, c)
			out.line(left, right, bottom-i, bottom-i+1, c)
			out.line(left+i, left+i+1, top, bottom+1, c)
			out.line(right-i, right-i+1, top, bottom+1, c)
		}
		height := labelHeight * scale
		at := top - height
		if at < 0 {
			at = top
		}
		out.label(left, at, m.Text, c, scale)
	}
	return out
}

// Captioned is a copy of the picture with lines of text in its upper left corner.
func (p Picture) Captioned(lines []string) Picture {
	out := Picture{p.Width, p.Height, bytes.Clone(p.Pix)}
	scale := max(1, min(p.Width, p.Height)/400)
	for i, text := range lines {
		out.label(0, i*labelHeight*scale, text, colors[i%len(colors)], scale)
	}
	return out
}

// PNG encodes the picture.
func (p Picture) PNG() ([]byte, error) {
	m := image.NewRGBA(image.Rect(0, 0, p.Width, p.Height))
	for i := range p.Width * p.Height {
		copy(m.Pix[4*i:], p.Pix[3*i:3*i+3])
		m.Pix[4*i+3] = 255
	}
	var b bytes.Buffer
	err := png.Encode(&b, m)
	return b.Bytes(), err
}

// inside is the pixel of a coordinate, or the nearest that there is.
func inside(v float32, n int) int {
	if v != v {
		return 0
	}
	return int(math.Round(float64(min(max(v, 0), float32(n-1)))))
}

// line fills the pixels from left to right and top to bottom, as far as they are there.
func (p Picture) line(left, right, top, bottom int, c [3]byte) {
	for y := max(top, 0); y < min(bottom, p.Height); y++ {
		row := p.row(y)
		for x := max(left, 0); x < min(right, p.Width); x++ {
			copy(row[3*x:3*x+3], c[:])
		}
	}
}

// labelHeight is that of a line of text, in pixels of scale 1.
const labelHeight = 15

// label writes black text on a ground of a colour.
func (p Picture) label(left, top int, text string, ground [3]byte, scale int) {
	if text == "" {
		return
	}
	face := basicfont.Face7x13
	const pad = 2
	width := font.MeasureString(face, text).Ceil() + 2*pad
	m := image.NewAlpha(image.Rect(0, 0, width, labelHeight))
	d := font.Drawer{Dst: m, Src: image.NewUniform(color.Opaque), Face: face, Dot: fixed.P(pad, face.Ascent+1)}
	d.DrawString(text)
	for y := range labelHeight {
		for x := range width {
			c := ground
			if m.AlphaAt(x, y).A > 127 {
				c = [3]byte{}
			}
			p.line(left+x*scale, left+(x+1)*scale, top+y*scale, top+(y+1)*scale, c)
		}
	}
}
