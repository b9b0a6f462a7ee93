package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/accelhq/accel/sdk/tensor"
)

// Endings of the tensors that stand for a quantised one (decision 0013): of weight
// T these are T.codes, T.scales and, where it has them, T.mins.
const (
	CodesSuffix  = ".codes"
	ScalesSuffix = ".scales"
	MinsSuffix   = ".mins"
)

// Operators that multiply with quantised weights, which name the layouts too.
const (
	MatMulNBits  = "MatMulNBits"
	MatMulBlocks = "MatMulBlocks"
)

// QuantMethod is quant_method of a config.json whose folder holds weights in the
// form that Quantized describes.
const QuantMethod = "accel"

// quantVersion is the version of the form.
const quantVersion = 1

// Quantized says how a weight [N,K] is stored: as codes of Bits bits (uint8) and
// for every Block columns of a row a scale (float16), where K is a multiple of
// Block. Codes of MatMulNBits are [N, K/Block, Block*Bits/8] and mean
// scale*(code-2^(Bits-1)); those of MatMulBlocks are [N, K*Bits/8], and with Mins
// (float16) mean scale*code+min. Both are packed from the least significant bit.
type Quantized struct {
	Operator string // MatMulNBits or MatMulBlocks
	Bits     int64
	Block    int64
	N, K     int64
	Mins     bool
}

// CodesShape is the shape of the codes.
func (q Quantized) CodesShape() tensor.Shape {
	if q.Operator == MatMulNBits {
		return tensor.Shape{q.N, q.K / q.Block, q.Block * q.Bits / 8}
	}
	return tensor.Shape{q.N, q.K * q.Bits / 8}
}

// ScalesShape is the shape of the scales, and of mins.
func (q Quantized) ScalesShape() tensor.Shape { return tensor.Shape{q.N, q.K / q.Block} }

// BitsPerWeight counts scales and mins in.
func (q Quantized) BitsPerWeight() float64 {
	perBlock := 16.0
	if q.Mins {
		perBlock = 32
	}
	return float64(q.Bits) + perBlock/float64(q.Block)
}

// Suffixes are the endings of the tensors that hold it.
func (q Quantized) Suffixes() []string {
	if q.Mins {
		return []string{CodesSuffix, ScalesSuffix, MinsSuffix}
	}
	return []string{CodesSuffix, ScalesSuffix}
}

// MarshalJSON writes what config.json says of one tensor; N and K are the shapes'.
func (q Quantized) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Operator string `json:"operator"`
		Bits     int64  `json:"bits"`
		Block    int64  `json:"block"`
		Mins     bool   `json:"mins"`
	}{q.Operator, q.Bits, q.Block, q.Mins})
}

// QuantizationConfig is the value of quantization_config for a folder of these
// weights.
func QuantizationConfig(tensors map[string]Quantized) any {
	return struct {
		Method  string               `json:"quant_method"`
		Version int                  `json:"version"`
		Tensors map[string]Quantized `json:"tensors"`
	}{QuantMethod, quantVersion, tensors}
}

// Quantized says how the weight of that name is stored, where it is quantised: then
// the checkpoint has no tensor of the name itself.
func (c *Checkpoint) Quantized(name string) (Quantized, bool) {
	q, ok := c.quantized[name]
	return q, ok
}

// QuantizedNames lists the quantised weights in alphabetical order.
func (c *Checkpoint) QuantizedNames() []string { return slices.Sorted(maps.Keys(c.quantized)) }

// openQuantized reads quantization_config, where it is of our own form, and holds
// every weight in it against the stored tensors. Foreign forms are left to the model
// class, which misses the tensors that it wants.
func (c *Checkpoint) openQuantized() error {
	const field = "quantization_config"
	f := c.Config.Fields()
	if !f.Has(field) {
		return f.Err()
	}
	f = f.Object(field)
	if f.StringOr("quant_method", "") != QuantMethod || f.Err() != nil {
		return f.Err()
	}
	f.only("quant_method", "version", "tensors")
	f.Int("version", quantVersion, quantVersion)
	tensors := f.Object("tensors")
	c.quantized = map[string]Quantized{}
	for _, name := range slices.Sorted(maps.Keys(tensors.c.fields)) {
		q := tensors.Object(name).quantized()
		if err := f.Err(); err != nil {
			return err
		}
		if err := c.sizeQuantized(name, &q); err != nil {
			return err
		}
		c.quantized[name] = q
	}
	return f.Err()
}

// only refuses fields other than those named.
func (f Fields) only(names ...string) {
	for _, n := range slices.Sorted(maps.Keys(f.c.fields)) {
		if !slices.Contains(names, n) {
			f.Fail(n, "the field is not known", "one of "+strings.Join(names, ", "), "the folder was written by a newer version")
		}
	}
}

// quantized reads what config.json says of one weight.
func (f Fields) quantized() Quantized {
	f.only("operator", "bits", "block", "mins")
	q := Quantized{Operator: f.String("operator"), Bits: f.Int("bits", 1, 8), Block: f.Int("block", 1, 1<<20), Mins: f.BoolOr("mins", false)}
	if f.Err() != nil {
		return q
	}
	switch q.Operator {
	case MatMulNBits:
		if q.Bits != 2 && q.Bits != 4 && q.Bits != 8 {
			f.Fail("bits", fmt.Sprintf("found %d", q.Bits), "2, 4 or 8 for "+MatMulNBits, "")
		}
		if q.Block < 16 || q.Block&(q.Block-1) != 0 {
			f.Fail("block", fmt.Sprintf("found %d", q.Block), "a power of two of at least 16 for "+MatMulNBits, "")
		}
		if q.Mins {
			f.Fail("mins", "found true", "false for "+MatMulNBits, "")
		}
	case MatMulBlocks:
	default:
		f.Fail("operator", "found "+quote(q.Operator), MatMulNBits+" or "+MatMulBlocks, "")
	}
	return q
}

// sizeQuantized finds N and K of a weight and checks the tensors that hold it.
func (c *Checkpoint) sizeQuantized(name string, q *Quantized) error {
	const remedy = "config.json and the weights are of different models: make the folder again"
	if c.Has(name) {
		return &Error{File: c.entries[name].file, Field: "tensor " + quote(name), Found: "it is stored whole and quantised too", Remedy: remedy}
	}
	scales, err := c.Tensor(name + ScalesSuffix)
	if err != nil {
		return err
	}
	if len(scales.Shape) != 2 || scales.Shape[1] > 1<<42/q.Block {
		return &Error{File: scales.File, Field: "tensor " + quote(name+ScalesSuffix), Found: "its shape is " + scales.Shape.String(), Wanted: "[N, K/block]", Remedy: remedy}
	}
	q.N, q.K = scales.Shape[0], scales.Shape[1]*q.Block
	if q.K*q.Bits%8 != 0 {
		return &Error{File: scales.File, Field: "tensor " + quote(name+ScalesSuffix),
			Found: fmt.Sprintf("rows of %d codes of %d bits end within a byte", q.K, q.Bits), Remedy: remedy}
	}
	for _, suffix := range q.Suffixes() {
		want, dtype := q.ScalesShape(), tensor.Float16
		if suffix == CodesSuffix {
			want, dtype = q.CodesShape(), tensor.Uint8
		}
		e, err := c.Tensor(name + suffix)
		if err != nil {
			return err
		}
		if e.DType != dtype || !e.Shape.Equal(want) {
			return &Error{File: e.File, Field: "tensor " + quote(name+suffix), Found: "it is " + e.Stored + e.Shape.String(),
				Wanted: dtype.String() + want.String(), Remedy: remedy}
		}
	}
	if !q.Mins && c.Has(name+MinsSuffix) {
		return &Error{File: c.entries[name+MinsSuffix].file, Field: "tensor " + quote(name+MinsSuffix), Found: "config.json says that there is none", Remedy: remedy}
	}
	return nil
}

// BitsPerWeight is the size of all stored tensors over the weights that they mean; 0
// where there are none.
func (c *Checkpoint) BitsPerWeight() float64 {
	var bits, weights float64
	for _, q := range c.quantized {
		weights += float64(q.N) * float64(q.K)
		bits += q.BitsPerWeight() * float64(q.N) * float64(q.K)
	}
	for _, name := range c.names {
		if c.holdsQuantized(name) {
			continue
		}
		e, _ := c.entries[name].Entry(name)
		bits += 8 * float64(e.Length)
		n, err := e.Shape.Elements()
		if err == nil {
			weights += float64(n)
		}
	}
	if weights == 0 {
		return 0
	}
	return bits / weights
}

// holdsQuantized reports whether a tensor is part of a quantised weight.
func (c *Checkpoint) holdsQuantized(name string) bool {
	for _, suffix := range []string{CodesSuffix, ScalesSuffix, MinsSuffix} {
		if weight, ok := strings.CutSuffix(name, suffix); ok {
			if _, ok := c.quantized[weight]; ok {
				return true
			}
		}
	}
	return false
}
