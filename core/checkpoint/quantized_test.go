package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/tensor"
)

// quantizedTensors are two weights of 3 rows and 64 columns, one of each
// layout: a of 4 bits for MatMulNBits, b of 5 bits with mins for MatMulBlocks.
func quantizedTensors() map[string]tensor.Tensor {
	of := func(d tensor.DType, shape ...int64) tensor.Tensor {
		n, err := tensor.ByteSize(d, shape)
		if err != nil {
			panic(err)
		}
		return tensor.Tensor{DType: d, Shape: shape, Data: make([]byte, n)}
	}
	return map[string]tensor.Tensor{
		"a.codes": of(tensor.Uint8, 3, 2, 16), "a.scales": of(tensor.Float16, 3, 2),
		"b.codes": of(tensor.Uint8, 3, 40), "b.scales": of(tensor.Float16, 3, 2), "b.mins": of(tensor.Float16, 3, 2),
		"norm": tensor.Floats(tensor.Shape{64}, make([]float32, 64)...),
	}
}

func quantizedFolder(t testing.TB, config string, tensors map[string]tensor.Tensor) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSafetensors(&b, tensors, nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"config.json": config, "model.safetensors": b.String()})
	return dir
}

func TestQuantized(t *testing.T) {
	want := map[string]Quantized{
		"a": {Operator: MatMulNBits, Bits: 4, Block: 32, N: 3, K: 64},
		"b": {Operator: MatMulBlocks, Bits: 5, Block: 32, N: 3, K: 64, Mins: true},
	}
	// What is written is what is read.
	config, err := json.Marshal(map[string]any{"model_type": "llama", "quantization_config": QuantizationConfig(want)})
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, quantizedFolder(t, string(config), quantizedTensors()))
	for name, q := range want {
		if got, ok := c.Quantized(name); !ok || got != q {
			t.Errorf("%s: found %+v, %v, wanted %+v", name, got, ok, q)
		}
		if c.Has(name) {
			t.Errorf("there is a tensor %s", name)
		}
	}
	if _, ok := c.Quantized("norm"); ok {
		t.Error("norm is quantised")
	}
	if got := c.QuantizedNames(); !reflect.DeepEqual(got, []string{"a", "b"}) {
		t.Errorf("found %v", got)
	}
	if a, b := want["a"].BitsPerWeight(), want["b"].BitsPerWeight(); a != 4.5 || b != 6 {
		t.Errorf("found %v and %v bits a weight", a, b)
	}
}

// TestQuantizedForeign: what others mean by quantization_config is left alone.
func TestQuantizedForeign(t *testing.T) {
	c := open(t, quantizedFolder(t, `{"model_type":"llama","quantization_config":{"quant_method":"gptq","bits":4}}`, quantizedTensors()))
	if got := c.QuantizedNames(); len(got) != 0 {
		t.Errorf("found %v", got)
	}
}

func TestQuantizedRefuses(t *testing.T) {
	const a = `"a":{"operator":"MatMulNBits","bits":4,"block":32,"mins":false}`
	tensors := func(tensors string) string {
		return `{"quantization_config":{"quant_method":"accel","version":1,"tensors":` + tensors + `}}`
	}
	with := func(name string, v tensor.Tensor) func(map[string]tensor.Tensor) {
		return func(m map[string]tensor.Tensor) { m[name] = v }
	}
	without := func(name string) func(map[string]tensor.Tensor) {
		return func(m map[string]tensor.Tensor) { delete(m, name) }
	}
	for _, tt := range []struct {
		name, config string
		change       func(map[string]tensor.Tensor)
		want         string
	}{
		{"no object", `{"quantization_config":3}`, nil, "quantization_config: found 3, wanted an object"},
		{"version missing", `{"quantization_config":{"quant_method":"accel","tensors":{}}}`, nil, "quantization_config.version: it is missing"},
		{"version to come", `{"quantization_config":{"quant_method":"accel","version":2,"tensors":{}}}`, nil, "quantization_config.version: found 2"},
		{"tensors missing", `{"quantization_config":{"quant_method":"accel","version":1}}`, nil, "quantization_config.tensors: it is missing"},
		{"field not known", `{"quantization_config":{"quant_method":"accel","version":1,"tensors":{},"zeros":1}}`, nil, "quantization_config.zeros"},
		{"field of a tensor not known", tensors(`{"a":{"operator":"MatMulNBits","bits":4,"block":32,"order":1}}`), nil, "quantization_config.tensors.a.order"},
		{"operator not known", tensors(`{"a":{"operator":"MatMul","bits":4,"block":32}}`), nil, `tensors.a.operator: found "MatMul"`},
		{"no operator", tensors(`{"a":{"bits":4,"block":32}}`), nil, "tensors.a.operator: it is missing"},
		{"bits beyond", tensors(`{"a":{"operator":"MatMulBlocks","bits":9,"block":32}}`), nil, "tensors.a.bits: found 9"},
		{"bits of the other operator", tensors(`{"a":{"operator":"MatMulNBits","bits":5,"block":32}}`), nil, "tensors.a.bits: found 5, wanted 2, 4 or 8"},
		{"block no power", tensors(`{"a":{"operator":"MatMulNBits","bits":4,"block":24}}`), nil, "tensors.a.block: found 24"},
		{"block of nothing", tensors(`{"a":{"operator":"MatMulBlocks","bits":4,"block":0}}`), nil, "tensors.a.block: found 0"},
		{"mins of the other operator", tensors(`{"a":{"operator":"MatMulNBits","bits":4,"block":32,"mins":true}}`), nil, "tensors.a.mins: found true"},
		{"no such tensor", tensors(`{"c":{"operator":"MatMulNBits","bits":4,"block":32}}`), nil, `"c.scales": it is not there`},
		{"no codes", tensors("{" + a + "}"), without("a.codes"), `"a.codes": it is not there`},
		{"no mins", tensors(`{"b":{"operator":"MatMulBlocks","bits":5,"block":32,"mins":true}}`), without("b.mins"), `"b.mins": it is not there`},
		{"mins not told of", tensors(`{"b":{"operator":"MatMulBlocks","bits":5,"block":32}}`), nil, `"b.mins": config.json says that there is none`},
		{"whole too", tensors("{" + a + "}"), with("a", tensor.Floats(tensor.Shape{1}, 1)), `"a": it is stored whole and quantised too`},
		{"scales of another type", tensors("{" + a + "}"), with("a.scales", tensor.Floats(tensor.Shape{3, 2}, make([]float32, 6)...)), `"a.scales": it is F32[3,2], wanted float16[3,2]`},
		{"scales of rank 1", tensors("{" + a + "}"), with("a.scales", tensor.Tensor{DType: tensor.Float16, Shape: tensor.Shape{6}, Data: make([]byte, 12)}), `"a.scales": its shape is [6]`},
		{"codes of another shape", tensors(`{"a":{"operator":"MatMulNBits","bits":4,"block":64}}`), nil, `"a.codes": it is U8[3,2,16], wanted uint8[3,2,32]`},
		{"rows that end in a byte", tensors(`{"b":{"operator":"MatMulBlocks","bits":3,"block":1}}`), nil, "end within a byte"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := maps.Clone(quantizedTensors())
			if tt.change != nil {
				tt.change(m)
			}
			_, err := Open(quantizedFolder(t, tt.config, m))
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("found %v, wanted an *Error with %q", err, tt.want)
			}
		})
	}
}
