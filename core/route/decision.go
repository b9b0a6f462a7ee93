// Package route decides where a model runs: the order of platforms by model
// class, the device of a platform, and what may follow when one is not there or
// dies. It decides only; engine carries out.
package route

import (
	"fmt"
	"slices"
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

// Split says whether a device that takes only part of a graph may run that part.
type Split string

// Ways to split.
const (
	SplitOff   Split = "off"   // a graph runs whole, or on the next platform
	SplitAuto  Split = "auto"  // where it is worth carrying values over, and fallback isn't denied
	SplitForce Split = "force" // wherever a device takes anything, even where fallback is denied
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
	First string `json:"first"`
	// Chosen is the device that answered; of a run that was split, the one that the
	// graph was split for. Its kind is then the least real of the devices' that took part.
	Chosen Choice `json:"chosen"`
	// Pieces are the parts that the graph was split into, in the order they ran; none
	// if it ran whole.
	Pieces  []Piece   `json:"pieces,omitempty"`
	Refused []Refusal `json:"refused,omitempty"`
	// Replays are the deaths that the request lived through: where it ran before,
	// and how that ended. A replay on the same device is not a fallback.
	Replays []Refusal `json:"replays,omitempty"`
	// Component is the one of the model that this is about, where others have decisions of
	// their own: Parts, those that the request went through before.
	Component string     `json:"component,omitempty"`
	Parts     []Decision `json:"parts,omitempty"`
}

// Piece is a part of a graph that ran on one device.
type Piece struct {
	Choice
	Nodes int   `json:"nodes"`
	FLOPs int64 `json:"flops"`
	// Why says for other devices than the chosen one why that does not run the part.
	Why string `json:"why,omitempty"`
}

// Fallback reports whether another than the first device answered, or took part.
func (d *Decision) Fallback() bool {
	return d.elsewhere() || d.Split() || slices.ContainsFunc(d.Parts, func(p Decision) bool { return p.Fallback() })
}

func (d *Decision) elsewhere() bool {
	return d.First != "" && d.Chosen.Device != "" && !names(d.First, d.Chosen.Platform, d.Chosen.Device)
}

// Split reports whether another device than the chosen one ran part of the graph.
func (d *Decision) Split() bool {
	return slices.ContainsFunc(d.Pieces, func(p Piece) bool { return p.Device != d.Chosen.Device })
}

// Summary says in one line what was passed over, what other devices did and what
// was lived through; it is empty if nothing was. Platforms that the machine simply
// does not have are left out unless one of them was asked for.
func (d *Decision) Summary() string {
	var lines []string
	for _, p := range d.Parts {
		if s := p.Summary(); s != "" && !slices.Contains(lines, p.Component+": "+s) {
			lines = append(lines, p.Component+": "+s)
		}
	}
	if s := d.summary(); s != "" {
		lines = append(lines, s)
	}
	return strings.Join(lines, "; ")
}

// summary is Summary without Parts.
func (d *Decision) summary() string {
	var parts []string
	if d.elsewhere() {
		passed := false
		for _, r := range d.Refused {
			if passed = passed || names(d.First, r.Platform, r.Device); passed {
				parts = append(parts, r.name()+": "+r.Reason)
			}
		}
	}
	other, nodes, all := "", 0, 0
	for _, p := range d.Pieces {
		all += p.Nodes
		if p.Device == d.Chosen.Device {
			continue
		}
		if other == "" && p.Why != "" {
			parts = append(parts, d.Chosen.Device+": "+p.Why)
		}
		other = p.Device
		nodes += p.Nodes
	}
	for _, r := range d.Replays {
		parts = append(parts, r.name()+" died ("+r.Reason+") and the request was replayed")
	}
	who := d.Chosen.Device + " answered"
	if d.elsewhere() {
		who += " instead of " + d.First
	}
	if other != "" {
		who += fmt.Sprintf(" with %s, which ran %d of %d nodes", other, nodes, all)
	}
	switch {
	case len(parts) > 0:
		return who + ": " + strings.Join(parts, "; ")
	case other != "":
		return who
	}
	return ""
}

// names reports whether a wanted name, platform or platform:id, means this device.
func names(wanted, platform, device string) bool {
	return wanted == device || wanted == platform
}
