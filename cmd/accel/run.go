package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/route"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/core/tensorfile"
)

func newRun(a *app) *cobra.Command {
	o := runFlags{}
	c := &cobra.Command{
		Use:   "run MODEL|FILE.yaml",
		Short: "Run a model on tensors, or what a file describes",
		Long: `Run a model on tensors, or what a file describes.

MODEL is an .onnx file, a model's folder, hub:ORG/NAME, or a name of the configuration. Each of its inputs is
read from a file (.npy, .npz, .pb, .json), given as values, or made up. An input must have the
type and shape that the model declares; nothing is converted unless --cast is given. Its outputs
are summed up on the terminal, and written where --output says.

FILE.yaml (or .json) describes a run: a task, a model, inputs and where the outputs go, beside any
section of the configuration. configs/demo.yaml is one; ` + "`accel config schema --run`" + ` describes them
all. Flags go over what it says.

The task generate answers each line of a file (JSON lines with prompt or messages, and any field
of the HTTP API; OpenAI's batch form, too) with a line: many at a time, in the order of the input.
A line that can't be answered gets an error, and the exit status is 1 then. --resume goes on with
a file that has some of the answers.

The task transcribe writes what is said in a sound (WAV, FLAC, MP3, Ogg), of any length, as it is
heard: with times for people, or as text, srt, vtt, json or verbose_json.

The tasks classify and detect look at pictures (PNG, JPEG, WebP, GIF, BMP), videos (animated GIF or
PNG, or a folder of frames) and sounds: those of a file or of a folder. --pictures draws what was found.`,
		Example: `  accel run model.onnx --input ids=ids.npy --input mask='[[1, 1, 0]]'
  accel run model.onnx --inputs batch.npz --output out.npz --platform cpu
  accel run model.onnx --generate random --dim batch=8 --repeat 50
  accel run model.onnx --generate random:7 --record test_data_set_0
  accel run configs/demo.yaml --platform simulation --json
  accel run smol.gguf --task generate --inputs prompts.jsonl --output answers.jsonl --resume
  accel run whisper-base --task transcribe --inputs talk.mp3 --format srt --output talk.srt
  accel run detr-resnet-50 --task detect --inputs street.jpg --pictures found
  accel run clip-vit-base-patch32 --task classify --inputs street.jpg --label 'a street' --label 'a beach'`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"onnx", "yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	o.add(a, c)
	c.RunE = func(c *cobra.Command, args []string) error {
		flags, err := o.flags(c)
		if err != nil {
			return err
		}
		file := args[0]
		if isRunFile(file) {
			if a.json {
				flags = append(flags, config.Flag{Name: jsonFlag, Key: []string{"output", "format"}, Value: "json"})
			}
		} else {
			file = ""
			flags = append(flags, config.Flag{Name: "MODEL", Key: []string{"task"}, Value: "infer"},
				config.Flag{Name: "MODEL", Key: []string{"model"}, Value: args[0]})
		}
		flags = append(flags, flagValue(c, "task", o.task, "task")...)
		l, err := a.loadRun(file, append(flags, flagValue(c, "format", o.format, "output", "format")...))
		if err != nil {
			return err
		}
		switch l.Run.Task {
		case "infer":
			return a.infer(c.Context(), l)
		case "generate":
			return a.generate(c.Context(), l)
		case "classify", "detect":
			return a.perceive(c.Context(), l)
		case "transcribe":
			return a.transcribe(c.Context(), l)
		}
		return a.run(c.Context(), l)
	}
	return c
}

const jsonFlag = "--json"

// inputsAtATime are embedded in one request, so that progress can be told.
const inputsAtATime = 128

func (a *app) run(ctx context.Context, l *config.Loaded) error {
	texts, err := readInputs(l.Run.Inputs)
	if err != nil {
		return err
	}
	if l.Run.Output.Format == "npy" && l.Run.Output.File == "" && terminalWidth(a.out) > 0 {
		return usage("npy is not for terminals; name a file with --output")
	}
	cfg := l.Config
	// The others stay closed.
	cfg.Models = map[string]config.Model{l.Run.Model: cfg.Models[l.Run.Model]}
	return a.withEngine(ctx, cfg, func(e engineAPI, started error) error {
		begin := time.Now()
		res, err := a.embed(ctx, e, l.Run, texts)
		if err != nil {
			return errors.Join(err, started)
		}
		res.Seconds = time.Since(begin).Seconds()
		return a.writeRun(l.Run.Output, res)
	})
}

// embedding is what a run of the task gives.
type embedding struct {
	Model     string           `json:"model"`
	Task      string           `json:"task"`
	Inputs    int              `json:"inputs"`
	Tokens    int              `json:"tokens"`
	Truncated []int            `json:"truncated,omitempty"` // tokens cut, by input
	Seconds   float64          `json:"seconds"`             // the model's start on its device included
	Decisions []route.Decision `json:"decisions"`           // one for each way a request went
	texts     []string
	vectors   [][]float32
}

func (a *app) embed(ctx context.Context, e engineAPI, r *config.Run, texts []string) (*embedding, error) {
	p := a.progress("placing " + r.Model)
	defer p.end()
	out := &embedding{Model: r.Model, Task: r.Task, Inputs: len(texts), texts: texts}
	for begin := 0; begin < len(texts); begin += inputsAtATime {
		part := texts[begin:min(begin+inputsAtATime, len(texts))]
		res, err := e.Embed(ctx, r.Model, tasks.EmbedRequest{Texts: part, Truncate: r.Inputs.Truncate})
		if err != nil {
			return nil, inputAt(err, begin)
		}
		out.vectors = append(out.vectors, res.Vectors...)
		out.Tokens += res.Tokens
		if res.Truncated != nil && out.Truncated == nil {
			out.Truncated = make([]int, begin, len(texts))
		}
		if out.Truncated != nil {
			cut := res.Truncated
			if cut == nil {
				cut = make([]int, len(part))
			}
			out.Truncated = append(out.Truncated, cut...)
		}
		out.Decisions = addDecision(out.Decisions, res.Decision)
		p.say("embedding %s of %s inputs", number(begin+len(part)), number(len(texts)))
	}
	return out, nil
}

// inputAt makes an error count inputs from the first of the run.
func inputAt(err error, begin int) error {
	var long *tasks.InputTooLongError
	var bad *tasks.InvalidInputError
	switch {
	case errors.As(err, &long):
		long.Input += begin
	case errors.As(err, &bad) && bad.Input >= 0:
		bad.Input += begin
	}
	return err
}

// readInputs returns a run's texts.
func readInputs(in config.Inputs) ([]string, error) {
	if in.File == "" {
		return in.Texts, nil
	}
	f, err := os.Open(in.File)
	if err != nil {
		return nil, usage("inputs.file: %w", err)
	}
	defer f.Close()
	const longest = 16 << 20
	var texts []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, longest)
	for n := 1; lines.Scan(); n++ {
		if !utf8.Valid(lines.Bytes()) {
			return nil, usage("inputs.file: %s:%d is not valid UTF-8; convert the file", in.File, n)
		}
		if len(lines.Bytes()) > 0 {
			texts = append(texts, lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, usage("inputs.file: %s: %w; a line holds at most %d bytes", in.File, err, longest)
	}
	if len(texts) == 0 {
		return nil, usage("inputs.file: %s holds no text; put one into it, a line each", in.File)
	}
	return texts, nil
}

// writeRun writes the outputs to their file, or to standard output, and then says
// in a line what was done: after a table below it, else on standard error.
func (a *app) writeRun(o config.Output, e *embedding) error {
	final := io.Writer(a.screen)
	if o.File != "" {
		err := tensorfile.Create(o.File, func(w io.Writer) error { return a.format(w, o, e, 0) })
		if err != nil {
			return fmt.Errorf("output.file: %w", err)
		}
		final = a.out
	} else {
		if err := a.format(a.out, o, e, terminalWidth(a.out)); err != nil {
			return err
		}
		if o.Format == "table" {
			final = a.out
		}
	}
	if a.json {
		if o.File == "" {
			return nil // the object said it all
		}
		return json.NewEncoder(a.out).Encode(e)
	}
	s := styleOf(final, a.environ)
	if o.Format == "table" && o.File == "" {
		fmt.Fprintln(final)
	}
	for _, d := range e.Decisions {
		if said := d.Summary(); said != "" {
			fmt.Fprintf(final, "%s %s\n", s.warn("note:"), said)
		}
	}
	cut := 0
	for _, n := range e.Truncated {
		cut += n
	}
	if cut > 0 {
		fmt.Fprintf(final, "%s %s were cut from inputs longer than the model takes\n", s.warn("note:"), count(cut, "token"))
	}
	if o.File != "" {
		fmt.Fprintf(final, "wrote %s\n", o.File)
	}
	on := ""
	for i, d := range e.Decisions {
		if i > 0 {
			on += ", "
		}
		on += fmt.Sprintf("%s (%s)", d.Chosen.Device, d.Chosen.Kind)
	}
	took := time.Duration(e.Seconds * float64(time.Second))
	fmt.Fprintf(final, "%s on %s: %s, %s in %s, start included\n", s.bold(e.Model), s.good(on), count(e.Inputs, "sentence"), count(e.Tokens, "token"), seconds(took))
	return nil
}
