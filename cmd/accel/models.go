package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/hub"
)

func newModels(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "models",
		Short: "List or remove models that were pulled",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newModelsList(a), newModelsRemove(a))
	return c
}

func newModelsList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the models in the hub's cache, those that Python pulled included",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := a.load("", nil)
			if err != nil {
				return err
			}
			list, err := engine.OpenHub(l.Config.Hub).List()
			if err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(map[string]any{"cache": l.Config.Hub.Cache, "models": orEmpty(list)})
			}
			if len(list) == 0 {
				_, err := fmt.Fprintf(a.out, "There is no model in %s; `accel pull ORG/NAME` fetches one.\n", l.Config.Hub.Cache)
				return err
			}
			return a.printModels(list)
		},
	}
}

func (a *app) printModels(list []hub.Cached) error {
	s := styleOf(a.out, a.environ)
	t := table{header: []string{"MODEL", "REVISION", "CLASS", "FILES", "SIZE", "LAST USED"}, right: []bool{3: true, 4: true}}
	told := map[string]bool{}
	var unfinished []string
	for _, m := range list {
		revision := strings.Join(m.Revisions, ", ")
		if revision == "" && m.Commit != "" {
			revision = m.Commit[:12]
		}
		used := "-"
		if !m.LastUsed.IsZero() {
			used = ago(time.Since(m.LastUsed))
		}
		t.add(m.Repo, dash(revision), dash(m.Class), fmt.Sprint(m.Files), memory(m.Bytes), used)
		if m.Unfinished > 0 && !told[m.Repo] {
			told[m.Repo] = true
			unfinished = append(unfinished, fmt.Sprintf("%s of %s are of a pull that has not ended; `accel pull %s` goes on", memory(m.Unfinished), m.Repo, m.Repo))
		}
	}
	if err := t.write(a.out, s, terminalWidth(a.out)); err != nil {
		return err
	}
	for _, u := range unfinished {
		fmt.Fprintf(a.out, "%s %s\n", s.warn("note:"), u)
	}
	return nil
}

// ago is how long something is past, in the unit that people say.
func ago(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if d >= u.size {
			return count(int(d/u.size), u.name) + " ago"
		}
	}
	return "now"
}

func newModelsRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm ORG/NAME[@REVISION]",
		Short: "Remove a model from the hub's cache",
		Long: `Remove a model from the hub's cache: all of it, or one revision with the files that no other
needs. It asks nothing; a model that is being pulled stays.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completePulled,
		RunE: func(_ *cobra.Command, args []string) error {
			ref, err := hub.ParseRef(args[0])
			if err != nil {
				return err
			}
			if ref.Variant != "" {
				return usage("%s: a revision is removed whole; leave %q out", args[0], ":"+ref.Variant)
			}
			l, err := a.load("", nil)
			if err != nil {
				return err
			}
			gone, err := engine.OpenHub(l.Config.Hub).Remove(ref, !strings.Contains(args[0], "@"))
			if err != nil {
				return err
			}
			if a.json {
				return json.NewEncoder(a.out).Encode(gone)
			}
			freed := "nothing was freed"
			if gone.Freed > 0 {
				freed = memory(gone.Freed) + " freed"
			}
			fmt.Fprintf(a.out, "removed %s: %s, %s\n", ref, count(len(gone.Revisions), "revision"), freed)
			if gone.Linked > 0 {
				fmt.Fprintf(a.out, "%s %s stay on disk: lowered models hold links to them until the cache evicts those (cache.max_bytes)\n", styleOf(a.out, a.environ).warn("note:"), memory(gone.Linked))
			}
			return nil
		},
	}
}
