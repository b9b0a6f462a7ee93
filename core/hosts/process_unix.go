//go:build unix

package hosts

import (
	"os"
	"os/exec"
	"syscall"

	"github.com/accelhq/accel/sdk/backend"
)

// prepare gives the child a process group of its own and the pipe whose end
// tells it that this process is gone.
func prepare(cmd *exec.Cmd, parent *os.File) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.ExtraFiles = []*os.File{parent}
	cmd.Env = append(cmd.Env, backend.EnvParentPipe+"=3") // the first after stderr
	return nil
}

// group is a process with all its descendants, as far as they stay in its group.
type group struct{ id int }

func newGroup(leader *os.Process) (group, error) { return group{leader.Pid}, nil }

func (g group) kill() { syscall.Kill(-g.id, syscall.SIGKILL) }

func (g group) close() {}

// alive reports whether there is a process of that number.
func alive(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
