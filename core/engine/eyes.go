package engine

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// eyes make pictures rows of a prompt, by the model's component See.
type eyes struct {
	see       *Session
	pictures  *models.Pictures
	processor *pixels.Processor
}

func newEyes(s *Session) (*eyes, error) {
	p, err := pixels.Open(s.Dir, s.Model.ModelType)
	if err != nil {
		return nil, err
	}
	see, err := s.Part(models.See)
	if err != nil {
		return nil, err
	}
	return &eyes{see, s.Model.Pictures, p}, nil
}

// Token is tasks.Eyes'.
func (e *eyes) Token() int64 { return e.pictures.Token }

// Look is tasks.Eyes'.
func (e *eyes) Look(data []byte) (tasks.Sight, error) {
	picture, err := pixels.Decode(data, pixels.Limits{})
	if err != nil {
		return nil, err
	}
	return e.look(picture)
}

func (e *eyes) look(picture pixels.Picture) (*sight, error) {
	ready, err := e.processor.Process([]pixels.Picture{picture})
	if err != nil {
		return nil, err
	}
	values := ready[pixels.PixelValues]
	size := models.Size{Height: int64(picture.Height), Width: int64(picture.Width)}
	if len(values.Shape) == 5 { // tiles of the one picture
		values.Shape = values.Shape[1:]
	}
	if tiles := e.pictures.Tiles(size); values.Shape[0] != tiles {
		return nil, fmt.Errorf("the image processor makes %d tiles of a picture of %dx%d, the model reads %d: preprocessor_config.json and config.json are of different models",
			values.Shape[0], size.Height, size.Width, tiles)
	}
	return &sight{eyes: e, size: size, values: values}, nil
}

// sight is a picture as See takes it.
type sight struct {
	eyes   *eyes
	size   models.Size // of the picture
	values tensor.Tensor
}

// Rows is tasks.Sight's.
func (s *sight) Rows() int { return int(s.eyes.pictures.Count(s.size)) }

// Hash is tasks.Sight's. The size counts too, for it says which of the patches are shown.
func (s *sight) Hash() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %v\n", s.size.Height, s.size.Width, s.values.Shape)
	h.Write(s.values.Data)
	return [32]byte(h.Sum(nil))
}

// See is tasks.Sight's.
func (s *sight) See(ctx context.Context, d *route.Decision) ([]float32, error) {
	part := s.eyes.see
	feeds, err := s.feeds()
	if err != nil {
		return nil, err
	}
	out, err := part.Run(ctx, d, feeds, part.Outputs())
	if err != nil {
		return nil, err
	}
	d.Component = models.See
	return s.eyes.pictures.Arrange(out[models.ImageRows].Tensor, out[models.ImageNewline].Tensor, s.size)
}

// feeds are what See takes.
func (s *sight) feeds() (map[string]graph.Datum, error) {
	feeds, err := s.eyes.see.feeds(map[string]tensor.Tensor{models.PixelValues: s.values})
	return graph.TensorData(feeds), err
}

// ready brings See onto its device, in the shapes of a small picture.
func (e *eyes) ready(ctx context.Context) (route.Decision, error) {
	var d route.Decision
	s, err := e.look(pixels.Picture{Height: 8, Width: 8, Pix: make([]byte, 3*8*8)})
	if err != nil {
		return d, err
	}
	feeds, err := s.feeds()
	if err == nil {
		err = e.see.Bring(ctx, &d, feeds)
	}
	return d, err
}
