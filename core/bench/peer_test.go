package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/accelhq/accel/sdk/testfiles"
)

const (
	envPython   = "ACCEL_PEER_PYTHON"   // a Python that has onnxruntime
	envLlamaCpp = "ACCEL_PEER_LLAMACPP" // testdata/llamacpp_peer.cpp, built
)

// peer is a process that times itself.
type peer struct {
	name string
	pid  int
	in   io.Writer
	out  *bufio.Scanner
}

// startPython starts a script of testdata with arguments.
func startPython(b testing.TB, script string, args ...string) *peer {
	b.Helper()
	python := os.Getenv(envPython)
	if python == "" {
		b.Skipf("%s does not name a Python with onnxruntime; run `make bench`", envPython)
	}
	return startPeer(b, python, append([]string{filepath.Join("testdata", script)}, args...)...)
}

// startPeer starts a program; its first line is its name.
func startPeer(b testing.TB, program string, args ...string) *peer {
	b.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("the peer: %v", err)
		}
	})
	p := &peer{pid: cmd.Process.Pid, in: in, out: bufio.NewScanner(out)}
	p.out.Buffer(nil, 1<<20)
	if !p.out.Scan() {
		b.Fatalf("the peer ended before it was ready: %v", p.out.Err())
	}
	p.name = p.out.Text()
	return p
}

// answer gives the peer a line and returns the one that it answers with.
func (p *peer) answer(b testing.TB, words ...any) string {
	b.Helper()
	fmt.Fprintln(p.in, words...)
	if !p.out.Scan() {
		b.Fatalf("the peer ended: %v", p.out.Err())
	}
	return p.out.Text()
}

// ask is answer, where all words of it are numbers.
func (p *peer) ask(b testing.TB, words ...any) []float64 {
	b.Helper()
	var out []float64
	for _, f := range strings.Fields(p.answer(b, words...)) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// llamaCpp is llama.cpp with a model, in a process of its own: caches of f16, all
// else as it comes, in its fastest variant for this processor.
type llamaCpp struct {
	*peer
	sequences int
}

// startLlamaCpp loads a GGUF file for so many sequences of at most context tokens each.
func startLlamaCpp(b testing.TB, gguf string, threads, context, sequences int) *llamaCpp {
	b.Helper()
	program := os.Getenv(envLlamaCpp)
	if program == "" {
		b.Skipf("%s does not name the program; run `make bench`", envLlamaCpp)
	}
	return &llamaCpp{startPeer(b, program, gguf, strconv.Itoa(threads), strconv.Itoa(context), strconv.Itoa(sequences)), sequences}
}

// clear forgets what all sequences hold.
func (l *llamaCpp) clear(b testing.TB) {
	b.Helper()
	l.ask(b, "clear")
}

// prefill adds tokens to a sequence. It returns the likeliest next one and the
// seconds that it took until its logits were there.
func (l *llamaCpp) prefill(b testing.TB, sequence int, ids []int64) (next int64, seconds float64) {
	b.Helper()
	got := l.ask(b, append([]any{"prefill", sequence}, words(ids)...)...)
	if len(got) != 2 {
		b.Fatalf("llama.cpp answered %v", got)
	}
	return int64(got[1]), got[0]
}

// step adds a token to each of the first sequences, all in one batch. It returns the
// likeliest next one of each and the seconds that it took until all logits were there.
func (l *llamaCpp) step(b testing.TB, ids ...int64) (next []int64, seconds float64) {
	b.Helper()
	got := l.ask(b, append([]any{"step"}, words(ids)...)...)
	if len(got) != 1+len(ids) {
		b.Fatalf("llama.cpp answered %v", got)
	}
	for _, id := range got[1:] {
		next = append(next, int64(id))
	}
	return next, got[0]
}

// logits are those of some tokens after a sequence's last.
func (l *llamaCpp) logits(b testing.TB, sequence int, ids ...int64) []float64 {
	b.Helper()
	got := l.ask(b, append([]any{"logits", sequence}, words(ids)...)...)
	if len(got) != len(ids) {
		b.Fatalf("llama.cpp gave %d logits of %d", len(got), len(ids))
	}
	return got
}

func words(ids []int64) []any {
	var out []any
	for _, id := range ids {
		out = append(out, id)
	}
	return out
}

// smolLM2 is the GGUF file of SmolLM2-135M-Instruct, in Q4_1.
func smolLM2(b testing.TB) string {
	return testfiles.Model(b, "SmolLM2-135M-Instruct-Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf")
}
