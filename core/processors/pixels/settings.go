package pixels

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/models"
)

// Names of the files that say how pictures are made ready.
const (
	preprocessorFile = "preprocessor_config.json"
	processorFile    = "processor_config.json" // what all processors of a model have in common
)

// Bounds on what settings may ask for.
const (
	maxSide      = 1 << 14
	maxPinpoints = 1 << 10
)

// flow is what a processor does besides resizing, cropping and normalising.
type flow int

const (
	plain  flow = iota
	square      // pads to a square before all else, where do_pad says so
	tiles       // cuts a picture of any resolution into tiles
	detect      // pads batches, with a mask of what is picture
)

// settings are how one processor makes pictures ready.
type settings struct {
	flow                                  flow
	resize, crop, rescale, normalize, pad bool
	size                                  target
	resample                              Filter
	cropHeight, cropWidth                 int
	factor                                float64
	mean, std                             []float64
	padHeight, padWidth                   int // 0: of the largest of a batch
	pinpoints                             []models.Size
	square                                bool // one number for a size is both sides, else the shorter
	maxSize                               int  // of a size that is one number: the longer side
}

// target is the size that pictures are resized to: height and width, or the shorter
// side (with or without a bound on the longer), or the largest height and width.
type target struct {
	height, width, shortest, longest, maxHeight, maxWidth int
}

var (
	half         = []float64{0.5, 0.5, 0.5}
	imageNetMean = []float64{0.485, 0.456, 0.406}
	imageNetStd  = []float64{0.229, 0.224, 0.225}
	clipMean     = []float64{0.48145466, 0.4578275, 0.40821073}
	clipStd      = []float64{0.26862954, 0.26130258, 0.27577711}
)

// processors are the types of image processors, before "ImageProcessor" or
// "FeatureExtractor", with what they do where their file does not say.
var processors = map[string]settings{
	"Beit":        {size: target{height: 224, width: 224}, square: true, resample: Bicubic, mean: half, std: half, cropHeight: 224, cropWidth: 224},
	"Bit":         {size: target{shortest: 224}, resample: Bicubic, crop: true, cropHeight: 224, cropWidth: 224, mean: clipMean, std: clipStd},
	"CLIP":        {size: target{shortest: 224}, resample: Bicubic, crop: true, cropHeight: 224, cropWidth: 224, mean: clipMean, std: clipStd},
	"ChineseCLIP": {size: target{shortest: 224}, resample: Bicubic, crop: true, cropHeight: 224, cropWidth: 224, mean: clipMean, std: clipStd},
	"DeiT":        {size: target{height: 256, width: 256}, square: true, resample: Bicubic, crop: true, cropHeight: 224, cropWidth: 224, mean: half, std: half},
	"Detr":        {flow: detect, size: target{shortest: 800, longest: 1333}, resample: Bilinear, pad: true, mean: imageNetMean, std: imageNetStd, maxSize: 1333},
	"Llava":       {flow: square, size: target{shortest: 224}, resample: Bicubic, crop: true, cropHeight: 224, cropWidth: 224, mean: clipMean, std: clipStd},
	"LlavaNext": {flow: tiles, size: target{shortest: 224}, resample: Bicubic, crop: true, cropHeight: 224, cropWidth: 224, pad: true, mean: clipMean, std: clipStd,
		pinpoints: []models.Size{{Height: 336, Width: 672}, {Height: 672, Width: 336}, {Height: 672, Width: 672}, {Height: 1008, Width: 336}, {Height: 336, Width: 1008}}},
	"Siglip":   {size: target{height: 224, width: 224}, resample: Bicubic, mean: half, std: half},
	"ViT":      {size: target{height: 224, width: 224}, square: true, resample: Bilinear, mean: half, std: half},
	"VideoMAE": {size: target{shortest: 224}, resample: Bilinear, crop: true, cropHeight: 224, cropWidth: 224, mean: half, std: half},
}

// byModel are the types for model_types whose folder does not say.
var byModel = map[string]string{
	"clip": "CLIP", "deit": "DeiT", "detr": "Detr", "dinov2": "Bit", "dinov2_with_registers": "Bit",
	"llava": "Llava", "llava_next": "LlavaNext", "siglip": "Siglip", "vit": "ViT", "xclip": "CLIP",
}

// without are settings that change nothing here: names, what is told of annotations, and
// how transformers lays out and batches.
var without = []string{
	"image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "_valid_processor_keys", "return_tensors",
	"device", "disable_grouping", "do_reduce_labels", "reduce_labels", "do_convert_annotations", "format", "use_fast", "backend",
}

// find opens processor_config.json, where that tells of an image processor, or
// preprocessor_config.json.
func find(dir string) (checkpoint.Fields, error) {
	var none checkpoint.Fields
	for _, name := range []string{processorFile, preprocessorFile} {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c, err := checkpoint.ReadConfig(file)
		if err != nil {
			return none, err
		}
		f := c.Fields()
		if name == preprocessorFile {
			return f, nil
		}
		if f.Has("image_processor") {
			f = f.Object("image_processor")
			return f, f.Err()
		}
	}
	return none, &checkpoint.Error{File: filepath.Join(dir, preprocessorFile), Err: fs.ErrNotExist, Remedy: "fetch the model's whole folder"}
}

// parse reads settings. A type that ends in "Fast" is torchvision's; all others are
// PIL's, as they were when most checkpoints were published.
func parse(f checkpoint.Fields, modelType string) (string, settings, Variant, error) {
	const field = "image_processor_type"
	given := f.StringOr(field, "")
	if given == "" {
		given = f.StringOr("feature_extractor_type", "")
	}
	given = strings.Replace(given, "FeatureExtractor", "ImageProcessor", 1) // their old name
	if given == "" {
		given = byModel[modelType] + "ImageProcessor"
	}
	name, v := given, PIL
	if fast, ok := strings.CutSuffix(name, "Fast"); ok {
		name, v = fast, Torchvision
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, "Pil"), "ImageProcessor")
	s, known := processors[name]
	if !known && f.Err() == nil {
		var all []string
		for n := range processors {
			all = append(all, n+"ImageProcessor")
		}
		slices.Sort(all)
		f.Fail(field, fmt.Sprintf("found %q", given), "one of "+strings.Join(all, ", ")+", or that with Fast behind it", "")
	}
	s.read(f)
	for _, n := range f.Names() {
		if !slices.Contains(without, n) && !slices.Contains(s.names(), n) {
			f.Fail(n, "it is there", "it left out", "the processor "+given+" has no such setting")
		}
	}
	return name, s, v, f.Err()
}

// names are the settings that count.
func (s *settings) names() []string {
	names := []string{"do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize",
		"image_mean", "image_std", "do_convert_rgb", "do_pad", "pad_size", "default_to_square", "data_format", "input_data_format"}
	switch s.flow {
	case tiles:
		names = append(names, "image_grid_pinpoints")
	case detect:
		names = append(names, "max_size", "pad_and_return_pixel_mask")
	}
	return names
}

func (s *settings) read(f checkpoint.Fields) {
	s.resize = f.BoolOr("do_resize", true)
	s.crop = f.BoolOr("do_center_crop", s.crop)
	s.rescale = f.BoolOr("do_rescale", true)
	s.normalize = f.BoolOr("do_normalize", true)
	s.pad = f.BoolOr("do_pad", f.BoolOr("pad_and_return_pixel_mask", s.pad))
	s.square = f.BoolOr("default_to_square", s.square)
	s.maxSize = int(f.IntOr("max_size", int64(s.maxSize), 1, maxSide))
	s.resample = Filter(f.IntOr("resample", int64(s.resample), 0, int64(Hamming)))
	s.factor = f.FloatOr("rescale_factor", 1.0/255, -math.MaxFloat64, math.MaxFloat64)
	f.BoolOr("do_convert_rgb", true) // pictures are red, green and blue by now; left as they were, others would only have failed
	for _, layout := range []string{"data_format", "input_data_format"} {
		if l := f.StringOr(layout, "channels_first"); l != "channels_first" && f.Err() == nil {
			f.Fail(layout, "found "+strconv.Quote(l), `"channels_first"`, "")
		}
	}
	if f.Has("size") {
		s.size = s.readSize(f, "size")
	}
	if f.Has("crop_size") {
		t := (&settings{square: true}).readSize(f, "crop_size")
		s.cropHeight, s.cropWidth = t.height, t.width
		if t.height == 0 && f.Err() == nil {
			f.Fail("crop_size", "it has no height and width", "both", "")
		}
	}
	if f.Has("pad_size") {
		t := (&settings{square: true}).readSize(f, "pad_size")
		s.padHeight, s.padWidth = t.height, t.width
		if t.height == 0 && f.Err() == nil {
			f.Fail("pad_size", "it has no height and width", "both", "")
		}
	}
	s.mean, s.std = channels(f, "image_mean", s.mean), channels(f, "image_std", s.std)
	if s.normalize && slices.ContainsFunc(s.std, func(v float64) bool { return float32(v) == 0 }) {
		f.Fail("image_std", "found 0", "numbers that can be divided by", "")
	}
	if s.flow == tiles {
		s.readPinpoints(f)
	}
	if s.flow == detect && s.resize && s.size.shortest > 0 && s.size.longest == 0 {
		f.Fail("size", "it has a shortest_edge alone", "longest_edge beside it", "")
	}
}

// readSize reads a size: a number, a list of height and width, or an object.
func (s *settings) readSize(f checkpoint.Fields, name string) (t target) {
	if !f.IsObject(name) {
		sides := f.Ints(name, 1, maxSide)
		switch {
		case f.Err() != nil:
		case len(sides) == 2:
			t.height, t.width = int(sides[0]), int(sides[1])
		case len(sides) != 1:
			f.Fail(name, fmt.Sprintf("found %d numbers", len(sides)), "one, or height and width", "")
		case s.square:
			t.height, t.width = int(sides[0]), int(sides[0])
		default:
			t.shortest, t.longest = int(sides[0]), s.maxSize
		}
		return t
	}
	o := f.Object(name)
	for _, n := range o.Names() {
		place := map[string]*int{"height": &t.height, "width": &t.width, "shortest_edge": &t.shortest, "longest_edge": &t.longest,
			"max_height": &t.maxHeight, "max_width": &t.maxWidth}[n]
		if place == nil {
			o.Fail(n, "it is there", "height and width, shortest_edge and perhaps longest_edge, or max_height and max_width", "")
			return t
		}
		*place = int(o.Int(n, 1, maxSide))
	}
	both := func(a, b int) bool { return a > 0 && b > 0 }
	switch {
	case f.Err() != nil:
	case both(t.height, t.width) && t == (target{height: t.height, width: t.width}),
		t.shortest > 0 && t == (target{shortest: t.shortest, longest: t.longest}),
		both(t.maxHeight, t.maxWidth) && t == (target{maxHeight: t.maxHeight, maxWidth: t.maxWidth}):
	default:
		f.Fail(name, "found "+strings.Join(o.Names(), " and "), "height and width, shortest_edge and perhaps longest_edge, or max_height and max_width", "")
	}
	return t
}

// channels reads a number for each channel, or one for all.
func channels(f checkpoint.Fields, name string, def []float64) []float64 {
	if !f.Has(name) {
		return def
	}
	if !f.IsList(name) {
		v := f.Float(name, -math.MaxFloat32, math.MaxFloat32)
		return []float64{v, v, v}
	}
	list := f.Floats(name)
	if len(list) != 3 && f.Err() == nil {
		f.Fail(name, fmt.Sprintf("found %d numbers", len(list)), "three, for red, green and blue", "")
	}
	return list
}

// readPinpoints reads the resolutions that pictures are fitted into, whole tiles each.
func (s *settings) readPinpoints(f checkpoint.Fields) {
	const name = "image_grid_pinpoints"
	if f.Has(name) {
		s.pinpoints = nil
		for _, p := range f.IntLists(name, 1, maxSide) {
			if len(p) != 2 {
				f.Fail(name, fmt.Sprintf("found %d numbers", len(p)), "pairs of height and width", "")
				return
			}
			s.pinpoints = append(s.pinpoints, models.Size{Height: p[0], Width: p[1]})
		}
	}
	if n := len(s.pinpoints); f.Err() == nil && (n == 0 || n > maxPinpoints) {
		f.Fail(name, fmt.Sprintf("found %d resolutions", n), fmt.Sprintf("1 to %d", maxPinpoints), "")
	}
	tile := int64(s.tile())
	for _, p := range s.pinpoints {
		if f.Err() == nil && (tile == 0 || p.Height%tile != 0 || p.Width%tile != 0) {
			f.Fail(name, fmt.Sprintf("found %dx%d", p.Height, p.Width), fmt.Sprintf("whole tiles of %d", tile), "")
		}
	}
}

// tile is the side of a tile.
func (s *settings) tile() int {
	switch {
	case s.cropHeight > 0:
		return s.cropHeight
	case s.size.height > 0:
		return s.size.height
	}
	return s.size.shortest
}
