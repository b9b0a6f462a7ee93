package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/hosts"
	"github.com/accelhq/accel/core/models"
	"github.com/accelhq/accel/core/verify"
	"github.com/accelhq/accel/sdk/backend"
)

// classRow is a model type as `accel classes --json` prints it.
type classRow struct {
	Class      string        `json:"class"`
	ModelType  string        `json:"model_type"`
	Components []string      `json:"components"` // of the models that were verified
	Tasks      []string      `json:"tasks"`
	Devices    []measuredRow `json:"devices"`
}

// measuredRow is what was measured of a model type on a device: a record for each model.
type measuredRow struct {
	Device  string          `json:"device"`
	Here    bool            `json:"here"`           // the machine has the device now
	Kind    backend.Kind    `json:"kind,omitempty"` // of the device that is here
	Records []verify.Record `json:"records"`        // none: not measured
}

func newClasses(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "classes [CLASS...]",
		Short: "List the classes of models, and what was measured of them on which device",
		Long: `List the classes of models, and what was measured of them on which device. A CLASS is the name of
a class or a model_type. Measured is what accel verify kept in the cache folder: where several models
of a type were verified on a device, the one that came out worst is shown. Components and tasks are
those of the models that were verified. Nothing is said of what was not.`,
		Example: "  accel verify testdata/tiny/* --platform cpu\n  accel classes",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return classNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			known := classNames()
			for _, name := range args {
				if slices.Contains(known, name) {
					continue
				}
				e := &notFoundError{fmt.Sprintf("there is no class and no model_type %q", name), "there are: " + strings.Join(known, ", ")}
				if near := config.Nearest(name, known); near != "" {
					e.remedy = fmt.Sprintf("did you mean %q?", near)
				}
				return e
			}
			l, err := a.load("", nil)
			if err != nil {
				return err
			}
			records, err := verify.RecordsIn(l.Config.Cache.Dir).All()
			if err != nil {
				return err
			}
			return a.withMachine(c.Context(), func(_ []hosts.BackendStatus, devices []hosts.DeviceStatus) error {
				rows := classRows(args, records, devices)
				if a.json {
					return json.NewEncoder(a.out).Encode(map[string]any{"version": version, "classes": rows})
				}
				return a.printClasses(rows)
			})
		},
	}
}

// classNames are the names of classes and model types, sorted.
func classNames() []string {
	var names []string
	for _, c := range models.Classes() {
		names = append(names, c.Name, c.ModelType)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// classRows lists model types by class; none named: all. Devices are those of this machine, and
// those of records.
func classRows(named []string, records []verify.Record, machine []hosts.DeviceStatus) []classRow {
	var rows []classRow
	for _, c := range models.Classes() {
		if len(named) > 0 && !slices.Contains(named, c.Name) && !slices.Contains(named, c.ModelType) {
			continue
		}
		row := classRow{Class: c.Name, ModelType: c.ModelType, Components: []string{}, Tasks: []string{}}
		at := map[string]int{}
		for _, d := range machine {
			if d.Health == backend.Undetected {
				continue // it is not here
			}
			at[d.Ref] = len(row.Devices)
			row.Devices = append(row.Devices, measuredRow{Device: d.Ref, Here: true, Kind: d.Kind, Records: []verify.Record{}})
		}
		for _, r := range records {
			if r.ModelType != c.ModelType {
				continue
			}
			row.Components, row.Tasks = union(row.Components, r.Components), union(row.Tasks, r.Tasks)
			i, ok := at[r.Device]
			if !ok {
				i, at[r.Device] = len(row.Devices), len(row.Devices)
				row.Devices = append(row.Devices, measuredRow{Device: r.Device})
			}
			row.Devices[i].Records = append(row.Devices[i].Records, r)
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b classRow) int { return strings.Compare(a.Class, b.Class) })
	return rows
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

const notMeasured = "not measured"

func (a *app) printClasses(rows []classRow) error {
	s := styleOf(a.out, a.environ)
	t := table{header: []string{"CLASS", "MODEL TYPE", "TASKS", "COMPONENTS", "DEVICE", "MEASURED"}}
	t.paint = func(col int, cell, padded string) string {
		switch {
		case col != 5:
		case cell == notMeasured:
			return s.dim(padded)
		case strings.HasPrefix(cell, "ok"):
			return s.good(padded)
		default:
			return s.bad(padded)
		}
		return padded
	}
	for _, r := range rows {
		cells := []string{r.Class, r.ModelType, dash(strings.Join(r.Tasks, ", ")), dash(strings.Join(r.Components, ", "))}
		if !slices.ContainsFunc(r.Devices, func(m measuredRow) bool { return len(m.Records) > 0 }) {
			t.add(append(cells, "-", notMeasured)...)
			continue
		}
		for _, m := range r.Devices {
			t.add(append(cells, m.Device, m.measured())...)
			cells = []string{"", "", "", ""}
		}
	}
	return t.write(a.out, s, terminalWidth(a.out))
}

// measured says what was measured on a device: the worst of this program's results, or of another's
// where it has none.
func (m measuredRow) measured() string {
	own := slices.DeleteFunc(slices.Clone(m.Records), func(r verify.Record) bool { return r.Version != version })
	others := len(m.Records) - len(own)
	if len(own) == 0 {
		own, others = m.Records, 0
	}
	if len(own) == 0 {
		return notMeasured
	}
	r := slices.MaxFunc(own, verify.Record.Compare)
	var b strings.Builder
	switch {
	case r.Status == verify.Refused:
		b.WriteString("refused")
	case r.Status == verify.Failed:
		b.WriteString("FAILED")
	case r.Status == verify.Wrong:
		fmt.Fprintf(&b, "FAILED, %d of %s off", r.Off, count(r.Outputs, "output"))
	case r.Worst != nil:
		fmt.Fprintf(&b, "ok %.1e of %.0e", *r.Worst.MaxRel, r.Worst.Tolerance)
	default:
		b.WriteString("ok")
	}
	fmt.Fprintf(&b, " (%s)", r.Kind)
	if r.Status == verify.Split {
		fmt.Fprintf(&b, ", %.0f%% of the operations", 100*r.Share)
	}
	if len(own) > 1 {
		fmt.Fprintf(&b, ", the worst of %s", count(len(own), "model"))
	}
	if r.Version != version {
		fmt.Fprintf(&b, ", by version %s on %s", r.Version, r.Date.Format("2006-01-02"))
	}
	if others > 0 {
		fmt.Fprintf(&b, "; %d more by other versions", others)
	}
	return b.String()
}
