package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/accelhq/accel/sdk/backend"
)

// prepare gives the child the pipe whose end tells it that this process is gone.
func prepare(cmd *exec.Cmd, parent *os.File) error {
	handle := windows.Handle(parent.Fd())
	if err := windows.SetHandleInformation(handle, windows.HANDLE_FLAG_INHERIT, windows.HANDLE_FLAG_INHERIT); err != nil {
		return os.NewSyscallError("SetHandleInformation", err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{AdditionalInheritedHandles: []syscall.Handle{syscall.Handle(handle)}}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", backend.EnvParentPipe, handle))
	return nil
}

// group is a job object: killing or losing it kills all processes in it.
type group struct{ job windows.Handle }

func newGroup(leader *os.Process) (group, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return group{}, os.NewSyscallError("CreateJobObject", err)
	}
	limits := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE},
	}
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits)))
	if err != nil {
		windows.CloseHandle(job)
		return group{}, os.NewSyscallError("SetInformationJobObject", err)
	}
	child, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(leader.Pid))
	if err == nil {
		err = windows.AssignProcessToJobObject(job, child)
		windows.CloseHandle(child)
	}
	if err != nil {
		windows.CloseHandle(job)
		return group{}, os.NewSyscallError("AssignProcessToJobObject", err)
	}
	return group{job}, nil
}

func (g group) kill() { windows.TerminateJobObject(g.job, 1) }

func (g group) close() { windows.CloseHandle(g.job) }

// alive is asked of the makers of socket folders, which there are none of here.
func alive(int) bool { return true }
