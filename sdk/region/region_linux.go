package region

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

const memfdName = "accel-region"

// hugePage is the size from which asking for huge pages can help.
const hugePage = 2 << 20

// create makes a memfd. Its size is fixed: a peer could otherwise shrink it and
// turn this process's reads into memory faults.
func create(length int64) (*Region, error) {
	fd, err := unix.MemfdCreate(memfdName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		// No such call (old kernel) or forbidden (seccomp).
		return createNamed(length)
	}
	f := os.NewFile(uintptr(fd), memfdName)
	fail := func(op string, err error) (*Region, error) {
		f.Close()
		return nil, os.NewSyscallError(op, err)
	}
	if err := unix.Ftruncate(fd, length); err != nil {
		return fail("ftruncate", err)
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fail("fcntl F_ADD_SEALS", err)
	}
	r, err := mapFile(f, length, ReadWrite)
	if err != nil {
		f.Close()
		return nil, err
	}
	// The locator lives as long as the descriptor.
	unmap := r.close
	r.close = func() error { return errors.Join(unmap(), f.Close()) }
	r.locator = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	return r, nil
}

// reserve takes the file's space at once, or none of it.
func reserve(f *os.File, length int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, length)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fill(f, length)
	}
	return os.NewSyscallError("fallocate", err)
}

var descriptor = regexp.MustCompile(`^/proc/[0-9]+/fd/[0-9]+$`)

func isDescriptor(locator string) bool { return descriptor.MatchString(locator) }

// checkDescriptor refuses descriptors of files that create did not make: the
// number may have been given to another file since.
func checkDescriptor(fd int) error {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	if !strings.HasPrefix(name, "/memfd:"+memfdName) {
		return fmt.Errorf("it is a descriptor of %s, not of a region", name)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return os.NewSyscallError("fcntl F_GET_SEALS", err)
	}
	if seals&unix.F_SEAL_SHRINK == 0 {
		return errors.New("it is not sealed against shrinking")
	}
	return nil
}

// advise asks for huge pages. The kernel may not give them, which is no failure.
func advise(data []byte) {
	if len(data) >= hugePage {
		_ = unix.Madvise(data, unix.MADV_HUGEPAGE)
	}
}
