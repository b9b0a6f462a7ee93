package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/checkpoint"
	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hub"
	"github.com/accelhq/accel/core/models"
)

func newPull(a *app) *cobra.Command {
	var o hub.PullOptions
	c := &cobra.Command{
		Use:   "pull ORG/NAME[@REVISION][:VARIANT]",
		Short: "Fetch a model from the Hugging Face hub, or a mirror of it",
		Long: `Fetch a model from the Hugging Face hub, or a mirror of it, into the cache that Python's
huggingface_hub uses, too. What is there already is not fetched again, and what broke off goes on
where it was. Every file's hash is checked.

Taken is all that Accel reads, and nothing twice: configuration and tokenizer with the
safetensors; where there are none a GGUF file, or an ONNX file with its data. Of several
GGUF files VARIANT names one, such as Q4_K_M. Pickled weights are not taken: they can run code.

The model is then known as hub:ORG/NAME wherever a model's path is. Gated and private models need
a token: $HF_TOKEN or hub.token. Mirrors: hub.endpoints or $HF_ENDPOINT.`,
		Example: `  accel pull HuggingFaceTB/SmolLM2-135M-Instruct
  accel pull unsloth/SmolLM2-135M-Instruct-GGUF:Q4_K_M
  accel pull org/model@refs/pr/1 --file '*.json' --file model.safetensors`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePulled,
	}
	f := c.Flags()
	f.StringArrayVar(&o.Files, "file", nil, "fetch the files that fit `PATTERN`, such as '*Q4_K_M.gguf', and no others; repeatable")
	f.BoolVar(&o.All, "all", false, "fetch all files")
	complete(c, "file")
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, err := hub.ParseRef(args[0])
		if err != nil {
			return err
		}
		if o.All && len(o.Files) > 0 {
			return usage("--all and --file exclude one another")
		}
		l, err := a.load("", nil)
		if err != nil {
			return err
		}
		p := a.progress("asking for " + ref.String())
		rate := meter{begin: time.Now()}
		var notes []string
		o.Progress = func(now hub.Progress) {
			p.say("pulling %s: %d of %s, %s of %s, %s/s", ref, now.Done, count(now.Files, "file"), memory(now.Bytes), memory(now.Total), memory(rate.at(now.Bytes)))
		}
		o.Note = func(note string) {
			notes = append(notes, note)
			if !a.json {
				fmt.Fprintf(a.screen, "%s %s\n", styleOf(a.err, a.environ).warn("note:"), oneLine(note))
			}
		}
		s, err := engine.OpenHub(l.Config.Hub).Pull(c.Context(), ref, o)
		p.end()
		if err != nil {
			return err
		}
		return a.tellPulled(s, notes, time.Since(rate.begin))
	}
	return c
}

// meter measures bytes a second over the last seconds.
type meter struct {
	begin  time.Time
	points []point
}

type point struct {
	at    time.Time
	bytes int64
}

func (m *meter) at(bytes int64) int64 {
	now := time.Now()
	if n := len(m.points); n == 0 || now.Sub(m.points[n-1].at) > 200*time.Millisecond {
		m.points = append(m.points, point{now, bytes})
	}
	for len(m.points) > 2 && now.Sub(m.points[0].at) > 5*time.Second {
		m.points = m.points[1:]
	}
	took := now.Sub(m.points[0].at).Seconds()
	if took < 0.1 {
		return 0
	}
	return int64(float64(bytes-m.points[0].bytes) / took)
}

// pulledModel is a model as `accel pull --json` prints it.
type pulledModel struct {
	Model    string   `json:"model"`
	Revision string   `json:"revision"`
	Commit   string   `json:"commit"`
	Path     string   `json:"path"` // as commands take it
	File     string   `json:"file"` // where that leads
	Files    int      `json:"files"`
	Bytes    int64    `json:"bytes"`
	Loaded   int64    `json:"loaded"` // now, over the network
	Seconds  float64  `json:"seconds"`
	Notes    []string `json:"notes,omitempty"`
	Use      string   `json:"use,omitempty"` // a command
}

func (a *app) tellPulled(s hub.Snapshot, notes []string, took time.Duration) error {
	path := hub.Scheme + s.Ref.String()
	use, note := howToUse(s, path)
	if a.json {
		return json.NewEncoder(a.out).Encode(pulledModel{Model: s.Ref.Repo, Revision: s.Ref.Revision, Commit: s.Commit, Path: path, File: s.Path,
			Files: s.Files, Bytes: s.Bytes, Loaded: s.Loaded, Seconds: took.Seconds(), Notes: notes, Use: use})
	}
	style := styleOf(a.out, a.environ)
	loaded := "all of it was there"
	if s.Loaded > 0 {
		loaded = fmt.Sprintf("%s loaded in %s", memory(s.Loaded), seconds(took))
	}
	fmt.Fprintf(a.out, "%s is in %s: %s, %s (%s)\n", style.bold(s.Ref.String()), s.Path, count(s.Files, "file"), memory(s.Bytes), loaded)
	if note != "" {
		fmt.Fprintf(a.out, "%s %s\n", style.warn("note:"), note)
	}
	if use != "" {
		fmt.Fprintf(a.out, "use it: %s\n", style.good(use))
	}
	return nil
}

// howToUse is a command that uses a pulled model, and what speaks against that.
func howToUse(s hub.Snapshot, path string) (use, note string) {
	name := s.Ref.Repo[strings.LastIndexByte(s.Ref.Repo, '/')+1:]
	switch filepath.Ext(s.Path) {
	case ".gguf":
		return "accel chat " + path, ""
	case ".onnx":
		return "accel inspect " + path, ""
	}
	data, err := os.ReadFile(filepath.Join(s.Path, "config.json"))
	if err != nil {
		return "", "" // files that were picked by hand
	}
	cfg, err := checkpoint.ParseConfig("config.json", data)
	if err != nil {
		return "", err.Error()
	}
	f := cfg.Fields()
	if _, err := models.Lookup(f.StringOr("model_type", "")); err != nil {
		return "", "Accel does not run it: " + err.Error()
	}
	if slices.ContainsFunc(f.Strings("architectures"), func(a string) bool { return strings.HasSuffix(a, "ForCausalLM") }) {
		return "accel chat " + path, ""
	}
	return fmt.Sprintf("accel serve --model %s=%s", name, path), ""
}

// pulled are the names of the models in the hub's cache.
func pulled(c config.Hub) []string {
	list, err := engine.OpenHub(c).List()
	if err != nil {
		return nil // completion says nothing of errors
	}
	var out []string
	for _, m := range list {
		if m.Commit != "" && !slices.Contains(out, m.Repo) {
			out = append(out, m.Repo)
		}
	}
	return out
}

// completePulled completes an argument with the models in the hub's cache.
func (a *app) completePulled(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	l, err := a.load("", nil)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return pulled(l.Config.Hub), cobra.ShellCompDirectiveNoFileComp
}
