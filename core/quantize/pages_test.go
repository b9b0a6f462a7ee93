package quantize

import (
	"errors"
	"strings"
	"testing"

	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/tensor"
)

func TestPagePolicy(t *testing.T) {
	list, err := readPagePolicy([]byte(`
kv_cache:
  - model: some
    shape: {class: llama, layers: 2, kv_heads: 3, head_dim: 4, vocabulary: 5}
    evidence: measured
    pages:
      - {key: int8, value: int8, change: 0.001, accepted: 0.005}
      - {key: int8, value: int4, change: -0.002, accepted: 0.01}
      - {key: int4, value: f16, change: 0.1, accepted: 0.02}
      - {key: int4, value: int4, change: -0.13, accepted: 0.02}`))
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, tt := range []struct{ key, value, refused string }{
		{"f16", "f16", ""},
		{"int8", "int8", ""},
		{"int8", "int4", ""},
		{"f32", "int4", ""},
		{"int4", "f32", ""}, // finer than what was measured
		{"int4", "bf16", "with keys of int4 and values of f16 its perplexity changes by +10.0 %, accepted are 2.0 %"},
		{"int4", "int8", "with keys of int4 and values of f16 its perplexity changes by +10.0 %"},
		{"int4", "int4", "with keys of int4 and values of int4 its perplexity changes by -13.0 %, accepted are 2.0 %; set kv_cache.key and kv_cache.value to int8 and int4"},
	} {
		err := list[0].check(tt.key, tt.value)
		var refused *PagesRefusedError
		switch {
		case tt.refused == "" && err != nil:
			t.Errorf("%s and %s: %v", tt.key, tt.value, err)
		case tt.refused != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), tt.refused)):
			t.Errorf("%s and %s: got %v, want %q", tt.key, tt.value, err, tt.refused)
		}
	}
	for name, bad := range map[string]string{
		"another key":  "kv_cache: [{model: some, bound: 1}]",
		"another type": "kv_cache: [{model: some, pages: [{key: int7, value: int8, change: 0, accepted: 1}]}]",
		"no bound":     "kv_cache: [{model: some, pages: [{key: int8, value: int8, change: 0}]}]",
	} {
		if list, err := readPagePolicy([]byte(bad)); err == nil {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

// TestPagesOfSmolLM2 holds the table that the program carries to the shape it was measured on.
func TestPagesOfSmolLM2(t *testing.T) {
	d := &models.Decoder{Layers: 30, KVHeads: 3, HeadDim: 64, VocabSize: 49152}
	d.KV = models.KVTypes{Key: tensor.Uint8, KeyBits: 4, Value: tensor.Uint8, ValueBits: 4}
	var refused *PagesRefusedError
	if err := CheckPages("llama", d); !errors.As(err, &refused) || refused.Key != "int4" || refused.Value != "int4" {
		t.Errorf("4 bits: %v", err)
	}
	if err := CheckPages("qwen2", d); err != nil {
		t.Errorf("another class: %v", err)
	}
	d.KV = models.KVTypes{Key: tensor.Int8, KeyBits: 8, Value: tensor.Uint8, ValueBits: 4}
	if err := CheckPages("llama", d); err != nil {
		t.Errorf("keys of 8 bits, values of 4: %v", err)
	}
	d.Layers = 31
	d.KV = models.KVTypes{Key: tensor.Uint8, KeyBits: 4, Value: tensor.Uint8, ValueBits: 4}
	if err := CheckPages("llama", d); err != nil {
		t.Errorf("another shape: %v", err)
	}
}
