package backendtest

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// A backend that cannot serve safely does not, and says what is missing.
func TestStartIsRefused(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("on Windows the host must use mutual TLS, which is refused first")
	}
	program := faulty(t)
	private := t.TempDir()
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	cookie := backend.Handshake.MagicCookieKey + "=" + backend.Handshake.MagicCookieValue
	socket := backend.EnvSocketDir + "=" + private
	for what, c := range map[string]struct {
		env  []string
		want string
	}{
		"started by hand":       {nil, "is started by a host"},
		"no cookie":             {[]string{socket}, "not meant to be executed directly"},
		"no folder":             {[]string{cookie}, backend.EnvSocketDir},
		"pipe that is no pipe":  {[]string{cookie, socket, backend.EnvParentPipe + "=three"}, `"three"`},
		"pipe that is not open": {[]string{cookie, socket, backend.EnvParentPipe + "=77"}, "descriptor 77"},
	} {
		t.Run(what, func(t *testing.T) {
			cmd := exec.Command(program)
			cmd.Env = c.env
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with %v, want exit status 1", err)
			}
			if !strings.Contains(stderr.String(), c.want) || stdout.Len() > 0 {
				t.Errorf("standard error %q, want %q; standard output %q", stderr.String(), c.want, stdout.String())
			}
		})
	}
}

// The host's death ends a backend that hangs inside a vendor's library, too.
func TestHostGoneWhileRunHangs(t *testing.T) {
	t.Parallel()
	target := Target{Command: []string{faulty(t)}, Env: []string{"ACCEL_FAULT=run_hang"}, Timeout: 20 * time.Second}
	s := &suite{target: target}
	c := s.fresh(t)
	c.device = c.devices()[0]
	e := c.compile(c.doubling(4))
	x := c.execute()
	x.sendRun(e.id, bind(vectorIn("x", ramp(4))), nil)
	x.done(x.sendCancel(1 << 60)) // the run before it was taken
	if err := c.p.CloseHost(); err != nil {
		t.Fatal(err)
	}
	if err := c.p.WaitExit(endTimeout); err != nil {
		t.Error(err)
	}
	if st := c.p.cmd.ProcessState; st == nil || st.Success() {
		t.Errorf("it ended with %v, as if nothing had hung", st)
	}
}

// A device that recovers has lost what was on it.
func TestFlappingDevice(t *testing.T) {
	t.Parallel()
	s := &suite{target: Target{Command: []string{faulty(t)}, Env: []string{"ACCEL_FAULT=flap"}, Timeout: 20 * time.Second}}
	c := s.fresh(t)
	next := c.watch()
	c.device = next()[0]
	e := c.compile(c.doubling(4))
	for d := next()[0]; d.Health != backend.Healthy || d.Epoch == c.device.Epoch; d = next()[0] {
		t.Logf("device is %s, epoch %d", d.Health, d.Epoch)
	}
	x := c.execute()
	x.failed("to run an executable of before", x.sendRun(e.id, bind(vectorIn("x", ramp(4))), nil), backend.CodeBadState)
}

// What went in and out of the process's life leaves nothing behind.
func TestSocketIsRemoved(t *testing.T) {
	t.Parallel()
	p, err := Start(t, Target{Command: []string{faulty(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.RPC.Describe(t.Context(), &backendv1.DescribeRequest{}); err != nil {
		t.Fatal(err)
	}
	dir := ""
	for _, v := range p.cmd.Env {
		if d, ok := strings.CutPrefix(v, backend.EnvSocketDir+"="); ok {
			dir = d
		}
	}
	p.Kill()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		t.Errorf("%s is left in the folder of the socket", f.Name())
	}
}
