package main

import (
	"context"
	"errors"
	"slices"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/reference"
	"github.com/accelhq/accel/sdk/tensor"
)

// executable is a model whose weights are used where they are mapped.
type executable struct {
	device  *device
	model   *graph.Model
	program *reference.Program
	memory  int64 // reserved on the device
	info    backend.ExecutableInfo
}

func (e *executable) Info() backend.ExecutableInfo { return e.info }

func (e *executable) Close() error {
	e.device.memory.release(e.memory)
	return e.model.Close()
}

func (e *executable) Run(ctx context.Context, inputs []backend.Value, out backend.Outputs) error {
	in := make(map[string]graph.Datum, len(inputs))
	for i, v := range inputs {
		d, err := hostValue(v)
		if err != nil {
			return err
		}
		in[e.info.Inputs[i].Name] = d
	}
	var wanted []string
	for i, v := range e.info.Outputs {
		if out.Wanted(i) && !slices.Contains(wanted, v.Name) {
			wanted = append(wanted, v.Name)
		}
	}
	got, err := e.program.RunInPlace(ctx, in, wanted, e.ours(inputs, out))
	if err != nil {
		return e.explain(err)
	}
	for i, v := range e.info.Outputs {
		if !out.Wanted(i) {
			continue
		}
		if err := place(out, i, got[v.Name]); err != nil {
			return err
		}
	}
	return nil
}

// ours are the inputs that an output is bound to the same memory as: pools, which
// the step updates where they lie.
func (e *executable) ours(inputs []backend.Value, out backend.Outputs) []string {
	var names []string
	for j := range e.info.Outputs {
		at, _, ok := out.Buffer(j)
		if !ok {
			continue
		}
		for i, v := range inputs {
			if v.Buffer == at.Buffer && v.Offset == at.Offset {
				names = append(names, e.info.Inputs[i].Name)
			}
		}
	}
	return names
}

// hostValue is an input in host memory; a buffer of ours is read where it lies.
func hostValue(v backend.Value) (graph.Datum, error) {
	if v.Buffer == nil {
		return v.Datum, nil
	}
	b, ok := v.Buffer.(*buffer)
	if !ok {
		t, err := v.Host()
		return graph.TensorDatum(t), err
	}
	t := v.Tensor
	bytes, err := tensor.ByteSize(t.DType, t.Shape)
	if err != nil {
		return graph.Datum{}, backend.Invalid("inputs", "%v", err)
	}
	if v.Offset < 0 || bytes > b.Size()-v.Offset {
		return graph.Datum{}, backend.Invalid("inputs", "%s%v at byte %d does not fit a buffer of %d bytes", t.DType, t.Shape, v.Offset, b.Size())
	}
	t.Data = b.data[v.Offset : v.Offset+bytes : v.Offset+bytes]
	return graph.TensorDatum(t), nil
}

// place copies a result to where it belongs: a buffer of ours, or host memory.
func place(out backend.Outputs, i int, v graph.Datum) error {
	t := v.Tensor
	if at, room, ok := out.Buffer(i); ok && int64(len(t.Data)) <= room {
		if b, ours := at.Buffer.(*buffer); ours {
			if len(t.Data) > 0 && &t.Data[0] != &b.data[at.Offset] { // else it was updated there
				copy(b.data[at.Offset:], t.Data)
			}
			return out.Filled(i, t.DType, t.Shape)
		}
	}
	return out.Give(i, v)
}

// explain gives an error of the reference its place in the protocol.
func (e *executable) explain(err error) error {
	var mem *reference.MemoryError
	var input *reference.InputError
	var internal *reference.InternalError
	var node *reference.NodeError
	switch {
	case errors.As(err, &mem):
		return &backend.Error{Code: backend.CodeOutOfMemory, Message: err.Error(), Needed: mem.Needed, Free: max(mem.Limit-mem.Held, 0)}
	case errors.As(err, &input):
		return backend.Invalid(input.Input, "%s", input.Reason)
	case errors.As(err, &internal):
		return backend.Internal("%v", err)
	case errors.As(err, &node):
		// The graph was taken, so the values are to blame: an index out of range.
		return backend.Invalid("inputs", "%v", err)
	}
	return err
}
