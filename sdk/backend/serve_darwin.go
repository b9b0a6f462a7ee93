package backend

import (
	"os"

	"golang.org/x/sys/unix"
)

func redirect(from, to int) error { return os.NewSyscallError("dup2", unix.Dup2(from, to)) }

func peerUser(fd int) (int, error) {
	c, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt LOCAL_PEERCRED", err)
	}
	return int(c.Uid), nil
}
