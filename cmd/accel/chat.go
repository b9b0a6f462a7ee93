package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/tasks"
)

type chatFlags struct {
	platform, system  string
	temperature, topP float64
	maxTokens         int
	seed              int64
	stats             bool
}

func newChat(a *app) *cobra.Command {
	var o chatFlags
	c := &cobra.Command{
		Use:   "chat MODEL [MESSAGE]",
		Short: "Talk with a model",
		Long: `Talk with a model. MODEL is a name of the configuration, or the path of a model's folder or
.gguf file. With MESSAGE, or where the input is no terminal (its lines are the messages), the
answers alone are printed. With --json each answer is an object on a line.`,
		Example:           "  accel chat ./SmolLM2-135M-Instruct.gguf\n  accel chat smol 'What is the capital of France?' --temperature 0",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeModels,
	}
	f := c.Flags()
	f.StringVar(&o.platform, "platform", "", "preferred `PLATFORM` or device")
	f.StringVar(&o.system, "system", "", "`TEXT` that tells the model how to behave")
	f.Float64Var(&o.temperature, "temperature", 0.7, "`NUMBER` from 0 (always the likeliest) to 2")
	f.Float64Var(&o.topP, "top-p", 0.95, "`PART` of the probability that is drawn from")
	f.IntVar(&o.maxTokens, "max-tokens", 0, "most `TOKENS` of an answer (default: as many as there is room for)")
	f.Int64Var(&o.seed, "seed", 0, "`NUMBER` that makes answers repeatable (default: another each time)")
	f.BoolVar(&o.stats, "stats", false, "print counts and speed after each answer")
	a.completePlatforms(c, "platform")
	complete(c, "system")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !c.Flags().Changed("seed") {
			o.seed = rand.Int64()
		}
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		cfg, name, err := only(l.Config, args[0], o.platform)
		if err != nil {
			return err
		}
		return a.withEngine(c.Context(), cfg, func(e engineAPI, started error) error {
			t := &talk{a: a, e: e, model: name, o: o}
			if o.system != "" {
				t.messages = append(t.messages, processors.Message{Role: "system", Content: processors.TextContent(o.system)})
			}
			if len(args) > 1 {
				return errors.Join(t.say(c.Context(), args[1]), started)
			}
			return t.listen(c.Context())
		})
	}
	return c
}

// talk is a conversation.
type talk struct {
	a        *app
	e        engineAPI
	model    string
	o        chatFlags
	messages []processors.Message
	turns    uint64
}

// listen answers line by line until the input ends.
func (t *talk) listen(ctx context.Context) error {
	style, terminal := styleOf(t.a.out, t.a.environ), terminalWidth(t.a.out) > 0
	lines := bufio.NewScanner(t.a.in)
	lines.Buffer(nil, 1<<24)
	if terminal && !t.a.json {
		fmt.Fprintf(t.a.out, "%s; end with ctrl-D, /new begins anew\n", style.bold(t.model))
	}
	for {
		if terminal && !t.a.json {
			fmt.Fprint(t.a.out, style.bold("> "))
		}
		if !lines.Scan() {
			if terminal && !t.a.json {
				fmt.Fprintln(t.a.out)
			}
			return lines.Err()
		}
		switch text := strings.TrimSpace(lines.Text()); text {
		case "":
		case "/new":
			keep := 0
			if t.o.system != "" {
				keep = 1
			}
			t.messages = t.messages[:keep]
		default:
			if err := t.say(ctx, text); err != nil {
				return err
			}
		}
	}
}

// chatAnswer is an answer as --json prints it.
type chatAnswer struct {
	Model            string  `json:"model"`
	Text             string  `json:"text"`
	Finish           string  `json:"finish_reason"`
	PromptTokens     int     `json:"prompt_tokens"`
	CachedTokens     int     `json:"cached_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	FirstTokenMS     float64 `json:"first_token_ms"`
	TokensPerSecond  float64 `json:"tokens_per_second,omitempty"` // after the first
	Platform         string  `json:"platform"`
	Kind             string  `json:"kind"`
	Fallback         string  `json:"fallback,omitempty"`
}

// say answers one message.
func (t *talk) say(ctx context.Context, text string) error {
	t.messages = append(t.messages, processors.Message{Role: "user", Content: processors.TextContent(text)})
	p := t.a.progress("placing " + t.model)
	req := tasks.GenerateRequest{Messages: t.messages, MaxTokens: t.o.maxTokens}
	req.Sampling.Temperature, req.Sampling.TopP, req.Sampling.Seed = t.o.temperature, t.o.topP, uint64(t.o.seed)+t.turns
	t.turns++
	begun := time.Now()
	var first time.Time
	var all strings.Builder
	out := chatAnswer{Model: t.model}
	res, err := t.e.Generate(ctx, t.model, req, func(e tasks.GenerateEvent) error {
		if first.IsZero() {
			first = time.Now()
			p.end()
		}
		all.WriteString(e.Text)
		if e.Finish != "" {
			out.Finish = e.Finish
		}
		if t.a.json {
			return nil
		}
		_, err := fmt.Fprint(t.a.out, e.Text)
		return err
	})
	if first.IsZero() {
		p.end()
	}
	if err != nil {
		return err
	}
	out.Text = all.String()
	t.messages = append(t.messages, processors.Message{Role: "assistant", Content: processors.TextContent(out.Text)})
	out.PromptTokens, out.CachedTokens, out.CompletionTokens = res.PromptTokens, res.CachedTokens, res.CompletionTokens
	out.FirstTokenMS = float64(first.Sub(begun).Microseconds()) / 1000
	if took := time.Since(first).Seconds(); res.CompletionTokens > 1 && took > 0 {
		out.TokensPerSecond = float64(res.CompletionTokens-1) / took
	}
	d := &res.Decision
	out.Platform, out.Kind = d.Chosen.Platform, string(d.Chosen.Kind)
	if d.Fallback() {
		out.Fallback = d.Summary()
	}
	if t.a.json {
		return json.NewEncoder(t.a.out).Encode(out)
	}
	fmt.Fprintln(t.a.out)
	style := styleOf(t.a.err, t.a.environ)
	switch {
	case out.Finish == tasks.FinishLength:
		fmt.Fprintln(t.a.err, style.dim("(cut off: there is no room for more)"))
	case out.Fallback != "":
		fmt.Fprintln(t.a.err, style.dim("("+out.Fallback+")"))
	}
	if t.o.stats {
		fmt.Fprintln(t.a.err, style.dim(fmt.Sprintf("(%d tokens of prompt, %d of them cached; %d generated; first after %.0f ms, then %.1f tokens/s on %s, %s)",
			out.PromptTokens, out.CachedTokens, out.CompletionTokens, out.FirstTokenMS, out.TokensPerSecond, d.Chosen.Device, out.Kind)))
	}
	return nil
}
