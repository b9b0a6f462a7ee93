package pixels

import (
	"fmt"
	"math"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// maxPixels bounds what resizing makes of one picture: a long thin one whose shorter
// side is enlarged would take all memory.
const maxPixels = 1 << 26

// Names of what a processor gives.
const (
	PixelValues = "pixel_values" // float32 [pictures, 3, height, width], of tiles [pictures, tiles, 3, ...], of videos [videos, frames, 3, ...]
	PixelMask   = "pixel_mask"   // int64 [pictures, height, width]: 1 where the picture is, 0 where it was padded
	ImageSizes  = "image_sizes"  // int64 [pictures, 2]: height and width of the pictures whose tiles these are
)

// Processor makes pictures ready for a model, as the image processor of the same name in
// transformers 5.23 does. It may be used from several goroutines.
type Processor struct {
	Name    string // such as "CLIP", of CLIPImageProcessor
	Variant Variant
	s       settings
	values  [3][256]float32 // what a byte of a channel becomes
}

// Option changes what a folder says.
type Option func(*Processor)

// As forces a variant.
func As(v Variant) Option { return func(p *Processor) { p.Variant = v } }

// Open reads the image processor of a Hugging Face folder: what processor_config.json
// tells of one, or preprocessor_config.json. Where neither says of what type it is, it is
// the one of models of that model_type. The variant is Torchvision for types that end in
// "Fast", PIL for others. (transformers 5 takes its torchvision variant for both, where
// torchvision is installed; As follows it.) Errors are *checkpoint.Error.
func Open(dir, modelType string, options ...Option) (*Processor, error) {
	f, err := find(dir)
	if err != nil {
		return nil, err
	}
	return newProcessor(f, modelType, options...)
}

func newProcessor(f checkpoint.Fields, modelType string, options ...Option) (*Processor, error) {
	name, s, v, err := parse(f, modelType)
	if err != nil {
		return nil, err
	}
	p := &Processor{Name: name, Variant: v, s: s}
	for _, o := range options {
		o(p)
	}
	p.tabulate()
	return p, nil
}

// tabulate computes what becomes of each byte, in the arithmetic of the variant.
func (p *Processor) tabulate() {
	s := &p.s
	for c := range 3 {
		mean, std := float32(s.mean[c]), float32(s.std[c])
		if p.Variant == Torchvision && s.rescale && s.normalize {
			// torch scales the mean and the deviation instead.
			by := float32(1 / s.factor)
			mean, std = mean*by, std*by
		}
		for b := range 256 {
			v := float32(b)
			switch {
			case !s.rescale, p.Variant == Torchvision && s.normalize:
			case p.Variant == Torchvision:
				v *= float32(s.factor)
			default:
				v = float32(float64(b) * s.factor)
			}
			if s.normalize {
				v = float32(v-mean) / std
			}
			p.values[c][b] = v
		}
	}
}

// Process makes a batch of pictures ready. Errors are *InputError.
func (p *Processor) Process(pictures []Picture) (map[string]tensor.Tensor, error) {
	if len(pictures) == 0 {
		return nil, &InputError{Found: "there is none", Wanted: "at least one"}
	}
	for i, picture := range pictures {
		if err := picture.Check(); err != nil {
			return nil, &InputError{i, err.Error(), "three bytes a pixel"}
		}
	}
	if p.s.flow == tiles {
		return p.tiled(pictures)
	}
	ready := make([]Picture, len(pictures))
	for i, picture := range pictures {
		var err error
		if ready[i], err = p.ready(picture, i); err != nil {
			return nil, err
		}
	}
	height, width, err := p.batchSize(ready)
	if err != nil {
		return nil, err
	}
	n := int64(len(ready))
	values, err := tensor.New(tensor.Float32, tensor.Shape{n, 3, int64(height), int64(width)})
	if err != nil {
		return nil, &InputError{0, err.Error(), "a batch that fits in memory"}
	}
	for i, picture := range ready {
		p.fill(tensor.View[float32](values)[i*3*height*width:], picture, height, width)
	}
	out := map[string]tensor.Tensor{PixelValues: values}
	if p.s.flow == detect && p.s.pad {
		mask, err := tensor.New(tensor.Int64, tensor.Shape{n, int64(height), int64(width)})
		if err != nil {
			return nil, &InputError{0, err.Error(), "a batch that fits in memory"}
		}
		m := tensor.View[int64](mask)
		for _, picture := range ready {
			for y := range picture.Height {
				for x := range picture.Width {
					m[y*width+x] = 1
				}
			}
			m = m[height*width:]
		}
		out[PixelMask] = mask
	}
	return out, nil
}

// Videos makes a batch of videos ready, all of the same number of frames.
func (p *Processor) Videos(videos [][]Picture) (map[string]tensor.Tensor, error) {
	if p.s.flow != plain {
		return nil, &InputError{Found: "it is a video", Wanted: "pictures, as " + p.Name + "ImageProcessor takes"}
	}
	var frames []Picture
	for i, v := range videos {
		if len(v) != len(videos[0]) {
			return nil, &InputError{i, fmt.Sprintf("a video of %d frames", len(v)), fmt.Sprintf("%d, as the first one has", len(videos[0]))}
		}
		frames = append(frames, v...)
	}
	out, err := p.Process(frames)
	if err != nil {
		return nil, err
	}
	v := out[PixelValues]
	v.Shape = append(tensor.Shape{int64(len(videos)), int64(len(videos[0]))}, v.Shape[1:]...)
	return map[string]tensor.Tensor{PixelValues: v}, nil
}

// ready resizes and crops a picture.
func (p *Processor) ready(picture Picture, number int) (Picture, error) {
	s := &p.s
	if s.flow == square && s.pad {
		picture = padSquare(picture, s.mean)
	}
	if s.resize {
		height, width := s.size.of(picture.Height, picture.Width)
		var err error
		if picture, err = p.resize(picture, number, height, width); err != nil {
			return picture, err
		}
	}
	if s.crop {
		picture = p.cropped(picture)
	}
	return picture, nil
}

func (p *Processor) resize(picture Picture, number, height, width int) (Picture, error) {
	if height < 1 || width < 1 || height > maxPixels/width {
		return picture, &InputError{number, fmt.Sprintf("resizing makes %dx%d of %dx%d", width, height, picture.Width, picture.Height),
			fmt.Sprintf("1 to %d pixels", maxPixels)}
	}
	if p.Variant == Torchvision && (p.s.resample == Box || p.s.resample == Hamming) {
		return picture, &InputError{number, "resampling is " + p.s.resample.String(), "a filter that torchvision has, or the PIL variant"}
	}
	return picture.resized(width, height, p.s.resample, p.Variant), nil
}

// of is the size that a picture of a size is resized to.
func (t target) of(height, width int) (int, int) {
	short, long := float64(min(height, width)), float64(max(height, width))
	switch {
	case t.height > 0:
		return t.height, t.width
	case t.maxHeight > 0:
		scale := min(float64(t.maxHeight)/float64(height), float64(t.maxWidth)/float64(width))
		return int(float64(height) * scale), int(float64(width) * scale)
	case t.longest == 0:
		// torchvision's rule, in whole numbers.
		if width <= height {
			return t.shortest * height / width, t.shortest
		}
		return t.shortest, t.shortest * width / height
	}
	// DETR's rule: the longer side is bounded first.
	size, exact := t.shortest, float64(t.shortest)
	if long/short*exact > float64(t.longest) {
		exact = float64(t.longest) * short / long
		size = int(math.RoundToEven(exact))
	}
	switch {
	case height <= width && height == size || width <= height && width == size:
		return height, width
	case width < height:
		return int(exact * float64(height) / float64(width)), size
	}
	return size, int(exact * float64(width) / float64(height))
}

// cropped is the middle of a picture, in black where the picture does not reach. Where
// that is uneven the variants differ by one pixel.
func (p *Processor) cropped(picture Picture) Picture {
	at := func(have, want int) int {
		if p.Variant == Torchvision && want > have {
			return (want - have) / 2
		}
		return -floorHalf(have - want)
	}
	height, width := p.s.cropHeight, p.s.cropWidth
	return picture.placed(width, height, at(picture.Width, width), at(picture.Height, height), [3]byte{})
}

// floorHalf is half of n, rounded down.
func floorHalf(n int) int { return n >> 1 }

// padSquare puts a picture into the middle of a square of the mean colour.
func padSquare(picture Picture, mean []float64) Picture {
	side := max(picture.Height, picture.Width)
	var fill [3]byte
	for i, v := range mean {
		fill[i] = byte(min(max(int(v*255), 0), 255))
	}
	return picture.placed(side, side, (side-picture.Width)/2, (side-picture.Height)/2, fill)
}

// batchSize is the size of all pictures of a batch.
func (p *Processor) batchSize(pictures []Picture) (height, width int, err error) {
	s := &p.s
	padding := s.pad && s.flow != square
	for i, picture := range pictures {
		if i > 0 && !padding && (picture.Height != height || picture.Width != width) {
			return 0, 0, &InputError{i, fmt.Sprintf("it is %dx%d once resized", picture.Width, picture.Height),
				fmt.Sprintf("%dx%d, as those before it: pictures of different sizes are not padded here", width, height)}
		}
		height, width = max(height, picture.Height), max(width, picture.Width)
	}
	if padding && s.padHeight > 0 {
		if height > s.padHeight || width > s.padWidth {
			return 0, 0, &InputError{0, fmt.Sprintf("the largest of the batch is %dx%d", width, height), fmt.Sprintf("at most pad_size, which is %dx%d", s.padWidth, s.padHeight)}
		}
		height, width = s.padHeight, s.padWidth
	}
	return height, width, nil
}

// fill writes a picture as [3, height, width]; what is beyond it stays as it is.
func (p *Processor) fill(out []float32, picture Picture, height, width int) {
	for c := range 3 {
		values := &p.values[c]
		for y := range picture.Height {
			row, to := picture.row(y), out[(c*height+y)*width:]
			for x := range picture.Width {
				to[x] = values[row[3*x+c]]
			}
		}
	}
}
