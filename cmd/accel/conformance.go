package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/sdk/backend"
	"github.com/accelhq/accel/sdk/backendtest"
)

// conformance is what `accel backends test` is told.
type conformance struct {
	run      string
	devices  []string
	settings string
	timeout  time.Duration
	verbose  bool
}

func newBackendsTest(a *app) *cobra.Command {
	var o conformance
	c := &cobra.Command{
		Use:   "test NAME|PATH [-- ARGUMENT...]",
		Short: "Hold a backend, in whatever language, against what the protocol promises",
		Long: `Start a backend as Accel does, and hold it against what the protocol promises: handshake, life and
death of the process, devices, every call and its errors, and for each operator that Assess takes
the results of the reference (docs/backends.md says what is checked and why).

A check passes, fails, or is skipped for a reason that is said. The checks of a device are called
"device ID/CHECK"; the process is started anew after one that failed.`,
		Example: `  accel backends test cpu
  accel backends test ./accel-backend-mine
  accel backends test ./accel-backend-mine --run 'describe|device 0/(bindings|cancel)' --verbose
  accel backends test "$PWD/backend.py" -- --device cpu`,
		Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.backendNames(), cobra.ShellCompDirectiveDefault // a path will do, too
		},
	}
	f := c.Flags()
	f.StringVar(&o.run, "run", "", "only the checks whose names match `REGEX`")
	f.StringArrayVar(&o.devices, "device", nil, "only the device `ID`; repeatable")
	f.StringVar(&o.settings, "settings", "", "`JSON` object given to Configure (default: what the configuration says of NAME)")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "bound on the start and on each call")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "show what passing checks say, too")
	err := c.RegisterFlagCompletionFunc("run", cobra.FixedCompletions(backendtest.CheckNames(), cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag is not there
	}
	complete(c, "device")
	complete(c, "settings")
	complete(c, "timeout")
	c.RunE = func(c *cobra.Command, args []string) error { return a.testBackend(c.Context(), o, args[0], args[1:]) }
	return c
}

func (a *app) testBackend(ctx context.Context, o conformance, name string, args []string) error {
	var run *regexp.Regexp
	if o.run != "" {
		var err error
		if run, err = regexp.Compile(o.run); err != nil {
			return usage("--run: %w", err)
		}
	}
	if o.timeout <= 0 {
		return usage("--timeout %v is no time to wait", o.timeout)
	}
	target, err := a.target(ctx, o, name, args)
	if err != nil {
		return err
	}
	s := styleOf(a.out, a.environ)
	paint := map[backendtest.Verdict]func(string) string{backendtest.Passed: s.good, backendtest.Failed: s.bad, backendtest.Skipped: s.warn}
	counts := map[backendtest.Verdict]int{}
	results := []backendtest.Result{}
	if !a.json {
		fmt.Fprintf(a.out, "%s %s\n", s.bold("testing"), strings.Join(target.Command, " "))
	}
	begun := time.Now()
	p := a.progress("testing " + name)
	err = backendtest.Check(ctx, target, run, func(r backendtest.Result) {
		counts[r.Verdict]++
		results = append(results, r)
		p.say("%s: %s done, the last %s", name, count(len(results), "check"), r.Check)
		if a.json {
			return
		}
		fmt.Fprintf(a.out, "%s  %s %s\n", paint[r.Verdict](string(r.Verdict)), r.Check, s.dim(fmt.Sprintf("(%.2f s)", r.Seconds)))
		if r.Reason != "" {
			fmt.Fprintf(a.out, "      %s\n", printable(r.Reason))
		}
		for _, text := range r.Failures {
			fmt.Fprintf(a.out, "%s\n", indent(printable(text), "      "))
		}
		if o.verbose || r.Verdict == backendtest.Failed {
			for _, text := range r.Notes {
				fmt.Fprintf(a.out, "%s\n", s.dim(indent(printable(text), "      ")))
			}
		}
	})
	p.end()
	if err != nil {
		return err
	}
	if len(results) == 0 {
		return usage("--run %q matches no check; there are: %s, those after %q as device ID/CHECK", o.run, strings.Join(backendtest.CheckNames(), ", "), "devices")
	}
	if a.json {
		err = json.NewEncoder(a.out).Encode(map[string]any{"command": target.Command, "protocol": backend.ProtocolVersion, "passed": counts[backendtest.Passed],
			"failed": counts[backendtest.Failed], "skipped": counts[backendtest.Skipped], "seconds": time.Since(begun).Seconds(), "checks": results})
	} else {
		_, err = fmt.Fprintf(a.out, "%d passed, %d failed, %d skipped in %s\n", counts[backendtest.Passed], counts[backendtest.Failed], counts[backendtest.Skipped], seconds(time.Since(begun)))
	}
	if counts[backendtest.Failed] > 0 {
		return errors.Join(err, errMissed)
	}
	return err
}

// target is the backend that is meant: a path, or the name of one that is known.
func (a *app) target(ctx context.Context, o conformance, name string, args []string) (backendtest.Target, error) {
	t := backendtest.Target{Command: append([]string{name}, args...), Settings: o.settings, Timeout: o.timeout}
	if len(o.devices) > 0 {
		t.Devices = func(d backend.Device) bool { return slices.Contains(o.devices, d.ID) }
	}
	if strings.ContainsAny(name, `/\`) || isFile(name) {
		path, err := filepath.Abs(name)
		if err != nil {
			return t, err
		}
		t.Command[0] = path
		if !isFile(path) {
			return t, &notFoundError{fmt.Sprintf("there is no program %s", path), "give the path of a backend's program, or the name of one that `accel backends` lists"}
		}
		return t, nil
	}
	l, err := a.load("", nil)
	if err != nil {
		return t, err
	}
	where, err := a.backendOptions(l.Config)
	if err != nil {
		return t, err
	}
	path, _, err := where.Find(ctx, name)
	if missing := (*hosts.NotFoundError)(nil); errors.As(err, &missing) && len(missing.Refused) == 0 {
		return t, noBackend(name, where.Names())
	}
	if err != nil {
		return t, err
	}
	known := where.Backends[name]
	t.Command = slices.Concat([]string{path}, known.Args, args)
	for k, v := range known.Env {
		t.Env = append(t.Env, k+"="+v)
	}
	if o.settings == "" {
		t.Settings = string(known.Settings)
	}
	return t, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// printable keeps what a backend said from steering the terminal.
func printable(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = oneLine(lines[i])
	}
	return strings.Join(lines, "\n")
}
