package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/processors/audio"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/server"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
)

// transcript is what a run of the task gives.
type transcript struct {
	Model    string         `json:"model"`
	Task     string         `json:"task"`
	File     string         `json:"file"`
	Language string         `json:"language,omitempty"`
	Duration float64        `json:"duration"` // of the sound, in seconds
	Segments int            `json:"segments"`
	Tokens   int            `json:"tokens"`
	Seconds  float64        `json:"seconds"` // the model's start on its device included
	Notes    []string       `json:"notes,omitempty"`
	Decision route.Decision `json:"decision"`
}

// transcribe writes what is said in a sound.
func (a *app) transcribe(ctx context.Context, l *config.Loaded) error {
	r, cfg := l.Run, l.Config
	if a.json && (r.Output.Format == "table" || r.Output.Format == "json") {
		r.Output.Format = string(tasks.TranscriptVerbose)
	}
	req, options, err := server.ReadTranscription(r.Request)
	if err != nil {
		return usage("request: %w", err)
	}
	f, err := os.Open(r.Inputs.File)
	if err != nil {
		return usage("inputs.file: %w", err)
	}
	defer f.Close()
	sound, err := audio.Open(f)
	if err != nil {
		return usage("inputs.file: %s: %w", r.Inputs.File, err)
	}
	req.ID, req.Sound = "run", sound
	// The others stay closed.
	cfg.Models = map[string]config.Model{r.Model: cfg.Models[r.Model]}
	return a.withEngine(ctx, cfg, func(e engineAPI, started error) error {
		begin := time.Now()
		out := &transcript{Model: r.Model, Task: r.Task, File: r.Output.File}
		write := func(w io.Writer) error { return a.writeTranscript(ctx, e, r, req, options, w, out) }
		var err error
		if r.Output.File == "" {
			err = write(a.out)
		} else {
			err = tensorfile.Create(r.Output.File, write)
		}
		if err != nil {
			return errors.Join(err, started)
		}
		out.Seconds, out.Notes = time.Since(begin).Seconds(), sound.Notes()
		return a.tellTranscript(r, out)
	})
}

// writeTranscript writes segments as they come.
func (a *app) writeTranscript(ctx context.Context, e engineAPI, r *config.Run, req tasks.TranscribeRequest, o tasks.TranscriptOptions, w io.Writer, out *transcript) error {
	var t tasks.TranscriptWriter = &spoken{w: w, style: styleOf(w, a.environ)}
	if r.Output.Format != "table" {
		var err error
		if t, err = tasks.NewTranscriptWriter(tasks.TranscriptFormat(r.Output.Format), w, o); err != nil {
			return err
		}
	}
	p := a.progress("placing " + r.Model)
	ended := false
	end := func() {
		if !ended {
			ended = true
			p.end()
		}
	}
	defer end()
	res, err := e.Transcribe(ctx, r.Model, req, func(s tasks.Segment) error {
		if out.Segments++; r.Output.File == "" {
			end() // what is heard shows how far it is
		}
		p.say("heard %s", clock(s.End))
		return t.Segment(s)
	})
	if err != nil {
		return err
	}
	out.Language, out.Duration, out.Tokens, out.Decision = res.Language, res.Duration, res.Tokens, res.Decision
	return t.End(res)
}

// spoken writes segments for people.
type spoken struct {
	w     io.Writer
	style style
}

func (s *spoken) Segment(seg tasks.Segment) error {
	_, err := fmt.Fprintf(s.w, "%s  %s\n", s.style.dim(clock(seg.Start)+" - "+clock(seg.End)), strings.TrimSpace(seg.Text))
	return err
}

func (s *spoken) End(tasks.TranscribeResult) error { return nil }

// clock is a time in a sound.
func clock(seconds float64) string {
	tenths := int64(seconds*10 + 0.5)
	if hours := tenths / 36000; hours > 0 {
		return fmt.Sprintf("%d:%02d:%02d.%d", hours, tenths/600%60, tenths/10%60, tenths%10)
	}
	return fmt.Sprintf("%d:%02d.%d", tenths/600, tenths/10%60, tenths%10)
}

// tellTranscript says in a line what was done.
func (a *app) tellTranscript(r *config.Run, t *transcript) error {
	if a.json {
		if r.Output.File == "" {
			return nil // the object said it all
		}
		return json.NewEncoder(a.out).Encode(t)
	}
	w := io.Writer(a.screen)
	if r.Output.File != "" {
		w = a.out
	}
	s := styleOf(w, a.environ)
	for _, note := range append(t.Notes, t.Decision.Summary()) {
		if note != "" {
			fmt.Fprintf(w, "%s %s\n", s.warn("note:"), note)
		}
	}
	if r.Output.File != "" {
		fmt.Fprintf(w, "wrote %s\n", r.Output.File)
	}
	language := ""
	if t.Language != "" {
		language = " of " + t.Language
	}
	speed := ""
	if t.Seconds > 0 {
		speed = fmt.Sprintf(", %.1f times as fast as it was said", t.Duration/t.Seconds)
	}
	took := time.Duration(t.Seconds * float64(time.Second))
	fmt.Fprintf(w, "%s on %s: %s%s in %s, start included%s\n", s.bold(t.Model), s.good(fmt.Sprintf("%s (%s)", t.Decision.Chosen.Device, t.Decision.Chosen.Kind)), clock(t.Duration), language, seconds(took), speed)
	return nil
}
