package engine

import (
	"context"
	"errors"
	"time"

	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/graph"
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
