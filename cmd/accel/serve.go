package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/server"
)

func newServe(a *app) *cobra.Command {
	var listen, fallback string
	var models []string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve models over HTTP, as OpenAI's API",
		Long: `Serve models over HTTP: /v1/embeddings and /v1/models as OpenAI's API, /healthz, /readyz, and
/metrics for Prometheus. The address is printed once the server listens; models load in the
background, and /readyz tells when they are there. The first interrupt or SIGTERM lets requests
in flight finish, the second ends at once.`,
		Example: "  accel serve --model minilm=.cache/models/all-MiniLM-L6-v2\n  accel serve --config configs/serve.yaml --listen 127.0.0.1:0",
		Args:    cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&listen, "listen", "", "`ADDRESS:PORT` to listen on (default 127.0.0.1:8399; port 0: any free one)")
	f.StringArrayVar(&models, "model", nil, "serve the model at PATH as NAME (`NAME=PATH`; may be repeated)")
	f.StringVar(&fallback, "fallback", "", "`POLICY` where a platform can't serve: deny, warn, allow")
	complete(c, "fallback", "deny", "warn", "allow")
	complete(c, "listen")
	c.RunE = func(c *cobra.Command, _ []string) error {
		flags := flagValue(c, "listen", listen, "server", "listen")
		flags = append(flags, flagValue(c, "fallback", fallback, "fallback", "policy")...)
		for _, m := range models {
			name, path, ok := strings.Cut(m, "=")
			if !ok || name == "" || path == "" {
				return usage("--model %q: want NAME=PATH, such as minilm=.cache/models/all-MiniLM-L6-v2", m)
			}
			flags = append(flags, config.Flag{Name: "--model", Key: []string{"models", name, "path"}, Value: path})
		}
		l, err := a.loadOver(config.Default(), "", flags)
		if err != nil {
			return err
		}
		return a.serve(c.Context(), l.Config)
	}
	return c
}

func (a *app) serve(ctx context.Context, cfg config.Config) error {
	if len(cfg.Models) == 0 {
		return usage("there is no model to serve; name one with --model NAME=PATH, or under `models` in a --config file")
	}
	log := a.logger(cfg.Log)
	e, err := a.open(cfg, log)
	if err != nil {
		return err
	}
	s, err := server.New(server.Options{Config: cfg.Server, Engine: e, Log: log.Named("server"), Version: version})
	if err != nil {
		return err
	}
	l, err := s.Listen()
	if err != nil {
		return err
	}
	if a.json {
		err = json.NewEncoder(a.out).Encode(map[string]any{"address": l.Addr().String(), "models": slices.Sorted(maps.Keys(cfg.Models))})
	} else {
		style := styleOf(a.out, a.environ)
		_, err = fmt.Fprintf(a.out, "serving %s on %s\n", strings.Join(slices.Sorted(maps.Keys(cfg.Models)), ", "), style.bold("http://"+l.Addr().String()))
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	// It listens first, so that a health check sees a server that is not ready yet.
	started := make(chan struct{})
	go func() {
		defer close(started)
		if err := e.Start(ctx); err != nil && ctx.Err() == nil {
			log.Warn("not all backends started", "error", err)
		}
	}()
	err = s.Serve(ctx, l)
	<-started
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	return errors.Join(err, e.Close(end))
}
