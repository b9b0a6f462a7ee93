package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/installed"
)

const filePrefix = "accel-backend-"

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func fileSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

// Origin says how a backend's program is known.
type Origin string

// Origins, in the order in which they are looked at. A backend is found in no other
// way: what merely lies on the machine is not run.
const (
	Configured Origin = "configured"  // its path is in the configuration
	SearchPath Origin = "search path" // in a folder that the user named
	Installed  Origin = "installed"   // by `accel backends install`; its files are checked at each start
	Beside     Origin = "beside"      // came with this program
)

// candidate is a program that may stand for a backend, or a folder of such.
type candidate struct {
	path   string
	origin Origin
}

// folders are the places where backends lie, beside those installed.
func (o *Options) folders() []candidate {
	var list []candidate
	for _, dir := range o.Path {
		list = append(list, candidate{dir, SearchPath})
	}
	list = append(list, candidate{o.Beside, Beside})
	return slices.DeleteFunc(list, func(p candidate) bool { return p.path == "" })
}

// names are the backends that are configured, installed or lie in the folders, sorted.
func (o *Options) names() []string {
	names, err := o.Installed.Names()
	if err != nil {
		o.Logger.Warn("can't look for installed backends", "folder", o.Installed.Dir(), "error", err)
	}
	for name := range o.Backends {
		names = append(names, name)
	}
	for _, dir := range o.folders() {
		entries, err := os.ReadDir(dir.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.Logger.Warn("can't look for backends", "folder", dir.path, "error", err)
		}
		for _, e := range entries {
			name, ok := strings.CutPrefix(e.Name(), filePrefix)
			if !ok {
				continue
			}
			if name, ok = strings.CutSuffix(name, fileSuffix()); ok && nameForm.MatchString(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// find returns the program of a backend: the configured path, else the first
// usable file of its name in the folders or among the installed ones.
func (o *Options) find(name string) (candidate, error) {
	notFound := &NotFoundError{Backend: name}
	file := filePrefix + name + fileSuffix()
	var candidates []candidate
	if path := o.Backends[name].Path; path != "" {
		candidates = []candidate{{path, Configured}}
		notFound.Remedy = "correct the path in the configuration"
	} else {
		for _, dir := range o.folders() {
			if dir.origin == Beside {
				candidates = append(candidates, o.installed(name, notFound)...)
			}
			candidates = append(candidates, candidate{filepath.Join(dir.path, file), dir.origin})
		}
		if o.Beside == "" {
			candidates = append(candidates, o.installed(name, notFound)...)
		}
		orDefault(&notFound.Remedy, fmt.Sprintf("install it (accel backends install FILE), put %s into one of the folders, name its folder in ACCEL_BACKEND_PATH, or give its path in the configuration", file))
	}
	for _, c := range candidates {
		notFound.Looked = append(notFound.Looked, c.path)
		problem, remedy := unusable(c.path)
		if problem == "" {
			path, err := filepath.Abs(c.path)
			return candidate{path, c.origin}, err
		}
		if remedy != "" {
			notFound.Refused = append(notFound.Refused, c.path+" "+problem)
			notFound.Remedy = remedy
		}
	}
	return candidate{}, notFound
}

// installed is the program that was installed, if one was.
func (o *Options) installed(name string, notFound *NotFoundError) []candidate {
	in, err := o.Installed.Find(name)
	if missing := (*installed.NotInstalledError)(nil); errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		notFound.Refused = append(notFound.Refused, err.Error())
		notFound.Remedy = "install it again, or remove it"
		return nil
	}
	return []candidate{{in.Path(), Installed}}
}

// Names are the backends that are known, sorted: configured, installed or found in the
// folders. None of them is run.
func (o *Options) Names() []string {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return o.names()
}

// Hides says what stands before, or behind, an installed backend of a name; empty:
// nothing does.
func (o *Options) Hides(name string) string {
	file := filePrefix + name + fileSuffix()
	p, err := o.find(name)
	switch {
	case err == nil && p.origin != Installed:
		return fmt.Sprintf("%s (%s) is used for %q before it", p.path, p.origin, name)
	case err == nil && o.Beside != "" && isThere(filepath.Join(o.Beside, file)):
		return fmt.Sprintf("it is used for %q instead of %s, which came with Accel", name, filepath.Join(o.Beside, file))
	}
	return ""
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Find returns the program that stands for a backend's name, and how it is known; an
// error is a *NotFoundError. An installed one is checked: *installed.ChangedError.
func (o *Options) Find(ctx context.Context, name string) (path string, origin Origin, err error) {
	p, err := o.find(name)
	if err == nil && p.origin == Installed {
		_, err = o.Installed.Verify(ctx, name)
	}
	return p.path, p.origin, err
}

// unusable says why a file can't be run as a backend, and what to do about it. A
// file that is not there has a problem and no remedy.
func unusable(path string) (problem, remedy string) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is not there", ""
	case err != nil:
		return "can't be read: " + err.Error(), "make it readable for this user"
	case !info.Mode().IsRegular():
		return "is not a file", "put the program there"
	}
	return unusableFile(path, info)
}
