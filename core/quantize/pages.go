package quantize

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/accelhq/accel/configs"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/sdk/tensor"
)

// shape is what the policy knows models by.
type shape struct {
	Class      string `yaml:"class"`
	Layers     int64  `yaml:"layers"`
	KVHeads    int64  `yaml:"kv_heads"`
	HeadDim    int64  `yaml:"head_dim"`
	Vocabulary int64  `yaml:"vocabulary"`
}

// measuredPages are what pages of types do to a model.
type measuredPages struct {
	Key      string  `yaml:"key"`
	Value    string  `yaml:"value"`
	Change   float64 `yaml:"change"`   // of perplexity, a part of it
	Accepted float64 `yaml:"accepted"` // of it, either way
}

// measuredModel is a model in policy/kv_cache.yaml.
type measuredModel struct {
	Model    string          `yaml:"model"`
	Shape    shape           `yaml:"shape"`
	Evidence string          `yaml:"evidence"`
	Pages    []measuredPages `yaml:"pages"`
}

// pageBits are the bits of a number in a page, by the names that configurations have
// for their types.
var pageBits = map[string]int{"f32": 32, "f16": 16, "bf16": 16, "int8": 8, "int4": 4}

func pageType(t tensor.DType, bits int) string {
	switch {
	case bits == 8:
		return "int8"
	case bits == 4:
		return "int4"
	case t == tensor.Float16:
		return "f16"
	case t == tensor.BFloat16:
		return "bf16"
	}
	return "f32"
}

// PagesRefusedError says that pages of a KV cache cost a model more than the policy accepts.
type PagesRefusedError struct {
	Model      string // that was measured
	Key, Value string // types that are refused
	Measured   string // what was measured: these types, or finer ones
	Change     float64
	Accepted   float64
	Instead    string // accepted types; empty: none is known
}

func (e *PagesRefusedError) Error() string {
	s := fmt.Sprintf("pages of %s keys and %s values are refused for models of the shape of %s: with %s its perplexity changes by %+.1f %%, accepted are %.1f %%",
		e.Key, e.Value, e.Model, e.Measured, 100*e.Change, 100*e.Accepted)
	if e.Instead != "" {
		s += "; set kv_cache.key and kv_cache.value to " + e.Instead
	}
	return s
}

// CheckPages refuses pages of a decoder's KV cache that are known to cost models of its
// class and shape more than policy/kv_cache.yaml accepts, or that are coarser than such
// pages in keys and in values. The error is a *PagesRefusedError.
func CheckPages(class string, d *models.Decoder) error {
	is := shape{class, d.Layers, d.KVHeads, d.HeadDim, d.VocabSize}
	for _, m := range pagePolicy() {
		if m.Shape == is {
			return m.check(pageType(d.KV.Key, d.KV.KeyBits), pageType(d.KV.Value, d.KV.ValueBits))
		}
	}
	return nil
}

func (m *measuredModel) check(key, value string) error {
	var worst *measuredPages
	for i, p := range m.Pages {
		finer := pageBits[p.Key] >= pageBits[key] && pageBits[p.Value] >= pageBits[value]
		exact := p.Key == key && p.Value == value
		if finer && !p.accepted() && (worst == nil || exact) {
			worst = &m.Pages[i]
		}
	}
	if worst == nil {
		return nil
	}
	e := &PagesRefusedError{Model: m.Model, Key: key, Value: value, Change: worst.Change, Accepted: worst.Accepted,
		Measured: fmt.Sprintf("keys of %s and values of %s", worst.Key, worst.Value)}
	bits := func(p measuredPages) int { return pageBits[p.Key] + pageBits[p.Value] }
	good := slices.DeleteFunc(slices.Clone(m.Pages), func(p measuredPages) bool { return !p.accepted() })
	if len(good) > 0 {
		best := slices.MinFunc(good, func(a, b measuredPages) int { return bits(a) - bits(b) })
		e.Instead = best.Key + " and " + best.Value
	}
	return e
}

func (p measuredPages) accepted() bool { return math.Abs(p.Change) <= p.Accepted }

// pagePolicy is the table that the program carries.
var pagePolicy = sync.OnceValue(func() []measuredModel {
	const name = "policy/kv_cache.yaml"
	data, err := configs.Policy.ReadFile(name)
	if err != nil {
		panic("quantize: " + err.Error())
	}
	list, err := readPagePolicy(data)
	if err != nil {
		panic(fmt.Sprintf("quantize: %s: %v", name, err))
	}
	return list
})

func readPagePolicy(data []byte) ([]measuredModel, error) {
	var file struct {
		KVCache []measuredModel `yaml:"kv_cache"`
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		return nil, err
	}
	for _, m := range file.KVCache {
		for _, p := range m.Pages {
			if pageBits[p.Key] == 0 || pageBits[p.Value] == 0 || p.Accepted <= 0 {
				return nil, fmt.Errorf("%s: pages of %q and %q, accepted %g", m.Model, p.Key, p.Value, p.Accepted)
			}
		}
	}
	return file.KVCache, nil
}
