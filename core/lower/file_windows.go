package lower

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

// links is 1: what a file info knows on Windows does not count them, so linked
// weights count towards the store's bound.
func links(fs.FileInfo) uint64 { return 1 }

// syncDir does nothing: NTFS journals its directories.
func syncDir(string) error { return nil }
