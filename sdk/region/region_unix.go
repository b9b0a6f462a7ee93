//go:build unix

package region

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createNamed makes a file in a folder that only this user can enter.
func createNamed(length int64) (*Region, error) {
	dir, err := os.MkdirTemp("", "accel-region-")
	if err != nil {
		return nil, err
	}
	// The folder goes after the file, and only if it is empty.
	path := filepath.Join(dir, rand.Text())
	remove := func() error { return errors.Join(os.Remove(path), os.Remove(dir)) }
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	defer f.Close()
	// A sparse file would turn a full disk into a memory fault later.
	if err := reserve(f, length); err != nil {
		return nil, errors.Join(err, remove())
	}
	r, err := mapFile(f, length, ReadWrite)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	r.locator, r.remove = path, remove
	return r, nil
}

// fill takes a file's space where no system call does, once there seems to be
// room: it would not leave the disk full only to say so.
func fill(f *os.File, length int64) error {
	free, err := freeSpace(f)
	if err != nil {
		return err
	}
	if free < length {
		return fmt.Errorf("%s has room for %d bytes: %w", filepath.Dir(f.Name()), free, unix.ENOSPC)
	}
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := f.Write(zeros[:min(length, int64(len(zeros)))])
		if err != nil {
			return err
		}
		length -= int64(n)
	}
	return nil
}

func freeSpace(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	blocks, size := int64(st.Bavail), int64(st.Bsize)
	if blocks <= 0 || size <= 0 {
		return 0, nil
	}
	if blocks > math.MaxInt64/size {
		return math.MaxInt64, nil
	}
	return blocks * size, nil
}

func open(locator string, length int64, mode Mode) (*Region, error) {
	flags := unix.O_CLOEXEC | unix.O_RDONLY
	if mode == ReadWrite {
		flags = unix.O_CLOEXEC | unix.O_RDWR
	}
	anonymous := isDescriptor(locator)
	if !anonymous {
		if err := checkNamed(locator); err != nil {
			return nil, err
		}
		flags |= unix.O_NOFOLLOW | unix.O_NONBLOCK // not to hang on a pipe
	}
	fd, err := unix.Open(locator, flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: locator, Err: err}
	}
	f := os.NewFile(uintptr(fd), locator)
	defer f.Close()

	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is no regular file")
	}
	if int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("it belongs to user %d, this process to user %d", st.Uid, os.Geteuid())
	}
	if anonymous {
		if err := checkDescriptor(fd); err != nil {
			return nil, err
		}
	}
	if st.Size < length {
		return nil, fmt.Errorf("%w: it has %d bytes, %d were said", ErrLength, st.Size, length)
	}
	r, err := mapFile(f, length, mode)
	if err != nil {
		return nil, err
	}
	r.locator = locator
	return r, nil
}

// checkNamed refuses files that others than this user could put in the place of
// the core's. That the file itself is no link, the opening ensures.
func checkNamed(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return errors.New("it is no absolute, clean path")
	}
	dir := filepath.Dir(path)
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is not a folder of this user's alone (mode 0700)", dir)
	}
	return nil
}

func mapFile(f *os.File, length int64, mode Mode) (*Region, error) {
	prot := unix.PROT_READ
	if mode == ReadWrite {
		prot |= unix.PROT_WRITE
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(length), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	advise(data)
	return &Region{data: data, close: func() error { return os.NewSyscallError("munmap", unix.Munmap(data)) }}, nil
}
