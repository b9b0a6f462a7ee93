package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/server"
)

// generate answers the lines of a file.
func (a *app) generate(ctx context.Context, l *config.Loaded) (err error) {
	r, cfg := l.Run, l.Config
	b := server.Batch{Model: r.Model, Request: map[string]json.RawMessage{}, Concurrency: r.Concurrency, InOrder: r.Output.Order != "finish"}
	if b.Concurrency == 0 {
		b.Concurrency = min(2*cfg.Generate.MaxSequences, cfg.Generate.MaxWaiting)
	}
	for name, v := range r.Request {
		if b.Request[name], err = json.Marshal(v); err != nil {
			return err
		}
	}
	if err := b.Check(); err != nil {
		return err
	}
	if a.json && r.Output.File == "" {
		return usage("with --json the summary goes to standard output: name a file for the answers with --output")
	}
	in, err := server.OpenBatch(r.Inputs.File)
	if err != nil {
		return usage("inputs.file: %w", err)
	}
	out, failed, err := a.openAnswers(r.Output, in)
	if err != nil {
		return err
	}
	defer func() {
		if f, ok := out.(*os.File); ok {
			err = errors.Join(err, f.Close())
		}
	}()
	if in.Left() == 0 {
		return a.tellBatch(r, server.BatchResult{Lines: in.Lines(), Before: in.Lines()}, failed)
	}
	// The others stay closed.
	cfg.Models = map[string]config.Model{r.Model: cfg.Models[r.Model]}
	return a.withEngine(ctx, cfg, func(e engineAPI, started error) error {
		p := a.progress("placing " + r.Model)
		b.Progress = func(now server.BatchResult) {
			p.say("answered %s of %s, %.0f tokens/s", number(now.Before+now.Answered), count(now.Lines, "line"), perSecond(now))
		}
		res, err := b.Run(ctx, e, in, out)
		p.end()
		if err != nil {
			if res.Answered > 0 && r.Output.File != "" {
				fmt.Fprintf(a.screen, "%s %s of %s are answered; --resume goes on from there\n", styleOf(a.err, a.environ).warn("note:"), number(res.Before+res.Answered), count(res.Lines, "line"))
			}
			return errors.Join(err, started)
		}
		return a.tellBatch(r, res, failed)
	})
}

func perSecond(r server.BatchResult) float64 {
	if r.Seconds <= 0 {
		return 0
	}
	return float64(r.CompletionTokens) / r.Seconds
}

// openAnswers opens where answers go. failed is the number of errors that are there from before.
func (a *app) openAnswers(o config.Output, in *server.BatchInput) (out io.Writer, failed int, err error) {
	if o.File == "" {
		return a.out, 0, nil
	}
	info, err := os.Stat(o.File)
	there := err == nil && info.Size() > 0
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, 0, usage("output.file: %s is no file", o.File)
	case there && !o.Resume:
		return nil, 0, usage("output.file: %s has answers already: go on with --resume, or remove it", o.File)
	}
	keep := int64(0)
	if there {
		if failed, keep, err = in.Resume(o.File); err != nil {
			return nil, 0, usage("output.file: %w", err)
		}
		if cut := info.Size() - keep; cut > 0 {
			fmt.Fprintf(a.screen, "%s the last line of %s was not ended and is written anew\n", styleOf(a.err, a.environ).warn("note:"), o.File)
		}
	}
	f, err := os.OpenFile(o.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, 0, fmt.Errorf("output.file: %w", err)
	}
	if err := f.Truncate(keep); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("output.file: %w", err), f.Close())
	}
	return f, failed, nil
}

// batchSummary is what `accel run --json` says of a batch.
type batchSummary struct {
	Model string `json:"model"`
	Task  string `json:"task"`
	File  string `json:"file"`
	server.BatchResult
	Errors          int     `json:"errors"` // in the file, those from before included
	TokensPerSecond float64 `json:"tokens_per_second"`
}

// tellBatch says what was done. Lines with errors make the exit status 1.
func (a *app) tellBatch(r *config.Run, res server.BatchResult, before int) error {
	bad := before + res.Failed
	if a.json {
		s := batchSummary{r.Model, r.Task, r.Output.File, res, bad, perSecond(res)}
		s.Decisions = orEmpty(s.Decisions)
		if err := json.NewEncoder(a.out).Encode(s); err != nil {
			return err
		}
	} else {
		final := io.Writer(a.screen)
		if r.Output.File != "" {
			final = a.out
		}
		a.printBatch(final, r, res, bad)
	}
	if bad > 0 {
		return errMissed
	}
	return nil
}

func (a *app) printBatch(w io.Writer, r *config.Run, res server.BatchResult, bad int) {
	s := styleOf(w, a.environ)
	var on []string
	for _, d := range res.Decisions {
		if said := d.Summary(); said != "" {
			fmt.Fprintf(w, "%s %s\n", s.warn("note:"), said)
		}
		if at := fmt.Sprintf("%s (%s)", d.Chosen.Device, d.Chosen.Kind); !slices.Contains(on, at) {
			on = append(on, at)
		}
	}
	if r.Output.File != "" {
		fmt.Fprintf(w, "wrote %s\n", r.Output.File)
	}
	if res.Before > 0 {
		fmt.Fprintf(w, "%s were answered before\n", count(res.Before, "line"))
	}
	if res.Answered > 0 {
		where := ""
		if len(on) > 0 {
			where = " on " + s.good(strings.Join(on, ", "))
		}
		fmt.Fprintf(w, "%s%s: %s, %s of prompt (%s cached), %s generated in %s, start included: %.1f tokens/s\n", s.bold(r.Model), where, count(res.Answered, "line"),
			count(res.PromptTokens, "token"), number(res.CachedTokens), number(res.CompletionTokens), seconds(time.Duration(res.Seconds*float64(time.Second))), perSecond(res))
	}
	if bad > 0 {
		fmt.Fprintln(w, s.bad(count(bad, "line")+" could not be answered; each says why"))
	}
}
