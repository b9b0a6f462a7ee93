package models

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/sdk/tensor"
	"github.com/accelhq/accel/sdk/testfiles"
)

// recorded is a case of a golden: what goes in and what comes out.
type recorded struct{ in, out map[string]tensor.Tensor }

// cases reads the cases of a folder's golden; the name of one alone is empty.
func cases(t testing.TB, dir string) map[string]recorded {
	t.Helper()
	golden, err := checkpoint.OpenSafetensors(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { golden.Close() })
	list := map[string]recorded{}
	for _, key := range golden.Names() {
		side, name, _ := strings.Cut(key, ".")
		if side != "in" && side != "out" {
			continue
		}
		which, last, ok := strings.Cut(name, ".")
		if !ok {
			which, last = "", name
		}
		c, ok := list[which]
		if !ok {
			c = recorded{map[string]tensor.Tensor{}, map[string]tensor.Tensor{}}
			list[which] = c
		}
		v, err := golden.Tensor(key)
		if err != nil {
			t.Fatal(err)
		}
		if side == "in" {
			c.in[last] = v.Aligned()
		} else {
			c.out[last] = v.Aligned()
		}
	}
	return list
}

func TestSound(t *testing.T) {
	for _, name := range []string{"wav2vec2", "wav2vec2_stable", "clap"} {
		t.Run(name, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", name)
			m, ck := load(t, dir)
			if len(m.Unused) > 0 || len(m.Notes) > 0 {
				t.Errorf("unused are %q, notes are %q", m.Unused, m.Notes)
			}
			list := cases(t, dir)
			if len(list) == 0 {
				t.Fatal("nothing is recorded")
			}
			for which, c := range list {
				if len(c.out) == 0 {
					t.Errorf("%s: no output is recorded", which)
				}
				got := run(t, m, ck, Full, c.in, slices.Sorted(maps.Keys(c.out))...)
				for name, want := range c.out {
					if want.DType == tensor.Float32 {
						compare(t, which+"."+name, got[name], want)
					} else if v := got[name]; v.DType != want.DType || !v.Shape.Equal(want.Shape) || !bytes.Equal(v.Data, want.Data) {
						t.Errorf("%s.%s: found %s%v %v", which, name, v.DType, v.Shape, v.Data)
					}
				}
			}
		})
	}
}

func TestSoundConfigErrors(t *testing.T) {
	set := func(path string, value any) func(map[string]any) {
		return func(c map[string]any) {
			keys := strings.Split(path, ".")
			for _, k := range keys[:len(keys)-1] {
				c = c[k].(map[string]any)
			}
			c[keys[len(keys)-1]] = value
		}
	}
	for _, tt := range []struct {
		dir, path string
		value     any
		want      string
	}{
		{"wav2vec2", "conv_kernel", []int{10, 3}, "conv_kernel: found [10 3], wanted 4 numbers"},
		{"wav2vec2", "conv_stride", []int{5}, "conv_stride: found [5], wanted 4 numbers"},
		{"wav2vec2", "conv_stride", []int{60000, 60000, 60000, 60000}, "conv_stride: found [60000 60000 60000 60000], wanted frames of at most"},
		{"wav2vec2", "feat_extract_norm", "batch", `feat_extract_norm: found "batch", wanted "group" or "layer"`},
		{"wav2vec2", "num_attention_heads", 5, "num_attention_heads: found 5, wanted a divisor of hidden_size"},
		{"wav2vec2", "num_conv_pos_embedding_groups", 7, "num_conv_pos_embedding_groups: found 7"},
		{"wav2vec2", "add_adapter", true, "add_adapter: found true"},
		{"wav2vec2", "adapter_attn_dim", 16, "adapter_attn_dim: found 16, wanted null"},
		{"wav2vec2", "pad_token_id", 32, "pad_token_id: found 32, wanted a token below vocab_size, which is 32"},
		{"wav2vec2", "conv_dim", []int{24, 24, 28, 33}, `tensor "wav2vec2.feature_extractor.conv_layers.3.conv.weight": its shape is [32,28,2], wanted [33,28,2]`},
		{"clap", "audio_config.enable_fusion", true, "audio_config.enable_fusion: found a checkpoint that fuses"},
		{"clap", "audio_config.fusion_type", "channel_map", `("channel_map"), wanted one without`},
		{"clap", "audio_config.num_mel_bins", 24, "audio_config.spec_size: found 64, wanted a multiple of num_mel_bins"},
		{"clap", "audio_config.patch_stride", []int{4, 2}, "audio_config.patch_stride: found [4 2]"},
		{"clap", "audio_config.depths", []int{}, "audio_config.depths: found [], wanted 1 to 8 stages"},
		{"clap", "audio_config.num_attention_heads", []int{2, 4}, "audio_config.num_attention_heads: found [2 4], wanted 3 numbers"},
		{"clap", "audio_config.num_attention_heads", []int{2, 4, 5}, "wanted a divisor of 32 at number 2"},
		{"clap", "audio_config.window_size", 3, "audio_config.window_size: found 3, wanted a divisor of 16"},
		{"clap", "audio_config.hidden_size", 48, "audio_config.hidden_size: found 48, wanted 32"},
		{"clap", "audio_config.patch_embed_input_channels", 3, "audio_config.patch_embed_input_channels: found 3"},
		{"clap", "text_config.pad_token_id", 65, "text_config.max_position_embeddings: found 66"},
		{"whisper", "model_type", "whispers", `model_type "whispers" is not known`},
	} {
		t.Run(tt.dir+" "+tt.path, func(t *testing.T) {
			dir := testfiles.Shared(t, "tiny", tt.dir)
			_, err := Load(open(t, copied(t, dir, set(tt.path, tt.value), nil)), Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("found %v, wanted %q", err, tt.want)
			}
		})
	}
}

func TestSoundFeeds(t *testing.T) {
	sound := func(batch, samples int64) tensor.Tensor {
		return tensor.Floats(tensor.Shape{batch, samples}, make([]float32, batch*samples)...)
	}
	mask := func(v ...int32) tensor.Tensor {
		return tensor.Of(tensor.Int32, tensor.Shape{1, int64(len(v))}, v)
	}
	until := func(ones, all int) []int32 {
		v := make([]int32, all)
		for i := range ones {
			v[i] = 1
		}
		return v
	}
	behind := append(until(200, 300), 1)
	w, _ := load(t, testfiles.Shared(t, "tiny", "wav2vec2"))
	c, _ := load(t, testfiles.Shared(t, "tiny", "clap"))
	if w.CTC.Stride != 80 || w.CTC.Window != 100 || w.CTC.Blank != 0 || w.CTC.VocabSize != 32 {
		t.Errorf("found %+v", w.CTC)
	}
	for samples, frames := range map[int64]int64{0: 0, 99: 0, 100: 1, 179: 1, 180: 2, 4960: 61} {
		if n := w.CTC.Frames(samples); n != frames {
			t.Errorf("%d samples: found %d frames, wanted %d", samples, n, frames)
		}
	}
	full, err := w.Feeds(CTCLogits, map[string]tensor.Tensor{InputValues: sound(2, 100)})
	if err != nil {
		t.Fatal(err)
	}
	if m := full[AttentionMask]; m.DType != tensor.Int32 || slices.Contains(tensor.View[int32](m), 0) || m.Len() != 200 {
		t.Errorf("the mask is %v", m)
	}
	for _, tt := range []struct {
		m         *Model
		component string
		in        map[string]tensor.Tensor
		want      string
	}{
		{w, CTCLogits, nil, "input_values: it is missing"},
		{w, CTCLogits, map[string]tensor.Tensor{InputValues: sound(1, 99)}, "wanted at least 100"},
		{w, CTCLogits, map[string]tensor.Tensor{InputValues: sound(1, 300), AttentionMask: mask(until(200, 299)...)}, "attention_mask: its shape is [1,299]"},
		{w, CTCLogits, map[string]tensor.Tensor{InputValues: sound(1, 300), AttentionMask: mask(until(90, 300)...)}, "attention_mask[0]: 90 samples that count at its start, wanted at least 100"},
		{w, CTCLogits, map[string]tensor.Tensor{InputValues: sound(1, 301), AttentionMask: mask(behind...)}, "attention_mask[0,300]: found 1 behind a 0"},
		{w, CTCLogits, map[string]tensor.Tensor{InputValues: sound(1, 3), AttentionMask: mask(1, 2, 3)}, "wanted at least 100"},
		{c, Audio, map[string]tensor.Tensor{InputFeatures: tensor.Floats(tensor.Shape{1, 1, 257, 16}, make([]float32, 257*16)...)}, "wanted at most 256"},
		{c, Audio, map[string]tensor.Tensor{InputFeatures: tensor.Floats(tensor.Shape{1, 1, 2, 8}, make([]float32, 16)...)}, "wanted [batch,1,frames,16]"},
		{c, Text, map[string]tensor.Tensor{InputFeatures: sound(1, 1)}, "input_features: the model has no such input"},
	} {
		if _, err := tt.m.Feeds(tt.component, tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("found %v, wanted %q", err, tt.want)
		}
	}
}
