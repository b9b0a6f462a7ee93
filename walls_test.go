package accel_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/accelhq/accel/"

// coreOrder is the way of data through core (docs/architecture.md, "Rooms"): a
// package imports only packages that stand above it.
var coreOrder = []string{
	"config", "hub", "checkpoint", "tensorfile", "models", "processors", "quantize", "lower", "route", "installed", "hosts",
	"kvcache", "schedule", "tasks", "engine", "verify", "bench", "server",
}

var unnamedRooms = []string{"util", "utils", "common", "misc", "helpers"}

// TestWalls holds every import in the tree, tests and other platforms' files
// included, against the walls.
func TestWalls(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name != "." && (strings.HasPrefix(name, ".") || name == "build" || name == "bin" || name == "testdata") {
				return fs.SkipDir
			}
			if slices.Contains(unnamedRooms, d.Name()) {
				t.Errorf("%s: a room needs a name that says what is in it", path)
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		from := filepath.ToSlash(filepath.Dir(path))
		for _, imp := range f.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			to, ours := strings.CutPrefix(name, module)
			if !ours {
				continue
			}
			if reason := wall(from, to); reason != "" {
				t.Errorf("%s imports %s: %s", path, to, reason)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Errorf("only %d files were seen; is the test run from the module's root?", files)
	}
}

// wall says why package from may not import package to, or nothing.
func wall(from, to string) string {
	room := func(p string) (string, string) {
		top, rest, _ := strings.Cut(p, "/")
		next, _, _ := strings.Cut(rest, "/")
		return top, next
	}
	fromTop, fromRoom := room(from)
	toTop, toRoom := room(to)
	switch fromTop {
	case "sdk":
		if toTop != "sdk" {
			return "sdk is all that a stranger's backend imports"
		}
	case "examples":
		if toTop != "sdk" {
			return "an example is a stranger's, and imports sdk only"
		}
	case "native":
		return "native holds kernels and a go:embed"
	case "plugins":
		if toTop == "sdk" || to == "native/"+fromRoom || toTop == "plugins" && toRoom == fromRoom {
			return ""
		}
		return "a plugin imports sdk and its own native room only"
	case "core":
		if toTop == "plugins" || toTop == "native" {
			return "core knows backends only through the protocol"
		}
		if toTop == "core" && fromRoom != toRoom {
			i, j := slices.Index(coreOrder, fromRoom), slices.Index(coreOrder, toRoom)
			if i < 0 || j < 0 {
				return "a room of core that the order does not know"
			}
			if j > i {
				return "it stands below; define an interface and let engine wire it"
			}
		}
		if toTop == "cmd" {
			return "commands stand on top"
		}
	}
	return ""
}

func TestWallsRefuse(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"sdk/backend", "sdk/graph", true},
		{"sdk/backend", "core/hosts", false},
		{"examples/backend-go", "sdk/backend", true},
		{"examples/backend-go", "plugins/cpu", false},
		{"sdk/backendtest", "plugins/cpu", false},
		{"plugins/cpu", "native/cpu", true},
		{"plugins/cpu/kernels", "native/cpu", true},
		{"plugins/cpu", "native/metal", false},
		{"plugins/cpu", "plugins/cpu/kernels", true},
		{"plugins/cpu", "plugins/reference", false},
		{"plugins/cpu", "core/route", false},
		{"core/hosts", "sdk/backend", true},
		{"core/engine", "core/hosts", true},
		{"core/hosts", "core/engine", false},
		{"core/models", "native/cpu", false},
		{"core/misplaced", "core/config", false},
		{"cmd/accel", "core/engine", true},
	} {
		if got := wall(tt.from, tt.to); (got == "") != tt.ok {
			t.Errorf("wall(%s, %s) = %q, want ok=%v", tt.from, tt.to, got, tt.ok)
		}
	}
}
