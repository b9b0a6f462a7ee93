package backend

import (
	"fmt"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// signature is what runs of an executable are checked against.
type signature struct {
	inputs, outputs []slot
	input, output   map[string]int
	symbols         []string
}

// slot is an input or output.
type slot struct {
	name     string
	typ      *graph.Type // of what is no dense tensor; else nil
	encoding backendv1.Encoding
	elem     tensor.DType
	ranked   bool
	dims     []slotDim
}

// slotDim is a dimension: of a fixed size, or -1, and then bound to a symbol, or -1.
type slotDim struct {
	size   int64
	symbol int
}

func newSignature(info ExecutableInfo) (*signature, error) {
	g := &signature{}
	symbols := map[string]int{}
	slots := func(what string, values []graph.Value) ([]slot, map[string]int, error) {
		list, index := make([]slot, len(values)), make(map[string]int, len(values))
		for i, v := range values {
			if _, twice := index[v.Name]; twice || v.Name == "" {
				return nil, nil, fmt.Errorf("%s %d has no name of its own (%q)", what, i, v.Name)
			}
			index[v.Name] = i
			list[i] = slot{name: v.Name, elem: v.Type.Elem, ranked: v.Type.HasShape}
			if !Dense(v.Type) {
				list[i].typ, list[i].encoding = v.Type, EncodingOf(v.Type)
			}
			for _, d := range v.Type.Dims {
				at := slotDim{size: d.Size, symbol: -1}
				if d.Param != "" {
					n, known := symbols[d.Param]
					if !known {
						n = len(g.symbols)
						symbols[d.Param] = n
						g.symbols = append(g.symbols, d.Param)
					}
					at = slotDim{size: -1, symbol: n}
				}
				list[i].dims = append(list[i].dims, at)
			}
		}
		return list, index, nil
	}
	var err error
	if g.inputs, g.input, err = slots("input", info.Inputs); err != nil {
		return nil, err
	}
	if g.outputs, g.output, err = slots("output", info.Outputs); err != nil {
		return nil, err
	}
	return g, nil
}

// checkInput checks a dense binding's type and shape, and gives symbols their
// sizes: -1 where no binding before gave one. It returns the tensor's size in bytes.
func (g *signature) checkInput(i int, elem int32, dims []int64, sizes []int64) (int64, error) {
	in := &g.inputs[i]
	if err := g.checkShape(in, elem, dims, sizes); err != nil {
		return 0, err
	}
	bytes, err := tensor.ByteSize(in.elem, dims)
	if err != nil {
		return 0, Invalid(in.name, "input %q: %v", in.name, err)
	}
	return bytes, nil
}

// checkValue checks an input that is no dense tensor, which its decoding has
// compared with its type already.
func (g *signature) checkValue(i int, v graph.Datum, sizes []int64) error {
	in := &g.inputs[i]
	if v.Kind != graph.KindTensor || !in.ranked {
		return nil
	}
	return g.checkShape(in, int32(v.Tensor.DType), v.Tensor.Shape, sizes)
}

func (g *signature) checkShape(in *slot, elem int32, dims []int64, sizes []int64) error {
	if elem != int32(in.elem) {
		return Invalid(in.name, "input %q has elements of type %d, the executable takes %s (%d)",
			in.name, elem, in.elem, int32(in.elem))
	}
	if len(dims) != len(in.dims) {
		return Invalid(in.name, "input %q has shape %v, the executable takes rank %d", in.name, dims, len(in.dims))
	}
	for k, n := range dims {
		d := in.dims[k]
		switch {
		case n < 0:
			return Invalid(in.name, "input %q has shape %v: a dimension is negative", in.name, dims)
		case d.size >= 0 && n != d.size:
			return Invalid(in.name, "input %q has shape %v, the executable takes %d at dimension %d",
				in.name, dims, d.size, k)
		case d.symbol < 0:
		case sizes[d.symbol] < 0:
			sizes[d.symbol] = n
		case sizes[d.symbol] != n:
			return Invalid(in.name, "input %q has shape %v, but %q (dimension %d) is %d in another input",
				in.name, dims, g.symbols[d.symbol], k, sizes[d.symbol])
		}
	}
	return nil
}

// checkOutput checks what a backend gives against what it said that it would.
// Symbols of outputs are the model exporter's words and often do not hold; they
// are not checked.
func (g *signature) checkOutput(i int, elem tensor.DType, s tensor.Shape) (int64, error) {
	out := &g.outputs[i]
	if elem != out.elem {
		return 0, Internal("output %q came as %s, the executable gives %s", out.name, elem, out.elem)
	}
	if out.ranked && len(s) != len(out.dims) {
		return 0, Internal("output %q came with shape %v, the executable gives rank %d", out.name, s, len(out.dims))
	}
	for k := range out.dims {
		if d := out.dims[k]; d.size >= 0 && s[k] != d.size {
			return 0, Internal("output %q came with shape %v, the executable gives %d at dimension %d",
				out.name, s, d.size, k)
		}
	}
	bytes, err := tensor.ByteSize(elem, s)
	if err != nil {
		return 0, Internal("output %q: %v", out.name, err)
	}
	return bytes, nil
}
