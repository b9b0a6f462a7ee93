//go:build unix

package hosts

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

func unusableFile(path string, info fs.FileInfo) (problem, remedy string) {
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Sprintf("can be written by others (mode %04o), so anybody could put another program there", info.Mode().Perm()),
			"chmod go-w " + path
	}
	if unix.Access(path, unix.X_OK) != nil {
		return fmt.Sprintf("is not executable for this user (mode %04o)", info.Mode().Perm()), "chmod +x " + path
	}
	return "", ""
}
