package backend

import (
	"os"

	"golang.org/x/sys/unix"
)

func redirect(from, to int) error { return os.NewSyscallError("dup3", unix.Dup3(from, to, 0)) }

func peerUser(fd int) (int, error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	return int(c.Uid), nil
}
