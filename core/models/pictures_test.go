package models

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// Grids of LLaVA 1.6 and of the tiny LLaVA-Next: rows in tiles of 24x24 and 4x4 patches.
var (
	grid336 = &Pictures{Rows: 576, Columns: 24, Width: 8, TileSide: 336, Pinpoints: []Size{{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}}}
	grid24  = &Pictures{Rows: 16, Columns: 4, Width: 8, TileSide: 24, Pinpoints: []Size{{24, 48}, {48, 24}, {48, 48}, {24, 72}, {72, 24}}}
)

// TestPictureSizes: what transformers' LlavaNextProcessor counts (5.24).
func TestPictureSizes(t *testing.T) {
	for _, tt := range []struct {
		grid          *Pictures
		picture, best Size
		tiles, rows   int64
	}{
		{grid336, Size{336, 336}, Size{336, 672}, 3, 1176},
		{grid336, Size{672, 672}, Size{672, 672}, 5, 2928},
		{grid336, Size{336, 672}, Size{336, 672}, 3, 1752},
		{grid336, Size{1008, 336}, Size{1008, 336}, 4, 2376},
		{grid336, Size{480, 640}, Size{672, 672}, 5, 2340},
		{grid336, Size{640, 480}, Size{672, 672}, 5, 2352},
		{grid336, Size{100, 1000}, Size{336, 1008}, 4, 1160},
		{grid336, Size{1000, 100}, Size{1008, 336}, 4, 1224},
		{grid336, Size{1, 1}, Size{336, 672}, 3, 1176},
		{grid336, Size{1, 5000}, Size{336, 672}, 3, 576},
		{grid336, Size{5000, 1}, Size{336, 672}, 3, 600},
		{grid336, Size{333, 999}, Size{336, 1008}, 4, 2328},
		{grid336, Size{1080, 1920}, Size{672, 672}, 5, 1948},
		{grid336, Size{2160, 1440}, Size{672, 672}, 5, 2160},
		{grid336, Size{31, 47}, Size{336, 672}, 3, 1464},
		{grid24, Size{24, 24}, Size{24, 48}, 3, 36},
		{grid24, Size{48, 48}, Size{48, 48}, 5, 88},
		{grid24, Size{31, 47}, Size{48, 48}, 5, 70},
		{grid24, Size{333, 999}, Size{24, 72}, 4, 68},
		{grid24, Size{100, 1000}, Size{24, 72}, 4, 42},
		{grid24, Size{1000, 100}, Size{72, 24}, 4, 52},
		{grid24, Size{5000, 1}, Size{24, 48}, 3, 20},
		{&Pictures{Rows: 25, Columns: 5, Width: 8}, Size{100, 1000}, Size{}, 1, 25}, // a picture is one
	} {
		if got := BestResolution(tt.picture, tt.grid.Pinpoints); got != tt.best {
			t.Errorf("%v: seen in %v, wanted %v", tt.picture, got, tt.best)
		}
		if tiles, rows := tt.grid.Tiles(tt.picture), tt.grid.Count(tt.picture); tiles != tt.tiles || rows != tt.rows {
			t.Errorf("%v: %d tiles and %d rows, wanted %d and %d", tt.picture, tiles, rows, tt.tiles, tt.rows)
		}
	}
}

// TestArrange: each row of what is seen tells its tile and place, and lines end where they should.
func TestArrange(t *testing.T) {
	const end = -1
	for _, tt := range []struct {
		picture     Size
		first, last []float32 // lines of the whole, each with its end
	}{
		// 24x48: two tiles side by side, of which the outer halves are padding.
		{Size{24, 24}, []float32{102, 103, 200, 201, end}, []float32{114, 115, 212, 213, end}},
		{Size{24, 48}, []float32{100, 101, 102, 103, 200, 201, 202, 203, end}, []float32{112, 113, 114, 115, 212, 213, 214, 215, end}},
		// 72x24: three tiles, one above the other; one patch in four is seen, and no half of one is padding.
		{Size{1000, 100}, []float32{101, 102, end}, []float32{313, 314, end}},
	} {
		p := *grid24
		p.Width = 1
		seen, err := tensor.New(tensor.Float32, tensor.Shape{p.Tiles(tt.picture), p.Rows, 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := range seen.Len() {
			tensor.View[float32](seen)[i] = float32(i/16*100 + i%16)
		}
		got, err := p.Arrange(seen, tensor.Floats(tensor.Shape{1}, end), tt.picture)
		if err != nil {
			t.Fatal(err)
		}
		n := len(tt.first)
		if len(got) != int(p.Count(tt.picture)) || !slices.Equal(got[:16], tensor.View[float32](seen)[:16]) || !slices.Equal(got[16:16+n], tt.first) || !slices.Equal(got[len(got)-n:], tt.last) {
			t.Errorf("%v: found %d rows, %v ... %v", tt.picture, len(got), got[16:16+n], got[len(got)-n:])
		}
	}
	zeros := func(shape ...int64) tensor.Tensor {
		v, err := tensor.New(tensor.Float32, shape)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		seen, newline tensor.Tensor
		want          string
	}{
		{zeros(4, 16, 8), zeros(8), "wanted float32[3,16,8]"},
		{tensor.Ints(tensor.Shape{3, 16, 8}, make([]int64, 3*16*8)...), zeros(8), "int64[3,16,8]"},
		{zeros(3, 16, 8), zeros(7), "wanted float32[8]"},
		{zeros(3, 16, 8), tensor.Tensor{}, "row of a line's end"},
	} {
		if _, err := grid24.Arrange(tt.seen, tt.newline, Size{24, 24}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("found %v, wanted %q", err, tt.want)
		}
	}
}

// TestSeeingGoldens sees pictures as transformers' models did, and reads texts with them, whole
// and in chunks that cut through a picture.
func TestSeeingGoldens(t *testing.T) {
	for name, cases := range map[string][]string{"llava": {""}, "llava_next": {"a.", "b."}} {
		for _, c := range cases {
			t.Run(name+"/"+c, func(t *testing.T) {
				dir := testfiles.Shared(t, "tiny", name)
				m, ck := load(t, dir)
				golden := goldenTensors(t, dir)
				pixels, size := golden["in."+c+PixelValues], Size{30, 30}
				if len(pixels.Shape) == 5 {
					at := tensor.View[int64](golden["in."+c+"image_sizes"])
					size = Size{at[0], at[1]}
					pixels.Shape = pixels.Shape[1:]
				}
				if n := m.Pictures.Tiles(size); n != pixels.Shape[0] {
					t.Fatalf("a picture of %v has %d tiles, recorded are %d", size, n, pixels.Shape[0])
				}
				seen := run(t, m, ck, See, map[string]tensor.Tensor{PixelValues: pixels})
				rows, err := m.Pictures.Arrange(seen[ImageRows], seen[ImageNewline], size)
				if err != nil {
					t.Fatal(err)
				}
				width := m.Pictures.Width
				n := int64(len(rows)) / width
				compare(t, "image_features", tensor.Floats(tensor.Shape{n, width}, rows...), golden["out."+c+"image_features"])
				if n != m.Pictures.Count(size) {
					t.Errorf("counted are %d rows of %d", m.Pictures.Count(size), n)
				}

				ids, logits := tensor.View[int64](golden["in."+c+InputIDs]), golden["out."+c+Logits]
				for _, chunk := range []int{len(ids), 7} {
					s := newSession(t, m, ck, 64, 4, 1)
					next := int64(0) // row of the picture
					s.more = func(tokens [][]int64) map[string]tensor.Tensor {
						var index []int64
						for _, id := range tokens[0] {
							at := int64(-1)
							if id == m.Pictures.Token {
								at, next = next, next+1
							}
							index = append(index, at)
						}
						return map[string]tensor.Tensor{EmbedRows: tensor.Floats(tensor.Shape{n, width}, rows...), EmbedIndex: tensor.Ints(tensor.Shape{int64(len(index))}, index...)}
					}
					var got []float32
					for part := range slices.Chunk(ids, chunk) {
						got = append(got, tensor.View[float32](s.step([][]int64{part})[Logits])...)
					}
					compare(t, Logits, tensor.Floats(logits.Shape, got...), logits)
					if next != n {
						t.Errorf("the text has %d places for %d rows", next, n)
					}
				}
			})
		}
	}
}

func TestSeeingConfigErrors(t *testing.T) {
	for _, c := range []struct {
		model  string
		change func(map[string]any)
		want   string
	}{
		{"llava", with("vision_feature_layer", []int{-2, -3}), "vision_feature_layer: found 2 layers, wanted one"},
		{"llava", with("vision_feature_layer", -40), "vision_feature_layer: found -40, wanted one of the vision model's"},
		{"llava", with("vision_feature_select_strategy", "cls"), `vision_feature_select_strategy: found "cls", wanted "default" or "full"`},
		{"llava", with("text_config.model_type", "gpt2"), `text_config.model_type: found "gpt2", wanted "llama", "mistral", "qwen2" or "qwen3"`},
		{"llava", with("image_token_index", 5000), "image_token_index: found 5000, wanted a token below the text model's vocab_size"},
		{"llava", func(c map[string]any) { delete(c, "image_token_index"); delete(c, "image_token_id") }, "image_token_index"},
		{"llava", with("projector_hidden_act", "mish"), `projector_hidden_act: found "mish"`},
		{"llava", with("multimodal_projector_bias", "yes"), "multimodal_projector_bias: "},
		{"llava", func(c map[string]any) { delete(c, "vision_config") }, "vision_config"},
		{"llava", with("vision_config.patch_size", 0), "vision_config.patch_size: found 0"},
		{"llava", with("text_config.hidden_size", 44), "wanted [642,44]"},
		{"llava_next", with("image_grid_pinpoints", [][]int{{24, 50}}), "image_grid_pinpoints: found 24x50, wanted multiples of 24"},
		{"llava_next", with("image_grid_pinpoints", [][]int{{24, 48, 3}}), "image_grid_pinpoints: found a list of 3 numbers"},
		{"llava_next", with("image_grid_pinpoints", [][]int{}), "image_grid_pinpoints"},
		{"llava_next", with("image_grid_pinpoints", [][]int{{0, 24}}), "image_grid_pinpoints"},
		{"llava_next", with("vision_feature_select_strategy", "full"), "wanted square tiles of patches alone"},
	} {
		dir := copied(t, testfiles.Shared(t, "tiny", c.model), c.change, nil)
		_, err := Load(open(t, dir), Options{})
		var e *checkpoint.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: found %v, wanted %q", c.model, err, c.want)
		}
	}
}
