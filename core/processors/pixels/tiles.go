package pixels

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/tensor"
)

// Resolution is the one of LLaVA-NeXT's resolutions that a picture is fitted into, its
// models.BestResolution. Height and width, in pixels.
func (p *Processor) Resolution(height, width int) (int, int) {
	r := models.BestResolution(models.Size{Height: int64(height), Width: int64(width)}, p.s.pinpoints)
	return int(r.Height), int(r.Width)
}

// Tiles is how many pictures LLaVA-NeXT's processor makes of one: itself, small, and the
// tiles that its resolution is cut into.
func (p *Processor) Tiles(height, width int) int {
	if p.s.flow != tiles {
		return 1
	}
	h, w := p.Resolution(height, width)
	tile := p.s.tile()
	return 1 + (h/tile)*(w/tile)
}

// tiled makes pictures ready as tiles, in as many places as the largest takes.
func (p *Processor) tiled(pictures []Picture) (map[string]tensor.Tensor, error) {
	s := &p.s
	all, most := make([][]Picture, len(pictures)), 0
	sizes := make([]int64, 0, 2*len(pictures))
	for i, picture := range pictures {
		list, err := p.cut(picture, i)
		if err != nil {
			return nil, err
		}
		if all[i] = list; i > 0 && !s.pad && len(list) != most {
			return nil, &InputError{i, fmt.Sprintf("it makes %d tiles", len(list)), fmt.Sprintf("%d, as those before it: do_pad is false", most)}
		}
		most = max(most, len(list))
		sizes = append(sizes, int64(picture.Height), int64(picture.Width))
	}
	height, width := all[0][0].Height, all[0][0].Width
	values, err := tensor.New(tensor.Float32, tensor.Shape{int64(len(all)), int64(most), 3, int64(height), int64(width)})
	if err != nil {
		return nil, &InputError{0, err.Error(), "a batch that fits in memory"}
	}
	for i, list := range all {
		for j, tile := range list {
			if tile.Height != height || tile.Width != width {
				return nil, &InputError{i, fmt.Sprintf("a tile of it is %dx%d", tile.Width, tile.Height), fmt.Sprintf("%dx%d, as the first one", width, height)}
			}
			p.fill(tensor.View[float32](values)[(i*most+j)*3*height*width:], tile, height, width)
		}
	}
	return map[string]tensor.Tensor{PixelValues: values, ImageSizes: tensor.Ints(tensor.Shape{int64(len(all)), 2}, sizes...)}, nil
}

// cut is the whole picture, small, and its tiles by rows.
func (p *Processor) cut(picture Picture, number int) ([]Picture, error) {
	s := &p.s
	height, width := s.size.height, s.size.width
	if height == 0 {
		height, width = s.size.shortest, s.size.shortest
	}
	small, err := p.resize(picture, number, height, width)
	if err != nil {
		return nil, err
	}
	list := []Picture{small}

	h, w := p.Resolution(picture.Height, picture.Width)
	across, down := float64(w)/float64(picture.Width), float64(h)/float64(picture.Height)
	height, width = h, w
	if across < down {
		height = min(int(math.Ceil(float64(picture.Height)*across)), h)
	} else {
		width = min(int(math.Ceil(float64(picture.Width)*down)), w)
	}
	fitted, err := p.resize(picture, number, height, width)
	if err != nil {
		return nil, err
	}
	tile := s.tile()
	left, top := (w-width)/2, (h-height)/2
	for y := 0; y < h; y += tile {
		for x := 0; x < w; x += tile {
			list = append(list, fitted.placed(tile, tile, left-x, top-y, [3]byte{}))
		}
	}
	for i := range list {
		if list[i], err = p.ready(list[i], number); err != nil {
			return nil, err
		}
	}
	return list, nil
}
