package hub

import (
	"io/fs"
	"syscall"
	"time"
)

// lastAccess is when a file was read last, as far as the file system notes it.
func lastAccess(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Atimespec.Unix())
	}
	return info.ModTime()
}
