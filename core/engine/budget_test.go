package engine_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/accelhq/accel/core/config"
	"github.com/accelhq/accel/core/engine"
	"github.com/accelhq/accel/core/processors"
	"github.com/accelhq/accel/core/tasks"
	"github.com/accelhq/accel/sdk/testfiles"
)

// cpuBackend is a folder with the CPU backend: of $ACCEL_BIN, or one built for the test.
func cpuBackend(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("ACCEL_BIN"); bin != "" {
		return filepath.Join(bin, "backends")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "accel-backend-cpu"), "../../plugins/cpu")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the backend: %v\n%s", err, out)
	}
	return dir
}

// asked are requests to a LLaVA: two pictures under one prompt, both at once, and none.
func asked(t *testing.T, dir string) []tasks.GenerateRequest {
	t.Helper()
	picture := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return `{"type": "image_url", "image_url": {"url": "data:image/png;base64,` + base64.StdEncoding.EncodeToString(data) + `"}}`
	}
	var out []tasks.GenerateRequest
	for i, parts := range [][]string{{picture("a.png")}, {picture("b.png")}, {picture("b.png"), picture("a.png")}, nil} {
		var m processors.Message
		content := strings.Join(append(parts, `{"type": "text", "text": "What is this?"}`), ", ")
		if err := json.Unmarshal([]byte(`{"role": "user", "content": [`+content+`]}`), &m); err != nil {
			t.Fatal(err)
		}
		out = append(out, tasks.GenerateRequest{ID: fmt.Sprint(i), Messages: []processors.Message{m}, MaxTokens: 12, Logprobs: true})
	}
	return out
}

// llava is an engine on the CPU with a tiny LLaVA.
func llava(t *testing.T, backends, dir string, budget int64, log hclog.Logger) *engine.Engine {
	t.Helper()
	c := config.Default()
	c.Cache.Dir = t.TempDir()
	c.Memory.Budget = config.Bytes(budget)
	c.KVCache.Memory = 256 << 10
	c.KVCache.Key, c.KVCache.Value = "f32", "f32"
	c.Models = map[string]config.Model{"llava": {Path: dir, Platform: "cpu", Fallback: "deny"}}
	e, err := engine.New(c, engine.Options{Beside: backends, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

// tokens are the ids that a request is answered with.
func tokens(ctx context.Context, e *engine.Engine, r tasks.GenerateRequest) (string, error) {
	var ids []int64
	_, err := e.Generate(ctx, "llava", r, func(ev tasks.GenerateEvent) error {
		for _, tok := range ev.Tokens {
			ids = append(ids, tok.ID)
		}
		return nil
	})
	return fmt.Sprint(ids), err
}

// TestOneComponentFits runs a LLaVA of which only one component fits in the budget at a time: the answers are those
// that it gives with room for all, many requests at once included.
func TestOneComponentFits(t *testing.T) {
	dir, backends := testfiles.Shared(t, "tiny", "llava"), cpuBackend(t)
	requests := asked(t, dir)
	free := llava(t, backends, dir, 0, hclog.NewNullLogger())
	var want []string
	for _, r := range requests {
		ids, err := tokens(t.Context(), free, r)
		if err != nil || strings.Count(ids, " ") == 0 {
			t.Fatalf("request %s: %s, %v", r.ID, ids, err)
		}
		want = append(want, ids)
	}
	if want[0] == want[1] {
		t.Errorf("two pictures are answered alike: %v", want)
	}
	m := free.Memory()
	if len(m) != 1 || m[0].Device != "cpu:0" || m[0].Offloads != 0 {
		t.Fatalf("without a budget: %v", m)
	}
	budget := m[0].Bytes - 1
	var said lockedBuffer
	e := llava(t, backends, dir, budget, hclog.New(&hclog.LoggerOptions{Output: &said, Level: hclog.Info}))
	for round := range 2 {
		for i, r := range requests {
			if ids, err := tokens(t.Context(), e, r); err != nil || ids != want[i] {
				t.Errorf("round %d, request %s: %s, %v, want %s", round, r.ID, ids, err, want[i])
			}
		}
	}
	var all sync.WaitGroup
	for c := range 6 {
		all.Go(func() {
			for i := range 3 {
				n := (c + i) % len(requests)
				if ids, err := tokens(t.Context(), e, requests[n]); err != nil || ids != want[n] {
					t.Errorf("client %d, request %d: %s, %v, want %s", c, n, ids, err, want[n])
				}
				if m := e.Memory(); m[0].Bytes > budget {
					t.Errorf("%d bytes are held, the budget is %d", m[0].Bytes, budget)
				}
			}
		})
	}
	all.Wait()
	rests := e.SchedulerStats()["llava"].Rests
	if m := e.Memory(); m[0].Offloads < 4 || rests < 2 {
		t.Errorf("%v, the decoder rested %d times", m, rests)
	}
	for _, c := range []string{"see", "decode"} {
		if s := said.String(); !strings.Contains(s, "off-loading a component: model=llava component="+c) {
			t.Errorf("the log does not tell that %s was let go:\n%s", c, s)
		}
	}
	t.Logf("budget %d: %v", budget, e.Memory())
}

// A component that the budget can never hold is an error that says so.
func TestNothingFits(t *testing.T) {
	dir, backends := testfiles.Shared(t, "tiny", "llava"), cpuBackend(t)
	e := llava(t, backends, dir, 1000, hclog.NewNullLogger())
	_, err := tokens(t.Context(), e, asked(t, dir)[0])
	var none *engine.NoPlatformError
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "whose budget is 1000; raise memory.budget") {
		t.Errorf("got %v", err)
	}
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
