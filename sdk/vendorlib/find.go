package vendorlib

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Place is where a library may lie.
type Place struct {
	From string // whose word it is, for people: "the setting library", "$OPENVINO_HOME"
	Path string // a file, or a folder that holds the library itself or below; may be a pattern of filepath.Glob
	// Named: the user named this very place. If the library isn't there, no other
	// place is looked at: another version elsewhere is not what was asked for.
	Named bool
}

// Search says what to look for in a place that is a folder.
type Search struct {
	Name   string   // of the library, for people
	Files  []string // patterns of file names, as "libopenvino_c.so*"
	Within []string // folders below a place, "." for the place itself
}

// Found is a library's file.
type Found struct {
	Path, From string
}

// NotFoundError says where a library was looked for in vain.
type NotFoundError struct {
	Name   string
	Looked []Place
	Named  bool // the last place was named by the user
}

func (e *NotFoundError) Error() string {
	if len(e.Looked) == 0 {
		return e.Name + " was not found: there is no place to look for it"
	}
	if last := e.Looked[len(e.Looked)-1]; e.Named {
		return fmt.Sprintf("%s was not found in %s (%s)", e.Name, last.Path, last.From)
	}
	var from []string
	for _, p := range e.Looked {
		if !slices.Contains(from, p.From) {
			from = append(from, p.From)
		}
	}
	return fmt.Sprintf("%s was not found: looked %s", e.Name, strings.Join(from, ", "))
}

// In looks through places in their order and returns the first file that is there;
// of several in a folder that with the highest version in its name. The error is
// *NotFoundError.
func (s Search) In(places []Place) (Found, error) {
	looked := make([]Place, 0, len(places))
	for _, p := range places {
		if p.Path == "" {
			continue
		}
		looked = append(looked, p)
		matches, err := filepath.Glob(p.Path)
		if err != nil {
			matches = nil // a pattern that the user wrote; nothing is there
		}
		for _, at := range matches {
			if file := s.at(at); file != "" {
				return Found{Path: file, From: p.From}, nil
			}
		}
		if p.Named {
			return Found{}, &NotFoundError{Name: s.Name, Looked: looked, Named: true}
		}
	}
	return Found{}, &NotFoundError{Name: s.Name, Looked: looked}
}

// at is the library's file at a path, or in a folder there.
func (s Search) at(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if !info.IsDir() {
		return path
	}
	for _, within := range s.Within {
		for _, pattern := range s.Files {
			matches, err := filepath.Glob(filepath.Join(escape(path), within, pattern))
			if err != nil || len(matches) == 0 {
				continue
			}
			return slices.MaxFunc(matches, func(a, b string) int {
				if c := ParseVersion(filepath.Base(a)).Compare(ParseVersion(filepath.Base(b))); c != 0 {
					return c
				}
				return strings.Compare(a, b)
			})
		}
	}
	return ""
}

// escape keeps a folder's name from being read as a pattern.
func escape(path string) string {
	if runtime.GOOS == "windows" {
		return path // there is no escaping, and * and ? are in no name
	}
	var b strings.Builder
	for _, r := range path {
		if strings.ContainsRune(`*?[\`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// SitePackages are the folders that pip installs into, those of an activated
// environment first. Python itself is not asked.
func SitePackages(getenv func(string) string) []Place {
	var places []Place
	add := func(from string, elem ...string) {
		if elem[0] != "" {
			places = append(places, Place{From: from, Path: filepath.Join(elem...)})
		}
	}
	prefix := func(from, dir string) {
		if runtime.GOOS == "windows" {
			add(from, dir, "Lib", "site-packages")
			return
		}
		add(from, dir, "lib", "python3*", "site-packages")
		add(from, dir, "lib", "python3*", "dist-packages") // Debian's
	}
	for _, v := range []string{"VIRTUAL_ENV", "CONDA_PREFIX"} {
		if dir := getenv(v); dir != "" {
			prefix("in pip's packages of $"+v, escape(dir))
		}
	}
	const user = "in pip's packages of this user"
	if runtime.GOOS == "windows" {
		add(user, escape(getenv("APPDATA")), "Python", "Python3*", "site-packages")
		add("in pip's packages", escape(getenv("LOCALAPPDATA")), "Programs", "Python", "Python3*", "Lib", "site-packages")
		return places
	}
	home := escape(getenv("HOME"))
	add(user, home, ".local", "lib", "python3*", "site-packages")
	if runtime.GOOS == "darwin" {
		add(user, home, "Library", "Python", "3*", "lib", "python", "site-packages")
		add("in pip's packages", "/opt/homebrew/lib/python3*/site-packages")
	}
	prefix("in pip's packages", "/usr/local")
	prefix("in pip's packages", "/usr")
	return places
}

// SystemFolders are where the system's loader looks, as far as that can be told.
func SystemFolders(getenv func(string) string) []Place {
	variable := map[string]string{"windows": "PATH", "darwin": "DYLD_LIBRARY_PATH"}[runtime.GOOS]
	if variable == "" {
		variable = "LD_LIBRARY_PATH"
	}
	var places []Place
	for _, dir := range filepath.SplitList(getenv(variable)) {
		if dir != "" {
			places = append(places, Place{From: "in $" + variable, Path: escape(dir)})
		}
	}
	folders := map[string][]string{
		"linux":  {"/usr/local/lib", "/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/lib"},
		"darwin": {"/usr/local/lib", "/opt/homebrew/lib"},
	}[runtime.GOOS]
	for _, dir := range folders {
		places = append(places, Place{From: "in the system's folders", Path: dir})
	}
	return places
}
