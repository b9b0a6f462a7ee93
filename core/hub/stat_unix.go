//go:build linux || darwin

package hub

import (
	"io/fs"
	"syscall"
)

// links is the number of names that a file has; 0: not known.
func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 0
}
