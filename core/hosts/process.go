package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// unkillable is how long a killed process has to go. One that hangs in a driver
// may never; it is given up then.
const unkillable = 10 * time.Second

// drainTime is how long the pipes of an ended process are still read: what it
// said last is in them, but a descendant that left its process group may hold
// them open for ever.
const drainTime = 250 * time.Millisecond

// process is one run of a backend's program, in a process group of its own, and
// what go-plugin calls a runner. It differs from go-plugin's in that it kills the
// whole group, sees the death of the process even while a descendant holds its
// pipes, keeps what it said, and gives it a pipe that ends when this process does.
type process struct {
	cmd  *exec.Cmd
	log  hclog.Logger
	said tail

	stdout  *os.File // read ends; the process holds the others
	stderr  *os.File
	parent  *os.File // held open for as long as the process should live
	group   group
	head    firstLine
	drained chan struct{} // the end of stderr was read

	mu      sync.Mutex
	started bool         // and not yet reaped
	killed  bool         // before or after the start
	reason  string       // that the first stop gave
	grace   atomic.Int64 // go-plugin's Kill waits until then, in Unix nanoseconds

	exited chan struct{}
	exit   string        // how it ended, valid after exited
	alone  bool          // it ended before it was stopped, likewise
	lost   chan struct{} // closed when it was killed and did not end
}

func newProcess(path string, args []string, log hclog.Logger) *process {
	return &process{
		cmd:     exec.Command(path, args...),
		log:     log,
		drained: make(chan struct{}),
		exited:  make(chan struct{}),
		lost:    make(chan struct{}),
	}
}

// Start runs the program. The environment is set before.
func (p *process) Start(context.Context) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return errors.New("it was to be stopped before it began")
	}
	var theirs []*os.File // ends that belong to the child, or to nobody if there is none
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			closeAll(p.stdout, p.stderr, p.parent)
		}
	}()
	pipe := func(read, write **os.File) {
		if err == nil {
			*read, *write, err = os.Pipe()
		}
	}
	var outW, errW, parentR *os.File
	pipe(&p.stdout, &outW)
	pipe(&p.stderr, &errW)
	pipe(&parentR, &p.parent)
	for _, f := range []*os.File{outW, errW, parentR} {
		if f != nil {
			theirs = append(theirs, f)
		}
	}
	if err != nil {
		return err
	}
	p.cmd.Stdout, p.cmd.Stderr = outW, errW
	if err := prepare(p.cmd, parentR); err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if p.group, err = newGroup(p.cmd.Process); err != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		return err
	}
	p.started = true
	go func() {
		said := p.speech()
		io.Copy(said, p.stderr)
		said.flush()
		close(p.drained)
	}()
	go p.reap()
	return nil
}

// reap waits for the end, and sees to it that nothing of the process is left.
func (p *process) reap() {
	p.cmd.Wait() // its error is in ProcessState
	p.mu.Lock()
	p.group.kill()
	p.group.close()
	p.started = false // the group's number may become another's
	p.alone = !p.killed
	p.mu.Unlock()
	select {
	case <-p.drained:
	case <-time.After(drainTime):
		p.stderr.Close()
		<-p.drained
	}
	// go-plugin reads stdout; the deadline ends that as well.
	p.stdout.SetReadDeadline(time.Now().Add(drainTime))
	closeAll(p.stderr, p.parent)
	p.exit = p.cmd.ProcessState.String()
	close(p.exited)
}

// speech is a writer for one stream of what the process says.
func (p *process) speech() *speech { return &speech{tail: &p.said, log: p.log} }

// stop ends the process group at once. The first reason given is kept; it is
// empty where nobody's fault is the cause.
func (p *process) stop(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.killed {
		p.killed, p.reason = true, reason
		time.AfterFunc(unkillable, p.giveUp)
	}
	if p.started {
		p.group.kill()
	}
}

// giveUp declares a killed process lost that hangs in the kernel.
func (p *process) giveUp() {
	select {
	case <-p.exited:
	default:
		close(p.lost)
	}
}

// ending says how the process ended.
func (p *process) ending() string {
	select {
	case <-p.exited:
		return p.exit
	default:
		return fmt.Sprintf("it was killed and has not ended since %v; it seems to hang in a driver", unkillable)
	}
}

// why is the reason that stop was given.
func (p *process) why() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reason
}

func (p *process) pid() int {
	if p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// The rest is go-plugin's runner.Runner.

func (p *process) Wait(context.Context) error {
	<-p.exited
	p.stdout.Close()
	return nil
}

// Kill is called by go-plugin two seconds after it has asked the process to end,
// where the host's grace may be longer; and as soon as a handshake fails. If that
// is for want of a line, the process may just be about to be seen dead by itself.
func (p *process) Kill(context.Context) error {
	wait := time.Until(time.Unix(0, p.grace.Load()))
	if p.head.String() == "" {
		wait = settleTime
	}
	p.mu.Lock()
	if p.killed {
		wait = 0
	}
	p.mu.Unlock()
	select {
	case <-p.exited:
	case <-time.After(wait):
		p.stop("")
	}
	return nil
}

func (p *process) Stdout() io.ReadCloser {
	return readCloser{&handshakeOnly{stdout: p.stdout, head: &p.head, rest: p.speech()}, p.stdout}
}

// Stderr is read here and not by go-plugin.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

func (p *process) Name() string { return p.cmd.Path }

func (p *process) ID() string { return strconv.Itoa(p.pid()) }

func (p *process) Diagnose(context.Context) string { return "" }

func (p *process) PluginToHost(network, address string) (string, string, error) {
	if runtime.GOOS != "windows" && network != "unix" {
		return "", "", fmt.Errorf("it listens on %s %s, wanted a Unix socket", network, address)
	}
	return network, address, nil
}

func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// maxHandshake is the longest handshake that is waited for the end of.
const maxHandshake = 4 << 10

// handshakeOnly gives go-plugin the first line of stdout. What comes after it, from a
// backend that leaves stdout to its libraries, is heard like stderr: go-plugin would stop
// to read at a long line, and the backend then at a full pipe.
type handshakeOnly struct {
	stdout io.Reader
	head   *firstLine
	rest   *speech
	given  int // bytes of the line; -1: it has ended
}

func (h *handshakeOnly) Read(p []byte) (int, error) {
	for {
		n, err := h.stdout.Read(p)
		if h.given < 0 {
			h.rest.Write(p[:n])
			if err != nil {
				h.rest.flush()
				return 0, err
			}
			continue
		}
		end := bytes.IndexByte(p[:n], '\n') + 1
		if end == 0 && h.given+n > maxHandshake {
			p[n-1], end = '\n', n // it is none, and is told so now
		}
		if end > 0 {
			h.rest.Write(p[end:n])
			n, h.given = end, -1
		} else {
			h.given += n
		}
		h.head.Write(p[:n])
		return n, err
	}
}

// firstLine keeps the first line of what is written to it, up to a length that
// is enough to see what it was.
type firstLine struct {
	mu   sync.Mutex
	text []byte
	done bool
}

func (l *firstLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range p {
		if l.done {
			break
		}
		if c == '\n' || len(l.text) == 256 {
			l.done = true
		} else {
			l.text = append(l.text, c)
		}
	}
	return len(p), nil
}

func (l *firstLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// handshakeVersion is the protocol version in go-plugin's handshake line, or
// false if the line is no handshake.
func handshakeVersion(line string) (int, bool) {
	fields := strings.Split(strings.TrimSpace(line), "|")
	if len(fields) < 4 || fields[0] != "1" {
		return 0, false
	}
	v, err := strconv.Atoi(fields[1])
	return v, err == nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
