//go:build unix

package backendtest

import (
	"os"
	"os/exec"

	"github.com/accelhq/accel/sdk/backend"
)

// inherit leaves the reading end of the host's pipe to the process.
func inherit(cmd *exec.Cmd, f *os.File) error {
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(cmd.Env, backend.EnvParentPipe+"=3")
	return nil
}
