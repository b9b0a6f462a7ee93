package tasks

import (
	"context"
	"fmt"

	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/tensor"
)

// DetectRequest asks for the things in pictures.
type DetectRequest struct {
	Files     []File
	Threshold *float64 // above which a thing's probability must be, 0 to 1; nil: DefaultThreshold
	Most      int      // things in each picture, the likeliest; 0: all
}

// DefaultThreshold is that of transformers.
const DefaultThreshold = 0.5

// Thing is what was found, with its class's name.
type Thing struct {
	pixels.Detection
	Name string
}

// DetectedPicture is a picture with what was found in it, the likeliest first.
type DetectedPicture struct {
	Height, Width int // in pixels, as it is seen
	Things        []Thing
}

// DetectResult holds the pictures in the order of the request.
type DetectResult struct {
	Pictures []DetectedPicture
	Decision route.Decision
}

// Detector detects with one model.
type Detector struct {
	Model   string
	Sense   Sense
	Fetcher Fetcher // of files at URLs; nil: none is fetched
	Classes []string
	Part    *Part // outputs logits [batch, queries, classes+1] and pred_boxes [batch, queries, 4]
}

// Detect finds things. Pictures of one size are run together, for what is padded counts
// a little.
func (t *Detector) Detect(ctx context.Context, req DetectRequest) (DetectResult, error) {
	res := DetectResult{Pictures: make([]DetectedPicture, len(req.Files))}
	threshold := DefaultThreshold
	if req.Threshold != nil {
		threshold = *req.Threshold
	}
	switch {
	case len(req.Files) == 0:
		return res, &InvalidInputError{Field: "input", Input: -1, Problem: "it holds no input"}
	case !(threshold >= 0 && threshold <= 1):
		return res, &InvalidInputError{Field: "threshold", Input: -1, Problem: fmt.Sprintf("it is %v", threshold), Remedy: "give a probability, 0 to 1"}
	case req.Most < 0:
		return res, &InvalidInputError{Field: "max_detections", Input: -1, Problem: fmt.Sprintf("it is %d", req.Most), Remedy: "0 gives all"}
	}
	return res, perceive(ctx, &res.Decision, t.Sense, t.Fetcher, t.Part, req.Files, func(i int, p Perceived, out map[string]tensor.Tensor) error {
		found, err := pixels.Detections(out["logits"], out["pred_boxes"], [][2]int{{p.Height, p.Width}}, threshold)
		if err != nil {
			return fmt.Errorf("model %q: %w", t.Model, err)
		}
		res.Pictures[i] = DetectedPicture{Height: p.Height, Width: p.Width, Things: []Thing{}}
		for _, d := range pixels.Best(found[0], req.Most) {
			if d.Label >= len(t.Classes) {
				return fmt.Errorf("model %q gave class %d of %d", t.Model, d.Label, len(t.Classes))
			}
			res.Pictures[i].Things = append(res.Pictures[i].Things, Thing{d, t.Classes[d.Label]})
		}
		return nil
	})
}

// Ready looks at a sample, which brings the model onto its device.
func (t *Detector) Ready(ctx context.Context) (route.Decision, error) {
	sample := *t
	sample.Sense = sampled{t.Sense}
	res, err := sample.Detect(ctx, DetectRequest{Files: []File{{}}})
	return res.Decision, err
}
