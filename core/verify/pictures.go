package verify

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/schedule"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Names of what goldens record of models that read pictures.
const (
	imageSizes    = "image_sizes"    // [images, 2] int64, height and width
	imageFeatures = "image_features" // [rows, width], of all pictures as the decoder reads them
)

// picture is one as the decoder reads it.
type picture struct {
	rows []float32
	hash [32]byte
}

// see has a case's pictures seen, and holds their rows against those recorded.
func see(ctx context.Context, s *engine.Session, t test, res *Result, tolerance float64) ([]picture, error) {
	p := s.Model.Pictures
	pixels, ok := t.inputs[models.PixelValues]
	if !ok {
		return nil, nil
	}
	part, err := s.Part(models.See)
	if err != nil {
		return nil, err
	}
	shape := pixels.Tensor.Shape
	sizes := t.inputs[imageSizes].Tensor
	tiled := len(shape) == 5 // [images, tiles, channels, height, width]
	if tiled && (sizes.DType != tensor.Int64 || !sizes.Shape.Equal(tensor.Shape{shape[0], 2})) {
		return nil, fmt.Errorf("%s is %s%v, wanted int64[%d,2]", imageSizes, sizes.DType, sizes.Shape, shape[0])
	}
	var list []picture
	var all []float32
	each := len(pixels.Tensor.Data) / int(shape[0])
	for i := range shape[0] {
		one := tensor.Tensor{DType: pixels.Tensor.DType, Shape: append(tensor.Shape{1}, shape[1:]...), Data: pixels.Tensor.Data[int(i)*each : int(i+1)*each]}
		var size models.Size
		if tiled {
			at := tensor.View[int64](sizes.Aligned())[2*i:]
			size = models.Size{Height: at[0], Width: at[1]}
			n := p.Tiles(size)
			if n > shape[1] {
				return nil, fmt.Errorf("picture %d has %d tiles, %s holds %d", i, n, models.PixelValues, shape[1])
			}
			one.Shape = append(tensor.Shape{n}, shape[2:]...)
			one.Data = one.Data[:each/int(shape[1])*int(n)]
		}
		run := test{name: t.name, inputs: map[string]graph.Datum{models.PixelValues: graph.TensorDatum(one.Aligned())}}
		got, err := account(ctx, part, run, res, part.Outputs())
		if err != nil {
			return nil, err
		}
		rows, err := p.Arrange(got[models.ImageRows].Tensor, got[models.ImageNewline].Tensor, size)
		if err != nil {
			return nil, err
		}
		list = append(list, picture{rows: slices.Clone(rows), hash: sha256.Sum256(one.Data)})
		all = append(all, rows...)
	}
	for _, o := range t.outputs {
		if o.name == imageFeatures {
			got := tensor.Floats(tensor.Shape{int64(len(all)) / p.Width, p.Width}, all...)
			out := compareValues(graph.TensorDatum(got), o.value, tensor.Tensor{}, tolerance)
			out.Name = imageFeatures
			if t.name != "" {
				out.Name = t.name + "." + imageFeatures
			}
			res.Outputs = append(res.Outputs, out)
		}
	}
	return list, nil
}

// show puts pictures in the places of texts that wait for their rows, one after another.
func show(p *models.Pictures, texts []decoderText, list []picture) error {
	for b := range texts {
		ids := texts[b].ids
		for at := 0; at < len(ids); at++ {
			if ids[at] != p.Token {
				continue
			}
			if len(list) == 0 {
				return fmt.Errorf("text %d waits for a picture at token %d, and there is none left", b, at)
			}
			n := len(list[0].rows) / int(p.Width)
			if at+n > len(ids) || slices.ContainsFunc(ids[at:at+n], func(id int64) bool { return id != p.Token }) {
				return fmt.Errorf("text %d has fewer places at token %d than its picture's %d rows", b, at, n)
			}
			texts[b].embeds = append(texts[b].embeds, schedule.Embed{At: at, Rows: list[0].rows, Hash: list[0].hash})
			list, at = list[1:], at+n-1
		}
	}
	if len(list) > 0 {
		return fmt.Errorf("%d pictures have no place in the texts", len(list))
	}
	return nil
}
