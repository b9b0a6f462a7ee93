package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/bench"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/quantize"
)

func newBench(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure models on this machine",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newBenchPrecision(a))
	return c
}

// measuredPrecisions are those that are measured if none are named.
var measuredPrecisions = []string{"f16", "int8", "int4", "int4-mixed", "int3", "int2"}

func newBenchPrecision(a *app) *cobra.Command {
	var o bench.PrecisionOptions
	var bits []string
	var model, keep, maxLoss string
	var tensors bool
	c := &cobra.Command{
		Use:   "precision --model MODEL",
		Short: "Measure what fewer bits take and cost",
		Long: `Measure what fewer bits take and cost. MODEL, a name from the configuration, a folder, a GGUF file
or hub:ORG/NAME, is quantised to each precision and does the same work as it does as it is stored:

  --text FILE      a model that generates predicts the text (perplexity); one that embeds compares
                   the lines of it (the order in which pairs are alike, Spearman)
  --sounds DIR     a model that transcribes hears DIR/NAME.wav, of which DIR/NAME.txt says what is said
  neither          outputs that are recorded in the model's folder (golden.safetensors) are computed

Bytes are of all weights, scales and embeddings included, against 16 bits. Loss is against the model as it
is stored: by how much perplexity is higher, the rank correlation under 1, how much more words are
wrong, the worst cosine under 1. A model is measured in a backend process of its own, whose memory it is.

The exit status is 1 if a precision could not be had.`,
		Example: `  accel bench precision --model SmolLM2-135M-Instruct.gguf --text novel.txt
  accel bench precision --model ./whisper-base --sounds speech --bits 8,4 --json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&model, "model", "", "`MODEL` to measure")
	f.StringSliceVar(&bits, "bits", measuredPrecisions, "`PRECISIONS`, separated by commas")
	f.StringVar(&o.Platform, "platform", "cpu", "`PLATFORM` or device to measure on")
	f.StringVar(&o.Activations, "activations", "", "what quantised weights are multiplied with: f32 or int8 (default f32)")
	f.Int64Var(&o.Quantize.Block, "block", 0, "`WEIGHTS` that share a scale (default: as the policy says)")
	f.StringVar(&o.Quantize.Method, "method", "", "`METHOD` by which codes are found, see accel quantize")
	f.StringVar(&o.Quantize.Sample, "calibrate", "", "`PATH` of texts, pictures or sounds to calibrate with, see accel quantize")
	f.StringVar(&maxLoss, "max-loss", "", "largest `LOSS` on these with which a model is not refused, such as 1% (default: as the policy says)")
	f.StringVar(&o.Text, "text", "", "`FILE` to predict, or whose lines to compare")
	f.StringVar(&o.Sounds, "sounds", "", "`DIR` of sounds and what is said in them")
	f.IntVar(&o.Tokens, "tokens", 10240, "`TOKENS` of the text that are predicted, from its begin; 0: all")
	f.IntVar(&o.Context, "context", 1024, "`TOKENS` that are predicted from at most")
	f.IntVar(&o.Pairs, "pairs", 500, "`PAIRS` of lines that are compared at least")
	f.StringVar(&keep, "keep", "", "`DIR` to keep the quantised models in")
	f.BoolVar(&tensors, "tensors", false, "show every tensor of every precision too")
	complete(c, "bits", quantize.Precisions()...)
	complete(c, "activations", "f32", "int8")
	complete(c, "method", quantize.Nearest, quantize.Fit, quantize.Calibrated)
	a.completePlatforms(c, "platform")
	if err := c.RegisterFlagCompletionFunc("model", a.completeModels); err != nil {
		panic(err)
	}
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if model == "" {
			return usage("--model is not given")
		}
		if o.Tokens < 0 || o.Context < 1 || o.Pairs < 1 {
			return usage("--tokens %d, --context %d, --pairs %d: want at least 0, 1 and 1", o.Tokens, o.Context, o.Pairs)
		}
		if maxLoss != "" {
			if o.Quantize.MaxLoss, err = percentage(maxLoss); err != nil {
				return usage("--max-loss %s: %w", maxLoss, err)
			}
		}
		for _, name := range bits {
			name, err := quantize.Precision(name)
			if err != nil {
				return err
			}
			if !slices.Contains(o.Precisions, name) {
				o.Precisions = append(o.Precisions, name)
			}
		}
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		cfg, name, err := only(l.Config, model, "")
		if err != nil {
			return err
		}
		o.Model = cfg.Models[name].Path
		if o.Dir = keep; keep == "" {
			if err := os.MkdirAll(cfg.Cache.Dir, 0o755); err != nil {
				return err
			}
			if o.Dir, err = os.MkdirTemp(cfg.Cache.Dir, "bench-"); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
		}
		o.With = func(ctx context.Context, m config.Model, do func(bench.Engine) error) error {
			c := cfg
			c.Models = nil
			if m.Path != "" {
				c.Models = map[string]config.Model{bench.ServedName: m}
			}
			return a.withEngine(ctx, c, func(e engineAPI, _ error) error { return do(e) })
		}
		p := a.progress("measuring " + name)
		o.Progress = func(what string) { p.say("%s", what) }
		var rows []bench.Measured
		err = bench.Precision(c.Context(), o, func(m bench.Measured) { rows = append(rows, m) })
		p.end()
		if err != nil {
			return err
		}
		if a.json {
			err = json.NewEncoder(a.out).Encode(map[string]any{"version": version, "model": o.Model, "platform": o.Platform, "rows": rows})
		} else {
			err = a.printPrecisions(rows, tensors)
		}
		if err == nil && slices.ContainsFunc(rows, func(m bench.Measured) bool { return m.Error != "" }) {
			return errMissed
		}
		return err
	}
	return c
}

func (a *app) printPrecisions(rows []bench.Measured, tensors bool) error {
	s := styleOf(a.out, a.environ)
	first := rows[0]
	t := table{header: []string{"PRECISION", "BITS", "WEIGHTS", "SMALLER", "MEMORY", "LATENCY", "THROUGHPUT", strings.ToUpper(first.Measure), "LOSS", "ACCEPTED"},
		right: []bool{false, true, true, true, true, true, true, true, true, false}}
	within := map[string]bool{}
	for _, m := range rows {
		name, numbers := m.Precision, []string{"-", "-", "-"}
		if name == "" {
			name = "as stored"
		}
		if q := m.Quantized; q != nil {
			numbers = []string{fmt.Sprintf("%.2f", q.Bits), memory(q.Size.Bytes), fmt.Sprintf("%.1f %%", 100*q.Smaller)}
		}
		row := append([]string{name}, numbers...)
		if m.Error != "" {
			t.add(append(row, "-", "-", "-", "-", "-", "not measured")...)
			continue
		}
		row = append(row, unknown(m.Resident > 0, memory(m.Resident)), unknown(m.Latency > 0, seconds(time.Duration(m.Latency*float64(time.Second)))),
			unknown(m.Throughput > 0, fmt.Sprintf("%.1f", m.Throughput)), fmt.Sprintf("%.4g", m.Value), fmt.Sprintf("%+.2f %%", 100**m.Loss))
		accepted := ""
		if m.Accepted != nil {
			accepted = fmt.Sprintf("%.0f %%, %g %%", 100*m.Accepted.Smaller, 100*m.Accepted.Loss)
			if !m.Within() {
				accepted += ": beyond"
			}
			within[accepted] = m.Within()
		}
		t.add(append(row, accepted)...)
	}
	t.paint = func(col int, cell, padded string) string {
		switch ok, judged := within[cell]; {
		case col == 9 && judged && ok:
			return s.good(padded)
		case col == 9 && cell != "":
			return s.bad(padded)
		}
		return padded
	}
	if err := t.write(a.out, s, terminalWidth(a.out)); err != nil {
		return err
	}
	for _, m := range rows {
		if m.Error != "" {
			fmt.Fprintf(a.out, "%s %s: %s\n", s.bad("not measured:"), m.Precision, oneLine(m.Error))
		}
		if m.Quantized == nil || !tensors {
			continue
		}
		fmt.Fprintf(a.out, "\n%s\n", s.bold(m.Precision))
		if err := a.printLayers(*m.Quantized); err != nil {
			return err
		}
	}
	note := fmt.Sprintf("on %s (%s); %s of %d %s", first.Device, first.Kind, first.Measure, first.Count, countedBy[first.Measure])
	if first.Latency > 0 {
		note += fmt.Sprintf("; latency of a %s, throughput in %s", first.LatencyOf, first.Unit)
	}
	fmt.Fprintln(a.out, s.dim(note))
	return nil
}

// countedBy is what a measure counts.
var countedBy = map[string]string{"perplexity": "tokens", "rank correlation": "pairs", "words wrong": "words", "cosine": "outputs"}

func unknown(known bool, text string) string {
	if !known {
		return "-"
	}
	return text
}
