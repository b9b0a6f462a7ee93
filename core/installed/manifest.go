package installed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/accelhq/accel/sdk/backend"
)

// ManifestFile is the manifest of an archive, at its root or in the one folder there.
const ManifestFile = "accel-backend.json"

// AnyPlatform is the platform of a backend that runs wherever its interpreter does.
const AnyPlatform = "any"

const (
	manifestSchema = 1
	maxManifest    = 1 << 20 // bytes
	maxPath        = 512     // bytes of a path in an archive
	maxName        = 255     // bytes of one name in it
	maxDepth       = 32      // names in it
)

// NameForm is what a backend may be called.
var NameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

var (
	platformForm = regexp.MustCompile(`^[a-z0-9]{1,16}/[a-z0-9]{1,16}$`)
	versionForm  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$`)
)

// API is the range of protocol versions that a backend understands, inclusive.
type API struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

func (a API) String() string {
	if a.Min == a.Max {
		return fmt.Sprint(a.Min)
	}
	return fmt.Sprintf("%d to %d", a.Min, a.Max)
}

// Manifest says what is in an archive.
type Manifest struct {
	Schema      int               `json:"schema"`   // 1
	Name        string            `json:"name"`     // as in accel-backend-NAME
	Version     string            `json:"version"`  // of the backend
	API         API               `json:"api"`      // protocol versions
	Platform    string            `json:"platform"` // Go's GOOS/GOARCH, or any
	Program     string            `json:"program"`  // path of the program in the archive
	Files       map[string]string `json:"files"`    // every file but the manifest: path, SHA-256 in hex
	Description string            `json:"description,omitempty"`
	Homepage    string            `json:"homepage,omitempty"`
	Licence     string            `json:"licence,omitempty"`
}

// ManifestError says what is wrong with a manifest.
type ManifestError struct {
	Field   string // "api.min"; empty: the whole
	Problem string
}

func (e *ManifestError) Error() string {
	if e.Field == "" {
		return ManifestFile + ": " + e.Problem
	}
	return fmt.Sprintf("%s: %s: %s", ManifestFile, e.Field, e.Problem)
}

// ParseManifest reads and checks a manifest; the error is a *ManifestError.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if len(data) > maxManifest {
		return m, &ManifestError{Problem: fmt.Sprintf("it has %d bytes, at most %d are read", len(data), maxManifest)}
	}
	// What a later schema means by a field that this one does not have is not guessed.
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, &ManifestError{Problem: "it is no JSON of a manifest: " + err.Error()}
	}
	if _, err := d.Token(); err != io.EOF {
		return Manifest{}, &ManifestError{Problem: "something stands behind its JSON object"}
	}
	if err := m.check(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

func (m *Manifest) check() error {
	wrong := func(field, format string, args ...any) error {
		return &ManifestError{Field: field, Problem: fmt.Sprintf(format, args...)}
	}
	switch {
	case m.Schema != manifestSchema:
		return wrong("schema", "it is %d, this Accel reads %d", m.Schema, manifestSchema)
	case !NameForm.MatchString(m.Name):
		return wrong("name", "%q is none: wanted are lower-case letters, digits, - and _, at most 64", m.Name)
	case !versionForm.MatchString(m.Version):
		return wrong("version", "%q is none: wanted are letters, digits and .+_-, at most 64", m.Version)
	case m.API.Min < 1 || m.API.Max < m.API.Min:
		return wrong("api", "versions %d to %d of the protocol are no range", m.API.Min, m.API.Max)
	case m.Platform != AnyPlatform && !platformForm.MatchString(m.Platform):
		return wrong("platform", "%q is neither of the form linux/amd64 nor %q", m.Platform, AnyPlatform)
	case len(m.Files) == 0 || len(m.Files) > maxEntries:
		return wrong("files", "%d files are listed, wanted are 1 to %d", len(m.Files), maxEntries)
	case m.Files[m.Program] == "":
		return wrong("program", "%q is not among the files", m.Program)
	}
	for name, sum := range m.Files {
		if clean, err := entryPath(name); err != nil {
			return wrong("files", "%q: %v", name, err)
		} else if clean != name || name == ManifestFile || name == recordFile {
			return wrong("files", "%q can't be listed", name)
		}
		if !isSum(sum) {
			return wrong("files", "%q: %q is no SHA-256 in lower-case hex", name, sum)
		}
	}
	for field, text := range map[string]string{"description": m.Description, "homepage": m.Homepage, "licence": m.Licence} {
		if len(text) > 1000 || strings.ContainsFunc(text, unicode.IsControl) {
			return wrong(field, "it is no line of at most 1000 bytes")
		}
	}
	return nil
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && s == strings.ToLower(s)
}

// IncompatibleError says that a backend is for another machine or another Accel.
type IncompatibleError struct {
	Backend, Version    string
	What, Theirs, Wants string // "platform", "linux/arm64", "linux/amd64"
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("backend %q %s is for %s %s, wanted is %s; get a release of it for that", e.Backend, e.Version, e.What, e.Theirs, e.Wants)
}

// fits says why the backend can't run here.
func (m *Manifest) fits() error {
	here := runtime.GOOS + "/" + runtime.GOARCH
	if m.Platform != AnyPlatform && m.Platform != here {
		return &IncompatibleError{m.Name, m.Version, "platform", m.Platform, here}
	}
	if m.API.Min > backend.ProtocolVersion || m.API.Max < backend.ProtocolVersion {
		return &IncompatibleError{m.Name, m.Version, "protocol version", m.API.String(), fmt.Sprint(backend.ProtocolVersion)}
	}
	return nil
}

// entryPath is an entry's name in an archive as a clean, relative, slash-separated path; "." is its root.
func entryPath(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("the path has %d bytes, at most %d are taken", len(name), maxPath)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == '\\' || r == ':' }) {
		return "", fmt.Errorf("the path has characters that not every system takes")
	}
	rel := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if rel == "" || rel == "." {
		if strings.HasPrefix(name, "/") || name == "" {
			return "", fmt.Errorf("the path is empty or absolute")
		}
		return ".", nil
	}
	parts := strings.Split(rel, "/")
	if len(parts) > maxDepth {
		return "", fmt.Errorf("the path is %d folders deep, at most %d are taken", len(parts), maxDepth)
	}
	for _, p := range parts {
		if len(p) > maxName || p != strings.TrimRight(p, ". ") {
			return "", fmt.Errorf("the path leads out of the archive, or has a name that not every system takes")
		}
	}
	if slices.Contains(parts, "") || path.Clean(rel) != rel || !filepath.IsLocal(filepath.FromSlash(rel)) {
		return "", fmt.Errorf("the path leads out of the archive")
	}
	return rel, nil
}
