package vendorlib

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// envProbe names the variable whose value is what a probe is asked, in a process
// that is one.
const envProbe = "ACCEL_VENDOR_PROBE"

// answerMark begins the answer: libraries print what they like before and after it.
const answerMark = "\naccel probe answers "

// probeWait is how long a probe may keep its output open after its end.
const probeWait = time.Second

// Probed is called first in main. In a process that Probe has started it answers
// with what answer says, as JSON, and ends the process; in any other it returns.
func Probed(answer func(question string) (any, error)) {
	question, is := os.LookupEnv(envProbe)
	if !is {
		return
	}
	v, err := answer(question)
	var line []byte
	if err == nil {
		line, err = json.Marshal(v)
	}
	if err == nil {
		_, err = fmt.Printf("%s%s\n", answerMark, line)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// ProbeError says how a probe ended.
type ProbeError struct {
	Question string
	Err      error
	Stderr   string // its tail
}

func (e *ProbeError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("trying %s in a process of its own: %v", e.Question, e.Err)
	}
	return fmt.Sprintf("trying %s in a process of its own: %v: %s", e.Question, e.Err, e.Stderr)
}

func (e *ProbeError) Unwrap() error { return e.Err }

// Probe starts this program again to answer a question, most often the path of a
// library to open, and decodes the answer into answer. A library that ends or hangs
// the process that opens it does so to that one. The error is *ProbeError.
func Probe(ctx context.Context, question string, limit time.Duration, answer any) error {
	fail := func(err error, stderr string) error {
		const tail = 500
		if stderr = strings.TrimSpace(stderr); len(stderr) > tail {
			stderr = "... " + stderr[len(stderr)-tail:]
		}
		return &ProbeError{Question: question, Err: err, Stderr: stderr}
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err, "")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not answer within %v", limit))
	defer cancel()
	c := exec.CommandContext(ctx, self)
	c.Env = append(os.Environ(), envProbe+"="+question)
	c.WaitDelay = probeWait
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fail(err, stderr.String())
	}
	_, line, _ := strings.Cut(stdout.String(), answerMark)
	line, _, _ = strings.Cut(line, "\n")
	if err := json.Unmarshal([]byte(line), answer); err != nil {
		return fail(fmt.Errorf("it did not answer: %w", err), stderr.String())
	}
	return nil
}
