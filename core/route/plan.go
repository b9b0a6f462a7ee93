package route

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/sdk/backend"
)

// Presence says how far a device is there.
type Presence uint8

// Presences, from best to worst.
const (
	Ready      Presence = iota // healthy
	Returning                  // its process restarts; ReadyIn says when it may be back
	Unhealthy                  // there, but unusable
	Undetected                 // not on this machine
)

// Device is what routing must know of a device.
type Device struct {
	Platform string
	Ref      string // platform[:id]
	Kind     backend.Kind
	Presence Presence
	Reason   string
	Remedy   string
	ReadyIn  time.Duration // Returning: the expected wait
}

// Query asks where one request may run.
type Query struct {
	Model     string
	Class     string
	Preferred string   // platform or platform:id; empty: none
	Platforms []string // the class's route
	Policy    Policy
	Split     Split // empty: off
	// RestartWait is how long a request rather waits for a returning device than
	// goes to the next platform.
	RestartWait time.Duration
	// Excluded are devices that this request can't use, by Ref: why.
	Excluded map[string]Refusal
}

// ErrPolicy is returned for a policy that is not known.
var ErrPolicy = errors.New("fallback policy must be deny, warn or allow")

// Plan lists the devices that may answer, best first, and begins the decision's
// record: what is wanted and what was passed over. The list is empty when none
// may. A plan never names a platform that is not on the route, the preferred one
// and hardware that no route lists excepted (design section 6: mps, qnn and the
// browser's platforms serve where they are the only hardware).
func Plan(q Query, devices []Device) ([]Device, Decision, error) {
	switch q.Policy {
	case Deny, Warn, Allow:
	default:
		return nil, Decision{}, ErrPolicy
	}
	order := wanted(q, devices)
	d := Decision{Model: q.Model, Class: q.Class, Policy: q.Policy, Wanted: order, First: first(q, order, devices)}

	var usable []Device
	for _, w := range order {
		found := false
		for _, dev := range devices {
			if !names(w, dev.Platform, dev.Ref) {
				continue
			}
			found = true
			if q.Policy == Deny && w != d.First {
				d.Refused = append(d.Refused, Refusal{Platform: dev.Platform, Device: dev.Ref, Reason: "fallback is denied"})
				break
			}
			if r, refused := q.refuses(dev); refused {
				d.Refused = append(d.Refused, r)
				continue
			}
			if !slices.ContainsFunc(usable, func(u Device) bool { return u.Ref == dev.Ref }) {
				usable = append(usable, dev)
			}
			// A platform stands for its first usable device: pretending or secondary
			// devices are used only where they are asked for.
			break
		}
		if !found {
			d.Refused = append(d.Refused, Refusal{Platform: platform(w), Reason: "no backend offers it", Remedy: "see `accel backends`"})
		}
	}
	return usable, d, nil
}

// Rest is the device that may take what dev does not take of a graph: the CPU, or
// where that is dev, the next of the order. A route that doesn't list it, and where
// splitting isn't forced a policy that denies fallback, leave none.
func Rest(q Query, dev Device, devices []Device) (Device, bool) {
	switch {
	case q.Split == SplitForce:
	case q.Split == SplitAuto && q.Policy != Deny:
	default:
		return Device{}, false
	}
	for _, w := range wanted(q, devices) {
		for _, d := range devices {
			if !names(w, d.Platform, d.Ref) {
				continue
			}
			if _, refused := q.refuses(d); refused || d.Ref == dev.Ref || dev.Platform != "cpu" && d.Platform != "cpu" {
				continue
			}
			return d, true
		}
	}
	return Device{}, false
}

func (q Query) refuses(dev Device) (Refusal, bool) {
	r := Refusal{Platform: dev.Platform, Device: dev.Ref, Reason: dev.Reason, Remedy: dev.Remedy}
	if ex, ok := q.Excluded[dev.Ref]; ok {
		return ex, true
	}
	switch dev.Presence {
	case Ready:
		return Refusal{}, false
	case Returning:
		if dev.ReadyIn <= q.RestartWait {
			return Refusal{}, false
		}
	}
	if r.Reason == "" {
		r.Reason = "not healthy"
	}
	return r, true
}

// wanted is the order of platforms: preferred, then hardware that only this
// machine's devices justify, then the route.
func wanted(q Query, devices []Device) []string {
	var order []string
	if q.Preferred != "" {
		order = append(order, q.Preferred)
	}
	onRoute := func(p string) bool { return slices.Contains(q.Platforms, p) }
	accelerated := slices.ContainsFunc(devices, func(d Device) bool {
		return onRoute(d.Platform) && d.Platform != "cpu" && d.Kind != backend.Simulated && d.Presence != Undetected
	})
	if !accelerated {
		for _, d := range devices {
			if !onRoute(d.Platform) && d.Kind == backend.Hardware && d.Presence != Undetected && !slices.Contains(order, d.Platform) {
				order = append(order, d.Platform)
			}
		}
	}
	for _, p := range q.Platforms {
		if !slices.Contains(order, p) {
			order = append(order, p)
		}
	}
	return order
}

func first(q Query, order []string, devices []Device) string {
	if q.Preferred != "" {
		return q.Preferred
	}
	for _, w := range order {
		for _, dev := range devices {
			if names(w, dev.Platform, dev.Ref) && dev.Presence != Undetected {
				return w
			}
		}
	}
	return ""
}

func platform(ref string) string {
	p, _, _ := strings.Cut(ref, ":")
	return p
}
