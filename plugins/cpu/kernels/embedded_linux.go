package kernels

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// materialise gives the embedded library a path, in memory: nothing is left on
// disk, and no folder has to be writable. release may be called once it is loaded.
func materialise(name string, data []byte) (path string, release func(), err error) {
	fd, err := unix.MemfdCreate(contentName(name, data), unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { f.Close() }, nil
}
