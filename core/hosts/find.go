package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

const filePrefix = "accel-backend-"

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func fileSuffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

// folders are the places where backends lie, in the order of search.
func (o *Options) folders() []string {
	dirs := slices.Clone(o.Path)
	if o.Beside != "" {
		dirs = append(dirs, o.Beside)
	}
	return slices.DeleteFunc(dirs, func(d string) bool { return d == "" })
}

// names are the backends that are configured or lie in the folders, sorted.
func (o *Options) names() []string {
	var names []string
	for name := range o.Backends {
		names = append(names, name)
	}
	for _, dir := range o.folders() {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.Logger.Warn("can't look for backends", "folder", dir, "error", err)
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
// usable file of its name in the folders.
func (o *Options) find(name string) (string, error) {
	notFound := &NotFoundError{Backend: name}
	if path := o.Backends[name].Path; path != "" {
		notFound.Looked = []string{path}
		notFound.Remedy = "correct the path in the configuration"
	} else {
		file := filePrefix + name + fileSuffix()
		for _, dir := range o.folders() {
			notFound.Looked = append(notFound.Looked, filepath.Join(dir, file))
		}
		notFound.Remedy = fmt.Sprintf("put %s into one of the folders, name its folder in ACCEL_BACKEND_PATH, or give its path in the configuration", file)
	}
	for _, path := range notFound.Looked {
		problem, remedy := unusable(path)
		if problem == "" {
			return filepath.Abs(path)
		}
		if remedy != "" {
			notFound.Refused = append(notFound.Refused, path+" "+problem)
			notFound.Remedy = remedy
		}
	}
	return "", notFound
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
