package tensorfile

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// castOpset is the version of Cast that knows every element type.
const castOpset = 25

// Cast converts a tensor as ONNX's Cast does.
func Cast(t tensor.Tensor, to tensor.DType) (tensor.Tensor, error) {
	if t.DType == to {
		return t, nil
	}
	op, ok := reference.Lookup(graph.DomainONNX, "Cast", castOpset)
	if !ok {
		return t, fmt.Errorf("ONNX's Cast of operator set %d is not there", castOpset)
	}
	n := &graph.Node{OpType: "Cast", Inputs: []string{"x"}, Outputs: []string{"y"}, Attrs: []*graph.Attr{graph.IntAttr("to", int64(to))}}
	out, err := op.Eval(context.Background(), n, []graph.Datum{{Kind: graph.KindTensor, Tensor: t}}, reference.Env{})
	if err != nil {
		return t, err
	}
	return out[0].Tensor, nil
}

// Values are a tensor's elements, of any type, as people read them.
type Values struct {
	n      int
	number func(i int) float64 // nil: they are no real numbers
	text   func(i int) string
	json   bool // text is JSON as it stands
}

// Elements gives access to the elements of a tensor.
func Elements(t tensor.Tensor) (Values, error) {
	if err := t.Check(); err != nil {
		return Values{}, err
	}
	v := Values{n: t.Len(), json: true}
	switch {
	case t.DType == tensor.String:
		v.text, v.json = func(i int) string { return t.Strings[i] }, false
		return v, nil
	case t.DType == tensor.Bool:
		v.text = func(i int) string { return strconv.FormatBool(t.Data[i] != 0) }
		return v, nil
	case t.DType == tensor.Complex64:
		list := tensor.View[complex64](t.Aligned())
		v.text, v.json = func(i int) string { return strconv.FormatComplex(complex128(list[i]), 'g', -1, 64) }, false
		return v, nil
	case t.DType == tensor.Complex128:
		list := tensor.View[complex128](t.Aligned())
		v.text, v.json = func(i int) string { return strconv.FormatComplex(list[i], 'g', -1, 128) }, false
		return v, nil
	case t.DType == tensor.Uint64:
		list := tensor.View[uint64](t.Aligned())
		v.number = func(i int) float64 { return float64(list[i]) }
		v.text = func(i int) string { return strconv.FormatUint(list[i], 10) }
		return v, nil
	case t.DType == tensor.Float64 || t.DType == tensor.Float8E8M0: // which rounds up, so that only all digits tell
		wide, err := Cast(t.Aligned(), tensor.Float64)
		if err != nil {
			return v, err
		}
		list := tensor.View[float64](wide)
		v.number = func(i int) float64 { return list[i] }
		v.text = func(i int) string { return formatFloat(list[i], 64) }
		return v, nil
	case t.DType.IsFloat():
		wide, err := Cast(t.Aligned(), tensor.Float32)
		if err != nil {
			return v, err
		}
		list := tensor.View[float32](wide.Aligned())
		v.number = func(i int) float64 { return float64(list[i]) }
		v.text = func(i int) string { return formatFloat(float64(list[i]), 32) }
		return v, nil
	}
	wide, err := Cast(t.Aligned(), tensor.Int64)
	if err != nil {
		return v, err
	}
	list := tensor.View[int64](wide.Aligned())
	v.number = func(i int) float64 { return float64(list[i]) }
	v.text = func(i int) string { return strconv.FormatInt(list[i], 10) }
	return v, nil
}

// Len is the number of elements.
func (v Values) Len() int { return v.n }

// Number is element i; ok is false for texts, truth values and complex numbers.
func (v Values) Number(i int) (x float64, ok bool) {
	if v.number == nil {
		return 0, false
	}
	return v.number(i), true
}

// Text is element i, exactly.
func (v Values) Text(i int) string { return v.text(i) }

func (v Values) appendJSON(b []byte, i int) []byte {
	text := v.text(i)
	if _, special := specialFloats[text]; special || !v.json {
		quoted, err := json.Marshal(text)
		if err != nil {
			quoted = []byte(`""`) // a string always marshals
		}
		return append(b, quoted...)
	}
	return append(b, text...)
}

func formatFloat(f float64, bits int) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return strconv.FormatFloat(f, 'g', -1, bits)
}
