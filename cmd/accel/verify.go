package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/backend"
)

func newVerify(a *app) *cobra.Command {
	var platforms []string
	var tolerance float64
	var split, forget bool
	c := &cobra.Command{
		Use:   "verify DIR...",
		Short: "Hold a device's outputs against recorded ones",
		Long: `Hold a device's outputs against recorded ones. A DIR is a model's folder, or that of a GGUF
file, with golden.safetensors, or an ONNX test folder: model.onnx with test_data_set_0 and so on. Each is run whole on each
platform; none falls back to another. With --split the CPU runs the nodes that a platform does
not take; such results are counted apart from whole ones. The error of an output is its largest
absolute difference over the largest recorded magnitude. Where scores that a TopK orders tie, their
rows may stand in another order than was recorded, the same in all outputs; the result says so.

What a folder records of image processors (proc.*) and of what is read out of outputs (post.*) is held
against what is made of the media in it. A folder that records nothing is passed over, which the
result says. What came out of models of a class is kept in the cache folder, where accel
classes reads it.

The exit status is 1 if anything was refused, off or broken, or if there was nothing to verify.`,
		Example: "  accel verify testdata/tiny/bert --platform cpu,simulation:static",
		Args:    cobra.MinimumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	f := c.Flags()
	f.StringSliceVar(&platforms, "platform", nil, "`PLATFORMS` or devices, separated by commas (default: every platform with a healthy device)")
	f.Float64Var(&tolerance, "tolerance", verify.DefaultTolerance, "largest `ERROR` that passes")
	f.BoolVar(&split, "split", false, "let the CPU run what a platform does not take of a graph")
	f.BoolVar(&forget, "no-record", false, "do not keep the results for accel classes")
	a.completePlatforms(c, "platform")
	c.RunE = func(c *cobra.Command, dirs []string) error {
		if !(tolerance >= 0) {
			return usage("--tolerance %v: want 0 or more", tolerance)
		}
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		cfg := l.Config
		cfg.Models = nil
		return a.withEngine(c.Context(), cfg, func(e engineAPI, started error) error {
			backends, devices := e.Machine()
			if len(platforms) == 0 {
				seen := map[string]bool{}
				for _, d := range devices {
					if d.Health == backend.Healthy && !seen[d.Platform] {
						seen[d.Platform] = true
						platforms = append(platforms, d.Platform)
					}
				}
			}
			if len(platforms) == 0 {
				return &notFoundError{"there is no healthy device to verify", missing(backends, devices)}
			}
			p := a.progress("verifying " + dirs[0])
			s := styleOf(a.out, a.environ)
			var kept error // the first that could not be
			report := verify.Run(c.Context(), e, dirs, verify.Options{Platforms: platforms, Tolerance: tolerance, Split: split}, func(r verify.Result) {
				p.say("verified %s on %s", r.Path, r.Platform)
				if !forget && kept == nil && c.Context().Err() == nil {
					kept = keep(verify.RecordsIn(cfg.Cache.Dir), r, devices)
				}
				if !a.json {
					a.printResult(s, r)
				}
			})
			p.end()
			if err := c.Context().Err(); err != nil {
				return err
			}
			if a.json {
				report.Results = orEmpty(report.Results)
				if err := json.NewEncoder(a.out).Encode(report); err != nil {
					return err
				}
			} else {
				tell := s.good
				if report.Failed+report.Refused > 0 {
					tell = s.bad
				}
				fmt.Fprintln(a.out, tell(summary(report, split)))
			}
			if kept == nil && (report.Passed == 0 || report.Failed+report.Refused > 0) {
				return errMissed
			}
			return kept
		})
	}
	return c
}

// keep keeps the result of a model of a class. A platform that has no device here was not measured.
func keep(records verify.Records, r verify.Result, devices []hosts.DeviceStatus) error {
	i := slices.IndexFunc(devices, func(d hosts.DeviceStatus) bool {
		if r.Device != "" {
			return d.Ref == r.Device
		}
		return d.Health == backend.Healthy && (d.Ref == r.Platform || d.Platform == r.Platform)
	})
	if r.Model == nil || i < 0 {
		return nil
	}
	rec, err := r.Record(devices[i].Ref, devices[i].Kind, version, time.Now())
	if err != nil {
		return err
	}
	return records.Keep(rec)
}

// summary is the last line: what came out, how it ran, and of whole architectures
// or of parts.
func summary(r verify.Report, split bool) string {
	text := fmt.Sprintf("%d passed, %d failed, %d refused", r.Passed, r.Failed, r.Refused)
	if r.PassedOver > 0 {
		text += fmt.Sprintf(", %d passed over", r.PassedOver)
	}
	if split {
		text += fmt.Sprintf("; %d ran whole, %d split", r.Whole, r.Split)
	}
	if r.Tied > 0 {
		text += fmt.Sprintf("; %d passed with rows of tied scores exchanged", r.Tied)
	}
	if len(r.Parts) > 0 {
		passed, all := r.Passed, len(r.Results)
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(r.Parts)) {
			c := r.Parts[name]
			n := c.Passed + c.Failed + c.Refused
			passed, all = passed-c.Passed, all-n
			parts = append(parts, fmt.Sprintf("%d of %d parts (%s)", c.Passed, n, name))
		}
		text += fmt.Sprintf("; passed: %d of %d whole architectures, %s", passed, all, strings.Join(parts, ", "))
	}
	return text
}

// printResult prints one line for a folder on a platform, and more where it missed.
func (a *app) printResult(s style, r verify.Result) {
	mark := s.good("ok     ")
	switch {
	case r.Status == verify.Refused:
		mark = s.warn("refused")
	case r.Status == verify.PassedOver:
		fmt.Fprintf(a.out, "%s  %s: %s\n", s.warn("-      "), s.bold(r.Path), r.Error)
		return
	case !r.OK:
		mark = s.bad("FAILED ")
	}
	on := r.Platform
	if r.Device != "" {
		on = fmt.Sprintf("%s (%s)", r.Device, r.Kind)
	}
	text := ""
	if o := r.Worst(); o != nil {
		text = fmt.Sprintf(": %s, %s, worst error %.1e of %.0e", r.Status, count(len(r.Outputs), "output"), *o.MaxRel, o.Tolerance)
	}
	if len(r.Pieces) > 0 {
		text += "; " + placed(r)
	}
	fmt.Fprintf(a.out, "%s  %s on %s%s\n", mark, s.bold(r.Path), on, text)
	for _, o := range r.Outputs {
		switch {
		case o.OK:
		case o.MaxRel == nil:
			fmt.Fprintf(a.out, "         %s: %s\n", o.Name, o.Problem)
		default:
			fmt.Fprintf(a.out, "         %s: error %.2e, tolerance %.0e\n", o.Name, *o.MaxRel, o.Tolerance)
		}
	}
	for _, t := range r.Ties {
		fmt.Fprintf(a.out, "         %s: as recorded once %s\n", strings.Join(t.Outputs, ", "), t)
	}
	if r.Error != "" {
		fmt.Fprintln(a.out, indent(strings.TrimSpace(r.Error), "         "))
	}
}

// placed says which platform ran how much of a graph that was split.
func placed(r verify.Result) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Placed)) {
		parts = append(parts, fmt.Sprintf("%s ran %s", name, count(r.Placed[name].Nodes, "node")))
	}
	return count(len(r.Pieces), "piece") + ": " + strings.Join(parts, ", ")
}
