package hosts

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// A Unix socket's path has room for 104 bytes on macOS, the terminating zero
// included (108 on Linux). go-plugin adds a folder and a file of its own to ours.
const (
	socketPrefix = "accel-sock-"

	socketPath  = 104
	socketBelow = len("/accel-sock-4194304-4294967295/plugin-dir4294967295/plugin4294967295") + 1
)

// socketBase is the folder for the backends' private folders: the first that is
// there and leaves room for a socket's path.
func socketBase() (string, error) {
	candidates := []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp"}
	for _, dir := range candidates {
		if dir == "" || runtime.GOOS != "windows" && len(dir)+socketBelow > socketPath {
			continue
		}
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no folder for the backends' sockets: none of %q is there with a path of at most %d bytes; set XDG_RUNTIME_DIR",
		candidates, socketPath-socketBelow)
}

// socketDir makes a folder of mode 0700 in base, named by this process.
func socketDir(base string) (string, error) {
	return os.MkdirTemp(base, fmt.Sprintf("%s%d-", socketPrefix, os.Getpid()))
}

// sweep removes the folders in base whose makers are gone, which were killed
// before they could. It removes what a backend's folder holds and nothing else.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(base, socketPrefix+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), socketPrefix), "-")
		if n, err := strconv.Atoi(pid); err != nil || n <= 0 || alive(n) {
			continue
		}
		for _, pattern := range []string{"plugin-dir*/plugin*", "plugin-dir*", ""} {
			files, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, f := range files {
				os.Remove(f) // another user's can't be, and are not ours to remove
			}
		}
	}
}

// dialSocket connects to the address that a backend printed.
func dialSocket(ctx context.Context, address net.Addr) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, address.Network(), address.String())
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
