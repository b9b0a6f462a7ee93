package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// mapped is a file's content, read-only.
type mapped struct {
	file  string // absolute path with symbolic links resolved
	data  []byte
	unmap func() error
	mtime int64 // in nanoseconds
	inode uint64
}

// mapWhole maps a regular file, or reads it where mapping is not to be had. Errors
// are *Error.
func mapWhole(path string) (mapped, error) {
	m := mapped{unmap: func() error { return nil }}
	var err error
	fail := func(err error) (mapped, error) { return mapped{}, &Error{File: path, Err: err} }
	if m.file, err = resolve(path); err != nil {
		return fail(err)
	}
	f, info, err := openRegular(m.file)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	m.mtime, m.inode = info.ModTime().UnixNano(), inode(f, info)
	size := int(info.Size())
	if int64(size) != info.Size() {
		return fail(fmt.Errorf("%d bytes are more than this machine can address", info.Size()))
	}
	if size == 0 {
		return m, nil
	}
	data, unmap, err := mapFile(f, size)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		m.data, err = io.ReadAll(f)
	case err == nil:
		m.data, m.unmap = data, unmap
	}
	if err != nil {
		return fail(err)
	}
	return m, nil
}

// close unmaps the file, once.
func (m *mapped) close() error {
	m.data = nil
	if m.unmap == nil {
		return nil
	}
	unmap := m.unmap
	m.unmap = nil
	return unmap()
}

// resolve makes a path absolute and follows its links: a hard link to what it
// names must be one to the file, not to a link in the hub's cache.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}
