package backend

import (
	"fmt"
	"slices"

	"github.com/accelhq/accel/sdk/graph"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
	"github.com/accelhq/accel/sdk/tensor"
)

// Features of a device whose executables may have such inputs and outputs. Without
// them the SDK refuses the nodes and graphs that do, and the backend sees none.
const (
	FeatureStrings   = "values:string"
	FeatureSequences = "values:sequence"
	FeatureOptionals = "values:optional"
)

// MaxValue is the most bytes that the encoding of one input or output has which is
// no dense tensor.
const MaxValue = 1 << 30

// Dense reports whether values of a type are dense tensors: those that travel as
// their bytes, and can lie in regions and buffers. All others travel in ONNX's
// encoding (graph.AppendDatum).
func Dense(t *graph.Type) bool {
	return t != nil && t.Kind == graph.KindTensor && t.Elem != tensor.String
}

// EncodingOf is how values of a type travel.
func EncodingOf(t *graph.Type) backendv1.Encoding {
	switch {
	case Dense(t):
		return backendv1.Encoding_ENCODING_DENSE
	case t.Kind == graph.KindSequence:
		return backendv1.Encoding_ENCODING_SEQUENCE
	case t.Kind == graph.KindOptional:
		return backendv1.Encoding_ENCODING_OPTIONAL
	}
	return backendv1.Encoding_ENCODING_TENSOR
}

// Carries reports whether the device's executables may have inputs and outputs of a
// type, or which feature they lack. What is inside a sequence or an optional counts.
func (d Device) Carries(t *graph.Type) (lacks string, ok bool) {
	for ; t != nil; t = t.Of {
		word := ""
		switch {
		case t.Kind == graph.KindSequence:
			word = FeatureSequences
		case t.Kind == graph.KindOptional:
			word = FeatureOptionals
		case t.Kind == graph.KindTensor && t.Elem == tensor.String:
			word = FeatureStrings
		}
		if word != "" && !slices.Contains(d.Features, word) {
			return word, false
		}
	}
	return "", true
}

// EncodeValue is the encoding of a value that is no dense tensor, as a type says.
// What is wrong with it is CodeInvalid, and so is one larger than MaxValue.
func EncodeValue(name string, t *graph.Type, v graph.Datum) ([]byte, error) {
	if why := mismatch(t, v, 0); why != "" {
		return nil, Invalid(name, "%q: %s", name, why)
	}
	size := encodedSize(v)
	if size <= MaxValue {
		data, err := graph.AppendDatum(make([]byte, 0, size), "", v)
		if err != nil {
			return nil, Invalid(name, "%q: %v", name, err)
		}
		if size = int64(len(data)); size <= MaxValue {
			return data, nil
		}
	}
	e := Invalid(name, "%q is %s, %d bytes or more; what is no dense tensor may have %d", name, typeName(t), size, int64(MaxValue))
	e.Needed = size
	return nil, e
}

// encodedSize is about how long the encoding of a value is: hardly less.
func encodedSize(v graph.Datum) int64 {
	const around = 16 // tags and lengths
	n := int64(around + len(v.Tensor.Data) + 2*len(v.Tensor.Shape))
	for _, s := range v.Tensor.Strings {
		n += int64(len(s)) + 4
	}
	for _, x := range v.Sequence {
		n += encodedSize(x)
	}
	if v.Optional != nil {
		n += encodedSize(*v.Optional)
	}
	return n
}

// DecodeValue reads what EncodeValue wrote and checks it against the type. Tensors
// may lie in data; they are aligned.
func DecodeValue(t *graph.Type, data []byte) (graph.Datum, error) {
	if int64(len(data)) > MaxValue {
		return graph.Datum{}, fmt.Errorf("its encoding has %d bytes, %d are allowed", len(data), int64(MaxValue))
	}
	_, v, err := graph.ParseDatum(data, t.Kind)
	if err != nil {
		return graph.Datum{}, err
	}
	if why := mismatch(t, v, 0); why != "" {
		return graph.Datum{}, fmt.Errorf("%s", why)
	}
	alignAll(&v)
	return v, nil
}

func alignAll(v *graph.Datum) {
	v.Tensor = v.Tensor.Aligned()
	for i := range v.Sequence {
		alignAll(&v.Sequence[i])
	}
	if v.Optional != nil {
		alignAll(v.Optional)
	}
}

// mismatch says why a value is not of a type, or nothing. Symbolic dimensions may
// have any size.
func mismatch(t *graph.Type, v graph.Datum, depth int) string {
	const deepest = 32 // as deep as models are read
	switch {
	case t == nil || depth > deepest:
		return "its type is not known"
	case v.Kind != t.Kind:
		return fmt.Sprintf("it is %s where %s is expected", describe(v), typeName(t))
	case t.Kind == graph.KindOptional:
		if v.Optional == nil {
			return ""
		}
		return mismatch(t.Of, *v.Optional, depth+1)
	case t.Kind == graph.KindSequence:
		for i, x := range v.Sequence {
			if why := mismatch(t.Of, x, depth+1); why != "" {
				return fmt.Sprintf("value %d: %s", i, why)
			}
		}
		return ""
	}
	if v.Tensor.DType != t.Elem {
		return fmt.Sprintf("it is %s where %s is expected", describe(v), typeName(t))
	}
	if err := v.Tensor.Check(); err != nil {
		return err.Error()
	}
	if !t.HasShape {
		return ""
	}
	if len(v.Tensor.Shape) != len(t.Dims) {
		return fmt.Sprintf("it has shape %v where %d dimensions are expected", v.Tensor.Shape, len(t.Dims))
	}
	for k, d := range t.Dims {
		if d.Size >= 0 && d.Param == "" && v.Tensor.Shape[k] != d.Size {
			return fmt.Sprintf("it has shape %v where dimension %d is %d", v.Tensor.Shape, k, d.Size)
		}
	}
	return ""
}

// typeName is a type in words.
func typeName(t *graph.Type) string {
	switch {
	case t == nil:
		return "of unknown type"
	case t.Kind == graph.KindSequence:
		return "a sequence"
	case t.Kind == graph.KindOptional:
		return "an optional"
	case t.Kind == graph.KindTensor:
		return "a tensor of " + t.Elem.String()
	}
	return fmt.Sprintf("of kind %d", t.Kind)
}

func describe(v graph.Datum) string {
	return typeName(&graph.Type{Kind: v.Kind, Elem: v.Tensor.DType})
}

// empty is a value for a smoke run: zeros, empty strings, a sequence of nothing, an
// optional without a value. shape is that of a tensor.
func empty(t *graph.Type, shape tensor.Shape) (graph.Datum, error) {
	if t.Kind != graph.KindTensor {
		return graph.Datum{Kind: t.Kind}, nil
	}
	v, err := tensor.New(t.Elem, shape)
	return graph.TensorDatum(v), err
}

// refuseValues refuses the nodes that read inputs or make outputs of the graph which
// the device does not carry.
func refuseValues(d Device, m *graph.Model, verdicts []Verdict) {
	lacking := map[string]string{} // value -> feature
	for _, list := range [][]*graph.Value{m.Graph.Inputs, m.Graph.Outputs} {
		for _, v := range list {
			if lacks, ok := d.Carries(v.Type); !ok {
				lacking[v.Name] = lacks
			}
		}
	}
	if len(lacking) == 0 {
		return
	}
	for i, n := range m.Graph.Nodes {
		if i >= len(verdicts) || !verdicts[i].OK {
			continue
		}
		for _, name := range slices.Concat(n.Inputs, n.Captures(), n.Outputs) {
			if lacks := lacking[name]; lacks != "" {
				verdicts[i] = Refuse(RefusedOperator, fmt.Sprintf("%s is an input or output of the graph, and the device lacks %s", name, lacks))
			}
		}
	}
}
