// Package installed keeps the backends that a user installed: it unpacks and checks
// their archives, and knows later whether a file of theirs is still what was installed.
// It runs none of them.
//
// DIR/NAME holds what the archive held and installed.json, the record. It is written
// beside and renamed; a lock in DIR keeps two commands apart. What a power cut tears is
// found by its checksum.
package installed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	recordFile    = "installed.json"
	lockFile      = ".lock"
	programPrefix = "accel-backend-"
)

// Store is the folder of installed backends. It need not be there.
type Store struct{ dir string }

// Open gives the store in a folder; an empty one has no backends and takes none.
func Open(dir string) *Store { return &Store{dir} }

// Dir is the store's folder.
func (s *Store) Dir() string {
	if s == nil {
		return ""
	}
	return s.dir
}

// Backend is a backend of the store.
type Backend struct {
	Name     string            `json:"name"`
	Version  string            `json:"version,omitempty"`  // empty: it came without a manifest, and says so itself
	API      *API              `json:"api,omitempty"`      // likewise
	Platform string            `json:"platform,omitempty"` // likewise
	Program  string            `json:"program"`            // path in the backend's folder
	Files    map[string]string `json:"files"`              // SHA-256 of each
	Bytes    int64             `json:"bytes"`              // of the files
	Source   string            `json:"source"`             // the file that it came from
	SHA256   string            `json:"sha256"`             // of that
	At       time.Time         `json:"installed_at"`

	Dir string `json:"-"`
}

// Path is where the program lies.
func (i *Backend) Path() string { return filepath.Join(i.Dir, filepath.FromSlash(i.Program)) }

// InstallOptions say how to install.
type InstallOptions struct {
	Name     string // of a program without a manifest; empty: as its file is called
	SHA256   string // that the file must have; empty: FILE.sha256 says, if there is one
	Replace  bool   // what is installed under the name
	Progress func(done, total int64)
}

// ExistsError says that a backend of the name is installed.
type ExistsError struct{ Backend, Version string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("backend %q is installed already (version %s); --replace puts this one in its place", e.Backend, orUnknown(e.Version))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// NotInstalledError says that no backend of the name is installed.
type NotInstalledError struct {
	Backend string
	Known   []string
}

func (e *NotInstalledError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("backend %q is not installed; none is", e.Backend)
	}
	return fmt.Sprintf("backend %q is not installed; there are: %s", e.Backend, strings.Join(e.Known, ", "))
}

// ChecksumError says that a file is not the one that was meant.
type ChecksumError struct {
	File, Want, Got string // SHA-256 in hex
	Says            string // who wants it
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("%s has the SHA-256 %s, %s says %s; it is damaged or not what it seems, get it again", e.File, e.Got, e.Says, e.Want)
}

// ChangedError says that an installed backend is no longer what was installed.
type ChangedError struct {
	Backend string
	File    string // where it lies
	Problem string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("backend %q is not what was installed: %s %s; it is not started. `accel backends install --replace` puts it back, `accel backends remove %s` takes it away",
		e.Backend, e.File, e.Problem, e.Backend)
}

// Install takes a backend from a file: an archive (tar.gz or zip) with a manifest, or a
// program called accel-backend-NAME. Nothing of it is run, and nothing is left of what
// is refused. Errors: *ArchiveError, *ManifestError, *IncompatibleError, *ChecksumError,
// *ExistsError, the file system's.
func (s *Store) Install(ctx context.Context, file string, o InstallOptions) (installed Backend, err error) {
	if s.dir == "" {
		return Backend{}, errors.New("there is no folder for installed backends: set hosts.installed")
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return Backend{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return Backend{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Backend{}, err
	}
	if !info.Mode().IsRegular() {
		return Backend{}, &ArchiveError{Archive: file, Problem: "it is no file"}
	}
	if info.Size() == 0 || info.Size() > maxBytes {
		return Backend{}, &ArchiveError{Archive: file, Problem: fmt.Sprintf("it has %d bytes, wanted are 1 to %d", info.Size(), int64(maxBytes))}
	}
	sum, err := s.checkSource(ctx, file, f, info.Size(), o)
	if err != nil {
		return Backend{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Backend{}, err
	}
	defer unlock()
	work, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return Backend{}, err
	}
	defer os.RemoveAll(work)
	var head [4]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return Backend{}, err
	}
	in := Backend{Source: file, SHA256: sum, At: time.Now().UTC().Truncate(time.Second)}
	from := work
	if kind := formatOf(head[:]); kind == aProgram {
		err = in.takeProgram(file, f, work, o.Name)
	} else if o.Name != "" {
		err = &ManifestError{Field: "name", Problem: "the archive's manifest names the backend, another name can't be given"}
	} else {
		from, err = in.takeArchive(ctx, file, f, kind, work)
	}
	if err != nil {
		return Backend{}, err
	}
	in.Bytes, err = in.check(ctx, from)
	if wrong := (*ChangedError)(nil); errors.As(err, &wrong) {
		name, _ := filepath.Rel(from, wrong.File)
		err = &ManifestError{Field: "files", Problem: fmt.Sprintf("%q %s", filepath.ToSlash(name), wrong.Problem)}
	}
	if err != nil {
		return Backend{}, err
	}
	return in, s.put(&in, from, o.Replace)
}

// checkSource computes the file's checksum, and holds it against the one that was asked for.
func (s *Store) checkSource(ctx context.Context, file string, f io.Reader, size int64, o InstallOptions) (string, error) {
	want, says := strings.ToLower(o.SHA256), "--sha256"
	if want == "" {
		says = ""
		data, err := os.ReadFile(file + ".sha256")
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", err
		default:
			word, _, _ := strings.Cut(strings.TrimSpace(string(data)), " ") // as sha256sum writes
			want, says = strings.ToLower(word), filepath.Base(file)+".sha256"
		}
	}
	if says != "" && !isSum(want) {
		return "", &ChecksumError{File: file, Want: fmt.Sprintf("%.80q, which is none", want), Got: "not computed", Says: says}
	}
	h := &counted{Hash: sha256.New(), total: size, report: o.Progress}
	if _, err := io.Copy(h, contextReader{ctx, f}); err != nil {
		return "", err
	}
	got := hex.EncodeToString(h.Sum(nil))
	if says != "" && got != want {
		return "", &ChecksumError{File: file, Want: want, Got: got, Says: says}
	}
	return got, nil
}

// counted tells how far the reading is.
type counted struct {
	hash.Hash
	done, total int64
	report      func(done, total int64)
}

func (c *counted) Write(p []byte) (int, error) {
	c.done += int64(len(p))
	if c.report != nil {
		c.report(c.done, c.total)
	}
	return c.Hash.Write(p)
}

// takeProgram copies a program without a manifest.
func (in *Backend) takeProgram(file string, f *os.File, work, name string) error {
	if name == "" {
		var ok bool
		if name, ok = strings.CutPrefix(strings.TrimSuffix(filepath.Base(file), ".exe"), programPrefix); !ok {
			return &ArchiveError{Archive: file, Problem: "it is neither an archive (tar.gz, zip) nor called " + programPrefix + "NAME; --name gives a program its name"}
		}
	}
	if !NameForm.MatchString(name) {
		return &ManifestError{Field: "name", Problem: fmt.Sprintf("%q is none: wanted are lower-case letters, digits, - and _, at most 64", name)}
	}
	in.Name, in.Program = name, programPrefix+name
	if runtime.GOOS == "windows" {
		in.Program += ".exe"
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(work, in.Program), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	in.Files = map[string]string{in.Program: in.SHA256}
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

// takeArchive unpacks an archive, reads its manifest and returns the folder where that lies.
func (in *Backend) takeArchive(ctx context.Context, file string, f *os.File, kind format, work string) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	u, err := unpack(ctx, file, f, kind, work)
	if err != nil {
		return "", err
	}
	from, data, err := findManifest(work)
	if err != nil {
		return "", err
	}
	if data == nil {
		return "", &ArchiveError{Archive: file, Problem: "there is no " + ManifestFile + " at its root, or in the one folder there"}
	}
	m, err := ParseManifest(data)
	if err != nil {
		return "", err
	}
	if err := m.fits(); err != nil {
		return "", err
	}
	prefix, err := filepath.Rel(work, from)
	if err != nil {
		return "", err
	}
	listed := map[string]bool{strings.ToLower(path.Join(filepath.ToSlash(prefix), ManifestFile)): true}
	for name := range m.Files {
		listed[strings.ToLower(path.Join(filepath.ToSlash(prefix), name))] = true
	}
	for name := range u.files {
		if !listed[name] {
			return "", &ManifestError{Field: "files", Problem: fmt.Sprintf("%q is in the archive and not listed", name)}
		}
	}
	program, err := os.Stat(filepath.Join(from, filepath.FromSlash(m.Program)))
	if err == nil && runtime.GOOS != "windows" && program.Mode()&0o111 == 0 {
		return "", &ArchiveError{Archive: file, Entry: m.Program, Problem: "the program is not executable"}
	}
	in.Name, in.Version, in.API, in.Platform, in.Program, in.Files = m.Name, m.Version, &m.API, m.Platform, m.Program, m.Files
	return from, nil
}

// findManifest looks for the manifest at the root and in the only folder there.
func findManifest(work string) (dir string, data []byte, err error) {
	entries, err := os.ReadDir(work)
	if err != nil {
		return "", nil, err
	}
	candidates := []string{work}
	if len(entries) == 1 && entries[0].IsDir() {
		candidates = append(candidates, filepath.Join(work, entries[0].Name()))
	}
	for _, dir := range candidates {
		data, err := readBounded(filepath.Join(dir, ManifestFile))
		if err == nil {
			return dir, data, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
	}
	return "", nil, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxManifest+1))
}

// check holds the files in dir against their checksums and gives their size.
func (in *Backend) check(ctx context.Context, dir string) (int64, error) {
	var total int64
	for _, name := range slices.Sorted(maps.Keys(in.Files)) {
		at := filepath.Join(dir, filepath.FromSlash(name))
		n, sum, err := sumFile(ctx, at)
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return 0, &ChangedError{in.Name, at, "is not there"}
		case err != nil:
			return 0, &ChangedError{in.Name, at, "can't be read: " + err.Error()}
		case sum != in.Files[name]:
			return 0, &ChangedError{in.Name, at, fmt.Sprintf("has the SHA-256 %s, and should have %s", sum, in.Files[name])}
		}
		total += n
	}
	return total, nil
}

func sumFile(ctx context.Context, file string) (int64, string, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return 0, "", err
	}
	if !info.Mode().IsRegular() {
		return 0, "", errors.New("it is no file")
	}
	f, err := os.Open(file)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, contextReader{ctx, f})
	return n, hex.EncodeToString(h.Sum(nil)), err
}

// put moves a finished folder to its place.
func (s *Store) put(in *Backend, from string, replace bool) error {
	data, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return err
	}
	record, err := os.OpenFile(filepath.Join(from, recordFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = record.Write(append(data, '\n'))
	if err := errors.Join(err, record.Close(), os.Chmod(from, 0o755)); err != nil {
		return err
	}
	in.Dir = filepath.Join(s.dir, in.Name)
	if _, err := os.Lstat(in.Dir); err == nil {
		if !replace {
			old, _ := s.read(in.Name)
			return &ExistsError{in.Name, old.Version}
		}
		// A process that runs keeps what it has open.
		old, err := os.MkdirTemp(s.dir, ".old-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(old)
		if err := os.Rename(in.Dir, filepath.Join(old, in.Name)); err != nil {
			return err
		}
		if err := os.Rename(from, in.Dir); err != nil {
			return errors.Join(err, os.Rename(filepath.Join(old, in.Name), in.Dir))
		}
		return nil
	}
	return os.Rename(from, in.Dir)
}

// lock keeps others from changing the store; the folder is there then.
func (s *Store) lock(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	l := flock.New(filepath.Join(s.dir, lockFile))
	if ok, err := l.TryLockContext(ctx, 50*time.Millisecond); err != nil || !ok {
		return nil, fmt.Errorf("another command changes %s: %w", s.dir, errors.Join(err, ctx.Err()))
	}
	for _, pattern := range []string{".new-*", ".old-*"} { // of a command that was killed
		left, _ := filepath.Glob(filepath.Join(s.dir, pattern))
		for _, dir := range left {
			os.RemoveAll(dir)
		}
	}
	return func() { l.Unlock() }, nil
}

// Names are the names of what is installed, sorted.
func (s *Store) Names() ([]string, error) {
	if s == nil || s.dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && NameForm.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Find gives an installed backend as its record says: *NotInstalledError, or
// *ChangedError where the record can't be read.
func (s *Store) Find(name string) (Backend, error) {
	names, err := s.Names()
	if err != nil {
		return Backend{}, err
	}
	if !slices.Contains(names, name) {
		return Backend{}, &NotInstalledError{name, names}
	}
	return s.read(name)
}

func (s *Store) read(name string) (Backend, error) {
	dir := filepath.Join(s.dir, name)
	file := filepath.Join(dir, recordFile)
	data, err := readBounded(file)
	if err != nil {
		return Backend{}, &ChangedError{name, file, "can't be read: " + err.Error()}
	}
	in, err := parseRecord(data)
	if err == nil && in.Name != name {
		err = fmt.Errorf("is of backend %q", in.Name)
	}
	if err != nil {
		return Backend{}, &ChangedError{name, file, err.Error()}
	}
	in.Dir = dir
	return in, nil
}

// parseRecord reads a record; what it names lies inside the backend's folder.
func parseRecord(data []byte) (Backend, error) {
	var in Backend
	if len(data) > maxManifest {
		return in, errors.New("is too long to be a record")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&in); err != nil {
		return Backend{}, fmt.Errorf("is no record: %w", err)
	}
	if !NameForm.MatchString(in.Name) || in.Files[in.Program] == "" {
		return Backend{}, errors.New("is no record: it names no program")
	}
	for name, sum := range in.Files {
		if clean, err := entryPath(name); err != nil || clean != name || clean == "." || !isSum(sum) {
			return Backend{}, fmt.Errorf("is no record: it lists %.100q", name)
		}
	}
	return in, nil
}

// Verify finds an installed backend and reads all its files: *NotInstalledError, or
// *ChangedError where one is not what was installed.
func (s *Store) Verify(ctx context.Context, name string) (Backend, error) {
	in, err := s.Find(name)
	if err != nil {
		return Backend{}, err
	}
	_, err = in.check(ctx, in.Dir)
	return in, err
}

// Remove takes an installed backend away, whatever state it is in.
func (s *Store) Remove(ctx context.Context, name string) error {
	names, err := s.Names()
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) {
		return &NotInstalledError{name, names}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Gone at once, and then bit by bit.
	old, err := os.MkdirTemp(s.dir, ".old-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(old)
	return os.Rename(filepath.Join(s.dir, name), filepath.Join(old, name))
}
