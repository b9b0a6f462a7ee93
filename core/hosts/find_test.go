package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func program(t *testing.T, dir, name string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, filePrefix+name+fileSuffix())
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes of files are Unix's")
	}
	first, second := t.TempDir(), t.TempDir()
	program(t, first, "a", 0o755)
	program(t, second, "a", 0o755)
	program(t, second, "b", 0o700)
	program(t, first, "open", 0o775)
	program(t, first, "world", 0o757)
	program(t, first, "plain", 0o644)
	program(t, first, "twice", 0o644)
	program(t, second, "twice", 0o755)
	if err := os.Mkdir(filepath.Join(first, filePrefix+"folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := program(t, t.TempDir(), "elsewhere", 0o755)
	o := Options{Path: []string{first, ""}, Beside: second, Backends: map[string]Backend{
		"b":    {Path: other},
		"lost": {Path: filepath.Join(first, "not-there")},
	}}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		says       []string
	}{
		{name: "a", path: filepath.Join(first, "accel-backend-a")},
		{name: "b", path: other},
		{name: "twice", path: filepath.Join(second, "accel-backend-twice")},
		{name: "none", says: []string{`backend "none" is not there`, filepath.Join(first, "accel-backend-none"), filepath.Join(second, "accel-backend-none"), "ACCEL_BACKEND_PATH"}},
		{name: "lost", says: []string{filepath.Join(first, "not-there"), "correct the path"}},
		{name: "open", says: []string{"can be written by others (mode 0775)", "chmod go-w"}},
		{name: "world", says: []string{"can be written by others (mode 0757)", "chmod go-w"}},
		{name: "plain", says: []string{"is not executable", "chmod +x"}},
		{name: "folder", says: []string{"is not a file"}},
	} {
		found, err := o.find(c.name)
		path := found.path
		if path != c.path || (err == nil) != (c.says == nil) {
			t.Errorf("%s: found %q, %v", c.name, path, err)
			continue
		}
		if err == nil {
			continue
		}
		var missing *NotFoundError
		if !errors.As(err, &missing) || missing.Backend != c.name || missing.Remedy == "" {
			t.Errorf("%s: error %#v", c.name, err)
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", c.name, err, s)
			}
		}
	}
	want := []string{"a", "b", "folder", "lost", "open", "plain", "twice", "world"}
	if got := o.names(); !slices.Equal(got, want) {
		t.Errorf("names are %q, want %q", got, want)
	}
}

func TestUnreadableFolder(t *testing.T) {
	o := Options{Path: []string{filepath.Join(t.TempDir(), "none")}}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	if got := o.names(); len(got) != 0 {
		t.Errorf("an absent folder holds %q", got)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for says, o := range map[string]Options{
		"no name of a backend": {Backends: map[string]Backend{"../sh": {}}},
		"no JSON object":       {Backends: map[string]Backend{"a": {Settings: []byte(`[1]`)}}},
		"start time-out":       {Timeouts: Timeouts{Start: -1}},
		"limit of regions":     {Regions: Regions{Limit: -1}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v does not say %q", err, says)
		}
	}
}
