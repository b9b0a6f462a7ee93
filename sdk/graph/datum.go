package graph

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/accelhq/accel/sdk/tensor"
)

// ParseTensor decodes a TensorProto, as in the input_0.pb files of ONNX test
// folders. The tensor points into data.
func ParseTensor(data []byte) (name string, t tensor.Tensor, err error) {
	d := newDecoder(Limits{})
	in, err := d.tensor(reader{b: data})
	if err != nil {
		return "", tensor.Tensor{}, err
	}
	if in.External != nil {
		return "", tensor.Tensor{}, &ExternalError{Tensor: in.Name, Path: in.External.Path, Reason: "a tensor file must hold its own data"}
	}
	return in.Name, in.Tensor, nil
}

// AppendTensor appends the encoding of a TensorProto to dst.
func AppendTensor(dst []byte, name string, t tensor.Tensor) ([]byte, error) {
	e := encoder{b: dst}
	e.tensor(&Initializer{Name: name, Tensor: t})
	return e.b, e.err
}

// Datum is a value of any of ONNX's run-time kinds, as recorded in test folders.
type Datum struct {
	Kind     TypeKind      // KindTensor, KindSequence or KindOptional
	Tensor   tensor.Tensor // KindTensor
	Sequence []Datum       // KindSequence
	Optional *Datum        // KindOptional; nil when empty
}

// TensorDatum is a tensor as a Datum.
func TensorDatum(t tensor.Tensor) Datum { return Datum{Kind: KindTensor, Tensor: t} }

// TensorData are tensors, by name, as Data.
func TensorData(tensors map[string]tensor.Tensor) map[string]Datum {
	out := make(map[string]Datum, len(tensors))
	for name, t := range tensors {
		out[name] = TensorDatum(t)
	}
	return out
}

// AppendDatum appends the encoding of a value to dst: a TensorProto, SequenceProto
// or OptionalProto, as ParseDatum reads it. A container without a value inside says
// nothing of the type that it could hold.
func AppendDatum(dst []byte, name string, v Datum) ([]byte, error) {
	if v.Kind == KindTensor {
		return AppendTensor(dst, name, v.Tensor)
	}
	e := encoder{b: dst}
	e.opt(1, name)
	e.container(v)
	return e.b, e.err
}

// container writes the value of a sequence or an optional.
func (e *encoder) container(v Datum) {
	inside := v.Sequence
	switch {
	case v.Kind == KindOptional && v.Optional != nil:
		inside = []Datum{*v.Optional}
	case v.Kind == KindOptional:
		inside = nil
	case v.Kind != KindSequence:
		e.fail(fmt.Errorf("values of type kind %d can't be written", v.Kind))
		return
	}
	for i, x := range inside {
		if x.Kind != inside[0].Kind {
			e.fail(fmt.Errorf("values of kinds %d and %d lie in one container", inside[0].Kind, x.Kind))
			return
		}
		num, elem := protowire.Number(3), int64(elemTensor)
		switch x.Kind {
		case KindSequence:
			num, elem = 5, elemSequence
		case KindOptional:
			num, elem = 7, elemOptional
		}
		if i == 0 {
			e.int(2, elem)
		}
		e.message(num, func() {
			if x.Kind == KindTensor {
				e.tensor(&Initializer{Tensor: x.Tensor})
			} else {
				e.container(x)
			}
		})
	}
}

// Kinds of element of SequenceProto and OptionalProto (onnx-data.proto).
const (
	elemUndefined = 0
	elemTensor    = 1
	elemSequence  = 3
	elemOptional  = 5
)

// ParseDatum decodes a TensorProto, SequenceProto or OptionalProto, as the type
// of the model's input or output says. Sequences of maps and of sparse tensors
// are not supported.
func ParseDatum(data []byte, kind TypeKind) (name string, v Datum, err error) {
	d := newDecoder(Limits{})
	r := reader{b: data}
	switch kind {
	case KindTensor:
		name, t, err := ParseTensor(data)
		return name, Datum{Kind: KindTensor, Tensor: t}, err
	case KindSequence, KindOptional:
		return d.container(r, kind)
	}
	return "", Datum{}, fmt.Errorf("values of type kind %d can't be read", kind)
}

// container decodes a SequenceProto or an OptionalProto, which number their
// fields alike.
func (d *decoder) container(r reader, kind TypeKind) (name string, v Datum, err error) {
	if err := d.enter(); err != nil {
		return "", v, err
	}
	defer d.leave()
	v.Kind = kind
	elem, held := int64(elemUndefined), int64(elemUndefined)
	add := func(k int64, f func(reader) (Datum, error)) {
		sub := r.msg()
		if !d.item(&r) {
			return
		}
		if held != elemUndefined && held != k {
			r.fail("elements of kinds %d and %d lie in one container", held, k)
			return
		}
		held = k
		x, err := f(sub)
		if err != nil {
			r.err = underIndex(err, "value", len(v.Sequence))
			return
		}
		if kind == KindSequence {
			v.Sequence = append(v.Sequence, x)
		} else if v.Optional != nil {
			r.fail("an optional holds two values")
		} else {
			v.Optional = &x
		}
	}
	nested := func(k TypeKind) func(reader) (Datum, error) {
		return func(sub reader) (Datum, error) {
			_, x, err := d.container(sub, k)
			return x, err
		}
	}
	for r.next() {
		switch r.num {
		case 1:
			name = d.str(&r)
		case 2:
			elem = r.int64()
		case 3:
			add(elemTensor, func(sub reader) (Datum, error) {
				in, err := d.tensor(sub)
				if err != nil {
					return Datum{}, err
				}
				if in.External != nil {
					return Datum{}, &ExternalError{Tensor: in.Name, Path: in.External.Path, Reason: "a tensor file must hold its own data"}
				}
				return Datum{Kind: KindTensor, Tensor: in.Tensor}, nil
			})
		case 5:
			add(elemSequence, nested(KindSequence))
		case 7:
			add(elemOptional, nested(KindOptional))
		case 4, 6:
			r.fail("sparse tensors and maps in containers are not supported")
		}
	}
	if r.err == nil && held != elemUndefined && held != elem {
		r.fail("elements of kind %d lie in a container of kind %d", held, elem)
	}
	if r.err != nil {
		return "", Datum{}, r.err
	}
	return name, v, nil
}
