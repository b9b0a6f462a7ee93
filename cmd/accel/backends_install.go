package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/installed"
)

func newBackendsInstall(a *app) *cobra.Command {
	var o installed.InstallOptions
	c := &cobra.Command{
		Use:   "install FILE",
		Short: "Install a backend from an archive or a program on this machine",
		Long: `Install a backend from an archive (tar.gz, zip) with a manifest, accel-backend.json, or from a
program called accel-backend-NAME. Nothing is fetched, and nothing of it is run: it starts with the
next command that starts backends, as this user, with all that this user may do.

The archive's checksum is held against FILE.sha256, if that lies beside it. The checksums of its
files are kept, and checked at each start: what was changed since is not started.`,
		Example: `  accel backends install accel-backend-acme-1.2.0-linux-amd64.tar.gz
  accel backends install ./accel-backend-mine
  accel backends test mine`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // files
		},
	}
	f := c.Flags()
	f.StringVar(&o.Name, "name", "", "`NAME` of a program that is not called accel-backend-NAME")
	f.StringVar(&o.SHA256, "sha256", "", "checksum that FILE must have, in `HEX`")
	f.BoolVar(&o.Replace, "replace", false, "put it in the place of what is installed under its name")
	complete(c, "name")
	complete(c, "sha256")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		p := a.progress("reading " + args[0])
		o.Progress = func(done, total int64) { p.say("reading %s: %s of %s", args[0], memory(done), memory(total)) }
		in, err := installed.Open(l.Config.Hosts.Installed).Install(c.Context(), args[0], o)
		p.end()
		if err != nil {
			return err
		}
		return a.tellInstalled(l.Config, in)
	}
	return c
}

func (a *app) tellInstalled(c config.Config, in installed.Backend) error {
	var note string
	where, err := a.backendOptions(c)
	if err != nil {
		return err
	}
	if hidden := where.Hides(in.Name); hidden != "" {
		note = hidden
	}
	if a.json {
		return json.NewEncoder(a.out).Encode(map[string]any{"installed": in, "path": in.Path(), "note": note})
	}
	s := styleOf(a.out, a.environ)
	version := "its version is what it says"
	if in.Version != "" {
		version = "version " + in.Version
	}
	fmt.Fprintf(a.out, "%s is installed: %s, %s, %s in %s\n", s.bold(in.Name), version, count(len(in.Files), "file"), memory(in.Bytes), in.Dir)
	if note != "" {
		fmt.Fprintf(a.out, "%s %s\n", s.warn("note:"), note)
	}
	fmt.Fprintf(a.out, "test it: %s\n", s.good("accel backends test "+in.Name))
	return nil
}

// backendOptions say where backends are found.
func (a *app) backendOptions(c config.Config) (hosts.Options, error) {
	return engine.Backends(c, engine.Options{Beside: beside(), Log: a.logger(c.Log)})
}

func newBackendsRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Aliases: []string{"rm"},
		Short:   "Remove a backend that was installed",
		Long:    `Remove a backend that was installed, whatever state its files are in. It asks nothing.`,
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			l, err := a.load("", nil)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, _ := installed.Open(l.Config.Hosts.Installed).Names() // completion says nothing of errors
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			l, err := a.load("", nil)
			if err != nil {
				return err
			}
			store := installed.Open(l.Config.Hosts.Installed)
			if err := store.Remove(c.Context(), args[0]); err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(map[string]any{"removed": args[0]})
			}
			_, err = fmt.Fprintf(a.out, "removed %s\n", args[0])
			return err
		},
	}
}

// completeBackends completes arguments with the names of backends.
func (a *app) completeBackends(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return slices.DeleteFunc(a.backendNames(), func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}

// backendNames are the names of the backends that are known. None of them is started.
func (a *app) backendNames() []string {
	l, err := a.load("", nil)
	if err != nil {
		return nil // completion says nothing of errors
	}
	where, err := a.backendOptions(l.Config)
	if err != nil {
		return nil
	}
	return where.Names()
}
