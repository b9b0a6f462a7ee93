// Package route decides where a model runs: the order of platforms by model
// class, the device of a platform, and what may follow when one is not there or
// dies. It decides only; engine carries out.
package route

import (
	"strings"

	"github.com/accelhq/accel/sdk/backend"
)

// Policy says what may happen when the platform that should answer can't.
type Policy string

// Fallback policies.
const (
	Deny  Policy = "deny"  // an error
	Warn  Policy = "warn"  // the next platform of the route, with a warning in the log
	Allow Policy = "allow" // the next platform of the route
)

// Choice is a device that a request ran on.
type Choice struct {
	Platform string       `json:"platform"`
	Device   string       `json:"device"` // platform[:id], as `accel devices` prints it
	Kind     backend.Kind `json:"kind"`
}

// Refusal is a platform or device that was passed over.
type Refusal struct {
	Platform string `json:"platform"`
	Device   string `json:"device,omitempty"`
	Reason   string `json:"reason"`
	Remedy   string `json:"remedy,omitempty"`
}

func (r Refusal) name() string {
	if r.Device != "" {
		return r.Device
	}
	return r.Platform
}

// Decision is the one record of where a request went and why. It is in the log,
// the metrics, the response headers and `accel explain`.
type Decision struct {
	Model  string   `json:"model"`
	Class  string   `json:"class"`
	Policy Policy   `json:"policy"`
	Wanted []string `json:"wanted"` // the route: platforms or devices in order
	// First is the platform or device that should answer: the preferred one, else
	// the first of the route that the machine has.
	First   string    `json:"first"`
	Chosen  Choice    `json:"chosen"`
	Refused []Refusal `json:"refused,omitempty"`
	// Replays are the deaths that the request lived through: where it ran before,
	// and how that ended. A replay on the same device is not a fallback.
	Replays []Refusal `json:"replays,omitempty"`
}

// Fallback reports whether another than the first device answered.
func (d *Decision) Fallback() bool {
	return d.First != "" && d.Chosen.Device != "" && !names(d.First, d.Chosen.Platform, d.Chosen.Device)
}

// Summary says in one line what was passed over and what was lived through; it is
// empty if nothing was. Platforms that the machine simply does not have are left
// out unless one of them was asked for.
func (d *Decision) Summary() string {
	var parts []string
	if d.Fallback() {
		passed := false
		for _, r := range d.Refused {
			if passed = passed || names(d.First, r.Platform, r.Device); passed {
				parts = append(parts, r.name()+": "+r.Reason)
			}
		}
	}
	for _, r := range d.Replays {
		parts = append(parts, r.name()+" died ("+r.Reason+") and the request was replayed")
	}
	if len(parts) == 0 {
		return ""
	}
	who := d.Chosen.Device + " answered"
	if d.Fallback() {
		who += " instead of " + d.First
	}
	return who + ": " + strings.Join(parts, "; ")
}

// names reports whether a wanted name, platform or platform:id, means this device.
func names(wanted, platform, device string) bool {
	return wanted == device || wanted == platform
}
