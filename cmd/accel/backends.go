package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/hosts"
)

func newBackends(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "backends [NAME...]",
		Short: "List, install, test or remove backends",
		Long: `List the backends: where each was found, the vendor libraries that it found, and why one
does not start. A backend is run only if it came with Accel, was installed by
` + "`accel backends install`" + `, lies in a folder of hosts.search_path ($ACCEL_BACKEND_PATH) or is named in
the configuration.`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeBackends,
		RunE:              a.listBackends,
	}
	list := &cobra.Command{
		Use:               "list [NAME...]",
		Short:             "List the backends, the vendor libraries that they found, and why one does not start",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeBackends,
		RunE:              a.listBackends,
	}
	c.AddCommand(list, newBackendsInstall(a), newBackendsTest(a), newBackendsRemove(a))
	return c
}

func (a *app) listBackends(c *cobra.Command, args []string) error {
	return a.withMachine(c.Context(), func(backends []hosts.BackendStatus, devices []hosts.DeviceStatus) error {
		var known []string
		var rows []hosts.BackendStatus
		for _, b := range backends {
			known = append(known, b.Name)
			if len(args) == 0 || slices.Contains(args, b.Name) {
				rows = append(rows, b)
			}
		}
		for _, name := range args {
			if !slices.Contains(known, name) {
				return noBackend(name, known)
			}
		}
		if a.json {
			return json.NewEncoder(a.out).Encode(map[string]any{"backends": orEmpty(rows)})
		}
		return a.printBackends(rows, devices)
	})
}

func noBackend(name string, known []string) error {
	e := &notFoundError{fmt.Sprintf("there is no backend %q", name), fmt.Sprintf("there are: %v", known)}
	if near := config.Nearest(name, known); near != "" {
		e.remedy = fmt.Sprintf("did you mean %q?", near)
	}
	return e
}

// withMachine starts the backends without any model and shows what is there.
func (a *app) withMachine(ctx context.Context, show func([]hosts.BackendStatus, []hosts.DeviceStatus) error) error {
	l, err := a.load("", nil)
	if err != nil {
		return err
	}
	cfg := l.Config
	cfg.Models = nil
	p := a.progress("asking the backends")
	return a.withEngine(ctx, cfg, func(e engineAPI, _ error) error {
		p.end()
		return show(e.Machine()) // which says itself what did not start, and why
	})
}

func (a *app) printBackends(rows []hosts.BackendStatus, devices []hosts.DeviceStatus) error {
	s := styleOf(a.out, a.environ)
	if len(rows) == 0 {
		_, err := fmt.Fprintln(a.out, "There is no backend. They are looked for in hosts.search_path ($ACCEL_BACKEND_PATH), among those that `accel backends install` took, and in the folder `backends` beside this program.")
		return err
	}
	t := table{header: []string{"BACKEND", "STATE", "VERSION", "DEVICES", "FROM", "PATH"}, right: []bool{3: true}}
	t.paint = func(col int, cell, padded string) string {
		if col == 1 {
			return s.health(cell, padded)
		}
		return padded
	}
	for _, b := range rows {
		n := 0
		for _, d := range devices {
			if d.Backend == b.Name {
				n++
			}
		}
		t.add(b.Name, string(b.State), dash(b.Version), fmt.Sprint(n), dash(string(b.Origin)), dash(b.Path))
	}
	if err := t.write(a.out, s, terminalWidth(a.out)); err != nil {
		return err
	}
	for _, b := range rows {
		if b.State != hosts.Healthy {
			a.reason(s, b.Name, string(b.State), b.Reason, b.Remedy)
		}
		if b.State != hosts.Healthy && b.Stderr != "" {
			fmt.Fprintf(a.out, "  %s\n%s\n", s.dim("it last said:"), indent(b.Stderr, "    "))
		}
		for _, lib := range b.Libraries {
			if lib.Found {
				fmt.Fprintf(a.out, "%s found %s %s %s\n", s.bold(b.Name), lib.Name, dash(lib.Version), s.dim(lib.Path))
			} else {
				a.reason(s, b.Name+": "+lib.Name, "not found", lib.Reason, lib.Remedy)
			}
		}
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
