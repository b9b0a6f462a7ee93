// Package pixels makes of people's pictures what models see: it decodes them, cuts and
// scales them as the image processors of transformers do, and reads boxes out of what a
// detector gives.
package pixels

import "fmt"

// Picture is a picture of 8 bits a channel, red, green and blue side by side, rows from
// the top: Pix[3*(y*Width+x)+channel].
type Picture struct {
	Width, Height int
	Pix           []byte
}

// Black is a black picture.
func Black(width, height int) Picture {
	return Picture{width, height, make([]byte, 3*width*height)}
}

// Check refuses a picture whose pixels are not there.
func (p Picture) Check() error {
	if p.Width <= 0 || p.Height <= 0 || len(p.Pix) != 3*p.Width*p.Height {
		return fmt.Errorf("a picture of %dx%d has %d bytes", p.Width, p.Height, len(p.Pix))
	}
	return nil
}

func (p Picture) row(y int) []byte { return p.Pix[3*y*p.Width : 3*(y+1)*p.Width] }

// placed is the picture on a canvas of one colour, its corner at x and y; what lies
// outside is cut off.
func (p Picture) placed(width, height, x, y int, fill [3]byte) Picture {
	out := Black(width, height)
	if fill != [3]byte{} {
		for i := range out.Pix {
			out.Pix[i] = fill[i%3]
		}
	}
	from, to := max(0, -x), min(p.Width, width-x)
	if from >= to {
		return out
	}
	for row := max(0, -y); row < min(p.Height, height-y); row++ {
		copy(out.row(y + row)[3*(x+from):], p.row(row)[3*from:3*to])
	}
	return out
}
