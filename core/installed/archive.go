package installed

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Bounds on what is unpacked.
const (
	maxEntries = 10_000
	maxBytes   = 8 << 30
)

// ArchiveError says why an archive is not unpacked.
type ArchiveError struct {
	Archive string
	Entry   string // in it; empty: the whole
	Problem string
	Err     error // underneath, if there is one
}

func (e *ArchiveError) Error() string {
	s := e.Archive + ": "
	if e.Entry != "" {
		s += fmt.Sprintf("entry %q: ", e.Entry)
	}
	return s + e.Problem
}

func (e *ArchiveError) Unwrap() error { return e.Err }

// format of a file, by its first bytes.
type format int

const (
	aProgram format = iota
	aTarball
	aZip
)

func formatOf(head []byte) format {
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return aTarball
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return aZip
	}
	return aProgram
}

// unpacker writes an archive's entries into a folder: files and folders, nothing
// that leads elsewhere, and no more than the bounds.
type unpacker struct {
	ctx     context.Context
	archive string
	root    *os.Root
	left    int64 // bytes that may yet be written
	entries int
	seen    map[string]bool // paths in lower case, for file systems that don't tell apart
	files   map[string]bool
}

func unpack(ctx context.Context, archive string, f *os.File, kind format, into string) (*unpacker, error) {
	root, err := os.OpenRoot(into)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := &unpacker{ctx: ctx, archive: archive, root: root, left: maxBytes, seen: map[string]bool{}, files: map[string]bool{}}
	if kind == aZip {
		err = u.zip(f)
	} else {
		err = u.tarball(f)
	}
	var known *ArchiveError
	if err == nil || errors.As(err, &known) || ctx.Err() != nil {
		return u, err
	}
	return nil, &ArchiveError{Archive: archive, Problem: "it can't be unpacked: " + err.Error(), Err: err}
}

func (u *unpacker) refuse(entry, format string, args ...any) error {
	return &ArchiveError{Archive: u.archive, Entry: entry, Problem: fmt.Sprintf(format, args...)}
}

func (u *unpacker) tarball(f io.Reader) error {
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return err
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil && h == nil:
			return err
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader: // git archive's commit
		case tar.TypeDir:
			err = u.folder(h.Name)
		case tar.TypeReg:
			err = u.file(h.Name, h.Size, h.FileInfo().Mode(), r)
		default:
			err = u.refuse(h.Name, "it is neither a file nor a folder (type %q); links are not taken", h.Typeflag)
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) zip(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	z, err := zip.NewReader(f, info.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // entry looks itself
		return err
	}
	for _, e := range z.File {
		switch mode := e.Mode(); {
		case mode.IsDir():
			err = u.folder(e.Name)
		case !mode.IsRegular():
			err = u.refuse(e.Name, "it is neither a file nor a folder (%v); links are not taken", mode.Type())
		default:
			err = u.zipped(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipped(e *zip.File) error {
	if e.UncompressedSize64 > maxBytes {
		return u.refuse(e.Name, "it has %d bytes, at most %d are unpacked", e.UncompressedSize64, int64(maxBytes))
	}
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return u.file(e.Name, int64(e.UncompressedSize64), e.Mode(), r)
}

// enter counts an entry and gives its path.
func (u *unpacker) enter(name string, isFolder bool) (string, error) {
	if err := u.ctx.Err(); err != nil {
		return "", err
	}
	if u.entries++; u.entries > maxEntries {
		return "", u.refuse("", "it has more than %d entries", maxEntries)
	}
	rel, err := entryPath(name)
	if err != nil {
		return "", u.refuse(name, "%v", err)
	}
	if key := strings.ToLower(rel); u.seen[key] && !isFolder || isFolder && u.files[key] {
		return "", u.refuse(name, "it is there twice")
	} else if u.seen[key] = true; !isFolder {
		u.files[key] = true
	}
	return rel, nil
}

func (u *unpacker) folder(name string) error {
	rel, err := u.enter(name, true)
	if err != nil || rel == "." {
		return err
	}
	return u.mkdir(name, rel)
}

func (u *unpacker) mkdir(name, rel string) error {
	if rel == "." {
		return nil
	}
	if err := u.root.MkdirAll(rel, 0o755); err != nil {
		return u.refuse(name, "its folder can't be made: %v", err)
	}
	return nil
}

func (u *unpacker) file(name string, size int64, mode fs.FileMode, r io.Reader) error {
	rel, err := u.enter(name, false)
	if err != nil {
		return err
	}
	if size < 0 || size > u.left {
		return u.refuse(name, "with its %d bytes the archive has more than the %d that are unpacked", size, int64(maxBytes))
	}
	if err := u.mkdir(name, path.Dir(rel)); err != nil {
		return err
	}
	u.seen[strings.ToLower(path.Dir(rel))] = true
	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		perm = 0o755
	}
	out, err := u.root.OpenFile(rel, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return u.refuse(name, "it can't be written: %v", err)
	}
	n, err := io.Copy(out, io.LimitReader(contextReader{u.ctx, r}, size))
	err = errors.Join(err, out.Chmod(perm), out.Close()) // whatever the umask
	if err != nil {
		return err
	}
	if n != size {
		return u.refuse(name, "it is said to have %d bytes, and has %d", size, n)
	}
	u.left -= n
	return nil
}

// contextReader ends with a context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
