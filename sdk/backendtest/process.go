package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"github.com/accelhq/accel/sdk/backend"
	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// Build builds a main package as backends are built, without cgo, and returns the
// program's path. The package is named as for `go build`.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	path, err := buildIn(t.TempDir(), pkg)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func buildIn(dir, pkg string) (string, error) {
	path := filepath.Join(dir, "accel-backend-test")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the backend %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// Process is a backend process, started the way the core starts one. It is for
// tests: a host does more.
type Process struct {
	RPC backendv1.BackendClient

	client *plugin.Client
	cmd    *exec.Cmd
	host   *os.File // while it is open, the backend has a host
	stderr *ends
}

// Start starts a backend process. The test's end ends it.
func Start(t testing.TB, target Target) (*Process, error) {
	t.Helper()
	p, end, err := launch(target.withDefaults())
	if err != nil {
		return nil, err
	}
	t.Cleanup(end)
	return p, nil
}

// launch starts a process, and gives what ends it and cleans up.
func launch(target Target) (*Process, func(), error) {
	// Not below a test's folder: a socket's path has at most about 100 bytes.
	dir, err := os.MkdirTemp("", "accel")
	if err != nil {
		return nil, nil, err
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(err, os.Remove(dir))
	}
	p := &Process{host: ours, stderr: &ends{}}
	end := func() {
		p.Kill()
		os.RemoveAll(dir)
	}
	p.cmd = exec.Command(target.Command[0], target.Command[1:]...)
	p.cmd.Env = append(append(os.Environ(), target.Env...), backend.EnvSocketDir+"="+dir, backend.EnvLogLevel+"=debug")
	if err := inherit(p.cmd, theirs); err != nil {
		return nil, nil, errors.Join(err, ours.Close(), theirs.Close(), os.Remove(dir))
	}
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  backend.Handshake,
		VersionedPlugins: backend.HostPlugins(),
		Cmd:              p.cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         runtime.GOOS == "windows",
		StartTimeout:     target.Timeout,
		Logger:           hclog.NewNullLogger(),
		Stderr:           p.stderr,
		SyncStdout:       p.stderr,
		SyncStderr:       p.stderr,
		GRPCDialOptions:  backend.DialOptions(),
	})
	protocol, err := p.client.Client()
	theirs.Close()
	if err == nil {
		var raw any
		if raw, err = protocol.Dispense(backend.PluginName); err == nil {
			p.RPC = raw.(backendv1.BackendClient)
			return p, end, nil
		}
	}
	end()
	return nil, nil, fmt.Errorf("%w; the backend's standard error: %s", err, p.stderr)
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stderr is what the process wrote to standard error; of much, both ends.
func (p *Process) Stderr() string { return p.stderr.String() }

// CloseHost does what the host's death does.
func (p *Process) CloseHost() error { return p.host.Close() }

// Signal sends the process a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// WaitExit waits until the process has ended.
func (p *Process) WaitExit(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for !p.client.Exited() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d still runs after %v", p.PID(), timeout)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Kill ends the process: politely, and after two seconds not.
func (p *Process) Kill() {
	p.client.Kill()
	_ = p.host.Close() // may be closed by the test
}

// ends keeps the beginning and the end of what is written to it: a crash says
// first what happened, and then at length where everybody was.
type ends struct {
	mu         sync.Mutex
	head, tail []byte
}

const endBytes = 8 << 10

func (e *ends) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(endBytes-len(e.head), len(p))
	e.head = append(e.head, p[:n]...)
	e.tail = append(e.tail, p[n:]...)
	if over := len(e.tail) - endBytes; over > 0 {
		e.tail = append(e.tail[:0], e.tail[over:]...)
	}
	return len(p), nil
}

func (e *ends) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	between := ""
	if len(e.tail) == endBytes {
		between = "\n[...]\n"
	}
	return strings.TrimSpace(string(e.head) + between + string(e.tail))
}
