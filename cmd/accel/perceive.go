package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/processors/pixels"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
)

// filesAtATime are looked at in one request, so that progress can be told and memory is
// bounded.
const filesAtATime = 16

// perception is what a run of the tasks classify and detect gives.
type perception struct {
	Model     string           `json:"model"`
	Task      string           `json:"task"`
	Seconds   float64          `json:"seconds"` // the model's start on its device included
	Decisions []route.Decision `json:"decisions"`
	Files     []perceivedFile  `json:"files"`
}

type perceivedFile struct {
	File       string        `json:"file"`
	Labels     []foundLabel  `json:"labels,omitempty"`
	Width      int           `json:"width,omitempty"`
	Height     int           `json:"height,omitempty"`
	Detections []foundThing  `json:"detections,omitempty"`
	Picture    string        `json:"picture,omitempty"` // with what was found drawn on it
	marked     []pixels.Mark // of Detections
}

type foundLabel struct {
	Label string  `json:"label"`
	Index int     `json:"index"`
	Score float32 `json:"score"`
}

type foundThing struct {
	foundLabel
	Box [4]float32 `json:"box"` // left, top, right, bottom, in pixels
}

// perceive looks at files.
func (a *app) perceive(ctx context.Context, l *config.Loaded) error {
	r, cfg := l.Run, l.Config
	names, err := perceivedFiles(r.Inputs)
	if err != nil {
		return err
	}
	var classify tasks.ClassifyRequest
	var detect tasks.DetectRequest
	if err := readRequest(r, &classify, &detect); err != nil {
		return err
	}
	if r.Output.Pictures != "" {
		if err := os.MkdirAll(r.Output.Pictures, 0o755); err != nil {
			return fmt.Errorf("output.pictures: %w", err)
		}
	}
	// The others stay closed.
	cfg.Models = map[string]config.Model{r.Model: cfg.Models[r.Model]}
	return a.withEngine(ctx, cfg, func(e engineAPI, started error) error {
		begin := time.Now()
		out := &perception{Model: r.Model, Task: r.Task}
		if err := a.lookAt(ctx, e, r, names, classify, detect, out); err != nil {
			return errors.Join(err, started)
		}
		out.Seconds = time.Since(begin).Seconds()
		return a.writePerception(r.Output, out)
	})
}

// lookAt looks at files, some at a time.
func (a *app) lookAt(ctx context.Context, e engineAPI, r *config.Run, names []string, c tasks.ClassifyRequest, d tasks.DetectRequest, out *perception) error {
	p := a.progress("placing " + r.Model)
	defer p.end()
	for from := 0; from < len(names); from += filesAtATime {
		part := names[from:min(from+filesAtATime, len(names))]
		files, err := readFiles(r.Inputs, part)
		if err != nil {
			return err
		}
		found, decision, err := look(ctx, e, r, files, c, d)
		if err != nil {
			return inputAt(err, from)
		}
		out.Decisions = addDecision(out.Decisions, decision)
		for i := range found {
			found[i].File = part[i]
			if r.Output.Pictures != "" {
				if err := found[i].draw(r.Output.Pictures, files[i].Data); err != nil {
					return err
				}
			}
		}
		out.Files = append(out.Files, found...)
		p.say("looked at %s of %s files", number(from+len(part)), number(len(names)))
	}
	return nil
}

// perceivedFiles are the files of a run, in the order of their names; of a video, the
// folder of its frames.
func perceivedFiles(in config.Inputs) ([]string, error) {
	if in.Frames != "" {
		return []string{in.Frames}, nil
	}
	info, err := os.Stat(in.File)
	if err != nil {
		return nil, usage("inputs.file: %w", err)
	}
	if !info.IsDir() {
		return []string{in.File}, nil
	}
	entries, err := os.ReadDir(in.File)
	if err != nil {
		return nil, usage("inputs.file: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, filepath.Join(in.File, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, usage("inputs.file: %s holds no files", in.File)
	}
	return names, nil
}

func readFiles(in config.Inputs, names []string) ([]tasks.File, error) {
	files := make([]tasks.File, len(names))
	for i, name := range names {
		if in.Frames != "" {
			files[i].Frames = name
			continue
		}
		data, err := pixels.ReadFile(name, pixels.Limits{Bytes: 1 << 30}) // sounds are long
		if err != nil {
			return nil, usage("inputs.file: %w", err)
		}
		files[i].Data = data
	}
	return files, nil
}

// readRequest reads what a run asks besides.
func readRequest(r *config.Run, c *tasks.ClassifyRequest, d *tasks.DetectRequest) error {
	into := map[string]any{"labels": &c.Labels, "templates": &c.Templates, "top": &c.Top}
	if r.Task == "detect" {
		into = map[string]any{"threshold": &d.Threshold, "max_detections": &d.Most}
	}
	for name, value := range r.Request {
		field, ok := into[name]
		if !ok {
			return usage("request.%s: the task %s has no such field", name, r.Task)
		}
		raw, err := json.Marshal(value)
		if err == nil {
			err = json.Unmarshal(raw, field)
		}
		if err != nil {
			return usage("request.%s: %v is of another kind than it should be", name, value)
		}
	}
	return nil
}

// look has the engine answer for some files.
func look(ctx context.Context, e engineAPI, r *config.Run, files []tasks.File, c tasks.ClassifyRequest, d tasks.DetectRequest) ([]perceivedFile, route.Decision, error) {
	found := make([]perceivedFile, len(files))
	if r.Task == "classify" {
		c.Files = files
		res, err := e.Classify(ctx, r.Model, c)
		if err != nil {
			return nil, res.Decision, err
		}
		for i, list := range res.Labels {
			for _, l := range list {
				found[i].Labels = append(found[i].Labels, foundLabel{l.Name, l.Index, l.Score})
			}
		}
		return found, res.Decision, nil
	}
	d.Files = files
	res, err := e.Detect(ctx, r.Model, d)
	if err != nil {
		return nil, res.Decision, err
	}
	for i, p := range res.Pictures {
		found[i].Height, found[i].Width, found[i].Detections = p.Height, p.Width, []foundThing{}
		for _, t := range p.Things {
			found[i].Detections = append(found[i].Detections, foundThing{foundLabel{t.Name, t.Label, t.Score}, t.Box})
			found[i].marked = append(found[i].marked, pixels.Mark{Box: t.Box, Text: fmt.Sprintf("%s %.2f", t.Name, t.Score), Color: t.Label})
		}
	}
	return found, res.Decision, nil
}

// captions is how many labels are written on a picture.
const captions = 5

// draw writes the picture with what was found. What is no picture, a sound say, has none.
func (f *perceivedFile) draw(dir string, data []byte) error {
	p, err := pixels.Decode(data, pixels.Limits{})
	var no *pixels.DecodeError
	if errors.As(err, &no) {
		return nil // what was found in it stands in the output
	}
	if err != nil {
		return err
	}
	if f.Labels != nil {
		var lines []string
		for _, l := range f.Labels[:min(len(f.Labels), captions)] {
			lines = append(lines, fmt.Sprintf("%s %.2f", l.Label, l.Score))
		}
		p = p.Captioned(lines)
	} else {
		p = p.Marked(f.marked)
	}
	png, err := p.PNG()
	if err != nil {
		return err
	}
	name := filepath.Base(f.File)
	f.Picture = filepath.Join(dir, strings.TrimSuffix(name, filepath.Ext(name))+".png")
	return tensorfile.Create(f.Picture, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(png))
		return err
	})
}

// writePerception writes what was found, and says in a line what was done.
func (a *app) writePerception(o config.Output, p *perception) error {
	final := io.Writer(a.screen)
	if a.json && o.File == "" {
		o.Format = "json"
	}
	switch {
	case o.File != "":
		if err := tensorfile.Create(o.File, func(w io.Writer) error { return p.write(w, o.Format) }); err != nil {
			return fmt.Errorf("output.file: %w", err)
		}
		final = a.out
		if a.json {
			return json.NewEncoder(a.out).Encode(p)
		}
		fmt.Fprintf(final, "wrote %s\n", o.File)
	default:
		if err := p.write(a.out, o.Format); err != nil {
			return err
		}
		if a.json {
			return nil // the object said it all
		}
		if o.Format == "table" {
			final = a.out
			fmt.Fprintln(final)
		}
	}
	s := styleOf(final, a.environ)
	var on []string
	for _, d := range p.Decisions {
		if said := d.Summary(); said != "" {
			fmt.Fprintf(final, "%s %s\n", s.warn("note:"), said)
		}
		on = append(on, fmt.Sprintf("%s (%s)", d.Chosen.Device, d.Chosen.Kind))
	}
	fmt.Fprintf(final, "%s on %s: %s in %s, start included\n", s.bold(p.Model), s.good(strings.Join(on, ", ")), count(len(p.Files), "file"),
		seconds(time.Duration(p.Seconds*float64(time.Second))))
	return nil
}

func (p *perception) write(w io.Writer, format string) error {
	switch format {
	case "json":
		return json.NewEncoder(w).Encode(p)
	case "jsonl":
		for _, f := range p.Files {
			if err := json.NewEncoder(w).Encode(f); err != nil {
				return err
			}
		}
		return nil
	}
	var b bytes.Buffer
	for _, f := range p.Files {
		fmt.Fprintf(&b, "%s\n", f.File)
		for _, l := range f.Labels {
			fmt.Fprintf(&b, "  %.3f  %s\n", l.Score, l.Label)
		}
		for _, d := range f.Detections {
			fmt.Fprintf(&b, "  %.3f  %s  at %.0f, %.0f to %.0f, %.0f\n", d.Score, d.Label, d.Box[0], d.Box[1], d.Box[2], d.Box[3])
		}
		if len(f.Labels)+len(f.Detections) == 0 {
			fmt.Fprintln(&b, "  nothing")
		}
		if f.Picture != "" {
			fmt.Fprintf(&b, "  drawn in %s\n", f.Picture)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// addDecision keeps one of the decisions that went the same way.
func addDecision(list []route.Decision, d route.Decision) []route.Decision {
	if slices.ContainsFunc(list, func(known route.Decision) bool { return known.Chosen == d.Chosen && known.Summary() == d.Summary() }) {
		return list
	}
	return append(list, d)
}
