package lower

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// copyFile copies and syncs; the kernel does the copying where it can.
func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	n, err := io.Copy(dst, src)
	if err != nil {
		return err
	}
	if n != info.Size() {
		return fmt.Errorf("copy %s: %d of %d bytes; the file changed meanwhile", from, n, info.Size())
	}
	return dst.Sync()
}
