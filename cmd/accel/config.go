package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
)

func newConfig(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Show, check or describe the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newConfigShow(a), newConfigCheck(a), newConfigSchema(a))
	return c
}

func newConfigShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print every effective value and where it comes from; secrets are marks",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := a.loadOver(config.Default(), "", nil)
			if err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(map[string]any{"settings": l.Settings()})
			}
			return l.WriteYAML(a.out)
		},
	}
}

func newConfigCheck(a *app) *cobra.Command {
	var run bool
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file (default --config), with the variables that apply over it",
		Args:  cobra.MaximumNArgs(1),
	}
	c.Flags().BoolVar(&run, "run", false, "FILE is a run file, as `accel run` takes it")
	c.RunE = func(_ *cobra.Command, args []string) error {
		var runFile string
		switch {
		case run && len(args) == 0:
			return usage("--run wants a FILE")
		case run:
			runFile = args[0]
		case len(args) > 0:
			a.configFile = args[0]
		}
		l, err := a.loadOver(config.Default(), runFile, nil)
		if err != nil {
			return err
		}
		given := 0
		for _, s := range l.Settings() {
			if s.Origin.Kind != config.FromDefault {
				given++
			}
		}
		if a.json {
			return json.NewEncoder(a.out).Encode(map[string]any{"ok": true, "values": given})
		}
		_, err = fmt.Fprintf(a.out, "The configuration is good: %s beside the defaults.\n", count(given, "value"))
		return err
	}
	return c
}

func newConfigSchema(a *app) *cobra.Command {
	var run bool
	c := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of configuration files",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			// The defaults of this machine's cache folders are no part of the description.
			def := config.Default()
			def.Cache.Dir, def.Hub.Cache, def.Hosts.Installed = "", "", ""
			b, err := config.Schema(def, run)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "%s\n", b)
			return err
		},
	}
	c.Flags().BoolVar(&run, "run", false, "of run files, as `accel run` takes them")
	return c
}
