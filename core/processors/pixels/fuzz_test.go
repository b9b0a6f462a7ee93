package pixels

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
)

// FuzzDecode: what is no picture is refused, without panic or much memory, and what is
// one has its pixels.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "pictures", "*"))
	if err != nil || len(files) == 0 {
		f.Fatalf("testdata: %v, %v", files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	limits := Limits{Bytes: 1 << 20, Pixels: 1 << 16, Frames: 8}
	f.Fuzz(func(t *testing.T, data []byte) {
		var bad *DecodeError
		p, err := Decode(data, limits)
		switch {
		case err != nil && !errors.As(err, &bad):
			t.Fatalf("%T: %v", err, err)
		case err == nil && (p.Check() != nil || p.Width*p.Height > limits.Pixels):
			t.Fatalf("found a picture of %dx%d with %d bytes", p.Width, p.Height, len(p.Pix))
		}
		frames, err := Frames(data, 3, limits)
		if err != nil && !errors.As(err, &bad) || err == nil && len(frames) != 3 {
			t.Fatalf("found %d frames, %T: %v", len(frames), err, err)
		}
	})
}

// FuzzSettings: settings are refused as a *checkpoint.Error, or they work.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		`{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 14}, "crop_size": {"height": 11, "width": 13}}`,
		`{"image_processor_type": "LlavaNextImageProcessorFast", "size": 8, "crop_size": 8, "image_grid_pinpoints": [[8, 16], [16, 8]]}`,
		`{"feature_extractor_type": "DetrFeatureExtractor", "size": 20, "max_size": 33, "pad_size": {"height": 40, "width": 36}}`,
		`{"image_processor_type": "LlavaImageProcessor", "do_pad": true, "resample": 1, "image_mean": 0.4, "rescale_factor": 1e300}`,
		`{"image_processor_type": "ViTImageProcessor", "size": [3, 4], "do_resize": false, "image_std": [1, 2, 3], "do_normalize": null}`,
	} {
		f.Add([]byte(s))
	}
	picture := Black(9, 5)
	f.Fuzz(func(t *testing.T, settings []byte) {
		c, err := checkpoint.ParseConfig(preprocessorFile, settings)
		if err != nil {
			return
		}
		var bad *checkpoint.Error
		p, err := newProcessor(c.Fields(), "clip")
		if err != nil {
			if !errors.As(err, &bad) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for _, side := range []int{p.s.size.height, p.s.size.width, p.s.size.shortest, p.s.size.longest, p.s.size.maxHeight, p.s.size.maxWidth, p.s.cropHeight, p.s.cropWidth, p.s.padHeight, p.s.padWidth} {
			if side > 300 {
				return // right, and slow
			}
		}
		for _, r := range p.s.pinpoints {
			if r.Height*r.Width > 1<<16 {
				return
			}
		}
		var wrong *InputError
		if _, err := p.Process([]Picture{picture, picture}); err != nil && !errors.As(err, &wrong) {
			t.Fatalf("%T: %v", err, err)
		}
	})
}
