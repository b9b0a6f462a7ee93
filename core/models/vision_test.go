package models

import (
	"errors"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
)

// goldenCases are what golden.safetensors records of Full, by case; "" where there is
// only one.
func goldenCases(t testing.TB, dir string) map[string]*goldenCase {
	t.Helper()
	cases := map[string]*goldenCase{}
	for name, v := range goldenTensors(t, dir) {
		side, rest, _ := strings.Cut(name, ".")
		if side != "in" && side != "out" {
			continue
		}
		which, last, split := strings.Cut(rest, ".")
		if !split {
			which, last = "", rest
		}
		c := cases[which]
		if c == nil {
			c = &goldenCase{map[string]tensor.Tensor{}, map[string]tensor.Tensor{}}
			cases[which] = c
		}
		if side == "in" {
			c.in[last] = v
		} else {
			c.out[last] = v
		}
	}
	return cases
}

type goldenCase struct{ in, out map[string]tensor.Tensor }

// visionFolders are the tiny models that see; testdata/generate_vision.py made those in
// testdata.
func visionFolders(t testing.TB) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join("testdata", "vision", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vit", "clip", "xclip", "detr"} {
		dirs = append(dirs, tiny(name))
	}
	return dirs
}

func TestVisionGoldens(t *testing.T) {
	for _, dir := range visionFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, ck := load(t, dir)
			if len(m.Unused) != 0 || len(m.Notes) != 0 {
				t.Errorf("unused: %v, notes: %v", m.Unused, m.Notes)
			}
			for name, c := range goldenCases(t, dir) {
				t.Run(name, func(t *testing.T) {
					got := run(t, m, ck, Full, c.in)
					for name, want := range c.out {
						if v, ok := got[name]; ok {
							compare(t, name, v, want)
						} else {
							t.Errorf("there is no output %s", name)
						}
					}
					if len(c.out) == 0 || name == "" && len(got) != len(c.out) {
						t.Errorf("found the outputs %v, recorded are %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(c.out)))
					}
				})
			}
			for _, c := range m.Components {
				checkGraph(t, c, ck)
			}
		})
	}
}

// TestServingComponents: what requests are answered with gives what Full does.
func TestServingComponents(t *testing.T) {
	for _, dir := range visionFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, ck := load(t, dir)
			golden := goldenCases(t, dir)[""]
			given := maps.Clone(golden.in)
			maps.Copy(given, golden.out)
			compared := 0
			for _, c := range m.Components {
				if c.Name == Full {
					continue
				}
				feeds := map[string]tensor.Tensor{}
				for _, in := range c.Graph.Graph.Inputs {
					if v, ok := given[in.Name]; ok {
						feeds[in.Name] = v
					}
				}
				for name, v := range run(t, m, ck, c.Name, feeds) {
					if _, ok := given[name]; !ok {
						given[name] = v // for Match
					}
					if want, ok := golden.out[name]; ok {
						compare(t, c.Name+": "+name, v, want)
						compared++
					}
				}
			}
			if len(m.Vision.Labels) > 0 && compared == 0 || m.VocabSize > 0 && compared < 2 {
				t.Errorf("%d outputs were compared", compared)
			}
		})
	}
}

func TestVisionConfigErrors(t *testing.T) {
	for _, c := range []struct {
		dir    string
		change func(map[string]any)
		want   string
	}{
		{tiny("vit"), with("num_attention_heads", 5), "num_attention_heads: found 5, wanted a divisor of hidden_size, which is 48"},
		{tiny("vit"), with("patch_size", 40), "patch_size: found 40x40, wanted at most image_size, which is 35x35"},
		{tiny("vit"), with("image_size", []int{1, 2, 3}), "image_size: found 3 numbers"},
		{tiny("vit"), with("hidden_act", "mish"), "hidden_act"},
		{tiny("vit"), with("id2label", map[string]string{"0": "a", "9": "b"}), "id2label: it names 1 classes more, wanted the 7 classes of the weights"},
		{tiny("clip"), with("text_config.pad_token_id", 893), "text_config.pad_token_id: found 893"},
		{tiny("clip"), with("text_config_dict", map[string]any{"hidden_size": "wide"}), "text_config_dict.hidden_size"},
		{tiny("clip"), with("vision_config.num_channels", 0), "vision_config.num_channels: found 0"},
		{tiny("clip"), with("projection_dim", 25), "shape"},
		{tiny("xclip"), with("vision_config.mit_hidden_size", 28), "vision_config.mit_hidden_size: found 28, wanted projection_dim, which is 24"},
		{tiny("xclip"), with("prompt_num_attention_heads", 5), "prompt_num_attention_heads: found 5"},
		{tiny("detr"), with("position_embedding_type", "learned"), `position_embedding_type: found "learned"`},
		{tiny("detr"), with("d_model", 30), "encoder_attention_heads: found 4, wanted a divisor of d_model"},
		{tiny("detr"), with("backbone_config.model_type", "swin"), `backbone_config.model_type: found "swin"`},
		{tiny("detr"), with("backbone_config.layer_type", "wide"), `backbone_config.layer_type: found "wide"`},
		{tiny("detr"), with("backbone_config.depths", []int{1, 2}), "backbone_config.hidden_sizes: it has 4 entries"},
		{tiny("detr"), with("backbone_config.out_features", []string{"stage3"}), "backbone_config.out_features: found stage3, wanted stage4 at the end"},
		{tiny("detr"), with("backbone_config", map[string]any{"model_type": "timm_backbone", "backbone": "resnet51"}), `backbone_config.backbone: found "resnet51"`},
		{tiny("detr"), with("backbone_config", map[string]any{"model_type": "timm_backbone", "backbone": "resnet50", "output_stride": 8}), "backbone_config.output_stride: found 8"},
		{tiny("detr"), with("backbone_config", map[string]any{"model_type": "timm_backbone", "backbone": "resnet50"}), `tensor "backbone.conv_encoder.model.conv1.weight": it is not there`},
		{tiny("detr"), with("id2label", map[string]string{"6": "none"}), "id2label: it names 1 classes more"},
		{filepath.Join("testdata", "vision", "siglip"), with("vision_config.vision_use_head", false), "vision_config.vision_use_head: found false"},
		{filepath.Join("testdata", "vision", "siglip"), with("text_config.projection_size", 5), "text_config.projection_size: found 5"},
	} {
		dir := copied(t, c.dir, c.change, nil)
		_, err := Load(open(t, dir), Options{})
		var e *checkpoint.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("found %v, wanted %q", err, c.want)
		}
	}
}

func TestVisionFeeds(t *testing.T) {
	pixels := func(shape ...int64) tensor.Tensor {
		n, err := tensor.Shape(shape).Elements()
		if err != nil {
			t.Fatal(err)
		}
		return tensor.Floats(shape, make([]float32, n)...)
	}
	infinite := pixels(1, 3, 35, 35)
	tensor.View[float32](infinite)[40] = float32(math.Inf(1))
	vit, _ := load(t, tiny("vit"))
	clip, _ := load(t, tiny("clip"))
	detr, _ := load(t, tiny("detr"))
	xclip, _ := load(t, tiny("xclip"))
	ids := tensor.Ints(tensor.Shape{1, 2}, 1, 892)
	for _, c := range []struct {
		m         *Model
		component string
		given     map[string]tensor.Tensor
		want      string // in the error; empty: none
	}{
		{vit, Full, map[string]tensor.Tensor{PixelValues: pixels(2, 3, 7, 50)}, ""},
		{vit, Full, map[string]tensor.Tensor{PixelValues: pixels(2, 3, 6, 50)}, "height 6, wanted at least 7"},
		{vit, Classify, map[string]tensor.Tensor{PixelValues: pixels(2, 3, 35, 35)}, ""},
		{vit, Classify, map[string]tensor.Tensor{PixelValues: pixels(2, 3, 42, 35)}, "its shape is [2,3,42,35], wanted [batch,3,35,35]"},
		{vit, Classify, map[string]tensor.Tensor{PixelValues: pixels(0, 3, 35, 35)}, "batch 0, wanted at least 1"},
		{vit, Image, map[string]tensor.Tensor{PixelValues: infinite}, "pixel_values[0,0,1,5]: found +Inf, wanted a finite number"},
		{vit, Image, map[string]tensor.Tensor{PixelValues: tensor.Ints(tensor.Shape{1}, 1)}, "its type is int64, wanted float32"},
		{vit, "decode", nil, "full, classify, image"},
		{clip, Text, map[string]tensor.Tensor{InputIDs: ids}, ""},
		{clip, Text, map[string]tensor.Tensor{InputIDs: ids, PixelValues: pixels(1, 3, 30, 30)}, "pixel_values: the model has no such input"},
		{clip, Full, map[string]tensor.Tensor{InputIDs: ids, PixelValues: pixels(5, 3, 30, 30)}, ""},
		{clip, Full, map[string]tensor.Tensor{InputIDs: ids}, "pixel_values: it is missing"},
		{clip, Text, map[string]tensor.Tensor{InputIDs: tensor.Ints(tensor.Shape{2, 2}, 1, 892, 1, 2)}, "input_ids[1]: it does not end, wanted a token 892"},
		{detr, Detect, map[string]tensor.Tensor{PixelValues: pixels(1, 3, 1, 50)}, ""},
		{detr, Detect, map[string]tensor.Tensor{PixelValues: pixels(1, 3, 2, 2), PixelMask: tensor.Ints(tensor.Shape{1, 2, 2}, 1, 1, 0, 0)}, ""},
		{detr, Detect, map[string]tensor.Tensor{PixelValues: pixels(1, 3, 2, 2), PixelMask: tensor.Ints(tensor.Shape{1, 2, 2}, 0, 1, 0, 1)}, "pixel_mask[0,0,0]: found 0, wanted 1"},
		{detr, Detect, map[string]tensor.Tensor{PixelValues: pixels(1, 3, 2, 2), PixelMask: tensor.Ints(tensor.Shape{1, 1, 2}, 1, 1)}, "its shape is [1,1,2], wanted [1,2,2]"},
		{xclip, Video, map[string]tensor.Tensor{PixelValues: pixels(1, 3, 3, 24, 24)}, "its shape is [1,3,3,24,24], wanted [batch,4,3,24,24]"},
	} {
		got, err := c.m.Feeds(c.component, c.given)
		if c.want == "" && err != nil || c.want != "" && (got != nil || err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %s: found %v, wanted %q", c.m.ModelType, c.component, err, c.want)
		}
	}
	if full, err := clip.Feeds(Text, map[string]tensor.Tensor{InputIDs: ids}); err != nil || !slices.Equal(tensor.View[int64](full["position_ids"]), []int64{0, 1}) {
		t.Errorf("found %v, %v", full["position_ids"], err)
	}
}

// TestTimmNames: weights of timm's are found under its names, whose tiny models there are
// none of.
func TestTimmNames(t *testing.T) {
	r := timmResNet(checkpoint.Fields{}, "resnet50", 3, false)
	for got, want := range map[[2]string][2]string{
		r.names.stem:           {"conv1", "bn1"},
		r.names.conv(0, 2, 1):  {"layer1.2.conv2", "layer1.2.bn2"},
		r.names.conv(3, 0, 2):  {"layer4.0.conv3", "layer4.0.bn3"},
		r.names.shortcut(1, 0): {"layer2.0.downsample.0", "layer2.0.downsample.1"},
	} {
		if got != want {
			t.Errorf("found %v, wanted %v", got, want)
		}
	}
	if !r.bottleneck || !slices.Equal(r.sizes, []int64{256, 512, 1024, 2048}) {
		t.Errorf("found %+v", r)
	}
}
