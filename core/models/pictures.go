package models

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/sdk/tensor"
)

// Size is that of a picture, in pixels.
type Size struct{ Height, Width int64 }

// Pictures says how a decoder reads pictures: each is a run of rows in the prompt.
type Pictures struct {
	Token         int64 // that stands for a row in prompts
	Rows, Columns int64 // rows that See makes of one picture or tile, and patches side by side in it
	Width         int64 // of a row
	// TileSide and Pinpoints are those of models that see a picture as a small one and as tiles of one of
	// the sizes; 0: a picture is one.
	TileSide  int64
	Pinpoints []Size
}

// BestResolution is the pinpoint in which most of a picture is seen, of equal ones that
// which wastes least; the first in doubt. (transformers' select_best_resolution.)
func BestResolution(picture Size, pinpoints []Size) Size {
	var best Size
	most, least := int64(-1), int64(0)
	for _, p := range pinpoints {
		scale := min(float64(p.Width)/float64(picture.Width), float64(p.Height)/float64(picture.Height))
		w, h := int64(float64(picture.Width)*scale), int64(float64(picture.Height)*scale)
		seen := min(w*h, picture.Width*picture.Height)
		wasted := p.Width*p.Height - seen
		if seen > most || seen == most && wasted < least {
			best, most, least = p, seen, wasted
		}
	}
	return best
}

// Tiles is the number of pictures that See is given for one: itself, or its small form and
// its tiles.
func (p *Pictures) Tiles(picture Size) int64 {
	if p.TileSide == 0 {
		return 1
	}
	b := BestResolution(picture, p.Pinpoints)
	return 1 + b.Height/p.TileSide*(b.Width/p.TileSide)
}

// span is the part of a grid of patches that shows the picture and not the padding around it.
type span struct{ top, bottom, left, right int64 }

// shown is transformers' unpad_image.
func (p *Pictures) shown(picture Size) (rows, columns int64, s span) {
	b := BestResolution(picture, p.Pinpoints)
	side := p.Rows / p.Columns
	rows, columns = b.Height/p.TileSide*side, b.Width/p.TileSide*p.Columns
	s = span{0, rows, 0, columns}
	round := func(x float64) int64 { return int64(math.RoundToEven(x*1e7) / 1e7) } // Python's round(x, 7), cut
	if float64(picture.Width)/float64(picture.Height) > float64(columns)/float64(rows) {
		height := round(float64(picture.Height) * (float64(columns) / float64(picture.Width)))
		s.top = (rows - height) / 2
		s.bottom = rows - s.top
	} else {
		width := round(float64(picture.Width) * (float64(rows) / float64(picture.Height)))
		s.left = (columns - width) / 2
		s.right = columns - s.left
	}
	return rows, columns, s
}

// Count is the number of rows that a picture has in a prompt.
func (p *Pictures) Count(picture Size) int64 {
	if p.TileSide == 0 {
		return p.Rows
	}
	_, _, s := p.shown(picture)
	return p.Rows + (s.bottom-s.top)*(s.right-s.left+1)
}

// Arrange puts what See made of a picture, [Tiles, Rows, Width] float32, in the order in which the
// decoder reads it, [Count, Width]: the small form, then the lines of the whole without the padding
// around it, each with the row of a line's end behind it, newline [Width].
func (p *Pictures) Arrange(seen, newline tensor.Tensor, picture Size) ([]float32, error) {
	want := tensor.Shape{p.Tiles(picture), p.Rows, p.Width}
	if seen.DType != tensor.Float32 || !seen.Shape.Equal(want) {
		return nil, fmt.Errorf("rows of a picture of %dx%d are %s%v, wanted float32%v", picture.Height, picture.Width, seen.DType, seen.Shape, want)
	}
	all := tensor.View[float32](seen.Aligned())
	if p.TileSide == 0 {
		return all, nil
	}
	if newline.DType != tensor.Float32 || !newline.Shape.Equal(want[2:]) {
		return nil, fmt.Errorf("the row of a line's end is %s%v, wanted float32%v", newline.DType, newline.Shape, want[2:])
	}
	end := tensor.View[float32](newline.Aligned())
	side := p.Rows / p.Columns
	_, columns, s := p.shown(picture)
	across := columns / p.Columns // tiles
	out := make([]float32, 0, p.Count(picture)*p.Width)
	out = append(out, all[:p.Rows*p.Width]...)
	for y := s.top; y < s.bottom; y++ {
		for x := s.left; x < s.right; x++ {
			tile := 1 + y/side*across + x/p.Columns
			at := (tile*p.Rows + y%side*p.Columns + x%p.Columns) * p.Width
			out = append(out, all[at:at+p.Width]...)
		}
		out = append(out, end...)
	}
	return out, nil
}
