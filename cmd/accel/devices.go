package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/sdk/backend"
)

// deviceRow is a device as `accel devices --json` prints it.
type deviceRow struct {
	Device       string         `json:"device"`
	Platform     string         `json:"platform"`
	Backend      string         `json:"backend"`
	Name         string         `json:"name"`
	Kind         backend.Kind   `json:"kind"`
	Health       backend.Health `json:"health"`
	Reason       string         `json:"reason,omitempty"`
	Remedy       string         `json:"remedy,omitempty"`
	MemoryTotal  int64          `json:"memory_total,omitempty"` // bytes
	MemoryFree   int64          `json:"memory_free,omitempty"`
	ElementTypes []string       `json:"element_types,omitempty"`
	Features     []string       `json:"features,omitempty"`
	Attention    string         `json:"attention,omitempty"`
	Runtime      string         `json:"runtime,omitempty"`
	StaticShapes bool           `json:"static_shapes,omitempty"`
}

func newDevices(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "devices [PLATFORM]",
		Short: "List the devices of this machine, and why one can't be used",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withMachine(c.Context(), func(backends []hosts.BackendStatus, devices []hosts.DeviceStatus) error {
				var rows []deviceRow
				for _, d := range devices {
					if len(args) == 0 || args[0] == d.Platform || args[0] == d.Ref {
						rows = append(rows, describeDevice(d))
					}
				}
				if len(args) > 0 && len(rows) == 0 {
					return &notFoundError{fmt.Sprintf("there is no device of platform %q", args[0]), missing(backends, devices)}
				}
				if a.json {
					return json.NewEncoder(a.out).Encode(map[string]any{"devices": orEmpty(rows)})
				}
				return a.printDevices(rows, backends)
			})
		},
	}
}

// missing says what there is instead of a platform that isn't.
func missing(backends []hosts.BackendStatus, devices []hosts.DeviceStatus) string {
	var refs []string
	for _, d := range devices {
		refs = append(refs, d.Ref)
	}
	s := "there are: " + strings.Join(refs, ", ")
	if len(refs) == 0 {
		s = "there is none at all"
	}
	for _, b := range backends {
		if b.State != hosts.Healthy {
			s += fmt.Sprintf("; backend %s is %s", b.Name, b.State)
		}
	}
	return s + " (accel backends says more)"
}

func describeDevice(d hosts.DeviceStatus) deviceRow {
	r := deviceRow{Device: d.Ref, Platform: d.Platform, Backend: d.Backend, Name: d.Name, Kind: d.Kind, Health: d.Health,
		Reason: d.Reason, Remedy: d.Remedy, MemoryTotal: d.MemoryTotal, MemoryFree: d.MemoryFree, Features: d.Features,
		Attention: string(d.Attention), Runtime: d.RuntimeVersion, StaticShapes: d.StaticShapes}
	for _, t := range d.ElementTypes {
		r.ElementTypes = append(r.ElementTypes, t.String())
	}
	return r
}

func (a *app) printDevices(rows []deviceRow, backends []hosts.BackendStatus) error {
	s := styleOf(a.out, a.environ)
	if len(rows) > 0 {
		t := table{header: []string{"DEVICE", "KIND", "HEALTH", "MEMORY", "BACKEND", "NAME"}, right: []bool{3: true}}
		for _, r := range rows {
			t.add(r.Device, string(r.Kind), string(r.Health), memory(r.MemoryTotal), r.Backend, r.Name)
		}
		t.paint = func(col int, cell, padded string) string {
			if col == 2 {
				return s.health(cell, padded)
			}
			return padded
		}
		if err := t.write(a.out, s, terminalWidth(a.out)); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.out, "No backend offers a device.")
	}
	for _, r := range rows {
		a.reason(s, r.Device, string(r.Health), r.Reason, r.Remedy)
	}
	for _, b := range backends {
		if b.State != hosts.Healthy {
			a.reason(s, "backend "+b.Name, string(b.State), b.Reason, b.Remedy)
		}
	}
	return nil
}

// reason prints why something is not as it should be.
func (a *app) reason(s style, what, state, reason, remedy string) {
	if reason == "" {
		return
	}
	fmt.Fprintf(a.out, "%s is %s: %s\n", s.bold(what), state, firstLine(reason))
	if remedy != "" && !strings.Contains(reason, remedy) {
		fmt.Fprintf(a.out, "  %s %s\n", s.dim("remedy:"), remedy)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSuffix(strings.TrimSpace(line), "; it last said:")
}

func (s style) health(state, padded string) string {
	switch state {
	case "healthy", "ready":
		return s.good(padded)
	case "unhealthy", "failed":
		return s.bad(padded)
	}
	return s.warn(padded)
}

// orEmpty keeps a list from becoming null in JSON.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
