package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/hub"
	"github.com/accelhq/accel/core/quantize"
)

func newQuantize(a *app) *cobra.Command {
	var o quantize.Options
	var output, maxLoss, maxSize string
	var components map[string]string
	c := &cobra.Command{
		Use:   "quantize MODEL",
		Short: "Store a model's weights with fewer bits",
		Long: `Store a model's weights with fewer bits, in a folder that is used as any other model is. MODEL is
a name from the configuration, a folder, a GGUF file or hub:ORG/NAME.

--bits names a precision: ` + strings.Join(quantize.Precisions(), ", ") + `, or its bits alone, as 8 or 4-mixed.
Without it each component of the model gets what configs/policy/precision.yaml has for its class.
Matrices are stored as codes in blocks with scales in float16; tables that rows are looked up in, too.
Convolutions become float16, vectors stay as they are.

A run that is killed goes on where it was when the same command is given again.`,
		Example: `  accel quantize ./all-MiniLM-L6-v2 --bits 8 --output minilm-int8
  accel quantize hub:org/llava --component see=int8 --component decode=int4`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeModels,
	}
	f := c.Flags()
	f.StringVar(&o.Precision, "bits", "", "`PRECISION` of all components (default: as the policy has it for the class)")
	f.StringToStringVar(&components, "component", nil, "`NAME=PRECISION` of one component; repeatable")
	f.Int64Var(&o.Block, "block", 0, "`WEIGHTS` that share a scale: 32, 64 or 128 (default: as the policy says)")
	f.StringVar(&o.Method, "method", "", "`METHOD` by which codes are found: "+quantize.Nearest+", "+quantize.Fit+" or, with --calibrate, "+quantize.Calibrated)
	f.StringVar(&o.Sample, "calibrate", "", "`PATH` of a file of texts, one a line, or of a folder of pictures or sounds, which layers are calibrated with and the result is held against the model on")
	f.StringVar(&maxLoss, "max-loss", "", "largest `LOSS` of the result, such as 1% (default: as the policy says)")
	f.StringVar(&maxSize, "max-size", "", "`BYTES` that the weights may take, such as 80MiB, which a mixture makes the best of")
	f.StringVarP(&output, "output", "o", "", "`DIR` to write (default MODEL-PRECISION in the current folder)")
	complete(c, "bits", quantize.Precisions()...)
	complete(c, "method", quantize.Nearest, quantize.Fit, quantize.Calibrated)
	c.MarkFlagDirname("output")
	c.RunE = func(c *cobra.Command, args []string) error {
		if o.Precision != "" {
			name, err := quantize.Precision(o.Precision)
			if err != nil {
				return err
			}
			o.Precision = name
		}
		o.Components = components
		if maxLoss != "" {
			var err error
			if o.MaxLoss, err = percentage(maxLoss); err != nil {
				return usage("--max-loss %s: %w", maxLoss, err)
			}
			if o.Sample == "" {
				return usage("--max-loss has nothing to measure a loss with: give --calibrate FILE too")
			}
		}
		if maxSize != "" {
			size, err := config.ParseBytes(maxSize)
			if err != nil || size <= 0 {
				return usage("--max-size %s: want bytes, such as 80MiB", maxSize)
			}
			o.MaxBytes = int64(size)
		}
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		cfg, name, err := only(l.Config, args[0], "")
		if err != nil {
			return err
		}
		path := cfg.Models[name].Path
		cfg.Models = nil
		if output == "" {
			output = defaultOutput(path, o.Precision)
		}
		with := a.withUnstarted
		if o.Sample != "" {
			with = func(ctx context.Context, cfg config.Config, do func(engineAPI) error) error {
				return a.withEngine(ctx, cfg, func(e engineAPI, _ error) error { return do(e) })
			}
		}
		return with(c.Context(), cfg, func(e engineAPI) error {
			p := a.progress("quantising " + name)
			o.Progress = func(now quantize.Progress) {
				p.say("%s: %s, %d %%, %s", name, now.Stage, 100*now.Done/max(now.Total, 1), now.Name)
			}
			r, err := e.Quantize(c.Context(), path, output, o)
			p.end()
			var past *quantize.LossError
			if errors.As(err, &past) { // what was tried is worth a look
				return errors.Join(a.tellQuantized(r, past), err)
			}
			if err != nil {
				return err
			}
			return a.tellQuantized(r, nil)
		})
	}
	return c
}

// percentage reads 1% or 0.01 as a part.
func percentage(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v > 0 && v < 100) {
		return 0, errors.New("want a part above 0, such as 1% or 0.01")
	}
	return v, nil
}

// defaultOutput is a folder beside where the user is, called as the model and its precision.
func defaultOutput(path, precision string) string {
	base := filepath.Base(filepath.Clean(strings.TrimPrefix(path, hub.Scheme)))
	base, _, _ = strings.Cut(base, ":")
	base = strings.TrimSuffix(base, ".gguf")
	if precision == "" {
		precision = "quantized"
	}
	return base + "-" + precision
}

// tellQuantized prints what was made; past says why it is refused, or is nil.
func (a *app) tellQuantized(r quantize.Report, past *quantize.LossError) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(r)
	}
	s := styleOf(a.out, a.environ)
	if err := a.printLayers(r); err != nil {
		return err
	}
	if len(r.Sensitivity) > 0 {
		parts := table{header: []string{"PART", "LOSS ALONE"}, right: []bool{false, true}}
		for _, p := range r.Sensitivity {
			parts.add(p.Part, fmt.Sprintf("%.4f %%", 100*p.Loss))
		}
		fmt.Fprintln(a.out)
		if err := parts.write(a.out, s, terminalWidth(a.out)); err != nil {
			return err
		}
		fmt.Fprintln(a.out)
	}
	for _, l := range r.Layers {
		if l.Why != "" {
			fmt.Fprintf(a.out, "%s %s is %s: %s\n", s.warn("note:"), oneLine(l.Name), l.Format, l.Why)
		}
	}
	if len(r.Left) > 0 {
		fmt.Fprintf(a.out, "%s left out, as nothing reads them: %s\n", s.warn("note:"), oneLine(strings.Join(r.Left, ", ")))
	}
	fmt.Fprintf(a.out, "%s: %s, %.2f bits a weight, %.1f %% smaller than 16 bits (%s)\n", s.bold(r.Dir), memory(r.Size.Bytes), r.Bits, 100*r.Smaller, seconds(time.Duration(r.Seconds*float64(time.Second))))
	if l := r.Loss; l != nil && l.Perplexity > 0 {
		fmt.Fprintf(a.out, "loss %.2f %%: KL divergence %.5f nats a token, perplexity %.3f, the model's %.3f, %s\n", 100*l.Loss, l.KL, l.Perplexity, l.Reference, count(l.Count, "token"))
	} else if l != nil {
		fmt.Fprintf(a.out, "loss %.3f %%: mean cosine %.6f, %s\n", 100*l.Loss, l.Cosine, count(l.Count, "output"))
	}
	if past == nil {
		fmt.Fprintf(a.out, "use it: %s\n", s.good("accel inspect "+r.Dir))
	}
	return nil
}

// printLayers prints what was made of every matrix.
func (a *app) printLayers(r quantize.Report) error {
	s := styleOf(a.out, a.environ)
	t := table{header: []string{"TENSOR", "ROLE", "FORMAT", "BLOCK", "BITS", "BYTES", "ERROR"}, right: []bool{false, false, false, true, true, true, true}}
	for _, l := range r.Layers {
		if len(l.Components) == 0 {
			continue
		}
		block, off := "-", "-"
		if l.Block > 0 {
			block, off = fmt.Sprint(l.Block), fmt.Sprintf("%.2f %%", 100*l.Error)
		}
		t.add(l.Name, l.Role, l.Format, block, fmt.Sprintf("%.2f", l.Bits), memory(l.Bytes), off)
	}
	return t.write(a.out, s, terminalWidth(a.out))
}
