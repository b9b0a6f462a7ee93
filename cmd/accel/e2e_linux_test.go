package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openai/openai-go"
	"github.com/openai/openai-go/option"
)

// These tests run the programs as users do: accel and its backends, built into a
// folder of their own unless $ACCEL_BIN names one.

var bin = os.Getenv("ACCEL_BIN")

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "accel-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	build := func(out, pkg string) error {
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, msg)
		}
		return nil
	}
	if bin == "" {
		bin = dir
		for out, pkg := range map[string]string{"accel": ".", "backends/accel-backend-cpu": "../../plugins/cpu",
			"backends/accel-backend-openvino": "../../plugins/openvino", "backends/accel-backend-reference": "../../plugins/reference"} {
			if err := build(filepath.Join(dir, out), pkg); err != nil {
				return 0, err
			}
		}
	}
	poison = filepath.Join(dir, "accel-backend-poison")
	if err := build(poison, "./testdata/poison"); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

var poison string

func tinyBERT(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../testdata/tiny/bert")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// command is accel with a cache of the test's own, and without OpenVINO, which tests
// that are about it let in: it would be the first on most routes.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "accel"), args...)
	cmd.Env = append(os.Environ(), "ACCEL_CACHE="+t.TempDir(), "ACCEL_CONFIG=", "NO_COLOR=1", "ACCEL_OPENVINO=off")
	return cmd
}

// serving is a running `accel serve`.
type serving struct {
	*exec.Cmd
	url string
	log *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, config map[string]any) *serving {
	t.Helper()
	return serveWithin(t, config, 20*time.Second)
}

// serveWithin is serve with a bound of its own on how long the models take.
func serveWithin(t *testing.T, config map[string]any, ready time.Duration) *serving {
	t.Helper()
	if config["models"] == nil {
		config["models"] = map[string]any{"bert": map[string]any{"path": tinyBERT(t)}}
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &serving{Cmd: command(t, "serve", "--config", file, "--listen", "127.0.0.1:0", "--json", "--log-format", "json"), log: &lockedBuffer{}}
	s.Stderr = s.log
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.ProcessState == nil {
			// Asked, it waits for its backends, which write into the test's folders until they end.
			s.Process.Signal(syscall.SIGTERM)
			late := time.AfterFunc(20*time.Second, func() { s.Process.Kill() })
			s.Wait()
			late.Stop()
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log)
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the server said nothing: %v\n%s", err, s.log)
	}
	var hello struct{ Address string }
	if err := json.Unmarshal(line, &hello); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	s.url = "http://" + hello.Address
	eventually(t, ready, "the server is ready", func() bool {
		resp, err := http.Get(s.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// killBackend kills the CPU backend's process and waits until there is another.
func (s *serving) killBackend(t *testing.T) {
	t.Helper()
	pids := s.backends(t, "cpu")
	if len(pids) != 1 {
		t.Fatalf("there are %d processes of the backend", len(pids))
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the backend is back", func() bool {
		now := s.backends(t, "cpu")
		return len(now) == 1 && now[0] != pids[0]
	})
}

// backends are the processes of a backend that a server started.
func (s *serving) backends(t *testing.T, name string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it ended meanwhile
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		if fields[1] == strconv.Itoa(s.Process.Pid) && fields[0] != "Z" && strings.Contains(string(cmdline), "accel-backend-"+name) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *serving) metric(t *testing.T, name string) float64 {
	t.Helper()
	return s.metrics(t)[name]
}

func (s *serving) post(input any) (status int, header http.Header, body string, err error) {
	data, err := json.Marshal(map[string]any{"model": "bert", "input": input})
	if err != nil {
		return 0, nil, "", err
	}
	resp, err := http.Post(s.url+"/v1/embeddings", "application/json", bytes.NewReader(data))
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(b), err
}

var sentences = []string{"A photo of a cat.", "The quick brown fox jumps over the lazy dog, twice.", "naïve café"}

// TestServedEmbeddingsEqualThoseOfRun asks the server with OpenAI's own client.
func TestServedEmbeddingsEqualThoseOfRun(t *testing.T) {
	s := serve(t, map[string]any{})
	client := openai.NewClient(option.WithBaseURL(s.url+"/v1"), option.WithAPIKey("none"))
	got, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{Model: "bert", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: sentences}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "run.json")
	conf, err := json.Marshal(map[string]any{"task": "embed", "model": tinyBERT(t), "inputs": map[string]any{"texts": sentences}, "output": map[string]any{"format": "jsonl"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, "run", file, "--no-progress").Output()
	if err != nil {
		t.Fatalf("accel run: %v\n%s", err, out)
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for i := range sentences {
		var line struct{ Embedding []float64 }
		if err := dec.Decode(&line); err != nil {
			t.Fatalf("line %d of %s: %v", i, out, err)
		}
		if len(line.Embedding) != 48 || len(got.Data[i].Embedding) != 48 {
			t.Fatalf("%d and %d components, want 48", len(line.Embedding), len(got.Data[i].Embedding))
		}
		for j, v := range line.Embedding {
			if math.Abs(v-got.Data[i].Embedding[j]) > 1e-6 {
				t.Errorf("sentence %d, component %d: run %v, served %v", i, j, v, got.Data[i].Embedding[j])
			}
		}
	}
}

// TestKilledBackendLosesNothing kills the backend under load.
func TestKilledBackendLosesNothing(t *testing.T) {
	s := serve(t, map[string]any{"backends": map[string]any{"reference": map[string]any{"disabled": true}}})
	before := s.backends(t, "cpu")
	if len(before) != 1 {
		t.Fatalf("backend processes: %v, want one", before)
	}
	_, _, want, err := s.post(sentences)
	if err != nil {
		t.Fatal(err)
	}
	const clients, each = 50, 20
	var mu sync.Mutex
	var replays, ended int
	told := map[string]bool{}
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				status, header, body, err := s.post(sentences)
				mu.Lock()
				ended++
				if h := header.Get("X-Accel-Replays"); h != "" {
					replays++
					told[h] = true
				}
				mu.Unlock()
				if err != nil || status != http.StatusOK || body != want {
					t.Errorf("lost: status %d, %v, %.200s", status, err, body)
				}
			}
		})
	}
	// In the thick of it: kill, and once more when it is back.
	pid := before[0]
	for range 2 {
		mu.Lock()
		n := ended
		mu.Unlock()
		eventually(t, 20*time.Second, "requests flow", func() bool { mu.Lock(); defer mu.Unlock(); return ended >= min(n+100, clients*each) })
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		eventually(t, 5*time.Second, "the backend is back", func() bool {
			now := s.backends(t, "cpu")
			if len(now) == 1 && now[0] != pid {
				pid = now[0]
				return true
			}
			return false
		})
		t.Logf("a new process after %v", time.Since(killed).Round(time.Millisecond))
	}
	wg.Wait()
	if replays == 0 {
		t.Error("no answer has X-Accel-Replays")
	}
	for h := range told {
		if !strings.Contains(h, "killed") {
			t.Errorf("X-Accel-Replays: %q does not say that it was killed", h)
		}
	}
	if n := s.metric(t, "accel_replays_total"); n < float64(replays) {
		t.Errorf("accel_replays_total is %v, %d answers tell of replays", n, replays)
	}
	if n := s.metric(t, "accel_backend_restarts"); n != 2 {
		t.Errorf("accel_backend_restarts is %v, want 2", n)
	}
	t.Logf("%d requests, %d of them replayed", ended, replays)
}

// TestPoisonIsRefusedAndTheOthersAnswered has one request that kills its backend
// each time.
func TestPoisonIsRefusedAndTheOthersAnswered(t *testing.T) {
	const bad = 123
	s := serve(t, map[string]any{"backends": map[string]any{
		"cpu": map[string]any{"disabled": true}, "reference": map[string]any{"disabled": true},
		"poison": map[string]any{"path": poison, "env": map[string]string{"POISON": strconv.Itoa(bad)}},
	}})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			input := []int{2, 10 + i, 3}
			if i == 7 {
				input[1] = bad
			}
			status, _, body, err := s.post(input)
			switch {
			case err != nil:
				t.Error(err)
			case i == 7 && (status < 500 || !strings.Contains(body, "BACKEND_CRASHED") || !strings.Contains(body, "more than I can take")):
				t.Errorf("the poisonous request: status %d: %s", status, body)
			case i != 7 && status != http.StatusOK:
				t.Errorf("request %d: status %d: %s", i, status, body)
			}
		})
	}
	wg.Wait()
	if status, _, body, err := s.post("after all that"); err != nil || status != http.StatusOK {
		t.Errorf("afterwards: status %d, %v: %s", status, err, body)
	}
}

// TestFallbackIsTold has the first platform gone for good.
func TestFallbackIsTold(t *testing.T) {
	s := serve(t, map[string]any{
		"fallback": map[string]any{"restart_wait": "0s"},
		"hosts":    map[string]any{"backoff": map[string]any{"first": "1m", "max": "1m"}},
	})
	_, _, want, err := s.post(sentences[0])
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "a request falls back", func() bool {
		for _, pid := range s.backends(t, "cpu") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		status, header, body, err := s.post(sentences[0])
		if err != nil || status != http.StatusOK {
			t.Fatalf("status %d, %v: %s", status, err, body)
		}
		if header.Get("X-Accel-Platform") != "simulation" {
			return false
		}
		if header.Get("X-Accel-Device-Kind") != "simulated" || !strings.Contains(header.Get("X-Accel-Fallback"), "cpu") {
			t.Errorf("headers %v do not tell of the fallback", header)
		}
		if len(body) < len(want)/2 {
			t.Errorf("answer %.100s", body)
		}
		return true
	})
	if n := s.metric(t, "accel_fallbacks_total"); n < 1 {
		t.Errorf("accel_fallbacks_total is %v", n)
	}
	if !strings.Contains(s.log.String(), "another device than the first answered") {
		t.Error("the log does not tell of the fallback")
	}
}

// TestNoOrphans ends servers in the polite and in the rude way.
func TestNoOrphans(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]any{"server": map[string]any{"timeouts": map[string]any{"drain_delay": "0s"}}})
			pids := append(s.backends(t, "cpu"), s.backends(t, "reference")...)
			if len(pids) != 2 {
				t.Fatalf("backend processes: %v, want two", pids)
			}
			if err := s.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- s.Wait() }()
			select {
			case err := <-done:
				if signal == syscall.SIGTERM && err != nil {
					t.Errorf("after SIGTERM: %v", err)
				}
			case <-ctx.Done():
				t.Fatal("the server does not end")
			}
			for _, pid := range pids {
				eventually(t, 10*time.Second, "the backend ends", func() bool { return syscall.Kill(pid, 0) != nil })
			}
		})
	}
}
