//go:build unix

package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// protectStdout leaves the handshake a descriptor of its own and makes descriptor
// 1, which C's printf writes to, mean standard error.
func protectStdout() error {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	if err := redirect(2, 1); err != nil {
		return err
	}
	os.Stdout = os.NewFile(uintptr(fd), "handshake")
	return nil
}

// inherited opens a descriptor that the host left to this process alone.
func inherited(fd uintptr) (*os.File, error) {
	if _, err := unix.FcntlInt(fd, unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("fcntl F_SETFD", err)
	}
	// Reading must not hold a thread for the life of the process.
	if err := unix.SetNonblock(int(fd), true); err != nil {
		return nil, os.NewSyscallError("fcntl O_NONBLOCK", err)
	}
	return os.NewFile(fd, "host"), nil
}

// credentialsOfUser checks the folder that the socket will lie in, and lets in
// only this user.
func credentialsOfUser() ([]grpc.ServerOption, error) {
	dir := os.Getenv(EnvSocketDir)
	if dir == "" {
		return nil, fmt.Errorf("%s does not name a folder for the socket: a backend is started by a host, not by hand", EnvSocketDir)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("the folder for the socket: %w", err)
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s=%s is not a folder of mode 0700 (%v)", EnvSocketDir, dir, st.Mode())
	}
	return []grpc.ServerOption{grpc.Creds(sameUser{})}, nil
}

// sameUser are the credentials of a server on a Unix socket: it asks the kernel
// whose process its peer is, and refuses those of other users. Nothing is
// encrypted.
type sameUser struct{}

func (sameUser) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("the connection is of type %T, not a Unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var uid int
	var uidErr error
	if err := raw.Control(func(fd uintptr) { uid, uidErr = peerUser(int(fd)) }); err != nil {
		return nil, nil, err
	}
	if uidErr != nil {
		return nil, nil, fmt.Errorf("cannot tell the peer's user: %w", uidErr)
	}
	if uid != os.Geteuid() {
		return nil, nil, fmt.Errorf("the peer is of user %d, this process of user %d", uid, os.Geteuid())
	}
	return c, userInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

func (sameUser) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the credentials are a server's")
}

func (sameUser) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "same-user"}
}

func (sameUser) Clone() credentials.TransportCredentials { return sameUser{} }

func (sameUser) OverrideServerName(string) error { return nil }

// userInfo says that the kernel vouched for the peer.
type userInfo struct{ credentials.CommonAuthInfo }

func (userInfo) AuthType() string { return "same-user" }
