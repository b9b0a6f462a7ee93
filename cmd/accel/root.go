package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hub"
)

func newRoot(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accel",
		Short: "Run models on whatever hardware is there",
		Long: `Accel runs models on whatever hardware is there. Each backend is a process of its own;
a request whose device dies is answered by another, and every answer says which.

Configuration: defaults < --config FILE < ACCEL_* variables < flags (accel config show).

` + exitHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&a.configFile, "config", "", "configuration `FILE`, YAML or JSON (default $ACCEL_CONFIG)")
	f.StringVar(&a.logLevel, "log-level", "", "least serious `LEVEL` that is logged: trace, debug, info, warn, error, off")
	f.StringVar(&a.logFormat, "log-format", "", "`FORMAT` of the log: auto, json, text")
	f.BoolVar(&a.json, "json", false, "print JSON instead of text")
	f.BoolVar(&a.noProgress, "no-progress", false, "show no progress")
	cmd.MarkPersistentFlagFilename("config", "yaml", "yml", "json")
	complete(cmd, "log-level", "trace", "debug", "info", "warn", "error", "off")
	complete(cmd, "log-format", "auto", "json", "text")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	cmd.AddCommand(newRun(a), newServe(a), newChat(a), newInspect(a), newDevices(a), newBackends(a), newExplain(a), newVerify(a), newClasses(a), newBench(a), newPull(a), newModels(a), newQuantize(a), newConfig(a), newVersion(a))
	for _, c := range cmd.Commands() {
		wrapArgs(c)
	}
	// cobra's own words for an unknown command, with this program's exit status.
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := cobra.NoArgs(c, args); err != nil {
			if near := config.Nearest(args[0], names(c)); near != "" {
				return usage("there is no command %q; did you mean %q?", args[0], near)
			}
			return usage("there is no command %q; there are: %s", args[0], strings.Join(names(c), ", "))
		}
		return nil
	}
	cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return cmd
}

func names(c *cobra.Command) []string {
	var out []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			out = append(out, sub.Name())
		}
	}
	return out
}

// wrapArgs makes a wrong number of arguments an error of usage.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage("%w; usage: %s", err, c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// complete gives a flag its values for the shell.
func complete(c *cobra.Command, flag string, values ...string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag is not there
	}
}

// completePlatforms completes a flag with the platforms that routes name.
func (a *app) completePlatforms(c *cobra.Command, flag string) {
	err := c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		seen := map[string]bool{}
		var out []string
		cfg := config.Default()
		if l, err := a.load("", nil); err == nil {
			cfg = l.Config
		}
		for _, platforms := range cfg.Route {
			for _, p := range platforms {
				if !seen[p] {
					seen[p] = true
					out = append(out, p)
				}
			}
		}
		sort.Strings(out)
		return out, cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err)
	}
}

// completeModels completes an argument with the names of configured models.
func (a *app) completeModels(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	l, err := a.load("", nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []string
	for name := range l.Config.Models {
		out = append(out, name)
	}
	for _, name := range pulled(l.Config.Hub) {
		out = append(out, hub.Scheme+name)
	}
	sort.Strings(out)
	return out, cobra.ShellCompDirectiveDefault // a path will do, too
}

// only is a configuration with the one model that an argument names, or whose path it
// is, and that model's name.
func only(cfg config.Config, arg, platform string) (config.Config, string, error) {
	name := arg
	m, ok := cfg.Models[name]
	if !ok {
		if !strings.ContainsAny(name, `/\.`) && !strings.HasPrefix(name, hub.Scheme) {
			known := slices.Sorted(maps.Keys(cfg.Models))
			return cfg, "", &engine.ModelNotFoundError{Model: name, Known: known, Nearest: config.Nearest(name, known)}
		}
		m = config.Model{Path: name}
		name = filepath.Base(filepath.Clean(name))
	}
	if platform != "" {
		m.Platform = platform
	}
	cfg.Models = map[string]config.Model{name: m}
	return cfg, name, nil
}

// flagValue makes a flag that was given a part of the configuration.
func flagValue(c *cobra.Command, flag string, value any, key ...string) []config.Flag {
	if !c.Flags().Changed(flag) {
		return nil
	}
	return []config.Flag{{Name: "--" + flag, Key: key, Value: value}}
}

// load reads the configuration. Commands that answer and end log nothing unless
// told to: what matters is in their answer.
func (a *app) load(runFile string, flags []config.Flag) (*config.Loaded, error) {
	return a.loadFrom(config.Sources{Defaults: quiet(), RunFile: runFile, Flags: flags})
}

// loadRun reads what is to be run, from a file and flags or from flags alone.
func (a *app) loadRun(runFile string, flags []config.Flag) (*config.Loaded, error) {
	return a.loadFrom(config.Sources{Defaults: quiet(), RunFile: runFile, Run: true, Flags: flags})
}

func quiet() config.Config {
	def := config.Default()
	def.Log.Level = "off"
	return def
}

func (a *app) loadOver(def config.Config, runFile string, flags []config.Flag) (*config.Loaded, error) {
	return a.loadFrom(config.Sources{Defaults: def, RunFile: runFile, Flags: flags})
}

func (a *app) loadFrom(src config.Sources) (*config.Loaded, error) {
	file := a.configFile
	if file == "" {
		for _, kv := range a.environ {
			if v, ok := strings.CutPrefix(kv, "ACCEL_CONFIG="); ok {
				file = v
			}
		}
	}
	if a.logLevel != "" {
		src.Flags = append(src.Flags, config.Flag{Name: "--log-level", Key: []string{"log", "level"}, Value: a.logLevel})
	}
	if a.logFormat != "" {
		src.Flags = append(src.Flags, config.Flag{Name: "--log-format", Key: []string{"log", "format"}, Value: a.logFormat})
	}
	src.File, src.Environ = file, a.environ
	return config.Load(src)
}

func (a *app) logger(c config.Log) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:       "accel",
		Level:      hclog.LevelFromString(c.Level),
		JSONFormat: c.Format == "json" || c.Format == "auto" && !a.screen.terminal,
		Output:     a.screen,
	})
}

// closeWait bounds the ending of the backends.
const closeWait = 10 * time.Second

// withEngine starts an engine, has do work with it, and closes it. An error of
// Start tells of backends that are not there; it is handed to do, which knows
// whether that matters.
func (a *app) withEngine(ctx context.Context, c config.Config, do func(e engineAPI, started error) error) error {
	return a.withUnstarted(ctx, c, func(e engineAPI) error {
		started := e.Start(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return do(e, started)
	})
}

// withUnstarted makes an engine whose backends do not run yet, for commands that
// can tell before that something is wrong, and closes it after do.
func (a *app) withUnstarted(ctx context.Context, c config.Config, do func(e engineAPI) error) (err error) {
	e, err := a.open(c, a.logger(c.Log))
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
		defer cancel()
		if cerr := e.Close(end); cerr != nil && err == nil {
			err = fmt.Errorf("ending the backends: %w", cerr)
		}
	}()
	return do(e)
}
