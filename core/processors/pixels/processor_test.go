package pixels

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
)

// processor opens one by its settings.
func processor(t testing.TB, settings string, options ...Option) (*Processor, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, preprocessorFile), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return Open(dir, "", options...)
}

// TestProcessors holds many settings against what transformers makes by them.
func TestProcessors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "processors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	golden, err := checkpoint.OpenSafetensors(filepath.Join("testdata", "processors.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	pictures := map[string][]Picture{}
	for _, i := range []string{"0", "1", "2"} {
		v, err := golden.Tensor("in." + i)
		if err != nil {
			t.Fatal(err)
		}
		p := Picture{int(v.Shape[1]), int(v.Shape[0]), v.Data}
		pictures[i] = []Picture{p}
		pictures["all"] = append(pictures["all"], p)
	}
	compared := 0
	for _, key := range golden.Names() {
		parts := strings.Split(key, ".")
		if len(parts) != 4 {
			continue
		}
		p, err := processor(t, string(all[parts[0]]), As(map[string]Variant{"pil": PIL, "torchvision": Torchvision}[parts[1]]))
		if err != nil {
			t.Fatalf("%s: %v", parts[0], err)
		}
		process := p.Process
		if p.Name == "VideoMAE" {
			out, err := p.Videos([][]Picture{pictures[parts[2]]})
			if err != nil {
				t.Fatal(err)
			}
			want, err := golden.Tensor(key)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, key, out[parts[3]], want)
			compared++
			continue
		}
		out, err := process(pictures[parts[2]])
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		want, err := golden.Tensor(key)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, key, out[parts[3]], want)
		compared++
	}
	if compared < 2*3*len(all) {
		t.Errorf("%d outputs were compared", compared)
	}
}

func TestSettingsErrors(t *testing.T) {
	for settings, want := range map[string]string{
		`{`:  "no valid JSON",
		`{}`: `image_processor_type: found "ImageProcessor", wanted one of BeitImageProcessor, BitImageProcessor`,
		`{"image_processor_type": "SamImageProcessor"}`:                                                   `found "SamImageProcessor"`,
		`{"image_processor_type": 5}`:                                                                     "image_processor_type: found 5",
		`{"image_processor_type": "ViTImageProcessor", "do_flip": true}`:                                  "do_flip: it is there, wanted it left out",
		`{"image_processor_type": "ViTImageProcessor", "image_grid_pinpoints": [[1, 1]]}`:                 "image_grid_pinpoints: it is there",
		`{"image_processor_type": "ViTImageProcessor", "do_resize": "yes"}`:                               "do_resize: found \"yes\"",
		`{"image_processor_type": "ViTImageProcessor", "size": 0}`:                                        "size: found 0",
		`{"image_processor_type": "ViTImageProcessor", "size": [1, 2, 3]}`:                                "size: found 3 numbers",
		`{"image_processor_type": "ViTImageProcessor", "size": {"height": 5}}`:                            "size: found height",
		`{"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 5}}`:                      "size: found longest_edge",
		`{"image_processor_type": "ViTImageProcessor", "size": {"height": 5, "width": 5, "depth": 5}}`:    "size.depth: it is there",
		`{"image_processor_type": "ViTImageProcessor", "size": {"height": 99999, "width": 5}}`:            "size.height: found 99999",
		`{"image_processor_type": "ViTImageProcessor", "resample": 6}`:                                    "resample: found 6",
		`{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5]}`:                              "image_mean: found 1 numbers",
		`{"image_processor_type": "ViTImageProcessor", "image_std": [0.5, 0, 1]}`:                         "image_std: found 0",
		`{"image_processor_type": "ViTImageProcessor", "data_format": "channels_last"}`:                   `data_format: found "channels_last"`,
		`{"image_processor_type": "CLIPImageProcessor", "crop_size": {"shortest_edge": 5}}`:               "crop_size: it has no height and width",
		`{"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 5}}`:                    "size: it has a shortest_edge alone",
		`{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": []}`:                 "image_grid_pinpoints: found 0 resolutions",
		`{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": [[224, 448, 1]]}`:    "image_grid_pinpoints: found 3 numbers",
		`{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": [[225, 448]]}`:       "image_grid_pinpoints: found 225x448, wanted whole tiles of 224",
		`{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": [[224, -1]]}`:        "image_grid_pinpoints: found",
		`{"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": {"height": [1, 2]}}`: "image_grid_pinpoints: found",
	} {
		_, err := processor(t, settings)
		var e *checkpoint.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v, wanted %q", settings, err, want)
		}
	}
	var e *checkpoint.Error
	if _, err := Open(t.TempDir(), "vit"); !errors.As(err, &e) || !strings.Contains(err.Error(), "preprocessor_config.json: it does not exist") {
		t.Errorf("found %v", err)
	}
}

// TestOpen: what says of which kind a processor is.
func TestOpen(t *testing.T) {
	for _, c := range []struct {
		preprocessor, processor, modelType string
		name                               string
		variant                            Variant
		side                               int
	}{
		{`{"image_processor_type": "ViTImageProcessor"}`, "", "", "ViT", PIL, 224},
		{`{"image_processor_type": "ViTImageProcessorFast"}`, "", "clip", "ViT", Torchvision, 224},
		{`{"image_processor_type": "CLIPImageProcessorPil"}`, "", "", "CLIP", PIL, 224},
		{`{"feature_extractor_type": "ViTFeatureExtractor", "size": 30}`, "", "", "ViT", PIL, 30},
		{`{"image_processor_type": "CLIPFeatureExtractor", "size": 30}`, "", "", "CLIP", PIL, 30},
		{`{"size": 20}`, "", "dinov2", "Bit", PIL, 20},
		{`{"size": 20}`, `{"processor_class": "LlavaProcessor"}`, "vit", "ViT", PIL, 20},
		{`{"size": 20}`, `{"image_processor": {"image_processor_type": "LlavaNextImageProcessorFast", "size": 336, "crop_size": 336}}`, "vit", "LlavaNext", Torchvision, 336},
		{"", `{"image_processor": {"image_processor_type": "CLIPImageProcessor"}}`, "", "CLIP", PIL, 224},
	} {
		dir := t.TempDir()
		for name, content := range map[string]string{preprocessorFile: c.preprocessor, processorFile: c.processor} {
			if content == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p, err := Open(dir, c.modelType)
		if err != nil || p.Name != c.name || p.Variant != c.variant || max(p.s.size.shortest, p.s.size.height) != c.side {
			t.Errorf("%s %s: found %+v, %v", c.preprocessor, c.processor, p, err)
		}
	}
}

func TestProcessErrors(t *testing.T) {
	small, thin := Black(8, 8), Black(1, 60000)
	for _, c := range []struct {
		settings string
		option   Variant
		pictures []Picture
		want     string
	}{
		{`{"image_processor_type": "CLIPImageProcessor"}`, PIL, nil, "there is none"},
		{`{"image_processor_type": "CLIPImageProcessor"}`, PIL, []Picture{small, {Width: 2, Height: 2}}, "picture 1: a picture of 2x2 has 0 bytes"},
		{`{"image_processor_type": "CLIPImageProcessor", "size": 2000}`, PIL, []Picture{thin}, "picture 0: resizing makes 2000x120000000 of 1x60000"},
		{`{"image_processor_type": "DetrImageProcessor", "size": {"max_height": 5, "max_width": 5}}`, PIL, []Picture{thin}, "resizing makes 0x5"},
		{`{"image_processor_type": "ViTImageProcessor", "do_resize": false}`, PIL, []Picture{small, Black(8, 9)}, "picture 1: it is 8x9 once resized, wanted 8x8"},
		{`{"image_processor_type": "DetrImageProcessor", "pad_size": {"height": 5, "width": 900}}`, PIL, []Picture{small}, "at most pad_size, which is 900x5"},
		{`{"image_processor_type": "ViTImageProcessor", "resample": 5}`, Torchvision, []Picture{small}, "resampling is hamming"},
	} {
		p, err := processor(t, c.settings, As(c.option))
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.Process(c.pictures)
		var e *InputError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || out != nil {
			t.Errorf("%s: found %v, wanted %q", c.settings, err, c.want)
		}
	}
	p, err := processor(t, `{"image_processor_type": "VideoMAEImageProcessor"}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Videos([][]Picture{{small, small}, {small}}); err == nil || !strings.Contains(err.Error(), "a video of 1 frames, wanted 2") {
		t.Errorf("found %v", err)
	}
}
