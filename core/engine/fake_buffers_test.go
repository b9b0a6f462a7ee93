package engine

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// noBuffers is a fleet and an executable without memory on devices.
type noBuffers struct{}

var errNoBuffers = errors.New("this fake has no buffers")

func (noBuffers) Alloc(context.Context, string, int64) (Buffer, error)  { return nil, errNoBuffers }
func (noBuffers) Copy(context.Context, string, [][2]Range) error        { return errNoBuffers }
func (noBuffers) Read(context.Context, string, []Range) ([]byte, error) { return nil, errNoBuffers }
func (noBuffers) Write(context.Context, string, []Range, []byte) error  { return errNoBuffers }
func (noBuffers) Advance(context.Context, []Named, []Pool, string, bool) (tensor.Tensor, func(), error) {
	return tensor.Tensor{}, nil, errNoBuffers
}

// pieceBuffer is memory of a pieceDevice.
type pieceBuffer struct {
	d     *pieceDevice
	epoch int32
	data  []byte
}

func (b *pieceBuffer) Close() error {
	b.d.buffers.Add(-1)
	b.d.allocated.Add(-int64(len(b.data)))
	return nil
}

func (f *pieceFleet) Alloc(_ context.Context, ref string, bytes int64) (Buffer, error) {
	d := f.find(ref)
	if d.memory > 0 && d.allocated.Load()+bytes > d.memory {
		return nil, backend.OutOfMemory("a buffer", bytes, d.memory-d.allocated.Load())
	}
	d.buffers.Add(1)
	d.allocated.Add(bytes)
	return &pieceBuffer{d: d, epoch: d.epoch.Load(), data: make([]byte, bytes)}, nil
}

// at is a range's memory while the device lives.
func (r Range) at() ([]byte, error) {
	b := r.Buffer.(*pieceBuffer)
	if b.epoch != b.d.epoch.Load() {
		return nil, errStale
	}
	return b.data[r.Offset : r.Offset+r.Bytes], nil
}

func (f *pieceFleet) Copy(_ context.Context, _ string, pairs [][2]Range) error {
	for _, p := range pairs {
		from, err := p[0].at()
		if err != nil {
			return err
		}
		to, err := p[1].at()
		if err != nil {
			return err
		}
		copy(to, from)
	}
	return nil
}

func (f *pieceFleet) Read(_ context.Context, ref string, ranges []Range) ([]byte, error) {
	f.find(ref).read.Add(1)
	var out []byte
	for _, r := range ranges {
		from, err := r.at()
		if err != nil {
			return nil, err
		}
		out = append(out, from...)
	}
	return out, nil
}

func (f *pieceFleet) Write(_ context.Context, _ string, ranges []Range, data []byte) error {
	for _, r := range ranges {
		to, err := r.at()
		if err != nil {
			return err
		}
		data = data[copy(to, data):]
	}
	return nil
}

func (x *pieceExecutable) Advance(ctx context.Context, inputs []Named, pools []Pool, wanted string, solo bool) (tensor.Tensor, func(), error) {
	in := map[string]graph.Datum{}
	for _, v := range inputs {
		in[v.Name] = graph.TensorDatum(v.Tensor)
	}
	var names []string
	if wanted != "" {
		names = append(names, wanted)
	}
	for _, p := range pools {
		b := p.Buffer.(*pieceBuffer)
		if b.epoch != x.d.epoch.Load() {
			return tensor.Tensor{}, nil, errStale
		}
		in[p.Input] = graph.TensorDatum(tensor.Tensor{DType: p.DType, Shape: p.Shape, Data: b.data})
		if p.Output != "" { // else it is only read
			names = append(names, p.Output)
		}
	}
	if solo {
		x.d.solos.Add(1)
	}
	out, err := x.Run(ctx, in, names, solo)
	if err != nil {
		return tensor.Tensor{}, nil, err
	}
	for _, p := range pools {
		if p.Output != "" {
			copy(p.Buffer.(*pieceBuffer).data, out[p.Output].Tensor.Data)
		}
	}
	x.d.lent.Add(1)
	var once atomic.Bool
	return out[wanted].Tensor, func() {
		if !once.Swap(true) {
			x.d.released.Add(1)
		}
	}, nil
}
