// Package route decides where a model runs: the order of platforms by model
// class, the device of a platform, and what may follow when one is not there or
// dies. It decides only; engine carries out.
package route

import (
	"fmt"
	"strings"

	"github.com/accelhq/accel/sdk/backend"
)

// Policy says what may happen when the wanted platform can't serve.
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

// Decision is the one record of where a request went and why. It is in the log,
// the metrics, the response headers and `accel explain`.
type Decision struct {
	Model   string    `json:"model"`
	Class   string    `json:"class"`
	Policy  Policy    `json:"policy"`
	Wanted  []string  `json:"wanted"` // the route: platforms in order
	Chosen  Choice    `json:"chosen"`
	Refused []Refusal `json:"refused,omitempty"`
	// Replays are the deaths that the request lived through: where it ran before,
	// and how that ended. A replay on the same device is not a fallback.
	Replays []Refusal `json:"replays,omitempty"`
}

// Fallback reports whether another platform than the first wanted one answered.
func (d *Decision) Fallback() bool {
	return len(d.Wanted) > 0 && d.Chosen.Platform != "" && d.Chosen.Platform != d.Wanted[0]
}

// Summary says in one line what was passed over and what was lived through, or
// nothing if nothing was.
func (d *Decision) Summary() string {
	var parts []string
	for _, r := range d.Refused {
		parts = append(parts, name(r)+": "+r.Reason)
	}
	for _, r := range d.Replays {
		parts = append(parts, name(r)+" died and the request was replayed: "+r.Reason)
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("%s answered; %s", d.Chosen.Device, strings.Join(parts, "; "))
}

func name(r Refusal) string {
	if r.Device != "" {
		return r.Device
	}
	return r.Platform
}
