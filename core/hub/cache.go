package hub

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// repo is a model's folders in the cache.
type repo struct {
	name  string
	cache string
	dir   string // models--ORG--NAME
	locks string
}

const repoPrefix = "models--"

func (h *Hub) repo(name string) (repo, error) {
	if problem := repoProblem(name); problem != "" {
		return repo{}, &RefError{name, problem}
	}
	if h.options.Cache == "" {
		return repo{}, errors.New("there is no folder for models: set hub.cache or $HF_HUB_CACHE")
	}
	folder := repoPrefix + strings.ReplaceAll(name, "/", "--")
	return repo{name, h.options.Cache, filepath.Join(h.options.Cache, folder), filepath.Join(h.options.Cache, ".locks", folder)}, nil
}

func (r repo) fail(op string, err error) error { return &CacheError{r.cache, op, err} }

func (r repo) blob(etag string) string    { return filepath.Join(r.dir, "blobs", etag) }
func (r repo) snapshot(sha string) string { return filepath.Join(r.dir, "snapshots", sha) }
func (r repo) ref(revision string) string {
	return filepath.Join(r.dir, "refs", filepath.FromSlash(revision))
}

// link gives a file of a snapshot its place.
func (r repo) link(sha string, f File) error {
	blob, at := r.blob(f.etag()), filepath.Join(r.snapshot(sha), filepath.FromSlash(f.Name))
	if a, err := os.Stat(at); err == nil {
		if b, err := os.Stat(blob); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return r.fail("make "+filepath.Dir(at), err)
	}
	target, err := filepath.Rel(filepath.Dir(at), blob)
	if err != nil {
		return r.fail("link "+f.Name, err)
	}
	return r.replace(at, func(beside string) error {
		// Windows lets few users make symbolic links.
		if err := os.Symlink(target, beside); err != nil {
			return os.Link(blob, beside)
		}
		return nil
	})
}

// setRef notes which commit a revision is.
func (r repo) setRef(revision, sha string) error {
	at := r.ref(revision)
	if old, err := os.ReadFile(at); err == nil && string(old) == sha {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return r.fail("make "+filepath.Dir(at), err)
	}
	return r.replace(at, func(beside string) error { return os.WriteFile(beside, []byte(sha), 0o644) })
}

// replace puts what write writes in a place at once. It is made beside the folders that others list.
func (r repo) replace(at string, write func(beside string) error) error {
	beside := filepath.Join(r.dir, ".accel-"+rand.Text())
	err := write(beside)
	if err == nil {
		err = os.Rename(beside, at)
	}
	if err != nil {
		os.Remove(beside)
		return r.fail("make "+at, err)
	}
	return nil
}

// commit is what a revision is in the cache; empty: it is not there.
func (r repo) commit(revision string) (string, error) {
	data, err := os.ReadFile(r.ref(revision))
	switch {
	case err == nil:
		if sha := strings.TrimSpace(string(data)); hexSHA1.MatchString(sha) {
			return sha, nil
		}
		return "", r.fail("read "+r.ref(revision), errors.New("it holds no commit; pull the model again"))
	case !errors.Is(err, fs.ErrNotExist) && !isFolder(r.ref(revision)):
		return "", r.fail("read "+r.ref(revision), err)
	}
	if hexSHA1.MatchString(revision) && isFolder(r.snapshot(revision)) {
		return revision, nil
	}
	return "", nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// files are those of a snapshot whose blobs are there, by name. A snapshot that isn't there has none.
func (r repo) files(sha string) ([]File, error) {
	var out []File
	root := r.snapshot(sha)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if d.IsDir() || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			out = append(out, File{Name: filepath.ToSlash(name), Size: info.Size()})
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, r.fail("list "+root, err)
	}
	return byName(out), nil
}

// Cached is a revision of a model in the cache.
type Cached struct {
	Repo      string    `json:"repo"`
	Commit    string    `json:"commit"`
	Revisions []string  `json:"revisions"` // branches and tags that are this commit, sorted
	Class     string    `json:"class,omitempty"`
	Files     int       `json:"files"`
	Bytes     int64     `json:"bytes"` // of its files, those included that it shares with other revisions
	LastUsed  time.Time `json:"last_used,omitzero"`
	Path      string    `json:"path"`
	// Unfinished are bytes of files that a pull has not ended. They are the model's, not the revision's.
	Unfinished int64 `json:"unfinished,omitempty"`
}

// List tells of all models in the cache, by name and then the last used first. A model of which
// nothing but unfinished files is there has no Commit.
func (h *Hub) List() ([]Cached, error) {
	entries, err := os.ReadDir(h.options.Cache)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &CacheError{h.options.Cache, "list it", err}
	}
	var out []Cached
	for _, e := range entries {
		folder, ok := strings.CutPrefix(e.Name(), repoPrefix)
		name := strings.ReplaceAll(folder, "--", "/")
		if !ok || !e.IsDir() || repoProblem(name) != "" {
			continue
		}
		r, err := h.repo(name)
		if err != nil {
			return nil, err
		}
		of, err := r.list()
		if err != nil {
			return nil, err
		}
		out = append(out, of...)
	}
	return out, nil
}

func (r repo) list() ([]Cached, error) {
	refs, err := r.refs()
	if err != nil {
		return nil, err
	}
	unfinished, err := r.unfinished()
	if err != nil {
		return nil, err
	}
	snapshots, err := os.ReadDir(filepath.Join(r.dir, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, r.fail("list "+r.dir, err)
	}
	var out []Cached
	for _, s := range snapshots {
		if !s.IsDir() || !hexSHA1.MatchString(s.Name()) {
			continue
		}
		files, err := r.files(s.Name())
		if err != nil {
			return nil, err
		}
		c := Cached{Repo: r.name, Commit: s.Name(), Revisions: []string{}, Files: len(files), Path: r.snapshot(s.Name()), Unfinished: unfinished}
		for revision, sha := range refs {
			if sha == c.Commit {
				c.Revisions = append(c.Revisions, revision)
			}
		}
		slices.Sort(c.Revisions)
		for _, f := range files {
			c.Bytes += f.Size
			if info, err := os.Stat(filepath.Join(c.Path, filepath.FromSlash(f.Name))); err == nil {
				if at := lastAccess(info); at.After(c.LastUsed) {
					c.LastUsed = at
				}
			}
		}
		c.Class = class(c.Path, files)
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Cached) int { return b.LastUsed.Compare(a.LastUsed) })
	if len(out) == 0 && unfinished > 0 {
		out = append(out, Cached{Repo: r.name, Revisions: []string{}, Path: r.dir, Unfinished: unfinished})
	}
	return out, nil
}

// class is the model_type of a snapshot's config.json; else what its weights say by their form.
func class(dir string, files []File) string {
	var c struct {
		Type string `json:"model_type"`
	}
	for _, f := range files {
		if f.Name != "config.json" || f.Size > 1<<24 {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(dir, f.Name)); err == nil && json.Unmarshal(data, &c) == nil && c.Type != "" {
			return shorten(c.Type)
		}
	}
	switch {
	case len(models(files, ".gguf")) > 0:
		return "gguf"
	case len(models(files, ".onnx")) > 0:
		return "onnx"
	}
	return ""
}

// refs are the commits of branches and tags.
func (r repo) refs() (map[string]string, error) {
	out := map[string]string{}
	root := filepath.Join(r.dir, "refs")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if sha := strings.TrimSpace(string(data)); hexSHA1.MatchString(sha) {
			out[filepath.ToSlash(name)] = sha
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, r.fail("list "+root, err)
	}
	return out, nil
}

// unfinished is the number of bytes in files that are not whole.
func (r repo) unfinished() (int64, error) {
	blobs, err := r.blobs()
	total := int64(0)
	for name, info := range blobs {
		if strings.HasSuffix(name, incomplete) {
			total += info.Size()
		}
	}
	return total, err
}

func (r repo) blobs() (map[string]fs.FileInfo, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "blobs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, r.fail("list "+r.dir, err)
	}
	out := map[string]fs.FileInfo{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			out[e.Name()] = info
		}
	}
	return out, nil
}

// Removed says what Remove took away.
type Removed struct {
	Repo      string   `json:"repo"`
	Revisions []string `json:"revisions"` // the commits
	Freed     int64    `json:"freed"`     // bytes
	// Linked are bytes of files that are gone from the hub's cache and stay on disk, for lowered
	// models hold links to them.
	Linked int64 `json:"linked,omitempty"`
}

// Remove takes a revision of a model out of the cache, with the files that no other revision needs;
// all of the model where whole is true. Its error is a *NotCachedError, a *BusyError, or of the
// file system.
func (h *Hub) Remove(ref Ref, whole bool) (Removed, error) {
	r, err := h.repo(ref.Repo)
	if err != nil {
		return Removed{}, err
	}
	out := Removed{Repo: ref.Repo, Revisions: []string{}}
	if !isFolder(r.dir) {
		return out, &NotCachedError{Ref: ref, Cache: h.options.Cache}
	}
	unlock, err := r.seize()
	if err != nil {
		return out, err
	}
	defer unlock()
	refs, err := r.refs()
	if err != nil {
		return out, err
	}
	cached, err := r.list()
	if err != nil {
		return out, err
	}
	var gone, stay []Cached
	sha := ""
	if !whole {
		if sha, err = r.commit(ref.Revision); err != nil {
			return out, err
		}
	}
	for _, c := range cached {
		if c.Commit != "" && (whole || c.Commit == sha) {
			gone, out.Revisions = append(gone, c), append(out.Revisions, c.Commit)
		} else if c.Commit != "" {
			stay = append(stay, c)
		}
	}
	if len(gone) == 0 && !whole {
		e := &NotCachedError{Ref: ref, Cache: h.options.Cache}
		for _, c := range stay {
			e.Found += strings.Join(append([]string{c.Commit}, c.Revisions...), " ") + "; "
		}
		if e.Found = strings.TrimSuffix(e.Found, "; "); e.Found != "" {
			e.Found = "there are " + e.Found
		}
		return out, e
	}
	// The last first: what is cut short leaves no name that leads nowhere.
	for revision, commit := range refs {
		if whole || commit == sha {
			if err := os.Remove(r.ref(revision)); err != nil {
				return out, r.fail("remove the revision "+revision, err)
			}
		}
	}
	needed := map[string]bool{}
	for _, c := range stay {
		if err := r.targets(c.Commit, needed); err != nil {
			return out, err
		}
	}
	wanted := map[string]bool{}
	for _, c := range gone {
		if err := r.targets(c.Commit, wanted); err != nil {
			return out, err
		}
		if err := os.RemoveAll(c.Path); err != nil {
			return out, r.fail("remove "+c.Path, err)
		}
	}
	blobs, err := r.blobs()
	if err != nil {
		return out, err
	}
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		if !whole && len(stay) > 0 && (needed[name] || !wanted[name]) {
			continue
		}
		if err := os.Remove(r.blob(name)); err != nil {
			return out, r.fail("remove "+name, err)
		}
		if n := blobs[name].Size(); links(blobs[name]) > 1 {
			out.Linked += n
		} else {
			out.Freed += n
		}
	}
	if whole || len(stay) == 0 {
		if err := os.RemoveAll(r.dir); err != nil {
			return out, r.fail("remove "+r.dir, err)
		}
	}
	return out, nil
}

// targets adds the names of the blobs that a snapshot's links lead to.
func (r repo) targets(sha string, to map[string]bool) error {
	err := filepath.WalkDir(r.snapshot(sha), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return err
		}
		target, err := os.Readlink(path)
		to[filepath.Base(target)] = true
		return err
	})
	if err != nil {
		return r.fail("list "+r.snapshot(sha), err)
	}
	return nil
}

// seize takes every lock of a model, or none: nobody pulls it then.
func (r repo) seize() (unlock func(), err error) {
	if err := os.MkdirAll(r.locks, 0o755); err != nil {
		return nil, r.fail("make "+r.locks, err)
	}
	entries, err := os.ReadDir(r.locks)
	if err != nil {
		return nil, r.fail("list "+r.locks, err)
	}
	names := []string{holdLock}
	for _, e := range entries {
		if e.Name() != holdLock && strings.HasSuffix(e.Name(), ".lock") {
			names = append(names, e.Name())
		}
	}
	var held []*flock.Flock
	unlock = func() {
		for _, l := range held {
			l.Unlock()
		}
	}
	for _, name := range names {
		l := flock.New(filepath.Join(r.locks, name))
		got, err := l.TryLock()
		if err == nil && got {
			held = append(held, l)
			continue
		}
		unlock()
		if err != nil {
			return nil, r.fail(fmt.Sprintf("lock %s", name), err)
		}
		return nil, &BusyError{r.name}
	}
	return unlock, nil
}
