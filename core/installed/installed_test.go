package installed

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func sumOf(data string) string {
	h := sha256.Sum256([]byte(data))
	return hex.EncodeToString(h[:])
}

const program = "#!/bin/sh\necho not to be run >&2\n"

// manifest is a good one of a program and a library.
func manifest(change func(*Manifest)) string {
	m := Manifest{Schema: 1, Name: "fancy", Version: "1.2.0", API: API{1, 1}, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Program: "accel-backend-fancy", Files: map[string]string{"accel-backend-fancy": sumOf(program), "lib/libfancy.so": sumOf("library")}}
	if change != nil {
		change(&m)
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// entry is one of an archive.
type entry struct {
	name, data string
	mode       fs.FileMode
	link       string
	kind       byte // tar's; 0: a file
}

func good(prefix string) []entry {
	return []entry{
		{name: prefix + ManifestFile, data: manifest(nil)},
		{name: prefix + "accel-backend-fancy", data: program, mode: 0o755},
		{name: prefix + "lib/libfancy.so", data: "library"},
	}
}

func tarball(entries []entry) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode | 0o600), Size: int64(len(e.data)), Typeflag: tar.TypeReg, Linkname: e.link}
		if e.kind != 0 {
			h.Typeflag, h.Size = e.kind, 0
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if h.Size > 0 {
			w.Write([]byte(e.data))
		}
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

func zipped(entries []entry) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		mode := e.mode | 0o600
		if e.kind == tar.TypeSymlink {
			mode |= fs.ModeSymlink
		}
		if e.kind == tar.TypeDir {
			mode |= fs.ModeDir
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			panic(err)
		}
		f.Write([]byte(e.data + e.link))
	}
	w.Close()
	return b.Bytes()
}

func file(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInstall(t *testing.T) {
	for name, data := range map[string][]byte{
		"root.tar.gz":   tarball(good("")),
		"dotted.tar.gz": tarball(append([]entry{{name: "./", kind: tar.TypeDir}}, good("./")...)),
		"folder.tgz":    tarball(append([]entry{{name: "fancy-1.2.0/", kind: tar.TypeDir}}, good("fancy-1.2.0/")...)),
		"root.zip":      zipped(good("")),
		"folder.zip":    zipped(good("fancy-1.2.0/")),
	} {
		t.Run(name, func(t *testing.T) {
			s := Open(filepath.Join(t.TempDir(), "not", "there"))
			if names, err := s.Names(); len(names) != 0 || err != nil {
				t.Fatalf("before: %q, %v", names, err)
			}
			from := file(t, name, data)
			in, err := s.Install(t.Context(), from, InstallOptions{})
			if err != nil {
				t.Fatal(err)
			}
			found, err := s.Verify(t.Context(), "fancy")
			if err != nil {
				t.Fatal(err)
			}
			for what, i := range map[string]Backend{"returned": in, "found": found} {
				if i.Name != "fancy" || i.Version != "1.2.0" || *i.API != (API{1, 1}) || i.Source != from || i.SHA256 != sumOf(string(data)) ||
					i.Bytes != int64(len(program)+len("library")) || i.Path() != filepath.Join(s.Dir(), "fancy", "accel-backend-fancy") || i.At.IsZero() {
					t.Errorf("%s: %+v", what, i)
				}
			}
			info, err := os.Stat(found.Path())
			if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o755 {
				t.Errorf("the program: %v, %v", info, err)
			}
			_, err = s.Install(t.Context(), from, InstallOptions{})
			if e := (*ExistsError)(nil); !errors.As(err, &e) || e.Version != "1.2.0" {
				t.Errorf("again: %v", err)
			}
			if _, err = s.Install(t.Context(), from, InstallOptions{Replace: true}); err != nil {
				t.Errorf("in its own place: %v", err)
			}
			if err := s.Remove(t.Context(), "fancy"); err != nil {
				t.Fatal(err)
			}
			left, _ := os.ReadDir(s.Dir())
			if len(left) != 1 || left[0].Name() != lockFile {
				t.Errorf("left are %v", left)
			}
			if e := (*NotInstalledError)(nil); !errors.As(s.Remove(t.Context(), "fancy"), &e) {
				t.Error("it is removed twice")
			}
		})
	}
}

func TestInstallProgram(t *testing.T) {
	s := Open(t.TempDir())
	from := file(t, "accel-backend-plain", []byte(program))
	var done, total int64
	in, err := s.Install(t.Context(), from, InstallOptions{Progress: func(d, n int64) { done, total = d, n }})
	if err != nil || in.Name != "plain" || in.Version != "" || in.API != nil || done != int64(len(program)) || total != done {
		t.Errorf("%+v, %v; %d of %d", in, err, done, total)
	}
	other := file(t, "whatever", []byte(program))
	if in, err = s.Install(t.Context(), other, InstallOptions{Name: "named"}); err != nil || in.Name != "named" {
		t.Errorf("%+v, %v", in, err)
	}
	for _, name := range []string{"plain", "named"} {
		if in, err := s.Verify(t.Context(), name); err != nil || !strings.Contains(in.Path(), "accel-backend-"+name) {
			t.Errorf("%s: %+v, %v", name, in, err)
		}
	}
	if names, err := s.Names(); !slices.Equal(names, []string{"named", "plain"}) || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	for name, o := range map[string]InstallOptions{"whatever2": {}, "x": {Name: "../sh"}, "accel-backend-..": {}} {
		if _, err := s.Install(t.Context(), file(t, name, []byte(program)), o); err == nil {
			t.Errorf("%s with %+v is taken", name, o)
		}
	}
}

// TestRefused gives what must not be installed; nothing of it is left, in the store or
// outside of it.
func TestRefused(t *testing.T) {
	with := func(more ...entry) []entry { return append(good(""), more...) }
	changed := func(change func(*Manifest)) []entry {
		list := good("")
		list[0].data = manifest(change)
		return list
	}
	many := good("")
	for range maxEntries {
		many = append(many, entry{name: "./", kind: tar.TypeDir})
	}
	long := strings.Repeat("a", 300)
	tarballs := map[string]struct {
		entries []entry
		says    string
	}{
		"a parent":               {with(entry{name: "../escaped", data: "x"}), "leads out"},
		"a parent within":        {with(entry{name: "lib/../../escaped", data: "x"}), "leads out"},
		"an absolute path":       {with(entry{name: "/tmp/escaped", data: "x"}), "leads out"},
		"a backslash":            {with(entry{name: `..\escaped`, data: "x"}), "not every system"},
		"a drive":                {with(entry{name: "C:/escaped", data: "x"}), "not every system"},
		"a control character":    {with(entry{name: "a\x1bb", data: "x"}), "not every system"},
		"a name with a dot":      {with(entry{name: "lib./x", data: "x"}), "not every system"},
		"a long name":            {with(entry{name: long, data: "x"}), "not every system"},
		"a long path":            {with(entry{name: long[:200] + "/" + long[:200] + "/" + long[:200], data: "x"}), "at most 512"},
		"a deep path":            {with(entry{name: strings.Repeat("a/", 40) + "b", data: "x"}), "folders deep"},
		"a symbolic link":        {with(entry{name: "link", link: "/etc/passwd", kind: tar.TypeSymlink}), "links are not taken"},
		"a link to a folder":     {append([]entry{{name: "lib", link: "/tmp", kind: tar.TypeSymlink}}, good("")...), "links are not taken"},
		"a hard link":            {with(entry{name: "link", link: "accel-backend-fancy", kind: tar.TypeLink}), "links are not taken"},
		"a device":               {with(entry{name: "null", kind: tar.TypeChar}), "neither a file nor a folder"},
		"a pipe":                 {with(entry{name: "pipe", kind: tar.TypeFifo}), "neither a file nor a folder"},
		"a file twice":           {with(entry{name: "accel-backend-fancy", data: "x"}), "twice"},
		"a file twice, by case":  {with(entry{name: "Accel-Backend-Fancy", data: "x"}), "twice"},
		"a file as a folder":     {with(entry{name: "accel-backend-fancy/x", data: "x"}), "folder can't be made"},
		"a folder as a file":     {with(entry{name: "lib", data: "x"}), "twice"},
		"too many entries":       {many, "more than 10000 entries"},
		"no manifest":            {good("")[1:], "no " + ManifestFile},
		"a manifest too deep":    {good("a/b/"), "no " + ManifestFile},
		"two folders":            {append(good("a/"), good("b/")...), "no " + ManifestFile},
		"a file not listed":      {with(entry{name: "lib/more.so", data: "x"}), "not listed"},
		"a file beside":          {append(good("f/"), entry{name: "more", data: "x"}), "no " + ManifestFile},
		"a program that is none": {func() []entry { l := good(""); l[1].mode = 0o644; return l }(), "not executable"},
		"a file missing":         {good("")[:2], "is not there"},
		"a file changed":         {func() []entry { l := good(""); l[2].data = "other"; return l }(), "should have " + sumOf("library")},
		"a record":               {with(entry{name: recordFile, data: "{}"}), "not listed"},
		"another platform":       {changed(func(m *Manifest) { m.Platform = "plan9/mips" }), `platform plan9/mips, wanted is ` + runtime.GOOS},
		"another protocol":       {changed(func(m *Manifest) { m.API = API{7, 9} }), "protocol version 7 to 9, wanted is 1"},
		"another schema":         {changed(func(m *Manifest) { m.Schema = 2 }), "schema"},
		"a name of a path":       {changed(func(m *Manifest) { m.Name = "../x" }), "name"},
		"a name of nothing":      {changed(func(m *Manifest) { m.Name = "" }), "name"},
		"no version":             {changed(func(m *Manifest) { m.Version = "" }), "version"},
		"a range upside down":    {changed(func(m *Manifest) { m.API = API{2, 1} }), "no range"},
		"no platform":            {changed(func(m *Manifest) { m.Platform = "" }), "platform"},
		"a program elsewhere":    {changed(func(m *Manifest) { m.Program = "/bin/sh" }), "not among the files"},
		"a file elsewhere":       {changed(func(m *Manifest) { m.Files["../../x"] = sumOf("x") }), "leads out"},
		"no checksum":            {changed(func(m *Manifest) { m.Files["lib/libfancy.so"] = "1" }), "no SHA-256"},
		"lines in a line":        {changed(func(m *Manifest) { m.Description = "a\nb" }), "description"},
		"no manifest in it":      {[]entry{{name: ManifestFile, data: "[]"}}, "no JSON of a manifest"},
		"an unknown field":       {[]entry{{name: ManifestFile, data: `{"schema":1,"run":"rm"}`}}, "run"},
		"two manifests in one":   {[]entry{{name: ManifestFile, data: manifest(nil) + "{}"}}, "behind"},
	}
	cases := map[string]struct {
		data []byte
		says string
	}{
		"empty":          {nil, "0 bytes"},
		"half a tarball": {tarball(good(""))[:100], "can't be unpacked"},
		"half a zip":     {zipped(good(""))[:100], "can't be unpacked"},
		"gzip of no tar": {func() []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			w.Write(bytes.Repeat([]byte("no tar"), 300))
			w.Close()
			return b.Bytes()
		}(), "can't be unpacked"},
		"no archive":        {[]byte("hello"), "neither an archive"},
		"a bomb of a zip":   {claim(zipped(good("")), 1<<32-16), ""},
		"a bomb of a tar":   {bomb(), "that are unpacked"},
		"a link in a zip":   {zipped(with(entry{name: "link", link: "/etc/passwd", kind: tar.TypeSymlink})), "links are not taken"},
		"a parent in a zip": {zipped(with(entry{name: "../escaped", data: "x"})), "leads out"},
		"a path in a zip":   {zipped(with(entry{name: "/tmp/escaped", data: "x"})), "leads out"},
		"a zip twice":       {zipped(with(entry{name: "LIB/libfancy.so", data: "x"})), "twice"},
	}
	for name, c := range tarballs {
		cases[name] = struct {
			data []byte
			says string
		}{tarball(c.entries), c.says}
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			s := Open(filepath.Join(top, "store"))
			_, err := s.Install(t.Context(), file(t, "archive", cases[name].data), InstallOptions{})
			if err == nil {
				t.Fatal("it is installed")
			}
			var archive *ArchiveError
			var manifest *ManifestError
			var other *IncompatibleError
			if !errors.As(err, &archive) && !errors.As(err, &manifest) && !errors.As(err, &other) {
				t.Errorf("error %T", err)
			}
			if !strings.Contains(err.Error(), cases[name].says) {
				t.Errorf("%q does not say %q", err, cases[name].says)
			}
			left, _ := os.ReadDir(top)
			inside, _ := os.ReadDir(s.Dir())
			inside = slices.DeleteFunc(inside, func(e fs.DirEntry) bool { return e.Name() == lockFile })
			if len(left) > 1 || len(inside) > 0 {
				t.Errorf("left are %q, %q", left, inside)
			}
		})
	}
}

// claim makes the first entry of a zip's directory say a size.
func claim(data []byte, size uint32) []byte {
	i := bytes.Index(data, []byte("PK\x01\x02"))
	copy(data[i+24:], []byte{byte(size), byte(size >> 8), byte(size >> 16), byte(size >> 24)})
	return data
}

// bomb is a tarball whose entry says that it is larger than all bounds.
func bomb() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: maxBytes + 1, Typeflag: tar.TypeReg, Format: tar.FormatGNU})
	w.Write(make([]byte, 1<<20))
	z.Close()
	return b.Bytes()
}

func TestChecksums(t *testing.T) {
	data := tarball(good(""))
	sum := sumOf(string(data))
	for name, c := range map[string]struct {
		given, beside string // beside: the content of FILE.sha256
		says          string
	}{
		"given":           {given: sum},
		"in upper case":   {given: strings.ToUpper(sum)},
		"beside":          {beside: sum + "  fancy.tar.gz\n"},
		"given, not so":   {given: sumOf("x"), says: "--sha256 says " + sumOf("x")},
		"beside, not so":  {beside: sumOf("x"), says: "fancy.tar.gz.sha256 says"},
		"given is none":   {given: "abc", says: "which is none"},
		"beside is none":  {beside: "\n", says: "which is none"},
		"given over that": {given: sum, beside: sumOf("x")},
	} {
		t.Run(name, func(t *testing.T) {
			from := file(t, "fancy.tar.gz", data)
			if c.beside != "" {
				if err := os.WriteFile(from+".sha256", []byte(c.beside), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Open(t.TempDir()).Install(t.Context(), from, InstallOptions{SHA256: c.given})
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if e := (*ChecksumError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
		})
	}
}

// TestChanged changes what was installed, in every way.
func TestChanged(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string) error
		says   string
	}{
		"the program": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "accel-backend-fancy"), []byte("#!/bin/sh\nrm -rf /\n"), 0o755)
		}, "should have"},
		"a library": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "lib/libfancy.so"), []byte("libraries"), 0o644)
		}, "libfancy.so"},
		"one is gone": {func(dir string) error { return os.Remove(filepath.Join(dir, "lib/libfancy.so")) }, "is not there"},
		"a link": {func(dir string) error {
			at := filepath.Join(dir, "lib/libfancy.so")
			return errors.Join(os.Rename(at, at+".1"), os.Symlink(at+".1", at))
		}, "no file"},
		"the record": {func(dir string) error { return os.WriteFile(filepath.Join(dir, recordFile), []byte("{"), 0o644) }, "no record"},
		"another record": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, recordFile), []byte(strings.ReplaceAll(recordOf(dir), `"fancy"`, `"plain"`)), 0o644)
		}, `backend "plain"`},
		"a record of all": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, recordFile), []byte(strings.ReplaceAll(recordOf(dir), "lib/libfancy.so", "../../x")), 0o644)
		}, "../../x"},
		"no record": {func(dir string) error { return os.Remove(filepath.Join(dir, recordFile)) }, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Open(t.TempDir())
			in, err := s.Install(t.Context(), file(t, "a.tar.gz", tarball(good(""))), InstallOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.change(in.Dir); err != nil {
				t.Fatal(err)
			}
			_, err = s.Verify(t.Context(), "fancy")
			if e := (*ChangedError)(nil); !errors.As(err, &e) || e.Backend != "fancy" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %q", err, c.says)
			}
			// It can be put right, and be removed.
			if _, err := s.Install(t.Context(), file(t, "a.tar.gz", tarball(good(""))), InstallOptions{Replace: true}); err != nil {
				t.Error(err)
			}
			if _, err := s.Verify(t.Context(), "fancy"); err != nil {
				t.Error(err)
			}
			if err := s.Remove(t.Context(), "fancy"); err != nil {
				t.Error(err)
			}
		})
	}
}

func recordOf(dir string) string {
	data, _ := os.ReadFile(filepath.Join(dir, recordFile))
	return string(data)
}

// A command that was killed leaves nothing that another would mind.
func TestLeftovers(t *testing.T) {
	s := Open(t.TempDir())
	for _, dir := range []string{".new-1/x", ".old-2/fancy"} {
		if err := os.MkdirAll(filepath.Join(s.Dir(), dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := s.Names(); len(names) != 0 || err != nil {
		t.Errorf("%q, %v", names, err)
	}
	if _, err := s.Install(t.Context(), file(t, "a.tar.gz", tarball(good(""))), InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(s.Dir())
	if len(left) != 2 {
		t.Errorf("left are %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Install(ctx, file(t, "a.tar.gz", tarball(good(""))), InstallOptions{Replace: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if _, err := s.Verify(t.Context(), "fancy"); err != nil {
		t.Error(err)
	}
}

// FuzzManifest reads manifests of any kind: what is taken is whole.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifest(nil)))
	f.Add([]byte(manifest(func(m *Manifest) { m.Platform, m.Licence = AnyPlatform, "MIT" })))
	f.Add([]byte(`{"schema":1,"name":"a","version":"1","api":{"min":1,"max":1},"platform":"any","program":"../a","files":{"../a":""}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			if e := (*ManifestError)(nil); !errors.As(err, &e) {
				t.Fatalf("error %T", err)
			}
			return
		}
		for name := range m.Files {
			if !filepath.IsLocal(name) || name == "." {
				t.Fatalf("file %q", name)
			}
		}
		if m.Files[m.Program] == "" || filepath.Base(m.Name) != m.Name || m.Name[0] == '.' {
			t.Fatalf("%+v", m)
		}
	})
}

// FuzzRecord reads records of any kind: they name files of the backend's folder.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"name":"a","program":"p","files":{"p":"` + sumOf("") + `"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := parseRecord(data)
		if err != nil {
			return
		}
		in.Dir = "/store/" + in.Name
		if rel, err := filepath.Rel(in.Dir, in.Path()); err != nil || !filepath.IsLocal(rel) {
			t.Fatalf("program %q", in.Path())
		}
	})
}

// FuzzUnpack unpacks archives of any kind: whatever is written lies in the folder, is a
// file or a folder, and is what the unpacker says.
func FuzzUnpack(f *testing.F) {
	for _, list := range [][]entry{good(""), good("a/"), {{name: "../x", data: "x"}}, {{name: "l", link: "/", kind: tar.TypeSymlink}, {name: "l/x", data: "x"}}} {
		f.Add(tarball(list), false)
		f.Add(zipped(list), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, isZip bool) {
		top := t.TempDir()
		into := filepath.Join(top, "into")
		if err := os.Mkdir(into, 0o755); err != nil {
			t.Fatal(err)
		}
		archive := file(t, "archive", data)
		in, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		kind := aTarball
		if isZip {
			kind = aZip
		}
		u, err := unpack(t.Context(), archive, in, kind, into)
		if err != nil {
			if e := (*ArchiveError)(nil); !errors.As(err, &e) {
				t.Fatalf("error %T: %v", err, err)
			}
		}
		files := 0
		filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Fatal(err)
			}
			if !d.IsDir() && !d.Type().IsRegular() {
				t.Fatalf("%s is %v", path, d.Type())
			}
			if d.Type().IsRegular() {
				files++
				if !strings.HasPrefix(path, into) {
					t.Fatalf("%s was written", path)
				}
			}
			return nil
		})
		if err == nil && files != len(u.files) {
			t.Fatalf("%d files are there, the unpacker tells of %d", files, len(u.files))
		}
	})
}
