package engine

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
	"github.com/accelhq/accel/sdk/tensor"
)

// fleet is the backend processes as engine sees them.
type fleet struct{ manager *hosts.Manager }

var _ Fleet = fleet{}

// Devices are the devices of all backends. A backend that never came so far as to
// name its devices, cpu say, stands as a device of the platform of its name, so
// that a decision can tell why that platform did not answer.
func (f fleet) Devices() []route.Device {
	var out []route.Device
	named := map[string]bool{}
	for _, d := range f.manager.Devices() {
		s := d.Status()
		named[s.Backend] = true
		dev := route.Device{Platform: s.Platform, Ref: s.Ref, Kind: s.Kind, Reason: s.Reason, Remedy: s.Remedy}
		switch {
		case s.Health == backend.Healthy:
			dev.Presence = route.Ready
		case s.Returning:
			dev.Presence = route.Returning
			dev.ReadyIn = max(0, time.Until(s.NextTry))
		case s.Health == backend.Undetected:
			dev.Presence = route.Undetected
		default:
			dev.Presence = route.Unhealthy
		}
		out = append(out, dev)
	}
	for _, b := range f.manager.Backends() {
		if named[b.Name] || b.State == hosts.Healthy || b.State == hosts.Starting {
			continue
		}
		dev := route.Device{Platform: b.Name, Ref: b.Name, Presence: route.Undetected, Reason: b.Reason, Remedy: b.Remedy}
		if b.State == hosts.Unhealthy || b.State == hosts.Restarting {
			dev.Presence = route.Unhealthy
		}
		out = append(out, dev)
	}
	return out
}

func (f fleet) find(ref string) (*hosts.Device, error) {
	for _, d := range f.manager.Devices() {
		if d.Ref() == ref {
			return d, nil
		}
	}
	return nil, backend.BadState("there is no device %s any more", ref)
}

func (f fleet) Device(ref string) (backend.Device, bool) {
	d, err := f.find(ref)
	if err != nil {
		return backend.Device{}, false
	}
	return d.Status().Device, true
}

func (f fleet) WaitReady(ctx context.Context, ref string) error {
	d, err := f.find(ref)
	if err != nil {
		return err
	}
	return d.WaitHealthy(ctx)
}

func (f fleet) Assess(ctx context.Context, ref, dir string) (backend.Assessment, error) {
	d, err := f.find(ref)
	if err != nil {
		return backend.Assessment{}, err
	}
	return d.Assess(ctx, dir)
}

func (f fleet) Compile(ctx context.Context, ref string, spec backend.CompileSpec, progress func(string, float64)) (Executable, error) {
	d, err := f.find(ref)
	if err != nil {
		return nil, err
	}
	x, err := d.Compile(ctx, spec, progress)
	if err != nil {
		return nil, err
	}
	return executable{x}, nil
}

func (f fleet) Alloc(ctx context.Context, ref string, bytes int64) (Buffer, error) {
	d, err := f.find(ref)
	if err != nil {
		return nil, err
	}
	b, err := d.Alloc(ctx, bytes)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (f fleet) Copy(ctx context.Context, ref string, pairs [][2]Range) error {
	d, err := f.find(ref)
	if err != nil {
		return err
	}
	ranges := make([]hosts.CopyRange, len(pairs))
	for i, p := range pairs {
		ranges[i] = hosts.CopyRange{From: inBuffer(p[0]), To: inBuffer(p[1]), Bytes: p[0].Bytes}
	}
	return d.Copy(ctx, ranges...)
}

func inBuffer(r Range) hosts.Place {
	return hosts.Place{Buffer: r.Buffer.(*hosts.Buffer), Offset: r.Offset}
}

func (f fleet) Read(ctx context.Context, ref string, ranges []Range) ([]byte, error) {
	var data []byte
	err := f.exchange(ctx, ref, ranges, func(d *hosts.Device, shared []byte, copies []hosts.CopyRange) error {
		if err := d.Copy(ctx, copies...); err != nil {
			return err
		}
		data = bytes.Clone(shared)
		return nil
	})
	return data, err
}

func (f fleet) Write(ctx context.Context, ref string, ranges []Range, data []byte) error {
	return f.exchange(ctx, ref, ranges, func(d *hosts.Device, shared []byte, copies []hosts.CopyRange) error {
		if len(shared) != len(data) {
			return backend.Invalid("data", "%d bytes are given for ranges of %d", len(data), len(shared))
		}
		copy(shared, data)
		for i := range copies {
			copies[i].From, copies[i].To = copies[i].To, copies[i].From
		}
		return d.Copy(ctx, copies...)
	})
}

// exchange gives ranges of buffers a place in shared memory, one after another.
func (f fleet) exchange(ctx context.Context, ref string, ranges []Range, do func(d *hosts.Device, shared []byte, copies []hosts.CopyRange) error) error {
	d, err := f.find(ref)
	if err != nil {
		return err
	}
	var total int64
	for _, r := range ranges {
		total += r.Bytes
	}
	l, err := d.Lease(total)
	if err != nil {
		return err
	}
	defer l.Release()
	shared, err := l.Tensor(tensor.Uint8, tensor.Shape{total})
	if err != nil {
		return err
	}
	copies := make([]hosts.CopyRange, len(ranges))
	at := int64(0)
	for i, r := range ranges {
		copies[i] = hosts.CopyRange{From: inBuffer(r), To: hosts.Place{Lease: l, Offset: at}, Bytes: r.Bytes}
		at += r.Bytes
	}
	return do(d, shared.Data, copies)
}

func (f fleet) Died(err error) (Death, bool) {
	var crashed *hosts.CrashedError
	if errors.As(err, &crashed) && crashed.InFlight {
		d := Death{Reason: crashed.Exit, Stderr: crashed.Stderr}
		if crashed.Reason != "" {
			d.Reason = crashed.Reason + ": " + d.Reason
		}
		return d, true
	}
	var lost *hosts.DeviceLostError
	if errors.As(err, &lost) && lost.InFlight {
		return Death{Reason: lost.Reason}, true
	}
	return Death{}, false
}

func (f fleet) Replayable(err error) bool {
	return hosts.Replayable(err) || errors.Is(err, &backend.Error{Code: backend.CodeBadState})
}

type executable struct{ *hosts.Executable }

func (x executable) Memory() int64 { return x.Info().Memory }

func (x executable) Run(ctx context.Context, inputs map[string]graph.Datum, wanted []string, solo bool) (map[string]graph.Datum, error) {
	out, _, err := x.Executable.Run(ctx, inputs, wanted, solo)
	return out, err
}

func (x executable) Pass(ctx context.Context, inputs map[string]Passed, wanted []string, solo bool) (map[string]Passed, func(), error) {
	q := hosts.Request{Solo: solo}
	for name, v := range inputs {
		in := hosts.Input{Name: name, Value: v.Datum}
		in.Lease, _ = v.Lent.(*hosts.Lease)
		q.Inputs = append(q.Inputs, in)
	}
	for _, name := range wanted {
		q.Outputs = append(q.Outputs, hosts.Output{Name: name})
	}
	r, err := x.Do(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	out := make(map[string]Passed, len(wanted))
	for i, name := range wanted {
		v := Passed{Datum: r.Outputs[i]}
		if l := r.Lease(i); l != nil {
			v.Lent = l
		}
		out[name] = v
	}
	return out, r.Release, nil
}

func (x executable) Advance(ctx context.Context, inputs []Named, pools []Pool, wanted string, solo bool) (tensor.Tensor, func(), error) {
	q := hosts.Request{Solo: solo, Inputs: make([]hosts.Input, 0, len(inputs)+len(pools)), Outputs: make([]hosts.Output, 0, 1+len(pools))}
	for _, in := range inputs {
		q.Inputs = append(q.Inputs, hosts.Input{Name: in.Name, Value: graph.TensorDatum(in.Tensor)})
	}
	if wanted != "" {
		q.Outputs = append(q.Outputs, hosts.Output{Name: wanted})
	}
	for _, p := range pools {
		b := p.Buffer.(*hosts.Buffer)
		q.Inputs = append(q.Inputs, hosts.Input{Name: p.Input, Value: graph.TensorDatum(tensor.Tensor{DType: p.DType, Shape: p.Shape}), Buffer: b})
		if p.Output != "" {
			q.Outputs = append(q.Outputs, hosts.Output{Name: p.Output, Buffer: b, Length: b.Size()})
		}
	}
	r, err := x.Do(ctx, q)
	if err != nil {
		return tensor.Tensor{}, nil, err
	}
	if wanted == "" {
		return tensor.Tensor{}, r.Release, nil
	}
	return r.Outputs[0].Tensor, r.Release, nil
}
