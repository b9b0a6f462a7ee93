//go:build !linux

package kernels

import (
	"bytes"
	"os"
	"path/filepath"
)

// materialise writes the embedded library under the user's cache folder, named by
// its content, unless it is there already.
func materialise(name string, data []byte) (path string, release func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Join(cache, "accel", "native")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, contentName(name, data))
	release = func() {}
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return path, release, nil
	}
	f, err := os.CreateTemp(dir, "*.tmp")
	if err != nil {
		return "", nil, err
	}
	defer os.Remove(f.Name()) // fails, as it should, once renamed
	if _, err := f.Write(data); err != nil {
		f.Close()
		return "", nil, err
	}
	if err := f.Close(); err != nil {
		return "", nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", nil, err
	}
	return path, release, nil
}
