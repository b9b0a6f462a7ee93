package hosts

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer refuses a socket whose other end is another user's.
func checkPeer(conn net.Conn) error {
	return withDescriptor(conn, func(fd int) error {
		cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		if int(cred.Uid) != os.Geteuid() {
			return fmt.Errorf("the backend's socket belongs to user %d, not to %d", cred.Uid, os.Geteuid())
		}
		return nil
	})
}
