package vendorlib

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain lets the children of these tests answer.
func TestMain(m *testing.M) {
	Answer(func(raw json.RawMessage) (any, error) {
		var q string
		if err := json.Unmarshal(raw, &q); err != nil {
			return nil, err
		}
		fmt.Print("a library says something ", answerMark, "and more\n")
		switch q {
		case "die":
			panic("no more")
		case "refuse":
			return nil, errors.New("it is refused")
		case "hang":
			time.Sleep(time.Hour)
		}
		return "to " + q, nil
	})
	os.Exit(m.Run())
}

func TestChild(t *testing.T) {
	c, err := StartChild()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, q := range []string{"one", "two"} {
		var a string
		if err := c.Ask(t.Context(), q, time.Minute, &a); err != nil || a != "to "+q {
			t.Errorf("%s: %q, %v", q, a, err)
		}
	}
	for q, want := range map[string]string{"die": "no more", "refuse": "it is refused", "hang": "did not answer within"} {
		limit := time.Minute
		if q == "hang" {
			limit = 200 * time.Millisecond
		}
		err := Probe(t.Context(), q, limit, new(string))
		var ended *ChildError
		if !errors.As(err, &ended) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", q, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := Probe(ctx, "hang", time.Minute, new(string)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("when the caller is gone: %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"a/libx.so.2", "a/libx.so.10", "b/libs/libx.so.1", "odd[1]/libx.so.3"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := Search{Name: "X", Files: []string{"libx.so*"}, Within: []string{".", "libs"}}
	at := func(elem ...string) string { return filepath.Join(append([]string{dir}, elem...)...) }
	for name, c := range map[string]struct {
		places []Place
		want   string // "": not found
		says   string
	}{
		"the newest in a folder":     {[]Place{{From: "here", Path: at("a")}}, at("a", "libx.so.10"), ""},
		"below":                      {[]Place{{From: "here", Path: at("nowhere")}, {From: "there", Path: at("b")}}, at("b", "libs", "libx.so.1"), ""},
		"a pattern":                  {[]Place{{From: "here", Path: at("?")}}, at("a", "libx.so.10"), ""},
		"a file":                     {[]Place{{From: "here", Path: at("a", "libx.so.2")}}, at("a", "libx.so.2"), ""},
		"a folder with a bracket":    {[]Place{{From: "here", Path: escape(at("odd[1]"))}}, at("odd[1]", "libx.so.3"), ""},
		"not where the user said":    {[]Place{{From: "the setting", Path: at("nowhere"), Named: true}, {From: "here", Path: at("a")}}, "", "X was not found in " + at("nowhere") + " (the setting)"},
		"a setting that is not made": {[]Place{{From: "the setting", Named: true}, {From: "here", Path: at("a")}}, at("a", "libx.so.10"), ""},
		"nowhere":                    {[]Place{{From: "here", Path: at("nowhere")}, {From: "there", Path: at("c")}}, "", "X was not found: looked here, there"},
	} {
		if strings.Contains(name, "bracket") && runtime.GOOS == "windows" {
			continue
		}
		got, err := s.In(c.places)
		var missing *NotFoundError
		switch {
		case c.want != "" && (err != nil || got.Path != c.want):
			t.Errorf("%s: found %q, %v", name, got.Path, err)
		case c.want == "" && (!errors.As(err, &missing) || err.Error() != c.says):
			t.Errorf("%s: found %q, %v", name, got.Path, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"2026.4.1-22982-e213a147257-releases/2026/4": "2026.4.1", "libx.so.12": "12", "v1.2rc3": "1.2", "": "", "none": "", "1.": "1", "9999999999999999999.1": "",
	} {
		if got := ParseVersion(text).String(); got != want {
			t.Errorf("%q is %q, wanted %q", text, got, want)
		}
	}
	r := Range{Min: Version{2026, 4}, Below: Version{2027}}
	for text, ok := range map[string]bool{"2026.4": true, "2026.4.0": true, "2026.12": true, "2026.3.9": false, "2027.0": false, "2027": false, "new": false} {
		err := r.Check("X", text)
		var e *VersionError
		if ok != (err == nil) || err != nil && (!errors.As(err, &e) || !strings.Contains(err.Error(), "2026.4 or later before 2027")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"2026.4.1-22982", "libx.so.12", "1..2", ".1", "-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := ParseVersion(s)
		if again := ParseVersion(v.String()); again.Compare(v) != 0 {
			t.Errorf("%q is %v, which is read as %v", s, v, again)
		}
	})
}

func TestBindNamesTheSymbol(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it opens the C library of Linux")
	}
	l, err := Open("libc.so.6")
	if err != nil {
		t.Skip(err)
	}
	var length func(string) uint64
	if err := l.Bind([]Func{{Name: "strlen", To: &length}}); err != nil || length("four") != 4 {
		t.Errorf("strlen: %v", err)
	}
	var odd func() (int, int, int)
	var absent func()
	for name, f := range map[string]Func{"strlen": {Name: "strlen", To: &odd}, "no_such_thing": {Name: "no_such_thing", To: &absent}} {
		err := l.Bind([]Func{f})
		var e *SymbolError
		if !errors.As(err, &e) || e.Symbol != name || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.Bind([]Func{{Name: "no_such_thing", To: &absent, Optional: true}}); err != nil || absent != nil {
		t.Errorf("what may be absent: %v", err)
	}
	var none *LoadError
	if _, err := Open("/nowhere/libx.so"); !errors.As(err, &none) {
		t.Errorf("a library that is not there: %v", err)
	}
}
