//go:build unix

package lower

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// fileID tells a file from all others.
type fileID struct{ device, inode uint64 }

// links counts the names that a file has.
func links(info fs.FileInfo) (fileID, uint64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fileID{uint64(st.Dev), uint64(st.Ino)}, uint64(st.Nlink)
	}
	return fileID{}, 1
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
