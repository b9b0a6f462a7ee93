package backendtest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"

	"github.com/accelhq/accel/sdk/backend"
)

// inherit leaves the reading end of the host's pipe to the process.
func inherit(cmd *exec.Cmd, f *os.File) error {
	h := windows.Handle(f.Fd())
	if err := windows.SetHandleInformation(h, windows.HANDLE_FLAG_INHERIT, windows.HANDLE_FLAG_INHERIT); err != nil {
		return os.NewSyscallError("SetHandleInformation", err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{AdditionalInheritedHandles: []syscall.Handle{syscall.Handle(h)}}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", backend.EnvParentPipe, h))
	return nil
}
