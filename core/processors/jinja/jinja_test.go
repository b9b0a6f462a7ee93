package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type goldens struct {
	Now   time.Time
	Data  map[string]json.RawMessage
	Cases []struct {
		Name, Source, File, Data string
		Rendered                 *string // nil: an error
	}
}

func readGoldens(t testing.TB) goldens {
	t.Helper()
	data, err := os.ReadFile("testdata/goldens.json")
	if err != nil {
		t.Fatal(err)
	}
	var g goldens
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	for i, c := range g.Cases {
		if c.File == "" {
			continue
		}
		source, err := os.ReadFile(filepath.Join("testdata/templates", c.File))
		if err != nil {
			t.Fatal(err)
		}
		g.Cases[i].Source = string(source)
	}
	return g
}

func variables(t testing.TB, raw []byte) *Dict {
	t.Helper()
	v, err := FromJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v.(*Dict)
}

func render(source string, d *Dict, now time.Time) (string, error) {
	template, err := Parse(source)
	if err != nil {
		return "", err
	}
	return template.Render(d, now)
}

// TestGoldens holds the package against Jinja2 as transformers sets it up: see testdata/goldens.py.
func TestGoldens(t *testing.T) {
	g := readGoldens(t)
	if len(g.Cases) < 250 {
		t.Fatalf("only %d cases", len(g.Cases))
	}
	for _, c := range g.Cases {
		t.Run(c.Name, func(t *testing.T) {
			got, err := render(c.Source, variables(t, g.Data[c.Data]), g.Now)
			switch {
			case c.Rendered == nil:
				var e *Error
				if !errors.As(err, &e) || e.Line == 0 {
					t.Fatalf("%s\nrendered %q, error %v; want an error with a place", c.Source, got, err)
				}
			case err != nil:
				t.Fatalf("%s\n%v\nwant %q", c.Source, err, *c.Rendered)
			case got != *c.Rendered:
				parts, wanted := strings.Split(got, "|"), strings.Split(*c.Rendered, "|")
				sources := strings.Split(c.Source, "}}|{")
				for i := range min(len(parts), len(wanted)) {
					if parts[i] != wanted[i] {
						t.Errorf("part %d (%s): %q, want %q", i, sources[min(i, len(sources)-1)], parts[i], wanted[i])
					}
				}
				t.Errorf("%s\nrendered %q\nwant     %q", c.Source, got, *c.Rendered)
			}
		})
	}
}
