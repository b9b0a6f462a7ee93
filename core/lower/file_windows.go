package lower

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/windows"
)

func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

// fileID would tell a file from all others.
type fileID struct{}

// links is 1: what a file info knows on Windows does not count them, so linked
// weights count towards the store's bound.
func links(fs.FileInfo) (fileID, uint64) { return fileID{}, 1 }

// syncDir does nothing: NTFS journals its directories.
func syncDir(string) error { return nil }
