package models

import (
	"fmt"
	"strconv"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// Outputs of See.
const (
	ImageRows    = "image_rows"
	ImageNewline = "row_newline" // [Decoder.Embeds] float32, where pictures have tiles
)

// languages are the families that a text_config may name.
var languages = map[string]*family{"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3}

// llava is LLaVA 1.5 (Liu et al. 2023, arXiv:2310.03744): a decoder that reads rows made of
// a picture's patches.
func llava(ck *checkpoint.Checkpoint, o Options) (*Model, error) { return loadLlava(ck, o, false) }

// llavaNext is LLaVA 1.6: pictures of any resolution, cut into tiles.
func llavaNext(ck *checkpoint.Checkpoint, o Options) (*Model, error) { return loadLlava(ck, o, true) }

// llavaConfig is the part of config.json beside those of the two models.
type llavaConfig struct {
	vision    visionTower
	layer     int64 // whose hidden states are read
	skipFirst bool  // the row of the class is left out
	act       string
	bias      bool
	token     int64
	pinpoints []Size
}

func llavaFields(f checkpoint.Fields, tiles bool) llavaConfig {
	c := llavaConfig{
		vision: visionTowerOf(f.Object("vision_config")),
		act:    activation(f, "projector_hidden_act", "gelu"),
		bias:   f.BoolOr("multimodal_projector_bias", true),
	}
	if c.token = f.IntOr("image_token_id", -1, 0, maxVocab); c.token < 0 {
		c.token = f.Int("image_token_index", 0, maxVocab)
	}
	layers := f.Ints("vision_feature_layer", -maxLayers, maxLayers)
	switch len(layers) {
	case 0:
		c.layer = -2
	case 1:
		c.layer = layers[0]
	default:
		f.Fail("vision_feature_layer", fmt.Sprintf("found %d layers", len(layers)), "one", "models that join several layers are not built")
	}
	if at := c.vision.behind(c.layer); f.Err() == nil && (at < 0 || at > c.vision.layers) {
		f.Fail("vision_feature_layer", fmt.Sprintf("found %d", c.layer), fmt.Sprintf("one of the vision model's %d layers", c.vision.layers), "")
	}
	switch s := f.StringOr("vision_feature_select_strategy", "default"); s {
	case "default":
		c.skipFirst = true
	case "full":
	default:
		f.Fail("vision_feature_select_strategy", "found "+strconv.Quote(s), `"default" or "full"`, "")
	}
	if tiles {
		c.pinpoints = sizesOf(f, "image_grid_pinpoints", c.vision.imageHeight)
		if f.Err() == nil && (c.vision.imageHeight != c.vision.imageWidth || !c.skipFirst) {
			f.Fail("vision_config", "tiles that are not square, or have a row for the class", "square tiles of patches alone", "")
		}
	}
	return c
}

func loadLlava(ck *checkpoint.Checkpoint, o Options, tiles bool) (*Model, error) {
	f := ck.Config.Fields()
	c := llavaFields(f, tiles)
	text := f.Object("text_config")
	kind := text.StringOr("model_type", "llama")
	v, known := languages[kind]
	if !known && f.Err() == nil {
		text.Fail("model_type", "found "+strconv.Quote(kind), `"llama", "mistral", "qwen2" or "qwen3"`, "")
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	w := &weights{ck: ck, prefix: "language_model.model.", outer: "language_model.", used: map[string]bool{}}
	root := "" // of names as transformers 5 has them
	if ck.Has("model.language_model.embed_tokens.weight") {
		w.prefix, w.outer, root = "model.language_model.", "", "model."
	}
	m, err := v.decode(ck, text, w, o, true)
	if err != nil {
		return nil, err
	}
	if c.token >= m.VocabSize {
		f.Fail("image_token_index", fmt.Sprintf("found %d", c.token), fmt.Sprintf("a token below the text model's vocab_size, which is %d", m.VocabSize), "")
		return nil, f.Err()
	}
	m.Pictures = &Pictures{Token: c.token, Width: m.Decoder.Embeds, Columns: c.vision.gridWidth, Rows: c.vision.tokens()}
	if c.skipFirst && !c.vision.sigmoid {
		m.Pictures.Rows--
	}
	if tiles {
		m.Pictures.TileSide, m.Pictures.Pinpoints = c.vision.imageHeight, c.pinpoints
	}
	n := newNet(See, w, o)
	in := inputs{list: []input{c.vision.input(Images)}}
	in.declare(n.Builder)
	prefix := root + "vision_tower."
	if ck.Has(prefix + "vision_model.embeddings.patch_embedding.weight") {
		prefix += "vision_model."
	}
	w.skipUnder(prefix) // what comes behind the layer that is read
	x := c.vision.build(n, "vision", prefix, c.layer)
	if c.skipFirst && !c.vision.sigmoid {
		x = n.in("vision.patches").Op("Slice", []string{x, n.Ints(1), n.Ints(1 << 62), n.Ints(1)})
	}
	const projector = "multi_modal_projector."
	hidden := m.Decoder.Embeds
	x = n.project("projector.up", x, root+projector+"linear_1", c.vision.stack.width, hidden, c.bias)
	x = n.project("projector.down", n.activate("projector.act", c.act, x), root+projector+"linear_2", hidden, hidden, c.bias)
	n.Output(ImageRows, x, graph.TensorType(tensor.Float32, graph.Sym(Images), graph.Known(m.Pictures.Rows), graph.Known(hidden)))
	if tiles {
		n.Output(ImageNewline, n.in("newline").Op("Identity", []string{n.weight(root+"image_newline", hidden)}), graph.TensorType(tensor.Float32, graph.Known(hidden)))
	}
	if err := m.add(See, in, n); err != nil {
		return nil, err
	}
	m.Unused, m.Matrices = w.unused(), w.matrices()
	return m, nil
}

// skipUnder marks all tensors under a prefix.
func (w *weights) skipUnder(prefix string) {
	for _, n := range w.ck.Names() {
		if len(n) > len(prefix) && n[:len(prefix)] == prefix {
			w.used[n] = true
		}
	}
}

// sizesOf reads a list of sizes in whole tiles of a side.
func sizesOf(f checkpoint.Fields, name string, side int64) []Size {
	var list []Size
	for _, p := range f.IntLists(name, 1, maxImage) {
		if len(p) != 2 {
			f.Fail(name, fmt.Sprintf("found a list of %d numbers", len(p)), "pairs of height and width", "")
			return nil
		}
		if side > 0 && (p[0]%side != 0 || p[1]%side != 0) {
			f.Fail(name, fmt.Sprintf("found %dx%d", p[0], p[1]), fmt.Sprintf("multiples of %d, the vision model's image_size", side), "")
			return nil
		}
		list = append(list, Size{p[0], p[1]})
	}
	if len(list) == 0 && f.Err() == nil {
		f.Fail(name, "it is empty", "at least one size", "")
	}
	return list
}
