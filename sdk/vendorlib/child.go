package vendorlib

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// envChild names the variable that tells a process that it is a child.
const envChild = "ACCEL_VENDOR_CHILD"

// answerMark begins the line of an answer: libraries print what they like before it.
const answerMark = "accel-answer "

// maxAnswer is the longest line that is read from a child, in bytes.
const maxAnswer = 16 << 20

// Child is another process of this program, which a vendor's library may end or hang
// without harm. It answers questions one after another until it is closed or dies.
type Child struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	stderr  head          // of the last question
	ended   chan struct{} // closed when the process has ended, after err is set
	err     error

	mu sync.Mutex
}

// Answer is called first in main. In a process that StartChild has started it answers
// questions, JSON in and out, until there are no more, and ends the process; in any
// other it returns. An error of answer ends the process too: what is to be told to
// the asker is part of the answer.
func Answer(answer func(question json.RawMessage) (any, error)) {
	if os.Getenv(envChild) == "" {
		return
	}
	err := func() error {
		questions := json.NewDecoder(os.Stdin)
		for {
			var q json.RawMessage
			if err := questions.Decode(&q); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			v, err := answer(q)
			if err != nil {
				return err
			}
			line, err := json.Marshal(v)
			if err != nil {
				return err
			}
			if _, err := fmt.Printf("\n%s%s\n", answerMark, line); err != nil {
				return err
			}
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ChildError says how a child ended, or that it did not answer.
type ChildError struct {
	Err    error
	Stderr string // the first that it said of it
}

func (e *ChildError) Error() string {
	s := fmt.Sprintf("a process of its own ended: %v", e.Err)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

func (e *ChildError) Unwrap() error { return e.Err }

// StartChild starts this program as a child. The error is *ChildError.
func StartChild() (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, &ChildError{Err: err}
	}
	c := &Child{command: exec.Command(self), ended: make(chan struct{})}
	c.command.Env = append(os.Environ(), envChild+"=1")
	c.command.Stderr = &c.stderr
	if c.in, err = c.command.StdinPipe(); err != nil {
		return nil, &ChildError{Err: err}
	}
	out, err := c.command.StdoutPipe()
	if err != nil {
		return nil, &ChildError{Err: err}
	}
	c.out = bufio.NewScanner(out)
	c.out.Buffer(nil, maxAnswer)
	if err := c.command.Start(); err != nil {
		return nil, &ChildError{Err: err}
	}
	return c, nil
}

// Ask asks a question and decodes the answer. Where none comes, within the limit or
// before ctx ends, the child is over: the error is then *ChildError, or ctx's.
func (c *Child) Ask(ctx context.Context, question any, limit time.Duration, answer any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, err := json.Marshal(question)
	if err != nil {
		return err
	}
	c.stderr.reset()
	late := fmt.Errorf("it did not answer within %v", limit)
	bounded, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	stop := context.AfterFunc(bounded, func() { _ = c.command.Process.Kill() }) // it may have ended
	defer stop()
	if _, err = c.in.Write(append(data, '\n')); err == nil {
		for c.out.Scan() {
			if line, is := strings.CutPrefix(c.out.Text(), answerMark); is {
				return json.Unmarshal([]byte(line), answer)
			}
		}
		err = c.out.Err()
	}
	if ended := c.end(); ended != nil {
		err = ended // says more than that the pipe is closed
	} else if err == nil {
		err = errors.New("it has ended")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if bounded.Err() != nil {
		err = late
	}
	return &ChildError{Err: err, Stderr: c.stderr.text()}
}

// end kills and awaits the process, once.
func (c *Child) end() error {
	select {
	case <-c.ended:
	default:
		const patience = 2 * time.Second // it has no more to do, but may be in a library's hands
		_ = c.in.Close()
		timer := time.AfterFunc(patience, func() { _ = c.command.Process.Kill() })
		c.err = c.command.Wait()
		timer.Stop()
		close(c.ended)
	}
	return c.err
}

// Close ends the child.
func (c *Child) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.end() // how it ends matters to nobody any more
}

// Probe asks one question of a child of its own. Errors are those of Ask.
func Probe(ctx context.Context, question any, limit time.Duration, answer any) error {
	c, err := StartChild()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Ask(ctx, question, limit, answer)
}

// head keeps the beginning of what is written to it: what a process dies of stands
// before where it was.
type head struct {
	mu    sync.Mutex
	first []byte
}

// maxHead is how many bytes of a child's standard error are kept of one question.
const maxHead = 300

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.first = append(h.first, p[:min(len(p), maxHead-len(h.first))]...)
	return len(p), nil
}

func (h *head) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.first = h.first[:0]
}

func (h *head) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(strings.Fields(string(h.first)), " ")
}
