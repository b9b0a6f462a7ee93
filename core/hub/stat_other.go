//go:build !linux && !darwin

package hub

import (
	"io/fs"
	"time"
)

// lastAccess is when a file was read last, as far as the file system notes it; here when it was written.
func lastAccess(info fs.FileInfo) time.Time { return info.ModTime() }

// links is the number of names that a file has; 0: not known.
func links(fs.FileInfo) uint64 { return 0 }
